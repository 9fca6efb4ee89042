"""A W&B sweep whose points are chosen here: the real client, the loopback server, agents that are its own."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from kaggle_runner.cli.look import open_trials
from kaggle_runner.files import json_lines
from kaggle_runner.report.write import write_page
from kaggle_runner.study.journal import JOURNAL, confirm_directory, read_study
from kaggle_runner.study.trial import Status
from kaggle_runner.wording import how_many
from tests import optuna_session
from tests.standins.wandb_client import MISSING, Client, Start, clients
from tests.standins.wandb_server import WandbServer
from tests.test_optuna_sweep import mixed, table, write_sweep

ROOT = Path(__file__).parent.parent
TOO_OLD = find_spec("wandb") is not None and tuple(map(int, version("wandb").split(".")[:2])) < (0, 31)
pytestmark = [pytest.mark.skipif(MISSING or TOO_OLD, reason="wandb 0.31 is not installed"), pytest.mark.timeout(900)]

HERE = """
from pathlib import Path
from kaggle_runner.errors import KaggleRunnerError
from kaggle_runner.events import Note
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import detect
from kaggle_runner.run.local_sweep import SweepOrder
from kaggle_runner.sweep.spec import read_sweep
from kaggle_runner.sweep.study_settings import OFF, Confirm
from kaggle_runner.wandb.here.search_here import HereOrder, HerePatience, search_here

def here(file, study, count, agents=1, confirm=OFF, **patience):
    local = SweepOrder(directory=Path(study), count=count, deadline=Deadline(at=None, reason="none"))
    patience = HerePatience(**{"poll_s": 0.1, "settle_s": 0.5, "crashed_s": 0.2, **patience})
    try:
        run = search_here(read_sweep(Path(file)), HereOrder(local=local, agents=agents, confirm=confirm, project="demo",
                          patience=patience), detect(), lambda event: isinstance(event, Note) and say(note=event.text))
        say(reason=run.reason, unfinished=run.is_unfinished, away=run.away, unconfirmed=run.unconfirmed)
    except KaggleRunnerError as error:
        say(error=str(error))
