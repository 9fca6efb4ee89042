"""A tiny plan and what runs it in a process of its own, so that it can be killed."""

import os
import random
import string
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BASELINE = """\
  trainer: charlm
  dataset: {corpus}
  symbols: text8
  max_length: 16
  batch_size: 8
  max_tokens: 3072
  max_eval_tokens: 512
  evaluations: 3
  hidden_size: 16
  num_hidden_layers: 1
  num_attention_heads: 2
  learning_rate: 1.0e-3
"""
TRIAL_ROWS = 24 + 3
"""Rows that a whole trial of it logs: a step each, and three evaluations."""
PLAN = """\
name: tiny
seeds: [1, 2, 3]
baseline:
{baseline}
studies:
  - vary: learning_rate
    note: Order matters most.
    values: [1.0e-3, 2.0e-2]
  - vary: dropout
    values: [0.0, 0.2]
final:
  method: random
  run_cap: 3
  parameters:
    learning_rate: {{distribution: log_uniform_values, min: 1.0e-3, max: 4.0e-2}}
    lr_scheduler_type: {{values: [cosine, linear, constant]}}
"""
RUN = """\
import os, signal, sys
from pathlib import Path
from kaggle_runner.lab.contest import LabOrder
from kaggle_runner.machine.environment import detect
from kaggle_runner.study.pace import Deadline
from kaggle_runner.lab.plan import read_plan
from kaggle_runner.lab.run_plan import run_plan
from dataclasses import replace
environment = replace(detect({}), gpus=(), cache_directory=Path(sys.argv[3]), cpu_count=int(sys.argv[4]))
order = LabOrder(directory=Path(sys.argv[2]), cpu_only=True, deadline=Deadline(at=None, reason="none"))
def notify(event):
    if event.kind == "log" and len(sys.argv) > 5:
        place, rows, most = sys.argv[5], int(sys.argv[6]), int(sys.argv[7])
        written = [path.read_bytes().count(b"\\n") for path in order.directory.glob(place + "/trials/*/history.jsonl")]
        if sum(written) >= rows and any(0 < count < most for count in written):
            os.kill(os.getpid(), signal.SIGKILL)
run = run_plan(read_plan(Path(sys.argv[1])), order, environment, notify, lambda stage: None)
print("ENDED", run.reason or "done")
"""


def write_corpus(folder: Path) -> Path:
    """Write sentences of a small grammar: enough to learn, not enough to know by heart."""
    draw = random.Random(0)
    nouns = ["cat", "dog", "bird", "house", "tree", "river", "stone"]
    verbs = ["sees", "likes", "finds", "leaves"]
    sentences = [f"the {draw.choice(nouns)} {draw.choice(verbs)} the {draw.choice(nouns)}." for _ in range(1500)]
    path = folder / "corpus.txt"
    path.write_text("\n".join([string.ascii_lowercase, *sentences]))
    return path


def write_plan(folder: Path) -> Path:
    """Write the tiny plan and its corpus."""
    path = folder / "tiny.yaml"
    path.write_text(PLAN.format(baseline=BASELINE.format(corpus=write_corpus(folder))))
    return path


def start_plan(plan: Path, directory: Path, *, workers: int, killed: tuple[str, int] | None = None,
               ) -> subprocess.Popen[str]:
    """Run a plan on the CPU without drawing anything.

    It may be `killed` when the trials of a place have so many rows and one of them is in its midst: by itself, so that
    this trial cannot end before.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    moment = [killed[0], str(killed[1]), str(TRIAL_ROWS - 5)] if killed else []
    return subprocess.Popen([sys.executable, "-c", RUN, str(plan), str(directory),
                             str(directory.parent / "cache"), str(workers), *moment],
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
