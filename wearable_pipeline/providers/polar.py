"""Polar: training, days, nights and recovery of Polar watches, through AccessLink v3.

https://www.polar.com/accesslink-api

A session's start is local time with its offset in minutes; a night's ends carry their offsets; the keys
inside a night are clock times that pass midnight; days and continuous heart rate are on the person's
calendar, and nobody says in which zone. What newer watches sense is in UTC, tests with their offset in
minutes. The access token lives for years and cannot be renewed. Only what was uploaded after the person
was registered is there; registering is part of connecting.

What Polar allows grows with the people of an app: 500 requests in a quarter of an hour and 20 more for each
of them, 5,000 a day and 100 more for each. The pace alone keeps a few people below the first limit; from some
1,000 on, `WEARABLE_POLAR_REQUESTS_PER_SECOND` may rise to (500 + 20 × people) / 900.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
import polars as pl

from wearable_pipeline.errors import BadPayloadError, PermanentError
from wearable_pipeline.model.columns import INSTANT, LOCAL
from wearable_pipeline.model.enums import ACTIVITY_TYPE
from wearable_pipeline.model.time import Pair, pair_from_local_offset, pair_from_offset, parse_pair
from wearable_pipeline.providers._contract import (
    Changed,
    Client,
    Connection,
    Identity,
    OAuth,
    Page,
    Provider,
    Push,
    PushAnswer,
    Pushed,
    PushRequest,
    PushSecrets,
    Quota,
    Record,
    Refusal,
    Reject,
    Resource,
    Samples,
    Scalars,
    Signature,
    Window,
)
from wearable_pipeline.providers._lenient_json import read_json
from wearable_pipeline.providers._local_time import (
    local_date_of,
    read_date,
    read_time,
    wall_clock,
    zone_of,
)
from wearable_pipeline.providers._moments import SPAN, at_moment, on_calendar
from wearable_pipeline.providers._series import regular_samples
from wearable_pipeline.providers._spans import Missed
from wearable_pipeline.providers._split import content_id, decode, decode_any, item_fields
from wearable_pipeline.providers._values import positive

_DAY = timedelta(days=1)
# What is listed without dates goes back so far.
_LISTED_DAYS = 30
# So many days a request, and so far back.
MAX_WINDOW = timedelta(days=28)
HISTORY_DAYS = 365

_DATED: tuple[tuple[str, str], ...] = (
    ("daily_activity", "/v3/users/activities"),
    ("continuous_heart_rate", "/v3/users/continuous-heart-rate"),
)
# Measured by newer watches alone, in nights and tests.
_SENSED: tuple[tuple[str, str], ...] = tuple(
    (resource, f"/v3/users/biosensing/{name}")
    for resource, name in (
        ("body_temperature", "bodytemperature"),
        ("skin_temperature", "skintemperature"),
        ("spo2", "spo2"),
        ("ecg", "ecg"),
    )
)
_SENSED_EVERY = timedelta(hours=8)
_LISTED: tuple[tuple[str, str, Mapping[str, str | int]], ...] = (
    ("exercise", "/v3/exercises", {"samples": "true", "zones": "true"}),
    ("sleep", "/v3/users/sleep", {}),
    ("nightly_recharge", "/v3/users/nightly-recharge", {}),
    ("physical_info", "/v3/users/physical-info", {}),
)

# Epoch seconds of the years 2000 to 2100, and the widest offset.
_FIRST, _LAST = 946_684_800, 4_102_444_800
_WIDEST_MINUTES = 18 * 60
# 204 and 404: nothing is there.
_TAKEN = (200, 204, 404)

_log = logging.getLogger(__name__)

# --- talking to Polar


class _Granted(msgspec.Struct):
    x_user_id: int | str


def _account(granted: object) -> str:
    try:
        return str(msgspec.convert(granted, _Granted).x_user_id)
    except msgspec.ValidationError:
        raise BadPayloadError("polar: the token answer does not say whose it is") from None


async def identify(client: Client, granted: Mapping[str, object]) -> Identity:
    """Whose account it is; registers the person with our app, which opens the data."""
    account = _account(granted)
    # 409: registered before.
    await client.request(
        "POST", "/v3/users", json={"member-id": f"member-{account}"}, accept=(200, 204, 409)
    )
    return Identity(account_id=account)


async def revoke(client: Client, credentials: Mapping[str, object]) -> None:
    """End the registration: Polar takes the permission back with it."""
    account = _account(credentials.get("granted"))
    await client.request("DELETE", f"/v3/users/{account}", accept=(204, 200, 404))


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield days and heart rate of the window; sessions and nights as far as they are listed.

    What is refused stops nothing else. Days it was not read of are asked for again by later fetches.
    """
    state, today, now = connection.state, window.now.date(), window.now.timestamp()
    is_present = window.end >= today
    sensed_at = state.get("sensed_at")
    is_sensed_due = not is_present or not (
        isinstance(sensed_at, int | float) and 0 <= now - sensed_at < _SENSED_EVERY.total_seconds()
    )
    # Polar's today may be ahead of ours, and a day that has not begun is refused.
    due = [(window.start, min(window.end, today))]
    missed = Missed(state.get("missed"), today, history_days=HISTORY_DAYS)
    context = {"timezone": connection.timezone}
    refused: set[int] = set()
    answered = 0
    for resource, path in (*_DATED, *(_SENSED if is_sensed_due else ())):
        late = missed.find(resource, due, MAX_WINDOW.days) if is_present else None
        wanted = [*due, late] if late else due
        read = 0
        for first, last in wanted:
            params = {"from": first.isoformat(), "to": last.isoformat()}
            answer = await client.request("GET", path, params=params, accept=_TAKEN)
            if answer.status not in _TAKEN:
                refused.add(answer.status)
                if resource not in missed:
                    _log.warning("polar: %s is refused (HTTP %d)", resource, answer.status)
                break
            read += 1
            if answer.status == 200:
                yield Page(resource, answer.body, answer.fetched_at, context)
        answered += read
        missed.note(resource, wanted[:read], wanted[read:], len(wanted) - 1)
    for resource, path, more in _LISTED if window.end >= today - _LISTED_DAYS * _DAY else ():
        answer = await client.request("GET", path, params=more, accept=_TAKEN)
        if answer.status not in _TAKEN:
            refused.add(answer.status)
            continue
        answered += 1
        if answer.status == 200:
            yield Page(resource, answer.body, answer.fetched_at, context)
    if refused and not answered:
        why = ": consents are missing" if refused == {403} else ""
        told = ", ".join(map(str, sorted(refused)))
        raise PermanentError(f"polar: everything is refused (HTTP {told}){why}")
    state["missed"] = missed.to_store()
    if is_present and is_sensed_due:
        state["sensed_at"] = now


