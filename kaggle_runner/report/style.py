"""The look that every picture shares: colours, marks, visible ranges, ticks, and how a number is written.

The hues are those of Okabe and Ito, which any common colour blindness leaves apart, in a lightness that has a contrast
of 3:1 and more with white and with the dark page alike. A status has its own mark too.
Source: https://jfly.uni-koeln.de/color/ (Okabe, Ito: Color Universal Design, 2008); WCAG 2.2, 1.4.11.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.wording import plain_value

BEST = "#C78000"
BAND = "rgba(230,159,0,0.2)"
"""Area around the best; its edges have the colour of the best."""
BASELINE = "#8A8A8A"
FAINT = "#7F8B99"
SERIES = ("#1E84C6", "#C78000", "#009E73", "#CC79A7", "#7A6FD0", "#D55E00", "#8A8A8A")
"""Colours of things that stand side by side: studies, phases of time."""
SCALE = ("#E8CE58", "#A69D75", "#7B7B78", "#4D6B9C", "#1F5FA8")
"""Five steps of a surface from worst to best: yellow to blue as in Matplotlib's cividis, its dark end lifted."""
LINES = ("#8A8A8A", "#7D8794", "#6C84A6", "#527CB8", "#2F72C4")
"""Five steps for lines, from grey to blue: they have to stand out from the page, and from the best one's amber."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one status is drawn."""

    color: str
    plotly: str
    """plotly.js symbol."""
    matplotlib: str
    """Matplotlib marker."""


LOOKS = {
    "complete": Look(color="#1E84C6", plotly="circle", matplotlib="o"),
    "pruned": Look(color="#CC79A7", plotly="diamond-open", matplotlib="D"),
    "failed": Look(color="#D55E00", plotly="x", matplotlib="X"),
    "infeasible": Look(color="#D55E00", plotly="square-open", matplotlib="s"),
    "preempted": Look(color="#8A8A8A", plotly="triangle-right-open", matplotlib=">"),
    "running": Look(color="#8A8A8A", plotly="circle-open", matplotlib="o"),
    "out": Look(color="#8A8A8A", plotly="star-open", matplotlib="*"),
    "stopped": Look(color="#8A8A8A", plotly="cross-open", matplotlib="P"),
}
"""By status word, in the order of a legend."""


def visible_range(values: Iterable[float], goal: str, always: float | None = None) -> tuple[float, float]:
    """Choose the ends of a metric's axis so that one diverged trial does not press all others flat.

    Shown is what lies within four times the distance from the best value to the worse quartile; `always` is in it too.
    """
    ordered = sorted(values)
    if not ordered:
        return (0.0, 1.0) if always is None else (always - 0.5, always + 0.5)
    low, high = ordered[0], ordered[-1]
    if goal == "maximize":
        low = max(low, high - (4 * (high - ordered[len(ordered) // 4]) or math.inf))
    else:
        high = min(high, low + (4 * (ordered[3 * len(ordered) // 4] - low) or math.inf))
    if always is not None:
        low, high = min(low, always), max(high, always)
    margin = 0.08 * (high - low) or 0.05 * abs(high)
    return (low - margin, high + margin) if margin else (-0.05, 1.0)  # all are 0: most metrics have no less


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values between two positive ends: decades, with 2 and 5 or 3 between them where there is room."""
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0 ** power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
                 for step in steps]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if 2 <= len(inside) <= most:
            return inside
    return inside[::-(-len(inside) // most)] if len(inside) > most else [low, high]


def number_text(value: float | None, digits: int = 4) -> str:
    """Write a number in at most `digits` significant digits, the way one types it: 2e-4, 0.05, 2.813, 12,000."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if abs(value) < 1e-3 or abs(value) >= 1e7:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    if abs(value) >= 10 ** digits or (float(value).is_integer() and abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


LEGEND = 30
"""Letters of a name in a legend: a phone has room for them."""


def percent_text(share: float) -> str:
    """Write a share as per cent: 7.1 %, 43 %; what rounds to nothing in a digit that is not nothing: 2e-6 %."""
    if share and abs(share) < 0.0005:
        return f"{number_text(100 * share, 1)} %"
    return f"{100 * share:.1f} %" if abs(share) < 0.0995 else f"{100 * share:.0f} %"


def seconds_text(seconds: float) -> str:
    """Write a duration with its unit: 42 s, 1.7 min, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds >= 6000:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.2g} min" if seconds < 597 else f"{seconds / 60:.0f} min"


def outward(value: Any, *, up: bool) -> Any:
    """Round a fraction to two digits away from what lies between two ends, so that they hold it."""
    if not isinstance(value, float) or not value or not math.isfinite(value):
        return value
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    near = float(f"{value:.1e}")
    is_outside = near >= value if up else near <= value
    return near if is_outside else float(f"{near + (step if up else -step):.1e}")


def value_text(value: object) -> str:
    """Write a hyperparameter's value: numbers short, the rest as text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_text(value) if not isinstance(value, int) or abs(value) >= 1000 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(value_text(item) for item in value)
    return plain_value(value)


def setting_text(params: Mapping[str, object], name: str) -> str:
    """Write what a trial has for a hyperparameter: a dash where it has none, as with a setting of another optimizer."""
    return value_text(params[name]) if name in params else "–"


def shortened(name: str, most: int) -> str:
    """Shorten a long name in its middle: what differs between names stands mostly at one of their ends."""
    return name if len(name) <= most else f"{name[:most // 2]}…{name[len(name) - (most - most // 2 - 1):]}"


def short_names(names: Sequence[str], most: int = 18) -> list[str]:
    """Shorten long names to about so many letters so that no two look alike: each begins at what differs.

    Left out are the words that all begin with, or that a name begins with as the one that is most like it does; where
    that does not tell them apart, the middle, or all letters alike.
    """
    longest = max(map(len, names), default=0)
    if longest <= most:
        return list(names)
    words = [re.findall(r"[^/_, -]*[/_, -]+|[^/_, -]+$", name) for name in names]
    others = [[_alike(own, other) for other in words if other != own] or [0] for own in words]
    for length in range(most, longest):
        for cut in (list(map(min, others)), list(map(max, others))):
            begun = ["…" * bool(count) + "".join(own[count:]) for own, count in zip(words, cut, strict=True)]
            short = [name if len(name) <= length else f"{name[:length - 1]}…" for name in begun]
            if len(set(short)) == len(set(names)):
                return short
        same = max(0, min((_alike(names[0], other) for other in names), default=0) - 2)
        for short in ([shortened(name, length) for name in names],
                      [f"…{name[same:same + length - 2]}…" for name in names]):
            if len(set(short)) == len(set(names)):
                return short
    return list(names)


def _alike(own: Sequence[str], other: Sequence[str]) -> int:
    """Return with how many words of another name one begins, at least one left to each."""
    most = min(len(own), len(other)) - 1
    return next((i for i in range(most) if own[i] != other[i]), max(0, most))


def value_names(values: Sequence[object], most: int) -> list[str]:
    """Write a hyperparameter's values as `short_names`."""
    return short_names(list(map(value_text, values)), most)


def names_text(names: Iterable[str], most: int = 5) -> str:
    """Join names with commas and a final `and`; the ones beyond `most` are counted."""
    listed = list(names)
    if len(listed) > most:
        listed = [*listed[:most], f"{len(listed) - most} more"]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}" if listed else "none"


def count_text(count: int, noun: str) -> str:
    """Write a count with its noun: 1 trial, 3 trials."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
