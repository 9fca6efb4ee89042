"""Every ending of an agent is the true one: what W&B shows, the journal says and the exit status tell one story.

Real agents of the real client, in processes; one loopback server for those that only wait.
"""

import json
import logging
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kaggle_runner.study.journal import read_study
from kaggle_runner.study.trial import Status
from kaggle_runner.wandb.ends.client_words import ClientWords, listening
from kaggle_runner.wandb.ends.received import refusal_of, refused_opening
from tests.standins.wandb_agent import Begin, halted_in, is_kept, left_in, path_of, sweep_of
from tests.standins.wandb_client import MISSING, PYTHON
from tests.standins.wandb_server import WandbServer

pytestmark = [pytest.mark.skipif(MISSING, reason="wandb is not installed"), pytest.mark.timeout(600)]


def test_one_404_to_a_request_for_a_trial_is_no_end(begin: Begin, fixed: dict[str, Any], tmp_path: Path) -> None:
    body = """
    def notify(event):
        if event.kind == "note":
            say(note=event.text)
    agent(sys.argv[1], notify=notify)
    """
    with WandbServer() as server:
        sweep = server.create_sweep(sweep_of(fixed, run_cap=1))
        server.fault(status=404, match="Heartbeat", count=1)
        client = begin(server, body, path_of(sweep)).finish(200)
    assert client.facts["reason"] == ["the sweep is finished: it has all its trials"]
    assert any(note.startswith("W&B answered once that it does not know this agent") for note in client.facts["note"])
    assert [(run.state, run.exitcode) for run in server.state.runs.values()] == [("finished", 0)]
    assert len(server.state.agents) == 2


def test_an_agent_without_a_trial_says_what_it_saw_and_no_more(begin: Begin, fixed: dict[str, Any]) -> None:
    """Two sweeps that run and give nothing: one whose requests are answered with an error, one without.

    The error is told when it comes: it would take longer than the agent waits until it says why it is idle.
    """
    body = """
    def notify(event):
        if event.kind == "note":
            say(note=event.text)
    agent(sys.argv[1], study=sys.argv[2], notify=notify, no_job_s=15.0, told_s=60.0)
    """
    with WandbServer() as failing, WandbServer() as mute:
        failing.fault(status=400, match="Heartbeat")
        mute.fault(match="Heartbeat", delay_s=60.0)
        started = [begin(server, body, path_of(server.create_sweep(sweep_of(fixed))), name)
                   for server, name in ((failing, "failing"), (mute, "mute"))]
        failed, waited = (client.finish(200).facts for client in started)
    reason = failed["reason"][0]
    assert reason.startswith("W&B handed out no trial for 15 s though the sweep is running: it answered our last ")
    refusal = r"(returned error 400|400 Client Error)"  # of 0.31, and of 0.26
    assert re.search(f"for one with: {refusal}", reason)
    assert "its search" not in reason
    assert any(re.search(f"W&B answers a request for one with: {refusal}", note) for note in failed["note"])
    assert "though the sweep is running: it answered none of our requests for one with an error" in waited["reason"][0]
    assert failed["exit_status"] == waited["exit_status"] == [1]


