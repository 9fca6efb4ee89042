"""`try`: what the models answer is what plain transformers generates, asked as the rows were written."""

import dataclasses
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import transformers
from click.testing import CliRunner

from kaggle_runner.cli.main import cli
from kaggle_runner.cli.shared import print_next
from kaggle_runner.errors import DataError, StudyError
from kaggle_runner.machine.environment import detect
from kaggle_runner.model.outcome import find_outcome, weights_of
from kaggle_runner.model.talk.answers import Sampling, open_conversation
from kaggle_runner.study.journal import Study, confirm_directory, read_study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.study.weights import drop_beaten_weights
from kaggle_runner.training import cpu_speed
from kaggle_runner.training.data.render import Renderer
from kaggle_runner.training.data.turns import Row, Turn
from kaggle_runner.training.models.written_answers import ANSWERS
from tests.made_studies import Made, write_study
from tests.test_families import FAMILIES, save
from tests.test_preview import CHAT
from tests.test_tokens import make_tokenizer
from tests.tiny_studies import train_study, write_rows

ROOT = Path(__file__).parent.parent
LIGHT = """
import contextlib, sys
from kaggle_runner.cli import main
with contextlib.suppress(SystemExit), contextlib.redirect_stderr(sys.stdout):
    main(sys.argv[1:])
print("LOADED", bool({"transformers", "peft", "bitsandbytes", "torch._dynamo"} & sys.modules.keys()))
"""
"""Runs a command, and says whether it imported what takes seconds and has no part in it."""


