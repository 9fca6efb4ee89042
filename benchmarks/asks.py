"""What an ask of a shared study costs, by the trials that it holds: CPU time of this process, and of the database.

usage: python benchmarks/asks.py [--sizes 1000,3000,5000] [--method bayes] [--failed 0.1] [--asks 5]

The study is filled through the store, and trained is nothing. The server is the PostgreSQL of the tests.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import sqlalchemy as sql

from benchmarks.many_agents import SWEEP
from kaggle_runner.run.shared.address import read_address
from kaggle_runner.run.shared.database import Database
from kaggle_runner.run.shared.record import SharedRecord
from kaggle_runner.run.shared.search import SharedSearch
from kaggle_runner.run.shared.tables import TRIALS
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import SweepSpec, read_sweep
from tests.standins.postgres import Postgres


def fill(record: SharedRecord, spec: SweepSpec, first: int, last: int, failed: float) -> None:
    """Write trials that have ended into our table; Optuna's, of which an ask reads none, are counted only."""
    database, draw, rows = record.database, random.Random(first), []
    study = database.storage.get_study_id_from_name(spec.name)
    for number in range(first, last):
        params = spec.sample(number)
        is_bad = draw.random() < failed
        loss = 2.0 + abs(params["learning_rate"] - 1e-3) + draw.gauss(0.0, 0.01)
        result = TrialResult(id=f"{number:04d}", status=Status.FAILED if is_bad else Status.COMPLETE, steps=5,
                             metric=None if is_bad else loss, reason=f"it broke {number % 9} times" if is_bad else "")
        trial = Trial(id=result.id, number=number, params=params, origin="random")
        rows.append({"study": record._study, "number": number, "holder": "filled", "machine": "filled", "attempt": 1,
                     "expires": 0.0, "started": time.time(), "point": result.id, "trial": json.dumps(asdict(trial)),
                     "result": json.dumps(asdict(result)), "told": None, "copied": True})
    with database.begin() as connection:
        connection.execute(TRIALS.insert(), rows)
        connection.execute(sql.text("INSERT INTO trials (number, study_id, state) SELECT number, :study, 'COMPLETE' "
                                    "FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS number"),
                           {"study": study, "first": first, "last": last - 1})
    database.rest()


def main() -> None:
    """Measure, and print a line for each size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="1000,3000,5000")
    parser.add_argument("--method", default="bayes", choices=["random", "bayes"])
    parser.add_argument("--failed", type=float, default=0.1)
    parser.add_argument("--asks", type=int, default=5)
    options = parser.parse_args()
    server = Postgres()
    try:
        url = server.make("asks")
        with tempfile.TemporaryDirectory() as name:
            folder, held = Path(name), 0
            (folder / "sweep.yaml").write_text(SWEEP.format(method=options.method))
            spec = read_sweep(folder / "sweep.yaml")
            for size in map(int, options.sizes.split(",")):
                record = SharedRecord.join(Database(read_address(url)), spec, 0, 120.0)
                record.make()
                fill(record, spec, held, size, options.failed)
                began = time.process_time()
                with (Study.open_for_writing(folder / f"study-{size}", name=spec.name, sweep=spec.raw,
                                             metric=spec.metric, goal=spec.goal, seed=0) as study,
                      SharedSearch(record, study, spec) as search):
                    joined, cpu, wall = time.process_time() - began, [], []
                    for _ in range(options.asks):
                        cpu_began, wall_began = time.process_time(), time.perf_counter()
                        trial = search.ask(10**6)
                        cpu.append(time.process_time() - cpu_began)
                        wall.append(time.perf_counter() - wall_began)
                        assert trial is not None
                        search.tell(trial, TrialResult(id=trial.id, status=Status.COMPLETE, metric=2.0, steps=5))
                    held = trial.number + 1
                print(f"{options.method}, {size:>5,} trials: joining {joined:.2f} s of CPU, an ask "
                      f"{1e3 * statistics.median(cpu):.0f} ms of CPU (first {1e3 * cpu[0]:.0f}), "
                      f"{statistics.median(wall):.2f} s with the database", flush=True)
    finally:
        server.close()


if __name__ == "__main__":
    main()
