"""Build the launcher: one Python script that holds this package, unpacks it elsewhere and runs a command of it.

Kaggle takes one file and gives it no arguments, no environment and no siblings, so all of that is inside. The same
text runs as a Kaggle script, by `colab run`, in a notebook cell and with plain Python.
"""

import bz2
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import kaggle_runner
from kaggle_runner.errors import KernelError, Refusal, SecretError
from kaggle_runner.kaggle.kept import kept
from kaggle_runner.kaggle.shrink import shrunk, with_short_names, without_uncalled
from kaggle_runner.machine.credentials import credentials_of, is_secret_name, key_shape

LIMIT_BYTES = 900_000
"""Kaggle refuses a source over 1 MB, without saying whether that is 10**6 or 2**20 bytes."""
CHUNK, CHUNK_BYTES = 1000, 815
"""Number of characters of the package in one line of the script, and of the bytes that they stand for."""
DIGITS = "".join(chr(code) for code in range(33, 127) if chr(code) not in '"\\')
"""The 92 characters of ASCII that stand in a quoted line as they are: by these a package is 2 % shorter than by 85."""
SUFFIXES = (".py", ".yaml", ".json", ".typed", ".css", ".js")
LEFT_OUT = ("demo_base", "__pycache__", "kaggle", "lab", "cli/help", "cli/kernel", "cli/lab", "cli/look", "cli/plan",
            "cli/remote", "machine/gpu_catalogue", "machine/variables", "memory/plan", "memory/final_plan",
            "report/analysis/claims", "report/cells", "report/compare", "report/files", "report/lab", "report/notebook",
            "run/adopt",
            *(f"run/shared/{name}" for name in ("database", "tables", "record", "search", "checkpoints", "copy",
                                                "confirm", "studies")),
            "study/what_next", "sweep/shipped",
            "training/data/preview", "wandb/confirm", "wandb/fetch", "wandb/here", "wandb/offline",
            "wandb/read_back")
"""Folders and modules that do not ride to a kernel: the demo model's weights would be most of the file, and a kernel
has a hub or a mounted model; pushes, plans and the tuning lab are for one's own machine, and a launcher has its own
sweep file."""
OF_MODELS = ("model", "cli/model", "cli/conversation")
"""What looks at a finished model."""
OF_FINALS = ("run/final", "training/parallel")
"""What trains one configuration on all rows."""
OF_SEARCHES = ("run/points", "run/search", "run/optuna_journal", "run/confirm", "run/local_sweep", "run/fixed_trials")
"""What chooses trials."""
OF_AGENTS = ("wandb", "machine/gpu_lock", "machine/writable")
"""What works for a sweep on W&B."""
NOT_FOR = {
    "agent": (*OF_MODELS, *OF_FINALS, *OF_SEARCHES, "run/shared"),
    "sweep": (*OF_MODELS, *OF_FINALS, *OF_AGENTS, "run/shared/address", "run/shared/fetch", "sweep/address"),
    "train": ("model", "cli/conversation", *OF_SEARCHES, *OF_AGENTS, "sweep/address"),
    "export": (*OF_SEARCHES, "wandb", "report"),
    "try": (*OF_SEARCHES, "wandb", "report"),
}
"""Command of a kernel -> what stays at home with it too."""

