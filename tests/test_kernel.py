"""Push, follow and fetch with the real `kaggle` program and a loopback Kaggle that runs what is pushed."""

import json
import os
import re
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kaggle_runner.errors import KernelError, Refusal, SecretError
from kaggle_runner.kaggle import keys, program, push, watch
from kaggle_runner.kaggle.folder import (
    CODE_FILE,
    Folder,
    KernelSpec,
    going_on,
    next_session,
    prepare,
    read_folder,
    read_ref,
)
from kaggle_runner.kaggle.launcher import Launch
from kaggle_runner.kaggle.order import KernelOrder, gated_models, make_spec
from kaggle_runner.kaggle.program import Kaggle
from kaggle_runner.kaggle.watch import KernelPatience
from kaggle_runner.study.best_file import write_best
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from tests.standins.kaggle_machine import ENDED
from tests.standins.kaggle_server import KEY, OWNER, PROGRAM, TOKEN, KaggleServer
from tests.standins.nvidia_smi import P100, answering, path_with

pytestmark = pytest.mark.skipif(not Path(PROGRAM).exists(), reason="the kaggle program is not installed")

SPEC = KernelSpec(owner=OWNER, title="kaggle runner abc123", launch=Launch(arguments=("detect", "--json")))
WANDB_KEY = "fedcba9876543210fedcba9876543210fedcba98"
HURRY = KernelPatience(queue_s=60, unreachable_s=60, poll_s=0.3, quiet_s=20, fetch_attempts=2)
RESULT = "import json\njson.dump({'exit_status': 0, 'verdict': 'done'}, open('result.json', 'w'))\n"
WAIT_FOR_GO = "import os, time\nwhile not os.path.exists(os.environ['HOME'] + '/go'):\n    time.sleep(0.05)\n"


