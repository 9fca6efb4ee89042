"""What trials must fetch: known before a push without the internet, and asked for by hand where it is off."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kaggle_runner.config import CharLMConfig
from kaggle_runner.config_charlm import TEXT8_HOST
from kaggle_runner.errors import KernelError
from kaggle_runner.kaggle.order import KernelOrder, check_offline, make_launch, make_spec
from kaggle_runner.machine import internet
from kaggle_runner.machine.internet import INTERNET_VARIABLE
from kaggle_runner.mounts import HUB, fetched
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import read_sweep
from tests.launcher_reader import read_launcher

REPOSITORY = Path(__file__).parent.parent
MODEL, ROWS = "/kaggle/input/models/me/base/transformers/small/1", "/kaggle/input/datasets/me/rows/rows.jsonl"
MOUNTED = {"model": MODEL, "dataset": ROWS, "load_in_4bit": "false"}
TEXT8 = {"trainer": "charlm", "dataset": "text8", "max_tokens": 100000}


def write(folder, **values):
    """Write a sweep file of these values; a list is searched."""
    lines = "".join(f"  {name}: {{{'values' if isinstance(value, list) else 'value'}: {value}}}\n"
                    for name, value in values.items())
    file = folder / "mine.yaml"
    metric = "eval/bits_per_byte" if isinstance(values.get("model"), list) else "eval/loss"
    file.write_text(f"method: random\nrun_cap: 2\nmetric: {{name: {metric}, goal: minimize}}\nparameters:\n{lines}"
                    f"  learning_rate: {{values: [1.0e-3, 2.0e-3]}}\n")
    return file


def study_of(folder, **params):
    with Study.open_for_writing(folder, name="a", sweep={}, metric="eval/loss", goal="minimize", seed=0) as study:
        study.record_start(Trial(id="0000", number=0, params=params), {})
        study.record_end(TrialResult(id="0000", status=Status.COMPLETE, metric=1.0, reason=""))
    return str(folder)


def offline(sweep, **more):
    given = {"models": ("me/base/Transformers/small/1",), "datasets": ("me/rows",), **more}
    return KernelOrder(sweep=str(sweep), owner="me", internet=False, **given)


def made(order):
    """Return what is told as its kernel is made, where no Kaggle can be asked."""
    told = []
    make_spec(order, {"PATH": ""}, told.append, asks_kaggle=False)
    return [line for line in told if "keys are stored" not in line]


@pytest.mark.parametrize(("values", "found"), [
    ({}, {}), ({"model": "demo", "dataset": "python-docs"}, {}), (MOUNTED, {}),
    ({"model": "me/base", "dataset": "rows"}, {"me/base": "the hub", "rows": "the hub"}),
    ({**MOUNTED, "eval_dataset": "me/held-out"}, {"me/held-out": "the hub"}),
    ({"model": ["me/one", "me/two"]}, {"me/one": "the hub", "me/two": "the hub"}),
    ({"model": "./my-model", "dataset": "~/rows", "eval_dataset": "../held"}, {}),
    ({"model": "my-model", "dataset": "no-rows.jsonl", "eval_dataset": "kaggle/input/rows/one"}, {}),
    ({"dataset": "here"}, {}), (TEXT8, {"text8": "mattmahoney.net"}),
    ({"trainer": "charlm", "dataset": "book.txt"}, {}), ({"dataset": "text8"}, {"text8": "the hub"})])
def test_what_is_neither_here_nor_a_path_is_fetched(tmp_path, monkeypatch, values, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert read_sweep(write(tmp_path, **values)).fetched == found
    if not any(isinstance(value, list) for value in values.values()):
        assert fetched(values) == found, "plain values, as a study's baseline has them"
    assert fetched(CharLMConfig().as_dict()) == {}


def test_a_worker_may_ask_the_hub_where_only_the_held_out_rows_are_there(tmp_path):
    own = {"model": "demo", "dataset": "python-docs"}
    assert read_sweep(write(tmp_path, **own)).needs_no_hub
    assert not read_sweep(write(tmp_path, **own, eval_dataset="me/held-out")).needs_no_hub


@pytest.mark.parametrize(("values", "what"), [
    ({**MOUNTED, "eval_dataset": "me/held-out"}, "me/held-out from the hub"),
    (TEXT8, r"text8 from mattmahoney\.net"),
    ({**MOUNTED, "model": "me/base", "dataset": "me/rows"}, "me/base, me/rows from the hub")])
def test_what_a_session_without_the_internet_would_fetch_is_refused_before_the_push(tmp_path, values, what):
    order = offline(write(tmp_path, **values))
    for refused in (made, lambda order: check_offline(order, print)):
        with pytest.raises(KernelError, match=f"the kernel cannot fetch {what}; mount a copy of Kaggle's or of yours"):
            refused(order)
    assert made(replace(order, internet=True)) == []
    assert made(offline(write(tmp_path, **MOUNTED))) == []


def test_a_character_model_of_text8_is_not_tried_without_the_internet(tmp_path):
    order = offline(study_of(tmp_path / "s", **TEXT8), task="try", kernels=("me/trained",))
    with pytest.raises(KernelError, match=r"cannot fetch text8 from mattmahoney\.net, whose characters the model of"):
        made(order)
    order = offline(study_of(tmp_path / "t", model=MODEL, dataset="me/rows", load_in_4bit=False), task="try")
    (told,) = made(order)
    assert told.startswith("warning: without the internet the kernel cannot fetch me/rows from the hub, so nothing is "
                           "asked or measured on the rows of ")


@pytest.mark.parametrize("task", ["export", "try"])
def test_the_gated_base_of_a_studys_winner_is_warned_of(tmp_path, task):
    order = replace(offline(study_of(tmp_path / "s", model="meta-llama/Llama-3.2-1B"), task=task), internet=True)
    (told,) = made(order)
    assert told.startswith("warning: meta-llama/Llama-3.2-1B is probably gated, and no Hugging Face key is stored")
    assert told.endswith("secret put huggingface"), "what it was trained on cannot be another path now"
    assert made(replace(order, sweep=study_of(tmp_path / "t", model="me/base"))) == []


@pytest.mark.parametrize(("more", "why"), [
    ({"models": ()}, f"the model {MODEL}, because --model mounts nothing; give --model me/base/transformers/small/1"),
    ({"models": ("me/base/transformers/small/2",)}, "only me/base/transformers/small/2; give --model me/base/trans"),
    ({"datasets": ("me/wheels", "me/other")}, f"the dataset {ROWS}, because --dataset mounts only me/wheels, me/other; "
                                              f"give --dataset me/rows$"),
    ({"datasets": ("me/rows/3",)}, "")])
def test_a_mount_of_another_model_version_or_dataset_is_refused(tmp_path, more, why):
    order = replace(offline(write(tmp_path, **MOUNTED), **more), internet=True)
    if why:
        with pytest.raises(KernelError, match=why):
            made(order)
    else:
        assert made(order) == []


def test_a_path_in_capitals_is_told_as_kaggle_writes_it(tmp_path):
    order = offline(write(tmp_path, **{**MOUNTED, "dataset": ROWS.replace("me/rows", "Me/Rows")}))
    with pytest.raises(KernelError, match=r"/Me/Rows/rows\.jsonl, because Kaggle mounts it in small letters; write "
                                          "me/rows in it$"):
        made(order)


def run(folder, *arguments, **environ):
    done = subprocess.run([sys.executable, "-m", "kaggle_runner", *map(str, arguments)], capture_output=True, text=True,
                          cwd=folder, timeout=500, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY),
                                                        "HOME": str(folder), "OMP_NUM_THREADS": "1", **environ})
    assert "Traceback" not in done.stderr
    return done


def test_a_launcher_is_made_for_where_the_internet_is_off(tmp_path):
    write(tmp_path, **MOUNTED)
    made = run(tmp_path, "kernel", "launcher", "mine.yaml", "--no-internet")
    assert made.returncode == 0
    assert made.stdout.splitlines()[-1] == "next     where its inputs are: python kernel_launcher.py"
    launch, _ = read_launcher((tmp_path / "kernel_launcher.py").read_text())
    assert launch.settings == {INTERNET_VARIABLE: "off"}
    assert make_launch(KernelOrder(sweep=str(tmp_path / "mine.yaml")), {}, print)[0].settings == {}
    (tmp_path / "kernel_launcher.py").unlink()
    write(tmp_path, **MOUNTED, eval_dataset="me/held-out")
    for sweep, status, why in (("mine.yaml", 12, "cannot fetch me/held-out from the hub"),
                               ("abcd1234", 1, "agents of a W&B sweep need the internet; leave out --no-internet")):
        done = run(tmp_path, "kernel", "launcher", sweep, "--no-internet")
        assert (done.returncode, why in done.stderr) == (status, True), done.stderr
    assert not (tmp_path / "kernel_launcher.py").exists()


VARY = """\
vary: learning_rate
values: [1.0e-4, 2.0e-4]
seeds: [1, 2]
baseline: {model: me/base, dataset: python-docs, load_in_4bit: false, max_steps: 2}
"""
PLAN = """\
baseline: {model: me/base, dataset: python-docs, load_in_4bit: false, max_steps: 2}
seeds: [1, 2]
studies:
  - {vary: learning_rate, values: [1.0e-4, 2.0e-4]}
