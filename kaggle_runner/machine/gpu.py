"""The NVIDIA GPUs of this machine as `nvidia-smi` reports them, without importing torch.

Numbers about the T4 are other people's, cited where they stand: nothing here was ever run on a T4 by us.
"""

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kaggle_runner.errors import HostError

if TYPE_CHECKING:
    import subprocess

GIB = 2**30
QUERY_TIMEOUT_S = 15.0
"""A cold driver takes seconds to answer; a hung one never does."""
HUNG = "as with a hung driver; restart the session"
"""Said of a machine that has a GPU and is not well."""
_FIELDS = "index,name,memory.total,compute_cap,uuid"
_MOST_LINES = 64
"""Of an answer; a machine has at most 16 GPUs, and what is longer is no answer."""
_INFOROM_DAMAGED = 14
"""nvidia-smi's exit status for a damaged infoROM: the answer is complete all the same. Source: its manual page."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU."""

    index: int
    """Its number for nvidia-smi, in the order of the PCI bus."""
    name: str
    memory_bytes: int
    """Memory that nvidia-smi lists, a part of which the driver keeps."""
    compute_capability: tuple[int, int]
    uuid: str
    """What to put into CUDA_VISIBLE_DEVICES: unlike the index it does not depend on CUDA_DEVICE_ORDER."""

    @property
    def supports_bfloat16(self) -> bool:
        """Whether bfloat16 is computed in hardware; torch also says yes where it is only emulated, as on a T4.

        Source: torch.cuda.is_bf16_supported, whose `including_emulation` is true by default.
        """
        return self.compute_capability >= (8, 0)

    @property
    def usable_bytes(self) -> int:
        """Bytes that a process can allocate: 97.07 % of what is listed.

        That is the T4's share, 14.56 GiB of 15360 MiB, and the smallest one seen: 22.03 of 22.49 GiB on an L4 and 23.52
        of 23.99 on an RTX 4090 are 98 %, so for these the rule is careful by 0.2 GiB.

        Source: "has a total capacity of 14.56 GiB" in torch's out-of-memory messages on T4s, Zheng-Chong/CatVTON#133
        and AlphaGPU/leetgpu-challenges#52; up to 14.76 with other drivers. L4: ArcInstitute/evo2#190. RTX 4090:
        Soul-AILab/SoulX-FlashTalk#5.
        """
        return self.memory_bytes * 1456 // 1500

    @property
    def refusal(self) -> str | None:
        """Why this GPU cannot train, in a sentence; none if it can.

        Source: torch's cu128 wheels lost compute capability 6 in 2.8, and 7.0 in 2.11 (pytorch/pytorch#172352); 7.0 is
        let through because 2.10 and the cu126 wheels still have it.
        """
        if self.compute_capability >= (7, 0):
            return None
        return (f"{self.name} has compute capability {self._capability} and torch has no kernels for it, 7.5 is the "
                f"least its wheels are sure to have; choose a T4 (on Kaggle: --machine NvidiaTeslaT4), or train on the "
                f"CPU with --cpu")

    @property
    def meaning(self) -> str:
        """What the compute capability means for training, in a few words."""
        if self.refusal:
            return "refused, torch has no kernels for it"
        if self.supports_bfloat16:
            return "float16 and bfloat16"
        if self.compute_capability < (7, 5):
            return "float16, no bfloat16; torch 2.11 and later have no kernels for it in their CUDA 12.8 and 13 wheels"
        return "float16, no bfloat16"

    @property
    def text(self) -> str:
        """One line for a person: name, usable memory, compute capability and its meaning."""
        return (f"{self.name}, {in_gib(self.usable_bytes)} usable, compute capability {self._capability}: "
                f"{self.meaning}")

    def require_supported(self) -> None:
        """Refuse a GPU that torch cannot use.

        Raises:
            HostError: the compute capability is below 7.0.
        """
        if self.refusal:
            raise HostError(self.refusal)

    @property
    def _capability(self) -> str:
        return ".".join(str(number) for number in self.compute_capability)


@dataclass(frozen=True, kw_only=True)
class GpuSurvey:
    """What was found when looking for GPUs."""

    gpus: tuple[Gpu, ...]
    """The GPUs that this process may use, in the order of CUDA_VISIBLE_DEVICES where that is set."""
    reason: str
    """Why these GPUs were found and no others."""
    problems: tuple[str, ...] = ()
    """What a person should know or mend."""
    hidden: tuple[Gpu, ...] = ()
    """The GPUs that are there and that CUDA_VISIBLE_DEVICES hides from this process."""


