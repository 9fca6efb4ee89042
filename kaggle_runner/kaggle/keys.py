"""Store a key where a pushed kernel can read it: in a private dataset of the user's own account.

Kaggle detaches its own secrets from every version that a push makes. A dataset stays attached, is made once for a key,
and is found on the kernel by the name of its file. Its owner and Kaggle can read it; a launcher never holds it.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from kaggle_runner.errors import KernelError, MissingPackages, Refusal
from kaggle_runner.kaggle.program import Answer, Kaggle, find_kaggle, find_owner, refuse
from kaggle_runner.machine.environment import Environment
from kaggle_runner.machine.keys import SECRET_FILE, advice, secret_file_text

SERVICES = ("wandb", "huggingface")
READY_LIMIT_S = 900.0
"""Small datasets are ready at once; 228 MB have been seen to take 15 minutes."""


def secret_dataset(owner: str, service: str) -> str:
    """Name the dataset that holds a service's key."""
    return f"{owner}/kaggle-runner-{service}"


def put_secret(kaggle: Kaggle, service: str, key: str, tell: Callable[[str], None], *, owner: str = "",
               poll_s: float = 5.0) -> str:
    """Upload a key as a private dataset, or as the only version of it if it is there; return the dataset's ref.

    Returns when the dataset can be attached.

    Raises:
        SecretError: the key is malformed.
        KernelError: no credentials, no network, refused, or not ready in time.
    """
    text = secret_file_text(service, key)
    ref = secret_dataset(owner or find_owner(kaggle), service)
    title = ref.split("/")[1].replace("-", " ")
    with tempfile.TemporaryDirectory(prefix="kaggle_runner-secret-") as directory:  # readable by its owner only
        (Path(directory) / SECRET_FILE).write_text(text, encoding="utf-8")
        (Path(directory) / "dataset-metadata.json").write_text(json.dumps(
            {"id": ref, "title": title, "licenses": [{"name": "other"}]}), encoding="utf-8")
        answer = kaggle.run("datasets", "create", "-p", directory, "--quiet")
        if "already in use" in answer.text:
            tell(f"{ref} is there: replace its key")
            answer = kaggle.run("datasets", "version", "-p", directory, "--quiet", "--delete-old-versions",
                                "--message", "new key")
    if answer.exit_status or "being created" not in answer.stdout:
        _refuse_upload(answer)
    began = time.monotonic()
    while not is_ready(kaggle, ref):
        if time.monotonic() - began > READY_LIMIT_S:
            raise KernelError(Refusal.SOURCE, f"{ref} is not ready after {READY_LIMIT_S / 60:.0f} minutes; look at "
                                              f"https://www.kaggle.com/datasets/{ref}")
        tell(f"Kaggle is processing {ref}")
        time.sleep(poll_s)
    return ref


def secret_sources(kaggle: Kaggle, owner: str) -> tuple[str, ...]:
    """Name the datasets with keys that a push should attach: those that are there and ready."""
    refs = (secret_dataset(owner, service) for service in SERVICES)
    return tuple(ref for ref in refs if is_ready(kaggle, ref))


def describe_keys(environment: Environment, environ: Mapping[str, str], *, owner: str = "") -> list[tuple[str, str]]:
    """Say which keys this machine, a pushed kernel and Colab would find, as (host, text) rows; never their values."""
    here = environment.api_keys
    rows = [("here", f"{environment.host}, {service}: "
                     f"{here[service] if service in here else f'none; {advice(service, environment.host)}'}")
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


def is_ready(kaggle: Kaggle, ref: str) -> bool:
    """Say whether a dataset can be attached; one that is being processed looks like one that is not there.

    Raises:
        KernelError: no credentials or no network.
    """
    answer = kaggle.run("datasets", "status", ref)
    if answer.exit_status and "denied" not in answer.text and "404" not in answer.text:
        refuse(answer, "datasets status")
    return answer.stdout.strip() == "ready"


def _refuse_upload(answer: Answer) -> None:
    for line in answer.stdout.splitlines():
        if "creation error: " in line:
            said = line.split("creation error: ")[1].strip()
            if "not own" in said:
                raise KernelError(Refusal.NAME, f"Kaggle says: {said}; give your own account with --owner")
            raise KernelError(Refusal.OTHER, f"Kaggle says: {said}")
    refuse(answer, "datasets create")
