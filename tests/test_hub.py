"""What the hub refuses, in words with a way out: the real clients of transformers and datasets, a hub on loopback."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import save_file

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import DataError, ModelError
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.hub import raise_refusal, useful_line
from kaggle_runner.training.models.base_model import load_base
from tests.standins.hub_server import HubServer

ASK = """
import torch
from pathlib import Path
from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import KaggleRunnerError
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.models.base_model import load_base
from kaggle_runner.training.models.tokenizer import load_tokenizer

for owner in ("gated", "limited", "missing", "stale", "walled", "review", "disabled", "barred", "odd"):
    for kind in ("model", "tokenizer", "dataset"):
        config = FinetuneConfig(**{kind.replace("tokenizer", "model"): f"{owner}/thing"})
        try:
            if kind == "model":
                load_base(config, torch.device("cpu"))
            elif kind == "tokenizer":
                load_tokenizer(config)
            else:
                load_rows(config, cache_directory=Path("cache"))
        except KaggleRunnerError as error:
            print(f"{owner} {kind}: {type(error).__name__}: {error}")
"""
TOKEN = "hf_plantedplantedplanted"
STORE = r"export HF_TOKEN=\.\.\. here, and for kernels run: python -m kaggle_runner secret put huggingface"


def ask(directory, script=ASK, open=Path("/nowhere"), **environ):
    """Ask a hub for models and datasets, in a process of its own: the clients read their settings once."""
    with HubServer(open) as hub:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=directory, capture_output=True, text=True, timeout=250,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                 "HOME": str(directory), "HF_ENDPOINT": hub.url, "no_proxy": "127.0.0.1",
                 "OMP_NUM_THREADS": "1", **environ})
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def without_a_token(tmp_path_factory):
    return ask(tmp_path_factory.mktemp("without"))


@pytest.fixture(scope="module")
def with_a_token(tmp_path_factory):
    return ask(tmp_path_factory.mktemp("with"), HF_TOKEN=TOKEN)


def test_a_gated_model_without_a_token_asks_for_licence_and_token(without_a_token):
    assert re.fullmatch(
        r"ModelError: the model 'gated/thing' is gated, and no Hugging Face token is here \(Access to model "
        r"gated/thing is restricted and you are not in the authorized list\..*\); accept its licence at "
        rf"https://huggingface\.co/gated/thing and {STORE}; or mount Kaggle's copy with push --model .*"
        "/kaggle/input/models/OWNER/.*",
        without_a_token["gated model"])
    assert re.match(r"DataError: the dataset 'gated/thing' is gated, and no Hugging Face token is here \(Access to .*\)"
                    r"; accept its licence at https://huggingface\.co/datasets/gated/thing and .*push --dataset",
                    without_a_token["gated dataset"])


def test_a_token_without_access_is_told_from_none(with_a_token):
    assert re.match(r"ModelError: the model 'gated/thing' is gated, and the account of the Hugging Face token has no "
                    r"access to it \(Access to model .*\); accept its licence at https://huggingface\.co/gated/thing "
                    r"with that account, and let the token read gated repositories", with_a_token["gated model"])
    for kind in ("model", "dataset"):  # `datasets` itself forgets what the hub said
        assert re.search(r"the account of the Hugging Face token has no access to it \(Your request to access "
                         r"review/thing is awaiting a review from the repo authors\); accept",
                         with_a_token[f"review {kind}"])
    assert "has no access to it (Access to model gated/thing is restricted" in with_a_token["gated dataset"]


def test_too_many_requests_are_no_missing_network(without_a_token, with_a_token):
    for answers in (without_a_token, with_a_token):
        for kind, error in (("model", "ModelError"), ("dataset", "DataError")):
            assert re.match(rf"{error}: the hub takes no more requests from here for now, HTTP 429, for the {kind} "
                            rf"'limited/thing' \(.*429 Too Many Requests.*\): many sessions share one address; wait "
                            rf"some minutes and .*{STORE}; or mount", answers[f"limited {kind}"])


def test_how_long_the_client_waits_by_itself_is_told(tmp_path):
    answers = ask(tmp_path, """
import os
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import http_backoff
from kaggle_runner.training.hub import HubWaits

HubWaits(lambda note: print(f"note: {note.text}"))
try:
    http_backoff("HEAD", os.environ["HF_ENDPOINT"] + "/crowded/thing", max_retries=1)
