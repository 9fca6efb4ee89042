"""The commands of what comes out of a study: train its winner, take it home, and ask it something."""

import logging
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggle_runner.cli.params import GivenPath, StudyPath
from kaggle_runner.cli.shared import (
    continuing,
    detect_here,
    directory_of,
    not_negative,
    positive,
    print_next,
    print_page,
    print_study,
    refuse_among_rows,
    run_spec,
    tell_launcher,
    typed_command,
    warn_of_no_page,
)
from kaggle_runner.cli.words import as_typed, command, complain, say
from kaggle_runner.errors import INTERRUPTED
from kaggle_runner.files import FACTS_VARIABLE
from kaggle_runner.metrics import GOALS, LOSS, MEASURED, Metric, format_metric
from kaggle_runner.wording import size_text

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from kaggle_runner.events import Notify
    from kaggle_runner.machine.environment import Environment
    from kaggle_runner.model.export import Exported
    from kaggle_runner.model.outcome import Outcome
    from kaggle_runner.model.talk.answers import Conversation
    from kaggle_runner.model.talk.characters import Writer
    from kaggle_runner.study.journal import Snapshot
    from kaggle_runner.study.trial import TrialResult
    from kaggle_runner.sweep.spec import SweepSpec

    Send = Callable[[Path, Notify], str]

ROWS = 5
"""Held-out rows that are asked if nothing else is."""


@click.command()
@click.argument("file", type=GivenPath())
@click.option("--study", type=StudyPath(), help="Directory of the study [studies/NAME, with --full NAME-final].")
@click.option("--full", is_flag=True, help="Train on all rows, on all GPUs together.")
@click.option("--epochs", type=float, callback=positive,
              help="With --full: passes over the rows [the configuration's num_train_epochs, else 1].")
@click.option("--processes", type=click.IntRange(min=1),
              help="With --full: processes that train together [one for each GPU, on a CPU 1].")
@click.option("--metric", type=click.Choice(MEASURED["finetune"]),
              help="With --full: what says which evaluation is the best [the study's, else eval/loss].")
@click.option("--deadline", help="End by then: 8h, 90m, or 2026-01-31T23:30 [the host's limit].")
@click.option("--cpu", is_flag=True, help="Leave the GPU alone.")
def train(file: Path, study: Path | None, full: bool, epochs: float | None, processes: int | None,
          metric: str | None, deadline: str | None, cpu: bool) -> None:
    """Train one configuration without a sweep.

    FILE is a YAML file of hyperparameters, a trial's config.json, or a study: then its winner is trained. With --full
    all rows are trained on, by all GPUs in one training; the same command goes on with it.
    """
    from kaggle_runner.run.final.full_spec import full_spec
    from kaggle_runner.run.final.same_rows import other_rows
    from kaggle_runner.study.best_file import final_name, read_chosen, refuse_trained, study_of
    from kaggle_runner.study.journal import read_study

    spec, name = read_chosen(file)
    source = study_of(file)
    if full:
        known = read_study(source) if source else None
        name = final_name(name)
        by = Metric(name=metric, goal=GOALS[metric]) if metric else known.metric if known else None
        spec = full_spec(spec, epochs, by)
        if not (known and other_rows(known, detect_here().cache_directory)):
            refuse_trained(known, spec.fixed)
        _train_fully(spec, study or _place(name, spec, source), processes, deadline, cpu)
        return
    options = {"epochs": epochs, "processes": processes, "metric": metric}
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise click.UsageError(f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} for --full; give that too")
    run_spec(replace(spec, name=name), study=study or _place(name, spec, source), cpu_only=cpu, deadline=deadline,
             keep=lambda snapshot: _say_other_data(source, snapshot))


def _say_other_data(source: Path | None, snapshot: "Snapshot") -> None:
    """Say that what was trained read other data than the study that chose it."""
    from kaggle_runner.study.journal import read_study
    from kaggle_runner.study.scoring import other_data

    chosen_by = read_study(source) if source else None
    for record in snapshot.records if chosen_by else ():
        if chosen_by and record.result and (why := other_data(chosen_by.directory, chosen_by.records,
                                                              record.trial.params, record.result.hashes)):
            complain(f"warning: {why}")


