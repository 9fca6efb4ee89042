"""A Modelfile for Ollama: where the weights are, the chat template in Ollama's own language, and what ends an answer.

Ollama's templates are Go's, a tokenizer's are Jinja's. Nothing translates one into the other; so a conversation is
written with the tokenizer's template, and what stands around its parts becomes the Modelfile's.
"""

from collections.abc import Collection
from dataclasses import dataclass
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

    def as_template(self) -> str:
        """Write them as a template of Ollama, which is applied to one question and answer after the other."""
        return (f"{{{{ if .System }}}}{self.before_system}{{{{ .System }}}}{self.after_system}{{{{ else }}}}"
                f"{self.before_user}{{{{ end }}}}{{{{ .Prompt }}}}{self.after_user}{{{{ .Response }}}}"
                f"{self.after_answer}")


def pieces_of(tokenizer: Any) -> Pieces | None:
    """Find out what the rows' format writes around the parts of a conversation; none where it cannot be told."""
    renderer = Renderer(tokenizer, train_on="all")
    user, answer = Turn("user", USER), Turn("assistant", ANSWER)
    try:
        alone = renderer.asking([user])
        with_system = renderer.asking([Turn("system", SYSTEM), user])
        twice = renderer.asking([user, answer, Turn("user", AGAIN)])
        over = renderer.pieces(Row(turns=(user, answer)))
        begin = tokenizer.bos_token or ""
        opening, after_user = alone.removeprefix(begin).split(USER)
        before_system, rest = with_system.removeprefix(begin).split(SYSTEM)
        after_system, asked_again = rest.split(USER)
        between = twice.split(ANSWER)[1].split(AGAIN)[0]
    except (DataError, ValueError, IndexError):
        return None
    if isinstance(over, str) or asked_again != after_user:
        return None
    if any(mark in text for text in (alone, with_system, twice) for mark in NOT_IN_A_TEMPLATE):
        return None
    if between.endswith(opening):
        return Pieces(before_system=before_system, after_system=after_system, before_user=opening,
                      after_user=after_user, after_answer=between.removesuffix(opening))
    closing = over[-1].text.partition(ANSWER)[2]
    before_user = between.removeprefix(closing) if between.startswith(closing) else ""
    # what stands before the question only at the beginning is a system prompt of the template's own
    if not before_user or not (opening.startswith(before_system) and opening.endswith(after_system)):
        return None
    return Pieces(before_system=before_system, after_system=after_system, before_user=before_user,
                  after_user=after_user, after_answer=closing,
                  default_system=opening[len(before_system):len(opening) - len(after_system)])


def modelfile(weights: str, tokenizer: Any, system: str | None, context: int | None) -> str:
    """Write a Modelfile for weights, a folder or a file beside it."""
    lines = [f"FROM {weights}"]
    pieces = pieces_of(tokenizer)
    ends = [tokenizer.eos_token] if tokenizer.eos_token else []
    if pieces is None:
        lines.append("# the tokenizer's chat template could not be told apart: Ollama chooses one by itself")
    else:
        lines.append(f'TEMPLATE """{pieces.as_template()}"""')
        ends += _marks_in(pieces.after_answer, tokenizer.all_special_tokens)
        system = system or pieces.default_system
    if system and QUOTES in system:
        lines.append(f"# the study's system prompt holds {QUOTES}, which no Modelfile can say: give it in Ollama")
    elif system:
        lines.append(f"SYSTEM {QUOTES}{system}{QUOTES}")
    lines += [f'PARAMETER stop "{end}"' for end in dict.fromkeys(ends) if '"' not in end and "\n" not in end]
    if context:
        lines.append(f"PARAMETER num_ctx {context}")
    return "\n".join([*lines, "PARAMETER temperature 0", ""])


def _marks_in(text: str, marks: Collection[str]) -> list[str]:
    """Return the special token that an answer is closed with, if it is."""
    return [mark for mark in marks if mark and text.lstrip().startswith(mark)][:1]
