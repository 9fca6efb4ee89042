"""The studies that are near a path that is none: what a person probably meant."""

from pathlib import Path

JOURNAL = "trials.jsonl"
FOLDERS = ("studies", "hyperparameter_tuning", "kernels")
"""Where this program puts studies, below the current directory."""
MOST = 8


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


def way_to_a_study(path: Path) -> str:
    """Say what to do where a path is no study: name those that are here, or how the first one is made."""
    studies = studies_near(path)
    if studies:
        return f"studies here: {listed(studies)}"
    return "there is no study here; the first one comes from: python -m kaggle_runner dry-run"
