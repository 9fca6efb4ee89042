"""Packages that break as they are imported: which one it is, whether anything here needs it, and hiding it.

Images hold packages that were built for another torch or numpy, and our libraries import what they merely find. One
that nothing here needs is hidden: the process starts again as if it were not installed.
"""

import functools
import json
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

HIDDEN_VARIABLE = "KAGGLE_RUNNER_HIDDEN"
"""What is hidden from a process and its children, as JSON: name of the module -> why."""
OF_TRAINING = ("torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes")
"""Only what these say that they require is needed by what imports one of them."""


@dataclass(frozen=True, kw_only=True)
class BrokenPackage:
    """A package of others that cannot be imported."""

    name: str
    """The module's."""
    why: str
    """What happened, without a way out."""
    is_needed: bool
    way_out: str

    @property
    def text(self) -> str:
        """What a person is told of one that is needed."""
        return f"{self.why}; run: pip install {self.way_out}"

    @property
    def as_hidden(self) -> str:
        """What is recorded of one that nothing needs."""
        import importlib.metadata

        try:
            version = f" {importlib.metadata.version(_distribution_of(self.name))}"
        except importlib.metadata.PackageNotFoundError:
            version = ""
        return f"{self.name}{version}{self.why.removeprefix(self.name)}, and nothing uses it".replace(";", ",")

    def hide(self) -> NoReturn:
        """Start this process again, with its own arguments, as if the package were not installed."""
        hidden = json.dumps(_hidden() | {self.name: self.as_hidden})
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.execve(sys.executable, sys.orig_argv, {**os.environ, HIDDEN_VARIABLE: hidden})


def hide_packages() -> list[str]:
    """Hide from this process what broke in it or its parents before; return what and why. Before other imports."""
    hidden = _hidden()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # to importers and find_spec: there is none
    return list(hidden.values())


def find_broken(error: BaseException) -> BrokenPackage | None:
    """Name the package that an error comes from, the innermost that failed as it was imported; none for other errors.

    Libraries wrap such an error several times, and the names of those that only looked for it come first. What a
    library's function asks for and does not find is its own matter: it says so in better words.
    """
    chain = list(_chain(error))
    for each in reversed(chain):
        frames = _frames(each)
        imported = [package for package, scope in frames if scope == "<module>"]
        lacking = (each.name or "") if isinstance(each, ModuleNotFoundError) else ""
        if imported or (lacking and not frames and not lacking.startswith("kaggle_runner")):
            break
    else:
        return None
    root, importer = lacking.split(".")[0], (imported or [""])[-1]
    name = _blamed(each) or importer or root
    outermost = next((package for link in chain for package, _ in _frames(link)), name)
    needed = name in _hidden() or _is_required(name, {outermost, *OF_TRAINING})
    if root and root == lacking and root not in _hidden():
        ours = root == name
        return BrokenPackage(
            name=name, is_needed=ours or needed, way_out="'kaggle_runner[local]'" if ours else root,
            why=f"{root} is not installed" if ours else f"{name} cannot be imported, because {root} is not installed")
    said = f"{type(each).__name__}: {str(each).strip()}".splitlines()[0]
    return BrokenPackage(name=name, why=f"{name} cannot be imported ({said})", is_needed=needed,
                         way_out=f"--force-reinstall {_distribution_of(name)}")


def _blamed(error: BaseException) -> str:
    """Name a module that never began to run, so that no frame is its own: it does not load, or its source is bad."""
    if isinstance(error, SyntaxError) and error.filename:
        path = Path(error.filename)
        inside = [path.relative_to(folder).parts[0] for folder in sys.path if folder and path.is_relative_to(folder)]
        return inside[0].split(".")[0] if inside else ""
    if isinstance(error, ImportError) and error.path and not str(error).startswith("cannot import name"):
        return (error.name or "").split(".")[0]
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it comes from; that something was not there, and was done without, is no cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        context = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or (None if isinstance(context, ModuleNotFoundError) else context)


def _frames(error: BaseException) -> list[tuple[str, str]]:
    """Return the packages of others, with the function, that our last call in an error's traceback went through."""
    found: list[tuple[str, str]] = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if package in ("kaggle_runner", "__main__"):
            found = []
        elif package and package not in sys.stdlib_module_names:
            found.append((package, frame.f_code.co_name))
    return found


def _is_required(name: str, roots: Collection[str]) -> bool:
    """Say whether a module belongs to one of some packages, or to what these require by their own word."""
    import importlib.metadata  # start-up time that only a failure needs to spend

    todo, seen = [_distribution_of(root) for root in roots], set()
    while todo:
        plain = _plain(todo.pop())
        if plain not in seen:
            seen.add(plain)
            try:
                lines = importlib.metadata.requires(plain) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            todo += [found[0] for line in lines
                     if "extra ==" not in line and (found := re.match(r"[\w.-]+", line)) is not None]
    return _plain(_distribution_of(name)) in seen


def _plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _distribution_of(name: str) -> str:
    """Return the name of a module's package for pip."""
    return next(iter(_distributions().get(name, ())), name)


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    import importlib.metadata

    return importlib.metadata.packages_distributions()


def _hidden() -> dict[str, str]:
    try:
        return {str(name): str(why) for name, why in json.loads(os.environ.get(HIDDEN_VARIABLE) or "{}").items()}
    except (ValueError, AttributeError):  # somebody else's
        return {}
