"""Our decoder layers against peft's path on tiny models of each family: losses, gradients, bytes, and who is known."""

import contextlib
import dataclasses
import functools

import bitsandbytes
import peft
import pytest
import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kaggle_runner.errors import ConfigError
from kaggle_runner.memory.fake_kernels import GpuKernels, materialise
from kaggle_runner.memory.fake_kernels import quantise as stand_in
from kaggle_runner.training.adapter_buffer import AdapterBuffer
from kaggle_runner.training.layer.elementwise import Masks
from kaggle_runner.training.layer.install import Path, agrees, fused_layers, layers_for_training, structures_of
from kaggle_runner.training.layer.keep import (
    ATTENTION,
    INPUT,
    PRODUCTS,
    from_words,
    in_words,
    keep_everywhere,
    keep_for,
)
from kaggle_runner.training.layer.structure import structure_of
from kaggle_runner.training.libraries import hide_unfit_torchao
from kaggle_runner.training.loss import summed_loss
from kaggle_runner.training.models import base_model
from kaggle_runner.training.models.attention import use_causal_attention
from kaggle_runner.training.models.bare_model import bare_model, layers_of

LAYERS, ROWS, LENGTH, VOCABULARY = 3, 2, 40, 300
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SOME = ("q_proj", "v_proj", "down_proj")
WINDOW = 12
FAMILIES = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {},
    "qwen3": {"head_dim": 24},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "gemma": {"head_dim": 32},
    "phi3": {},
    "phi3, turned in part": {"partial_rotary_factor": 0.5},
}
TOLERANCE = {torch.float32: 5e-6, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Of each gradient tensor, relative to its length."""


@pytest.fixture(scope="module", autouse=True)
def torchao_that_peft_takes():
    """As a worker does: the images' torchao makes peft refuse every linear layer that is not 4-bit."""
    hide_unfit_torchao()


def model_of(family="llama", dtype=torch.float32, *, dropout=0.0, in_4bit=True, targets="all-linear", **settings):
    """Make a random model and put an adapter on it whose second matrices are not zero."""
    torch.manual_seed(0)
    values = {"hidden_size": 64, "intermediate_size": 144, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 128, "pad_token_id": 0,
              "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.05, "tie_word_embeddings": False}
    shape = transformers.AutoConfig.for_model(family.split(",")[0], **values | FAMILIES.get(family, {}) | settings)
    model = transformers.AutoModelForCausalLM.from_config(shape).to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data += 0.02 * torch.randn_like(parameter)
    if in_4bit:
        quantise(model, dtype)
    base_model.freeze(model, dtype)
    use_causal_attention(model, groups=True)
    adapted = peft.get_peft_model(model, peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=dropout, target_modules=targets))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.05)
    return model, adapted


def quantise(model, dtype):
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and name != "lm_head":
            layer = bitsandbytes.nn.Linear4bit(module.in_features, module.out_features, module.bias is not None, dtype,
                                               compress_statistics=True, quant_type="nf4")
            weight = bitsandbytes.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
            layer.weight = weight.to("cpu")
            layer.bias = module.bias
            model.set_submodule(name, layer)
    model.is_loaded_in_4bit = True


def measured(model, adapted, dtype, keep=None, pack=None):
    """Return loss and gradients of a micro-batch; by transformers and peft where nothing is kept by list.

    The masks are the same. `own_head` false has torch's own loss computed from the model's own logits.
    """
    tokens_BT = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    positions_N = torch.cat([row * LENGTH + torch.arange(LENGTH - 1) for row in range(ROWS)])
    adapted.train()
    for parameter in adapted.parameters():
        parameter.grad = None
    torch.manual_seed(2)  # the masks
    with contextlib.ExitStack() as contexts:
        if keep is not None:
            contexts.enter_context(fused_layers(model, structures_of(model), keep, dtype))
        else:
            contexts.enter_context(same_masks(model))
        contexts.enter_context(torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32))
        if pack:
            contexts.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        loss = summed_loss(model, tokens_BT, positions_N, tokens_BT[:, 1:].flatten(), own_head=keep is not None)
    (loss / len(positions_N)).backward()
    gradients = {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}
    return loss.item() / len(positions_N), gradients


