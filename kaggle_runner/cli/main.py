"""The command line: parse, call one function, print what it returned.

A command imports its modules when it runs, so that `--help` and `detect` start in a blink.
Exit status: 0 done, 1 our error in one block on stderr, 2 wrong usage, 10 to 20 no kernel or no verdict from it
(`errors.Refusal`), 21 no GPU and 22 no internet where a session needs them, 130 interrupted.
"""

import functools
import importlib
import importlib.util
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

import kaggle_runner
from kaggle_runner.cli import sweep
from kaggle_runner.cli.params import GivenPath, StudyText, SweepFile
from kaggle_runner.cli.shared import (
    detect_here,
    keep_best,
    print_best,
    print_next,
    require_pictures,
    run_spec,
    sweep_options,
    typed_command,
)
from kaggle_runner.cli.words import as_typed, complain, say, width_of
from kaggle_runner.errors import INTERRUPTED, KaggleRunnerError, WorkerError
from kaggle_runner.machine.broken import BrokenPackage, find_broken, hide_packages
from kaggle_runner.machine.faults import ERRNOS
from kaggle_runner.sweep.address import is_address, is_there, plain_address

COMPLETE_VARIABLE = "_KAGGLE_RUNNER_COMPLETE"
"""With it a shell asks for completions, and for the script that does so: `bash_source`, `zsh_source`, `fish_source`."""
SHORT_NAME = "kaggle-runner"
"""The program's own name, which a shell can complete; `python -m` belongs to Python."""
FETCH_EVERY_S = 60.0
"""Seconds between two readings of a watched sweep from W&B; each of them asks for every run."""


def at_home(name: str) -> list[Any]:
    """Import a module that a launcher leaves at home; none where this is not home."""
    module = f"kaggle_runner.{name}"
    return [importlib.import_module(module)] if importlib.util.find_spec(module) is not None else []


HELP = at_home("cli.help")


