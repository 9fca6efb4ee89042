"""Instruction rows as tokens: made once, kept on disk by the hash of everything that shapes them.

A damaged cache is made again and one that cannot be written is done without; the notes say so, nothing is raised.
"""

import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import DataError
from kaggle_runner.files import write_cache_file
from kaggle_runner.training.data.account import Account
from kaggle_runner.training.data.batches import EncodedRows
from kaggle_runner.training.data.instructions import InstructionData
from kaggle_runner.training.data.render import PLAIN_TEMPLATE, Piece, Renderer
from kaggle_runner.training.data.turns import Row

VERSION = 2
"""Part of every hash; to be raised when the same rows give other tokens."""
TOKENIZER_ROWS = 1000
"""Rows handed to the tokenizer at once, so that the text of a large dataset is not held twice."""
NO_ROOM = "no answer begins within max_length"
SPLITS = ("train", "validation")
ARRAYS = ("tokens", "starts", "trained")
"""Fields of EncodedRows that both splits have."""
HELD_OUT_ARRAYS = ("scored_bytes", "cut")
"""Those that only the held-out rows have: a number for each row."""
FILES = "tokens-3"
"""How names of cache files begin; to be counted up when they hold something else of the same tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedData:
    """Both splits as tokens, and what happened on the way."""

    train: EncodedRows
    validation: EncodedRows
    sha256: str
    """Of the rows, the tokenizer with its template, and `max_length`: equal hashes, equal tokens."""
    rows_sha256: str = ""
    """Of the rows alone, as they were read."""
    account: Account = field(default_factory=lambda: Account(read=0, train=0, validation=0))
    """What became of every row that was read."""
    warnings: tuple[str, ...] = ()
    """What a person should know before believing a loss."""
    notes: Mapping[str, Any]
    """Plain facts for a trial's record: source, layout, rows left out or cut, what the cache did."""

    @property
    def hashes(self) -> dict[str, str]:
        """Return both hashes by their names in a trial's record."""
        return {"data": self.rows_sha256, "rows": self.sha256}

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return what the study's record holds of the rows, whatever trial reads them."""
        return {name: value for name, value in self.notes.items() if name != "token_cache"} | {"sha256": self.sha256}


def encode(data: InstructionData, tokenizer: Any, config: FinetuneConfig, *, cache_directory: Path) -> EncodedData:
    """Tokenise both splits, or take the tokens from the cache.

    Uses the tokenizer's chat template, else headings. Questions and answers are tokenised apart, so that a question has
    the same tokens with and without its answer. An end-of-text token ends every last answer that is not cut.
    Rows are cut at `max_length`; rows with nothing left to learn are left out and counted.

    Raises:
        DataError: no row of a split is left.
    """
    shapes = config, config.for_scoring()
    renderers = [Renderer(tokenizer, train_on=shape.train_on) for shape in shapes]
    key = _key(data, tokenizer, renderers[0], config)
    path = cache_directory / f"{FILES}-{key[:32]}.npz"
    arrays, cache_note = _read_cache(path)
    if arrays is None:
        arrays = {}
        for split, rows, shape, renderer in zip(SPLITS, (data.train, data.validation), shapes, renderers, strict=True):
            made = _tokenise(rows, renderer, tokenizer, shape, held_out=split == SPLITS[1])
            arrays |= {f"{split}_{name}": array for name, array in made.items()}
        cache_note += _write_cache(path, arrays)
    train, validation = (EncodedRows(**{name: arrays[f"{split}_{name}"] for name in ARRAYS}) for split in SPLITS)
    validation = replace(validation, **{name: arrays[f"{SPLITS[1]}_{name}"] for name in HELD_OUT_ARRAYS})
    counts = [json.loads(str(arrays[f"{split}_counts"])) for split in SPLITS]
    account = data.account.encoded(train=len(train), validation=len(validation), cut=sum(n["cut"] for n in counts),
                                   lost=Counter(counts[0]["lost"]) + Counter(counts[1]["lost"]))
    for split, encoded in zip(SPLITS, (train, validation), strict=True):
        if not len(encoded):
            raise DataError(f"no {split} row of {data.source} has an answer to learn within max_length "
                            f"{config.max_length}: {account.losses}; raise max_length, or give other rows")
    notes = {"dataset": data.source, "format": data.format, "held_out": data.held_out, "rows": account.as_dict(),
             "columns_unused": list(data.columns_unused), "token_cache": cache_note}
    return EncodedData(train=train, validation=validation, sha256=key, rows_sha256=data.sha256, account=account,
                       notes=notes, warnings=warnings_of(data, account))


