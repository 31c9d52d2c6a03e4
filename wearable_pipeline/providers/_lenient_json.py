"""JSON whose objects have keys nobody can declare, or are empty lists where they are empty."""

from functools import cache
from typing import TYPE_CHECKING

import msgspec
import polars as pl

if TYPE_CHECKING:
    import duckdb


@cache
def _database() -> "duckdb.DuckDBPyConnection":
    import duckdb  # 30 MB no sensor needs

    return duckdb.connect(config={"threads": 1})


def read_json(body: pl.Series, shape: object) -> pl.Series:
    """`body` read as `shape`, of DuckDB's types; what is of another kind than it says is null.

    The type `JSON` keeps a value's text, whatever it is.
    """
    text = msgspec.json.encode(shape).decode().replace("'", "''")
    bodies = body.alias("body").to_frame().to_arrow()
    with _database().cursor() as cursor:
        cursor.register("bodies", bodies)
        found = cursor.execute(
            f"select try(json_transform(decode(body), '{text}')) as found from bodies"  # noqa: S608 - ours
        ).to_arrow_table()
    return pl.DataFrame(found).to_series()
