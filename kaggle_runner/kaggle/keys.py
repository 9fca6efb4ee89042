"""Store a key where a pushed kernel can read it: in a private dataset of the user's own account.

Kaggle detaches its own secrets from every version that a push makes. A dataset stays attached, is made once for a key,
and is found on the kernel by the name of its file. Its owner and Kaggle can read it; a launcher never holds it.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from kaggle_runner.errors import KernelError, MissingPackages, Refusal
from kaggle_runner.kaggle.dataset import is_public, is_ready, upload, wait_until_ready
from kaggle_runner.kaggle.program import Kaggle, find_kaggle, find_owner
from kaggle_runner.machine.environment import Environment
from kaggle_runner.machine.keys import SECRET_FILE, advice, secret_file_text

SERVICES = ("wandb", "huggingface")


def secret_dataset(owner: str, service: str) -> str:
    """Name the dataset that holds a service's key."""
    return f"{owner}/kaggle-runner-{service}"


def put_secret(kaggle: Kaggle, service: str, key: str, tell: Callable[[str], None], *, owner: str = "",
               poll_s: float = 5.0) -> str:
    """Upload a key as a private dataset, or as the only version of it if it is there; return the dataset's ref.

    Returns when the dataset can be attached.

    Raises:
        SecretError: the key is malformed.
        KernelError: the dataset is there and public; no credentials, no network, refused, or not ready in time.
    """
    text = secret_file_text(service, key)
    ref = secret_dataset(owner or find_owner(kaggle), service)
    if is_public(kaggle, ref):
        raise KernelError(Refusal.NAME, f"{ref} is public, so everybody could read the key; delete it on "
                                        f"https://www.kaggle.com/datasets/{ref} and run the same command again")
    with tempfile.TemporaryDirectory(prefix="kaggle_runner-secret-") as directory:  # readable by its owner only
        (Path(directory) / SECRET_FILE).write_text(text, encoding="utf-8")
        if upload(kaggle, Path(directory), ref, note="new key"):
            tell(f"{ref} was there: its key is replaced")
    wait_until_ready(kaggle, ref, tell, poll_s=poll_s)
    return ref


def secret_sources(kaggle: Kaggle, owner: str) -> tuple[str, ...]:
    """Name the datasets with keys that a push should attach: those that are there and ready."""
    refs = (secret_dataset(owner, service) for service in SERVICES)
    return tuple(ref for ref in refs if is_ready(kaggle, ref))


def describe_keys(environment: Environment, environ: Mapping[str, str], *, owner: str = "") -> list[tuple[str, str]]:
    """Say which keys this machine, a pushed kernel and Colab would find, as (host, text) rows; never their values."""
    here = environment.api_keys
    rows = [("here", f"{environment.host}, {service}: "
                     f"{here[service] if service in here else f'none; {advice(service, environment.host, environ)}'}")
            for service in (*SERVICES, "kaggle")]
    try:
        kaggle = find_kaggle(environ)
        owner = owner or find_owner(kaggle)
        stored = secret_sources(kaggle, owner)
    except (KernelError, MissingPackages) as error:
        rows.append(("kaggle", f"not known: {error}"))
    else:
        for service in SERVICES:
            ref = secret_dataset(owner, service)
            rows.append(("kaggle", f"{service}: a pushed kernel finds it in the private dataset {ref}" if ref in stored
                         else f"{service}: a pushed kernel would find none; {advice(service, 'kaggle')}"))
    rows += [("colab", f"{service}: only a notebook's own kernel can see it there; {advice(service, 'colab')}")
             for service in SERVICES]
    return [*rows, *(("problem", problem) for problem in environment.problems if "key" in problem)]
