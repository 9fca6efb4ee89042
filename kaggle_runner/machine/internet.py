"""Whether this session has the internet, asked of the servers that its work needs before anything waits for them.

Kaggle turns it off by a switch of the notebook, and silently for accounts whose phone is not verified. Without it pip,
the hub's client and W&B's each try for minutes and then speak of name servers.
"""

import queue
import threading
import time
from collections.abc import Mapping

from kaggle_runner.errors import NoInternet

INTERNET_VARIABLE = "KAGGLE_RUNNER_INTERNET"
"""`off` where a session is meant to do without, as `push --no-internet` sets it."""
ANSWER_S = 8.0
"""For one server to answer; a look-up of its name can take longer than the connection's own limit."""
PAUSE_S = 4.0
"""Before the second and last try: a container's network can be later than its first process."""
_SWITCHES = {
    "kaggle": "push without --no-internet (enable_internet of the kernel), or turn on the switch \"Internet\" of the "
              "notebook's session options; Kaggle leaves it off until the account's phone is verified, at "
              "https://www.kaggle.com/settings; a sweep file whose model, rows and wheels are mounted runs without it: "
              "push --no-internet",
    "colab": "colab has no switch for it: restart the session",
    "local": "look at the network",
}


def servers_of(command: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Name the servers that a command cannot do without, with their addresses; none where it was told so.

    The hub is left out where HF_HUB_OFFLINE says that everything is here.
    """
    servers = {}
    if command == "agent":
        servers["W&B"] = environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    elif environ.get(INTERNET_VARIABLE) == "off":
        return {}
    if environ.get("HF_HUB_OFFLINE", "").upper() not in ("1", "ON", "YES", "TRUE"):
        servers["the hub"] = environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return servers


def require_internet(servers: Mapping[str, str], host: str, *, answer_s: float = ANSWER_S,
                     pause_s: float = PAUSE_S) -> None:
    """See that one of the servers answers, whatever it says; one of them may be down without the network.

    Raises:
        NoInternet: none did, twice; says how to turn the internet on.
    """
    reason = _why_silent(servers, answer_s)
    if reason:
        time.sleep(pause_s)
        reason = _why_silent(servers, answer_s)
    if reason:
        raise NoInternet(f"internet is off in this session: no answer from {' or '.join(servers.values())} ({reason}); "
                         f"{_SWITCHES[host]}")


def _why_silent(servers: Mapping[str, str], answer_s: float) -> str:
    """Return why no server answered, empty if one did. Threads, because a look-up of a name cannot be cut short."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    for address in servers.values():
        threading.Thread(target=lambda address=address: answers.put(_ask(address, answer_s)), daemon=True).start()
    until, reason = time.monotonic() + answer_s, ""
    for _ in servers:
        try:
            reason = answers.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return f"nothing in {answer_s:g} s"
        if not reason:
            return ""
    return reason


def _ask(address: str, answer_s: float) -> str:
    """Return why a server did not answer, empty if it did: also a refusal is an answer."""
    import http.client  # start-up time that only a session needs to spend
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=answer_s):
            return ""
    except urllib.error.HTTPError:
        return ""
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
