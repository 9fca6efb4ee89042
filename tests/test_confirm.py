"""Confirming the winner of a sweep: which trials, which seeds, and what is said of the one that wins."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from kaggle_runner.cli.main import cli
from kaggle_runner.model.outcome import find_outcome
from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.analysis.claims import claims
from kaggle_runner.report.page import page
from kaggle_runner.run.adopt import adopt
from kaggle_runner.run.confirm import chosen, open_confirmation, runs_left, trials_of, why_unconfirmed
from kaggle_runner.run.fixed_trials import left_of, run_twice
from kaggle_runner.run.points.prior import known_of, lessons_of, observations
from kaggle_runner.run.points.propose import propose
from kaggle_runner.study.best_file import read_chosen, write_best
from kaggle_runner.study.journal import JOURNAL, Snapshot, Study, confirm_directory, read_study
from kaggle_runner.study.noise import Candidate, confirmed, measured_noise, stated_mean
from kaggle_runner.study.table import best_lines
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import read_sweep
from kaggle_runner.sweep.study_settings import OFF, Confirm, arrange
from tests.held_trials import held

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
    width = len(chosen(snapshot, THREE))
    values = [further[int(trial.origin[-4:])][turn // width] for turn, trial in enumerate(trials)]
    write(confirm_directory(directory), {trial.id: (trial.params, value)
                                         for trial, value in zip(trials, values, strict=True)},
          origins={trial.id: trial.origin for trial in trials})
    return read_study(directory)


def test_the_best_different_configurations_get_further_seeds_and_the_rest_of_their_config_stays(tmp_path: Path) -> None:
    snapshot = write(tmp_path / "s", {
        "0000": ({**USUAL}, 3.0), "0001": ({**USUAL, "learning_rate": 2e-3}, 1.0), "0002": ({**USUAL, "seed": 7}, 2.0),
        "0003": ({**USUAL, "learning_rate": 3e-3}, None), "0004": ({**USUAL, "learning_rate": 4e-3}, 4.0)})
    found = chosen(snapshot, THREE)
    assert [one.records[0].trial.id for one in found] == ["0001", "0002", "0004"]  # 0000 is 0002 with another seed
    trials = trials_of(found, THREE)
    assert [(trial.origin, trial.params["seed"]) for trial in trials] == [
        ("trial 0001", 43), ("trial 0002", 43), ("trial 0004", 43), ("trial 0001", 44), ("trial 0002", 44),
        ("trial 0004", 44)]
    assert trials[0].params["learning_rate"] == 2e-3
    assert trials[0].params["lora_r"] == 8
    largest = write(tmp_path / "max", {"0000": (USUAL, 1.0), "0001": ({**USUAL, "learning_rate": 2e-3}, 2.0)},
                    goal="maximize")
    assert [one.records[0].trial.id for one in chosen(largest, THREE)] == ["0001", "0000"]


def test_the_mean_over_seeds_chooses_and_seeds_that_did_not_choose_say_how_good_it_is(tmp_path: Path) -> None:
    snapshot = study_with(tmp_path / "s", [1.00, 1.02, 1.03, 9.0], [[1.10, 1.12], [1.01, 1.05], [1.20, 1.00], []])
    found = confirmed(snapshot)
    assert [one.trial.id for one in found.candidates] == ["0001", "0000", "0002"]
    assert found.winner.mean == pytest.approx(statistics.fmean([1.02, 1.01, 1.05]))
    # without the first further seed 0002 leads (1.015), and has 1.20 there; without the second 0001, with 1.05
    assert found.stated == pytest.approx((1.20 + 1.05) / 2)
    assert found.noise.freedom == 3
    lines = found.as_lines("eval/loss")
    assert lines[0][1].startswith("trial 0001 is chosen; what is chosen so comes to eval/loss 1.1250 +- ")
    assert lines[0][1].endswith("(the sweep measured 1.0200)")


def test_what_is_said_of_seeds_is_written_in_the_digits_of_the_line_of_the_best(tmp_path: Path) -> None:
    close = [3.681710, 3.681720, 3.681733, 3.681750]
    snapshot = study_with(tmp_path / "s", close, [[value - 0.01, value + 0.01] for value in close[:3]] + [[]])
    seeds = " ".join(text for _, text in confirmed(snapshot).as_lines("eval/loss"))
    assert all(f"mean {value:.6f}" in seeds for value in close[:3])
    best = dict(best_lines(snapshot))["best"]
    assert "eval/loss 3.681710 " in best
    comes_to = [re.search(r"comes to (?:eval/loss )?(\S+?)\)? ", f"{text} ")[1] for text in (best, seeds)]
    assert comes_to[0].rstrip(");") == comes_to[1]


def test_a_confirmation_with_failures_counts_what_is_whole_and_none_says_nothing(tmp_path: Path) -> None:
    snapshot = write(tmp_path / "s", {f"{i:04d}": ({**USUAL, "learning_rate": 1e-3 * (i + 1)}, 1.0 + i)
                                      for i in range(3)})
    assert confirmed(snapshot) is None
    trials = trials_of(chosen(snapshot, THREE), THREE)
    write(confirm_directory(tmp_path / "s"), {trial.id: (trial.params, None if trial.id == "0001" else 2.0)
                                              for trial in trials},
          origins={trial.id: trial.origin for trial in trials})
    assert [one.trial.id for one in confirmed(read_study(tmp_path / "s")).candidates] == ["0000", "0002"]


ORDERS: dict[str, tuple[list[float], list[list[float | None]], list[str]]] = {
    "the best mean, before one whose single value is lower than it": (
        [1.00, 1.01, 1.02, 1.03], [[1.2, 1.2], [1.05, 1.05], [1.3, 1.3]], ["0001", "0000", "0002", "0003"]),
    "by the seeds that both met, where one met a hard one more": ([1.00, 1.01], [[1.1, 1.9], [1.2]], ["0000", "0001"]),
    "not one that failed with another seed": (
        [1.00, 1.01, 1.02, 1.03], [[None, 0.5], [1.05, 1.05], [1.3, 1.3]], ["0001", "0002", "0000", "0003"]),
    "the only one that did not fail": (
        [1.00, 1.01, 1.02], [[None, 0.5], [1.05, 1.05], [None, None]], ["0001", "0000", "0002"]),
    "what was swept, while nothing is compared": ([1.00, 1.01, 1.02], [[1.5], [], []], ["0000", "0001", "0002"]),
    "what was swept, if all of them failed": ([1.00, 1.01], [[None], [None]], ["0000", "0001"])}


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
@pytest.mark.parametrize("name", ORDERS)
def test_seeds_that_confirm_rank_before_single_values(name: str, goal: str, tmp_path: Path) -> None:
    first, further, order = ORDERS[name]
    sign = 1.0 if goal == "minimize" else -1.0
    write(tmp_path / "s", {f"{i:04d}": ({**USUAL, "learning_rate": 1e-3 * (i + 1)}, sign * value)
                           for i, value in enumerate(first)}, goal)
    trainings = [(f"{i:04d}", turn, value) for i, values in enumerate(further) for turn, value in enumerate(values)]
    write(confirm_directory(tmp_path / "s"), {
        f"{number:04d}": ({**USUAL, "learning_rate": 1e-3 * (int(trial) + 1), "seed": 43 + turn},
                          None if value is None else sign * value)
        for number, (trial, turn, value) in enumerate(trainings)}, goal,
        origins={f"{number:04d}": f"trial {trial}" for number, (trial, _, _) in enumerate(trainings)})
    assert [record.trial.id for record in read_study(tmp_path / "s").ranked] == order
    found = confirmed(read_study(tmp_path / "s"))
    assert (found is None) == name.startswith("what was swept")
    assert found is None or found.winner.trial.id == order[0]
    later = Study(tmp_path / "s")
    later.record_start(Trial(id="9999", number=9999, params={**USUAL, "learning_rate": 1.0}), {})
    later.record_end(TrialResult(id="9999", status=Status.COMPLETE, metric=sign * 0.9))
    assert [record.trial.id for record in read_study(tmp_path / "s").ranked] == ["9999", *order]
    assert found is None or "trial 9999 came later, and leads until it is confirmed too" in confirmed(
        read_study(tmp_path / "s")).as_lines("eval/loss")[0][1]


def test_the_confirmed_winner_is_the_winner_wherever_a_study_is_told(tmp_path: Path) -> None:
    fixed = "method: bayes\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n  model: {value: demo}\n"
    (tmp_path / "sweep.yaml").write_text(f"{fixed}  learning_rate: {{min: 0.0001, max: 0.1}}\n")
    spec, study = read_sweep(tmp_path / "sweep.yaml"), tmp_path / "s"
    snapshot = study_with(study, [1.00, 1.02, 1.03, 1.031], [[1.10, 1.12], [1.03, 1.05], [1.20, 1.00], []])
    mean, rate = statistics.fmean([1.02, 1.03, 1.05]), 2e-3
    assert snapshot.best.trial.id == find_outcome(study).trial.id == "0001"
    lines = CliRunner().invoke(cli, ["show", str(study)]).output.splitlines()
    best = next(line for line in lines if line.startswith("best"))
    assert best.startswith(f"best     trial 0001, eval/loss {mean:.4f} +- ")
    assert best.endswith(" standard error (mean of 3 seeds that chose it; what is chosen so comes to 1.1250)")
    stated = "seeds    trial 0001 is chosen; what is chosen so comes to eval/loss 1.1250 +- "
    assert any(line.startswith(stated) for line in lines)
    assert best.partition(" ")[2].strip() in (study / "best.yaml").read_text()
    assert read_chosen(study)[0].fixed["learning_rate"] == rate
    shown = json.loads(CliRunner().invoke(cli, ["show", str(study), "--json"]).output)["best"]
    assert (shown["id"], shown["mean"], shown["seeds"]) == ("0001", pytest.approx(mean), 3)
    analysis = analyse(snapshot)
    assert analysis.best.id == "0001"
    assert claims(analysis)["best"] | {"params": {}} == {
        "trials": ["0001"], "value": pytest.approx(mean), "stated": pytest.approx(1.125), "seeds": 3, "params": {}}
    assert (f"trial 0001 with eval/loss {mean:.4f} (mean of 3 seeds that chose it; what is chosen so comes to 1.1250)"
            in say.winner(analysis))
    assert say.repeats(analysis).startswith("Best mean over seeds: 0001, trial 0001 with seed 43 and trial 0001 with")
    prior = observations(lessons_of([study], spec), spec)
    first = propose(spec, seed=1, number=0, past=[], defaults={}, prior=prior)
    assert (first.origin, first.params["learning_rate"]) == ("prior", rate)
    assert next(o.value for o in prior if o.params["learning_rate"] == rate) == pytest.approx(mean)


def test_a_taken_over_study_keeps_its_confirmation(tmp_path: Path) -> None:
    text = "method: {}\nmetric: {{name: eval/loss, goal: minimize}}\nparameters:\n  model: {{value: demo}}\n" \
           "  seed: {{value: 42}}\n  learning_rate: {{min: {}, max: 0.1}}\n"
    (tmp_path / "new.yaml").write_text(text.format("random", 0.0015))
    study = tmp_path / "s"
    study_with(study, [1.00, 1.02, 1.03, 9.0], [[1.10, 1.12], [1.01, 1.05], [1.20, 1.00], []])
    adopted = adopt(study, read_sweep(tmp_path / "new.yaml"))
    assert (adopted.kept, adopted.learned) == (3, 1)
    after = read_study(study)
    assert [record.trial.origin for record in after.confirming] == ["trial 0000", "trial 0001"] * 2
    assert after.best.trial.id == confirmed(after).winner.trial.id == "0000"
    assert after.best.trial.params["learning_rate"] == 2e-3
    assert known_of(after).lessons[0].value == pytest.approx(statistics.fmean([1.00, 1.10, 1.12]))


def test_seeds_of_the_sweep_are_no_further_ones_and_count_in_the_mean(tmp_path: Path) -> None:
    rates = [(rate, seed, 1.0 + rate * 100 + seed / 1000) for rate in (1e-3, 2e-3) for seed in (42, 43)]
    snapshot = write(tmp_path / "s", {f"{i:04d}": ({**USUAL, "learning_rate": rate, "seed": seed}, value)
                                      for i, (rate, seed, value) in enumerate(rates)})
    trials = trials_of(chosen(snapshot, THREE), THREE)
    assert [(trial.origin, trial.params["seed"]) for trial in trials] == [
        ("trial 0000", 44), ("trial 0002", 44), ("trial 0000", 45), ("trial 0002", 45)]
    write(confirm_directory(tmp_path / "s"), {trial.id: (trial.params, 3.0 + trial.number) for trial in trials},
          origins={trial.id: trial.origin for trial in trials})
    found = confirmed(read_study(tmp_path / "s"))
    assert found.winner.mean == pytest.approx(statistics.fmean([1.142, 1.143, 3.0, 5.0]))
    assert read_study(tmp_path / "s").configurations[0].mean == pytest.approx(found.winner.mean)


def test_where_the_seed_is_searched_all_meet_the_same_further_ones_and_only_these_compare(tmp_path: Path) -> None:
    """The second has an easy seed of its own, and the first confirming seed is a hard one."""
    swept = {"0000": ({**USUAL, "learning_rate": 2e-3, "seed": 5}, 1.0), "0001": ({**USUAL, "seed": 7}, 0.9),
             "0002": ({**USUAL, "seed": 8}, 1.9)}  # 0002 repeats 0001, so the sweep has one degree of freedom
    snapshot = write(tmp_path / "s", swept)
    trials = trials_of(chosen(snapshot, THREE), THREE)
    assert [(trial.origin, trial.params["seed"]) for trial in trials] == [
        (f"trial {name}", seed) for seed in (43, 44) for name in ("0000", "0001")]
    values = {("trial 0000", 43): 3.0, ("trial 0001", 43): 3.1, ("trial 0000", 44): 1.2, ("trial 0001", 44): 1.2}
    write(confirm_directory(tmp_path / "s"), {
        trial.id: (trial.params, values[trial.origin, trial.params["seed"]]) for trial in trials},
        origins={trial.id: trial.origin for trial in trials})
    snapshot = read_study(tmp_path / "s")
    found = confirmed(snapshot)
    assert [(one.trial.id, one.mean) for one in found.candidates] == [("0000", pytest.approx(2.1)),
                                                                      ("0001", pytest.approx(2.15))]
    assert [(one.trial_ids[0], one.mean, one.seeds) for one in analyse(snapshot).first.ranked] == [
        ("0000", pytest.approx(2.1), 2), ("0001", pytest.approx(2.15), 2)]
    assert (found.noise.freedom, analyse(snapshot).noise) == (2, found.noise)
    assert found.as_lines("eval/loss")[1][1].endswith("in the sweep, then 3.0000, 1.2000; mean of the latter 2.1000")


def test_a_confirmation_of_an_earlier_version_with_other_seeds_for_each_is_told_as_that(tmp_path: Path) -> None:
    study = tmp_path / "s"
    write(study, {"0000": ({**USUAL, "seed": 5}, 1.0), "0001": ({**USUAL, "learning_rate": 2e-3, "seed": 70}, 1.1)})
    params = [{**USUAL, "seed": 6}, {**USUAL, "learning_rate": 2e-3, "seed": 71}]
    write(confirm_directory(study), {"0000": (params[0], 1.5), "0001": (params[1], 1.2)},
          origins={"0000": "trial 0000", "0001": "trial 0001"})
    assert any("each met other seeds" in text for _, text in confirmed(read_study(study)).as_lines("eval/loss"))
    trials = [replace(trial, id=f"{number:04d}", number=number) for number, trial in enumerate(
        trials_of(chosen(read_study(study), Confirm(top=2, seeds=1)), Confirm(top=2, seeds=1)), 2)]
    later = Study(confirm_directory(study))
    for trial, value in zip(trials, [1.3, 1.4], strict=True):
        later.record_start(trial, {})
        later.record_end(TrialResult(id=trial.id, status=Status.COMPLETE, metric=value))
    found = confirmed(read_study(study))
    assert [(one.trial.id, one.further, one.mean) for one in found.candidates] == [
        ("0000", (1.3,), 1.3), ("0001", (1.4,), 1.4)]
    assert not any("each met other seeds" in text for _, text in found.as_lines("eval/loss"))


@pytest.mark.parametrize("left", ["", '{"event": "stu', '{"event": "session"}\n'])
def test_a_confirmation_whose_journal_is_cut_blocks_nothing_and_begins_anew(left: str, tmp_path: Path) -> None:
    study, said = tmp_path / "s", list[str]()
    study_with(study, [1.00, 1.01], [[1.3, 1.3], [1.1, 1.1]])
    journal = confirm_directory(study) / "trials.jsonl"
    journal.write_text(left)
    (confirm_directory(study) / "trials" / "0000").mkdir(parents=True, exist_ok=True)
    snapshot = read_study(study)
    assert [record.trial.id for record in snapshot.ranked] == ["0000", "0001"]
    assert CliRunner().invoke(cli, ["show", str(study)]).exit_code == 0
    with open_confirmation(snapshot, THREE, lambda event: said.append(getattr(event, "text", ""))) as opened:
        assert opened is not None
        assert len(opened[1]) == 4
    assert said[0].endswith("does not say what it confirms, so it begins anew; it is kept as confirmation.damaged-1")
    assert (study / "confirmation.damaged-1/trials/0000").is_dir()


def test_what_stands_beside_a_mean_is_how_far_that_mean_can_be_trusted(tmp_path: Path) -> None:
    snapshot = study_with(tmp_path / "s", [1.00, 1.02, 1.03], [[1.10, 1.12], [1.01, 1.05], [1.20, 1.00]])
    noise, lines = measured_noise(snapshot)[0], best_lines(snapshot)
    assert f" +- {noise.deviation / 3 ** 0.5:.2g} standard error (mean of 3 seeds that" in dict(lines[:1])["best"]
    assert dict(lines)["noise"].startswith(f"{noise.deviation:.4f} standard deviation of one trial's eval/loss, from")


def test_beside_a_confirmed_winners_mean_stands_what_seeds_say_that_did_not_choose_it(tmp_path: Path) -> None:
    """The mean of the winner's seeds is 1.0267; seeds without a part in the choice came to 1.125, the base has 1.1."""
    study_with(tmp_path / "s", [1.00, 1.02, 1.03], [[1.10, 1.12], [1.01, 1.05], [1.20, 1.00]])
    Study(tmp_path / "s").record_baseline(1.1)
    snapshot = read_study(tmp_path / "s")
    of_base = "the untouched base has 1.1000 (-6.7%)"
    line = dict(best_lines(snapshot)[:1])["best"]
    assert line.startswith("trial 0001, eval/loss 1.0267 +- ")
    assert line.endswith(f" (mean of 3 seeds that chose it; what is chosen so comes to 1.1250); {of_base}")
    assert line in write_best(snapshot).read_text().splitlines()[0]
    analysis = analyse(snapshot)
    of_page = "(mean of 3 seeds that chose it; what is chosen so comes to 1.1250)"
    assert f"1.0267 {of_page}, 0.0733 (6.7 %) below the untouched base's 1.1000" in say.winner(analysis)
    assert "with the seeds that chose it" in say.repeats(analysis)
    assert claims(analysis)["best"]["value"] == pytest.approx(1.02667, abs=1e-4)
    assert claims(analysis)["best"]["stated"] == pytest.approx(1.125)
    drawn = page([analysis])
    assert f"trial 0001 {of_page}" in drawn
    assert "<dt>what is chosen so</dt>" in drawn
    assert "the best is 6.7 % below" in drawn
    shown = json.loads(CliRunner().invoke(cli, ["show", str(tmp_path / "s"), "--json"]).stdout)["best"]
    assert (shown["stated"], shown["mean"]) == pytest.approx((1.125, 1.02667), abs=1e-4)
    later = Study(tmp_path / "s")
    later.record_start(Trial(id="9999", number=9999, params={**USUAL, "learning_rate": 1.0}), {})
    later.record_end(TrialResult(id="9999", status=Status.COMPLETE, metric=0.9))
    assert dict(best_lines(read_study(tmp_path / "s"))[:1])["best"].startswith("trial 9999, eval/loss 0.9000 +- ")
    assert claims(analyse(read_study(tmp_path / "s")))["best"]["stated"] is None


