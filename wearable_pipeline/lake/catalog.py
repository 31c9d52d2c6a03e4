"""The lake as DuckDB sees it: a view per table, a long view per list of samples, merged days.

Nothing is copied. A month comes from the compact files where they are what the base files would
give at this moment, else from the base files: never from both. The script works for anybody's
DuckDB; a reader without it globs the Parquet files. The dbt project's staging models are made of
the same parts.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from wearable_pipeline.errors import StorageError, UsageError
from wearable_pipeline.lake.coverage import Covered, find_covered, has_compact, list_base
from wearable_pipeline.lake.merged import (
    DAILY_MERGED,
    PEOPLE,
    PEOPLE_COLUMNS,
    PEOPLE_PATH,
    default_priority,
    merged_sql,
    priority_list,
)
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.model.columns import Column, Table

if TYPE_CHECKING:  # 30 MB that loading the definitions need not pay
    import duckdb

# `SET VARIABLE source_priority = ['oura', '*', 'apple']` decides which source counts first.
PRIORITY_VARIABLE = "source_priority"

_KEY_COLUMNS = ("user_id", "provider", "local_date")
_ASKS_FOR_NAMES = re.compile(r"^\s*show\b|\binformation_schema\b|\bduckdb_\w+\(", re.IGNORECASE)
_TIMER = "timer_duration_seconds"
_TYPES: dict[pl.DataType, str] = {
    pl.String(): "VARCHAR",
    pl.Float64(): "DOUBLE",
    pl.Int64(): "BIGINT",
    pl.Int32(): "INTEGER",
    pl.Boolean(): "BOOLEAN",
    pl.Date(): "DATE",
    pl.Datetime("us", "UTC"): "TIMESTAMP WITH TIME ZONE",
    pl.Datetime("us"): "TIMESTAMP",
    pl.List(pl.String()): "VARCHAR[]",
    pl.List(pl.Float64()): "DOUBLE[]",
}


def view_names() -> list[str]:
    """Every view of the catalog: tables first, then long views, then what is made of them."""
    names = list(TABLES)
    for table in TABLES.values():
        names += [table.view_name(column) for column in table.lists]
    return [*names, PEOPLE, DAILY_MERGED]


def create_statements(
    storage: Storage, names: Iterable[str] | None = None, *, use_compact: bool = True
) -> list[str]:
    """SQL that makes the views `names` (default: all), and the views they stand on.

    A table without files yet becomes an empty view of the right columns. With `use_compact` the
    statements name the compact files that are right now, and the months that have data now: make
    the views again to see a month that begins later, or a day of a compact month written again
    (until it is compacted). Without, they are right for ever, and slower.
    """
    wanted = set(view_names() if names is None else names)
    if DAILY_MERGED in wanted:
        wanted |= {"daily", PEOPLE}
    statements = []
    for table in TABLES.values():
        long_views = [c for c in table.lists if table.view_name(c) in wanted]
        if table.name not in wanted and not long_views:
            continue
        source = _Source.of(storage, table, long_views, use_compact)
        statements.append(_view(table.name, source.rows()))
        statements += [_view(table.view_name(c), source.samples(c)) for c in long_views]
    if PEOPLE in wanted:
        people = (
            _all_of(sql_text(glob_uri(storage, PEOPLE_PATH)), "hive_partitioning = false")
            if storage.version(PEOPLE_PATH) is not None
            else no_rows(PEOPLE_COLUMNS)
        )
        statements.append(_view(PEOPLE, people))
    if DAILY_MERGED in wanted:
        priority = f"coalesce(getvariable('{PRIORITY_VARIABLE}')::VARCHAR[], {default_priority()})"
        statements.append(_view(DAILY_MERGED, merged_sql('"daily"', f'"{PEOPLE}"', priority)))
    return statements


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the rows and samples of one table are: compact months, and SQL of all others' files."""

    storage: Storage
    table: Table
    covered: tuple[Covered, ...]
    base: str | None

    @classmethod
    def of(
        cls, storage: Storage, table: Table, lists: Sequence[Column], use_compact: bool
    ) -> "_Source":
        if not (use_compact and table.is_dated and has_compact(storage, table.name)):
            every = sql_text(glob_uri(storage, f"{table.name}/**/*.parquet"))
            base = every if _has_files(storage, table.name) else None
            return cls(storage, table, (), base)
        covered = find_covered(storage, table, [table.view_name(column) for column in lists])
        left = sorted(set(list_base(storage, table)) - {month.month for month in covered})
        globs = [
            sql_text(glob_uri(storage, f"{table.name}/date={month}-*/**/*.parquet"))
            for month in left
        ]
        base = f"[{', '.join(globs)}]" if globs else None
        return cls(storage, table, tuple(covered), base)

    def rows(self) -> str:
        """Query of the table's rows."""
        columns = [f'"{column.name}"' for column in self.table.columns]
        found = [path for month in self.covered for path in month.rows]
        return self._united(
            [_pick(columns, self._compact(found))] if found else [],
            lambda base: _pick(columns, base) if found else base,
            no_rows(self.table.columns),
        )

    def samples(self, column: Column) -> str:
        """Query of one row per element of a list."""
        view = self.table.view_name(column)
        if not self.covered:
            return list_rows(self.table, column, f'"{self.table.name}"')
        keys = [f'"{key}"' for key in list_keys(self.table)]
        fields = [f'"{field.name}"' for field in column.fields]
        measured = measured_field(column)
        if measured is not None:
            fields.append(f'"{measured.name}" AS "value"')
        long = [path for month in self.covered for path in month.long[view]]
        listed = [path for month in self.covered for path in month.listed[view]]
        parts = []
        if long:
            parts.append(_pick([*keys, *fields], self._compact(long)))
        if listed:
            parts.append(list_rows(self.table, column, f"({self._compact(listed)})"))
        return self._united(
            parts,
            lambda base: list_rows(self.table, column, f"({base})"),
            list_rows(self.table, column, f"({no_rows(self.table.columns)})"),
        )

    def _compact(self, paths: Iterable[str]) -> str:
        files = ", ".join(sql_text(glob_uri(self.storage, path)) for path in paths)
        return _all_of(f"[{files}]", "hive_partitioning = false")

    def _united(self, parts: list[str], of_base: Callable[[str], str], nothing: str) -> str:
        if self.base is not None:
            rows = table_rows(self.table, self.base)
            parts = [*parts, of_base(rows)]
        return " UNION ALL ".join(parts) or nothing


