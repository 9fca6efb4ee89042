"""The Triton kernels against plain torch, under Triton's interpreter on the CPU, and what happens when one fails."""

import importlib.util
import os
import platform
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kaggle_runner.kaggle.launcher import package_files
from kaggle_runner.training.layer import install
from kaggle_runner.training.layer.elementwise import PLAIN, Elementwise
from kaggle_runner.training.layer.install import fused_layers, structures_of
from kaggle_runner.training.layer.keep import ATTENTION, INPUT, PRODUCTS
from kaggle_runner.training.layer.structure import Norm
from kaggle_runner.training.layer.triton_elementwise import KernelMasks, TritonElementwise, philox, threshold
from tests.test_layer import LAYERS, model_of, off

CPU = torch.device("cpu")
CLOSE = {torch.float32: 1e-6, torch.float16: 1e-3}
"""Relative to the length of what plain torch computes in float32."""
WIDE = 1100
"""More numbers than one block has."""


@pytest.fixture(scope="module")
def kernels():
    """The module of kernels and Triton once more, made for the interpreter; whoever has Triton already keeps it."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip(f"there is no Triton for Python {platform.python_version()} on {platform.machine()}")
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "triton"}
    made_for_it = os.environ.get("TRITON_INTERPRET") == "1"  # by conftest.py, where there is no GPU
    for name in () if made_for_it else before:
        if not name.startswith("triton._C"):  # a library, which can be loaded once
            del sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        "interpreted_kernels", Path(install.__file__).with_name("triton_kernels.py"))
    module = importlib.util.module_from_spec(spec)
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        if not made_for_it:
            del os.environ["TRITON_INTERPRET"]
            sys.modules.update(before)


@pytest.fixture
def ours(kernels):
    return TritonElementwise(kernels)


class PlainWithSeeds(Elementwise):
    """Plain torch with the masks of the kernels."""

    def masks(self):
        return KernelMasks()


class Breaking:
    """Kernels that do nothing but raise, from the launch of a number on; the others are real."""

    def __init__(self, kernels, first):
        self.kernels, self.left, self.raised = kernels, first, 0

    def __getattr__(self, name):
        self.left -= 1
        if self.left >= 0:
            return getattr(self.kernels, name)
        self.raised += 1
        raise RuntimeError("ptxas of this toolkit knows no sm_75\nand more lines")


def some(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm_of(columns, offset=0.0):
    module = nn.Module()
    module.weight = nn.Parameter(some(columns, seed=9), requires_grad=False)
    return Norm(module=module, eps=1e-5, offset=offset)


def close(ours, theirs, dtype):
    return float((ours.float() - theirs).norm() / theirs.norm()) <= CLOSE[dtype]


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
class TestEachKernel:
    @pytest.mark.parametrize("offset", [0.0, 1.0])
    def test_norm(self, ours, dtype, offset):
        x, gradient, residual = (some(3, 70, seed=seed, dtype=dtype) for seed in range(3))
        norm = norm_of(70, offset)
        assert close(ours.normalise(x, norm, dtype), PLAIN.normalise(x.float(), norm, torch.float32), dtype)
        for around in (residual, None):
            expected = PLAIN.normalise_backward(gradient.float(), x.float(), norm,
                                                None if around is None else around.float())
            assert close(ours.normalise_backward(gradient, x, norm, around), expected, dtype)
        assert ours.problem == ""

    @pytest.mark.parametrize("rows", [1, 2])
    def test_rotation_of_a_part_of_each_head_and_back(self, ours, dtype, rows):
        """Three of five heads of 20 numbers, as they lie in a product of queries, keys and values; 16 turn."""
        angles = some(rows, 5, 16)
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        x = some(2, 5, 5, 20, dtype=dtype)[:, :, 1:4]
        turned, expected = x.clone(), x.float()
        for back in (False, True):
            whole = some(2, 5, 5, 20, dtype=dtype)
            whole[:, :, 1:4] = turned
            ours.rotate_(whole[:, :, 1:4], cos, sin, back=back)
            PLAIN.rotate_(expected, cos.float(), sin.float(), back=back)
            turned = whole[:, :, 1:4]
            assert close(turned, expected, dtype)
            assert torch.equal(whole[:, :, 0], some(2, 5, 5, 20, dtype=dtype)[:, :, 0])
        assert ours.problem == ""

    @pytest.mark.parametrize("p", [0.0, 0.3])
    @pytest.mark.parametrize("activation", ["silu", "tanh"])
    def test_gated_activation_with_dropout(self, ours, dtype, activation, p):
        """Gate and up are halves of one product, as in Phi 3."""
        masks = ours.masks()
        both, gradient, part = some(3, 2 * WIDE, dtype=dtype), some(3, WIDE, dtype=dtype), some(3, WIDE, dtype=dtype)
        gate, up = both.chunk(2, -1)
        made, dropped = ours.gated(gate, up, activation, masks, p, 6)
        expected, _ = PLAIN.gated(gate.float(), up.float(), activation, masks, p, 6)
        assert close(made, expected, dtype)
        assert (dropped is None) == (p == 0)
        seen = expected
        if p:
            seen, _ = PLAIN.dropped(expected, masks, p, 6, keeps=True)
            assert close(dropped, seen, dtype)
        tensors = (gradient, part if p else None, gate, up)
        copies = [None if tensor is None else tensor.float().clone() for tensor in tensors]
        theirs = PLAIN.gated_backward(*copies, activation, masks, p, 6)
        mine = ours.gated_backward(gradient, part if p else None, gate, up, activation, masks, p, 6)
        assert close(mine[0], seen, dtype)
        assert all(close(a, b, dtype) for a, b in zip(mine, theirs, strict=True))
        assert ours.problem == ""

    def test_masked_add(self, ours, dtype):
        masks, part, total = ours.masks(), some(3, WIDE, dtype=dtype), some(3, WIDE, seed=1, dtype=dtype)
        expected = PLAIN.add_dropped_(total.float(), part.float(), None, masks, 0.3, 2)
        assert close(ours.add_dropped_(total, part, None, masks, 0.3, 2), expected, dtype)
        assert close(ours.dropped(part, masks, 0.3, 2, keeps=True)[0],
                     PLAIN.dropped(part.float(), masks, 0.3, 2, keeps=True)[0], dtype)
        assert ours.problem == ""


def test_a_mask_is_a_function_of_seed_and_place():
    assert philox(0, 1, CPU).tolist() == [0x6627E8D5]  # Random123's known answer for counter and key of zeros
    torch.manual_seed(3)
    masks, x = KernelMasks(), torch.ones(400, 50)
    first, again, other = (masks.draw(x, 0.3, place) for place in (1, 1, 2))
    assert torch.equal(first, again)
    assert float((first != other).float().mean()) == pytest.approx(2 * 0.3 * 0.7, abs=0.02)
    assert float((first == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(first.max()) == pytest.approx(1 / 0.7)
    assert not torch.equal(KernelMasks().draw(x, 0.3, 1), first)
    torch.manual_seed(3)
    assert torch.equal(KernelMasks().draw(x, 0.3, 1), first)
    assert threshold(0.5) == 2**31


def trained(model, adapted, by, keep):
    """Return the loss of a few tokens and all gradients."""
    adapted.train()
    adapted.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    tokens_BT = torch.randint(3, 300, (1, 6), generator=torch.Generator().manual_seed(1))
    with fused_layers(model, structures_of(model), keep, torch.float32, by=by):
        loss = model(input_ids=tokens_BT, labels=tokens_BT, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", ["qwen3", "gemma", "phi3, turned in part"])
def test_a_model_by_kernels_is_the_model_by_torch_whatever_is_kept(ours, family):
    model, adapted = model_of(family, dropout=0.3)
    expected = trained(model, adapted, PlainWithSeeds(), (PRODUCTS,) * LAYERS)
    got = trained(model, adapted, ours, (INPUT, PRODUCTS, ATTENTION))
    assert ours.problem == ""
    assert got[0] == pytest.approx(expected[0], rel=1e-6)
    assert off(got[1], expected[1]) <= 5e-6


@pytest.mark.parametrize(("first", "name"), [(0, "normalise"), (21, "gated"), (34, "normalise")])
def test_the_first_launch_that_raises_gives_everything_back_to_torch(kernels, first, name):
    """In the first layer, in the second, and in the backward pass, whose masks are those of the forward pass."""
    model, adapted = model_of("llama", dropout=0.3)
    breaking = Breaking(kernels, first)
    ours = TritonElementwise(breaking)
    expected = trained(model, adapted, PlainWithSeeds(), (PRODUCTS,) * LAYERS)
    loss, gradients = trained(model, adapted, ours, (PRODUCTS,) * LAYERS)
    if first == 34:
        assert loss == pytest.approx(expected[0], rel=1e-6)
        assert off(gradients, expected[1]) <= 5e-6
    assert ours.problem == f"{name}: RuntimeError: ptxas of this toolkit knows no sm_75"
    assert breaking.raised == 1
    plain = trained(model, adapted, PLAIN, (PRODUCTS,) * LAYERS)
    again = trained(model, adapted, ours, (PRODUCTS,) * LAYERS)
    assert again[0] == plain[0]
    assert all(torch.equal(again[1][name], plain[1][name]) for name in plain[1])


def test_kernels_that_compute_something_else_are_left_alone(kernels):
    class Wrong(TritonElementwise):
        def launch(self, name, grid, *args, **constants):
            super().launch(name, grid, *args, **constants)
            if name == "gated_backward":
                args[3].mul_(1.1)

    before = torch.get_rng_state()
    right, wrong = TritonElementwise(kernels), Wrong(kernels)
    for each in (right, wrong):
        each.check(CPU)
    assert right.problem == ""
    assert wrong.problem == "gated_backward: differs from torch by 0.1"
    assert torch.equal(torch.get_rng_state(), before), "a trial's numbers do not depend on the check"


def test_what_rides_to_a_kernel_still_says_what_triton_must_know_when_it_compiles():
    """A launcher's package has no types but these: without them no kernel compiles."""
    name = "kaggle_runner/training/layer/triton_kernels.py"
    source, rides = Path(install.__file__).with_name("triton_kernels.py").read_text(), package_files()[name].decode()
    constants = re.findall(r"\w+: tl\.constexpr", source)
    assert re.findall(r"\w+:tl\.constexpr", rides) == [constant.replace(" ", "") for constant in constants]
    assert len(constants) > 10
    assert "do_not_specialize" in rides


def test_the_record_says_what_computed():
    assert install.elementwise_on(CPU) is PLAIN
    assert install.kernels_problem(CPU) == ""
    ours = TritonElementwise()
    assert str(install.Path(keep="products 2", by=ours)) == "fused: products 2; in Triton"
    ours.problem = "rotate_: RuntimeError: no"
    assert str(install.Path(keep="products 2", by=ours)) == "fused: products 2; in torch"
