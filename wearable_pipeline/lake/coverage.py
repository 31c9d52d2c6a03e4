"""Which months of a table the second tree, `compact/`, holds as the base files are now.

A compact file says in its Parquet metadata what it was made of: a digest over path, size and version
of every base file of its month and bucket. It stands for them as long as the digest is right, so
nobody has to tell it when a day is written again.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from wearable_pipeline.errors import StorageError
from wearable_pipeline.lake.layout import parse_partition
from wearable_pipeline.lake.storage import Entry, MissingError, Storage
from wearable_pipeline.model.columns import Table

COMPACT = "compact"
STAMP_KEY = "wearable.compact"

_FORMAT = 1
_FOOTER_GUESS = 64 * 1024
_READERS = 16
_PART = re.compile(r"^compact/([a-z0-9_]+)/month=(\d{4}-\d{2})/part-(\d{2,})\.parquet$")
_SHARD = re.compile(r"s(\d+)(?:g\d+)?")


class Stamp(msgspec.Struct, frozen=True):
    """What a compact file says it was made of; an empty `base` fits nothing."""

    base: str
    bucket: int
    buckets: int
    # In a file of rows: the long views that have samples, each in a file of its own.
    views: tuple[str, ...] = ()
    # How the lake was cut into cohorts, which buckets are made of.
    scheme: str = ""
    format: int = _FORMAT


@dataclass(frozen=True, slots=True)
class Covered:
    """One month of a table that can be read from the second tree.

    `rows` are its files; `long` those of each long view. `listed` are the files of rows in which the
    samples of a view have to be looked up, because no long file of them is right.
    """

    month: str
    rows: tuple[str, ...]
    long: Mapping[str, tuple[str, ...]]
    listed: Mapping[str, tuple[str, ...]]


def compact_path(name: str, month: str, bucket: int) -> str:
    """The file of a bucket of a month; `name` is a table's or a long view's."""
    return f"{COMPACT}/{name}/month={month}/part-{bucket:02d}.parquet"


def parse_part(path: str) -> tuple[str, str, int] | None:
    """Name, month and bucket of a compact file's path, or None."""
    match = _PART.match(path)
    return None if match is None else (match[1], match[2], int(match[3]))


def has_compact(storage: Storage, name: str) -> bool:
    """Whether the second tree has anything of `name`."""
    return f"{COMPACT}/{name}" in storage.list_prefixes(f"{COMPACT}/")


def sampled_views(table: Table) -> list[str]:
    """The long views that get files of their own: those of samples in time."""
    return [table.view_name(column) for column in table.lists if column.time is not None]


