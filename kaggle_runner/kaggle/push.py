"""Push a kernel once, or session after session until its work is done; one function for each command."""

from collections.abc import Callable, Mapping
from pathlib import Path

from kaggle_runner.kaggle.folder import (
    KernelSpec,
    check_before_push,
    next_session,
    prepare,
    push,
    running_kernels,
    saved_differently,
)
from kaggle_runner.kaggle.program import Kaggle, Pushed
from kaggle_runner.kaggle.watch import OUTPUTS, Patience, Verdict, wait

MAY_GO_ON = (0, 130)
"""Exit statuses after which another session makes sense: done so far, or interrupted."""


def push_once(kaggle: Kaggle, spec: KernelSpec, folder: Path, tell: Callable[[str], None],
              environ: Mapping[str, str]) -> Pushed:
    """Make the folder, check that a push can work and what else runs, push, and compare what Kaggle saved.

    Raises:
        KernelError: as `prepare`, `check_before_push` and `push`.
        SecretError: a credential of `environ` would be in the folder.
    """
    made = prepare(spec, folder, environ)
    tell(f"{made.path}: {made.source_bytes / 1000:.0f} KB to push as {made.ref}")
    quota = check_before_push(kaggle, made)
    running = running_kernels(kaggle, also=made.ref)
    if before := running.pop(made.ref, None):
        tell(f"warning: the version before is {before.text}, and Kaggle will run both: a push stops nothing")
    for ref, state in running.items():
        tell(f"{ref} is {state.text} too; Kaggle has room for two sessions with a GPU")
    if quota:
        tell(f"{quota.remaining_h:.1f} of {quota.total_h:.1f} GPU hours left this week")
    pushed = push(kaggle, made)
    for difference in saved_differently(kaggle, pushed, made):
        tell(f"warning: Kaggle saved it differently: {difference}")
    tell(f"version {pushed.version} of {pushed.ref} is pushed: {pushed.url}")
    return pushed


def push_sessions(kaggle: Kaggle, spec: KernelSpec, folder: Path, into: Path, tell: Callable[[str], None], *,
                  show: Callable[[str], None], environ: Mapping[str, str], sessions: int = 1,
                  patience: Patience | None = None, outputs: str = OUTPUTS) -> Verdict:
    """Push a kernel and wait; while work is left, push another one that continues its study; return the last verdict.

    At most `sessions` in all, one after the other. Each has the output of the one before mounted.

    Raises:
        KernelError: as `push_once` and `wait`; sessions that ended before keep their output.
        SecretError: a credential of `environ` would be in the folder.
    """
    for number in range(1, sessions + 1):
        pushed = push_once(kaggle, spec, folder, tell, environ)
        verdict = wait(kaggle, pushed.ref, into, tell, show=show, patience=patience, outputs=outputs)
        if number == sessions or not verdict.goes_on or verdict.exit_status not in MAY_GO_ON:
            break
        tell(f"session {number} of {sessions} left work: {verdict.reason or 'trials are unfinished'}")
        spec = next_session(spec, number + 1, pushed.ref)
    return verdict
