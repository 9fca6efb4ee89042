"""Read the top-level keys of a sweep file: method, metric, early_terminate, run_cap and what is W&B's own business."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaggle_runner.config import field_types
from kaggle_runner.metrics import BITS_PER_BYTE, BITS_PER_CHARACTER, EXACT_MATCH, GOALS, LOSS, TOKEN_ACCURACY
from kaggle_runner.sweep.aliases import explain
from kaggle_runner.sweep.problems import Findings, spelled, suggestion
from kaggle_runner.sweep.study_settings import OUR_KEYS

METHODS = ("bayes", "random", "grid")
BOTH_GOALS = ("minimize", "maximize")
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    LOSS: ("loss", "val_loss", "valid_loss", "validation_loss", "train_loss", "perplexity"),
    TOKEN_ACCURACY: ("accuracy", "acc", "val_accuracy", "val_acc", "mean_token_accuracy"),
    EXACT_MATCH: ("em", "exact_match_accuracy"), BITS_PER_BYTE: ("bpb", "val_bpb"), BITS_PER_CHARACTER: ("bpc",)}
"""What other trainers call what ours measure, without `eval/` or `eval_` before it."""
TEXT_KEYS = ("program", "name", "description", "project", "entity", "apiVersion", "kind")
"""Keys of W&B's schema that are W&B's own business: checked for their type only, like `command`."""
KNOWN_KEYS = ("method", "metric", "parameters", "early_terminate", "run_cap", *OUR_KEYS, "command", "controller",
              *TEXT_KEYS)
REFUSED_KEYS = {
    "metrics": "a trial is judged by one number; use metric",
    "scheduler": "the search runs in W&B's cloud or here; leave it out and use method bayes, random or grid",
    "job": "W&B Launch is not used, the trainer is built in; leave it out",
    "image_uri": "W&B Launch is not used, the trainer is built in; leave it out",
}
MOST_BANDS = 100
"""Number of decisions after which W&B stops counting."""


@dataclass(frozen=True, kw_only=True)
class Hyperband:
    """When W&B stops trials early; counts evaluations, not steps."""

    min_iter: int | None = None
    """Evaluations before the first decision; none when `max_iter` is given."""
    max_iter: int | None = None
    """Evaluations of a whole trial; the decisions are counted back from here."""
    s: int | None = None
    """Number of decisions before `max_iter`."""
    eta: float = 3
    """The best 1/eta of the trials go on after each decision."""
    strict: bool = True
    """Compare the value at the decision; false compares the best value so far."""

    def bands(self, evaluations: int) -> tuple[int, ...]:
        """List the counts of evaluations, up to `evaluations`, at which W&B decides.

        Source: PyPI `sweeps` 0.3.0, `hyperband_stop_runs`.
        """
        counts: list[int] = []
        if self.max_iter is None:
            band = float(self.min_iter or 1)
            while band < evaluations + 1 and len(counts) < MOST_BANDS:
                counts.append(int(band))
                band *= self.eta
        else:
            band = self.max_iter / self.eta
            while band >= 1 and len(counts) < min(self.s or 0, MOST_BANDS):
                counts.append(int(band))
                band /= self.eta
        return tuple(sorted({count for count in counts if 1 <= count <= evaluations}))


def check_key(found: Findings, key: Any, value: Any, config_type: type) -> None:
    """Add a problem for a top-level key that is unknown, refused or of the wrong type."""
    if key in REFUSED_KEYS:
        found.problem(key, f"cannot be used: {REFUSED_KEYS[key]}")
    elif key in TEXT_KEYS and not isinstance(value, str):
        found.problem(key, f"must be text, got {spelled(value)}; put it in quotes")
    elif key == "command" and not isinstance(value, list):
        found.problem(key, f"must be a list, got {spelled(value)}")
    elif key == "controller" and value != {"type": "cloud"}:
        found.problem(key, f"must be type: cloud, got {spelled(value)}; a local controller never stops a run, leave "
                           f"it out")
    elif key in field_types(config_type) and key not in KNOWN_KEYS:
        found.problem(key, f"is a hyperparameter; move it under parameters, as {key}: value: {spelled(value)}")


def check_unknown_keys(found: Findings, raw: Mapping[str, Any], config_type: type) -> None:
    """Add one problem for all top-level keys that are neither W&B's nor hyperparameters."""
    fields = field_types(config_type)
    unknown = [key for key in raw if isinstance(key, str) and key not in (*KNOWN_KEYS, *REFUSED_KEYS, *fields)]
    ways = []
    for key in unknown:
        way = explain(key, fields)
        if way.startswith("write"):
            way += "; it belongs under parameters"
        ways.append(way or suggestion(key, KNOWN_KEYS))
    if len(unknown) == 1:
        found.problem(unknown[0], f"no such key; {ways[0]}")
    elif unknown:
        listed = f"known are {', '.join(KNOWN_KEYS)}"
        lines = [f"{key}: {way if way != listed else 'no such key'}" for key, way in zip(unknown, ways, strict=True)]
        found.problem("file", "".join([f"{len(unknown)} keys are no keys of a sweep file", *(
            f"\n    {line}" for line in (*lines, *([listed] if listed in ways else [])))]))


