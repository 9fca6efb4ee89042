"""The pictures of the lab hold the numbers of the journal, and no picture that a study of values has no use for."""

import re

import nbformat
import pytest

from kaggle_runner.lab.contest import finished
from kaggle_runner.lab.summary import errors_table, reading
from kaggle_runner.lab.vary import read_vary
from kaggle_runner.report.lab.figures import gains_figure, losses_figure
from kaggle_runner.report.lab.write import write_any_report, write_contest_plots, write_study_page
from tests.test_one_at_a_time import FILE, grid, journal
from tests.test_report import data_of, words_of


@pytest.fixture
def study(tmp_path):
    """A study whose middle value is the default: three values with three seeds, the contenders with five."""
    path = tmp_path / "dropout_study.yaml"
    path.write_text(FILE.replace("values: [0.1", "values: [0.0, 0.1").replace("dropout: 0.0", "dropout: 0.1"))
    spec = read_vary(path)
    losses = grid(v0_1=[1.00, 1.10, 1.20], v0_0=[0.96, 1.10, 1.13], v0_2=[1.05, 1.11, 1.27])
    losses |= {(0.1, 4): 1.0, (0.0, 4): 0.95, (0.1, 5): 1.1, (0.0, 5): 1.04}
    snapshot = journal(spec, tmp_path / "s", losses, challenger=0.0)
    return spec, snapshot, finished(spec, snapshot), losses


def test_every_loss_is_drawn_over_its_value_on_the_line_of_its_seed(study):
    spec, snapshot, decision, losses = study
    *lines, means = losses_figure(spec, snapshot, decision).traces
    drawn = {(float(value), int(line["name"].removeprefix("seed "))): loss
             for line in lines for value, loss in zip(line["x"], line["y"], strict=True)}
    assert drawn == losses
    assert [line["x"] for line in lines] == [["0", "0.1", "0.2"]] * 3 + [["0", "0.1"]] * 2
    assert dict(zip(means["x"], means["y"], strict=True))["0"] == pytest.approx((0.96 + 1.10 + 1.13 + 0.95 + 1.04) / 5)


def test_gains_stand_in_the_order_of_the_values_with_the_default_at_nothing(study):
    spec, _, decision, _ = study
    traces = gains_figure(spec, decision).traces
    assert [trace["x"][0] for trace in traces[:3]] == ["0", "0.1", "0.2"]
    assert traces[1]["y"] == [0.0]
    row = decision.comparisons[0]
    assert row.gain == pytest.approx((0.04 + 0.0 + 0.07 + 0.05 + 0.06) / 5)
    assert traces[0]["y"] == pytest.approx([row.gain - row.half_width, row.gain + row.half_width])
    (adopted,) = [trace for trace in traces if trace["name"] == "adopted"]
    assert (adopted["x"], adopted["y"]) == (["0"], [row.gain])


def test_only_what_says_something_of_a_study_is_drawn(study, tmp_path):
    spec, snapshot, decision, _ = study
    written = write_contest_plots(spec, snapshot, decision, tmp_path / "plots")
    assert sorted(path.name for path in written) == ["by_value.png", "gains.png", "time.png"]
    assert {path.read_bytes()[:8] for path in written} == {b"\x89PNG\r\n\x1a\n"}


def test_the_page_of_a_study_is_its_decision_with_the_table_of_errors_and_nothing_of_a_search(study, tmp_path):
    spec, snapshot, decision, _ = study
    (snapshot.directory / "study.yaml").write_text(spec.as_yaml())
    problems = []
    page = write_any_report([snapshot.directory], notify=problems.append)
    words = words_of(page)

    row = decision.comparisons[0]
    assert f"Adopted: dropout 0. 0 is better than 0.1 by {row.gain:.4g}" in words
    assert "Small models need little." in words
    cells = re.findall(r"<td>(.*?)</td>", page.read_text())
    for value in (row.mean, row.gain, row.standard_error, row.gain - row.half_width):
        assert any(f"{value:.5f}" in cell for cell in cells)
    assert "0 is the smallest" not in words  # zero is a natural end
    for question in ("First place", "What mattered", "Where to search next"):
        assert question not in words
        assert question not in (page.parent / "summary.md").read_text()
    assert [figure["place"] for figure in data_of(page)["studies"][0]["figures"]] == [
        "study-1-by_5f_value", "study-1-gains", "study-1-time"]
    notebook = nbformat.read(page.parent / "analysis.ipynb", as_version=4)
    assert problems == []
    assert "Adopted: dropout 0." in notebook.cells[0].source
    assert f"{row.standard_error:.5f}" in notebook.cells[0].source
    assert "First place" not in str(notebook)


def test_the_noise_of_a_lab_study_is_that_of_its_metric(tmp_path):
    path = tmp_path / "v.yaml"
    path.write_text(f"{FILE}metric: {{name: eval/token_accuracy, goal: maximize}}\n")
    spec = read_vary(path)
    shares = grid(v0_0=[0.25, 0.27, 0.26], v0_1=[0.30, 0.33, 0.31], v0_2=[0.5, 0.5, 0.5])
    snapshot = journal(spec, tmp_path / "s", shares)
    decision = finished(spec, snapshot)
    assert re.search(r"Noise: 0\.\d{5}, the deviation of the token accuracy when", reading(spec, decision))
    assert [row[2] for row in errors_table(spec, snapshot, decision)] == [
        "mean eval/token_accuracy", "0.26", "0.313333", "0.50"]


@pytest.mark.parametrize(("losses", "answer"), [
    (grid(v0_1=[1.0, 1.1], v0_0=[1.0]), "Not decided yet: 3 of at least 9 trials are done."),
    (grid(v0_1=[1.0, 1.1], v0_0=[1.0, 1.1, 1.2], v0_2=[1.0, 1.1, 1.2]) | {(0.1, 3): None},
     "the baseline, dropout 0.1, failed (the loss became nan), so nothing can be compared with it")])
def test_a_study_without_a_decision_says_what_it_waits_for(tmp_path, losses, answer):
    path = tmp_path / "dropout_study.yaml"
    path.write_text(FILE.replace("values: [0.1", "values: [0.0, 0.1").replace("dropout: 0.0", "dropout: 0.1"))
    spec = read_vary(path)
    snapshot = journal(spec, tmp_path / "s", losses)
    (snapshot.directory / "study.yaml").write_text(spec.as_yaml())
    assert answer in words_of(write_study_page(snapshot.directory))
