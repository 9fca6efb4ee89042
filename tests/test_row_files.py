import bz2
import gzip
import json
import lzma
import re
from pathlib import Path

import datasets
import pyarrow
import pytest

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import DataError
from kaggle_runner.training.data.files import read_file
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
    ("rows.json", "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(), ()),
    ("rows.json", json.dumps([{**row, "long": "x" * 60_000} for row in ROWS]).encode(), ()),
    ("rows.json", json.dumps({"about": "x" * 3_000_000, "data": ROWS}).encode(), ()),
    ("rows.csv", TABLE.replace(";", ",").encode(), ()),
    ("rows.tsv", TABLE.replace(";", "\t").encode(), ()),
    ("rows.csv", TABLE.encode(), ("rows.csv is separated by ';'",)),
    ("rows.csv", TABLE.encode("cp1252"), ("rows.csv is no UTF-8 and read as cp1252", "rows.csv is separated by ';'")),
    ("rows.jsonl", LINES.encode("utf-16"), ("rows.jsonl is no UTF-8 and read as utf-16",)),
    ("rows.jsonl", LINES.encode("utf-16-le"), ("rows.jsonl is no UTF-8 and read as utf-16-le",)),
    ("rows.jsonl", LINES.encode("utf-32"), ("rows.jsonl is no UTF-8 and read as utf-32",)),
    ("rows.csv", b"\n\n" + TABLE.replace(";", ",").encode(), ()),
], ids=lambda value: value if isinstance(value, str) else "")  # gzip writes the time, and each test process has its own
def test_the_same_rows_come_from_every_kind_of_file_and_what_is_unusual_is_said(tmp_path, name, content, remarks):
    (tmp_path / name).write_bytes(content)
    data = load_rows(FinetuneConfig(dataset=str(tmp_path / name)), cache_directory=tmp_path)
    assert sorted(row.completion for row in (*data.train, *data.validation)) == sorted(row["answer"] for row in ROWS)
    assert data.remarks == remarks


def test_a_list_of_rows_is_read_row_by_row(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{**row, "long": "x" * 60_000} for row in ROWS])[:-1] + ", {")
    rows = read_file(tmp_path / "rows.json")
    assert [next(rows)["answer"] for _ in range(30)] == [row["answer"] for row in ROWS[:30]]
    with pytest.raises(DataError, match="line 1 cannot be read as JSON"):
        list(rows)


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
    ("test/train.jsonl", "test"), ("train/part.jsonl", "train"), ("TEST-00000-of-00001.parquet", "test"),
])
def test_a_keyword_that_is_set_off_tells_the_split(file, split):
    assert split_of(Path(file)) == split


def lines(count, start=0):
    return "".join(json.dumps({"question": f"q{i}", "answer": f"a{i}"}) + "\n" for i in range(start, start + count))


CONFIGS = """---
license: mit
configs:
- config_name: easy
  data_files: easy/*.jsonl
- config_name: hard
  data_files:
  - split: train
    path: [hard/a.jsonl, hard/b.jsonl]
  - split: validation
    path: hard/held*
---
# rows
"""
FOLDER = {"easy/rows.jsonl": lines(40), "hard/a.jsonl": lines(20, 50), "hard/b.jsonl": lines(20, 80),
          "hard/held.jsonl": lines(3, 100), "hard/notes.jsonl": lines(1, 200)}


def folder(directory, readme, files):
    for name, content in {"README.md": readme, **files}.items():
        (directory / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "set" / name).write_text(content)
    return directory / "set"


@pytest.mark.parametrize(("readme", "files", "settings", "counts", "remark"), [
    (CONFIGS, FOLDER, {"dataset_config": "easy"}, (38, 2), "configuration easy .* no part of hard/a.jsonl, hard/b"),
    (CONFIGS, FOLDER, {"dataset_config": "hard"}, (40, 3), "hard of .* has no part of easy/rows.jsonl, hard/notes"),
    (CONFIGS.replace("name: hard", "name: default"), FOLDER, {}, (40, 3), "default of .* has no part of easy/rows"),
    (CONFIGS.replace("name: easy", "name: easy\n  default: true"), FOLDER, {}, (38, 2), "easy of .* no part of hard/a"),
    ("---\nconfigs:\n- config_name: all\n  data_dir: hard\n---\n", FOLDER, {}, (42, 2), "no part of easy/rows.jsonl"),
    ("# no header\nconfigs:\n- config_name: a\n", FOLDER, {}, (80, 4), None),
    ("", {f"data/{name}-00000-of-00001.jsonl": lines(20, 30 * i) for i, name in enumerate(
        ("train_sft", "test_sft", "train_gen", "test_gen"))}, {"dataset_split": "train_sft"}, (20, 20),
     "train_gen files"),
    ("", {"train_a.jsonl": lines(20), "train_b.jsonl": lines(20, 30), "test.jsonl": lines(9, 60)}, {}, (40, 9), None),
])
def test_a_folder_is_read_as_its_readme_or_its_names_say(tmp_path, readme, files, settings, counts, remark):
    config = FinetuneConfig(dataset=str(folder(tmp_path, readme, files)), **settings)
    data = load_rows(config, cache_directory=tmp_path)
    assert (len(data.train), len(data.validation)) == counts
    assert data.account.read == sum(counts)
    assert re.search(remark, " ".join(data.remarks)) if remark else data.remarks == ()


