"""What only a GPU shows: float16, real peaks, nothing that waits for the device, real out-of-memory errors."""

import dataclasses
import json
import warnings

import pytest
import torch
import torch.nn.functional as F

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.events import Resumed
from kaggle_runner.memory.predict import CUBLAS_BYTES, GPU, predict
from kaggle_runner.run.supervisor import Supervisor
from kaggle_runner.run.worker_process import WorkerSettings
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, Trial
from kaggle_runner.training.control import Control
from kaggle_runner.training.data.batches import collate
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.data.tokens import encode
from kaggle_runner.training.finetune import attach, buffer_of, evaluate, loss_of, train_adapter
from kaggle_runner.training.layer.elementwise import Elementwise
from kaggle_runner.training.layer.install import elementwise_on, fused_layers, structures_of
from kaggle_runner.training.layer.keep import keep_everywhere
from kaggle_runner.training.layer.triton_elementwise import KernelMasks
from kaggle_runner.training.loss import summed_loss
from kaggle_runner.training.models import attention
from kaggle_runner.training.models.base_model import load_base
from tests.fresh_process import in_fresh_process

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]
CUDA = torch.device("cuda", 0)
CONTEXT_BYTES = 700 * 2**20
"""Of the worker's process on the device, besides its tensors."""


@pytest.fixture(scope="module")
def config():
    return FinetuneConfig(samples=200, max_eval_samples=20, max_length=128, max_steps=8, eval_steps=4,
                          learning_rate=5e-3, warmup_ratio=0.2, lora_r=8)


@pytest.fixture(scope="module")
def base(config):
    return load_base(config, CUDA)


@pytest.fixture(scope="module")
def data(config, base, cache):
    return encode(load_rows(config, cache_directory=cache), base.tokenizer, config, cache_directory=cache)


@pytest.fixture(scope="module")
def long_rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "rows.jsonl"
    words = "the quick brown fox jumps over the lazy dog " * 90
    path.write_text("".join(json.dumps({"text": f"{i} {words}"}) + "\n" for i in range(200)))
    return path


def run(base, data, config, directory, end_asked=None):
    """Train; `wish` gives what is wished after a step."""
    events, ends_asked = [], []

    def emit(event):
        events.append(event)
        if end_asked is not None and (wished := end_asked(event)):
            ends_asked.append(wished)

    control = Control(poll=lambda: ends_asked[0] if ends_asked else None, emit=emit, directory=directory)
    return train_adapter(base, data, config, "0000", control), events


def losses(result):
    return [loss for _, loss in result.evaluations]


def test_a_trial_learns_in_float16_and_again_the_same(base, data, config, tmp_path):
    before = evaluate(base, data.validation, config)
    first, _ = run(base, data, config, tmp_path / "a")
    second, _ = run(base, data, config, tmp_path / "b")
    assert first.status is Status.COMPLETE
    assert first.metric < before - 0.05
    assert losses(second) == pytest.approx(losses(first), abs=2e-3)
    assert first.notes["compute_dtype"] == "float16"
    assert evaluate(base, data.validation, config) == pytest.approx(before, abs=1e-6), "the base is as it was"


def test_the_losses_are_those_of_a_cpu(base, data, config, tmp_path):
    on_cpu = load_base(config, torch.device("cpu"))
    assert evaluate(base, data.validation, config) == pytest.approx(evaluate(on_cpu, data.validation, config), abs=5e-3)
    here, _ = run(base, data, dataclasses.replace(config, lora_dropout=0.0), tmp_path / "gpu")
    there, _ = run(on_cpu, data, dataclasses.replace(config, lora_dropout=0.0), tmp_path / "cpu")
    assert losses(here) == pytest.approx(losses(there), abs=0.02)


