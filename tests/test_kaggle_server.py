"""The loopback Kaggle itself, driven by the real `kaggle` program: its rules, its habits, and that it really runs."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.standins.kaggle_server import KEY, OWNER, PROGRAM, TOKEN, KaggleServer

pytestmark = pytest.mark.skipif(not Path(PROGRAM).exists(), reason="the kaggle program is not installed")


class Account:
    """The real program, pointed at one loopback server."""

    def __init__(self, server: KaggleServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.environment = {"PATH": os.environ["PATH"], **server.client_environment(directory / "home")}

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([PROGRAM, "-W", *arguments], cwd=self.directory, capture_output=True, text=True,
                              timeout=200, env={**self.environment, **environ})

    def folder(self, source: str, **metadata: object) -> str:
        """Write a kernel's folder and return its name."""
        folder = self.directory / "kernel"
        folder.mkdir(exist_ok=True)
        (folder / "script.py").write_text(source)
        (folder / "kernel-metadata.json").write_text(json.dumps({
            "id": f"{OWNER}/kernel-one", "title": "kernel one", "code_file": "script.py", "language": "python",
            "kernel_type": "script", "is_private": True, "enable_gpu": False, "enable_internet": True, **metadata}))
        return folder.name


@pytest.fixture
def account(tmp_path):
    with KaggleServer(tmp_path / "server") as server:
        yield Account(server, tmp_path)
        assert server.leaks == []


def test_a_push_runs_in_a_directory_laid_out_like_kaggles(account):
    account.server.add_dataset("my-rows", {"rows.csv": b"a\n1\n"})
    (account.directory / "kernel").mkdir()
    (account.directory / "kernel" / "sibling.py").write_text("x = 1")
    folder = account.folder(
        "import os, subprocess, sys\n"
        "root = os.environ['KAGGLE_RUNNER_ROOT']\n"
        "print(sys.argv[1:], os.path.relpath(os.getcwd(), root), os.listdir(os.path.dirname(__file__)), flush=True)\n"
        "print(open(root + '/kaggle/input/datasets/tester/my-rows/rows.csv').read().split())\n"
        "print(subprocess.check_output(['nvidia-smi', '--query-gpu=name,memory.total',"
        " '--format=csv,noheader'], text=True))\n"
        "print(os.environ['KAGGLE_KERNEL_RUN_TYPE'], 'COLAB_RELEASE_TAG' in os.environ)\n"
        "from kaggle_secrets import UserSecretsClient\n"
        "try:\n    UserSecretsClient().get_secret('wandb')\n"
        "except ConnectionError as error:\n    print(error)\n"
        "os.makedirs('sub')\n"
        "open('sub/result.json', 'w').write('{}')\n",
        enable_gpu=True, machine_shape="NvidiaTeslaP100", dataset_sources=["tester/my-rows"])
    pushed = account.run("kernels", "push", "-p", folder)
    assert f"Kernel version 1 successfully pushed.  Please check progress at https://www.kaggle.com/code/{OWNER}/" \
           f"kernel-one" in pushed.stdout
    followed = account.run("kernels", "logs", "-f", f"{OWNER}/kernel-one")
    assert followed.stdout.split("\n")[:6] == [
        "[] kaggle/working ['script.py']", "['a', '1']", "Tesla T4, 15360 MiB", "Tesla T4, 15360 MiB", "", "Batch True"]
    assert "Connection error trying to communicate with service." in followed.stdout
    account.server.wait("kernel-one")
    account.run("kernels", "output", f"{OWNER}/kernel-one", "-p", "out")
    assert (account.directory / "out" / "sub" / "result.json").read_text() == "{}"
    assert json.loads((account.directory / "out" / "kernel-one.log").read_text())[0]["stream_name"] == "stdout"
    assert "sub/result.json" in account.run("kernels", "files", f"{OWNER}/kernel-one").stdout
    account.run("kernels", "pull", f"{OWNER}/kernel-one", "-m", "-p", "pulled")
    saved = json.loads((account.directory / "pulled" / "kernel-metadata.json").read_text())
    assert (saved["machine_shape"], saved["is_private"], saved["dataset_sources"]) == \
        ("NvidiaTeslaT4", True, ["tester/my-rows"])


def test_a_failed_script_keeps_no_output_and_its_log_stays(account):
    folder = account.folder("open('kept.txt', 'w')\nprint('so far')\nraise SystemExit(3)\n")
    account.run("kernels", "push", "-p", folder)
    account.server.wait("kernel-one")
    assert 'has status "KernelWorkerStatus.ERROR"' in account.run("kernels", "status", f"{OWNER}/kernel-one").stdout
    assert "kept.txt" not in account.run("kernels", "files", f"{OWNER}/kernel-one").stdout
    assert "so far" in account.run("kernels", "logs", f"{OWNER}/kernel-one").stdout


def test_a_script_over_its_time_limit_is_cancelled_and_keeps_nothing(account):
    folder = account.folder("import time\nopen('kept.txt', 'w')\ntime.sleep(60)\n")
    account.run("kernels", "push", "-p", folder, "--timeout", "1")
    assert account.server.wait("kernel-one").status == "CANCEL_ACKNOWLEDGED"
    assert account.server.session("kernel-one").outputs() == {}


