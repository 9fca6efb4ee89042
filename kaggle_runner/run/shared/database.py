"""A database that holds shared searches: its connections, and what its errors mean.

A connection lives for a question and its answer, and has a time limit while it is in use, for a network that swallows
everything gives no error. The password is in no message.
"""

import importlib
import importlib.util
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from kaggle_runner.errors import MissingPackages, StudyError
from kaggle_runner.events import Note, Notify
from kaggle_runner.run.shared.address import EXTRA, INSTALLED_BY, Address
from kaggle_runner.wording import without_password

ANSWER_S = 20.0
"""Longest use of a connection at a time: every transaction here takes milliseconds."""
CONNECT_S = 8
"""For a connection to be made; shared among the addresses of a host, which drivers try one after the other."""
_SHOWN = 4
"""How many addresses of a host are told at most."""
LEAST_S = 2
"""The shortest time for one address: PostgreSQL's own."""
TOLD_S = 5.0
"""How long a connection may take before it is said what is waited for."""
MAKE_S = 60.0
"""How long somebody else's making of the tables is waited for."""
TRY_LOCK = ("SELECT GET_LOCK('kaggle_runner', 0)", "SELECT pg_try_advisory_xact_lock(7203)")
"""Of MySQL, which keeps it as long as the connection, and of PostgreSQL."""
ODD_SETTING = (TypeError, ValueError, AttributeError, LookupError)
"""What drivers raise over a setting of the address that they do not know, or a value of one."""
PATIENCE_S = 600.0
"""How long a session goes on asking a database that went away; a trial that runs meanwhile is not held up."""
CROWDED, CROWDED_S = ("too many", "remaining connection slots"), 20.0
"""What a server says that has no connection left, and how long one is waited for."""
BUSY, BUSY_S = ("timeout expired", "timed out", "closed the connection unexpectedly", "lost connection"), 16.0
"""What is seen of a server that is too busy to answer in time, and how long who joins goes on asking it."""
PASSWORDS = {"postgresql": "set PGPASSWORD", "mysql": "name a file of yours: ?read_default_file=~/.my.cnf",
             "mariadb": "name a file of yours: ?read_default_file=~/.my.cnf"}
"""How a password stays out of an address."""
TLS = {"postgresql": "?sslmode=require", "mysql": "?ssl_ca=FILE", "mariadb": "?ssl_ca=FILE"}
"""How an address asks for an encrypted connection."""
HINTS = (
    (("'%2f",), "the folder of a socket stands behind the ?: postgresql://user@/database?host=/FOLDER"),
    (("invalid response to ssl",), "check host and port: another program answers there"),
    (("on socket",), "check the socket's folder, the port in its name, and that the server runs"),
    (("connection option", "unexpected keyword", "bad value", "invalid sslmode", "invalid literal"),
     "check the settings behind the ? of the address"),
    (("access denied",),
     "check user and password, and {tls} where the server demands encryption; @ and % of a password are %40 and %25 in "
     "the URL, or leave it out and {password}"),
    (("no encryption", "ssl off", "insecure transport", "requires ssl"),
     "the server wants an encrypted connection: write {tls} behind the name of the database"),
    (("ssl", "certificate", "tls"), "check what the address says of encryption: {tls} asks for it"),
    (("password", "authentication", "no pg_hba"),
     "check user and password; @ and % of a password are %40 and %25 in the URL, or leave it out and {password}"),
    (("resolve", "translate host", "name or service", "nodename", "idna"),
     "check the name of the host"),
    (("refused", "timeout", "timed out", "unreachable", "no route", "lost connection", "reset by peer"),
     "check host and port, and that the server runs and lets this machine in"),
    (("permission denied", "command denied", "no schema has been selected", "read-only"),
     "let its owner give the user the right to create and write tables there"),
    (CROWDED, "raise the server's max_connections"),
    (("no such file", "could not open", "is a directory"), "check the files that the address names"),
    (("does not exist", "unknown database"), "create the database first, or correct its name"),
    (("no space left", "disk full", "could not extend"), "make space on the server's disk"),
)

