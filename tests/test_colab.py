"""Colab's notebook and the launcher on a machine laid out like Colab's, as far as a CPU goes; never tried on Colab."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from kaggle_runner.study.journal import read_study
from kaggle_runner.sweep.yaml_file import shipped_sweep

REPOSITORY = Path(__file__).parent.parent
SMALL = {"samples": 64, "max_eval_samples": 8, "max_length": 48, "max_steps": 2, "eval_steps": 2}


@pytest.fixture
def colab(tmp_path, monkeypatch, tiny_llama, rows_file):
    """The root of a machine with Colab's marks, and the environment of its notebook."""
    root = tmp_path / "root"
    (root / "content").mkdir(parents=True)
    text = shipped_sweep("demo").read_text().replace("name: demo", "name: mine")
    for key, value in {"model": tiny_llama, "dataset": rows_file, **SMALL}.items():
        start = text.index(f"  {key}:\n    value: ")
        end = text.index("\n", text.index("value: ", start))
        text = f"{text[:start]}  {key}:\n    value: {value}{text[end:]}"
    (tmp_path / "mine.yaml").write_text(text)
    made = run(tmp_path, "kernel", "launcher", "mine.yaml", "--count", "1", "--cpu",
               "--out", str(root / "content" / "kernel_launcher.py"))
    assert "colab run --gpu T4 --timeout 39600 " in made.stdout
    for name, value in {"COLAB_RELEASE_TAG": "release-colab-external", "KAGGLE_RUNNER_ROOT": str(root),
                        "HOME": str(tmp_path), "KAGGLE_RUNNER_CACHE": str(tmp_path / "cache"),
                        "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1",
                        "IPYTHONDIR": str(tmp_path / "ipython")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return root


def run(directory, *arguments):
    done = subprocess.run([sys.executable, "-m", "kaggle_runner", *arguments], cwd=directory, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, timeout=250)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_the_notebook_runs_a_sweep_into_the_study_on_drive(colab):
    (colab / "content" / "drive" / "MyDrive").mkdir(parents=True)
    notebook = nbformat.read(REPOSITORY / "colab.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert len((REPOSITORY / "colab.ipynb").read_bytes()) < 4000
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(colab / "content")}}).execute()
    first, second = ["".join(output.get("text", "") for output in cell.outputs)
                     for cell in notebook.cells if cell.cell_type == "code"]
    assert first.startswith("warning: Google Drive is not mounted (No module named 'google")
    assert "on colab (COLAB_RELEASE_TAG is set" in second
    assert "1 trial is finished" in second
    kept = colab / "content" / "drive" / "MyDrive" / "kaggle_runner"
    assert len(read_study(kept / "studies" / "mine").finished) == 1
    assert json.loads((kept / "result.json").read_text())["verdict"] == "done"


def test_without_drive_the_launcher_warns_and_keeps_its_exit_status(colab):
    script = (colab / "content" / "kernel_launcher.py").read_text().replace('["sweep", ', '["show", ', 1)
    (colab / "content" / "script.py").write_text(f"import sys; sys.argv = ['script.py']\n{script}")
    done = subprocess.run([sys.executable, "script.py"], cwd=colab / "content", capture_output=True, text=True,
                          timeout=250)
    assert "warning: google drive is not mounted, so the study is lost with the session; run this in a cell" in \
        done.stderr
    assert done.returncode == 2, "what `colab run` exits with"
