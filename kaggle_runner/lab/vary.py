"""A one-at-a-time study: a baseline, one hyperparameter with its values, and the seeds that every value is run with.

Read from a file, or made by a tuning plan from the baseline that it has come to.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaggle_runner.config import TRAINERS, config_from_params, field_types
from kaggle_runner.errors import ConfigError, SweepError
from kaggle_runner.lab.decision import EXTRA_SEEDS, same
from kaggle_runner.metrics import MEASURED, Metric
from kaggle_runner.study.trial import Trial
from kaggle_runner.sweep.aliases import explain
from kaggle_runner.sweep.problems import Findings, spelled, suggestion, yaml_number
from kaggle_runner.sweep.scoring import HELD, most_counted
from kaggle_runner.sweep.sections import read_metric
from kaggle_runner.sweep.spec import check_config
from kaggle_runner.sweep.yaml_file import find_file, parse_mapping, refuse_other_file

SEEDS = (1, 2, 3)
"""The seeds of a study whose file names none."""
_MEASURE = "it changes what is measured"
NOT_HYPERPARAMETERS = {
    "seed": "a study repeats it, seeds lists them", "trainer": "a study has one trainer",
    "dataset": "losses on two texts cannot be compared",
    "model": "losses of models that cut text into other tokens cannot be compared; run a study for each",
    "symbols": "losses over two sets of symbols cannot be compared",
    **dict.fromkeys(("max_eval_tokens", "max_eval_samples", "evaluations", "eval_steps", "eval_share", "eval_dataset",
                     "eval_max_length", "eval_completion_only_loss", "eval_train_on", "dataset_config",
                     "dataset_split", "dataset_revision", "columns"), _MEASURE),
    "max_tokens": "values are compared at equal tokens", "max_steps": "values are compared at equal steps",
    "num_train_epochs": "values are compared at equal epochs", "trust_remote_code": "it changes no loss",
    "max_lost_share": "it changes no loss", "save_model": "it changes no model",
}
"""Fields of the configs that no study can vary, with the reason."""


@dataclass(frozen=True, kw_only=True)
class VarySpec:
    """What a one-at-a-time study trains."""

    source: str
    """Path of the file, or the plan's."""
    name: str
    variable: str
    """The one hyperparameter that differs."""
    values: tuple[Any, ...]
    """All values of the variable; the baseline's own comes first if the file left it out."""
    seeds: tuple[int, ...]
    baseline: Mapping[str, Any]
    """Every field of the config but `seed`, the variable's default among them."""
    judged_by: Metric = field(default_factory=Metric)
    """What its values are compared by."""
    note: str = ""
    """Why the variable is studied, in the author's words."""

    @property
    def default(self) -> Any:
        """The variable's value in the baseline."""
        return self.baseline[self.variable]

    @property
    def varied(self) -> tuple[str, ...]:
        """The hyperparameters in which two of its trials may differ, beside the seed."""
        return (self.variable,)

    def value_of(self, trial: Trial) -> Any:
        """Return the value that a trial was run with."""
        return trial.params[self.variable]

    @property
    def extra_seeds(self) -> tuple[int, ...]:
        """The seeds of a second look: the next ones after the largest."""
        return tuple(max(self.seeds) + 1 + i for i in range(EXTRA_SEEDS))

    def first_trials(self) -> list[Trial]:
        """List every value with every seed, seed by seed: the first round is a screening by itself."""
        return self._trials([(value, seed) for seed in self.seeds for value in self.values], 0)

    def further_trials(self, challenger: Any) -> list[Trial]:
        """List the two contenders with the extra seeds."""
        first = len(self.values) * len(self.seeds)
        return self._trials([(value, seed) for seed in self.extra_seeds for value in (self.default, challenger)], first)

    def sweep(self) -> dict[str, Any]:
        """Return the study as a sweep file would say it: what its journal begins with."""
        fixed = {name: {"value": value} for name, value in self.baseline.items() if name != self.variable}
        return {"method": "grid", "metric": self.judged_by.as_dict(), "name": self.name,
                "parameters": {self.variable: {"values": list(self.values)}, "seed": {"values": list(self.seeds)},
                               **fixed},
                "description": f"one-at-a-time study of {self.variable} from {spelled(self.default)}"}

    def as_yaml(self) -> str:
        """Return a file that `vary` reads back as this study."""
        note = f"note: {json.dumps(self.note, ensure_ascii=False)}\n" if self.note else ""
        values = ", ".join(map(yaml_value, self.values))
        metric = "" if self.judged_by == Metric() else (
            f"metric: {{name: {self.judged_by.name}, goal: {self.judged_by.goal}}}\n")
        return (f"{note}vary: {self.variable}\nvalues: [{values}]\nseeds: {list(self.seeds)}\n{metric}"
                f"baseline:\n{as_yaml(self.baseline, indent='  ')}")

    def _trials(self, points: list[tuple[Any, int]], first: int) -> list[Trial]:
        return [Trial(id=f"{number:04d}", number=number, origin="grid",
                      params={**self.baseline, self.variable: value, "seed": seed})
                for number, (value, seed) in enumerate(points, start=first)]


