"""What other trainers call our hyperparameters, and what of theirs is not needed here; only for messages.

People bring files of HF Trainer, TRL, LLaMA-Factory, Axolotl, torchtune, Unsloth and Lightning. The nearest spelling of
such a name is often another thing (`max_epochs` is not `max_steps`), so their names are looked up before they are
compared.

Source: the argument classes of transformers 5, TRL 1 and LLaMA-Factory, Axolotl's config reference, torchtune's LoRA
recipes, Unsloth's FastLanguageModel and Lightning's Trainer, as documented in 2026.
"""

import difflib
import functools
import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

WRITE = {
    "model": "base_model model_id model_name model_name_or_path model_path pretrained_model_name_or_path pretrained "
             "checkpoint_path",
    "dataset": "data data_path dataset_id dataset_name dataset_path datasets train_dataset train_file train_data "
               "data_files dataset_dir",
    "eval_dataset": "test_datasets test_dataset val_dataset validation_file eval_file eval_data validation_dataset",
    "samples": "max_samples max_train_samples n_samples num_samples train_samples num_train_samples",
    "max_eval_samples": "eval_samples max_val_samples num_eval_samples eval_set_size max_eval_rows",
    "eval_share": "val_set_size val_size test_size validation_split validation_size val_split "
                  "validation_split_percentage test_split_ratio split_train_data",
    "max_length": "cutoff_len cutoff_length max_seq_len max_seq_length max_sequence_length sequence_len seq_len "
                  "seq_length sequence_length model_max_length block_size context_length max_context_length ctx_len",
    "completion_only_loss": "assistant_only_loss train_on_responses_only train_on_completions_only mask_inputs",
    "batch_size": "per_device_train_batch_size micro_batch_size train_batch_size per_gpu_train_batch_size "
                  "train_micro_batch_size_per_gpu device_batch_size bs",
    "gradient_accumulation_steps": "accumulate_grad_batches grad_accum grad_accumulation_steps accumulation_steps "
                                   "gradient_accumulation grad_acc_steps gas",
    "learning_rate": "lr base_lr peak_lr max_lr init_lr learning_rate_init",
    "weight_decay": "wd l2 adam_weight_decay",
    "lr_scheduler_type": "scheduler lr_scheduler lr_schedule lr_scheduler_name lr_decay_style schedule",
    "max_grad_norm": "gradient_clip_val clip_grad_norm gradient_clipping grad_clip clip_norm max_norm grad_norm_clip",
    "num_train_epochs": "epochs num_epochs max_epochs n_epochs train_epochs epoch num_training_epochs",
    "max_steps": "max_train_steps num_train_steps num_training_steps train_steps total_steps max_iters "
                 "max_steps_per_epoch iterations num_steps",
    "eval_steps": "eval_freq eval_interval eval_every evaluation_steps val_check_interval run_val_every_n_steps "
                  "evals_per_epoch check_val_every_n_epoch steps_per_eval",
    "early_stopping_patience": "patience early_stopping early_stopping_rounds",
    "lora_r": "r rank lora_rank adapter_rank lora_dim",
    "lora_alpha": "alpha adapter_alpha",
    "lora_dropout": "dropout lora_drop adapter_dropout",
    "target_modules": "lora_target lora_targets lora_target_modules lora_target_linear lora_modules lora_attn_modules "
                      "apply_lora_to_mlp apply_lora_to_output",
    "load_in_4bit": "bits quantization_bit use_4bit load_4bit quantize quantization",
    "gradient_checkpointing": "use_gradient_checkpointing enable_activation_checkpointing activation_checkpointing "
                              "grad_checkpointing disable_gradient_checkpointing",
    "use_liger_kernel": "enable_liger_kernel use_liger liger_kernel liger_rms_norm liger_rope",
    "optim": "optimizer optimizer_name optimizer_type optim_type",
    "seed": "random_seed random_state rng_seed manual_seed global_seed",
    "trust_remote_code": "allow_remote_code remote_code",
}
"""Our fields with what others call the same thing."""

_WRITE = {name: field for field, names in WRITE.items() for name in names.split()}
CHARLM = {
    "num_train_epochs": "max_tokens", "max_steps": "max_tokens", "eval_steps": "evaluations",
    "max_eval_samples": "max_eval_tokens", "lora_dropout": "dropout",
}
"""What a character model has in place of a fine-tune's fields."""
CHARLM_ONLY = {
    "n_embd": "hidden_size", "d_model": "hidden_size", "embed_dim": "hidden_size", "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers", "num_layers": "num_hidden_layers", "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads", "num_heads": "num_attention_heads", "label_smoothing": "label_smoothing_factor",
    "beta2": "adam_beta2", "min_lr": "min_lr_rate", "activation": "hidden_act", "bias": "use_bias",
}
"""What other trainers of small models call a character model's fields."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """What is said of the names of others."""

    meanings: Mapping[str, str] = field(default_factory=dict)
    """What each of our fields is, in a few words, for those who call it something else."""
    special: Mapping[str, str] = field(default_factory=dict)
    """Names that are not quite one of our fields, with the whole answer."""
    leave_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Why names need no field here, with the names."""


@functools.cache
def words() -> Words:
    """Read them; a launcher leaves them at home, where a file is checked before it is pushed."""
    path = importlib.resources.files("kaggle_runner.sweep") / "shipped" / "aliases.json"
    return Words(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Words()


@functools.cache
def _leave_out() -> Mapping[str, str]:
    return {name: reason for reason, names in words().leave_out.items() for name in names}


def explain(name: object, fields: Iterable[str]) -> str:
    """Say what to write for a name that is no field, or why to leave it out; empty where nothing is known of it.

    A dotted name, or one with dashes as on a command line, is resolved by its last part.
    """
    known = list(fields)
    last = _last_part(name)
    if last in known:
        return f"write {last}"
    word = last.lower()
    if "max_tokens" in known and word in CHARLM_ONLY:
        return _write(CHARLM_ONLY[word])
    special = words().special
    if word in special and re.split(r"[ :,]", special[word])[1] in known:
        return special[word]
    field = _WRITE.get(word, word)
    for candidate in (field, CHARLM.get(field, field)):
        if candidate in known:
            return _write(candidate)
    return f"leave it out: {_leave_out()[word]}" if word in _leave_out() else ""


def explain_all(names: Sequence[object], fields: Iterable[str], what: str) -> str:
    """Say of one name, or of several, that they are no `what`, and the way out of each in a line of its own."""
    known = list(fields)
    ways = [explain(name, known) or _alike(name, known) for name in names]
    if len(names) == 1:
        return f"no such {what}; {ways[0]}"
    lines = [f"{name}: {way}" for name, way in zip(names, ways, strict=True)]
    return "".join([f"{len(names)} names are no {what}s here", *(f"\n    {line}" for line in lines)])


def _alike(name: object, known: Sequence[str]) -> str:
    """Name what is spelled alike, or else the nearest there are."""
    word = _last_part(name)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    others = {other: way for other in (*_WRITE, *words().special, *_leave_out()) if (way := explain(other, known))}
    for other in difflib.get_close_matches(word.lower(), others, n=1, cutoff=0.8):
        return f"if it is {other}, {others[other]}"
    nearest = difflib.get_close_matches(word, known, n=2, cutoff=0.0)
    return f"leave it out, unless it is {' or '.join(nearest)} by another name"


def _last_part(name: object) -> str:
    return re.split(r"[./]", str(name))[-1].strip().lstrip("-").replace("-", "_")


def _write(field: str) -> str:
    meaning = words().meanings.get(field)
    return f"write {field}, {meaning}" if meaning else f"write {field}"
