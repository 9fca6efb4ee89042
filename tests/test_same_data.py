"""Data that changed between two sessions of a study: nothing read otherwise is compared, and all of it is said."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kaggle_runner.cli.main import cli
from kaggle_runner.errors import StudyError
from kaggle_runner.lab.contest import check_one_variable
from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.run.points.prior import lessons_of, observations
from kaggle_runner.run.search import OptunaSearch
from kaggle_runner.study.journal import Snapshot, Study, confirm_directory, read_study
from kaggle_runner.study.noise import measured_noise
from kaggle_runner.study.scoring import other_data, read_by_most, require_same_data
from kaggle_runner.study.table import accounts_of_rows, best_lines
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import SweepSpec, read_sweep

SWEEP = """
method: {method}
metric: {{name: eval/loss, goal: minimize}}
run_cap: {trials}
parameters:
  trainer: {{value: charlm}}
  dataset: {{value: text.txt}}
  hidden_size: {{value: 16}}
  num_hidden_layers: {{value: 1}}
  num_attention_heads: {{value: 1}}
  max_tokens: {{value: 512}}
  batch_size: {{value: 2}}
  max_length: {{value: 16}}
  max_eval_tokens: {{value: 256}}
  evaluations: {{value: 2}}
  learning_rate: {{distribution: log_uniform_values, min: 0.001, max: 0.1}}
