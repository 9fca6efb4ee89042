"""A shared study as a study directory, to be read by everything that reads one."""

import dataclasses
import json
from pathlib import Path

from kaggle_runner.files import write_atomically
from kaggle_runner.study.journal import JOURNAL, Snapshot
from kaggle_runner.study.lock import ELSEWHERE

COPY = "shared"
"""In a study's folder, the copy of the whole study that it shares with other machines."""
HOST = "database"
"""The host of a copy's only session."""


def is_copy(snapshot: Snapshot) -> bool:
    """Say whether a study is such a copy, whose trials run on other machines."""
    return any(session.get("host") == HOST for session in snapshot.sessions)


def write_copy(snapshot: Snapshot, directory: Path, *, uid: str, shown: str) -> None:
    """Write a shared study as a study directory."""
    info = dataclasses.asdict(snapshot.info)
    created = info.pop("created")
    events = [{"event": "study", **info, "time": created}, *({"event": "known", **event} for event in snapshot.known),
              {"event": "shared", "study": uid, "database": shown, "holder": ""},
              {"event": "session", "host": HOST, "time": created,
               "command": f"python -m kaggle_runner sweep FILE --storage {shown}"}]
    if snapshot.baseline is not None:
        events.append({"event": "baseline", "value": snapshot.baseline, "time": created})
    for record in snapshot.records:
        events.append({"event": "start", "trial": dataclasses.asdict(record.trial), "time": record.started}
                      | ({"by": ELSEWHERE} if record.is_held else {}))
        if record.result is not None:
            events.append({"event": "end", "result": dataclasses.asdict(record.result),
                           "time": record.started + record.result.seconds})
    write_atomically(directory / JOURNAL, "".join(json.dumps(event) + "\n" for event in events))
