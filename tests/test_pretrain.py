"""The pretraining loop on models of a few thousand parameters."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

import kaggle_runner
from kaggle_runner.errors import ForeignCheckpoint
from kaggle_runner.pretrain import SEQUENCE_TOKENS, PretrainConfig, batch_at, learning_rate_at, pack, train_tokenizer

TINY = """
import sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from kaggle_runner.pretrain import PretrainConfig, train


def train_tiny(out, *, killed_at=None, steps=30):
    import os, signal

    def kill_at_a_step(*_):
        calls.append(None)
        if len(calls) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    calls = []
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                         num_attention_heads=2, num_key_value_heads=1))
    model.register_forward_pre_hook(kill_at_a_step)
    stream = torch.arange(6000) % 61
    config = PretrainConfig(steps=steps, checkpoint_every_s=0.0, learning_rate=1e-3)
    return train(model, stream, stream[:1024], config, Path(out))
"""
"""A training that can be run here, and where it may kill the process it runs in."""


@pytest.fixture
def train_tiny():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names: dict[str, Any] = {}
    exec(TINY, names)
    yield names["train_tiny"]
    torch.set_num_threads(threads)


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


def test_a_killed_pretraining_continues_to_the_same_losses(tmp_path: Path, train_tiny, capsys) -> None:
    script = f"{TINY}\ntorch.set_num_threads(1)\ntrain_tiny(sys.argv[1], killed_at=18)"
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "killed")], capture_output=True, text=True,
                            env=os.environ | {"PYTHONPATH": str(Path(kaggle_runner.__file__).parents[1])})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    whole = train_tiny(tmp_path / "whole")
    continued = train_tiny(tmp_path / "killed")
    assert "continuing at step 17 from " in capsys.readouterr().err
    assert (whole.steps, whole.train_loss, whole.held_out_loss) == (
        continued.steps, continued.train_loss, continued.held_out_loss)
    assert (whole.steps, whole.tokens_seen) == (30, 30 * 4 * SEQUENCE_TOKENS)
    assert whole.held_out_loss < math.log(64)


def test_a_checkpoint_of_another_length_is_refused(tmp_path: Path, train_tiny) -> None:
    train_tiny(tmp_path, steps=2)
    with pytest.raises(ForeignCheckpoint, match="was written by another config; delete the folder to start"):
        train_tiny(tmp_path, steps=3)
