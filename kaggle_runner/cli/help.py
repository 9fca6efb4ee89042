"""What `--help` says beside the commands' own words: the groups they stand in, examples, and the first three."""

from collections.abc import Iterable

import click

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


class Commands(click.Group):
    """The commands in their sections, each with its whole first sentence."""

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
        name = f"{before} {command.name}".strip()
        if name in EXAMPLES:
            lines = "\n".join(f"  python -m kaggle_runner {line}" for line in EXAMPLES[name])
            command.epilog = f"\b\nExamples:\n{lines}"
        if isinstance(command, click.Group):
            add_examples(command.commands.values(), name)


def _first_sentence(command: click.Command) -> str:
    return command.get_short_help_str(limit=1000)
