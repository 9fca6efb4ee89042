"""What comes after a study: the command that goes on with it, a page that shows all of it, or the report."""

from typing import TYPE_CHECKING, Any

from kaggle_runner.cli.words import as_typed, command
from kaggle_runner.wording import how_many

if TYPE_CHECKING:
    from kaggle_runner.study.journal import Snapshot


def next_lines(snapshot: "Snapshot") -> list[tuple[str, str]]:
    """Return what to do next with a study, as labels and texts; a page is named only if it shows every trial."""
    from kaggle_runner.study.lock import is_in_use
    from kaggle_runner.study.page_mark import is_current

    directory = snapshot.directory
    page = directory / "report" / "index.html"
    shown = str(as_typed(page)) if is_current(page, directory) else command("report", directory)
    if is_in_use(directory):
        return [("running", "a process is adding to it"), ("next", command("report", directory, "--watch"))]
    left = open_trials(snapshot)
    if not left:
        return [("next", shown)]
    lines = [("open", left), ("next", _began_by(snapshot))]
    return [*lines, ("page" if shown.endswith(".html") else "report", shown)] if snapshot.finished else lines


def open_trials(snapshot: "Snapshot") -> str:
    """Say what of a study is not done yet; empty if everything is."""
    cut_off = [record for record in snapshot.records if record not in snapshot.finished]
    wanted = _wanted(snapshot) or 0
    missing = max(0, wanted - len(snapshot.finished) - len(cut_off))
    parts = [f"{how_many(len(cut_off), 'trial')} cut off"] if cut_off else []
    parts += [f"{how_many(missing, 'trial')} of {wanted} not begun"] if missing else []
    return ", ".join(parts)


def _wanted(snapshot: "Snapshot") -> int | None:
    """Return how many trials the last session was to reach; of an older version's study, what its sweep says."""
    wanted: Any = snapshot.sessions[-1].get("trials") if snapshot.sessions else None
    if wanted is None and not (snapshot.sessions and snapshot.sessions[-1].get("sweep")):  # W&B decides otherwise
        wanted = snapshot.info.sweep.get("run_cap")
    return wanted if isinstance(wanted, int) else None


def _began_by(snapshot: "Snapshot") -> str:
    """Return the command of the last session, which goes on with the study."""
    typed: Any = snapshot.sessions[-1].get("command") if snapshot.sessions else ""
    return str(typed) or f"the command that began it, with --study {as_typed(snapshot.directory)}"
