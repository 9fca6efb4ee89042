"""The pictures of a tuning plan's folders, drawn from journals of made losses: nothing is trained."""

import pytest

from kaggle_runner.lab.confirmation import confirmation
from kaggle_runner.lab.plan import read_plan, stages
from kaggle_runner.metrics import LOSS
from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.lab.figures import gains_figure, losses_figure
from kaggle_runner.report.lab.write import present_stage, write_any_report, write_study_page
from kaggle_runner.study.journal import Study, confirm_directory, read_study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from tests.lab_plans import write_plan
from tests.test_report import data_of, words_of

OF_A_STUDY = {"by_value.png", "gains.png", "curves.png", "time.png"}
OF_A_SWEEP = {"ranking.png", "values.png", "curves.png", "time.png", "memory.png", "hours.png", "slices.png"}


def loss(params):
    """The high learning rate and no dropout are good; a seed moves every value alike."""
    return 2.0 + abs(params["learning_rate"] - 0.02) * 10 + 0.3 * params["dropout"] + 0.01 * params["seed"] + (
        0.001 * (params["seed"] * 7 % 3) if params["dropout"] else 0.0)


def fill(directory, name, sweep, trials):
    with Study.open_for_writing(directory, name=name, sweep=sweep, metric=LOSS, goal="minimize", seed=0) as study:
        for trial in trials:
            study.record_start(trial, trial.params)
            value = loss(trial.params)
            study.record_end(TrialResult(
                id=trial.id, status=Status.COMPLETE, metric=value, steps=12, seconds=3.0, peak_device_bytes=2**28,
                evaluations=((4, value + 0.4), (8, value + 0.1), (12, value))))


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The stages of a plan that is done, all of them presented."""
    folder = tmp_path_factory.mktemp("plan")
    read, directory = read_plan(write_plan(folder)), folder / "lab"
    for index in range(3):
        stage = list(stages(read, directory))[index]
        if stage.study is not None:
            fill(stage.folder, stage.study.name, stage.study.sweep(), stage.study.first_trials())
        else:
            points = [Trial(id=f"{i:04d}", number=i, origin="random", params={
                **stage.baseline, "learning_rate": rate, "lr_scheduler_type": kind, "seed": 1})
                for i, (rate, kind) in enumerate(((4e-3, "linear"), (1.5e-2, "constant"), (8e-3, "cosine")))]
            fill(stage.folder, stage.sweep.name, stage.sweep.raw, points)
            contest = confirmation(read_study(stage.folder), stage.sweep, stage.baseline, read.seeds)
            fill(confirm_directory(stage.folder), contest.name, contest.sweep(), contest.first_trials())
    done = list(stages(read, directory))
    for stage in done:
        present_stage(stage)
    return done


def test_every_study_of_a_plan_gets_the_plots_that_say_something_of_it(plan):
    assert [stage.name for stage in plan] == ["0_learning_rate", "1_dropout", "2_bayesian_optimization"]
    for stage in plan:
        pictures = {path.name for path in (stage.folder / "plots").iterdir()}
        assert pictures == OF_A_STUDY, stage.name
        assert stage.study or {path.name for path in (stage.folder / "report").glob("*.png")} >= OF_A_SWEEP
        assert all((stage.folder / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_the_sweep_at_the_end_has_a_report_whose_noise_is_that_of_its_confirmation(plan):
    sweep = plan[-1]
    page = sweep.folder / "report" / "index.html"
    assert "confirmed with several seeds" in page.read_text()
    assert ("Best mean over seeds: baseline with seed 1, baseline with seed 2 and baseline with seed 3, mean 2.0200 "
            "± 0.025 (95 % interval), with the seeds that chose it; the next is 0.05 behind.") in page.read_text()
    assert (sweep.folder / "report" / "analysis.ipynb").exists()
    analysis = analyse(read_study(sweep.folder))
    assert [repeat.seeds for repeat in analysis.repeats] == [3] * len(plan[-1].contest.values)


def test_the_losses_stand_by_value_with_a_line_for_each_seed_and_their_means(plan):
    figure = losses_figure(plan[0].study, read_study(plan[0].folder), plan[0].decision)
    lines = {trace["name"]: trace for trace in figure.traces}
    assert set(lines) == {"seed 1", "seed 2", "seed 3", "mean"}
    assert lines["seed 2"]["x"] == ["0.001", "0.02"]
    assert lines["seed 2"]["y"] == pytest.approx([2.21, 2.02])
    assert lines["mean"]["y"] == pytest.approx([2.21, 2.02])
    assert len({trace["line"]["color"] for name, trace in lines.items() if name != "mean"}) == 3


def test_a_gain_is_over_the_default_and_the_adopted_value_is_marked(plan):
    figure = gains_figure(plan[0].study, plan[0].decision)
    adopted = next(trace for trace in figure.traces if trace["name"] == "adopted")
    assert (adopted["x"], adopted["y"]) == (["0.02"], pytest.approx([0.19]))
    assert figure.layout["yaxis"]["title"]["text"] == "gain in eval/loss"
    kept = gains_figure(plan[1].study, plan[1].decision)
    assert "adopted" not in {trace["name"] for trace in kept.traces if trace["x"] == ["0.2"]}
    interval = next(trace for trace in kept.traces if trace["name"] == "95 % interval")
    assert interval["y"][0] < -0.06 < interval["y"][1]


def test_the_page_of_a_plan_has_what_every_study_decided_and_their_curves_by_value(plan):
    folder = plan[0].folder.parent
    (folder / "plan.yaml").write_text((folder.parent / "tiny.yaml").read_text())
    page = write_any_report([folder])
    words = words_of(page)
    assert page == folder / "report" / "index.html"
    assert "Adopted so far: learning_rate 0.02 (all done)." in words
    for stage in plan:
        assert f"<td>{stage.name}</td>" in page.read_text()
        assert stage.decision.reason in words
    curves = next(figure for figure in data_of(page)["studies"][1]["figures"] if figure["place"] == "study-1-curves")
    means = {trace["name"]: trace for trace in curves["traces"] if trace["line"]["width"] == 3 and trace["x"]}
    assert set(means) == {"0.001", "0.02"}
    assert means["0.02"]["x"] == [4, 8, 12]
    assert means["0.02"]["y"] == pytest.approx([2.42, 2.12, 2.02])  # the mean of three seeds
    assert words.count("What mattered") == 1  # of the sweep at the end alone
    one = write_study_page(plan[-1].folder)
    assert "The best points beside the baseline, over seeds" in words_of(one)
    assert words_of(write_study_page(plan[1].folder)).count("What was seen") == 1


def test_a_study_that_is_not_decided_is_not_drawn(tmp_path):
    first = next(iter(stages(read_plan(write_plan(tmp_path)), tmp_path / "lab")))
    present_stage(first)
    assert not (tmp_path / "lab").exists()
