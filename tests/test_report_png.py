from collections.abc import Mapping
from pathlib import Path

import pytest

from kaggle_runner.report_png import draw_overview
from kaggle_runner.study import Status, Study, Trial, TrialResult, read_study

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write_study(directory: Path, trials: Mapping[str, float | None], *, rows: int, baseline: float | None) -> None:
    """Write a study with the real writer: each trial complete with its value, or failed where that is none."""
    with Study.open_for_writing(directory, name="<b>made</b> $\\bad{$", sweep={"method": "random"}, metric="eval/loss",
                                goal="minimize", seed=0) as study:
        if baseline is not None:
            study.record_baseline(baseline)
        for number, (trial_id, value) in enumerate(trials.items()):
            study.record_start(Trial(id=trial_id, number=number, params={"learning_rate": 1e-4}), {})
            for step in range(1, rows + 1):
                study.log(trial_id, {"step": step, "train/loss": 3.0, "eval/loss": (value or 3.0) + 1 / step})
            study.record_end(TrialResult(id=trial_id, metric=value, steps=rows,
                                         status=Status.FAILED if value is None else Status.COMPLETE))


@pytest.mark.parametrize(
    ("trials", "rows", "baseline"),
    [({"0000": 2.5}, 5, 3.0), ({"0000": 2.5}, 0, None), ({"0000": None, "0001": None}, 0, None),
     ({"0000": None}, 3, 3.0), ({"0000": 2.5, "0001": 1e9, "0002": 2.6, "0003": 2.7}, 5, 3.0), ({}, 0, None)],
    ids=["one trial", "no history", "only failed", "failed after some steps", "one diverged", "no trial"])
def test_the_overview_is_a_picture_whatever_became_of_the_trials(tmp_path, trials, rows, baseline):
    write_study(tmp_path / "study", trials, rows=rows, baseline=baseline)

    draw_overview(read_study(tmp_path / "study"), tmp_path / "overview.png")

    assert (tmp_path / "overview.png").read_bytes().startswith(PNG_SIGNATURE)
