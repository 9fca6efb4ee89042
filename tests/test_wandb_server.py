"""The loopback W&B server, asked by the real wandb client in processes of its own.

KAGGLE_RUNNER_TEST_SWEEPS_PYTHON names a Python with W&B's `sweeps` package, for the search by the real engine;
`wandb_client` says how to choose the client's version.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.standins.wandb_client import MISSING, SWEEP, Client, Start, clients
from tests.standins.wandb_records import Run, Sweep
from tests.standins.wandb_server import WandbServer
from tests.standins.wandb_state import State

SWEEPS_PYTHON = os.environ.get("KAGGLE_RUNNER_TEST_SWEEPS_PYTHON", "")
ROOT = Path(__file__).parent.parent
NO_SEARCH = "Heartbeat: ValueError: unknown distribution cauchy"
pytestmark = pytest.mark.skipif(MISSING, reason="wandb is not installed")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with clients(tmp_path) as start:
        yield start


def rows(run: Run) -> list[float]:
    return run.column("eval/loss")


def first_run_with(count: int) -> Callable[[State], Run | None]:
    """Look for a run that has at least so many rows on the server."""
    return lambda state: next((run for run in state.runs.values() if len(rows(run)) >= count), None)


def test_a_sweep_runs_its_trials_and_is_read_back_through_the_api(start: Start) -> None:
    body = """
sweep_id = wandb.sweep(SWEEP, project="demo")
def locked():
    run = wandb.init()
    run.define_metric("train/global_step")
    run.define_metric("eval/*", step_metric="train/global_step")
    run.config.update({"lora_r": 999, "effective_micro_batch": 2}, allow_val_change=True)
    for i in range(3):
        run.log({"eval/loss": run.config.lora_r - i, "train/global_step": 10 * i})
    say(lora_r=run.config["lora_r"])
    run.finish()
wandb.agent(sweep_id, function=locked, count=3)
sweep = wandb.Api().sweep(f"tester/demo/{sweep_id}")
best = sweep.best_run()
say(sweep_id=sweep_id, state=sweep.state, url=sweep.url, best=best.id, agents=len(sweep.agents()))
for run in sweep.runs:
    say(id=run.id, run_state=run.state, summary=run.summary.get("eval/loss"), config=dict(run.config))
    say(scan=[row["eval/loss"] for row in run.scan_history()])
    say(sampled=run.history(keys=["eval/loss", "train/global_step"], pandas=False))
say(full=best.history(pandas=False), files=sorted(file.name for file in best.files()), host=best.metadata["host"])
runs = wandb.Api().runs("tester/demo", filters={"config.lora_r.value": 8, "state": "finished"}, per_page=1)
say(filtered=sorted(run.id for run in runs))
say(heir=wandb.sweep(SWEEP, project="demo", prior_runs=[best.id]))
"""
    with WandbServer(seed=3) as server:
        server.state.script([{"lora_r": 8, "learning_rate": 1e-4}, {"lora_r": 4, "learning_rate": 1e-4}])
        client = start(server, body)
        client.finish()
    runs = list(server.state.runs.values())
    assert server.state.unknown == []
    facts = client.facts
    assert [(run.states, run.exitcode, run.starts) for run in runs] == [(["pending", "running", "finished"], 0, 1)] * 3
    assert [run.params["lora_r"] for run in runs[:2]] == [8, 4]
    assert facts["lora_r"] == [run.args["lora_r"] for run in runs]
    assert all(run.params == {**run.args, "effective_micro_batch": 2} for run in runs)
    assert all(1.0e-5 <= run.args["learning_rate"] <= 1.0e-3 and run.args["max_steps"] == 3 for run in runs)
    assert facts["id"] == [run.name for run in runs]
    assert facts["run_state"] == ["finished"] * 3
    assert facts["scan"] == [rows(run) for run in runs]
    assert facts["scan"][:2] == [[8, 7, 6], [4, 3, 2]]
    assert [row["train/global_step"] for row in facts["sampled"][0]] == [0, 10, 20]
    assert facts["summary"] == [run.summary["eval/loss"] for run in runs]
    assert facts["best"] == [runs[1].name]
    assert facts["filtered"] == [sorted(run.name for run in runs if run.args["lora_r"] == 8)]
    assert facts["state"] == ["RUNNING"]
    assert facts["agents"] == [1]
    assert len(facts["full"][0]) == 3
    assert "wandb-summary.json" in facts["files"][0]
    heir = server.state.sweeps[facts["heir"][0]]
    assert server.state.runs_of(heir) == [runs[1]]


def test_a_stop_is_an_exception_in_an_agents_trial_and_an_interrupt_of_a_plain_run(start: Start) -> None:
    agent = """
