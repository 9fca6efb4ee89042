"""The loopback W&B server's HTTP: keys, faults, GraphQL, file streams, uploads and downloads.

The unpleasant habits of the real server that it keeps: a refusal in GraphQL carries its reason in `errors` beside
`data` that is null; a key that is not the server's gets 401; bodies come compressed and in chunks. It can be told
to answer with an error, to answer late, to do the work and lose the answer, and to vanish with every connection
reset.
"""

import base64
import contextlib
import gzip
import http.server
import json
import socket
import struct
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.standins import wandb_graphql
from tests.standins.wandb_fields import mutation_root, query_root
from tests.standins.wandb_records import Run
from tests.standins.wandb_state import Refusal, State


@dataclass(kw_only=True)
class Fault:
    """Trouble for the requests whose operation, `file_stream`, `upload` or `download` contains `match`."""

    match: str
    status: int | None
    until: float
    left: int
    after: bool
    delay_s: float
    page: bytes = b""
    when: Callable[[], object] = lambda: True
    healed: threading.Event = field(default_factory=threading.Event)
    """Ends the delay of those that wait."""

    def applies(self, operation: str) -> bool:
        if self.match not in operation or self.left <= 0 or time.monotonic() > self.until or not self.when():
            return False
        self.left -= 1
        return True


class Listener(http.server.ThreadingHTTPServer):
    """The listening socket and a thread for each connection, until `end`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, port: int, state: State, key: str, faults: list[Fault]) -> None:
        self.state, self.key, self.faults = state, key, faults
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def end(self) -> None:
        """Close the listener and reset every open connection, so that a client sees the server vanish."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            self.state.unknown.append(f"bug of this server: {error!r}")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/":
            return self._guarded("overview", self._overview)
        self._guarded("download", self._download)

    def do_PUT(self) -> None:
        body = self._body()
        self._guarded("upload", lambda: self._upload(body))

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/graphql"):
            return self._graphql(json.loads(body))
        if self.path.endswith("/file_stream"):
            return self._guarded("file_stream", lambda: self._stream(json.loads(body)))
        self._guarded(f"POST {self.path}", self._nowhere)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _guarded(self, operation: str, answer: Callable[[], Any]) -> None:
        """Answer one request: faults first, then the key, then the work; refusals as the cloud words them."""
        state = self.server.state
        fault = next((fault for fault in self.server.faults if fault.applies(operation)), None)
        if fault:
            fault.healed.wait(fault.delay_s)
            if fault.status and not fault.after:
                return self._send(fault.status, fault.page or {"error": "injected fault"})
        try:
            if operation not in ("upload", "download", "overview"):
                self._check_key()
            with state.lock:
                state.settle()
                state.ops.append(operation)
                status, content = 200, answer()
        except Refusal as refusal:
            state.errors.append(f"{operation}: {refusal.message}")
            error = {"message": refusal.message, "path": [refusal.path]}
            status, content = refusal.status, {"errors": [error], "data": {refusal.path: None}}
        except Exception as error:
            state.unknown.append(f"bug of this server in {operation}: {error!r}")
            status, content = 500, {"errors": [{"message": repr(error)}]}
        if fault and fault.status:
            status, content = fault.status, {"error": "injected fault, after the work was done"}
        self._send(status, content)

    def _check_key(self) -> None:
        kind, _, credentials = (self.headers.get("Authorization") or "").partition(" ")
        user, _, key = base64.b64decode(credentials).decode().partition(":")
        if (kind, user, key) != ("Basic", "api", self.server.key):
            raise Refusal(401, "user is not logged in", "viewer")

    def _send(self, status: int, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        is_page = content[:1] == b"<" if isinstance(content, bytes) else False
        self.send_header("Content-Type", "text/html" if is_page else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _nowhere(self) -> Any:
        self.server.state.unknown.append(f"{self.command} {self.path}")
        raise Refusal(404, "page not found", "")

    def _overview(self) -> Any:
        state = self.server.state
        runs = {run.name: [run.sweep, run.states, run.exitcode, run.params] for run in state.runs.values()}
        sweeps = {sweep.name: [sweep.entity, sweep.project, sweep.state] for sweep in state.sweeps.values()}
        return {"sweeps": sweeps, "runs": runs, "unknown": state.unknown, "errors": state.errors}

    def _file(self) -> tuple[Run, str]:
        """Return the run and the file name that `/storage/entity/project/run/name` or `/files/...` speaks of."""
        parts = urllib.parse.unquote(self.path.partition("?")[0]).split("/", 5)
        if len(parts) < 6 or parts[1] not in ("storage", "files"):
            return self._nowhere()
        run = self.server.state.find_run(parts[2], parts[3], parts[4])
        if run is None:
            raise Refusal(404, f"run {'/'.join(parts[2:5])} not found", "run")
        return run, parts[5]

    def _stream(self, sent: Mapping[str, Any]) -> Any:
        run, _ = self._file()
        return self.server.state.stream(run, sent)

    def _upload(self, body: bytes) -> Any:
        run, name = self._file()
        run.files[name] = body
        return {}

    def _download(self) -> Any:
        run, name = self._file()
        if name not in run.files:
            raise Refusal(404, f"file {name} not found", "file")
        return run.files[name]

    def _graphql(self, sent: Mapping[str, Any]) -> None:
        try:
            document = wandb_graphql.parse(sent["query"])
        except wandb_graphql.DocumentError as error:
            self.server.state.unknown.append(f"unreadable document: {error}")
            return self._send(400, {"errors": [{"message": str(error)}]})
        state, url = self.server.state, self.server.url

        def answer() -> Any:
            root = query_root(state, url) if document.kind == "query" else mutation_root(state, url)
            variables = sent.get("variables") or {}
            return {"data": wandb_graphql.execute(document, root, variables, state.unknown.append)}

        self._guarded(document.label, answer)
