"""The fields that GraphQL can select from the loopback W&B server, its mutations, and the filters over runs.

The unpleasant habits of the real answers that it keeps: a run's config, summary and history are JSON inside text;
sizes are text; a project has an opaque id beside its name; a list comes page by page with a cursor. `wandb_server`
has the whole list.
"""

import datetime
import json
import math
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from tests.standins.wandb_artifacts import artifact_mutations
from tests.standins.wandb_records import Agent, Run, Sweep, storage_id
from tests.standins.wandb_state import Refusal, State

Node = dict[str, Any]
FEATURES = ("FILESTREAM_GZIP", "MARK_RUN_FILES_UPLOADED", "SWEEPS_QUERY_FILTERING")


def timestamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def project_node(entity: str, project: str) -> Node:
    """Return what every answer says of a project."""
    return {
        "id": storage_id("Project", project, entity),
        "internalId": "1",
        "name": project,
        "entityName": entity,
        "entity": {"id": storage_id("Entity", entity), "name": entity},
        "readOnly": False,
    }


def run_node(run: Run, url: str) -> Node:
    """Return a run's fields; the real server sends mappings as JSON text, and so does this one."""
    rows = run.lines.get("wandb-history.jsonl", [])
    events = run.lines.get("wandb-events.jsonl", [])
    output = run.lines.get("output.log", [])

    def file_node(name: str) -> Node:
        where = f"{url}/storage/{run.entity}/{run.project}/{run.name}/{name}"
        return {
            "id": storage_id("File", run.name, name),
            "name": name,
            "url": lambda _: where,
            "directUrl": where,
            "sizeBytes": str(len(run.files[name])),
            "mimetype": "text/plain",
            "updatedAt": timestamp(run.created),
            "md5": "",
        }

    def files(arguments: Mapping[str, Any]) -> Node:
        wanted = arguments.get("names") or list(run.files)
        return connection([file_node(name) for name in wanted if name in run.files], arguments)

    def wandb_config(arguments: Mapping[str, Any]) -> str:
        """Return W&B's own part of the config; without `t` the client takes the run for one that never started."""
        own = run.config.get("_wandb", {}).get("value", {})
        return json.dumps({key: own[key] for key in arguments["keys"] if key in own})

    def sampled(arguments: Mapping[str, Any]) -> list[list[Node]]:
        specs = arguments["specs"]
        return [_sampled(run, spec) for spec in ([specs] if isinstance(specs, str) else specs)]

    return {
        "__typename": "Run",
        "id": run.id,
        "name": run.name,
        "projectId": "1",
        "project": project_node(run.entity, run.project),
        "sweepName": run.sweep or None,
        "state": run.state,
        "exitcode": run.exitcode,
        "config": json.dumps(run.config),
        "summaryMetrics": json.dumps(run.summary),
        "systemMetrics": json.dumps({}),
        "wandbConfig": wandb_config,
        "stopped": run.stopped,
        "shouldStop": run.stopped,
        "running": run.state == "running",
        "failed": run.state == "failed",
        "readOnly": False,
        "createdAt": timestamp(run.created),
        "heartbeatAt": timestamp(run.created),
        "user": {"name": "Tester", "username": run.entity},
        "tags": run.about.get("tags") or [],
        **{
            key: run.about.get(key)
            for key in ("displayName", "description", "notes", "group", "jobType", "commit", "host", "program")
        },
        "historyLineCount": len(rows),
        "eventsLineCount": len(events),
        "logLineCount": len(output),
        "historyTail": json.dumps(rows[-1:]),
        "eventsTail": json.dumps(events[-1:]),
        "historyKeys": _history_keys(run),
        "history": lambda arguments: _history(run, arguments),
        "events": lambda arguments: events[: arguments.get("samples") or None],
        "sampledHistory": sampled,
        "parquetHistory": lambda _: {"parquetUrls": [], "liveData": run.history},
        "files": files,
        "fileCount": len(run.files),
    }


def _history_keys(run: Run) -> Node:
    history = run.history
    keys = {key: None for row in history for key in row}
    counts = {key: {"typeCounts": [{"type": "number", "count": len(run.column(key))}]} for key in keys}
    last = max((row.get("_step", -1) for row in history), default=-1)
    return {"sets": [], "keys": counts, "lastStep": last}


def _history(run: Run, arguments: Mapping[str, Any]) -> list[str]:
    low, high = arguments.get("minStep") or 0, arguments.get("maxStep")
    rows = [row for row in run.history if row.get("_step", 0) >= low and (high is None or row.get("_step", 0) < high)]
    return [json.dumps(row) for row in rows[: arguments.get("samples") or None]]


def _sampled(run: Run, spec: str) -> list[Node]:
    """Return the rows that have every key asked for: one asked for two metrics of different steps gets none.

    A number that JSON has not comes as text: `NaN`, `Infinity`.
    """
    wanted = json.loads(spec)
    keys = wanted.get("keys") or []
    rows = [row for row in run.history if all(key in row for key in keys)]
    chosen = [{key: row[key] for key in keys} if keys else row for row in rows[: wanted.get("samples") or None]]
    return [{key: _json_value(value) for key, value in row.items()} for row in chosen]


