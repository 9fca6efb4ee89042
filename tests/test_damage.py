"""What is read back is what was written: one byte flipped, or the end cut off, in each file that decides a number.

The outcome is that of the undamaged file, or one line that says what is damaged; never another number.
"""

import dataclasses
import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from kaggle_runner.config import CharLMConfig, FinetuneConfig
from kaggle_runner.errors import DamagedJournal, DataError, KaggleRunnerError
from kaggle_runner.files import json_lines, line_of, read_checked, write_checked
from kaggle_runner.machine.environment import detect
from kaggle_runner.memory.predict import predict
from kaggle_runner.model.outcome import find_outcome
from kaggle_runner.model.talk.characters import Writer
from kaggle_runner.run.optuna_journal import OptunaJournal
from kaggle_runner.run.search import OptunaSearch, run_sweep
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status
from kaggle_runner.sweep.spec import read_sweep
from kaggle_runner.training.charlm import to_device, train_character_model
from kaggle_runner.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from kaggle_runner.training.control import Control
from kaggle_runner.training.cpu_speed import choose
from kaggle_runner.training.data import sources
from kaggle_runner.training.data.characters import load_corpus
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


def test_the_text_of_a_character_model(tmp_path):
    """text8 is fetched anew; `test_char_data` has the built-in text, and a person's own is as it is."""
    content, known = b"anarchism originated as a term of abuse " * 50, {"max_length": 8, "batch_size": 4}
    with zipfile.ZipFile(tmp_path / "text8.zip", "w") as archive:
        archive.writestr("text8", content)
    where = {"text8_url": (tmp_path / "text8.zip").as_uri(), "text8_md5": hashlib.md5(content).hexdigest()}
    text8 = CharLMConfig(dataset="text8", **known)
    whole, copy = load_corpus(text8, cache_directory=tmp_path, **where).sha256, tmp_path / "corpora" / "text8"
    assert agrees(copy, lambda: load_corpus(text8, cache_directory=tmp_path, **where).sha256 == whole, "") == 0
    copy.write_bytes(content[1:])
    with pytest.raises(DataError, match=r"cannot download text8 from .* again, for the copy .*text8 is damaged: "):
        load_corpus(text8, cache_directory=tmp_path, **where | {"text8_url": (tmp_path / "none").as_uri()})


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    """A sweep of two trials of a character model, the second of which was cut off, and how it ends undamaged."""
    folder = tmp_path_factory.mktemp("characters")
    (folder / "text.txt").write_text("".join(f"{i} is said {i} times\n" for i in range(300)))
    values = {"trainer": "charlm", "dataset": str(folder / "text.txt"), "max_length": 8, "batch_size": 4,
              "max_tokens": 32 * 40, "max_eval_tokens": 64, "evaluations": 4, "hidden_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 1}
    (folder / "sweep.yaml").write_text(json.dumps({
        "method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "parameters": {
            **{name: {"value": value} for name, value in values.items()},
            "learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-3, "max": 1.0e-1}}}))
    run_characters(folder, "cut", after=25)
    shutil.copytree(folder / "cut", folder / "whole")
    return folder, run_characters(folder, "whole")[0]


def run_characters(folder, name, after=0):
    """Run two trials in this process, recorded as the supervisor does; return what was logged, and what was told."""
    spec, told = read_sweep(folder / "sweep.yaml"), []
    with Study.open_for_writing(folder / name, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                seed=3) as study:

        def train(trial):
            def emit(event):
                if event.kind in ("attached", "resumed"):
                    study.cut_history(trial.id, event.step)
                elif event.kind == "log":
                    study.log(trial.id, event.row)
                    steps.append(event.step)
                elif event.kind == "note":
                    told.append(event.text)

            steps = []
            config = trial.config
            study.record_start(trial, config.as_dict())
            control = Control(emit=emit, directory=study.trial_directory(trial.id), checkpoint_steps=10, poll=lambda:
                              "preempt" if trial.number == 1 and after and max(steps, default=0) >= after else None)
            text = to_device(load_corpus(config, cache_directory=folder), torch.device("cpu"))
            result = train_character_model(text, config, trial.id, control)
            study.record_end(result)
            return result

        search = OptunaSearch(study, spec, notify=lambda event: told.append(event.text))
        run_sweep(search, run_trial=train, count=2)
    snapshot = read_study(folder / name)
    return [(record.result.status, record.result.evaluations, record.result.hashes["model"],
             snapshot.history(record.trial.id)) for record in snapshot.records], told


@pytest.mark.parametrize(("cuts", "said"), [
    (False, {"optuna.journal": "is written anew", "trials.jsonl": "error: ", "trials/0000/history.jsonl": "error: ",
             "trials/0001/checkpoint/step-00000025.pt": "the trial goes back to the one before",
             "trials/0001/history.jsonl": "the trial starts over"}),
    (True, {"trials/0001/checkpoint/step-00000025.pt": "the trial goes back to the one before"})])
def test_a_sweep_that_goes_on_over_a_damaged_file(characters, cuts, said):
    """It ends with the numbers of the undamaged one; what has ended, and cannot be read, ends it in one line."""
    folder, whole = characters
    heard, errors = {}, {}
    for path in sorted((folder / "cut").rglob("*")):
        name, content = str(path.relative_to(folder / "cut")), path.read_bytes() if path.is_file() else b""
        if not content or name.startswith("trials/0000/checkpoint"):
            continue
        place = 2 * len(content) // 3
        shutil.rmtree(folder / "again", ignore_errors=True)
        shutil.copytree(folder / "cut", folder / "again")
        (folder / "again" / name).write_bytes(
            content[:place] + (b"" if cuts else bytes([content[place] ^ 0xFF]) + content[place + 1:]))
        try:
            logged, told = run_characters(folder, "again")
        except KaggleRunnerError as error:
            errors[name] = f"error: {error}"
            continue
        assert [trial[:3] for trial in logged] == [trial[:3] for trial in whole], name
        assert cuts or logged == whole
        heard[name] = " ".join(note for note in told if "damaged" in note)
    seen = {name: words for name, words in {**heard, **errors}.items() if words}
    assert seen.keys() == said.keys(), seen
    assert all("damaged" in words and said[name] in words and "\n" not in words for name, words in seen.items()), seen


def test_the_weights_of_a_character_model(characters):
    """They are read whole, or one line says that they are damaged."""
    folder, _ = characters
    weights = find_outcome(folder / "whole").directory / "model.pt"
    environment = dataclasses.replace(detect({}, Path("/")), cache_directory=folder)

    def read():
        model = Writer(find_outcome(folder / "whole"), environment)._model
        return {name: tensor.tolist() for name, tensor in model.state_dict().items()}

    assert agrees(weights, read, "model.pt are damaged (") > POSITIONS


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
