"""What other trainers call our hyperparameters, and what of theirs is not needed here; only for messages.

People bring files of HF Trainer, TRL, LLaMA-Factory, Axolotl, torchtune, Unsloth and Lightning. The nearest spelling of
such a name is often another thing (`max_epochs` is not `max_steps`), so their names are looked up before they are
compared.

Source: the argument classes of transformers 5, TRL 1 and LLaMA-Factory, Axolotl's config reference, torchtune's LoRA
recipes, Unsloth's FastLanguageModel and Lightning's Trainer, as documented in 2026.
"""

import difflib
import re
from collections.abc import Iterable, Sequence

MEANINGS = {
    "model": "the hub id or folder of the base",
    "dataset": "the hub id, file or folder of the rows",
    "eval_dataset": "the file or hub id of the held-out rows",
    "samples": "the number of training rows",
    "max_eval_samples": "the number of held-out rows, at most",
    "eval_share": "the share of the rows that is held out, such as 0.05",
    "max_length": "the tokens in a row, at most",
    "completion_only_loss": "true counts the loss on the answers only, false on the prompts too",
    "batch_size": "the rows in one forward pass",
    "gradient_accumulation_steps": "the forward passes for one optimizer step",
    "learning_rate": "the peak learning rate",
    "weight_decay": "AdamW's decoupled weight decay",
    "warmup_ratio": "the share of the steps in which the learning rate rises, such as 0.03",
    "lr_scheduler_type": "cosine, linear or constant",
    "max_grad_norm": "the norm that longer gradients are scaled down to",
    "num_train_epochs": "the passes over the training rows, in place of max_steps",
    "max_steps": "the optimizer steps of a trial",
    "max_tokens": "the characters that a trial trains on, from which its steps follow",
    "eval_steps": "the optimizer steps between two evaluations",
    "evaluations": "the evaluations of a trial",
    "early_stopping_patience": "the evaluations without a new best loss after which a trial ends",
    "lora_r": "the rank of the adapter",
    "lora_alpha": "the adapter's scale, times lora_r",
    "lora_dropout": "the dropout on the adapter's input",
    "dropout": "the dropout of the model",
    "target_modules": "all-linear, or the names of the layers that get an adapter",
    "load_in_4bit": "true for 4 bits (NF4), false for 16",
    "gradient_checkpointing": "true to compute activations twice and save memory",
    "use_liger_kernel": "true for Liger's fused kernels",
    "optim": "adamw_torch, adamw_8bit or paged_adamw_8bit; of a charlm, muon or adamw_torch",
    "seed": "the seed of a trial",
    "hidden_size": "the width of the model",
    "num_hidden_layers": "the blocks of the model",
    "num_attention_heads": "the heads of each attention",
    "label_smoothing_factor": "the share of the target that is spread over all symbols",
    "min_lr_rate": "where the learning rate ends, as a share of its peak",
    "trust_remote_code": "true runs the code that comes with a model",
}
"""What each of our fields is, in a few words, for those who call it something else."""

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

SPECIAL = {
    "warmup_steps": "write warmup_ratio, the share of the steps in which the learning rate rises: warmup_steps divided "
                    "by the steps of a trial",
    "num_warmup_steps": "write warmup_ratio, the share of the steps in which the learning rate rises",
    "lr_warmup_steps": "write warmup_ratio, the share of the steps in which the learning rate rises",
    "warmup": "write warmup_ratio, the share of the steps in which the learning rate rises, such as 0.03",
    "train_on_inputs": "write completion_only_loss, its opposite: train_on_inputs: false is completion_only_loss: true",
    "train_on_prompt": "write completion_only_loss, its opposite: train_on_prompt: false is completion_only_loss: true",
    "train_on_input": "write completion_only_loss, its opposite: train_on_input: false is completion_only_loss: true",
    "mask_prompt": "write completion_only_loss: true, which leaves the prompts out of the loss",
    "load_in_8bit": "write load_in_4bit, true for 4 bits (NF4), false for 16; there is nothing between",
    "load_in_16bit": "write load_in_4bit: false, which keeps the base in 16 bits",
    "lora_alpha_ratio": "write lora_alpha, the ratio times lora_r",
    "effective_batch_size": "write batch_size and gradient_accumulation_steps, whose product it is",
    "global_batch_size": "write batch_size and gradient_accumulation_steps, whose product it is",
    "total_batch_size": "write batch_size and gradient_accumulation_steps, whose product it is",
}
"""Names that are not quite one of our fields, with the whole answer."""

