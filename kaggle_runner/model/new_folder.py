"""A folder that is there whole or not at all, and the space that it needs."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kaggle_runner.errors import StudyError
from kaggle_runner.files import cannot_write

WAY_OUT = "choose another folder with --out"
SLACK_BYTES = 64 * 2**20
"""Room for the tokenizer and the small files beside the weights."""


def require_new(out: Path) -> None:
    """See that a folder can be made.

    Raises:
        StudyError: something is there already.
    """
    if out.is_dir() and any(out.iterdir()):
        raise StudyError(f"{out} is not empty, and what is in it would mix with the model; remove it, or {WAY_OUT}")
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise StudyError(f"{place} is a file, not a folder for a model; {WAY_OUT}")


def require_space(out: Path, size: int) -> None:
    """See that there is room for a folder of a size, before anything is written.

    Raises:
        StudyError: the disk has too little free space.
    """
    there = next(folder for folder in (out, *out.resolve().parents) if folder.is_dir())
    needed, free = size + SLACK_BYTES, shutil.disk_usage(there).free
    if free < needed:
        raise StudyError(f"{out} needs {needed / 2**30:.2f} GiB and the disk has {free / 2**30:.2f} GiB free; free "
                         f"some space, or {WAY_OUT}")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` to write to; it takes that name when the block ends, and is gone after an error.

    Raises:
        StudyError: it cannot be written.
    """
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(out)
        partial.mkdir()
        yield partial
        os.rename(partial, out)  # takes the place of an empty folder
    except OSError as error:
        raise cannot_write(out, error, way_out=WAY_OUT) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_left_over(out: Path) -> None:
    """Remove what a killed process left of the same folder."""
    for folder in out.parent.glob(f".{out.name}.partial-*"):
        pid = folder.name.rpartition("-")[2]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
