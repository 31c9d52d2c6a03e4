"""PostgreSQL, MySQL and MariaDB, SQLite and DuckDB, each spoken to in its own words.

A store runs statements, tells what shape tables have and loads frames the fastest way its client
knows. What a client says of a failure may quote rows, so it is sorted by code and told in our words.
"""

# ruff: noqa: S608 (statements are made of our own names; values are bound, copied or hexadecimal)

import io
import os
import socket
import sqlite3
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from wearable_pipeline.destinations._addresses import LOCAL_NAMES
from wearable_pipeline.destinations._sql_relations import Kind, Relation
from wearable_pipeline.errors import PermanentError, TransientError, UsageError

Line = tuple[Any, ...]

# Lines of a statement that carries values, keys of a condition: databases bound what they parse.
_LINES = 500
_KEYS = 200
# Below what servers accept in one packet by default, and no more than is worth holding twice.
_LARGEST_STATEMENT = 4 * 1024 * 1024
_GRACE_SECONDS = 5.0
# Any number: whoever makes our tables in the same database takes the same.
_DDL_LOCK = 7_301_174_811


class RowsRefusedError(Exception):
    """The database refuses what some row says; the others may go. The text is safe to show."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to get at a database: `name` is the target's, `extra` what installs the client."""

    name: str
    url: URL = field(repr=False)
    timeout: float
    connect_timeout: float
    allow_plaintext: bool = False
    schema: str | None = None
    extra: str = "sql"
    # Where others publish what lies in a schema unless it is guarded by row.
    guards_rows: bool = False

    @property
    def is_local(self) -> bool:
        """Whether nothing leaves the machine."""
        host = self.url.host or str(self.url.query.get("host", ""))
        return not host or host in LOCAL_NAMES or host.startswith(("/", "127."))

    def lack(self, error: ModuleNotFoundError) -> UsageError:
        """The error to raise for a client that is not installed."""
        return UsageError(
            f"{self.name}: the client {error.name} is missing;"
            f" pip install 'wearable-pipeline[{self.extra}]'"
        )


def parse_url(address: str, name: str) -> URL:
    """The database's URL. Raises UsageError, which never repeats it."""
    text = address.strip()
    if text.startswith("postgres://"):
        text = text.replace("postgres", "postgresql", 1)
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        raise UsageError(
            f"{name}: url cannot be read; use postgresql://user:password@host:5432/database,"
            " mysql://…, sqlite:///path or duckdb:///path, special characters percent-encoded"
        ) from None


def make_store(access: Access) -> "Store":
    """The store behind a URL, not connected yet. Raises UsageError when the URL does not do."""
    backend = access.url.get_backend_name()
    if backend not in _STORES:
        raise UsageError(
            f"{access.name}: {backend} is not supported;"
            " use postgresql, mysql, mariadb, sqlite or duckdb"
        )
    if access.schema is not None and backend != "postgresql":
        raise UsageError(f"{access.name}: database_schema is for PostgreSQL only; leave it out")
    return _STORES[backend](access)


