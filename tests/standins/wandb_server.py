"""A loopback W&B server for the real, unmodified wandb client; also `python -m tests.standins.wandb_server --port N`.

    with WandbServer(seed=1) as server:
        subprocess.run([python, script], env=server.environment(tmp_path), timeout=60)
        run = next(iter(server.state.runs.values()))
        assert (run.state, run.exitcode, run.column("eval/loss")) == ("finished", 0, [1.5, 1.25])
        assert server.state.unknown == []

It serves the viewer, sweeps, agents, heartbeats, runs, file streams, uploads, resume and requeue, run caps, pauses,
cancels, deletes, and reading all of it back through `wandb.Api()`. Points come from the test's script
(`state.script`), else from W&B's own `sweeps` engine when it imports here, else from a seeded draw.
`wandb_state` has the rules, `wandb_records` what they are about, `wandb_fields` what GraphQL can pick, `wandb_graphql`
the reader of documents, `wandb_http` the wire, `wandb_search` the points, `wandb_client` client processes for tests.
`wandb_artifacts` takes artifacts. Not served: artifacts that are used again,
reports, Launch, `wandb sweep-scheduler` and `wandb controller`.

The unpleasant habits of the real server that it keeps. Where they come from: the client's source, docs.wandb.ai
(run-states, signal-handling-sweep-runs), or the GitHub issue named; "guess" where nothing public says.

Sweeps
* A config with violations is accepted; they come back as warnings that the client only prints.
* An unknown sweep is refused with 404 at createAgent, a finished or cancelled one with 400 "is not running" (PR 3662);
  a paused one takes the agent and then gives it nothing, for ever.
* A sweep is PENDING until its first agent. It is FINISHED, and an idle agent told to exit, as soon as an agent asks
  for a job beyond `run_cap` or a grid's end, though runs may still be running elsewhere (guess); whatever is preempted
  after that waits in the queue until somebody resumes the sweep.
* `early_terminate` is stored and decides nothing here: a test calls `state.stop_run` where the cloud would.
* When the engine raises (a config value outside `values`, a missing metric section), every heartbeat is answered with
  400 (issues 823, 1785): the client logs it, counts it as "no job" and asks again for ever.
* Cancelling kills the runs at once, whatever they say afterwards; pausing and finishing leave them alone.
* A deleted sweep answers heartbeats with 404 "agent not found" (PR 11226). A deleted run is refused at its next
  request, and still counts for the search and for `run_cap` (issue 9830).

Jobs
* A heartbeat's commands are JSON text. A job goes to any agent that reports no run, even while the last one still
  unwinds; a job taken and never opened stays `pending` for ever (issue 6234).
* A stop only raises a flag: the heartbeat repeats `stop` as long as the agent reports the run, file_stream answers
  `"stopped": true`, and the run goes on until the client obeys. It then ends as its exit code says: 0 is finished,
  anything else killed. (The docs' words can also be read as killed in any case: `stopped_is_killed=True`.)
* A preempted run comes back before anything new, as `resume`, with the same id and config and with `_wandb` among its
  arguments (issue 4237). A crashed one never comes back.

Runs
* A run that is silent for `crash_after_s` (300 s in the cloud) is crashed, or preempted if it was marked; one that was
  only cut off runs again at its next word. Exit code 0 is finished, also after mark_preempting.
* Rows land at the offset the client names: a repeated request changes nothing, a client with a wrong offset overwrites.
* The server does not lock swept values: only the client does. It stores what it is sent.
* sampledHistory has the rows that hold all the keys asked for; a summary holds the last value, not the best, and
  `Sweep.best_run()` sorts by it.
* A key that is not the server's gets 401.

Faults: `fault` answers requests with an error, or late, or does the work and loses the answer; `down` closes the
listener and resets what is open, `up` opens it again on the same port.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.standins.wandb_http import Fault, Listener
from tests.standins.wandb_records import Run, Sweep
from tests.standins.wandb_state import State

KEY = "k" * 40
Found = TypeVar("Found")


class WandbServer:
    """A W&B server on loopback, running in threads of this process from `with` to the end of the block.

    url, port        where it listens
    state            what it knows and the web page's controls (`wandb_state.State`): `sweeps`, `runs`, `agents`, `ops`,
                     `unknown`, `errors`; `script(points)`, `stop_run(name)`, `delete_run(name)`, `delete_sweep(name)`,
                     `set_sweep_state(name, "PAUSED")`
    sweep, run(...)  the only sweep; a run by id, or the n-th that was handed out or opened
    create_sweep(c)  a sweep made without a client
    environment(dir) the environment for a client process: this server, its key, files under `dir`, quick uploads
    wait_for(...)    poll until something is true of the state
    fault(...)       make requests fail; down(), up(), outage(): no server at all

    Args:
        key: the API key it takes; any other gets 401.
        entity: the user the key belongs to.
        port: 0 for a free one.
        seed: of the draw, of the ids, and of the engine's random numbers.
        crash_after_s: silence after which a run is called crashed; 300 in the cloud.
        use_engine: take points from W&B's `sweeps` package when it imports in this process.
        ahead_s: how far its clock is ahead of this machine's; less than 0 for behind.
        stopped_is_killed: call a stopped run killed even when it ends with exit code 0.
    """

    def __init__(
        self,
        *,
        key: str = KEY,
        entity: str = "tester",
        port: int = 0,
        seed: int = 0,
        crash_after_s: float = 300.0,
        use_engine: bool = True,
        stopped_is_killed: bool = False,
        ahead_s: float = 0.0,
    ) -> None:
        self.key, self.port = key, port
        self.state = State(
            entity=entity,
            seed=seed,
            crash_after_s=crash_after_s,
            use_engine=use_engine,
            stopped_is_killed=stopped_is_killed,
            ahead_s=ahead_s,
        )
        self.faults: list[Fault] = []
        self._listener: Listener | None = None
        self._kept: socket.socket | None = None

    def __enter__(self) -> "WandbServer":
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        if self._kept is not None:
            self._kept.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def sweep(self) -> Sweep:
        """The only sweep there is."""
        (sweep,) = self.state.sweeps.values()
        return sweep

    def run(self, which: str | int) -> Run:
        """Return a run by its id, or by its position in order of creation."""
        with self.state.lock:
            return self.state.runs[which] if isinstance(which, str) else list(self.state.runs.values())[which]

    def create_sweep(self, config: Mapping[str, Any], *, project: str = "demo") -> Sweep:
        """Create a sweep without a client; for one, its path is `entity/project/name`."""
        with self.state.lock:
            return self.state.upsert_sweep({"config": yaml.safe_dump(dict(config)), "projectName": project})[0]

    def environment(self, directory: Path) -> dict[str, str]:
        """Return the environment for a client process; nothing of this process's W&B settings or keys gets in."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        return {
            **inherited,
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": self.key,
            "WANDB_DIR": str(directory),
            "WANDB_CACHE_DIR": str(directory / "wandb-cache"),
            "WANDB_CONFIG_DIR": str(directory / "wandb-config"),
            "WANDB_DATA_DIR": str(directory / "wandb-data"),
            "WANDB_DISABLE_GIT": "true",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
            "NETRC": str(directory / "netrc"),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def wait_for(self, look: Callable[[State], Found | None], timeout_s: float = 200.0, *, why: str = "") -> Found:
        """Poll until `look(state)` is true and return what it returned.

        Raises:
            TimeoutError: it did not become true; the message says what the server saw.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.state.settle()
            with self.state.lock:
                if found := look(self.state):
                    return found
            time.sleep(0.05)
        state = self.state
        runs = {run.name: run.states for run in state.runs.values()}
        seen = f"runs {runs}, refused {state.errors[-3:]}, unknown {state.unknown[-3:]}, last asked {state.ops[-5:]}"
        raise TimeoutError(f"not seen within {timeout_s} s{why and ': ' + why}; {seen}")

    def fault(
        self,
        *,
        status: int | None = None,
        match: str = "",
        seconds: float = float("inf"),
        count: int = sys.maxsize,
        after: bool = False,
        delay_s: float = 0.0,
        page: bytes = b"",
        when: Callable[[], object] = lambda: True,
    ) -> None:
        """Trouble the next `count` matching requests within `seconds`.

        Args:
            status: the HTTP status to answer with; None leaves the answer alone (a mere delay).
            match: part of an operation's name (`Heartbeat`), `file_stream`, `upload` or `download`; empty for all.
            after: do the work first, so that only the answer is lost.
            delay_s: seconds to wait before anything else, or until `heal`.
            page: what to answer with in W&B's place, as a proxy or the page of a login does, with the status.
            when: asked for each matching request whether it is one of them.
        """
        until = time.monotonic() + seconds
        self.faults.append(Fault(match=match, status=status, until=until, left=count, after=after, delay_s=delay_s,
                                 page=page, when=when))

    def revoke(self) -> None:
        """Take the key back: from now on it gets status 401."""
        self.key = "revoked"
        if self._listener is not None:
            self._listener.key = self.key

    def heal(self) -> None:
        """Forget all faults; a request that waits is answered now."""
        for fault in self.faults:
            fault.healed.set()
        self.faults.clear()

    def up(self) -> None:
        """Listen; after `down`, on the same port."""
        self._listener = Listener(self.port, self.state, self.key, self.faults)
        if self._kept is not None:
            self._kept.close()
        self.port = self._listener.server_address[1]
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Stop listening and reset the open connections; the state stays, and nobody else gets the port."""
        if self._listener is not None:
            self._listener.end()
            self._listener = None
            self._kept = socket.socket()
            self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):  # somebody was quicker
                self._kept.bind(("127.0.0.1", self.port))

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Be down for the length of the block."""
        self.down()
        try:
            yield
        finally:
            self.up()


def main() -> None:
    """Serve until a signal; print the address and the key."""
    parser = argparse.ArgumentParser(description="a loopback W&B server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crash-after", type=float, default=300.0, metavar="SECONDS")
    options = parser.parse_args()
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with WandbServer(port=options.port, seed=options.seed, crash_after_s=options.crash_after) as server:
        print(f"export WANDB_BASE_URL={server.url} WANDB_API_KEY={server.key}", flush=True)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
