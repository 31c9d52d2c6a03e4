"""Bring partitions of a table in line with raw: read, normalize, replace what differs, note it down.

What is in memory at once is bounded by bytes, not by the number of partitions or users: partitions are read
`ENCODED_AT_ONCE` bytes of segments at a time and normalized `DECODED_AT_ONCE` bytes of records at a time; a
partition larger than that goes through in slices of its users. A process that refreshes stays below 2 GB
however many users a cohort holds; the benchmark `normalize_rss_mb` says by how much.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wearable_pipeline.errors import StorageError
from wearable_pipeline.lake.layout import quarantine_path, table_path
from wearable_pipeline.lake.storage import ConflictError, Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.model.columns import Table
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.raw.store import Segments
from wearable_pipeline.tables.normalize import normalize, providers_feeding
from wearable_pipeline.tables.parse import REJECTED_SCHEMA
from wearable_pipeline.workspace import Lake

ENCODED_AT_ONCE = 64 * 1024 * 1024
# A record takes many times this on its way to a row.
DECODED_AT_ONCE = 64 * 1024 * 1024

_ATTEMPTS = 8
_READERS = 16
# A day of one user may hold two thousand samples.
_ROW_GROUP_ROWS = 2_000

# A file as it was found: its bytes and the version to replace.
_Found = tuple[bytes, str] | None


@dataclass(slots=True)
class Refreshed:
    """What a refresh found and did, for metadata, ledger and the next step.

    `done` are the partitions that are finished. Of one too large for memory the rows come in several parts,
    users in order of their ids: each part has those after `after_user` up to `last_user` (None: without an
    end), and the last part says that the partition is done.
    """

    table: str
    partitions: int = 0
    written: list[Partition] = field(default_factory=list)
    done: list[Partition] = field(default_factory=list)
    records: int = 0
    merged: int = 0
    rows: pl.DataFrame = field(default_factory=pl.DataFrame)
    rejected: pl.DataFrame = field(default_factory=pl.DataFrame)
    after_user: str | None = None
    last_user: str | None = None

    @classmethod
    def empty(cls, table: Table) -> "Refreshed":
        """A report of nothing done."""
        return cls(table.name, rows=table.empty(), rejected=REJECTED_SCHEMA.to_frame())


def refresh(lake: Lake, table_name: str, partitions: Iterable[Partition]) -> Refreshed:
    """Like `refresh_in_parts`, with the rows of all parts at once: for few partitions."""
    report = Refreshed.empty(TABLES[table_name])
    parts = list(refresh_in_parts(lake, table_name, partitions))
    for part in parts:
        report.partitions += len(part.done)
        report.written += part.written
        report.done += part.done
        report.records += part.records
        report.merged += part.merged
    report.rows = pl.concat([report.rows, *(part.rows for part in parts)])
    report.rejected = pl.concat([report.rejected, *(part.rejected for part in parts)])
    return report


def refresh_in_parts(
    lake: Lake, table_name: str, partitions: Iterable[Partition]
) -> Iterator[Refreshed]:
    """Recompute `partitions` of a table from raw and replace the files that differ, part by part.

    Files are replaced before their rows are handed out. Safe to run twice and twice at once: a partition
    replaced by somebody else meanwhile is computed again from what raw holds then. Raises StorageError when
    that never settles.
    """
    table = TABLES[table_name]
    feeding = providers_feeding(table_name)
    waiting = sorted(set(partitions), key=lambda partition: (partition.date, partition.cohort))
    sizes = lake.raw.sizes(feeding, waiting)
    for some in _cut(waiting, [sizes[partition] for partition in waiting], ENCODED_AT_ONCE):
        yield from _refresh_until_settled(lake, table, feeding, some)


def _cut(items: Sequence[Partition], sizes: Sequence[int], limit: int) -> list[list[Partition]]:
    """`items` in order, at most `limit` bytes together; one that is larger goes alone."""
    parts: list[list[Partition]] = []
    filled = 0
    for item, size in zip(items, sizes, strict=True):
        if not parts or filled + size > limit or len(parts[-1]) >= _PARTITIONS_AT_ONCE:
            parts.append([])
            filled = 0
        parts[-1].append(item)
        filled += size
    return parts


# Partitions without a record have no bytes, yet each is read and compared.
_PARTITIONS_AT_ONCE = 500


def _refresh_until_settled(
    lake: Lake, table: Table, feeding: Sequence[str], partitions: Sequence[Partition]
) -> Iterator[Refreshed]:
    # Replaced in a round that ended in a conflict: the next one finds nothing left to replace.
    half_done: set[Partition] = set()
    waiting = list(partitions)
    for _ in range(_ATTEMPTS):
        # Versions are taken before raw is read: whoever writes after us has seen at least as much.
        before = _Before.of(lake.storage, table, waiting, half_done)
        segments = lake.raw.read_segments(feeding, waiting)
        for some in _cut(waiting, [segments[one].size for one in waiting], DECODED_AT_ONCE):
            if len(some) == 1 and segments[some[0]].size > DECODED_AT_ONCE:
                yield from _refresh_large(table, some[0], segments[some[0]], before)
            else:
                report = _refresh_small(lake, table, some, segments, before)
                if report.done:
                    yield report
            for partition in some:
                del segments[partition]
        waiting = before.conflicts
        if not waiting:
            return
    raise StorageError(
        f"{table.name}: {len(waiting)} partitions keep being replaced by another process: try again"
    )


@dataclass(slots=True)
class _Before:
    """The files of a round as they were before raw was read, and what became of replacing them."""

    storage: Storage
    table: Table
    rows: dict[Partition, _Found]
    quarantine: dict[Partition, _Found]
    half_done: set[Partition]
    conflicts: list[Partition] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        storage: Storage,
        table: Table,
        partitions: Sequence[Partition],
        half_done: set[Partition],
    ) -> "_Before":
        paths = [table_path(table.name, one) for one in partitions]
        paths += [quarantine_path(table.name, one) for one in partitions]
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(storage.read_versioned, paths))
        count = len(partitions)
        return cls(
            storage,
            table,
            dict(zip(partitions, found[:count], strict=True)),
            dict(zip(partitions, found[count:], strict=True)),
            half_done,
        )

    def replace(self, partition: Partition, rows: bytes | None, quarantine: bytes | None) -> bool:
        """Replace the files of `partition` that differ; whether any did. None: nothing to keep.

        Raises ConflictError, with the partition noted down for the next round, when another process was
        faster.
        """
        changed = partition in self.half_done
        try:
            changed |= self._replace(
                table_path(self.table.name, partition),
                self.rows.pop(partition),
                rows,
                self.table.arrow_schema(),
            )
            changed |= self._replace(
                quarantine_path(self.table.name, partition),
                self.quarantine.pop(partition),
                quarantine,
                _QUARANTINE_SCHEMA,
            )
        except ConflictError:
            self.conflicts.append(partition)
            if changed:
                self.half_done.add(partition)
            raise
        return changed

    def _replace(
        self, path: str, existing: _Found, content: bytes | None, schema: pa.Schema
    ) -> bool:
        # A partition that has become empty keeps a file without rows: a replace is atomic everywhere, a
        # delete under readers is not.
        if content is None:
            if existing is None:
                return False
            content = encode_parquet(schema.empty_table(), schema)
        if existing is not None and existing[0] == content:
            return False
        self.storage.replace(path, content, existing[1] if existing else None)
        return True


_QUARANTINE_SCHEMA = REJECTED_SCHEMA.to_frame().to_arrow().schema


def _refresh_small(
    lake: Lake,
    table: Table,
    partitions: Sequence[Partition],
    segments: dict[Partition, Segments],
    before: _Before,
) -> Refreshed:
    """Partitions that fit into memory together, in one go."""
    # Bounds on time come from each partition's own raw, so that a batch changes nothing for one of them.
    result = normalize(pl.concat([segments[one].read() for one in partitions]), table.name)
    rows_of = split_partitions(result.rows, lake.scheme)
    rejected_of = split_partitions(result.rejected, lake.scheme)
    report = Refreshed.empty(table)
    report.records, report.merged = result.records, result.merged
    schema = table.arrow_schema()
    for partition in partitions:
        rows, rejected = rows_of.get(partition), rejected_of.get(partition)
        try:
            changed = before.replace(
                partition,
                None if rows is None else encode_parquet(rows.to_arrow(), schema),
                None
                if rejected is None
                else encode_parquet(rejected.to_arrow(), _QUARANTINE_SCHEMA),
            )
        except ConflictError:
            continue
        report.done.append(partition)
        if changed:
            report.written.append(partition)
    report.partitions = len(report.done)
    report.rows = pl.concat([report.rows, *(rows_of[p] for p in report.done if p in rows_of)])
    report.rejected = pl.concat(
        [report.rejected, *(rejected_of[p] for p in report.done if p in rejected_of)]
    )
    return report


def _refresh_large(
    table: Table, partition: Partition, segments: Segments, before: _Before
) -> Iterator[Refreshed]:
    """A partition in slices of its users; their rows follow each other in the file as they would anyway."""
    rows = FileWriter(table.arrow_schema())
    quarantine = FileWriter(_QUARANTINE_SCHEMA)
    records = merged = 0
    for users in segments.slices(DECODED_AT_ONCE):
        result = normalize(segments.read(users), table.name)
        rows.add(result.rows.to_arrow())
        quarantine.add(result.rejected.to_arrow())
        records += result.records
        merged += result.merged
        del result
    content, left_out = rows.finish(), quarantine.finish()
    try:
        changed = before.replace(
            partition,
            content if rows.rows else None,
            left_out if quarantine.rows else None,
        )
    except ConflictError:
        return
    rejected = pl.read_parquet(io.BytesIO(left_out))
    report = Refreshed.empty(table)
    # Of what was written, as many rows at a time as a row group has; a user's never in two parts.
    held = table.empty()
    file = pq.ParquetFile(io.BytesIO(content))
    for number in range(file.num_row_groups):
        found = table.conform(pl.DataFrame(file.read_row_group(number)))
        report.rows = pl.concat([held, found])
        if number < file.num_row_groups - 1:
            is_held = pl.col("user_id") == found["user_id"].last()
            held = report.rows.filter(is_held)
            report.rows = report.rows.filter(~is_held)
            if report.rows.is_empty():
                continue
            last = str(report.rows["user_id"].last())
            report.last_user = last
            report.rejected = rejected.filter(pl.col("user_id") <= last)
            rejected = rejected.filter(pl.col("user_id") > last)
            yield report
            report = Refreshed.empty(table)
            report.after_user = last
    report.done, report.partitions = [partition], 1
    report.written = [partition] if changed else []
    report.records, report.merged = records, merged
    report.rejected = rejected
    yield report


def split_partitions(frame: pl.DataFrame, scheme: Scheme) -> dict[Partition, pl.DataFrame]:
    """The rows of each partition, in the order they have in `frame`."""
    if frame.is_empty():
        return {}
    cohorts = {user_id: scheme.cohort_of(user_id) for user_id in frame["user_id"].unique()}
    cut = frame.with_columns(
        pl.col("user_id").replace_strict(cohorts, return_dtype=pl.String).alias("cohort\x00")
    )
    return {
        Partition(day, str(cohort)): part.drop("cohort\x00")
        for (day, cohort), part in cut.partition_by(
            "local_date", "cohort\x00", as_dict=True, include_key=True, maintain_order=True
        ).items()
    }


def encode_parquet(data: pa.Table, schema: pa.Schema) -> bytes:
    """`data` as Parquet bytes: a function of the data and the library versions alone."""
    file = FileWriter(schema)
    file.add(data)
    return file.finish()


class FileWriter:
    """One Parquet file in memory, in row groups that depend on its rows and not on how they come."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(
            self._buffer, schema, compression="zstd", store_schema=True, **_encodings(schema)
        )
        self._waiting = schema.empty_table()
        self.rows = 0

    def add(self, data: pa.Table) -> None:
        """Append rows."""
        self.rows += data.num_rows
        data = data.cast(self._schema)
        if self._waiting.num_rows:
            data = pa.concat_tables([self._waiting, data])
        self._waiting = data
        while self._waiting.num_rows >= _ROW_GROUP_ROWS:
            self._write(self._waiting.slice(0, _ROW_GROUP_ROWS))
            self._waiting = self._waiting.slice(_ROW_GROUP_ROWS)

    def finish(self) -> bytes:
        """The bytes of the file."""
        if self._waiting.num_rows or not self.rows:
            self._write(self._waiting)
        self._writer.close()
        return self._buffer.getvalue()

    def _write(self, group: pa.Table) -> None:
        # Pages end where chunks do.
        self._writer.write_table(group.combine_chunks(), row_group_size=_ROW_GROUP_ROWS)


