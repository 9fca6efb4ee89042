"""Which machine this is and why we think so: host, GPUs, limits, where to write.

Every figure comes with its reason. The rules for Kaggle and Colab are from their own sources and never ran there.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kaggle_runner.errors import HostError, NoGpu, SecretError
from kaggle_runner.machine.gpu import HUNG, Gpu, in_gib, survey_gpus
from kaggle_runner.machine.keys import SERVICES, find_key
from kaggle_runner.machine.limits import disk_free_bytes, nearest_existing, read_cpu_count, read_ram

HOSTS = ("kaggle", "colab", "local")
NEEDED_PACKAGES: Mapping[str, str] = {
    "torch": "training", "transformers": "training", "peft": "training", "accelerate": "training",
    "datasets": "training", "bitsandbytes": "4-bit bases", "optuna": "the embedded study",
    "scipy": "the embedded study", "wandb": "W&B sweeps", "matplotlib": "pictures", "plotly": "reports",
}
"""Every package a command imports, with what it is for; a command names those it lacks again when it runs."""
_TPU = ", but a TPU, and nothing here trains on one"
_COLAB_VARIABLES = ("COLAB_RELEASE_TAG", "COLAB_BACKEND_VERSION", "COLAB_JUPYTER_IP", "COLAB_GPU")
_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine this process runs on."""

    host: str
    """`kaggle`, `colab` or `local`."""
    reason: str
    """Why it is that host."""
    gpus: tuple[Gpu, ...]
    """The GPUs that can be trained on, in the order of CUDA_VISIBLE_DEVICES."""
    refused_gpus: tuple[Gpu, ...]
    """The GPUs that torch has no kernels for."""
    hidden_gpus: tuple[Gpu, ...]
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES hides."""
    ram_bytes: int
    """All memory of this machine, or what its container may take of it."""
    ram_available_bytes: int
    """The part of `ram_bytes` that is free now."""
    cpu_count: int
    """Cores this process may use."""
    disk_free_bytes: int
    """Bytes that can still be written to `writable_directory`."""
    session_limit_s: float | None
    """Seconds after which the host ends the session; none where it does not."""
    interactive: bool | None
    """On Kaggle, whether a person's notebook and not a pushed version runs; none elsewhere, where nothing tells."""
    writable_directory: Path
    """Where results go; the best place for them that is there, see `problems` for what it does not keep."""
    cache_directory: Path
    """The directory for files that can be made again."""
    missing_packages: tuple[str, ...]
    """Those of `NEEDED_PACKAGES` that this Python cannot import."""
    api_keys: Mapping[str, str]
    """For each service with a key, where it was found; never the key."""
    reasons: Mapping[str, str]
    """Why a figure is what it is: `gpus`, `ram`, `cpu`, `session`, `writable`, `cache`."""
    problems: tuple[str, ...]
    """What a person should know or mend before a sweep."""
    gpu_problems: tuple[str, ...]
    """Those of `problems` that are nothing to somebody who asked for a CPU."""

    def require_gpus(self) -> tuple[Gpu, ...]:
        """Return the GPUs, of which there is at least one.

        Raises:
            NoGpu: there is none that torch can use; says why.
        """
        if self.gpus:
            return self.gpus
        for gpu in self.refused_gpus:
            raise NoGpu(f"no GPU to train on: {gpu.refusal}")
        reason = self.reasons["gpus"]
        advice = _gpu_advice("hung" if HUNG in reason else self.host, len(self.hidden_gpus))
        raise NoGpu(f"no GPU to train on: {reason}; {advice}")

    def for_training(self, *, cpu_only: bool) -> "Environment":
        """Return this machine as trials may use it; on Kaggle and Colab they get a CPU only where it was asked for.

        Hours of a session are counted: a 7B model on two cores would use up twelve of them for nothing.

        Raises:
            NoGpu: as `require_gpus`, on Kaggle and Colab without `cpu_only`.
        """
        if cpu_only:
            return replace(self, gpus=())
        if self.host != "local":
            self.require_gpus()
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values, sizes in bytes."""
        return asdict(self) | {
            "gpus": [_gpu_row(gpu) for gpu in self.gpus],
            "refused_gpus": [_gpu_row(gpu) for gpu in self.refused_gpus],
            "hidden_gpus": [_gpu_row(gpu) for gpu in self.hidden_gpus], "gpu_problems": list(self.gpu_problems),
            "writable_directory": str(self.writable_directory), "cache_directory": str(self.cache_directory),
            "missing_packages": list(self.missing_packages), "problems": list(self.problems),
        }

    def device_rows(self) -> list[tuple[str, str]]:
        """Return the host and its GPUs as (label, text) lines for a person."""
        rows = [("host", f"{self.host}  ({self.reason})")]
        rows += [(f"gpu {gpu.index}", gpu.text) for gpu in (*self.gpus, *self.refused_gpus)]
        if len(rows) == 1:
            rows.append(("gpu", f"none  ({self.reasons['gpus']})"))
        return rows

    def machine_rows(self) -> list[tuple[str, str]]:
        """Return everything but the devices as (label, text) lines for a person."""
        limit = "none" if self.session_limit_s is None else f"{self.session_limit_s / _HOUR_S:g} h"
        keys = [f"{service}: {self.api_keys.get(service, 'none found')}" for service in SERVICES]
        missing = [f"{name} ({NEEDED_PACKAGES[name]})" for name in self.missing_packages]
        return [
            ("ram", f"{in_gib(self.ram_available_bytes)} free of {in_gib(self.ram_bytes)}  ({self.reasons['ram']})"),
            ("cpu", f"{self.cpu_count} core{'s' if self.cpu_count > 1 else ''}  ({self.reasons['cpu']})"),
            ("session", f"limit {limit}  ({self.reasons['session']})"),
            ("output", f"{self.writable_directory}, {in_gib(self.disk_free_bytes)} free  ({self.reasons['writable']})"),
            ("cache", f"{self.cache_directory}  ({self.reasons['cache']})"),
            ("missing", ", ".join(missing) or "no package"),
            *[("keys" if i == 0 else "", text) for i, text in enumerate(keys)],
            *[("problem", problem) for problem in self.problems],
        ]


def root_of(environ: Mapping[str, str]) -> Path:
    """Return the root of the file system to look at: `/`, or in tests what KAGGLE_RUNNER_ROOT names."""
    return Path(environ.get("KAGGLE_RUNNER_ROOT", "/"))


def detect(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Environment:
    """Find out which machine this is, from its environment variables and the files under `root`.

    Imports no third-party package. Only packages, cores and a local working directory are this process's own.

    Raises:
        HostError: KAGGLE_RUNNER_HOST names no host.
    """
    host, reason = find_host(environ, root)
    survey = survey_gpus(environ)
    gpus = tuple(gpu for gpu in survey.gpus if not gpu.refusal)
    refused = tuple(gpu for gpu in survey.gpus if gpu.refusal)
    none = [f"this session has no GPU; {_gpu_advice(host, len(survey.hidden))}"]
    gpu_problems = (*survey.problems, *(gpu.refusal or "" for gpu in refused),
                    *([] if host == "local" or survey.gpus or HUNG in survey.reason else none))
    ram = read_ram(root)
    cpu_count, cpu_reason = read_cpu_count(root)
    session_limit_s, session_reason = _session_limit(host, environ)
    writable, writable_reason = _writable_directory(host, root)
    cache, cache_reason = _cache_directory(host, environ, root)
    api_keys, key_problems = _api_keys(environ, root)
    return Environment(
        host=host, reason=reason, gpus=gpus, refused_gpus=refused, hidden_gpus=survey.hidden, ram_bytes=ram.total_bytes,
        ram_available_bytes=ram.available_bytes, cpu_count=cpu_count, disk_free_bytes=disk_free_bytes(writable),
        session_limit_s=session_limit_s, interactive=_interactive(host, environ), writable_directory=writable,
        cache_directory=cache, missing_packages=missing_packages(), api_keys=api_keys,
        reasons={"gpus": survey.reason + (_TPU if _is_tpu(environ) else ""), "ram": ram.reason, "cpu": cpu_reason,
                 "session": session_reason, "writable": writable_reason, "cache": cache_reason},
        gpu_problems=gpu_problems, problems=(*gpu_problems, *_host_problems(host, writable, root), *key_problems),
    )


def find_host(environ: Mapping[str, str], root: Path) -> tuple[str, str]:
    """Tell Kaggle, Colab and any other machine apart, with the reason; KAGGLE_RUNNER_HOST decides where it is set.

    Kaggle comes first: its image is built from Colab's and carries Colab's variables and packages. A user's
    KAGGLE_USERNAME and KAGGLE_KEY prove nothing, they are set on many machines.

    Raises:
        HostError: KAGGLE_RUNNER_HOST names no host.

    Source: kagglesdk.kaggle_env.is_in_kaggle_notebook; Kaggle/docker-python Dockerfile.tmpl; Kaggle/kagglehub#230.
    """
    wanted = environ.get("KAGGLE_RUNNER_HOST")
    if wanted:
        if wanted not in HOSTS:
            raise HostError(f"KAGGLE_RUNNER_HOST={wanted!r} is no host; set it to one of {', '.join(HOSTS)}, or "
                            f"unset it")
        return wanted, f"KAGGLE_RUNNER_HOST={wanted}"
    if environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        return "kaggle", f"KAGGLE_KERNEL_RUN_TYPE={environ['KAGGLE_KERNEL_RUN_TYPE']}"
    if environ.get("KAGGLE_URL_BASE") and (root / "kaggle/working").is_dir():
        return "kaggle", f"KAGGLE_URL_BASE is set and {root / 'kaggle/working'} is there"
    colab = next((name for name in _COLAB_VARIABLES if name in environ), None)
    if colab and (root / "content").is_dir():
        return "colab", f"{colab} is set and {root / 'content'} is there"
    return "local", f"{colab} is set, but there is no {root / 'content'}" if colab else "no sign of Kaggle or Colab"


def missing_packages() -> tuple[str, ...]:
    """Name the needed packages that this Python cannot find, without importing any."""
    return tuple(name for name in NEEDED_PACKAGES
                 if sys.modules.get(name) is None and importlib.util.find_spec(name) is None)


def _interactive(host: str, environ: Mapping[str, str]) -> bool | None:
    run_type = environ.get("KAGGLE_KERNEL_RUN_TYPE")
    return run_type == "Interactive" if host == "kaggle" and run_type else None


def _is_tpu(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("TPU_ACCELERATOR_TYPE") or environ.get("ISTPUVM"))


def _session_limit(host: str, environ: Mapping[str, str]) -> tuple[float | None, str]:
    """Source: Kaggle's and Colab's documentation of 2026; a push with a shorter timeout is not visible from inside."""
    if host == "kaggle" and _is_tpu(environ):
        return 9 * _HOUR_S, "Kaggle ends a TPU session after 9 h"
    if host == "kaggle":
        return 12 * _HOUR_S, "Kaggle ends a CPU or GPU session after 12 h, an idle interactive one earlier"
    if host == "colab":
        return 12 * _HOUR_S, "Colab ends a free session after 12 h at the latest, an idle one after about 90 minutes"
    return None, "nobody ends a session here"


def _writable_directory(host: str, root: Path) -> tuple[Path, str]:
    if host == "kaggle":
        return root / "kaggle/working", "kept after the session, up to about 20 GB, if the script exits with 0"
    if host == "colab":
        drive = root / "content/drive/MyDrive"
        if drive.is_dir():
            return drive / "kaggle_runner", "Google Drive is mounted, and keeps it"
        return root / "content", "lost when the session ends"
    return Path.cwd(), "the current directory"


def _cache_directory(host: str, environ: Mapping[str, str], root: Path) -> tuple[Path, str]:
    if environ.get("KAGGLE_RUNNER_CACHE"):
        return Path(environ["KAGGLE_RUNNER_CACHE"]), "KAGGLE_RUNNER_CACHE"
    if host == "kaggle":
        scratch = next((root / name for name in ("kaggle/tmp", "tmp") if (root / name).is_dir()), root / "tmp")
        return scratch / "kaggle_runner", "scratch space, lost when the session ends"
    if environ.get("XDG_CACHE_HOME"):
        return Path(environ["XDG_CACHE_HOME"]) / "kaggle_runner", "XDG_CACHE_HOME"
    if environ.get("HOME"):
        return Path(environ["HOME"]) / ".cache/kaggle_runner", "the user's cache"
    return root / "tmp/kaggle_runner", "no HOME is set"


def _api_keys(environ: Mapping[str, str], root: Path) -> tuple[dict[str, str], list[str]]:
    sources, problems = {}, []
    for service in SERVICES:
        try:
            found = find_key(service, environ, root)
        except SecretError as error:
            sources[service] = "found, but it cannot be used"
            problems.append(str(error))
            continue
        if found:
            sources[service] = found.source
    return sources, problems


def _host_problems(host: str, writable: Path, root: Path) -> list[str]:
    problems = []
    if host == "colab" and writable == root / "content":
        problems.append("google drive is not mounted, so the study is lost with the session; run this in a cell before "
                        "the sweep: from google.colab import drive; drive.mount('/content/drive')")
    if not os.access(nearest_existing(writable), os.W_OK):
        problems.append(f"{writable} cannot be written; give another directory with --study")
    return problems


def _gpu_row(gpu: Gpu) -> dict[str, Any]:
    return asdict(gpu) | {"compute_capability": list(gpu.compute_capability), "usable_bytes": gpu.usable_bytes,
                          "supports_bfloat16": gpu.supports_bfloat16, "meaning": gpu.meaning}


def _gpu_advice(host: str, hidden: int) -> str:
    """Say how a session comes to a GPU: of those that are there and hidden none was refused to the account."""
    if not hidden:
        return _GPU_ADVICE[host]
    return (f"CUDA_VISIBLE_DEVICES hides {'the GPU' if hidden == 1 else f'all {hidden} GPUs'} of this machine: unset "
            f"it, or name whole GPUs that are there, such as 0; or use the CPU: "
            f"{'dry-run' if host == 'local' else '--cpu'}")


_GPU_ADVICE = {
    "kaggle": "push with --machine NvidiaTeslaT4, or choose the accelerator GPU T4 x2 in the notebook; Kaggle gives "
              "none until the account's phone is verified, at https://www.kaggle.com/settings; or use the CPU: --cpu",
    "colab": "choose Runtime > Change runtime type > T4 GPU, or use the CPU: --cpu",
    "local": "run on the CPU with: python -m kaggle_runner dry-run",
    "hung": "or use the CPU: --cpu",
}
