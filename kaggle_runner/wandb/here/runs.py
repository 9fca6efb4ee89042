"""The runs of a W&B sweep as whoever chooses their points sees them: give one out, look at them, read how one ended.

W&B's own interface for a search of one's own: a sweep with a `scheduler` in its file gets no points from the server,
and `enqueue_run` of wandb 0.31 puts a run into its queue, which its agents take from as from any other sweep.
"""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import wandb

from kaggle_runner.config import TRAINERS
from kaggle_runner.errors import WandbError
from kaggle_runner.machine.keys import FoundKey, redact
from kaggle_runner.metrics import Metric
from kaggle_runner.study.trial import TrialResult
from kaggle_runner.sweep.spec import SweepSpec
from kaggle_runner.wandb.answers import Answer, ask
from kaggle_runner.wandb.connection import API_ERRORS, refused
from kaggle_runner.wandb.read_back import own_folder, result_of, rows_of

FEATURE = "SWEEPS_LOCAL_SCHEDULER"
"""What a server that lets others choose a sweep's points calls it."""
SCHEDULER = {"engine": "wandb", "source": "kaggle_runner"}
"""What the sweep's file says of its points; with this engine `wandb sweep-scheduler` can go on where we are gone."""
WAY_OUT = "leave --search here out, and W&B chooses the points"
_FEATURES = "query ServerFeaturesQuery { serverInfo { features { name isEnabled } } }"
_LOOK = """query Look($entity: String!, $project: String!, $sweep: String!, $filters: JSONString!) {
  project(name: $project, entityName: $entity) {
    sweep(sweepName: $sweep) { state }
    runs(filters: $filters, first: 1000) { edges { node { name state } } }
  }
}"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What W&B says of a sweep and some of its runs, at one moment."""

    answer: Answer
    sweep: str = ""
    """Its state; `DELETED` where there is none."""
    runs: Mapping[str, str]
    """Run -> state; those that were deleted are left out."""


def require_interface() -> None:
    """See that client and server let us choose a sweep's points, before anything is made.

    Raises:
        WandbError: one of them does not.
    """
    if not hasattr(wandb.apis.public.Sweep, "enqueue_run"):
        raise WandbError(f"W&B's client {wandb.__version__} lets nobody else choose the points of a sweep; run: pip "
                         f"install -U 'wandb>=0.31', or {WAY_OUT}")
    answer, data = ask(_FEATURES)
    features = ((data or {}).get("serverInfo") or {}).get("features") or []
    if not any(feature["name"] == FEATURE and feature["isEnabled"] for feature in features):
        raise WandbError(f"the W&B server {answer.url} lets nobody else choose the points of a sweep; {WAY_OUT}")


def config_of(spec: SweepSpec, *, with_seed: bool) -> dict[str, Any]:
    """Return the sweep as W&B gets it: the file, with its points left to us.

    Our process counts the trials, so `run_cap` stays here; W&B does not combine a scheduler with early_terminate.
    """
    sent = {key: value for key, value in spec.for_wandb.items()
            if key not in ("run_cap", "early_terminate", "controller")}
    sent["scheduler"] = SCHEDULER
    if with_seed and "seed" not in spec.parameters:  # else no run could have another one
        sent["parameters"] = {**sent["parameters"], "seed": {"value": TRAINERS[spec.trainer]().seed}}
    return sent


class SweepRuns:
    """The runs of one sweep."""

    def __init__(self, path: str, key: FoundKey) -> None:
        """Take a sweep's path, `entity/project/id`."""
        self.path, self._key = path, key

    def look(self, names: Sequence[str]) -> Seen:
        """Ask once, within seconds, what has become of the sweep and of some of its runs."""
        entity, project, sweep = self.path.split("/")
        answer, data = ask(_LOOK, entity=entity, project=project, sweep=sweep,
                           filters=json.dumps({"name": {"$in": list(names)}}))
        if data is None:
            return Seen(answer=answer, runs={})
        found = data.get("project") or {}
        edges = (found.get("runs") or {}).get("edges") or []
        return Seen(answer=answer, sweep=(found.get("sweep") or {}).get("state") or "DELETED",
                    runs={edge["node"]["name"]: edge["node"]["state"] for edge in edges})

    def give_out(self, config: Mapping[str, Any], name: str) -> str:
        """Put a run into the sweep's queue, and return its id.

        Raises:
            wandb.Error, ValueError and their like (`API_ERRORS`): W&B cannot be reached or refuses.
        """
        wire = {key: {"value": value} for key, value in config.items()}
        with contextlib.redirect_stdout(io.StringIO()):
            return str(wandb.Api().sweep(self.path).enqueue_run(wire, name))

    def everything(self) -> dict[str, Mapping[str, Any]]:
        """Return the configuration of every run of the sweep, the oldest first.

        Raises:
            WandbError: W&B cannot be reached or refuses.
        """
        entity, project, sweep = self.path.split("/")
        try:
            with own_folder():
                found = wandb.Api().runs(f"{entity}/{project}", filters={"sweep": sweep}, order="+created_at")
                return {run.id: dict(run.config) for run in found}
        except API_ERRORS as error:
            raise refused(f"W&B does not show the runs of the sweep {self.path}", error, self._key) from error

    def result(self, run: str, trial: str, metric: Metric) -> tuple[list[dict[str, Any]], TrialResult | None, bool]:
        """Read a run's rows and how it ended, and whether that is one of our agents' word.

        Raises:
            wandb.Error, ValueError and their like (`API_ERRORS`): W&B cannot be reached or refuses.
        """
        entity, project, _ = self.path.split("/")
        with own_folder():
            found = wandb.Api().run(f"{entity}/{project}/{run}")
            rows = rows_of(found, metric.name)
            return rows, result_of(found, rows, metric, trial=trial), found.summary.get("outcome") is not None

    def set_state(self, action: str) -> str:
        """Stop or resume the sweep with W&B's own program (`--stop`, `--resume`); return what it said."""
        command = [sys.executable, "-P", "-m", "wandb", "sweep", action, self.path]
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        return " ".join(redact(f"{ran.stdout} {ran.stderr}", [self._key]).split())[-300:]
