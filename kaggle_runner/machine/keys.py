"""Find an API key on each host; never ask for one, never print one.

The first place that has a key wins, also when that key is malformed: a broken key is said, not passed over.
What is said of Kaggle's and Colab's own stores is from their sources: we never tried them on kaggle.com or Colab.
"""

import contextlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kaggle_runner.errors import SecretError
from kaggle_runner.machine.credentials import is_secret_name

SECRET_FILE = "kaggle_runner_secret.json"
"""Name of the file in a private Kaggle dataset that holds one key; it is searched for, since Kaggle's layout varies."""
SERVICES = ("wandb", "kaggle", "huggingface")
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "wandb": ("WANDB_API_KEY",),
    "kaggle": ("KAGGLE_API_TOKEN", "KAGGLE_KEY"),
    "huggingface": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
}
"""Environment variables that hold a service's key, in the order its own client reads them."""
_BEGINNINGS = {"wandb_v1_": "wandb", "KGAT_": "kaggle", "hf_": "huggingface"}
_LABELS = {"wandb": "W&B", "kaggle": "Kaggle", "huggingface": "Hugging Face"}
_WANDB_HOSTS = ("api.forge.coreweave.com", "api.wandb.ai", "forge.coreweave.com")
"""One server under three names: `wandb login` of 0.31 files the key under the first, older ones under the second.

Source: wandb.sdk.lib.urls, DEFAULT_BASE_URL and FORGE_HOSTS.
"""
_LOCAL_ADVICE = {
    "wandb": "export WANDB_API_KEY=... with the key of your W&B settings page, or run: wandb login",
    "kaggle": "run: kaggle auth login, or save the token of your Kaggle settings page as ~/.kaggle/access_token",
    "huggingface": "export HF_TOKEN=... with a token of your Hugging Face settings page, or run: hf auth login",
}


@dataclass(frozen=True, kw_only=True)
class FoundKey:
    """A key and where it was found; printing it shows only where."""

    service: str
    source: str
    """The place, in words for a person."""
    value: str = field(repr=False)
    """The key itself; `dataclasses.asdict` copies it, so never store this type."""

    def __str__(self) -> str:
        return f"{_LABELS[self.service]} key in {self.source}"


