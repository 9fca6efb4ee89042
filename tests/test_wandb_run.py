"""What needs no agent: endings, addresses, locks, the failure budget, and offline runs by the real client."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kaggle_runner.errors import HostError, WandbError
from kaggle_runner.machine.gpu import Gpu
from kaggle_runner.machine.gpu_lock import hold_gpu
from kaggle_runner.run.failures import FailureBudget
from kaggle_runner.study.answers import ANSWERS, COLUMNS
from kaggle_runner.study.journal import Study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from tests.standins.wandb_client import MISSING, PYTHON
from tests.standins.wandb_server import WandbServer

pytestmark = pytest.mark.skipif(MISSING, reason="wandb is not installed")
ROOT = Path(__file__).parent.parent


def ended(status: Status, **notes: object) -> TrialResult:
    return TrialResult(id="0", status=status, metric=None, notes=notes)


@pytest.mark.parametrize(
    ("result", "stopped", "code", "outcome"),
    [
        (ended(Status.COMPLETE), False, 0, "complete"),
        (ended(Status.COMPLETE), True, 0, "complete"),
        (ended(Status.PRUNED), False, 0, "pruned"),
        (ended(Status.PRUNED), True, 143, "stopped"),
        (ended(Status.PREEMPTED), False, 75, "preempted"),
        (ended(Status.INFEASIBLE), False, 5, "infeasible"),
        (ended(Status.FAILED, kind="out_of_memory", exit_status=-9), False, 3, "out_of_memory"),
        (ended(Status.FAILED, kind="not_finite"), False, 4, "not_finite"),
        (ended(Status.FAILED, kind="crash", exit_status=-11), False, 139, "crash"),
        (ended(Status.FAILED, kind="crash", exit_status=2), False, 1, "crash"),
        (ended(Status.FAILED, kind="error"), False, 1, "error"),
        (ended(Status.FAILED, kind="refused"), False, 1, "refused"),
        (ended(Status.FAILED, kind="hung"), False, 1, "hung"),
        (ended(Status.FAILED, kind="hung"), True, 143, "stopped"),
    ],
)
def test_each_ending_has_its_exit_code(result: TrialResult, stopped: bool, code: int, outcome: str) -> None:
    from kaggle_runner.wandb.run import exit_code, outcome_of

    assert (exit_code(result, stopped=stopped), outcome_of(result, stopped=stopped)) == (code, outcome)


@pytest.mark.parametrize(
    ("address", "paths"),
    [
        ("them/theirs/ab12cd34", ["them/theirs/ab12cd34"]),
        ("theirs/ab12cd34", ["me/theirs/ab12cd34"]),
        (" ab12cd34\n", ["me/kaggle_runner/ab12cd34", "me/uncategorized/ab12cd34"]),
        ("them/theirs/sweeps/ab12cd34", ["them/theirs/ab12cd34"]),
        ("them/theirs/ab12cd34/", ["them/theirs/ab12cd34"]),
        ("wandb.ai/them/theirs/sweeps/ab12cd34", ["them/theirs/ab12cd34"]),
        ("https://wandb.ai/them/theirs/sweeps/ab12cd34?nw=nwuserme", ["them/theirs/ab12cd34"]),
        ("https://forge.coreweave.com/wandb/them/my%20project/sweeps/ab12cd34/table", ["them/my project/ab12cd34"]),
        ("wandb agent them/theirs/ab12cd34", ["them/theirs/ab12cd34"]),
        ("$ python -m wandb agent them/theirs/ab12cd34 ", ["them/theirs/ab12cd34"]),
        ("!wandb agent https://wandb.ai/them/theirs/sweeps/ab12cd34", ["them/theirs/ab12cd34"]),
        ("wandb agent 'them/theirs/ab12cd34'", ["them/theirs/ab12cd34"]),
        ('"https://wandb.ai/them/theirs/sweeps/ab12cd34"', ["them/theirs/ab12cd34"]),
        ("wandb agent --count 3 them/theirs/ab12cd34", ["them/theirs/ab12cd34"]),
        ("wandb agent https://wandb.ai/them/theirs/sweeps/ab12cd34 --count=3 -e me", ["them/theirs/ab12cd34"]),
        ("!wandb agent -p theirs --entity them 'ab12cd34'", ["them/theirs/ab12cd34"]),
        ("wandb agent -e them theirs/ab12cd34 -e them", ["them/theirs/ab12cd34"]),
        ("wandb agent --project theirs ab12cd34", ["me/theirs/ab12cd34"]),
        ("wandb agent theirs/ab12cd34", ["me/theirs/ab12cd34"]),
        ("wandb agent ab12cd34", ["me/kaggle_runner/ab12cd34", "me/uncategorized/ab12cd34"]),
    ],
)
def test_a_sweep_has_several_addresses(address: str, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from kaggle_runner.sweep.address import is_address
    from kaggle_runner.wandb.sweep import sweep_paths

    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert sweep_paths(address, lambda: "me") == paths
    assert is_address(address)
    if len(paths) > 1:
        monkeypatch.setenv("WANDB_PROJECT", "mine")
        assert sweep_paths(address, lambda: "me") == ["me/mine/ab12cd34", *paths], "W&B's own setting comes first"


@pytest.mark.parametrize("address", ["", "a/b/c/d", "two words", "https://wandb.ai/them/theirs/runs/ab12cd34",
                                     "wandb agent --count a/b/ab12cd34", "wandb sync a/b/ab12cd34",
                                     "wandb agent --count 3", "wandb agent -e them ab12cd34"])
def test_what_is_no_address_of_a_sweep_is_refused(address: str) -> None:
    from kaggle_runner.sweep.address import is_address
    from kaggle_runner.wandb.sweep import sweep_paths

    assert not is_address(address)
    with pytest.raises(WandbError, match="is no address of a sweep; give entity/project/id"):
        sweep_paths(address, lambda: "me")


def test_the_count_of_a_whole_line_is_taken_up_and_checked() -> None:
    from kaggle_runner.cli.main import cli
    from kaggle_runner.sweep.address import options_of

    assert options_of("wandb agent -p b --count 3 ab12cd34") == {"project": "b", "count": "3"}
    assert options_of("ab12cd34 --count 3") == {}
    refused = CliRunner().invoke(cli, ["agent", "wandb agent --count 0 a/b/ab12cd34"])
    assert refused.exit_code == 2
    assert "--count: must be a number above 0, got '0'" in refused.output


def gpu(index: int) -> Gpu:
    return Gpu(index=index, name="Tesla T4", memory_bytes=2**34, compute_capability=(7, 5), uuid=f"GPU-{index}")


def test_each_agent_holds_a_gpu_of_its_own(tmp_path: Path) -> None:
    gpus = [gpu(0), gpu(1)]
    with hold_gpu(gpus, tmp_path) as first:
        with hold_gpu(gpus, tmp_path) as second:
            assert [first, second] == gpus
            with pytest.raises(HostError, match=f"gpu 0 .* by process {os.getpid()}, gpu 1 .*; two trials on one"), \
                    hold_gpu(gpus, tmp_path):
                pass
        with hold_gpu(gpus, tmp_path) as again:
            assert again == gpus[1]
    with hold_gpu([], tmp_path) as none:
        assert none is None


def test_a_gpu_is_free_again_when_its_agent_was_killed(tmp_path: Path) -> None:
    script = ("import sys, time\nfrom pathlib import Path\nfrom kaggle_runner.machine.gpu import Gpu\n"
              "from kaggle_runner.machine.gpu_lock import hold_gpu\n"
              f"with hold_gpu([{gpu(0)!r}], Path({str(tmp_path)!r})):\n"
              "    print('held', flush=True)\n    time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(HostError, match=f"by process {holder.pid}"), hold_gpu([gpu(0)], tmp_path):
            pass
        holder.kill()
    with hold_gpu([gpu(0)], tmp_path) as found:
        assert found == gpu(0)


def test_a_lock_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"cannot open .*file/kaggle_runner-GPU-0\.lock: .*; set TMPDIR"), \
            hold_gpu([gpu(0)], tmp_path / "file"):
        pass


def failed(reason: str, kind: str = "error") -> TrialResult:
    return TrialResult(id="0", status=Status.FAILED, metric=None, reason=reason, notes={"kind": kind})


def test_the_same_failure_three_times_in_a_row_ends_a_sweep() -> None:
    budget = FailureBudget()
    assert [budget.take(failed(f"bad block {i}")) for i in range(2)] == [None, None]
    assert budget.take(failed("no room", "out_of_memory")) is None
    assert budget.take(ended(Status.INFEASIBLE)) is None
    assert budget.take(failed("bad block 7")) == "3 trials in a row failed alike, the last one with: bad block 7"


def test_five_failures_in_a_row_end_a_sweep_and_a_good_trial_begins_a_new_row() -> None:
    budget = FailureBudget()
    for _ in range(2):
        assert [budget.take(failed(reason)) for reason in "abab"] == [None] * 4
        assert budget.take(ended(Status.COMPLETE)) is None
    assert [budget.take(failed(reason)) for reason in "abab"] == [None] * 4
    assert budget.take(failed("c")) == "5 trials in a row failed, the last one with: c"


def test_failures_that_are_the_points_own_end_a_sweep_when_nothing_else_happens() -> None:
    budget = FailureBudget()
    points = [failed("same", "out_of_memory"), failed("same", "not_finite"), ended(Status.INFEASIBLE)] * 6
    points.append(points[0])
    assert {budget.take(point) for point in [*points, ended(Status.COMPLETE), *points]} == {None}
    assert budget.take(failed("too large", "out_of_memory")) == (
        "20 trials failed or did not fit with no good one in between; the ranges are at fault; the last one with: "
        "too large")


def test_rows_that_a_trial_writes_again_after_a_cut_arrive_once(tmp_path: Path) -> None:
    """A worker that is killed between checkpoints, or halved after an out-of-memory, goes back in its history."""
    script = """
