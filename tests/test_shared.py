"""A search that several machines share in a database: a real PostgreSQL, from a package, on loopback."""

import contextlib
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sql

from kaggle_runner.cli.look import open_trials
from kaggle_runner.errors import StudyError
from kaggle_runner.machine.environment import detect
from kaggle_runner.run.confirm import chosen, trials_of
from kaggle_runner.run.search import run_sweep
from kaggle_runner.run.shared.address import read_address
from kaggle_runner.run.shared.checkpoints import bring, require_shelf
from kaggle_runner.run.shared.confirm import SharedTrials, name_of, spec_of
from kaggle_runner.run.shared.database import ANSWER_S, BUSY_S, CONNECT_S, Database
from kaggle_runner.run.shared.fetch import directory_of
from kaggle_runner.run.shared.order import refuse_alone
from kaggle_runner.run.shared.record import SharedRecord
from kaggle_runner.run.shared.search import SharedSearch
from kaggle_runner.study.journal import Snapshot, Study, confirm_directory, read_study
from kaggle_runner.study.noise import confirmed
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import read_sweep
from kaggle_runner.sweep.study_settings import Confirm
from kaggle_runner.wording import without_password
from tests import optuna_session, shared_session
from tests.conftest import wait_for
from tests.standins.postgres import PASSWORD, QUOTED, Postgres, Way
from tests.standins.wandb_agent import character_settings, sweep_of
from tests.test_optuna_sweep import ENVIRONMENT, SWEEP, mixed, table, write_sweep

GRID = """
method: {method}
metric: {{name: eval/loss, goal: {goal}}}
parameters:
  lora_r: {{values: [8, 16, 32]}}
  learning_rate: {{values: [1.0e-4, 1.0e-3]}}
"""

SharedConfirming = tuple[Callable[..., list[str]], Snapshot, Confirm]


def answer_as_a_web_server(server: socket.socket) -> None:
    """Say that it was no request, to whoever comes, until the server is closed."""
    with contextlib.suppress(OSError):
        while True:
            with server.accept()[0] as connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    postgres = Postgres()
    yield postgres
    postgres.close()


@pytest.fixture
def url(server: Postgres, request: pytest.FixtureRequest) -> str:
    """A database of its own."""
    return server.make(f"db{abs(hash(request.node.nodeid)) % 10**9}")


def shared(url: str) -> SharedRecord:
    record = SharedRecord.find(Database(read_address(url)))
    record.read()
    record.database.rest()
    return record


def points(url: str) -> list[tuple[object, ...]]:
    return [(r.trial.id, r.trial.params, r.trial.origin, r.result.metric if r.result else None)
            for r in shared(url).snapshot(Path()).records]


class TestOneWorker:
    @pytest.mark.parametrize(("text", "method", "count"),
                             [(SWEEP, "bayes", 9), (SWEEP, "random", 4), (GRID, "grid", 6)])
    def test_it_gets_the_points_of_the_embedded_search_to_the_last_bit(self, tmp_path, url, text, method, count):
        sweep = write_sweep(tmp_path, text, method)
        optuna_session.run(sweep, tmp_path / "embedded", count, train=mixed)
        end = shared_session.run(sweep, tmp_path / "shared", count, url, train=lambda trial, search: mixed(trial))
        assert points(url) == table(tmp_path / "embedded") == table(tmp_path / "shared")
        assert len(points(url)) == count
        assert table(tmp_path / "shared" / "shared") == table(tmp_path / "embedded")
        assert "finished" in end.reason or "every point" in end.reason

    def test_another_directory_goes_on_where_the_first_ended(self, tmp_path, url):
        sweep = write_sweep(tmp_path)
        optuna_session.run(sweep, tmp_path / "embedded", 6)
        shared_session.run(sweep, tmp_path / "one", 3, url)
        shared_session.run(sweep, tmp_path / "two", 6, url)
        assert points(url) == table(tmp_path / "embedded")
        assert [row[0] for row in table(tmp_path / "two")] == ["0003", "0004", "0005"]

    def test_plain_optuna_reads_the_same_study(self, tmp_path, url):
        shared_session.run(write_sweep(tmp_path), tmp_path / "study", 7, url, train=lambda trial, search: mixed(trial))
        storage = optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
        study = optuna.load_study(study_name=None, storage=storage)
        states = [trial.state.name for trial in study.trials]
        assert states == ["COMPLETE", "COMPLETE", "FAIL", "FAIL", "COMPLETE", "PRUNED", "COMPLETE"]
        assert study.trials[1].params["learning_rate"] == points(url)[1][1]["learning_rate"]
        assert study.trials[1].intermediate_values[20] == study.trials[1].value == points(url)[1][3]
        storage.engine.dispose()


