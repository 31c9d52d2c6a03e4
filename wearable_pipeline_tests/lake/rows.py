"""Lakes of a few synthetic rows, written as the pipeline lays them out."""

import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from wearable_pipeline.lake.layout import table_path
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.model import TABLES, Column, Table
from wearable_pipeline.model.arrow import to_arrow
from wearable_pipeline.partitions import Partition

DAY = date(2026, 11, 20)
USER = "0b6b2f0e-6f5f-4d5c-9a55-7a1f3c0e2d11"
NOON = datetime(2026, 11, 20, 11, tzinfo=UTC)
LOCAL_NOON = datetime(2026, 11, 20, 12)  # noqa: DTZ001 local time on purpose

Row = Mapping[str, Any]


def write_rows(storage: Storage, table_name: str, rows: Iterable[Row]) -> None:
    """Writes rows, partial ones too, each user's day into its own file."""
    table = TABLES[table_name]
    cells: dict[Partition, list[Row]] = {}
    for row in rows:
        cells.setdefault(Partition(row["local_date"], row["user_id"]), []).append(row)
    for cell, some in cells.items():
        buffer = io.BytesIO()
        pq.write_table(to_arrow(table, frame_of(table, some)), buffer)
        storage.put(table_path(table_name, cell), buffer.getvalue())


def frame_of(table: Table, rows: Sequence[Row]) -> pl.DataFrame:
    """The rows with every column of the table; what a row does not name is null."""
    schema = table.polars_schema()
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def full_row(table: Table) -> dict[str, Any]:
    """A row that fills every column, within its bounds and code lists."""
    row = {column.name: _cell(column, 0) for column in table.columns}
    row["user_id"] = USER
    if table.is_dated:
        row |= {"local_date": DAY, "utc_offset_seconds": 3600, "timezone": "Europe/Berlin"}
    return row


def _cell(column: Column, number: int) -> Any:
    if column.role == "instant":
        return NOON + timedelta(minutes=number)
    if column.role == "local":
        return LOCAL_NOON + timedelta(minutes=number)
    if column.fields:
        return [{field.name: _cell(field, n) for field in column.fields} for n in range(2)]
    if column.codes is not None:
        names = list(column.codes.names.values())
        return names[:2] if column.is_list else names[number % len(names)]
    if column.is_list:
        return [48.25, 11.5] if column.unit == "deg" else ["one", "two"]
    if column.dtype.is_numeric():
        low, high = column.hard or (None, None)
        value = (low if low is not None else 0 if high is None else high) + number
        return float(value) if column.dtype == pl.Float64 else int(value)
    if column.dtype == pl.Boolean:
        return True
    if column.dtype == pl.Date:
        return DAY
    if isinstance(column.dtype, pl.Datetime):
        return NOON
    return f"{column.name} é'\" {number}"