def read_vary(path: Path) -> VarySpec:
    """Read the file of a one-at-a-time study; those that ship are found by their name in `sweeps/`.

    Raises:
        SweepError: the file is missing or not YAML, or has problems; holds all of them.
    """
    path, found = find_file(path, "vary"), Findings()
    raw = parse_mapping(path, found, mark="vary")
    refuse_other_file(path, raw, "vary")
    check_keys(found, "", raw, ("vary", "values", "seeds", "baseline", "name", "note", "metric"))
    baseline = check_baseline(found, str(path), raw.get("baseline"))
    study = check_study(found, "", raw, baseline, trainer=trainer_in(raw.get("baseline")))
    metric = check_metric(found, raw, trainer_in(raw.get("baseline")))
    if found.problems or study is None:
        raise SweepError(str(path), found.problems)
    return make_vary(study, baseline, source=str(path), name=raw.get("name") or path.stem, default_seeds=SEEDS,
                     metric=metric)


@dataclass(frozen=True, kw_only=True)
class PlannedStudy:
    """What a file says of a study, before the baseline is known."""

    variable: str
    values: tuple[Any, ...]
    seeds: tuple[int, ...] | None
    note: str = ""


def make_vary(study: PlannedStudy, baseline: Mapping[str, Any], *, source: str, name: str,
              default_seeds: tuple[int, ...], metric: Metric) -> VarySpec:
    """Put a study on a baseline; the baseline's own value leads the values if it is not among them."""
    default = baseline[study.variable]
    baseline = hold_baseline(baseline, {study.variable: (default, *study.values)})
    known = any(same(value, default) for value in study.values)
    return VarySpec(source=source, name=name, variable=study.variable, note=study.note,
                    values=study.values if known else (default, *study.values),
                    seeds=study.seeds or default_seeds, baseline=baseline, judged_by=metric)


