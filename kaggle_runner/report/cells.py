"""The code of the report's notebook, cell by cell: pandas and Matplotlib over the CSV files beside it."""

SETUP = """\
%matplotlib inline
import math
import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display

plt.rcParams.update({"figure.dpi": 90, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e7eb",
                     "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False})
LOOKS
WRITER
trials = pd.read_csv("trials.csv", dtype={"trial": str})
curves = pd.read_csv("curves.csv", dtype={"trial": str})
surfaces = pd.read_csv("surfaces.csv")


def written(value):
    \"\"\"Write a value of the metric as terminal, page and files do.\"\"\"
    return "–" if pd.isna(value) else format_metric(METRIC, value, DIGITS)


def place(name):
    \"\"\"Return where each trial lies on a hyperparameter's axis: its value, or its index in a list of values.\"\"\"
    if isinstance(AXES[name], str):
        return pd.to_numeric(trials[name], errors="coerce")
    index = {str(value): i for i, value in enumerate(AXES[name])}
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in AXES[name]):
        index = {float(value): i for i, value in enumerate(AXES[name])}
        return pd.to_numeric(trials[name], errors="coerce").map(index)
    return trials[name].map(str).map(index)


names = [name for name in AXES if name in trials]
for name in names:
    trials[f"place of {name}"] = place(name)
complete = trials[(trials["status"] == "complete") & trials[METRIC].notna()]
# Of trials that differ in the seed alone the best one stands for all, with their mean.
ranked = complete[complete["place"].notna()].sort_values("place")
ranked[METRIC] = ranked["compared_by"]
varied = [name for name in names if complete[f"place of {name}"].nunique() > 1]


def show(alt):
    \"\"\"Show the picture, with a text for those who cannot see it.\"\"\"
    display(plt.gcf(), metadata={"image/png": {"alt": alt}})
    plt.close()


def metric_axis(values, name=METRIC, scale=SCALE):
    \"\"\"Show what is near; what is off the scale, and a base that is far, are words at its edge.\"\"\"
    low, high = scale
    plt.ylim(low, high)
    plt.ylabel(name)
    off = [value for value in values if not math.isnan(value) and not low <= value <= high]
    words = [f"{len(off)} off the scale, to {written(max(off, key=lambda value: abs(value - low)))}"] if off else []
    if BASELINE is not None and low <= BASELINE <= high:
        plt.axhline(BASELINE, color="#8A8A8A", linestyle="--", label="untouched base")
    elif BASELINE is not None:
        words.append(f"untouched base {written(BASELINE)}")
    plt.text(0.99, 0.98, "\\n".join(words), transform=plt.gca().transAxes, ha="right", va="top", size=8)


def dots(x, y):
    for status, rows in trials[trials[x].notna() & trials[y].notna()].groupby("status"):
        plt.plot(rows[x], rows[y], MARKS[status], color=COLORS[status], label=status,
                 fillstyle="none" if status in ("pruned", "infeasible") else "full")
    best = trials[trials["trial"] == BEST_TRIAL]
    plt.plot(best[x], best[y], "*", color=BEST, markersize=14, markeredgecolor="#444444")


def value_axis(name, side="x"):
    axis = getattr(plt.gca(), f"{side}axis")
    if AXES[name] == "log":
        getattr(plt, f"{side}scale")("log")
        axis.set_ticks(TICKS[name], [f"{value:g}" for value in TICKS[name]])
        axis.set_ticks([], minor=True)
    elif AXES[name] != "linear":
        labels = LABELS[name]
        axis.set_ticks(range(len(labels)), labels, rotation=90 if side == "x" and sum(map(len, labels)) > 40 else 0)
    getattr(plt, f"{side}label")(folded(name))


def trial_axis():
    plt.xlabel("trial")
    if len(trials) <= 12:
        plt.xticks(trials["number"])


def folded(name, width=28):
    return textwrap.fill(name, width)


def legend():  # above the axes, where it covers no mark
    if plt.gca().get_legend_handles_labels()[0]:
        plt.legend(fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderaxespad=0.2)"""

TABLE = """\
shown = (ranked if len(ranked) else trials)[["trial", "status", METRIC, *names, "steps", "seconds"]].head(15)
shown.assign(**{METRIC: shown[METRIC].map(written)})"""

SEEDS = "pd.DataFrame([{**one, 'mean': written(one['mean'])} for one in CONFIGURATIONS])"

