"""The commands of W&B sweeps as a person runs them: real processes, the real client, the loopback server."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kaggle_runner.study.journal import Snapshot, read_study
from tests.conftest import is_running, wait_for
from tests.standins.nvidia_smi import T4_X2, answering, path_with
from tests.standins.wandb_agent import left_in, pids_in
from tests.standins.wandb_client import MISSING, PYTHON
from tests.standins.wandb_records import Sweep
from tests.standins.wandb_server import KEY, WandbServer
from tests.standins.wandb_state import State

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.skipif(MISSING, reason="wandb is not installed"), pytest.mark.timeout(600)]
STEP_TOKENS = 64
SHORT, LONG = 5, 4000
"""Steps of a trial; the long one takes seconds, also on a fast machine that is slow to halt a worker."""


@dataclass(kw_only=True)
class Person:
    """Somebody with a folder, a key and a terminal."""

    folder: Path
    server: WandbServer
    said: list[str] = field(default_factory=list)
    """Everything that any command printed."""
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def environment(self, **changes: str) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(":")
        found = {**self.server.environment(self.folder / "home"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1",
                 "KAGGLE_RUNNER_CACHE": str(self.folder / "cache"), "TMPDIR": str(self.folder),
                 "HOME": str(self.folder), **changes}
        del found["WANDB_DIR"]
        return {name: value for name, value in found.items() if value}

    def start(self, *arguments: str, **changes: str) -> "subprocess.Popen[str]":
        self.started.append(subprocess.Popen(
            [PYTHON, "-m", "kaggle_runner", *arguments], cwd=self.folder, text=True, env=self.environment(**changes),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return self.started[-1]

    def end(self, process: "subprocess.Popen[str]", status: int) -> tuple[str, str]:
        """Wait for its end and return what it printed on stdout and stderr."""
        stdout, stderr = process.communicate(timeout=280)
        self.said += [stdout, stderr]
        assert "Traceback" not in stderr, stderr
        assert process.returncode == status, stdout + stderr
        return stdout, stderr

    def run(self, *arguments: str, status: int = 0, **changes: str) -> tuple[str, str]:
        return self.end(self.start(*arguments, **changes), status)

    def leave(self) -> None:
        """Kill what a failed test left running; agents and workers end when the command that started them is gone."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@contextlib.contextmanager
def somebody(folder: Path, seed: int = 0) -> Iterator[Person]:
    with WandbServer(seed=seed) as server:
        person = Person(folder=folder, server=server)
        try:
            yield person
        finally:
            person.leave()


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    with somebody(tmp_path) as person:
        yield person


