"""The process that owns the GPU: keeps a trainer's model and data warm and trains trial after trial.

Speaks JSON lines, requests on stdin and events on the stdout it was started with, so it can be driven by hand:

    {"type": "prepare", "config": {...}}                        load what the config names
    {"type": "baseline", "config": {...}}                       measure the untouched base of a fine-tune
    {"type": "forecast", "config": {...}, "limit": {...}}       predict a fine-tune's memory, without loading anything
    {"type": "train", "id": "0000", "config": {...}, "directory": "..."}
    {"type": "stop"} or {"type": "preempt"}                     end the running trial at its next step
    {"type": "verdict", "why_it_ends": null}                    answer to a `rung` event, for which the trial waits

The first four are answered by events and then by one `prepared`, `baseline`, `forecast` or `trained`, or one `failed`
that says how; `kaggle_runner.events` has them all. When stdin closes, the supervisor is gone: the process ends itself
at once, in the middle of whatever it does.

One training of several processes has a first worker, which a supervisor drives, and others, which the first one drives.
"""

import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import queue
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kaggle_runner.config import Config, config_from_params
from kaggle_runner.errors import ForeignCheckpoint, KaggleRunnerError
from kaggle_runner.events import (
    AtRung,
    BaseMeasured,
    DataRead,
    Event,
    Failed,
    ForecastMemory,
    MeasureBase,
    MemoryForecast,
    Note,
    Notify,
    Preempt,
    Prepare,
    Prepared,
    Request,
    RungVerdict,
    Stop,
    Train,
    Trained,
    WorkerStarted,
    read_request,
)
from kaggle_runner.machine.broken import BrokenPackage, find_broken, hide_packages
from kaggle_runner.machine.environment import find_host, root_of
from kaggle_runner.machine.faults import fault_of_machine
from kaggle_runner.memory.fit import MemoryLimit, fit_trial
from kaggle_runner.metrics import Metric
from kaggle_runner.run.worker_process import TEAM_VARIABLE, speaks_of_memory
from kaggle_runner.training.control import Alone, Control, NotFinite, Trainer, Warm
from kaggle_runner.training.hub import HubWaits

if TYPE_CHECKING:
    from kaggle_runner.run.final.followers import Followers

HIDDEN = hide_packages()
"""What breaks as it is imported, and why: it is hidden before anything else is imported."""
NO_TORCH: BaseException | None = None
try:
    import torch
except (Exception, SystemExit) as error:
    if __name__ != "__main__":
        raise
    NO_TORCH = error

TRAINERS = {"finetune": ("kaggle_runner.training.warm_finetune", "WarmFinetune"),
        "charlm": ("kaggle_runner.training.warm_charlm", "WarmCharLM")}
"""What trains the configs of each trainer; imported when the first one comes, because transformers takes seconds."""


ASKED_VARIABLE = "KAGGLE_RUNNER_ASKED"
"""The request that a worker which starts again, without a broken package, has not answered yet."""