def test_refusals_come_with_exit_status_zero(account):
    gpu = account.folder("print(1)", enable_gpu=True)
    account.server.other_gpu_sessions = 2
    refused = account.run("kernels", "push", "-p", gpu)
    assert (refused.returncode, refused.stdout) == \
        (0, "Kernel push error: Maximum batch GPU session count of 2 reached.\n")
    account.server.other_gpu_sessions, account.server.used_hours = 0, 30.0
    assert "Maximum weekly GPU quota of 30.00 hours reached" in account.run("kernels", "push", "-p", gpu).stdout
    folder = account.folder("print(1)", dataset_sources=["tester/no-such"], kernel_sources=["tester/no-such-kernel"])
    dropped = account.run("kernels", "push", "-p", folder)
    assert "not valid dataset sources and could not be added to the kernel: ['tester/no-such']" in dropped.stdout
    assert "not valid kernel sources and could not be added to the kernel: ['tester/no-such-kernel']" in dropped.stdout
    assert ("successfully pushed" in dropped.stdout, dropped.returncode) == (True, 0)


def test_refusals_with_an_exit_status(account):
    big = account.run("kernels", "push", "-p", account.folder("#" * 1_000_001))
    assert (big.returncode, "less than 1 megabytes" in big.stderr) == (1, True)
    wrong = account.run("kernels", "push", "-p", account.folder("1"), KAGGLE_KEY="wrong")
    assert (wrong.returncode, "Authentication required" in wrong.stdout) == (1, True)
    absent = account.run("kernels", "status", f"{OWNER}/kernel-one")
    assert (absent.returncode, "Permission 'kernels.get' was denied" in absent.stderr) == (1, True)


def test_a_new_kernel_lands_under_the_slug_of_its_title(account):
    pushed = account.run("kernels", "push", "-p", account.folder("1", title="another name"))
    assert "does not resolve to the specified id" in pushed.stdout
    assert pushed.stdout.rstrip().endswith(f"/code/{OWNER}/another-name")
    assert account.run("kernels", "push", "-p", account.folder("1", title="another name")).returncode == 1


def test_a_log_that_is_cut_starts_again_from_its_beginning(account):
    account.server.log_cuts = [(2, "silent")]
    account.run("kernels", "push", "-p", account.folder(
        "import os, time\nprint(0)\nprint(1, flush=True)\n"
        "while not os.path.exists(os.environ['HOME'] + '/go'):\n    time.sleep(0.05)\nprint(2)\n"))
    account.server.wait("kernel-one", until=("RUNNING",))
    first = account.run("kernels", "logs", "-f", f"{OWNER}/kernel-one")
    assert (first.returncode, first.stdout) == (0, "0\n1\n")
    (account.server.session("kernel-one").root / "home" / "go").touch()
    assert account.run("kernels", "logs", "-f", f"{OWNER}/kernel-one").stdout == "0\n1\n2\n"


def test_datasets_are_uploaded_processed_and_mounted_in_either_layout(account):
    account.server.processing_s, account.server.old_layout = 3600, True
    folder = account.directory / "rows"
    folder.mkdir()
    (folder / "rows.csv").write_text("a\n1\n")
    (folder / "dataset-metadata.json").write_text(json.dumps(
        {"id": f"{OWNER}/my-rows", "title": "my rows", "licenses": [{"name": "other"}]}))
    assert "is being created" in account.run("datasets", "create", "-p", "rows").stdout
    assert "denied" in account.run("datasets", "status", f"{OWNER}/my-rows").stderr
    account.server.datasets["my-rows"].ready = 0
    assert account.run("datasets", "status", f"{OWNER}/my-rows").stdout == "ready"
    source = "import os\nprint(open(os.environ['KAGGLE_RUNNER_ROOT'] + '/kaggle/input/my-rows/rows.csv').read())\n"
    account.run("kernels", "push", "-p", account.folder(source, dataset_sources=[f"{OWNER}/my-rows"]))
    assert account.server.wait("kernel-one").log[0]["data"] == "a\n"


def test_a_token_works_and_brings_the_warning_above_the_answer(account):
    asked = account.run("quota", "--format", "json", KAGGLE_USERNAME="", KAGGLE_KEY="", KAGGLE_API_TOKEN=TOKEN)
    assert asked.stdout.startswith("Warning: Looks like you're using an outdated `kaggle`")
    assert json.loads(asked.stdout[asked.stdout.index("["):])[0]["remaining"] == "28.50h"
    assert KEY not in asked.stdout


def test_a_request_to_the_real_kaggle_is_refused_and_recorded(tmp_path):
    with KaggleServer(tmp_path / "server") as server:
        environment = {"PATH": os.environ["PATH"], **server.client_environment(tmp_path / "home")}
        del environment["KAGGLE_API_ENVIRONMENT"]
        asked = subprocess.run([PROGRAM, "-W", "quota"], env=environment, capture_output=True, text=True, timeout=200)
        assert asked.returncode == 1
        assert server.leaks == ["CONNECT api.kaggle.com:443"]
