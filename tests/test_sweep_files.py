"""Each construct of W&B's documentation: what is read of a file that has it, what W&B is sent, what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kaggle_runner.errors import SweepError
from kaggle_runner.sweep.distributions import KEYS
from kaggle_runner.sweep.spec import check_config, read_sweep
from tests.sweep_files import DOCUMENTED, READ, REFUSED, Made, Refused


def written(folder: Path, text: str) -> Path:
    path = folder / "made.yaml"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("made", READ.values(), ids=READ)
def test_a_legal_file_is_read_and_sent_as_it_was_meant(tmp_path: Path, made: Made) -> None:
    spec = read_sweep(written(tmp_path, made.text))
    for name, value in made.reads.items():
        assert (spec.parameters[name] if name in spec.parameters else getattr(spec, name)) == value, name
    assert [warning[:len(begins)] for warning, begins in zip(spec.warnings, made.warns, strict=True)] == [*made.warns]
    wanted = {**yaml.safe_load(made.text.lstrip("\ufeff")), **made.sent}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    assert json.dumps(spec.for_wandb, sort_keys=True) == json.dumps(wanted, sort_keys=True), "also 0 is not 0.0"
    again = check_config(spec.for_wandb, "made", None)
    assert (again.parameters.keys(), again.early_terminate) == (spec.parameters.keys(), spec.early_terminate)
    assert again.for_wandb == spec.for_wandb, "what W&B gives back is what it was sent"


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_an_illegal_file_is_answered_with_the_way_out(tmp_path: Path, refused: Refused) -> None:
    with pytest.raises(SweepError, match="problem") as caught:
        read_sweep(written(tmp_path, refused.text))
    assert caught.value.problems == refused.problems


def test_the_table_has_every_distribution_and_what_wandb_takes_is_read() -> None:
    assert len(READ) + len(REFUSED) > 120
    used = {entry["distribution"] for made in READ.values() if made.text[0] != "\ufeff"
            for entry in yaml.safe_load(made.text).get("parameters", {}).values() if "distribution" in entry}
    assert used == set(KEYS)
    texts = "".join(made.text for made in READ.values())
    assert [construct for construct in DOCUMENTED if construct not in texts] == []
    assert [name for name, refused in REFUSED.items() if refused.takes] == [
        "words for a whole number", "bayes with nothing to search",
        "a half of a decision", "a metric of another among several", "more than any",
        "an end that the file does not name", "a tail of a distribution without ends",
        "a wrong value, and another one that is fine beside the right one",
        "a wrong value alone", "a clash, said with the file's own values", "a file of another program"]


@pytest.mark.parametrize("name", ["scheduler of Optuna", "scheduler with a search space"])
def test_a_search_here_says_what_it_cannot_do(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "kaggle_runner", "sweep", str(written(tmp_path, READ[name].text)), "--count", "1",
               "--study", str(tmp_path / "study"), "--cpu"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=250)
    said = " ".join(ran.stderr.split())
    assert ran.returncode == 1
    assert "method: custom has a scheduler of W&B's choose the points, and the search here does not know them" in said
    assert "give --backend wandb, run wandb sweep-scheduler, and agents train" in said
    assert not (tmp_path / "study").exists()
