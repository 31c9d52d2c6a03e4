"""Rows in object stores: what S3, Google Cloud Storage and Azure Blob have in common.

JSON lies as clients of Terra know it: `2022-03-16/<type>/<user_id>-<start_time>.json`, an event of one
row. A day is named by its midnight on the wall, without an offset: that may be learnt later, and the
name must not change. The object carries its row's ordering, so an older revision never overwrites a
newer one; a withdrawn day becomes an event without data, which keeps the ordering too.

The start of a session may be corrected. What is known of a session, newest ordering and where it
lies, stands in `.rows/<type>/<user_id>/`: written before the session itself, so that whoever comes
late, or again after a crash, finds what is to be removed. Two sessions of one start get different
names.

The Parquet copy is one file for a table, date and share of the users:
`<table>/date=<date>/part-<share>.parquet`, the table's columns and `ordering_timestamp`. Keys that were
withdrawn are remembered in the file's footer, where no reader sees them as rows.
"""

import hashlib
import io
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Literal, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
import polars as pl
from pydantic import Field, SecretStr, model_validator

from wearable_pipeline.destinations._addresses import LOCAL_NAMES
from wearable_pipeline.destinations._contract import (
    Batch,
    DestinationSettings,
    Event,
    Item,
    Outcome,
    delivered,
    permanent,
    transient,
    untried,
)
from wearable_pipeline.destinations._events import VERSION
from wearable_pipeline.destinations._workers import run_jobs
from wearable_pipeline.destinations.webhook import encode_data
from wearable_pipeline.errors import StorageError, UsageError
from wearable_pipeline.lake.storage import (
    AnswerError,
    ConflictError,
    Found,
    ObjectStorage,
    open_object_storage,
)
from wearable_pipeline.model import Table
from wearable_pipeline.settings import Settings

CONCURRENCY = 32
BATCH_ROWS = 1_000
# So many requests without an answer in a row, and the rest of the pass is left for later.
OUTAGE_AFTER = 3
TIMEOUT_SECONDS = 30.0
# How long a request is repeated; after that the ledger waits.
PATIENCE = timedelta(seconds=3)
# Rewriting one file for all users at every reading would move too much, one per user makes too many.
SHARES = 16
# A merge holds a file of many users in memory.
MERGES = 4
_ROUNDS = 8
_WITHDRAWN = "wearable_withdrawn"
ORDERING = "ordering_timestamp"

_BUSY = frozenset(
    {
        "ConditionalRequestConflict",
        "OperationAborted",
        "OperationTimedOut",
        "RequestTimeout",
        "ServerBusy",
        "SlowDown",
    }
)

Form = Literal["json", "parquet", "both"]


class StoreSettings(DestinationSettings):
    """A place in an object store."""

    url: str = Field(description="s3://bucket/prefix, gs://bucket/prefix or az://container/prefix.")
    endpoint: str | None = Field(
        None, description="Address of a server that is not the cloud's own, e.g. https://host:9000."
    )
    allow_http: bool = Field(False, description="Let an endpoint off this machine be http://.")
    region: str | None = Field(None, description="Region of an S3 bucket.")
    path_style: bool = Field(
        True, description="Address S3 buckets by path instead of by host name (with endpoint)."
    )
    access_key_id: str | None = Field(
        None, description="Access key, or Azure account; without: the cloud's own chain."
    )
    secret_access_key: SecretStr | None = Field(
        None, description="Secret of the access key, Azure account key, service account as JSON."
    )
    session_token: SecretStr | None = Field(
        None, description="Session token, Azure SAS or Google bearer token."
    )
    timeout_seconds: float = Field(
        TIMEOUT_SECONDS, ge=1, le=600, description="How long one request may take."
    )


