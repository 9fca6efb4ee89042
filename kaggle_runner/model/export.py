"""Take a trial's model home: as an adapter, or merged into its base; measured before it is called done.

An export is there whole or not at all: it is written beside its place under another name and moved when all of it is
written and measured.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kaggle_runner.events import Note, Notify, Phase
from kaggle_runner.machine.environment import Environment
from kaggle_runner.model.base_files import folder_of_base
from kaggle_runner.model.card import Facts, base_name_of, card, is_of_hub
from kaggle_runner.model.marker import write_marker
from kaggle_runner.model.measured import (
    HeldOut,
    attach_trained,
    check_base,
    device_for,
    device_here,
    held_out_rows,
    load_trained,
    loss_of_merged,
    names_in_4_bits,
    release,
    system_prompt_of,
)
from kaggle_runner.model.merge import MergePlan, merge, plan_merge
from kaggle_runner.model.new_folder import new_folder, require_new, require_space
from kaggle_runner.model.outcome import Outcome
from kaggle_runner.model.tensor_files import SENTENCEPIECE
from kaggle_runner.model.tokenizer_files import save_tokenizer
from kaggle_runner.training.finetune import evaluate

ORIGINAL, TRAINED = "the base as it is stored", "the 4-bit weights that it was trained on"
THIS = ", which this is"
"""What a card says of the one of several ways to merge that was taken."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and what it measures."""

    folder: Path
    adapter_loss: float | None
    """Of the adapter on the base that it was trained on."""
    merged: dict[str, float] = field(default_factory=dict)
    """Loss of each merge that was tried, by what was merged into."""
    taken: str = ""
    """What was merged into; empty for an adapter."""
    remarks: tuple[str, ...] = ()
    load: str = ""
    """Python that loads it; empty where a program of another kind does."""
    system: str | None = None
    """The system prompt that most of the study's rows begin with."""
    commands: tuple[str, ...] = ()
    """What is typed to use it."""
    facts: Facts | None = None
    """What a merged model's card says besides the record."""

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@dataclass(kw_only=True)
class _Measured:
    """The base in memory, and what was measured with it."""

    tokenizer: Any
    held: HeldOut
    adapter_loss: float | None
    in_4_bits: frozenset[str]
    loaded_dtype: torch.dtype
    base_sha256: str
    remarks: list[str]


def export_adapter(outcome: Outcome, out: Path, environment: Environment, notify: Notify, *,
                   cpu_only: bool = False) -> Exported:
    """Write a trial's adapter with its tokenizer, chat template and card.

    Raises:
        StudyError: the adapter is not there, or the folder cannot be made.
        ModelError: its base is gone.
    """
    adapter = outcome.adapter
    require_new(out)
    require_space(out, sum(path.stat().st_size for path in adapter.iterdir()))
    name = base_name_of(check_base(outcome))
    measured = _measure(outcome, device_here(cpu_only), environment, notify)
    if not is_of_hub(name):
        measured.remarks.append(f"its base is the folder {name} of this machine: on another one, write the base's "
                                f"place there into base_model_name_or_path of adapter_config.json")
    load = _load_adapter(out, in_4_bits=bool(measured.in_4_bits))
    with new_folder(out) as folder:
        for path in adapter.iterdir():
            if path.is_file() and path.name != "README.md":  # peft's card is empty
                shutil.copyfile(path, folder / path.name)
        settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = name
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        save_tokenizer(measured.tokenizer, folder)
        losses = [] if measured.adapter_loss is None else [("this adapter, at its export", measured.adapter_loss)]
        (folder / "README.md").write_text(card(outcome, Facts(
            title=outcome.name, base=name, library="peft", losses=losses, remarks=measured.remarks,
            load=_load_adapter(Path(outcome.name), in_4_bits=bool(measured.in_4_bits)),
            base_sha256=measured.base_sha256)), encoding="utf-8")
        write_marker(folder, outcome, "adapter", dict(losses))
    return Exported(folder=out, adapter_loss=measured.adapter_loss, remarks=tuple(measured.remarks), load=load)


