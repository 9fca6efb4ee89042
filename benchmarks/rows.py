"""Measure what a large file of rows takes when a study needs few of them: memory over the process, and CPU.

    python benchmarks/rows.py [--megabytes 2000] [--kinds jsonl,json,parquet] [--most-megabytes 300]

Writes a file of each kind into a temporary folder, a `.json` as one list over many lines and a Parquet file as a single
group of rows, and reads it in a process of its own with `samples: 500`. Prints a line for RESULTS.md; the exit status
is 1 if one takes more than `--most-megabytes` over what the process had after its imports.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROW_BYTES = 1700
MB = 10**6


def main() -> None:
    """Write and read a file of each kind, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--kinds", default="jsonl,json,parquet")
    parser.add_argument("--most-megabytes", type=int, default=300)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        return read(arguments.read)
    lines, most = [], 0
    for kind in arguments.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"rows.{kind}"
            write(path, arguments.megabytes * MB // ROW_BYTES)
            size = path.stat().st_size / MB
            done = subprocess.run([sys.executable, __file__, "--read", str(path)], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout)
        most = max(most, found["megabytes"])
        lines.append(f"{kind} of {size:,.0f} MB: {found['megabytes']} MB over the process, {found['cpu_s']:.0f} s CPU")
    print("\n".join(lines))
    if most > arguments.most_megabytes:
        sys.exit(f"more than {arguments.most_megabytes} MB")


def write(path: Path, count: int) -> None:
    """Write rows of words that differ in their number."""
    drawn = random.Random(0)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sees", "rivers"]
    text = " ".join(drawn.choice(words) for _ in range(ROW_BYTES // 5))
    rows = ((f"What is {i}?", f"{i} is {text}") for i in range(count))
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        questions, answers = zip(*rows, strict=True)
        pyarrow.parquet.write_table(pyarrow.table({"question": questions, "answer": answers}), path,
                                    row_group_size=count, compression="none", use_dictionary=False)
        return
    before, between, after = ("[\n", ",\n", "\n]\n") if path.suffix == ".json" else ("", "\n", "\n")
    inner = ("{\n    ", ",\n    ", "\n  }") if path.suffix == ".json" else ("{", ", ", "}")
    with open(path, "w", buffering=MB) as file:
        for i, (question, answer) in enumerate(rows):
            file.write(f'{between if i else before}{inner[0]}"question": "{question}"{inner[1]}"answer": "{answer}"'
                       f"{inner[2]}")
        file.write(after)


def read(path: Path) -> None:
    """Read 500 rows of a file as a trial does, and print what it took as JSON."""
    import pyarrow.parquet  # noqa: F401 - before the count begins

    from kaggle_runner.config import FinetuneConfig
    from kaggle_runner.training.data.instructions import load_rows

    before, began = peak_kib(), time.process_time()
    data = load_rows(FinetuneConfig(dataset=str(path), samples=500), cache_directory=path.parent)
    assert len(data.train) == 500
    print(json.dumps({"megabytes": (peak_kib() - before) * 1024 // MB, "cpu_s": time.process_time() - began}))


def peak_kib() -> int:
    """Return the most this program held; getrusage would count what the process held before it became this program."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
