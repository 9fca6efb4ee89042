"""The command line: parse, call one function, print what it returned.

A command imports its modules when it runs, so that `--help` and `detect` start in a blink.
Exit status: 0 done, 1 our error in one block on stderr, 2 wrong usage, 130 interrupted.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import kaggle_runner
from kaggle_runner.errors import KaggleRunnerError

if TYPE_CHECKING:
    from kaggle_runner.environment import Environment
    from kaggle_runner.study import Snapshot
    from kaggle_runner.sweep import SweepSpec

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(kaggle_runner.__version__, prog_name="kaggle_runner")
def cli() -> None:
    """Tune language models on free GPUs."""


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


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def detect(as_json: bool) -> None:
    """Say which machine this is, what it can do, and why."""
    from kaggle_runner.budget import budget_for, describe

    environment = detect_here()
    budget = budget_for(environment)
    if as_json:
        click.echo(json.dumps(environment.as_dict() | {"budget": budget.as_dict()}, indent=2))
        return
    for label, text in describe(environment, budget):
        click.echo(f"{label:<9} {text}")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@sweep_options
def sweep(file: Path, **options: Any) -> None:
    """Run or continue a sweep file with the embedded study."""
    from kaggle_runner.sweep import read_sweep

    run_spec(read_sweep(file), cpu_only=False, **options)


@cli.command("dry-run")
@click.argument("file", type=click.Path(path_type=Path), default=Path("sweeps/demo.yaml"))
@sweep_options
def dry_run(file: Path, **options: Any) -> None:
    """Run a sweep file on this machine's CPU: no account, no network [sweeps/demo.yaml]."""
    from kaggle_runner.sweep import read_sweep

    run_spec(read_sweep(file), cpu_only=True, suffix="-dry-run", **options)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--study", type=click.Path(path_type=Path), help="Directory of the study [studies/NAME].")
@click.option("--cpu", is_flag=True, help="Leave the GPU alone.")
def train(file: Path, study: Path | None, cpu: bool) -> None:
    """Train one configuration, a YAML file of hyperparameters, without a sweep."""
    from kaggle_runner.sweep import read_configuration

    run_spec(read_configuration(file), study=study, cpu_only=cpu)


@cli.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(study: Path, as_json: bool) -> None:
    """Show a study's trials, its best one, and the untouched base."""
    from kaggle_runner.study import read_study

    snapshot = read_study(study)
    if as_json:
        click.echo(json.dumps(snapshot.as_dict(), indent=2))
        return
    from kaggle_runner.tables import trial_table

    click.echo(trial_table(snapshot))
    print_best(snapshot)
    page = study / "report" / "index.html"
    click.echo(f"next     {page if page.exists() else f'python -m kaggle_runner report {study}'}")


@cli.command()
@click.argument("studies", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report [STUDY/report].")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option("--watch", is_flag=True, help="Write the page anew while the sweep runs.")
def report(studies: tuple[Path, ...], out: Path | None, open_page: bool, watch: bool) -> None:
    """Write a study's page, pictures, tables and notebook; several studies stand side by side."""
    from kaggle_runner.report import watch_report, write_report

    pages = watch_report(studies, out=out) if watch else iter(
        [write_report(studies, out=out, notify=lambda text: click.echo(text, err=True))])
    try:
        for number, page in enumerate(pages):
            click.echo(f"page     {page}")
            if open_page and number == 0:
                click.launch(str(page))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


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


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; our own errors become one block on stderr and exit status 1."""
    try:
        return cli.main(args=arguments, prog_name="python -m kaggle_runner")
    except KaggleRunnerError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kaggle_runner"):
            raise
        click.echo(f"error: {error.name} is not installed; run: pip install 'kaggle_runner[local]'", err=True)
        sys.exit(1)