class SameDropout(nn.Module):
    """Dropout in peft's place, by the mask that our layer draws for a projection."""

    def __init__(self, pass_through, place, p):
        super().__init__()
        self.pass_through, self.place, self.p = pass_through, place, p

    def forward(self, x):
        return x * self.pass_through["masks"].draw(x.flatten(0, -2), self.p, self.place).view_as(x)


@contextlib.contextmanager
def same_masks(model):
    """Have peft's path drop what our layers drop."""
    undo = []
    for layer in layers_of(model):
        structure, pass_through = structure_of(layer), {}
        undo.append(layer.register_forward_pre_hook(lambda *_, here=pass_through: here.update(masks=Masks())).remove)
        for place, module in enumerate((*structure.qkv, structure.output, *structure.gate_up, structure.down)):
            dropouts = getattr(module, "lora_dropout", {})
            if "default" in dropouts and type(dropouts["default"]) is nn.Dropout:
                undo.append(functools.partial(dropouts.__setitem__, "default", dropouts["default"]))
                dropouts["default"] = SameDropout(pass_through, place, dropouts["default"].p)
    try:
        yield
    finally:
        for each in undo:
            each()


def off(ours, theirs):
    """Return the largest distance of a gradient tensor, relative to its length."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_pefts_whatever_is_kept(family, dtype, dropout):
    model, adapted = model_of(family, dtype, dropout=dropout)
    theirs = measured(model, adapted, dtype)
    lists = [(INPUT,) * LAYERS, (ATTENTION,) * LAYERS, (PRODUCTS,) * LAYERS, (INPUT, PRODUCTS, ATTENTION)]
    first, *others = [measured(model, adapted, dtype, keep) for keep in lists]
    assert first[0] == pytest.approx(theirs[0], rel=TOLERANCE[dtype] / 10)
    assert off(first[1], theirs[1]) <= TOLERANCE[dtype]
    for loss, gradients in others:
        assert loss == first[0]
        assert all(torch.equal(gradients[name], first[1][name]) for name in gradients)


@pytest.mark.parametrize("in_4bit", [True, False])
@pytest.mark.parametrize("targets", [SOME, ("gate_proj",), LINEAR])
def test_any_projections_may_have_adapters_on_bases_of_4_and_of_16_bits(in_4bit, targets):
    model, adapted = model_of("qwen2", dropout=0.05, in_4bit=in_4bit, targets=list(targets))
    theirs = measured(model, adapted, torch.float32)
    ours = measured(model, adapted, torch.float32, (INPUT, ATTENTION, PRODUCTS))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert off(ours[1], theirs[1]) <= TOLERANCE[torch.float32]


def test_bfloat16_products_on_a_float32_base_are_pefts():
    """As a CPU computes that multiplies bfloat16."""
    model, adapted = model_of("llama", dropout=0.05)
    theirs = measured(model, adapted, torch.bfloat16)
    ours = measured(model, adapted, torch.bfloat16, (INPUT, ATTENTION, PRODUCTS))
    assert ours[0] == pytest.approx(theirs[0], rel=5e-3)
    assert off(ours[1], theirs[1]) <= TOLERANCE[torch.bfloat16]


def test_capped_logits_have_the_gradients_of_torchs_own_loss():
    """Gemma 2 caps its logits, and its layers stay transformers'."""
    model, adapted = model_of("gemma2", in_4bit=False, head_dim=16, final_logit_softcapping=2.0,
                              attn_implementation="eager")
    tokens_BT = torch.randint(3, VOCABULARY, (ROWS, LENGTH))
    results = []
    for own_head in (False, True):
        adapted.zero_grad()
        loss = summed_loss(model, tokens_BT, torch.arange(ROWS * LENGTH), tokens_BT.flatten(), own_head=own_head)
        loss.backward()
        results.append((loss.item(), {n: p.grad.clone() for n, p in adapted.named_parameters() if p.requires_grad}))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    assert off(results[1][1], results[0][1]) <= TOLERANCE[torch.float32]


