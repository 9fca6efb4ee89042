"""A loopback Kaggle that the real, unmodified `kaggle` program talks to, and that really runs what is pushed.

It is reached as a forward proxy: KAGGLE_API_ENVIRONMENT=LOCALHOST makes the program speak plain HTTP to
http://localhost, HTTP_PROXY sends that here. HTTPS_PROXY points here too, so that a request to the real Kaggle, or to
anything else, arrives as CONNECT or under another host: answered 403 and kept in `leaks`.

Rules of the real server that it applies, and the unpleasant habits that it keeps:

* A refusal is HTTP 200 with `error`, for which the program prints a line and exits 0: two GPU or five CPU sessions
  already running, the weekly GPU quota used up, a kernel that belongs to somebody else ("Notebook not found").
* A dataset that is unknown, somebody else's or still being processed is dropped from the push, and the kernel runs
  without it, exit status 0. So are unknown kernel sources; unknown models are not even mentioned by the program.
* A source over 1 MB is HTTP 400. Wrong credentials are 401. Someone else's kernel and one that is not there look the
  same: 403, "Permission 'kernels.get' was denied".
* A new kernel lands under the slug of its title, whatever its id says; where that slug is taken, 409.
* Only the code file goes up; its siblings do not exist on the machine. There are no arguments.
* A push does not stop the version before it. There is no cancel; `delete` takes the whole kernel.
* No output files before the session ended, none after a failure or a cancel; a script that exits with another status
  than 0 has failed. A session over its time limit is cancelled and nothing is kept.
* A new account, without a verified phone, gets neither GPU nor internet, and no word of it: both are saved as off.
* A retired or missing GPU is silently replaced by the default one, two T4.
* A dataset answers its owner 403 while it is being processed.
* An upload that the storage turns down (`lost_uploads`) is a success to the program, and the dataset lacks the file.
* The live log is cut now and then, with or without an error, and starts again from its beginning (`log_cuts`).
* Every answer carries a newer API version, for which the program prints a warning on stdout, above the answer.
* Pushed versions have their secrets detached: UserSecretsClient raises ConnectionError. (Done by kaggle_machine.py.)

Not known, and chosen here: the live log of a queued session waits a little, then answers 404.
"""

import os
import sys
import threading
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slugify import slugify

from tests.standins.kaggle_http import KEY, OWNER, TOKEN, Elsewhere, Handler, Http, Refused
from tests.standins.kaggle_machine import ENDED, Mount, Order, Session, log_as_json

PROGRAM = os.environ.get("KAGGLE_RUNNER_TEST_KAGGLE", str(Path(sys.executable).parent / "kaggle"))
"""The real program; the variable chooses another version of it."""
SOURCE_LIMIT_BYTES = 1_000_000
RETIRED = {"NvidiaTeslaP100": "NvidiaTeslaT4", "TpuV38": "TpuV5E8"}


@dataclass
class Dataset:
    """A dataset of the account; `ready` is the time from which its owner may see and use it."""

    directory: Path
    title: str
    private: bool
    version: int
    ready: float


@dataclass
class Kernel:
    """A saved kernel with the session of each of its versions, none where it was saved without running."""

    id: int
    slug: str
    title: str
    request: dict[str, Any]
    sessions: list[Session | None] = field(default_factory=list)


