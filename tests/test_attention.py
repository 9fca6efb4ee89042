"""Causal attention without masks: transformers' own numbers, and never the flag that a T4 is slow with."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, LlamaConfig, MistralConfig

from kaggle_runner.errors import ModelError
from kaggle_runner.training.models.attention import causal_attention, use_causal_attention

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}
TOKENS = torch.arange(24).reshape(2, 12) % 64
PADDED = torch.ones(2, 12, dtype=torch.int64)
PADDED[1, 8:] = 0
CONFIGS = {
    "grouped": LlamaConfig(**SMALL),
    "a window": MistralConfig(**SMALL, sliding_window=5),
    "windows in some layers": Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=5, pad_token_id=0,
                                               layer_types=["sliding_attention", "full_attention"]),
}


class Calls(TorchFunctionMode):
    """Notes what torch's attention was asked for."""

    def __init__(self):
        super().__init__()
        self.grouped, self.masked = [], []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.grouped.append(bool((kwargs or {}).get("enable_gqa")))
            self.masked.append((kwargs or {}).get("attn_mask") is not None)
        return func(*args, **(kwargs or {}))


def tiny_model(config=CONFIGS["grouped"]):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config))  # the attention is noted in it


def loss_and_gradients(model, mask):
    labels = TOKENS.masked_fill(PADDED == 0, -100)
    with Calls() as calls:
        loss = model(input_ids=TOKENS, attention_mask=mask, labels=labels, use_cache=False).loss
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()], calls


@pytest.mark.parametrize("groups", [True, False])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_without_a_mask_loss_and_gradients_are_transformers_own_with_one(config, groups):
    usual_loss, usual_gradients, _ = loss_and_gradients(tiny_model(config), PADDED)
    model = tiny_model(config)
    assert use_causal_attention(model, groups=groups)
    loss, gradients, calls = loss_and_gradients(model, None)
    torch.testing.assert_close(loss, usual_loss)
    torch.testing.assert_close(gradients, usual_gradients, rtol=1e-4, atol=1e-6)
    assert calls.grouped == [groups] * 2
    assert calls.masked == {"grouped": [False, False], "a window": [True, True],
                            "windows in some layers": [True, False]}[
        next(name for name, value in CONFIGS.items() if value is config)]


def test_a_row_that_is_no_longer_than_its_window_needs_no_mask():
    model = tiny_model(MistralConfig(**SMALL, sliding_window=12))
    assert use_causal_attention(model, groups=True)
    assert loss_and_gradients(model, None)[2].masked == [False, False]


def test_it_can_be_chosen_anew():
    model = tiny_model()
    for groups in (True, False, True):
        assert use_causal_attention(model, groups=groups)
        assert loss_and_gradients(model, None)[2].grouped == [groups] * 2


def test_transformers_groups_where_a_t4_has_no_fast_kernel_for_it():
    """What this module is there to avoid; if this fails, transformers has learnt it."""
    assert loss_and_gradients(tiny_model(), torch.ones_like(TOKENS))[2].grouped == [True, True]


def test_a_model_that_caps_its_scores_keeps_its_own_attention():
    """Whatever transformers chose for it: until 5.15 that was torch's attention, which forgets the cap."""
    config = Gemma2Config(**SMALL, head_dim=8, attn_logit_softcapping=0.001, pad_token_id=0)
    torch.manual_seed(0)
    capped = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager")
    model = tiny_model(config)
    assert not use_causal_attention(model, groups=False)
    loss, gradients, calls = loss_and_gradients(model, PADDED)
    wanted_loss, wanted_gradients, _ = loss_and_gradients(capped, PADDED)
    torch.testing.assert_close(loss, wanted_loss)
    torch.testing.assert_close(gradients, wanted_gradients)
    assert not calls.grouped
    assert not use_causal_attention(tiny_model(config), groups=True)


@pytest.mark.parametrize(("mask", "asked", "named"), [
    (None, {"softcap": 50.0}, "softcap"), (torch.ones(1), {}, "a mask"), (None, {"is_causal": False}, "to look ahead")])
def test_what_is_not_done_here_is_refused_and_not_left_out(mask, asked, named):
    heads = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ModelError, match=rf"wants {named} in its .*choose another model"):
        causal_attention(torch.nn.Module(), heads, heads, heads, mask, groups=True, **asked)
