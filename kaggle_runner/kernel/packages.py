"""Install on a kernel what its image lacks, and move nothing that it has.

Images come with a torch, a numpy and a protobuf built for each other; a plain `pip install` that swaps one of them
breaks the others. So pip gets the running versions as constraints, and they are compared afterwards.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaggle_runner.errors import HostError

FROZEN = ("torch", "torchvision", "torchaudio", "triton", "numpy", "protobuf", "transformers", "tokenizers", "peft",
          "accelerate", "wandb", "datasets", "safetensors", "scipy", "pandas", "pyarrow", "huggingface-hub")
FROZEN_PREFIX = "nvidia-"
SEARCH_LIMIT_ENTRIES = 20_000
"""Most files and folders that are looked at under the inputs; a mounted image dataset has millions."""
PIP_TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True)
class Need:
    """A package that a kernel's command uses."""

    module: str
    name: str
    """Name of the package for pip."""
    minimum: str
    """The oldest version that will do."""
    version: str = ""
    """The version taken from an index; empty: what pip finds."""
    feature: str
    """What is lost without it, as the end of a sentence."""

    def is_met(self) -> bool:
        """Say whether it can be imported and is new enough; imports nothing."""
        if importlib.util.find_spec(self.module) is None:
            return False
        try:
            return _numbers(self.version_here()) >= _numbers(self.minimum)
        except importlib.metadata.PackageNotFoundError:  # importable without being installed: a test's, a developer's
            return True

    def version_here(self) -> str:
        """Return the installed version, empty where pip left it half installed.

        Raises:
            PackageNotFoundError: it is not installed.
        """
        return importlib.metadata.version(self.name) or ""

    def state(self) -> str:
        """Say what a session does not have because it is not met, as the start of a sentence."""
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            if importlib.util.find_spec(self.module) and (version := self.version_here()):
                return f"{self.feature} may fail: {self.name} {version} is installed, and {self.minimum} is needed"
        return f"no {self.feature}: {self.name} is not installed"


def _numbers(version: str) -> list[int]:
    """Return the numbers that a version begins with; a Python may lack the package that knows all of it."""
    return [int(number) for number in re.split(r"[^\d.]", version)[0].split(".") if number]


NEEDS = (
    Need(module="bitsandbytes", name="bitsandbytes", minimum="0.46.1", version="0.50.2",
         feature="4-bit base models and 8-bit optimizers"),
    Need(module="optuna", name="optuna", minimum="5.0", version="5.0.0", feature="sweeps with the embedded sampler"),
    Need(module="peft", name="peft", minimum="0.17", feature="fine-tuning with LoRA"),
    Need(module="wandb", name="wandb", minimum="0.26", feature="W&B sweeps"),
    Need(module="yaml", name="PyYAML", minimum="6.0", feature="sweep files"),
    Need(module="click", name="click", minimum="8.0", feature="command line"),
    Need(module="rich", name="rich", minimum="13.0", feature="progress of a sweep"),
)
"""Kaggle's image lacks bitsandbytes, Colab's bitsandbytes and optuna (October 2026); the rest is a safeguard.

The versions are those of environments/kaggle.txt and environments/colab.txt; bitsandbytes' minimum is
what transformers 5.0 to 5.23 take.
"""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What came of installing packages."""

    installed: tuple[str, ...] = ()
    """`name version` of what is new."""
    lost: tuple[str, ...] = ()
    """One sentence for each feature that this session does not have."""


def install_missing(needs: Sequence[Need], inputs: Path, environ: Mapping[str, str],
                    tell: Callable[[str], None]) -> Installed:
    """Install what cannot be imported, from wheels under `inputs` where there are any, else from the index.

    Says what it does with `tell`. A package that cannot be had is no error: its feature is lost, and that is said.

    Raises:
        HostError: a package of the image changed its version all the same.
    """
    missing = [need for need in needs if not need.is_met()]
    if not missing:
        return Installed()
    before = frozen_versions()
    tell(f"install {', '.join(need.name for need in missing)}, with {len(before)} packages of the image frozen")
    wheel_folders = find_wheels(inputs)
    installed, lost = [], []
    for need in missing:
        problem = _install(need, wheel_folders, before, environ)
        importlib.invalidate_caches()
        if problem or not need.is_met():
            way_out = (" push with --image of a newer image, or" if need.name in FROZEN else "")
            lost.append(f"{need.state()} ({problem or 'pip changed nothing'});{way_out} turn the kernel's internet on, "
                        f"or attach a dataset with its wheel")
            tell(f"warning: {lost[-1]}")
        else:
            installed.append(f"{need.name} {importlib.metadata.version(need.name)}")
            tell(f"installed {installed[-1]}")
    after = frozen_versions()
    moved = [f"{name} {version} -> {after.get(name)}" for name, version in before.items() if after.get(name) != version]
    if moved:
        raise HostError(f"installing moved packages that the image was built with: {', '.join(moved)}; a session with "
                        f"them would fail in odd ways, so it ends here; pin a docker image that has "
                        f"{', '.join(need.name for need in missing)}")
    return Installed(installed=tuple(installed), lost=tuple(lost))


def frozen_versions() -> dict[str, str]:
    """Read the installed versions of what must not move."""
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name in FROZEN or name.startswith(FROZEN_PREFIX):
            versions.setdefault(name, distribution.version)
    return dict(sorted(versions.items()))


def find_wheels(inputs: Path, limit_entries: int = SEARCH_LIMIT_ENTRIES) -> tuple[Path, ...]:
    """Find the folders under the inputs that hold wheels; looks at a bounded number of entries, breadth first."""
    folders, queue, seen = [], [inputs], 0
    while queue and seen < limit_entries:
        folder = queue.pop(0)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        seen += len(entries)
        if any(entry.name.endswith(".whl") for entry in entries):
            folders.append(folder)
        queue += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return tuple(folders)


def _install(need: Need, wheel_folders: Sequence[Path], frozen: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Run pip for one package, first on the wheels at hand; return why it failed, empty if it did not."""
    wanted = f"=={need.version}" if need.version else f">={need.minimum}"
    from_index = ["--retries", "1", "--timeout", "15", f"{need.name}{wanted}"]
    attempts = [from_index]
    if wheel_folders:
        links = [option for folder in wheel_folders for option in ("--find-links", str(folder))]
        attempts.insert(0, ["--no-index", *links, f"{need.name}>={need.minimum}"])
    problem = ""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.writelines(f"{name}=={version}\n" for name, version in frozen.items())
        constraints.flush()
        for options in attempts:
            command = [sys.executable, "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                       "--no-input", "--constraint", constraints.name, *options]
            try:
                ran = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=PIP_TIMEOUT_S)
            except (OSError, subprocess.TimeoutExpired) as error:
                problem = f"pip: {type(error).__name__}"
                continue
            if ran.returncode == 0:
                return ""
            errors = [line for line in ran.stderr.splitlines() if line.startswith("ERROR:")]
            said = errors or ran.stderr.splitlines() or [f"pip ended with status {ran.returncode}"]
            problem = said[-1].removeprefix("ERROR: ")
    return problem
