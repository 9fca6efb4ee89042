"""The dataset layouts that are recognised, told from the names of the columns alone.

The text of a row is never changed, only joined. Columns that no layout reads are named, and data that holds verdicts
about answers is refused: a loss on them would teach the bad ones as well.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kaggle_runner.errors import DataError
from kaggle_runner.training.data.turns import (
    NO_ANSWER,
    PICTURE,
    Row,
    Turn,
    conversation,
    ending_with_answer,
    history_of,
    is_turns,
    text_of,
    tools_of,
    turns_of,
    unused_keys,
)

SYSTEM = ("system", "system_prompt", "system_message")
"""Columns of a system turn, in any layout with a question; the first that is there is read."""
HISTORY = ("history",)
TOOLS = ("tools", "functions")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
"""Columns that a question or answer speaks of and that no text model sees."""
VERDICTS = ("chosen", "rejected", "reward", "rewards", "preference", "label", "labels")
"""Columns that say how good an answer is, or what kind a text is."""
MAPPED = "columns"
"""Name of the layout that a config's `columns` describes."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Columns that hold instruction data."""

    name: str
    prompt: tuple[str, ...]
    """Columns of the question, joined by a blank line; the first one must be there, the others may be."""
    completion: str
    """Column of the answer, or of the whole conversation."""
    is_conversation: bool = False
    system: tuple[str, ...] = SYSTEM
    history: tuple[str, ...] = HISTORY
    tools: tuple[str, ...] = TOOLS

    @property
    def is_plain(self) -> bool:
        """Whether it is text without a question."""
        return not self.prompt and not self.is_conversation

    def matches(self, columns: Iterable[str]) -> bool:
        """Say whether the columns that must be there are."""
        return {*self.prompt[:1], self.completion} <= set(columns)

    def used(self, columns: Iterable[str]) -> list[str]:
        """Return those of the columns that are read, in their order."""
        found = list(columns)
        read = {*self.prompt, self.completion}
        if not self.is_plain:
            read |= {name for names in (self.system, self.history if self.prompt else (), self.tools)
                     for name in [_first(names, found)] if name}
        return [name for name in found if name in read]

    def unused_in_turns(self, example: Mapping[str, Any]) -> Iterator[str]:
        """Yield what an example's turns hold that is not read, as `messages.weight`."""
        for column in (*self.prompt[:1], self.completion):
            yield from (f"{column}.{plain_name(key)}" for key in sorted(unused_keys(example.get(column))))

    def describe(self, columns: Iterable[str] | None = None) -> str:
        """Name the layout with its columns, or with those of its columns that are there."""
        more = "" if columns is None else "".join(
            f", {name}" for name in self.used(columns) if name not in (*self.prompt, self.completion))
        if self.is_conversation:
            return f"{self.name}: {self.completion}{more} -> assistant turns"
        found = set(self.prompt if columns is None else columns)
        prompt = ", ".join(column for column in self.prompt if column in found)
        return f"{self.name}: {prompt}{more} -> {self.completion}" if prompt else f"{self.name}: {self.completion}"

    def row(self, example: Mapping[str, Any]) -> Row | str:
        """Make the row of one example, or say why there is none.

        Raises:
            DataError: a column holds something else than the layout says.
        """
        if self.is_plain:
            text = text_of(example.get(self.completion), self.completion)
            return Row.pair("", text) if text.strip() else NO_ANSWER
        if any(example.get(name) for name in MEDIA) and self.name != MAPPED:
            return PICTURE
        system = [Turn("system", text) for text in [text_of(_value(example, self.system), self.system[0])
                                                    if self.system else ""] if text.strip()]
        tools = tools_of(_value(example, self.tools))
        if self.is_conversation:
            return conversation(example.get(self.completion), self.completion, before=system, tools=tools)
        question, answer = example.get(self.prompt[0]), example.get(self.completion)
        if is_turns(question) or is_turns(answer):
            return _turns_row(question, answer, system, tools, (self.prompt[0], self.completion))
        completion = _answer(answer, self.completion)
        if not completion.strip():
            return NO_ANSWER
        prompt = "\n\n".join(part for part in (text_of(example.get(column), column) for column in self.prompt)
                             if part.strip())
        history = history_of(_value(example, self.history), self.history[0]) if self.history else []
        if isinstance(history, str):
            return history
        user = [Turn("user", prompt)] if prompt else []
        return Row(turns=(*system, *history, *user, Turn("assistant", completion)), tools=tools)


