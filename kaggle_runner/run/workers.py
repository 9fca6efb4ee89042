"""The workers of one session: one for each GPU, or on a CPU as the trainer is best served."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kaggle_runner.config import needs_bitsandbytes
from kaggle_runner.errors import MissingPackages
from kaggle_runner.machine.environment import Environment
from kaggle_runner.run.worker_process import WorkerSettings

PACKAGES = {"finetune": ("torch", "transformers", "peft", "accelerate", "datasets"),
            "charlm": ("torch",)}
"""The packages that each trainer needs for any trial."""
SEARCH_PACKAGES = ("optuna", "scipy")
MOST_WORKERS = 8
"""Most workers of one thread each; every one of them holds about 0.4 GiB."""


def prepare_session(environment: Environment, trainer: str, *params: Mapping[str, Any], cpu_only: bool,
                    searches: bool) -> Environment:
    """Check what trials of these parameters import, hide the GPUs from this process, and return where to train.

    A sampler imports torch, and a CUDA context in the supervisor's process costs memory there.

    Raises:
        MissingPackages: what training needs is not installed.
    """
    require_packages(environment, trainer, *params, searches=searches)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return replace(environment, gpus=()) if cpu_only else environment


def require_packages(environment: Environment, trainer: str, *params: Mapping[str, Any], searches: bool,
                     extra: str = "local") -> None:
    """See that what a trainer imports is installed, and what the embedded search does where it `searches`.

    `params` are the parameters of trials: their values, or what these are chosen from.

    Raises:
        MissingPackages: some of it is not; `extra` has it.
    """
    packs = trainer == "finetune" and any(map(needs_bitsandbytes, params))
    wanted = (*PACKAGES[trainer], *(("bitsandbytes",) if packs else ()), *(SEARCH_PACKAGES if searches else ()))
    missing = [name for name in wanted if name in environment.missing_packages]
    if missing:
        raise MissingPackages(missing, extra)


def worker_settings(directory: Path, environment: Environment, *, trainer: str, offline: bool) -> list[WorkerSettings]:
    """Give each GPU a worker and a fair share of the cores; without a GPU one worker has them all."""
    gpus: list[str | None] = [gpu.uuid for gpu in environment.gpus] or [None]
    share = max(1, environment.cpu_count // len(gpus))
    cores = sorted(os.sched_getaffinity(0))
    return [WorkerSettings(
        log=directory / ("worker.log" if len(gpus) == 1 else f"worker-{i}.log"), trainer=trainer,
        cache_directory=environment.cache_directory, threads=share, gpu=gpu, offline=offline,
        cores=frozenset(cores[i * share:(i + 1) * share] or cores) if len(gpus) > 1 else None)
        for i, gpu in enumerate(gpus)]


def single_threaded_settings(directory: Path, environment: Environment, *, trainer: str) -> list[WorkerSettings]:
    """Give each GPU a worker, or each core one of a single thread: the losses then do not depend on how many there are.

    Only small models are worth it: each worker holds a model and a text of its own.
    """
    if environment.gpus:
        return worker_settings(directory, environment, trainer=trainer, offline=True)
    count = max(1, min(environment.cpu_count, MOST_WORKERS))
    return [WorkerSettings(log=directory / ("worker.log" if count == 1 else f"worker-{i}.log"), trainer=trainer,
                           cache_directory=environment.cache_directory, threads=1, offline=True)
            for i in range(count)]
