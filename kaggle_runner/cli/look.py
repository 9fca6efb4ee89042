"""The commands that look: at rows before a GPU minute is spent, at a study, and at what goes on with it."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from kaggle_runner.cli.params import GivenPath, StudyText, SweepFile
from kaggle_runner.cli.shared import (
    PAGE_PACKAGES,
    detect_here,
    keep_best,
    missing,
    print_best,
    print_next,
    require,
    say_first_place,
)
from kaggle_runner.cli.table import trial_table
from kaggle_runner.cli.words import as_typed, command, complain, flowing, has_colours, say, width_of
from kaggle_runner.errors import INTERRUPTED
from kaggle_runner.run.shared.copy import COPY, is_copy
from kaggle_runner.study.journal import Snapshot, read_study
from kaggle_runner.study.lock import is_in_use
from kaggle_runner.study.near import has_begun
from kaggle_runner.study.noise import stated_of_best
from kaggle_runner.study.page_mark import is_current
from kaggle_runner.study.trial import OUT, RUNNING, Status, TrialResult
from kaggle_runner.study.what_next import leading_to
from kaggle_runner.sweep.address import is_address, is_there, plain_address
from kaggle_runner.wording import how_many

NOTEBOOK_PACKAGES = ("ipykernel", "pandas")
"""What only the run of a report's notebook needs."""
FETCH_EVERY_S = 60.0
"""Seconds between two readings of a watched sweep from W&B; each of them asks for every run."""
_BEGIN, _END = "\1", "\2"
"""Signs around what is trained, while lines are broken."""


