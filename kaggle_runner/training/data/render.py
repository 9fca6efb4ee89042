"""Rows as the text that a model sees, cut into the stretches that count in the loss and those that do not.

The tokenizer's chat template writes a conversation. Templates leave turns away without a word, so every turn is looked
for in what came out: a row that misses one is lost, and says which.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jinja2

from kaggle_runner.errors import DataError
from kaggle_runner.training.data.turns import Row, Turn, lines_of

QUESTION, ANSWER = "### Question:\n", "\n\n### Answer:\n"
PLAIN_TEMPLATE = QUESTION + "{prompt}" + ANSWER
"""What goes before the answer where the tokenizer has no chat template."""
FIXED_DAY = ("{% macro strftime_now(format) %}{{ format.replace('%d', '26').replace('%b', 'Jul').replace('%B', 'July')"
             ".replace('%m', '07').replace('%Y', '2024').replace('%A', 'Friday') }}{% endmacro %}")
"""Goes before a chat template that asks for the date: with the real one the same rows would change overnight.
Source: the date is the one that Llama 3.1's template falls back to."""
OPENED = re.compile(r"<(\w+)>\s*(?:</\1>\s*)?$")
"""A tag that a template opens for the answer, such as `<think>`, perhaps closed again."""
REFUSED = "refused by the chat template"
DROPPED = "{role} turn dropped by the chat template"
_SAID = "\N{BULLET}"
OPEN_TAG = "answer inside a tag that the chat template opens and nothing closes"


class Piece(NamedTuple):
    """A stretch of a row's text, tokenised apart, so that a question has the same tokens without its answer."""

    text: str
    is_trained: bool