def test_a_preempted_trial_goes_on_within_rounding(base, data, config, tmp_path):
    whole, _ = run(base, data, config, tmp_path / "whole")
    cut, _ = run(base, data, config, tmp_path / "cut", lambda event: "preempt")
    assert (cut.status, 0 < cut.steps < config.max_steps) == (Status.PREEMPTED, True)
    resumed, events = run(base, data, config, tmp_path / "cut")
    assert events[0] == Resumed(step=cut.steps)
    assert losses(resumed) == pytest.approx(losses(whole), abs=5e-3)


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit"])
def test_the_8_bit_optimizers_learn(base, data, config, tmp_path, optim):
    before = evaluate(base, data.validation, config)
    result, _ = run(base, data, dataclasses.replace(config, optim=optim), tmp_path)
    assert result.metric < before - 0.05


def test_a_step_that_overflows_is_skipped_and_counted(base, data, config, tmp_path):
    """The scaler starts with the loss 65,536-fold and halves that after every skip; a tenth of these fit at first."""
    layer = base.model.get_decoder().layers[-1]
    hook = layer.register_full_backward_pre_hook(lambda module, gradients: tuple(
        g if g is None else g * 2.0**14 for g in gradients))
    try:
        result, events = run(base, data, dataclasses.replace(config, max_steps=20, eval_steps=20), tmp_path)
    finally:
        hook.remove()
    unscaled = [event.values["train/grad_norm"] for event in events
                if event.kind == "log" and "train/grad_norm" in event.values]
    assert None in unscaled or result.notes["skipped_steps"] > 1
    assert 1 <= result.notes["skipped_steps"] < 20


@pytest.mark.parametrize("groups", [True, False])
def test_nothing_waits_for_the_device_but_what_is_logged(base, data, config, groups):
    """Forward and backward pass of a padded micro-batch, and the optimizer step, as the loop does them."""
    attention.use_causal_attention(base.model, groups=groups)
    indices = data.train.lengths.argsort()[[0, -1]]
    batch = collate(data.train, indices, pad_id=0, completion_only=True)
    tensors = [torch.from_numpy(array).to(CUDA) for array in (batch.tokens_BT, batch.positions_N, batch.targets_N)]
    weight = base.model.get_input_embeddings().weight
    trained = torch.nn.Parameter(torch.zeros(weight.shape[1], device=CUDA))
    hook = base.model.get_input_embeddings().register_forward_hook(lambda module, args, output: output + trained)
    optimizer = torch.optim.AdamW([trained], fused=True)
    scaler = torch.amp.GradScaler("cuda")
    try:
        for mode in ("default", "error"):  # the first pass loads kernels
            torch.cuda.set_sync_debug_mode(mode)
            with torch.autocast("cuda", dtype=torch.float16):
                loss = summed_loss(base.model, *tensors, own_head=base.own_head)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_([trained], 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        hook.remove()
        attention.use_causal_attention(base.model, groups=True)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_predicted_peak_is_the_real_one(tmp_path, checkpointing, cache, long_rows):
    """With the kernels of a T4, which the prediction is for: attention without groups and without flash."""
    config = FinetuneConfig(dataset=str(long_rows), samples=64, max_eval_samples=8, max_length=512, max_steps=2,
                            eval_steps=1, lora_r=16, completion_only_loss=False, gradient_checkpointing=checkpointing)
    base = load_base(config, CUDA)
    attention.use_causal_attention(base.model, groups=False)
    data = encode(load_rows(config, cache_directory=cache), base.tokenizer, config, cache_directory=cache)
    torch.cuda.empty_cache()
    others = torch.cuda.memory_allocated() - sum(t.nbytes for t in _tensors(base.model))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION):
        result, _ = run(base, data, config, tmp_path / "trial")
    predicted = predict(config, target=GPU).peak_bytes - CUBLAS_BYTES
    assert predicted == pytest.approx(result.peak_device_bytes - others, rel=0.10)


def test_out_of_memory_on_the_device_is_run_once_more_in_half(tmp_path, cache, long_rows):
    """A process takes so much of the device that half the micro-batch fits, and the whole does not."""
    status, reason, notes = in_fresh_process(_run_out_of_memory, tmp_path, cache, long_rows)
    assert status is Status.COMPLETE, reason
    assert (notes["out_of_memory_at"], notes["micro_batch"]) == (128, 64)


