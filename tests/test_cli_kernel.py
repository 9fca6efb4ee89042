"""The commands of kernels as a person runs them, with the real `kaggle` program and the loopback Kaggle."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.study.journal import read_study
from kaggle_runner.study.trial import Status
from kaggle_runner.sweep.yaml_file import shipped_sweep
from tests.launcher_reader import read_launcher
from tests.made_studies import Made, write_study
from tests.standins.kaggle_machine import CLOCK_VARIABLE, HELD_VARIABLE
from tests.standins.kaggle_server import KEY, OWNER, PROGRAM, KaggleServer

pytestmark = [pytest.mark.skipif(not Path(PROGRAM).exists(), reason="the kaggle program is not installed"),
              pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).parent.parent
WANDB_KEY = "fedcba9876543210fedcba9876543210fedcba98"
HF_TOKEN = "hf_plantedplantedplanted"
SLUG = "kaggle-runner-mine"
SMALL = {"samples": 64, "max_eval_samples": 8, "max_length": 48, "max_steps": 4, "eval_steps": 2}


class Person:
    """A person at a terminal: an empty folder, an account, keys in the environment."""

    def __init__(self, server: KaggleServer, directory: Path) -> None:
        self.server = server
        self.directory = directory / "desk"
        self.directory.mkdir()
        self.environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200",
                        "KAGGLE_RUNNER_KAGGLE": PROGRAM, "WANDB_API_KEY": WANDB_KEY, "HF_TOKEN": HF_TOKEN,
                        "OMP_NUM_THREADS": "1", **server.client_environment(directory / "home")}
        self.said = ""
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        self._processes.append(subprocess.Popen(
            [sys.executable, "-m", "kaggle_runner", *arguments], cwd=self.directory, text=True,
            env=self.environ | changes, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return self._processes[-1]

    def leave(self) -> None:
        """End what a failed test left running."""
        for process in self._processes:
            process.kill()
            process.communicate()

    def run(self, *arguments: str, check: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **changes)
        output, errors = process.communicate(timeout=600)
        self.said += output + errors
        assert process.returncode == check, output + errors
        assert "Traceback" not in errors
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def everything_written(self) -> str:
        """All text of the folder, the kernels' files and what was printed."""
        roots = [self.directory, *(session.root / "kaggle" for kernel in self.server.kernels.values()
                                   for session in kernel.sessions if session)]
        files = [path for root in roots for path in root.rglob("*") if path.is_file() and "input" not in path.parts]
        return "\n".join([*(path.read_text(errors="replace") for path in files), self.said])


