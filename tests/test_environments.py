"""The constraint files in environments/: what they pin, and what they must leave alone."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "environments"
OF_THE_IMAGE = {"torch", "torchvision", "torchaudio", "triton", "numpy", "protobuf", "transformers", "peft",
                "accelerate", "datasets", "wandb"}


def pins(name):
    lines = [line.strip() for line in (FOLDER / f"{name}.txt").read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["local", "kaggle", "colab"])
def test_every_line_pins_one_exact_version(name):
    assert pins(name)
    assert not [line for line in pins(name) if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)]
    names = [line.split("==")[0].lower() for line in pins(name)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["kaggle", "colab"])
def test_the_cloud_images_keep_what_they_were_built_with(name):
    assert not {line.split("==")[0].lower() for line in pins(name)} & OF_THE_IMAGE


@pytest.mark.parametrize("name", ["kaggle", "colab"])
def test_what_is_added_in_the_cloud_has_the_version_that_is_tested_here(name):
    assert set(pins(name)) <= set(pins("local"))


def test_the_kaggle_program_gets_the_package_it_forgets_to_declare():
    assert any(line.startswith("six==") for line in pins("local"))
