"""Nightscout: glucose, meals, insulin and finger sticks from a self-hosted site.

https://github.com/nightscout/cgm-remote-monitor

Two APIs. v3 has `history`, which lists what was changed since an instant, late and deleted
documents included, but only documents that were written through v3; it wants a token. v1 is read
with the API secret or a token, and knows dates only. Most uploaders still write through v1, so with
v3 the last day is searched by date as well.

An offset of zero says nothing by itself: the server writes `utcOffset: 0` whenever an uploader
sends UTC. It is believed only where nobody knows better.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from urllib.parse import quote, urlsplit

import msgspec
import polars as pl

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    RateLimitedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.model.columns import LOCAL
from wearable_pipeline.model.units import glucose_in_mg
from wearable_pipeline.providers._contract import (
    Answer,
    Client,
    Connected,
    Connection,
    CredentialField,
    Page,
    Provider,
    Record,
    Reject,
    Resource,
    Samples,
    Window,
)
from wearable_pipeline.providers._local_time import find_zone, local_date_of, wall_clock, zone_of
from wearable_pipeline.providers._split import content_id, decode, decode_any, item_fields
from wearable_pipeline.providers._values import written

PAGE_SIZE = 1000
_MAX_PAGES = 5_000
_COLLECTIONS = ("entries", "treatments")
_DAY = timedelta(days=1)
# Late readings arrive up to a day after the fact.
_REREAD = _DAY
# The first cursor stays behind what may still be changing while the window is being searched.
_SETTLED = timedelta(minutes=10)
_TOKEN_MARGIN = timedelta(minutes=5)

# Nightscout itself takes nothing before 2000 for a date.
OLDEST_MS = 946_684_800_000
_NEWEST_MS = 4_102_444_800_000
_LARGEST_OFFSET_MINUTES = 14 * 60


# --- talking to a site


class _Jwt(msgspec.Struct):
    token: str
    exp: float


class _StatusResult(msgspec.Struct, rename={"api_permissions": "apiPermissions"}):
    api_permissions: dict[str, str | None] = {}


class _V3Status(msgspec.Struct):
    result: _StatusResult


class _V1Status(msgspec.Struct, rename={"api_enabled": "apiEnabled"}):
    status: str
    api_enabled: bool = True


@dataclass(slots=True)
class _Site:
    """One Nightscout site with what opens it."""

    client: Client
    connection: Connection
    now: datetime
    renewals: int = 0

    @property
    def base_url(self) -> str:
        return str(self.connection.config["base_url"])

    async def get(
        self,
        path: str,
        params: Mapping[str, str | int] | None = None,
        accept: tuple[int, ...] = (200,),
    ) -> Answer:
        """The answer; a refused token is renewed once, then NotConnectedError is raised."""
        answer = await self._get(path, params, accept)
        if answer.status == 401 and self.connection.credentials.get("token") and not self.renewals:
            self.renewals += 1
            await self._renew()
            answer = await self._get(path, params, accept)
        if answer.status == 401 and 401 not in accept:
            raise NotConnectedError(
                "nightscout: the site refuses the API secret or token; check it and connect again"
            )
        return answer

    async def _get(
        self, path: str, params: Mapping[str, str | int] | None, accept: tuple[int, ...]
    ) -> Answer:
        return await self.client.request(
            "GET",
            self.base_url + path,
            params=params,
            headers=await self._headers(),
            accept=(*accept, 401),
        )

    async def _headers(self) -> dict[str, str]:
        credentials = self.connection.credentials
        headers = {"accept": "application/json"}
        if credentials.get("api_secret_sha1"):
            return {**headers, "api-secret": str(credentials["api_secret_sha1"])}
        expires_at = credentials.get("jwt_expires_at")
        is_fresh = (
            isinstance(expires_at, int | float)
            and datetime.fromtimestamp(expires_at, UTC) - _TOKEN_MARGIN > self.now
        )
        if not credentials.get("jwt") or not is_fresh:
            await self._renew()
        return {**headers, "authorization": f"Bearer {credentials['jwt']}"}

    async def _renew(self) -> None:
        credentials = self.connection.credentials
        token = quote(str(credentials.get("token") or ""), safe="")
        answer = await self.client.request(
            "GET",
            f"{self.base_url}/api/v2/authorization/request/{token}",
            headers={"accept": "application/json"},
            accept=(200, 401, 403, 404),
        )
        if answer.status == 404:
            raise NotConnectedError(
                "nightscout: the site knows no tokens; connect again with the API secret"
            )
        if answer.status != 200:
            raise NotConnectedError(
                "nightscout: the access token is refused; make a new one in Admin Tools of the site"
                " and connect again"
            )
        jwt = decode(answer.body, _Jwt, "nightscout: asking for a session")
        credentials.update(jwt=jwt.token, jwt_expires_at=jwt.exp)
        self.connection.save_credentials()


async def connect(client: Client, values: Mapping[str, str]) -> Connected:
    """Check that the site is one and can be read; find out which API and which time zone it has."""
    secret, token = values.get("api_secret", "").strip(), values.get("token", "").strip()
    if not secret and not token:
        raise UsageError("nightscout: the API secret or an access token is needed")
    credentials: dict[str, object] = {"token": token}
    if not token:
        digest = hashlib.sha1(secret.encode(), usedforsecurity=False).hexdigest()
        credentials = {"api_secret_sha1": digest}
    base_url = check_base_url(values.get("base_url", ""))
    connection = Connection(
        user_id="",
        config={"base_url": base_url},
        credentials=credentials,
        state={},
        timezone=None,
        save_credentials=lambda: None,
    )
    site = _Site(client, connection, datetime.now(UTC))
    await _check_site(site)
    return Connected(
        account_id=base_url,
        credentials=credentials,
        config={"base_url": base_url, "api": await _detect_api(site)},
        timezone=await _read_timezone(site),
    )


def check_base_url(given: str) -> str:
    """The address of a site without what people paste along with it. Raises UsageError."""
    text = given.strip()
    if "://" not in text:
        text = f"https://{text}"
    parts = urlsplit(text)
    try:
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        has_port = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
        raise UsageError("nightscout: base_url is the address of the site, https://… ")
    if parts.username or parts.password:
        raise UsageError("nightscout: leave user and password out of base_url")
    path = re.sub(r"/api(/.*)?$", "", parts.path.rstrip("/"))
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


async def _check_site(site: _Site) -> None:
    status = await site.get("/api/v1/status.json", accept=(200, 404))
    try:
        found = decode(status.body, _V1Status, "nightscout: reading the status")
    except BadPayloadError:
        found = None
    if status.status != 200 or found is None or found.status != "ok":
        raise UsageError("nightscout: there is no Nightscout at this base_url")
    if not found.api_enabled:
        raise NotConnectedError("nightscout: the site has its API switched off (ENABLE=api)")
    # A readable site shows its status to anybody; only reading proves the right to read.
    await site.get("/api/v1/entries.json", {"count": 1})


async def _detect_api(site: _Site) -> str:
    """`v3` when token and site allow its history for everything we read, else `v1`."""
    if not site.connection.credentials.get("token"):
        return "v1"
    version = await site.get("/api/v3/version", accept=(200, 403, 404))
    if version.status != 200:
        return "v1"
    answer = await site.get("/api/v3/status", accept=(200, 401, 403, 404))
    if answer.status != 200:
        return "v1"
    status = decode(answer.body, _V3Status, "nightscout: reading the permissions")
    may_read = all("r" in (status.result.api_permissions.get(name) or "") for name in _COLLECTIONS)
    return "v3" if may_read else "v1"


async def _read_timezone(site: _Site) -> str | None:
    """Time zone of the newest profile, None when there is none to read."""
    answer = await site.get("/api/v1/profile.json", accept=(200, 401, 403, 404))
    if answer.status != 200:
        return None
    try:
        profiles = msgspec.json.decode(answer.body)
        newest = profiles[0]
        name = str(newest["store"][newest["defaultProfile"]]["timezone"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return None
    # Profile editors have written ETC/GMT+3.
    name = re.sub(r"^ETC/", "Etc/", name)
    return name if find_zone(name) else None


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield what changed since the last fetch (v3), or the window and a day around it (v1)."""
    if not connection.config.get("base_url"):
        raise NotConnectedError("nightscout: no site is stored; connect this user again")
    site = _Site(client, connection, window.now)
    read = _changes if connection.config.get("api") == "v3" else _window_v1
    for collection in _COLLECTIONS:
        async for page in read(site, collection, window):
            yield page


