"""The other stacks, as a competent user would set them up: HF Trainer + peft, TRL's SFTTrainer, Unsloth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
from meter import Meter
from stacks import Outcome, Run

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.training.data.batches import EncodedRows
from kaggle_runner.training.finetune import learning_rate_at
from kaggle_runner.training.models.base_model import compute_dtype_of, model_source


def train_hf(run: Run, config: FinetuneConfig, rows: EncodedRows, meter: Meter) -> Outcome:
    """Train with transformers' Trainer and peft, as their documentation advises for a quantised base."""
    model, tokenizer = _base(config)
    meter.begin()
    transformers.set_seed(config.seed)
    model = peft.get_peft_model(model, peft.LoraConfig(**_lora(config)))
    arguments = transformers.TrainingArguments(**_arguments(run, config))
    return _train(transformers.Trainer, model, arguments, _collator(tokenizer), rows, tokenizer, run, config, meter)


def train_trl(run: Run, config: FinetuneConfig, rows: EncodedRows, meter: Meter) -> Outcome:
    """Train with TRL's SFTTrainer and its own collator; without its default of checkpointing where ours has none."""
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = _base(config)
    meter.begin()
    transformers.set_seed(config.seed)
    model = peft.get_peft_model(model, peft.LoraConfig(**_lora(config)))
    arguments = SFTConfig(**_arguments(run, config), bf16=False, max_length=config.max_length,
                          gradient_checkpointing=config.gradient_checkpointing)
    return _train(SFTTrainer, model, arguments, None, rows, tokenizer, run, config, meter)


def train_unsloth(run: Run, config: FinetuneConfig, rows: EncodedRows, meter: Meter) -> Outcome:
    """Train with Unsloth's model and kernels under HF Trainer; needs CUDA."""
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        model_source(config.model), max_seq_length=config.max_length, dtype=torch.float16,
        load_in_4bit=config.load_in_4bit)
    meter.begin()
    lora = {key: value for key, value in _lora(config).items() if key != "task_type"}
    model = FastLanguageModel.get_peft_model(
        model, **lora, random_state=config.seed,
        use_gradient_checkpointing="unsloth" if config.gradient_checkpointing else False)
    arguments = transformers.TrainingArguments(**_arguments(run, config))
    return _train(transformers.Trainer, model, arguments, _collator(tokenizer), rows, tokenizer, run, config, meter)


def _train(trainer_class: Any, model: Any, arguments: Any, collator: Any, rows: EncodedRows, tokenizer: Any, run: Run,
           config: FinetuneConfig, meter: Meter) -> Outcome:
    """Train with a Trainer, time its optimizer steps, and save the adapter."""

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            meter.step(0)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meter.step(state.global_step)

    # what Trainer makes by default, with the learning rate of ours at every step
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_at(config, min(step, config.max_steps - 1)) / config.learning_rate)
    trainer = trainer_class(
        model=model, args=arguments, data_collator=collator, train_dataset=_dataset(rows, config),
        processing_class=tokenizer, optimizers=(optimizer, schedule), callbacks=[Clock()])
    for parameter in trained:
        parameter.data = parameter.data.float()  # TRL 1.16 has made them bfloat16
    micro_batches: list[tuple[int, int]] = []
    trainer.data_collator = _counted(trainer.data_collator, micro_batches)
    trainer.train()
    meter.end()
    model.save_pretrained(str(Path(run.directory) / "adapter"), save_embedding_layers=False)
    # the loader reads ahead, so there may be one more micro-batch than was trained on
    size = config.gradient_accumulation_steps
    return meter.outcome(run.stack, [micro_batches[step * size:(step + 1) * size] for step in range(config.max_steps)])


def _base(config: FinetuneConfig) -> tuple[Any, Any]:
    source = model_source(config.model)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    dtype = compute_dtype_of(device)
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": str(device)}}
    quantised = getattr(transformers.AutoConfig.from_pretrained(source), "quantization_config", None) is not None
    if config.load_in_4bit and not quantised:
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, **options)
    model.config.use_cache = False
    model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=config.gradient_checkpointing,
                                                 gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # see base_model.py: wrong gradients on some CPUs
            module.support_avx512bf16_for_cpu = False
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _arguments(run: Run, config: FinetuneConfig) -> dict[str, Any]:
    on_gpu = torch.cuda.is_available()
    return {"output_dir": str(Path(run.directory) / "trainer"), "max_steps": config.max_steps, "seed": config.seed,
            "per_device_train_batch_size": config.batch_size,
            "gradient_accumulation_steps": config.gradient_accumulation_steps, "max_grad_norm": config.max_grad_norm,
            "fp16": on_gpu, "use_cpu": not on_gpu, "dataloader_pin_memory": on_gpu, "logging_strategy": "no",
            "save_strategy": "no", "report_to": "none", "disable_tqdm": True}


def _lora(config: FinetuneConfig) -> dict[str, Any]:
    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    return {"task_type": "CAUSAL_LM", "r": config.lora_r, "lora_alpha": config.lora_alpha,
            "lora_dropout": config.lora_dropout, "target_modules": targets}


def _collator(tokenizer: Any) -> Any:
    return transformers.DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100)


def _dataset(rows: EncodedRows, config: FinetuneConfig) -> Any:
    tokens = [rows.row(i).tolist() for i in range(len(rows))]
    learned = [rows.trained_of(i) if config.completion_only_loss else [True] * len(tokens[i]) for i in range(len(rows))]
    return datasets.Dataset.from_dict({
        "input_ids": tokens, "attention_mask": [[1] * len(row) for row in tokens],
        "labels": [[token if counts else -100 for token, counts in zip(row, which, strict=True)]
                   for row, which in zip(tokens, learned, strict=True)]})


def _counted(collator: Callable[[Any], Any], micro_batches: list[tuple[int, int]]) -> Callable[[Any], Any]:
    def collate(features: Any) -> Any:
        real = sum(len(feature["input_ids"]) for feature in features)
        batch = collator(features)
        micro_batches.append((real, batch["input_ids"].numel()))
        return batch

    return collate
