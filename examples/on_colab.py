"""Make the two files that a sweep with rows of your own needs on Colab: `python examples/on_colab.py`.

Put both into the folder `kaggle_runner` of your Google Drive and run the cells of colab.ipynb. A test makes the files;
nobody has run them on Colab yet.
"""

import json
import subprocess
import sys
from pathlib import Path

from own_rows import ROWS

FOLDER = Path("for_colab")
ON_DRIVE = "/content/drive/MyDrive/kaggle_runner"
"""Where colab.ipynb mounts the folder."""
SWEEP = f"""\
name: own-on-colab
method: bayes
metric: {{name: eval/loss, goal: minimize}}
run_cap: 8
parameters:
  model: {{value: HuggingFaceTB/SmolLM2-135M}}
  dataset: {{value: {ON_DRIVE}/rows.jsonl}}
  samples: {{value: 300}}
  max_steps: {{value: 100}}
  eval_steps: {{value: 20}}
  learning_rate: {{distribution: log_uniform_values, min: 5.0e-5, max: 5.0e-3}}
"""


def main() -> None:
    """Write the rows and the launcher, which holds the sweep file and the whole package."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    sweep = FOLDER / "own.yaml"
    sweep.write_text(SWEEP, encoding="utf-8")
    launcher = FOLDER / "kernel_launcher.py"
    subprocess.run([sys.executable, "-m", "kaggle_runner", "kernel", "launcher", str(sweep), "--out", str(launcher)],
                   check=True)
    print(f"put {FOLDER}/rows.jsonl and {launcher} into the folder kaggle_runner of your Drive, then run colab.ipynb")


if __name__ == "__main__":
    main()
