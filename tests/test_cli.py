"""The commands as a person runs them: real processes, real exit statuses, one message and no traceback."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.study.journal import read_study
from kaggle_runner.sweep.yaml_file import shipped_sweep
from tests.conftest import is_running, wait_for
from tests.held_trials import held, meeting
from tests.standins.nvidia_smi import NO_DRIVER, T4_X2, answering, path_with

pytestmark = pytest.mark.timeout(900)  # several workers in one test, each of which computes for seconds to start
SMALL = {"samples": 64, "max_eval_samples": 8, "max_length": 48, "max_steps": 6, "eval_steps": 3}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The user's environment with a cache of its own, so that rows are read once for the whole file."""
    return {**os.environ, "KAGGLE_RUNNER_CACHE": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parent.parent), "COLUMNS": "200"}


@pytest.fixture
def run(environment, tmp_path):
    def run(*arguments, check=None, **more):
        done = subprocess.run([sys.executable, "-m", "kaggle_runner", *map(str, arguments)], capture_output=True,
                              text=True, cwd=tmp_path, env=environment | more, timeout=850)
        assert "Traceback" not in done.stderr, done.stderr
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done
    return run


@pytest.fixture
def sweep_file(tmp_path, tiny_llama, rows_file):
    """The shipped demo with two lines changed, model and dataset, and made small."""
    def write(name="mine.yaml", **values):
        text = shipped_sweep("demo").read_text()
        settings = {"model": tiny_llama, "dataset": rows_file, **SMALL, **values}
        for key, value in settings.items():
            text, count = re.subn(rf"(  {key}:\n    value: ).*", rf"\g<1>{value}", text)
            assert count == 1, key
        (tmp_path / name).write_text(text)
        return tmp_path / name
    return write


def table(directory):
    """What a repeated study must repeat: everything but times and memory."""
    return [(r.trial.id, r.trial.params, r.trial.origin, r.result.status, r.result.metric, r.result.evaluations)
            for r in read_study(directory).records if r.result]


