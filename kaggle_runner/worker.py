"""The process that owns the GPU: keeps the base model warm and trains trial after trial.

Speaks JSON lines, requests on stdin and events on the stdout it was started with, so it can be driven by hand:

    {"type": "prepare", "config": {...}}                        load base and rows
    {"type": "baseline", "config": {...}}                       measure the untouched base
    {"type": "train", "id": "0000", "config": {...}, "directory": "..."}
    {"type": "stop"} or {"type": "preempt"}                     end the running trial at its next step
    {"type": "verdict", "go_on": true}                          answer to a `rung` event, for which the trial waits

The first three are answered by events and then by one `result`, or one `failed` with its kind. When
stdin closes, the supervisor is gone: the process ends itself at once, in the middle of whatever it does.
"""

import contextlib
import gc
import hashlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kaggle_runner.base_model import BaseModel, base_key, load_base
from kaggle_runner.batches import batch_indices, collate
from kaggle_runner.config import FinetuneConfig
from kaggle_runner.data import load_rows
from kaggle_runner.errors import KaggleRunnerError
from kaggle_runner.finetune import Control, NotFinite, evaluate, train_adapter, versions
from kaggle_runner.loss import summed_loss
from kaggle_runner.phases import Phases
from kaggle_runner.threads import choose_threads
from kaggle_runner.tokens import EncodedData, encode
from kaggle_runner.worker_process import speaks_of_memory

Request = Mapping[str, Any]


class Worker:
    """The warm state and the answers to requests."""

    def __init__(self, emit: Callable[[Mapping[str, Any]], None], cache_directory: Path) -> None:
        self._emit = emit
        self._cache_directory = cache_directory
        self._device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self._base: BaseModel | None = None
        self._data: tuple[tuple[Any, ...], EncodedData] | None = None
        self._most_threads = self._threads = torch.get_num_threads()
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
            config = FinetuneConfig.from_params(request["config"])
            base, data, phases = self._prepared(config)
            if request["type"] == "prepare":
                result: Mapping[str, Any] = {"device": str(self._device), "versions": versions(), "notes": data.notes}
            elif request["type"] == "baseline":
                result = {"value": evaluate(base, data.validation, config)}
            else:
                control = Control(poll=lambda: self._wish, emit=self._emit, directory=Path(request["directory"]),
                                  checkpoint_steps=request.get("checkpoint_steps"),
                                  rung_steps=tuple(request.get("rung_steps", ())), judge=self._judge)
                outcome = train_adapter(base, data, config, request["id"], control)
                result = asdict(outcome) | {"seconds_by_phase": phases.seconds | dict(outcome.seconds_by_phase),
                                            "notes": dict(outcome.notes) | {"threads": self._threads}}
            self._emit({"event": "result", **result})
        except NotFinite as error:
            self._fail("not_finite", str(error), step=error.step)
        except KaggleRunnerError as error:
            self._fail("refused", str(error))
        except Exception as error:  # the supervisor decides what a failure means; the worker only tells
            text = f"{type(error).__name__}: {error}".strip()
            traceback.print_exc()
            out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or speaks_of_memory(text)
            self._fail("out_of_memory" if out_of_memory else "error", text.splitlines()[0])
        finally:
            self._wish = None

    def _choose_threads(self, base: BaseModel, data: EncodedData, config: FinetuneConfig) -> int:
        """Measure on the longest batch, forward only: how threads compare is the same in both directions."""
        indices = batch_indices(data.train, batch_size=config.batch_size, seed=0, position=0)
        arrays = collate(data.train, indices, pad_id=base.tokenizer.pad_token_id, completion_only=False)
        tokens_BT, mask_BT, labels_BT = (torch.from_numpy(array) for array in arrays)

        @torch.no_grad()
        def batch() -> torch.Tensor:
            return summed_loss(base.model, tokens_BT, mask_BT, labels_BT, own_head=base.own_head)

        facts = [base.sha256, base.key, tuple(tokens_BT.shape), torch.__version__, os.cpu_count(), self._most_threads]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        threads, reason = choose_threads(batch, most=self._most_threads, cache_directory=self._cache_directory, key=key)
        self._emit({"event": "note", "text": reason})
        return threads

    def _judge(self, step: int, loss: float) -> bool:
        self._emit({"event": "rung", "step": step, "eval/loss": loss})
        return self._verdicts.get()

    def _fail(self, kind: str, message: str, **facts: Any) -> None:
        self._emit({"event": "failed", "kind": kind, "message": message, **facts})

    def _prepared(self, config: FinetuneConfig) -> tuple[BaseModel, EncodedData, Phases]:
        """Return the base and the rows of a config, from the warm ones where they are the same."""
        phases = Phases()
        if self._base is None or self._base.key != base_key(config):
            self._base = self._data = None  # two bases do not fit
            gc.unfreeze()
            self._emit({"event": "phase", "phase": "load", "text": f"loading {config.model}"})
            self._base = load_base(config, self._device)
            phases.enter("load")
        key = (config.dataset, config.samples, config.full_dataset, config.max_eval_samples, config.max_length,
               config.completion_only_loss, config.model)
        if self._data is None or self._data[0] != key:
            self._emit({"event": "phase", "phase": "data", "text": f"reading {config.dataset}"})
            rows = load_rows(config, cache_directory=self._cache_directory)
            encoded = encode(rows, self._base.tokenizer, config, cache_directory=self._cache_directory)
            self._data = (key, encoded)
            self._emit({"event": "phase", "phase": "ready", "text": f"{rows.format}; {len(encoded.train)} training and "
                                                                   f"{len(encoded.validation)} held-out rows"})
            phases.enter("data")
            # What is loaded stays: the collections between trials need not look at it again.
            gc.collect()
            gc.freeze()
            if self._device.type == "cpu":
                self._threads = self._choose_threads(self._base, encoded, config)
        return self._base, self._data[1], phases


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
    emit({"event": "started", "pid": os.getpid(), "threads": torch.get_num_threads()})
    if os.environ.get("CUDA_VISIBLE_DEVICES") and not torch.cuda.is_available():
        emit({"event": "note", "text": "this torch cannot use the GPU: the worker trains on the CPU"})
    while True:
        worker.answer(requests.get())


if __name__ == "__main__":
    main()
