import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import DataError
from kaggle_runner.training.data.builtin_docs import PRETRAINING_HOLDS_OUT, held_out_fraction, rows
from kaggle_runner.training.data.instructions import load_rows


def alpaca(count, start=0):
    return [{"instruction": f"What is {i}?", "input": "", "output": f"{i} is {i}"} for i in range(start, start + count)]


def write(path, examples):
    """Write examples as the path's suffix says and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    elif path.suffix == ".json":
        path.write_text(json.dumps(examples, indent=2))
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(examples[0]))
            writer.writeheader()
            writer.writerows(examples)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(examples), path)
    return path


def load(dataset, tmp_path, **settings):
    """Load all rows, or as many as the settings say."""
    config = FinetuneConfig(dataset=str(dataset), **(settings or {"full_dataset": True}))
    return load_rows(config, cache_directory=tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_the_same_rows_are_read_from_every_kind_of_file(tmp_path, suffix):
    data = load(write(tmp_path / f"rows{suffix}", alpaca(100)), tmp_path)
    same = load(write(tmp_path / "same.jsonl", alpaca(100)), tmp_path)
    assert (data.train, data.validation, data.sha256) == (same.train, same.validation, same.sha256)
    assert data.format == "alpaca: instruction, input -> output"
    assert data.source == str(tmp_path / f"rows{suffix}")
    assert len(data.train) + len(data.validation) == 100
    assert {row.completion for row in data.train + data.validation} == {f"{i} is {i}" for i in range(100)}


def test_a_csv_answer_stays_the_text_it_is(tmp_path):
    answers = ["None", "NA", "007", "1.50", "true", 'two\n"lines"', "null"]
    path = write(tmp_path / "rows.csv", [{"question": str(i), "answer": answer} for i, answer in enumerate(answers)])
    data = load(path, tmp_path)
    assert sorted(row.completion for row in data.train + data.validation) == sorted(answers)
    assert data.account.lost == {}


def test_a_file_with_glob_characters_in_its_name_is_read(tmp_path):
    assert len(load(write(tmp_path / "a b" / "rows [1]*#%20.jsonl", alpaca(20)), tmp_path).train) == 19


def test_a_folder_of_named_splits_is_read(tmp_path):
    folder = tmp_path / "set"
    write(folder / "data" / "train-00000-of-00002.parquet", alpaca(30))
    write(folder / "data" / "train-00001-of-00002.parquet", alpaca(30, start=30))
    write(folder / "data" / "validation-00000-of-00001.parquet", alpaca(9, start=60))
    write(folder / "data" / "test-00000-of-00001.parquet", alpaca(9, start=90))
    for name in ("dataset_infos.json", "dataset-metadata.json"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("# rows")
    write(folder / ".ipynb_checkpoints" / "train.parquet", alpaca(5))
    data = load(folder, tmp_path)
    assert {row.completion for row in data.validation} == {f"{i} is {i}" for i in range(60, 69)}
    assert len(data.train) == 60
    assert data.held_out == "9 rows of its validation split"


def test_a_test_file_is_held_out_where_there_is_no_validation_file(tmp_path):
    write(tmp_path / "set" / "anything.jsonl", alpaca(30))
    write(tmp_path / "set" / "test.jsonl", alpaca(9, start=60))
    data = load(tmp_path / "set", tmp_path)
    assert (len(data.train), len(data.validation), data.held_out) == (30, 9, "9 rows of its test split")


def test_an_explicit_validation_split_is_cut_to_the_same_rows_every_time(tmp_path):
    write(tmp_path / "set" / "train.jsonl", alpaca(30))
    write(tmp_path / "set" / "valid.jsonl", alpaca(50, start=60))
    few = load(tmp_path / "set", tmp_path, samples=10, max_eval_samples=5)
    more = load(tmp_path / "set", tmp_path, samples=20, seed=1, max_eval_samples=9)
    assert few.validation == more.validation[:5]
    assert len(more.validation) == 9


def test_the_held_out_rows_are_those_of_the_lowest_prompt_hash(tmp_path):
    data = load(write(tmp_path / "rows.jsonl", alpaca(400)), tmp_path)
    expected = sorted((held_out_fraction(f"What is {i}?"), i) for i in range(400))[:len(data.validation)]
    assert [row.completion for row in data.validation] == [f"{i} is {i}" for _, i in expected]
    assert expected[-1][0] < FinetuneConfig().eval_share
    assert 10 <= len(data.validation) <= 20


def test_the_held_out_rows_do_not_depend_on_samples_seed_or_the_order_of_the_file(tmp_path):
    path = write(tmp_path / "rows.jsonl", alpaca(400))
    backwards = write(tmp_path / "backwards.jsonl", alpaca(400)[::-1])
    validation = load(path, tmp_path).validation
    assert load(path, tmp_path, samples=7, seed=5).validation == validation
    assert load(path, tmp_path, samples=300).validation == validation
    assert load(backwards, tmp_path).validation == validation
    assert load(path, tmp_path, samples=7, max_eval_samples=4).validation == validation[:4]


def test_the_seed_does_not_change_the_training_rows_and_fewer_are_a_subset_of_more(tmp_path):
    path = write(tmp_path / "rows.jsonl", alpaca(400))
    data = load(path, tmp_path, samples=100, seed=1)
    assert load(path, tmp_path, samples=100, seed=2).sha256 == data.sha256
    assert load(path, tmp_path, samples=200, seed=3).train[:100] == data.train
    assert len(set(data.train)) == 100
    assert data.train != load(path, tmp_path).train[:100]  # drawn, not the head of the file


def test_no_training_row_is_held_out(tmp_path):
    data = load(write(tmp_path / "rows.jsonl", alpaca(400)), tmp_path)
    assert not set(data.train) & set(data.validation)
    assert len(data.train) + len(data.validation) == 400


def test_exact_duplicates_of_held_out_rows_are_removed_from_training_and_counted(tmp_path):
    write(tmp_path / "set" / "valid.jsonl", alpaca(4))
    duplicates = [{"instruction": " What  is 1?\n", "input": "", "output": "1 is\t1"},  # white space apart
                  {"instruction": "What is 2?", "input": "", "output": "2 is 2"},
                  {"instruction": "What is 2?", "input": "", "output": "2 is 2"}]
    others = [{"instruction": "What is 3?", "input": "", "output": "another answer"},  # the same prompt is no duplicate
              {"instruction": "What is", "input": "0?", "output": "0 is 0 again"}, *alpaca(10, start=100)]
    write(tmp_path / "set" / "train.jsonl", [*duplicates, *others])
    data = load(tmp_path / "set", tmp_path)
    assert data.account.duplicates == 3
    assert len(data.train) == 12
    assert load(tmp_path / "set", tmp_path, samples=12).account.duplicates == 3


def test_duplicates_of_rows_that_the_split_held_out_are_removed_too(tmp_path):
    once = load(write(tmp_path / "once.jsonl", alpaca(400)), tmp_path)
    noisy = [{**example, "output": example["output"] + "  "} for example in alpaca(400)]
    data = load(write(tmp_path / "twice.jsonl", alpaca(400) + noisy), tmp_path)
    held_out = {row.prompt for row in data.validation}
    # every prompt below the threshold comes twice; both copies are held out, or the second is removed
    assert len(data.train) == 800 - len(data.validation) - data.account.duplicates
    assert not held_out & {row.prompt for row in data.train}
    assert held_out == {row.prompt for row in once.validation}


def test_rows_without_an_answer_are_dropped_and_counted(tmp_path):
    empty = [{"instruction": "why?", "input": "", "output": "  "}] * 3
    data = load(write(tmp_path / "rows.jsonl", alpaca(40) + empty), tmp_path)
    assert data.account.lost == {"no answer": 3}
    assert len(data.train) + len(data.validation) == 40


def test_conversations_are_read_from_a_file(tmp_path):
    examples = [{"conversations": [{"from": "human", "value": f"a{i}"}, {"from": "gpt", "value": "b"},
                                   {"from": "human", "value": "c"}, {"from": "gpt", "value": f"d{i}"}]}
                for i in range(40)]
    for suffix in (".jsonl", ".parquet"):
        data = load(write(tmp_path / f"rows{suffix}", examples), tmp_path)
        assert data.format == "sharegpt: conversations -> assistant turns"
        assert {row.turns[0][1] for row in data.train + data.validation} == {f"a{i}" for i in range(40)}


def test_plain_text_is_split_by_the_hash_of_the_text(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"text": f"text {i}"} for i in range(200)])
    data = load(path, tmp_path)
    assert data.format == "plain text: text"
    assert [row.completion for row in data.validation] == sorted(
        (row.completion for row in data.validation), key=held_out_fraction)


def test_the_built_in_rows_hold_out_what_the_demo_model_never_saw(tmp_path):
    data = load("python-docs", tmp_path, samples=1000)
    assert len(data.validation) >= 100
    assert max(held_out_fraction(row.prompt) for row in data.validation) < 0.05 < PRETRAINING_HOLDS_OUT
    assert {(row.prompt, row.completion) for row in data.train} <= set(rows())


def test_the_built_in_rows_are_kept_on_disk_and_made_again_when_damaged(tmp_path):
    first = load("python-docs", tmp_path, samples=1000)
    cached, = (tmp_path / "cache").iterdir()
    content, written = cached.read_bytes(), cached.stat().st_mtime_ns
    assert load("python-docs", tmp_path, samples=1000).sha256 == first.sha256
    assert cached.stat().st_mtime_ns == written
    for damaged in (content[:1000], content.replace(b"Describe", b"describe", 1)):
        assert damaged != content
        cached.write_bytes(damaged)
        assert load("python-docs", tmp_path, samples=1000).sha256 == first.sha256
        assert cached.read_bytes() == content


def test_the_built_in_rows_need_no_writable_cache(tmp_path):
    (tmp_path / "cache").write_text("a file, no folder")
    assert len(load("python-docs", tmp_path, samples=1000).train) == 1000


def in_fresh_process(code, home, **variables):
    """Run code with its own home; the hub's settings are read when its packages are imported."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True,
                          check=True, timeout=250)


