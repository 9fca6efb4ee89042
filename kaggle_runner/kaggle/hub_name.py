"""What a model or dataset of the hub can be called, and what is meant by a text that is no such name."""

import difflib
import re
from pathlib import Path
from urllib.parse import urlsplit

from kaggle_runner.mounts import MOUNTED

HUB = re.compile(r"(?:(?:https?:)?//)?(?:[\w-]+\.)*(?:huggingface\.co|hf\.co|hf-mirror\.com)(?:/(.*))?|hf:(?://)?(.*)",
                 re.I)
"""The addresses of the hub and of its mirrors, with what comes behind the host."""
KINDS = ("datasets", "models", "spaces", "api", "resolve")
FILES = re.compile(r"\.(?:jsonl?|ndjson|csv|tsv|txt|md|parquet|arrow|xlsx?|ya?ml|py|zip|tar|tgz|gz|zst|bz2|xz|"
                   r"safetensors|gguf|bin|pt|pth|ckpt|onnx)$", re.I)
"""Endings of files, which no name on the hub has that anybody trains on."""
PART = re.compile(r"(?![.-])[A-Za-z0-9._-]+(?<![.-])")


def why_no_name(kind: str, text: str) -> str:
    """Say of a `model` or `dataset` that is no path of this machine why it is no name on the hub; empty for a name."""
    option = f"--{kind}"
    mount = f"upload it to Kaggle, mount it with {option} and write its path there, {MOUNTED[kind]}"
    plain = text.strip().rstrip("/")
    if plain.startswith("kaggle/input/"):
        return f", a path without its first slash; write /{plain}"
    if "$" in plain:
        return f", a path with a variable that nothing fills in here; {mount}"
    if address := HUB.fullmatch(plain):
        parts = [part for part in (address[1] or address[2] or "").split("/") if part not in KINDS]
        meant = _with_owner(kind, suggested("/".join(parts[:2])))
        return f", an address and no name; write {meant or 'OWNER/NAME'}"
    if re.match(r"[A-Za-z]:[\\/]|\\\\|file:", plain) or "\\" in plain:
        return f", a path of another machine; {mount}"
    if urlsplit(plain).scheme and "://" in plain:
        return f", an address of no hub; download it, {mount}"
    if FILES.search(plain) and not (kind == "model" and is_name(kind, plain)):
        near = difflib.get_close_matches(plain, [path.name for path in Path().iterdir()], n=1, cutoff=0.7)
        return f", a file that is not here; {f'did you mean {near[0]}? ' if near else 'correct its name, or '}{mount}"
    if is_name(kind, text):
        return ""
    if kind == "model" and "/" not in plain and is_name("dataset", plain):
        return ", a name without its owner; write OWNER/NAME, as the model's page on the hub has it"
    if kind == "model" and len(parts := plain.split("/")) in (4, 5) and "" not in parts:
        at = f"/kaggle/input/models/{plain}" if len(parts) == 5 else MOUNTED["model"]
        return f", a model of Kaggle's; mount it with --model {plain} and write its path there, {at}"
    meant = _with_owner(kind, suggested(plain))
    return (f", which is no name on the hub; {f'did you mean {meant}? ' if is_name(kind, meant) else ''}"
            f"a name is OWNER/NAME, of letters, digits, `-`, `_` and `.`")


def _with_owner(kind: str, name: str) -> str:
    return f"OWNER/{name}" if kind == "model" and name and "/" not in name else name


def is_name(kind: str, text: str) -> bool:
    """Say whether the hub could have a repository of this name; a model has an owner, an old dataset may have none."""
    if text.count("/") not in ((1,) if kind == "model" else (0, 1)):
        return False
    try:
        from huggingface_hub.errors import HFValidationError  # which a machine that only pushes may lack
        from huggingface_hub.utils import validate_repo_id
    except ImportError:
        parts = text.split("/")
        return all(PART.fullmatch(part) for part in parts) and not re.search(r"--|\.\.|\.git$", text) \
            and len(text) <= 96
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def suggested(text: str) -> str:
    """Turn a text into the name that was probably meant: without a version behind it, blanks or a third part."""
    plain = re.split(r"[@:?#]", text.strip().strip("/"))[0].removesuffix(".git")
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part.strip()).strip("-.") for part in plain.split("/") if part.strip()]
    parts = parts[1:] if len(parts) > 2 and parts[0] in KINDS else parts
    return re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", "/".join(parts[:2])))
