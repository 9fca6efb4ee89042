"""Instruction rows as tokens: made once, kept on disk by the hash of everything that shapes them.

A damaged cache is made again and one that cannot be written is done without; the notes say so, nothing is raised.
"""

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import DataError
from kaggle_runner.files import write_cache_file
from kaggle_runner.training.data.batches import EncodedRows
from kaggle_runner.training.data.formats import Row, Turn
from kaggle_runner.training.data.instructions import InstructionData

PLAIN_TEMPLATE = "### Question:\n{prompt}\n\n### Answer:\n"
"""The text before the answer where the tokenizer has no chat template."""
FIXED_DAY = ("{% macro strftime_now(format) %}{{ format.replace('%d', '26').replace('%b', 'Jul').replace('%B', 'July')"
             ".replace('%m', '07').replace('%Y', '2024').replace('%A', 'Friday') }}{% endmacro %}")
"""Goes before a chat template that asks for the date: with the real one the same rows would change overnight.
Source: the date is the one that Llama 3.1's template falls back to."""
VERSION = 1
"""Part of every hash; to be raised when the same rows give other tokens."""
TOKENIZER_ROWS = 1000
"""Rows handed to the tokenizer at once, so that the text of a large dataset is not held twice."""
SPLITS = ("train", "validation")
ARRAYS = ("tokens", "starts", "completion_starts")
"""The fields of `EncodedRows` that a cache file holds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedData:
    """Both splits as tokens, and what happened on the way."""

    train: EncodedRows
    validation: EncodedRows
    sha256: str
    """Of the rows, the tokenizer with its template, and `max_length`: equal hashes, equal tokens."""
    notes: Mapping[str, Any]
    """Plain facts for a trial's record: source, layout, rows left out or cut, what the cache did."""


def encode(data: InstructionData, tokenizer: Any, config: FinetuneConfig, *, cache_directory: Path) -> EncodedData:
    """Tokenise both splits, or take the tokens from the cache.

    Uses the tokenizer's chat template, else `PLAIN_TEMPLATE`. Question and answer are tokenised apart, so that a
    question has the same tokens with and without its answer. An end-of-text token ends every answer that is not cut.
    Rows are cut at `max_length`; rows with nothing left to learn are left out and counted.

    Raises:
        DataError: no row of a split is left.
    """
    key = _key(data, tokenizer, config)
    path = cache_directory / f"tokens-{key[:32]}.npz"
    arrays, cache_note = _read_cache(path)
    if arrays is None:
        arrays = {}
        for split, rows, shape in zip(SPLITS, (data.train, data.validation), (config, config.for_scoring()),
                                      strict=True):
            arrays |= {f"{split}_{name}": array for name, array in _tokenise(rows, tokenizer, shape).items()}
        cache_note += _write_cache(path, arrays)
    train, validation = (EncodedRows(**{name: arrays[f"{split}_{name}"] for name in ARRAYS}) for split in SPLITS)
    cut, no_room, refused = (int(n) for n in arrays["train_counts"] + arrays["validation_counts"])
    for split, encoded in zip(SPLITS, (train, validation), strict=True):
        if not len(encoded):
            raise DataError(f"no {split} row of {data.source} has an answer within max_length {config.max_length}: "
                            f"{no_room} answers begin after it, {refused} conversations do not fit the chat template; "
                            f"raise max_length, or give other rows")
    notes = {"dataset": data.source, "format": data.format, "held_out": data.held_out,
             "duplicates_removed": data.duplicates_removed, "rows_without_answer": data.without_answer,
             "rows_cut": cut, "rows_without_room_for_an_answer": no_room, "rows_the_template_refuses": refused,
             "token_cache": cache_note}
    return EncodedData(train=train, validation=validation, sha256=key, notes=notes)


