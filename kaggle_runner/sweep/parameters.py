"""Read the `parameters:` of a sweep file, finding every problem instead of the first."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from kaggle_runner.config import field_types
from kaggle_runner.sweep.aliases import explain_all
from kaggle_runner.sweep.distributions import EXPONENTS, KEYS, Choice, Fixed, Parameter, Range
from kaggle_runner.sweep.expressions import Tied
from kaggle_runner.sweep.problems import Findings, spelled, suggestion, yaml_number
from kaggle_runner.sweep.sent import false_first, settled, without_impossible
from kaggle_runner.sweep.tied import is_expression, read_tied
from kaggle_runner.sweep.values import check_together, check_values

MOST_GRID_POINTS = 100_000


def read_parameters(found: Findings, raw: Any, method: str | None,
                    config_type: Any) -> tuple[dict[str, Parameter], dict[str, Tied]]:
    """Return the parameters that make sense and the tied ones; add a problem for each that does not."""
    if raw is None or raw == {}:
        found.problem("parameters", "missing; name what to search, such as learning_rate, and what is fixed")
        return {}, {}
    if not isinstance(raw, Mapping):
        found.problem("parameters", f"must be a mapping of hyperparameters, got {spelled(raw)}")
        return {}, {}
    fields, before = field_types(config_type), len(found.problems)
    parameters: dict[str, Parameter] = {}
    unknown = [name for name in raw if name not in fields]
    if unknown:
        found.problem("parameters" + (f".{unknown[0]}" if len(unknown) == 1 else ""),
                      explain_all(unknown, fields, "hyperparameter"))
    texts = {name: entry["value"] for name, entry in raw.items()
             if name in fields and is_expression(entry, fields[name], raw)}
    for name, entry in raw.items():
        as_numbers = settled(entry, fields.get(name))
        _warn_of_text(found, f"parameters.{name}", entry, as_numbers)
        parameter = None if name in texts else _read_parameter(found, f"parameters.{name}", as_numbers, method)
        if parameter is not None:
            parameters[name] = parameter
    tied = read_tied(found, texts, parameters, config_type) if len(found.problems) == before else {}
    check_values(found, parameters, config_type, frozenset(raw) - parameters.keys())
    if len(found.problems) == before:
        check_together(found, parameters, tied, config_type)
        _check_search(found, parameters, method)
    return parameters, tied


def _read_parameter(found: Findings, path: str, raw: Any, method: str | None) -> Parameter | None:
    if not isinstance(raw, Mapping):
        way_out = f"values: {spelled(raw)}" if isinstance(raw, list) else f"value: {spelled(raw)}"
        found.problem(path, f"must be a mapping, got {spelled(raw)}; write {way_out} below it")
        return None
    distribution = _distribution(found, path, raw)
    if distribution is None:
        return None
    allowed = KEYS[distribution]
    required = [key for key in allowed if key in ("value", "values", "probabilities", "min", "max")]
    before, strange = len(found.problems), dict[str, list[str]]()
    for key in raw:
        if key != "distribution" and key not in allowed:
            strange.setdefault(_way_out(key, distribution), []).append(str(key))
    for way_out, keys in strange.items():
        one = len(keys) == 1
        found.problem(f"{path}.{keys[0]}" if one else path,
                      f"{distribution} takes {_listed(allowed)}{'' if one else f', not {_listed(keys)}'}; {way_out}")
    for key in required:
        if key not in raw:
            found.problem(path, f"{distribution} needs {_listed(required)}; {key} is missing")
    if len(found.problems) > before:
        return None
    if distribution == "constant":
        return Fixed(value=raw["value"])
    if distribution.startswith("categorical"):
        return _read_choice(found, path, raw, method)
    return _read_range(found, path, raw, distribution, method)


def _distribution(found: Findings, path: str, raw: Mapping[str, Any]) -> str | None:
    """Return the distribution that is named, or that W&B infers from the other keys."""
    if "distribution" in raw:
        name = raw["distribution"]
        if isinstance(name, str) and name in KEYS:
            return name
        found.problem(f"{path}.distribution", f"no such distribution: {spelled(name)}; {suggestion(name, KEYS)}")
    elif "value" in raw:
        return "constant"
    elif "values" in raw:
        return "categorical_w_probabilities" if "probabilities" in raw else "categorical"
    elif "min" in raw and "max" in raw:
        return "int_uniform" if isinstance(raw["min"], int) and isinstance(raw["max"], int) else "uniform"
    elif "min" in raw or "max" in raw:
        there, missing = ("min", "max") if "min" in raw else ("max", "min")
        found.problem(path, f"{there} without {missing}; add {missing}, or use values")
    elif set(raw) & {"q", "mu", "sigma", "a", "b"}:
        found.problem(path, f"{_listed(sorted(map(str, raw)))} without a distribution; add distribution: normal, "
                            f"q_uniform or another")
    else:
        extra = f", got {_listed(sorted(map(str, raw)))}" if raw else ""
        found.problem(path, f"needs value, values, or min and max{extra}")
    return None


def _way_out(key: Any, distribution: str) -> str:
    if key == "q" and f"q_{distribution}" in KEYS:
        return f"for steps of q use distribution: q_{distribution}"
    if key in ("min", "max") and "normal" in distribution:
        return "a normal has no bounds, use mu and sigma"
    if key in ("mean", "std"):
        return f"write {'mu' if key == 'mean' else 'sigma'}"
    return "leave it out"


def _listed(keys: Iterable[str]) -> str:
    *rest, last = keys
    return f"{', '.join(rest)} and {last}" if rest else last


def _read_choice(found: Findings, path: str, raw: Mapping[str, Any], method: str | None) -> Choice | None:
    values, before = raw["values"], len(found.problems)
    if not isinstance(values, list):
        found.problem(f"{path}.values", f"must be a list, got {spelled(values)}; write [{spelled(values)}]")
        return None
    if not values:
        found.problem(f"{path}.values", "must not be empty; list what to try, or leave the parameter out")
        return None
    probabilities = None
    if "probabilities" in raw:
        probabilities = _read_probabilities(found, f"{path}.probabilities", raw["probabilities"], len(values))
        if len(found.problems) > before:
            return None
        if method in ("bayes", "grid"):
            why = "W&B's bayes fails on them" if method == "bayes" else "a grid runs every value once"
            found.warn(f"{path}.probabilities", f"left out, here and for W&B: {why}; method: random goes by them")
            values, probabilities = without_impossible(raw)["values"], None
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if method == "bayes":
        _warn_of_false(found, f"{path}.values", values)
    choice = Choice(values=tuple(values), probabilities=probabilities)
    if choice.count < len(values):
        found.warn(f"{path}.values", "lists a value twice, so it is tried twice as often")
    if method == "bayes" and len(numbers) == len(values) and list(values) != sorted(values):
        found.warn(f"{path}.values", f"is searched in this order, and {spelled(values)} is not ascending; "
                                     f"write {spelled(sorted(values))}")
    return choice if len(found.problems) == before else None


def _warn_of_text(found: Findings, path: str, given: Any, read: Any) -> None:
    """Say which values YAML takes for text, or for numbers, though they are something else here."""
    for key in ("value", "values") if isinstance(given, Mapping) else ():
        old, new = given.get(key), read.get(key)
        pairs = [(old, new)] if key == "value" else list(zip(old, new, strict=True)) if isinstance(old, list) else []
        texts = [(was, now) for was, now in pairs if isinstance(was, str) and not isinstance(now, str)]
        if texts:
            found.warn(f"{path}.{key}", f"{', '.join(repr(was) for was, _ in texts)} {_are(texts)} text to YAML, and "
                                        f"read as {', '.join(spelled(now) for _, now in texts)}, which W&B gets too; "
                                        f"write {', '.join(_in_yaml(was, now) for was, now in texts)}")
        bits = [(was, now) for was, now in pairs if isinstance(now, bool) and not isinstance(was, bool | str)]
        if bits:
            found.warn(f"{path}.{key}", f"{', '.join(str(was) for was, _ in bits)} {_are(bits)} read as "
                                        f"{', '.join(spelled(now) for _, now in bits)}, which W&B gets too")


def _are(many: list[Any]) -> str:
    return "is" if len(many) == 1 else "are"


def _in_yaml(was: Any, now: Any) -> str:
    """Return how a value is written so that YAML reads it as it is meant."""
    return spelled(now) if now is None or isinstance(now, bool) else yaml_number(was)


def _warn_of_false(found: Findings, path: str, values: list[Any]) -> None:
    """Say what W&B's bayes would do with values that Python takes for false, and what it gets therefore."""
    first = false_first(values)
    if [*map(spelled, first)] != [*map(spelled, values)]:
        empty = ", ".join(dict.fromkeys(spelled(value) for value in values if not value))
        found.warn(path, f"W&B's bayes takes {empty} for the first value wherever it stands, so W&B gets "
                         f"{spelled(first)}")


