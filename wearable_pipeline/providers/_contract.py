"""What a provider declares: how to ask, how bodies split into records, how fields become ours.

A provider is one module of this package with a `PROVIDER` constant. It is found because it is
there. Everything here is pure apart from `connect` and `fetch`, which talk to the provider through
the client they are handed.
"""

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import BinaryIO, Literal, Protocol

import polars as pl

# What an importer is shown of a file to recognise it.
HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """One item of a resource, verbatim.

    `body` is the exact byte slice of what arrived. `context` holds what the item needs from its
    surroundings to be understood (CSV header, sensor, patient, time zone of an import). For what is
    polled it takes no part in the comparison of content: a new sensor beside an old reading is no
    new revision. Importers set `is_context_content`: a file read again with another time zone or
    date order says something else, and is a new revision.

    `former_date` is the date an earlier reading of the same item may have put it under; what is
    stored there gives way to this record.
    """

    resource: str
    record_id: str
    body: bytes
    local_date: date
    context: Mapping[str, object] = field(default_factory=dict)
    provider_updated_at: datetime | None = None
    is_deleted: bool = False
    is_context_content: bool = False
    former_date: date | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a provider, as it arrived."""

    resource: str
    body: bytes
    fetched_at: datetime
    context: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """Local dates asked for, both ends included. Providers without date parameters ignore it."""

    start: date
    end: date
    now: datetime


@dataclass(frozen=True, slots=True)
class CredentialField:
    """One thing a person types in to connect."""

    name: str
    help: str
    is_secret: bool = True
    is_required: bool = True
    default: str | None = None


@dataclass(slots=True)
class Connection:
    """One user as a provider module sees it.

    `credentials` and `state` may be changed by `fetch`; the framework stores both, `credentials`
    encrypted and at once through `save_credentials`, `state` only after everything fetched is in
    raw.
    """

    user_id: str
    config: dict[str, object]
    credentials: dict[str, object]
    state: dict[str, object]
    timezone: str | None
    save_credentials: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Connected:
    """What a successful `connect` leaves behind.

    `account_id` names the person at the provider (to notice a second connection of the same
    account); only its hash is stored.
    """

    account_id: str
    credentials: dict[str, object]
    config: dict[str, object] = field(default_factory=dict)
    timezone: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer whose status was acceptable."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    fetched_at: datetime


class Client(Protocol):
    """The HTTP client handed to providers: bounded, retrying, never logging a header or a body.

    Errors: `RateLimitedError` (429 after its retries), `TransientError` (time-out, connection, 5xx
    after its retries), `NotConnectedError` (401, 403), `BadPayloadError` (answer too large, HTML
    for JSON), `PermanentError` (other 4xx).
    """

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        accept: Sequence[int] = (200,),
    ) -> Answer:
        """Return the answer when its status is in `accept`, else raise as documented above."""
        ...


Connect = Callable[[Client, Mapping[str, str]], Awaitable[Connected]]
Fetch = Callable[[Client, Connection, Window], AsyncIterator[Page]]


@dataclass(frozen=True, slots=True)
class Reject:
    """A rule over the typed frame: rows for which `when` is true go to quarantine with `reason`."""

    reason: str
    when: pl.Expr


@dataclass(frozen=True, slots=True)
class Samples:
    """Every record becomes one element of a list column of the (user, local date) row.

    `fields` gives the element's struct fields as expressions over the typed frame; struct fields
    not named are null. `key` names the row in tables of
    sessions (`metadata_summary_id`); rows of days need none.
    """

    table: str
    column: str
    fields: Mapping[str, pl.Expr]
    where: pl.Expr | None = None
    key: Mapping[str, pl.Expr] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scalars:
    """Columns of the row itself, one candidate per record; of several records the newest value wins.

    List columns may be given too: what the record holds replaces the list as a whole. `start_at` and the like
    replace the midnights a dated row has by default.
    """

    table: str
    columns: Mapping[str, pl.Expr]
    where: pl.Expr | None = None
    key: Mapping[str, pl.Expr] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of thing a provider offers.

    `wire` is the schema of one record: path → dtype, nested objects with dots (`sensor.sn`). Values
    arrive leniently (numbers in quotes are numbers); a value that cannot be read as its dtype sends
    the record to quarantine. `ignored` names paths that are known and deliberately not typed.

    `parse`, for bodies that are not JSON, turns the raw frame (`body` Binary, `context` String)
    into one String column per wire path, row for row; `list_fields` then names the fields a record
    has.

    `recognise` gets a decoded JSON body nobody knows anything of and tells, by its structure,
    whether `split` finds records of this resource in it. Several resources recognise one body only
    when it holds a part for each of them. Where `split` also reads a lone record or a bare list of
    them, `recognise` says so only if it can be no other resource's.

    `prepare` turns the typed frame into what the mapping needs. It gets the wire columns plus the
    envelope (`user_id`, `record_id`, `local_date`, `context` decoded by `context_wire`, prefixed
    `context.`) and must add `timestamp` (Datetime us UTC, null when the instant is unknown),
    `local_timestamp` (naive Datetime us, null when the offset is unknown), `timezone` (IANA or
    null) and `tz_source`.
    """

    name: str
    wire: Mapping[str, pl.DataType]
    split: Callable[[Page], Iterator[Record]]
    prepare: Callable[[pl.DataFrame], pl.DataFrame]
    tables: tuple[Samples | Scalars, ...]
    rejects: tuple[Reject, ...] = ()
    context_wire: Mapping[str, pl.DataType] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    media_type: Literal["application/json", "text/csv"] = "application/json"
    recognise: Callable[[object], bool] | None = None
    parse: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    list_fields: Callable[[Record], Iterable[str]] | None = None


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a person says about a file that the file does not say itself."""

    timezone: str | None = None
    date_order: Literal["dmy", "mdy"] | None = None


@dataclass(frozen=True, slots=True)
class Importer:
    """A file format people can export by hand.

    `recognise` sees the first `HEAD_BYTES`. `read` streams the file (twice if it must: the handle
    seeks) and yields records in batches of bounded size; it raises `BadPayloadError` before the
    first batch when the file is not what it should be.
    """

    name: str
    resource: str
    title: str
    recognise: Callable[[bytes], bool]
    read: Callable[[BinaryIO, ImportOptions], Iterator[list[Record]]]


@dataclass(frozen=True, slots=True)
class Provider:
    """A source of wearable data, whole.

    `explain` gets a body as it arrived and raises what `fetch` raises for it when it is an answer
    of the provider that carries no records: a refused login, a page of the web front, settings.
    """

    name: str
    title: str
    client_name: str
    summary: str
    docs_url: str
    resources: tuple[Resource, ...]
    credentials: tuple[CredentialField, ...] = ()
    connect: Connect | None = None
    fetch: Fetch | None = None
    importers: tuple[Importer, ...] = ()
    explain: Callable[[bytes], None] | None = None
    poll_interval: timedelta = timedelta(minutes=5)
    open_days: int = 3
    history_days: int | None = None
    max_concurrency: int = 20
    requests_per_second: float = 20.0
    sample_step: timedelta | None = None

    def resource(self, name: str) -> Resource:
        """The resource of that name. KeyError if there is none."""
        for resource in self.resources:
            if resource.name == name:
                return resource
        raise KeyError(f"{self.name} has no resource {name!r}")
