"""Many agents on one shared study: trials a second, the time of an ask, and that no trial is lost or run twice.

usage: python benchmarks/many_agents.py [--agents 200] [--trials 5000] [--steps 5] [--processes 4] [--method random]

An agent is a thread that does what a machine does, with a study directory, a lease and connections of its own; a fake
worker takes 0.1 s a step. The server is the PostgreSQL of the tests, on this machine, which the agents share with it.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from kaggle_runner.run.search import run_sweep
from kaggle_runner.run.shared.address import read_address
from kaggle_runner.run.shared.database import Database
from kaggle_runner.run.shared.record import SharedRecord
from kaggle_runner.run.shared.search import SharedSearch
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import read_sweep
from tests.standins.postgres import Postgres

STEP_S = 0.1
SWEEP = """
method: {method}
metric: {{name: eval/loss, goal: minimize}}
parameters:
  model: {{value: demo}}
  learning_rate: {{distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-1}}
  lora_dropout: {{distribution: uniform, min: 0.0, max: 0.5}}
"""


def agent(folder: Path, number: int, url: str, options: argparse.Namespace, out: list[dict[str, float]]) -> None:
    """Be one machine until the sweep is done."""
    spec = read_sweep(folder / "sweep.yaml")
    database = Database(read_address(url))
    record = database.patiently(lambda: SharedRecord.join(database, spec, None, 120.0))
    with (Study.open_for_writing(folder / f"agent-{number}", name=spec.name, sweep=spec.raw, metric=spec.metric,
                                 goal=spec.goal, seed=0) as study, SharedSearch(record, study, spec) as search):
        asked = [time.perf_counter()]

        def run_trial(trial: Trial) -> TrialResult:
            out.append({"number": trial.number, "ask_s": time.perf_counter() - asked[0]})
            time.sleep(STEP_S * options.steps)
            loss = 2.0 + abs(trial.params["learning_rate"] - 1e-3)
            asked[0] = time.perf_counter()  # a tell and the ask that follows
            return TrialResult(id=trial.id, status=Status.COMPLETE, metric=loss, steps=options.steps)

        run_sweep(search, run_trial=run_trial, count=options.trials)


def process(folder: Path, first: int, last: int, url: str, options: argparse.Namespace) -> None:
    """Be some of the agents."""
    Database(read_address(url)).rest()  # what it imports is not made for many threads to be the first at once
    out: list[dict[str, float]] = []
    threads = [threading.Thread(target=agent, args=(folder, number, url, options, out))
               for number in range(first, last)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (folder / f"asks-{first}.json").write_text(json.dumps(out))


def main() -> None:
    """Run the simulation and print what it came to."""
    parser = argparse.ArgumentParser()
    for name, default in (("agents", 200), ("trials", 5000), ("steps", 5), ("processes", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--method", default="random", choices=["random", "bayes"])
    options = parser.parse_args()
    server = Postgres()
    try:
        url = server.make("many")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "sweep.yaml").write_text(SWEEP.format(method=options.method))
            started = time.perf_counter()
            share = -(-options.agents // options.processes)
            processes = [multiprocessing.Process(target=process, args=(
                folder, first, min(first + share, options.agents), url, options))
                for first in range(0, options.agents, share)]
            for one in processes:
                one.start()
            for one in processes:
                one.join()
            seconds = time.perf_counter() - started
            asks = [ask for path in folder.glob("asks-*.json") for ask in json.loads(path.read_text())]
        told = server.do("SELECT count(*) FROM kaggle_runner_trials WHERE result IS NOT NULL AND copied", "many")[0][0]
        seen = server.do("SELECT count(*), count(DISTINCT number) FROM trials WHERE state = 'COMPLETE'", "many")[0]
        twice = sum(times - 1 for times in Counter(ask["number"] for ask in asks).values())
        print(f"{options.agents} agents, {options.method}, {options.steps} steps of {STEP_S} s: {told} trials told, "
              f"{options.trials - told} lost, {twice} run twice, {seen[1]} complete in Optuna's tables")
        print(f"{told / seconds:.1f} trials/s over {seconds:.0f} s, starts included")
        for low in range(0, options.trials, max(1, options.trials // 5)):
            part = [ask["ask_s"] for ask in asks if low <= ask["number"] < low + max(1, options.trials // 5)]
            print(f"tell and ask at {low:>5,} trials: median {statistics.median(part):.2f} s")
    finally:
        server.close()


if __name__ == "__main__":
    main()
