"""The verbatim store: immutable Parquet segments of records, one folder per provider, date and cohort.

A record's identity is (user_id, resource, record_id). Only what is new or differs from the latest known
revision is appended. Readers drop exact repeats, so a crash between two writes is harmless.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Literal, TypeVar

import msgspec
import polars as pl

from wearable_pipeline.errors import StorageError
from wearable_pipeline.lake.layout import parse_partition, partition_prefix, raw_root
from wearable_pipeline.lake.storage import Entry, MissingError, Storage
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.providers._contract import Record

T = TypeVar("T")
Door = Literal["poll", "push", "import"]

INSTANT = pl.Datetime("us", "UTC")

_RAW_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "user_id": pl.String,
    "provider": pl.String,
    "resource": pl.String,
    "record_id": pl.String,
    "content_hash": pl.String,
    "body": pl.Binary,
    "context": pl.String,
    "local_date": pl.Date,
    "provider_updated_at": INSTANT,
    "fetched_at": INSTANT,
    "batch_id": pl.String,
    "door": pl.String,
    "is_deleted": pl.Boolean,
}
RAW_SCHEMA = pl.Schema(_RAW_COLUMNS)

IDENTITY = ("user_id", "resource", "record_id")
# Newest truth: the provider's own time of change where it gives one, else when we fetched it. The hash
# and the batch only break ties, so that any order of arrival ends the same.
REVISION_ORDER = ("revised_at", "fetched_at", "content_hash", "batch_id")

# So many small segments of a partition are merged into one. Those already large are left alone: neither
# memory nor what is written again grows with the partition.
MERGE_ABOVE_SEGMENTS = 24
LARGE_SEGMENT_BYTES = 8 * 1024 * 1024
_MERGED_BYTES_DECODED = 256 * 1024 * 1024
# An import may span years: so many dates are compared with what is stored at a time.
_DATES_AT_ONCE = 64
_READERS = 16
_WRITERS = 8
_LIST_ATTEMPTS = 5
_ROW_GROUP_ROWS = 32_768

_EPOCH = date(1970, 1, 1).toordinal()

_encode_context = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one user's fetch, push or file brought.

    `newest` says, by resource, that nothing taken later is stored: such records are not looked up.
    """

    user_id: str
    records: Sequence[Record]
    fetched_at: datetime
    newest: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(slots=True)
