"""A search thinks on one thread, however many NumPy has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
                                reason="looks for threads where Linux lists them, of a machine that has more than one")
ROOT = Path(__file__).parent.parent
COUNTS = """
from kaggle_runner.run.points.one_thread import _libraries, one_thread
import numpy

counts = lambda: [threads() for threads, _ in _libraries()]
with one_thread():
    inside = counts()
try:
    with one_thread():
        raise ValueError("a fault")
except ValueError:
    pass
print(inside, counts())
"""
ASKS = """
import os, time
from pathlib import Path
from kaggle_runner.run.points.observations import Observation, Told
from kaggle_runner.run.points.propose import propose
from kaggle_runner.sweep.spec import read_sweep

def others():
    stats = [stat.read_text().rpartition(")")[2].split() for stat in Path("/proc/self/task").glob("*/stat")
             if stat.parent.name != str(os.getpid())]
    return len(stats), sum(int(part) for stat in stats for part in stat[11:13])

spec = read_sweep(Path("SWEEP"))
past = [Observation(params=spec.sample(n), told=Told.VALUE, value=1.0 + n % 7) for n in range(120)]
def ask():
    return propose(spec, seed=0, number=120, past=past, defaults={})
ask()
before, idle = others(), None
while before != idle:  # what its threads did while they came up
    before, idle = idle, (time.sleep(0.1), others())[1]
points = [ask() for _ in range(20)]
assert points[0].origin == "model"
print(before[0], others()[1] - before[1])
"""


def said(script: str, **environ: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=200,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **environ}).stdout.strip()


def test_numpy_has_one_thread_while_a_search_thinks_and_its_own_number_after_it_and_after_a_fault() -> None:
    assert said(COUNTS, OPENBLAS_NUM_THREADS="2", OMP_NUM_THREADS="2") == "[1] [2]"


def test_no_other_thread_works_or_spins_while_a_point_is_chosen(tmp_path: Path) -> None:
    sweep = tmp_path / "s.yaml"
    sweep.write_text("""
method: bayes
run_cap: 200
metric: {name: eval/loss, goal: minimize}
parameters:
  trainer: {value: charlm}
  learning_rate: {distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-2}
  dropout: {min: 0.0, max: 0.5}
""")
    count, ticks = said(ASKS.replace("SWEEP", str(sweep)), OPENBLAS_NUM_THREADS="2", OMP_NUM_THREADS="2").split()
    assert int(count) >= 1
    assert int(ticks) == 0
