"""The address of a database, read without any of its packages; the password is never shown."""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from kaggle_runner.errors import StudyError
from kaggle_runner.wording import without_password

DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "mysql": ("pymysql",), "mariadb": ("pymysql",)}
"""The packages that speak to each kind of database: the one that is meant, and others that an address may name."""
INSTALLED_BY = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "pymysql": "pymysql"}
"""What pip installs a driver by."""
EXTRA = "database"
"""What pip installs them with."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a shared study is."""

    url: str = field(repr=False)
    """What the driver gets; may hold a password."""
    study: str
    """Its name, if the address has one behind `#`."""

    @property
    def shown(self) -> str:
        """The address as it may be printed and stored."""
        return without_password(self.url)

    @property
    def driver(self) -> str:
        """The package that speaks to it."""
        return self.url.partition(":")[0].partition("+")[2] or DRIVERS[self.kind][0]

    @property
    def kind(self) -> str:
        """The kind of database."""
        return self.url.partition(":")[0].partition("+")[0]


def is_database(text: str) -> bool:
    """Say whether a text is meant as the address of a database."""
    scheme = text.partition("://")[0].partition("+")[0]
    return "://" in text and scheme in (*DRIVERS, "postgres", "sqlite")


def read_address(text: str) -> Address:
    """Read `postgresql://user@host/database`, with `#NAME` behind it where the database has several studies.

    Raises:
        StudyError: it is none that can be used.
    """
    scheme, _, rest = text.strip().partition("://")
    kind, plus, driver = scheme.lower().partition("+")
    kind = {"postgres": "postgresql"}.get(kind, kind)
    if kind in DRIVERS and _has_a_bare_sign(rest):
        raise StudyError(f"{kind}://...@{rest.rpartition('@')[2]} has a sign in its user or password that means "
                         f"something else there; write @ as %40, / as %2F, # as %23, ? as %3F and a blank as %20")
    rest, _, study = rest.partition("#")
    shown = without_password(f"{scheme}://{rest}" if rest else text.strip())
    if kind == "sqlite":
        raise StudyError(f"{shown} is a file of one machine, and locks badly between processes; leave --storage out "
                         f"for a sweep of this machine, or use postgresql://user@host/database")
    if kind not in DRIVERS or not rest:
        raise StudyError(f"{shown or repr(shown)} is no address of a database; write postgresql://user@host/database, "
                         f"or mysql://...")
    try:
        parts = urlsplit(f"x://{rest}")
        name = unquote(parts.path).strip("/")
        _ = parts.port
    except ValueError as error:
        raise StudyError(f"{shown} is no address of a database: its host or port cannot be read; write "
                         f"postgresql://user@host:5432/database") from error
    if driver and driver not in DRIVERS[kind]:
        raise StudyError(f"{shown} names the driver {driver}, which is not made for this; write {kind}://...")
    if not name:
        server, query = shown.partition("?")[::2]
        raise StudyError(f"{shown} names no database; write it behind the host: {server.rstrip('/')}/sweeps"
                         f"{query and '?'}{query}")
    return Address(url=f"{kind}{plus}{driver}://{rest}", study=unquote(study))


def _has_a_bare_sign(rest: str) -> bool:
    """Say whether what stands behind `://` has a sign before its host that ends the host's part of an address."""
    server = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = re.split(r"[?#]", rest, maxsplit=1)[0][len(server):]
    if server.count("@") > 1 or "@" in path or re.search(r"\s", server):
        return True
    return "@" in rest[len(server):] and "@" not in server and re.search(r":\D", server) is not None
