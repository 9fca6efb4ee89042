"""Sweep files made for the tests: each construct of W&B's documentation, what is read of it, and what W&B is sent.

`takes` is W&B's own verdict, recorded from PyPI `sweeps` 0.3.0; `tools/wandb_verdicts.py` asks that package again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kaggle_runner.sweep.distributions import Choice, Fixed, Range
from kaggle_runner.sweep.sections import Hyperband


@dataclass(frozen=True, kw_only=True)
class Made:
    """One file that is read."""

    text: str
    reads: Mapping[str, Any]
    """Fields of the sweep, and its parameters by their names."""
    sent: Mapping[str, Any] = field(default_factory=dict)
    """What is other than in the file when W&B gets it; none stands for a key that is left out."""
    warns: tuple[str, ...] = ()
    """The beginning of each warning."""
    takes: bool = True


@dataclass(frozen=True, kw_only=True)
class Refused:
    """One file that is not read."""

    text: str
    problems: tuple[str, ...]
    takes: bool = False


def of(entry: str, method: str = "random", top: str = "") -> str:
    """Write a file with one entry under parameters, and a searched one where the method needs one."""
    return (f"method: {method}\nmetric: {{name: eval/loss, goal: minimize}}\n{top}"
            f"parameters:\n  seed: {{values: [1, 2]}}\n  {entry}\n")


def top(lines: str, method: str = "random", metric: str = "metric: {name: eval/loss, goal: minimize}\n") -> str:
    """Write a file with these lines at the top."""
    return f"method: {method}\n{metric}{lines}\nparameters:\n  lora_r: {{values: [8, 16]}}\n"


def characters(line: str) -> str:
    """Write a file of a character model whose steps are smaller than the default's."""
    return ("method: grid\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n  trainer: {value: charlm}\n"
            f"  max_length: {{value: 16}}\n  max_tokens: {{value: 2560}}\n  {line}\n")


def ranged(distribution: str, low: float, high: float, **others: float) -> Range:
    return Range(distribution=distribution, low=low, high=high, **others)


def sent(**entries: Any) -> dict[str, Any]:
    """Return the parameters that W&B gets of a file of `of`."""
    return {"parameters": {"seed": {"values": [1, 2]}, **entries}}


DOCUMENTED = (
    "program:", "entity:", "project:", "description:", "name:", "method: random", "method: grid", "method: bayes",
    "metric:", "goal: minimize", "goal: maximize", "target:", "parameters:", "value:", "values:", "distribution:",
    "probabilities:", "min:", "max:", "mu:", "sigma:", " q:", "parameters: {b: {parameters:", "run_cap:", "command:",
    "early_terminate: {type: hyperband", "min_iter:", "max_iter:", " s:", "eta:", "strict:", "${env}", "${interpreter}",
    "${program}", "${args}", "${args_no_boolean_flags}", "${args_no_hyphens}", "${args_json}", "${args_json_file}",
    "${envvar:")
"""What the tables of W&B's page of sweep configuration keys name; the distributions are counted apart.

Source: docs.wandb.ai/models/sweeps/sweep-config-keys.
"""
LR, WD, R = "learning_rate", "weight_decay", "lora_r"
FIRST = "W&B's bayes takes {} for the first value wherever it stands, so W&B gets {}"
WAIT = "scheduler: agents wait until wandb sweep-scheduler runs somewhere"
OPTUNA = "scheduler: {engine: optuna, source: study.py, optimizer: make_study}"
SPACE = "scheduler: {engine: optuna, source: study.py, search_space: space}"

