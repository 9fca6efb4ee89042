"""The W&B run of one trial: opened, fed and closed by the supervisor's process, never by the worker.

One row of W&B for each row of the trial's own history, in order: so the number of rows that W&B has says where to go
on, whoever wrote them. The exit codes are ours and always explicit: W&B turns 0 into finished, others into failed.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from kaggle_runner.study.answers import COLUMNS
from kaggle_runner.study.scoring import READ
from kaggle_runner.study.trial import Status, TrialResult
from kaggle_runner.wandb.connection import GiveUp, attempt, end_core, end_halted_core, explained
from kaggle_runner.wandb.ends.received import refused_opening

ROW_NAMES = ("train/loss", "train/learning_rate")
"""What a row of W&B has beside everything that was evaluated."""
NOTES = ("micro_batch", "accumulation", "out_of_memory_at", "repeat_of", "predicted_peak_bytes",
         "gradient_checkpointing")
"""The notes of a trial that go into the run's summary."""
HASHES = {name: f"sha256/{name}" for name in READ}
"""What a trial read -> the name of its hash in the run's summary: another machine's rows may be others."""
CONFIRMED_TRIAL = "confirms"
"""In the configuration of a run that trains a sweep's trial once more, with another seed: the trial's name."""
STOPPED, PREEMPTED = 143, 75
"""Exit codes of a run that W&B's stop button ended, as by SIGTERM, and of one that goes back to the sweep's queue, as
EX_TEMPFAIL."""
INFEASIBLE = 5
"""Exit code of a trial that was not run, because it is predicted not to fit into the memory."""
FAILURE_CODES: Mapping[str, int] = {"out_of_memory": 3, "not_finite": 4}
"""Exit codes by the kind of failure; any other kind is 1, and a worker that a signal killed is 128 and the signal."""


class RunLost(Exception):
    """W&B did not take a run's beginning or end in time; its own process has been ended."""


def exit_code(result: TrialResult, *, stopped: bool) -> int:
    """Return what the run of a trial is finished with; `stopped` by W&B's stop button or its early termination."""
    if result.status is Status.COMPLETE:
        return 0
    if stopped:
        return STOPPED
    if result.status is Status.PRUNED:
        return 0
    if result.status is Status.PREEMPTED:
        return PREEMPTED
    if result.status is Status.INFEASIBLE:
        return INFEASIBLE
    kind, exit_status = result.notes.get("kind", ""), result.notes.get("exit_status", 0)
    return 128 - exit_status if kind == "crash" and exit_status < 0 else FAILURE_CODES.get(kind, 1)


def outcome_of(result: TrialResult, *, stopped: bool) -> str:
    """Name how a trial ended, for the run's summary: its status, or the kind of its failure."""
    if stopped and result.status is not Status.COMPLETE:
        return "stopped"
    return result.notes.get("kind", "error") if result.status is Status.FAILED else result.status.value


