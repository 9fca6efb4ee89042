"""A pushed kernel as the agents of a W&B sweep: the real `kaggle` program, the real W&B client, both servers loopback.

The kernel's two GPUs are a fake nvidia-smi's, so each agent trains on the CPU.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kaggle_runner.machine.deadline import MARGIN_S, SAVING_S
from kaggle_runner.machine.keys import SECRET_FILE, secret_file_text
from kaggle_runner.study.journal import read_study
from kaggle_runner.study.trial import Status
from tests.standins.kaggle_machine import CLOCK_VARIABLE, ENDED
from tests.standins.kaggle_server import KEY, OWNER, PROGRAM, KaggleServer
from tests.standins.wandb_client import MISSING
from tests.standins.wandb_server import WandbServer
from tests.test_cli_kernel import HF_TOKEN, SMALL, Person

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(MISSING or not Path(PROGRAM).exists(), reason="wandb or the kaggle program is not installed"),
]

WANDB_KEY = "k" * 40
QUIET = {"WANDB_ERROR_REPORTING": "false", "WANDB_DISABLE_GIT": "true", "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
         "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Site:
    """A W&B server, a Kaggle server, and a person with accounts on both."""

    def __init__(self, kaggle: KaggleServer, wandb: WandbServer, person: Person) -> None:
        self.kaggle, self.wandb, self.person = kaggle, wandb, person

    def sweep(self, model: Path, rows: Path, *, run_cap: int, **values: object) -> str:
        """Make a sweep of the demo's kind and return its address."""
        fixed = {"model": str(model), "dataset": str(rows), **SMALL, **values}
        made = self.wandb.create_sweep({
            "method": "random", "metric": {"name": "eval/loss", "goal": "minimize"}, "run_cap": run_cap,
            "parameters": {"learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-3, "max": 1.0e-2},
                           **{name: {"value": value} for name, value in fixed.items()}}})
        return f"tester/demo/{made.name}"

    def result(self, address: str, session: int = 1) -> dict:
        """Return the verdict that a person got."""
        name = f"kaggle-runner-{address.rsplit('/', 1)[1]}"
        return json.loads((self.person.directory / "kernels" / name / "output" / "result.json").read_text())


@pytest.fixture
def site(tmp_path):
    with WandbServer(key=WANDB_KEY, use_engine=False) as wandb, KaggleServer(tmp_path / "server",
                                                                            environ=QUIET) as kaggle:
        kaggle.session_limit_s = 800.0
        person = Person(kaggle, tmp_path)
        person.environ |= {"WANDB_API_KEY": WANDB_KEY, "WANDB_BASE_URL": wandb.url, "NO_PROXY": "127.0.0.1",
                           "no_proxy": "127.0.0.1"}
        for service, key in (("wandb", WANDB_KEY), ("huggingface", HF_TOKEN)):  # as `secret put` does
            kaggle.add_dataset(f"kaggle-runner-{service}", {SECRET_FILE: secret_file_text(service, key).encode()})
        yield Site(kaggle, wandb, person)
        person.leave()
        assert kaggle.leaks == []
        assert wandb.state.unknown == []