READ: dict[str, Made] = {
    # values
    "constant": Made(text=of("lora_r: {value: 8}"), reads={R: Fixed(value=8)}),
    "constant by name": Made(text=of("lora_r: {distribution: constant, value: 8}"), reads={R: Fixed(value=8)}),
    "categorical": Made(text=of("lora_r: {values: [8, 16]}"), reads={R: Choice(values=(8, 16))}),
    "categorical by name": Made(text=of("lora_r: {distribution: categorical, values: [8, 16]}"),
                                reads={R: Choice(values=(8, 16))}),
    "probabilities": Made(text=of("lora_r: {values: [8, 16], probabilities: [0.25, 0.75]}"),
                          reads={R: Choice(values=(8, 16), probabilities=(0.25, 0.75))}),
    "probabilities by name": Made(
        text=of("lora_r: {distribution: categorical_w_probabilities, values: [8, 16], probabilities: [1, 0]}"),
        reads={R: Choice(values=(8, 16), probabilities=(1, 0))}),
    "probabilities in bayes": Made(
        text=of("lora_r: {values: [8, 16, 32], probabilities: [0.5, 0, 0.5]}", "bayes"),
        reads={R: Choice(values=(8, 32))}, sent=sent(lora_r={"values": [8, 32]}),
        warns=("parameters.lora_r.probabilities: left out, here and for W&B: W&B's bayes fails on them",)),
    "probabilities in a grid": Made(
        text=of("lora_r: {distribution: categorical_w_probabilities, values: [8, 16], probabilities: [0.5, 0.5]}",
                "grid"),
        reads={R: Choice(values=(8, 16))}, sent=sent(lora_r={"values": [8, 16]}),
        warns=("parameters.lora_r.probabilities: left out, here and for W&B: a grid runs every value once",)),
    "false last": Made(text=of("load_in_4bit: {values: [true, false]}", "bayes"),
                       reads={"load_in_4bit": Choice(values=(True, False))},
                       sent=sent(load_in_4bit={"values": [False, True]}),
                       warns=("parameters.load_in_4bit.values: " + FIRST.format("false", "[False, True]"),)),
    "zero in the middle": Made(text=of("weight_decay: {values: [0.1, 0.0, 0.2]}", "bayes"),
                               reads={WD: Choice(values=(0.1, 0.0, 0.2))},
                               sent=sent(weight_decay={"values": [0.0, 0.1, 0.2]}),
                               warns=("parameters.weight_decay.values: " + FIRST.format("0.0", "[0.0, 0.1, 0.2]"),
                                      "parameters.weight_decay.values: is searched in this order")),
    "null last": Made(text=of("early_stopping_patience: {values: [5, null]}", "bayes"),
                      reads={"early_stopping_patience": Choice(values=(5, None))},
                      sent=sent(early_stopping_patience={"values": [None, 5]}),
                      warns=("parameters.early_stopping_patience.values: " + FIRST.format("null", "[None, 5]"),)),
    "false last in a random search": Made(text=of("load_in_4bit: {values: [true, false]}"),
                                          reads={"load_in_4bit": Choice(values=(True, False))}),
    "false last in a grid": Made(text=of("load_in_4bit: {values: [true, false]}", "grid"),
                                 reads={"load_in_4bit": Choice(values=(True, False))}),
    "a whole number beside a fraction": Made(text=of("weight_decay: {values: [0, 0.05]}", "bayes"),
                                             reads={WD: Choice(values=(0.0, 0.05))},
                                             sent=sent(weight_decay={"values": [0.0, 0.05]})),
    "a whole fraction for a whole number": Made(text=of("lora_r: {values: [8, 16.0]}"),
                                                reads={R: Choice(values=(8, 16))},
                                                sent=sent(lora_r={"values": [8, 16]})),
    "lists as values": Made(text=of("target_modules: {values: [all-linear, [q_proj, v_proj]]}"),
                            reads={"target_modules": Choice(values=("all-linear", ["q_proj", "v_proj"]))}),
    "text for numbers": Made(text=of("learning_rate: {values: [1e-5, 2E-4]}"),
                             reads={LR: Choice(values=(1e-5, 2e-4))},
                             sent=sent(learning_rate={"values": [1e-5, 2e-4]}),
                             warns=("parameters.learning_rate.values: '1e-5', '2E-4' are text to YAML, and read as "
                                    "1e-05, 0.0002, which W&B gets too; write 1.0e-5, 2.0e-4",)),
    "a text for a number": Made(text=of("learning_rate: {value: 1e-5}"), reads={LR: Fixed(value=1e-5)},
                                sent=sent(learning_rate={"value": 1e-5}),
                                warns=("parameters.learning_rate.value: '1e-5' is text to YAML, and read as 1e-05",)),
    "a quoted whole number": Made(text=of("lora_r: {values: ['8', 16]}"), reads={R: Choice(values=(8, 16))},
                                  sent=sent(lora_r={"values": [8, 16]}),
                                  warns=("parameters.lora_r.values: '8' is text to YAML",)),
    "words in quotes": Made(text=of("load_in_4bit: {values: ['true', 'False']}", "bayes"),
                            reads={"load_in_4bit": Choice(values=(True, False))},
                            sent=sent(load_in_4bit={"values": [False, True]}),
                            warns=("parameters.load_in_4bit.values: 'true', 'False' are text to YAML, and read as "
                                   "true, false, which W&B gets too; write true, false",
                                   "parameters.load_in_4bit.values: " + FIRST.format("false", "[False, True]"))),
    "numbers for words": Made(text=of("load_in_4bit: {values: [0, 1]}"),
                              reads={"load_in_4bit": Choice(values=(False, True))},
                              sent=sent(load_in_4bit={"values": [False, True]}),
                              warns=("parameters.load_in_4bit.values: 0, 1 are read as false, true, which W&B "
                                     "gets too",)),
    "a number for a word": Made(text=of("load_in_4bit: {value: 1}"), reads={"load_in_4bit": Fixed(value=True)},
                                sent=sent(load_in_4bit={"value": True}),
                                warns=("parameters.load_in_4bit.value: 1 is read as true",)),
    "Python's None": Made(text=of("early_stopping_patience: {values: [None, 5]}"),
                          reads={"early_stopping_patience": Choice(values=(None, 5))},
                          sent=sent(early_stopping_patience={"values": [None, 5]}),
                          warns=("parameters.early_stopping_patience.values: 'None' is text to YAML, and read as null, "
                                 "which W&B gets too; write null",)),
    "Python's None for a name": Made(text=of("eval_dataset: {value: None}"), reads={"eval_dataset": Fixed(value=None)},
                                     sent=sent(eval_dataset={"value": None}),
                                     warns=("parameters.eval_dataset.value: 'None' is text to YAML",)),
    "a zero before a number": Made(text=of("lora_r: {values: [08, 16]}"), reads={R: Choice(values=(8, 16))},
                                   sent=sent(lora_r={"values": [8, 16]}),
                                   warns=("parameters.lora_r.values: '08' is text to YAML, and read as 8, which W&B "
                                          "gets too; write 8",)),
    "an exponent without a sign for a whole number": Made(
        text=of("max_steps: {value: 1.5e3}"), reads={"max_steps": Fixed(value=1500)},
        sent=sent(max_steps={"value": 1500.0}),
        warns=("parameters.max_steps.value: '1.5e3' is text to YAML, and read as 1500.0, which W&B gets too; write "
               "1.5e+3",)),
    # ranges
    "whole ends": Made(text=of("lora_r: {min: 4, max: 32}"), reads={R: ranged("int_uniform", 4, 32)}),
    "fractions": Made(text=of("weight_decay: {min: 0.0, max: 0.1}"), reads={WD: ranged("uniform", 0.0, 0.1)}),
    "mixed ends": Made(text=of("weight_decay: {min: 0, max: 0.1}"), reads={WD: ranged("uniform", 0.0, 0.1)},
                       sent=sent(weight_decay={"min": 0.0, "max": 0.1})),
    "int_uniform": Made(text=of("lora_r: {distribution: int_uniform, min: 4, max: 32}"),
                        reads={R: ranged("int_uniform", 4, 32)}),
    "uniform with mixed ends": Made(text=of("weight_decay: {distribution: uniform, min: 0, max: 0.1}"),
                                    reads={WD: ranged("uniform", 0.0, 0.1)},
                                    sent=sent(weight_decay={"distribution": "uniform", "min": 0.0, "max": 0.1})),
    "uniform with whole ends": Made(text=of("max_grad_norm: {distribution: uniform, min: 1, max: 2}"),
                                    reads={"max_grad_norm": ranged("uniform", 1, 2)}),
    "q_uniform": Made(text=of("lora_r: {distribution: q_uniform, min: 8, max: 32}"),
                      reads={R: ranged("q_uniform", 8, 32)}),
    "q_uniform with q": Made(text=of("lora_r: {distribution: q_uniform, min: 8, max: 32, q: 8}"),
                             reads={R: ranged("q_uniform", 8, 32, q=8)}),
    "log_uniform_values": Made(text=of("learning_rate: {distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-3}"),
                               reads={LR: ranged("log_uniform_values", 1e-5, 1e-3)}),
    "q_log_uniform_values": Made(text=of("lora_r: {distribution: q_log_uniform_values, min: 8, max: 256, q: 8}"),
                                 reads={R: ranged("q_log_uniform_values", 8, 256, q=8)}),
    "inv_log_uniform_values": Made(
        text=of("learning_rate: {distribution: inv_log_uniform_values, min: 1.0e-5, max: 1.0e-3}"),
        reads={LR: ranged("inv_log_uniform_values", 1e-5, 1e-3)}),
    "log_uniform": Made(text=of("learning_rate: {distribution: log_uniform, min: -12, max: -8}"),
                        reads={LR: ranged("log_uniform", -12, -8)}, takes=False,
                        warns=("parameters.learning_rate: min and max of log_uniform are exponents of e",)),
    "q_log_uniform": Made(text=of("lora_r: {distribution: q_log_uniform, min: 1, max: 4, q: 1}"),
                          reads={R: ranged("q_log_uniform", 1, 4, q=1)}, takes=False,
                          warns=("parameters.lora_r: min and max of q_log_uniform are exponents of e",)),
    "inv_log_uniform": Made(text=of("learning_rate: {distribution: inv_log_uniform, min: 8, max: 12}"),
                            reads={LR: ranged("inv_log_uniform", 8, 12)}, takes=False,
                            warns=("parameters.learning_rate: min and max of inv_log_uniform are exponents of e",)),
    "normal": Made(text=of("max_grad_norm: {distribution: normal, mu: 5, sigma: 0.5}"),
                   reads={"max_grad_norm": Range(distribution="normal", mu=5, sigma=0.5)}),
    "q_normal": Made(text=of("lora_r: {distribution: q_normal, mu: 64, sigma: 8, q: 4}"),
                     reads={R: Range(distribution="q_normal", mu=64, sigma=8, q=4)}),
    "log_normal": Made(text=of("learning_rate: {distribution: log_normal, mu: -9, sigma: 0.5}"),
                       reads={LR: Range(distribution="log_normal", mu=-9, sigma=0.5)}),
    "log_normal by its defaults": Made(text=of("max_grad_norm: {distribution: log_normal}"),
                                       reads={"max_grad_norm": Range(distribution="log_normal")}),
    "q_log_normal": Made(text=of("lora_r: {distribution: q_log_normal, mu: 4, sigma: 0.5, q: 1}"),
                         reads={R: Range(distribution="q_log_normal", mu=4, sigma=0.5, q=1)}),
    "beta": Made(text=of("weight_decay: {distribution: beta, a: 2, b: 5}"),
                 reads={WD: Range(distribution="beta", a=2, b=5)}),
    "beta for a share that 1 is not of": Made(
        text=of("lora_dropout: {distribution: beta, a: 0.5, b: 0.5}\n"
                "  learning_rate: {distribution: beta, a: 2, b: 5}"),
        reads={"lora_dropout": Range(distribution="beta", a=0.5, b=0.5),
               "learning_rate": Range(distribution="beta", a=2, b=5)}),
    "q_beta": Made(text=of("weight_decay: {distribution: q_beta, a: 2, b: 5, q: 0.1}"),
                   reads={WD: Range(distribution="q_beta", a=2, b=5, q=0.1)}),
    # parameters inside parameters
    "nested": Made(text=of("optimizer: {parameters: {weight_decay: {values: [0.001, 0]}, learning_rate: {value: 1}}}",
                           "bayes"),
                   reads={WD: Choice(values=(0.001, 0.0)), LR: Fixed(value=1)},
                   sent=sent(optimizer={"parameters": {"weight_decay": {"values": [0.0, 0.001]},
                                                       "learning_rate": {"value": 1}}}),
                   warns=("parameters.weight_decay.values: " + FIRST.format("0.0", "[0.0, 0.001]"),
                          "parameters.weight_decay.values: is searched in this order")),
    "nested twice": Made(text=of("a: {parameters: {b: {parameters: {lora_r: {min: 4, max: 8}}}}}"),
                         reads={R: ranged("int_uniform", 4, 8)}),
    # the top
    "run_cap with a point": Made(text=top("run_cap: 2.0"), reads={"run_cap": 2}, sent={"run_cap": 2}),
    "min_iter": Made(text=top("early_terminate: {type: hyperband, min_iter: 3}"),
                     reads={"early_terminate": Hyperband(min_iter=3)}),
    "min_iter with a point, eta, strict": Made(
        text=top("early_terminate: {type: hyperband, min_iter: 3.0, eta: 2, strict: false}"),
        reads={"early_terminate": Hyperband(min_iter=3, eta=2, strict=False)},
        sent={"early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 2, "strict": False}}),
    "max_iter and s": Made(text=top("early_terminate: {type: hyperband, max_iter: 27, s: 2}"),
                           reads={"early_terminate": Hyperband(max_iter=27, s=2)}),
    "s with a point": Made(text=top("early_terminate: {type: hyperband, max_iter: 27, s: 2.0}"),
                           reads={"early_terminate": Hyperband(max_iter=27, s=2)},
                           sent={"early_terminate": {"type": "hyperband", "max_iter": 27, "s": 2}}),
    "min_iter and s": Made(text=top("early_terminate: {type: hyperband, min_iter: 3, eta: 2, s: 3}"),
                           reads={"early_terminate": Hyperband(min_iter=3, eta=2)},
                           sent={"early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 2}},
                           warns=("early_terminate: s says nothing, min_iter decides",)),
    "min_iter and max_iter": Made(text=top("early_terminate: {type: hyperband, min_iter: 3, max_iter: 27}"),
                                  reads={"early_terminate": Hyperband(min_iter=3)},
                                  sent={"early_terminate": {"type": "hyperband", "min_iter": 3}},
                                  warns=("early_terminate: max_iter says nothing, min_iter decides",)),
    "all three": Made(text=top("early_terminate: {type: hyperband, min_iter: 3, max_iter: 27, s: 2}"),
                      reads={"early_terminate": Hyperband(max_iter=27, s=2)},
                      sent={"early_terminate": {"type": "hyperband", "max_iter": 27, "s": 2}},
                      warns=("early_terminate: min_iter says nothing, W&B goes by max_iter and s",)),
    "cloud controller": Made(text=top("controller: {type: cloud}"), reads={}),
    "local controller": Made(text=top("controller: {type: local}"), reads={}, sent={"controller": None},
                             warns=("controller: a local one gives no trial until wandb controller runs",)),
    "kind": Made(text=top("apiVersion: v1\nkind: sweep"), reads={}),
    "labels": Made(text=top("name: mine\ndescription: words\nproject: p\nentity: e\nprogram: train.py"),
                   reads={"name": "mine"}),
    "macros": Made(text=top("program: train.py\ncommand: ['${env}', '${interpreter}', '${program}', '${args}', "
                            "'${args_no_hyphens}', '${args_no_boolean_flags}', '${args_json}', '${args_json_file}', "
                            "'${envvar:HOME}', --epochs, 3]"), reads={}),
    "macros of Hydra": Made(text=top("program: train.py\ncommand: ['${env}', python3, '${program}', "
                                     "'${args_append_hydra}', '${args_override_hydra}', '${args_no_equals}']"),
                            reads={}),
    "a job of Launch": Made(text=top("job: e/p/job:v0"), reads={}, sent={"job": None},
                            warns=("job: is W&B Launch's",)),
    "an image of Launch": Made(text=top("image_uri: e/image:latest"), reads={}, sent={"image_uri": None},
                               warns=("image_uri: is W&B Launch's",)),
    "target and impute": Made(text=top("", metric="metric: {name: eval/loss, target: 1, impute: worst, "
                                                  "impute_while_running: 'false'}\n"),
                              reads={"target": 1, "goal": "minimize"}),
    "a metric to maximize": Made(text=top("", metric="metric: {name: eval/exact_match, goal: maximize}\n"),
                                 reads={"metric": "eval/exact_match", "goal": "maximize"}),
    "impute best": Made(
        text=top("", metric="metric: {name: eval/loss, impute: best, impute_while_running: latest}\n"),
        reads={"metric": "eval/loss"}, warns=("metric.impute: best makes W&B take a trial that failed",)),
    "no metric": Made(text=top("", metric=""), reads={"metric": "eval/loss", "goal": "minimize"}),
    "scheduler of W&B's engine": Made(text=top("scheduler: {engine: wandb}", "bayes"), reads={"method": "bayes"},
                                      warns=(WAIT,)),
    "scheduler of Optuna": Made(text=top(OPTUNA, "custom"), reads={"method": "custom", R: Choice(values=(8, 16))},
                                warns=(WAIT,)),
    "scheduler with a search space": Made(
        text=f"method: custom\nmetric: {{name: eval/loss}}\n{SPACE}\n", reads={"is_open": True, "parameters": {}},
        warns=(WAIT,)),
    "a cap of what a function names": Made(
        text=f"method: custom\nmetric: {{name: eval/loss}}\n{SPACE}\nrun_cap: 3\n"
             "parameters: {lora_r: {value: 8}}\n",
        reads={"count": None, R: Fixed(value=8)}, warns=(WAIT,)),
    "several metrics": Made(
        text=top(OPTUNA, "custom", "metrics: [{name: eval/token_accuracy, goal: maximize}, {name: eval/loss}]\n"),
        reads={"metric": "eval/token_accuracy", "goal": "maximize"}, warns=(WAIT,)),
    "custom alone": Made(text=top("", "custom"), reads={"method": "custom"},
                         warns=("method: custom leaves the points to a scheduler",)),
    # YAML
    "JSON": Made(text='{"method": "random", "metric": {"name": "eval/loss"}, '
                      '"parameters": {"lora_r": {"values": [8]}}}',
                 reads={R: Choice(values=(8,))}),
    "Windows lines and a mark": Made(text="\ufeff" + top("").replace("\n", "\r\n"),
                                     reads={R: Choice(values=(8, 16))}),
    "yes and no": Made(text=of("load_in_4bit: {values: [no, Yes]}"),
                       reads={"load_in_4bit": Choice(values=(False, True))}),
    "every null": Made(text=of("early_stopping_patience: {values: [~, 5]}\n  eval_max_length: {value: }"),
                       reads={"early_stopping_patience": Choice(values=(None, 5)),
                              "eval_max_length": Fixed(value=None)}),
    "numbers of other bases": Made(text=of("lora_r: {values: [010, 0x10, 0b100000]}"),
                                   reads={R: Choice(values=(8, 16, 32))}),
    "numbers with signs and underscores": Made(text=of("lora_r: {values: [+8, +16]}\n  max_steps: {value: 1_000}"),
                                               reads={R: Choice(values=(8, 16)), "max_steps": Fixed(value=1000)}),
    "minutes": Made(text=of("max_steps: {value: 1:30}"), reads={"max_steps": Fixed(value=90)}),
    "bare points": Made(text=of("weight_decay: {values: [0., .1, 1.]}"), reads={WD: Choice(values=(0.0, 0.1, 1.0))}),
    "tags": Made(text=of('lora_r: {values: [!!int "8", !!int 16]}\n  weight_decay: {value: !!float 0}\n'
                         '  learning_rate: {value: !!float "1e-5"}\n  load_in_4bit: {value: !!bool "true"}'),
                 reads={R: Choice(values=(8, 16)), WD: Fixed(value=0.0), LR: Fixed(value=1e-5),
                        "load_in_4bit": Fixed(value=True)}),
    "marks of a document": Made(text=f"%YAML 1.1\n--- # one\n{top('')}...\n", reads={R: Choice(values=(8, 16))}),
    "folded words": Made(text=top("description: |\n  two\n  lines: here\nname: >-\n  folded\n  name"),
                         reads={"name": "folded name"}),
    "words over lines": Made(text=top("description: words\n  that go on\nname: 'it''s \"one\"' # a remark"),
                             reads={"name": 'it\'s "one"'}),
    "a date for a name": Made(text=top("name: 2024-01-01"), reads={"name": "2024-01-01"},
                              sent={"name": "2024-01-01"}, takes=False),
    "letters of other alphabets": Made(text=top("name: über 好 🎉"), reads={"name": "über 好 🎉"}),
    "merged twice": Made(text=of("lora_r: &a {values: [8, 16]}\n  batch_size: {<<: [&b {distribution: categorical}, "
                                 "{values: [8]}], values: [16]}\n  lora_alpha: {<<: [*a, *b]}"),
                         reads={"lora_alpha": Choice(values=(8, 16)), "batch_size": Choice(values=(16,))}),
    "merged and changed": Made(text=of("lora_r: &a {values: [8, 16]}\n  lora_alpha: {<<: *a, values: [16, 32]}"),
                               reads={"lora_alpha": Choice(values=(16, 32))}),
    "one list for two": Made(text=of("lora_r: {values: &v [8, 16]}\n  lora_alpha: {values: *v}"),
                             reads={R: Choice(values=(8, 16)), "lora_alpha": Choice(values=(8, 16))}),
    "keys with question marks": Made(text="? method\n: random\nmetric: {name: eval/loss}\nparameters:\n"
                                          "  ? lora_r\n  : values: [8, 16]\n", reads={R: Choice(values=(8, 16))}),
    "commas at ends": Made(text=of("lora_r: {values: [8,\n    16,],}"), reads={R: Choice(values=(8, 16))}),
    "dashes under their key": Made(text="method: random\nparameters:\n  lora_r:\n    values:\n    - 8\n    - 16\n",
                                   reads={R: Choice(values=(8, 16))}),
    "macros without quotes": Made(text=top("program: a.py\ncommand:\n- ${env}\n- python\n- ${program}\n- ${args}\n"
                                           "- --flag\n- true\n- 1.5"), reads={}),
    "old lines": Made(text=top("").replace("\n", "\r"), reads={R: Choice(values=(8, 16))}),
    "lists in a list": Made(text=of("target_modules: {values: [[q_proj], [k_proj, v_proj]]}"),
                            reads={"target_modules": Choice(values=(["q_proj"], ["k_proj", "v_proj"]))}),
    "a list for a constant": Made(text=of("target_modules: {value: [q_proj, v_proj]}"),
                                  reads={"target_modules": Fixed(value=["q_proj", "v_proj"])}),
    "an anchor": Made(text=of("lora_r: &a {values: [8, 16]}\n  lora_alpha: {<<: *a}"),
                      reads={"lora_alpha": Choice(values=(8, 16))}),
}

REFUSED: dict[str, Refused] = {
    "an end with a point": Refused(
        text=of("lora_r: {distribution: int_uniform, min: 4.0, max: 32}"), problems=(
            "parameters.lora_r.min: int_uniform takes whole numbers, got 4.0; write 4, or use distribution: uniform",)),
    "ends that are one": Refused(text=of("lora_r: {min: 8, max: 8}"), problems=(
        "parameters.lora_r.min: must be below max, got min 8 and max 8; use value",)),
    "a name that is a number": Refused(text=top("name: 12"), problems=(
        "name: must be text, got 12; put it in quotes",)),
    "words for a whole number": Refused(text=of("lora_r: {values: ['true', 8]}"), takes=True, problems=(
        "parameters.lora_r.values[0]: must be a whole number, got 'true'",)),
    "bayes with nothing to search": Refused(
        text="method: bayes\nmetric: {name: eval/loss}\nparameters: {lora_r: {value: 8}}\n", takes=True, problems=(
            "parameters: nothing to search, every parameter has one value; give one of them values or min and max, or "
            "use method: grid for a single trial",)),
    "kind of another": Refused(text=top("kind: agent"), problems=(
        "kind: must be sweep, got 'agent', which W&B refuses; leave it out",)),
    "controller of another type": Refused(text=top("controller: {type: remote}"), problems=(
        "controller: must be type: cloud or type: local, got {'type': 'remote'}; leave it out",)),
    "controller as text": Refused(text=top("controller: local"), problems=(
        "controller: must be type: cloud or type: local, got 'local'; leave it out",)),
    "a half of a decision": Refused(text=top("early_terminate: {type: hyperband, max_iter: 27, s: 2.5}"), takes=True,
                                    problems=("early_terminate.s: must be a whole number above 0, got 2.5",)),
    "scheduler as text": Refused(text=top("scheduler: optuna", "custom"), problems=(
        "scheduler: must be a mapping, got 'optuna'; write engine: optuna below it",)),
    "scheduler without an engine": Refused(text=top("scheduler: {source: study.py}", "custom"), problems=(
        "scheduler.engine: missing; write wandb, optuna, ax",)),
    "scheduler of another engine": Refused(text=top("scheduler: {engine: optun}", "custom"), problems=(
        "scheduler.engine: no such engine: 'optun'; did you mean 'optuna'?",)),
    "scheduler of another method": Refused(text=top(OPTUNA, "bayes"), problems=(
        "scheduler.engine: optuna takes method custom, and this sweep's is 'bayes'",)),
    "scheduler with a number": Refused(text=top("scheduler: {engine: optuna, source: 3}", "custom"), problems=(
        "scheduler.source: must be text, got 3; put it in quotes",)),
    "scheduler with another key": Refused(text=top("scheduler: {engine: optuna, sauce: a}", "custom"), problems=(
        "scheduler.sauce: no such key; did you mean 'source'?",)),
    "a function of no file": Refused(text=top("scheduler: {engine: optuna, optimizer: f}", "custom"), problems=(
        "scheduler.optimizer: is a function of a file; name that with source",)),
    "scheduler and early_terminate": Refused(
        text=top(f"{OPTUNA}\nearly_terminate: {{type: hyperband, min_iter: 3}}", "custom"), problems=(
            "early_terminate: cannot be used with a scheduler, which ends trials itself; remove one of them",)),
    "scheduler and local controller": Refused(
        text=top(f"{OPTUNA}\ncontroller: {{type: local}}", "custom"), problems=(
            "controller: cannot be used with a scheduler, which ends trials itself; remove one of them",)),
    "metrics and metric": Refused(
        text=top(f"{OPTUNA}\nmetrics: [{{name: eval/loss}}, {{name: eval/bits_per_byte}}]", "custom"), problems=(
            "metrics: cannot be used beside metric; write metric for one of them, or metrics for several",)),
    "metrics of bayes": Refused(
        text=top("", "bayes", "metrics: [{name: eval/loss}, {name: eval/bits_per_byte}]\n"), problems=(
            "metrics: is for method custom, and this sweep's is 'bayes'; write metric with one of them",)),
    "one of several metrics": Refused(text=top(OPTUNA, "custom", "metrics: [{name: eval/loss}]\n"), problems=(
        "metrics: must be a list of two or more, got [{'name': 'eval/loss'}]; write metric for one",)),
    "a metric of another among several": Refused(
        text=top(OPTUNA, "custom", "metrics: [{name: eval/loss}, {name: accuracy, goal: maximize}]\n"), takes=True,
        problems=("metrics[1].name: must be what the trainer reports, eval/loss, eval/exact_match, "
                  "eval/token_accuracy or eval/bits_per_byte, got 'accuracy'; write eval/token_accuracy",)),
    "text for an end": Refused(
        text=of("learning_rate: {distribution: log_uniform_values, min: 1e-5, max: 1.0e-3}"), problems=(
            "parameters.learning_rate.min: '1e-5' is text to YAML; write 1.0e-5",)),
    "more than any": Refused(
        text=of("samples: {values: [10000000000000000000000, 5]}\n  learning_rate: {value: 1e400}",
                top="run_cap: 1.0e+300\n"), takes=True, problems=(
            "parameters.samples.values[0]: 1e+22 is too large for a hyperparameter",
            "parameters.learning_rate.value: '1e400' is text to YAML; write 1.0e+400",
            "run_cap: 1e+300 is too large for a hyperparameter")),
    "an end that the file does not name": Refused(
        text=of("lora_dropout: {distribution: q_beta, a: 2, b: 5, q: 0.1}"), takes=True, problems=(
            "parameters.lora_dropout: the largest value of this q_beta is 1, but lora_dropout must be 0 to below 1, "
            "got 1.0",)),
    "a tail of a distribution without ends": Refused(
        text=of("lora_dropout: {distribution: log_normal, mu: 0, sigma: 1}"), takes=True, problems=(
            "parameters.lora_dropout: one draw in 1000 lies beyond 22, but lora_dropout must be 0 to below 1, "
            "got 22.0; use a distribution with min and max",)),
    "a wrong value, and another one that is fine beside the right one": Refused(
        text=characters("batch_size: {values: [x, 16]}"), takes=True, problems=(
            "parameters.batch_size.values[0]: must be a whole number, got 'x'",)),
    "a wrong value alone": Refused(
        text=characters("batch_size: {value: 0}"), takes=True, problems=(
            "parameters.batch_size.value: must be at least 1, got 0",)),
    "a clash, said with the file's own values": Refused(
        text=characters("batch_size: {value: 512}"), takes=True, problems=(
            "parameters.max_tokens.value: must be at least the 8192 of one step (batch_size 512 x max_length 16), got "
            "2560",)),
    "infinite": Refused(text=of("lora_r: {value: 8}", top="run_cap: .inf\n"), problems=(
        "run_cap: must be a finite number, got inf",)),
    "false for an end": Refused(text=of("weight_decay: {min: false, max: 0.1}"), problems=(
        "parameters.weight_decay.min: must be a number, got false",)),
    "text among metrics": Refused(
        text=top(OPTUNA, "custom", "metrics: [eval/loss, {name: eval/bits_per_byte}]\n"), problems=(
            "metrics[0]: must be a mapping, got 'eval/loss'; write name: eval/loss and goal: minimize below it",)),
    "ends the wrong way": Refused(text=of("lora_r: {min: 16, max: 8}"), problems=(
        "parameters.lora_r.min: must be below max, got min 16 and max 8; swap them",)),
    "values and value": Refused(text=of("lora_r: {value: 8, values: [8]}"), problems=(
        "parameters.lora_r.values: constant takes value; leave it out",)),
    "no values": Refused(text=of("lora_r: {values: []}"), problems=(
        "parameters.lora_r.values: must not be empty; list what to try, or leave the parameter out",)),
    "probabilities too few": Refused(text=of("lora_r: {values: [8, 16], probabilities: [1]}", "bayes"), problems=(
        "parameters.lora_r.probabilities: must be a list with one number for each of the 2 values, got 1",)),
    "another key": Refused(text=top("settings: {a: 1}"), problems=(
        "settings: no such key; known are method, metric, parameters, early_terminate, run_cap, sampler, confirm, "
        "command, controller, metrics, scheduler, program, name, description, project, entity, apiVersion, kind, job, "
        "image_uri",)),
    "no parameters": Refused(text="method: random\nmetric: {name: eval/loss}\n", problems=(
        "parameters: missing; name what to search, such as learning_rate, and what is fixed",)),
    "a file of another program": Refused(
        text="program: train.py\nmethod: random\nparameters:\n  lr: {min: 0.0, max: 0.1}\n  epochs: {value: 3}\n"
             "  hidden_dim: {values: [64, 128]}\n  optimiser: {values: [adam, sgd]}\n  quux: {value: 1}\n", takes=True,
        problems=("parameters: 5 names are no hyperparameters here"
                  "\n    lr: write learning_rate, the peak learning rate"
                  "\n    epochs: write num_train_epochs, the passes over the training rows, in place of max_steps"
                  "\n    hidden_dim: leave it out: the shape of the model is that of the base, and a fine-tune trains "
                  "an adapter on it"
                  "\n    optimiser: did you mean 'optim'?"
                  "\n    quux: leave it out, unless it is columns or max_steps by another name",)),
}
