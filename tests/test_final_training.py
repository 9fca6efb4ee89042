"""The final training: all rows, several processes in one training, and whatever happens to one of them."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
import torch

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ConfigError, ForeignRows, MachineFault, StudyError
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.machine.environment import detect
from kaggle_runner.run.final.cadence import dealt, processes_for, shares_of, spread, steps_between_checkpoints
from kaggle_runner.run.final.final_training import FinalOrder, FinalSession, run_final
from kaggle_runner.run.final.full_spec import full_spec
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import check_config
from kaggle_runner.training.control import Control
from kaggle_runner.training.data.batches import step_batches
from kaggle_runner.training.parallel.team import Team
from kaggle_runner.training.warm_finetune import WarmFinetune
from tests.conftest import is_running, wait_for

pytestmark = pytest.mark.timeout(900)  # several processes in one test
FOREVER = Deadline(at=None, reason="nobody ends a session here")


def spec_of(**params):
    return full_spec(check_config({"method": "grid", "metric": {"name": "eval/loss", "goal": "minimize"},
                                   "parameters": {name: {"value": value} for name, value in params.items()}},
                                  "one.yaml"), None)


@pytest.fixture
def here(tmp_path_factory):
    cache = {"KAGGLE_RUNNER_CACHE": str(tmp_path_factory.getbasetemp() / "final-cache")}
    return dataclasses.replace(detect({**os.environ, **cache}, Path("/")), gpus=(), cpu_count=2)


def losses(rows):
    return {(row["step"], name): row[name] for row in rows for name in ("train/loss", "eval/loss")
            if name in row}


FATE = """
import os, pathlib, resource, signal, time
import torch.distributed as dist
met, add_up, place, steps = dist.broadcast_object_list, dist.all_reduce, pathlib.Path(__file__).parent, []

def once(name):
    try:
        return not (place / name).touch(exist_ok=False)
    except FileExistsError:
        return False

def meet(*args, **kwargs):
    met(*args, **kwargs)
    if dist.get_rank() == 1 and once("short of memory"):
        size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + 8 * 2**20,) * 2)

def add(*args, **kwargs):
    steps.append(1)
    if len(steps) == 2 and not (place / "killed").exists():
        if dist.get_rank() == 0:
            (place / "arrived").write_text(str(os.getpid()))  # past the checkpoint of the first step
        else:
            while not (place / "arrived").exists():
                time.sleep(0.01)
            (place / "killed").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
    add_up(*args, **kwargs)

