import bz2
import gzip
import json
import lzma
from pathlib import Path

import datasets
import pyarrow
import pytest

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import DataError
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.data.splits import choose_splits, split_of

ROWS = [{"question": f"q{i}", "answer": f"ä{i}"} for i in range(40)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = "question;answer\n" + "".join(f"q{i};ä{i}\n" for i in range(40))


def zstd(content):
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


@pytest.mark.parametrize(("name", "content", "remarks"), [
    ("rows.jsonl.gz", gzip.compress(LINES.encode()), ()),
    ("rows.jsonl.zst", zstd(LINES.encode()), ()),
    ("rows.jsonl.bz2", bz2.compress(LINES.encode()), ()),
    ("rows.json.xz", lzma.compress(LINES.encode()), ()),
    ("rows.ndjson", LINES.encode("utf-8-sig"), ()),
    ("rows.json", json.dumps(ROWS).encode(), ()),
    ("rows.json", json.dumps({"version": 1, "data": ROWS}).encode(), ()),
    ("rows.json", json.dumps({"data": ROWS}, indent=1).encode(), ()),
    ("rows.csv", TABLE.replace(";", ",").encode(), ()),
    ("rows.tsv", TABLE.replace(";", "\t").encode(), ()),
    ("rows.csv", TABLE.encode(), ("rows.csv is separated by ';'",)),
    ("rows.csv", TABLE.encode("cp1252"), ("rows.csv is no UTF-8 and read as cp1252", "rows.csv is separated by ';'")),
    ("rows.jsonl", LINES.encode("utf-16"), ("rows.jsonl is no UTF-8 and read as utf-16",)),
])
def test_the_same_rows_come_from_every_kind_of_file_and_what_is_unusual_is_said(tmp_path, name, content, remarks):
    (tmp_path / name).write_bytes(content)
    data = load_rows(FinetuneConfig(dataset=str(tmp_path / name)), cache_directory=tmp_path)
    assert sorted(row.completion for row in (*data.train, *data.validation)) == sorted(row["answer"] for row in ROWS)
    assert data.remarks == remarks


def test_a_text_file_has_a_row_on_each_line(tmp_path):
    (tmp_path / "rows.txt").write_text("\n".join(f"line {i}\n" for i in range(40)))
    data = load_rows(FinetuneConfig(dataset=str(tmp_path / "rows.txt")), cache_directory=tmp_path)
    assert data.account.read == 40
    assert data.format == "plain text: text"


def test_a_folder_that_save_to_disk_wrote_is_read_with_its_splits(tmp_path):
    tables = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS),
                                   "test": datasets.Dataset.from_list([{"question": "z", "answer": "z"}])})
    tables.save_to_disk(tmp_path / "saved")
    data = load_rows(FinetuneConfig(dataset=str(tmp_path / "saved")), cache_directory=tmp_path)
    assert (len(data.train), [row.completion for row in data.validation]) == (40, ["z"])
    assert data.held_out == "1 rows of its test split"


def test_an_eval_dataset_is_held_out(tmp_path):
    (tmp_path / "rows.jsonl").write_text(LINES)
    (tmp_path / "other.jsonl").write_text(LINES.replace('"q0', '"another q0').splitlines()[0] + "\n")
    data = load_rows(FinetuneConfig(dataset=str(tmp_path / "rows.jsonl"), eval_dataset=str(tmp_path / "other.jsonl")),
                     cache_directory=tmp_path)
    assert (len(data.train), [row.prompt for row in data.validation]) == (40, ["another q0"])
    assert data.files["validation"] == [str(tmp_path / "other.jsonl")]


@pytest.mark.parametrize(("file", "split"), [
    ("train.jsonl", "train"), ("rows.jsonl", "train"), ("data/my-test.csv", "test"), ("test/part-0.parquet", "test"),
    ("val_split.json", "validation"), ("dev/a.jsonl", "validation"), ("evaluation.jsonl", "test"),
    ("valuable.jsonl", "train"), ("latest.jsonl", "train"), ("contest.jsonl", "train"), ("test_train.jsonl", "test"),
    ("test/train.jsonl", "train"), ("TEST-00000-of-00001.parquet", "test"),
])
def test_a_keyword_that_is_set_off_tells_the_split(file, split):
    assert split_of(Path(file)) == split


@pytest.mark.parametrize(("names", "wanted", "expected"), [
    (["train", "test"], None, ("train", "test")), (["all"], None, ("all", "")),
    (["train_sft", "test_sft", "train_gen", "test_gen"], "train_sft", ("train_sft", "test_sft")),
    (["train", "validation", "test"], None, ("train", "validation")), (["test"], "test", ("test", "")),
])
def test_splits_are_chosen(names, wanted, expected):
    assert choose_splits(names, wanted, "x") == expected


@pytest.mark.parametrize(("names", "wanted", "message"), [
    (["train_sft", "train_gen"], None, "the splits train_sft, train_gen and none .*dataset_split: train_sft"),
    (["test"], None, "has the splits test and none is named train"),
    (["train"], "training", "dataset_split is 'training', but x has the splits train; name one of them"),
])
def test_an_unclear_choice_is_refused(names, wanted, message):
    with pytest.raises(DataError, match=message):
        choose_splits(names, wanted, "x")
