"""What a sweep is told to need: the memory of its configurations and the time of its trials."""

import dataclasses
import json
import re
from dataclasses import replace

import pytest

from kaggle_runner.cli import main
from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import HostError, ModelError
from kaggle_runner.machine.gpu import GIB
from kaggle_runner.machine.gpu_catalogue import known_gpus
from kaggle_runner.memory.final_plan import plan_final
from kaggle_runner.memory.fit import MemoryLimit, memory_limit_of, memory_limit_of_gpu
from kaggle_runner.memory.plan import DRAWN_TRIALS, plan
from kaggle_runner.memory.predict import CPU, GPU
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.study.what_next import HOUR_S, full_lines
from kaggle_runner.sweep.spec import read_sweep
from kaggle_runner.sweep.yaml_file import shipped_sweep
from tests.made_studies import Made, write_study

HEAD = "method: random\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n"


@pytest.fixture
def small_sweep(tiny_llama, tmp_path):
    """A sweep on a tiny model, with one range and one list that memory depends on and two that it does not."""
    path = tmp_path / "small.yaml"
    path.write_text(f"{HEAD}"
                    f"  model: {{value: {tiny_llama}}}\n"
                    "  max_length: {value: 64}\n"
                    "  max_steps: {value: 100}\n"
                    "  eval_steps: {value: 50}\n"
                    "  max_eval_samples: {value: 80}\n"
                    "  learning_rate: {min: 1.0e-4, max: 1.0e-2}\n"
                    "  gradient_accumulation_steps: {values: [4, 8]}\n"
                    "  lora_r: {distribution: int_uniform, min: 4, max: 32}\n"
                    "  batch_size: {values: [2, 4]}\n"
                    "  lora_dropout: {values: [0.05, 0.1]}\n"
                    "run_cap: 10\n")
    return read_sweep(path)


@pytest.fixture(scope="module")
def t4(cache):
    return memory_limit_of_gpu(known_gpus("t4")[0], cache)


@pytest.fixture(scope="module")
def shipped(t4):
    return plan(read_sweep(shipped_sweep("lora_t4")), t4, seconds_per_step=10.0, workers=2)


def text_of(found):
    return "\n".join(f"{label:<9} {text}" for label, text in found.as_lines())


def test_the_shipped_sweep_fits_a_t4_and_with_less_because_it_computes_activations_again(shipped):
    forecast, = shipped.forecasts  # nothing that it searches changes the memory
    assert forecast.fit.fits
    assert not forecast.fit.config.gradient_checkpointing
    assert 7.0 * GIB < forecast.fit.prediction.peak_bytes < 8.0 * GIB
    forecast, = plan(shipped.spec, dataclasses.replace(shipped.limit, budget_bytes=5 * GIB)).forecasts
    assert forecast.fit.fits
    assert forecast.fit.config.gradient_checkpointing
    assert 4.0 * GIB < forecast.fit.prediction.peak_bytes < 5.0 * GIB
    assert forecast.fit.without_bytes > 7 * GIB
    assert f"{forecast.fit.prediction.parts['base'] / GIB:.2f}" == "3.85"


def test_a_plan_reads_as_lines_and_as_json(shipped):
    text = text_of(shipped)
    assert "device    Tesla T4, 14.06 GiB a trial" in text
    assert re.search(r"memory +peak +fits +checkpointing\n +7\.\d\d GiB  yes   off\nmade of +7\.\d\d GiB: base 3\.85, "
                     r"activations 2\.\d\d", text)
    values = json.loads(json.dumps(shipped.as_dict()))
    assert values["forecasts"][0]["peak_bytes"] == shipped.forecasts[0].fit.prediction.peak_bytes
    assert (values["fitting"], values["forecasts"][0]["fits"]) == (1, True)


def test_only_what_decides_memory_is_forecast_and_ranges_by_their_ends(small_sweep, cache):
    limit = MemoryLimit(budget_bytes=GIB, target=GPU, device="a GPU", reason="", cache_directory=cache)
    found = plan(small_sweep, limit)
    settings = [(forecast.settings["batch_size"], forecast.settings["lora_r"]) for forecast in found.forecasts]
    assert sorted(settings) == [(2, 4), (2, 32), (4, 4), (4, 32)]
    peaks = [forecast.fit.prediction.peak_bytes for forecast in found.forecasts]
    assert peaks == sorted(peaks)
    assert found.times is None
    assert "time      unknown until a trial has finished" in text_of(found)


