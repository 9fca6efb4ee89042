import csv
import dataclasses
import html
import json
import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from kaggle_runner.cli.table import trial_table
from kaggle_runner.errors import StudyError
from kaggle_runner.report import sentences as say
from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.analysis.claims import read_claims
from kaggle_runner.report.compare import comparison_rows, comparison_sentence
from kaggle_runner.report.costs import cost_figures
from kaggle_runner.report.figures import trial_figures
from kaggle_runner.report.lab.write import watch_any_report
from kaggle_runner.report.maps import map_figures
from kaggle_runner.report.recipes import next_search, try_yaml
from kaggle_runner.report.style import seconds_text, short_names
from kaggle_runner.report.write import report_directory, show, write_page, write_report
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.table import best_lines
from kaggle_runner.study.trial import Status, TrialResult
from tests.made_studies import LEARNING_RATE, Made, loss_curve, write_confirmed, write_mixed_study, write_study
from tests.test_analysis import write_two_effects

FAILED = Made(params={"learning_rate": 1e-4}, status=Status.FAILED, reason="loss is nan at step 7", peak=None)
MARKUP = '<img src=x onerror="hacked=1"> & </script><b>'


def words_of(page):
    """Return the page without its scripts and styles, entities resolved."""
    text = page.read_text()
    return html.unescape(re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL))


def data_of(page):
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found.group(1))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A study with every kind of trial, and its whole report."""
    directory = write_mixed_study(tmp_path_factory.mktemp("report") / "study", 30)
    problems = []
    page = write_report([directory], notify=problems.append)
    assert problems == []
    return directory, page


def test_the_report_lies_in_the_study_and_is_complete(mixed):
    directory, page = mixed
    files = {path.name for path in page.parent.iterdir()}

    assert page == directory / "report" / "index.html"
    assert files == {"index.html", "analysis.ipynb", "trials.csv", "curves.csv", "surfaces.csv", "summary.md",
                     "ranking.png", "values.png", "curves.png", "importance.png", "slices.png", "parallel.png",
                     "hours.png", "rungs.png", "time.png", "memory.png", "predicted.png"}


def test_the_page_answers_the_questions_in_their_order(mixed):
    words = words_of(mixed[1])
    questions = ["First place is shared by", "is known to be worse", "What is best, and by how much", "What mattered",
                 "Where to search next", "What it cost", "Every trial"]
    places = [words.index(question) for question in questions]
    assert places == sorted(places)


def test_every_plot_has_a_sentence_with_a_number_and_named_axes(mixed):
    analysis = analyse(read_study(mixed[0]))
    figures = [*trial_figures(analysis), *map_figures(analysis), *cost_figures(analysis)]

    assert len(figures) == 14
    for figure in figures:
        assert re.search(r"\d", figure.sentence), figure.key
        assert figure.sentence.endswith("."), figure.key
        if figure.key not in ("importance", "parallel"):  # whose axes are the names of hyperparameters
            assert figure.layout["xaxis"]["title"]["text"], figure.key
            assert figure.layout["yaxis"]["title"]["text"], figure.key


def test_an_axis_is_logarithmic_where_the_range_is(mixed):
    figures = {figure.key: figure for figure in map_figures(analyse(read_study(mixed[0])))}
    assert figures["slice-learning_rate"].layout["xaxis"]["type"] == "log"
    assert "type" not in figures["slice-weight_decay"].layout["xaxis"]


def test_slices_mark_pruned_failed_and_infeasible_trials(mixed):
    figures = {figure.key: figure for figure in map_figures(analyse(read_study(mixed[0])))}
    names = {trace["name"]: trace for trace in figures["slice-learning_rate"].traces}

    assert {"complete", "pruned", "failed", "infeasible", "best"} <= names.keys()
    assert names["failed"]["yaxis"] == "y2"  # the strip for trials without a value
    assert len({trace["marker"]["symbol"] for trace in names.values()}) == len(names)


def test_the_table_of_trials_has_every_trial_once(mixed):
    columns = {column["name"]: column for column in data_of(mixed[1])["studies"][0]["columns"]}
    assert columns["trial"]["cells"] == [f"{i:04d}" for i in range(30)]
    assert columns["learning_rate"]["numeric"]
    assert "max_steps" not in columns  # the same in every trial


def test_the_csv_files_hold_what_the_study_holds(mixed):
    directory, page = mixed
    records = {record.trial.id: record for record in read_study(directory).records}
    trials = rows_of(page.parent / "trials.csv")

    assert [row["trial"] for row in trials] == list(records)
    for row in trials:
        result = records[row["trial"]].result
        assert row["status"] == (result.status if result else "running")
        assert float(row["learning_rate"]) == records[row["trial"]].trial.params["learning_rate"]
        if result and result.metric is not None:
            assert float(row["eval/loss"]) == result.metric
    curve = [(int(row["step"]), float(row["eval/loss"])) for row in rows_of(page.parent / "curves.csv")
             if row["trial"] == "0000" and row["eval/loss"]]
    assert curve == list(records["0000"].result.evaluations)


def test_the_csv_files_hold_what_the_predicted_peak_is_made_of_and_the_fitted_surfaces(mixed, tmp_path):
    row = rows_of(mixed[1].parent / "trials.csv")[0]
    assert (int(row["predicted_part_activations"]), int(row["predicted_part_base"])) == (360 * 2**20, 200 * 2**20)
    directory = write_two_effects(tmp_path / "study")
    page = write_report([directory], notebook=False)
    surfaces = rows_of(page.parent / "surfaces.csv")
    contours = analyse(read_study(directory)).contours
    assert len(surfaces) == sum(len(one.x_positions) * len(one.y_positions) for one in contours)
    assert [float(row["expected"]) for row in surfaces[:5]] == pytest.approx(contours[0].values[0][:5], rel=1e-5)


def test_the_summary_says_the_same_numbers_as_the_study(mixed):
    directory, page = mixed
    best = read_study(directory).best
    summary = (page.parent / "summary.md").read_text()

    assert f"Lowest is trial {best.trial.id} with eval/loss {best.result.metric:.4f}" in summary
    assert "learning_rate explains" in summary
    assert "[curves.png](curves.png)" in summary


def test_the_notebook_is_delivered_executed_without_a_complaint(mixed):
    notebook = nbformat.read(mixed[1].parent / "analysis.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]

    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert not [output for output in outputs if output.output_type in ("error", "stream")]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 10
    texts = [output["metadata"]["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})]
    assert all(re.search(r"\d", text) for text in texts)
    assert len(set(texts)) == 10
    pictures = [path.stem for path in mixed[1].parent.glob("*.png")]
    assert len(pictures) == 11  # the notebook has best so far by trial and by time in one


def test_a_notebook_says_of_seeds_what_the_page_says(tmp_path):
    lucky = {(2, 1): 1.0}  # one run of the middle configuration is the lowest of all
    trials = [Made(params={"x": x, "seed": seed}, value=2.0 + 0.3 * x + 0.01 * seed - lucky.get((x, seed), 0.0))
              for x in range(5) for seed in (1, 2, 3)]
    page = write_report([write_study(tmp_path / "study", trials)], notebook=False)
    notebook = nbformat.read(page.parent / "analysis.ipynb", as_version=4)
    constants = next(cell.source for cell in notebook.cells if cell.source.startswith("METRIC"))
    assert "BEST_TRIAL = '0000'" in constants
    assert "BEST_MEAN = 2.02" in constants
    assert "'trials': '0000, 0001, 0002', 'seeds': 3, 'mean': 2.02" in constants
    assert "Best mean over seeds: 0000, 0001 and 0002, mean 2.020" in notebook.cells[0].source
    assert "15 trials)" in notebook.cells[0].source  # where the noise is known from
    shown = repr(show(tmp_path / "study"))
    assert "Lowest are trials 0000, 0001 and 0002 (mean of 3 seeds) with eval/loss 2.020" in shown
    assert "Trial 0000 has x 0." in shown


def test_the_notebook_runs_again_in_a_fresh_kernel_with_only_the_csv_files(mixed, tmp_path):
    for name in ("analysis.ipynb", "trials.csv", "curves.csv", "surfaces.csv"):
        (tmp_path / name).write_bytes((mixed[1].parent / name).read_bytes())
    script = ("import asyncio, sys, nbformat\nfrom nbclient import NotebookClient\n"
              "notebook = nbformat.read('analysis.ipynb', as_version=4)\n"
              "for cell in notebook.cells:\n    cell.pop('outputs', None) and cell.update(outputs=[])\n"
              "asyncio.run(NotebookClient(notebook, kernel_name='python3').async_execute())\n")
    assert NotebookClient  # the same package, in a process of its own

    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=250)

    assert done.returncode == 0, done.stderr


def test_ipython_is_imported_before_the_notebooks_thread_and_matplotlib_could_meet_in_it(tmp_path):
    directory = write_study(tmp_path / "study", numbers(2))
    script = ("import sys, threading\nfrom pathlib import Path\nseen = []\n"
              "class Watch:\n    def find_spec(self, name, path=None, target=None):\n"
              "        if name == 'IPython': seen.append(threading.current_thread().name)\n"
              "sys.meta_path.insert(0, Watch())\n"
              "from kaggle_runner.report.write import write_report\n"
              f"write_report([Path({str(directory)!r})])\nprint(seen)\n")

    # a debugger that an older ipykernel loads complains about frozen modules
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=False,
                          env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"})

    assert (done.stdout, done.stderr) == ("['MainThread']\n", "")


def test_a_notebook_without_a_kernel_is_delivered_with_the_reason(tmp_path, monkeypatch):
    """A kernel folder of the environment that names a program that is not there stands before the real one."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["/no/such/python", "{connection_file}"],
                                                    "display_name": "gone", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    problems = []

    page = write_report([write_study(tmp_path / "study", [FAILED])], notify=problems.append)

    notebook = nbformat.read(page.parent / "analysis.ipynb", as_version=4)
    assert "no kernel could be started" in notebook.cells[1].source
    assert "/no/such/python" in problems[0]
    assert not any(cell.get("outputs") for cell in notebook.cells)


