"""Measure what a report costs: the whole one of a dry run's study, and the page of a large study.

    python benchmarks/report.py [STUDY]

STUDY is a finished dry run; without it a study of the same shape is made. Each figure is of a fresh process, imports
included. Exits with 1 if a figure is over its limit.
"""

import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WHOLE_LIMIT_S = 15.0
PAGE_LIMIT_CPU_S = 5.0
PAGE_LIMIT_BYTES = 5_000_000

WHOLE = "from kaggle_runner.report.write import write_report; write_report([Path(sys.argv[1])], notify=print)"
PAGE = "from kaggle_runner.report.write import write_page; write_page([Path(sys.argv[1])])"

PARAMETERS: dict[str, Any] = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 5e-4, "max": 2e-2},
    "gradient_accumulation_steps": {"values": [4, 8]}, "lora_dropout": {"values": [0.05, 0.1]},
    "weight_decay": {"min": 0.0, "max": 0.1}, "lora_r": {"values": [8, 16, 32]},
    "lr_scheduler_type": {"values": ["cosine", "linear", "constant"]}, "max_steps": {"value": 1500}}


def main() -> int:
    """Measure and print; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(sys.argv[1]) if len(sys.argv) > 1 else make_study(Path(folder) / "small", 8)
        large = make_study(Path(folder) / "large", 1000)
        whole_s, whole_cpu_s = measure(WHOLE, small)
        _, page_cpu_s = measure(PAGE, large)
        page_bytes = (large / "report" / "index.html").stat().st_size
        notebook = json.loads((small / "report" / "analysis.ipynb").read_text())
    executed = all(cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    print(f"whole report of 8 trials   {whole_s:6.1f} s       limit {WHOLE_LIMIT_S:.0f} s"
          f"   ({whole_cpu_s:.1f} s CPU; notebook {'executed' if executed else 'NOT executed'})")
    print(f"page of 1,000 trials       {page_cpu_s:6.1f} s CPU   limit {PAGE_LIMIT_CPU_S:.0f} s CPU")
    print(f"page of 1,000 trials       {page_bytes / 1e6:6.2f} MB      limit {PAGE_LIMIT_BYTES / 1e6:.0f} MB")
    kept = (whole_s <= WHOLE_LIMIT_S and executed and page_cpu_s <= PAGE_LIMIT_CPU_S
            and page_bytes <= PAGE_LIMIT_BYTES)
    return 0 if kept else 1


def measure(code: str, study: Path) -> tuple[float, float]:
    """Run code in a fresh process and return its wall and its CPU seconds, its children's included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import sys; from pathlib import Path; {code}", str(study)], check=True)
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def make_study(directory: Path, count: int) -> Path:
    """Write a study of so many trials and 6 hyperparameters; of ten, three are pruned and one has no value.

    As files and not by `Study`, which syncs every line to the disk.
    """
    generator = random.Random(0)
    directory.mkdir()
    sweep = {"method": "bayes", "metric": {"name": "eval/loss", "goal": "minimize"}, "parameters": PARAMETERS}
    events: list[dict[str, Any]] = [
        {"event": "study", "name": f"{count} trials", "metric": "eval/loss", "goal": "minimize", "seed": 0,
         "sweep": sweep},
        {"event": "session", "host": "local", "gpus": []}, {"event": "baseline", "value": 3.3}]
    for number in range(count):
        params = {name: draw(entry, generator) for name, entry in PARAMETERS.items()}
        status = ("pruned", "failed", "infeasible")[number % 3] if number % 10 in (3, 6, 9) else "complete"
        final = 2.7 + 0.2 * (math.log10(params["learning_rate"]) + 2.5) ** 2 + generator.gauss(0, 0.005)
        last = {"complete": 1500, "pruned": 300}.get(status, 0)
        curve = [(step, round(final + 0.5 * math.exp(-step / 300), 6)) for step in range(100, last + 1, 100)]
        trial_id = f"{number:04d}"
        folder = directory / "trials" / trial_id
        folder.mkdir(parents=True)
        (folder / "history.jsonl").write_text("".join(
            json.dumps({"step": step, "eval/loss": value, "train/loss": value, "tokens": 4000 * step}) + "\n"
            for step, value in curve))
        events.append({"event": "start", "trial": {"id": trial_id, "number": number, "params": params, "origin": "gp"}})
        events.append({"event": "end", "result": {
            "id": trial_id, "status": status, "metric": curve[-1][1] if curve else None, "steps": last,
            "reason": "" if status == "complete" else f"{status} by design", "seconds": 10 + last / 10,
            "peak_device_bytes": generator.randint(500, 600) * 2**20 if last else None, "evaluations": curve,
            "tokens": 4000 * last, "seconds_by_phase": {"attach": 0.5, "train": last / 12, "eval": last / 70},
            "notes": {"predicted_peak_bytes": 580 * 2**20}}})
    (directory / "trials.jsonl").write_text("".join(json.dumps({**event, "time": 1.8e9}) + "\n" for event in events))
    return directory


def draw(entry: dict[str, Any], generator: random.Random) -> Any:
    """Draw a value of a sweep file's entry."""
    if "value" in entry:
        return entry["value"]
    if "values" in entry:
        return generator.choice(entry["values"])
    if "distribution" in entry:
        return math.exp(generator.uniform(math.log(entry["min"]), math.log(entry["max"])))
    return generator.uniform(entry["min"], entry["max"])


if __name__ == "__main__":
    sys.exit(main())