def test_the_agents_of_two_gpus_end_a_sweep_of_four_trials_and_the_log_is_live(site, tiny_llama, rows_file):
    address = site.sweep(tiny_llama, rows_file, run_cap=4)
    slug = f"kaggle-runner-{address.rsplit('/', 1)[1]}"
    # The third trial does not begin, and the session does not end, before the first line of a trial is here.
    site.wandb.fault(match="RunResumeStatus", delay_s=500.0, when=lambda: len(site.wandb.state.runs) > 2)
    process = site.person.start("push", address, "--wait")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "  step " in line:
            assert site.kaggle.session(slug).status == "RUNNING"
            break
    site.wandb.heal()
    output, errors = process.communicate(timeout=500)
    output = "".join(lines) + output
    site.person.said += output + errors
    assert process.returncode == 0, output + errors

    runs = list(site.wandb.state.runs.values())
    assert [(run.state, run.exitcode, run.starts) for run in runs] == [("finished", 0, 1)] * 4
    result = site.result(address)
    assert (result["verdict"], result["exit_status"], result["trials"]) == ("done", 0, {"complete": 4})
    assert result["reason"] in output
    assert result["best"]["metric"] == min(run.summary["eval/loss"] for run in runs)
    assert {trial["id"] for trial in next(iter(result["studies"].values()))["trials"]} == {run.name for run in runs}
    assert [gpu.split(",")[0] for gpu in result["gpus"]] == ["Tesla T4", "Tesla T4"]
    assert result["gpu_quota_hours"] == pytest.approx(result["seconds"] / 3600, abs=0.001)
    assert {"python", "torch", "peft", "wandb"} <= result["versions"].keys()
    assert {"install", "command", "trials/train", "trials/eval"} <= result["seconds_by_phase"].keys()
    assert not result["continue"]
    study = site.person.directory / "kernels" / slug / "output" / "studies" / address.rsplit("/", 1)[1]
    snapshot = read_study(study)
    assert {record.result.status for record in snapshot.records} == {Status.COMPLETE}
    assert all((study / "trials" / run.name / "adapter").is_dir() for run in runs)
    assert {session.get("gpu") for session in snapshot.sessions} >= {"GPU-00000000", "GPU-00000001"}
    assert "trials   4 complete\n" in output
    assert "gpus     2 x Tesla T4, 14.56 GiB usable" in output
    here = study.relative_to(site.person.directory)
    assert (f"         python -m kaggle_runner export {here} --to merged  # take it home\n"
            f"report   python -m kaggle_runner report {here}\n") in output
    assert set(result["environment"]["api_keys"]) >= {"wandb", "huggingface"}, "both are there to be shown by mistake"
    for secret in (WANDB_KEY, KEY, HF_TOKEN, "planted-"):
        assert secret not in site.person.everything_written()


def test_a_second_session_resumes_the_trial_that_the_deadline_cut_off(site, tiny_llama, rows_file):
    address = site.sweep(tiny_llama, rows_file, run_cap=1, max_steps=60, eval_steps=20)
    slug = f"kaggle-runner-{address.rsplit('/', 1)[1]}"
    clock = site.person.directory / "clock"
    site.kaggle.environ[CLOCK_VARIABLE] = str(clock)
    process = site.person.start("push", address, "--cpu", "--sessions", "2", "--upload-every", "0")
    site.wandb.wait_for(lambda state: slug in site.kaggle.kernels and site.kaggle.kernels[slug].sessions, 300)
    del site.kaggle.environ[CLOCK_VARIABLE]
    # In the middle of its first trial the worker stands still, and 12 hours pass at once; so it is on any machine.
    session = site.kaggle.session(slug)
    worker = site.wandb.wait_for(lambda state: worker_of(session), 300)
    while not any(session.working.glob("studies/*/trials/*/kept/trials.jsonl")):
        assert session.status not in ENDED, session.log[-5:]
        time.sleep(0.005)
    os.kill(worker, signal.SIGSTOP)
    try:
        kept = {"kept/checkpoint.pt", "kept/trials.jsonl"}
        site.wandb.wait_for(lambda state: kept <= site.wandb.run(0).files.keys(), 300,
                            why="a checkpoint and the journal are off the machine while it runs")
        clock.write_text(str(12 * 3600 - SAVING_S - MARGIN_S))
        site.wandb.wait_for(lambda state: any("preempting" in run.states for run in state.runs.values()), 300)
    finally:
        os.kill(worker, signal.SIGCONT)  # or it would stay when all else is ended
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, output + errors

    (run,) = site.wandb.state.runs.values()
    assert (run.states, run.starts) == (["pending", "running", "preempting", "preempted", "pending", "running",
                                         "finished"], 2)
    first = json.loads((site.kaggle.kernels[slug].sessions[0].working / "result.json").read_text())
    assert (first["verdict"], first["exit_status"], first["continue"]) == ("unfinished", 130, True)
    assert "kaggle ends a session after 12 h" in first["reason"]
    (cut,) = next(iter(first["studies"].values()))["trials"]
    assert (cut["status"], 0 < cut["steps"] < 60) == ("preempted", True)
    assert f"session 1 of 2 left work: {first['reason']}" in errors
    assert f"trial {run.name} goes on at step {cut['steps']}" in output
    second = site.kaggle.session(f"{slug}-session-2")
    assert [mount.slug for mount in second.order.mounts if mount.kind == "notebooks"] == [slug]
    assert "continue the study of" in output
    result = site.result(address)
    assert (result["verdict"], result["trials"]) == ("done", {"complete": 1})
    rows = [row["train/global_step"] for row in map(json.loads, run.lines["wandb-history.jsonl"])]
    study = site.person.directory / "kernels" / slug / "output" / "studies" / address.rsplit("/", 1)[1]
    assert rows == [row["step"] for row in read_study(study).history(run.name)]
    assert sorted(set(rows)) == list(range(1, 61))


