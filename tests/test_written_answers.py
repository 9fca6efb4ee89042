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
from kaggle_runner.training.models.written_answers import keep_answers
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
