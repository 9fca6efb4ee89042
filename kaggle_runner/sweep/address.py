"""Which text is a sweep on W&B, and which is a file: a push, an agent and a report are given one or the other."""

import re
from pathlib import Path

from kaggle_runner.errors import SweepError

YAML = (".yaml", ".yml")
FORMS = ("ID, PROJECT/ID, ENTITY/PROJECT/ID, the URL of its page or its line `wandb agent ...`; an id has eight small "
         "letters and digits")


_LINE = re.compile(r"[!$%\s]*(?:python3? -m )?wandb agent\s+(?=\S)")
_OPTION = re.compile(r"(?<!\S)(?:--(count|project|entity)|-([pe]))(?:\s+|=)(\S+)(?!\S)")


def options_of(text: str) -> dict[str, str]:
    """Return what a whole line `wandb agent ...` says besides its sweep: `count`, `project` and `entity`."""
    found = _OPTION.findall(text) if _LINE.match(text) else []
    return {long or {"p": "project", "e": "entity"}[short]: value for long, short, value in found}


def plain_address(text: str) -> str:
    """Return what W&B's page gives one to copy in short: its URL, or the whole line `wandb agent ...`.

    What is neither comes back as it is, without blanks around it.
    """
    text = text.strip()
    if line := _LINE.match(text):
        options, short = options_of(text), _without_quotes(_OPTION.sub("", text[line.end():]).strip())
        names = () if "/sweeps/" in short else ("entity", "project")[:2 - short.count("/")]
        places = [options[name] for name in names if name in options]
        if len(short.split()) == 1 and (len(places) == len(names) or "entity" not in options):
            text = "/".join([*places, short])
    text = _without_quotes(text)
    path = re.split(r"[?#]", text.split("://", 1)[-1])[0].strip("/")
    within = re.fullmatch(r"(?:.*/)?([^/]+/[^/]+)/sweeps/([^/]+)(?:/.*)?", path)
    if within:  # .../entity/project/sweeps/id, below whatever prefix the server has
        return "/".join(within.groups())
    return text.rstrip("/") or text


def _without_quotes(text: str) -> str:
    return re.sub(r"""^(["'])(\S+)\1$""", r"\2", text)


def is_address(text: str) -> bool:
    """Say whether a text has the shape of a sweep on W&B: its page, `wandb agent ...`, or its id with what it is in."""
    short = plain_address(text)
    if short != text.strip() and "/sweeps/" in text:
        return re.fullmatch(r"[^/]+/[^/]+/[a-z0-9]{8}", short) is not None
    return re.fullmatch(r"([\w.-]+/){0,2}[a-z0-9]{8}", short) is not None


def is_there(text: str) -> bool:
    """Say whether a text is a path that exists; empty text is none."""
    try:
        return bool(text.strip()) and Path(text).exists()
    except (OSError, ValueError):
        return False


def is_file_name(text: str) -> bool:
    """Say whether a text means a file and not a sweep on W&B: it is there, or it is named like a sweep file."""
    return is_there(text) or Path(text).suffix in YAML


def require_sweep(text: str) -> None:
    """Refuse what is neither a file nor a sweep on W&B.

    Raises:
        SweepError: says what a sweep looks like.
    """
    if not is_file_name(text) and not is_address(text):
        raise SweepError(repr(text), [f"is no sweep file here and no sweep on W&B; give a file, one that ships such as "
                                      f"sweeps/lora_t4.yaml, or {FORMS}"])


def require_address(text: str) -> None:
    """Refuse what is no sweep on W&B.

    Raises:
        SweepError: says what one looks like, or how a file becomes one.
    """
    if is_there(text) and Path(text).is_dir():
        raise SweepError(repr(text), [f"is a folder and no sweep on W&B; give {FORMS}"])
    if is_file_name(text):
        raise SweepError(repr(text), [f"is a file, and not yet a sweep on W&B; make one with: python -m kaggle_runner "
                                      f"sweep {text} --backend wandb"])
    if not is_address(text):
        raise SweepError(repr(text), [f"is no sweep on W&B; give {FORMS}"])
