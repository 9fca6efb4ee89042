"""When failures are the machine's fault and not the trials': a broken box must not burn a whole sweep."""

import re

from kaggle_runner.study.trial import Status, TrialResult

SAME_FAILURES = 3
"""Trials in a row that fail with the same reason before a sweep gives up."""
ANY_FAILURES = 5
"""Trials in a row that fail for whatever reason but their own point."""
NOT_A_BUG = ("out_of_memory", "not_finite")
"""Kinds of failure that are the point's own fault: the next point may do better, so the sweep goes on."""
POINT_FAILURES = 20
"""Trials in a row, none of them good, whose own points were at fault: then it is the sweep's ranges."""


class FailureBudget:
    """The failures in a row, those that are a point's own fault and the others apart."""

    def __init__(self) -> None:
        self._reasons: list[str] = []
        self._points = 0
        self.verdict: str | None = None
        """Why the sweep should end; none while it may go on."""

    def take(self, result: TrialResult) -> str | None:
        """Take in how a trial ended, and return the verdict."""
        self.verdict = self._take(result)
        return self.verdict

    def _take(self, result: TrialResult) -> str | None:
        if result.status in (Status.COMPLETE, Status.PRUNED):
            self._reasons.clear()
            self._points = 0
        elif result.status is Status.INFEASIBLE or result.notes.get("kind") in NOT_A_BUG:
            self._points += 1
        elif result.status is Status.FAILED:
            self._reasons.append(alike(result.reason))
        last = self._reasons[-SAME_FAILURES:]
        if len(last) == SAME_FAILURES and len(set(last)) == 1:
            return f"{SAME_FAILURES} trials in a row failed alike, the last one with: {result.reason}"
        if len(self._reasons) >= ANY_FAILURES:
            return f"{ANY_FAILURES} trials in a row failed, the last one with: {result.reason}"
        if self._points >= POINT_FAILURES:
            return (f"{POINT_FAILURES} trials failed or did not fit with no good one in between; the ranges are "
                    f"at fault; the last one with: {result.reason}")
        return None


def alike(reason: str) -> str:
    """Return what failures of one kind have in common: numbers make no other bug of it."""
    return re.sub(r"0x[0-9a-f]+|\d+", "#", reason)