def _page(site: _Site, collection: str, answer: Answer) -> Page:
    return Page(collection, answer.body, answer.fetched_at, {"timezone": site.connection.timezone})


def _bounds(window: Window) -> tuple[datetime, datetime]:
    """Instants around the window: its local days, wherever that is, and a day on both sides."""
    begin = datetime(window.start.year, window.start.month, window.start.day, tzinfo=UTC) - _DAY
    end = datetime(window.end.year, window.end.month, window.end.day, tzinfo=UTC) + 2 * _DAY
    return begin, end


async def _changes(site: _Site, collection: str, window: Window) -> AsyncIterator[Page]:
    state = site.connection.state
    cursor_key, since_key = f"{collection}_modified", f"{collection}_since"
    begin, end = _bounds(window)
    cursor, since = state.get(cursor_key), state.get(since_key)
    is_covered = (
        isinstance(cursor, int)
        and isinstance(since, str)
        and date.fromisoformat(since) <= window.start
    )
    if is_covered:
        begin = max(begin, window.now - _REREAD)
    newest = 0
    if begin < end:
        async for page in _search(site, collection, begin, end):
            newest = max([newest, *(_modified_ms(item) for item in split_items(page.body))])
            yield page
    if not isinstance(cursor, int):
        # Nothing was searched after this, so nothing before it can be missing.
        settled = _milliseconds(window.now - _SETTLED)
        state[cursor_key] = min(newest, settled) or min(_milliseconds(begin), settled)
        state[since_key] = window.start.isoformat()
        return
    if not is_covered:
        earlier = [window.start.isoformat(), *([since] if isinstance(since, str) else [])]
        state[since_key] = min(earlier)
    async for page, reached in _history(site, collection, cursor):
        yield page
        state[cursor_key] = reached