def read_method(found: Findings, raw: Mapping[str, Any]) -> Any:
    """Return the search method, or none after adding the problem."""
    method = raw.get("method")
    if method in METHODS:
        return method
    if "method" not in raw:
        found.problem("method", "missing; write bayes, random or grid")
    elif method == "custom":
        found.problem("method", "custom needs a scheduler of W&B's; write bayes, random or grid")
    else:
        found.problem("method", f"must be bayes, random or grid, got {spelled(method)}")
    return None


def read_metric(found: Findings, raw: Mapping[str, Any], metrics: Sequence[str]) -> tuple[str, Any, float | None]:
    """Return the metric's name, goal and target; without a metric the trainer's first, to be minimized."""
    metric = raw.get("metric")
    way_out = f"write metric: with name: {metrics[0]} and goal: minimize below it"
    if metric is None:
        if raw.get("method") == "bayes" or "metric" in raw:
            why = "missing, and bayes cannot search without it" if raw.get("method") == "bayes" else "is empty"
            found.problem("metric", f"{why}; {way_out}")
        return metrics[0], "minimize", None
    if not isinstance(metric, dict):
        found.problem("metric", f"must be a mapping, got {spelled(metric)}; {way_out}")
        return metrics[0], "minimize", None
    for key in metric:
        if key not in ("name", "goal", "target", "impute", "impute_while_running"):
            found.problem(f"metric.{key}", f"no such key; {suggestion(key, ('name', 'goal', 'target', 'impute'))}")
    name, goal = str(metric.get("name")), metric.get("goal", "minimize")
    if name not in metrics:
        known = f"{', '.join(metrics[:-1])} or {metrics[-1]}" if len(metrics) > 1 else metrics[0]
        got = f"got {spelled(metric['name'])}{_meant(name, metrics)}" if "name" in metric else "but name is missing"
        found.problem("metric.name", f"must be what the trainer reports, {known}, {got}")
    if goal not in BOTH_GOALS:
        close = [right for right in BOTH_GOALS if str(goal).lower()[:3] == right[:3]]
        found.problem("metric.goal", f"must be 'minimize' or 'maximize', got {spelled(goal)}"
                                     + (f"; write {close[0]}" if close else ""))
    elif goal == "maximize" and name.endswith("loss"):
        found.warn("metric.goal", f"maximize looks for the worst {name}; a loss is minimized")
    elif name in metrics and goal != GOALS.get(name, goal):
        got = goal if "goal" in metric else f"is missing, and {goal}, which W&B takes then,"
        found.problem("metric.goal", f"{got} looks for the worst {name}; write goal: {GOALS[name]}")
    for key, allowed in (("impute", ("latest", "best", "worst")),
                         ("impute_while_running", ("latest", "best", "worst", "false"))):
        if key in metric and metric[key] not in allowed:
            found.problem(f"metric.{key}", f"must be one of {', '.join(map(repr, allowed))}, as text, "
                                           f"got {spelled(metric[key])}")
    if metric.get("impute") in ("best", "latest"):
        found.warn("metric.impute", f"{metric['impute']} makes W&B take a trial that failed before its first "
                                    f"evaluation for a perfect 0; leave it out")
    target = found.number("metric.target", metric["target"]) if "target" in metric else None
    return name, goal, target


