"""An agent of a W&B sweep that can be left alone: W&B hands out the trials, the worker trains them.

Three threads: W&B's agent in the main thread; a thread of W&B's for each job, which only waits, because the server's
stop is an exception that W&B throws into it at any moment; and one of ours, which does all the work and logs it. We
end W&B's agent by an interrupt, and only when it cannot have been given one more job that nobody would ever open.
"""

import contextlib
import math
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb

from kaggle_runner.errors import INTERRUPTED, HostError, StudyError
from kaggle_runner.events import Note, Notify
from kaggle_runner.machine.budget import budget_for
from kaggle_runner.machine.deadline import in_minutes
from kaggle_runner.machine.environment import Environment
from kaggle_runner.machine.faults import end_in_peace, lacks_handles
from kaggle_runner.machine.gpu import Gpu
from kaggle_runner.machine.gpu_lock import hold_gpu
from kaggle_runner.machine.keys import FoundKey
from kaggle_runner.machine.writable import require_writable
from kaggle_runner.memory.fit import memory_limit_of
from kaggle_runner.run.signals import handling, told_of_signals
from kaggle_runner.run.worker_process import WorkerSettings
from kaggle_runner.run.workers import require_packages
from kaggle_runner.study.journal import Snapshot, Study
from kaggle_runner.study.lock import this_process
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.wandb.answers import ask_server
from kaggle_runner.wandb.connection import LEAVE_S, connect, leave_in_time, refused
from kaggle_runner.wandb.ending import AgentPatience
from kaggle_runner.wandb.ends.client_words import ClientWords, listening
from kaggle_runner.wandb.ends.hand_back import hand_back
from kaggle_runner.wandb.ends.missed import missed_ends, tell_missed
from kaggle_runner.wandb.ends.reclaim import reclaim, reclaim_crashed, seen_through, still_waiting
from kaggle_runner.wandb.ends.unheld import crashed_that_go_on, pending_of
from kaggle_runner.wandb.ends.verdict import NO_JOB, verdict_on
from kaggle_runner.wandb.jobs import JobRunner
from kaggle_runner.wandb.order import AgentOrder, find_for_agent, study_directory
from kaggle_runner.wandb.run import RunLost
from kaggle_runner.wandb.sweep import ALIVE_STATES, OVER_STATES, RemoteSweep, state_of

REJOIN_S = 5.0
"""Seconds before we register again with a sweep that is there and has sent us away, as one 404 does."""
_POLL_S = 0.1
_ON_THE_WAY_S = 1.0
"""Seconds for the answer to a request for a trial that W&B's client, which has ended, had under way."""


@dataclass(frozen=True, kw_only=True)
class AgentSession:
    """What an agent did, and why it ended."""

    exit_status: int
    """0: the sweep is over, or as many trials as asked for are done; 130: the same command continues; 1: it gave up."""
    reason: str
    """Why the agent ended, in a sentence."""
    sweep: RemoteSweep
    snapshot: Snapshot