def _read_probabilities(found: Findings, path: str, raw: Any, count: int) -> tuple[float, ...] | None:
    if not isinstance(raw, list) or len(raw) != count:
        got = f"{len(raw)}" if isinstance(raw, list) else spelled(raw)
        found.problem(path, f"must be a list with one number for each of the {count} values, got {got}")
        return None
    numbers = [found.number(f"{path}[{index}]", value) for index, value in enumerate(raw)]
    chances = tuple(number for number in numbers if number is not None)
    if len(chances) < count:
        return None
    if min(chances) < 0:
        found.problem(path, f"must not be negative, got {min(chances)}")
    elif not math.isclose(sum(chances), 1.0, rel_tol=1e-5):
        found.problem(path, f"must sum to 1, but sum to {sum(chances):.6g}")
    return chances


def _read_range(found: Findings, path: str, raw: Mapping[str, Any], distribution: str,
                method: str | None) -> Range | None:
    before = len(found.problems)
    names = {"min": "low", "max": "high"}
    numbers = {key: found.number(f"{path}.{key}", raw[key]) for key in KEYS[distribution] if key in raw}
    given = {key: number for key, number in numbers.items() if number is not None}
    for key in ("q", "sigma", "a", "b"):
        if given.get(key, 1) <= 0:
            found.problem(f"{path}.{key}", f"must be above 0, got {given[key]}")
    if distribution == "int_uniform":
        for key in ("min", "max"):
            if key in given and not isinstance(given[key], int):
                found.problem(f"{path}.{key}", f"int_uniform takes whole numbers, got {given[key]}; "
                                               f"write {round(given[key])}, or use distribution: uniform")
    if "min" in given and "max" in given and given["min"] >= given["max"]:
        found.problem(f"{path}.min", f"must be below max, got min {given['min']} and max {given['max']}"
                                     + ("; swap them" if given["min"] > given["max"] else "; use value"))
    elif distribution.endswith("log_uniform_values") and given.get("min", 1) <= 0:
        found.problem(f"{path}.min", f"must be above 0 for {distribution}, got {given['min']}; "
                                     f"a logarithm has no place for it")
    elif distribution in EXPONENTS and "min" in given and "max" in given:
        _check_exponents(found, path, distribution, given["min"], given["max"])
    if method == "grid" and distribution not in ("int_uniform", "q_uniform"):
        found.problem(path, f"a grid needs a list, and {distribution} has no end of values; "
                            f"use values, or distribution: q_uniform with q")
    if len(found.problems) > before or len(given) < len(numbers):
        return None
    if "learning_rate" in path and distribution == "uniform" and "distribution" not in raw:
        found.warn(path, f"min and max without a distribution are drawn evenly, so half of the trials are above "
                         f"{(given['min'] + given['max']) / 2:.3g}; add distribution: log_uniform_values")
    parameter = Range(distribution=distribution, **{names.get(key, key): number for key, number in given.items()})
    try:
        parameter.from_unit(0.0), parameter.from_unit(1.0)
    except OverflowError:
        found.problem(path, f"the values of this {distribution} overflow; "
                            + ("mu and sigma belong to the value's logarithm, mu: -9 means a median of 0.00012"
                               if "normal" in distribution else "use a larger q"))
    return parameter if len(found.problems) == before else None


