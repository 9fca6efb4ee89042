"""What to run next, as YAML to copy: the best configuration, and the sweep file with the report's advice followed."""

import math
import shlex
from collections.abc import Mapping
from typing import Any

from kaggle_runner.report.analysis.analysis import TRIALS_TO_FIX, Analysis, Region
from kaggle_runner.report.analysis.provenance import entries_of
from kaggle_runner.study.axes import Axis, is_number
from kaggle_runner.study.best_file import yaml_text


def best_yaml(analysis: Analysis) -> str:
    """Return the best configuration as the parameters of a sweep file; empty without one."""
    if not analysis.first.ranked:
        return ""
    return _parameters({name: {"value": value} for name, value in analysis.first.ranked[0].params.items()})


def next_sweep_yaml(analysis: Analysis) -> str:
    """Return the sweep file with the report's advice followed; empty where there is none to follow.

    What stands out is narrowed to where the best lie, or moved past the end they lie at; in a study of some size what
    does not stand out is fixed to the best configuration's value.
    """
    if not analysis.first.ranked or not analysis.sweep.get("parameters"):
        return ""
    best = analysis.first.ranked[0].params
    axes = {axis.name: axis for axis in analysis.axes}
    regions = {region.name: region for region in analysis.regions if region.name in analysis.resolved}
    limits = {limit.name: limit for limit in analysis.boundaries if limit.name in analysis.resolved}
    idle = {share.name for share in analysis.shares if not share.resolved} if (
        analysis.resolved and len(analysis.first.ranked) >= TRIALS_TO_FIX) else set()
    changed: dict[str, Any] = {}
    for name, entry in entries_of(analysis.sweep):
        changed[name] = dict(entry)
        if name in limits and axes[name].is_range:
            end = "min" if limits[name].side == "lowest" else "max"
            if is_number(entry.get(end)):
                changed[name][end] = limits[name].suggestion
        elif name in regions and {"min", "max"} <= entry.keys() and "q" not in entry:
            changed[name] |= _narrowed(axes[name], regions[name])
        elif name in idle and name in best:
            changed[name] = {"value": best[name]}
    if changed == {name: dict(entry) for name, entry in entries_of(analysis.sweep)}:
        return ""
    others = {key: value for key, value in analysis.sweep.items() if key not in ("parameters", "name")}
    label = str(analysis.sweep.get("name") or analysis.name)
    head = "".join(f"{key}: {yaml_text(value)}\n" for key, value in {"name": f"{label}-next", **others}.items())
    command = shlex.join(["python", "-m", "kaggle_runner", "sweep", "next.yaml", "--study", str(analysis.directory),
                          "--adopt"])
    return f"# keeps the trials of this study: {command}\n" + head + _parameters(changed)


def _narrowed(axis: Axis, region: Region) -> dict[str, Any]:
    """Return the ends of a region, a tenth of the axis wider on both sides, and no wider than the axis."""
    low, high = axis.position(region.low) or 0.0, axis.position(region.high)
    ends = axis.value(max(0.0, low - 0.1)), axis.value(min(1.0, (1.0 if high is None else high) + 0.1))
    if axis.is_integer:
        return {"min": math.floor(ends[0]), "max": math.ceil(ends[1])}
    return {"min": float(f"{ends[0]:.2g}"), "max": float(f"{ends[1]:.2g}")}


def _parameters(entries: Mapping[str, Any]) -> str:
    return "parameters:\n" + "".join(f"  {yaml_text(name)}: {yaml_text(entry)}\n" for name, entry in entries.items())
