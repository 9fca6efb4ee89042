"""The `kaggle` program: run it as a subprocess and understand what it says.

Its exit status does not say enough: it is 0 for a push that the server refused, and 1 for all else that goes wrong.
Importing it instead would log in at once. Reading what it said is apart from running it, and pure.
Source: kaggle/api/kaggle_api_extended.py of 2.2.4 and 2.2.5, and runs of both.
"""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kaggle_runner.errors import KernelError, MissingPackages, Refusal

TIMEOUT_S = 600.0
WARNING = "Warning: Looks like you're using an outdated `kaggle`"
"""Beginning of the program's warnings, which stand on stdout above the answer; `-W` prevents them, but not where a
token is checked at the start."""
ENDED_STATES = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")
WAITING_STATES = ("QUEUED", "NEW_SCRIPT")

UNREACHABLE = re.compile(r"ConnectionError|ProxyError|SSLError|RemoteDisconnected|ChunkedEncodingError|NameResolution"
                         r"|Max retries exceeded|Connection (?:aborted|refused|reset)|timed out|Too Many Requests"
                         r"|Temporary failure in name|internal server error|(?:429 Client|50[0234] Server) Error",
                         re.IGNORECASE)
NO_ACCESS = re.compile(r"Authentication required|401 Client Error|Unauthenticated|Invalid credentials", re.IGNORECASE)
NO_ACCOUNT = ("Kaggle knows no such account: no credentials, or wrong ones; run: kaggle auth login, or set "
              "KAGGLE_API_TOKEN to a token of your Kaggle settings page")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one run of the program said."""

    exit_status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """Everything it said, for a search."""
        return f"{self.stdout}\n{self.stderr}"

    @property
    def is_denied(self) -> bool:
        """Whether Kaggle has no such thing, or none for this account; a 404 inside a port or an address is none."""
        return bool(re.search(r"denied|\b404\b", self.text)) and not UNREACHABLE.search(self.text)


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A version that Kaggle took."""

    ref: str
    """`owner/slug` as Kaggle printed it: it can differ from what was asked for."""
    version: int
    url: str


@dataclass(frozen=True, kw_only=True)
class State:
    """How a kernel's newest session stands."""

    status: str
    """QUEUED, RUNNING, COMPLETE, ERROR, CANCEL_REQUESTED, CANCEL_ACKNOWLEDGED or NEW_SCRIPT."""
    failure: str = ""

    @property
    def text(self) -> str:
        """The status in words."""
        return self.status.lower().replace("_", " ")

    @property
    def has_ended(self) -> bool:
        """Whether the state will not change any more."""
        return self.status in ENDED_STATES

    @property
    def is_waiting(self) -> bool:
        """Whether the kernel has not begun to run."""
        return self.status in WAITING_STATES


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Hours of an accelerator in this week."""

    used_h: float
    remaining_h: float
    total_h: float
    refresh: str
    """When the week begins anew, as Kaggle prints it."""


@dataclass(frozen=True, kw_only=True)
class Kaggle:
    """The program, and the environment it runs in."""

    program: Path
    environ: Mapping[str, str]

    def run(self, *arguments: str, timeout_s: float = TIMEOUT_S) -> Answer:
        """Run one command to its end.

        Raises:
            KernelError: it cannot be started, or did not answer in time.
        """
        try:
            ran = subprocess.run(self.command(*arguments), env=dict(self.environ), stdin=subprocess.DEVNULL,
                                 capture_output=True, text=True, errors="replace", timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise KernelError(Refusal.NETWORK, f"kaggle {arguments[0]} {arguments[1]} did not answer in "
                                               f"{timeout_s:.0f} s; look at the network and try again") from error
        except OSError as error:
            raise KernelError(Refusal.OTHER, f"the kaggle program {self.program} cannot be started: {error.strerror}; "
                                             f"install it again with: pip install --force-reinstall kaggle, or name "
                                             f"another one with KAGGLE_RUNNER_KAGGLE") from error
        lines = [line for line in ran.stdout.splitlines(keepends=True) if not line.startswith(WARNING)]
        return Answer(exit_status=ran.returncode, stdout="".join(lines), stderr=ran.stderr)

    def command(self, *arguments: str) -> list[str]:
        """Write the command line that `run` runs."""
        return [str(self.program), "-W", *arguments]


def find_kaggle(environ: Mapping[str, str], python: Path = Path(sys.executable)) -> Kaggle:
    """Find the program: the one KAGGLE_RUNNER_KAGGLE names, else the one beside this Python, else the first on PATH.

    Raises:
        MissingPackages: there is none.
    """
    beside = python.parent / "kaggle"
    found = environ.get("KAGGLE_RUNNER_KAGGLE") or (str(beside) if beside.exists() else None) or shutil.which(
        "kaggle", path=environ.get("PATH"))
    if found is None:
        raise MissingPackages(["kaggle", "six"], "kaggle")
    return Kaggle(program=Path(found), environ=environ)


def read_push(answer: Answer) -> Pushed:
    """Read the answer to `kernels push`.

    Raises:
        KernelError: refused, or taken without one of its inputs.
    """
    if error := re.search(r"Kernel push error: (.*)", answer.stdout):
        _refuse_push(error[1].strip())
    taken = re.search(r"Kernel version (\d+) successfully \w.*?(https?://\S+)", answer.stdout)
    if answer.exit_status or taken is None:
        refuse(answer, "push")
    owner, slug = taken[2].split("?")[0].rstrip("/").split("/")[-2:]
    pushed = Pushed(ref=f"{owner}/{slug}", version=int(taken[1]), url=taken[2])
    dropped = re.findall(r"not valid (\w+) sources and could not be added to the kernel: \[(.*)\]", answer.stdout)
    if dropped:
        names = "; ".join(f"{kind} {names}" for kind, names in dropped)
        raise KernelError(Refusal.SOURCE, f"Kaggle left out {names} and runs {pushed.ref} without: unknown, not yours, "
                                          f"or still being processed; end it with: kaggle kernels delete -y "
                                          f"{pushed.ref}, correct the source or wait for it, and push again")
    return pushed


def read_state(answer: Answer) -> State:
    """Read the answer to `kernels status`.

    Raises:
        KernelError: no such kernel, or as `refuse`.
    """
    found = re.search(r'has status "(?:KernelWorkerStatus\.)?(\w+)"', answer.stdout)
    if answer.exit_status or found is None:
        refuse(answer, "status")
    failure = re.search(r'Failure message: "(.*)"', answer.stdout, re.DOTALL)
    return State(status=found[1], failure=failure[1] if failure else "")


def read_quota(answer: Answer) -> Quota | None:
    """Read the GPU's line of `quota --format json`; none where the program or the server has no answer."""
    try:
        rows = json.loads(answer.stdout[answer.stdout.index("["):])
        row = next(row for row in rows if row["resource"] == "GPU")
        used_h, remaining_h, total_h = (float(row[name].rstrip("h")) for name in ("used", "remaining", "total"))
    except (ValueError, KeyError, StopIteration, TypeError, AttributeError):
        return None
    return Quota(used_h=used_h, remaining_h=remaining_h, total_h=total_h, refresh=str(row.get("refreshAt", "")))


