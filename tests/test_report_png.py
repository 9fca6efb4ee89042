import multiprocessing

import matplotlib.image
import pytest

from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.page import page_figures
from kaggle_runner.report.png import draw_overview
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import OPEN, OUT, STOPPED, Status
from tests.made_studies import Made, loss_curve, write_confirmed, write_mixed_study, write_study

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FAILED = Made(status=Status.FAILED, reason="loss is nan")


@pytest.mark.parametrize(
    ("trials", "baseline"),
    [([Made(value=2.5, curve=loss_curve(2.5))], 3.0), ([Made(value=2.5)], None), ([FAILED, FAILED], None),
     ([Made(status=Status.FAILED, curve=loss_curve(9.0))], 3.0),
     ([Made(value=value, curve=loss_curve(value)) for value in (2.5, 1e9, 2.6, 2.7)], 3.0), ([], None)],
    ids=["one trial", "no history", "only failed", "failed after some steps", "one diverged", "no trial"])
def test_the_overview_is_a_picture_whatever_became_of_the_trials(tmp_path, trials, baseline):
    directory = write_study(tmp_path / "study", trials, name="<b>made</b> $\\bad{$", baseline=baseline)

    draw_overview(read_study(directory), tmp_path / "overview.png")

    assert (tmp_path / "overview.png").read_bytes().startswith(PNG_SIGNATURE)


def write_given_out(directory, trials):
    write_study(directory, trials)
    with Study.open_for_writing(directory, name="made", sweep=read_study(directory).info.sweep, metric="eval/loss",
                                goal="minimize", seed=0) as study:
        study.append({"event": "run", "trial": "0001", "run": "a1b2c3d4"})


@pytest.mark.parametrize("word", [*map(str, Status), *OPEN])
def test_every_status_has_a_mark_in_the_picture(tmp_path, word):
    status = None if word in OPEN else Status(word)
    trials = [Made(value=2.5, curve=loss_curve(2.5)), Made(status=status, curve=loss_curve(2.6)[:3])]
    directory = tmp_path / "study"
    if word in (STOPPED, OUT):  # nobody runs a trial whose process is gone; an agent of W&B may have it
        made = multiprocessing.get_context("spawn").Process(
            target=write_study if word == STOPPED else write_given_out, args=(directory, trials))
        made.start()
        made.join()
    else:
        write_study(directory, trials)
    snapshot = read_study(directory)
    assert [record.status_word for record in snapshot.records] == ["complete", word]
    draw_overview(snapshot, tmp_path / "overview.png")
    assert (tmp_path / "overview.png").read_bytes().startswith(PNG_SIGNATURE)


def test_what_is_said_of_a_trial_that_is_out_holds_whether_its_search_is_alive_or_away(tmp_path):
    directory = tmp_path / "study"
    made = multiprocessing.get_context("spawn").Process(
        target=write_given_out, args=(directory, [Made(value=2.5), Made(status=None)]))
    made.start()
    made.join()
    away = read_study(directory)
    with Study.open_for_writing(directory, name="made", sweep=away.info.sweep, metric="eval/loss", goal="minimize",
                                seed=0) as study:
        alive = study.snapshot()
    assert [snapshot.records[1].reason for snapshot in (away, alive)] == 2 * [
        "given out as run a1b2c3d4; agents go on with it, and its search takes its end in"]


def test_every_kind_of_trial_is_in_the_overview(tmp_path):
    draw_overview(read_study(write_mixed_study(tmp_path / "study", 20)), tmp_path / "overview.png")
    assert len((tmp_path / "overview.png").read_bytes()) > 20_000


def test_no_word_of_the_headline_leaves_the_picture(tmp_path):
    trials = [Made(value=3.682 + 0.001 * i, curve=loss_curve(3.682 + 0.001 * i)) for i in range(8)]
    draw_overview(read_study(write_study(tmp_path / "study", trials, name="demo-of-long-name", baseline=4.0212)),
                  tmp_path / "overview.png")
    pixels = matplotlib.image.imread(tmp_path / "overview.png")[:45, :, :3]
    assert pixels.min() < 0.5
    assert pixels[:, -6:].min() == 1.0


def test_the_band_of_the_best_so_far_is_whole(tmp_path):
    analysis = analyse(read_study(write_confirmed(tmp_path / "s")))
    for figure in (one for one in page_figures(analysis, None) if one.key in ("hours", "values")):
        low, high = figure.layout["yaxis"]["range"]
        edges = [value for trace in figure.traces if trace.get("hoverinfo") == "skip" for value in trace["y"]]
        assert low < min(edges) < max(edges) < high, figure.key
