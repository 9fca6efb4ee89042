"""The tables of docs/ against the code: hyperparameters, distributions, errors, exit statuses, journal, results."""

import ast
import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kaggle_runner import errors
from kaggle_runner.config import CharLMConfig, FinetuneConfig
from kaggle_runner.study.journal import StudyInfo
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.distributions import KEYS
from kaggle_runner.training.data.formats import LAYOUTS
from tests.documents import PAGES, ROOT, names_of_rows, section, text

DOCS = ROOT / "docs"


def field_docstrings(config_type):
    tree = ast.parse(Path(inspect.getfile(config_type)).read_text())
    (node,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == config_type.__name__]
    return {field.target.id: " ".join(docstring.value.value.split()).rstrip(".")
            for field, docstring in zip(node.body, node.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign) and isinstance(docstring, ast.Expr)}


@pytest.mark.parametrize(("config_type", "title"), [(FinetuneConfig, "The hyperparameters of a fine-tune"),
                                                    (CharLMConfig, "The hyperparameters of a character model")])
def test_the_table_of_hyperparameters_is_what_the_config_says_of_itself(config_type, title):
    docstrings = field_docstrings(config_type)
    expected = [f"| `{field.name}` | `{yaml.safe_dump(field.default).splitlines()[0]}` | {docstrings[field.name]} |"
                for field in dataclasses.fields(config_type)]
    table = re.findall(r"^\| `.*$", section(DOCS / "sweep-files.md", title), flags=re.MULTILINE)
    assert table == expected, "the table should be:\n" + "\n".join(expected)


def test_every_distribution_and_every_layout_is_in_the_page_of_sweep_files():
    named = set(re.findall(r"`(\w+)`", section(DOCS / "sweep-files.md", "How values are drawn")))
    assert KEYS.keys() - {"constant", "categorical", "categorical_w_probabilities"} <= named
    rows = section(DOCS / "sweep-files.md", "The rows of a dataset")
    for layout in LAYOUTS:
        assert {layout.completion, *layout.prompt} <= set(re.findall(r"`(\w+)`", rows)), layout.name


def test_every_kind_of_error_is_in_the_page_of_what_goes_wrong():
    kinds = {name for name, value in vars(errors).items()
             if isinstance(value, type) and issubclass(value, errors.KaggleRunnerError)}
    assert set(names_of_rows(section(DOCS / "when-it-goes-wrong.md", "The kinds of errors"))) == kinds


def test_every_exit_status_is_documented_with_what_to_do():
    of_kaggle = re.findall(r"^\| (\d+) \|", section(DOCS / "kaggle.md", "Exit statuses"), flags=re.MULTILINE)
    assert {int(refusal) for refusal in errors.Refusal} - {errors.Refusal.OTHER} <= set(map(int, of_kaggle))
    everywhere = set()
    for low, high in re.findall(r"^\| (\d+)(?: to (\d+))? \|", section(DOCS / "when-it-goes-wrong.md", "Exit statuses"),
                                flags=re.MULTILINE):
        everywhere.update(range(int(low), int(high or low) + 1))
    kinds = [value for value in vars(errors).values()
             if isinstance(value, type) and issubclass(value, errors.KaggleRunnerError)]
    used = {0, 2, errors.INTERRUPTED, *(kind.exit_status for kind in kinds), *map(int, errors.Refusal)}
    assert everywhere == used


def journal_rows(title):
    return names_of_rows(section(DOCS / "study-directory.md", title))


def test_the_page_of_the_journal_has_the_fields_of_its_types():
    assert journal_rows("`study`") == [field.name for field in dataclasses.fields(StudyInfo) if field.name != "created"]
    assert journal_rows("`start`") == [field.name for field in dataclasses.fields(Trial)]
    end = section(DOCS / "study-directory.md", "`end`")
    fields, statuses = end.split("A status means:")
    assert names_of_rows(fields) == [field.name for field in dataclasses.fields(TrialResult)]
    assert names_of_rows(statuses) == list(Status)


def test_every_event_that_is_written_has_a_part_of_the_page():
    source = "".join(path.read_text() for path in (ROOT / "kaggle_runner" / "study").glob("*.py"))
    written = set(re.findall(r'\.append\(\{"event": "(\w+)"', source))
    assert written == {"study", "session", "baseline", "rows", "claim", "start", "end"}
    assert written == set(re.findall(r"^### `(\w+)`$", text(DOCS / "study-directory.md"), flags=re.MULTILINE))


def test_every_result_is_one_short_line():
    lines = text(ROOT / "benchmarks" / "RESULTS.md").splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    assert rows
    assert not [row for row in rows if len(row) > 260 or len(row.split(" | ")) != 3]


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "standins").glob("*.py")), ids=lambda path: path.stem)
def test_every_stand_in_names_its_unpleasant_habits(path):
    docstring = ast.get_docstring(ast.parse(text(path)))
    assert re.search(r"\bhabits?\b|\bkinder\b", docstring), "where is it as unpleasant as the real thing?"


def test_the_modules_that_a_page_names_are_there():
    package = ROOT / "kaggle_runner"
    rooms = [path.name for path in package.iterdir() if path.is_dir()]
    for page in PAGES:
        named = re.findall(rf"`((?:{'|'.join(rooms)})/[\w/]+\.py)`", text(page))
        assert not [name for name in named if not (package / name).is_file()], page.name


def test_a_walk_names_the_rooms_that_a_command_visits(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "tools" / "walk.py", "kernel", "launcher", "sweeps/demo.yaml"],
                          cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "4 rooms (cli, kaggle, machine, sweep), " in done.stderr, done.stderr
