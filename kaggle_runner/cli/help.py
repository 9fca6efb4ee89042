"""What `--help` says beside the commands' own words: the groups they stand in, examples, and the first three; and what
is said of a wrong command line."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import click

from kaggle_runner.cli.params import StudyPath, StudyText, SweepFile, SweepText
from kaggle_runner.cli.words import NARROWEST, complain, flowing, width_of_stderr, wrapped

SECTIONS = (
    ("Start here", ("detect", "dry-run", "preview", "plan")),
    ("Run", ("sweep", "train", "agent")),
    ("Look", ("show", "report")),
    ("Take it home", ("try", "export")),
    ("The tuning lab", ("vary", "tune", "archive", "archived", "restore")),
    ("Kaggle", ("push", "status", "logs", "pull", "stop", "kernel")),
    ("Keys", ("secret",)),
)
"""The commands in the order in which people meet them; one that is in none of these stands under `More`."""

EXAMPLES = {
    "detect": ("detect",),
    "dry-run": ("dry-run", "dry-run sweeps/demo.yaml --count 2 --study studies/two",
                "dry-run mine.yaml --deadline 30m"),
    "preview": ("preview mine.yaml", "preview sweeps/demo.yaml --rows 1"),
    "plan": ("plan mine.yaml", "plan sweeps/lora_t4.yaml --gpu t4 --seconds-per-step 14"),
    "sweep": ("sweep mine.yaml", "sweep mine.yaml --count 20 --deadline 8h", "sweep mine.yaml --backend wandb",
              "sweep mine.yaml --storage postgresql://me@host/sweeps"),
    "train": ("train one.yaml", "train one.yaml --cpu --study studies/one"),
    "agent": ("agent me/my-project/abcd1234", "agent abcd1234 --count 4 --deadline 3h"),
    "show": ("show studies/demo-dry-run", "show studies/demo-dry-run --all", "show studies/demo-dry-run --json"),
    "report": ("report studies/demo-dry-run --open", "report studies/a studies/b --out compared",
               "report me/my-project/abcd1234 --watch"),
    "try": ("try studies/demo-dry-run", "try studies/demo-dry-run --prompt 'What does str.split do?'"),
    "export": ("export studies/demo-dry-run --cpu", "export studies/demo-dry-run --to adapter --out my-adapter",
               "export studies/demo-dry-run --push me/my-model"),
    "vary": ("vary sweeps/charlm_vary.yaml", "vary mine.yaml --study studies/lr --deadline 2h"),
    "tune": ("tune sweeps/charlm_plan_small.yaml", "tune plan.yaml --out hyperparameter_tuning"),
    "archive": ("archive hyperparameter_tuning/0_learning_rate --reason 'wrong text'",),
    "archived": ("archived", "archived studies"),
    "restore": ("restore hyperparameter_tuning/archive_runs/2026-01-31_0_learning_rate",),
    "push": ("push mine.yaml --wait", "push mine.yaml --wait --sessions 3", "push abcd1234 --count 8",
             "push mine.yaml --dry-run --owner me"),
    "status": ("status", "status me/kaggle-runner-mine"),
    "logs": ("logs", "logs -f"),
    "pull": ("pull", "pull me/kaggle-runner-mine --into results"),
    "stop": ("stop abcd1234", "stop abcd1234 --now"),
    "kernel": ("kernel prepare abcd1234", "kernel launcher mine.yaml"),
    "kernel prepare": ("kernel prepare abcd1234", "kernel prepare mine.yaml --folder kernel"),
    "kernel launcher": ("kernel launcher mine.yaml", "kernel launcher abcd1234 --out for_colab.py"),
    "secret": ("secret check", "secret put wandb"),
    "secret put": ("secret put wandb", "secret put huggingface"),
    "secret check": ("secret check",),
}
"""Command -> lines to copy, without `python -m kaggle_runner`."""

FIRST_STEPS = """\
Tune language models on free GPUs. Three commands to begin with:

  python -m kaggle_runner dry-run          A sweep on this CPU, without account.
  python -m kaggle_runner detect           This machine, and what it allows.
  python -m kaggle_runner sweep mine.yaml  Your sweep file, on this machine.

