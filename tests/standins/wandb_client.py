"""Processes of the real wandb client, for tests against the loopback W&B server.

KAGGLE_RUNNER_TEST_WANDB_PYTHON names the Python that runs them, for another wandb version (default: this one). A
script finds `wandb`, `SWEEP`, `say(key=value)`, whose values `Client.facts` collects, and `trial(...)`, a small
training loop for `wandb.agent`.

It is the real client, with its own unpleasant habits: it starts a process of its own (wandb-core) that outlives a
killed parent, so `kill` ends the whole group; a stop arrives as an exception thrown into the thread that trains;
and it polls every 5 and 15 seconds, for which it has no setting, so PRELUDE shortens them from inside.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.standins.wandb_server import WandbServer

PYTHON = os.environ.get("KAGGLE_RUNNER_TEST_WANDB_PYTHON", sys.executable)
MISSING = "KAGGLE_RUNNER_TEST_WANDB_PYTHON" not in os.environ and importlib.util.find_spec("wandb") is None
SWEEP: dict[str, Any] = {
    "method": "random",
    "metric": {"name": "eval/loss", "goal": "minimize"},
    "parameters": {
        "learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-5, "max": 1.0e-3},
        "lora_r": {"values": [4, 8]},
        "max_steps": {"value": 3},
    },
}
PRELUDE = """
import json, os, sys, time
import wandb
from wandb.agents import pyagent

# Waiting times the client has no setting for; older versions lack these knobs and take their 5 s and 15 s.
pyagent.Agent.HEARTBEAT_SLEEP_SECONDS = 0.1
try:
    from wandb.sdk.lib.run_stopping import RunStopChecker
    RunStopChecker.__init__.__kwdefaults__["poll_interval"] = 0.5
except ImportError:
    pass
started = 0

def say(**facts):
    print("SAID " + json.dumps(facts), flush=True)

def trial(resume=None, rows=3, pause=0.0, preempt_at=None, until=None, counted=None):
    global started
    started += 1
    run = wandb.init(resume=resume)
    say(run=run.id, resumed=run.resumed, first=run.starting_step, config=dict(run.config))
    try:
        for i in range(run.starting_step, rows):
            run.log({"eval/loss": 10.0 - i, "train/global_step": i})
            done = i + 1
            if counted:
                open(counted, "w").write(str(done))
            time.sleep(pause)
            if preempt_at == i:
                run.mark_preempting()
                return run.finish(exit_code=75)
            if until and os.path.exists(until):
                break
    except Exception as error:
        say(error=type(error).__name__, rows=done)
        return run.finish(exit_code=143)
    say(rows=done)
    run.finish()
"""


class Client:
    """A wandb client process; after `finish`, `facts` holds what it said by key, `text` everything it printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.text = ""
        self.facts: dict[str, list[Any]] = defaultdict(list)

    def finish(self, timeout_s: float = 250.0) -> "Client":
        """Wait for it to end well."""
        self.text = self.process.communicate(timeout=timeout_s)[0]
        for line in self.text.splitlines():
            if line.startswith("SAID "):
                for key, value in json.loads(line[5:]).items():
                    self.facts[key].append(value)
        assert self.process.returncode == 0, self.text
        return self

    def kill(self) -> None:
        """Kill it with everything it started, wandb-core included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


Start = Callable[..., Client]


@contextlib.contextmanager
def clients(directory: Path) -> Iterator[Start]:
    """Start client processes in `directory`; nothing of them outlives the block."""
    running: list[Client] = []

    def start(server: WandbServer, body: str, *arguments: str, **changes: str) -> Client:
        script = directory / f"client{len(running)}.py"
        script.write_text(f"{PRELUDE}\nSWEEP = {SWEEP!r}\n{body}")
        process = subprocess.Popen(
            [PYTHON, str(script), *arguments],
            env={**server.environment(directory), **changes},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        running.append(Client(process))
        return running[-1]

    try:
        yield start
    finally:
        for client in running:
            client.kill()
            client.process.communicate()
