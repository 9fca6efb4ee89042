"""GGUF files and Modelfiles: made by a real program, in the format that the rows were written in."""

import json
import re
from pathlib import Path

import pytest
import yaml

from kaggle_runner.errors import HostError
from kaggle_runner.machine.environment import detect
from kaggle_runner.model.local_programs import export_gguf, export_ollama
from kaggle_runner.model.ollama import modelfile, pieces_of
from kaggle_runner.model.outcome import find_outcome
from kaggle_runner.training import cpu_speed
from kaggle_runner.training.data.render import Renderer
from kaggle_runner.training.data.turns import Turn
from tests.standins.llama_cpp import write_llama_cpp
from tests.test_families import FAMILIES, save
from tests.test_preview import CHAT
from tests.test_tokens import make_tokenizer
from tests.tiny_studies import train_study, write_rows

CHATML = """{% if messages[0].role != 'system' %}<|im_start|>system
You are helpful.<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}\
{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""

def go_template(template, system, prompt, response):
    """Apply the only form of a Go template that is written here."""
    with_system, without = re.search(r"\{\{ if \.System \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}", template,
                                     flags=re.DOTALL).groups()
    rest = template[template.index("{{ end }}") + len("{{ end }}"):]
    text = (with_system if system else without) + rest
    for name, value in (("System", system), ("Prompt", prompt), ("Response", response)):
        text = text.replace(f"{{{{ .{name} }}}}", value)
    return text


LLAMA = """{{ bos_token }}{% set is_given = messages[0].role == 'system' %}<|start|>system<|stop|>

Knowledge ends in 2023

{% if is_given %}{{ messages[0].content }}{% endif %}<|over|>\
{% for m in messages %}{% if not is_given or not loop.first %}<|start|>{{ m.role }}<|stop|>

{{ m.content }}<|over|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|stop|>

{% endif %}"""


TEMPLATES = {"plain": None, "roles": CHAT, "chatml": CHATML, "gemma": GEMMA, "llama": LLAMA}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_modelfiles_template_asks_as_the_tokenizers_does(template):
    tokenizer = make_tokenizer(chat_template=template)
    renderer, pieces = Renderer(tokenizer, train_on="all"), pieces_of(tokenizer)
    written = pieces.as_template()
    for system in ("", "be short"):
        turns = [Turn("user", "first"), Turn("assistant", "second"), Turn("user", "third")]
        asked = renderer.asking([*([Turn("system", system)] if system else []), *turns])
        given = pieces.system(system)
        applied = go_template(written, given, "first", "second") + go_template(written, "", "third", "")
        # what closes an answer is not there yet while the last one is asked for
        assert applied.removesuffix(pieces.after_answer) == asked.removeprefix(tokenizer.bos_token)


def test_a_modelfile_names_weights_system_and_what_ends_an_answer():
    tokenizer = make_tokenizer(chat_template=CHATML)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    lines = modelfile("./model.gguf", tokenizer, None, 2048).splitlines()
    assert lines[0] == "FROM ./model.gguf"
    for line in ('SYSTEM """You are helpful."""', f'PARAMETER stop "{tokenizer.eos_token}"',
                 'PARAMETER stop "<|im_end|>"', "PARAMETER num_ctx 2048"):
        assert line in lines
    tokenizer = make_tokenizer(chat_template=LLAMA)
    tokenizer.add_tokens(["<|stop|>", "<|over|>"], special_tokens=True)  # without a role, as Phi-3's <|end|>
    text = modelfile(".", tokenizer, None, None)
    assert 'SYSTEM """Knowledge ends in 2023\n\n"""\n' in text
    assert 'PARAMETER stop "<|over|>"' in text
    assert 'SYSTEM """Knowledge ends in 2023\n\nbe short"""\n' in modelfile(".", tokenizer, "be short", None)
    tokenizer.chat_template = LLAMA.replace("Knowledge ends in 2023", "")
    assert "TEMPLATE" not in modelfile(".", tokenizer, None, None)
    tokenizer.chat_template = LLAMA.replace("assistant<|stop|>", "assistant<|stop|><think>")  # as reasoners ask
    assert "# a second question is asked with the answers before it" in modelfile(".", tokenizer, None, None)
    strange = make_tokenizer(chat_template="{% for m in messages %}{{ m.content | upper }}{% endfor %}")
    assert "TEMPLATE" not in modelfile(".", strange, None, None)
    for template in (CHATML.replace("<|im_start|>", "{{ '{{' }}"), CHATML.replace("<|im_end|>", '"""')):
        assert "TEMPLATE" not in modelfile(".", make_tokenizer(chat_template=template), None, None)
    text = modelfile(".", make_tokenizer(chat_template=CHATML), 'say """ and\nno more', None)
    assert "SYSTEM" not in text
    assert '# the study\'s system prompt holds """, which no Modelfile can say' in text


