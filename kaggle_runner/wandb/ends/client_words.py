"""What W&B's client tells its own log alone, whatever `WANDB_SILENT` says: requests that failed, jobs that died.

Read from its loggers, whose names may change with a version: then less is known, and nothing breaks.
"""

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggle_runner.wandb.connection import core_logs, explained

LOGGERS = ("wandb.agents.pyagent", "wandb.sdk.lib.retry", "wandb.apis.public.sweeps",
           "wandb.sdk.internal.internal_api")
"""Of the agent; of requests that got no error of HTTP, which 0.26 makes again and again and tells at the third time;
and of requests for a trial in 0.31 and in 0.26. Source: `logger.info` and `logger.error` in these modules."""
_AGENT, _RETRIER = LOGGERS[:2]
_WORDLESS = "the client ended it without a word"
_REGISTERED = "agent_id = "
_RETRY = '"api: retrying HTTP error"'
_LONGEST, _SHOWN = 300, 80


@dataclass(frozen=True, kw_only=True)
class DeadJob:
    """A job that ended inside the client; if our function was not called, nobody has opened its run."""

    run: str
    words: str


class ClientWords(logging.Handler):
    """What was heard; other threads write it."""

    def __init__(self, registered: Callable[[str], None]) -> None:
        """Begin; `registered` is told each id of `agents`, before the client asks for a trial by that name."""
        super().__init__(logging.DEBUG)
        self._registered = registered
        self.failed_requests = 0
        """Requests for a trial, since the last that was handed out, that W&B answered with an error."""
        self.last_answer = ""
        self.agents: list[str] = []
        """The ids that W&B gave the agent: one for each time that it registered."""
        self.retried = ""
        """What a request, since the last trial was handed out, got that W&B's own process tries again in silence."""
        self._seen_retries = 0
        self._taken: dict[str, None] = {}
        self._ended: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take in one line of the log; what is no error is heard of the agent alone."""
        text = record.getMessage()
        if record.name == _AGENT:
            self._hear_of_job(text)
        error = record.exc_info[1] if record.exc_info else None
        failed = record.levelno >= logging.ERROR or (
            record.name == _RETRIER and getattr(error, "response", None) is None)  # else it is told by its request
        if failed and error is not None and not text.startswith("Run "):
            self.failed_requests += 1
            self.last_answer = explained(_last_line(str(error)) or type(error).__name__)

    def _hear_of_job(self, text: str) -> None:
        """Note the agent's name, and a job that came, was stopped before it began, began, or ended.

        The client says of a job that ends before it says of it that it runs, as one does that dies at once, that it is
        done, and no word of its error: until 0.28 a matter of chance.
        """
        if text.startswith(_REGISTERED):
            self.agents.append(text.removeprefix(_REGISTERED))
            self._registered(self.agents[-1])
        heard = re.match(r"(Job received: Job\(|Job received: stop\(|Spawning new thread for run |"
                         r"Thread joined for run |Run )(\w+)( errored:)?", text)
        what, run, errored = heard.groups() if heard else ("", "", None)
        if what in ("Job received: Job(", "Spawning new thread for run "):
            self._taken[run] = None
        elif what == "Job received: stop(" and run not in self._ended:
            self._taken.pop(run, None)
        elif what == "Thread joined for run ":
            self._ended.setdefault(run, _WORDLESS)
        elif errored:
            self._ended[run] = _last_line(text)

    def look_at_core(self) -> str:
        """Return what the last request got that W&B's own process tries again, if one did since the last look."""
        tried = [facts for log in core_logs() for facts in _retries(log)]
        news, self._seen_retries = tried[self._seen_retries:], len(tried)
        if not news:
            return ""
        self.retried = f"HTTP {news[-1].get('status')}: {' '.join(str(news[-1].get('body')).split())[:_SHOWN]}"
        return self.retried

    @property
    def dead_jobs(self) -> list[DeadJob]:
        """The jobs that ended, those that were done by our function among them."""
        return [DeadJob(run=run, words=words) for run, words in list(self._ended.items())]

    @property
    def taken(self) -> list[str]:
        """The runs whose jobs the client was given, but for those that W&B stopped before they began."""
        return list({**self._taken, **self._ended})

    def forget_requests(self) -> None:
        """Begin to count anew: a trial was handed out."""
        self.failed_requests, self.retried = 0, ""


@contextlib.contextmanager
def listening(words: ClientWords) -> Iterator[None]:
    """Listen to the client during the block, and keep a log that it cannot write from filling the screen."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels, raises = [each.level for each in loggers], logging.raiseExceptions
    logging.raiseExceptions = False
    for each in loggers:
        each.setLevel(logging.DEBUG)
        each.addHandler(words)
    try:
        yield
    finally:
        logging.raiseExceptions = raises
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
            each.removeHandler(words)


def _retries(log: Path) -> list[dict[str, Any]]:
    """Read from the log of W&B's own process which answers made it try a request again."""
    try:
        lines = log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if _RETRY in line]
    except (OSError, ValueError):
        return []


def _last_line(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return lines[-1][:_LONGEST] if lines else ""