class RunLog:
    """An open W&B run; one thread at a time."""

    def __init__(self, run: Any) -> None:
        """Take over what `wandb.init` returned."""
        self._summary: dict[str, Any] = {}
        self._answers: Sequence[Mapping[str, Any]] = ()
        self._broken = self._marked = False
        self.reopened = False
        """W&B's own process died; what its agent does from now on is unknown."""
        self._take(run)

    @classmethod
    def open(cls, give_up: GiveUp) -> "RunLog":
        """Open the run that W&B's agent was given, or go on with it.

        Raises:
            RunLost: W&B cannot be reached or refuses.
        """
        opened: list[Any] = []
        try:
            _bounded(lambda: opened.append(_open()), give_up)
        except RunLost as error:
            raise RunLost(refused_opening(os.environ.get("WANDB_RUN_ID", ""), str(error))) from error.__cause__
        return cls(opened[0])

    @property
    def id(self) -> str:
        """W&B's id of the run, which is the trial's id."""
        return str(self._run.id)

    @property
    def path(self) -> str:
        """The run's path as `entity/project/id`."""
        return str(self._run.path)

    @property
    def files(self) -> Path:
        """The client's folder of the run on this machine, which can be uploaded later."""
        return Path(self._run.dir).parent

    @property
    def was_resumed(self) -> bool:
        """Whether W&B knew the run already."""
        return bool(self._run.resumed)

    @property
    def params(self) -> dict[str, Any]:
        """What the sweep chose, and whatever else the run's config holds."""
        return dict(self._run.config)

    def add_config(self, values: Mapping[str, Any]) -> None:
        """Add settings that the sweep left to their defaults; what the sweep chose is locked and stays."""
        self._try(lambda: self._run.config.update(dict(values), allow_val_change=True))

    def add_tag(self, tag: str) -> None:
        """Add a tag to the run."""
        self._try(lambda: setattr(self._run, "tags", tuple(dict.fromkeys((*(self._run.tags or ()), tag)))))

    def log(self, row: Mapping[str, Any]) -> None:
        """Log one row of the trial's history."""
        self._position += 1
        if self._position <= self._rows:  # the trial went back to a checkpoint: W&B has this row
            return
        values = {name: value for name, value in row.items() if name in ROW_NAMES or name.startswith("eval/")}
        self._try(lambda: self._run.log({"train/global_step": row["step"], **values}))
        self._rows += 1

    def catch_up(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log those of a trial's rows, all of them from its start, that W&B does not have; it goes on after them."""
        self._position = 0
        for row in rows:
            self.log(row)

    def upload(self, folder: Path, *, base: Path) -> None:
        """Send the files of a folder now, in the background, under their names below `base`; over what is there."""
        self._try(lambda: self._run.save(str(folder / "*"), base_path=str(base), policy="now"))

    def mark_preempting(self) -> None:
        """Tell W&B that the run is about to be cut off: a run that is marked comes back, even if this process dies."""
        if not self._marked:
            self._marked = True
            self._try(self._run.mark_preempting)

    def describe(self, result: TrialResult, metric: str, *, stopped: bool) -> None:
        """Write how a trial ended into the summary: only what was measured, `metric` and all else where it was best."""
        facts = {"outcome": outcome_of(result, stopped=stopped), "reason": result.reason, "seconds": result.seconds,
                 "tokens": result.tokens, "peak_device_bytes": result.peak_device_bytes,
                 **{name: result.notes.get(name) for name in NOTES},
                 **{key: result.hashes.get(name) for name, key in HASHES.items()}}
        if result.status in (Status.COMPLETE, Status.PRUNED):
            # of the best evaluation, whose adapter is kept, and not of the last
            facts |= {**result.metrics, metric: result.metric}
        self._summary = {name: value for name, value in facts.items() if value is not None}
        self._try(lambda: self._run.summary.update(self._summary))

    def show_answers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put what the model wrote to held-out rows into the run, as the table `answers`; not as a row of its history.

        The rows of the history are counted, to know where a run that comes back goes on.
        """
        self._answers = rows
        if rows:
            self._try(lambda: self._run.summary.update({"answers": _table(rows)}))

    def finish(self, code: int, rows: Sequence[Mapping[str, Any]], give_up: GiveUp) -> None:
        """Upload what is left and close the run with an exit code.

        `rows` is the trial's history, which is logged anew where W&B's own process died.

        Raises:
            RunLost: W&B did not take it.
        """
        self.end_halted()

        def close() -> None:
            if self._broken:
                self._reopen(rows)
            self._run.finish(exit_code=code)

        _bounded(close, give_up)

    def end_halted(self) -> None:
        """Take W&B's own process for dead if it is halted; then `finish` opens the run anew."""
        self._broken = end_halted_core() or self._broken

    def _try(self, action: Callable[[], object]) -> None:
        """Do something with the run, unless W&B's own process is gone; then `finish` opens the run anew."""
        if not self._broken:
            try:
                action()
            except (wandb.Error, OSError):
                self._broken = True

    def _reopen(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with contextlib.suppress(OSError, SystemExit):  # wandb exits with its process's status
            wandb.teardown()
        self._broken, self.reopened = False, True
        self._take(_open())
        self.catch_up(rows)
        self._run.summary.update(self._summary)
        self.show_answers(self._answers)
        if self._marked:
            self._run.mark_preempting()

    def _take(self, run: Any) -> None:
        run.define_metric("train/global_step")
        for names in ("train/*", "eval/*"):
            run.define_metric(names, step_metric="train/global_step")
        self._run = run
        self._position = 0
        self._rows = run.starting_step  # run.step is 0 until the first row, also in a resumed run


def _table(rows: Sequence[Mapping[str, Any]]) -> wandb.Table:
    return wandb.Table(columns=list(COLUMNS), data=[[row.get(name) or "" for name in COLUMNS] for row in rows])


def _open() -> Any:
    settings = wandb.Settings(console="off", init_timeout=86_400)  # `give_up` knows better
    return wandb.init(resume="allow", settings=settings)


def _bounded(action: Callable[[], object], give_up: GiveUp) -> None:
    """Do what may wait for W&B's server; its process is ended when that fails.

    Raises:
        RunLost: it failed, or was given up.
    """
    failure = attempt(action, give_up)
    if failure is not None:
        end_core()
        raise RunLost(explained(" ".join(str(failure).split()) or type(failure).__name__)) from failure


