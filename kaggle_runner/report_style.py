"""The look that every picture shares: colours, marks and how a number is written.

The hues are those of Okabe and Ito, which any common colour blindness leaves apart; a status has its own mark too.
Source: https://jfly.uni-koeln.de/color/ (Okabe, Ito: Color Universal Design, 2008).
"""

from dataclasses import dataclass

BEST = "#E69F00"
BASELINE = "#8A8A8A"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8A8A8A")
"""Colours of things that stand side by side: studies, phases of time."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one status is drawn."""

    color: str
    plotly: str
    """plotly.js symbol."""
    matplotlib: str
    """Matplotlib marker."""


LOOKS = {
    "complete": Look(color="#0072B2", plotly="circle", matplotlib="o"),
    "pruned": Look(color="#CC79A7", plotly="diamond-open", matplotlib="D"),
    "failed": Look(color="#D55E00", plotly="x", matplotlib="X"),
    "infeasible": Look(color="#D55E00", plotly="square-open", matplotlib="s"),
    "preempted": Look(color="#8A8A8A", plotly="triangle-right-open", matplotlib=">"),
    "running": Look(color="#8A8A8A", plotly="circle-open", matplotlib="o"),
}
"""By status word, in the order of a legend."""


def number_text(value: float | None, digits: int = 4) -> str:
    """Write a number in at most `digits` significant digits, the way one types it: 0.0002 as 2e-04, 12000 as 12,000."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e7:
        mantissa, _, exponent = f"{value:.{max(0, digits - 2)}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    if float(value).is_integer() and abs(value) >= 1000:
        return f"{int(value):,}"
    return f"{value:.{digits}g}" if abs(value) < 10 ** digits else f"{value:,.0f}"


def seconds_text(seconds: float) -> str:
    """Write a duration with its unit: 42 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def bytes_text(count: float) -> str:
    """Write a size with its unit, MiB under one GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def value_text(value: object) -> str:
    """Write a hyperparameter's value: numbers short, the rest as text."""
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return number_text(value) if not isinstance(value, int) or abs(value) >= 1000 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(value_text(item) for item in value)
    return str(value)
