"""The address of a database, read without any of its packages; the password is never shown."""

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from kaggle_runner.errors import StudyError
from kaggle_runner.wording import without_password

DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
"""The package that speaks to each kind of database."""
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
    url, _, study = text.strip().partition("#")
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    kind, plus, driver = scheme.partition("+")
    kind = {"postgres": "postgresql"}.get(kind, kind)
    shown = without_password(url)
    if kind == "sqlite":
        raise StudyError(f"{shown} is a file of one machine, and locks badly between processes; leave --storage out "
                         f"for a sweep of this machine, or use postgresql://user@host/database")
    if kind not in DRIVERS or not rest:
        raise StudyError(f"{shown} is no address of a database; write postgresql://user@host/database, or mysql://...")
    netloc = rest.partition("/")[0]
    if netloc.count("@") > 1:
        raise StudyError(f"{kind}://...@{netloc.rpartition('@')[2]} has more than one @; write the one in the password "
                         f"as %40")
    try:
        parts = urlsplit(f"x://{rest}")
        name = unquote(parts.path).strip("/")
        _ = parts.port
    except ValueError as error:
        raise StudyError(f"{shown} is no address of a database: its host or port cannot be read; write "
                         f"postgresql://user@host:5432/database") from error
    if not name:
        raise StudyError(f"{shown} names no database; write it behind the host: {shown.rstrip('/')}/sweeps")
    return Address(url=f"{kind}{plus}{driver}://{rest}", study=unquote(study))