def find_key(service: str, environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> FoundKey | None:
    """Find the key of a service, none if there is none: `wandb`, `kaggle` or `huggingface`.

    Looks at the environment; Colab's secrets, inside a notebook's kernel only; a private dataset under /kaggle/input;
    Kaggle's secrets, in an interactive session only; and last the files that the services' own clients write.

    Raises:
        SecretError: no such service, a malformed key, or a file with keys that cannot be read.
    """
    if service not in SERVICES:
        raise SecretError(f"no such service {service!r}; choose one of {', '.join(SERVICES)}")
    for look in (_in_environment, _in_colab_secrets, _in_dataset, _in_kaggle_secrets, _in_files):
        for source, value in look(service, environ, root):
            key = value.strip()
            if key:
                problem = key_problem(service, key)
                if problem:
                    raise SecretError(f"the {_LABELS[service]} key in {source} {problem}; copy it again, whole")
                return FoundKey(service=service, source=source, value=key)
    return None


def require_key(service: str, host: str, environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> FoundKey:
    """Find the key of a service or say what to do about it on this host: `kaggle`, `colab` or `local`.

    Raises:
        SecretError: there is none, or as `find_key`.
    """
    found = find_key(service, environ, root)
    if found is None:
        raise SecretError(f"no {_LABELS[service]} key found on this host ({host}); "
                          f"{advice(service, host, environ)}")
    return found


def redact(text: str, keys: Iterable[FoundKey | str]) -> str:
    """Replace every one of the keys in a text by `***`; given an environment, the values of its credentials."""
    if isinstance(keys, Mapping):
        keys = secret_values(keys)
    values = {key.value if isinstance(key, FoundKey) else key for key in keys}
    for value in sorted(values, key=len, reverse=True):
        if value:
            text = text.replace(value, "***")
    return text


def secret_values(environ: Mapping[str, str], root: Path | None = None) -> tuple[str, ...]:
    """Return every credential at hand: variables named like one and, with a `root`, the keys found on this host.

    Meant for `redact`. Values under 8 characters are no credentials and would blot out half of a text.
    """
    values = [value.strip() for name, value in environ.items() if is_secret_name(name)]
    for service in SERVICES if root else ():
        with contextlib.suppress(SecretError):  # a key that cannot be used is reported by who needs it
            found = find_key(service, environ, root or Path("/"))
            values += [found.value] if found else []
    return tuple(value for value in values if len(value) >= 8)


def secret_file_text(service: str, key: str) -> str:
    """Return the content of the `kaggle_runner_secret.json` that `find_key` reads on a kernel.

    Raises:
        SecretError: the key is malformed.
    """
    key = key.strip()
    problem = key_problem(service, key)
    if problem:
        raise SecretError(f"the {_LABELS[service]} key {problem}; copy it again, whole")
    return json.dumps({"service": service, "key": key}) + "\n"


def key_problem(service: str, key: str) -> str | None:
    """Say what is wrong with a key's form, without showing any of it; none if it can be right.

    Source for W&B: wandb.sdk.lib.wbauth.validation.check_api_key of wandb 0.31.0, so that a key it would refuse is
    refused before anything starts. The others publish no rule.
    """
    if not key:
        return "is empty"
    if any(character.isspace() or not character.isprintable() for character in key):
        return "has white space or control characters in the middle"
    other = next((name for begin, name in _BEGINNINGS.items() if key.startswith(begin) and name != service), "")
    if other:
        return f"looks like a {_LABELS[other]} key"
    if service != "wandb" or re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", key):
        return None
    secret = key.split("-", 1)[-1]
    if not re.fullmatch(r"[\w-]+", secret):
        return "has characters other than letters, digits, - and _"
    if len(secret) < 40:
        return f"has {len(secret)} characters, and a W&B key has 40 or more"
    return None


def _in_environment(service: str, environ: Mapping[str, str], root: Path) -> Iterator[tuple[str, str]]:
    for variable in VARIABLES[service]:
        value = environ.get(variable, "")
        if variable == "KAGGLE_API_TOKEN" and value and os.path.isfile(value):
            yield f"the file named by {variable}", _read(Path(value))
        elif value:
            yield f"{variable} in the environment", value


def _in_colab_secrets(service: str, environ: Mapping[str, str], root: Path) -> Iterator[tuple[str, str]]:
    """Ask the notebook's page; only its own kernel can, a child process would crash on an absent one.

    Source: googlecolab/colabtools userdata.py, which sends the question through get_ipython().kernel.
    """
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython else None
    if not type(shell).__module__.startswith("google.colab") or not hasattr(shell, "kernel"):
        return
    from google.colab import userdata

    for variable in VARIABLES[service]:
        try:
            value = userdata.get(variable)
        except Exception:  # not set, not granted, or no page open: three classes without a common base
            continue
        yield f"Colab's secret {variable}", value or ""


def _in_dataset(service: str, environ: Mapping[str, str], root: Path) -> Iterator[tuple[str, str]]:
    """Look in the top folder of every attached dataset, in the new layout and the old one, and no deeper."""
    inputs = root / "kaggle/input"
    for pattern in ("datasets/*/*", "*"):
        for path in sorted(inputs.glob(f"{pattern}/{SECRET_FILE}")):
            try:
                content = json.loads(_read(path))
                named, key = content["service"], content["key"]
            except (ValueError, KeyError, TypeError) as error:
                raise SecretError(f"{path} is not what `secret put` writes; run it again on your own machine and push "
                                  f"again") from error
            if named == service:
                yield str(path), str(key)


def _in_kaggle_secrets(service: str, environ: Mapping[str, str], root: Path) -> Iterator[tuple[str, str]]:
    """Ask Kaggle's own store, which answers in interactive sessions only: every push detaches the secrets.

    Source: Kaggle/kaggle-cli docs/kernels.md ("no CLI support"); Kaggle/docker-python patches/kaggle_web_client.py.
    """
    if environ.get("KAGGLE_KERNEL_RUN_TYPE") != "Interactive" or importlib.util.find_spec("kaggle_secrets") is None:
        return
    from kaggle_secrets import UserSecretsClient

    for variable in VARIABLES[service]:
        try:
            value = UserSecretsClient().get_secret(variable)
        except Exception:  # a missing secret, no token, no network: no common base, and the first looks like the last
            continue
        yield f"Kaggle's secret {variable}", value or ""


def _in_files(service: str, environ: Mapping[str, str], root: Path) -> Iterator[tuple[str, str]]:
    home = Path(environ["HOME"]) if environ.get("HOME") else None
    if service == "wandb":
        yield from _in_netrc(environ, home)
    elif service == "kaggle":
        yield from _in_kaggle_files(environ, home)
    else:
        yield from _in_huggingface_files(environ, home)


def _in_netrc(environ: Mapping[str, str], home: Path | None) -> Iterator[tuple[str, str]]:
    """Read the netrc file as wandb does, for the server of WANDB_BASE_URL only: a key is not for other servers."""
    candidates = [home / ".netrc", home / "_netrc"] if home else []
    if environ.get("NETRC"):
        candidates = [Path(_expand(environ["NETRC"], home))]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        return
    import netrc  # costs time at start, and only who has the file needs it

    try:
        machines = netrc.netrc(path).hosts
    except netrc.NetrcParseError as error:  # its text can hold a part of the key
        raise SecretError(f"{path} cannot be read as netrc near line {error.lineno}; mend the line, or "
                          f"set WANDB_API_KEY") from None
    except OSError as error:
        raise SecretError(f"cannot read {path}: {error.strerror}; mend its permissions, or set "
                          f"WANDB_API_KEY") from error
    server = urlsplit(environ.get("WANDB_BASE_URL", "")).netloc or _WANDB_HOSTS[0]
    for machine in _WANDB_HOSTS if server in _WANDB_HOSTS else (server,):
        if machine in machines:
            yield f"{path}, machine {machine}", machines[machine][2] or ""


def _in_kaggle_files(environ: Mapping[str, str], home: Path | None) -> Iterator[tuple[str, str]]:
    """Look where the `kaggle` program does. Source: kagglesdk.kaggle_env and KaggleApi.config_dir of kaggle 2.2.4."""
    if environ.get("KAGGLE_KERNEL_RUN_TYPE") and environ.get("KAGGLE_API_V1_TOKEN"):
        yield "the file named by KAGGLE_API_V1_TOKEN", _read(Path(environ["KAGGLE_API_V1_TOKEN"]))
    if home is None:
        return
    for name in ("access_token", "access_token.txt"):
        yield str(home / ".kaggle" / name), _read(home / ".kaggle" / name)
    config = Path(environ.get("KAGGLE_CONFIG_DIR") or home / ".kaggle")
    if not config.is_dir():
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    for path, name in ((config / "kaggle.json", "key"), (home / ".kaggle/credentials.json", "refresh_token")):
        text = _read(path)
        if text:
            try:
                yield str(path), str(json.loads(text)[name])
            except (ValueError, KeyError, TypeError) as error:
                raise SecretError(f"{path} is not a Kaggle key file: it has no {name!r}; download it again from your "
                                  f"Kaggle settings page") from error


def _in_huggingface_files(environ: Mapping[str, str], home: Path | None) -> Iterator[tuple[str, str]]:
    """Read the token file of `hf auth login`. Source: huggingface_hub.constants, HF_HOME and HF_TOKEN_PATH."""
    cache = environ.get("XDG_CACHE_HOME") or (home / ".cache" if home else None)
    folder = environ.get("HF_HOME") or (Path(cache) / "huggingface" if cache else None)
    path = environ.get("HF_TOKEN_PATH") or (Path(_expand(str(folder), home)) / "token" if folder else None)
    if path:
        path = Path(_expand(str(path), home))
        yield str(path), _read(path)


def advice(service: str, host: str, environ: Mapping[str, str] | None = None) -> str:
    """Say what to do about a missing key on a host: `kaggle`, `colab` or `local`; `environ` is of a session there."""
    variable = VARIABLES[service][0]
    if host == "kaggle" and service == "kaggle":
        return "a kernel needs none: push, logs and secret are for your own machine"
    if host == "kaggle" and (environ or {}).get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive":
        return f"attach the secret {variable} to this notebook (Add-ons, Secrets), and start again"
    if host == "kaggle":
        return (f"a push detaches Kaggle's own secrets, so run this on your own machine and push again: "
                f"python -m kaggle_runner secret put {service}")
    if host == "colab":
        return (f"add the secret {variable} in Colab's side bar, run this in a cell, and start again: "
                f"import os; from google.colab import userdata; os.environ['{variable}'] = userdata.get('{variable}')")
    return _LOCAL_ADVICE[service]


def _expand(path: str, home: Path | None) -> str:
    return str(home) + path[1:] if home and (path == "~" or path.startswith("~/")) else path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ""
    except OSError as error:
        raise SecretError(f"cannot read {path}: {error.strerror}; mend its permissions") from error
