"""The agents of one W&B sweep on this machine: one for each GPU, and one study.

With one GPU or none the agent is this process. With several each GPU's agent is a child process that sees this GPU
only and has its share of the cores: W&B's client can be one agent per process. A child gets its order as a line of
JSON on stdin and tells what happens as lines of JSON on stdout; when stdin closes, its parent is gone, and it ends as
by SIGTERM.
"""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kaggle_runner.errors import INTERRUPTED, ConfigError, KaggleRunnerError, SweepOver
from kaggle_runner.events import AgentEnded, EndAsked, Event, Note, Notify
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import Environment, detect, root_of
from kaggle_runner.machine.gpu import Gpu
from kaggle_runner.machine.gpu_lock import free_gpus
from kaggle_runner.run.child import ChildProcess, package_path
from kaggle_runner.run.signals import handling, interrupts_before_work, told_of_signals
from kaggle_runner.study.journal import Study
from kaggle_runner.wandb.agent import AgentSession, prepare, run_agent
from kaggle_runner.wandb.answers import to_stderr
from kaggle_runner.wandb.connection import GiveUp, leave
from kaggle_runner.wandb.ending import AgentPatience
from kaggle_runner.wandb.ends.reclaim import reclaim, seen_through
from kaggle_runner.wandb.order import AgentOrder, find_for_agent, study_directory

END_S = 30.0
"""Seconds that a child gets to end when it was told to."""
_POLL_S = 0.5


def run_agents(order: AgentOrder, environment: Environment, notify: Notify, *,
               max_concurrency: int = 1) -> AgentSession:
    """Run trials of a W&B sweep on every GPU that no other agent holds; `order.count` is for all of them together.

    Raises:
        ConfigError: more than one trial at a time on a GPU.
        KaggleRunnerError: as `run_agent`, before any trial.
    """
    if max_concurrency != 1:
        raise ConfigError(f"--max-concurrency is 1 for each GPU, not {max_concurrency}: two trials on one GPU run out "
                          f"of memory; with several GPUs each has an agent of its own anyway")
    if len(environment.gpus) < 2:
        return run_agent(order, environment, notify)
    key = prepare(environment, notify)
    try:
        sweep = find_for_agent(order, environment, key, notify)
    finally:
        leave()  # this process only waits from here on
    gpus = free_gpus(environment.gpus)[:order.count]
    directory = order.study or study_directory(sweep, environment)
    with Study.open_for_writing(directory, name=sweep.spec.name, sweep=sweep.spec.raw, metric=sweep.spec.metric,
                                goal=sweep.spec.goal, seed=None, shared=True) as study:
        def give_back(alone: bool, give_up: GiveUp) -> None:
            try:
                reclaim(sweep, study, notify, give_up, alone=alone)
            finally:
                leave()

        def give_back_meanwhile(hurried: Callable[[], object]) -> None:
            began, patience = time.monotonic(), order.patience
            give_back(False, lambda: time.monotonic() - began > (
                patience.hurry_s if hurried() else patience.upload_s))

        with seen_through(order.patience) as give_up:
            give_back(study.is_alone, give_up)
        orders = [replace(order, address=sweep.path, study=directory, count=count)
                  for count in _shares(order.count, len(gpus))]
        endings = _run_children(list(zip(gpus, orders, strict=True)), environment, notify,
                                give_back_meanwhile)
        exit_status, reason = _together(endings)
        return AgentSession(exit_status=exit_status, reason=reason, sweep=sweep, snapshot=study.snapshot())


class _Child:
    """The agent of one GPU, in a process of its own."""

    def __init__(self, gpu: Gpu, order: AgentOrder, cores: Sequence[int],
                 events: "queue.SimpleQueue[Event]") -> None:
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu.uuid, "PYTHONPATH": package_path(os.environ)}
        environ.pop("WANDB_SERVICE", None)  # of this process's client
        self.gpu, self._events = gpu, events
        self.ending: tuple[int, str] | None = None
        """Exit status and reason, when it has ended."""
        self._told: tuple[int, str] | None = None
        self._process = ChildProcess("kaggle_runner.wandb.one_per_gpu", environ=environ, take=self._take, cores=cores)
        with contextlib.suppress(BrokenPipeError):
            self._process.send(_written(order))

    @property
    def was_killed(self) -> bool:
        """Whether it has ended without a word of its own."""
        return self.ending is not None and self._told is None

    def signal(self, number: int) -> None:
        """Hand a signal on."""
        self._process.signal(number)

    def close(self) -> None:
        """End it, whatever it does; returns when it is gone."""
        self._process.close(END_S)
        self._process.join()

    def _take(self, event: Event | None) -> None:
        if isinstance(event, AgentEnded):
            self._told = (event.exit_status, event.reason)
        elif event is not None:
            self._events.put(event)
        else:
            status = self._process.wait()
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
            self.ending = self._told or (1, f"its agent {how}")
            self._events.put(Note(text=f"gpu {self.gpu.index}: {self.ending[1]}"))


