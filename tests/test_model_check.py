"""The model's folder before it is used: each refusal in one line, and what works but perhaps not as meant."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
import transformers

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ModelError
from kaggle_runner.memory.predict import CPU, predict
from kaggle_runner.training.finetune import attach
from kaggle_runner.training.models.base_model import check_model, left_in_16_bits, linear_layers_4bit, load_base
from kaggle_runner.training.models.model_check import check_config, check_tokenizer
from tests.conftest import save_tiny

TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128}


def folder_with(tmp_path, **files):
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return FinetuneConfig(model=str(tmp_path))


@pytest.mark.parametrize(("values", "message"), [
    ({"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}},
     "it is quantised by gptq, and only bitsandbytes' 4 bits are trained on; give its original in 16"),
    ({"model_type": "llama", "quantization_config": {"quant_method": "awq"}}, "it is quantised by awq, and only"),
    ({"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}}, "it is quantised by mxfp4, and only"),
    ({"model_type": "llama", "quantization_config": {"load_in_8bit": True}}, "quantised by bitsandbytes in 8 bits"),
    ({"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
     "quantised by bitsandbytes in 8 bits"),
    ({"model_type": "llama", "quantization_config": {"group_size": 64, "bits": 4}},
     "it is quantised by an unnamed program such as MLX, and only bitsandbytes' 4 bits are trained on; give its orig"),
    ({"model_type": "llama", "quantization": {"group_size": 64, "bits": 8}}, "an unnamed program such as MLX, and"),
    ({"model_type": "nobody-knows"},
     r"m cannot be trained: transformers 5\..* here does not know its family nobody-knows; choose an older one, or "
     r"run: pip install -U transformers; a kernel needs another push --image"),
    ({"model_type": "nobody-knows", "auto_map": {"AutoModelForCausalLM": "m.M"}}, "not know its family nobody-knows"),
    ({"model_type": "bert", "architectures": ["BertForMaskedLM"]},
     r"it is an encoder \(BertForMaskedLM\), which fills gaps and does not write on; choose a decoder"),
    ({"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"]}, "it is an encoder"),
    ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
     r"it is a sequence-to-sequence model \(T5ForConditionalGeneration\), which reads with one part"),
    ({"model_type": "bart", "architectures": ["BartForConditionalGeneration"]}, "sequence-to-sequence model"),
    ({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "vision_config": {}},
     r"it is a multimodal model \(LlavaForConditionalGeneration\), of which transformers .* makes no text model"),
    ({"model_type": "vit", "architectures": ["ViTModel"]}, r"it is no language model that writes on \(ViTModel\)"),
    ({"model_type": "own", "auto_map": {"AutoConfig": "config_own.Own", "AutoModelForCausalLM": "a/b--model_own.Own"}},
     r"it brings Python code of its own \(config_own\.py, model_own\.py\), which is not run unasked; read it and write "
     r"trust_remote_code: true, or choose a model that transformers"),
])
def test_what_cannot_be_trained_is_refused_in_one_line(values, message):
    with pytest.raises(ModelError, match=message) as caught:
        check_config("m", values, trust=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [
    {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    {"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    {"model_type": "phi3", "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}},
    {"model_type": "bert", "architectures": ["BertLMHeadModel"], "is_decoder": True},
    {"model_type": "llama", "architectures": 5, "quantization_config": {"load_in_4bit": True}},
    {"model_type": "bart", "architectures": ["BartForCausalLM"]}, {"model_type": "gemma3", "vision_config": {}},
])
def test_what_may_be_trained_is_not_refused(values):
    check_config("m", values, trust=False)


def test_all_that_is_wrong_comes_at_once():
    with pytest.raises(ModelError, match=r"m cannot be trained: an adapter_config\.json lies beside it.*; it is "
                                         r"quantised by awq.*; it is an encoder"):
        check_config("m", {"model_type": "bert", "quantization_config": {"quant_method": "awq"}}, trust=False,
                     has_adapter=True)


def test_a_folder_of_gguf_files_and_one_with_a_value_of_a_wrong_kind_are_told(tmp_path):
    (tmp_path / "a.Q4_K_M.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"holds GGUF files, which nothing is trained on; give its original in"):
        check_model(FinetuneConfig(model=str(tmp_path)))
    config = folder_with(tmp_path, config={"model_type": "llama", "hidden_size": "big"})
    with pytest.raises(ModelError, match=r" is not a model: .*(got str \(value: 'big'\)|: 'str' and 'int'); mend its "
                                         r"config\.json, or get it again"):
        load_base(dataclasses.replace(config, load_in_4bit=False), torch.device("cpu"))


def test_a_number_in_quotes_is_told_when_the_model_is_loaded(tiny_llama, tmp_path):
    """transformers 5.0 takes it until it computes with it."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "rms_norm_eps": "1e-6"}))
    with pytest.raises(ModelError, match=r"is not a model: .*('rms_norm_eps' expected float, got str|'Tensor' and "
                                         r"'str').*; mend its config\.json, or get it again"):
        load_base(FinetuneConfig(model=str(folder), load_in_4bit=False), torch.device("cpu"))