# --- answers → records

# The list an answer may stand in.
_LISTS = {
    "exercise": "exercises",
    "daily_activity": "activities",
    "sleep": "nights",
    "nightly_recharge": "recharges",
    "continuous_heart_rate": "heart_rates",
}


def _items(page: Page) -> list[msgspec.Raw]:
    """Documents of a list, of a list with a name, or the one the body is."""
    what = f"polar: reading {page.resource}"
    if page.body.lstrip()[:1] == b"[":
        return decode(page.body, list[msgspec.Raw], what)
    answer = decode(page.body, dict[str, msgspec.Raw], what)
    listed = answer.get(_LISTS.get(page.resource, ""))
    return (
        [msgspec.Raw(page.body.strip())]
        if listed is None
        else decode(listed, list[msgspec.Raw], what)
    )


def _split(page: Page, *days: str) -> Iterator[Record]:
    """Documents known by their id, or by the day in the first of the fields `days` that has one."""
    for item in _items(page):
        fields = item_fields(item)
        day = next((found for name in days if (found := read_date(fields.get(name)))), None)
        named = fields.get("id") or (day.isoformat() if day else None)
        yield Record(
            page.resource,
            str(named) if named else content_id(bytes(item)),
            bytes(item),
            day or local_date_of(page.fetched_at, None),
        )


def _split_info(page: Page) -> Iterator[Record]:
    for item in _items(page):
        fields = item_fields(item)
        stamp = fields.get("modified") or fields.get("created")
        at = _instant(stamp)
        yield Record(
            page.resource,
            f"{at:%Y%m%dT%H%M%S}" if at else content_id(bytes(item)),
            bytes(item),
            local_date_of(at or page.fetched_at, None),
        )


def _split_sensed(page: Page) -> Iterator[Record]:
    """Periods and tests, known by their instant and by what measured them where."""
    zone = zone_of(page)
    context = {"timezone": zone} if zone else {}
    for item in _items(page):
        fields = item_fields(item)
        at = _utc(fields.get("start_time")) or _epoch(fields.get("test_time"))
        source = [fields.get(name) for name in ("measurement_type", "sensor_location")]
        told = "/".join(str(one) for one in (*source, fields.get("source_device_id")) if one)
        offset = fields.get("time_zone_offset")
        is_told = at is not None and isinstance(offset, int) and abs(offset) <= _WIDEST_MINUTES
        yield Record(
            page.resource,
            f"{at:%Y%m%dT%H%M%S}/{told}" if at else content_id(bytes(item)),
            bytes(item),
            (at + timedelta(minutes=offset)).date()
            if at is not None and isinstance(offset, int) and is_told
            else local_date_of(at or page.fetched_at, zone),
            context,
            provider_updated_at=_utc(fields.get("modified_time")),
        )


def _utc(text: object) -> datetime | None:
    """The instant of a stamp that is in UTC where it does not say."""
    at = read_time(text)
    return at.astimezone(UTC) if at and at.tzinfo else at.replace(tzinfo=UTC) if at else None


def _epoch(seconds: object) -> datetime | None:
    is_one = isinstance(seconds, int) and _FIRST <= seconds < _LAST
    return datetime.fromtimestamp(seconds, UTC) if is_one and isinstance(seconds, int) else None


