import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
import transformers

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import DataError
from kaggle_runner.training.data.account import Account
from kaggle_runner.training.data.instructions import InstructionData
from kaggle_runner.training.data.render import PLAIN_TEMPLATE
from kaggle_runner.training.data.tokens import encode
from kaggle_runner.training.data.turns import Row, Turn

TEXT = ["What is the function of a list?", "A list holds items.", "### Question: ### Answer: user system assistant"]
CHAT_TEMPLATE = """{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHAT_TEMPLATE


def make_tokenizer(*, bos=False, chat_template=None):
    """Train a real byte-level BPE of a few hundred tokens; `bos` puts one before every text, as Llama's does."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    model.train_from_iterator(TEXT, tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<end>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    if bos:
        model.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token="<end>",
                                                chat_template=chat_template)


VALIDATION = (Row.pair("What?", "A list."),)


def make_data(train, validation=VALIDATION):
    account = Account(read=len(train) + len(validation) + 5, train=len(train), validation=len(validation), duplicates=2,
                      lost={"no answer": 3}, lost_in_reading=3)
    return InstructionData(train=tuple(train), validation=tuple(validation), source="rows.jsonl", format="alpaca",
                           held_out="1 row", account=account, sha256=repr((train, validation)))


def start_of(rows, i=0):
    """Return where the first stretch that is trained begins."""
    return int(rows.trained_of(i).argmax())


def turns(*pairs):
    return tuple(Turn(*pair) for pair in pairs)


ROWS = [Row.pair(f"What is {i}?", f"A list of {i} items.") for i in range(30)]
MIXED = [row if i % 3 else Row(turns=(*row.turns, *turns(("user", "What?"), ("assistant", "A list."))))
         for i, row in enumerate(ROWS)]
"""With conversations of two answers among them."""


def test_a_question_comes_before_its_answer_and_an_end_token_after_it(tmp_path):
    tokenizer = make_tokenizer()
    encoded = encode(make_data([Row.pair("What is {x}?", "A list.")]), tokenizer, FinetuneConfig(),
                     cache_directory=tmp_path)
    row, start = encoded.train.row(0), start_of(encoded.train)
    assert tokenizer.decode(row[:start]) == PLAIN_TEMPLATE.format(prompt="What is {x}?")
    assert tokenizer.decode(row[start:]) == "A list.<end>"
    assert row[-1] == tokenizer.eos_token_id
    assert (row.dtype, encoded.train.starts.dtype) == (np.int32, np.int64)


def test_the_tokens_of_a_question_are_a_prefix_of_the_row(tmp_path):
    tokenizer = make_tokenizer(bos=True)
    # "A" and "nswer" would merge with what stands before them if both parts were tokenised at once
    encoded = encode(make_data([Row.pair("What", "\nnswer")]), tokenizer, FinetuneConfig(), cache_directory=tmp_path)
    prompt = tokenizer(PLAIN_TEMPLATE.format(prompt="What"))["input_ids"]
    assert encoded.train.row(0)[:start_of(encoded.train)].tolist() == prompt


def test_a_tokenizer_that_begins_texts_with_a_token_begins_rows_with_it(tmp_path):
    rows = [Row.pair("What?", "A list."), Row.pair("", "A list holds items.")]
    for bos in (True, False):
        encoded = encode(make_data(rows), make_tokenizer(bos=bos), FinetuneConfig(), cache_directory=tmp_path)
        assert [encoded.train.row(i).tolist().count(0) for i in range(2)] == [int(bos), int(bos)]
        assert [int(encoded.train.row(i)[0] == 0) for i in range(2)] == [int(bos), int(bos)]


def test_plain_text_has_no_question_and_every_token_counts(tmp_path):
    tokenizer = make_tokenizer(chat_template=CHAT_TEMPLATE)
    text = Row.pair("", "A list holds items.")
    encoded = encode(make_data([text]), tokenizer, FinetuneConfig(), cache_directory=tmp_path)
    assert tokenizer.decode(encoded.train.row(0)) == "A list holds items.<end>"
    assert encoded.train.trained.all()


def test_the_chat_template_of_the_tokenizer_is_used_for_all_turns(tmp_path):
    tokenizer = make_tokenizer(bos=True, chat_template=CHAT_TEMPLATE)
    row = Row(turns=turns(("system", "Be brief."), ("user", "a?"), ("assistant", "b"), ("user", "c?"),
                          ("assistant", "d")))
    encoded = encode(make_data([row]), tokenizer, FinetuneConfig(train_on="last"), cache_directory=tmp_path)
    start = start_of(encoded.train)
    assert tokenizer.decode(encoded.train.row(0)[:start]) == (
        "<|system|>Be brief.<end>\n<|user|>a?<end>\n<|assistant|>b<end>\n<|user|>c?<end>\n<|assistant|>")
    assert tokenizer.decode(encoded.train.row(0)[start:]) == "d<end>"


