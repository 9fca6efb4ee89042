"""Measure the seconds between two trials of a W&B sweep: our agent, and plain `wandb agent` with a process per trial.

    python benchmarks/agent_overhead.py [--count 6]

Both run the same points of the demo sweep, given out by the loopback W&B server, with the same training code. A gap
is from the last row that a trial logs to the first one of the next. W&B's agents ask for a job every 5 s, so a gap
holds a wait of up to that, and the median of few gaps is a matter of luck; our first gap also holds the evaluation of
the untouched base. Prints a line for RESULTS.md.
"""

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kaggle_runner.sweep.spec import read_sweep  # noqa: E402
from kaggle_runner.sweep.yaml_file import shipped_sweep  # noqa: E402
from tests.standins.wandb_server import WandbServer  # noqa: E402

PROGRAM = textwrap.dedent("""
    import os
    from pathlib import Path
    import wandb
    from kaggle_runner.events import Train
    from kaggle_runner.run.worker import Worker

    def emit(event):
        if event.kind == "log":
            run.log({name: event.values[name] for name in ("train/loss", "eval/loss") if name in event.values})
        elif event.kind == "failed":
            raise SystemExit(event.message)

    run = wandb.init()
    directory = Path("trials", run.id)
    directory.mkdir(parents=True)
    worker = Worker(emit, Path(os.environ["KAGGLE_RUNNER_CACHE"]))
    worker.answer(Train(id=run.id, config=dict(run.config), directory=str(directory)))
    run.finish()
""")
"""What a person would have `wandb agent` run: one trial, in a process that loads everything it needs."""
WANTED = 1 / 3


def main() -> None:
    """Run both sides, one after the other, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=6)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "program.py").write_text(PROGRAM)
        command = [sys.executable, "-m", "kaggle_runner", "agent"]
        gaps(directory, command, 1)  # the rows are read and tokenised once for both sides
        ours = gaps(directory, command, count)
        plain = gaps(directory, [sys.executable, "-m", "wandb", "agent"], count)
        ratio = statistics.median(ours) / statistics.median(plain)
        print(f"agent_overhead | {platform.machine()}, {os.cpu_count()} cores | median seconds between {count} trials: "
              f"{written(ours)}, plain `wandb agent` {written(plain)}, ratio {ratio:.2f}; wanted: at most {WANTED:.2f}")


def gaps(directory: Path, command: list[str], count: int) -> list[float]:
    """Have an agent run a sweep of so many trials and return the seconds between them."""
    spec = read_sweep(shipped_sweep("demo"))
    points = [{"learning_rate": rate, "gradient_accumulation_steps": 4, "lora_dropout": 0.05, "weight_decay": 0.01,
               "lora_r": 8, "lora_alpha": 16} for rate in (1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3)[:count]]
    with WandbServer() as server:
        server.state.script(points)
        sweep = server.create_sweep({**spec.raw, "method": "random", "run_cap": count, "program": "program.py"})
        environment = {**server.environment(directory / "home"), "KAGGLE_RUNNER_CACHE": str(directory / "cache"),
                       "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}".strip(":"),
                       "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run([*command, f"{sweep.entity}/{sweep.project}/{sweep.name}"], cwd=directory,
                              env=environment, capture_output=True, text=True)
        runs = list(server.state.runs.values())
    if [run.state for run in runs] != ["finished"] * count:
        sys.exit(f"{' '.join(command)}: {[run.states for run in runs]}\n{done.stdout}\n{done.stderr}")
    times = [[row["_timestamp"] for row in run.history] for run in runs]
    return [later[0] - earlier[-1] for earlier, later in itertools.pairwise(times)]


def written(seconds: list[float]) -> str:
    """Write the median and the range."""
    return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"


if __name__ == "__main__":
    main()
