"""`python -m kaggle_runner`, and the `kaggle-runner` command: the same."""

import os
import sys
from typing import NoReturn

from kaggle_runner.errors import INTERRUPTED


def main() -> NoReturn:
    """Run the command line; a Ctrl-C before anything was begun is one line too."""
    try:
        from kaggle_runner.cli import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted before anything was begun", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # half-imported packages need not be taken down


if __name__ == "__main__":
    main()
