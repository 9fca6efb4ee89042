"""Pretrain the demo base model: a small Llama on Python's own documentation, for `demo_base/`.

Text, what is held out of it, the order of the windows, the optimizer's step and the checkpoints are those of the
character model (`charlm`). The forward pass and the schedule are its own: the weights that ship were made by exactly
these, of a Llama that a fine-tune can load. Run it as `python tools/pretrain_demo_base.py --out DIR`. The same seed,
Python, packages, steps and thread count give the same weights; a run that was killed continues from DIR/checkpoint.
Shapes: B sequences, T tokens, V vocabulary.
"""

import argparse
import hashlib
import json
import math
import platform
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kaggle_runner.errors import KaggleRunnerError
from kaggle_runner.events import Event, Note
from kaggle_runner.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from kaggle_runner.training.data.builtin_docs import split_documents
from kaggle_runner.training.data.windows import window_starts
from kaggle_runner.training.optimizers import adamw, take_step

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
VOCABULARY = 2048
SEQUENCE_TOKENS = 256
CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# Demo base model of kaggle_runner

A Llama-type model with grouped-query attention for trying out a sweep without a network. It has read Python's own
documentation and nothing else: it writes text that sounds like a docstring, knows no facts to rely on, and has
never seen the question-and-answer form that the demo sweep teaches it.

| | |
|---|---|
{table}

Documents are held out when the sha256 of their question falls into the lowest tenth, and so is every text that
contains the answer to such a question. The validation rows of the built-in dataset lie inside that tenth.

The weights are under Apache-2.0, like the rest of the package. The text they were trained on is part of the Python
distribution: copyright Python Software Foundation and contributors, under the PSF License.
"""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How long, where and from which seed to train."""

    steps: int = 3500
    """Optimizer steps; the learning rate reaches its end with the last one."""
    device: str = "cpu"
    seed: int = 0
    batch_size: int = 4
    """Sequences of 256 tokens in a step."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup: float = 0.03
    """Part of the schedule in which the learning rate rises."""
    checkpoint_every_s: float = 120.0

    def as_dict(self) -> dict[str, Any]:
        """Return what decides the weights: a checkpoint of other values is refused."""
        return {name: value for name, value in asdict(self).items() if name != "checkpoint_every_s"}


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What the model card tells about a run."""

    steps: int
    tokens_seen: int
    training_tokens: int
    train_loss: float
    """Mean of the last 100 steps, nats a token."""
    held_out_loss: float
    """Mean over the held-out documents, nats a token."""
    seconds: float


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; it adds no special token by itself."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BEGIN, eos_token=END, pad_token=PAD, model_max_length=2 * SEQUENCE_TOKENS
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Save a tokenizer under the class name that transformers 4 knows as well as 5."""
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return the shape of the demo model; every matrix is a multiple of 64 on both sides, so NF4 blocks are whole."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2 * SEQUENCE_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def pack(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Tokenise documents into one stream, each between a begin and an end token."""
    stream: list[int] = []
    for ids in tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]:
        stream += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    return torch.tensor(stream)


def batch_at(step: int, stream: torch.Tensor, config: PretrainConfig) -> torch.Tensor:
    """Return the tokens_BT of one step: each epoch cuts the stream at another offset and shuffles the sequences."""
    starts_B = window_starts(step, length=len(stream), window=SEQUENCE_TOKENS, batch=config.batch_size,
                             seed=config.seed)
    positions_BT = (starts_B[:, None] + torch.arange(SEQUENCE_TOKENS)) % len(stream)
    return stream[positions_BT].to(config.device)


def learning_rate_at(progress: float, config: PretrainConfig) -> float:
    """Rise linearly, then fall along a cosine to a twentieth of the peak; `progress` runs from 0 to 1."""
    if progress < config.warmup:
        return config.learning_rate * (progress / config.warmup + 0.01)
    fall = min(1.0, (progress - config.warmup) / (1 - config.warmup))
    return config.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * fall)))


