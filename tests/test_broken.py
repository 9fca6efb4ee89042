"""Which package of an image is broken: stand-ins on the path that break as they are imported, in real processes."""

import importlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.errors import MachineFault
from kaggle_runner.events import Prepare
from kaggle_runner.kernel.command import CommandEnd, run_command
from kaggle_runner.machine.broken import HIDDEN_VARIABLE, find_broken, find_crash
from kaggle_runner.run.supervisor import Supervisor
from kaggle_runner.run.worker_process import WorkerSettings
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Trial

REPOSITORY = Path(__file__).parent.parent
SYMBOL = "raise ImportError('lib.so: undefined symbol: _ZN3c10')"
STAND_INS = ("peft", "torchao", "torchvision", "hqq", "regex", "yaml")
REQUIRES = "from transformers.utils.versions import require_version_core\nrequire_version_core({!r})"
WRAPPED = "try:\n    import torchvision\nexcept RuntimeError as error:\n    raise ValueError('look') from error"


def lay(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")


def anew(package):
    """What has pip install a package again, and nothing else: not what an image was built with beside it."""
    return f"--force-reinstall --no-deps {package}=={importlib.metadata.version(package).split('+')[0]}"


@pytest.mark.parametrize(("files", "name", "why", "way_out"), [
    ({"torchao.py": SYMBOL}, "torchao", "cannot be imported (ImportError: lib.so: undefined symbol: _ZN3c10)", ""),
    ({"torchao.py": "import hqq", "hqq.py": "raise OSError('libcudart.so.12: cannot open')"}, "hqq",
     "cannot be imported (OSError: libcudart.so.12: cannot open)", ""),
    ({"torchao.py": WRAPPED, "torchvision.py": "raise RuntimeError('operator torchvision::nms does not exist')"},
     "torchvision", "cannot be imported (RuntimeError: operator torchvision::nms does not exist)", ""),
    ({"torchao.py": "import hqq", "hqq.py": "import no_such_thing"}, "hqq",
     "cannot be imported, because no_such_thing is not installed", ""),
    ({"torchao.py": "import hqq", "hqq.py": "def broken(:"}, "hqq", "cannot be imported (SyntaxError: ", ""),
    ({"torchao.py": "import hqq", "hqq.py": "raise SystemExit('needs CUDA')"}, "hqq",
     "cannot be imported (SystemExit: needs CUDA)", ""),
    ({"torchao.py": "import hqq", "hqq.abi3.so": "no library"}, "hqq", "cannot be imported (ImportError: ", ""),
    ({"torchao.py": "", "peft/__init__.py": "import torchao, regex", "regex.py": SYMBOL}, "regex",
     "cannot be imported (ImportError: lib.so: ", anew("regex")),
    ({"peft/__init__.py": "import yaml", "yaml.py": SYMBOL}, "yaml", "cannot be imported (",
     anew("PyYAML")),
    ({"peft/__init__.py": "from os import Foo"}, "peft", "cannot be imported (ImportError: cannot import name 'Foo'",
     anew("peft")),
    ({"peft/__init__.py": "import no_such_thing"}, "peft", "cannot be imported, because no_such_thing is not installed",
     "no_such_thing"),
    ({"peft/__init__.py": "raise ModuleNotFoundError(\"No module named 'peft'\", name='peft')"}, "peft",
     "is not installed", "'kaggle_runner[local]'"),
    ({"peft/__init__.py": "import regex._regex_core", "regex/__init__.py": ""}, "regex",
     "cannot be imported (ModuleNotFoundError: No module named 'regex._regex_core')", anew("regex")),
    ({"peft/__init__.py": "import regex.of_another_version", "regex/__init__.py": ""}, "peft",
     "cannot be imported (ModuleNotFoundError: No module named 'regex.of_another_version')", anew("peft")),
    ({"peft/__init__.py": "import peft.of_another_version"}, "peft",
     "cannot be imported (ModuleNotFoundError: No module named 'peft.of_another_version')", anew("peft")),
    ({"peft/__init__.py": REQUIRES.format("jinja2>=3.0,<=99.0"),
      "jinja2-2.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: jinja2\nVersion: 2.0"}, "peft",
     "cannot be imported (ImportError: jinja2>=3.0,<=99.0 is required for ", "'jinja2>=3.0,<=99.0'"),
    ({"peft/__init__.py": REQUIRES.format("no-such.thing>=1.0")}, "peft",
     "cannot be imported (PackageNotFoundError: ", "'no-such.thing>=1.0'"),
    ({"peft/__init__.py": "raise ImportError('this requires Python>=3.12, KERAS=torch and foo[bar]>=1.2,<2')"}, "peft",
     "cannot be imported (ImportError: this requires ", "'foo[bar]>=1.2,<2'"),
    ({"peft/__init__.py": "raise ImportError('this requires a GPU, and found torch==2.0.')"}, "peft",
     "cannot be imported (ImportError: this requires a GPU, and found torch==2.0.)", anew("peft")),
])
def test_the_package_whose_own_import_failed_is_named_and_only_one_that_is_needed_has_a_way_out(
        tmp_path, monkeypatch, files, name, why, way_out):
    lay(tmp_path, {"peft/__init__.py": "import torchao"} | files)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [module for module in sys.modules if module.split(".")[0] in STAND_INS]:
        monkeypatch.delitem(sys.modules, module)
    try:
        importlib.import_module("peft")
    except (Exception, SystemExit) as error:
        found = find_broken(error)
    assert (found.name, found.why.startswith(f"{name} {why}"), found.is_needed) == (name, True, bool(way_out)), found
    if way_out:
        assert found.text == f"{found.why}; run: pip install {way_out}"
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
        assert found.text == f"{found.why}; run: pip install {way_out}, or push with --image of another image"
    else:
        assert (found.as_hidden.startswith(name), found.as_hidden.endswith(", and nothing uses it")) == (True, True)
        assert ";" not in found.as_hidden, "by which several are told apart"


def test_the_code_of_a_model_is_no_package(tmp_path, monkeypatch):
    lay(tmp_path, {"transformers_modules/own/modeling.py": "from os import Foo"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="cannot import name 'Foo'") as raised:
        importlib.import_module("transformers_modules.own.modeling")
    assert find_broken(raised.value) is None


@pytest.mark.parametrize("error", [ValueError("of a trial"), ModuleNotFoundError("x", name="kaggle_runner.gone"),
                                   OSError(28, "No space left on device")])
def test_other_errors_are_no_packages(error):
    assert find_broken(error) is None


def test_a_worker_starts_again_without_what_it_does_not_need_and_tells_what_it_does(tmp_path):
    """The request that it had is carried out by the process that it becomes, under the same number."""
    lay(tmp_path, {"torch/__init__.py": "try:\n    import hqq\nexcept ModuleNotFoundError:\n    import no_such_thing",
                   "hqq/__init__.py": SYMBOL})
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}", "KAGGLE_RUNNER_CACHE": str(tmp_path)}
    environ[HIDDEN_VARIABLE] = "torchvision, of somebody's own making"
    worker = subprocess.run([sys.executable, "-m", "kaggle_runner.run.worker"], env=environ, capture_output=True,
                            text=True, timeout=250, input=Prepare(config={}).to_json() + "\n")
    hidden = "hqq cannot be imported (ImportError: lib.so: undefined symbol: _ZN3c10), and nothing uses it"
    assert [json.loads(line) for line in worker.stdout.splitlines()] == [
        {"event": "note", "text": f"{hidden}: the worker starts again without it"},
        {"event": "failed", "failure": "machine", "step": None,
         "message": "torch cannot be imported, because no_such_thing is not installed; run: pip install no_such_thing"}]
    assert "undefined symbol" in worker.stderr, "the whole story is in its log"


def test_what_nothing_needs_falls_with_what_is_hidden(tmp_path):
    """As scikit-learn with a broken SciPy: no library asks for either, one of them merely finds both."""
    lay(tmp_path, {"torch/__init__.py": "import importlib.util\nif importlib.util.find_spec('eetq'):\n    import eetq\n"
                                        "import no_such_thing",
                   "eetq/__init__.py": "import hqq", "hqq/__init__.py": SYMBOL})
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}", "KAGGLE_RUNNER_CACHE": str(tmp_path)}
    worker = subprocess.run([sys.executable, "-m", "kaggle_runner.run.worker"], env=environ, capture_output=True,
                            text=True, timeout=250, input=Prepare(config={}).to_json() + "\n")
    broken = "hqq cannot be imported (ImportError: lib.so: undefined symbol: _ZN3c10)"
    again = ", and nothing uses it: the worker starts again without it"
    assert [json.loads(line).get("text") for line in worker.stdout.splitlines()] == [
        f"{broken}{again}", f"eetq cannot be imported, because {broken}{again}", None]


