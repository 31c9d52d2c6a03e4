"""Erasing a person: destinations, registry, raw, tables, quarantine, compact files, marts; and the proof.

What destinations hold is withdrawn while the ledger still knows of it. Then the registry goes, so that
nothing new is fetched and what a run on its way still reports falls away. Then every Parquet file of the
lake is looked into and those that mention the user are written again without, until a look into all of
them finds nothing: that last look is the proof. What a run that had fetched before still wrote after is
found by `sweep_erased`, which knows erased users by hash.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wearable_pipeline.destinations import configured
from wearable_pipeline.destinations.delivery import deliver
from wearable_pipeline.errors import StorageError, TransientError, UsageError
from wearable_pipeline.lake.coverage import STAMP_KEY, Stamp, parse_part, parse_stamp
from wearable_pipeline.lake.storage import ConflictError, Entry, Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.partitions import check_user_id
from wearable_pipeline.providers import get_provider, providers
from wearable_pipeline.raw.push import drop_pushes
from wearable_pipeline.registry import User
from wearable_pipeline.tables.refresh import encode_parquet
from wearable_pipeline.workspace import Workspace

Progress = Callable[[str, int], None]

# Fields that name a user, on their own or inside a list: a person without a reference id has the user's.
ID_FIELDS = frozenset({"user_id", "person_id"})
_ROUNDS = 10
_READERS = 8
# For so long after an erasure a run that fetched before it may still come to write.
_AFTERMATH = timedelta(days=7)
_CLOCKS_APART = timedelta(hours=1)


@dataclass(slots=True)
class Erased:
    """What an erasure did. `scanned` files were looked into by the last look, which found nothing.

    `withdrawn` counts rows by destination.
    """

    registry: dict[str, int]
    rewritten: int = 0
    deleted: int = 0
    scanned: int = 0
    pushes_dropped: int = 0
    withdrawn: dict[str, int] = field(default_factory=dict)


def erase_user(
    workspace: Workspace,
    user_id: str,
    progress: Progress = lambda stage, done: None,
    *,
    withdraws: bool = True,
) -> Erased:
    """Remove every byte of the user from destinations, registry and lake; broken off, it is repeated.

    With `withdraws` off, what was delivered stays where it is. A person's merged days are left out whole
    until marts are built again. Raises StorageError when files keep mentioning the user, because a run
    keeps writing them; TransientError while pushes are taken in or when a destination does not take a
    withdrawal: repeat it when that has ended.
    """
    check_user_id(user_id)
    report = Erased({})
    try:
        with workspace.writing():
            if withdraws:
                report.withdrawn = _withdraw(workspace, user_id, report, progress)
            known = workspace.registry.find_users(user_ids=[user_id])
            # Before the registry forgets whose account it was, which pushes name.
            report.pushes_dropped = sum(_drop_pushes(workspace, user) for user in known)
            report.registry = workspace.registry.delete_user(user_id)
            _erase_from_lake(workspace.lake.storage, user_id, report, progress)
    finally:
        # What is gone is on record, whatever stopped the rest.
        if report.rewritten or report.deleted:
            workspace.registry.write_audit(
                "lake erased",
                user_id,
                {
                    "files_rewritten": report.rewritten,
                    "files_deleted": report.deleted,
                    "files_scanned": report.scanned,
                },
            )
    return report


def _withdraw(
    workspace: Workspace, user_id: str, report: Erased, progress: Progress
) -> dict[str, int]:
    """Take the user's rows back from every destination that had any; returns how many, by destination."""
    registry = workspace.registry
    if not registry.find_users(user_ids=[user_id]):
        return {}
    targets = configured(workspace.settings)
    had = {
        row.destination
        for row in registry.deliveries(user_ids=[user_id])
        if row.delivered_hash is not None or row.attempts or row.claim is not None
    }
    gone = sorted(had - targets.keys())
    if gone:
        raise UsageError(
            f"{', '.join(gone)}: got rows of the user and is not configured any more: configure it again,"
            " or leave what it has with --keep-delivered"
        )
    if not had:
        return {}
    # Nothing new is fetched, and what is not in the lake any more can be withdrawn.
    registry.set_status(user_id, "disconnected", "is being erased")
    _erase_from_lake(workspace.lake.storage, user_id, report, progress)
    tables = [name for name, table in TABLES.items() if table.is_dated]
    withdrawn = {}
    for name in sorted(had):
        registry.withdraw(name, user_id, tables)
        deliver(
            workspace,
            name,
            user_ids=[user_id],
            progress=lambda done, name=name: progress(f"withdrawn from {name}", done),  # type: ignore[misc]
        )
        rows = registry.deliveries(name, [user_id], tables=tables)
        left = [row for row in rows if row.status != "delivered"]
        if left:
            why = next((row.last_error for row in left if row.last_error), "it is being sent to")
            raise TransientError(
                f"{name}: {len(left)} rows of the user could not be withdrawn ({why}): repeat the command"
                " when that is mended, or leave what it has with --keep-delivered"
            )
        withdrawn[name] = len(rows)
    return withdrawn


