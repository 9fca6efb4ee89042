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
from kaggle_runner.cli.params import SweepFile
from kaggle_runner.cli.shared import continuing, detect_here, run_spec, sweep_options
from kaggle_runner.cli.words import complain, say
from kaggle_runner.errors import INTERRUPTED, KaggleRunnerError, WorkerError
from kaggle_runner.machine.broken import BrokenPackage, find_broken, hide_packages
from kaggle_runner.machine.faults import ERRNOS

COMPLETE_VARIABLE = "_KAGGLE_RUNNER_COMPLETE"
"""With it a shell asks for completions, and for the script that does so: `bash_source`, `zsh_source`, `fish_source`."""
SHORT_NAME = "kaggle-runner"
"""The program's own name, which a shell can complete; `python -m` belongs to Python."""


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


for command in (*sweep.COMMANDS, *(command for name in ("kernel", "plan", "look", "lab", "model")
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
        complain(f"interrupted: nothing that was recorded is lost; go on with: {continuing()}")
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
            _give_up_output()
        elif isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("kaggle_runner"):
            complain(f"error: {error.name} is not installed; run: pip install {error.name}")
        elif hint := _hint(str(error)):
            complain(f"error: {type(error).__name__}: {' '.join(str(error).split())}{hint}")
        else:
            raise
        sys.exit(1)


def _give_up_output() -> None:
    """Leave unsaid what stdout does not take: Python would try once more at its end, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
