"""Instruction rows that every Python carries: questions about the running interpreter's own documentation.

Sources are parsed, not imported; only the C modules of `C_MODULES`, which have no source, are imported.
Prompts hold names and no signatures, so the same question falls on the same side of the split on every Python.
"""

import ast
import functools
import hashlib
import importlib
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import BuiltinFunctionType, ModuleType

from kaggle_runner.errors import DataError

PRETRAINING_HOLDS_OUT = 0.10
"""Documents below this `held_out_fraction` are kept from the demo model: twice the validation split, to be safe."""
MIN_CHARACTERS = 30
MAX_COMPLETION_CHARACTERS = 400
MIN_DOCUMENTS = 3000
"""Fewer mean a standard library without sources: the C modules alone give under 2,000, a full one about 6,000."""

# fmt: off
SKIPPED_FOLDERS = frozenset((
    "test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo", "ensurepip",
    "__phello__", "__pycache__", "encodings", "pydoc_data",
))
C_MODULES = (
    "builtins", "sys", "math", "cmath", "itertools", "time", "gc", "errno", "atexit", "marshal", "array", "zlib",
    "binascii", "select", "unicodedata", "mmap", "fcntl", "resource", "faulthandler", "pwd", "grp", "posix", "_io",
    "_collections", "_functools", "_operator", "_struct", "_socket", "_thread", "_datetime", "_decimal", "_json",
    "_csv", "_random", "_sre", "_signal", "_weakref", "_codecs", "_bisect", "_heapq", "_locale", "_queue",
    "_contextvars", "_hashlib", "_sqlite3", "_ssl", "_bz2", "_lzma", "_pickle", "_symtable", "_string",
    "_tracemalloc", "_warnings", "_abc", "_imp", "_stat", "_statistics", "_opcode", "_ctypes", "pyexpat",
)
# fmt: on
"""Modules written in C whose import neither warns nor does anything else; one that is missing is left out."""
PUBLIC_NAMES = {"posix": "os", "_io": "io", "_sre": "re", "_thread": "threading", "pyexpat": "xml.parsers.expat"}

TEMPLATES = (
    "What does the {kind} `{name}` do?",
    "Explain the {kind} `{name}` of Python.",
    "What is the {kind} `{name}` for?",
    "Describe the Python {kind} `{name}` in a few words.",
)
CALL = r"[\w.]+\((?:[^()\n]|\([^()\n]*\))*\)"
SIGNATURE = re.compile(rf"{CALL}(?:[ ]?(?:-+>|--|=)(?:(?:[ ]?\S+){{1,3}}(?=\n|$))?|:?[ ]*(?=\n|$))")
RULE = re.compile(r"[*=\-~^#]{3,}")
TABLE = re.compile(r"[*=\-~]{5,}|>>>")
NOT_PROSE = re.compile(r"\s|>>>|[:@]\w+|[-*+|o] |\d+[.)] |\w+:\n|Args:|(?:Parameters|Usage)\b|#|\.\. ")


def rows(stdlib: Path | None = None) -> list[tuple[str, str]]:
    """Return (prompt, completion) pairs sorted by prompt; no prompt and no completion appears twice.

    Raises:
        DataError: the standard library has no sources or no docstrings.
    """
    answers: dict[str, str] = {}
    for prompt, text in documents(stdlib):
        completion = _completion(text)
        if len(completion) >= MIN_CHARACTERS:
            answers.setdefault(completion, prompt)
    return sorted((prompt, completion) for completion, prompt in answers.items())


def documents(stdlib: Path | None = None) -> list[tuple[str, str]]:
    """Return (prompt, full docstring or help topic) sorted by prompt; prompts are unique, texts may repeat.

    Reads the running interpreter's standard library unless another folder is named.

    Raises:
        DataError: the standard library has no sources or no docstrings.
    """
    folder = stdlib or Path(sysconfig.get_path("stdlib"))
    found = _documents(folder)
    if len(found) < MIN_DOCUMENTS:
        raise DataError(
            f"only {len(found)} documented names in {folder} and the C modules, the built-in dataset needs "
            f"{MIN_DOCUMENTS}; run a Python that has its .py sources unzipped, or name another dataset"
        )
    return list(found)


def split_documents() -> tuple[list[str], list[str]]:
    """Return the distinct texts a base model may be trained on and those to measure it with, in that order.

    A text is kept from training when its prompt is held out or when it contains a held-out answer.
    """
    training: dict[str, None] = {}
    held_out: dict[str, None] = {}
    for prompt, text in documents():
        (held_out if held_out_fraction(prompt) < PRETRAINING_HOLDS_OUT else training)[text] = None
    answers = {_completion(text) for text in held_out} | {normalized(text) for text in held_out}
    forbidden = [answer for answer in answers if len(answer) >= MIN_CHARACTERS]
    kept = [text for text in training if not _contains_any(normalized(text), forbidden)]
    return kept, list(held_out)


