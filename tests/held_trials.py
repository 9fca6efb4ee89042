"""Trials that stand still where a test ends them: a small trial may be over before anybody has seen that it began."""

import os
import signal
from pathlib import Path

from kaggle_runner.config import Config
from kaggle_runner.run.supervisor import Supervisor

_HELD = "KAGGLE_TESTS_HELD"
_MEETING = "KAGGLE_TESTS_MEETING"
_HOOK = f"""
import os, sys, time

if "kaggle_runner.run.worker" in sys.orig_argv:
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    steps = []

    def hold(*_):
        seconds, free, begun, journal = os.environ["{_HELD}"].split(maxsplit=3)
        if os.path.exists(journal) and open(journal).read().count('"event": "start"') >= int(begun):
            steps.append(1)
            if len(steps) > int(free):
                time.sleep(float(seconds))

    def meet(*_):
        open(os.path.join(os.environ["{_MEETING}"], str(os.getpid())), "w").close()
        while len(os.listdir(os.environ["{_MEETING}"])) < 2:
            time.sleep(0.01)

    register_optimizer_step_pre_hook(hold if "{_HELD}" in os.environ else meet)
"""


def held(folder: Path, journal: Path, *, begun: int, free: int, seconds: float = 600) -> dict[str, str]:
    """Return variables by which workers take so long for a step, when so many trials of a journal have begun.

    So many steps of their optimizers are `free`, so that somebody can see that the trial runs.
    """
    return {_HELD: f"{seconds} {free} {begun} {journal}", **_path(folder)}


def meeting(folder: Path) -> dict[str, str]:
    """Return variables by which two workers wait for each other before they train a step."""
    (folder / "workers").mkdir(parents=True)
    return {_MEETING: str(folder / "workers"), **_path(folder)}


def _path(folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HOOK)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parent.parent)])}


class CutAtARung:
    """Asks the first trial that comes to a rung to be preempted, and no other one, as `end_asked` and `judge`.

    The worker waits at the rung for a verdict, and stands still until it was sent the wish too.
    """

    supervisor: Supervisor

    def __init__(self, step: int) -> None:
        self._step, self._is_reached, self._is_asked = step, False, False

    def rungs(self, config: Config) -> tuple[int, ...]:
        return (self._step,)

    def judge(self, *_: object) -> None:
        if not self._is_reached:
            self._signal(signal.SIGSTOP)
            self._is_reached = True

    def end_asked(self) -> str | None:
        if self._is_reached and not self._is_asked:
            self._is_asked = True
            return "preempt"
        if self._is_asked:
            self._signal(signal.SIGCONT)
        return None

    def _signal(self, number: signal.Signals) -> None:
        if self.supervisor.worker_pid is not None:
            os.kill(self.supervisor.worker_pid, number)