def _tokenise(rows: Sequence[Row], tokenizer: Any, config: FinetuneConfig) -> dict[str, np.ndarray]:
    """Return the arrays of EncodedRows, and the counts of rows cut, without room for an answer, and refused."""
    bos, template = _bos(tokenizer), _chat_template(tokenizer)
    texts = [_chat_texts(row.turns, tokenizer, template) if template and len(row.turns) > 1 else
             (bos + (PLAIN_TEMPLATE.format(prompt=row.prompt) if row.prompt else ""), row.completion) for row in rows]
    pairs = [pair for pair in texts if pair is not None]
    eos_id = tokenizer.eos_token_id
    kept = [np.empty(0, dtype=np.int32)]
    completion_starts: list[int] = []
    cut = no_room = 0
    for start in range(0, len(pairs), TOKENIZER_ROWS):
        prompts, completions = zip(*pairs[start:start + TOKENIZER_ROWS], strict=True)
        for prompt, completion in zip(_ids(prompts, tokenizer), _ids(completions, tokenizer), strict=True):
            if eos_id is not None and completion[-1:] != [eos_id]:
                completion = [*completion, eos_id]
            tokens = [*prompt, *completion]
            # The first token of a row follows nothing, so it cannot be learned.
            if len(tokens[:config.max_length]) <= max(1, len(prompt) if config.completion_only_loss else 1):
                no_room += 1
                continue
            cut += len(tokens) > config.max_length
            kept.append(np.array(tokens[:config.max_length], dtype=np.int32))
            completion_starts.append(min(len(prompt), config.max_length))
    return {"tokens": np.concatenate(kept), "starts": np.cumsum([len(row) for row in kept], dtype=np.int64),
            "completion_starts": np.array(completion_starts, dtype=np.int32),
            "counts": np.array([cut, no_room, len(texts) - len(pairs)])}


def _ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False,
                                     verbose=False)["input_ids"]
    return ids


def _chat_texts(turns: tuple[Turn, ...], tokenizer: Any, template: str) -> tuple[str, str] | None:
    """Write turns as the text before the answer and the answer; none if the template refuses them."""
    # Some families, such as Gemma, know no system turn: it then opens the first user turn.
    for accepted in (turns, _system_in_user_turn(turns)):
        messages = [{"role": role, "content": text} for role, text in accepted]
        with contextlib.suppress(jinja2.TemplateError):
            prompt = tokenizer.apply_chat_template(messages[:-1], chat_template=template, tokenize=False,
                                                   add_generation_prompt=True)
            whole = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
            # The template closes the answer its own way, mostly with an end token and a line break.
            return prompt, whole[len(prompt):].rstrip() if whole.startswith(prompt) else turns[-1][1]
    return None


def _chat_template(tokenizer: Any) -> str | None:
    if tokenizer.chat_template is None:
        return None
    template: str = tokenizer.get_chat_template()
    return FIXED_DAY + template if "strftime_now" in template else template


def _system_in_user_turn(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    if len(turns) < 3 or turns[0][0] != "system":
        return turns
    (_, system), (role, text), *rest = turns
    return ((role, f"{system}\n\n{text}"), *rest)


def _bos(tokenizer: Any) -> str:
    """Return the token that this tokenizer puts before a text, as text; empty if it puts none."""
    begins_with_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return tokenizer.bos_token if begins_with_bos else ""


def _key(data: InstructionData, tokenizer: Any, config: FinetuneConfig) -> str:
    bos = _bos(tokenizer)  # before the next line: the first call resets the padding state that is part of the text
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    scoring = config.for_scoring()
    parts = [VERSION, data.sha256, type(tokenizer).__name__, vocabulary, bos, tokenizer.eos_token_id,
             _chat_template(tokenizer) or PLAIN_TEMPLATE, config.max_length, config.completion_only_loss,
             scoring.max_length, scoring.completion_only_loss]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read_cache(path: Path) -> tuple[dict[str, np.ndarray] | None, str]:
    """Return the arrays of the cache, none if there are none to use, and what was found."""
    try:
        # opened here, because np.load leaves a file open that it cannot read; every array's CRC is checked
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        for split in SPLITS:
            starts, completion_starts = arrays[f"{split}_starts"], arrays[f"{split}_completion_starts"]
            if starts[-1] != len(arrays[f"{split}_tokens"]) or len(starts) != len(completion_starts) + 1:
                raise ValueError("arrays of different files")
        return arrays, f"read {path.name}"
    except (FileNotFoundError, NotADirectoryError):
        return None, "made"
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        return None, f"made again, {path.name} cannot be used: {error}"


def _write_cache(path: Path, arrays: Mapping[str, Any]) -> str:
    """Write the cache, and return a remark if that failed."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    try:
        write_cache_file(path, content.getvalue())
    except OSError as error:
        return f", not kept: {error.strerror or error}"
    return ""
