"""Where rows come from: the built-in ones, a local file or folder, what `save_to_disk` wrote, or the hub.

Each becomes tables of one split that can be read again and again.
"""

import contextlib
import difflib
import itertools
import logging
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaggle_runner.config import DEMO_DATASET, FinetuneConfig
from kaggle_runner.errors import DataError
from kaggle_runner.files import read_checked, write_checked
from kaggle_runner.mounts import may_be_on_hub, mounted_at
from kaggle_runner.training.data import builtin_docs
from kaggle_runner.training.data.files import TOO_DEEP, read_file, remarks_of
from kaggle_runner.training.data.folders import READABLE, find_files
from kaggle_runner.training.data.formats import Layout, plain_name, recognise
from kaggle_runner.training.data.splits import choose_configuration, choose_splits
from kaggle_runner.training.data.turns import NO_UNICODE, Row
from kaggle_runner.training.hub import first_line, raise_refusal, require_revision

LOOKED_AT = 100
"""Rows whose columns tell the layout: a column may be missing in the first."""


@dataclass(kw_only=True)
class Table:
    """The rows of one split."""

    name: str
    """In messages: the dataset, with its split where that is not the one to train on."""
    split: str
    read: Callable[[], Iterable[Mapping[str, Any]]]
    """Reads all examples anew."""
    files: list[str] = field(default_factory=list)
    mapping: Mapping[str, str] = field(default_factory=dict)
    """A config's `columns`."""
    fixed_format: str = ""
    layout: Layout | None = None
    """Known once rows were read; none for the built-in rows."""
    columns: list[str] = field(default_factory=list)

    def rows(self, only: Container[int] | None = None) -> Iterator[tuple[int, Row | str, Iterable[str] | None]]:
        """Yield each row with its place and the columns it has; in place of a lost row the reason. `only` some places.

        Raises:
            DataError: it cannot be read, or its columns tell no layout.
        """
        examples = iter(self.read())
        if self.fixed_format:
            yield from ((i, Row.pair(e["prompt"], e["completion"]), None) for i, e in enumerate(examples)
                        if only is None or i in only)
            return
        ahead = list(itertools.islice(examples, LOOKED_AT))
        if self.layout is None and ahead:
            self.columns = list(dict.fromkeys(name for example in ahead for name in example))
            self.layout = recognise(self.columns, self.name, self.mapping)
        for index, example in enumerate(itertools.chain(ahead, examples)):
            if only is not None and index not in only:
                continue
            plain = {plain_name(name): value for name, value in example.items()}
            if self.layout is not None:
                yield index, self._row(self.layout, plain, index), [*plain, *self.layout.unused_in_turns(plain)]

    def describe(self) -> str:
        """Name the layout with its columns."""
        if self.fixed_format or self.layout is None:
            return self.fixed_format
        return self.layout.describe([plain_name(name) for name in self.columns])

    def _row(self, layout: Layout, example: Mapping[str, Any], index: int) -> Row | str:
        try:
            row = layout.row(example)
        except DataError as error:
            raise DataError(f"row {index + 1} of {self.name}: {error}") from error
        except RecursionError:
            return TOO_DEEP
        return row if isinstance(row, str) or row.can_be_encoded else NO_UNICODE


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset: what is trained on, and what it holds out itself."""

    name: str
    train: Table
    held_out: Table | None = None
    remarks: tuple[str, ...] = ()


def open_source(config: FinetuneConfig, cache_directory: Path, *, of_evaluation: bool = False) -> Source:
    """Find the dataset of a config, or its `eval_dataset`; of the latter all rows are one table.

    Raises:
        DataError: it is missing or unreadable, or it is unclear which of its parts is meant.
    """
    dataset = str(config.eval_dataset) if of_evaluation else config.dataset
    path = Path(dataset).expanduser()
    is_path = os.path.exists(path)  # unlike Path.exists, no error for a folder that may not be searched
    if not of_evaluation:
        _refuse_idle_fields(config, path if is_path else None)
    if dataset == DEMO_DATASET:
        table = Table(name=DEMO_DATASET, split="train", fixed_format=f"{DEMO_DATASET}: question about a name -> its "
                      "documentation", read=lambda: ({"prompt": prompt, "completion": completion}
                                                     for prompt, completion in _builtin_pairs(cache_directory)))
        return Source(name=f"{DEMO_DATASET} ({builtin_docs.fingerprint()})", train=table)
    if is_path:
        if _is_saved(path):
            return _saved(path, config, of_evaluation)
        return _local(path, config, of_evaluation)
    _refuse_missing(dataset)
    return _from_hub(dataset, config, of_evaluation)


def _refuse_idle_fields(config: FinetuneConfig, path: Path | None) -> None:
    """Refuse fields that choose a part of a dataset which has no such parts: they would do nothing.

    Raises:
        DataError: names them.
    """
    if path is None and config.dataset != DEMO_DATASET:
        return
    idle = ["dataset_revision"] if path is not None else [
        "dataset_revision", "dataset_config", "dataset_split", "columns"]
    idle += ["dataset_config"] if path is not None and (path.is_file() or _is_saved(path)) else []
    given = [name for name in idle if getattr(config, name) is not None]
    if given:
        raise DataError(f"{', '.join(given)} would do nothing: {config.dataset} has no such part; leave "
                        f"{'it' if len(given) == 1 else 'them'} out")


def is_here(config: FinetuneConfig) -> bool:
    """Say whether the rows of a config are on this machine, and need no hub.

    Raises:
        DataError: they should be, and are not.
    """
    elsewhere = [name for name in (config.dataset, config.eval_dataset) if name is not None and name != DEMO_DATASET
                 and not os.path.exists(Path(name).expanduser())]
    for name in elsewhere:
        _refuse_missing(name)
    return not elsewhere


def _refuse_missing(dataset: str) -> None:
    """Refuse what is not on this machine and cannot be on the hub, by its name.

    Raises:
        DataError: that is so.
    """
    if not may_be_on_hub(dataset):
        path = Path(dataset).expanduser()
        seen_from = "" if path.is_absolute() else f"; a relative path counts from the current folder, {Path.cwd()}"
        raise DataError(f"the dataset {dataset} does not exist{_did_you_mean(path)}; give a {READABLE}, a folder of "
                        f"them, a hub id, or {DEMO_DATASET}{seen_from}")


def _builtin_pairs(cache_directory: Path) -> list[tuple[str, str]]:
    """Return the built-in rows, from the disk where they were made before: parsing Python's sources takes seconds."""
    path = cache_directory / f"{builtin_docs.fingerprint()}.json"
    with contextlib.suppress(OSError, ValueError):  # damaged, or of a version that kept no digest: made again
        kept = read_checked(path)
        if kept is not None:
            return [(prompt, completion) for prompt, completion in kept["pairs"]]
    pairs = builtin_docs.rows()
    with contextlib.suppress(OSError):  # next time they are made again
        write_checked(path, {"pairs": pairs})
    return pairs