class Store(ABC):
    """A connection to a database, and its words for what all of them do."""

    types: ClassVar[Mapping[Kind, str]]
    # What its catalog calls the columns that may hold a kind; ours is among them.
    accepts: ClassVar[Mapping[Kind, frozenset[str]]]
    mark: ClassVar[str] = "%s"
    quotes: ClassVar[str] = '"'
    table_options: ClassVar[str] = ""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.name = access.name
        self._connection: Any = None
        self._check()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def connect(self) -> None:
        """Connect. Raises TransientError or PermanentError."""
        with self.translated():
            self._connection = self._connect()

    def close(self) -> None:
        """Close the connection, in whatever state it is."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*self._errors()):
                connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing. Raises RowsRefusedError, TransientError or PermanentError.

        After anything but refused rows the connection is closed: nobody knows what it is good for.
        """
        with self.translated():
            try:
                self._begin()
                yield
                self._commit()
            except BaseException as error:
                self._abandon(error)
                raise

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Failures of the client as ours."""
        try:
            yield
        except self._errors() as error:
            raise self._explain(error) from None

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Line]:
        """The lines a statement gives."""
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            cursor.close()

    def quote(self, name: str) -> str:
        """A name as SQL."""
        return f"{self.quotes}{name}{self.quotes}"

    def create(self, relation: Relation) -> None:
        """Make the table where it is not there yet."""
        lines = [
            f"{self.quote(f.name)} {self.types[f.kind]}"
            + (" NOT NULL" if f.name in relation.key else "")
            for f in relation.fields
        ]
        lines.append(f"PRIMARY KEY ({self._list(relation.key)})")
        self.execute(
            f"CREATE TABLE IF NOT EXISTS {self.quote(relation.name)} ({', '.join(lines)})"
            f"{self.table_options}"
        )

    def add_columns(self, relation: Relation, names: Iterable[str]) -> None:
        """Add columns a newer version of ours has."""
        kinds = {f.name: f.kind for f in relation.fields}
        for name in names:
            self.execute(
                f"ALTER TABLE {self.quote(relation.name)}"
                f" ADD COLUMN {self.quote(name)} {self.types[kinds[name]]}"
            )

    def upsert(
        self, relation: Relation, lines: Sequence[Line], *, newest_by: str | None = None
    ) -> None:
        """Insert or replace by key; with `newest_by`, only what is not newer in that column."""
        names = relation.names
        place = f"({', '.join([self.mark] * len(names))})"
        others = [name for name in names if name not in relation.key]
        tail = self._on_conflict(relation, others, newest_by)
        for start in range(0, len(lines), _LINES):
            part = lines[start : start + _LINES]
            self.execute(
                f"INSERT INTO {self.quote(relation.name)} ({self._list(names)})"
                f" VALUES {', '.join([place] * len(part))} {tail}",
                [self._bind(value) for line in part for value in line],
            )

    def read_keys(
        self, relation: Relation, names: Sequence[str], by: Sequence[str], keys: Sequence[Line]
    ) -> list[Line]:
        """The columns `names` of the lines whose columns `by` are one of `keys`."""
        found: list[Line] = []
        for condition, parameters in self._conditions(by, keys):
            found += self.execute(
                f"SELECT {self._list(names)} FROM {self.quote(relation.name)} WHERE {condition}",
                parameters,
            )
        return found

    def delete(
        self, relation: Relation, by: Sequence[str], keys: Sequence[Line], also: str = ""
    ) -> None:
        """Delete the lines whose columns `by` are one of `keys`, if `also` holds."""
        for condition, parameters in self._conditions(by, keys):
            self.execute(
                f"DELETE FROM {self.quote(relation.name)} WHERE ({condition}){also}", parameters
            )

    @abstractmethod
    def insert(self, relation: Relation, frame: pl.DataFrame) -> None:
        """Load a frame of the relation's columns."""

    @abstractmethod
    def find_columns(self, names: Sequence[str]) -> dict[str, dict[str, tuple[str, bool]]]:
        """Per table that is there: its columns, their type and whether each must be given."""

    def lock_tables(self) -> None:  # noqa: B027 - most need none
        """Keep others from making the same tables until the transaction ends."""

    @abstractmethod
    def _connect(self) -> Any:
        """A connection of the client."""

    @abstractmethod
    def _check(self) -> None:
        """Refuse settings that do not do, and a client that is not installed."""

    @abstractmethod
    def _errors(self) -> tuple[type[Exception], ...]:
        """What the client raises."""

    @abstractmethod
    def _explain(self, error: Exception) -> Exception:
        """The same failure as ours."""

    def _begin(self) -> None:
        self.execute("BEGIN")

    def _commit(self) -> None:
        self.execute("COMMIT")

    def _abandon(self, error: BaseException) -> None:
        is_ours = isinstance(error, RowsRefusedError)
        if not is_ours and isinstance(error, self._errors()):
            is_ours = isinstance(self._explain(error), RowsRefusedError)
        if is_ours:
            try:
                self._rollback()
            except self._errors():
                self.close()
        else:
            self.close()

    def _rollback(self) -> None:
        self.execute("ROLLBACK")

    def _bind(self, value: Any) -> Any:
        return value

    def _list(self, names: Iterable[str]) -> str:
        return ", ".join(self.quote(name) for name in names)

    def _conditions(
        self, by: Sequence[str], keys: Sequence[Line]
    ) -> Iterator[tuple[str, list[Any]]]:
        one = f"({' AND '.join(f'{self.quote(name)} = {self.mark}' for name in by)})"
        for start in range(0, len(keys), _KEYS):
            part = keys[start : start + _KEYS]
            yield " OR ".join([one] * len(part)), [self._bind(v) for key in part for v in key]

    def _on_conflict(self, relation: Relation, others: Sequence[str], newest_by: str | None) -> str:
        assigned = ", ".join(f"{self.quote(n)} = excluded.{self.quote(n)}" for n in others)
        tail = f"ON CONFLICT ({self._list(relation.key)}) DO UPDATE SET {assigned}"
        if newest_by is not None:
            mine = f"{self.quote(relation.name)}.{self.quote(newest_by)}"
            tail += f" WHERE {mine} <= excluded.{self.quote(newest_by)}"
        return tail

    def _columns_of(self, sql: str, names: Sequence[str]) -> dict[str, dict[str, tuple[str, bool]]]:
        """Lines of table, column, type and whether it must be given."""
        found: dict[str, dict[str, tuple[str, bool]]] = {}
        marks = ", ".join([self.mark] * len(names))
        for table, column, dtype, must in self.execute(sql.format(names=marks), list(names)):
            found.setdefault(table, {})[column] = (str(dtype).lower(), bool(must))
        return found

    def _require_encryption(self, is_encrypted: bool) -> None:
        if not (is_encrypted or self.access.is_local or self.access.allow_plaintext):
            raise UsageError(
                f"{self.name}: the url turns encryption off for a server elsewhere; health data"
                " would travel in the clear. Drop that or set allow_plaintext = true"
            )

    def _unreachable(self) -> TransientError:
        return TransientError(f"{self.name}: the database cannot be reached")

    def _denied(self, code: object) -> PermanentError:
        return PermanentError(
            f"{self.name}: the database user may not do this ({code}); it needs to read, insert,"
            " update and delete our tables, and to create them at the first delivery"
        )


