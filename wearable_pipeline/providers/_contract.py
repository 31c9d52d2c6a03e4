"""What a provider declares: how to ask, how bodies split into records, how fields become ours.

A provider is one module of this package with a `PROVIDER` constant. It is found because it is
there. Everything here is pure apart from `connect`, `fetch`, `OAuth.identify` and the subscription
calls of `Push`, which talk to the provider through the client they are handed.
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
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import BinaryIO, Literal, Protocol

import msgspec
import polars as pl

# What an importer is shown of a file to recognise it.
HEAD_BYTES = 64 * 1024

# What the bodies a mapping was written against are: answers of the service or a device, samples of the
# vendor's documentation, fixtures of other projects, or nothing but the documented contract.
Evidence = Literal["recorded", "vendor-doc", "project-fixture", "contract only"]


class Record(msgspec.Struct, frozen=True, gc=False):
    """One item of a resource, verbatim.

    `body` is the exact byte slice of what arrived, less any secret the sender repeats in it. `context`
    holds what the item needs from its surroundings to be understood (CSV header, sensor, patient, time
    zone of an import). For what is polled it takes no part in the comparison of content: a new sensor
    beside an old reading is no new revision. Importers set `is_context_content`: a file read again with
    another time zone or date order says something else, and is a new revision.

    `former_date` is the date an earlier reading of the same item may have put it under; what is
    stored there gives way to this record.

    `taken_at` is the instant of an item whose identity is made of it: of two items of one resource the
    one taken later cannot be stored already when the other is the newest stored. Without it everything
    is looked up.
    """

    resource: str
    record_id: str
    body: bytes
    local_date: date
    context: Mapping[str, object] = {}
    provider_updated_at: datetime | None = None
    is_deleted: bool = False
    is_context_content: bool = False
    former_date: date | None = None
    taken_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a provider, as it arrived."""

    resource: str
    body: bytes
    fetched_at: datetime
    context: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """The exact bytes of a page's items, and what the provider's `read` wants to know around them."""

    items: Sequence[bytes]
    around: object = None


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

    A login or refresh happens inside `async with alone():`, one at a time for this user over all
    processes; `credentials` are read again on entering, and may be fresh by then.

    `subscriber` is set where pushes are set up, for providers that want a subscription per person,
    made with that person's token: `fetch` makes it, and notes in `state` that it has.
    """

    user_id: str
    config: dict[str, object]
    credentials: dict[str, object]
    state: dict[str, object]
    timezone: str | None
    save_credentials: Callable[[], None]
    alone: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    subscriber: "Subscriber | None" = None


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
        form: Mapping[str, str] | None = None,
        accept: Sequence[int] = (200,),
    ) -> Answer:
        """Return the answer when its status is in `accept`, else raise as documented above."""
        ...


Connect = Callable[[Client, Mapping[str, str]], Awaitable[Connected]]
Fetch = Callable[[Client, Connection, Window], AsyncIterator[Page]]


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose account was connected; only a hash of `account_id` is stored.

    `account_id` is what pushes name the account by, where the provider pushes. `timezone` is the IANA
    name of the person's zone, when the provider tells. `config` holds no secrets.
    """

    account_id: str
    timezone: str | None = None
    config: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What is about to be sent to a token endpoint; a provider's quirk may return another."""

    url: str
    form: Mapping[str, str]
    headers: Mapping[str, str]


def _as_documented(request: TokenRequest) -> TokenRequest:
    return request


def _as_answered(body: Mapping[str, object]) -> Mapping[str, object]:
    return body


def _as_sent(status: int, _body: bytes) -> int:
    return status