@dataclass(kw_only=True)
class Story:
    """What happened to a sweep of four trials on a machine with two GPUs: kill -9 of one GPU's agent and then of all,
    the same command and SIGTERM, and the same command again."""

    person: Person
    made: str
    sweep: Sweep
    states: list[list[str]] = field(default_factory=list)
    """Of the runs, when a session was over."""
    left: list[list[str]] = field(default_factory=list)
    """Command lines of processes that outlived a session."""
    told: list[dict[str, str]] = field(default_factory=list)
    """What a launcher was told of a session."""
    ending: str = ""
    killed: list[tuple[list[str], list[str]]] = field(default_factory=list)
    """States of the runs, and the words of `show` for their trials, after each kill -9."""
    in_commands: list[str] = field(default_factory=list)
    """Command lines that held the key, and workers whose environment did."""

    def take(self, left: list[str]) -> None:
        """Take down what a session leaves behind."""
        self.states.append([run.state for run in self.person.server.state.runs.values()])
        self.left.append(left)
        self.told.append(json.loads((self.person.folder / "facts.json").read_text()))

    def take_killed(self) -> None:
        """Take down what is said when something was killed."""
        words = {row["id"]: row["status"] for row in self.snapshot.as_dict()["trials"]}
        runs = self.person.server.state.runs
        self.killed.append(([run.state for run in runs.values()], [words[name] for name in runs]))

    @property
    def snapshot(self) -> Snapshot:
        return read_study(self.person.folder / "studies" / self.sweep.name)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """The GPUs are a fake nvidia-smi's, so each worker trains on the one core that it is pinned to.

    Character models, whose worker starts fastest. A signal comes when both agents are in the middle of a trial: a
    worker is halted there. An agent between two trials would be given the run that the other one hands back, and would
    hand it back in its turn, or train it.
    """
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} is said {i} times, and {i * 7 % 10} after it\n" for i in range(500)))
    fixed = {"trainer": "charlm", "dataset": str(text), "max_length": 16, "batch_size": 4, "hidden_size": 16,
             "num_hidden_layers": 1, "num_attention_heads": 1, "max_eval_tokens": 256, "evaluations": 2}
    (tmp_path / "mine.yaml").write_text(json.dumps({
        "method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "run_cap": 4,
        "parameters": {**{name: {"value": value} for name, value in fixed.items()},
                       "max_tokens": {"values": [STEP_TOKENS * SHORT, STEP_TOKENS * LONG]},
                       "learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2}}}))
    points = [{"max_tokens": STEP_TOKENS * steps, "learning_rate": rate} for steps, rate in
              ((LONG, 1.0e-3), (LONG, 2.0e-3), (SHORT, 3.0e-3), (SHORT, 4.0e-3))]
    gpus = path_with(tmp_path / "bin", answering(T4_X2)).split(":", 1)[0]
    settings = {"PATH": f"{gpus}:{os.environ['PATH']}", "WANDB_PROJECT": "demo",
                "KAGGLE_RUNNER_FACTS": str(tmp_path / "facts.json")}
    with somebody(tmp_path, seed=5) as person:
        server = person.server
        server.state.script(points)
        made, _ = person.run("sweep", "mine.yaml", "--backend", "wandb", "--project", "demo")
        story = Story(person=person, made=made, sweep=server.sweep)
        command = (story.sweep.name, "--no-pruning")
        with watching(KEY, story.in_commands):
            agents = person.start("agent", *command, **settings)
            workers = halt_in_mid_trial(server, tmp_path)
            (first, worker), _ = workers.items()
            kill([parent_of(worker), worker])
            server.wait_for(lambda state: first in server.sweep.queue)
            story.take_killed()
            kill(pids_in(tmp_path))
            agents.communicate()
            story.take_killed()
            agents = person.start("agent", *command, **settings)
            workers = halt_in_mid_trial(server, tmp_path)
            agents.send_signal(signal.SIGTERM)
            server.wait_for(preempting)
            for worker in workers.values():
                with contextlib.suppress(ProcessLookupError):  # it has some seconds, and was ended
                    os.kill(worker, signal.SIGCONT)
            person.end(agents, 130)
            story.take(left_in(tmp_path))
            story.ending, _ = person.run("agent", *command, **settings)
            story.take(left_in(tmp_path))
        yield story


def halt_in_mid_trial(server: WandbServer, folder: Path) -> dict[str, int]:
    """Halt each of two workers as soon as its trial has logged something from here on; return them by trial when W&B
    has such rows too."""
    workers: dict[str, int] = {}
    histories = (folder / "studies").glob
    before = {history: history.stat().st_mtime_ns for history in histories("*/trials/*/history.jsonl")}
    until = time.monotonic() + 250
    while len(workers) < 2 and time.monotonic() < until:
        for history in histories("*/trials/*/history.jsonl"):
            trial, seen = history.parent.name, history.stat()
            if trial not in workers and seen.st_size and seen.st_mtime_ns != before.get(history):
                workers[trial] = worker_of(trial)
                os.kill(workers[trial], signal.SIGSTOP)
        time.sleep(0.005)
    assert len(workers) == 2, server.state.runs
    for history in histories("*/trials/*/history.jsonl"):
        if history.parent.name in workers:
            assert json.loads(history.read_text().splitlines()[-1])["step"] < LONG, "halted when its trial was over"
    server.wait_for(lambda state: all(run.history for run in state.runs.values()))
    return workers


def worker_of(trial: str) -> int:
    """Find the worker that trains a trial: its parent is the agent that has the log of the trial's run open."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"kaggle_runner.run.worker" in (process / "cmdline").read_bytes():
                opened = Path("/proc", str(parent_of(int(process.name))), "fd").iterdir()
                if any(f"-{trial}/" in os.readlink(file) for file in opened):
                    return int(process.name)
    raise AssertionError(f"nobody trains {trial}")


def parent_of(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def kill(pids: Iterable[int]) -> None:
    """Kill processes with -9, and return when they are gone."""
    killed = list(pids)
    for pid in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: not any(map(is_running, killed)), 100), [
        Path(f"/proc/{pid}/status").read_text() for pid in killed if is_running(pid)]


def preempting(state: State) -> bool:
    return all(run.preempting for run in state.runs.values())


def two_gpus_have_an_agent_each_and_share_one_study(story: Story) -> None:
    snapshot, runs = story.snapshot, list(story.person.server.state.runs.values())
    assert [(each.state, each.exitcode) for each in runs] == [("finished", 0)] * 4
    assert [record.trial.number for record in snapshot.records] == [0, 1, 2, 3]
    assert {record.trial.id for record in snapshot.records} == {each.name for each in runs}
    assert [record.result.status for record in snapshot.records] == ["complete"] * 4
    for each in runs:
        record = next(record for record in snapshot.records if record.trial.id == each.name)
        rows = snapshot.history(each.name)
        assert record.trial.params == each.args
        assert [row["step"] for row in rows] == each.column("train/global_step")
        steps = each.args["max_tokens"] // STEP_TOKENS
        every = max(1, steps // 50)
        assert [row["step"] for row in rows if "train/loss" in row] == list(range(every, steps + 1, every))
        assert [row["step"] for row in rows if "eval/loss" in row] == [-(-steps // 2), steps]
        assert each.summary["eval/loss"] == record.result.metric
    uuids = [line.split(", ")[-1] for line in T4_X2.splitlines()]
    assert sorted(session["gpu"] for session in snapshot.sessions) == sorted(uuids * 3)
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert [session["threads"] for session in snapshot.sessions] == [share] * 6


def a_signal_to_the_command_reaches_every_agent_and_their_trials_resume(story: Story) -> None:
    terminated, done = story.states
    assert terminated == ["preempted", "preempted"]
    assert done == ["finished"] * 4
    assert story.left == [[], []]
    assert story.told == [{"reason": "interrupted by SIGTERM", "ended": "unfinished"},
                          {"reason": "the sweep is finished: it has all its trials", "ended": "done"}]
    assert [record.attempts for record in story.snapshot.records] == [3, 3, 1, 1]
    runs = list(story.person.server.state.runs.values())
    assert [run.starts for run in runs] == [4, 4, 1, 1], "each was opened once more to be handed back"
    for run in runs:
        assert len(run.history) == len(story.snapshot.history(run.name)), "no row twice"


def kill_9_of_one_gpus_agent_and_of_all_leaves_no_trial_that_nobody_hands_back(story: Story) -> None:
    """The command itself gives back what the one leaves; what all of them leave, the next start does."""
    one, everything = story.killed
    assert sorted(zip(*one, strict=True)) == [("preempted", "preempted"), ("running", "running")]
    assert sorted(zip(*everything, strict=True)) == [("preempted", "preempted"), ("running", "stopped")]
    for run in list(story.person.server.state.runs.values())[:2]:
        assert run.states.count("preempted") == 2
        assert run.states[-4:] == ["preempted", "pending", "running", "finished"]


def test_gpus_are_held_until_the_command_that_started_their_agents_is_gone(person: Person) -> None:
    """It is killed, and its agents end by themselves; the sweep is paused, so nobody needs a worker."""
    sweep = person.server.create_sweep({
        "method": "random", "metric": {"name": "eval/loss", "goal": "minimize"},
        "parameters": {"learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2}}})
    person.server.state.set_sweep_state(sweep.name, "PAUSED")
    programs = path_with(person.folder / "bin", answering(T4_X2)).split(":", 1)[0]
    path = f"{programs}:{os.environ['PATH']}"
    command = person.start("agent", f"demo/{sweep.name}", PATH=path)
    person.server.wait_for(lambda state: len(state.agents) == 2)
    _, refusal = person.run("agent", f"demo/{sweep.name}", "--study", "other", PATH=path, status=1)
    assert re.search(r"error: held by another agent: gpu 0 \(Tesla T4\) by process \d+, gpu 1 \(Tesla T4\) by process "
                     r"\d+; two trials on one GPU run out of memory, so wait for that agent or stop it", refusal)
    assert not (person.folder / "other").exists()
    command.kill()
    command.communicate()
    assert left_in(person.folder) == []
    assert person.server.state.runs == {}


def the_commands_print_what_a_person_needs_next(story: Story) -> None:
    address = f"tester/demo/{story.sweep.name}"
    page = f"{story.person.server.url}/tester/demo/sweeps/{story.sweep.name}"
    assert story.made.splitlines() == [
        f"sweep    {address}", f"page     {page}", f"here     python -m kaggle_runner agent {address}",
        f"kaggle   python -m kaggle_runner push {address}",
        f"colab    python -m kaggle_runner kernel launcher {address}"]
    best, study = story.snapshot.best, story.person.folder / "studies" / story.sweep.name
    assert f"best     trial {best.trial.id}, eval/loss {best.result.metric:.4f}" in story.ending
    assert f"study    studies/{study.name}  (the sweep is finished: it has all its trials)" in story.ending
    assert (f"sweep    {page}\nnext     python -m kaggle_runner try studies/{study.name}  # have it write\n"
            f"report   python -m kaggle_runner report studies/{study.name}\n"
            f"page     studies/{study.name}/report/index.html" in story.ending)
    assert (study / "report" / "index.html").exists()


def the_key_is_nowhere(story: Story) -> None:
    """Not in what was printed, in no file, in no command line, and not in a worker's environment."""
    assert KEY not in "".join(story.person.said)
    assert len(list(story.person.folder.rglob("wandb/run-*/*.wandb"))) >= 4
    files = [path for path in story.person.folder.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert story.in_commands == []


def finished_runs_are_taken_into_the_search_of_a_new_sweep(story: Story) -> None:
    person, (first, second, *_) = story.person, story.person.server.state.runs
    create = ("sweep", "mine.yaml", "--backend", "wandb", "--project", "demo", "--prior-runs")
    _, stderr = person.run(*create, f"{first},nowhere0", status=1)
    assert stderr.endswith("error: no sweep was created: there is no run tester/demo/nowhere0\n")
    stdout, _ = person.run(*create, f"{first},{second}")
    name = stdout.splitlines()[0].rsplit("/", 1)[1]
    assert [run.name for run in person.server.state.runs.values() if run.prior and run.sweep == name] == [first, second]


def a_study_of_w_and_bs_goes_on_without_w_and_b_and_is_logged_offline(story: Story) -> None:
    """Without a key and without a server; nothing is left to train."""
    person, study = story.person, story.person.folder / "studies" / story.sweep.name
    asked = len(person.server.state.ops)
    stdout, _ = person.run("sweep", "mine.yaml", "--study", str(study), "--log", "wandb-offline", "--project", "p",
                           WANDB_API_KEY="", WANDB_BASE_URL="http://127.0.0.1:9", WANDB_MODE="offline")
    assert f"W&B      4 offline runs; upload them with: wandb sync studies/{study.name}/wandb/offline-run-*" in stdout
    assert len(list((study / "wandb").glob("offline-run-*/run-*.wandb"))) == 4
    assert len(person.server.state.ops) == asked


@pytest.mark.slow
def test_the_story_of_a_sweep_on_two_gpus(story: Story) -> None:
    """One test, since each process of the test run that had one of several would live through the story anew."""
    for is_true in (
            two_gpus_have_an_agent_each_and_share_one_study,
            a_signal_to_the_command_reaches_every_agent_and_their_trials_resume,
            kill_9_of_one_gpus_agent_and_of_all_leaves_no_trial_that_nobody_hands_back,
            the_commands_print_what_a_person_needs_next,
            the_key_is_nowhere,
            finished_runs_are_taken_into_the_search_of_a_new_sweep,
            a_study_of_w_and_bs_goes_on_without_w_and_b_and_is_logged_offline):
        is_true(story)


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (["agent", "a/b/abcd1234", "--max-concurrency", "2"], 1, "--max-concurrency is 1 for each GPU, not 2"),
    (["agent", "a/b/abcd1234", "--count", "0"], 2, "0 is not in the range x>=1"),
    (["agent", "a/b/abcd1234", "--deadline", "soon"], 1, "--deadline 'soon' is neither a duration such as 8h"),
    (["sweep", "mine.yaml", "--backend", "wandb", "--count", "3"], 2, "--count is for trials that run here; give it "),
    (["sweep", "mine.yaml", "--backend", "wandb", "--count", "3", "--storage", "x"], 2,
     "--storage is for trials that run here, and no agent takes it; leave it out, or give --backend optuna"),
    (["sweep", "mine.yaml", "--entity", "us", "--prior-runs", "x"], 2, "--entity, --prior-runs is W&B's; give it with"),
    (["sweep", "mine.yaml", "--project", "p"], 2, "--project is W&B's; give it with --backend wandb or --log"),
])
def test_wrong_usage_is_one_message_with_its_exit_status(
    person: Person, arguments: list[str], status: int, message: str
) -> None:
    assert message in person.run(*arguments, status=status)[1]


@pytest.mark.parametrize(("key", "message"), [
    ("", "error: no W&B key found on this host (local); export WANDB_API_KEY=... with the key of your W&B settings"),
    ("abc", "error: the W&B key in WANDB_API_KEY in the environment has 3 characters"),
])
def test_a_key_that_cannot_work_is_said_within_a_second(person: Person, key: str, message: str) -> None:
    """CPU time, because the machine may be busy with other tests."""
    script = ("import resource, runpy, sys\nsys.argv = ['kaggle_runner', 'agent', 'a/b/abcd1234']\n"
              "try:\n    runpy.run_module('kaggle_runner', run_name='__main__')\n"
              "finally:\n    print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),\n"
              "          [name for name in ('torch', 'wandb') if name in sys.modules])")
    done = subprocess.run([PYTHON, "-c", script], cwd=person.folder, capture_output=True, text=True, timeout=60,
                          env=person.environment(WANDB_API_KEY=key))
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    seconds, heavy = done.stdout.split(maxsplit=1)
    assert float(seconds) < 1.0
    assert heavy == "[]\n", "what takes seconds to import was not"
    assert person.server.state.ops == []


class watching:
    """Look for a text in the command lines of all processes, and in the environments of our workers."""

    def __init__(self, text: str, found: list[str]) -> None:
        self._text, self._found, self._over = text.encode(), found, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    command = (process / "cmdline").read_bytes()
                    worker = b"kaggle_runner.run.worker" in command
                    if self._text in command or (worker and self._text in (process / "environ").read_bytes()):
                        self._found.append(command.decode())
                except OSError:
                    continue