def test_an_adapter_is_no_model(tmp_path):
    config = folder_with(tmp_path, adapter_config={"base_model_name_or_path": "owner/base"})
    with pytest.raises(ModelError, match=r"is an adapter, not a model: it has an adapter_config\.json and no "
                                         r"config\.json; give its base owner/base, or merge the two"):
        check_model(config)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match=r"an adapter_config\.json lies beside it, so transformers would load that"):
        check_model(config)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tokenizer_of_the_demo_base):
    config = transformers.LlamaConfig(**TINY, vocab_size=100)
    with pytest.raises(ModelError, match=r"its tokenizer has \d+ tokens, such as '.*' \(number \d+\), beyond the "
                                         r"model's 100 embeddings; give the tokenizer that it was trained with"):
        check_tokenizer("m", tokenizer_of_the_demo_base, config)


def test_a_tokenizer_from_elsewhere_and_one_without_an_end_are_told_of(tmp_path, tokenizer_of_the_demo_base):
    tokenizer_of_the_demo_base.save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    own = transformers.LlamaConfig(**TINY, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    assert check_tokenizer("m", tokenizer, own) == []
    other = transformers.LlamaConfig(**TINY, vocab_size=100_000, eos_token_id=[99_998, 99_999])
    (told,) = check_tokenizer("m", tokenizer, other)
    assert told.startswith(f"warning: the tokenizer of m may be another model's: it has {len(tokenizer)} tokens of "
                           f"100000, and ends answers with ")
    tokenizer.eos_token = None
    (told,) = check_tokenizer("m", tokenizer, own)
    assert told.startswith("warning: the tokenizer of m names no end token, so answers are trained without an end")


def test_a_model_without_pad_and_end_tokens_trains(tmp_path, tokenizer_of_the_demo_base):
    tokenizer_of_the_demo_base.save_pretrained(tmp_path / "tokenizer")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    tokenizer.eos_token = tokenizer.pad_token = None
    config = transformers.LlamaConfig(**TINY, vocab_size=len(tokenizer))
    folder = save_tiny(config, tmp_path / "model", tokenizer)
    base = load_base(FinetuneConfig(model=str(folder), load_in_4bit=False), torch.device("cpu"))
    assert base.tokenizer.eos_token_id is None
    assert base.tokenizer.pad_token_id == 0
    assert [warning.split(",")[0] for warning in base.warnings] == [
        f"warning: the tokenizer of {folder} names no end token"]


@pytest.mark.parametrize("family", [{"model_type": "own_llama"}, {"model_type": ""}, {}])
def test_code_of_a_model_is_run_only_where_it_is_allowed_and_nothing_is_asked(tmp_path, tokenizer_of_the_demo_base,
                                                                              family):
    """Also where its config names no family, as a class of its own may leave it."""
    folder = save_tiny(transformers.LlamaConfig(**TINY, vocab_size=len(tokenizer_of_the_demo_base)), tmp_path / "own",
                       tokenizer_of_the_demo_base)
    (folder / "own_code.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\nclass OwnConfig(LlamaConfig):\n"
        f"    model_type = {family.get('model_type', '')!r}\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n")
    values = json.loads((folder / "config.json").read_text())
    del values["model_type"]
    values |= family | {"architectures": ["OwnModel"], "auto_map": {
        "AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(values))
    script = textwrap.dedent("""
        import sys, torch
        from kaggle_runner.config import FinetuneConfig
        from kaggle_runner.errors import ModelError
        from kaggle_runner.training.models.base_model import load_base
        for trust in (False, True):
            config = FinetuneConfig(model=sys.argv[1], load_in_4bit=False, trust_remote_code=trust)
            try:
                print(type(load_base(config, torch.device("cpu")).model).__name__)
            except ModelError as error:
                print(error)
    """)
    reading, writing = os.pipe()  # like a worker's stdin: open, and nothing comes
    try:
        done = subprocess.run([sys.executable, "-c", script, str(folder)], stdin=reading, capture_output=True,
                              text=True, timeout=250, env={**os.environ, "HF_HOME": str(tmp_path / "hub")})
    finally:
        os.close(reading)
        os.close(writing)
    refused, loaded = done.stdout.splitlines()
    assert "it brings Python code of its own (own_code.py), which is not run unasked" in refused
    assert loaded == "OwnModel", done.stderr


SPARSE = {"mixtral": {**TINY, "num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False},
          "falcon": {**TINY, "tie_word_embeddings": False, "new_decoder_architecture": True, "num_kv_heads": 2},
          "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}}
LEFT = {"mixtral": r"warning: load_in_4bit leaves \d\d% of the layers in 16 bits \(MixtralExperts \d\d%",
        "falcon": r"warning: load_in_4bit leaves 100% of the layers in 16 bits \(FalconLinear 100%", "gpt2": ""}


@pytest.mark.parametrize("family", SPARSE)
def test_what_stays_in_16_bits_is_told_and_forecast(family, tmp_path, tokenizer_of_the_demo_base):
    shape = transformers.AutoConfig.for_model(family, vocab_size=len(tokenizer_of_the_demo_base), **SPARSE[family])
    folder = save_tiny(shape, tmp_path / family, tokenizer_of_the_demo_base)
    config = FinetuneConfig(model=str(folder), max_length=32, lora_dropout=0.0)
    base = load_base(config, torch.device("cpu"))
    told = left_in_16_bits(base.model)
    # transformers 5.0 quantises Falcon's own kind of linear layer, later versions leave it
    left = "" if family == "falcon" and any(linear_layers_4bit(base.model)) else LEFT[family]
    assert len(told) == bool(left)
    if told:
        assert re.match(left, told[0]), told
        assert told[0] in base.warnings
    tensors = {id(part): part for module in base.model.modules() for part in (
        *module._parameters.values(), *module._buffers.values()) if part is not None}
    states = [part.quant_state for part in tensors.values() if getattr(part, "quant_state", None) is not None]
    real = sum(part.nbytes for part in tensors.values()) + sum(
        scale.nbytes for state in states for scale in (
            state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code))
    assert predict(config, json.loads((folder / "config.json").read_text()), target=CPU).parts["base"] == (
        pytest.approx(real, rel=0.02))


def test_a_multimodal_model_gets_adapters_on_its_language_model_only(tmp_path, tokenizer_of_the_demo_base):
    text = {**TINY, "head_dim": 16, "vocab_size": len(tokenizer_of_the_demo_base) + 8, "pad_token_id": 0}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}
    shape = transformers.AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    folder = save_tiny(shape, tmp_path / "gemma3", tokenizer_of_the_demo_base)
    config = FinetuneConfig(model=str(folder), load_in_4bit=False)
    base = load_base(config, torch.device("cpu"))
    seeing = [name for name, module in base.model.named_modules()
              if isinstance(module, torch.nn.Linear) and "vision" in name]
    adapted = attach(base, config)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    adapted.unload()
    assert seeing
    assert len(trained) == 2 * 2 * 7  # matrices of an adapter, layers, linear layers in one
    assert all("language_model" in name for name in trained)


@pytest.mark.parametrize(("family", "more"), [
    ("mixtral", {"num_local_experts": 4}), ("gpt_oss", {"num_local_experts": 4, "head_dim": 16}),
    ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}),
    ("granitemoe", {"num_local_experts": 4}), ("phimoe", {"num_local_experts": 4}),
])
def test_models_of_experts_have_a_forecast_and_no_trace_is_printed(family, more, capfd):
    shape = transformers.AutoConfig.for_model(family, vocab_size=512, **TINY, **more).to_dict()
    config = FinetuneConfig(max_length=32, lora_dropout=0.0, target_modules=("q_proj", "v_proj"))
    shape = {name: value for name, value in shape.items() if name not in ("quantization_config", "dtype")}
    assert predict(config, {**shape, "model_type": family}, target=CPU).peak_bytes > 0
    assert "Traceback" not in capfd.readouterr().err