def test_a_command_starts_again_without_what_nothing_needs(tmp_path):
    lay(tmp_path, {"wandb/__init__.py": "try:\n    import hqq\nexcept ModuleNotFoundError:\n    raise OSError('no')",
                   "hqq/__init__.py": SYMBOL})
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}", "WANDB_API_KEY": "a" * 40}
    ran = subprocess.run([sys.executable, "-m", "kaggle_runner", "report", "me/project/abcd1234"], cwd=tmp_path,
                         env=environ, capture_output=True, text=True, timeout=250)
    assert ran.stderr.splitlines() == [
        "warning: hqq cannot be imported (ImportError: lib.so: undefined symbol: _ZN3c10), and nothing uses it: the "
        "command starts again without it",
        f"error: wandb cannot be imported (OSError: no); run: pip install {anew('wandb')}"]


CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"


def crash_of(folder, code="import peft", status=-signal.SIGSEGV, environ=None):
    """Run code in a process of its own that finds the stand-ins of a folder, and take what the fault handler said."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250,
                         env={**os.environ, "PYTHONPATH": str(folder), "PYTHONFAULTHANDLER": "1"})
    assert ran.returncode == status, ran.stderr
    return find_crash(ran.stderr, ran.returncode, environ or {})


@pytest.mark.parametrize(("files", "name", "why", "is_needed"), [
    ({"torchao.py": CRASH}, "torchao", "SIGSEGV", False),
    ({"torchao.py": "import hqq", "hqq.py": "import ctypes\nctypes.string_at(0)"}, "hqq", "SIGSEGV", False),
    ({"torchao.py": "import hqq", "hqq/__init__.py": "from hqq import sub", "hqq/sub.py": "import os\nos.abort()"},
     "hqq", "SIGABRT", False),
    ({"torchao.py": "import regex", "regex.py": CRASH.replace("SEGV", "ILL")}, "regex", "SIGILL", True),
    ({"peft.py": CRASH.replace("SEGV", "FPE")}, "peft", "SIGFPE", True),
])
def test_a_package_that_crashes_the_process_as_it_is_imported_is_named(tmp_path, monkeypatch, files, name, why,
                                                                       is_needed):
    lay(tmp_path, {"peft.py": "import torchao"} | files)
    monkeypatch.syspath_prepend(tmp_path)
    found = crash_of(tmp_path, status=-signal.Signals[why])
    assert (found.name, found.is_needed) == (name, is_needed)
    assert found.why == f"{name} cannot be imported (it crashes: {why})"
    hidden = found.hidden_in({})
    assert crash_of(tmp_path, status=-signal.Signals[why], environ=hidden).is_needed, "it was hidden, and came back"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_module_of_another_build_that_crashes_in_its_first_line_of_c_is_named(tmp_path, monkeypatch):
    """It has no line of its own; who imports it may be what everything needs."""
    (tmp_path / "hqq.c").write_text("void *PyInit_hqq(void) { *(volatile int *)0 = 1; return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "hqq.abi3.so", tmp_path / "hqq.c"], check=True)
    lay(tmp_path, {"peft.py": "try:\n    from hqq import Quantized\nexcept ImportError:\n    pass"})
    monkeypatch.syspath_prepend(tmp_path)
    found = crash_of(tmp_path)
    assert (found.name, found.is_needed) == ("hqq", False)


@pytest.mark.parametrize("code", ["import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
                                  "import torchao\ntorchao.train()", "import os\nos._exit(139)"])
def test_a_crash_that_is_not_at_an_import_of_others_is_no_package(tmp_path, monkeypatch, code):
    lay(tmp_path, {"torchao.py": "def train():\n    import os, signal\n    os.kill(os.getpid(), signal.SIGSEGV)"})
    monkeypatch.syspath_prepend(tmp_path)
    assert crash_of(tmp_path, code, 139 if "_exit" in code else -signal.SIGSEGV) is None


def test_folders_that_lie_in_each_other_give_the_name_of_the_package(tmp_path, monkeypatch):
    """As site-packages lies in the folder of Python's own modules."""
    lay(tmp_path, {"site-packages/hqq.py": "def broken(:", "site-packages/importer_of_hqq.py": "import hqq"})
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path, str(tmp_path / "site-packages")])
    with pytest.raises(SyntaxError, match="invalid syntax") as raised:
        importlib.import_module("importer_of_hqq")
    assert find_broken(raised.value).name == "hqq"