def warnings_of(data: InstructionData, account: Account) -> tuple[str, ...]:
    """Say what is lost, cut, not read, or read in a way that may not be meant."""
    warnings = list(data.remarks)
    if data.columns_unused:
        warnings.append(f"not used: column{'s' if len(data.columns_unused) > 1 else ''} "
                        f"{', '.join(data.columns_unused)} of {data.source}")
    if account.lost:
        warnings.append(f"rows left out of {data.source}: {account.losses}")
    if account.unanswered:
        warnings.append(f"{account.unanswered:,} conversations go on after their last answer; the turns that nobody "
                        f"answers are left away")
    if account.cut:
        warnings.append(f"{account.cut:,} rows are cut at max_length, their answers end early")
    return tuple(warnings)


def token_row(pieces: Sequence[tuple[list[int], bool]], eos_id: int | None) -> tuple[list[int], list[bool]]:
    """Join the tokens of a row's pieces, and say of each whether it is learned; an end token closes the last piece."""
    tokens = [token for ids, _ in pieces for token in ids]
    trained = [is_trained for ids, is_trained in pieces for _ in ids]
    if eos_id is not None and pieces[-1][0][-1:] != [eos_id]:
        tokens.append(eos_id)
        trained.append(True)
    return tokens, trained


def _tokenise(rows: Sequence[Row], renderer: Renderer, tokenizer: Any, config: FinetuneConfig, *,
              held_out: bool) -> dict[str, np.ndarray]:
    """Return the arrays of EncodedRows, and as JSON how many rows were cut, and lost for which reason."""
    kept, learned = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=bool)]
    used: list[Sequence[Piece]] = []
    ends_early: list[bool] = []
    special = special_ids(tokenizer)
    lost: Counter[str] = Counter()
    cut = 0
    for start in range(0, len(rows), TOKENIZER_ROWS):
        rendered = [renderer.pieces(row) for row in rows[start:start + TOKENIZER_ROWS]]
        lost.update(reason for reason in rendered if isinstance(reason, str))
        written = [pieces for pieces in rendered if not isinstance(pieces, str)]
        for pieces, (tokens, trained) in zip(written, encoded_pieces(written, tokenizer), strict=True):
            is_trained = np.array(trained[:config.max_length], dtype=bool)
            # The first token of a row follows nothing, so it cannot be learned.
            if not (is_trained[1:].any() if config.completion_only_loss else len(is_trained) > 1):
                lost[NO_ROOM] += 1
                continue
            if held_out:
                used.append(pieces)
                ends_early.append(_loses_words(tokens, trained, config.max_length, tokenizer, special))
            cut += len(tokens) > config.max_length
            kept.append(np.array(tokens[:config.max_length], dtype=np.int32))
            learned.append(is_trained)
    return {"tokens": np.concatenate(kept), "starts": np.cumsum([len(row) for row in kept], dtype=np.int64),
            "trained": np.concatenate(learned), "counts": np.array(json.dumps({"cut": cut, "lost": lost})),
            **({"scored_bytes": _bytes_of(used, tokenizer, config), "cut": np.array(ends_early, dtype=bool)}
               if held_out else {})}