def _run_out_of_memory(folder, cache, rows):
    params = {"dataset": str(rows), "samples": 128, "max_eval_samples": 8, "max_length": 512, "max_steps": 2,
              "eval_steps": 2, "lora_r": 8, "batch_size": 128, "gradient_accumulation_steps": 1,
              "completion_only_loss": False, "gradient_checkpointing": False}
    whole = FinetuneConfig.from_params(params)
    half = dataclasses.replace(whole, batch_size=64, gradient_accumulation_steps=2)
    room = int(1.15 * predict(half, target=GPU).peak_bytes)
    assert room < 0.7 * predict(whole, target=GPU).peak_bytes
    taken = torch.empty(torch.cuda.mem_get_info()[0] - room - CONTEXT_BYTES, dtype=torch.uint8, device=CUDA)
    with Study.open_for_writing(folder / "s", name="s", sweep={}, metric="eval/loss", goal="minimize",
                                seed=None) as study:
        settings = WorkerSettings(log=study.directory / "worker.log", cache_directory=cache, threads=1, gpu="0",
                                  offline=True)
        with Supervisor(study=study, settings=settings) as supervisor:
            result = supervisor.run(Trial(id="0000", number=0, params=params))
    del taken
    return result.status, result.reason, dict(result.notes)


@pytest.mark.parametrize("again", [True, False])
def test_the_layers_by_kernels_are_the_layers_by_torch(base, data, config, again):
    """Every kernel as compiled for this device, in the real model; the masks are the same."""
    class PlainWithTheSameMasks(Elementwise):
        def masks(self):
            return KernelMasks()

    batch = collate(data.train, range(2), pad_id=0, completion_only=True)
    lists = keep_everywhere(len(structures_of(base.model)), again=again)
    kernels, losses, gradients = elementwise_on(CUDA), [], []
    torch.manual_seed(0)
    adapted = attach(base, config)
    try:
        buffer = buffer_of(adapted, base)
        buffer.whole.data.normal_(0, 0.02)
        buffer.after_step()
        base.model.train()
        for by in (kernels, PlainWithTheSameMasks()):
            torch.manual_seed(1)
            with fused_layers(base.model, structures_of(base.model), lists, base.compute_dtype, buffer.copies, by=by):
                loss = loss_of(base, batch)
                loss.backward()
            losses.append(loss.item())
            gradients.append(buffer.whole.grad.clone())
            buffer.after_step()
    finally:
        adapted.unload()
        base.model.eval()
    assert kernels.problem == ""
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 2e-2


def test_attention_with_and_without_groups_is_the_same(base, data):
    batch = collate(data.train, data.train.lengths.argsort()[[0, -1]], pad_id=0, completion_only=True)
    tensors = [torch.from_numpy(array).to(CUDA) for array in (batch.tokens_BT, batch.positions_N, batch.targets_N)]
    values = []
    with torch.no_grad(), warnings.catch_warnings(), torch.autocast("cuda", dtype=torch.float16):
        for groups in (False, True):
            attention.use_causal_attention(base.model, groups=groups)
            values.append(summed_loss(base.model, *tensors, own_head=base.own_head).item())
    assert values[0] == pytest.approx(values[1], rel=2e-3)
    query = torch.randn(1, 4, 32, 64, device=CUDA, dtype=torch.float16)
    key = torch.randn(1, 2, 32, 64, device=CUDA, dtype=torch.float16)
    module = torch.nn.Module()
    mine = [attention.causal_attention(module, query, key, key, None, groups=groups)[0] for groups in (True, False)]
    exact = F.scaled_dot_product_attention(query.float(), key.float().repeat_interleave(2, 1),
                                           key.float().repeat_interleave(2, 1), is_causal=True).transpose(1, 2)
    for each in mine:
        torch.testing.assert_close(each.float(), exact, atol=5e-3, rtol=5e-3)


def _tensors(model):
    from kaggle_runner.memory.fake_kernels import tensors_of

    return tensors_of(model)
