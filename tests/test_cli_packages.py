"""What a command needs at its end is asked for at its start: real commands in an environment that lacks a package."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from kaggle_runner.machine.variables import hint
from kaggle_runner.study.journal import read_study

FILES = {
    "vary.yaml": "vary: dropout\nvalues: [0.1, 0.2]\nseeds: [0, 1, 2]\nbaseline:\n  trainer: charlm\n",
    "plan.yaml": ("name: plan\nseeds: [0, 1, 2]\nbaseline:\n  trainer: charlm\n"
                  "studies:\n  - vary: dropout\n    values: [0.1, 0.2]\n"),
    "sweep.yaml": ("method: random\nmetric: {name: eval/loss, goal: minimize}\nrun_cap: 1\nparameters:\n"
                   "  model: {value: ./nowhere}\n  learning_rate: {values: [1.0e-3]}\n"),
}
NO_BITSANDBYTES = (
    "error: bitsandbytes not installed; load_in_4bit, models stored in 4 bits and optimizers of 8 bits need it: run: "
    "pip install bitsandbytes; a kernel gets it with the internet on, or from a dataset with its wheel")


@pytest.fixture
def run(tmp_path):
    """Run a command where some packages are not installed, as far as imports and find_spec can tell."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)

    def run(*arguments, without, **variables):
        hidden = tmp_path / "hidden"
        hidden.mkdir(exist_ok=True)
        (hidden / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({without!r}))\n")
        environ = {**os.environ, "PYTHONPATH": f"{hidden}{os.pathsep}{Path(__file__).parent.parent}", **variables}
        return subprocess.run([sys.executable, "-m", "kaggle_runner", *arguments], cwd=tmp_path, env=environ,
                              capture_output=True, text=True, timeout=200)
    return run


@pytest.mark.parametrize(("package", "arguments"), [
    ("plotly", ("vary", "vary.yaml")), ("nbclient", ("tune", "plan.yaml")), ("matplotlib", ("report", "studies/none")),
    ("optuna", ("sweep", "sweep.yaml")), ("wandb", ("sweep", "sweep.yaml", "--log", "wandb-offline")),
])
def test_a_package_that_breaks_as_it_is_imported_is_named_before_the_first_trial(run, tmp_path, package, arguments):
    (tmp_path / "hidden" / package).mkdir(parents=True)
    (tmp_path / "hidden" / package / "__init__.py").write_text("raise RuntimeError('made for\\nanother numpy')\n")
    done = run(*arguments, without=[])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (f"error: {package} cannot be imported (RuntimeError: made for); run: pip "
                                            f"install --force-reinstall --no-deps {package}=="
                                            f"{importlib.metadata.version(package)}")
    assert not list(tmp_path.rglob("trials.jsonl"))


def test_a_variable_that_a_package_cannot_read_is_named_and_an_empty_one_is_none(run, tmp_path, monkeypatch):
    """The one without which the package can be imported, of two that have the value; a worker's error has a hint."""
    (tmp_path / "hidden" / "optuna").mkdir(parents=True)
    (tmp_path / "hidden" / "optuna" / "__init__.py").write_text(
        "import os\nint(os.environ.get('HF_EMPTY', 0))\nint(os.environ.get('ANY_TIMEOUT', 0))\n")
    done = run("sweep", "sweep.yaml", without=[], ANY_TIMEOUT="30s", HF_OTHER="30s", HF_EMPTY="")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: optuna cannot be imported (ValueError: invalid literal for int() with base 10: '30s'); ANY_TIMEOUT is "
        "'30s' in the environment: correct or unset it")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "abc")
    monkeypatch.setenv("MY_NOTE", "abc")
    assert hint("the worker ended: ValueError: invalid literal: 'abc'") == (
        "; HF_HUB_DOWNLOAD_TIMEOUT is 'abc' in the environment: correct or unset it")
    assert hint("the worker ended: exit status 1") == ""


@pytest.mark.parametrize("arguments", [("vary", "vary.yaml"), ("tune", "plan.yaml"), ("report", "studies/none")])
def test_what_draws_the_result_is_asked_for_before_the_first_trial(run, tmp_path, arguments):
    done = run(*arguments, without=["nbclient", "matplotlib"])
    assert done.returncode == 1
    assert done.stderr == "error: matplotlib, nbclient not installed; run: pip install 'kaggle_runner[report]'\n"
    assert not list(tmp_path.rglob("trials.jsonl"))


FINE_PLAN = ("seeds: [1, 2, 3]\nbaseline: {model: ./base, dataset: ./rows.jsonl, load_in_4bit: false}\n"
             "studies:\n  - {vary: learning_rate, values: [1.0e-4, 2.0e-4]}\n")


