"""The metrics beside the loss: what they are of known models, and one order that everything takes from them."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.lab.vary import read_vary
from kaggle_runner.memory.fake_kernels import CpuKernels
from kaggle_runner.metrics import BITS_PER_BYTE, EXACT_MATCH, LOSS, TOKEN_ACCURACY, Evaluations, Metric, format_number
from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.analysis.answers import read_answers
from kaggle_runner.report.sentences import agreement
from kaggle_runner.report.write import write_page
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.table import best_lines
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.training import finetune
from kaggle_runner.training import loss as loss_module
from kaggle_runner.training.control import Control
from kaggle_runner.training.data.batches import EncodedRows, collate
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.data.render import Piece
from kaggle_runner.training.data.tokens import encode, scored_bytes
from kaggle_runner.training.models.base_model import computing_in, load_base
from kaggle_runner.training.models.written_answers import written
from tests.conftest import save_tiny

CPU = torch.device("cpu")
EXACT = Metric(name=EXACT_MATCH, goal="maximize")
WORDS = ("red", "green", "blué", "amber", "violet", "white", "black", "orange", "silver", "brown", "日本", "x")
SHAPE = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256}
FAMILIES = {"llama": {**SHAPE, "tie_word_embeddings": True}, "gemma2": {**SHAPE, "head_dim": 16, "sliding_window": 16},
            "gpt2": {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 256}}


def chats(count):
    """Rows of one answer and of two, some of one word."""
    for i in range(count):
        first, second = WORDS[i % len(WORDS)], WORDS[i * 7 % len(WORDS)]
        turns = [("user", f"say {first} {i}"), ("assistant", first if i % 2 else f"{first} it is, {second} too")]
        more = [("user", "again"), ("assistant", second)] if i % 3 == 0 else []
        yield {"messages": [{"role": role, "content": text} for role, text in (*turns, *more)]}


@pytest.fixture(scope="module")
def chat_rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chats")
    rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in chats(500)]
    (folder / "train.jsonl").write_text("".join(rows[200:]))
    (folder / "test.jsonl").write_text("".join(rows[:200]))
    return folder


def prepared(folder, rows, cache, **settings):
    """Return config, base and rows of a model in 32 bits."""
    settings = {"max_eval_samples": 200, "max_steps": 6, "eval_steps": 2, "learning_rate": 1e-2, **settings}
    config = FinetuneConfig(model=str(folder), dataset=str(rows / "train.jsonl"), eval_dataset=str(rows / "test.jsonl"),
                            load_in_4bit=False, max_length=128, lora_r=4, **settings)
    base = load_base(config, CPU)
    return config, base, encode(load_rows(config, cache_directory=cache), base.tokenizer, config, cache_directory=cache)


GEMMA = """{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
PHI_3 = """{% for m in messages %}<start_of_turn>{{ m.role }}
{{ m.content }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant
{% else %}{{ eos_token }}{% endif %}"""
"""Both end a turn with a token that generation_config knows; the end token of their tokenizers is another."""


@pytest.fixture(scope="module", params=[None, GEMMA, PHI_3], ids=["plain", "gemma", "phi3"])
def half_learned(request, tiny_llama, chat_rows, tmp_path_factory):
    """A model that has learned some of its 200 held-out rows by heart, and others not.

    With a chat template it was never taught what comes behind the end of its turn.
    """
    folder = tiny_llama
    if request.param:
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
        tokenizer.chat_template = request.param
        tokenizer.add_tokens(["<start_of_turn>", "<end_of_turn>"], special_tokens=True)
        shape = transformers.AutoConfig.from_pretrained(tiny_llama, vocab_size=len(tokenizer))
        folder = save_tiny(shape, tmp_path_factory.mktemp("turns"), tokenizer)
        ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
        transformers.GenerationConfig(eos_token_id=ends).save_pretrained(folder)
    config, base, data = prepared(folder, chat_rows, tmp_path_factory.mktemp("cache"))
    rows, model = data.validation, base.model
    optimizer = torch.optim.AdamW([p.requires_grad_(True) for p in model.parameters()], lr=2e-3)
    for step in range(400):
        batch = collate(rows, np.arange(step * 40, step * 40 + 40) % 200, pad_id=0, completion_only=True)
        if request.param:
            taught = batch.targets_N != base.tokenizer.eos_token_id
            batch = replace(batch, positions_N=batch.positions_N[taught], targets_N=batch.targets_N[taught])
        (finetune.loss_of(base, batch) / len(batch.targets_N)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 5 == 4 and sum(decoded(base, rows, i)[0] for i in range(0, 200, 10)) > 4:
            break
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return config, base, rows


@torch.no_grad()
def decoded(base, rows, i):
    """Return whether greedy decoding writes each answer of a row, and whether another token is as likely somewhere.

    It is asked as `try` and the answers beside a trial ask it, so it ends where these end.
    """
    tokens, trained = torch.from_numpy(rows.row(i)).long(), rows.trained_of(i)
    starts = np.flatnonzero(trained[1:] & ~trained[:-1]) + 1
    ends = [int(end) + 1 for end in np.flatnonzero(trained[:-1] & ~trained[1:])] + [len(tokens)]
    is_right, judged = True, []
    for start, end in zip(map(int, starts), [end for end in ends if end > starts[0]], strict=True):
        wanted = tokens[start:end].tolist()
        stop = next((n for n, token in enumerate(wanted, start=1) if token in base.ends), len(wanted))
        is_right &= written(base, rows.row(i)[:start], most_tokens=stop + 1) == wanted[:stop]
        judged += range(start - 1, start - 1 + stop)
    top = base.model(input_ids=tokens[None]).logits[0, judged].topk(2).values
    return is_right, bool((top[:, 0] - top[:, 1] < 1e-4).any())


def test_exact_match_is_what_greedy_decoding_answers_exactly_but_for_ties(half_learned):
    config, base, rows = half_learned
    scored = finetune.scored_batches(base, rows, config)
    measured = {int(i): bool(exact) for part in scored
                for i, exact in zip(part.rows, part.exact(base.ends), strict=True)}
    generated = {i: decoded(base, rows, i) for i in range(len(rows))}
    assert len(measured) == 200
    assert 20 < sum(measured.values()) < 180, "some rows are exact and some are not"
    tied = [i for i, (_, is_tied) in generated.items() if is_tied]
    other = [i for i, (is_right, _) in generated.items() if is_right != measured[i]]
    print(f"{sum(measured.values())} of 200 rows are exact; ties in {tied}; decoded otherwise {other}")
    assert set(other) <= set(tied)
    assert finetune.measure(base, rows, config)[EXACT_MATCH] == sum(measured.values()) / 200


@pytest.mark.parametrize("only_answers", [True, False])
@pytest.mark.parametrize(("wrong", "inexact"), [
    ([], []), ([4, 8, 9], []), ([3], [0]), ([2], [0]), ([6], [0]), ([7], [0]), ([11], [1]), ([12], [1]),
    ([17, 18], []), ([15], [2]), ([16], [2]), ([20], [3]), ([23], [3]), ([24], [3])])
def test_each_answer_counts_up_to_its_first_end_token_and_all_of_a_text(wrong, inexact, only_answers):
    end, last, text = 1, 2, 50
    # two answers, the first with more behind its end; one that is cut before an end; one whose answer has an end in it;
    # the text of a conversation, whose first turn nobody asks for
    rows = EncodedRows(
        tokens=np.array([text, text, text, end, text, text, text, end, text, last, text, text, text, text, text, text,
                         last, text, end, text, text, end, text, text, end], dtype=np.int32),
        starts=np.array([0, 10, 13, 19, 25]), trained=~np.isin(np.arange(25), [0, 1, 5, 10, 13, 14, 19]))
    batch = collate(rows, [0, 1, 2, 3], pad_id=0, completion_only=only_answers)
    places = np.concatenate([np.arange(start + 1, stop) for start, stop in pairwise(rows.starts)])
    hits = ~np.isin(places[rows.trained[places]] if only_answers else places, wrong)
    scored = loss_module.ScoredBatch(rows=np.arange(4), batch=batch, loss=torch.zeros(()),
                                     hits_N=torch.from_numpy(hits))
    assert np.flatnonzero(~scored.exact([end, last])).tolist() == inexact
    whole = [not any(start <= place < stop for place in wrong) for start, stop in pairwise(rows.starts)]
    assert scored.exact([]).tolist() == whole, "without ends all of it counts"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("only_answers", [True, False])
def test_the_pass_that_scores_has_the_very_loss_and_plain_argmax(family, only_answers, chat_rows, tmp_path, monkeypatch,
                                                                 tokenizer_of_the_demo_base):
    tokenizer = tokenizer_of_the_demo_base
    torch.manual_seed(1)
    shape = transformers.AutoConfig.for_model(family, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
                                              eos_token_id=tokenizer.eos_token_id, **FAMILIES[family])
    config, base, data = prepared(save_tiny(shape, tmp_path, tokenizer), chat_rows, tmp_path / "cache",
                                  completion_only_loss=only_answers)
    rows = data.validation
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 50 * len(tokenizer))
    monkeypatch.setattr(loss_module, "CACHED_ELEMENTS", 7 * len(tokenizer))
    for dtype in (torch.float32, torch.bfloat16):
        base = computing_in(base, dtype)
        base.model.eval()
        scored = finetune.scored_batches(base, rows, config)
        with torch.no_grad():
            losses = [finetune.loss_of(base, part.batch) for part in scored]
        assert [part.loss.item() for part in scored] == [loss.item() for loss in losses], "to the last bit"
    scores = finetune.measure(computing_in(base, torch.float32), rows, config)
    right = total = exact = 0
    for i in range(len(rows)):
        tokens, trained = torch.from_numpy(rows.row(i)).long(), torch.from_numpy(rows.trained_of(i)[1:])
        with torch.no_grad():
            hits = base.model(input_ids=tokens[None]).logits[0, :-1].argmax(-1) == tokens[1:]
        counted = trained if only_answers else torch.ones_like(trained)
        right, total, exact = right + int(hits[counted].sum()), total + int(counted.sum()), exact + bool(
            hits[trained].all())
    assert scores[TOKEN_ACCURACY] == pytest.approx(right / total, abs=1.5 / total), "one may be a tie by rounding"
    assert scores[EXACT_MATCH] == exact / len(rows)
    assert scores[BITS_PER_BYTE] == pytest.approx(scores[LOSS] * total / math.log(2) / rows.scored_bytes.sum())


def test_bytes_are_those_of_the_answers_whatever_the_tokenizer(tokenizer_of_the_demo_base, tmp_path, chat_rows,
                                                               tiny_llama):
    tokenizer, end = tokenizer_of_the_demo_base, tokenizer_of_the_demo_base.eos_token
    for answers, size_bytes in ((["A"], 1), (["ab", "cd e"], 6), (["日本 é"], 9), ([end], 0), ([f" a  b\n{end}"], 6)):
        pieces = [piece for answer in answers for piece in (Piece("Q: ", False), Piece(answer, True))]
        assert scored_bytes([pieces], tokenizer, completion_only=True, most_tokens=99) == [size_bytes]
        first = tokenizer.decode(tokenizer(pieces[0].text, add_special_tokens=False)["input_ids"][:1])
        everything = size_bytes + 3 * len(answers) - len(first)
        assert scored_bytes([pieces], tokenizer, completion_only=False, most_tokens=99) == [everything]
    long = [Piece("q", False), Piece("word " * 50, True)]
    kept = tokenizer("word " * 50, add_special_tokens=False)["input_ids"][:9]
    assert scored_bytes([long], tokenizer, completion_only=True, most_tokens=10) == [len(tokenizer.decode(kept))]
    _, _, data = prepared(tiny_llama, chat_rows, tmp_path)
    texts = [[turn["content"] for turn in row["messages"][1::2]] for row in chats(200)]
    assert data.validation.scored_bytes.sum() == sum(len(text.encode()) for row in texts for text in row)
    (cache,) = tmp_path.glob("tokens-*.npz")
    for missing in ("scored_bytes", "cut"):
        with np.load(cache) as stored:
            old = {name: stored[name] for name in stored.files if name != f"validation_{missing}"}
        np.savez(cache, **old)
        _, _, again = prepared(tiny_llama, chat_rows, tmp_path)
        assert again.notes["token_cache"].startswith("made again, ")
        assert (getattr(again.validation, missing) == getattr(data.validation, missing)).all()


@pytest.mark.parametrize(("metric", "scores", "best", "since"), [
    (Metric(), [(2, 0.0, 3.0), (4, 0.5, 2.0), (6, 0.9, 2.0)], (4, 2.0), 1),
    (EXACT, [(2, 0.0, 3.0), (4, 0.0, 2.0), (6, 0.0, 2.5)], (4, 0.0), 1),
    (EXACT, [(2, 0.5, 9.0), (4, 0.5, 9.0), (6, 0.1, 1.0)], (2, 0.5), 2),
    (EXACT, [(2, 0.1, 1.0), (4, 0.1, 2.0), (6, 0.2, 5.0)], (6, 0.2), 0)])
def test_the_best_evaluation_is_the_metrics_and_the_loss_breaks_ties(metric, scores, best, since):
    found = Evaluations.of_rows(metric, [{"step": 1, "train/loss": 9.0}, *(
        {"step": step, EXACT_MATCH: exact, LOSS: loss} for step, exact, loss in scores)])
    assert (found.best, found.since_best) == (best[1], since)
    assert found.best_scores == dict(next(part for step, part in found.scores if step == best[0]))
    assert Evaluations.of_state(metric, json.loads(json.dumps(found.as_state()))) == found
    assert Evaluations.of_state(Metric(), [[2, 3.0], [4, 2.5]]).pairs == ((2, 3.0), (4, 2.5)), "as version 0.2 wrote it"
    searched = [metric.for_search(exact if metric is EXACT else loss, loss) for _, exact, loss in scores]
    assert metric.best(searched) in (searched[[step for step, *_ in scores].index(best[0])], searched[-1])


def test_a_trial_keeps_and_resumes_what_its_metric_calls_best(tiny_llama, chat_rows, tmp_path):
    config, base, data = prepared(tiny_llama, chat_rows, tmp_path, max_eval_samples=30)

    def trained(name, asked=None):
        rows = []
        control = Control(poll=lambda: asked if rows and rows[-1]["step"] >= 3 else None, directory=tmp_path / name,
                          emit=lambda event: rows.append(event.row) if event.kind == "log" else None, metric=EXACT)
        return finetune.train_adapter(base, data, config, "0000", control), rows

    whole, rows = trained("whole")
    assert whole.metric == whole.metrics[EXACT_MATCH] == max(value for _, value in whole.evaluations)
    assert whole.metrics[LOSS] == min(loss for (_, value), loss in zip(whole.evaluations, whole.losses, strict=True)
                                      if value == whole.metric)
    logged = [row for row in rows if LOSS in row]
    assert [row["step"] for row in logged] == [2, 4, 6]
    assert all(set(whole.metrics) <= set(row) for row in logged)
    early, _ = trained("cut", "preempt")
    assert early.status is Status.PREEMPTED
    late, _ = trained("cut")
    assert (late.evaluations, late.losses, late.metrics, late.hashes) == (
        whole.evaluations, whole.losses, whole.metrics, whole.hashes)


def judged_study(directory, metric, *trials, base=None):
    """Write a study whose trials have (exact match, loss)."""
    parameters = {"learning_rate": {"values": [1.0, 2.0, 3.0]}}
    with Study.open_for_writing(directory, name="s", metric=metric.name, goal=metric.goal, seed=0, sweep={
            "method": "random", "metric": metric.as_dict(), "parameters": parameters}) as study:
        if base:
            study.record_baseline(dict(zip((EXACT_MATCH, LOSS), base, strict=True))[metric.name],
                                  dict(zip((EXACT_MATCH, LOSS), base, strict=True)))
        for number, values in enumerate(trials):
            scores = dict(zip((EXACT_MATCH, LOSS), values, strict=True))
            study.record_start(Trial(id=f"{number:04d}", number=number, params={"learning_rate": number + 1.0}), {})
            study.record_end(TrialResult(id=f"{number:04d}", status=Status.COMPLETE, metric=scores[metric.name],
                                         metrics=scores))
    return read_study(directory)


@pytest.mark.parametrize(("metric", "trials", "best", "said"), [
    (Metric(), [(0.41, 3.5), (0.2, 4.0)], "0000", "The other metrics (exact_match) agree: no trial is better than "
                                                  "trial 0000 by any of them."),
    (Metric(), [(0.41, 3.5), (0.45, 3.6)], "0000", "The metrics do not agree on the winner: by exact_match trial 0001 "
                                                   "is best (0.45, trial 0000 has 0.41)."),
    (EXACT, [(0.41, 3.5), (0.41, 3.25)], "0001", ""),
    (EXACT, [(0.41, 3.5), (0.0, 3.25)], "0000", "The metrics do not agree on the winner: by loss trial 0001 is best "
                                                "(3.2500, trial 0000 has 3.5000)."),
    (Metric(), [(0.41, 3.5), (0.45, 3.7), (0.45, 3.6)], "0000",
     "The metrics do not agree on the winner: by exact_match trials 0001 and 0002 are best (0.45, trial 0000 has "
     "0.41)."),
    (Metric(), [(0.41, 3.5), *[(0.45, 3.6)] * 4], "0000",
     "The metrics do not agree on the winner: by exact_match 4 trials are best (0.45, trial 0000 has 0.41).")])
def test_record_and_report_have_one_winner_and_say_whether_metrics_agree(tmp_path, metric, trials, best, said):
    snapshot = judged_study(tmp_path / "s", metric, *trials, base=(0.22, 5.0))
    analysis = analyse(snapshot)
    assert snapshot.best.trial.id == analysis.best.id == analysis.ranked[0].id == best
    assert agreement(analysis) == said
    line = best_lines(snapshot)[0][1]
    assert line == {
        Metric(): "trial 0000, eval/loss 3.5000; the untouched base has 5.0000 (-30.0%); exact_match 0.41 (base 0.22)",
        EXACT: f"trial {best}, eval/exact_match 0.41; the untouched base has 0.22 (+86.4%); loss "
               f"{trials[int(best)][1]:.4f} (base 5.0000)"}[metric]


def test_the_page_shows_what_the_best_three_write_and_nothing_where_nothing_was_kept(tmp_path):
    snapshot = judged_study(tmp_path / "s", Metric(), (0.1, 4.0), (0.2, 3.0), (0.3, 2.0), (0.4, 1.0))
    assert "What the best write" not in write_page([snapshot.directory]).read_text()
    for trial in ("0000", "0001", "0003"):
        row = {"prompt": "<b>say</b> it", "expected": "yes & no", "base": "?", "answer": f"<i>{trial}</i>"}
        path = snapshot.directory / "trials" / trial / "answers.json"
        path.write_text(json.dumps({"most_tokens": 24, "rows": [row, {"prompt": "torn"}]}))
    (asked,) = read_answers(snapshot)
    assert asked.answers == (("0003", "<i>0003</i>"), ("0001", "<i>0001</i>")), "0002 kept none, 0000 is the fourth"
    page = write_page([snapshot.directory]).read_text()
    shown = (("asked", "&lt;b&gt;say&lt;/b&gt; it"), ("the row answers", "yes &amp; no"), ("untouched base", "?"),
             ("trial 0003", "&lt;i&gt;0003&lt;/i&gt;"), ("trial 0001", "&lt;i&gt;0001&lt;/i&gt;"))
    rows = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in shown)
    assert f'<dl class="how asked">{rows}</dl>' in page