def numbers(count):
    return [Made(params={"learning_rate": 10 ** -(3 + i / count)}, value=2 + i / 10, curve=loss_curve(2 + i / 10))
            for i in range(count)]


EDGE_CASES = {
    "no trial yet": [],
    "one trial": numbers(1),
    "one trial that still runs": [Made(params={"learning_rate": 1e-4}, status=None)],
    "only failed trials": [FAILED] * 3,
    "three trials": numbers(3),
    "one hyperparameter": numbers(12),
    "only categorical ones": [
        Made(params={"a": "xyz"[i % 3], "b": i < 6, "c": None if i % 4 else ["q", "k"]}, value=2.0 + i % 3)
        for i in range(12)],
    "missing peaks, times and curves": [Made(params={"x": i}, value=i + 0.5, peak=None, seconds=0) for i in range(9)],
    "equal values": [Made(params={"x": i}, value=1.0) for i in range(9)],
    "two of equal values": [Made(params={"learning_rate": 10 ** -(3 + i)}, value=2.5, curve=loss_curve(2.5))
                            for i in range(2)],
    "equal values with seeds": [Made(params={"x": i // 2, "seed": i % 2}, value=0.0) for i in range(8)],
    "equal values in a plane": [Made(params={"x": i, "y": i * 5 % 12, "z": "ab"[i % 2]}, value=0.0, curve=[(10, 0.0)])
                                for i in range(12)],
    "values of zero": [Made(params={"x": i}, value=0.0 if i else 1.0) for i in range(9)],
    "one diverged": [Made(params={"x": float(i)}, value=1e30 if i == 3 else 2.0 + i) for i in range(9)],
    "a hyperparameter that only some have": [Made(params={"x": i} | ({"y": i / 2} if i % 2 else {}), value=2.0 + i)
                                             for i in range(14)],
}


@pytest.mark.parametrize("name", EDGE_CASES)
def test_there_is_a_report_of(name, tmp_path):
    directory = write_study(tmp_path / "study", EDGE_CASES[name], parameters={"learning_rate": LEARNING_RATE},
                            baseline=0.0 if name == "values of zero" else None)

    page = write_report([directory], notebook=False)

    assert len(data_of(page)["studies"][0]["figures"]) >= 1
    assert (page.parent / "values.png").exists()


@pytest.mark.parametrize("name", ["only failed trials", "only categorical ones", "one trial", "equal values",
                                  "values of zero", "two of equal values", "equal values with seeds",
                                  "equal values in a plane", "a hyperparameter that only some have"])
def test_the_notebook_can_be_executed_for(name, tmp_path):
    problems = []
    write_report([write_study(tmp_path / "study", EDGE_CASES[name])], notify=problems.append)
    assert problems == []


def test_three_trials_are_said_to_be_too_few(tmp_path):
    page = write_report([write_study(tmp_path / "study", numbers(3))], notebook=False)
    assert "3 complete configurations are too few to say which hyperparameter mattered" in words_of(page)


def test_a_sentence_counts_the_best_trials_it_is_about(tmp_path):
    analysis = analyse(read_study(write_study(tmp_path / "study", numbers(9))))
    assert {region.count for region in analysis.regions} == {3}  # a quarter would be two
    assert say.axis(analysis, analysis.axes[0]).startswith("The best 3 of 9 complete configurations lie between ")


def test_what_moved_together_is_said_to_and_not_called_chance(tmp_path):
    trials = [Made(params={"a": i % 2, "b": 5 - 3 * (i % 2), "x": i * 7 % 24},
                   value=2.5 + 0.3 * (i % 2) + i * 5 % 7 / 200) for i in range(24)]
    analysis = analyse(read_study(write_study(tmp_path / "study", trials, parameters={
        "a": {"values": [0, 1]}, "b": {"values": [2, 5]}, "x": {"min": 0, "max": 23}})))
    assert analysis.resolved == ()
    assert say.importance(analysis) == (
        "From 24 complete configurations, no hyperparameter stands out by itself: a and b fit better than shuffled "
        "values do, but they moved together.")
    told = {axis.name: say.axis(analysis, axis).rpartition("; ")[2] for axis in analysis.axes}
    assert told == {name: "its effect is not told from that of others." for name in "ab"} | {
        "x": "no effect stands out from chance."}


def test_a_change_from_a_negative_base_has_its_sign(tmp_path):
    studies = [analyse(read_study(write_study(
        tmp_path / name, [Made(params={"x": i}, value=value + i / 10) for i in range(3)], baseline=base,
        metric="reward", goal="maximize"))) for name, value, base in (("less", -5.2, -7.0), ("more", 0.8, 2.0))]
    header, *rows = comparison_rows(studies)
    assert [row[header.index("change")] for row in rows] == ["29 %", "-50 %"]


@pytest.mark.parametrize(("status", "sentence"), [
    (Status.COMPLETE,
     "4 trials trained to their end. Trial 0000, the best, was number 1 of 4 at step 30 of 60."),
    (Status.PRUNED,
     "3 trials trained to their end; 1 pruned. Trial 0000, the best, was number 1 of 4 at step 30")])
def test_curves_say_how_early_the_winner_showed(tmp_path, status, sentence):
    last = Made(params={"learning_rate": 1e-4}, status=status, value=4.0, curve=loss_curve(4.0))
    analysis = analyse(read_study(write_study(tmp_path / "study", [*numbers(3), last])))
    assert say.curves(analysis).startswith(sentence)


def test_where_to_search_next_says_whether_more_trials_promise_anything(tmp_path):
    """A parabola with its minimum in the middle: sampled there, nothing is left to find; sampled beside it, it is."""
    def advice(name, places, luck=0.0):
        trials = [Made(params={"x": at, "y": i % 5 / 5}, value=2 + (at - 0.5) ** 2 + i % 5 / 50 + 1e-4 * (i * 7 % 3))
                  for i, at in enumerate(places)]
        ranges = {"x": {"min": 0.0, "max": 1.0}, "y": {"min": 0.0, "max": 1.0}}
        analysis = analyse(read_study(write_study(tmp_path / name, trials, parameters=ranges)))
        best, *others = analysis.first.ranked
        best = dataclasses.replace(best, mean=best.mean - luck * analysis.noise.deviation)
        analysis = dataclasses.replace(analysis, first=dataclasses.replace(analysis.first, ranked=(best, *others)))
        assert bool(try_yaml(analysis)) == any(text.startswith("Try ") for text in next_search(analysis))
        return " ".join(next_search(analysis))

    found = advice("found", [i / 19 for i in range(20)])
    assert re.search(r"promise little: .* at best, within one trial's noise of trial \d+\.", found), found
    lucky = advice("lucky", [i / 19 for i in range(20)], luck=3.3)
    assert re.search(r"at best, worse than trial \d+ by more than one trial's noise\.", lucky), lucky
    missed = advice("missed", [i / 50 for i in range(10)] + [1 - i / 50 for i in range(10)])
    tried = float(re.search(r"Try x ([\d.]+) with y [\d.]+: the fitted surface expects 2\.", missed).group(1))
    assert 0.2 < tried < 0.8  # in the gap, where no trial was


def test_values_of_the_metric_keep_the_zeros_that_make_them_comparable(tmp_path):
    trials = [Made(params={"x": i}, value=value) for i, value in enumerate([2.7, 2.698, 1234.5])]
    page = write_report([write_study(tmp_path / "study", trials)], notebook=False)
    summary = (page.parent / "summary.md").read_text()
    assert "| 0000 | 2.7000 |" in summary
    assert "| 0001 | 2.6980 |" in summary
    assert "| 0002 | 1234.5000 |" in summary


def test_a_far_base_does_not_press_the_progress_over_time_flat(tmp_path):
    def hours(baseline):
        directory = write_study(tmp_path / str(baseline), numbers(4)[::-1], baseline=baseline)
        return next(figure for figure in cost_figures(analyse(read_study(directory))) if figure.key == "hours")

    assert hours(2.4).layout["yaxis"]["range"][1] > 2.4
    assert hours(2.4).layout["shapes"][0]["y0"] == 2.4
    assert 2.3 < hours(9.0).layout["yaxis"]["range"][1] < 2.5
    assert hours(9.0).layout["shapes"] == []
    assert hours(9.0).beyond == ("↑ untouched base 9.0000",)


def test_a_trial_off_the_scale_is_a_mark_at_the_edge_with_its_value_and_a_count(tmp_path):
    trials = [Made(params={"x": i}, value=60.0 if i == 3 else 2.0 + i / 10) for i in range(12)]
    analysis = analyse(read_study(write_study(tmp_path / "study", trials)))
    figure = next(figure for figure in trial_figures(analysis) if figure.key == "values")

    off = next(trace for trace in figure.traces if trace["name"] == "off the scale")
    low, high = figure.layout["yaxis"]["range"]
    assert off["customdata"] == [3]
    assert low < off["y"][0] < high < 60
    assert figure.beyond == ("↑ 1 off the scale, to 60.0000",)


def test_learning_curves_that_leave_their_plot_are_counted(tmp_path):
    trials = [Made(params={"x": i}, value=2.0 + i / 10, curve=[(1, 9.0 if i in (1, 4) else 2.5), *(
        (step, 2.0 + i / 10) for step in range(2, 12))]) for i in range(8)]
    figure = next(figure for figure in trial_figures(analyse(read_study(write_study(tmp_path / "study", trials))))
                  if figure.key == "curves")
    assert figure.beyond == ("↑ 2 of 8 lines off the scale, to 9.0000",)


def test_every_hyperparameter_of_many_is_in_a_picture_and_few_are_open(tmp_path):
    generator = random.Random(1)
    trials = [Made(params={f"p{at:02d}": generator.random() for at in range(24)}, value=2.0 + generator.random())
              for _ in range(14)]
    figures = map_figures(analyse(read_study(write_study(tmp_path / "study", trials))))
    across = [figure.layout["xaxis"]["ticktext"][:-1] for figure in figures if figure.key.startswith("parallel")]
    assert [len(names) for names in across] == [8, 8, 8]
    assert len({name for names in across for name in names}) == 24
    assert sum(not figure.fold for figure in figures if figure.is_small) == 6


def test_what_is_no_number_in_a_journal_is_no_measurement(tmp_path):
    """Other programs write NaN and Infinity where JSON has no such thing."""
    trials = [Made(params={"x": i}, value={2: 777.0, 4: 888.0}.get(i, 2.0 + i)) for i in range(9)]
    directory = write_study(tmp_path / "study", trials, baseline=777.0)
    journal = directory / "trials.jsonl"
    text = re.sub(', "digest": "[0-9a-f]+"', "", journal.read_text())
    for first, second in (("1e300", "-1.7e308"), ("1e999", "9" * 400), ("NaN", "-Infinity")):
        journal.write_text(text.replace("777.0", first).replace("888.0", second))
        assert read_claims(directory)["baseline"] is None
        assert len(read_claims(directory)["first_place"]) == 7
    page = write_report([directory], notebook=False)
    assert "Lowest is trial 0000 with eval/loss 2.0000." in words_of(page)
    assert "7 of 9" in words_of(page)


def test_trials_that_ended_without_a_number_are_not_said_to_be_unfinished(tmp_path):
    directory = write_study(tmp_path / "study", [Made(params={"x": i}, value=1e300) for i in range(9)])
    assert "Nothing can be compared: 9 trials ended without a number for eval/loss." in repr(show(directory))
    assert "9 trials ended without a number" in words_of(write_report([directory], notebook=False))


@pytest.mark.parametrize(("values", "sentences"), [
    ([2.5] * 9, "All 9 complete configurations have eval/loss 2.5000, as the untouched base has: none of them is "
                "better. How much of a difference is noise is not known: no configuration was trained with a second "
                "seed, and the 9 complete configurations leave no scatter to estimate it from."),
    # an exact line leaves rounding, which is no noise: nothing has won by it
    ([2.5 - i / 10 for i in range(12)], "Which of 12 complete configurations comes first is not known yet, nor how "
                                        "much of their difference is chance. Lowest is trial 0011 with eval/loss "
                                        "1.4000, 1.1 (44 %)"),
    ([2.4, 2.5], "Which of both complete configurations comes first is not known yet")])
def test_values_without_noise_are_no_victory(tmp_path, values, sentences):
    trials = [Made(params={"x": i}, value=value) for i, value in enumerate(values)]
    assert sentences in repr(show(write_study(tmp_path / "study", trials, baseline=2.5)))


def test_no_axis_shows_less_than_the_noise(tmp_path):
    trials = [Made(params={"x": 1, "seed": seed}, value=2 + seed / 10) for seed in range(5)]
    trials += [Made(params={"x": 2, "seed": 0}, value=2.2), Made(params={"x": 3, "seed": 0}, value=2.21)]
    analysis = analyse(read_study(write_study(tmp_path / "study", trials)))
    for figure in (*trial_figures(analysis), *cost_figures(analysis)):
        if figure.key in ("ranking", "values", "hours"):
            low, high = figure.layout["yaxis"]["range"]
            assert high - low >= 6 * analysis.noise.deviation * 0.9999, figure.key


@pytest.mark.parametrize(("count", "widths"), [(1, "h"), (2, "hh"), (3, "sss"), (4, "hhhh"), (5, "ssshh"), (6, "s" * 6),
                                               (7, "ssshhhh")])
def test_rows_of_slices_are_full(tmp_path, count, widths):
    trials = [Made(params={f"p{at}": i for at in range(count)}, value=2.0 + i) for i in range(2)]
    page = write_report([write_study(tmp_path / "study", trials)], notebook=False)
    found = re.findall(r'<figure class="card (\w+)"><figcaption><h4>p\d</h4>', page.read_text())
    assert [width[0] for width in found] == list(widths)


def test_ten_thousand_points_a_trial_stay_a_small_page(tmp_path):
    curve = [(step, 3 - step / 10_000) for step in range(1, 10_001)]
    directory = write_study(tmp_path / "study", [Made(params={"x": i}, value=2.0 + i, curve=curve) for i in range(3)])

    page = write_report([directory], notebook=False)

    assert page.stat().st_size < 2_500_000
    assert len(rows_of(page.parent / "curves.csv")) < 3 * 410


def test_names_with_markup_are_shown_and_not_obeyed(tmp_path):
    trials = [Made(params={MARKUP: ["<i>a</i>", "b"][i % 2], "x": i}, value=2.0 + i, reason=MARKUP, curve=[(1, 2.0)])
              for i in range(8)]
    directory = write_study(tmp_path / "study", trials, name=MARKUP, metric="eval/<loss>",
                            parameters={MARKUP: {"values": ["<i>a</i>", "b"]}})

    page = write_report([directory])

    text = page.read_text()
    assert "<img" not in text[: text.index("<script")]
    assert text.count("</script>") == text.count("<script")
    assert MARKUP in words_of(page)
    assert "<img" not in (page.parent / "summary.md").read_text()
    notebook = nbformat.read(page.parent / "analysis.ipynb", as_version=4)
    assert not [cell for cell in notebook.cells if cell.cell_type == "markdown" and "<img" in cell.source]
    assert "<img" not in show(directory)._repr_html_().replace('<img alt="Learning', "")


def test_several_studies_are_compared_on_one_page(tmp_path):
    first = write_mixed_study(tmp_path / "a" / "optuna", 16, name="same", seed=1)
    second = write_mixed_study(tmp_path / "b" / "wandb", 16, name="same", seed=2)

    page = write_report([first, second], notebook=False)

    words = words_of(page)
    assert page == tmp_path / "report" / "index.html"
    assert "2 studies side by side" in words
    assert re.findall(r"<h2>(.*?)</h2>", page.read_text()) == ["same (optuna)", "same (wandb)"]
    assert re.search(r"same \((optuna|wandb)\) found the best eval/loss", words)
    assert [study["place"] for study in data_of(page)["studies"]] == ["comparison", "study-1", "study-2"]
    assert (page.parent / "1_same__optuna_" / "trials.csv").exists()
    assert (page.parent / "by-trial.png").exists()


def test_studies_with_one_best_value_have_no_winner(tmp_path):
    studies = [write_study(tmp_path / name, numbers(3), name=name) for name in ("a", "b")]
    worse = write_study(tmp_path / "c", [Made(params={"learning_rate": 1e-4, "lora_r": 8}, value=9.0)], name="c")
    said = comparison_sentence([analyse(read_study(study)) for study in (worse, *studies)])
    assert re.fullmatch(r"The best eval/loss, [\d.]+, is the same in a and b: none of them is better\.", said)


def test_means_over_seeds_are_compared_by_what_means_differ_by(tmp_path):
    confirmed = write_confirmed(tmp_path / "a")
    analysis = analyse(read_study(confirmed))
    one, four = analysis.first.limit(1), analysis.first.limit(4)
    assert (one, four) == pytest.approx((analysis.first.distance * (5 / 8) ** 0.5, analysis.first.distance / 2))
    best = analysis.first.ranked[0].mean
    assert f"worse if it lies {one:.2g} (with 1 seed) or {four:.2g} (with 4 seeds) or more" in say.noise(analysis)
    assert [one.trial_ids[0] for one in analysis.first.ranked if one not in analysis.first.shared] == [
        row.id for row in analysis.rows if row.compared_by - best > (four if row.id < "0003" else one)]
    for name, reach, verdict in (("close", 0.95, "within"), ("far", 1.05, "more than")):
        trials = [Made(params={"learning_rate": 1e-4, "lora_r": 4, "seed": seed}, value=best + reach * four + off)
                  for seed, off in enumerate([-0.001, 0.0, 0.0, 0.001])]
        other = analyse(read_study(write_study(tmp_path / name, trials, name=name)))
        assert other.first.distance < analysis.first.distance
        assert f"that is {verdict} what chance puts between them ({four:.2g})" in comparison_sentence([analysis, other])


def test_a_confirmed_study_has_one_best_everywhere(tmp_path):
    """What is said and drawn speaks of the means that the confirmation came to, and not of single runs."""
    for goal in ("minimize", "maximize"):
        directory = write_confirmed(tmp_path / goal, goal)
        problems = []
        write_report([directory], notify=problems.append)
        assert problems == []
        analysis, sign = analyse(read_study(directory)), 1 if goal == "minimize" else -1
        assert analysis.best.id == "0002"
        assert analysis.first.trial_ids == ("0002", "0001", "0003", "0004")
        assert [row.id for row in analysis.places] == [*analysis.first.trial_ids, "0000", "0005", "0006", "0007"]
        drawn = {figure.key: figure for figure in trial_figures(analysis)}
        stars = {key: next(trace for trace in drawn[key].traces if trace["name"] == "best")
                 for key in ("ranking", "values")}
        assert stars["ranking"]["x"] == [1]
        assert [star["y"] for star in stars.values()] == [[sign * 2.525]] * 2
        line = next(trace for trace in drawn["values"].traces if trace["name"] == "best so far")
        assert line["y"] == [sign * value for value in [2.59, 2.56, *[2.525] * 6]]
        (band,) = [shape for shape in drawn["ranking"].layout["shapes"] if shape["type"] == "rect"]
        assert (band["x0"], band["x1"], band.get("xref")) == (0.5, 4.5, None)
        low, high = sorted((band["y0"], band["y1"]))
        assert all(low <= one.mean <= high for one in analysis.first.shared)
        assert say.progress(analysis).startswith("The best value came with trial number 3 of 8; of the 5 trials after")
        assert say.hours(analysis).startswith("The best value was there after 30 s of 80 s")
        rates = [row.params["learning_rate"] for row in analysis.places[:3]]
        region = next(one for one in analysis.regions if one.name == "learning_rate")
        assert (region.count, region.low, region.high) == (3, min(rates), max(rates))
        summary = (directory / "report" / "summary.md").read_text()
        first = next(line for line in summary.splitlines() if line.startswith("| 0002"))
        assert first.startswith(f"| 0002 (mean of 4 seeds) | {sign * 2.525:.4f} | ")
        table = show(directory)._repr_html_().split("<table>")[1]
        assert f"<td>0002</td><td>complete</td><td>{sign * 2.525:.4f}</td>" in table
        rows = rows_of(directory / "report" / "trials.csv")
        assert [row["place"] for row in rows] == ["5", "2", "1", "3", "4", "6", "7", "8"]
        assert [float(row["best_so_far"]) for row in rows] == pytest.approx(line["y"])
        columns = data_of(directory / "report" / "index.html")["studies"][0]["columns"]
        means = next(column["cells"] for column in columns if column["name"] == "mean over seeds")
        assert means[:4] == [sign * value for value in [2.59, 2.56, 2.525, 2.56]]
        notebook = json.loads((directory / "report" / "analysis.ipynb").read_text())
        shown = [json.dumps(output) for cell in notebook["cells"] for output in cell.get("outputs", ())]
        assert not [output for output in shown if '"output_type": "error"' in output]
        assert any("<td>0002</td>" in output and f"{sign * 2.525:.3f}" in output for output in shown)


def test_a_setting_that_a_trial_has_not_is_a_dash_and_null_is_a_value(tmp_path):
    """As the momentum that one optimizer alone has; there null stands for its own usual value."""
    trials = [Made(params={"optim": "adamw", "learning_rate": 1e-4}, value=2.5),
              *(Made(params={"optim": "sgd", "learning_rate": 1e-4 * (i + 1), "momentum": momentum}, value=2.6 + i / 9)
                for i, momentum in enumerate([None, 0.5, 0.9, None, 0.5, 0.9])),
              Made(params={"optim": "adamw", "learning_rate": 2e-4}, value=2.7)]
    directory = write_study(tmp_path / "s", trials, parameters={
        "optim": {"values": ["adamw", "sgd"]}, "momentum": {"values": [None, 0.5, 0.9]},
        "learning_rate": LEARNING_RATE}, baseline=2.5)
    page = write_report([directory], notebook=False)
    columns = {column["name"]: column["cells"] for column in data_of(page)["studies"][0]["columns"]}
    assert columns["momentum"] == [None, "none", 0.5, 0.9, "none", 0.5, 0.9, None]
    summary = (page.parent / "summary.md").read_text()
    assert "| 0000 | 2.5000 | adamw | – | 1e-4 |" in summary
    assert "| 0001 | 2.6000 | sgd | none | 1e-4 |" in summary
    assert "<td>adamw</td><td>–</td>" in show(directory)._repr_html_()
    (slice_of,) = [one for one in map_figures(analyse(read_study(directory))) if one.key == "slice-momentum"]
    assert sorted(at for trace in slice_of.traces for at in trace["customdata"]) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("start", "step", "first", "second"), [
    (1e6, 1e-4, "1000000.0000", "1000000.0001"), (2.5, 1e-5, "2.50000", "2.50001"), (2.5, 0.01, "2.5000", "2.5100"),
    (1e-9, 1e-13, "1.0000e-09", "1.0001e-09")])
def test_values_that_lie_close_are_told_apart_in_words_and_pictures(tmp_path, start, step, first, second):
    trials = [Made(params={"learning_rate": 10 ** (-5 + i / 10)}, value=value, curve=[(60, value)])
              for i, value in enumerate(start + step * place for place in range(20))]
    directory = write_study(tmp_path / "s", trials, parameters={"learning_rate": LEARNING_RATE})
    page = write_report([directory], notebook=False)
    summary = (page.parent / "summary.md").read_text()
    assert f"| 0000 | {first} |" in summary
    assert f"| 0001 | {second} |" in summary
    assert f"with eval/loss {first}" in say.winner(analyse(read_study(directory)))
    study = data_of(page)["studies"][0]
    assert len(set(next(one["cells"] for one in study["columns"] if one["name"] == "eval/loss"))) == 20
    for figure in study["figures"]:
        if figure["place"].endswith(("ranking", "values", "slice_2d_learning_5f_rate")):
            drawn = {at for trace in figure["traces"] for at in trace["y"] if trace.get("meta", {}).get("trials")}
            low, high = figure["layout"]["yaxis"]["range"]
            assert len(drawn) == 20
            assert low <= min(drawn) < max(drawn) <= high


@pytest.mark.parametrize(("base", "said"), [
    (2.5 * (1 + 1e-9), "1e-7 %"), (2.5, "the best has the same"), (5.0, "50 %")])
def test_no_difference_is_no_difference_of_nought_per_cent(tmp_path, base, said):
    directory = write_study(tmp_path / "s", [Made(params={"x": i}, value=2.5 + i) for i in range(2)], baseline=base)
    page = words_of(write_report([directory], notebook=False))
    assert said in page
    assert "0.0 %" not in page
    told = dict(best_lines(read_study(directory)))["best"]
    assert ("%" in told) == (base == 5.0), told


@pytest.mark.parametrize(("names", "short"), [
    ([f"unsloth/Meta-Llama-3.1-{size}-Instruct-bnb-4bit" for size in ("8B", "70B", "405B")],
     ["…8B-Instruct-…", "…70B-Instruct…", "…405B-Instruc…"]),
    (["demo", *(f"unsloth/Meta-Llama-3.1-{size}-Instruct-bnb-4bit" for size in ("8B", "70B"))],
     ["demo", "…8B-Instruct-…", "…70B-Instruct…"]),
    ([f"/kaggle/input/rows-{name}/cleaned/train.jsonl" for name in "ab"], ["…a/cleaned/tr…", "…b/cleaned/tr…"]),
    (["org/model-with-a-long-name", "org/model-with-a-long-name-chat"], ["…name", "…name-chat"]),
    ([f"{'a' * 20}{digit}{'b' * 20}" for digit in "12"], ["…aa1bbbbbbbbb…", "…aa2bbbbbbbbb…"]),
    (["learning_rate", "lora_r"], ["learning_rate", "lora_r"]), (["x" * 30, "x" * 30], ["x" * 13 + "…"] * 2), ([], [])])
def test_a_short_name_begins_at_what_differs(names, short):
    """Never within a number: `70B` is not to read `0B`."""
    assert short_names(names, 14) == short


def test_a_notebook_and_its_text_tell_values_apart_that_are_long_and_alike(tmp_path):
    models = [f"organisation-with-name/Llama-3.1-{size}-Instruct-bnb-4bit-extended" for size in ("8B", "70B")]
    trials = [Made(params={"model": models[i % 2], "learning_rate": 1e-4 * (i + 1)}, value=2.5 + i % 2) for i in (1, 2)]
    directory = write_study(tmp_path / "s", trials, parameters={
        "model": {"values": models}, "learning_rate": LEARNING_RATE})
    assert "model …8B-Instruct-bnb-4bit-extended and learning_rate" in repr(show(directory))
    page = write_report([directory], notify=lambda problem: pytest.fail(problem))
    notebook = json.loads((page.parent / "analysis.ipynb").read_text())
    code = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    assert "LABELS = {'model': ['…8B-Instruct-bnb-…', '…70B-Instruct-bnb…']}" in code


@pytest.mark.parametrize(("judged", "beside"), [("eval/exact_match", "eval/loss"), ("eval/loss", "eval/exact_match")])
def test_a_value_of_a_metric_looks_the_same_in_terminal_page_and_files(tmp_path, judged, beside):
    """2 of 48 rows were right before, 12 to 22 after; a loss keeps its zeros."""
    shares, losses = [i / 48 for i in range(12, 23)], [2.9 - i / 10 for i in range(11)]
    own = {"eval/exact_match": shares, "eval/loss": losses}
    trials = [Made(params={"learning_rate": 1e-4 * (i + 1)}, value=own[judged][i], metrics={
        judged: own[judged][i], beside: own[beside][i]}) for i in range(11)]
    base = {"eval/exact_match": 2 / 48, "eval/loss": 3.0}
    goal = "minimize" if judged == "eval/loss" else "maximize"
    directory = write_study(tmp_path / "s", trials, parameters={"learning_rate": LEARNING_RATE}, metric=judged,
                            goal=goal, baseline=base[judged], scores=base)
    page = write_report([directory], notebook=False)
    columns = {one["name"]: one for one in data_of(page)["studies"][0]["columns"]}
    told = [trial_table(read_study(directory), width=200), *(text for _, text in best_lines(read_study(directory))),
            repr(show(directory)), show(directory)._repr_html_().split("<img")[0],
            words_of(page).split("<h3>How this")[0],
            (page.parent / "summary.md").read_text().split("## How")[0],
            *(" ".join(columns[name]["texts"]) for name in (judged, beside.removeprefix("eval/")))]
    ways = {"0.25": 12 / 48, "0.4583": 22 / 48, "0.04167": 2 / 48, "2.9000": 2.9, "1.9000": 1.9, "3.0000": 3.0}
    found = {way: {text for said in told for text in re.findall(r"(?<![\d.e-])\d\.\d+(?![\d.e%]| ?%)", said)
                   if abs(float(text) - value) < 1e-4} for way, value in ways.items()}
    assert found == {way: {way} for way in ways}


def shown_by_notebook(page):
    """Run the notebook beside a page, and return its tables as text and its pictures as SVG, with their words."""
    notebook = nbformat.read(page.parent / "analysis.ipynb", as_version=4)
    setup = next(cell for cell in notebook.cells if cell.source.startswith("%matplotlib"))
    setup.source += "\n%config InlineBackend.figure_formats = ['svg']\nplt.rcParams['svg.fonttype'] = 'none'"
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(page.parent)}}).execute()
    outputs = [output.data for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return ("".join(data["text/plain"] for data in outputs if "text/html" in data),
            "".join(data.get("image/svg+xml", "") for data in outputs))


def test_a_notebook_writes_values_of_the_metric_as_the_page_does(tmp_path):
    values = [2.500012, 2.500013, 2.500015, 2.500018, 9.123456]
    trials = [Made(params={"learning_rate": 1e-4 * (i + 1), "lora_r": 4 * (i + 1), "seed": 1}, value=value)
              for i, value in enumerate(values)]
    trials.append(Made(params={**trials[0].params, "seed": 2}, value=values[0] + 1e-6))
    directory = write_study(tmp_path / "s", trials, baseline=7.654321, parameters={
        "learning_rate": LEARNING_RATE, "lora_r": {"min": 4, "max": 20}})
    tables, drawn = shown_by_notebook(write_report([directory], notebook=False))
    analysis = analyse(read_study(directory))
    ranked = [analysis.text(one.mean) for one in analysis.first.ranked]
    assert len(set(ranked)) == len(values), "what the page tells apart"
    assert re.findall(r"complete +(\S+)", tables) == ranked
    assert re.findall(r"  (\d\.\d+) ", tables.split("may be best")[1]) == ranked
    told = (f"1 off the scale, to {ranked[-1]}", f"untouched base {analysis.text(7.654321)}", ranked[0], ranked[-1])
    assert [words for words in told if f">{words}</text>" not in drawn] == []


@pytest.mark.parametrize(("metric", "goal", "value"), [("eval/loss", "minimize", 2.3),
                                                       ("eval/exact_match", "maximize", 0.0)])
def test_the_pictures_of_one_trial_have_ticks_at_it_and_none_below_nought(tmp_path, metric, goal, value):
    directory = write_study(tmp_path / "s", [Made(params={"learning_rate": 1e-4}, value=value)], metric=metric,
                            goal=goal, parameters={"learning_rate": LEARNING_RATE})
    analysis = analyse(read_study(directory))
    layouts = [figure.layout for figure in (*trial_figures(analysis), *cost_figures(analysis))]
    by_trial = [layout["xaxis"] for layout in layouts if layout["xaxis"]["title"]["text"] == "trial"]
    assert [axis["tickvals"] for axis in by_trial] == 3 * [[0]]
    low, high = layouts[0]["yaxis"]["range"]
    assert -0.1 < low < value < high
    _, drawn = shown_by_notebook(write_report([directory], notebook=False))
    ticks = re.findall(r">([^<>]*)</text>", drawn)
    assert "trial" in ticks
    assert [tick for tick in ticks if tick.startswith("\N{MINUS SIGN}")] == []


def test_studies_of_different_metrics_are_not_compared(tmp_path):
    first = write_study(tmp_path / "a", numbers(2))
    second = write_study(tmp_path / "b", numbers(2), metric="accuracy", goal="maximize")

    page = write_report([first, second], notebook=False)

    assert "measure different things (accuracy and eval/loss)" in words_of(page)


def test_studies_that_were_scored_on_other_tokens_are_not_compared(tmp_path):
    def study(name, **params):
        return write_study(tmp_path / name, [Made(params={"learning_rate": rate, **params}, value=2.0 + rate)
                                             for rate in (0.1, 0.2)])
    words = words_of(write_report([study("a", max_length=64), study("b", max_length=128)], notebook=False))
    assert "scored on different held-out tokens (they differ in max_length), so their values cannot be" in words
    words = words_of(write_report([study("c", max_length=64, eval_max_length=128), study("d", max_length=128)],
                                  notebook=False))
    assert "The best eval/loss, 2.1000, is the same in made (c) and made (d)" in words
    words = words_of(write_report([study("e", model="demo"), study("f", model="a/b")], notebook=False))
    assert "they differ in model" in words


def test_a_watched_page_is_drawn_again_when_a_trial_ends(tmp_path):
    directory = write_study(tmp_path / "study", [*numbers(2), Made(params={"learning_rate": 1e-4}, status=None)])
    pages = watch_any_report([directory], poll_s=0.01)
    page = next(pages)
    assert "2 of 3" in words_of(page)

    sweep = dict(read_study(directory).info.sweep)
    with Study.open_for_writing(directory, name="made", sweep=sweep, metric="eval/loss", goal="minimize",
                                seed=None) as study:
        study.record_end(TrialResult(id="0002", status=Status.COMPLETE, metric=1.5))

    assert next(pages) == page
    assert "Lowest is trial 0002 with eval/loss 1.500" in words_of(page)
    assert 'data-reload="20"' in page.read_text()


def test_a_watched_study_that_lies_elsewhere_is_brought_before_every_further_look(tmp_path):
    directory = write_study(tmp_path / "study", numbers(2))

    def bring():
        with open(directory / "trials.jsonl", "a") as journal:
            journal.write(json.dumps({"event": "baseline", "value": 3.75, "time": 0.0}) + "\n")

    pages = watch_any_report([directory], poll_s=0.01, refresh=bring)
    assert "the untouched base's" not in words_of(next(pages))
    assert "the untouched base's 3.750" in words_of(next(pages))


def test_curves_that_begin_late_fill_their_plot(tmp_path):
    def axis(curve):
        directory = write_study(tmp_path / str(len(curve)), [Made(params={"x": 1}, value=2.0, curve=curve)])
        figures = {figure.key: figure for figure in trial_figures(analyse(read_study(directory)))}
        return figures["curves"].layout["xaxis"]["range"]

    assert axis([(step, 3.0) for step in range(1, 11)])[0] == 0
    assert axis([(5, 3.0), (10, 2.0)]) == [4.5, 10.165]
    low, high = axis([(10, 2.0)])
    assert low < 10 < high


def test_a_report_of_a_finished_study_does_not_reload_itself(mixed):
    assert 'data-reload=""' in mixed[1].read_text()


def test_a_notebook_shows_a_study_as_a_table_and_a_picture(mixed):
    view = show(str(mixed[0]))

    shown = view._repr_html_()

    assert shown.count("<tr>") == 21  # the header and twenty trials
    assert "and 10 more" in shown
    assert 'src="data:image/png;base64,' in shown
    assert f"Lowest is trial {read_study(mixed[0]).best.trial.id}" in repr(view)


def test_the_report_of_no_study_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"is not a study: it has no trials\.jsonl"):
        write_report([tmp_path])


