"""The built-in dataset: what it holds, that it is the same everywhere, and that pretraining never sees its split."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.errors import DataError
from kaggle_runner.training.data import builtin_docs

PRINT_HASH = """
import hashlib
from kaggle_runner.training.data import builtin_docs
print(hashlib.sha256(repr((builtin_docs.rows(), builtin_docs.fingerprint())).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    return builtin_docs.rows()


def test_there_are_thousands_of_rows(rows: list[tuple[str, str]]) -> None:
    assert len(rows) > 4000
    assert {kind for prompt, _ in rows for kind in ("class", "function", "method", "module") if kind in prompt} == {
        "class",
        "function",
        "method",
        "module",
    }


def test_known_names_are_answered_by_their_docstrings(rows: list[tuple[str, str]]) -> None:
    answers = {re.search("`(.*)`", prompt).group(1): completion for prompt, completion in rows}
    assert answers["len"] == "Return the number of items in a container."
    assert answers["math.factorial"].startswith("Find n!")
    assert answers["textwrap.dedent"].startswith("Remove any common leading whitespace from every line in `text`.")
    assert "try" in answers


def test_another_process_with_another_hash_seed_builds_the_same_rows(rows: list[tuple[str, str]]) -> None:
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    root = Path(builtin_docs.__file__).parents[3]
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
    printed = subprocess.run([sys.executable, "-c", PRINT_HASH], env=environment, capture_output=True, text=True)
    here = hashlib.sha256(repr((rows, builtin_docs.fingerprint())).encode()).hexdigest()
    assert (printed.stderr, printed.stdout.strip()) == ("", here)


def test_no_prompt_and_no_answer_comes_twice(rows: list[tuple[str, str]]) -> None:
    assert len({prompt for prompt, _ in rows}) == len({completion for _, completion in rows}) == len(rows)


def test_rows_are_sorted_by_prompt(rows: list[tuple[str, str]]) -> None:
    assert rows == sorted(rows)


def test_answers_are_one_line_of_bounded_length(rows: list[tuple[str, str]]) -> None:
    for _, completion in rows:
        assert completion == builtin_docs.normalized(completion)
        assert builtin_docs.MIN_CHARACTERS <= len(completion) <= builtin_docs.MAX_COMPLETION_CHARACTERS
        assert ">>>" not in completion


def test_prompts_hold_public_names_and_no_signatures(rows: list[tuple[str, str]]) -> None:
    for prompt, _ in rows:
        name = re.search("`(.*)`", prompt).group(1)
        assert "(" not in prompt
        assert not any(part.startswith("_") for part in name.split("."))


def test_a_changed_signature_or_docstring_leaves_the_prompt_alone(tmp_path: Path) -> None:
    functions = "\n".join(
        f'def f{n}():\n    """Return the number {n}, as often as it is asked."""' for n in range(3000)
    )
    before, after = tmp_path / "before", tmp_path / "after"
    for folder, text in ((before, functions), (after, functions.replace("():", "(*, new: int = 0):"))):
        folder.mkdir()
        (folder / "numbers_of.py").write_text(text)
    assert builtin_docs.rows(before) == builtin_docs.rows(after)
    assert ("numbers_of.f7", "Return the number 7, as often as it is asked.") in [
        (re.search("`(.*)`", prompt).group(1), completion) for prompt, completion in builtin_docs.rows(after)
    ]


def test_a_file_that_does_not_parse_is_left_out(tmp_path: Path) -> None:
    functions = "\n".join(
        f'def f{n}():\n    """Return the number {n}, as often as it is asked."""' for n in range(3000)
    )
    (tmp_path / "good.py").write_text(functions)
    (tmp_path / "bad.py").write_text('def broken(:\n    """Return what nobody can ever return from here."""')
    prompts = [prompt for prompt, _ in builtin_docs.rows(tmp_path)]
    assert any("good.f1`" in prompt for prompt in prompts)
    assert not any("bad" in prompt for prompt in prompts)


def test_a_standard_library_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run a Python that has its \.py sources unzipped, or name another dataset"):
        builtin_docs.rows(tmp_path)


def test_nothing_held_out_is_read_by_pretraining(rows: list[tuple[str, str]]) -> None:
    training, held_out = builtin_docs.split_documents()
    everything = "\n".join(map(builtin_docs.normalized, training))
    forbidden = [
        completion
        for prompt, completion in rows
        if builtin_docs.held_out_fraction(prompt) < builtin_docs.PRETRAINING_HOLDS_OUT
    ]
    assert len(forbidden) > 0.08 * len(rows)
    assert [completion for completion in forbidden if completion in everything] == []
    assert not set(training) & set(held_out)
    assert len(training) > 4000


def test_the_validation_split_lies_inside_what_pretraining_holds_out(rows: list[tuple[str, str]]) -> None:
    fractions = sorted(builtin_docs.held_out_fraction(prompt) for prompt, _ in rows)
    assert fractions[min(500, len(rows) // 20)] < 0.75 * builtin_docs.PRETRAINING_HOLDS_OUT


def test_the_held_out_fraction_is_the_sha256_of_the_prompt() -> None:
    whole = int(hashlib.sha256(b"What is it?").hexdigest(), 16) / 2**256
    assert builtin_docs.held_out_fraction("What is it?") == pytest.approx(whole, abs=1e-12)


def test_the_fingerprint_names_the_python_version() -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(rf"python-{version}-[0-9a-f]{{16}}", builtin_docs.fingerprint())
