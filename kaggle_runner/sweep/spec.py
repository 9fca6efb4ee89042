"""A sweep file, in W&B's own schema: read once, checked once, every problem reported at once.

The file itself stays what it was in `SweepSpec.raw`; `SweepSpec.for_wandb` is what W&B gets of it.
"""

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kaggle_runner.config import DEMO_DATASET, DEMO_MODEL, TRAINERS, FinetuneConfig, field_types
from kaggle_runner.errors import SweepError
from kaggle_runner.metrics import LOSS, MEASURED, Goal, Metric
from kaggle_runner.mounts import fetched
from kaggle_runner.sweep.distributions import Choice, Fixed, Parameter, Range, same_value
from kaggle_runner.sweep.expressions import Tied
from kaggle_runner.sweep.nesting import as_entries, check_paths, flat_entries, flat_values
from kaggle_runner.sweep.parameters import read_parameters
from kaggle_runner.sweep.problems import Findings, spelled
from kaggle_runner.sweep.scoring import hold_scoring
from kaggle_runner.sweep.sections import (
    Hyperband,
    check_key,
    check_unknown_keys,
    read_early_terminate,
    read_method,
    read_metric,
    read_metrics,
    read_scheduler,
    read_whole_number,
)
from kaggle_runner.sweep.sent import sent_to_wandb, settled
from kaggle_runner.sweep.study_settings import Confirm, Sampler, read_confirm, read_sampler
from kaggle_runner.sweep.tied import with_tied
from kaggle_runner.sweep.values import spelled_alike
from kaggle_runner.sweep.yaml_file import (
    check_plain,
    find_file,
    parse_mapping,
    refuse_other_file,
    shipped_sweep,
)
from kaggle_runner.wording import how_many

BATCH = ("batch_size", "gradient_accumulation_steps")
"""Whose product is the rows of an optimizer step."""

