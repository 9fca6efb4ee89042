"""The folder of a kernel: one launcher and its metadata, made without the `kaggle` program and without an account."""

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slugify import slugify

from kaggle_runner.errors import KernelError, Refusal, SecretError
from kaggle_runner.kaggle.launcher import EMPTY_SCRIPT, LIMIT_BYTES, SCRIPT, Launch, build_launcher
from kaggle_runner.kaggle.machines import T4_X2, check_machine
from kaggle_runner.machine.credentials import key_shape

METADATA = "kernel-metadata.json"
CODE_FILE = "kernel_launcher.py"
SLUG_LIMIT = 50


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """A kernel that is to be pushed.

    Raises:
        KernelError: a title, owner or machine that Kaggle would refuse or change.
        SecretError: the title looks like a key.
    """

    owner: str
    title: str
    """Title of the kernel; `kaggle` makes its slug from it, and Kaggle moves a kernel whose id is another."""
    launch: Launch
    machine_shape: str = T4_X2
    """Kaggle's name of the machine; empty: no GPU."""
    internet: bool = True
    datasets: tuple[str, ...] = ()
    """`owner/slug` of datasets to mount."""
    kernels: tuple[str, ...] = ()
    """`owner/slug` of kernels whose output to mount."""
    models: tuple[str, ...] = ()
    """`owner/model/framework/variation/version` of models to mount."""
    docker_image: str = ""
    """Image to pin; helps where kernels of the default image stay queued."""

    def __post_init__(self) -> None:
        check_machine(self.machine_shape)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.owner):
            raise KernelError(Refusal.NAME, f"{self.owner!r} is no Kaggle account; give yours with --owner")
        if kind := key_shape(self.title):
            raise SecretError(f"the title looks like {kind}, and would be in the address of the kernel's page; choose "
                              f"another one with --title")
        if len(self.title.strip()) < 5 or not 5 <= len(self.slug) <= SLUG_LIMIT:
            raise KernelError(Refusal.NAME, f"title {self.title!r} becomes the slug {self.slug!r}; Kaggle wants 5 "
                                            f"characters or more of both, and at most {SLUG_LIMIT} of the slug; choose "
                                            f"another one with --title")

    @property
    def slug(self) -> str:
        """The last part of the kernel's address, made from its title."""
        return slugify(self.title)

    @property
    def ref(self) -> str:
        """The kernel's address as `owner/slug`."""
        return f"{self.owner}/{self.slug}"

    def metadata(self) -> dict[str, Any]:
        """Return the content of kernel-metadata.json; every field that has a surprising default is written."""
        values = {
            "id": self.ref, "title": self.title, "code_file": CODE_FILE, "language": "python", "kernel_type": "script",
            "is_private": True, "enable_gpu": self.machine_shape.startswith("Nvidia"),
            "enable_tpu": self.machine_shape.startswith("Tpu"), "enable_internet": self.internet,
            "machine_shape": self.machine_shape, "dataset_sources": list(self.datasets), "competition_sources": [],
            "kernel_sources": list(self.kernels), "model_sources": list(self.models), "keywords": [],
        }
        return values | ({"docker_image": self.docker_image} if self.docker_image else {})


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that is ready to be pushed."""

    path: Path
    ref: str
    gpu: bool
    source_bytes: int
    sources: tuple[tuple[str, str], ...]
    """(`dataset` or `kernel`, its ref) of every input."""


def prepare(spec: KernelSpec, folder: Path, environ: Mapping[str, str]) -> Folder:
    """Write the launcher and its metadata into a folder, so that `kaggle kernels push -p FOLDER` works.

    Raises:
        KernelError: the launcher is too large, or the folder cannot be written.
        SecretError: a credential of `environ` would be in it.
    """
    _refuse_other_sweep(spec, folder)
    _write(folder, build_launcher(spec.launch, environ), spec.metadata())
    return read_folder(folder)


def _refuse_other_sweep(spec: KernelSpec, folder: Path) -> None:
    """Refuse to push over the kernel of another sweep whose name makes the same slug: its results would be replaced.

    Another sweep is one that has another file name and another text; a file may be edited, or be given a new name.
    """
    before, now = _launched(folder), spec.launch
    if before is None or not before.files or before.files == now.files or before.files.keys() == now.files.keys() \
            or sorted(before.files.values()) == sorted(now.files.values()):
        return
    raise KernelError(Refusal.NAME, f"{folder} holds the kernel of {', '.join(before.files)}, and "
                                    f"{', '.join(now.files) or now.arguments[1]} makes the same name, {spec.ref}; give "
                                    f"it another one with --title")


def _launched(folder: Path) -> Launch | None:
    """Return what the launcher of a folder runs; none where there is none that can be read."""
    try:
        with open(folder / CODE_FILE, encoding="utf-8") as file:
            head = itertools.islice(file, 8)
            lines = dict(line.split(" = ", 1) for line in head if line.startswith("KAGGLE_RUNNER_"))
        return Launch(arguments=tuple(json.loads(lines["KAGGLE_RUNNER_ARGUMENTS"])),
                      files=json.loads(lines["KAGGLE_RUNNER_FILES"]))
    except (OSError, ValueError, KeyError):
        return None


def prepare_empty(folder: Path) -> None:
    """Write the launcher and the metadata that the repository holds: they run nothing, and say how to prepare a sweep.

    Without an account in the id, and without a GPU, whose hours a push by mistake would take.

    Raises:
        KernelError: the folder cannot be written.
    """
    spec = KernelSpec(owner="nobody", title="kaggle runner", launch=Launch(arguments=()), machine_shape="")
    _write(folder, EMPTY_SCRIPT, spec.metadata() | {"id": spec.slug})


def refuse_other_code(path: Path) -> None:
    """Refuse to put a launcher in the place of a file that is none.

    Raises:
        KernelError: there is such a file.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(200)
    except OSError:  # there is none, or writing will say what is wrong
        return
    marks = (SCRIPT.split("{")[0], EMPTY_SCRIPT.split("\n")[0])
    if begin and not any(begin.startswith(mark.encode()) for mark in marks):
        raise KernelError(Refusal.OTHER, f"{path} is there and is no launcher; move it away, or choose another place")


