"""Ask a tuned model and its untouched base, in the format that its rows were trained in; answers come as they are made.

Shapes: T tokens of a prompt.
"""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from kaggle_runner.errors import DataError
from kaggle_runner.events import Notify, Phase
from kaggle_runner.machine.environment import Environment
from kaggle_runner.model.measured import attach_trained, device_here, held_out_rows, load_trained, system_prompt_of
from kaggle_runner.model.outcome import Outcome
from kaggle_runner.model.talk.asking import Answer, Question, Sampling, Show
from kaggle_runner.training.data.batches import EncodedRows
from kaggle_runner.training.data.render import Renderer
from kaggle_runner.training.data.turns import Turn
from kaggle_runner.training.models.base_model import BaseModel
from kaggle_runner.training.models.written_answers import expected_of, question_of


class Conversation:
    """A tuned model in memory, to be asked with its adapter and without."""

    has_base = True

    def __init__(self, base: BaseModel, adapted: Any, rows: EncodedRows | None, renderer: Renderer,
                 system: str | None, *, is_text: bool, remark: str = "") -> None:
        self._base, self._adapted, self._rows, self._renderer = base, adapted, rows, renderer
        self.system, self._is_text, self.remark = system, is_text, remark
        settings = base.model.config.get_text_config()
        self.room = int(getattr(settings, "max_position_embeddings", 0) or 10**9)
        """Tokens that the model takes, prompt and answer together."""

    def rows(self, count: int) -> list[Question]:
        """Return the first held-out rows as questions, cut where their last answer begins."""
        rows = self._rows
        return [] if rows is None else [self._of_row(rows, i) for i in range(min(count, len(rows)))]

    def question(self, turns: Sequence[Turn]) -> Question:
        """Write a conversation as the model was trained to read it; the oldest turns go where there is no room.

        Raises:
            DataError: the chat template refuses it, or the question alone is too long.
        """
        turns = list(turns)
        while True:
            system = [Turn("system", self.system)] if self.system and not self._is_text else []
            text = self._renderer.bos + turns[-1].text if self._is_text else self._renderer.asking([*system, *turns])
            tokens_T = self._base.tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(tokens_T) < self.room:
                return Question(tokens_T=tokens_T, text=text)
            if len(turns) < 3:
                raise DataError(f"the question has {len(tokens_T):,} tokens, and the model takes {self.room:,} with "
                                f"its answer; ask something shorter")
            turns = turns[2:]

    def answer(self, question: Question, sampling: Sampling, show: Show, *, tuned: bool) -> Answer:
        """Have the tuned model, or its base, answer a question; `show` gets the text as it comes."""
        base, given = self._base, len(question.tokens_T)
        prompt = torch.tensor([question.tokens_T], device=base.device)
        torch.manual_seed(sampling.seed)
        started = time.perf_counter()
        with (contextlib.nullcontext() if tuned else self._adapted.disable_adapter(), torch.no_grad(),
              torch.autocast(base.device.type, dtype=base.compute_dtype,
                             enabled=base.compute_dtype is not torch.float32)):
            out = base.model.generate(
                prompt, attention_mask=torch.ones_like(prompt), streamer=_Streamer(base.tokenizer, show),
                generation_config=self._settings(sampling, most=max(1, self.room - given)))
        seconds, new = time.perf_counter() - started, out[0, given:].tolist()
        return Answer(text=base.tokenizer.decode(new, skip_special_tokens=True), tokens=len(new), seconds=seconds)

    def _settings(self, sampling: Sampling, most: int) -> Any:
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        return transformers.GenerationConfig(
            max_new_tokens=min(sampling.max_new_tokens, most), eos_token_id=self._base.ends or None,
            pad_token_id=self._base.tokenizer.pad_token_id,
            **(drawn if sampling.draws else {"do_sample": False}))

    def _of_row(self, rows: EncodedRows, i: int) -> Question:
        tokens_T, tokenizer = rows.row(i)[:question_of(rows, i)].tolist(), self._base.tokenizer
        expected, is_cut = expected_of(rows, i, tokenizer, self._renderer)
        return Question(tokens_T=tokens_T, text=tokenizer.decode(tokens_T), expected=expected, is_cut=is_cut)


class _Streamer(transformers.TextStreamer):
    """Hands on whole words as they are finished."""

    def __init__(self, tokenizer: Any, show: Show) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Show a piece."""
        if text:
            self._show(text)


def open_conversation(outcome: Outcome, environment: Environment, notify: Notify, *, system: str | None = None,
                      cpu_only: bool = False) -> Conversation:
    """Load a trial's base and adapter, and find out how its rows ask.

    `system` takes the place of the study's system prompt, the one that most of its rows begin with.

    Raises:
        StudyError: the adapter is not there.
        ModelError: the base is gone.
    """
    adapter = outcome.adapter
    base = load_trained(outcome, device_here(cpu_only), notify)
    held = held_out_rows(outcome, base.tokenizer, environment.cache_directory)
    rows = () if held.data is None else held.data.train
    if system is None:
        system = system_prompt_of(held.data)
    notify(Phase(phase="load", text=f"putting the adapter of trial {outcome.trial.id} on it"))
    return Conversation(base, attach_trained(base, adapter), held.rows, Renderer(base.tokenizer, train_on="all"),
                        system, remark=held.remark, is_text=bool(rows) and all(len(row.turns) == 1 for row in rows))
