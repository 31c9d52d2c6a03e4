"""Bring partitions of a table in line with raw: read, normalize, replace what differs, note it down."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wearable_pipeline.errors import StorageError
from wearable_pipeline.lake.layout import quarantine_path, table_path
from wearable_pipeline.lake.storage import ConflictError, Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.model.columns import Table
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.tables.normalize import Normalized, normalize, providers_feeding
from wearable_pipeline.tables.parse import REJECTED_SCHEMA
from wearable_pipeline.workspace import Lake

_ATTEMPTS = 8
_ROW_GROUP_ROWS = 122_880


@dataclass(slots=True)
class Refreshed:
    """What a refresh found and did, for metadata, ledger and the next step."""

    table: str
    partitions: int = 0
    written: list[Partition] = field(default_factory=list)
    records: int = 0
    merged: int = 0
    rows: pl.DataFrame = field(default_factory=pl.DataFrame)
    rejected: pl.DataFrame = field(default_factory=pl.DataFrame)

    @classmethod
    def empty(cls, table: Table) -> "Refreshed":
        """A report of nothing done."""
        return cls(table.name, rows=table.empty(), rejected=REJECTED_SCHEMA.to_frame())


def refresh(lake: Lake, table_name: str, partitions: Iterable[Partition]) -> Refreshed:
    """Recompute `partitions` of a table from raw and replace the files that differ.

    Safe to run twice and twice at once: a partition replaced by somebody else meanwhile is computed again
    from what raw holds then. Raises StorageError when that never settles.
    """
    table = TABLES[table_name]
    feeding = providers_feeding(table_name)
    report = Refreshed.empty(table)
    waiting = sorted(set(partitions), key=lambda partition: (partition.date, partition.cohort))
    report.partitions = len(waiting)
    # Replaced in a round that ended in a conflict: the next one finds nothing left to replace.
    half_done: set[Partition] = set()
    for _ in range(_ATTEMPTS):
        if not waiting:
            return report
        waiting = _refresh_once(lake, table, feeding, waiting, report, half_done)
    raise StorageError(
        f"{table_name}: {len(waiting)} partitions keep being replaced by another process: try again"
    )


def _refresh_once(
    lake: Lake,
    table: Table,
    feeding: Sequence[str],
    partitions: Sequence[Partition],
    report: Refreshed,
    half_done: set[Partition],
) -> list[Partition]:
    """One round over `partitions`; returns those that somebody else replaced meanwhile."""
    # Versions are taken before raw is read: whoever writes after us has seen at least as much.
    before = {
        partition: (
            lake.storage.read_versioned(table_path(table.name, partition)),
            lake.storage.read_versioned(quarantine_path(table.name, partition)),
        )
        for partition in partitions
    }
    raw = lake.raw.read(feeding, partitions)
    # Bounds on time come from each partition's own raw, so that a batch changes nothing for one of them.
    result = normalize(raw, table.name)
    conflicts: list[Partition] = []
    kept: list[Partition] = []
    rows_of = _by_partition(result.rows, lake.scheme)
    rejected_of = _by_partition(result.rejected, lake.scheme)
    for partition in partitions:
        rows, left_out = before[partition]
        changed = partition in half_done
        try:
            changed |= _replace(
                lake.storage,
                table_path(table.name, partition),
                rows,
                rows_of.get(partition),
                table.arrow_schema(),
            )
            changed |= _replace(
                lake.storage,
                quarantine_path(table.name, partition),
                left_out,
                rejected_of.get(partition),
                REJECTED_SCHEMA.to_frame().to_arrow().schema,
            )
        except ConflictError:
            conflicts.append(partition)
            if changed:
                half_done.add(partition)
            continue
        kept.append(partition)
        if changed:
            report.written.append(partition)
    _count(report, result, kept, rows_of, rejected_of)
    return conflicts


def _count(
    report: Refreshed,
    result: Normalized,
    kept: Sequence[Partition],
    rows_of: dict[Partition, pl.DataFrame],
    rejected_of: dict[Partition, pl.DataFrame],
) -> None:
    report.records += result.records
    report.merged += result.merged
    report.rows = pl.concat([report.rows, *(rows_of[p] for p in kept if p in rows_of)])
    report.rejected = pl.concat(
        [report.rejected, *(rejected_of[p] for p in kept if p in rejected_of)]
    )


def _by_partition(frame: pl.DataFrame, scheme: Scheme) -> dict[Partition, pl.DataFrame]:
    if frame.is_empty():
        return {}
    cohorts = {user_id: scheme.cohort_of(user_id) for user_id in frame["user_id"].unique()}
    cut = frame.with_columns(
        pl.col("user_id").replace_strict(cohorts, return_dtype=pl.String).alias("cohort\x00")
    )
    return {
        Partition(day, str(cohort)): part
        for (day, cohort), part in cut.partition_by(
            "local_date", "cohort\x00", as_dict=True, include_key=True, maintain_order=True
        ).items()
        for part in [part.drop("cohort\x00")]
    }


def _replace(
    storage: Storage,
    path: str,
    existing: tuple[bytes, str] | None,
    frame: pl.DataFrame | None,
    schema: pa.Schema,
) -> bool:
    """Replace the file at `path` if its bytes would differ; returns whether it did.

    A partition that has become empty keeps a file without rows: a replace is atomic everywhere, a delete
    under readers is not.
    """
    if frame is None:
        if existing is None:
            return False
        content = encode_parquet(schema.empty_table(), schema)
    else:
        content = encode_parquet(frame.to_arrow(), schema)
    if existing is not None and existing[0] == content:
        return False
    storage.replace(path, content, existing[1] if existing else None)
    return True


def encode_parquet(data: pa.Table, schema: pa.Schema) -> bytes:
    """`data` as Parquet bytes: a function of the data and the library versions alone."""
    buffer = io.BytesIO()
    pq.write_table(
        data.cast(schema),
        buffer,
        compression="zstd",
        row_group_size=_ROW_GROUP_ROWS,
        store_schema=True,
    )
    return buffer.getvalue()


def newest_instants(rows: pl.DataFrame, table: Table) -> dict[tuple[str, date], datetime]:
    """The newest known instant among the samples of each user's day."""
    lists = [column for column in table.lists if column.time is not None]
    if rows.is_empty() or not lists:
        return {}
    newest = pl.max_horizontal(
        pl.col(column.name).list.eval(pl.element().struct.field(time.name)).list.max()
        for column in lists
        if (time := column.time) is not None
    )
    found = rows.group_by("user_id", "local_date").agg(newest.max().alias("at")).drop_nulls()
    return {(user_id, day): at for user_id, day, at in found.rows()}
