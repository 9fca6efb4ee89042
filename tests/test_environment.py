import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.errors import HostError, NoGpu
from kaggle_runner.machine.environment import NEEDED_PACKAGES, detect, find_host
from kaggle_runner.machine.gpu import GIB
from tests.standins.nvidia_smi import HANGING, NO_DRIVER, P100, T4_X2, answering, path_with

KAGGLE = {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_URL_BASE": "https://www.kaggle.com"}
COLAB = {"COLAB_RELEASE_TAG": "release-colab_20260514", "COLAB_GPU": "1"}
PLANTED = "planted0planted1planted2planted3planted4"


@pytest.fixture
def root(tmp_path):
    """A machine with the directories of both hosts, as Kaggle's has, and 30 GiB of RAM."""
    for name in ("kaggle/working", "kaggle/input", "kaggle/tmp", "content", "tmp", "proc"):
        (tmp_path / "root" / name).mkdir(parents=True)
    (tmp_path / "root/proc/meminfo").write_text("MemTotal: 31457280 kB\nMemAvailable: 29360128 kB\n")
    return tmp_path / "root"


def test_kaggle_wins_over_colab(root):
    """Kaggle's image is built from Colab's and keeps its variables."""
    found = detect({**COLAB, **KAGGLE}, root)
    assert (found.host, found.reason) == ("kaggle", "KAGGLE_KERNEL_RUN_TYPE=Batch")


def test_kaggle_is_known_without_its_run_type_by_its_directory(root):
    assert find_host({"KAGGLE_URL_BASE": "x"}, root)[0] == "kaggle"
    assert find_host({"KAGGLE_URL_BASE": "x"}, root / "nowhere")[0] == "local"


def test_a_user_with_kaggle_credentials_is_not_on_kaggle(root):
    assert find_host({"KAGGLE_USERNAME": "u", "KAGGLE_KEY": "k"}, root) == ("local", "no sign of Kaggle or Colab")


@pytest.mark.parametrize("variable", ["COLAB_RELEASE_TAG", "COLAB_BACKEND_VERSION", "COLAB_JUPYTER_IP", "COLAB_GPU"])
def test_colab_is_known_by_any_of_its_variables_in_a_child_process_too(root, variable):
    assert find_host({variable: ""}, root) == ("colab", f"{variable} is set and {root / 'content'} is there")


def test_a_colab_variable_without_its_directory_is_another_machine(tmp_path):
    assert find_host(COLAB, tmp_path)[0] == "local"


@pytest.mark.parametrize("host", ["kaggle", "colab", "local"])
def test_the_override_decides(root, host):
    assert find_host({**KAGGLE, "KAGGLE_RUNNER_HOST": host}, root) == (host, f"KAGGLE_RUNNER_HOST={host}")


def test_a_wrong_override_names_the_right_ones(root):
    with pytest.raises(HostError, match="'Kagle' is no host; set it to one of kaggle, colab, local, or unset it"):
        detect({"KAGGLE_RUNNER_HOST": "Kagle"}, root)


@pytest.mark.parametrize(("run_type", "interactive"), [("Interactive", True), ("Batch", False)])
def test_kaggle_says_whether_a_person_sits_at_it(root, run_type, interactive):
    assert detect({"KAGGLE_KERNEL_RUN_TYPE": run_type}, root).interactive is interactive


def test_elsewhere_nothing_tells_whether_a_person_sits_at_it(root):
    assert detect(COLAB, root).interactive is None
    assert detect({}, root).interactive is None


def test_kaggle_keeps_its_working_directory_and_not_its_cache(root):
    found = detect(KAGGLE, root)
    assert found.writable_directory == root / "kaggle/working"
    assert "kept after the session" in found.reasons["writable"]
    assert found.cache_directory == root / "kaggle/tmp/kaggle_runner"
    (root / "kaggle/tmp").rmdir()
    assert detect(KAGGLE, root).cache_directory == root / "tmp/kaggle_runner"


def test_colab_writes_to_drive_where_it_is_mounted(root):
    (root / "content/drive/MyDrive").mkdir(parents=True)
    found = detect(COLAB, root)
    assert found.writable_directory == root / "content/drive/MyDrive/kaggle_runner"
    assert not [problem for problem in found.problems if "drive" in problem]


def test_colab_without_drive_is_warned_about(root):
    found = detect(COLAB, root)
    assert found.writable_directory == root / "content"
    assert any("google drive is not mounted, so the study is lost" in problem for problem in found.problems)


def test_a_local_machine_writes_to_the_current_directory(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert detect({}, root).writable_directory == tmp_path


@pytest.mark.parametrize(("environ", "expected"), [
    ({"KAGGLE_RUNNER_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"),
    ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/kaggle_runner"),
    ({"HOME": "/h"}, "/h/.cache/kaggle_runner"),
    ({**KAGGLE, "KAGGLE_RUNNER_CACHE": "/c"}, "/c"),
])
def test_the_cache_goes_where_the_user_keeps_caches(root, environ, expected):
    assert detect(environ, root).cache_directory == Path(expected)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_directory_that_cannot_be_written_is_a_problem(root):
    (root / "kaggle/working").chmod(0o500)
    found = detect(KAGGLE, root)
    assert any("cannot be written; give another directory with --study" in problem for problem in found.problems)


def test_the_session_limit_comes_with_its_reason(root):
    assert detect(KAGGLE, root).session_limit_s == 12 * 3600
    assert detect({**KAGGLE, "TPU_ACCELERATOR_TYPE": "v5e-8"}, root).session_limit_s == 9 * 3600
    assert detect(COLAB, root).session_limit_s == 12 * 3600
    local = detect({}, root)
    assert (local.session_limit_s, local.reasons["session"]) == (None, "nobody ends a session here")


def test_gpus_of_a_kaggle_session_are_found(root, tmp_path):
    found = detect({**KAGGLE, "PATH": path_with(tmp_path / "bin", answering(T4_X2))}, root)
    assert [gpu.name for gpu in found.require_gpus()] == ["Tesla T4", "Tesla T4"]
    assert found.problems == ()


def test_a_p100_is_kept_apart_and_refused_with_the_way_out(root, tmp_path):
    found = detect({**KAGGLE, "PATH": path_with(tmp_path / "bin", answering(P100))}, root)
    assert found.gpus == ()
    assert [gpu.name for gpu in found.refused_gpus] == ["Tesla P100-PCIE-16GB"]
    assert "torch has no kernels for it" in found.problems[0]
    with pytest.raises(NoGpu, match=r"capability 6\.0 and torch has no kernels for it.*--machine NvidiaTeslaT4.*--cpu"):
        found.require_gpus()


@pytest.mark.parametrize(("environ", "way_out"), [
    (KAGGLE, "no GPU to train on: no nvidia-smi on PATH; push with --machine NvidiaTeslaT4.*the account's phone is "
             "verified, at https://www.kaggle.com/settings; or use the CPU: --cpu"),
    ({**KAGGLE, "ISTPUVM": "1"}, "no nvidia-smi on PATH, but a TPU, and nothing here trains on one; push with"),
    (COLAB, "choose Runtime > Change runtime type > T4 GPU"), ({}, "python -m kaggle_runner dry-run"),
])
def test_no_gpu_has_a_way_out_on_every_host(root, environ, way_out):
    with pytest.raises(NoGpu, match=way_out):
        detect(environ, root).require_gpus()


@pytest.mark.parametrize("environ", [KAGGLE, COLAB])
def test_on_kaggle_and_colab_trials_get_a_cpu_only_where_it_was_asked_for(root, tmp_path, environ):
    with pytest.raises(NoGpu, match="no GPU to train on"):
        detect(environ, root).for_training(cpu_only=False)
    assert detect(environ, root).for_training(cpu_only=True).gpus == ()
    assert detect({}, root).for_training(cpu_only=False).gpus == ()
    found = detect({**environ, "PATH": path_with(tmp_path / "bin", answering(T4_X2))}, root)
    assert (len(found.for_training(cpu_only=False).gpus), found.for_training(cpu_only=True).gpus) == (2, ())


def test_a_broken_nvidia_smi_is_a_problem_and_not_a_crash(root, tmp_path):
    found = detect({"PATH": path_with(tmp_path / "bin", NO_DRIVER)}, root)
    assert "no GPU is used: nvidia-smi ended with status 9" in found.problems[0]


def test_hidden_gpus_are_not_found_and_the_reason_is(root, tmp_path):
    found = detect({"PATH": path_with(tmp_path / "bin", answering(T4_X2)), "CUDA_VISIBLE_DEVICES": ""}, root)
    assert found.gpus == ()
    assert found.reasons["gpus"] == "2 listed by nvidia-smi, 0 visible with CUDA_VISIBLE_DEVICES="


def test_missing_packages_are_named(root, tmp_path):
    """In a Python without packages, those of the standard library are enough to say so."""
    script = "from kaggle_runner.machine.environment import detect; print(*detect().missing_packages)"
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, timeout=250,
                          env={"PYTHONPATH": str(Path(__file__).parent.parent), "PATH": str(tmp_path)})
    assert done.stdout.split() == list(NEEDED_PACKAGES), done.stderr


def test_detect_imports_no_needed_package_and_starts_no_program(root):
    script = ("import sys; from kaggle_runner.machine.environment import detect; detect({}); "
              "print(*{name.split('.')[0] for name in sys.modules})")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250,
                          cwd=Path(__file__).parent.parent)
    assert not set(done.stdout.split()) & {*NEEDED_PACKAGES, "numpy", "subprocess", "netrc"}, done.stderr


def test_keys_are_reported_by_place_and_never_by_value(root):
    found = detect({"WANDB_API_KEY": PLANTED, "HF_TOKEN": PLANTED}, root)
    assert found.api_keys == {"wandb": "WANDB_API_KEY in the environment", "huggingface": "HF_TOKEN in the environment"}
    assert PLANTED not in repr(found) + json.dumps(found.as_dict())


def test_a_malformed_key_is_a_problem_and_not_a_crash(root):
    found = detect({"WANDB_API_KEY": "tooshort"}, root)
    assert found.api_keys["wandb"] == "found, but it cannot be used"
    assert "a W&B key has 40 or more" in found.problems[0]
    assert "tooshort" not in repr(found)


def test_everything_can_be_written_as_json(root, tmp_path):
    environ = {**KAGGLE, "PATH": path_with(tmp_path / "bin", answering(T4_X2))}
    values = json.loads(json.dumps(detect(environ, root).as_dict()))
    assert values["gpus"][1] == {
        "index": 1, "name": "Tesla T4", "memory_bytes": 15 * GIB, "compute_capability": [7, 5],
        "uuid": "GPU-22222222-bbbb-0000-0000-000000000000", "usable_bytes": 1456 * GIB // 100,
        "supports_bfloat16": False, "meaning": "float16, no bfloat16",
    }
    assert (values["ram_bytes"], values["ram_available_bytes"]) == (30 * GIB, 28 * GIB)
    assert values["writable_directory"] == str(root / "kaggle/working")


def test_the_real_machine_can_be_detected():
    found = detect()
    assert found.cpu_count >= 1
    assert 0 < found.ram_available_bytes <= found.ram_bytes
    assert found.disk_free_bytes > 0
    assert found.cpu_count <= len(os.sched_getaffinity(0))


@pytest.mark.slow
def test_a_hung_nvidia_smi_does_not_hang_detection(root, tmp_path):
    found = detect({**KAGGLE, "PATH": path_with(tmp_path / "bin", HANGING)}, root)
    assert "gave no answer in 15 s" in found.problems[0]
    assert len(found.gpu_problems) == 1, "and nothing of phones: Kaggle gave the session a GPU"
    with pytest.raises(NoGpu, match=r"gave no answer in 15 s, as with a hung driver; restart the session; or use the "
                                    r"CPU: --cpu$"):
        found.require_gpus()
