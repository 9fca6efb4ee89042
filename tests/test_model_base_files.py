"""Of a base on the hub what transformers loads is fetched, and no other copy; the real clients, a hub on loopback."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from kaggle_runner.model.tensor_files import INDEX, NewTensor, open_weights, write_weights
from tests.standins.hub_server import HubServer

FETCH = """
import os
import sys
from pathlib import Path
from kaggle_runner.errors import KaggleRunnerError
from kaggle_runner.model.base_files import folder_of_base
from kaggle_runner.model.tensor_files import open_weights

for name in sys.argv[1:]:
    try:
        folder = folder_of_base(f"me/{name}", Path("out"), copies=2)
        print("ours", name, *sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
        print("tensors", name, len(open_weights(folder).tensors))
        if "HF_HUB_OFFLINE" in os.environ:
            continue
        import transformers
        transformers.AutoModelForCausalLM.from_pretrained(f"me/{name}", cache_dir="theirs")
        theirs = next(Path("theirs").glob(f"models--me--{name}/snapshots/*"))
        print("theirs", name, *sorted(str(path.relative_to(theirs)) for path in theirs.rglob("*") if path.is_file()))
    except KaggleRunnerError as error:
        print("error", name, error)
"""
OTHERS = ("consolidated.safetensors", "onnx/model.safetensors", "original/params.json", "tf_model.h5", "notes.txt")


@pytest.fixture
def repositories(tmp_path, tiny_llama):
    """Lay one model into repositories that hold it in several ways, each with copies that nothing loads."""
    tensors = load_file(tiny_llama / "model.safetensors")
    new = [NewTensor(name=name, shape=tuple(tensor.shape), dtype=tensor.dtype, make=lambda name=name: tensors[name])
           for name, tensor in tensors.items()]
    folders = {name: tmp_path / "open" / "me" / name for name in ("whole", "shards", "both", "torch", "torch-shards",
                                                                    "own", "none")}
    for folder in folders.values():
        folder.mkdir(parents=True)
        for name in OTHERS:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("{}")
        shutil.copyfile(tiny_llama / "config.json", folder / "config.json")
    for name in ("whole", "both"):
        save_file(tensors, folders[name] / "model.safetensors", metadata={"format": "pt"})
    for name in ("shards", "both"):
        write_weights(folders[name], new, shard_bytes=300_000)
    for name in ("whole", "shards", "torch"):
        torch.save(tensors, folders[name] / "pytorch_model.bin")
    names = sorted(tensors)
    shards = {"pytorch_model-1-of-2.bin": names[::2], "pytorch_model-2-of-2.bin": names[1::2]}
    for file, held in shards.items():
        torch.save({name: tensors[name] for name in held}, folders["torch-shards"] / file)
    (folders["torch-shards"] / "pytorch_model.bin.index.json").write_text(json.dumps(
        {"metadata": {"total_size": 1}, "weight_map": {name: file for file, held in shards.items() for name in held}}))
    save_file(tensors, folders["own"] / "mine.safetensors", metadata={"format": "pt"})
    config = json.loads((tiny_llama / "config.json").read_text())
    (folders["own"] / "config.json").write_text(json.dumps({**config, "transformers_weights": "mine.safetensors"}))
    return folders


def fetch(directory, names, **environ):
    with HubServer(directory / "open") as hub:
        done = subprocess.run(
            [sys.executable, "-c", FETCH, *names], cwd=directory, capture_output=True, text=True, timeout=250,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                 "HOME": str(directory), "HF_ENDPOINT": hub.url, "no_proxy": "127.0.0.1", "OMP_NUM_THREADS": "1",
                 "DISABLE_SAFETENSORS_CONVERSION": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environ})
    assert done.returncode == 0, done.stderr
    assert "No files matched" not in done.stderr
    return {tuple(line.split()[:2]): line.split()[2:] for line in done.stdout.splitlines()}


@pytest.mark.slow
def test_what_transformers_loads_is_fetched_where_there_is_room_and_no_other_copy(repositories, tmp_path, tiny_llama):
    free, too_large = shutil.disk_usage(tmp_path).free, {"large": "whole", "large-shards": "shards"}
    for name, like in too_large.items():
        folder = shutil.copytree(repositories[like], tmp_path / "open" / "me" / name)
        with open(max(folder.glob("model*.safetensors")), "ab") as opened:
            opened.truncate(free // 2)  # a file with a hole takes no room
    names = [name for name in repositories if name != "none"]
    said = fetch(tmp_path, [*names, *too_large, "none"])
    count = len(load_file(tiny_llama / "model.safetensors"))
    for name in names:
        ours, theirs = said["ours", name], said["theirs", name]
        assert said["tensors", name] == [str(count)]
        assert [file for file in ours if not file.endswith(".json")] == [
            file for file in theirs if not file.endswith(".json")] != []
        assert not {*ours} & {*OTHERS}
    assert INDEX in said["ours", "both"]
    assert open_weights(repositories["both"]).tensors["lm_head.weight"].file.name == "model.safetensors"
    for name in too_large:
        message = " ".join(said["error", name])
        assert message.startswith(f"the base, which is to be fetched into {tmp_path}/.cache/huggingface/hub, and out "
                                  f"needs "), message
        assert message.endswith("iB free; free some space, or set HF_HOME to a folder on a larger disk")
        assert not list((tmp_path / ".cache" / "huggingface" / "hub").glob(f"models--me--{name}/**/*.safetensors"))
    assert "neither model.safetensors nor pytorch_model.bin" in " ".join(said["error", "none"])
    offline = fetch(tmp_path, names, HF_HUB_OFFLINE="1")
    assert offline == {key: value for key, value in said.items() if key[0] in ("ours", "tensors")
                       and key[1] in names}