def test_what_does_not_fit_is_said_to_be_left_out(small_sweep, cache):
    limit = MemoryLimit(budget_bytes=2**20, target=GPU, device="a GPU", reason="", cache_directory=cache)
    found = plan(small_sweep, limit)
    assert found.fitting == 0
    assert re.search(r"too large the trial needs .* GiB but the budget is 0\.00 GiB on a GPU; .*recorded as infeasible",
                     text_of(found))


def test_a_draw_that_no_trial_can_be_has_no_time(tmp_path, cache, tiny_llama):
    path = tmp_path / "tail.yaml"
    path.write_text(f"{HEAD}  batch_size: {{value: 4}}\n  learning_rate: {{value: 0.001}}\n  lora_r: {{value: 8}}\n"
                    f"  model: {{value: {tiny_llama}}}\n"
                    f"  weight_decay: {{distribution: normal, mu: 0.1, sigma: 0.0322}}\nrun_cap: 10\n")
    spec = read_sweep(path)
    assert min(spec.sample(seed)["weight_decay"] for seed in range(DRAWN_TRIALS)) < 0
    limit = MemoryLimit(budget_bytes=GIB, target=GPU, device="a GPU", reason="", cache_directory=cache)
    assert plan(spec, limit, seconds_per_step=8.0).times is not None


def test_stated_seconds_are_those_of_the_smallest_effective_batch(small_sweep, cache):
    limit = MemoryLimit(budget_bytes=GIB, target=GPU, device="a GPU", reason="", cache_directory=cache)
    times = plan(small_sweep, limit, seconds_per_step=8.0, session_s=3600.0, workers=2).times
    # 8 rows a step, so 1 s a row: 100 steps of 8 or 32 rows, two evaluations of 80 rows at half the cost
    assert (times.shortest_s, times.longest_s) == (880.0, 3280.0)
    assert times.session_trials == int(3600 / times.mean_s) * 2
    assert times.week_trials == int(30 * 3600 / times.mean_s) * 2


def test_a_study_tells_how_long_its_trials_take(small_sweep, cache, tmp_path):
    with Study.open_for_writing(tmp_path / "study", name="small", sweep=small_sweep.raw, metric="eval/loss",
                                goal="minimize", seed=0) as study:
        params = small_sweep.sample(0) | {"batch_size": 2, "gradient_accumulation_steps": 4}
        study.record_start(Trial(id="0000", number=0, params=params), params)
        study.record_end(TrialResult(id="0000", status=Status.COMPLETE, metric=1.0, steps=100, seconds=400.0))
        snapshot = study.snapshot()
    limit = MemoryLimit(budget_bytes=GIB, target=GPU, device="a GPU", reason="", cache_directory=cache)
    found = plan(small_sweep, limit, snapshot=snapshot)
    assert (found.times.shortest_s, found.times.longest_s) == (400.0, 1600.0)  # half a second a row
    assert "from the complete trials of the study" in text_of(found)
    assert "10 trials take" in text_of(found)


def test_a_cpu_is_planned_for_in_its_own_numbers(small_sweep, tmp_path, environment_without_gpu):
    limit = memory_limit_of(environment_without_gpu)
    assert limit.target == CPU
    assert limit.budget_bytes < environment_without_gpu.ram_available_bytes - GIB
    assert "worker's libraries" in limit.reason


def test_a_family_that_overflows_on_a_t4_is_refused_there(tmp_path, t4):
    (tmp_path / "gemma.yaml").write_text(f"{HEAD}  model: {{value: {tmp_path}}}\n")
    (tmp_path / "config.json").write_text('{"model_type": "gemma3_text"}')
    with pytest.raises(ModelError, match=r"gemma3_text models overflow in float16.*or a GPU such as an L4"):
        plan(read_sweep(tmp_path / "gemma.yaml"), t4)