def read_kernels(answer: Answer) -> tuple[tuple[str, str], ...]:
    """Read `kernels list -m --csv`: each kernel's ref and the time of its last run; empty where there is no answer."""
    rows = csv.DictReader(io.StringIO(answer.stdout)) if not answer.exit_status else ()
    return tuple((row["ref"], row.get("lastRunTime") or "") for row in rows if "/" in (row.get("ref") or ""))


def read_owner(answer: Answer) -> str:
    """Read the account's name from `config view`.

    Raises:
        KernelError: no credentials.
    """
    found = re.search(r"^- username: *(\S+)", answer.stdout, re.MULTILINE)
    if answer.exit_status:
        refuse(answer, "config view")
    if found is None or found[1] == "None":
        raise KernelError(Refusal.ACCESS, NO_ACCOUNT)
    return found[1]


def refuse(answer: Answer, command: str) -> NoReturn:
    """Raise what a failed command means.

    Raises:
        KernelError: always; its kind is read from what was said.
    """
    text, last = answer.text, _last_line(answer)
    if NO_ACCESS.search(text):
        raise KernelError(Refusal.ACCESS, NO_ACCOUNT)
    if UNREACHABLE.search(text):
        raise KernelError(Refusal.NETWORK, f"Kaggle cannot be reached: {last[:200]}; look at the network and try again")
    if "less than 1 megabytes" in text:
        raise KernelError(Refusal.TOO_LARGE, "Kaggle refuses a source over 1 MB; leave out large files, or mount them "
                                             "as a dataset")
    if "No module named 'six'" in text:
        raise MissingPackages(["six"], "kaggle")
    if re.search(r"409 Client Error|\bConflict\b", text):
        raise KernelError(Refusal.NAME, "the account has another kernel with this title; choose another title")
    if "was denied" in text or re.search(r"40[34] Client Error", text):
        raise KernelError(Refusal.NAME, f"kaggle {command}: no such kernel, or not one that this account may see, or "
                                        f"wrong credentials, which look the same; compare with: kaggle kernels list -m")
    raise KernelError(Refusal.OTHER, f"kaggle {command} failed with status {answer.exit_status}: {last}")


def _refuse_push(said: str) -> NoReturn:
    if "session count" in said:
        raise KernelError(Refusal.CAPACITY, f"Kaggle says: {said} Wait for one to end, or end one on its page or with: "
                                            f"kaggle kernels delete OWNER/KERNEL")
    if "quota" in said.lower():
        raise KernelError(Refusal.QUOTA, f"Kaggle says: {said.rstrip('.')}; wait for the next week, which `kaggle "
                                         f"quota` names, or push without a GPU")
    if "not found" in said.lower():
        raise KernelError(Refusal.NAME, f"Kaggle says: {said}; the kernel's id must begin with your own account: give "
                                        f"it with --owner")
    raise KernelError(Refusal.OTHER, f"Kaggle says: {said}")


def _last_line(answer: Answer) -> str:
    """The line that says most: of a traceback the last, of a message with hints below it the first."""
    lines = [line for line in f"{answer.stdout}\n{answer.stderr}".splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(?:Error|Exception)\b", line)]
    if errors:
        return errors[-1].strip()
    said = [line for line in answer.stderr.splitlines() if line.strip()] or lines
    return said[0].strip() if said else "it said nothing"


def find_owner(kaggle: Kaggle) -> str:
    """Ask the program for the account's name.

    Raises:
        KernelError: no credentials.
    """
    return read_owner(kaggle.run("config", "view"))


def gpu_quota(kaggle: Kaggle) -> Quota | None:
    """Ask for this week's GPU hours; none where Kaggle or the program has no answer.

    Raises:
        KernelError: no credentials.
    """
    answer = kaggle.run("quota", "--format", "json")
    try:
        return read_quota(answer) if answer.exit_status == 0 else refuse(answer, "quota")
    except KernelError as error:
        if error.refusal is Refusal.ACCESS:
            raise
        return None