@click.command()
@click.argument("file", type=SweepFile())
@click.option("--rows", type=click.IntRange(min=0), default=3, show_default=True, help="Training rows to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def preview(file: Path, rows: int, as_json: bool) -> None:
    """Show a sweep's rows as the model will see them; needs no weights and no GPU.

    What counts in the loss is coloured, or stands in [brackets] where the output is no terminal with colours.
    """
    from kaggle_runner.config import FinetuneConfig
    from kaggle_runner.errors import ConfigError
    from kaggle_runner.sweep.spec import read_sweep

    spec = read_sweep(file)
    if spec.trainer != FinetuneConfig.trainer:
        raise ConfigError(f"{spec.source} trains {spec.trainer} models on text, not on rows; only the rows of "
                          f"fine-tunes are shown")
    config = FinetuneConfig.from_params(spec.typical())
    from kaggle_runner.training.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(config)
    from kaggle_runner.training.data.preview import preview as preview_rows

    found = preview_rows(config, tokenizer, cache_directory=detect_here().cache_directory, examples=rows)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        for label, text in found.as_lines():
            say(label, text, column=10)
        for number, example in enumerate(found.examples, start=1):
            click.echo(f"\n--- row {number}")
            click.echo(_marked(flowing("".join(f"{_BEGIN}{part.text}{_END}" if part.is_trained else part.text
                                               for part in example), width_of(), hanging=0)))
        for warning in found.warnings:
            complain(f"warning: {warning}")
    found.account.require(config.max_lost_share, found.source)


def _marked(text: str) -> str:
    """Put the signs in for where what is trained begins and ends."""
    begin, end = click.style("\0", fg="green").split("\0") if has_colours() else "[]"
    return text.replace(_BEGIN, begin).replace(_END, end)


@click.command()
@click.argument("study", type=StudyText())
@click.option("--all", "everything", is_flag=True, help="Print every trial [the 20 best].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(study: str, everything: bool, as_json: bool) -> None:
    """Show a study's trials, its best one, and the untouched base.

    STUDY is a directory, or the address of a database that holds a shared study: postgresql://user@host/database.
    """
    from kaggle_runner.run.shared.fetch import directory_of, is_database

    snapshot = read_study(directory_of(study, detect_here(), notify=lambda text: click.echo(text, err=True))
                          if is_database(study) else Path(study))
    keep_best(snapshot)
    if as_json:
        told = snapshot.as_dict()
        if told["best"]:
            told["best"]["stated"] = stated_of_best(snapshot)
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(trial_table(snapshot, width=width_of(), everything=everything))
    print_best(snapshot)
    say_first_place(snapshot)
    whole = snapshot.directory / COPY
    if has_begun(whole):
        say("shared", f"this is what ran here; the trials of all machines, as the last session here left them: "
                      f"{command('show', whole)}")
    lines = next_lines(snapshot)
    if [label for label, _ in lines] == ["next"]:
        print_next(snapshot, after=lines[0][1])
    else:
        for label, text in lines:
            click.echo(f"{label:<8} {text}")


@click.command()
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


def require_pictures() -> None:
    """See, before a command's work, that what draws its results can be imported.

    Raises:
        MissingPackages: some of it is not.
    """
    require(PAGE_PACKAGES, "report")
    if absent := missing(NOTEBOOK_PACKAGES):
        complain(f"warning: {', '.join(absent)} not installed: the report's notebook will not be run; "
                 f"run: pip install 'kaggle_runner[report]'")


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
        return directory_of(address, environment, notify=lambda text: click.echo(text, err=True))
    require_key("wandb", environment.host)  # said within a second: what comes next imports W&B's client
    from kaggle_runner.wandb.fetch import fetch_study

    directory = fetch_study(address, environment, notify=lambda text: click.echo(text, err=True))
    click.echo(f"study    {as_typed(directory)}  (read from W&B)")
    return directory


def next_lines(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return what to do next with a study, as labels and texts; a page is named only if it shows every trial."""
    directory = snapshot.directory
    page = directory / "report" / "index.html"
    shown = str(as_typed(page)) if is_current(page, directory) else command("report", directory)
    if is_in_use(directory):
        return [("running", "a process is adding to it"), ("next", command("report", directory, "--watch"))]
    left, failed = open_trials(snapshot), _failed_final(snapshot)
    if not left and not failed and snapshot.records:
        return [("next", shown)]
    again = _began_by(snapshot)
    if failed:
        from kaggle_runner.cli.model import way_on

        again = way_on(failed, directory, again if _typed(snapshot) else "", again)
    lines = [*([("open", left)] if left else []), ("next", again)]
    return [*lines, ("page" if shown.endswith(".html") else "report", shown)] if snapshot.finished else lines


def _failed_final(snapshot: Snapshot) -> TrialResult | None:
    """Return how a final training failed; none where it did not, or where it is none."""
    return next((record.result for record in snapshot.records if record.trial.origin == "final" and record.result
                 and record.result.status in (Status.FAILED, Status.INFEASIBLE)), None)


def open_trials(snapshot: Snapshot) -> str:
    """Say what of a study is not done yet; empty if everything is.

    Of a shared study, whose directory has what ran here, all of it as it stood when the last session here ended.
    """
    beside = snapshot.directory / COPY
    whole = read_study(beside) if has_begun(beside) else snapshot
    finished = {record.trial.id for record in (*whole.finished, *snapshot.finished)}
    here = [record for record in snapshot.records if not record.is_lost]
    running = {record.trial.id for record in whole.records
               if record.status_word == RUNNING and is_copy(whole)} - finished
    everywhere = here if whole is snapshot else [*whole.records, *here]
    out = {record.trial.id for record in here if record.status_word == OUT}
    cut_off = {record.trial.id for record in everywhere} - finished - running - out
    wanted = _wanted(snapshot) or 0
    missing = max(0, wanted - len(finished) - len(running) - len(cut_off) - len(out))
    parts = [f"{how_many(len(cut_off), 'trial')} cut off"] if cut_off else []
    parts += [f"{how_many(len(running), 'trial')} running elsewhere"] if running else []
    parts += [f"{how_many(len(out), 'trial')} out with agents"] if out else []
    parts += [f"{how_many(missing, 'trial')} of {wanted} not begun"] if missing else []
    return ", ".join(parts)


def _wanted(snapshot: Snapshot) -> int | None:
    """Return how many trials the last session was to reach; of an older version's study, what its sweep says."""
    wanted: Any = snapshot.sessions[-1].get("trials") if snapshot.sessions else None
    if wanted is None and not (snapshot.sessions and snapshot.sessions[-1].get("sweep")):  # W&B decides otherwise
        wanted = snapshot.info.sweep.get("run_cap")
    return wanted if isinstance(wanted, int) else None


def _typed(snapshot: Snapshot) -> str:
    """Return the command of the last session; empty where it is not known."""
    return str(snapshot.sessions[-1].get("command") or "") if snapshot.sessions else ""


def _began_by(snapshot: Snapshot) -> str:
    """Return the command of the last session, which goes on with the study where it lies now."""
    typed = _typed(snapshot)
    if not typed:
        return f"the command that began it, with --study {shlex.quote(str(as_typed(snapshot.directory)))}"
    words = leading_to(snapshot, shlex.split(typed))
    return shlex.join(str(as_typed(word)) if isinstance(word, Path) else word for word in words)


COMMANDS = (preview, show, report)
