"""Have a character model write on."""

import time

import torch

from kaggle_runner.config_charlm import TEXT8
from kaggle_runner.errors import DataError, StudyError
from kaggle_runner.machine.environment import Environment
from kaggle_runner.model.outcome import Outcome, weights_of
from kaggle_runner.model.talk.asking import Answer, Question, Sampling, Show
from kaggle_runner.training.checkpoint import read_tensors
from kaggle_runner.training.cpu_speed import use_threads
from kaggle_runner.training.data.characters import load_corpus, text8_bytes
from kaggle_runner.training.models.char_model import CharModel

GIVEN = 64
"""Characters of a held-out stretch that the model is given."""


class Writer:
    """A character model in memory, with the characters that it knows."""

    has_base = False

    def __init__(self, outcome: Outcome, environment: Environment) -> None:
        """Load the weights of a trial.

        Raises:
            StudyError: they were not kept, or are damaged.
            DataError: the text that its characters come from cannot be read, or is another one.
        """
        path, config, self.remark = weights_of(outcome)
        use_threads(outcome.cpu_threads)
        corpus = load_corpus(config, cache_directory=environment.cache_directory)
        if outcome.result.hashes.get("text") not in (None, corpus.sha256):
            raise DataError(f"the text {config.dataset} has changed since trial {outcome.trial.id} was trained on it, "
                            f"and so may its characters have; put the text of then back")
        self._symbols, self._validation, self._config = corpus.symbols, corpus.validation, config
        self._model = CharModel(config, len(corpus.symbols))
        try:
            self._model.load_state_dict(read_tensors(path))
        except Exception as error:  # torch reports damage as RuntimeError, EOFError, KeyError, UnpicklingError, ...
            raise StudyError(f"the weights {path} are damaged ({type(error).__name__}); restore them from a copy, or "
                             f"train the trial again with its config.json") from error
        self._model.eval()

    def rows(self, count: int) -> list[Question]:
        """Return stretches of the held-out text, evenly spread, each with what really follows."""
        count = min(count, len(self._validation) // 2)  # a character to give, and one that follows
        apart = len(self._validation) // max(1, count)
        given = min(GIVEN, max(1, apart // 2))
        starts = range(0, apart * count, apart)
        return [Question(tokens_T=self._validation[start:start + given].tolist(),
                         text=self._text(self._validation[start:start + given].tolist()),
                         expected=self._text(self._validation[start + given:start + apart][:GIVEN].tolist()))
                for start in starts]

    def prompt(self, text: str) -> Question:
        """Write a person's text as the symbols of the model.

        Raises:
            DataError: it has characters that the model does not know.
        """
        if self._config.symbols == TEXT8:
            text = text8_bytes(text.encode()).decode("ascii")
        unknown = sorted(set(text) - set(self._symbols))
        if unknown or not text:
            what = f"does not know {', '.join(map(repr, unknown[:5]))}" if unknown else "needs a first character"
            raise DataError(f"the model {what}; write with the characters of its text: "
                            f"{''.join(symbol for symbol in self._symbols if symbol.isprintable())}")
        return Question(tokens_T=[self._symbols.index(character) for character in text], text=text)

    @torch.no_grad()
    def answer(self, question: Question, sampling: Sampling, show: Show, *, tuned: bool = True) -> Answer:
        """Write on after a text, character by character."""
        symbols, generator = list(question.tokens_T), torch.Generator().manual_seed(sampling.seed)
        started = time.perf_counter()
        for _ in range(sampling.max_new_tokens):
            window_1T = torch.tensor([symbols[-self._config.max_length:]])
            logits_V = self._model(window_1T)[0, -1].float()
            symbols.append(_drawn(logits_V, sampling, generator))
            show(self._symbols[symbols[-1]])
        new = symbols[len(question.tokens_T):]
        return Answer(text=self._text(new), tokens=len(new), seconds=time.perf_counter() - started)

    def _text(self, symbols: list[int]) -> str:
        return "".join(self._symbols[symbol] for symbol in symbols)


def _drawn(logits_V: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Choose a symbol: the likeliest, or one drawn from the likeliest that have `top_p` together."""
    if not sampling.draws:
        return int(logits_V.argmax())
    sorted_V, order_V = torch.softmax(logits_V / sampling.temperature, -1).sort(descending=True)
    before_V = sorted_V.cumsum(-1) - sorted_V
    sorted_V[1:][before_V[1:] >= sampling.top_p] = 0.0  # the likeliest stays, however small the share
    return int(order_V[torch.multinomial(sorted_V, 1, generator=generator)])