except HfHubHTTPError as error:
    print(f"status: {error.response.status_code}")
""")
    assert answers["status"] == "429"
    assert re.fullmatch(rf"the hub takes no more requests from here for now, HTTP 429: its client asks again in 6 s; a "
                        rf"token has a limit of its own: {STORE}", answers["note"]), answers


def test_a_name_that_is_not_there_looks_like_a_private_one(without_a_token, with_a_token):
    assert re.fullmatch(rf"ModelError: the hub has no model 'missing/thing' that you may read; correct the name, or if "
                        rf"it is private, {STORE}", without_a_token["missing model"])
    assert with_a_token["missing model"].endswith("if it is private, let the token read it")
    assert "the hub has no dataset 'missing/thing' that you may read" in without_a_token["missing dataset"]


def test_a_revoked_token_is_named_as_the_reason(with_a_token):
    assert re.match(r"ModelError: the hub refuses the Hugging Face token of this machine, HTTP 401, for the model "
                    r"'stale/thing' \(.*401 Unauthorized.*\); make a new one at https://huggingface\.co/settings/tokens",
                    with_a_token["stale model"])
    assert "refuses the Hugging Face token of this machine" in with_a_token["stale dataset"]
    assert TOKEN not in str(with_a_token)


def test_a_refusal_without_a_token_and_an_error_of_the_hub_are_told_apart(without_a_token):
    assert re.match(r"ModelError: the hub, or what stands before it, refuses the model 'walled/thing', HTTP 403 \(.*\)"
                    rf"; open https://huggingface\.co/walled/thing in a browser; {STORE}; or mount",
                    without_a_token["walled model"])
    assert "refuses the dataset 'walled/thing', HTTP 403" in without_a_token["walled dataset"]
    for status in (500, 502, 503, 504):  # the client itself tries again for half a minute
        answer = OSError(f"Server error '{status}' for url 'https://hub.example/x'")
        answer.response = SimpleNamespace(status_code=status)
        with pytest.raises(ModelError, match=rf"the hub fails by itself, HTTP {status}, for the model 'a/b' \(Server "
                                             rf"error '{status}' .*\); wait some minutes and run the same command"):
            raise_refusal(answer, "a/b", ModelError)


def test_any_other_refusal_is_told_with_its_status_and_what_the_hub_says(with_a_token):
    for owner, said in (("disabled", r"403 \(Access to this resource is disabled"), ("walled", r"403 \(.*"),
                        ("barred", r"451 \(Unavailable For Legal Reasons"), ("odd", r"418 \(.*418 I'm a [Tt]eapot.*")):
        for kind, page in (("model", ""), ("dataset", "datasets/")):
            assert re.match(rf"\w+: the hub, or what stands before it, refuses the {kind} '{owner}/thing', HTTP {said}"
                            rf"\); open https://huggingface\.co/{page}{owner}/thing in a browser; or mount Kaggle's",
                            with_a_token[f"{owner} {kind}"])


def test_a_preview_is_refused_in_the_words_of_a_training(without_a_token, with_a_token):
    for answers in (without_a_token, with_a_token):
        of_tokenizers = {owner: said for owner, said in answers.items() if owner.endswith("tokenizer")}
        assert len(of_tokenizers) == 9
        assert of_tokenizers == {owner.replace("model", "tokenizer"): said for owner, said in answers.items()
                                 if owner.endswith("model")}


def test_a_setting_with_which_nobody_is_asked_is_named(tmp_path):
    """These tests themselves run with HF_HUB_OFFLINE."""
    with pytest.raises(ModelError, match=r"the model 'me/thing' is not in the cache of this machine; nothing is "
                                         r"fetched in a dry run or where HF_HUB_OFFLINE is set: .* local folder"):
        load_base(FinetuneConfig(model="me/thing"), torch.device("cpu"))
    with pytest.raises(DataError, match=r"the dataset 'me/thing' is not in the cache of this .* or give a local file"):
        load_rows(FinetuneConfig(dataset="me/thing"), cache_directory=tmp_path)
    for error, kind in ((ModelError, "model"), (DataError, "dataset")):
        with pytest.raises(httpx.UnsupportedProtocol, match="missing an 'http://' or 'https://' protocol") as raised:
            httpx.get("hub.example/x")
        with pytest.raises(error, match=r"^HF_ENDPOINT is 'https://huggingface\.co', which is no address of a hub; it "
                                        r"begins with https:// or http://; correct it"):
            raise_refusal(raised.value, f"a/{kind}", error)


OPEN = """
from pathlib import Path
from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import KaggleRunnerError
from kaggle_runner.training.data.instructions import load_rows

