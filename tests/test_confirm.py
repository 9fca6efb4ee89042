"""Confirming the winner of a sweep: which trials, which seeds, and what is said of the one that wins."""

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from kaggle_runner.cli.main import cli
from kaggle_runner.run.confirm import Candidate, chosen, confirmed, stated_mean, trials_of
from kaggle_runner.study.journal import Snapshot, Study, confirm_directory, read_study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.study_settings import OFF, Confirm, arrange

ROOT = Path(__file__).parent.parent
THREE = Confirm(top=3, seeds=2)
USUAL = {"model": "demo", "learning_rate": 1e-3, "seed": 42}


def write(directory: Path, trials: Mapping[str, tuple[Mapping[str, Any], float | None]], goal: str = "minimize",
          origins: Mapping[str, str] | None = None) -> Snapshot:
    with Study.open_for_writing(directory, name="s", sweep={"parameters": {}}, metric="eval/loss", goal=goal,
                                seed=0) as study:
        for number, (name, (params, value)) in enumerate(trials.items()):
            study.record_start(Trial(id=name, number=number, params=params, origin=(origins or {}).get(name, "")), {})
            study.record_end(TrialResult(id=name, status=Status.FAILED if value is None else Status.COMPLETE,
                                         metric=value))
    return read_study(directory)