LEAVE_OUT = {
    "the dtype follows from the GPU and the model":
        "bf16 fp16 tf32 bfloat16 float16 dtype torch_dtype precision mixed_precision compute_dtype pure_bf16 "
        "bnb_4bit_compute_dtype fp16_full_eval bf16_full_eval half_precision_backend upcast_layernorm",
    "load_in_4bit is NF4 with double quantisation":
        "bnb_4bit_quant_type bnb_4bit_use_double_quant double_quantization quantization_method quantization_type "
        "quant_type bnb_4bit_quant_storage quantization_config use_nested_quant use_double_quant",
    "a study logs by itself, and to W&B as an agent of its sweep":
        "report_to wandb_project wandb_entity wandb_run_id wandb_name wandb_watch run_name logging_dir log_with "
        "project_name use_wandb metric_logger logger trackio_project",
    "a study has its own folder, named with --study":
        "output_dir overwrite_output_dir output_path save_dir output_folder default_root_dir log_dir",
    "the best adapter of a trial is kept in the study, and nothing is uploaded":
        "push_to_hub hub_model_id hub_token hub_strategy hub_private_repo",
    "losses are logged often enough by themselves":
        "logging_steps logging_strategy logging_first_step log_every_n_steps log_every log_interval log_level "
        "disable_tqdm plot_loss logging_nan_inf_filter include_tokens_per_second include_num_input_tokens_seen",
    "checkpoints are written at every evaluation, and the same command continues from the last one":
        "save_steps save_strategy save_total_limit saves_per_epoch save_safetensors save_only_model save_every "
        "resume_from_checkpoint auto_resume_from_checkpoints enable_checkpointing ckpt_path",
    "the best adapter by the sweep's metric is what is kept":
        "load_best_model_at_end metric_for_best_model greater_is_better save_best",
    "every trial trains, evaluates and ends by itself":
        "do_train do_eval do_predict stage finetuning_type adapter task task_type recipe rl chat_class peft_type "
        "use_peft use_lora lora",
    "evaluations come every eval_steps, and at the end":
        "eval_strategy evaluation_strategy eval_on_start eval_delay num_sanity_val_steps",
    "held-out rows are evaluated in batches as large as a training batch, which no loss depends on":
        "per_device_eval_batch_size eval_batch_size val_batch_size eval_micro_batch_size eval_accumulation_steps",
    "rows of like length are batched together, so there is little padding to save":
        "packing sample_packing eval_sample_packing neat_packing packed group_by_length length_column_name "
        "pad_to_sequence_len pad_to_max_length padding_free packing_strategy padding multipack_real_batches",
    "the rows are tokenised once and kept, and a trial waits for no loader":
        "dataloader_num_workers num_workers preprocessing_num_workers dataset_num_proc dataset_processes num_proc "
        "dataloader_pin_memory dataloader_drop_last dataloader_prefetch_factor pin_memory remove_unused_columns "
        "overwrite_cache dataset_prepared_path streaming preprocessing_batch_size use_cache tokenized_path",
    "each GPU runs trials of its own":
        "ddp_find_unused_parameters ddp_timeout ddp_backend deepspeed fsdp fsdp_config local_rank num_gpus n_gpu "
        "devices num_nodes num_processes accelerator strategy device device_map world_size max_memory "
        "tensor_parallel_size use_cpu no_cuda",
    "the fastest attention that the GPU has is chosen":
        "attn_implementation flash_attention flash_attn use_flash_attention_2 use_flash_attn sdp_attention "
        "xformers_attention flex_attention",
    "compiled kernels do not pay for trials of minutes":
        "compile torch_compile torch_compile_backend torch_compile_mode",
    "the adapter is LoRA on linear layers without biases":
        "bias lora_bias fan_in_fan_out modules_to_save lora_modules_to_save additional_target init_lora_weights "
        "use_dora lora_fan_in_fan_out layers_to_transform layer_replication loftq_config embed_rank",
    "the adapter is scaled by lora_alpha / lora_r, and one learning rate trains it":
        "use_rslora rslora loraplus_lr_ratio loraplus_lr_embedding embedding_learning_rate peft_use_rslora "
        "lora_plus_ratio",
    "AdamW has torch's usual constants":
        "adam_beta1 adam_beta2 adam_epsilon betas eps beta1 beta2 optim_args momentum",
    "eval/loss is the plain one, and noise on the embedding is not built in":
        "neftune_noise_alpha label_smoothing_factor label_smoothing z_loss aux_loss_coef router_aux_loss_coef",
    "cosine and linear end at zero":
        "min_lr min_lr_rate lr_scheduler_kwargs num_cycles cosine_min_lr_ratio lr_end",
    "the tokenizer's own chat template is used, and the columns are recognised":
        "chat_template template prompt_template prompt_style conversation_extension dataset_text_field text_field "
        "formatting_func text_column prompt_format dataset_format default_system",
    "the tokenizer of the model is used, with its own special tokens":
        "tokenizer tokenizer_name tokenizer_path tokenizer_name_or_path use_fast_tokenizer use_fast tokenizer_type "
        "special_tokens resize_vocab eos_token pad_token padding_side add_eos_token",
    "the shape of the model is that of the base, and a fine-tune trains an adapter on it":
        "hidden_size hidden_dim hidden_dims hidden_units hidden_layers hidden_layer_size n_hidden n_embd d_model "
        "embed_dim emb_dim embedding_dim embedding_size num_layers n_layers n_layer num_hidden_layers layers depth "
        "num_heads n_heads n_head nhead num_attention_heads dim_feedforward intermediate_size activation "
        "activation_fn activation_function act_fn hidden_act fc_layer_size layer_size num_filters filters "
        "kernel_size channels conv_channels pooling batch_norm attention_dropout num_classes num_units units",
    "the learning rate follows lr_scheduler_type":
        "gamma lr_gamma lr_decay lr_decay_rate lr_step_size step_size decay_steps lr_patience lr_factor",
    "the trainer is built in, with AdamW":
        "nesterov amsgrad loss loss_fn loss_function criterion algorithm script",
    "rows are text, and are trained on as they are":
        "img_size image_size input_size augmentation augment data_augmentation mixup mixup_alpha cutmix",
    "the rows are shuffled by the trial's seed and drawn by a fixed one":
        "shuffle data_seed shuffle_seed full_determinism shuffle_merged_datasets deterministic",
}
"""Why each of these needs no field here, with the names."""

