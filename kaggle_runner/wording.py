"""Words that every room puts into its sentences."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_OTHER = re.compile(r"|~|none|null|true|false|0[xo][\da-f]+|\d{4}-\d\d?-\d\d?"
                    r"|[-+]?(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(inf|nan)", re.IGNORECASE)
"""Texts that look like a value of another kind."""


def how_many(count: int, noun: str) -> str:
    """Write a count with its noun: `1 trial`, `1,000 trials`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size_text(size: float) -> str:
    """Write bytes in the unit that fits them: `512 bytes`, `71.7 MiB`, `1.50 GiB`."""
    for unit, digits, least in (("GiB", 2, 2**30), ("MiB", 1, 2**20), ("KiB", 1, 2**10)):
        if round(size / least, digits) >= 1:
            return f"{size / least:,.{digits}f} {unit}"
    return how_many(round(size), "byte")


def plain_text(text: str) -> str:
    """Write a text that is a hyperparameter's value so that it stays on its line and looks like no other value.

    What has no sign of its own is written as an escape; what could be a number, a truth value or none, or begins or
    ends with a blank, is quoted.
    """
    shown = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return f"'{shown}'" if shown != shown.strip() or _OTHER.fullmatch(shown) else shown


def plain_value(value: Any) -> str:
    """Write a value that is no number: null as `none`, a truth value as `true` or `false`, a text as `plain_text`."""
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return plain_text(value) if isinstance(value, str) else str(value)


def without_password(text: str) -> str:
    """Return a text with the password of every address in it hidden, before the host and behind the `?`."""
    text = re.sub(r"(://[^\s:/@]*):[^\s/]*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&](?:ssl)?(?:password|passwd|pwd)=)[^&#\s'\"]*", r"\1***", text)


def unlike(names: Iterable[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say what in two sweeps each of some names was and is, and what to do about it."""
    def value(there: Any, name: str) -> str:
        for part in name.split("."):
            there = there.get(part, {}) if isinstance(there, Mapping) else {}
        found = next(iter(there.values()), "not given") if isinstance(there, Mapping) else there
        return plain_value(found)

    told = (f"{name.rpartition('.')[2]} {value(old, name)} then, {value(new, name)} now" for name in names)
    return f"other values: {'; '.join(told)}; choose another directory with --study, or give those of then"
