"""The lake as DuckDB sees it: a view per table and a long view per list of samples.

Nothing is copied. The script works for anybody's DuckDB; a reader without it globs the Parquet files.
"""

from collections.abc import Iterable, Mapping
from functools import cache

import duckdb

from wearable_pipeline.errors import StorageError, UsageError
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.model.columns import Column, Table

_KEY_COLUMNS = ("user_id", "provider", "local_date")


def view_names() -> list[str]:
    """Every view of the catalog: tables first, then long views."""
    names = list(TABLES)
    for table in TABLES.values():
        names += [table.view_name(column) for column in table.lists]
    return names


def create_statements(storage: Storage, names: Iterable[str] | None = None) -> list[str]:
    """SQL that makes the views `names` (default: all), and the tables they stand on.

    A table without files yet becomes an empty view of the right columns.
    """
    wanted = set(view_names() if names is None else names)
    statements = []
    for table in TABLES.values():
        long_views = [c for c in table.lists if table.view_name(c) in wanted]
        if table.name not in wanted and not long_views:
            continue
        statements.append(_table_view(storage, table))
        statements += [_long_view(table, column) for column in long_views]
    return statements


def connect(storage: Storage, names: Iterable[str] | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views `names` (default: all) over the lake."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    try:
        storage.prepare_duckdb(connection)
        for statement in create_statements(storage, names):
            connection.execute(statement)
    except duckdb.Error as error:
        raise StorageError(f"DuckDB cannot read the lake {storage.url}: {error}") from None
    return connection


def run_query(storage: Storage, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    """Column names and rows of `sql` over the catalog's views. Raises UsageError when it is wrong."""
    with duckdb.connect() as scratch:
        try:
            named = scratch.get_table_names(sql)
        except duckdb.Error as error:
            raise UsageError(f"the query cannot be read: {_first_line(error)}") from None
    connection = connect(storage, [name for name in view_names() if name in named])
    try:
        cursor = connection.execute(sql)
        names = [column[0] for column in cursor.description or []]
        return names, cursor.fetchall()
    except duckdb.Error as error:
        raise UsageError(
            f"the query failed: {_first_line(error)} (views: {', '.join(TABLES)}, body_glucose_samples, …)"
        ) from None
    finally:
        connection.close()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _table_view(storage: Storage, table: Table) -> str:
    has_files = any(entry.path.endswith(".parquet") for entry in storage.list(table.name + "/"))
    if not has_files:
        columns = ", ".join(
            f'CAST(NULL AS {dtype}) AS "{name}"'
            for name, dtype in _duckdb_types(table.name).items()
        )
        return f'CREATE OR REPLACE VIEW "{table.name}" AS SELECT {columns} WHERE false'
    glob = storage.uri(f"{table.name}/**/*.parquet").replace("'", "''")
    return (
        f'CREATE OR REPLACE VIEW "{table.name}" AS SELECT * EXCLUDE ("date", "user")'
        f" FROM read_parquet('{glob}', hive_partitioning = true)"
    )


@cache
def _duckdb_types(table_name: str) -> Mapping[str, str]:
    with duckdb.connect() as scratch:
        relation = scratch.from_arrow(TABLES[table_name].arrow_schema().empty_table())
        return dict(zip(relation.columns, map(str, relation.types), strict=True))


def _long_view(table: Table, column: Column) -> str:
    """One line per sample; `value` is the measured field where there is just one."""
    keys = [name for name in _KEY_COLUMNS if name in table.polars_schema()]
    own = [f'"{key}"' for key in keys]
    fields = [f'sample."{field.name}" AS "{field.name}"' for field in column.fields]
    measured = [f for f in column.fields if f.path is not None and f.dtype.is_numeric()]
    if len(measured) == 1 and all(field.name != "value" for field in column.fields):
        fields.append(f'sample."{measured[0].name}" AS "value"')
    return (
        f'CREATE OR REPLACE VIEW "{table.view_name(column)}" AS'
        f" SELECT {', '.join([*own, *fields])}"
        f' FROM (SELECT {", ".join(own)}, unnest("{column.name}") AS sample FROM "{table.name}")'
    )


def script(storage: Storage) -> str:
    """The whole catalog as a script for `duckdb < catalog.sql`; it holds no secret."""
    lines = ["-- Views over the lake; run it again after the first data of a new table has come."]
    if not storage.is_local:
        lines.append("-- Give DuckDB access first: INSTALL httpfs; LOAD httpfs; CREATE SECRET (…);")
    return "\n".join([*lines, *(f"{statement};" for statement in create_statements(storage)), ""])
