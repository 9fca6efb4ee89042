"""Measure the CPU seconds of the light commands, interpreter included: `--help` and `detect`.

    python benchmarks/start_up.py [--runs 15]
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys

LIMITS = {("--help",): 0.15, ("detect",): 0.3}
"""CPU seconds that a person does not notice."""


def main() -> None:
    """Run every command many times and print the median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    for arguments, limit in LIMITS.items():
        seconds = sorted(cpu_seconds([sys.executable, "-m", "kaggle_runner", *arguments]) for _ in range(runs))
        print(f"start_up {' '.join(arguments)} | {platform.machine()}, {os.cpu_count()} cores | "
              f"median {statistics.median(seconds):.3f} s CPU of {runs} runs, {seconds[0]:.3f} to {seconds[-1]:.3f}; "
              f"wanted: at most {limit} s")


def cpu_seconds(command: list[str]) -> float:
    """Return the CPU seconds, user and system, of a finished command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