wandb.agent(wandb.sweep(SWEEP, project="demo"), count=2,
            function=lambda: trial(rows=3 if started else 2000, pause=0.05))
"""
    plain = """
run = wandb.init(project="demo")
try:
    for i in range(2000):
        run.log({"eval/loss": i})
        time.sleep(0.05)
except KeyboardInterrupt:
    run.finish(exit_code=0)
"""
    with WandbServer() as server, WandbServer(stopped_is_killed=True) as strict:
        client, other = start(server, agent), start(strict, plain)
        for each in (server, strict):
            run = each.wait_for(first_run_with(3))
            each.state.stop_run(run.name)
        client.finish()
        other.finish()
    stopped, following = server.run(0), server.run(1)
    assert client.facts["error"] == ["Exception"]
    assert (stopped.states, stopped.exitcode) == (["pending", "running", "killed"], 143)
    assert len(rows(stopped)) - client.facts["rows"][0] in (0, 1)
    assert following.state == "finished"
    alone = strict.run(0)
    assert (alone.states, alone.exitcode, alone.sweep) == (["running", "killed"], 0, "")
    assert server.state.unknown == strict.state.unknown == []


def test_a_preempted_run_comes_back_with_its_id_before_anything_new(start: Start) -> None:
    body = """
sweep_id = sys.argv[1] if len(sys.argv) > 1 else wandb.sweep(SWEEP, project="demo")
if len(sys.argv) > 1:
    wandb.agent(f"tester/demo/{sweep_id}", function=lambda: trial(resume="allow", rows=4), count=2)
else:
    wandb.agent(sweep_id, function=lambda: trial(resume="allow", rows=4, preempt_at=1), count=1)
"""
    with WandbServer() as server:
        first = start(server, body)
        first.finish()
        run = server.run(0)
        assert (run.state, run.exitcode, server.sweep.queue) == ("preempted", 75, [run.name])
        second = start(server, body, server.sweep.name)
        second.finish()
    states = ["pending", "running", "preempting", "preempted", "pending", "running", "finished"]
    assert run.states == states
    assert (rows(run), run.starts, len(set(run.agents))) == ([10.0, 9.0, 8.0, 7.0], 2, 2)
    assert [row["_step"] for row in run.history] == [0, 1, 2, 3]
    assert first.facts["first"] == [0]
    assert (second.facts["run"], second.facts["first"]) == ([run.name, server.run(1).name], [2, 0])
    assert second.facts["config"][0] == first.facts["config"][0]
    assert "_wandb" in second.text
    assert server.state.unknown == []


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One client, its server, and its sweep."""

    server: WandbServer
    sweep: Sweep
    client: Client

    @property
    def runs(self) -> list[Run]:
        return self.server.state.runs_of(self.sweep)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Scene]]:
    """Five agents side by side, because they mostly wait: one takes up to ten seconds to see the end of its sweep."""
    directory = tmp_path_factory.mktemp("scenes")
    with WandbServer(use_engine=False) as server, WandbServer() as lossy, clients(directory) as start:
        state = server.state
        lossy.fault(status=502, match="Heartbeat", count=1, after=True)

        def begin(sweep: Sweep, trial: str, on: WandbServer = server) -> Scene:
            body = f"wandb.agent(sys.argv[1], {trial})\nsay(over=True)\n"
            return Scene(server=on, sweep=sweep, client=start(on, body, f"tester/demo/{sweep.name}"))

        paused, nonsense = server.create_sweep(SWEEP), {"a": {"distribution": "cauchy", "min": 1.0, "max": 2.0}}
        state.set_sweep_state(paused.name, "PAUSED")
        endless = "function=lambda: trial(rows=9999, pause=0.05, until='enough')"
        found = {
            "deleted": begin(paused, endless),
            "cancelled": begin(server.create_sweep(SWEEP), endless),
            "capped": begin(server.create_sweep({**SWEEP, "run_cap": 2}), "function=trial"),
            "raising": begin(server.create_sweep({**SWEEP, "parameters": nonsense}), "function=trial"),
            "ghost": begin(lossy.create_sweep(SWEEP), "function=trial, count=1", lossy),
        }
        cancelled, deleted = found["cancelled"], found["deleted"]
        server.wait_for(lambda _: any(agent.beats > 2 for agent in state.agents.values() if agent.sweep == paused.name))
        assert deleted.runs == []
        state.set_sweep_state(paused.name, "RUNNING")
        server.wait_for(lambda _: any(map(rows, cancelled.runs)))
        state.set_sweep_state(cancelled.sweep.name, "CANCELED")
        assert [run.state for run in cancelled.runs] == ["killed"]
        server.wait_for(lambda _: any(map(rows, deleted.runs)))
        state.delete_sweep(paused.name)
        server.wait_for(lambda _: "Heartbeat: agent not found" in state.errors)
        server.wait_for(lambda _: state.errors.count(NO_SEARCH) > 1)
        (directory / "enough").touch()
        for name, scene in found.items():
            if name != "raising":
                scene.client.finish()
        yield found


