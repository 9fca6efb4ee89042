"""Files that are written whole or not at all, and the folders that names make."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.errors import StudyError
from kaggle_runner.files import folder_name, replacing, write_atomically

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("label", ["demo", "lora_t4", "My sweep 2", "v1.2-b", "größe", "日本"])
def test_a_plain_name_is_its_own_folder(label):
    assert folder_name(label) == label


@pytest.mark.parametrize(("label", "folder"), [
    ("../../x", "x"), ("/abs", "abs"), ("a/b", "a-b"), (".", "unnamed"), ("..", "unnamed"), ("", "unnamed"),
    ("two\nlines", "two-lines"), ("nul\0byte", "nul-byte"), ("../..", "unnamed"), ("~/x", "x"), ("  ", "unnamed"),
    ("a" * 300, "a" * 100), ("c:\\x", "c-x")])
def test_a_name_that_could_be_a_path_is_one_folder_all_the_same(tmp_path, label, folder):
    assert folder_name(label) == folder
    assert (tmp_path / folder_name(label)).resolve().parent == tmp_path


def test_what_fails_while_it_is_written_changes_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("the power went")

    with pytest.raises(OSError, match="the power went"):
        write_half()
    assert (path.read_text(), list(tmp_path.iterdir())) == ("before", [path])


def test_a_folder_that_is_missing_is_made(tmp_path):
    write_atomically(tmp_path / "new" / "file", "text")
    assert (tmp_path / "new" / "file").read_text() == "text"


def test_a_place_that_is_a_file_is_named_with_the_way_out(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StudyError, match=r"cannot write .*taken/file: File exists; give another one"):
        write_atomically(tmp_path / "taken" / "file", "text", way_out="give another one")


def test_what_is_no_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, Path("")):
        with pytest.raises(StudyError, match="it is no file; give another one"):
            write_atomically(place, "text", way_out="give another one")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("place", ["/proc/x.py", "{folder}/is_a_file/x.py"])
def test_a_launcher_that_cannot_be_written_is_not_a_study(tmp_path, place):
    (tmp_path / "is_a_file").write_text("")
    place = place.format(folder=tmp_path)
    done = subprocess.run([sys.executable, "-m", "kaggle_runner", "kernel", "launcher", "sweeps/demo.yaml",
                           "--out", place], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: cannot write {place}: ")
    assert last.endswith("; choose another file with --out")
    assert "Traceback" not in done.stderr