def connect(
    storage: Storage, names: Iterable[str] | None = None, source_priority: Sequence[str] = ()
) -> "duckdb.DuckDBPyConnection":
    """An in-memory DuckDB with the views `names` (default: all) over the lake.

    `source_priority` replaces the order in which sources count in merged days.
    """
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    if source_priority:
        listed = priority_list(source_priority)
        connection.execute(f"SET VARIABLE {PRIORITY_VARIABLE} = {listed}")
    try:
        storage.prepare_duckdb(connection)
        for statement in create_statements(storage, names):
            connection.execute(statement)
    except duckdb.Error as error:
        connection.close()
        raise StorageError(f"DuckDB cannot read the lake {storage.url}: {error}") from None
    return connection


def run_query(
    storage: Storage, sql: str, source_priority: Sequence[str] = ()
) -> tuple[list[str], list[tuple[object, ...]]]:
    """Column names and rows of `sql` over the catalog's views.

    Raises UsageError when it is wrong.
    """
    import duckdb

    connection = connect(storage, _names_in(sql), source_priority)
    try:
        cursor = connection.execute(sql)
        names = [column[0] for column in cursor.description or []]
        return names, cursor.fetchall()
    except duckdb.Error as error:
        raise UsageError(
            f"the query failed: {_first_line(error)} (views: {', '.join(TABLES)},"
            f" {DAILY_MERGED}, body_glucose_samples, …)"
        ) from None
    finally:
        connection.close()


def script(storage: Storage, *, use_compact: bool = False) -> str:
    """The whole catalog as a script for `duckdb < catalog.sql`; it holds no secret.

    A script lives on while the lake grows, so that by default it reads base files alone.
    """
    lines = ["-- Views over the lake; run it again after the first data of a new table has come."]
    if use_compact:
        lines.append(
            "-- Closed months come from compact/ as it was when this was written: write it again daily,"
            " or a month begun since is missing and late data of a closed one come a compaction late."
        )
    if not storage.is_local:
        lines.append("-- Give DuckDB access first: INSTALL httpfs; LOAD httpfs; CREATE SECRET (…);")
    return "\n".join(
        [*lines, *(f"{one};" for one in create_statements(storage, use_compact=use_compact)), ""]
    )


