"""`python -m kaggle_runner`, and the `kaggle-runner` command: the same."""

import faulthandler
import os
import sys
from typing import NoReturn

from kaggle_runner.errors import INTERRUPTED


def main() -> NoReturn:
    """Run the command line; a Ctrl-C before anything was begun is one line too."""
    _open_what_is_closed()
    faulthandler.enable()  # a package that crashes as it is imported leaves at least its name
    try:
        from kaggle_runner.cli import main as run

        run()
    except KeyboardInterrupt:
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
