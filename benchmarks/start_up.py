"""Measure the CPU seconds of what should start in a blink, interpreter and children included.

`--help`, `detect`, and `detect` from a launcher: unpacked, started and run to its last line.

    python benchmarks/start_up.py [--runs 15]
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from kaggle_runner.kaggle.launcher import Launch, build_launcher

LIMITS = {"--help": 0.15, "detect": 0.3, "launcher": 1.5}
"""CPU seconds that a person does not notice."""


def main() -> None:
    """Run every command many times and print the median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as directory:
        launcher = Path(directory) / "launcher.py"
        launcher.write_text(build_launcher(Launch(arguments=("detect",)), {}))
        for name, limit in LIMITS.items():
            command = [sys.executable, *([str(launcher)] if name == "launcher" else ["-m", "kaggle_runner", name])]
            seconds = sorted(cpu_seconds(command) for _ in range(runs))
            size = f"; its file has {launcher.stat().st_size / 1000:.0f} KB" if name == "launcher" else ""
            print(f"start_up {name} | {platform.machine()}, {os.cpu_count()} cores | "
                  f"median {statistics.median(seconds):.3f} s CPU of {runs} runs, {seconds[0]:.3f} to "
                  f"{seconds[-1]:.3f}; wanted: at most {limit} s{size}")


def cpu_seconds(command: list[str]) -> float:
    """Return the CPU seconds, user and system, of a finished command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
