"""GPUs that can be planned for without having one: `--gpu t4`."""

import difflib

from kaggle_runner.errors import HostError
from kaggle_runner.machine.gpu import Gpu

_MIB = 2**20
_KNOWN = {
    "t4": ("Tesla T4", 15360, (7, 5)),
    "p100": ("Tesla P100-PCIE-16GB", 16384, (6, 0)),
    "v100": ("Tesla V100-SXM2-16GB", 16384, (7, 0)),
    "l4": ("NVIDIA L4", 23034, (8, 9)),
    "a10g": ("NVIDIA A10G", 23028, (8, 6)),
    "a100-40": ("NVIDIA A100-SXM4-40GB", 40960, (8, 0)),
    "a100-80": ("NVIDIA A100-SXM4-80GB", 81920, (8, 0)),
    "l40s": ("NVIDIA L40S", 46068, (8, 9)),
    "h100": ("NVIDIA H100 80GB HBM3", 81559, (9, 0)),
    "h200": ("NVIDIA H200", 143771, (9, 0)),
    "rtx3060": ("NVIDIA GeForce RTX 3060", 12288, (8, 6)),
    "rtx3090": ("NVIDIA GeForce RTX 3090", 24576, (8, 6)),
    "rtx4090": ("NVIDIA GeForce RTX 4090", 24564, (8, 9)),
}
"""Name, MiB as nvidia-smi lists them, compute capability.

Source: what nvidia-smi prints on these GPUs, in NVIDIA's and others' published listings; none of them was at hand.
"""


def known_gpu(name: str) -> Gpu:
    """Return a GPU by its short name, whatever this machine has.

    Raises:
        HostError: no such GPU is known, or torch has no kernels for it.
    """
    key = name.lower().replace(" ", "-").replace("_", "-")
    if key not in _KNOWN:
        close = difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.5)
        meant = f"did you mean {close[0]}? " if close else ""
        raise HostError(f"no GPU {name!r} is known here; {meant}choose one of {', '.join(_KNOWN)}")
    title, memory_mib, capability = _KNOWN[key]
    gpu = Gpu(index=0, name=title, memory_bytes=memory_mib * _MIB, compute_capability=capability, uuid="")
    gpu.require_supported()
    return gpu


def in_kaggle_session(name: str) -> int:
    """Return how many of these GPUs a session on Kaggle has, where it has them: two T4s, one of any other.

    Source: Kaggle's documentation of notebooks, "GPU T4 x2".
    """
    return 2 if name.lower() == "t4" else 1
