"""The commands that train: run a sweep here or create it on W&B, be an agent of one."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggle_runner.cli.params import GivenPath, StudyPath, SweepFile
from kaggle_runner.cli.shared import (
    confirming,
    continuing,
    detect_here,
    positive,
    print_next,
    print_page,
    print_study,
    require,
    run_spec,
    sweep_options,
    tell_launcher,
    warn_of_no_page,
)
from kaggle_runner.cli.words import as_typed, complain, say
from kaggle_runner.errors import INTERRUPTED, SweepOver
from kaggle_runner.wording import how_many, without_password

if TYPE_CHECKING:
    from kaggle_runner.machine.environment import Environment
    from kaggle_runner.run.shared.order import SharedOrder
    from kaggle_runner.study.journal import Snapshot
    from kaggle_runner.sweep.study_settings import Confirm
    from kaggle_runner.wandb.order import AgentOrder

@click.command()
@click.argument("file", type=SweepFile())
@sweep_options
@click.option("--backend", type=click.Choice(["optuna", "wandb"]), default="optuna",
              help="Who chooses the trials: Optuna, here and now, or W&B, for agents [optuna].")
@click.option("--project", help="W&B project [the file's, else kaggle_runner].")
@click.option("--entity", help="W&B user or team [the file's, else the key's].")
@click.option("--prior-runs", multiple=True, metavar="RUN", help="Finished runs of the project to learn from.")
@click.option("--search", type=click.Choice(["here"]),
              help="With --backend wandb: this process chooses the points, agents anywhere train them.")
@click.option("--agents", type=click.IntRange(min=1), metavar="N",
              help="With --search here: trials that are out at a time [1].")
@click.option("--storage", metavar="URL", help="Share the search with other machines, in a database: "
              "postgresql://user@host/database.")
@click.option("--lease", type=float, callback=positive, metavar="SECONDS",
              help="Without a sign of life for so long a machine's trial goes to another [120].")
@click.option("--checkpoints", type=GivenPath(), metavar="DIR",
              help="A folder that all machines see; a trial goes on there where another machine left it.")
@click.option("--cpu", is_flag=True, help="Leave the GPU alone; on Kaggle and Colab the only way to a CPU.")
@click.option("--log", type=click.Choice(["wandb-offline"]), help="Write the trials as W&B runs for `wandb sync`.")
def sweep(file: Path, backend: str, project: str | None, entity: str | None, prior_runs: tuple[str, ...],
          search: str | None, agents: int | None, log: str | None, cpu: bool, storage: str | None,
          lease: float | None, checkpoints: Path | None, **options: Any) -> None:
    """Run or continue a sweep file here, or create it on W&B for agents."""
    from kaggle_runner.sweep.spec import read_sweep

    given = {**options, "log": log, "cpu": cpu, "entity": entity, "prior_runs": prior_runs,
             "storage": storage, "lease": lease, "checkpoints": checkpoints}
    if backend == "wandb" or search or agents or entity or prior_runs or (project and not log):
        from kaggle_runner.cli.remote.sweep import create, refuse_misplaced, run_here

        refuse_misplaced(backend, project, {**given, "search": search, "agents": agents})
        spec = read_sweep(file)
        if search:
            return run_here(spec, entity=entity, project=project, agents=agents or 1, **options)
        return create(spec, entity, project, [run for text in prior_runs for run in text.split(",") if run])
    spec = read_sweep(file)
    if log:
        require(("wandb",), "wandb")
    run_spec(spec, cpu_only=cpu, shared=_shared(storage, lease, checkpoints, options),
             keep=lambda snapshot: _write_offline(snapshot, project) if log else None, **options)


def _shared(storage: str | None, lease: float | None, checkpoints: Path | None,
            options: Mapping[str, Any]) -> "SharedOrder | None":
    """Return where the search is shared, if it is, and refuse what a shared one has no place for."""
    if storage is None:
        if lease is not None or checkpoints is not None:
            name = "checkpoints" if lease is None else "lease"
            raise click.UsageError(f"--{name} is for a search that machines share; give it with --storage")
        return None
    if options["adopt"]:
        raise click.UsageError(f"--adopt works on a study of one directory; to go on with another sweep file, give the "
                               f"new study a name, --storage {without_password(storage)}#NAME, and a directory, "
                               f"--study studies/NAME, and learn from the old "
                               f"one: show {without_password(storage)} reads it into a folder for --prior-study")
    from kaggle_runner.run.shared.order import SharedOrder

    return SharedOrder(address=storage, lease_s=lease, checkpoints=checkpoints)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="SWEEP_ID")
@click.option("--count", type=click.IntRange(min=1), help="Trials to bring to an end here [what the sweep gives].")
@click.option("--deadline", help="End by then: 8h, 90m, or 2026-01-31T23:30 [the host's limit].")
@click.option("--study", type=StudyPath(), help="Directory of the study [studies/ID].")
@click.option("--max-concurrency", type=int, default=1, help="Trials at a time on each GPU: 1, and nothing else.")
@click.option("--no-pruning", is_flag=True, help="Train every trial to its end.")
@click.option("--confirm", metavar="TOPxSEEDS", callback=confirming,
              help="When it is over, train its best again with more seeds, 3x2.")
@click.option("--cpu", is_flag=True, help="Leave the GPU alone; on Kaggle and Colab the only way to a CPU.")
def agent(words: tuple[str, ...], count: int | None, deadline: str | None, study: Path | None, max_concurrency: int,
          no_pruning: bool, confirm: "Confirm | None", cpu: bool) -> None:
    """Run trials of a W&B sweep, by its ID, path or URL, until it ends or the session does.

    The line `wandb agent ...` of the sweep's page will do, too. Without a project kaggle_runner and W&B's own
    default, uncategorized, are looked into.
    """
    from kaggle_runner.cli.progress import display
    from kaggle_runner.machine.deadline import find_deadline
    from kaggle_runner.machine.internet import require_internet, servers_of
    from kaggle_runner.machine.keys import require_key
    from kaggle_runner.sweep.address import options_of, plain_address, require_address

    address = " ".join(words)
    require_address(plain_address(address))
    in_line = options_of(address).get("count")
    if in_line and count is None:
        if not in_line.isdecimal() or not int(in_line):
            raise click.BadParameter(f"must be a number above 0, got {in_line!r}", param_hint="--count")
        count = int(in_line)
    environment = detect_here().for_training(cpu_only=cpu)
    end = find_deadline(deadline, environment, os.environ)
    require_key("wandb", environment.host)  # said within a second: what comes next imports W&B's client
    if environment.host != "local":
        require_internet(servers_of("agent", os.environ), environment.host)
    from kaggle_runner.run.signals import interrupts_before_work

    with interrupts_before_work(complain):  # W&B's client takes seconds to begin, and may swallow a Ctrl-C
        from kaggle_runner.wandb.one_per_gpu import run_agents
        from kaggle_runner.wandb.order import AgentOrder

        warn_of_no_page()
        order = AgentOrder(address=address, count=count, deadline=end, study=study, pruning=not no_pruning)
        try:
            with display(continuing()) as notify:
                outcome = run_agents(order, environment, notify, max_concurrency=max_concurrency)
        except SweepOver:
            if confirm is None:
                raise
            sys.exit(_confirm_remote(confirm, order, environment, cpu))
    page = print_study(outcome.snapshot, outcome.reason)
    click.echo(f"sweep    {outcome.sweep.url}")
    if outcome.exit_status == INTERRUPTED:
        click.echo(f"next     {continuing()}")
    elif outcome.snapshot.finished:
        print_next(outcome.snapshot)
    print_page(page)
    tell_launcher(outcome.reason, outcome.exit_status)
    sys.exit(outcome.exit_status or (_confirm_remote(confirm, order, environment, cpu) if confirm else 0))


def _confirm_remote(confirm: "Confirm", order: "AgentOrder", environment: "Environment", cpu: bool) -> int:
    """Confirm the winner of a sweep that W&B ran, say what came out, and return the exit status."""
    from kaggle_runner.cli.progress import display
    from kaggle_runner.wandb.confirm import confirm_sweep

    with display(continuing()) as notify:
        done = confirm_sweep(order.address, confirm, environment, notify, study=order.study, cpu_only=cpu,
                             deadline=order.deadline)
    for label, text in done.found.as_lines(done.metric) if done.found else ():
        say(label, text)
    if done.not_done:
        say("confirm", f"not done: {done.not_done}")
        click.echo(f"next     {continuing()}")
    click.echo(f"sweep    {done.sweep.url}")
    return INTERRUPTED if done.not_done else 0


def _write_offline(snapshot: "Snapshot", project: str | None) -> None:
    from kaggle_runner.wandb.offline import OfflineRuns, sync_command

    count = OfflineRuns(project).write(snapshot)
    sync = sync_command(as_typed(snapshot.directory))
    click.echo(f"W&B      {how_many(count, 'offline run')}; upload them with: {sync}")


COMMANDS = (sweep, agent)
