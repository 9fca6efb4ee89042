"""What the hub refused, in words with a way out: a licence that was not accepted, a token, too many requests.

transformers and datasets wrap the hub's answer two or three times, and their first line mostly blames the network or
the name; the answer itself is further down the chain of exceptions.
"""

import contextlib
import logging
import re
from collections.abc import Iterator

from kaggle_runner.errors import DataError, ModelError
from kaggle_runner.events import Note, Notify
from kaggle_runner.mounts import MOUNTED

STORE = "export HF_TOKEN=... here, and for kernels run: python -m kaggle_runner secret put huggingface"
GATED_DATASET = "is a gated dataset"
LOSES = f"{GATED_DATASET}|LocalEntryNotFoundError"
"""What `datasets` says of a gated one, and of one that is refused, and loses the hub's answer.

Source: datasets/load.py, 4.0 and 5.2.
"""
NO_ANSWER = "no answer from"
"""How the words of a network that is gone begin."""
LONGEST = 300
"""Characters of a library's line that are passed on: transformers 5.0 lists every family that it knows."""

LOST = {"ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "ProxyError", "RemoteProtocolError", "gaierror",
        "ConnectionError"}
"""Names of errors of HTTP clients and of Python that a network brings up, whatever wraps them."""
OFFLINE = "(OfflineModeIsEnabled)"
"""What `datasets` says where it may not ask. Source: datasets/load.py, 4.0 and 5.1."""
TOLD_S = 5.0
"""Seconds of waiting that are told."""


