"""Tell what looks like a credential, by its form or by the name it has.

This is for what is written out or passed on, such as a launcher or a log. Where keys are found is in `machine/keys.py`.
"""

import re
from collections.abc import Mapping

KEY_SHAPES = {
    "a W&B key": r"\bwandb_v1_[A-Za-z0-9_]{20,}|(?<![0-9a-fA-F])[0-9a-f]{40}(?![0-9a-fA-F])",
    "a Kaggle key": r"\bKGAT_[A-Za-z0-9]{8,}|(?<![0-9a-fA-F])[0-9a-f]{32}(?![0-9a-fA-F])",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{16,}",
    "a GitHub token": r"\b(?:gh[pousr]_|github_pat_)[A-Za-z0-9_]{16,}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
}
SECRET_NAME = re.compile(r"(?:^|_)(?:KEY|APIKEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(?:_|$)", re.IGNORECASE)
SHORTEST = 8
"""Least characters of a value that is looked for in a text; shorter ones occur by chance."""


def key_shape(text: str) -> str:
    """Say which kind of key a text looks like or holds, empty if none."""
    return next((kind for kind, shape in KEY_SHAPES.items() if re.search(shape, text)), "")


def is_secret_name(name: str) -> bool:
    """Say whether a variable of this name holds a secret: `WANDB_API_KEY` does, `TOKENIZERS_PARALLELISM` does not."""
    return SECRET_NAME.search(name) is not None


def credentials_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Pick the variables of an environment that hold something secret, going by their names."""
    return {name: value for name, value in environ.items() if is_secret_name(name) and len(value) >= SHORTEST}