def study_with(directory: Path, first: list[float], further: list[list[float]]) -> Snapshot:
    """A sweep of these losses, and its confirmation."""
    snapshot = write(directory, {f"{i:04d}": ({**USUAL, "learning_rate": 1e-3 * (i + 1)}, value)
                                 for i, value in enumerate(first)})
    trials = trials_of(chosen(snapshot, THREE), THREE)
    values = [further[int(trial.origin[-4:])][turn // 3] for turn, trial in enumerate(trials)]
    write(confirm_directory(directory), {trial.id: (trial.params, value)
                                         for trial, value in zip(trials, values, strict=True)},
          origins={trial.id: trial.origin for trial in trials})
    return snapshot


def test_the_best_different_configurations_get_further_seeds_and_the_rest_of_their_config_stays(tmp_path: Path) -> None:
    snapshot = write(tmp_path / "s", {
        "0000": ({**USUAL}, 3.0), "0001": ({**USUAL, "learning_rate": 2e-3}, 1.0), "0002": ({**USUAL, "seed": 7}, 2.0),
        "0003": ({**USUAL, "learning_rate": 3e-3}, None), "0004": ({**USUAL, "learning_rate": 4e-3}, 4.0)})
    records = chosen(snapshot, THREE)
    assert [record.trial.id for record in records] == ["0001", "0002", "0004"]  # 0000 is 0002 with another seed
    trials = trials_of(records, THREE)
    assert [(trial.origin, trial.params["seed"]) for trial in trials] == [
        ("trial 0001", 43), ("trial 0002", 8), ("trial 0004", 43), ("trial 0001", 44), ("trial 0002", 9),
        ("trial 0004", 44)]
    assert trials[0].params["learning_rate"] == 2e-3
    assert trials[0].params["lora_r"] == 8
    largest = write(tmp_path / "max", {"0000": (USUAL, 1.0), "0001": ({**USUAL, "learning_rate": 2e-3}, 2.0)},
                    goal="maximize")
    assert [record.trial.id for record in chosen(largest, THREE)] == ["0001", "0000"]


def test_the_mean_over_seeds_chooses_and_seeds_that_did_not_choose_say_how_good_it_is(tmp_path: Path) -> None:
    snapshot = study_with(tmp_path / "s", [1.00, 1.02, 1.03, 9.0], [[1.10, 1.12], [1.01, 1.05], [1.20, 1.00], []])
    found = confirmed(snapshot, THREE)
    assert [one.trial.id for one in found.candidates] == ["0001", "0000", "0002"]
    assert found.winner.mean == pytest.approx(statistics.fmean([1.02, 1.01, 1.05]))
    # without the first further seed 0002 leads (1.015), and has 1.20 there; without the second 0001, with 1.05
    assert found.stated == pytest.approx((1.20 + 1.05) / 2)
    assert found.noise.freedom == 3
    lines = found.as_lines("eval/loss")
    assert lines[0][1].startswith("trial 0001: eval/loss 1.125 +- ")
    assert lines[0][1].endswith("(the sweep measured 1.02)")


def test_a_confirmation_with_failures_counts_what_is_whole_and_none_says_nothing(tmp_path: Path) -> None:
    snapshot = write(tmp_path / "s", {f"{i:04d}": ({**USUAL, "learning_rate": 1e-3 * (i + 1)}, 1.0 + i)
                                      for i in range(3)})
    assert confirmed(snapshot, THREE) is None
    trials = trials_of(chosen(snapshot, THREE), THREE)
    write(confirm_directory(tmp_path / "s"), {trial.id: (trial.params, None if trial.id == "0001" else 2.0)
                                              for trial in trials},
          origins={trial.id: trial.origin for trial in trials})
    assert {one.trial.id for one in confirmed(snapshot, THREE).candidates} == {"0000", "0002"}


def test_what_is_said_of_the_winner_is_true_on_average() -> None:
    """Over 400 made studies without any difference between configurations, where the luckiest is the most off."""
    generator, off, naive = np.random.default_rng(1), [], []
    for _ in range(400):
        candidates = [Candidate(trial=Trial(id="0", number=0, params={}), first=float(first), further=tuple(further))
                      for first, further in zip(sorted(generator.standard_normal(15))[:3],
                                                generator.standard_normal((3, 2)).tolist(), strict=True)]
        off.append(stated_mean(candidates, 1.0))
        naive.append(min(one.mean for one in candidates))
    error = statistics.stdev(off) / len(off) ** 0.5
    assert abs(statistics.fmean(off)) < 2 * error
    assert statistics.fmean(naive) < -5 * error


def test_what_nobody_asked_for_is_taken_from_the_trials_and_what_is_asked_for_comes_on_top() -> None:
    two = Confirm(top=2, seeds=1)
    for method, trials, in_file, asked, expected in (
            ("bayes", 30, None, None, (THREE, 24)), ("bayes", 8, None, None, (OFF, 8)),
            ("grid", 30, None, None, (OFF, 30)), ("bayes", 30, two, None, (two, 30)),
            ("bayes", 30, two, OFF, (OFF, 30)), ("random", 8, None, THREE, (THREE, 8)),
            ("grid", None, None, None, (OFF, None))):
        assert arrange(method=method, trials=trials, in_file=in_file, asked=asked) == expected


@pytest.mark.parametrize(("arguments", "said"), [
    (["--confirm", "3"], "write 3x2"), (["--confirm", "1x2"], "two or more of the first"),
    (["--confirm", "3x2", "--no-confirm"], "say the opposite"),
    (["--backend", "wandb", "--confirm", "3x2"], "--confirm is for trials that run here")])
def test_a_wrong_confirmation_is_a_line(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(cli, ["sweep", "sweeps/demo.yaml", *arguments])
    assert result.exit_code == click.UsageError.exit_code
    assert said in " ".join(result.output.split()).replace("│ ", "")


def tiny(folder: Path, trials: int = 3) -> Path:
    """A sweep of a character model that trains in a moment."""
    (folder / "text.txt").write_text("".join(f"{i} is said {i} times, and {i * 7 % 10} after it\n" for i in range(300)))
    fixed = {"trainer": "charlm", "dataset": str(folder / "text.txt"), "max_length": 16, "batch_size": 4,
             "max_tokens": 3200, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
             "max_eval_tokens": 256, "evaluations": 2}
    path = folder / "tiny.yaml"
    path.write_text(json.dumps({
        "method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "run_cap": trials,
        "parameters": {**{name: {"value": value} for name, value in fixed.items()},
                       "learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-1}}}))
    return path


def told(*arguments: str, status: int = 0) -> dict[str, str]:
    """Run the sweep and return its last lines by their labels."""
    result = CliRunner().invoke(cli, ["sweep", "tiny.yaml", "--cpu", *arguments])
    assert result.exit_code == status, result.output
    return {line.split()[0]: line for line in result.output.splitlines() if line.split()}


def trainings(study: Path) -> list[tuple[Trial, float | None]]:
    return [(record.trial, record.result.metric if record.result else None)
            for record in read_study(confirm_directory(study)).records]


@pytest.fixture
def one_core() -> Iterator[None]:
    """One worker, whose start costs more than what it trains here."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("one_core")
def test_a_confirmation_that_was_killed_and_gets_more_seeds_is_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "KAGGLE_RUNNER_CACHE": "cache"}.items():
        monkeypatch.setenv(name, value)
    study = Path("studies/tiny")
    command = [sys.executable, "-m", "kaggle_runner", "sweep", "tiny.yaml", "--cpu", "--confirm", "2x1"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        confirming = False
        for line in process.stdout:
            confirming |= line.startswith("confirming: ")
            if confirming and line.startswith("trial 0000  step"):
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    assert None in [metric for _, metric in trainings(study)], "in the midst of a training"
    late = told("--confirm", "2x2", "--deadline", "1s", status=130)
    assert late["confirm"] == "confirm  not done: the session is at its deadline (--deadline 1s)"
    assert "winner" not in late
    winner, killed = told("--confirm", "2x2")["winner"], trainings(study)
    confirm_directory(study).rename("killed")
    assert told("--confirm", "2x2")["winner"] == winner
    assert trainings(study) == killed
    assert [trial.number for trial, _ in killed] == [0, 1, 2, 3]
    assert [trial.params["seed"] for trial, _ in killed] == [43, 43, 44, 44]
