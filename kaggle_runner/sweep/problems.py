"""What is wrong with a file, all of it, in a user's words: the path of the key, what is wrong, the way out."""

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")
LARGEST = 2.0**63
"""Numbers beyond this are no hyperparameters, and no longer whole numbers to JSON readers."""


class Findings:
    """The problems and warnings of one file, each with the path of the key it is about."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def problem(self, path: str, message: str) -> None:
        """Add what makes the file unusable."""
        self.problems.append(f"{path}: {message}")

    def warn(self, path: str, message: str) -> None:
        """Add what will work, but perhaps not as meant."""
        self.warnings.append(f"{path}: {message}")

    def number(self, path: str, value: Any) -> float | None:
        """Return a finite number, or none after adding the problem; a non-finite one has its own problem already."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                return None
            if abs(value) <= LARGEST:
                return value
            self.problem(path, f"{value:.3g} is too large for a hyperparameter")
        elif not self.text_number(path, value):
            self.problem(path, f"must be a number, got {spelled(value)}")
        return None

    def text_number(self, path: str, value: Any) -> bool:
        """Add a problem and return true if a value is text that was meant as a number."""
        if not isinstance(value, str) or not NUMBER.fullmatch(value):
            return False
        self.problem(path, f"{value!r} is text to YAML; write {yaml_number(value)}")
        return True


def suggestion(word: Any, known: Iterable[str]) -> str:
    """Say which known word was probably meant, or list them all."""
    known = list(known)
    close = difflib.get_close_matches(str(word), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def spelled(value: Any) -> str:
    """Write a value as a YAML file does, shortened."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def yaml_number(text: str) -> str:
    """Write a number so that YAML 1.1 reads it as one: an exponent needs a point before it and a sign in it."""
    mantissa, letter, exponent = text.lower().replace("_", "").removeprefix("+").partition("e")
    if mantissa.lstrip("-").startswith("."):
        mantissa = mantissa.replace(".", "0.")
    mantissa = re.sub(r"^(-?)0+(?=\d)", r"\1", mantissa)
    if not letter:
        return mantissa
    if "." not in mantissa:
        mantissa += ".0"
    return f"{mantissa}e{exponent if exponent[0] in '+-' else '+' + exponent}"
