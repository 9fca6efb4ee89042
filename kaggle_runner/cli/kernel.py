"""The commands of Kaggle kernels: prepare, push, follow, fetch and stop one, and store the keys that it needs."""

import contextlib
import importlib.util
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from kaggle_runner.cli.params import DATASET, IMAGE, KERNEL, MACHINE, MODEL, OWNER, SWEEP, TEXT, GivenPath, Regex
from kaggle_runner.cli.shared import detect_here, not_negative, positive, print_next, typed_command
from kaggle_runner.cli.words import command, complain, say
from kaggle_runner.errors import INTERRUPTED, KaggleRunnerError, StudyError
from kaggle_runner.sweep.address import require_address

if TYPE_CHECKING:
    from kaggle_runner.kaggle.order import KernelOrder
    from kaggle_runner.kaggle.program import Kaggle
    from kaggle_runner.kaggle.watch import KernelVerdict
    from kaggle_runner.sweep.spec import SweepSpec

KERNELS = Path("kernels")
"""Folder of everything that is pushed and fetched, below the current directory."""


def full_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a final training."""
    function = click.option("--epochs", type=float, callback=positive,
                            help="With --full: passes over the rows [the configuration's, else 1].")(function)
    return click.option("--full", is_flag=True,
                        help="Train a configuration, or a study's winner, on all rows and GPUs.")(function)


def order_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what a kernel shall do, and on what."""
    for option in reversed((
        click.option("--owner", type=OWNER, help="Kaggle account [the one that `kaggle` is logged in to]."),
        click.option("--title", type=TEXT, help="Title of the kernel [kaggle runner SWEEP]."),
        click.option("--count", type=click.IntRange(min=1), help="Trials to bring to an end."),
        click.option("--deadline", help="End by then, counted from the kernel's start: 8h, 90m [Kaggle's 12 h]."),
        click.option("--no-pruning", is_flag=True, help="Train every trial to its end."),
        full_options,
        click.option("--export", type=click.Choice(["merged", "adapter"]),
                     help="Take home the winner of the study that --kernel mounts, as the folder `model`."),
        click.option("--try", "tries", is_flag=True, help="Ask the winner of the study that --kernel mounts."),
        click.option("--upload-every", type=float, callback=not_negative, metavar="MINUTES",
                     help="Send a running trial's checkpoint and the journal to its W&B run, this often [never]."),
        click.option("--machine", type=MACHINE, metavar="NAME", help="Kaggle's name of the machine [NvidiaTeslaT4]."),
        click.option("--cpu", is_flag=True, help="A session without a GPU, and trials on its CPU."),
        click.option("--image", type=IMAGE, metavar="IMAGE", help="Docker image to pin, where kernels stay queued."),
        click.option("--no-internet", is_flag=True, help="Packages and data come from mounted inputs only."),
        click.option("--dataset", multiple=True, type=DATASET, metavar="OWNER/SLUG", help="Kaggle dataset to mount."),
        click.option("--kernel", multiple=True, type=KERNEL, metavar="OWNER/SLUG", help="A kernel's output to mount."),
        click.option("--model", multiple=True, type=MODEL, metavar="REF",
                     help="Kaggle model to mount, all five parts of its handle."),
    )):
        function = option(function)
    return function


@click.group()
def kernel() -> None:
    """Prepare what a bare `kaggle kernels push -p .` pushes."""


@kernel.command("prepare")
@click.argument("sweep", required=False, type=SWEEP)
@order_options
@click.option("--folder", type=GivenPath(), default=Path(), help="Where to write [.].")
def kernel_prepare(sweep: str | None, folder: Path, **options: Any) -> None:
    """Write kernel-metadata.json and its code file for SWEEP; without one, those of the repository, which do nothing.

    SWEEP is a W&B sweep, by its id, path or URL, or a sweep file.
    """
    from kaggle_runner.kaggle.folder import CODE_FILE, METADATA, prepare, prepare_empty
    from kaggle_runner.kaggle.order import make_spec

    if sweep is None:
        prepare_empty(folder)
        click.echo(f"files    {folder / METADATA}, {folder / CODE_FILE}: without a sweep they run nothing")
        click.echo("next     python -m kaggle_runner kernel prepare SWEEP_ID")
        return
    made = prepare(make_spec(_order(sweep, **options), os.environ, complain, asks_kaggle=False), folder, os.environ)
    click.echo(f"kernel   {made.ref}  ({made.source_bytes / 1000:.0f} KB)")
    click.echo(f"files    {folder / METADATA}, {folder / CODE_FILE}")
    click.echo(f"next     {shlex.join(['kaggle', 'kernels', 'push', '-p', str(folder)])}")


