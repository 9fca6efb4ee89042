"""A fine-tune on the warm base: the same bits wherever it runs, and losses that torch agrees with."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ConfigError
from kaggle_runner.events import Attached, Resumed
from kaggle_runner.study.trial import Status
from kaggle_runner.training import loss as loss_module
from kaggle_runner.training.checkpoint import config_hash
from kaggle_runner.training.data.batches import collate, step_batches
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.data.tokens import encode
from kaggle_runner.training.finetune import Control, NotFinite, evaluate, learning_rate_at, rows_of_step, train_adapter
from kaggle_runner.training.loss import summed_loss
from kaggle_runner.training.models.base_model import computing_in, linear_layers_4bit, load_base

CPU = torch.device("cpu")
HASH_BY_0_2_0 = "9c6e512b994a13b23d0186596d83e7b8d19b43da662846fde44c4af588401591"


@pytest.fixture(scope="module")
def config(tiny_llama, rows_file):
    return FinetuneConfig(model=str(tiny_llama), dataset=str(rows_file), samples=100, max_eval_samples=10,
                          max_length=48, max_steps=6, eval_steps=2, learning_rate=1e-2, warmup_ratio=0.2, lora_r=4)


@pytest.fixture(scope="module")
def base(config):
    return load_base(config, CPU)


@pytest.fixture(scope="module")
def data(config, base, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return encode(load_rows(config, cache_directory=cache), base.tokenizer, config, cache_directory=cache)


class Watcher:
    """Collects the events of a trial and asks for an end after a given step."""

    def __init__(self, end_asked=None, after=0):
        self.events, self._end_asked, self._after = [], end_asked, after

    def __call__(self, event):
        self.events.append(event)

    def poll(self):
        steps = [event.step for event in self.events if event.kind == "log"]
        return self._end_asked if steps and steps[-1] >= self._after else None

    @property
    def rows(self):
        return [event.row for event in self.events if event.kind == "log"]


def run(base, data, config, directory, watcher=None, checkpoint_steps=None):
    watcher = watcher or Watcher()
    control = Control(poll=watcher.poll, emit=watcher, directory=directory, checkpoint_steps=checkpoint_steps)
    return train_adapter(base, data, config, "0000", control), watcher


def the_numbers(result, watcher):
    return result.evaluations, watcher.rows, result.hashes["adapter"]


def test_a_trial_lowers_the_loss_of_the_untouched_base(base, data, config, tmp_path):
    before = evaluate(base, data.validation, config)
    result, _ = run(base, data, config, tmp_path)
    assert result.status is Status.COMPLETE
    assert [step for step, _ in result.evaluations] == [2, 4, 6]
    assert result.metric < before - 0.1
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_the_base_is_the_same_to_the_last_bit_after_a_trial(base, data, config, tmp_path):
    before = evaluate(base, data.validation, config)
    run(base, data, dataclasses.replace(config, gradient_checkpointing=True), tmp_path)
    assert evaluate(base, data.validation, config) == before
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.get_input_embeddings()._forward_hooks
    assert not any(getattr(module, "gradient_checkpointing", False) for module in base.model.modules())


def test_a_trial_gives_the_same_bits_first_later_and_after_a_crash(base, data, config, tmp_path):
    class Crash(Exception):
        pass

    def crash():
        raise Crash("in mid-trial")

    first = the_numbers(*run(base, data, config, tmp_path / "a"))
    other = dataclasses.replace(config, lora_r=8, lora_dropout=0.1, gradient_checkpointing=True, seed=7)
    run(base, data, other, tmp_path / "b")
    with pytest.raises(Crash, match="in mid-trial"):
        train_adapter(base, data, other, "0001", Control(poll=crash, emit=lambda event: None, directory=tmp_path / "c"))
    assert the_numbers(*run(base, data, config, tmp_path / "d")) == first
    fresh = load_base(config, CPU)
    assert the_numbers(*run(fresh, data, config, tmp_path / "e")) == first


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_preempted_trial_goes_on_as_if_nothing_had_happened(base, data, config, tmp_path, after):
    whole = the_numbers(*run(base, data, config, tmp_path / "whole"))
    cut, early = run(base, data, config, tmp_path / "cut", Watcher("preempt", after))
    assert (cut.status, cut.steps) == (Status.PREEMPTED, after)
    torch.manual_seed(999)  # whatever the random state of the next session is
    result, late = run(base, data, config, tmp_path / "cut")
    assert late.events[0] == Resumed(step=after)
    assert (result.evaluations, early.rows + late.rows, result.hashes["adapter"]) == whole


def test_a_trial_killed_between_an_evaluation_and_its_checkpoint_goes_back_one_checkpoint(base, data, config, tmp_path):
    class Killed(Exception):
        pass

    whole = the_numbers(*run(base, data, config, tmp_path / "whole"))

    class KillAtEval(Watcher):
        def __call__(self, event):
            super().__call__(event)
            if event.kind == "log" and event.step == 4 and "eval/loss" in event.values:
                raise Killed("at step 4")

    with pytest.raises(Killed, match="at step 4"):
        run(base, data, config, tmp_path / "cut", KillAtEval(), checkpoint_steps=1)
    result, late = run(base, data, config, tmp_path / "cut", checkpoint_steps=1)
    assert late.events[0] == Resumed(step=3)
    assert (result.evaluations, result.hashes["adapter"]) == (whole[0], whole[2])
    assert late.rows == [row for row in whole[1] if row["step"] > 3]


def test_a_trial_killed_in_the_middle_of_accumulation_goes_back_to_its_checkpoint(base, data, config, tmp_path):
    class Killed(Exception):
        pass

    passes = [len(rows_of_step(data.train, config, CPU, step)) for step in range(config.max_steps)]
    assert passes[3] > 1, "there is a middle"
    whole = the_numbers(*run(base, data, config, tmp_path / "whole"))
    left = sum(passes[:3]) + 2  # the second micro-batch of the fourth step

    def count(module, arguments):
        nonlocal left
        left -= module.training
        if left == 0 and module.training:
            raise Killed("half of the gradients are there")

    hook = base.model.get_decoder().register_forward_pre_hook(count)
    try:
        with pytest.raises(Killed, match="half of the gradients"):
            run(base, data, config, tmp_path / "cut", checkpoint_steps=2)
    finally:
        hook.remove()
    result, late = run(base, data, config, tmp_path / "cut", checkpoint_steps=2)
    assert late.events[0] == Resumed(step=2)
    assert (result.evaluations, result.hashes["adapter"]) == (whole[0], whole[2])
    assert late.rows == [row for row in whole[1] if row["step"] > 2]


def test_a_damaged_checkpoint_is_said_and_passed_over(base, data, config, tmp_path):
    whole = the_numbers(*run(base, data, config, tmp_path / "whole"))
    run(base, data, config, tmp_path / "cut", Watcher("preempt", 3), checkpoint_steps=1)
    newest = max((tmp_path / "cut" / "checkpoint").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    result, watcher = run(base, data, config, tmp_path / "cut")
    assert "checkpoint step-00000003.pt is damaged" in watcher.events[0].text
    assert watcher.events[1] == Resumed(step=2)
    assert (result.evaluations, result.hashes["adapter"]) == (whole[0], whole[2])


def test_a_trial_whose_only_checkpoint_is_damaged_says_so_and_starts_over(base, data, config, tmp_path):
    whole = the_numbers(*run(base, data, config, tmp_path / "whole"))
    run(base, data, config, tmp_path / "cut", Watcher("preempt", 3))
    checkpoint, = (tmp_path / "cut" / "checkpoint").iterdir()
    checkpoint.write_bytes(b"")
    result, watcher = run(base, data, config, tmp_path / "cut")
    assert "checkpoint step-00000003.pt is damaged" in watcher.events[0].text
    assert watcher.events[1] == Attached()
    assert (result.evaluations, watcher.rows, result.hashes["adapter"]) == whole


def test_a_session_with_less_memory_resumes_and_computes_activations_twice(base, data, config, tmp_path):
    whole = the_numbers(*run(base, data, config, tmp_path / "whole"))
    _, early = run(base, data, config, tmp_path / "cut", Watcher("preempt", 3))
    result, late = run(base, data, dataclasses.replace(config, gradient_checkpointing=True), tmp_path / "cut")
    assert (result.evaluations, early.rows + late.rows, result.hashes["adapter"]) == whole


def test_at_most_two_checkpoints_are_kept(base, data, config, tmp_path):
    run(base, data, config, tmp_path, Watcher("preempt", 5), checkpoint_steps=1)
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == ["step-00000004.pt", "step-00000005.pt"]


def test_a_checkpoint_of_another_config_is_refused(base, data, config, tmp_path):
    run(base, data, config, tmp_path, Watcher("preempt", 1))
    with pytest.raises(ConfigError, match="was written by another config; delete the folder to start the trial over"):
        run(base, data, dataclasses.replace(config, lora_dropout=0.2), tmp_path)


def test_a_config_of_0_2_0_has_the_hash_that_its_checkpoints_hold():
    """Written down by 0.2.0 itself, so that a study it began is continued."""
    config = FinetuneConfig(samples=60, max_steps=6, eval_steps=2)
    assert config_hash(config) == HASH_BY_0_2_0
    assert config_hash(dataclasses.replace(config, train_on="last")) != HASH_BY_0_2_0


def test_a_stopped_trial_ends_with_a_real_evaluation(base, data, config, tmp_path):
    result, _ = run(base, data, config, tmp_path, Watcher("stop", 3))
    assert (result.status, result.steps) == (Status.PRUNED, 3)
    assert [step for step, _ in result.evaluations] == [2, 3]
    assert result.reason == "stopped at step 3 of 6"


def test_patience_ends_a_trial_that_does_not_get_better(base, data, config, tmp_path):
    result, _ = run(base, data, dataclasses.replace(
        config, learning_rate=1e-12, eval_steps=1, early_stopping_patience=1, lora_dropout=0.0, max_steps=20), tmp_path)
    assert result.status is Status.COMPLETE
    assert result.steps < 20
    assert "no better eval/loss in 1 evaluations" in result.reason


def test_by_default_a_trial_ends_after_1500_steps_without_a_better_loss():
    config = FinetuneConfig()
    assert config.early_stopping_patience * config.eval_steps == 1500


def test_a_loss_that_is_no_number_ends_the_trial_with_the_step(base, data, config, tmp_path):
    with pytest.raises(NotFinite, match=r"(train|eval)/loss became (nan|inf) at step \d") as raised:
        run(base, data, dataclasses.replace(config, learning_rate=1e30, warmup_ratio=0.0), tmp_path)
    assert 1 <= raised.value.step <= 6


def test_how_a_step_is_cut_into_micro_batches_does_not_change_it(base, data, config, tmp_path):
    config = dataclasses.replace(config, lora_dropout=0.0)
    whole, _ = run(base, data, dataclasses.replace(config, batch_size=4, gradient_accumulation_steps=2), tmp_path / "a")
    cut, _ = run(base, data, dataclasses.replace(config, batch_size=2, gradient_accumulation_steps=4), tmp_path / "b")
    assert cut.metric == pytest.approx(whole.metric, abs=1e-5)


def test_the_evaluation_is_torchs_mean_over_all_tokens_that_count(base, data, config):
    total, count = 0.0, 0
    for i in range(len(data.validation)):
        row = torch.from_numpy(data.validation.row(i)).long()
        start = int(data.validation.trained_of(i).argmax())
        with torch.no_grad():
            logits = base.model(input_ids=row[None], attention_mask=torch.ones_like(row)[None]).logits
        total += F.cross_entropy(logits[0, start - 1:-1], row[start:], reduction="sum").item()
        count += len(row) - start
    assert evaluate(base, data.validation, config) == pytest.approx(total / count, abs=1e-5)


def test_several_trained_stretches_of_a_row_count_as_labels_of_plain_transformers_do(base, config, tmp_path):
    rows = [{"messages": [{"role": role, "content": f"{text} {i}"} for role, text in (
        ("user", "What is a list?"), ("assistant", "A list holds items."), ("user", "And?"), ("assistant", "More."))]}
        for i in range(40)]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = dataclasses.replace(config, dataset=str(path), samples=30, max_length=200)
    data = encode(load_rows(config, cache_directory=tmp_path), base.tokenizer, config, cache_directory=tmp_path)
    total, count = 0.0, 0
    for i in range(len(data.validation)):
        row = torch.from_numpy(data.validation.row(i)).long()
        trained = torch.from_numpy(data.validation.trained_of(i))
        assert int((trained[1:] & ~trained[:-1]).sum()) == 2
        with torch.no_grad():
            loss = base.model(input_ids=row[None], labels=row.where(trained, -100)[None]).loss
        counted = int(trained[1:].sum())
        total, count = total + loss.item() * counted, count + counted
    assert evaluate(base, data.validation, config) == pytest.approx(total / count, abs=1e-5)


def test_padding_changes_neither_the_loss_nor_its_gradients(base, data):
    """No mask is handed to the model: what lies behind a row's tokens must not matter, whatever it is."""
    indices = np.argsort(data.train.lengths)[[0, -1]]
    assert data.train.lengths[indices[0]] < data.train.lengths[indices[1]]
    embeddings = base.model.get_input_embeddings().weight.requires_grad_(True)

    def measured(parts, pad_id):
        embeddings.grad, total = None, 0.0
        for part in parts:
            batch = collate(data.train, part, pad_id=pad_id, completion_only=True)
            loss = summed_loss(base.model, *(torch.from_numpy(a) for a in (
                batch.tokens_BT, batch.positions_N, batch.targets_N)), own_head=base.own_head)
            loss.backward()
            total += loss.item()
        return total, embeddings.grad.clone()

    apart = measured([indices[:1], indices[1:]], pad_id=0)
    for pad_id in (0, 300):
        together = measured([indices], pad_id)
        assert together[0] == pytest.approx(apart[0], rel=1e-6)
        torch.testing.assert_close(together[1], apart[1], rtol=1e-4, atol=1e-6)
    embeddings.requires_grad_(False).grad = None


