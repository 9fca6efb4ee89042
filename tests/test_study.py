"""The journal and its directory: what is finished stays, whatever happens to the process or the disk."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from kaggle_runner.cli.main import cli
from kaggle_runner.errors import StudyError
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from tests.made_studies import Made, write_study

SWEEP = {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"},
         "parameters": {"learning_rate": {"values": [0.1, 0.2]}, "seed": {"value": 1}}}


def open_study(directory, *, sweep=SWEEP, seed=None, goal="minimize"):
    return Study.open_for_writing(directory, name="demo", sweep=sweep, metric="eval/loss", goal=goal, seed=seed)


def a_trial(number, **params):
    return Trial(id=f"{number:04d}", number=number, params=params, origin="random")


def a_result(number, metric, status=Status.COMPLETE):
    return TrialResult(id=f"{number:04d}", status=status, metric=metric, steps=4, evaluations=((4, 1.5),))


def test_what_was_recorded_is_read_back(tmp_path):
    with open_study(tmp_path / "s", seed=7) as study:
        study.record_baseline(2.5)
        study.record_start(a_trial(0, learning_rate=0.1), {"learning_rate": 0.1})
        study.log("0000", {"step": 1, "train/loss": 3.0})
        study.record_end(a_result(0, 1.5))
    snapshot = read_study(tmp_path / "s")
    assert (snapshot.info.seed, snapshot.info.goal, snapshot.baseline) == (7, "minimize", 2.5)
    assert snapshot.records[0].trial == a_trial(0, learning_rate=0.1)
    assert snapshot.records[0].result == a_result(0, 1.5)
    assert snapshot.history("0000") == [{"step": 1, "train/loss": 3.0}]
    assert json.loads((tmp_path / "s/trials/0000/config.json").read_text()) == {"learning_rate": 0.1}


def test_the_best_is_the_best_complete_trial_and_the_earlier_of_equals(tmp_path):
    with open_study(tmp_path) as study:
        for number, (metric, status) in enumerate([(0.5, Status.PRUNED), (1.0, Status.COMPLETE), (1.0, Status.COMPLETE),
                                                   (None, Status.FAILED), (1.2, Status.COMPLETE)]):
            study.record_start(a_trial(number), {})
            study.record_end(a_result(number, metric, status))
        assert study.snapshot().best.trial.number == 1


def test_the_best_of_a_maximised_metric_is_the_largest(tmp_path):
    with open_study(tmp_path, goal="maximize") as study:
        for number, metric in enumerate([1.0, 3.0, 2.0]):
            study.record_start(a_trial(number), {})
            study.record_end(a_result(number, metric))
        assert study.snapshot().best.trial.number == 1


def test_a_restarted_trial_counts_its_attempts_and_loses_its_old_result(tmp_path):
    with open_study(tmp_path) as study:
        study.record_start(a_trial(0), {})
        study.record_end(a_result(0, None, Status.PREEMPTED))
        study.record_start(a_trial(0), {})
        record = study.snapshot().records[0]
    assert (record.attempts, record.result) == (2, None)


def test_the_run_of_a_trial_is_that_of_its_last_start_and_none_that_is_over(tmp_path):
    """A trial that was started anew, and not given out before its process was killed, is not out."""
    with open_study(tmp_path) as study:
        for number, run in enumerate(["aaaa", "bbbb", "cccc"]):
            study.record_start(a_trial(number), {})
            study.append({"event": "run", "trial": f"{number:04d}", "run": run})
        study.record_start(a_trial(0), {})
        study.append({"event": "run", "trial": "", "run": "bbbb"})
        study.record_start(a_trial(2), {})
        study.append({"event": "run", "trial": "0002", "run": "dddd"})
        snapshot = study.snapshot()
    assert [record.run for record in snapshot.records] == ["", "", "dddd"]
    assert snapshot.runs == {"aaaa": "", "bbbb": "", "cccc": "", "dddd": "0002"}


def test_a_torn_last_line_is_dropped_and_the_rest_stays(tmp_path):
    with open_study(tmp_path) as study:
        study.record_start(a_trial(0), {})
        study.record_end(a_result(0, 1.0))
    with open(tmp_path / "trials.jsonl", "a") as journal:
        journal.write('{"event": "start", "trial": {"id": "00')
    assert len(read_study(tmp_path).finished) == 1
    with open_study(tmp_path) as study:
        study.record_start(a_trial(1), {})
    assert [record.trial.id for record in read_study(tmp_path).records] == ["0000", "0001"]


def test_damage_in_the_middle_is_named_with_its_line(tmp_path):
    with open_study(tmp_path) as study:
        study.record_baseline(1.0)
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    (tmp_path / "trials.jsonl").write_text("\n".join([lines[0], lines[1][:9], lines[1]]) + "\n")
    with pytest.raises(StudyError, match="line 2, is damaged; restore the file"):
        read_study(tmp_path)


def test_the_history_can_be_cut_back_to_a_step(tmp_path):
    with open_study(tmp_path) as study:
        for step in (1, 2, 3):
            study.log("0000", {"step": step})
        assert study.cut_history("0000", 2) == [{"step": 1}, {"step": 2}]
        assert study.snapshot().history("0000") == [{"step": 1}, {"step": 2}]


def test_a_comment_in_the_sweep_file_or_another_run_cap_does_not_end_a_study(tmp_path):
    with open_study(tmp_path):
        pass
    with open_study(tmp_path, sweep={**SWEEP, "run_cap": 9, "description": "more"}):
        pass


def test_a_study_of_another_sweep_file_is_refused_with_what_differs(tmp_path):
    with open_study(tmp_path) as study:
        study.record_start(a_trial(0), {})
        study.record_end(a_result(0, 1.5))
    other = {**SWEEP, "method": "bayes", "parameters": {**SWEEP["parameters"], "seed": {"value": 2}}}
    with (pytest.raises(StudyError, match=r"another sweep file: method, parameters\.seed differ"),
          open_study(tmp_path, sweep=other)):
        pass


def test_a_study_of_another_configuration_is_refused_with_both_values_and_no_word_of_sweeps(tmp_path):
    """As `train --epochs 2` after `train --epochs 1`, which has no --adopt."""
    def one(**values):
        return {"method": "grid", "metric": {"name": values.pop("metric", "eval/loss"), "goal": "minimize"},
                "parameters": {name: {"value": value} for name, value in values.items()}}

    with open_study(tmp_path, sweep=one(num_train_epochs=1, dataset="a.jsonl", seed=3)) as study:
        study.record_start(a_trial(0), {})
        study.record_end(a_result(0, 1.5))
    with (pytest.raises(StudyError, match=r" was trained with other values: metric eval/loss then, eval/bits_per_byte "
                                          r"now; num_train_epochs 1 then, 2 now; seed 3 then, not given now; choose "
                                          r"another directory with --study, or give those of then$"),
          open_study(tmp_path, sweep=one(num_train_epochs=2, dataset="a.jsonl", metric="eval/bits_per_byte"))):
        pass


@pytest.mark.parametrize(("left", "is_anew"), [("nothing", True), ("a refusal", True), ("a row", False),
                                               ("a lesson", False), ("a weight", False)])
def test_a_study_in_which_nothing_was_trained_begins_anew_with_the_mended_file(tmp_path, left, is_anew):
    """Rows that were not there, a model that was misspelled: the file was wrong, and nothing of it counts."""
    with open_study(tmp_path, seed=3) as study:
        study.start_session({"shares": 2})
        if left == "a lesson":
            study.append({"event": "known", "trials": []})
        elif left != "nothing":
            study.record_start(a_trial(0), {})
            study.record_end(TrialResult(id="0000", status=Status.FAILED, metric=None, reason="no such module"))
            (tmp_path / "optuna.journal").write_text("of the file as it was")
        if left == "a row":
            study.log("0000", {"step": 1})
        if left == "a weight":
            (tmp_path / "trials" / "0000" / "model.pt").touch()
    mended = {**SWEEP, "parameters": {**SWEEP["parameters"], "seed": {"value": 2}}}
    if not is_anew:
        with (pytest.raises(StudyError, match=r"another sweep file: parameters\.seed differ"),
              open_study(tmp_path, sweep=mended)):
            pass
        return
    with open_study(tmp_path, sweep=mended) as study:
        found = study.snapshot()
    assert (found.info.sweep, found.info.seed, found.records, found.sessions) == (mended, 0, (), ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["environment.json", "study.lock", "trials.jsonl"]


def test_another_seed_is_refused_and_no_seed_is_the_studys_own(tmp_path):
    with open_study(tmp_path, seed=3) as study:
        study.log("0000", {"step": 1})
    with open_study(tmp_path) as study:
        assert study.snapshot().info.seed == 3
    with pytest.raises(StudyError, match="made with seed 3, not 4"), open_study(tmp_path, seed=4):
        pass


def test_a_study_in_use_is_refused_with_the_process(tmp_path):
    with (open_study(tmp_path), pytest.raises(StudyError, match=f"in use by process {os.getpid()}"),
          open_study(tmp_path)):
        pass


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path):
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from kaggle_runner.study.journal import Study
        with Study.open_for_writing(Path({str(tmp_path)!r}), name="demo", sweep={SWEEP!r}, metric="eval/loss",
                                    goal="minimize", seed=None):
            print("locked", flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StudyError, match=f"in use by process {holder.pid}"), open_study(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    with open_study(tmp_path):
        pass


def test_a_full_disk_is_one_message_and_loses_nothing_that_finished(tmp_path):
    with open_study(tmp_path) as study:
        study.record_start(a_trial(0), {})
        study.record_end(a_result(0, 1.0))
        before = (tmp_path / "trials.jsonl").read_bytes()
        (tmp_path / "trials" / "0001").mkdir()
        (tmp_path / "trials" / "0001" / "history.jsonl").symlink_to("/dev/full")
        with pytest.raises(StudyError, match=r"no space left on the disk; free some .* finished trials are kept"):
            study.log("0001", {"step": 1})
    assert (tmp_path / "trials.jsonl").read_bytes() == before


def test_a_directory_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"cannot use .*file as a study: it is a file"), open_study(tmp_path / "file"):
        pass
    with pytest.raises(StudyError, match="cannot write /proc/study"), open_study(Path("/proc/study")):
        pass


@pytest.mark.parametrize("part", ["trials.jsonl", "report", "trials/0000", "best.yaml"])
def test_a_part_of_a_study_leads_to_that_study(tmp_path, monkeypatch, part):
    """As typed, and from within the study too; not to all the others that are here."""
    for name in ("meant", "other"):
        write_study(tmp_path / "studies" / name, [Made(value=1.0)])
    (tmp_path / "studies" / "meant" / "report").mkdir()
    monkeypatch.chdir(tmp_path)
    for command in (["show"], ["report"], ["archive", "--reason", "r"]):
        ended = CliRunner().invoke(cli, [*command, f"studies/meant/{part}"])
        assert str(ended.exception) == (
            f"studies/meant/{part} is no study itself; give the one that it is in: studies/meant")
    monkeypatch.chdir(tmp_path / "studies" / "meant" / "report")
    with pytest.raises(StudyError, match=rf"^\. is no study itself; .* in: {tmp_path}/studies/meant$"):
        read_study(Path())


def test_reading_what_is_no_study_says_so(tmp_path):
    with pytest.raises(StudyError, match=r"is not a study: it has no trials\.jsonl"):
        read_study(tmp_path)
    (tmp_path / "trials.jsonl").write_text('{"event": "baseline", "value": 1}\n')
    with pytest.raises(StudyError, match="does not begin with a study"):
        read_study(tmp_path)


def test_not_a_number_never_reaches_the_journal(tmp_path):
    with open_study(tmp_path) as study:
        with pytest.raises(ValueError, match="Out of range float"):
            study.record_baseline(float("nan"))
        assert study.snapshot().baseline is None


def test_a_line_that_is_no_event_is_damage(tmp_path):
    with open_study(tmp_path / "study"):
        pass
    with open(tmp_path / "study" / "trials.jsonl", "a") as journal:
        journal.write("[1]\n")
    with pytest.raises(StudyError, match="line 2, is damaged; restore the file"):
        read_study(tmp_path / "study")