@kernel.command("launcher")
@click.argument("sweep", type=SWEEP)
@click.option("--count", type=click.IntRange(min=1), help="Trials to bring to an end.")
@click.option("--deadline", help="End by then, counted from the start: 8h, 90m [the host's limit].")
@full_options
@click.option("--cpu", is_flag=True, help="Train on the CPU of where it runs.")
@click.option("--no-internet", is_flag=True, help="It runs where the internet is off, on what is there.")
@click.option("--out", type=GivenPath(), default=Path("kernel_launcher.py"), show_default=True)
def kernel_launcher(sweep: str, count: int | None, deadline: str | None, full: bool, epochs: float | None, cpu: bool,
                    no_internet: bool, out: Path) -> None:
    """Write the code file alone: one script that does SWEEP on Colab, or wherever Python runs it."""
    from kaggle_runner.files import write_atomically
    from kaggle_runner.kaggle.folder import refuse_other_code
    from kaggle_runner.kaggle.launcher import build_launcher
    from kaggle_runner.kaggle.order import KernelOrder, check_offline, make_launch

    task, what = _task(full, epochs, sweep)
    options = (*_options(count, deadline), *what, *(("--cpu",) if cpu else ()))
    order = KernelOrder(sweep=sweep, task=task, options=options, internet=not no_internet)
    launch, _ = make_launch(order, os.environ, complain)
    check_offline(order, complain)
    if out.resolve() == Path(sweep).resolve():
        raise StudyError(f"--out {out} is the sweep file itself; choose another file with --out")
    refuse_other_code(out)
    write_atomically(out, build_launcher(launch, os.environ), way_out="choose another file with --out")
    click.echo(f"launcher {out}  ({out.stat().st_size / 1000:.0f} KB)")
    run = "where its inputs are: python" if no_internet else "colab.ipynb, or: colab run --gpu T4 --timeout 39600"
    click.echo(f"next     {run} {shlex.quote(str(out))}")


@click.command()
@click.argument("sweep", type=SWEEP)
@order_options
@click.option("--wait", "waits", is_flag=True, help="Follow the log, fetch the files, exit with the kernel's verdict.")
@click.option("--sessions", type=click.IntRange(min=1), default=1, help="Go on in further kernels while work is left.")
@click.option("--dry-run", is_flag=True, help="Make the folder, show the command, push nothing.")
@click.option("--files", type=Regex(), help="Files to fetch [verdict and study, no checkpoints].")
@click.option("--queue", "queue_minutes", type=float, callback=positive, default=15.0, show_default=True,
              help="Minutes to stay queued.")
def push(sweep: str, waits: bool, sessions: int, dry_run: bool, files: str | None, queue_minutes: float,
         **options: Any) -> None:
    """Run agents of a W&B sweep, or a sweep file, on a Kaggle kernel with two T4s.

    SWEEP is a W&B sweep, by its id, path or URL, or a sweep file.
    """
    from kaggle_runner.kaggle.folder import going_on, prepare, require_titles
    from kaggle_runner.kaggle.order import make_spec
    from kaggle_runner.kaggle.program import find_kaggle
    from kaggle_runner.kaggle.push import push_arguments, push_once, push_sessions
    from kaggle_runner.kaggle.watch import OUTPUTS, KernelPatience

    spec = make_spec(_order(sweep, **options), os.environ, complain, asks_kaggle=not dry_run, read_remote=_read_remote)
    folder, into = KERNELS / spec.slug / "push", KERNELS / spec.slug / "output"
    spec = going_on(spec)
    require_titles(spec, sessions)
    if dry_run:
        made = prepare(spec, folder, os.environ)
        click.echo(f"folder   {made.path}  ({made.source_bytes / 1000:.0f} KB)")
        click.echo(f"command  {shlex.join(['kaggle', *push_arguments(made)])}")
        return
    kaggle = find_kaggle(os.environ)
    if not waits and sessions == 1:
        pushed = push_once(kaggle, spec, folder, complain, os.environ)
        click.echo(f"kernel   {pushed.ref} version {pushed.version}\npage     {pushed.url}")
        click.echo(f"next     python -m kaggle_runner logs -f {pushed.ref}")
        return
    with _leaving_it_alone():
        verdict = push_sessions(kaggle, spec, folder, into, complain, show=click.echo, environ=os.environ,
                                sessions=sessions, patience=KernelPatience(queue_s=queue_minutes * 60),
                                outputs=files or OUTPUTS)
    _end(verdict, typed_command())