def test_gradients_are_added_to_those_that_are_there():
    model, adapted = model_of("llama", torch.float16)
    keep = (PRODUCTS,) * LAYERS
    _, once = measured(model, adapted, torch.float16, keep)
    buffer = AdapterBuffer([p for p in adapted.parameters() if p.requires_grad], torch.float16)
    tokens_BT = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    positions_N = torch.cat([row * LENGTH + torch.arange(LENGTH - 1) for row in range(ROWS)])
    for _ in range(2):
        with fused_layers(model, structures_of(model), keep, torch.float16, buffer.copies), \
                torch.autocast("cpu", dtype=torch.float16):
            loss = summed_loss(model, tokens_BT, positions_N, tokens_BT[:, 1:].flatten(), own_head=True)
        (loss / len(positions_N)).backward()
    twice = {name: p.grad / 2 for name, p in adapted.named_parameters() if p.requires_grad}
    assert off(twice, once) < 1e-3
    squares = sum(float(gradient.norm())**2 for gradient in once.values())
    assert float(buffer.whole.grad.norm()) == pytest.approx(2 * squares**0.5, rel=1e-3)


def pass_of(model, after_forward=lambda: None, targets=slice(None)):
    """Run both passes of our layers and our loss over one micro-batch, and return the loss."""
    tokens_BT = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    positions_N = torch.arange(ROWS * LENGTH)[targets]
    model.train()
    with layers_for_training(model, dtype=torch.float32, again=False):
        loss = summed_loss(model, tokens_BT, positions_N, tokens_BT.flatten()[targets], own_head=True)
        after_forward()
        loss.backward()
    return loss.item()