def table_rows(table: Table, files: str) -> str:
    """Query of a table's rows; `files` is SQL of their glob.

    The day comes from the folder's name, so that a condition on it leaves other days' files closed.
    """
    if not table.is_dated:
        return _all_of(files, "hive_partitioning = false")
    return _all_of(
        files,
        "hive_partitioning = true, hive_types = {'date': DATE, 'user': VARCHAR}",
        ' EXCLUDE ("date", "user") REPLACE ("date" AS "local_date")',
    )


def _all_of(files: str, options: str, change: str = "") -> str:
    # `files` is a literal made by sql_text.
    return f"SELECT *{change} FROM read_parquet({files}, {options})"  # noqa: S608


def _pick(columns: Sequence[str], query: str) -> str:
    # Names of our own declarations only.
    return f"SELECT {', '.join(columns)} FROM ({query})"  # noqa: S608


def no_rows(columns: Iterable[Column]) -> str:
    """Query of no rows of these columns."""
    casts = (f'CAST(NULL AS {duckdb_type(column)}) AS "{column.name}"' for column in columns)
    return f"SELECT {', '.join(casts)} WHERE false"


def list_keys(table: Table) -> list[str]:
    """Columns of a long view that name the row a sample stands in."""
    keys = [name for name in _KEY_COLUMNS if name in table.polars_schema()]
    return [*keys, *(name for name in table.row_key if name not in keys)]


def measured_field(column: Column) -> Column | None:
    """The field a long view also shows as `value`: the measured one where there is just one."""
    measured = [
        field
        for field in column.fields
        if field.path is not None and field.dtype.is_numeric() and field.name != _TIMER
    ]
    if len(measured) != 1 or any(field.name == "value" for field in column.fields):
        return None
    return measured[0]


def list_rows(table: Table, column: Column, rows: str) -> str:
    """Query of one line per element of a list, over the relation `rows` of the table."""
    keys = [f'"{key}"' for key in list_keys(table)]
    fields = [f'sample."{field.name}" AS "{field.name}"' for field in column.fields]
    measured = measured_field(column)
    if measured is not None:
        fields.append(f'sample."{measured.name}" AS "value"')
    samples = f'{", ".join(keys)}, unnest("{column.name}") AS sample'
    # Nothing in here comes from outside: names of our own declarations only.
    return f"SELECT {', '.join([*keys, *fields])} FROM (SELECT {samples} FROM {rows})"  # noqa: S608


def duckdb_type(column: Column) -> str:
    """DuckDB's name of the column's type."""
    if column.fields:
        fields = ", ".join(f'"{field.name}" {duckdb_type(field)}' for field in column.fields)
        return f"STRUCT({fields})[]"
    return _TYPES[column.dtype]


def glob_uri(storage: Storage, pattern: str) -> str:
    """Where DuckDB finds `pattern`, whatever letters the lake's own path is made of."""
    root = re.sub(r"([*?[])", r"[\1]", storage.uri())
    return f"{root}/{pattern}"


def sql_text(text: str) -> str:
    """`text` as a literal."""
    return "'" + text.replace("'", "''") + "'"


def _names_in(sql: str) -> list[str] | None:
    """Views the query names: each one costs a listing of its files. None when it cannot be told."""
    import duckdb

    with duckdb.connect() as scratch:
        try:
            kinds = {statement.type for statement in scratch.extract_statements(sql)}
            if kinds != {duckdb.StatementType.SELECT}:
                return None
            if _ASKS_FOR_NAMES.search(sql):
                return None
            named = {name.lower() for name in scratch.get_table_names(sql)}
        except duckdb.Error as error:
            raise UsageError(f"the query cannot be read: {_first_line(error)}") from None
    return [name for name in view_names() if name in named]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _has_files(storage: Storage, table_name: str) -> bool:
    """Whether the table has a file; looks no further than the first one."""
    if storage.is_local:
        return next(Path(storage.uri(table_name)).glob("**/*.parquet"), None) is not None
    # A store knows no empty folders, and names all of a table's days in one answer.
    return bool(storage.list_prefixes(table_name + "/"))


def _view(name: str, query: str) -> str:
    return f'CREATE OR REPLACE VIEW "{name}" AS {query}'
