"""`python -m kaggle_runner`: the same as the `kaggle-runner` command."""

from kaggle_runner.cli import main

main()
