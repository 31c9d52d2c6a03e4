"""Dexcom: glucose, calibrations and entered events of its sensors, through API v3.

https://developer.dexcom.com/docs/dexcomv3/endpoint-overview

What phones measured appears an hour late in the US and three hours late elsewhere; what receivers hold,
when somebody plugs them in, weeks late perhaps. `dataRange` says from when on there is something new
since a given time: as far back as that is asked for again.

`systemTime` is UTC, written with or without a suffix. `displayTime` is what the display showed: phones
write its offset, receivers do not. There the difference of the two clocks is the offset, to the quarter
of an hour, as receivers drift. A value of 39 means below 40 and 401 above 400 mg/dL.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
import polars as pl

from wearable_pipeline.errors import BadPayloadError, NotConnectedError
from wearable_pipeline.model.time import parse_pair
from wearable_pipeline.model.units import glucose_in_mg
from wearable_pipeline.providers._contract import (
    Client,
    Connection,
    Cut,
    Identity,
    OAuth,
    Page,
    Provider,
    Record,
    Refusal,
    Reject,
    Resource,
    Samples,
    Scalars,
    Window,
)
from wearable_pipeline.providers._local_time import (
    in_years,
    local_date_of,
    read_time,
    wall_clock,
    zone_of,
)
from wearable_pipeline.providers._split import content_id, decode, decode_any, item_fields
from wearable_pipeline.providers._values import written
from wearable_pipeline.providers._windows import instants_around

_PATH = "/v3/users/self"
_DAY = timedelta(days=1)
# The provider takes no more at once; the windows of local days asked for are up to 26 hours longer.
LONGEST_QUERY = timedelta(days=30)
# New data are asked for from so long before the last fetch: what is new is told by the provider's clock.
_OVERLAP = timedelta(hours=1)

# --- talking to Dexcom


class _Moment(msgspec.Struct, rename="camel"):
    system_time: str | None = None


class _Range(msgspec.Struct):
    start: _Moment | None = None


class _DataRange(msgspec.Struct, rename="camel"):
    user_id: str
    calibrations: _Range | None = None
    egvs: _Range | None = None
    events: _Range | None = None


async def identify(client: Client, granted: Mapping[str, object]) -> Identity:
    """Whose sensor it is; Dexcom names people differently to every app."""
    return Identity(account_id=(await _data_range(client, None)).user_id)


async def _data_range(client: Client, since: str | None) -> _DataRange:
    params = {"lastSyncTime": since} if since else None
    answer = await client.request("GET", f"{_PATH}/dataRange", params=params)
    return decode(answer.body, _DataRange, "dexcom: reading what there is")


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield the records of the window, collection by collection, and what came late for days before."""
    begin, end = _bounds(window)
    begins = dict.fromkeys(_COLLECTIONS, begin)
    if window.end >= window.now.date() - _DAY:
        since = connection.state.get("synced_at")
        if isinstance(since, str):
            begins |= _earlier(await _data_range(client, since), begin)
        connection.state["synced_at"] = f"{window.now - _OVERLAP:%Y-%m-%dT%H:%M:%SZ}"
    for name in _COLLECTIONS:
        for first, last in _parts(begins[name], end):
            answer = await client.request(
                "GET",
                f"{_PATH}/{name}",
                params={"startDate": _as_utc(first), "endDate": _as_utc(last)},
            )
            yield Page(name, answer.body, answer.fetched_at, {"timezone": connection.timezone})


def _bounds(window: Window) -> tuple[datetime, datetime]:
    begin, end = instants_around(window)
    return begin, min(end, window.now + _DAY)


def _earlier(found: _DataRange, begin: datetime) -> dict[str, datetime]:
    """Where new data of a collection begin, for those where that is before `begin`."""
    ranges = {"egvs": found.egvs, "events": found.events, "calibrations": found.calibrations}
    starts = {
        name: _instant(one.start.system_time)
        for name, one in ranges.items()
        if one is not None and one.start is not None
    }
    return {name: at for name, at in starts.items() if at is not None and at < begin}


