"""Words that every room puts into its sentences."""

import re


def how_many(count: int, noun: str) -> str:
    """Write a count with its noun: `1 trial`, `1,000 trials`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def without_password(text: str) -> str:
    """Return a text with the password of every address in it hidden."""
    return re.sub(r"(://[^\s:/@]*):[^\s/]*@", r"\1:***@", text)