def _meant(name: str, metrics: Sequence[str]) -> str:
    """Say which metric was probably meant by a name that nothing is measured under, or why it is not measured."""
    if name == EXACT_MATCH:
        return "; only rows of fine-tunes have answers to match"
    text = re.sub(r"^(eval|train|val|valid|validation|test)[/_]", "", name.lower())
    meant = [known for known in metrics if text in (known.removeprefix("eval/"), *OTHER_NAMES.get(known, ()))]
    return f"; write {meant[0]}" if meant else ""


def read_early_terminate(found: Findings, raw: Any) -> Hyperband | None:
    """Return when trials are stopped early, or none after adding the problems."""
    before, path = len(found.problems), "early_terminate"
    if not isinstance(raw, dict):
        found.problem(path, f"must be a mapping, got {spelled(raw)}; write type: hyperband and min_iter: 3 below it")
        return None
    keys = ("type", "min_iter", "max_iter", "s", "eta", "strict")
    for key in raw:
        if key not in keys:
            found.problem(f"{path}.{key}", f"no such key; {suggestion(key, keys)}")
    if raw.get("type") != "hyperband":
        got = f"must be hyperband, got {spelled(raw['type'])}" if "type" in raw else "missing; write hyperband"
        found.problem(f"{path}.type", got)
    counts = {key: read_whole_number(found, f"{path}.{key}", raw[key]) for key in ("min_iter", "max_iter", "s")
              if key in raw}
    if "max_iter" in raw and "s" not in raw:
        found.problem(f"{path}.s", "missing; max_iter needs the number of decisions, such as s: 2")
    elif "s" in raw and "max_iter" not in raw:
        found.problem(f"{path}.max_iter", "missing; s counts decisions back from it")
    elif not counts:
        found.problem(path, "needs min_iter, or max_iter and s; write min_iter: 3 to decide from the third evaluation")
    elif "max_iter" in raw and "min_iter" in raw:
        found.problem(f"{path}.min_iter", "cannot be used with max_iter, W&B would ignore it; remove one of them")
    eta = found.number(f"{path}.eta", raw.get("eta", 3))
    if eta is not None and eta <= 1:
        found.problem(f"{path}.eta", f"must be above 1, got {eta}; the best 1/eta of the trials go on")
    strict = raw.get("strict", True)
    if not isinstance(strict, bool):
        found.problem(f"{path}.strict", f"must be true or false, got {spelled(strict)}")
    if len(found.problems) > before or eta is None:
        return None
    hyperband = Hyperband(min_iter=counts.get("min_iter"), max_iter=counts.get("max_iter"), s=counts.get("s"),
                          eta=eta, strict=strict)
    if hyperband.max_iter and not hyperband.bands(hyperband.max_iter):
        found.problem(f"{path}.max_iter", f"{hyperband.max_iter} divided by eta {eta} is below 1, so nothing is "
                                          f"decided and W&B fails; raise max_iter")
    return hyperband


def read_whole_number(found: Findings, path: str, value: Any) -> int | None:
    """Return a whole number above 0, or none after adding the problem."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if not found.text_number(path, value):
        found.problem(path, f"must be a whole number above 0, got {spelled(value)}")
    return None
