"""A model on the hub and on Kaggle: sent by the real clients to loopback servers, gone on with, refused in a line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.errors import KernelError
from kaggle_runner.kaggle.dataset import find_dataset_target, publish_dataset
from kaggle_runner.kaggle.program import find_kaggle
from kaggle_runner.model.marker import MARKER
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.study.weights import ADAPTER_FILES
from tests.standins.hub_uploads import HubUploads
from tests.standins.kaggle_server import PROGRAM, KaggleServer

ROOT = Path(__file__).parent.parent


@pytest.fixture
def hub():
    with HubUploads() as hub:
        yield hub


@pytest.fixture
def exported(tmp_path):
    """Return a study whose winner was exported already, as `export` leaves it."""
    with Study.open_for_writing(tmp_path / "study", name="mine", sweep={}, metric="eval/loss", goal="minimize",
                                seed=0) as study:
        study.record_start(Trial(id="0000", number=0, params={"model": "gated/base"}), {})
        study.record_end(TrialResult(id="0000", status=Status.COMPLETE, metric=2.0, hashes={"adapter": "abc"}))
    folder = tmp_path / "study" / "export" / "0000-merged"
    folder.mkdir(parents=True)
    from kaggle_runner.model.marker import write_marker
    from kaggle_runner.model.outcome import find_outcome

    write_marker(folder, find_outcome(tmp_path / "study"), "merged", {})
    for name, content in (("config.json", b"{}"), ("README.md", b"---\nlibrary_name: transformers\n---\n"),
                          ("model-00001-of-00002.safetensors", b"a" * 100_000),
                          ("model-00002-of-00002.safetensors", b"b" * 100_000)):
        (folder / name).write_bytes(content)
    adapter = tmp_path / "study" / "trials" / "0000" / "adapter"
    adapter.mkdir(parents=True)
    for name in ADAPTER_FILES:
        (adapter / name).write_bytes(b"{}")
    return tmp_path / "study"


@pytest.fixture
def push(exported, hub, tmp_path):
    def push(name="me/my-model", *more, token="hf_write", **environment):
        cleared = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        tokens = {"HF_TOKEN": token} if token else {}
        done = subprocess.run(
            [sys.executable, "-m", "kaggle_runner", "export", str(exported), "--push", name, *more],
            capture_output=True, text=True, timeout=250, cwd=tmp_path,
            env={**cleared, **tokens, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path),
                 "PYTHONPATH": str(ROOT), **environment})
        assert "Traceback" not in done.stderr, done.stderr
        return done
    return push


def test_a_push_is_private_goes_on_where_one_broke_off_and_is_verified(push, hub, exported):
    hub.lose_large = 2
    done = push("my-model")
    assert done.returncode == 0, done.stderr
    assert f"hub      {hub.url}/me/my-model  (5 files sent, all are there)\n" in done.stdout
    assert hub.private == {"me/my-model": True}
    assert hub.puts == 4, "the first one was lost twice"
    held = hub.repositories["me/my-model"]
    folder = exported / "export" / "0000-merged"
    assert {name: held[name] for name in held if name != ".gitattributes"} == {
        path.name: path.read_bytes() for path in folder.iterdir()}

    for name in ("model-00002-of-00002.safetensors", "config.json"):
        del held[name]
    assert "(2 files sent, all are there)" in push().stdout
    assert hub.puts == 4, "the hub knows the second shard by its hash"
    assert "(0 files sent, all are there)" in push("me/my-model").stdout
    assert push("me/open", "--public").returncode == 0
    assert hub.private["me/open"] is False


def test_a_large_file_that_is_refused_is_no_lost_connection(push, hub):
    for hub.refuse_large, words in ((403, "has no right to write to me/my-model"), (413, "refuses me/my-model")):
        hub.puts = 0
        (line,) = [line for line in push("my-model").stderr.splitlines() if line.startswith("error: ")]
        assert words in line
        assert "storage of this account is full" in line
        assert "cannot be reached" not in line
        assert hub.puts == 1


@pytest.mark.parametrize(("instead", "said"), [
    (("GET", "/api/models/", 0), "cannot be reached (looking for the repository: "),
    (("GET", "/api/models/", 200), "answers with something that is no answer of a hub, as a login page of a network"),
    (("GET", "whoami", 429), "the hub takes no more requests from this account or network for now (asking who the "
                             "token is of: HTTP 429); wait some minutes and run the same command again"),
    (("POST", "/commit/", 200), "as a login page of a network (pushing kaggle_runner.json: "),
    (("POST", "/commit/", 500), "answers HTTP 500 (pushing kaggle_runner.json: because 500; 0 of 5 files are there); "),
    (("POST", "/commit/", 429), "for now (pushing kaggle_runner.json: HTTP 429; 0 of 5 files are there); wait some"),
])
def test_what_ends_a_push_is_told_as_what_it_is_and_the_same_command_goes_on(push, hub, instead, said):
    hub.instead = instead
    done = push("my-model")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert said in done.stderr, done.stderr
    hub.instead = ("", "", 0)
    assert "(5 files sent, all are there)" in push("my-model").stdout


def test_what_is_there_becomes_public_when_that_is_asked_for_and_gets_nothing_private(push, hub):
    assert push().returncode == 0
    assert hub.private == {"me/my-model": True}
    done = push("me/my-model", "--public")
    assert (done.returncode, hub.private) == (0, {"me/my-model": False})
    assert "me/my-model was private and is public now" in done.stderr
    assert "(0 files sent, all are there)" in done.stdout
    assert "was private" not in push("me/my-model", "--public").stderr

    del hub.repositories["me/my-model"]["config.json"]
    done = push("me/my-model")
    assert (done.returncode, hub.private) == (1, {"me/my-model": False})
    assert done.stderr.splitlines()[-1] == (
        f"error: me/my-model is public, and --public is not given: everybody would see what is pushed; give --public, "
        f"or make it private on {hub.url}/me/my-model/settings")
    assert "config.json" not in hub.repositories["me/my-model"]
    hub.repositories["me/empty"], hub.private["me/empty"] = {".gitattributes": b""}, False
    refused = push("empty", "--to", "adapter").stderr.splitlines()[-1]
    assert refused.startswith("error: me/empty is public, and --public is not given"), "before a model is made"
    assert set(hub.repositories["me/empty"]) == {".gitattributes"}


def test_of_a_dataset_that_is_there_and_is_not_as_asked_for_it_is_said(kaggle, exported):
    server, environment = kaggle
    folder, said = exported / "export" / "0000-merged", (
        "warning: tester/my-model is {}, and a dataset that is there stays as it is; change it on "
        "https://www.kaggle.com/datasets/tester/my-model/settings")

    def published(*, public):
        told = []
        target = find_dataset_target("my-model", find_kaggle(environment), MARKER, public=public)
        publish_dataset(folder, target, MARKER, told.append, poll_s=0.2)
        return [line for line in told if "warning" in line]

    assert published(public=False) == []
    assert published(public=True) == [said.format("private")]
    server.datasets["my-model"].private = False
    assert published(public=True) == []
    assert published(public=False) == [said.format("public")]


def test_a_hub_that_keeps_less_than_it_took_is_found_out(push, hub):
    hub.forget_large = True
    done = push()
    assert done.returncode == 1
    assert "does not hold model-00001-of-00002.safetensors, model-00002-of-00002.safetensors as pushed" in done.stderr


def test_refusals_are_one_line_with_a_way_out_and_nothing_is_sent(push, hub):
    hub.repositories["me/taken"] = {".gitattributes": b"", "pytorch_model.bin": b"other"}
    refusals = [
        (push("a/b/c"), "error: --push 'a/b/c' is no name for a model on the hub: "),
        (push("me/bad--name"), "is no name for a model on the hub: Cannot have -- or .. in repo_id"),
        (push(token=None), "error: --push me/my-model needs a Hugging Face token, and none is here; make one"),
        (push(token="hf_stale"), "error: the hub does not know the Hugging Face token of this machine"),
        (push(token="hf_read"), "error: the Hugging Face token 'my read token' of me may only read, so it cannot push"),
        (push("you/model"), "has no right to write to you/model (making the repository: "),
        (push("me/taken"), "error: --push me/taken is taken: it holds something else, such as pytorch_model"),
        (push("me/new", "--to", "adapter"),
         "error: the base of trial 0000 is not here, and an adapter is nothing without it: the model 'gated/base' is "
         "gated, and the account of the Hugging Face token has no access to it (Access to model gated/base is restric"),
        (push(HF_HUB_OFFLINE="1"), "error: HF_HUB_OFFLINE is set, so nothing can be pushed to the hub; unset it"),
        (push(HF_ENDPOINT="http://127.0.0.1:9"), "error: http://127.0.0.1:9 cannot be reached (asking who the token"),
    ]
    for done, said in refusals:
        assert done.returncode == 1
        assert said in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert hub.puts == 0
    assert set(hub.repositories) == {"me/taken"}
    assert push("x", "--public", "--trial", "0000").returncode == 0


@pytest.fixture
def kaggle(tmp_path):
    """Return a loopback Kaggle and the environment that sends the real program there."""
    with KaggleServer(tmp_path / "server") as server:
        yield server, {"PATH": os.environ["PATH"], "KAGGLE_RUNNER_KAGGLE": PROGRAM,
                       **server.client_environment(tmp_path / "home")}
        assert server.leaks == []


def test_a_model_is_a_private_dataset_on_kaggle_and_what_kaggle_lacks_is_found_out(push, kaggle, exported):
    server, environment = kaggle
    server.lost_uploads = {"model-00001-of-00002.safetensors"}
    lost = push("my-model", "--kaggle", token=None, **environment)
    assert lost.returncode == 1
    assert lost.stderr.splitlines()[-1] == (
        "error: https://www.kaggle.com/datasets/tester/my-model does not hold model-00001-of-00002.safetensors as "
        "sent; run the same command again")
    server.lost_uploads = set()
    done = push("tester/my-model", "--kaggle", token=None, **environment)
    assert done.returncode == 0, done.stderr
    assert "kaggle   https://www.kaggle.com/datasets/tester/my-model  (5 files sent, all are there)\n" in done.stdout
    folder, held = exported / "export" / "0000-merged", server.datasets["my-model"]
    assert held.private
    assert {path.name: path.read_bytes() for path in held.directory.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing is left beside it"
    target = find_dataset_target("my-model", find_kaggle(environment), MARKER)
    assert publish_dataset(folder, target, MARKER, print) == 0
    (folder / MARKER).write_text("{}")
    with pytest.raises(KernelError, match=r"my-model is taken: it holds something else, such as README\.md; choose"):
        publish_dataset(folder, target, MARKER, print)


@pytest.mark.parametrize(("name", "said"), [
    *((name, "is no name for a dataset on Kaggle; write it as name or owner/name, with 6 to 50 small letters")
      for name in ("a/b/c-model", "model", "My-Model", "my--model", "-model-x", "/my-model", "", "müll-hier", "x" * 51)
      ),
    ("you/my-model", "is of another account than yours, which is tester; write it as tester/my-model"),
    ("my-rows", "tester/my-rows is taken: it holds something else, such as rows.csv; choose another name, or delete"),
])
def test_a_name_that_kaggle_cannot_take_is_refused_before_a_model_is_made(kaggle, name, said):
    server, environment = kaggle
    server.add_dataset("my-rows", {"rows.csv": b"a"})
    with pytest.raises(KernelError, match=said):
        find_dataset_target(name, find_kaggle(environment), MARKER)
    assert [method for method, _ in server.requests if "create" in method or "upload" in method] == []


def test_kaggle_that_cannot_be_reached_or_knows_no_such_account_is_said(kaggle):
    server, environment = kaggle
    with pytest.raises(KernelError, match="Kaggle knows no such account: no credentials, or wrong ones; run: kag"):
        find_dataset_target("my-model", find_kaggle({**environment, "KAGGLE_KEY": "wrong"}), MARKER)
    server.down = True
    with pytest.raises(KernelError, match=r"Kaggle cannot be reached: .*; look at the network and try again"):
        find_dataset_target("my-model", find_kaggle(environment), MARKER)