def test_a_micro_batch_without_a_target_adds_nothing():
    model, adapted = model_of("llama")
    assert pass_of(model, targets=slice(0)) == 0.0
    assert not any(p.grad.any() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("change", ["eval", "step"])
def test_an_adapter_that_changed_between_the_passes_is_refused(change):
    model, adapted = model_of("llama", dropout=0.5)
    first = next(p for p in adapted.parameters() if p.requires_grad)
    changes = {"eval": model.eval, "step": lambda: torch.optim.SGD([first], lr=1.0).step()}
    first.grad = torch.ones_like(first)
    with pytest.raises(RuntimeError, match="the adapter was changed, or trains no more, between forward and backward"):
        pass_of(model, changes[change])


def test_gradients_have_no_gradients():
    model, adapted = model_of("llama")
    model.train()
    with layers_for_training(model, dtype=torch.float32, again=False):
        loss = summed_loss(model, torch.ones(1, 4, dtype=torch.int64), torch.arange(4), torch.arange(4), own_head=True)
        parameters = [p for p in adapted.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    with pytest.raises(RuntimeError, match="marked with @once_differentiable"):
        sum(gradient.square().sum() for gradient in gradients).backward()


def test_an_output_matrix_that_something_is_hooked_into_keeps_its_gradients():
    model, adapted = model_of("llama")
    model.get_output_embeddings().register_forward_hook(lambda module, arguments, output: output * 2)
    _, theirs = measured(model, adapted, torch.float32)
    _, ours = measured(model, adapted, torch.float32, (PRODUCTS,) * LAYERS)
    assert off(ours, theirs) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize(("keep", "most"), [(PRODUCTS, 100_000), (ATTENTION, 40_000), (INPUT, 8_500)])
def test_a_layer_of_an_8b_keeps_what_its_list_says(keep, most):
    """Bytes a token and layer of the shape of Llama 3 8B: what three layers keep less what one keeps."""
    kept = (kept_bytes(keep, layers=3) - kept_bytes(keep, layers=1)) / 2 / (2 * 512)
    assert 0.9 * most < kept <= most


def kept_bytes(keep, layers):
    """Sum what autograd keeps of the hidden states of 2 x 512 tokens, on tensors without data."""
    shape = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": layers,
             "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 256}
    model = bare_model(shape, half=True)
    stand_in(model, {"bnb_4bit_use_double_quant": True}, stored_as=torch.float16, compute_dtype=torch.float16)
    base_model.freeze(model, torch.float16)
    use_causal_attention(model, groups=False)
    with torch.device("meta"):
        adapted = peft.get_peft_model(model, peft.LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_dropout=0.05, target_modules="all-linear"))
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True), GpuKernels():
        materialise(adapted)
        model.train()
        with layers_for_training(model, dtype=torch.float16, again=False, keep=f"{keep} {layers}"), \
                torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.model(input_ids=torch.zeros(2, 512, dtype=torch.int64), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class TestWhoIsKnown:
    def test_a_model_as_it_comes_is_known_and_agrees(self):
        model, adapted = model_of("llama")
        assert len(structures_of(model)) == LAYERS
        assert agrees(adapted.unload(), structures_of(model), torch.float32, torch.device("cpu"))

    def test_another_family_says_its_name(self):
        model, _ = model_of("gemma2", head_dim=16)
        assert structures_of(model) == "Gemma2DecoderLayer is not a layer that is known here"

    def test_an_extra_parameter_is_noticed(self):
        model, _ = model_of("llama")
        layers_of(model)[1].mlp.register_parameter("gain", nn.Parameter(torch.ones(1)))
        assert structures_of(model) == "mlp is not as in a llama layer"

    def test_an_extra_module_is_noticed(self):
        model, _ = model_of("llama")
        layers_of(model)[1].self_attn.q_norm = nn.Identity()
        assert structures_of(model) == "it has self_attn.q_norm unlike a llama layer"

    @pytest.mark.parametrize("name", ["input_layernorm.weight", "self_attn.o_proj.bias", "mlp.down_proj.bias"])
    def test_a_parameter_of_the_base_that_trains_is_noticed(self, name):
        model, _ = model_of("llama")
        base = name.replace("_proj.", "_proj.base_layer.")
        layers_of(model)[1].get_parameter(base).requires_grad_(True)
        assert structures_of(model) == f"{name.rpartition('.')[0]} is not as in a llama layer"

    def test_a_forward_of_ones_own_is_noticed(self):
        model, _ = model_of("llama")
        mlp = layers_of(model)[2].mlp
        mlp.forward = lambda x: mlp.down_proj(x)
        assert structures_of(model) == "something is hooked into mlp"

    def test_code_put_into_a_class_is_noticed(self, monkeypatch):
        model, _ = model_of("llama")
        monkeypatch.setattr(type(layers_of(model)[0].mlp), "forward", lambda self, x: self.down_proj(x))
        assert structures_of(model) == "mlp runs changed code"

    def test_a_subclass_is_not_known(self):
        model, _ = model_of("llama")
        layer = layers_of(model)[0]
        layer.__class__ = type("LlamaDecoderLayer", (type(layer),), {})
        assert "is not a layer that is known here" in structure_of(layer)

    def test_a_hook_on_a_part_is_noticed_and_one_on_the_layer_runs(self):
        model, adapted = model_of("llama")
        seen = []
        layers_of(model)[0].register_forward_hook(lambda module, arguments, output: seen.append(output.shape))
        measured(model, adapted, torch.float32, (INPUT,) * LAYERS)
        assert seen == [(ROWS, LENGTH, 64)]
        layers_of(model)[0].mlp.register_forward_hook(lambda module, arguments, output: output * 2)
        assert structures_of(model) == "something is hooked into mlp"

    @pytest.mark.parametrize(("place", "change"), [
        ("lora_A.default", lambda part: setattr(part, "forward", lambda x: x[..., :4])),
        ("lora_dropout.default", lambda part: setattr(part, "forward", lambda x: x)),
        ("lora_dropout.default", lambda part: part.register_forward_hook(lambda *_: None)),
        ("lora_B.default", lambda part: part.weight.register_hook(lambda gradient: 2 * gradient)),
        ("base_layer", lambda part: part.register_forward_pre_hook(lambda *_: None)),
    ])
    def test_what_is_hooked_into_an_adapter_is_noticed(self, place, change):
        model, _ = model_of("llama", dropout=0.1)
        change(layers_of(model)[1].self_attn.v_proj.get_submodule(place))
        assert structures_of(model) == f"something is hooked into self_attn.v_proj.{place}"

    @pytest.mark.parametrize("place", ["self_attn.v_proj", "self_attn.v_proj.base_layer"])
    def test_code_put_into_the_class_of_a_linear_layer_is_noticed(self, monkeypatch, place):
        model, _ = model_of("llama")
        monkeypatch.setattr(type(layers_of(model)[0].get_submodule(place)), "forward", lambda self, x: x)
        assert structures_of(model) == "self_attn.q_proj is not as in a llama layer"

    def test_an_adapter_of_another_kind_is_noticed(self):
        model, adapted = model_of("llama")
        adapted.unload()
        peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, use_dora=True,
                                                   target_modules=["q_proj"]))
        assert structures_of(model) == "self_attn.q_proj is not as in a llama layer"

    def test_a_layer_that_computes_something_else_does_not_agree(self):
        _, adapted = model_of("llama")
        bare = adapted.unload()
        structures = [dataclasses.replace(s, scaling=2 * s.scaling) for s in structures_of(bare)]
        assert not agrees(bare, structures, torch.float32, torch.device("cpu"))

    def test_a_stranger_stays_with_transformers_and_the_record_says_why(self):
        model, _ = model_of("llama")
        layers_of(model)[1].mlp.register_forward_hook(lambda module, arguments, output: output)
        with layers_for_training(model, dtype=torch.float32, again=True) as path:
            assert path == Path(reason="something is hooked into mlp")
            assert str(path) == "transformers: something is hooked into mlp"
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())

    def test_a_family_that_cannot_compute_again_says_so(self):
        shape = transformers.AutoConfig.for_model("openai-gpt", n_embd=8, n_layer=1, n_head=1, vocab_size=9)
        model = transformers.AutoModelForCausalLM.from_config(shape)
        with pytest.raises(ConfigError, match="OpenAIGPTLMHeadModel cannot compute its activations again; set"), \
                layers_for_training(model, dtype=torch.float32, again=True, strange="it is"):
            pass

    def test_the_layers_are_transformers_again_afterwards(self):
        model, _ = model_of("llama")
        with layers_for_training(model, dtype=torch.float32, again=False) as path:
            assert str(path) == "fused: products 3"
            assert all("forward" in vars(layer) for layer in layers_of(model))
        assert not any("forward" in vars(layer) for layer in layers_of(model))
        with pytest.raises(ValueError, match="shorter"), \
                layers_for_training(model, dtype=torch.float32, again=False, keep="products 2"):
            pass
        assert not any("forward" in vars(layer) for layer in layers_of(model))


