"""The wire of the loopback Kaggle: requests in, answers out, live logs, uploads, downloads, and the leak alarm.

The unpleasant habits of the real wire that it keeps:

* The program's older version puts a kernel's version into the path of its live log and gets 404.
* The live log of a queued session waits a little and answers 404. (A guess.)
* The live log is cut now and then, silently or with a broken connection, and starts again from its beginning.
* The log of an ended session is no stream any more: it is one JSON array.
* Every answer names a newer API version, for which the program prints a warning.
* While Kaggle is `down` every connection is closed without an answer.

A request to any other host is refused with 403 and kept in `leaks`, which a test expects to be empty.
"""

import base64
import contextlib
import json
import re
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.standins.kaggle_machine import ENDED, Session, log_as_json

if TYPE_CHECKING:
    from tests.standins.kaggle_server import KaggleServer

OWNER, KEY, TOKEN = "tester", "0123456789abcdef0123456789abcdef", "KGAT_0123456789abcdef0123456789abcdef"
OUTDATED = "99.0.0"


class Refused(Exception):
    """An answer with an HTTP status of its own."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Elsewhere(Exception):
    """An answer that sends the program to another address."""


class Http(ThreadingHTTPServer):
    """Serves one KaggleServer."""

    daemon_threads = True
    kaggle: "KaggleServer"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not worth a traceback in a test's output."""


class Handler(BaseHTTPRequestHandler):
    """One connection of the program, of its downloads, or of a pushed script."""

    protocol_version = "HTTP/1.1"
    server: Http

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_CONNECT(self) -> None:
        self.server.kaggle.leaks.append(f"CONNECT {self.path}")
        self._answer(403, {"code": 403, "message": "no way out of this test"})

    def do_POST(self) -> None:
        kaggle, path = self.server.kaggle, self._path()
        body = json.loads(self._body() or b"{}")
        if path is None:
            return
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", path.rsplit("/", 1)[-1]).lower()
        kaggle.requests.append((method, body))
        if method != "introspect_token" and not self._is_authorized():
            self._answer(401, {"code": 401, "message": "Unauthenticated"})
            return
        answer = getattr(kaggle, method, None)
        if answer is None or method.startswith("_"):
            self._answer(404, {"code": 404, "message": f"no method {method}"})
            return
        try:
            with kaggle.lock:
                content = answer(body)
        except Refused as refusal:
            self._answer(refusal.code, {"code": refusal.code, "message": str(refusal)})
        except Elsewhere as address:
            self._answer(302, {}, location=str(address))
        else:
            self._answer(200, content)

    def do_PUT(self) -> None:
        path, body = self._path(), self._body()
        if path is None:
            return
        if self.server.kaggle.is_lost(path.rsplit("/", 1)[-1]):
            self._answer(400, {"code": 400, "message": "Bad Request"})
        else:
            self.server.kaggle.blobs[path.rsplit("/", 1)[-1]] = body
            self._answer(200, {})

    def do_GET(self) -> None:
        kaggle, path = self.server.kaggle, self._path()
        if path is None:
            return
        if path.startswith("/storage/"):
            content = (kaggle.directory / urllib.parse.unquote(path.removeprefix("/storage/"))).read_bytes()
            self._answer(200, content, kind="application/octet-stream")
        elif path.startswith("/api/v1/kernels/logs/stream/"):
            self._stream(path.removeprefix("/api/v1/kernels/logs/stream/"))
        else:
            self._answer(404, {"code": 404, "message": "Not Found"})

    def _stream(self, reference: str) -> None:
        kaggle = self.server.kaggle
        parts = reference.split("/")
        label = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("versionLabel", [None])[0]
        kaggle.requests.append(("stream", reference))
        try:
            if len(parts) != 2:  # the older program puts the version into the path
                raise Refused(404, "Not Found")
            session = kaggle.session_of({"userName": parts[0], "kernelSlug": parts[1]}
                                         | ({"versionLabel": label} if label else {}))
            if session is None or not self._is_authorized():
                raise Refused(403, "Permission 'kernels.get' was denied")
            with session.changed:
                if not session.changed.wait_for(lambda: session.status != "QUEUED", timeout=2):
                    raise Refused(404, "Not Found")
        except Refused as refusal:
            self._answer(refusal.code, {"code": refusal.code, "message": str(refusal)})
            return
        if session.status in ENDED:
            self._answer(200, log_as_json(session).encode(), kind="application/json")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._send_events(session, kaggle.log_cuts.pop(0) if kaggle.log_cuts else None)

    def _send_events(self, session: Session, cut: tuple[int, str] | None) -> None:
        kaggle, sent = self.server.kaggle, 0
        while True:
            with session.changed:
                if len(session.log) == sent and session.status not in ENDED:
                    session.changed.wait(timeout=0.2)
                events, ended = session.log[sent:], session.status in ENDED
            for event in events if cut is None else events[:cut[0] - sent]:
                self._chunk(f"data: {json.dumps(event)}\n\n")
                sent += 1
            if kaggle.down or (cut and sent >= cut[0]):
                self.close_connection = True
                if cut and cut[1] == "silent" and not kaggle.down:
                    self.wfile.write(b"0\r\n\r\n")
                return
            if ended and sent == len(session.log):
                self._chunk("data: END_OF_LOG\n\n")
                self.wfile.write(b"0\r\n\r\n")
                return

    def _chunk(self, text: str) -> None:
        content = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def _path(self) -> str | None:
        """Return the path of a request that is meant for Kaggle; answer any other one as a leak."""
        if self.server.kaggle.down:
            self.close_connection = True
            return None
        parts = urllib.parse.urlsplit(self.path)
        if parts.hostname == "localhost":
            return parts.path
        self.server.kaggle.leaks.append(f"{self.command} {self.path}")
        self._answer(403, {"code": 403, "message": "no way out of this test"})
        return None

    def _is_authorized(self) -> bool:
        basic = base64.b64encode(f"{OWNER}:{KEY}".encode()).decode()
        return self.headers.get("Authorization") in (f"Basic {basic}", f"Bearer {TOKEN}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, code: int, content: dict[str, Any] | bytes, *, kind: str = "application/json",
                location: str = "") -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        with contextlib.suppress(OSError):
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Kaggle-APIVersion", OUTDATED)
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(body)