@click.command()
@click.argument("ref", metavar="[KERNEL]", required=False, type=KERNEL)
def status(ref: str | None) -> None:
    """Say how a kernel stands [the one pushed last], and how much of the week's quota is left."""
    from kaggle_runner.kaggle.program import gpu_quota, read_state

    kaggle, ref = _kaggle(), ref or _last_pushed()
    state = read_state(kaggle.run("kernels", "status", ref))
    click.echo(f"kernel   {ref} is {state.text}{f': {state.failure}' if state.failure else ''}")
    click.echo(f"page     https://www.kaggle.com/code/{ref}")
    if quota := gpu_quota(kaggle):
        click.echo(f"quota    {quota.remaining_h:.1f} of {quota.total_h:.1f} GPU hours left this week")
    click.echo(f"next     python -m kaggle_runner {'pull' if state.has_ended else 'logs -f'} {ref}")


@click.command()
@click.argument("ref", metavar="[KERNEL]", required=False, type=KERNEL)
@click.option("-f", "--follow", "follows", is_flag=True, help="Stay until the kernel ends.")
def logs(ref: str | None, follows: bool) -> None:
    """Print a kernel's log [the one pushed last]; with -f live, to its end."""
    from kaggle_runner.kaggle.watch import follow, print_log

    kaggle, ref = _kaggle(), ref or _last_pushed()
    if not follows:
        print_log(kaggle, ref, show=click.echo)
        return
    with _leaving_it_alone():
        follow(kaggle, ref, complain, show=click.echo)
    click.echo(f"next     python -m kaggle_runner pull {ref}", err=True)


@click.command()
@click.argument("ref", metavar="[KERNEL]", required=False, type=KERNEL)
@click.option("--into", type=GivenPath(), help="Folder for the files [kernels/SLUG/output].")
@click.option("--files", type=Regex(), help="Files to fetch [verdict and study, no checkpoints].")
def pull(ref: str | None, into: Path | None, files: str | None) -> None:
    """Fetch an ended kernel's files [of the one pushed last], and exit with its verdict."""
    from kaggle_runner.errors import KernelError, Refusal
    from kaggle_runner.kaggle.program import read_state
    from kaggle_runner.kaggle.watch import OUTPUTS, fetch

    kaggle, ref = _kaggle(), ref or _last_pushed()
    state = read_state(kaggle.run("kernels", "status", ref))
    if not state.has_ended:
        raise KernelError(Refusal.OTHER, f"{ref} is {state.text}, and its files come when it has ended; wait with: "
                                         f"python -m kaggle_runner logs -f {ref}")
    _end(fetch(kaggle, ref, state, into or KERNELS / ref.split("/")[-1] / "output", outputs=files or OUTPUTS))


@click.command()
@click.argument("sweep")
@click.option("--now", is_flag=True, help="Do not wait for the running trials: W&B calls them killed.")
def stop(sweep: str, now: bool) -> None:
    """End a W&B sweep, and with it the agents of it on every kernel: Kaggle itself cannot be told to stop one."""
    from kaggle_runner.machine.keys import require_key

    require_address(sweep)
    environment = detect_here()
    require_key("wandb", environment.host)
    from kaggle_runner.wandb.sweep import end_sweep

    ended = end_sweep(sweep, environment, cancel=now)
    click.echo(f"sweep    {ended.path} is {ended.state.lower()}: its agents end "
               f"{'at once' if now else 'when their trials do'}\npage     {ended.url}")
    click.echo("next     python -m kaggle_runner logs -f")