class Worker:
    """The warm state and the answers to requests."""

    def __init__(self, emit: Notify, cache_directory: Path, team: Sequence[str] | None = None,
                 start_without: Callable[[BrokenPackage, Request], None] = lambda broken, request: None) -> None:
        self._emit, self._start_without = emit, start_without
        self._followers = None if team is None else _followers_on(team, self._fail)
        self._answering = threading.Lock()
        self._is_answered = True
        self._cache_directory = cache_directory
        self._device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self._trainer: Trainer[Any] | None = None
        self._name = ""
        self._read, self._begun = 0, 0
        self._end: tuple[int, str] | None = None
        self._verdicts: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def expect(self) -> None:
        """Count a request that was read and will be answered; called from another thread."""
        self._read += 1

    def ask(self, end: str) -> None:
        """Have the request that was read last `stop` or be `preempt`ed at its next step; called from another thread.

        It ends no other one, however late it comes or however early: what it ends may be answered already, and may not
        have begun.
        """
        self._end = self._read, end

    def _end_asked(self) -> str | None:
        number, end = self._end or (0, None)
        return end if number == self._begun else None

    def take_verdict(self, why_it_ends: str | None) -> None:
        """Let the trial that waits at a rung go on or end; called from another thread."""
        self._verdicts.put(why_it_ends)

    def answer(self, request: Request) -> None:
        """Carry out one request and emit its result; never raises for what a trial does wrong."""
        self._is_answered = False
        self._begun += 1
        try:
            if isinstance(request, ForecastMemory):
                self._answer(self._forecast(request))
            elif isinstance(request, MeasureBase):
                config = config_from_params(request.config)
                self._prepare(config)
                scores = self.trainer(config.trainer).baseline(config)
                self._answer(BaseMeasured(value=scores[request.metric], metric=request.metric, scores=scores))
            elif isinstance(request, Prepare):
                prepared = self._prepare(config_from_params(request.config))
                self._answer(Prepared(device=str(self._device), versions=prepared.versions, notes=prepared.notes,
                                      train_rows=prepared.train_rows))
            elif isinstance(request, Train):
                self._answer(Trained(result=self._train(request)))
        except NotFinite as error:
            self._fail("not_finite", str(error), step=error.step)
        except ForeignCheckpoint as error:
            self._fail(error.failure, str(error))
        except KaggleRunnerError as error:
            fault = self._broken(error, request) or fault_of_machine(error)
            self._fail("machine" if fault else "refused", fault or str(error))
        except Exception as error:  # the supervisor decides what a failure means; the worker only tells
            text = f"{type(error).__name__}: {error}".strip()
            traceback.print_exc()
            out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or speaks_of_memory(text)
            fault = "" if out_of_memory else self._broken(error, request) or fault_of_machine(error)
            if out_of_memory or not self._followers or not self._followers.has_failed():
                kind = "out_of_memory" if out_of_memory else "machine" if fault else "error"
                self._fail(kind, fault or text.splitlines()[0])

    def _broken(self, error: Exception, request: Request) -> str:
        """Say which package an error comes from; of one that nothing needs this process rids itself, and asks again."""
        broken = find_broken(error)
        if broken and not broken.is_needed:
            self._start_without(broken, request)
        return broken.text if broken else ""

    def trainer(self, name: str) -> Trainer[Any]:
        """Return what trains such configs, warm from the last request if it was for the same trainer."""
        if self._trainer is None or self._name != name:
            self._trainer = None  # two do not fit on a GPU
            module, class_name = TRAINERS[name]
            with importing():
                trainer_type = getattr(importlib.import_module(module), class_name)
            trainer: Trainer[Any] = trainer_type(self._emit, self._cache_directory, self._device)
            trainer.tries_bfloat16 &= self._followers is None
            self._trainer, self._name = trainer, name
        return self._trainer

    def _prepare(self, config: Config) -> Warm:
        prepared = self.trainer(config.trainer).prepare(config)
        self._emit(DataRead(hashes=prepared.hashes))
        return prepared

    def _train(self, request: Train) -> dict[str, Any]:
        config = config_from_params(request.config)
        trainer, prepared = self.trainer(config.trainer), self._prepare(config)
        with self._team(request) as team:
            control = Control(poll=self._end_asked, emit=self._emit, directory=Path(request.directory),
                              checkpoint_steps=request.checkpoint_steps, rung_steps=request.rung_steps,
                              judge=self._judge, keep=request.keep, team=team,
                              metric=Metric(name=request.metric, goal=request.goal))
            result = trainer.train(config, request.id, control)
        hidden = [*HIDDEN, result.notes.get("hidden_package", "")] if HIDDEN else []
        return asdict(result) | {"seconds_by_phase": {**prepared.seconds_by_phase, **result.seconds_by_phase},
                                 "notes": {**result.notes, "threads": trainer.threads,
                           **({"hidden_package": "; ".join(filter(None, hidden))} if hidden else {})}}

    @contextlib.contextmanager
    def _team(self, request: Train) -> Iterator[Alone]:
        """Meet the other processes of one training; the first one starts them, when its own base is loaded."""
        if not request.shares:
            yield Alone()
            return
        from kaggle_runner.training.parallel.team import join, leave  # which trials have no use for

        with tempfile.TemporaryDirectory(prefix="kaggle_runner-") as directory:
            rendezvous, processes = Path(request.rendezvous or Path(directory, "meeting")), request.processes
            if request.rank == 0 and self._followers:
                processes = self._followers.processes
                self._followers.train(request, rendezvous)
            team = join(rendezvous, rank=request.rank, processes=processes, shares=request.shares)
            try:
                yield team
            finally:
                leave(team)

    def _forecast(self, request: ForecastMemory) -> MemoryForecast:
        limit = replace(MemoryLimit.from_dict(request.limit), cache_directory=self._cache_directory)
        fit = fit_trial(request.config, limit)
        return MemoryForecast(fits=fit.fits, reason=fit.reason, notes=fit.as_notes(), settings=fit.settings)

    def _judge(self, step: int, value: float, loss: float | None) -> str | None:
        self._emit(AtRung(step=step, value=value, loss=loss))
        return self._verdicts.get()

    def _fail(self, failure: str, message: str, step: int | None = None) -> None:
        self._answer(Failed(failure=failure, message=message, step=step))

    def _answer(self, event: Event) -> None:
        """Answer the request, once: also another process of a training may say that it failed."""
        with self._answering:
            if not self._is_answered:
                self._is_answered = True
                self._emit(event)


