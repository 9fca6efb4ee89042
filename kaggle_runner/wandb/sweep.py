"""Sweeps on W&B's server: create one from a file, find one by its id, say what has become of it.

The key is found by us and handed to W&B's client in the environment; the client never prompts for one.
"""

import contextlib
import io
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import wandb

from kaggle_runner.errors import SweepOver, WandbError
from kaggle_runner.machine.environment import Environment
from kaggle_runner.machine.keys import FoundKey, redact
from kaggle_runner.sweep.address import plain_address
from kaggle_runner.sweep.spec import SweepSpec, check_config
from kaggle_runner.wandb.answers import Tell, ask_sweep, to_stderr
from kaggle_runner.wandb.connection import API_ERRORS, connect, leave, refused

DEFAULT_PROJECT = "kaggle_runner"
"""Where `sweep` puts a sweep, and `agent` looks first, when nobody names a project."""
NOT_IN_A_PROJECT = "/\\#?%:"
"""Signs that no name of a project has. Source: wandb 0.31, `Settings.project`, and its error of one that has them."""
CLOUD = ("wandb.ai", "api.wandb.ai", "app.wandb.ai", "www.wandb.ai", "forge.coreweave.com", "api.forge.coreweave.com")
"""The names of W&B's own server. Source: wandb.sdk.lib.urls of 0.31, and its addresses before."""
W_AND_BS_PROJECT = "uncategorized"
"""Where W&B itself puts what names no project."""
OVER_STATES = ("FINISHED", "CANCELED")
"""The states in which a sweep takes no agents."""
ALIVE_STATES = ("PENDING", "RUNNING", "PAUSED", "UNREACHABLE")
"""The states, as `state_of` has them, in which an agent that was sent away may come back."""


@dataclass(frozen=True, kw_only=True)
class RemoteSweep:
    """A sweep on the server, checked like a sweep file."""

    path: str
    """The sweep's path as `entity/project/id`."""
    url: str
    state: str
    """PENDING, RUNNING, PAUSED, FINISHED or CANCELED."""
    spec: SweepSpec


def create_sweep(spec: SweepSpec, environment: Environment, *, entity: str | None = None, project: str | None = None,
                 prior_runs: Sequence[str] = (), config: Mapping[str, Any] | None = None) -> RemoteSweep:
    """Create a sweep from a file that was read and checked; W&B gets the file as it is, without the
    keys that are for trials here, or `config` in its place.

    `prior_runs` are ids of finished runs of the same project that the search shall learn from. Entity and project are
    those of the file or of W&B's own settings where they are not given.

    Raises:
        SecretError: no key, or a malformed one.
        WandbError: W&B cannot be reached or refuses, or a prior run is unknown or not finished.
    """
    key, created = connect(environment), ""
    try:
        api = wandb.Api()
        entity = entity or spec.raw.get("entity") or os.environ.get("WANDB_ENTITY") or api.default_entity
        project = project or spec.raw.get("project") or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
        if set(project) & set(NOT_IN_A_PROJECT):
            raise WandbError(f"no sweep was created: {project!r} is no name of a project: it has one of "
                             f"{' '.join(NOT_IN_A_PROJECT)}; the entity has an option of its own, --entity")
        problems = [problem for name in prior_runs if (problem := _prior_problem(api, f"{entity}/{project}/{name}"))]
        if problems:
            raise WandbError(f"no sweep was created: {'; '.join(problems)}")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what we return
            name = wandb.sweep(dict(config or spec.for_wandb), entity=entity, project=project,
                               prior_runs=list(prior_runs))
        created = f"{entity}/{project}/{name}"
        found = api.sweep(created)
        return RemoteSweep(path=created, url=found.url, state=found.state, spec=spec)
    except API_ERRORS as error:
        if created:
            raise refused(f"W&B created the sweep {created} and does not show it, so try it with: agent {created}; it "
                          f"says", error, key) from error
        raise refused("W&B does not say that it created the sweep; look for it on the project's page before you run "
                      "this again; what came", error, key) from error
    finally:
        leave()


def find_sweep(address: str, key: FoundKey, *, may_be_over: bool = False, tell: Tell = to_stderr) -> RemoteSweep:
    """Look a sweep up and check it; `address` as `sweep_paths` has it, and `tell` as `look_up`.

    Raises:
        SweepOver: it is finished or cancelled, and may not be.
        WandbError: there is no such sweep, or the server refuses.
        SweepError: it has what our trainer does not: parameters, a metric; holds all problems.
    """
    try:
        api = wandb.Api()
        path, found = look_up(api, address, tell)
        state, config, url = found.state, found.config, found.url
    except API_ERRORS as error:
        raise refused(f"W&B does not show us the sweep {address}; copy its id or URL from its page, and see that the "
                      f"key belongs to a member of its team; W&B says", error, key) from error
    sweep = RemoteSweep(path=path, url=url, state=state, spec=check_config(config, path))
    if state in OVER_STATES and not may_be_over:
        raise SweepOver(is_over(sweep))
    return sweep