def test_a_study_of_an_earlier_version_says_nothing_of_other_metrics(tmp_path):
    directory = tmp_path / "s"
    with Study.open_for_writing(directory, name="s", metric=LOSS, goal="minimize", seed=0, sweep={}) as study:
        study.record_baseline(4.0)
        study.record_start(Trial(id="0000", number=0, params={"lora_r": 8}), {})
        study.append({"event": "end", "result": {"id": "0000", "status": "complete", "metric": 3.0,
                                                 "evaluations": [[2, 3.0]]}})
    snapshot = read_study(directory)
    assert best_lines(snapshot)[0] == ("best", "trial 0000, eval/loss 3.0000; the untouched base has 4.0000 (-25.0%)")
    assert (snapshot.best.result.losses, snapshot.base_scores) == ((), {LOSS: 4.0})
    assert agreement(analyse(snapshot)) == ""


def test_a_study_of_the_lab_goes_by_its_metric(tmp_path):
    file = tmp_path / "v.yaml"
    file.write_text("vary: lora_r\nvalues: [4, 8]\nmetric: {name: eval/exact_match, goal: maximize}\n"
                    "baseline: {max_steps: 4}\n")
    spec = read_vary(file)
    assert (spec.judged_by, spec.sweep()["metric"]) == (EXACT, {"name": "eval/exact_match", "goal": "maximize"})
    file.write_text(spec.as_yaml())
    assert read_vary(file).judged_by == EXACT