@click.group()
def secret() -> None:
    """Store the keys that kernels need, and say what each host would find."""


@secret.command("put", context_settings={"allow_extra_args": True})
@click.argument("service", type=click.Choice(["wandb", "huggingface"]))
@click.option("--owner", type=OWNER, help="Kaggle account [the one that `kaggle` is logged in to].")
@click.pass_context
def secret_put(context: click.Context, service: str, owner: str | None) -> None:
    """Store this machine's key of a service in a private dataset of yours, which every push attaches."""
    from kaggle_runner.kaggle.keys import put_secret
    from kaggle_runner.machine.keys import VARIABLES, require_key

    if context.args:  # most likely a key, which an error must not print
        raise click.UsageError(f"a key is not given on the command line, which others can read; put it into "
                               f"{VARIABLES[service][0]} and leave it out")
    key = require_key(service, detect_here().host, os.environ)
    ref = put_secret(_kaggle(), service, key.value, complain, owner=owner or "")
    click.echo(f"stored   {key} in the private dataset {ref}: you and Kaggle can read it")
    click.echo("next     python -m kaggle_runner push SWEEP_ID")


@secret.command("check")
@click.option("--owner", type=OWNER, help="Kaggle account [the one that `kaggle` is logged in to].")
def secret_check(owner: str | None) -> None:
    """Say which keys this machine, a pushed kernel and Colab would find, never their values."""
    from kaggle_runner.kaggle.keys import describe_keys

    for label, text in describe_keys(detect_here(), os.environ, owner=owner or ""):
        click.echo(f"{label:<8} {text}")


def _order(sweep: str, *, count: int | None, deadline: str | None, no_pruning: bool, full: bool, epochs: float | None,
           export: str | None, tries: bool, upload_every: float | None, machine: str | None, cpu: bool,
           image: str | None, no_internet: bool, dataset: tuple[str, ...], kernel: tuple[str, ...],
           model: tuple[str, ...], owner: str | None, title: str | None) -> "KernelOrder":
    from kaggle_runner.kaggle.machines import T4_X2
    from kaggle_runner.kaggle.order import KernelOrder

    task, what = _task(full, epochs, sweep, export=export, tries=tries)
    if machine and cpu:
        raise click.UsageError("--machine is for a GPU, and --cpu takes none; give one of them")
    misplaced = [name for name, value in (("--count", count), ("--no-pruning", no_pruning), (
        "--upload-every", upload_every is not None), ("--deadline", deadline and task != "train")) if value]
    if task != "sweep" and misplaced:
        name = "--full" if task == "train" else f"--{task}"
        raise click.UsageError(f"{' and '.join(misplaced)} cannot be given with {name}, which runs no sweep; "
                               f"leave it out")
    options = (*_options(count, deadline), *(("--no-pruning",) if no_pruning else ()), *what,
               *(("--cpu",) if cpu else ()))
    upload_s = upload_every * 60 if upload_every is not None else None
    return KernelOrder(sweep=sweep, task=task, options=options, upload_every_s=upload_s, owner=owner or "",
                       title=title or "", machine_shape="" if cpu else machine or T4_X2, internet=not no_internet,
                       datasets=dataset, kernels=kernel, models=model, docker_image=image or "")


def _task(full: bool, epochs: float | None, sweep: str, *, export: str | None = None,
          tries: bool = False) -> "tuple[Literal['sweep', 'train', 'export', 'try'], tuple[str, ...]]":
    """Return what a kernel is to do, and the options that this takes."""
    if sum((full, export is not None, tries)) > 1:
        raise click.UsageError("--full, --export and --try are different tasks; give one of them")
    if epochs is not None and not full:
        raise click.UsageError("--epochs is for --full; give that too")
    if export is not None:
        return "export", ("--to", export, "--out", "model")
    if tries:
        return "try", ()
    if not full:
        return "sweep", ()
    from kaggle_runner.run.final.full_spec import full_spec
    from kaggle_runner.study.best_file import read_chosen, study_of
    from kaggle_runner.study.journal import read_study

    full_spec(read_chosen(Path(sweep))[0], epochs)  # refused here, and not after a wait in Kaggle's queue
    source = study_of(Path(sweep))
    metric = ("--metric", read_study(source).metric.name) if source else ()
    return "train", ("--full", *(("--epochs", f"{epochs:g}") if epochs is not None else ()), *metric)