_WRITE = {name: field for field, names in WRITE.items() for name in names.split()}
_LEAVE_OUT = {name: reason for reason, names in LEAVE_OUT.items() for name in names.split()}
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
    if word in SPECIAL and re.split(r"[ :,]", SPECIAL[word])[1] in known:
        return SPECIAL[word]
    field = _WRITE.get(word, word)
    for candidate in (field, CHARLM.get(field, field)):
        if candidate in known:
            return _write(candidate)
    return f"leave it out: {_LEAVE_OUT[word]}" if word in _LEAVE_OUT else ""


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
    others = {other: way for other in (*_WRITE, *SPECIAL, *_LEAVE_OUT) if (way := explain(other, known))}
    for other in difflib.get_close_matches(word.lower(), others, n=1, cutoff=0.8):
        return f"if it is {other}, {others[other]}"
    nearest = difflib.get_close_matches(word, known, n=2, cutoff=0.0)
    return f"leave it out, unless it is {' or '.join(nearest)} by another name"


def _last_part(name: object) -> str:
    return re.split(r"[./]", str(name))[-1].strip().lstrip("-").replace("-", "_")


def _write(field: str) -> str:
    meaning = MEANINGS.get(field)
    return f"write {field}, {meaning}" if meaning else f"write {field}"
