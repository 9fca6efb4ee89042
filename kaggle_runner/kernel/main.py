"""What a launcher runs on the kernel: install, continue, run the command, and write the truth into result.json.

On Kaggle the exit status is always 0, because Kaggle keeps no file of a script that fails: read result.json.
"""

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import kaggle_runner
from kaggle_runner.errors import HostError, KaggleRunnerError, NoInternet, SecretError, StudyError
from kaggle_runner.files import FACTS_VARIABLE, RESULT, replacing
from kaggle_runner.kernel.command import CommandEnd, run_command
from kaggle_runner.kernel.packages import NEEDS, install_missing
from kaggle_runner.kernel.result import Session, describe_session, find_journals, option, study_of
from kaggle_runner.machine.deadline import STARTED_VARIABLE, find_deadline
from kaggle_runner.machine.environment import Environment, detect, root_of
from kaggle_runner.machine.faults import fault_of_machine
from kaggle_runner.machine.internet import require_internet, servers_of
from kaggle_runner.machine.keys import VARIABLES, find_key, secret_values
from kaggle_runner.study.journal import JOURNAL

TRAINING = ("agent", "sweep", "train", "export", "try")
"""The commands that need a model on a kernel."""
TAKEN = -1
OVERTIME_S = 600.0
"""After its deadline a command is ended by us: it should have ended by itself, and its files must still be kept."""


def run(arguments: Sequence[str], settings: Mapping[str, str], files: Mapping[str, str]) -> int:
    """Run a command of this package as a kernel's whole work; return the status to exit with.

    Settings the environment already has are left as they are. `files` are written beside the package, and an argument
    that names one of them becomes its path.
    """
    started = float(os.environ.get(STARTED_VARIABLE, time.time()))
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    root = root_of(os.environ)
    environment = detect(os.environ, root)
    on_host = environment.host in ("kaggle", "colab")
    session = Session(arguments=list(arguments), environment=environment, started=started,
                      working=environment.writable_directory if on_host else Path.cwd())
    held = _hold(session.working) if on_host else None
    if held == TAKEN:
        _say(f"error: a launcher that is still running has {session.working}, and its {RESULT} is left alone; wait "
             f"for its end or end it, and start this one again")
        return 0 if environment.host == "kaggle" else 1
    try:
        return _work(session, files, root)
    finally:
        if held is not None:
            os.close(held)


def _work(session: Session, files: Mapping[str, str], root: Path) -> int:
    """Do a session's work and write its verdict; return the status to exit with."""
    arguments, environment = session.arguments, session.environment
    on_host = environment.host in ("kaggle", "colab")
    _say(f"kaggle_runner {kaggle_runner.__version__} on {environment.host} ({environment.reason}): "
         f"{' '.join(arguments)}")
    for problem in environment.problems if on_host else ():
        if "--cpu" not in arguments or problem not in environment.gpu_problems:
            _say(f"warning: {problem}")
    inputs = root / "kaggle" / "input"
    try:
        session.working.mkdir(parents=True, exist_ok=True)
        if on_host:
            with session.phase("check"):
                require_machine(session.arguments, environment, os.environ)
            with session.phase("install"):
                session.packages = install_missing(NEEDS, inputs, os.environ, _say)
        with session.phase("continue"):
            if study := study_of(arguments):
                needed = environment.host == "kaggle" and arguments[0] in ("export", "try")
                continue_study(inputs, session.working / study, _say, needed=needed)
        with session.phase("command"), tempfile.TemporaryDirectory(prefix="kaggle_runner-") as directory:
            outcome, facts = _run(session, files, Path(directory), root)
        result = describe_session(session, outcome, facts)
    except (KaggleRunnerError, OSError) as error:
        reason = str(error) if isinstance(error, KaggleRunnerError) else fault_of_machine(error) or str(error)
        _say(f"error: {reason}")
        status = error.exit_status if isinstance(error, KaggleRunnerError) else 1
        result = describe_session(session, CommandEnd(exit_status=status, reason=reason), {})
    if on_host:
        path = session.working / RESULT
        place = f"  ({path})"
        try:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(result, indent=2) + "\n")
        except OSError as error:
            old = ", and the one there is of an earlier start" if path.is_file() else ""
            _say(f"error: cannot write {path}: {error.strerror}; the session has no verdict but the next line{old}")
            place = ""
        _say(f"{result['verdict']}{': ' if result['reason'] else ''}{result['reason']}{place}")
    return 0 if environment.host == "kaggle" else result["exit_status"]


