"""Which files of a local dataset are trained on and which are held out.

A folder's README.md may say it, in the header that the hub's datasets have; else the files' names do. What the hub's
own reader would take is taken here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kaggle_runner.errors import DataError
from kaggle_runner.mounts import kind_of
from kaggle_runner.training.data.splits import choose_configuration, families, split_of

NO_ROWS_INSIDE = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json",
                  "dataset-metadata.json")
"""What `datasets`, the hub and the `kaggle` program write beside the rows of a folder."""
READABLE = "json, jsonl, csv, tsv, txt or parquet file, also packed as .gz, .zst, .bz2 or .xz"
README = "README.md"
"""Its header, between two lines of three dashes, may have `configs`. Source: `datasets` 4.x, utils/metadata.py."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a local dataset."""

    of_split: Mapping[str, Sequence[Path]]
    left_out: Sequence[Path] = field(default_factory=list)
    """Files of rows that README.md names in no split of the configuration."""
    configuration: str = ""
    """The one of README.md that is read; empty where it has none."""


def find_files(path: Path, configuration: str | None, *, of_evaluation: bool = False) -> Files:
    """Sort a file, or the files below a folder, into splits.

    Raises:
        DataError: there is nothing to read, or it is unclear what.
    """
    if path.is_file():
        if not kind_of(path):
            raise DataError(f"{path} is not a {READABLE}, judging by its name; convert it to one")
        return Files(of_split={"train": _of_one_kind([path], path)})
    found = [file for file in sorted(path.rglob("*")) if _is_of_rows(file, path)]
    odd = [ascii(file.name) for file in found if file.name.encode(errors="replace").decode() != file.name]
    if odd:
        raise DataError(f"the folder {path} has files whose names are no UTF-8, {', '.join(odd)}; rename them")
    configs = _configurations(path)
    name = choose_configuration(list(configs), [name for name, each in configs.items() if each.get("default")]
                                or ["default"], configuration, str(path), of_evaluation=of_evaluation) or ""
    declared = configs.get(name, {})
    if declared.get("data_files") is not None:
        of_split = {split: [file for file in found if file in _matching(path, declared, patterns)]
                    for split, patterns in _patterns(declared["data_files"], path).items()}
        empty = [split for split, files in of_split.items() if not files]
        if empty:
            raise DataError(f"{path / README} names files of {', '.join(empty)} that are not there; put them there, or "
                            f"mend its configs")
        used = _of_one_kind(list(dict.fromkeys(file for files in of_split.values() for file in files)), path)
        return Files(of_split={split: [file for file in files if file in used] for split, files in of_split.items()},
                     left_out=[file for file in found if file not in used], configuration=name)
    below = path / str(declared.get("data_dir") or "")
    inside = [file for file in found if file.is_relative_to(below)]
    return Files(of_split=_by_name(_of_one_kind(inside, below), below), configuration=name,
                 left_out=[file for file in found if file not in inside])


def _is_of_rows(file: Path, folder: Path) -> bool:
    return bool(kind_of(file)) and file.is_file() and file.name not in NO_ROWS_INSIDE and not any(
        part.startswith(".") for part in file.relative_to(folder).parts)


def _by_name(files: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    named = families([file.relative_to(folder) for file in files])
    for file in files:
        inside = file.relative_to(folder)
        splits.setdefault(named.get(inside) or split_of(inside), []).append(file)
    return splits


def _of_one_kind(found: list[Path], path: Path) -> list[Path]:
    """Return those of the files that are read together.

    Raises:
        DataError: they are read differently, or there are none, or some are empty.
    """
    kinds = sorted({kind_of(file) for file in found})
    if len(kinds) > 1 and "text" in kinds:  # beside rows a text is a licence or a note
        found, kinds = [file for file in found if kind_of(file) != "text"], [kind for kind in kinds if kind != "text"]
    if not found:
        raise DataError(f"the folder {path} holds no {READABLE}; put one there, or name another")
    if len(kinds) > 1:
        raise DataError(f"the folder {path} mixes {' and '.join(kinds)} files, which are read differently; keep one "
                        f"kind there, or name a single file")
    empty = [str(file) for file in found if file.stat().st_size == 0]
    if empty:
        raise DataError(f"{', '.join(empty)} is empty, so there is nothing to learn; write the rows again")
    return found


def _configurations(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return the `configs` of a folder's README.md by their names; none where it has none.

    Raises:
        DataError: they cannot be read.
    """
    try:
        head, *lines = (folder / README).read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    except OSError:
        return {}
    if head.strip() != "---" or "---" not in lines:
        return {}
    try:
        header = yaml.safe_load("\n".join(lines[:lines.index("---")]))
    except yaml.YAMLError as error:
        raise DataError(f"cannot read the header of {folder / README}: {str(error).splitlines()[0]}; mend it, or take "
                        f"it out") from error
    configs = header.get("configs") if isinstance(header, dict) else None
    if configs is None:
        return {}
    if not isinstance(configs, list) or not all(isinstance(each, dict) and "config_name" in each for each in configs):
        raise DataError(f"configs in {folder / README} must be a list of entries with config_name; mend it, or take it "
                        f"out")
    return {str(each["config_name"]): each for each in configs}


def _patterns(data_files: Any, path: Path) -> dict[str, list[str]]:
    """Return the patterns of each split, of the forms that `datasets` knows.

    Raises:
        DataError: it is none of them.
    """
    listed = data_files if isinstance(data_files, list) else [data_files]
    patterns: dict[str, list[str]] = {}
    for each in listed:
        split, own = (each.get("split"), each.get("path")) if isinstance(each, dict) else ("train", each)
        own = own if isinstance(own, list) else [own]
        if not isinstance(split, str) or not all(isinstance(pattern, str) for pattern in own):
            raise DataError(f"data_files in {path / README} must be a file, a list of files, or entries with split and "
                            f"path; mend it")
        patterns.setdefault(split, []).extend(own)
    return patterns


def _matching(path: Path, declared: Mapping[str, Any], patterns: Sequence[str]) -> set[Path]:
    below = path / str(declared.get("data_dir") or "")
    return {found for pattern in patterns for base in dict.fromkeys((below, path))
            for found in base.glob(pattern.removeprefix("./").lstrip("/") or "*")}