def _place(name: str, spec: "SweepSpec", source: Path | None) -> Path:
    """Return where what a study chose is trained, and say if it is not where it usually is."""
    from kaggle_runner.study.best_file import place_for

    usual = directory_of(name, detect_here())
    place = usual if source is None else place_for(usual, spec.raw)
    if place != usual:
        complain(f"{usual} has the training of another choice of {source}; this one is trained in {place}")
    return place


def _train_fully(spec: "SweepSpec", directory: Path, processes: int | None, deadline: str | None, cpu: bool) -> None:
    """Run a final training, and print what it came to as the end of a sweep does."""
    from kaggle_runner.cli.progress import display
    from kaggle_runner.machine.deadline import find_deadline
    from kaggle_runner.machine.internet import require_fetched
    from kaggle_runner.run.final.final_training import FinalOrder, run_final
    from kaggle_runner.study.trial import Status

    for warning in spec.warnings:
        complain(f"warning: {warning}")
    environment = detect_here()
    environment.for_training(cpu_only=cpu)
    require_fetched(spec.fetched, environment.host, environment.cache_directory, os.environ)
    refuse_among_rows(directory, spec.fixed.get("dataset"))
    order = FinalOrder(directory=directory, processes=processes, cpu_only=cpu,
                       deadline=find_deadline(deadline, environment, os.environ))
    warn_of_no_page()
    with display(continuing()) as notify:
        run = run_final(spec, order, environment, notify)
    page = print_study(run.snapshot, run.reason)
    exit_status = INTERRUPTED if run.is_unfinished else int(run.result.status is not Status.COMPLETE)
    if exit_status:
        say("next", way_on(run.result, directory, typed_command(), continuing()))
    else:
        print_next(run.snapshot)
    print_page(page)
    tell_launcher(run.reason, exit_status)
    if exit_status:
        sys.exit(exit_status)


def way_on(result: "TrialResult", directory: Path, typed: str, again: str) -> str:
    """Say what to do about a final training that did not end well: the same command, unless that comes to the same.

    `typed` is that command, empty where nobody typed one, and `again` how it is given once more.
    """
    kind = result.notes.get("kind")
    if kind not in ("foreign_rows", "not_finite") or not typed or os.environ.get(FACTS_VARIABLE):
        return again
    from kaggle_runner.study.best_file import place_for
    from kaggle_runner.study.what_next import OWN_WORDS, to_place

    elsewhere = place_for(directory, None)
    if kind == "foreign_rows":
        anew = command(*to_place(shlex.split(typed)[OWN_WORDS:], elsewhere))
        return f"put the rows of then back, and: {typed}; or begin anew: {anew}"
    config = as_typed(directory / "trials" / result.id / "config.json")
    return f"lower learning_rate in a copy of {config}, and: {command('train', 'COPY', '--full', '--study', elsewhere)}"


@click.command()
@click.argument("study", type=StudyPath())
@click.option("--trial", help="Id of the trial [the study's winner].")
@click.option("--to", "kind", type=click.Choice(["adapter", "merged", "gguf", "ollama"]), default="merged",
              show_default=True,
              help="The adapter alone, merged into its base, as one GGUF file, or with a Modelfile for Ollama.")
