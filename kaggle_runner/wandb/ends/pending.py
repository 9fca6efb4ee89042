"""Jobs that nobody has: W&B handed them out, and its answer was lost on the way, or died with the agent that had it.

Their runs are `pending` for ever: no client opened them, so none can end them.
"""

from collections.abc import Iterable
from typing import Any

from kaggle_runner.wandb.answers import ask
from kaggle_runner.wandb.sweep import RemoteSweep

_MOST = 1000
_IN_SWEEP = """query %s($entity: String, $project: String, $sweep: String!, $agent: String = "") {
  project(name: $project, entityName: $entity) { sweep(sweepName: $sweep) { %s } }
}"""
_AGENTS = _IN_SWEEP % ("Agents", "agents { edges { node { id name } } }")
_RUNS = _IN_SWEEP % ("AgentRuns", f"agent(agentName: $agent) {{ runs(first: {_MOST}) {{ edges {{ node {{ name state }} "
                                  f"}} }} }}")


def pending_of(sweep: RemoteSweep, agents: Iterable[str]) -> list[str]:
    """Return the runs that W&B handed to agents, by their ids, and that nobody has opened; none where it says nothing.

    The client is not asked: its own process may be another's at the moment.
    """
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