from kaggle_runner.wandb.run import RunLog
rows = [{"step": step, "train/loss": 1.0 / step} for step in range(1, 7)]
log = RunLog.open(lambda: False)
for row in rows[:4]:
    log.log(row)
log.catch_up(rows[:2])
for row in rows[2:]:
    log.log(row)
log.finish(0, rows, lambda: False)
"""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(":")
    with WandbServer() as server:
        subprocess.run([PYTHON, "-c", script], cwd=tmp_path, env=server.environment(tmp_path) | {"PYTHONPATH": path},
                       capture_output=True, text=True, timeout=100, check=True)
    (run,) = server.state.runs.values()
    assert run.column("train/global_step") == [1, 2, 3, 4, 5, 6]


def test_a_study_becomes_offline_runs_that_wandb_sync_uploads(tmp_path: Path) -> None:
    sweep = {"method": "random", "parameters": {"lora_r": {"values": [4, 8]}}}
    with Study.open_for_writing(tmp_path / "study", name="mine", sweep=sweep, metric="eval/loss", goal="minimize",
                                seed=None) as study:
        for number, (r, status, notes) in enumerate([(4, Status.COMPLETE, {"micro_batch": 2}),
                                                     (8, Status.FAILED, {"kind": "not_finite"})]):
            trial = Trial(id=f"{number:04d}", number=number, params={"lora_r": r, "learning_rate": 1e-4})
            study.record_start(trial, {})
            for step in range(1, 4):
                study.log(trial.id, {"step": step, "train/loss": 3.0 / step, "train/learning_rate": 1e-4, "tokens": 9})
            study.log(trial.id, {"step": 3, "eval/loss": 1.25 + number, "tokens": 9})
            study.record_end(TrialResult(id=trial.id, status=status, metric=1.25 + number, steps=3, tokens=9,
                                         evaluations=((3, 1.25 + number),), notes=notes,
                                         hashes={"rows": "ab", "adapter_files": "cd"}))
        row = {"prompt": "ask", "expected": "yes", "base": None, "answer": "<b>no</b>"}
        (study.trial_directory("0000") / ANSWERS).write_text(json.dumps({"rows": [row, {"prompt": "torn"}]}))
        unfinished = Trial(id="0002", number=2, params={"lora_r": 4, "learning_rate": 1e-3})
        study.record_start(unfinished, {})
    script = """
