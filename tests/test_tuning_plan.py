"""A whole plan on a tiny model: killed and continued it ends alike, and what it writes is what its journals say."""

import json
import math
import random
import re
import shutil
import signal
import statistics
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from kaggle_runner.cli.lab import as_text
from kaggle_runner.cli.main import cli
from kaggle_runner.config import config_from_params
from kaggle_runner.errors import StudyError, SweepError
from kaggle_runner.lab.archive import archive_study, archived_studies, restore_study
from kaggle_runner.lab.plan import check_edits, read_plan, stages
from kaggle_runner.study.journal import StudyInfo, read_study
from kaggle_runner.study.lock import StudyLock
from tests.lab_plans import start_plan, write_plan

STUDIES = ("0_learning_rate", "1_dropout", "2_bayesian_optimization", "2_bayesian_optimization/confirmation")
T_975 = {2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 6: 2.4469, 7: 2.3646, 8: 2.3060}
"""The 97.5 % quantile of Student's t by its degrees of freedom, from a printed table."""


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory):
    return write_plan(tmp_path_factory.mktemp("plan"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_plan_killed_at_three_moments_is_the_plan_and_all_that_it_writes_is_true(plan_file, tmp_path):
    """One story, because a plan takes a minute: run it killed and undisturbed, then look at everything it left.

    Two workers end the one that was killed: which of them runs a trial, and how many there are, changes nothing.
    """
    killed, undisturbed = plan_file.parent / "killed", plan_file.parent / "undisturbed"
    kill_at_three_random_moments(plan_file, killed)
    assert finish(plan_file, killed, workers=2) == "ENDED done"
    assert finish(plan_file, undisturbed, workers=1) == "ENDED done"
    killed_at_three_moments_it_ends_with_the_same_losses_and_decisions(killed, undisturbed)
    the_numbers_of_a_summary_are_those_of_the_journal(killed)
    the_folders_are_as_a_researcher_knows_them(killed, plan_file)
    the_defaults_name_the_study_behind_each_value_and_can_be_trained(killed, plan_file)
    a_plan_that_was_edited_says_which_studies_no_longer_match(killed, plan_file, tmp_path)
    a_study_that_others_depend_on_is_archived_with_force_and_restored(killed, plan_file, tmp_path)
    the_command_draws_what_was_not_drawn_and_says_where_everything_is(killed, plan_file, tmp_path)


def kill_at_three_random_moments(plan_file, directory):
    """Kill the plan in its studies, in its sweep and in its confirmation, each at a random row of a running trial."""
    draw = random.Random(5)
    for place, most in (("[01]_*", 200), (STUDIES[2], 40), (STUDIES[3], 150)):
        process = start_plan(plan_file, directory, workers=1, killed=(place, draw.randrange(5, most)))
        output, errors = process.communicate(timeout=280)
        assert process.returncode == -signal.SIGKILL, f"the plan ended in {place}: {output}{errors}"
        assert any(record.result is None for study in directory.glob(f"{place}/trials.jsonl")
                   for record in read_study(study.parent).records), "the kill has met a running trial"


def finish(plan_file, directory, *, workers):
    output, errors = start_plan(plan_file, directory, workers=workers).communicate(timeout=280)
    assert output.strip(), errors
    return output.strip()


def losses(directory):
    return {study: {record.trial.id: (record.trial.params, record.result.evaluations, record.result.hashes)
                    for record in read_study(directory / study).finished} for study in STUDIES}


def killed_at_three_moments_it_ends_with_the_same_losses_and_decisions(done, undisturbed):
    assert losses(done) == losses(undisturbed)
    for study in STUDIES[:3]:
        assert (done / study / "decision.json").read_text() == (undisturbed / study / "decision.json").read_text()
    assert (done / "defaults.yaml").read_text() == (undisturbed / "defaults.yaml").read_text()
    attempts = [record.attempts for study in STUDIES for record in read_study(done / study).records]
    assert sum(attempts) >= len(attempts) + 3, "each kill has met a running trial"


def the_numbers_of_a_summary_are_those_of_the_journal(done):
    """Recompute them from the lines of the journals, by other means than the code: least squares and a table of t."""
    variables = {"0_learning_rate": "learning_rate", "1_dropout": "dropout"}
    for study, variable in variables.items():
        ended = ended_trials(done / study)
        by_value = {}
        for params, _, result in ended:
            by_value.setdefault(float(params[variable]), {})[params["seed"]] = result["metric"]
        default = float(yaml.safe_load((done / study / "study.yaml").read_text())["baseline"][variable])
        text = (done / study / "summary.md").read_text()
        the_table_is(text, by_value, default, ended, float)
        the_overview_has(done, study, by_value, default)
    sweep, confirmed = ended_trials(done / STUDIES[2]), ended_trials(done / STUDIES[3])
    text = (done / STUDIES[2] / "summary.md").read_text()
    by_setting = {}
    for params, origin, result in confirmed:
        by_setting.setdefault(origin, {})[params["seed"]] = result["metric"]
    the_table_is(text, by_setting, "baseline", [*sweep, *confirmed], str)
    the_overview_has(done, STUDIES[2], by_setting, "baseline")
    best = min((result["metric"], result["id"]) for _, _, result in sweep)
    assert f"3 trials, one seed each; the best was trial {best[1]} with {best[0]:.5f}." in text


def ended_trials(directory):
    """Return (params, origin, result) of every trial that ended, from the lines of the journal."""
    events = [json.loads(line) for line in (directory / "trials.jsonl").read_text().splitlines()]
    started = {event["trial"]["id"]: event["trial"] for event in events if event["event"] == "start"}
    results = [event["result"] for event in events if event["event"] == "end"]
    assert {result["status"] for result in results} == {"complete"}
    return [(started[result["id"]]["params"], started[result["id"]]["origin"], result) for result in results]


def noise_of(by_value):
    """Return the residual deviation of losses around a level for each value and each seed, and its freedom."""
    cells = [(value, seed, loss) for value, losses in by_value.items() for seed, loss in losses.items()]
    values, seeds = list(by_value), sorted({seed for _, seed, _ in cells})
    design = np.array([[*(value == other for other in values), *(seed == other for other in seeds)]
                       for value, seed, _ in cells], dtype=float)
    measured = np.array([loss for _, _, loss in cells])
    left = measured - design @ np.linalg.lstsq(design, measured, rcond=None)[0]
    freedom = len(cells) - len(values) - len(seeds) + 1
    return math.sqrt(left @ left / freedom), freedom


def gain_of(by_value, value, default):
    """Return the mean difference over the shared seeds, and their number."""
    shared = by_value[value].keys() & by_value[default].keys()
    return statistics.fmean(by_value[default][seed] - by_value[value][seed] for seed in shared), len(shared)


def the_table_is(text, by_value, default, ended, read_name):
    noise, freedom = noise_of(by_value)
    header = ("| value | seeds | mean eval/loss | bits/char | gain over the default | standard error | 95 % interval | "
              "effect | tokens |")
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in text.split(header)[1].split("\n\n")[0].splitlines()[2:]]
    assert [read_name(row[0].removesuffix(" (default)")) for row in rows] == list(by_value)
    for name, row in zip(by_value, rows, strict=True):
        own = by_value[name]
        assert row[0].endswith(" (default)") == (name == default)
        assert int(row[1]) == len(own)
        assert float(row[2]) == pytest.approx(statistics.fmean(own.values()), abs=6e-6)
        assert float(row[3]) == pytest.approx(statistics.fmean(own.values()) / math.log(2), abs=6e-6)
        assert row[8] == "3,072"
        if name == default:
            assert row[4:8] == ["", "", "", ""]
            continue
        gain, seeds = gain_of(by_value, name, default)
        half = T_975[freedom] * noise * math.sqrt(2 / seeds)
        assert float(row[4]) == pytest.approx(gain, abs=6e-6)
        assert float(row[5]) == pytest.approx(noise * math.sqrt(2 / seeds), rel=1e-3, abs=6e-6)
        ends = [float(end) for end in row[6].split(" to ")]
        assert ends == pytest.approx([gain - half, gain + half], abs=1e-4 * half + 6e-6)
        assert float(row[7]) == pytest.approx(gain / noise, abs=0.051)
    assert f"Noise: {noise:.5f}" in text
    assert f"with {freedom} degrees of freedom" in text
    told = float(re.search(r"a gain below ([\d.]+) cannot be told from none with 3 seeds", text)[1])
    assert told == pytest.approx(T_975[freedom] * noise * math.sqrt(2 / 3), rel=1e-4, abs=6e-6)
    best = max((name for name in by_value if name != default),
               key=lambda name: (len(by_value[name]), gain_of(by_value, name, default)[0]))
    gain, seeds = gain_of(by_value, best, default)
    errors = gain / (noise * math.sqrt(2 / seeds))
    if gain > 0:
        assert f"by {gain:.4g}, {errors:.1f} standard errors with {seeds} seeds" in text
    adopts = gain > 0 and errors > (2 if seeds == 5 else 4)
    assert ("**Adopted" in text, "**Kept" in text) == (adopts, not adopts)
    seconds = [result["seconds"] for _, _, result in ended]
    assert (f"Cost: {len(ended)} trials, {sum(seconds):.0f} s added up; the median trial took "
            f"{statistics.median(seconds):.1f} s.") in text


def the_overview_has(done, study, by_value, default):
    (row,) = [line for line in (done / "summary.md").read_text().splitlines() if line.startswith(f"| {study} |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    gains = [gain_of(by_value, name, default)[0] for name in by_value if name != default]
    assert min(abs(float(cells[2]) - gain) for gain in gains) < 6e-6
    assert float(cells[3]) == pytest.approx(noise_of(by_value)[0], abs=6e-6)


def the_folders_are_as_a_researcher_knows_them(done, plan_file):
    for study in STUDIES[:2]:
        there = {path.name for path in (done / study).iterdir()}
        assert {"study.yaml", "configs", "summary.md", "decision.json", "trials.jsonl"} <= there
    config = yaml.safe_load((done / "1_dropout" / "configs" / "0001.yaml").read_text())
    assert config_from_params(config).as_dict() == config
    assert config["dropout"] == 0.2
    assert "plan.yaml" in {path.name for path in done.iterdir()}
    assert (done / "plan.yaml").read_text() == plan_file.read_text()


def the_defaults_name_the_study_behind_each_value_and_can_be_trained(done, plan_file):
    text = (done / "defaults.yaml").read_text()
    values = yaml.safe_load(text)
    *_, last = stages(read_plan(plan_file), done)
    assert values == {**last.baseline, **last.adopted}
    assert config_from_params({**values, "seed": 1}).as_dict() == {**values, "seed": 1}
    assert re.search(r"^learning_rate: .* # (0_learning_rate|2_bayesian_optimization), was [\d.]+", text, re.MULTILINE)
    assert re.search(r"^dropout: .* # 1_dropout, (kept|was 0)", text, re.MULTILINE)
    assert re.search(r"^hidden_size: 16 +# the plan$", text, re.MULTILINE)


def a_plan_that_was_edited_says_which_studies_no_longer_match(done, plan_file, tmp_path):
    text = plan_file.read_text()
    edited = tmp_path / "edited.yaml"
    edited.write_text(text.replace("values: [1.0e-3, 2.0e-2]", "values: [1.0e-3, 2.0e-2, 3.0e-2]"))
    with pytest.raises(StudyError, match=(
            r"was edited after it began, and what was run no longer matches: 0_learning_rate \(learning_rate "
            r"\[0.001, 0.02\] then, \[0.001, 0.02, 0.03\] now\); built on them: 1_dropout, 2_bayesian_optimization; "
            r"restore the plan as .*plan.yaml has it, or set aside what does not match: python -m kaggle_runner "
            r"archive .*0_learning_rate --reason 'the plan was edited' --force$")):
        check_edits(read_plan(edited), done)
    edited.write_text(text.replace("hidden_size: 16", "hidden_size: 32"))
    with pytest.raises(StudyError, match=r"0_learning_rate \(hidden_size 16 then, 32 now\)"):
        check_edits(read_plan(edited), done)
    edited.write_text(text.replace("vary: dropout\n    values: [0.0, 0.2]",
                                   "vary: max_grad_norm\n    values: [1.0, 9.0]"))
    with pytest.raises(StudyError, match=r"1_dropout \(no study of the plan\)"):
        check_edits(read_plan(edited), done)
    check_edits(read_plan(plan_file), done)


def a_study_that_others_depend_on_is_archived_with_force_and_restored(done, plan_file, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(done, directory)
    study = directory / "0_learning_rate"
    defaults = (directory / "defaults.yaml").read_text()
    with pytest.raises(StudyError, match=(r"others depend on it: defaults.yaml has its learning_rate 0.02; 1_dropout "
                                          r"started from it; 2_bayesian_optimization started from it; .*--force")):
        archive_study(study, "wrong text")
    moved = archive_study(study, "wrong text", force=True, now=datetime(2026, 1, 31, 23, 30))
    assert moved.directory == directory / "archive_runs" / "2026-01-31_0_learning_rate"
    assert (moved.reason, moved.date) == ("wrong text", "2026-01-31T23:30:00")
    assert not study.exists()
    assert len(read_study(moved.directory).finished) == 6, "it is moved whole"
    assert archived_studies(directory) == (moved,)
    counted = list(stages(read_plan(plan_file), directory))
    assert [stage.decision for stage in counted] == [None], "it is never counted again"
    assert "learning_rate: 0.001 " in (directory / "defaults.yaml").read_text()
    listed = CliRunner().invoke(cli, ["archived", str(directory)])
    assert listed.output == (f"2026-01-31T23:30:00  {moved.directory}  wrong text\n"
                             f"back     python -m kaggle_runner restore {moved.directory}\n")
    restored = CliRunner().invoke(cli, ["restore", str(moved.directory)])
    assert (restored.exit_code, restored.output) == (
        0, f"restored {study}\nnext     python -m kaggle_runner show {study}\n")
    assert (directory / "defaults.yaml").read_text() == defaults
    assert archived_studies(directory) == ()


def the_command_draws_what_was_not_drawn_and_says_where_everything_is(done, plan_file, tmp_path):
    directory = tmp_path / "drawn"
    shutil.copytree(done, directory)
    for study in ("1_dropout", STUDIES[2]):  # as if the session had ended before these were written up
        for name in ("decision.json", "summary.md"):
            (directory / study / name).unlink()
    ended = CliRunner().invoke(cli, ["tune", str(plan_file), "--out", str(directory), "--cpu"])
    assert ended.exit_code == 0, ended.output
    assert as_text((directory / "summary.md").read_text(), None) in ended.output
    assert f"next     python -m kaggle_runner train {directory / 'defaults.yaml'}" in ended.output
    for study in ("1_dropout", STUDIES[2]):
        assert (directory / study / "summary.md").read_text() == (done / study / "summary.md").read_text()
        drawn = {path.name for path in (directory / study / "plots").iterdir()}
        assert drawn == {"by_value.png", "gains.png", "curves.png", "time.png"}
    assert {"index.html", "trials.csv", "summary.md"} <= {path.name for path in
                                                          (directory / STUDIES[2] / "report").iterdir()}
    assert not (directory / "0_learning_rate" / "plots").exists(), "what was written up is left alone"


def test_a_folder_of_a_plan_that_cannot_be_made_leads_to_the_option_of_tune(plan_file, tmp_path):
    (tmp_path / "file").write_text("mine")
    ended = CliRunner().invoke(cli, ["tune", str(plan_file), "--out", str(tmp_path / "file"), "--cpu"])
    assert str(ended.exception) == (f"cannot use {tmp_path}/file as a study: it is a file; choose another directory "
                                    f"with --out")
    ended = CliRunner().invoke(cli, ["tune", str(plan_file), "--out", "/sys/plan", "--cpu"])
    assert str(ended.exception).endswith("; choose another directory with --out")


def made_study(directory: Path) -> Path:
    directory.mkdir(parents=True)
    info = StudyInfo(name="s", metric="eval/loss", goal="minimize", seed=0, sweep={"parameters": {}}, created=0.0)
    event = {"event": "study", "name": info.name, "metric": info.metric, "goal": info.goal, "seed": 0, "sweep": {}}
    (directory / "trials.jsonl").write_text(json.dumps(event) + "\n")
    return directory


def test_studies_of_one_name_archived_on_one_day_have_folders_of_their_own(tmp_path):
    day = datetime(2026, 1, 31)
    first = archive_study(made_study(tmp_path / "s"), "a", now=day)
    second = archive_study(made_study(tmp_path / "s"), "b", now=day)
    assert [path.name for path in (first.directory, second.directory)] == ["2026-01-31_s", "2026-01-31_s-2"]
    made_study(tmp_path / "s")
    with pytest.raises(StudyError, match=r"/s is there already; archive that one first"):
        restore_study(first.directory)


def test_what_cannot_be_archived_is_said_with_the_way_out(tmp_path):
    with pytest.raises(StudyError, match=r"is not a study: it has no trials\.jsonl"):
        archive_study(tmp_path, "reason")
    study = made_study(tmp_path / "s")
    with pytest.raises(StudyError, match="a study is archived with a reason"):
        archive_study(study, "  ")
    moved = archive_study(study, "reason")
    with pytest.raises(StudyError, match=r"is archived already; restore it with: python -m kaggle_runner restore"):
        archive_study(moved.directory, "again")
    with pytest.raises(StudyError, match=r"is not an archived study: it has no archived\.json"):
        restore_study(tmp_path)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("values: [0.0, 0.2]", "values: [0.2]", r"studies\[1\]\.values: got \[0\.2\], and one value compares nothing"),
    ("vary: dropout", "vary: dropuot", r"studies\[1\]\.vary: 'dropuot' is no hyperparameter; did you mean 'dropout'"),
    ("vary: dropout", "vary: seed", r"studies\[1\]\.vary: seed is no hyperparameter: a study repeats it"),
    ("values: [0.0, 0.2]", "values: [0.0, 1.5]", r"studies\[1\]\.values\[1\]: 1\.5: dropout must be 0 to below 1"),
    ("values: [0.0, 0.2]", "values: [0.0, {dropout: 0.1, batch_size: 4}]",
     r"studies\[1\]\.values\[1\]: sets batch_size besides dropout; two runs of a study may differ in one"),
    ("hidden_size: 16", "hidden_sizes: 16", r"baseline\.hidden_sizes: no such hyperparameter"),
    ("seeds: [1, 2, 3]", "seeds: [1, 1]", r"seeds: must be a list of different whole numbers, got \[1, 1\]"),
    ("run_cap: 3", "run_capp: 3", r"final\.run_capp: no such key; did you mean 'run_cap'"),
    ("max: 4.0e-2", "max: 4.0e-4", r"final\.parameters\.learning_rate\.min: must be below max"),
    ("studies:", "study:", r"studies: must be a list of studies, got null"),
    ("note: Order", "nots: Order", r"studies\[0\]\.nots: no such key"),
])
def test_a_plan_that_cannot_work_is_refused_with_the_key(plan_file, tmp_path, old, new, message):
    path = tmp_path / "bad.yaml"
    path.write_text(plan_file.read_text().replace(old, new, 1))
    with pytest.raises(SweepError, match=message):
        read_plan(path)


@pytest.mark.parametrize("name", ["charlm_plan", "charlm_plan_small"])
def test_the_plans_that_ship_have_the_studies_of_the_lab(name):
    plan = read_plan(Path(f"sweeps/{name}.yaml"))
    assert [study.name for study in plan.studies] == ["learning_rate", "batch_size", "dropout", "label_smoothing",
                                                      "gradient_clipping"]
    assert set(plan.final["parameters"]) == {"learning_rate", "warmup_ratio", "lr_scheduler_type", "min_lr_rate",
                                             "weight_decay"}
    assert plan.seeds == (1, 2, 3)
    for study in plan.studies:
        config = config_from_params({**plan.baseline, **study.settings})
        # a forward pass is a third of a training step at most, so evaluations take under 5 % of the time of training
        assert config.evaluations * config.max_eval_tokens / 3 < 0.05 * config.max_tokens


def test_what_cannot_be_written_in_a_plan_that_began_names_no_option_that_is_not_there(plan_file, tmp_path):
    directory = tmp_path / "plan"
    (directory / "defaults.yaml").mkdir(parents=True)
    ended = CliRunner().invoke(cli, ["tune", str(plan_file), "--out", str(directory), "--cpu"])
    assert str(ended.exception) == (f"cannot write {directory}/defaults.yaml: it is no file; see that it can be "
                                    f"written there")


def test_archiving_has_no_option_for_another_study(tmp_path):
    (tmp_path / "archive_runs").write_text("mine")
    study = made_study(tmp_path / "s")
    with pytest.raises(StudyError, match=r"cannot write .*archive_runs/.*_s: .*; see that it can be written there$"):
        archive_study(study, "wrong text")
    lock = StudyLock(study, shared=False)
    with pytest.raises(StudyError, match=r"is in use by process \d+; wait for it, stop it$"):
        archive_study(study, "wrong text")
    lock.close()
