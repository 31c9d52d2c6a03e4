"""The second tree: one well-sorted file per closed month and bucket, made from the base files.

`compact/<table>/month=…/part-NN.parquet` holds the table's rows by user and day,
`compact/<table>_<list>/…` the samples of a list, one per row, by user and time: an engine that wants
one field of a sample need not read all of them. Base files are only read. A file is a function of
its base files and is replaced whole, so a month may be made again, and by two at once.

Months exceeding the wanted size are cut into buckets of cohorts. Their number is decided by whoever
writes the first file of the month and kept: each user's rows stay in one file for ever.
"""

import io
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from uuid import uuid4

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wearable_pipeline.errors import StorageError, TransientError
from wearable_pipeline.lake.catalog import list_keys
from wearable_pipeline.lake.coverage import (
    STAMP_KEY,
    Stamp,
    compact_path,
    digest_entries,
    digest_of,
    in_buckets,
    list_base,
    list_parts,
    read_stamps,
    sampled_views,
)
from wearable_pipeline.lake.layout import read_manifest
from wearable_pipeline.lake.storage import ConflictError, Entry, Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.model.arrow import arrow_schema, to_arrow
from wearable_pipeline.model.columns import Column, Table
from wearable_pipeline.workspace import Workspace

Progress = Callable[[str, int], None]

# Of several at once each but one loses each file and looks again, which costs little.
_ATTEMPTS = 20
# Longer than one bucket takes; renewed after each.
_LEASE = timedelta(hours=1)
_READERS = 16
# DuckDB's own: a reader's unit of skipping and of parallel work.
_GROUP_ROWS = 122_880
# So many samples make a row group of rows that hold them in lists; fewer cost more opening, more memory.
_GROUP_SAMPLES = 600_000
# Base bytes decoded at a time, and per slice of users that is sorted at a time. Decoded they are about
# thirty times as many.
_READ_BYTES = 8 * 1024 * 1024
_SLICE_BYTES = 8 * 1024 * 1024
_SAMPLED_FILES = 4


@dataclass(slots=True)
class Compacted:
    """What a compaction of a table found and did."""

    table: str
    months: int = 0
    open_months: int = 0
    files: int = 0
    rows: int = 0
    samples: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    is_left: bool = False


@dataclass(slots=True)
class _Bucket:
    """One bucket of one month: its base files, and the compact files there are."""

    month: str
    number: int
    of: int
    base: Sequence[Entry]
    parts: dict[str, Entry]
    stamps: dict[str, Stamp]
    scheme: str

    def is_right(self, table: Table) -> bool:
        """Whether every compact file is what the base files would give."""
        digest = digest_entries(self.base)
        rows = self.stamps.get(table.name)
        if rows is None or rows.base != digest or rows.buckets != self.of:
            return False
        return set(rows.views) <= self.parts.keys() and all(
            name in self.stamps and self.stamps[name].base == digest for name in self.parts
        )


@dataclass(slots=True)
class _Made:
    digest: str
    rows: bytes
    long: dict[str, bytes]
    row_count: int = 0
    sample_count: int = 0
    bytes_read: int = 0


