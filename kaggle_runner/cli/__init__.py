"""The front door: parse, call one function, print."""

import sys

from kaggle_runner.machine.broken import find_broken

try:
    from kaggle_runner.cli.main import main
except Exception as error:  # of what it is made of itself
    if (broken := find_broken(error)) is None:
        raise
    sys.exit(f"error: {broken.text}")

__all__ = ["main"]