def _loses_words(tokens: list[int], trained: list[bool], limit: int, tokenizer: Any, special: frozenset[int]) -> bool:
    """Say whether the last answer that begins before the limit has words behind it."""
    if not any(trained[:limit]):
        return True
    goes_on = takewhile(lambda n: trained[n], range(limit - 1, len(tokens)))
    return any(n >= limit and tokens[n] not in special and tokenizer.decode(tokens[n]).strip() for n in goes_on)


def _bytes_of(used: Sequence[Sequence[Piece]], tokenizer: Any, config: FinetuneConfig) -> np.ndarray:
    return np.array(scored_bytes(used, tokenizer, completion_only=config.completion_only_loss,
                                 most_tokens=config.max_length), dtype=np.int64)


def encoded_pieces(rendered: Sequence[Sequence[Piece]], tokenizer: Any) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield the tokens of each rendered row, and which of them are learned."""
    texts = [piece.text for pieces in rendered for piece in pieces]
    ids = iter(tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
               if texts else ())
    for pieces in rendered:
        yield token_row([(next(ids), piece.is_trained) for piece in pieces], tokenizer.eos_token_id)


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the tokens that stand for no text: marks of turns, the end token."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset({*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)})


def scored_bytes(rendered: Sequence[Sequence[Piece]], tokenizer: Any, *, completion_only: bool,
                 most_tokens: int) -> list[int]:
    """Count for each row the UTF-8 bytes of the text whose tokens count in the loss.

    Rows are cut at `most_tokens`; with `completion_only` only answers count. The first token of a row follows nothing
    and counts nowhere, and special tokens are counted as no text.
    """
    special, counted = special_ids(tokenizer), []
    for pieces in rendered:
        place = total = 0
        for piece in pieces:
            tokens = list(_stretches(piece.text, tokenizer))
            if piece.is_trained or not completion_only:
                total += sum(size for at, (token, size) in enumerate(tokens, start=place)
                             if 0 < at < most_tokens and token not in special)
            place += len(tokens)
        counted.append(total)
    return counted


def _stretches(text: str, tokenizer: Any) -> Iterator[tuple[int, int]]:
    """Yield the tokens of a text and the bytes that each ends: a letter of several tokens is the first one's."""
    if not getattr(tokenizer, "is_fast", False):
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            yield token, len(tokenizer.decode([token]).encode())
        return
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [0]
    for _, end in found["offset_mapping"]:  # some tokenizers leave the blank before a word out of its own stretch
        ends.append(max(ends[-1], end))
    for token, (start, end) in zip(found["input_ids"], pairwise(ends), strict=True):
        yield token, len(text[start:end].encode())


def _key(data: InstructionData, tokenizer: Any, renderer: Renderer, config: FinetuneConfig) -> str:
    # after the renderer was made: its first call resets the padding state that is part of the text
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    scoring = config.for_scoring()
    parts = [VERSION, data.sha256, type(tokenizer).__name__, vocabulary, renderer.bos, tokenizer.eos_token_id,
             renderer.template or PLAIN_TEMPLATE, config.max_length, config.completion_only_loss, config.train_on,
             scoring.max_length, scoring.completion_only_loss, scoring.train_on]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read_cache(path: Path) -> tuple[dict[str, np.ndarray] | None, str]:
    """Return the arrays of the cache, none if there are none to use, and what was found."""
    try:
        # opened here, because np.load leaves a file open that it cannot read; every array's CRC is checked
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        for split in SPLITS:
            tokens, trained = arrays[f"{split}_tokens"], arrays[f"{split}_trained"]
            if not arrays[f"{split}_starts"][-1] == len(tokens) == len(trained) or f"{split}_counts" not in arrays:
                raise ValueError("arrays of different files")
        if any(len(arrays[f"{SPLITS[1]}_{name}"]) != len(arrays["validation_starts"]) - 1 for name in HELD_OUT_ARRAYS):
            raise ValueError("arrays of different files")
        return arrays, f"read {path.name}"
    except (FileNotFoundError, NotADirectoryError):
        return None, "made"
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile,
            NotImplementedError, RuntimeError) as error:  # the last two: a flag of the archive is damaged
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
