"""The tokenizer that goes with a model, with the chat template that it was trained with."""

from pathlib import Path
from typing import Any

from kaggle_runner.training.data.render import ANSWER, QUESTION, bos_of

PLAIN_CHAT = """\
{%- set seen = namespace(lines=[], one='', role='') -%}
BOS
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{%- if seen.lines -%}
{{- QUESTION + (seen.one if seen.lines | length == 1 and seen.role == 'user' else seen.lines | join('\\n')) + ANSWER -}}
{%- endif -%}
{{- message.content + eos_token -}}
{%- if not loop.last -%}{{- '\\n\\n' -}}{%- endif -%}
{%- set seen.lines = [] -%}
{%- else -%}
{%- set seen.lines = seen.lines + [message.role + ': ' + message.content] -%}
{%- set seen.one = message.content -%}
{%- set seen.role = message.role -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and seen.lines -%}
{{- QUESTION + (seen.one if seen.lines | length == 1 and seen.role == 'user' else seen.lines | join('\\n')) + ANSWER -}}
{%- endif -%}
"""
"""The plain format as a chat template: what rows are written with where a tokenizer has none."""


def with_template(tokenizer: Any) -> Any:
    """Give a tokenizer without a chat template the plain format that its rows were trained in; returns the same one."""
    if tokenizer.chat_template is None:
        begin = "{{- bos_token -}}" if bos_of(tokenizer) else ""
        text = PLAIN_CHAT.replace("BOS", begin).replace("QUESTION", repr(QUESTION)).replace("ANSWER", repr(ANSWER))
        if tokenizer.eos_token is None:
            text = text.replace(" + eos_token", "")
        tokenizer.chat_template = text
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer with its chat template."""
    with_template(tokenizer).save_pretrained(str(folder))
