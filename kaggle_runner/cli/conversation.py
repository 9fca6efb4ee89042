"""What `try` shows: questions, and the answers of two models as they come."""

from typing import TYPE_CHECKING

import click

from kaggle_runner.errors import DataError
from kaggle_runner.study.answers import CUT

if TYPE_CHECKING:
    from kaggle_runner.model.talk.answers import Conversation
    from kaggle_runner.model.talk.asking import Answer, Question, Sampling
    from kaggle_runner.model.talk.characters import Writer

LABEL = 10
"""Columns before the text."""
HELP = "a line asks; /new begins another conversation, and an end of input (Ctrl-D) ends"


def ask_rows(talker: "Conversation | Writer", count: int, sampling: "Sampling") -> None:
    """Ask the first held-out rows, and show what they answer.

    Raises:
        DataError: there are none to read.
    """
    questions = talker.rows(count)
    if not questions:
        raise DataError("the study's held-out rows cannot be read here, so there is nothing to ask; give a question "
                        "with --prompt")
    for number, question in enumerate(questions, start=1):
        click.echo(f"\n--- held-out row {number}")
        _say("asked", question.text)
        if question.expected is not None:
            _say("the row", question.expected + CUT * question.is_cut)
        _both(talker, question, sampling)


def ask_prompt(talker: "Conversation | Writer", prompt: str, sampling: "Sampling") -> None:
    """Ask one question of a person.

    Raises:
        DataError: it cannot be asked.
    """
    question = _question(talker, [("user", prompt)])
    _say("asked", question.text)
    _both(talker, question, sampling)


def chat(talker: "Conversation | Writer", sampling: "Sampling", *, with_base: bool) -> None:
    """Ask line after line of a terminal; a conversation goes on until a person begins another."""
    click.echo(HELP)
    said: list[tuple[str, str]] = []
    while True:
        try:
            line = input("you       ").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if line == "/new":
            said = []
        elif line:
            try:
                question = _question(talker, [*said, ("user", line)])
            except DataError as error:
                click.echo(f"error: {error}", err=True)
                continue
            if with_base and talker.has_base:
                _answer(talker, question, sampling, tuned=False)
            answer = _answer(talker, question, sampling, tuned=True)
            if talker.has_base:
                said += [("user", line), ("assistant", answer.text.strip())]


def _question(talker: "Conversation | Writer", said: list[tuple[str, str]]) -> "Question":
    from kaggle_runner.model.talk.characters import Writer
    from kaggle_runner.training.data.turns import Turn

    return talker.prompt(said[-1][1]) if isinstance(talker, Writer) else talker.question(
        [Turn(role, text) for role, text in said])


def _both(talker: "Conversation | Writer", question: "Question", sampling: "Sampling") -> None:
    if talker.has_base:
        _answer(talker, question, sampling, tuned=False)
    _answer(talker, question, sampling, tuned=True)


def _answer(talker: "Conversation | Writer", question: "Question", sampling: "Sampling", *,
            tuned: bool) -> "Answer":
    """Print an answer while it is made, then how fast that was."""
    click.echo(("tuned" if tuned else "base").ljust(LABEL), nl=False)
    answer = talker.answer(question, sampling, lambda text: click.echo(_indented(text), nl=False), tuned=tuned)
    click.echo(f"\n{'':<{LABEL}}({answer.tokens} tokens, {answer.tokens_per_second:.1f} a second)")
    return answer


def _say(label: str, text: str) -> None:
    click.echo(f"{label:<{LABEL}}{_indented(text.rstrip())}")


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * LABEL)
