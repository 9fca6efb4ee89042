"""The pretraining loop on models of a few thousand parameters."""

import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from kaggle_runner.errors import ForeignCheckpoint
from tests.tiny_pretraining import STREAM, tiny_config, tiny_model, train_tiny
from tools.pretrain_demo_base import (
    SEQUENCE_TOKENS,
    PretrainConfig,
    batch_at,
    learning_rate_at,
    mean_loss,
    pack,
    train_tokenizer,
)


def test_an_epoch_reads_every_sequence_at_most_once() -> None:
    config = PretrainConfig(batch_size=2)
    stream = torch.arange(10 * SEQUENCE_TOKENS + 17)
    read = torch.cat([batch_at(step, stream, config).flatten() for step in range(5)])
    assert len(read) == 10 * SEQUENCE_TOKENS
    assert len(read.unique()) == len(read)
    assert not torch.equal(read, torch.cat([batch_at(step, stream, config).flatten() for step in range(5, 10)]))


def test_the_learning_rate_rises_and_ends_at_a_twentieth() -> None:
    config = PretrainConfig(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate_at(progress / 100, config) for progress in range(101)]
    assert rates[0] == pytest.approx(0.01)
    assert rates.index(max(rates)) == 10
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.05 + 0.95 / 2)
    assert rates[100] == pytest.approx(0.05)


def test_packed_documents_lie_between_begin_and_end_tokens() -> None:
    tokenizer = train_tokenizer(["return the first item", "return the last item"] * 5)
    stream = pack(["the first", "the last"], tokenizer).tolist()
    assert tokenizer.decode(stream) == "<|begin|>the first<|end|><|begin|>the last<|end|>"


def test_a_killed_pretraining_continues_to_the_same_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "tests.tiny_pretraining", str(tmp_path / "killed"), "18"]
    killed = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    whole = train_tiny(tmp_path / "whole")
    continued = train_tiny(tmp_path / "killed")
    assert "continuing at step 17 from " in capsys.readouterr().err
    assert (whole.steps, whole.train_loss, whole.held_out_loss) == (
        continued.steps, continued.train_loss, continued.held_out_loss)
    assert (whole.steps, whole.tokens_seen) == (30, 30 * 4 * SEQUENCE_TOKENS)
    assert whole.held_out_loss < math.log(64)


def test_its_bits_are_those_of_plain_torch(tmp_path: Path) -> None:
    """The weights that ship were made before the loop shared its step: what is shared must not change them."""
    result = train_tiny(tmp_path, steps=5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, config, losses = tiny_model(), tiny_config(5), []
    groups = [{"params": [weight for weight in model.parameters() if weight.dim() > 1], "weight_decay": 0.1},
              {"params": [weight for weight in model.parameters() if weight.dim() <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step / 5, config)
        tokens = batch_at(step, STREAM, config)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    held_out = mean_loss(model, STREAM[:1024])
    torch.set_num_threads(threads)
    assert (result.train_loss, result.held_out_loss) == (sum(losses) / 5, held_out)


def test_a_checkpoint_of_another_length_is_refused(tmp_path: Path) -> None:
    train_tiny(tmp_path, steps=2)
    with pytest.raises(ForeignCheckpoint, match="was written by another config; delete the folder to start"):
        train_tiny(tmp_path, steps=3)