def test_the_run_cap_finishes_the_sweep_and_tells_the_agent_to_exit(scenes: dict[str, Scene]) -> None:
    scene = scenes["capped"]
    assert [run.state for run in scene.runs] == ["finished", "finished"]
    assert scene.sweep.state == "FINISHED"
    assert scene.client.facts["over"] == [True]


def test_cancelling_kills_the_run_and_ends_the_agent(scenes: dict[str, Scene]) -> None:
    scene = scenes["cancelled"]
    assert [(run.states, run.exitcode) for run in scene.runs] == [(["pending", "running", "killed"], 143)]
    assert scene.client.facts["error"] == ["Exception"]
    assert scene.client.facts["over"] == [True]


def test_a_paused_sweep_gives_nothing_and_a_deleted_one_ends_the_agent(scenes: dict[str, Scene]) -> None:
    scene = scenes["deleted"]
    assert "Sweep was deleted" in scene.client.text
    assert len(scene.runs) == 1
    assert scene.client.facts["over"] == [True]
    # Clients before PR 11880 stop the run, newer ones say that it may end.
    assert scene.runs[0].state == ("finished" if "allowed to finish" in scene.client.text else "failed")


def test_a_search_that_raises_is_answered_with_400_for_ever_and_the_agent_goes_on_asking(
    scenes: dict[str, Scene],
) -> None:
    scene = scenes["raising"]
    assert scene.client.process.poll() is None
    assert scene.runs == []
    assert scene.server.state.errors.count(NO_SEARCH) > 1


def test_a_heartbeat_whose_answer_is_lost_leaves_a_pending_ghost(scenes: dict[str, Scene]) -> None:
    assert [run.states for run in scenes["ghost"].runs] == [["pending"], ["pending", "running", "finished"]]


def test_the_agents_asked_for_nothing_unknown(scenes: dict[str, Scene]) -> None:
    assert [scene.server.state.unknown for scene in scenes.values()] == [[]] * 5


def test_agents_are_refused_by_finished_and_unknown_sweeps_and_by_a_wrong_key(start: Start) -> None:
    body = """
for wanted in sys.argv[1:]:
    try:
        wandb.agent(wanted, function=trial, project="demo", entity="tester")
    except Exception as error:
        say(refused=str(error))
sweep_id = wandb.sweep({**SWEEP, "metric": {"name": "eval/loss", "goal": "min"}}, project="demo")
say(sweep_id=sweep_id)
os.environ["WANDB_API_KEY"] = "w" * 40
wandb.teardown()
try:
    wandb.Api().sweep(f"tester/demo/{sweep_id}")
except Exception as error:
    say(refused=str(error))
"""
    with WandbServer() as server:
        over = server.create_sweep(SWEEP)
        server.state.set_sweep_state(over.name, "FINISHED")
        client = start(server, body, over.name, "unknown0").finish()
    finished, unknown, wrong_key = client.facts["refused"]
    assert f"Sweep tester/demo/{over.name} is not running" in finished
    assert "could not find sweep tester/demo/unknown0" in unknown
    assert "verify" in wrong_key
    assert server.state.errors[-1].endswith("user is not logged in")
    assert client.facts["sweep_id"] == [list(server.state.sweeps)[1]]
    assert "is not one of ['minimize', 'maximize']" in client.text
    assert server.key not in client.text
    assert server.state.unknown == []