def _instant(text: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None and 2000 <= at.year < 2100 else None


# --- bodies of unknown origin

_MARKS: Mapping[str, frozenset[str]] = {
    "exercise": frozenset({"duration", "sport"}),
    "daily_activity": frozenset({"start_time", "steps"}),
    "sleep": frozenset({"date", "sleep_start_time", "sleep_end_time"}),
    "nightly_recharge": frozenset({"date", "ans_charge"}),
    "continuous_heart_rate": frozenset({"date", "heart_rate_samples"}),
    "physical_info": frozenset({"weight", "height"}),
    "body_temperature": frozenset({"start_time", "measurement_type", "samples"}),
    "skin_temperature": frozenset({"sleep_date", "sleep_time_skin_temperature_celsius"}),
    "spo2": frozenset({"test_time", "test_status"}),
    "ecg": frozenset({"test_time", "average_heart_rate_bpm", "samples"}),
}
_NOT: Mapping[str, frozenset[str]] = {
    "daily_activity": frozenset({"sport"}),
    "continuous_heart_rate": frozenset({"sleep_start_time"}),
}


def _recognise(resource: str, answer: object) -> bool:
    documents = answer
    if isinstance(answer, dict):
        documents = answer.get(_LISTS.get(resource, ""), [answer])
        if documents == []:
            # Others name lists like that, too.
            return set(answer) == {_LISTS[resource]}
    if not isinstance(documents, list) or not documents:
        return False
    return all(
        isinstance(one, dict)
        and _MARKS[resource] <= one.keys()
        and not _NOT.get(resource, frozenset()) & one.keys()
        for one in documents
    )


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer of Polar without documents."""
    answer = decode_any(body)
    if not isinstance(answer, dict):
        return
    if {"event", "timestamp"} <= answer.keys():
        raise BadPayloadError(
            "polar: reading the answer: it is a webhook event: it has no readings"
        )
    if {"errorType", "message"} <= answer.keys() or {"error", "status"} <= answer.keys():
        raise BadPayloadError("polar: reading the answer: it is a refusal: it carries no readings")


# --- records → columns

_ROW = "\x00row"


def _spelled(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
    """`frame` where what older answers spell with hyphens stands under the newer name."""
    return frame.with_columns(pl.coalesce(name, name.replace("_", "-")) for name in names)


def _either(*names: str, dtype: pl.DataType) -> dict[str, pl.DataType]:
    """Both spellings of fields."""
    return {spelling: dtype for name in names for spelling in (name, name.replace("_", "-"))}


def _seconds(column: str) -> pl.Expr:
    """A duration like PT2H44M30.5S in seconds; null when it is none."""
    text = pl.col(column)
    form = r"^PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?$"

    def part(number: int) -> pl.Expr:
        return text.str.extract(form, number).cast(pl.Float64).fill_null(0)

    return pl.when(text.str.contains(form)).then(part(1) * 3600 + part(2) * 60 + part(3))


_NO_SPAN = Reject(
    "times: the start or the end is missing, or the end is before the start",
    pl.coalesce(pl.col("timestamp").dt.replace_time_zone(None), "local_timestamp").is_null()
    | pl.coalesce(pl.col("end_at").dt.replace_time_zone(None), "local_end_at").is_null()
    | (pl.col("end_at") < pl.col("timestamp")),
)
_NO_DAY = Reject("date: missing or not a date", pl.col("local_timestamp").is_null())
_KMH_PER_MS = 3.6

# Types of samples by their number: the column, the field, and what a value is divided by.
_SERIES: Mapping[str, tuple[str, str, float]] = {
    "0": ("pulse", "bpm", 1.0),
    "1": ("speed", "speed_meters_per_second", _KMH_PER_MS),
    "2": ("cadence", "cadence_rpm", 1.0),
    "3": ("altitude", "elev_meters", 1.0),
    "4": ("power", "watts", 1.0),
}


_SESSION_TEXTS = ("start_time", "detailed_sport_info")


def _prepare_exercise(frame: pl.DataFrame) -> pl.DataFrame:
    frame = _spelled(
        frame,
        *(*_SESSION_TEXTS, "start_time_utc_offset", "heart_rate.average", "heart_rate.maximum"),
    )
    local = pl.col("start_time").str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us"
    )
    start = pair_from_local_offset(local, pl.col("start_time_utc_offset") * 60)
    after = pl.duration(
        microseconds=(_seconds("duration") * 1e6).round().cast(pl.Int64), time_unit="us"
    )
    series = []
    for number, (name, field, divisor) in _SERIES.items():
        own = pl.col("samples").list.eval(
            pl.element().filter(pl.element().struct.field("sample-type") == number)
        )
        values = (
            own.list.first()
            .struct.field("data")
            .str.split(",")
            .list.eval(pl.element().str.strip_chars().cast(pl.Float64, strict=False) / divisor)
        )
        if name == "pulse":
            # The strap had no contact.
            values = values.list.eval(pl.when(pl.element() > 0).then(pl.element()))
        step = own.list.first().struct.field("recording-rate").cast(pl.Float64, strict=False)
        series.append(regular_samples(frame, values, start, step, field).alias(name))
    ends = frame.select(
        (start.timestamp + after).alias("end_at"),
        (start.local_timestamp + after).alias("local_end_at"),
    )
    return at_moment(frame, start).with_columns(*ends.get_columns(), *series)


def _zones() -> pl.Expr:
    zones = pl.col("heart_rate_zones").list.eval(
        pl.struct(
            pl.element().struct.field("index").cast(pl.Int64, strict=False).alias("zone"),
            _seconds_of(pl.element().struct.field("in-zone")).alias("duration_seconds"),
        )
    )
    return pl.when(zones.list.len() > 0).then(zones)


def _seconds_of(text: pl.Expr) -> pl.Expr:
    def part(unit: str) -> pl.Expr:
        return text.str.extract(rf"(\d+(?:\.\d+)?){unit}", 1).cast(pl.Float64).fill_null(0)

    return pl.when(text.str.starts_with("PT")).then(part("H") * 3600 + part("M") * 60 + part("S"))


SPORTS: Mapping[str, str] = {
    "cycling": "biking",
    "road_biking": "road_biking",
    "indoor_cycling": "stationary_biking",
    "mountain_biking": "mountain_biking",
    "soccer": "english_football",
    "football": "american_football",
    "strength_training": "strength_training",
    "pool_swimming": "swimming_in_pool",
    "open_water_swimming": "open_water_swimming",
    "watersports_waterski": "water_skiing",
    "indoor_rowing": "rowing_machine",
    "treadmill_running": "treadmill_running",
    "trail_running": "trail_running",
    "other_outdoor": "other",
    "other_indoor": "other",
    "fitness_dancing": "dancing",
    "crosstrainer": "elliptical",
    "core": "calisthenics",
}


def _sport() -> pl.Expr:
    own = {name: name for name in map(str, ACTIVITY_TYPE.names.values())}
    known = {**own, **SPORTS}

    def named(column: str) -> pl.Expr:
        return (
            pl.col(column)
            .str.to_lowercase()
            .replace_strict(known, default=None, return_dtype=pl.String)
        )

    is_told = pl.col("sport").is_not_null() | pl.col("detailed_sport_info").is_not_null()
    return pl.coalesce(
        named("detailed_sport_info"), named("sport"), pl.when(is_told).then(pl.lit("other"))
    )


_EXERCISE = Resource(
    name="exercise",
    recognise=partial(_recognise, "exercise"),
    wire={
        "device": pl.String(),
        **_either(*_SESSION_TEXTS, dtype=pl.String()),
        **_either("start_time_utc_offset", dtype=pl.Int64()),
        "duration": pl.String(),
        "calories": pl.Float64(),
        "distance": pl.Float64(),
        **_either("heart_rate.average", "heart_rate.maximum", dtype=pl.Float64()),
        "sport": pl.String(),
        "heart_rate_zones": pl.List(pl.Struct({"index": pl.String(), "in-zone": pl.String()})),
        "samples": pl.List(
            pl.Struct(dict.fromkeys(("recording-rate", "sample-type", "data"), pl.String()))
        ),
    },
    split=lambda page: _split(page, "start_time", "start-time"),
    prepare=_prepare_exercise,
    tables=(
        Scalars(
            "activity",
            {
                "metadata_summary_id": pl.col("record_id"),
                "metadata_type": _sport(),
                **SPAN,
                "device_name": pl.col("device"),
                "calories_total_burned_calories": pl.col("calories"),
                "distance_summary_distance_meters": pl.col("distance"),
                "heart_rate_summary_avg_hr_bpm": positive("heart_rate.average"),
                "heart_rate_summary_max_hr_bpm": positive("heart_rate.maximum"),
                "heart_rate_summary_hr_zone": _zones(),
                "heart_rate_detailed_hr_samples": pl.col("pulse"),
                "movement_speed_samples": pl.col("speed"),
                "movement_cadence_samples": pl.col("cadence"),
                "distance_detailed_elevation_samples": pl.col("altitude"),
                "power_power_samples": pl.col("power"),
            },
        ),
    ),
    rejects=(_NO_SPAN,),
    ignored=frozenset(
        {
            *("id", "upload_time", "polar_user", "transaction_id", "device_id", "has_route"),
            *("training_load", "training_load_pro", "club_id", "club_name", "running-index"),
            *("fat_percentage", "carbohydrate_percentage", "protein_percentage", "route"),
            *("heart_rate", "running_index", "heart-rate", "upload-time", "polar-user", "club-id"),
            *("transaction-id", "device-id", "has-route", "training-load", "club-name"),
        }
    ),
    evidence="project-fixture",
)

_ACTIVITY = Resource(
    name="daily_activity",
    recognise=partial(_recognise, "daily_activity"),
    wire={
        "date": pl.String(),
        "start_time": pl.String(),
        "steps": pl.Int64(),
        **dict.fromkeys(("calories", "active_calories", "distance_from_steps"), pl.Float64()),
        **dict.fromkeys(("active_duration", "inactive_duration"), pl.String()),
        "inactivity_alert_count": pl.Int64(),
    },
    split=lambda page: _split(page, "date", "start_time"),
    # One text says the times are UTC, another that they are the watch's; only the day is used.
    prepare=lambda frame: at_moment(frame, on_calendar(pl.coalesce("date", "start_time"))),
    tables=(
        Scalars(
            "daily",
            {
                "distance_steps": pl.col("steps"),
                "distance_distance_meters": pl.col("distance_from_steps"),
                "calories_total_burned_calories": pl.col("calories"),
                "calories_net_activity_calories": pl.col("active_calories"),
                "active_durations_activity_seconds": _seconds("active_duration"),
                "active_durations_inactivity_seconds": _seconds("inactive_duration"),
                "active_durations_num_continuous_inactive_periods": pl.col(
                    "inactivity_alert_count"
                ),
            },
        ),
    ),
    rejects=(_NO_DAY,),
    ignored=frozenset({"polar_user", "end_time", "daily_activity", "samples", "id", "created"}),
    evidence="project-fixture",
)

# --- nights

_NIGHT_NUMBERS = (
    *("light_sleep", "deep_sleep", "rem_sleep", "unrecognized_sleep_stage"),
    *("total_interruption_duration", "short_interruption_duration", "long_interruption_duration"),
    "sleep_score",
)
_NIGHT_TEXTS = ("date", "sleep_start_time", "sleep_end_time", "device_id")
_CLOCKS = r'"(\d{1,2}):(\d{2})(?::\d{2})?"\s*:\s*"?(-?\d+(?:\.\d+)?)'
_STAGES: Mapping[float, str] = {
    0.0: "awake",
    1.0: "rem_sleep",
    2.0: "light_sleep",
    3.0: "light_sleep",
    4.0: "deep_sleep",
    5.0: "unknown",
}


def _parse_maps(raw: pl.DataFrame, texts: Iterable[str], maps: Iterable[str]) -> pl.DataFrame:
    shape = {**dict.fromkeys(texts, "VARCHAR"), **dict.fromkeys(maps, "JSON")}
    found = read_json(raw["body"], shape).rename("found").to_frame()
    return found.select(
        pl.col("found").struct.field(name).cast(pl.String).alias(name) for name in shape
    )


def _list_fields(record: Record) -> Iterable[str]:
    fields = decode_any(record.body)
    return list(fields) if isinstance(fields, dict) else []


def _by_clock(
    frame: pl.DataFrame, column: str, start: Pair, is_one_offset: pl.Expr
) -> pl.DataFrame:
    """Lines of a map of clock times: `_ROW`, the two halves of the moment, `value`.

    Keys follow each other; one that is earlier than the one before is of the next day.
    """
    lines = (
        frame.select(
            pl.col(column).str.extract_all(_CLOCKS).alias("pair"),
            start.timestamp.alias("start"),
            start.local_timestamp.alias("local_start"),
            is_one_offset.alias("is_one_offset"),
        )
        .with_row_index(_ROW)
        .explode("pair")
        .filter(pl.col("pair").is_not_null() & pl.col("local_start").is_not_null())
        .with_columns(
            (
                pl.col("pair").str.extract(_CLOCKS, 1).cast(pl.Int64) * 60
                + pl.col("pair").str.extract(_CLOCKS, 2).cast(pl.Int64)
            ).alias("minute"),
            pl.col("pair").str.extract(_CLOCKS, 3).cast(pl.Float64).alias("value"),
            (
                pl.col("local_start").dt.hour().cast(pl.Int64) * 60
                + pl.col("local_start").dt.minute()
            ).alias("first"),
        )
    )
    before = pl.col("minute").shift().over(_ROW).fill_null(pl.col("first"))
    # An hour set back is no new day.
    days = ((before - pl.col("minute")) > 120).cast(pl.Int64).cum_sum().over(_ROW)
    local = (
        pl.col("local_start").dt.truncate("1d")
        + pl.duration(minutes=pl.col("minute"), time_unit="us")
        + pl.duration(days=days, time_unit="us")
    )
    return lines.select(
        _ROW,
        pl.when(pl.col("is_one_offset"))
        .then(pl.col("start") + (local - pl.col("local_start")))
        .alias("timestamp"),
        local.alias("local_timestamp"),
        "value",
    )


def _collected(frame: pl.DataFrame, lines: pl.DataFrame, field: str, name: str) -> pl.Series:
    lists = lines.group_by(_ROW, maintain_order=True).agg(
        pl.struct("timestamp", "local_timestamp", pl.col("value").alias(field)).alias(name)
    )
    index = frame.select(pl.int_range(pl.len(), dtype=pl.get_index_type()).alias(_ROW))
    return index.join(lists, on=_ROW, how="left", maintain_order="left")[name]


def _prepare_sleep(frame: pl.DataFrame) -> pl.DataFrame:
    start, end = (parse_pair(pl.col(name)) for name in ("sleep_start_time", "sleep_end_time"))
    # Where the clocks changed in between, a clock time alone does not say which instant it was.
    is_one_offset = (end.local_timestamp - start.local_timestamp) == (
        end.timestamp - start.timestamp
    )
    stages = _by_clock(frame, "hypnogram", start, is_one_offset).with_columns(
        pl.col("value").replace_strict(_STAGES, default="unknown", return_dtype=pl.String)
    )
    pulse = _by_clock(frame, "heart_rate_samples", start, is_one_offset).filter(pl.col("value") > 0)
    return at_moment(frame, start).with_columns(
        *end.named("end_at", "local_end_at"),
        _collected(frame, stages, "level", "stages"),
        _collected(frame, pulse, "bpm", "pulse"),
    )


# A night entered by hand has zeros for everything.
_IS_STAGED = (
    pl.sum_horizontal("light_sleep", "deep_sleep", "rem_sleep", "unrecognized_sleep_stage") > 0
)


def _staged(column: str) -> pl.Expr:
    return pl.when(_IS_STAGED).then(pl.col(column))


_SLEEP = Resource(
    name="sleep",
    recognise=partial(_recognise, "sleep"),
    wire={
        **dict.fromkeys((*_NIGHT_TEXTS, "hypnogram", "heart_rate_samples"), pl.String()),
        **dict.fromkeys(_NIGHT_NUMBERS, pl.Float64()),
    },
    parse=partial(
        _parse_maps,
        texts=(*_NIGHT_TEXTS, *_NIGHT_NUMBERS),
        maps=("hypnogram", "heart_rate_samples"),
    ),
    list_fields=_list_fields,
    split=lambda page: _split(page, "date"),
    prepare=_prepare_sleep,
    tables=(
        Scalars(
            "sleep",
            {
                "metadata_summary_id": pl.col("record_id"),
                "metadata_upload_type": pl.when(pl.col("device_id") == "")
                .then(pl.lit("manual"))
                .when(pl.col("device_id").is_not_null())
                .then(pl.lit("automatic")),
                **SPAN,
                "sleep_durations_asleep_duration_light_sleep_state_seconds": _staged("light_sleep"),
                "sleep_durations_asleep_duration_deep_sleep_state_seconds": _staged("deep_sleep"),
                "sleep_durations_asleep_duration_rem_sleep_state_seconds": _staged("rem_sleep"),
                "sleep_durations_other_duration_unmeasurable_sleep_seconds": _staged(
                    "unrecognized_sleep_stage"
                ),
                "sleep_durations_awake_duration_awake_state_seconds": _staged(
                    "total_interruption_duration"
                ),
                "sleep_durations_awake_duration_short_interruption_seconds": _staged(
                    "short_interruption_duration"
                ),
                "sleep_durations_awake_duration_long_interruption_seconds": _staged(
                    "long_interruption_duration"
                ),
                "sleep_durations_hypnogram_samples": pl.col("stages"),
                "heart_rate_detailed_hr_samples": pl.col("pulse"),
                "scores_sleep": positive("sleep_score"),
                "data_enrichment_sleep_score": positive("sleep_score"),
            },
        ),
    ),
    rejects=(_NO_SPAN,),
    ignored=frozenset(
        {
            *("polar_user", "continuity", "continuity_class", "sleep_charge", "sleep_goal"),
            *("sleep_rating", "sleep_cycles", "group_duration_score", "group_solidity_score"),
            "group_regeneration_score",
        }
    ),
    # Of real nights only one was seen, and that was entered by hand: all zeros.
    evidence="project-fixture",
)

_RECHARGE_NUMBERS = ("heart_rate_avg", "heart_rate_variability_avg", "breathing_rate_avg")
_RECHARGE = Resource(
    name="nightly_recharge",
    recognise=partial(_recognise, "nightly_recharge"),
    wire={"date": pl.String(), **dict.fromkeys(_RECHARGE_NUMBERS, pl.Float64())},
    split=lambda page: _split(page, "date"),
    prepare=lambda frame: at_moment(frame, on_calendar(pl.col("date"))),
    tables=(
        # Means of four hours of the night, under the day it ends on.
        Scalars(
            "daily", {"heart_rate_summary_avg_hrv_rmssd": positive("heart_rate_variability_avg")}
        ),
        # And under the night itself, which has the same day for its name.
        Scalars(
            "sleep",
            {
                "metadata_summary_id": pl.col("record_id"),
                "heart_rate_summary_avg_hrv_rmssd": positive("heart_rate_variability_avg"),
                "respiration_breaths_avg_breaths_per_min": positive("breathing_rate_avg"),
            },
        ),
    ),
    rejects=(_NO_DAY,),
    ignored=frozenset(
        {
            *("polar_user", "beat_to_beat_avg", "nightly_recharge_status", "ans_charge"),
            *("ans_charge_status", "hrv_samples", "breathing_samples"),
        }
    ),
)


def _prepare_continuous(frame: pl.DataFrame) -> pl.DataFrame:
    day = on_calendar(pl.col("date"))
    # 00:02:08, or without its seconds.
    form = r"^(\d{1,2}):(\d{2})(?::(\d{2}))?"
    hours, minutes, seconds = (
        pl.col("sample_time").str.extract(form, number).cast(pl.Int64) for number in (1, 2, 3)
    )
    clock = hours * 3600 + minutes * 60 + seconds.fill_null(0)
    lines = (
        frame.select(pl.col("heart_rate_samples"), day.local_timestamp.alias("day"))
        .with_row_index(_ROW)
        .filter(pl.col("heart_rate_samples").list.len() > 0)
        .explode("heart_rate_samples")
        .unnest("heart_rate_samples")
        .select(
            _ROW,
            pl.lit(None, INSTANT).alias("timestamp"),
            (pl.col("day") + pl.duration(seconds=clock, time_unit="us")).alias("local_timestamp"),
            pl.col("heart_rate").cast(pl.Float64, strict=False).alias("value"),
        )
        .filter(pl.col("local_timestamp").is_not_null() & (pl.col("value") > 0))
    )
    return at_moment(frame, day).with_columns(_collected(frame, lines, "bpm", "pulse"))


_CONTINUOUS = Resource(
    name="continuous_heart_rate",
    recognise=partial(_recognise, "continuous_heart_rate"),
    wire={
        "date": pl.String(),
        "heart_rate_samples": pl.List(
            pl.Struct({"heart_rate": pl.String(), "sample_time": pl.String()})
        ),
    },
    split=lambda page: _split(page, "date"),
    prepare=_prepare_continuous,
    tables=(Scalars("daily", {"heart_rate_detailed_hr_samples": pl.col("pulse")}),),
    rejects=(_NO_DAY,),
    ignored=frozenset({"polar_user"}),
    evidence="project-fixture",
)

_HEART_FACTS = ("resting_heart_rate", "maximum_heart_rate", "vo2_max")
_INFO = Resource(
    name="physical_info",
    recognise=partial(_recognise, "physical_info"),
    wire={
        **dict.fromkeys(("created", "modified"), pl.String()),
        **dict.fromkeys(("weight", "height"), pl.Float64()),
        **_either(*_HEART_FACTS, dtype=pl.Float64()),
    },
    split=_split_info,
    prepare=lambda frame: at_moment(
        _spelled(frame, *_HEART_FACTS), parse_pair(pl.coalesce("modified", "created"))
    ),
    tables=(
        Samples(
            "body",
            "measurements_measurements",
            {"weight_kg": positive("weight"), "height_cm": positive("height")},
            where=(pl.col("weight") > 0) | (pl.col("height") > 0),
        ),
        Scalars(
            "body",
            {
                "heart_heart_rate_summary_resting_hr_bpm": positive("resting_heart_rate"),
                "heart_heart_rate_summary_user_max_hr_bpm": positive("maximum_heart_rate"),
                "oxygen_vo2max_ml_per_min_per_kg": positive("vo2_max"),
            },
        ),
    ),
    ignored=frozenset(
        {
            *("birthday", "gender", "aerobic_threshold", "anaerobic_threshold", "weight_source"),
            *("training_background", "typical_day", "sleep_goal", "polar_user", "id"),
            *("aerobic-threshold", "anaerobic-threshold", "weight-source", "polar-user"),
            "transaction-id",
        }
    ),
)

# --- what newer watches sense

_CONTEXT: Mapping[str, pl.DataType] = {"timezone": pl.String()}
_ZONE = "context.timezone"
_UV_PER_MV = 1000


def _timed(frame: pl.DataFrame, instant: pl.Expr, offset_minutes: pl.Expr) -> pl.DataFrame:
    """`frame` with its time columns: by the offset told, else by the person's zone."""
    is_told = offset_minutes.abs() <= _WIDEST_MINUTES
    pair = pair_from_offset(instant, pl.when(is_told).then(offset_minutes * 60))
    frame = frame.with_columns(pair.timestamp.cast(INSTANT).alias("timestamp"))
    told = pair.local_timestamp.is_not_null()
    frame = frame.with_columns(wall_clock(frame, pl.col("timestamp"), _ZONE).alias("wall"))
    return frame.with_columns(
        pl.coalesce(pair.local_timestamp, "wall").cast(LOCAL).alias("local_timestamp"),
        pl.when(~told & pl.col("wall").is_not_null()).then(_ZONE).alias("timezone"),
        pl.when(told)
        .then(pl.lit("provider"))
        .when(pl.col("wall").is_not_null())
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    ).drop("wall")


def _from_epoch(column: str) -> pl.Expr:
    seconds = pl.when(pl.col(column).is_between(_FIRST, _LAST - 1)).then(column)
    return pl.from_epoch(seconds, time_unit="s").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _part(name: str, dtype: pl.DataType) -> pl.Expr:
    return pl.col("samples").struct.field(name).cast(dtype, strict=False)


def _later(column: str, delta: pl.Expr) -> pl.Expr:
    return pl.col(column) + pl.duration(milliseconds=delta, time_unit="us")


def _prepare_temperature(frame: pl.DataFrame) -> pl.DataFrame:
    """The period, and behind the periods a line for each of their samples."""
    stamp = parse_pair(pl.col("start_time"))
    start = pl.coalesce(stamp.timestamp, stamp.local_timestamp.dt.replace_time_zone("UTC"))
    periods = _timed(frame, start, pl.lit(None, pl.Int64))
    delta = _part("recording_time_delta_milliseconds", pl.Int64())
    lines = (
        periods.filter(pl.col("samples").list.len() > 0)
        .explode("samples")
        .with_columns(
            _later("timestamp", delta).alias("timestamp"),
            _later("local_timestamp", delta).alias("local_timestamp"),
            _part("temperature_celsius", pl.Float64()).alias("celsius"),
        )
        # Of a sample without a distance nobody knows the time.
        .filter(delta.is_not_null())
        .drop("samples")
    )
    return pl.concat(
        [periods.with_columns(pl.lit(None, pl.Float64).alias("celsius")), lines], how="diagonal"
    )


def _temperatures(column: str, kind: str) -> Samples:
    return Samples(
        "body",
        column,
        {"temperature_celsius": pl.col("celsius")},
        where=(pl.col("measurement_type") == kind) & (pl.col("celsius") > 0),
    )


_NO_TIME = Reject("time: missing or no time", pl.col("timestamp").is_null())
_DEVICE_LEFT = ("source_device_id", "modified_time", "end_time", "sensor_location")
_TEMPERATURE = Resource(
    name="body_temperature",
    recognise=partial(_recognise, "body_temperature"),
    wire={
        **dict.fromkeys(("start_time", "measurement_type"), pl.String()),
        "samples": pl.List(
            pl.Struct(
                dict.fromkeys(
                    ("temperature_celsius", "recording_time_delta_milliseconds"), pl.String()
                )
            )
        ),
    },
    split=_split_sensed,
    prepare=_prepare_temperature,
    tables=(
        _temperatures("temperature_body_temperature_samples", "TM_CORE_TEMPERATURE"),
        _temperatures("temperature_skin_temperature_samples", "TM_SKIN_TEMPERATURE"),
    ),
    rejects=(_NO_TIME,),
    context_wire=_CONTEXT,
    ignored=frozenset(_DEVICE_LEFT),
)

_NIGHT_SKIN = Resource(
    name="skin_temperature",
    recognise=partial(_recognise, "skin_temperature"),
    wire={"sleep_date": pl.String(), "deviation_from_baseline_celsius": pl.Float64()},
    split=lambda page: _split(page, "sleep_date"),
    prepare=lambda frame: at_moment(frame, on_calendar(pl.col("sleep_date"))),
    tables=(
        # Of the night, which has the same day for its name.
        Scalars(
            "sleep",
            {
                "metadata_summary_id": pl.col("record_id"),
                "temperature_delta": pl.col("deviation_from_baseline_celsius"),
            },
            where=pl.col("deviation_from_baseline_celsius").is_not_null(),
        ),
    ),
    rejects=(_NO_DAY,),
    # A mean of the night: those of a day are another thing.
    ignored=frozenset({"sleep_time_skin_temperature_celsius"}),
)


def _prepare_test(frame: pl.DataFrame) -> pl.DataFrame:
    return _timed(frame, _from_epoch("test_time"), pl.col("time_zone_offset"))


_TEST_WIRE: Mapping[str, pl.DataType] = {"test_time": pl.Int64(), "time_zone_offset": pl.Int64()}
_SPO2 = Resource(
    name="spo2",
    recognise=partial(_recognise, "spo2"),
    wire={**_TEST_WIRE, "test_status": pl.String(), "blood_oxygen_percent": pl.Float64()},
    split=_split_sensed,
    prepare=_prepare_test,
    tables=(
        Samples(
            "body",
            "oxygen_saturation_samples",
            {"percentage": positive("blood_oxygen_percent"), "type": pl.lit("blood")},
            # What was not conclusive is no reading.
            where=(pl.col("blood_oxygen_percent") > 0)
            & (pl.col("test_status").fill_null("SPO2_TEST_PASSED") == "SPO2_TEST_PASSED"),
        ),
    ),
    rejects=(_NO_TIME,),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("source_device_id", "spo2_class", "spo2_value_deviation_from_baseline"),
            *("spo2_quality_average_percent", "average_heart_rate_bpm"),
            *("heart_rate_variability_ms", "spo2_hrv_deviation_from_baseline"),
            "altitude_meters",
        }
    ),
)


