"""A pushed launcher that trains, under a root laid out like Kaggle's: all of it real but machine and model size.

The packages are those of this environment, with the torchao of Kaggle's and Colab's images beside them.
"""

import importlib.metadata
import json
import os

import pytest
import yaml

from kaggle_runner.kaggle.launcher import Launch, build_launcher
from kaggle_runner.machine.internet import INTERNET_VARIABLE
from tests.conftest import wait_for
from tests.standins.kaggle_machine import ENDED, Mount, Order, Session

SMALL = {"samples": 32, "max_eval_samples": 8, "max_length": 48, "max_steps": 4, "eval_steps": 4, "batch_size": 2,
         "gradient_accumulation_steps": 2}


def image_has_it():
    """Say whether this environment is an image's and has the real package."""
    try:
        return importlib.metadata.version("torchao") == "0.10.0"
    except importlib.metadata.PackageNotFoundError:
        return False


def run_sweep(root, tiny_llama, rows_file, torchao, *, count, **values):
    """Push-run a random sweep of a mounted model and rows; return the ended session and its result.json."""
    inputs = root / "kaggle" / "input" / "datasets" / "tester"
    settings = {"model": str(inputs / "tiny"), "dataset": str(inputs / "rows" / rows_file.name), **SMALL, **values}
    sweep = {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "run_cap": count,
             "parameters": {**{name: {"value": value} for name, value in settings.items()},
                            "learning_rate": {"values": [1.0e-3, 3.0e-3]}}}
    launch = Launch(arguments=("sweep", "mine.yaml", "--study", "studies/mine", "--cpu"),  # as push --cpu --no-internet
                    settings={INTERNET_VARIABLE: "off"}, files={"mine.yaml": yaml.dump(sweep)})
    path = [str(root / "image"), *([] if image_has_it() else [str(torchao("0.10.0"))])]
    mounts = [Mount(kind="datasets", owner="tester", slug="tiny", directory=tiny_llama),
              Mount(kind="datasets", owner="tester", slug="rows", directory=rows_file.parent)]
    session = Session(root=root, order=Order(
        source=build_launcher(launch, {}), gpus=0, internet=False, mounts=mounts, old_layout=False, queue_s=0,
        limit_s=500, proxy="", environ={"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}))
    session.start()
    assert wait_for(lambda: session.status in ENDED, 550)
    log = "".join(line["data"] for line in session.log)
    assert session.status == "COMPLETE", log
    return json.loads((session.working / "result.json").read_text()), log


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("count", "four_bits"), [(2, True), (1, False)], ids=["two in 4 bits", "one in 16 bits"])
def test_a_launcher_trains_a_sweep_and_says_done(count, four_bits, tmp_path, tiny_llama, rows_file, torchao):
    result, log = run_sweep(tmp_path / "root", tiny_llama, rows_file, torchao, count=count, load_in_4bit=four_bits)
    assert (result["verdict"], result["exit_status"]) == ("done", 0), log
    assert result["trials"] == {"complete": count}
    assert result["lost"] == []
    assert [line.split(":")[0] for line in result["hidden"]] == ["torchao 0.10.0"]
