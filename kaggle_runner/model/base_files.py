"""The files of a base that a merge reads: what transformers would load, and no other copy of its weights.

Repositories of the hub hold weights two and three times, in several formats, each as large as the model.
"""

import glob
import json
from collections.abc import Collection
from pathlib import Path

from kaggle_runner.errors import ModelError
from kaggle_runner.model.new_folder import require_space_for_both
from kaggle_runner.model.tensor_files import SENTENCEPIECE, shards_of, weight_files
from kaggle_runner.training.hub import raise_refusal

SMALL = ("*.json", "*.py", SENTENCEPIECE)
"""What a merged folder keeps of a base beside its weights."""


def folder_of_base(source: str, out: Path, copies: int = 1) -> Path:
    """Return the folder of a base's files: the one given, or the hub's copy of this machine.

    Before weights are fetched the disk must have room for them, and for so many `copies` of them in `out`.

    Raises:
        ModelError: the hub refuses them, or cannot be reached.
        StudyError: a disk has too little free space.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import constants  # with a whole HTTP client

    try:
        folder = _fetched(source, SMALL, but="*/*")
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        names = weight_files(settings)
        sizes = _sizes(source, folder, names)
        name = next((name for name in names if name in sizes or (folder / name).is_file()), None)
        if name is None:  # for whoever opens the folder to say
            return folder
        files = shards_of(folder / name) if name.endswith(".json") else [name]
        sizes |= _sizes(source, folder, files)
        missing = [file for file in files if not (folder / file).is_file()]
        require_space_for_both(out, copies * sum(sizes.get(file, 0) for file in files),
                               Path(constants.HF_HUB_CACHE), sum(sizes.get(file, 0) for file in missing))
        return _fetched(source, [glob.escape(file) for file in files])
    except (OSError, ValueError) as error:
        raise_refusal(error, source, ModelError)
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"the files of the base {source} cannot be fetched from the hub: {first}; check the network "
                         f"and run the same command again") from error


def _fetched(source: str, patterns: Collection[str], but: str | None = None) -> Path:
    """Fetch what is not there yet; without a network what is there must do."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, allow_patterns=list(patterns), ignore_patterns=but))


def _sizes(source: str, folder: Path, names: Collection[str]) -> dict[str, int]:
    """Ask the hub how large files are; those that it does not have are left out, and all where it is out of reach."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().get_paths_info(source, list(names), revision=folder.name)
    except Exception:  # of its HTTP client, which differs from version to version
        return {}
    return {each.path: getattr(each, "size", 0) for each in found}
