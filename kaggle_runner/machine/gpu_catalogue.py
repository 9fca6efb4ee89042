"""GPUs that can be planned for without having one: `--gpu t4`."""

import difflib
import re
import unicodedata

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


_SHORT = {key.replace("-", ""): key for key in _KNOWN} | {"t4highmem": "t4"}
"""The names as `_short` writes them, those of Kaggle's machines too."""
_IN_SESSION = {"NvidiaL4": 4}
"""GPUs of a machine of Kaggle's whose name does not say it."""


def known_gpus(name: str) -> tuple[Gpu, int]:
    """Return a GPU by its short name, whatever this machine has, and how many of them work together.

    `2xT4`, `T4 x2`, or a machine's name as a push takes it, says how many; alone a T4 comes in twos, as Kaggle has it,
    and any other once. Source: Kaggle's documentation of notebooks, "GPU T4 x2" and "GPU L4 x4".

    Raises:
        HostError: no such GPU is known, or torch has no kernels for it.
    """
    short = _short(name)
    before, after = re.fullmatch(r"([1-9]\d?)x(.+)", short), re.fullmatch(r"(.+?)x([1-9]\d?)", short)
    count = None
    if short not in _SHORT and (before or after):
        short, count = (before[2], before[1]) if before else (after[1], after[2]) if after else (short, None)
    if short not in _SHORT:
        close = difflib.get_close_matches(short, _SHORT, n=1, cutoff=0.5)
        meant = f"did you mean {_SHORT[close[0]]}? " if close else ""
        raise HostError(f"no GPU {name[:40]!r} is known here; {meant}choose one of {', '.join(_KNOWN)}, or two "
                        f"of one as t4x2")
    key = _SHORT[short]
    title, memory_mib, capability = _KNOWN[key]
    gpu = Gpu(index=0, name=title, memory_bytes=memory_mib * _MIB, compute_capability=capability, uuid="")
    gpu.require_supported()
    return gpu, int(count) if count else _IN_SESSION.get(name, 2 if key == "t4" else 1)


def _short(name: str) -> str:
    """Write a name in small letters and digits, without its maker: `Tesla-T4 × 2` is `t4x2`."""
    text = unicodedata.normalize("NFKC", name).replace("×", "x").lower()
    return re.sub("[^a-z0-9]|nvidia|tesla|geforce", "", text)