@click.option("--llama-cpp", type=GivenPath(), help="Folder of a llama.cpp, which makes GGUF files.")
@click.option("--out", type=GivenPath(), help="Folder of the model [STUDY/export/TRIAL-KIND].")
@click.option("--push", metavar="NAME", help="Put it on the Hugging Face hub too, as a private model of this name.")
@click.option("--kaggle", "on_kaggle", is_flag=True, help="Make what --push names on Kaggle, as a private dataset.")
@click.option("--public", is_flag=True, help="Let everybody see what --push makes.")
@click.option("--cpu", is_flag=True, help="Leave the GPU alone.")
def export(study: Path, trial: str | None, kind: str, out: Path | None, llama_cpp: Path | None, push: str | None,
           on_kaggle: bool, public: bool, cpu: bool) -> None:
    """Take the model of a study's winner home, and measure what is taken home."""
    from kaggle_runner.cli.progress import display
    from kaggle_runner.model.marker import is_export_of
    from kaggle_runner.model.outcome import find_outcome, no_adapter_of
    from kaggle_runner.run.signals import interrupts_before_work

    if public and push is None:
        raise click.UsageError("--public is for what --push makes; give --push NAME too")
    if on_kaggle and push is None:
        raise click.UsageError("--kaggle is for what --push makes; give --push NAME too")
    if llama_cpp is not None and kind not in ("gguf", "ollama"):
        raise click.UsageError("--llama-cpp is for --to gguf and --to ollama; give one of them, or leave it out")

    is_whole: list[Callable[[], bool]] = []  # a half model is taken away, and a whole one is no interrupted one
    click.get_current_context().with_resource(interrupts_before_work(complain, lambda: any(ask() for ask in is_whole)))
    outcome = find_outcome(study, trial)
    if outcome.config.trainer == "charlm":  # before imports that take seconds
        raise no_adapter_of(outcome)
    folder = out or study / "export" / f"{outcome.trial.id}-{kind}"
    send = None
    if push is not None:  # checked before a model is made for it
        send = _to_kaggle(push, public=public) if on_kaggle else _to_hub(push, public=public)
    else:
        is_whole.append(lambda: is_export_of(folder, outcome, kind))
    if send is None or not is_export_of(folder, outcome, kind):
        environment = detect_here()
        with display() as notify:
            with _importing():
                from kaggle_runner.model.export import export_adapter, export_merged
                from kaggle_runner.model.local_programs import export_gguf, export_ollama

            if kind in ("gguf", "ollama"):
                exporter = export_gguf if kind == "gguf" else export_ollama
                exported = exporter(outcome, folder, environment, notify, llama_cpp=llama_cpp, cpu_only=cpu)
            else:
                plain = export_adapter if kind == "adapter" else export_merged
                exported = plain(outcome, folder, environment, notify, cpu_only=cpu)
        _print_exported(outcome, exported)
    else:
        click.echo(f"export   {folder}  (made before)")
    if send is not None:
        with display() as notify:
            said = send(folder, notify)
        click.echo(said)


def _to_hub(name: str, *, public: bool) -> "Send":
    """Check a name on the hub, and return what sends a folder there."""
    from kaggle_runner.model.publish import find_target, publish

    target = find_target(name, private=not public)

    def send(folder: Path, notify: "Notify") -> str:
        sent = publish(folder, target, notify)
        return f"hub      {target.url}  ({sent} files sent, all are there)"
    return send


def _to_kaggle(name: str, *, public: bool) -> "Send":
    """Check a name on Kaggle, and return what sends a folder there."""
    from kaggle_runner.events import Note
    from kaggle_runner.kaggle.dataset import find_dataset_target, publish_dataset
    from kaggle_runner.kaggle.program import find_kaggle
    from kaggle_runner.model.marker import MARKER

    target = find_dataset_target(name, find_kaggle(os.environ), MARKER, public=public)

    def send(folder: Path, notify: "Notify") -> str:
        sent = publish_dataset(folder, target, MARKER, lambda text: notify(Note(text=text)))
        return f"kaggle   {target.url}  ({sent} files sent, all are there)"
    return send


def _print_exported(outcome: "Outcome", exported: "Exported") -> None:
    from kaggle_runner.model.card import scores_in_study
    from kaggle_runner.model.measured import OTHER_ROWS

    same = "the same rows" if "data" in outcome.result.hashes else "the held-out rows"  # a study of 0.2 does not tell
    rows = "other rows" if OTHER_ROWS in exported.remarks else same
    metric, scores = outcome.snapshot.metric, scores_in_study(outcome)[1]
    measured = [f"{LOSS} {scores[LOSS]:.6f}"] if LOSS in scores else []  # what the lines below are measured in
    if metric.name != LOSS and metric.name in scores:
        measured.insert(0, f"{metric.name} {format_metric(metric.name, scores[metric.name])}")
    said = f", {', '.join(measured)} in the study" if measured else ""
    click.echo(f"trial    {outcome.trial.id} of {outcome.snapshot.directory}{said}")
    if exported.adapter_loss is not None:
        click.echo(f"adapter  {exported.adapter_loss:.6f} on its base, measured now on {rows}")
    for what, loss in exported.merged.items():
        taken = "  (taken)" if what == exported.taken and len(exported.merged) > 1 else ""
        click.echo(f"merged   {loss:.6f} into {what}{taken}")
    if exported.taken and not exported.merged:
        click.echo(f"merged   into {exported.taken}, not measured")
    click.echo(f"export   {exported.folder}  ({size_text(exported.size)})")
    if exported.load:
        click.echo("python   " + exported.load.replace("\n", "\n         ").replace("         \n", "\n"))
    for line in exported.commands:
        click.echo(f"next     {line}")


