"""Rows that fill every column of a table, made from the declaration."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from wearable_pipeline.model import Column, Table

NOON = datetime(2026, 11, 20, 11, tzinfo=UTC)
LOCAL_NOON = datetime(2026, 11, 20, 12)  # noqa: DTZ001 local time on purpose

FillRow = Callable[[Table], dict[str, Any]]


def _number(column: Column) -> float:
    low, high = column.plausible or column.hard or (0, 100)
    low = 0 if low is None else low
    return low + ((100 if high is None else high) - low) / 2


def _cell(column: Column, number: int) -> Any:
    step = timedelta(minutes=number)
    if column.role == "instant":
        return NOON + step
    if column.role == "local":
        return LOCAL_NOON + step
    if column.fields:
        return [_cells(column.fields, number) for number in range(2)]
    if column.codes is not None:
        names = list(column.codes.names.values())
        return names[:2] if column.is_list else names[number % len(names)]
    if column.is_list:
        return [48.25, 11.5] if column.unit == "deg" else ["one", "two"]
    if column.dtype == pl.Float64:
        return _number(column) + 0.25 + number * 0.125
    if column.dtype.is_integer():
        return int(_number(column)) + number
    if column.dtype == pl.Boolean:
        return number % 2 == 0
    if column.dtype == pl.Date:
        return date(2026, 11, 20)
    if isinstance(column.dtype, pl.Datetime):
        return NOON
    return f"{column.name} é 猫 {number}"


def _cells(columns: Sequence[Column], number: int) -> dict[str, Any]:
    return {column.name: _cell(column, number) for column in columns}


@pytest.fixture
def fill_row() -> FillRow:
    def fill(table: Table) -> dict[str, Any]:
        row = _cells(table.columns, 0)
        row["user_id"] = "0b6b2f0e-6f5f-4d5c-9a55-7a1f3c0e2d11"
        if table.is_dated:
            row |= {"utc_offset_seconds": 3600, "timezone": "Europe/Berlin"}
        return row

    return fill


@pytest.fixture
def frame_of() -> Callable[..., pl.DataFrame]:
    """A frame of the table from partial rows; what a row does not name is null."""

    def build(table: Table, *rows: dict[str, Any]) -> pl.DataFrame:
        schema = table.polars_schema()
        return pl.DataFrame([{n: row.get(n) for n in schema} for row in rows], schema=schema)

    return build