LOAD = """
import sys, datasets
from pathlib import Path
from kaggle_runner.config import FinetuneConfig
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.errors import DataError
try:
    data = load_rows(FinetuneConfig(dataset={dataset!r}, full_dataset=True), cache_directory=Path({cache!r}))
    print(len(data.train), "rows")
except DataError as error:
    print(error)
"""


def test_reading_a_local_file_prints_nothing_and_leaves_nothing_behind(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    path = write(tmp_path / "rows.jsonl", alpaca(100))
    done = in_fresh_process(LOAD.format(dataset=str(path), cache=str(tmp_path / "cache")), home)
    assert done.stdout.endswith("rows\n")
    assert done.stderr == ""
    assert list(home.rglob("*")) == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("dataset", "message"), [
    ("some/rows", "the dataset 'some/rows' is not in the cache of this machine; nothing is fetched in a dry run or "
                  "where HF_HUB_OFFLINE is set: fetch it once"),
    ("python-doc", "the dataset 'python-doc' is not in the cache of this machine, did you mean python-docs?; nothing"),
])
def test_without_a_network_a_hub_id_is_refused(tmp_path, dataset, message):
    done = in_fresh_process(LOAD.format(dataset=dataset, cache=str(tmp_path)), tmp_path, HF_HUB_OFFLINE="1")
    assert done.stdout.startswith(message)
    assert done.stderr == ""