@click.group(cls=HELP[0].Commands if HELP else None, invoke_without_command=True,
             context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(kaggle_runner.__version__, prog_name="kaggle_runner")
@click.pass_context
def cli(context: click.Context) -> None:
    """Tune language models on free GPUs.

    The same command again continues a study, also after a crash or Ctrl-C. Every COMMAND has a --help of its own.
    """
    if context.invoked_subcommand is None:
        click.echo(HELP[0].FIRST_STEPS if HELP else f"{context.get_help()}\n", nl=False)


for command in (*sweep.COMMANDS, *(command for name in ("kernel", "plan", "preview", "lab", "model")
                                   for module in at_home(f"cli.{name}") for command in module.COMMANDS)):
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
        say(label, text, column=9)


@cli.command("dry-run")
@click.argument("file", type=SweepFile(), default=Path("sweeps/demo.yaml"))
@sweep_options
def dry_run(file: Path, **options: Any) -> None:
    """Run a sweep file on this machine's CPU, without an account and without a network [sweeps/demo.yaml]."""
    from kaggle_runner.sweep.spec import read_sweep

    run_spec(read_sweep(file), cpu_only=True, suffix="-dry-run", **options)


@cli.command()
@click.argument("study", type=StudyText())
@click.option("--all", "everything", is_flag=True, help="Print every trial [the 20 best].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(study: str, everything: bool, as_json: bool) -> None:
    """Show a study's trials, its best one, and the untouched base.

    STUDY is a directory, or the address of a database that holds a shared study: postgresql://user@host/database.
    """
    from kaggle_runner.run.shared.fetch import directory_of, is_database
    from kaggle_runner.study.journal import read_study

    snapshot = read_study(directory_of(study, detect_here()) if is_database(study) else Path(study))
    keep_best(snapshot)
    if as_json:
        click.echo(json.dumps(snapshot.as_dict(), indent=2))
        return
    from kaggle_runner.cli.table import next_lines, trial_table

    click.echo(trial_table(snapshot, width=width_of(), everything=everything))
    print_best(snapshot)
    lines = next_lines(snapshot)
    if [label for label, _ in lines] == ["next"]:
        print_next(snapshot, after=lines[0][1])
    else:
        for label, text in lines:
            click.echo(f"{label:<8} {text}")


@cli.command()
@click.argument("studies", nargs=-1, type=StudyText(), required=True)
@click.option("--out", type=GivenPath(), help="Folder of the report [STUDY/report].")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option("--watch", is_flag=True, help="Write the page anew while the sweep runs.")
@click.option("--json", "as_json", is_flag=True, help="Write nothing; print what the report claims as JSON.")
def report(studies: tuple[str, ...], out: Path | None, open_page: bool, watch: bool, as_json: bool) -> None:
    """Write a study's page, pictures, tables and notebook; several studies stand side by side.

    STUDIES are directories, or W&B sweeps by their URL or as entity/project/id, or databases that
    hold a shared study, as postgresql://user@host/database: those are read first.
    """
    from kaggle_runner.run.shared.fetch import is_database

    addresses = [text for text in studies if is_database(text) or _is_sweep(text)]
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
            click.echo(f"page     {as_typed(page)}")
            if open_page and number == 0:
                click.launch(str(page))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _is_sweep(text: str) -> bool:
    """Say whether a text is a sweep on W&B and no path: the URL of its page, or `entity/project/id`.

    W&B's ids have eight letters or digits. What is there, or below a folder that is, is a path.
    """
    there = is_there(text) or is_there(text.split("/")[0] or "/")
    return is_address(text) and ("://" in text or (not there and plain_address(text).count("/") == 2))


def _fetch(address: str) -> Path:
    """Read a sweep from W&B, or a study from a database, into a study of this machine, and return its directory."""
    from kaggle_runner.machine.keys import require_key
    from kaggle_runner.run.shared.fetch import directory_of, is_database

    environment = detect_here()
    if is_database(address):
        return directory_of(address, environment)
    require_key("wandb", environment.host)  # said within a second: what comes next imports W&B's client
    from kaggle_runner.wandb.fetch import fetch_study

    directory = fetch_study(address, environment, notify=lambda text: click.echo(text, err=True))
    click.echo(f"study    {as_typed(directory)}  (read from W&B)")
    return directory


for words in HELP:
    words.add_examples(cli.commands.values())


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; our own errors become one block on stderr and exit status 1, and Ctrl-C is 130."""
    hide_packages()
    name = SHORT_NAME if COMPLETE_VARIABLE in os.environ else "python -m kaggle_runner"
    for variable in [name for name, value in os.environ.items() if name.startswith(("WANDB_", "HF_")) and not value]:
        del os.environ[variable]  # what an empty one means: their libraries try to read it as a number
    os.environ["MPLBACKEND"] = "agg"  # pictures are files here; a notebook's setting names what a plain Python lacks
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # a home that it cannot write is no loss
    try:
        status = cli.main(args=arguments, prog_name=name, complete_var=COMPLETE_VARIABLE, standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        HELP[0].tell_usage(error) if HELP else error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        complain(f"interrupted: nothing that was recorded is lost; go on with: {typed_command() or 'the same command'}")
        sys.exit(INTERRUPTED)
    except KaggleRunnerError as error:
        _start_without_unused(error)
        complain(f"error: {error}{_hint(str(error)) if isinstance(error, WorkerError) else ''}")
        sys.exit(error.exit_status)
    except Exception as error:
        broken = _start_without_unused(error)
        if broken:
            hint = _hint(broken.why, broken.name)
            complain(f"error: {broken.why}{hint}" if hint else f"error: {broken.text}")
        elif isinstance(error, OSError) and error.errno in ERRNOS:  # of what is printed, mostly: files have words
            complain(f"error: a write failed: {error.strerror}; what was recorded is kept, so mend that, and run the "
                     f"same command again")
        elif isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("kaggle_runner"):
            complain(f"error: {error.name} is not installed; run: pip install {error.name}")
        elif hint := _hint(str(error)):
            complain(f"error: {type(error).__name__}: {' '.join(str(error).split())}{hint}")
        else:
            raise
        sys.exit(1)


@functools.cache  # it may try an import in another process
def _hint(text: str, module: str = "") -> str:
    """Say which variable of the environment an error is about, as far as that is known; empty for none."""
    return next((words.hint(text, module) for words in at_home("machine.variables")), "")


def _start_without_unused(error: BaseException) -> BrokenPackage | None:
    """Return the package of others that an error comes from; one that nothing needs is hidden, and all begins again."""
    broken = find_broken(error)
    if broken and not broken.is_needed and not _hint(broken.why, broken.name):
        complain(f"warning: {broken.as_hidden}: the command starts again without it")
        broken.hide()
    return broken
