"""Loading a base: families, quantised checkpoints, and refusals in one line."""

import dataclasses
import importlib.util
import json
import logging

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import HostError, ModelError
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.data.tokens import encode
from kaggle_runner.training.finetune import Control, evaluate, train_adapter
from kaggle_runner.training.loss import summed_loss
from kaggle_runner.training.models.base_model import freeze, half_dtype, linear_layers_4bit, load_base, model_source
from tests.conftest import save_tiny

CPU = torch.device("cpu")
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256}


def families(vocabulary):
    return {
        "qwen2": Qwen2Config(vocab_size=vocabulary, **SMALL),
        "qwen3": Qwen3Config(vocab_size=vocabulary, head_dim=16, **SMALL),
        "gpt2": GPT2Config(vocab_size=vocabulary, n_embd=64, n_layer=2, n_head=4, n_positions=256,
                           bos_token_id=0, eos_token_id=1),
        "gemma": GemmaConfig(vocab_size=vocabulary, head_dim=16, **SMALL),
    }


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gpt2", "gemma"])
def test_other_families_train_from_a_local_folder(family, tmp_path, rows_file, tokenizer_of_the_demo_base, caplog):
    caplog.set_level(logging.ERROR)
    vocabulary = len(tokenizer_of_the_demo_base) + 1  # Qwen2's own tokenizer class adds its end token
    folder = save_tiny(families(vocabulary)[family], tmp_path / family, tokenizer_of_the_demo_base)
    config = FinetuneConfig(model=str(folder), dataset=str(rows_file), samples=64, max_eval_samples=8, max_length=48,
                            max_steps=4, eval_steps=4, learning_rate=1e-2)
    base = load_base(config, CPU)
    assert base.own_head
    assert len(list(linear_layers_4bit(base.model))) == (8 if family == "gpt2" else 14)
    data = encode(load_rows(config, cache_directory=tmp_path), base.tokenizer, config, cache_directory=tmp_path)
    before = evaluate(base, data.validation, config)
    result = train_adapter(base, data, config, "0", Control(poll=lambda: None, emit=lambda event: None,
                                                            directory=tmp_path / "trial"))
    assert result.metric < before
    assert evaluate(base, data.validation, config) == before


def all_but_the_last(tokens_BT):
    """Every place that has a next token, and those tokens."""
    places_BT = torch.arange(tokens_BT.numel()).reshape(tokens_BT.shape)
    return places_BT[:, :-1].flatten(), tokens_BT[:, 1:].flatten()


def test_capped_logits_are_capped_in_the_loss_too(tmp_path, tokenizer_of_the_demo_base):
    """A random model's logits are too small to tell, so its output matrix is made a hundred times larger."""
    settings = Gemma2Config(vocab_size=len(tokenizer_of_the_demo_base), head_dim=16, final_logit_softcapping=5.0,
                            tie_word_embeddings=False, **SMALL)
    base = load_base(FinetuneConfig(model=str(save_tiny(settings, tmp_path / "gemma2", tokenizer_of_the_demo_base)),
                                    load_in_4bit=False), CPU)
    base.model.get_output_embeddings().weight.mul_(100)
    tokens_BT = torch.arange(24).reshape(2, 12)
    logits_BTV = base.model(input_ids=tokens_BT).logits
    assert logits_BTV.abs().max() > 4
    expected = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum")
    assert base.own_head
    loss = summed_loss(base.model, tokens_BT, *all_but_the_last(tokens_BT), own_head=True)
    torch.testing.assert_close(loss, expected)


def test_a_checkpoint_that_was_quantised_elsewhere_computes_in_our_dtype(tiny_llama, rows_file, tmp_path):
    """Hub checkpoints in 4 bits mostly compute in bfloat16, which a T4 emulates."""
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                  bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=settings, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "quantised")
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "quantised")
    base = load_base(FinetuneConfig(model=str(tmp_path / "quantised")), CPU)
    layers = list(linear_layers_4bit(base.model))
    assert len(layers) == 14
    assert {layer.compute_dtype for layer in layers} == {torch.float32}
    assert base.own_head


