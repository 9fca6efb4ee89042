"""The machines of Kaggle by the names that a push takes; for a name that it does not know Kaggle gives another one.

Source: the kernels' documentation of Kaggle/kaggle-cli, September 2026; kaggle/api/kaggle_api_extended.py of 2.2.5 for
what is retired.
"""

import difflib
import re
import unicodedata

from kaggle_runner.errors import KernelError, Refusal

T4_X2 = "NvidiaTeslaT4"
"""Two T4: Kaggle offers no single one, and charges both as one."""
MACHINES = (T4_X2, "NvidiaTeslaT4Highmem", "NvidiaL4", "NvidiaL4X1", "NvidiaTeslaA100", "NvidiaH100",
            "NvidiaRtxPro6000")
"""Those with GPUs; most accounts get the first one and no other."""
RETIRED = "NvidiaTeslaP100"
_WRITTEN = {"t4x2": T4_X2, "2xt4": T4_X2, "gpu": T4_X2, "l4x4": "NvidiaL4", "4xl4": "NvidiaL4",
            "highmem": "NvidiaTeslaT4Highmem", "rtx6000": "NvidiaRtxPro6000", "rtx": "NvidiaRtxPro6000"}
"""What Kaggle's page and people call a machine, as far as it is not a part of its name."""


def check_machine(name: str) -> str:
    """Return what to warn of before a push to a machine, empty if there is nothing; an empty name means no GPU.

    Raises:
        KernelError: Kaggle has no such machine, or nothing here trains on it.
    """
    if name in ("", *MACHINES):
        return ""
    if name == RETIRED:
        return (f"Kaggle retired {RETIRED} in September 2026 and may give {T4_X2} instead; torch has no kernels for a "
                f"P100, and on one the session would end in its first minute; take {T4_X2}")
    short = _short(name)
    if re.search("tpu|trillium|ironwood", short) or re.fullmatch(r"v[2-7](e|p|litepod)?(1|4|8|16|32|256)?", short):
        raise KernelError(Refusal.MACHINE, f"--machine {name} has a TPU, and nothing here trains on one: all of it is "
                                           f"written for CUDA; take {T4_X2}")
    if "p100" in short:
        raise KernelError(Refusal.MACHINE, f"Kaggle has no machine {name!r}: it retired its P100 in September 2026, "
                                           f"and torch has no kernels for one; take {T4_X2}")
    meant = "--cpu" if short in ("cpu", "none") else _meant(short)
    raise KernelError(Refusal.MACHINE, f"Kaggle has no machine {name[:40]!r}, and would run the kernel without a GPU; "
                                       f"{f'did you mean {meant}? ' if meant else ''}choose one of "
                                       f"{', '.join(MACHINES)}, or --cpu")


def _short(name: str) -> str:
    """Write a name in small letters and digits, without its maker: `nvidia_tesla-T4` is `t4`."""
    return re.sub("[^a-z0-9]|nvidia|tesla", "", unicodedata.normalize("NFKC", name).replace("×", "x").lower())


def _meant(short: str) -> str:
    """Guess which machine is meant by a short name; none where it is another card, such as a V100."""
    names = {_short(machine): machine for machine in MACHINES} | _WRITTEN
    close = [name for name in difflib.get_close_matches(short, names, cutoff=0.66) if name[0] == short[0]]
    inside = sorted((name for name in names if name in short), key=len, reverse=True)
    return next((names[name] for name in (*close, *inside)), "")