"""
BEFORE, AFTER = {"rows": "a" * 64, "base": "commit:1"}, {"rows": "b" * 64, "base": "commit:2"}


def made(directory: Path, *trials: tuple[float, Mapping[str, str]], params: Mapping[str, Any] | None = None) -> Study:
    sweep = {"method": "bayes", "parameters": {"learning_rate": {"min": 1e-4, "max": 1e-1}}}
    with Study.open_for_writing(directory, name="s", sweep=sweep, metric="eval/loss", goal="minimize",
                                seed=0) as study:
        for number, (value, hashes) in enumerate(trials):
            trial = Trial(id=f"{number:04d}", number=number,
                          params={"dataset": "rows.jsonl", "learning_rate": 1e-3 * (number + 1), **(params or {})})
            study.record_start(trial, {})
            study.record_end(TrialResult(id=trial.id, status=Status.COMPLETE, metric=value, hashes=hashes))
        return study


def rates_sweep(directory: Path) -> SweepSpec:
    path = directory / "sweep.yaml"
    path.write_text("method: bayes\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n"
                    "  dataset: {value: rows.jsonl}\n  learning_rate: {min: 0.0001, max: 0.1}\n")
    return read_sweep(path)


def told(study: Snapshot, params: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    return other_data(study.directory, study.records, params, hashes)


def test_trials_of_before_and_after_a_change_of_the_rows_are_not_ranked_together(tmp_path: Path) -> None:
    made(tmp_path / "s", (2.0, BEFORE), (1.9, BEFORE), (2.1, BEFORE), (1.0, AFTER), (0.9, AFTER))
    snapshot = read_study(tmp_path / "s")
    assert [record.trial.id for record in snapshot.ranked] == ["0001", "0000", "0002"]
    line = ("data", "trials 0003, 0004 read other rows, another text or another model than most, so losses do not "
                    "compare and these are not ranked")
    assert line in best_lines(snapshot)
    shown = CliRunner().invoke(cli, ["show", str(tmp_path / "s")]).output.splitlines()
    assert [row.split()[0] for row in shown if row[:4].isdigit()] == ["0001", "0000", "0002", "0003", "0004"]
    analysis = analyse(snapshot)
    assert (analysis.apart, [row.id for row in analysis.rows]) == (2, ["0000", "0001", "0002"])
    page = CliRunner().invoke(cli, ["report", str(tmp_path / "s")])
    assert page.exit_code == 0, page.output
    assert "without 2 that read other data than most" in (tmp_path / "s/report/index.html").read_text()


def test_a_confirmation_with_other_rows_neither_wins_nor_makes_noise(tmp_path: Path) -> None:
    made(tmp_path / "s", (2.0, BEFORE), (2.1, BEFORE), (2.2, BEFORE))
    with Study.open_for_writing(confirm_directory(tmp_path / "s"), name="c", sweep={"parameters": {}},
                                metric="eval/loss", goal="minimize", seed=0) as study:
        for number, (origin, seed, value) in enumerate((("0000", 43, 9.0), ("0001", 43, 1.0), ("0000", 44, 8.0))):
            params = {**read_study(tmp_path / "s").records[int(origin)].trial.params, "seed": seed}
            trial = Trial(id=f"{number:04d}", number=number, params=params, origin=f"trial {origin}")
            study.record_start(trial, {})
            study.record_end(TrialResult(id=trial.id, status=Status.COMPLETE, metric=value, hashes=AFTER))
    snapshot = read_study(tmp_path / "s")
    assert [record.trial.id for record in snapshot.ranked] == ["0000", "0001", "0002"]
    assert measured_noise(snapshot)[0] is None


def test_what_may_rightly_differ_is_no_change(tmp_path: Path) -> None:
    made(tmp_path / "s", (2.0, BEFORE))
    found = read_study(tmp_path / "s")
    params = found.records[0].trial.params
    assert "the rows of rows.jsonl changed after trial 0000 of" in told(found, params, AFTER)
    assert told(found, {**params, "max_length": 77}, AFTER) == "", "other tokens were asked for"
    assert told(found, params, {**BEFORE, "base": "commit:7"}) == "", "a hub's page changed"
    folder = made(tmp_path / "m", (2.0, {"base": "c" * 64}), params={"model": "mine"})
    found = read_study(folder.directory)
    assert "the model in mine changed" in told(found, found.records[0].trial.params, {"base": "d" * 64})
    with_data = made(tmp_path / "t", (2.0, {**BEFORE, "data": "0"}), (2.0, {**AFTER, "data": "0"}))
    assert len(read_study(with_data.directory).ranked) == 2, "the same rows are other tokens for another library"


def test_a_study_of_0_2_which_knows_the_tokens_alone_goes_on_with_todays_hashes(tmp_path: Path) -> None:
    now = {"data": "c" * 64, "rows": "d" * 64, "base": "commit:1"}
    made(tmp_path / "s", (2.0, BEFORE), (2.1, BEFORE), (2.2, now), (1.9, now))
    found = read_study(tmp_path / "s")
    params = found.records[0].trial.params
    assert len(found.ranked) == 4
    assert told(found, params, {"data": now["data"]}) == told(found, params, now) == ""
    assert "changed after trial 0003 of" in told(found, params, {**now, "data": "e" * 64}), "as they are hashed now"
    assert "changed after trial 0001 of" in told(found, params, AFTER), "as 0.2 hashed them"
    check_one_variable(found, ["learning_rate"])
    made(tmp_path / "t", (2.0, now), (1.9, {**now, "data": "e" * 64}))
    with pytest.raises(StudyError, match="trials 0000 and 0001 differ in the data they were trained on"):
        check_one_variable(read_study(tmp_path / "t"), ["learning_rate"])


def test_trials_of_another_study_with_other_rows_are_another_surface(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "method: bayes\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n  dataset: {value: rows.jsonl}\n"
        "  learning_rate: {distribution: log_uniform_values, min: 0.0001, max: 0.1}\n")
    spec = read_sweep(tmp_path / "sweep.yaml")
    made(tmp_path / "old", (2.0, BEFORE), (1.9, BEFORE))
    lessons = lessons_of([tmp_path / "old"], spec)
    assert {one.surface for one in observations(lessons, spec)} == {0}
    for name, hashes, surface in (("same", BEFORE, 0), ("new", AFTER, 1)):
        study = made(tmp_path / name, (2.5, hashes))
        read = read_by_most(read_study(study.directory).records)
        assert {one.surface for one in observations(lessons, spec, read)} == {surface}


def test_a_search_learns_nothing_from_its_own_trials_of_other_rows(tmp_path: Path) -> None:
    spec = rates_sweep(tmp_path)
    points = {}
    for name, last in (("mixed", AFTER), ("alike", BEFORE)):
        study = made(tmp_path / name, *((2.0 + number / 10, BEFORE) for number in range(4)), (0.1, last))
        trial = OptunaSearch(study, spec).ask(9)
        assert trial is not None
        points[name] = trial.params["learning_rate"]
    assert points["mixed"] != points["alike"]


def test_what_failed_with_other_rows_teaches_nothing_and_keeps_no_mended_rows_out(tmp_path: Path) -> None:
    spec = rates_sweep(tmp_path)
    points = {}
    for name, failed, hashes, notes, reasons in (
            ("diverged on other rows", 2, BEFORE, {"kind": "not_finite"}, "xx"),
            ("out of memory on other rows", 2, BEFORE, {"kind": "out_of_memory"}, "xx"),
            ("diverged", 2, AFTER, {"kind": "not_finite"}, "xx"), ("crashed", 2, {}, {}, "xy"),
            ("as on other rows", 3, BEFORE, {}, "xxx"), ("otherwise", 3, BEFORE, {}, "xyz")):
        study = made(tmp_path / name)
        for number, rate in enumerate((9e-2, 8e-2, 7e-2, 1e-2, 3e-2, 4e-2, 5e-2)):
            trial = Trial(id=f"{number:04d}", number=number, params={"dataset": "rows.jsonl", "learning_rate": rate})
            study.record_start(trial, {})
            study.record_end(TrialResult(
                id=trial.id, status=Status.FAILED, metric=None, hashes=hashes if number < 2 else AFTER, notes=notes,
                reason=reasons[number]) if number < failed else TrialResult(
                id=trial.id, status=Status.COMPLETE, metric=3.0 - 10 * rate, hashes=AFTER))
            if number == 1:
                assert told(read_study(study.directory), trial.params, AFTER) == "", "nothing was measured yet"
        snapshot = read_study(study.directory)
        assert len(snapshot.comparable.records) == 7
        assert not [text for label, text in best_lines(snapshot) if label == "data"]
        proposed = OptunaSearch(study, spec).ask(9)
        assert proposed is not None
        points[name] = proposed.params["learning_rate"]
    assert points["diverged on other rows"] == points["out of memory on other rows"] == points["crashed"]
    assert points["diverged"] != points["crashed"]
    assert points["as on other rows"] == points["otherwise"]


def test_a_trial_for_which_the_text_is_too_short_says_which_text_that_was(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAGGLE_RUNNER_CACHE", "cache")
    (tmp_path / "sweep.yaml").write_text(SWEEP.format(method="grid", trials=2).replace(
        "max_length: {value: 16}", "max_length: {values: [16, 250]}").replace(
        "{distribution: log_uniform_values, min: 0.001, max: 0.1}", "{value: 0.01}"))
    (tmp_path / "text.txt").write_text("the quick brown fox jumps. " * 16)
    CliRunner().invoke(cli, ["sweep", "sweep.yaml", "--cpu", "--no-confirm"])
    good, short = (record.result for record in read_study(Path("studies/sweep")).records)
    assert good is not None
    assert short is not None
    assert "shorter than one batch" in short.reason
    assert short.hashes == {"text": good.hashes["text"]}


def test_a_changed_text_ends_a_sweep_and_its_confirmation_before_a_trial(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAGGLE_RUNNER_CACHE", "cache")
    (tmp_path / "sweep.yaml").write_text(SWEEP.format(method="bayes", trials=2))
    before, after = "the quick brown fox jumps. " * 200, "the lazy dog sleeps in the sun. " * 200
    (tmp_path / "text.txt").write_text(before)

    def sweep(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["sweep", "sweep.yaml", "--cpu", *arguments])
        return result.exit_code, str(result.exception) if isinstance(result.exception, StudyError) else result.output

    assert sweep("--no-confirm")[0] == 0
    (tmp_path / "text.txt").write_text(after)
    for arguments in (["--count", "3"], ["--confirm", "2x1"]):
        status, error = sweep(*arguments)
        assert status == 1
        assert error.startswith("the text of text.txt changed after trial 0001 of studies/sweep (SHA-256 ")
        assert error.endswith("put it back as it was, or begin anew with another --study, where a Bayesian sweep "
                              "learns from these trials with --prior-study studies/sweep")
    assert [record.trial.id for record in read_study(Path("studies/sweep")).records] == ["0000", "0001"]
    status, output = sweep("--study", "other", "--prior-study", "studies/sweep", "--no-confirm")
    assert status == 0, output
    known = json.loads((tmp_path / "other/trials.jsonl").read_text().splitlines()[1])
    assert {len(lesson["hashes"]["text"]) for lesson in known["lessons"]} == {64}
    trained = CliRunner().invoke(cli, ["train", "studies/sweep", "--cpu"])
    assert trained.exit_code == 0, trained.output
    assert "warning: the text of text.txt changed after trial 0001 of studies/sweep" in trained.output
    (tmp_path / "text.txt").write_text(before)
    status, output = sweep("--count", "3", "--no-confirm")
    assert (status, len(read_study(Path("studies/sweep")).ranked)) == (0, 3), output


def test_a_final_training_on_other_rows_is_told_nothing_of_sweeps(tmp_path: Path) -> None:
    made(tmp_path / "s", (2.0, BEFORE))
    (record,) = read_study(tmp_path / "s").records
    for origin, end in (("final", "or begin anew with another --study"),
                        ("random", f"learns from these trials with --prior-study {tmp_path / 's'}")):
        one = replace(record, trial=replace(record.trial, origin=origin))
        with pytest.raises(StudyError, match=f"{end}$"):
            require_same_data(tmp_path / "s", [one], one.trial.params, AFTER)


def test_a_final_training_whose_rows_have_grown_is_not_said_to_have_trained_all_of_them(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAGGLE_RUNNER_CACHE", "cache")
    (tmp_path / "s.yaml").write_text("model: demo\ndataset: rows.jsonl\nmax_length: 32\neval_share: 0.2\n")

    def rows(count: int) -> None:
        (tmp_path / "rows.jsonl").write_text("".join(
            json.dumps({"prompt": f"what is {i} and {i % 7}", "completion": f"it is {i + i % 7}"}) + "\n"
            for i in range(count)))

    def train(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["train", *arguments, "--full", "--cpu"])
        return result.exit_code, str(result.exception) if isinstance(result.exception, StudyError) else result.output

    rows(16)
    status, output = train("s.yaml")
    assert status == 0, output
    rows(40)
    status, error = train("s.yaml")
    assert status == 1, error
    assert error.startswith("studies/s-final was trained to its end on other rows: those of rows.jsonl have changed "
                            "since (SHA-256 ")
    assert error.endswith("; to train on those of now, give the same command with --study studies/s-final-2; to keep "
                          "this training, put the rows of then back")
    status, output = train("studies/s-final")
    assert status == 0, output
    assert "this one is trained in studies/s-final-2" in output
    assert "40 read, 3" in output
    rows(64)
    for given in ("studies/s-final", "studies/s-final-2"):
        planned = json.loads(CliRunner().invoke(cli, ["plan", given, "--full", "--json"]).stdout)["final"]["rows"]
        assert planned == 53, "the rows that it would train on, not those that the study has read"
    (tmp_path / "rows.jsonl").rename(tmp_path / "moved.jsonl")
    without = CliRunner().invoke(cli, ["plan", "studies/s-final-2", "--full", "--json"])
    assert json.loads(without.stdout)["final"]["rows"] == 32
    assert without.stderr.startswith("warning: the dataset rows.jsonl does not exist; give a ")
    assert without.stderr.endswith("; this is planned by the rows that studies/s-final-2 has read\n")
    (tmp_path / "moved.jsonl").rename(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").unlink()
    status, output = train("s.yaml")
    assert (status, "(all rows are trained)" in output) == (0, True), "nobody knows of other rows"
    rows(16)
    assert "is this very training, to its end" in train("studies/s-final")[1]


def test_rows_that_changed_before_a_trial_was_trained_on_them_have_no_account(tmp_path: Path) -> None:
    made(tmp_path / "s", (2.0, {"rows": "ab"}))
    study = Study(tmp_path / "s")

    def read(count: int, sha256: str, dataset: str = "rows.jsonl") -> list[str]:
        rows = {"read": count, "train": count, "validation": 0, "cut": 0, "duplicates": 0, "lost": {}}
        study.record_rows({"dataset": dataset, "rows": rows, "sha256": sha256})
        return [account.partition(" read")[0] for account in accounts_of_rows(study.snapshot())]

    assert read(64, "of an interrupted start") == ["64"]
    assert read(70, "ab") == ["70"]
    assert read(30, "of another", "others.jsonl") == ["70", "30"]
    assert read(71, "of a start that goes on") == ["70", "30", "71"]
