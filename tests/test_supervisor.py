"""The supervisor and a real worker: whatever happens to the worker, the record says it and the next trial runs."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kaggle_runner.errors import WorkerError
from kaggle_runner.events import LengthKnown
from kaggle_runner.machine.gpu import GIB
from kaggle_runner.memory.fit import MemoryLimit
from kaggle_runner.memory.predict import CPU
from kaggle_runner.run.supervisor import Supervisor, Unfinished
from kaggle_runner.run.worker_process import WorkerPatience, WorkerProcess, WorkerSettings, system_oom_kills
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status, Trial
from tests.conftest import is_running, wait_for
from tests.held_trials import CutAtARung

pytestmark = pytest.mark.timeout(900)  # workers, each of which computes for seconds to start


@pytest.fixture(scope="module")
def params(tiny_llama, rows_file):
    return {"model": str(tiny_llama), "dataset": str(rows_file), "samples": 100, "max_eval_samples": 10,
            "max_length": 48, "max_steps": 6, "eval_steps": 2, "learning_rate": 1e-2, "lora_r": 4}


@pytest.fixture
def study(tmp_path):
    with Study.open_for_writing(tmp_path / "study", name="s", sweep={}, metric="eval/loss", goal="minimize",
                                seed=None) as study:
        yield study


def settings(study, cache, **more):
    return WorkerSettings(log=study.directory / "worker.log", cache_directory=cache, threads=1, offline=True, **more)


def trial(number, params, **more):
    return Trial(id=f"{number:04d}", number=number, params={**params, **more})


def children():
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "kaggle_runner.run.worker"],
                           capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_one_worker_outlives_everything_that_goes_wrong(study, cache, params):
    """One story, because a worker takes seconds to start: baseline, good, bad, killed, stopped, good again."""
    events, after_first_log = [], []

    def notify(event):
        events.append(event)
        if event.kind == "log" and after_first_log:
            after_first_log.pop()()

    with Supervisor(study=study, settings=settings(study, cache), notify=notify) as supervisor:
        from kaggle_runner.config import FinetuneConfig

        baseline = supervisor.measure_baseline(FinetuneConfig.from_params(params))
        worker = children()
        good = supervisor.run(trial(0, params))
        assert good.status is Status.COMPLETE
        assert good.metric < baseline
        assert good.notes["attach_cpu_seconds"] > 0
        assert set(good.hashes) == {"data", "rows", "base", "adapter", "adapter_files"}
        assert good.versions["torch"]

        refused = supervisor.run(trial(1, params, target_modules="nothing"))
        assert (refused.status, refused.metric) == (Status.FAILED, None)
        assert "no adapter for target_modules 'nothing'" in refused.reason
        read = {name: good.hashes[name] for name in ("data", "rows", "base")}
        assert refused.hashes == read

        unknown = supervisor.run(trial(2, params, lora_rr=8))
        assert unknown.reason == "no such hyperparameter: lora_rr"

        nan = supervisor.run(trial(3, params, learning_rate=1e30, warmup_ratio=0.0))
        assert nan.status is Status.FAILED
        assert "loss became" in nan.reason
        assert (nan.notes["kind"], nan.hashes) == ("not_finite", read)
        assert children() == worker, "none of this is a reason for a fresh process"

        after_first_log.append(lambda: os.kill(worker[0], signal.SIGKILL))
        killed = supervisor.run(trial(4, params, max_steps=10_000))  # it would last until the kill, however late
        assert killed.status is Status.FAILED
        assert "killed by SIGKILL" in killed.reason
        assert killed.notes == {"kind": "crash", "exit_status": -signal.SIGKILL}
        assert (killed.steps >= 1, killed.hashes) == (True, read)

        again = supervisor.run(trial(5, params))
        assert again.status is Status.COMPLETE
        assert again.evaluations == good.evaluations, "a fresh process gives the same losses to the last bit"
        assert children() != worker
    assert not children()
    snapshot = read_study(study.directory)
    assert [record.result.status for record in snapshot.records] == [
        "complete", "failed", "failed", "failed", "failed", "complete"]
    assert snapshot.baseline == baseline
    rows, = snapshot.rows
    assert rows["rows"] == good.notes["rows"], "once for two workers and six trials"
    assert [row["step"] for row in snapshot.history("0005") if "eval/loss" in row] == [2, 4, 6]


def test_a_trial_is_run_as_the_forecast_of_its_memory_advises(study, cache, params, wide_llama):
    """One worker: a trial that fits, one that must compute activations twice, one that cannot fit, one not known."""
    events, params = [], {**params, "model": str(wide_llama), "batch_size": 16, "max_steps": 2}
    with Supervisor(study=study, settings=settings(study, cache), notify=events.append) as supervisor:
        supervisor.limit = MemoryLimit(budget_bytes=GIB, target=CPU, device="the CPU", reason="", cache_directory=None)
        fits = supervisor.run(trial(0, params))
        tensors = fits.notes["predicted_peak_bytes"] - fits.notes["predicted_parts"]["libraries"]
        supervisor.limit = dataclasses.replace(supervisor.limit, budget_bytes=tensors - 1)
        twice = supervisor.run(trial(1, params))
        supervisor.limit = dataclasses.replace(supervisor.limit, budget_bytes=2**16)
        events.clear()
        infeasible = supervisor.run(trial(2, params))
        assert not [event for event in events if event.kind in ("phase", "attached", "log")]
        unknown = supervisor.run(trial(3, params, model="nobody/nothing-7b"))
    assert (fits.status, twice.status, infeasible.status) == ("complete", "complete", "infeasible")
    assert (fits.notes["gradient_checkpointing"], twice.notes["gradient_checkpointing"]) == (False, True)
    assert json.loads((study.directory / "trials/0001/config.json").read_text())["gradient_checkpointing"] is True
    assert twice.evaluations == fits.evaluations, "computing activations twice changes no bit"
    assert twice.notes["predicted_peak_bytes"] < fits.notes["predicted_peak_bytes"]
    assert fits.notes["predicted_peak_bytes"] == sum(fits.notes["predicted_parts"].values())
    assert 0.5 < fits.peak_device_bytes / fits.notes["predicted_peak_bytes"] < 2
    assert "the trial needs 0.07 GiB but the budget is 0.00 GiB on the CPU; choose a smaller" in infeasible.reason
    assert "the model 'nobody/nothing-7b'" in unknown.reason
    assert [event.text for event in events if event.kind == "note"][-1].startswith(
        "no memory forecast: the shape of 'nobody/nothing-7b' is not known here")


def test_a_preempted_trial_is_resumed_by_the_next_session(study, cache, params):
    wish = CutAtARung(2)
    with Supervisor(study=study, settings=settings(study, cache), rungs=wish.rungs, judge=wish.judge,
                    end_asked=wish.end_asked) as wish.supervisor:
        cut = wish.supervisor.run(trial(0, params, max_steps=40, eval_steps=20))
    assert cut.status is Status.PREEMPTED
    assert 2 <= cut.steps < 40
    with Supervisor(study=study, settings=settings(study, cache), rungs=wish.rungs) as supervisor:
        resumed = supervisor.run(trial(0, params, max_steps=40, eval_steps=20))
        whole = supervisor.run(trial(1, params, max_steps=40, eval_steps=20))
    assert resumed.attempts == 2
    assert resumed.evaluations == whole.evaluations
    snapshot = read_study(study.directory)
    assert snapshot.history("0000") == snapshot.history("0001")
    assert not (study.directory / "trials" / "0000" / "checkpoint").exists()


def test_a_trial_that_was_cut_after_its_batch_was_halved_goes_on_in_half(study, cache, params):
    """The next session starts from the trial's own params, but its checkpoint is of the half micro-batch."""
    whole = {**params, "max_steps": 30, "eval_steps": 15, "batch_size": 4, "gradient_accumulation_steps": 1}
    half = {**whole, "batch_size": 2, "gradient_accumulation_steps": 2}
    wish = CutAtARung(2)
    with Supervisor(study=study, settings=settings(study, cache), rungs=wish.rungs, judge=wish.judge,
                    end_asked=wish.end_asked) as supervisor:
        wish.supervisor = supervisor
        cut = supervisor.run(trial(0, half))
        assert cut.status is Status.PREEMPTED
        resumed = supervisor.run(trial(0, whole))
        planned = supervisor.run(trial(1, half))
    assert resumed.status is Status.COMPLETE, resumed.reason
    assert (resumed.notes["out_of_memory_at"], resumed.notes["micro_batch"]) == (4, 2)
    assert resumed.evaluations == planned.evaluations


