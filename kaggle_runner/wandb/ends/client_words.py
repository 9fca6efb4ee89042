"""What W&B's client tells its own log alone, whatever `WANDB_SILENT` says: requests that failed, jobs that died.

Read from its loggers, whose names may change with a version: then less is known, and nothing breaks.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

LOGGERS = ("wandb.agents.pyagent", "wandb.apis.public.sweeps", "wandb.sdk.internal.internal_api")
"""Of the agent, and of its requests for a trial in 0.31 and in 0.26. Source: `logger.error` in these modules."""
_LONGEST = 300


@dataclass(frozen=True, kw_only=True)
class DeadJob:
    """A job that ended inside the client, before our function was called: nobody has opened its run."""

    run: str
    words: str


class ClientWords(logging.Handler):
    """What was heard; other threads write it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.failed_requests = 0
        """Requests for a trial, since the last that was handed out, that W&B answered with an error."""
        self.last_answer = ""
        self.dead_jobs: list[DeadJob] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take in one line of the log."""
        text = record.getMessage()
        dead = re.match(r"Run (\w+) errored:", text)
        error = record.exc_info[1] if record.exc_info else None
        if dead:
            self.dead_jobs.append(DeadJob(run=dead[1], words=_last_line(text)))
        elif error is not None:
            self.failed_requests += 1
            self.last_answer = _last_line(str(error)) or type(error).__name__

    def forget_requests(self) -> None:
        """Begin to count anew: a trial was handed out."""
        self.failed_requests = 0


@contextlib.contextmanager
def listening() -> Iterator[ClientWords]:
    """Listen to the client during the block."""
    words = ClientWords()
    for name in LOGGERS:
        logging.getLogger(name).addHandler(words)
    try:
        yield words
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(words)


def _last_line(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return lines[-1][:_LONGEST] if lines else ""
