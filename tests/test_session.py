"""The clock of a session: what fits and what does not."""

import dataclasses
import math
import os
from datetime import datetime

import pytest

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ConfigError
from kaggle_runner.machine.deadline import Deadline, find_deadline
from kaggle_runner.machine.environment import detect
from kaggle_runner.study.journal import Study
from kaggle_runner.study.pace import forecast_s, refusal
from kaggle_runner.study.trial import Status, Trial, TrialResult

NOW = 1_000_000.0


def environment(host):
    return detect({"KAGGLE_RUNNER_HOST": host})


def snapshot_of(directory, *finished):
    """A study with trials of (seconds, steps, accumulation, status)."""
    with Study.open_for_writing(directory, name="s", sweep={}, metric="eval/loss", goal="minimize", seed=0) as study:
        for number, (seconds, steps, accumulation, status) in enumerate(finished):
            trial = Trial(id=f"{number:04d}", number=number, params={"gradient_accumulation_steps": accumulation})
            study.record_start(trial, {})
            study.record_end(TrialResult(id=trial.id, status=status, metric=1.0, steps=steps, seconds=seconds))
        return study.snapshot()


def test_kaggle_ends_a_session_twelve_hours_after_its_start_less_the_time_for_outputs():
    deadline = find_deadline(None, environment("kaggle"), {"KAGGLE_RUNNER_SESSION_STARTED": str(NOW - 3600)}, now=NOW)
    assert deadline.at == NOW + 11 * 3600 - 1200
    assert "kaggle ends a session after 12 h" in deadline.reason


def test_without_a_launcher_the_session_began_with_the_container(tmp_path):
    """It is what a notebook has: the command may be started hours into the session, and more than once."""
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/stat").write_text(f"cpu  1 2 3\nbtime {NOW - 9000:.0f}\nprocesses 5\n")
    ticks = 1800 * os.sysconf("SC_CLK_TCK")
    (tmp_path / "proc/1/stat").write_text(f"1 (tini (x) y) S 0 {'1 ' * 17}{ticks} 0 0\n")
    root = {"KAGGLE_RUNNER_ROOT": str(tmp_path)}
    deadline = find_deadline(None, environment("colab"), root, now=NOW)
    assert deadline.at == NOW - 7200 + 12 * 3600 - 1200
    assert "counted from the container's start" in deadline.reason
    later = find_deadline(None, environment("colab"), root, now=NOW + 24 * 3600)  # a machine that outlives its sessions
    assert later.at == NOW + 36 * 3600 - 1200


def test_nobody_ends_a_session_on_a_local_machine():
    deadline = find_deadline(None, environment("local"), {}, now=NOW)
    assert deadline.at is None
    assert math.isinf(deadline.seconds_left(NOW))


@pytest.mark.parametrize(("text", "seconds"), [
    ("8h", 28_800), ("90m", 5_400), ("1h30m", 5_400), ("45s", 45), ("0.5h", 1_800)])
def test_a_duration_counts_from_now(text, seconds):
    assert find_deadline(text, environment("kaggle"), {}, now=NOW).at == NOW + seconds


def test_kaggles_own_end_counts_where_it_comes_first():
    """A session that runs into it loses every file; on Colab the limit is a guess, and some have longer ones."""
    late = find_deadline("13h", environment("kaggle"), {}, now=NOW)
    assert (late.at, late.margin_s) == (NOW + 12 * 3600 - 1200, find_deadline(None, environment("kaggle"), {}).margin_s)
    assert late.reason.startswith("--deadline 13h is later than Kaggle allows: kaggle ends a session after 12 h")
    assert find_deadline("13h", environment("colab"), {}, now=NOW).at == NOW + 13 * 3600


def test_a_time_is_taken_as_it_is():
    at = datetime.fromisoformat("2126-01-31T23:30").timestamp()
    assert find_deadline("2126-01-31T23:30", environment("local"), {}, now=NOW).at == at


@pytest.mark.parametrize(("text", "message"), [
    ("2020-01-31T23:30", "the deadline 2020-01-31T23:30 is in the past; give a later time, or a duration such as 8h"),
    ("0h", "the deadline 0h is in the past"),
    ("soon", "'soon' is neither a duration such as 8h, 90m or 1h30m, nor a time"),
    ("", "'' is neither a duration"),
])
def test_a_deadline_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        find_deadline(text, environment("local"), {}, now=1_700_000_000.0)


def test_the_forecast_leaves_out_trials_whose_seconds_are_not_those_of_their_steps(tmp_path):
    with Study.open_for_writing(tmp_path, name="s", sweep={}, metric="eval/loss", goal="minimize", seed=0) as study:
        for number, (seconds, attempts, notes) in enumerate([(160.0, 1, {}), (0.0, 1, {"repeat_of": "0000"}),
                                                             (0.0, 1, {"repeat_of": "0000"}), (5.0, 2, {})]):
            trial = Trial(id=f"{number:04d}", number=number, params={"gradient_accumulation_steps": 4})
            study.record_start(trial, {})
            study.record_end(TrialResult(id=trial.id, status=Status.COMPLETE, metric=1.0, steps=10, seconds=seconds,
                                         attempts=attempts, notes=notes))
        snapshot = study.snapshot()
    assert forecast_s(FinetuneConfig(max_steps=100), snapshot) == pytest.approx(1600)


def test_the_forecast_is_the_median_of_what_complete_trials_took(tmp_path):
    snapshot = snapshot_of(tmp_path, (80.0, 10, 4, Status.COMPLETE), (160.0, 10, 4, Status.COMPLETE),
                           (240.0, 10, 4, Status.COMPLETE), (9_999.0, 10, 4, Status.FAILED))
    config = FinetuneConfig(max_steps=100)
    assert forecast_s(config, snapshot) == pytest.approx(160 / 10 * 100)
    assert forecast_s(dataclasses.replace(config, gradient_accumulation_steps=8), snapshot) == pytest.approx(3_200)
    assert forecast_s(config, snapshot, steps_done=75) == pytest.approx(400)


def test_nothing_is_forecast_without_a_complete_trial(tmp_path):
    assert forecast_s(FinetuneConfig(), snapshot_of(tmp_path, (80.0, 10, 4, Status.FAILED))) is None


def test_a_trial_that_does_not_fit_is_refused_with_both_times(tmp_path):
    snapshot = snapshot_of(tmp_path, (100.0, 10, 4, Status.COMPLETE))
    deadline = Deadline(at=NOW + 1_120, reason="the host", margin_s=120)
    config = FinetuneConfig(max_steps=95)
    assert refusal(config, snapshot, deadline, now=NOW) == (
        "the next trial takes about 16 min, but the session has 17 min left (the host)")
    assert refusal(dataclasses.replace(config, max_steps=90), snapshot, deadline, now=NOW) is None
    assert refusal(config, snapshot, deadline, now=NOW, steps_done=50) is None
    assert "at its deadline (the host)" in refusal(config, snapshot, deadline, now=NOW + 1_000)