@pytest.fixture
def person(tmp_path):
    with KaggleServer(tmp_path / "server", environ={
            "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}) as server:
        person = Person(server, tmp_path)
        yield person
        person.leave()
        assert server.leaks == []


@pytest.fixture
def sweep_file(person, tiny_llama, rows_file):
    """The shipped demo with another model and other rows, and small."""
    def write(**values):
        text = shipped_sweep("demo").read_text()
        for key, value in {"model": tiny_llama, "dataset": rows_file, **SMALL, **values}.items():
            text, count = re.subn(rf"(  {key}:\n    value: ).*", rf"\g<1>{value}", text)
            assert count == 1, key
        (person.directory / "mine.yaml").write_text(text.replace("name: demo", "name: mine"))
        return "mine.yaml"
    return write


def commit_of(name):
    return (REPOSITORY / name).read_text()


def test_the_committed_kernel_is_what_prepare_writes_and_says_what_to_do(person, tmp_path):
    person.run("kernel", "prepare", "--folder", "repository")
    for name in ("kernel-metadata.json", "kernel_launcher.py"):
        assert (person.directory / "repository" / name).read_text() == commit_of(name)
    bare = subprocess.run([PROGRAM, "kernels", "push", "-p", str(REPOSITORY)], env=person.environ, capture_output=True,
                          text=True, timeout=200)
    assert "successfully pushed" in bare.stdout, bare.stdout + bare.stderr
    session = person.server.wait("kaggle-runner")
    assert (session.status, session.order.gpus) == ("COMPLETE", 0)
    result = json.loads((session.working / "result.json").read_text())
    assert result["exit_status"] == 2
    assert "run: python -m kaggle_runner kernel prepare SWEEP_ID && kaggle kernels push -p ." in result["reason"]
    here = subprocess.run([sys.executable, "kernel_launcher.py"], cwd=REPOSITORY, capture_output=True, text=True)
    assert (here.returncode, here.stderr.count("\n")) == (2, 1)


def test_a_dry_run_shows_folder_and_command_and_pushes_nothing(person, sweep_file):
    done = person.run("push", sweep_file(model="HuggingFaceTB/SmolLM2-135M", dataset="python-docs"), "--dry-run",
                      "--image", "gcr.io/kaggle-gpu-images/python:v1")
    assert re.fullmatch(rf"folder   kernels/{SLUG}/push  \(\d+ KB\)\n"
                        rf"command  kaggle kernels push -p kernels/{SLUG}/push\n", done.stdout)
    assert re.fullmatch("(warning: .* at the same max_steps .*\n)?", done.stderr)
    metadata = json.loads((person.directory / "kernels" / SLUG / "push" / "kernel-metadata.json").read_text())
    assert (metadata["id"], metadata["docker_image"]) == (f"{OWNER}/{SLUG}", "gcr.io/kaggle-gpu-images/python:v1")
    assert person.server.kernels == {}
    assert f"kernel   {OWNER}/{SLUG}" not in done.stdout
    person.run("status", check=15)


@pytest.mark.slow
def test_a_pushed_sweep_file_runs_its_trials_and_a_bare_push_pushes_the_same(person, sweep_file):
    person.server.environ[HELD_VARIABLE] = str(person.directory.parent / "go")
    process = person.start("push", sweep_file(), "--wait", "--count", "2", "--cpu")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "  step " in line:
            break
    assert person.server.session(SLUG).status == "RUNNING", "lines arrive while it runs"
    (person.directory.parent / "go").touch()
    output, errors = process.communicate(timeout=600)
    output = "".join(lines) + output
    person.said += output + errors
    assert process.returncode == 0, output + errors
    kept = person.directory / "kernels" / SLUG / "output"
    result = json.loads((kept / "result.json").read_text())
    assert (result["verdict"], result["reason"], result["trials"]) == ("done", "2 trials are finished", {"complete": 2})
    snapshot = read_study(kept / "studies" / "mine")
    assert [record.result.status for record in snapshot.records] == [Status.COMPLETE] * 2
    assert result["best"]["metric"] == min(record.result.metric for record in snapshot.records)
    assert (kept / "studies" / "mine" / "report" / "index.html").exists()
    assert "verdict  done: 2 trials are finished\ntrials   2 complete\n" in output
    person.run("kernel", "prepare", "mine.yaml", "--count", "2", "--cpu", "--folder", "repository")
    for name in ("kernel-metadata.json", "kernel_launcher.py"):
        assert (person.directory / "repository" / name).read_bytes() == \
            (person.directory / "kernels" / SLUG / "push" / name).read_bytes()
    for secret in (WANDB_KEY, KEY, HF_TOKEN, "planted-"):
        assert secret not in person.everything_written()


@pytest.mark.slow
def test_a_pushed_sweep_file_whose_trials_fail_exits_with_the_verdict_of_the_kernel(person, sweep_file):
    done = person.run("push", sweep_file(model="/no-such-model"), "--wait", "--count", "4", "--cpu", check=1)
    assert person.server.session(SLUG).status == "COMPLETE", "so that its files are kept"
    assert re.search(r"^verdict  failed: the model folder /no-such-model does not exist; give an existing folder",
                     done.stdout, re.M)
    assert json.loads((person.directory / "kernels" / SLUG / "output" / "result.json").read_text())["exit_status"] == 1
    assert "next" not in done.stdout, "there is no trial to report"


def test_what_a_kernel_does_not_have_is_said_before_the_push(person, sweep_file):
    done = person.run("push", sweep_file(), "--dry-run")
    assert re.search(r"warning: dataset /.* is a path of this machine: a kernel has the hub", done.stderr)


def test_a_title_without_room_for_the_number_of_a_later_session_is_refused_before_the_first(person, sweep_file):
    title = "x" * 45
    done = person.run("push", sweep_file(), "--dry-run", "--sessions", "3", "--title", title, check=15)
    assert re.search(f"title '{title} session 2' becomes the slug .* at most 50 .*; choose another one with --title",
                     done.stderr)
    person.run("push", sweep_file(), "--dry-run", "--title", title)


@pytest.mark.parametrize(("values", "status", "message", "environ"), [
    ({"model": "demo"}, 12, "would not find the demo base, whose weights stay on this machine; for a try on a kernel "
                            "write a small model of the hub", {}),
    ({"model": "./my-model", "dataset": "rows.jsonl"}, 12,
     r"would not find the model \./my-model, a path of this machine; upload it to Kaggle, mount it with --model and "
     r"write its path there, /kaggle/input/models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION; nor the "
     r"dataset rows\.jsonl, a path of this machine", {}),
    ({"model": "/kaggle/input/llama", "dataset": "python-docs"}, 12,
     "the model /kaggle/input/llama, because nothing is mounted there; give --model", {}),
    ({"model": "my model", "dataset": "rows.json"}, 12,
     r"would not find the model 'my model', which is no name on the hub; did you mean OWNER/my-model\? .*; nor the "
     r"dataset 'rows\.json', a file that is not here; did you mean rows\.jsonl\? upload it to Kaggle, mount it", {}),
    ({}, 1, "HF_ENDPOINT is 'huggingface.co', which is no address of a server; write it like https://host, or unset",
     {"HF_ENDPOINT": "huggingface.co"}),
    ({}, 1, "WANDB_BASE_URL holds a password, and would be in the kernel's source", {"WANDB_BASE_URL": "http://a:b@h"}),
])
def test_what_no_kernel_could_do_is_not_pushed(tmp_path, values, status, message, environ):
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    values = {"model": "meta-llama/Llama-3.2-1B", "dataset": "python-docs", **values}
    named = "".join(f"  {name}: {{value: {value}}}\n" for name, value in values.items())
    (tmp_path / "mine.yaml").write_text("method: grid\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n"
                                        f"{named}  learning_rate: {{values: [1.0e-4, 2.0e-4]}}\n")
    done = subprocess.run([sys.executable, "-m", "kaggle_runner", "push", "mine.yaml", "--owner", "me", "--dry-run"],
                          capture_output=True, text=True, cwd=tmp_path, env={
                              "PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "COLUMNS": "999", **environ})
    assert (done.returncode, done.stderr.count("error: ")) == (status, 1), done.stderr
    assert re.search(message, " ".join(done.stderr.split())), done.stderr
    assert not (tmp_path / "kernels").exists()


def test_a_retired_machine_and_a_gated_model_without_a_key_are_warned_of_before_the_push(person, sweep_file):
    gated = sweep_file(model="meta-llama/Llama-3.2-1B", dataset="python-docs")
    done = person.run("push", gated, "--machine", "NvidiaTeslaP100", "--dry-run")
    assert re.search(r"warning: Kaggle retired NvidiaTeslaP100 .*torch has no kernels for a P100.*; take NvidiaTeslaT4",
                     done.stderr)
    assert re.search(r"warning: meta-llama/Llama-3\.2-1B is probably gated, and no Hugging Face key is stored.*accept "
                     r"its licence at https://huggingface\.co/meta-llama/Llama-3\.2-1B and .*secret put huggingface; "
                     r"or mount Kaggle's copy with --model", done.stderr)
    person.run("secret", "put", "huggingface")
    assert "gated" not in person.run("push", gated, "--dry-run").stderr
    assert "gated" not in person.run("push", sweep_file(model="Qwen/Qwen3-0.6B", dataset="python-docs"),
                                     "--dry-run").stderr


def test_keys_are_stored_attached_and_accounted_for(person):
    refused = person.run("push", "abcd1234", check=1)
    assert "no W&B key on the kernel" in refused.stderr
    assert "push again: python -m kaggle_runner secret put wandb" in person.run("secret", "check").stdout
    stored = person.run("secret", "put", "wandb")
    assert f"W&B key in WANDB_API_KEY in the environment in the private dataset {OWNER}/kaggle-runner-wandb" in \
        stored.stdout
    assert person.server.datasets["kaggle-runner-wandb"].private
    check = person.run("secret", "check").stdout
    assert re.search(rf"^kaggle   wandb: a pushed kernel finds it in the private dataset {OWNER}/kaggle-runner-wandb$",
                     check, re.M)
    assert re.search(r"^here     local, wandb: WANDB_API_KEY in the environment$", check, re.M)
    assert re.search(r"^colab    wandb: .*os\.environ\['WANDB_API_KEY'\] = userdata\.get", check, re.M)
    done = person.run("push", "https://wandb.example/me/project/sweeps/abcd1234?nw=x", "--dry-run", "--deadline", "8h",
                      WANDB_PROJECT="project", WANDB_MODE="offline")
    folder = person.directory / "kernels" / "kaggle-runner-abcd1234" / "push"
    assert json.loads((folder / "kernel-metadata.json").read_text())["dataset_sources"] == \
        [f"{OWNER}/kaggle-runner-wandb"]
    script = (folder / "kernel_launcher.py").read_text()
    launch, _ = read_launcher(script)
    assert launch.arguments == ("agent", "https://wandb.example/me/project/sweeps/abcd1234?nw=x", "--study",
                                "studies/abcd1234", "--deadline", "8h")
    assert launch.settings == {"WANDB_PROJECT": "project"}
    assert "folder" in done.stdout
    assert re.search(r"warning: whether the sweep's model is gated is not known: WANDB_MODE is offline", done.stderr)
    for secret in (WANDB_KEY, KEY, HF_TOKEN):
        assert secret not in person.everything_written()


def test_prepare_needs_no_answer_of_kaggle_where_the_owner_is_named(person):
    person.server.down = True
    done = person.run("kernel", "prepare", "me/project/abcd1234", "--owner", OWNER)
    assert f"{OWNER}/kaggle-runner-wandb is attached unseen" in done.stderr
    assert json.loads((person.directory / "kernel-metadata.json").read_text())["dataset_sources"] == \
        [f"{OWNER}/kaggle-runner-wandb"]
    shown = person.run("push", "me/project/abcd1234", "--owner", OWNER, "--dry-run")
    assert "command  kaggle kernels push -p kernels/kaggle-runner-abcd1234/push\n" in shown.stdout
    person.run("push", "me/project/abcd1234", "--owner", OWNER, check=16)


@pytest.mark.parametrize(("change", "arguments", "status", "message"), [
    ({"other_gpu_sessions": 2}, ["push", "mine.yaml"], 10, "session count of 2 reached. Wait for one to end"),
    ({"used_hours": 30.0}, ["push", "mine.yaml"], 11, "30.0 of 30.0 GPU hours of this week are used; wait until 2026"),
    ({}, ["push", "mine.yaml", "--dataset", "tester/no-such"], 12, "dataset tester/no-such cannot be mounted .unknown"),
    ({}, ["push", "mine.yaml", "--no-internet"], 12, "SmolLM2-135M from the hub; mount a copy of Kaggle's or"),
    ({}, ["push", "big.yaml"], 14, "has [0-9]+ KB and Kaggle takes 900; leave out large files, or mount them"),
    ({}, ["push", "mine.yaml", "--owner", "nobody"], 15, "it with --owner; the kaggle program is logged in as tester"),
    ({}, ["push", "mine.yaml", "--title", "a"], 15, "becomes the slug 'a'; Kaggle wants 5 .*choose another one with"),
    ({}, ["status", "tester/nothing-here"], 15, "no such kernel, or not one that this account may see"),
    ({"phone_verified": False}, ["push", "mine.yaml", "--wait"], 19, "its GPU and its internet off.*com/settings"),
    ({}, ["push", "mine.yaml", "--machine", "2 x T4"], 20, "did you mean NvidiaTeslaT4. choose one of"),
    ({}, ["push", "mine.yaml", "--machine", "NvidiaL4", "--cpu"], 2, "--machine is for a GPU, and --cpu takes none"),
    ({}, ["secret", "put", "wandb", WANDB_KEY], 2, "a key is not given on the command line.*put it into WANDB_API_KEY"),
    ({}, ["secret", "put", "wandb", "--owner", "nobody"], 15, "do not own nobody; give your own account with --owner"),
    ({}, ["push", "mine.yaml", "--machine", "TpuV6E8", "--dry-run"], 20, "has a TPU, and nothing here trains on one"),
    ({}, ["pull"], 2, "no kernel was pushed from this directory; name one: OWNER/KERNEL"),
    ({}, ["push", "abcd1234", "--no-internet"], 1, "no W&B key on the kernel"),
    ({}, ["secret", "put", "openai"], 2, "'openai' is not one of 'wandb', 'huggingface'"),
])
def test_a_refusal_is_one_line_with_its_own_status(person, sweep_file, change, arguments, status, message):
    sweep_file(model="HuggingFaceTB/SmolLM2-135M", dataset="python-docs")
    text = (person.directory / "mine.yaml").read_text()
    (person.directory / "big.yaml").write_text(text + "# a comment for every letter of it\n" * 30_000)
    for name, value in change.items():
        setattr(person.server, name, value)
    errors = person.run(*arguments, check=status).stderr
    assert re.search(message, errors), errors
    assert len([line for line in errors.splitlines() if line.lower().startswith("error: ")]) == 1
    assert WANDB_KEY not in errors


def test_an_interrupt_ends_the_watching_and_not_the_kernel_and_a_second_push_warns_of_the_first(person, sweep_file):
    person.server.queue_s = 3600.0
    sweep_file(model="HuggingFaceTB/SmolLM2-135M", dataset="python-docs")
    process = person.start("push", "mine.yaml", "--wait")
    for line in process.stderr:
        if "is queued" in line:
            break
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=200)[1]
    assert (process.returncode, "the kernel goes on; watch it again with" in errors) == (130, True)
    assert person.server.session(SLUG).status == "QUEUED"
    again = person.run("push", "mine.yaml")
    assert "warning: the version before is queued, and Kaggle will run both" in again.stderr
    assert re.search(rf"^kernel   {OWNER}/{SLUG} version 2\npage     https://.*/{SLUG}\nnext     python -m "
                     rf"kaggle_runner logs -f {OWNER}/{SLUG}$", again.stdout, re.M)
    assert f"kernel   {OWNER}/{SLUG} is queued\n" in person.run("status").stdout


def test_without_credentials_every_command_says_so(person, sweep_file):
    done = person.run("push", sweep_file(), check=13, KAGGLE_USERNAME="", KAGGLE_KEY="")
    assert "no credentials, or wrong ones; run: kaggle auth login" in done.stderr
    shown = person.run("push", sweep_file(), "--dry-run", check=13, KAGGLE_USERNAME="", KAGGLE_KEY="")
    assert "or name the account with --owner, and Kaggle need not answer" in shown.stderr
    checked = person.run("secret", "check", KAGGLE_USERNAME="", KAGGLE_KEY="", WANDB_API_KEY="").stdout
    assert "kaggle   not known: Kaggle knows no such account" in checked
    assert "here     local, wandb: none; export WANDB_API_KEY=... " in checked


@pytest.mark.parametrize(("arguments", "said"), [
    (("kernel", "launcher", "mine.yaml", "--out", "mine.yaml"), "--out mine.yaml is the sweep file itself"),
    (("kernel", "launcher", "mine.yaml", "--deadline", "foo"), "--deadline 'foo' is neither a duration"),
    (("push", "mine.yaml", "--dry-run", "--owner", "me", "--deadline", "2020-01-01"), "is in the past"),
    (("push", "mine.yaml", "--dry-run", "--owner", "me", "--upload-every", "nan"), "a number above it, got nan"),
    (("push", "mine.yaml", "--dry-run", "--owner", "me", "--queue", "-5"), "must be a number above 0, got -5"),
    (("push", "char.yaml", "--dry-run", "--owner", "me", "--full"), "--full is for fine-tunes, and char.yaml is a cha"),
    (("kernel", "launcher", "char.yaml", "--full"), "--full is for fine-tunes, and char.yaml is a charlm model"),
    (("push", "chars", "--dry-run", "--owner", "me", "--export", "merged", "--kernel", "me/chars"),
     "error: --export is for fine-tunes, and chars holds charlm models; --try has its best one write"),
    (("push", "one.yaml", "--dry-run", "--owner", "me", "--full", "--epochs", "1e300"),
     "--epochs must be at most 10,000, got 1e+300")])
def test_an_option_that_cannot_work_is_refused_before_anything_is_written(tmp_path, arguments, said):
    text = shipped_sweep("demo").read_text()
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "char.yaml").write_text("trainer: charlm\nmax_tokens: 100000\n")
    (tmp_path / "one.yaml").write_text("model: demo\n")
    write_study(tmp_path / "chars", [Made(value=2.0, params={"trainer": "charlm"})],
                parameters={"trainer": {"value": "charlm"}})
    done = subprocess.run([sys.executable, "-m", "kaggle_runner", *arguments], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert (tmp_path / "mine.yaml").read_text() == text
    assert not list(tmp_path.glob("kernel*"))


@pytest.mark.slow
def test_a_final_training_that_was_cut_off_is_ended_by_the_printed_push_and_exported(person, tiny_llama, rows_file):
    """Real from the command to the files that come back; each kernel finds the study of the one before.

    In the first session twelve hours pass as the training starts.
    """
    slug, study = "kaggle-runner-best-final", "studies/best-final"
    clock = person.directory / "clock"
    clock.write_text(f'43200 1 "start" kaggle/working/{study}/trials.jsonl')
    person.server.environ[CLOCK_VARIABLE] = str(clock)
    values = {"model": tiny_llama, "dataset": rows_file, "max_eval_samples": 8, "max_length": 48, "max_lost_share": 0.9,
              "batch_size": 8, "lora_r": 4}
    (person.directory / "best.yaml").write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
    cut = person.run("push", "best.yaml", "--full", "--epochs", "5", "--cpu", "--wait", check=130)
    launch, package = read_launcher(person.server.session(slug).order.source)
    assert launch.arguments == ("train", "best.yaml", "--study", study, "--full", "--epochs", "5", "--cpu")
    assert not [name for name in package if "/wandb/" in name or "/model/" in name]
    of_kernel, printed = re.findall(r"^next     (.*)$", cut.stdout, re.M)
    assert of_kernel.startswith("the launcher that began it, run again; on Kaggle the push that made it, with this ker")
    assert printed == f"python -m kaggle_runner push best.yaml --full --epochs 5 --cpu --wait --kernel {OWNER}/{slug}"
    done = person.run(*shlex.split(printed)[3:])
    assert "verdict  done: all rows are trained\ntrials   1 complete\n" in done.stdout
    last = re.search(rf"^kernel   {OWNER}/({slug}.*)$", done.stdout, re.M)[1]
    kept = person.directory / "kernels" / slug / "output" / study
    snapshot = read_study(kept)
    assert (len(snapshot.sessions), snapshot.best.trial.params["num_train_epochs"]) == (2, 5)
    assert {session["command"] for session in snapshot.sessions} == {
        f"python -m kaggle_runner train best.yaml --study {study} --full --epochs 5 --cpu"}
    steps = [row["step"] for row in snapshot.history("0000") if "train/loss" in row]
    assert steps == list(range(1, snapshot.best.result.steps + 1))
    person.run("push", study, "--export", "adapter", "--kernel", f"{OWNER}/{last}", "--cpu", "--wait",
               "--files", r"^(result\.json$|model/)")
    exported = person.directory / "kernels" / f"{slug}-export" / "output"
    assert json.loads((exported / "result.json").read_text())["verdict"] == "done"
    assert "eval/loss" in (exported / "model" / "README.md").read_text()
