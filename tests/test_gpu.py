import os
from pathlib import Path

import pytest

from kaggle_runner.errors import HostError
from kaggle_runner.machine.gpu import GIB, Gpu, in_gib, survey_gpus, visible_gpus
from tests.conftest import wait_for
from tests.standins.nvidia_smi import HANGING, NO_DRIVER, OLD, P100, T4_X2, UNEQUAL, answering, path_with


def survey(tmp_path, script, timeout_s=10.0, **environ):
    return survey_gpus({"PATH": path_with(tmp_path / "bin", script), **environ}, timeout_s)


def gpu(index=0, *, name="Tesla T4", mib=15360, capability=(7, 5), uuid="GPU-0"):
    return Gpu(index=index, name=name, memory_bytes=mib * 2**20, compute_capability=capability, uuid=uuid)


def test_two_t4_are_listed_with_what_they_can_do(tmp_path):
    found = survey(tmp_path, answering(T4_X2))
    assert [g.index for g in found.gpus] == [0, 1]
    assert [g.uuid[:12] for g in found.gpus] == ["GPU-11111111", "GPU-22222222"]
    assert found.gpus[0].text == "Tesla T4, 14.56 GiB usable, compute capability 7.5: float16, no bfloat16"
    assert found.reason == "2 listed by nvidia-smi"
    assert found.problems == ()


def test_a_t4_has_14_56_of_its_15360_mib_usable():
    assert gpu().memory_bytes == 15 * GIB
    assert gpu().usable_bytes == 1456 * GIB // 100


@pytest.mark.parametrize(("name", "mib", "seen_gib"), [("NVIDIA L4", 23034, 22.03), ("RTX 4090", 24564, 23.52)])
def test_no_gpu_is_promised_more_than_torch_reported_on_one(name, mib, seen_gib):
    """The reports are named in Gpu.usable_bytes."""
    assert gpu(name=name, mib=mib).usable_bytes <= seen_gib * GIB


def test_bfloat16_begins_with_compute_capability_8():
    assert not gpu(capability=(7, 5)).supports_bfloat16
    assert gpu(capability=(8, 0)).supports_bfloat16
    assert gpu(capability=(10, 0)).meaning == "float16 and bfloat16"


def test_a_p100_is_refused_and_a_t4_is_not(tmp_path):
    p100 = survey(tmp_path, answering(P100)).gpus[0]
    assert p100.compute_capability == (6, 0)
    with pytest.raises(HostError, match=r"capability 6\.0 and torch has no kernels.*--machine NvidiaTeslaT4.*--cpu"):
        p100.require_supported()
    gpu().require_supported()


def test_a_v100_is_let_through_with_a_warning():
    assert gpu(capability=(7, 0)).refusal is None
    assert "torch 2.11 and later have no kernels" in gpu(capability=(7, 0)).meaning


def test_a_hung_nvidia_smi_is_killed_with_its_children_and_named(tmp_path):
    found = survey(tmp_path, HANGING, timeout_s=0.3)  # it would last 600 s, and a test may not

    def started_there(pid):
        try:
            return str(tmp_path) in Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            return False

    assert wait_for(lambda: not any(map(started_there, filter(str.isdigit, os.listdir("/proc")))))
    assert found.gpus == ()
    assert found.problems == ("no GPU is used: nvidia-smi gave no answer in 0.3 s, as with a hung driver; "
                              "restart the session",)


def test_a_driver_that_does_not_answer_is_named(tmp_path):
    found = survey(tmp_path, NO_DRIVER)
    assert found.gpus == ()
    assert "ended with status 9 and said: NVIDIA-SMI has failed because" in found.reason


def test_an_nvidia_smi_that_says_nothing_is_named(tmp_path):
    assert survey(tmp_path, "kill -9 $$\n").reason == "nvidia-smi ended with status -9 and said: nothing"


def test_an_old_nvidia_smi_without_compute_cap_is_named(tmp_path):
    assert "too old to tell the compute capability; update the NVIDIA driver" in survey(tmp_path, OLD).problems[0]


def test_no_devices_with_status_0_is_no_gpu(tmp_path):
    found = survey(tmp_path, "echo 'No devices were found'\n")
    assert found.gpus == ()
    assert found.problems == ("nvidia-smi said: No devices were found",)