def _prepare_ecg(frame: pl.DataFrame) -> pl.DataFrame:
    tests = _prepare_test(frame)
    delta = _part("recording_time_delta_ms", pl.Int64())
    lines = (
        tests.select("samples", "timestamp", "local_timestamp")
        .with_row_index(_ROW)
        .filter(pl.col("samples").list.len() > 0)
        .explode("samples")
        .select(
            _ROW,
            _later("timestamp", delta).alias("timestamp"),
            _later("local_timestamp", delta).alias("local_timestamp"),
            (_part("amplitude_mv", pl.Float64()) * _UV_PER_MV).alias("value"),
        )
        .filter(pl.col("timestamp").is_not_null() & pl.col("value").is_not_null())
    )
    return tests.with_columns(_collected(tests, lines, "potential_uv", "trace"))


_ECG = Resource(
    name="ecg",
    recognise=partial(_recognise, "ecg"),
    wire={
        **_TEST_WIRE,
        "average_heart_rate_bpm": pl.Float64(),
        "samples": pl.List(
            pl.Struct(dict.fromkeys(("recording_time_delta_ms", "amplitude_mv"), pl.String()))
        ),
    },
    split=_split_sensed,
    prepare=_prepare_ecg,
    tables=(
        Samples(
            "body",
            "heart_ecg_signal",
            {"avg_hr_bpm": positive("average_heart_rate_bpm"), "raw_signal": pl.col("trace")},
        ),
    ),
    rejects=(_NO_TIME,),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("source_device_id", "heart_rate_variability_ms", "heart_rate_variability_level"),
            *("rri_ms", "pulse_transit_time_systolic_ms", "pulse_transit_time_diastolic_ms"),
            *("pulse_transit_time_quality_index", "quality_measurements"),
        }
    ),
)

