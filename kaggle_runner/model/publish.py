"""An exported model on the Hugging Face hub: private, file by file, so that a push that broke off goes on.

Nothing is believed that the hub does not hold: at the end its list of files is compared with the folder.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from kaggle_runner.errors import ModelError
from kaggle_runner.events import Note, Notify
from kaggle_runner.model.marker import MARKER
from kaggle_runner.wording import size_text

STORE = "make one that may write at https://huggingface.co/settings/tokens and export HF_TOKEN=..."
WEIGHTS = (".safetensors", ".gguf")
WAITS_S = (2.0, 5.0)
"""Seconds before a lost connection is tried again."""
ALWAYS_THERE = {".gitattributes"}
"""What the hub puts into a new repository itself."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A repository that may be written to."""

    name: str
    """With its owner."""
    api: HfApi
    private: bool

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self.api.endpoint}/{self.name}"


def find_target(name: str, *, private: bool = True) -> Target:
    """Check a repository's name and the token's right to it, before a model is made for it.

    Raises:
        ModelError: the name is malformed, there is no token, the hub does not know it, it may not write, the
            repository is there and `private` is not what it is, or the hub cannot be reached.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ModelError(f"--push {name!r} is no name for a model on the hub: {reason}; write it as owner/name, with "
                         f"letters, digits, '-', '_' and '.'") from error
    if get_token() is None:
        raise ModelError(f"--push {name} needs a Hugging Face token, and none is here; {STORE}")
    disable_progress_bars()
    api = HfApi()
    try:
        account = api.whoami()
    except OfflineModeIsEnabled as error:
        raise ModelError("HF_HUB_OFFLINE is set, so nothing can be pushed to the hub; unset it and run the same "
                         "command again") from error
    except Exception as error:  # of its HTTP client, which differs from version to version
        raise _said(error, name, "asking who the token is of") from error
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise ModelError(f"the Hugging Face token {token.get('displayName', '')!r} of {account.get('name')} may only "
                         f"read, so it cannot push {name}; {STORE}")
    target = Target(name=name if "/" in name else f"{account['name']}/{name}", api=api, private=private)
    if target.name.startswith(f"{account['name']}/"):
        try:
            info = api.model_info(target.name)
        except RepositoryNotFoundError:  # it is made when there is something to put into it
            return target
        except Exception as error:
            raise _said(error, target.name, "looking for the repository") from error
        _require_as_private(target, info)
    return target


def publish(folder: Path, target: Target, notify: Notify) -> int:
    """Put a folder's files into a repository, weights first and one file at a time; return how many were sent.

    Files that the hub has already are left out, so the same call goes on where one broke off. A private repository
    that should be public becomes so when all is there.

    Raises:
        ModelError: the repository is of something else, or public where it should be private, the hub refuses it, the
            network is lost, or the hub does not hold in the end what was sent.
    """
    try:
        target.api.create_repo(target.name, private=target.private, exist_ok=True)
        info = target.api.model_info(target.name, files_metadata=True)
    except Exception as error:
        raise _said(error, target.name, "making the repository") from error
    there = _files_of(info)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    ours = MARKER in there and _is_there(there[MARKER], names[MARKER])
    strange = sorted(there.keys() - ALWAYS_THERE)
    if strange and not ours:
        raise ModelError(f"--push {target.name} is taken: it holds something else, such as {strange[0]}; "
                         f"choose another name, or empty it on {target.url}")
    _require_as_private(target, info)
    missing = {name: path for name, path in names.items() if name not in there or not _is_there(there[name], path)}
    weights = [name for name in missing if name.endswith(WEIGHTS)]
    rest = [name for name in missing if name not in weights and name != MARKER]
    steps = [[MARKER]] if MARKER in missing else []
    steps += [[name] for name in weights]
    steps += [rest] if rest else []
    sent = 0
    for step in steps:
        if step[0] in weights:
            notify(Note(text=f"pushing {step[0]}, {size_text(missing[step[0]].stat().st_size)}"))
        try:
            _commit(target, [(name, missing[name]) for name in step], notify)
        except Exception as error:
            raise _said(error, target.name, f"pushing {step[0]}", done=len(names) - len(missing) + sent,
                        of=len(names)) from error
        sent += len(step)
    try:
        there = _files_of(target.api.model_info(target.name, files_metadata=True))
    except Exception as error:
        raise _said(error, target.name, "reading what the hub holds") from error
    lacking = [name for name, path in names.items() if name not in there or not _is_there(there[name], path)]
    if lacking:
        raise ModelError(f"{target.url} does not hold {', '.join(lacking[:3])} as pushed; run the same command again")
    if info.private and not target.private:
        try:
            target.api.update_repo_settings(target.name, private=False)
        except Exception as error:
            raise _said(error, target.name, "making it public, all files are there") from error
        notify(Note(text=f"{target.name} was private and is public now"))
    return sent


def _commit(target: Target, files: Sequence[tuple[str, Path]], notify: Notify) -> None:
    """Send files; where the connection is lost, from the beginning of a file again.

    The library itself tries again after a reset, and in some versions, 1.11 among them, not after an orderly end.
    """
    for wait_s in (*WAITS_S, None):
        try:
            target.api.create_commit(
                target.name, commit_message=f"Add {files[0][0]}" + (f" and {len(files) - 1} more" if files[1:] else ""),
                operations=[CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in files])
            return
        except Exception as error:  # of its HTTP client, which differs from version to version
            if wait_s is None or _answered(error)[0] is not None or isinstance(error, ValueError):
                raise
            notify(Note(text=f"the connection was lost while {files[0][0]} was sent; again in {wait_s:.0f} s"))
            time.sleep(wait_s)


def _answered(error: BaseException) -> tuple[int | None, BaseException]:
    """Return the HTTP status of the answer that an error is about, and the error that holds it; without one, itself."""
    found: BaseException | None = error
    while found is not None:
        status = getattr(getattr(found, "response", None), "status_code", None)
        if status is not None:
            return int(status), found
        found = found.__cause__
    return None, error


def _require_as_private(target: Target, info: Any) -> None:
    """See that nothing is shown to everybody that nobody said should be."""
    if target.private and info.private is False:
        raise ModelError(f"{target.name} is public, and --public is not given: everybody would see what is pushed; "
                         f"give --public, or make it private on {target.url}/settings")


def _files_of(info: Any) -> dict[str, Any]:
    """Return what a repository holds, by name."""
    return {sibling.rfilename: sibling for sibling in info.siblings or ()}


def _is_there(sibling: Any, path: Path) -> bool:
    """Say whether the hub's file is this one: by its SHA-256 where it is large, else by git's own hash."""
    if sibling.size != path.stat().st_size:
        return False
    with open(path, "rb") as file:
        if sibling.lfs is not None:
            return bool(sibling.lfs.sha256 == hashlib.file_digest(file, "sha256").hexdigest())
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
        while piece := file.read(2**20):
            digest.update(piece)
    return bool(sibling.blob_id == digest.hexdigest())


def _said(error: Exception, name: str, doing: str, *, done: int = 0, of: int = 0) -> ModelError:
    """Put into one line what the hub or the network said, and what to do."""
    status, answered = _answered(error)
    said = str(getattr(answered, "server_message", None) or answered).strip()
    words = (said.splitlines() or [type(answered).__name__])[0]
    if status == 401:
        return ModelError(f"the hub does not know the Hugging Face token of this machine ({doing}: {words}); {STORE}")
    if status == 403:
        return ModelError(f"the Hugging Face token of this machine has no right to write to {name} ({doing}: {words}); "
                          f"push to a name of your own, or {STORE}")
    there = f"; {done} of {of} files are there" if of else ""
    if status == 429:
        return ModelError(f"the hub takes no more requests from this account or network for now ({doing}: HTTP 429"
                          f"{there}); wait some minutes and run the same command again, and it goes on")
    if status is not None and status < 500:
        return ModelError(f"the hub refuses {name} ({doing}: HTTP {status}, {words}{there}); choose another name, or "
                          f"mend what it says")
    server = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if status is not None or isinstance(error, ValueError):
        what = f"HTTP {status}" if status else "with something that is no answer of a hub, as a login page of a network"
        return ModelError(f"{server} answers {what} ({doing}: {words}{there}); run the same command again later, and "
                          f"it goes on")
    return ModelError(f"{server} cannot be reached ({doing}: {words}{there}); run the same command again, and it goes "
                      f"on")
