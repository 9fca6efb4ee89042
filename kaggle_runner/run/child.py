"""A Python process of ours that answers in events: started with this package on its path, and gone when we say so."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO

import kaggle_runner
from kaggle_runner.errors import ProtocolError
from kaggle_runner.events import Event, Failed, read_event


def package_path(environ: Mapping[str, str]) -> str:
    """Return a PYTHONPATH on which a child finds this very package, wherever it was unpacked."""
    return os.pathsep.join([str(Path(kaggle_runner.__file__).parent.parent),
                            environ.get("PYTHONPATH", "")]).strip(os.pathsep)


class ChildProcess:
    """A process in a session of its own, so that Ctrl-C goes to its parent alone, which decides; or in its parent's.

    It gets lines on stdin and tells events on stdout, one in a line; each goes to `take`, in a thread, and then none
    when it has closed its end. A line that is no event becomes a `Failed` that shows it.
    """

    def __init__(self, module: str, *, environ: Mapping[str, str], take: Callable[[Event | None], None],
                 stderr: IO[bytes] | None = None, cores: Collection[int] | None = None,
                 own_session: bool = True) -> None:
        self._take = take
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            env=dict(environ), text=True, encoding="utf-8", start_new_session=own_session)
        if cores:
            os.sched_setaffinity(self.pid, cores)
        self._reader = threading.Thread(target=self._read, name=f"{module.rsplit('.', 1)[1]}-{self.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id, also of its session and process group."""
        return self._process.pid

    def send(self, line: str) -> None:
        """Send one line.

        Raises:
            BrokenPipeError: there is nobody to read it.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except ValueError as error:  # closed
            raise BrokenPipeError(str(error)) from error

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float | None = None) -> int:
        """Return the exit status, negative for a signal; one that closed its pipe and lives on is killed in the end."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def close(self, grace_s: float) -> None:
        """End it: by closing its input, then by force; returns when it is gone."""
        self._close_input()
        self.wait(grace_s)

    def kill(self) -> None:
        """End it and everything it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._close_input()
        self._process.wait()

    def join(self) -> None:
        """Wait until everything that it told was taken."""
        self._reader.join()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                if not line.endswith("\n"):  # it died in the middle of it
                    continue
                try:
                    event = read_event(line)
                except ProtocolError as error:
                    event = Failed(failure="error", message=str(error))
                self._take(event)
        self._take(None)
