"""Runs that nobody holds, as W&B shows them: jobs that nobody got, and trials whose agent is gone.

A job whose answer was lost on its way, or died with the agent that had it, is `pending` for ever: no client opened its
run, so none can end it. A run whose agent fell silent is `crashed`, and W&B hands it to nobody. The client is not
asked: its own process may be another's at the moment.
"""

import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kaggle_runner.study.journal import JOURNAL, read_study
from kaggle_runner.study.trial import goes_on
from kaggle_runner.wandb.answers import Answer, SeenRun, ask, ask_run
from kaggle_runner.wandb.checkpoints import CHECKPOINT, ENDED, FOLDER
from kaggle_runner.wandb.sweep import RemoteSweep

OPEN = ("running", "preempting")
"""States of a run that somebody has opened, and that has no end yet."""
_MOST = 1000
_IN_SWEEP = """query %s($entity: String, $project: String, $sweep: String!, $agent: String = "") {
  project(name: $project, entityName: $entity) { sweep(sweepName: $sweep) { %s } }
}"""
_AGENTS = _IN_SWEEP % ("Agents", "agents { edges { node { id name } } }")
_RUNS = _IN_SWEEP % ("AgentRuns", f"agent(agentName: $agent) {{ runs(first: {_MOST}) {{ edges {{ node {{ name state }} "
                                  f"}} }} }}")
_CRASHED = f"""query Crashed($entity: String, $project: String, $filters: JSONString) {{
  project(name: $project, entityName: $entity) {{ runs(filters: $filters, first: {_MOST}) {{ edges {{ node {{ name
    files(names: ["{FOLDER}/{CHECKPOINT}"], first: 1) {{ edges {{ node {{ sizeBytes }} }} }} }} }} }} }}
}}"""
_IN_STATE = f"""query RunsInState($entity: String, $project: String, $filters: JSONString) {{
  project(name: $project, entityName: $entity) {{
    runs(filters: $filters, first: {_MOST}) {{ edges {{ node {{ name }} }} }} }}
}}"""


def crashed_that_go_on(sweep: RemoteSweep, directory: Path) -> tuple[dict[str, str], str]:
    """Return the crashed runs of a sweep whose trials go on, and why; and what W&B answered in place of that.

    Those that hold a checkpoint, whatever machine they are of, and those that the study in `directory` knows to have
    no end, or to go on later, which W&B never got. Without those that a process of the study holds, of which W&B has
    not heard for a while, and those whose end the study has.
    """
    answer, runs = _ask_runs(sweep, _CRASHED, "crashed")
    sent = {node["name"]: any(int(file["sizeBytes"]) > len(ENDED) for file in _nodes(node.get("files")))
            for node in runs}
    records = read_study(directory).records if sent and (directory / JOURNAL).is_file() else ()
    own = {record.trial.id: goes_on(record.result) and record.is_held for record in records if not record.has_own_end}
    ended = {record.trial.id for record in records if record.has_own_end}
    why = {True: "its agent is gone, and its checkpoint is on W&B",
           False: "its agent is gone, and its trial has no end"}
    return {run: why[there] for run, there in sent.items() if (there or run in own) and not own.get(run)
            and run not in ended}, answer.trouble or answer.errors


def runs_in(sweep: RemoteSweep, *states: str) -> set[str]:
    """Return the runs of a sweep that are in one of some states, as far as W&B says."""
    return {node["name"] for node in _ask_runs(sweep, _IN_STATE, *states)[1]}


def holder_of(sweep: RemoteSweep, run: str) -> SeenRun:
    """Ask W&B who has a run of a sweep."""
    return ask_run(f"{sweep.path.rsplit('/', 1)[0]}/{run}")[1]


def is_of(holder: SeenRun, directory: Path) -> bool:
    """Say whether a run was last opened by an agent of the study in a directory here, as far as W&B knows."""
    return holder.host in ("", socket.gethostname()) and holder.study in ("", str(directory.resolve()))


def pending_of(sweep: RemoteSweep, agents: Iterable[str]) -> list[str]:
    """Return the runs that W&B handed to agents, by their ids, and that nobody has opened, as far as it says."""
    wanted = set(agents)
    names = [node.get("name") or node["id"] for node in _nodes(_ask(sweep, _AGENTS).get("agents"))
             if node.get("id") in wanted] if wanted else []
    return [node["name"] for name in names for node in _nodes(
        (_ask(sweep, _RUNS, agent=name).get("agent") or {}).get("runs")) if node.get("state") == "pending"]


def _ask_runs(sweep: RemoteSweep, question: str, *states: str) -> tuple[Answer, list[dict[str, Any]]]:
    entity, project, name = sweep.path.split("/")
    filters = json.dumps({"sweep": name, "state": {"$in": states}})
    answer, data = ask(question, entity=entity, project=project, filters=filters)
    return answer, _nodes(((data or {}).get("project") or {}).get("runs"))


def _ask(sweep: RemoteSweep, question: str, **variables: str) -> dict[str, Any]:
    entity, project, name = sweep.path.split("/")
    _, data = ask(question, entity=entity, project=project, sweep=name, **variables)
    return ((data or {}).get("project") or {}).get("sweep") or {}


def _nodes(connection: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [edge["node"] for edge in (connection or {}).get("edges") or () if edge.get("node")]
