"""Keto-Mojo: blood glucose, ketones and their index (GKI) of its meters, kept at MyMojoHealth.

https://keto-mojo.github.io/MyMojoHealth-public-docs/

No answer of the API has been seen: this follows what its clients send and read. Meters keep readings
until a phone comes near, so days are read again. One reading is a person's value of a type at a time,
from one meter: that is how the service itself tells doubles apart. The index is taken as it was sent and
never computed; hemoglobin, hematocrit and the ratio `dbr` have no column and stay in raw. A value whose
unit nobody tells, as in files, is kept as written and not converted.

A reading that came from the API and in a file is one where both tell the same time. The app's files tell
minutes: what the API knows to the second shows twice beside them. Import what the API does not have.

Nobody says how an account is named. Where the token answer does not, connecting again makes another user, and
two people are never taken for one.

Nobody says how a list goes on after `page_size` readings: a part of the time that fills a page is asked
for in halves.
"""

import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import BinaryIO

import msgspec
import polars as pl

from wearable_pipeline.errors import BadPayloadError, NotConnectedError
from wearable_pipeline.model import units
from wearable_pipeline.model.columns import INSTANT, LOCAL
from wearable_pipeline.model.time import parse_pair
from wearable_pipeline.providers import _keto_mojo_export as export
from wearable_pipeline.providers._contract import (
    Client,
    Connection,
    Identity,
    Importer,
    ImportOptions,
    OAuth,
    Page,
    Provider,
    Record,
    Reject,
    Resource,
    Samples,
    Scalars,
    Window,
)
from wearable_pipeline.providers._libreview import local_time
from wearable_pipeline.providers._local_time import (
    find_zone,
    in_years,
    instant_of,
    local_date_of,
    read_instant,
    wall_clock,
    zone_of,
)
from wearable_pipeline.providers._split import (
    content_id,
    decode,
    decode_any,
    is_web_page,
    item_fields,
)
from wearable_pipeline.providers._values import written
from wearable_pipeline.providers._windows import instants_around

_READINGS = "/api/v1/readings"
_PAGE = 100
# Nobody takes a hundred readings in so short a time: then the dates asked for count for nothing.
_SHORTEST = timedelta(hours=1)

# --- talking to MyMojoHealth

# Where a token answer may name the person; nothing is documented.
_PERSON = ("user_id", "userId", "sub", "id", "uuid")


async def identify(client: Client, granted: Mapping[str, object]) -> Identity:
    """Whose readings they are, where the token answer says so; having seen that they may be read.

    Without a name the connection is a person of its own: two people must never be taken for one.
    """
    answer = await client.request("GET", _READINGS, params={"page_size": 1}, accept=(200, 401, 403))
    if answer.status != 200:
        raise NotConnectedError(
            "keto_mojo: the permission to read readings was not given: start connecting again"
        )
    user = granted.get("user")
    places = [granted, *([user] if isinstance(user, Mapping) else [])]
    named = [place[name] for place in places for name in _PERSON if place.get(name)]
    return Identity(account_id=str(named[0]) if named else str(uuid.uuid4()))