_POSTGRES_TRANSIENT = ("08", "40", "53", "55", "57", "58", "25", "XX", "F0")


class PostgresStore(Store):
    """PostgreSQL by psycopg2: frames go as CSV through COPY.

    Settings are made per transaction, so a pooler may hand out another connection to each.
    """

    types: ClassVar[Mapping[Kind, str]] = {
        "key": "text",
        "text": "text",
        "number": "double precision",
        "whole": "bigint",
        "flag": "boolean",
        "date": "date",
        "instant": "timestamp with time zone",
        "local": "timestamp without time zone",
        "json": "jsonb",
    }
    accepts: ClassVar[Mapping[Kind, frozenset[str]]] = {
        "key": frozenset({"text", "varchar", "bpchar"}),
        "text": frozenset({"text", "varchar", "bpchar"}),
        "number": frozenset({"float8"}),
        "whole": frozenset({"int8"}),
        "flag": frozenset({"bool"}),
        "date": frozenset({"date"}),
        "instant": frozenset({"timestamptz"}),
        "local": frozenset({"timestamp"}),
        "json": frozenset({"jsonb", "json"}),
    }

    def _check(self) -> None:
        try:
            import psycopg2
        except ModuleNotFoundError as error:
            raise self.access.lack(error) from None
        self._client = psycopg2
        url, query = self.access.url, dict(self.access.url.query)
        mode = query.get("sslmode")
        if mode is None:
            is_bound = not (self.access.is_local or self.access.allow_plaintext)
            mode = query["sslmode"] = "require" if is_bound else "prefer"
        self._require_encryption(mode in ("require", "verify-ca", "verify-full"))
        self._arguments: dict[str, Any] = {
            "host": url.host,
            "port": url.port,
            "user": url.username,
            "password": url.password,
            "dbname": url.database,
            "connect_timeout": max(2, round(self.access.connect_timeout)),
            "application_name": "wearable_pipeline",
            "tcp_user_timeout": round(self.access.timeout * 1000),
            "keepalives_idle": 30,
            **query,
        }
        self._arguments = {k: v for k, v in self._arguments.items() if v is not None}
        try:
            psycopg2.extensions.make_dsn(**self._arguments)
        except psycopg2.ProgrammingError:
            raise UsageError(
                f"{self.name}: the url has a parameter PostgreSQL does not know"
            ) from None

    def _connect(self) -> Any:
        connection = self._client.connect(**self._arguments)
        connection.autocommit = True  # transactions are begun and ended by statements of ours
        return connection

    def _errors(self) -> tuple[type[Exception], ...]:
        return (self._client.Error,)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Line]:
        """The lines a statement gives."""
        with self._bounded(), self._connection.cursor() as cursor:
            # Without parameters a percent sign is one.
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def _begin(self) -> None:
        milliseconds = round(self.access.timeout * 1000)
        path = (
            f"SET LOCAL search_path = {self.quote(self.access.schema)};"
            if self.access.schema
            else ""
        )
        self.execute(
            f"BEGIN; SET LOCAL statement_timeout = {milliseconds};"
            f" SET LOCAL lock_timeout = {milliseconds // 2}; SET LOCAL timezone = 'UTC'; {path}"
        )

    def lock_tables(self) -> None:
        """Keep others from making the same tables until the transaction ends."""
        self.execute(f"SELECT pg_advisory_xact_lock({_DDL_LOCK})")
        if self.access.schema and not self.execute(
            "SELECT 1 FROM pg_namespace WHERE nspname = %s", [self.access.schema]
        ):
            self.execute(f"CREATE SCHEMA {self.quote(self.access.schema)}")

    def create(self, relation: Relation) -> None:
        """Make the table where it is not there yet."""
        super().create(relation)
        if self.access.guards_rows:
            self.execute(f"ALTER TABLE {self.quote(relation.name)} ENABLE ROW LEVEL SECURITY")

    def find_columns(self, names: Sequence[str]) -> dict[str, dict[str, tuple[str, bool]]]:
        """Per table that is there: its columns, their type and whether each must be given."""
        return self._columns_of(
            "SELECT table_name, column_name, udt_name, is_nullable = 'NO' AND column_default IS NULL"
            " AND is_identity = 'NO' AND is_generated = 'NEVER' FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name IN ({names})",
            names,
        )

    def insert(self, relation: Relation, frame: pl.DataFrame) -> None:
        """Load a frame of the relation's columns."""
        # It keeps no zero characters.
        texts = [
            column.name
            for column in frame
            if column.dtype == pl.String and column.str.contains("\0", literal=True).any()
        ]
        buffer = io.BytesIO()
        # An empty text is written in quotes, null is not.
        frame.with_columns(
            pl.col(texts).str.replace_all("\0", "\N{REPLACEMENT CHARACTER}", literal=True)
        ).write_csv(buffer, include_header=False)
        buffer.seek(0)
        with self._bounded(), self._connection.cursor() as cursor:
            cursor.copy_expert(
                f"COPY {self.quote(relation.name)} ({self._list(frame.columns)})"
                " FROM STDIN (FORMAT csv)",
                buffer,
                size=256 * 1024,
            )

    def _bind(self, value: Any) -> Any:
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Cut the connection when the server keeps it and says nothing: no timeout of libpq does."""
        number = os.dup(self._connection.fileno())
        line = socket.socket(fileno=number)

        def cut() -> None:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

        # The server's own limit speaks first.
        watch = threading.Timer(self.access.timeout + _GRACE_SECONDS, cut)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()
            line.close()

    def _explain(self, error: Exception) -> Exception:
        code = getattr(error, "pgcode", None)
        name = self.name
        if code is None:
            return self._explain_connecting(str(error))
        if code == "57014":
            return TransientError(
                f"{name}: a statement took over {self.access.timeout:g} s and was cancelled;"
                " timeout_seconds allows more"
            )
        if code == "55P03":
            return TransientError(f"{name}: somebody else has been holding the rows for too long")
        if code == "42501":
            return self._denied(code)
        if code.startswith(("22", "23", "54", "P0")):
            return RowsRefusedError(f"{name}: the database refuses the row (SQLSTATE {code})")
        if code.startswith(_POSTGRES_TRANSIENT):
            return TransientError(f"{name}: the database is not able to now (SQLSTATE {code})")
        if code.startswith("28"):
            return self._login()
        return PermanentError(
            f"{name}: the database does not take our statements (SQLSTATE {code});"
            " was a table of ours changed?"
        )

    def _explain_connecting(self, text: str) -> Exception:
        name = self.name
        if "authentication failed" in text or "no password supplied" in text:
            return self._login()
        if "no pg_hba.conf entry" in text or "not permitted to log in" in text:
            return PermanentError(f"{name}: the server does not let this user in from here")
        if "database" in text and "does not exist" in text:
            return PermanentError(f"{name}: there is no such database; create it or change url")
        if "role" in text and "does not exist" in text:
            return self._login()
        if "does not support SSL" in text:
            return PermanentError(
                f"{name}: the server offers no encryption; turn it on there or set"
                " allow_plaintext = true"
            )
        if "certificate" in text or "root.crt" in text:
            return PermanentError(f"{name}: the server's certificate is not one the url trusts")
        return self._unreachable()

    def _login(self) -> PermanentError:
        return PermanentError(f"{self.name}: login refused; check user and password in url")

    def _conditions(
        self, by: Sequence[str], keys: Sequence[Line]
    ) -> Iterator[tuple[str, list[Any]]]:
        """One condition however many keys there are: it is planned as a join."""
        if not keys:
            return
        sorts = {str: "text", int: "bigint", date: "date"}
        arrays = ", ".join(f"%s::{sorts[type(value)]}[]" for value in keys[0])
        columns = self._list(by)
        yield (
            f"({columns}) IN (SELECT * FROM unnest({arrays}))",
            [[self._bind(value) for value in column] for column in zip(*keys, strict=True)],
        )


_MYSQL_ROWS = {1048, 1062, 1153, 1216, 1217, 1264, 1265, 1292, 1364, 1366, 1406, 1451, 1452}
_MYSQL_ROWS |= {1644, 1690, 3140, 3819, 4025, 1105, 1118, 1301, 1365, 1425, 1526, 1411}
_MYSQL_DENIED = {1044, 1142, 1143, 1227, 1370}
_MYSQL_PERMANENT = {1049, 1054, 1064, 1146, 1051, 1091, 1060, 1071, 1075, 1347}


class MySqlStore(Store):
    """MySQL and MariaDB by PyMySQL: frames go as statements of many lines.

    The lines are put together by column, text in hexadecimal, so nothing in a value can be read as
    SQL. Instants are UTC: the column type for instants ends in 2038. Keys compare byte by byte.
    """

    types: ClassVar[Mapping[Kind, str]] = {
        "key": "varchar(255)",
        "text": "longtext",
        "number": "double",
        "whole": "bigint",
        "flag": "tinyint(1)",
        "date": "date",
        "instant": "datetime(6)",
        "local": "datetime(6)",
        "json": "json",
    }
    accepts: ClassVar[Mapping[Kind, frozenset[str]]] = {
        "key": frozenset({"varchar", "char"}),
        "text": frozenset({"longtext", "mediumtext", "text", "varchar"}),
        "number": frozenset({"double"}),
        "whole": frozenset({"bigint"}),
        "flag": frozenset({"tinyint"}),
        "date": frozenset({"date"}),
        "instant": frozenset({"datetime"}),
        "local": frozenset({"datetime"}),
        "json": frozenset({"json", "longtext"}),
    }
    quotes = "`"
    table_options = " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    _QUERY = frozenset(
        {"charset", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity"}
        | {"ssl_disabled", "unix_socket"}
    )

    def _check(self) -> None:
        try:
            import pymysql
        except ModuleNotFoundError as error:
            raise self.access.lack(error) from None
        self._client = pymysql
        url, access = self.access.url, self.access
        unknown = sorted(set(url.query) - self._QUERY)
        if unknown:
            raise UsageError(
                f"{self.name}: the url has parameters we do not know ({', '.join(unknown)});"
                f" known are {', '.join(sorted(self._QUERY))}"
            )
        query = {k: str(v) for k, v in url.query.items()}
        is_off = _is_true(query.get("ssl_disabled"))
        self._require_encryption(not is_off)
        is_asked = any(k.startswith("ssl_") for k in query) and not is_off
        is_bound = not (access.is_local or access.allow_plaintext or "unix_socket" in query)
        tls: dict[str, Any] = {"ssl_disabled": True} if is_off else {}
        if is_asked or (is_bound and not is_off):
            tls = {"ssl": self._make_context(query)}  # without one it gives TLS up in silence
        if "unix_socket" in query:
            tls["unix_socket"] = query["unix_socket"]
        self._arguments: dict[str, Any] = {
            "host": url.host or "127.0.0.1",
            "port": url.port or 3306,
            "user": url.username,
            "password": url.password or "",
            "database": url.database,
            "charset": "utf8mb4",
            "connect_timeout": max(1, round(access.connect_timeout)),
            "read_timeout": access.timeout,
            "write_timeout": access.timeout,
            "autocommit": True,
            **tls,
        }
        if not url.database:
            raise UsageError(f"{self.name}: the url names no database")

    def _make_context(self, query: Mapping[str, str]) -> ssl.SSLContext:
        """Encryption; the server's certificate is checked when the url says against what."""
        try:
            context = ssl.create_default_context(cafile=query.get("ssl_ca"))
            context.check_hostname = _is_true(query.get("ssl_verify_identity"))
            is_checked = context.check_hostname or "ssl_ca" in query
            if not (is_checked or _is_true(query.get("ssl_verify_cert"))):
                context.verify_mode = ssl.CERT_NONE
            if "ssl_cert" in query:
                context.load_cert_chain(query["ssl_cert"], query.get("ssl_key"))
        except OSError:
            raise UsageError(
                f"{self.name}: a file of ssl_ca, ssl_cert or ssl_key in the url cannot be read"
            ) from None
        return context

    def _connect(self) -> Any:
        connection = self._client.connect(**self._arguments)
        with connection.cursor() as cursor:
            # Too long is an error, never cut; what others commit is seen once the row is ours.
            cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'")
            cursor.execute("SET SESSION time_zone = '+00:00'")
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute(
                f"SET SESSION innodb_lock_wait_timeout = {max(1, int(self.access.timeout / 2))}"
            )
            cursor.execute("SELECT @@max_allowed_packet")
            packet = int(cursor.fetchone()[0])
        self._statement_bytes = min(_LARGEST_STATEMENT, packet // 2)
        return connection

    def _errors(self) -> tuple[type[Exception], ...]:
        return (self._client.Error,)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Line]:
        """The lines a statement gives."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def find_columns(self, names: Sequence[str]) -> dict[str, dict[str, tuple[str, bool]]]:
        """Per table that is there: its columns, their type and whether each must be given."""
        return self._columns_of(
            "SELECT table_name, column_name, data_type, is_nullable = 'NO' AND column_default IS NULL"
            " AND extra NOT LIKE '%%auto_increment%%' AND extra NOT LIKE '%%GENERATED%%'"
            " FROM information_schema.columns"
            " WHERE table_schema = database() AND table_name IN ({names})",
            names,
        )

    def insert(self, relation: Relation, frame: pl.DataFrame) -> None:
        """Load a frame of the relation's columns."""
        cells = [_literal(frame.schema[field.name], field.name) for field in relation.fields]
        lines = frame.select("(" + pl.concat_str(cells, separator=",") + ")").to_series()
        sizes = lines.str.len_bytes().to_list()
        head = f"INSERT INTO {self.quote(relation.name)} ({self._list(relation.names)}) VALUES "
        start = size = 0
        for index, length in enumerate(sizes):
            if index > start and size + length > self._statement_bytes:
                self.execute(head + ",".join(lines[start:index].to_list()))
                start, size = index, 0
            size += length + 1
        self.execute(head + ",".join(lines[start:].to_list()))

    def _bind(self, value: Any) -> Any:
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(UTC).replace(tzinfo=None)
        return value

    def _on_conflict(self, relation: Relation, others: Sequence[str], newest_by: str | None) -> str:
        def assign(name: str) -> str:
            quoted = self.quote(name)
            if newest_by is None:
                return f"{quoted} = VALUES({quoted})"
            guard = self.quote(newest_by)
            return f"{quoted} = IF({guard} <= VALUES({guard}), VALUES({quoted}), {quoted})"

        # Assignments are made in turn, each seeing those before: what guards comes last.
        ordered = sorted(others, key=lambda name: name == newest_by)
        return f"ON DUPLICATE KEY UPDATE {', '.join(assign(name) for name in ordered)}"

    def _explain(self, error: Exception) -> Exception:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        name = self.name
        if code in (1045, 1698, 1251, 2059):
            return PermanentError(f"{name}: login refused; check user and password in url")
        if code == 1049:
            return PermanentError(f"{name}: there is no such database; create it or change url")
        if code in _MYSQL_DENIED:
            return self._denied(code)
        if code in _MYSQL_ROWS:
            return RowsRefusedError(f"{name}: the database refuses the row (error {code})")
        if code in (2003, 2006, 2013, 2002, 2026, 2055, 0):
            if "SSL" in str(error) and "doesn't support" in str(error):
                return PermanentError(
                    f"{name}: the server offers no encryption; turn it on there or set"
                    " allow_plaintext = true"
                )
            if "certificate verify failed" in str(error):
                return PermanentError(f"{name}: the server's certificate is not one the url trusts")
            return self._unreachable()
        if code in _MYSQL_PERMANENT or isinstance(error, self._client.ProgrammingError):
            return PermanentError(
                f"{name}: the database does not take our statements (error {code});"
                " was a table of ours changed?"
            )
        return TransientError(f"{name}: the database is not able to now (error {code})")


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("1", "true", "yes")