@pytest.fixture
def make(tmp_path, monkeypatch, tokenizer_of_the_demo_base):
    monkeypatch.setattr(cpu_speed, "WORTH_ITS_ROUNDING", 0.0)

    def make(family):
        base = save(family, FAMILIES[family][0], tmp_path / family, tokenizer_of_the_demo_base)
        study, _ = train_study(tmp_path / f"{family} study", tmp_path / "cache", model=str(base), load_in_4bit=False,
                               dataset=str(write_rows(tmp_path / "rows.jsonl")))
        return find_outcome(study)
    return make


def quiet(event):
    pass


def test_exports_for_programs_are_whole_or_not_there(make, tmp_path, monkeypatch):
    here = detect({"KAGGLE_RUNNER_CACHE": str(tmp_path / "cache")}, tmp_path / "root")
    llama_cpp = write_llama_cpp(tmp_path / "my llama.cpp")
    llama = make("llama")
    exported = export_gguf(llama, tmp_path / "gguf", here, quiet, llama_cpp=llama_cpp)
    files = {path.name for path in (tmp_path / "gguf").iterdir()}
    assert files == {"model.gguf", "Modelfile", "README.md", "kaggle_runner.json"}
    text = (tmp_path / "gguf" / "README.md").read_text()
    assert "library_name" not in text, "transformers cannot load it"
    assert "gguf" in yaml.safe_load(text.split("---")[1])["tags"]
    assert f"```sh\n{exported.commands[0].replace(str(tmp_path / 'gguf') + '/', '')}\n{exported.commands[1]}\n" \
           f"llama-cli -m model.gguf\n```" in text
    assert "```python" not in text
    assert f"| merged into {exported.taken}, which this was made from |" in text
    assert "- model.gguf is the merged model in 16-bit floats as llama.cpp's converter wrote it, and was" in text
    names = json.loads((tmp_path / "gguf" / "model.gguf").read_bytes()[8:])
    assert "model.layers.1.mlp.down_proj.weight" in names
    assert exported.merged[exported.taken] == pytest.approx(llama.result.metric, abs=1e-5)

    (Path(llama.finetune.model) / "tokenizer.model").write_bytes(b"pieces")
    exported = export_ollama(llama, tmp_path / "ollama", here, quiet, llama_cpp=None)
    assert {"Modelfile", "model.safetensors", "config.json", "tokenizer.model"} <= {
        path.name for path in (tmp_path / "ollama").iterdir()}
    text = (tmp_path / "ollama" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n"), "which loads it, too"
    assert ", which this is |" in text
    assert "```sh\nollama create " in text
    text = (tmp_path / "ollama" / "Modelfile").read_text()
    assert text.startswith('FROM .\nTEMPLATE """{{ if .System }}### Question:\nsystem: {{ .System }}\nuser: {{ else }}')
    assert exported.commands[0] == f"ollama create llama-study-0000 -f {tmp_path / 'ollama' / 'Modelfile'}"

    gpt2, out = make("gpt2"), tmp_path / "out"
    refusals = [
        (lambda: export_gguf(llama, out, here, quiet, llama_cpp=None),
         r"--to gguf needs the converter of llama.cpp; run: git clone .*, and name its folder with --llama-cpp"),
        (lambda: export_gguf(llama, out, here, quiet, llama_cpp=tmp_path),
         r"--llama-cpp .* has no convert_hf_to_gguf.py; give the folder"),
        (lambda: export_ollama(gpt2, out, here, quiet, llama_cpp=None),
         r"--to ollama of GPT2LMHeadModel, which Ollama does not read by itself, needs the converter"),
        (lambda: export_ollama(gpt2, out, here, quiet, llama_cpp=llama_cpp),
         r"NotImplementedError: Architecture 'GPT2LMHeadModel' not supported!; where a newer .*, --to merged takes"),
    ]
    for export, message in refusals:
        with pytest.raises(HostError, match=message):
            export()
    for habit, message in (("nothing", "ended well and wrote no GGUF file"),
                           ("lacks", r"run: pip install gguf_that_is_not_installed$")):
        monkeypatch.setenv("STANDIN", habit)
        with pytest.raises(HostError, match=message):
            export_gguf(llama, out, here, quiet, llama_cpp=llama_cpp)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