LIMIT = """
import os, resource, sys

if "kaggle_runner.run.worker" in sys.orig_argv and "ROOM_MIB" in os.environ:
    import torch

    made, had = torch.optim.AdamW.__init__, []

    def make(*args, **kwargs):
        made(*args, **kwargs)
        had.append(int(open("/proc/self/status").read().split("VmSize:")[1].split()[0]) * 1024)
        if len(had) == 2:
            resource.setrlimit(resource.RLIMIT_AS, (had[0] + int(os.environ["ROOM_MIB"]) * 2**20,) * 2)

    torch.optim.AdamW.__init__ = make
"""
"""In its second trial a worker may have so much more memory than it had when the adapter of its first was there."""


@pytest.mark.slow
def test_out_of_memory_runs_once_more_with_half_the_micro_batch(study, cache, wide_llama, tmp_path, monkeypatch):
    """The limit is a real one, on the worker's address space, between what the two micro-batches take at most.

    That is as follows above a new worker with its adapter: 4 rows 300 MiB and 8 rows 527 in float32, 221 and 385 in
    bfloat16; which of them it is, a first worker measures.
    """
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # else two threads that meet in malloc take 64 MiB of it
    rows = tmp_path / "long.jsonl"
    rows.write_text("".join(json.dumps({"text": f"{i} the quick brown fox jumps over the lazy dog " * 60}) + "\n"
                            for i in range(60)))
    params = {"model": str(wide_llama), "dataset": str(rows), "samples": 32, "max_eval_samples": 2, "max_length": 512,
              "max_steps": 2, "eval_steps": 2, "learning_rate": 1e-2, "lora_r": 4, "completion_only_loss": False}
    planned, at_once = ({**params, "batch_size": size, "gradient_accumulation_steps": 8 // size} for size in (4, 8))
    (tmp_path / "limit").mkdir()
    (tmp_path / "limit" / "sitecustomize.py").write_text(LIMIT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'limit'}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"))
    notes = []
    with Supervisor(study=study, settings=settings(study, cache)) as supervisor:
        measured = supervisor.run(trial(0, {**planned, "max_steps": 1, "eval_steps": 1}))
    monkeypatch.setenv("ROOM_MIB", {"float32": "410", "bfloat16": "300"}[measured.notes["compute_dtype"]])
    with Supervisor(study=study, settings=settings(study, cache),
                    notify=lambda event: notes.append(getattr(event, "text", ""))) as supervisor:
        expected = supervisor.run(trial(1, planned))
        halved = supervisor.run(trial(2, at_once))
    assert halved.status is Status.COMPLETE, halved.reason
    assert any("once more with batch_size 4, gradient_accumulation_steps 2" in note for note in notes)
    assert halved.notes["out_of_memory_at"] == 8
    assert (halved.notes["micro_batch"], halved.notes["accumulation"]) == (4, 2)
    assert halved.evaluations == expected.evaluations


def test_a_worker_that_hangs_is_ended_and_its_last_words_are_kept(study, cache, params):
    with Supervisor(study=study, settings=settings(study, cache),
                    patience=WorkerPatience(loading_s=0.3)) as supervisor:
        supervisor.start()
        os.kill(supervisor.worker_pid, signal.SIGSTOP)
        result = supervisor.run(trial(0, params))
    assert result.status is Status.FAILED
    assert "gave no sign of life for 0 s and was ended" in result.reason
    assert not children()


@pytest.mark.parametrize(("end_asked", "status"), [("preempt", Status.PREEMPTED), ("stop", Status.PRUNED)])
def test_a_wish_is_obeyed_while_the_base_is_loaded(study, cache, params, end_asked, status):
    ends = [end_asked]
    with Supervisor(study=study, settings=settings(study, cache), end_asked=lambda: ends[-1] if ends else None,
                    patience=WorkerPatience(loading_stop_s=0.1)) as supervisor:
        supervisor.start()
        os.kill(supervisor.worker_pid, signal.SIGSTOP)  # else it might be through with loading before it is asked
        ended = supervisor.run(trial(0, params))
        assert (ended.status, ended.metric, ended.steps) == (status, None, 0)
        assert ended.reason == "ended before its first step, while the model was loaded, measured or forecast"
        assert not children()
        supervisor.start()
        os.kill(supervisor.worker_pid, signal.SIGSTOP)
        with pytest.raises(Unfinished, match="ended before its first step"):
            supervisor.measure_baseline(trial(0, params).config)
        assert not children()
        ends.clear()
        assert supervisor.run(trial(1, params)).status is Status.COMPLETE


def test_the_steps_of_epochs_are_counted_before_a_trial_is_judged_or_forecast(study, cache, params):
    given = {name: value for name, value in params.items() if name != "max_steps"}
    asked = trial(0, {**given, "num_train_epochs": 1, "samples": None, "eval_share": 0.2})
    rungs, events = [], []
    with Supervisor(study=study, settings=settings(study, cache), notify=events.append,
                    rungs=lambda config: rungs.append(config.max_steps) or ()) as supervisor:
        assert supervisor.counted(asked.config).max_steps == asked.config.max_steps  # a guess of 12,000 rows
        result = supervisor.run(asked)
        assert result.status is Status.COMPLETE, result.reason
        assert rungs == [event.max_steps for event in events if isinstance(event, LengthKnown)] == [result.steps]
        assert supervisor.counted(asked.config).max_steps == result.steps < asked.config.max_steps
    written = json.loads((study.trial_directory("0000") / "config.json").read_text())
    assert (written["max_steps"], written["num_train_epochs"]) == (result.steps, None)


def test_what_cannot_be_loaded_is_said_in_one_line(study, cache, params, tmp_path):
    from kaggle_runner.config import FinetuneConfig

    (tmp_path / "empty.jsonl").write_text("")
    with Supervisor(study=study, settings=settings(study, cache)) as supervisor:
        for change, message in [
            ({"model": str(tmp_path / "nowhere")}, "the model folder .*nowhere does not exist"),
            ({"model": str(tmp_path)}, r"is not a model: it has no config\.json with a model_type"),
            ({"model": "owner/no-such-model"}, "the model 'owner/no-such-model' is not in the cache of this machine"),
            ({"dataset": str(tmp_path / "rows.jsonl")}, r"rows\.jsonl"),
            ({"dataset": str(tmp_path / "empty.jsonl")}, r"empty\.jsonl"),
            ({"samples": 5000}, r"has \d+ training rows but samples is 5000; set samples: \d+, or leave it out"),
        ]:
            with pytest.raises(WorkerError, match=message) as raised:
                supervisor.measure_baseline(FinetuneConfig.from_params({**params, **change}))
            assert "Traceback" not in str(raised.value)
            assert "\n" not in str(raised.value)


def test_a_worker_ends_when_its_supervisor_is_killed(tmp_path, cache, params):
    script = textwrap.dedent(f"""
        from pathlib import Path
        from kaggle_runner.study.trial import Trial
        from kaggle_runner.study.journal import Study
        from kaggle_runner.run.supervisor import Supervisor
        from kaggle_runner.run.worker_process import WorkerSettings
        with Study.open_for_writing(Path({str(tmp_path / 's')!r}), name="s", sweep={{}}, metric="eval/loss",
                                    goal="minimize", seed=None) as study:
            settings = WorkerSettings(log=study.directory / "worker.log", cache_directory=Path({str(cache)!r}),
                                      threads=1, offline=True)
            with Supervisor(study=study, settings=settings,
                            notify=lambda event: print(event, supervisor._worker.pid, flush=True)) as supervisor:
                supervisor.run(Trial(id="0000", number=0, params={ {**params, 'max_steps': 10_000}!r}))
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as supervisor:
        worker = next(int(line.split()[-1]) for line in supervisor.stdout if line.startswith("Logged("))
        assert is_running(worker)
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
    assert wait_for(lambda: not is_running(worker))


def test_the_worker_never_sees_keys(study, cache, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("KAGGLE_KEY", "s" * 32)
    worker = WorkerProcess(settings(study, cache))
    try:
        assert b"k" * 40 not in Path(f"/proc/{worker.pid}/environ").read_bytes()
        assert b"s" * 32 not in Path(f"/proc/{worker.pid}/environ").read_bytes()
    finally:
        worker.kill()
        worker.close()


def test_the_system_says_how_many_processes_it_killed_for_memory():
    count = system_oom_kills()
    assert count is None or count >= 0
