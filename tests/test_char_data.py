"""A text as symbols: what is read, how it is split, and what is refused."""

import hashlib
import http.server
import io
import threading
import zipfile

import numpy as np
import pytest

from kaggle_runner.config import CharLMConfig
from kaggle_runner.errors import DataError
from kaggle_runner.training.data.characters import TEXT8_SYMBOLS, load_corpus, text8_bytes

TEXT = "the cat sat on the mat, and the dog: 42 times\n" * 40


def config(dataset, **more):
    return CharLMConfig(**{"dataset": str(dataset), "max_length": 8, "batch_size": 4, **more})


def written(tmp_path, content, name="corpus.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_the_parts_follow_each_other_and_give_the_text_back(tmp_path):
    corpus = load_corpus(config(written(tmp_path, TEXT)), cache_directory=tmp_path)
    numbers = np.concatenate([corpus.train, corpus.validation, corpus.test])
    assert "".join(corpus.symbols[number] for number in numbers) == TEXT
    assert len(corpus.train) == int(0.9 * len(TEXT))
    assert len(corpus.validation) == int(0.95 * len(TEXT)) - len(corpus.train)
    assert corpus.train.dtype == np.uint8
    assert corpus.symbols == "".join(sorted(set(TEXT)))


def test_characters_beyond_ascii_are_symbols_like_others_and_a_byte_order_mark_is_none(tmp_path):
    text = "\u00fcber die \u6f22\u5b57 \U0001f600 " * 60
    corpus = load_corpus(config(written(tmp_path, b"\xef\xbb\xbf" + text.encode())), cache_directory=tmp_path)
    assert corpus.symbols == "".join(sorted(set(text)))
    assert "".join(corpus.symbols[number] for number in corpus.train) == text[:int(0.9 * len(text))]


def test_text8_symbols_are_lower_case_letters_digits_in_words_and_single_blanks(tmp_path):
    assert text8_bytes("The 2 Cats,\n\u00fcbrig!".encode()) == b"the two cats brig "
    corpus = load_corpus(config(written(tmp_path, TEXT), symbols="text8"), cache_directory=tmp_path)
    assert corpus.symbols == TEXT8_SYMBOLS
    read = "".join(corpus.symbols[number] for number in corpus.train)
    assert read.startswith("the cat sat on the mat and the dog four two times the cat")


def test_a_corpus_of_two_symbol_sets_has_two_hashes(tmp_path):
    path = written(tmp_path, TEXT)
    own, text8 = (load_corpus(config(path, symbols=symbols), cache_directory=tmp_path) for symbols in ("own", "text8"))
    assert own.sha256 != text8.sha256


def test_the_builtin_text_needs_no_network_and_ends_with_what_the_demo_base_never_saw(tmp_path):
    from kaggle_runner.training.data.builtin_docs import split_documents

    corpus = load_corpus(config("python-docs"), cache_directory=tmp_path)
    test = "".join(corpus.symbols[number] for number in corpus.test[200:2000])
    held_out = "\n\n".join(split_documents()[1])
    assert len(corpus.symbols) < 128
    assert all(part in held_out for part in test.split("\n\n")[1:-1])
    (digest,) = tmp_path.glob("corpora/*.sha256")
    kept = digest.read_bytes()
    for damaged in (kept, b"\xff" + kept[1:]):
        digest.write_bytes(damaged)
        again = load_corpus(config("python-docs"), cache_directory=tmp_path)
        assert again.sha256 == corpus.sha256
        assert digest.read_bytes() == kept, "made again with the text"


@pytest.mark.parametrize(("content", "more", "message"), [
    (b"", {}, "is empty; give a text to learn from"),
    (b"too short", {}, "has 8 characters to train on, shorter than one batch of 4 windows of 8; lower batch_size"),
    (b"abcdefgh" * 10, {}, "has 4 characters for validation, too few for one window of 8"),
    (b"caf\xe9 " * 500, {}, "is not UTF-8 text: invalid continuation byte, byte 0xe9; convert it first"),
    (("a b " * 450 + "a\u00e9 " * 20 + "a b" * 40).encode(), {},
     r"the validation part of .* has '\u00e9' \(U\+00E9\), which the training part never has"),
    (("".join(map(chr, range(200, 600))) * 9).encode(), {}, "has 400 different characters, and 256 are the most"),
])
def test_a_text_that_cannot_be_used_is_refused_in_one_line(tmp_path, content, more, message):
    with pytest.raises(DataError, match=message) as raised:
        load_corpus(config(written(tmp_path, content), **more), cache_directory=tmp_path)
    assert "\n" not in str(raised.value)


def test_a_missing_corpus_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt does not exist; give a text file, text8, or python-docs"):
        load_corpus(config(tmp_path / "nowhere.txt"), cache_directory=tmp_path)
    with pytest.raises(DataError, match="is a folder; give one text file"):
        load_corpus(config(tmp_path), cache_directory=tmp_path)


@pytest.fixture
def text8_server():
    """A server of one small text8.zip; yields its address and the right hash."""
    content = b"anarchism originated as a term of abuse " * 50
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("text8", content)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(buffer.getvalue())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/text8.zip", hashlib.md5(content).hexdigest()
        server.shutdown()
        thread.join()


def test_text8_is_downloaded_once_and_checked_by_its_hash(tmp_path, text8_server):
    url, md5 = text8_server
    with pytest.raises(DataError, match=r"has md5 \w+ instead of 00, so it is not text8"):
        load_corpus(config("text8"), cache_directory=tmp_path, text8_url=url, text8_md5="00")
    corpus = load_corpus(config("text8"), cache_directory=tmp_path, text8_url=url, text8_md5=md5)
    assert corpus.symbols == "".join(sorted(set("anarchism originated as a term of abuse ")))
    again = load_corpus(config("text8"), cache_directory=tmp_path, text8_url="http://127.0.0.1:9/", text8_md5=md5)
    assert again.sha256 == corpus.sha256


def test_without_a_network_text8_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match=r"cannot download text8 from .* or use python-docs"):
        load_corpus(config("text8"), cache_directory=tmp_path, text8_url="http://127.0.0.1:9/text8.zip")
