import pytest

from kaggle_runner.errors import DataError
from kaggle_runner.training.data.formats import LAYOUTS, recognise
from kaggle_runner.training.data.turns import NO_ANSWER, PICTURE, Row, Turn


@pytest.mark.parametrize(("columns", "words"), [
    (["instruction", "input", "output"], "alpaca: instruction, input -> output"),
    (["instruction", "output", "text"], "alpaca: instruction -> output"),
    (["instruction", "context", "response", "category"], "dolly: instruction, context -> response"),
    (["prompt", "completion"], "prompt/completion: prompt -> completion"),
    (["prompt", "response"], "prompt/response: prompt -> response"),
    (["question", "answer"], "question/answer: question -> answer"),
    (["id", "conversations"], "sharegpt: conversations -> assistant turns"),
    (["prompt", "messages"], "messages: messages -> assistant turns"),
    (["text", "meta"], "plain text: text"),
])
def test_every_layout_is_told_from_its_columns(columns, words):
    assert recognise(columns, "x.jsonl").describe(columns) == words


def test_upper_case_and_blanks_in_column_names_do_not_matter():
    assert recognise(["Question ", "ANSWER"], "x.csv").name == "question/answer"


def test_unknown_columns_are_refused_with_the_columns_and_the_layouts():
    with pytest.raises(DataError, match=r"x\.jsonl: its columns are frage, antwort; rename .*alpaca: instruction, "
                                        r"input -> output; .*plain text: text") as caught:
        recognise(["frage", "antwort"], "x.jsonl")
    assert all(layout.name in str(caught.value) for layout in LAYOUTS)


def test_an_alpaca_input_follows_the_instruction_and_may_be_empty():
    layout = recognise(["instruction", "input", "output"], "x")
    assert layout.row({"instruction": "add", "input": "1, 2", "output": "3"}) == Row.pair("add\n\n1, 2", "3")
    assert layout.row({"instruction": "add", "input": None, "output": "3"}) == Row.pair("add", "3")
    assert layout.row({"instruction": "add", "output": 3}) == Row.pair("add", "3")


def test_text_is_not_changed():
    layout = recognise(["prompt", "completion"], "x")
    row = layout.row({"prompt": " a\n", "completion": "\n    return {x}\n"})
    assert (row.prompt, row.completion) == (" a\n", "\n    return {x}\n")


@pytest.mark.parametrize("empty", ["", " \n", None])
def test_a_row_without_an_answer_is_no_row(empty):
    assert recognise(["question", "answer"], "x").row({"question": "q", "answer": empty}) == NO_ANSWER


def test_plain_text_has_an_empty_prompt():
    row = recognise(["text"], "x").row({"text": "once upon a time"})
    assert (row.prompt, row.completion, len(row.turns)) == ("", "once upon a time", 1)


def test_sharegpt_and_messages_give_the_same_row():
    shared = [{"from": "system", "value": "be brief"}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]
    messages = [{"role": "system", "content": "be brief"}, {"role": "assistant", "content": "yo"}]
    messages.insert(1, {"role": "user", "content": [{"type": "text", "text": "hi"}]})
    row = recognise(["conversations"], "x").row({"conversations": shared})
    assert row == recognise(["messages"], "x").row({"messages": messages})
    assert row.turns == (Turn("system", "be brief"), Turn("user", "hi"), Turn("assistant", "yo"))
    assert row.prompt == "system: be brief\nuser: hi"


def test_a_conversation_with_a_picture_is_no_row():
    turns = [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url"}]},
             {"role": "assistant", "content": "yo"}]
    assert recognise(["messages"], "x").row({"messages": turns}) == PICTURE


def test_a_long_conversation_ends_with_its_last_answer_and_what_follows_it_is_dropped():
    turns = [{"role": role, "content": text} for role, text in
             [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "thanks")]]
    row = recognise(["messages"], "x").row({"messages": turns})
    assert row.completion == "d"
    assert row.prompt == "user: a\nassistant: b\nuser: c"


def test_a_conversation_without_an_answer_is_no_row():
    layout = recognise(["messages"], "x")
    for turns in ([{"role": "user", "content": "a"}], [], None,
                  [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]):
        assert layout.row({"messages": turns}) == NO_ANSWER


def test_turns_stored_as_one_list_for_each_key_are_read():
    # what `datasets` makes of a Sequence of structs
    row = recognise(["conversations"], "x").row({"conversations": {"from": ["human", "gpt"], "value": ["a", "b"]}})
    assert row == Row.pair("a", "b")


@pytest.mark.parametrize(("columns", "example", "message"), [
    (["prompt", "completion"], {"prompt": ["a"], "completion": "b"}, "column 'prompt' holds a list, not text"),
    (["messages"], {"messages": "hi"}, "column 'messages' holds a str, not a list of turns; write each turn as"),
    (["messages"], {"messages": [{"speaker": "a", "content": "b"}]}, "has the keys speaker, content; it needs role"),
    (["conversations"], {"conversations": [{"from": "gpt"}]}, "has the keys from; it needs role and content, or from"),
])
def test_a_column_that_holds_something_else_is_refused(columns, example, message):
    with pytest.raises(DataError, match=message):
        recognise(columns, "x").row(example)
