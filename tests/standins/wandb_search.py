"""Where the loopback W&B server gets its next point: the test's script, W&B's own engine, or a seeded draw.

W&B's engine is the `sweeps` package (grid, random and bayes as the cloud runs them); it is used when it can be
imported in the server's process. The seeded draw knows every distribution of the schema except the normal ones.

Two unpleasant habits of the real search are kept: a sweep file with mistakes is accepted, and the mistakes are only
warned of; an engine that raises is not seen by anyone but the agents, whose heartbeats are answered with status
400.
"""

import itertools
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sweeps as engine
except ImportError:
    engine = None


class EngineError(Exception):
    """The search raised; the cloud answers the heartbeat with status 400 and goes on answering so."""


def violations(config: Mapping[str, Any]) -> list[str]:
    """Return what the cloud would only warn about: W&B's own schema check, or the three slips users make most."""
    if engine is not None:
        return list(engine.schema_violations_from_proposed_config(dict(config)))
    found = []
    if config.get("method") not in ("grid", "random", "bayes", "custom"):
        found.append(f"{config.get('method')!r} is not one of ['grid', 'random', 'bayes', 'custom']")
    goal = (config.get("metric") or {}).get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        found.append(f"{goal!r} is not one of ['minimize', 'maximize']")
    if not config.get("parameters"):
        found.append("'parameters' is a required property")
    return found


def suggest(
    config: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], seed: int, use_engine: bool
) -> dict[str, Any] | None:
    """Return the next point as `{name: value}`, or None when a grid is exhausted.

    `runs` are in order of creation: `name`, `state`, `config` (`{key: {"value": ..}}`), `summary`, `history`.

    Raises:
        EngineError: the config, or a run in the sweep, makes the search raise.
    """
    try:
        if use_engine and engine is not None:
            return _from_engine(config, runs, seed)
        return _seeded(config, runs, seed)
    except Exception as error:
        raise EngineError(f"{type(error).__name__}: {error}") from error


def _seeded(config: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any] | None:
    parameters = config.get("parameters", {})
    if config.get("method") == "grid":
        names = list(parameters)
        grid = itertools.product(*(_grid_values(parameters[name]) for name in names))
        return next((dict(zip(names, point, strict=True)) for point in itertools.islice(grid, len(runs), None)), None)
    draw = random.Random(f"{seed}/{len(runs)}")
    return {name: _draw(parameter, draw) for name, parameter in parameters.items()}


def _from_engine(config: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any] | None:
    import numpy

    past = [
        engine.SweepRun(
            name=run["name"],
            state=run["state"],
            config=run["config"],
            summary_metrics=run["summary"],
            history=run["history"],
        )
        for run in runs
    ]
    numpy.random.seed((seed + len(runs)) % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = engine.next_run(dict(config), past)
    if found is None:
        return None
    return {key: _plain(entry["value"]) for key, entry in found.config.items()}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _grid_values(parameter: Mapping[str, Any]) -> list[Any]:
    if "values" in parameter:
        return list(parameter["values"])
    if "value" in parameter:
        return [parameter["value"]]
    if isinstance(parameter.get("min"), int) and isinstance(parameter.get("max"), int):
        return list(range(parameter["min"], parameter["max"] + 1))
    raise ValueError(f"a grid cannot enumerate {dict(parameter)}")


def _draw(parameter: Mapping[str, Any], draw: random.Random) -> Any:
    if "parameters" in parameter:
        return {name: _draw(child, draw) for name, child in parameter["parameters"].items()}
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return draw.choices(parameter["values"], weights=parameter.get("probabilities"))[0]
    low, high = parameter["min"], parameter["max"]
    kind = parameter.get("distribution", "int_uniform" if isinstance(low, int) else "uniform")
    if kind == "int_uniform":
        return draw.randint(low, high)
    if kind.endswith("log_uniform_values"):
        value = math.exp(draw.uniform(math.log(low), math.log(high)))
    elif kind.endswith("log_uniform"):
        value = math.exp(draw.uniform(low, high))
    elif kind in ("uniform", "q_uniform"):
        value = draw.uniform(low, high)
    else:
        raise ValueError(f"unknown distribution {kind}")
    step = parameter.get("q", 1) if kind.startswith("q_") else 0
    return round(value / step) * step if step else value
