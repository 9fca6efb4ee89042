"""What a library of the image does not get along with: the real packages, with the one that breaks them laid beside."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
TRAIN = """
import json, sys
from pathlib import Path
import torch
from kaggle_runner.config import FinetuneConfig
from kaggle_runner.training.control import Control
from kaggle_runner.training.warm_finetune import WarmFinetune

config = FinetuneConfig(model=sys.argv[1], dataset=sys.argv[2], samples=8, max_steps=1, eval_steps=1,
                        max_eval_samples=4, load_in_4bit=sys.argv[3] == "4 bits", optim="adamw_torch")
folder = Path(sys.argv[4])
work = WarmFinetune(lambda event: None, folder, torch.device("cpu"))
control = Control(poll=lambda: None, emit=lambda event: None, directory=folder, checkpoint_steps=None, rung_steps=(),
                  judge=lambda step, value, loss: None)
result = work.train(config, "0000", control)
print(json.dumps([result.status.value, result.notes["hidden_package"], "torchao" in sys.modules]))
"""


def train(image, model, rows, bits, folder):
    environ = {**os.environ, "PYTHONPATH": f"{image}{os.pathsep}{REPOSITORY}", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", TRAIN, str(model), str(rows), bits, str(folder)], env=environ,
                         capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("bits", ["16 bits", "4 bits"])
def test_with_the_torchao_of_the_images_a_trial_trains_and_says_that_it_was_hidden(bits, torchao, tiny_llama, rows_file,
                                                                                   tmp_path):
    status, hidden, _ = train(torchao("0.10.0"), tiny_llama, rows_file, bits, tmp_path)
    assert status == "complete"
    assert hidden.startswith("torchao 0.10.0: peft ")


def test_a_torchao_that_peft_takes_is_left_alone(torchao):
    """It is put on the path when the libraries are there: an empty stand-in has nothing that they could import."""
    code = ("import sys\nfrom importlib.util import find_spec\n"
            "from kaggle_runner.training.libraries import hide_unfit_torchao\nsys.path.insert(0, sys.argv[1])\n"
            "print([hide_unfit_torchao(), find_spec('torchao').origin])")
    image = torchao("99.0")
    ran = subprocess.run([sys.executable, "-c", code, str(image)], capture_output=True, text=True, timeout=200,
                         env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert ran.stdout.splitlines()[-1] == str(["", str(image / "torchao" / "__init__.py")]), ran.stderr[-3000:]


def test_liger_is_asked_for_everything_but_a_loss(tmp_path):
    """A stand-in: Liger's kernels need a GPU to run, its function's name and options do not."""
    package = tmp_path / "liger_kernel" / "transformers"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("def _apply_liger_kernel_to_instance(**options):\n    print(options)\n")
    code = "from kaggle_runner.training.libraries import apply_liger\napply_liger('a model')"
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=200)
    assert ran.stdout.splitlines()[-1] == ("{'model': 'a model', 'cross_entropy': False, "
                                           "'fused_linear_cross_entropy': False}"), ran.stderr[-3000:]


ASLEEP = """
import sys
from importlib.util import find_spec
import torch
from kaggle_runner.run.worker import importing
compile_now = torch.compile
with importing():
    import bitsandbytes.backends.default.ops

    @torch.compile(backend="eager")
    def doubled(x):
        return 2 * x

    fourfold = torch.compile(lambda x: doubled(doubled(x)), backend="eager")
    found = [bool(find_spec(name)) for name in ("scipy", "sklearn", "peft")]
assert torch.compile is compile_now
import scipy.special
print(*found)
print("torch._inductor.compile_fx" in sys.modules)
print(fourfold(torch.tensor([1.0, 2.0])).tolist())
"""


def test_the_compiler_sleeps_until_a_function_that_it_made_is_called_and_libraries_find_no_scipy():
    ended = subprocess.run([sys.executable, "-c", ASLEEP], capture_output=True, text=True, timeout=100)
    assert ended.stdout.splitlines() == ["False False True", "False", "[4.0, 8.0]"], ended.stderr


def test_a_bitsandbytes_that_is_older_than_transformers_takes_is_named_with_the_way_out(tmp_path):
    """An empty stand-in: what counts is the version that its distribution says."""
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes" / "__init__.py").write_text("class nn: pass\n")
    (tmp_path / "bitsandbytes-0.45.0.dist-info").mkdir()
    (tmp_path / "bitsandbytes-0.45.0.dist-info" / "METADATA").write_text("Name: bitsandbytes\nVersion: 0.45.0\n")
    code = ("from kaggle_runner.errors import HostError\n"
            "from kaggle_runner.training.libraries import require_bitsandbytes\n"
            "try:\n    require_bitsandbytes()\nexcept HostError as error:\n    print(error)")

    def said(*path):
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200,
                             env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))})
        assert ran.returncode == 0, ran.stderr[-3000:]
        return ran.stdout

    assert re.fullmatch(r"bitsandbytes 0\.45\.0 is too old: transformers needs 0\.46\.1 or newer; run: pip install -U "
                        r"bitsandbytes\n", said(tmp_path, REPOSITORY))
    assert said(REPOSITORY) == ""