def test_what_is_left_to_confirm_is_what_is_not_done_of_those_that_there_are(tmp_path: Path) -> None:
    swept = [1.00, 1.02, 1.03]
    done = study_with(tmp_path / "s", swept, [[1.10, 1.12], [1.01, 1.05], [1.20, 1.00]])
    assert runs_left(done, Confirm(top=3, seeds=2), 3) == 0
    assert runs_left(replace(done, confirming=()), Confirm(top=3, seeds=2), 2) == 4
    assert runs_left(done, OFF, 3) == 0


def test_what_another_configuration_came_to_with_a_hard_seed_is_no_number_of_the_winners(tmp_path: Path) -> None:
    """A seed that is hard for the sweep's first one makes what is chosen so worse, and not the one that it spared."""
    snapshot = study_with(tmp_path / "s", [1.00, 1.01, 1.03], [[1.02, 8.0], [1.02, 1.01], [1.04, 1.05]])
    line = dict(best_lines(snapshot)[:1])["best"]
    assert line.startswith("trial 0001, eval/loss 1.0133 +- ")
    assert line.endswith("what is chosen so comes to 4.5100)")
    assert "trial 0001 with eval/loss 1.0133 (mean of 3 seeds that chose it; what is chosen so comes to 4.5100)" in (
        say.winner(analyse(snapshot)))