@pytest.mark.parametrize(("readme", "files", "settings", "message"), [
    (CONFIGS, FOLDER, {}, "set has several configurations, easy, hard; choose one with dataset_config: easy"),
    (CONFIGS, FOLDER, {"dataset_config": "mild"}, "'mild', but .* has the configurations easy, hard; name one of them"),
    ("", FOLDER, {"dataset_config": "mild"}, "dataset_config is 'mild', but .* has no configurations; leave it out"),
    (CONFIGS, {"easy/rows.jsonl": lines(9)}, {"dataset_config": "hard"}, "names files of train, validation that"),
    ("---\nconfigs: [\n---\n", FOLDER, {}, "cannot read the header of .*README.md: .*; mend it, or take it out"),
    ("---\nconfigs: {a: 1}\n---\n", FOLDER, {}, "configs in .*README.md must be a list of entries with config_name"),
    (CONFIGS.replace("easy/*.jsonl", "3"), FOLDER, {"dataset_config": "easy"}, "data_files in .* must be a file, a"),
    ("", {"train_sft.jsonl": lines(9), "train_gen.jsonl": lines(9)}, {},
     "has the splits train_gen, train_sft and none is named train, .*dataset_split: train_gen"),
    ("", FOLDER, {"dataset_revision": "main"}, "dataset_revision would do nothing: .*set has no such part; leave"),
])
def test_a_folder_of_which_it_is_unclear_what_to_read_is_refused(tmp_path, readme, files, settings, message):
    config = FinetuneConfig(dataset=str(folder(tmp_path, readme, files)), **settings)
    with pytest.raises(DataError, match=message):
        load_rows(config, cache_directory=tmp_path)


def test_fields_that_the_built_in_rows_do_not_know_are_refused(tmp_path):
    config = FinetuneConfig(columns=("prompt=a", "completion=b"), dataset_split="train")
    with pytest.raises(DataError, match="dataset_split, columns would do nothing: python-docs has no such part; leave"):
        load_rows(config, cache_directory=tmp_path)


def test_turns_that_nobody_answers_and_half_characters_are_counted(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": [{**turns[0], "content": f"q{i}"}, turns[1], *([turns[0]] if i % 4 == 0 else [])]}
            for i in range(40)] + [{"messages": [*turns, {"role": "user\ud800", "content": "x"}, turns[1]]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    account = load_rows(FinetuneConfig(dataset=str(tmp_path / "rows.jsonl")), cache_directory=tmp_path).account
    assert (account.read, account.unanswered, list(account.lost.values())) == (41, 10, [1])
    assert account.as_line().endswith("10 of those used without the turns after their last answer, left out 1 (half of "
                                      "a character, a lone surrogate, in the text)")


def test_what_turns_hold_beside_their_text_is_named(tmp_path):
    turn = {"role": "assistant", "content": "a", "weight": 0, "name": None}
    rows = [{"messages": [{"role": "user", "content": f"q{i}"}, turn], "id": i} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_rows(FinetuneConfig(dataset=str(tmp_path / "rows.jsonl")), cache_directory=tmp_path)
    assert data.columns_unused == ("id", "messages.weight")


def test_a_file_whose_name_cannot_be_printed_is_refused(tmp_path):
    (tmp_path / "rows\udc80.jsonl").write_text(LINES)
    with pytest.raises(DataError, match=r"has files whose names are no UTF-8, 'rows\\udc80\.jsonl'; rename them"):
        load_rows(FinetuneConfig(dataset=str(tmp_path)), cache_directory=tmp_path)


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
