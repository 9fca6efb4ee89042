"""What nobody runs is never said to run: trials of killed processes, in `show`, its JSON and the report's page."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggle_runner.cli.look import next_lines
from kaggle_runner.cli.table import trial_table
from kaggle_runner.report.lab.write import watch_any_report
from kaggle_runner.report.write import write_page
from kaggle_runner.study.journal import read_study
from kaggle_runner.study.lock import ELSEWHERE, is_in_use
from kaggle_runner.study.page_mark import is_current

HOLDER = """
import sys, time
from pathlib import Path
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Trial
sweep = {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"},
         "parameters": {"learning_rate": {"values": [0.1, 0.2]}}}
with Study.open_for_writing(Path(sys.argv[1]), name="demo", sweep=sweep, metric="eval/loss", goal="minimize", seed=0,
                            shared=True) as study:
    study.record_start(Trial(id=sys.argv[2], number=int(sys.argv[2]), params={"learning_rate": 0.1}), {})
    print("there", flush=True)
    time.sleep(600)
"""
WORDS = "stopped without an end; the next start goes on with it"


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that share a study and run a trial each."""
    started = []
    for trial in ("0", "1"):
        started.append(subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "study"), trial],
                                        stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "there\n"
    yield started
    for process in started:
        process.kill()
        process.communicate()


def words(study: Path) -> list[str]:
    return [row["status"] for row in read_study(study).as_dict()["trials"]]


def test_a_killed_trial_is_stopped_and_the_one_beside_it_runs(
    tmp_path: Path, holders: list[subprocess.Popen[str]]
) -> None:
    study = tmp_path / "study"
    pages = watch_any_report([study], poll_s=0.01)
    assert ", 2 running when this page was made" in next(pages).read_text()
    assert words(study) == ["running", "running"]
    assert is_in_use(study), "also by those who share it"
    assert next_lines(read_study(study))[0] == ("running", "a process is adding to it")

    holders[0].kill()  # not waited for: a zombie runs nothing
    page = next(pages)
    assert ", 1 running, 1 stopped when this page was made" in page.read_text(), "the journal has not grown"
    assert words(study) == ["stopped", "running"]
    assert re.search(rf"stopped +0: {WORDS}", trial_table(read_study(study), width=None))

    holders[1].kill()
    holders[1].wait()
    assert words(study) == ["stopped", "stopped"]
    assert not is_in_use(study)
    assert not is_current(page, study), "one that shows what ran"
    assert next_lines(read_study(study))[0] == ("open", "2 trials cut off")
    page = write_page([study])
    assert "running" not in re.sub(r"(?s)<(script|style).*?</\1>", "", page.read_text()), "in what is read"
    assert is_current(page, study)


def test_a_trial_of_another_machine_runs_while_the_study_is_held(
    tmp_path: Path, holders: list[subprocess.Popen[str]]
) -> None:
    """Only its holder can be asked; of a copy nobody can, and W&B and a database say for themselves."""
    study, copy = tmp_path / "study", tmp_path / "copy"
    lines = [json.loads(line) for line in (study / "trials.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("digest")
        if "by" in line:
            line["by"] |= {"host": "another"}
    (study / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert words(study) == ["running", "running"]
    shutil.copytree(study, copy)
    assert words(copy) == ["stopped", "stopped"]
    lines[1]["by"] = ELSEWHERE
    (copy / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert words(copy) == ["running", "stopped"]
