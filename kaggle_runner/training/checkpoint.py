"""Checkpoints of a running trial: adapter-sized, written atomically, at most two kept.

A checkpoint belongs to one config: one of another config is refused, a damaged one is passed over and said.
"""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from kaggle_runner.config import known_to_0_2
from kaggle_runner.errors import ForeignCheckpoint
from kaggle_runner.events import Note, Notify
from kaggle_runner.files import cannot_write, replacing, sound_lines

KEPT = 2
HISTORY = "history.jsonl"
"""The rows of a trial, beside its checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything a trial needs to go on at a step as if nothing had happened."""

    step: int
    """Number of optimizer steps that were done."""
    state: Mapping[str, Any]
    """Plain values: counts of tokens and steps, and the evaluations so far."""
    tensors: Mapping[str, Any]
    """Tensors and the state of optimizer, scaler and random generators."""


def config_hash(config: Any) -> str:
    """Return the SHA-256 of all values of a config that decide its losses: computing activations twice changes none."""
    values = {name: value for name, value in known_to_0_2(config.as_dict()).items()
              if name not in ("gradient_checkpointing", "trust_remote_code")}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def save_checkpoint(directory: Path, config: Any, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint of a trial and drop all but the newest two.

    Raises:
        StudyError: the disk is full or the directory cannot be written.
    """
    folder = directory / "checkpoint"
    path = folder / f"step-{checkpoint.step:08d}.pt"
    try:
        with replacing(path) as temporary, _sink(temporary) as file:
            torch.save({"config": config_hash(config), "step": checkpoint.step, "state": dict(checkpoint.state),
                        "tensors": dict(checkpoint.tensors)}, file)
        for old in _newest_first(folder)[KEPT:]:
            old.unlink()
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def save_weights(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write the weights of a finished trial.

    Raises:
        StudyError: the disk is full or the directory cannot be written.
    """
    try:
        with replacing(path) as temporary, _sink(temporary) as file:
            torch.save(dict(tensors), file)
    except OSError as error:
        raise cannot_write(path, error) from error


class _Sink:
    """A file that remembers why it could not be written: torch has a RuntimeError of its own for it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


@contextlib.contextmanager
def _sink(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for torch to write.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "wb") as file:
        sink = _Sink(file)
        try:
            yield cast(IO[bytes], sink)  # torch takes whatever can write
        except RuntimeError as error:
            if sink.error is not None:
                raise sink.error from error
            raise


def load_checkpoint(directory: Path, config: Any, emit: Notify, rows: str = "",
                    require: Callable[[Mapping[str, Any]], None] = lambda state: None) -> Checkpoint | None:
    """Read the newest checkpoint of a trial that can be read; none if there is none, or it is of other `rows`.

    A damaged one is reported as a `Note` and the one before it is tried; so is a history that is damaged, whose rows
    nobody has any more: the trial starts over. `require` sees its state first, and may refuse it by its rows, of which
    the number of steps in the config is a mere consequence.

    Raises:
        ForeignCheckpoint: the checkpoint was written by another config.
    """
    newest_first = _newest_first(directory / "checkpoint")
    if newest_first and sound_lines(directory / HISTORY) is None:
        emit(Note(text=f"{HISTORY} of the trial is damaged, and with it what came before its checkpoint; the trial "
                       f"starts over"))
        return None
    for path in newest_first:
        try:
            content = read_tensors(path)
            checkpoint = Checkpoint(step=content["step"], state=content["state"], tensors=content["tensors"])
            written_by = content["config"]
        except Exception as error:  # torch reports damage as RuntimeError, EOFError, KeyError, UnpicklingError, ...
            emit(Note(text=f"checkpoint {path.name} is damaged ({type(error).__name__}); "
                           f"the trial goes back to the one before, or starts over"))
            continue
        require(checkpoint.state)
        if rows and checkpoint.state.get("rows", rows) != rows:
            emit(Note(text="what the trial is trained on has changed since its checkpoint; the trial starts over"))
            return None
        if written_by != config_hash(config):
            raise ForeignCheckpoint(f"{path} was written by another config; delete the folder to start the trial "
                                    f"over, or restore the config")
        return checkpoint
    return None


def read_tensors(path: Path) -> Any:
    """Read what torch saved, as it was saved: torch itself takes damaged numbers for numbers.

    Its file is a zip archive with a checksum of every tensor, also in versions of torch that never look at it.

    Raises:
        ValueError: a tensor, or the list of them, is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"{damaged} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)
