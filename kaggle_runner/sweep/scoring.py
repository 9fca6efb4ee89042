"""One scoring for a study: trials may be ranked only by losses over the same held-out tokens.

What decides which tokens count may be searched with the evaluation held fixed, and by default it is held at the most
that is searched: a row of 512 tokens scored whole, whatever part of it a trial trained on.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kaggle_runner.metrics import BITS_PER_BYTE
from kaggle_runner.sweep.distributions import Choice, Fixed, Parameter, Range
from kaggle_runner.sweep.problems import Findings, spelled

HELD = {"max_length": "eval_max_length", "completion_only_loss": "eval_completion_only_loss",
        "train_on": "eval_train_on"}
"""What may be searched while the field that says the same of the evaluation is fixed."""
ROWS = ("dataset", "dataset_config", "dataset_split", "dataset_revision", "columns")
"""What decides which rows there are: searched only with held-out rows of their own."""
OWN_ROWS = "eval_dataset"
MEASURES = ("max_eval_samples", "eval_share", "eval_dataset", "eval_max_length", "eval_completion_only_loss",
            "eval_train_on", "max_eval_tokens", "symbols")
"""What says nothing but which held-out tokens are scored."""
TOKENIZER_FREE = (BITS_PER_BYTE,)
"""Metrics in which models with different tokenizers can be compared."""


def hold_scoring(found: Findings, parameters: Mapping[str, Parameter], fields: Iterable[str], metric: str,
                 metrics: Sequence[str]) -> dict[str, Fixed]:
    """Return what the evaluation is held at where the file says nothing; add a problem for what cannot be held."""
    fields = set(fields)
    searched = {name: parameter for name, parameter in parameters.items()
                if isinstance(parameter, Range) or (isinstance(parameter, Choice) and parameter.count > 1)}
    held: dict[str, Fixed] = {}
    for name, field in HELD.items():
        if name not in searched or field not in fields or field in searched or _is_given(parameters.get(field)):
            continue
        most = most_counted(name, _ends(searched[name]))
        if most is None:
            found.problem(f"parameters.{name}", f"decides which held-out tokens are scored and has no largest value; "
                                                f"fix what is scored with {field}, or use min and max")
            continue
        held[field] = Fixed(value=most)
        found.warn(f"parameters.{name}", f"is searched, so every trial, and the untouched base, is scored with {field} "
                                         f"{spelled(most)}; write {field} to choose another")
    for name in ROWS:
        if name in searched and not (OWN_ROWS in fields and _is_given(parameters.get(OWN_ROWS))):
            other = f", or give the same held-out rows to all with {OWN_ROWS}" if OWN_ROWS in fields else (
                ", or put the rows into one dataset with a validation split of its own and search samples")
            found.problem(f"parameters.{name}", f"decides which held-out rows are scored, so {metric} would not rank "
                                                f"trials that differ in it; give it one value and run a sweep for each"
                                                f"{other}")
    for name in MEASURES:
        if name in searched and name in fields:
            found.problem(f"parameters.{name}", f"decides which held-out tokens are scored, so {metric} would not rank "
                                                f"trials that differ in it; give it one value, or leave it out")
    if "model" in searched and metric not in TOKENIZER_FREE:
        known = [name for name in TOKENIZER_FREE if name in metrics]
        other = (f", or judge by metric: {known[0]}, which counts bytes" if known else
                 ", or search the hyperparameters of one model and compare the winners by what they write")
        found.problem("parameters.model",
                      f"models cut text into tokens of their own, so {metric} would not rank trials that differ in it; "
                      f"give it one value and run a sweep for each{other}")
    return held


def most_counted(name: str, values: Iterable[Any]) -> Any:
    """Return which of the values of a hyperparameter scores the most held-out tokens; none where there is no most."""
    values = list(values)
    if name == "completion_only_loss":
        return all(values)
    if name == "train_on":
        return "all" if "all" in values else values[0]
    return math.ceil(max(values)) if values else None


def _is_given(parameter: Parameter | None) -> bool:
    return isinstance(parameter, Fixed) and parameter.value is not None


def _ends(parameter: Choice | Range) -> tuple[Any, ...]:
    if isinstance(parameter, Choice):
        return parameter.distinct
    return (parameter.lowest, parameter.highest) if parameter.is_bounded else ()