@click.command("try")
@click.argument("study", type=StudyPath())
@click.option("--trial", help="Id of the trial [the study's winner].")
@click.option("--prompt", help="What to ask; - reads it from stdin [a chat on a terminal, else held-out rows].")
@click.option("--rows", type=click.IntRange(min=1), help="Ask so many held-out rows [5, where nothing else is asked].")
@click.option("--base", is_flag=True, help="In a chat, have the untouched base answer too.")
@click.option("--system", help="System prompt [the study's].")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True,
              help="Most tokens of an answer.")
@click.option("--temperature", type=float, callback=not_negative,
              help="How freely tokens are drawn; 0 takes the likeliest [0; 1 with --top-p or --seed; 0.8 for a "
                   "character model].")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), callback=positive,
              help="Draw from the likeliest tokens that have this share together [1].")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Seed of the draws [0].")
@click.option("--cpu", is_flag=True, help="Leave the GPU alone.")
def try_(study: Path, trial: str | None, prompt: str | None, rows: int | None, base: bool, system: str | None,
         cpu: bool, temperature: float | None, top_p: float | None, seed: int | None, max_new_tokens: int) -> None:
    """Ask the model of a study's winner, beside its untouched base."""
    from kaggle_runner.cli.conversation import ask_prompt, ask_rows, chat
    from kaggle_runner.cli.progress import display
    from kaggle_runner.model.outcome import find_outcome

    if prompt is not None and rows is not None:
        raise click.UsageError("--prompt and --rows are both given; give one of them")
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode(errors="replace").rstrip("\n")
    if prompt is not None and not prompt.strip():
        raise click.UsageError("--prompt is empty; write what to ask")
    outcome = find_outcome(study, trial)
    of_characters = outcome.config.trainer == "charlm"
    if of_characters and system is not None:
        raise click.UsageError("--system is for fine-tunes; a character model writes on after --prompt")
    environment = detect_here()
    with display() as notify:
        talker = _writer(outcome, environment) if of_characters else _conversation(
            outcome, environment, notify, system=system, cpu_only=cpu)
    if talker.remark:
        click.echo(f"warning: {talker.remark}", err=True)
    from kaggle_runner.model.talk.asking import Sampling

    usual = 0.8 if of_characters else 0.0 if top_p is None and seed is None else 1.0
    sampling = Sampling(temperature=usual if temperature is None else temperature, top_p=top_p or 1.0, seed=seed or 0,
                        max_new_tokens=max_new_tokens)
    click.echo(f"trial    {outcome.trial.id} of {outcome.snapshot.directory}")
    if prompt is not None:
        ask_prompt(talker, prompt, sampling)
    elif rows is None and sys.stdin.isatty():
        chat(talker, sampling, with_base=base)
    else:
        ask_rows(talker, rows or ROWS, sampling)


def _writer(outcome: "Outcome", environment: "Environment") -> "Writer":
    with _importing():
        from kaggle_runner.model.talk.characters import Writer
    return Writer(outcome, environment)


def _conversation(outcome: "Outcome", environment: "Environment", notify: "Notify", **options: Any) -> "Conversation":
    with _importing():
        from kaggle_runner.model.talk.answers import open_conversation
    return open_conversation(outcome, environment, notify, **options)


def _importing() -> "AbstractContextManager[None]":
    """Return the context in which libraries are imported that take seconds."""
    from kaggle_runner.run.worker_process import PATIENT

    for name, value in PATIENT.items():  # read as torch is loaded
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at its import which faster kernels it lacks
    from kaggle_runner.run.worker import importing

    return importing()


COMMANDS = (train, export, try_)
