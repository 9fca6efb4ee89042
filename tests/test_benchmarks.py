"""The benchmarks that train run to their end with tiny settings, and judge what they measured."""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)  # several processes in one test
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(name, *arguments, **environment):
    """Run a benchmark as its docstring says, without a network."""
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={
        **os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "HF_HUB_OFFLINE": "1", **environment})


@pytest.fixture
def throughput(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("throughput")


@pytest.fixture
def measured(throughput):
    """Make a finished run of a stack that took a time for 1,000 tokens."""
    from stacks import Outcome, Run

    def make(stack, seed, seconds, eval_loss):
        return throughput.Measured(
            run=Run(stack=stack, config={"seed": seed}, directory="", cache="", threads=1), load=0.0,
            outcome=Outcome(stack=stack, status="trained", tokens=1000, seconds=seconds, cpu_seconds=seconds),
            eval_loss=eval_loss)

    return make


@pytest.mark.slow
def test_throughput_measures_both_stacks_on_the_same_tokens(tmp_path, tiny_llama, rows_file):
    out = tmp_path / "out.json"
    done = run("throughput.py", "--stacks", "ours,hf", "--seeds", 1, "--model", tiny_llama, "--dataset", rows_file,
               "--samples", 16, "--max-length", 128, "--accumulation", 2, "--threads", 1, "--least-ratio", 0,
               "--json", out)
    ours, theirs = json.loads(out.read_text()) if out.exists() else pytest.fail(done.stderr)
    assert (ours["outcome"]["status"], theirs["outcome"]["status"]) == ("trained", "trained")
    assert ours["outcome"]["tokens"] == theirs["outcome"]["tokens"] > 0
    assert ours["outcome"]["padding_share"] < theirs["outcome"]["padding_share"]
    # a few steps on a random base: both adapters are about as good, whichever library trained them
    assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], rel=0.02)
    assert "throughput | " in done.stdout
    assert "eval/loss" in done.stdout


def test_few_rows_of_a_large_file_take_a_small_part_of_it():
    done = run("rows.py", "--megabytes", 110, "--most-megabytes", 105, "--kinds", "json,parquet")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(\w+) of \d+ MB: \d+ MB over the process", done.stdout, re.MULTILINE) == ["json", "parquet"]


@pytest.mark.slow
def test_gpu_runs_every_step_of_it_on_a_cpu(tmp_path):
    out = tmp_path / "gpu.json"
    done = run("gpu.py", "--device", "cpu", "--tiny", "--as-t4", "--steps", 3, "--stacks", "ours,unsloth",
               "--cases", "tiny:32:checkpointing", "--out", out)
    assert done.returncode == 0, done.stderr
    ours, unsloth = json.loads(out.read_text())["cases"]
    assert ours["outcome"]["status"] == "trained"
    assert ours["outcome"]["step_tokens"] == [4 * 2 * 32] * 3  # micro-batches of 2 full rows
    assert len(ours["outcome"]["step_seconds"]) == 3
    assert len(ours["rates"]) == 1, "two steps warm up"
    assert ours["rates"] == [ours["tokens_per_s"]]
    assert ours["outcome"]["attention"] == ["aten::_scaled_dot_product_attention_math"], "no flash attention"
    assert 0 < ours["predicted_bytes"] < ours["outcome"]["peak_bytes"]
    assert unsloth["outcome"]["status"] == "missing"
    assert "unsloth  left out: unsloth is not installed" in done.stdout
    assert "attention aten::_scaled_dot_product_attention_math" in done.stdout