def test_without_a_chat_template_turns_are_lines(tmp_path):
    tokenizer = make_tokenizer()
    row = Row(turns=turns(("system", "Be brief."), ("user", "a?"), ("assistant", "b")))
    encoded = encode(make_data([row]), tokenizer, FinetuneConfig(), cache_directory=tmp_path)
    assert tokenizer.decode(encoded.train.row(0)) == "### Question:\nsystem: Be brief.\nuser: a?\n\n### Answer:\nb<end>"


def test_a_template_without_system_turns_gets_the_system_text_in_the_first_question(tmp_path):
    tokenizer = make_tokenizer(chat_template=NO_SYSTEM)
    row = Row(turns=turns(("system", "Be brief."), ("user", "a?"), ("assistant", "b")))
    encoded = encode(make_data([row]), tokenizer, FinetuneConfig(), cache_directory=tmp_path)
    assert tokenizer.decode(encoded.train.row(0)) == "<|user|>Be brief.\n\na?<end>\n<|assistant|>b<end>"
    assert "refused by the chat template" not in encoded.account.lost


def test_rows_that_the_template_refuses_are_left_out_and_counted(tmp_path):
    refuses_tools = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}" \
                    "{% endfor %}" + CHAT_TEMPLATE
    row = Row(turns=turns(("user", "a?"), ("tool", "x"), ("assistant", "b")))
    encoded = encode(make_data([row, *ROWS]), make_tokenizer(chat_template=refuses_tools), FinetuneConfig(),
                     cache_directory=tmp_path)
    assert len(encoded.train) == 30
    assert encoded.account.lost["refused by the chat template"] == 1


def test_a_template_that_names_the_day_gives_the_same_tokens_every_day(tmp_path):
    tokenizer = make_tokenizer(chat_template="Today is {{ strftime_now('%d %b %Y') }}." + CHAT_TEMPLATE)
    encoded = encode(make_data(ROWS), tokenizer, FinetuneConfig(), cache_directory=tmp_path)
    assert tokenizer.decode(encoded.train.row(0)).startswith("Today is 26 Jul 2024.<|user|>What is 0?")


def test_rows_are_cut_at_max_length_without_an_end_token(tmp_path):
    tokenizer = make_tokenizer()
    long, short = Row.pair("What?", "items " * 50), Row.pair("What?", "A list.")
    whole = encode(make_data([long, short]), tokenizer, FinetuneConfig(), cache_directory=tmp_path)
    limit = start_of(whole.train) + 20
    encoded = encode(make_data([long, short]), tokenizer, FinetuneConfig(max_length=limit), cache_directory=tmp_path)
    assert encoded.train.row(0).tolist() == whole.train.row(0)[:limit].tolist()
    assert encoded.train.row(1).tolist() == whole.train.row(1).tolist()
    assert (whole.account.cut, encoded.account.cut) == (0, 1)


def test_rows_that_lose_their_whole_answer_are_left_out_and_counted(tmp_path):
    tokenizer = make_tokenizer()
    rows = [Row.pair("function " * 60, "A list."), *ROWS]
    config = FinetuneConfig(max_length=100)
    encoded = encode(make_data(rows), tokenizer, config, cache_directory=tmp_path)
    assert len(encoded.train) == 30
    assert (encoded.account.lost["no answer begins within max_length"], encoded.account.cut) == (1, 0)
    assert all(encoded.train.trained_of(i).any() for i in range(30))
    whole_text = encode(make_data(rows), tokenizer, dataclasses.replace(config, completion_only_loss=False),
                        cache_directory=tmp_path)
    assert len(whole_text.train) == 31
    assert whole_text.train.lengths[0] == 100


def test_one_token_before_and_after_the_limit_decide(tmp_path):
    tokenizer = make_tokenizer()
    whole = encode(make_data(ROWS[:1]), tokenizer, FinetuneConfig(), cache_directory=tmp_path)
    start = start_of(whole.train)
    validation = (Row.pair("", "A list."),)
    data = make_data([*ROWS[:1], *validation], validation)
    assert len(encode(data, tokenizer, FinetuneConfig(max_length=start + 1), cache_directory=tmp_path).train) == 2
    assert len(encode(data, tokenizer, FinetuneConfig(max_length=start), cache_directory=tmp_path).train) == 1


def test_a_max_length_that_leaves_no_row_is_refused(tmp_path):
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError, match=r"no train row of rows\.jsonl has an answer to learn within max_length 8: "
                                            r"3 \(no answer\), 31 \(no answer begins within max_length\); raise"):
            encode(make_data(ROWS), make_tokenizer(), FinetuneConfig(max_length=8), cache_directory=tmp_path)


