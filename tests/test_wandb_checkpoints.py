"""Checkpoints off the machine: sent while a trial runs, fetched where its run comes back; with the real W&B client."""


import re
import subprocess
from pathlib import Path

import pytest

from kaggle_runner.errors import ConfigError
from kaggle_runner.files import json_lines, line_of
from kaggle_runner.wandb.checkpoints import EVERY_VARIABLE, CheckpointUploads
from tests.standins.wandb_client import MISSING, PYTHON
from tests.standins.wandb_server import WandbServer

pytestmark = [pytest.mark.skipif(MISSING, reason="wandb is not installed"), pytest.mark.timeout(600)]

AGENT = """
import os, sys, time
from pathlib import Path
import wandb
from kaggle_runner.study.trial import Trial
from kaggle_runner.study.journal import Study
from kaggle_runner.wandb.checkpoints import CheckpointUploads, fetch_checkpoint
from kaggle_runner.wandb.run import RunLog

log = RunLog.open(lambda: False)
with Study.open_for_writing(Path(sys.argv[1]), name="a", sweep={}, metric="eval/loss", goal="minimize",
                            seed=0) as study:
    fetch_checkpoint(log, study, print, lambda: False)
    study.record_start(Trial(id=log.id, number=0, params={}), {})
    uploads = CheckpointUploads(study, os.environ, print)
    folder = study.trial_directory(log.id) / "checkpoint"
    for step in map(int, sys.argv[3:]):
        log.log({"step": step, "train/loss": 1.0})
        study.log(log.id, {"step": step, "train/loss": 1.0})
        folder.mkdir(exist_ok=True)
        (folder / f"step-{step:08d}.pt").write_text(f"checkpoint of step {step}")
        if sys.argv[2] == "ahead":  # the worker does not wait until its agent has heard of a checkpoint
            (folder / f"step-{step + 1:08d}.pt").write_text("checkpoint whose rows are still to come")
        uploads.take(log, step)
        while not Path(f"go-{step}").exists():
            time.sleep(0.05)
    if sys.argv[2] == "ended":
        uploads.end(log)
    else:
        log.mark_preempting()
    log.finish(0 if sys.argv[2] == "ended" else 75, (), lambda: False)
"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "agent.py").write_text(AGENT)
    with WandbServer() as server:
        sites = Site(server, tmp_path)
        yield sites
        sites.leave()
        assert server.state.unknown == []


class Site:
    """Processes that open the same run, each with a study of its own, as on machines of their own."""

    def __init__(self, server: WandbServer, directory: Path) -> None:
        self.server, self.directory = server, directory
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, study: str, ending: str, *steps: int, every_s: str = "0") -> subprocess.Popen[str]:
        environ = {**self.server.environment(self.directory), "WANDB_RUN_ID": "abcd1234", "WANDB_PROJECT": "demo",
                   "PYTHONPATH": str(Path(__file__).parent.parent), "WANDB_SILENT": "true",
                   "KAGGLE_RUNNER_UPLOAD_EVERY_S": every_s}
        self._processes.append(subprocess.Popen(
            [PYTHON, "agent.py", study, ending, *map(str, steps)], cwd=self.directory, env=environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        return self._processes[-1]

    def finish(self, process: subprocess.Popen[str]) -> str:
        output = process.communicate(timeout=250)[0]
        assert process.returncode == 0, output
        return output

    def wait_for_file(self, name: str, content: str) -> None:
        self.server.wait_for(lambda state: state.runs and content.encode() in self.server.run(0).files.get(name, b""),
                             why=name)

    def go(self, step: int) -> None:
        (self.directory / f"go-{step}").touch()

    def leave(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


def test_a_run_that_comes_back_on_another_machine_finds_the_checkpoint_that_was_sent_while_it_ran(site):
    first = site.start("one", "preempted", 10, 20)
    site.wait_for_file("kept/checkpoint.pt", "checkpoint of step 10")
    site.wait_for_file("kept/trials.jsonl", '"event": "start"')
    site.go(10)
    site.wait_for_file("kept/checkpoint.pt", "checkpoint of step 20")
    site.go(20)
    site.finish(first)
    kept = {name for name in site.server.run(0).files if name.startswith("kept/")}
    assert kept == {"kept/checkpoint.pt", "kept/history.jsonl", "kept/trials.jsonl"}, "written over, not added to"

    site.go(30)
    output = site.finish(site.start("two", "ended", 30))
    assert "fetched the checkpoint of trial abcd1234 from W&B\n" in output
    trial = site.directory / "two" / "trials" / "abcd1234"
    assert (trial / "checkpoint" / "step-00000020.pt").read_text() == "checkpoint of step 20"
    assert [line.count('"step": ') for line in (trial / "history.jsonl").read_text().splitlines()] == [1, 1, 1]
    assert b"the trial has ended" in site.server.run(0).files["kept/checkpoint.pt"], "frees the space"


def test_a_checkpoint_is_sent_with_the_rows_before_it_though_its_worker_is_ahead(site):
    first = site.start("one", "ahead", 10)
    site.server.wait_for(lambda state: state.runs and "kept/trials.jsonl" in site.server.run(0).files)
    site.wait_for_file("kept/checkpoint.pt", "checkpoint")
    site.go(10)
    site.finish(first)
    assert site.server.run(0).files["kept/checkpoint.pt"] == b"checkpoint of step 10"
    assert "fetched the checkpoint" in site.finish(site.start("two", "preempted", every_s=""))
    trial = site.directory / "two" / "trials" / "abcd1234"
    assert [path.name for path in (trial / "checkpoint").iterdir()] == ["step-00000010.pt"]


def test_what_was_damaged_on_the_server_is_not_gone_on_with(site):
    """A byte flipped in, and the end cut off, each file; a checkpoint without its history; a step of no number."""
    first = site.start("one", "preempted", 10, 20)
    site.wait_for_file("kept/checkpoint.pt", "checkpoint of step 10")
    files = site.server.run(0).files
    site.server.wait_for(lambda state: "kept/history.jsonl" in files)
    before = files["kept/history.jsonl"]
    site.go(10)
    site.wait_for_file("kept/checkpoint.pt", "checkpoint of step 20")
    site.go(20)
    site.finish(first)
    checkpoint, history = "kept/checkpoint.pt", "kept/history.jsonl"
    lines = files[history].splitlines(keepends=True)
    assert len(lines) == 3
    (site.directory / "sent.jsonl").write_bytes(files[history])
    *_, sent = json_lines(site.directory / "sent.jsonl")
    whole, outputs = dict(files), []
    for number, damage in enumerate([
            {checkpoint: whole[checkpoint].replace(b"20", b"21")}, {checkpoint: whole[checkpoint][:-1]},
            {history: whole[history].replace(b"1.0", b"1.5", 1)}, {history: b"".join(lines[:2])}, {history: before},
            {history: b""},
            *({history: b"".join(lines[:2]) + line_of({**sent, "step": step}).encode()} for step in ("20", None)), {}]):
        files.update(whole | damage)
        outputs.append(site.finish(site.start(f"again-{number}", "preempted", every_s="")))
    said = "could be fetched from W&B (it is damaged there, or its history is another one's): it starts over\n"
    assert [said in output for output in outputs] == [True] * 8 + [False]
    assert "fetched the checkpoint" in outputs[-1]
    assert [len(list((site.directory / f"again-{number}").rglob("*.pt"))) for number in range(9)] == [0] * 8 + [1]


def test_the_newer_of_two_checkpoints_is_gone_on_with(site):
    """A trial that went on at another machine comes back here, where an older checkpoint of it lies."""
    for step in (10, 20, 30):
        site.go(step)
    site.finish(site.start("one", "preempted", 10))
    assert "fetched the checkpoint" in site.finish(site.start("two", "preempted", 20))
    files = site.server.run(0).files
    kept = dict(files)
    said = "trial abcd1234 comes back, and no newer checkpoint of it could be fetched from W&B ("
    here = "): it goes on from the one of step 10 that is here\n"
    checkpoint, history = "kept/checkpoint.pt", "kept/history.jsonl"
    for damage in ({checkpoint: b"checkpoint of step 21"}, {history: kept[history][:-1]}, {history: b""}):
        files.update(kept | damage)
        output = site.finish(site.start("one", "preempted", every_s=""))
        assert f"{said}it is damaged there, or its history is another one's{here}" in output
    files.update(kept)
    files.pop(checkpoint)
    assert f"{said}it has none{here}" in site.finish(site.start("one", "preempted", every_s=""))
    files.update(kept)
    site.server.fault(match="download", status=404)
    output = site.finish(site.start("one", "preempted", every_s=""))
    assert said in output
    assert here in output
    site.server.heal()
    assert names_of(site.directory / "one") == ["step-00000010.pt"]

    assert "fetched the checkpoint of trial abcd1234 from W&B\n" in site.finish(site.start("one", "preempted", 30))
    trial = site.directory / "one" / "trials" / "abcd1234"
    assert names_of(site.directory / "one") == ["step-00000010.pt", "step-00000020.pt", "step-00000030.pt"]
    assert (trial / "checkpoint" / "step-00000020.pt").read_text() == "checkpoint of step 20"
    assert [row["step"] for row in json_lines(trial / "history.jsonl")] == [10, 20, 30]


def test_a_checkpoint_as_new_as_that_on_the_server_is_gone_on_with_and_nothing_said(site):
    """And so is one of a run that had sent none."""
    for step in (10, 20):
        site.go(step)
    site.finish(site.start("one", "preempted", 10, every_s=""))
    assert not site.finish(site.start("one", "preempted", every_s=""))
    site.finish(site.start("one", "preempted", 20))
    site.server.run(0).files["kept/checkpoint.pt"] = b"nobody looks at it"
    before = site.server.state.ops.count("download")
    assert not site.finish(site.start("one", "preempted", every_s=""))
    assert site.server.state.ops.count("download") == before + 1, "the history alone, which says of which step it is"
    assert names_of(site.directory / "one") == ["step-00000010.pt", "step-00000020.pt"]


def names_of(study: Path) -> list[str]:
    return sorted(path.name for path in study.glob("trials/abcd1234/checkpoint/*"))


def test_nothing_is_sent_where_nobody_asked_for_it_and_a_run_without_starts_over(site):
    for step in (10, 20):
        site.go(step)
    site.finish(site.start("one", "preempted", 10, every_s=""))
    assert not [name for name in site.server.run(0).files if name.startswith("kept/")]
    output = site.finish(site.start("two", "ended", 20, every_s="3600"))
    assert "no checkpoint of it could be fetched from W&B (it has none): it starts over\n" in output
    assert names_of(site.directory / "two") == ["step-00000020.pt"]


@pytest.mark.parametrize("every_s", ["soon", "nan", "-1", "inf"])
def test_what_is_no_number_of_seconds_is_refused(every_s):
    with pytest.raises(ConfigError, match=re.escape(f"is {every_s!r}, and must be a number of seconds, 0 or more")):
        CheckpointUploads(None, {EVERY_VARIABLE: every_s}, print)
