"""The step that both pretraining loops take."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kaggle_runner.training.muon import Muon
from kaggle_runner.training.optimizers import adamw, take_step


@pytest.mark.parametrize("overflow", [math.inf, math.nan])
def test_a_gradient_that_overflows_in_one_optimizer_holds_all_of_them(overflow):
    """With float16 on a GPU; a scaler works on a CPU too."""
    matrix, vector = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizers = [Muon([matrix], lr=0.1), torch.optim.AdamW([vector], lr=0.1, fused=True)]
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def step(worst):
        scaler.scale((matrix + vector).sum()).backward()
        matrix.grad[0, 0] = worst
        before = [parameter.detach().clone() for parameter in (matrix, vector)]
        take_step(optimizers, [matrix, vector], learning_rate=0.1, max_grad_norm=1.0, scaler=scaler)
        return [not torch.equal(*pair) for pair in zip(before, (matrix, vector), strict=True)]

    assert step(8.0) == [True, True]
    assert step(overflow) == [False, False]
    assert scaler.get_scale() == 4.0
    assert step(4.0) == [True, True]
    assert torch.isfinite(torch.cat([matrix, vector])).all()


class NobodyAsks(TorchDispatchMode):
    """Refuses to bring a number from the device to the host, which waits for all that the device has to do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name != "aten::_local_scalar_dense", "the host asks for a number"
        return func(*args, **(kwargs or {}))


def test_a_step_with_a_scaler_never_waits_for_the_device():
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizers = [Muon([matrix], lr=0.1), torch.optim.AdamW([vector], lr=0.1, fused=True)]
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for _ in range(2):
        scaler.scale((matrix + vector).sum()).backward()
        with NobodyAsks():
            take_step(optimizers, [matrix, vector], learning_rate=0.1, max_grad_norm=1.0, scaler=scaler)
    with NobodyAsks(), pytest.raises(AssertionError, match="the host asks for a number"):
        scaler.get_scale()


def test_weight_decay_pulls_at_matrices_and_not_at_vectors():
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer = adamw([matrix, vector], learning_rate=0.5, beta2=0.9, weight_decay=0.1)
    for parameter in (matrix, vector):
        parameter.grad = torch.zeros_like(parameter)
    norm = take_step([optimizer], [matrix, vector], learning_rate=0.2, max_grad_norm=1.0)
    assert norm == 0
    assert matrix.detach().flatten().tolist() == pytest.approx([1 - 0.2 * 0.1] * 4)
    assert vector.tolist() == [1.0, 1.0]
    assert matrix.grad is None


def test_gradients_are_clipped_by_the_norm_of_all_of_them():
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    steps = [torch.optim.SGD([parameter], lr=0.1) for parameter in (first, second)]
    assert take_step(steps, [first, second], learning_rate=1.0, max_grad_norm=1.0).item() == pytest.approx(5.0)
    assert [first.item(), second.item()] == pytest.approx([-0.6, -0.8], rel=1e-5)
