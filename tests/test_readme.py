"""The README tells the truth: its commands run, its modules exist, its sweep file is good."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.sweep.spec import read_sweep

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands():
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    return [line.split(" && ")[-1] for line in lines]


def test_the_first_screen_has_the_two_commands():
    first_screen = README.splitlines()[:45]
    assert 'pip install -c environments/local.txt -e ".[local]" && python -m kaggle_runner dry-run' in first_screen
    assert 'pip install -c environments/local.txt -e ".[test]" && pytest' in first_screen


@pytest.mark.slow
def test_every_command_runs(tmp_path):
    """In their order, in one empty folder, with the package installed; but for pytest, which is running.

    Of the first sweep two of its eight trials; `benchmarks/warm_vs_cold.py` runs them all.
    """
    bin_directory = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_directory}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for command in commands():
        if command == "pytest":
            continue
        if command.endswith(" dry-run"):
            command += " --count 2"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_sweep_file_it_shows_has_no_problem(tmp_path):
    (file,) = blocks("yaml")
    (tmp_path / "readme.yaml").write_text(file)
    assert not read_sweep(tmp_path / "readme.yaml").warnings


def test_the_problems_it_shows_are_what_a_user_sees(tmp_path):
    (tmp_path / "bad.yaml").write_text(
        "method: bayes\nmetric: {name: eval/loss, goal: min}\nparameters:\n"
        "  learning_rate: {distribution: log_uniform_values, min: 1.0e-5, max: 2e-4}\n  lora_rr: {value: 8}\n")
    command = [sys.executable, "-m", "kaggle_runner", "dry-run", "bad.yaml"]
    done = subprocess.run(command, capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    assert done.stderr in README


def test_the_table_of_modules_is_what_the_modules_say_of_themselves():
    package = ROOT / "kaggle_runner"
    expected = [f"| `{path.relative_to(package).as_posix()}` | {first_line(path)} |"
                for path in sorted(package.rglob("*.py")) if not path.stem.startswith("__")]
    table = [line for line in README.splitlines() if re.match(r"\| `[\w/]+\.py` \|", line)]
    assert table == expected, "the table should be:\n" + "\n".join(expected)


def first_line(path):
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0].rstrip(".")