RANKING = """\
if len(ranked) > 1:
    plt.figure(figsize=(9, 3.2))
    plt.plot(range(1, len(ranked) + 1), ranked[METRIC], "o", color=COLORS["complete"])
    best = [rank for rank, trial in enumerate(ranked["trial"], start=1) if trial == BEST_TRIAL]
    plt.plot(best, ranked[METRIC].iloc[[rank - 1 for rank in best]], "*", color=BEST, markersize=14,
             markeredgecolor="#444444")
    if NOISE is not None:
        worse = BEST_MEAN - NOISE if GOAL == "maximize" else BEST_MEAN + NOISE
        plt.axhspan(min(BEST_MEAN, worse), max(BEST_MEAN, worse), color=BEST, alpha=0.2, linewidth=0,
                    label="may be as good as the best")
    plt.xlabel("rank of the configuration")
    plt.gca().xaxis.get_major_locator().set_params(integer=True)
    metric_axis(ranked[METRIC])
    legend()
    show(ALT)"""

BEST_SO_FAR = """\
ended = trials[~trials["status"].isin(["running", "out", "stopped"])]
minutes = ended["seconds"].cumsum() / 60
best = ended["best_so_far"]
plt.figure(figsize=(11, 3.6))
plt.subplot(1, 2, 1)
plt.step(ended["number"], best, where="post", color=BEST, label="best so far")
if DEVIATION is not None:
    plt.fill_between(ended["number"], best - DEVIATION, best + DEVIATION, step="post", color=BEST, alpha=0.2,
                     linewidth=0, label="± noise of one")
dots("number", "compared_by")
trial_axis()
metric_axis(trials["compared_by"])
legend()
plt.subplot(1, 2, 2)
short = not minutes.max() > 180
plt.step(minutes if short else minutes / 60, best, where="post", color=BEST, label="best so far")
plt.xlabel(f"{'minutes' if short else 'hours'}, all trials added up")
metric_axis(best)
legend()
show(ALT)"""

CURVES = """\
plt.figure(figsize=(9, 4))
status_of = dict(zip(trials["trial"], trials["status"]))
for trial, rows in curves.dropna(subset=[METRIC]).groupby("trial"):
    is_best = trial == BEST_TRIAL
    plt.plot(rows["step"], rows[METRIC], color=BEST if is_best else COLORS[status_of[trial]],
             linewidth=2.6 if is_best else 1, alpha=1 if is_best else 0.6, zorder=3 if is_best else 2)
    if status_of[trial] == "pruned":
        plt.plot(rows["step"].iloc[-1:], rows[METRIC].iloc[-1:], "D", color=COLORS["pruned"], fillstyle="none")
plt.xlabel("optimizer steps")
if not curves[METRIC].notna().any():
    plt.text(0.5, 0.5, "nothing was measured yet", transform=plt.gca().transAxes, ha="center")
metric_axis(curves.groupby("trial")[METRIC].max(), scale=CURVE_SCALE)
legend()
show(ALT)"""

IMPORTANCE = """\
if IMPORTANCE:
    shares = pd.DataFrame(IMPORTANCE).set_index("name")[::-1]
    plt.figure(figsize=(8, 1 + 0.4 * len(shares)))
    shown = shares["share"].clip(lower=0)
    ends = pd.DataFrame([shown - shares["low"].clip(lower=0), shares["high"] - shown]).clip(lower=0)
    plt.barh(shares.index, 100 * shown, color=[PHASES[0] if clear else FAINT for clear in shares["resolved"]],
             xerr=100 * ends.values, ecolor="#808080", capsize=3)
    plt.plot(100 * shares["floor"], shares.index, "|", color="#D55E00", markersize=16, label="stands out from here")
    plt.yticks(range(len(shares)), [folded(name, 44) for name in shares.index], size=8)
    plt.xlabel("variance explained, %")
    legend()
    show(ALT)"""

SLICES = """\
if names:
    columns, rows = min(3, len(names)), math.ceil(len(names) / 3)
    plt.figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    for i, name in enumerate(names, start=1):
        plt.subplot(rows, columns, i)
        dots(f"place of {name}", "compared_by")
        value_axis(name)
        metric_axis(trials["compared_by"])
    show(ALT)"""

MAPS = """\
for (x, y), surface in surfaces.groupby(["x_name", "y_name"], sort=False):
    grid = surface.pivot(index="y", columns="x", values="expected")
    plt.figure(figsize=(6, 4.4))
    drawn = plt.pcolormesh(grid.columns, grid.index, grid.values, shading="nearest",
                           cmap="cividis_r" if GOAL == "maximize" else "cividis")
    plt.colorbar(drawn, label=METRIC)
    plt.plot(complete[f"place of {x}"], complete[f"place of {y}"], "o", color="white", markeredgecolor="#222222")
    best = trials[trials["trial"] == BEST_TRIAL]
    plt.plot(best[f"place of {x}"], best[f"place of {y}"], "*", color=BEST, markersize=14, markeredgecolor="#444444")
    value_axis(x)
    value_axis(y, "y")
    show(f"{x} and {y}. {ALT}")"""

