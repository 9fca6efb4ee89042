"""What a held-out row answers, as it is shown and kept: the answer alone, and whether it was cut."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from click.testing import CliRunner

from kaggle_runner.cli.main import cli
from kaggle_runner.config import FinetuneConfig
from kaggle_runner.model.talk.answers import Conversation
from kaggle_runner.report.write import write_page
from kaggle_runner.study.answers import ANSWERS, answers_of_trial
from kaggle_runner.training.data.render import Renderer
from kaggle_runner.training.data.tokens import encode
from kaggle_runner.training.data.turns import Row, Turn
from kaggle_runner.training.models.base_model import load_base
from kaggle_runner.training.models.written_answers import expected_of, keep_answers, question_of
from tests import test_metrics, test_render
from tests.test_tokens import ROWS, make_data
from tests.tiny_studies import train_study, write_rows

ANSWER = "a list\n\n  holds items"
TURNS = [Turn("user", "what?"), Turn("assistant", ANSWER), Turn("user", "what is it for?"), Turn("assistant", "all")]
PUBLIC = ("CHATML", "LLAMA_2", "LLAMA_3", "MISTRAL", "PHI_3", "ZEPHYR", "VICUNA", "ANSWERS_WITH_A_NAME")
TEMPLATES = {"plain": None, "gemma": test_metrics.GEMMA, "phi3": test_metrics.PHI_3,
             **{name: getattr(test_render, name) for name in PUBLIC}}
MARKS = ["<start_of_turn>", "<end_of_turn>", "<|end|>", "<|im_end|>", "<|eot_id|>"]


@pytest.fixture(scope="module")
def base(tiny_llama):
    return load_base(FinetuneConfig(model=str(tiny_llama), load_in_4bit=False), torch.device("cpu"))


@pytest.mark.parametrize("special", [True, False], ids=["marks", "words"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_answer_of_a_row_is_shown_without_what_its_template_writes_around_it(name, special, base, tmp_path):
    """`</s>` is no special token here, and with `words` no mark of a turn is."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base.tokenizer.name_or_path)
    tokenizer.chat_template = TEMPLATES[name]
    tokenizer.add_tokens(MARKS if special else [], special_tokens=True)
    base = replace(base, tokenizer=tokenizer)

    def shown(limit, *turns):
        data = make_data(ROWS, [Row(turns=turns)])
        config = FinetuneConfig(max_length=512, eval_max_length=limit)
        rows = encode(data, tokenizer, config, cache_directory=tmp_path / "cache").validation
        (asked,) = Conversation(base, None, rows, Renderer(tokenizer, train_on="all"), None, is_text=False).rows(5)
        keep_answers(tmp_path, base, rows, tuned=["no"], untouched=["no"])
        (kept,) = json.loads((tmp_path / ANSWERS).read_text())["rows"]
        assert kept["expected"] == asked.expected
        assert kept["cut"] == asked.is_cut
        return asked.expected, asked.is_cut, len(asked.tokens_T), int(rows.lengths[0])

    text, is_cut, start, length = shown(512, *TURNS[:2])
    assert (text, is_cut) == (ANSWER, False)
    assert shown(length, *TURNS[:2])[:2] == (ANSWER, False), "it fits exactly"
    text, is_cut, *_ = shown(start + 4, *TURNS[:2])
    assert is_cut
    assert 1 < len(text) < len(ANSWER)
    assert ANSWER.startswith(text)
    *end, second, _ = shown(512, *TURNS)
    assert end == ["all", False]
    if special or name not in ("phi3", "PHI_3"):  # which close the last answer of a row in another way
        assert shown(second - 2, *TURNS)[:2] == (ANSWER, False), "the cut is in the question after it"


