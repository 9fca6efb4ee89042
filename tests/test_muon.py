"""Muon: orthogonal updates of the size of AdamW's, the same ones that torch computes in bfloat16."""

import pytest
import torch

from kaggle_runner.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(4, 16, 16), (2, 8, 32), (3, 32, 8)])
def test_singular_values_end_close_to_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
    assert values.median() > 0.6
    assert values.max() < 1.3


def test_the_scale_of_a_gradient_does_not_matter_even_where_half_precision_would_lose_it():
    torch.manual_seed(0)
    gradient = torch.randn(1, 8, 16)
    torch.testing.assert_close(orthogonalised(gradient * 1e-4), orthogonalised(gradient), rtol=1e-2, atol=1e-3)


def test_a_step_is_torchs_own_muon_within_its_bfloat16():
    torch.manual_seed(0)
    start, gradients = torch.randn(24, 16), [torch.randn(24, 16) for _ in range(3)]
    ends = []
    for make in (lambda p: Muon([p], lr=0.02, weight_decay=0.1),
                 lambda p: torch.optim.Muon([p], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = make(parameter)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        ends.append(parameter.detach())
    moved = (ends[1] - start).norm()
    assert (ends[0] - ends[1]).norm() < 0.02 * moved


def test_matrices_of_one_shape_are_updated_as_they_would_be_alone():
    torch.manual_seed(0)
    starts, gradients = torch.randn(3, 6, 10), torch.randn(3, 6, 10)
    together = [torch.nn.Parameter(start.clone()) for start in starts]
    for parameter, gradient in zip(together, gradients, strict=True):
        parameter.grad = gradient.clone()
    Muon(together, lr=0.1).step()
    for parameter, start, gradient in zip(together, starts, gradients, strict=True):
        alone = torch.nn.Parameter(start.clone())
        alone.grad = gradient.clone()
        Muon([alone], lr=0.1).step()
        torch.testing.assert_close(parameter, alone)
