"""Rows as public datasets write them, each with what becomes of it."""

import pytest

from kaggle_runner.errors import DataError
from kaggle_runner.training.data.formats import recognise
from kaggle_runner.training.data.turns import NO_ANSWER, PICTURE

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
QA = ["user: q", "assistant: a"]
CALL = {"function": {"name": "add", "arguments": '{"x": 1}'}}


def told(row):
    return row if isinstance(row, str) else [f"{turn.role}: {turn.words}" for turn in row.turns]


@pytest.mark.parametrize(("example", "expected", "unused"), [
    ({"instruction": "q", "input": "", "output": "a"}, QA, []),
    ({"instruction": "q", "input": "x", "output": "a", "text": "all"}, ["user: q\n\nx", "assistant: a"], ["text"]),
    ({"instruction": "q", "output": "a", "system": "s"}, ["system: s", *QA], []),
    ({"instruction": "q", "input": "", "output": "a", "history": [["h", "i"]]}, ["user: h", "assistant: i", *QA], []),
    ({"instruction": "q", "output": "a", "history": []}, QA, []),
    ({"instruction": "q", "context": "c", "response": "a", "category": "x"}, ["user: q\n\nc", "assistant: a"],
     ["category"]),
    ({"prompt": "q", "completion": "a"}, QA, []),
    ({"prompt": "q", "response": "a", "system_prompt": "s"}, ["system: s", *QA], []),
    ({"question": "q", "answer": "a"}, QA, []),
    ({"question": "q", "context": "c", "answer": "a"}, ["user: q\n\nc", "assistant: a"], []),
    ({"id": "1", "system_prompt": "s", "question": "q", "response": "a"}, ["system: s", *QA], ["id"]),
    ({"id": "1", "title": "t", "context": "c", "question": "q",
      "answers": {"text": ["a", "b"], "answer_start": [0, 1]}},
     ["user: q\n\nc", "assistant: a"], ["id", "title"]),
    ({"context": "c", "question": "q", "answers": {"text": [], "answer_start": []}}, NO_ANSWER, []),
    ({"query": "q", "response": "a"}, QA, []),
    ({"input": "q", "output": "a"}, QA, []),
    ({"problem": "q", "solution": "a", "answer": "1"}, QA, ["answer"]),
    ({"text": "a"}, ["assistant: a"], []),
    ({"text": " "}, NO_ANSWER, []),
    ({"messages": [Q, A]}, QA, []),
    ({"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'}, QA, []),
    ({"messages": {"role": ["user", "assistant"], "content": ["q", "a"]}}, QA, []),
    ({"messages": [Q, A], "prompt": "q", "prompt_id": "1"}, QA, ["prompt", "prompt_id"]),
    ({"messages": [Q, A], "system": "s"}, ["system: s", *QA], []),
    ({"messages": [{"role": "system", "content": "own"}, Q, A], "system": "s"}, ["system: own", *QA], []),
    ({"messages": [{"role": "developer", "content": "d"}, Q, A]}, ["developer: d", *QA], []),
    ({"messages": [Q, A, Q]}, QA, []),
    ({"messages": [Q]}, NO_ANSWER, []),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, A]}, QA, []),
    ({"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}, A]}, PICTURE, []),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}, A]}, PICTURE, []),
    ({"messages": [{"role": "user", "content": ["q"]}, {"role": "assistant", "content": [{"text": "a"}, {"text": None}]}
                   ]}, QA, []),
    ({"messages": [Q, A], "images": []}, QA, ["images"]),
    ({"conversations": [{"from": "human", "value": "<image> q"}, {"from": "gpt", "value": "a"}], "image": "x.jpg"},
     PICTURE, ["image"]),
    ({"question": b"q", "answer": "a"}, QA, []),
    ({"question": "q", "answer": float("nan")}, NO_ANSWER, []),
    ({"messages": [Q, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "2"},
                   A]},
     ["user: q", 'assistant: [{"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}]', "tool: 2",
      "assistant: a"], []),
    ({"messages": [Q, {"role": "ipython", "content": "2"}, A]}, ["user: q", "tool: 2", "assistant: a"], []),
    ({"messages": [Q, {"role": "function", "name": "add", "content": "2"}, A]},
     ["user: q", "tool: 2", "assistant: a"], []),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, QA, []),
    ({"conversation": [{"from": "human", "value": "q"}, {"from": "model", "value": "a"}]}, QA, []),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "f()"},
                        {"from": "observation", "value": "2"}, {"from": "gpt", "value": "a"}], "tools": "[]"},
     ["user: q", "assistant: f()", "tool: 2", "assistant: a"], []),
    ({"prompt": [Q], "completion": [A]}, QA, []),
    ({"prompt": [Q, A, Q], "completion": [A]}, [*QA, *QA], []),
    ({"prompt": "q", "completion": [A]}, QA, []),
    ({"Question": "q", "ANSWER ": "a"}, QA, []),
    ({"question": "q", "answer": 42}, ["user: q", "assistant: 42"], []),
])
def test_what_becomes_of_a_row(example, expected, unused):
    layout = recognise(example, "x")
    plain = {name.strip().lower(): value for name, value in example.items()}
    assert told(layout.row(plain)) == expected
    assert [name for name in plain if name not in layout.used(plain)] == unused


@pytest.mark.parametrize(("columns", "message"), [
    (["prompt", "chosen", "rejected"], "answers are judged by chosen and rejected, .*completion: chosen}"),
    (["prompt", "completion", "label"], "x is preference data: answers are judged by label"),
    (["question", "response", "rejected"], "answers are judged by rejected"),
    (["text", "label"], r"x sorts texts by label, .*columns: \{text: text\}, or make a question"),
    (["messages", "reward"], "answers are judged by reward"),
    (["frage", "antwort"], "its columns are frage, antwort; rename them to one of these layouts"),
])
def test_columns_that_are_refused(columns, message):
    with pytest.raises(DataError, match=message):
        recognise(columns, "x")


@pytest.mark.parametrize(("mapping", "example", "expected"), [
    ({"prompt": "Frage", "completion": "antwort"}, {"frage": "q", "antwort": "a"}, QA),
    ({"prompt": "frage", "completion": "antwort", "system": "rolle"}, {"frage": "q", "antwort": "a", "rolle": "s"},
     ["system: s", *QA]),
    ({"prompt": "prompt", "completion": "chosen"}, {"prompt": "q", "chosen": "a", "rejected": "b"}, QA),
    ({"messages": "chat"}, {"chat": [Q, A]}, QA),
    ({"text": "body"}, {"body": "a"}, ["assistant: a"]),
])
def test_columns_that_are_named(mapping, example, expected):
    assert told(recognise(example, "x", mapping).row(example)) == expected


@pytest.mark.parametrize(("mapping", "message"), [
    ({"prompt": "a", "completion": "c"}, "columns names c, but the columns of x are a, b; write names that are there"),
    ({"completion": "b"}, "columns names completion, which is no row to learn; name prompt and completion"),
])
def test_columns_that_are_named_wrongly(mapping, message):
    with pytest.raises(DataError, match=message):
        recognise(["a", "b"], "x", mapping)


def test_turns_that_are_given_are_not_learned():
    assert recognise(["prompt", "completion"], "x").row({"prompt": [Q, A, Q], "completion": [A]}).answers == [3]
