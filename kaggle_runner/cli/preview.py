"""The command that shows rows: what the model will see of them, before a GPU minute is spent."""

import json
from pathlib import Path

import click

from kaggle_runner.cli.params import SweepFile
from kaggle_runner.cli.shared import detect_here
from kaggle_runner.cli.words import complain, flowing, has_colours, say, width_of

_BEGIN, _END = "\1", "\2"
"""Signs around what is trained, while lines are broken."""


@click.command()
@click.argument("file", type=SweepFile())
@click.option("--rows", type=click.IntRange(min=0), default=3, show_default=True, help="Training rows to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def preview(file: Path, rows: int, as_json: bool) -> None:
    """Show a sweep's rows as the model will see them; needs no weights and no GPU.

    What counts in the loss is coloured, or stands in [brackets] where the output is no terminal with colours.
    """
    from kaggle_runner.config import FinetuneConfig
    from kaggle_runner.errors import ConfigError
    from kaggle_runner.sweep.spec import read_sweep

    spec = read_sweep(file)
    if spec.trainer != FinetuneConfig.trainer:
        raise ConfigError(f"{spec.source} trains {spec.trainer} models on text, not on rows; only the rows of "
                          f"fine-tunes are shown")
    config = FinetuneConfig.from_params(spec.typical())
    from kaggle_runner.training.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(config)
    from kaggle_runner.training.data.preview import preview as preview_rows

    found = preview_rows(config, tokenizer, cache_directory=detect_here().cache_directory, examples=rows)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        for label, text in found.as_lines():
            say(label, text, column=10)
        for number, example in enumerate(found.examples, start=1):
            click.echo(f"\n--- row {number}")
            click.echo(_marked(flowing("".join(f"{_BEGIN}{part.text}{_END}" if part.is_trained else part.text
                                               for part in example), width_of(), hanging=0)))
        for warning in found.warnings:
            complain(f"warning: {warning}")
    found.account.require(config.max_lost_share, found.source)


def _marked(text: str) -> str:
    """Put the signs in for where what is trained begins and ends."""
    begin, end = click.style("\0", fg="green").split("\0") if has_colours() else "[]"
    return text.replace(_BEGIN, begin).replace(_END, end)


COMMANDS = (preview,)