def export_merged(outcome: Outcome, out: Path, environment: Environment, notify: Notify, *, cpu_only: bool = False,
                  copies: int = 1) -> Exported:
    """Write a trial's model merged into its base, by whichever way of merging measures better.

    A base that training had in 4 bits can be merged into as it is stored, or as its 4 bits were. Which is better is
    measured on the study's held-out rows. The disk must have room for so many `copies` of it.

    Raises:
        StudyError: the adapter is not there, the folder cannot be made, or the disk is too small.
        ModelError: the base is gone, or its files do not hold what the adapter changes.
    """
    adapter = outcome.adapter
    require_new(out)
    source = check_base(outcome)
    plan = plan_merge(folder_of_base(source, out, copies), adapter)
    require_space(out, plan.size * copies)
    device = device_here(cpu_only)
    measured = _measure(outcome, device, environment, notify)
    candidates = _candidates(plan, measured)
    rows, losses = measured.held.rows, {}
    count = sum(tensor.size // tensor.dtype.itemsize for tensor in _all(plan))
    place, why_not = device_for(count, str(plan.config.get("model_type")), device, environment)
    if rows is None or place is None:
        measured.remarks.append(f"merged into {candidates[-1]}, which is what training saw; "
                                + (why_not or "there are no rows to measure it on"))
        candidates = candidates[-1:]
    with new_folder(out) as folder:
        taken = ""
        for candidate in candidates:
            _write_merged(plan, folder, candidate, measured, device, notify)
            taken = candidate
            if rows is not None and place is not None:
                notify(Phase(phase="eval", text=f"measuring the model merged into {candidate}"))
                losses[candidate] = loss_of_merged(folder, rows, outcome.finetune, place)
        best = min(losses, key=lambda name: losses[name], default=taken)
        if best != taken:
            _write_merged(plan, folder, best, measured, device, notify)
        shown = [*([("the adapter on its base, at the export", measured.adapter_loss)]
                   if measured.adapter_loss is not None else []),
                 *((f"merged into {what}{THIS if what == best else ''}", loss)
                   for what, loss in losses.items())]
        facts = Facts(title=outcome.name, base=base_name_of(source), library="transformers", losses=shown,
                      remarks=measured.remarks, load=_load_merged(Path(outcome.name)), base_sha256=measured.base_sha256)
        (folder / "README.md").write_text(card(outcome, facts), encoding="utf-8")
        write_marker(folder, outcome, "merged", dict(shown))
    return Exported(folder=out, adapter_loss=measured.adapter_loss, merged=losses, taken=best,
                    remarks=tuple(measured.remarks), load=_load_merged(out),
                    system=system_prompt_of(measured.held.data), facts=facts)


def _measure(outcome: Outcome, device: torch.device, environment: Environment, notify: Notify) -> _Measured:
    """Load the base as it was trained on and measure the adapter on it."""
    base = load_trained(outcome, device, notify)
    held = held_out_rows(outcome, base.tokenizer, environment.cache_directory)
    remarks = [held.remark] if held.remark else []
    known = outcome.result.hashes.get("base")
    if known is not None and known != base.sha256:
        remarks.append("the base has changed since the trial was trained on it, so its losses are others")
    in_4_bits, loss = names_in_4_bits(base), None
    loaded = torch.float32 if device.type == "cpu" else base.compute_dtype
    if held.rows is not None:
        notify(Phase(phase="eval", text=f"measuring the adapter on {len(held.rows)} held-out rows"))
        adapted = attach_trained(base, outcome.adapter)
        loss = evaluate(base, held.rows, outcome.finetune)
        adapted.unload()
    measured = _Measured(tokenizer=base.tokenizer, held=held, adapter_loss=loss, in_4_bits=in_4_bits,
                         loaded_dtype=loaded, base_sha256=base.sha256, remarks=remarks)
    del base
    release(device)
    for remark in remarks:
        notify(Note(text=f"warning: {remark}"))
    return measured


def _candidates(plan: MergePlan, measured: _Measured) -> list[str]:
    """Name what can be merged into: a base that is stored in 4 bits has one form only."""
    stored_in_4_bits = any(name.endswith(".quant_map") for name in plan.weights.tensors)
    if stored_in_4_bits:
        return [TRAINED]
    return [ORIGINAL, TRAINED] if measured.in_4_bits else [ORIGINAL]


def _write_merged(plan: MergePlan, folder: Path, candidate: str, measured: _Measured, device: torch.device,
                  notify: Notify) -> None:
    for path in folder.iterdir():
        path.unlink()
    notify(Phase(phase="merge", text=f"merging into {candidate}"))
    merge(plan, folder, quantised=measured.in_4_bits if candidate == TRAINED else (), dtype=measured.loaded_dtype,
          device=device)
    save_tokenizer(measured.tokenizer, folder)
    pieces = plan.weights.folder / SENTENCEPIECE
    if pieces.is_file():
        shutil.copyfile(pieces, folder / SENTENCEPIECE)


def _all(plan: MergePlan) -> Any:
    return plan.tensors(frozenset(), torch.float32, torch.device("cpu"))


def _load_merged(folder: Path) -> str:
    return (f'from transformers import AutoModelForCausalLM, AutoTokenizer\n\n'
            f'model = AutoModelForCausalLM.from_pretrained({_quoted(folder)})\n'
            f'tokenizer = AutoTokenizer.from_pretrained({_quoted(folder)})')


def _quoted(folder: Path) -> str:
    """Write a path as Python has it, whatever is in it."""
    return json.dumps(str(folder), ensure_ascii=False)


def _load_adapter(folder: Path, *, in_4_bits: bool) -> str:
    if not in_4_bits:
        return (f'from peft import AutoPeftModelForCausalLM\n\n'
                f'model = AutoPeftModelForCausalLM.from_pretrained({_quoted(folder)})')
    return (f'import torch\nfrom peft import AutoPeftModelForCausalLM\nfrom transformers import BitsAndBytesConfig\n\n'
            f'four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
            f'bnb_4bit_use_double_quant=True,\n'
            f'                               bnb_4bit_compute_dtype=torch.float16)\n'
            f'model = AutoPeftModelForCausalLM.from_pretrained({_quoted(folder)}, quantization_config=four_bits)')