Result = TypeVar("Result")


class Database:
    """A database with Optuna's tables in it."""

    def __init__(self, address: Address, *, notify: Notify = lambda event: None,
                 patience_s: float = PATIENCE_S, busy_s: float = BUSY_S) -> None:
        """Connect, and make Optuna's tables if there are none.

        Raises:
            MissingPackages: Optuna or SQLAlchemy is not installed.
            StudyError: it cannot be reached or used; says why.
        """
        package = address.driver
        if absent := [name for name in ("sqlalchemy", "optuna") if importlib.util.find_spec(name) is None]:
            raise MissingPackages(absent, EXTRA)
        _require_driver(package)
        import optuna
        import sqlalchemy as sql
        from sqlalchemy.pool import NullPool

        self.address, self._notify, self._patience_s, self._is_away = address, notify, patience_s, False
        self._is_told, self._own_s, self._addresses = False, 0.0, tuple[str, ...]()
        url = sql.make_url(address.url)
        self._url = url.set(drivername=f"{address.kind}+{package}")
        dialect = self._url.get_dialect()()
        named: dict[str, Any] = {}
        if package == "pymysql":
            named |= {"read_timeout": ANSWER_S, "write_timeout": ANSWER_S}
        try:
            positional, given = dialect.create_connect_args(self._url)
        except ODD_SETTING as error:
            raise self.refused(error) from None
        named |= given
        with suppress(ValueError):  # the driver says what is wrong with it
            self._own_s = float(given.get("connect_timeout", 0.0))
        driver = type(dialect).import_dbapi()
        self.failures: tuple[type[Exception], ...] = (
            sql.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError, driver.Error)

        def open_one() -> Any:
            self._addresses = self._addresses or _addresses(str(named.get("host") or ""))
            share_s = max(LEAST_S, CONNECT_S // max(1, len(self._addresses)))
            return driver.connect(*positional, **{"connect_timeout": share_s} | named)

        def connect() -> Any:
            connection = self._connect(open_one)
            if self.storage is None:
                made.append(connection)
            limits.start(connection)
            return connection

        def limit(engine: Any) -> None:
            sql.event.listen(engine, "checkout", lambda connection, record, proxy: limits.start(connection))
            sql.event.listen(engine, "checkin", lambda connection, record: limits.end(connection))
            sql.event.listen(engine, "close", lambda connection, record: limits.end(connection))

        made: list[Any] = []
        self.storage: Any = None
        limits = _Limits()
        kwargs = {"creator": connect, "max_overflow": -1}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        bare = self._url.set(password=None).render_as_string()
        try:
            probe = sql.create_engine(bare, poolclass=NullPool, creator=connect)
            limit(probe)
            began = time.monotonic()
            self._busy_until = began + busy_s
            while self.storage is None:  # tables are made by one at a time, and many may come in at once
                storage, is_made = None, False
                try:
                    with probe.begin() as alone:
                        if sql.inspect(alone).has_table("kaggle_runner_trials"):
                            break
                        is_mine = alone.execute(sql.text(TRY_LOCK[address.kind == "postgresql"])).scalar()
                        if (is_mine or time.monotonic() > began + MAKE_S) and not sql.inspect(alone).has_table(
                                "kaggle_runner_trials"):
                            storage = optuna.storages.RDBStorage(bare, engine_kwargs=dict(kwargs))
                            limit(storage.engine)
                            from kaggle_runner.run.shared.tables import META

                            META.create_all(storage.engine)
                            is_made = True
                        if is_mine and address.kind != "postgresql":
                            alone.execute(sql.text("SELECT RELEASE_LOCK('kaggle_runner')"))
                except self.failures as error:  # of a slow server the connection may have had its time meanwhile
                    if not is_made and (time.monotonic() > self._busy_until or not _says(error, BUSY)):
                        raise
                self.storage = storage if is_made else None
                if self.storage is None:
                    time.sleep(random.uniform(0.2, 1.0))
            if self.storage is None:
                self.storage = optuna.storages.RDBStorage(bare, engine_kwargs=dict(kwargs), skip_table_creation=True)
                limit(self.storage.engine)
            self.rest()
        except self.failures as error:
            raise self.refused(error) from None
        except RuntimeError as error:
            typed = without_password(self._url.render_as_string(hide_password=False))  # Optuna wants the driver's name
            raise StudyError(f"{address.shown} was set up by another version of Optuna than the {optuna.__version__} "
                             f"here; install that version, or upgrade the database with: optuna storage upgrade "
                             f"--storage {typed}") from error
        finally:
            if self.storage is None:
                for connection in made:
                    with suppress(*self.failures):
                        connection.close()

    def _connect(self, connect: Callable[[], Any]) -> Any:
        """Open a connection; wait a while for one where the server has none left, as when many come in at once.

        Who joins waits for a busy server too; a session that has joined says that it is away, and asks again.

        Raises:
            StudyError: the driver does not take the settings of the address.
        """
        until = {CROWDED: time.monotonic() + CROWDED_S, BUSY: self._busy_until if self.storage is None else 0.0}
        while True:
            try:
                return self._in_time(connect)
            except ODD_SETTING as error:
                raise self.refused(error) from None
            except self.failures as error:
                if not any(_says(error, words) and time.monotonic() < end for words, end in until.items()):
                    raise
                time.sleep(random.uniform(0.1, 0.5))

    def _in_time(self, connect: Callable[[], Any]) -> Any:
        """Open a connection in a thread: finding a host's addresses and trying all of them has no limit of its own.

        A time for each that the address itself gives is left alone.

        Raises:
            TimeoutError: it took too long; what comes of it later is closed.
        """
        joins = self.storage is None
        limit_s = max(LEAST_S, self._busy_until + CONNECT_S - time.monotonic()) if joins else ANSWER_S
        limit_s = max(limit_s, self._own_s * max(1, len(self._addresses)))
        found: Future[Any] = Future()

        def work() -> None:
            try:
                connection = connect()
            except BaseException as error:  # for the thread that waits
                if found.set_running_or_notify_cancel():
                    found.set_exception(error)
            else:
                if found.set_running_or_notify_cancel():
                    found.set_result(connection)
                else:
                    connection.close()

        threading.Thread(target=work, name="connect", daemon=True).start()
        try:
            if joins and not self._is_told and wait([found], min(TOLD_S, limit_s)).not_done:
                self._is_told = True
                self._notify(Note(text=f"waiting for the database {self.address.shown}: {self._waits_for()}"))
            if wait([found], limit_s).not_done and found.cancel():
                raise TimeoutError(f"timed out: {self._waits_for()}")
            return found.result()
        finally:
            found.cancel()

    def _waits_for(self) -> str:
        """Say what a connection waits for, as far as is known here."""
        if len(self._addresses) > 1:
            return f"no answer yet from any of its host's {len(self._addresses)} addresses, {self._some()}"
        return f"no answer yet from {self._some()}" if self._addresses else "its host's address is being looked up"

    def _some(self) -> str:
        return ", ".join((*self._addresses[:_SHOWN], *("...",) * (len(self._addresses) > _SHOWN)))

    @contextmanager
    def begin(self) -> Iterator[Any]:
        """Open a transaction."""
        with self.storage.engine.begin() as connection:
            yield connection

    def rest(self) -> None:
        """Close the connections that are idle: a server has few, and many machines want one now and then.

        Of the pool: the engine's own `dispose` takes a new pool, and what another thread has in use at the moment would
        come back to the old one and stay open.
        """
        self.storage.engine.pool.dispose()

    def refused(self, error: BaseException) -> StudyError:
        """Return the one line that says why the database cannot be used, and what to do."""
        why = self.why(error)
        hint = next((hint for words, hint in HINTS if any(word in why.lower() for word in words)), "try again later")
        if isinstance(error, ODD_SETTING) and not isinstance(error, UnicodeError):
            hint = HINTS[0][1]
        kind = self.address.kind
        hint = hint.replace("{tls}", TLS[kind]).replace("{password}", PASSWORDS[kind])
        return StudyError(f"the database {self.address.shown} cannot be used: {why}; {hint}")

    def why(self, error: BaseException) -> str:
        """Return what the database or its driver said, in one line and without the password."""
        original = error.__cause__ if type(error).__name__ == "StorageInternalError" and error.__cause__ else error
        original = getattr(original, "orig", None) or original
        text = str(original.args[-1] if len(original.args) > 1 else original).strip() or type(original).__name__
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        told = [line for line in lines if not line.startswith("Multiple connection attempts failed")]
        said = next((line for word in ("FATAL", "failed") for line in told if word in line), told[0])
        if len(self._addresses) > 1 and said == told[0] and _says(error, BUSY) and self._some() not in said:
            said = f"{said}, from {self._some()}"
        return without_password(said)  # drivers name the server and the user, and never the password

    def patiently(self, action: Callable[[], Result], ends: Callable[[], str | None] = lambda: None) -> Result:
        """Do something in the database, again and again while it is away, until somebody wishes for the end.

        Raises:
            StudyError: it does not come back, or refuses.
        """
        until, wait = time.monotonic() + self._patience_s, 0.2
        while True:
            try:
                result = action()
            except self.failures as error:
                self.is_away(error)
                if time.monotonic() > until or ends() or _is_ours(error):
                    raise self.refused(error) from None
                time.sleep(wait * random.uniform(0.7, 1.3))
                wait = min(2 * wait, 5.0)
            else:
                self.is_back()
                return result

    def is_away(self, error: BaseException) -> None:
        """Say once that the database does not answer."""
        if not self._is_away:
            self._is_away = True
            self._notify(Note(text=f"the database does not answer ({self.why(error)}); it is asked again, and a trial "
                                   f"that runs does not wait for it"))

    def is_back(self) -> None:
        """Say that the database answers again."""
        if self._is_away:
            self._is_away = False
            self._notify(Note(text="the database is back"))


def _addresses(hosts: str) -> tuple[str, ...]:
    """Return the addresses that a driver tries for the hosts of a database; none for one that is not found."""
    found: list[str] = []
    for host in filter(None, hosts.split(",")):
        with suppress(OSError, UnicodeError):
            found += [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    return tuple(dict.fromkeys(found))


def _require_driver(package: str) -> None:
    """See that a driver can be imported.

    Raises:
        StudyError: it cannot, or it is not installed; says what installs it.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        is_absent = isinstance(error, ModuleNotFoundError) and error.name == package
        why = "is not installed" if is_absent else f"cannot be imported ({str(error).splitlines()[0]})"
        raise StudyError(f"the database's driver {package} {why}; run: pip install "
                         f"{'' if is_absent else '--force-reinstall '}{INSTALLED_BY[package]}") from error


def _is_ours(error: BaseException) -> bool:
    """Say whether trying again cannot help: a right that is missing, a table that is gone."""
    cause = error.__cause__ if type(error).__name__ == "StorageInternalError" else error
    return type(cause).__name__ in ("ProgrammingError", "ArgumentError")


def _hang_up(connection: Any) -> None:
    """End a connection that has had its time, from outside: whoever waits for it gets an error."""
    with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)  # one that is closed by now, or of another driver, has no number


class _Limits:
    """A time limit for each connection while it is in use."""

    def __init__(self) -> None:
        self._timers: dict[int, threading.Timer] = {}

    def start(self, connection: Any) -> None:
        self.end(connection)
        timer = threading.Timer(ANSWER_S, _hang_up, (connection,))
        timer.daemon = True
        self._timers[id(connection)] = timer
        timer.start()

    def end(self, connection: Any) -> None:
        timer = self._timers.pop(id(connection), None)
        if timer is not None:
            timer.cancel()


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(word in str(error).lower() for word in words)