def _local(path: Path, config: FinetuneConfig, of_evaluation: bool) -> Source:
    """Sort a file, or the files below a folder, into splits by their names; any other name is a training file."""
    found = find_files(path, config.dataset_config, of_evaluation=of_evaluation)
    splits = {split: list(files) for split, files in found.of_split.items()}
    if of_evaluation:
        splits = {"validation": sorted(itertools.chain.from_iterable(splits.values()))} if len(splits) == 1 else splits
        train, held_out = next(str(name) for name in ("validation", "test", "train") if name in splits), ""
    elif config.dataset_split is None and set(splits) <= {"validation", "test"}:
        first = splits[next(iter(splits))][0]
        raise DataError(f"the folder {path} has only {' and '.join(splits)} files, so there is nothing to train on; "
                        f"rename one to train{first.suffix}")
    else:
        train, held_out = choose_splits(list(splits), config.dataset_split, str(path))

    def table(split: str, name: str) -> Table:
        files = splits[split]
        return Table(name=name, split=split, files=[str(file) for file in files], mapping=config.column_of,
                     read=lambda: itertools.chain.from_iterable(map(read_file, files)))

    used = [*splits[train], *(splits[held_out] if held_out else [])]
    unread = [f"the {split} files are not read: {', '.join(file.name for file in files)}"
              for split, files in splits.items() if split not in (train, held_out)]
    if found.left_out:
        unread.append(f"the configuration {found.configuration} of {path} has no part of "
                      f"{', '.join(str(file.relative_to(path)) for file in found.left_out)}")
    return Source(name=str(path), train=table(train, str(path)),
                  held_out=table(held_out, f"{path} ({held_out})") if held_out else None,
                  remarks=tuple([remark for file in used for remark in remarks_of(file)] + unread))