dist.broadcast_object_list, dist.all_reduce = meet, add
"""
"""What befalls the second process, at places of the training: it is short of memory, then it is killed in step 2."""


def test_two_processes_lose_memory_and_one_of_them_and_still_train_as_one_does(tmp_path, here, wide_llama,
                                                                              monkeypatch):
    """One story, because a worker takes seconds to start: no memory in one, half a batch, a kill, one goes on."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"{i} the quick brown fox jumps over the lazy dog " * 30}) + "\n"
                            for i in range(24)))
    base = {"model": str(wide_llama), "dataset": str(rows), "max_eval_samples": 2, "eval_share": 0.1, "max_length": 256,
            "eval_steps": 1, "learning_rate": 1e-2, "lora_r": 4, "completion_only_loss": False, "lora_dropout": 0.1}
    small = spec_of(**base, batch_size=2, gradient_accumulation_steps=4)
    torch.set_num_threads(1)
    warm, logged = WarmFinetune(lambda event: None, here.cache_directory, torch.device("cpu")), []
    warm.tries_bfloat16 = False
    warm.train(FinetuneConfig.from_params(small.fixed), "one", Control(
        poll=lambda: None, emit=logged.append, directory=tmp_path / "one", team=Team(shares=2)))
    notes = []

    def notify(event):
        notes.append(getattr(event, "text", getattr(event, "settings", "")))

    fate = tmp_path / "fate"
    fate.mkdir()
    (fate / "sitecustomize.py").write_text(FATE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(fate), os.environ.get("PYTHONPATH", "")]).rstrip(":"))
    large = spec_of(**base, batch_size=8, gradient_accumulation_steps=1)
    order = FinalOrder(directory=tmp_path / "two", processes=2, deadline=FOREVER)
    with Study.open_for_writing(order.directory, name="two", sweep=small.raw, metric="eval/loss", goal="minimize",
                                seed=None) as study:
        study.start_session({"shares": 3})  # of a file that was wrong, in which nothing was trained
    broken = run_final(large, order, here, notify)
    assert "3 steps" in notes
    assert any("once more with batch_size 2, gradient_accumulation_steps 4" in note for note in notes), notes
    assert broken.result.status is Status.FAILED
    assert broken.result.reason == "process 2 of 2 was killed by SIGKILL"
    assert broken.result.notes["kind"] == "crash"
    ended = [int((fate / name).read_text()) for name in ("arrived", "killed")]
    assert wait_for(lambda: not any(map(is_running, ended)))
    resumed = []
    whole = run_final(large, dataclasses.replace(order, processes=1), here, resumed.append)
    assert whole.result.status is Status.COMPLETE, whole.result.reason
    assert 1 in [event.step for event in resumed if event.kind == "resumed"]
    (choice,) = [event.text for event in resumed if "a batch takes" in getattr(event, "text", "")]
    threads = whole.result.notes["threads"]  # chosen as a trial's, of both cores; two processes have one each
    assert re.match(rf"{threads} CPU threads?, float32 \(a batch takes, by threads, 1: \d+ ms, 2: \d+ ms\)$", choice)
    assert not any("a batch takes" in str(note) for note in notes)
    expected = losses(event.row for event in logged if event.kind == "log")
    assert len(expected) == 6
    assert losses(read_study(tmp_path / "two").history("0000")) == pytest.approx(expected, abs=1e-5)
    assert run_final(large, order, here, lambda event: None).result.status is Status.COMPLETE  # nothing is left to do
    with pytest.raises(StudyError, match=r"two was trained with other values: batch_size 8 then, 2 now; "
                                         r"gradient_accumulation_steps 1 then, 4 now; choose another directory"):
        run_final(small, order, here, lambda event: None)


LIMIT = """
import resource
import torch.distributed as dist
met = dist.broadcast_object_list

def meet(*args, **kwargs):
    met(*args, **kwargs)
    if dist.get_rank() == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2)

dist.broadcast_object_list = meet
"""
"""The first process may write no large file from its first evaluation on: its next one is a checkpoint."""


def test_what_failed_in_the_first_process_is_told_and_not_what_the_other_saw(tmp_path, here, tiny_llama, rows_file,
                                                                                monkeypatch):
    spec = spec_of(model=str(tiny_llama), dataset=str(rows_file), max_eval_samples=8, max_length=96, lora_r=4,
                   max_lost_share=0.9, eval_steps=1, batch_size=2, gradient_accumulation_steps=1)
    (tmp_path / "limit").mkdir()
    (tmp_path / "limit" / "sitecustomize.py").write_text(LIMIT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'limit'}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"))
    with pytest.raises(MachineFault, match=r"cannot write .*step-\d+\.pt: File too large; choose another"):
        run_final(spec, FinalOrder(directory=tmp_path / "two", processes=2, deadline=FOREVER), here,
                  lambda event: None)


def test_it_goes_on_from_any_step_to_the_last_bit_and_refuses_other_rows(tmp_path, tiny_llama, rows_file):
    params = {"model": str(tiny_llama), "dataset": str(rows_file), "samples": 40, "max_eval_samples": 8,
              "max_length": 96, "max_lost_share": 0.9, "max_steps": 4, "eval_steps": 2, "learning_rate": 1e-2}
    config = FinetuneConfig.from_params(params)
    warm = WarmFinetune(lambda event: None, tmp_path, torch.device("cpu"))
    warm.tries_bfloat16 = False

    def train(name, ends=()):
        events, asked = [], iter(ends)
        control = Control(poll=lambda: next(asked, None), emit=events.append, directory=tmp_path / name,
                          team=Team(shares=2))
        result = warm.train(config, name, control)
        return result, {(event.step, name): value for event in events if event.kind == "log"
                        for name, value in event.values.items()}

    whole, expected = train("whole")
    found = {}
    for _ in range(3):
        cut, rows = train("cut", ["preempt"])
        assert cut.status is Status.PREEMPTED
        found |= rows
    last, rows = train("cut")
    assert found | rows == expected
    assert last.hashes == whole.hashes
    train("other", ["preempt"])
    lines = rows_file.read_text().splitlines(keepends=True)
    (tmp_path / "fewer.jsonl").write_text("".join(lines[:-20]))
    for more in ({}, {"max_steps": 3}):  # which is counted from the rows where passes are asked for
        config = FinetuneConfig.from_params({**params, **more, "dataset": str(tmp_path / "fewer.jsonl")})
        with pytest.raises(ForeignRows, match="the rows have changed since this training began"):
            train("other")
    assert list((tmp_path / "other" / "checkpoint").iterdir()), "it goes on when they are back"


