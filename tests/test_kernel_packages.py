"""Installing on a kernel: with the real pip, from wheels under the inputs, into a Python of the test's own."""

import base64
import hashlib
import json
import os
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

from kaggle_runner.kernel import packages
from kaggle_runner.kernel.packages import FROZEN, NEEDS, Need, find_wheels, frozen_versions, install_missing

REPOSITORY = Path(__file__).parent.parent
INSTALL = """
import json, os, sys
from pathlib import Path
from kaggle_runner.errors import HostError
from kaggle_runner.kernel.packages import Need, install_missing
told = []
need = Need(module="tinywheel", name="tinywheel", minimum="1.0", feature="tiny things")
try:
    done = install_missing([need], Path(sys.argv[1]), os.environ, told.append)
    print(json.dumps({"installed": done.installed, "lost": done.lost, "told": told}))
except HostError as error:
    print(json.dumps({"error": str(error), "told": told}))
"""


def make_wheel(folder, name, version, requires=()):
    """Write a wheel with one module of the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {f"{name}.py": "", f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
             f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {other}\n" for other in requires)}
    record = ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(content)}\n"
            wheel.writestr(path, content)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")


def test_a_package_that_pip_left_half_installed_is_not_there(tmp_path, monkeypatch):
    """Its module is there, and the folder of its facts is empty."""
    (tmp_path / "halfway.py").touch()
    (tmp_path / "halfway-2.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not Need(module="halfway", name="halfway", minimum="1.0", feature="tests").is_met()


@pytest.fixture
def kernel_python(tmp_path):
    """A Python of its own with this test's pip, and a numpy of the image that must not move."""
    pytest.importorskip("pip")
    import packaging
    import pip

    directory = tmp_path / "python"
    venv.create(directory, with_pip=False, symlinks=True)
    site = next((directory / "lib").glob("python3.*/site-packages"))
    for package in (pip, packaging):
        (site / package.__name__).symlink_to(Path(package.__file__).parent)
    image = site / "numpy-2.0.2.dist-info"
    image.mkdir()
    (image / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.0.2\n")
    (site / "numpy.py").write_text("")

    def install(inputs, **environ):
        ran = subprocess.run(
            [directory / "bin" / "python", "-c", INSTALL, inputs], capture_output=True, text=True, timeout=250,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY),
                 "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0",
                 **environ})
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return install


def test_a_missing_package_is_installed_from_a_wheel_under_the_inputs_without_a_network(kernel_python, tmp_path):
    inputs = tmp_path / "input"
    make_wheel(inputs / "datasets" / "tester" / "wheels", "tinywheel", "1.2", requires=["numpy>=2"])
    done = kernel_python(inputs)
    assert (done["installed"], done["lost"]) == (["tinywheel 1.2"], [])
    assert done["told"][0] == "install tinywheel, with 1 packages of the image frozen"
    assert kernel_python(inputs) == {"installed": [], "lost": [], "told": []}


def test_a_package_that_would_move_one_of_the_image_is_not_installed_and_its_feature_is_said(kernel_python, tmp_path):
    inputs = tmp_path / "input"
    make_wheel(inputs / "wheels", "tinywheel", "1.2", requires=["numpy>=3"])
    make_wheel(inputs / "wheels", "numpy", "3.0")
    done = kernel_python(inputs)
    assert done["installed"] == []
    assert done["lost"][0].startswith("no tiny things: tinywheel is not installed (")
    assert done["lost"][0].endswith("turn the kernel's internet on, or attach a dataset with its wheel")
    assert done["told"][1] == f"warning: {done['lost'][0]}"


def test_a_pip_that_moves_a_package_of_the_image_all_the_same_ends_the_session(kernel_python, tmp_path):
    (site,) = (tmp_path / "python" / "lib").glob("python3.*/site-packages")
    (site / "pip").unlink()
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text(  # it takes no notice of its constraints
        "from pathlib import Path\n"
        "site = Path(__file__).parent.parent\n"
        "(site / 'tinywheel.py').touch()\n"
        "(site / 'numpy-2.0.2.dist-info').rename(site / 'numpy-3.0.dist-info')\n"
        "(site / 'numpy-3.0.dist-info' / 'METADATA').write_text('Name: numpy\\nVersion: 3.0\\n')\n"
        "(site / 'tinywheel-1.2.dist-info').mkdir()\n"
        "(site / 'tinywheel-1.2.dist-info' / 'METADATA').write_text('Name: tinywheel\\nVersion: 1.2\\n')\n")
    assert kernel_python(tmp_path / "input")["error"] == (
        "installing moved packages that the image was built with: numpy 2.0.2 -> 3.0; a session with them would fail "
        "in odd ways, so it ends here; pin a docker image that has tinywheel")


def test_without_a_wheel_and_without_a_network_the_feature_is_lost_and_said(kernel_python, tmp_path):
    (tmp_path / "input").mkdir()
    done = kernel_python(tmp_path / "input")
    assert "tinywheel is not installed" in done["lost"][0]


def test_an_old_version_counts_as_missing(tmp_path):
    assert not Need(module="pytest", name="pytest", minimum="999.0", feature="x").is_met()
    assert Need(module="pytest", name="pytest", minimum="7.0", feature="x").is_met()
    assert not Need(module="no_such_module", name="no-such-module", minimum="0", feature="x").is_met()
    assert install_missing([NEEDS[-1]], tmp_path, {}, print).lost == ()


def test_a_package_that_is_too_old_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "tinywheel.py").touch()
    (tmp_path / "tinywheel-0.9.dist-info").mkdir()
    (tmp_path / "tinywheel-0.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: t\nVersion: 0.9\n")
    monkeypatch.syspath_prepend(tmp_path)
    need, told = Need(module="tinywheel", name="tinywheel", minimum="1.0", feature="tiny things"), []
    environ = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    (lost,) = install_missing([need], tmp_path / "none", environ, told.append).lost
    assert lost.startswith("tiny things may fail: tinywheel 0.9 is installed, and 1.0 is needed (")
    assert lost.endswith("); turn the kernel's internet on, or attach a dataset with its wheel")


def test_a_package_of_the_image_that_is_too_old_has_another_image_as_its_way_out(tmp_path, monkeypatch):
    (tmp_path / "peft-0.9.dist-info").mkdir()
    (tmp_path / "peft-0.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.9\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "_install", lambda *given: "")  # as pip, which the constraints hold back
    need = next(need for need in NEEDS if need.name == "peft")
    (lost,) = install_missing([need], tmp_path / "none", {}, lambda text: None).lost
    assert lost == ("fine-tuning with LoRA may fail: peft 0.9 is installed, and 0.17 is needed (pip changed nothing); "
                    "push with --image of a newer image, or turn the kernel's internet on, or attach a dataset with "
                    "its wheel")


def test_wheels_are_searched_for_breadth_first_and_only_so_far(tmp_path):
    make_wheel(tmp_path / "datasets" / "a" / "b", "tinywheel", "1.0")
    (tmp_path / "many").mkdir()
    for number in range(50):
        (tmp_path / "many" / f"{number}.png").touch()
    assert find_wheels(tmp_path) == (tmp_path / "datasets" / "a" / "b",)
    assert find_wheels(tmp_path, limit_entries=3) == ()
    assert find_wheels(tmp_path / "absent") == ()


def test_only_what_the_image_was_built_with_is_frozen():
    assert all(name in FROZEN or name.startswith("nvidia-") for name in frozen_versions())
