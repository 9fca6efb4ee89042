"""Find a YAML file, read it as one plain mapping, and say whose file it is."""

import difflib
import importlib.resources
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kaggle_runner.errors import SweepError
from kaggle_runner.sweep.problems import Findings, spelled, suggestion

SHIPPED = "sweeps"
"""Folder of the sweep files in the package, and how a user names them: `sweeps/demo.yaml`."""
EXAMPLE = {"parameters": ("method, metric and parameters", f"copy {SHIPPED}/demo.yaml and change it"),
           "vary": ("vary, values and baseline", f"copy {SHIPPED}/charlm_vary.yaml and change it"),
           "studies": ("baseline and studies", f"copy {SHIPPED}/charlm_plan_small.yaml and change it"),
           "": ("hyperparameters", "write one on each line, such as learning_rate: 1.0e-4")}
"""A key that marks the kind of a file, none for one configuration -> what such a file holds, and how one begins."""


def refuse_other_file(path: Path, raw: Mapping[str, Any], command: str) -> None:
    """Refuse a file that is for another command than this one.

    Raises:
        SweepError: names the command it is for.
    """
    for mark, kind, its in (("studies", "a tuning plan", "tune"), ("vary", "a one-at-a-time study", "vary"),
                            ("parameters", "a sweep file", "sweep")):
        if mark in raw and its != command:
            raise SweepError(str(path), [f"is {kind}; run it with: python -m kaggle_runner {its} {path}"])
        if mark in raw:
            return


def shipped_sweep(name: str) -> Path:
    """Return the path of a sweep file that ships with the package, such as `demo`.

    Raises:
        SweepError: no such file ships.
    """
    folder = Path(str(importlib.resources.files("kaggle_runner.sweep") / "shipped"))
    path = folder / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        raise SweepError(f"{SHIPPED}/{path.name}", [f"no such sweep ships with kaggle_runner; "
                                                    f"{suggestion(path.name, _sweep_files(folder))}"])
    return path


MOST_NODES = 100_000
"""Most keys and values that a file may come to when its aliases are written out; a few lines can stand for billions."""


class _Loader(yaml.SafeLoader):
    """YAML as JSON could say it: dates stay text, and a key that is given twice is remembered."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[tuple[Any, int]] = []

    def get_single_data(self) -> Any:
        """Return what the text says, unless its aliases stand for too much.

        Raises:
            ValueError: they do.
        """
        node = self.get_single_node()
        sizes: dict[int, int] = {}
        if node and _size(node, sizes) > max(MOST_NODES, len(sizes)):
            raise ValueError(f"its aliases stand for {sizes[id(node)]:,} values, more than {MOST_NODES:,}")
        return self.construct_document(node) if node else None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value
                if key.tag != "tag:yaml.org,2002:merge"]
        self.repeated += [(key, node.value[i][0].start_mark.line + 1) for i, key in enumerate(keys) if key in keys[:i]]
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Count the nodes below one, with those of an alias wherever it stands; each is looked at once."""
    if id(node) not in sizes:
        sizes[id(node)] = 1  # an alias in what it stands for is refused later
        for child in () if isinstance(node, yaml.ScalarNode) else node.value:
            sizes[id(node)] += sum(_size(part, sizes) for part in (child if isinstance(child, tuple) else (child,)))
    return sizes[id(node)]


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def find_file(path: Path, mark: str = "parameters") -> Path:
    """Return where a file is: on this machine, or among those of the package that have `mark` as a key.

    Raises:
        SweepError: there is none; names those that were probably meant.
    """
    packaged = Path(str(importlib.resources.files("kaggle_runner.sweep") / "shipped"))
    try:
        if path.is_file():
            return path
        if path.is_dir():
            there = ", ".join(_sweep_files(path)) or "it holds none"
            raise SweepError(str(path), [f"is a folder; give a sweep file in it: {there}"])
        if path.parent == Path(SHIPPED) and (packaged / path.name).is_file():
            return packaged / path.name
        near = {Path(name).stem: path.parent / name for name in _sweep_files(path.parent)}
    except OSError as error:
        raise SweepError(str(path), [f"cannot be read: {error.strerror}"]) from error
    ours = shipped_files(mark) if mark else []
    known = {name.stem: name for name in ours} | near
    close = difflib.get_close_matches(path.stem, known, n=1)
    way_out = f"did you mean {known[close[0]]}?" if close else ways_to_a_file(list(near.values()), ours, mark)
    raise SweepError(str(path), [f"no such file; {way_out}"])


def ways_to_a_file(near: list[Path], ours: list[Path], mark: str) -> str:
    """Say which files can be given: those that are near, and those that ship."""
    kind = {"parameters": "sweep file", "": "file of hyperparameters"}.get(mark, "file")
    ways = [f"one of this folder: {', '.join(map(str, near))}" if near else f"your own {kind}",
            *([f"one that ships: {', '.join(map(str, ours))}"] if ours else [])]
    return f"give {', or '.join(ways)}"


def shipped_files(mark: str = "") -> list[Path]:
    """List the files that ship, as a user names them; those that have `mark` as a key."""
    folder = Path(str(importlib.resources.files("kaggle_runner.sweep") / "shipped"))
    return [Path(SHIPPED, name) for name in _sweep_files(folder)
            if not mark or f"\n{mark}:" in (folder / name).read_text(encoding="utf-8")]


def _sweep_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.y*ml")) if folder.is_dir() else []


def parse_mapping(path: Path, found: Findings, *, mark: str = "parameters") -> dict[str, Any]:
    """Return the file's mapping, with a problem for everything that JSON could not say."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8-sig"))
        raw = loader.get_single_data()
        json.dumps(raw, default=str)  # refuses an alias that contains itself
    except OSError as error:
        raise SweepError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise SweepError(str(path), [f"is not UTF-8 text (byte {error.start}); is it a sweep file?"]) from error
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        where = f"line {place.line + 1}, column {place.column + 1}: " if place else ""
        raise SweepError(str(path), [f"{where}not YAML: {error.problem or error.context}; check the colons, quotes "
                                     f"and indentation there"]) from error
    except yaml.YAMLError as error:
        raise SweepError(str(path), [f"not YAML: {' '.join(str(error).split())}"]) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise SweepError(str(path), [f"not usable YAML: {error}"]) from error
    if raw is None or raw == {}:
        raise SweepError(str(path), [f"the file is empty; {EXAMPLE[mark][1]}"])
    if not isinstance(raw, dict):
        kind = "a list" if isinstance(raw, list) else f"only {spelled(raw)}"
        raise SweepError(str(path), [f"must be a mapping with {EXAMPLE[mark][0]}, but the file is {kind}; "
                                     f"{EXAMPLE[mark][1]}"])
    for key, line in loader.repeated:
        found.problem(f"line {line}", f"{spelled(key)} is given twice, and only the last one would count; remove one")
    check_plain(found, "", raw)
    return raw


def check_plain(found: Findings, path: str, value: Any) -> None:
    """Add a problem for what JSON cannot say; the file goes into the study's journal and to W&B as JSON."""
    inside = f"{path}." if path else ""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                found.problem(f"{inside}{spelled(key)}", "a key must be text; put it in quotes")
            check_plain(found, f"{inside}{key}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_plain(found, f"{path}[{index}]", item)
    elif isinstance(value, float) and not math.isfinite(value):
        found.problem(path, f"must be a finite number, got {value}")
    elif not isinstance(value, str | int | float | None):
        found.problem(path, f"must be text, a number, true, false or null, got {spelled(value)}")
