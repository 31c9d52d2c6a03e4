"""A database, and the rows somebody finds who joins its tables again."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import polars as pl
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from wearable_pipeline.destinations._contract import Batch, Target
from wearable_pipeline.destinations.sql import DESTINATION, SqlSettings
from wearable_pipeline.model import TABLES, Table
from wearable_pipeline_tests.destinations.counterpart import Counterpart, State

Fetch = Callable[..., list[dict[str, Any]]]


def make_engine(url: str, **more: Any) -> sa.Engine:
    """An engine without a pool and without encryption, for which pymysql reads the machine's certificates
    at every connection."""
    plain = {"ssl_disabled": True} if url.startswith("mysql") else {}
    return sa.create_engine(url, poolclass=sa.NullPool, connect_args=plain, **more)


@contextmanager
def reading(url: str) -> Iterator[Fetch]:
    """A client of the database, made without a line of ours, that sees it at one instant."""
    if url.startswith("duckdb:"):
        with duckdb.connect(url.removeprefix("duckdb:///"), read_only=True) as database:
            database.execute("SET TimeZone = 'UTC'")

            def ask(sql: str) -> list[dict[str, Any]]:
                cursor = database.execute(sql)
                names = [column[0] for column in cursor.description or ()]
                return [dict(zip(names, line, strict=True)) for line in cursor.fetchall()]

            yield ask
        return
    level = "SERIALIZABLE" if url.startswith("sqlite:") else "REPEATABLE READ"
    with make_engine(url, isolation_level=level).connect() as connection:
        yield lambda sql: [dict(line) for line in connection.exec_driver_sql(sql).mappings()]


def fetch(url: str, sql: str) -> list[dict[str, Any]]:
    """The lines of one query."""
    with reading(url) as ask:
        return ask(sql)


def run(url: str, *statements: str) -> None:
    """Runs statements as a database's owner does."""
    if url.startswith("duckdb:"):
        with duckdb.connect(url.removeprefix("duckdb:///")) as database:
            for statement in statements:
                database.execute(statement)
        return
    with make_engine(url).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def table_names(url: str) -> set[str]:
    """Tables that are there."""
    if url.startswith("duckdb:"):
        return {
            line["name"] for line in fetch(url, "select table_name as name from duckdb_tables()")
        }
    return set(sa.inspect(make_engine(url)).get_table_names())


def read_tables(url: str, prefix: str = "wearable_") -> State:
    """Every row with its samples, as the JSON clients know."""
    there = table_names(url)
    state: dict[tuple[str, str, str], Any] = {}
    with reading(url) as ask:
        for table in TABLES.values():
            if prefix + table.name not in there:
                continue
            rows = _read_rows(ask, prefix, table)
            keys = rows.select("user_id", table.row_key_expression().alias("key")).rows()
            for (user_id, key), row in zip(keys, Batch(table, (), rows).payloads, strict=True):
                assert (user_id, table.name, key) not in state
                state[user_id, table.name, key] = row
    return state


def _read_rows(ask: Fetch, prefix: str, table: Table) -> pl.DataFrame:
    rows = ask(f"select * from {prefix}{table.name}")
    samples: dict[str, dict[tuple[Any, ...], list[Any]]] = {}
    for column in table.lists:
        found = samples[column.name] = defaultdict(list)
        name = prefix + table.view_name(column)
        for line in ask(f"select * from {name} order by position"):
            of_row = found[tuple(str(line[key]) for key in table.row_key)]
            assert line["position"] == len(of_row)
            of_row.append(line)
    schema = table.polars_schema()
    for row in rows:
        key = tuple(str(row[name]) for name in table.row_key)
        for column in table.lists:
            row[column.name] = samples[column.name].pop(key, None)
    assert not any(samples.values()), "samples of rows that are not there"
    values = [
        {name: as_polars(row.get(name), dtype) for name, dtype in schema.items()} for row in rows
    ]
    return pl.DataFrame(values, schema=schema)


def as_polars(value: Any, dtype: Any) -> Any:
    """A value of a database as polars takes it."""
    if value is None:
        return None
    if isinstance(dtype, pl.List):
        listed = json.loads(value) if isinstance(value, str) else value
        return [as_polars(one, dtype.inner) for one in listed]
    if isinstance(dtype, pl.Struct):
        given: Mapping[str, Any] = value
        return {f.name: as_polars(given[f.name], f.dtype) for f in dtype.fields}
    if isinstance(dtype, pl.Datetime):
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
        if dtype.time_zone is None:
            assert at.tzinfo is None
            return at
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if dtype == pl.Date and isinstance(value, str):
        return date.fromisoformat(value)
    return bool(value) if dtype == pl.Boolean else value


def sql_counterpart(url: str) -> Counterpart:
    """The database of that URL."""
    settings = SqlSettings(url=SecretStr(url))
    return Counterpart(Target("sql", DESTINATION, settings), lambda: read_tables(url))


def start_sql(request: pytest.FixtureRequest) -> Counterpart:
    """An empty database on the session's Postgres."""
    return sql_counterpart(request.getfixturevalue("empty_postgres"))