def survey_gpus(environ: Mapping[str, str], timeout_s: float = QUERY_TIMEOUT_S) -> GpuSurvey:
    """Ask the `nvidia-smi` on the PATH of `environ` for the GPUs; whatever goes wrong becomes a reason."""
    program = _find_program("nvidia-smi", environ)
    if program is None:
        return GpuSurvey(gpus=(), reason="no nvidia-smi on PATH")
    answer = _ask(program, environ, timeout_s)
    if isinstance(answer, str):
        return GpuSurvey(gpus=(), reason=answer, problems=(f"no GPU is used: {answer}",))
    gpus, problems = [], []
    for line in answer:
        found = _parse(line)
        if isinstance(found, Gpu):
            gpus.append(found)
        else:
            problems.append(found)
    count = f"{len(gpus)} listed by nvidia-smi{f' ({problems[0]})' if problems and not gpus else ''}"
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return GpuSurvey(gpus=tuple(gpus), reason=count, problems=tuple(problems))
    visible = visible_gpus(tuple(gpus), wanted)
    if "MIG-" in wanted:
        problems.append(f"CUDA_VISIBLE_DEVICES={wanted} names a slice of a GPU, and a slice's memory is not known "
                        f"here; name a whole GPU")
    reason = f"{count}, {len(visible)} visible with CUDA_VISIBLE_DEVICES={wanted}"
    return GpuSurvey(gpus=visible, reason=reason, problems=tuple(problems),
                     hidden=tuple(gpu for gpu in gpus if gpu not in visible))


def visible_gpus(gpus: tuple[Gpu, ...], wanted: str) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA shows a process with this CUDA_VISIBLE_DEVICES, in its order.

    Entries are indices, or beginnings of UUIDs that fit one GPU only; the first entry that fits none hides itself and
    all after it, a GPU that comes twice hides all. Indices are taken as nvidia-smi's, which CUDA's are for equal GPUs.

    Source: CUDA C++ Programming Guide, "CUDA Environment Variables"; torch.cuda._parse_visible_devices.
    """
    visible: list[Gpu] = []
    for entry in (part.strip() for part in wanted.split(",")):
        fits = [gpu for gpu in gpus if entry == str(gpu.index) or (entry.startswith("GPU-") and
                                                                   gpu.uuid.startswith(entry))]
        if len(fits) != 1:
            break
        if fits[0] in visible:
            return ()
        visible.extend(fits)
    return tuple(visible)


def in_gib(size_bytes: int) -> str:
    """Write a number of bytes as GiB with two decimals."""
    return f"{size_bytes / GIB:.2f} GiB"


def _find_program(name: str, environ: Mapping[str, str]) -> Path | None:
    for directory in environ.get("PATH", "").split(os.pathsep):
        program = Path(directory) / name
        if directory and program.is_file() and os.access(program, os.X_OK):
            return program
    return None


def _ask(program: Path, environ: Mapping[str, str], timeout_s: float) -> list[str] | str:
    """Return nvidia-smi's lines, or the reason why there are none."""
    import subprocess  # start-up time that only a machine with a GPU needs to spend

    command = [str(program), f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=dict(environ), start_new_session=True)
    except OSError as error:
        return f"{program} cannot be run: {error.strerror}"
    try:
        output, complaints = (stream.decode(errors="replace") for stream in process.communicate(timeout=timeout_s))
    except subprocess.TimeoutExpired:
        _abandon(process)
        return f"nvidia-smi gave no answer in {timeout_s:g} s, {HUNG}"
    if "not a valid field" in output + complaints:
        return "nvidia-smi is too old to tell the compute capability; update the NVIDIA driver"
    if process.returncode not in (0, _INFOROM_DAMAGED):
        lines = _lines(output) + _lines(complaints)
        said = next((line for line in lines if not isinstance(_parse(line), Gpu)), "nothing")
        return f"nvidia-smi ended with status {process.returncode} and said: {said}"
    return _lines(output)


def _lines(text: str) -> list[str]:
    """Return what a person can read of a program's first lines: a driver in trouble says anything, and much of it."""
    lines = ("".join(filter(str.isprintable, line)).strip()[:200] for line in text[:20_000].splitlines())
    return [line for line in lines if line][:_MOST_LINES]


def _abandon(process: "subprocess.Popen[bytes]") -> None:
    """Kill a program and all it started, and wait no longer: in the driver's hands not even SIGKILL ends it."""
    import subprocess

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1.0)


def _parse(line: str) -> Gpu | str:
    """Turn a line of nvidia-smi into a GPU, or into the reason why it is none."""
    try:
        index, rest = line.split(",", 1)
        name, memory_mib, capability, uuid = (part.strip() for part in rest.rsplit(",", 3))
    except ValueError:
        return f"nvidia-smi said: {line}"
    try:
        major, minor = capability.split(".")
        if int(memory_mib) <= 0:
            raise ValueError
        return Gpu(index=int(index), name=name, memory_bytes=int(memory_mib) * 2**20,
                   compute_capability=(int(major), int(minor)), uuid=uuid)
    except ValueError:
        return (f"GPU {index} ({name}) is left out: nvidia-smi gives its memory as {memory_mib!r} and its compute "
                f"capability as {capability!r}, and a budget needs both")