def _read_status(status: int, _body: bytes) -> int:
    # A token that has ended is answered with either.
    return 401 if status == 403 else status


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield the readings of the window, newest first, in parts that are not cut off."""
    waiting = [instants_around(window)]
    while waiting:
        begin, end = waiting.pop()
        answer = await client.request(
            "GET",
            _READINGS,
            params={
                "from_date": _as_utc(begin),
                "to_date": _as_utc(end),
                "page_size": _PAGE,
                "scroll": "true",
            },
        )
        # More than were asked for are all there are; so many may be the first of more.
        if len(_items(answer.body)) != _PAGE:
            yield Page(
                "readings", answer.body, answer.fetched_at, {"timezone": connection.timezone}
            )
        elif end - begin <= _SHORTEST:
            raise BadPayloadError("keto_mojo: reading readings: each part of a day fills a page")
        else:
            middle = begin + (end - begin) // 2
            waiting += [(begin, middle), (middle, end)]


def _as_utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"


# --- answers → records


class _Envelope(msgspec.Struct):
    readings: list[msgspec.Raw] | None = None
    data: list[msgspec.Raw] | None = None


def _items(body: bytes) -> list[msgspec.Raw]:
    """Readings of a list, of a list in an object, or the one the body is."""
    what = "keto_mojo: reading readings"
    text = body.strip()
    if text[:1] != b"{":
        return decode(text, list[msgspec.Raw], what)
    if _is_reading(decode_any(text)):
        return [msgspec.Raw(text)]
    found = decode(text, _Envelope, what)
    items = found.readings if found.readings is not None else found.data
    if items is None:
        raise BadPayloadError(f"{what}: no list of readings in the answer")
    return items


def _split(page: Page) -> Iterator[Record]:
    zone = zone_of(page)
    items = _items(page.body)
    found = [item_fields(item) for item in items]
    moments = _moments([_texts(fields) for fields in found], zone, None)
    keys = [
        _identity(fields, at.key) or content_id(bytes(item))
        for item, fields, at in zip(items, found, moments, strict=True)
    ]
    places = _places(found, keys, [at.key for at in moments])
    for item, fields, at, key in zip(items, found, moments, keys, strict=True):
        context: dict[str, object] = {"timezone": zone} if zone else {}
        if places[key] > 1:
            context["occurrence"] = places[key]
        yield Record(
            page.resource,
            key,
            bytes(item),
            at.day or local_date_of(page.fetched_at, zone),
            context,
            provider_updated_at=read_instant(fields.get("client_updated_at")),
        )


def _texts(fields: Mapping[str, object]) -> dict[str, str | None]:
    return {
        name: str(fields[name]) if isinstance(fields.get(name), str | int | float) else None
        for name in _TIMES
    }


class _Moment(msgspec.Struct, frozen=True):
    """When a reading was taken: what tells it from others, and the local date."""

    key: str | None
    day: date | None


def _moments(
    found: Sequence[Mapping[str, str | None]], zone: str | None, order: str | None
) -> list[_Moment]:
    """The moment of each reading, by the rule of `_prepare`."""
    frame = pl.DataFrame(
        [{**one, "context.timezone": zone, "context.date_order": order} for one in found],
        schema=dict.fromkeys((*_TIMES, "context.timezone", "context.date_order"), pl.String),
    )
    return [
        _Moment(
            instant.isoformat() if instant else local.isoformat() if local else None,
            (local or instant).date() if local or instant else None,
        )
        for instant, local in _prepare(frame).select("timestamp", "local_timestamp").iter_rows()
    ]


def _identity(fields: Mapping[str, object], moment: str | None) -> str | None:
    """Type and time of a reading with a mark of its value and meter; None without a time."""
    if moment is None:
        return None
    said = f"{_number(fields.get('reading_value'))}/{fields.get('serial_number') or ''}"
    mark = hashlib.sha256(said.encode()).hexdigest()[:12]
    return f"{_plain(fields.get('reading_type'))}/{moment}/{mark}"


def _plain(kind: object) -> str:
    return str(kind or "").strip().lower().replace(" ", "_")


def _number(value: object) -> float | str:
    try:
        return float(str(value))
    except ValueError:
        return str(value)


def _places(
    found: Sequence[Mapping[str, object]], keys: Sequence[str], moments: Sequence[str | None]
) -> dict[str, int]:
    """Of readings of one type and time on one meter which is which, by their values: 1 for the lowest."""
    places = dict.fromkeys(keys, 1)
    alike: dict[tuple[object, ...], dict[str, float]] = {}
    for fields, key, moment in zip(found, keys, moments, strict=True):
        number = _number(fields.get("reading_value"))
        if moment is not None and isinstance(number, float):
            group = (_plain(fields.get("reading_type")), moment, str(fields.get("serial_number")))
            alike.setdefault(group, {})[key] = number
    for several in alike.values():
        places |= {key: n for n, key in enumerate(sorted(several, key=several.__getitem__), 1)}
    return places


# --- files → records


def _read_export(
    read: Callable[[BinaryIO, ImportOptions], export.Table],
) -> Callable[[BinaryIO, ImportOptions], Iterator[list[Record]]]:
    def records(stream: BinaryIO, options: ImportOptions) -> Iterator[list[Record]]:
        yield from export.in_batches(_records_of(read(stream, options), options))

    return records


def _records_of(table: export.Table, options: ImportOptions) -> list[Record]:
    found = [line.fields for line in table.lines]
    order = options.date_order or "mdy"
    moments = _moments([_texts(one) for one in found], options.timezone, order)
    days = [at.day for at in moments if at.day is not None]
    if not days:
        raise BadPayloadError("keto_mojo: not imported: no line has a time that can be read")
    other = "dmy" if order == "mdy" else "mdy"
    swapped = _moments([_texts(one) for one in found], options.timezone, other)
    # As it is written: read in another order or zone, a line is still the same.
    written = [
        one.get("reading_timestamp") or f"{one.get('date', '')} {one.get('time', '')}"
        for one in found
    ]
    keys = [str(_identity(one, text)) for one, text in zip(found, written, strict=True)]
    places = _places(found, keys, written)
    context = {
        "header": table.header,
        "delimiter": table.delimiter,
        "date_order": order,
        **({"timezone": options.timezone} if options.timezone else {}),
    }
    return [
        Record(
            "export",
            key,
            line.body,
            at.day or max(days),
            {**context, "occurrence": places[key]} if places[key] > 1 else context,
            is_context_content=True,
            former_date=before.day if before.day != at.day else None,
        )
        for line, key, at, before in zip(table.lines, keys, moments, swapped, strict=True)
    ]


# --- bodies of unknown origin


def _is_reading(one: object) -> bool:
    return isinstance(one, dict) and one.keys() >= {
        "reading_type",
        "reading_value",
        "reading_timestamp",
    }


def _recognise(answer: object) -> bool:
    found = answer
    if isinstance(answer, dict) and not _is_reading(answer):
        found = next((answer[name] for name in ("readings", "data") if name in answer), None)
    elif isinstance(answer, dict):
        found = [answer]
    return isinstance(found, list) and bool(found) and all(_is_reading(one) for one in found)


def explain(body: bytes) -> None:
    """Raise what `body` means when it is a refusal."""
    what = "keto_mojo: reading the answer"
    if is_web_page(body):
        raise BadPayloadError(f"{what}: it is a web page instead of JSON")
    answer = decode_any(body)
    if not isinstance(answer, dict) or not answer.get("error"):
        return
    if answer["error"] in ("invalid_grant", "invalid_token", "unauthorized"):
        raise NotConnectedError(f"{what}: the token is refused: connect this user again")
    raise BadPayloadError(f"{what}: it is a refusal: it carries no readings")


# --- records → columns

_TIMES = ("reading_timestamp", "date", "time", "reading_timezone")
# A blank between date and time or before the offset, minutes without seconds, offsets without a colon.
_REWRITES = (
    (r"^(\d{4}-\d{2}-\d{2})\s+(\d)", "${1}T${2}"),
    (r"\s+(Z|[+-]\d{2}:?\d{2})$", "${1}"),
    (r"^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2})(Z|[+-]\d{2}:?\d{2})?$", "${1}:00${2}"),
    (r"(T.*[+-]\d{2})(\d{2})$", "${1}:${2}"),
)
_ZONE, _FOLD, _STAMP = "zone\x00", "fold\x00", "stamp\x00"


def _prepare(frame: pl.DataFrame) -> pl.DataFrame:
    """The four columns of time from ISO stamps, or from date and time as people write them."""
    absent = [name for name in (*_TIMES, "context.date_order") if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent)
    zones = [zone for zone in frame["reading_timezone"].unique() if find_zone(zone)]
    told_zone = pl.when(pl.col("reading_timezone").is_in(zones)).then("reading_timezone")
    stamp = pl.coalesce(
        pl.col("reading_timestamp").str.strip_chars(),
        pl.concat_str(
            pl.col("date").str.strip_chars(), pl.col("time").str.strip_chars(), separator=" "
        ),
    )
    iso = stamp
    for pattern, replacement in _REWRITES:
        iso = iso.str.replace(pattern, replacement)
    pair = parse_pair(iso)
    by_hand = local_time(stamp, pl.col("context.date_order"))
    frame = frame.with_columns(
        in_years(pair.timestamp).cast(INSTANT).alias("timestamp"),
        in_years(pl.coalesce(pair.local_timestamp, by_hand)).cast(LOCAL).alias("local_timestamp"),
        pl.coalesce(told_zone, "context.timezone").alias(_ZONE),
        pl.lit(None, pl.Int64).alias(_FOLD),
    ).with_columns(pl.when(pl.col("timestamp").is_null()).then("local_timestamp").alias(_STAMP))
    has_offset = pl.col("timestamp").is_not_null() & pl.col("local_timestamp").is_not_null()
    frame = frame.with_columns(has_offset.alias("told\x00")).with_columns(
        pl.coalesce("timestamp", instant_of(frame, _STAMP, _ZONE, _FOLD)).alias("timestamp"),
        pl.coalesce("local_timestamp", wall_clock(frame, pl.col("timestamp"), _ZONE)).alias(
            "local_timestamp"
        ),
    )
    is_whole = pl.col("timestamp").is_not_null() & pl.col("local_timestamp").is_not_null()
    by_zone = is_whole & ~pl.col("told\x00")
    return frame.with_columns(
        pl.when(by_zone).then(_ZONE).alias("timezone"),
        pl.when(pl.col("told\x00") | (by_zone & told_zone.is_not_null()))
        .then(pl.lit("provider"))
        .when(by_zone)
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    ).drop(_ZONE, _FOLD, _STAMP, "told\x00", *absent)


_TYPE = pl.col("reading_type").str.strip_chars().str.to_lowercase().str.replace_all(" ", "_")
_IS_GLUCOSE = _TYPE == "glucose"
_IS_KETONE = _TYPE.is_in(["ketone", "ketones"])
_IS_INDEX = _TYPE.is_in(["glucose_ketone_index", "gki"])
_KNOWN = ("glucose", "ketone", "ketones", "glucose_ketone_index", "gki")
# Read by nobody: no column means the same.
_LEFT = ("hemoglobin", "hematocrit", "dbr")
_VALUE = pl.col("reading_value")
_WORD = pl.col("reading_unit").str.to_lowercase().str.replace_all(r"[/\s]", "")
_HAS_UNIT = _WORD.fill_null("") != ""
_UNIT = _WORD.replace_strict(
    {"mgdl": "mg/dL", "mmoll": "mmol/L"}, default=None, return_dtype=pl.String
)


_METER = pl.coalesce(written("serial_number"), written("device_id"))
_OF_ITS_TIME: Mapping[str, pl.Expr] = {
    "device_id": _METER,
    "occurrence": pl.col("context.occurrence"),
}
_MEASURED: Mapping[str, pl.Expr] = {
    "measurement_time": pl.col("timestamp"),
    "local_measurement_time": pl.col("local_timestamp"),
    **_OF_ITS_TIME,
}
_TOLD_SAMPLE = (
    written("reading_sample_type")
    .str.to_lowercase()
    .replace_strict(
        {name: name for name in ("blood", "urine", "breath")}, default=None, return_dtype=pl.String
    )
)


def _tables(sample_type: pl.Expr) -> tuple[Samples | Scalars, ...]:
    return (
        Samples(
            "body",
            "glucose_blood_glucose_samples",
            {
                "blood_glucose_mg_per_dl": units.glucose_in_mg(_VALUE, _UNIT),
                "native_value": _VALUE,
                "native_unit": _UNIT,
                "sample_kind": pl.lit("fingerstick"),
                **_OF_ITS_TIME,
            },
            where=_IS_GLUCOSE,
        ),
        Samples(
            "body",
            "ketone_ketone_samples",
            {
                "ketone_mg_per_dl": units.ketone_in_mg(_VALUE, _UNIT),
                "sample_type": sample_type,
                "native_value": _VALUE,
                "native_unit": _UNIT,
                **_OF_ITS_TIME,
            },
            where=_IS_KETONE,
        ),
        Samples(
            "body",
            "measurements_measurements",
            {
                **_MEASURED,
                "native_value": _VALUE,
                # It has no unit; UCUM names such a quantity in braces.
                "native_unit": pl.lit("{glucose_ketone_index}"),
                "user_notes": written("notes"),
            },
            where=_IS_INDEX,
        ),
        Samples(
            "body",
            "measurements_measurements",
            {**_MEASURED, "user_notes": written("notes")},
            where=(_IS_GLUCOSE | _IS_KETONE) & written("notes").is_not_null(),
        ),
        Scalars(
            "body",
            {
                "device_manufacturer": pl.lit("Keto-Mojo"),
                "device_name": written("meter_type"),
                "device_serial_number": written("serial_number"),
            },
            where=_TYPE.is_in(_KNOWN),
        ),
    )


_REJECTS = (
    Reject("reading_type: missing", _TYPE.fill_null("") == ""),
    Reject("reading_type: not one we know", ~_TYPE.is_in([*_KNOWN, *_LEFT, ""])),
    Reject("reading_value: missing", _VALUE.is_null()),
    Reject(
        "reading_unit: neither mg/dL nor mmol/L",
        (_IS_GLUCOSE | _IS_KETONE) & _HAS_UNIT & _UNIT.is_null(),
    ),
    Reject(
        "reading_timestamp: no time",
        pl.coalesce(pl.col("timestamp").dt.replace_time_zone(None), "local_timestamp").is_null(),
    ),
)
_WIRE: Mapping[str, pl.DataType] = {
    "reading_type": pl.String(),
    "reading_value": pl.Float64(),
    "reading_unit": pl.String(),
    "reading_sample_type": pl.String(),
    "reading_timestamp": pl.String(),
    "reading_timezone": pl.String(),
    "meter_type": pl.String(),
    "serial_number": pl.String(),
    "device_id": pl.String(),
    "notes": pl.String(),
}
_IGNORED = frozenset(
    {
        *("reading_id", "source", "has_device_calculated_gki", "has_calculated_gki"),
        *("client_updated_at", "tags", "metadata_key"),
    }
)
_CONTEXT: Mapping[str, pl.DataType] = {"timezone": pl.String(), "occurrence": pl.Int64()}

_API = Resource(
    name="readings",
    recognise=_recognise,
    wire=_WIRE,
    split=_split,
    prepare=_prepare,
    tables=_tables(_TOLD_SAMPLE),
    rejects=_REJECTS,
    context_wire=_CONTEXT,
    ignored=_IGNORED,
    evidence="contract only",
)
_EXPORT_WIRE: Mapping[str, pl.DataType] = {**_WIRE, "date": pl.String(), "time": pl.String()}


def _split_export(page: Page) -> Iterator[Record]:
    raise BadPayloadError(f"keto_mojo: {page.resource}: comes from files, not from the API")


def _parse_export(raw: pl.DataFrame) -> pl.DataFrame:
    return export.parse_lines(raw, tuple(_EXPORT_WIRE))


_EXPORT = Resource(
    name="export",
    wire=_EXPORT_WIRE,
    split=_split_export,
    prepare=_prepare,
    # Files do not say what was measured of, and a file beside the API must name a reading as it does: these
    # meters take blood.
    tables=_tables(_TOLD_SAMPLE.fill_null("blood")),
    rejects=_REJECTS,
    context_wire={
        **_CONTEXT,
        "header": pl.String(),
        "delimiter": pl.String(),
        "date_order": pl.String(),
    },
    ignored=_IGNORED,
    media_type="text/csv",
    parse=_parse_export,
    list_fields=export.list_fields,
    evidence="contract only",
)

PROVIDER = Provider(
    name="keto_mojo",
    title="Keto-Mojo",
    client_name="KETOMOJO",
    summary="Blood glucose, ketones and the glucose ketone index of Keto-Mojo meters.",
    docs_url="https://keto-mojo.github.io/MyMojoHealth-public-docs/",
    resources=(_API, _EXPORT),
    fetch=fetch,
    explain=explain,
    importers=(
        Importer(
            "csv",
            "export",
            "Keto-Mojo CSV",
            export.recognise_csv,
            _read_export(export.read_csv),
        ),
        Importer(
            "xlsx",
            "export",
            "Keto-Mojo readings.xlsx",
            export.recognise_xlsx,
            _read_export(export.read_xlsx),
        ),
    ),
    oauth=OAuth(
        authorize_url="https://auth.us.mymojohealth.com/oauth/authorize",
        token_url="https://auth.us.mymojohealth.com/api/v1/oauth/token",  # noqa: S106 - an address
        revoke_url="https://auth.us.mymojohealth.com/api/v1/oauth/revoke",
        api_url="https://api.us.mymojohealth.com",
        identify=identify,
        scopes=("readings:retrieve", "users:profile:retrieve"),
        client_auth="basic",
        read_status=_read_status,
    ),
    freshness="Minutes after the meter was synced with its phone.",
    poll_interval=timedelta(minutes=15),
    open_days=7,
    # A meter keeps its readings until the phone comes near.
    refetch=timedelta(days=14),
    max_window=timedelta(days=30),
    # Nobody says what is allowed.
    requests_per_second=2.0,
    limit_scope="app",
)
