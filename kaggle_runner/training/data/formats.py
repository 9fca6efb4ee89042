"""The dataset layouts that are recognised, and the one kind of row they all become.

A layout is told from the names of the columns alone; the text of a row is never changed, only joined.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kaggle_runner.errors import DataError

Turn = tuple[str, str]
"""Who speaks (`system`, `user`, `assistant`, `tool`), and what is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One conversation that ends with the answer to learn."""

    turns: tuple[Turn, ...]
    """In their order; the last one is the assistant's. Plain text is a single turn without a prompt."""

    @classmethod
    def pair(cls, prompt: str, completion: str) -> "Row":
        """Make a row of one question and its answer; an empty prompt makes it plain text."""
        answer = ("assistant", completion)
        return cls(turns=(("user", prompt), answer) if prompt else (answer,))

    @property
    def prompt(self) -> str:
        """All before the answer: the bare text of a single question, `role: text` lines of anything longer."""
        before = self.turns[:-1]
        if len(before) == 1 and before[0][0] == "user":
            return before[0][1]
        return "\n".join(f"{role}: {text}" for role, text in before)

    @property
    def completion(self) -> str:
        """The answer."""
        return self.turns[-1][1]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Columns that hold instruction data."""

    name: str
    prompt: tuple[str, ...]
    """Columns of the question, joined by a blank line; the first one must be there, the others may be."""
    completion: str
    """Column of the answer, or of the whole conversation."""
    is_conversation: bool = False

    def matches(self, columns: Iterable[str]) -> bool:
        """Say whether the columns that must be there are."""
        return {*self.prompt[:1], self.completion} <= set(columns)

    def describe(self, columns: Iterable[str] | None = None) -> str:
        """Name the layout with its columns, or with those of its columns that are there."""
        if self.is_conversation:
            return f"{self.name}: {self.completion} -> last assistant turn"
        found = set(self.prompt if columns is None else columns)
        prompt = ", ".join(column for column in self.prompt if column in found)
        return f"{self.name}: {prompt} -> {self.completion}" if prompt else f"{self.name}: {self.completion}"

    def row(self, example: Mapping[str, Any]) -> Row | None:
        """Make the row of one example; none if it has no answer.

        Raises:
            DataError: a column holds something else than the layout says.
        """
        if self.is_conversation:
            return _conversation(example[self.completion], self.completion)
        completion = _text(example[self.completion], self.completion)
        parts = [_text(example.get(column), column) for column in self.prompt]
        prompt = "\n\n".join(part for part in parts if part.strip())
        return Row.pair(prompt, completion) if completion.strip() else None


LAYOUTS = (
    Layout(name="messages", prompt=(), completion="messages", is_conversation=True),
    Layout(name="sharegpt", prompt=(), completion="conversations", is_conversation=True),
    Layout(name="alpaca", prompt=("instruction", "input"), completion="output"),
    Layout(name="dolly", prompt=("instruction", "context"), completion="response"),
    Layout(name="prompt/completion", prompt=("prompt",), completion="completion"),
    Layout(name="prompt/response", prompt=("prompt",), completion="response"),
    Layout(name="question/answer", prompt=("question",), completion="answer"),
    Layout(name="plain text", prompt=(), completion="text"),
)
"""In the order they are tried: the Alpaca set of the hub carries a `text` column too."""

ROLES = {"human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "assistant": "assistant",
         "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "system": "system"}
"""ShareGPT's and OpenAI's speakers, and their relatives; any other keeps its name."""


def recognise(columns: Iterable[str], source: str) -> Layout:
    """Tell the layout from the columns; upper and lower case are the same.

    Raises:
        DataError: no known layout; names the columns and the layouts.
    """
    found = list(columns)
    names = {plain_name(column) for column in found}
    for layout in LAYOUTS:
        if layout.matches(names):
            return layout
    known = "; ".join(layout.describe() for layout in LAYOUTS)
    raise DataError(f"cannot tell question from answer in {source}: its columns are {', '.join(found) or 'none'}; "
                    f"rename them to one of these layouts: {known}")


def plain_name(column: str) -> str:
    """Return a column's name as the layouts write it."""
    return str(column).strip().lower()


def _text(value: Any, column: str) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        raise DataError(f"column {column!r} holds a {type(value).__name__}, not text, so no question or answer can be "
                        f"read from it; write one text in each row")
    return value if isinstance(value, str) else str(value)


def _conversation(value: Any, column: str) -> Row | None:
    if value is None:
        return None
    if isinstance(value, dict) and all(isinstance(part, list) for part in value.values()):
        # what `datasets` makes of a feature that is declared as a Sequence of structs
        value = [dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise DataError(f"column {column!r} holds a {type(value).__name__}, not a list of turns; write each turn as "
                        f'{{"role": "user", "content": "..."}}')
    turns = [_turn(turn, column) for turn in value]
    answered = [i for i, (role, text) in enumerate(turns) if role == "assistant" and text.strip()]
    if not answered:
        return None
    # a turn that only calls a tool, or is null, has nothing to show
    before = [turn for turn in turns[:answered[-1]] if turn[1].strip()]
    return Row(turns=(*before, turns[answered[-1]]))


def _turn(turn: Mapping[str, Any], column: str) -> Turn:
    role = turn.get("role") or turn.get("from")
    if role is None or ("content" not in turn and "value" not in turn):
        raise DataError(f"a turn in column {column!r} has the keys {', '.join(turn) or 'none'}; it needs role and "
                        f"content, or from and value")
    text = turn.get("content") or turn.get("value") or ""
    if isinstance(text, list):  # OpenAI's content parts; pictures and sounds have no text
        text = "".join(part.get("text") or "" for part in text if isinstance(part, dict))
    return ROLES.get(str(role).lower(), str(role).lower()), _text(text, column)
