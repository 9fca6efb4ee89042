"""Write the report of one or more studies: one page, and beside it the same plots and numbers as plain files.

Reads studies, finished or running, and changes nothing in them but the folder of the report.
"""

import base64
import html
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kaggle_runner.errors import StudyError
from kaggle_runner.files import cannot_write, write_atomically
from kaggle_runner.report.analysis.analysis import Analysis, analyse, labels
from kaggle_runner.report.figures import Figure
from kaggle_runner.report.lead import Lead, Overview, nothing_first
from kaggle_runner.report.page import page, page_figures
from kaggle_runner.report.png import draw_figures, overview_png
from kaggle_runner.report.sentences import chosen, noise, repeats, winner
from kaggle_runner.report.style import names_text, setting_text
from kaggle_runner.study.journal import Snapshot, read_study
from kaggle_runner.study.page_mark import mark_of
from kaggle_runner.study.trial import RUNNING

LeadOf = Callable[[Path], Lead | None]
"""Type of what returns what is said first of the study in a directory."""
PAGE, SUMMARY = "index.html", "summary.md"
_WAY_OUT = "choose another folder with report --out"
_MOST_SHOWN = 20


def write_report(studies: Sequence[Path], *, out: Path | None = None, notebook: bool = True,
                 notify: Callable[[str], None] = lambda message: None, lead_of: LeadOf = nothing_first) -> Path:
    """Write the report of one study, or of several side by side, and return its page.

    Into `out`, by default the folder `report` of the study, or beside the studies if they are several. There are PNGs,
    `trials.csv`, `curves.csv`, `surfaces.csv`, `summary.md` and `analysis.ipynb` too, for several studies in a folder
    each. `notify` takes what was done without, and why; `lead_of` returns what is said first of a study.

    Raises:
        StudyError: one of them is not a study, or the folder cannot be written.
    """
    mark = mark_of(studies)
    analyses = [analyse(read_study(directory)) for directory in studies]
    directory, leads = out or report_directory(studies), [lead_of(study) for study in studies]
    _write(page(analyses, leads=leads), directory, mark, analyses)
    for analysis, lead, folder in zip(analyses, leads, _folders(analyses, directory), strict=True):
        _write_files(analysis, lead, folder, notebook=notebook, notify=notify)
    if len(analyses) > 1:
        from kaggle_runner.report.compare import comparison_figures  # a kernel has one study

        _write_pictures(comparison_figures(analyses), directory)
    return directory / PAGE


def write_page(studies: Sequence[Path], *, out: Path | None = None, reload_s: int | None = None,
               lead_of: LeadOf = nothing_first, overview: Overview | None = None) -> Path:
    """Write the page and return it, and anew what a report wrote beside it, but for the notebook.

    With `reload_s` it is the page alone, which loads itself again after so many seconds.

    With an `overview` it is the page of a plan: that stands first, in the place of a comparison.

    Raises:
        StudyError: as `write_report`.
    """
    mark = mark_of(studies)
    analyses, leads = [analyse(read_study(study)) for study in studies], [lead_of(study) for study in studies]
    directory = out or report_directory(studies)
    written = _write(page(analyses, reload_s=reload_s, leads=leads, overview=overview), directory, mark, analyses)
    if reload_s is None and find_spec("kaggle_runner.report.files"):  # which a launcher leaves at home
        for analysis, lead, folder in zip(analyses, leads, _folders(analyses, directory), strict=True):
            if (folder / SUMMARY).exists():  # of an earlier report, which would tell another story
                _write_tables(analysis, folder)
                _write_words(analysis, lead, folder)
    return written


def report_directory(studies: Sequence[Path]) -> Path:
    """Return where the report of these studies goes: into the one study, or beside the several."""
    if len(studies) == 1:
        return studies[0] / "report"
    return Path(os.path.commonpath([study.resolve().parent for study in studies])) / "report"