def test_a_gpu_that_is_not_known_or_not_supported_is_refused():
    for name in ("t5", "t4x0", "0xT4", "T4 x two"):
        with pytest.raises(HostError, match=rf"no GPU '{name}' is known here; did you mean t4\? choose one of t4"):
            known_gpus(name)
    with pytest.raises(HostError, match="no GPU '' is known here; choose one of t4"):
        known_gpus("")
    with pytest.raises(HostError, match=r"P100.*compute capability 6\.0 and torch has no kernels for it"):
        known_gpus("P100")


@pytest.mark.parametrize(("name", "found"), {
    "t4": ("Tesla T4", 2), "T4 x2": ("Tesla T4", 2), "2xT4": ("Tesla T4", 2), "t4x2": ("Tesla T4", 2),
    "t4x1": ("Tesla T4", 1), "Tesla T4 × 2": ("Tesla T4", 2), "NvidiaTeslaT4": ("Tesla T4", 2), "l4": ("NVIDIA L4", 1),
    "NvidiaTeslaT4Highmem": ("Tesla T4", 2), "NvidiaL4": ("NVIDIA L4", 4), "NvidiaL4X1": ("NVIDIA L4", 1),
    "4 x L4": ("NVIDIA L4", 4), "2xRTX_3060": ("NVIDIA GeForce RTX 3060", 2), "A100-80": ("NVIDIA A100-SXM4-80GB", 1),
}.items())
def test_a_gpu_is_known_by_what_people_and_a_push_call_it(name, found):
    gpu, count = known_gpus(name)
    assert (gpu.name, count) == found


class TestTheCommand:
    def test_it_plans_for_a_gpu_that_is_not_here(self, plan_command, shipped):
        status, output = plan_command("sweeps/lora_t4.yaml", "--gpu", "t4", "--seconds-per-step", "10")
        assert status == 0
        *lines, rows = output.out.splitlines()
        assert lines == text_of(shipped).splitlines()
        assert rows.startswith("rows      mlabonne/FineTome-100k of the hub; see them with python -m kaggle_runner ")

    def test_it_plans_for_this_machine_and_prints_json(self, plan_command, small_sweep, tmp_path):
        status, output = plan_command(small_sweep.source, "--json")
        assert status == 0
        values = json.loads(output.out)
        assert (values["device"], values["fitting"], len(values["forecasts"])) == ("the CPU", 4, 4)
        assert {"base", "adapter", "optimizer"} <= values["forecasts"][0]["parts"].keys()

    def test_rows_that_are_missing_here_are_said_to_be_and_are_not_looked_for_on_the_hub(self, plan_command, tmp_path):
        (tmp_path / "sweep.yaml").write_text(f"{HEAD}  model: {{value: demo}}\n  dataset: {{value: ./rows.csv}}\n")
        (tmp_path / "one.yaml").write_text("model: demo\ndataset: ./rows.csv\n")
        for arguments, line in ((["sweep.yaml"], "rows      cannot be used: "),
                                (["one.yaml", "--full"], "steps     unknown: ")):
            status, output = plan_command(*arguments)
            assert (status, f"{line}the dataset ./rows.csv does not exist; give a json, jsonl, " in output.out) == (
                0, True), output

    @pytest.mark.parametrize(("arguments", "message"), [
        (["sweeps/lora_t4.yaml", "--gpu", "t5"], "error: no GPU 't5' is known here; did you mean t4?"),
        (["sweeps/lora_t4.yaml", "--gpu", "t4", "--study", "nowhere"], "error: nowhere is not a study"),
        (["char.yaml", "--gpu", "t4"], "error: char.yaml trains charlm models, which are small enough for any GPU; "),
        (["unknown.yaml", "--gpu", "t4"], "error: the shape of 'nobody/nothing-7b' is not known here; put its "
                                          "config.json into a folder and give that folder as model")])
    def test_what_it_cannot_plan_is_one_message(self, plan_command, tmp_path, arguments, message):
        (tmp_path / "unknown.yaml").write_text(f"{HEAD}  model: {{value: nobody/nothing-7b}}\n")
        (tmp_path / "char.yaml").write_text("method: random\nmetric: {name: eval/loss, goal: minimize}\nrun_cap: 1\n"
                                            "parameters:\n  trainer: {value: charlm}\n")
        status, output = plan_command(*arguments)
        assert status == 1
        assert output.err.startswith(message)
        assert len(output.err.splitlines()) == 1


