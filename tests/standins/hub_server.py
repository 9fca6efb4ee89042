"""A loopback hub for the clients of transformers and datasets: HF_ENDPOINT sends them here.

The owner in a repository's name says how it is refused. Its unpleasant habits are those of the real hub: one status for
many reasons, and the reason in a header or nowhere.

* `gated`: 401 without a token, 403 with one, `X-Error-Code: GatedRepo`, and the hub's own sentence.
* `limited`: 429. The client tries again by itself, as long as the `RateLimit` header says.
* `crowded`: as `limited`, and it says to wait 5 s.
* `missing`: 401 without a token, 404 with one, `X-Error-Code: RepoNotFound`: a private one looks the same.
* `stale`: 401 for a token that was revoked, and no code.
* `walled`: 403 without a code or a reason, as from what stands before the hub.
* `review`: 403 with the code of `gated`, for an account that asked and has no answer yet.
* `disabled`: 403 without a code, and the hub's own sentence.
* `barred`: 451 with a sentence. `odd`: 418 without one.

Any other owner is a folder of `open`, with a folder for each of its datasets; a branch is told from another by what
stands behind `@` in the folder's name. A file that is not there is a 404 with `X-Error-Code: EntryNotFound`, a branch
that is not there one with `RevisionNotFound`.

Source: huggingface_hub/utils/_http.py, hf_api.py and hf_file_system.py, 1.11 and 1.32.
"""

import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

AWAITED = "Your request to access {name} is awaiting a review from the repo authors."
RESTRICTED = "Access to model {name} is restricted and you are not in the authorized list. Visit https://h.co to ask."


def _revision(folder: Path) -> str:
    return folder.name.partition("@")[2] or "main"


def _commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        parts = path.removeprefix("/api").removeprefix("/models").removeprefix("/datasets").strip("/").split("/")
        name = "/".join(parts[:2])
        with_token = "Authorization" in self.headers
        refusals = {
            "gated": (403 if with_token else 401, {"X-Error-Code": "GatedRepo",
                                                   "X-Error-Message": RESTRICTED.format(name=name)}),
            "limited": (429, {"RateLimit": '"resolvers";r=0;t=0'}),
            "crowded": (429, {"RateLimit": '"resolvers";r=0;t=5'}),
            "missing": (404 if with_token else 401, {"X-Error-Code": "RepoNotFound"}),
            "stale": (401, {}),
            "walled": (403, {}),
            "review": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": AWAITED.format(name=name)}),
            "disabled": (403, {"X-Error-Message": "Access to this resource is disabled."}),
            "barred": (451, {"X-Error-Message": "Unavailable For Legal Reasons"}),
            "odd": (418, {}),
        }
        if parts[0] in refusals:
            return self._answer(*refusals[parts[0]])
        revisions = {_revision(folder): folder for folder in (self.server.open / parts[0]).glob("*")
                     if folder.name.split("@")[0] == parts[1]}
        revisions |= {_commit(revision): folder for revision, folder in revisions.items()}
        if not revisions:
            return self._answer(404, {"X-Error-Code": "RepoNotFound"})
        kind, revision, *inside = [*parts[2:], "info", "main"] if len(parts) < 4 else parts[2:]
        if revision not in revisions:
            return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        self._of_folder(kind, revisions[revision], "/".join(inside), name, body)

    def _of_folder(self, kind: str, folder: Path, inside: str, name: str, body: bytes) -> None:
        commit = _commit(_revision(folder))
        if kind == "resolve":
            file = folder / inside
            if not file.is_file():
                return self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            content = file.read_bytes()
            return self._answer(200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'},
                                content)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        if kind == "tree":
            below = [path for path in sorted((folder / inside).rglob("*"))
                     if "recursive=true" in self.path.lower() or path.parent == folder / inside]
            return self._json([_entry(path, folder) for path in below])
        if kind == "paths-info":
            asked = (json.loads(body) if body.startswith(b"{") else urllib.parse.parse_qs(body.decode()))["paths"]
            return self._json([_entry(folder / path, folder) for path in asked if (folder / path).exists()])
        self._json({"id": name, "sha": commit, "private": False, "gated": False, "downloads": 0, "likes": 0, "tags": [],
                    "siblings": [{"rfilename": str(path.relative_to(folder))} for path in files]})

    do_HEAD = do_POST = do_GET

    def _json(self, value: Any) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    inside = str(path.relative_to(folder))
    digest = hashlib.sha1(inside.encode()).hexdigest()
    if path.is_dir():
        return {"type": "directory", "path": inside, "oid": digest, "size": 0}
    return {"type": "file", "path": inside, "oid": digest, "size": path.stat().st_size}


class _Server(ThreadingHTTPServer):
    open: Path


class HubServer:
    """The hub, as a context manager; `open` is the folder whose datasets it gives to everybody."""

    def __init__(self, open: Path = Path("/nowhere")) -> None:
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.open = open
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
