"""What a report claims, as JSON: the same numbers that its sentences and pictures are made from."""

from pathlib import Path
from typing import Any

from kaggle_runner.report.analysis.analysis import Analysis, analyse
from kaggle_runner.report.analysis.first_place import why_unknown
from kaggle_runner.study.journal import read_study
from kaggle_runner.study.trial import SEED


def read_claims(study: Path) -> dict[str, Any]:
    """Return what the report of a study claims.

    Raises:
        StudyError: it is not a study.
    """
    return claims(analyse(read_study(study)))


def claims(analysis: Analysis) -> dict[str, Any]:
    """Return who shares first place, the noise with its upper bound, and which hyperparameters stand out.

    What is not known is null; `noise.source` then says why.
    """
    first, noise = analysis.first, analysis.noise
    best = first.ranked[0] if first.ranked else None
    return {
        "first_place": list(first.trial_ids),
        "noise": {"value": noise.deviation if noise else None, "upper": noise.upper if noise else None,
                  "source": noise.source if noise else f"not known: {why_unknown(first, analysis.repeats)}"},
        "importance": {share.name: {"share": share.share, "resolved": share.resolved} for share in analysis.shares},
        "best": best and {"trials": list(best.all_ids), "value": best.mean, "stated": first.expected,
                          "seeds": best.seeds,
                          "params": {name: value for name, value in best.params.items()
                                     if name != SEED or best.seeds < 2}},
        "baseline": analysis.baseline}