def test_what_the_client_cannot_write_is_said_before_a_trial_is_taken(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    body = """
    os.environ["WANDB_CACHE_DIR"] = os.path.abspath("file/cache")
    os.environ["TMPDIR"] = os.path.abspath("gone")
    agent(sys.argv[1])
    """
    with WandbServer() as server:
        client = begin(server, body, path_of(server.create_sweep(sweep_of(fixed))),
                       WANDB_DIR=str(tmp_path / "file" / "w")).finish()
    (reason,) = client.facts["reason"]
    assert reason.startswith(f"cannot write WANDB_DIR {tmp_path}/file/w/wandb: Not a directory; W&B's cache "
                             f"{tmp_path}/file/cache")
    assert client.facts["exit_status"] == [1]
    assert server.state.agents == {}


def test_a_job_that_dies_inside_the_client_is_given_back_with_the_clients_words(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """The folder for its files is lost when the agent has registered: the client never calls our function."""
    body = """
    def notify(event):
        if event.kind == "note":
            say(note=event.text)
            if event.text.startswith("agent of sweep"):
                (Path("files") / "wandb").rmdir()
                Path("files").rmdir()
                Path("files").write_text("no folder any more")
    agent(sys.argv[1], notify=notify)
    """
    with WandbServer() as server:
        client = begin(server, body, path_of(server.create_sweep(sweep_of(fixed))), WANDB_DIR=str(tmp_path / "files"),
                       WANDB_SILENT="true").finish(200)
    runs = list(server.state.runs.values())
    assert runs
    assert {run.state for run in runs} == {"preempted"}
    assert sorted(server.sweep.queue) == sorted(run.name for run in runs)
    assert f"W&B's client gave up the job of run {runs[0].name} before its trial began: " in client.facts["reason"][0]
    assert client.facts["exit_status"] == [1]
    assert read_study(tmp_path / "study").records == ()
    assert left_in(tmp_path) == []


def test_a_run_that_cannot_be_opened_goes_back_and_one_that_was_deleted_before_is_not_waited_for(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    body = "agent(sys.argv[1], study=sys.argv[2], told_s=float(sys.argv[3]))"
    with WandbServer() as refusing, WandbServer() as early:
        refusing.fault(status=400, match="RunResumeStatus", count=1)
        early.fault(match="UpsertBucket", delay_s=250.0, count=1)
        started = [begin(server, body, path_of(server.create_sweep(sweep_of(fixed))), study, told_s)
                   for server, study, told_s in ((refusing, "refused", "60"), (early, "deleted", "0"))]
        early.wait_for(lambda state: state.runs, 250)
        early.state.delete_run(early.run(0).name)
        early.heal()
        refused, deleted = (client.finish(250).facts for client in started)
        left = left_in(tmp_path)
    words = "W&B did not open the run of a trial that it handed out: "
    assert refused["reason"] == [f"{words}HTTP 400: it gives no reason; run the same command again"]
    assert deleted["reason"] == [f"{words}it was deleted; the run is gone there; run the same command again"]
    assert refused["exit_status"] == deleted["exit_status"] == [1]
    assert (refusing.run(0).state, refusing.sweep.queue) == ("preempted", [refusing.run(0).name])
    assert read_study(tmp_path / "refused").records == read_study(tmp_path / "deleted").records == ()
    assert left == []


@pytest.mark.parametrize("logged", [False, True])
def test_a_refused_opening_is_told_in_the_servers_words_whether_or_not_the_client_has_logged_them(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: bool) -> None:
    """What the client raises is its log's line with more before it, or nothing that says anything."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    refusal = 'returned error 403: {"errors":[{"message":"permission denied"}],"data":null}'
    if logged:
        log = tmp_path / "wandb" / "run-20260101_000000-abc" / "logs" / "debug-internal.log"
        log.parent.mkdir(parents=True)
        log.write_text(json.dumps({"msg": "runupserter: failed to init run", "error": refusal}) + "\n")
    raised = "<no message>" if logged else f"Failed to get resume status for run abc: {refusal}"
    assert refused_opening("abc", raised) == "HTTP 403: permission denied"
    assert refused_opening("other", "Failed to get resume status for run other: returned error 400: "
                           '{"data":null}') == "HTTP 400: it gives no reason"
    assert refused_opening("other", "it cannot be reached") == "it cannot be reached"


def test_a_trial_that_a_killed_agent_left_goes_back_also_when_its_sweep_is_finished_by_then(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """The last trial of a sweep: other agents had the rest, and W&B finished the sweep."""
    left = """
    from kaggle_runner.study.journal import Study
    from kaggle_runner.study.trial import Trial
    sweep, run, params = json.loads(sys.argv[1])
    with Study.open_for_writing(Path("study"), name="mine", sweep=sweep, metric="eval/loss", goal="minimize", seed=None,
                                shared=True) as study:
        study.record_start(Trial(id=run, number=0, params=params), {})
    """
    with WandbServer() as server:
        sweep = server.create_sweep(sweep_of(fixed, run_cap=1))
        agent = server.state.create_agent({"sweep": sweep.name, "projectName": "demo"})
        _, (job,) = server.state.heartbeat({"id": agent.id})
        server.state.upsert_run({"name": job["run_id"], "host": socket.gethostname()})
        server.state.set_sweep_state(sweep.name, "FINISHED")
        begin(server, left, json.dumps([sweep.config, job["run_id"], server.run(0).args])).finish(200)
        ends = begin(server, "agent(sys.argv[1])", path_of(sweep)).finish(200).facts
    assert ends["reason"] == [f"the sweep {path_of(sweep)} is finished, so it gives no trials; to go on with it: wandb "
                              f"sweep --resume {path_of(sweep)}, and then this again: 1 trial of it had no end"]
    assert (server.run(0).state, sweep.queue) == ("preempted", [job["run_id"]])
    (record,) = read_study(tmp_path / "study").records
    assert record.result is not None
    assert record.result.reason == "its agent was killed; it goes on from its last checkpoint, or from the start"


def test_a_job_that_ends_before_the_client_says_that_it_runs_has_ended_too() -> None:
    """Lines of wandb 0.28: the client's thread was slower than its job, so it tells no error."""
    registered: list[str] = []
    words = ClientWords(registered.append)
    with listening(words):
        log = logging.getLogger("wandb.agents.pyagent")
        for line in ("agent_id = ours", "Job received: Job(first,{'lr': 1})", "Spawning new thread for run first.",
                     "Thread joined for run first.", "Job received: Job(stopped,{})", "Job received: stop(stopped)",
                     "Spawning new thread for run resumed.", "Job received: Job(queued,{})", "Job received: exit"):
            log.debug(line)
        log.error("Run resumed errored:\nTraceback\nOSError: full")
    assert [(job.run, job.words) for job in words.dead_jobs] == [
        ("first", "the client ended it without a word"), ("resumed", "OSError: full")]
    assert words.taken == ["first", "resumed", "queued"]
    assert words.failed_requests == 0
    assert registered == ["ours"]


def test_a_full_disk_and_no_more_file_handles_hand_the_trial_back_and_take_no_other(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """A limit on the size of files stands for it: the worker's, the agent's in mid-trial, and the client's, between
    two trials."""
    body = """
    import resource
    def notify(event):
        if event.kind == "started" and sys.argv[2] == "full":
            resource.prlimit(event.pid, resource.RLIMIT_FSIZE, (6000, 6000))
        elif event.kind == "log" and sys.argv[2] == "journal":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
        elif event.kind == "log" and sys.argv[2] == "handles":
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        elif event.kind == "note":
            say(note=event.text)
        elif event.kind == "trial_ended" and sys.argv[2] == "mended":
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
    agent(sys.argv[1], notify=notify)
    """
    with WandbServer() as server:
        sweep = server.create_sweep(sweep_of({**fixed, "max_tokens": {"value": 64 * 400}}, run_cap=2))
        full = begin(server, body, path_of(sweep), "full").finish(200)
        (run,) = server.state.runs.values()
        assert (run.state, run.exitcode, server.sweep.queue) == ("preempted", 75, [run.name])
        (record,) = read_study(tmp_path / "study").records
        assert record.result is not None
        assert record.result.status is Status.PREEMPTED
        broken = {}
        for fault in ("journal", "handles"):
            broken[fault] = begin(server, body, path_of(sweep), fault).finish(200)
            assert (run.state, run.exitcode, server.sweep.queue) == ("preempted", 75, [run.name])
        again = begin(server, body, path_of(sweep), "mended").finish(200)
    assert "File too large" in full.facts["reason"][0]
    for fault, why in (("journal", "no space left on the disk; free some"), ("handles", "Too many open files; raise ")):
        assert broken[fault].facts["reason"][0].startswith(
            f"cannot write study/trials/{run.name}/history.jsonl: {why}")
        assert broken[fault].facts["exit_status"] == [1]
    assert "it will call the run crashed" not in broken["journal"].text
    assert "Logging error" not in broken["journal"].text
    assert (full.facts["exit_status"], again.facts["exit_status"]) == ([1], [1])
    (reason,) = again.facts["reason"]
    assert reason == (f"this machine failed, and not the trial: WANDB_DIR {tmp_path}/wandb cannot be written: File too "
                      f"large; mend that and run the same command again")
    done, back = server.state.runs.values()
    assert (done.state, done.starts, back.state, back.exitcode) == ("finished", 4, "preempted", 75)
    assert server.sweep.queue == [back.name]
    assert [record.result.status for record in read_study(tmp_path / "study").records] == [Status.COMPLETE]
    assert left_in(tmp_path) == []


def test_a_trial_whose_rows_lie_on_another_machine_goes_back_and_no_other_is_taken(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    text = Path(fixed["dataset"]["value"])
    elsewhere = text.rename(tmp_path / "elsewhere.txt")
    with WandbServer() as server:
        sweep = server.create_sweep(sweep_of(fixed, run_cap=2))
        lacking = begin(server, "agent(sys.argv[1])", path_of(sweep)).finish(200)
        (run,) = server.state.runs.values()
        assert (run.state, run.exitcode, server.sweep.queue) == ("preempted", 75, [run.name])
        elsewhere.rename(text)
        assert begin(server, "agent(sys.argv[1])", path_of(sweep)).finish(200).facts["exit_status"] == [0]
        assert [run.state for run in server.state.runs.values()] == ["finished", "finished"]
    assert lacking.facts["exit_status"] == [1]
    assert lacking.facts["reason"] == [
        f"the corpus {text} does not exist; give a text file, text8, or python-docs (seen from {tmp_path})"]
    assert len(read_study(tmp_path / "study").finished) == 2


def test_a_trial_that_the_journal_can_answer_needs_no_rows(begin: Begin, fixed: dict[str, Any]) -> None:
    body = """
    def notify(event):
        if event.kind == "trial_ended":
            Path("text.txt").unlink(missing_ok=True)
    agent(sys.argv[1], notify=notify)
    """
    with WandbServer() as server:
        sweep = server.create_sweep({**sweep_of(fixed, run_cap=2), "parameters": {
            **fixed, "learning_rate": {"value": 1e-3}}})
        facts = begin(server, body, path_of(sweep)).finish(200).facts
        first, second = server.state.runs.values()
    assert facts["reason"] == ["the sweep is finished: it has all its trials"]
    assert (first.state, second.state) == ("finished", "finished")
    assert second.column("eval/loss") == first.column("eval/loss")
    assert second.about["tags"] == ["duplicate"]


def test_a_run_that_w_and_b_does_not_let_us_open_is_told_in_its_words_with_what_to_do(
    begin: Begin, fixed: dict[str, Any]
) -> None:
    said = {"told": "permission denied: no right to write here", "mute": "it gives no reason"}
    words = json.dumps({"errors": [{"message": said["told"], "path": ["upsertBucket"]}]}).encode()
    with WandbServer() as told, WandbServer(seed=1) as mute:
        told.fault(status=403, match="UpsertBucket", page=words)
        mute.fault(status=403, match="UpsertBucket")
        started = {name: begin(server, "agent(sys.argv[1], study=sys.argv[2])", path_of(
            server.create_sweep(sweep_of(fixed))), name) for name, server in (("told", told), ("mute", mute))}
        facts = {name: client.finish(200).facts for name, client in started.items()}
    for name, answer in said.items():
        assert facts[name]["reason"] == [
            f"W&B did not open the run of a trial that it handed out: HTTP 403: {answer}; have its owner let this key "
            f"write to tester/demo, or take another one, and run the same command again"]
        assert facts[name]["exit_status"] == [1]


def test_what_the_client_gave_up_by_itself_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    said = "filestream: fatal error: filestream: "
    log = [{"msg": f"{said}error making HTTP request: context canceled while retrying: connection refused"}]
    for lines, refusal in ((log, ""), ([*log, {"msg": f"{said}failed to upload: 403 Forbidden"}], "403 Forbidden")):
        (tmp_path / "logs" / "debug-internal.log").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert refusal_of(tmp_path) == refusal


def test_what_w_and_b_refused_of_a_run_is_read_back(begin: Begin, tmp_path: Path) -> None:
    """The stream of each run gets another answer; the last run is deleted on its page at its end."""
    body = """
    from kaggle_runner.wandb.ends.received import upload_line, what_is_missing
    from kaggle_runner.wandb.run import RunLog
    for name in sys.argv[1:]:
        os.environ["WANDB_RUN_ID"] = name
        wandb.teardown()
        log = RunLog.open(lambda: False)
        log.log({"step": 1, "train/loss": 1.0})
        path, files = log.path, log.files
        log.finish(0, (), lambda: False)
        while name == "deleted0" and not Path("go").exists():
            time.sleep(0.05)
        missing = what_is_missing(path, files, lambda: False, goes_back=False)
        say(missing=missing, line=upload_line(path, files, is_gone=missing.endswith("gone there")))
    """
    statuses = (401, 403, 404, 409)
    with WandbServer() as server:
        for status in statuses:
            server.fault(status=status, match="file_stream", count=1)
        client = begin(server, body, *(f"refused{status}" for status in statuses), "taken000", "deleted0",
                       WANDB_PROJECT="demo")
        server.wait_for(lambda state: "deleted0" in state.runs and server.run("deleted0").state == "finished")
        server.state.delete_run("deleted0")
        (tmp_path / "go").write_text("")
        client.finish()
        last = client.facts["line"][0]
    missing = client.facts["missing"]
    for status, said in zip(statuses, missing, strict=False):
        assert said.startswith(f"{status} ")
        assert said.endswith("the run is running there"), "until W&B calls it crashed"
    assert missing[4] == "", "W&B has it"
    assert missing[5] == "it took everything; the run is gone there"
    assert re.fullmatch(r"wandb sync --include-online .*/run-\d+_\d+-refused401", last)
    assert "--id deleted0-again " in client.facts["line"][5]
    assert all(Path(line.split()[-1]).is_dir() for line in client.facts["line"])


def test_an_agent_whose_stream_is_refused_says_so_and_the_line_it_prints_uploads_the_run(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    with WandbServer() as server:
        server.fault(status=403, match="file_stream", count=1)
        client = begin(server, "agent(sys.argv[1])", path_of(server.create_sweep(sweep_of(fixed)))).finish(200)
        (run,) = server.state.runs.values()
        assert (run.state, run.history) == ("running", [])
        (record,) = read_study(tmp_path / "study").records
        assert record.result is not None
        (reason,) = client.facts["reason"]
        line = reason.rsplit("upload it with: ", 1)[1]
        synced = subprocess.run([PYTHON, "-m", *line.split()], env=server.environment(tmp_path), cwd=tmp_path,
                                capture_output=True, text=True, timeout=100)
    assert client.facts["exit_status"] == [1]
    assert reason.startswith(f"W&B lacks the end of run tester/demo/{run.name}: 403 ")
    assert record.result.status is Status.COMPLETE
    assert record.result.notes["not_on_wandb"].startswith("403 ")
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert (run.state, run.exitcode) == ("finished", 0)
    assert run.column("train/global_step") == [row["step"] for row in read_study(tmp_path / "study").history(run.name)]


def test_a_run_that_is_deleted_and_a_key_that_is_revoked_in_mid_trial_end_the_agent_soon(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """Each worker is halted in mid-trial; the client alone would try to write the end of a deleted run for days."""
    body = """
    def tell(event):
        if event.kind == "note":
            say(note=event.text)
    agent(sys.argv[1], study=sys.argv[2], notify=HaltedOnce(sys.argv[2], tell), told_s=0.0)
    """
    with WandbServer() as page, WandbServer() as keys:
        servers = {"deleted": page, "revoked": keys}
        started = {name: begin(server, body, path_of(server.create_sweep(sweep_of(fixed))), name)
                   for name, server in servers.items()}
        for name, server in servers.items():
            server.wait_for(lambda state, name=name: halted_in(tmp_path, name) and any(
                run.history for run in state.runs.values()), 250)
        page.state.delete_run(page.run(0).name)
        keys.revoke()
        for name in servers:
            os.kill(halted_in(tmp_path, name), signal.SIGCONT)
        facts = {name: client.finish(250).facts for name, client in started.items()}
        left = left_in(tmp_path)
    for name, server in servers.items():
        said, run = facts[name], server.run(0)
        assert said["exit_status"] == [1]
        assert said["reason"][0].startswith(f"W&B lacks the end of run tester/demo/{run.name}: ")
        assert "when W&B takes it again, upload it with: wandb sync --include-online " in said["reason"][0]
        (record,) = read_study(tmp_path / name).records
        assert record.result is not None
        assert record.result.notes["not_on_wandb"] in said["reason"][0]
        assert run.state == "running", "until W&B calls it crashed"
    assert "the run is gone there" in facts["deleted"]["reason"][0]
    assert f"--id {page.run(0).name}-again " in facts["deleted"]["reason"][0]
    assert "401" in facts["revoked"]["reason"][0]
    assert left == []


def test_after_kill_9_an_agent_on_another_machine_goes_on_at_the_checkpoint_that_was_sent(
    begin: Begin, fixed: dict[str, Any], tmp_path: Path
) -> None:
    """The agent is killed while its trial waits, its checkpoint sent; W&B calls a run crashed that says nothing.

    The losses are those of a trial that was left alone, the sweep's second: whether weights are kept changes none.
    """
    body = """
    def notify(event):
        if event.kind == "note":
            say(note=event.text)
        elif event.kind == "started":
            worker.append(event.pid)
        elif event.kind == "checkpoint" and sys.argv[3] == "killed":
            os.kill(worker[0], 19)
            Path("halted.new").write_text(str(worker[0]))
            Path("halted.new").rename("halted-here")
    worker = []
    agent(sys.argv[1], study=sys.argv[2], notify=notify, pruning=False)
    """
    long = {**fixed, "max_tokens": {"value": 64 * 3000}, "evaluations": {"value": 10}, "learning_rate": {"value": 1e-3},
            "save_model": {"values": [False, True]}}
    upload = {"KAGGLE_RUNNER_UPLOAD_EVERY_S": "0"}
    with WandbServer() as server:
        server.state.script([{"save_model": False}, {"save_model": True}])
        sweep = server.create_sweep(sweep_of(long, run_cap=2) | {"parameters": long})
        doomed = begin(server, body, path_of(sweep), "here", "killed", **upload)
        server.wait_for(lambda state: halted_in(tmp_path, "here") and server.run(0).history and is_kept(server.run(0)),
                        250)
        doomed.kill()
        os.kill(halted_in(tmp_path, "here"), signal.SIGKILL)  # it cannot end by itself while it is halted
        assert left_in(tmp_path) == []  # wandb-core before 0.31 outlives its client, and may send a last word
        assert [record.result for record in read_study(tmp_path / "here").records] == [None]
        server.state.crash_after_s = 3.0  # for the cloud's five minutes
        run = server.wait_for(lambda state: server.run(0) if server.run(0).state == "crashed" else None, 60)
        server.state.crash_after_s, steps = 300.0, len(run.history)
        again = begin(server, body, path_of(sweep), "elsewhere", "again", **upload).finish(250)
        alone = server.run(1)
    notes = again.facts["note"]
    assert any("its checkpoint is on W&B" in note and "goes back to the sweep's queue, and resumes" in note
               for note in notes), notes
    assert f"fetched the checkpoint of trial {run.name} from W&B" in notes
    assert again.facts["reason"] == ["the sweep is finished: it has all its trials"]
    assert run.states == ["pending", "running", "crashed", "running", "preempting", "preempted", "pending", "running",
                          "finished"]
    assert len(run.history) > steps > 0
    study = read_study(tmp_path / "elsewhere")
    assert {record.trial.id: record.result.status for record in study.finished if record.result} == {
        run.name: Status.COMPLETE, alone.name: Status.COMPLETE}
    rows = study.history(run.name)
    assert rows == study.history(alone.name), "to the last bit"
    assert [row["train/global_step"] for row in run.history] == [row["step"] for row in rows], "no row twice"
    assert left_in(tmp_path) == []