SCRIPT = '''\
# kaggle_runner {version}, complete in this one file. Made by `python -m kaggle_runner kernel prepare`: run that again
# instead of editing the package below; the arguments and settings may be edited.
KAGGLE_RUNNER_ARGUMENTS = {arguments}
KAGGLE_RUNNER_SETTINGS = {settings}
KAGGLE_RUNNER_FILES = {files}
KAGGLE_RUNNER_SHA256 = "{sha256}"
KAGGLE_RUNNER_PACKAGE = (
{package}
)


def kaggle_runner_launch():
    """Unpack the package, put it on every path, and run the command; return the exit status."""
    import os, sys

    if "__file__" in globals() and sys.path[0] in [os.path.dirname(f(__file__)) for f in (str, os.path.realpath)]:
        del sys.path[0]  # a random.py beside this script is no module of Python's
    import atexit, bz2, hashlib, io, json, shutil, tempfile, traceback

    on_kaggle, stage = "KAGGLE_KERNEL_RUN_TYPE" in os.environ, "begin"
    try:
        found = hashlib.sha256(KAGGLE_RUNNER_PACKAGE.encode()).hexdigest()
        if found != KAGGLE_RUNNER_SHA256:
            raise SystemExit(f"error: this launcher is damaged: its package has sha256 {{found[:12]}} instead of "
                             f"{{KAGGLE_RUNNER_SHA256[:12]}}; make it again: python -m kaggle_runner kernel prepare")
        directory = tempfile.mkdtemp(prefix="kaggle_runner-")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        digits, packed = {{ord(digit): number for number, digit in enumerate({digits!r})}}, b""
        for start in range(0, len(KAGGLE_RUNNER_PACKAGE), {chunk}):
            line, number = KAGGLE_RUNNER_PACKAGE[start:start + {chunk}].encode(), 0
            for digit in line:
                number = number * {base} + digits[digit]
            packed += number.to_bytes(len(line) * {chunk_bytes} // {chunk}, "big")
        words, _, text = bz2.decompress(packed).partition(b"\\n")
        for word in words.split():
            text = text.replace(word[:1], word[1:])
        package = io.BytesIO(text)
        for name, size in json.loads(package.readline()).items():
            path = os.path.join(directory, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(package.read(size))
        for name in [name for name in sys.modules if name.split(".")[0] == "kaggle_runner"]:
            del sys.modules[name]  # in a notebook, the package of an older launcher
        sys.path.insert(0, directory)
        old_path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = directory + (os.pathsep + old_path if old_path else "")
        from kaggle_runner.kernel.main import run

        stage = "go on"
        return run(KAGGLE_RUNNER_ARGUMENTS, KAGGLE_RUNNER_SETTINGS, KAGGLE_RUNNER_FILES)
    except BaseException as error:
        reason = str(error).removeprefix("error: ")
        if isinstance(error, OSError):
            reason = f"this session cannot {{stage}}: {{error}}; mend that, and start it again"
            if not on_kaggle:
                raise SystemExit(f"error: {{reason}}") from None
        if not on_kaggle:
            raise
        if not isinstance(error, (OSError, SystemExit)):
            traceback.print_exc()
            reason = f"{{type(error).__name__}}: {{error}}"
        # Kaggle keeps no file of a script that fails, so the truth goes into result.json and the status is 0.
        path = os.path.join(os.environ.get("KAGGLE_RUNNER_ROOT", "/"), "kaggle", "working", "result.json")
        place = f"  ({{path}})"
        try:
            with open(path + ".new", "w") as file:
                json.dump({{"verdict": "failed", "exit_status": 1, "reason": reason}}, file)
            os.replace(path + ".new", path)
        except OSError as full:
            print(f"error: cannot write {{path}}: {{full.strerror}}; the session has no verdict but the next line",
                  file=sys.stderr)
            place = ""
            if os.path.exists(path + ".new"):
                os.unlink(path + ".new")
        print(f"failed: {{reason}}{{place}}", file=sys.stderr)
        return 0


if __name__ == "__main__":
    kaggle_runner_status = kaggle_runner_launch()
    if kaggle_runner_status:
        raise SystemExit(kaggle_runner_status)
'''

EMPTY_SCRIPT = """\
# The code file of kernel-metadata.json as the repository has it: without package and sweep. To put both into it:
#
#     python -m kaggle_runner kernel prepare SWEEP_ID && kaggle kernels push -p .
import json
import os
import sys

reason = ("this kernel has no sweep to run; on your own machine, in the repository, run: "
          "python -m kaggle_runner kernel prepare SWEEP_ID && kaggle kernels push -p .")
print(f"error: {reason}", file=sys.stderr)
if "KAGGLE_KERNEL_RUN_TYPE" not in os.environ:
    sys.exit(2)
working = os.path.join(os.environ.get("KAGGLE_RUNNER_ROOT", "/"), "kaggle", "working")
with open(os.path.join(working, "result.json"), "w") as file:
    json.dump({"verdict": "failed", "exit_status": 2, "reason": reason}, file)
"""
"""The launcher that the repository holds: it runs nothing and says how to prepare one."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a launcher runs; nothing in it may be secret, because Kaggle keeps every version of a source.

    Raises:
        SecretError: something in it looks like a key.
    """

    arguments: tuple[str, ...]
    """The command line, without `python -m kaggle_runner`."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the command, where the kernel does not have them already."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> text of files that the arguments name, such as a sweep file of the user's."""

    def __post_init__(self) -> None:
        for place, text in self.texts():
            if kind := key_shape(text):
                raise SecretError(f"{place} looks like {kind}, which a launcher must not hold: every version of a "
                                  f"kernel keeps its source; store it with: python -m kaggle_runner secret put")
        for name in self.settings:
            if is_secret_name(name):
                raise SecretError(f"setting {name} is named like a secret, which a launcher must not hold; store it "
                                  f"with: python -m kaggle_runner secret put")

    def texts(self) -> list[tuple[str, str]]:
        """List everything that is written out in the launcher, with where it is."""
        return [*((f"argument {number}", text) for number, text in enumerate(self.arguments, start=1)),
                *((f"setting {name}", text) for name, text in self.settings.items()),
                *((f"file {name}", text) for name, text in self.files.items())]


