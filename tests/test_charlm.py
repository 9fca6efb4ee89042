"""The character model: losses that torch agrees with, and the same bits wherever a trial was interrupted."""

import dataclasses
import math
import os
import random
import signal
import string

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from kaggle_runner.cli.main import cli
from kaggle_runner.config import CharLMConfig, FinetuneConfig, config_from_params
from kaggle_runner.errors import ConfigError, SweepError
from kaggle_runner.events import Resumed, Train
from kaggle_runner.run.supervisor import Supervisor
from kaggle_runner.run.worker import Worker
from kaggle_runner.run.worker_process import WorkerSettings
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, Trial
from kaggle_runner.sweep.spec import read_sweep
from kaggle_runner.training.charlm import eval_windows, evaluate, to_device, train_character_model
from kaggle_runner.training.control import Control, NotFinite
from kaggle_runner.training.data.characters import load_corpus
from kaggle_runner.training.models.char_model import CharModel
from kaggle_runner.training.schedule import learning_rate_at
from tests.fresh_process import in_fresh_process
from tests.held_trials import CutAtARung


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    """Sentences of a small grammar: enough to learn, not enough to know by heart."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    draw = random.Random(0)
    nouns = ["cat", "dog", "bird", "house", "tree", "river", "stone"]
    verbs = ["sees", "likes", "finds", "leaves"]
    sentences = [f"the {draw.choice(nouns)} {draw.choice(verbs)} the {draw.choice(nouns)}." for _ in range(1500)]
    path.write_text("\n".join([string.ascii_lowercase, *sentences]))
    return path


@pytest.fixture(scope="module")
def config(corpus_file):
    return CharLMConfig(dataset=str(corpus_file), symbols="text8", max_length=16, max_tokens=16 * 8 * 20, batch_size=8,
                        max_eval_tokens=600, evaluations=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        dropout=0.1, learning_rate=1e-2, warmup_ratio=0.1, seed=1)


@pytest.fixture(scope="module")
def text(config, tmp_path_factory):
    return to_device(load_corpus(config, cache_directory=tmp_path_factory.mktemp("cache")), torch.device("cpu"))


class Watcher:
    """Collects the events of a trial and asks for an end after a given step."""

    def __init__(self, end_asked=None, after=0):
        self.events, self._end_asked, self._after, self._polls = [], end_asked, after, 0

    def poll(self):
        self._polls += 1
        return self._end_asked if self._polls >= self._after else None

    @property
    def rows(self):
        return [event.row for event in self.events if event.kind == "log"]


def run(text, config, directory, watcher=None, **more):
    watcher = watcher or Watcher()
    control = Control(poll=watcher.poll, emit=watcher.events.append, directory=directory, **more)
    return train_character_model(text, config, "0000", control), watcher


def test_a_trial_learns_and_reports_nats_and_bits(text, config, tmp_path):
    result, watcher = run(text, dataclasses.replace(config, save_model=True), tmp_path)
    assert (result.status, result.steps, result.tokens) == (Status.COMPLETE, 20, 16 * 8 * 20)
    assert [step for step, _ in result.evaluations] == [5, 10, 15, 20]
    assert result.metric < math.log(27) - 0.5
    assert result.notes["bits_per_character"] == pytest.approx(result.metric / math.log(2))
    evaluations = [row for row in watcher.rows if "eval/loss" in row]
    assert evaluations[-1]["eval/bits_per_character"] == pytest.approx(evaluations[-1]["eval/loss"] / math.log(2))
    assert all(row["train/grad_norm"] > 0 for row in watcher.rows if "train/loss" in row)
    model = CharModel(config, text.symbols)
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert evaluate(model, text, config) == result.evaluations[-1][1]


@pytest.mark.parametrize("after", [3, 5, 17])
def test_an_interrupted_trial_ends_with_the_same_bits(text, config, tmp_path, after):
    whole, all_rows = run(text, config, tmp_path / "whole")
    cut, early = run(text, config, tmp_path / "cut", Watcher("preempt", after))
    assert (cut.status, cut.steps) == (Status.PREEMPTED, after)
    torch.manual_seed(99)
    rest, late = run(text, config, tmp_path / "cut")
    assert late.events[0] == Resumed(step=after)
    assert rest.evaluations == whole.evaluations
    assert rest.hashes == whole.hashes
    assert early.rows + late.rows == all_rows.rows


def test_the_evaluation_is_plain_and_over_the_same_characters_for_every_configuration(text, config):
    torch.manual_seed(0)
    model = CharModel(config, text.symbols)
    smooth = dataclasses.replace(config, label_smoothing_factor=0.3, batch_size=3)
    assert evaluate(model, text, smooth) == evaluate(model, text, config)
    total, count = 0.0, 0
    model.eval()
    for windows in eval_windows(text.validation, config):
        with torch.no_grad():
            total += F.cross_entropy(model(windows[:, :-1]).transpose(1, 2), windows[:, 1:], reduction="sum").item()
        count += windows[:, 1:].numel()
    assert evaluate(model, text, config) == pytest.approx(total / count, rel=1e-6)
    positions = torch.arange(len(text.validation))
    scored = [sorted(torch.cat([w[:, 1:].flatten() for w in eval_windows(positions, dataclasses.replace(
        config, max_length=length, max_tokens=2**14))]).tolist()) for length in (8, 16, 100, 1024)]
    assert all(characters == scored[0] for characters in scored)
    assert len(set(scored[0])) == len(scored[0]) == 600


def test_label_smoothing_raises_the_training_loss_only(text, config, tmp_path):
    quick = dataclasses.replace(config, max_tokens=16 * 8 * 4, learning_rate=1e-8, dropout=0.0)
    rows = [run(text, dataclasses.replace(quick, label_smoothing_factor=smoothing), tmp_path / str(smoothing))[1].rows
            for smoothing in (0.0, 0.2)]
    plain, smooth = (next(row["eval/loss"] for row in kind if "eval/loss" in row) for kind in rows)
    assert smooth == pytest.approx(plain, abs=1e-4)


def test_how_a_step_is_cut_does_not_change_it(text, config, tmp_path):
    still = dataclasses.replace(config, dropout=0.0)
    whole, _ = run(text, still, tmp_path / "whole")
    cut, _ = run(text, dataclasses.replace(still, batch_size=2, gradient_accumulation_steps=4), tmp_path / "cut")
    assert cut.metric == pytest.approx(whole.metric, abs=1e-4)


@pytest.mark.parametrize("change", [
    {"position_embedding": "learned", "norm": "layernorm", "hidden_act": "gelu", "use_bias": True, "zero_init": False,
     "tie_word_embeddings": True, "optim": "adamw_torch"}, {"qk_norm": True}, {"norm": "layernorm", "qk_norm": True}])
def test_every_part_of_the_recipe_learns(text, config, tmp_path, change):
    result, _ = run(text, dataclasses.replace(config, **change), tmp_path)
    assert result.metric < math.log(27) - 0.4


def test_a_prediction_never_sees_what_comes_after_it(text, config):
    model = CharModel(dataclasses.replace(config, zero_init=False), text.symbols).eval()
    symbols = text.train[:16].long()[None]
    changed = symbols.clone()
    changed[0, 10:] = (changed[0, 10:] + 1) % 27
    with torch.no_grad():
        first, second = model(symbols), model(changed)
    torch.testing.assert_close(first[0, :10], second[0, :10])
    assert not torch.allclose(first[0, 10:], second[0, 10:])


def test_turning_makes_attention_depend_on_distance_only(config):
    from kaggle_runner.training.models.char_model import _turn

    rotations = CharModel(config, 27).rotations
    query, key = torch.randn(2, 1, 1, 1, 8)
    at = [_turn(x.expand(1, 16, 1, 8), rotations)[0, :, 0] for x in (query, key)]
    assert at[0][3] @ at[1][1] == pytest.approx(float(at[0][12] @ at[1][10]), rel=1e-4)


def test_equal_tokens_make_the_steps_and_schedules_end_where_they_say():
    config = CharLMConfig(max_tokens=100_000, batch_size=10, max_length=100, learning_rate=1.0, warmup_ratio=0.1,
                          min_lr_rate=0.2)
    assert (config.max_steps, dataclasses.replace(config, batch_size=20).max_steps) == (100, 50)
    assert [learning_rate_at(config, step) for step in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert learning_rate_at(config, 55) == pytest.approx(0.2 + 0.8 / 2)
    linear = dataclasses.replace(config, lr_scheduler_type="linear")
    assert learning_rate_at(linear, 100) == pytest.approx(0.2)
    constant = dataclasses.replace(config, lr_scheduler_type="constant")
    assert learning_rate_at(constant, 99) == 1.0


def test_a_loss_that_is_no_number_ends_the_trial(text, config, tmp_path):
    with pytest.raises(NotFinite, match=r"(train|eval)/loss became (nan|inf) at step \d+"):
        run(text, dataclasses.replace(config, learning_rate=1e30, norm="layernorm", optim="adamw_torch"), tmp_path)


@pytest.mark.parametrize(("params", "message"), [
    ({"trainer": "charml"}, "trainer must be one of finetune, charlm, got 'charml'"),
    ({"hidden_size": 30, "num_attention_heads": 4}, "hidden_size must be a multiple of twice num_attention_heads 4"),
    ({"max_tokens": 100}, r"max_tokens must be at least the 16384 of one step \(batch_size 64 x max_length 256\)"),
    ({"optim": "sgd"}, "optim must be one of muon, adamw_torch, got 'sgd'"),
    ({"lora_r": 8}, "no such hyperparameter: lora_r"),
    ({"min_lr_rate": 2.0}, "min_lr_rate is a share of the peak, 0 to 1, got 2.0"),
    ({"dropout": 1.0}, "dropout must be 0 to below 1, got 1.0"),
    ({"max_length": 4}, "max_length must be at least 8 characters, got 4"),
    ({"evaluations": 0}, "evaluations must be at least 1, got 0"),
])
def test_values_that_cannot_work_are_refused(params, message):
    with pytest.raises(ConfigError, match=message):
        config_from_params({"trainer": "charlm", **params})


def test_a_trial_that_names_no_trainer_is_a_fine_tune():
    assert isinstance(config_from_params({}), FinetuneConfig)


def test_a_wish_to_end_a_trial_is_for_that_trial_whenever_it_is_read(config, tmp_path):
    """A worker's thread reads ahead: what is written right behind an answer may be read before that is over."""
    results = []
    wishes = [["train", "preempt"],  # the next trial, and its end
              ["preempt", "train"],  # the end of the one that is over by then, and a trial
              ["train"]]

    def read(event):
        if event.kind == "trained":
            results.append(event.result["status"])
            for wish in wishes.pop(0) if wishes else ():
                worker.expect() if wish == "train" else worker.ask(wish)

    worker = Worker(read, tmp_path / "cache")
    worker.expect()
    threads = torch.get_num_threads()
    try:
        for number in range(4):
            worker.answer(Train(id=f"{number}", directory=str(tmp_path / f"{number}"),
                                config={"trainer": "charlm", **dataclasses.asdict(config)}))
    finally:
        torch.set_num_threads(threads)
    assert results == ["complete", "preempted", "complete", "complete"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float16_on_a_gpu_learns_what_float32_learns_on_a_cpu(text, config, tmp_path):
    on_cpu, on_gpu, cut, rest = in_fresh_process(_trained_on_both, text, config, tmp_path)
    assert on_gpu.notes["compute_dtype"] == "float16"
    assert on_gpu.metric == pytest.approx(on_cpu.metric, abs=0.05)
    assert on_gpu.notes["skipped_steps"] <= 3
    assert (cut.status, rest.steps) == (Status.PREEMPTED, 60)
    assert rest.metric == pytest.approx(on_gpu.metric, abs=0.02)


def _trained_on_both(text, config, folder):
    """Train on the CPU, on the GPU, and on the GPU with an interruption."""
    there = dataclasses.replace(text, train=text.train.cuda(), validation=text.validation.cuda())
    still = dataclasses.replace(config, dropout=0.0, max_tokens=16 * 8 * 60)
    on_cpu, _ = run(text, still, folder / "cpu")
    on_gpu, _ = run(there, still, folder / "gpu")
    cut, _ = run(there, still, folder / "cut", Watcher("preempt", 17))
    rest, _ = run(there, still, folder / "cut")
    return on_cpu, on_gpu, cut, rest


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optim", ["muon", "adamw_torch"])
def test_no_step_in_float16_waits_for_the_gpu(text, config, tmp_path, optim):
    """But for rows that are logged and evaluations, of which these steps have none."""
    in_fresh_process(_train_without_waits, text, dataclasses.replace(config, optim=optim), tmp_path)


def _train_without_waits(text, config, folder):
    there = dataclasses.replace(text, train=text.train.cuda(), validation=text.validation.cuda())

    class Strict(Watcher):
        def poll(self):
            self._polls += 1  # steps that are done; the first ones load kernels
            logs_next = (self._polls + 1) % 10 == 0
            torch.cuda.set_sync_debug_mode("default" if self._polls < 3 or logs_next else "error")

    long = dataclasses.replace(config, max_tokens=16 * 8 * 500, evaluations=1)  # a row for every tenth step
    result, _ = run(there, long, folder / "strict", Strict())
    assert result.status is Status.COMPLETE


def test_a_killed_worker_and_a_resumed_one_give_the_bits_of_an_undisturbed_one(config, tmp_path):
    """The trial goes through the same supervisor and worker as a fine-tune."""
    params = config.as_dict() | {"max_tokens": 16 * 8 * 200}
    wish = CutAtARung(20)
    with Study.open_for_writing(tmp_path / "study", name="s", sweep={}, metric="eval/loss", goal="minimize",
                                seed=None) as study:
        settings = WorkerSettings(log=tmp_path / "worker.log", cache_directory=tmp_path, threads=1, trainer="charlm")
        with Supervisor(study=study, settings=settings, rungs=wish.rungs) as supervisor:
            whole = supervisor.run(Trial(id="0000", number=0, params=params))
            refused = supervisor.run(Trial(id="0001", number=1, params=params | {"batch_size": 10_000,
                                                                                 "max_tokens": 10**9}))
            os.kill(supervisor.worker_pid, signal.SIGKILL)
            cut = supervisor.run(Trial(id="0002", number=2, params=params))
        with Supervisor(study=study, settings=settings, rungs=wish.rungs, judge=wish.judge,
                        end_asked=wish.end_asked) as wish.supervisor:
            preempted = wish.supervisor.run(Trial(id="0003", number=3, params=params))
        with Supervisor(study=study, settings=settings, rungs=wish.rungs) as supervisor:
            resumed = supervisor.run(Trial(id="0003", number=3, params=params))
        assert whole.status is Status.COMPLETE, whole.reason
        assert refused.reason.startswith("the corpus ")
        assert "shorter than one batch of 10000 windows of 16" in refused.reason
        assert (cut.status, cut.notes["kind"]) == (Status.FAILED, "crash")
        assert preempted.status is Status.PREEMPTED
        assert (resumed.attempts, resumed.evaluations, resumed.hashes) == (2, whole.evaluations, whole.hashes)
        rows = {trial: study.snapshot().history(trial) for trial in ("0000", "0003")}
        assert rows["0000"] == rows["0003"]


SWEEP = """\
method: bayes
metric: {name: eval/loss, goal: minimize}
run_cap: 4
parameters:
  trainer: {value: charlm}
  dataset: {value: python-docs}
  learning_rate: {distribution: log_uniform_values, min: 1.0e-3, max: 1.0e-2}
  dropout: {values: [0.0, 0.1]}
"""


def test_a_sweep_file_names_its_trainer_and_takes_the_fields_of_its_config(tmp_path):
    path = tmp_path / "char.yaml"
    path.write_text(SWEEP)
    spec = read_sweep(path)
    assert (spec.trainer, spec.warnings) == ("charlm", ())
    path.write_text(SWEEP.replace("dropout", "lora_dropout"))
    with pytest.raises(SweepError, match=r"parameters\.lora_dropout: no such hyperparameter; write dropout,"):
        read_sweep(path)
    path.write_text(SWEEP.replace("{value: charlm}", "{values: [charlm, finetune]}"))
    with pytest.raises(SweepError, match=r"parameters\.trainer: must have one value, a sweep has one trainer"):
        read_sweep(path)
    path.write_text(SWEEP.replace("{value: charlm}", "{value: charml}"))
    with pytest.raises(SweepError, match=r"trainer\.value: must be one of finetune, charlm, got 'charml'"):
        read_sweep(path)


def test_no_plan_of_memory_is_made_for_a_character_model(tmp_path):
    path = tmp_path / "char.yaml"
    path.write_text(SWEEP)
    done = CliRunner().invoke(cli, ["plan", str(path)])
    with pytest.raises(ConfigError, match="trains charlm models, which are small enough for any GPU"):
        raise done.exception