def bucket_of(cohort: str, buckets: int) -> int:
    """The bucket of a cohort: stable, and even where cohorts are numbered shards."""
    shard = _SHARD.fullmatch(cohort)
    if shard is not None:
        return int(shard[1]) % buckets
    digest = hashlib.blake2b(cohort.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % buckets


def digest_of(files: Iterable[tuple[str, int, str]]) -> str:
    """One word for path, size and version of every file."""
    digest = hashlib.blake2b(digest_size=16)
    for path, size, version in sorted(files):
        digest.update(f"{path}\x00{size}\x00{version}\n".encode())
    return digest.hexdigest()


def digest_entries(entries: Iterable[Entry]) -> str:
    """The digest of files as a listing shows them."""
    return digest_of((entry.path, entry.size, entry.version) for entry in entries)


def list_base(storage: Storage, table: Table) -> dict[str, list[Entry]]:
    """The base files of a table by month, `YYYY-MM`."""
    months: dict[str, list[Entry]] = {}
    for entry in storage.list(f"{table.name}/"):
        cell = parse_partition(entry.path)
        if cell is not None and entry.path.endswith(".parquet"):
            months.setdefault(f"{cell.date:%Y-%m}", []).append(entry)
    return months


def in_buckets(entries: Iterable[Entry], buckets: int) -> list[list[Entry]]:
    """Base files of a month by bucket."""
    parts: list[list[Entry]] = [[] for _ in range(buckets)]
    for entry in entries:
        cell = parse_partition(entry.path)
        if cell is not None:
            parts[bucket_of(cell.cohort, buckets)].append(entry)
    return parts


def list_parts(storage: Storage, name: str) -> dict[str, dict[int, Entry]]:
    """The compact files of `name` by month and bucket."""
    months: dict[str, dict[int, Entry]] = {}
    for entry in storage.list(f"{COMPACT}/{name}/"):
        part = parse_part(entry.path)
        if part is not None:
            months.setdefault(part[1], {})[part[2]] = entry
    return months


def read_stamps(storage: Storage, entries: Iterable[Entry]) -> dict[str, Stamp]:
    """The stamps of compact files by path; one that is gone, replaced or has none is left out."""
    wanted = list(entries)
    with ThreadPoolExecutor(_READERS) as pool:
        stamps = pool.map(lambda entry: _read_stamp(storage, entry), wanted)
        return {
            entry.path: stamp
            for entry, stamp in zip(wanted, stamps, strict=True)
            if stamp is not None
        }


def find_covered(storage: Storage, table: Table, views: Sequence[str] = ()) -> list[Covered]:
    """The months whose compact files are what the base files would give, oldest first.

    A month counts only when all its buckets do: it is read from one tree or from the other. `views`
    are the long views to look for.
    """
    base = list_base(storage, table)
    rows = list_parts(storage, table.name)
    sampled = [view for view in views if view in sampled_views(table)]
    long = {view: list_parts(storage, view) for view in sampled}
    months = sorted(base.keys() & rows.keys())
    stamps = read_stamps(
        storage,
        [
            entry
            for parts in (rows, *long.values())
            for month in months
            for entry in parts.get(month, {}).values()
        ],
    )
    return [
        covered
        for month in months
        if (covered := _cover(month, base[month], rows, long, stamps, views)) is not None
    ]


def _cover(
    month: str,
    base: Sequence[Entry],
    rows: Mapping[str, Mapping[int, Entry]],
    long: Mapping[str, Mapping[str, Mapping[int, Entry]]],
    stamps: Mapping[str, Stamp],
    views: Sequence[str],
) -> Covered | None:
    first = rows[month].get(0)
    head = stamps.get(first.path) if first is not None else None
    if head is None:
        return None
    right: list[tuple[str, Stamp]] = []
    for bucket, entries in enumerate(in_buckets(base, head.buckets)):
        found = rows[month].get(bucket)
        stamp = stamps.get(found.path) if found is not None else None
        if found is None or stamp is None or stamp.buckets != head.buckets:
            return None
        if stamp.base != digest_entries(entries):
            return None
        right.append((found.path, stamp))
    long_paths: dict[str, tuple[str, ...]] = {}
    listed_paths: dict[str, tuple[str, ...]] = {}
    for view in views:
        found_long: list[str] = []
        listed: list[str] = []
        for bucket, (path, stamp) in enumerate(right):
            if view not in long:
                listed.append(path)
                continue
            if view not in stamp.views:
                continue  # the rows have no such samples
            part = long[view].get(month, {}).get(bucket)
            its = stamps.get(part.path) if part is not None else None
            if part is not None and its is not None and its.base == stamp.base:
                found_long.append(part.path)
            else:
                listed.append(path)
        long_paths[view] = tuple(found_long)
        listed_paths[view] = tuple(listed)
    return Covered(month, tuple(path for path, _ in right), long_paths, listed_paths)


def _read_stamp(storage: Storage, entry: Entry) -> Stamp | None:
    try:
        return parse_stamp(_read_footer(storage, entry))
    except MissingError:
        return None
    except StorageError:
        # Asking for bytes a shorter successor no longer has is an error on some stores.
        if storage.version(entry.path) != entry.version:
            return None
        raise


def _read_footer(storage: Storage, entry: Entry) -> bytes:
    length = min(_FOOTER_GUESS, entry.size)
    tail = storage.read_range(entry.path, entry.size - length, length)
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if length < needed <= entry.size:
        tail = storage.read_range(entry.path, entry.size - needed, needed)
    return tail


def parse_stamp(data: bytes) -> Stamp | None:
    """The stamp in a Parquet file of which `data` is at least the footer, or None."""
    import pyarrow as pa  # 40 MB no sensor needs
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(io.BytesIO(data)).metadata or {}
        stamp = msgspec.json.decode(metadata[STAMP_KEY.encode()], type=Stamp)
    except (pa.ArrowException, KeyError, msgspec.MsgspecError, OSError):
        return None
    return stamp if stamp.format == _FORMAT else None