@pytest.fixture
def plan_command(monkeypatch, tmp_path, capsys, cache):
    """Run the command on a machine without GPUs, with the predictions of this file; returns exit status and output."""
    monkeypatch.setenv("KAGGLE_RUNNER_CACHE", str(cache))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        with pytest.raises(SystemExit, match=r"^[01]$") as ended:
            main(["plan", *map(str, arguments)])
        return ended.value.code, capsys.readouterr()

    return command


@pytest.fixture
def environment_without_gpu(tmp_path):
    from kaggle_runner.machine.environment import detect

    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n")
    return detect({"HOME": str(tmp_path), "PATH": ""}, tmp_path)


def test_a_final_training_is_planned_with_its_sessions_and_the_second_gpu_is_free():
    config = FinetuneConfig.from_params({"num_train_epochs": 3})
    common = {"snapshot": None, "session_s": 11.6 * HOUR_S, "week_s": 30 * HOUR_S}
    two = plan_final(config, 10_000, seconds_per_step=36.0, gpus=2, **common)
    assert (two.config.max_steps, two.seconds / HOUR_S, two.sessions) == (3750, 18.75, 2)
    assert dict(two.as_lines()) == {
        "steps": "3,750 of 8 rows: 3 passes over 10,000 rows",
        "time": "18.8 h on 2 GPUs in one training, if 2 take half the time of one (36 s a step, as stated)",
        "sessions": "2 of 11.6 h",
        "quota": "18.8 h of the 30.0 h of a week; a session counts its wall clock once, however many GPUs it has"}
    assert plan_final(config, 10_000, seconds_per_step=36.0, gpus=1, **common).sessions == 4
    unknown = plan_final(config, "the dataset x.csv does not exist", seconds_per_step=36.0, gpus=2, **common)
    assert (unknown.as_dict()["steps"], unknown.as_lines()[0][1]) == (None, "unknown: the dataset x.csv does not exist")
    assert "unknown until a trial has finished" in dict(
        plan_final(config, 10_000, seconds_per_step=None, gpus=2, **common).as_lines())["time"]


def test_a_finished_study_names_the_training_on_all_rows_with_its_time_on_both_t4s(tmp_path):
    params = {"model": "me/model", "dataset": "me/rows", "max_steps": 10}
    write_study(tmp_path / "s", [Made(params=params, value=1.0, steps=10, seconds=800.0)])
    snapshot = replace(read_study(tmp_path / "s"), sessions=({"gpus": [{"name": "Tesla T4"}] * 2},),
                       rows=({"dataset": "me/rows", "rows": {"train": 8_000, "not_drawn": 800}},))
    assert full_lines(snapshot, here="train s --full", push="push s/best.yaml") == [
        ("train s --full", "8,800 rows, 1 pass: 24.4 h on one GPU"),
        ("push s/best.yaml --full --sessions 2 --wait",
         "all rows, both T4s: 12.2 h, 2 sessions, 17.8 h of a week's 30 are left")]
    many = replace(snapshot, rows=({"dataset": "me/rows", "rows": {"train": 22_000, "not_drawn": 0}},))
    assert full_lines(many, here="train s --full", push="push s/best.yaml")[1] == (
        "push s/best.yaml --full --sessions 3 --wait",
        "all rows, both T4s: 30.6 h, 3 sessions, more than a week's 30 h")
    assert full_lines(replace(snapshot, rows=()), here="train s --full", push="push s/best.yaml") == [
        ("train s --full", "all rows"),
        ("push s/best.yaml --full --sessions 3 --wait", "all rows, both T4s")]


@pytest.mark.parametrize("name", ["model", "dataset", "eval_dataset"])
def test_what_lies_on_this_machine_is_not_advised_to_be_pushed(tmp_path, name):
    params = {"model": "me/model", "dataset": "me/rows", "max_steps": 10, name: "./mine"}
    snapshot = read_study(write_study(tmp_path / "s", [Made(params=params, value=1.0, steps=10, seconds=800.0)]))
    assert full_lines(snapshot, here="train s --full", push="push s/best.yaml") == [("train s --full", "all rows")]
