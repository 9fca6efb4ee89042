"""The file by which an exported folder is known again: of which trial it is, and what it measured."""

import json
from collections.abc import Mapping
from pathlib import Path

from kaggle_runner import __version__
from kaggle_runner.model.outcome import Outcome

MARKER = "kaggle_runner.json"


def write_marker(folder: Path, outcome: Outcome, kind: str, losses: Mapping[str, float]) -> None:
    """Say in an exported folder what it is."""
    facts = {**_identity(outcome, kind), "kaggle_runner": __version__, "losses": dict(losses)}
    (folder / MARKER).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def is_export_of(folder: Path, outcome: Outcome, kind: str) -> bool:
    """Say whether a folder is a finished export of a trial; one is only ever there whole."""
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    wanted = _identity(outcome, kind)
    return isinstance(found, dict) and {name: found.get(name) for name in wanted} == wanted


def _identity(outcome: Outcome, kind: str) -> dict[str, str]:
    return {"study": outcome.snapshot.info.name, "trial": outcome.trial.id, "kind": kind,
            "adapter_sha256": outcome.result.hashes.get("adapter", "")}
