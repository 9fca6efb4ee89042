"""Write the pages and pictures of the tuning lab: every report that a person asks for at home goes through here.

A study of the lab gets a page that begins with its decision, the folder of a plan one with all of its studies; any
other study gets its ordinary report.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kaggle_runner.files import make_directory
from kaggle_runner.lab.contest import Contest
from kaggle_runner.lab.decision import Decision
from kaggle_runner.lab.plan import Stage
from kaggle_runner.report import write
from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.costs import cost_figures
from kaggle_runner.report.lab.figures import curves_figure, gains_figure, losses_figure
from kaggle_runner.report.lab.leads import find_lead, find_plan, plan_overview, stage_lead
from kaggle_runner.report.png import draw_figures
from kaggle_runner.study.journal import JOURNAL, Snapshot, confirm_directory, read_study

RELOAD_S = 20
"""Seconds after which the page of a watched study loads itself again."""


def write_any_report(studies: Sequence[Path], *, out: Path | None = None, notebook: bool = True,
                     notify: Callable[[str], None] = lambda message: None) -> Path:
    """Write the report of studies, of the lab or not, or the page of the one folder of a plan; return the page.

    Raises:
        StudyError: one of them is not a study, or the folder cannot be written.
        SweepError: the plan's file has problems.
    """
    if len(studies) == 1 and find_plan(studies[0]) is not None:
        return write_plan_page(studies[0], out=out)
    return write.write_report(studies, out=out, notebook=notebook, notify=notify, lead_of=find_lead)


def watch_any_report(studies: Sequence[Path], *, out: Path | None = None, poll_s: float = 5.0,
                     refresh: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Write the page now and again whenever a trial starts, ends or is evaluated; yield it each time, without end.

    `refresh` is called before every look but the first, for studies that somebody must bring here. The page loads
    itself again. Only the page is written: call `write_any_report` for the rest when the sweep is done.

    Raises:
        StudyError: as `write_any_report`.
    """
    seen: object = None
    while True:
        now = _sizes(studies), [[record.status_word for record in read_study(study).records if not record.result]
                                for study in studies]
        if now != seen:
            seen = now
            yield write.write_page(studies, out=out, reload_s=RELOAD_S, lead_of=find_lead)
        time.sleep(poll_s)
        refresh()


def write_study_page(directory: Path) -> Path:
    """Write the page of one study of the lab alone, and return it.

    Raises:
        StudyError: it is not a study, or the folder cannot be written.
    """
    return write.write_page([directory], lead_of=find_lead)


def write_plan_page(directory: Path, *, out: Path | None = None) -> Path:
    """Write the page of a tuning plan from what its folders hold now: what it decided, and each of its studies.

    Raises:
        StudyError: it is no plan's folder, none of its studies has begun, or the page cannot be written.
        SweepError: the plan's file has problems.
    """
    found = find_plan(directory)
    so_far = [stage for stage in found[1] if (stage.folder / JOURNAL).is_file()] if found else []
    if found is None or not so_far:
        return write.write_page([directory])  # which says what it lacks
    leads = {stage.folder: stage_lead(stage) for stage in so_far}
    return write.write_page(list(leads), out=out or directory / "report", lead_of=leads.__getitem__,
                            overview=plan_overview(*found))


def present_stage(stage: Stage) -> None:
    """Draw what belongs into the folder of a stage that is done, by the same code as every report.

    Raises:
        StudyError: the folder cannot be written.
    """
    if stage.decision is None:
        return
    lead = stage_lead(stage)
    if stage.study is not None:
        write.write_page([stage.folder], lead_of=lambda _: lead)
        write_contest_plots(stage.study, read_study(stage.folder), stage.decision, stage.folder / "plots")
    elif stage.contest is not None:
        write.write_report([stage.folder], lead_of=lambda _: lead)
        confirmed = read_study(confirm_directory(stage.folder))
        write_contest_plots(stage.contest, confirmed, stage.decision, stage.folder / "plots")


def write_contest_plots(contest: Contest, snapshot: Snapshot, decision: Decision, directory: Path) -> list[Path]:
    """Write the plots about the values and seeds of a study, and that of its time; return their paths.

    Raises:
        StudyError: the folder cannot be written.
    """
    make_directory(directory)
    analysis = analyse(snapshot)
    figures = [losses_figure(contest, snapshot, decision), gains_figure(contest, decision),
               curves_figure(contest, analysis, snapshot),
               *(figure for figure in cost_figures(analysis) if figure.key == "time")]
    return draw_figures([figure for figure in figures if figure is not None], directory)


def _sizes(studies: Sequence[Path]) -> tuple[tuple[str, int], ...]:
    """Return the files that grow while a sweep runs, with their sizes."""
    found = []
    for study in studies:
        for path in [study / JOURNAL, *sorted(study.glob("trials/*/history.jsonl"))]:
            with contextlib.suppress(FileNotFoundError):  # a trial that starts again drops its history
                found.append((str(path), path.stat().st_size))
    return tuple(found)
