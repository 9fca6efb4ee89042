"""Grouped-query attention with repeated keys: the same numbers, and never the flag that a T4 is slow with."""

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from kaggle_runner.attention import NAME, expand_grouped_queries, expanded_attention
from kaggle_runner.errors import ModelError

T4, A100 = (7, 5), (8, 0)


class Flags(TorchFunctionMode):
    """Notes whether torch's attention was asked to group."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.seen.append(bool((kwargs or {}).get("enable_gqa")))
        return func(*args, **(kwargs or {}))


def tiny_model():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2))


def loss_and_gradients(model, mask):
    tokens = torch.arange(24).reshape(2, 12) % 64
    with Flags() as flags:
        loss = model(input_ids=tokens, attention_mask=mask, labels=tokens, use_cache=False).loss
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()], flags.seen


def padded():
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 8:] = 0
    return mask


@pytest.mark.parametrize("mask", [torch.ones(2, 12, dtype=torch.int64), padded()], ids=["full", "padded"])
def test_loss_and_gradients_are_those_of_grouped_attention(mask):
    usual_loss, usual_gradients, grouped = loss_and_gradients(tiny_model(), mask)
    model = tiny_model()
    assert expand_grouped_queries(model, T4)
    loss, gradients, flags = loss_and_gradients(model, mask)
    torch.testing.assert_close(loss, usual_loss)
    torch.testing.assert_close(gradients, usual_gradients)
    assert flags == [False, False]
    assert grouped == [bool(mask.all())] * 2  # what it is there to avoid


def test_a_gpu_that_can_group_keeps_the_usual_attention():
    model = tiny_model()
    assert not expand_grouped_queries(model, A100)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_caps_its_scores_keeps_its_own_attention():
    model = AutoModelForCausalLM.from_config(Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8))
    assert not expand_grouped_queries(model, T4)
    assert model.config._attn_implementation != NAME


def test_capped_scores_are_refused_and_not_left_uncapped():
    heads = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ModelError, match=r"wants softcap.*load the model with attn_implementation eager"):
        expanded_attention(torch.nn.Module(), heads, heads, heads, None, softcap=50.0)
