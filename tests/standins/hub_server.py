"""A loopback hub that refuses, for the clients of transformers and datasets: HF_ENDPOINT sends them here.

The owner in a repository's name says how it is refused. Its unpleasant habits are those of the real hub: one status for
many reasons, and the reason in a header or nowhere.


* `gated`: 401 without a token, 403 with one, `X-Error-Code: GatedRepo`, and the hub's own sentence.
* `limited`: 429. The client tries again by itself, as long as the `RateLimit` header says.
* `missing`: 401 without a token, 404 with one, `X-Error-Code: RepoNotFound`: a private one looks the same.
* `stale`: 401 for a token that was revoked, and no code.

Source: huggingface_hub/utils/_http.py, 1.11 and 1.32.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RESTRICTED = "Access to model {name} is restricted and you are not in the authorized list. Visit https://h.co to ask."


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = self.path.removeprefix("/api/models").removeprefix("/api/datasets").removeprefix("/datasets")
        name = "/".join(parts.strip("/").split("/")[:2])
        with_token = "Authorization" in self.headers
        status, headers = {
            "gated": (403 if with_token else 401, {"X-Error-Code": "GatedRepo",
                                                   "X-Error-Message": RESTRICTED.format(name=name)}),
            "limited": (429, {"RateLimit": '"resolvers";r=0;t=0'}),
            "missing": (404 if with_token else 401, {"X-Error-Code": "RepoNotFound"}),
            "stale": (401, {}),
        }[name.split("/")[0]]
        self.send_response(status)
        for key, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *arguments: Any) -> None:
        pass


class HubServer:
    """The hub, as a context manager."""

    def __init__(self) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