def start(*arguments: object, says: Path = Path(os.devnull)) -> subprocess.Popen[str]:
    with says.open("w") as file:
        return subprocess.Popen([sys.executable, shared_session.__file__, *map(str, arguments)], stdout=file,
                                stderr=file, env=ENVIRONMENT | {"PYTHONWARNINGS": "ignore"}, text=True)


class TestThreeMachines:
    def test_one_is_killed_one_is_cut_off_and_the_database_is_restarted_and_every_trial_ends_once(
            self, tmp_path, server, url):
        """Lease of 3 s; the network is cut for longer than that, so the trial of the one who is cut off is lost.

        No trial ends before all of that has begun.
        """
        sweep, count, way, go = write_sweep(tmp_path), 14, Way(server.port), tmp_path / "go"
        name = url.rpartition("/")[2]
        machines = [start(sweep, tmp_path / f"m{i}", count, address, 3, 1.5, go, says=tmp_path / f"says{i}")
                    for i, address in enumerate((url, server.url(name, port=way.port), url))]

        def said(machine: int) -> str:
            return (tmp_path / f"says{machine}").read_text()

        try:
            def open_trials(machine: int) -> list[int]:
                directory = tmp_path / f"m{machine}"
                if not (directory / "trials.jsonl").exists() or not (directory / "trials.jsonl").read_text():
                    return []
                return [record.trial.number for record in read_study(directory).records if record.result is None]

            assert wait_for(lambda: all(open_trials(i) for i in range(3)), 200), "all three are in mid-trial"
            (killed,), (lost,) = open_trials(0), open_trials(1)
            machines[0].kill()
            way.cut()
            server.stop()
            assert wait_for(lambda: "the database does not answer" in said(2), 100), said(2)
            server.start()
            go.touch()
            for number in (killed, lost):
                assert wait_for(lambda number=number: f"start {number:04d}" in said(2), 100), "the third took it over"
            way.mend()
            for machine in machines[1:]:
                machine.wait(timeout=250)
        finally:
            for machine in machines:
                machine.kill()
                machine.wait()
            way.close()
        record = shared(url)
        assert [number for number, row in record.rows.items() if row.result is not None] == list(range(count))
        assert {row.result.status for row in record.rows.values() if row.result} == {Status.COMPLETE}
        counted = Counter(r.trial.number for i in range(3) for r in read_study(tmp_path / f"m{i}").finished)
        assert counted == Counter(range(count)), "no trial counts on two machines"
        assert len({str(row.trial.params) for row in record.rows.values() if row.trial}) == count
        assert all("end " in said(machine) for machine in (1, 2))
        assert "the database is back" in said(2)
        assert f"trial {lost:04d} does not count here" in said(1)
        assert server.do("SELECT count(*) FROM kaggle_runner_trials WHERE NOT copied", name) == [(0,)]
        assert server.do("SELECT state, count(*) FROM trials GROUP BY state", name) == [("COMPLETE", count)]