@pytest.mark.slow
def test_a_sweep_of_an_own_model_and_own_rows_end_to_end(run, sweep_file, tmp_path):
    done = run("dry-run", sweep_file(), "--count", "6", "--study", "a", check=0)
    snapshot = read_study(tmp_path / "a")
    assert [r.trial.origin for r in snapshot.records] == ["defaults", "start", "start", "model", "model", "model"]
    assert {r.result.status for r in snapshot.records} == {"complete"}
    assert snapshot.best.result.metric < snapshot.baseline
    assert f"best     trial {snapshot.best.trial.id}, eval/loss {snapshot.best.result.metric:.4f}" in done.stdout
    assert "the untouched base has" in done.stdout
    assert re.search(r"^next     python -m kaggle_runner try a  # ask it something\n"
                     r"         python -m kaggle_runner train a --full  # \d+ rows, 1 pass: \S+ s\n"
                     r"         python -m kaggle_runner push a/best\.yaml --full --sessions 3 --wait  # all rows, .*\n"
                     r"         python -m kaggle_runner export a --to merged  # take it home\n"
                     r"report   python -m kaggle_runner report a\npage     a/report/index\.html$", done.stdout, re.M)
    assert (tmp_path / "a" / "report" / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert "trial 0005  step 6/6  eval/loss" in done.stderr

    run("dry-run", sweep_file(), "--count", "6", "--study", "b", check=0)
    assert table(tmp_path / "a") == table(tmp_path / "b"), "the same seed gives the same table twice"

    again = run("dry-run", sweep_file(), "--count", "6", "--study", "a", check=0)
    assert "6 trials are finished" in again.stdout
    assert "step 1/6" not in again.stderr

    assert run("show", "a", check=0).stdout.splitlines()[-1] == "page     a/report/index.html"
    shown = json.loads(run("show", "a", "--json", check=0).stdout)
    assert set(shown) == {"study", "metric", "goal", "baseline", "base_scores", "best", "rows", "trials"}
    assert {"id", "status", "metric", "params", "steps", "seconds", "peak_device_bytes", "reason"} <= set(
        shown["trials"][0])
    assert shown["best"]["metric"] == min(t["metric"] for t in shown["trials"])

    refused = run("dry-run", sweep_file("other.yaml", max_steps=7), "--study", "a", check=1)
    assert "was made from another sweep file: parameters.max_steps differ" in refused.stderr
    assert len(table(tmp_path / "a")) == 6


@pytest.mark.slow
def test_a_study_whose_supervisor_is_killed_goes_on_with_the_same_command(run, sweep_file, tmp_path, environment):
    file = sweep_file()
    run("dry-run", file, "--count", "4", "--study", "whole", check=0)
    third = held(tmp_path / "held", tmp_path / "cut" / "trials.jsonl", begun=3, free=4)  # of 6 steps; the third is told
    with started(tmp_path, environment | third, "dry-run", file, "--count", "4", "--study", "cut") as supervisor:
        for line in supervisor.stderr:
            if line.startswith("trial 0002  step"):
                break
        workers = worker_pids(supervisor.pid)
        assert workers
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
    assert wait_for(lambda: not any(map(is_running, workers)))
    before = (tmp_path / "cut" / "trials.jsonl").read_bytes()
    assert len(read_study(tmp_path / "cut").finished) == 2

    run("dry-run", file, "--count", "4", "--study", "cut", check=0)
    assert (tmp_path / "cut" / "trials.jsonl").read_bytes().startswith(before), "what was finished is untouched"
    assert table(tmp_path / "cut") == table(tmp_path / "whole")
    assert [r.attempts for r in read_study(tmp_path / "cut").records] == [1, 1, 2, 1]
    assert [session["command"] for session in read_study(tmp_path / "cut").sessions] == 2 * [
        f"python -m kaggle_runner dry-run {file} --count 4 --study cut"]


@pytest.mark.slow
def test_an_interrupt_checkpoints_the_trial_and_the_next_session_resumes_it(run, sweep_file, tmp_path, environment):
    file = sweep_file(max_steps=30, eval_steps=10)
    run("dry-run", file, "--count", "1", "--study", "whole", check=0)
    slow = held(tmp_path / "held", tmp_path / "cut" / "trials.jsonl", begun=1, free=12, seconds=3)
    with started(tmp_path, environment | slow, "dry-run", file, "--count", "1", "--study", "cut") as supervisor:
        for line in supervisor.stderr:
            if line.startswith("trial 0000  step"):
                break
        supervisor.send_signal(signal.SIGINT)
        output, _ = supervisor.communicate(timeout=280)
    assert supervisor.returncode == 130
    assert f"next     python -m kaggle_runner dry-run {file} --count 1 --study cut\n" in output
    assert read_study(tmp_path / "cut").records[0].result.status == "preempted"
    done = run("dry-run", file, "--count", "1", "--study", "cut", check=0)
    assert "trial 0000 goes on at step" in done.stderr
    assert table(tmp_path / "cut") == table(tmp_path / "whole")


@pytest.mark.slow
def test_one_configuration_trains_without_a_sweep(run, tmp_path, tiny_llama, rows_file):
    (tmp_path / "one.yaml").write_text("\n".join(
        f"{key}: {value}" for key, value in {"model": tiny_llama, "dataset": rows_file, "learning_rate": 0.01,
                                             **SMALL}.items()))
    done = run("train", "one.yaml", "--cpu", check=0)
    snapshot = read_study(tmp_path / "studies" / "one")
    assert len(snapshot.records) == 1
    assert snapshot.records[0].trial.params["learning_rate"] == 0.01
    assert "best     trial 0000" in done.stdout


@pytest.mark.parametrize(("change", "message"), [
    ({"model": "./nowhere"}, r"error: the model folder \./nowhere does not exist; give an existing folder, or a hub"),
    ({"dataset": "columns.jsonl"}, r"error: .*columns.*a, b"),
])
def test_a_model_or_dataset_that_cannot_be_used_is_one_message(run, sweep_file, tmp_path, change, message):
    (tmp_path / "columns.jsonl").write_text('{"a": 1, "b": 2}\n' * 100)
    done = run("dry-run", sweep_file(**change), "--study", "s", check=1)
    assert re.search(message, done.stderr), done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (["dry-run", "nowhere.yaml"], 1, r"nowhere\.yaml"),
    (["sweep"], 2, "Missing argument 'FILE'"),
    (["sweep", "nowhere.yaml", "--count", "0"], 2, "0 is not in the range x>=1"),
    (["show", "nowhere"], 1, r"nowhere is not a study: it has no trials\.jsonl"),
    (["fly"], 2, "No such command 'fly'"),
])
def test_wrong_usage_is_one_message_with_its_exit_status(run, arguments, status, message):
    assert re.search(message, run(*arguments, check=status).stderr)