for name, settings in (
        ("plain", {}), ("plain", {"dataset_revision": "old"}), ("plain", {"dataset_revision": "none"}), ("several", {}),
        ("several", {"dataset_config": "hard"}), ("several", {"dataset_config": "mild"}), ("families", {}),
        ("families", {"dataset_split": "train_sft"}), ("plain", {"eval_dataset": "owner/several"})):
    try:
        config = FinetuneConfig(dataset=f"owner/{name}", **settings)
        found = load_rows(config, cache_directory=Path("cache"))
        said = f"{len(found.train)} + {found.held_out}"
    except KaggleRunnerError as error:
        said = str(error)
    print(f"{name} {' '.join(settings.values())}".strip() + f": {said}")
"""
README = """---
configs:
- config_name: main
  data_files: main/*.jsonl
- config_name: hard
  data_files:
  - split: train
    path: hard/train.jsonl
  - split: validation
    path: hard/held.jsonl
---
"""
FILES = ("plain/train", "plain/test", "plain@old/train", "several/main/a", "several/hard/train", "several/hard/held",
         *(f"families/data/{name}-00000-of-00001" for name in ("train_sft", "train_gen", "test_sft", "test_gen")))


def test_a_dataset_of_the_hub_is_read_by_configuration_split_and_revision(tmp_path):
    for number, name in enumerate(FILES):
        path = tmp_path / "open" / "owner" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"question": f"{name} {i}", "answer": "a"} for i in range(9 + number)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "open" / "owner" / "several" / "README.md").write_text(README)
    said = ask(tmp_path, OPEN, tmp_path / "open")
    assert said == {
        "plain": "9 + 10 rows of its test split", "plain old": "10 + 1 rows with the lowest hash of their prompt",
        "plain none": "dataset_revision is 'none', which owner/plain does not have; name a branch, a tag or a commit "
                      "that it has",
        "several": "owner/several has several configurations, main, hard; choose one with dataset_config: main",
        "several hard": "13 + 14 rows of its validation split",
        "several mild": "dataset_config is 'mild', but owner/several has the configurations main, hard; name one of "
                        "them",
        "families": "owner/families has the splits test_gen, test_sft, train_gen, train_sft and none is named train, "
                    "so it is unclear which to train on; choose one with dataset_split: train_gen",
        "families train_sft": "15 + 17 rows of its test_sft split",
        "plain owner/several": "owner/several has several configurations, main, hard; of an eval_dataset only the one "
                               "that dataset_config names is read: give its rows as a file"}


CONTENTS = """
import sys
sys.modules["torchao"] = None  # as a worker hides it from peft, which takes no torchao as old as the images'
import torch
from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ModelError
from kaggle_runner.training.models.base_model import load_base
from kaggle_runner.training.models.tokenizer import load_tokenizer

for name in ("adapter", "beside", "gguf", "both", "readme", "family", "kind", "list", "damaged", "mlx"):
    config = FinetuneConfig(model=f"own/{name}", load_in_4bit=False)
    for who, load in (("", load_base), (" tokenizer", lambda config, device: load_tokenizer(config))):
        try:
            load(config, torch.device("cpu"))
        except ModelError as error:
            print(f"{name}{who}: {error}")
"""
LLAMA = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
HELD = {"adapter/adapter_config.json": {"base_model_name_or_path": "meta/base"}, "gguf/q4/a.Q4_K_M.gguf": "x",
        "both/config.json": LLAMA, "both/a.gguf": "x", "readme/README.md": "x", "list/config.json": [1, 2],
        "family/config.json": {"model_type": "newer_text", "architectures": ["NewerForCausalLM"]},
        "kind/config.json": {**LLAMA, "hidden_size": "big"},
        "mlx/config.json": {**LLAMA, "quantization": {"group_size": 64, "bits": 4}}}


@pytest.fixture(scope="module")
def contents(tmp_path_factory, tiny_llama):
    directory = tmp_path_factory.mktemp("contents")
    beside = shutil.copytree(tiny_llama, directory / "open/own/beside")
    LoraConfig(target_modules=["q_proj"], base_model_name_or_path="own/beside", task_type="CAUSAL_LM"
               ).save_pretrained(beside)
    save_file({f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.weight": torch.zeros(shape)
               for layer in (0, 1) for part, shape in (("A", (8, 64)), ("B", (64, 8)))},
              beside / "adapter_model.safetensors")
    for name, content in HELD.items():
        path = directory / "open" / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    damaged = directory / "open" / "own" / "damaged" / "config.json"
    damaged.parent.mkdir()
    damaged.write_text('{"model_type":')
    return ask(directory, CONTENTS, directory / "open")


def test_a_repository_that_is_no_model_is_told_by_what_it_holds(contents):
    adapter = ("own/adapter is an adapter, not a model: it has an adapter_config.json and no config.json; give its "
               "base meta/base, or merge the two with peft's merge_and_unload and save_pretrained")
    nothing = ("own/readme is not a model: it has no config.json with a model_type; give a folder that save_pretrained "
               "wrote, or a hub id")
    gguf = "own/gguf holds GGUF files, which nothing is trained on; give its original in 16 bits"
    for who in ("", " tokenizer"):
        assert contents[f"adapter{who}"] == adapter
        assert contents[f"readme{who}"] == nothing
        assert contents[f"gguf{who}"] == gguf
    assert contents["beside"] == (
        "own/beside cannot be trained: it has an adapter_config.json, so transformers has loaded that adapter too; "
        "merge the two with peft's merge_and_unload and save_pretrained")
    assert contents["both"] == gguf.replace("own/gguf", "own/both"), "a config.json beside them changes nothing"


def test_a_family_that_is_newer_than_transformers_is_named_and_no_other(contents):
    assert contents["family"] == (
        f"own/family cannot be trained: transformers {transformers.__version__} here does not know its family "
        f"newer_text; choose an older one, or run: pip install -U transformers; a kernel needs another push "
        f"--image")


def test_a_config_that_is_none_is_no_fault_of_the_name_or_the_network(contents):
    for name, said in (("kind", r".*('big'|unsupported operand type\(s\) for //: 'str' and 'int').*"), ("list", ".+"),
                       ("damaged", "It looks like the config file at .* is not a valid JSON file.*")):
        assert re.fullmatch(rf"own/{name} is not a model: {said}; mend its config\.json, or get it again",
                            contents[name])
        assert contents[f"{name} tokenizer"].startswith(f"cannot load the tokenizer of 'own/{name}': ")
        assert contents[f"{name} tokenizer"].endswith("give a folder that save_pretrained wrote")
    assert contents["mlx"].startswith("own/mlx cannot be trained: it is quantised by an unnamed program such as MLX, ")
    assert all(len(said) < 400 for said in contents.values())


def test_what_a_lost_network_says_is_found_below_what_the_libraries_make_of_it():
    """The errors are real; they are wrapped as transformers 5.0 and 5.23 do."""
    client = httpx.Client()
    client.close()
    for ask, said in ((httpx.get, r" \(\[Errno 111\] Connection refused\)"), (client.get, ", after several tries")):
        with pytest.raises((httpx.HTTPError, RuntimeError), match=r"refused|closed") as raised:
            ask("http://127.0.0.1:9/x")
        wrapped = OSError("Can't load the configuration of 'a/b'. If you were trying\nto load it")
        wrapped.__cause__ = raised.value
        assert re.fullmatch(rf"no answer from https://huggingface\.co{said}", useful_line(wrapped))
    assert useful_line(OSError("no file x")) == "no file x"
    assert useful_line(ValueError("Validation error for 'x':\n    TypeError: 'x' is text\nMore.")) == (
        "Validation error for 'x': TypeError: 'x' is text")
    families = useful_line(ValueError(f"Unrecognized model. Choose one of {', '.join(['albert'] * 600)}"))
    assert re.fullmatch(r"Unrecognized model\. Choose one of albert, .{240,300}\.\.\.", families)
    with pytest.raises(OSError, match="bad") as raised:
        raise OSError("bad file.\nAnd more.") from ValueError("line 1 column 2")
    assert useful_line(raised.value) == "bad file (line 1 column 2)"
