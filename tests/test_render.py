"""Chat templates written after what public ones do: what each makes of a conversation, and what of it is trained."""

import pytest

from kaggle_runner.training.data.render import Renderer
from kaggle_runner.training.data.turns import Row, Turn
from tests.test_tokens import make_tokenizer

CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
CHATML_THAT_STRIPS_THOUGHTS = """{% for m in messages %}{% set text = m.content %}
{%- if m.role == 'assistant' and not loop.last and '</think>' in text %}
{%- set text = text.split('</think>')[-1].lstrip() %}{% endif -%}
<|im_start|>{{ m.role }}
{{ text }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
EMPTY_THOUGHT_BEFORE_THE_LAST = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and loop.last %}<think>

</think>

{% endif %}{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
OPENS_A_THOUGHT = """{% for m in messages %}<|{{ m.role }}|>
{{ m.content }}<end>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
<think>
{% endif %}"""
ALWAYS_OPENS_A_THOUGHT = """{% for m in messages %}<|{{ m.role }}|>
{% if m.role == 'assistant' %}<think>
{% endif %}{{ m.content }}<end>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
<think>
{% endif %}"""
CLOSES_ITS_THOUGHT = """{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>{% endfor %}
{%- if add_generation_prompt %}<|assistant|><think>

</think>

{% endif %}"""
LLAMA_2 = """{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}
{%- set told = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}
{%- else %}{% set rest = messages %}{% set told = '' %}{% endif %}
{%- for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}{% endif %}
{%- if m.role == 'user' %}
{{- bos_token + '[INST] ' + (told if loop.index0 == 0 else '') + m.content.strip() + ' [/INST]' }}
{%- else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
LLAMA_3 = """{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}
{{- raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
MISTRAL = """{% if messages[0].role == 'system' %}{% set told = messages[0].content %}{% set rest = messages[1:] %}
{%- else %}{% set told = '' %}{% set rest = messages %}{% endif %}{{ bos_token }}
{%- for m in rest %}{% if m.role == 'user' %}[INST] {% if loop.revindex0 <= 1 and told %}{{ told }}

{% endif %}{{ m.content }}[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"""
PHI_3 = """{% for m in messages %}<|{{ m.role }}|>
{{ m.content }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% else %}{{ eos_token }}{% endif %}"""
ZEPHYR = """{% for m in messages %}<|{{ m.role }}|>
{{ m.content + eos_token }}
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
VICUNA = """{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}
{% elif m.role == 'user' %}USER: {{ m.content }}
{% elif m.role == 'assistant' %}ASSISTANT: {{ m.content }}</s>
{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"""
KNOWS_TWO_ROLES = """{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}
{% elif m.role == 'assistant' %}A: {{ m.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}A: {% endif %}"""
SHOWS_TOOLS = """{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>
{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}
{%- for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}<end>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
ANSWERS_WITH_A_NAME = """{% for m in messages %}{{ 'bot' if m.role == 'assistant' else m.role }}> {{ m.content }}
{% endfor %}{% if add_generation_prompt %}bot> {% endif %}"""

TWO = [("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d")]
TOLD = [("system", "Be brief."), *TWO]
THOUGHT = [("user", "a?"), ("assistant", "<think>\nhm\n</think>\n\nb")]
CALL = '[{"type": "function", "function": {"name": "add", "arguments": {"x": "1"}}}]'
TOOLS = '[{"type": "function", "function": {"name": "add", "parameters": {}}}]'
USES_A_TOOL = [("user", "a?"), ("assistant", "", CALL), ("tool", "2"), ("assistant", "d")]


def pieces_of(template, turns, *, train_on="all", given=0, tools="", bos=False):
    renderer = Renderer(make_tokenizer(bos=bos, chat_template=template), train_on=train_on)
    return renderer.pieces(Row(turns=tuple(Turn(*turn) for turn in turns), given=given, tools=tools))


@pytest.mark.parametrize(("template", "turns", "trained"), [
    (CHATML, TWO, ["b<|im_end|>", "d<|im_end|>"]),
    (CHATML, TOLD, ["b<|im_end|>", "d<|im_end|>"]),
    (CHATML, [("developer", "Be brief."), *TWO], ["b<|im_end|>", "d<|im_end|>"]),
    (CHATML, [("user", "a?"), ("assistant", "b"), ("assistant", "d")], ["b<|im_end|>", "d<|im_end|>"]),
    (CHATML, [("user", "assistant"), ("assistant", "assistant"), ("user", "user"), ("assistant", "user")],
     ["assistant<|im_end|>", "user<|im_end|>"]),
    (CHATML, [("user", "a?"), ("assistant", "b<end>")], ["b<|im_end|>"]),
    (EMPTY_THOUGHT_BEFORE_THE_LAST, TWO, ["b<|im_end|>", "<think>\n\n</think>\n\nd<|im_end|>"]),
    (CHATML_THAT_STRIPS_THOUGHTS, THOUGHT, ["<think>\nhm\n</think>\n\nb<|im_end|>"]),
    (OPENS_A_THOUGHT, TWO, ["b<end>", "d<end>"]),
    (OPENS_A_THOUGHT, THOUGHT, ["hm\n</think>\n\nb<end>"]),
    (CLOSES_ITS_THOUGHT, TWO, ["b<end>", "d<end>"]),
    (LLAMA_2, TWO, [" b <end>", " d <end>"]),
    (LLAMA_2, TOLD, [" b <end>", " d <end>"]),
    (LLAMA_3, TOLD, ["b<|eot_id|>", "d<|eot_id|>"]),
    (GEMMA, TOLD, ["b<end_of_turn>", "d<end_of_turn>"]),
    (MISTRAL, TOLD, [" b</s>", " d</s>"]),
    (PHI_3, TWO, ["b<|end|>", "d<|end|>\n<end>"]),
    (ZEPHYR, TOLD, ["\nb<end>", "\nd<end>"]),
    (VICUNA, TOLD, [" b</s>", " d</s>"]),
    (ANSWERS_WITH_A_NAME, TWO, ["b", "d"]),
    (SHOWS_TOOLS, USES_A_TOOL, ['<call>{"name": "add", "arguments": {"x": "1"}}</call><end>', "d<end>"]),
    (CHATML, USES_A_TOOL, [CALL + "<|im_end|>", "d<|im_end|>"]),
    (None, TWO, ["b<end>", "d"]),
])
def test_every_answer_is_trained_with_what_closes_it(template, turns, trained):
    pieces = pieces_of(template, turns)
    assert [piece.text for piece in pieces if piece.is_trained] == trained
    text = "".join(piece.text for piece in pieces)
    assert all(word in text for role, word, *_ in turns if role in ("system", "user", "tool", "developer"))
    assert [piece.text for piece in pieces_of(template, turns, train_on="last") if piece.is_trained] == trained[-1:]


@pytest.mark.parametrize(("template", "turns", "tools", "reason"), [
    (KNOWS_TWO_ROLES, TOLD, "", None),
    (KNOWS_TWO_ROLES, [("user", "a?"), ("tool", "42"), ("assistant", "d")], "",
     "tool turn dropped by the chat template"),
    (CHATML_THAT_STRIPS_THOUGHTS, [*THOUGHT, ("user", "c?"), ("assistant", "d")], "",
     "assistant turn dropped by the chat template"),
    (LLAMA_2, [("user", "a?"), ("user", "b?"), ("assistant", "d")], "", "refused by the chat template"),
    (ALWAYS_OPENS_A_THOUGHT, TWO, "", "answer inside a tag that the chat template opens and nothing closes"),
    ("{{ messages[0].content + 1 }}", TWO, "", "refused by the chat template"),
    (SHOWS_TOOLS, USES_A_TOOL, TOOLS, None),
    (CHATML, USES_A_TOOL, TOOLS, None),
    (None, USES_A_TOOL, TOOLS, None),
])
def test_a_row_is_lost_only_where_a_turn_cannot_be_shown(template, turns, tools, reason):
    found = pieces_of(template, turns, tools=tools)
    if reason is None:
        text = "".join(piece.text for piece in found)
        assert all(word in text for _, word, *_ in turns)
        assert "add" in text or not tools
    else:
        assert found == reason


@pytest.mark.parametrize(("template", "turns", "texts"), [
    (CHATML, [("user", "<s>[INST] a? [/INST]"), ("assistant", "b")], ["<s>[INST] a? [/INST]", "b"]),
    (CHATML, [("assistant", "<s>once upon a time")], ["", "<s>once upon a time"]),
    (CHATML, [("assistant", "once upon a time")], ["<s>", "once upon a time"]),
    (None, [("user", "<s>a?"), ("assistant", "b")], ["<s>a?", "b"]),
    (CHATML, [("user", "what is <s>this</s> in HTML?"), ("assistant", "b")],
     ["<|im_start|>user\nwhat is <s>this</s> in HTML?<|im_end|>\n<|im_start|>assistant\n", "b<|im_end|>"]),
])
def test_text_that_is_ready_is_not_written_again(template, turns, texts):
    assert [piece.text for piece in pieces_of(template, turns, bos=True)] == texts


def test_answers_that_are_given_are_not_trained():
    pieces = pieces_of(CHATML, TWO, given=3)
    assert [piece.text for piece in pieces if piece.is_trained] == ["d<|im_end|>"]


@pytest.mark.parametrize("template", [None, CHATML, LLAMA_2, LLAMA_3, GEMMA, "{{ raise_exception('not today') }}"])
def test_a_question_is_found_in_what_is_written_around_it(template):
    renderer = Renderer(make_tokenizer(bos=True, chat_template=template), train_on="all")
    if template and "not today" in template:
        assert renderer.question_in("What?") == "What?"
        return
    assert renderer.question_in(renderer.asking([Turn("user", "What?\nAnd • why?")])) == "What?\nAnd • why?"
    assert renderer.question_in("a text without a question") == "a text without a question"
    told = renderer.question_in(renderer.asking([Turn("system", "Be brief."), Turn("user", "What?")]))
    assert "Be brief." in told
    assert "What?" in told