@dataclass(frozen=True)
class StudyView:
    """A study as a notebook displays it: its best trials as a table, and its picture."""

    snapshot: Snapshot

    def _repr_html_(self) -> str:
        """Return what Jupyter, Colab and Kaggle show for an object at the end of a cell."""
        analysis = analyse(self.snapshot)
        names = [axis.name for axis in analysis.axes]
        rows = [*analysis.ranked, *(row for row in analysis.rows if row not in analysis.ranked)]
        header = _cells("th", ["trial", "status", analysis.metric, *names])
        body = "".join(_cells("td", [row.id, row.status, analysis.text(row.compared_by),
                                     *(setting_text(row.params, name) for name in names)])
                       for row in rows[:_MOST_SHOWN])
        more = f"<p>and {len(rows) - _MOST_SHOWN} more</p>" if len(rows) > _MOST_SHOWN else ""
        picture = base64.b64encode(overview_png(self.snapshot)).decode()
        return (f"<p><b>{html.escape(analysis.name)}</b>. {html.escape(winner(analysis))}</p>"
                f"<p>{html.escape(noise(analysis))}</p><p>{html.escape(repeats(analysis))}</p>"
                f"<table><thead>{header}</thead><tbody>{body}</tbody></table>{more}"
                f'<img alt="Learning curves and best values. {html.escape(winner(analysis))}" style="max-width:100%" '
                f'src="data:image/png;base64,{picture}">')

    def __repr__(self) -> str:
        analysis = analyse(self.snapshot)
        texts = [" ".join(pair) for pair in chosen(analysis, analysis.best, 40)] if analysis.best else []
        best = f"Trial {analysis.best.id} has {names_text(texts, 8)}." if analysis.best and texts else ""
        return " ".join(part for part in (f"{analysis.name}:", winner(analysis), noise(analysis), best) if part)


def show(study: Path | str) -> StudyView:
    """Return a study to be displayed by a notebook: `show("studies/demo")` as the last line of a cell.

    Raises:
        StudyError: it is not a study.
    """
    return StudyView(read_study(Path(study)))


def _cells(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _write(text: str, directory: Path, mark: str, analyses: Sequence[Analysis]) -> Path:
    _make(directory)
    if any(row.status == RUNNING for analysis in analyses for row in analysis.rows):
        mark = mark.replace(" bytes", " bytes while trials ran")  # nothing says when that is over: never a current page
    write_atomically(directory / PAGE, text.rstrip("\n") + f"\n{mark}", way_out=_WAY_OUT)
    return directory / PAGE


def _write_files(analysis: Analysis, lead: Lead | None, directory: Path, *, notebook: bool,
                 notify: Callable[[str], None]) -> None:
    from kaggle_runner.report.notebook import prepare_kernel, write_notebook  # launchers, which write pages, lack it

    _write_tables(analysis, directory)
    if notebook:
        prepare_kernel()
    with ThreadPoolExecutor(max_workers=1) as executor:  # the kernel is a process of its own: draw meanwhile
        running = executor.submit(write_notebook, analysis, directory, lead, execute=notebook)
        _write_words(analysis, lead, directory)
        try:
            problem = running.result()
        except OSError as error:
            raise cannot_write(directory / "analysis.ipynb", error, way_out=_WAY_OUT) from error
    if problem and notebook:
        notify(f"analysis.ipynb was not executed: {problem}")


def _write_tables(analysis: Analysis, directory: Path) -> None:
    from kaggle_runner.report.files import curves_csv, surfaces_csv, trials_csv

    _make(directory)
    for name, text in (("trials", trials_csv(analysis)), ("curves", curves_csv(analysis)),
                       ("surfaces", surfaces_csv(analysis))):
        write_atomically(directory / f"{name}.csv", text, way_out=_WAY_OUT)


def _write_words(analysis: Analysis, lead: Lead | None, directory: Path) -> None:
    from kaggle_runner.report.files import summary_markdown

    pictures = [path.name for path in _write_pictures(page_figures(analysis, lead), directory)]
    write_atomically(directory / SUMMARY, summary_markdown(analysis, pictures, lead), way_out=_WAY_OUT)


def _write_pictures(figures: Sequence[Figure], directory: Path) -> list[Path]:
    _make(directory)
    try:
        return draw_figures(figures, directory)
    except OSError as error:
        raise cannot_write(directory, error, way_out=_WAY_OUT) from error


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StudyError(f"cannot write the report to {directory}: it is a file; choose another folder with "
                         f"report --out") from error
    except OSError as error:
        raise cannot_write(directory, error, way_out=_WAY_OUT) from error


def _folders(analyses: Sequence[Analysis], directory: Path) -> list[Path]:
    """Return where the files of each study go: beside the page, or in a folder each if they are several."""
    if len(analyses) == 1:
        return [directory]
    names = ["".join(char if char.isalnum() or char in "-_." else "_" for char in label) for label in labels(analyses)]
    return [directory / f"{i}_{name}" for i, name in enumerate(names, start=1)]
