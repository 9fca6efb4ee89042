"""A W&B sweep read back as a study: the real client, the loopback server, no journal on this machine."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaggle_runner.cli.look import _is_sweep
from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.study.journal import read_study
from kaggle_runner.study.trial import Status
from tests.made_studies import Made, write_study
from tests.standins.wandb_client import MISSING, clients
from tests.standins.wandb_server import WandbServer

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.skipif(MISSING, reason="wandb is not installed"), pytest.mark.timeout(300)]

RUNS = """
sweep_id = wandb.sweep({"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "name": "far away",
                        "parameters": {"lora_r": {"values": [4, 8]}, "learning_rate": {
                            "distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}}}, project="demo")

def ours(losses, code=0, preempt=False, beside=False, **summary):
    run = wandb.init()
    for i, loss in enumerate(losses):
        more = {"eval/exact_match": i / 4, "eval/bits_per_byte": loss / 4} if beside else {}
        run.log({"train/global_step": 5 * (i + 1), "eval/loss": loss, "train/loss": loss + 0.5, **more})
        run.log({"train/global_step": 5 * (i + 1) + 1, "train/loss": loss + 0.4})
    if preempt:
        run.mark_preempting()
    run.summary.update(summary)
    run.finish(exit_code=code)

def foreign():
    run = wandb.init()
    run.log({"eval/loss": 2.5})
    run.log({"eval/loss": 2.25})
    run.finish()

jobs = [lambda: ours([2.0, 1.5, 1.75], beside=True, **{"eval/loss": 1.5}, outcome="complete", seconds=12.5, tokens=800,
                     peak_device_bytes=3 * 2**30, predicted_peak_bytes=2 * 2**30,
                     **{"sha256/rows": "ab", "sha256/data": "cd"}),
        lambda: ours([3.0], **{"eval/loss": 3.0}, outcome="pruned", reason="not in the top third at step 5"),
        lambda: ours([], code=3, outcome="out_of_memory", reason="needs more than there is"),
        lambda: ours([1.0], code=143, outcome="stopped"),
        lambda: ours([float("nan")], code=4, outcome="not_finite", reason="loss is nan at step 5"),
        foreign,
        lambda: ours([2.5], code=75, preempt=True, outcome="preempted")]  # the last: it would be given out again
wandb.agent(sweep_id, function=lambda: jobs.pop(0)(), project="demo", count=len(jobs))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """A sweep with seven runs that ended in seven ways, one of them not ours, and one that still runs."""
    with WandbServer(seed=1) as server, clients(tmp_path_factory.mktemp("client")) as start:
        server.state.script([{"learning_rate": 10.0**-(3 + i / 4), "lora_r": 4 + i % 2 * 4} for i in range(8)])
        start(server, RUNS).finish(200)
        yield server


def command(server: WandbServer, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**server.environment(folder), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "kaggle_runner", *arguments], cwd=folder, env=environment, text=True,
                          capture_output=True, timeout=200)


@pytest.fixture(scope="module")
def fetched(server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("laptop")
    return folder, command(server, folder, "report", f"tester/demo/{server.sweep.name}")


def test_a_sweep_that_ran_elsewhere_gets_the_whole_report(server: WandbServer, fetched: tuple[Path, Any]) -> None:
    folder, done = fetched
    study = folder / "studies" / f"{server.sweep.name}-from-wandb"

    assert done.returncode == 0, done.stderr
    shown = f"studies/{study.name}"
    assert done.stdout == f"study    {shown}  (read from W&B)\npage     {shown}/report/index.html\n"
    assert "Trial" in (study / "report" / "summary.md").read_text()
    assert (study / "report" / "analysis.ipynb").exists()
    assert {path.name for path in folder.iterdir()} <= {"studies", "wandb-cache"}  # no folder of W&B's own
    assert server.state.unknown == []


def test_every_run_becomes_a_trial_that_ended_as_it_did(server: WandbServer, fetched: tuple[Path, Any]) -> None:
    snapshot = read_study(fetched[0] / "studies" / f"{server.sweep.name}-from-wandb")
    runs = list(server.state.runs.values())
    results = [record.result for record in snapshot.records]

    assert snapshot.info.name == "far away"
    assert [record.trial.id for record in snapshot.records] == [run.name for run in runs]
    assert [record.trial.params["learning_rate"] for record in snapshot.records] == [
        run.args["learning_rate"] for run in runs]
    assert [result and (result.status, result.metric) for result in results] == [
        (Status.COMPLETE, 1.5), (Status.PRUNED, 3.0), (Status.FAILED, None), (Status.PRUNED, 1.0),
        (Status.FAILED, None), (Status.COMPLETE, 2.25), (Status.PREEMPTED, 2.5)]
    assert snapshot.best == snapshot.records[0]
    assert results[0]
    assert results[0].evaluations == ((5, 2.0), (10, 1.5), (15, 1.75))
    assert results[0].metrics == {"eval/loss": 1.5, "eval/exact_match": 0.25, "eval/bits_per_byte": 0.375}
    assert snapshot.history(runs[0].name)[2] == {"step": 10, "train/loss": 2.0, "eval/loss": 1.5,
                                                 "eval/exact_match": 0.25, "eval/bits_per_byte": 0.375}
    assert results[0].seconds == 12.5
    assert results[0].tokens == 800
    assert results[0].peak_device_bytes == 3 * 2**30
    assert results[0].hashes == {"rows": "ab", "data": "cd"}, "so that it is compared with no trial of other rows"
    assert results[2]
    assert results[2].reason == "needs more than there is"


def test_the_curves_and_the_predicted_peak_come_along(server: WandbServer, fetched: tuple[Path, Any]) -> None:
    analysis = analyse(read_study(fetched[0] / "studies" / f"{server.sweep.name}-from-wandb"))
    curve = analysis.curves[0]
    assert curve.steps == (5, 10, 15)
    assert curve.train_steps == (5, 6, 10, 11, 15, 16)
    assert analysis.rows[0].predicted_bytes == 2 * 2**30
    assert [axis.name for axis in analysis.axes] == ["learning_rate", "lora_r"]
    assert analysis.curves[5].values == (2.5, 2.25)  # by W&B's own count of rows


def test_a_second_reading_takes_what_is_new_and_keeps_a_study_of_this_machine(server: WandbServer,
                                                                             fetched: tuple[Path, Any]) -> None:
    folder, _ = fetched
    study = folder / "studies" / f"{server.sweep.name}-from-wandb"
    before = read_study(study)
    list(server.state.runs.values())[-1].state = "running"  # the preempted one was given out again

    again = command(server, folder, "report", f"{server.url}/tester/demo/sweeps/{server.sweep.name}")

    assert again.returncode == 0, again.stderr
    assert read_study(study).records[:-1] == before.records[:-1]
    assert before.records[-1].result
    assert read_study(study).records[-1].result is None

    shutil.rmtree(study)
    write_study(study, [Made(value=1.0)])
    refused = command(server, folder, "report", f"tester/demo/{server.sweep.name}")
    assert refused.returncode == 1
    assert "is a study of this machine and is not written over" in refused.stderr


def test_a_sweep_that_is_not_there_is_one_clear_line(server: WandbServer, tmp_path: Path) -> None:
    done = command(server, tmp_path, "report", "tester/demo/nowhere0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: W&B does not show us the sweep tester/demo/nowhere0; copy its id or URL")
    assert len(done.stderr.splitlines()) == 1


def test_an_address_is_told_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    addresses = ["me/mine/ab12cd34", "https://wandb.ai/me/mine/sweeps/ab12cd34"]
    paths = ["studies/mine/ab12cd34", "studies/two", "/me/mine/ab12cd34", "me/mine/my-study", "ab12cd34", "https://x/y"]
    assert [_is_sweep(text) for text in addresses + paths] == [True] * 2 + [False] * 6


OVER = """
sweep_id = wandb.sweep({"method": "random", "run_cap": 3, "name": "mine", "metric": {
    "name": "eval/loss", "goal": "minimize"}, "parameters": json.loads(sys.argv[1])}, project="demo")
losses = [2.0, 1.0, 3.0]

def ours():
    run = wandb.init()
    loss = losses.pop(0)
    run.log({"train/global_step": 5, "eval/loss": loss})
    run.summary.update({"eval/loss": loss, "outcome": "complete"})
    run.finish()

wandb.agent(sweep_id, function=ours, project="demo", count=4)
"""


def test_the_winner_of_a_sweep_that_is_over_is_confirmed_by_tagged_runs_of_its_project(tmp_path: Path) -> None:
    """Its agents ran elsewhere. The second time nothing is left to do."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} is said {i} times, and {i * 7 % 10} after it\n" for i in range(300)))
    fixed = {"trainer": "charlm", "dataset": str(text), "max_length": 16, "batch_size": 4, "max_tokens": 3200,
             "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "max_eval_tokens": 256,
             "evaluations": 2}
    parameters = {**{name: {"value": value} for name, value in fixed.items()},
                  "learning_rate": {"values": [0.001, 0.01, 0.03]}, "warmup_ratio": {"value": "10 * learning_rate"}}
    with WandbServer(seed=1) as server, clients(tmp_path) as start:
        server.state.script([{"learning_rate": rate} for rate in (0.001, 0.01, 0.03)])
        start(server, OVER, json.dumps(parameters)).finish(200)
        sweep = f"{server.sweep.entity}/{server.sweep.project}/{server.sweep.name}"
        first, second = (command(server, tmp_path, "agent", sweep, "--confirm", "2x1", "--cpu") for _ in range(2))
        runs = [run for run in server.state.runs.values() if not run.sweep]
        starts = [run.starts for run in runs]
        assert server.state.unknown == []
    trials = [run.name for run in server.state.runs.values() if run.sweep]
    assert first.returncode == second.returncode == 0, first.stdout + first.stderr
    assert next(line for line in first.stdout.splitlines() if line.startswith("seeds ")) in second.stdout
    assert [(run.project, run.state, sorted(run.about["tags"])) for run in runs] == [
        ("demo", "finished", sorted(["confirmation", f"trial {trials[place]}"])) for place in (1, 0)]
    assert [(run.params["learning_rate"], run.params["warmup_ratio"], run.params["seed"]) for run in runs] == [
        (0.01, 0.1, 43), (0.001, 0.01, 43)]
    assert starts == [1, 1], "what W&B has is not sent again"
    study = read_study(tmp_path / "studies" / server.sweep.name / "confirmation")
    assert [run.summary["eval/loss"] for run in runs] == [record.result.metric for record in study.finished]
