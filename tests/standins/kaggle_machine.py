"""A machine of the loopback Kaggle: one directory laid out like a kernel's, in which a pushed script really runs.

    <root>/kaggle/src/script.py      read-only
    <root>/kaggle/working/           kept after a success
    <root>/kaggle/input/...          what the kernel's sources are, in the new layout or the old one
    <root>/image/                    what Kaggle's image adds: `nvidia-smi`, `kaggle_secrets`; a clock to put forward
    <root>/tmp, <root>/home          not kept

A test process cannot own the absolute path /kaggle, so the script is told its root by KAGGLE_RUNNER_ROOT.

The unpleasant habits of the real machine that it keeps:

* Only the code file is there. It gets no arguments, no terminal and no input.
* `input` and `src` cannot be written. A script that changed its own source has failed.
* Output is kept only after exit status 0; links are not kept. A session over its limit, or one that was cancelled, is
  killed with everything it started, and nothing of it is kept.
* The image is built from Colab's and carries Colab's marks.
* The environment holds tokens of Kaggle's own, which must not end up in a study.
* Secrets are detached from a version that a push made: `UserSecretsClient` raises ConnectionError.
* Without internet every request to the world fails; with internet it ends at the leak alarm.

What it does not have: GPUs. Its `nvidia-smi` lists T4s, and the script trains on the CPU.
"""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")

NVIDIA_SMI = """#!{python} -S
import sys
FIELDS = {{"name": "Tesla T4", "memory.total": "15360 MiB", "memory.free": "14913 MiB", "memory.used": "0 MiB",
          "compute_cap": "7.5", "driver_version": "580.65.06"}}
query = [a.split("=", 1)[1] for a in sys.argv[1:] if a.startswith("--query-gpu=")]
units = not any("nounits" in a for a in sys.argv[1:])
for index in range({gpus}):
    facts = dict(FIELDS, index=str(index), uuid=f"GPU-0000000{{index}}", count="{gpus}")
    if query:
        row = [facts[name] for name in query[0].split(",")]
        print(", ".join(cell if units else cell.removesuffix(" MiB") for cell in row))
    else:
        print(f"GPU {{index}}: {{facts['name']}} (UUID: {{facts['uuid']}})")
"""

KAGGLE_SECRETS = '''"""Kaggle's own client, as it behaves in a version made by a push: its secrets are detached."""


class UserSecretsClient:
    def get_secret(self, label):
        raise ConnectionError("Connection error trying to communicate with service.")
'''

CLOCK_VARIABLE = "KAGGLE_LOOPBACK_CLOCK"
"""Names a file with seconds by which the wall clock of a session is ahead: so no test waits for a deadline.

Behind the seconds may stand a number, a text, and a file below the session's root: then so many seconds pass at once
for a process each time that the text is written into that file, while it is there no more than that number of times.
"""
HELD_VARIABLE = "KAGGLE_LOOPBACK_HELD"
"""Names a file without which no script of a session ends: so a test sees it run, however soon it is done."""
CLOCK = f"""
import atexit, os, sys, time

if "{CLOCK_VARIABLE}" in os.environ:
    def ahead(real=time.time, file=os.environ["{CLOCK_VARIABLE}"], root=os.environ["KAGGLE_RUNNER_ROOT"], found=[]):
        try:
            with open(file) as words:
                seconds, *when = words.read().split() or ["0"]
            if when:
                with open(os.path.join(root, when[2])) as written:
                    found.append(min(int(when[0]), written.read().count(when[1])))
                return real() + float(seconds) * (found[-1] - found[0])
            return real() + float(seconds)
        except OSError:
            return real()

    time.time = ahead

if "{HELD_VARIABLE}" in os.environ and sys.orig_argv[-1].endswith("script.py"):
    @atexit.register
    def hold():
        while not os.path.exists(os.environ["{HELD_VARIABLE}"]):
            time.sleep(0.05)
"""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A directory that a session sees under kaggle/input."""

    kind: str
    """`datasets` or `notebooks`, a folder of the new layout."""
    owner: str
    slug: str
    directory: Path


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a session is asked to run, and on what."""

    source: str
    gpus: int
    internet: bool
    mounts: Sequence[Mount]
    old_layout: bool
    queue_s: float
    limit_s: float
    environ: Mapping[str, str]
    """Added to the script's environment: the test's own settings."""
    proxy: str
    """The leak alarm: every request to the world ends there."""


