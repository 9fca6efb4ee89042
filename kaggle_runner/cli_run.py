"""What the commands that run trials share: their options, the machine they run on, and how an ending is printed."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kaggle_runner.environment import Environment
    from kaggle_runner.study import Snapshot
    from kaggle_runner.sweep import SweepSpec

INTERRUPTED = 130


def sweep_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that every command that runs trials has."""
    for option in (
        click.option("--count", type=click.IntRange(min=1), help="Trials the study shall have in the end [run_cap]."),
        click.option("--study", type=click.Path(path_type=Path), help="Directory of the study [studies/NAME]."),
        click.option("--seed", type=click.IntRange(min=0), help="Seed of the search [0]."),
        click.option("--deadline", help="End by then: 8h, 90m, or 2026-01-31T23:30 [the host's limit]."),
        click.option("--no-pruning", is_flag=True, help="Train every trial to its end."),
    ):
        command = option(command)
    return command


def run_spec(spec: "SweepSpec", *, study: Path | None, cpu_only: bool, count: int | None = None,
             seed: int | None = None, deadline: str | None = None, no_pruning: bool = False, suffix: str = "") -> None:
    """Run a sweep with the embedded study and print the table, the best trial and where everything is."""
    for warning in spec.warnings:
        click.echo(f"warning: {warning}", err=True)
    from kaggle_runner.embedded_sweep import SweepOrder, run_embedded
    from kaggle_runner.progress import display
    from kaggle_runner.session import find_deadline
    from kaggle_runner.tables import trial_table

    environment = detect_here()
    directory = study or environment.writable_directory / "studies" / f"{spec.name}{suffix}"
    order = SweepOrder(directory=directory, count=count, seed=seed, cpu_only=cpu_only, pruning=not no_pruning,
                       deadline=find_deadline(deadline, environment, os.environ))
    with display() as notify:
        run = run_embedded(spec, order, environment, notify)
    click.echo(trial_table(run.snapshot))
    print_best(run.snapshot)
    click.echo(f"study    {directory}  ({run.reason})")
    if run.snapshot.finished:
        from kaggle_runner.report import write_page
        from kaggle_runner.report_png import draw_overview

        page = write_page([directory])
        picture = page.with_name("overview.png")
        draw_overview(run.snapshot, picture)
        click.echo(f"picture  {picture}\npage     {page}")
    click.echo("next     " + ("run the same command again to continue" if run.interrupted else
                              f"python -m kaggle_runner report {directory}"))
    if run.interrupted:
        sys.exit(INTERRUPTED)
    if run.gave_up or run.snapshot.best is None:
        sys.exit(1)


def print_best(snapshot: "Snapshot") -> None:
    """Print the best trial, its hyperparameters and what it gained over the untouched base."""
    from kaggle_runner.tables import best_lines

    for label, text in best_lines(snapshot):
        click.echo(f"{label:<8} {text}")


def detect_here() -> "Environment":
    """Detect this machine; `KAGGLE_RUNNER_ROOT` stands for `/` in tests."""
    from kaggle_runner.environment import detect as detect_environment

    return detect_environment(os.environ, Path(os.environ.get("KAGGLE_RUNNER_ROOT", "/")))
