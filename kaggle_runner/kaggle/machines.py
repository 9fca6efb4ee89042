"""The machines of Kaggle by the names that a push takes; for a name that it does not know Kaggle gives another one.

Source: the kernels' documentation of Kaggle/kaggle-cli, September 2026; kaggle/api/kaggle_api_extended.py of 2.2.5 for
what is retired.
"""

import difflib

from kaggle_runner.errors import KernelError, Refusal

T4_X2 = "NvidiaTeslaT4"
"""Two T4: Kaggle offers no single one, and charges both as one."""
MACHINES = (T4_X2, "NvidiaTeslaT4Highmem", "NvidiaL4", "NvidiaL4X1", "NvidiaTeslaA100", "NvidiaH100",
            "NvidiaRtxPro6000")
"""Those with GPUs; most accounts get the first one and no other."""
RETIRED = "NvidiaTeslaP100"


def check_machine(name: str) -> str:
    """Return what to warn of before a push to a machine, empty if there is nothing; an empty name means no GPU.

    Raises:
        KernelError: Kaggle has no such machine, or nothing here trains on it.
    """
    if name.lower().startswith("tpu"):
        raise KernelError(Refusal.MACHINE, f"--machine {name} has a TPU, and nothing here trains on one: all of it is "
                                           f"written for CUDA; take {T4_X2}")
    if name == RETIRED:
        return (f"Kaggle retired {RETIRED} in September 2026 and may give {T4_X2} instead; torch has no kernels for a "
                f"P100, and on one the session would end in its first minute; take {T4_X2}")
    if name and name not in MACHINES:
        meant = _meant(name)
        raise KernelError(Refusal.MACHINE, f"Kaggle has no machine {name!r}, and would run the kernel without a GPU; "
                                           f"{f'did you mean {meant}? ' if meant else ''}choose one of "
                                           f"{', '.join(MACHINES)}, or --cpu")
    return ""


def _meant(name: str) -> str:
    """Guess which machine is meant by a name such as `T4`, `t4x2` or `nvidia_l4`."""
    short = {machine.removeprefix("Nvidia").removeprefix("Tesla").lower(): machine for machine in MACHINES}
    wanted = "".join(letter for letter in name.lower() if letter.isalnum()).removeprefix("nvidia").removeprefix("tesla")
    if wanted in short:
        return short[wanted]
    close = difflib.get_close_matches(wanted, short, n=1, cutoff=0.5)
    return short[close[0]] if close else ""