"""


@pytest.mark.parametrize(("command", "text", "what"), [
    ("vary", VARY, "https://huggingface.co for me/base"), ("tune", PLAN, "https://huggingface.co for me/base"),
    ("sweep", {"dataset": "python-docs", "eval_dataset": "me/held-out"}, "https://huggingface.co for me/held-out"),
    ("sweep", TEXT8, "https://mattmahoney.net/dc/text8.zip for text8")])
def test_by_hand_on_kaggle_what_must_be_fetched_is_asked_for_at_once(tmp_path, command, text, what):
    file = tmp_path / "mine.yaml"
    file.write_text(text) if isinstance(text, str) else write(tmp_path, **text)
    done = run(tmp_path, command, "mine.yaml", "--cpu", KAGGLE_RUNNER_HOST="kaggle", https_proxy="http://127.0.0.1:9")
    assert done.returncode == 22, done.stderr
    assert f"error: internet is off in this session: no answer from {what} (" in done.stderr
    assert not list(tmp_path.rglob("trials.jsonl"))


def test_by_hand_a_text_of_an_earlier_session_is_not_asked_for_again(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(internet, "require_internet", lambda servers, host, what: asked.append((list(servers), what)))
    (tmp_path / "corpora").mkdir()
    internet.require_fetched({"text8": TEXT8_HOST}, "kaggle", tmp_path, {})
    (tmp_path / "corpora" / "text8").touch()
    internet.require_fetched({"text8": TEXT8_HOST}, "kaggle", tmp_path, {})
    internet.require_fetched({"text8": HUB}, "kaggle", tmp_path, {})
    internet.require_fetched({"text8": TEXT8_HOST}, "local", tmp_path / "none", {})
    assert asked == [([TEXT8_HOST], "text8"), ([], ""), ([HUB], "text8")]


def test_by_hand_on_kaggle_a_folder_that_is_not_there_is_told_as_one(tmp_path):
    write(tmp_path, model=MODEL, dataset="python-docs", load_in_4bit="false")
    done = run(tmp_path, "sweep", "mine.yaml", "--cpu", "--study", "s", KAGGLE_RUNNER_HOST="kaggle",
               https_proxy="http://127.0.0.1:9")
    assert (done.returncode, f"error: the model folder {MODEL} does not exist" in done.stderr) == (1, True), done.stderr
