"""The README and the pages of docs/ tell the truth: commands run, files are good, links lead somewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.study.journal import JOURNAL
from kaggle_runner.sweep.spec import read_configuration, read_sweep
from tests.documents import PAGES, README, ROOT, anchors, blocks, names_of_rows, section, text

NEVER_RUN = {"pytest"}
"""The second command of the README is running when this is."""


def run(command, directory):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                   "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, shell=True, capture_output=True, text=True, cwd=directory, env=environment)


def test_the_first_screen_has_the_two_commands():
    first_screen = text(README).splitlines()[:45]
    assert 'pip install -c environments/local.txt -e ".[local]" && python -m kaggle_runner dry-run' in first_screen
    assert 'pip install -c environments/local.txt -e ".[test]" && pytest' in first_screen


def test_the_readme_fits_two_screens_and_contributing_one():
    assert len(text(README).splitlines()) <= 150
    assert len(text(ROOT / "CONTRIBUTING.md").splitlines()) <= 80


def test_every_page_is_walked_by_these_tests():
    assert set(PAGES) == {README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")}


@pytest.mark.slow
@pytest.mark.timeout(2400)  # they compute for 240 s
def test_every_command_and_every_python_block_runs(tmp_path):
    """In their order, page after page, in one empty folder with the package installed.

    Of the first sweep two of its eight trials; `benchmarks/warm_vs_cold.py` runs them all. A YAML block whose opening
    line names a file is written there first. A line that several pages show, word for word, is run at the first one.
    """
    seen = set(NEVER_RUN)
    for page in PAGES:
        for language, name, content in blocks(page):
            if language == "yaml" and name:
                (tmp_path / name).write_text(content)
            elif language == "python":
                (tmp_path / "block.py").write_text(content)
                done = run(f"{sys.executable} block.py", tmp_path)
                assert done.returncode == 0, f"{page.name}\n{content}\n{done.stdout}\n{done.stderr}"
            elif language == "sh":
                for line in content.splitlines():
                    command = line.split(" && ")[-1]
                    if command.endswith(" dry-run"):
                        command += " --count 2"
                    if command not in seen:
                        seen.add(command)
                        done = run(command, tmp_path)
                        assert done.returncode == 0, f"{page.name}: {command}\n{done.stdout}\n{done.stderr}"
    undocumented = {name for path in tmp_path.rglob(JOURNAL) for name in names_in_journal(path)}
    assert not undocumented - documented(), "docs/study-directory.md lacks them"


def names_in_journal(path):
    """Return (event, field) of all that a study's journal and histories hold."""
    for line in path.read_text().splitlines():
        event = json.loads(line)
        kind = event.pop("event")
        event.pop("time")
        event.pop("digest", None)  # of the line itself
        event.pop("by", None)  # of a start, and explained below its table
        inner = {"start": "trial", "end": "result"}.get(kind)
        fields = event.pop(inner) if inner else event
        assert not (inner and event)
        yield from ((kind, name) for name in fields)
        if kind == "end":
            yield from (("notes", name) for name in fields["notes"])
    for history in path.parent.glob("trials/*/history.jsonl"):
        for line in history.read_text().splitlines():
            yield from (("history", name) for name in json.loads(line) if name != "digest")


def documented():
    page = ROOT / "docs" / "study-directory.md"
    titles = {event: f"`{event}`" for event in ("study", "session", "baseline", "rows", "claim", "start", "end")}
    titles |= {"notes": "The notes of a trial", "history": "The history of a trial"}
    return {(kind, name) for kind, title in titles.items() for name in names_of_rows(section(page, title))}


def test_each_example_runs(tmp_path):
    done = run(f"{sys.executable} {ROOT}/examples/own_rows.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_sweep(tmp_path / "own.yaml").run_cap == 3
    done = run(f"{sys.executable} {ROOT}/examples/on_colab.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SmolLM2-135M" in (tmp_path / "for_colab" / "own.yaml").read_text()
    assert (tmp_path / "for_colab" / "kernel_launcher.py").stat().st_size < 250_000


@pytest.mark.slow
def test_the_examples_of_own_rows_and_of_reading_a_study_work_together(tmp_path):
    for command in (f"{sys.executable} {ROOT}/examples/own_rows.py",
                    f"{sys.executable} -m kaggle_runner dry-run own.yaml --count 1 --study studies/own",
                    f"{sys.executable} {ROOT}/examples/read_a_study.py studies/own"):
        done = run(command, tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert done.stdout.startswith("own: 1 finished trial; the untouched base has ")
    assert "best trial, step 10: eval/loss " in done.stdout


def test_the_yaml_files_they_show_have_no_problem(tmp_path):
    shown = [(page, content) for page in PAGES for language, _, content in blocks(page) if language == "yaml"]
    assert len(shown) > 2
    for page, content in shown:
        file = tmp_path / f"{page.stem}.yaml"
        file.write_text(content)
        read = read_sweep if "\nparameters:" in content else read_configuration
        assert not read(file).warnings, page


def test_the_problems_they_show_are_what_a_user_sees(tmp_path):
    (tmp_path / "bad.yaml").write_text(
        "method: bayes\nmetric: {name: eval/loss, goal: min}\nparameters:\n"
        "  learning_rate: {distribution: log_uniform_values, min: 1.0e-5, max: 2e-4}\n  lora_rr: {value: 8}\n")
    done = run(f"{sys.executable} -m kaggle_runner dry-run bad.yaml", tmp_path)
    assert done.returncode == 1
    assert done.stderr in text(ROOT / "docs" / "sweep-files.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE))
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert "://" in link or target.exists(), f"{page.name}: {link}"
        assert not anchor or "://" in link or anchor in anchors(target), f"{page.name}: {link}"


def test_the_tree_of_the_readme_has_every_room():
    rooms = re.findall(r"^    (\w+)/ +\w", section(README, "The rooms of the code"), flags=re.MULTILINE)
    assert sorted(rooms) == sorted(path.name for path in (ROOT / "kaggle_runner").iterdir()
                                   if path.is_dir() and (path / "__init__.py").exists())
