"""`preview` as a person runs it, on sweep files of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.test_tokens import make_tokenizer

CHAT = """{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    make_tokenizer(chat_template=CHAT).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.fixture
def run(tmp_path):
    def run(*arguments, **values):
        sweep = {"method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "run_cap": 2,
                 "parameters": {"learning_rate": {"min": 1e-4, "max": 1e-2}}}
        sweep["parameters"] |= {name: {"value": value} for name, value in values.items()}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(sweep))
        environment = {**os.environ, "KAGGLE_RUNNER_CACHE": str(tmp_path / "cache"),
                       "PYTHONPATH": str(Path(__file__).parent.parent)}
        return subprocess.run([sys.executable, "-m", "kaggle_runner", *arguments], capture_output=True, text=True,
                              cwd=tmp_path, env=environment, timeout=250)
    return run


def chats(count):
    return [{"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"},
                          {"role": "user", "content": "more"}, {"role": "assistant", "content": f"b{i}"}],
             "source": "made"} for i in range(count)]


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_preview_is_json_with_every_row_accounted_for(run, tmp_path, model):
    pictures = [{"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "a"}]}]
    write(tmp_path / "set" / "train.jsonl", [*chats(60), *pictures])
    write(tmp_path / "set" / "my-test.jsonl", chats(3))
    done = run("preview", "mine.yaml", "--json", "--rows", "1", model=str(model), dataset="set", samples=50,
               max_steps=25)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["splits"] == {"train": ["set/train.jsonl"], "validation": ["set/my-test.jsonl"]}
    assert found["layout"] == "messages: messages -> assistant turns"
    assert (found["columns_used"], found["columns_unused"]) == (["messages"], ["source"])
    assert found["roles"] == {"assistant": 106, "user": 106}
    rows = found["rows"]
    assert rows == {"read": 64, "train": 50, "validation": 3, "duplicates": 3, "not_drawn": 7, "cut": 0,
                    "unanswered": 0, "lost": {"a picture, a sound or a file in a turn": 1}}
    assert (found["steps_per_epoch"], found["epochs"]) == (7, 4.0)
    example, = found["examples"]
    first, second = example["trained"]
    assert (first[0], second[0], first[-5:], second[-5:]) == ("a", "b", "<end>", "<end>")
    assert example["text"].startswith("<|user|>q")
    assert example["text"].replace(first, "", 1).replace(second, "", 1).endswith("<|assistant|>")


def test_a_preview_in_a_pipe_marks_what_counts_with_brackets_and_imports_no_torch(run, tmp_path, model):
    write(tmp_path / "rows.jsonl", chats(60))
    done = run("preview", "mine.yaml", "--rows", "1", model=str(model), dataset="rows.jsonl", samples=50)
    assert done.returncode == 0
    assert "\n<|user|>q" in done.stdout
    assert "<|assistant|>[b" in done.stdout
    assert "not used   source\n" in done.stdout
    assert done.stderr == "warning: not used: column source of rows.jsonl\n"
    code = ("import sys; from kaggle_runner.cli.main import cli; cli(['preview', 'mine.yaml'], standalone_mode=False); "
            "print('torch' in sys.modules and sys.modules['torch'] is not None, file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=250,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent),
                               "KAGGLE_RUNNER_CACHE": str(tmp_path / "cache")})
    assert done.stderr.splitlines()[-1] == "False"


def test_more_lost_rows_than_allowed_are_refused_after_they_were_shown(run, tmp_path, model):
    long = [{"prompt": "long " * 300, "completion": f"a{i}"} for i in range(24)]
    write(tmp_path / "rows.jsonl", [*long, *({"prompt": f"q{i}", "completion": f"a{i}"} for i in range(12))])
    settings = {"model": str(model), "dataset": "rows.jsonl", "samples": 30}
    done = run("preview", "mine.yaml", **settings)
    assert done.returncode == 1
    assert "(no answer begins within max_length)" in done.stdout
    assert "% of the rows asked of rows.jsonl would be left out: " in done.stderr
    assert "raise max_length, or set max_lost_share: 0." in done.stderr.splitlines()[-1]
    assert run("preview", "mine.yaml", **settings, max_lost_share=0.9).returncode == 0


def test_a_plan_says_in_one_line_what_a_preview_would(run, tmp_path):
    write(tmp_path / "rows.jsonl", chats(60))
    done = run("plan", "mine.yaml", "--gpu", "t4", dataset="rows.jsonl", samples=50)
    assert done.returncode == 0, done.stderr
    line, = [line for line in done.stdout.splitlines() if line.startswith("rows ")]
    assert "messages: messages -> assistant turns; 60 rows read: 50 trained, 3 held out" in line
    assert line.endswith("see them with python -m kaggle_runner preview mine.yaml")
    assert "Failed to load" not in done.stderr, "what bitsandbytes warns of on some CPUs is nobody's to mend"


def test_a_sweep_of_another_trainer_has_no_rows_to_show(run):
    done = run("preview", "mine.yaml", trainer="charlm")
    assert done.returncode == 1
    assert "trains charlm models on text, not on rows" in done.stderr