@dataclass
class Session:
    """One run of a pushed script; `status` moves as Kaggle's KernelWorkerStatus does."""

    root: Path
    order: Order
    status: str = "QUEUED"
    failure: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    started: float = 0.0
    ended: float = 0.0
    _process: subprocess.Popen[str] | None = None
    _cancelled: bool = False

    @property
    def working(self) -> Path:
        """The kept directory."""
        return self.root / "kaggle" / "working"

    @property
    def seconds(self) -> float:
        """Wall time it has run, for the quota."""
        return (self.ended or time.monotonic()) - self.started if self.started else 0.0

    def start(self) -> None:
        """Run in the background: queue, then the script, then the end."""
        threading.Thread(target=self._live, daemon=True).start()

    def cancel(self) -> None:
        """End it as Kaggle's web page does; nothing is kept."""
        with self.changed:
            self._cancelled = True
            self.changed.notify_all()
        self._kill()

    def outputs(self) -> dict[str, Path]:
        """The kept files; none before the end, and none after anything but a success."""
        if self.status != "COMPLETE":
            return {}
        return {path.relative_to(self.working).as_posix(): path
                for path in sorted(self.working.rglob("*")) if path.is_file() and not path.is_symlink()}

    def _live(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self._cancelled, timeout=self.order.queue_s)
        if not self._cancelled:
            self._lay_out()
            self._run_script()
        with self.changed:
            self.ended = time.monotonic()
            if self._cancelled:
                self.status = "CANCEL_ACKNOWLEDGED"
            elif self._process and self._process.returncode == 0 and not self.failure:
                self.status = "COMPLETE"
            else:
                self.status = "ERROR"
            self.changed.notify_all()

    def _run_script(self) -> None:
        source = self.root / "kaggle" / "src" / "script.py"
        self._process = subprocess.Popen(
            [sys.executable, str(source)], cwd=self.working, env=self._environment(), text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        with self.changed:
            self.started = time.monotonic()
            self.status = "RUNNING"
            self.changed.notify_all()
        readers = [threading.Thread(target=self._read, args=(name, stream), daemon=True)
                   for name, stream in (("stdout", self._process.stdout), ("stderr", self._process.stderr))]
        for reader in readers:
            reader.start()
        try:
            self._process.wait(timeout=self.order.limit_s)
        except subprocess.TimeoutExpired:
            self._cancelled = True
        self._kill()
        for reader in readers:
            reader.join(timeout=60)
        for stream in (self._process.stdout, self._process.stderr):
            stream.close()
        if source.read_text() != self.order.source or len(list(source.parent.iterdir())) != 1:
            self.failure = "OSError: [Errno 30] Read-only file system: '/kaggle/src'"

    def _read(self, name: str, stream: Any) -> None:
        with contextlib.suppress(ValueError):
            for line in stream:
                with self.changed:
                    self.log.append({"stream_name": name, "time": round(time.monotonic() - self.started, 6),
                                     "data": line})
                    self.changed.notify_all()

    def _kill(self) -> None:
        """End the script and everything it started: Kaggle throws the whole container away."""
        if self._process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _lay_out(self) -> None:
        source, image = self.root / "kaggle" / "src", self.root / "image"
        for directory in (source, self.working, self.root / "kaggle" / "input", image / "bin",
                          self.root / "tmp", self.root / "home"):
            directory.mkdir(parents=True)
        (source / "script.py").write_text(self.order.source)
        for mount in self.order.mounts:
            parts = (mount.slug,) if self.order.old_layout else (mount.kind, mount.owner, mount.slug)
            shutil.copytree(mount.directory, self.root.joinpath("kaggle", "input", *parts))
        (image / "kaggle_secrets.py").write_text(KAGGLE_SECRETS)
        (image / "sitecustomize.py").write_text(CLOCK)
        if self.order.gpus:
            smi = image / "bin" / "nvidia-smi"
            smi.write_text(NVIDIA_SMI.format(python=sys.executable, gpus=self.order.gpus))
            smi.chmod(0o755)
        for directory in (source, self.root / "kaggle" / "input"):
            _make_read_only(directory)

    def _environment(self) -> dict[str, str]:
        world = self.order.proxy if self.order.internet else "http://127.0.0.1:9"
        return {
            "PATH": f"{self.root / 'image' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root / "image"), "LANG": "C.UTF-8",
            "HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp"),
            "KAGGLE_RUNNER_ROOT": str(self.root),
            "KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_CONTAINER_NAME": "kaggle_loopback",
            "KAGGLE_URL_BASE": "https://www.kaggle.com", "KAGGLE_DATA_PROXY_URL": "https://dp.kaggle.net",
            "KAGGLE_DATA_PROXY_TOKEN": "planted-data-proxy-token", "KAGGLE_KERNEL_INTEGRATIONS": "",
            "KAGGLE_USER_SECRETS_TOKEN": "planted-user-secrets-token", "KAGGLE_DOCKER_IMAGE": "gcr.io/kaggle-images/x",
            "KAGGLE_GCP_ZONE": "us-central1-a", "KAGGLE_API_V1_TOKEN": str(self.root / "no-such-token"),
            # Kaggle's image is built from Colab's and keeps its marks.
            "COLAB_RELEASE_TAG": "release-colab-external_20260514",
            "http_proxy": world, "https_proxy": world, "HTTP_PROXY": world, "HTTPS_PROXY": world,
            "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost",
            **self.order.environ,
        }


def log_as_json(session: Session) -> str:
    """Return the log in the form Kaggle stores it: one JSON array in a string."""
    return json.dumps(session.log)


def _make_read_only(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
