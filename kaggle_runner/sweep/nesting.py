"""Parameters inside parameters, as W&B has them: `optimizer.learning_rate` is our `learning_rate`.

A trainer here takes each hyperparameter by its own name, so the last part of a dotted name is what counts; W&B gets the
file as it is, and its runs' configs are read the same way.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from kaggle_runner.sweep.problems import Findings


def is_nested(entry: Any) -> bool:
    """Say whether an entry holds parameters of its own."""
    return isinstance(entry, Mapping) and "parameters" in entry


def flat_entries(found: Findings, raw: Mapping[Any, Any], fields: Mapping[str, Any]) -> dict[Any, Any]:
    """Return every entry under its own name; one that is no field keeps its dotted name, to be refused with it."""
    flat: dict[Any, Any] = {}
    for path, entry in _leaves(found, raw, ()):
        dotted = ".".join(map(str, path))
        name = path[-1] if len(path) == 1 or path[-1] in fields else dotted
        if name in flat:
            found.problem(f"parameters.{dotted}", f"{name} is there twice, a trainer takes it once; remove one")
        else:
            flat[name] = entry
    return flat


def flat_values(values: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of known names, wherever in the config of a W&B run they are."""
    flat = {name: value for name, value in values.items() if name in names}
    for name, value in values.items():
        if name not in names and isinstance(value, Mapping):
            flat = flat_values(value, names) | flat
    return flat


def _leaves(found: Findings, raw: Mapping[Any, Any], above: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for name, entry in raw.items():
        path = (*above, name)
        if not is_nested(entry):
            yield path, entry
        elif isinstance(entry["parameters"], Mapping) and entry["parameters"]:
            others = [str(key) for key in entry if key != "parameters"]
            if others:
                found.problem(f"parameters.{'.'.join(map(str, path))}",
                              f"has {', '.join(others)} beside parameters; W&B takes one or the other")
            yield from _leaves(found, entry["parameters"], path)
        else:
            found.problem(f"parameters.{'.'.join(map(str, path))}.parameters",
                          "must be a mapping of hyperparameters; name what to search below it")
