"""The pretraining loop on models of a few thousand parameters."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

import kaggle_runner
from kaggle_runner.pretrain import SEQUENCE_TOKENS, PretrainConfig, batch_at, learning_rate_at, pack, train_tokenizer

TRAIN_TINY = """
import sys, time
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from kaggle_runner.pretrain import PretrainConfig, train
torch.set_num_threads(1)
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                     num_attention_heads=2, num_key_value_heads=1))
stream = torch.arange(6000) % 61
config = PretrainConfig(steps=int(sys.argv[2]), checkpoint_every_s=0.0, learning_rate=1e-3)
result = train(model, stream, stream[:1024], config, Path(sys.argv[1]))
print(result.steps, result.train_loss.hex(), result.held_out_loss.hex())
"""


def start_tiny_training(checkpoint: Path, steps: int) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(kaggle_runner.__file__).parents[1])}
    command = [sys.executable, "-c", TRAIN_TINY, str(checkpoint), str(steps)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


@pytest.mark.slow
def test_a_killed_pretraining_continues_to_the_same_losses(tmp_path: Path) -> None:
    whole = start_tiny_training(tmp_path / "whole.pt", 100)
    killed = start_tiny_training(tmp_path / "killed.pt", 100)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    expected, errors = whole.communicate()
    assert expected.startswith("100 "), errors
    continued, errors = start_tiny_training(tmp_path / "killed.pt", 100).communicate()
    assert "continuing at step" in errors
    assert continued == expected
