"""A text as symbols: find it, check it, map each character to a byte, and split it 90/5/5 by position.

The whole corpus is one array of bytes that lives on the device and is indexed there. Nothing is held twice but while
it is read, in pieces, so a hundred million characters cost little more than a hundred megabytes.
"""

import contextlib
import hashlib
import http.client
import io
import re
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaggle_runner.config import DEMO_DATASET, CharLMConfig
from kaggle_runner.config_charlm import TEXT8, TEXT8_URL
from kaggle_runner.errors import DataError
from kaggle_runner.files import OTHER_CACHE, digest_of, write_atomically
from kaggle_runner.mounts import mounted_at
from kaggle_runner.training.data import builtin_docs

TEXT8_MD5 = "3bea1919949baf155f99411df5fada7e"
"""MD5 sum of the 100,000,000 bytes inside the archive. Source: Matt Mahoney, About the Test Data."""
TEXT8_SYMBOLS = " abcdefghijklmnopqrstuvwxyz"
SHARES = (0.90, 0.95)
"""Shares of the text at which training and validation end. Source: text8's usual split, 90, 5 and 5 million
characters."""
MOST_SYMBOLS = 256
PIECE_BYTES = 2**22
_PLAIN = bytes(code if chr(code) in "0123456789abcdefghijklmnopqrstuvwxyz" else
               code + 32 if chr(code) in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" else ord(" ") for code in range(256))
_NUMBERS = bytes(max(0, code - ord("a") + 1) if code < 128 else 0 for code in range(256))
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, kw_only=True, eq=False)
class CharCorpus:
    """A text as uint8 symbols, in three parts that follow each other."""

    source: str
    """What was read, in words."""
    symbols: str
    """The character of each number."""
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    """Held out from everything: nothing in this package reads it."""
    sha256: str
    """SHA-256 of the symbols and of the whole text as numbers."""


def load_corpus(config: CharLMConfig, *, cache_directory: Path, text8_url: str = TEXT8_URL,
                text8_md5: str = TEXT8_MD5) -> CharCorpus:
    """Read the corpus of a config; `text8` is downloaded once into `cache_directory` and checked by its hash.

    Raises:
        DataError: the corpus is missing, empty, not UTF-8, too short for one batch, has more than 256 symbols, or
            validation or test have a symbol that training never has.
    """
    if config.dataset == TEXT8:
        path = _text8(cache_directory, text8_url, text8_md5)
        return _corpus(path, "text8", config)
    if config.dataset == DEMO_DATASET:
        path = _builtin_text(cache_directory)
        return _corpus(path, f"{DEMO_DATASET} ({builtin_docs.fingerprint()})", config)
    path = text_file(config.dataset)
    return _corpus(path, str(path), config)


def text_file(dataset: str) -> Path:
    """Return the file of a corpus that neither comes with this package nor from the network.

    Raises:
        DataError: it is not there, or a folder.
    """
    path = Path(dataset).expanduser()
    if path.is_dir():
        raise DataError(f"the corpus {path} is a folder; give one text file, {TEXT8}, or {DEMO_DATASET}")
    if not path.is_file():
        raise DataError(f"the corpus {path} does not exist{mounted_at(path)}; give a text file, {TEXT8}, or "
                        f"{DEMO_DATASET}")
    return path


def check_length(source: str, train: int, validation: int, config: CharLMConfig) -> None:
    """Check that both parts have the characters that a config needs.

    Raises:
        DataError: training has less than one batch, or validation less than one window.
    """
    if train <= config.step_tokens:
        raise DataError(f"the corpus {source} has {train} characters to train on, shorter than one batch of "
                        f"{config.effective_batch_size} windows of {config.max_length}; lower batch_size or "
                        f"max_length, or give a longer text")
    if validation <= config.max_length:
        raise DataError(f"the corpus {source} has {validation} characters for validation, too few for one window "
                        f"of {config.max_length}; lower max_length, or give a longer text")


def text8_bytes(text: bytes) -> bytes:
    """Turn text into a to z and single blanks: lower case, digits spelled out, everything else a blank.

    Source: Matt Mahoney's `wikifil.pl`, its last step.
    """
    text = text.translate(_PLAIN)
    for digit, word in enumerate(DIGITS):
        text = text.replace(str(digit).encode(), f" {word} ".encode())
    return re.sub(rb"  +", b" ", text)


def _corpus(path: Path, source: str, config: CharLMConfig) -> CharCorpus:
    numbers, symbols = _as_text8(path) if config.symbols == "text8" else _as_it_is(path, source)
    if not len(numbers):
        raise DataError(f"the corpus {source} is empty; give a text to learn from")
    ends = [int(share * len(numbers)) for share in SHARES]
    train, validation, test = numbers[:ends[0]], numbers[ends[0]:ends[1]], numbers[ends[1]:]
    check_length(source, len(train), len(validation), config)
    _check_symbols(source, symbols, train, {"validation": validation, "test": test})
    digest = hashlib.sha256(symbols.encode())
    digest.update(numbers.data)
    return CharCorpus(source=f"{source}: {len(numbers):,} characters, {len(symbols)} symbols", symbols=symbols,
                      train=train, validation=validation, test=test, sha256=digest.hexdigest())