class Renderer:
    """Writes rows with a tokenizer's chat template, or without one where it has none."""

    def __init__(self, tokenizer: Any, *, train_on: str) -> None:
        self._tokenizer, self._last_only = tokenizer, train_on == "last"
        self.bos = bos_of(tokenizer)
        self.template = _template_of(tokenizer)
        self._eos = tokenizer.eos_token or ""
        tokens = {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special}
        self._marks = tokens | set(tokenizer.all_special_tokens)
        self._turn_marks = self._marks - {getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "unk", "pad")}

    def pieces(self, row: Row) -> list[Piece] | str:
        """Return the text of a row in pieces, or why the model cannot see all of it."""
        if len(row.turns) == 1 and not row.tools:
            return [Piece(self._bos_before(row.completion), False), Piece(row.completion, True)]
        if len(row.turns) == 2 and row.turns[0].role == "user" and self._is_ready(row.prompt):
            return [Piece(self._bos_before(row.prompt) + row.prompt, False), Piece(row.completion, True)]
        row = self._without_end_marks(row)
        return self._rendered(row) if self.template else self._plain(row)

    def asking(self, turns: Sequence[Turn]) -> str:
        """Return the text that asks for the next answer of a conversation, written as the rows are.

        Raises:
            DataError: the chat template refuses the conversation.
        """
        if len(turns) == 1 and turns[0].role == "user" and self._is_ready(turns[0].text):
            return self._bos_before(turns[0].text) + turns[0].text
        if not self.template:
            text, start = self.bos, 0
            for i, turn in enumerate(turns):
                if turn.role == "assistant":
                    asked = QUESTION + lines_of(turns[start:i]) + ANSWER if turns[start:i] else ""
                    text, start = f"{text}{asked}{turn.words}{self._eos}\n\n", i + 1
            return text + QUESTION + lines_of(turns[start:]) + ANSWER
        reason = ""
        for attempt in _attempts(Row(turns=(*turns, Turn("assistant", "")))):
            try:
                return self._apply(attempt.turns[:-1], "", opens_answer=True)
            except (jinja2.TemplateError, TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
                reason = str(error) or type(error).__name__
        raise DataError(f"the chat template refuses this conversation: {reason}; ask it in another way, or leave "
                        f"--system out")

    def question_in(self, text: str) -> str:
        """Return a question without what is written around one; with a turn before it, the text stays as it is."""
        try:
            before, after = self.asking([Turn("user", _SAID)]).split(_SAID)
        except (DataError, ValueError):  # the template refuses one, or says it otherwise
            return text
        fits = text.startswith(before) and text.endswith(after)
        return text.removeprefix(before).removesuffix(after) if fits else text

    def answer_in(self, text: str) -> str:
        """Return an answer without what the template writes around one; the marks that close it are off already."""
        written = self._rendered(Row.pair(_SAID, _SAID)) if self.template else ""
        closed = self._unmarked(written[-1].text) if isinstance(written, list) else _SAID
        before, _, after = closed.partition(_SAID)
        return text.removeprefix(before).removesuffix(after)

    def _bos_before(self, text: str) -> str:
        return "" if self.bos and text.startswith(self.bos) else self.bos

    def _without_end_marks(self, row: Row) -> Row:
        """Take special tokens off the ends of answers: a template, or the end token, closes them again."""
        turns = tuple(turn._replace(text=self._unmarked(turn.text)) if turn.role == "assistant" else turn
                      for turn in row.turns)
        return row if turns == row.turns else Row(turns=turns, given=row.given, tools=row.tools)

    def _unmarked(self, text: str) -> str:
        while mark := next((mark for mark in self._marks if mark and text.rstrip().endswith(mark)), ""):
            text = text.rstrip().removesuffix(mark)
        return text

    def _is_ready(self, prompt: str) -> bool:
        """Say whether a prompt is written in the model's own format already.

        It begins with a special token, or holds one of those that separate turns: `<s>` inside may be HTML.
        """
        head = prompt.lstrip()
        return any(head.startswith(mark) for mark in self._marks) or any(mark in prompt for mark in self._turn_marks)

    def _plain(self, row: Row) -> list[Piece]:
        """Write questions and answers under headings; other turns as lines of the question after them."""
        turns = _with_tools_as_text(row).turns
        learned = self._learned(row, turns)
        pieces, start = [], 0
        text = self.bos
        for i in learned:
            text += QUESTION + lines_of(turns[start:i]) + ANSWER if turns[start:i] else ""
            pieces += [Piece(text, False), Piece(turns[i].words + ("" if i == learned[-1] else self._eos), True)]
            text, start = "\n\n", i + 1
        return pieces

    def _rendered(self, row: Row) -> list[Piece] | str:
        reason = REFUSED
        for attempt in _attempts(row):
            try:
                whole = self._apply(attempt.turns, attempt.tools)
                missing = _missing(whole, attempt)
                if not missing:
                    return self._cut(whole, attempt)
                reason = DROPPED.format(role=missing)
            except (jinja2.TemplateError, TypeError, KeyError, ValueError, IndexError, AttributeError):
                continue  # a template may do anything with what it does not expect
        return reason

    def _apply(self, turns: Sequence[Turn], tools: str, *, opens_answer: bool = False) -> str:
        messages = [{"role": turn.role, "content": turn.text}
                    | ({"tool_calls": json.loads(turn.calls)} if turn.calls else {}) for turn in turns]
        return str(self._tokenizer.apply_chat_template(
            messages, tools=json.loads(tools) if tools else None, chat_template=self.template, tokenize=False,
            add_generation_prompt=opens_answer))

    def _learned(self, row: Row, turns: Sequence[Turn]) -> list[int]:
        before = len(turns) - len(row.turns)  # a system turn more or less
        answers = [i + before for i in row.answers]
        return answers[-1:] if self._last_only else answers

    def _cut(self, whole: str, row: Row) -> list[Piece] | str:
        """Cut a rendered conversation where answers begin and end."""
        whole = whole.rstrip()
        pieces: list[Piece] = []
        done = 0
        learned = self._learned(row, row.turns)
        for i in learned:
            before = self._apply(row.turns[:i], row.tools, opens_answer=True)
            start = _start(whole, before, row.turns[i], done)
            end = len(whole) if i == len(row.turns) - 1 else self._end(whole, row, i, start)
            if start < done or end <= start:
                return DROPPED.format(role="assistant")
            answer = whole[start:end]
            opened = OPENED.search(before)
            if opened and start == len(before) and f"</{opened[1]}>" not in opened[0] + answer:
                return OPEN_TAG
            pieces += [Piece(whole[done:start], False), Piece(answer, True)]
            done = end
        return pieces

    def _end(self, whole: str, row: Row, i: int, start: int) -> int:
        """Find where an answer ends that is not the last: with what the template closes it with."""
        until = self._apply(row.turns[:i + 1], row.tools).rstrip()
        if whole.startswith(until):
            return len(until)
        text = row.turns[i].text.strip()
        end = whole.index(text, start) + len(text)
        closing = until[until.rindex(text) + len(text):]
        if not whole.startswith(closing, end):  # a template may end the whole conversation in its own way
            closing = "".join(re.findall(r".*[\s>\]]", _shared(closing, whole[end:]), flags=re.DOTALL))
        return end + len(closing.rstrip())


def bos_of(tokenizer: Any) -> str:
    """Return the token that this tokenizer puts before a text, as text; empty if it puts none."""
    begins_with_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return tokenizer.bos_token if begins_with_bos else ""


def _template_of(tokenizer: Any) -> str | None:
    if tokenizer.chat_template is None:
        return None
    template = str(tokenizer.get_chat_template())
    return FIXED_DAY + template if "strftime_now" in template else template


def _start(whole: str, before: str, turn: Turn, done: int) -> int:
    """Find where an answer begins: after what the template writes to ask for it.

    A tag that it opens only there, such as `<think>`, is no part of a conversation that is over.
    """
    if whole.startswith(before):
        return len(before)
    opened = OPENED.search(before)
    if opened and whole.startswith(before[:opened.start()]):
        return opened.start()
    text = turn.text.strip()
    return whole.find(text, max(done, min(len(_shared(whole, before)), whole.rfind(text))))


def _shared(one: str, other: str) -> str:
    """Return the beginning that two texts share."""
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _attempts(row: Row) -> Iterator[Row]:
    """Yield a row and its equals for templates that know fewer roles or no tools, the nearest first."""
    seen: list[Row] = []
    for structured in (row, _with_tools_as_text(row)):
        # `developer` is OpenAI's newer word for system; some families, such as Gemma, know neither: it opens the
        # first user turn.
        for changed in (structured, _renamed(structured), _system_in_user_turn(_renamed(structured))):
            if changed not in seen:
                seen.append(changed)
                yield changed


def _renamed(row: Row) -> Row:
    turns = tuple(turn._replace(role="system") if turn.role == "developer" else turn for turn in row.turns)
    return Row(turns=turns, given=row.given, tools=row.tools)


def _system_in_user_turn(row: Row) -> Row:
    if len(row.turns) < 3 or row.turns[0].role != "system" or row.turns[1].role != "user":
        return row
    system, user, *rest = row.turns
    return Row(turns=(user._replace(text=f"{system.text}\n\n{user.text}"), *rest), given=max(0, row.given - 1),
               tools=row.tools)


def _with_tools_as_text(row: Row) -> Row:
    """Write tools into the system turn, and calls into the text of their turn."""
    turns = [Turn(turn.role, turn.words) for turn in row.turns]
    given = row.given
    if row.tools:
        told = f"Tools that may be called:\n{row.tools}"
        if turns[0].role == "system":
            turns[0] = Turn("system", f"{turns[0].text}\n\n{told}")
        else:
            turns.insert(0, Turn("system", told))
            given += bool(given)
    return Row(turns=tuple(turns), given=given)


def _missing(whole: str, row: Row) -> str:
    """Name the role of the first turn that a template left away, or `tools`; empty if all is there."""
    place = 0
    for turn in row.turns:
        text = turn.text.strip()
        found = [whole.find(form, place) for form in (text, json.dumps(text, ensure_ascii=False)[1:-1])]
        ends = [at + len(text) for at in found if at >= 0]
        if ends:
            place = min(ends)
        elif turn.role in ("user", "assistant") or text not in whole:  # a system turn may stand anywhere
            return turn.role
        if not all(word in whole for word in _words_of_calls(turn)):
            return "tool-calling"
    if row.tools and not all(name in whole for name in _names(json.loads(row.tools))):
        return "tools"
    return ""


def _words_of_calls(turn: Turn) -> Iterator[str]:
    for call in json.loads(turn.calls) if turn.calls else ():
        yield call["function"]["name"]
        arguments = call["function"]["arguments"]
        if isinstance(arguments, dict):
            yield from (json.dumps(value, ensure_ascii=False)[1:-1] if isinstance(value, str) else str(key)
                        for key, value in arguments.items())


def _names(tools: Any) -> list[str]:
    found = [tool.get("function", tool) for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return [str(tool["name"]) for tool in found if isinstance(tool, dict) and "name" in tool]
