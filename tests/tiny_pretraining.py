"""A pretraining that takes a second, here or as a process of its own that kills itself: python -m ... OUT STEP."""

import os
import signal
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tools.pretrain_demo_base import PretrainConfig, PretrainResult, train

STREAM = torch.arange(6000) % 61


def tiny_config(steps: int) -> PretrainConfig:
    """Return a config that keeps a checkpoint after every step."""
    return PretrainConfig(steps=steps, checkpoint_every_s=0.0, learning_rate=1e-3)


def tiny_model() -> LlamaForCausalLM:
    """Return a model of a few thousand weights, always the same ones."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                        num_attention_heads=2, num_key_value_heads=1))


def train_tiny(out: Path, *, steps: int = 30, killed_at: int | None = None) -> PretrainResult:
    """Train on one thread; ends the process in forward pass number `killed_at`."""
    forwards = []

    def count(*_: object) -> None:
        forwards.append(None)
        if len(forwards) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = tiny_model()
    model.register_forward_pre_hook(count)
    try:
        return train(model, STREAM, STREAM[:1024], tiny_config(steps), out)
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    train_tiny(Path(sys.argv[1]), killed_at=int(sys.argv[2]))