def _as_text8(path: Path) -> tuple[np.ndarray, str]:
    """Return the text as numbers of text8's 27 symbols."""
    numbers = bytearray()
    for codes in _codes(path):
        piece = np.where(codes < 128, codes, ord(" ")).astype(np.uint8).tobytes()
        if piece.translate(None, TEXT8_SYMBOLS.encode()):  # text8 itself is clean already
            piece = text8_bytes(piece)
            if numbers and numbers[-1] == 0 and piece.startswith(b" "):
                piece = piece[1:]  # a run of blanks that two pieces share
        numbers += piece.translate(_NUMBERS)
    return np.frombuffer(numbers, dtype=np.uint8), TEXT8_SYMBOLS


def _as_it_is(path: Path, source: str) -> tuple[np.ndarray, str]:
    """Return the text as numbers of its own characters, which are given in the order of their code points."""
    counts = _count(path)
    known = np.flatnonzero(counts)
    if len(known) > MOST_SYMBOLS:
        raise DataError(f"the corpus {source} has {len(known)} different characters, and {MOST_SYMBOLS} are the most; "
                        f"set symbols: text8, which makes 27 of them, or clean the text")
    table = np.zeros(len(counts), dtype=np.uint8)
    table[known] = np.arange(len(known))
    numbers, start = np.empty(int(counts.sum()), dtype=np.uint8), 0
    for codes in _codes(path):
        numbers[start:start + len(codes)] = table[codes]
        start += len(codes)
    return numbers, "".join(map(chr, known))


def _count(path: Path) -> np.ndarray:
    """Return how often each code point comes, up to the largest one."""
    counts = np.zeros(128, dtype=np.int64)
    for codes in _codes(path):
        more = np.bincount(codes, minlength=len(counts))
        more[:len(counts)] += counts
        counts = more
    return counts


def _codes(path: Path) -> Iterator[np.ndarray]:
    """Yield the text as code points, piece by piece; a byte-order mark is no character of it."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            while text := file.read(PIECE_BYTES):
                if text.isascii():
                    yield np.frombuffer(text.encode("ascii"), dtype=np.uint8)
                else:
                    yield np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    except UnicodeDecodeError as error:
        raise DataError(f"the corpus {path} is not UTF-8 text: {error.reason}, byte {error.object[error.start]:#04x}; "
                        f"convert it first, for example with iconv -f latin1 -t utf-8") from error
    except OSError as error:
        raise DataError(f"the corpus {path} cannot be read: {error.strerror}") from error


def _check_symbols(source: str, symbols: str, train: np.ndarray, held_out: dict[str, np.ndarray]) -> None:
    seen = _present(train, len(symbols))
    for part, numbers in held_out.items():
        unseen = np.flatnonzero(_present(numbers, len(symbols)) & ~seen)
        if len(unseen):
            names = ", ".join(f"{symbols[i]!r} (U+{ord(symbols[i]):04X})" for i in unseen[:3])
            more = f" and {len(unseen) - 3} more" if len(unseen) > 3 else ""
            raise DataError(f"the {part} part of {source} has {names}{more}, which the training part never has, so no "
                            f"model can predict it; remove it from the text, give a longer one, or set symbols: text8")


def _present(numbers: np.ndarray, symbols: int) -> np.ndarray:
    """Say which symbols come; in pieces, because counting makes eight bytes of each."""
    present = np.zeros(symbols, dtype=bool)
    for start in range(0, len(numbers), PIECE_BYTES):
        present |= np.bincount(numbers[start:start + PIECE_BYTES], minlength=symbols) > 0
    return present


def _builtin_text(cache_directory: Path) -> Path:
    """Write the text that the demo base was trained on, and after it what was held out from it; ASCII documents only.

    The 90 % that come first are almost exactly the training texts of `tools/pretrain_demo_base.py`: one split for both.
    """
    path = cache_directory / "corpora" / f"{builtin_docs.fingerprint()}.txt"
    digest = path.with_suffix(".sha256")
    with contextlib.suppress(OSError, ValueError):  # damaged, or without a digest: made again, which takes seconds
        if digest.read_text() == digest_of(path.read_bytes()):
            return path
    training, held_out = builtin_docs.split_documents()
    text = "\n\n".join(text for text in [*training, *held_out] if text.isascii())
    write_atomically(path, text, way_out=OTHER_CACHE)
    write_atomically(digest, digest_of(text.encode()), way_out=OTHER_CACHE)
    return path


def _text8(cache_directory: Path, url: str, md5: str) -> Path:
    path = cache_directory / "corpora" / "text8"
    if path.is_file() and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == md5:
        return path
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            content = zipfile.ZipFile(io.BytesIO(answer.read())).read("text8")
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error, KeyError) as error:
        again = f" again, for the copy {path} is damaged" if path.is_file() else ""
        raise DataError(f"cannot download text8 from {url}{again}: {error}; get it where there is a network and give "
                        f"the file's path as dataset, or use {DEMO_DATASET}") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"text8 from {url} has md5 {found} instead of {md5}, so it is not text8; try again, or give "
                        f"the path of a copy")
    write_atomically(path, content.decode(), way_out=OTHER_CACHE)
    return path