@pytest.fixture(scope="module")
def here(cache, tmp_path_factory):
    return detect({"KAGGLE_RUNNER_CACHE": str(cache)}, tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture
def run(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLE_RUNNER_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, error=None, typed=""):
        done = CliRunner().invoke(cli, ["try", *map(str, arguments)], input=typed)
        if error:
            assert isinstance(done.exception, error), done.output
            return str(done.exception)
        return done
    return run


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_answers_are_those_that_plain_peft_and_transformers_generate(family, tmp_path, rows, cache, here, monkeypatch,
                                                                     tokenizer_of_the_demo_base):
    monkeypatch.setattr(cpu_speed, "WORTH_ITS_ROUNDING", 0.0)
    base = save(family, FAMILIES[family][0], tmp_path / "base", tokenizer_of_the_demo_base)
    study, held_out = train_study(tmp_path / "study", cache, model=str(base), dataset=str(rows), load_in_4bit=False)
    outcome = find_outcome(study)
    torch.set_num_threads(2)
    chose = dataclasses.replace(outcome, result=dataclasses.replace(outcome.result, notes={
        **outcome.result.notes, "threads": 1}))
    conversation = open_conversation(chose, here, lambda event: None)
    assert torch.get_num_threads() == 1, "as many as the trial chose: two that wait for each other are far slower"
    on_gpu = dataclasses.replace(outcome.snapshot, sessions=({"gpus": [{"name": "Tesla T4"}]},))
    assert dataclasses.replace(chose, snapshot=on_gpu).cpu_threads is None
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = peft.PeftModel.from_pretrained(plain, outcome.adapter)
    kept = json.loads((study / "trials" / "0000" / ANSWERS).read_text())["rows"]
    assert len(kept) == len(conversation.rows(5)) == min(5, len(held_out))
    for i, question in enumerate(conversation.rows(2)):
        row = held_out.row(i).tolist()
        assert row[:len(question.tokens_T)] == question.tokens_T
        assert question.text.endswith("### Question:\nagain\n\n### Answer:\n")
        assert question.expected == tokenizer_of_the_demo_base.decode(row[len(question.tokens_T):],
                                                                      skip_special_tokens=True)
        for with_adapter in (True, False):
            with tuned.disable_adapter() if not with_adapter else torch.no_grad():
                prompt = torch.tensor([question.tokens_T])
                expected = tuned.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24,
                                          do_sample=False, pad_token_id=0)[0, prompt.shape[1]:].tolist()
            shown = []
            answer = conversation.answer(question, Sampling(max_new_tokens=24), shown.append, tuned=with_adapter)
            assert answer.text == tokenizer_of_the_demo_base.decode(expected, skip_special_tokens=True)
            assert answer.tokens == len(expected)
            assert "".join(shown) == answer.text
            assert kept[i]["answer" if with_adapter else "base"] == answer.text
            bare = question.text.removeprefix("### Question:\n").removesuffix("\n\n### Answer:\n")
            assert (kept[i]["prompt"], kept[i]["expected"]) == (bare, question.expected)
    drawn = [conversation.answer(conversation.rows(1)[0], Sampling(max_new_tokens=12, temperature=1.5, seed=seed),
                                 shown.append, tuned=True).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    cold = [conversation.answer(conversation.rows(1)[0], Sampling(max_new_tokens=12, temperature=temperature),
                                shown.append, tuned=True).text for temperature in (0.0, 1e-300)]
    assert cold[0] == cold[1]


@pytest.mark.parametrize("template", [None, CHAT])
def test_a_question_is_asked_as_rows_are_written(template):
    renderer = Renderer(make_tokenizer(chat_template=template), train_on="all")
    turns = (Turn("system", "be short"), Turn("user", "one"), Turn("assistant", "two"), Turn("user", "three"),
             Turn("assistant", "four"))
    for end in (2, 4):
        written = renderer.pieces(Row(turns=turns[:end + 1]))
        assert "".join(piece.text for piece in written[:-1]) == renderer.asking(turns[:end])
    ready = "<s>already written"
    assert renderer.asking([Turn("user", ready)]).endswith(ready) or template is None


def test_a_template_that_refuses_says_what_to_do():
    refusing = make_tokenizer(chat_template="{{ raise_exception('no roles here') }}")
    with pytest.raises(DataError, match=r"refuses this conversation: no roles here; .* leave --system out"):
        Renderer(refusing, train_on="all").asking([Turn("user", "hello there")])


def test_rows_prompts_and_chats_on_the_command_line(tmp_path, cache, run, tiny_llama):
    chats = [{"messages": [{"role": "system", "content": "you count"}, {"role": "user", "content": f"say {i}"},
                           {"role": "assistant", "content": f"{i} it is"}]} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    study, _ = train_study(tmp_path / "study", cache, model=str(tiny_llama), dataset=str(tmp_path / "rows.jsonl"))
    short = ("--max-new-tokens", "4", "--cpu")
    done = run(study, "--rows", "2", *short)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("--- held-out row ") == done.stdout.count("\nbase ") == done.stdout.count("\ntuned ") == 2
    assert done.stdout.count(" a second)") == 4
    asked = run(study, "--prompt", "say 7", *short)
    assert ("asked     ### Question:\n          system: you count\n          user: say 7\n          \n"
            "          ### Answer:\n") in asked.stdout, "the system prompt of the rows goes before it"
    def tuned(*options):
        return re.sub(r" \(\d+ tokens.*", "", run(study, "--prompt", "say 7", *short, *options).stdout)

    assert tuned() == tuned("--temperature", "0", "--seed", "3")
    assert tuned() != tuned("--seed", "3") == tuned("--seed", "3", "--temperature", "1"), "a seed alone draws too"
    assert tuned() != tuned("--top-p", "1"), "and so does a share of the likeliest"
    piped = run(study, "--prompt", "-", "--system", "you sing", *short, typed="say\n\u00fc\n").stdout
    assert "system: you sing\n          user: say\n          \u00fc\n          \n" in piped
    assert run(study, "--prompt", " ").exit_code == run(study, "--prompt", "-").exit_code == 2
    assert "tokens, and the model takes 256 with its answer" in run(study, "--prompt", "x " * 400, *short,
                                                                    error=DataError)
    assert run(study, "--prompt", "a", "--rows", "2").exit_code == 2
    assert "has no trial '0001'" in run(study, "--trial", "0001", error=StudyError)

    terminal, other_end = pty.openpty()
    os.write(terminal, b"say 8\n/new\nsay 9\n\x04")
    done = subprocess.run([sys.executable, "-m", "kaggle_runner", "try", str(study), "--base", *short], stdin=other_end,
                          capture_output=True, text=True, timeout=250,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "KAGGLE_RUNNER_CACHE": str(cache)})
    os.close(terminal)
    os.close(other_end)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tuned     ") == done.stdout.count("base      ") == 2
    assert "Ctrl-D" in done.stdout


def test_the_best_character_model_is_kept_and_writes_on(tmp_path, run):
    text = "the cat sat on the mat and the dog sat on the log " * 400
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "sweep.yaml").write_text(json.dumps({
        "method": "grid", "metric": {"name": "eval/loss", "goal": "minimize"}, "parameters": {
            "learning_rate": {"values": [0.0001, 0.01]}, **{name: {"value": value} for name, value in {
                "trainer": "charlm", "dataset": "text.txt", "max_length": 16, "max_tokens": 16 * 16 * 60,
                "max_eval_tokens": 256, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "batch_size": 16, "gradient_accumulation_steps": 1, "evaluations": 1}.items()}}}))
    done = CliRunner().invoke(cli, ["dry-run", "sweep.yaml", "--study", "chars", "--no-pruning"])
    assert done.exit_code == 0, done.output
    assert "\nnext     python -m kaggle_runner try chars  # have it write\nreport   " in done.stdout
    best = read_study(tmp_path / "chars").best.trial.id
    assert [path.parent.name for path in (tmp_path / "chars").glob("trials/*/model.pt")] == [best]
    done = run("chars", "--rows", "2", "--max-new-tokens", "20")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("--- held-out row ") == done.stdout.count("\ntuned ") == 2
    assert "\nbase " not in done.stdout
    done = run("chars", "--prompt", "the cat ", "--max-new-tokens", "20", "--temperature", "0")
    cold = run("chars", "--prompt", "the cat ", "--max-new-tokens", "20", "--temperature", "1e-300")
    assert cold.stdout.split(" (20 ")[0] == done.stdout.split(" (20 ")[0]
    assert any(word in done.stdout.split("tuned", 1)[1] for word in ("sat", "the", "on")), done.stdout
    assert "the model does not know 'X', 'p', 'y'; write with the characters of its text:" in run(
        "chars", "--prompt", "Xylophone", error=DataError)
    narrow = run("chars", "--prompt", "the cat ", "--max-new-tokens", "20", "--top-p", "1e-300")
    assert narrow.stdout.split(" (20 ")[0] == done.stdout.split(" (20 ")[0], "the likeliest is left"
    many = run("chars", "--rows", "1000000000", "--max-new-tokens", "1")
    assert 0 < many.stdout.count("--- held-out row ") == many.stdout.count("\ntuned ")
    for option, value in (("--seed", 2**64), ("--top-p", "nan"), ("--temperature", "inf")):
        assert run("chars", "--prompt", "the ", option, value).exit_code == 2
    for arguments, said in ((("try", "chars", "--prompt", "the "), "tuned     "),
                            (("export", "chars"), "export is for fine-tunes; the weights are chars/trials/")):
        light = subprocess.run([sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, timeout=250,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert said in light.stdout
        assert "LOADED False" in light.stdout
    (tmp_path / "text.txt").write_text(text.replace("log", "fog"))
    assert "the text text.txt has changed since trial" in run("chars", "--prompt", "the ", error=DataError)
    loser = next(record.trial.id for record in read_study(tmp_path / "chars").records if record.trial.id != best)
    assert "kept no weights: there is no " in run("chars", "--trial", loser, error=StudyError)


def test_weights_of_beaten_character_models_go_unless_they_were_asked_for(tmp_path):
    character = {"trainer": "charlm"}
    study = write_study(tmp_path / "chars", [
        Made(params=character, value=2.0), Made(params=character, value=1.0), Made(params={}, value=0.5,
                                                                                    status=Status.PRUNED),
        Made(params={**character, "save_model": True}, value=3.0), Made(params=character, status=None)])
    for trial in (study / "trials").iterdir():
        (trial / "model.pt").write_bytes(b"weights")
    drop_beaten_weights(read_study(study))
    assert sorted(path.parent.name for path in study.glob("trials/*/model.pt")) == ["0001", "0002", "0003", "0004"]


def test_a_winner_whose_adapter_was_taken_away_is_trained_again(tmp_path, capsys):
    study = write_study(tmp_path / "s", [Made(params={"lora_r": 4}, value=1.0)])
    snapshot = read_study(study)
    (record,) = snapshot.records
    kept = dataclasses.replace(record, result=dataclasses.replace(record.result, hashes={"adapter": "a"}))
    print_next(dataclasses.replace(snapshot, records=(kept,)), after=str(study / "report" / "index.html"))
    assert capsys.readouterr().out == (
        f"next     python -m kaggle_runner train {study}  # its weights are not here: train it again\n"
        f"page     {study}/report/index.html\n")


@pytest.mark.parametrize(("own", "of_seed", "said"), [
    (True, True, "have it write"), (False, True, "have it write"),
    (False, False, "its weights are not here: train it again")])
def test_a_confirmed_winner_is_tried_by_the_weights_that_there_are(own, of_seed, said, tmp_path, capsys):
    params = [{"trainer": "charlm", "learning_rate": rate} for rate in (0.1, 0.2)]
    study = write_study(tmp_path / "chars", [Made(params=params[0], value=1.0), Made(params=params[1], value=1.1)])
    with Study.open_for_writing(confirm_directory(study), name="c", sweep={}, metric="eval/loss", goal="minimize",
                                seed=0) as beside:
        for number, value in enumerate((2.0, 1.2)):
            trial = Trial(id=f"000{number}", number=number, params={**params[number], "seed": 43},
                          origin=f"trial 000{number}")
            beside.record_start(trial, {})
            beside.record_end(TrialResult(id=trial.id, status=Status.COMPLETE, metric=value))
    paths = {"loser": study / "trials/0000/model.pt", "own": study / "trials/0001/model.pt",
             "seed": confirm_directory(study) / "trials/0001/model.pt"}
    for name, path in paths.items():
        if name == "loser" or (name == "own" and own) or (name == "seed" and of_seed):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"weights")
    outcome = find_outcome(study)
    assert outcome.trial.id == "0001"
    print_next(outcome.snapshot)
    assert said in capsys.readouterr().out
    if own or of_seed:
        path, config, remark = weights_of(outcome)
        assert (path, config.learning_rate) == (paths["own" if own else "seed"], 0.2)
        assert remark == ("" if own else "the weights of trial 0001 were not kept; these are of trial 0001 with seed "
                                         "43, which confirmed it")
    else:
        with pytest.raises(StudyError, match=r"kept no weights: .*; those of trial 0000 are here, for --trial; train "
                                             r"it again and try that: python -m kaggle_runner train .*0001/config"):
            weights_of(outcome)