@pytest.mark.parametrize(("files", "why"), [
    ({"torch/__init__.py": "try:\n    import hqq\nexcept ModuleNotFoundError:\n    import no_such_thing",
      "hqq.py": CRASH},
     "torch cannot be imported, because no_such_thing is not installed; run: pip install no_such_thing"),
    ({"torch/__init__.py": CRASH},
     f"torch cannot be imported (it crashes: SIGSEGV); run: pip install {anew('torch')}"),
])
def test_a_worker_that_crashes_at_an_import_is_replaced_or_its_session_ends_with_the_name(tmp_path, monkeypatch, files,
                                                                                          why):
    lay(tmp_path / "packages", files)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'packages'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv(HIDDEN_VARIABLE, "{}")
    monkeypatch.setitem(sys.modules, "hqq", None)
    notes = []
    with Study.open_for_writing(tmp_path / "study", name="a", sweep={"method": "bayes"}, metric="eval/loss",
                                goal="minimize", seed=0) as study, Supervisor(
            study=study, notify=notes.append,
            settings=WorkerSettings(log=tmp_path / "worker.log", cache_directory=tmp_path, threads=1)) as supervisor:
        trial = Trial(id="0000", number=0, params={"trainer": "charlm"})
        with pytest.raises(MachineFault, match=re.escape(why)):
            supervisor.run(trial)
    hides = "hqq.py" in files
    assert [note.text for note in notes] == [
        "hqq cannot be imported (it crashes: SIGSEGV), and nothing uses it: the worker starts again without it"][:hides]
    assert ("hqq" in os.environ[HIDDEN_VARIABLE]) == hides