def test_a_study_directory_that_cannot_be_written_is_one_message(run, sweep_file, tmp_path):
    (tmp_path / "file").write_text("")
    done = run("dry-run", sweep_file(), "--study", "file", check=1)
    assert "error: cannot use file as a study: it is a file; choose another directory with --study" in done.stderr
    done = run("dry-run", sweep_file(), "--study", "/proc/study", check=1)
    assert "error: cannot write /proc/study" in done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 32 MiB; only root may mount one."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(directory)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a file system needs root; tests/test_study.py covers the message")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_sweep_with_one_message_and_keeps_what_is_finished(run, sweep_file, small_disk):
    file, study = sweep_file(), small_disk / "s"
    run("dry-run", file, "--count", "1", "--study", study, check=0)
    before = table(study)
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    done = run("dry-run", file, "--count", "2", "--study", study, check=1)
    assert "no space left on the disk; free some and run the same command again" in done.stderr
    assert table(study) == before
    (small_disk / "filler").unlink()
    run("dry-run", file, "--count", "2", "--study", study, check=0)
    assert len(read_study(study).finished) == 2
    assert table(study)[:1] == before


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("redirected", "status", "said"), [
    ("<&- >&- 2>&-", 0, ""), (">/dev/full", 1, "error: a write failed: No space left on device; what was recorded is")])
