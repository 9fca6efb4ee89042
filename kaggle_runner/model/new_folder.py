"""A folder that is there whole or not at all, and the space that it needs."""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kaggle_runner.errors import StudyError
from kaggle_runner.files import cannot_write
from kaggle_runner.wording import size_text

WAY_OUT = "choose another folder with --out"
SLACK_BYTES = 64 * 2**20
"""Room for the tokenizer and the small files beside the weights."""
MOST_OF_NAME = 50
"""Letters of a folder's name in the name that it has while it is written: a name has at most 255 bytes."""


def require_new(out: Path) -> None:
    """See that a folder can be made.

    Raises:
        StudyError: something is there already, or nothing can be made there.
    """
    if out.name in ("", "..") or out.resolve() == Path.cwd():
        raise StudyError(f"{out} is a folder that is there, and a model is written as a new one; {WAY_OUT}")
    if out.is_dir() and any(out.iterdir()):
        raise StudyError(f"{out} is not empty, and what is in it would mix with the model; {WAY_OUT}")
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise StudyError(f"{place} is a file, not a folder for a model; {WAY_OUT}")
    if out.is_dir() and out.is_mount():
        raise StudyError(f"{out} is where a disk is mounted, and nothing can take its place; choose a folder in it "
                         f"with --out")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".kaggle_runner-", dir=_there(out)))  # seen before minutes of work are lost
    except OSError as error:
        raise cannot_write(out, error, way_out=WAY_OUT) from error


def require_space(out: Path, size: int) -> None:
    """See that there is room for a folder of a size, before anything is written.

    Raises:
        StudyError: the disk has too little free space.
    """
    _require(_there(out), str(out), size + SLACK_BYTES, WAY_OUT)


def require_space_for_both(out: Path, size: int, cache: Path, fetched: int) -> None:
    """See that there is room for a folder and, before it is written, for files of its base that are to be fetched.

    Raises:
        StudyError: a disk has too little free space.
    """
    there, kept = _there(out), _there(cache)
    together = there.stat().st_dev == kept.stat().st_dev
    if fetched:
        _require(kept, f"the base, which is to be fetched into {cache},{f' and {out}' if together else ''}",
                 fetched + SLACK_BYTES + (size if together else 0), "set HF_HOME to a folder on a larger disk")
    require_space(out, size)


def _require(place: Path, what: str, needed: int, way_out: str) -> None:
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StudyError(f"{what} needs {size_text(needed)} and the disk has {size_text(free)} free; free some space, "
                         f"or {way_out}")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` to write to; it takes that name when the block ends, and is gone after an error.

    Raises:
        StudyError: it cannot be written.
    """
    place = out.resolve()  # where a link leads, which a folder cannot take the place of
    partial = place.with_name(f".{place.name[:MOST_OF_NAME]}.partial-{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(place)
        partial.mkdir()
        yield partial
        os.rename(partial, place)  # takes the place of an empty folder
    except OSError as error:
        raise cannot_write(out, error, way_out=WAY_OUT) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _there(out: Path) -> Path:
    """Return the nearest folder of a path that is there."""
    return next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.is_dir())


def _remove_left_over(place: Path) -> None:
    """Remove what a killed process left of the same folder."""
    for folder in place.parent.glob(f".{glob.escape(place.name[:MOST_OF_NAME])}.partial-*"):
        pid = folder.name.rpartition("-")[2]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
