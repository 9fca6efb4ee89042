"""The base model in the package: small, loadable by anyone, and described by its card."""

import hashlib
import math
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import kaggle_runner
from kaggle_runner.training.data.builtin_docs import split_documents

FOLDER = Path(kaggle_runner.__file__).parent / "training" / "demo_base"
LARGEST_BYTES = 8 * 2**20


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


def card() -> dict[str, str]:
    """Return the rows of the model card's table."""
    lines = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").split(" | ", 1) for line in lines if line.startswith("| ") and " | " in line[2:]]
    return {name: value for name, value in (cell for cell in cells if len(cell) == 2)}


def loss_of(model: torch.nn.Module, texts: list[str]) -> float:
    """Return the mean loss in nats a token, each text alone behind a begin token."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    losses, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"][:255]]])
        with torch.no_grad():
            losses += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    return losses / tokens


def test_the_folder_is_at_most_eight_mebibytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= LARGEST_BYTES


def test_it_has_grouped_query_attention(model: torch.nn.Module) -> None:
    assert model.config.model_type == "llama"
    assert 1 < model.config.num_key_value_heads < model.config.num_attention_heads
    attention = model.model.layers[0].self_attn
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    assert attention.q_proj.out_features == groups * attention.k_proj.out_features


def test_every_matrix_fills_whole_nf4_blocks(model: torch.nn.Module) -> None:
    shapes = [module.weight.shape for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert all(size % 64 == 0 for shape in shapes for size in shape)


def test_every_weight_is_finite_in_float16() -> None:
    stored = AutoModelForCausalLM.from_pretrained(FOLDER)
    assert {parameter.dtype for parameter in stored.parameters()} == {torch.float16}
    assert all(parameter.isfinite().all() for parameter in stored.parameters())


def test_the_tokenizer_gives_text_back_and_adds_nothing() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    text = "  Return `None`: naïve\n\tfor (x, y) in [1, 2] — done."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token == "<|end|>"
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, None}) == 4
    assert not set(tokenizer.all_special_ids) & set(tokenizer(text)["input_ids"])


def test_the_card_says_how_the_model_was_made() -> None:
    told = card()
    assert told["command"].startswith("`python tools/pretrain_demo_base.py --out DIR --")
    assert re.search(r"Python 3\.\d+\.\d+", told["data"])
    assert re.fullmatch("`[0-9a-f]{64}`", told["data sha256"])
    assert {"documents", "characters", "tokens", "final train loss", "held-out loss", "machine"} <= told.keys()


def test_the_card_names_these_weights() -> None:
    digest = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert card()["weights sha256"].startswith(f"`{digest}`")


def test_it_predicts_text_it_never_saw_as_well_as_the_card_says(model: torch.nn.Module) -> None:
    held_out = [text for text in split_documents()[1] if len(text) > 300][:25]
    told = float(card()["held-out loss"].split()[0])
    assert told < 4.0
    assert loss_of(model, held_out) == pytest.approx(told, rel=0.15)
    assert loss_of(model, held_out) < math.log(model.config.vocab_size) / 1.8