RUNGS = """\
measured = curves.dropna(subset=[METRIC])
ends = measured.groupby("trial")["step"].max()
plt.figure(figsize=(9, 3.6))
for i, step in enumerate(RUNGS):
    there = measured[(measured["step"] <= step) & (measured["trial"].map(ends) >= step)]
    values = there.groupby("trial")[METRIC].last()
    own = trials.set_index("trial").loc[values.index]
    cut = (own["status"] == "pruned") & (own["steps"] <= step)
    for side, chosen, mark, color, name in ((-0.12, values[~cut], "o", COLORS["complete"], "goes on"),
                                            (0.12, values[cut], "D", COLORS["pruned"], "cut")):
        plt.plot([i + side + 0.16 * (k * 0.618 % 1 - 0.5) for k in range(len(chosen))], chosen, mark, color=color,
                 fillstyle="none" if name == "cut" else "full", label=None if i else name)
plt.xticks(range(len(RUNGS)), RUNGS)
plt.xlim(-0.5, len(RUNGS) - 0.5)
plt.xlabel("rung, optimizer steps")
plt.ylabel(f"{METRIC} at the rung")
legend()
show(ALT)"""

PARALLEL = """\
if len(varied) > 1 and len(ranked) > 1:
    heights = pd.DataFrame(index=ranked.index)
    for name in varied:
        column = ranked[f"place of {name}"].map(math.log if AXES[name] == "log" else float)
        heights[name] = (column - column.min()) / (column.max() - column.min())
    heights[METRIC] = [1 - i / (len(ranked) - 1) for i in range(len(ranked))]
    plt.figure(figsize=(10, 4))
    for i, (_, row) in enumerate(heights[::-1].iterrows()):
        is_best = ranked["trial"].iloc[len(heights) - 1 - i] == BEST_TRIAL
        plt.plot(range(len(row)), row, color=BEST if is_best else plt.get_cmap("cividis_r")(i / len(heights)),
                 linewidth=2.6 if is_best else 1, alpha=1 if is_best else 0.6)
    for i, name in enumerate(heights):
        column = ranked[f"place of {name}"] if name in varied else -ranked[METRIC] * (1 if GOAL != "maximize" else -1)
        for end, at in ((column.idxmin(), -0.05), (column.idxmax(), 1.05)):
            value = ranked.loc[end, name]
            listed = LABELS.get(name) and LABELS[name][int(column[end])]
            text = written(value) if name == METRIC else f"{value:.3g}" if isinstance(value, float) else str(value)
            plt.text(i, at, listed or text, ha="center", va="center", size=8)
    plt.ylim(-0.1, 1.1)
    labels = [*heights.columns[:-1], f"{METRIC}, by rank"]
    if len(labels) > 8:
        plt.xticks(range(len(labels)), [folded(name, 60) for name in labels], rotation=90, size=6)
    else:
        plt.xticks(range(len(labels)), map(folded, labels), rotation=15, ha="right")
    plt.yticks([])
    show(ALT)"""

TIME = """\
bottom = 0 * trials["seconds"]
plt.figure(figsize=(9, 3.2))
for phase, color in zip([name for name in trials if name.startswith("seconds_")], PHASES):
    plt.bar(trials["number"], trials[phase].fillna(0), bottom=bottom, color=color, label=phase[len("seconds_"):])
    bottom = bottom + trials[phase].fillna(0)
plt.bar(trials["number"], (trials["seconds"] - bottom).clip(lower=0), bottom=bottom, color=FAINT, label="other")
trial_axis()
plt.ylabel("seconds in a trial")
legend()
show(ALT)"""

MEMORY = """\
trials["measured"] = trials["peak_device_bytes"] / 2**30
trials["predicted"] = trials["predicted_peak_bytes"] / 2**30
if trials["measured"].notna().any():
    plt.figure(figsize=(9, 3.2))
    bottom = 0 * trials["number"]
    parts = {name: trials[name].fillna(0) / 2**30 for name in trials if name.startswith("predicted_part_")}
    for (name, part), color in zip(sorted(parts.items(), key=lambda pair: -pair[1].sum()), [*PHASES, FAINT]):
        plt.bar(trials["number"], part, bottom=bottom, color=color, label=name[len("predicted_part_"):])
        bottom = bottom + part
    dots("number", "measured")
    plt.ylim(bottom=0)
    trial_axis()
    plt.ylabel("peak memory, GiB")
    legend()
    show(ALT)
if (trials["measured"] * trials["predicted"]).notna().any():
    plt.figure(figsize=(5, 4.4))
    plt.axline((trials["measured"].max(),) * 2, slope=1, color="#8A8A8A", linestyle="--", label="as predicted")
    dots("predicted", "measured")
    plt.xlabel("predicted peak, GiB")
    plt.ylabel("measured peak, GiB")
    legend()
    show(f"Predicted and measured peak memory. {ALT}")"""
