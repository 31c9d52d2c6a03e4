"""Questions asked of tables after a write: gaps between readings, files against the declaration."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl
import pyarrow.parquet as pq

from wearable_pipeline.lake.layout import table_path
from wearable_pipeline.lake.storage import MissingError, Storage
from wearable_pipeline.model.columns import Table
from wearable_pipeline.partitions import Partition

GLUCOSE = "glucose_blood_glucose_samples"
# A gap is a step of more than one and a half times the usual one.
_GAP_FACTOR = 1.5
_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARK_POINTS = 96
_SPARK_USERS = 5
_FILES_CHECKED = 50


@dataclass(frozen=True, slots=True)
class Gap:
    """A silence between two readings of one user."""

    user_id: str
    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        """How long it lasted."""
        return self.end - self.start


def find_gaps(rows: pl.DataFrame, steps: Mapping[str, timedelta]) -> list[Gap]:
    """Gaps between sensor readings in `rows` of body; `steps` gives a provider's usual step.

    Where a trace itself is coarser than the provider's step (a 15-minute sensor at a 5-minute provider)
    the median of the trace counts.
    """
    readings = _sensor_readings(rows)
    if readings.is_empty():
        return []
    usual = pl.col("provider").replace_strict(steps, default=None, return_dtype=pl.Duration("us"))
    found = (
        readings.with_columns(
            pl.col("timestamp").diff().over("user_id").alias("step"),
            pl.col("timestamp").shift().over("user_id").alias("before"),
        )
        .with_columns(
            pl.max_horizontal(usual, pl.col("step").median().over("user_id")).alias("usual")
        )
        .filter(pl.col("step") > pl.col("usual") * _GAP_FACTOR)
        .select("user_id", "before", "timestamp")
        .sort("user_id", "before")
    )
    return [Gap(*row) for row in found.rows()]


def sparkline(rows: pl.DataFrame) -> list[str]:
    """The shape of each user's latest readings in blocks, one line a user, without a scale."""
    readings = _sensor_readings(rows)
    if readings.is_empty():
        return []
    lines = []
    for (user_id,), trace in readings.partition_by(
        "user_id", as_dict=True, maintain_order=True
    ).items():
        values = trace["value"].tail(_SPARK_POINTS)
        low, high = values.min(), values.max()
        if not isinstance(low, float) or not isinstance(high, float) or high == low:
            continue
        level = ((values - low) / (high - low) * (len(_BLOCKS) - 1)).round().cast(pl.Int32)
        lines.append(f"{str(user_id)[:8]} " + "".join(_BLOCKS[number] for number in level))
        if len(lines) == _SPARK_USERS:
            break
    return lines


def _sensor_readings(rows: pl.DataFrame) -> pl.DataFrame:
    """`user_id`, `provider`, `timestamp`, `value` of every sensor reading with a known instant."""
    if rows.is_empty() or GLUCOSE not in rows.columns:
        return pl.DataFrame()
    sample = pl.col(GLUCOSE).struct
    return (
        rows.select("user_id", "provider", GLUCOSE)
        .explode(GLUCOSE, empty_as_null=False, keep_nulls=False)
        .select(
            "user_id",
            "provider",
            timestamp=sample.field("timestamp"),
            value=sample.field("blood_glucose_mg_per_dl"),
            kind=sample.field("sample_kind"),
        )
        .filter(
            (pl.col("kind") == "cgm")
            & pl.col("timestamp").is_not_null()
            & pl.col("value").is_not_null()
        )
        .sort("user_id", "timestamp")
    )


def read_schema_faults(storage: Storage, table: Table, cells: Iterable[Partition]) -> Sequence[str]:
    """What differs between the declaration of `table` and its files in the newest of `cells`."""
    declared = table.arrow_schema()
    faults = []
    newest = sorted(set(cells), key=lambda cell: (cell.date, cell.cohort))[-_FILES_CHECKED:]
    for cell in newest:
        path = table_path(table.name, cell)
        try:
            found = pq.read_schema(io.BytesIO(storage.read(path)))
        except MissingError:
            continue
        if not found.equals(declared):
            names = sorted(set(found.names) ^ set(declared.names))
            faults.append(f"`{path}`: {', '.join(names) or 'types differ'}")
    return faults