@pytest.mark.parametrize(("later", "without", "said"), [
    ("final: {run_cap: 2, parameters: {learning_rate: {min: 1.0e-5, max: 1.0e-3}}}\n", ["scipy"],
     "error: scipy not installed; run: pip install 'kaggle_runner[local]'"),
    ("  - {vary: optim, values: [adamw_torch, adamw_8bit]}\n", ["bitsandbytes"], NO_BITSANDBYTES),
    ("  - {name: small, vary: weight_decay, values: [0.01, 0.05], settings: {load_in_4bit: true}}\n",
     ["bitsandbytes"], NO_BITSANDBYTES),
    ("final: {run_cap: 2, parameters: {load_in_4bit: {values: [false, true]}}}\n", ["bitsandbytes", "peft"],
     "error: peft, bitsandbytes not installed; run: pip install 'kaggle_runner[local]'"),
])
def test_a_plan_asks_before_its_first_stage_for_what_a_later_one_needs(run, tmp_path, later, without, said):
    (tmp_path / "later.yaml").write_text(f"{FINE_PLAN}{later}")
    done = run("tune", "later.yaml", without=without)
    assert (done.returncode, done.stderr) == (1, f"{said}\n")
    assert not list(tmp_path.rglob("trials.jsonl"))


def test_a_report_says_first_that_its_notebook_will_not_be_run(run):
    done = run("report", "studies/none", without=["pandas"])
    assert done.stderr.splitlines()[0] == ("warning: pandas not installed: the report's notebook will not be run; "
                                           "run: pip install 'kaggle_runner[report]'")


def test_a_sweep_says_first_that_no_page_will_be_written_and_runs(run):
    done = run("sweep", "sweep.yaml", without=["plotly"])
    assert done.stderr.splitlines()[0] == ("warning: plotly not installed: no page will be written; "
                                           "run: pip install 'kaggle_runner[report]'")
    assert "the model folder ./nowhere does not exist" in done.stdout + done.stderr


def test_offline_runs_are_not_promised_without_their_library(run, tmp_path):
    done = run("sweep", "sweep.yaml", "--log", "wandb-offline", without=["wandb"])
    assert done.returncode == 1
    assert done.stderr == "error: wandb not installed; run: pip install 'kaggle_runner[wandb]'\n"
    assert not list(tmp_path.rglob("trials.jsonl"))


def sweep_of(model, rows):
    """Return the text of a sweep of one quick fine-tune."""
    fixed = {"model": model, "dataset": rows, "samples": 32, "max_eval_samples": 8, "max_length": 48, "max_steps": 2,
             "eval_steps": 2, "batch_size": 2, "gradient_accumulation_steps": 2}
    lines = "".join(f"  {key}: {{value: {value}}}\n" for key, value in fixed.items())
    return FILES["sweep.yaml"].replace("  model: {value: ./nowhere}\n", lines)


def test_a_sweep_in_16_bits_trains_without_bitsandbytes_and_one_in_4_says_where_a_kernel_gets_it(
        run, tmp_path, tiny_llama, rows_file):
    text = sweep_of(tiny_llama, rows_file)
    for name, choice in (("16.yaml", "[false]"), ("4.yaml", "[false, true]")):
        (tmp_path / name).write_text(f"{text}  load_in_4bit: {{values: {choice}}}\n")
    done = run("sweep", "16.yaml", "--cpu", "--study", "s", without=["bitsandbytes"])
    assert (done.returncode, read_study(tmp_path / "s").as_dict()["best"] is None) == (0, False), done.stderr
    done = run("sweep", "4.yaml", "--cpu", "--study", "t", without=["bitsandbytes"])
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1, NO_BITSANDBYTES)
    assert not (tmp_path / "t").exists()


@pytest.mark.slow
def test_a_model_whose_files_are_in_4_bits_needs_bitsandbytes_whatever_load_in_4bit_says(
        run, tmp_path, tiny_llama, rows_file):
    """Asked for where memory is predicted, where the base is loaded, and where it is merged with what was trained."""
    folder, settings = tmp_path / "stored", transformers.BitsAndBytesConfig(load_in_4bit=True)
    transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=settings).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    (tmp_path / "stored.yaml").write_text(f"{sweep_of(folder, rows_file)}  load_in_4bit: {{value: false}}\n")
    cache = {"KAGGLE_RUNNER_CACHE": str(tmp_path / "cache")}
    refused = [run("sweep", "stored.yaml", "--cpu", "--study", "none", without=["bitsandbytes"], **cache)]
    done = run("sweep", "stored.yaml", "--cpu", "--study", "s", without=[], **cache)
    assert done.returncode == 0, done.stderr
    refused += [run(*command, without=["bitsandbytes"], **cache) for command in (
        ("sweep", "stored.yaml", "--cpu", "--study", "loaded"), ("try", "s", "--prompt", "x", "--cpu"),
        ("export", "s", "--to", "merged", "--out", "out", "--cpu"))]
    assert [(done.returncode, done.stderr.splitlines()[-1]) for done in refused] == [(1, NO_BITSANDBYTES)] * 4
