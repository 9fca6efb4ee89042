"""Compare a warm sweep with the same trials in one fresh process each: losses to the last bit, and wall time.

    python benchmarks/warm_vs_cold.py [--count 8]

Both sides train the trials of the demo sweep, first the warm sweep, which decides their hyperparameters, then every
configuration again by `train`, one process after another. Prints a line for RESULTS.md.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from kaggle_runner.study.journal import read_study


def main() -> None:
    """Run both sides and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        # the rows are read and tokenised once for both sides
        environment = {**os.environ, "KAGGLE_RUNNER_CACHE": str(directory / "cache")}
        run(["dry-run", "--count", "1", "--study", "first"], directory, environment)

        started = time.perf_counter()
        run(["dry-run", "--count", str(count), "--study", "warm"], directory, environment)
        warm_s = time.perf_counter() - started
        warm = read_study(directory / "warm")

        cold_s, equal = 0.0, 0
        for record in warm.records:
            (directory / "one.yaml").write_text(yaml.safe_dump(dict(record.trial.params)))
            started = time.perf_counter()
            run(["train", "one.yaml", "--cpu", "--study", f"cold-{record.trial.id}"], directory, environment)
            cold_s += time.perf_counter() - started
            cold = read_study(directory / f"cold-{record.trial.id}").records[0].result
            same = (cold.evaluations, cold.hashes["adapter"]) == (record.result.evaluations,
                                                                  record.result.hashes["adapter"])
            equal += same
            print(f"trial {record.trial.id}: warm {record.result.metric!r}, cold {cold.metric!r}, "
                  f"{'equal' if same else 'DIFFERENT'}")

        attach = [record.result.notes["attach_cpu_seconds"] for record in warm.records[1:]]
        print(f"warm_vs_cold | {platform.machine()}, {os.cpu_count()} cores | warm {warm_s:.1f} s, "
              f"cold {cold_s:.1f} s, ratio {warm_s / cold_s:.2f}; {equal} of {count} trials equal to the last bit; "
              f"start of a trial after the first: {max(attach):.2f} s CPU at most in the worker")
        if equal != count:
            sys.exit(1)


def run(arguments: list[str], directory: Path, environment: dict[str, str]) -> None:
    """Run a command of the package and wait for it."""
    subprocess.run([sys.executable, "-m", "kaggle_runner", *arguments], cwd=directory, env=environment, check=True,
                   capture_output=True)


if __name__ == "__main__":
    main()
