"""Conversations as every dataset writes them, and the one kind of row that they all become.

The text of a turn is never changed. What cannot be shown to a model, a picture or a verdict, makes a row that is lost:
a sentence in place of the row says why.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kaggle_runner.errors import DataError

NO_ANSWER = "no answer"
NO_UNICODE = "half of a character, a lone surrogate, in the text"
PICTURE = "a picture, a sound or a file in a turn"


class Turn(NamedTuple):
    """Who speaks, and what is said."""

    role: str
    """`system`, `developer`, `user`, `assistant`, `tool`, or what the dataset says."""
    text: str
    calls: str = ""
    """JSON list of the tools that the turn calls, in OpenAI's form; empty for none."""

    @property
    def words(self) -> str:
        """What is said, with the calls as text."""
        return "\n".join(part for part in (self.text, self.calls) if part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One conversation that ends with an answer."""

    turns: tuple[Turn, ...]
    """In their order; the last one is the assistant's. Plain text is a single turn without a prompt."""
    given: int = 0
    """So many turns at the beginning are the prompt, whoever speaks in them: no answer there is learned."""
    tools: str = ""
    """JSON list of the tools that may be called; empty for none."""
    unanswered: int = 0
    """Turns that came after the last answer, which are left away: nobody answers them."""

    @classmethod
    def pair(cls, prompt: str, completion: str) -> "Row":
        """Make a row of one question and its answer; an empty prompt makes it plain text."""
        answer = Turn("assistant", completion)
        return cls(turns=(Turn("user", prompt), answer) if prompt else (answer,))

    @property
    def can_be_encoded(self) -> bool:
        """Whether all of it is Unicode: JSON can write halves of characters, which no tokenizer takes."""
        try:
            for text in (*(f"{turn.role} {turn.words}" for turn in self.turns), self.tools):
                text.encode()
        except UnicodeEncodeError:
            return False
        return True

    @property
    def prompt(self) -> str:
        """All before the last answer: the bare text of a single question, `role: text` lines of anything longer."""
        return lines_of(self.turns[:-1])

    @property
    def completion(self) -> str:
        """The last answer."""
        return self.turns[-1].words

    @property
    def answers(self) -> list[int]:
        """Which turns are answers to learn."""
        return [i for i, turn in enumerate(self.turns) if turn.role == "assistant" and i >= self.given]


READ_OF_TURNS = ("role", "from", "content", "value", "tool_calls", "function_call")
"""Keys of a turn that are read."""
ROLES = {"human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "assistant": "assistant",
         "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant", "system": "system",
         "function": "tool", "ipython": "tool", "observation": "tool", "tool_response": "tool",
         "function_call": "assistant", "tool_call": "assistant", "tool_calls": "assistant"}
"""ShareGPT's, OpenAI's, Llama's and GLM's speakers, and their relatives; any other keeps its name."""


def lines_of(turns: Sequence[Turn]) -> str:
    """Write turns without a template: the bare text of a single question, `role: text` lines of anything longer."""
    if len(turns) == 1 and turns[0].role == "user":
        return turns[0].text
    return "\n".join(f"{turn.role}: {turn.words}" for turn in turns)


def text_of(value: Any, column: str) -> str:
    """Return what a column holds as text; a NaN is how tables write that there is nothing.

    Raises:
        DataError: it holds a list or a mapping, or bytes that are no text.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"column {column!r} holds bytes that are no UTF-8, so no question or answer can be read "
                            f"from it; write text in each row") from error
    if isinstance(value, list | dict):
        raise DataError(f"column {column!r} holds a {type(value).__name__}, not text, so no question or answer can be "
                        f"read from it; write one text in each row")
    return value if isinstance(value, str) else str(value)


def is_turns(value: Any) -> bool:
    """Say whether a value is a list of turns, as TRL writes prompts and completions."""
    return isinstance(value, list) and bool(value) and all(
        isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)


def conversation(value: Any, column: str, *, before: Sequence[Turn] = (), tools: str = "") -> Row | str:
    """Make the row of a list of turns that ends with its last answer; what follows that answer is only counted.

    Turns that say and call nothing have nothing to show and are left away too. `before` is put in front.

    Raises:
        DataError: it is no list of turns.
    """
    turns = turns_of(value, column)
    return turns if isinstance(turns, str) else ending_with_answer(before, turns, tools=tools)


def ending_with_answer(before: Sequence[Turn], turns: Sequence[Turn], *, tools: str = "",
                       learn_all: bool = True) -> Row | str:
    """Make a row of turns up to their last answer; `before` is put in front, unless `turns` have their own system turn.

    Without `learn_all` no answer in `before` is learned.
    """
    answered = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    if not answered:
        return NO_ANSWER
    front = [turn for turn in before if turn.role != "system" or turns[0].role != "system"]
    end = answered[-1] + 1
    return Row(turns=(*front, *turns[:end]), given=0 if learn_all else len(front), tools=tools,
               unanswered=len(turns) - end)


def turns_of(value: Any, column: str) -> list[Turn] | str:
    """Read a list of turns, also one in a JSON text; in place of them why they cannot be shown.

    Raises:
        DataError: it is no list of turns.
    """
    if value is None:
        return []
    value = _from_json(value)
    if isinstance(value, dict) and all(isinstance(part, list) for part in value.values()):
        # what `datasets` makes of a feature that is declared as a Sequence of structs
        value = [dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise DataError(f"column {column!r} holds a {type(value).__name__}, not a list of turns; write each turn as "
                        f'{{"role": "user", "content": "..."}}')
    turns = []
    for each in value:
        turn = _turn(each, column)
        if isinstance(turn, str):
            return turn
        if turn.text.strip() or turn.calls:
            turns.append(turn)
    return turns


def unused_keys(value: Any) -> set[str]:
    """Name what turns hold beside who speaks, what is said and what is called: nothing of it is read."""
    value = _from_json(value)
    if not isinstance(value, list):
        return set()
    return {str(key) for turn in value if isinstance(turn, dict) for key, held in turn.items()
            if key not in READ_OF_TURNS and held not in (None, "", [], {})}


def history_of(value: Any, column: str) -> list[Turn] | str:
    """Read what was said before a row's question: pairs of question and answer, or turns.

    Raises:
        DataError: it is neither.
    """
    value = _from_json(value) if value else []
    if is_turns(value):
        return turns_of(value, column)
    if not isinstance(value, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        raise DataError(f"column {column!r} holds neither pairs of question and answer nor turns; write each as "
                        f'["question", "answer"]')
    return [turn for question, answer in value for turn in (Turn("user", text_of(question, column)),
                                                            Turn("assistant", text_of(answer, column)))]


def tools_of(value: Any) -> str:
    """Return a row's tools as JSON; empty for none."""
    found = _from_json(value)
    return json.dumps(found, ensure_ascii=False) if found else ""


def _turn(turn: Mapping[str, Any], column: str) -> Turn | str:
    role = turn.get("role") or turn.get("from")
    calls = turn.get("tool_calls") or turn.get("function_call")
    if role is None or not ({"content", "value"} & turn.keys() or calls):
        raise DataError(f"a turn in column {column!r} has the keys {', '.join(turn) or 'none'}; it needs role and "
                        f"content, or from and value")
    text = turn.get("content") or turn.get("value") or ""
    if isinstance(text, list):  # OpenAI's content parts
        parts = [part if isinstance(part, dict) else {"text": part} for part in text]
        if any(part.get("type", "text") not in ("text", "input_text", "output_text") for part in parts):
            return PICTURE
        text = "".join(text_of(part.get("text"), column) for part in parts)
    if isinstance(text, dict):
        text = json.dumps(text, ensure_ascii=False)
    name = str(role).lower()
    return Turn(ROLES.get(name, name), text_of(text, column), _calls(calls))


def _calls(value: Any) -> str:
    """Write the calls of a turn in one form: a list of functions with their arguments as a mapping."""
    if not value:
        return ""
    found = _from_json(value)
    calls = []
    for call in found if isinstance(found, list) else [found]:
        function = call.get("function", call) if isinstance(call, dict) else {"name": str(call)}
        function = function if isinstance(function, dict) else {"name": str(function)}
        calls.append({"type": "function", "function": {
            "name": function.get("name") or "", "arguments": _from_json(function.get("arguments") or {})}})
    return json.dumps(calls, ensure_ascii=False)


def _from_json(value: Any) -> Any:
    """Read a list or mapping that is written as JSON; anything else stays."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