def _run_children(work: Sequence[tuple[Gpu, AgentOrder]], environment: Environment, notify: Notify,
                  give_back: Callable[[Callable[[], object]], None]) -> list[_Child]:
    """Start a child for each GPU and wait for all of them, passing on what they tell and the signals that come.

    What one leaves behind that was killed is given back while the others go on.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    share = max(1, environment.cpu_count // len(work))
    cores = sorted(os.sched_getaffinity(0))
    children: list[_Child] = []
    buried: list[_Child] = []
    with contextlib.ExitStack() as stack, told_of_signals(notify, lambda: None) as told, \
            _signals(children, told) as signalled:
        for place, (gpu, order) in enumerate(work):
            if signalled:
                break
            children.append(_Child(gpu, order, cores[place * share:(place + 1) * share], events))
            stack.callback(children[-1].close)
        while any(child.ending is None for child in children) or not events.empty():
            with contextlib.suppress(queue.Empty):
                notify(events.get(timeout=_POLL_S))
            died = [child for child in children if child.was_killed and child not in buried]
            if died:
                buried += died
                give_back(lambda: signalled)
    for child in children:
        if signalled and child.ending and child.ending[0] not in (0, INTERRUPTED):  # before it could listen to signals
            child.ending = (INTERRUPTED, f"interrupted by {signal.Signals(signalled[0]).name}")
    return children


@contextlib.contextmanager
def _signals(children: Sequence[_Child], told: Callable[[int], None]) -> Iterator[list[int]]:
    """Hand signals on to the children, as often as they come."""
    came: list[int] = []

    def handle(number: int, frame: Any) -> None:
        came.append(number)
        for child in children:
            child.signal(number)
        told(number)

    with handling(handle):
        yield came


def _shares(count: int | None, children: int) -> list[int | None]:
    """Divide a number of trials among agents, the first ones get one more."""
    if count is None:
        return [None] * children
    return [count // children + (place < count % children) for place in range(children)]


def _together(children: Sequence[_Child]) -> tuple[int, str]:
    """Say for all agents how they ended: the same command continues if it does for one of them."""
    endings = [child.ending for child in children if child.ending is not None]
    if not endings:
        return INTERRUPTED, "interrupted before it began"
    statuses = {status for status, _ in endings}
    exit_status = INTERRUPTED if INTERRUPTED in statuses else max(statuses)
    if len(set(endings)) == 1:
        return exit_status, endings[0][1]
    return exit_status, "; ".join(f"gpu {child.gpu.index}: {child.ending[1]}" for child in children if child.ending)


def _written(order: AgentOrder) -> str:
    return json.dumps(asdict(order) | {"study": str(order.study)})


def _read_order(line: str) -> AgentOrder:
    values = json.loads(line)
    return AgentOrder(**values | {"study": Path(values["study"]), "deadline": Deadline(**values["deadline"]),
                                  "patience": AgentPatience(**values["patience"])})


def main() -> None:
    """Be the agent of one GPU until its sweep, its session or its parent ends."""
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the protocol
    lock = threading.Lock()

    def emit(event: Event) -> None:
        if isinstance(event, EndAsked):  # the parent has it from the terminal, and says it once
            return
        with lock, contextlib.suppress(BrokenPipeError):
            protocol.write(event.to_json() + "\n")
            protocol.flush()

    order = _read_order(sys.stdin.readline())

    def wait_for_the_end() -> None:
        while os.read(0, 1024):  # not through sys.stdin, whose lock would be held when the interpreter ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_the_end, name="parent", daemon=True).start()
    try:
        with interrupts_before_work(to_stderr):
            outcome = run_agent(order, detect(os.environ, root_of(os.environ)), emit)
        exit_status, reason = outcome.exit_status, outcome.reason
    except KeyboardInterrupt:
        exit_status, reason = INTERRUPTED, "interrupted before any trial"
    except SweepOver as error:  # another GPU's agent was faster
        exit_status, reason = 0, str(error)
    except KaggleRunnerError as error:
        exit_status, reason = error.exit_status, str(error)
    emit(AgentEnded(exit_status=exit_status, reason=reason))


if __name__ == "__main__":
    main()