@pytest.mark.slow
def test_no_row_is_lost_when_the_server_answers_503_or_vanishes_in_mid_run(start: Start, tmp_path: Path) -> None:
    body = """
wandb.agent(wandb.sweep(SWEEP, project="demo"), count=1,
            function=lambda: trial(rows=9999, pause=0.1, until="enough", counted="logged"))
"""
    with WandbServer() as server:
        client = start(server, body, WANDB_X_FILE_STREAM_RETRY_WAIT_MAX_SECONDS="3")
        run = server.wait_for(first_run_with(3))
        server.fault(status=503, seconds=3)
        server.wait_for(first_run_with(len(rows(run)) + 31), why="rows logged under the fault arrive after it")
        with server.outage():
            time.sleep(0.5)
            before = len(rows(run))
            assert wait_for(lambda: int((tmp_path / "logged").read_text() or 0) > before + 50, 100)
            (tmp_path / "enough").touch()
            time.sleep(1.5)
            assert len(rows(run)) == before
        client.finish()
    assert (run.states, run.exitcode) == (["pending", "running", "finished"], 0)
    assert client.facts["rows"][0] > before + 50
    assert rows(run) == [10.0 - i for i in range(client.facts["rows"][0])]
    assert server.state.unknown == []


def test_a_killed_client_is_crashed_after_the_silence_and_another_can_close_its_run(start: Start) -> None:
    body = """
run = wandb.init(project="demo", id=sys.argv[1], resume=sys.argv[2])
if sys.argv[2] == "must":
    run.finish(exit_code=137)
    sys.exit()
run.log({"eval/loss": 1.0})
if sys.argv[1] == "marked":
    run.mark_preempting()
time.sleep(600)
"""
    with WandbServer() as server:
        started = [start(server, body, name, "never") for name in ("plain", "marked")]
        server.wait_for(lambda state: len(state.runs) == 2 and all(map(rows, state.runs.values())))
        server.wait_for(lambda state: state.runs["marked"].preempting)
        for client in started:
            client.kill()
        server.state.crash_after_s = 3.0  # for the cloud's five minutes
        server.wait_for(lambda state: {run.state for run in state.runs.values()} == {"crashed", "preempted"})
        server.state.crash_after_s = 300.0
        start(server, body, "plain", "must").finish()
    assert server.run("plain").states == ["running", "crashed", "running", "failed"]
    assert (server.run("plain").exitcode, rows(server.run("plain"))) == (137, [1.0])
    assert server.run("marked").states == ["running", "preempting", "preempted"]
    assert server.state.unknown == []


@contextlib.contextmanager
def program(python: str, *arguments: str) -> Iterator[str]:
    """Run the server as a program, give its address, and see it end well on SIGTERM."""
    command = [python, "-m", "tests.standins.wandb_server", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().removeprefix("export WANDB_BASE_URL=").split()[0]
        finally:
            process.terminate()
        assert process.wait(100) == 0


def test_the_program_says_its_address_and_ends_on_sigterm() -> None:
    with program(sys.executable, "--port", "0") as address, urllib.request.urlopen(address) as answer:
        assert json.load(answer) == {"sweeps": {}, "runs": {}, "unknown": [], "errors": []}


@pytest.mark.skipif(not SWEEPS_PYTHON, reason="KAGGLE_RUNNER_TEST_SWEEPS_PYTHON names no Python")
def test_the_program_serves_points_of_the_real_engine(start: Start) -> None:
    body = """
parameters = {"x": {"min": 0.0, "max": 1.0}}
sweep_id = wandb.sweep({**SWEEP, "method": "bayes", "parameters": parameters}, project="demo")
def parabola():
    run = wandb.init()
    run.log({"eval/loss": (run.config["x"] - 0.3) ** 2})
    run.finish()
wandb.agent(sweep_id, function=parabola, count=8)
say(x=[run.config["x"] for run in wandb.Api().sweep(f"tester/demo/{sweep_id}").runs])
"""
    with program(SWEEPS_PYTHON, "--seed", "1") as address, WandbServer() as server:
        client = start(server, body, WANDB_BASE_URL=address).finish()
        with urllib.request.urlopen(address) as answer:
            assert json.load(answer)["unknown"] == []
    assert len(client.facts["x"][0]) == 8
    assert min(abs(x - 0.3) for x in client.facts["x"][0]) < 0.02
