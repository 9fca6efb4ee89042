"""The constraint files in environments/: what they pin, and what they must leave alone."""

import ast
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "environments"
OF_THE_IMAGE = {"torch", "torchvision", "torchaudio", "triton", "numpy", "protobuf", "transformers", "peft",
                "accelerate", "datasets", "wandb"}


def pins(name):
    lines = [line.strip() for line in (FOLDER / f"{name}.txt").read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["local", "kaggle", "colab", "images/kaggle", "images/colab", "images/kaggle_october"])
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


@pytest.mark.parametrize(("image", "added"), [("kaggle", "kaggle"), ("colab", "colab"), ("kaggle_october", "kaggle")])
def test_an_image_is_built_with_what_the_launcher_adds(image, added):
    assert set(pins(added)) <= set(pins(f"images/{image}"))


def test_the_floors_of_the_package_are_what_the_older_image_holds():
    """So they are tested: every test of `tools/image_check.sh kaggle` runs on them."""
    texts = [node.value for node in ast.walk(ast.parse((FOLDER.parent / "setup.py").read_text()))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    floors = dict(text.lower().split(">=") for text in texts if re.fullmatch(r"[A-Za-z]\w+>=[0-9.]+", text))
    held = [dict(line.lower().split("==") for line in pins(f"images/{name}")) for name in ("kaggle", "colab")]
    numbers = {name: [tuple(map(int, versions[name].split(".")[:2])) for versions in held if name in versions]
               for name in floors}
    for name in ("kaggle", "pymysql"):  # of one's own machine: newer than the images', or on neither
        del numbers[name]
    assert len(numbers) >= 20
    assert {name: floor for name, floor in floors.items() if name in numbers} == {
        name: ".".join(map(str, min(found))) for name, found in numbers.items()}
