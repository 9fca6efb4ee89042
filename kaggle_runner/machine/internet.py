"""Whether this session has the internet, asked of the servers that its work needs before anything waits for them.

Kaggle turns it off by a switch of the notebook, and silently for accounts whose phone is not verified. Without it pip,
the hub's client and W&B's each try for minutes and then speak of name servers.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from kaggle_runner.config_charlm import TEXT8_HOST, TEXT8_URL
from kaggle_runner.errors import HostError, NoInternet
from kaggle_runner.mounts import HUB

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
              "--no-internet of push and of kernel launcher",
    "colab": "colab has no switch for it: restart the session",
    "local": "look at the network",
}


SERVERS = {"W&B": ("WANDB_BASE_URL", "https://api.wandb.ai"), HUB: ("HF_ENDPOINT", "https://huggingface.co"),
           TEXT8_HOST: ("", TEXT8_URL)}
"""Server -> the variable that names another, and its address."""
NEUTRAL = ("https://pypi.org", "https://www.kaggle.com")
"""Servers that tell a network that is off from a server that is down or an address that is none."""


def servers_of(command: str, environ: Mapping[str, str], sources: Iterable[str] = (HUB,)) -> dict[str, str]:
    """Name the servers that a command cannot do without, with their addresses; none where it was told so.

    `sources` are those of what it fetches. The hub is left out where HF_HUB_OFFLINE says that everything is here.
    """
    if command != "agent" and environ.get(INTERNET_VARIABLE) == "off":
        return {}
    is_offline = environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    names = [*(["W&B"] if command == "agent" else []), *(name for name in sources if name != HUB or not is_offline)]
    return {name: environ.get(SERVERS[name][0]) or SERVERS[name][1] for name in names}


def require_fetched(fetched: Mapping[str, str], host: str, cache_directory: Path, environ: Mapping[str, str]) -> None:
    """See on Kaggle and Colab that what trials must fetch, each with where from, can be fetched.

    What an earlier session has fetched of a text is in the cache.

    Raises:
        HostError: as `require_internet`.
        NoInternet: as `require_internet`.
    """
    if host != "local":
        lacking = {name: place for name, place in fetched.items()
                   if place == HUB or not (cache_directory / "corpora" / name).is_file()}
        require_internet(servers_of("sweep", environ, lacking.values()), host, what=", ".join(lacking))


def require_internet(servers: Mapping[str, str], host: str, *, what: str = "", answer_s: float = ANSWER_S,
                     pause_s: float = PAUSE_S, neutral: Sequence[str] = NEUTRAL) -> None:
    """See that the servers answer, whatever they say; one of ours may be down without the network.

    `what` is to be had from them.

    Raises:
        HostError: there is a network, and the address that a variable gives for a server does not answer, twice; or
            none of the servers does.
        NoInternet: nothing answered at all; says how to turn the internet on.
    """
    named = {name: address for name, address in servers.items() if name in SERVERS and address != SERVERS[name][1]}
    given, silent = {}, _silent(servers.values(), answer_s, named.values())
    for again in (True, False):
        given = {name: address for name, address in named.items() if address in silent}
        if not silent or (len(silent) < len(set(servers.values())) and not given):
            return
        if again:
            time.sleep(pause_s)
            silent = _silent(silent, answer_s, named.values())
    others = [address for address in (*servers.values(), *neutral) if address not in silent]
    down = _silent(others, answer_s)
    answering = next((address for address in others if address not in down), "")
    addresses = " or ".join(servers[name] for name in servers if servers[name] in silent) + (what and f" for {what}")
    from urllib.request import getproxies  # start-up time that only a session needs to spend

    proxies = ", ".join(sorted(f"{name}_proxy" for name in getproxies() if name in ("http", "https", "all")))
    reason = f"{next(iter(silent.values()))}{f'; {proxies} is set' if proxies else ''}"
    if not answering:
        raise NoInternet(f"internet is off in this session: no answer from {addresses} ({reason}); {_SWITCHES[host]}")
    if given:
        name, address = next(iter(given.items()))
        variable, usual = SERVERS[name]
        raise HostError(f"{variable} is {address}, and no answer comes from there ({reason}), while {answering} "
                        f"answers; correct it, or unset it for {usual}")
    raise HostError(f"no answer from {addresses} ({reason}), while {answering} answers; wait until it is up again, and "
                    f"run the same command again")


def _silent(addresses: Iterable[str], answer_s: float, needed: Collection[str] = ()) -> dict[str, str]:
    """Return the servers that did not answer, and why; when one has, only those that are `needed` are waited for.

    Threads, because a look-up of a name cannot be cut short.
    """
    answers: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    silent = dict.fromkeys(addresses, f"nothing in {answer_s:g} s")
    for address in silent:
        threading.Thread(target=lambda address=address: answers.put((address, _ask(address, answer_s))),
                         daemon=True).start()
    until, waiting, is_answered = time.monotonic() + answer_s, set(silent), False
    with contextlib.suppress(queue.Empty):
        while waiting.intersection(needed) if is_answered else waiting:
            address, reason = answers.get(timeout=max(0.0, until - time.monotonic()))
            waiting.discard(address)
            if reason:
                silent[address] = reason
            else:
                del silent[address]
                is_answered = True
    return silent


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