@pytest.mark.parametrize(("seconds", "text"), [(9.94, "9.94 s"), (99, "99 s"), (100, "1.7 min"), (200, "3.3 min"),
                                               (596, "9.9 min"), (598, "10 min"), (5900, "98 min"), (7200, "2.0 h")])
def test_a_duration_is_not_off_by_a_fifth(seconds, text):
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(("losses", "star"), [((), None), ((2.6, 2.5, 2.7), 1)])
def test_no_picture_marks_a_best_trial_where_none_is_better(tmp_path, losses, star):
    """Of equal scores it is the one that its loss puts first."""
    page = write_page([write_study(tmp_path / "s", [
        Made(params={"learning_rate": 1e-4 * (i + 1), "x": i}, value=0.25, curve=[(10, 0.1), (20, 0.25)],
             metrics={"eval/loss": losses[i]} if losses else {}) for i in range(3)],
        parameters={"learning_rate": LEARNING_RATE, "x": {"min": 0, "max": 3}}, metric="eval/exact_match",
        goal="maximize")])
    study = data_of(page)["studies"][0]
    assert study["best"] == star
    assert any(trace.get("name") == "best" for figure in study["figures"] for trace in figure["traces"]) == bool(losses)
    assert ("the better the bluer" in words_of(page)) == bool(losses)


