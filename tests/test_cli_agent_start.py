"""How `agent` begins: the first twenty seconds, in which W&B's client waits and a person loses patience."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standins.wandb_client import MISSING
from tests.test_cli_agent import Person, processes_in, somebody

pytestmark = [pytest.mark.skipif(MISSING, reason="wandb is not installed"), pytest.mark.timeout(300)]
RANGES = {"learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2}}
SWEEP = {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "parameters": RANGES}


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    with somebody(tmp_path) as person:
        yield person


def test_a_signal_while_the_client_waits_for_w_and_b_ends_with_130_and_a_word(person: Person) -> None:
    """The server answers us at once, and the client never."""
    sweep, server = person.server.create_sweep(SWEEP), person.server
    server.fault(match="GetDefaultEntity", delay_s=60.0)
    started = [person.start("agent", sweep.name) for _ in range(2)]
    server.wait_for(lambda state: server.faults[0].left <= 2**63 - 3, timeout_s=100)
    for process, number in zip(started, (signal.SIGINT, signal.SIGTERM), strict=True):
        process.send_signal(number)
    for process in started:
        _, stderr = person.end(process, 130)
        assert "interrupted" in stderr.splitlines()[-1]
        assert "go" in stderr.splitlines()[-1]
    assert processes_in(person.folder) == []
    assert server.state.agents == {}


def test_a_server_that_fails_is_told_while_it_is_waited_for(person: Person) -> None:
    """What `sweep` made is found by its id alone, also by W&B's line for it."""
    (person.folder / "mine.yaml").write_text(json.dumps(SWEEP))
    made, _ = person.run("sweep", "mine.yaml", "--backend", "wandb")
    sweep, server = person.server.sweep, person.server
    assert made.splitlines()[0] == f"sweep    tester/kaggle_runner/{sweep.name}"
    server.state.set_sweep_state(sweep.name, "FINISHED")
    server.fault(status=500, match="iewer", count=1)
    _, stderr = person.run("agent", "wandb", "agent", sweep.name, status=1)
    assert stderr.splitlines()[0].endswith(f"W&B at {server.url} answers with HTTP 500: waiting for it, 10 min at most")
    assert f"error: the sweep tester/kaggle_runner/{sweep.name} is finished" in stderr