@pytest.mark.parametrize(("value", "significant", "said"), [
    (1_000_000.001, 11, "1000000.0010"), (1_000_000.001, 0, "1.0000e+06"), (2.50001, 7, "2.500010"), (2.5, 4, "2.5000"),
    (1.23456789e-5, 8, "1.2345679e-05"), (3.2e12, 4, "3.2000e+12"), (0.0, 9, "0.0000")])
def test_a_number_has_the_digits_that_tell_it_from_others(value, significant, said):
    assert format_number(value, significant=significant) == said


class Counted(TorchDispatchMode):
    """Counts what is computed."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_a_forecast_scores_a_few_rows_for_all_of_a_chunk():
    """A batch of 262,144 rows was scored by a few rows at a time: minutes for what has no data."""
    with FakeTensorMode(), CpuKernels(), Counted() as counted:
        logits_BTV = torch.empty(100, 500, 1000)
        scored = loss_module.scored_loss(lambda input_ids, use_cache: SimpleNamespace(logits=logits_BTV),
                                         torch.zeros(100, 500, dtype=torch.long), torch.arange(50_000),
                                         torch.zeros(50_000, dtype=torch.long), own_head=False)
    assert [tuple(part.shape) for part in scored] == [(), (50_000,)]
    assert counted.calls < 100  # 191 pieces, each of several operations
