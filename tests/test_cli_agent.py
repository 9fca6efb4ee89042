"""The commands of W&B sweeps as a person runs them: real processes, the real client, the loopback server."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kaggle_runner.study import read_study
from tests.fake_nvidia_smi import T4_X2, answering, path_with
from tests.wandb_client import MISSING, PYTHON
from tests.wandb_server import KEY, WandbServer

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(MISSING, reason="wandb is not installed")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def sweep_file(tiny_llama: Path, rows_file: Path, tmp_path: Path) -> Path:
    """A sweep whose trials take a second or two."""
    fixed = {"model": str(tiny_llama), "dataset": str(rows_file), "samples": 100, "max_eval_samples": 10,
             "max_length": 48, "max_steps": 6, "eval_steps": 3, "lora_r": 4}
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({
        "method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "run_cap": 4,
        "parameters": {**{name: {"value": value} for name, value in fixed.items()},
                       "learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2}}}))
    return path


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer(seed=5) as server:
        yield server


@pytest.fixture
def run(server: WandbServer, tmp_path: Path) -> Run:
    """Run a command of the package to its end."""
    def run(*arguments: str, check: int | None = 0, timeout_s: float = 250.0,
            **changes: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run([PYTHON, "-m", "kaggle_runner", *arguments], env=environment(server, tmp_path, changes),
                              cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
        assert "Traceback" not in done.stderr, done.stderr
        assert check is None or done.returncode == check, done.stdout + done.stderr
        return done
    return run


def environment(server: WandbServer, directory: Path, changes: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(":")
    found = {**server.environment(directory / "wandb-home"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1",
             "KAGGLE_RUNNER_CACHE": str(directory / "cache"), "TMPDIR": str(directory), **changes}
    del found["WANDB_DIR"]
    return {name: value for name, value in found.items() if value}


@pytest.mark.slow
def test_two_gpus_have_an_agent_each_and_share_one_study(
    run: Run, server: WandbServer, sweep_file: Path, tmp_path: Path
) -> None:
    """The GPUs are a fake nvidia-smi's, so each worker trains on the one core that it is pinned to.

    Also: what the commands print, what a launcher is told, and that the key is nowhere.
    """
    made = run("sweep", "mine.yaml", "--backend", "wandb", "--project", "demo").stdout
    address = f"tester/demo/{server.sweep.name}"
    assert made.splitlines() == [
        f"sweep    {address}", f"page     {server.url}/tester/demo/sweeps/{server.sweep.name}",
        f"here     python -m kaggle_runner agent {address}",
        f"kaggle   python -m kaggle_runner push {address}",
        f"colab    python -m kaggle_runner kernel launcher {address}"]
    gpus = path_with(tmp_path / "bin", answering(T4_X2)).split(":", 1)[0]
    with watching_processes(KEY) as seen:
        done = run("agent", server.sweep.name, WANDB_PROJECT="demo", PATH=f"{gpus}:{os.environ['PATH']}",
                   KAGGLE_RUNNER_FACTS=str(tmp_path / "facts.json"))
    study = tmp_path / "studies" / server.sweep.name
    snapshot, runs = read_study(study), list(server.state.runs.values())
    assert [(each.state, each.exitcode, each.starts) for each in runs] == [("finished", 0, 1)] * 4
    assert sorted(record.trial.id for record in snapshot.records) == sorted(each.name for each in runs)
    assert [record.trial.number for record in snapshot.records] == [0, 1, 2, 3]
    assert [record.attempts for record in snapshot.records] == [1] * 4
    assert len({agent for each in runs for agent in each.agents}) == len(snapshot.sessions) == 2
    assert sorted(session["gpu"] for session in snapshot.sessions) == [
        line.split(", ")[-1] for line in T4_X2.splitlines()]
    assert [session["threads"] for session in snapshot.sessions] == [max(1, len(os.sched_getaffinity(0)) // 2)] * 2
    ended = [record.started + record.result.seconds for record in snapshot.records]
    assert sorted(record.started for record in snapshot.records)[1] < min(ended), "two trials ran at once"

    assert f"best     trial {snapshot.best.trial.id}, eval/loss {snapshot.best.result.metric:.4f}" in done.stdout
    assert f"study    {study}  (the sweep is finished: it has all its trials)" in done.stdout
    assert f"sweep    {server.url}/tester/demo/sweeps/{server.sweep.name}" in done.stdout
    assert (study / "report" / "index.html").exists()
    assert json.loads((tmp_path / "facts.json").read_text()) == {
        "reason": "the sweep is finished: it has all its trials", "ended": "done"}
    assert KEY not in made + done.stdout + done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
    assert seen == {"commands": [], "workers": []}


def test_a_study_is_logged_as_offline_runs_on_request(run: Run, server: WandbServer, sweep_file: Path,
                                                      tmp_path: Path) -> None:
    """Without a key and without a server: nobody is asked for anything."""
    done = run("sweep", "mine.yaml", "--count", "1", "--study", "s", "--log", "wandb-offline", "--project", "p",
               WANDB_API_KEY="", WANDB_BASE_URL="http://127.0.0.1:9", WANDB_MODE="offline")
    assert "W&B      1 offline runs; upload them with: wandb sync s/wandb/offline-run-*" in done.stdout
    assert len(list((tmp_path / "s/wandb").glob("offline-run-*/run-*.wandb"))) == 1
    assert server.state.ops == []


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (["agent", "a/b/c", "--max-concurrency", "2"], 1, "--max-concurrency is 1 for each GPU, not 2"),
    (["agent", "a/b/c", "--count", "0"], 2, "0 is not in the range x>=1"),
    (["agent", "a/b/c", "--deadline", "soon"], 1, "--deadline 'soon' is neither a duration such as 8h"),
    (["sweep", "mine.yaml", "--backend", "wandb", "--count", "3"], 2, "--count is for trials that run here; give it "),
    (["sweep", "mine.yaml", "--entity", "us", "--prior-runs", "x"], 2, "--entity, --prior-runs is W&B's; give it with"),
    (["sweep", "mine.yaml", "--project", "p"], 2, "--project is W&B's; give it with --backend wandb or --log"),
])
def test_wrong_usage_is_one_message_with_its_exit_status(
    run: Run, sweep_file: Path, arguments: list[str], status: int, message: str
) -> None:
    assert message in run(*arguments, check=status).stderr


@pytest.mark.parametrize(("key", "message"), [
    ("", "error: no W&B key found on this host (local); export WANDB_API_KEY=... with the key of your W&B settings"),
    ("abc", "error: the W&B key in WANDB_API_KEY in the environment has 3 characters"),
])
def test_a_key_that_cannot_work_is_said_within_a_second(
    server: WandbServer, tmp_path: Path, key: str, message: str
) -> None:
    """CPU time, because the machine may be busy with other tests."""
    script = ("import resource, runpy, sys\nsys.argv = ['kaggle_runner', 'agent', 'a/b/c']\n"
              "try:\n    runpy.run_module('kaggle_runner', run_name='__main__')\n"
              "finally:\n    print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))")
    done = subprocess.run([PYTHON, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          env=environment(server, tmp_path, {"WANDB_API_KEY": key, "HOME": str(tmp_path)}))
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert float(done.stdout) < 1.0
    assert server.state.ops == []


class watching_processes:
    """Look for a text in the command lines of all processes, and in the environments of our workers."""

    def __init__(self, text: str) -> None:
        self._text, self._over = text.encode(), threading.Event()
        self.seen: dict[str, list[Any]] = {"commands": [], "workers": []}
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> dict[str, list[Any]]:
        self._thread.start()
        return self.seen

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    command = (process / "cmdline").read_bytes()
                    if self._text in command:
                        self.seen["commands"].append(command)
                    if b"kaggle_runner.worker" in command and self._text in (process / "environ").read_bytes():
                        self.seen["workers"].append(command)
                except OSError:
                    continue
            time.sleep(0.5)
