"""Runs that nobody holds, as W&B shows them: jobs that nobody got, and trials whose agent is gone.

A job whose answer was lost on its way, or died with the agent that had it, is `pending` for ever: no client opened its
run, so none can end it. A run whose agent fell silent is `crashed`, and W&B hands it to nobody. The client is not
asked: its own process may be another's at the moment.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kaggle_runner.study.journal import JOURNAL, read_study
from kaggle_runner.wandb.answers import ask
from kaggle_runner.wandb.checkpoints import CHECKPOINT, ENDED, FOLDER
from kaggle_runner.wandb.sweep import RemoteSweep

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


def crashed_with_checkpoint(sweep: RemoteSweep, directory: Path) -> tuple[list[str], str]:
    """Return the crashed runs of a sweep that hold a checkpoint; and what W&B answered in place of that.

    Without those that a process of the study in `directory` holds, of which W&B has not heard for a while.
    """
    entity, project, name = sweep.path.split("/")
    filters = json.dumps({"sweep": name, "state": "crashed"})
    answer, data = ask(_CRASHED, entity=entity, project=project, filters=filters)
    runs = _nodes(((data or {}).get("project") or {}).get("runs"))
    crashed = [node["name"] for node in runs if any(int(file["sizeBytes"]) > len(ENDED) for file in _nodes(
        node.get("files")))]
    records = read_study(directory).records if crashed and (directory / JOURNAL).is_file() else ()
    held = {record.trial.id for record in records if record.result is None and record.is_held}
    return [run for run in crashed if run not in held], answer.trouble or answer.errors


def pending_of(sweep: RemoteSweep, agents: Iterable[str]) -> list[str]:
    """Return the runs that W&B handed to agents, by their ids, and that nobody has opened, as far as it says."""
    wanted = set(agents)
    names = [node.get("name") or node["id"] for node in _nodes(_ask(sweep, _AGENTS).get("agents"))
             if node.get("id") in wanted] if wanted else []
    return [node["name"] for name in names for node in _nodes(
        (_ask(sweep, _RUNS, agent=name).get("agent") or {}).get("runs")) if node.get("state") == "pending"]


def _ask(sweep: RemoteSweep, question: str, **variables: str) -> dict[str, Any]:
    entity, project, name = sweep.path.split("/")
    _, data = ask(question, entity=entity, project=project, sweep=name, **variables)
    return ((data or {}).get("project") or {}).get("sweep") or {}


def _nodes(connection: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [edge["node"] for edge in (connection or {}).get("edges") or () if edge.get("node")]