def test_a_study_that_went_on_has_no_older_story_beside_its_page(tmp_path):
    trials = [Made(params={"learning_rate": 1e-4 * (i + 1)}, value=2.5 - 0.1 * i) for i in range(6)]
    directory = write_study(tmp_path / "s", trials[:2], parameters={"learning_rate": LEARNING_RATE})
    assert [path.name for path in write_page([directory]).parent.iterdir()] == ["index.html"]
    report = write_report([directory], notebook=False).parent
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    write_study(tmp_path / "more", trials, parameters={"learning_rate": LEARNING_RATE})
    (directory / "trials.jsonl").write_bytes((tmp_path / "more" / "trials.jsonl").read_bytes())

    write_page([directory])
    whole = analyse(read_study(directory))
    assert say.winner(whole) in words_of(report / "index.html")
    assert say.winner(whole) in (report / "summary.md").read_text()
    assert [row["trial"] for row in rows_of(report / "trials.csv")] == [f"{i:04d}" for i in range(6)]
    assert (report / "ranking.png").read_bytes() != before["ranking.png"]
    assert (report / "analysis.ipynb").read_bytes() == before["analysis.ipynb"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    directory = write_study(tmp_path / "study", numbers(1))
    (directory / "report").write_text("mine")
    with pytest.raises(StudyError, match=r"cannot write the report to .*report: it is a file; choose another "
                                         r"folder with report --out"):
        write_report([directory])


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    directory = write_study(tmp_path / "study", numbers(1))
    with pytest.raises(StudyError, match=r"cannot write /sys/report: .*(not permitted|denied|Read-only).*; choose "
                                         r"another folder with report --out$"):
        write_report([directory], out=Path("/sys/report"))  # where not even root makes a folder


@pytest.mark.parametrize("name", ["index.html", "trials.csv", "surfaces.csv", "analysis.ipynb", "summary.md"])
def test_a_file_of_a_report_that_cannot_be_written_leads_to_an_option_that_report_has(tmp_path, name):
    directory = write_study(tmp_path / "study", numbers(1))
    (directory / "report" / name).mkdir(parents=True)
    with pytest.raises(StudyError, match=r"cannot write .*; choose another folder with report --out$"):
        write_report([directory], notebook=False)


def test_a_full_disk_is_one_clear_line(tmp_path):
    directory = write_study(tmp_path / "study", numbers(1))
    (directory / "report").mkdir()
    first = f".index.html.{os.getpid()}.{threading.get_ident()}"  # the name it is first written under
    (directory / "report" / first).symlink_to("/dev/full")
    with pytest.raises(StudyError, match="no space left on the disk; free some"):
        write_report([directory])


def test_nothing_of_the_study_is_changed(tmp_path):
    directory = write_mixed_study(tmp_path / "study", 10)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    write_report([directory], notebook=False)

    assert {path: path.read_bytes() for path in before} == before
    assert report_directory([directory]) == directory / "report"
