"""Take a trial's model home for a program on one's own machine: as a GGUF file, or as a folder for Ollama."""

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import transformers

from kaggle_runner.events import Notify, Phase
from kaggle_runner.machine.environment import Environment
from kaggle_runner.model.card import Facts, card
from kaggle_runner.model.export import THIS, Exported, export_merged
from kaggle_runner.model.gguf import convert, find_converter
from kaggle_runner.model.marker import MARKER, write_marker
from kaggle_runner.model.measured import check_base
from kaggle_runner.model.new_folder import new_folder, require_new
from kaggle_runner.model.ollama import READ_BY_OLLAMA, modelfile
from kaggle_runner.model.outcome import Outcome

GGUF = "model.gguf"


def export_gguf(outcome: Outcome, out: Path, environment: Environment, notify: Notify, *, llama_cpp: Path | None,
                cpu_only: bool = False) -> Exported:
    """Write a trial's merged model as a GGUF file, with a Modelfile for Ollama beside it.

    Raises:
        HostError: there is no converter, or it fails.
        StudyError, ModelError: as `export_merged`.
    """
    return _export(outcome, out, environment, notify, find_converter(llama_cpp, "--to gguf"), "gguf", cpu_only=cpu_only)


def export_ollama(outcome: Outcome, out: Path, environment: Environment, notify: Notify, *, llama_cpp: Path | None,
                  cpu_only: bool = False) -> Exported:
    """Write a folder that `ollama create` takes: safetensors where Ollama reads the family by itself, else a GGUF.

    The merged model and not base and adapter: Ollama would put the adapter on another quantisation of the base than
    the one that it was trained on, and nobody would have measured that.

    Raises:
        HostError: the family needs a converter, and there is none, or it fails.
        StudyError, ModelError: as `export_merged`.
    """
    require_new(out)
    settings, _ = transformers.PreTrainedConfig.get_config_dict(check_base(outcome))
    families = settings.get("architectures") or ["this family"]
    converter = None
    if llama_cpp is not None or families[0] not in READ_BY_OLLAMA:
        converter = find_converter(llama_cpp, f"--to ollama of {families[0]}, which Ollama does not read by itself,")
    return _export(outcome, out, environment, notify, converter, "ollama", cpu_only=cpu_only)


def _export(outcome: Outcome, out: Path, environment: Environment, notify: Notify, converter: Path | None, kind: str, *,
            cpu_only: bool) -> Exported:
    require_new(out)
    with new_folder(out) as folder:
        merged = folder / "merged"
        exported = export_merged(outcome, merged, environment, notify, cpu_only=cpu_only,
                                 copies=1 if converter is None else 2)
        tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
        values = json.loads((merged / "config.json").read_text(encoding="utf-8"))
        if converter is None:
            weights = "."
            for path in merged.iterdir():
                path.rename(folder / path.name)
        else:
            weights = f"./{GGUF}"
            notify(Phase(phase="convert", text=f"converting with {converter}"))
            convert(converter, merged, folder / GGUF, outcome.name)
        shutil.rmtree(merged)
        (folder / "Modelfile").write_text(modelfile(
            weights, tokenizer, exported.system, values.get("max_position_embeddings")), encoding="utf-8")
        (folder / MARKER).unlink(missing_ok=True)
        write_marker(folder, outcome, kind, exported.merged)
        (folder / "README.md").write_text(card(outcome, _facts(exported, _commands(outcome, "Modelfile"),
                                                               is_gguf=converter is not None)), encoding="utf-8")
    return dataclasses.replace(exported, folder=out, load="", commands=_commands(outcome, str(out / "Modelfile")))


def _commands(outcome: Outcome, file: str) -> tuple[str, ...]:
    name = re.sub(r"[^a-z0-9._-]+", "-", outcome.name.lower()).strip("-._") or "model"
    return f"ollama create {name} -f {shlex.quote(file)}", f"ollama run {name}"


def _facts(exported: Exported, commands: tuple[str, ...], *, is_gguf: bool) -> Facts:
    """Return what a card says of a folder for such programs: nothing but they load a GGUF, which nobody measured."""
    assert exported.facts is not None
    facts = dataclasses.replace(exported.facts, commands=commands)
    if not is_gguf:
        return facts
    return dataclasses.replace(
        facts, library="", load="", commands=(*commands, f"llama-cli -m {GGUF}"), tags=(*facts.tags, "gguf"),
        losses=[(what.replace(THIS, ", which this was made from"), loss) for what, loss in facts.losses],
        remarks=[*facts.remarks, f"{GGUF} is the merged model in 16-bit floats as llama.cpp's converter wrote it, and "
                                 f"was not measured itself"])