class Appended:
    """What an append did: counts of records, and where the content changed.

    `changes` has the dates by user and resource; `segments`, for every user something was written for,
    the last date and the file's name.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    changes: dict[tuple[str, str], set[date]] = field(default_factory=dict)
    segments: dict[str, tuple[date, str]] = field(default_factory=dict)

    def add(self, other: "Appended") -> None:
        """Count `other` in."""
        self.new += other.new
        self.changed += other.changed
        self.unchanged += other.unchanged
        for whose, days in other.changes.items():
            self.changes.setdefault(whose, set()).update(days)
        self.segments.update(other.segments)

    @property
    def touched(self) -> dict[str, set[date]]:
        """The partitions whose content changed: dates by user."""
        found: dict[str, set[date]] = {}
        for (user_id, _), days in self.changes.items():
            found.setdefault(user_id, set()).update(days)
        return found


def hash_body(body: bytes, *, is_deleted: bool = False, context: str = "") -> str:
    """Content hash of a record; a deletion with the same body is another content.

    So is the same body in another `context`, where that decides what the body means.
    """
    digest = hashlib.blake2b(body, digest_size=16)
    if context:
        digest.update(b"\x00context" + context.encode())
    if is_deleted:
        digest.update(b"\x00deleted")
    return digest.hexdigest()


def frame_of(provider: str, arrivals: Iterable[Arrival], batch_id: str, door: Door) -> pl.DataFrame:
    """Arrivals as a frame of RAW_SCHEMA; of exact repeats inside one arrival the last is kept."""
    filled = [arrival for arrival in arrivals if arrival.records]
    records = [record for arrival in filled for record in arrival.records]
    # Records of one page share one context object: encode it once.
    texts: dict[int, str] = {}
    for record in records:
        if id(record.context) not in texts:
            texts[id(record.context)] = _encode_context(record.context).decode()
    contexts = [texts[id(record.context)] for record in records]
    owners = pl.DataFrame(
        {
            "user_id": [arrival.user_id for arrival in filled],
            "fetched_at": [arrival.fetched_at for arrival in filled],
            "records": [len(arrival.records) for arrival in filled],
        },
        schema={**_only("user_id", "fetched_at"), "records": pl.UInt32},
    )
    columns: dict[str, list[object]] = {
        "resource": [record.resource for record in records],
        "record_id": [record.record_id for record in records],
        "content_hash": [
            hash_body(
                record.body,
                is_deleted=record.is_deleted,
                context=text if record.is_context_content else "",
            )
            for record, text in zip(records, contexts, strict=True)
        ],
        "body": [record.body for record in records],
        "context": list(contexts),
        "provider_updated_at": [record.provider_updated_at for record in records],
        "is_deleted": [record.is_deleted for record in records],
    }
    # Numbers become a column in a tenth of the time dates take.
    days = pl.Series([record.local_date.toordinal() for record in records], dtype=pl.Int32)
    frame = (
        pl.DataFrame(columns, schema=_only(*columns))
        .with_columns(
            *owners.select(
                pl.col("user_id", "fetched_at").repeat_by("records").explode()
            ).get_columns(),
            (days - _EPOCH).cast(pl.Date).alias("local_date"),
            provider=pl.lit(provider),
            batch_id=pl.lit(batch_id),
            door=pl.lit(door),
        )
        .select(*RAW_SCHEMA)
    )
    return frame.unique(
        subset=[*IDENTITY, "content_hash", "local_date"], keep="last", maintain_order=True
    )


def _only(*names: str) -> pl.Schema:
    return pl.Schema({name: RAW_SCHEMA[name] for name in names})


def with_revision_order(raw: pl.DataFrame) -> pl.DataFrame:
    """`raw` with the column `revised_at` by which revisions are ordered."""
    return raw.with_columns(pl.coalesce("provider_updated_at", "fetched_at").alias("revised_at"))


def latest_revisions(raw: pl.DataFrame) -> pl.DataFrame:
    """The newest revision of every record, with `revisions`, `first_seen_at` and `revised_at` added.

    Within each partition by itself, so that what a partition becomes does not depend on what is read beside
    it. `revisions` counts the distinct contents a record has had; deletions are kept as rows. In no
    particular order.
    """
    cell = ["provider", *IDENTITY, "local_date"]
    raw = with_revision_order(raw)
    # Equal cells have equal hashes: who is alone with a hash is alone. Most are, by the name already.
    shared = raw.select(_is_shared("resource", "record_id").alias("shared")).to_series()
    if shared.any():
        again = raw.filter(shared).select(_is_shared(*cell).alias("shared")).to_series()
        shared = shared.scatter(shared.arg_true(), again)
    alone = raw.filter(~shared).with_columns(
        pl.lit(1, pl.Int32).alias("revisions"), pl.col("fetched_at").alias("first_seen_at")
    )
    if not shared.any():
        return alone
    newest = (
        raw.filter(shared)
        .sort(*cell, *REVISION_ORDER)
        .with_columns(
            pl.col("content_hash").n_unique().over(cell).cast(pl.Int32).alias("revisions"),
            pl.col("fetched_at").min().over(cell).alias("first_seen_at"),
        )
        .unique(subset=cell, keep="last", maintain_order=True)
    )
    return pl.concat([alone, newest])


def _is_shared(*names: str) -> pl.Expr:
    return pl.struct(names).hash().is_duplicated()


# What a record takes in a frame besides its body.
_RECORD_BYTES = 300


class Segments:
    """Raw segments of one partition as they lie in the lake, decoded only as far as they are asked for."""

    def __init__(self, encoded: Sequence[bytes]) -> None:
        import pyarrow.parquet as pq  # 40 MB no sensor needs

        self._encoded = encoded
        footers = [pq.read_metadata(io.BytesIO(segment)) for segment in encoded]
        groups = [
            footer.row_group(number)
            for footer in footers
            for number in range(footer.num_row_groups)
        ]
        body = list(RAW_SCHEMA).index("body")
        self.records = sum(footer.num_rows for footer in footers)
        # How much it is decoded; the contexts of a page share their bytes.
        self.size = self.records * _RECORD_BYTES + sum(
            group.column(body).total_uncompressed_size for group in groups
        )

    def read(self, user_ids: Sequence[str] | None = None) -> pl.DataFrame:
        """Records as they were appended, of `user_ids` only if given: unsorted, with exact repeats."""
        if user_ids is None:
            return pl.concat([RAW_SCHEMA.to_frame(), *map(_read_segment, self._encoded)])
        theirs = pl.col("user_id").is_in(list(user_ids))
        return pl.concat(
            [
                RAW_SCHEMA.to_frame(),
                *(
                    pl.scan_parquet(io.BytesIO(segment)).filter(theirs).collect()
                    for segment in self._encoded
                ),
            ]
        )

    def slices(self, size: int) -> list[list[str]]:
        """The users in order of their ids, cut so that each part is about `size` bytes decoded."""
        counts = (
            pl.concat(
                [
                    RAW_SCHEMA.to_frame().select("user_id"),
                    *(
                        pl.read_parquet(io.BytesIO(segment), columns=["user_id"])
                        for segment in self._encoded
                    ),
                ]
            )
            .group_by("user_id")
            .len("records")
            .sort("user_id")
        )
        per_record = max(1, self.size // max(1, self.records))
        before = pl.col("records").cum_sum() - pl.col("records")
        parts = counts.select("user_id", (before * per_record // size).alias("part")).group_by(
            "part", maintain_order=True
        )
        return parts.agg("user_id")["user_id"].to_list()


class RawStore:
    """Reads and appends raw segments of one lake."""

    def __init__(self, storage: Storage, scheme: Scheme) -> None:
        self._storage = storage
        self._scheme = scheme

    def append(
        self,
        provider: str,
        arrivals: Sequence[Arrival],
        *,
        batch_id: str,
        door: Door,
        before_write: Callable[[Mapping[tuple[str, str], set[date]]], None],
    ) -> Appended:
        """Append what is new or changed; return counts and touched partitions.

        `before_write` gets the `changes` to be before the first byte is written: what it notes down
        survives a crash after the write. A record that moved to another local date leaves a
        tombstone in its old partition.
        """
        later, others = _taken_later(arrivals)
        certain = self._frame(provider, later, batch_id, door)
        incoming = self._frame(provider, others, batch_id, door)
        report = Appended()
        if certain.is_empty() and incoming.is_empty():
            return report
        former = _former_dates(others)
        stamp = f"{max(arrival.fetched_at for arrival in arrivals):%Y%m%dT%H%M%S%f}"
        dates = sorted({*certain["local_date"].unique(), *incoming["local_date"].unique()})
        for first in range(0, len(dates), _DATES_AT_ONCE):
            on_dates = pl.col("local_date").is_in(dates[first : first + _DATES_AT_ONCE])
            some = incoming.filter(on_dates)
            known = self._known(provider, some, former)
            # A tombstone may fall on a date of another round: names must not meet there.
            segment = f"{stamp}-{batch_id}-{first // _DATES_AT_ONCE}"
            report.add(
                self._append_some(
                    provider, some, certain.filter(on_dates), known, segment, before_write
                )
            )
        return report

    def holds(
        self, provider: str, wanted: Iterable[tuple[Partition, str]]
    ) -> set[tuple[Partition, str]]:
        """Those of `wanted`, pairs of partition and segment name, that are there or merged into another."""
        by_partition: dict[Partition, set[str]] = {}
        for partition, segment in wanted:
            by_partition.setdefault(partition, set()).add(segment)

        def find(partition: Partition) -> set[tuple[Partition, str]]:
            prefix = partition_prefix(raw_root(provider), partition)
            names = {entry.path.removeprefix(prefix) for entry in self._segments(prefix)}
            merged = max(
                (name[: name.index("-")] for name in names if "-merged-" in name), default=""
            )
            return {
                (partition, segment)
                for segment in by_partition[partition]
                if segment in names or segment[: segment.find("-")] <= merged
            }

        with ThreadPoolExecutor(_READERS) as pool:
            return {one for found in pool.map(find, by_partition) for one in found}

    def _frame(
        self, provider: str, arrivals: Sequence[Arrival], batch_id: str, door: Door
    ) -> pl.DataFrame:
        return frame_of(provider, arrivals, batch_id, door).with_columns(
            self._cohort_column(arrivals)
        )

    def _append_some(
        self,
        provider: str,
        incoming: pl.DataFrame,
        certain: pl.DataFrame,
        known: pl.DataFrame,
        segment: str,
        before_write: Callable[[Mapping[tuple[str, str], set[date]]], None],
    ) -> Appended:
        fresh, changed, tombstones = _compare(incoming, known)
        report = Appended(
            new=fresh.height - changed + certain.height,
            changed=changed,
            unchanged=incoming.height - fresh.height,
        )
        records = pl.concat([certain, fresh, tombstones])
        if records.is_empty():
            return report
        name = f"{segment}.parquet"
        dates = records.group_by("user_id", "resource").agg(pl.col("local_date").unique())
        report.changes = {
            (user_id, resource): set(days) for user_id, resource, days in dates.rows()
        }
        for user_id, days in report.touched.items():
            report.segments[user_id] = (max(days), name)
        before_write(report.changes)

        def write(prefix: str, part: pl.DataFrame) -> int:
            self._storage.create(prefix + name, _encode(part))
            return len(self._small_segments(prefix))

        # A segment waits for the disk or the network far longer than it takes to encode.
        partitions, parts = _cut(records)
        prefixes = [partition_prefix(raw_root(provider), one) for one in partitions]
        with ThreadPoolExecutor(_WRITERS) as pool:
            counts = list(pool.map(write, prefixes, parts))
        # One after the other: a folder's segments are in memory while they are merged.
        for prefix, count in zip(prefixes, counts, strict=True):
            if count > MERGE_ABOVE_SEGMENTS:
                self._merge_segments(prefix)
        return report

    def read(
        self,
        providers: Iterable[str],
        partitions: Iterable[Partition],
        *,
        user_ids: Iterable[str] | None = None,
        as_of: datetime | None = None,
    ) -> pl.DataFrame:
        """All revisions in `partitions`, exact repeats dropped, sorted by identity and age.

        `as_of` leaves out what was fetched later.
        """
        wanted = list(partitions)
        raw = self._read_prefixes(
            [
                partition_prefix(raw_root(provider), partition)
                for provider in providers
                for partition in wanted
            ]
        )
        if user_ids is not None:
            raw = raw.filter(pl.col("user_id").is_in(list(user_ids)))
        if as_of is not None:
            raw = raw.filter(pl.col("fetched_at") <= as_of)
        return raw.unique(
            subset=[
                *("provider", *IDENTITY, "local_date"),
                *("content_hash", "fetched_at", "batch_id", "is_deleted"),
            ],
            keep="first",
        ).sort("provider", *IDENTITY, "fetched_at", "content_hash", "batch_id", "local_date")

    def sizes(
        self, providers: Sequence[str], partitions: Iterable[Partition]
    ) -> dict[Partition, int]:
        """Bytes of each partition's segments as they lie in the lake."""

        def measure(partition: Partition) -> int:
            prefixes = [partition_prefix(raw_root(name), partition) for name in providers]
            return sum(entry.size for prefix in prefixes for entry in self._segments(prefix))

        wanted = list(partitions)
        with ThreadPoolExecutor(_READERS) as pool:
            return dict(zip(wanted, pool.map(measure, wanted), strict=True))

    def read_segments(
        self, providers: Sequence[str], partitions: Iterable[Partition]
    ) -> dict[Partition, "Segments"]:
        """The segments of each partition, still encoded."""

        def read(partition: Partition) -> Segments:
            prefixes = [partition_prefix(raw_root(name), partition) for name in providers]
            return Segments(
                [one for prefix in prefixes for one in self._read_folder(prefix, lambda seg: seg)]
            )

        wanted = list(partitions)
        with ThreadPoolExecutor(_READERS) as pool:
            return dict(zip(wanted, pool.map(read, wanted), strict=True))

    def partitions(self, provider: str) -> list[Partition]:
        """Every partition with raw records of `provider`."""
        found = {
            partition
            for entry in self._storage.list(raw_root(provider) + "/")
            if (partition := parse_partition(entry.path)) is not None
        }
        return sorted(found, key=lambda partition: (partition.date, partition.cohort))

    def _cohort_column(self, arrivals: Sequence[Arrival]) -> pl.Expr:
        cohorts = {arrival.user_id: self._scheme.cohort_of(arrival.user_id) for arrival in arrivals}
        return pl.col("user_id").replace_strict(cohorts, return_dtype=pl.String).alias("cohort")

    def _known(
        self, provider: str, incoming: pl.DataFrame, former: Mapping[date, set[date]]
    ) -> pl.DataFrame:
        """What is stored on the incoming dates, their neighbours and former dates, without bodies."""
        cells = incoming.select("local_date", "cohort").unique().rows()
        prefixes = {
            partition_prefix(raw_root(provider), Partition(near, cohort))
            for day, cohort in cells
            for near in (*_around(day), *former.get(day, ()))
        }
        columns = [name for name in RAW_SCHEMA if name not in ("body", "context")]
        schema = pl.Schema({name: RAW_SCHEMA[name] for name in columns})
        users = incoming["user_id"].unique().to_list()

        def read(segment: bytes) -> pl.DataFrame:
            # Segments are sorted by user: whole row groups of others are left out.
            theirs = pl.scan_parquet(io.BytesIO(segment)).filter(pl.col("user_id").is_in(users))
            return theirs.select(columns).collect()

        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(lambda prefix: self._read_folder(prefix, read), sorted(prefixes))
            return pl.concat([schema.to_frame(), *(one for frames in found for one in frames)])

    def _read_prefixes(self, prefixes: Sequence[str]) -> pl.DataFrame:
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(lambda prefix: self._read_folder(prefix, _read_segment), prefixes)
            return pl.concat([RAW_SCHEMA.to_frame(), *(one for frames in found for one in frames)])

    def _read_folder(self, prefix: str, read: Callable[[bytes], T]) -> list[T]:
        # A merge may take segments away between listing and reading; what they held is then in the
        # merged one, so list again.
        for _ in range(_LIST_ATTEMPTS):
            try:
                return [read(self._storage.read(entry.path)) for entry in self._segments(prefix)]
            except MissingError:
                continue
        raise StorageError(
            f"raw segments under {self._storage.uri(prefix)} keep changing: try again"
        )

    def _segments(self, prefix: str) -> list[Entry]:
        return [entry for entry in self._storage.list(prefix) if entry.path.endswith(".parquet")]

    def _small_segments(self, prefix: str) -> list[Entry]:
        return [entry for entry in self._segments(prefix) if entry.size < LARGE_SEGMENT_BYTES]

    def _merge_segments(self, prefix: str) -> None:
        """Write small segments as one, the oldest first, then take the small ones away."""
        paths: list[str] = []
        chosen: list[bytes] = []
        decoded = 0
        try:
            for entry in self._small_segments(prefix):
                segment = self._storage.read(entry.path)
                decoded += Segments([segment]).size
                if decoded > _MERGED_BYTES_DECODED:
                    break
                paths.append(entry.path)
                chosen.append(segment)
        except MissingError:
            return  # somebody else is merging
        if len(chosen) < 2:
            return
        merged = _encode(
            Segments(chosen).read().unique(maintain_order=True).sort(*IDENTITY, "fetched_at")
        )
        last = paths[-1].rsplit("/", 1)[1].split("-")[0]
        name = f"{last}-merged-{hash_body(merged)}.parquet"
        self._storage.create(prefix + name, merged)
        self._storage.delete_many([path for path in paths if not path.endswith(name)])


