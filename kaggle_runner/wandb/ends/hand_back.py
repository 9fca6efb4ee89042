"""Give a run that nobody holds back to its sweep: W&B requeues only what was marked, and a dead process marks nothing.

Opened as its agent would have, marked, and ended: then W&B hands it out before anything new, to any agent.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kaggle_runner.machine.faults import lacks_handles
from kaggle_runner.machine.writable import problem_with
from kaggle_runner.wandb.connection import GiveUp, end_core, in_environment, leave_in_time
from kaggle_runner.wandb.run import PREEMPTED, RunLog, RunLost
from kaggle_runner.wandb.sweep import RemoteSweep


def hand_back(sweep: RemoteSweep, run: str, give_up: GiveUp) -> None:
    """Give one run back; no other run of this process may be open.

    Raises:
        RunLost: W&B cannot be reached or refuses, or this machine has no room for it.
    """
    with opened(sweep, run, give_up) as log:
        log.mark_preempting()
        log.finish(PREEMPTED, (), give_up)


@contextlib.contextmanager
def opened(sweep: RemoteSweep, run: str, give_up: GiveUp) -> Iterator[RunLog]:
    """Open a run of a sweep that nobody holds, as its agent would have; the block finishes it, or it stays open.

    Raises:
        RunLost: W&B cannot be reached or refuses, or this machine has no room for it.
    """
    try:
        with _environment_of(sweep, run):
            leave_in_time()  # the client reads its environment once
            try:
                log = RunLog.open(give_up)
                try:
                    yield log
                except BaseException:
                    end_core()  # which would end the run as a success when we leave
                    raise
            finally:
                leave_in_time()
    except OSError as error:
        raise RunLost(str(error)) from error


@contextlib.contextmanager
def _environment_of(sweep: RemoteSweep, run: str) -> Iterator[None]:
    entity, project, name = sweep.path.split("/")
    with tempfile.TemporaryDirectory(prefix="kaggle_runner-") as spare:
        here = {"WANDB_ENTITY": entity, "WANDB_PROJECT": project, "WANDB_SWEEP_ID": name, "WANDB_RUN_ID": run}
        if "WANDB_DIR" not in os.environ or problem_with(Path(os.environ["WANDB_DIR"])):
            here["WANDB_DIR"] = spare
        if problem := lacks_handles():
            raise RunLost(problem)
        with in_environment(here):
            yield