def _options(count: int | None, deadline: str | None) -> tuple[str, ...]:
    if deadline is not None:  # said here, and not after a wait in Kaggle's queue
        from kaggle_runner.machine.deadline import find_deadline

        find_deadline(deadline, detect_here(), os.environ)
    return (*(("--count", str(count)) if count else ()), *(("--deadline", deadline) if deadline else ()))


def _kaggle() -> "Kaggle":
    from kaggle_runner.kaggle.program import find_kaggle

    return find_kaggle(os.environ)


@contextlib.contextmanager
def _leaving_it_alone() -> Iterator[None]:
    """Say at Ctrl-C that it ended the watching and not the kernel."""
    try:
        yield
    except KeyboardInterrupt:
        complain("the kernel goes on; watch it again with: python -m kaggle_runner logs -f; a W&B sweep ends with: "
              "python -m kaggle_runner stop SWEEP")
        sys.exit(INTERRUPTED)


def _last_pushed() -> str:
    """Name the kernel whose folder is the newest one here."""
    from kaggle_runner.kaggle.folder import METADATA, read_ref

    found = sorted(KERNELS.glob(f"*/push/{METADATA}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise click.UsageError("no kernel was pushed from this directory; name one: OWNER/KERNEL")
    return read_ref(found[-1].parent)


def _end(verdict: "KernelVerdict", pushed_by: str = "") -> None:
    """Print what a kernel came to, and exit with its own verdict."""
    from kaggle_runner.metrics import format_metric
    from kaggle_runner.study.journal import read_study

    result = verdict.result
    trials = ", ".join(f"{count} {status}" for status, count in result.get("trials", {}).items())
    click.echo(f"verdict  {result.get('verdict', 'unknown')}{f': {verdict.reason}' if verdict.reason else ''}")
    if trials:
        click.echo(f"trials   {trials}")
    if best := result.get("best"):
        click.echo(f"best     trial {best['id']}, {format_metric(best.get('metric_name', ''), best['metric'])}")
    gpus = Counter(result.get("gpus", ()))
    for gpu, count in gpus.items():
        click.echo(f"gpus     {f'{count} x ' if count > 1 else ''}{gpu}")
    hours = result.get("gpu_quota_hours")
    click.echo(f"time     {result.get('seconds', 0):.0f} s{f', {hours:.2f} GPU hours of the quota' if hours else ''}")
    for lost in result.get("lost", ()):
        click.echo(f"lost     {lost}")
    studies = [verdict.path / name for name in result.get("studies", {})]
    click.echo(f"files    {verdict.path}")
    if verdict.ref:
        click.echo(f"kernel   {verdict.ref}")
    if verdict.goes_on:
        from kaggle_runner.kaggle.push import push_again

        say("next", push_again(verdict.ref, pushed_by))
    elif studies and trials:
        found = []
        for study in studies:
            with contextlib.suppress(StudyError):  # a session that was cut off may have left half a study
                found.append(read_study(study))
        print_next(*found, after=command("report", *studies))
    sys.exit(verdict.exit_status)


def _read_remote(address: str) -> "SweepSpec | None":
    """Read a sweep on W&B where its client and a key are at hand; what hinders that is a warning, and no refusal."""
    from kaggle_runner.machine.keys import find_key

    try:
        if importlib.util.find_spec("wandb") is None or find_key("wandb") is None:
            return None
        from kaggle_runner.wandb.sweep import read_remote

        return read_remote(address, detect_here())
    except KaggleRunnerError as error:
        complain(f"warning: whether the sweep's model is gated is not known: {error}")
        return None


COMMANDS = (kernel, push, status, logs, pull, stop, secret)
