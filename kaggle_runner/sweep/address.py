"""Which text is a sweep on W&B, and which is a file: a push, an agent and a report are given one or the other."""

import re
from pathlib import Path

from kaggle_runner.errors import SweepError

YAML = (".yaml", ".yml")
FORMS = "ID, PROJECT/ID, ENTITY/PROJECT/ID or the URL of its page; an id has eight small letters and digits"


def is_address(text: str) -> bool:
    """Say whether a text has the shape of a sweep on W&B: the URL of its page, or its id with what it is in."""
    text = text.strip()
    if "://" in text:
        return "/sweeps/" in text
    return re.fullmatch(r"([\w.-]+/){0,2}[a-z0-9]{8}", text) is not None


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
    if is_file_name(text):
        raise SweepError(repr(text), [f"is a file, and not yet a sweep on W&B; make one with: python -m kaggle_runner "
                                      f"sweep {text} --backend wandb"])
    if not is_address(text):
        raise SweepError(repr(text), [f"is no sweep on W&B; give {FORMS}"])