@dataclass(frozen=True, slots=True)
class OAuth:
    """How a provider lets people in by OAuth 2: authorization code, refresh, revocation.

    Credentials of the app are the settings `WEARABLE_<PROVIDER>_CLIENT_ID` and `…_CLIENT_SECRET`;
    `…_AUTH_URL` replaces the origin of the three addresses here, `…_BASE_URL` that of `api_url`.

    `identify` gets a client that is already let in, and the token answer (some providers put the user
    into it). `rotates_refresh`: each refresh answers with a new refresh token and ends the old one.
    `refreshes` False: there is no refresh token (Polar); a refused access token ends the connection.
    `lifetime` is how long an access token lives when the answer does not say.

    Quirks, for providers that leave the standard: `prepare_request` changes a token request before it is
    sent (an `action` more, a signature); `read_answer` unwraps the JSON of a token answer into the
    standard fields (`access_token`, `refresh_token`, `expires_in`, `scope`, `error`) (Withings answers
    with an envelope and status 200 for errors). `read_status` gets status and body of every other answer
    and tells the status it means: 401 renews the token, others are looked up in `Provider.refusals`.
    `code_parameter` names the callback's parameter. `revoke` replaces the standard revocation (Garmin,
    Polar and Strava have their own); it is given the credentials, and with them `client_id` and
    `client_secret` of the app.
    """

    authorize_url: str
    token_url: str
    api_url: str
    identify: "Callable[[Client, Mapping[str, object]], Awaitable[Identity]]"
    scopes: tuple[str, ...] = ()
    scope_separator: str = " "
    pkce: bool = True
    client_auth: Literal["basic", "body"] = "body"
    rotates_refresh: bool = True
    refreshes: bool = True
    lifetime: timedelta | None = None
    authorize_parameters: Mapping[str, str] = field(default_factory=dict)
    code_parameter: str = "code"
    revoke_url: str | None = None
    revoke: "Callable[[Client, Mapping[str, object]], Awaitable[None]] | None" = None
    prepare_request: Callable[[TokenRequest], TokenRequest] = _as_documented
    read_answer: Callable[[Mapping[str, object]], Mapping[str, object]] = _as_answered
    read_status: Callable[[int, bytes], int] = _as_sent


@dataclass(frozen=True, slots=True)
class Refusal:
    """One line of a provider's error table: answers with `status` (and `containing` in the body).

    `meaning`: `transient` and `rate_limited` are worth another try; `permanent` is not; `not_connected`
    ends the connection; `absent` is an empty answer, where a person did not grant a scope or the account
    lacks a product. An absent answer comes back with its own status: the fetch skips it.
    """

    status: int
    meaning: Literal["transient", "rate_limited", "permanent", "not_connected", "absent"]
    message: str
    containing: bytes = b""

    def fits(self, status: int, body: bytes) -> bool:
        """Whether this line speaks of that answer."""
        return status == self.status and self.containing in body


