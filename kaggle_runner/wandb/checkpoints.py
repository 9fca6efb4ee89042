"""Checkpoints of running trials and the journal, off the machine: as files of the trial's own W&B run.

For hosts that end without asking, and for a run that comes back on another machine. Files and not artifacts: a file is
written over, and of an artifact every version stays, half a GB for each checkpoint of a 7B model.
"""

import contextlib
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import wandb

from kaggle_runner.errors import ConfigError, StudyError
from kaggle_runner.files import line_of, replacing, sound_lines, write_atomically
from kaggle_runner.study.journal import JOURNAL, Study
from kaggle_runner.wandb.connection import API_ERRORS, GiveUp, attempt
from kaggle_runner.wandb.ends.received import refused_file
from kaggle_runner.wandb.run import RunLog

EVERY_VARIABLE = "KAGGLE_RUNNER_UPLOAD_EVERY_S"
"""Environment variable with the seconds between two uploads of a trial's checkpoint; without it nothing is uploaded."""
FOLDER = "kept"
"""Folder of the files, in the trial's directory and in its run."""
CHECKPOINT, HISTORY = "checkpoint.pt", "history.jsonl"
_NAMES = f"checkpoint/step-{'[0-9]' * 8}.pt"
_OF = "checkpoint"
"""In the last line of a history that is sent: the digest of the checkpoint that goes with it, beside its step."""
ENDED = "the trial has ended, and with it the need for its checkpoint\n"


class CheckpointUploads:
    """What is sent of the trials of one agent."""

    def __init__(self, study: Study, environ: Mapping[str, str], tell: Callable[[str], None]) -> None:
        """Prepare; `environ` says whether and how often anything is sent.

        Raises:
            ConfigError: it says no number of seconds.
        """
        self._study, self._tell = study, tell
        self._every_s = _seconds(environ[EVERY_VARIABLE]) if environ.get(EVERY_VARIABLE) else None
        self._sent_at: dict[str, float] = {}
        self._refused: set[str] = set()

    def take(self, log: RunLog, step: int) -> None:
        """Send the checkpoint of a step that a run just wrote, unless the last was sent a short while ago.

        Its worker may be ahead by one whose rows are not recorded yet, and by two, when this one is gone.
        """
        now, trial = time.monotonic(), self._study.trial_directory(log.id)
        checkpoint = _checkpoint_of(trial, step)
        if (self._every_s is None or now - self._sent_at.get(log.id, -self._every_s) < self._every_s
                or not checkpoint.exists()):
            return
        refusal = refused_file(log.files, f"{FOLDER}/{CHECKPOINT}")
        if refusal and log.id not in self._refused:
            self._refused.add(log.id)
            self._tell(f"W&B did not take the checkpoint of trial {log.id}: {refusal}; if this session dies, the trial "
                       f"goes on only where this study is")
        self._sent_at[log.id] = now
        try:
            _stage(checkpoint, trial / FOLDER / CHECKPOINT)
            _stage(trial / HISTORY, trial / FOLDER / HISTORY, copies=True,
                   last=line_of({"step": step, _OF: _digest(trial / FOLDER / CHECKPOINT)}))
            _stage(self._study.directory / JOURNAL, trial / FOLDER / JOURNAL, copies=True)
        except (OSError, ValueError) as error:
            return self._tell(f"a checkpoint of trial {log.id} was not sent to W&B: {error}")
        log.upload(trial / FOLDER, base=trial)

    def end(self, log: RunLog) -> None:
        """Free the space that a run's checkpoint takes on W&B, when the trial needs it no more."""
        if self._sent_at.pop(log.id, None) is not None:
            free_checkpoint(log, self._study.trial_directory(log.id))


def free_checkpoint(log: RunLog, trial: Path) -> None:
    """Send a few words over the checkpoint that a trial, in its folder here, has sent; nothing if it has sent none."""
    if (trial / FOLDER / CHECKPOINT).exists():
        (trial / FOLDER / CHECKPOINT).unlink()
        (trial / FOLDER / CHECKPOINT).write_text(ENDED)
        log.upload(trial / FOLDER, base=trial)


def fetch_checkpoint(log: RunLog, study: Study, tell: Callable[[str], None], give_up: GiveUp) -> None:
    """Fetch what a run that comes back had sent, where this machine has no checkpoint of it that is as new.

    Where that fails, or `give_up` says that it took too long, the trial goes on from the one here, or starts over,
    which is no error.
    """
    if not log.was_resumed:
        return
    trial = study.trial_directory(log.id)
    here = max(map(_step_of, trial.glob(_NAMES)), default=-1)
    was_sent = False
    try:
        with contextlib.ExitStack() as stack:
            folder = trial / ".fetched"
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            _download(log.path, HISTORY, folder, give_up)
            was_sent = True
            *rows, last = sound_lines(folder / FOLDER / HISTORY) or [{}]
            step = last.get("step", 0)
            digest = isinstance(step, int) and last.get(_OF)
            if digest and step <= here:
                return
            if digest:
                _download(log.path, CHECKPOINT, folder, give_up)
            if not digest or digest != _digest(folder / FOLDER / CHECKPOINT):
                raise ValueError("it is damaged there, or its history is another one's")
            (trial / "checkpoint").mkdir(exist_ok=True)
            write_atomically(trial / HISTORY, "".join(map(line_of, rows)))
            os.replace(folder / FOLDER / CHECKPOINT, _checkpoint_of(trial, step))
    except (*API_ERRORS, OSError, LookupError, StudyError) as error:
        if here < 0 or was_sent or not isinstance(error, LookupError):
            newer, so = ("", "starts over") if here < 0 else (
                "newer ", f"goes on from the one of step {here} that is here")
            tell(f"trial {log.id} comes back, and no {newer}checkpoint of it could be fetched from W&B "
                 f"({' '.join(str(error).split())[:200]}): it {so}")
        return
    tell(f"fetched the checkpoint of trial {log.id} from W&B")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise ConfigError(f"{EVERY_VARIABLE} is {text!r}, and must be a number of seconds, 0 or more; correct it, or unset "
                      f"it to send no checkpoints")


def _download(run_path: str, name: str, folder: Path, give_up: GiveUp) -> None:
    """Download a file that a run keeps; the client itself waits for ever for a server that has stopped sending.

    Raises:
        LookupError: it keeps none.
        TimeoutError: given up.
    """
    def download() -> None:
        found = next(iter(wandb.Api().run(run_path).files([f"{FOLDER}/{name}"])), None)
        if found is None:
            raise LookupError("it has none")
        found.download(root=str(folder), replace=True).close()

    failure = attempt(download, give_up)
    if isinstance(failure, Exception):
        raise failure


def _checkpoint_of(trial: Path, step: int) -> Path:
    return trial / "checkpoint" / f"step-{step:08d}.pt"


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stage(source: Path, target: Path, *, copies: bool = False, last: str = "") -> None:
    """Put a file where it is uploaded from, whole at any moment; a checkpoint, which is never changed, as a link."""
    with replacing(target) as temporary:
        if copies:
            temporary.write_bytes(source.read_bytes() + last.encode())
        else:
            os.link(source, temporary)
