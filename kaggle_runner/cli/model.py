"""The commands of what comes out of a study: take its winner home, and ask it something."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggle_runner.cli.params import GivenPath, StudyPath
from kaggle_runner.cli.shared import detect_here

if TYPE_CHECKING:
    from kaggle_runner.model.export import Exported
    from kaggle_runner.model.outcome import Outcome


@click.command()
@click.argument("study", type=StudyPath())
@click.option("--trial", help="Id of the trial [the study's winner].")
@click.option("--to", "kind", type=click.Choice(["adapter", "merged"]), default="merged", show_default=True,
              help="The adapter alone, or merged into its base.")
@click.option("--out", type=GivenPath(), help="Folder of the model [STUDY/export/TRIAL-KIND].")
@click.option("--cpu", is_flag=True, help="Leave the GPU alone.")
def export(study: Path, trial: str | None, kind: str, out: Path | None, cpu: bool) -> None:
    """Take the model of a study's winner home, and measure what is taken home."""
    from kaggle_runner.cli.progress import display
    from kaggle_runner.model.outcome import find_outcome

    outcome = find_outcome(study, trial)
    folder = out or study / "export" / f"{outcome.trial.id}-{kind}"
    environment = detect_here()
    with display() as notify:
        from kaggle_runner.model.export import export_adapter, export_merged  # takes seconds to import

        exporter = export_adapter if kind == "adapter" else export_merged
        exported = exporter(outcome, folder, environment, notify, cpu_only=cpu)
    _print_exported(outcome, exported)


def _print_exported(outcome: "Outcome", exported: "Exported") -> None:
    metric = outcome.snapshot.info.metric
    measured = "" if outcome.result.metric is None else f", {metric} {outcome.result.metric:.6f} in the study"
    click.echo(f"trial    {outcome.trial.id} of {outcome.snapshot.directory}{measured}")
    if exported.adapter_loss is not None:
        click.echo(f"adapter  {exported.adapter_loss:.6f} on its base, measured now on the same rows")
    for what, loss in exported.merged.items():
        taken = "  (taken)" if what == exported.taken and len(exported.merged) > 1 else ""
        click.echo(f"merged   {loss:.6f} into {what}{taken}")
    if exported.taken and not exported.merged:
        click.echo(f"merged   into {exported.taken}, not measured")
    click.echo(f"export   {exported.folder}  ({exported.size / 2**20:,.1f} MiB)")
    click.echo("python   " + exported.load.replace("\n", "\n         ").replace("         \n", "\n"))


COMMANDS = (export,)
