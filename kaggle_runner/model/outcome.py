"""Which trial of a study is taken home: its configuration, its adapter, and what the record says of it."""

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from kaggle_runner.config import CharLMConfig, Config, FinetuneConfig, config_from_params
from kaggle_runner.errors import ConfigError, StudyError
from kaggle_runner.files import folder_name
from kaggle_runner.study.journal import Snapshot, read_study
from kaggle_runner.study.noise import confirming_name
from kaggle_runner.study.trial import Status, Trial, TrialRecord, TrialResult
from kaggle_runner.study.weights import ADAPTER_FILES, WEIGHTS, adapter_digest, weights_here

AS_IT_RAN = ("batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "max_steps", "num_train_epochs")
"""The hyperparameters in which what a trial was really trained with may differ from what the sweep chose."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One complete trial of a study."""

    snapshot: Snapshot
    trial: Trial
    result: TrialResult
    config: Config
    """What it was really trained with."""
    directory: Path
    """Where what it trained lies: its own folder, or that of the trial whose result it took."""

    @property
    def finetune(self) -> FinetuneConfig:
        """The configuration of a fine-tune.

        Raises:
            StudyError: it is none.
        """
        if not isinstance(self.config, FinetuneConfig):
            raise no_adapter_of(self)
        return self.config

    @property
    def adapter(self) -> Path:
        """The folder of the adapter, in peft's format; its digest is compared with the record's.

        Raises:
            StudyError: it is none, or it is not there, or it is not what was trained.
        """
        if not isinstance(self.config, FinetuneConfig):
            raise no_adapter_of(self)
        folder = self.directory / "adapter"
        missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
        if missing:
            raise StudyError(f"trial {self.trial.id} has no adapter here: {folder} lacks "
                             f"{' and '.join(missing)}; copy it there, or train it again: {self.again}")
        recorded = self.result.hashes.get("adapter_files")  # a study of 0.2 has none
        if recorded is not None and adapter_digest(folder) != recorded:
            raise StudyError(f"the adapter of trial {self.trial.id} is damaged: {folder} is not what was trained, by "
                             f"its digest in the record; restore it from a copy, or train it again: "
                             f"{self.again}")
        return folder

    @property
    def cpu_threads(self) -> int | None:
        """The CPU threads that it chose to train on; none for a trial on a GPU, or one of an unknown machine."""
        threads = self.result.notes.get("threads")
        on_gpu = any(session.get("gpus") for session in self.snapshot.sessions)
        return None if on_gpu or not isinstance(threads, int) else threads

    @property
    def name(self) -> str:
        """A name for what is made of it."""
        return folder_name(f"{self.snapshot.directory.resolve().name}-{self.trial.id}")

    @property
    def again(self) -> str:
        """The command that trains it once more."""
        config, best = self.snapshot.directory / "trials" / self.trial.id / "config.json", self.snapshot.best
        is_copy = not config.is_file() and best is not None and best.trial.id == self.trial.id  # of a shared study
        return f"python -m kaggle_runner train {shlex.quote(str(self.snapshot.directory if is_copy else config))}"


def find_outcome(study: Path, trial_id: str | None = None) -> Outcome:
    """Return the winner of a study, or the complete trial of an id.

    Raises:
        StudyError: no study, no complete trial, no such trial, or one that was not trained to its end.
    """
    snapshot = read_study(study)
    record = snapshot.best if trial_id is None else _named(snapshot, trial_id)
    if record is None or record.result is None:
        raise StudyError(f"no trial of {study} is complete, so there is no model to take home; run the command that "
                         f"made it again to go on with it")
    directory = study / "trials" / str(record.result.notes.get("repeat_of") or record.trial.id)
    try:
        written = json.loads((study / "trials" / record.trial.id / "config.json").read_text(encoding="utf-8"))
        config = config_from_params(written)
        chosen = record.trial.config
        same = {name: getattr(chosen, name) for name in AS_IT_RAN if name in chosen.as_dict()}
        if type(config) is not type(chosen) or dataclasses.replace(config, **same) != chosen:
            config = chosen  # damaged, or edited since
    except (OSError, ValueError, AttributeError, ConfigError):
        config = record.trial.config
    return Outcome(snapshot=snapshot, trial=record.trial, result=record.result, config=config, directory=directory)


def no_adapter_of(outcome: Outcome) -> StudyError:
    """Say that a trial is of a character model, of which there is nothing to export."""
    study = shlex.quote(str(outcome.snapshot.directory))
    return StudyError(f"{outcome.snapshot.directory} holds {outcome.config.trainer} models, which transformers does "
                      f"not know: there is no adapter, and export is for fine-tunes; the weights are "
                      f"{outcome.directory / WEIGHTS}, and this has them write: python -m kaggle_runner try {study}")


def weights_of(outcome: Outcome) -> tuple[Path, CharLMConfig, str]:
    """Return the weights of a character model, what it was trained with, and a remark where another seed made them.

    Raises:
        StudyError: they were not kept.
    """
    snapshot = outcome.snapshot
    record = next(record for record in snapshot.records if record.trial.id == outcome.trial.id)
    found = weights_here(snapshot, record)
    if isinstance(outcome.config, CharLMConfig) and found:
        path, made = found
        remark = "" if made is record else (f"the weights of trial {outcome.trial.id} were not kept; these are of "
                                            f"{confirming_name(made)}, which confirmed it")
        return path, outcome.config, remark
    others = [one.trial.id for one in snapshot.ranked if weights_here(snapshot, one)]
    have = f"those of trial {', '.join(others)} are here, for --trial; " if others else ""
    raise StudyError(f"trial {outcome.trial.id} kept no weights: there is no {outcome.directory / WEIGHTS}; {have}"
                     f"train it again and try that: {outcome.again}")


def _named(snapshot: Snapshot, trial_id: str) -> TrialRecord:
    complete = [record.trial.id for record in snapshot.records
                if record.result and record.result.status is Status.COMPLETE]
    choose = (f"give one that is complete: {', '.join(complete)}" if complete else
              "run the command that made the study again to go on with it")
    found = next((record for record in snapshot.records if record.trial.id == trial_id), None)
    if found is None:
        raise StudyError(f"{snapshot.directory} has no trial {trial_id!r}; {choose}")
    if found.result is None or found.result.status is not Status.COMPLETE:
        status = found.result.status.value if found.result else "not at its end"
        reason = f" ({found.result.reason})" if found.result and found.result.reason else ""
        raise StudyError(f"trial {trial_id} is {status}{reason}: it was not trained to its end, and its model is not "
                         f"what the study compares; {choose}")
    return found