def test_the_loss_in_chunks_is_the_loss_at_once_with_its_gradients(base, data, monkeypatch):
    indices = step_batches(data.train, batch_size=4, accumulation=1, seed=0, step=0, pass_tokens=0)[0]
    batch = collate(data.train, indices, pad_id=0, completion_only=False)
    tensors = [torch.from_numpy(array) for array in (batch.tokens_BT, batch.positions_N, batch.targets_N)]
    embeddings = base.model.get_input_embeddings().weight.requires_grad_(True)
    results = []
    for own_head, chunk in ((False, 2**25), (True, 2**25), (True, 20 * len(base.tokenizer))):
        monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", chunk)
        embeddings.grad = None
        value = summed_loss(base.model, *tensors, own_head=own_head)
        value.backward()
        results.append((value.item(), embeddings.grad.clone()))
    embeddings.requires_grad_(False).grad = None
    for value, gradient in results[1:]:
        assert value == pytest.approx(results[0][0], rel=1e-6)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-4, atol=1e-6)


def test_the_learning_rate_rises_and_falls_as_the_schedules_say():
    config = FinetuneConfig(learning_rate=1.0, max_steps=10, warmup_ratio=0.2)
    assert [learning_rate_at(config, step) for step in (0, 1, 2, 6)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    linear = dataclasses.replace(config, lr_scheduler_type="linear")
    assert [learning_rate_at(linear, step) for step in (2, 6, 9)] == pytest.approx([1.0, 0.5, 0.125])
    constant = dataclasses.replace(config, lr_scheduler_type="constant")
    assert [learning_rate_at(constant, step) for step in (0, 5, 9)] == pytest.approx([0.5, 1.0, 1.0])
    assert learning_rate_at(config, 9) == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit"])
def test_the_other_optimizers_learn_and_resume_too(base, data, config, tmp_path, optim):
    config = dataclasses.replace(config, optim=optim)
    whole, _ = run(base, data, config, tmp_path / "whole")
    run(base, data, config, tmp_path / "cut", Watcher("preempt", 3))
    resumed, _ = run(base, data, config, tmp_path / "cut")
    assert resumed.evaluations == whole.evaluations
    assert whole.metric < evaluate(base, data.validation, config)


def test_names_of_modules_that_are_not_there_are_refused(base, data, config, tmp_path):
    with pytest.raises(ConfigError, match=r"no adapter for target_modules \['nothing'\]"):
        run(base, data, dataclasses.replace(config, target_modules=("nothing",)), tmp_path)


def test_gradients_stay_right_after_an_evaluation_on_every_cpu(base):
    """bitsandbytes repacks weights in eval mode on CPUs with AVX512-BF16, for a path without a backward."""
    layers = list(linear_layers_4bit(base.model))
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_a_base_that_computes_in_bfloat16_learns_resumes_to_the_bit_and_goes_back(base, data, config, tmp_path):
    exact = evaluate(base, data.validation, config)
    half = computing_in(base, torch.bfloat16)
    assert evaluate(half, data.validation, config) == pytest.approx(exact, rel=5e-3)
    assert evaluate(half, data.validation, config) != exact
    whole = the_numbers(*run(half, data, config, tmp_path / "whole"))
    _, early = run(half, data, config, tmp_path / "cut", Watcher("preempt", 3))
    result, late = run(half, data, config, tmp_path / "cut")
    assert result.notes["compute_dtype"] == "bfloat16"
    assert result.metric < exact - 0.1
    assert (result.evaluations, early.rows + late.rows, result.hashes["adapter"]) == whole
    assert evaluate(computing_in(half, torch.float32), data.validation, config) == exact
