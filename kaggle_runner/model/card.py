"""The card of a model that is taken home: what the record knows of it, and nothing that was not measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaggle_runner import __version__
from kaggle_runner.config import DEMO_MODEL, known_to_0_2
from kaggle_runner.metrics import LOSS, MEASURED, format_metric, format_number
from kaggle_runner.model.outcome import Outcome
from kaggle_runner.mounts import may_be_on_hub
from kaggle_runner.study.best_file import yaml_text
from kaggle_runner.study.noise import measured_noise


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is written into a card besides the record."""

    title: str
    base: str
    """The base's name, as others can use it."""
    library: str
    """`peft` or `transformers`; empty where neither loads it."""
    losses: Sequence[tuple[str, float]]
    """What was measured at the export: of what, and how much."""
    remarks: Sequence[str]
    load: str = ""
    """Python that loads it."""
    commands: Sequence[str] = ()
    """What is typed in its folder to use it."""
    tags: Sequence[str] = ("lora", "kaggle_runner")
    base_sha256: str = ""


def base_name_of(source: str) -> str:
    """Return how a base is named, wherever that is read: by the hub's name, else by the whole path of its folder."""
    return str(Path(source).resolve()) if Path(source).is_dir() else source


def is_of_hub(base: str) -> bool:
    """Say whether others can get a base by the name that `base_name_of` gave it."""
    return not Path(base).is_absolute()


def _data_of_hub(dataset: str) -> bool:
    """Say whether a dataset is one that others find on the hub under its owner's name."""
    return "/" in dataset and may_be_on_hub(dataset) and not Path(dataset).exists()


def card(outcome: Outcome, facts: Facts) -> str:
    """Write the README.md of a model."""
    config, result, snapshot = outcome.finetune, outcome.result, outcome.snapshot
    shown = config.model if config.model == DEMO_MODEL else facts.base
    head = {**({"library_name": facts.library} if facts.library else {}), "pipeline_tag": "text-generation",
            "tags": list(facts.tags)}
    if is_of_hub(facts.base):
        head["base_model"] = facts.base
    if _data_of_hub(config.dataset):
        head["datasets"] = [config.dataset]
    noise, _ = measured_noise(snapshot)
    metric = snapshot.info.metric
    rows = result.notes.get("rows") or {}
    base, own = scores_in_study(outcome)
    table = [("the untouched base, in the study", base), (f"trial {outcome.trial.id}, in the study", own),
             *((what, {LOSS: loss}) for what, loss in facts.losses)]
    columns = [name for name in dict.fromkeys((*MEASURED["finetune"], metric)) if name in own or name in base]
    command = next((session["command"] for session in reversed(snapshot.sessions) if session.get("command")), "")
    is_best = snapshot.best is not None and outcome.trial.id == snapshot.best.trial.id
    winner = f", the best of {len(snapshot.finished)}" if is_best and len(snapshot.finished) > 1 else ""
    lines = [
        "---", *(f"{name}: {yaml_text(value)}" for name, value in head.items()), "---", f"# {facts.title}", "",
        f"A LoRA fine-tune of `{shown}` on `{config.dataset}`: trial {outcome.trial.id} of the study "
        f"`{snapshot.info.name}`{winner}. Made by kaggle_runner {__version__}.", "",
        f"| on the held-out rows | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|",
        *(f"| {what} | {' | '.join(_cell(name, scores) for name in columns)} |" for what, scores in table if scores),
        "",
    ]
    if noise is not None:
        lines += ["Two runs of one configuration differ by a standard deviation of "
                  f"{format_number(noise.deviation)} in {metric}, from {noise.source}.", ""]
    lines += [*(f"- {remark}" for remark in facts.remarks), *([""] if facts.remarks else [])]
    uses = [("python", facts.load), ("sh", "\n".join(facts.commands))]
    lines += ["## Use it", ""]
    for language, text in uses:
        lines += [f"```{language}", text, "```", ""] if text else []
    lines += ["## Data", ""]
    rows_hash = result.hashes.get("rows", "unknown")
    lines += [f"`{config.dataset}`: {_counts(rows)}SHA-256 of rows and tokens `{rows_hash}`.", "",
              "## Training", "", "```yaml",
              *(f"{name}: {yaml_text(value)}" for name, value in known_to_0_2(config.as_dict()).items()), "```", "",
              f"{result.steps} optimizer steps and {result.tokens:,} tokens in {result.seconds:.0f} s, base "
              f"`{facts.base_sha256 or result.hashes.get('base', 'unknown')}`, "
              + ", ".join(f"{name} {version}" for name, version in result.versions.items()) + ".", ""]
    if command:
        lines += ["The study's last session was begun by:", "", "```sh", command, "```", ""]
    return "\n".join(lines)


def scores_in_study(outcome: Outcome) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Return what the study measured of the untouched base and of the trial, by the names of the metrics."""
    result, snapshot = outcome.result, outcome.snapshot
    own = {snapshot.info.metric: result.metric} if result.metric is not None else {}  # all that 0.2 has
    return snapshot.base_scores, result.metrics or own


def _cell(name: str, scores: Mapping[str, float]) -> str:
    return format_metric(name, scores[name]) if name in scores else ""


def _counts(rows: Mapping[str, object]) -> str:
    named = [f"{rows[name]} rows {what}" for name, what in (("read", "read"), ("train", "trained on"),
                                                            ("validation", "held out")) if name in rows]
    return ", ".join(named) + "; " if named else ""