def is_closed(month: str, today: date, after_days: int) -> bool:
    """Whether `month` has been over for `after_days`."""
    year, number = map(int, month.split("-"))
    following = date(year + number // 12, number % 12 + 1, 1)
    return today >= following + timedelta(days=after_days)


def compact(
    workspace: Workspace,
    table_names: Iterable[str],
    progress: Progress = lambda stage, done: None,
) -> list[Compacted]:
    """Compact tables as the settings say, one process at a time for each of them.

    What another process is at is left to it.
    """
    settings, registry = workspace.settings, workspace.registry
    reports = []
    for name in table_names:
        lease = f"compact:{name}"
        owner = str(uuid4())
        if not settings.keep_compact or not registry.lease(lease, owner, _LEASE):
            reports.append(Compacted(name, is_left=True))
            continue

        def go_on(stage: str, done: int, lease: str = lease, owner: str = owner) -> None:
            registry.renew(lease, owner, _LEASE)
            progress(stage, done)

        try:
            reports.append(
                compact_table(
                    workspace.lake.storage,
                    name,
                    workspace.now().date(),
                    after_days=settings.compact_after_days,
                    file_bytes=settings.compact_file_mb * 1_000_000,
                    progress=go_on,
                )
            )
        finally:
            registry.release_lease(lease, owner)
    return reports


def compact_table(
    storage: Storage,
    table_name: str,
    today: date,
    *,
    after_days: int,
    file_bytes: int,
    progress: Progress = lambda stage, done: None,
) -> Compacted:
    """Make the compact files of a table's closed months that are missing or no longer right.

    Memory is bounded by `file_bytes`: about eight times that, and half a gigabyte. `progress` is called
    with the table's name and the number of buckets looked at, also while nothing is written.
    """
    table = TABLES[table_name]
    report = Compacted(table_name)
    looked_at = 0
    for month in sorted(list_base(storage, table)):
        if not is_closed(month, today, after_days):
            report.open_months += 1
            continue
        report.months += 1
        for _ in range(_ATTEMPTS):
            try:
                for bucket in _buckets(storage, table, month, file_bytes):
                    progress(table_name, looked_at)
                    _compact_bucket(storage, table, bucket, report)
                    looked_at += 1
                    progress(table_name, looked_at)
            except ConflictError:
                continue  # somebody else writes it, or a day is written again: look again
            break
        else:
            raise StorageError(
                f"{table_name} {month}: base or compact files keep changing: try again later"
            )
    return report


def _buckets(storage: Storage, table: Table, month: str, file_bytes: int) -> Iterator[_Bucket]:
    """The buckets of a month as they are now; the first one decides their number."""
    scheme = _scheme_now(storage)
    base = [
        entry
        for entry in storage.list(f"{table.name}/")
        if entry.path.startswith(f"{table.name}/date={month}-") and entry.path.endswith(".parquet")
    ]
    names = [table.name, *sampled_views(table)]
    parts = {name: found for name in names if (found := list_parts(storage, name).get(month))}
    entries = [entry for found in parts.values() for entry in found.values()]
    stamps = read_stamps(storage, entries)
    first = parts.get(table.name, {}).get(0)
    head = stamps.get(first.path) if first is not None else None
    if head is not None and head.scheme != scheme:
        # Cut anew, everybody may be in another bucket: beside the old ones they would be there twice.
        storage.delete_many([entry.path for entry in entries])
        parts, stamps, head, first = {}, {}, None, None
    if head is not None:
        of = head.buckets
    elif first is not None or any(found.keys() - {0} for found in parts.values()):
        path = compact_path(table.name, month, 0)
        if storage.version(path) != (first.version if first is not None else None):
            raise ConflictError(f"{path} was written meanwhile")
        raise StorageError(
            f"{storage.uri(path)} does not say how its month is cut:"
            f" delete the month's folder under {table.name} and its lists, then compact again"
        )
    else:
        of = _choose_buckets(storage, table, base, file_bytes)
    for number, some in enumerate(in_buckets(base, of)):
        own = {name: found[number] for name, found in parts.items() if number in found}
        yield _Bucket(
            month,
            number,
            of,
            some,
            own,
            {name: stamps[e.path] for name, e in own.items() if e.path in stamps},
            scheme,
        )


def _scheme_now(storage: Storage) -> str:
    found = read_manifest(storage)
    if found is None:
        return ""
    if found[0].move is not None:
        raise TransientError(f"{storage.url} is being cut anew: compact it afterwards")
    return f"{found[0].cohorts or 'exact'} {found[0].generation}"


def _content_bytes(table: Table, entries: Sequence[Entry]) -> int:
    """Bytes of the files without what even an empty file of so many columns takes."""
    schema = arrow_schema(table)
    buffer = io.BytesIO()
    pq.write_table(schema.empty_table(), buffer, compression="zstd")
    return sum(max(entry.size - buffer.tell(), 0) for entry in entries)


def _choose_buckets(storage: Storage, table: Table, base: Sequence[Entry], file_bytes: int) -> int:
    """How many files a month is cut into, told from what its largest base files become."""
    largest = sorted(base, key=lambda entry: (-entry.size, entry.path))[:_SAMPLED_FILES]
    content = _content_bytes(table, largest)
    if not content:
        return 1
    frames = [table.conform(pl.read_parquet(io.BytesIO(d))) for _, d, _ in _read(storage, largest)]
    writer = _Writer(arrow_schema(table), is_long=False)
    empty = len(writer.close(Stamp("", 0, 1)))
    writer = _Writer(arrow_schema(table), is_long=False)
    writer.write(to_arrow(table, pl.concat(frames).sort(_row_order(table))))
    share = max(len(writer.close(Stamp("", 0, 1))) - empty, 0) / content
    return max(1, math.ceil(_content_bytes(table, base) * share / file_bytes))


def _compact_bucket(storage: Storage, table: Table, bucket: _Bucket, report: Compacted) -> None:
    """Write what is not right. Raises ConflictError when base or compact files changed meanwhile."""
    if bucket.is_right(table):
        return
    made = _make(storage, table, bucket)

    def write(name: str, data: bytes) -> None:
        # The version from before the base files were read: whoever wrote since has seen as much.
        known = bucket.parts.get(name)
        path = compact_path(name, bucket.month, bucket.number)
        storage.replace(path, data, known.version if known else None)
        report.files += 1
        report.bytes_written += len(data)

    # Rows first: their first file decides how the month is cut.
    write(table.name, made.rows)
    for name, data in made.long.items():
        write(name, data)
    report.rows += made.row_count
    report.samples += made.sample_count
    report.bytes_read += made.bytes_read
    if made.digest != _digest_now(storage, table, bucket):
        raise ConflictError(f"{table.name} {bucket.month}: written again meanwhile")


def _digest_now(storage: Storage, table: Table, bucket: _Bucket) -> str:
    found = list_base(storage, table).get(bucket.month, [])
    return digest_entries(in_buckets(found, bucket.of)[bucket.number])


def _make(storage: Storage, table: Table, bucket: _Bucket) -> _Made:
    """The compact files of a bucket, sorted in slices of users.

    The base files are read once and cut by user; what waits for its slice is kept encoded.
    """
    cuts = _cut_users(storage, table, bucket.base)
    waiting: list[list[bytes]] = [[] for _ in range(len(cuts) + 1)]
    seen: list[tuple[str, int, str]] = []
    for group in _groups(bucket.base):
        frames = []
        for entry, data, version in _read(storage, group):
            seen.append((entry.path, len(data), version))
            frames.append(table.conform(pl.read_parquet(io.BytesIO(data))))
        _divide(pl.concat(frames), cuts, waiting)
    digest = digest_of(seen)
    rows = _Writer(arrow_schema(table), is_long=False)
    lists = [column for column in table.lists if column.time is not None]
    long = {
        table.view_name(column): _Writer(_long_schema(table, column), is_long=True)
        for column in lists
    }
    row_count = 0
    for slice_ in waiting:
        pieces = [pl.read_ipc(io.BytesIO(piece)) for piece in slice_]
        slice_.clear()
        if not pieces:
            continue
        frame = pl.concat(pieces).sort(_row_order(table), nulls_last=True, maintain_order=True)
        del pieces
        row_count += frame.height
        samples = 0
        for column in lists:
            taken = _long_rows(table, column, frame)
            samples += taken.height
            if not taken.is_empty():
                writer = long[table.view_name(column)]
                writer.write(taken.to_arrow().cast(writer.schema))
            del taken
        groups = max(math.ceil(samples / _GROUP_SAMPLES), 1)
        rows.write(to_arrow(table, frame), math.ceil(frame.height / groups))
    filled = {name: writer for name, writer in long.items() if writer.rows}
    stamp = Stamp(digest, bucket.number, bucket.of, tuple(filled), bucket.scheme)
    # A list that has become empty keeps a file without rows: nobody loses a file under his hands.
    emptied = {name: writer for name, writer in long.items() if name in bucket.parts}
    its = Stamp(digest, bucket.number, bucket.of, scheme=bucket.scheme)
    return _Made(
        digest,
        rows.close(stamp),
        {name: writer.close(its) for name, writer in {**filled, **emptied}.items()},
        row_count,
        sum(writer.rows for writer in filled.values()),
        sum(size for _, size, _ in seen),
    )


def _row_order(table: Table) -> list[str]:
    return list(dict.fromkeys(["user_id", "local_date", *table.row_key, "provider"]))


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Files in order, so many bytes at a time."""
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if group and size + entry.size > _READ_BYTES:
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size
    if group:
        yield group


def _read(storage: Storage, entries: Sequence[Entry]) -> Iterator[tuple[Entry, bytes, str]]:
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda entry: storage.read_versioned(entry.path), entries)
        for entry, content in zip(entries, found, strict=True):
            if content is None:
                raise ConflictError(f"{entry.path} is gone")
            yield entry, *content


def _cut_users(storage: Storage, table: Table, entries: Sequence[Entry]) -> list[str]:
    """User ids at which slices begin, so that a slice holds about as many bytes as are meant to.

    Taken from the files of the day with most bytes: mostly the same users write every day.
    """
    slices = math.ceil(_content_bytes(table, entries) / _SLICE_BYTES)
    if slices < 2:
        return []
    by_day: dict[str, list[Entry]] = {}
    for entry in entries:
        by_day.setdefault(entry.path.split("/")[1], []).append(entry)
    fullest = max(sorted(by_day), key=lambda day: sum(entry.size for entry in by_day[day]))
    users: set[str] = set()
    for _, data, _ in _read(storage, by_day[fullest]):
        users.update(pl.read_parquet(io.BytesIO(data), columns=["user_id"])["user_id"])
    ordered = sorted(users)
    return (
        sorted({ordered[len(ordered) * k // slices] for k in range(1, slices)}) if ordered else []
    )


def _divide(frame: pl.DataFrame, cuts: Sequence[str], waiting: list[list[bytes]]) -> None:
    """Put the rows of `frame` to those waiting in the slices of their users."""
    if frame.is_empty():
        return
    slices = {user: bisect_right(cuts, user) for user in frame["user_id"].unique()}
    marked = frame.with_columns(
        pl.col("user_id").replace_strict(slices, return_dtype=pl.Int64).alias("slice\x00")
    )
    for (number,), part in marked.partition_by(
        "slice\x00", as_dict=True, include_key=False, maintain_order=True
    ).items():
        buffer = io.BytesIO()
        part.write_ipc(buffer, compression="zstd")
        waiting[int(str(number))].append(buffer.getvalue())


def _long_rows(table: Table, column: Column, frame: pl.DataFrame) -> pl.DataFrame:
    """One row per sample of a list, by user and time; `frame` is sorted by user and day."""
    moments = [column.time.name, column.time.partner] if column.time is not None else []
    order = ["user_id", *(name for name in moments if name)]
    rows = (
        frame.lazy()
        .filter(pl.col(column.name).list.len() > 0)
        .select(*list_keys(table), column.name)
        .explode(column.name)
        .filter(pl.col(column.name).is_not_null())
        .unnest(column.name)
        .collect()
    )
    # Samples are sorted within their row: out of order are only travellers, and local times.
    user, moment = pl.col(order[0]), pl.col(order[1])
    falls = (user == user.shift()) & (moment < moment.shift()).fill_null(value=True)
    if rows.select(falls.any()).item():
        return rows.sort(order, nulls_last=True, maintain_order=True)
    return rows


def _long_schema(table: Table, column: Column) -> pa.Schema:
    own = arrow_schema(table)
    element = own.field(column.name).type.value_type
    fields = [own.field(key) for key in list_keys(table)]
    fields += [element.field(number) for number in range(element.num_fields)]
    return pa.schema(
        fields,
        metadata={"table": table.view_name(column), "description": column.description},
    )


def _leaves(field: pa.Field, path: str) -> Iterator[tuple[str, pa.DataType]]:
    """Parquet's columns under a field, with their types."""
    if pa.types.is_large_list(field.type):
        inner = field.type.value_field
        yield from _leaves(inner, f"{path}.list.element")
    elif pa.types.is_struct(field.type):
        for child in field.type:
            yield from _leaves(child, f"{path}.{child.name}")
    else:
        yield path, field.type


class _Writer:
    """A Parquet file in memory, written row group by row group."""

    def __init__(self, schema: pa.Schema, *, is_long: bool) -> None:
        self.schema = schema
        self.rows = 0
        self._is_long = is_long
        self._sink = pa.BufferOutputStream()
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        # Instants rise by even steps: as differences they take a bit or two. All else repeats. One page a
        # column and group: engines skip by groups, and each further page costs them time.
        leaves = dict(leaf for field in schema for leaf in _leaves(field, field.name))
        delta = [path for path, dtype in leaves.items() if pa.types.is_timestamp(dtype)]
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            use_dictionary=sorted(leaves.keys() - set(delta)),
            column_encoding=dict.fromkeys(delta, "DELTA_BINARY_PACKED"),
            data_page_size=1 << 26,
            max_rows_per_page=1 << 20,
        )

    def write(self, data: pa.Table, group_rows: int = _GROUP_ROWS) -> None:
        """Add rows; those of long files wait until a row group is full."""
        self.rows += data.num_rows
        if not self._is_long:
            self._writer.write_table(data, row_group_size=min(group_rows, _GROUP_ROWS))
            return
        self._waiting.append(data)
        self._waiting_rows += data.num_rows
        full = self._waiting_rows // _GROUP_ROWS * _GROUP_ROWS
        if full:
            joined = pa.concat_tables(self._waiting)
            self._writer.write_table(joined.slice(0, full), row_group_size=_GROUP_ROWS)
            # Copied: a slice would keep all of it in memory.
            self._waiting = [joined.slice(full).combine_chunks()]
            self._waiting_rows -= full

    def close(self, stamp: Stamp) -> bytes:
        """The file's bytes."""
        if self._waiting_rows:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=_GROUP_ROWS)
        self._waiting.clear()
        self._writer.add_key_value_metadata({STAMP_KEY: msgspec.json.encode(stamp).decode()})
        self._writer.close()
        data: bytes = self._sink.getvalue().to_pybytes()
        return data