"""
AGENT = '''
import math
def loss(params):
    decades, ranks = math.log10(params["learning_rate"] / 1e-3), math.log2(params.get("lora_r", 16) / 16)
    return 2.0 + 0.5 * decades**2 + 0.02 * ranks**2 + params.get("weight_decay", 0.0)

crashed = []

def train(hang=None, mixed=False, crash=0, waits=""):
    """Train as an agent of ours does, as far as W&B sees it; `mixed` ends some trials in other ways.

    The fourth of them ends when the file `waits` is there. The first runs that confirm the trial that is confirmed
    first `crash`.
    """
    global started
    run = wandb.init(resume="allow")
    params, number = dict(run.config), started if mixed else -1
    started += 1
    say(run=run.id, resumed=run.resumed, number=run.name.split(",")[0], seed=params.get("seed"))
    value = loss(params) + 0.01 * params.get("seed", 0)
    if len(crashed) < crash and params.get("confirms") == (crashed or [params.get("confirms")])[0] is not None:
        crashed.append(params["confirms"])
        run.summary.update({"outcome": "crash", "reason": "the worker was killed"})
        return run.finish(exit_code=1)
    while number == 3 and not os.path.exists(waits):
        time.sleep(0.05)
    if number in (2, 3):
        kind, reason = [("infeasible", "needs 20 GiB"), ("not_finite", "loss is not finite at step 3")][number - 2]
        run.summary.update({"outcome": kind, "reason": reason})
        return run.finish(exit_code=5)
    run.log({"train/global_step": 10, "eval/loss": value + 0.5})
    if number == 5:
        run.summary.update({"outcome": "pruned", "eval/loss": value + 0.5})
        return run.finish()
    if hang is not None and not os.path.exists(hang):
        with open(hang, "x") as file:
            file.write(run.id)
        time.sleep(600)
    run.log({"train/global_step": 20, "eval/loss": value})
    run.summary.update({"outcome": "complete", "eval/loss": value, "seconds": 1.0})
    run.finish()
'''


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer(seed=1) as server:
        server.state.features.append("SWEEPS_LOCAL_SCHEDULER")
        yield server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with clients(tmp_path) as start:
        yield start


def search(start: Start, server: WandbServer, file: Path, study: Path, count: int, more: str = "") -> Client:
    return start(server, f"{HERE}\nhere({str(file)!r}, {str(study)!r}, {count}{more})", PYTHONPATH=str(ROOT))


def agent(start: Start, server: WandbServer, arguments: str = "") -> Client:
    sweep = server.wait_for(lambda state: next(iter(state.sweeps.values()), None), why="the sweep is made")
    return start(server, f"{AGENT}\nwandb.agent('tester/demo/{sweep.name}', function=lambda: train({arguments}))")


def test_one_agent_gets_the_points_of_the_embedded_study_though_the_search_is_killed(tmp_path, server, start):
    """Trials that fail, do not fit or are pruned teach the search what they teach it at home."""
    file, study, goes_on = write_sweep(tmp_path), tmp_path / "study", tmp_path / "goes on"
    optuna_session.run(file, tmp_path / "embedded", 7, train=mixed)
    first = search(start, server, file, study, 7)
    trains = agent(start, server, f"mixed=True, waits={str(goes_on)!r}")
    server.wait_for(lambda _: sum(event["event"] == "run" for event in json_lines(study / JOURNAL)) == 4,
                    why="the fourth trial is out, and the study knows it")
    first.kill()
    goes_on.touch()
    server.wait_for(lambda state: all(run.exitcode is not None for run in state.runs.values()), why="it is trained")
    away = read_study(study)
    out = [record for record in away.records if record.result is None]
    assert {(record.status_word, record.reason.partition(" as ")[0]) for record in out} == {("out", "given out")}
    assert open_trials(away).startswith(f"{how_many(len(out), 'trial')} out with agents, ")
    assert f", {len(out)} out when this page was made" in write_page([study]).read_text()
    second = search(start, server, file, study, 7).finish()
    trains.finish()
    assert second.facts["unfinished"] == [False], second.text
    assert table(study) == table(tmp_path / "embedded")
    assert [record.result and record.result.status for record in read_study(study).records] == [
        record.result and record.result.status for record in read_study(tmp_path / "embedded").records]
    assert len(server.state.runs) == 7
    assert server.sweep.state == "FINISHED"
    assert server.state.unknown == []


def test_two_agents_one_of_them_killed_and_the_search_killed_train_each_trial_once_and_confirm(tmp_path, server, start):
    file, study, hang = write_sweep(tmp_path), tmp_path / "study", tmp_path / "hangs"
    arguments = ", agents=2, confirm=Confirm(top=2, seeds=1)"
    first = search(start, server, file, study, 4, arguments)
    dies = agent(start, server, f"hang={str(hang)!r}")
    server.wait_for(lambda _: hang.exists() and hang.read_text(), why="one hangs")
    goes_on = agent(start, server)  # not before: it would train them all
    server.wait_for(lambda state: len(state.runs) > 2, why="the other goes on")
    first.kill()
    dies.kill()
    lost = server.run(hang.read_text())
    server.wait_for(lambda state: all(run is lost or run.exitcode is not None for run in state.runs.values()),
                    why="what was given out is trained")
    server.state.crash_after_s = 3.0  # for the cloud's five minutes; what is on its way may come in until then
    server.wait_for(lambda state: lost.state == "crashed", why="the server notes the silence")
    server.state.crash_after_s = 300.0
    second = search(start, server, file, study, 4, arguments).finish()
    goes_on.finish()
    assert second.facts["unfinished"] == [False], second.text
    records = read_study(study).records
    assert [record.trial.number for record in records] == list(range(4))
    assert {record.result.status for record in records if record.result} == {Status.COMPLETE}
    runs = {record.result.notes["run"] for record in records if record.result}
    assert len(runs) == 4
    confirms = {name: run for name, run in server.state.runs.items() if "confirms" in run.params}
    assert set(server.state.runs) == runs | set(confirms), "no trial is a run twice"
    assert [run.params["seed"] for run in confirms.values()] == [43, 43]
    assert {run.params.get("seed", 42) for name, run in server.state.runs.items() if name in runs} == {42}
    assert len(read_study(confirm_directory(study)).finished) == 2
    assert lost.states[-1] == "finished"
    assert [run.starts for run in server.state.runs.values() if run is not lost] == [1] * 5
    assert any("gives no sign of life: it goes to another one" in note for note in second.facts["note"])


def test_a_confirming_run_whose_worker_died_is_given_out_once_more_and_again_by_the_same_command(
        tmp_path, server, start):
    file, study, arguments = write_sweep(tmp_path), tmp_path / "study", ", confirm=Confirm(top=2, seeds=1)"
    first = search(start, server, file, study, 2, arguments)
    trains = agent(start, server, "crash=2")
    assert first.finish().facts["unconfirmed"] == [
        "trial 0000 with seed 43 failed: the worker was killed; the same command trains it again"], first.text
    assert first.facts["unfinished"] == [True]
    trains.finish()
    second = search(start, server, file, study, 2, arguments)
    server.wait_for(lambda state: len(state.runs) == 6, why="it is given out again")
    second.kill()
    third = search(start, server, file, study, 2, arguments)
    trains = agent(start, server)
    assert third.finish().facts["unconfirmed"] == [""], third.text
    trains.finish()
    assert third.facts["unfinished"] == [False]
    assert len(server.state.runs) == 6, "two trials, one confirmed at once and one at the third time"
    found = read_study(confirm_directory(study)).finished
    assert [record.result.status for record in found] == [Status.COMPLETE] * 2
    assert server.sweep.state == "FINISHED"


def test_a_server_that_lets_nobody_else_choose_is_told_in_one_line_before_anything_is_made(tmp_path):
    with WandbServer() as server:
        command = [sys.executable, "-m", "kaggle_runner", "sweep", str(write_sweep(tmp_path)), "--backend", "wandb",
                   "--search", "here", "--count", "4"]
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=100,
                              env={**server.environment(tmp_path), "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.strip().splitlines()[-1] == (
        f"error: the W&B server {server.url} lets nobody else choose the points of a sweep; leave --search here out, "
        f"and W&B chooses the points")
    assert server.state.sweeps == {}
    assert not (tmp_path / "studies").exists()