class TestWhoComesBackLate:
    def test_learns_that_it_lost_its_trial(self, tmp_path, server, url):
        sweep, said = write_sweep(tmp_path), []

        def late(trial: Trial, search: object) -> TrialResult:
            if trial.number == 1:
                server.do("UPDATE kaggle_runner_trials SET expires = 0 WHERE number = 1", url.rpartition("/")[2])
                shared_session.run(sweep, tmp_path / "other", 2, url)
            return optuna_session.complete(trial)

        shared_session.run(sweep, tmp_path / "late", 3, url, train=late, say=said.append, lease_s=9999)  # renewed later
        assert [row[0] for row in points(url)] == ["0000", "0001", "0002"]
        lost = read_study(tmp_path / "late").records[1].result
        assert lost is not None
        assert (lost.status, lost.metric) == (Status.PREEMPTED, None)
        assert f"lost to {socket.gethostname()}, for this machine gave no sign of life for 9999 s" in lost.reason
        assert any("trial 0001 does not count here" in text for text in said)
        assert [r.trial.number for r in read_study(tmp_path / "other").finished] == [1]

    def test_one_that_was_taken_and_given_back_meanwhile_counts(self, tmp_path, server, url):
        sweep, said = write_sweep(tmp_path), []
        other = SharedRecord.join(Database(read_address(url)), read_sweep(sweep), None, 60.0)
        other.holder = "other"

        def late(trial: Trial, search: SharedSearch) -> TrialResult:
            if trial.number == 1 and said.count("start 0001") == 1:
                other.make()
                claims = []

                def is_taken() -> bool:
                    server.do("UPDATE kaggle_runner_trials SET expires = 0 WHERE number = 1", url.rpartition("/")[2])
                    claims.append(other.claim(2, {}))
                    return claims[-1] is not None

                assert wait_for(is_taken, 60)
                assert wait_for(lambda: search.was_lost(trial), 60)
                other.release(1, claims[-1].attempt)
                other.database.rest()
            return optuna_session.complete(trial)

        shared_session.run(sweep, tmp_path / "late", 3, url, train=late, say=said.append, lease_s=2)
        assert points(url) == table(tmp_path / "late")
        assert said.count("start 0001") == 1
        assert not any("does not count here" in text for text in said)

    def test_a_copy_of_a_directory_on_another_machine_takes_no_trial_that_runs(self, tmp_path, url):
        spec = read_sweep(write_sweep(tmp_path))
        here, copied, again = (SharedRecord.join(Database(read_address(url)), spec, None, 60.0) for _ in range(3))
        for record in (here, copied, again):
            record.holder = "one"
            record.make()
        copied.machine = "another"
        assert (here.claim(4, {}).number, copied.claim(4, {}).number) == (0, 1)
        left = again.claim(4, {})
        assert (left.number, left.attempt) == (0, 2), "what this machine left behind it takes at once"
        for record in (here, copied, again):
            record.database.rest()

    def test_tells_what_ended_while_the_database_was_away(self, tmp_path, server, url):
        sweep, said = write_sweep(tmp_path), []

        def train(trial: Trial, search: object) -> TrialResult:
            if trial.number == 1:
                server.stop()
            return optuna_session.complete(trial)

        try:
            with pytest.raises(StudyError, match=r"the database .* cannot be used: .*refused; check host and port"):
                shared_session.run(sweep, tmp_path / "study", 3, url, train=train, patience_s=0.5)
        finally:
            server.start()
        assert points(url)[1][3] is None
        shared_session.run(sweep, tmp_path / "study", 3, url, say=said.append)
        assert "trial 0001 ended here earlier, and is told now" in said
        assert points(url) == table(tmp_path / "study")
        assert "start 0001" not in said

    @pytest.mark.parametrize("ends", [True, False], ids=["finished elsewhere", "running elsewhere"])
    def test_a_machine_that_was_killed_learns_at_its_next_start_who_has_its_trial(self, tmp_path, server, url, ends):
        sweep, killed, said = write_sweep(tmp_path), tmp_path / "killed", []
        machine = start(sweep, killed, 2, url, 9999, 60)
        journal = killed / "trials.jsonl"
        assert wait_for(lambda: journal.exists() and '"event": "start"' in journal.read_text(), 200)
        machine.kill()
        machine.wait()
        assert [record.status_word for record in read_study(killed).records] == ["stopped"]
        assert open_trials(read_study(killed)).startswith("1 trial cut off")
        server.do("UPDATE kaggle_runner_trials SET expires = 0", url.rpartition("/")[2])

        def come_back() -> None:
            shared_session.run(sweep, killed, 2, url, say=said.append, ends=lambda: "preempt")  # waits for nobody

        def take_over(trial: Trial, search: object) -> TrialResult:
            if not ends:
                come_back()
            return optuna_session.complete(trial)

        shared_session.run(sweep, tmp_path / "other", 1, url, train=take_over)
        if ends:
            come_back()
        lost = read_study(killed).records[0]
        assert lost.reason == f"lost to {socket.gethostname()}, for this machine gave no sign of life"
        assert (lost.status_word, lost.is_lost) == ("preempted", True)
        assert sum("trial 0000 does not count here: lost to" in text for text in said) == 1
        shared_session.run(sweep, killed, 3, url, say=said.append)
        assert sum("trial 0000 does not count here" in text for text in said) == 1, "once"
        assert [r.trial.number for r in read_study(killed).finished] == [1, 2]
        assert open_trials(read_study(killed)) == ""

    def test_what_is_handed_out_and_what_is_said_of_it_are_one_story(self, tmp_path, server, url):
        sweep, seen = write_sweep(tmp_path), []
        here = dataclasses.replace(detect({}, Path("/")), writable_directory=tmp_path / "read")

        def look(trial: Trial, search: object) -> TrialResult:
            if trial.number == 1:
                seen.append(read_study(directory_of(url, here)))
                server.do("UPDATE kaggle_runner_trials SET expires = 0 WHERE number = 1", url.rpartition("/")[2])
                seen.append(read_study(directory_of(url, here)))
            return optuna_session.complete(trial)

        shared_session.run(sweep, tmp_path / "study", 2, url, train=look, lease_s=9999)
        assert [snapshot.records[1].status_word for snapshot in seen] == ["running", "stopped"]
        assert [open_trials(snapshot).partition(",")[0] for snapshot in seen] == [
            "1 trial running elsewhere", "1 trial cut off"]

    @pytest.mark.parametrize("status", [Status.PREEMPTED, Status.COMPLETE])
    @pytest.mark.parametrize("fate", ["kept", "taken over", "given back", "dead there"])
    def test_an_end_without_the_database_is_one_story_and_the_next_start_tells_it(
            self, tmp_path, server, url, status, fate):
        sweep, study, said, later = write_sweep(tmp_path), tmp_path / "study", [], []
        asked: list[str] = []
        taken = fate == "taken over"

        def train(trial: Trial, search: object) -> TrialResult:
            if trial.number == 1:
                server.stop()
                asked.append("preempt")
            result = optuna_session.complete(trial)
            return result if trial.number != 1 or status is Status.COMPLETE else dataclasses.replace(
                result, status=status, metric=None, reason="checkpointed at step 20 of 40")

        try:
            end = shared_session.run(sweep, study, 3, url, train=train, say=said.append,
                                     ends=lambda: asked[0] if asked else None)
        finally:
            server.start()
        assert end.cut_short
        assert sum("; it is asked again, and a trial that runs does not wait for it" in text for text in said) == 1
        assert sum("the database has not heard how this session left trial 0001" in text for text in said) == 1
        own, whole = read_study(study).records[1], read_study(study / "shared").records[1]
        assert (own.status_word, own.reason) == (whole.status_word, whole.reason)
        assert own.status_word == status
        assert open_trials(read_study(study)) == ("1 trial cut off" if status is Status.PREEMPTED else "")
        assert points(url)[1][3] is None
        expire = "UPDATE kaggle_runner_trials SET expires = 0", url.rpartition("/")[2]
        if fate != "kept":
            server.do(*expire)
            shared_session.run(sweep, tmp_path / "other", 2, url, train=lambda trial, search: dataclasses.replace(
                optuna_session.complete(trial), **({} if taken else {"status": Status.PREEMPTED, "metric": None})))
        if fate == "dead there":
            server.do("UPDATE kaggle_runner_trials SET holder = 'dead' WHERE number = 1", expire[1])
            server.do(*expire)
        shared_session.run(sweep, study, 3, url, say=later.append)
        assert [row[3] is not None for row in points(url)] == [True] * 3
        own = read_study(study).records[1]
        assert own.is_lost == taken
        assert ("start 0001" in later) == (status is Status.PREEMPTED and not taken)
        assert ("trial 0001 ended here earlier, and is told now" in later) == (
            status is Status.COMPLETE and not taken)
        assert any("trial 0001 does not count here" in text for text in later) == taken
        assert open_trials(read_study(study)) == ""


