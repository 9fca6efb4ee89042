"""How `agent` begins: the first twenty seconds, in which W&B's client waits and a person loses patience."""

import http.server
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggle_runner.wandb.answers import ask_server
from kaggle_runner.wandb.connection import leave
from tests.standins.wandb_agent import left_in
from tests.standins.wandb_client import MISSING
from tests.test_cli_agent import Person, somebody

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
    server.fault(match="GetDefaultEntity", delay_s=300.0)
    started = [person.start("agent", sweep.name) for _ in range(2)]
    server.wait_for(lambda state: server.faults[0].left <= 2**63 - 3, timeout_s=100)
    for process, number in zip(started, (signal.SIGINT, signal.SIGTERM), strict=True):
        process.send_signal(number)
    for process in started:
        _, stderr = person.end(process, 130)
        assert "interrupted" in stderr.splitlines()[-1]
        assert "go" in stderr.splitlines()[-1]
    assert left_in(person.folder) == []
    assert server.state.agents == {}


def test_a_server_that_fails_is_told_while_it_is_waited_for(person: Person) -> None:
    """What `sweep` made is found by its id alone, also by W&B's line for it."""
    (person.folder / "mine.yaml").write_text(json.dumps(SWEEP))
    create, server = ("sweep", "mine.yaml", "--backend", "wandb"), person.server
    _, stderr = person.run(*create, "--project", "a/b", status=1)
    assert stderr.startswith("error: no sweep was created: 'a/b' is no name of a project: it has one of / \\ # ? % :")
    assert server.state.sweeps == {}
    server.fault(status=403, match="GetSweep")
    _, stderr = person.run(*create, "--project", "other", status=1)
    server.heal()
    hidden = server.state.sweeps.popitem()[0]
    assert stderr.startswith(f"error: W&B created the sweep tester/other/{hidden} and does not show it, so try "
                             f"it with: agent tester/other/{hidden}; it says: ")
    made, _ = person.run(*create)
    sweep = server.sweep
    assert made.splitlines()[0] == f"sweep    tester/kaggle_runner/{sweep.name}"
    server.state.set_sweep_state(sweep.name, "FINISHED")
    page = f"https://elsewhere.example/wandb/tester/kaggle_runner/sweeps/{sweep.name}?nw=1"
    _, stderr = person.run("agent", page, status=1)
    assert (f"warning: the sweep is looked for on {server.url}, and its address names elsewhere.example; to ask that "
            f"server, set WANDB_BASE_URL to its address") in stderr
    server.fault(status=500, match="iewer", count=1)
    _, stderr = person.run("agent", "wandb", "agent", page.replace("https://elsewhere.example", server.url), status=1)
    assert "warning" not in stderr
    assert stderr.splitlines()[0].endswith(f"W&B at {server.url} answers with HTTP 500: waiting for it, 10 min at most")
    assert f"error: the sweep tester/kaggle_runner/{sweep.name} is finished" in stderr


def test_what_answers_in_w_and_bs_place_is_told_by_its_first_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of a login, an answer that breaks off; what W&B itself refuses is left to its client."""
    replies = [(200, b"<html>please\n log in</html>", 0, "HTTP 200 is no server of W&B's: <html>please log in</html>"),
               (200, b'{"data": {"viewer": {"id": "x"', 0, "is no server of W&B's: {"),
               (200, b"[1]", 0, "is no server of W&B's: [1]"),
               (302, b"", 0, "HTTP 302 is no server of W&B's: it says nothing"),
               (404, b"not here", 0, "HTTP 404 is no server of W&B's: not here"),
               (200, b'{"data": ', 50, "IncompleteRead(9 bytes read, 50 more expected)"),
               (503, b"<html>busy</html>", 0, "answers with HTTP 503"),
               (200, b'{"data": null, "errors": [{"message": "boom"}]}', 0, 'answers with an error: {"data": '),
               (200, b'{"errors": "boom"}', 0, 'answers with an error: {"errors": "boom"}'),
               (403, b'{"errors": [{"message": "permission denied"}]}', 0, ""),
               (200, b'{"data": {"viewer": {"id": "x"}}}', 0, "")]
    now: list[tuple[int, bytes, int, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body, missing, _ = now[-1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + missing))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        leave()
        for reply in replies:
            now.append(reply)
            trouble = ask_server().trouble
            assert reply[-1] in trouble
            assert bool(trouble) == bool(reply[-1])
            assert "\n" not in trouble
        server.shutdown()
    leave()