def test_a_bare_push_after_prepare_runs_an_agent_whose_failure_has_its_own_status_and_reason(site, rows_file):
    address = site.sweep(Path("no-such-model"), rows_file, run_cap=8)
    done = site.person.run("kernel", "prepare", address, "--cpu")
    assert "next     kaggle kernels push -p .\n" in done.stdout
    bare = subprocess.run([PROGRAM, "kernels", "push", "-p", "."], cwd=site.person.directory, env=site.person.environ,
                          capture_output=True, text=True, timeout=60)
    assert "successfully pushed" in bare.stdout
    slug = f"kaggle-runner-{address.rsplit('/', 1)[1]}"
    followed = site.person.run("logs", "-f", f"{OWNER}/{slug}")
    assert f"agent of sweep {address}" in followed.stdout
    pulled = site.person.run("pull", f"{OWNER}/{slug}", check=1)
    assert re.search("^verdict  failed: the model folder no-such-model does not exist; give an existing folder, or a "
                     "hub id like 'owner/name' .seen from .*/kaggle/working", pulled.stdout, re.M)
    assert site.kaggle.session(slug).status == "COMPLETE", "so that its files are kept"
    assert [run.state for run in site.wandb.state.runs.values()] == ["preempted"], "another machine may have it"
    assert site.person.run("logs", f"{OWNER}/{slug}").stdout.splitlines() == followed.stdout.splitlines()
    assert f"kernel   {OWNER}/{slug} is complete\n" in site.person.run("status", f"{OWNER}/{slug}").stdout


def test_stop_ends_a_sweep_on_wandb_where_its_agents_see_it(site, tiny_llama, rows_file):
    first, second = (site.sweep(tiny_llama, rows_file, run_cap=1) for _ in range(2))
    done = site.person.run("stop", first)
    assert f"sweep    {first} is finished: its agents end when their trials do\n" in done.stdout
    assert "is canceled: its agents end at once" in site.person.run("stop", second, "--now").stdout
    assert [sweep.state for sweep in site.wandb.state.sweeps.values()] == ["FINISHED", "CANCELED"]
    assert f"error: the sweep {first} is finished" in site.person.run("stop", first, check=1).stderr


def worker_of(session):
    """Find the process that trains, among those of a session; none before it is there."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"kaggle_runner.run.worker\0" in (path / "cmdline").read_bytes() and \
                    str(session.root).encode() in (path / "environ").read_bytes():
                return int(path.name)
    return None


def test_a_gated_model_of_a_sweep_on_wandb_is_warned_of_before_the_push(site, rows_file):
    gated, free = (site.sweep(name, rows_file, run_cap=1) for name in ("meta-llama/Llama-3.2-1B", "Qwen/Qwen3-0.6B"))
    assert "warning" not in site.person.run("push", gated, "--dry-run").stderr, "its key is stored"
    site.kaggle.datasets.pop("kaggle-runner-huggingface")
    assert re.search(r"warning: meta-llama/Llama-3\.2-1B is probably gated, and no Hugging Face key is stored",
                     site.person.run("push", gated, "--dry-run").stderr)
    assert "warning" not in site.person.run("push", free, "--dry-run").stderr
    assert re.search(r"warning: whether the sweep's model is gated is not known: W&B does not show us the sweep",
                     site.person.run("push", "tester/demo/nothing1", "--dry-run").stderr)
    site.person.environ.pop("WANDB_API_KEY")
    assert "warning" not in site.person.run("push", gated, "--dry-run").stderr, "no key at hand to read it with"