__all__ = ["Choice", "Fixed", "Hyperband", "Parameter", "Range", "SweepSpec", "check_config", "read_sweep",
           "shipped_sweep"]


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """A sweep: what is searched, how, and what for."""

    source: str
    """Path of the file."""
    name: str
    """`name:` of the file, else the file's own name without its ending."""
    method: Literal["bayes", "random", "grid", "custom"]
    metric: str
    """Name of what the trials are compared by, such as `eval/loss`."""
    goal: Goal
    target: float | None = None
    """The sweep ends when a trial reaches this value of the metric; none: never."""
    parameters: Mapping[str, Parameter]
    """In the order of the file, and after them what is held."""
    held: Mapping[str, Any] = field(default_factory=dict)
    """What the evaluation is held at, because a hyperparameter is searched that would change which tokens count."""
    early_terminate: Hyperband | None = None
    run_cap: int | None = None
    """Most trials that the sweep may have; none for no limit."""
    raw: Mapping[str, Any]
    """The file as read, plain JSON values only; parameters inside parameters under their own names."""
    tied: Mapping[str, Tied] = field(default_factory=dict)
    """Parameters that follow from others, each after those it is made of."""
    sampler: Sampler = "own"
    """Who chooses the points of a `bayes` sweep that runs here."""
    confirm: Confirm | None = None
    """How its winner is confirmed; none where the file does not say."""
    for_wandb: Mapping[str, Any] = field(default_factory=dict)
    """The file as W&B gets it: as it stands, without our own keys, and in the form its engine takes as meant."""
    is_open: bool = False
    """A function of a scheduler names the parameters, so a trial may have others than the file."""
    warnings: tuple[str, ...] = ()
    """What will work, but perhaps not as meant."""

    @property
    def judged_by(self) -> Metric:
        """What its trials are compared by."""
        return Metric(name=self.metric, goal=self.goal)

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
    def needs_no_hub(self) -> bool:
        """Whether model and rows are those that ship with the package."""
        return all(self.fixed.get(name, ours) == ours and name not in self.searched
                   for name, ours in (("model", DEMO_MODEL), ("dataset", DEMO_DATASET), ("eval_dataset", None)))

    @property
    def fetched(self) -> dict[str, str]:
        """What its trials must fetch, each with where from."""
        return fetched(self.parameters)

    @property
    def count(self) -> int | None:
        """Number of different trials; none if there is no end to them."""
        counts = [len(_grid_values(parameter)) if self.method == "grid" else parameter.count
                  for parameter in self.searched.values()]
        return None if self.is_open or None in counts else math.prod(count for count in counts if count is not None)

    def with_tied(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return a trial's parameters with the tied ones computed."""
        return with_tied(self.tied, params) if self.tied else dict(params)

    def given_by_wandb(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a W&B run's config says of this sweep's parameters, numbers as numbers.

        Of a sweep whose parameters a function names, all that is there; what is no hyperparameter is refused later.
        """
        fields = field_types(TRAINERS[self.trainer])
        names = fields if self.is_open else [name for name in self.parameters if name not in self.held]
        found = flat_values(config, {name: None for name in names})
        if self.is_open:
            found |= {name: value for name, value in config.items() if name not in fields and name[:1] != "_"
                      and not isinstance(value, Mapping)}
        return {name: settled({"value": value}, fields.get(name))["value"] if name not in self.tied else value
                for name, value in found.items()}

    def require_search(self) -> None:
        """Refuse to search here what only W&B's scheduler can.

        Raises:
            SweepError: says what does.
        """
        if self.method == "custom" or self.is_open:
            key = "method: custom" if self.method == "custom" else "scheduler: search_space"
            raise SweepError(self.source, [f"{key} has a scheduler of W&B's choose the points, and the search here "
                                           f"does not know them; give --backend wandb, run wandb sweep-scheduler, and "
                                           f"agents train; or name the parameters and write method: bayes, random or "
                                           f"grid"])

    def typical(self) -> dict[str, Any]:
        """Return the parameters of one trial: the config's own defaults where the sweep may draw them."""
        defaults = {field.name: field.default for field in dataclasses.fields(TRAINERS[self.trainer])}
        drawn = self.sample(0)
        return self.with_tied({
            name: defaults[name] if name in self.searched and self.parameters[name].contains(defaults[name])
            else drawn[name] for name in self.parameters})

    def sample(self, seed: int) -> dict[str, Any]:
        """Draw one trial's parameters: what W&B's random search draws after `random.seed(seed)`.

        Source: PyPI `sweeps` 0.3.0, `random_search_next_runs`: one number for each parameter by name, fixed ones too.
        """
        numbers = random.Random(seed)
        units = {name: numbers.random() for name in sorted(self.raw.get("parameters", {}))}
        drawn = {name: self.parameters[name].from_unit(units[name]) for name in self.parameters if name in units}
        return self.with_tied(drawn | dict(self.held))

    def grid(self) -> list[dict[str, Any]]:
        """List every trial's parameters in the order W&B's grid search runs them: by name, the last one fastest.

        Raises:
            ValueError: a range that has no list of values.
        """
        names = sorted(self.searched)
        points = itertools.product(*(_grid_values(self.searched[name]) for name in names))
        chosen = (dict(zip(names, point, strict=True)) for point in points)
        return [self.with_tied({name: values[name] if name in values else self.fixed[name]
                                for name in self.parameters}) for values in chosen]

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Say whether a trial with exactly these parameters could come from this sweep."""
        if params.keys() != self.parameters.keys() | self.tied.keys():
            return False
        return all(parameter.contains(params[name]) for name, parameter in self.parameters.items()) and all(
            same_value(value, params[name]) for name, value in self.with_tied(params).items())


def read_sweep(path: Path, config_type: type | None = None, metrics: Sequence[str] = ()) -> SweepSpec:
    """Read a sweep file and check all of it; `sweeps/demo.yaml` and its like are found in the package too.

    Its parameters are checked against `config_type`, by default the config of the trainer that its `trainer` names, a
    fine-tune where it names none; `metrics` are what that trainer reports, its own by default.

    Raises:
        SweepError: the file is missing or not YAML, or has problems; holds all of them.
    """
    path = find_file(path)
    found = Findings()
    return _checked(path, parse_mapping(path, found), found, config_type, metrics)


def read_configuration(path: Path, config_type: type | None = None, metrics: Sequence[str] = ()) -> SweepSpec:
    """Read a YAML file of hyperparameters, `learning_rate: 1.0e-4` and so on, as a sweep of that one configuration.

    Raises:
        SweepError: the file is missing or not YAML, or has problems; holds all of them.
    """
    path = find_file(path, "")
    found = Findings()
    values = parse_mapping(path, found, mark="")
    refuse_other_file(path, values, "train")
    raw = {"method": "grid", "metric": {"name": metrics[0] if metrics else LOSS, "goal": "minimize"},
           "parameters": {name: {"value": value} for name, value in values.items()}}
    return _checked_plain(path, raw, found, config_type, metrics)


def read_start(path: Path, spec: SweepSpec, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Read the configuration that a sweep is to start with: `name: value` lines, or a sweep file of fixed values.

    Returns what the sweep searches, checked beside what it holds fixed; `tell` is told what else of the file the sweep
    has otherwise.

    Raises:
        SweepError: the file is missing or has problems, or names nothing that is searched.
    """
    path, found = find_file(path, ""), Findings()
    raw = parse_mapping(path, found, mark="")
    refuse_other_file(path, raw, "sweep")
    is_sweep, fields = isinstance(raw.get("parameters"), dict), field_types(TRAINERS[spec.trainer])
    entries = flat_entries(found, raw["parameters"] if is_sweep else as_entries(raw, fields), fields)
    given = {name: {"value": entry["values"][0]} if len(entry.get("values") or ()) == 1 else entry
             for name, entry in entries.items() if isinstance(entry, dict) and {"value", "values"} & entry.keys()}
    given = {name: entry for name, entry in given.items() if "value" in entry}
    trainer = given.get("trainer", {}).get("value", spec.trainer)
    if trainer != spec.trainer:
        raise SweepError(str(path), [f"trainer: is {spelled(trainer)}, but {spec.source} trains with {spec.trainer}; "
                                     f"give a configuration of that trainer"])
    fixed = {name: entry for name, entry in given.items() if name in spec.searched or name not in fields}
    nothing = SweepError(str(path), [f"parameters: names nothing that {spec.source} searches "
                                     f"({', '.join(spec.searched)}); name one of these with a value"])
    if not fixed and not found.problems:
        raise nothing
    fixed |= {name: {"value": value} for name, value in spec.fixed.items()}
    check = _checked if is_sweep else _checked_plain
    read = check(path, {"method": "grid", "parameters": fixed}, found, TRAINERS[spec.trainer], (spec.metric,))
    start = {name: value for name, value in read.with_tied(read.fixed).items() if name in spec.searched}
    if not start:
        raise nothing
    known = {**spec.fixed, **start}
    for name, tied in spec.tied.items():
        known |= {name: tied.value(known)} if known.keys() >= set(tied.names) else {}
    own = {**TRAINERS[spec.trainer]().as_dict(), **known}
    others = [f"{name} {spelled(own[name])}, not {spelled(entry['value'])}" for name, entry in given.items()
              if name in own and name not in spec.searched and (name in known or name not in spec.tied)
              and not spelled_alike(own[name], entry["value"])]
    others += [f"{name}, which has several values there" for name in entries
               if name in spec.searched and name not in given]
    if others:
        tell(f"--start: trials have the sweep's own {'; '.join(others)}")
    return start


def _checked_plain(path: Path, raw: dict[str, Any], found: Findings, config_type: type | None,
                   metrics: Sequence[str]) -> SweepSpec:
    """Check a file of `name: value` lines, where the names stand by themselves in what is said of them."""
    try:
        return _checked(path, raw, found, config_type, metrics)
    except SweepError as error:
        raise SweepError(error.source, [re.sub(r"^parameters: (?=\d+ names)", "",
                                               re.sub(r"^parameters\.([^:]*?)(\.value)?:", r"\1:", problem))
                                        for problem in error.problems]) from None


def check_config(raw: Mapping[str, Any], source: str, config_type: type | None = None,
                 metrics: Sequence[str] = ()) -> SweepSpec:
    """Check a sweep that did not come from a file: what W&B's server holds under the name `source`.

    Raises:
        SweepError: it has problems; holds all of them.
    """
    found = Findings()
    check_plain(found, "", raw)
    return _checked(Path(source), dict(raw), found, config_type, metrics)


def _checked(path: Path, raw: dict[str, Any], found: Findings, wanted_type: type | None,
             metrics: Sequence[str]) -> SweepSpec:
    refuse_other_file(path, raw, "sweep")
    config_type = wanted_type or _config_type(found, raw.get("parameters"))
    metrics = metrics or measured_by(config_type)
    for key in raw:
        check_key(found, key, raw[key], config_type)
    check_unknown_keys(found, raw, config_type)
    method = read_method(found, raw)
    metric, goal, target = (read_metrics if "metrics" in raw else read_metric)(found, raw, metrics)
    is_open, given = read_scheduler(found, raw), raw
    if isinstance(raw.get("parameters"), Mapping):
        raw = {**raw, "parameters": flat_entries(found, raw["parameters"], field_types(config_type))}
    parameters, tied = ({}, {}) if is_open and "parameters" not in raw else read_parameters(
        found, raw.get("parameters"), method, config_type)
    if tied:
        check_paths(found, tied, given["parameters"])
    early_terminate = read_early_terminate(found, raw["early_terminate"]) if "early_terminate" in raw else None
    if early_terminate and "metric" not in raw and method != "bayes":
        found.problem("early_terminate", f"needs a metric; write metric: with name: {metrics[0]} and "
                                         f"goal: minimize below it")
    held = hold_scoring(found, parameters, field_types(config_type), metric or metrics[0], metrics)
    run_cap = read_whole_number(found, "run_cap", raw["run_cap"]) if "run_cap" in raw else None
    sampler, confirm = read_sampler(found, raw, method), read_confirm(found, raw)
    if found.problems:
        raise SweepError(str(path), found.problems)
    spec = SweepSpec(source=str(path), name=raw.get("name") or path.stem, method=method, metric=metric, goal=goal,
                     target=target, parameters={**parameters, **held}, early_terminate=early_terminate,
                     run_cap=run_cap, raw=raw, tied=tied, sampler=sampler, confirm=confirm,
                     for_wandb=sent_to_wandb(given, field_types(config_type)), is_open=is_open,
                     held={name: setting.value for name, setting in held.items()})
    _warn_about_length(found, spec, config_type)
    _warn_about_trials(found, spec, config_type)
    return dataclasses.replace(spec, warnings=tuple(found.warnings))


def measured_by(config_type: type) -> tuple[str, ...]:
    """Name the metrics that the trainer of a config measures, the usual one first."""
    return next((MEASURED[trainer] for trainer, known in TRAINERS.items() if known is config_type), (LOSS,))


def _config_type(found: Findings, parameters: Any) -> type:
    """Return the config of the trainer that a file names; what is wrong with the name is found with the others."""
    entry = parameters.get("trainer") if isinstance(parameters, dict) else None
    if isinstance(entry, dict) and "value" not in entry:
        found.problem("parameters.trainer", "must have one value, a sweep has one trainer; write value: "
                                            + " or value: ".join(TRAINERS))
    return TRAINERS.get(str(entry.get("value")), FinetuneConfig) if isinstance(entry, dict) else FinetuneConfig


def _warn_about_length(found: Findings, spec: SweepSpec, config_type: Any) -> None:
    """Say that trials of the same number of steps but different batches do not train on the same number of rows."""
    names = [name for name in BATCH if name in spec.searched]
    if not names or config_type is not FinetuneConfig or spec.fixed.get("num_train_epochs") \
            or {"max_steps", "num_train_epochs"} & {*spec.searched, *spec.tied}:
        return
    fixed = {name: spec.fixed[name] for name in (*BATCH, "max_steps") if name in spec.fixed}
    kept = {*fixed, *names, *(name for name in BATCH if name in spec.tied)}
    drawn = {**spec.sample(0), **fixed}
    points = [spec.with_tied({**drawn, **dict(zip(names, values, strict=True))})
              for values in itertools.product(*(_ends(spec.searched[name]) for name in names))]
    ends = [FinetuneConfig.from_params({name: point[name] for name in kept}) for point in points]
    rows = sorted(config.effective_batch_size for config in ends)
    if rows[-1] > rows[0]:
        found.warn(f"parameters.{names[0]}",
                   f"at the same max_steps {ends[0].max_steps} a trial with {rows[-1]} rows a step trains on "
                   f"{rows[-1] / rows[0]:.3g} times the rows of one with {rows[0]}; to compare at equal rows write "
                   f"num_train_epochs in place of max_steps")


def _ends(parameter: Choice | Range) -> tuple[Any, ...]:
    if isinstance(parameter, Choice):
        return parameter.distinct
    return (parameter.lowest, parameter.highest) if parameter.is_bounded else (parameter.from_unit(0.5),)


def _warn_about_trials(found: Findings, spec: SweepSpec, config_type: Any) -> None:
    if spec.run_cap and spec.count is not None and spec.count < spec.run_cap:
        are = "is" if spec.count == 1 else "are"
        found.warn("run_cap", f"{how_many(spec.run_cap, 'trial')}, but only {spec.count} {are} different")
    names = {"max_steps", "eval_steps"}
    if "num_train_epochs" in spec.parameters:
        names = {"num_train_epochs", "samples", "eval_steps", *BATCH}
    if spec.early_terminate and names <= field_types(config_type).keys() and not names & spec.searched.keys():
        config = config_type.from_params({name: value for name, value in spec.fixed.items() if name in names})
        evaluations = math.ceil(config.max_steps / config.eval_steps)
        if not spec.early_terminate.bands(evaluations - 1):
            found.warn("early_terminate", f"decides nothing: a trial has {evaluations} evaluations (max_steps "
                                          f"{config.max_steps}, eval_steps {config.eval_steps}); lower eval_steps")


def _grid_values(parameter: Choice | Range) -> tuple[Any, ...]:
    return parameter.grid_values() if isinstance(parameter, Range) else parameter.distinct
