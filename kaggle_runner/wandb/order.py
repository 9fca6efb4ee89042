"""What is asked of an agent: which sweep, which study, how long; and the sweep, found."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from kaggle_runner.errors import SweepOver
from kaggle_runner.events import Note, Notify
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import Environment
from kaggle_runner.machine.keys import FoundKey
from kaggle_runner.study.journal import JOURNAL, Study, read_study
from kaggle_runner.study.lock import is_in_use
from kaggle_runner.wandb.ending import AgentPatience
from kaggle_runner.wandb.ends.missed import tell_missed
from kaggle_runner.wandb.ends.reclaim import reclaim, reclaim_crashed, seen_through
from kaggle_runner.wandb.sweep import OVER_STATES, RemoteSweep, find_sweep, is_over
from kaggle_runner.wording import how_many


@dataclass(frozen=True, kw_only=True)
class AgentOrder:
    """What a user asked of an agent."""

    address: str
    """Address of the sweep: `entity/project/id`, `project/id`, `id`, or its URL."""
    count: int | None = None
    """Trials to bring to an end; none: as many as the sweep gives."""
    deadline: Deadline
    study: Path | None = None
    """Folder of the study; none names it after the sweep."""
    pruning: bool = True
    """End trials early that are clearly worse than the others."""
    patience: AgentPatience = field(default_factory=AgentPatience)


def find_for_agent(order: AgentOrder, environment: Environment, key: FoundKey, notify: Notify) -> RemoteSweep:
    """Find the sweep of an order. Of one that is over, what killed agents left of it goes back first.

    Raises:
        SweepOver, WandbError, SweepError: as `find_sweep`.
        StudyError: the study cannot be used.
    """
    sweep = find_sweep(order.address, key, may_be_over=True, tell=lambda text: notify(Note(text=text)))
    if sweep.state not in OVER_STATES:
        return sweep
    directory = order.study or study_directory(sweep, environment)
    left = [record.trial.id for record in read_study(directory).records if record.result is None and not record.is_held
            ] if (directory / JOURNAL).is_file() else []
    with contextlib.ExitStack() as stack:
        give_up = stack.enter_context(seen_through(order.patience))
        if left:
            study = stack.enter_context(Study.open_for_writing(
                directory, name=sweep.spec.name, sweep=sweep.spec.raw, metric=sweep.spec.metric, goal=sweep.spec.goal,
                seed=None, shared=True))
            reclaim(sweep, study, notify, give_up, alone=False)
        tell_missed(sweep, directory, notify, give_up, alone=not is_in_use(directory))
        left += reclaim_crashed(sweep, directory, notify, give_up, left)
    back = f", and then this again: {how_many(len(left), 'trial')} of it had no end" if left else ""
    raise SweepOver(f"{is_over(sweep)}{back}")


def study_directory(sweep: RemoteSweep, environment: Environment) -> Path:
    """Return where the study of a sweep is when nobody says."""
    return environment.writable_directory / "studies" / sweep.path.rsplit("/", 1)[1]
