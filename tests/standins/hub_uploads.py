"""A loopback hub that takes models, for the real client of huggingface_hub: HF_ENDPOINT sends it here.

Its unpleasant habits are the real one's. A name that somebody has is 409 whoever asks, with whatever visibility,
and a foreign namespace is 403; a token is refused with 401 in one place and with a role in another. Large files go
another way than small ones, a commit names them by their hash only, and a file that was never sent is accepted
there. Whatever is of `gated` is refused with 403 and a code, also to a token that may write. It loses the
connection in the middle of the first large file if asked to, and the client sends it again.
It is kinder in one thing: it has no Xet storage, which the client is told by HF_HUB_DISABLE_XET.

Source: huggingface_hub 2.4, _commit_api.py, lfs.py and hf_api.py.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS = {"hf_write": "write", "hf_read": "read"}
OWNER = "me"
RESTRICTED = "Access to model gated/base is restricted and you are not in the authorized list."


class HubUploads:
    """The hub, as a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        """What was sent as large files, by SHA-256."""
        self.puts = 0
        self.lose_large = 0
        """How many of the first uploads of a large file end without an answer, by turns when half and when all of it is
        read: a client sees a reset and an orderly end, and takes them for two kinds of loss."""
        self.refuse_large = 0
        """The HTTP status that large files are refused with, if any."""
        self.instead: tuple[str, str, int] = ("", "", 0)
        """A method, a part of a path, and the status that such requests are answered with instead: 200 is a login page
        of a network that lies between, 0 the end of the connection."""
        self.forget_large = False
        """Accept large files and keep none of them."""
        hub = self

        class Handler(_Handler):
            state = hub

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "HubUploads":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: HubUploads

    def _is_answered(self) -> bool:
        method, part, status = self.state.instead
        if method != self.command or part not in self.path:
            return False
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if status == 0:
            self.connection.close()
            self.close_connection = True
        elif status == 200:
            self.send_response(200)
            self.send_header("Content-Length", "20")
            self.end_headers()
            self.wfile.write(b"<html>Log in!</html>")
        else:
            self._answer(status, {"error": f"because {status}"})
        return True

    def do_GET(self) -> None:
        if self._is_answered():
            return
        path = self.path.split("?")[0]
        if path == "/api/whoami-v2":
            role = TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
            if role is None:
                return self._answer(401, {"error": "Invalid credentials in Authorization header"})
            return self._answer(200, {"name": OWNER, "type": "user", "auth": {
                "accessToken": {"displayName": f"my {role} token", "role": role}}})
        if path.removeprefix("/api/models").startswith("/gated/"):
            return self._answer(403, {}, {"X-Error-Code": "GatedRepo", "X-Error-Message": RESTRICTED})
        name = path.removeprefix("/api/models/").removesuffix("/revision/main")
        files = self.state.repositories.get(name)
        if files is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return self._answer(200, {"id": name, "private": self.state.private.get(name, True),
                                  "siblings": [_sibling(file, files[file]) for file in sorted(files)]})

    def do_POST(self) -> None:
        if self._is_answered():
            return
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            return self._create(json.loads(content))
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            return self._answer(200, {"transfer": "basic", "objects": [
                {"oid": each["oid"], "size": each["size"]} if each["oid"] in self.state.large else
                {"oid": each["oid"], "size": each["size"], "actions": {"upload": {
                    "href": f"{self.state.url}/large/{each['oid']}", "header": {}}}}
                for each in json.loads(content)["objects"]]})
        if "/preupload/" in path:
            return self._answer(200, {"files": [
                {"path": each["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular"}
                for each in json.loads(content)["files"]]})
        if "/commit/" in path:
            name = path.removeprefix("/api/models/").split("/commit/")[0]
            for line in content.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    self.state.repositories[name][value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    self.state.repositories[name][value["path"]] = self.state.large.get(value["oid"], b"")
            return self._answer(200, {"commitUrl": f"{self.state.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40,
                                      "success": True})
        return self._answer(404, {"error": path})

    def do_PUT(self) -> None:
        size = int(self.headers["Content-Length"])
        if self.path.endswith("/settings"):
            name = self.path.removeprefix("/api/models/").removesuffix("/settings")
            wanted = json.loads(self.rfile.read(size))
            self.state.private[name] = wanted.get("private") is True or wanted.get("visibility") == "private"
            return self._answer(200, {})
        self.state.puts += 1
        if self.state.puts <= self.state.lose_large:
            self.rfile.read(size if self.state.puts % 2 else size // 2)
            self.connection.close()
            self.close_connection = True
            return
        content = self.rfile.read(size)
        if self.state.refuse_large:
            return self._answer(self.state.refuse_large, {"error": "storage of this account is full"})
        if not self.state.forget_large:
            self.state.large[self.path.rpartition("/")[2]] = content
        self._answer(200, {})

    def _create(self, wanted: dict[str, Any]) -> None:
        owner = wanted.get("organization") or OWNER
        name = f"{owner}/{wanted['name']}"
        if name in self.state.repositories:
            return self._answer(409, {"error": "You already created this model repo",
                                      "url": f"{self.state.url}/{name}"})
        if owner != OWNER:
            return self._answer(403, {"error": f"You don't have the rights to create a model under {owner}"})
        self.state.repositories[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        self.state.private[name] = wanted.get("private") is True or wanted.get("visibility") == "private"
        return self._answer(200, {"url": f"{self.state.url}/{name}", "name": name})

    def _answer(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(content)),
                           **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *arguments: Any) -> None:
        pass


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
    found: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith(".safetensors"):
        found["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 135}
    return found
