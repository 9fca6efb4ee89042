"""`python -m kaggle_runner`, and the `kaggle-runner` command: the same."""

import os
import sys
from typing import NoReturn

from kaggle_runner.errors import INTERRUPTED


def main() -> NoReturn:
    """Run the command line; a Ctrl-C before anything was begun is one line too."""
    _open_what_is_closed()
    try:
        from kaggle_runner.cli import main as run
    except ImportError as error:  # of what the command line itself is made of
        from kaggle_runner.machine.broken import find_broken

        broken = find_broken(error)
        if broken is None:
            raise
        print(f"error: {broken.text}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        _interrupted()
    try:
        run()
    except KeyboardInterrupt:
        _interrupted()


def _interrupted() -> NoReturn:
    print("interrupted before anything was begun", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)  # half-imported packages need not be taken down


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