def _drop_pushes(workspace: Workspace, user: User) -> int:
    if user.account_hash is None or user.provider not in providers():
        return 0
    return drop_pushes(workspace, get_provider(user.provider), user.account_hash)


def sweep_erased(workspace: Workspace) -> dict[str, Erased]:
    """Erase again who was erased lately and has come back to the lake since."""
    registry, storage = workspace.registry, workspace.lake.storage
    recent = [
        row
        for row in registry.audit_trail()
        if row.action == "user erased" and row.at > workspace.now() - _AFTERMATH
    ]
    if not recent:
        return {}
    since = min(row.at for row in recent) - _CLOCKS_APART
    changed = [entry for entry in _parquet(storage) if entry.modified_at >= since]
    with ThreadPoolExecutor(_READERS) as pool:
        seen = set().union(*pool.map(lambda entry: _names(storage, entry), changed))
    known = {user.user_id for user in registry.find_users(user_ids=sorted(seen))}
    hashes = {row.subject_hash for row in recent}
    back = sorted(u for u in seen - known if registry.subject_hash(u) in hashes)
    return {user_id: erase_user(workspace, user_id) for user_id in back}


def find_mentions(storage: Storage, user_id: str, entries: Iterable[Entry]) -> list[Entry]:
    """Those of `entries` that mention the user, in their path or in a field that names users."""
    with ThreadPoolExecutor(_READERS) as pool:
        listed = list(entries)
        found = pool.map(lambda entry: _mentions(storage, entry, user_id), listed)
        return [entry for entry, is_there in zip(listed, found, strict=True) if is_there]


def _erase_from_lake(storage: Storage, user_id: str, report: Erased, progress: Progress) -> None:
    for _ in range(_ROUNDS):
        entries = list(_parquet(storage))
        found = find_mentions(storage, user_id, entries)
        report.scanned = len(entries)
        progress("files looked into", report.scanned)
        if not found:
            return
        own = [entry.path for entry in found if _is_own(entry.path, user_id)]
        storage.delete_many(own)
        report.deleted += len(own)
        for entry in found:
            if not _is_own(entry.path, user_id):
                _rewrite(storage, entry.path, user_id, report)
        progress("files written again", report.rewritten)
    raise StorageError(
        f"{storage.url}: files keep mentioning the erased user: a run is still writing; repeat the command"
        " when it has ended"
    )


def _parquet(storage: Storage) -> Iterator[Entry]:
    return (entry for entry in storage.list() if entry.path.endswith(".parquet"))


def _is_own(path: str, user_id: str) -> bool:
    """Whether the path lies in a folder of this user alone."""
    return f"/user={user_id}/" in path


def _names(storage: Storage, entry: Entry) -> set[str]:
    """Everybody a file mentions."""
    frame = _read_ids(storage, entry)
    if frame is None:
        return set()
    columns = [column for name in frame.columns for column in _id_columns(frame, name)]
    return {str(name) for column in columns for name in column.drop_nulls().unique()}


def _mentions(storage: Storage, entry: Entry, user_id: str) -> bool:
    return _is_own(entry.path, user_id) or user_id in _names(storage, entry)


def _read_ids(storage: Storage, entry: Entry) -> pl.DataFrame | None:
    found = storage.read_versioned(entry.path)
    if found is None:
        return None
    try:
        schema = pl.read_parquet_schema(io.BytesIO(found[0]))
        names = [name for name, dtype in schema.items() if _holds_ids(name, dtype)]
        return pl.read_parquet(io.BytesIO(found[0]), columns=names) if names else None
    except pl.exceptions.ComputeError:
        # Not Parquet whatever its name: nothing of ours to look into, and no reader can.
        return None


