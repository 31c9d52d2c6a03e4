"""The Arrow schema of a table: what Parquet files say about themselves."""

import json
from functools import cache

import polars as pl
import pyarrow as pa

from wearable_pipeline.model.columns import Column, Table


@cache
def arrow_schema(table: Table) -> pa.Schema:
    """Arrow schema whose fields, also inside lists, carry unit, description, path and codes."""
    return pa.schema(
        [_arrow_field(column, "") for column in table.columns],
        metadata={
            "table": table.name,
            "description": table.description,
            "key": ",".join(table.row_key),
        },
    )


def to_arrow(table: Table, frame: pl.DataFrame) -> pa.Table:
    """The frame as an Arrow table under the table's own schema, ready to be written."""
    return frame.to_arrow().cast(arrow_schema(table))


def _arrow_field(column: Column, prefix: str) -> pa.Field:
    facts = {"description": column.description}
    if column.path is not None:
        facts["path"] = prefix + column.path
    if column.unit is not None:
        facts["unit"] = column.unit
    if column.codes is not None:
        facts["enum"] = json.dumps(
            {str(code): name for code, name in column.codes.names.items()}, separators=(",", ":")
        )
    return pa.field(column.name, _arrow_type(column, prefix), metadata=facts)


def _arrow_type(column: Column, prefix: str) -> pa.DataType:
    if column.fields:
        inner = f"{prefix}{column.path or column.name}[]."
        return pa.large_list(pa.struct([_arrow_field(field, inner) for field in column.fields]))
    return _plain(column.dtype)


def _plain(dtype: pl.DataType) -> pa.DataType:
    if isinstance(dtype, pl.List):
        return pa.large_list(_plain(pl.Series(dtype=dtype.inner).dtype))
    return pl.Series(dtype=dtype).to_arrow(compat_level=pl.CompatLevel.oldest()).type
