"""What a session on a kernel came to: `result.json`, the only verdict there is, since a launcher always exits 0."""

import importlib.metadata
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kaggle_runner
from kaggle_runner.errors import INTERRUPTED, KaggleRunnerError, NoGpu, NoInternet
from kaggle_runner.kernel.command import CommandEnd
from kaggle_runner.kernel.packages import NEEDS, Installed, frozen_versions
from kaggle_runner.machine.environment import Environment
from kaggle_runner.metrics import LOSS
from kaggle_runner.study.journal import JOURNAL, Snapshot, read_study
from kaggle_runner.study.trial import OPEN, Status

VERDICTS = {0: "done", INTERRUPTED: "unfinished", NoGpu.exit_status: "no gpu", NoInternet.exit_status: "no internet"}
"""The verdict that an exit status means; all others mean `failed`."""


@dataclass
class Session:
    """This session's facts, gathered as it goes, so that result.json can be written at any moment."""

    arguments: Sequence[str]
    working: Path
    environment: Environment
    started: float
    seconds_by_phase: dict[str, float] = field(default_factory=dict)
    packages: Installed = field(default_factory=Installed)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds_by_phase[name] = round(time.monotonic() - began, 3)


def describe_session(session: Session, outcome: CommandEnd, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what result.json says; `facts` is what the command itself wrote about this session."""
    studies: dict[str, Any] = {}
    snapshots: list[Snapshot] = []
    asked = session.working / study_of(session.arguments) / JOURNAL
    for journal in find_journals(session.working, depth=3) if asked.parent == session.working else [asked]:
        if not journal.is_file():
            continue
        name = os.path.relpath(journal.parent, session.working)
        try:
            snapshots.append(read_study(journal.parent))
            studies[name] = snapshots[-1].as_dict()
        except KaggleRunnerError as error:
            studies[name] = {"error": str(error)}
    statuses = Counter(record.status_word
                       for snapshot in snapshots for record in snapshot.records)
    unfinished = sum(statuses[word] for word in (*OPEN, Status.PREEMPTED))
    phases = Counter(session.seconds_by_phase)
    for snapshot in snapshots:
        for record in snapshot.records:
            if record.result and record.started >= session.started:
                phases.update({f"trials/{name}": seconds for name, seconds in record.result.seconds_by_phase.items()})
    seconds = time.time() - session.started
    environment = session.environment
    hidden = environment.hidden_gpus
    gpus = [gpu.text for gpu in (*environment.gpus, *environment.refused_gpus)] \
        + [f"{gpu.text}, hidden by CUDA_VISIBLE_DEVICES" for gpu in hidden]  # Kaggle charges for all of them
    return {
        "verdict": VERDICTS.get(outcome.exit_status, "failed"), "exit_status": outcome.exit_status,
        "reason": facts.get("reason") or outcome.reason,
        "continue": bool(unfinished or outcome.exit_status == INTERRUPTED),
        "trials": dict(statuses), "unfinished_trials": unfinished, "best": _best(snapshots),
        "command": list(session.arguments), "kaggle_runner": kaggle_runner.__version__, "versions": _versions(),
        "gpus": gpus, "environment": environment.as_dict(),
        "installed": list(session.packages.installed), "lost": [*session.packages.lost, *facts.get("lost", ())],
        "hidden": _hidden(snapshots),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(session.started)), "seconds": round(seconds, 3),
        "seconds_by_phase": {name: round(value, 3) for name, value in phases.items()},
        "gpu_quota_hours": round(seconds / 3600, 6) if gpus else 0.0,
        "studies": studies, "facts": dict(facts),
    }


def study_of(arguments: Sequence[str]) -> str:
    """Return the study of a command, empty if it names none."""
    return arguments[1] if arguments[:1] and arguments[0] in ("export", "try") and len(arguments) > 1 else \
        option(arguments, "--study")


def option(arguments: Sequence[str], name: str) -> str:
    """Return the value of a command's option, empty if it is not given."""
    values = list(arguments)
    return values[values.index(name) + 1] if name in values[:-1] else ""


def find_journals(directory: Path, depth: int) -> list[Path]:
    """Find journals at most `depth` folders down; bounded, because an input may hold millions of files."""
    found: list[Path] = []
    level = [directory]
    for _ in range(depth + 1):
        deeper = []
        for folder in level[:1000]:
            if (folder / JOURNAL).is_file():
                found.append(folder / JOURNAL)
                continue
            try:
                deeper += sorted(Path(entry.path) for entry in os.scandir(folder)
                                 if entry.is_dir(follow_symlinks=False))
            except OSError:
                continue
        level = deeper
    return found


def _best(snapshots: Sequence[Snapshot]) -> dict[str, Any] | None:
    """Return the best trial of all studies that have the first one's metric."""
    best: tuple[tuple[float, float], dict[str, Any]] | None = None
    for snapshot in snapshots:
        row = snapshot.as_dict()["best"]
        if row is None or snapshot.info.metric != snapshots[0].info.metric:
            continue
        rank = snapshot.metric.rank(row["metric"], row["metrics"].get(LOSS))
        if best is None or rank < best[0]:
            best = (rank, {**row, "metric_name": snapshot.info.metric})
    return best[1] if best else None


def _hidden(snapshots: Sequence[Snapshot]) -> list[str]:
    """Gather which packages of the image the workers hid from their libraries, and why."""
    notes = [record.result.notes for snapshot in snapshots for record in snapshot.records if record.result]
    return sorted({text for note in notes for text in str(note.get("hidden_package") or "").split("; ") if text})


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), **frozen_versions()}
    for need in NEEDS:
        try:
            versions.setdefault(need.name.lower(), importlib.metadata.version(need.name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
