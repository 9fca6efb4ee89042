"""Read a study in Python: `python examples/read_a_study.py studies/two` prints its trials, the best ones first.

The study may be in use: reading changes nothing. docs/study-directory.md explains every field.
"""

import sys
from pathlib import Path

from kaggle_runner.study.journal import read_study
from kaggle_runner.study.trial import Status
from kaggle_runner.wording import how_many


def main(directory: Path) -> None:
    """Print what the study has, its complete trials, and the learning curve of the best one."""
    study = read_study(directory)
    print(f"{study.info.name}: {how_many(len(study.finished), 'finished trial')}; the untouched base has "
          f"{study.baseline:.4f}")
    complete = [record for record in study.records if record.result and record.result.status is Status.COMPLETE]
    for record in sorted(complete, key=lambda record: record.result.metric):
        rate = record.trial.params["learning_rate"]
        print(f"{record.trial.id}  {record.result.metric:.4f}  learning_rate {rate:.3g}")
    if study.best is not None:
        for row in study.history(study.best.trial.id):
            if "eval/loss" in row:
                print(f"best trial, step {row['step']}: eval/loss {row['eval/loss']:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
