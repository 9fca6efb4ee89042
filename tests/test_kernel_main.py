"""What runs on the kernel around the command: stops, reasons, keys, studies that go on, and result.json."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kaggle_runner.cli.shared import print_study, tell_launcher
from kaggle_runner.errors import INTERRUPTED, StudyError
from kaggle_runner.files import FACTS_VARIABLE
from kaggle_runner.kernel.command import CommandEnd, reason_of, run_command
from kaggle_runner.kernel.main import continue_study
from kaggle_runner.kernel.result import Session, describe_session
from kaggle_runner.machine.environment import detect
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status, Trial, TrialResult

REPOSITORY = Path(__file__).parent.parent
KEY = "fedcba9876543210fedcba9876543210fedcba98"


def fake_command(directory, source):
    """Make a package whose command line is this source, and return the environment in which it is found."""
    package = directory / "package" / "kaggle_runner"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(source)
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(package.parent)}


def write_study(directory, *, trials=(), status=Status.COMPLETE):
    with Study.open_for_writing(directory, name="a", sweep={"method": "bayes"}, metric="eval/loss", goal="minimize",
                                seed=0) as study:
        for number in trials:
            trial = Trial(id=f"{number:04}", number=number, params={})
            study.record_start(trial, {})
            study.record_end(TrialResult(id=trial.id, status=status, metric=2.0))
    return directory


def test_output_is_passed_on_and_the_values_of_keys_are_not(tmp_path, capfd):
    environ = fake_command(tmp_path, f"import sys\nprint('key', '{KEY}')\n"
                                     f"print('error: no', '{KEY}', file=sys.stderr)\nsys.exit(3)\n")
    outcome = run_command([], tmp_path, environ, [KEY])
    assert outcome == CommandEnd(exit_status=3, reason="no ***")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("key ***\n", "error: no ***\n")


def test_a_command_that_does_not_close_in_time_was_interrupted_and_one_that_the_machine_kills_has_failed(tmp_path):
    deaf = fake_command(tmp_path / "deaf", "import time\ntime.sleep(60)\n")
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # inherited: it never hears of it
    try:
        asked = run_command([], tmp_path, deaf, stop_at=time.time() - 1, grace_s=0.2)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert asked == CommandEnd(exit_status=INTERRUPTED, reason="ended by SIGKILL; what it had recorded is kept")
    killed = fake_command(tmp_path / "killed", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert run_command([], tmp_path, killed) == CommandEnd(
        exit_status=137, reason="the command was ended by SIGKILL, as a machine does when its memory is full")


def test_a_stop_is_handed_on_and_the_command_may_close(tmp_path):
    environ = fake_command(tmp_path, "import signal, sys, time\n"
                                     "signal.signal(signal.SIGTERM, lambda *_: (print('closing'), sys.exit(130)))\n"
                                     "print('ready', flush=True)\ntime.sleep(60)\n")
    launcher = (f"import sys\nfrom pathlib import Path\nfrom kaggle_runner.kernel.command import run_command\n"
                f"print(run_command([], Path('.'), {environ!r}))\n")
    process = subprocess.Popen([sys.executable, "-c", launcher], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                               env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)})
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=250)
    assert output.startswith("closing\nCommandEnd(exit_status=130")


def test_a_command_that_does_not_keep_its_deadline_is_asked_to_end(tmp_path, capfd):
    environ = fake_command(tmp_path, "import signal, sys, time\n"
                                     "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
                                     "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])\ntime.sleep(60)\n")
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # inherited: it waits until it is expected
    try:
        assert run_command([], tmp_path, environ, stop_at=time.time() - 1).exit_status == 130
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert "the session is nearly over" in capfd.readouterr().err


@pytest.mark.parametrize("command", [["train", "best.yaml", "--full"], ["export", "study"], ["try", "study"]],
                         ids=lambda command: command[0])
def test_a_command_that_is_ended_while_it_still_imports_was_interrupted(tmp_path, command):
    """The clock's SIGTERM waits, blocked, until the command imports its first package."""
    (tmp_path / "click.py").write_text("import signal, time\n"
                                       "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])\ntime.sleep(60)\n")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, REPOSITORY)))}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        ended = run_command(command, tmp_path, environ, stop_at=time.time() - 1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert ended == CommandEnd(exit_status=INTERRUPTED, reason="interrupted before anything was begun")


def test_the_reason_is_our_error_or_the_last_line():
    assert reason_of(["step 1", "error: bad.yaml: 1 problem", "  metric.goal: must be 'minimize'", ""]) == \
        "bad.yaml: 1 problem\n  metric.goal: must be 'minimize'"
    assert reason_of(["Traceback (most recent call last):", "  File x", "RuntimeError: CUDA is gone", " "]) == \
        "RuntimeError: CUDA is gone"
    assert reason_of([]) == "it said nothing"


def test_the_longest_mounted_study_of_its_name_is_continued_and_can_be_written(tmp_path):
    inputs, told = tmp_path / "kaggle" / "input", []
    write_study(inputs / "notebooks" / "me" / "session-1" / "study", trials=[0])
    longest = write_study(inputs / "notebooks" / "me" / "session-2" / "study", trials=[0, 1])
    other = write_study(inputs / "notebooks" / "me" / "session-2" / "other", trials=[0, 1, 2, 3])
    for path in longest.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    study = tmp_path / "working" / "study"
    continue_study(inputs, study, told.append)
    assert told == [f"continue the study of {longest}"]
    assert len(read_study(study).records) == 2
    assert os.access(study / "trials.jsonl", os.W_OK)
    assert (study / "trials.jsonl").stat().st_mode & 0o200
    write_study(study, trials=[2])
    continue_study(inputs, study, told.append)
    continue_study(tmp_path / "absent", tmp_path / "other", told.append)
    assert len(told) == 1
    assert not (tmp_path / "other").exists()
    continue_study(other.parent, tmp_path / "new", told.append)
    assert told[1:] == ["new begins anew: what is mounted has other names, other, study"]
    assert not (tmp_path / "new").exists()
    with pytest.raises(StudyError, match=r"no study new is mounted under .*, only other, study: write one of these "
                                         "names, or name the kernel that trained it, such as --kernel"):
        continue_study(other.parent, tmp_path / "new", told.append, needed=True)


@pytest.mark.parametrize("arguments", [["export", "studies/mine-final"], ["sweep", "x.yaml", "--study",
                                                                          "studies/mine-final"]])
def test_a_result_counts_the_study_that_was_asked_for_alone(tmp_path, arguments):
    environment = detect({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "PATH": ""}, tmp_path)
    session = Session(arguments=arguments, working=tmp_path, environment=environment, started=time.time())
    write_study(tmp_path / "studies" / "mine", trials=[0, 1])
    none = describe_session(session, CommandEnd(exit_status=1), {})
    assert (none["trials"], none["best"], none["studies"]) == ({}, None, {})
    write_study(tmp_path / "studies" / "mine-final", trials=[2])
    one = describe_session(session, CommandEnd(exit_status=0), {})
    assert (one["trials"], list(one["studies"])) == ({"complete": 1}, ["studies/mine-final"])


def test_a_result_says_what_came_out_and_whether_there_is_more_to_do(tmp_path):
    (tmp_path / "kaggle" / "working").mkdir(parents=True)
    write_study(tmp_path / "kaggle" / "working" / "study", trials=[0])
    environment = detect({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "PATH": ""}, tmp_path)
    session = Session(arguments=["agent", "x"], working=tmp_path / "kaggle" / "working", environment=environment,
                      started=time.time() - 7)
    with session.phase("command"):
        pass
    done = describe_session(session, CommandEnd(exit_status=0), {"reason": "the sweep is finished", "ended": "done"})
    assert (done["verdict"], done["continue"], done["reason"]) == ("done", False, "the sweep is finished")
    assert done["best"]["metric"] == done["studies"]["study"]["best"]["metric"] == 2.0
    assert (done["trials"], done["gpus"], done["gpu_quota_hours"]) == ({"complete": 1}, [], 0.0)
    assert 7 <= done["seconds"] < 60
    assert list(done["seconds_by_phase"]) == ["command"]
    cut = describe_session(session, CommandEnd(exit_status=130, reason="Aborted"), {"reason": "at its deadline"})
    assert (cut["verdict"], cut["continue"], cut["reason"]) == ("unfinished", True, "at its deadline")
    write_study(session.working / "study", trials=[1], status=Status.PREEMPTED)
    preempted = describe_session(session, CommandEnd(exit_status=0), {})
    assert (preempted["unfinished_trials"], preempted["continue"]) == (1, True)
    assert preempted["trials"] == {"complete": 1, "preempted": 1}
    (session.working / "study" / "trials.jsonl").write_text("nonsense\n")
    failed = describe_session(session, CommandEnd(exit_status=137, reason="killed"), {})
    assert (failed["verdict"], failed["exit_status"], failed["reason"]) == ("failed", 137, "killed")
    assert "is damaged" in failed["studies"]["study"]["error"]
    json.dumps(failed)


def test_a_page_that_cannot_be_written_is_lost_with_the_reason_and_the_work_is_done(tmp_path, monkeypatch, capsys):
    """As on a disk that its own checkpoints have filled."""
    study = write_study(tmp_path / "study", trials=[0])
    (study / "report").write_text("in its place")
    monkeypatch.setenv(FACTS_VARIABLE, str(tmp_path / "facts.json"))
    assert print_study(read_study(study), "done") is None
    tell_launcher("done", 0)
    (lost,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"no page was written: cannot write .*report.*; .*", lost)
    assert json.loads((tmp_path / "facts.json").read_text()) == {"lost": [lost], "reason": "done", "ended": "done"}


@pytest.mark.parametrize(("package", "text", "why"), [
    ("PIL", "raise ImportError('lib.so: undefined symbol: jpeg')", "ImportError: lib.so: undefined symbol: jpeg"),
    ("matplotlib", "raise SystemExit('needs a screen')", "SystemExit: needs a screen"),
])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_page_that_a_broken_package_costs_is_lost_with_the_reason(tmp_path, package, text, why, hidden):
    """Also where the package was hidden, from a process that did not need it."""
    (tmp_path / "packages" / package).mkdir(parents=True)
    (tmp_path / "packages" / package / "__init__.py").write_text(text + "\n")
    study = write_study(tmp_path / "study", trials=[0])
    code = ("import sys\nfrom pathlib import Path\n"
            "from kaggle_runner.cli.shared import print_study, tell_launcher\n"
            "from kaggle_runner.machine.broken import find_broken, hide_packages\n"
            f"if {hidden}:\n    try:\n        import matplotlib\n    except (ImportError, SystemExit) as error:\n"
            "        find_broken(error).hide_from_children()\n    hide_packages()\n"
            "from kaggle_runner.study.journal import read_study\n"
            f"assert print_study(read_study(Path({str(study)!r})), 'done') is None\ntell_launcher('done', 0)\n")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path / "packages", REPOSITORY))),
               FACTS_VARIABLE: str(tmp_path / "facts.json")}
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=250)
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(rf"no page was written: {package}( [\d.]+)? cannot be imported \({re.escape(why)}\); run: pip "
                        rf"install --force-reinstall --no-deps (pillow|{package})==[\d.]+\n", ran.stderr), ran.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    session = Session(arguments=[], environment=detect({}, tmp_path), started=time.time(), working=tmp_path)
    result = describe_session(session, CommandEnd(exit_status=0), facts)
    assert (result["lost"], result["reason"]) == ([ran.stderr.strip()], "done")
