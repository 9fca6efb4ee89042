"""What comes at an agent from outside: signals in its last seconds, answers that are lost, another agent's trials.

After each the server's states, the journal, the exit status and the processes that are left tell one story.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kaggle_runner.cli.look import open_trials
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.lock import this_process
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.wandb.checkpoints import ENDED
from tests.conftest import wait_for
from tests.standins.nvidia_smi import T4_X2, answering, path_with
from tests.standins.wandb_agent import Begin, halted_in, is_kept, left_in, path_of, pids_in, sweep_of
from tests.standins.wandb_client import MISSING, Client
from tests.standins.wandb_records import Run, Sweep
from tests.standins.wandb_server import WandbServer
from tests.test_cli_agent import Person, somebody

pytestmark = [pytest.mark.skipif(MISSING, reason="wandb is not installed"), pytest.mark.timeout(600)]
GOES_BACK = ["pending", "running", "preempting", "preempted"]
TOLD = """
    def tell(event):
        if event.kind == "note":
            say(note=event.text)
"""


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    with somebody(tmp_path) as person:
        yield person


def core_of(client: Client) -> int:
    """Return the process that W&B's client has started for a client process."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, facts = path.read_text().split("(", 1)[1].rsplit(")", 1)
            if name.startswith("wandb-core") and int(facts.split()[1]) == client.process.pid:
                return int(path.parent.name)
    raise AssertionError("it has none")


def is_pending(process: "subprocess.Popen[str]", number: int) -> bool:
    """Say whether a process has yet to take a signal that was sent to it."""
    facts = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return bool(int(facts["ShdPnd"], 16) >> (number - 1) & 1)


def left_behind(server: WandbServer, sweep: Sweep, directory: Path) -> Run:
    """Return a run whose agent, on this machine and of a study, is gone without a word."""
    agent = server.state.create_agent({"sweep": sweep.name, "projectName": "demo"})
    _, (job,) = server.state.heartbeat({"id": agent.id})
    run, _ = server.state.upsert_run({"name": job["run_id"], "host": socket.gethostname()})
    with Study.open_for_writing(directory, name=sweep.name, sweep=sweep.config, metric="eval/loss", goal="minimize",
                                seed=None) as study:
        study.record_start(Trial(id=run.name, number=0, params=run.args), {})
    return run