async def _search(
    site: _Site, collection: str, begin: datetime, end: datetime
) -> AsyncIterator[Page]:
    # Treatments written through v1 have no `date`; both APIs keep `created_at`.
    if collection == "entries":
        field, bounds = "date", (str(_milliseconds(begin)), str(_milliseconds(end)))
    else:
        field, bounds = "created_at", (_iso(begin), _iso(end))
    for number in range(_MAX_PAGES):
        answer = await site.get(
            f"/api/v3/{collection}",
            {
                f"{field}$gte": bounds[0],
                f"{field}$lt": bounds[1],
                "sort": field,
                "limit": PAGE_SIZE,
                "skip": number * PAGE_SIZE,
            },
        )
        items = split_items(answer.body)
        if items:
            yield _page(site, collection, answer)
        if len(items) < PAGE_SIZE:
            return
    raise _endless(collection)


async def _history(site: _Site, collection: str, cursor: int) -> AsyncIterator[tuple[Page, int]]:
    """Pages of changes after `cursor`, each with the cursor that is safe once it is stored."""
    for _ in range(_MAX_PAGES):
        answer = await site.get(f"/api/v3/{collection}/history/{cursor}", {"limit": PAGE_SIZE})
        items = split_items(answer.body)
        if not items:
            return
        reached = max(_modified_ms(item) for item in items)
        is_full = len(items) >= PAGE_SIZE
        # The cursor is exclusive: documents changed in the last millisecond of a full page may
        # not all have been in it.
        following = reached - 1 if is_full else reached
        if following <= cursor:
            raise BadPayloadError(
                f"nightscout: {collection}: the history repeats itself instead of going on;"
                " is the site's database in order?"
            )
        yield _page(site, collection, answer), following
        if not is_full:
            return
        cursor = following
    raise _endless(collection)


async def _window_v1(site: _Site, collection: str, window: Window) -> AsyncIterator[Page]:
    begin, end = _bounds(window)
    if begin < window.now <= end:
        begin = min(begin, window.now - _REREAD)
    if collection == "entries":
        field, first, upper = "date", str(_milliseconds(begin)), str(_milliseconds(end))
    else:
        field, first, upper = "created_at", _iso(begin), _iso(end)
    operator = "$lt"
    for _ in range(_MAX_PAGES):
        answer = await site.get(
            f"/api/v1/{collection}.json",
            {
                f"find[{field}][$gte]": first,
                f"find[{field}][{operator}]": upper,
                "count": PAGE_SIZE,
            },
        )
        items = split_items(answer.body)
        if items:
            yield _page(site, collection, answer)
        if len(items) < PAGE_SIZE:
            return
        # Newest first; the oldest instant is asked for again, its documents may go on.
        dates = [str(item_fields(item).get(field) or upper) for item in items]
        # Milliseconds are compared as numbers, ISO times as the strings the server compares.
        oldest = min(dates, key=lambda text: (_number(text) or 0, text))
        if (_number(oldest) or 0, oldest) >= (_number(upper) or 0, upper):
            raise BadPayloadError(
                f"nightscout: {collection}: more than {PAGE_SIZE} documents of one instant,"
                " or the site ignores the dates asked for"
            )
        upper, operator = oldest, "$lte"
    raise _endless(collection)


