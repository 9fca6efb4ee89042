"""What is read back is what was written: one byte flipped, or the end cut off, in each file that decides a number.

The outcome is that of the undamaged file, or one line that says what is damaged; never another number.
"""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import DamagedJournal, KaggleRunnerError
from kaggle_runner.files import json_lines, line_of, read_checked, write_checked
from kaggle_runner.memory.predict import predict
from kaggle_runner.model.outcome import find_outcome
from kaggle_runner.run.optuna_journal import OptunaJournal
from kaggle_runner.run.search import OptunaSearch
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status
from kaggle_runner.sweep.spec import read_sweep
from kaggle_runner.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from kaggle_runner.training.cpu_speed import choose
from kaggle_runner.training.data import sources
from kaggle_runner.training.data.tokens import _read_cache, _write_cache
from tests import optuna_session
from tests.test_optuna_sweep import ended, write_sweep
from tests.tiny_studies import train_study, write_rows

POSITIONS = 60
CONFIG = FinetuneConfig(max_steps=4, eval_steps=2)


def damages(content):
    """Yield what is left of a file's content: with one bit or one byte flipped at many places, or cut short."""
    places = sorted({round(place) for place in np.linspace(0, len(content) - 1, POSITIONS)})
    for place in places:
        for mask in (1, 0xFF):
            yield content[:place] + bytes([content[place] ^ mask]) + content[place + 1:]
    for place in places[::6]:
        yield content[:place]


def agrees(path, read, words):
    """See that `read` gives the same for every damage of a file, or one line with `words`; return how often it did."""
    content, whole, messages = path.read_bytes(), read(), []
    for damaged in damages(content):
        path.write_bytes(damaged)
        try:
            assert read() == whole
        except KaggleRunnerError as error:
            messages.append(str(error))
    path.write_bytes(content)
    assert read() == whole
    assert all(words in message and "\n" not in message for message in messages)
    return len(messages)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_llama):
    folder = tmp_path_factory.mktemp("trained")
    study, _ = train_study(folder / "study", folder / "cache", model=str(tiny_llama), samples=20,
                           dataset=str(write_rows(folder / "rows.jsonl")))
    return study


def test_a_journal_and_its_histories(trained):
    """A journal that is cut is one of a session that was killed: what it lacks is run again."""
    messages = []
    (trained / "trials" / "0000" / "history.jsonl").write_text("".join(
        line_of({"step": step, "eval/loss": 3.9 - step / 7, "tokens": 100 * step}) for step in range(1, 9)))
    for name in ("trials.jsonl", "trials/0000/history.jsonl"):
        path = trained / name
        rows, content = list(json_lines(path)), path.read_bytes()
        assert all(b'"digest"' in line for line in content.splitlines())
        for damaged in damages(content):
            path.write_bytes(damaged)
            try:
                read = list(json_lines(path))
                assert read == rows[:len(read)]
                assert len(damaged) < len(content) or len(read) >= len(rows) - 1, "the end of the last line may go"
            except KaggleRunnerError as error:
                messages.append(str(error))
        path.write_bytes(content)
    assert len(messages) > 2 * POSITIONS
    assert all("is damaged; restore the file from a copy, or delete that line" in message for message in messages)


def test_lines_of_before_have_no_digest_and_are_read(tmp_path):
    path = tmp_path / "rows"
    path.write_text('{"step": 1, "digest": "mine"}\n{"step": 2}\n'.replace(', "digest": "mine"', "")
                    + line_of({"step": 3}) + line_of({"step": 4}).replace("\n", "\r\n"))
    assert [row["step"] for row in json_lines(path)] == [1, 2, 3, 4]