class TestBadInput:
    @pytest.mark.parametrize(("address", "said"), [
        ("sqlite:///x.db", "sqlite:///x.db is a file of one machine"),
        ("oracle://h/d", "oracle://h/d is no address of a database"),
        ("", "'' is no address of a database"),
        ("postgresql://", "postgresql:// is no address of a database"),
        ("postgresql://u:secret@h", "postgresql://u:***@h names no database"),
        ("postgresql://u:secret@h/?sslmode=disable", "write it behind the host: postgresql://u:***@h/sweeps?sslmode="),
        ("postgresql://h?password=secret", "postgresql://h?password=*** names no database"),
        *((f"postgresql://u:{password}@h/d", "postgresql://...@h/d has a sign in its user or password that means")
          for password in ("sec@ret", "secret word", "secret/1", "1/secret", "secret#1", "sec?ret", "a@secret/1")),
        ("postgresql://u:secret@h:port/d", "postgresql://u:***@h:port/d is no address of a database: its host or port"),
    ])
    def test_addresses_that_are_none_are_refused_without_the_password(self, address, said):
        with pytest.raises(StudyError, match=re.escape(said)) as caught:
            read_address(address)
        assert "secret" not in str(caught.value)
        assert "ret@" not in str(caught.value)

    def test_a_password_behind_the_question_mark_is_hidden_as_well(self):
        address = read_address("postgresql://h/d?user=me&password=sec%20ret&SSLPASSWORD=other&application_name=a@b")
        assert address.shown == "postgresql://h/d?user=me&password=***&SSLPASSWORD=***&application_name=a@b"
        assert "sec%20ret" in address.url
        assert without_password(f"could not reach {address.url}: no") == f"could not reach {address.shown}: no"

    def test_a_password_with_every_special_letter_gets_in_and_stays_out_of_sight(self, tmp_path, server, url):
        shared_session.run(write_sweep(tmp_path), tmp_path / "study", 1, url)
        for path in tmp_path.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert PASSWORD not in path.read_text()
                assert QUOTED not in path.read_text()
        assert QUOTED not in repr(read_address(url))

    @pytest.mark.parametrize(("change", "said"), [
        ({"user": "nobody"}, "password authentication failed for user .*check user and password"),
        ({"password": "wrong"}, "password authentication failed for user .*check user and password"),
        ({"name": "none"}, 'database "none" does not exist; create the database first'),
        ({"port": 1}, "[Rr]efused; check host and port"),
        ({"name": "sweeps?unknown=1"}, "invalid connection option .*; check the settings behind the . of the address"),
        ({"name": "sweeps?connect_timeout=soon"}, "bad value for connect_timeout.*; check the settings behind the"),
        ({"name": "sweeps?sslmode=require"}, "does not support SSL.*; check what the address says of encryption"),
        ({"name": "sweeps?options=-cdefault_transaction_read_only=on"}, "read-only transaction; .* create and write"),
    ])
    def test_what_the_server_refuses_is_said_in_one_line(self, server, change, said):
        with pytest.raises(StudyError, match=said) as caught:
            Database(read_address(server.url(**change)))
        assert "\n" not in str(caught.value)
        assert "wrong" not in str(caught.value)

    def test_who_joins_waits_for_a_server_that_is_too_busy_to_greet(self, server, url):
        way = Way(server.port, refused=2)
        try:
            assert Database(read_address(url.replace(str(server.port), str(way.port)))).storage is not None
        finally:
            way.close()

    @pytest.mark.parametrize(("driver", "text", "said"), [
        ("psycopg2", None, "psycopg2 is not installed; run: pip install psycopg2-binary"),
        ("psycopg2", "import psycopg2._psycopg", "psycopg2 cannot be imported (No module named 'psycopg2._psycopg'; "
                                                 "'psycopg2' is not a package); run: pip install --force-reinstall "
                                                 "psycopg2-binary"),
        ("psycopg", "raise ImportError('no pq wrapper available.\\nAttempts made:')",
         "psycopg cannot be imported (no pq wrapper available.); run: pip install --force-reinstall 'psycopg[binary]'"),
    ])
    def test_a_driver_that_cannot_be_imported_is_named_with_what_installs_it(self, tmp_path, monkeypatch, driver, text,
                                                                             said):
        if text:
            (tmp_path / f"{driver}.py").write_text(text + "\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, driver, raising=False)
        with pytest.raises(StudyError, match=re.escape(f"the database's driver {said}")):
            Database(read_address(f"postgresql+{driver}://u:secret@h/d"))

    @pytest.mark.parametrize("kind", ["postgresql+asyncpg", "postgresql+pg8000", "mysql+mysqldb", "mysql+psycopg"])
    def test_a_driver_that_is_none_of_ours_is_refused_by_its_name(self, kind):
        kind, driver = kind.split("+")
        with pytest.raises(StudyError, match=f"names the driver {driver}, which is not made for this; write {kind}://"):
            read_address(f"{kind}+{driver}://u:secret@h/d")

    @pytest.mark.parametrize(("address", "said"), [
        ("postgresql://u:secret@/d?host=/nowhere",
         "on socket .*No such file.*; check the socket's folder, the port in its name, and that the server runs"),
        ("postgresql://u:secret@%2Fnowhere/d", r"; the folder of a socket stands behind the \?: postgresql://user@/data"),
        ("postgresql://u:secret@127.0.0.1:PORT/d", "; check host and port: another program answers there"),
    ])
    def test_a_socket_that_is_not_there_and_a_server_of_another_kind(self, address, said):
        with socket.create_server(("127.0.0.1", 0)) as web:
            threading.Thread(target=answer_as_a_web_server, args=(web,), daemon=True).start()
            with pytest.raises(StudyError, match=said) as caught:
                Database(read_address(address.replace("PORT", str(web.getsockname()[1]))))
        assert ("secret" in str(caught.value), "\n" in str(caught.value)) == (False, False)

    @pytest.mark.parametrize(("address", "said"), [
        ("postgresql://u:secret@127.0.0.1:PORT/d?connect_timeout=2", "timeout expired"),
        ("mysql://u:secret@127.0.0.1:PORT/d?read_timeout=2", "timed out"),
    ])
    def test_a_server_that_takes_a_connection_and_says_nothing(self, address, said):
        """With shorter times than the usual ones, which make it half a minute at most."""
        with (socket.create_server(("127.0.0.1", 0)) as silent,
              pytest.raises(StudyError, match=f"{said}.*; check host and port, and that the server runs") as caught):
            Database(read_address(address.replace("PORT", str(silent.getsockname()[1]))), busy_s=0.0)
        assert ("secret" in str(caught.value), "\n" in str(caught.value)) == (False, False)
        assert max(BUSY_S + CONNECT_S, ANSWER_S) < 30

    def test_a_host_with_many_silent_addresses_is_waited_for_no_longer_than_one_and_named_while_it_is(self):
        said = []
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            hosts = [f"127.0.0.{last}" for last in range(1, 6)]
            for host in hosts[1:]:
                stack.enter_context(socket.create_server((host, port)))
            address = f"postgresql://u:secret@/d?host={','.join(hosts)}&port={','.join([str(port)] * 5)}"
            waited = r"no answer yet from any of its host's 5 addresses, 127\.0\.0\.1, .*, 127\.0\.0\.4, \.\.\."
            with pytest.raises(StudyError, match=f"timed out: {waited}; check host and port") as caught:
                Database(read_address(address), busy_s=3.0 - CONNECT_S, notify=lambda event: said.append(event.text))
            (told,) = said
            assert re.fullmatch(f"waiting for the database .*: {waited}", told)
            with pytest.raises(StudyError, match=r"timeout expired, from 127\.0\.0\.1, 127\.0\.0\.2; check host and"):
                Database(read_address(address.replace(",".join(hosts), ",".join(hosts[:2])).replace(
                    ",".join([str(port)] * 5), f"{port},{port}") + "&connect_timeout=2"), busy_s=0.0)
        assert ("secret" in str(caught.value) + told, "\n" in str(caught.value)) == (False, False)

    def test_an_unknown_host(self):
        with pytest.raises(StudyError, match=r"no-such-host\.invalid.*check the name of the host"):
            Database(read_address("postgresql://u:secret@no-such-host.invalid/d"))

    def test_a_schema_without_rights(self, server, url):
        name = url.rpartition("/")[2]
        server.do("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        server.do("REVOKE ALL ON SCHEMA public FROM PUBLIC", name)
        with pytest.raises(StudyError, match="let its owner give the user the right to create and write tables there"):
            Database(read_address(server.url(name, user="guest", password="guest")))

    def test_a_database_of_another_optuna(self, tmp_path, server, url):
        shared_session.run(write_sweep(tmp_path), tmp_path / "study", 1, url)
        server.do("UPDATE alembic_version SET version_num = 'v9.9.0.a'", url.rpartition("/")[2])
        with pytest.raises(StudyError, match="was set up by another version of Optuna than the"):
            Database(read_address(url))

    def test_studies_that_are_not_this_one(self, tmp_path, url):
        sweep = write_sweep(tmp_path)
        shared_session.run(sweep, tmp_path / "study", 1, url)
        with pytest.raises(StudyError, match="was made with seed 0, not 5; leave --seed out"):
            shared_session.run(sweep, tmp_path / "two", 1, url, seed=5)
        optuna_session.run(sweep, tmp_path / "alone", 1)
        with pytest.raises(StudyError, match="holds trials of a sweep of its own, which"):
            shared_session.run(sweep, tmp_path / "alone", 1, url)
        with pytest.raises(StudyError, match="is a copy of the study that is shared in"):
            shared_session.run(sweep, tmp_path / "study" / "shared", 2, url)
        with pytest.raises(StudyError, match=r"belongs to a study that is shared in .*; go on with --storage"):
            refuse_alone(tmp_path / "study")
        changed = tmp_path / "changed"
        changed.mkdir()
        other = write_sweep(changed, SWEEP.replace("max: 1.0e-1", "max: 1.0e-2"))
        with pytest.raises(StudyError, match=r"another sweep file: parameters\.learning_rate differ; restore the file"):
            shared_session.run(other, tmp_path / "three", 1, url)
        shared_session.run(other, tmp_path / "three", 1, f"{url}#narrow")
        with pytest.raises(StudyError, match="holds 2 studies; name one behind the address: #narrow, #sweep"):
            shared(url)
        with pytest.raises(StudyError, match="holds no study 'wide'; it has: narrow, sweep"):
            shared(f"{url}#wide")
        assert len(points(f"{url}#narrow")) == 1

    def test_a_study_that_is_done_and_one_that_ends_while_others_run(self, tmp_path, url):
        sweep = write_sweep(tmp_path)
        shared_session.run(sweep, tmp_path / "study", 2, url)
        assert "2 trials are finished" in shared_session.run(sweep, tmp_path / "late", 2, url).reason
        assert table(tmp_path / "late") == []
        assert table(tmp_path / "late" / "shared") == points(url)


class TestARefusedStart:
    """It leaves no study in the database, which `show` would count."""

    def test_a_directory_of_another_study_leaves_none_there(self, tmp_path, url):
        sweep = write_sweep(tmp_path)
        shared_session.run(sweep, tmp_path / "one", 1, url)
        optuna_session.run(sweep, tmp_path / "alone", 1)
        for folder, said in (("one", "belongs to another shared study"), ("one/shared", "is a copy of the study"),
                             ("alone", "holds trials of a sweep of its own")):
            with pytest.raises(StudyError, match=f"{said}.*; choose another directory with --study"):
                shared_session.run(sweep, tmp_path / folder, 1, f"{url}#new")
        assert len(points(url)) == 1, "the only study there is"
        assert shared_session.run(sweep, tmp_path / "two", 2, f"{url}#new").trials_run == 2

    def test_rows_that_are_not_here_leave_none_there_and_the_directory_free(self, tmp_path, url):
        fixed = character_settings(tmp_path, steps=2, evaluations=1)
        sweep = tmp_path / "mine.yaml"
        sweep.write_text(json.dumps(sweep_of(fixed, run_cap=1)))
        text = tmp_path / "text.txt"
        text.rename(tmp_path / "away.txt")

        def start(*more: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([sys.executable, "-m", "kaggle_runner", "sweep", str(sweep), "--cpu", *more],
                                  env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=200)

        refused = start("--storage", url)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith(f"error: the corpus {text} does not exist")
        with pytest.raises(StudyError, match="holds no study; it has: none"):
            shared(url)
        (tmp_path / "away.txt").rename(text)
        again = start("--storage", url)
        assert again.returncode == 0, again.stderr
        assert len(points(url)) == 1

    def test_two_that_make_it_at_once_share_it_and_one_of_another_file_is_refused(self, tmp_path, url):
        spec, other = read_sweep(write_sweep(tmp_path)), read_sweep(write_sweep(tmp_path, GRID, "grid"))
        assert spec.name == other.name
        first, second, third = (SharedRecord.join(Database(read_address(url)), one, None, 60.0)
                                for one in (spec, spec, other))
        first.add_known({"start": {"learning_rate": 1e-3}})
        second.make()
        first.make()
        assert first.uid == second.uid
        assert shared(url).known == ({"start": {"learning_rate": 1e-3}},)
        with pytest.raises(StudyError, match=r"was made from another sweep file: .* differ; restore the file, or name "
                                             r"a new study behind the address, #NAME, with --study"):
            third.make()
        for record in (first, second, third):
            record.database.rest()


class TestTwoThatBeginTogether:
    """Both have joined before either has a trial: the one loads its base while the other one starts."""

    @contextlib.contextmanager
    def both(self, tmp_path, url, said, seeds=(None, None)):
        sweep, begun = write_sweep(tmp_path), []
        spec = read_sweep(sweep)
        with contextlib.ExitStack() as stack:
            for name, seed in zip("ab", seeds, strict=True):
                record = SharedRecord.join(Database(read_address(url)), spec, seed, 60.0)
                if name == "a":
                    record.add_known({"lessons": [], "start": {"learning_rate": 1.23e-3}})
                study = stack.enter_context(Study.open_for_writing(
                    tmp_path / name, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                    seed=record.info.seed))
                begun.append(stack.enter_context(SharedSearch(
                    record, study, spec, notify=lambda event, name=name: said.append((name, event.text)))))
            yield begun

    def test_what_one_was_given_the_other_one_knows(self, tmp_path, url):
        with self.both(tmp_path, url, []) as (first, second):
            given, next_one = first.ask(4), second.ask(4)
        assert (given.number, given.origin, given.params["learning_rate"]) == (0, "given", 1.23e-3)
        assert next_one.number == 1
        assert second.first_params()["learning_rate"] == 1.23e-3

    def test_where_the_other_one_is_quicker_it_is_said_that_the_start_is_not_tried(self, tmp_path, url):
        said = []
        with self.both(tmp_path, url, said) as (first, second):
            assert second.ask(4).origin == "defaults"
            assert first.ask(4).number == 1
        machine = socket.gethostname()
        assert [(name, text) for name, text in said if "--start" in text] == [
            ("a", f"--start is not tried: {machine} has begun the study meanwhile, with another first trial")]

    def test_one_that_was_given_no_seed_takes_the_others(self, tmp_path, url):
        said, asked = [], []
        for folder, address, seeds in (("known", f"{url}#known", (7, 7)), ("meanwhile", url, (7, None))):
            (tmp_path / folder).mkdir()
            with self.both(tmp_path / folder, address, said, seeds=seeds) as machines:
                asked.append([machine.ask(4) for machine in machines])
        assert asked[0] == asked[1]
        assert said == [("b", "another machine has made the study meanwhile, with seed 7, which is taken over")]
        again = tmp_path / "meanwhile" / "b"
        assert read_study(again).info.seed == 7
        assert shared_session.run(write_sweep(tmp_path), again, 1, url).trials_run == 1
        assert read_study(again / "shared").info.seed == 7

    def test_two_that_were_given_different_seeds_do_not_share_a_study(self, tmp_path, url):
        with self.both(tmp_path, url, [], seeds=(7, 8)) as (first, second):
            first.ask(4)
            with pytest.raises(StudyError, match=r"was made with seed 7, not 8; leave --seed out"):
                second.ask(4)


class TestCheckpoints:
    def test_they_travel_to_the_next_attempt_and_each_has_a_folder_of_its_own(self, tmp_path):
        shelf = tmp_path / "shelf"
        first, second = (tmp_path / machine / "trials" / "0003" for machine in "ab")
        bring(shelf, first, "0003", 1)
        (first / "checkpoint").mkdir()
        (first / "checkpoint" / "step-00000010.pt").write_bytes(b"weights")
        (first / "history.jsonl").write_text('{"step": 10}\n')
        bring(shelf, second, "0003", 2)
        (first / "history.jsonl").write_text("the first one goes on, as it does not know yet\n")
        assert (second / "checkpoint" / "step-00000010.pt").read_bytes() == b"weights"
        assert (second / "history.jsonl").read_text() == '{"step": 10}\n'
        bring(shelf, first, "0003", 3)
        assert (first / "history.jsonl").read_text() == '{"step": 10}\n'

    def test_a_shared_directory_that_is_not_there_is_not_made(self, tmp_path):
        with pytest.raises(StudyError, match="is no directory; --checkpoints is one that every machine sees"):
            require_shelf(tmp_path / "gone")


class TestConfirmation:
    @pytest.fixture
    def confirming(self, tmp_path, url) -> SharedConfirming:
        """The confirmation of a search that is done, for each machine."""
        sweep, confirm = write_sweep(tmp_path), Confirm(top=2, seeds=2)
        shared_session.run(sweep, tmp_path / "one", 5, url)
        whole = read_study(tmp_path / "one" / "shared")
        trials = trials_of(chosen(whole, confirm), confirm)
        name = name_of(whole.info.name, trials, confirm)
        spec = spec_of(dataclasses.replace(read_sweep(sweep), target=9.0), name, trials)  # which each of them reaches

        def machine(folder: str, count: int, crash: str = "") -> list[str]:
            """Train on one machine; return the trainings that began, of which one may crash."""
            directory, began = confirm_directory(tmp_path / folder), []
            record = SharedRecord.join(Database(dataclasses.replace(read_address(url), study=name)), spec, 0, 60.0)
            with (Study.open_for_writing(directory, name=name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                         seed=0) as study, SharedTrials(trials, record, study, spec) as search):

                def train(trial: Trial) -> TrialResult:
                    began.append(trial.id)
                    study.record_start(trial, dict(trial.params))
                    result = optuna_session.complete(trial)
                    result = TrialResult(
                        id=trial.id, status=Status.FAILED, metric=None, notes={"kind": "crash"}
                    ) if trial.id == crash else dataclasses.replace(
                        result, metric=float(result.metric or 0) + trial.number / 100)
                    study.record_end(result)
                    return result

                run_sweep(search, run_trial=train, count=count)
                search.close()
            return began

        return machine, whole, confirm

    def test_two_machines_share_its_trainings_and_it_is_read_with_the_study(self, tmp_path, url, confirming):
        machine, whole, confirm = confirming
        assert machine("one", 1) == ["0000"]
        assert machine("two", 4) == ["0001", "0002", "0003"]
        assert len(points(url)) == 5, "what confirms a study is no other study"
        environment = dataclasses.replace(detect({}, Path("/")), writable_directory=tmp_path)
        found = confirmed(read_study(directory_of(url, environment)))
        assert found is not None
        assert found.seeds == 2
        assert {candidate.trial.id: len(candidate.further) for candidate in found.candidates} == {
            one.records[0].trial.id: 2 for one in chosen(whole, confirm)}

    @pytest.mark.parametrize("second", ["one", "two"])
    def test_a_training_that_a_machine_ended_is_trained_again_by_the_same_command_there_or_elsewhere(
            self, second, tmp_path, url, confirming):
        machine, *_ = confirming
        assert machine("one", 4, crash="0001") == ["0000", "0001", "0002", "0003"]
        environment = dataclasses.replace(detect({}, Path("/")), writable_directory=tmp_path)
        assert [record.result.status for record in read_study(directory_of(url, environment)).confirming] == [
            "complete", "failed", "complete", "complete"]
        assert machine(second, 4, crash="0001") == ["0001"]
        assert machine(second, 4) == ["0001"]
        assert machine("one", 4) == machine("two", 4) == []
        found = read_study(directory_of(url, environment)).confirming
        assert [record.result.metric for record in found] == [
            optuna_session.loss(record.trial.params) + record.trial.number / 100 for record in found]
        local = {record.trial.id: record.result for record in read_study(confirm_directory(tmp_path / "one")).records}
        assert "lost to" not in local["0001"].reason


class TestConnections:
    def test_a_thread_that_rests_takes_none_from_another_and_leaves_none_open(self, server, url):
        database, name = Database(read_address(url)), url.rpartition("/")[2]
        open_ones = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        with database.begin() as connection:
            resting = threading.Thread(target=database.rest)
            resting.start()
            resting.join()
            assert connection.execute(sql.text("SELECT 1")).scalar() == 1
        database.rest()
        assert wait_for(lambda: server.do(open_ones, "postgres") == [(0,)], 60)