def _json_value(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def sweep_node(state: State, sweep: Sweep, url: str) -> Node:
    """Return a sweep's fields."""
    runs = [run for run in state.runs_of(sweep) if not run.deleted]
    agents = [agent for agent in state.agents.values() if agent.sweep == sweep.name]
    config = sweep.config
    metric = config.get("metric") or {}
    values = [value for run in runs for value in run.column(metric.get("name", "")) if isinstance(value, int | float)]
    best = max if metric.get("goal") == "maximize" else min

    def agent(arguments: Mapping[str, Any]) -> Node | None:
        key = arguments["agentName"]
        return next((agent_node(state, agent, url) for agent in agents if key in (agent.name, agent.id)), None)

    return {
        "__typename": "Sweep",
        "id": sweep.id,
        "name": sweep.name,
        "project": project_node(sweep.entity, sweep.project),
        "method": config.get("method"),
        "state": sweep.state,
        "config": sweep.text,
        "bestLoss": best(values) if values else None,
        "createdAt": timestamp(sweep.created),
        "updatedAt": timestamp(sweep.created),
        "heartbeatAt": timestamp(sweep.created),
        "earlyStopJobRunning": False,
        "controllerRunName": f"controller-{sweep.name}" if config.get("scheduler") else None,
        **{key: sweep.about.get(key) for key in ("description", "displayName", "controller", "scheduler")},
        "runCount": len(runs),
        "runCountExpected": config.get("run_cap"),
        "runs": lambda arguments: connection([run_node(run, url) for run in runs], arguments),
        "agents": lambda arguments: connection([agent_node(state, agent, url) for agent in agents], arguments),
        "agent": agent,
    }


def agent_node(state: State, agent: Agent, url: str) -> Node:
    """Return an agent's fields."""
    runs = [run for run in state.runs.values() if agent.name in run.agents]
    return {
        "id": agent.id,
        "name": agent.name,
        "host": agent.host,
        "state": "RUNNING",
        "totalRuns": len(runs),
        "createdAt": timestamp(agent.created),
        "heartbeatAt": timestamp(agent.created),
        "runs": lambda arguments: connection([run_node(run, url) for run in runs], arguments),
    }


def connection(nodes: list[Node], arguments: Mapping[str, Any]) -> Node:
    """Return one page of a list; a cursor is the number of nodes before the next page."""
    start = int(arguments.get("after") or 0)
    stop = min(len(nodes), start + (arguments.get("first") or len(nodes)))
    edges = [{"node": nodes[index], "cursor": str(index + 1)} for index in range(start, stop)]
    page = {"__typename": "PageInfo", "endCursor": str(stop), "hasNextPage": stop < len(nodes)}
    return {"edges": edges, "pageInfo": page}


def query_root(state: State, url: str) -> Node:
    """Return the fields of a query."""

    def project(arguments: Mapping[str, Any]) -> Node | None:
        entity, name = arguments.get("entityName") or state.entity, arguments.get("name") or "uncategorized"
        runs = [run for run in state.runs.values() if (run.entity, run.project) == (entity, name) and not run.deleted]
        sweeps = [sweep for sweep in state.sweeps.values() if (sweep.entity, sweep.project) == (entity, name)]
        live = [sweep for sweep in sweeps if not sweep.deleted]
        if not runs and not sweeps:
            return None

        def run(wanted: Mapping[str, Any]) -> Node | None:
            found = state.find_run(entity, name, wanted["name"])
            return run_node(found, url) if found else None

        def sweep(wanted: Mapping[str, Any]) -> Node | None:
            found = state.find_sweep(entity, name, wanted["sweepName"])
            return sweep_node(state, found, url) if found else None

        def matching(wanted: Mapping[str, Any]) -> list[Run]:
            filters = json.loads(wanted.get("filters") or "{}")
            return ordered([run for run in runs if matches(run, filters)], wanted.get("order"))

        return {
            **project_node(entity, name),
            "run": run,
            "bucket": run,
            "sweep": sweep,
            "artifact": None,
            "artifactType": None,
            "runCount": lambda wanted: len(matching(wanted)),
            "runs": lambda wanted: connection([run_node(found, url) for found in matching(wanted)], wanted),
            "totalSweeps": len(live),
            "sweeps": lambda wanted: connection([sweep_node(state, found, url) for found in live], wanted),
        }

    def entity(arguments: Mapping[str, Any]) -> Node:
        name = arguments.get("name") or state.entity
        return {"id": storage_id("Entity", name), "name": name, "organization": None, "isTeam": False}

    viewer = {
        "__typename": "User",
        "id": storage_id("User", state.entity),
        "entity": state.entity,
        "name": "Tester",
        "username": state.entity,
        "email": "tester@example.com",
        "admin": False,
        "flags": "{}",
        "deletedAt": None,
        "teams": connection([{"name": state.entity}], {}),
        "apiKeys": connection([], {}),
    }
    server = {
        "features": [{"name": name, "isEnabled": True} for name in (*FEATURES, *state.features)],
        "cliVersionInfo": {"max_cli_version": "99.0.0"},
        "latestLocalVersionInfo": None,
    }
    return {"viewer": viewer, "serverInfo": server, "project": project, "model": project, "entity": entity}


def mutation_root(state: State, url: str) -> Node:
    """Return the fields of a mutation; each takes one `input`."""

    def upsert_sweep(arguments: Mapping[str, Any]) -> Node:
        sweep, warnings = state.upsert_sweep(arguments["input"])
        return {"sweep": sweep_node(state, sweep, url), "configValidationWarnings": warnings}

    def create_agent(arguments: Mapping[str, Any]) -> Node:
        return {"agent": {"id": state.create_agent(arguments["input"]).id}}

    def heartbeat(arguments: Mapping[str, Any]) -> Node:
        agent, commands = state.heartbeat(arguments["input"])
        return {"agent": {"id": agent.id}, "commands": json.dumps(commands)}

    def upsert_bucket(arguments: Mapping[str, Any]) -> Node:
        run, inserted = state.upsert_run(arguments["input"])
        return {"bucket": run_node(run, url), "inserted": inserted}

    def create_files(arguments: Mapping[str, Any]) -> Node:
        sent = arguments["input"]
        run = state.find_run(sent.get("entityName"), sent.get("projectName"), sent["runName"])
        if run is None:
            raise Refusal(404, f"run {sent['runName']} not found", "createRunFiles")
        base = f"{url}/storage/{run.entity}/{run.project}/{run.name}"
        files = [{"name": name, "uploadUrl": f"{base}/{urllib.parse.quote(name)}"} for name in sent["files"]]
        return {"runID": run.id, "uploadHeaders": [], "files": files}

    def stop_run(arguments: Mapping[str, Any]) -> Node:
        run = state.run_by_id(arguments["input"]["id"])
        if run is None:
            raise Refusal(404, "run not found", "stopRun")
        state.stop_run(run.name)
        return {"success": True}

    def enqueue_run(arguments: Mapping[str, Any]) -> Node:
        run = state.enqueue_run(arguments["input"])
        return {"id": run.name, "runQueueItemId": storage_id("RunQueueItem", run.name)}

    def delete_run(arguments: Mapping[str, Any]) -> Node:
        run = state.run_by_id(arguments["input"]["id"])
        if run is None:
            raise Refusal(404, "run not found", "deleteRun")
        state.delete_run(run.name)
        return {"clientMutationId": None}

    return {
        "upsertSweep": upsert_sweep,
        "createAgent": create_agent,
        "agentHeartbeat": heartbeat,
        "upsertBucket": upsert_bucket,
        "createRunFiles": create_files,
        "markRunFilesUploaded": lambda _: {"success": True},
        "stopRun": stop_run,
        "enqueueSweepRun": enqueue_run,
        "deleteRun": delete_run,
        **artifact_mutations(state, url),
    }


COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$ne": lambda value, wanted: value != wanted,
    "$in": lambda value, wanted: value in wanted,
    "$nin": lambda value, wanted: value not in wanted,
    "$gt": lambda value, wanted: value is not None and value > wanted,
    "$gte": lambda value, wanted: value is not None and value >= wanted,
    "$lt": lambda value, wanted: value is not None and value < wanted,
    "$lte": lambda value, wanted: value is not None and value <= wanted,
    "$regex": lambda value, wanted: re.search(wanted, str(value)) is not None,
    "$exists": lambda value, wanted: (value is not None) == wanted,
}