@pytest.mark.parametrize(("script", "reason"), [
    ("echo 'No devices were found'", "0 listed by nvidia-smi (nvidia-smi said: No devices were found)"),
    ("echo '<html>'", "0 listed by nvidia-smi (nvidia-smi said: <html>)"),
    ("printf '\\033[31mred\\007'; exit 3", "nvidia-smi ended with status 3 and said: [31mred"),
    ("echo '0, Tesla T4, 15360, 7.5, GPU-1'; echo 'GPU 0000:00:05.0: Unknown Error'; exit 255",
     "nvidia-smi ended with status 255 and said: GPU 0000:00:05.0: Unknown Error"),
    ("yes nonsense | head -c 3000000", "0 listed by nvidia-smi (nvidia-smi said: nonsense)"),
    ("head -c 3000 /dev/zero | tr '\\0' x", f"0 listed by nvidia-smi (nvidia-smi said: {'x' * 200})"),
    ("echo '0, Tesla T4, 0, 7.5, GPU-1'",
     "0 listed by nvidia-smi (GPU 0 (Tesla T4) is left out: nvidia-smi gives its memory as '0' and its compute "
     "capability as '7.5', and a budget needs both)"),
])
def test_what_a_driver_in_trouble_says_is_the_reason_and_short(tmp_path, script, reason):
    found = survey(tmp_path, script + "\n")
    assert (found.gpus, found.reason) == ((), reason)
    assert len(found.problems) <= 64


def test_a_gpu_with_unknown_memory_is_left_out_with_the_reason(tmp_path):
    found = survey(tmp_path, answering("0, NVIDIA GB10, [N/A], 12.1, GPU-1\n" + T4_X2.splitlines()[1] + "\n"))
    assert [g.index for g in found.gpus] == [1]
    assert found.problems == ("GPU 0 (NVIDIA GB10) is left out: nvidia-smi gives its memory as '[N/A]' and its compute "
                              "capability as '12.1', and a budget needs both",)


def test_a_damaged_inforom_costs_no_gpu(tmp_path):
    found = survey(tmp_path, answering(T4_X2) + "echo 'WARNING: infoROM is corrupted at gpu 0000:00:04.0'; exit 14\n")
    assert len(found.gpus) == 2
    assert found.problems == ("nvidia-smi said: WARNING: infoROM is corrupted at gpu 0000:00:04.0",)


def test_a_program_that_cannot_be_executed_is_named(tmp_path):
    path = path_with(tmp_path, "")
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELFnonsense")
    assert "cannot be run: Exec format error" in survey_gpus({"PATH": path}).reason


def test_without_nvidia_smi_there_is_no_gpu_and_no_problem(tmp_path):
    (tmp_path / "nvidia-smi").write_text("not executable")
    found = survey_gpus({"PATH": str(tmp_path)})
    assert (found.gpus, found.reason, found.problems) == ((), "no nvidia-smi on PATH", ())
    assert survey_gpus({}).reason == "no nvidia-smi on PATH"


@pytest.mark.parametrize(("wanted", "indices"), [
    ("0", [0]), ("1", [1]), ("1,0", [1, 0]), ("", []), ("-1", []), ("0,7,1", [0]), (" 1 ", [1]),
    ("GPU-2222", [1]), ("GPU-", []), ("GPU-9999", []), ("NoDevFiles", []), ("0,0", []), ("GPU-2222,1", []),
])
def test_cuda_visible_devices_decides_which_gpus_are_seen(tmp_path, wanted, indices):
    found = survey(tmp_path, answering(T4_X2), CUDA_VISIBLE_DEVICES=wanted)
    assert [g.index for g in found.gpus] == indices
    assert found.reason == f"2 listed by nvidia-smi, {len(indices)} visible with CUDA_VISIBLE_DEVICES={wanted}"


def test_a_slice_of_a_gpu_is_not_guessed_at(tmp_path):
    found = survey(tmp_path, answering(T4_X2), CUDA_VISIBLE_DEVICES="MIG-5c89")
    assert found.gpus == ()
    assert "names a slice of a GPU" in found.problems[0]


def test_gpus_keep_the_order_of_cuda_visible_devices():
    gpus = (gpu(0, uuid="GPU-a"), gpu(1, uuid="GPU-b"), gpu(2, uuid="GPU-c"))
    assert [g.index for g in visible_gpus(gpus, "2,GPU-a")] == [2, 0]


def test_unequal_gpus_are_both_listed(tmp_path):
    assert [g.name for g in survey(tmp_path, answering(UNEQUAL)).gpus] == ["NVIDIA L4", "Tesla T4"]


def test_gib_have_two_decimals():
    assert in_gib(3 * GIB // 2) == "1.50 GiB"
    assert in_gib(0) == "0.00 GiB"