def test_a_signal_in_an_agents_first_and_last_seconds_leaves_no_run_that_nobody_holds(
    person: Person, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """While a killed agent's trial goes back, when W&B does not answer to that, and when the sweep is over."""
    server, command = person.server, ("agent", "--study", "study", "--no-pruning")
    run = left_behind(server, sweep := server.create_sweep(sweep_of(fixed, run_cap=1)), tmp_path / "study")

    server.fault(match="UpsertBucket", status=500, delay_s=300.0)
    process = person.start(*command, path_of(sweep))
    server.wait_for(lambda state: server.faults[0].left < 2**63 - 1)
    process.send_signal(signal.SIGINT)
    _, silent = person.end(process, 130)
    assert (run.states, sweep.queue) == (["pending", "running"], [])
    server.heal()

    server.fault(match="UpsertBucket", delay_s=300.0, count=1)
    process = person.start(*command, path_of(sweep))
    server.wait_for(lambda state: server.faults[0].left == 0)
    process.send_signal(signal.SIGTERM)
    assert wait_for(lambda: not is_pending(process, signal.SIGTERM)), "it has it"
    server.heal()
    _, slow = person.end(process, 130)
    assert (run.states, sweep.queue) == (GOES_BACK, [run.name])
    (record,) = read_study(tmp_path / "study").records
    assert record.result is not None
    assert record.result.status is Status.PREEMPTED
    assert f"W&B did not get the end of its last session; run {run.name} goes back to the sweep's queue" in slow

    server.fault(match="Sweep", delay_s=300.0, when=lambda: run.state == "finished")
    process = person.start(*command, path_of(sweep))
    server.wait_for(lambda state: server.faults[-1].left < 2**63 - 1)
    process.send_signal(signal.SIGTERM)
    _, over = person.end(process, 130)
    for stderr in (silent, slow, over):
        assert stderr.splitlines()[-1].startswith("interrupted")
    assert (run.states, run.starts) == ([*GOES_BACK, "pending", "running", "finished"], 3)
    assert left_in(tmp_path) == []
    (record,) = read_study(tmp_path / "study").records
    assert record.result is not None
    assert record.result.status is Status.COMPLETE


def test_a_trial_whose_answer_was_lost_on_its_way_goes_back_and_is_trained(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """The server handed it out, and the client never heard of it; W&B shows such a run as pending for ever."""
    with WandbServer() as server:
        sweep = server.create_sweep(sweep_of(fixed, run_cap=2))
        server.fault(status=500, match="Heartbeat", after=True, count=1)
        client = begin(server, f"{TOLD}\n    agent(sys.argv[1], notify=tell)", path_of(sweep)).finish(250)
        lost, other = server.state.runs.values()
    assert f"run {lost.name} goes back to the sweep's queue: W&B's answer with it never came" in client.facts["note"]
    assert client.facts["reason"] == ["the sweep is finished: it has all its trials"]
    assert client.facts["exit_status"] == [0]
    assert lost.states == [*GOES_BACK, "pending", "running", "finished"]
    assert other.states == ["pending", "running", "finished"]
    assert {record.trial.id for record in read_study(tmp_path / "study").finished} == {lost.name, other.name}
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("has", "state", "sweeps"), [
    ("its checkpoint", "crashed", "RUNNING"), ("none", "crashed", "FINISHED"), ("none", "running", "RUNNING")])
def test_an_end_that_only_the_journal_has_is_told_and_the_rows_are_not_those_sent_in_mid_trial(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path, has: str, state: str, sweeps: str
) -> None:
    """The agent is killed when the journal has the trial's end, before W&B has it: W&B may have freed the checkpoint by
    then, and calls the run running for a while."""
    body = f"""{TOLD}
    agent(sys.argv[1], count=1, notify=HaltedOnce("study", tell, at="checkpoint"), pruning=False)
    """
    long = {**fixed, "max_tokens": {"value": 64 * 800}, "evaluations": {"value": 8}}
    with WandbServer() as server:
        sweep = server.create_sweep(sweep_of(long, run_cap=1))
        doomed = begin(server, body, path_of(sweep), KAGGLE_RUNNER_UPLOAD_EVERY_S="3600")
        server.wait_for(lambda state: (tmp_path / "halted-study").is_file() and state.runs
                        and len(server.run(0).files.get("kept/checkpoint.pt", b"")) > 1000, 250)
        (run,), history = server.state.runs.values(), tmp_path / "study/trials" / server.run(0).name / "history.jsonl"
        server.fault(status=500, match="file_stream")
        if has != "none":
            server.fault(status=500, match="CreateRunFiles")
        os.kill(int((tmp_path / "halted-study").read_text()), signal.SIGCONT)
        assert wait_for(lambda: read_study(tmp_path / "study").finished, 200)
        if has == "none":
            server.wait_for(lambda state: run.files["kept/checkpoint.pt"] == ENDED.encode(), 60)
        doomed.kill()
        assert left_in(tmp_path) == []
        server.heal()
        written = history.read_bytes()
        server.state.crash_after_s = 300.0 if state == "running" else 3.0  # for the cloud's five minutes
        server.wait_for(lambda _: run.state == state, 60)
        server.state.crash_after_s = 300.0
        server.state.set_sweep_state(sweep.name, sweeps)
        back = begin(server, f"{TOLD}\n    agent(sys.argv[1], notify=tell)", path_of(sweep)).finish(200)
    assert run.states == ["pending", "running", *(["crashed", "running"] if state == "crashed" else []), "finished"]
    assert back.facts["reason"][0].startswith("the sweep is finished: it has all its trials" if sweeps == "RUNNING" else
                                              f"the sweep {path_of(sweep)} is finished")
    assert "had no end" not in back.facts["reason"][0]
    assert f"W&B did not get the end of trial {run.name}, whose agent is gone: telling it" in back.facts["note"]
    assert run.files["kept/checkpoint.pt"] == ENDED.encode()
    assert run.summary["outcome"] == "complete"
    assert not any("fetched" in note for note in back.facts["note"])
    assert history.read_bytes() == written
    rows = read_study(tmp_path / "study").history(run.name)
    assert run.column("eval/loss") == [row["eval/loss"] for row in rows if "eval/loss" in row]


def test_a_trial_that_went_on_in_another_study_of_this_machine_is_not_taken_from_it(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """Two studies of one sweep: one's agent is killed in mid-trial, the other's takes the trial, the first starts.

    The server's clock is an hour ahead: who is alive is W&B's word, and not a matter of clocks.
    """
    body = f"{TOLD}\n    agent(sys.argv[1], study=sys.argv[2], count=1, notify=HaltedOnce(sys.argv[2], tell))"
    long = {**fixed, "max_tokens": {"value": 64 * 800}, "evaluations": {"value": 8}}
    upload = {"KAGGLE_RUNNER_UPLOAD_EVERY_S": "0"}
    first = (f"{TOLD}\n    notify = HaltedOnce('first', tell, at='checkpoint')\n"
             f"    agent(sys.argv[1], study='first', count=1, notify=notify, pruning=False)")
    with WandbServer(ahead_s=3600.0) as server:
        sweep = server.create_sweep(sweep_of(long))
        doomed = begin(server, first, path_of(sweep), **upload)
        server.wait_for(lambda state: halted_in(tmp_path, "first") and server.run(0).history and is_kept(server.run(0)),
                        250)
        doomed.kill()
        os.kill(halted_in(tmp_path, "first"), signal.SIGKILL)  # a halted one cannot end by itself
        assert left_in(tmp_path) == []  # wandb-core before 0.31 outlives its client, and may send a last word
        server.state.crash_after_s = 3.0  # for the cloud's five minutes
        run = server.wait_for(lambda state: server.run(0) if server.run(0).state == "crashed" else None, 60)
        server.state.crash_after_s, rows = 300.0, len(run.history)
        other = begin(server, body, path_of(sweep), "other", **upload)
        server.wait_for(lambda state: halted_in(tmp_path, "other") and len(run.history) > rows, 250)
        back = begin(server, first, path_of(sweep), **upload).finish(250)
        assert run.state == "running"
        os.kill(halted_in(tmp_path, "other"), signal.SIGCONT)
        done = other.finish(250)
        second = server.run(1)
    assert back.facts["exit_status"] == done.facts["exit_status"] == [0]
    assert run.states == ["pending", "running", "crashed", "running", "preempting", "preempted", "pending", "running",
                          "finished"]
    assert second.states == ["pending", "running", "finished"]
    ends = {record.trial.id: record.result for record in read_study(tmp_path / "first").records}
    assert ends[run.name].reason == f"its agent was killed; it goes on on {tmp_path}/other"
    assert ends[run.name].status is Status.PREEMPTED
    assert ends[second.name].status is Status.COMPLETE
    (record,) = read_study(tmp_path / "other").finished
    assert (record.trial.id, record.result.status) == (run.name, Status.COMPLETE)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("what", ["asleep", "cut off"])
def test_an_agent_that_was_silent_until_another_had_its_trial_lets_it_go_and_goes_on(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path, what: str
) -> None:
    """A machine that sleeps is all of the agent's processes, halted; one that is cut off only W&B's own process."""
    long = {**fixed, "max_tokens": {"value": 64 * 800}, "evaluations": {"value": 8}}
    upload = {"KAGGLE_RUNNER_UPLOAD_EVERY_S": "0"}
    first = f"""{TOLD}
    def tell_ends(event):
        tell(event)
        if event.kind == "trial_ended":
            say(of_trial=[event.trial, event.status, event.reason])
    notify = HaltedOnce("first", tell_ends, at="checkpoint")
    agent(sys.argv[1], study="first", notify=notify, pruning=False, told_s=float(sys.argv[2]), slept_s=1.0)
    """
    second = f"{TOLD}\n    agent(sys.argv[1], study='other', count=1, notify=HaltedOnce('other', tell))"
    with WandbServer() as server:
        sweep = server.create_sweep(sweep_of(long, run_cap=2))
        late = begin(server, first, path_of(sweep), "600" if what == "asleep" else "1", **upload)
        server.wait_for(lambda state: halted_in(tmp_path, "first") and server.run(0).history and is_kept(server.run(0))
                        and server.run(0).config.get("_holder"), 250)
        looks = server.state.ops.count("Run")
        wait_for(lambda: server.state.ops.count("Run") > looks, 8.0)  # unless it has seen that it holds the run
        halted = [late.process.pid, core_of(late)] if what == "asleep" else [core_of(late)]
        for pid in halted:
            os.kill(pid, signal.SIGSTOP)
        server.state.crash_after_s = 3.0  # for the cloud's five minutes
        run = server.wait_for(lambda state: server.run(0) if server.run(0).state == "crashed" else None, 60)
        server.state.crash_after_s, rows = 300.0, len(run.history)
        other = begin(server, second, path_of(sweep), **upload)
        server.wait_for(lambda state: halted_in(tmp_path, "other") and len(run.history) > rows, 250)
        for pid in (*halted, halted_in(tmp_path, "first")):
            os.kill(pid, signal.SIGCONT)
        came_back = late.finish(250).facts
        assert "Traceback" not in late.text
        assert run.state == "running", "nobody ends what is another's"
        os.kill(halted_in(tmp_path, "other"), signal.SIGCONT)
        done = other.finish(250)
        second_run = server.run(1)
    lost = f"lost to {tmp_path}/other on {socket.gethostname()}: W&B had no word from here for so long"
    (trial, status, reason), (own, how, _) = came_back["of_trial"]
    assert (trial, status, own, how) == (run.name, "preempted", second_run.name, "complete")
    assert reason.startswith(lost)
    assert came_back["reason"] == ["the sweep is finished: it has all its trials"]
    assert came_back["exit_status"] == done.facts["exit_status"] == [0]
    assert run.states[-2:] == ["running", "finished"]
    first_study = read_study(tmp_path / "first")
    assert [record.trial.id for record in first_study.finished] == [second_run.name]
    assert [record.trial.id for record in first_study.records if record.is_lost] == [run.name]
    assert open_trials(first_study) == "", "what is another's is not open here"
    assert [record.trial.id for record in read_study(tmp_path / "other").finished] == [run.name]
    assert [row["train/global_step"] for row in run.history] == [
        row["step"] for row in read_study(tmp_path / "other").history(run.name)]
    assert left_in(tmp_path) == []


def test_w_and_bs_own_process_that_dies_or_is_halted_in_mid_trial_loses_no_row_and_ends_the_agent(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """The trial goes on, its run is opened anew at its end, and no other job is taken."""
    body = "agent(sys.argv[1], study=sys.argv[2], notify=HaltedOnce(sys.argv[2]))"
    with WandbServer() as first, WandbServer() as second:
        servers = {"killed": (first, signal.SIGKILL), "halted": (second, signal.SIGSTOP)}
        started = {name: begin(server, body, path_of(server.create_sweep(sweep_of(fixed))), name)
                   for name, (server, _) in servers.items()}
        for name, (server, number) in servers.items():
            server.wait_for(lambda state, name=name: halted_in(tmp_path, name) and any(
                run.history for run in state.runs.values()), 250)
            os.kill(core_of(started[name]), number)
            os.kill(halted_in(tmp_path, name), signal.SIGCONT)
        facts = {name: client.finish(250).facts for name, client in started.items()}
    for name, (server, _) in servers.items():
        (run,), study = server.state.runs.values(), read_study(tmp_path / name)
        assert (run.states, run.exitcode) == (["pending", "running", "finished"], 0)
        assert [row["train/global_step"] for row in run.history] == [row["step"] for row in study.history(run.name)]
        assert [record.result.status for record in study.records] == [Status.COMPLETE]
        assert facts[name]["reason"] == ["W&B's own process died and was started anew, which its agent does not "
                                         "survive; run the same command again"]
        assert facts[name]["exit_status"] == [1]
    assert left_in(tmp_path) == []


def test_a_page_in_place_of_an_answer_is_told_while_a_trial_is_waited_for_and_is_no_end(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """Of a login, which the client takes for an answer, and of a proxy, which its own process asks again and again.

    wandb 0.26 has no such process: it asks both again and again, and tells its log of each error of HTTP and of a third
    page.
    """
    page = b"<html><body>please log in</body></html>"
    body = f"{TOLD}\n    agent(sys.argv[1], study=sys.argv[2], notify=tell, no_job_s=float(sys.argv[3]), told_s=3.0)"
    with WandbServer() as login, WandbServer() as proxy, WandbServer() as once:
        login.fault(status=200, match="Heartbeat", page=page)
        proxy.fault(status=502, match="Heartbeat", page=page)
        once.fault(status=200, match="Heartbeat", page=page, count=3)
        agents = ((login, "login", "20"), (proxy, "proxy", "20"), (once, "once", "200"))
        started = [begin(server, body, path_of(server.create_sweep(sweep_of(fixed, run_cap=1))), name, patience_s)
                   for server, name, patience_s in agents]
        in_login, in_proxy, in_once = (client.finish(250).facts for client in started)
    is_no_answer = ": that is a page in W&B's place, as of a proxy or a login"
    again = f"again what was answered with HTTP 502: {page.decode()}"
    told, last = f"W&B's client tries {again}", f"its client last tried {again}"
    if in_proxy["version"][0].startswith("0.26."):
        told, last = "W&B answers a request for one with: 502 Server Error: ", " for one with: 502 Server Error: "
    assert any("W&B answers a request for one with: " in note and is_no_answer in note for note in in_login["note"])
    assert any(told in note for note in in_proxy["note"])
    assert is_no_answer in in_login["reason"][0]
    assert re.search(f"though the sweep is running: .*{re.escape(last)}", in_proxy["reason"][0])
    assert any(is_no_answer in note for note in in_once["note"])
    assert in_once["reason"] == ["the sweep is finished: it has all its trials"]
    assert (in_login["exit_status"], in_proxy["exit_status"], in_once["exit_status"]) == ([1], [1], [0])
    assert [run.states for run in once.state.runs.values()] == [["pending", "running", "finished"]]
    assert login.state.runs == proxy.state.runs == {}
    assert left_in(tmp_path) == []


def test_a_page_in_place_of_an_answer_is_told_as_one_also_where_an_agent_registers_and_where_a_run_is_opened(
    begin: Begin, fixed: dict[str, Any]
) -> None:
    """wandb 0.26 asks again and again to register, so one page there costs a second, and many are told as such."""
    page = b"<html><body>please log in</body></html>"
    body = "agent(sys.argv[1], study=sys.argv[2], no_job_s=float(sys.argv[3]))"
    with WandbServer() as registering, WandbServer() as opening:
        started = []
        for server, asked, count, patience_s in ((registering, "CreateAgent", 100, "20"),
                                                 (opening, "UpsertBucket", 1, "200")):
            server.fault(status=200, match=asked, page=page, count=count)
            sweep = server.create_sweep(sweep_of(fixed, run_cap=1))
            started.append(begin(server, body, path_of(sweep), asked, patience_s))
        facts, opened = (client.finish(250).facts for client in started)
        (run,) = opening.state.runs.values()
    is_no_answer = ": that is a page in W&B's place, as of a proxy or a login"
    (registered,), (opened,) = facts["reason"], opened["reason"]
    if facts["version"][0].startswith("0.26."):
        assert registered.startswith("W&B handed out no trial for ")
        assert f" for one with: Expecting value: line 1 column 1 (char 0){is_no_answer}; " in registered
    else:
        assert registered.startswith("W&B gave no agent for the sweep ")
        assert registered.endswith(is_no_answer)
    assert opened.startswith("W&B did not open the run of a trial that it handed out: ")
    assert opened.endswith(f"{is_no_answer}; run the same command again")
    assert (run.states, opening.sweep.queue, registering.state.runs) == (GOES_BACK, [run.name], {})


def test_what_crashed_elsewhere_is_taken_up_by_an_agent_between_two_of_its_trials_and_of_a_finished_sweep(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """A run of another machine that sent a checkpoint, and one that crashed when the sweep was over.

    The machine has two GPUs, whose agents look both, and one of them gives it back.
    """
    body = f"{TOLD}\n    agent(sys.argv[1], notify=tell, look_s=0.0)"
    path = f"{path_with(tmp_path / 'bin', answering(T4_X2)).split(':', 1)[0]}:{os.environ['PATH']}"

    def crash(server: WandbServer, sweep: Sweep) -> Run:
        agent = server.state.create_agent({"sweep": sweep.name, "projectName": "demo"})
        _, (job,) = server.state.heartbeat({"id": agent.id})
        run, _ = server.state.upsert_run({"name": job["run_id"], "host": "elsewhere"})
        run.files["kept/checkpoint.pt"] = bytes(1000)
        return run

    with WandbServer() as server, WandbServer() as over:
        # one trial more than both begin with: else both may end before one looks, and the sweep is over
        server.fault(match="RunResumeStatus", delay_s=200.0)  # none of the first two ends before the run has crashed
        sweep, finished = server.create_sweep(sweep_of(fixed, run_cap=4)), over.create_sweep(sweep_of(fixed, run_cap=1))
        run, late = crash(server, sweep), crash(over, finished)
        client = begin(server, body, path_of(sweep), PATH=path)
        server.wait_for(lambda state: len(state.runs) == 3, 200)
        run.move("crashed")
        server.heal()
        over.state.set_sweep_state(finished.name, "FINISHED")
        late.move("crashed")
        client.finish(250)
        elsewhere = f"{TOLD}\n    agent(sys.argv[1], study='late', notify=tell)"  # both servers name their runs alike
        refused = begin(over, elsewhere, path_of(finished)).finish(250)
        others = server.run(1), server.run(2), server.run(3)
    why = "its agent is gone, and its checkpoint is on W&B"
    assert client.facts["note"].count(f"{why}; run {run.name} goes back to the sweep's queue, and resumes") == 1
    assert run.states == ["pending", "running", "crashed", "running", "preempting", "preempted", "pending", "running",
                          "finished"]
    assert [other.states for other in others] == [["pending", "running", "finished"]] * 3
    assert client.facts["reason"] == ["the sweep is finished: it has all its trials"]
    names = {run.name, *(other.name for other in others)}
    assert {record.trial.id for record in read_study(tmp_path / "study").finished} == names
    assert (late.states[-1], finished.queue) == ("preempted", [late.name])
    assert refused.facts["reason"][0].endswith("and then this again: 1 trial of it had no end")
    assert left_in(tmp_path) == []


def test_of_two_agents_of_one_study_the_one_that_is_killed_costs_the_other_nothing_and_its_next_start_nothing(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """Each has a GPU of its own. One is killed before the run of its job is opened, of which the journal has no word,
    and again in mid-trial; the other's worker is halted meanwhile, so that it is in mid-trial all the time.

    The server's clock is an hour behind.
    """
    body = f"{TOLD}\n    agent(sys.argv[1], count=1, look_s=0.0, notify=HaltedOnce(sys.argv[2], tell))"
    path = f"{path_with(tmp_path / 'bin', answering(T4_X2)).split(':', 1)[0]}:{os.environ['PATH']}"
    with WandbServer(ahead_s=-3600.0) as server:
        sweep = server.create_sweep(sweep_of(fixed))

        def start(gpu: str, name: str) -> Client:
            return begin(server, body, path_of(sweep), name, PATH=path, CUDA_VISIBLE_DEVICES=gpu)

        def halted(name: str, run: int) -> int:
            server.wait_for(lambda state: halted_in(tmp_path, name) and server.run(run).history, 250)
            return halted_in(tmp_path, name)

        other = start("1", "other")
        worker = halted("other", 0)
        server.fault(match="RunResumeStatus", delay_s=300.0)
        living = set(pids_in(tmp_path))
        doomed = start("0", "first")
        server.wait_for(lambda state: server.faults[0].left < 2**63 - 1, timeout_s=200)
        assert wait_for(lambda: len(read_study(tmp_path / "study").agents) == 2)
        doomed.kill()
        # wandb-core before 0.31 outlives its client for a moment, and opens the run if it is answered
        assert wait_for(lambda: set(pids_in(tmp_path)) <= living)
        server.heal()
        assert (server.run(1).states, len(read_study(tmp_path / "study").records)) == (["pending"], 1)
        doomed = start("0", "second")
        killed = halted("second", 1)
        doomed.kill()
        os.kill(killed, signal.SIGKILL)  # it cannot end by itself while it is halted
        kept, run = server.state.runs.values()
        kept.files["kept/checkpoint.pt"] = bytes(1000)
        kept.move("crashed")  # as when its network is silent for a while
        back = start("0", "second").finish(250)
        assert (kept.states[:3], run.states[-1]) == (["pending", "running", "crashed"], "finished")
        os.kill(worker, signal.SIGCONT)
        done = other.finish(250)
    again = [*GOES_BACK[1:], "pending", "running"]
    assert run.states == ["pending", *again, *again[1:], "finished"]
    assert (kept.states, kept.starts) == (["pending", "running", "crashed", "running", "finished"], 1)
    assert back.facts["exit_status"] == done.facts["exit_status"] == [0]
    records = {record.trial.id: record for record in read_study(tmp_path / "study").records}
    assert {name: (record.result.status, record.attempts) for name, record in records.items()} == {
        kept.name: (Status.COMPLETE, 1), run.name: (Status.COMPLETE, 2)}
    for each in (kept, run):
        rows = read_study(tmp_path / "study").history(each.name)
        assert [row["train/global_step"] for row in each.history] == [row["step"] for row in rows]
    assert left_in(tmp_path) == []


def test_a_journal_that_is_damaged_while_an_agent_works_ends_it_with_one_line(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """It is read between two trials, when another machine's run has crashed."""
    body = """
    def notify(event):
        if event.kind == "trial_ended":
            journal = Path("study") / "trials.jsonl"
            journal.write_text(journal.read_text().replace('"name"', '"mane"', 1))
    agent(sys.argv[1], notify=notify, look_s=0.0)
    """
    with WandbServer() as server:
        sweep = server.create_sweep(sweep_of(fixed))
        agent = server.state.create_agent({"sweep": sweep.name, "projectName": "demo"})
        _, (job,) = server.state.heartbeat({"id": agent.id})
        run, _ = server.state.upsert_run({"name": job["run_id"], "host": "elsewhere"})
        run.files["kept/checkpoint.pt"] = bytes(1000)
        client = begin(server, body, path_of(sweep))
        server.wait_for(lambda state: len(state.runs) >= 2, 200)
        run.move("crashed")
        client.finish(250)
    assert "is damaged; restore the file from a copy" in client.facts["reason"][0]
    assert client.facts["exit_status"] == [1]
    assert left_in(tmp_path) == []


def test_every_agent_of_a_study_ends_or_gives_back_what_crashed_when_its_end_was_written_here_and_not_there(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """One agent trains all the time; two others were killed when they had handed their trial back, and ended it, in the
    journal only.

    The trial that the first one has, and of which W&B has not heard for a while, stays with it, and so does one that is
    ended, and that a living process may upload. One that could not be given back goes on, and one that W&B refuses
    costs no other.
    """
    body = f"{TOLD}\n    agent(sys.argv[1], count=int(sys.argv[3]), notify=HaltedOnce(sys.argv[2], tell))"
    path = f"{path_with(tmp_path / 'bin', answering(T4_X2)).split(':', 1)[0]}:{os.environ['PATH']}"
    with WandbServer() as server:
        sweep = server.create_sweep(sweep_of(fixed))
        other = begin(server, body, path_of(sweep), "other", "1", PATH=path, CUDA_VISIBLE_DEVICES="1")
        server.wait_for(lambda state: halted_in(tmp_path, "other") and server.run(0).history, 250)
        study, gone = Study(tmp_path / "study"), {"host": socket.gethostname(), "pid": 1, "began": 1}
        ends = ((gone, Status.PREEMPTED, None, {}), (gone, Status.FAILED, None, {"kind": "lost"}),
                (gone, Status.PRUNED, 1.5, {}), (gone, Status.COMPLETE, 3.5, {}),
                (this_process(), Status.COMPLETE, 2.5, {}))
        for number, (by, status, metric, notes) in enumerate(ends, start=1):
            agent = server.state.create_agent({"sweep": sweep.name, "projectName": "demo"})
            _, (job,) = server.state.heartbeat({"id": agent.id})
            run, _ = server.state.upsert_run({"name": job["run_id"], "host": socket.gethostname()})
            study.append({"event": "start", "trial": asdict(Trial(id=run.name, number=number, params=run.args)),
                          "time": 0.0, "by": dict(by)})
            study.record_end(TrialResult(id=run.name, status=status, metric=metric, reason="", notes=notes))
            run.move("crashed")
        server.run(0).move("crashed")
        kept, *again, ended, refused, uploaded = server.state.runs.values()
        (tmp_path / "study/trials" / ended.name / "kept/checkpoint.pt").mkdir(parents=True)  # it cannot be written
        server.fault(status=400, match="file_stream", count=1, when=lambda: refused.state == "running")
        back = begin(server, body, path_of(sweep), "other", "2", PATH=path, CUDA_VISIBLE_DEVICES="0").finish(250)
        os.kill(halted_in(tmp_path, "other"), signal.SIGCONT)
        done = other.finish(250)
    for run in again:
        why = f"its agent is gone, and its trial has no end; run {run.name} goes back to the sweep's queue, and resumes"
        assert back.facts["note"].count(why) == 1
        assert run.states == ["pending", "running", "crashed", *GOES_BACK[1:], "pending", "running", "finished"]
    assert ended.states == ["pending", "running", "crashed", "running", "finished"]
    assert (ended.summary["outcome"], ended.summary["eval/loss"]) == ("pruned", 1.5)
    assert uploaded.states == ["pending", "running", "crashed"]
    assert sum(note.startswith(f"W&B could not be told the end of trial {refused.name} now: 400 ")
               for note in back.facts["note"]) == 1
    assert (kept.states[:3], kept.states[-1], kept.starts) == (["pending", "running", "crashed"], "finished", 1)
    assert back.facts["exit_status"] == done.facts["exit_status"] == [0]
    statuses = {record.trial.id: record.result.status for record in read_study(tmp_path / "study").records}
    assert statuses.pop(ended.name) is Status.PRUNED
    assert set(statuses.values()) == {Status.COMPLETE}


def test_a_run_that_is_opened_for_its_end_and_does_not_get_it_is_not_ended_as_a_success(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """W&B's client ends a run that is open when it leaves, with exit code 0."""
    body = """
    from kaggle_runner.wandb.connection import connect
    from kaggle_runner.wandb.ends.hand_back import opened
    from kaggle_runner.wandb.run import RunLost
    from kaggle_runner.wandb.sweep import find_sweep
    sweep = find_sweep(sys.argv[1], connect(detect(), print))
    try:
        with opened(sweep, sys.argv[2], lambda: False):
            raise OSError("no space")
    except RunLost as error:
        say(error=str(error))
    """
    with WandbServer() as server:
        sweep = server.create_sweep(sweep_of(fixed))
        agent = server.state.create_agent({"sweep": sweep.name, "projectName": "demo"})
        _, (job,) = server.state.heartbeat({"id": agent.id})
        client = begin(server, body, path_of(sweep), job["run_id"]).finish(100)
        assert left_in(tmp_path) == []
        assert (client.facts["error"], server.run(0).states) == (["no space"], ["pending", "running"])


def test_an_agent_without_file_handles_says_so_in_one_line_and_the_clients_threads_nothing(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """In mid-trial, where none can be had any more, and between two trials, where there may be more; W&B hears both."""
    body = """
    import resource
    def notify(event):
        if event.kind == sys.argv[3]:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, int(sys.argv[4]) or most))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    agent(sys.argv[1], study=sys.argv[2], notify=notify)
    """
    with WandbServer() as first, WandbServer() as second:
        started = [begin(server, body, path_of(server.create_sweep(sweep_of(fixed, run_cap=2))), kind, kind, most)
                   for server, kind, most in ((first, "log", "3"), (second, "trial_ended", "0"))]
        within, between = (client.finish(250) for client in started)
        (run,), (done,) = first.state.runs.values(), second.state.runs.values()
    assert within.facts["reason"][0].startswith(
        f"cannot write log/trials/{run.name}/history.jsonl: Too many open files; raise that limit, as with ulimit -n")
    assert between.facts["reason"] == ["this machine failed, and not the trial: Too many open files; raise that limit, "
                                       "as with ulimit -n; mend that and run the same command again"]
    assert within.facts["exit_status"] == between.facts["exit_status"] == [1]
    assert (run.state, run.exitcode, first.sweep.queue) == ("preempted", 75, [run.name])
    assert (done.states, second.sweep.queue) == (["pending", "running", "finished"], [])
    for client in (within, between):
        assert [line for line in client.text.splitlines() if not line.startswith("SAID ")] == []
    assert left_in(tmp_path) == []