def test_a_kernels_command_that_crashes_at_an_import_runs_again_or_says_why(tmp_path, monkeypatch, capfd):
    """What only the report needs is hidden too: its session's work is worth as much."""
    lay(tmp_path, {"matplotlib/__init__.py": "import PIL", "PIL.py": CRASH, "wandb.py": CRASH,
                   "kaggle_runner/__init__.py": "", "kaggle_runner/__main__.py":
                   "import os, sys, json\nhidden = json.loads(os.environ.get('KAGGLE_RUNNER_HIDDEN', '{}'))\n"
                   "sys.modules.update(dict.fromkeys(hidden))\n"
                   "try:\n    __import__(sys.argv[1])\nexcept ImportError as error:\n    print(error)\n"})
    monkeypatch.syspath_prepend(tmp_path)
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    assert run_command(["matplotlib"], tmp_path, environ) == CommandEnd(exit_status=0)
    said = capfd.readouterr()
    assert said.out == "import of PIL halted; None in sys.modules\n"
    assert re.search(r"^warning: PIL .*cannot be imported \(it crashes: SIGSEGV\), and only the report uses it: the "
                     r"command starts again without it$", said.err, re.MULTILINE), said.err
    assert run_command(["wandb"], tmp_path, environ) == CommandEnd(
        exit_status=139,
        reason=f"wandb cannot be imported (it crashes: SIGSEGV); run: pip install {anew('wandb')}")