def test_in_float16_norms_compute_in_float32_and_hand_on_float16(tiny_llama):
    """What follows would cast it anyway, and every adapter would keep a float32 copy until the backward pass."""
    base = load_base(FinetuneConfig(model=str(tiny_llama), load_in_4bit=False), CPU)
    tokens_BT = torch.arange(24).reshape(2, 12)
    exact = summed_loss(base.model, tokens_BT, *all_but_the_last(tokens_BT), own_head=True)
    freeze(base.model, torch.float16)
    norm = base.model.model.norm
    hidden_BTD = torch.randn(2, 3, 64, dtype=torch.float16)
    assert norm.weight.dtype is torch.float32
    expected_BTD = F.rms_norm(hidden_BTD.float(), (64,), norm.weight, norm.variance_epsilon).half()
    torch.testing.assert_close(norm(hidden_BTD), expected_BTD, atol=2e-3, rtol=1e-3)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = summed_loss(base.model, tokens_BT, *all_but_the_last(tokens_BT), own_head=True)
    torch.testing.assert_close(loss, exact, atol=0.0, rtol=2e-3)


def test_without_quantisation_the_base_is_plain(tiny_llama):
    base = load_base(FinetuneConfig(model=str(tiny_llama), load_in_4bit=False), CPU)
    assert not list(linear_layers_4bit(base.model))
    assert base.key == (str(tiny_llama), False, False)


def test_the_hash_of_a_base_follows_its_files(tiny_llama, tmp_path, tokenizer_of_the_demo_base):
    import shutil

    config = FinetuneConfig(model=str(tiny_llama))
    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    assert load_base(dataclasses.replace(config, model=str(copy)), CPU).sha256 == load_base(config, CPU).sha256
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert load_base(dataclasses.replace(config, model=str(copy)), CPU).sha256 != load_base(config, CPU).sha256


@pytest.mark.parametrize(("model", "message"), [
    ("./nowhere", r"the model folder \./nowhere does not exist; give an existing folder, or a hub id"),
    ("/nowhere/at/all", "the model folder /nowhere/at/all does not exist"),
    ("justaname", "the model folder justaname does not exist"),
])
def test_a_folder_that_is_not_there_is_refused(model, message):
    with pytest.raises(ModelError, match=message):
        model_source(model)


def test_a_folder_or_file_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"it has no config\.json with a model_type"):
        model_source(str(tmp_path))
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"weights\.bin is a file, not a model"):
        model_source(str(tmp_path / "weights.bin"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="is not a model"):
        load_base(FinetuneConfig(model=str(tmp_path)), CPU)


def test_a_model_without_weights_is_refused(tiny_llama, tmp_path):
    (tmp_path / "config.json").write_text((tiny_llama / "config.json").read_text())
    with pytest.raises(ModelError, match="cannot load the model"):
        load_base(FinetuneConfig(model=str(tmp_path)), CPU)


def test_a_family_that_overflows_in_float16_gets_bfloat16_or_is_refused():
    assert half_dtype((7, 5), "llama") is torch.float16
    assert half_dtype((8, 9), "gemma3_text") is torch.bfloat16
    with pytest.raises(ModelError, match=r"gemma3_text models overflow in float16, and a GPU below compute capability "
                                         r"8\.0 has no bfloat16; choose a Llama"):
        half_dtype((7, 5), "gemma3_text")


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is not None, reason="liger-kernel is installed")
def test_liger_kernels_that_are_not_installed_are_refused(tiny_llama):
    with pytest.raises(HostError, match="liger-kernel is not installed; run: pip install liger-kernel, or set it to"):
        load_base(FinetuneConfig(model=str(tiny_llama), use_liger_kernel=True), CPU)


def test_a_phi_whose_config_names_no_padding_loads(tmp_path, tokenizer_of_the_demo_base):
    """As the checkpoints of Phi 1.5 and 2 are; transformers 5.0 asks such a config for one."""
    settings = PhiConfig(vocab_size=len(tokenizer_of_the_demo_base), pad_token_id=0, **SMALL)
    folder = save_tiny(settings, tmp_path / "phi", tokenizer_of_the_demo_base)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({name: value for name, value in described.items()
                                                    if name != "pad_token_id"}))
    base = load_base(FinetuneConfig(model=str(folder)), CPU)
    assert len(list(linear_layers_4bit(base.model))) == 12
