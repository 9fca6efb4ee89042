"""Push a kernel: what must hold before, what Kaggle says and what it saved; once, or session after session.

One function for each command; `kaggle_runner.kaggle.watch` follows a kernel from there. Needs the `kaggle` program.
"""

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kaggle_runner.errors import KernelError, Refusal
from kaggle_runner.kaggle.folder import METADATA, Folder, KernelSpec, next_session, prepare, write_ref
from kaggle_runner.kaggle.program import (
    Kaggle,
    Pushed,
    Quota,
    State,
    find_owner,
    gpu_quota,
    read_kernels,
    read_push,
    read_state,
    refuse,
)
from kaggle_runner.kaggle.watch import OUTPUTS, KernelPatience, KernelVerdict, wait

SESSION_LIMIT_H = 12.0

MAY_GO_ON = (0, 130)
"""Exit statuses after which another session makes sense: done so far, or interrupted."""


def push_once(kaggle: Kaggle, spec: KernelSpec, folder: Path, tell: Callable[[str], None],
              environ: Mapping[str, str]) -> Pushed:
    """Make the folder, check that a push can work and what else runs, push, and compare what Kaggle saved.

    Raises:
        KernelError: as `prepare`, `check_before_push`, `push` and `saved_differently`.
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
    if pushed.ref.lower() != made.ref.lower():  # it runs: a refusal would leave it alone with its hours
        tell(f"warning: Kaggle saved {made.ref} as {pushed.ref} and runs it under that name")
        write_ref(made.path, pushed.ref)
    for difference in saved_differently(kaggle, pushed, made):
        tell(f"warning: Kaggle saved it differently: {difference}")
    tell(f"version {pushed.version} of {pushed.ref} is pushed: {pushed.url}")
    return pushed


def push_sessions(kaggle: Kaggle, spec: KernelSpec, folder: Path, into: Path, tell: Callable[[str], None], *,
                  show: Callable[[str], None], environ: Mapping[str, str], sessions: int = 1,
                  patience: KernelPatience | None = None, outputs: str = OUTPUTS) -> KernelVerdict:
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
        spec = next_session(spec, pushed.ref)
    return verdict


def check_before_push(kaggle: Kaggle, folder: Folder) -> Quota | None:
    """Ask whether a push can work: hours left, inputs ready. Returns the quota, none where it is not known.

    Raises:
        KernelError: the week's hours are used up, or an input is not there: Kaggle would run the kernel without it.
    """
    quota = gpu_quota(kaggle) if folder.gpu else None
    if quota and quota.remaining_h <= 0:
        raise KernelError(Refusal.QUOTA, f"{quota.used_h:.1f} of {quota.total_h:.1f} GPU hours of this week are used; "
                                         f"wait until {quota.refresh or 'the next week'}, or push without a GPU")
    for kind, ref in folder.sources:
        answer = kaggle.run(f"{kind}s", "status", ref)
        ready = answer.stdout.strip() == "ready" if kind == "dataset" else "COMPLETE" in answer.stdout
        if not ready:
            if answer.exit_status and not answer.is_denied:
                refuse(answer, f"{kind}s status")
            state = answer.stdout.strip() or "unknown, not yours, or still being processed"
            raise KernelError(Refusal.SOURCE, f"{kind} {ref} cannot be mounted ({state}), and Kaggle would run the "
                                              f"kernel without it; correct the name, or wait for it")
    return quota


def push(kaggle: Kaggle, folder: Folder, *, timeout_s: int | None = None) -> Pushed:
    """Push a folder; returns what Kaggle took. `timeout_s` is the session's limit, none for Kaggle's own.

    Raises:
        KernelError: refused, or taken without an input.
    """
    try:
        return read_push(kaggle.run(*push_arguments(folder, timeout_s)))
    except KernelError as error:
        owner = folder.ref.split("/")[0]
        if error.refusal is Refusal.NAME and (account := find_owner(kaggle)).lower() != owner.lower():
            raise KernelError(Refusal.NAME, f"{error}; the kaggle program is logged in as {account}, and not as "
                                            f"{owner}") from error
        if error.refusal is not Refusal.CAPACITY:
            raise
        running = ", ".join(running_kernels(kaggle))
        raise KernelError(Refusal.CAPACITY, f"{error}{f'; running now: {running}' if running else ''}") from error


def push_arguments(folder: Folder, timeout_s: int | None = None) -> list[str]:
    """Write the arguments of the `kaggle` program for a push."""
    return ["kernels", "push", "-p", str(folder.path), *(["--timeout", str(timeout_s)] if timeout_s else [])]


def running_kernels(kaggle: Kaggle, *, also: str = "") -> dict[str, State]:
    """Say how the account's kernels stand that run or wait, of those that began within a session's length, and `also`.

    Empty where Kaggle or the program has no answer.
    """
    answer = kaggle.run("kernels", "list", "-m", "--sort-by", "dateRun", "--page-size", "10", "--csv")
    oldest = datetime.fromtimestamp(time.time() - SESSION_LIMIT_H * 3600, tz=UTC)
    recent = [ref for ref, last_run in read_kernels(answer) if _is_after(last_run, oldest)]
    running = {}
    for ref in dict.fromkeys([*filter(None, [also]), *recent[:5]]):
        try:
            state = read_state(kaggle.run("kernels", "status", ref))
        except KernelError:
            continue
        if not state.has_ended:
            running[ref] = state
    return running


def saved_differently(kaggle: Kaggle, pushed: Pushed, folder: Folder) -> tuple[str, ...]:
    """Compare what Kaggle saved with what was pushed; one sentence for each difference.

    Raises:
        KernelError: the GPU or the internet is off, without which the kernel can only end.
    """
    with tempfile.TemporaryDirectory(prefix="kaggle_runner-pull-") as directory:
        answer = kaggle.run("kernels", "pull", pushed.ref, "-m", "-p", directory)
        try:
            saved = json.loads((Path(directory) / METADATA).read_text(encoding="utf-8"))
            source = (Path(directory) / saved["code_file"]).read_text(encoding="utf-8")
        except (OSError, ValueError, KeyError):
            return (f"could not read back what was saved: {answer.text.strip()[:200]}",)
    wanted = json.loads((folder.path / METADATA).read_text(encoding="utf-8"))
    if off := _switched_off(wanted, saved):
        raise KernelError(Refusal.SWITCHED_OFF, f"Kaggle saved {pushed.ref} with its {' and its '.join(off)} off, as "
                                                f"for an account whose phone is not verified; verify it at "
                                                f"https://www.kaggle.com/settings, under Phone Verification, and push "
                                                f"again; what was pushed ends itself in its first minute")
    differences = [f"{name} is {saved.get(name)!r} and not {wanted[name]!r}"
                   for name in ("is_private", "enable_gpu", "enable_internet", "machine_shape", "dataset_sources",
                                "kernel_sources")
                   if name in wanted and wanted[name] and saved.get(name) != wanted[name]]
    mounted = [str(name).lower() for name in saved.get("model_sources") or ()]
    differences += [f"model {name} is left out, as one that is unknown or whose licence you have not accepted; the "
                    f"kernel runs without it" for name in wanted["model_sources"] if name.lower() not in mounted]
    if source.split() != (folder.path / wanted["code_file"]).read_text(encoding="utf-8").split():
        differences.append("the source is not the one that was pushed")
    return tuple(differences)


def _switched_off(wanted: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """Name what a kernel cannot do without and Kaggle turned off; a GPU can also be said by the machine alone."""
    has_gpu = saved.get("enable_gpu") or str(saved.get("machine_shape") or "").startswith("Nvidia")
    return [*(["GPU"] if wanted.get("enable_gpu") and not has_gpu else []),
            *(["internet"] if wanted.get("enable_internet") and saved.get("enable_internet") is False else [])]


def _is_after(stamp: str, oldest: datetime) -> bool:
    try:
        return datetime.fromisoformat(stamp.rstrip("Z")).replace(tzinfo=UTC) >= oldest
    except ValueError:
        return True


def push_again(ref: str, pushed_by: str) -> str:
    """Return the command that goes on with a kernel's study: the push, with the output of its last session mounted."""
    mounted = f"--kernel {ref}" if ref else ""
    if not pushed_by:
        return f"the push that made it, with {mounted or 'the kernel that made it as --kernel'}"
    own = re.escape(re.sub(r"-session-[0-9]+$", "", ref))
    return f"{re.sub(rf' --kernel[ =]{own}(-session-[0-9]+)?(?= |$)', '', pushed_by)} {mounted}".rstrip()