All commands: python -m kaggle_runner --help
"""


LEAST = 52
"""Columns below which click fits nothing any more, and breaks words. Source: click, `HelpFormatter`."""


class Fitted(click.HelpFormatter):
    """Help that a narrow terminal can show too: what an option is for stands below it there."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        columns = shutil.get_terminal_size().columns
        super().__init__(indent_increment, width or (max(NARROWEST, columns) if columns < LEAST else None), max_width)
        self._is_narrow = self.width < LEAST - 2

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write how a command is called."""
        if not self._is_narrow:
            return super().write_usage(prog, args, prefix)
        self.write(wrapped(f"{prefix or 'Usage:'} {prog} {args}", self.width, "", " " * 4) + "\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write names with what they mean."""
        if not self._is_narrow:
            return super().write_dl(rows, col_max, col_spacing)
        indent = " " * self.current_indent
        for name, text in rows:
            shown = wrapped(name.strip().replace("|", "| "), self.width, indent, indent + "  ").replace("| ", "|")
            self.write(f"{shown}\n{flowing(f'{indent}    {text}', self.width, hanging=0)}\n")


class FittedContext(click.Context):
    """The context of a command whose help is `Fitted`."""

    formatter_class = Fitted


class Commands(click.Group):
    """The commands in their sections, each with its whole first sentence."""

    context_class = FittedContext

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        known = {name: command for name in self.list_commands(context)
                 if (command := self.get_command(context, name)) is not None and not command.hidden}
        more = tuple(name for name in known if not any(name in names for _, names in SECTIONS))
        longest = max(map(len, known), default=0)
        for title, names in (*SECTIONS, ("More", more)):
            rows = [(name.ljust(longest), _first_sentence(known[name])) for name in names if name in known]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def add_examples(commands: Iterable[click.Command], before: str = "") -> None:
    """Put the examples below the options of commands, and of the commands in them."""
    for command in commands:
        command.context_class = FittedContext
        command.short_help = _first_sentence(command)  # which click would cut where a terminal is narrow
        name = f"{before} {command.name}".strip()
        if name in EXAMPLES:
            lines = "\n".join(f"  python -m kaggle_runner {line}" for line in EXAMPLES[name])
            command.epilog = f"\b\nExamples:\n{lines}"
        if isinstance(command, click.Group):
            add_examples(command.commands.values(), name)


def _first_sentence(command: click.Command) -> str:
    return command.get_short_help_str(limit=1000)


def tell_usage(error: click.ClickException) -> None:
    """Print what is wrong with a command line, and what is here for an argument that is missing."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context:
        click.echo(context.get_usage(), err=True)
        hint = f"Try '{context.command_path} --help' for help."
        click.echo(wrapped(hint, width_of_stderr() or len(hint)) + "\n", err=True)
    here = _what_is_here(error) if isinstance(error, click.MissingParameter) else ""
    complain(f"Error: {error.format_message()}{f' {here[0].upper()}{here[1:]}' if here else ''}")


def _what_is_here(error: click.MissingParameter) -> str:
    """Name the files or the studies of which one may be given."""
    from kaggle_runner.study.near import MOST, way_to_a_study
    from kaggle_runner.sweep.yaml_file import SHIPPED, shipped_files, ways_to_a_file

    kind, name = error.param.type if error.param else None, error.ctx.command.name if error.ctx else ""
    if name == "restore":
        return "those that can come back: python -m kaggle_runner archived"
    if name == "train":
        return f"give a file of hyperparameters, a trial's config.json, or a study; {way_to_a_study(Path())}"
    if isinstance(kind, StudyPath | StudyText):
        return way_to_a_study(Path())
    if isinstance(kind, SweepFile | SweepText):
        mark = kind.mark if isinstance(kind, SweepFile) else "parameters"
        here = [path for pattern in ("*.y*ml", f"{SHIPPED}/*.y*ml") for path in sorted(Path().glob(pattern))
                if _has(path, mark)]
        or_remote = ", or a sweep on W&B by its ID" if isinstance(kind, SweepText) else ""
        return ways_to_a_file(here[:MOST], shipped_files(mark), mark) + or_remote
    return ""


def _has(path: Path, key: str) -> bool:
    """Say whether a file looks as if it had a key."""
    try:
        return f"\n{key}:" in f"\n{path.read_text(encoding='utf-8', errors='replace')}"
    except OSError:
        return False
