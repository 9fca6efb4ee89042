"""Families of models with tiny random weights: the base's and the tuned loss are what plain transformers computes."""

import json
import math

import numpy as np
import pytest
import torch
import transformers

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.training import cpu_speed
from kaggle_runner.training.control import Control
from kaggle_runner.training.libraries import complete_config, load_adapter
from kaggle_runner.training.warm_finetune import WarmFinetune
from tests.conftest import alpaca_rows

SHAPE = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": False}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
OLD = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 128}
ATTENTION = {"lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
"""peft puts no adapter with dropout on fused experts, so an adapter beside experts names its layers."""
FAMILIES = {
    "llama": (SHAPE, {}), "mistral": ({**SHAPE, "sliding_window": 16}, {}), "qwen2": (SHAPE, {}),
    "qwen3": ({**SHAPE, "head_dim": 16}, {}), "gemma": ({**SHAPE, "head_dim": 16}, {}),
    "gemma2": ({**SHAPE, "head_dim": 16, "sliding_window": 16}, {}),
    "gemma3_text": ({**SHAPE, "head_dim": 16, "sliding_window": 16}, {}), "phi3": ({**SHAPE, "pad_token_id": 0}, {}),
    "olmo2": (SHAPE, {}), "granite": ({**SHAPE, "logits_scaling": 2.0}, {}),
    "stablelm": ({**SHAPE, "hidden_size": 64}, {}),
    "gpt2": (OLD, {}), "gpt_neox": (SHAPE, {}), "bloom": ({"hidden_size": 48, "n_layer": 2, "n_head": 4}, {}),
    "falcon": (SHAPE, {}), "opt": ({**SHAPE, "ffn_dim": 64, "word_embed_proj_dim": 48}, {}),
    "cohere": ({**SHAPE, "logit_scale": 0.5}, {}), "mixtral": ({**SHAPE, **EXPERTS}, ATTENTION),
    "qwen3_moe": ({**SHAPE, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
                  ATTENTION),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("families") / "rows.jsonl"
    chats = [{"messages": [{"role": role, "content": text} for question in (row, {**row, "instruction": "again"})
                           for role, text in (("user", question["instruction"]), ("assistant", question["output"]))]}
             for row in alpaca_rows(60)]
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    return path


def save(family, settings, folder, tokenizer):
    torch.manual_seed(0)
    shape = transformers.AutoConfig.for_model(family, **{
        "vocab_size": len(tokenizer) + 8, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, **settings})
    transformers.AutoModelForCausalLM.from_config(complete_config(shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def plain_loss(model, rows):
    """Mean over the counted tokens, one row at a time, by torch's own cross-entropy."""
    model.eval()
    losses = []
    for i in range(len(rows)):
        tokens = torch.from_numpy(rows.row(i).astype(np.int64)).unsqueeze(0)
        logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        each = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
        losses += each[torch.from_numpy(rows.trained_of(i)[1:])].tolist()
    return math.fsum(losses) / len(losses)


def stretches(trained):
    return int(np.count_nonzero(np.diff(trained.astype(np.int8), prepend=0) == 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_base_and_tuned_loss_are_those_of_plain_transformers(family, tmp_path, rows, tokenizer_of_the_demo_base,
                                                             monkeypatch):
    monkeypatch.setattr(cpu_speed, "WORTH_ITS_ROUNDING", 0.0)  # in float32, also where bfloat16 is measured as faster
    settings, adapter = FAMILIES[family]
    folder = save(family, settings, tmp_path / "model", tokenizer_of_the_demo_base)
    config = FinetuneConfig.from_params({
        "model": str(folder), "dataset": str(rows), "samples": 20, "eval_share": 0.1, "max_eval_samples": 5,
        "max_length": 96, "load_in_4bit": False, "batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 3,
        "eval_steps": 3, "learning_rate": 3e-2, "lora_r": 4, **adapter})
    work = WarmFinetune(lambda event: None, tmp_path / "cache", torch.device("cpu"))
    base = work.baseline(config)["eval/loss"]
    held_out = work._data[1].validation
    assert all(stretches(held_out.trained_of(i)) == 2 for i in range(len(held_out)))
    shape = complete_config(transformers.AutoConfig.from_pretrained(folder))
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, config=shape, dtype=torch.float32)
    assert base == pytest.approx(plain_loss(plain, held_out), abs=1e-5)
    result = work.train(config, "0", Control(poll=lambda: None, emit=lambda event: None, directory=tmp_path / "trial"))
    tuned = load_adapter(plain, tmp_path / "trial" / "adapter")
    assert result.metric == pytest.approx(plain_loss(tuned, held_out), abs=1e-5)
    assert abs(result.metric - base) > 1e-3