def run_agent(order: AgentOrder, environment: Environment, notify: Notify) -> AgentSession:
    """Run trials of a W&B sweep on one GPU until the sweep, the session or somebody ends it.

    Takes the first GPU that no other agent holds. Only a main thread can do this.

    Raises:
        ConfigError: how often checkpoints are sent is no number.
        MissingPackages: what training needs is not installed.
        SecretError: no key, or a malformed one.
        HostError: every GPU has its agent, or something that will be written cannot be.
        SweepOver: the sweep gives no trials any more.
        WandbError: W&B cannot be reached, does not know the sweep, or does not want an agent for it.
        SweepError: the sweep has parameters or a metric that our trainer does not have.
        StudyError: the directory cannot be used, or is of another sweep.
    """
    key = prepare(environment, notify)
    with contextlib.ExitStack() as stack:
        stack.callback(leave_in_time)
        sweep = find_for_agent(order, environment, key, notify)
        require_packages(environment, "finetune", sweep.spec.parameters, searches=False, extra="train,wandb")
        gpu = stack.enter_context(hold_gpu(environment.gpus))
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # this process never touches a GPU
        directory = order.study or study_directory(sweep, environment)
        # Agents on other GPUs write into the same study; on a CPU one agent is enough, and the lock refuses another.
        record = stack.enter_context(Study.open_for_writing(
            directory, name=sweep.spec.name, sweep=sweep.spec.raw, metric=sweep.spec.metric, goal=sweep.spec.goal,
            seed=None, shared=gpu is not None))
        os.environ.setdefault("WANDB_DIR", str(directory.resolve()))
        require_writable({"the study": directory, "WANDB_DIR": Path(os.environ["WANDB_DIR"]) / "wandb"})
        settings = _worker_settings(directory, environment, gpu, sweep.spec)
        record.start_session(environment.as_dict() | {
            "pid": os.getpid(), "threads": settings.threads, "gpu": settings.gpu, "deadline": order.deadline.at,
            "budget": budget_for(environment).as_dict(), "sweep": sweep.path, "wandb": wandb.__version__})
        where = f"gpu {gpu.index} ({gpu.name})" if gpu else "the CPU"
        notify(Note(text=f"agent of sweep {sweep.path} ({sweep.url}) on {where}, study {directory}"))
        runner = JobRunner(sweep=sweep, study=record, settings=settings, limit=memory_limit_of(environment),
                           deadline=order.deadline, count=order.count, patience=order.patience, pruning=order.pruning,
                           notify=notify)
        stack.callback(runner.close)
        with seen_through(order.patience) as give_up:
            reclaim(sweep, record, notify, give_up, alone=record.is_alone)
        try:
            agent = _Agent(runner, record, sweep, order.patience, notify)
            agent.run()
        except wandb.Error as error:
            if state_of(sweep) not in OVER_STATES:  # it may have ended since we asked
                raise refused(f"W&B gave no agent for the sweep {sweep.path}", error, key) from error
        exit_status, reason = verdict_on(runner.ending, sweep, order.patience, agent.words,
                                         len(still_waiting(sweep, agent.given_back - runner.opened)))
        return AgentSession(exit_status=exit_status, reason=reason, sweep=sweep, snapshot=record.snapshot())


def prepare(environment: Environment, notify: Notify) -> FoundKey:
    """See that an agent can run in this process, and return the key; told while W&B is waited for.

    Raises:
        MissingPackages: what training needs is not installed.
        HostError: this is not the main thread, or what W&B's client will write cannot be written.
        SecretError: no key, or a malformed one.
        WandbError: offline by the user's own setting, or W&B cannot be reached.
    """
    if threading.current_thread() is not threading.main_thread():
        raise HostError("an agent needs the main thread, where signals arrive; run it as a program of its own")
    require_packages(environment, "finetune", searches=False, extra="train,wandb")
    places = {"W&B's cache": Path(wandb.env.get_cache_dir()), "the temporary folder": Path(tempfile.gettempdir())}
    if named := os.environ.get("WANDB_DIR"):
        places = {"WANDB_DIR": Path(named) / "wandb", **places}
    require_writable(places)  # before the client starts, which would say it in a screen of lines
    return connect(environment, lambda text: notify(Note(text=text)))


@dataclass
class _Ticket:
    """A job of W&B's agent, passed between threads by plain attributes: a lock could be broken by the exception."""

    sent: bool = False
    stop_asked: bool = False
    done: bool = False