def _taken_later(arrivals: Sequence[Arrival]) -> tuple[list[Arrival], list[Arrival]]:
    """`arrivals` cut in two: records that cannot be stored already, and the others."""
    later: list[Arrival] = []
    others: list[Arrival] = []
    for arrival in arrivals:
        if not arrival.newest:
            others.append(arrival)
            continue
        certain: list[Record] = []
        rest: list[Record] = []
        for record in arrival.records:
            newest = arrival.newest.get(record.resource)
            is_later = (
                newest is not None
                and record.taken_at is not None
                and record.taken_at > newest
                and record.former_date is None
            )
            (certain if is_later else rest).append(record)
        later.append(replace(arrival, records=certain))
        others.append(replace(arrival, records=rest))
    return later, others


def _around(day: date) -> Iterator[date]:
    """The day before, the day and the day after, as far as there are such."""
    number = day.toordinal()
    last = min(number + 1, date.max.toordinal())
    return map(date.fromordinal, range(max(number - 1, date.min.toordinal()), last + 1))


def _former_dates(arrivals: Sequence[Arrival]) -> dict[date, set[date]]:
    """Dates an earlier reading may have put the records of a date under."""
    former: dict[date, set[date]] = {}
    for arrival in arrivals:
        for record in arrival.records:
            if record.former_date is not None:
                former.setdefault(record.local_date, set()).add(record.former_date)
    return former