@pytest.fixture
def shown_at(base, tmp_path):
    """Return a function that says what a row answers when it is cut at a limit, and where that begins and ends."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base.tokenizer.name_or_path)

    def shown(name, turns, limit=512, *, special=True, eos=True):
        tokenizer.chat_template = TEMPLATES[name]
        tokenizer.add_tokens(MARKS if special else [], special_tokens=True)
        if not eos:
            tokenizer.eos_token = None
        for _ in range(2):  # the second time from the cache
            rows = encode(make_data(ROWS[:1], [Row(turns=tuple(turns))]), tokenizer,
                          FinetuneConfig(max_length=512, eval_max_length=limit), cache_directory=tmp_path).validation
            expected = expected_of(rows, 0, tokenizer, Renderer(tokenizer, train_on="all"))
        trained = rows.trained_of(0).tolist()
        first = trained.index(True)
        return *expected, question_of(rows, 0), [*trained, False].index(False, first)

    return shown


@pytest.mark.parametrize("name", ["plain", "CHATML", "PHI_3"])
def test_a_special_token_inside_an_answer_is_shown_and_ends_nothing(name, shown_at):
    answer = "use <|end|> now <|im_end|> and then"
    row = [TURNS[0], Turn("assistant", answer)]
    text, is_cut, start, length = shown_at(name, row)
    assert (text, is_cut) == (answer, False)
    behind_a_mark = 0
    for limit in range(start + 1, length):
        text, is_cut, *_ = shown_at(name, row, limit)
        assert is_cut == (text.strip() != answer), f"cut at {limit}, shown is {text!r}"
        assert answer.startswith(text)
        behind_a_mark += text.endswith(">")
    assert behind_a_mark >= 2


@pytest.mark.parametrize("name", ["plain", "CHATML", "VICUNA"])
def test_without_an_end_token_a_cut_row_says_so_too(name, shown_at):
    *whole, start, _ = shown_at(name, TURNS[:2], eos=False)
    assert whole == [ANSWER, False]
    text, is_cut, *_ = shown_at(name, TURNS[:2], start + 4, eos=False)
    assert is_cut
    assert ANSWER.startswith(text)


@pytest.mark.parametrize("name", ["VICUNA", "LLAMA_2", "CHATML"])
def test_an_earlier_answer_is_whole_where_the_cut_is_just_behind_it(name, shown_at):
    _, _, second, end = shown_at(name, TURNS, special=False)
    assert end < second
    for limit in range(end, second + 1):
        assert shown_at(name, TURNS, limit, special=False)[:2] == (ANSWER, False), f"{limit - end} tokens behind it"


def test_plain_text_is_shown_as_it_is(shown_at):
    """No template wrote around it."""
    name = "VICUNA"  # closes answers with what is words here
    text = "A list holds items. " * 4 + "\n\n  In HTML it ends with </s>"
    shown, is_cut, *_ = shown_at(name, [Turn("assistant", text)], special=False)
    assert not is_cut
    assert shown.endswith("ends with </s>")
    assert text.endswith(shown)
    shown, is_cut, *_ = shown_at(name, [Turn("assistant", text)], 32, special=False)
    assert is_cut
    assert shown in text


def test_a_row_that_was_cut_says_so_wherever_its_answer_is_shown(tmp_path, cache, tiny_llama, monkeypatch):
    monkeypatch.setenv("KAGGLE_RUNNER_CACHE", str(cache))
    study, _ = train_study(tmp_path / "study", cache, model=str(tiny_llama), max_length=32,
                           dataset=str(write_rows(tmp_path / "rows.jsonl")))
    kept = json.loads((study / "trials/0000" / ANSWERS).read_text())["rows"]
    done = CliRunner().invoke(cli, ["try", str(study), "--max-new-tokens", "4", "--cpu"])
    page = write_page([study]).read_text()
    assert {row["cut"] for row in kept} == {True}
    for row, read in zip(kept, answers_of_trial(study / "trials/0000"), strict=True):
        assert f"the row   {row['expected']} (cut at max_length)\nbase " in done.output
        assert f"<dt>the row answers</dt><dd>{row['expected']} (cut at max_length)</dd>" in page
        assert read["expected"] == f"{row['expected']} (cut at max_length)", "what goes to W&B"
