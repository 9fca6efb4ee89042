"""Agents of W&B sweeps as processes: the real wandb client, the loopback server, real workers on tiny models.

`wandb_client` says how to choose the client's version.
"""

import fnmatch
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kaggle_runner.study.answers import COLUMNS, answers_of_trial
from kaggle_runner.study.journal import read_study
from kaggle_runner.study.trial import Status
from tests.standins.wandb_agent import Begin, character_settings, halted_in, left_in, path_of
from tests.standins.wandb_client import MISSING, Client
from tests.standins.wandb_records import Run
from tests.standins.wandb_server import WandbServer

ROOT = Path(__file__).parent.parent
HUGE_RANK = 16_384
"""The moments of an adapter of this rank take some 200 MB."""
LIMIT = """
import resource, sys

if "kaggle_runner.run.worker" in sys.orig_argv:
    import torch

    made = torch.optim.AdamW.__init__

    def make(self, *args, **kwargs):
        made(self, *args, **kwargs)
        if sum(tensor.numel() for group in self.param_groups for tensor in group["params"]) > 10**7:
            used = int(open("/proc/self/status").read().split("VmSize:")[1].split()[0]) * 1024
            resource.setrlimit(resource.RLIMIT_AS, (used + 20 * 2**20,) * 2)

    torch.optim.AdamW.__init__ = make
"""
"""A worker's own limit on its memory, where an adapter of that rank is trained."""
LONG = 20_000
"""Steps of a trial that is ended before its last one, also on a machine that is busy."""
ROW_NAMES = ("eval/loss", "train/loss", "train/learning_rate")
pytestmark = [pytest.mark.skipif(MISSING, reason="wandb is not installed"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def parameters(tiny_llama: Path, rows_file: Path) -> dict[str, Any]:
    """The fixed settings of a sweep whose trials take a second."""
    values = {"model": str(tiny_llama), "dataset": str(rows_file), "samples": 100, "max_eval_samples": 10,
              "max_length": 48, "max_steps": 6, "eval_steps": 2, "lora_r": 4, "gradient_accumulation_steps": 1}
    return {name: {"value": value} for name, value in values.items()}


@pytest.fixture
def quick(tmp_path: Path) -> dict[str, Any]:
    """The fixed settings of a character model, whose worker starts fastest; 2000 steps take seconds."""
    return character_settings(tmp_path, steps=2000, evaluations=2)


def row_of(server: WandbServer, client: Client, *, run: int, row: int = 0) -> Run:
    """Wait until a run has a row on the server, and return the run."""
    def look(state: Any) -> Run | None:
        assert client.process.poll() is None, client.process.stdout and client.process.stdout.read()
        return next((found for found in list(state.runs.values())[run:] if len(found.history) > row), None)

    return server.wait_for(look, timeout_s=400)


def test_a_bayes_sweep_of_the_demo_model_end_to_end(begin: Begin, parameters: dict[str, Any], tmp_path: Path) -> None:
    sweep_file = {
        "method": "bayes", "metric": {"name": "eval/loss", "goal": "minimize"}, "run_cap": 4,
        "program": "program.py", "command": ["touch", "executed"],
        "parameters": {**parameters, "model": {"value": "demo"}, "max_length": {"values": [48, 64]},
                       "lora_alpha": {"value": "2 * lora_r"}, "lora_r": {"value": 4},
                       "learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2}}}
    (tmp_path / "mine.yaml").write_text(json.dumps(sweep_file))
    body = """
    from kaggle_runner.sweep.spec import read_sweep
    from kaggle_runner.wandb.sweep import create_sweep
    made = create_sweep(read_sweep(Path("mine.yaml")), detect(), project="demo")
    say(path=made.path, url=made.url)
    agent(made.url)
    os.environ.pop("CUDA_VISIBLE_DEVICES")
    best = wandb.Api().sweep(made.path).best_run()
    say(best=best.id, loss=best.summary["eval/loss"])
    """
    with WandbServer(seed=3) as server:
        client = begin(server, body).finish(200)
    snapshot, runs = read_study(tmp_path / "study"), list(server.state.runs.values())
    print(client.text)
    assert server.state.unknown == []
    assert client.facts["reason"] == ["the sweep is finished: it has all its trials"]
    assert client.facts["exit_status"] == [0]
    assert client.facts["path"] == [path_of(server.sweep)]
    assert [(run.states, run.exitcode, run.starts) for run in runs] == [(["pending", "running", "finished"], 0, 1)] * 4
    assert [record.trial.id for record in snapshot.records] == [run.name for run in runs]
    for run, record in zip(runs, snapshot.records, strict=True):
        assert record.trial.params == run.args | {"eval_max_length": 64, "lora_alpha": 8}, \
            "trials of two lengths are scored alike, and the agent computes what follows from other parameters"
        assert run.params["eval_max_length"] == 64
        assert tuple((row["train/global_step"], row["eval/loss"]) for row in run.history if "eval/loss" in row) \
            == record.result.evaluations
        assert run.summary["eval/loss"] == record.result.metric
        assert run.summary["tokens"] == record.result.tokens
        assert run.summary["peak_device_bytes"] == record.result.peak_device_bytes
        assert run.summary["outcome"] == "complete"
        answers = json.loads(run.files[run.summary["answers"]["path"]])["data"]
        kept = answers_of_trial(tmp_path / "study" / "trials" / record.trial.id)
        assert answers == [[row[name] for name in COLUMNS] for row in kept]
        assert len(answers) > 1
        assert len(run.column("train/loss")) == len(run.column("train/learning_rate")) == 6
        assert run.params.items() > run.args.items()
        assert run.params["tied"] == {"lora_alpha": 8}
        assert run.params["lora_dropout"] == 0.05
        assert [step_metric(run, name) for name in ROW_NAMES] == ["train/global_step"] * len(ROW_NAMES)
    assert client.facts["best"] == [snapshot.best.trial.id]
    assert client.facts["loss"] == [snapshot.best.result.metric]
    assert snapshot.baseline > snapshot.best.result.metric
    assert 1 <= len(snapshot.rows) <= 2, "one line for the rows of each length"
    assert not (tmp_path / "executed").exists(), "a sweep's own command is somebody else's"


def test_an_agent_trains_the_points_of_a_scheduler_whatever_parameters_its_function_names(
    begin: Begin, quick: dict[str, Any], tmp_path: Path
) -> None:
    """The server hands out trials as ever; dropout is in no file, and quux is no hyperparameter."""
    sweep_file = {
        "method": "custom", "run_cap": 3.0, "parameters": quick, "job": "e/p/job:v0",
        "metrics": [{"name": "eval/token_accuracy", "goal": "maximize"}, {"name": "eval/loss"}],
        "scheduler": {"engine": "optuna", "source": "study.py", "search_space": "space"}}
    (tmp_path / "mine.yaml").write_text(json.dumps(sweep_file))
    body = """
    from kaggle_runner.sweep.spec import read_sweep
    from kaggle_runner.wandb.sweep import create_sweep
    made = create_sweep(read_sweep(Path("mine.yaml")), detect(), project="demo")
    agent(made.url)
    """
    with WandbServer() as server:
        server.state.points += [{"learning_rate": 0.003}, {"learning_rate": 0.001, "dropout": 0.1}, {"quux": 1}]
        client = begin(server, body).finish(200)
    runs = list(server.state.runs.values())
    assert client.facts["reason"] == ["the sweep is finished: it has all its trials"]
    assert server.sweep.config == {**{key: value for key, value in sweep_file.items() if key != "job"}, "run_cap": 3}
    assert [run.state for run in runs] == ["finished", "finished", "failed"]
    results = [record.result for record in read_study(tmp_path / "study").records]
    assert [result.status for result in results] == [Status.COMPLETE, Status.COMPLETE, Status.FAILED]
    assert [run.params["dropout"] for run in runs[:2]] == [0.0, 0.1]
    assert [run.summary["eval/token_accuracy"] for run in runs[:2]] == [result.metric for result in results[:2]]
    assert "no such hyperparameter: quux" in results[2].reason
    assert server.state.unknown == []


def step_metric(run: Run, name: str) -> str:
    """Read from a run's config what the client defined as the step metric of a metric."""
    defined = run.config["_wandb"]["value"]["m"]  # 1: name, 2: or pattern, 5: step metric, counted from 1
    found = next(each for each in defined if "5" in each and fnmatch.fnmatch(name, each.get("1") or each["2"]))
    return defined[found["5"] - 1]["1"]


def test_every_ending_is_told_truthfully_and_the_sweep_goes_on(
    begin: Begin, parameters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six trials: good, pruned, out of memory, not a number, killed, stopped by the server."""
    sweep_file = {
        "method": "random", "metric": {"name": "eval/loss", "goal": "minimize"},
        "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 2},  # the better half at the first evaluation
        "parameters": {**parameters, "learning_rate": {"min": 1.0e-6, "max": 1.0e18},
                       **{name: {"values": values} for name, values in {
                           "lora_r": [4, HUGE_RANK], "batch_size": [1, 2], "eval_steps": [2, 3, 7, 500],
                           "max_steps": [6, LONG]}.items()},
                       "early_stopping_patience": {"value": None}}}
    good = {name: entry["value"] for name, entry in parameters.items()} | {"learning_rate": 1.0e-2, "batch_size": 2}
    other = good | {"eval_steps": 3}  # judged at a step where nobody else was
    stopped_by_hand = good | {"eval_steps": 7, "max_steps": LONG}  # the same
    killed = good | {"eval_steps": 500, "max_steps": LONG}  # never judged, and never at its end
    huge = other | {"lora_r": HUGE_RANK}
    (tmp_path / "limit").mkdir()
    (tmp_path / "limit" / "sitecustomize.py").write_text(LIMIT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "limit"))
    body = """
    worker = trials = 0
    def notify(event):
        global worker, trials
        if event.kind == "started":
            worker = event.pid
        elif event.kind == "trial_started":
            trials += 1
        elif event.kind == "log" and trials == 5:
            os.kill(worker, 9)
    agent(sys.argv[1], count=6, notify=notify)
    """
    with WandbServer() as server:
        server.state.script([good, good | {"learning_rate": 1.0e-6}, huge, other | {"learning_rate": 1.0e18}, killed,
                             stopped_by_hand])
        client = begin(server, body, path_of(server.create_sweep(sweep_file)))
        server.state.stop_run(row_of(server, client, run=5).name)
        client.finish(200)
    runs, snapshot = list(server.state.runs.values()), read_study(tmp_path / "study")
    endings = [(run.state, run.exitcode, run.summary.get("outcome")) for run in runs[:6]]
    assert endings == [("finished", 0, "complete"), ("finished", 0, "pruned"), ("failed", 3, "out_of_memory"),
                       ("failed", 4, "not_finite"), ("failed", 137, "crash"), ("killed", 143, "stopped")]
    assert [record.result.status for record in snapshot.records] == [
        "complete", "pruned", "failed", "failed", "failed", "pruned"]
    assert [run.summary.get("eval/loss") for run in runs[:6]] == [record.result.metric for record in snapshot.records]
    pruned, stopped = snapshot.records[1].result, snapshot.records[5].result
    assert (pruned.steps, runs[1].column("eval/loss")) == (2, [pruned.metric])
    assert runs[1].summary["reason"] == pruned.reason == "not in the best 1/2 at step 2, as early_terminate asks"
    assert 0 < stopped.steps < LONG
    assert runs[5].column("eval/loss")[-1] == stopped.evaluations[-1][1]
    assert "SIGKILL" in runs[4].summary["reason"]
    assert runs[4].states == ["pending", "running", "failed"], "closed by us, not called crashed by W&B"
    assert [runs[2].summary[name] for name in ("out_of_memory_at", "micro_batch", "accumulation")] == [2, 1, 2]
    assert [runs[2].params[name] for name in ("batch_size", "gradient_accumulation_steps")] == [2, 1], "as W&B chose"
    assert all(run.summary["outcome"] == "preempted" for run in runs[6:]), "a job that W&B handed out early goes back"
    assert [run.state for run in runs[6:]] == ["preempted"] * len(runs[6:])
    assert client.facts["reason"] == ["6 trials are done, as asked"]
    assert client.facts["exit_status"] == [0]
    assert left_in(tmp_path) == []
    assert server.state.unknown == []


def test_a_deadline_hands_the_trial_on_and_the_next_agent_resumes_it_at_its_step(
    begin: Begin, parameters: dict[str, Any], tmp_path: Path
) -> None:
    """Also a repeated configuration, and a deadline that is over before the first trial."""
    steps = {"max_steps": {"values": [6, 120]}, "eval_steps": {"values": [3, 30]}}
    sweep_file = {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "parameters": {
        **parameters, **steps, "learning_rate": {"min": 1.0e-4, "max": 1.0e-1},
        "early_stopping_patience": {"values": [50, 60]}}}
    short = {"max_steps": 6, "eval_steps": 3, "learning_rate": 1.0e-2, "early_stopping_patience": 50}
    long = short | {"max_steps": 120, "eval_steps": 30}
    cut_in_the_second = """
    class Cut(Deadline):
        def seconds_left(self, now):
            return 0.0 if trials == 2 and step >= 5 else 3600.0
    trials = step = 0
    def notify(event):
        global trials, step
        if event.kind == "trial_started":
            trials, step = trials + 1, 0
        elif event.kind == "log":
            step = event.step
    agent(sys.argv[1], count=3, notify=notify, deadline=Cut(at=None, reason="the host's"), pruning=False)
    """
    too_late = "agent(sys.argv[1], deadline=Deadline(at=time.time(), reason='a moment ago'))"
    twin = long | {"early_stopping_patience": 60}  # another configuration with the same losses
    with WandbServer() as server:
        server.state.script([short, long, twin, short])
        address = path_of(server.create_sweep(sweep_file))
        first = begin(server, cut_in_the_second, address).finish(200)
        run = server.run(1)
        assert (run.state, run.exitcode, run.starts, server.sweep.queue) == ("preempted", 75, 1, [run.name])
        before = len(run.history)
        late = begin(server, too_late, address).finish()
        assert (run.state, run.exitcode, run.starts, server.sweep.queue) == ("preempted", 75, 2, [run.name])
        assert len(run.history) == before
        second = begin(server, "agent(sys.argv[1], count=3, pruning=False)", address).finish(200)
    snapshot, runs = read_study(tmp_path / "study"), list(server.state.runs.values())
    assert first.facts["reason"] == ["the session is at its deadline (the host's)"]
    assert late.facts["reason"] == ["the session is at its deadline (a moment ago)"]
    assert first.facts["exit_status"] == late.facts["exit_status"] == [130]
    assert second.facts["reason"] == ["3 trials are done, as asked"]
    assert [(each.state, each.exitcode) for each in runs] == [("finished", 0)] * 4
    resumed, whole = snapshot.records[1], snapshot.records[2]
    assert (resumed.trial.id, resumed.attempts, resumed.result.steps) == (run.name, 2, 120)
    assert 5 <= before < 120
    assert resumed.result.evaluations == whole.result.evaluations
    assert [row["_step"] for row in run.history] == list(range(124))
    assert [{**row, "_step": 0, "_runtime": 0, "_timestamp": 0} for row in run.history] \
        == [{**row, "_step": 0, "_runtime": 0, "_timestamp": 0} for row in runs[2].history]
    repeat = snapshot.records[3]
    assert repeat.result.metric == snapshot.records[0].result.metric == runs[3].summary["eval/loss"]
    assert (repeat.result.notes, repeat.result.seconds) == ({"repeat_of": runs[0].name}, 0.0)
    assert runs[3].about["tags"] == ["duplicate"]
    assert runs[3].column("eval/loss") == runs[0].column("eval/loss")
    assert runs[3].summary["repeat_of"] == runs[0].name
    assert left_in(tmp_path) == []
    assert server.state.unknown == []


def test_an_outage_loses_no_row_and_a_server_that_is_gone_for_good_loses_no_trial(
    begin: Begin, quick: dict[str, Any], tmp_path: Path
) -> None:
    """Two agents of two servers, because they mostly wait.

    Each worker is halted in mid-trial, so that the outage falls there; it goes on while the server is still down.
    """
    sweep_file = {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"},
                  "parameters": {**quick, "learning_rate": {"min": 1.0e-4, "max": 1.0e-2}}}
    body = """
    study = sys.argv[2]
    agent(sys.argv[1], study=study, notify=HaltedOnce(study), count=1, pruning=False,
          upload_s=float(sys.argv[3]))
    """
    settings = {"WANDB_X_FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "3"}
    with WandbServer() as server, WandbServer() as doomed:
        client = begin(server, body, path_of(server.create_sweep(sweep_file)), "study", "200", **settings)
        lonely = begin(doomed, body, path_of(doomed.create_sweep(sweep_file)), "alone", "8", **settings)
        run, lost = row_of(server, client, run=0), row_of(doomed, lonely, run=0)
        workers = {study: server.wait_for(lambda _, study=study: halted_in(tmp_path, study))
                   for study in ("study", "alone")}
        doomed.down()
        os.kill(workers["alone"], signal.SIGCONT)
        with server.outage():
            time.sleep(18.0)
            before = len(run.history)
            os.kill(workers["study"], signal.SIGCONT)
            time.sleep(2.0)
            assert len(run.history) == before
            assert run.state == "running"
            server.fault(status=502, seconds=3.0)  # how it comes back
        client.finish(200)
        lonely.finish(200)
    rows = read_study(tmp_path / "study").history(run.name)
    assert (run.states, run.exitcode) == (["pending", "running", "finished"], 0)
    assert [row["train/global_step"] for row in run.history] == [row["step"] for row in rows]
    assert before < len(rows) == 52, "50 of the training, 2 of evaluations"
    assert client.facts["reason"] == ["1 trial is done, as asked"]
    (record,) = read_study(tmp_path / "alone").records
    assert (record.trial.id, record.result.status, record.result.steps) == (lost.name, "complete", 2000)
    assert len(read_study(tmp_path / "alone").history(lost.name)) == 52 > len(lost.history)
    assert lost.state == "running"
    assert lonely.facts["exit_status"] == [1]
    assert (f"W&B has not confirmed the end of run {lost.name}: no answer in time; if it lacks it"
            in lonely.facts["reason"][0])
    assert left_in(tmp_path) == []


def test_a_sweep_that_ends_in_mid_trial_ends_its_agent(begin: Begin, quick: dict[str, Any], tmp_path: Path) -> None:
    """Cancelling kills the trial; after the last job, or when the sweep was deleted, the trial runs to its end.

    Agents side by side; each worker is halted in mid-trial until the sweep has ended.
    """
    body = "agent(sys.argv[1], study=sys.argv[2], notify=HaltedOnce(sys.argv[2]), pruning=False)"
    steps = {"cancelled": 200_000, "finished": 2000, "deleted": 2000}
    with WandbServer() as server:
        sweeps = {name: server.create_sweep({
            "method": "random", "metric": {"name": "eval/loss", "goal": "minimize"},
            "parameters": {**quick, "max_tokens": {"value": 64 * steps[name]},
                           "learning_rate": {"min": 1.0e-4, "max": 1.0e-2}}}) for name in steps}
        started = {name: begin(server, body, path_of(sweep), name) for name, sweep in sweeps.items()}
        server.wait_for(lambda state: all(halted_in(tmp_path, name) for name in steps)
                        and all(run.history for run in state.runs.values()), 250)
        server.state.set_sweep_state(sweeps["cancelled"].name, "CANCELED")
        server.state.set_sweep_state(sweeps["finished"].name, "FINISHED")
        server.state.delete_sweep(sweeps["deleted"].name)
        for name in steps:
            os.kill(halted_in(tmp_path, name), signal.SIGCONT)
        facts = {name: client.finish(200).facts for name, client in started.items()}
        runs = {name: server.state.runs_of(sweep) for name, sweep in sweeps.items()}
        left = left_in(tmp_path)
    assert {name: (said["exit_status"], said["reason"]) for name, said in facts.items()} == {
        "cancelled": ([0], ["the sweep was cancelled on W&B"]),
        "finished": ([0], ["the sweep is finished: it has all its trials"]),
        "deleted": ([1], ["the sweep was deleted on W&B; the study keeps its trials"])}
    trained, cut = ("finished", 0, "complete"), ("killed", 143, "stopped")
    # Before PR 11880 the client stopped the run of a deleted sweep at its next look, up to five seconds later, which
    # may find the run at its end.
    stops = facts["deleted"]["version"][0].startswith("0.26.")
    endings = {name: [(run.state, run.exitcode, run.summary["outcome"]) for run in runs[name]] for name in steps}
    assert endings == {"cancelled": [cut], "finished": [trained], "deleted": endings["deleted"]}
    assert endings["deleted"] in [[trained], *([[("failed", 143, "stopped")]] if stops else [])]
    for name, (run,) in runs.items():
        (record,) = read_study(tmp_path / name).records
        assert record.result is not None
        assert (record.trial.id, record.result.metric) == (run.name, run.summary.get("eval/loss"))
        assert 0 < record.result.steps <= steps[name]
    assert left == []


def test_a_worker_that_does_not_obey_a_signal_is_ended_and_its_run_is_handed_back(
    begin: Begin, quick: dict[str, Any], tmp_path: Path
) -> None:
    """A worker that is stopped stands for a step that takes minutes; the signal is that of a closed terminal."""
    sweep_file = {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "parameters": {
        **quick, "max_tokens": {"value": 64 * 50_000}, "learning_rate": {"min": 1.0e-4, "max": 1.0e-2}}}
    body = """
    def notify(event):
        if event.kind == "started":
            Path("worker").write_text(str(event.pid))
    agent(sys.argv[1], notify=notify, hurry_s=10.0)
    """
    with WandbServer() as server:
        client = begin(server, body, path_of(server.create_sweep(sweep_file)))
        run = row_of(server, client, run=0)
        os.kill(int((tmp_path / "worker").read_text()), signal.SIGSTOP)
        client.process.send_signal(signal.SIGHUP)
        client.finish()
    record = read_study(tmp_path / "study").records[0]
    assert (run.state, run.exitcode) == ("preempted", 75)
    assert record.result.status is Status.PREEMPTED
    assert record.result.reason.startswith("there was no time for a checkpoint")
    assert record.result.steps == read_study(tmp_path / "study").history(run.name)[-1]["step"] > 0
    assert left_in(tmp_path) == []


def test_a_sweep_without_trials_ends_an_agent_with_the_reason(
    begin: Begin, parameters: dict[str, Any], tmp_path: Path
) -> None:
    """Agents side by side, because they only wait; none of them ever needs a worker."""
    sweep_file = {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"},
                  "parameters": {**parameters, "learning_rate": {"min": 1.0e-4, "max": 1.0e-2}}}
    body = """
    def notify(event):
        if event.kind == "note" and event.text.startswith("agent of sweep"):
            say(began=time.time())
    agent(sys.argv[1], study=sys.argv[2], no_job_s=float(sys.argv[3]), notify=notify)
    """
    with WandbServer() as server:
        sweeps = {name: server.create_sweep(sweep_file) for name in ("paused", "deleted", "cancelled", "interrupted")}
        for sweep in sweeps.values():
            server.state.set_sweep_state(sweep.name, "PAUSED")
        started = {
            name: begin(server, body, path_of(sweep), name, "15" if name == "paused" else "600")
            for name, sweep in sweeps.items()}
        server.wait_for(lambda state: len(state.agents) == 4 and all(agent.beats for agent in state.agents.values()),
                        timeout_s=200)
        server.state.delete_sweep(sweeps["deleted"].name)
        server.state.set_sweep_state(sweeps["cancelled"].name, "CANCELED")
        started["interrupted"].process.send_signal(signal.SIGINT)
        facts = {name: client.finish().facts for name, client in started.items()}
        left = left_in(tmp_path)
    paused = path_of(sweeps["paused"])
    assert {name: (said["exit_status"], said["reason"]) for name, said in facts.items()} == {
        "paused": ([1], [f"the sweep has been paused for 15 s; run: wandb sweep --resume {paused}, then this again"]),
        "deleted": ([1], ["the sweep was deleted on W&B; the study keeps its trials"]),
        "cancelled": ([0], ["the sweep was cancelled on W&B"]),
        "interrupted": ([130], ["interrupted by SIGINT"]),
    }
    assert facts["paused"]["ended"][0] - facts["paused"]["began"][0] > 15.0
    assert left == []
    assert server.state.runs == {}
    assert server.state.unknown == []


def test_what_cannot_work_is_said_in_one_line_before_anything_starts(
    begin: Begin, parameters: dict[str, Any], tmp_path: Path
) -> None:
    sweep_file = {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"},
                  "parameters": {**parameters, "learning_rate": {"min": 1.0e-4, "max": 1.0e-2}}}
    foreign = {"num_layers": {"values": [1, 2]}, "learning_rate": {"min": 0.1, "max": 0.2}}
    body = """
    agent(sys.argv[1], max_concurrency=2)
    for address in sys.argv[2:]:
        agent(address)
    os.environ["WANDB_API_KEY"] = "abc"
    agent(sys.argv[1])
    del os.environ["WANDB_API_KEY"]
    agent(sys.argv[1])
    os.environ["WANDB_API_KEY"] = "k" * 40
    os.environ["WANDB_MODE"] = "offline"
    agent(sys.argv[1])
    del os.environ["WANDB_MODE"]
    os.environ["WANDB_API_KEY"] = "z" * 40
    agent(sys.argv[1])
    os.environ["WANDB_API_KEY"] = "k" * 40
    os.environ["WANDB_BASE_URL"] = "http://127.0.0.1:9"
    agent(sys.argv[1])
    os.environ["WANDB_BASE_URL"] = "not an address"
    agent(sys.argv[1])
    """
    with WandbServer() as server:
        good, over = server.create_sweep(sweep_file), server.create_sweep({**sweep_file, "run_cap": 1})
        server.state.set_sweep_state(over.name, "FINISHED")
        metric = server.create_sweep({**sweep_file, "metric": {"name": "val_acc", "goal": "maximize"}})
        strange = server.create_sweep({**sweep_file, "parameters": foreign})
        ours, theirs = (server.create_sweep(sweep_file, project=name) for name in ("kaggle_runner", "uncategorized"))
        for sweep in (ours, theirs):
            server.state.set_sweep_state(sweep.name, "FINISHED")
        client = begin(server, body, path_of(good), path_of(over), "tester/demo/unknown0", path_of(metric),
                       path_of(strange), "two words", ours.name, f"wandb agent {theirs.name}", "unknown0",
                       HOME=str(tmp_path), WANDB_SERVICE="2-1-unix-/gone").finish()  # of a notebook's client
    patterns = [
        "--max-concurrency is 1 for each GPU, not 2: two trials on one GPU run out of memory; with several",
        f"the sweep {path_of(over)} is finished, so it gives no trials; to go on with it: wandb sweep --resume",
        "W&B does not show us the sweep tester/demo/unknown0; copy its id or URL from its page",
        f"{path_of(metric)}: 1 problem\n  metric.name: must be what the trainer reports, eval/loss, "
            "eval/exact_match, eval/token_accuracy or eval/bits_per_byte, got 'val_acc'; write eval/token_accuracy",
        f"{path_of(strange)}: 1 problem\n  parameters.num_layers: no such hyperparameter",
        "'two words' is no address of a sweep",
        f"the sweep tester/kaggle_runner/{ours.name} is finished",
        f"the sweep tester/uncategorized/{theirs.name} is finished",
        "there is no sweep unknown0 in tester/kaggle_runner nor in tester/uncategorized; give its project as well",
        "the W&B key in WANDB_API_KEY in the environment has 3 characters, and a W&B key has 40 or more",
        "no W&B key found on this host (local); export WANDB_API_KEY=",
        "WANDB_MODE is offline, but it is W&B's server that chooses a sweep's trials; unset it, or search here",
        f"W&B at {server.url} does not know the W&B key in WANDB_API_KEY in the environment: it is mistyped, revoked",
        "W&B cannot be reached at http://127.0.0.1:9: ",
        "W&B's client refuses its settings, from its files or a variable such as WANDB_BASE_URL; mend or unset: "
            "WANDB_BASE_URL 'not an address': "]
    reasons = client.facts["reason"]
    assert [reason[:len(pattern)] for reason, pattern in zip(reasons, patterns, strict=True)] == patterns
    assert client.facts["exit_status"] == [1] * len(patterns)
    assert max(client.facts["cpu_seconds"][9:]) < 1.0, "of the processor, because it may be busy with other tests"
    assert server.state.agents == {}
    assert not (tmp_path / "study").exists()
