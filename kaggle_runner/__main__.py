"""`python -m kaggle_runner`, and the `kaggle-runner` command: the same."""

import contextlib
import faulthandler
import os
import signal
import sys
from typing import NoReturn

from kaggle_runner.errors import INTERRUPTED


def main() -> NoReturn:
    """Run the command line; Ctrl-C and SIGTERM are a word and a status of their own from its first moment to its last.

    What has sessions of its own, as a sweep and an agent have, handles signals in the place of these.
    """
    if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
        del sys.path[0]  # the current folder: what a user keeps there, as random.py, is not what a library imports
    _open_what_is_closed()
    faulthandler.enable()  # a package that crashes as it is imported leaves at least its name
    words = "interrupted before anything was begun"
    try:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        from kaggle_runner.cli import main as run

        words = "interrupted"
        run()
    except SystemExit as end:
        _settle(end.code if isinstance(end.code, int) else 1)
        raise
    except KeyboardInterrupt:
        print(words, file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # half-imported packages need not be taken down


def _settle(status: int) -> None:
    """Have a signal end what is left of the process with the status that is settled: nothing remains to be lost."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(status))
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()


def _open_what_is_closed() -> None:
    """Open those of stdin, stdout and stderr that the caller closed: the next file would get the number of one."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != fd:
                os.dup2(nowhere, fd)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))


if __name__ == "__main__":
    main()