_NEVER_TWICE = "source_record_ids."


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    """How the columns of a table are written; a dictionary pays for words only.

    Readers look at the bounds of what a row is found by, never at those of samples.
    """
    dictionary: list[str] = []
    deltas: dict[str, str] = {}
    bounded: list[str] = []

    def visit(kind: pa.DataType, path: str) -> None:
        if pa.types.is_large_list(kind) or pa.types.is_list(kind):
            visit(kind.value_type, f"{path}.list.element")
        elif pa.types.is_struct(kind):
            for child in kind:
                visit(child.type, f"{path}.{child.name}")
        elif pa.types.is_timestamp(kind):
            deltas[path] = "DELTA_BINARY_PACKED"
        elif pa.types.is_large_string(kind) and not path.startswith(_NEVER_TWICE):
            dictionary.append(path)

    for column in schema:
        visit(column.type, column.name)
        if not pa.types.is_nested(column.type):
            bounded.append(column.name)
    return {
        "use_dictionary": dictionary,
        "column_encoding": deltas,
        "write_statistics": bounded,
    }


def newest_instants(rows: pl.DataFrame, table: Table) -> dict[tuple[str, date], datetime]:
    """The newest known instant among the samples of each user's day."""
    lists = [
        column
        for column in table.lists
        if column.time is not None and rows[column.name].null_count() < rows.height
    ]
    if rows.is_empty() or not lists:
        return {}
    newest = pl.max_horizontal(
        pl.col(column.name).list.eval(pl.element().struct.field(time.name)).list.max()
        for column in lists
        if (time := column.time) is not None
    )
    found = rows.group_by("user_id", "local_date").agg(newest.max().alias("at")).drop_nulls()
    return {(user_id, day): at for user_id, day, at in found.rows()}
