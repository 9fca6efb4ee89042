"""The front door: parse, call one function, print."""

from kaggle_runner.cli.main import main

__all__ = ["main"]
