"""The commands of the tuning lab: vary, tune, archive, archived, restore."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from kaggle_runner.cli.look import require_pictures
from kaggle_runner.cli.params import GivenPath, StudyPath, SweepFile
from kaggle_runner.cli.shared import (
    continuing,
    detect_here,
    directory_of,
    refuse_among_rows,
    tell_launcher,
    typed_command,
)
from kaggle_runner.cli.table import Column, block_of, row_lines, width_needed
from kaggle_runner.cli.words import as_typed, command, flowing, say, width_of
from kaggle_runner.errors import INTERRUPTED
from kaggle_runner.study.near import LAB

if TYPE_CHECKING:
    from kaggle_runner.lab.contest import LabOrder
    from kaggle_runner.machine.environment import Environment

@click.command()
@click.argument("file", type=SweepFile("vary"))
@click.option("--study", type=StudyPath(), help="Directory of the study [studies/NAME].")
@click.option("--deadline", help="End by then: 8h, 90m, or 2026-01-31T23:30 [the host's limit].")
@click.option("--cpu", is_flag=True, help="Leave the GPU alone.")
def vary(file: Path, study: Path | None, deadline: str | None, cpu: bool) -> None:
    """Run or continue a one-at-a-time study: one hyperparameter, every value with the same seeds."""
    from kaggle_runner.cli.progress import display
    from kaggle_runner.files import write_atomically
    from kaggle_runner.lab.contest import run_contest
    from kaggle_runner.lab.summary import decision_json, study_summary
    from kaggle_runner.lab.vary import read_vary

    spec, environment = read_vary(file), detect_here()
    require_pictures()
    directory = study or directory_of(spec.name, environment)
    refuse_among_rows(directory, spec.baseline.get("dataset"))
    with display(typed_command()) as notify:
        run = run_contest(spec, _order(directory, deadline, cpu, environment, spec.baseline), environment, notify)
    if run.decision is None:
        _say_unfinished(directory, run.reason)
    from kaggle_runner.report.lab.write import write_contest_plots, write_study_page

    text = study_summary(spec, run.snapshot, run.decision)
    write_contest_plots(spec, run.snapshot, run.decision, directory / "plots")
    write_atomically(directory / "summary.md", text)
    write_atomically(directory / "decision.json", decision_json(run.decision))
    click.echo(as_text(text, width_of()))
    page = as_typed(write_study_page(directory))
    click.echo(f"study    {directory}\nplots    {directory / 'plots'}\npage     {page}")
    tell_launcher(run.decision.reason, 0)


@click.command()
@click.argument("plan", type=SweepFile("studies"))
@click.option("--out", type=GivenPath(), help="Folder of the plan's studies [hyperparameter_tuning].")
@click.option("--deadline", help="End by then: 8h, 90m, or 2026-01-31T23:30 [the host's limit].")
@click.option("--cpu", is_flag=True, help="Leave the GPU alone.")
def tune(plan: Path, out: Path | None, deadline: str | None, cpu: bool) -> None:
    """Run or continue a tuning plan: studies of one hyperparameter each, then a Bayesian sweep."""
    from kaggle_runner.cli.progress import display
    from kaggle_runner.lab.plan import read_plan
    from kaggle_runner.lab.run_plan import run_plan

    read, environment = read_plan(plan), detect_here()
    require_pictures()
    from kaggle_runner.report.lab.write import present_stage, write_plan_page

    directory = out or as_typed(environment.writable_directory / LAB)
    refuse_among_rows(directory, read.baseline.get("dataset"))
    with display(typed_command()) as notify:
        order = _order(directory, deadline, cpu, environment, read.baseline)
        run = run_plan(read, order, environment, notify, present_stage)
    click.echo(as_text((directory / "summary.md").read_text(encoding="utf-8"), width_of()))
    click.echo(f"page     {as_typed(write_plan_page(directory))}")
    if run.reason:
        _say_unfinished(directory, run.reason)
    click.echo(f"studies  {directory}\ndefaults {directory / 'defaults.yaml'}\n"
               f"next     {command('train', directory / 'defaults.yaml')}")
    tell_launcher("every study of the plan is done", 0)


@click.command()
@click.argument("study", type=StudyPath())
@click.option("--reason", required=True, help="Why it no longer counts, for whoever finds it later.")
@click.option("--force", is_flag=True, help="Also where defaults and later studies depend on it.")
def archive(study: Path, reason: str, force: bool) -> None:
    """Move a study out of the way, whole, with its reason; it is never counted again."""
    from kaggle_runner.lab.archive import archive_study

    moved = archive_study(study, reason, force=force)
    click.echo(f"archived {as_typed(moved.directory)}")
    for text in moved.depended:
        click.echo(f"depended {text}")
    click.echo(f"back     {command('restore', moved.directory)}")


@click.command()
@click.argument("directory", type=GivenPath(), default=Path(LAB))
def archived(directory: Path) -> None:
    """List what was archived from a folder of studies [hyperparameter_tuning]."""
    from kaggle_runner.lab.archive import archived_studies

    found = archived_studies(directory)
    for study in found:
        click.echo(f"{study.date}  {as_typed(study.directory)}  {study.reason}")
    if found:
        click.echo(f"back     {command('restore', found[-1].directory)}")
    else:
        there = "" if directory.is_dir() else ": there is no such folder"
        click.echo(f"nothing was archived from {directory}{there}")


@click.command()
@click.argument("study", type=StudyPath())
def restore(study: Path) -> None:
    """Move an archived study back to where it was."""
    from kaggle_runner.lab.archive import restore_study

    back = restore_study(study)
    click.echo(f"restored {as_typed(back)}\nnext     {command('show', back)}")


COMMANDS = (vary, tune, archive, archived, restore)


def _order(directory: Path, deadline: str | None, cpu: bool, environment: "Environment",
           baseline: Mapping[str, Any]) -> "LabOrder":
    from kaggle_runner.lab.contest import LabOrder
    from kaggle_runner.machine.deadline import find_deadline
    from kaggle_runner.machine.internet import require_fetched
    from kaggle_runner.mounts import fetched

    environment.for_training(cpu_only=cpu)
    # no study has models or rows of its own
    require_fetched(fetched(baseline), environment.host, environment.cache_directory, os.environ)
    return LabOrder(directory=directory, cpu_only=cpu, deadline=find_deadline(deadline, environment, os.environ))


def as_text(markdown: str, width: int | None) -> str:
    """Return the words of a summary without its marks, for a terminal; no line is longer than `width`."""
    blocks = []
    for block in markdown.strip().split("\n\n"):
        if block.startswith("|"):
            header, _, *rows = [[_unmarked(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
                                for line in block.split("\n")]
            columns = [Column(name=name, cells=cells) for name, cells in
                       zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True)]
            is_wide = width is not None and width_needed(columns) > width
            blocks.append("\n".join(line for i in range(len(rows)) for line in block_of(columns, i, width or 0))
                          if is_wide else "\n".join(row_lines(columns)))
        elif block.startswith("#"):
            title = _unmarked(block.lstrip("#"))
            blocks.append(f"{title}\n{('=' if block.startswith('# ') else '-') * min(len(title), width or len(title))}")
        else:
            blocks.append(flowing(_unmarked(block), width, hanging=2 if block.startswith("- ") else 0))
    return "\n\n".join(blocks) + "\n"


def _unmarked(text: str) -> str:
    """Return a cell or a paragraph of Markdown without its marks for bold, code and what is meant as written."""
    return re.sub(r"\\(.)", r"\1", re.sub(r"\*\*(.+?)\*\*|(?<!\\)`([^`]+)`", r"\1\2", text)).strip()


def _say_unfinished(directory: Path, reason: str) -> NoReturn:
    say("studies", f"{directory} ({reason})")
    say("next", continuing())
    tell_launcher(reason, INTERRUPTED)
    sys.exit(INTERRUPTED)