def held_out_fraction(prompt: str) -> float:
    """Map a prompt to a fixed number in [0, 1); the lowest belong to the validation split."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6]) / 2**48


def fingerprint() -> str:
    """Name this interpreter's documentation and the code that reads it, without reading the former."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(sys.version.encode())
    for module, path in _sources(Path(sysconfig.get_path("stdlib"))):
        digest.update(f"{module} {path.stat().st_size}\n".encode())
    return f"python-{'.'.join(map(str, sys.version_info[:3]))}-{digest.hexdigest()[:16]}"


def normalized(text: str) -> str:
    """Make every run of white space one blank."""
    return " ".join(text.split())


@functools.cache
def _documents(stdlib: Path) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for kind, name, docstring in (*_source_docs(stdlib), *_c_docs(), *_topics()):
        text = _without_signature(inspect.cleandoc(docstring.expandtabs()))
        if len(text) >= MIN_CHARACTERS and not any(part.startswith("_") for part in name.split(".")):
            found.setdefault(_prompt(kind, name), text)
    return tuple(sorted(found.items()))


def _prompt(kind: str, name: str) -> str:
    choice = hashlib.sha256(name.encode()).digest()[0] % len(TEMPLATES)
    return TEMPLATES[choice].format(kind=kind, name=name)


def _without_signature(text: str) -> str:
    """Drop the calls that open many docstrings: `dict() -> new empty dictionary` and the lines like it."""
    while (match := SIGNATURE.match(text)) and match.end():
        text = text[match.end() :].lstrip()
    return text


def _completion(text: str) -> str:
    """Return the opening prose of a text in one line, cut at a sentence."""
    prose: list[str] = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.strip("\n").splitlines()
        if len(lines) > 1 and RULE.fullmatch(lines[1].strip()):
            continue
        if not lines or NOT_PROSE.match(paragraph) or TABLE.search(paragraph):
            break
        prose.append(paragraph)
    whole = normalized(" ".join(prose))
    if len(whole) <= MAX_COMPLETION_CHARACTERS:
        return whole
    head = whole[: MAX_COMPLETION_CHARACTERS + 1]
    sentences = [match.end() for match in re.finditer(r"[.!?](?= )", head)]
    return head[: sentences[-1]] if sentences else head.rpartition(" ")[0]


def _contains_any(text: str, answers: list[str]) -> bool:
    return any(answer in text for answer in answers)


def _sources(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (module, file) of the standard library in a fixed order, tests and vendored packages left out."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS and name.isidentifier())
        for file in sorted(files):
            path = Path(folder, file)
            if path.suffix == ".py":
                yield ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"), path


def _source_docs(stdlib: Path) -> Iterator[tuple[str, str, str]]:
    for module, path in _sources(stdlib):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        if docstring := ast.get_docstring(tree, clean=False):
            yield "module", module, docstring
        yield from _definitions(tree.body, module, "function")


def _definitions(body: list[ast.stmt], owner: str, kind: str) -> Iterator[tuple[str, str, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            is_class = isinstance(node, ast.ClassDef)
            name = f"{owner}.{node.name}"
            if docstring := ast.get_docstring(node, clean=False):
                yield "class" if is_class else kind, name, docstring
            if is_class:
                yield from _definitions(node.body, name, "method")
        elif isinstance(node, ast.If | ast.Try):
            branches = [*node.body, *node.orelse]
            if isinstance(node, ast.Try):
                branches += [statement for handler in node.handlers for statement in handler.body]
            yield from _definitions(branches, owner, kind)


def _c_docs() -> Iterator[tuple[str, str, str]]:
    for module_name in C_MODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        public = PUBLIC_NAMES.get(module_name, module_name.removeprefix("_"))
        if isinstance(module.__doc__, str):
            yield "module", public, module.__doc__
        prefix = "" if module_name == "builtins" else f"{public}."
        yield from _members(module, prefix)


def _members(owner: ModuleType | type, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, value in sorted(vars(owner).items()):
        if not isinstance(value.__doc__, str):
            continue
        if isinstance(owner, type):
            if inspect.isroutine(value) or inspect.isdatadescriptor(value):
                yield "method", prefix + name, value.__doc__
        elif isinstance(value, type):
            yield "class", prefix + name, value.__doc__
            yield from _members(value, f"{prefix}{name}.")
        # sys.excepthook and its like are for programs to replace; `__excepthook__` beside them tells which they are.
        elif isinstance(value, BuiltinFunctionType) and not hasattr(owner, f"__{name}__"):
            yield "function", prefix + name, value.__doc__


def _topics() -> Iterator[tuple[str, str, str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    for name, text in sorted(topics.items()):
        yield "help topic", name.lower(), text
