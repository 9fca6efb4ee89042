"""How lines are put into words: fitted to the terminal, paths as a person would type them, commands ready to paste."""

import os
import re
import shlex
import shutil
import sys
import unicodedata
from pathlib import Path

import click

NARROWEST = 20
"""Columns below which nothing is fitted any more: such a width is a mistake of the terminal."""
_COMMAND = re.compile(r"(python -m kaggle_runner|pip install|kaggle kernels|wandb sweep) [^;\n]*")
_PIECE = re.compile(r"\s*(?:[^\s\u2e80-\U0003ffff]+|\S)")
_TIE = "\0"
"""Stands between a name and its value, which are not to be parted."""


def width_of() -> int | None:
    """Return the columns that stdout has; none where it is no terminal: a pipe has no edge."""
    return max(NARROWEST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def is_dumb() -> bool:
    """Say whether the terminal cannot move its cursor, so that nothing may be drawn over."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def has_colours() -> bool:
    """Say whether stdout shows colours and the person wants them."""
    return sys.stdout.isatty() and not is_dumb() and not os.environ.get("NO_COLOR")


def say(label: str, text: str, *, column: int = 8) -> None:
    """Print a labelled line; where the terminal is narrower it goes on below the text, broken between words."""
    click.echo(fitted(label, text, width_of(), column=column))


def fitted(label: str, text: str, width: int | None, *, column: int = 8) -> str:
    """Return a labelled line, broken between words and never inside one; what two blanks divide stays together."""
    start = f"{label:<{column}} "
    if width is None or columns_of(start + text) <= width:
        return start + text
    tied = "  ".join(part.replace(" ", _TIE) for part in text.split("  ")) if "  " in text else _tied(text)
    return wrapped(tied.strip(), max(NARROWEST, width), start, " " * columns_of(start)).replace(_TIE, " ")


def flowing(text: str, width: int | None, *, hanging: int = 2) -> str:
    """Break each line of a text between words; a command in it stays in one piece, so that it can be copied.

    What is broken goes on `hanging` columns further in than it began.
    """
    if width is None:
        return text
    return "\n".join(_flowing_line(line, width, hanging) for line in text.split("\n"))


def _flowing_line(line: str, width: int, hanging: int) -> str:
    if columns_of(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    return wrapped(_tied(line.strip()), width, indent, indent + " " * hanging).replace(_TIE, " ")


def wrapped(text: str, width: int, first: str = "", rest: str = "") -> str:
    """Break a text between words, and beside signs of two columns, of which a word may have no end; the first line
    begins with `first`, the others with `rest`."""
    lines, is_bare = [first], True
    for piece in _PIECE.findall(text):
        if not is_bare and columns_of(lines[-1] + piece) > width:
            lines.append(rest)
            is_bare = True
        lines[-1] += piece.lstrip() if is_bare else piece
        is_bare = False
    return "\n".join(lines)


def columns_of(text: str) -> int:
    """Return the columns of a terminal that a text takes: two for a sign of East Asia or an emoji."""
    return len(text) + sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)


def padded(text: str, width: int) -> str:
    """Fill a text with blanks up to so many columns."""
    return text + " " * (width - columns_of(text))


def _tied(text: str) -> str:
    return _COMMAND.sub(lambda match: match[0].replace(" ", _TIE), text)


def width_of_stderr() -> int | None:
    """Return the columns that stderr has; none where it is no terminal."""
    return max(NARROWEST, shutil.get_terminal_size().columns) if sys.stderr.isatty() else None


def complain(text: str) -> None:
    """Print a warning or an error to stderr, broken between words where that is a terminal."""
    click.echo(flowing(text, width_of_stderr()), err=True)


def as_typed(path: Path) -> Path:
    """Return a path as a person here would type it: relative where it lies below the current directory."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path


def command(*arguments: str | Path) -> str:
    """Write a command of ours, ready to be pasted into a shell."""
    return shlex.join(["python", "-m", "kaggle_runner", *(str(as_typed(argument)) if isinstance(argument, Path)
                                                          else argument for argument in arguments)])
