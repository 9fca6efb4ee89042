"""One machine of a shared sweep in a process of its own, to be killed and cut off by tests.

usage: shared_session.py SWEEP STUDY COUNT URL LEASE_S SECONDS [FILE]

A trial takes SECONDS, and does not end before FILE is there; its loss is a known function of the parameters. Each start
is a line on stdout.
"""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kaggle_runner.events import Note
from kaggle_runner.run.search import SearchEnd, run_sweep
from kaggle_runner.run.shared.address import read_address
from kaggle_runner.run.shared.database import PATIENCE_S, Database
from kaggle_runner.run.shared.record import SharedRecord
from kaggle_runner.run.shared.search import SharedSearch
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import read_sweep
from tests.optuna_session import complete

Train = Callable[[Trial, SharedSearch], TrialResult]


def run(sweep: Path, directory: Path, count: int, url: str, *, lease_s: float = 60.0, seed: int | None = None,
        train: Train = lambda trial, search: complete(trial), say: Callable[[str], None] = lambda text: None,
        known: Mapping[str, Any] | None = None, patience_s: float = PATIENCE_S,
        ends: Callable[[], str | None] = lambda: None) -> SearchEnd:
    """Run a session and record its trials as the supervisor does."""

    def notify(event: object) -> None:
        if isinstance(event, Note):
            say(event.text)

    spec = read_sweep(sweep)
    record = SharedRecord.join(Database(read_address(url), notify=notify, patience_s=patience_s), spec, seed, lease_s)
    if known is not None:
        record.add_known(known)
    with (Study.open_for_writing(directory, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                 seed=record.info.seed) as study,
          SharedSearch(record, study, spec, notify=notify, ends=ends) as search):

        def run_trial(trial: Trial) -> TrialResult:
            say(f"start {trial.id}")
            study.record_start(trial, dict(trial.params))
            result = train(trial, search)
            study.record_end(result)
            search.failures.take(result)
            return result

        end = run_sweep(search, run_trial=run_trial, count=count)
        search.close()
        return end


def main(sweep: str, directory: str, count: str, url: str, lease_s: str, seconds: str, waits: str = "/") -> None:
    """Run a session as the command line asks."""

    def train(trial: Trial, search: SharedSearch) -> TrialResult:
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until or not Path(waits).exists():
            if search.end_asked():
                return TrialResult(id=trial.id, status=Status.PREEMPTED, metric=None)
            time.sleep(0.05)
        return complete(trial)

    end = run(Path(sweep), Path(directory), int(count), url, lease_s=float(lease_s), train=train,
              say=lambda text: print(text, flush=True))
    print("end", end.reason, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
