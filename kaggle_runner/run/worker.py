"""The process that owns the GPU: keeps a trainer's model and data warm and trains trial after trial.

Speaks JSON lines, requests on stdin and events on the stdout it was started with, so it can be driven by hand:

    {"type": "prepare", "config": {...}}                        load what the config names
    {"type": "baseline", "config": {...}}                       measure the untouched base of a fine-tune
    {"type": "forecast", "config": {...}, "room": {...}}        predict a fine-tune's memory, without loading anything
    {"type": "train", "id": "0000", "config": {...}, "directory": "..."}
    {"type": "stop"} or {"type": "preempt"}                     end the running trial at its next step
    {"type": "verdict", "go_on": true}                          answer to a `rung` event, for which the trial waits

The first four are answered by events and then by one `result`, or one `failed` with its kind. When
stdin closes, the supervisor is gone: the process ends itself at once, in the middle of whatever it does.
"""

import contextlib
import gc
import importlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from kaggle_runner.config import config_from_params
from kaggle_runner.errors import ForeignCheckpoint, KaggleRunnerError
from kaggle_runner.memory.fit import Room, fit_trial
from kaggle_runner.run.worker_process import speaks_of_memory
from kaggle_runner.training.control import Control, NotFinite

WORK = {"finetune": ("kaggle_runner.training.warm_finetune", "FinetuneWork"),
        "charlm": ("kaggle_runner.training.warm_charlm", "CharLMWork")}
"""What trains the configs of each trainer; imported when the first one comes, because transformers takes seconds."""

Request = Mapping[str, Any]


class Worker:
    """The warm state and the answers to requests."""

    def __init__(self, emit: Callable[[Mapping[str, Any]], None], cache_directory: Path) -> None:
        self._emit = emit
        self._cache_directory = cache_directory
        self._device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self._work: Any = None
        self._trainer: str | None = None
        self._wish: str | None = None
        self._verdicts: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask(self, wish: str) -> None:
        """Have the running trial `stop` or be `preempt`ed at its next step; called from another thread."""
        self._wish = wish

    def take_verdict(self, go_on: bool) -> None:
        """Let the trial that waits at a rung go on or end; called from another thread."""
        self._verdicts.put(go_on)

    def answer(self, request: Request) -> None:
        """Carry out one request and emit its result; never raises for what a trial does wrong."""
        try:
            config = config_from_params(request["config"])
            if request["type"] == "forecast":
                return self._forecast(request)
            work = self.work(config.trainer)
            phases, facts = work.prepare(config)
            if request["type"] == "prepare":
                result: Mapping[str, Any] = {"device": str(self._device), **facts}
            elif request["type"] == "baseline":
                result = {"value": work.baseline(config)}
            else:
                control = Control(poll=lambda: self._wish, emit=self._emit, directory=Path(request["directory"]),
                                  checkpoint_steps=request.get("checkpoint_steps"),
                                  rung_steps=tuple(request.get("rung_steps", ())), judge=self._judge,
                                  keep=request.get("keep", ""))
                outcome = work.train(config, request["id"], control)
                result = asdict(outcome) | {"seconds_by_phase": phases.seconds | dict(outcome.seconds_by_phase),
                                            "notes": dict(outcome.notes) | {"threads": work.threads}}
            self._emit({"event": "result", **result})
        except NotFinite as error:
            self._fail("not_finite", str(error), step=error.step)
        except ForeignCheckpoint as error:
            self._fail("foreign_checkpoint", str(error))
        except KaggleRunnerError as error:
            self._fail("refused", str(error))
        except Exception as error:  # the supervisor decides what a failure means; the worker only tells
            text = f"{type(error).__name__}: {error}".strip()
            traceback.print_exc()
            out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or speaks_of_memory(text)
            self._fail("out_of_memory" if out_of_memory else "error", text.splitlines()[0])
        finally:
            self._wish = None

    def work(self, trainer: str) -> Any:
        """Return what trains such configs, warm from the last request if it was for the same trainer."""
        if self._trainer != trainer:
            self._work = self._trainer = None  # two do not fit on a GPU
            module, name = WORK[trainer]
            gc.disable()  # collections among a million new objects take a second of the start and find nothing
            try:
                work = getattr(importlib.import_module(module), name)
            finally:
                gc.enable()
            self._work = work(self._emit, self._cache_directory, self._device)
            self._trainer = trainer
        return self._work

    def _forecast(self, request: Request) -> None:
        room = replace(Room.from_dict(request["room"]), cache_directory=self._cache_directory)
        fit = fit_trial(request["config"], room)
        self._emit({"event": "result", "fits": fit.fits, "reason": fit.reason, "notes": fit.as_notes()})

    def _judge(self, step: int, loss: float) -> bool:
        self._emit({"event": "rung", "step": step, "eval/loss": loss})
        return self._verdicts.get()

    def _fail(self, kind: str, message: str, **facts: Any) -> None:
        self._emit({"event": "failed", "kind": kind, "message": message, **facts})


def main() -> None:
    """Serve requests until stdin closes."""
    # Prints of libraries must not mix with the protocol: they go to stderr, the protocol keeps the old stdout.
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    write_lock = threading.Lock()

    def emit(event: Mapping[str, Any]) -> None:
        with write_lock, contextlib.suppress(BrokenPipeError):
            protocol.write(json.dumps(event, allow_nan=False) + "\n")
            protocol.flush()

    torch.set_num_threads(int(os.environ.get("KAGGLE_RUNNER_THREADS", str(torch.get_num_threads()))))
    worker = Worker(emit, Path(os.environ["KAGGLE_RUNNER_CACHE"]))
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if request["type"] in ("stop", "preempt"):
                worker.ask(request["type"])
            elif request["type"] == "verdict":
                worker.take_verdict(request["go_on"])
            else:
                requests.put(request)
        os._exit(0)

    threading.Thread(target=read, name="requests", daemon=True).start()
    worker.work(os.environ.get("KAGGLE_RUNNER_TRAINER", "finetune"))  # imports while the supervisor thinks
    emit({"event": "started", "pid": os.getpid(), "threads": torch.get_num_threads()})
    if os.environ.get("CUDA_VISIBLE_DEVICES") and not torch.cuda.is_available():
        emit({"event": "note", "text": "this torch cannot use the GPU: the worker trains on the CPU"})
    while True:
        worker.answer(requests.get())


if __name__ == "__main__":
    main()
