"""A sweep file, in W&B's own schema: read once, checked once, every problem reported at once.

The file itself stays what it was: `SweepSpec.raw` is handed to W&B unchanged.
"""

import dataclasses
import difflib
import importlib.resources
import itertools
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from kaggle_runner.config import TRAINERS, FinetuneConfig, field_types
from kaggle_runner.errors import SweepError
from kaggle_runner.sweep.distributions import Choice, Fixed, Parameter, Range
from kaggle_runner.sweep.parameters import read_parameters
from kaggle_runner.sweep.problems import Findings, spelled, suggestion
from kaggle_runner.sweep.sections import (
    Hyperband,
    check_key,
    read_early_terminate,
    read_method,
    read_metric,
    read_whole_number,
)

__all__ = ["Choice", "Fixed", "Hyperband", "Parameter", "Range", "SweepSpec", "check_config", "read_sweep",
           "shipped_sweep"]

SHIPPED = "sweeps"
"""Folder of the sweep files in the package, and how a user names them: `sweeps/demo.yaml`."""


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """A sweep: what is searched, how, and what for."""

    source: str
    """Path of the file."""
    name: str
    """`name:` of the file, else the file's own name without its ending."""
    method: Literal["bayes", "random", "grid"]
    metric: str
    """Name of what the trials are compared by, such as `eval/loss`."""
    goal: Literal["minimize", "maximize"]
    target: float | None = None
    """The sweep ends when a trial reaches this value of the metric; none: never."""
    parameters: Mapping[str, Parameter]
    """In the order of the file."""
    early_terminate: Hyperband | None = None
    run_cap: int | None = None
    """Most trials of the sweep; none: no limit."""
    raw: Mapping[str, Any]
    """The file as read, plain JSON values only."""
    warnings: tuple[str, ...] = ()
    """What will work, but perhaps not as meant."""

    @property
    def trainer(self) -> str:
        """What trains its trials: `finetune` or `charlm`."""
        return str(self.fixed.get("trainer", "finetune"))

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that every trial shares."""
        return {name: parameter.value for name, parameter in self.parameters.items() if isinstance(parameter, Fixed)}

    @property
    def searched(self) -> dict[str, Choice | Range]:
        """The parameters that differ between trials, in the order of the file."""
        return {name: parameter for name, parameter in self.parameters.items() if not isinstance(parameter, Fixed)}

    @property
    def count(self) -> int | None:
        """Number of different trials; none if there is no end to them."""
        counts = [len(_grid_values(parameter)) if self.method == "grid" else parameter.count
                  for parameter in self.searched.values()]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    def sample(self, seed: int) -> dict[str, Any]:
        """Draw one trial's parameters: what W&B's random search draws after `random.seed(seed)`.

        Source: PyPI `sweeps` 0.3.0, `random_search_next_runs`: one number for each parameter by name, fixed ones too.
        """
        numbers = random.Random(seed)
        drawn = {name: self.parameters[name].from_unit(numbers.random()) for name in sorted(self.parameters)}
        return {name: drawn[name] for name in self.parameters}

    def grid(self) -> list[dict[str, Any]]:
        """List every trial's parameters in the order W&B's grid search runs them: by name, the last one fastest.

        Raises:
            ValueError: a range that has no list of values.
        """
        names = sorted(self.searched)
        points = itertools.product(*(_grid_values(self.searched[name]) for name in names))
        chosen = (dict(zip(names, point, strict=True)) for point in points)
        return [{name: values[name] if name in values else self.fixed[name] for name in self.parameters}
                for values in chosen]

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Say whether a trial with exactly these parameters could come from this sweep."""
        return params.keys() == self.parameters.keys() and all(
            parameter.contains(params[name]) for name, parameter in self.parameters.items())


def read_sweep(path: Path, config_type: type | None = None, metrics: Sequence[str] = ("eval/loss",)) -> SweepSpec:
    """Read a sweep file and check all of it; `sweeps/demo.yaml` and its like are found in the package too.

    Its parameters are checked against `config_type`, by default the config of the trainer that its `trainer` names, a
    fine-tune where it names none; `metrics` are what that trainer reports.

    Raises:
        SweepError: the file is missing or not YAML, or has problems; holds all of them.
    """
    path = find_file(path)
    found = Findings()
    return _checked(path, parse_mapping(path, found), found, config_type, metrics)


