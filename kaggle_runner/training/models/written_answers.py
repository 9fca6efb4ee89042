"""What a tuned model writes to a few held-out rows, and what its untouched base does: kept beside a finished trial.

Greedy and short, so that it is the same whoever asks and costs a trial little: measured, five answers of 32 tokens,
demo base, one thread of x86_64: 0.56 s.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from kaggle_runner.events import Note, Notify
from kaggle_runner.files import write_atomically
from kaggle_runner.study.answers import ANSWERS
from kaggle_runner.training.data.batches import EncodedRows
from kaggle_runner.training.data.render import Renderer
from kaggle_runner.training.data.tokens import special_ids
from kaggle_runner.training.models.base_model import BaseModel

ROWS = 5
MOST_TOKENS = {"cpu": 24, "cuda": 64}
"""Tokens of an answer."""
FIRST_TOKENS = 16
"""How much of a row of plain text is given where a row has no question, at most; never more than half of it."""
CANNOT = (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, IndexError, KeyError)
"""What a model whose family does not generate may raise: its trial is complete all the same."""


def question_of(rows: EncodedRows, i: int) -> int:
    """Return where the last answer of a row begins; what is before it is the question."""
    return _begin_of(rows, i) or max(1, min(FIRST_TOKENS, int(rows.lengths[i]) // 2))


def _begin_of(rows: EncodedRows, i: int) -> int:
    """Return where the last answer of a row begins; 0 for plain text, which has no question."""
    trained = rows.trained_of(i)
    starts = np.flatnonzero(trained[1:] & ~trained[:-1]) + 1
    start = int(starts[-1]) if len(starts) else 0
    return start if start > 1 else 0


def expected_of(rows: EncodedRows, i: int, tokenizer: Any, renderer: Renderer) -> tuple[str, bool]:
    """Return what a row answers last, without what its template writes around it, and whether words of it are cut."""
    start, special = question_of(rows, i), special_ids(tokenizer)
    tokens, trained = rows.row(i)[start:].tolist(), rows.trained_of(i)[start:]
    # behind the last answer of a row that was cut there may be the next question
    end = stop = next((int(n) for n in np.flatnonzero(~trained) if trained[0]), len(tokens))
    is_cut = rows.cut is not None and bool(rows.cut[i])
    for n in () if is_cut else reversed(range(stop)):  # at the end of a cut one a special token is its own
        if tokens[n] in special:
            end = n
        elif tokenizer.decode(tokens[n]).strip():
            break
    text = tokenizer.decode(tokens[:end])
    return renderer.answer_in(text) if _begin_of(rows, i) else text, is_cut


def answers_of(base: BaseModel, rows: EncodedRows) -> list[str]:
    """Have a model, with whatever adapter is attached, answer the first held-out rows."""
    return [base.tokenizer.decode(written(base, rows.row(i)[:question_of(rows, i)], MOST_TOKENS[base.device.type]),
                                  skip_special_tokens=True) for i in range(min(ROWS, len(rows)))]


@torch.no_grad()
def written(base: BaseModel, asked_T: np.ndarray, most_tokens: int) -> list[int]:
    """Return what greedy decoding writes to a question, the end token included."""
    base.model.eval()
    settings = transformers.GenerationConfig(max_new_tokens=most_tokens, do_sample=False,
                                             eos_token_id=base.ends or None, pad_token_id=base.tokenizer.pad_token_id)
    asked = torch.from_numpy(asked_T.astype(np.int64)).unsqueeze(0).to(base.device)
    with torch.autocast(base.device.type, dtype=base.compute_dtype, enabled=base.compute_dtype is not torch.float32):
        out = base.model.generate(asked, attention_mask=torch.ones_like(asked), generation_config=settings)
    return out[0, asked.shape[1]:].tolist()  # type: ignore[no-any-return]  # torch's own


def try_answers(base: BaseModel, rows: EncodedRows, emit: Notify) -> list[str]:
    """Answer, or say why this model cannot; a trial does not fail by it."""
    try:
        return answers_of(base, rows)
    except CANNOT as error:
        emit(Note(text=f"no answers were written: {type(error).__name__}: {' '.join(str(error).split())[:200]}"))
        return []


def keep_answers(directory: Path, base: BaseModel, rows: EncodedRows, *, tuned: list[str],
                 untouched: list[str]) -> None:
    """Write both models' answers beside the questions and what the rows answer."""
    renderer = Renderer(base.tokenizer, train_on="all")
    asked = []
    for i, answer in enumerate(tuned):
        expected, is_cut = expected_of(rows, i, base.tokenizer, renderer)
        asked.append({"prompt": renderer.question_in(base.tokenizer.decode(rows.row(i)[:question_of(rows, i)])),
                      "expected": expected, "cut": is_cut, "base": untouched[i] if i < len(untouched) else None,
                      "answer": answer})
    write_atomically(directory / ANSWERS, json.dumps({"most_tokens": MOST_TOKENS[base.device.type], "rows": asked},
                                                     ensure_ascii=False, indent=1) + "\n")