def matches(run: Run, filters: Mapping[str, Any]) -> bool:
    """Decide whether a run fits a filter in the form the client sends (MongoDB's)."""
    for key, wanted in filters.items():
        if key in ("$and", "$or"):
            join = all if key == "$and" else any
            if not join(matches(run, part) for part in wanted):
                return False
        elif isinstance(wanted, Mapping):
            if not all(COMPARISONS[name](_value(run, key), operand) for name, operand in wanted.items()):
                return False
        elif (wanted not in _value(run, key)) if key == "tags" else (_value(run, key) != wanted):
            return False
    return True


def _value(run: Run, key: str) -> Any:
    section, _, rest = key.partition(".")
    if section == "config":
        return run.params.get(rest.removesuffix(".value"))
    if section == "summary_metrics":
        return run.summary.get(rest)
    plain = {"name": run.name, "sweep": run.sweep, "state": run.state, "tags": run.about.get("tags") or []}
    if key in ("created_at", "createdAt"):
        return run.number
    names = {"display_name": "displayName", "job_type": "jobType"}
    return plain.get(key, run.about.get(names.get(key, key)))


def ordered(runs: list[Run], order: str | None) -> list[Run]:
    """Sort runs as the client asks (`-summary_metrics.eval/loss`); runs without a number for it come last."""
    key = order or "+created_at"
    known = [(run, _value(run, key.lstrip("+-"))) for run in runs]
    with_value = [pair for pair in known if isinstance(pair[1], int | float) and pair[1] == pair[1]]
    with_value.sort(key=lambda pair: pair[1], reverse=key.startswith("-"))
    named = {run.name for run, _ in with_value}
    return [run for run, _ in with_value] + [run for run in runs if run.name not in named]
