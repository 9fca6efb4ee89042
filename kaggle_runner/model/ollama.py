"""A Modelfile for Ollama: where the weights are, the chat template in Ollama's own language, and what ends an answer.

Ollama's templates are Go's, a tokenizer's are Jinja's. Nothing translates one into the other; so a conversation is
written with the tokenizer's template, and what stands around its parts becomes the Modelfile's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kaggle_runner.errors import DataError
from kaggle_runner.training.data.render import Renderer
from kaggle_runner.training.data.turns import Row, Turn

READ_BY_OLLAMA = ("LlamaForCausalLM", "MixtralForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM",
                  "Phi3ForCausalLM", "Qwen2ForCausalLM")
"""Architectures whose safetensors Ollama reads by itself. Source: ollama, convert/convert.go, 2025 and 2026."""
SYSTEM, USER, ANSWER, AGAIN = "Xsystemx", "Xuserx", "Xanswerx", "Xagainx"
"""Words to look for in what a template writes."""


QUOTES = '"""'
"""What a text in a Modelfile stands between; nothing in it can stand for them."""
NOT_IN_A_TEMPLATE = (QUOTES, "{{", "}}")


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """What a chat template writes around the parts of a conversation, its begin token left out: Ollama adds that."""

    before_system: str
    after_system: str
    """Up to the first question."""
    before_user: str
    """Where there is no system prompt."""
    after_user: str
    """Up to the answer."""
    after_answer: str
    """Up to what stands before the next question."""
    default_system: str = ""
    """What the template itself says as the system, where nobody does."""
    preamble: str = ""
    """What it says before any system prompt, and without one too."""

    def system(self, given: str | None) -> str:
        """Return what must stand in the system's place for the template's own words and a prompt, where it is given."""
        return self.preamble + (given or self.default_system)

    follows: bool = True
    """Whether a second question is asked as the tokenizer's template does, which may leave out an answer's thoughts."""

    def asking(self, system: str, *texts: str) -> str:
        """Write questions and answers in turns, up to the answer to the last question, as Ollama will."""
        text = f"{self.before_system}{system}{self.after_system}" if system else self.before_user
        after = (self.after_user, f"{self.after_answer}{self.before_user}")
        return text + "".join(f"{text}{after[place % 2]}" for place, text in enumerate(texts))

    def as_template(self) -> str:
        """Write them as a template of Ollama, which is applied to one question and answer after the other."""
        return (f"{{{{ if .System }}}}{self.before_system}{{{{ .System }}}}{self.after_system}{{{{ else }}}}"
                f"{self.before_user}{{{{ end }}}}{{{{ .Prompt }}}}{self.after_user}{{{{ .Response }}}}"
                f"{self.after_answer}")


def pieces_of(tokenizer: Any) -> Pieces | None:
    """Find out what the rows' format writes around the parts of a conversation; none where it cannot be told."""
    begin, renderer = tokenizer.bos_token or "", Renderer(tokenizer, train_on="all")
    user, answer, again = Turn("user", USER), Turn("assistant", ANSWER), Turn("user", AGAIN)
    try:
        asked = {(given, len(turns)): renderer.asking([*([Turn("system", given)] if given else []), *turns])
                 .removeprefix(begin) for given in ("", SYSTEM) for turns in ([user], [user, answer, again])}
        over = renderer.pieces(Row(turns=(user, answer)))
        pieces = None if isinstance(over, str) else _told_apart(asked["", 1], asked[SYSTEM, 1], asked["", 3],
                                                                over[-1].text, _marks(tokenizer))
    except (DataError, ValueError, IndexError):
        return None
    if pieces is None or any(mark in text for text in asked.values() for mark in NOT_IN_A_TEMPLATE):
        return None
    alike = {key: pieces.asking(pieces.system(key[0]), *(USER, ANSWER, AGAIN)[:key[1]]) == text
             for key, text in asked.items()}
    follows = alike["", 3] and alike[SYSTEM, 3]
    return replace(pieces, follows=follows) if alike["", 1] and alike[SYSTEM, 1] else None


def _told_apart(alone: str, with_system: str, twice: str, over: str, marks: Sequence[str]) -> Pieces | None:
    """Part what a template wrote around the words of conversations; ends with a ValueError where they are not there."""
    opening, after_user = alone.split(USER)
    before_system, rest = with_system.split(SYSTEM)
    after_system, _ = rest.split(USER)
    between = twice.split(ANSWER)[1].split(AGAIN)[0]
    if between.endswith(opening):
        return Pieces(before_system=before_system, after_system=after_system, before_user=opening,
                      after_user=after_user, after_answer=between.removesuffix(opening))
    closing = over.partition(ANSWER)[2]
    before_user = between.removeprefix(closing) if between.startswith(closing) else ""
    # what stands before the question only at the beginning is a system prompt of the template's own
    if not before_user or not (opening.startswith(before_system) and opening.endswith(after_system)):
        return None
    default, preamble = opening[len(before_system):len(opening) - len(after_system)], ""
    if not default:
        before_system, preamble = _without_words(before_system, marks)
        if not preamble:  # an empty system prompt, which Ollama leaves out
            return None
    return Pieces(before_system=before_system, after_system=after_system, before_user=before_user,
                  after_user=after_user, after_answer=closing, default_system=default, preamble=preamble)


def modelfile(weights: str, tokenizer: Any, system: str | None, context: int | None) -> str:
    """Write a Modelfile for weights, a folder or a file beside it."""
    lines = [f"FROM {weights}"]
    pieces = pieces_of(tokenizer)
    ends = [tokenizer.eos_token] if tokenizer.eos_token else []
    if pieces is None:
        lines.append("# the tokenizer's chat template could not be told apart: Ollama chooses one by itself")
    else:
        lines.append(f'TEMPLATE """{pieces.as_template()}"""')
        closing = pieces.after_answer.lstrip()
        ends += [mark for mark in _marks(tokenizer) if closing.startswith(mark)][:1]
        system = pieces.system(system)
        if not pieces.follows:
            lines.append("# a second question is asked with the answers before it as they were given: the tokenizer's "
                         "own template writes them otherwise")
    if system and QUOTES in system:
        lines.append(f"# the study's system prompt holds {QUOTES}, which no Modelfile can say: give it in Ollama")
    elif system:
        lines.append(f"SYSTEM {QUOTES}{system}{QUOTES}")
    lines += [f'PARAMETER stop "{end}"' for end in dict.fromkeys(ends) if '"' not in end and "\n" not in end]
    if context:
        lines.append(f"PARAMETER num_ctx {context}")
    return "\n".join([*lines, "PARAMETER temperature 0", ""])


def _marks(tokenizer: Any) -> list[str]:
    """List the tokens that are no text, the longest first; that of an answer's end need not be among the special ones.

    Phi-3's `<|end|>` is one that was added and has no role.
    """
    return sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()} - {""}, key=len, reverse=True)


def _without_words(before: str, marks: Sequence[str]) -> tuple[str, str]:
    """Part what stands before a system prompt into its marks and the words after them."""
    end = max((before.rfind(mark) + len(mark) for mark in marks if mark in before), default=0)
    words = before[end:].lstrip()
    return before[:len(before) - len(words)], words