def hold_baseline(baseline: Mapping[str, Any], varied: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return a baseline whose evaluation is held at the most that is varied, where it says nothing of it itself."""
    held = {field: most_counted(name, varied[name]) for name, field in HELD.items()
            if name in varied and field in baseline and baseline[field] is None}
    return {**baseline, **held}


def check_keys(found: Findings, path: str, raw: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Add a problem for each key that is not known."""
    for key in raw:
        if key not in known:
            found.problem(f"{path}{key}", f"no such key; {suggestion(key, known)}")


def check_baseline(found: Findings, source: str, raw: Any) -> dict[str, Any]:
    """Return every field of the baseline's config but `seed`, after adding its problems."""
    if not isinstance(raw, dict) or not raw:
        found.problem("baseline", "missing; write the hyperparameters that stay, name: value, below it")
        return {}
    if "seed" in raw:
        found.problem("baseline.seed", "a study has several; write seeds: [1, 2, 3] outside of the baseline")
    fixed = {name: {"value": value} for name, value in raw.items() if name != "seed"}
    try:
        check_config({"method": "grid", "parameters": fixed}, source)
        config = config_from_params({name: entry["value"] for name, entry in fixed.items()})
    except SweepError as error:
        found.problems += [re.sub(r"^parameters(\.([^:.]*)(\.value)?)?:", r"baseline.\2:", problem).replace(".:", ":")
                           for problem in error.problems]
        return {}
    except ConfigError as error:
        found.problem("baseline", str(error))
        return {}
    return {name: value for name, value in config.as_dict().items() if name != "seed"}


def check_metric(found: Findings, raw: Mapping[str, Any], trainer: str | None) -> Metric:
    """Return what a file's values are compared by, the loss where it says nothing, after adding its problems."""
    if trainer is None:
        return Metric()
    before = len(found.problems)
    name, goal, _ = read_metric(found, raw, MEASURED[trainer])
    return Metric(name=name, goal=goal) if len(found.problems) == before else Metric()


def trainer_in(baseline: Any) -> str | None:
    """Return the trainer that a baseline names, also one with problems; none where it names none that there is."""
    named = baseline.get("trainer", "finetune") if isinstance(baseline, dict) else "finetune"
    return named if isinstance(named, str) and named in TRAINERS else None


def check_study(found: Findings, path: str, raw: Mapping[str, Any], baseline: Mapping[str, Any], *,
                trainer: str | None) -> PlannedStudy | None:
    """Return one study of a file, or none after adding its problems; each value must work with the baseline.

    `baseline` is empty if it has problems of its own; a `trainer` of none may have any hyperparameter.
    """
    before, variable, values = len(found.problems), raw.get("vary"), raw.get("values")
    fields = {name: kind for each in TRAINERS if trainer in (each, None)
              for name, kind in field_types(TRAINERS[each]).items()}
    varies = isinstance(variable, str) and variable in fields and variable not in NOT_HYPERPARAMETERS
    if variable is None:
        found.problem(f"{path}vary", "missing; name the one hyperparameter that is varied")
    elif not isinstance(variable, str) or variable not in fields:
        way_out = explain(str(variable), fields) or suggestion(str(variable), fields)
        found.problem(f"{path}vary", f"{spelled(variable)} is no hyperparameter; {way_out}")
    elif variable in NOT_HYPERPARAMETERS:
        found.problem(f"{path}vary", f"{variable} is no hyperparameter: {NOT_HYPERPARAMETERS[variable]}")
    if not isinstance(values, list) or len(values) < 2:
        got = f"got {spelled(values)}" if "values" in raw else "missing"
        found.problem(f"{path}values", f"{got}, and one value compares nothing; list two or more, [0.0, 0.1]")
        values = []
    for i, value in enumerate(values):
        if isinstance(value, dict):
            others = [name for name in value if name != variable] or list(value)
            found.problem(f"{path}values[{i}]", f"sets {', '.join(map(str, others))} besides {variable}; two runs of a "
                                                f"study may differ in one hyperparameter only")
        elif any(same(value, other) for other in values[:i]):
            found.problem(f"{path}values[{i}]", f"{spelled(value)} is there twice; remove one")
        elif varies and baseline:
            _check_value(found, f"{path}values[{i}]", str(variable), value, baseline)
    seeds = check_seeds(found, f"{path}seeds", raw["seeds"]) if "seeds" in raw else None
    if len(found.problems) > before:
        return None
    plain = [config_from_params({**baseline, str(variable): value}).as_dict()[str(variable)] for value in values] \
        if baseline else values
    return PlannedStudy(variable=str(variable), values=tuple(plain), seeds=seeds, note=str(raw.get("note", "")))


def as_yaml(values: Mapping[str, Any], *, indent: str = "") -> str:
    """Write plain values as YAML 1.1 reads them back."""
    return "".join(f"{indent}{name}: {yaml_value(value)}\n" for name, value in values.items())


def yaml_value(value: Any) -> str:
    """Write one plain value so that YAML 1.1 reads it back as it is."""
    if isinstance(value, float):
        return yaml_number(repr(value))
    if isinstance(value, bool) or value is None:
        return spelled(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_value, value))}]"
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z][\w./-]*", value):
        return "'" + value.replace("'", "''") + "'"
    if str(value).lower() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n"):
        return f"'{value}'"
    return str(value)


def _check_value(found: Findings, path: str, variable: str, value: Any, baseline: Mapping[str, Any]) -> None:
    if not isinstance(baseline[variable], str) and found.text_number(path, value):
        return
    try:
        config_from_params({**baseline, variable: value})
    except ConfigError as error:
        found.problem(path, f"{spelled(value)}: {error}")


def check_seeds(found: Findings, path: str, raw: Any) -> tuple[int, ...] | None:
    """Return the seeds of a file, or none after adding the problem."""
    fits = isinstance(raw, list) and raw and all(
        isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**31 for seed in raw)
    if not fits or len(set(raw)) < len(raw):
        found.problem(path, f"must be a list of different whole numbers, got {spelled(raw)}; write [1, 2, 3]")
        return None
    return tuple(raw)