def _is_saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _saved(path: Path, config: FinetuneConfig, of_evaluation: bool) -> Source:
    """Open a folder that `save_to_disk` of the package `datasets` wrote."""
    import datasets

    with _reading(str(path)):
        found = datasets.load_from_disk(str(path))
    splits = dict(found) if isinstance(found, datasets.DatasetDict) else {str(found.split or "train"): found}
    return _of_splits(splits, str(path), config, of_evaluation)


def _from_hub(dataset: str, config: FinetuneConfig, of_evaluation: bool) -> Source:
    import datasets

    revision = None if of_evaluation else config.dataset_revision
    with _reading(dataset):
        if revision is not None:
            require_revision(dataset, revision)
        names = datasets.get_dataset_config_names(dataset, revision=revision)
        name = choose_configuration(names, ["default"], config.dataset_config, dataset, of_evaluation=of_evaluation)
        splits = datasets.load_dataset(dataset, name, revision=revision)
    return _of_splits(dict(splits), dataset, config, of_evaluation)


def _of_splits(splits: Mapping[str, Any], name: str, config: FinetuneConfig, of_evaluation: bool) -> Source:
    names = list(splits)
    if of_evaluation:
        train, held_out = next((split for split in ("validation", "test", "train") if split in names), names[0]), ""
    else:
        train, held_out = choose_splits(names, config.dataset_split, name)

    def table(split: str, label: str) -> Table:
        rows = splits[split]
        return Table(name=label, split=split, files=[f"{name} ({split})"], mapping=config.column_of, read=lambda: (
            dict(zip(batch, values, strict=True)) for batch in rows.iter(batch_size=256)
            for values in zip(*batch.values(), strict=True)))

    return Source(name=name, train=table(train, name),
                  held_out=table(held_out, f"{name} ({held_out})") if held_out else None)


@contextlib.contextmanager
def _reading(source: str) -> Iterator[None]:
    """Silence `datasets`, and turn what it raises into one line."""
    import datasets
    import httpx  # the client of the hub's client

    log, bars_are_on = logging.getLogger("datasets"), not datasets.are_progress_bars_disabled()
    level = log.level
    log.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    except datasets.exceptions.DatasetNotFoundError as error:
        raise_refusal(error, source, DataError)
        raise DataError(f"the hub has no dataset {source!r} that you may read{_did_you_mean(Path(source))}; check the "
                        f"id, set HF_TOKEN if it is private, or give a local file") from error
    except ConnectionError as error:
        nearest = _did_you_mean(Path(source))
        raise_refusal(error, source, DataError, nearest)
        raise DataError(f"cannot reach the hub for the dataset {source!r}{nearest}; check the network, or give a local "
                        f"json, jsonl, csv or parquet file or {DEMO_DATASET}") from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError, httpx.HTTPError) as error:
        raise_refusal(error, source, DataError)
        raise DataError(f"cannot read the dataset {source}: {first_line(error.__cause__ or error)}; repair it, or give "
                        f"another") from error
    finally:
        log.setLevel(level)
        if bars_are_on:
            datasets.enable_progress_bars()


def _did_you_mean(path: Path) -> str:
    names: list[str] = []
    with contextlib.suppress(OSError):  # there may be no such folder
        names = [str(path.with_name(entry.name)) for entry in path.parent.iterdir()]
    close = difflib.get_close_matches(str(path), [DEMO_DATASET, *names], n=1, cutoff=0.8)
    return f", did you mean {close[0]}?" if close else mounted_at(path)
