"""A fault of the machine is no fault of the trial: real workers under real limits of the system."""

import contextlib
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kaggle_runner.errors import HostError, MachineFault, StudyError
from kaggle_runner.events import Event, Resumed
from kaggle_runner.machine.writable import require_writable
from kaggle_runner.run.supervisor import Supervisor
from kaggle_runner.run.worker_process import WorkerSettings
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status, Trial, TrialResult


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    text = tmp_path_factory.mktemp("rows") / "text.txt"
    text.write_text("".join(f"{i} is said {i} times, and {i * 7 % 10} after it\n" for i in range(500)))
    return {"trainer": "charlm", "dataset": str(text), "max_length": 16, "batch_size": 4, "max_tokens": 64 * 400,
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "max_eval_tokens": 256,
            "evaluations": 4, "learning_rate": 1e-3}


@contextlib.contextmanager
def supervised(directory: Path, cache: Path, notify: Any = lambda event: None) -> Iterator[Supervisor]:
    with Study.open_for_writing(directory, name="s", sweep={}, metric="eval/loss", goal="minimize",
                                seed=None) as study, Supervisor(
            study=study, notify=notify, rungs=lambda config: (250,), settings=WorkerSettings(
                log=directory / "worker.log", cache_directory=cache, threads=1, trainer="charlm")) as supervisor:
        yield supervisor


def full_disk(worker: int, study: Path) -> None:
    """A limit on the size of a file is the full disk that needs no root: a checkpoint has more, a log line less."""
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (6000, 6000))


def no_handles(worker: int, study: Path) -> None:
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, 3))


def folder_gone(worker: int, study: Path) -> None:
    shutil.rmtree(study)


def nothing(worker: int, study: Path) -> None:
    pass


Fault = Callable[[int, Path], None]
FAULTS: tuple[tuple[str, Fault, str], ...] = (
    ("whole", nothing, ""), ("full", full_disk, "File too large"), ("handles", no_handles, "Too many open files"),
    ("gone", folder_gone, "is gone|there is no folder"))


def test_no_fault_of_the_machine_costs_a_trial(params: dict[str, Any], tmp_path: Path) -> None:
    """The worker waits for a verdict, two checkpoints behind it, when it happens; then the trial goes on."""
    results: dict[str, TrialResult] = {}
    for name, fault, said in FAULTS:
        directory, trial = tmp_path / name, Trial(id="0000", number=0, params=params)
        resumed: list[int] = []

        def notify(event: Event, resumed: list[int] = resumed) -> None:
            if isinstance(event, Resumed):
                resumed.append(event.step)

        with supervised(directory, tmp_path / "cache", notify) as supervisor:
            def judge(*_: object, supervisor: Supervisor = supervisor, fault: Fault = fault,
                      directory: Path = directory) -> None:
                assert supervisor.worker_pid is not None
                fault(supervisor.worker_pid, directory)

            supervisor.judge = judge
            if name == "whole":
                results[name] = supervisor.run(trial)
                continue
            with pytest.raises((StudyError, MachineFault), match=said):
                supervisor.run(trial)
        if name == "gone":
            assert not (directory / "trials.jsonl").exists(), "no new journal that begins in the middle"
            continue
        (record,) = read_study(directory).records
        assert record.result is not None
        assert (record.result.status, record.result.notes["kind"]) == (Status.PREEMPTED, "machine")
        assert list((directory / "trials" / "0000" / "checkpoint").glob("step-*.pt")), "the last good one stays"
        with supervised(directory, tmp_path / "cache", notify) as supervisor:
            results[name] = supervisor.run(trial)
        assert resumed == [200]
        assert results[name].evaluations == results["whole"].evaluations
        assert results[name].status is Status.COMPLETE


def test_a_worker_that_cannot_be_started_is_the_machines_fault(params: dict[str, Any], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with supervised(tmp_path / "study", tmp_path / "cache") as supervisor:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        taken = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            with pytest.raises(MachineFault, match=r"this machine failed, and not the trial: .*Too many open files"):
                supervisor.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)


def test_every_folder_that_cannot_be_written_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    require_writable({"here": tmp_path})
    with pytest.raises(HostError, match=r"cannot write the study .*/file/a: Not a directory; the cache .*/file/b: Not"):
        require_writable({"here": tmp_path, "the study": tmp_path / "file" / "a", "the cache": tmp_path / "file" / "b"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