def _check_exponents(found: Findings, path: str, distribution: str, low: float, high: float) -> None:
    """W&B's oldest trap: the bounds of log_uniform are exponents of e, which nobody expects."""
    ends = sorted((-low, -high) if distribution.startswith("inv_") else (low, high))
    if (low >= 0 and high <= 1) or ends[1] > 700:
        result = "overflow" if ends[1] > 700 else f"lie between {math.exp(ends[0]):.6g} and {math.exp(ends[1]):.6g}"
        found.problem(path, f"min and max of {distribution} are exponents of e, so the values would {result}; "
                            f"for values from {low} to {high} write distribution: {distribution}_values")
    else:
        found.warn(path, f"min and max of {distribution} are exponents of e: the values lie between "
                         f"{math.exp(ends[0]):.3g} and {math.exp(ends[1]):.3g}; {distribution}_values takes the "
                         f"values themselves")


def _check_search(found: Findings, parameters: Mapping[str, Parameter], method: str | None) -> None:
    searched = {name: parameter for name, parameter in parameters.items() if not isinstance(parameter, Fixed)}
    if method == "bayes" and not searched:
        found.problem("parameters", "nothing to search, every parameter has one value; give one of them values or "
                                    "min and max, or use method: grid for a single trial")
    if method == "grid":
        points = math.prod(parameter.count or 1 for parameter in searched.values())
        if points > MOST_GRID_POINTS:
            found.problem("parameters", f"the grid has {points} points, more than {MOST_GRID_POINTS} cannot be "
                                        f"listed; use method: random, or fewer values")