def test_the_terminal_says_of_first_place_what_the_page_says(tmp_path: Path) -> None:
    snapshot = study_with(tmp_path / "s", [1.00, 1.02, 1.03], [[1.10, 1.12], [1.01, 1.05], [1.20, 1.00]])
    told = " ".join(CliRunner().invoke(cli, ["show", str(tmp_path / "s")]).stdout.split())
    assert say.winner(analyse(snapshot)) in told
    assert "First place is shared" in told
    assert "winner" not in told


def test_a_confirmation_that_finds_nothing_says_why(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"0000": (USUAL, 1.0), "0001": ({**USUAL, "learning_rate": 0.1}, None)})
    assert why_unconfirmed(one, OFF) == ""
    assert why_unconfirmed(one, THREE) == "nothing to compare: 1 configuration is complete, and two are the least"
    two = study_with(tmp_path / "two", [1.0, 2.0], [[None, 1.0], [1.0, None]])  # type: ignore[list-item]
    assert why_unconfirmed(two, THREE).startswith(
        "no configuration was trained with all of its further seeds: trial 0000 with seed 43 failed")


def test_a_training_that_the_machine_ended_is_tried_again_and_counts_neither_way_until_then(tmp_path: Path) -> None:
    """The best of two met a worker's death with its first further seed, and the other one a loss that is no number."""
    for kind, order, of_lost in (("crash", ["0000", "0001"], "does not count until it is trained again"),
                                 ("not_finite", ["0001", "0000"], "in the sweep, but with seed 43 it failed: x")):
        study = tmp_path / kind
        study_with(study, [1.0, 1.2, 1.4], [[1.0, 1.0], [1.2, 1.2], [1.4, 1.4]])
        beside = Study(confirm_directory(study))
        first = read_study(beside.directory).records[0].trial
        beside.record_start(first, {})
        beside.record_end(TrialResult(id=first.id, status=Status.FAILED, metric=None, reason="x", notes={"kind": kind}))
        found = read_study(study)
        assert [record.trial.id for record in found.ranked][:2] == order if kind == "crash" else ["0001", "0002"]
        assert of_lost in " ".join(confirmed(found).lost)
        trials = [record.trial for record in found.confirming]
        assert [trial.id for trial in left_of(read_study(beside.directory), trials)] == ["0000"] * (kind == "crash")
        ends = [TrialResult(id=first.id, status=Status.FAILED, metric=None, notes={"kind": kind}),
                TrialResult(id=first.id, status=Status.COMPLETE, metric=1.0)]

        class Runner:
            def run(self, trial: Trial, origin: str | None = None) -> TrialResult:
                return ends.pop(0)  # noqa: B023

        last = run_twice(Runner(), first)  # type: ignore[arg-type]
        assert (last.status is Status.COMPLETE) is (kind == "crash")


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
    (["--confirm", "4x1"], "confirm the best 4 once more with 1 further seed each, 4 trainings on top of the 8"),
    (["--count", "20"], "confirm the best 2 once more with 2 further seeds each, 4 trainings taken from the 20"),
    (["--count", "20", "--no-confirm"], "")])
def test_a_plan_says_how_the_asked_sweep_is_confirmed(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(cli, ["plan", "sweeps/demo.yaml", *arguments])
    assert result.exit_code == 0, result.output
    assert said.split() == next((line.split()[:len(said.split())] for line in result.output.splitlines()
                                 if line.startswith("confirm")), [])
    assert ("confirm" in result.output) is bool(said)


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
    slow = held(tmp_path / "held", confirm_directory(tmp_path / study) / JOURNAL, begun=1, free=60)  # of 100
    command = [sys.executable, "-m", "kaggle_runner", "sweep", "tiny.yaml", "--cpu", "--confirm", "2x1"]
    with subprocess.Popen(command, text=True, env={**os.environ, **slow}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
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
    assert "seeds" not in late
    winner, killed = told("--confirm", "2x2")["seeds"], trainings(study)
    confirm_directory(study).rename("killed")
    assert told("--confirm", "2x2")["seeds"] == winner
    assert trainings(study) == killed
    assert [trial.number for trial, _ in killed] == [0, 1, 2, 3]
    assert [trial.params["seed"] for trial, _ in killed] == [43, 43, 44, 44]