def test_lists_are_written_and_read_again():
    lists = keep_for(7, products=2, attention=1)
    assert lists == (INPUT,) * 4 + (ATTENTION,) + (PRODUCTS,) * 2
    assert in_words(lists) == "input 4, attention 1, products 2"
    assert from_words(in_words(lists)) == lists
    assert keep_everywhere(2, again=True) == (INPUT, INPUT)


class TestTheBuffer:
    def test_adamw_over_the_whole_is_adamw_over_the_parts(self):
        torch.manual_seed(0)
        values = [torch.randn(3, 5), torch.randn(7, 2)]
        parts, apart = ([nn.Parameter(v.clone()) for v in values] for _ in range(2))
        buffer = AdapterBuffer(parts, torch.float32)
        over_whole = torch.optim.AdamW([buffer.whole], lr=0.1, fused=True)
        over_parts = torch.optim.AdamW(apart, lr=0.1)
        for step in range(3):
            for ours, theirs in zip(parts, apart, strict=True):
                theirs.grad = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(step))
                ours.grad += theirs.grad
            over_whole.step()
            over_parts.step()
            buffer.after_step()
        for ours, theirs in zip(parts, apart, strict=True):
            torch.testing.assert_close(ours.data, theirs.data, rtol=1e-6, atol=1e-7)
            assert not ours.grad.any()
        ours, theirs = buffer.state_of_parts(over_whole), over_parts.state_dict()
        assert ours["state"].keys() == theirs["state"].keys()
        torch.testing.assert_close(ours["state"][1], theirs["state"][1], rtol=1e-6, atol=1e-7)
        assert ours["param_groups"][0]["params"] == theirs["param_groups"][0]["params"]

    def test_a_checkpoint_of_an_optimizer_over_the_parts_goes_on_over_the_whole(self):
        torch.manual_seed(0)
        values = [torch.randn(3, 5), torch.randn(7, 2)]
        parts, apart = ([nn.Parameter(v.clone()) for v in values] for _ in range(2))
        buffer = AdapterBuffer(parts, torch.float32)
        earlier = torch.optim.AdamW(apart, lr=0.1, weight_decay=0.3)
        for theirs in apart:
            theirs.grad = torch.ones_like(theirs)
        earlier.step()
        for ours, theirs in zip(parts, apart, strict=True):
            ours.data.copy_(theirs.data)
        later = torch.optim.AdamW([buffer.whole], lr=0.5, fused=True)
        buffer.load_state_of_parts(later, earlier.state_dict())
        assert (later.param_groups[0]["lr"], later.param_groups[0]["weight_decay"]) == (0.1, 0.3)
        buffer.whole.grad.fill_(2.0)
        for theirs in apart:
            theirs.grad.fill_(2.0)
        earlier.step()
        later.step()
        for ours, theirs in zip(parts, apart, strict=True):
            torch.testing.assert_close(ours.data, theirs.data, rtol=1e-6, atol=1e-7)

    def test_copies_in_half_precision_are_made_once_a_step(self):
        parts = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4, 2))]
        buffer = AdapterBuffer(parts, torch.float16)
        copy = buffer.copies(parts[1], torch.float16)
        assert buffer.copies(parts[1], torch.float16) is copy
        buffer.whole.data.mul_(3)
        assert copy.eq(1).all()
        buffer.after_step()
        assert copy.eq(3).all()
        assert parts[1].data.eq(3).all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_masks_drop_their_share_and_are_drawn_again_by_seed_and_place(dtype):
    torch.manual_seed(0)
    masks, x = Masks(), torch.empty(700, 300, dtype=dtype)  # more numbers than are drawn at once
    mask, again, other = (masks.draw(x, 0.05, place) for place in (1, 1, 2))
    assert torch.equal(mask, again)
    assert float((mask != other).float().mean()) == pytest.approx(2 * 0.05 * 0.95, rel=0.05)
    assert float((mask == 0).float().mean()) == pytest.approx(0.05, rel=0.03)
    assert mask.unique().tolist() == pytest.approx([0, 1 / 0.95], rel=4e-3)
    for axis in (0, 1):  # no row and no column is dropped more than chance would
        shares = (mask == 0).float().mean(axis)
        assert float(shares.std()) == pytest.approx((0.05 * 0.95 / x.shape[axis]) ** 0.5, rel=0.15)
    torch.manual_seed(0)
    assert torch.equal(Masks().draw(x, 0.05, 1), mask)


def test_a_dropout_next_to_one_still_drops():
    torch.manual_seed(0)
    assert float((Masks().draw(torch.empty(2**16), 0.999999, 0) != 0).float().mean()) < 1e-3