def build_launcher(launch: Launch, environ: Mapping[str, str]) -> str:
    """Write the launcher's text; the same package and launch give the same text.

    `environ` is searched for credentials, none of which may be in the text.

    Raises:
        SecretError: a credential of this environment is in it.
        KernelError: it is larger than Kaggle takes.
    """
    for name, value in credentials_of(environ).items():
        if any(value in text for _, text in launch.texts()):
            raise SecretError(f"the launcher would hold the value of {name}; leave it out of arguments and settings")
    command = next((command for command in launch.arguments[:1] if command in NOT_FOR), "detect")
    package = kept(command, lambda: _written(_packed(_archive(package_files(command)))))
    # One quoted chunk a line: in a triple-quoted block IPython 9 strips a `>>>` that begins a line.
    chunks = "\n".join(f'    "{package[start:start + CHUNK]}"' for start in range(0, len(package), CHUNK))
    script = SCRIPT.format(version=kaggle_runner.__version__, arguments=json.dumps(list(launch.arguments)),
                           settings=json.dumps(dict(launch.settings), sort_keys=True),
                           files=json.dumps(dict(launch.files), sort_keys=True),
                           sha256=hashlib.sha256(package.encode()).hexdigest(), package=chunks, digits=DIGITS,
                           base=len(DIGITS), chunk=CHUNK, chunk_bytes=CHUNK_BYTES)
    if len(script.encode()) > LIMIT_BYTES:
        raise KernelError(Refusal.TOO_LARGE, f"the launcher has {len(script.encode()) / 1000:.0f} KB and Kaggle takes "
                                             f"{LIMIT_BYTES / 1000:.0f}; leave out large files, or mount them as a "
                                             f"dataset")
    return script


def package_files(command: str = "sweep") -> dict[str, bytes]:
    """Read what of this package a command needs on a kernel: name in the archive -> content, in order of the names.

    Docstrings, comments, the types of functions, their imports, most spaces, the long names of variables and what only
    other commands call are left out; line numbers stay, so that tracebacks point at the right line.
    """
    root = Path(kaggle_runner.__file__).parent
    left_out = {*LEFT_OUT, *NOT_FOR.get(command, (*OF_MODELS, *OF_FINALS))}
    files = {}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        names = {folder.as_posix() for folder in inside.parents} | {inside.with_suffix("").as_posix(), *inside.parts}
        if path.is_file() and path.suffix in SUFFIXES and not names & left_out:
            content = path.read_bytes()
            if path.suffix == ".py":
                content = shrunk(content)
            elif path.suffix == ".js":
                content = re.sub(rb"(?m)^ *(//.*\n)?", b"", content)
            elif path.suffix == ".css":
                content = b" ".join(re.sub(rb"(?s)/\*.*?\*/", b"", content).split())
            files[f"{root.name}/{inside.as_posix()}"] = content
    return {name: with_short_names(content) if name.endswith(".py") else content
            for name, content in without_uncalled(files).items()}


def _written(packed: bytes) -> str:
    """Write bytes in `DIGITS`, in chunks; a byte that fills the last one up is ignored after the end of the stream."""
    lines = []
    for start in range(0, len(packed), CHUNK_BYTES):
        piece = packed[start:start + CHUNK_BYTES]
        size = -(-len(piece) * CHUNK // CHUNK_BYTES)
        number, digits = int.from_bytes(piece.ljust(size * CHUNK_BYTES // CHUNK, b"\0"), "big"), []
        for _ in range(size):
            number, digit = divmod(number, len(DIGITS))
            digits.append(DIGITS[digit])
        lines.append("".join(reversed(digits)))
    return "".join(lines)


def _archive(files: Mapping[str, bytes]) -> bytes:
    """Join a line of JSON, name -> bytes, and the contents in its order.

    A zip's checksums and offsets were 6 KB of the launcher: they do not compress, and its digest covers them.
    """
    sizes = json.dumps({name: len(content) for name, content in files.items()})
    return sizes.encode() + b"\n" + b"".join(files.values())


def _packed(archive: bytes) -> bytes:
    """Compress it with the number of short words that leaves it smallest, which nothing foretells: 0.4 % of it.

    LZMA's best is 3 % more.
    """
    return min((bz2.compress(_in_short(archive, words)) for words in range(64, 156, 6)), key=len)


def _in_short(archive: bytes, words: int) -> bytes:
    """Put bytes that stand nowhere in it for the words that fill it most, and a line before it that says which.

    The compressor alone leaves it 1.3 % larger.
    """
    times = Counter(re.findall(rb"[A-Za-z]{2,}", archive))
    free = (bytes([byte]) for byte in (*range(128, 256), *range(1, 9), *range(14, 32)) if byte not in archive)
    most = sorted(times, key=lambda word: (-times[word] * len(word), word))[:words]
    short = dict(zip(most, free, strict=False))
    text = re.sub(rb"[A-Za-z]{2,}", lambda word: short.get(word[0], word[0]), archive)
    return b" ".join(byte + word for word, byte in short.items()) + b"\n" + text
