"""Our agents of W&B sweeps, in processes of the real wandb client, and what several test files ask of them.

`AGENT` goes before a script: it finds `agent(address, ...)`, whose ending is said, and `HaltedOnce`.
The client keeps its unpleasant habits, which `wandb_client` lists.
"""

import contextlib
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import wait_for
from tests.standins.wandb_client import Client, Start
from tests.standins.wandb_records import Run, Sweep
from tests.standins.wandb_server import WandbServer

ROOT = Path(__file__).parent.parent.parent
RATE = {"learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2}}
Begin = Callable[..., Client]
AGENT = """
import contextlib, fcntl
from pathlib import Path
from kaggle_runner.machine.environment import detect
from kaggle_runner.errors import KaggleRunnerError
from kaggle_runner.study.pace import Deadline
from kaggle_runner.wandb.order import AgentOrder
from kaggle_runner.wandb.one_per_gpu import run_agents
from kaggle_runner.wandb.jobs import AgentPatience

class HaltedOnce:
    # Takes the events of an agent, and halts its worker at the first row that is logged of the study, or at its first
    # event of another kind; then the file halted-STUDY holds the process id of the worker. The pipe to the agent takes
    # half of a trial's events, so that no worker ends its trial while the agent sleeps.
    def __init__(self, study, tell=lambda event: None, at="log"):
        self.halted, self.tell, self.at = Path(f"halted-{study}"), tell, at

    def __call__(self, event):
        self.tell(event)
        if event.kind == "started":
            self.worker = event.pid
            for end in Path(f"/proc/{event.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(end).startswith("pipe:"):
                        pipe = os.open(end, os.O_WRONLY | os.O_NONBLOCK)
                        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
                        os.close(pipe)
        elif event.kind == self.at and not self.halted.exists():
            os.kill(self.worker, 19)
            self.halted.with_suffix(".new").write_text(str(self.worker))
            self.halted.with_suffix(".new").rename(self.halted)

def agent(address, *, study="study", count=None, deadline=Deadline(at=None, reason="none"), pruning=True,
          max_concurrency=1, notify=lambda event: None, **patience):
    began, cpu_began = time.monotonic(), time.process_time()
    try:
        order = AgentOrder(address=address, count=count, deadline=deadline, study=Path(study), pruning=pruning,
                           patience=AgentPatience(**{"queued_s": 1.0, **patience}))
        outcome = run_agents(order, detect(), notify, max_concurrency=max_concurrency)
        say(exit_status=outcome.exit_status, reason=outcome.reason)
    except KaggleRunnerError as error:
        say(exit_status=error.exit_status, reason=str(error))
    say(seconds=time.monotonic() - began, cpu_seconds=time.process_time() - cpu_began, ended=time.time(),
        version=wandb.__version__)
"""


def character_settings(folder: Path, *, steps: int, evaluations: int) -> dict[str, Any]:
    """Return the fixed parameters of a tiny character model, and write its text."""
    text = folder / "text.txt"
    text.write_text("".join(f"{i} is said {i} times, and {i * 7 % 10} after it\n" for i in range(500)))
    values = {"trainer": "charlm", "dataset": str(text), "max_length": 16, "batch_size": 4, "max_tokens": 64 * steps,
              "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "max_eval_tokens": 256,
              "evaluations": evaluations}
    return {name: {"value": value} for name, value in values.items()}


def starter(start: Start, cache: Path, **always: str) -> Begin:
    def begin(server: WandbServer, body: str, *arguments: str, **changes: str) -> Client:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(":")
        return start(server, AGENT + textwrap.dedent(body), *arguments, PYTHONPATH=path, OMP_NUM_THREADS="1",
                     KAGGLE_RUNNER_CACHE=str(cache), **always, **changes)

    return begin


def sweep_of(fixed: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"},
            "parameters": {**fixed, **RATE}, **changes}


def path_of(sweep: Sweep) -> str:
    return f"{sweep.entity}/{sweep.project}/{sweep.name}"


def halted_in(folder: Path, study: str) -> int:
    """Return the worker that `HaltedOnce` has halted for a study; 0 before that."""
    file = folder / f"halted-{study}"
    return int(file.read_text()) if file.is_file() else 0


def is_kept(run: Run) -> bool:
    """Say whether a run's checkpoint is off its machine, with the history and the journal that go with it."""
    return len(run.files.get("kept/checkpoint.pt", b"")) > 1000 and {
        "kept/history.jsonl", "kept/trials.jsonl"} <= run.files.keys()


def left_in(folder: Path) -> list[str]:
    """Return the processes that work in a folder and do not end; one that was killed a moment ago may take its time."""
    wait_for(lambda: not processes_in(folder), 60)
    return processes_in(folder)


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of the processes that work in a folder: agents, their workers, wandb-core."""
    found = []
    for pid in pids_in(folder):
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def pids_in(folder: Path) -> list[int]:
    """Return the processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(process / "cwd")) == folder:
                found.append(int(process.name))
    return found
