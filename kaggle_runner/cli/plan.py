"""The command that looks ahead: what a sweep will need, before anything is run."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggle_runner.cli.params import StudyPath, SweepFile
from kaggle_runner.cli.shared import confirming, detect_here, positive, refuse_both
from kaggle_runner.cli.words import complain, say

if TYPE_CHECKING:
    from kaggle_runner.config import FinetuneConfig
    from kaggle_runner.sweep.spec import SweepSpec
    from kaggle_runner.sweep.study_settings import Confirm

UNCOUNTED = "until the rows of the hub are counted; give a study that has read them"
"""Why the length of a training on them is not known."""


@click.command()
@click.argument("file", type=SweepFile())
@click.option("--gpu", help="Plan for this GPU instead of this machine: t4 (a pair), t4x1, l4x4, a100-40, ...")
@click.option("--seconds-per-step", type=float, callback=positive,
              help="Time of a step of the sweep's smallest effective batch [from --study].")
@click.option("--study", type=StudyPath(), help="A study whose finished trials tell the time.")
@click.option("--count", type=click.IntRange(min=1), help="Trials the study shall have in the end [run_cap].")
@click.option("--confirm", metavar="TOPxSEEDS", callback=confirming, help="Confirm the winner so [see sweep].")
@click.option("--no-confirm", is_flag=True, help="Confirm nothing.")
@click.option("--full", is_flag=True, help="Plan the final training of a configuration, or of a study's winner.")
@click.option("--epochs", type=float, callback=positive, help="With --full: passes over the rows [see train].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(file: Path, gpu: str | None, seconds_per_step: float | None, study: Path | None, count: int | None,
         confirm: "Confirm | None", no_confirm: bool, full: bool, epochs: float | None, as_json: bool) -> None:
    """Say what a sweep needs before it runs: memory, and time where something is known of it."""
    if epochs is not None and not full:
        raise click.UsageError("--epochs is for --full; give that too")
    from kaggle_runner.config import FinetuneConfig
    from kaggle_runner.machine.deadline import MARGIN_S, SAVING_S
    from kaggle_runner.machine.gpu_catalogue import known_gpus
    from kaggle_runner.memory.final_plan import plan_final
    from kaggle_runner.memory.fit import memory_limit_of, memory_limit_of_gpu
    from kaggle_runner.memory.plan import SESSION_S, WEEK_S
    from kaggle_runner.memory.plan import plan as plan_sweep
    from kaggle_runner.run.final.full_spec import full_spec
    from kaggle_runner.study.best_file import read_chosen, study_of
    from kaggle_runner.study.journal import read_study
    from kaggle_runner.study.what_next import rows_known
    from kaggle_runner.sweep.spec import read_sweep
    from kaggle_runner.sweep.study_settings import OFF

    source = study_of(file) if full else None
    spec = full_spec(read_chosen(file)[0], epochs) if full else read_sweep(file)
    refuse_both(confirm, no_confirm)
    spec = replace(spec, run_cap=count or spec.run_cap, confirm=OFF if no_confirm else confirm or spec.confirm)
    environment = detect_here()
    limit_s = environment.session_limit_s
    planned, count_of_gpu = known_gpus(gpu) if gpu is not None else (None, len(environment.gpus))
    limit = memory_limit_of_gpu(planned, environment.cache_directory) if planned else memory_limit_of(environment)
    known = study or source
    snapshot = read_study(known) if known else None
    session_s = limit_s - SAVING_S - MARGIN_S if limit_s and gpu is None else None
    gpus = max(1, count_of_gpu)
    found = plan_sweep(spec, limit, seconds_per_step=seconds_per_step, snapshot=snapshot, session_s=session_s,
                       workers=gpus)
    if full:
        config = FinetuneConfig.from_params(spec.fixed)
        rows = _count_rows(config, environment.cache_directory)
        if isinstance(rows, str) and snapshot and (known_rows := rows_known(snapshot, config.dataset)):
            if rows != UNCOUNTED:
                complain(f"warning: {rows}; this is planned by the rows that {known} has read")
            rows = known_rows
        final = plan_final(config, rows, gpus=gpus, seconds_per_step=seconds_per_step, snapshot=snapshot,
                           session_s=session_s or SESSION_S, week_s=WEEK_S)
    if as_json:
        click.echo(json.dumps(found.as_dict() | ({"final": final.as_dict(), "times": None} if full else {}), indent=2))
        return
    for warning in spec.warnings:
        complain(f"warning: {warning}")
    for label, text in found.as_lines(with_time=not full):
        say(label, text, column=9)
    for label, text in final.as_lines() if full else ():
        say(label, text, column=9)
    if full:
        return
    say("rows", _rows_of(file, spec, environment.cache_directory), column=9)


def _count_rows(config: "FinetuneConfig", cache_directory: Path) -> int | str:
    """Count the training rows of a final training; where that cannot be done here, say why."""
    from kaggle_runner.errors import DataError
    from kaggle_runner.training.data.instructions import load_rows
    from kaggle_runner.training.data.sources import is_here

    try:
        if is_here(config):
            return len(load_rows(config, cache_directory=cache_directory).train)
    except DataError as error:
        return str(error)
    return UNCOUNTED


def _rows_of(file: Path, spec: "SweepSpec", cache_directory: Path) -> str:
    """Say in one line what `preview` says of a sweep's rows; those of the hub are left for it to fetch."""
    from kaggle_runner.config import FinetuneConfig
    from kaggle_runner.errors import DataError
    from kaggle_runner.training.data.instructions import load_rows
    from kaggle_runner.training.data.sources import is_here

    command = f"python -m kaggle_runner preview {shlex.quote(str(file))}"
    config = FinetuneConfig.from_params(spec.typical())
    try:
        if not is_here(config):
            return f"{config.dataset} of the hub; see them with {command}"
        data = load_rows(config, cache_directory=cache_directory)
    except DataError as error:
        return f"cannot be used: {error}"
    return f"{data.format}; {data.account.as_line()}; see them with {command}"


COMMANDS = (plan,)
