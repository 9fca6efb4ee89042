"""What the commands that run trials share: their options, the machine they run on, and how an ending is printed."""

import importlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggle_runner.cli.params import GivenPath, StudyPath
from kaggle_runner.cli.words import as_typed, command, complain, say, width_of
from kaggle_runner.errors import INTERRUPTED, MissingPackages, StudyError
from kaggle_runner.files import FACTS_VARIABLE
from kaggle_runner.machine.broken import OF_REPORTS, find_broken

if TYPE_CHECKING:
    from kaggle_runner.machine.environment import Environment
    from kaggle_runner.run.shared.order import SharedOrder
    from kaggle_runner.study.journal import Snapshot
    from kaggle_runner.sweep.spec import SweepSpec
    from kaggle_runner.sweep.study_settings import Confirm

PAGE_PACKAGES = ("numpy", *OF_REPORTS)
"""What draws a study; imported when its trials are done."""


def positive(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuse a number that is not above 0 and finite, as an option's callback."""
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"must be a number above 0, got {value:g}")
    return value


def not_negative(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuse a number that is below 0 or not finite, as an option's callback."""
    if value is not None and not 0 <= value < math.inf:
        raise click.BadParameter(f"must be 0 or a number above it, got {value:g}")
    return value


def confirming(context: click.Context, parameter: click.Parameter, value: str | None) -> "Confirm | None":
    """Read `3x2` as an option's callback."""
    if value is None:
        return None
    from kaggle_runner.sweep.study_settings import MOST_SEEDS, parse_confirm

    found = parse_confirm(value)
    if found is None:
        raise click.BadParameter(f"must be configurations x further seeds, two or more of the first and 1 to "
                                 f"{MOST_SEEDS} of the second, got {value!r}; write 3x2")
    return found


def refuse_both(confirm: "Confirm | None", no_confirm: bool) -> None:
    """Refuse `--confirm` beside `--no-confirm`."""
    if confirm and no_confirm:
        raise click.UsageError("--confirm and --no-confirm say the opposite; give one of them")


def sweep_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that every command that runs trials has."""
    for option in (
        click.option("--count", type=click.IntRange(min=1), help="Trials the study shall have in the end [run_cap]."),
        click.option("--study", type=StudyPath(), help="Directory of the study [studies/NAME]."),
        click.option("--seed", type=click.IntRange(min=0), help="Seed of the search [0]."),
        click.option("--deadline", help="End by then: 8h, 90m, or 2026-01-31T23:30 [the host's limit]."),
        click.option("--no-pruning", is_flag=True, help="Train every trial to its end."),
        click.option("--prior-study", "prior_studies", multiple=True, type=StudyPath(), metavar="DIR",
                     help="Learn from the trials of another study, too; may be given again."),
        click.option("--start", type=GivenPath(), metavar="FILE",
                     help="Begin with this configuration, such as best.yaml [the defaults]."),
        click.option("--adopt", is_flag=True, help="Take over what still counts of a study of another sweep file."),
        click.option("--no-early-end", is_flag=True, help="Run all trials, also if little is expected of them."),
        click.option("--confirm", metavar="TOPxSEEDS", callback=confirming,
                     help="Train the best again with more seeds, 3x2 [in a fifth of 20 trials or more]."),
        click.option("--no-confirm", is_flag=True, help="Take the best trial as it is."),
    ):
        function = option(function)
    return function


def run_spec(spec: "SweepSpec", *, study: Path | None, cpu_only: bool, count: int | None = None,
             seed: int | None = None, deadline: str | None = None, no_pruning: bool = False,
             confirm: "Confirm | None" = None, no_confirm: bool = False, prior_studies: tuple[Path, ...] = (),
             start: Path | None = None, adopt: bool = False, no_early_end: bool = False, suffix: str = "",
             shared: "SharedOrder | None" = None,
             keep: "Callable[[Snapshot], None]" = lambda snapshot: None) -> None:
    """Run a sweep with the embedded study and print the table, the best trial and where everything is.

    `keep` gets the study when the session is over, whatever the exit status will be.
    """
    for warning in spec.warnings:
        complain(f"warning: {warning}")
    warn_of_no_page()
    from kaggle_runner.cli.progress import display
    from kaggle_runner.machine.deadline import find_deadline
    from kaggle_runner.machine.internet import require_fetched
    from kaggle_runner.run.confirm import run_confirmation, why_unconfirmed
    from kaggle_runner.run.local_sweep import SweepOrder, run_embedded
    from kaggle_runner.study.journal import read_study
    from kaggle_runner.sweep.spec import read_start
    from kaggle_runner.sweep.study_settings import OFF

    environment = detect_here()
    environment.for_training(cpu_only=cpu_only)
    require_fetched(spec.fetched, environment.host, environment.cache_directory, os.environ)
    directory = study or directory_of(spec.name, environment, suffix)
    refuse_among_rows(directory, spec.fixed.get("dataset"))
    refuse_both(confirm, no_confirm)
    confirm, trials = confirm_of(spec, directory, count, OFF if no_confirm else
                                (confirm or spec.confirm or OFF) if shared else confirm, adopts=adopt)
    order = SweepOrder(directory=directory, count=trials, seed=seed, cpu_only=cpu_only, pruning=not no_pruning,
                       deadline=find_deadline(deadline, environment, os.environ), prior_studies=prior_studies,
                       start=read_start(start, spec, complain) if start else None, adopts=adopt, shared=shared,
                       stops_early=not no_early_end, confirm=confirm)
    unconfirmed = why = ""
    with display(continuing()) as notify:
        run = run_embedded(spec, order, environment, notify)
        if confirm.runs and not run.interrupted and not run.gave_up:
            facts: dict[str, Any] = {"cpu_only": cpu_only, "deadline": order.deadline}
            if shared:
                from kaggle_runner.run.shared.confirm import confirm_shared

                unconfirmed = confirm_shared(shared, spec, run.snapshot, confirm, environment, notify, **facts)
            else:
                unconfirmed = run_confirmation(run.snapshot, confirm, environment, notify, **facts)
            run = replace(run, snapshot=read_study(run.snapshot.directory))
            why = f"not done: {unconfirmed}" if unconfirmed else why_unconfirmed(run.snapshot, confirm)
    page = print_study(run.snapshot, run.reason)
    if why:
        say("confirm", why)
    keep(run.snapshot)
    is_cut_short = run.interrupted or bool(unconfirmed)
    exit_status = INTERRUPTED if is_cut_short else int(run.gave_up or run.snapshot.best is None)
    if is_cut_short:
        click.echo(f"next     {continuing()}")
    else:
        print_next(run.snapshot)
    print_page(page)
    tell_launcher(unconfirmed or run.reason, exit_status)
    if exit_status:
        sys.exit(exit_status)


def confirm_of(spec: "SweepSpec", directory: Path, count: int | None, asked: "Confirm | None",
               adopts: bool = False) -> "tuple[Confirm, int | None]":
    """Return how a sweep is confirmed and how many trials its search has; a study that used them all has no room.

    Of a study that is to be taken over those trials count that will count in it.
    """
    from kaggle_runner.study.journal import JOURNAL, read_study
    from kaggle_runner.sweep.study_settings import OFF, arrange

    wanted = spec.run_cap if count is None else count
    confirm, trials = arrange(method=spec.method, trials=wanted, in_file=spec.confirm, asked=asked, points=spec.count)
    if trials == wanted or trials is None or not (directory / JOURNAL).is_file():
        return confirm, trials
    used = len(read_study(directory).finished)
    if adopts:
        from kaggle_runner.run.adopt import Adoption  # which stays at home

        adoption = Adoption.of(directory, spec)
        used = len(adoption.kept) if adoption else used
    return (OFF, wanted) if used > trials else (confirm, trials)


def print_study(snapshot: "Snapshot", reason: str) -> Path | None:
    """Print the table, the best trial and why the session ended; draw the picture, write the page and return it."""
    from kaggle_runner.cli.table import trial_table

    click.echo(trial_table(snapshot, width=width_of()))
    print_best(snapshot)
    click.echo(f"study    {as_typed(snapshot.directory)}  ({reason})")
    if not snapshot.finished:
        return None
    try:
        keep_best(snapshot)
        say_first_place(snapshot)
        return _draw(snapshot)
    except (Exception, SystemExit) as error:
        broken = find_broken(error)
        if broken is None and not isinstance(error, ImportError | StudyError | OSError):
            raise
        lost = f"no page was written: {broken.text if broken else error}"  # what was asked for is done and recorded
    click.echo(lost, err=True)
    _tell_launcher(lost=[lost])
    return None


def _draw(snapshot: "Snapshot") -> Path:
    """Write a study's page and picture, and return the page."""
    from kaggle_runner.report.png import draw_overview
    from kaggle_runner.report.write import write_page

    page = write_page([snapshot.directory])
    picture = page.with_name("overview.png")
    draw_overview(snapshot, picture)
    click.echo(f"picture  {as_typed(picture)}")
    return page


def warn_of_no_page() -> None:
    """Say, before trials whose results are worth having without it, that no page will be drawn."""
    if absent := missing(PAGE_PACKAGES):
        complain(f"warning: {', '.join(absent)} not installed: no page will be written; "
                 f"run: pip install 'kaggle_runner[report]'")


def require(packages: Sequence[str], extra: str) -> None:
    """See that packages are installed, and import them: a broken one fails now, and not when the work is done.

    Raises:
        MissingPackages: some are not; `extra` has them.
    """
    if absent := missing(packages):
        raise MissingPackages(absent, extra)
    for name in packages:
        importlib.import_module(name)


def missing(packages: Sequence[str]) -> list[str]:
    """Return which packages are not installed; imports none."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def directory_of(name: str, environment: "Environment", suffix: str = "") -> Path:
    """Return where the study of a file is when nobody says.

    Raises:
        StudyError: another name makes the same folder, and has its study there.
    """
    from kaggle_runner.files import folder_name
    from kaggle_runner.study.journal import JOURNAL, read_study

    directory = as_typed(environment.writable_directory / "studies" / f"{folder_name(name)}{suffix}")
    if (directory / JOURNAL).is_file() and (directory / JOURNAL).stat().st_size:
        other = read_study(directory).info.name
        if other != name and folder_name(other) == folder_name(name):
            raise StudyError(f"{directory} holds the study of {other!r}, whose name makes the same folder as {name!r}; "
                             f"choose another one with --study")
    return directory


def refuse_among_rows(directory: Path, dataset: object) -> None:
    """Refuse a study inside the folder of its rows: its journal would be read as rows.

    Raises:
        StudyError: it would lie there.
    """
    rows = Path(str(dataset)).expanduser() if dataset else None
    if rows is not None and rows.is_dir() and directory.resolve().is_relative_to(rows.resolve()):
        raise StudyError(f"cannot use {directory} as a study: it lies in {rows}, whose files are read as rows; choose "
                         f"another directory with --study")


def continuing() -> str:
    """Return the command that goes on with what this one began."""
    if os.environ.get(FACTS_VARIABLE):
        return "the launcher that began it, run again; on Kaggle the push that made it, with this kernel as --kernel"
    return typed_command() or "the same command, again"


def typed_command() -> str:
    """Return the command line of this process, as a person would type it; empty where a program of theirs runs us."""
    from kaggle_runner.study.lock import typed_command as typed

    return typed()


def print_page(page: Path | None) -> None:
    """Print where the page is, if there is one: the last line, because it is what people open."""
    if page is not None:
        click.echo(f"page     {as_typed(page)}")


def tell_launcher(reason: str, exit_status: int) -> None:
    """Tell a launcher, where one started this process, why the session ended."""
    _tell_launcher(reason=reason, ended={0: "done", INTERRUPTED: "unfinished"}.get(exit_status, "gave up"))


def _tell_launcher(**facts: Any) -> None:
    """Add to the file that a launcher has named, if one has."""
    if path := os.environ.get(FACTS_VARIABLE):
        known = json.loads(Path(path).read_text()) if Path(path).is_file() else {}
        Path(path).write_text(json.dumps(known | facts) + "\n")


def keep_best(snapshot: "Snapshot") -> None:
    """Write the winner's configuration beside the study; a study that cannot be written is shown all the same."""
    from kaggle_runner.study.best_file import write_best

    try:
        write_best(snapshot)
    except StudyError as error:
        complain(f"warning: {error}")


def print_next(*snapshots: "Snapshot", after: str | None = None) -> None:
    """Say what to do with finished studies, in the order in which it is done; `after` is the report, if not drawn anew.

    The winner of a study of fine-tunes, if its adapter is there, is asked, trained on all rows and taken home.
    """
    steps = [step for snapshot in snapshots for step in _what_comes_out(snapshot)]
    for place, step in enumerate(steps):
        say("" if place else "next", "  # ".join(step))
    report = after or command("report", *(snapshot.directory for snapshot in snapshots))
    say(("page" if report.endswith(".html") else "report") if steps else "next", report)


def _what_comes_out(snapshot: "Snapshot") -> list[tuple[str, str]]:
    """Return the commands that lead from a winner to a model that one talks to, each with what it is for."""
    from kaggle_runner.study.weights import weights_here

    best = snapshot.best
    directory = snapshot.directory / "trials" / (best.trial.id if best else "")
    if best is None:
        return []
    again = [(command("train", snapshot.directory), "its weights are not here: train it again")]
    if best.trial.params.get("trainer") == "charlm":  # which nothing else is made of
        return [(command("try", snapshot.directory), "have it write")] if weights_here(snapshot, best) else again
    if not (directory / "adapter").is_dir():
        return again if best.result and best.result.hashes.get("adapter") else []
    steps = [(command("try", snapshot.directory), "ask it something")]
    if importlib.util.find_spec("kaggle_runner.study.what_next"):  # which a launcher leaves at home
        from kaggle_runner.study.what_next import full_lines

        steps += full_lines(snapshot, here=command("train", snapshot.directory, "--full"),
                            push=command("push", snapshot.directory / "best.yaml"))
    return [*steps, (command("export", snapshot.directory, "--to", "merged"), "take it home")]


def print_best(snapshot: "Snapshot") -> None:
    """Print the best trial, its hyperparameters and what it gained over the untouched base."""
    from kaggle_runner.study.table import best_lines

    for label, text in best_lines(snapshot):
        say(label, text)


def say_first_place(snapshot: "Snapshot") -> None:
    """Print what the page says of first place, where there are two configurations to compare."""
    if len(snapshot.configurations) > 1:
        from kaggle_runner.report.analysis.analysis import analyse
        from kaggle_runner.report.sentences import winner

        say("first", winner(analyse(snapshot)))


def detect_here() -> "Environment":
    """Find out which machine this is, and what it allows."""
    from kaggle_runner.machine.environment import detect, root_of

    return detect(os.environ, root_of(os.environ))
