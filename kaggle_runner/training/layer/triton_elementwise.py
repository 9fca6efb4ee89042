"""The functions of `Elementwise` as one Triton kernel each; the first launch that raises gives them back to torch.

Shapes as there.
"""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import torch

from kaggle_runner.training.layer.elementwise import PLAIN, Elementwise, Masks
from kaggle_runner.training.layer.structure import Norm

BLOCK = 1024
"""Numbers of a program that needs no whole row."""
WORD = 2**32
ROUNDS = 10
_FACTORS, _KEYS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
"""Source: Philox 4x32-10, Salmon et al. 2011, table 2 and section 4.3; triton, language/random.py, takes the same."""
AGREEMENT = 5e-3
"""Most that a kernel may differ from plain torch in float16, relative: rounding, which plain torch does more often."""
_P = ParamSpec("_P")
_R = TypeVar("_R")


class KernelMasks(Masks):
    """The masks that the kernels draw."""

    def draw(self, x_MI: torch.Tensor, p: float, place: int) -> torch.Tensor:
        """Return the mask by plain torch: after a kernel has failed between two passes."""
        drawn = philox(self.seed(place), x_MI.numel(), x_MI.device)
        return (drawn >= threshold(p)).to(x_MI.dtype).div_(1 - p).view(x_MI.shape)


def threshold(p: float) -> int:
    """Return the least random word that is kept with dropout `p`."""
    return min(round(p * WORD), WORD - 1)


def philox(seed: int, count: int, device: torch.device) -> torch.Tensor:
    """Return the first word of Philox 4x32-10 for the counters from 0, as int64."""
    c0 = torch.arange(count, dtype=torch.int64, device=device)
    c1, c2, c3 = (torch.zeros_like(c0) for _ in range(3))
    k0, k1 = seed % WORD, seed // WORD
    for _ in range(ROUNDS):
        c0, c1, c2, c3 = (_high(c2, _FACTORS[1]) ^ c1 ^ k0, c2 * _FACTORS[1] & WORD - 1,
                          _high(c0, _FACTORS[0]) ^ c3 ^ k1, c0 * _FACTORS[0] & WORD - 1)
        k0, k1 = (k0 + _KEYS[0]) % WORD, (k1 + _KEYS[1]) % WORD
    return c0


def _high(words: torch.Tensor, factor: int) -> torch.Tensor:
    """Return the upper half of products of 32 bits each, which int64 cannot hold whole."""
    upper, lower = words >> 16, words & 0xFFFF
    return (upper * factor + (lower * factor >> 16)) >> 16