def _endless(collection: str) -> BadPayloadError:
    return BadPayloadError(f"nightscout: {collection}: more than {_MAX_PAGES} pages; ask for less")


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _iso(at: datetime) -> str:
    # v1 compares strings; this is the form the server stores.
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


# --- answers → records


class _V3Page(msgspec.Struct):
    result: list[msgspec.Raw]


class _Lone(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw()


def split_items(body: bytes) -> list[msgspec.Raw]:
    """Documents of an answer: a list (v1, early v3), or a list under `result` (v3)."""
    what = "nightscout: reading documents"
    if body.lstrip()[:1] == b"[":
        return decode(body, list[msgspec.Raw], what)
    return decode(body, _V3Page, what).result


def _documents(page: Page) -> list[msgspec.Raw]:
    """Documents of a page; also those people cut out: one alone, with or without its `result`."""
    what = "nightscout: reading documents"
    if page.body.lstrip()[:1] == b"[":
        return split_items(page.body)
    answer = decode(page.body, _Lone, what)
    if bytes(answer.result).startswith(b"["):
        return split_items(page.body)
    item = answer.result if bytes(answer.result) else msgspec.Raw(page.body.strip())
    if _kind(item_fields(item)) not in _COLLECTIONS:
        raise BadPayloadError(f"{what}: the answer is no list of {page.resource}")
    return [item]


def _modified_ms(item: msgspec.Raw) -> int:
    return _number(item_fields(item).get("srvModified")) or 0


def _number(value: object) -> int | None:
    """A whole number, in quotes or not."""
    if isinstance(value, bool):
        return None
    try:
        return int(float(value)) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None


def _instant(milliseconds: int | None) -> datetime | None:
    if milliseconds is None or not OLDEST_MS <= milliseconds < _NEWEST_MS:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _split_entries(page: Page) -> Iterator[Record]:
    for item in _documents(page):
        fields = item_fields(item)
        yield _record(
            page,
            item,
            fields,
            _entry_id(fields),
            _instant(_number(fields.get("date"))),
            fields.get("dateString"),
        )


def _entry_id(fields: Mapping[str, object]) -> str | None:
    kind = fields.get("type")
    if fields.get("identifier"):
        return str(fields["identifier"])
    if fields.get("sysTime"):
        return f"{fields['sysTime']}/{kind}"
    if fields.get("date"):
        return f"{fields['date']}/{kind}/{fields.get('device')}"
    return None


def _split_treatments(page: Page) -> Iterator[Record]:
    for item in _documents(page):
        fields = item_fields(item)
        milliseconds = _number(fields.get("date")) or _number(fields.get("mills"))
        created_at = fields.get("created_at")
        yield _record(
            page,
            item,
            fields,
            _treatment_id(fields),
            _instant(milliseconds) if milliseconds else _parse_iso(created_at),
            created_at,
        )


def _treatment_id(fields: Mapping[str, object]) -> str | None:
    if fields.get("identifier"):
        return str(fields["identifier"])
    if not fields.get("created_at"):
        return None
    # Two pumps may deliver the same kind of dose in the same second.
    parts = [fields["created_at"], fields.get("eventType")]
    parts += [fields[name] for name in ("pumpSerial", "pumpId") if fields.get(name) is not None]
    return "/".join(str(part) for part in parts)


def _parse_iso(value: object) -> datetime | None:
    """An instant from ISO 8601 with an offset. None without one: then nobody knows when it was."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    # Years near the ends of the calendar have no UTC to be moved to.
    if at.tzinfo is None or not 2000 <= at.year < 2100:
        return None
    return at.astimezone(UTC)


def _record(
    page: Page,
    item: msgspec.Raw,
    fields: Mapping[str, object],
    record_id: str | None,
    at: datetime | None,
    written_at: object,
) -> Record:
    zone = zone_of(page)
    modified = _instant(_number(fields.get("srvModified")))
    if at is None:
        local_date = local_date_of(page.fetched_at, zone)
    else:
        offset = _offset(fields.get("utcOffset"), written_at, has_zone=zone is not None)
        local_date = local_date_of(at, zone) if offset is None else (at + offset).date()
    return Record(
        page.resource,
        record_id or content_id(bytes(item)),
        bytes(item),
        local_date,
        {"timezone": zone} if zone else {},
        provider_updated_at=modified,
        is_deleted=fields.get("isValid") is False,
    )


_OWN_OFFSET = re.compile(r"T.*([+-])(\d{2}):?(\d{2})$")


def _offset(stated: object, written_at: object, *, has_zone: bool) -> timedelta | None:
    """Offset the document itself gives; None when the person's zone, or nobody, has to say."""
    minutes = _number(stated)
    if minutes is not None and abs(minutes) > _LARGEST_OFFSET_MINUTES:
        minutes = None
    if minutes:
        return timedelta(minutes=minutes)
    match = _OWN_OFFSET.search(written_at) if isinstance(written_at, str) else None
    if match is not None:
        own = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return -own if match[1] == "-" else own
    return timedelta() if minutes == 0 and not has_zone else None


# --- bodies of unknown origin

_ENTRY_TYPES = frozenset({"sgv", "mbg", "cal"})
_ENTRY_TIMES = ("date", "dateString", "sysTime")
_TREATMENT_TIMES = ("created_at", "date", "mills", "timestamp")
_TREATMENT_PARTS = ("carbs", "insulin", "protein", "fat", "glucoseType", "notes", "duration")
# What else is saved next to entries and treatments, by keys it alone has; the first match counts.
_OTHERS: tuple[tuple[frozenset[str], str], ...] = tuple(
    (frozenset(keys.split()), what)
    for keys, what in (
        ("store defaultProfile", "a Nightscout profile"),
        ("openaps", "a device status"),
        ("loop", "a device status"),
        ("pump", "a device status"),
        ("uploader", "a device status"),
        ("uploaderBattery", "a device status"),
        ("apiEnabled", "the status of a site"),
        ("apiPermissions", "the status of a site"),
        ("collections srvDate", "a list of last changes"),
        ("version apiVersion", "the version of a site"),
        ("_type timestamp", "the pump history of a loop"),
        ("iob activity", "insulin on board as a loop computes it"),
        ("eventualBG", "the suggestion of a loop"),
        ("predBGs", "the suggestion of a loop"),
        ("mealCOB", "meal data of a loop"),
        ("basalprofile", "the profile of a loop"),
        ("isfProfile", "the profile of a loop"),
        ("carb_ratios", "the profile of a loop"),
        ("minutes rate start", "the basal profile of a loop"),
        ("temp rate duration", "the temporary basal rate of a loop"),
        ("ratio", "the sensitivity ratio of a loop"),
    )
)


def _kind(document: object) -> str | None:
    """`entries`, `treatments`, what else the document is in words, or None."""
    if not isinstance(document, dict):
        return None
    if "eventType" in document:
        return "treatments"
    kind = str(document.get("type"))
    has_value = "sgv" in document or "mbg" in document
    if (has_value or kind in _ENTRY_TYPES) and any(name in document for name in _ENTRY_TIMES):
        return "entries"
    for keys, what in _OTHERS:
        if keys <= document.keys():
            return what
    if kind in ("food", "quickpick"):
        return "a list of foods"
    is_dated = any(name in document for name in _TREATMENT_TIMES)
    if is_dated and any(name in document for name in _TREATMENT_PARTS):
        return "treatments"
    return None


def _kinds(answer: object) -> set[str]:
    """Kinds of the documents of an answer of unknown origin."""
    if isinstance(answer, dict) and "result" in answer:
        answer = answer["result"]
    documents = answer if isinstance(answer, list) else [answer]
    return {kind for kind in map(_kind, documents) if kind is not None}


def _recognise(collection: str, answer: object) -> bool:
    found = answer.get("result") if isinstance(answer, dict) else answer
    # An empty answer is one of either collection.
    return found == [] or _kinds(answer) & {*_COLLECTIONS} == {collection}


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer or a file without readings."""
    what = "nightscout: reading the answer"
    answer = decode_any(body)
    if isinstance(answer, str) and _parse_iso(answer) is not None:
        raise BadPayloadError(f"{what}: it looks like the clock of a loop: it carries no readings")
    kinds = _kinds(answer)
    if kinds & {*_COLLECTIONS}:
        return
    status = answer.get("status") if isinstance(answer, dict) else None
    if isinstance(status, int):
        _explain_status(status, what)
    if kinds:
        raise BadPayloadError(
            f"{what}: it looks like {' and '.join(sorted(kinds))}: it carries no readings"
        )


def _explain_status(status: int, what: str) -> None:
    if status in (401, 403):
        raise NotConnectedError(
            f"{what}: the site refuses the API secret or token; check it and connect again"
        )
    if status == 429:
        raise RateLimitedError(f"{what}: the site asked to slow down")
    if status == 408 or status >= 500:
        raise TransientError(f"{what}: the site failed (HTTP {status})")
    if status >= 400:
        raise BadPayloadError(f"{what}: the site refused (HTTP {status}): it carries no readings")


# --- records → samples


def _with_times(frame: pl.DataFrame, instant: pl.Expr, written_at: str) -> pl.DataFrame:
    """`frame` with the four time columns; the same rules as `_offset`."""
    stated = pl.col("utcOffset")
    stated = pl.when(stated.abs() <= _LARGEST_OFFSET_MINUTES).then(stated)
    # Step by step: what is used twice in one call is computed twice.
    frame = frame.with_columns(
        instant.alias("timestamp"), pl.when(stated != 0).then(stated).alias(_MINUTES)
    )
    zoned: pl.Series | None = None
    if frame[_MINUTES].null_count():
        zoned = wall_clock(frame, pl.col("timestamp"), "context.timezone")
        frame = frame.with_columns(
            pl.coalesce(
                _MINUTES,
                _minutes_in(pl.col(written_at)),
                pl.when((stated == 0) & zoned.is_null()).then(0),
            )
        )
    minutes = pl.col(_MINUTES)
    wall = pl.col("timestamp").dt.replace_time_zone(None)
    by_offset = wall + pl.duration(minutes=minutes, time_unit="us")
    if zoned is None:
        zoned = pl.repeat(None, frame.height, dtype=LOCAL, eager=True)
    return frame.with_columns(
        pl.coalesce(by_offset, zoned).cast(LOCAL).alias("local_timestamp"),
        pl.when(minutes.is_null() & zoned.is_not_null())
        .then(pl.col("context.timezone"))
        .alias("timezone"),
        pl.when(minutes.is_not_null())
        .then(pl.lit("provider"))
        .when(zoned.is_not_null())
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    ).drop(_MINUTES)


_MINUTES = "minutes\x00"


def _minutes_in(text: pl.Expr) -> pl.Expr:
    """The offset a time is written with, in minutes; null without one."""
    parts = text.str.extract_groups(_OWN_OFFSET.pattern).struct
    minutes = parts.field("2").cast(pl.Int64, strict=False) * 60 + parts.field("3").cast(
        pl.Int64, strict=False
    )
    return minutes * pl.when(parts.field("1") == "-").then(-1).otherwise(1)


def _from_milliseconds(column: str) -> pl.Expr:
    # What is before 2000 is left to the rule that says so.
    valid = pl.col(column).is_between(0, _NEWEST_MS, closed="left")
    return (
        pl.from_epoch(pl.when(valid).then(pl.col(column)), "ms")
        .cast(LOCAL)
        .dt.replace_time_zone("UTC")
    )


def _from_iso(column: str) -> pl.Expr:
    """Instants from ISO 8601 with an offset; null without one."""
    text = pl.col(column)
    bare = text.str.replace(r"(Z|[+-]\d{2}:?\d{2})$", "")
    wall = bare.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us")
    minutes = pl.when(text.str.ends_with("Z")).then(0).otherwise(_minutes_in(text))
    return (wall - pl.duration(minutes=minutes, time_unit="us")).dt.replace_time_zone("UTC")


def _prepare_entries(frame: pl.DataFrame) -> pl.DataFrame:
    return _with_times(frame, _from_milliseconds("date"), "dateString")


def _prepare_treatments(frame: pl.DataFrame) -> pl.DataFrame:
    given = pl.coalesce("date", "mills")
    instant = (
        pl.when(given.is_null())
        .then(_from_iso("created_at"))
        .otherwise(pl.coalesce(_from_milliseconds("date"), _from_milliseconds("mills")))
    )
    return _with_times(frame, instant, "created_at")


# Seven classes into five: Nightscout splits what the canonical arrow calls quickly.
DIRECTIONS: Mapping[str, str] = {
    "TripleDown": "falling_quickly",
    "DoubleDown": "falling_quickly",
    "SingleDown": "falling_quickly",
    "FortyFiveDown": "falling",
    "Flat": "flat",
    "FortyFiveUp": "rising",
    "SingleUp": "rising_quickly",
    "DoubleUp": "rising_quickly",
    "TripleUp": "rising_quickly",
}

_GLUCOSE = "glucose_blood_glucose_samples"
_MEASUREMENTS = "measurements_measurements"
_TIMES: Mapping[str, pl.Expr] = {
    "timestamp": pl.col("timestamp"),
    "local_timestamp": pl.col("local_timestamp"),
}


# Without a word on the unit, entries are in mg/dL.
_ENTRY_UNIT = (
    pl.when(pl.col("units").str.to_lowercase().str.contains("mmol").fill_null(value=False))
    .then(pl.lit("mmol/L"))
    .otherwise(pl.lit("mg/dL"))
)
# Some uploaders leave the type out.
_TYPE = (
    pl.when(pl.col("type").is_not_null())
    .then(pl.col("type"))
    .when(pl.col("sgv").is_not_null())
    .then(pl.lit("sgv"))
    .when(pl.col("mbg").is_not_null())
    .then(pl.lit("mbg"))
)
_IS_SGV = (_TYPE == "sgv").fill_null(value=False)
_IS_MBG = (_TYPE == "mbg").fill_null(value=False)
# Receivers report faults as tiny values: 5 is "no signal", 10 is "???".
_IS_FAULT = (_ENTRY_UNIT == "mg/dL") & (pl.col("sgv") < 39)
_SENSOR_VALUE = pl.when(~_IS_FAULT).then(pl.col("sgv"))
_DIRECTION = written("direction")

_ENTRIES = Resource(
    name="entries",
    recognise=partial(_recognise, "entries"),
    wire={
        "type": pl.String(),
        "date": pl.Int64(),
        "dateString": pl.String(),
        "utcOffset": pl.Float64(),
        "sgv": pl.Float64(),
        "mbg": pl.Float64(),
        "units": pl.String(),
        "direction": pl.String(),
        "device": pl.String(),
    },
    split=_split_entries,
    prepare=_prepare_entries,
    tables=(
        Samples(
            "body",
            _GLUCOSE,
            {
                **_TIMES,
                "blood_glucose_mg_per_dl": glucose_in_mg(_SENSOR_VALUE, _ENTRY_UNIT),
                "trend_arrow": pl.when(_DIRECTION.is_not_null()).then(
                    _DIRECTION.replace_strict(
                        dict(DIRECTIONS), default="unknown", return_dtype=pl.String
                    )
                ),
                "native_value": _SENSOR_VALUE,
                "native_unit": pl.when(~_IS_FAULT).then(_ENTRY_UNIT),
                "sample_kind": pl.lit("cgm"),
                "native_trend": _DIRECTION,
                "sensor_status": pl.when(_IS_FAULT).then(
                    pl.lit("error:") + pl.col("sgv").cast(pl.Int64, strict=False).cast(pl.String)
                ),
                "device_id": written("device"),
            },
            where=_IS_SGV,
        ),
        Samples(
            "body",
            _GLUCOSE,
            {
                **_TIMES,
                "blood_glucose_mg_per_dl": glucose_in_mg(pl.col("mbg"), _ENTRY_UNIT),
                "native_value": pl.col("mbg"),
                "native_unit": _ENTRY_UNIT,
                "sample_kind": pl.lit("fingerstick"),
                "device_id": written("device"),
            },
            where=_IS_MBG,
        ),
    ),
    rejects=(
        Reject("date: missing or before 2000", pl.col("timestamp").is_null()),
        Reject("no glucose value", _IS_SGV & pl.col("sgv").is_null()),
        Reject("no glucose value", _IS_MBG & pl.col("mbg").is_null()),
    ),
    context_wire={"timezone": pl.String()},
    ignored=frozenset(
        {
            *("_id", "identifier", "sysTime", "app", "subject", "modifiedBy", "isReadOnly"),
            *("srvModified", "srvCreated", "isValid", "noise", "delta", "rssi"),
            *("filtered", "unfiltered", "glucose", "slope", "intercept", "scale"),
        }
    ),
    evidence="recorded",
)

_UNITS = pl.col("units").str.to_lowercase()
_METER_UNIT = (
    pl.when(_UNITS.str.contains("mmol"))
    .then(pl.lit("mmol/L"))
    .when(_UNITS.str.contains("mg"))
    .then(pl.lit("mg/dL"))
)
_METER_KIND = (
    pl.col("glucoseType")
    .str.to_lowercase()
    .replace_strict(
        {"finger": "fingerstick", "manual": "manual"}, default=None, return_dtype=pl.String
    )
)
_HAS_MEAL = pl.any_horizontal(
    (pl.col(name) > 0).fill_null(value=False) for name in ("carbs", "protein", "fat")
)
_HAS_INSULIN = (pl.col("insulin") > 0).fill_null(value=False)
_NOTES = written("notes")

_TREATMENTS = Resource(
    name="treatments",
    recognise=partial(_recognise, "treatments"),
    wire={
        "eventType": pl.String(),
        "created_at": pl.String(),
        "date": pl.Int64(),
        "mills": pl.Int64(),
        "utcOffset": pl.Float64(),
        "carbs": pl.Float64(),
        "protein": pl.Float64(),
        "fat": pl.Float64(),
        "insulin": pl.Float64(),
        "glucose": pl.Float64(),
        "glucoseType": pl.String(),
        "units": pl.String(),
        "notes": pl.String(),
        "pumpSerial": pl.String(),
    },
    split=_split_treatments,
    prepare=_prepare_treatments,
    tables=(
        Samples(
            "body",
            _GLUCOSE,
            {
                **_TIMES,
                "blood_glucose_mg_per_dl": glucose_in_mg(pl.col("glucose"), _METER_UNIT),
                "native_value": pl.col("glucose"),
                "native_unit": _METER_UNIT,
                "sample_kind": _METER_KIND,
            },
            # Sensor values in treatments repeat an entry; without a unit a number means nothing.
            where=_METER_KIND.is_not_null()
            & _METER_UNIT.is_not_null()
            & pl.col("glucose").is_not_null(),
        ),
        Samples(
            "body",
            _MEASUREMENTS,
            {
                "measurement_time": pl.col("timestamp"),
                "local_measurement_time": pl.col("local_timestamp"),
                "insulin_units": pl.when(_HAS_INSULIN).then(pl.col("insulin")),
                "user_notes": pl.when(~_HAS_MEAL).then(_NOTES),
                "device_id": written("pumpSerial"),
            },
            where=_HAS_INSULIN | (_NOTES.is_not_null() & ~_HAS_MEAL),
        ),
        Samples(
            "nutrition",
            "meals",
            {
                "id": pl.col("record_id"),
                "name": _NOTES,
                **_TIMES,
                "type": pl.lit("unknown"),
                "quantity_unit": pl.lit("unknown"),
                "macros_carbohydrates_g": pl.col("carbs"),
                "macros_protein_g": pl.col("protein"),
                "macros_fat_g": pl.col("fat"),
            },
            where=_HAS_MEAL,
        ),
    ),
    context_wire={"timezone": pl.String()},
    ignored=frozenset(
        {
            *("_id", "identifier", "app", "subject", "modifiedBy", "isReadOnly", "enteredBy"),
            *("srvModified", "srvCreated", "isValid", "device", "timestamp", "duration"),
            *("absolute", "rate", "percent", "profile", "reason", "targetTop", "targetBottom"),
            *("preBolus", "splitNow", "splitExt", "pumpId", "pumpType", "isSMB", "type"),
        }
    ),
    evidence="project-fixture",
)

PROVIDER = Provider(
    name="nightscout",
    title="Nightscout",
    client_name="NIGHTSCOUT",
    summary="Glucose, meals, insulin and finger sticks from a self-hosted Nightscout site.",
    freshness="As soon as the site has a reading, seconds after its uploader.",
    docs_url="https://nightscout.github.io",
    resources=(_ENTRIES, _TREATMENTS),
    credentials=(
        CredentialField("base_url", "Address of the site, https://…", is_secret=False),
        CredentialField(
            "token", "Access token of a subject with the role readable.", is_required=False
        ),
        CredentialField(
            "api_secret", "API secret of the site, when there is no token.", is_required=False
        ),
    ),
    connect=connect,
    fetch=fetch,
    explain=explain,
    poll_interval=timedelta(minutes=5),
    open_days=3,
    sample_step=timedelta(minutes=5),
)
