"""What a model or dataset of the hub can be called, with the hub's own check and without it."""

import sys

import pytest

from kaggle_runner.kaggle.hub_name import is_name, why_no_name

HERE = "upload it to Kaggle, mount it with --{} and write its path there, /kaggle/input/"


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize(("kind", "text", "said"), [
    ("model", "Qwen/Qwen3-0.6B", ""), ("dataset", "imdb", ""), ("dataset", "tatsu-lab/alpaca", ""),
    ("model", "TheBloke/x.gguf", ""),
    ("model", "my model", "no name on the hub; did you mean OWNER/my-model?"),
    ("model", "a/b/c", "did you mean a/b?"), ("dataset", "datasets/a/b", "did you mean a/b?"),
    ("model", " o/n/ ", "did you mean o/n?"),
    ("model", "o/n@main", "did you mean o/n?"), ("model", "o/n--x", "did you mean o/n-x?"),
    ("model", "o/n.git", "did you mean o/n?"), ("model", "<owner>/x", "did you mean owner/x?"),
    ("model", "o/" + "x" * 120, "no name on the hub; a name is OWNER/NAME"),
    ("model", "gpt2", "a name without its owner; write OWNER/NAME"),
    ("model", "https://huggingface.co/o/n/tree/main", "an address and no name; write o/n"),
    ("model", "https://huggingface.co/gpt2", "an address and no name; write OWNER/gpt2"),
    ("model", "https://huggingface.co/", "an address and no name; write OWNER/NAME"),
    ("model", "kaggle/input/x", "a path without its first slash; write /kaggle/input/x"),
    ("dataset", "$HOME/rows", "a path with a variable that nothing fills in here; upload it"),
    ("model", "huggingface.co/o/n", "an address and no name; write o/n"),
    ("model", "hf://models/o/n", "an address and no name; write o/n"),
    ("dataset", "https://huggingface.co/datasets/o/n", "an address and no name; write o/n"),
    ("dataset", "https://example.com/rows.jsonl", "an address of no hub; download it"),
    ("model", "C:/models/x", f"a path of another machine; {HERE.format('model')}"),
    ("model", "models\\x", f"a path of another machine; {HERE.format('model')}"),
    ("dataset", "data/rows.csv.gz", f"a file that is not here; correct its name, or {HERE.format('dataset')}"),
    ("model", "google/gemma/transformers/2b/2", "a model of Kaggle's; mount it with --model google/gemma/transformers"),
])
def test_what_no_hub_has_is_told_with_what_was_meant(monkeypatch, library, kind, text, said):
    if not library:
        monkeypatch.setitem(sys.modules, "huggingface_hub.utils", None)
    found = why_no_name(kind, text)
    assert said in found
    assert (found == "") == (said == "") <= is_name(kind, text)
