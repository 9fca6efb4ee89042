"""The command line: parse, call one function, print what it returned.

A command imports its modules when it runs, so that `--help` and `detect` start in a blink.
Exit status: 0 done, 1 our error in one block on stderr, 2 wrong usage, 10 to 20 no kernel or no verdict from it
(`errors.Refusal`), 21 no GPU and 22 no internet where a session needs them, 130 interrupted.
"""

import importlib
import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import kaggle_runner
from kaggle_runner.cli import preview, sweep
from kaggle_runner.cli.shared import detect_here, keep_best, print_best, require_pictures, run_spec, sweep_options
from kaggle_runner.errors import INTERRUPTED, KaggleRunnerError

FETCH_EVERY_S = 60.0
"""Seconds between two readings of a watched sweep from W&B; each of them asks for every run."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(kaggle_runner.__version__, prog_name="kaggle_runner")
def cli() -> None:
    """Tune language models on free GPUs."""


def _commands_at_home() -> list[click.Command]:
    """Return the commands that a launcher leaves at home, where this is home."""
    modules = [f"kaggle_runner.cli.{name}" for name in ("kernel", "plan", "lab", "model")]
    return [command for name in modules if importlib.util.find_spec(name) is not None
            for command in importlib.import_module(name).COMMANDS]


for command in (*sweep.COMMANDS, *preview.COMMANDS, *_commands_at_home()):
    cli.add_command(command)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def detect(as_json: bool) -> None:
    """Say which machine this is, what it can do, and why."""
    from kaggle_runner.machine.budget import budget_for, describe

    environment = detect_here()
    budget = budget_for(environment)
    if as_json:
        click.echo(json.dumps(environment.as_dict() | {"budget": budget.as_dict()}, indent=2))
        return
    for label, text in describe(environment, budget):
        click.echo(f"{label:<9} {text}")


@cli.command("dry-run")
@click.argument("file", type=click.Path(path_type=Path), default=Path("sweeps/demo.yaml"))
@sweep_options
def dry_run(file: Path, **options: Any) -> None:
    """Run a sweep file on this machine's CPU: no account, no network [sweeps/demo.yaml]."""
    from kaggle_runner.sweep.spec import read_sweep

    run_spec(read_sweep(file), cpu_only=True, suffix="-dry-run", **options)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--study", type=click.Path(path_type=Path), help="Directory of the study [studies/NAME].")
@click.option("--cpu", is_flag=True, help="Leave the GPU alone.")
def train(file: Path, study: Path | None, cpu: bool) -> None:
    """Train one configuration without a sweep.

    FILE is a YAML file of hyperparameters, a trial's config.json, or a study: then its winner is trained.
    """
    from kaggle_runner.study.best_file import read_chosen

    spec, name = read_chosen(file)
    run_spec(replace(spec, name=name), study=study, cpu_only=cpu)


@cli.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(study: Path, as_json: bool) -> None:
    """Show a study's trials, its best one, and the untouched base."""
    from kaggle_runner.study.journal import read_study

    snapshot = read_study(study)
    keep_best(snapshot)
    if as_json:
        click.echo(json.dumps(snapshot.as_dict(), indent=2))
        return
    from kaggle_runner.study.table import trial_table

    click.echo(trial_table(snapshot))
    print_best(snapshot)
    page = study / "report" / "index.html"
    click.echo(f"next     {page if page.exists() else f'python -m kaggle_runner report {study}'}")


@cli.command()
@click.argument("studies", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report [STUDY/report].")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option("--watch", is_flag=True, help="Write the page anew while the sweep runs.")
@click.option("--json", "as_json", is_flag=True, help="Write nothing; print what the report claims as JSON.")
def report(studies: tuple[str, ...], out: Path | None, open_page: bool, watch: bool, as_json: bool) -> None:
    """Write a study's page, pictures, tables and notebook; several studies stand side by side.

    STUDIES are directories, or W&B sweeps by their URL or as entity/project/id: those are read from W&B first.
    """
    addresses = [text for text in studies if _is_sweep(text)]
    directories = [_fetch(text) if text in addresses else Path(text) for text in studies]
    if as_json:
        from kaggle_runner.report.analysis.claims import read_claims

        found = [read_claims(directory) for directory in directories]
        click.echo(json.dumps(found[0] if len(found) == 1 else found, indent=2))
        return
    require_pictures()
    from kaggle_runner.report.lab.write import watch_any_report, write_any_report

    def fetch() -> None:
        for address in addresses:
            _fetch(address)

    pages = watch_any_report(directories, out=out, refresh=fetch, poll_s=FETCH_EVERY_S if addresses else 5.0) if watch \
        else iter([write_any_report(directories, out=out, notify=lambda text: click.echo(text, err=True))])
    try:
        for number, page in enumerate(pages):
            click.echo(f"page     {page}")
            if open_page and number == 0:
                click.launch(str(page))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _is_sweep(text: str) -> bool:
    """Say whether a text is a sweep on W&B and no path: the URL of its page, or `entity/project/id`.

    W&B's ids have eight letters or digits. What is there, or below a folder that is, is a path.
    """
    if "://" in text:
        return "/sweeps/" in text
    there = Path(text).exists() or Path(text.split("/")[0] or "/").exists()
    return not there and re.fullmatch(r"[\w.-]+/[\w.-]+/[a-z0-9]{8}", text) is not None


def _fetch(address: str) -> Path:
    """Read a sweep from W&B into a study of this machine, and return its directory."""
    from kaggle_runner.machine.keys import require_key

    environment = detect_here()
    require_key("wandb", environment.host)  # said within a second: what comes next imports W&B's client
    from kaggle_runner.wandb.fetch import fetch_study

    directory = fetch_study(address, environment, notify=lambda text: click.echo(text, err=True))
    click.echo(f"study    {directory}  (read from W&B)")
    return directory


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
