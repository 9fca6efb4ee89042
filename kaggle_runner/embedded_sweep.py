"""Run a sweep file on this machine with the embedded study: no account, no network.

Puts the pieces together: environment, study, worker, search; and takes them down again, whatever happens.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kaggle_runner.budget import budget_for
from kaggle_runner.config import DEMO_DATASET, DEMO_MODEL, FinetuneConfig
from kaggle_runner.environment import Environment
from kaggle_runner.errors import MissingPackages
from kaggle_runner.study import Snapshot, Study, Trial, TrialResult
from kaggle_runner.supervisor import Notify, Supervisor
from kaggle_runner.sweep import SweepSpec
from kaggle_runner.tables import format_value
from kaggle_runner.worker_process import WorkerSettings

TRAINING_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "optuna", "scipy")


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """What a session did to a study."""

    snapshot: Snapshot
    reason: str
    """Why the session ended, in a sentence."""
    interrupted: bool
    gave_up: bool
    """The same failure came again and again."""


def run_embedded(spec: SweepSpec, directory: Path, environment: Environment, *, count: int | None, seed: int | None,
                 cpu_only: bool, notify: Notify) -> SweepRun:
    """Run or continue a sweep in a study directory until it is done or somebody asks for an end.

    `count` is how many trials the study shall have in the end; none takes the file's `run_cap`.

    Raises:
        MissingPackages: what training needs is not installed.
        StudyError: the directory cannot be used, or is of another sweep file or seed.
        WorkerError: the base or the data cannot be loaded; says why.
    """
    missing = [name for name in TRAINING_PACKAGES if name in environment.missing_packages]
    if missing:
        raise MissingPackages(missing, "local")
    if cpu_only:
        environment = replace(environment, gpus=())
    # From here on this process sees no GPU: the sampler imports torch, and a CUDA context here costs memory there.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the sampler's small matrices are slower with more
    from kaggle_runner.optuna_sweep import OptunaSearch, run_sweep, warm_up

    with (Study.open_for_writing(directory, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                 seed=seed) as study, _end_on_signals() as ending):
        settings = WorkerSettings(
            log=directory / "worker.log", cache_directory=environment.cache_directory, threads=environment.cpu_count,
            gpu=environment.gpus[0].uuid if environment.gpus else None, offline=_needs_no_hub(spec))
        study.start_session(environment.as_dict() | {"pid": os.getpid(), "threads": settings.threads,
                                                     "gpu": settings.gpu,
                                                     "budget": budget_for(environment).as_dict()})
        with Supervisor(study=study, settings=settings, notify=notify,
                        wish=lambda: "preempt" if ending.is_set() else None) as supervisor:
            search = OptunaSearch(study, spec, notify=notify)
            total = search.total(count)
            finished = len(study.snapshot().finished)
            notify({"event": "sweep_started", "total": total, "finished": finished, "directory": str(directory)})
            if finished < total:
                supervisor.start()
                warm_up()  # while the worker imports torch
                if study.snapshot().baseline is None:
                    value = supervisor.measure_baseline(FinetuneConfig.from_params(search.first_params()))
                    notify({"event": "baseline", "metric": spec.metric, "value": value})

            def run_trial(trial: Trial) -> TrialResult:
                notify(_started(trial, spec))
                result = supervisor.run(trial)
                notify({"event": "trial_ended", "id": trial.id, "status": result.status.value, "metric": result.metric,
                        "reason": result.reason, "seconds": result.seconds})
                return result

            outcome = run_sweep(search, run_trial=run_trial, count=count,
                                may_start=lambda: "interrupted" if ending.is_set() else None)
        return SweepRun(snapshot=study.snapshot(), reason=outcome.reason, interrupted=ending.is_set(),
                        gave_up=outcome.gave_up)


@contextlib.contextmanager
def _end_on_signals() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event; the second one ends the process as usual."""
    ending = threading.Event()
    before = {}

    def handle(number: int, frame: Any) -> None:
        ending.set()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ending
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _needs_no_hub(spec: SweepSpec) -> bool:
    fixed = spec.fixed
    return (fixed.get("model", DEMO_MODEL) == DEMO_MODEL and "model" not in spec.searched
            and fixed.get("dataset", DEMO_DATASET) == DEMO_DATASET and "dataset" not in spec.searched)


def _started(trial: Trial, spec: SweepSpec) -> Mapping[str, Any]:
    config = FinetuneConfig.from_params(trial.params)
    names = spec.searched or spec.parameters
    settings = "  ".join(f"{name} {format_value(trial.params[name])}" for name in names)
    return {"event": "trial_started", "id": trial.id, "origin": trial.origin, "settings": settings,
            "max_steps": config.max_steps}