def _or_plain(method: Callable[Concatenate[Any, _P], _R]) -> Callable[Concatenate[Any, _P], _R]:
    """Have a method run plain torch's function of its name from the first launch that raises."""
    @functools.wraps(method)
    def launched(self: Any, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not self.problem:
            try:
                return method(self, *args, **kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler and a driver of any version raise
                lines = str(error).strip().splitlines() or [""]
                self.problem = f"{method.__name__}: {type(error).__name__}: {lines[0][:200]}"
        plain: Callable[Concatenate[Any, _P], _R] = getattr(PLAIN, method.__name__)
        return plain(*args, **kwargs)

    return cast(Callable[Concatenate[Any, _P], _R], launched)


class TritonElementwise(Elementwise):
    """The functions as kernels, those of `triton_kernels` if no others are given."""

    def __init__(self, kernels: Any = None) -> None:
        self._kernels = kernels

    def masks(self) -> Masks:
        """Return masks that the kernels draw."""
        return Masks() if self.problem else KernelMasks()

    def check(self, device: torch.device) -> None:
        """Run every kernel on a few numbers, and keep none of them where one computes something else than torch."""
        with torch.random.fork_rng([]):  # a trial's numbers must not depend on this
            masks = KernelMasks()
            ours, theirs = (_tried(by, masks, device) for by in (self, PLAIN))
        for name, values in ours.items():
            distance = max(float((a.float() - b.float()).norm() / b.float().norm())
                           for a, b in zip(values, theirs[name], strict=True))
            if not self.problem and not distance <= AGREEMENT:
                self.problem = f"{name}: differs from torch by {distance:.2g}"

    def launch(self, name: str, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        """Launch a kernel on as many programs as the grid has."""
        if self._kernels is None:  # here, so that a Triton that cannot be imported is a launch that raises
            from kaggle_runner.training.layer import triton_kernels

            self._kernels = triton_kernels
        getattr(self._kernels, name)[grid](*args, **constants)

    @_or_plain
    def normalise(self, x: torch.Tensor, norm: Norm, dtype: torch.dtype) -> torch.Tensor:
        x = x.contiguous()
        out, columns = torch.empty_like(x, dtype=dtype), x.shape[-1]
        self.launch("norm_forward", (x.numel() // columns,), x, norm.module.weight, out, columns, norm.eps, norm.offset,
                    **_whole_row(columns))
        return out

    @_or_plain
    def normalise_backward(self, gradient: torch.Tensor, x: torch.Tensor, norm: Norm,
                           residual: torch.Tensor | None = None) -> torch.Tensor:
        gradient, x = gradient.contiguous(), x.contiguous()
        out, columns = torch.empty_like(x), x.shape[-1]
        around = x if residual is None else residual.contiguous()
        self.launch("norm_backward", (x.numel() // columns,), gradient, x, norm.module.weight, around, out, columns,
                    norm.eps, norm.offset, HAS_RESIDUAL=residual is not None, **_whole_row(columns))
        return out

    @_or_plain
    def rotate_(self, x_BTHD: torch.Tensor, cos_BTD: torch.Tensor, sin_BTD: torch.Tensor, *,
                back: bool = False) -> None:
        rows, length, heads, _ = x_BTHD.shape
        if x_BTHD.stride(3) != 1 or (rows > 1 and x_BTHD.stride(0) != length * x_BTHD.stride(1)):
            PLAIN.rotate_(x_BTHD, cos_BTD, sin_BTD, back=back)
            return
        cos, sin, half = cos_BTD.contiguous(), sin_BTD.contiguous(), cos_BTD.shape[-1] // 2
        self.launch("rotate", (rows * length,), x_BTHD, cos, sin, -1.0 if back else 1.0, x_BTHD.stride(1),
                    x_BTHD.stride(2), 0 if len(cos) == 1 else cos.stride(0), cos.stride(1), length, heads, half,
                    HEADS=_power(heads), HALF=_power(half))

    @_or_plain
    def gated(self, gate_MI: torch.Tensor, up_MI: torch.Tensor, activation: str, masks: Masks, p: float,
              place: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        rows, columns = gate_MI.shape
        out_MI = gate_MI.new_empty(rows, columns)
        dropped_MI = torch.empty_like(out_MI) if p else None
        self.launch("gated_forward", (rows, -(-columns // BLOCK)), gate_MI, up_MI, out_MI,
                    out_MI if dropped_MI is None else dropped_MI, gate_MI.stride(0), up_MI.stride(0), columns,
                    *_dropout(masks, p, place), GELU=activation != "silu", DROP=p > 0, BLOCK=BLOCK)
        return out_MI, dropped_MI

    @_or_plain
    def gated_backward(self, gradient_MI: torch.Tensor, part_MI: torch.Tensor | None, gate_MI: torch.Tensor,
                       up_MI: torch.Tensor, activation: str, masks: Masks, p: float,
                       place: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, columns = gate_MI.shape
        self.launch("gated_backward", (rows, -(-columns // BLOCK)), gradient_MI,
                    gradient_MI if part_MI is None else part_MI, gate_MI, up_MI, gate_MI.stride(0), up_MI.stride(0),
                    columns, *_dropout(masks, p, place), GELU=activation != "silu", DROP=part_MI is not None,
                    BLOCK=BLOCK)
        return gradient_MI, gate_MI, up_MI

    @_or_plain
    def dropped(self, x_MI: torch.Tensor, masks: Masks, p: float, place: int, *,
                keeps: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        x_MI = x_MI.contiguous()
        out_MI = torch.empty_like(x_MI)
        self._masked_add(out_MI, x_MI, masks, p, place, adds=False)
        return out_MI, None

    @_or_plain
    def add_dropped_(self, sum_MI: torch.Tensor, part_MI: torch.Tensor, mask_MI: torch.Tensor | None, masks: Masks,
                     p: float, place: int) -> torch.Tensor:
        self._masked_add(sum_MI, part_MI, masks, p, place, adds=True)
        return sum_MI

    def _masked_add(self, sum_MI: torch.Tensor, part_MI: torch.Tensor, masks: Masks, p: float, place: int, *,
                    adds: bool) -> None:
        count = part_MI.numel()
        self.launch("masked_add", (-(-count // BLOCK),), sum_MI, part_MI, count, *_dropout(masks, p, place), ADDS=adds,
                    BLOCK=BLOCK)


def _tried(by: Elementwise, masks: Masks, device: torch.device) -> dict[str, tuple[torch.Tensor, ...]]:
    """Return what every function makes of the same few numbers."""
    generator = torch.Generator(device).manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float16)

    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(some(48).float(), requires_grad=False)
    norm = Norm(module=module, eps=1e-5, offset=1.0)
    turned, angles = some(2, 3, 4, 16), some(3, 16)[None]
    by.rotate_(turned, angles.cos(), angles.sin())
    gradient, part, gate, up = some(4, 3, 48)
    gated = by.gated(some(3, 48), some(3, 48), "silu", masks, 0.5, 0)[:1]
    return {"normalise": (by.normalise(some(3, 48), norm, torch.float16),),
            "normalise_backward": (by.normalise_backward(some(3, 48), some(3, 48), norm, some(3, 48)),),
            "rotate_": (turned,), "gated": gated,
            "gated_backward": by.gated_backward(gradient, part, gate, up, "silu", masks, 0.5, 0),
            "add_dropped_": (by.add_dropped_(some(3, 48), some(3, 48), None, masks, 0.5, 0),)}


def _dropout(masks: Masks, p: float, place: int) -> tuple[int, int, float]:
    """Return seed, least word that is kept, and what is kept is multiplied by."""
    if not p:
        return 0, 0, 1.0
    assert isinstance(masks, KernelMasks)
    return masks.seed(place), threshold(p), 1 / (1 - p)


def _whole_row(columns: int) -> dict[str, int]:
    """Return the block of a program that reads a whole row, and the warps for it."""
    block = _power(columns)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


def _power(count: int) -> int:
    """Return the least power of two that is not below a number: what a Triton block may be."""
    return 1 << (count - 1).bit_length() if count > 1 else 1