UNUSED = ("scipy", "sklearn")
"""What transformers imports wherever it finds it, for losses of pictures and for drafts: nothing here has either."""


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Save two of the four seconds that the libraries' imports inside the block take, and more on Kaggle's image.

    What nothing uses is not found by them; what is imported later finds it.
    Functions that are decorated with `torch.compile` are compiled at their first call: bitsandbytes 0.50 decorates four
    fallbacks as it is imported, and that loads Dynamo and Inductor, a fifth of a worker's start, for functions that its
    own kernels for CPUs and GPUs replace. Nor is garbage collected: among a million new objects there is none.
    """
    compile_now = torch.compile

    def compile_later(model: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        if model is None:
            return lambda decorated: compile_later(decorated, **options)
        compiled = functools.cache(lambda: compile_now(model, **options))

        @functools.wraps(model)
        def call(*args: Any, **kwargs: Any) -> Any:
            return compiled()(*args, **kwargs)

        return call

    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden, cast(Any, None)))  # to importers and find_spec there is none
    torch.compile = compile_later
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.enable()
        torch.compile = compile_now


def _followers_on(gpus: Sequence[str], failed: Callable[[str, str], None]) -> "Followers":
    from kaggle_runner.run.final.followers import Followers

    return Followers(gpus, failed)


def why_no_gpu() -> str:
    """Say why torch cannot use a GPU that is there, where no session must go on without; empty: it trains on the CPU.

    That is on one's own machine, and with a torch that was made for CPUs.
    """
    if torch.version.cuda is None or find_host(os.environ, root_of(os.environ))[0] == "local":
        return ""
    reason = "it finds none"
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
    return (f"no GPU to train on: nvidia-smi lists one, and torch {torch.__version__} cannot use it: {reason}; restart "
            f"the session with the image's own torch, or use the CPU: --cpu")


def main() -> None:
    """Serve requests until stdin closes."""
    # Prints of libraries must not mix with the protocol: they go to stderr, the protocol keeps the old stdout.
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    write_lock = threading.Lock()

    def emit(event: Event) -> None:
        with write_lock, contextlib.suppress(BrokenPipeError):
            protocol.write(event.to_json() + "\n")
            protocol.flush()

    def start_without(broken: BrokenPackage, request: Request) -> None:
        emit(Note(text=f"{broken.as_hidden}: the worker starts again without it"))
        os.environ[ASKED_VARIABLE] = request.to_json()
        os.dup2(protocol.fileno(), 1)
        broken.hide()

    def refuse(error: BaseException, request: Request) -> None:
        broken = find_broken(error)
        if broken is None:
            raise error
        traceback.print_exception(error)
        if not broken.is_needed:
            start_without(broken, request)
        emit(Failed(failure="machine", message=broken.text))

    asked = os.environ.pop(ASKED_VARIABLE, "")
    if NO_TORCH is not None:
        for line in itertools.chain(filter(None, [asked]), sys.stdin):
            refuse(NO_TORCH, read_request(line))
        return
    torch.set_num_threads(int(os.environ.get("KAGGLE_RUNNER_THREADS", str(torch.get_num_threads()))))
    HubWaits(emit)
    team = os.environ.get(TEAM_VARIABLE)
    worker = Worker(emit, Path(os.environ["KAGGLE_RUNNER_CACHE"]), None if team is None else json.loads(team),
                    start_without)
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()

    def take(request: Request) -> None:
        worker.expect()
        requests.put(request)

    def read() -> None:
        for line in sys.stdin:
            request = read_request(line)
            if isinstance(request, Stop | Preempt):
                worker.ask(request.kind)
            elif isinstance(request, RungVerdict):
                worker.take_verdict(request.why_it_ends)
            else:
                take(request)
        os._exit(0)

    if asked:
        take(read_request(asked))
    threading.Thread(target=read, name="requests", daemon=True).start()
    failed: BaseException | None = None
    no_gpu = ""
    try:
        worker.trainer(os.environ.get("KAGGLE_RUNNER_TRAINER", "finetune"))  # imports while the supervisor thinks
        emit(WorkerStarted(pid=os.getpid(), threads=torch.get_num_threads()))
    except (Exception, SystemExit) as error:
        failed = error
    if os.environ.get("CUDA_VISIBLE_DEVICES") and not torch.cuda.is_available():
        no_gpu = why_no_gpu()
        if not no_gpu:
            emit(Note(text="this torch cannot use the GPU: the worker trains on the CPU"))
    while True:
        request = requests.get()
        if no_gpu:
            emit(Failed(failure="no_gpu", message=no_gpu))
        elif failed:
            refuse(failed, request)
        else:
            worker.answer(request)


if __name__ == "__main__":
    main()
