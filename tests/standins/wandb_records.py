"""The things the loopback W&B server keeps: a run, a sweep, an agent.

A run holds what the client managed to send and nothing else. Its states are kept in their order, because a run that
was preempted, requeued and finished must show all three. `wandb_server` has the list of habits.
"""

import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

import yaml


def storage_id(kind: str, *parts: str) -> str:
    """Return the opaque id the cloud gives things, beside the short name that people use."""
    return base64.b64encode(":".join((kind, "v1", *parts)).encode()).decode()


@dataclass(kw_only=True)
class Run:
    """One run as the server has it: everything the client managed to send, and nothing else."""

    name: str
    """The run's id in URLs and in the client (`run.id`)."""
    entity: str
    project: str
    sweep: str = ""
    number: int = 0
    """Position among all runs of the server, from 1."""
    args: dict[str, Any] = field(default_factory=dict)
    """What the sweep chose: `{name: value}`."""
    state: str = ""
    states: list[str] = field(default_factory=list)
    """Every state it has been in, in order."""
    config: dict[str, Any] = field(default_factory=dict)
    """As the client last sent it: `{key: {"value": ..}}`, `_wandb` included."""
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    """Streamed files by name, one string for each line."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Uploaded files by name."""
    exitcode: int | None = None
    stopped: bool = False
    """Somebody asked for a stop; the client learns of it, and the state changes when it obeys."""
    preempting: bool = False
    deleted: bool = False
    prior: bool = False
    """Taken into the sweep by `prior_runs`; does not count towards `run_cap`."""
    agents: list[str] = field(default_factory=list)
    """Every agent it was handed to, in order; two for a run that was preempted and requeued."""
    starts: int = 0
    """How often a client opened it."""
    about: dict[str, Any] = field(default_factory=dict)
    """displayName, group, jobType, tags, notes, host, program ... as sent."""
    created: float = field(default_factory=time.time)
    heard: float = field(default_factory=time.monotonic)
    """When it last spoke, on the monotonic clock."""

    @property
    def id(self) -> str:
        return storage_id("Run", self.name, self.project, self.entity)

    @property
    def params(self) -> dict[str, Any]:
        """The config as plain values, without W&B's own keys."""
        return {
            key: entry["value"] if isinstance(entry, dict) and "value" in entry else entry
            for key, entry in self.config.items()
            if not key.startswith("_")
        }

    @property
    def history(self) -> list[dict[str, Any]]:
        """The logged rows, `_step`, `_runtime` and `_timestamp` included."""
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    def column(self, key: str) -> list[Any]:
        """Return the values of one metric, in the order logged; rows without it are left out."""
        return [row[key] for row in self.history if key in row]

    @property
    def output(self) -> str:
        """The console text that was streamed."""
        return "\n".join(self.lines.get("output.log", []))

    def move(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.states.append(state)


@dataclass(kw_only=True)
class Sweep:
    """One sweep; its state is PENDING, RUNNING, PAUSED, FINISHED or CANCELED."""

    name: str
    """The 8-character id that people use."""
    entity: str
    project: str
    text: str = ""
    """The config, YAML text as sent."""
    state: str = "PENDING"
    queue: list[str] = field(default_factory=list)
    """Preempted runs, waiting to be handed out again before anything new."""
    enqueued: list[str] = field(default_factory=list)
    """Runs that a scheduler has chosen and that no agent has got yet."""
    deleted: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.time)

    @property
    def id(self) -> str:
        return storage_id("Sweep", self.name, self.project, self.entity)

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load(self.text) or {}


@dataclass(kw_only=True)
class Agent:
    """One registered agent."""

    name: str
    sweep: str
    host: str
    running: list[str] = field(default_factory=list)
    """The runs it reported at its last heartbeat."""
    beats: int = 0
    created: float = field(default_factory=time.time)

    @property
    def id(self) -> str:
        return storage_id("Agent", self.name, self.sweep)