def test_an_adapter(trained):
    folder = trained / "trials" / "0000" / "adapter"

    def read():
        folder_read = find_outcome(trained).adapter
        return [(folder_read / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")]

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert agrees(folder / name, read, "the adapter of trial 0000 is damaged") > 2 * POSITIONS


def test_the_configuration_of_a_trial_that_is_taken_home(trained):
    path = trained / "trials" / "0000" / "config.json"
    agrees(path, lambda: dataclasses.replace(find_outcome(trained).config, batch_size=2, max_steps=2,
                                             gradient_accumulation_steps=2, gradient_checkpointing=False), "damaged")


def test_a_study_of_before_has_no_digest_of_its_adapter_and_is_taken_home(trained, tmp_path):
    old = shutil.copytree(trained, tmp_path / "old")
    rows = list(json_lines(old / "trials.jsonl"))
    rows[-1]["result"]["hashes"].pop("adapter_files")
    (old / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert find_outcome(old).adapter == old / "trials" / "0000" / "adapter"


@pytest.mark.parametrize("kept", [1, 2])
def test_a_checkpoint(tmp_path, kept):
    """Torch reads a flipped number as a number."""
    for step in range(1, kept + 1):
        torch.manual_seed(step)
        save_checkpoint(tmp_path, CONFIG, Checkpoint(step=step, state={"tokens": step},
                                                     tensors={"adapter": torch.randn(400)}))
    told = []

    def read():
        told.clear()
        checkpoint = load_checkpoint(tmp_path, CONFIG, lambda event: told.append(event.text))
        return checkpoint and (checkpoint.step, dict(checkpoint.state), checkpoint.tensors["adapter"].tolist())

    newest = tmp_path / "checkpoint" / f"step-{kept:08d}.pt"
    content, whole = newest.read_bytes(), read()
    newest.unlink()
    before = read()
    found = []
    for damaged in damages(content):
        newest.write_bytes(damaged)
        found.append(read())
        assert found[-1] == (before if told else whole)
        assert not told or told[0].endswith("the trial goes back to the one before, or starts over")
    assert found.count(before) > POSITIONS


def test_what_is_kept_to_be_made_again(tmp_path, capsys):
    """The tokens, the forecast of a memory, the built-in rows, the built-in text, and how this CPU trains fastest."""
    arrays = {f"{split}_{name}": np.arange(40, dtype=np.int64) for split in ("train", "validation")
              for name in ("tokens", "trained")} | {
        f"{split}_starts": np.array([0, 40]) for split in ("train", "validation")} | {
        f"{split}_counts": np.array("{}") for split in ("train", "validation")}
    path = tmp_path / "tokens.npz"
    assert _write_cache(path, arrays) == ""
    for damaged in damages(path.read_bytes()):
        path.write_bytes(damaged)
        read, note = _read_cache(path)
        assert note.startswith("made again") if read is None else all((read[name] == arrays[name]).all()
                                                                      for name in arrays)
    path = tmp_path / "values.json"
    write_checked(path, {"peak_bytes": 4_400_000_000, "keep": "all"})
    content, whole = path.read_bytes(), read_checked(path)
    for damaged in damages(content):
        path.write_bytes(damaged)
        try:
            assert read_checked(path) == whole
        except ValueError:
            continue


def test_a_damaged_file_of_the_cache_is_made_again(tmp_path):
    flipped = 0

    def flip(path):
        nonlocal flipped
        content = path.read_bytes()
        place = next(place for place in range(len(content) // 2, len(content)) if chr(content[place]).isdigit())
        path.write_bytes(content[:place] + (b"7" if content[place:place + 1] != b"7" else b"4") + content[place + 1:])
        flipped += 1

    model_config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}
    first = predict(CONFIG, model_config, cache_directory=tmp_path)
    forecast, = (tmp_path / "memory").iterdir()
    flip(forecast)
    assert predict(CONFIG, model_config, cache_directory=tmp_path).peak_bytes == first.peak_bytes

    def batch(dtype):
        return None

    choice = choose(batch, most_threads=1, cache_directory=tmp_path, key="k", tries_bfloat16=False)
    flip(tmp_path / "cpu_speed" / "k.json")
    again = choose(batch, most_threads=1, cache_directory=tmp_path, key="k", tries_bfloat16=False)
    assert (again.threads, again.dtype) == (choice.threads, choice.dtype)
    assert "measured again" in again.reason
    assert again.reason.endswith("is damaged")

    pairs = sources._builtin_pairs(tmp_path)
    flip(next(tmp_path.glob("python-*.json")))
    assert sources._builtin_pairs(tmp_path) == pairs
    assert flipped == 3


def test_the_search_of_a_study(tmp_path):
    """Optuna's copy is damaged: it is put aside, which is said, and the next point is the one of the whole study."""
    sweep, directory = write_sweep(tmp_path, method="random"), tmp_path / "study"

    def train(trial):
        return ended(trial, Status.PRUNED, metric=3.5) if trial.number == 1 else optuna_session.complete(trial)

    optuna_session.run(sweep, directory, 3, train=train)
    spec, info, path = read_sweep(sweep), read_study(directory).info, directory / "optuna.journal"
    content = path.read_bytes()

    def read():
        journal = OptunaJournal(directory, info, spec)
        journal.check(read_study(directory))
        return [(trial.params, journal.told(trial.number)) for trial in journal.trials]

    whole, messages = read(), []
    assert [told for _, told in whole] == [None, 3.5, None]
    for damaged in damages(content):
        path.write_bytes(damaged)
        try:
            read_again = read()
            assert read_again == whole[:len(read_again)] or len(damaged) < len(content)
        except DamagedJournal as error:
            messages.append(str(error))
    assert len(messages) > POSITIONS
    assert all(message.endswith("it is written anew from the record at the start of the sweep") for message in messages)
    path.write_bytes(re.sub(rb'"told": ?3.5', b'"told": 3.1', content))
    notes = []
    with Study.open_for_writing(directory, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                seed=None) as study:
        OptunaSearch(study, spec, notify=lambda event: notes.append(event.text))
    assert "trial 1 is damaged in told" in notes[0]
    assert "kept as optuna.journal.damaged-1" in notes[0]
    assert read() == whole