def _compare(incoming: pl.DataFrame, known: pl.DataFrame) -> tuple[pl.DataFrame, int, pl.DataFrame]:
    """What of `incoming` is not `known`, how many of it are changes, and what takes leave elsewhere."""
    if known.is_empty():
        return incoming, 0, incoming.clear()
    cell = [*IDENTITY, "local_date"]
    # What the last fetch of each record brought. Comparing with the last one alone would append for
    # ever when a provider serves two bodies under one id.
    current = known.filter(pl.col("fetched_at") == pl.col("fetched_at").max().over(cell))
    fresh = incoming.join(current, on=[*cell, "content_hash"], how="anti", maintain_order="left")
    changed = fresh.join(known, on=cell, how="semi").height
    return fresh, changed, _tombstones(fresh, known)


def _cut(records: pl.DataFrame) -> tuple[list[Partition], list[pl.DataFrame]]:
    """Every partition, and its records in the order of a segment."""
    cell = ("local_date", "cohort")
    # Sorted as a whole: hundreds of small frames cost far more than one.
    ordered = records.sort(*cell, *IDENTITY, "fetched_at")
    partitions: list[Partition] = []
    parts: list[pl.DataFrame] = []
    content, first = ordered.select(*RAW_SCHEMA), 0
    for day, cohort, height in ordered.group_by(cell, maintain_order=True).len().rows():
        partitions.append(Partition(day, cohort))
        parts.append(content.slice(first, height))
        first += height
    return partitions, parts


def _tombstones(fresh: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Deletions for the old partitions of records that now have another local date."""
    standing = (
        with_revision_order(known)
        .sort(*IDENTITY, *REVISION_ORDER)
        .unique(subset=[*IDENTITY, "local_date"], keep="last", maintain_order=True)
        .filter(~pl.col("is_deleted"))
        .select(*IDENTITY, old_date="local_date", old_revised_at="revised_at")
    )
    moved = (
        with_revision_order(fresh)
        .join(standing, on=list(IDENTITY), maintain_order="left")
        .filter(
            (pl.col("old_date") != pl.col("local_date"))
            & (pl.col("revised_at") >= pl.col("old_revised_at"))
        )
    )
    return moved.with_columns(
        local_date="old_date",
        is_deleted=True,
        content_hash=pl.col("content_hash") + "-moved",
    ).select(*RAW_SCHEMA, "cohort")


def _read_segment(segment: bytes) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(segment))


def _encode(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", row_group_size=_ROW_GROUP_ROWS)
    return buffer.getvalue()
