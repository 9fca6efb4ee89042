"""What other trainers call our hyperparameters: what to write in their place, and what to leave out."""

from pathlib import Path

import pytest

from kaggle_runner.config import TRAINERS, field_types
from kaggle_runner.errors import SweepError
from kaggle_runner.sweep.aliases import CHARLM_ONLY, WRITE, explain, words
from kaggle_runner.sweep.spec import read_configuration, read_sweep

FINETUNE, CHARLM = (field_types(TRAINERS[name]) for name in ("finetune", "charlm"))
OTHERS = {
    "HF Trainer": "per_device_train_batch_size num_train_epochs warmup_steps evaluation_strategy logging_steps bf16 "
                  "output_dir report_to do_train save_total_limit label_smoothing_factor data_seed",
    "TRL": "max_seq_length packing dataset_text_field assistant_only_loss eval_packing_strategy use_liger "
           "neftune_noise_alpha",
    "LLaMA-Factory": "cutoff_len lora_rank lora_target quantization_bit val_size finetuning_type template stage "
                     "max_samples model_name_or_path overwrite_cache plot_loss",
    "Axolotl": "base_model sequence_len micro_batch_size val_set_size train_on_inputs sample_packing adapter "
               "lora_target_linear wandb_project num_epochs flash_attention load_in_8bit",
    "torchtune": "epochs max_steps_per_epoch enable_activation_checkpointing lora_attn_modules metric_logger recipe",
    "Unsloth": "random_state use_gradient_checkpointing use_rslora loftq_config max_seq_length",
    "Lightning": "max_epochs accumulate_grad_batches gradient_clip_val val_check_interval precision devices "
                 "accelerator log_every_n_steps",
}
"""Names of each, one text; `eval_packing_strategy` is there as one that is not known."""


def test_at_least_a_hundred_names_are_known_and_each_leads_to_a_field_or_out():
    renamed = {name: field for field, names in WRITE.items() for name in names.split()}
    left_out = [name for names in words().leave_out.values() for name in names]
    assert len(renamed) + len(words().special) + len(left_out) > 250
    assert len(left_out) == len(set(left_out))
    assert len(renamed) == sum(len(names.split()) for names in WRITE.values())
    for name, field in renamed.items():
        assert field in FINETUNE, name
        assert name not in FINETUNE, name
        assert explain(name, FINETUNE) == f"write {field}, {words().meanings[field]}"
    for name, answer in words().special.items():
        assert explain(name, FINETUNE) == answer
    for name in left_out:
        assert name not in FINETUNE, name
        assert explain(name, FINETUNE).startswith("leave it out: "), name
    for name, field in CHARLM_ONLY.items():
        assert explain(name, CHARLM).startswith(f"write {field}"), name


@pytest.mark.parametrize("trainer", OTHERS)
def test_the_names_of_other_trainers_are_answered(trainer):
    for name in OTHERS[trainer].split():
        answer = explain(name, FINETUNE)
        assert bool(answer) == (name != "eval_packing_strategy"), name
        assert answer.startswith(("write ", "leave it out: ")) or not answer


@pytest.mark.parametrize(("name", "answer"), [
    ("max_epochs", "write num_train_epochs, the passes over the training rows, in place of max_steps"),
    ("lora_target", "write target_modules, all-linear, or the names of the layers that get an adapter"),
    ("val_set_size", "write eval_share, the share of the rows that is held out, such as 0.05"),
    ("cutoff_len", "write max_length, the tokens in a row, at most"),
    ("wd", "write weight_decay, AdamW's decoupled weight decay"),
    ("bits", "write load_in_4bit, true for 4 bits (NF4), false for 16"),
    ("train_on_inputs", "write completion_only_loss, its opposite: train_on_inputs: false is completion_only_loss: "
                        "true"),
    ("bf16", "leave it out: the dtype follows from the GPU and the model"),
    ("report_to", "leave it out: a study logs by itself, and to W&B as an agent of its sweep"),
    ("optimizer.lr", "write learning_rate, the peak learning rate"),
    ("args/trainer.learning_rate", "write learning_rate"),
    ("--per-device-train-batch-size", "write batch_size, the rows in one forward pass"),
    ("LR", "write learning_rate, the peak learning rate"),
    ("quux", ""),
])
def test_each_is_answered_in_words(name, answer):
    assert explain(name, FINETUNE) == answer


@pytest.mark.parametrize(("name", "answer"), [
    ("epochs", "write max_tokens, the characters that a trial trains on, from which its steps follow"),
    ("n_layer", "write num_hidden_layers, the blocks of the model"),
    ("val_set_size", ""),
    ("lora_rank", ""),
])
def test_a_character_model_has_answers_of_its_own(name, answer):
    assert explain(name, CHARLM) == answer


def test_unknown_names_stand_in_one_finding_and_each_has_an_answer(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("method: random\nparameters:\n  epochs: {value: 3}\n  bf16: {value: true}\n  quux: {value: 1}\n"
                    "  zork: {value: 1}\n  learning_rat: {value: 0.1}\n")
    with pytest.raises(SweepError, match=r"x\.yaml: 1 problem\n") as caught:
        read_sweep(path)
    lines = str(caught.value).splitlines()[1:]
    assert lines == [
        "  parameters: 5 names are no hyperparameters here",
        "    epochs: write num_train_epochs, the passes over the training rows, in place of max_steps",
        "    bf16: leave it out: the dtype follows from the GPU and the model",
        "    quux: leave it out, unless it is columns or max_steps by another name",
        "    zork: leave it out, unless it is lora_r or lora_alpha by another name",
        "    learning_rat: did you mean 'learning_rate'?"]


def test_a_file_of_another_program_is_answered_key_by_key(tmp_path: Path):
    path = tmp_path / "axolotl.yaml"
    path.write_text("base_model: x/y\nnum_epochs: 3\nbf16: auto\nparameters: {learning_rate: {value: 0.1}}\n"
                    "method: random\n")
    with pytest.raises(SweepError, match=r"file: 3 keys are no keys of a sweep file\n"
                                         r"    base_model: write model, the hub id or folder of the base; it belongs "
                                         r"under parameters\n    num_epochs: write num_train_epochs, .*\n"
                                         r"    bf16: leave it out: the dtype"):
        read_sweep(path)


def test_nested_names_are_resolved_by_their_last_part(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("method: random\nparameters: {optim_args: {parameters: {lr: {value: 0.1}, sub: {parameters: {wd: "
                    "{value: 0.0}}}}}}\n")
    with pytest.raises(SweepError, match=r"2 names are no hyperparameters here\n    optim_args\.lr: write "
                                         r"learning_rate, the peak learning rate\n    optim_args\.sub\.wd: write "
                                         r"weight_decay, "):
        read_sweep(path)


def test_a_file_of_one_configuration_is_answered_alike(tmp_path: Path):
    path = tmp_path / "one.yaml"
    path.write_text("epochs: 3\nwd: 0.1\n")
    with pytest.raises(SweepError, match=r"(?s)one\.yaml: 1 problem\n  2 names are no hyperparameters here\n"
                                         r"    epochs: write num_train_epochs.*\n    wd: write weight_decay"):
        read_configuration(path)
