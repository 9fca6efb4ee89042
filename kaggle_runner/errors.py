"""Every error this package raises on purpose; anything else that escapes is a bug of ours.

    KaggleRunnerError
    ├── ConfigError          a hyperparameter, or a pair of them, that cannot work
    │   └── ForeignCheckpoint  a checkpoint that another config wrote
    │       └── ForeignRows  a checkpoint of a training over other rows
    ├── SweepError           a sweep file with problems; holds all of them
    ├── DataError            a dataset that is missing, unreadable, unrecognised or too small
    ├── ModelError           a base model that is missing or not a model
    ├── StudyError           a study directory that cannot be read, written or continued
    │   └── DamagedJournal   Optuna's copy of a study, which is written anew from the record
    ├── HostError            this machine cannot do what was asked
    │   ├── MissingPackages  packages that are not installed, with the extra that has them
    │   ├── MachineFault     the disk, the handles or a folder of this machine failed in the middle of a trial
    │   │   └── NoGpu        a session without a GPU that torch can use, where a CPU was not asked for
    │   └── NoInternet       a session that needs the internet and has none
    ├── BudgetError          a trial that needs more memory than there is
    ├── SecretError          a key that is missing or malformed; never holds its value
    ├── WandbError           W&B refused, lost or does not know what was asked for, or cannot be reached
    │   └── SweepOver        a sweep that is finished or cancelled and gives no trials
    ├── KernelError          Kaggle refused, lost or failed a kernel; its `refusal` is the exit status
    └── WorkerError          the worker process died, hung or spoke nonsense
        └── ProtocolError    a line between two of our processes that cannot be read

Messages say what happened with the values, why it matters and what to do: lower case, no full stop.
The command line prints them as one block, without a traceback, and exits with `exit_status`: 1, but for kernels
and for sessions that lack what they need.
"""

from collections.abc import Sequence
from enum import IntEnum

INTERRUPTED = 130
"""Exit status of a session that was ended early: the same command continues it."""


class KaggleRunnerError(Exception):
    """Base of everything raised on purpose."""

    exit_status = 1


class ConfigError(KaggleRunnerError):
    """A hyperparameter, or a combination of them, that cannot work."""


class ForeignCheckpoint(ConfigError):
    """A checkpoint that was written by another config than the one that shall go on from it."""

    failure = "foreign_checkpoint"


class ForeignRows(ForeignCheckpoint):
    """A checkpoint of a training over all rows, when they were others."""

    failure = "foreign_rows"


class SweepError(KaggleRunnerError):
    """A sweep file with problems, all of them."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{source}: {count} problem{'s' if count != 1 else ''}\n{lines}")


class DataError(KaggleRunnerError):
    """A dataset that is missing, unreadable, unrecognised or too small."""


class ModelError(KaggleRunnerError):
    """A base model that is missing or is not a model."""


class StudyError(KaggleRunnerError):
    """A study directory that cannot be read, written or continued."""


class DamagedJournal(StudyError):
    """Optuna's copy of a study cannot be read or contradicts the record."""


class HostError(KaggleRunnerError):
    """This machine cannot do what was asked."""


class MissingPackages(HostError):
    """Packages that are not installed, with the extra that has them."""

    def __init__(self, packages: Sequence[str], extra: str) -> None:
        self.packages = tuple(packages)
        super().__init__(
            "bitsandbytes not installed; load_in_4bit, models stored in 4 bits and optimizers of 8 bits need it: run: "
            "pip install bitsandbytes; a kernel gets it with the internet on, or from a dataset with its wheel"
            if self.packages == ("bitsandbytes",) else
            f"{', '.join(packages)} not installed; run: pip install 'kaggle_runner[{extra}]'")


class MachineFault(HostError):
    """The machine failed in the middle of a trial, which is not the trial's fault: it goes on where that is mended."""


class NoGpu(MachineFault):
    """A session without a GPU that torch can use, where a CPU was not asked for."""

    exit_status = 21


class NoInternet(HostError):
    """A session that needs the internet and has none."""

    exit_status = 22


class BudgetError(KaggleRunnerError):
    """A trial that needs more memory than there is."""


class SecretError(KaggleRunnerError):
    """A key that is missing or malformed; never holds its value."""


class WandbError(KaggleRunnerError):
    """W&B refused, lost or does not know what was asked for, or cannot be reached."""


class SweepOver(WandbError):
    """A sweep that is finished or cancelled and gives no trials."""


class Refusal(IntEnum):
    """Why there is no kernel, or no verdict from it; the values are exit statuses."""

    OTHER = 1
    CAPACITY = 10
    """As many sessions run as Kaggle allows at a time."""
    QUOTA = 11
    """The week's GPU hours are used up."""
    SOURCE = 12
    """An input that Kaggle does not have, or not yet."""
    ACCESS = 13
    """No credentials, or wrong ones."""
    TOO_LARGE = 14
    """The script is over Kaggle's limit."""
    NAME = 15
    """A kernel that belongs to somebody else, or a title and an id that differ."""
    NETWORK = 16
    """Kaggle could not be reached for so long that we gave up; a kernel that runs goes on."""
    QUEUE = 17
    """The kernel did not start in time."""
    NO_VERDICT = 18
    """The session ended without saying how: cancelled, killed, or over its time."""
    SWITCHED_OFF = 19
    """Kaggle saved the kernel with its GPU or its internet off."""
    MACHINE = 20
    """A machine that Kaggle does not have, or that nothing here runs on."""


class KernelError(KaggleRunnerError):
    """Kaggle refused a kernel, lost it, or ended it without a verdict."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        self.refusal = refusal
        self.exit_status = int(refusal)
        super().__init__(message)


class WorkerError(KaggleRunnerError):
    """The worker process died, hung or spoke nonsense."""


class ProtocolError(WorkerError):
    """A line between two of our processes that cannot be read, or is of a kind that this version does not know."""
