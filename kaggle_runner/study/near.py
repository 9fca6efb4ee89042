"""Folders that are no study: the studies near one, which a person probably meant, and which may become one."""

import fnmatch
import os
from pathlib import Path

from kaggle_runner.errors import StudyError
from kaggle_runner.files import json_lines

JOURNAL = "trials.jsonl"
STUDIES, LAB = "studies", "hyperparameter_tuning"
FOLDERS = (STUDIES, LAB, "kernels")
"""Where this program puts studies, below the current directory."""
MOST = 8
OWN_FILES = ("study.lock", "environment.json", "optuna.journal", "trials", "report", "configs", "study.yaml", "plots",
             "summary.md", "decision.json", "wandb", "confirm", "best.yaml", "export", "shared")
"""What a study's own folder may hold before its journal does: an agent's client, or a session before it, was there."""


def studies_near(path: Path) -> list[Path]:
    """List studies beside a path, below it, and where this program puts them; the ones that were written last first."""
    found: dict[Path, float] = {}
    for folder, depth in [(path, 2), (path.parent, 1), (Path(), 1), *((Path(name), 4) for name in FOLDERS)]:
        for level in range(depth):
            try:
                for journal in folder.glob("*/" * (level + 1) + JOURNAL):
                    if journal.stat().st_size:
                        found.setdefault(journal.parent, journal.stat().st_mtime)
            except (OSError, ValueError):
                continue
    own: dict[Path, Path] = {}
    for study in sorted(found, key=lambda study: -found[study]):
        own.setdefault(study.resolve(), study)
    return list(own.values())


def listed(studies: list[Path]) -> str:
    """Write studies in a line, and how many were left out."""
    more = f" and {len(studies) - MOST} more" if len(studies) > MOST else ""
    return ", ".join(map(str, studies[:MOST])) + more


def no_study(path: Path) -> StudyError:
    """Say that a path is no study, and which one was probably meant: the one that it is in, before others."""
    meant = next((folder for folder in (*path.parents, *Path(os.path.abspath(path)).parents)
                  if (folder / JOURNAL).is_file()), None)
    if meant is not None:
        return StudyError(f"{path} is no study itself; give the one that it is in: {meant}")
    return StudyError(f"{path} is not a study: it has no {JOURNAL}; {way_to_a_study(path)}")


def way_to_a_study(path: Path) -> str:
    """Say what to do where a path is no study: name those that are here, or how the first one is made."""
    studies = studies_near(path)
    if studies:
        return f"studies here: {listed(studies)}"
    return "there is no study here; the first one comes from: python -m kaggle_runner dry-run"


def refuse_foreign_folder(directory: Path) -> None:
    """Refuse a folder that holds other files than a study's, such as rows, which a study would lie among.

    Raises:
        StudyError: names some of them.
    """
    if (directory / JOURNAL).exists():
        return
    names = sorted(path.name for path in directory.iterdir())
    strange = [name for name in names if not fnmatch.filter([name], "worker*.log") and name not in OWN_FILES]
    if strange:
        shown = ", ".join(strange[:3]) + (" and more" if len(strange) > 3 else "")
        raise StudyError(f"cannot use {directory} as a study: it is a folder with other files ({shown}); choose a new "
                         f"one with --study, such as --study {directory / 'study'}")


def has_begun(directory: Path) -> bool:
    """Say whether a folder has a study's journal with its first line: a full disk, or a kill, may leave less."""
    return next(json_lines(directory / JOURNAL), {}).get("event") == "study"


def refuse_trials_without_journal(directory: Path) -> None:
    """Refuse to begin a study over trials whose record is gone.

    Raises:
        StudyError: there are some.
    """
    left = sorted(path.name for path in directory.glob("trials/*"))
    if left:
        raise StudyError(f"{directory / JOURNAL} is empty or gone, but {directory / 'trials'} holds {len(left)} of "
                         f"its trials, which a new study would overwrite; restore {JOURNAL} from a copy, or choose "
                         f"another directory with --study")


def confirm_directory(directory: Path) -> Path:
    """Return where the confirmation of a sweep's directory lies."""
    return directory / "confirmation"