class Desk:
    """One person's machine: the real program, a folder to push, and everything that was shown and told."""

    def __init__(self, server: KaggleServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.environ = {"PATH": os.environ["PATH"], **server.client_environment(directory / "home")}
        self.kaggle = Kaggle(program=Path(PROGRAM), environ=self.environ)
        self.lines: list[str] = []
        self.told: list[str] = []

    def prepare(self, spec: KernelSpec = SPEC, script: str | None = None) -> Folder:
        """Make a folder; `script` replaces the launcher where a test needs something odd to run."""
        folder = prepare(spec, self.directory / "folder", self.environ)
        if script is not None:
            (folder.path / CODE_FILE).write_text(script)
        return folder

    def wait(self, ref: str = SPEC.ref, patience: KernelPatience = HURRY) -> watch.KernelVerdict:
        return watch.wait(self.kaggle, ref, self.directory / "output", self.told.append, show=self.lines.append,
                                 patience=patience)

    def everything_written(self) -> str:
        """Return all text of the folder, the output and what was shown and told."""
        files = [path for name in ("folder", "output") for path in (self.directory / name).rglob("*") if path.is_file()]
        return "\n".join([*(path.read_text(errors="replace") for path in files), *self.lines, *self.told])


@contextmanager
def refused(refusal, match):
    """Expect a refusal with its own exit status and this message."""
    with pytest.raises(KernelError, match=match) as caught:
        yield
    assert caught.value.exit_status == refusal


def until(condition, timeout_s=200):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


@pytest.fixture
def desk(tmp_path):
    with KaggleServer(tmp_path / "server", environ={"PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1"}) as server:
        yield Desk(server, tmp_path)
        assert server.leaks == []


def test_push_and_wait_brings_back_the_live_log_the_files_and_the_verdict(desk):
    ref = keys.put_secret(desk.kaggle, "wandb", WANDB_KEY, desk.told.append, poll_s=0.2)
    assert ref == f"{OWNER}/kaggle-runner-wandb"
    assert desk.server.datasets["kaggle-runner-wandb"].private
    folder = desk.prepare(replace(SPEC, datasets=keys.secret_sources(desk.kaggle, OWNER)))
    assert folder.sources == (("dataset", ref),)
    quota = push.check_before_push(desk.kaggle, folder)
    assert (quota.remaining_h, quota.total_h) == (28.5, 30.0)
    pushed = push.push(desk.kaggle, folder)
    assert (pushed.ref, pushed.version) == (SPEC.ref, 1)
    assert push.saved_differently(desk.kaggle, pushed, folder) == ()

    verdict = desk.wait()
    assert (verdict.exit_status, verdict.reason, verdict.goes_on) == (0, "", False)
    environment = verdict.result["environment"]
    assert (environment["host"], environment["reason"]) == ("kaggle", "KAGGLE_KERNEL_RUN_TYPE=Batch")
    assert [gpu["name"] for gpu in environment["gpus"]] == ["Tesla T4", "Tesla T4"]
    assert environment["api_keys"]["wandb"].endswith("datasets/tester/kaggle-runner-wandb/kaggle_runner_secret.json")
    assert verdict.result["gpu_quota_hours"] == pytest.approx(verdict.result["seconds"] / 3600, abs=1e-6)
    assert verdict.result["seconds"] > 0
    shown = "\n".join(desk.lines)
    assert shown.count('"host": "kaggle"') == 1
    assert [line for line in desk.told if "complete" in line] == [f"{SPEC.ref} is complete"]
    assert (desk.directory / "output" / f"{SPEC.slug}.log").exists()
    for secret in (WANDB_KEY, KEY, TOKEN, "planted-"):
        assert secret not in desk.everything_written()


@pytest.mark.parametrize(("status", "verdict", "message"), [
    (21, "no gpu", "no GPU to train on: Tesla P100-PCIE-16GB has compute capability 6.0"),
    (22, "no internet", "internet is off in this session: no answer from https://huggingface.co "),
])
def test_a_session_that_cannot_do_its_work_comes_back_with_the_status_of_its_reason(desk, status, verdict, message):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    desk.server.environ |= {"HF_HUB_OFFLINE": "", **nowhere} | (
        {"PATH": path_with(desk.directory / "bin", answering(P100))} if status == 21 else {})
    sweep = Launch(arguments=("sweep", "mine.yaml"), files={"mine.yaml": "nonsense: 1\n"})
    push.push(desk.kaggle, desk.prepare(replace(SPEC, launch=sweep)))
    ended = desk.wait()
    assert (ended.exit_status, ended.result["verdict"], ended.goes_on) == (status, verdict, False)
    assert ended.reason.startswith(message)
    assert ended.result["gpu_quota_hours"] > 0, "of a GPU that is of no use too"
    assert any(line.startswith(f"error: {message}") for line in desk.lines)


def test_a_bare_push_of_the_folder_does_the_same_and_a_failure_has_its_own_status(desk):
    desk.prepare(replace(SPEC, machine_shape="", launch=Launch(arguments=("try", "no-such-study", "--cpu"))))
    bare = subprocess.run([PROGRAM, "kernels", "push", "-p", "."], cwd=desk.directory / "folder", env=desk.environ,
                          capture_output=True, text=True, timeout=200)
    assert "successfully pushed" in bare.stdout
    verdict = desk.wait()
    assert desk.server.session(SPEC.slug).status == "COMPLETE"
    assert verdict.exit_status == 1
    assert re.match("no study no-such-study is mounted under .*: name the kernel that trained it, such as --kernel",
                    verdict.reason)
    assert verdict.result["environment"]["gpus"] == []


@pytest.mark.parametrize(("models", "gated"), [
    (["meta-llama/Llama-3.2-1B", "Qwen/Qwen3-0.6B", "mistralai/mathstral-7B-v0.1", "stabilityai/stablelm-zephyr-3b"],
     ["meta-llama/Llama-3.2-1B", "mistralai/mathstral-7B-v0.1", "stabilityai/stablelm-zephyr-3b"]),
    (["google/flan-t5-small", "google/gemma-3-1b-it", "facebook/opt-125m", "facebook/MobileLLM-125M"],
     ["google/gemma-3-1b-it", "facebook/MobileLLM-125M"]),
    (["unsloth/Llama-3.2-1B", "bigcode/tiny_starcoder_py", "bigcode/starcoder2-3b", "HuggingFaceTB/SmolLM2-135M"],
     ["bigcode/starcoder2-3b"]),
])
def test_models_of_owners_who_ask_for_a_licence_are_named_and_those_of_others_are_not(tmp_path, models, gated):
    file = tmp_path / "s.yaml"
    file.write_text(f"method: grid\nmetric: {{name: eval/bits_per_byte, goal: minimize}}\n"
                    f"parameters: {{model: {{values: {json.dumps(models)}}}}}\n")
    assert gated_models(KernelOrder(sweep=str(file)), lambda address: None) == tuple(gated)


@pytest.mark.parametrize(("more", "warned"), [("", True), ("  load_in_4bit: {value: false}\n", False),
                                              ("  load_in_4bit: {value: false}\n  optim: {value: adamw_8bit}\n", True)])
def test_a_push_without_the_internet_says_at_once_that_4_bits_need_a_wheel(tmp_path, more, warned):
    file, told = tmp_path / "mine.yaml", []
    file.write_text("method: random\nmetric: {name: eval/loss, goal: minimize}\nrun_cap: 1\nparameters:\n"
                    "  learning_rate: {values: [1.0e-3]}\n  model: {value: /kaggle/input/base}\n"
                    f"  dataset: {{value: /kaggle/input/rows}}\n{more}")
    order = KernelOrder(sweep=str(file), owner=OWNER, internet=False, datasets=(f"{OWNER}/base",))
    make_spec(order, {"PATH": ""}, told.append, asks_kaggle=False)
    assert any(line.startswith("warning: Kaggle's image lacks bitsandbytes") and "--dataset" in line
               for line in told) == warned


@pytest.mark.parametrize(("model", "in_4_bits", "warned"), [
    ("/kaggle/input/models/me/base/transformers/default/1", False, []),
    ("/kaggle/input/models/me/base/transformers/default/1", True, ["Kaggle's image lacks bitsandbytes"]),
    ("", True, ["studies/elsewhere is not on this machine", "Kaggle's image lacks bitsandbytes"]),
    ("HuggingFaceTB/SmolLM2-135M", True, None),
])
@pytest.mark.parametrize("task", ["export", "try"])
def test_a_push_without_the_internet_knows_whether_a_study_can_have_its_base(tmp_path, task, model, in_4_bits, warned):
    study, told = "studies/elsewhere" if not model else str(tmp_path / "study"), []
    if model:
        with Study.open_for_writing(Path(study), name="a", sweep={}, metric="eval/loss", goal="minimize",
                                    seed=0) as record:
            record.record_start(Trial(id="0000", number=0, params={"model": model, "load_in_4bit": in_4_bits}), {})
            record.record_end(TrialResult(id="0000", status=Status.COMPLETE, metric=1.0, reason=""))
    order = KernelOrder(sweep=study, task=task, owner=OWNER, internet=False, kernels=(f"{OWNER}/trained",))
    if warned is None:
        with pytest.raises(KernelError, match=f"cannot fetch {model}, the base of .*; leave out --no-internet"):
            make_spec(order, {"PATH": ""}, told.append, asks_kaggle=False)
        write_best(read_study(Path(study)))
        with pytest.raises(KernelError, match=f"cannot fetch {model} from the hub; .* write its path into a copy of "
                                              f"{study}/best.yaml, for this, under "):
            make_spec(replace(order, task="train"), {"PATH": ""}, told.append, asks_kaggle=False)
        return
    make_spec(order, {"PATH": ""}, told.append, asks_kaggle=False)
    said = [line.removeprefix("warning: ") for line in told if "keys are stored" not in line]
    assert [said[number][:len(start)] for number, start in enumerate(warned)] == warned
    assert len(said) == len(warned)
    make_spec(replace(order, internet=True), {"PATH": ""}, told.append, asks_kaggle=False)
    assert len(told) == len(said) + 2


@pytest.mark.parametrize("internet", [True, False])
@pytest.mark.parametrize(("model", "where"), [
    ("demo", "the demo base, whose weights stay on this machine"), ("./mine", "./mine, which is on this machine"),
    ("here", "here, which is on this machine")])
def test_a_push_of_a_study_whose_base_is_on_this_machine_alone_is_refused(tmp_path, monkeypatch, model, where,
                                                                         internet):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with Study.open_for_writing(tmp_path / "study", name="a", sweep={}, metric="eval/loss", goal="minimize",
                                seed=0) as record:
        record.record_start(Trial(id="0000", number=0, params={"model": model}), {})
        record.record_end(TrialResult(id="0000", status=Status.COMPLETE, metric=1.0, reason=""))
    order = KernelOrder(sweep="study", task="export", owner=OWNER, internet=internet, kernels=(f"{OWNER}/trained",))
    with pytest.raises(KernelError, match=f"would not find the base of study: {where}; run it here: python -m "
                                          f"kaggle_runner export study$"):
        make_spec(order, {"PATH": ""}, [].append, asks_kaggle=False)


def test_a_study_goes_on_from_session_to_session(desk):
    with Study.open_for_writing(desk.directory / "study", name="a", sweep={}, metric="eval/loss", goal="minimize",
                                seed=0) as study:
        study.record_start(Trial(id="0000", number=0, params={}), {})
    journal = (study.directory / "trials.jsonl").read_bytes()
    desk.server.add_dataset("old-study", {"studies/any/trials.jsonl": journal})
    launch = Launch(arguments=("sweep", "any.yaml", "--study", "studies/any", "--cpu", "--help"))
    spec = replace(SPEC, machine_shape="", launch=launch, datasets=(f"{OWNER}/old-study",))
    verdict = push.push_sessions(
        desk.kaggle, spec, desk.directory / "folder", desk.directory / "output", desk.told.append,
        show=desk.lines.append, environ=desk.environ, sessions=2, patience=HURRY)
    assert (verdict.exit_status, verdict.goes_on, verdict.result["unfinished_trials"]) == (0, True, 1)
    assert list(desk.server.kernels) == [SPEC.slug, f"{SPEC.slug}-session-2"]
    assert desk.server.kernels[f"{SPEC.slug}-session-2"].request["kernelDataSources"] == [SPEC.ref]
    continued = [line for line in desk.lines if line.startswith("continue the study of")]
    assert [line.split("kaggle/input/")[1] for line in continued] == [
        "datasets/tester/old-study/studies/any", "notebooks/tester/kaggle-runner-abc123/studies/any"]
    assert (desk.directory / "output" / "studies" / "any" / "trials.jsonl").exists()
    assert "session 1 of 2 left work: trials are unfinished" in desk.told
    third = next_session(next_session(spec, SPEC.ref), f"{SPEC.ref}-session-2")
    assert (third.title, third.kernels) == ("kaggle runner abc123 session 3", (f"{SPEC.ref}-session-2",))
    assert verdict.ref == f"{SPEC.ref}-session-2"
    again = going_on(replace(spec, kernels=("tester/other", verdict.ref)))
    assert (again.title, again.kernels) == ("kaggle runner abc123 session 3", ("tester/other", verdict.ref))
    assert going_on(replace(spec, kernels=("tester/other",))).title == spec.title


def test_the_network_may_go_and_come_back_in_the_middle_of_the_log(desk):
    script = f"print('one')\nprint('two', flush=True)\n{WAIT_FOR_GO}print('three')\n{RESULT}"
    desk.server.log_cuts = [(1, "reset"), (2, "silent")]
    push.push(desk.kaggle, desk.prepare(replace(SPEC, machine_shape=""), script))
    errors = []

    class Told(list):
        def append(self, line):
            super().append(line)
            if "trying again" in line:  # at the first answer that is missed, before the next is asked for
                (desk.server.session(SPEC.slug).root / "home" / "go").touch()
                desk.server.down = False

    desk.told = Told()

    def disturb():
        try:
            until(lambda: desk.lines == ["one", "two"] and desk.server.log_cuts == [])
            time.sleep(2.5)  # a log that is followed for longer than Kaggle may be unreachable
            desk.server.down = True
        except BaseException as error:
            errors.append(error)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    assert desk.wait(patience=replace(HURRY, unreachable_s=2)).exit_status == 0
    disturber.join()
    assert errors == []
    assert desk.lines == ["one", "two", "three"]
    assert any("trying again" in line for line in desk.told)


def test_a_network_that_stays_away_is_given_up_and_the_kernel_goes_on(desk):
    push.push(desk.kaggle, desk.prepare(replace(SPEC, machine_shape=""), WAIT_FOR_GO))
    desk.server.down = True
    with refused(Refusal.NETWORK, r"could not be reached for 0 s; the kernel goes on .* logs -f tester/"):
        desk.wait(patience=replace(HURRY, unreachable_s=0))
    assert desk.server.wait(SPEC.slug, until=("RUNNING", *ENDED)).status == "RUNNING"


def test_a_kernel_that_stays_queued_is_given_up_with_what_to_do(desk):
    desk.server.queue_s = 3600
    push.push(desk.kaggle, desk.prepare(replace(SPEC, machine_shape=""), RESULT))
    with refused(Refusal.QUEUE, r"still queued after 0.0167 minutes: .* push again with another image"):
        desk.wait(patience=replace(HURRY, queue_s=1))
    assert desk.told == [f"{SPEC.ref} is queued"]


def test_a_session_that_failed_or_was_cancelled_has_no_verdict_and_an_old_one_is_not_taken_for_it(desk):
    (desk.directory / "output").mkdir()
    (desk.directory / "output" / "result.json").write_text('{"exit_status": 0}')
    script = f"{RESULT}print('disk on fire', flush=True)\nraise SystemExit(3)\n"
    push.push(desk.kaggle, desk.prepare(replace(SPEC, machine_shape=""), script))
    with refused(Refusal.NO_VERDICT, r"ended as error without result.json; the last line .* disk on fire"):
        desk.wait()
    cancelled = program.State(status="CANCEL_ACKNOWLEDGED")
    with refused(Refusal.NO_VERDICT, r"it was cancelled, on its page or at its time limit.*shorter --deadline"):
        watch.fetch(desk.kaggle, SPEC.ref, cancelled, desk.directory / "output", patience=HURRY)


def test_two_running_sessions_are_named_when_kaggle_refuses_a_third(desk):
    desk.server.other_gpu_sessions = 1
    folder = desk.prepare(script=WAIT_FOR_GO)
    push.push(desk.kaggle, folder)
    desk.server.wait(SPEC.slug, until=("RUNNING",))
    with refused(Refusal.CAPACITY, f"Maximum batch GPU session count of 2 reached.*running now: {SPEC.ref}"):
        push.push_once(desk.kaggle, replace(SPEC, title="kaggle runner other"), desk.directory / "other",
                                  desk.told.append, desk.environ)
    assert f"{SPEC.ref} is running too; Kaggle has room for two sessions with a GPU" in desk.told


def test_a_used_up_quota_is_seen_before_the_push_and_where_that_fails_by_the_push(desk):
    desk.server.used_hours = 30.0
    folder = desk.prepare(script=RESULT)
    with refused(Refusal.QUOTA, r"30.0 of 30.0 GPU hours of this week are used; wait until 2026-10-31"):
        push.check_before_push(desk.kaggle, folder)
    desk.server.has_quota_statistics = False
    assert push.check_before_push(desk.kaggle, folder) is None
    with refused(Refusal.QUOTA, r"Maximum weekly GPU quota of 30.00 hours reached; wait for the next week"):
        push.push(desk.kaggle, folder)


def test_an_input_that_kaggle_would_drop_is_seen_before_the_push_and_after_it(desk):
    desk.server.add_dataset("my-rows", {"rows.csv": b"1"}, ready_in_s=3600)
    folder = desk.prepare(replace(SPEC, machine_shape="", datasets=(f"{OWNER}/my-rows",)), RESULT)
    with refused(Refusal.SOURCE, r"dataset tester/my-rows cannot be mounted .*still being processed"):
        push.check_before_push(desk.kaggle, folder)
    with refused(Refusal.SOURCE, r"left out dataset 'tester/my-rows' and runs .* kaggle kernels delete -y tester/"):
        push.push(desk.kaggle, folder)


def test_what_kaggle_saved_differently_is_said(desk):
    model = "google/gemma/transformers/2b/2"  # the program says nothing of an unknown one
    folder = desk.prepare(replace(SPEC, machine_shape="NvidiaTeslaP100", models=(model,)), WAIT_FOR_GO)
    pushed = push.push(desk.kaggle, folder)
    (folder.path / CODE_FILE).write_text(RESULT)
    assert push.saved_differently(desk.kaggle, pushed, folder) == (
        "machine_shape is 'NvidiaTeslaT4' and not 'NvidiaTeslaP100'",
        f"model {model} is left out, as one that is unknown or whose licence you have not accepted; the kernel runs "
        f"without it", "the source is not the one that was pushed")


def test_an_account_of_somebody_else_is_refused(desk):
    folder = desk.prepare(replace(SPEC, owner="nobody", machine_shape=""), RESULT)
    with refused(Refusal.NAME, r"Notebook not found; the kernel's id must begin with your own .* --owner; the kaggle "
                               rf"program is logged in as {OWNER}, and not as nobody"):
        push.push(desk.kaggle, folder)


def test_a_kernel_that_was_saved_without_its_gpu_or_internet_is_refused_and_not_followed(desk):
    desk.server.phone_verified = False
    with refused(Refusal.SWITCHED_OFF, rf"saved {SPEC.ref} with its GPU and its internet off.*phone is not verified.*"
                                       r"https://www\.kaggle\.com/settings, under Phone Verification, and push again"):
        push.push_sessions(desk.kaggle, SPEC, desk.directory / "folder", desk.directory / "output", desk.told.append,
                           show=desk.lines.append, environ=desk.environ, patience=HURRY)
    assert desk.lines == []
    with refused(Refusal.SWITCHED_OFF, "with its internet off"):
        push.push_once(desk.kaggle, replace(SPEC, title="without a gpu", machine_shape=""), desk.directory / "folder",
                       desk.told.append, desk.environ)
    push.push_once(desk.kaggle, replace(SPEC, title="without anything", machine_shape="", internet=False),
                   desk.directory / "folder", desk.told.append, desk.environ)


@pytest.mark.parametrize(("machine", "message"), [
    ("T4", "no machine 'T4', and would run the kernel without a GPU; did you mean NvidiaTeslaT4. choose one of"),
    ("t4 x2", "did you mean NvidiaTeslaT4. "), ("nvidia-l4", "did you mean NvidiaL4. "),
    ("NvidiaTeslaT40", "did you mean NvidiaTeslaT4. "), ("A100", "did you mean NvidiaTeslaA100. "),
    ("RtxPro", "did you mean NvidiaRtxPro6000. "), ("quantum", "without a GPU; choose one of"),
    ("GPU T4 x2", "did you mean NvidiaTeslaT4. "), ("2xT4", "did you mean NvidiaTeslaT4. "),
    ("NvidaTeslaT4 ", "did you mean NvidiaTeslaT4. "), ("l4x4", "did you mean NvidiaL4. "),
    ("V100", "no machine 'V100', and would run the kernel without a GPU; choose one of"),
    ("cpu", "did you mean --cpu. "),
    ("P100", "no machine 'P100': it retired its P100 in September 2026, and torch has no kernels for one; take "
             "NvidiaTeslaT4"),
    ("TpuV5E8", "--machine TpuV5E8 has a TPU, and nothing here trains on one"), ("tpu v5e-8", "tpu v5e-8 has a TPU"),
    ("v6e8", "v6e8 has a TPU"), ("v5litepod-8", "has a TPU"), ("v5e", "has a TPU"), ("Trillium", "has a TPU"),
    ("T4×2", "did you mean NvidiaTeslaT4. "), ("Ｔ４", "did you mean NvidiaTeslaT4. "),
    ("T4,L4", "did you mean NvidiaTeslaT4. choose one of"), ("RTX 6000", "did you mean NvidiaRtxPro6000. "),
    ("highmem", "did you mean NvidiaTeslaT4Highmem. "), ("x" * 500, f"no machine '{'x' * 40}', and would"),
])
def test_a_machine_that_kaggle_does_not_have_is_refused_with_the_one_that_is_meant(machine, message):
    with refused(Refusal.MACHINE, message):
        replace(SPEC, machine_shape=machine)


@pytest.mark.parametrize(("title", "message"), [
    ("a", "becomes the slug 'a'; Kaggle wants 5 characters or more of both, and at most 50 of the slug; choose"),
    ("日本", "title '日本' becomes the slug 'ri-ben'; Kaggle wants 5 characters or more of both"),
    ("🤖" * 9, "slug ''"),
    ("x" * 51, "at most 50 of the slug; choose another one with --title"),
])
def test_a_title_that_kaggle_would_not_take_is_refused_before_the_push(title, message):
    with refused(Refusal.NAME, message):
        replace(SPEC, title=title)


def test_a_key_is_no_title():
    with pytest.raises(SecretError, match=r"the title looks like a W&B key, and would be in the address .* --title"):
        replace(SPEC, title=WANDB_KEY)


def test_a_program_that_cannot_be_started_is_said(desk):
    gone = replace(desk.kaggle, program=Path("/nowhere/kaggle"))
    with refused(Refusal.OTHER, r"/nowhere/kaggle cannot be started: No such file .*KAGGLE_RUNNER_KAGGLE"):
        push.push(gone, desk.prepare(script=RESULT))


@pytest.mark.parametrize(("title", "slug"), [
    ("Übergrößen für 1,5 B", "ubergrossen-fur-15-b"), ("T4×2, café—crème", "t4x2-cafe-creme"),
    ("it's R&amp;D_50%", "it-s-r-d-50"), ("Ёлки 日本", "elki-ri-ben"),
])
def test_a_title_makes_the_slug_that_the_kaggle_program_expects(desk, title, slug):
    folder = desk.prepare(replace(SPEC, title=title, machine_shape=""), RESULT)
    assert folder.ref == f"{OWNER}/{slug}"
    answer = desk.kaggle.run(*push.push_arguments(folder))
    assert "successfully pushed" in answer.stdout
    assert "does not resolve" not in answer.stdout


def test_a_title_that_kaggle_reads_otherwise_is_followed_where_it_runs(desk):
    desk.server.slug_of = lambda title: "read-otherwise"
    pushed = push.push_once(desk.kaggle, replace(SPEC, machine_shape="", launch=Launch(arguments=("detect",))),
                            desk.directory / "folder", desk.told.append, desk.environ)
    assert pushed.ref == f"{OWNER}/read-otherwise"
    assert f"warning: Kaggle saved {SPEC.ref} as {OWNER}/read-otherwise and runs it under that name" in desk.told
    assert read_ref(desk.directory / "folder") == f"{OWNER}/read-otherwise", "for `logs` and `pull` without a name"
    assert desk.wait(pushed.ref).exit_status == 0


def test_a_source_that_is_too_large_is_refused_by_the_push_too(desk):
    folder = desk.prepare(replace(SPEC, machine_shape=""), "#" * 1_000_001)
    with refused(Refusal.TOO_LARGE, "Kaggle refuses a source over 1 MB; leave out large files, or mount them as a"):
        push.push(desk.kaggle, folder)


def test_missing_credentials_are_said(desk):
    without = replace(desk.kaggle, environ=desk.environ | {"KAGGLE_USERNAME": "", "KAGGLE_KEY": ""})
    with refused(Refusal.ACCESS, r"no credentials, or wrong ones; run: kaggle auth login"):
        push.push(without, desk.prepare(script=RESULT))
    assert program.find_owner(desk.kaggle) == OWNER
    with pytest.raises(KernelError, match="no credentials"):
        program.find_owner(without)


def test_a_key_is_replaced_in_place(desk):
    keys.put_secret(desk.kaggle, "wandb", "a" * 40, desk.told.append, owner=OWNER, poll_s=0.2)
    keys.put_secret(desk.kaggle, "wandb", WANDB_KEY, desk.told.append, owner=OWNER, poll_s=0.2)
    stored = desk.server.datasets["kaggle-runner-wandb"]
    assert (stored.version, stored.private) == (2, True)
    assert WANDB_KEY in (stored.directory / "kaggle_runner_secret.json").read_text()
    assert not any(WANDB_KEY in line for line in desk.told)
    assert list((desk.directory / "home").rglob("kaggle_runner_secret.json")) == []
    stored.private = False
    with refused(Refusal.NAME, rf"{OWNER}/kaggle-runner-wandb is public, so everybody could read the key; delete it"):
        keys.put_secret(desk.kaggle, "wandb", "b" * 40, desk.told.append, owner=OWNER, poll_s=0.2)
    assert desk.server.datasets["kaggle-runner-wandb"] is stored


def test_a_folder_is_checked_as_the_server_will(tmp_path):
    folder = prepare(SPEC, tmp_path, {})
    assert (folder.ref, folder.gpu, folder.sources) == (SPEC.ref, True, ())
    assert push.push_arguments(folder) == ["kernels", "push", "-p", str(tmp_path)]
    metadata = json.loads((tmp_path / "kernel-metadata.json").read_text())
    assert (metadata["is_private"], metadata["enable_internet"]) == (True, True)
    assert metadata["machine_shape"] == "NvidiaTeslaT4"

    def check(refusal, match, **changes):
        (tmp_path / "kernel-metadata.json").write_text(json.dumps(metadata | changes))
        with refused(refusal, match):
            read_folder(tmp_path)

    check(Refusal.NAME, "title 'Other' becomes 'other', but the id says 'kaggle-runner-abc123'", title="Other")
    check(Refusal.NAME, "names no account; write your own before it", id="kaggle-runner-abc123")
    check(Refusal.OTHER, "is not a kernel's folder: .*kernel prepare SWEEP_ID", code_file="gone.py")
    (tmp_path / "big.py").write_text("#" * 1_000_001)
    check(Refusal.TOO_LARGE, "has 1000 KB and Kaggle takes 900; mount large files as a dataset", code_file="big.py")
    with pytest.raises(KernelError, match="'not me' is no Kaggle account; give yours with --owner"):
        replace(SPEC, owner="not me")
    with pytest.raises(KernelError, match="becomes the slug 'a'; Kaggle wants 5 characters or more of both"):
        replace(SPEC, title="a")
