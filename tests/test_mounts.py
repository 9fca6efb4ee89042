"""A path under /kaggle/input that is not there is answered with where its mount lies, by kind and owner."""

import pytest

from kaggle_runner import mounts
from kaggle_runner.config import CharLMConfig, FinetuneConfig
from kaggle_runner.errors import DataError, ModelError
from kaggle_runner.mounts import mounted_at
from kaggle_runner.training.data.characters import load_corpus
from kaggle_runner.training.data.sources import is_here
from kaggle_runner.training.models.tokenizer import model_source


@pytest.fixture
def inputs(tmp_path):
    root = tmp_path / "kaggle" / "input"
    for name in ("models/google/gemma-2/transformers/gemma-2-2b-it/2/config.json",
                 "models/google/gemma-2/transformers/gemma-2-9b/1/config.json",
                 "datasets/me/rows/rows.jsonl", "datasets/me/text/book.txt", "notebooks/me/old/rows.csv"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("{}")
    return root


def test_a_model_of_the_old_layout_is_found_by_most_of_its_names(inputs):
    asked = inputs / "gemma-2" / "transformers" / "gemma-2-2b-it" / "2"
    with pytest.raises(ModelError, match=f"the model folder {asked} does not exist; it is mounted at "
                                         f"{inputs}/models/google/gemma-2/transformers/gemma-2-2b-it/2; give an exist"):
        model_source(str(asked))
    assert mounted_at(inputs / "llama-3", "config.json") == ""
    assert mounted_at(inputs / "gemma-2", "config.json").count(str(inputs)) == 2, "either may be meant"


def test_a_folder_above_a_model_names_the_model(inputs):
    above = inputs / "models/google/gemma-2/transformers/gemma-2-2b-it"
    with pytest.raises(ModelError, match=f"no config.json with a model_type; {above}/2 in it has one; give a folder"):
        model_source(str(above))
    with pytest.raises(ModelError, match=r"it has no config\.json with a model_type; give a folder"):
        model_source(str(inputs / "datasets"))


def test_rows_and_texts_are_found_by_their_names(inputs, tmp_path):
    with pytest.raises(DataError, match=f"does not exist; it is mounted at {inputs}/datasets/me/rows/rows.jsonl; give"):
        is_here(FinetuneConfig(dataset=str(inputs / "rows" / "rows.jsonl")))
    with pytest.raises(DataError, match=f"does not exist; it is mounted at {inputs}/datasets/me/text/book.txt; give"):
        load_corpus(CharLMConfig(dataset=str(inputs / "text" / "book.txt")), cache_directory=tmp_path)
    assert mounted_at(inputs / "datasets" / "rows.parquet") == mounted_at(tmp_path / "rows.jsonl") == ""


def test_of_many_alike_some_are_named_and_a_mount_of_a_million_files_is_not_walked_to_its_end(inputs, monkeypatch):
    for number in range(5):
        (inputs / f"datasets/me/set-{number}").mkdir()
        (inputs / f"datasets/me/set-{number}/train.csv").write_text("")
    assert mounted_at(inputs / "train.csv").endswith("set-2/train.csv and 2 more")
    monkeypatch.setattr(mounts, "MOST_SEEN", 3)
    assert mounted_at(inputs / "train.csv") == ""