def read_configuration(path: Path, config_type: type | None = None,
                       metrics: Sequence[str] = ("eval/loss",)) -> SweepSpec:
    """Read a YAML file of hyperparameters, `learning_rate: 1.0e-4` and so on, as a sweep of that one configuration.

    Raises:
        SweepError: the file is missing or not YAML, or has problems; holds all of them.
    """
    path = find_file(path)
    found = Findings()
    values = parse_mapping(path, found)
    refuse_other_file(path, values, "train")
    raw = {"method": "grid", "metric": {"name": metrics[0], "goal": "minimize"},
           "parameters": {name: {"value": value} for name, value in values.items()}}
    try:
        return _checked(path, raw, found, config_type, metrics)
    except SweepError as error:  # in this file the names stand by themselves
        raise SweepError(error.source, [re.sub(r"^parameters\.([^:]*?)(\.value)?:", r"\1:", problem)
                                        for problem in error.problems]) from None


def check_config(raw: Mapping[str, Any], source: str, config_type: type | None = None,
                 metrics: Sequence[str] = ("eval/loss",)) -> SweepSpec:
    """Check a sweep that did not come from a file: what W&B's server holds under the name `source`.

    Raises:
        SweepError: it has problems; holds all of them.
    """
    found = Findings()
    _check_plain(found, "", raw)
    return _checked(Path(source), dict(raw), found, config_type, metrics)


def _checked(path: Path, raw: dict[str, Any], found: Findings, wanted_type: type | None,
             metrics: Sequence[str]) -> SweepSpec:
    refuse_other_file(path, raw, "sweep")
    config_type = wanted_type or _config_type(found, raw.get("parameters"))
    for key in raw:
        check_key(found, key, raw[key], config_type)
    method = read_method(found, raw)
    metric, goal, target = read_metric(found, raw, metrics)
    parameters = read_parameters(found, raw.get("parameters"), method, config_type)
    early_terminate = read_early_terminate(found, raw["early_terminate"]) if "early_terminate" in raw else None
    if early_terminate and "metric" not in raw and method != "bayes":
        found.problem("early_terminate", f"needs a metric; write metric: with name: {metrics[0]} and "
                                         f"goal: minimize below it")
    run_cap = read_whole_number(found, "run_cap", raw["run_cap"]) if "run_cap" in raw else None
    if found.problems:
        raise SweepError(str(path), found.problems)
    spec = SweepSpec(source=str(path), name=raw.get("name") or path.stem, method=method, metric=metric, goal=goal,
                     target=target, parameters=parameters, early_terminate=early_terminate, run_cap=run_cap, raw=raw)
    _warn_about_trials(found, spec, config_type)
    return dataclasses.replace(spec, warnings=tuple(found.warnings))


def refuse_other_file(path: Path, raw: Mapping[str, Any], command: str) -> None:
    """Refuse a file that is for another command than this one.

    Raises:
        SweepError: names the command it is for.
    """
    for mark, kind, its in (("studies", "a tuning plan", "tune"), ("vary", "a one-at-a-time study", "vary"),
                            ("parameters", "a sweep file", "sweep")):
        if mark in raw and its != command:
            raise SweepError(str(path), [f"is {kind}; run it with: python -m kaggle_runner {its} {path}"])
        if mark in raw:
            return


def _config_type(found: Findings, parameters: Any) -> type:
    """Return the config of the trainer that a file names; what is wrong with the name is found with the others."""
    entry = parameters.get("trainer") if isinstance(parameters, dict) else None
    if isinstance(entry, dict) and "value" not in entry:
        found.problem("parameters.trainer", "must have one value, a sweep has one trainer; write value: "
                                            + " or value: ".join(TRAINERS))
    return TRAINERS.get(str(entry.get("value")), FinetuneConfig) if isinstance(entry, dict) else FinetuneConfig


def shipped_sweep(name: str) -> Path:
    """Return the path of a sweep file that ships with the package, such as `demo`.

    Raises:
        SweepError: no such file ships.
    """
    folder = Path(str(importlib.resources.files("kaggle_runner.sweep") / "shipped"))
    path = folder / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        raise SweepError(f"{SHIPPED}/{path.name}", [f"no such sweep ships with kaggle_runner; "
                                                    f"{suggestion(path.name, _sweep_files(folder))}"])
    return path


