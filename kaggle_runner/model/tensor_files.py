"""Weights of a model's folder, read one tensor at a time and written one tensor at a time.

A shard of several gigabytes is never in memory as a whole, neither when it is read nor when it is written.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kaggle_runner.errors import ModelError

SHARD_BYTES = 2 * 2**30
"""Largest file of weights that is written, unless a single tensor is larger: an upload that breaks off loses that."""
INDEX = "model.safetensors.index.json"
SENTENCEPIECE = "tokenizer.model"
"""A base's tokenizer as some converters want it, beside its `tokenizer.json`: Phi-3's, Gemma's, Mistral's."""
OWN_NAME = "transformers_weights"
"""What a `config.json` calls the file of its weights, where that has a name of its own."""
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
          torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
"""Names of dtypes in a safetensors header. Source: the format's description, huggingface/safetensors README."""
_TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor as a file describes it."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int = 0
    """Where its bytes begin in a safetensors file."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of a folder: what is there, and each tensor when it is asked for."""

    folder: Path
    tensors: dict[str, StoredTensor]
    _opened: dict[Path, Any] = field(default_factory=dict)

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor."""
        stored = self.tensors[name]
        if stored.file.suffix != ".safetensors":
            tensor: torch.Tensor = self._opened[stored.file][name]
            return tensor
        count = math.prod(stored.shape)
        if not count:
            return torch.empty(stored.shape, dtype=stored.dtype)
        # not mapped, as safetensors does it: a file that is larger than the memory can be refused then
        with open(stored.file, "rb") as file:
            file.seek(stored.start)
            content = bytearray(file.read(count * stored.dtype.itemsize))
        return torch.frombuffer(content, dtype=stored.dtype).reshape(stored.shape)


def weight_files(settings: Mapping[str, Any]) -> list[str]:
    """Name the files in which transformers looks for the weights of a `config.json`, the first one that is there.

    Source: transformers 5.17, modeling_utils.py, _get_resolved_checkpoint_files.
    """
    own = settings.get(OWN_NAME)
    return [own] if own else ["model.safetensors", INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json"]


def shards_of(index: Path) -> list[str]:
    """Name the files that an index lists."""
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def open_weights(folder: Path) -> Weights:
    """Read what tensors a model's folder holds, without reading them.

    Raises:
        ModelError: it holds no weights, or some of its files are missing or damaged.
    """
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = weight_files(settings)
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise ModelError(f"{folder} holds no weights: it has neither {names[0]} nor {names[-1]}; give a "
                         f"folder that save_pretrained wrote")
    tensors: dict[str, StoredTensor] = {}
    opened: dict[Path, Any] = {}
    try:
        for file in (folder / name for name in (shards_of(found) if found.suffix == ".json" else [found.name])):
            if file.suffix != ".safetensors":
                opened[file] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
                tensors |= {name: StoredTensor(file=file, shape=tuple(tensor.shape), dtype=tensor.dtype)
                            for name, tensor in opened[file].items()}
            else:
                tensors |= _described(file)
    except Exception as error:  # torch reports damage in many ways
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"the weights of {folder} cannot be read: {first}; get the model again") from error
    return Weights(folder=folder, tensors=tensors, _opened=opened)


def _described(file: Path) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file: 8 bytes of length, then JSON."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if file.stat().st_size != end:
        raise ValueError(f"{file.name} has {file.stat().st_size} bytes and should have {end}")
    return {name: StoredTensor(file=file, shape=tuple(entry["shape"]), dtype=_TORCH_DTYPES[entry["dtype"]],
                               start=8 + length + entry["data_offsets"][0]) for name, entry in header.items()}


@dataclass(frozen=True, kw_only=True)
class NewTensor:
    """A tensor to be written, made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_weights(folder: Path, tensors: Sequence[NewTensor], *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors as safetensors files of about `shard_bytes`, with transformers' index where there are several."""
    shards: list[list[NewTensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(other.size for other in shards[-1]) + tensor.size > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        return _write_file(folder / "model.safetensors", shards[0])
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / name, shard)
        places |= {tensor.name: name for tensor in shard}
    total = sum(tensor.size for tensor in tensors)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2) + "\n")


def _write_file(path: Path, tensors: Sequence[NewTensor]) -> None:
    """Write one safetensors file; safetensors' own writer wants all of its tensors at once."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in tensors:
        header[tensor.name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
                               "data_offsets": [start, start + tensor.size]}
        start += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            made = tensor.make().to("cpu", tensor.dtype).contiguous()
            file.write(made.reshape(-1).view(torch.uint8).numpy().data)
            del made
        file.flush()
        os.fsync(file.fileno())