def _write(folder: Path, script: str, metadata: Mapping[str, Any]) -> None:
    refuse_other_code(folder / CODE_FILE)
    there = _code_file_in(folder)
    if there not in (None, CODE_FILE):
        raise KernelError(Refusal.OTHER, f"{folder / METADATA} is of a kernel that runs {there}; move it away, or "
                                         f"choose another place")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CODE_FILE).write_text(script, encoding="utf-8")
        (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise KernelError(Refusal.OTHER, f"cannot write the kernel into {folder}: {error.strerror}; choose another "
                                         f"folder") from error


def _code_file_in(folder: Path) -> object:
    """Return what the metadata of a folder names as its code; none without metadata."""
    try:
        return json.loads((folder / METADATA).read_text(encoding="utf-8")).get("code_file")
    except (OSError, ValueError, AttributeError):
        return None


def read_folder(path: Path) -> Folder:
    """Read and check a folder as the server will, so that it has nothing to refuse or to change silently.

    Raises:
        KernelError: no metadata, no code file, one too large, or a title that does not make the id.
    """
    try:
        metadata = json.loads((path / METADATA).read_text(encoding="utf-8"))
        ref, title, code_file = metadata["id"], metadata["title"], metadata["code_file"]
        source_bytes = len((path / code_file).read_bytes())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KernelError(Refusal.OTHER, f"{path} is not a kernel's folder: {error}; make it with: python -m "
                                         f"kaggle_runner kernel prepare SWEEP_ID") from error
    owner, _, slug = str(ref).rpartition("/")
    if not owner:
        raise KernelError(Refusal.NAME, f"{path / METADATA}: id {ref!r} names no account; write your own before it, or "
                                        f"make it with: python -m kaggle_runner kernel prepare SWEEP_ID --owner NAME")
    if slugify(title) != slug:
        raise KernelError(Refusal.NAME, f"{path / METADATA}: title {title!r} becomes {slugify(title)!r}, but the id "
                                        f"says {slug!r}, and Kaggle would move the kernel; make them agree")
    if source_bytes > LIMIT_BYTES:
        raise KernelError(Refusal.TOO_LARGE, f"{path / code_file} has {source_bytes / 1000:.0f} KB and Kaggle takes "
                                             f"{LIMIT_BYTES / 1000:.0f}; mount large files as a dataset")
    sources = [(kind, ref) for kind in ("dataset", "kernel") for ref in metadata.get(f"{kind}_sources") or ()]
    return Folder(path=path, ref=ref, gpu=bool(metadata.get("enable_gpu")), source_bytes=source_bytes,
                  sources=tuple(sources))


def read_ref(path: Path) -> str:
    """Return the `owner/slug` of a folder that was pushed.

    Raises:
        KernelError: it is not a kernel's folder.
    """
    try:
        return str(json.loads((path / METADATA).read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KernelError(Refusal.OTHER, f"{path} is not a kernel's folder: {error}; push again") from error


def write_ref(path: Path, ref: str) -> None:
    """Note in a folder under which name Kaggle saved it, so that it is followed there."""
    metadata = json.loads((path / METADATA).read_text(encoding="utf-8"))
    (path / METADATA).write_text(json.dumps(metadata | {"id": ref}, indent=2) + "\n", encoding="utf-8")


def next_session(spec: KernelSpec, previous: str) -> KernelSpec:
    """Make the kernel that continues the study of the one before: its output is mounted, and found by its journal.

    A kernel of its own, because what becomes of a kernel that mounts itself is not documented.
    """
    earlier = _sessions_of(spec)
    others = tuple(ref for ref in spec.kernels if not earlier.fullmatch(ref))
    found = earlier.fullmatch(previous)
    own = re.search(r" session ([0-9]+)$", spec.title)
    number = int(found[1] or 1) if found else int(own[1]) if own else 1
    return replace(spec, title=f"{_first_title(spec)} session {number + 1}", kernels=(*others, previous))


def require_titles(spec: KernelSpec, sessions: int) -> None:
    """See that the kernel of each session can have its title, before hours are spent on the first.

    Raises:
        KernelError: the number of a later session makes its title too long.
    """
    for _ in range(1, min(sessions, 100)):
        spec = next_session(spec, spec.ref)


def going_on(spec: KernelSpec) -> KernelSpec:
    """Return the kernel after the one that it mounts, where that is an earlier session of its own."""
    earlier = _sessions_of(spec)
    return next((next_session(spec, ref) for ref in spec.kernels if earlier.fullmatch(ref)), spec)


def _first_title(spec: KernelSpec) -> str:
    return re.sub(r" session [0-9]+$", "", spec.title)


def _sessions_of(spec: KernelSpec) -> re.Pattern[str]:
    """Return what matches the refs of all sessions of a kernel, with the number of those after the first."""
    return re.compile(re.escape(f"{spec.owner}/{slugify(_first_title(spec))}") + r"(?:-session-([0-9]+))?")