@dataclass(frozen=True, slots=True)
class PushRequest:
    """A request to `/in/<provider>` as it arrived. Header names are lower case."""

    method: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class PushSecrets:
    """What a push may be proven with: the app's secret and the secret chosen for the subscription."""

    client_id: str
    client_secret: str = field(repr=False)
    push_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Signature:
    """A push proven by an HMAC over its raw bytes.

    `message` says what is signed, from the timestamp's text and the body. `parse` takes the header apart
    into signature and timestamp text where both are in one header (`t=…,v1=…`). Timestamps are epoch
    seconds or milliseconds, or ISO 8601.
    """

    header: str
    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "HEX", "base64"] = "hex"
    key: Callable[[PushSecrets], bytes] = lambda secrets: secrets.client_secret.encode()
    timestamp_header: str | None = None
    message: Callable[[str, bytes], bytes] = lambda _, body: body
    parse: Callable[[str], tuple[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """A push proven by a secret it repeats, in a header or a query parameter."""

    header: str | None = None
    parameter: str | None = None
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class PushAnswer:
    """What to answer at once: to a challenge, or to a push that was stored."""

    status: int = 200
    body: bytes = b""
    media_type: str = "text/plain"


@dataclass(frozen=True, slots=True)
class Changed:
    """A push said that something of an account changed: fetch it.

    Without dates, whatever the provider's usual window holds.
    """

    account_id: str
    start: date | None = None
    end: date | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """A push carried data of an account: `body` is split by the resource like a fetched page."""

    account_id: str
    resource: str
    body: bytes
    context: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Removed:
    """A push said that something is no more: these records become deletions, where they are known."""

    account_id: str
    resource: str
    record_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Departed:
    """A push said that the person took the permission back at the provider."""

    account_id: str


@dataclass(frozen=True, slots=True)
class Linked:
    """A push said where data of an account lie, for that person's token to fetch.

    `url` is followed only below the address of the provider's API, whatever the push says.
    """

    account_id: str
    resource: str
    url: str


Pushed = Changed | Delivered | Linked | Removed | Departed


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription at the provider; `topic` is the provider's own word."""

    subscription_id: str
    topic: str
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Subscriber:
    """What the subscription calls get: where pushes shall go and what proves them."""

    callback_url: str
    secrets: PushSecrets


Subscribe = Callable[[Client, Subscriber], Awaitable[list[Subscription]]]


@dataclass(frozen=True, slots=True)
class Push:
    """How a provider posts to us.

    `proof` None: nothing in the request proves it, so only the secret that `/in/<provider>?key=` repeats
    does; such pushes should only ever be hints to fetch. `tolerance` bounds how old a signed timestamp
    may be; within it the same push is stored once. `challenge` gets every GET and, before it is taken
    for a push, every POST: an answer ends the request. `read` says what a stored body means.

    `subscribe` makes every subscription the app needs, leaving those there are; `renew` extends one;
    `unsubscribe` ends all. None where a person sets them up on the provider's site, or where each person
    has their own; `setup` says in words what is to be done then. `redact` cuts secrets the provider repeats
    out of a body before it is stored; every other byte stays.
    """

    read: Callable[[PushRequest], Iterable[Pushed]]
    proof: Signature | SharedSecret | None = None
    tolerance: timedelta = timedelta(minutes=5)
    challenge: Callable[[PushRequest, PushSecrets], PushAnswer | None] | None = None
    answer: PushAnswer = PushAnswer()
    subscribe: Subscribe | None = None
    renew: Callable[[Client, Subscriber, Subscription], Awaitable[Subscription]] | None = None
    unsubscribe: Callable[[Client, Subscriber], Awaitable[int]] | None = None
    setup: str = ""
    redact: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A rule over the typed frame: rows for which `when` is true go to quarantine with `reason`."""

    reason: str
    when: pl.Expr


@dataclass(frozen=True, slots=True)
class Samples:
    """Every record becomes one element of a list column of the (user, local date) row.

    `fields` gives the element's struct fields as expressions over the typed frame; struct fields
    not named are null. `key` names the row in tables of sessions (`metadata_summary_id`); rows of
    days need none. Such a record has the local date of its session, or it would open a second row on its own.

    `joins_main`, for tables of sessions: the record is of the day's main session, which it cannot name. It
    goes to the one session of its date that is no nap; where there is none, or several, to the row that
    `key` names.
    """

    table: str
    column: str
    fields: Mapping[str, pl.Expr]
    where: pl.Expr | None = None
    key: Mapping[str, pl.Expr] = field(default_factory=dict)
    joins_main: bool = False


@dataclass(frozen=True, slots=True)
class Scalars:
    """Columns of the row itself, one candidate per record; of several records the newest value wins.

    List columns may be given too: what the record holds replaces the list as a whole. `start_at` and the like
    replace the midnights a dated row has by default. `key` and `joins_main` are those of `Samples`.
    """

    table: str
    columns: Mapping[str, pl.Expr]
    where: pl.Expr | None = None
    key: Mapping[str, pl.Expr] = field(default_factory=dict)
    joins_main: bool = False


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

    `cut` and `read` are for resources that show the same items again and again: `cut` gives a page's
    items without looking into them, `read` makes records of a cut or of some of its items; `split` is
    `read` of all. A poll then reads only items that were not in the answer before. What a record is made
    of must be in its item and in the page's context.

    `prepare` turns the typed frame into what the mapping needs. It gets the wire columns plus the
    envelope (`user_id`, `record_id`, `local_date`, `context` decoded by `context_wire`, prefixed
    `context.`), may lay a record out in several lines, each with a time of its own (the minutes of a
    day), and must add `timestamp` (Datetime us UTC, null when the instant is unknown),
    `local_timestamp` (naive Datetime us, null when the offset is unknown), `timezone` (IANA or
    null) and `tz_source`.

    `evidence` says how far the mapping can be trusted; docs/coverage.md shows it.
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
    cut: Callable[[Page], Cut] | None = None
    read: Callable[[Page, Cut], Iterator[Record]] | None = None
    evidence: Evidence = "contract only"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a person says about a file that the file does not say itself.

    `units` `us`: miles, feet, pounds, US fluid ounces and Fahrenheit where the file names no unit.
    """

    timezone: str | None = None
    date_order: Literal["dmy", "mdy"] | None = None
    units: Literal["metric", "us"] | None = None


@dataclass(frozen=True, slots=True)
class Importer:
    """A file format people can export by hand.

    `recognise` sees the first `HEAD_BYTES`. `read` streams the file (twice if it must: the handle
    seeks, and has the `name` of the file where there is one) and yields records in batches of bounded
    size; it raises `BadPayloadError` before the first batch when the file is not what it should be.
    `resource` is that of all records, None where one file holds records of several.
    """

    name: str
    resource: str | None
    title: str
    recognise: Callable[[bytes], bool]
    read: Callable[[BinaryIO, ImportOptions], Iterator[list[Record]]]


@dataclass(frozen=True, slots=True)
class Quota:
    """How many requests a provider allows in one window of time, as it documents them.

    Windows are those of UTC: a quarter of an hour begins at :00, :15, :30 and :45, a day at midnight.
    `of` says who shares them: all people of the app, or each account has its own. With every person that
    is connected an app may ask `per_user` times more.
    """

    requests: int
    window: timedelta
    of: Literal["app", "account"] = "app"
    per_user: int = 0


@dataclass(frozen=True, slots=True)
class Provider:
    """A source of wearable data, whole.

    `explain` gets a body as it arrived and raises what `fetch` raises for it when it is an answer
    of the provider that carries no records: a refused login, a page of the web front, settings.

    With `oauth`, people are connected by the browser and `fetch` is handed a client that is let in: it
    asks for paths below `oauth.api_url`, and neither tokens nor their renewal are its concern.
    `refusals` is the error table of that client; what is not in it means what `Client` documents.

    `max_window` bounds the days one call of `fetch` is asked for: longer windows are cut up. `refetch`
    reaches back from the first day asked for when the window ends in the present, for data that come
    late. `history_days` is how far back the provider lets us read, None where nobody knows.

    `fetch_orders`: a `fetch` brings nothing, it has history posted to us; all data come by pushes.

    `poll_interval` is the age no reading shall exceed. `sample_step` is the usual distance of readings;
    of people whose readings keep to it the next one is asked for when it should have appeared,
    `publishing_delay` after it was taken.

    `freshness` says in words how current the service itself can be; docs/coverage.md shows it.

    `client_name` is what clients know the provider's people by. Where one service stands for several of
    their names, the others are `other_client_names`, and the person's `config` says which with `client_name`.

    `requests_per_second` holds for all processes together. `quotas` are the longer windows a provider
    documents, of which history takes only a share. `limit_scope` says whom a 429 speaks to: one
    account, or the app and so everybody.
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
    quotas: tuple[Quota, ...] = ()
    sample_step: timedelta | None = None
    publishing_delay: timedelta = timedelta(seconds=10)
    limit_scope: Literal["account", "app"] = "account"
    oauth: OAuth | None = None
    push: Push | None = None
    refusals: tuple[Refusal, ...] = ()
    max_window: timedelta | None = None
    refetch: timedelta = timedelta()
    fetch_orders: bool = False
    freshness: str = ""
    other_client_names: tuple[str, ...] = ()

    def client_name_of(self, config: Mapping[str, object]) -> str:
        """The name clients know a connection with that `config` by."""
        told = config.get("client_name")
        return str(told) if told in self.other_client_names else self.client_name

    def resource(self, name: str) -> Resource:
        """The resource of that name. KeyError if there is none."""
        for resource in self.resources:
            if resource.name == name:
                return resource
        raise KeyError(f"{self.name} has no resource {name!r}")