@pytest.mark.parametrize(("epochs", "said"), [(0.25, "0.25 of a pass over all rows is trained"),
                                              (1, "all rows are trained"), (2.5, "all rows are trained")])
def test_less_than_a_pass_is_not_called_all_rows(tmp_path, epochs, said):
    spec = spec_of(model="demo", num_train_epochs=epochs)
    with Study.open_for_writing(tmp_path / "s", name="s", sweep=spec.raw, metric="eval/loss", goal="minimize",
                                seed=0) as study:
        study.record_start(Trial(id="0000", number=0, params=spec.fixed), {})
        study.record_end(TrialResult(id="0000", status=Status.COMPLETE, metric=2.0))
    snapshot = read_study(tmp_path / "s")
    assert FinalSession(snapshot=snapshot, result=snapshot.records[0].result).reason == said


def test_shares_have_the_rows_of_the_step_and_lengths_of_all_kinds():
    from tests.test_batches import rows_of

    rows = rows_of(range(8, 48))
    common = {"batch_size": 2, "accumulation": 4, "seed": 0, "step": 3, "pass_tokens": 32}
    whole = sorted(int(i) for batch in step_batches(rows, **common) for i in batch)
    parts = [[int(i) for batch in step_batches(rows, **common, share=share, shares=2) for i in batch]
             for share in (0, 1)]
    assert sorted(parts[0] + parts[1]) == whole
    assert [len(part) for part in parts] == [4, 4]


def test_evaluations_and_checkpoints_suit_the_length_of_the_training():
    config = FinetuneConfig(max_steps=4_001, eval_steps=10)
    assert (spread(config).eval_steps, steps_between_checkpoints(spread(config))) == (101, 40)
    assert (spread(FinetuneConfig(max_steps=50)).eval_steps, steps_between_checkpoints(FinetuneConfig(max_steps=50))) \
        == (100, 1)


def test_rows_that_cannot_be_dealt_evenly_are_refused_with_the_way_out(tmp_path, here):
    config = FinetuneConfig(batch_size=2, gradient_accumulation_steps=4)
    assert [shares_of(config, count) for count in (1, 2, 4)] == [2, 2, 4]
    assert shares_of(FinetuneConfig(batch_size=1, gradient_accumulation_steps=3), 1) == 1
    with pytest.raises(ConfigError, match=r"a step of 8 rows .* cannot be dealt evenly to 3 processes; give "
                                          r"--processes 2, or a configuration whose product is a multiple of 3"):
        shares_of(config, 3)
    assert [processes_for(4, count, asked=False) for count in (1, 2, 3, 8)] == [1, 2, 1, 4]
    with pytest.raises(ConfigError, match=r"into 2 parts, which 3 processes cannot share evenly; give --processes 1 "
                                          r"or 2"):
        processes_for(2, 3, asked=True)
    large = dealt(FinetuneConfig(batch_size=8, gradient_accumulation_steps=1), 2)
    assert (large.batch_size, large.gradient_accumulation_steps) == (4, 2)
    with pytest.raises(ConfigError, match=r"--processes 100, and there are 2 CPU cores for them; give --processes 2"):
        run_final(spec_of(model="demo"), FinalOrder(directory=tmp_path / "s", processes=100, deadline=FOREVER), here,
                  lambda event: None)
    with pytest.raises(ConfigError, match=r"--full is for fine-tunes, and one.yaml is a charlm model"):
        spec_of(trainer="charlm", max_tokens=100_000)