def test_the_gpu_cases_are_two_shapes_at_two_lengths_and_with_a_mix_of_rows(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    gpu = importlib.import_module("gpu")
    cases = gpu.wanted_cases(argparse.Namespace(tiny=False, cases=None))
    assert {shape for shape, _, _ in cases} == {"8B", "3B"}
    assert {length for _, length, _ in cases} == {"512", "2048", "mix"}
    assert gpu.TIMED_STEPS >= 10
    mix, equal = ([len(json.loads(line)["output"]) for line in gpu.write_rows(path, length).read_text().splitlines()]
                  for path, length in ((tmp_path / "mix.jsonl", None), (tmp_path / "512.jsonl", 512)))
    tokens = sorted(length / 3 for length in mix)
    assert tokens[0] >= 39
    assert tokens[len(tokens) // 2] == pytest.approx(gpu.MIX_TOKENS, rel=0.15)
    assert 2 * tokens[len(tokens) // 10] < tokens[-len(tokens) // 10]
    assert len(set(equal)) == 1


def test_a_t4_has_no_attention_but_torchs_own(tmp_path):
    """Whoever asks for flash-attn or xformers is told that it is not installed, however he asks."""
    (tmp_path / "xformers.py").write_text("")
    script = (f"import sys; sys.path[:0] = [{str(BENCHMARKS)!r}, {str(tmp_path)!r}]\n"
              "import importlib.util, stacks, train_once\n"
              "from kaggle_runner.config import FinetuneConfig\n"
              "assert importlib.util.find_spec('xformers')\n"
              "run = stacks.Run(stack='no such', config={}, directory='', cache='', threads=1, as_t4=True)\n"
              "try:\n    train_once.train(run, FinetuneConfig())\n"
              "except KeyError:\n    pass\n"
              "print(importlib.util.find_spec('xformers'))\n"
              "import xformers.ops\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)})
    assert done.stdout == "None\n", done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("ModuleNotFoundError: ")


def test_launches_counts_what_a_layer_launches_and_moves():
    """Fewer launches and less that moves than on peft's path, everywhere; the products stay what they are."""
    done = run("launches.py", "--tokens", 64)
    assert done.returncode == 0, done.stderr
    rows = {cells[0]: [float(cell) for cell in cells[1:]] for cells in (
        line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:])}
    assert len(rows) == 6
    for kind in ("everything kept", "computed again from its input"):
        peft, plain, kernels = (rows[f"{path}, {kind}"] for path in ("peft", "ours in torch", "ours in Triton"))
        assert peft[0] > plain[0] > 1.4 * kernels[0]
        assert peft[-1] > 1.3 * plain[-1] > 3 * kernels[-1]
        assert all(cells[0] == sum(cells[1:5]) for cells in (peft, plain, kernels))
        assert plain[1:4] == kernels[1:4], "no product is Triton's"
    assert rows["ours in Triton, everything kept"][0] <= 280, "Unsloth's"
    assert rows["ours in Triton, everything kept"][-1] <= 2.6, "Unsloth's"


def test_profile_step_writes_where_a_step_spends_its_time(tmp_path):
    out = tmp_path / "profile.json"
    done = run("profile_step.py", "--device", "cpu", "--tiny", "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["layers"] == "fused: products 2"
    assert report["launches_total"] == sum(kernel["count"] for kernel in report["kernels"]) > 100
    assert any("flash_attention_for_cpu_backward" in kernel["name"] for kernel in report["kernels"])
    assert 0 < report["step_ms"]["least"] <= report["step_ms"]["median"] <= report["step_ms"]["most"]
    assert 0 < report["gaps"]["share"] < 1
    assert report["ops"]["attention"] == 2 * 2
    assert report["moved_mb_a_token"] > 0


def test_profile_step_says_that_there_is_no_gpu(tmp_path):
    done = run("profile_step.py", "--out", tmp_path / "profile.json", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("no CUDA GPU here, nothing was profiled; run this on")


def test_gpu_says_that_there_is_no_gpu(tmp_path):
    done = run("gpu.py", "--out", tmp_path / "gpu.json", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "no CUDA GPU here, nothing was measured; run this on a machine that has one, or try the benchmark itself with "
        "--device cpu --tiny"]
    assert not (tmp_path / "gpu.json").exists()


def test_charlm_trains_both_recipes_at_equal_tokens_and_at_equal_time():
    done = run("charlm.py", "--tokens", 20_480, "--seeds", 1)
    assert done.returncode == 0, done.stderr
    trained = re.findall(r"(.+), seed 1: ([\d.]+) bits per character after ([\d,]+) tokens", done.stderr)
    assert [name for name, _, _ in trained] == ["plain", "ours", "equal time"]
    assert {tokens for name, _, tokens in trained if name != "equal time"} == {"20,480"}
    assert f"mean {float(trained[1][1]):.3f}" in done.stdout
    ours, plain = re.search(r"([\d,]+) parameters against ([\d,]+);", done.stdout).groups()
    assert int(ours.replace(",", "")) == pytest.approx(int(plain.replace(",", "")), rel=0.01)


def test_charlm_measures_a_corpus_of_any_length_and_an_evaluation(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("The quick brown fox jumps over the lazy dog, über und über.\n" * 100)
    done = run("charlm.py", "--characters", 300_000, "--corpus", corpus, "--plan", "sweeps/charlm_plan_small.yaml")
    assert done.returncode == 0, done.stderr
    characters, symbols = re.search(
        r"thread \| ([\d,]+) characters \(corpus\.txt\): .*over it, (\d+) symbols; as text8 .*over it, 27 symbols; "
        r"an evaluation of 4,096 characters takes .* of the time of its training", done.stdout).groups()
    assert int(characters.replace(",", "")) == pytest.approx(300_000 * 60 / 62, rel=0.01)  # two of 60 take two bytes
    assert int(symbols) == len(set(corpus.read_text()))


def test_start_up_measures_the_light_commands_and_the_launcher():
    done = run("start_up.py", "--runs", 1)
    assert done.returncode == 0, done.stderr
    assert [line.split(" | ")[0] for line in done.stdout.splitlines()] == [
        "start_up --help", "start_up detect", "start_up launcher"]


def test_the_stacks_take_turns_and_another_one_begins_with_every_seed(throughput, tmp_path):
    runs = throughput.plan(throughput.parse(["--seeds", "3", "--samples", "80"]), tmp_path)
    assert [run.stack for run in runs] == ["ours", "hf", "trl", "hf", "trl", "ours", "trl", "ours", "hf"]
    assert {run.config["max_steps"] for run in runs} == {10}  # every row once


def test_faster_and_as_good_within_noise_is_no_problem(throughput, measured):
    runs = [measured("ours", 0, 1.0, 2.00), measured("hf", 0, 1.4, 1.98),
            measured("ours", 1, 1.0, 2.10), measured("hf", 1, 1.4, 2.08)]
    assert throughput.problems(runs, 1.3) == []


def test_slower_than_wanted_is_a_problem(throughput, measured):
    runs = [measured("ours", 0, 1.0, 2.0), measured("hf", 0, 1.2, 2.0)]
    assert throughput.problems(runs, 1.3) == ["ours is 1.20 times HF Trainer + peft, it should be 1.3"]


def test_speed_bought_with_quality_is_a_problem(throughput, measured):
    runs = [measured("ours", 0, 1.0, 2.30), measured("hf", 0, 1.4, 2.00),
            measured("ours", 1, 1.0, 2.32), measured("hf", 1, 1.4, 2.02)]
    assert throughput.problems(runs, 1.3) == [
        "eval/loss is worse than HF Trainer + peft's by 0.3000, seed noise is 0.0141"]