class ObjectsSettings(DestinationSettings):
    """What every kind of object store is told."""

    prefix: str = Field("", description="Folder in the bucket all names lie in.")
    endpoint: str | None = Field(
        None, description="Address of a server that is not the cloud's own, e.g. https://host:9000."
    )
    allow_http: bool = Field(False, description="Let an endpoint off this machine be http://.")
    form: Form = Field(
        "json",
        description="json: one object a row, as Terra's clients read; parquet: the tables; both.",
    )
    concurrency: int = Field(CONCURRENCY, ge=1, le=256, description="Requests at a time.")
    timeout_seconds: float = Field(
        TIMEOUT_SECONDS, ge=1, le=600, description="How long one request may take."
    )

    def _at(self, scheme: str, bucket: str) -> str:
        if not bucket or "/" in bucket:
            raise ValueError("a bucket or container is one name, what lies below it is the prefix")
        return f"{scheme}://{bucket}/{self.prefix.strip('/')}".rstrip("/")


class S3Settings(ObjectsSettings):
    """What an S3 bucket needs."""

    bucket: str = Field(description="Name of the bucket.")
    region: str | None = Field(None, description="Region of the bucket.")
    path_style: bool = Field(
        True, description="Address the bucket by path instead of by host name (with endpoint)."
    )
    access_key_id: str | None = Field(
        None, description="Access key; without it AWS's own chain is asked (environment, role)."
    )
    secret_access_key: SecretStr | None = Field(None, description="Secret of the access key.")
    session_token: SecretStr | None = Field(None, description="Token of temporary credentials.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        self._at("s3", self.bucket)
        return self

    @property
    def store(self) -> StoreSettings:
        """The place."""
        return StoreSettings(
            url=self._at("s3", self.bucket),
            endpoint=self.endpoint,
            allow_http=self.allow_http,
            timeout_seconds=self.timeout_seconds,
            region=self.region,
            path_style=self.path_style,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            session_token=self.session_token,
        )


class GcsSettings(ObjectsSettings):
    """What a bucket of Google Cloud Storage needs."""

    bucket: str = Field(description="Name of the bucket.")
    service_account: SecretStr | None = Field(
        None, description="Service account key as JSON; without: Google's own chain."
    )
    token: SecretStr | None = Field(None, description="Bearer token instead of a service account.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.service_account is not None and self.token is not None:
            raise ValueError("give service_account or token, not both")
        account = self.service_account
        if account is not None and not account.get_secret_value().lstrip().startswith("{"):
            raise ValueError("service_account is the JSON of a key, not the name of its file")
        self._at("gs", self.bucket)
        return self

    @property
    def store(self) -> StoreSettings:
        """The place."""
        return StoreSettings(
            url=self._at("gs", self.bucket),
            endpoint=self.endpoint,
            allow_http=self.allow_http,
            timeout_seconds=self.timeout_seconds,
            secret_access_key=self.service_account,
            session_token=self.token,
        )


class AzureBlobSettings(ObjectsSettings):
    """What a container of Azure Blob Storage needs."""

    account: str = Field(description="Name of the storage account.")
    container: str = Field(description="Name of the container.")
    account_key: SecretStr | None = Field(
        None, description="Key of the account; without key and SAS: Azure's own chain."
    )
    sas_token: SecretStr | None = Field(None, description="Shared access signature.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.account_key is not None and self.sas_token is not None:
            raise ValueError("give account_key or sas_token, not both")
        self._at("az", self.container)
        return self

    @property
    def store(self) -> StoreSettings:
        """The place."""
        return StoreSettings(
            url=self._at("az", self.container),
            endpoint=self.endpoint,
            allow_http=self.allow_http,
            timeout_seconds=self.timeout_seconds,
            access_key_id=self.account,
            secret_access_key=self.account_key,
            session_token=self.sas_token,
        )


def open_store(place: StoreSettings, name: str) -> ObjectStorage:
    """The store at the place; `name` is how errors call it. Raises UsageError, asks no network."""
    scheme, _, rest = place.url.partition("://")
    if scheme not in ("s3", "gs", "az") or not rest.strip("/"):
        raise UsageError(f"{name}.url must be s3://bucket/…, gs://bucket/… or az://container/…")
    if place.endpoint is not None:
        parts = urlsplit(place.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise UsageError(f"{name}.endpoint must look like https://host:port, without a login")
        if parts.scheme == "http" and parts.hostname not in LOCAL_NAMES and not place.allow_http:
            raise UsageError(
                f"{name}.endpoint must use https:// (http:// is for localhost;"
                f" {name}.allow_http=true allows it in your own network)"
            )
    # Constructed, not read: what the environment says about the lake is not meant for this place.
    settings = Settings.model_construct(
        lake_endpoint=place.endpoint,
        lake_region=place.region,
        lake_path_style=place.path_style,
        lake_access_key_id=place.access_key_id,
        lake_secret_access_key=place.secret_access_key,
        lake_session_token=place.session_token,
    )
    timeout = timedelta(seconds=place.timeout_seconds)
    try:
        return open_object_storage(
            place.url, settings, timeout=timeout, patience=min(PATIENCE, timeout)
        )
    except (UsageError, StorageError):
        # Its words name the settings of the lake.
        raise UsageError(
            f"destination {name}: bucket, prefix, endpoint, region and credentials do not fit together"
        ) from None


def judge(error: StorageError) -> Literal["down", "busy", "item", "all"]:
    """Whether the store is down, busy, refuses just this object, or will refuse all of them."""
    if isinstance(error, ConflictError):
        return "busy"
    if not isinstance(error, AnswerError):
        return "item"
    if error.status is None and error.code is None:
        return "down"
    if error.code in _BUSY or error.status in (408, 409, 425, 429):
        return "busy"
    if error.status is not None and error.status >= 500 and error.status != 501:
        return "busy"
    return "all"


def explain(error: StorageError, name: str) -> str:
    """The error in words that name the target instead of the lake."""
    if isinstance(error, ConflictError):
        return f"{name}: another writer keeps changing the object"
    if not isinstance(error, AnswerError):
        return f"{name}: an object cannot be named or told apart there"
    if error.status == 412:
        return f"{name}: the store refuses conditional writes; use another one"
    if judge(error) == "all":
        return (
            f"{name}: {error.cause}; check the bucket, the credentials and their right to list,"
            " read, write and delete"
        )
    if error.cause.endswith("the store"):
        # No endpoint is set: it may as well be the machine's role that was asked in vain.
        return f"{name}: {error.cause}; check the network and that there are credentials"
    return f"{name}: {error.cause}"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What an object says about the row in it."""

    row: str
    ordering: int
    content: str

    @property
    def attributes(self) -> dict[str, str]:
        """As they stay with the object."""
        return {"row": self.row, "ordering": str(self.ordering), "content": self.content}


def stamp_of(item: Item) -> Stamp:
    """The stamp of an item's content."""
    state = f"-{item.content_hash}" if item.is_deleted else item.content_hash
    return Stamp(row_id(item.row_key), item.ordering_timestamp, state)


def row_id(row_key: str) -> str:
    """A row's key as part of a name; keys of providers may hold anything."""
    return hashlib.blake2b(row_key.encode(), digest_size=12).hexdigest()


class TakenError(StorageError):
    """Another row lies at this name."""


class Slots:
    """Objects that a newer revision overwrites and an older one does not."""

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage
        # Backfills meet nothing, live updates meet themselves: asking first costs a request.
        self._expects = False

    def put(self, path: str, body: bytes, stamp: Stamp) -> None:
        """Have `body` at `path` unless a newer revision is there. Raises TakenError."""
        found = self.look(path) if self._expects else None
        if self._expects and found is None:
            self._expects = False
        for attempt in range(_ROUNDS):
            if found is not None and _is_settled(found, stamp):
                return
            version = None if found is None else found.version
            try:
                self._storage.put_if(path, body, version, stamp.attributes)
            except ConflictError:
                self._expects = True
                if attempt:
                    _pause(attempt)
                found = self.look(path)
            else:
                return
        raise ConflictError(path)

    def look(self, path: str) -> Found | None:
        """What lies at `path`."""
        return self._storage.look(path)

    def remove(self, path: str, stamp: Stamp) -> None:
        """Have nothing of the stamp's row, as old as it or older, at `path`."""
        found = self.look(path)
        if (
            found is not None
            and found.attributes.get("row") == stamp.row
            and _ordering_of(found) <= stamp.ordering
        ):
            self._storage.delete(path)


def _is_settled(found: Found, stamp: Stamp) -> bool:
    owner = found.attributes.get("row")
    if owner is not None and owner != stamp.row:
        raise TakenError
    there = _ordering_of(found)
    if there == stamp.ordering:
        return found.attributes.get("content") == stamp.content
    return there > stamp.ordering


def _ordering_of(found: Found) -> int:
    text = found.attributes.get("ordering", "")
    return int(text) if text.isdecimal() else 0  # put there by somebody else: ours is newer


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311


class _Known(msgspec.Struct, frozen=True):
    """What is remembered of a session: its newest ordering and where its rows may lie."""

    ordering: int
    content: str
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Claim:
    """A session as remembered before it is written; `is_new` says nothing was known of it."""

    known: _Known
    version: str
    places: tuple[str, ...]
    is_new: bool


@dataclass(slots=True)
class _Cell:
    """What one Parquet file shall have and have no more, by index into the batch."""

    rows: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Written:
    """The row's JSON is done; `cells` are Parquet files it may still lie in."""

    is_older: bool = False
    path: str | None = None
    cells: tuple[str, ...] = ()
    claim: _Claim | None = None


_Done = _Written | StorageError | None
_Job = Callable[[], _Written]
_Key = TypeVar("_Key")


class ObjectSender:
    """Writes rows into a store, many at once; a context manager."""

    def __init__(
        self, storage: ObjectStorage, name: str, form: Form, concurrency: int = CONCURRENCY
    ) -> None:
        self._storage = storage
        self._slots = Slots(storage)
        self._name = name
        self._has_json = form != "parquet"
        self._has_tables = form != "json"
        self._concurrency = concurrency
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix=name)
        self._unreached = 0
        self._stopped: str | None = None
        self._refused: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        """Write every row; an outcome once the store has it in every form."""
        if self._has_tables:
            yield from self._deliver_tables(batch)
        else:
            for outcome, _ in self.store(batch):
                yield outcome

    def store(self, batch: Batch) -> Iterator[tuple[Outcome, str | None]]:
        """Write every row as JSON; with its outcome the path it lies at, None for one gone or older."""
        for index, done in self._write_rows(batch):
            path = done.path if isinstance(done, _Written) else None
            yield self._outcome(batch.items[index], done), path

    def _write_rows(self, batch: Batch) -> Iterator[tuple[int, _Done]]:
        self._refused = None
        if not batch.items:
            return
        if self._has_json:
            _ = batch.texts  # made here, or several threads would make them
        jobs = [
            (index, partial(self._write_row, batch, index, name))
            for index, name in enumerate(name_rows(batch))
        ]
        yield from self._run(jobs, self._concurrency)

    def deliver_events(self, events: Sequence[Event]) -> Iterator[Outcome]:
        """Write every event as JSON, whatever the form of the rows."""
        self._refused = None
        jobs = [(index, partial(self._write_event, event)) for index, event in enumerate(events)]
        for index, done in self._run(jobs, self._concurrency):
            yield self._outcome(events[index].item, done)

    def _run(
        self, jobs: Sequence[tuple[_Key, _Job]], concurrency: int
    ) -> Iterator[tuple[_Key, _Done]]:
        """What became of each job; None when it was not begun because the rest would fail too."""
        for key, done in run_jobs(
            self._pool, jobs, concurrency, lambda: self._is_over, StorageError
        ):
            if isinstance(done, StorageError):
                self._note(done)
            elif done is not None:
                self._unreached = 0
            yield key, done

    @property
    def _is_over(self) -> bool:
        return self._stopped is not None or self._refused is not None

    def _note(self, error: StorageError) -> None:
        verdict = judge(error)
        if verdict == "all":
            self._refused = explain(error, self._name)
        elif verdict != "down":
            self._unreached = 0
        else:
            self._unreached += 1
            if self._unreached >= OUTAGE_AFTER:
                self._stopped = f"{self._name}: not reached {OUTAGE_AFTER} times in a row"

    def _outcome(self, item: Item, done: _Done) -> Outcome:
        if isinstance(done, _Written):
            return delivered(item)
        if done is None:
            if self._refused is not None:
                return permanent(item, self._refused)
            return untried(item, self._stopped or "")
        made = transient if judge(done) in ("down", "busy") else permanent
        return made(item, explain(done, self._name))

    # JSON.

    def _write_event(self, event: Event) -> _Written:
        item = event.item
        at = datetime.fromtimestamp(item.ordering_timestamp / 1000, UTC)
        name = f"{VERSION}/{item.table}/{item.user.user_id}-{_spell(at, at)}"
        self._put_first(
            (f"{name}.json", f"{name}-{row_id(item.row_key)}.json"),
            msgspec.json.encode(event.body),
            stamp_of(item),
        )
        return _Written()

    def _write_row(self, batch: Batch, index: int, name: str) -> _Written:
        item = batch.items[index]
        stamp = stamp_of(item)
        if not is_session(batch.table):
            if self._has_json:
                self._slots.put(f"{name}.json", self._body(batch, index), stamp)
            return _Written(path=f"{name}.json")
        names = (f"{name}.json", f"{name}-{stamp.row}.json")
        places = self._places(item, names)
        claim = self._claim(item, stamp, places)
        if claim is None:
            return _Written(is_older=True)
        here = None
        if self._has_json:
            if not item.is_deleted:
                here = self._put_first(names, self._body(batch, index), stamp)
                if self._was_overtaken(item, claim):
                    # Whoever did may have looked here before there was anything to remove.
                    self._slots.remove(here, stamp)
                    return _Written(is_older=True)
            if not claim.is_new:
                for place in claim.known.places:
                    if place.endswith(".json") and place != here:
                        self._slots.remove(place, stamp)
        if not self._has_tables:
            self._settle(item, claim)
        cells = tuple(place for place in claim.known.places if place.endswith(".parquet"))
        return _Written(path=here, cells=cells, claim=claim)

    def _body(self, batch: Batch, index: int) -> bytes:
        item = batch.items[index]
        return encode_data([item], [] if item.is_deleted else [batch.texts[index]])

    def _put_first(self, names: Sequence[str], body: bytes, stamp: Stamp) -> str:
        """Where `body` went: the first of `names` no other row lies at."""
        for name in names[:-1]:
            try:
                self._slots.put(name, body, stamp)
            except TakenError:
                continue
            return name
        self._slots.put(names[-1], body, stamp)
        return names[-1]

    # What is remembered of sessions.

    def _places(self, item: Item, names: Sequence[str]) -> tuple[str, ...]:
        if item.is_deleted:
            return ()
        cell = (cell_path(item),) if self._has_tables else ()
        return (*(names if self._has_json else ()), *cell)

    def _claim(self, item: Item, stamp: Stamp, places: tuple[str, ...]) -> _Claim | None:
        """The session remembered as the item has it; None when something newer is."""
        path = _memory_path(item)
        for attempt in range(1, _ROUNDS):
            found = self._storage.read_versioned(path)
            known = _Known(-1, "") if found is None else _decode_known(found[0], path)
            if known.ordering > stamp.ordering:
                return None
            made = _Known(
                stamp.ordering, stamp.content, tuple(dict.fromkeys((*known.places, *places)))
            )
            if found is not None and made == known:
                return _Claim(made, found[1], places, is_new=False)
            try:
                version = self._storage.put_if(
                    path, msgspec.json.encode(made), None if found is None else found[1]
                )
            except ConflictError:
                _pause(attempt)
            else:
                return _Claim(made, version, places, is_new=found is None)
        raise ConflictError(path)

    def _was_overtaken(self, item: Item, claim: _Claim) -> bool:
        """Whether a newer revision of the session came in since the claim."""
        path = _memory_path(item)
        found = self._storage.look(path)
        if found is None or found.version == claim.version:
            return False
        return _decode_known(self._storage.read(path), path).ordering > item.ordering_timestamp

    def _settle(self, item: Item, claim: _Claim) -> None:
        """Forget where the session lies no more."""
        if set(claim.places) == set(claim.known.places):
            return
        made = msgspec.structs.replace(claim.known, places=claim.places)
        # Whoever was faster knows more.
        with suppress(ConflictError):
            self._storage.put_if(_memory_path(item), msgspec.json.encode(made), claim.version)

    # Parquet.

    def _deliver_tables(self, batch: Batch) -> Iterator[Outcome]:
        cells: dict[str, _Cell] = {}
        missing: Counter[int] = Counter()
        claims: dict[int, _Claim] = {}
        for index, done in self._write_rows(batch):
            item = batch.items[index]
            if not isinstance(done, _Written) or done.is_older:
                yield self._outcome(item, done)
                continue
            if done.claim is not None:
                claims[index] = done.claim
            own = cell_path(item)
            for path in dict.fromkeys((own, *done.cells)):
                cell = cells.setdefault(path, _Cell())
                stays = path == own and not item.is_deleted
                (cell.rows if stays else cell.removed).append(index)
                missing[index] += 1
        stamped = batch.rows.with_columns(
            pl.Series(ORDERING, [item.ordering_timestamp for item in batch.items], pl.Int64)
        )
        merges = [
            (path, partial(self._merge, batch, stamped, path, cell)) for path, cell in cells.items()
        ]
        worst: dict[int, _Done] = {}
        for path, done in self._run(merges, min(self._concurrency, MERGES)):
            for index in (*cells[path].rows, *cells[path].removed):
                missing[index] -= 1
                if not isinstance(done, _Written):
                    worst[index] = done
                if not missing[index]:
                    item = batch.items[index]
                    if index in claims and index not in worst:
                        worst[index] = self._try_settle(item, claims[index])
                    yield self._outcome(item, worst.get(index, _Written()))

    def _try_settle(self, item: Item, claim: _Claim) -> _Done:
        try:
            self._settle(item, claim)
        except StorageError as error:
            self._note(error)
            return error
        return _Written()

    def _merge(self, batch: Batch, stamped: pl.DataFrame, path: str, cell: _Cell) -> _Written:
        """Bring one file to where it has the cell's rows, unless it has newer ones."""
        gone = {
            f"{item.user.user_id}|{item.row_key}": item.ordering_timestamp
            for item in (batch.items[index] for index in cell.removed)
        }
        new = CellRows(stamped[cell.rows].sort(_key_of(batch.table)), gone)
        for attempt in range(1, _ROUNDS):
            found = self._storage.read_versioned(path)
            merged = new
            if found is not None:
                old = CellRows.read(batch.table, found[0])
                merged = old.merge(batch.table, new)
                if merged.equals(old):
                    return _Written()
            try:
                self._storage.put_if(path, merged.write(), None if found is None else found[1])
            except ConflictError:
                _pause(attempt)
            else:
                return _Written()
        raise ConflictError(path)


@dataclass(frozen=True)
class CellRows:
    """What a Parquet file holds: rows with their ordering, and the orderings of withdrawn keys."""

    rows: pl.DataFrame
    withdrawn: Mapping[str, int]

    @classmethod
    def read(cls, table: Table, content: bytes) -> "CellRows":
        """What a file holds. Raises StorageError when it is none of ours."""
        try:
            frame = pl.read_parquet(io.BytesIO(content))
            rows = table.conform(frame).with_columns(frame[ORDERING])
            withdrawn = pl.read_parquet_metadata(io.BytesIO(content)).get(_WITHDRAWN, "{}")
        except pl.exceptions.PolarsError:
            # What polars says may quote the file.
            raise StorageError("a file of the Parquet copy is not as it was written") from None
        return cls(rows, msgspec.json.decode(withdrawn, type=dict[str, int]))

    def merge(self, table: Table, new: "CellRows") -> "CellRows":
        """Of every key the newest of both; of two as new, the one in `new`."""
        gone = dict(self.withdrawn)
        for key, ordering in new.withdrawn.items():
            gone[key] = max(ordering, gone.get(key, 0))
        newest = (
            pl.concat([self.rows, new.rows])
            .with_columns(_key_of(table).alias("key"))
            .sort(ORDERING, maintain_order=True)
            .unique("key", keep="last", maintain_order=True)
        )
        lost = pl.DataFrame(
            {"key": list(gone), "gone": list(gone.values())},
            schema={"key": pl.String, "gone": pl.Int64},
        )
        kept = (
            newest.join(lost, on="key", how="left")
            .filter(pl.col("gone").is_null() | (pl.col(ORDERING) > pl.col("gone")))
            .sort("key")
        )
        there = set(kept["key"])
        return CellRows(
            kept.drop("key", "gone"),
            {name: gone[name] for name in sorted(gone) if name not in there},
        )

    def equals(self, other: "CellRows") -> bool:
        """Whether both hold the same."""
        return self.withdrawn == other.withdrawn and self.rows.equals(other.rows)

    def write(self) -> bytes:
        """The file."""
        buffer = io.BytesIO()
        remembered = msgspec.json.encode(self.withdrawn).decode()
        self.rows.write_parquet(buffer, metadata={_WITHDRAWN: remembered})
        return buffer.getvalue()


def _key_of(table: Table) -> pl.Expr:
    return pl.concat_str("user_id", table.row_key_expression(), separator="|")


def is_session(table: Table) -> bool:
    """Whether rows are sessions, which bear an id, instead of days."""
    return "local_date" not in table.row_key


def name_rows(batch: Batch) -> list[str]:
    """The path of every row's JSON, without its ending."""
    heads = [f"{VERSION}/{item.table}/{item.user.user_id}-" for item in batch.items]
    if not is_session(batch.table):
        return [
            f"{head}{_midnight(item.date)}" for head, item in zip(heads, batch.items, strict=True)
        ]
    starts = batch.rows.select("start_at", "local_start_at").rows()
    return [
        head + (_spell(*start) or _midnight(item.date))
        for head, item, start in zip(heads, batch.items, starts, strict=True)
    ]


def _midnight(day: date) -> str:
    return f"{day.isoformat()}T00:00:00"


def _spell(start_at: datetime | None, local_start_at: datetime | None) -> str:
    """A start as it stands in a name: UTC where it is known, else as the wall showed it."""
    start = local_start_at if start_at is None else start_at.astimezone(UTC)
    if start is None:
        return ""
    text = start.isoformat(timespec="microseconds" if start.microsecond else "seconds")
    return text.replace("+00:00", "Z")


def cell_path(item: Item) -> str:
    """The Parquet file an item's row lies in."""
    share = hashlib.blake2b(item.user.user_id.encode(), digest_size=1).digest()[0] % SHARES
    return f"{item.table}/date={item.date.isoformat()}/part-{share:02x}.parquet"


def _memory_path(item: Item) -> str:
    return f".rows/{item.table}/{item.user.user_id}/{row_id(item.row_key)}.json"


def _decode_known(content: bytes, path: str) -> _Known:
    try:
        return msgspec.json.decode(content, type=_Known)
    except msgspec.MsgspecError:
        raise StorageError(f"{path} is not as it was written") from None


def open_objects(settings: S3Settings | GcsSettings | AzureBlobSettings, name: str) -> ObjectSender:
    """A sender for the bucket. Raises UsageError when the settings make no sense."""
    return ObjectSender(open_store(settings.store, name), name, settings.form, settings.concurrency)