class _Loader(yaml.SafeLoader):
    """YAML as JSON could say it: dates stay text, and a key that is given twice is remembered."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[tuple[Any, int]] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value
                if key.tag != "tag:yaml.org,2002:merge"]
        self.repeated += [(key, node.value[i][0].start_mark.line + 1) for i, key in enumerate(keys) if key in keys[:i]]
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def find_file(path: Path, mark: str = "parameters") -> Path:
    """Return where a file is, of the package's own those with `mark` as a key: a sweep, a plan, a study.

    Raises:
        SweepError: there is none; names those that were probably meant.
    """
    packaged = Path(str(importlib.resources.files("kaggle_runner.sweep") / "shipped"))
    try:
        if path.is_file():
            return path
        if path.is_dir():
            there = ", ".join(_sweep_files(path)) or "it holds none"
            raise SweepError(str(path), [f"is a folder; give a sweep file in it: {there}"])
        if path.parent == Path(SHIPPED) and (packaged / path.name).is_file():
            return packaged / path.name
        near = {Path(name).stem: path.parent / name for name in _sweep_files(path.parent)}
    except OSError as error:
        raise SweepError(str(path), [f"cannot be read: {error.strerror}"]) from error
    ours = [name for name in _sweep_files(packaged) if f"\n{mark}:" in (packaged / name).read_text(encoding="utf-8")]
    known = {Path(name).stem: Path(SHIPPED, name) for name in ours} | near
    close = difflib.get_close_matches(path.stem, known, n=1)
    kind = "sweep " if mark == "parameters" else ""
    way_out = (f"did you mean {known[close[0]]}?" if close else
               f"give your own {kind}file, or one that ships: {', '.join(map(str, known.values()))}")
    raise SweepError(str(path), [f"no such file; {way_out}"])


def _sweep_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.y*ml")) if folder.is_dir() else []


def parse_mapping(path: Path, found: Findings) -> dict[str, Any]:
    """Return the file's mapping, with a problem for everything that JSON could not say."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8-sig"))
        raw = loader.get_single_data()
        json.dumps(raw, default=str)  # refuses an alias that contains itself
    except OSError as error:
        raise SweepError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise SweepError(str(path), [f"is not UTF-8 text (byte {error.start}); is it a sweep file?"]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SweepError(str(path), [f"{where}not YAML: {error.problem or error.context}; check the colons, quotes "
                                     f"and indentation there"]) from error
    except yaml.YAMLError as error:
        raise SweepError(str(path), [f"not YAML: {' '.join(str(error).split())}"]) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise SweepError(str(path), [f"not usable YAML: {error}"]) from error
    if raw is None:
        raise SweepError(str(path), [f"the file is empty; copy {SHIPPED}/demo.yaml and change it"])
    if not isinstance(raw, dict):
        kind = "a list" if isinstance(raw, list) else f"only {spelled(raw)}"
        raise SweepError(str(path), [f"must be a mapping with method, metric and parameters, but the file is {kind}"])
    for key, line in loader.repeated:
        found.problem(f"line {line}", f"{spelled(key)} is given twice, and only the last one would count; remove one")
    _check_plain(found, "", raw)
    return raw


def _check_plain(found: Findings, path: str, value: Any) -> None:
    """Add a problem for what JSON cannot say; the file goes into the study's journal and to W&B as JSON."""
    inside = f"{path}." if path else ""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                found.problem(f"{inside}{spelled(key)}", "a key must be text; put it in quotes")
            _check_plain(found, f"{inside}{key}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(found, f"{path}[{index}]", item)
    elif isinstance(value, float) and not math.isfinite(value):
        found.problem(path, f"must be a finite number, got {value}")
    elif not isinstance(value, str | int | float | None):
        found.problem(path, f"must be text, a number, true, false or null, got {spelled(value)}")


def _warn_about_trials(found: Findings, spec: SweepSpec, config_type: Any) -> None:
    if spec.run_cap and spec.count is not None and spec.count < spec.run_cap:
        found.warn("run_cap", f"{spec.run_cap} trials, but only {spec.count} are different")
    names = {"max_steps", "eval_steps"}
    if spec.early_terminate and names <= field_types(config_type).keys() and not names & spec.searched.keys():
        config = config_type.from_params({name: value for name, value in spec.fixed.items() if name in names})
        evaluations = math.ceil(config.max_steps / config.eval_steps)
        if not spec.early_terminate.bands(evaluations - 1):
            found.warn("early_terminate", f"decides nothing: a trial has {evaluations} evaluations (max_steps "
                                          f"{config.max_steps}, eval_steps {config.eval_steps}); lower eval_steps")


def _grid_values(parameter: Choice | Range) -> tuple[Any, ...]:
    return parameter.grid_values() if isinstance(parameter, Range) else parameter.distinct
