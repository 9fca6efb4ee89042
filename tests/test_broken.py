"""Which package of an image is broken: stand-ins on the path that break as they are imported, in real processes."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.events import Prepare
from kaggle_runner.machine.broken import HIDDEN_VARIABLE, find_broken

REPOSITORY = Path(__file__).parent.parent
SYMBOL = "raise ImportError('lib.so: undefined symbol: _ZN3c10')"
STAND_INS = ("peft", "torchao", "torchvision", "hqq", "regex", "yaml")
WRAPPED = "try:\n    import torchvision\nexcept RuntimeError as error:\n    raise ValueError('look') from error"


def lay(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")


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
     "cannot be imported (ImportError: lib.so: ", "--force-reinstall regex"),
    ({"peft/__init__.py": "import yaml", "yaml.py": SYMBOL}, "yaml", "cannot be imported (",
     "--force-reinstall PyYAML"),
    ({"peft/__init__.py": "from os import Foo"}, "peft", "cannot be imported (ImportError: cannot import name 'Foo'",
     "--force-reinstall peft"),
    ({"peft/__init__.py": "import no_such_thing"}, "peft", "cannot be imported, because no_such_thing is not installed",
     "no_such_thing"),
    ({"peft/__init__.py": "raise ModuleNotFoundError(\"No module named 'peft'\", name='peft')"}, "peft",
     "is not installed", "'kaggle_runner[local]'"),
    ({"peft/__init__.py": "import peft.of_another_version"}, "peft",
     "cannot be imported (ModuleNotFoundError: No module named 'peft.of_another_version')", "--force-reinstall peft"),
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
    else:
        assert (found.as_hidden.startswith(name), found.as_hidden.endswith(", and nothing uses it")) == (True, True)
        assert ";" not in found.as_hidden, "by which several are told apart"


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
                            text=True, timeout=100, input=Prepare(config={}).to_json() + "\n")
    hidden = "hqq cannot be imported (ImportError: lib.so: undefined symbol: _ZN3c10), and nothing uses it"
    assert [json.loads(line) for line in worker.stdout.splitlines()] == [
        {"event": "note", "text": f"{hidden}: the worker starts again without it"},
        {"event": "failed", "failure": "machine", "step": None,
         "message": "torch cannot be imported, because no_such_thing is not installed; run: pip install no_such_thing"}]
    assert "undefined symbol" in worker.stderr, "the whole story is in its log"


def test_a_command_starts_again_without_what_nothing_needs(tmp_path):
    lay(tmp_path, {"wandb/__init__.py": "try:\n    import hqq\nexcept ModuleNotFoundError:\n    raise OSError('no')",
                   "hqq/__init__.py": SYMBOL})
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}", "WANDB_API_KEY": "a" * 40}
    ran = subprocess.run([sys.executable, "-m", "kaggle_runner", "report", "me/project/abcd1234"], cwd=tmp_path,
                         env=environ, capture_output=True, text=True, timeout=100)
    assert ran.stderr.splitlines() == [
        "warning: hqq cannot be imported (ImportError: lib.so: undefined symbol: _ZN3c10), and nothing uses it: the "
        "command starts again without it",
        "error: wandb cannot be imported (OSError: no); run: pip install --force-reinstall wandb"]