from pathlib import Path
import wandb
from kaggle_runner.study.journal import read_study
from kaggle_runner.wandb.offline import OfflineRuns, sync_command
snapshot = read_study(Path("study"))
print([OfflineRuns("demo").write(snapshot) for _ in range(2)], sync_command(Path("study")), wandb.__version__)
"""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(":")
    with WandbServer() as server:
        environment = server.environment(tmp_path) | {"PYTHONPATH": path}
        no_key = {name: value for name, value in environment.items() if name not in ("WANDB_API_KEY", "WANDB_BASE_URL")}
        wrote = subprocess.run([PYTHON, "-c", script], cwd=tmp_path, env=no_key, capture_output=True, text=True,
                               timeout=100, check=True)
        assert server.state.ops == []
        said, version = wrote.stdout.rsplit(" ", 1)
        assert said == "[2, 2] wandb sync study/wandb/offline-run-*"
        synced = subprocess.run(f"{PYTHON} -m wandb sync study/wandb/offline-run-*", shell=True, cwd=tmp_path,
                                env=environment, capture_output=True, text=True, timeout=100)
        assert synced.returncode == 0, synced.stdout + synced.stderr
    runs = sorted(server.state.runs.values(), key=lambda run: run.about["displayName"])
    assert [run.summary["outcome"] for run in runs] == ["complete", "not_finite"]
    if not version.startswith("0.26."):  # whose `wandb sync` drops exit codes
        assert [(run.state, run.exitcode) for run in runs] == [("finished", 0), ("failed", 4)]
    assert [run.about["displayName"] for run in runs] == ["mine 0000", "mine 0001"]
    assert {run.about["group"] for run in runs} == {"mine"}
    assert runs[0].params == {"lora_r": 4, "learning_rate": 1e-4}
    assert [run.column("eval/loss") for run in runs] == [[1.25], [2.25]]
    assert runs[0].column("train/global_step") == [1, 2, 3, 3]
    assert (runs[0].summary["eval/loss"], runs[0].summary["micro_batch"]) == (1.25, 2)
    assert {name: value for name, value in runs[0].summary.items() if name.startswith("sha256")} == {
        "sha256/rows": "ab"}, "what it read, by which others see whether they compare"
    table = json.loads(runs[0].files[runs[0].summary["answers"]["path"]])
    assert table == {"columns": list(COLUMNS), "data": [["ask", "yes", "", "<b>no</b>"]]}
    artifact = json.loads(runs[0].files[f"artifacts/run-{runs[0].name}-answers/answers.table.json"])
    assert (artifact["_type"], artifact["data"]) == ("table", table["data"])
    assert "answers" not in runs[1].summary
    assert server.state.unknown == []