class HubWaits(logging.Handler):
    """Tells how long the hub's client waits by itself when the hub takes no more requests: its windows have minutes.

    Source: huggingface_hub/utils/_http.py, 1.11 and 1.32.
    """

    def __init__(self, notify: Notify) -> None:
        super().__init__()
        self._notify = notify
        logging.getLogger("huggingface_hub").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of a wait; other lines of the client are left to its log."""
        found = re.match(r"Rate limited\. Waiting ([\d.]+)s", record.getMessage())
        if found and float(found[1]) > TOLD_S:
            self._notify(Note(text=f"the hub takes no more requests from here for now, HTTP 429: its client asks again "
                                   f"in {float(found[1]):.0f} s; a token has a limit of its own: {STORE}"))


def require_revision(dataset: str, revision: str) -> None:
    """See that the hub has a revision: `datasets` 4.0 reads another one from its cache where it has not.

    Raises:
        DataError: it has not.
    """
    import huggingface_hub
    from huggingface_hub.errors import RevisionNotFoundError

    with contextlib.suppress(OSError, ValueError, RuntimeError):  # what else is wrong is for `datasets` to say
        try:
            huggingface_hub.HfApi().repo_info(dataset, repo_type="dataset", revision=revision)
        except RevisionNotFoundError as error:
            raise DataError(f"dataset_revision is {revision!r}, which {dataset} does not have; name a branch, a tag "
                            f"or a commit that it has") from error


def raise_refusal(error: BaseException, name: str, wanted: type[ModelError] | type[DataError],
                  nearest: str = "") -> None:
    """Raise what the hub refused and what to do; returns where an error is no refusal of the hub's.

    `nearest` asks for a name that may have been meant.

    Raises:
        ModelError, DataError: as `wanted`: too many requests, a gated repository without a token or access, a token
            that the hub does not know, nothing of that name, any other refusal, or a setting with which nobody was
            asked.
    """
    from huggingface_hub import HfApi, constants, get_token  # with a whole HTTP client, for an error alone

    chain = list(_chain(error))
    if re.search(LOSES, str(error)):
        try:
            HfApi().auth_check(name, repo_type="dataset")
        except Exception as again:  # of its HTTP client, too
            chain.append(again)
    answer = next((each for each in chain if getattr(each, "response", None) is not None), None)
    status = getattr(getattr(answer, "response", None), "status_code", 0)
    has_token, missing = get_token() is not None, _has(chain, "RepositoryNotFoundError")
    kind, folder = ("model", "") if wanted is ModelError else ("dataset", "datasets/")
    page, said = f"https://huggingface.co/{folder}{name}", f" ({_useful_line(answer)})" if answer else ""
    it = f"the {kind} {name!r}"
    mount = f"or mount Kaggle's copy with push --{kind} and write its path there, {MOUNTED[kind]}"
    if _has(chain, "UnsupportedProtocol"):
        raise wanted(f"HF_ENDPOINT is {constants.ENDPOINT!r}, which is no address of a hub; it begins with https:// or "
                     f"http://; correct it, or unset it for https://huggingface.co") from error
    if constants.HF_HUB_OFFLINE and (_has(chain, "LocalEntryNotFoundError") or OFFLINE in str(error)):
        raise wanted(f"{it} is not in the cache of this machine{nearest}; nothing is fetched in a dry run or where "
                     f"HF_HUB_OFFLINE is set: fetch it once with `sweep` where there is a network, or give a local "
                     f"{'folder' if kind == 'model' else 'file'}") from error
    if status == 429:
        raise wanted(f"the hub takes no more requests from here for now, HTTP 429, for {it}{said}: many sessions share "
                     f"one address; wait some minutes and run the same command again; a token has a limit of its own: "
                     f"{STORE}; {mount}") from error
    if _has(chain, "GatedRepoError") or GATED_DATASET in str(error):
        lacking, way_out = (
            ("the account of the Hugging Face token has no access to it",
             "with that account, and let the token read gated repositories") if has_token else
            ("no Hugging Face token is here", f"and {STORE}"))
        raise wanted(f"{it} is gated, and {lacking}{said}; accept its licence at {page} {way_out}; {mount}") from error
    if status >= 500:
        raise wanted(f"the hub fails by itself, HTTP {status}, for {it}{said}; wait some minutes and run the same "
                     f"command again; {mount}") from error
    if missing:
        token = "let the token read it" if has_token else STORE
        raise wanted(f"the hub has no {kind} {name!r} that you may read; correct the name, or if it is private, "
                     f"{token}") from error
    if status == 401 and has_token:
        raise wanted(f"the hub refuses the Hugging Face token of this machine, HTTP 401, for {it}{said}; make a "
                     f"new one at https://huggingface.co/settings/tokens and {STORE}") from error
    if status >= 400 and status != 404:  # a file or a branch that is not there refuses nothing
        token = "" if has_token else f"{STORE}; "
        raise wanted(f"the hub, or what stands before it, refuses {it}, HTTP {status}{said}; open {page} in a browser; "
                     f"{token}{mount}") from error


def files_of(model: str) -> list[str]:
    """List the files of a model of the hub; none where it does not say."""
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(model)
    except Exception:  # of its HTTP client, which differs from version to version
        return []


def useful_line(error: BaseException) -> str:
    """Return the first line of an error, and what it comes from: of a network that is gone only that.

    huggingface_hub 1.11 closes its client before the last try, and says nothing else of it.
    """
    from huggingface_hub import constants

    chain = list(_chain(error))
    said = [first_line(each) for each in chain]
    if any("the client has been closed" in line for line in said):
        return f"{NO_ANSWER} {constants.ENDPOINT}, after several tries"
    lost = {base.__name__ for each in chain for base in type(each).__mro__} & LOST
    if lost:
        return f"{NO_ANSWER} {constants.ENDPOINT} ({said[-1]})"
    return said[0] if said[-1] in said[0] else f"{said[0]} ({said[-1]})"


def first_line(said: object) -> str:
    """Return the first line of an error, no longer than is read; with the next one where it ends in a colon."""
    line = re.sub(r":\s*\n\s*", ": ", str(said).strip() or type(said).__name__).splitlines()[0]
    return line.rstrip(".,") if len(line) <= LONGEST else f"{line[:LONGEST - 3]}..."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _has(chain: list[BaseException], name: str) -> bool:
    return any(type(each).__name__ == name for each in chain)


def _useful_line(answer: BaseException) -> str:
    """Return what the server said of it, else the line with the status."""
    said = getattr(answer, "server_message", None) or answer
    access = re.search("^Access to .*", str(said), re.MULTILINE)
    return first_line(access[0] if access else said)
