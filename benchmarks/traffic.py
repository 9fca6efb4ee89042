"""Counts what a piece of torch code launches and moves, op by op, on real tensors or on such without data.

An op is a launch unless it only views, allocates or asks. What it moves is the bytes of the tensors it reads and
writes, each once: what a kernel that keeps nothing in a cache reads and writes. Kernels of Triton are no ops of torch:
`TrafficOfKernels` counts them by what each of them reads and writes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kaggle_runner.training.layer.triton_elementwise import KernelMasks, TritonElementwise

NO_LAUNCH = ("aten::empty", "aten::new_empty", "aten::detach", "aten::_unsafe_view", "aten::_local_scalar_dense",
             "aten::lift_fresh", "aten::set_", "aten::_reshape_alias", "aten::is_same_size", "prim::", "profiler::")
KINDS = {"matrix product": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear"),
         "dequantisation": ("bitsandbytes::dequantize",),
         "attention": ("aten::_scaled_dot_product", "aten::_efficient_attention", "aten::_flash_attention")}
OTHER = "number by number"
PRODUCT_OF_4_BITS = "bitsandbytes::gemm_4bit"
"""Makes its scales numbers, adds their offset, makes its weight numbers, and multiplies.

Source: bitsandbytes 0.50, _gemm_4bit_default_impl."""
READ: Mapping[str, tuple[int, ...]] = {
    "norm_forward": (0, 1), "norm_backward": (0, 1, 2, 3), "rotate": (0, 1, 2), "gated_forward": (0, 1),
    "gated_backward": (0, 1, 2, 3), "masked_add": (0, 1)}
WRITTEN: Mapping[str, tuple[int, ...]] = {
    "norm_forward": (2,), "norm_backward": (4,), "rotate": (0,), "gated_forward": (2, 3), "gated_backward": (0, 2, 3),
    "masked_add": (0,)}
ONLY_IF = {("norm_backward", 3): "HAS_RESIDUAL", ("gated_forward", 3): "DROP", ("gated_backward", 1): "DROP"}
"""Arguments that a kernel touches only where a constant of it is true."""


class Traffic(TorchDispatchMode):
    """Counts while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.moved_bytes: Counter[str] = Counter()

    def add(self, kind: str, tensors: Sequence[torch.Tensor], launches: int = 1) -> None:
        """Count a kernel that touches these tensors; one that it reads and writes is there twice."""
        self.launches[kind] += launches
        self.moved_bytes[kind] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if func.is_view or name.startswith(NO_LAUNCH):
            return out
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
        if name == PRODUCT_OF_4_BITS:
            names = [argument.name for argument in func._schema.arguments]
            if (dict(zip(names, args, strict=False)) | dict(kwargs or {})).get("absmax_8bit") is not None:
                self.launches["dequantisation"] += 1
                self.launches[OTHER] += 1  # of the offset
            self.launches["dequantisation"] += 1
            self.add("matrix product", tensors)
            return out
        kind = next((kind for kind, starts in KINDS.items() if name.startswith(starts)), OTHER)
        self.add(kind, tensors)
        return out


class TrafficOfKernels(TritonElementwise):
    """The kernels, counted and not launched."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self._traffic = traffic

    def masks(self) -> KernelMasks:
        """Return masks whose seed is no random number: a tensor without data has none."""
        return _SameMasks()

    def launch(self, name: str, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        """Count a launch."""
        touched = [*READ[name], *WRITTEN[name]]
        if name == "masked_add" and not constants["ADDS"]:
            touched = [1, 0]
        self._traffic.add(OTHER, [args[place] for place in touched
                                  if constants.get(ONLY_IF.get((name, place), ""), True)])


class _SameMasks(KernelMasks):
    def seed(self, place: int) -> int:
        return place