def is_over(sweep: RemoteSweep) -> str:
    """Say of a sweep that it is over, and what to do."""
    return (f"the sweep {sweep.path} is {sweep.state.lower()}, so it gives no trials; to go on with it: "
            f"wandb sweep --resume {sweep.path}")


def read_remote(address: str, environment: Environment) -> SweepSpec:
    """Read what is in a sweep on W&B, for a command that asks nothing else of it.

    Raises:
        SecretError, SweepOver, WandbError, SweepError: as `connect` and `find_sweep`.
    """
    try:
        return find_sweep(address, connect(environment)).spec
    finally:
        leave()


def state_of(sweep: RemoteSweep) -> str:
    """Ask what has become of a sweep: its state, `DELETED`, or `UNREACHABLE`."""
    return ask_sweep(sweep.path)


def end_sweep(address: str, environment: Environment, *, cancel: bool = False) -> RemoteSweep:
    """Have W&B give no more trials of a sweep: its agents end when their trials do, or with `cancel` at once.

    Raises:
        SecretError: no key, or a malformed one.
        SweepOver: it is finished or cancelled already.
        WandbError: there is no such sweep, or the server refuses.
        SweepError: it is not a sweep of ours.
    """
    key = connect(environment)
    try:
        sweep = find_sweep(address, key)
        # The client's public functions cannot do it; its program can.
        command = [sys.executable, "-P", "-m", "wandb", "sweep", "--cancel" if cancel else "--stop", sweep.path]
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        state = state_of(sweep)
    finally:
        leave()
    if state not in OVER_STATES:
        said = " ".join(redact(f"{ran.stdout} {ran.stderr}", [key]).split())
        raise WandbError(f"the sweep {sweep.path} is still {state.lower()}; end it on its page {sweep.url}; W&B's "
                         f"program said: {said[-300:] or 'nothing'}")
    return replace(sweep, state=state)


def look_up(api: wandb.Api, address: str, tell: Tell = to_stderr) -> tuple[str, Any]:
    """Find a sweep wherever what a user calls it may be; return its path and what W&B's client has of it.

    An address that is a page of another server than the one that is asked is told.

    Raises:
        WandbError: it is no address of a sweep, or there is none in any of the places.
    """
    paths = sweep_paths(address, lambda: api.default_entity)
    named, settings = urllib.parse.urlsplit(address.split()[-1].strip("\"'")).netloc, wandb.setup().settings
    asked = {urllib.parse.urlsplit(url).netloc for url in (settings.base_url, settings.app_url)}
    if named and named not in asked and not (named in CLOUD and asked & set(CLOUD)):
        tell(f"warning: the sweep is looked for on {settings.base_url}, and its address names {named}; to ask that "
             f"server, set WANDB_BASE_URL to its address and WANDB_API_KEY to its key")
    for path in paths:
        try:
            return path, api.sweep(path)
        except API_ERRORS as error:
            if len(paths) == 1 or "could not find" not in str(error).lower():
                raise
    places = " nor in ".join(path.rsplit("/", 1)[0] for path in paths)
    raise WandbError(f"there is no sweep {paths[0].rsplit('/', 1)[1]} in {places}; give its project as well, as in "
                     f"the URL of its page: ENTITY/PROJECT/ID")


def sweep_paths(address: str, default_entity: Callable[[], str | None]) -> list[str]:
    """Turn what a user calls a sweep into the paths `entity/project/id` where it may be, the likeliest first.

    `default_entity` is called where none is named; without a project both defaults count, ours and W&B's.

    Raises:
        WandbError: it is no address of a sweep.
    """
    short = plain_address(address)
    parts = [urllib.parse.unquote(part) for part in short.split("/") if part]
    if not 1 <= len(parts) <= 3 or len(short.split()) > 1:
        raise WandbError(f"{address!r} is no address of a sweep; give entity/project/id, project/id, id, or the URL of "
                         f"its page")
    entity = parts[-3] if len(parts) > 2 else os.environ.get("WANDB_ENTITY") or default_entity()
    projects = parts[-2:-1] or [os.environ.get("WANDB_PROJECT", ""), DEFAULT_PROJECT, W_AND_BS_PROJECT]
    return [f"{entity}/{project}/{parts[-1]}" for project in dict.fromkeys(projects) if project]


def _prior_problem(api: Any, path: str) -> str | None:
    try:
        state = api.run(path).state
    except (wandb.Error, ValueError):
        return f"there is no run {path}"
    return None if state == "finished" else f"the run {path} is {state}, and only finished runs can be learned from"

