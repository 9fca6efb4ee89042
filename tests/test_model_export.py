"""What is exported loads with plain peft and plain transformers, from another folder, and has the loss that it says."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import bitsandbytes
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from kaggle_runner.errors import ModelError, StudyError
from kaggle_runner.machine.environment import detect
from kaggle_runner.model.card import Facts, card
from kaggle_runner.model.export import ORIGINAL, TRAINED, export_adapter, export_merged
from kaggle_runner.model.new_folder import new_folder, require_new
from kaggle_runner.model.outcome import find_outcome
from kaggle_runner.model.tensor_files import NewTensor, open_weights, write_weights
from kaggle_runner.study.trial import Status
from kaggle_runner.training import cpu_speed
from kaggle_runner.training.data.render import bos_of
from kaggle_runner.wording import size_text
from tests.conftest import wait_for
from tests.made_studies import Made, write_study
from tests.test_families import FAMILIES, SHAPE, plain_loss, save
from tests.test_metrics import EXACT, judged_study
from tests.tiny_studies import train_study, write_rows

ROOT = Path(__file__).parent.parent
BASES = {name: FAMILIES[name][0] for name in ("llama", "qwen2", "qwen3", "gemma", "phi3", "gpt2")}
BASES["llama tied"] = {**SHAPE, "tie_word_embeddings": True}
FOUR_BITS = {"quantization_config": transformers.BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)}


@pytest.fixture(scope="module")
def here(cache, tmp_path_factory):
    return detect({"KAGGLE_RUNNER_CACHE": str(cache)}, tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr(cpu_speed, "WORTH_ITS_ROUNDING", 0.0)  # in float32, also where bfloat16 is measured as faster


@pytest.fixture
def make(tmp_path, cache, rows, tokenizer_of_the_demo_base):
    """Make a base, train a study on it, and return its winner and the held-out rows."""
    def make(kind="llama", **params):
        base = save(kind.split()[0], BASES[kind], tmp_path / "base", tokenizer_of_the_demo_base)
        study, held_out = train_study(tmp_path / "study", cache, **{"model": str(base), "dataset": str(rows), **params})
        return find_outcome(study), held_out
    return make


def quiet(event):
    pass


def loaded(cls, folder, **options):
    model = cls.from_pretrained(folder, dtype=torch.float32, **options)
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):  # on some CPUs its forward would be in bfloat16
            module.support_avx512bf16_for_cpu = False
    return model


@pytest.mark.parametrize("in_4_bits", [True, False], ids=["4 bits", "16 bits"])
@pytest.mark.parametrize("kind", BASES)
def test_adapter_and_merged_model_have_their_losses_with_plain_peft_and_transformers(kind, in_4_bits, make, here,
                                                                                    tmp_path):
    outcome, held_out = make(kind, load_in_4bit=in_4_bits)
    exported = export_adapter(outcome, tmp_path / "out", here, quiet)
    elsewhere = shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    adapted = loaded(peft.AutoPeftModelForCausalLM, elsewhere, **(FOUR_BITS if in_4_bits else {}))
    study_loss = outcome.result.metric
    assert abs(study_loss - outcome.snapshot.baseline) > 1e-3
    assert plain_loss(adapted, held_out) == pytest.approx(study_loss, abs=1e-5)
    assert exported.adapter_loss == pytest.approx(study_loss, abs=1e-5)

    merged = export_merged(outcome, tmp_path / "merged", here, quiet)
    assert list(merged.merged) == ([ORIGINAL, TRAINED] if in_4_bits else [ORIGINAL])
    assert merged.merged[list(merged.merged)[-1]] == pytest.approx(study_loss, abs=1e-5)
    assert merged.merged[merged.taken] == min(merged.merged.values())
    plain = loaded(transformers.AutoModelForCausalLM, tmp_path / "merged")
    assert plain_loss(plain, held_out) == pytest.approx(merged.merged[merged.taken], abs=1e-5)
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json",
        "kaggle_runner.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_an_adapter_on_a_tied_head_unties_it_and_leaves_the_embedding_as_it_was(make, here, tmp_path):
    outcome, held_out = make("llama tied", load_in_4bit=False, target_modules=["q_proj", "lm_head"])
    merged = export_merged(outcome, tmp_path / "merged", here, quiet)
    assert merged.merged[ORIGINAL] == pytest.approx(outcome.result.metric, abs=1e-5)
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "base", tmp_path / "merged"))
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
    plain = loaded(transformers.AutoModelForCausalLM, tmp_path / "merged")
    assert plain_loss(plain, held_out) == pytest.approx(merged.merged[ORIGINAL], abs=1e-5)


def test_a_base_that_is_stored_in_4_bits_is_unpacked(make, here, tmp_path, cache, rows):
    make("llama")
    packed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32, **FOUR_BITS)
    packed.save_pretrained(tmp_path / "packed")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "packed")
    study, held_out = train_study(tmp_path / "of packed", cache, model=str(tmp_path / "packed"), dataset=str(rows))
    outcome = find_outcome(study)
    merged = export_merged(outcome, tmp_path / "merged", here, quiet)
    assert (merged.taken, list(merged.merged)) == (TRAINED, [TRAINED])
    assert merged.merged[TRAINED] == pytest.approx(outcome.result.metric, abs=1e-5)
    plain = loaded(transformers.AutoModelForCausalLM, tmp_path / "merged")
    assert plain_loss(plain, held_out) == pytest.approx(outcome.result.metric, abs=1e-5)
    assert not any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in plain.modules())


@pytest.mark.parametrize("own_name", [False, True])
def test_a_base_without_its_decoders_prefix_in_torchs_own_format_or_of_another_name_is_merged_too(own_name, make, here,
                                                                                                  tmp_path):
    outcome, held_out = make("gpt2", load_in_4bit=False)
    whole = tmp_path / "base" / "model.safetensors"
    bare = {name.removeprefix("transformer."): tensor for name, tensor in load_file(whole).items()}
    whole.unlink()
    if own_name:
        save_file(bare, whole.with_name("mine.safetensors"), metadata={"format": "pt"})
        config = json.loads((tmp_path / "base" / "config.json").read_text())
        config["transformers_weights"] = "mine.safetensors"
        (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    else:
        torch.save(bare, tmp_path / "base" / "pytorch_model.bin")
    merged = export_merged(outcome, tmp_path / "merged", here, quiet)
    assert merged.remarks == ("the base has changed since the trial was trained on it, so its losses are others",)
    plain = loaded(transformers.AutoModelForCausalLM, tmp_path / "merged")
    assert plain_loss(plain, held_out) == pytest.approx(outcome.result.metric, abs=1e-5)


def test_shards_are_what_transformers_reads(tmp_path, tiny_llama):
    stored = load_file(tiny_llama / "model.safetensors")
    shutil.copyfile(tiny_llama / "config.json", tmp_path / "config.json")
    write_weights(tmp_path, [NewTensor(name=name, shape=tuple(tensor.shape), dtype=tensor.dtype,
                                       make=lambda name=name: stored[name]) for name, tensor in stored.items()],
                  shard_bytes=200_000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(stored[name], tensor) for name, tensor in model.state_dict().items())
    assert open_weights(tmp_path).tensors.keys() == stored.keys()


def test_the_plain_format_is_written_as_a_chat_template(make, here, tmp_path, rows):
    outcome, _ = make(load_in_4bit=False)
    export_adapter(outcome, tmp_path / "out", here, quiet)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = json.loads(rows.read_text().splitlines()[0])["messages"]
    begin, end = bos_of(tokenizer), tokenizer.eos_token
    asked = "### Question:\nsay 0 and 0\n\n### Answer:\n"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        f"{begin}{asked}0 is said, 0 too{end}\n\n### Question:\nagain\n\n### Answer:\n0 and 0{end}")
    assert tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True) == begin + asked
    with_system = [{"role": "system", "content": "be short"}, *messages[:1]]
    assert tokenizer.apply_chat_template(with_system, tokenize=False, add_generation_prompt=True) == (
        f"{begin}### Question:\nsystem: be short\nuser: say 0 and 0\n\n### Answer:\n")


def test_the_card_says_what_the_record_knows(make, here, tmp_path):
    outcome, _ = make(load_in_4bit=False)
    export_merged(outcome, tmp_path / "out", here, quiet)
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    for said in (f"| the untouched base, in the study | {outcome.snapshot.baseline:.4f} |",
                 f"| trial 0000, in the study | {outcome.result.metric:.4f} |",
                 f"| merged into {ORIGINAL}, which this is | {outcome.result.metric:.4f} |",
                 "60 rows read, 20 rows trained on, 5 rows held out; SHA-256", outcome.result.hashes["rows"],
                 "learning_rate: 0.03\n", f"torch {torch.__version__}", 'from_pretrained("study-0000")'):
        assert said in text, said


@pytest.mark.parametrize("base", ["./base", "me/base"])
def test_folders_of_this_machine_are_named_by_their_whole_path_and_never_as_the_hubs(base, make, here, tmp_path, rows,
                                                                                    monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "base").symlink_to(tmp_path / "base")
    (tmp_path / "data").symlink_to(rows.parent)
    outcome, held_out = make(model=base, dataset="data/rows.jsonl", load_in_4bit=False)
    exported = export_adapter(outcome, tmp_path / "out", here, quiet)
    monkeypatch.chdir(rows.parent)
    adapted = loaded(peft.AutoPeftModelForCausalLM, tmp_path / "out")
    assert plain_loss(adapted, held_out) == pytest.approx(outcome.result.metric, abs=1e-5)
    assert any(f"its base is the folder {tmp_path / 'base'} of this machine" in text for text in exported.remarks)
    monkeypatch.chdir(tmp_path)
    export_merged(outcome, tmp_path / "merged", here, quiet)
    for folder in ("out", "merged"):
        head = (tmp_path / folder / "README.md").read_text().split("---")[1]
        assert "base_model" not in head, head
        assert "datasets" not in head, head


def test_a_card_names_what_others_find_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "rows").mkdir()
    for dataset, named in (("me/rows", True), ("here/rows", False), ("data/gone.jsonl", False), ("./gone", False),
                           ("demo", False)):
        study = write_study(tmp_path / "s" / dataset.replace("/", "-"), [Made(params={"dataset": dataset}, value=2.0)])
        text = card(find_outcome(study), Facts(title="t", base="gpt2", library="peft", remarks=(), load="", losses=[]))
        head = text.split("---")[1].splitlines()
        assert ("base_model: gpt2" in head, f"datasets: [{dataset}]" in head) == (True, named), text
        assert named == ("datasets" in str(head))


def test_a_card_has_every_metric_of_the_study_under_its_own_name(tmp_path):
    directory = judged_study(tmp_path / "s", EXACT, (0.41, 3.5), base=(0.22, 5.0)).directory
    text = card(find_outcome(directory), Facts(title="t", base="me/base", library="peft", remarks=(), load="",
                                               losses=[("this adapter, at its export", 3.5)]))
    assert ("| on the held-out rows | eval/loss | eval/exact_match |\n|---|---|---|\n"
            "| the untouched base, in the study | 5.0000 | 0.22 |\n| trial 0000, in the study | 3.5000 | 0.41 |\n"
            "| this adapter, at its export | 3.5000 |  |\n") in text


def test_a_folder_has_any_name_takes_the_place_that_a_link_means_and_is_refused_before_work(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far")
    (tmp_path / "nowhere").symlink_to("other/place")
    for name in ("my [1] model", "x" * 255, "link", "nowhere", "a/b/c"):
        left = tmp_path / f".{name[:50]}.partial-{2**22 + 1}"
        if "/" not in name and name not in ("link", "nowhere"):
            left.mkdir()
        require_new(tmp_path / name)
        with new_folder(tmp_path / name) as folder:
            (folder / "model").write_text(name)
        assert (tmp_path / name / "model").read_text() == name
        assert not left.exists(), "what a killed export left is cleared away"
    assert (tmp_path / "far" / "model").is_file()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for out, message in ((".", r"^\. is a folder that is there, and a model is written as a new one; choose another"),
                         ("..", "^.. is not empty|is a folder that is there"),
                         ("/proc/model", "cannot write /proc/model"),
                         ("/dev/shm", "is where a disk is mounted, and nothing can take its place; choose a folder in"),
                         ("/dev/null/x", "/dev/null is a file, not a folder for a model; choose another folder with")):
        if out == "/dev/shm" and any(Path(out).iterdir()):
            message = "is not empty"
        with pytest.raises(StudyError, match=message):
            require_new(Path(out))
    assert not list((tmp_path / "empty").iterdir())


def test_what_cannot_be_exported_is_said_in_one_line_and_leaves_nothing(make, here, tmp_path):
    outcome, _ = make(load_in_4bit=False)
    out, study = tmp_path / "out", outcome.snapshot.directory
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, message in (("full", "is not empty, .* the model; choose another folder with --out"),
                          ("file", "is a file, not a folder for a model")):
        for export in (export_adapter, export_merged):
            with pytest.raises(StudyError, match=message):
                export(outcome, tmp_path / name, here, quiet)
    with pytest.raises(StudyError, match="file is a file, not a folder for a model"):
        export_adapter(outcome, tmp_path / "file" / "in" / "it", here, quiet)
    with pytest.raises(StudyError, match="has no trial '0007'; give one that is complete: 0000"):
        find_outcome(study, "0007")

    whole = tmp_path / "base" / "model.safetensors"
    whole.write_bytes(whole.read_bytes()[:-8])
    with pytest.raises(ModelError, match=r"the weights of .*base cannot be read: .*; get the model again"):
        export_merged(outcome, out, here, quiet)
    free = shutil.disk_usage(tmp_path).free
    header = json.dumps({"lm_head.weight": {"dtype": "U8", "shape": [free], "data_offsets": [0, free]}}).encode()
    with open(whole, "wb") as file:  # a file with a hole: as large as the disk, and takes no room
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + free)
    with pytest.raises(ModelError, match=r"its files do not hold model\.layers\.0\.mlp\.down_proj, .* --to adapter"):
        export_merged(outcome, out, here, quiet)
    adapter = study / "trials" / "0000" / "adapter" / "adapter_model.safetensors"
    only = {name: tensor for name, tensor in load_file(adapter).items() if "nothing" in name}
    kept = adapter.read_bytes()
    save_file(only, adapter)
    of_before = dataclasses.replace(outcome, result=dataclasses.replace(outcome.result, hashes={}))  # no digest
    with pytest.raises(StudyError, match=r"needs [\d.]+ GiB and the disk has [\d.]+ [GM]iB free; free some space, or"):
        export_merged(of_before, out, here, quiet)
    with pytest.raises(StudyError, match=r"the adapter of trial 0000 is damaged: .* is not what was trained"):
        export_merged(outcome, out, here, quiet)
    adapter.write_bytes(kept)
    shutil.rmtree(tmp_path / "base")
    for export in (export_adapter, export_merged):
        with pytest.raises(ModelError, match=r"the base of trial 0000 is not here, .* the model folder .* does not"):
            export(outcome, out, here, quiet)
    adapter.unlink()
    with pytest.raises(StudyError, match=r"has no adapter here: .* lacks adapter_model.safetensors; .* train it again"):
        export_adapter(outcome, out, here, quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "study"]


def test_without_the_studys_rows_or_the_memory_nothing_is_claimed(here, tmp_path, cache, tokenizer_of_the_demo_base):
    base = save("llama", BASES["llama"], tmp_path / "base", tokenizer_of_the_demo_base)
    mine = write_rows(tmp_path / "mine.jsonl")
    study, _ = train_study(tmp_path / "study", cache, model=str(base), dataset=str(mine))
    small = dataclasses.replace(here, ram_available_bytes=1_000)
    unmeasured = export_merged(find_outcome(study), tmp_path / "small", small, quiet)
    assert (unmeasured.merged, unmeasured.taken) == ({}, TRAINED)
    assert "; it was not measured here: its weights would take " in unmeasured.remarks[0]
    mine.unlink()
    said = []
    merged = export_merged(find_outcome(study), tmp_path / "out", here, lambda event: said.append(event.text))
    assert (merged.adapter_loss, merged.merged, merged.taken) == (None, {}, TRAINED)
    assert any(text.startswith("warning: the study's rows cannot be read any more: ") for text in said)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"- merged into {TRAINED}, which is what training saw; there are no rows to measure it on\n" in card
    assert "at the export |" not in card
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out") is not None


def test_a_size_is_said_in_the_unit_that_fits_it():
    assert [size_text(size) for size in (0, 1, 512, 75_161_928, 2**30 - 1, 3 * 2**29, 5_000 * 2**30)] == [
        "0 bytes", "1 byte", "512 bytes", "71.7 MiB", "1.00 GiB", "1.50 GiB", "5,000.00 GiB"]


def test_only_a_trial_that_was_trained_to_its_end_is_taken_home(tmp_path):
    study = write_study(tmp_path / "mine", [Made(value=2.0, status=Status.PRUNED, reason="not in the top third"),
                                            Made(status=None)])
    with pytest.raises(StudyError, match=r"no trial of .*mine is complete, so there is no model to take home; run"):
        find_outcome(study)
    with pytest.raises(StudyError, match=r"trial 0000 is pruned \(not in the top third\): it was not trained to its"):
        find_outcome(study, "0000")
    with pytest.raises(StudyError, match=r"trial 0001 is not at its end: it was not"):
        find_outcome(study, "0001")
    characters = write_study(tmp_path / "chars", [Made(value=2.0, params={"trainer": "charlm"})])
    with pytest.raises(StudyError, match="holds charlm models, which transformers does not know"):
        _ = find_outcome(characters).adapter


def test_a_killed_export_leaves_nothing_that_looks_whole_and_the_next_one_clears_it_away(make, here, tmp_path):
    outcome, _ = make(load_in_4bit=False)
    code = ("import os, signal, sys\nfrom pathlib import Path\nfrom kaggle_runner.model.new_folder import new_folder\n"
            "with new_folder(Path(sys.argv[1])) as folder:\n    (folder / 'model.safetensors').write_text('half')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], timeout=250)
    left, = (path for path in tmp_path.iterdir() if "out" in path.name)
    assert left.name.startswith(".out.partial-")
    export_adapter(outcome, tmp_path / "out", here, quiet)
    assert not left.exists()
    assert (tmp_path / "out" / "adapter_config.json").is_file()


@pytest.mark.slow
def test_an_interrupt_after_the_folder_is_whole_comes_too_late(make, tmp_path):
    """Nobody reads stdout, so the command waits there, with all done but its last words."""
    make(load_in_4bit=False)
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(write, b"." * 4096):
            pass
    os.set_blocking(write, True)
    done = subprocess.Popen([sys.executable, "-m", "kaggle_runner", "export", "study", "--to", "adapter", "--out",
                             "out", "--cpu"], cwd=tmp_path, stdout=write, env={**os.environ, "PYTHONPATH": str(ROOT)})
    os.close(write)
    assert wait_for((tmp_path / "out").is_dir, seconds=200)
    done.send_signal(signal.SIGINT)
    with open(read) as stdout:
        assert "export   out  (" in stdout.read()
    assert done.wait(timeout=250) == 0
