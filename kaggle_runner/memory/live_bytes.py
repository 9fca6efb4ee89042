"""Record what torch allocates and frees, op by op: the storages that are alive, without their contents.

Meant for fake tensors, which have sizes and no data; on real ones it sees the same, less what a kernel takes inside.
"""

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kaggle_runner.memory.timeline import Event, Segment

BLOCK_BYTES = 512
"""CUDA's caching allocator rounds every request up to this. Source: kMinBlockSize, c10/cuda/CUDACachingAllocator.h."""
DEQUANTISED = "dequantised weights"


class LiveBytes(TorchDispatchMode):
    """Writes an event for every storage that is born or dies inside the mode.

    Stands in for what fake tensors cannot do: numbers read from the device are ones.
    """

    def __init__(self, *, block_bytes: int = 1) -> None:
        super().__init__()
        self._block_bytes = block_bytes
        self._events: list[Event] = []
        self._segment: Segment = ("before", 0)
        self._label = "activations"
        self._alive: dict[int, _Storage] = {}

    def enter(self, name: str, layer: int = 0) -> None:
        """Count what follows as another segment of the step."""
        self._segment = (name, layer)
        self._label = "loss" if name == "loss" else "activations"

    @property
    def is_backward(self) -> bool:
        """Whether a layer's backward pass was the last segment to be entered."""
        return self._segment[0] == "backward"

    def take_events(self) -> list[Event]:
        """Return the events since the last call, and begin anew; what is alive stays known."""
        events, self._events = self._events, []
        self.enter("before")
        return events

    def relabel(self, tensor: torch.Tensor, label: str) -> None:
        """Give another label to a tensor that turned out to be something else."""
        storage = self._alive[tensor.untyped_storage()._cdata]
        if storage.label != label:
            self._record(storage, -1)
            storage.label = label
            self._record(storage, 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name == "aten::_local_scalar_dense":
            return 1.0 if args[0].dtype.is_floating_point else 1
        if name == "aten::index_put":
            # the gradient of an index: written in place but for fake tensors.
            # Source: PyTorch, FunctionsManual.cpp, index_backward
            return torch.ops.aten.index_put_.default(*args, **kwargs)
        if name == "bitsandbytes::gemm_4bit":
            self._dequantise(args[0], args[2], kwargs.get("absmax_8bit"))
        out = func(*args, **kwargs)
        label = DEQUANTISED if name.startswith("bitsandbytes::dequantize") else self._label
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor, label)
        if name == "aten::_scaled_dot_product_efficient_attention_backward":
            self._attention_workspace(args[1])
        return out

    def _hold(self, tensor: torch.Tensor, label: str) -> None:
        """Follow a tensor's storage until it dies."""
        untyped = tensor.untyped_storage()
        key = untyped._cdata
        if key not in self._alive:
            storage = _Storage(self._rounded(untyped.nbytes()), label, self._segment)
            storage.reference = weakref.ref(untyped, lambda _: self._record(self._alive.pop(key), -1))
            self._alive[key] = storage
            self._record(storage, 1)

    def _record(self, storage: "_Storage", sign: int) -> None:
        self._events.append(Event(segment=self._segment, label=storage.label, size_bytes=sign * storage.size_bytes,
                                  born=storage.born))

    def _transient(self, label: str, *sizes_bytes: int) -> None:
        """Record memory that a kernel takes and gives back before it returns."""
        storage = _Storage(sum(self._rounded(size) for size in sizes_bytes), label, self._segment)
        self._record(storage, 1)
        self._record(storage, -1)

    def _rounded(self, size_bytes: int) -> int:
        return -(-size_bytes // self._block_bytes) * self._block_bytes

    def _dequantise(self, x: torch.Tensor, shape: Sequence[int], absmax_8bit: torch.Tensor | None) -> None:
        """What the product with a 4-bit weight takes beside its result: the weight as numbers, and its scales.

        The fused kernel, which needs neither, runs for few tokens only: at most 512 on compute capability 7.5.
        Source: bitsandbytes 0.50, backends/default/ops.py, _gemm_4bit_default_impl; backends/cuda/ops.py.
        """
        scales_bytes = 4 * absmax_8bit.numel() if absmax_8bit is not None else 0
        weight_bytes = math.prod(shape) * x.element_size()
        product_bytes = x.numel() // x.shape[-1] * shape[0] * x.element_size()
        self._transient(DEQUANTISED, scales_bytes, max(scales_bytes, weight_bytes + product_bytes))

    def _attention_workspace(self, query_BHTD: torch.Tensor) -> None:
        """Gradients of queries, keys and values in float32, before they are rounded.

        Source: PyTorch, mem_eff_attention/kernel_backward.h, workspace_size: all three where a head has more numbers
        than a block has rows, as on compute capability 7.5, else only the first; plus one number a row.
        """
        rows = query_BHTD.numel() // query_BHTD.shape[-1]
        self._transient("activations", 3 * 4 * query_BHTD.numel(), 4 * rows)


class _Storage:
    """A piece of memory that is alive."""

    def __init__(self, size_bytes: int, label: str, born: Segment) -> None:
        self.size_bytes, self.label, self.born = size_bytes, label, born
        self.reference: weakref.ref[torch.UntypedStorage] | None = None