def test_tokens_are_read_from_the_cache_the_second_time(tmp_path):
    tokenizer = make_tokenizer()
    first = encode(make_data(MIXED), tokenizer, FinetuneConfig(), cache_directory=tmp_path / "new")
    second = encode(make_data(MIXED), make_tokenizer(), FinetuneConfig(learning_rate=1e-3, seed=7),
                    cache_directory=tmp_path / "new")
    path, = (tmp_path / "new").iterdir()
    assert first.notes["token_cache"] == "made"
    assert second.notes["token_cache"] == f"read {path.name}"
    assert_same(first, second)
    assert {**first.notes, "token_cache": ""} == {**second.notes, "token_cache": ""}


@pytest.mark.parametrize("change", ["rows", "tokenizer", "template", "max_length", "completion_only_loss", "train_on"])
def test_the_cache_is_not_used_for_anything_else(tmp_path, change):
    first = encode(make_data(MIXED), make_tokenizer(), FinetuneConfig(), cache_directory=tmp_path)
    config = {"max_length": FinetuneConfig(max_length=100),
              "completion_only_loss": FinetuneConfig(completion_only_loss=False),
              "train_on": FinetuneConfig(train_on="last")}.get(change, FinetuneConfig())
    tokenizer = make_tokenizer(bos=change == "tokenizer", chat_template=CHAT_TEMPLATE if change == "template" else None)
    second = encode(make_data(MIXED[1:] if change == "rows" else MIXED), tokenizer, config, cache_directory=tmp_path)
    assert second.sha256 != first.sha256
    assert second.notes["token_cache"] == "made"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "other arrays"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    first = encode(make_data(MIXED), make_tokenizer(), FinetuneConfig(), cache_directory=tmp_path)
    path, = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    if damage == "other arrays":
        np.savez(path, tokens=np.zeros(3))
    else:
        path.write_bytes({"cut": path.read_bytes()[:-100], "flipped": content, "empty": b"", "text": b"hi"}[damage])
    second = encode(make_data(MIXED), make_tokenizer(), FinetuneConfig(), cache_directory=tmp_path)
    assert second.notes["token_cache"].startswith(f"made again, {path.name} cannot be used: ")
    assert_same(first, second)
    third = encode(make_data(MIXED), make_tokenizer(), FinetuneConfig(), cache_directory=tmp_path)
    assert third.notes["token_cache"] == f"read {path.name}"


def test_a_cache_that_cannot_be_written_is_done_without_and_noted(tmp_path):
    (tmp_path / "cache").write_text("a file, no folder")
    encoded = encode(make_data(MIXED), make_tokenizer(), FinetuneConfig(), cache_directory=tmp_path / "cache")
    assert encoded.notes["token_cache"].startswith("made, not kept: ")
    assert len(encoded.train) == 30


@pytest.mark.slow
def test_processes_that_write_the_same_cache_at_once_do_not_hurt_each_other(tmp_path):
    code = """
import sys
from pathlib import Path
import test_tokens
encoded = test_tokens.encode(test_tokens.make_data(test_tokens.MIXED * 200), test_tokens.make_tokenizer(),
                             test_tokens.FinetuneConfig(), cache_directory=Path(sys.argv[1]))
print(encoded.sha256, int(encoded.train.tokens.astype("int64").sum()))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment, text=True,
                                stdout=subprocess.PIPE) for _ in range(2)]
    outputs = {process.communicate(timeout=200)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert len(outputs) == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
    again = encode(make_data(MIXED * 200), make_tokenizer(), FinetuneConfig(), cache_directory=tmp_path)
    assert again.notes["token_cache"].startswith("read ")
    assert outputs == {f"{again.sha256} {int(again.train.tokens.astype('int64').sum())}\n"}


def test_the_notes_are_plain_json_facts(tmp_path):
    encoded = encode(make_data(ROWS), make_tokenizer(), FinetuneConfig(), cache_directory=tmp_path)
    assert json.loads(json.dumps(encoded.notes)) == encoded.notes == {
        "dataset": "rows.jsonl", "format": "alpaca", "held_out": "1 row", "columns_unused": [], "token_cache": "made",
        "rows": {"read": 36, "train": 30, "validation": 1, "duplicates": 2, "not_drawn": 0, "cut": 0, "unanswered": 0,
                 "lost": {"no answer": 3}}}


def assert_same(one, other):
    assert one.sha256 == other.sha256
    for split in ("train", "validation"):
        for name in ("tokens", "starts", "trained"):
            mine, theirs = getattr(getattr(one, split), name), getattr(getattr(other, split), name)
            assert mine.dtype == theirs.dtype
            assert mine.tolist() == theirs.tolist()
