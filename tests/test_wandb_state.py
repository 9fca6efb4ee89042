"""The parts of the loopback W&B server that need no client: its documents, its search and its rules."""

import json
from typing import Any

import pytest
import yaml

from tests.standins import wandb_graphql, wandb_search
from tests.standins.wandb_client import SWEEP
from tests.standins.wandb_fields import query_root
from tests.standins.wandb_records import Agent
from tests.standins.wandb_server import WandbServer
from tests.standins.wandb_state import Refusal, State


def test_a_document_selects_by_alias_fragment_and_default_and_reports_what_is_not_there() -> None:
    text = """#graphql
    query Q($n: Int = 2, $s: JSONString) { a: node(first: $n, spec: [$s, {k: "v, w"}]) { ...F ... on T { z } } }
    fragment F on T { x gone { deeper } }"""
    seen: list[dict[str, Any]] = []
    unknown: list[str] = []

    def node(arguments: dict[str, Any]) -> list[dict[str, Any]]:
        seen.append(arguments)
        return [{"x": 1, "z": None}]

    answer = wandb_graphql.execute(wandb_graphql.parse(text), {"node": node}, {"s": "{}"}, unknown.append)
    assert answer == {"a": [{"x": 1, "gone": None, "z": None}]}
    assert seen == [{"first": 2, "spec": ["{}", {"k": "v, w"}]}]
    assert unknown == ["Q: node.gone"]
    with pytest.raises(wandb_graphql.DocumentError, match="expected more at token 3"):
        wandb_graphql.parse("query { a")


def test_a_bare_value_stands_for_a_list_of_one() -> None:
    with WandbServer() as server:
        sweep = server.create_sweep(SWEEP)
        agent = server.state.create_agent({"sweep": sweep.name, "projectName": "demo"})
        run = server.run(server.state.heartbeat({"id": agent.id})[1][0]["run_id"])
        server.state.stream(run, {"files": {"wandb-history.jsonl": {"offset": 0, "content": ['{"a": 1}']}}})
        text = """query SweepWithRuns($specs: [JSONString!]!) { project(name: "demo") {
            sweep(sweepName: "%s") { runs { edges { node { name sampledHistory(specs: $specs) } } } } } }"""
        root = query_root(server.state, server.url)
        document = wandb_graphql.parse(text % sweep.name)
        answer = wandb_graphql.execute(document, root, {"specs": "{}"}, server.state.unknown.append)
    (edge,) = answer["project"]["sweep"]["runs"]["edges"]
    assert edge["node"] == {"name": run.name, "sampledHistory": [[{"a": 1}]]}


def test_the_seeded_draw_repeats_itself_and_a_grid_ends() -> None:
    first, again = (wandb_search.suggest(SWEEP, [], seed, use_engine=False) for seed in (5, 5))
    assert first == again != wandb_search.suggest(SWEEP, [{}], 5, use_engine=False)
    grid = {"method": "grid", "parameters": {"a": {"values": [1, 2]}, "b": {"value": 7}}}
    points = [wandb_search.suggest(grid, [{}] * count, 0, use_engine=False) for count in range(3)]
    assert points == [{"a": 1, "b": 7}, {"a": 2, "b": 7}, None]


def jobs(state: State, agent: Agent, *running: str) -> list[dict[str, Any]]:
    return state.heartbeat({"id": agent.id, "runState": json.dumps(dict.fromkeys(running, True))})[1]


@pytest.fixture
def state() -> State:
    return WandbServer(use_engine=False).state


@pytest.fixture
def agent(state: State) -> Agent:
    sweep, _ = state.upsert_sweep({"config": yaml.safe_dump({**SWEEP, "run_cap": 2}), "projectName": "demo"})
    assert sweep.state == "PENDING"
    return state.create_agent({"sweep": sweep.name, "projectName": "demo"})


def test_a_run_preempted_after_the_cap_waits_until_the_sweep_is_resumed(state: State, agent: Agent) -> None:
    first, second = (state.runs[jobs(state, agent)[0]["run_id"]] for _ in range(2))
    for run in (first, second):
        state.upsert_run({"name": run.name, "host": "here"})
    assert jobs(state, agent, first.name) == []
    assert jobs(state, agent) == [{"type": "exit"}]
    state.stream(first, {"preempting": True})
    state.stream(first, {"complete": True, "exitcode": 75})
    assert jobs(state, agent) == [{"type": "exit"}]
    state.set_sweep_state(agent.sweep, "RUNNING")
    (job,) = jobs(state, agent)
    assert (job["type"], job["run_id"], set(job["args"]) - set(first.args)) == ("resume", first.name, {"_wandb"})
    assert jobs(state, agent) == [{"type": "exit"}]


def test_rows_land_at_their_offset_and_a_run_cut_off_runs_again(state: State) -> None:
    run, inserted = state.upsert_run({"name": "r", "modelName": "demo", "host": "here"})
    chunk = {"files": {"wandb-history.jsonl": {"offset": 1, "content": ['{"a": 2}', '{"a": "NaN"}']}}}
    state.stream(run, {"files": {"wandb-history.jsonl": {"offset": 0, "content": ['{"a": 1}']}}})
    for _ in range(2):
        state.stream(run, chunk)
    assert (inserted, run.column("a")) == (True, [1, 2, "NaN"])
    run.heard -= 301.0
    state.settle()
    state.stream(run, {})
    state.stream(run, {"complete": True, "exitcode": 0})
    assert run.states == ["running", "crashed", "running", "finished"]
    state.delete_run("r")
    with pytest.raises(Refusal, match="run tester/demo/r was previously deleted"):
        state.upsert_run({"name": "r", "modelName": "demo", "host": "here"})