def test_a_missing_file_is_named_with_its_neighbour(tmp_path):
    write(tmp_path / "alpaca.jsonl", alpaca(3))
    with pytest.raises(DataError, match=r"alpca\.jsonl does not exist, did you mean .*/alpaca\.jsonl\?; give a json, "):
        load(tmp_path / "alpca.jsonl", tmp_path)


@pytest.mark.parametrize("dataset", ["rows.jsonl", "./rows", "/nowhere/rows", "~/no-such-rows", "a/b/c", "ROWS.CSV"])
def test_what_looks_like_a_path_is_not_asked_of_the_hub(tmp_path, monkeypatch, dataset):
    monkeypatch.chdir(tmp_path)
    counted = "" if dataset.startswith(("/", "~")) else f"; a relative path counts from the current folder, {tmp_path}"
    with pytest.raises(DataError, match=rf"the dataset {dataset} does not exist; give a .*, or python-docs{counted}$"):
        load(dataset, tmp_path)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("rows.doc", b"hello", r"rows\.doc is not a json, jsonl, csv, .* file, .*, judging by its name; convert it"),
    ("rows.jsonl", b"", r"rows\.jsonl is empty, so there is nothing to learn; write the rows again"),
    ("rows.json", b"[]", r"rows\.json has no rows; give a dataset with at least 2"),
    ("rows.csv", b"question,answer\n", r"rows\.csv has no rows; give a dataset with at least 2"),
    ("rows.jsonl", b'{"text": "a"}\n', r"has a single row; it takes at least 2, one to train on and one to hold out"),
    ("rows.jsonl", b'{"frage": "a", "antwort": "b"}\n', r"its columns are frage, antwort; rename them to one of these"),
    ("rows.jsonl", b'{"question": "a", "answer": ""}\n' * 5, r"all 5 rows of .* are left out: 5 \(no answer\) \("
                                                             r"question/answer: question -> answer\)"),
    ("rows.jsonl", b'{"text": "a"}\n{"text": "b\n', r"cannot read the dataset .*rows\.jsonl: line 2 cannot be read as "
                                                    r"JSON \(Unterminated string .*\); repair it, or give another"),
    ("rows.csv", b"question,answer\na,b\nc,d,e,f\n", r"cannot read .*rows\.csv: 2 fields expected in line 3, 4 found"),
    ("rows.csv", b"question,answer\n\xff\x81,b\n", r"cannot read .*rows\.csv: it is neither UTF-8 nor UTF-16"),
    ("rows.jsonl", b'\n{"text": "a"}\n[1]\n' + b"x\n" * 6, r"lines 3, 4, 5, 6, 7 and 2 more cannot be read as JSON"),
    ("rows.jsonl", b'{"text": "a\n{"text": "b"}\n[2]\n',
     r"lines 1, 3 cannot be read as JSON \(Unterminated string"),
    ("rows.jsonl", b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b'}\n{"text": "b"}\n',
     r"line 1 cannot be read as JSON \(nested too deeply\)"),
    ("rows.json", b'[{"text": ' + b"[" * 200_000, r"line 1 cannot be read as JSON \(nested too deeply\)"),
    ("rows.json", b'[{"text": "a"},\n {"text": "b"}\n {"text": "c"}]', r"line 3 cannot be read as JSON \(',' or '\]' "
                                                                        r"expected, '\{' found\)"),
    ("rows.json", b'[{"text": "a"},\n {"text": "b', r"line 2 cannot be read as JSON \(Unterminated string"),
    ("rows.json", b'[{"text": "a"}] []', r"line 1 cannot be read as JSON \('the end' expected, '\[' found\)"),
    ("rows.json", b'[{"text": "a"}, 2]', r"entry 2 of its list is a int, no object"),
    ("rows.json", b'{"train": [{"text": "a"}], "test": [{"text": "b"}]}',
     r"it has rows under 'train' and 'test'; write each list into a file of its own, such as test\.json"),
    ("rows.csv", b'question,answer\na,"b\nc,d\ne,f\n', r"a quote that opens in line 2 is never closed"),
    ("rows.csv", b"text,a,text\nx,y,z\n", r"its header has 'text' twice, and only one of them could be read"),
    ("rows.csv", b"Text,text\nx,y\n", r"has the columns 'Text', 'text', which differ only in case or blanks"),
    ("rows.jsonl", b'{"text": "\\ud800"}\n' * 3, r"all 3 rows of .* are left out: 3 \(half of a character, a lone "),
    ("rows.jsonl", b'{"text": "a"}\n' * 3, r"the 3 rows of .* all say one thing, .* nothing is left to train on"),
    ("rows.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n" * 2, r"line 1 cannot be read as JSON \(Exceeds the limit"),
    ("rows.jsonl.gz", b"no gzip", r"cannot read .*rows\.jsonl\.gz: Not a gzipped file"),
    ("rows.parquet", b"PAR1 and no more", r"cannot read .*rows\.parquet: Parquet magic bytes not found"),
    ("rows.jsonl", b'{"prompt": "a", "completion": ["b"]}\n' * 2,
     r"row 1 of .*rows\.jsonl: column 'completion' holds a list, not text"),
])
def test_a_bad_file_is_refused_in_one_line(tmp_path, capfd, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / name, tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("names", "message"), [
    ([], r"set holds no json, jsonl, csv, .* file, .*; put one there, or name another"),
    (["a.jsonl", "b.csv"], r"set mixes csv and json files, which are read differently; keep one kind there"),
    (["test.jsonl", "valid.jsonl"], r"set has only test and validation files, so .*; rename one to train\.jsonl"),
])
def test_a_bad_folder_is_refused(tmp_path, names, message):
    (tmp_path / "set").mkdir()
    for name in names:
        write(tmp_path / "set" / name, alpaca(3))
    with pytest.raises(DataError, match=message):
        load(tmp_path / "set", tmp_path)