def _hold(working: Path) -> int | None:
    """Make a session's folder and hold it until what is returned is closed; `TAKEN` where another launcher has it.

    None where it cannot be held: there is no such folder, or its file system knows no locks.
    """
    held = None
    try:
        working.mkdir(parents=True, exist_ok=True)
        held = os.open(working, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return held
    except OSError as error:
        if held is not None:
            os.close(held)
        return TAKEN if isinstance(error, BlockingIOError) else None


def require_machine(arguments: Sequence[str], environment: Environment, environ: Mapping[str, str]) -> None:
    """See in a session's first minute that it can do its work: a GPU, if a CPU was not asked for, and the internet.

    Raises:
        NoGpu: there is none that torch can use.
        NoInternet: what the command needs cannot be reached.
    """
    if not arguments or arguments[0] not in TRAINING:
        return
    environment.for_training(cpu_only="--cpu" in arguments)
    if servers := servers_of(arguments[0], environ):
        try:
            require_internet(servers, environment.host)
        except NoInternet:
            raise
        except HostError as error:  # a server is silent; the command asks again for those that it cannot do without
            _say(f"warning: {error}")


def continue_study(inputs: Path, study: Path, tell: Callable[[str], None], *, needed: bool = False) -> None:
    """Copy the study of an earlier session, mounted as an input, to where this session's will be, and tell it.

    It is the one of the same name; of several the one with the longest journal. Does nothing where there is a study
    already.

    Raises:
        StudyError: none of that name is mounted, and it is `needed`.
    """
    if (study / JOURNAL).exists():
        return
    mounted = find_journals(inputs, depth=7)
    found = [journal for journal in mounted if journal.parent.name == study.name]
    names = ", ".join(sorted({journal.parent.name for journal in mounted}))
    if needed and not found:
        only, way_out = (f", only {names}", "write one of these names, or ") if names else ("", "")
        raise StudyError(f"no study {study.name} is mounted under {inputs}{only}: {way_out}name the kernel that "
                         f"trained it, such as --kernel me/my-training, and push again")
    if not found:
        if names:
            tell(f"{study.name} begins anew: what is mounted has other names, {names}")
        return
    source = max(found, key=lambda path: (path.stat().st_size, str(path))).parent
    for path in sorted(source.rglob("*")):
        target = study / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)  # not its mode: inputs are read-only
    tell(f"continue the study of {source}")


def _run(session: Session, files: Mapping[str, str], directory: Path, root: Path) -> tuple[CommandEnd, dict[str, Any]]:
    """Run the command; return how it ended, and what it said of that itself."""
    on_host = session.environment.host in ("kaggle", "colab")
    facts = directory / "facts.json"
    environ = {**os.environ, **(_keys(root) if on_host else {}), "PYTHONUNBUFFERED": "1", FACTS_VARIABLE: str(facts),
               STARTED_VARIABLE: f"{session.started:.3f}"}
    outcome = run_command(_with_files(session.arguments, files, directory), session.working, environ,
                          secret_values(environ, root), stop_at=_overtime(session, environ) if on_host else None)
    return outcome, _read_json(facts)


def _overtime(session: Session, environ: Mapping[str, str]) -> float | None:
    """Return the Unix time at which a command that is still there must go."""
    try:
        deadline = find_deadline(option(session.arguments, "--deadline") or None, session.environment, environ)
    except KaggleRunnerError:  # the command says it
        return None
    return None if deadline.at is None else deadline.at + OVERTIME_S


def _with_files(arguments: Sequence[str], files: Mapping[str, str], directory: Path) -> list[str]:
    """Write the files, and put their paths where the arguments name them."""
    for name, text in files.items():
        (directory / Path(name).name).write_text(text, encoding="utf-8")
    return [str(directory / Path(argument).name) if argument in files else argument for argument in arguments]


def _keys(root: Path) -> dict[str, str]:
    """Find the keys that the command's own libraries read from the environment.

    Colab answers only inside its notebook's kernel, where this process is and the command is not. What is missing or
    malformed is left to the command to say.
    """
    found = {}
    for service in ("wandb", "huggingface"):
        try:
            key = find_key(service, os.environ, root)
        except SecretError:
            continue
        if key:
            found[VARIABLES[service][0]] = key.value
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
