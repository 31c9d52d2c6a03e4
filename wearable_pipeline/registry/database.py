"""Connection to the registry's database: transactions, retries, differences of the two kinds.

Everything here is about SQLite and Postgres; nothing is about users.
"""

import json
import os
import random
import re
import sqlite3
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url

from wearable_pipeline.errors import PipelineError, TransientError, UsageError
from wearable_pipeline.registry import schema

T = TypeVar("T")

BUSY_SECONDS = 30
CONNECT_SECONDS = 10
STATEMENT_SECONDS = 120
POOL_SIZE = 2
POOL_MOST = 8
_ATTEMPTS = 6
_CONFLICTS = {"40001", "40P01"}
_SERVER_SAYS = {
    "57014": f"a statement took over {STATEMENT_SECONDS} seconds and was cancelled",
    "55P03": f"another process has been holding rows for over {BUSY_SECONDS} seconds",
    "53300": "the server has no connection left; fewer workers, a higher max_connections or a pooler",
}
_MESSAGE_LIMIT = 500


class Database:
    """One engine and the rules for using it. Thread-safe; survives a fork of the process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = shown_url(engine.url)
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._write_engine = engine.execution_options(wearable_write=True)
        _open_databases.add(self)

    def __repr__(self) -> str:
        return f"<Database {self.name}>"

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return `work(connection)`, run on one consistent snapshot of SQLite."""
        with self._translated(), self.engine.begin() as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Return `work(connection)`, committed whole or not at all; run again after a deadlock.

        SQLite takes its write lock at the start (BEGIN IMMEDIATE), so what `work` reads stays true
        until it commits. On Postgres `work` locks the rows it decides on.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._translated(), self._write_engine.begin() as connection:
                    return work(connection)
            except _ConflictError:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 (jitter)
        raise AssertionError("unreachable")

    def insert(self, table: sa.Table) -> "sqlite.Insert | postgresql.Insert":
        """An insert of `table` that knows ON CONFLICT."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def any_of(
        self, column: sa.ColumnElement[str], values: Collection[str]
    ) -> sa.ColumnElement[bool]:
        """The claim that `column` is one of `values`, however many: one parameter in all."""
        if self.is_sqlite:
            listed = sa.func.json_each(json.dumps(sorted(values))).table_valued("value")
            return column.in_(sa.select(listed.c.value))
        array = sa.literal(sorted(values), postgresql.ARRAY(sa.Text))
        return column == sa.func.any(array)

    def known_users(self, connection: Connection, user_ids: Iterable[str]) -> set[str]:
        """Those of `user_ids` that exist, held in place until the transaction ends.

        Writers ask this first so that the results of a run that overlaps an erasure fall away
        instead of failing the others' or bringing the person back.
        """
        column = schema.users.c.user_id
        query = (
            sa.select(column)
            .where(self.any_of(column, set(user_ids)))
            .order_by(column)
            .with_for_update(read=True, key_share=True)
        )
        return set(connection.execute(query).scalars())

    def next_number(self, connection: Connection, counter: str) -> int:
        """The next number of `counter`; other writers wait here until this one commits."""
        table = schema.counters
        value: int = connection.execute(
            sa.update(table)
            .where(table.c.name == counter)
            .values(value=table.c.value + 1)
            .returning(table.c.value)
        ).scalar_one()
        return value

    def compact(self) -> None:
        """Rewrite the SQLite file so that no page, free page or log keeps deleted bytes.

        Postgres reuses the room of deleted rows by itself (autovacuum).
        """
        if not self.is_sqlite:
            return
        with self._translated(), self.engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            if raw is None:
                raise TransientError(f"registry {self.name}: connection was lost")
            raw.execute("VACUUM")
            deadline = time.monotonic() + BUSY_SECONDS
            while raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > deadline:
                    raise TransientError(
                        f"registry {self.name}: the rows are deleted, but another process reads, so"
                        " the write-ahead log still holds old bytes; run the same command again"
                    )
                time.sleep(0.05)

    def close(self) -> None:
        """Close every connection."""
        _open_databases.discard(self)
        self.engine.dispose()

    def forget_connections(self) -> None:
        """Start afresh after a fork; the parent's connections must not be used or closed here."""
        _parents_pools.append(self.engine.pool)
        self.engine.dispose(close=False)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.TimeoutError:
            raise TransientError(f"registry {self.name}: all connections are in use") from None
        except sa.exc.IntegrityError:
            raise
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.DatabaseError) as error:
            if isinstance(error, sa.exc.ProgrammingError | sa.exc.DataError):
                raise
            raise explain(error, self.engine.url) from None


class _ConflictError(TransientError):
    """Two transactions were in each other's way."""


_open_databases: "weakref.WeakSet[Database]" = weakref.WeakSet()
_parents_pools: list[sa.Pool] = []


def _forget_after_fork() -> None:
    for database in list(_open_databases):
        database.forget_connections()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def shown_url(url: URL) -> str:
    """The URL without password and parameters."""
    return url.set(password=None, query={}).render_as_string(hide_password=True)


def connect(address: str) -> Engine:
    """An engine for `address`, proven to answer. Raises UsageError or TransientError."""
    url = _parse(address)
    is_sqlite = url.get_backend_name() == "sqlite"
    engine = _sqlite_engine(url) if is_sqlite else _postgres_engine(url)
    try:
        with engine.connect() as connection:
            if is_sqlite:
                _use_write_ahead_log(connection)
            connection.execute(sa.text("select 1"))
    except sa.exc.DBAPIError as error:
        engine.dispose()
        raise explain(error, url) from None
    return engine