def _literal(dtype: pl.DataType, name: str) -> pl.Expr:
    """A column as SQL text of MySQL."""
    value = pl.col(name)
    if dtype == pl.String:
        text = "_utf8mb4 x'" + value.cast(pl.Binary).bin.encode("hex") + "'"
    elif dtype == pl.Float64:
        digits = pl.when(value.is_finite()).then(value.cast(pl.String))
        # Without an exponent it would be a decimal number of another precision.
        text = pl.when(digits.str.contains("e", literal=True)).then(digits).otherwise(digits + "e0")
    elif dtype == pl.Boolean:
        text = value.cast(pl.Int8).cast(pl.String)
    elif isinstance(dtype, pl.Datetime):
        text = "'" + value.dt.strftime("%Y-%m-%d %H:%M:%S%.6f") + "'"
    elif dtype == pl.Date:
        text = "'" + value.cast(pl.String) + "'"
    else:
        text = value.cast(pl.String)
    return text.fill_null("NULL")


class SqliteStore(Store):
    """A SQLite file. Instants and dates are ISO 8601 text, instants with a `Z`."""

    types: ClassVar[Mapping[Kind, str]] = {
        "key": "TEXT",
        "text": "TEXT",
        "number": "REAL",
        "whole": "INTEGER",
        "flag": "INTEGER",
        "date": "TEXT",
        "instant": "TEXT",
        "local": "TEXT",
        "json": "TEXT",
    }
    accepts: ClassVar[Mapping[Kind, frozenset[str]]] = {
        kind: frozenset({declared.lower()}) for kind, declared in types.items()
    }
    mark = "?"

    def _check(self) -> None:
        self._path = _check_file(self.access)

    def _connect(self) -> Any:
        with suppress(OSError):  # what cannot be made the client tells
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        return sqlite3.connect(
            self._path,
            timeout=self.access.timeout,
            isolation_level=None,  # transactions are begun and ended by statements of ours
        )

    def _begin(self) -> None:
        self.execute("BEGIN IMMEDIATE")

    def _errors(self) -> tuple[type[Exception], ...]:
        return (sqlite3.Error, OverflowError)

    def find_columns(self, names: Sequence[str]) -> dict[str, dict[str, tuple[str, bool]]]:
        """Per table that is there: its columns, their type and whether each must be given."""
        return self._columns_of(
            'SELECT m.name, c.name, c.type, c."notnull" AND c.dflt_value IS NULL'
            " FROM sqlite_master m JOIN pragma_table_info(m.name) c"
            " WHERE m.type IN ('table', 'view') AND m.name IN ({names})",
            names,
        )

    def insert(self, relation: Relation, frame: pl.DataFrame) -> None:
        """Load a frame of the relation's columns."""
        marks = ", ".join([self.mark] * len(relation.fields))
        self._connection.executemany(
            f"INSERT INTO {self.quote(relation.name)} ({self._list(relation.names)})"
            f" VALUES ({marks})",
            frame.select(_as_text(frame.schema[name], name) for name in relation.names).rows(),
        )

    def _bind(self, value: Any) -> Any:
        if isinstance(value, datetime):
            if value.tzinfo is None:
                return value.isoformat(" ", "microseconds")
            wall = value.astimezone(UTC).replace(tzinfo=None)
            return wall.isoformat(" ", "microseconds") + "Z"
        return value.isoformat() if isinstance(value, date) else value

    def _explain(self, error: Exception) -> Exception:
        text, name = str(error), self.name
        if isinstance(error, OverflowError | sqlite3.IntegrityError | sqlite3.DataError):
            return RowsRefusedError(
                f"{name}: the database refuses the row ({type(error).__name__})"
            )
        if "locked" in text or "busy" in text:
            return TransientError(
                f"{name}: another process has been writing for over {self.access.timeout:g} s"
            )
        if "unable to open" in text or "readonly" in text:
            return PermanentError(
                f"{name}: the file cannot be written; check its folder and their rights"
            )
        if "not a database" in text or "malformed" in text:
            return PermanentError(f"{name}: the file is not a sound SQLite database")
        if isinstance(error, sqlite3.OperationalError) and "no such" not in text:
            return TransientError(f"{name}: the file cannot be written now (disk full or failing?)")
        return PermanentError(
            f"{name}: the database does not take our statements; was a table of ours changed?"
        )