class _Agent:
    """W&B's agent, the thread that serves it, and the signals."""

    def __init__(self, runner: JobRunner, study: Study, sweep: RemoteSweep, patience: AgentPatience,
                 notify: Notify) -> None:
        self._runner, self._patience, self._ending, self._notify = runner, patience, runner.ending, notify
        self._study, self._sweep = study, sweep
        self.given_back: set[str] = set()
        """The runs that nobody here has opened, and that went back to the sweep's queue."""
        self._told: set[str] = set()
        """The runs whose ends W&B had missed, and was told or refused since."""
        self._lost: list[str] = []
        self.words = ClientWords(self._record_agent)
        """What the client told its log."""
        self._tickets: queue.SimpleQueue[_Ticket] = queue.SimpleQueue()
        self._over = self._interrupting = self._told_failing = False
        self._idle_since = self._told_idle = self._looked = time.monotonic()
        self._interrupted_at = -math.inf
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run W&B's agent to its end; nothing of it is running afterwards.

        Raises:
            wandb.Error: the server does not want an agent.
            StudyError: the record cannot be written.
        """
        server = threading.Thread(target=self._serve, name="trials")
        with told_of_signals(self._notify, lambda: None) as told, self._signals(told), listening(self.words):
            server.start()
            try:
                self._be_agent()
                while self._comes_back():
                    self._be_agent()
            finally:
                self._over = True
                server.join()
                self._give_back()
        if self._error is not None:
            raise self._error

    def _be_agent(self) -> None:
        until = time.monotonic() + LEAVE_S  # 0.26 does not wait for its last job to clear the environment, at its end
        while wandb.env.SWEEP_PARAM_PATH in os.environ and time.monotonic() < until:
            time.sleep(_POLL_S)
        try:
            wandb.agent(self._sweep.path, function=self._attend)
        except KeyboardInterrupt:  # our own, a moment too early or too late for W&B's agent
            pass
        except (OSError, SystemExit):  # how the client takes it that its process was ended
            if not (self._runner.lost or self._runner.let_go):
                raise

    def _comes_back(self) -> bool:
        """Say whether W&B's agent ended for no reason but an answer, or one that was lost: its sweep gives trials."""
        self._note_dead_jobs()
        if self._ending.reason or self._runner.lost or state_of(self._sweep) not in ALIVE_STATES:
            return False
        if self._lost or self._runner.let_go:
            self._runner.let_go = False
            self._give_back()
            return not self._ending.reason
        self._notify(Note(text=f"W&B answered once that it does not know this agent, and the sweep "
                               f"{self._sweep.path} is there: registering anew"))
        until = time.monotonic() + REJOIN_S
        while time.monotonic() < until and not self._ending.reason:
            time.sleep(_POLL_S)
        return not self._ending.reason

    def _note_dead_jobs(self) -> None:
        """Ask for the end when a job has died inside the client: its next ones would, too."""
        for job in self.words.dead_jobs:
            if job.run not in self._runner.opened:
                self._ending.ask(f"W&B's client gave up the job of run {job.run} before its trial began: {job.words}; "
                                 f"mend that, and run the same command again", 1)

    def _give_back(self) -> None:
        """Give the runs back that nobody holds: which nobody opened, and which crashed and sent a checkpoint."""
        if set(self.words.taken) - self._runner.opened - self.given_back:
            time.sleep(_ON_THE_WAY_S)
        for run in dict.fromkeys((*self.words.taken, *pending_of(self._sweep, self.words.agents))):
            if run in self._runner.opened | self.given_back:
                continue
            began = time.monotonic()
            try:
                hand_back(self._sweep, run, lambda began=began: self._ending.is_over(  # type: ignore[misc]
                    began, self._patience.upload_s))
            except RunLost as error:
                self._notify(Note(text=f"run {run} was not given back, so nobody will get it: {error}"))
                continue
            self.given_back.add(run)
            why = "its trial never began" if run in self.words.taken else "W&B's answer with it never came"
            self._notify(Note(text=f"run {run} goes back to the sweep's queue: {why}"))
        if not self._ending.reason:
            began = time.monotonic()

            def give_up() -> bool:
                return self._ending.is_over(began, self._patience.upload_s)

            self._told |= set(tell_missed(self._sweep, self._study.directory, self._notify, give_up, self._told))
            self.given_back |= set(reclaim_crashed(self._sweep, self._study.directory, self._notify, give_up,
                                                   self._runner.opened | self.given_back))
        self._lost.clear()

    def _find_lost(self) -> list[str]:
        """Find, between two trials, what goes back to the queue before the next one."""
        lost = [run for run in pending_of(self._sweep, self.words.agents) if run not in self.words.taken]
        if time.monotonic() - self._looked > self._patience.look_s:
            self._looked = time.monotonic()
            lost += crashed_that_go_on(self._sweep, self._study.directory)[0]
            lost += missed_ends(self._sweep, self._study.directory)
        return [run for run in lost if run not in self._runner.opened | self.given_back | self._told]

    def _attend(self) -> None:
        """Wait for a job to be done: W&B calls this for each, in a thread of its own, and throws its stop into it."""
        ticket: _Ticket | None = None
        stopped = False
        while True:
            try:
                ticket = ticket or _Ticket()
                ticket.stop_asked = stopped
                if not ticket.sent:
                    self._tickets.put(ticket)
                    ticket.sent = True
                while not ticket.done:
                    time.sleep(_POLL_S)
                return
            except Exception:  # thrown once, at any bytecode, and the bare class
                stopped = True

    def _serve(self) -> None:
        served: _Ticket | None = None
        while not self._over:
            try:
                ticket = self._tickets.get(timeout=_POLL_S)
            except queue.Empty:
                self._watch()
                continue
            if ticket is served:  # sent twice, because the stop came in between
                continue
            served = ticket
            self.words.forget_requests()
            self._told_failing = False
            try:
                self._runner.run(lambda ticket=ticket: ticket.stop_asked)  # type: ignore[misc]
                self._runner.check_deadline()
                if lacks := lacks_handles():  # found by the client, in the next job, it would be its traceback
                    self._ending.ask(lacks, 1)
                    end_in_peace()
                self._lost = [] if self._ending.reason else self._find_lost()
            except BaseException as error:  # for the main thread, which raises it
                self._error = error
                self._ending.ask(str(error), 1)
            # after a stop W&B may have sent the next job already
            if (self._ending.reason or self._lost or self._runner.let_go) and not ticket.stop_asked:
                self._interrupt()
            self._idle_since = self._told_idle = time.monotonic()
            ticket.done = True

    def _watch(self) -> None:
        """End W&B's agent when no job comes, or when the end was asked for and no job can be under way."""
        self._runner.check_deadline()
        self._note_dead_jobs()
        now = time.monotonic()
        if now - self._idle_since > self._patience.no_job_s:
            self._ending.ask(NO_JOB, 1)
        if self._ending.is_due(self._idle_since, self._patience.queued_s):
            self._interrupt()
        elif not self._ending.reason and (now - self._told_idle > self._patience.told_s
                                          or (self.words.failed_requests and not self._told_failing)):
            self._told_idle, self._told_failing = now, self.words.failed_requests > 0
            threading.Thread(target=self._tell_idle, name="idle", daemon=True).start()  # which may wait for an answer

    def _record_agent(self, agent: str) -> None:
        """Write down by which name W&B knows us: for the next start, should this process be killed."""
        try:
            self._study.append({"event": "agent", "id": agent, "by": this_process()})
        except StudyError as error:
            self._error = error
            self._ending.ask(str(error), 1)

    def _tell_idle(self) -> None:
        """Say what W&B answers while no trial comes, if it is an error; a key that it has forgotten is an end."""
        answer = ask_server()
        if not answer.knows_key:
            return self._ending.ask(f"W&B at {answer.url} does not know our key any more: it was revoked; the study "
                                    f"keeps its trials, so take another one, and run the same command again", 1)
        trouble = answer.trouble or (self.words.failed_requests and f"W&B answers a request for one with: "
                                                                          f"{self.words.last_answer}")
        if (retried := self.words.look_at_core()) and not trouble:
            trouble = f"W&B's client tries again what was answered with {retried}"
        if trouble:
            idle = in_minutes(time.monotonic() - self._idle_since)
            self._notify(Note(text=f"no trial for {idle}, {trouble}; waiting {in_minutes(self._patience.no_job_s)}"))

    def _interrupt(self) -> None:
        """Have W&B's agent end, as by Ctrl-C; return when the main thread has heard it."""
        if time.monotonic() - self._interrupted_at < 2 * LEAVE_S:  # a second one would cut its clean-up short
            return
        self._interrupted_at = time.monotonic()
        self._interrupting = True
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        until = time.monotonic() + LEAVE_S
        while self._interrupting and not self._over and time.monotonic() < until:
            time.sleep(_POLL_S)
        time.sleep(_POLL_S)  # for W&B's agent to set its flags

    @contextlib.contextmanager
    def _signals(self, told: Callable[[int], None]) -> Iterator[None]:
        """Turn signals into a request to end; a second one leaves no time for anything."""
        signalled = False

        def handle(number: int, frame: Any) -> None:
            nonlocal signalled
            if number == signal.SIGINT and self._interrupting:
                self._interrupting = False
                raise KeyboardInterrupt
            self._ending.ask(f"interrupted by {signal.Signals(number).name}", INTERRUPTED,
                             0.0 if signalled else self._patience.hurry_s)
            signalled = True
            told(number)

        with handling(handle):
            yield


def _worker_settings(directory: Path, environment: Environment, gpu: Gpu | None, spec: SweepSpec) -> WorkerSettings:
    return WorkerSettings(
        log=directory / (f"worker-{gpu.index}.log" if gpu and gpu.index else "worker.log"),
        cache_directory=environment.cache_directory, threads=environment.cpu_count, trainer=spec.trainer,
        gpu=gpu.uuid if gpu else None, offline=spec.needs_no_hub)