@contextmanager
def lock_database(address: str, number: int) -> Iterator[None]:
    """Keep everybody else out who asks for the same `number` in the same Postgres.

    Nothing on SQLite: who shares a file can lock a file. The lock goes with the connection, so a killed
    holder lets go.
    """
    if _parse(address).get_backend_name() == "sqlite":
        yield
        return
    engine = connect(address)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for limit in ("statement_timeout", "lock_timeout"):
                connection.execute(sa.text(f"set {limit} = 0"))
            connection.execute(sa.select(sa.func.pg_advisory_lock(number)))
            try:
                yield
            finally:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(number)))
    finally:
        engine.dispose()


def explain(error: sa.exc.DBAPIError, url: URL) -> PipelineError:
    """What went wrong and what to do, without password, parameters or statement."""
    name = shown_url(url)
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or ""
    lines = str(error.orig).strip().splitlines()
    text = lines[0] if lines else type(error.orig).__name__
    if url.password and str(url.password) in text:
        text = type(error.orig).__name__
    if code in _CONFLICTS:
        return _ConflictError(f"registry {name}: other writers were in the way, try again")
    if url.get_backend_name() == "sqlite":
        return _explain_sqlite(text, url, name)
    if code.startswith("28") or "authentication failed" in text or "no password" in text:
        return UsageError(
            f"registry {name}: login refused; check user and password in WEARABLE_REGISTRY_URL"
        )
    if code == "3D000" or ("database" in text and "does not exist" in text):
        return UsageError(
            f"registry {name}: no such database; create it or change WEARABLE_REGISTRY_URL"
        )
    if "too many clients" in text or "connection slots are reserved" in text:
        code = "53300"  # the driver tells no code of a connection it did not get
    if code in _SERVER_SAYS:
        return TransientError(f"registry {name}: {_SERVER_SAYS[code]}")
    return TransientError(f"registry {name} cannot be reached: {clean(text)}")


def _explain_sqlite(text: str, url: URL, name: str) -> PipelineError:
    if "not a database" in text or "malformed" in text:
        return UsageError(
            f"registry {name} is not a sound SQLite database;"
            " restore it or change WEARABLE_REGISTRY_URL"
        )
    if "readonly" in text or "unable to open" in text:
        return UsageError(
            f"registry {name} cannot be written ({text});"
            " check the rights of the file and its folder"
        )
    if "locked" in text or "busy" in text:
        return TransientError(
            f"registry {name}: another process has been writing for over {BUSY_SECONDS} seconds"
        )
    return TransientError(f"registry {name} cannot be used: {clean(text)}")


def clean(message: str | None) -> str | None:
    """`message` as one bounded line any database can store."""
    if message is None:
        return None
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return line if len(line) <= _MESSAGE_LIMIT else line[: _MESSAGE_LIMIT - 1] + "…"


def _parse(address: str) -> URL:
    bad = UsageError(
        "WEARABLE_REGISTRY_URL cannot be read: use sqlite:///path/to/file or"
        " postgresql://user:password@host:5432/database, special characters percent-encoded"
    )
    try:
        url = make_url(re.sub(r"^postgres(?=://)", "postgresql", address))
    except (sa.exc.ArgumentError, ValueError):
        raise bad from None
    if not re.fullmatch(r"[\w.:%-]*", url.host or ""):
        raise bad  # an unencoded @ in the password: its tail would be shown as the host
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise UsageError(
            f"registry: {url.get_backend_name()} is not supported; use a SQLite file or Postgres"
        )
    if url.get_backend_name() == "sqlite" and (url.database or ":memory:") == ":memory:":
        raise UsageError("registry: a SQLite database in memory is not shared; name a file")
    return url


def _sqlite_engine(url: URL) -> Engine:
    path = Path(str(url.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Tokens are encrypted, reference ids are not: the file is its owner's alone.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise UsageError(
            f"registry {shown_url(url)} cannot be written ({error.strerror});"
            " check the rights of the file and its folder"
        ) from None
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        pool_size=8,
        max_overflow=56,
        connect_args={"timeout": BUSY_SECONDS},
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: "sa.engine.interfaces.DBAPIConnection", _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late for DDL and reads
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA secure_delete = ON")
        # A rotated refresh token that a power cut takes back locks the person out: no NORMAL here.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("wearable_write") else "BEGIN")

    return engine


def _use_write_ahead_log(connection: Connection) -> None:
    raw = connection.connection.dbapi_connection
    if raw is None:
        return
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait for the busy timeout here when several processes switch at once.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise sa.exc.OperationalError("PRAGMA journal_mode", None, error) from None
            time.sleep(random.uniform(0.01, 0.05))  # noqa: S311 (jitter)
        else:
            return


def _postgres_engine(url: URL) -> Engine:
    options: dict[str, object] = {}
    if url.get_driver_name() == "psycopg2":
        options["executemany_mode"] = "values_plus_batch"
        options["executemany_batch_page_size"] = 500
    given: dict[str, object] = {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "wearable_pipeline",
        # A worker that hangs, or whose machine is gone, must not hold rows for the others.
        "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={BUSY_SECONDS}s"
        f" -c idle_in_transaction_session_timeout={STATEMENT_SECONDS}s",
    }
    try:
        return sa.create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            # Every worker, server and sensor process has a pool: together they must fit the server.
            pool_size=POOL_SIZE,
            max_overflow=POOL_MOST - POOL_SIZE,
            pool_recycle=1800,
            connect_args={name: value for name, value in given.items() if name not in url.query},
            **options,
        )
    except ModuleNotFoundError as error:
        raise UsageError(
            f"registry: the Postgres driver {error.name} is missing;"
            " pip install 'wearable-pipeline[postgres]'"
        ) from None
    except sa.exc.ArgumentError:
        raise UsageError(f"registry {shown_url(url)}: unknown driver") from None