@torch.no_grad()
def mean_loss(model: LlamaForCausalLM, stream: torch.Tensor, batch_size: int = 16) -> float:
    """Return the mean loss in nats a token over the whole sequences of a stream."""
    was_training = model.training
    model.eval()
    tokens_NT = stream[: len(stream) // SEQUENCE_TOKENS * SEQUENCE_TOKENS].view(-1, SEQUENCE_TOKENS).to(model.device)
    total = sum(model(input_ids=part, labels=part).loss.item() * len(part) for part in tokens_NT.split(batch_size))
    model.train(was_training)
    return total / len(tokens_NT)


def train(
    model: LlamaForCausalLM, training: torch.Tensor, held_out: torch.Tensor, config: PretrainConfig, out: Path
) -> PretrainResult:
    """Train in float32 until the schedule ends, keeping checkpoints in `out` and continuing from them.

    Raises:
        ForeignCheckpoint: `out` has the checkpoint of another config.
    """
    optimizer = adamw(model.parameters(), learning_rate=config.learning_rate, beta2=0.95,
                      weight_decay=config.weight_decay)
    step, before_s, losses = 0, 0.0, []
    saved = load_checkpoint(out, config, _note)
    if saved is not None:
        model.load_state_dict(saved.tensors["model"])
        optimizer.load_state_dict(saved.tensors["optimizer"])
        step, before_s, losses = saved.step, saved.state["seconds"], saved.state["losses"]
        _note(Note(text=f"continuing at step {step} from {out / 'checkpoint'}"))
    started = last_saved = time.monotonic()
    model.train()
    while step < config.steps:
        tokens_BT = batch_at(step, training, config)
        loss = model(input_ids=tokens_BT, labels=tokens_BT).loss
        loss.backward()
        take_step([optimizer], model.parameters(), learning_rate=learning_rate_at(step / config.steps, config),
                  max_grad_norm=1.0)
        losses = [*losses[-99:], loss.item()]
        step += 1
        seconds = before_s + time.monotonic() - started
        if step % 50 == 0:
            note = f", held out {mean_loss(model, held_out[: 64 * SEQUENCE_TOKENS]):.3f}" if step % 500 == 0 else ""
            mean = sum(losses[-50:]) / len(losses[-50:])
            _note(Note(text=f"step {step} ({step / config.steps:.0%}): loss {mean:.3f}{note}, {seconds:.0f} s"))
        if time.monotonic() - last_saved > config.checkpoint_every_s:
            last_saved = time.monotonic()
            save_checkpoint(out, config, Checkpoint(
                step=step, state={"seconds": seconds, "losses": losses},
                tensors={"model": model.state_dict(), "optimizer": optimizer.state_dict()}))
    return PretrainResult(
        steps=step,
        tokens_seen=step * config.batch_size * SEQUENCE_TOKENS,
        training_tokens=len(training),
        train_loss=sum(losses) / len(losses),
        held_out_loss=mean_loss(model, held_out),
        seconds=before_s + time.monotonic() - started,
    )


def _note(event: Event) -> None:
    if isinstance(event, Note):
        print(event.text, file=sys.stderr, flush=True)


def model_card(
    config: PretrainConfig, result: PretrainResult, training: list[str], held_out: list[str], weights: bytes
) -> str:
    """Write down how the weights were made."""
    options = f"--steps {config.steps} --seed {config.seed} --device {config.device}"
    passes = result.tokens_seen / result.training_tokens
    facts = {
        "command": f"`python tools/pretrain_demo_base.py --out DIR {options}`",
        "data": "docstrings of the standard library and `pydoc_data.topics`, read by `training.data.builtin_docs`"
        f" from Python {platform.python_version()}",
        "documents": f"{len(training)} to train on, {len(held_out)} held out",
        "characters": f"{sum(map(len, training))} to train on, {sum(map(len, held_out))} held out",
        "tokens": f"{result.training_tokens} to train on, {result.tokens_seen} seen ({passes:.1f} passes)",
        "data sha256": f"`{documents_sha256(training)}`",
        "weights sha256": f"`{hashlib.sha256(weights).hexdigest()}` (`model.safetensors`, float16)",
        "optimizer": f"AdamW, {result.steps} steps of {config.batch_size} x {SEQUENCE_TOKENS} tokens, peak learning"
        f" rate {config.learning_rate:g}, weight decay {config.weight_decay:g}, warm-up and cosine, clipped at norm 1",
        "final train loss": f"{result.train_loss:.4f} nats a token (mean of the last 100 steps)",
        "held-out loss": f"{result.held_out_loss:.4f} nats a token (perplexity {math.exp(result.held_out_loss):.2f})",
        "machine": f"{platform.machine()} {platform.system()}, {config.device}, {torch.get_num_threads()} threads,"
        f" {result.seconds / 60:.0f} minutes",
        "packages": f"torch {torch.__version__}, transformers {transformers.__version__},"
        f" tokenizers {tokenizers.__version__}",
    }
    return CARD.format(table="\n".join(f"| {name} | {value} |" for name, value in facts.items()))


def documents_sha256(documents: list[str]) -> str:
    """Hash texts in their order."""
    return hashlib.sha256("\0".join(documents).encode()).hexdigest()


def pretrain(out: Path, config: PretrainConfig) -> PretrainResult:
    """Train tokenizer and model and write both, with a model card, to the folder `out`."""
    torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    documents = split_documents()
    tokenizer = train_tokenizer(documents[0])
    training, held_out = (pack(part, tokenizer) for part in documents)
    model = LlamaForCausalLM(model_config(tokenizer)).to(config.device)  # type: ignore[arg-type]  # `to` is wrapped without its types
    print(
        f"{model.num_parameters()} parameters, {len(training)} tokens to train on, {len(held_out)} held out",
        file=sys.stderr,
    )
    result = train(model, training, held_out, config, out)
    save_tokenizer(tokenizer, out)
    model.half().save_pretrained(out)
    weights = (out / "model.safetensors").read_bytes()
    (out / "README.md").write_text(model_card(config, result, *documents, weights), encoding="utf-8")
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
    return result


def main() -> int:
    """Parse the command line, pretrain and print the result."""
    parser = argparse.ArgumentParser(
        prog="python tools/pretrain_demo_base.py", description="Pretrain the demo base model."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model; made if missing")
    parser.add_argument("--steps", type=int, default=PretrainConfig.steps)
    parser.add_argument("--device", default=PretrainConfig.device)
    parser.add_argument("--seed", type=int, default=PretrainConfig.seed)
    asked = parser.parse_args()
    config = PretrainConfig(steps=asked.steps, device=asked.device, seed=asked.seed)
    try:
        result = pretrain(asked.out, config)
    except KaggleRunnerError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"held-out loss {result.held_out_loss:.4f}, train loss {result.train_loss:.4f}, written to {asked.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
