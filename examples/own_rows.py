"""Make a dataset of your own and a sweep file for it; then `python -m kaggle_runner dry-run own.yaml` runs the sweep.

Replace `ROWS` by your own questions and answers. The keys of a row say what it is: docs/sweep-files.md lists the
layouts that are recognised.
"""

import json
from pathlib import Path

WORDS = ["apples", "breads", "cheeses", "dates", "eggs", "figs", "grapes", "hams", "ices", "jams"]
ROWS = [{"instruction": f"What do I buy if I need {number} {word}?", "output": f"You buy {word}, {number} of them."}
        for number in range(1, 41) for word in WORDS]
SWEEP = """\
name: own
method: bayes
metric: {name: eval/loss, goal: minimize}
run_cap: 3
parameters:
  model: {value: demo}            # a small model for a CPU; write a name of the hub or a folder for a real one
  dataset: {value: ./rows.jsonl}
  samples: {value: 200}
  max_length: {value: 64}
  max_steps: {value: 10}
  eval_steps: {value: 5}
  learning_rate: {distribution: log_uniform_values, min: 1.0e-3, max: 2.0e-2}
"""


def main() -> None:
    """Write both files into the current folder."""
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    Path("own.yaml").write_text(SWEEP, encoding="utf-8")
    print(f"{len(ROWS)} rows in rows.jsonl; now run: python -m kaggle_runner dry-run own.yaml")


if __name__ == "__main__":
    main()
