import json
from dataclasses import replace

import pytest

from kaggle_runner.errors import BudgetError, ConfigError
from kaggle_runner.machine.budget import MemoryBudget, accumulation_for, budget_for, describe
from kaggle_runner.machine.environment import detect
from kaggle_runner.machine.gpu import GIB, Gpu
from tests.standins.nvidia_smi import T4_X2, UNEQUAL, answering, path_with

KAGGLE = {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}


def environment(tmp_path, smi=None, *, available_gib=28, **environ):
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    (root / "kaggle/working").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 31457280 kB\nMemAvailable: {int(available_gib * 2**20)} kB\n")
    path = path_with(tmp_path / "bin", answering(smi)) if smi else ""
    return detect({**KAGGLE, "PATH": path, **environ}, root)


def test_a_t4_has_14_06_gib_a_trial(tmp_path):
    budget = budget_for(environment(tmp_path, T4_X2))
    assert budget.device_bytes == 1456 * GIB // 100 - GIB // 2
    assert (budget.micro_batch, budget.accumulation) == (2, (4, 8))
    assert budget.rows()[0] == ("budget", "14.06 GiB a trial, batch 2, gradient accumulation 4 or 8, 1 trial at a time "
                                          "on each GPU")
    assert budget.reasons["device_bytes"] == ("14.56 GiB usable of the 15.00 GiB of each GPU, less 0.50 GiB for the "
                                              "CUDA context and fragmentation")


def test_two_gpus_share_the_ram(tmp_path):
    budget = budget_for(environment(tmp_path, T4_X2))
    assert budget.host_bytes == 27 * GIB // 2
    assert budget.reasons["host_bytes"].endswith("shared by 2 workers")


def test_the_smallest_gpu_counts(tmp_path):
    budget = budget_for(environment(tmp_path, UNEQUAL))
    assert budget.device_bytes == 1456 * GIB // 100 - GIB // 2
    assert "of the smallest GPU" in budget.reasons["device_bytes"]


def test_without_a_gpu_the_free_ram_counts(tmp_path):
    budget = budget_for(environment(tmp_path))
    assert budget.device_bytes is None
    assert budget.host_bytes == 27 * GIB
    assert budget.rows()[0][1].startswith("27.00 GiB of RAM a trial, batch 2")
    assert budget.rows()[0][1].endswith("1 trial at a time on the CPU")


def test_every_figure_has_its_reason(tmp_path):
    budget = budget_for(environment(tmp_path, T4_X2))
    assert set(budget.reasons) == {"device_bytes", "host_bytes", "micro_batch", "accumulation", "trials"}
    assert [text for _, text in budget.rows()[1:]] == list(budget.reasons.values())


def test_too_little_ram_says_how_much_is_needed(tmp_path):
    with pytest.raises(BudgetError, match=r"0\.50 GiB of RAM is free, and 1\.00 GiB is kept.*end other programs"):
        budget_for(environment(tmp_path, available_gib=0.5))


def test_a_gpu_without_room_for_a_context_is_refused(tmp_path):
    small = Gpu(index=0, name="Tiny", memory_bytes=GIB // 2, compute_capability=(8, 6), uuid="GPU-0")
    with pytest.raises(BudgetError, match=r"Tiny has 0\.49 GiB usable.*CUDA_VISIBLE_DEVICES= and train on the CPU"):
        budget_for(replace(environment(tmp_path), gpus=(small,)))


def test_a_wanted_effective_batch_decides_the_accumulation(tmp_path):
    found = environment(tmp_path, T4_X2)
    assert budget_for(found, effective_batch=32).accumulation == (16,)
    with pytest.raises(ConfigError, match="9 is no multiple of batch_size 2; use 8 or 10, or batch_size 1 or 3 or 9"):
        budget_for(found, effective_batch=9)


@pytest.mark.parametrize(("effective", "micro", "passes"), [(8, 2, 4), (16, 2, 8), (2, 2, 1), (7, 1, 7)])
def test_accumulation_times_micro_batch_is_the_effective_batch(effective, micro, passes):
    assert accumulation_for(effective, micro) == passes


@pytest.mark.parametrize(("effective", "micro", "way_out"), [
    (1, 2, "use 2, or batch_size 1"), (0, 2, "use 2"), (-8, 2, "use 2"), (10, 4, "use 8 or 12, or batch_size 1 or 2"),
    (8, 0, "batch_size must be at least 1, got 0"),
])
def test_an_effective_batch_that_does_not_divide_names_those_that_do(effective, micro, way_out):
    with pytest.raises(ConfigError, match=way_out):
        accumulation_for(effective, micro)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(BudgetError, match="host_bytes 0 is none"):
        MemoryBudget(device_bytes=None, host_bytes=0, micro_batch=2, accumulation=(4,), reasons={})


def test_a_budget_can_be_written_as_json(tmp_path):
    values = json.loads(json.dumps(budget_for(environment(tmp_path, T4_X2)).as_dict()))
    assert values["accumulation"] == [4, 8]
    assert values["device_bytes"] == 1456 * GIB // 100 - GIB // 2


def test_the_description_begins_with_host_gpus_and_budget(tmp_path):
    found = environment(tmp_path, T4_X2)
    rows = describe(found, budget_for(found))
    assert rows[:4] == [
        ("host", "kaggle  (KAGGLE_KERNEL_RUN_TYPE=Batch)"),
        ("gpu 0", "Tesla T4, 14.56 GiB usable, compute capability 7.5: float16, no bfloat16"),
        ("gpu 1", "Tesla T4, 14.56 GiB usable, compute capability 7.5: float16, no bfloat16"),
        ("budget", "14.06 GiB a trial, batch 2, gradient accumulation 4 or 8, 1 trial at a time on each GPU"),
    ]
    texts = dict(rows)
    assert texts["ram"] == "28.00 GiB free of 30.00 GiB  (/proc/meminfo)"
    assert texts["session"].startswith("limit 12 h")
    assert texts["output"].startswith(str(found.writable_directory))
    assert texts["keys"] == "wandb: none found"


def test_the_description_says_why_there_is_no_gpu_and_what_to_do(tmp_path):
    found = environment(tmp_path)
    rows = describe(found, budget_for(found))
    assert rows[1] == ("gpu", "none  (no nvidia-smi on PATH)")
    assert ("problem", found.problems[0]) in rows
    assert "NvidiaTeslaT4" in found.problems[0]
