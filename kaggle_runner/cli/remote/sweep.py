"""A sweep file made a sweep of W&B's: its points chosen by W&B, or by this process for as long as it runs."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kaggle_runner.cli.shared import (
    confirm_of,
    continuing,
    detect_here,
    directory_of,
    print_next,
    print_page,
    print_study,
    refuse_both,
    require,
    typed_command,
    warn_of_no_page,
)
from kaggle_runner.cli.words import command, complain, say
from kaggle_runner.errors import INTERRUPTED
from kaggle_runner.sweep.spec import SweepSpec, read_start
from kaggle_runner.sweep.study_settings import OFF, Confirm

SEARCH_PACKAGES = ("optuna", "numpy", "scipy")
"""What chooses points; trials are trained elsewhere."""

OF_SEARCH = ("count", "study", "seed", "deadline", "confirm", "no_confirm", "prior_studies", "start", "adopt",
             "no_early_end")
"""What is for a search that runs here, wherever its trials do."""
OF_TRIALS = ("no_pruning", "log", "cpu", "storage", "lease", "checkpoints")
"""What is for trials that run here."""
OF_AGENTS = ("count", "study", "deadline", "confirm", "no_pruning", "cpu")
"""What of these an agent takes, too."""
ONLY_WANDB = ("entity", "search", "agents", "prior_runs")


def refuse_misplaced(backend: str, project: str | None, given: Mapping[str, Any]) -> None:
    """Refuse options that say nothing to whoever chooses the points, or to whoever trains."""
    unused: tuple[str, ...] = ONLY_WANDB
    other = "is W&B's; give it with --backend wandb"
    if backend == "wandb" and given["search"]:
        unused = (*OF_TRIALS, "prior_runs")
        other = "is not for a sweep whose points are chosen here and whose trials agents train; leave it out"
    elif backend == "wandb":
        unused = (*OF_SEARCH, *OF_TRIALS, "agents")
        other = "is for trials that run here; give it to `agent`, or to --backend optuna"
        if only_here := [name for name in unused if given[name] and name not in OF_AGENTS]:
            unused = tuple(only_here)
            other = "is for trials that run here, and no agent takes it; leave it out, or give --backend optuna"
    misplaced = [name for name in unused if given[name]]
    if backend == "optuna" and project and not given["log"] and not misplaced:
        misplaced, other = ["project"], f"{other} or --log wandb-offline"
    if misplaced:
        raise click.UsageError(f"{', '.join(f'--{_typed(name)}' for name in misplaced)} {other}")


def _typed(name: str) -> str:
    return name.replace("prior_studies", "prior-study").replace("_", "-")


def create(spec: SweepSpec, entity: str | None, project: str | None, prior_runs: list[str]) -> None:
    """Create a sweep on W&B and print how to start its agents, in the ways that this command line has."""
    from kaggle_runner.machine.keys import require_key

    for warning in spec.warnings:
        complain(f"warning: {warning}")
    environment = detect_here()
    require_key("wandb", environment.host)
    from kaggle_runner.wandb.sweep import create_sweep

    made = create_sweep(spec, environment, entity=entity, project=project, prior_runs=prior_runs)
    click.echo(f"sweep    {made.path}\npage     {made.url}")
    _print_agents(made.path)


def run_here(spec: SweepSpec, *, entity: str | None, project: str | None, agents: int, study: Path | None,
             count: int | None, seed: int | None, deadline: str | None, confirm: Confirm | None, no_confirm: bool,
             prior_studies: tuple[Path, ...], start: Path | None, adopt: bool, no_early_end: bool,
             no_pruning: bool) -> None:
    """Choose the points of a sweep on W&B, and print what its agents made of them."""
    require(SEARCH_PACKAGES, "local")
    require(("wandb",), "wandb")
    refuse_both(confirm, no_confirm)
    from kaggle_runner.cli.progress import display
    from kaggle_runner.machine.deadline import find_deadline
    from kaggle_runner.machine.keys import require_key
    from kaggle_runner.run.confirm import why_unconfirmed
    from kaggle_runner.run.local_sweep import SweepOrder
    from kaggle_runner.wandb.here.search_here import HereOrder, search_here

    for warning in spec.warnings:
        complain(f"warning: {warning}")
    environment = detect_here()
    require_key("wandb", environment.host)
    directory = study or directory_of(spec.name, environment)
    asked, trials = confirm_of(spec, directory, count, OFF if no_confirm else confirm, adopt)
    order = HereOrder(agents=agents, confirm=asked, entity=entity, project=project, local=SweepOrder(
        directory=directory, count=trials, seed=seed, deadline=find_deadline(deadline, environment, os.environ),
        prior_studies=prior_studies, start=read_start(start, spec, complain) if start else None, adopts=adopt,
        stops_early=not no_early_end))
    warn_of_no_page()
    with display(typed_command()) as notify:
        run = search_here(spec, order, environment, notify)
    page = print_study(run.snapshot, run.reason)
    if why := f"not done: {run.unconfirmed}" if run.unconfirmed else "" if run.is_unfinished else why_unconfirmed(
            run.snapshot, asked):
        say("confirm", why)
    click.echo(f"sweep    {run.sweep.url}")
    if run.is_unfinished:
        if run.away:
            say("away", run.away)
        _print_agents(run.sweep.path)
        click.echo(f"next     {continuing()}")
    else:
        print_next(run.snapshot)
    print_page(page)
    if run.is_unfinished:
        sys.exit(INTERRUPTED)
    if run.snapshot.best is None:
        sys.exit(1)


def _print_agents(path: str) -> None:
    click.echo(f"here     {command('agent', path)}")
    click.echo(f"kaggle   {command('push', path)}")
    click.echo(f"colab    {command('kernel', 'launcher', path)}")
