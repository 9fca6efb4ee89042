"""What the loopback W&B server knows: sweeps, agents and runs, and the rules by which the cloud moves them.

Nothing here knows of HTTP or GraphQL. Every habit in the list of `wandb_server` is a rule of this module: what a
heartbeat is answered, when a run is crashed or preempted, what a stop does, who gets a job.
"""

import itertools
import json
import random
import string
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tests.standins import wandb_search
from tests.standins.wandb_records import Agent, Run, Sweep

WORDS = ("amber", "brisk", "calm", "deep", "early", "fresh", "good", "happy", "iconic", "jolly")


class Refusal(Exception):
    """An answer other than success, as the cloud words it."""

    def __init__(self, status: int, message: str, path: str) -> None:
        super().__init__(message)
        self.status, self.message, self.path = status, message, path


class State:
    """All that the server knows, and the controls of somebody at the web page.

    sweeps, runs, agents   mappings by short name, in order of creation (`wandb_records`)
    artifacts              by id, whose run they are of and the folder among its files that they lie in
    ops                    the requests in order: GraphQL operations by name, `file_stream`, `upload`, `download`
    unknown                what the client asked for and this server does not have; a test asserts that it is empty
    errors                 what the server refused, as text
    features               what the server offers besides the usual: name SWEEPS_LOCAL_SCHEDULER, and a sweep's points
                           may be chosen elsewhere
    lock                   held while a request is answered; hold it to read several things at one moment
    """

    def __init__(
        self, *, entity: str, seed: int, crash_after_s: float, use_engine: bool, stopped_is_killed: bool,
        ahead_s: float = 0.0
    ) -> None:
        self.ahead_s = ahead_s
        self.entity, self.seed, self.crash_after_s = entity, seed, crash_after_s
        self.use_engine, self.stopped_is_killed = use_engine, stopped_is_killed
        self.lock = threading.RLock()
        self.sweeps: dict[str, Sweep] = {}
        self.runs: dict[str, Run] = {}
        self.agents: dict[str, Agent] = {}
        self.artifacts: dict[str, tuple[Run, str]] = {}
        self.points: list[dict[str, Any]] = []
        self.features: list[str] = []
        self.ops: list[str] = []
        self.unknown: list[str] = []
        self.errors: list[str] = []
        self._draw = random.Random(seed)
        self._numbers = itertools.count(1)

    # What somebody at the web page, or the cloud itself, does

    def script(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Hand out these points first, each over the sweep's fixed `value:` entries; then search as usual."""
        with self.lock:
            self.points.extend(dict(point) for point in points)

    def stop_run(self, name: str) -> None:
        """Press "Stop run": raise the run's flag and change nothing else until the client obeys."""
        with self.lock:
            self.runs[name].stopped = True

    def delete_run(self, name: str) -> None:
        """Delete a run: the page forgets it and refuses its data; the search remembers it."""
        with self.lock:
            self.runs[name].deleted = True

    def set_sweep_state(self, name: str, state: str) -> None:
        """Pause, resume, finish or cancel a sweep: PAUSED, RUNNING, FINISHED, CANCELED; cancelling kills its runs."""
        with self.lock:
            sweep = self.sweeps[name]
            sweep.state = state
            if state == "CANCELED":
                for run in self.runs_of(sweep):
                    if run.state in ("running", "preempting", "pending"):
                        run.stopped = True
                        run.move("killed")

    def delete_sweep(self, name: str) -> None:
        """Delete a sweep: agents get status 404 from now on; its runs stay."""
        with self.lock:
            self.sweeps[name].deleted = True

    def runs_of(self, sweep: Sweep) -> list[Run]:
        """Return the sweep's runs in order of creation, deleted ones included."""
        return [run for run in self.runs.values() if run.sweep == sweep.name]

    # What the client does

    def settle(self) -> None:
        """Call the runs crashed, or preempted, that have been silent for too long."""
        with self.lock:
            for run in self.runs.values():
                if run.state in ("running", "preempting") and time.monotonic() - run.heard > self.crash_after_s:
                    self._end(run, "preempted" if run.preempting else "crashed")

    def upsert_sweep(self, sent: Mapping[str, Any]) -> tuple[Sweep, list[str]]:
        """Create a sweep, or change the config or the state of the one with `id`."""
        sweep = self.sweep_by_id(sent["id"]) if sent.get("id") else None
        if sweep is None:
            if sent.get("id"):
                raise Refusal(404, f"could not find sweep {sent['id']}", "upsertSweep")
            entity, project = sent.get("entityName") or self.entity, sent.get("projectName") or "uncategorized"
            sweep = Sweep(name=self._name(self.sweeps), entity=entity, project=project, created=self._now)
            self.sweeps[sweep.name] = sweep
        if sent.get("state"):
            self.set_sweep_state(sweep.name, sent["state"])
        found: list[str] = []
        if sent.get("config"):
            sweep.text = sent["config"]
            found = wandb_search.violations(sweep.config)
        kept = ("description", "displayName", "controller", "scheduler")
        sweep.about |= {key: sent[key] for key in kept if sent.get(key) is not None}
        wanted = json.loads(sent.get("priorRunsFilters") or "{}").get("$or", [])
        for run in self.runs.values():
            if run.project == sweep.project and {"name": run.name} in wanted:
                run.sweep, run.prior = sweep.name, True
        return sweep, found

    def enqueue_run(self, sent: Mapping[str, Any]) -> Run:
        """Make a run of a point that a scheduler has chosen; the next agent that asks gets it."""
        sweep = self.sweep_by_id(sent["id"])
        if sweep is None or not sweep.config.get("scheduler"):
            raise Refusal(400, "sweep has no scheduler", "enqueueSweepRun")
        if sweep.state not in ("PENDING", "RUNNING", "PAUSED"):
            raise Refusal(400, f"sweep {sweep.name} is not running", "enqueueSweepRun")
        run = self._new_run(sweep.entity, sweep.project)
        run.sweep, run.config = sweep.name, json.loads(sent["config"])
        run.args = {key: entry["value"] for key, entry in run.config.items()}
        run.about["displayName"] = sent.get("displayName") or f"{self._draw.choice(WORDS)}-sweep"
        run.move("pending")
        sweep.enqueued.append(run.name)
        return run

    def create_agent(self, sent: Mapping[str, Any]) -> Agent:
        """Register an agent with a sweep that is not over."""
        entity, project = sent.get("entityName") or self.entity, sent.get("projectName") or "uncategorized"
        sweep = self.find_sweep(entity, project, sent["sweep"])
        where = f"{entity}/{project}/{sent['sweep']}"
        if sweep is None:
            raise Refusal(404, f"could not find sweep {where} during createAgent", "createAgent")
        if sweep.state not in ("PENDING", "RUNNING", "PAUSED"):
            raise Refusal(400, f"Sweep {where} is not running", "createAgent")
        if sweep.state == "PENDING":
            sweep.state = "RUNNING"
        agent = Agent(name=self._name(self.agents), sweep=sweep.name, host=sent.get("host") or "", created=self._now)
        self.agents[agent.name] = agent
        return agent

    def heartbeat(self, sent: Mapping[str, Any]) -> tuple[Agent, list[dict[str, Any]]]:
        """Answer an agent: stop what was stopped, nothing while it has a run, otherwise the next job."""
        agent = next((agent for agent in self.agents.values() if agent.id == sent.get("id")), None)
        sweep = self.sweeps.get(agent.sweep) if agent else None
        if agent is None or sweep is None or sweep.deleted:
            raise Refusal(404, "agent not found", "agentHeartbeat")
        agent.beats += 1
        agent.running = [name for name, alive in json.loads(sent.get("runState") or "{}").items() if alive]
        if sweep.state == "CANCELED":
            return agent, [{"type": "exit"}]
        for name in agent.running:
            run = self.runs.get(name)
            if run is None or run.deleted or run.stopped:
                return agent, [{"type": "stop", "run_id": name}]
        if agent.running or sweep.state == "PAUSED":
            return agent, []
        if sweep.state != "RUNNING":
            return agent, [{"type": "exit"}]
        job = self._next_job(sweep, agent)
        return agent, [job] if job else []

    def _next_job(self, sweep: Sweep, agent: Agent) -> dict[str, Any] | None:
        runs = self.runs_of(sweep)
        if sweep.queue:
            run, kind = self.runs[sweep.queue.pop(0)], "resume"
            args = {key: {"value": value} for key, value in run.args.items()}
            args["_wandb"] = run.config.get("_wandb", {"value": {}})
        elif sweep.config.get("scheduler") and self.features:  # without the feature the server itself chooses
            if not sweep.enqueued:
                return None
            run, kind = self.runs[sweep.enqueued.pop(0)], "run"
            args = {key: {"value": value} for key, value in run.args.items()}
        else:
            cap = sweep.config.get("run_cap")
            full = cap and sum(not run.prior for run in runs) >= cap
            point = None if full else self._next_point(sweep, runs)
            if point is None:
                sweep.state = "FINISHED"
                return {"type": "exit"}
            run, kind = self._new_run(sweep.entity, sweep.project), "run"
            run.sweep, run.args = sweep.name, point
            run.about["displayName"] = f"{self._draw.choice(WORDS)}-sweep-{len(runs) + 1}"
            args = {key: {"value": value} for key, value in point.items()}
            run.config = dict(args)
        run.agents.append(agent.name)
        run.move("pending")
        return {"type": kind, "run_id": run.name, "args": args, "program": sweep.config.get("program", ""), "logs": []}

    def _next_point(self, sweep: Sweep, runs: list[Run]) -> dict[str, Any] | None:
        if self.points:
            fixed = {k: p["value"] for k, p in sweep.config.get("parameters", {}).items() if "value" in p}
            return {**fixed, **self.points.pop(0)}
        past = [
            {
                "name": run.name,
                "state": run.state,
                "config": {k: v for k, v in run.config.items() if k != "_wandb"},
                "summary": run.summary,
                "history": run.history,
            }
            for run in runs
        ]
        try:
            return wandb_search.suggest(sweep.config, past, self.seed, self.use_engine)
        except wandb_search.EngineError as error:
            raise Refusal(400, str(error), "agentHeartbeat") from error

    def upsert_run(self, sent: Mapping[str, Any]) -> tuple[Run, bool]:
        """Change a run, or open it: only an opening names the host, and it makes run again what had ended."""
        run = self.run_by_id(sent["id"]) if sent.get("id") else self.runs.get(sent.get("name") or "")
        if run is not None and run.deleted:
            raise Refusal(409, f"run {run.entity}/{run.project}/{run.name} was previously deleted", "upsertBucket")
        inserted = run is None
        if run is None:
            entity, project = sent.get("entityName") or self.entity, sent.get("modelName") or "uncategorized"
            run = self._new_run(entity, project, sent.get("name") or "")
            run.sweep = sent.get("sweep") or ""
        if sent.get("config"):
            run.config = json.loads(sent["config"])
        if sent.get("summaryMetrics"):
            run.summary = json.loads(sent["summaryMetrics"])
        renamed = {"groupName": "group", "jobProgram": "program", "jobRepo": "repo"}
        kept = ("displayName", "description", "notes", "commit", "host", "jobType", "tags", *renamed)
        run.about |= {renamed.get(key, key): sent[key] for key in kept if sent.get(key) is not None}
        if sent.get("state"):
            run.move(sent["state"])
        elif sent.get("host"):
            self._open(run)
        run.heard = time.monotonic()
        return run, inserted

    def _open(self, run: Run) -> None:
        run.starts += 1
        run.exitcode, run.preempting, run.stopped = None, False, False
        sweep = self.sweeps.get(run.sweep)
        if sweep and run.name in sweep.queue:
            sweep.queue.remove(run.name)
        run.move("running")

    def stream(self, run: Run, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Take a file_stream request; lines land at their offset, so that a repeated request changes nothing."""
        run.heard = time.monotonic()
        if run.state == "crashed":
            run.move("running")
        for name, chunk in (sent.get("files") or {}).items():
            content = chunk.get("content") or []
            if name == "wandb-summary.json":
                run.summary = json.loads(content[-1]) if content else run.summary
                continue
            lines, offset = run.lines.setdefault(name, []), chunk.get("offset") or 0
            lines.extend([""] * (offset - len(lines)))
            lines[offset : offset + len(content)] = content
        if sent.get("preempting") and run.state == "running":
            run.preempting = True
            run.move("preempting")
        if sent.get("complete"):
            run.exitcode = sent.get("exitcode") or 0
            self._end(run, self._ending(run))
        return {"exitcode": run.exitcode, "limits": {}, **({"stopped": True} if run.stopped else {})}

    def _ending(self, run: Run) -> str:
        if run.state == "killed" or (run.stopped and (run.exitcode or self.stopped_is_killed)):
            return "killed"
        if not run.exitcode:
            return "finished"
        return "preempted" if run.preempting else "failed"

    def _end(self, run: Run, state: str) -> None:
        run.move(state)
        sweep = self.sweeps.get(run.sweep)
        if state == "preempted" and sweep and run.name not in sweep.queue:
            sweep.queue.append(run.name)

    # Finding things

    def find_sweep(self, entity: str | None, project: str | None, name: str) -> Sweep | None:
        sweep = self.sweeps.get(name)
        place = (entity or self.entity, project or "uncategorized")
        return sweep if sweep and not sweep.deleted and (sweep.entity, sweep.project) == place else None

    def find_run(self, entity: str | None, project: str | None, name: str) -> Run | None:
        run = self.runs.get(name)
        place = (entity or self.entity, project or "uncategorized")
        return run if run and not run.deleted and (run.entity, run.project) == place else None

    def sweep_by_id(self, id: str) -> Sweep | None:
        return next((sweep for sweep in self.sweeps.values() if sweep.id == id and not sweep.deleted), None)

    def run_by_id(self, id: str) -> Run | None:
        return next((run for run in self.runs.values() if run.id == id), None)

    def _new_run(self, entity: str, project: str, name: str = "") -> Run:
        run = Run(name=name or self._name(self.runs), entity=entity, project=project, number=next(self._numbers),
                  created=self._now)
        self.runs[run.name] = run
        return run

    @property
    def _now(self) -> float:
        return time.time() + self.ahead_s

    def _name(self, taken: Mapping[str, Any]) -> str:
        names = ("".join(self._draw.choices(string.ascii_lowercase + string.digits, k=8)) for _ in itertools.count())
        return next(name for name in names if name not in taken)
