"""Parameters inside parameters, as W&B has them: `optimizer.learning_rate` is our `learning_rate`.

A trainer here takes each hyperparameter by its own name, so the last part of a dotted name is what counts; W&B gets the
file as it is, and its runs' configs are read the same way.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from kaggle_runner.sweep.expressions import Tied
from kaggle_runner.sweep.problems import Findings, spelled


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


def as_entries(values: Mapping[Any, Any], fields: Mapping[str, Any]) -> dict[Any, Any]:
    """Return plain values as a sweep file has them, those inside others too, and those of a W&B run's config.yaml."""
    if "_wandb" in values:  # each has a description beside it, and W&B's own begin with a line
        values = {name: entry["value"] for name, entry in values.items()
                  if isinstance(entry, Mapping) and "value" in entry and not str(name).startswith("_")}
    return {name: {"parameters": as_entries(value, fields)} if isinstance(value, Mapping) and value
            and name not in fields else {"value": value} for name, value in values.items()}


def check_paths(found: Findings, tied: Mapping[str, Tied], raw: Mapping[Any, Any]) -> None:
    """Add a problem for each name in an expression that lies elsewhere than it says."""
    places = [".".join(map(str, path)) for path, _ in _leaves(Findings(), raw, ())]
    for name, one in tied.items():
        for path in one.paths:
            if not any(f".{place}".endswith(f".{path}") for place in places):
                last = path.rpartition(".")[2]
                there = next(place for place in places if place.rpartition(".")[2] == last)
                found.problem(f"parameters.{name}.value", f"{spelled(one.text)} names {path}, which is no parameter of "
                                                          f"this file; write {there}")


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