def test_what_the_caller_closed_and_a_full_disk_are_no_traceback(
        environment, tmp_path, redirected, status, said, unbuffered):
    command = ["bash", "-c", f'"$@" {redirected}', "bash", sys.executable, "-m", "kaggle_runner", "detect"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=250,
                          env=environment | {"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == bool(said)


def test_detect_prints_the_machine_and_json(run):
    assert re.search(r"host +local +\(", run("detect", check=0).stdout)
    facts = json.loads(run("detect", "--json", check=0).stdout)
    assert facts["host"] == "local"
    assert facts["budget"]["micro_batch"] == 2
    kaggle = json.loads(run("detect", "--json", check=0, KAGGLE_RUNNER_HOST="kaggle").stdout)
    assert (kaggle["host"], kaggle["session_limit_s"]) == ("kaggle", 12 * 3600)


def test_a_sweep_by_hand_on_a_host_whose_internet_is_off_ends_before_the_model_is_asked_for(run, sweep_file, tmp_path):
    nowhere = {"KAGGLE_RUNNER_HOST": "kaggle", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "",
               "https_proxy": "http://127.0.0.1:9"}
    file = sweep_file(model="meta-llama/Llama-3.2-1B")
    ended = run("sweep", file, "--cpu", "--study", "s", check=22, **nowhere)
    assert "internet is off in this session: no answer from http://127.0.0.1:9" in ended.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("host", "command", "way_out"), [
    ("kaggle", ("sweep", "mine.yaml"), "choose the accelerator GPU T4 x2 in the notebook; Kaggle gives none until the "
                                       "account's phone is verified, at https://www.kaggle.com/settings; or use"),
    ("kaggle", ("train", "mine.yaml", "--full"), "or use the CPU: --cpu"),
    ("colab", ("agent", "abcd1234"), "choose Runtime > Change runtime type > T4 GPU, or use the CPU: --cpu"),
])
def test_what_trains_by_hand_on_a_host_without_a_gpu_ends_with_its_own_status(run, tmp_path, host, command, way_out):
    (tmp_path / "mine.yaml").write_text("model: HuggingFaceTB/SmolLM2-135M\n" if command[0] == "train" else
                                        shipped_sweep("demo").read_text())
    bare = {"PATH": path_with(tmp_path / "bin", NO_DRIVER), "KAGGLE_RUNNER_HOST": host, "WANDB_API_KEY": "a" * 40,
            "KAGGLE_RUNNER_ROOT": str(tmp_path / "root")}
    ended = run(*command, check=21, **bare)
    assert re.search(rf"^error: no GPU to train on: nvidia-smi ended with status 9.*{re.escape(way_out)}", ended.stderr,
                     re.M)
    assert not list(tmp_path.rglob("trials.jsonl"))


def test_no_command_imports_what_lies_in_the_current_folder(run, tmp_path):
    for name in ("random.py", "tokenizers.py", "click.py"):
        (tmp_path / name).write_text(f"raise SystemExit('{name} of the user')\n")
    assert run("detect").stdout.startswith("host")


def test_the_console_script_does_the_same(environment):
    script = shutil.which("kaggle-runner", path=str(Path(sys.executable).parent))
    assert script, "install the package: pip install -e ."
    done = subprocess.run([script, "--version"], capture_output=True, text=True, env=environment)
    assert done.stdout == "kaggle_runner, version 0.2.0\n"


def started(directory, environment, *arguments):
    return subprocess.Popen([sys.executable, "-m", "kaggle_runner", *map(str, arguments)], text=True, cwd=directory,
                            stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def worker_pids(supervisor):
    command = ["pgrep", "-P", str(supervisor), "-f", "kaggle_runner.run.worker"]
    found = subprocess.run(command, capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
def test_two_gpus_have_a_worker_each_and_share_one_study(run, sweep_file, tmp_path):
    """The GPUs are a fake nvidia-smi's, so each worker trains on the one core that it is pinned to."""
    path = path_with(tmp_path / "bin", answering(T4_X2)).split(":", 1)[0]
    done = run("sweep", sweep_file(), "--count", "6", "--study", "two", PATH=f"{path}:{os.environ['PATH']}", check=0,
               **meeting(tmp_path / "meeting"))
    snapshot = read_study(tmp_path / "two")
    assert [r.trial.number for r in snapshot.records] == list(range(6))
    assert [r.attempts for r in snapshot.records] == [1] * 6, "no trial is handed out twice"
    assert {r.result.status for r in snapshot.records} == {"complete"}
    assert snapshot.sessions[0]["workers"] == 2
    assert done.stderr.count("this torch cannot use the GPU: the worker trains on the CPU") == 2
    started = sorted(r.started for r in snapshot.records)
    ended = [r.started + r.result.seconds for r in snapshot.records]
    assert started[1] < min(ended), "two trials ran at once"


def test_on_kaggle_a_gpu_that_torch_cannot_use_ends_the_session(run, sweep_file, tmp_path):
    """The torch of the worker is told that it was made for CUDA, as the images' is: it then finds no driver."""
    (tmp_path / "kaggle" / "working").mkdir(parents=True)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "sitecustomize.py").write_text(
        "import sys\nif 'kaggle_runner.run.worker' in sys.orig_argv:\n"
        "    import torch\n    torch.version.cuda = torch.version.cuda or '12.8'\n")
    path = path_with(tmp_path / "bin", answering(T4_X2)).split(":", 1)[0]
    done = run("sweep", sweep_file(), "--study", "two", check=21, PATH=f"{path}:{os.environ['PATH']}",
               KAGGLE_KERNEL_RUN_TYPE="Batch", KAGGLE_RUNNER_ROOT=str(tmp_path),
               PYTHONPATH=os.pathsep.join([str(tmp_path / "made"), str(Path(__file__).parent.parent)]))
    assert re.search(r"error: no GPU to train on: nvidia-smi lists one, and torch [\d.]+\S* cannot use it: .*; restart "
                     r"the session with the image's own torch, or use the CPU: --cpu", " ".join(done.stderr.split()))
    assert read_study(tmp_path / "two").records == ()


@pytest.mark.slow
def test_a_deadline_checkpoints_the_running_trial(run, sweep_file, tmp_path):
    file = sweep_file(max_steps=10_000, eval_steps=10_000)  # longer than the session, however fast the machine
    for seconds in (20, 60, 180, 500):
        done = run("dry-run", file, "--count", "1", "--study", "s", "--deadline", f"{seconds}s")
        if any(record.result and record.result.steps for record in read_study(tmp_path / "s").records):
            break  # a slow machine needs the longer session to come as far as its first steps
    assert done.returncode == 130, done.stderr
    cut = read_study(tmp_path / "s").records[0].result
    assert cut.status == "preempted"
    assert 0 < cut.steps < 10_000
    refused = run("dry-run", file, "--count", "1", "--study", "s", "--deadline", "2020-01-01", check=1)
    assert "error: the deadline 2020-01-01 is in the past" in refused.stderr


@pytest.mark.slow
def test_what_does_not_fit_is_recorded_and_never_run(run, tmp_path, tiny_llama, rows_file):
    small = "".join(f"  {name}: {{value: {value}}}\n" for name, value in {
        "model": tiny_llama, "dataset": rows_file, **SMALL}.items())
    (tmp_path / "huge.yaml").write_text("method: grid\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n"
                                        f"  batch_size: {{values: [262144, 2]}}\n{small}")
    done = run("dry-run", "huge.yaml", "--study", "huge", check=0)
    snapshot = read_study(tmp_path / "huge")
    infeasible, complete = (record.result for record in snapshot.records)
    assert (infeasible.status, complete.status) == ("infeasible", "complete")
    assert re.match(r"the trial needs \d+\.\d\d GiB but the budget is .* lower batch_size from 262144 to 131072",
                    infeasible.reason)
    assert infeasible.reason in done.stdout
    assert infeasible.steps == 0
    assert snapshot.baseline is not None, "measured with the first configuration that fits"
    assert complete.notes["predicted_peak_bytes"] > 0