def _as_text(dtype: pl.DataType, name: str) -> pl.Expr:
    """A column as SQLite keeps it."""
    value = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        wall = value.dt.strftime("%Y-%m-%d %H:%M:%S%.6f")
        return (wall + "Z").alias(name) if dtype.time_zone else wall
    return value.cast(pl.String) if dtype == pl.Date else value


class DuckDbStore(Store):
    """A DuckDB file: frames are read where they lie in memory.

    One process at a time may have the file open, so it is open only while rows are written.
    """

    types: ClassVar[Mapping[Kind, str]] = {
        "key": "VARCHAR",
        "text": "VARCHAR",
        "number": "DOUBLE",
        "whole": "BIGINT",
        "flag": "BOOLEAN",
        "date": "DATE",
        "instant": "TIMESTAMP WITH TIME ZONE",
        "local": "TIMESTAMP",
        "json": "JSON",
    }
    accepts: ClassVar[Mapping[Kind, frozenset[str]]] = {
        **{kind: frozenset({declared.lower()}) for kind, declared in types.items()},
        "json": frozenset({"json", "varchar"}),
    }
    mark = "?"

    def _check(self) -> None:
        self._path = _check_file(self.access)
        try:
            import duckdb
        except ModuleNotFoundError as error:
            raise self.access.lack(error) from None
        self._client = duckdb

    def _connect(self) -> Any:
        is_new = not Path(self._path).exists()
        connection = self._client.connect(self._path)
        if is_new:
            Path(self._path).chmod(0o600)
        connection.execute("SET TimeZone = 'UTC'")
        return connection

    def _errors(self) -> tuple[type[Exception], ...]:
        return (self._client.Error,)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Line]:
        """The lines a statement gives."""
        cursor = self._connection.execute(sql, parameters)
        return list(cursor.fetchall()) if cursor.description else []

    def find_columns(self, names: Sequence[str]) -> dict[str, dict[str, tuple[str, bool]]]:
        """Per table that is there: its columns, their type and whether each must be given."""
        return self._columns_of(
            "SELECT table_name, column_name, data_type, is_nullable = 'NO' AND column_default IS NULL"
            " FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name IN ({names})",
            names,
        )

    def insert(self, relation: Relation, frame: pl.DataFrame) -> None:
        """Load a frame of the relation's columns."""
        columns = self._list(relation.names)
        self._connection.register("incoming", frame.to_arrow())
        try:
            self.execute(
                f"INSERT INTO {self.quote(relation.name)} ({columns})"
                f" SELECT {columns} FROM incoming"
            )
        finally:
            self._connection.unregister("incoming")

    def _conditions(
        self, by: Sequence[str], keys: Sequence[Line]
    ) -> Iterator[tuple[str, list[Any]]]:
        """One condition however many keys there are: it is run as a join."""
        if keys:
            lists = ", ".join(f"unnest(?) AS k{index}" for index in range(len(by)))
            yield (
                f"({self._list(by)}) IN (SELECT {lists})",
                [list(column) for column in zip(*keys, strict=True)],
            )

    def _explain(self, error: Exception) -> Exception:
        client, text, name = self._client, str(error), self.name
        if isinstance(error, client.ConstraintException | client.DataError):
            return RowsRefusedError(
                f"{name}: the database refuses the row ({type(error).__name__})"
            )
        if "not a valid DuckDB" in text:
            return PermanentError(f"{name}: the file is not a DuckDB database")
        if "Could not set lock" in text or "Conflicting lock" in text:
            return TransientError(f"{name}: another process has the file open")
        if "Permission denied" in text or "No such file" in text or "read-only" in text:
            return PermanentError(
                f"{name}: the file cannot be written; check its folder and their rights"
            )
        if isinstance(error, client.IOException | client.TransactionException):
            return TransientError(f"{name}: the file cannot be written now")
        return PermanentError(
            f"{name}: the database does not take our statements ({type(error).__name__});"
            " was a table of ours changed?"
        )


def _check_file(access: Access) -> str:
    path = access.url.database
    if not path or path == ":memory:":
        raise UsageError(
            f"{access.name}: the url names no file; use {access.url.drivername}:///path"
        )
    if access.url.query or access.url.host:
        raise UsageError(
            f"{access.name}: the url of a file is {access.url.drivername}:///path only"
        )
    if not Path(path).parent.is_dir():
        raise UsageError(f"{access.name}: the folder of the database file does not exist")
    return path


_STORES: dict[str, type[Store]] = {
    "postgresql": PostgresStore,
    "mysql": MySqlStore,
    "mariadb": MySqlStore,
    "sqlite": SqliteStore,
    "duckdb": DuckDbStore,
}