class KaggleServer:
    """The account, its kernels and datasets, and the faults a test asks for. Use it as a context manager."""

    def __init__(self, directory: Path, *, environ: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.environ = dict(environ or {})
        self.kernels: dict[str, Kernel] = {}
        self.datasets: dict[str, Dataset] = {}
        self.requests: list[tuple[str, Any]] = []
        self.leaks: list[str] = []
        self.old_layout = False
        self.slug_of: Callable[[str], str] = slugify
        """What the server makes of a new kernel's title."""
        self.phone_verified = True
        """Without it Kaggle saves a kernel with GPU and internet off, and says nothing."""
        self.queue_s = 0.0
        self.processing_s = 0.0
        self.session_limit_s = 1200.0
        self.other_gpu_sessions = 0
        self.quota_hours, self.used_hours = 30.0, 1.5
        self.has_quota_statistics = True
        self.log_cuts: list[tuple[int, str]] = []
        """For each attach to a live log: events after which it is cut, and `reset` or `silent`."""
        self.down = False
        """Every connection is dropped without an answer."""
        self.blobs: dict[str, bytes] = {}
        self.lost_uploads: set[str] = set()
        """Names of files that the storage turns down."""
        self._names: dict[str, str] = {}
        self.lock = threading.RLock()
        self._http = Http(("127.0.0.1", 0), Handler)
        self._http.kaggle = self
        self.port = self._http.server_address[1]

    def __enter__(self) -> "KaggleServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for kernel in self.kernels.values():
            for session in kernel.sessions:
                if session and session.status not in ENDED:
                    session.cancel()
        self._http.shutdown()
        self._http.server_close()

    def client_environment(self, home: Path) -> dict[str, str]:
        """Return what sends the real program here, with credentials, from an empty home directory."""
        home.mkdir(parents=True, exist_ok=True)
        proxy = f"http://127.0.0.1:{self.port}"
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "http_proxy": proxy,
            "https_proxy": proxy, "NO_PROXY": "", "no_proxy": "", "HOME": str(home), "KAGGLE_CONFIG_DIR": str(home),
            "TMPDIR": str(home), "KAGGLE_USERNAME": OWNER, "KAGGLE_KEY": KEY, "LANG": "C.UTF-8",
        }

    def session(self, slug: str) -> Session:
        """Return the newest session of a kernel."""
        found = self.kernels[slug].sessions[-1]
        if found is None:
            raise LookupError(f"the newest version of {slug} was saved without running")
        return found

    def wait(self, slug: str, *, until: tuple[str, ...] = ENDED, timeout_s: float = 60) -> Session:
        """Wait until the newest session of a kernel has one of these states."""
        session = self.session(slug)
        with session.changed:
            if not session.changed.wait_for(lambda: session.status in until, timeout=timeout_s):
                raise TimeoutError(f"{slug} is {session.status} after {timeout_s} s: {session.log[-5:]}")
        return session

    def add_dataset(self, slug: str, files: Mapping[str, bytes], *, ready_in_s: float = 0.0) -> None:
        """Put a private dataset into the account."""
        directory = self.directory / "datasets" / slug / "1"
        directory.mkdir(parents=True)
        for name, content in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)
        self.datasets[slug] = Dataset(directory=directory, title=slug, private=True, version=1,
                                      ready=time.monotonic() + ready_in_s)

    def is_lost(self, token: str) -> bool:
        """Say whether the storage turns down what is sent under this token."""
        return self._names[token] in self.lost_uploads

    # What the service methods answer; each takes the request's body and returns the answer's.

    def introspect_token(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"active": True, "username": OWNER} if body.get("token") == TOKEN else {"active": False}

    def save_kernel(self, body: dict[str, Any]) -> dict[str, Any]:
        if len(body.get("text", "").encode()) > SOURCE_LIMIT_BYTES:
            raise Refused(400, "The kernel source must be less than 1 megabytes in size.")
        owner, _, slug = body.get("slug", "").rpartition("/")
        if owner not in (OWNER, "") or "id" in body:
            return {"error": "Notebook not found", "ref": "", "url": ""}
        if slug not in self.kernels:
            if not body.get("newTitle"):
                raise Refused(400, "A title is required for a new notebook.")
            slug = self.slug_of(body["newTitle"])
            if slug in self.kernels:
                raise Refused(409, "Conflict")
        runs = body.get("kernelExecutionType") != "QUICK_SAVE"
        gpu = self._fit_machine(body)
        if runs and (refusal := self._refusal(gpu)):
            return {"error": refusal, "ref": "", "url": ""}
        mounts, invalid = self._mounts(body)
        kernel = self.kernels.setdefault(slug, Kernel(id=len(self.kernels) + 1, slug=slug, title="", request={}))
        kernel.title, kernel.request = body.get("newTitle") or kernel.title, body
        version = len(kernel.sessions) + 1
        session = Session(
            root=self.directory / "sessions" / slug / str(version),
            order=Order(source=body.get("text", ""), gpus=2 if gpu else 0, internet=body.get("enableInternet", False),
                        mounts=mounts, old_layout=self.old_layout, queue_s=self.queue_s, environ=dict(self.environ),
                        limit_s=min(self.session_limit_s, body.get("sessionTimeoutSeconds") or self.session_limit_s),
                        proxy=f"http://127.0.0.1:{self.port}")) if runs else None
        kernel.sessions.append(session)
        if session:
            session.start()
        return {"ref": f"{OWNER}/{slug}", "url": f"https://www.kaggle.com/code/{OWNER}/{slug}",
                "versionNumber": version, "error": "", "invalidTags": [], "kernelId": kernel.id, **invalid}

    def get_kernel_session_status(self, body: dict[str, Any]) -> dict[str, Any]:
        session = self.session_of(body)
        answer = {"status": session.status if session else "NEW_SCRIPT"}
        if session and session.failure:
            answer["failureMessage"] = session.failure
        return answer

    def list_kernel_session_output(self, body: dict[str, Any]) -> dict[str, Any]:
        session = self.session_of(body)
        if session is None or session.status not in ENDED:
            return {"files": [], "log": "", "nextPageToken": ""}
        names = list(session.outputs().items())
        start, size = int(body.get("pageToken") or 0), int(body.get("pageSize") or 20)
        files = [{"url": self._sign(path), "fileName": name} for name, path in names[start:start + size]]
        more = str(start + size) if start + size < len(names) else ""
        return {"files": files, "log": log_as_json(session), "nextPageToken": more}

    def list_kernel_files(self, body: dict[str, Any]) -> dict[str, Any]:
        session = self.session_of(body)
        return {"files": [{"name": name, "size": path.stat().st_size, "creationDate": "2026-10-01T00:00:00Z"}
                          for name, path in (session.outputs() if session else {}).items()], "nextPageToken": ""}

    def get_kernel(self, body: dict[str, Any]) -> dict[str, Any]:
        kernel = self._kernel_of(body)
        return {"metadata": self._metadata(kernel),
                "blob": {"source": kernel.request.get("text", ""), "language": "python", "slug": kernel.slug,
                         "kernelType": kernel.request.get("kernelType", "script")}}

    def list_kernels(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"kernels": [self._metadata(kernel) for kernel in reversed(self.kernels.values())], "nextPageToken": ""}

    def delete_kernel(self, body: dict[str, Any]) -> dict[str, Any]:
        kernel = self._kernel_of(body)
        for session in kernel.sessions:
            if session and session.status not in ENDED:
                session.cancel()
        del self.kernels[kernel.slug]
        return {}

    def get_accelerator_quota_statistics(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self.has_quota_statistics:
            raise Refused(500, "An internal server error occurred.")
        gpu = {"timeUsed": f"{int(self._used_s())}s", "timeReserved": "0s", "hasEverRun": True,
               "totalTimeAllowed": f"{int(self.quota_hours * 3600)}s", "minimumTimeAllowed": "0s"}
        return {"quotaRefreshTime": "2026-10-31T00:00:00Z", "gpuQuota": gpu,
                "tpuQuota": {**gpu, "timeUsed": "0s", "totalTimeAllowed": "72000s"}}

    def start_blob_upload(self, body: dict[str, Any]) -> dict[str, Any]:
        token = f"blob-{len(self._names) + 1}"
        self._names[token] = body["name"]
        return {"token": token, "createUrl": f"http://localhost/upload/{token}"}

    def get_dataset_status(self, body: dict[str, Any]) -> dict[str, Any]:
        self._dataset_of(body)
        return {"status": "READY"}

    def get_dataset(self, body: dict[str, Any]) -> dict[str, Any]:
        found = self._dataset_of(body)
        return {"ref": f"{OWNER}/{body['datasetSlug']}", "currentVersionNumber": found.version, "title": found.title}

    def create_dataset(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["ownerSlug"] != OWNER:
            return {"status": "error", "error": f"You do not own {body['ownerSlug']}", "ref": "", "url": ""}
        if body["slug"] in self.datasets:
            return {"status": "error", "ref": "", "url": "",
                    "error": f'The requested title "{body["title"]}" is already in use by a dataset.'}
        return self._store(body["slug"], body, 1, private=body.get("isPrivate", False), title=body["title"])

    def create_dataset_version(self, body: dict[str, Any]) -> dict[str, Any]:
        slug = body["datasetSlug"]
        if body["ownerSlug"] != OWNER or slug not in self.datasets or not self._is_ready(slug):
            raise Refused(403, "Permission 'datasets.update' was denied")
        old = self.datasets[slug]
        return self._store(slug, body["body"], old.version + 1, private=old.private, title=old.title)

    def list_dataset_files(self, body: dict[str, Any]) -> dict[str, Any]:
        found = self._dataset_of(body)
        return {"datasetFiles": [{"ref": path.name, "name": path.relative_to(found.directory).as_posix(),
                                  "totalBytes": path.stat().st_size, "creationDate": "2026-10-01T00:00:00Z"}
                                 for path in sorted(found.directory.rglob("*")) if path.is_file()]}

    def get_dataset_metadata(self, body: dict[str, Any]) -> dict[str, Any]:
        found = self._dataset_of(body)
        return {"info": {"title": found.title, "licenses": [{"name": "other"}], "isPrivate": found.private}}

    def download_dataset(self, body: dict[str, Any]) -> dict[str, Any]:
        path = self._dataset_of(body).directory / body["fileName"]
        if not path.is_file():
            raise Refused(404, "Not Found")
        raise Elsewhere(self._sign(path))

    # What the methods above share.

    def _fit_machine(self, body: dict[str, Any]) -> bool:
        if not self.phone_verified:
            body |= {"enableGpu": False, "enableInternet": False, "machineShape": ""}
        shape = RETIRED.get(body.get("machineShape", ""), body.get("machineShape", ""))
        gpu = body.get("enableGpu", False) or shape.startswith("Nvidia")
        body["machineShape"] = shape or ("NvidiaTeslaT4" if gpu else "None")
        body["enableGpu"] = gpu
        return gpu

    def _refusal(self, gpu: bool) -> str:
        live = [s.order.gpus > 0 for k in self.kernels.values() for s in k.sessions if s and s.status not in ENDED]
        if gpu and sum(live) + self.other_gpu_sessions >= 2:
            return "Maximum batch GPU session count of 2 reached."
        if not gpu and len(live) - sum(live) >= 5:
            return "Maximum batch CPU session count of 5 reached."
        if gpu and self._used_s() >= self.quota_hours * 3600:
            return f"Maximum weekly GPU quota of {self.quota_hours:.2f} hours reached"
        return ""

    def _used_s(self) -> float:
        return self.used_hours * 3600 + sum(s.seconds for k in self.kernels.values() for s in k.sessions
                                            if s and s.order.gpus)

    def _mounts(self, body: dict[str, Any]) -> tuple[list[Mount], dict[str, list[str]]]:
        mounts, invalid = [], {"invalidDatasetSources": [], "invalidKernelSources": [],
                               "invalidModelSources": body.get("modelDataSources", [])}
        for source in body.get("datasetDataSources", []):
            owner, slug = source.split("/")[:2]
            if owner == OWNER and slug in self.datasets and self._is_ready(slug):
                mounts.append(Mount(kind="datasets", owner=owner, slug=slug, directory=self.datasets[slug].directory))
            else:
                invalid["invalidDatasetSources"].append(source)
        for source in body.get("kernelDataSources", []):
            owner, slug = source.split("/")[:2]
            ended = [s for s in (self.kernels[slug].sessions if slug in self.kernels else []) if s and s.outputs()]
            if owner == OWNER and ended:
                mounts.append(Mount(kind="notebooks", owner=owner, slug=slug, directory=ended[-1].working))
            else:
                invalid["invalidKernelSources"].append(source)
        return mounts, invalid

    def _kernel_of(self, body: dict[str, Any]) -> Kernel:
        kernel = self.kernels.get(body.get("kernelSlug", ""))
        if kernel is None or body.get("userName") != OWNER:
            raise Refused(403, "Permission 'kernels.get' was denied")
        return kernel

    def session_of(self, body: dict[str, Any]) -> Session | None:
        kernel = self._kernel_of(body)
        label = body.get("versionLabel")
        number = len(kernel.sessions) if label is None else int(label.removeprefix("v"))
        if (label is not None and not label.startswith("v")) or not 1 <= number <= len(kernel.sessions):
            raise Refused(404, "Not Found")
        return kernel.sessions[number - 1]

    def _metadata(self, kernel: Kernel) -> dict[str, Any]:
        kept = ("language", "kernelType", "isPrivate", "enableGpu", "enableTpu", "enableInternet", "machineShape",
                "datasetDataSources", "kernelDataSources", "competitionDataSources", "modelDataSources", "dockerImage")
        _, invalid = self._mounts(kernel.request)
        dropped = {source for sources in invalid.values() for source in sources}
        values = {name: kernel.request[name] for name in kept if name in kernel.request}
        for name in ("datasetDataSources", "kernelDataSources", "modelDataSources"):
            values[name] = [source for source in values.get(name, []) if source not in dropped]
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        return {"id": kernel.id, "ref": f"{OWNER}/{kernel.slug}", "title": kernel.title, "author": OWNER,
                "slug": kernel.slug, "lastRunTime": stamp, "totalVotes": 0,
                "currentVersionNumber": len(kernel.sessions), **values}

    def _is_ready(self, slug: str) -> bool:
        return self.datasets[slug].ready <= time.monotonic()

    def _dataset_of(self, body: dict[str, Any]) -> Dataset:
        slug = body.get("datasetSlug", "")
        if body.get("ownerSlug") != OWNER or slug not in self.datasets or not self._is_ready(slug):
            raise Refused(403, "Permission 'datasets.get' was denied")
        return self.datasets[slug]

    def _store(self, slug: str, body: dict[str, Any], version: int, *, private: bool, title: str) -> dict[str, Any]:
        directory = self.directory / "datasets" / slug / str(version)
        directory.mkdir(parents=True)
        for file in body.get("files", []):
            if file["token"] not in self.blobs:
                continue
            path = directory / self._names[file["token"]]
            path.write_bytes(self.blobs[file["token"]])
            if path.suffix == ".zip":  # unpacked on Kaggle; a wheel is not
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(directory / path.stem)
                path.unlink()
        self.datasets[slug] = Dataset(directory=directory, title=title, private=private, version=version,
                                      ready=time.monotonic() + self.processing_s)
        return {"ref": f"{OWNER}/{slug}", "url": f"https://www.kaggle.com/datasets/{OWNER}/{slug}", "status": "ok",
                "error": ""}

    def _sign(self, path: Path) -> str:
        return f"http://localhost/storage/{urllib.parse.quote(str(path.relative_to(self.directory)))}?signature=x"