def _holds_ids(name: str, dtype: object) -> bool:
    if isinstance(dtype, pl.List):
        return _holds_ids(name, dtype.inner)
    if isinstance(dtype, pl.Struct):
        return any(_holds_ids(field.name, field.dtype) for field in dtype.fields)
    return name in ID_FIELDS and dtype == pl.String


def _id_columns(frame: pl.DataFrame, name: str) -> Iterator[pl.Series]:
    column = frame[name]
    if isinstance(column.dtype, pl.List):
        column = column.explode()
    if isinstance(column.dtype, pl.Struct):
        inner = column.struct.unnest()
        for field in inner.columns:
            if _holds_ids(field, inner.schema[field]):
                yield from _id_columns(inner, field)
    elif _holds_ids(name, column.dtype):
        yield column


def _rewrite(storage: Storage, path: str, user_id: str, report: Erased) -> None:
    """Replace a file by one without the user; somebody else's new version is for the next look."""
    found = storage.read_versioned(path)
    if found is None:
        return
    data, version = found
    left = _without(data, user_id, path)
    try:
        if left is None and path.startswith("raw/"):
            storage.delete(path)
            report.deleted += 1
            return
        storage.replace(path, left or _emptied(data, path), version)
    except ConflictError:
        return
    report.rewritten += 1


def _without(data: bytes, user_id: str, path: str) -> bytes | None:
    """The file's bytes without the user's rows; None when no row is left."""
    file = pq.ParquetFile(io.BytesIO(data))
    if parse_part(path) is not None:
        return _compact_without(file, data, user_id)
    table = file.read()
    # By way of polars, as tables are written: the same rows are then the same bytes.
    kept = pl.DataFrame(table.filter(_keep(table, user_id)))
    return encode_parquet(kept.to_arrow(), _schema(table.schema, path)) if kept.height else None


def _emptied(data: bytes, path: str) -> bytes:
    schema = _schema(pq.ParquetFile(io.BytesIO(data)).schema_arrow, path)
    return encode_parquet(schema.empty_table(), schema)


def _schema(found: pa.Schema, path: str) -> pa.Schema:
    """The declared schema where the file has it: read back, its lists call their elements otherwise."""
    table = TABLES.get(path.split("/")[0])
    if table is not None and found.equals(table.arrow_schema()):
        return table.arrow_schema()
    return found


def _compact_without(file: pq.ParquetFile, data: bytes, user_id: str) -> bytes:
    """Row group by row group. The file stands for no base files until it is compacted again."""
    schema = file.schema_arrow
    stamp = parse_stamp(data) or Stamp("", 0, 1)
    metadata = {k: v for k, v in (schema.metadata or {}).items() if k != STAMP_KEY.encode()}
    metadata[STAMP_KEY.encode()] = msgspec.json.encode(
        Stamp("", stamp.bucket, stamp.buckets, stamp.views, stamp.scheme)
    )
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema.with_metadata(metadata), compression="zstd") as writer:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            kept = table.filter(_keep(table, user_id))
            if kept.num_rows:
                writer.write_table(kept, row_group_size=kept.num_rows)
    left: bytes = sink.getvalue().to_pybytes()
    return left


def _keep(table: pa.Table, user_id: str) -> pa.ChunkedArray:
    """Which rows do not mention the user."""
    names = [field.name for field in table.schema if _holds_ids(field.name, _dtype(field))]
    frame = pl.DataFrame(table.select(names))
    mentioned = pl.any_horizontal(
        _is_mentioned(pl.col(name), name, frame.schema[name], user_id) for name in names
    )
    return pa.chunked_array([frame.select(~mentioned).to_series().to_arrow()])


def _dtype(field: pa.Field) -> pl.DataType:
    return pl.Schema(pa.schema([field]))[field.name]


def _is_mentioned(value: pl.Expr, name: str, dtype: object, user_id: str) -> pl.Expr:
    if isinstance(dtype, pl.List):
        inside = value.list.eval(_is_mentioned(pl.element(), name, dtype.inner, user_id))
        return inside.list.any().fill_null(value=False)
    if isinstance(dtype, pl.Struct):
        return pl.any_horizontal(
            _is_mentioned(value.struct.field(field.name), field.name, field.dtype, user_id)
            for field in dtype.fields
            if _holds_ids(field.name, field.dtype)
        )
    return (value == user_id).fill_null(value=False)
