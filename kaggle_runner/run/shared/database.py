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
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from kaggle_runner.errors import MissingPackages, StudyError
from kaggle_runner.events import Note, Notify
from kaggle_runner.run.shared.address import EXTRA, INSTALLED_BY, Address
from kaggle_runner.wording import without_password

ANSWER_S = 20.0
"""Longest use of a connection at a time: every transaction here takes milliseconds."""
CONNECT_S = 8
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
        url = sql.make_url(address.url)
        self._url = url.set(drivername=f"{address.kind}+{package}")
        dialect = self._url.get_dialect()()
        named: dict[str, Any] = {"connect_timeout": CONNECT_S}
        if package == "pymysql":
            named |= {"read_timeout": ANSWER_S, "write_timeout": ANSWER_S}
        try:
            positional, given = dialect.create_connect_args(self._url)
        except ODD_SETTING as error:
            raise self.refused(error) from None
        named |= given
        driver = type(dialect).import_dbapi()
        self.failures: tuple[type[Exception], ...] = (
            sql.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError, driver.Error)

        def connect() -> Any:
            connection = self._connect(lambda: driver.connect(*positional, **named))
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
                return connect()
            except ODD_SETTING as error:
                raise self.refused(error) from None
            except self.failures as error:
                if not any(_says(error, words) and time.monotonic() < end for words, end in until.items()):
                    raise
                time.sleep(random.uniform(0.1, 0.5))

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
        said = next((line for line in lines if "FATAL" in line or "failed" in line), lines[0])
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
            self._notify(Note(text=f"the database does not answer ({self.why(error)}); training goes on, and it is "
                                   f"told later"))

    def is_back(self) -> None:
        """Say that the database answers again."""
        if self._is_away:
            self._is_away = False
            self._notify(Note(text="the database is back"))


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
