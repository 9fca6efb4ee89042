"""Packages that break or crash as they are imported: which one it is, whether anything needs it, and hiding it.

Images hold packages that were built for another torch or numpy, and our libraries import what they merely find. One
that nothing here needs is hidden: the process starts again as if it were not installed.
"""

import functools
import itertools
import json
import linecache
import os
import re
import signal
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
OF_REPORTS = ("plotly", "matplotlib", "nbformat", "nbclient")
"""What draws a report, without which a session's work is worth as much."""
DUMP = "Fatal Python error: "
"""How what Python's fault handler writes begins, where PYTHONFAULTHANDLER is set."""
_AND = ", and "
_WANTED = re.compile(r"(?<![\w.-])(?<!found )(?<!have )(?<!got )(?<!installed )(?!python\b)"
                     r"[a-z][\w.-]*(?:\[[\w,-]+\])?(?:[<>=!~]=|[<>])[\w.,<>=!~*]*\w", re.IGNORECASE)
"""A version of a package, in a library's words for what it needs and not in those for what it has."""
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


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
        pushed = os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Batch"  # where nobody can type that
        return f"{self.why}; run: pip install {self.way_out}" + ", or push with --image of another image" * pushed

    @property
    def as_hidden(self) -> str:
        """What is recorded of one that nothing needs."""
        import importlib.metadata

        try:
            version = f" {importlib.metadata.version(_distribution_of(self.name))}"
        except importlib.metadata.PackageNotFoundError:
            version = ""
        user = "only the report" if _is_required(self.name, OF_REPORTS) else "nothing"
        return f"{self.name}{version}{self.why.removeprefix(self.name)}{_AND}{user} uses it".replace(";", ",")

    def hide(self) -> NoReturn:
        """Start this process again, with its own arguments, as if the package were not installed."""
        self.hide_from_children()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.execve(sys.executable, sys.orig_argv, os.environ)

    def hidden_in(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which it is hidden too."""
        return {**environ, HIDDEN_VARIABLE: json.dumps(_hidden(environ) | {self.name: self.as_hidden})}

    def hide_from_children(self) -> None:
        """Hide it from the processes that this one will start, and from this one where it was not imported yet."""
        os.environ.update(self.hidden_in(os.environ))
        sys.modules.setdefault(self.name, None)  # type: ignore[arg-type]


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
    outermost = next((package for link in chain for package, _ in _frames(link)), importer)
    if root and (hidden := _hidden().get(root)):
        why = hidden.rpartition(_AND)[0]
        if importer and not _is_required(importer, {outermost, *OF_TRAINING}):  # nothing needs either
            return BrokenPackage(name=importer, why=f"{importer} cannot be imported, because {why}", is_needed=False,
                                 way_out=_anew(root))
        return BrokenPackage(name=root, why=why, is_needed=True,
                             way_out=_anew(root))
    name = _blamed(each) or importer or root
    if name == "transformers_modules":  # the code of a model, which has words of its own for what it lacks
        return None
    needed = name in _hidden() or _is_required(name, {outermost or name, *OF_TRAINING})
    if root and root == lacking:
        ours = root == name
        return BrokenPackage(
            name=name, is_needed=ours or needed, way_out="'kaggle_runner[local]'" if ours else root,
            why=f"{root} is not installed" if ours else f"{name} cannot be imported, because {root} is not installed")
    said = f"{type(each).__name__}: {str(each).strip()}".splitlines()[0]
    wanted = _WANTED.search(said) if "require" in said else None
    return BrokenPackage(name=name, why=f"{name} cannot be imported ({said})", is_needed=needed,
                         way_out=f"'{wanted[0]}'" if wanted else _anew(name))  # of another package's version


def find_crash(said: str, status: int, environ: Mapping[str, str],
               extras: Collection[str] = ()) -> BrokenPackage | None:
    """Name the package whose import crashed a child process of ours; none where that is not how it ended.

    `said` ends with what the fault handler wrote to its stderr, `status` is its exit status, `environ` its environment.
    What only the `extras` require, packages without which the process can do its work, is not needed.
    """
    dumps = re.findall(r"^Current thread .*\n((?:  File .*\n?)+)", said.rpartition(DUMP)[2], re.MULTILINE)
    if -status not in _CRASHES or not dumps:
        return None
    calls = re.findall(r'^  File "(.*)", line (\S+) in (.*)$', dumps[-1], re.MULTILINE)
    code = [call for call in calls if not call[0].startswith("<frozen importlib")]
    name = ""
    if code and code[0] != calls[0]:  # Python's loader was at work: what it loads has no line of its own yet
        found = re.match(r"\s*(?:from|import) +(\w+)", linecache.getline(code[0][0], int(code[0][1])))
        name = found[1] if found and found[1] not in sys.stdlib_module_names else ""
    callers = itertools.takewhile(lambda call: call[0] != "kaggle_runner",
                                  ((_package_at(path), scope) for path, _, scope in code))
    frames = [(package, scope) for package, scope in callers if package and package not in sys.stdlib_module_names]
    name = name or next((package for package, scope in frames if scope == "<module>"), "")
    if not name:
        return None
    users = {frames[-1][0] if frames else name, *OF_TRAINING} - set(extras)
    return BrokenPackage(name=name, why=f"{name} cannot be imported (it crashes: {signal.Signals(-status).name})",
                         is_needed=name in _hidden(environ) or _is_required(name, users),
                         way_out=_anew(name))


def _package_at(file: str) -> str:
    """Return the package that a file belongs to, empty for one that cannot be imported; folders lie in each other."""
    path = Path(file)
    folders = [folder for folder in sys.path if folder and path.is_relative_to(folder)]
    return path.relative_to(max(folders, key=len)).parts[0].split(".")[0] if folders else ""


def _blamed(error: BaseException) -> str:
    """Name a module that never began to run, so that no frame is its own: it does not load, or its source is bad."""
    if isinstance(error, SyntaxError) and error.filename:
        return _package_at(error.filename)
    if isinstance(error, ImportError) and error.path and not str(error).startswith("cannot import name"):
        return (error.name or "").split(".")[0]
    lacking = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    return lacking.split(".")[0] if "." in lacking and _has_lost(lacking) else ""


def _has_lost(module: str) -> bool:
    """Say whether a module that is not there came with its package, and is none of another version."""
    import importlib.metadata

    try:
        files = importlib.metadata.distribution(_distribution_of(module.split(".")[0])).read_text("RECORD")
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(f"\n{module.replace('.', '/')}{end}" in f"\n{files}" for end in "./")


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


def _anew(name: str) -> str:
    """Return what has pip install a module's package again and nothing else: an image is built of versions that fit."""
    import importlib.metadata

    distribution = _distribution_of(name)
    try:
        version = importlib.metadata.version(distribution).split("+")[0]  # no index has what is built for one image
    except (importlib.metadata.PackageNotFoundError, AttributeError):  # or pip left it half installed
        return f"--force-reinstall {distribution}"
    return f"--force-reinstall --no-deps {distribution}=={version}"


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    import importlib.metadata

    return importlib.metadata.packages_distributions()


def _hidden(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    try:
        return {str(name): str(why) for name, why in json.loads(environ.get(HIDDEN_VARIABLE) or "{}").items()}
    except (ValueError, AttributeError):  # somebody else's
        return {}