def _parts(begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The span in parts the provider takes, newest first."""
    while begin < end:
        first = max(begin, end - LONGEST_QUERY)
        yield first, end
        end = first


def _as_utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"


# --- answers → records


class _Answer(msgspec.Struct):
    records: list[msgspec.Raw]


def cut(page: Page) -> Cut:
    """Records of an answer, of a bare list, or the one the body is."""
    what = f"dexcom: reading {page.resource}"
    body = page.body.strip()
    if body[:1] == b"[":
        return Cut([bytes(item) for item in decode(body, list[msgspec.Raw], what)])
    answer = decode_any(body)
    if isinstance(answer, dict) and _kind(answer) == page.resource:
        return Cut([body])
    return Cut([bytes(item) for item in decode(body, _Answer, what).records])


def read(page: Page, found: Cut) -> Iterator[Record]:
    """Records of a page's items."""
    zone = zone_of(page)
    context: Mapping[str, object] = {"timezone": zone} if zone else {}
    for item in found.items:
        fields = item_fields(msgspec.Raw(item))
        at = _instant(fields.get("systemTime"))
        offset = _offset(at, fields.get("displayTime")) if at else None
        if at is None:
            day = local_date_of(page.fetched_at, zone)
        else:
            day = local_date_of(at, zone) if offset is None else (at + offset).date()
        named = fields.get("recordId")
        yield Record(
            page.resource,
            str(named) if named else content_id(item),
            item,
            day,
            context,
            is_deleted=fields.get("eventStatus") == "deleted",
        )


def _split(page: Page) -> Iterator[Record]:
    return read(page, cut(page))


# Years near the ends of the calendar have no other time zone to be moved to.
_WEST, _EAST = timedelta(hours=-12), timedelta(hours=14)
_QUARTER = timedelta(minutes=15)


def _instant(text: object) -> datetime | None:
    at = read_time(text)
    return at if at is None else (at.replace(tzinfo=at.tzinfo or UTC)).astimezone(UTC)


def _offset(instant: datetime, display: object) -> timedelta | None:
    """The offset of a display's clock; the same rule as `_prepare`."""
    at = read_time(display)
    if at is None:
        return None
    if at.tzinfo is not None and not str(display).endswith(("Z", "-00:00")):
        return at.utcoffset()
    ahead = at.replace(tzinfo=UTC) - instant
    offset = _QUARTER * ((ahead + _QUARTER / 2) // _QUARTER)
    return offset if _WEST <= offset <= _EAST else None


# --- bodies of unknown origin

_TYPES: Mapping[object, str] = {
    "egv": "egvs",
    "egvs": "egvs",
    "event": "events",
    "events": "events",
    "calibration": "calibrations",
    "calibrations": "calibrations",
}
_OTHER_TYPES: Mapping[object, str] = {
    "dataRange": "a range of data",
    "alert": "alerts",
    "alerts": "alerts",
    "device": "a list of devices",
    "devices": "a list of devices",
}


def _kind(record: object) -> str | None:
    """The collection a record is of, by the fields it alone has."""
    if not isinstance(record, dict) or "systemTime" not in record:
        return None
    if "eventType" in record:
        return "events"
    if "alertName" in record or "value" not in record:
        return None
    has_trend = any(name in record for name in ("trend", "trendRate", "rateUnit", "status"))
    return "egvs" if has_trend else "calibrations"


def _recognise(resource: str, answer: object) -> bool:
    records = answer
    if isinstance(answer, dict):
        records = answer.get("records", [answer])
        if "recordType" in answer:
            is_list = isinstance(records, list)
            return is_list and _TYPES.get(answer["recordType"]) == resource
    if not isinstance(records, list) or not records:
        return False
    return all(_kind(record) == resource for record in records)


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer of Dexcom without records."""
    what = "dexcom: reading the answer"
    answer = decode_any(body)
    if isinstance(answer, list) and any(
        isinstance(one, dict) and "type" in one and "deviceTime" in one for one in answer
    ):
        raise BadPayloadError(f"{what}: these are records as Tidepool keeps them, not Dexcom's")
    if not isinstance(answer, dict):
        return
    other = _OTHER_TYPES.get(str(answer.get("recordType")))
    if other is not None:
        raise BadPayloadError(f"{what}: it is {other}: it carries no readings")
    fault = answer.get("fault")
    detail = fault.get("detail") if isinstance(fault, dict) else None
    code = str(detail.get("errorcode")).lower() if isinstance(detail, dict) else ""
    if "token" in code or answer.get("error") in ("invalid_grant", "invalid_token"):
        raise NotConnectedError(f"{what}: the token is refused: connect this user again")
    if "records" not in answer and answer.keys() & {"fault", "errors", "error"}:
        raise BadPayloadError(f"{what}: it is a refusal: it carries no readings")


# --- records → columns

# Minutes without seconds have been seen, and offsets without a colon.
_NO_SECONDS = r"^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2})(Z|[+-]\d{2}:?\d{2})?$"
_NO_COLON = r"(T.*[+-]\d{2})(\d{2})$"
_QUARTER_US = _QUARTER // timedelta(microseconds=1)


def _text(column: str) -> pl.Expr:
    whole = pl.col(column).str.replace(_NO_SECONDS, "${1}:00${2}")
    return whole.str.replace(_NO_COLON, "${1}:${2}")


def _prepare(frame: pl.DataFrame) -> pl.DataFrame:
    system, display = parse_pair(_text("systemTime")), parse_pair(_text("displayTime"))
    # Step by step: within one call a text would be parsed as often as its time is used.
    frame = frame.with_columns(
        pl.coalesce(system.timestamp, system.local_timestamp.dt.replace_time_zone("UTC")).alias(
            "timestamp"
        ),
        display.timestamp.dt.replace_time_zone(None).alias(_SHOWN_UTC),
        display.local_timestamp.alias(_SHOWN),
    ).with_columns(in_years(pl.col(name)) for name in ("timestamp", _SHOWN_UTC, _SHOWN))
    wall = pl.col("timestamp").dt.replace_time_zone(None)
    told = (pl.col(_SHOWN) - pl.col(_SHOWN_UTC)).dt.total_microseconds()
    ahead = (pl.coalesce(_SHOWN, _SHOWN_UTC) - wall).dt.total_microseconds()
    rounded = (ahead + _QUARTER_US // 2) // _QUARTER_US * _QUARTER_US
    frame = frame.with_columns(
        told.alias(_TOLD),
        pl.when(
            rounded.is_between(
                _WEST // timedelta(microseconds=1), _EAST // timedelta(microseconds=1)
            )
        )
        .then(rounded)
        .alias(_ROUNDED),
        (rounded == ahead).alias(_IS_EXACT),
    )
    offset = pl.coalesce(_TOLD, _ROUNDED)
    zoned = wall_clock(frame, pl.col("timestamp"), "context.timezone")
    local = pl.coalesce(wall + pl.duration(microseconds=offset, time_unit="us"), zoned)
    from_zone = offset.is_null() & zoned.is_not_null()
    return frame.with_columns(
        local.alias("local_timestamp"),
        pl.when(from_zone).then(pl.col("context.timezone")).alias("timezone"),
        pl.when(pl.col(_TOLD).is_not_null() | (pl.col(_ROUNDED).is_not_null() & pl.col(_IS_EXACT)))
        .then(pl.lit("provider"))
        .when(pl.col(_ROUNDED).is_not_null())
        .then(pl.lit("inferred"))
        .when(from_zone)
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    ).drop(_SHOWN, _SHOWN_UTC, _TOLD, _ROUNDED, _IS_EXACT)


_SHOWN, _SHOWN_UTC = "shown\x00", "shown_utc\x00"
_TOLD, _ROUNDED, _IS_EXACT = "told\x00", "rounded\x00", "exact\x00"

_GLUCOSE = "glucose_blood_glucose_samples"
_MEASUREMENTS = "measurements_measurements"
_NO_TIME = Reject("systemTime: missing or not a time", pl.col("timestamp").is_null())
_MEASURED: Mapping[str, pl.Expr] = {
    "measurement_time": pl.col("timestamp"),
    "local_measurement_time": pl.col("local_timestamp"),
}


# Seven classes into five: Dexcom splits what the canonical arrow calls quickly.
TRENDS: Mapping[str, str] = {
    "doubleDown": "falling_quickly",
    "singleDown": "falling_quickly",
    "fortyFiveDown": "falling",
    "flat": "flat",
    "fortyFiveUp": "rising",
    "singleUp": "rising_quickly",
    "doubleUp": "rising_quickly",
}
_GENERATIONS: Mapping[str, str] = {
    "g4": "Dexcom G4",
    "g5": "Dexcom G5",
    "g6": "Dexcom G6",
    "g6+": "Dexcom G6",
    "g6pro": "Dexcom G6 Pro",
    "g7": "Dexcom G7",
}

# Values are in mg/dL whatever is written beside them, unless that says otherwise.
_UNIT = (
    pl.when(pl.col("unit").str.to_lowercase() == "mmol/l")
    .then(pl.lit("mmol/L"))
    .otherwise(pl.lit("mg/dL"))
)
_MG = glucose_in_mg(pl.col("value"), _UNIT)
_STATUS = pl.col("status").str.to_lowercase()
# A value that is missing beside a status is beyond the sensor's range, too.
_BEYOND = (
    pl.when((_MG < 40) | ((_STATUS == "low") & (_MG.is_null() | (_MG <= 40))))
    .then(pl.lit("low"))
    .when((_MG > 400) | ((_STATUS == "high") & (_MG.is_null() | (_MG >= 400))))
    .then(pl.lit("high"))
)
_DEVICE = Scalars(
    "body",
    {
        "device_manufacturer": pl.lit("Dexcom"),
        "device_name": pl.col("transmitterGeneration")
        .str.to_lowercase()
        .str.replace_all(" ", "")
        .replace_strict(_GENERATIONS, default=None, return_dtype=pl.String),
    },
    where=written("transmitterGeneration").is_not_null(),
)
_DEVICE_WIRE: Mapping[str, pl.DataType] = {
    "systemTime": pl.String(),
    "displayTime": pl.String(),
    "unit": pl.String(),
    "transmitterGeneration": pl.String(),
}
_DEVICE_IGNORED = (
    *("recordId", "transmitterTicks", "transmitterGenerationVariant"),
    *("displayDevice", "displayApp"),
)
_CONTEXT: Mapping[str, pl.DataType] = {"timezone": pl.String()}

_EGVS = Resource(
    name="egvs",
    recognise=partial(_recognise, "egvs"),
    wire={
        **_DEVICE_WIRE,
        "value": pl.Float64(),
        "status": pl.String(),
        "trend": pl.String(),
        "transmitterId": pl.String(),
    },
    split=_split,
    cut=cut,
    read=read,
    prepare=_prepare,
    tables=(
        Samples(
            "body",
            _GLUCOSE,
            {
                "blood_glucose_mg_per_dl": _MG,
                "glucose_level_flag": pl.coalesce(
                    _BEYOND, pl.when(_STATUS.is_in(["low", "high"])).then(_STATUS)
                ),
                "trend_arrow": pl.when(written("trend").is_not_null()).then(
                    pl.col("trend").replace_strict(
                        TRENDS, default="unknown", return_dtype=pl.String
                    )
                ),
                "native_value": pl.col("value"),
                "native_unit": pl.when(pl.col("value").is_not_null()).then(_UNIT),
                "sample_kind": pl.lit("cgm"),
                "out_of_range": _BEYOND,
                "native_trend": written("trend"),
                "device_id": written("transmitterId"),
            },
        ),
        _DEVICE,
    ),
    rejects=(_NO_TIME, Reject("no glucose value", _MG.is_null() & _BEYOND.is_null())),
    context_wire=_CONTEXT,
    ignored=frozenset({*_DEVICE_IGNORED, "trendRate", "rateUnit"}),
)

_CALIBRATIONS = Resource(
    name="calibrations",
    recognise=partial(_recognise, "calibrations"),
    wire={**_DEVICE_WIRE, "value": pl.Float64()},
    split=_split,
    cut=cut,
    read=read,
    prepare=_prepare,
    tables=(
        Samples(
            "body",
            _GLUCOSE,
            {
                "blood_glucose_mg_per_dl": _MG,
                "native_value": pl.col("value"),
                "native_unit": _UNIT,
                "sample_kind": pl.lit("fingerstick"),
            },
        ),
        _DEVICE,
    ),
    rejects=(_NO_TIME, Reject("no glucose value", _MG.is_null())),
    context_wire=_CONTEXT,
    # The transmitter a value went to is not the meter it came from.
    ignored=frozenset({*_DEVICE_IGNORED, "transmitterId"}),
)

_TYPE = pl.col("eventType")
_NUMBER = pl.col("value").str.strip_chars().cast(pl.Float64, strict=False)
# Far above anything a person eats, injects or holds out; NaN and what no duration can hold are not.
_AMOUNT = pl.when(_NUMBER.is_between(0, 1_000_000)).then(_NUMBER)
# What values of each type are counted in; without a unit they are, too.
_UNITS: Mapping[str, str] = {"carbs": "grams", "insulin": "units", "exercise": "minutes"}
_HAS_UNIT = pl.col("unit").is_not_null() & (pl.col("unit") != "unknown")
_SECONDS = _AMOUNT * 60


def _prepare_events(frame: pl.DataFrame) -> pl.DataFrame:
    lasted = pl.duration(microseconds=(_SECONDS * 1e6).round().cast(pl.Int64), time_unit="us")
    return _prepare(frame).with_columns(
        (pl.col("timestamp") + lasted).alias("end_at"),
        (pl.col("local_timestamp") + lasted).alias("local_end_at"),
    )


def _exercise(intensity: str) -> pl.Expr:
    return pl.when(pl.col("eventSubType") == intensity).then(_SECONDS)


_EVENTS = Resource(
    name="events",
    recognise=partial(_recognise, "events"),
    wire={
        "systemTime": pl.String(),
        "displayTime": pl.String(),
        "eventType": pl.String(),
        "eventSubType": pl.String(),
        "value": pl.String(),
        "unit": pl.String(),
    },
    split=_split,
    cut=cut,
    read=read,
    prepare=_prepare_events,
    tables=(
        Samples(
            "body",
            _GLUCOSE,
            {
                "blood_glucose_mg_per_dl": glucose_in_mg(_AMOUNT, _UNIT),
                "native_value": _AMOUNT,
                "native_unit": _UNIT,
                # Of a meter, and typed in.
                "sample_kind": pl.lit("manual"),
            },
            where=_TYPE == "bloodGlucose",
        ),
        Samples(
            "body",
            _MEASUREMENTS,
            {
                **_MEASURED,
                "insulin_units": _AMOUNT,
                "insulin_type": pl.col("eventSubType").replace_strict(
                    {"fastActing": "rapid", "longActing": "long"},
                    default=None,
                    return_dtype=pl.String,
                ),
            },
            where=_TYPE == "insulin",
        ),
        Samples(
            "body",
            _MEASUREMENTS,
            {**_MEASURED, "user_notes": written("value")},
            where=_TYPE.is_in(["notes", "note"]) & written("value").is_not_null(),
        ),
        Samples(
            "nutrition",
            "meals",
            {
                "id": pl.col("record_id"),
                "type": pl.lit("unknown"),
                "quantity_unit": pl.lit("unknown"),
                "macros_carbohydrates_g": _AMOUNT,
            },
            where=_TYPE == "carbs",
        ),
        Scalars(
            "activity",
            {
                "metadata_summary_id": pl.col("record_id"),
                # Exercise, and nobody says of which kind.
                "metadata_type": pl.lit("other"),
                "metadata_upload_type": pl.lit("manual"),
                "start_at": pl.col("timestamp"),
                "local_start_at": pl.col("local_timestamp"),
                "end_at": pl.col("end_at"),
                "local_end_at": pl.col("local_end_at"),
                "active_durations_activity_seconds": _SECONDS,
                "active_durations_low_intensity_seconds": _exercise("light"),
                "active_durations_moderate_intensity_seconds": _exercise("medium"),
                "active_durations_vigorous_intensity_seconds": _exercise("heavy"),
            },
            where=_TYPE == "exercise",
        ),
        # Of health (illness, stress, cycle, alcohol and symptoms) there is a word and no column.
    ),
    rejects=(
        _NO_TIME,
        Reject(
            "value: no number of what the event counts",
            _TYPE.is_in([*_UNITS, "bloodGlucose"]) & _AMOUNT.is_null(),
        ),
        Reject(
            "unit: not the one of the event",
            _HAS_UNIT
            & (
                pl.col("unit") != _TYPE.replace_strict(_UNITS, default=None, return_dtype=pl.String)
            ),
        ),
    ),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("recordId", "eventStatus", "transmitterId", "transmitterTicks"),
            *("transmitterGeneration", "transmitterGenerationVariant"),
            *("displayDevice", "displayApp"),
        }
    ),
)

_RESOURCES = (_EGVS, _EVENTS, _CALIBRATIONS)
_COLLECTIONS = tuple(resource.name for resource in _RESOURCES)

PROVIDER = Provider(
    name="dexcom",
    title="Dexcom",
    client_name="DEXCOM",
    summary="Glucose, calibrations, carbohydrates, insulin and exercise of a Dexcom sensor.",
    freshness="One hour behind the sensor in the US, three hours elsewhere.",
    docs_url="https://developer.dexcom.com/docs/dexcomv3/endpoint-overview",
    resources=_RESOURCES,
    fetch=fetch,
    explain=explain,
    oauth=OAuth(
        authorize_url="https://api.dexcom.com/v3/oauth2/login",
        token_url="https://api.dexcom.com/v3/oauth2/token",  # noqa: S106 - an address
        api_url="https://api.dexcom.com",
        identify=identify,
        scopes=("offline_access",),
        # Nothing is documented of it.
        pkce=False,
        lifetime=timedelta(hours=2),
    ),
    refusals=(
        Refusal(400, "permanent", "the dates asked for are refused"),
        Refusal(
            403,
            "permanent",
            "our app is not let at this data: see its access at developer.dexcom.com",
        ),
    ),
    # Readings of phones are an hour old before they can be had.
    poll_interval=timedelta(hours=1),
    open_days=3,
    # A sensor that was out of reach fills in a day.
    refetch=timedelta(days=2),
    max_window=timedelta(days=28),
    # 60,000 requests an hour, of one app.
    requests_per_second=16.0,
    limit_scope="app",
)