def test_fewer_rows_than_asked_for_are_refused_with_both_ways_out(tmp_path):
    path = write(tmp_path / "rows.jsonl", alpaca(500))
    count = len(load(path, tmp_path, samples=None).train)
    assert 475 <= count < 500
    with pytest.raises(DataError, match=rf"rows\.jsonl has {count} training rows but samples is 12000; "
                                        rf"set samples: {count}, or leave it out for all of them up to 12,000"):
        load(path, tmp_path, samples=12_000)
    assert len(load(path, tmp_path, samples=count).train) == count


def test_samples_left_out_take_what_there_is_and_the_share_says_how_much_is_held_out(tmp_path):
    path = write(tmp_path / "rows.jsonl", alpaca(500))
    everything = load(path, tmp_path)
    assert len(load(path, tmp_path, samples=None).train) == len(everything.train)
    half = load(path, tmp_path, eval_share=0.5)
    assert len(half.train) + len(half.validation) == 500
    assert 200 <= len(half.validation) <= 250
    assert {row.prompt for row in everything.validation} <= {row.prompt for row in half.validation}


def test_samples_left_out_stop_at_twelve_thousand(tmp_path):
    path = write(tmp_path / "rows.jsonl", alpaca(12_800))
    assert len(load(path, tmp_path, samples=None).train) == 12_000


def test_training_rows_that_are_all_held_out_are_refused(tmp_path):
    for name in ("train.jsonl", "test.jsonl"):
        write(tmp_path / "set" / name, alpaca(6))
    with pytest.raises(DataError, match=r"all 6 training rows of .*set are validation rows too, .*; give it other"):
        load(tmp_path / "set", tmp_path)


def test_a_relative_path_is_read_from_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path / "rows.jsonl", alpaca(20))
    monkeypatch.chdir(tmp_path)
    assert load("rows.jsonl", tmp_path).source == "rows.jsonl"
    assert Path("rows.jsonl").exists()
