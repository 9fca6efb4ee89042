"""What W&B's server answers, asked by ourselves: its client tries again for minutes and says nothing meanwhile.

One small question, who the key belongs to, tells an unreachable server, one that fails, and a wrong key apart.
"""

import base64
import functools
import http.client
import json
import math
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import wandb

from kaggle_runner.errors import SecretError, WandbError
from kaggle_runner.machine.deadline import in_minutes
from kaggle_runner.machine.keys import FoundKey

REACH_S = 10.0
"""Seconds to wait for an answer; the client itself retries for minutes, and 0.26 for ever."""
FAILING_S = 600.0
"""Seconds that a server may fail before a command gives up; as long as an agent waits for a trial."""
ASK_EVERY_S, TELL_EVERY_S = 5.0, 60.0
_SHOWN = 80
"""Letters of an answer that is not W&B's, in a message."""
_RUN = """query Run($entity: String, $project: String, $run: String!) {
  project(name: $project, entityName: $entity) { run(name: $run) { state host config } }
}"""
_SWEEP = """query Sweep($entity: String, $project: String, $sweep: String!) {
  project(name: $project, entityName: $entity) { sweep(sweepName: $sweep) { state } }
}"""
STUDY = "_study"
"""In a run's configuration: the study that has its trial; a name that begins so is no hyperparameter."""
HOLDER = "_holder"
"""In a run's configuration: the name of who opened it last."""

Tell = Callable[[str], None]
"""Type of what is told in words while something is waited for."""


def to_stderr(text: str) -> None:
    """Tell a person at the command line."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server made of a question."""

    url: str
    status: int | None = None
    """HTTP status; none: no answer."""
    problem: str = ""
    """Why there is none, or none that helps."""
    knows_key: bool = True
    errors: str = ""
    """What came in place of data."""

    @property
    def trouble(self) -> str:
        """What is wrong on the way to the server or with it, in words; empty if it works."""
        if self.status is None:
            return f"W&B cannot be reached at {self.url}: {self.problem}"
        if _is_failing(self.status):
            return f"W&B at {self.url} answers with HTTP {self.status}"
        return f"W&B at {self.url} answers with an error: {self.problem}" if self.problem else ""


def ask_server() -> Answer:
    """Ask W&B's server whom the key in the environment belongs to."""
    answer, data = ask("query Viewer { viewer { id } }")
    if answer.status == 200 and data is not None and data.get("viewer", answer) is None:
        return replace(answer, knows_key=False)
    return answer if data is not None or answer.status != 200 else replace(answer, problem=answer.errors)


def ask(question: str, **variables: str) -> tuple[Answer, dict[str, Any] | None]:
    """Ask a question in GraphQL, once and within seconds; return what came, and the data where it is some."""
    url = _server_url(os.environ.get("WANDB_BASE_URL"))
    credentials = base64.b64encode(f"api:{os.environ.get('WANDB_API_KEY', '')}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {credentials}",
               "User-Agent": "kaggle_runner"}
    body = json.dumps({"query": question, "variables": variables}).encode()
    try:
        status, text = _answer_to(urllib.request.Request(f"{url}/graphql", body, headers))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Answer(url=url, problem=str(getattr(error, "reason", error))), None
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, dict) and status != 401 and not _is_failing(status):  # a proxy, or the page of a login
        return Answer(url=url, problem=f"what answers there with HTTP {status} is no server of W&B's: "
                                       f"{_shortened(text)}"), None
    data = words.get("data") if isinstance(words, dict) and status == 200 else None
    errors = "" if isinstance(data, dict) else _shortened(text)
    return Answer(url=url, status=status, knows_key=status != 401, errors=errors), data if not errors else None


@functools.cache  # each time the client would start its own process, which takes file handles, for one word
def _server_url(named: str | None) -> str:
    return str(wandb.setup().settings.base_url.rstrip("/"))


def _shortened(text: bytes) -> str:
    return " ".join(text.decode(errors="replace").split())[:_SHOWN] or "it says nothing"


def _answer_to(request: urllib.request.Request) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(request, timeout=REACH_S) as said:
            return said.status, said.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _is_failing(status: int) -> bool:
    return status >= 500 or status == 429


@dataclass(frozen=True, kw_only=True)
class SeenRun:
    """What W&B says of a run."""

    state: str
    """`gone` for one that is not there, `unknown` where W&B does not answer."""
    host: str = ""
    study: str = ""
    """Directory of the study there that had it last."""
    holder: str = ""
    """The name of its last opening."""


def ask_run(path: str) -> tuple[Answer, SeenRun]:
    """Ask for a run, by entity/project/run."""
    entity, project, run = path.split("/")
    answer, data = ask(_RUN, entity=entity, project=project, run=run)
    if data is None:
        return answer, SeenRun(state="unknown")
    found = (data.get("project") or {}).get("run")
    if not found:
        return answer, SeenRun(state="gone")
    config = json.loads(found.get("config") or "{}")
    study, holder = (str(config[name].get("value") or "") if isinstance(config.get(name), dict) else ""
                     for name in (STUDY, HOLDER))
    return answer, SeenRun(state=found["state"], host=found.get("host") or "", study=study, holder=holder)


def ask_sweep(path: str) -> str:
    """Ask what has become of a sweep, by entity/project/id: its state, `DELETED`, or `UNREACHABLE`."""
    entity, project, sweep = path.split("/")
    _, data = ask(_SWEEP, entity=entity, project=project, sweep=sweep)
    if data is None:
        return "UNREACHABLE"
    found = (data.get("project") or {}).get("sweep")
    return str(found["state"]) if found else "DELETED"


def require_server(key: FoundKey, tell: Tell, *, patience_s: float = FAILING_S) -> None:
    """See that the server answers and takes the key; one that fails is waited for, and it is said.

    Raises:
        SecretError: it does not know the key.
        WandbError: it cannot be reached, or has failed for too long.
    """
    began, told = time.monotonic(), -math.inf
    while (answer := ask_server()).status is not None and answer.trouble:
        now = time.monotonic()
        if now - began > patience_s:
            raise WandbError(f"{answer.trouble}, and has done so for {in_minutes(patience_s)}; it is W&B that is "
                             f"broken, so run the same command again later")
        if now - told > TELL_EVERY_S:
            told = now
            tell(f"{answer.trouble}: waiting for it, {in_minutes(max(1.0, patience_s - (now - began)))} at most")
        time.sleep(ASK_EVERY_S)
    if answer.trouble:
        raise WandbError(f"{answer.trouble}; check the network, on Kaggle the notebook's internet setting, or run the "
                         f"sweep file without it: python -m kaggle_runner sweep FILE --backend optuna")
    if not answer.knows_key:
        raise SecretError(f"W&B at {answer.url} does not know the {key}: it is mistyped, revoked, or another server's; "
                          f"copy the key from your W&B settings")