LAYOUTS = (
    Layout(name="messages", prompt=(), completion="messages", is_conversation=True),
    Layout(name="sharegpt", prompt=(), completion="conversations", is_conversation=True),
    Layout(name="sharegpt", prompt=(), completion="conversation", is_conversation=True),
    Layout(name="alpaca", prompt=("instruction", "input"), completion="output"),
    Layout(name="dolly", prompt=("instruction", "context"), completion="response"),
    Layout(name="prompt/completion", prompt=("prompt",), completion="completion"),
    Layout(name="prompt/response", prompt=("prompt",), completion="response"),
    Layout(name="squad", prompt=("question", "context"), completion="answers"),
    Layout(name="question/answer", prompt=("question", "context"), completion="answer"),
    Layout(name="question/response", prompt=("question", "context"), completion="response"),
    Layout(name="query/response", prompt=("query", "context"), completion="response"),
    Layout(name="problem/solution", prompt=("problem",), completion="solution"),
    Layout(name="input/output", prompt=("input",), completion="output"),
    Layout(name="plain text", prompt=(), completion="text"),
)
"""In the order they are tried: the Alpaca set of the hub carries a `text` column too."""


def recognise(columns: Iterable[str], source: str, mapping: Mapping[str, str] | None = None) -> Layout:
    """Tell the layout from the columns, or from a config's `columns`; upper and lower case are the same.

    Raises:
        DataError: no known layout; names the columns and the layouts. Or the rows hold verdicts about answers.
    """
    found = list(columns)
    names = [plain_name(column) for column in found]
    alike = [column for column, name in zip(found, names, strict=True) if names.count(name) > 1]
    if alike:
        raise DataError(f"{source} has the columns {', '.join(map(repr, alike))}, which differ only in case or blanks, "
                        f"so one would hide the other; rename one of them")
    if mapping:
        return _mapped(mapping, found, source)
    layout = next((layout for layout in LAYOUTS if layout.matches(names)), None)
    verdicts = [name for name in VERDICTS if name in names]
    if verdicts and layout is not None and layout.is_plain:
        raise DataError(f"{source} sorts texts by {' and '.join(verdicts)}, which this trainer does not learn: it "
                        f"would learn to write all of them; name what to learn with columns: {{text: "
                        f"{layout.completion}}}, or make a question and an answer of the two")
    if verdicts:
        answer = next((name for name in ("chosen", "completion", "response") if name in names), "COLUMN")
        raise DataError(f"{source} is preference data: answers are judged by {' and '.join(verdicts)}, and this "
                        f"trainer would learn good and bad ones alike; keep the good rows, or name what to learn with "
                        f"columns: {{prompt: prompt, completion: {answer}}}")
    if layout is not None:
        return layout
    known = "; ".join(layout.describe() for layout in LAYOUTS)
    raise DataError(f"cannot tell question from answer in {source}: its columns are {', '.join(found) or 'none'}; "
                    f"rename them to one of these layouts, or name them with columns: {known}")


def plain_name(column: str) -> str:
    """Return a column's name as the layouts write it, in characters that can be printed."""
    return str(column).encode(errors="backslashreplace").decode().strip().lower()


def _mapped(mapping: Mapping[str, str], found: list[str], source: str) -> Layout:
    role_of = {role: plain_name(column) for role, column in mapping.items()}
    missing = [column for column in role_of.values() if column not in map(plain_name, found)]
    if missing:
        raise DataError(f"columns names {', '.join(missing)}, but the columns of {source} are "
                        f"{', '.join(found) or 'none'}; write names that are there")
    whole = role_of.get("messages")
    completion = whole or role_of.get("completion") or role_of.get("text")
    prompt = tuple(role_of[role] for role in ("prompt", "context") if role in role_of)
    if completion is None or (whole is None and "completion" in role_of and "prompt" not in role_of):
        raise DataError(f"columns names {', '.join(role_of)}, which is no row to learn; name prompt and completion, or "
                        f"messages, or text")
    system, history, tools = ((role_of[role],) if role in role_of else () for role in ("system", "history", "tools"))
    if whole is not None or "completion" not in role_of:
        prompt = ()
    return Layout(name=MAPPED, prompt=prompt, completion=completion, is_conversation=whole is not None,
                  system=system, history=history, tools=tools)


def _first(names: tuple[str, ...], found: Iterable[str]) -> str:
    there = set(found)
    return next((name for name in names if name in there), "")


def _value(example: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return example.get(_first(names, example))


def _answer(value: Any, column: str) -> str:
    """Return an answer; of SQuAD's the first, or nothing for a question that has none."""
    if isinstance(value, dict) and "text" in value:
        value = value["text"]
    if isinstance(value, list) and all(isinstance(text, str) for text in value) and column == "answers":
        value = value[0] if value else ""
    return text_of(value, column)


def _turns_row(question: Any, answer: Any, system: list[Turn], tools: str, columns: tuple[str, str]) -> Row | str:
    """Make the row of TRL's lists of turns: what the prompt says is given, and only the completion is learned."""
    before = turns_of(question, columns[0]) if is_turns(question) else [Turn("user", text_of(question, columns[0]))]
    after = turns_of(answer, columns[1]) if is_turns(answer) else [Turn("assistant", text_of(answer, columns[1]))]
    if isinstance(before, str):
        return before
    if isinstance(after, str):
        return after
    own = bool(before) and before[0].role == "system"
    return ending_with_answer([*([] if own else system), *before], [turn for turn in after if turn.words.strip()],
                              tools=tools, learn_all=False)
