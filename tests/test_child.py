"""A process of ours that answers in events, by real processes."""

import os
import queue
import signal
from pathlib import Path

import pytest

from kaggle_runner.events import Failed, Note
from kaggle_runner.run.child import ChildProcess, package_path
from tests.conftest import is_running, wait_for


@pytest.fixture
def start(tmp_path):
    """Start a module with the given text, which finds this package and itself."""
    children = []

    def begin(body):
        (tmp_path / "rooms").mkdir()
        (tmp_path / "rooms" / "__init__.py").write_text("")
        (tmp_path / "rooms" / "guest.py").write_text(body)
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": package_path({"PYTHONPATH": str(tmp_path)})}
        told = queue.SimpleQueue()
        children.append(ChildProcess("rooms.guest", environ=environ, take=told.put))
        return children[-1], told

    yield begin
    for child in children:
        child.kill()


def test_it_tells_events_and_then_that_it_is_gone(start):
    child, told = start("import sys\nfrom kaggle_runner.events import Note\n"
                        "for line in sys.stdin:\n    print(Note(text=line.strip()).to_json(), flush=True)\n")
    child.send("hello")
    assert told.get(timeout=100) == Note(text="hello")
    child.close(30)
    assert told.get(timeout=100) is None
    with pytest.raises(BrokenPipeError, match="closed"):
        child.send("too late")


def test_it_imports_nothing_from_the_current_folder(start, tmp_path, monkeypatch):
    (tmp_path / "here" / "rooms").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    for name in ("random.py", "rooms/__init__.py"):
        Path(name).write_text("raise SystemExit('of the user')\n")
    _, told = start("import random\nfrom kaggle_runner.events import Note\nprint(Note(text='mine').to_json())\n")
    assert told.get(timeout=100) == Note(text="mine")


def test_a_line_that_is_no_event_is_a_failure_that_shows_it_and_half_a_line_is_nothing(start):
    child, told = start("print('Segmentation fault')\n"
                        "print('{\"event\": \"dance\"}')\n"
                        "print('{\"event\": \"no', end='')\n")
    first, second = told.get(timeout=100), told.get(timeout=100)
    assert (first, type(second)) == (Failed(failure="error", message="not a line of JSON: 'Segmentation fault\\n'"),
                                     Failed)
    assert "no event is called 'dance'" in second.message
    assert told.get(timeout=100) is None
    assert child.wait() == 0


def test_one_that_does_not_end_is_killed_with_what_it_started(start):
    child, told = start("import subprocess, time\nfrom kaggle_runner.events import Note\n"
                        "other = subprocess.Popen(['sleep', '600'])\n"
                        "print(Note(text=str(other.pid)).to_json(), flush=True)\ntime.sleep(600)\n")
    other = int(told.get(timeout=100).text)
    child.close(0.1)
    assert child.wait() == -signal.SIGKILL
    assert wait_for(lambda: not is_running(other))


def test_signals_of_a_terminal_do_not_reach_it(start):
    child, _ = start("import time\ntime.sleep(600)\n")
    assert os.getsid(child.pid) == child.pid
    child.signal(signal.SIGTERM)
    assert child.wait(30) == -signal.SIGTERM