# --- pushes


class _Event(msgspec.Struct):
    event: str
    user_id: int | str | None = None


def read_push(request: PushRequest) -> Iterator[Pushed]:
    """What an event says: something of an account is new."""
    event = decode(request.body, _Event, "polar: reading an event")
    if event.user_id is None:
        raise BadPayloadError("polar: an event names no account")
    yield Changed(str(event.user_id))


def answer_ping(request: PushRequest, secrets: PushSecrets) -> PushAnswer | None:
    """Polar pings the address before anybody can know the secret it will sign with."""
    del secrets
    if request.method != "POST":
        return None
    body = decode_any(request.body)
    return PushAnswer() if isinstance(body, dict) and body.get("event") == "PING" else None


PROVIDER = Provider(
    name="polar",
    title="Polar",
    client_name="POLAR",
    summary="Training sessions, days, nights, heart rate and what else Polar watches sense.",
    freshness="When the watch was synced; an event tells of it.",
    docs_url="https://www.polar.com/accesslink-api",
    resources=(
        *(_EXERCISE, _ACTIVITY, _SLEEP, _RECHARGE, _CONTINUOUS, _INFO),
        *(_TEMPERATURE, _NIGHT_SKIN, _SPO2, _ECG),
    ),
    fetch=fetch,
    explain=explain,
    oauth=OAuth(
        authorize_url="https://flow.polar.com/oauth2/authorization",
        token_url="https://polarremote.com/v2/oauth2/token",  # noqa: S106 - an address
        api_url="https://www.polaraccesslink.com",
        identify=identify,
        scopes=("accesslink.read_all",),
        pkce=False,
        client_auth="basic",
        refreshes=False,
        rotates_refresh=False,
        revoke=revoke,
    ),
    push=Push(
        read=read_push,
        proof=Signature(
            header="polar-webhook-signature", key=lambda secrets: secrets.push_secret.encode()
        ),
        challenge=answer_ping,
        setup="make the one webhook of the app with POST /v3/webhooks to the address of /in/polar, and put"
        " the key it answers with into WEARABLE_POLAR_PUSH_SECRET",
    ),
    refusals=(
        Refusal(403, "absent", "a consent is missing"),
        Refusal(400, "absent", "what was asked is not taken"),
    ),
    # Six requests each time, and four more every eight hours: 84 of the hundred a day that each person
    # adds. Events have the rest.
    poll_interval=timedelta(hours=2),
    open_days=3,
    refetch=timedelta(days=7),
    max_window=MAX_WINDOW,
    history_days=HISTORY_DAYS,
    requests_per_second=1.0,
    limit_scope="app",
    quotas=(
        Quota(500, timedelta(minutes=15), per_user=20),
        Quota(5_000, timedelta(days=1), per_user=100),
    ),
)
