"""Withings: scales, blood-pressure monitors, watches and sleep mats, through the public API.

https://developer.withings.com/api-reference

Every answer is HTTP 200; what it means is the `status` inside (`_withings_api.py`). Moments are epoch
seconds, the time zone stands beside them by name. A measure group holds values of one moment; one
weighing may come as several groups. Days and nights belong to the date Withings gives them: a night to
the morning it ends.

Once something was fetched, fetches of the present ask for what was modified since, so late uploads and
corrections come whatever day they are of; other windows are asked for by their dates. The minutes of
a day are asked for when the day's totals are new, and the stages of a night when its summary is.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from hashlib import sha256
from hmac import compare_digest, digest
from urllib.parse import parse_qs

import msgspec
import polars as pl

from wearable_pipeline.errors import (
    BadPayloadError,
    PermanentError,
    RateLimitedError,
    TransientError,
)
from wearable_pipeline.model.enums import AFIB_FLAG
from wearable_pipeline.model.units import fraction_to_percent
from wearable_pipeline.providers import _withings_api as api
from wearable_pipeline.providers import _withings_frames as frames
from wearable_pipeline.providers._contract import (
    Changed,
    Client,
    Connection,
    Departed,
    Identity,
    OAuth,
    Page,
    Provider,
    Push,
    PushAnswer,
    Pushed,
    PushRequest,
    PushSecrets,
    Record,
    Reject,
    Resource,
    Samples,
    Scalars,
    Window,
)
from wearable_pipeline.providers._local_time import find_zone, local_date_of, read_date
from wearable_pipeline.providers._moments import NO_SPAN, SPAN
from wearable_pipeline.providers._split import content_id, decode, item_fields
from wearable_pipeline.providers._values import positive

_DAY = timedelta(days=1)
# A window that ends in the present and is no longer than this is asked for by what was modified.
_LIVE_DAYS = 8
# What was being written while we last asked.
_OVERLAP_SECONDS = 3600
# Segments of sleep further apart than this are of two nights, where nobody says of which.
_NEW_NIGHT_SECONDS = 2 * 3600

# --- talking to Withings

_MEASURE_TYPES = "1,4,5,6,8,9,10,11,12,54,71,73,76,77,88,91,123,130,139,155,168,169,170,226"
_DAY_FIELDS = (
    "steps,distance,elevation,soft,moderate,intense,active,calories,totalcalories,"
    "hr_average,hr_min,hr_max,hr_zone_0,hr_zone_1,hr_zone_2,hr_zone_3"
)
_MINUTE_FIELDS = "steps,elevation,calories,distance,duration,heart_rate,spo2_auto,rmssd,sdnn1"
_WORKOUT_FIELDS = (
    "calories,intensity,manual_distance,manual_calories,hr_average,hr_min,hr_max,"
    "hr_zone_0,hr_zone_1,hr_zone_2,hr_zone_3,pause_duration,algo_pause_duration,spo2_average,"
    "steps,distance,elevation,pool_laps,strokes,pool_length"
)
_NIGHT_FIELDS = (
    "nb_rem_episodes,sleep_efficiency,sleep_latency,total_sleep_time,total_timeinbed,"
    "wakeup_latency,waso,apnea_hypopnea_index,breathing_disturbances_intensity,asleepduration,"
    "deepsleepduration,durationtosleep,durationtowakeup,hr_average,hr_max,hr_min,"
    "lightsleepduration,night_events,out_of_bed_count,remsleepduration,rr_average,rr_max,rr_min,"
    "sleep_score,snoring,snoringepisodecount,wakeupcount,wakeupduration"
)
_STAGE_FIELDS = "hr,rr,snoring,sdnn_1,rmssd"


class _Granted(msgspec.Struct):
    userid: int | str


class _Device(msgspec.Struct):
    timezone: str | None = None


class _Devices(msgspec.Struct):
    devices: list[_Device] = []


class _DevicesAnswer(msgspec.Struct):
    status: int
    body: _Devices | None = None


async def identify(client: Client, granted: Mapping[str, object]) -> Identity:
    """Whose account it is, from the token answer; the zone is that of the devices, if they agree."""
    try:
        account = msgspec.convert(granted, _Granted, strict=False)
    except msgspec.ValidationError:
        raise BadPayloadError("withings: the token answer does not say whose it is") from None
    answer = await client.request("POST", "/v2/user", form={"action": "getdevice"})
    found = decode(answer.body, _DevicesAnswer, "withings: reading the devices")
    devices = found.body.devices if found.status == 0 and found.body is not None else []
    zones = {one.timezone for one in devices if find_zone(one.timezone)}
    return Identity(str(account.userid), timezone=zones.pop() if len(zones) == 1 else None)


async def revoke(client: Client, credentials: Mapping[str, object]) -> None:
    """Take the app's permission back; Withings ends the subscriptions of the person with it."""
    granted = credentials.get("granted")
    userid = granted.get("userid") if isinstance(granted, dict) else None
    client_id, secret = str(credentials["client_id"]), str(credentials["client_secret"])
    now = str(int(datetime.now(UTC).timestamp()))
    answer = await client.request(
        "POST",
        "/v2/signature",
        form={
            "action": "getnonce",
            "client_id": client_id,
            "timestamp": now,
            "signature": sign(secret, "getnonce", client_id, now),
        },
    )
    what = "withings: revoking"
    nonce = decode(api.listing_of(answer.body, what).get("nonce", msgspec.Raw(b"null")), str, what)
    done = await client.request(
        "POST",
        "/v2/oauth2",
        form={
            "action": "revoke",
            "client_id": client_id,
            "nonce": nonce,
            "signature": sign(secret, "revoke", client_id, nonce),
            "userid": str(userid),
        },
    )
    status = api.read_status(done.status, done.body)
    if status != 200:
        raise api.error_of(status)


def sign(secret: str, *values: str) -> str:
    """Withings' signature: an HMAC over the values of action, client and nonce or time."""
    return digest(secret.encode(), ",".join(values).encode(), sha256).hex()


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield measures, days, workouts and nights of the window, or modified since, and their details."""
    is_present = window.end >= window.now.date() - _DAY
    since = connection.state.get("since")
    is_live = is_present and window.start >= window.now.date() - _LIVE_DAYS * _DAY
    by_date: dict[str, str] = {
        "startdateymd": window.start.isoformat(),
        "enddateymd": window.end.isoformat(),
    }
    by_time: dict[str, str] = {
        # Days begin up to fourteen hours before and end up to twelve hours after those of UTC.
        "startdate": str(_epoch(window.start) - 14 * 3600),
        "enddate": str(min(_epoch(window.end) + 36 * 3600, int(window.now.timestamp()))),
    }
    if is_live and isinstance(since, int):
        by_date = by_time = {"lastupdate": str(since)}
    if is_present:
        await _keep_subscribed(client, connection)
    known = connection.state.get("timezone")
    profile = known if isinstance(known, str) else connection.timezone
    context: dict[str, object] = {"profile": profile}
    days: set[tuple[date, str | None]] = set()
    nights: list[dict[str, object]] = []
    refused = 0
    for resource, (path, action, key, more) in _LISTINGS.items():
        asked = by_time if action == "getmeas" else by_date
        what = f"withings: reading {resource}"
        async for answer in api.pages(client, path, {"action": action, **asked, **more}, what):
            if answer.status != 200:
                refused += 1
                break
            yield Page(resource, answer.body, answer.fetched_at, context)
            if resource == "activity":
                days.update(_days_in(answer.body, key, what))
            if resource == "sleep_summary":
                nights.extend(_nights_in(answer.body, key, what))
    if refused == len(_LISTINGS):
        raise PermanentError("withings: no permission was given for any kind of data")
    zones = [zone for _, zone in sorted(days, key=lambda one: one[0]) if zone is not None]
    if zones and is_present:
        connection.state["timezone"] = zones[-1]
    async for page in _minutes(client, sorted(days, key=str), profile, window.now):
        yield page
    async for page in _stages(client, nights, profile):
        yield page
    if is_present:
        connection.state["since"] = int(window.now.timestamp()) - _OVERLAP_SECONDS


def _epoch(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


async def _minutes(
    client: Client, days: list[tuple[date, str | None]], profile: str | None, now: datetime
) -> AsyncIterator[Page]:
    """What ran through the days whose totals are new."""
    asked: set[tuple[int, int]] = set()
    for day, zone in days:
        for start, end in api.slices_of_day(day, zone or profile, now):
            if (start, end) in asked:
                continue
            asked.add((start, end))
            answer = await client.request(
                "POST",
                "/v2/measure",
                form={
                    "action": "getintradayactivity",
                    "startdate": str(start),
                    "enddate": str(end),
                    "data_fields": _MINUTE_FIELDS,
                },
            )
            if answer.status != 200:
                return
            context = {"timezone": zone, "profile": profile}
            yield Page("intraday", answer.body, answer.fetched_at, context)


async def _stages(
    client: Client, nights: list[dict[str, object]], profile: str | None
) -> AsyncIterator[Page]:
    """The course of the nights whose summaries are new."""
    for night in nights:
        start, end = night["start"], night["end"]
        if not isinstance(start, int) or not isinstance(end, int) or end <= start:
            continue
        answer = await client.request(
            "POST",
            "/v2/sleep",
            form={
                "action": "get",
                "startdate": str(start),
                # Only the first 24 hours would be answered.
                "enddate": str(min(end, start + 86_400)),
                "data_fields": _STAGE_FIELDS,
            },
        )
        if answer.status != 200:
            return
        yield Page("sleep", answer.body, answer.fetched_at, {**night, "profile": profile})


def _days_in(body: bytes, key: str, what: str) -> Iterator[tuple[date, str | None]]:
    for item in api.items_of(body, key, what):
        fields = item_fields(item)
        day, zone = read_date(fields.get("date")), fields.get("timezone")
        if day is not None:
            yield day, zone if isinstance(zone, str) and find_zone(zone) else None


def _nights_in(body: bytes, key: str, what: str) -> Iterator[dict[str, object]]:
    for item in api.items_of(body, key, what):
        fields = item_fields(item)
        yield {
            "night": str(fields.get("id")),
            "date": fields.get("date"),
            "start": fields.get("startdate"),
            "end": fields.get("enddate"),
            "timezone": fields.get("timezone"),
            "device": fields.get("hash_deviceid"),
        }


# --- answers → records


def _moment(seconds: object) -> datetime | None:
    """The instant of epoch seconds; None where they are of no reading."""
    if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit() and len(seconds) < 12:
        seconds = int(seconds)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    if not 946_684_800 <= seconds <= 4_102_444_800:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _profile(page: Page) -> str | None:
    """The person's zone as far as it is known without the answer."""
    zone = _text(page.context.get("profile")) or (
        _text(page.context.get("timezone")) if "profile" not in page.context else None
    )
    return zone if find_zone(zone) else None


def _context(page: Page, told: object = None) -> dict[str, object]:
    zone = _text(told)
    found = {"timezone": zone if find_zone(zone) else None, "profile": _profile(page)}
    return {name: value for name, value in found.items() if value}


def _zone(context: Mapping[str, object]) -> str | None:
    return _text(context.get("timezone")) or _text(context.get("profile"))


def _what(page: Page) -> str:
    return f"withings: reading {page.resource}"


def _split_measures(page: Page) -> Iterator[Record]:
    what = _what(page)
    told = None
    if page.body.lstrip()[:1] != b"[":
        raw = api.listing_of(page.body, what).get("timezone")
        told = msgspec.json.decode(raw) if raw is not None else None
    context = _context(page, told)
    for item in api.items_of(page.body, "measuregrps", what):
        fields = item_fields(item)
        named = fields.get("grpid")
        # What a device derives from a group may come under the group's own number, as attribution 8.
        derived = "/8" if fields.get("attrib") == 8 else ""
        at = _moment(fields.get("date"))
        yield Record(
            page.resource,
            f"{named}{derived}" if named else content_id(bytes(item)),
            bytes(item),
            local_date_of(at or page.fetched_at, _zone(context)),
            context,
            provider_updated_at=_moment(fields.get("modified")),
        )


def _split_days(page: Page) -> Iterator[Record]:
    for item in api.items_of(page.body, "activities", _what(page)):
        fields = item_fields(item)
        day = read_date(fields.get("date"))
        # A row per day and tracker; trackers that are apps have a model and no id.
        tracker = fields.get("hash_deviceid") or fields.get("deviceid") or fields.get("modelid")
        yield Record(
            page.resource,
            f"{day}/{tracker or 'all'}" if day else content_id(bytes(item)),
            bytes(item),
            day or local_date_of(page.fetched_at, _profile(page)),
            _context(page),
            provider_updated_at=_moment(fields.get("modified")),
        )


def _split_sessions(page: Page) -> Iterator[Record]:
    for item in api.items_of(page.body, "series", _what(page)):
        fields = item_fields(item)
        named = fields.get("id")
        context = _context(page)
        told = _text(fields.get("timezone"))
        zone = told if find_zone(told) else _zone(context)
        end = _moment(fields.get("enddate"))
        yield Record(
            page.resource,
            str(named) if named else content_id(bytes(item)),
            bytes(item),
            read_date(fields.get("date")) or local_date_of(end or page.fetched_at, zone),
            context,
            provider_updated_at=_moment(fields.get("modified")),
        )


def _split_minutes(page: Page) -> Iterator[Record]:
    what = _what(page)
    series = api.listing_of(page.body, what).get("series")
    if series is None:
        raise BadPayloadError(f"{what}: the answer has no series")
    # An empty object is an empty list to PHP.
    if bytes(series).strip() == b"[]":
        return
    told = page.context.get("timezone") if "profile" in page.context else None
    context = _context(page, told)
    for second, item in decode(series, dict[str, msgspec.Raw], what).items():
        at = _moment(second)
        yield Record(
            page.resource,
            second if at else f"{content_id(second.encode())}",
            bytes(item),
            local_date_of(at or page.fetched_at, _zone(context)),
            {**context, "at": second},
            taken_at=at,
        )


def _split_stages(page: Page) -> Iterator[Record]:
    """One record per night: its segments in order of time, each as it arrived."""
    segments = [
        (item, item_fields(item)) for item in api.items_of(page.body, "series", _what(page))
    ]
    night = page.context.get("night")
    if isinstance(night, str):
        device = page.context.get("device")
        own = [
            one
            for one in segments
            if not device or one[1].get("hash_deviceid") in (None, "", device)
        ]
        if own:
            context = {**_context(page, page.context.get("timezone")), "night": night}
            for name in ("start", "end"):
                context[name] = page.context.get(name)
            yield _night(page, [item for item, _ in _in_time(own)], night, context)
        return
    for items, fields in _nights_of(segments):
        start = _moment(fields[0].get("startdate"))
        named = str(int(start.timestamp())) if start else content_id(bytes(items[0]))
        context = {**_context(page), "night": named}
        yield _night(page, items, named, context, _moment(fields[-1].get("enddate")) or start)


_Segment = tuple[msgspec.Raw, dict[str, object]]


def _in_time(segments: list[_Segment]) -> list[_Segment]:
    never = datetime.max.replace(tzinfo=UTC)
    return sorted(segments, key=lambda one: _moment(one[1].get("startdate")) or never)


def _nights_of(
    segments: list[_Segment],
) -> Iterator[tuple[list[msgspec.Raw], list[dict[str, object]]]]:
    """Segments nobody gave a summary to, by device and by the pauses between them."""
    by_device: dict[object, list[_Segment]] = {}
    for one in segments:
        by_device.setdefault(str(one[1].get("hash_deviceid")), []).append(one)
    for own in by_device.values():
        night: list[_Segment] = []
        last: datetime | None = None
        for one in _in_time(own):
            start = _moment(one[1].get("startdate"))
            is_new = start is None or last is None or start - last > _PAUSE
            if night and is_new:
                yield [item for item, _ in night], [fields for _, fields in night]
                night = []
            night.append(one)
            last = _moment(one[1].get("enddate")) or start
        if night:
            yield [item for item, _ in night], [fields for _, fields in night]


_PAUSE = timedelta(seconds=_NEW_NIGHT_SECONDS)


def _night(
    page: Page,
    items: list[msgspec.Raw],
    named: str,
    context: Mapping[str, object],
    ended_at: datetime | None = None,
) -> Record:
    day = read_date(page.context.get("date")) if "night" in page.context else None
    return Record(
        page.resource,
        named,
        b'{"series":[' + b",".join(map(bytes, items)) + b"]}",
        day or local_date_of(ended_at or page.fetched_at, _zone(context)),
        context,
    )


# --- bodies of unknown origin


def _listed(answer: object, key: str) -> list[Mapping[str, object]]:
    """Objects of the list under `key` or of the bare list; none when it holds anything else."""
    inner = answer
    if isinstance(answer, dict):
        body = answer.get("body", answer)
        inner = body.get(key) if isinstance(body, dict) else None
    if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
        return []
    return inner


def _recognise(resource: str, answer: object) -> bool:
    if isinstance(answer, dict):
        body = answer.get("body", answer)
        if not isinstance(body, dict):
            return False
        if resource in ("measure", "activity") and isinstance(body.get(_KEYS[resource]), list):
            # The name of the list says it all, whatever fields were asked for.
            listed = body[_KEYS[resource]]
            return all(isinstance(one, dict) and "date" in one for one in listed)
        if resource == "intraday":
            series = body.get("series")
            return isinstance(series, dict) and bool(series) and all(map(_is_second, series))
    if resource == "intraday":
        return False
    found = _listed(answer, _KEYS[resource])
    wanted, unwanted = _MARKS[resource]
    return bool(found) and all(wanted <= one.keys() and not unwanted & one.keys() for one in found)


def _is_second(key: object) -> bool:
    return isinstance(key, str) and key.isdigit()


_KEYS = {
    "measure": "measuregrps",
    "activity": "activities",
    "workout": "series",
    "sleep_summary": "series",
    "sleep": "series",
}
# Fields that tell an item of a listing from all others: those it has, those it has not.
_MARKS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "measure": (frozenset({"date", "measures"}), frozenset()),
    "activity": (frozenset({"date", "steps"}), frozenset({"startdate", "data"})),
    "workout": (frozenset({"startdate", "enddate", "category"}), frozenset({"state"})),
    "sleep_summary": (
        frozenset({"startdate", "enddate", "data"}),
        frozenset({"state", "category"}),
    ),
    "sleep": (frozenset({"startdate", "enddate", "state"}), frozenset()),
}

# --- records → columns

_CONTEXT: Mapping[str, pl.DataType] = {"timezone": pl.String(), "profile": pl.String()}


def _share(column: str) -> pl.Expr:
    """A share in percent; up to one it is told as a fraction."""
    value = pl.col(column)
    return pl.when(value <= 1).then(fraction_to_percent(value)).otherwise(value)


_ZONES = ("light", "moderate", "intense", "maximal")
_HEART = ("hr_average", "hr_min", "hr_max", *(f"hr_zone_{n}" for n in range(4)))


def _heart(prefix: str = "") -> dict[str, pl.Expr]:
    zones = pl.concat_list(
        pl.struct(
            pl.lit(number, pl.Int64).alias("zone"),
            pl.lit(name).alias("name"),
            pl.col(f"{prefix}hr_zone_{number}").alias("duration_seconds"),
        )
        for number, name in enumerate(_ZONES)
    ).list.filter(pl.element().struct.field("duration_seconds").is_not_null())
    return {
        "heart_rate_summary_avg_hr_bpm": positive(f"{prefix}hr_average"),
        "heart_rate_summary_min_hr_bpm": positive(f"{prefix}hr_min"),
        "heart_rate_summary_max_hr_bpm": positive(f"{prefix}hr_max"),
        "heart_rate_summary_hr_zone": pl.when(zones.list.len() > 0).then(zones),
    }


def _numbers(*names: str) -> dict[str, pl.DataType]:
    return {name: pl.Float64() for name in names}


def _floors(column: str) -> pl.Expr:
    return pl.col(column).round().cast(pl.Int64)


# A goal is no measurement; a group that may be another person's is refused below.
_REAL = pl.col("category").ne_missing(2)


def _measure(column: str, field: str, value: str | None = None) -> Samples:
    source = pl.col(value or field)
    return Samples("body", column, {field: source}, where=_REAL & source.is_not_null())


_WEIGHING = {
    "weight_kg": "weight",
    "height_cm": "height",
    "bodyfat_percentage": "fat_share",
    "lean_mass_g": "fat_free",
    "muscle_mass_g": "muscle",
    "bone_mass_g": "bone",
    "visceral_fat_level": "visceral_fat",
    "BMR": "metabolism",
}
_AFIB = pl.coalesce("afib_ecg", "afib_ppg").cast(pl.Int64)

_MEASURE = Resource(
    name="measure",
    recognise=partial(_recognise, "measure"),
    wire={
        "date": pl.Int64(),
        "attrib": pl.Int64(),
        "category": pl.Int64(),
        "deviceid": pl.String(),
        "model": pl.String(),
        "measures": pl.List(
            pl.Struct(dict.fromkeys(("value", "unit", "type", "position"), pl.String()))
        ),
    },
    split=_split_measures,
    prepare=frames.prepare_measures,
    tables=(
        Scalars("body", {"device_name": pl.col("model")}, where=_REAL & (pl.col("model") != "")),
        Samples(
            "body",
            "measurements_measurements",
            {
                **{field.lower(): pl.col(name) for field, name in _WEIGHING.items()},
                "device_id": pl.col("deviceid"),
            },
            where=_REAL & pl.any_horizontal(pl.col(n).is_not_null() for n in _WEIGHING.values()),
        ),
        Samples(
            "body",
            "blood_pressure_blood_pressure_samples",
            {"systolic_bp": pl.col("systolic"), "diastolic_bp": pl.col("diastolic")},
            where=_REAL & (pl.col("systolic").is_not_null() | pl.col("diastolic").is_not_null()),
        ),
        _measure("heart_heart_rate_detailed_hr_samples", "bpm", "pulse"),
        Samples(
            "body",
            "heart_afib_classification_samples",
            {"afib_classification": AFIB_FLAG.decode(_AFIB)},
            where=_REAL & _AFIB.is_not_null(),
        ),
        _measure(
            "heart_pulse_wave_velocity_samples",
            "pulse_wave_velocity_meters_per_second",
            "pulse_wave",
        ),
        _measure("hydration_hydration_amount_samples", "hydration_kg", "hydration"),
        Samples(
            "body",
            "oxygen_saturation_samples",
            {"percentage": _share("saturation"), "type": pl.lit("blood")},
            where=_REAL & pl.col("saturation").is_not_null(),
        ),
        _measure("oxygen_vo2_samples", "vo2max_ml_per_min_per_kg", "vo2max"),
        _measure("temperature_body_temperature_samples", "temperature_celsius", "body_temperature"),
        _measure("temperature_skin_temperature_samples", "temperature_celsius", "skin_temperature"),
    ),
    rejects=(
        Reject("measures: missing, or a value that is no number", pl.col(frames.BROKEN)),
        Reject("attrib 1: may be of another person", pl.col("attrib").eq_missing(1)),
    ),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("grpid", "created", "modified", "hash_deviceid", "modelid", "comment", "timezone"),
            *("is_inconclusive", "answers"),
        }
    ),
    evidence="recorded",
)

_ACTIVITY = Resource(
    name="activity",
    recognise=partial(_recognise, "activity"),
    wire={
        "date": pl.String(),
        "timezone": pl.String(),
        "model": pl.String(),
        "steps": pl.Int64(),
        **_numbers("distance", "elevation", "soft", "moderate", "intense", "active"),
        **_numbers("calories", "totalcalories", *_HEART),
    },
    split=_split_days,
    prepare=frames.prepare_day,
    tables=(
        Scalars(
            "daily",
            {
                "device_name": pl.col("model"),
                "distance_steps": pl.col("steps"),
                "distance_distance_meters": pl.col("distance"),
                # Floors, whatever the name.
                "distance_floors_climbed": _floors("elevation"),
                "active_durations_activity_seconds": pl.col("active"),
                "active_durations_low_intensity_seconds": pl.col("soft"),
                "active_durations_moderate_intensity_seconds": pl.col("moderate"),
                "active_durations_vigorous_intensity_seconds": pl.col("intense"),
                "calories_net_activity_calories": pl.col("calories"),
                "calories_total_burned_calories": pl.col("totalcalories"),
                **_heart(),
            },
        ),
    ),
    rejects=(Reject("date: missing or not a date", pl.col("local_timestamp").is_null()),),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {"deviceid", "hash_deviceid", "modified", "brand", "modelid", "is_tracker", "created"}
    ),
    evidence="recorded",
)


def _minute(column: str, field: str, value: pl.Expr, **more: pl.Expr) -> Samples:
    return Samples("daily", column, {field: value, **more}, where=value.is_not_null())


_INTRADAY = Resource(
    name="intraday",
    recognise=partial(_recognise, "intraday"),
    wire=_numbers(
        *("steps", "distance", "elevation", "calories", "heart_rate", "spo2_auto"),
        *("rmssd", "sdnn1", "sdnn_1", "duration"),
    ),
    split=_split_minutes,
    prepare=partial(frames.prepare_instant, seconds="context.at", told="context.timezone"),
    tables=(
        _minute("distance_detailed_step_samples", "steps", pl.col("steps")),
        _minute("distance_detailed_distance_samples", "distance_meters", pl.col("distance")),
        _minute("distance_detailed_floors_climbed_samples", "floors_climbed", pl.col("elevation")),
        _minute("calories_calorie_samples", "calories", pl.col("calories")),
        _minute("heart_rate_detailed_hr_samples", "bpm", positive("heart_rate")),
        _minute("heart_rate_detailed_hrv_samples_rmssd", "hrv_rmssd", positive("rmssd")),
        _minute(
            "heart_rate_detailed_hrv_samples_sdnn",
            "hrv_sdnn",
            pl.coalesce(positive("sdnn1"), positive("sdnn_1")),
        ),
        _minute(
            "oxygen_saturation_samples",
            "percentage",
            pl.when(pl.col("spo2_auto") > 0).then(_share("spo2_auto")),
            type=pl.lit("blood"),
        ),
    ),
    context_wire={**_CONTEXT, "at": pl.Int64()},
    ignored=frozenset(
        {
            *("deviceid", "hash_deviceid", "model", "model_id", "modelid"),
            *("stroke", "pool_lap", "hrv_quality"),
        }
    ),
    evidence="project-fixture",
)

CATEGORIES: Mapping[int, str] = {
    1: "walking",
    2: "running",
    3: "hiking",
    4: "skating",
    5: "biking",
    6: "biking",
    7: "swimming",
    8: "surfing",
    9: "kitesurfing",
    10: "windsurfing",
    11: "surfing",
    12: "tennis",
    13: "table_tennis",
    14: "squash",
    15: "badminton",
    16: "weightlifting",
    17: "calisthenics",
    18: "elliptical",
    19: "pilates",
    20: "basketball",
    21: "english_football",
    22: "american_football",
    23: "rugby",
    24: "volleyball",
    25: "water_polo",
    26: "horseback_riding",
    27: "golf",
    28: "yoga",
    29: "dancing",
    30: "boxing",
    31: "fencing",
    32: "martial_arts",
    33: "martial_arts",
    34: "skiing",
    35: "snowboarding",
    36: "other",
    128: "unknown",
    187: "rowing",
    188: "zumba",
    191: "baseball",
    192: "handball",
    193: "hockey",
    194: "hockey",
    195: "rock_climbing",
    196: "ice_skating",
    272: "multisport",
    306: "walking",
    307: "indoor_running",
    308: "stationary_biking",
}

_WORKOUT_WIRE: dict[str, pl.DataType] = {
    "id": pl.String(),
    "category": pl.Int64(),
    "attrib": pl.Int64(),
    "timezone": pl.String(),
    **_numbers("startdate", "enddate"),
    **_numbers(
        *(f"data.{name}" for name in ("calories", "manual_calories", "effduration", "distance")),
        *(f"data.{name}" for name in ("manual_distance", "elevation", "spo2_average", *_HEART)),
        *(f"data.{name}" for name in ("steps", "pool_laps", "strokes", "pool_length")),
    ),
}


def _by_hand(name: str, manual: str) -> pl.Expr:
    """What was measured; where nothing was, what the person typed in."""
    return pl.coalesce(pl.col(f"data.{name}"), positive(f"data.{manual}"))


def _count(name: str) -> pl.Expr:
    return pl.col(f"data.{name}").round().cast(pl.Int64)


_WORKOUT = Resource(
    name="workout",
    recognise=partial(_recognise, "workout"),
    wire=_WORKOUT_WIRE,
    parse=partial(frames.parse_flat, wire=_WORKOUT_WIRE),
    list_fields=frames.list_flat_fields,
    split=_split_sessions,
    prepare=frames.prepare_span,
    tables=(
        Scalars(
            "activity",
            {
                "metadata_summary_id": pl.col("record_id"),
                "metadata_type": pl.when(pl.col("category").is_not_null()).then(
                    pl.col("category").replace_strict(
                        dict(CATEGORIES), default="other", return_dtype=pl.String
                    )
                ),
                "metadata_upload_type": pl.when(pl.col("attrib").is_in([2, 4]))
                .then(pl.lit("manual"))
                .when(pl.col("attrib").is_not_null())
                .then(pl.lit("automatic")),
                **SPAN,
                "active_durations_activity_seconds": pl.col("data.effduration"),
                "calories_net_activity_calories": _by_hand("calories", "manual_calories"),
                "distance_summary_distance_meters": _by_hand("distance", "manual_distance"),
                "distance_summary_steps": _count("steps"),
                "distance_summary_floors_climbed": _count("elevation"),
                "distance_summary_swimming_num_laps": _count("pool_laps"),
                "distance_summary_swimming_num_strokes": _count("strokes"),
                "distance_summary_swimming_pool_length_meters": _count("pool_length"),
                "oxygen_avg_saturation_percentage": pl.when(pl.col("data.spo2_average") > 0).then(
                    _share("data.spo2_average")
                ),
                **_heart("data."),
            },
        ),
    ),
    rejects=(NO_SPAN,),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("date", "modified", "created", "model", "model_id", "modelid", "deviceid"),
            *("hash_deviceid", "data", "brand", "is_tracker"),
        }
    ),
    evidence="recorded",
)

_NIGHT = (
    *("total_sleep_time", "asleepduration", "lightsleepduration", "deepsleepduration"),
    *("remsleepduration", "wakeupduration", "sleep_latency", "durationtosleep", "wakeup_latency"),
    *("durationtowakeup", "total_timeinbed", "sleep_efficiency", "nb_rem_episodes", "wakeupcount"),
    *("out_of_bed_count", "hr_average", "hr_min", "hr_max", "rr_average", "rr_min", "rr_max"),
    *("snoring", "snoringepisodecount", "sleep_score"),
)
_SUMMARY_WIRE: dict[str, pl.DataType] = {
    "id": pl.String(),
    "timezone": pl.String(),
    "model": pl.String(),
    "model_id": pl.Int64(),
    **_numbers("startdate", "enddate"),
    **_numbers(*(f"data.{name}" for name in _NIGHT)),
}
_TRACKERS: Mapping[int, str] = {
    51: "Pulse",
    52: "Activite",
    53: "Activite (Pop, Steel)",
    54: "Withings Go",
    55: "Activite Steel HR",
    58: "Pulse HR",
    59: "Activite Steel HR Sport Edition",
    60: "Aura Dock",
    61: "Aura Sensor",
    63: "Aura Sensor V2",
    90: "Move",
    91: "Move ECG",
    92: "Move ECG",
    93: "ScanWatch",
    94: "ScanWatch 2",
    95: "ScanWatch Light",
}
_ASLEEP = "sleep_durations_asleep_"
_AWAKE = "sleep_durations_awake_"


def _of_night(name: str, deprecated: str | None = None) -> pl.Expr:
    value = pl.col(f"data.{name}")
    return pl.coalesce(value, pl.col(f"data.{deprecated}")) if deprecated else value


_SLEEP_SUMMARY = Resource(
    name="sleep_summary",
    recognise=partial(_recognise, "sleep_summary"),
    wire=_SUMMARY_WIRE,
    parse=partial(frames.parse_flat, wire=_SUMMARY_WIRE),
    list_fields=frames.list_flat_fields,
    split=_split_sessions,
    prepare=frames.prepare_span,
    tables=(
        Scalars(
            "sleep",
            {
                "metadata_summary_id": pl.col("record_id"),
                # A tracker or a mat.
                "metadata_upload_type": pl.when(pl.col("model").is_in(["16", "32"])).then(
                    pl.lit("automatic")
                ),
                **SPAN,
                "device_name": pl.col("model_id").replace_strict(
                    dict(_TRACKERS), default=None, return_dtype=pl.String
                ),
                f"{_ASLEEP}duration_asleep_state_seconds": _of_night(
                    "total_sleep_time", "asleepduration"
                ),
                f"{_ASLEEP}duration_light_sleep_state_seconds": _of_night("lightsleepduration"),
                f"{_ASLEEP}duration_deep_sleep_state_seconds": _of_night("deepsleepduration"),
                f"{_ASLEEP}duration_rem_sleep_state_seconds": _of_night("remsleepduration"),
                f"{_ASLEEP}num_rem_events": _count("nb_rem_episodes"),
                f"{_AWAKE}duration_awake_state_seconds": _of_night("wakeupduration"),
                f"{_AWAKE}sleep_latency_seconds": _of_night("sleep_latency", "durationtosleep"),
                f"{_AWAKE}wake_up_latency_seconds": _of_night("wakeup_latency", "durationtowakeup"),
                f"{_AWAKE}num_wakeup_events": _count("wakeupcount"),
                f"{_AWAKE}num_out_of_bed_events": _count("out_of_bed_count"),
                "sleep_durations_other_duration_in_bed_seconds": _of_night("total_timeinbed"),
                "sleep_durations_sleep_efficiency": _share("data.sleep_efficiency"),
                "heart_rate_summary_avg_hr_bpm": positive("data.hr_average"),
                "heart_rate_summary_min_hr_bpm": positive("data.hr_min"),
                "heart_rate_summary_max_hr_bpm": positive("data.hr_max"),
                "respiration_breaths_avg_breaths_per_min": positive("data.rr_average"),
                "respiration_breaths_min_breaths_per_min": positive("data.rr_min"),
                "respiration_breaths_max_breaths_per_min": positive("data.rr_max"),
                "respiration_snoring_total_snoring_duration_seconds": _of_night("snoring"),
                "respiration_snoring_num_snoring_events": _count("snoringepisodecount"),
                "scores_sleep": _of_night("sleep_score"),
                "data_enrichment_sleep_score": _of_night("sleep_score"),
            },
        ),
    ),
    rejects=(NO_SPAN,),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("date", "modified", "created", "hash_deviceid", "deviceid", "data", "attrib"),
            # Time awake after the first sleep: part of the time awake.
            "data.waso",
            # Indexes of disturbed breathing and of movement: no table has columns for them.
            *("data.apnea_hypopnea_index", "data.breathing_disturbances_intensity"),
            *("data.mvt_active_duration", "data.mvt_score_avg", "data.withings_index"),
            *("data.night_events", "data.core_body_temperature"),
        }
    ),
    evidence="recorded",
)

_SLEEP = Resource(
    name="sleep",
    recognise=partial(_recognise, "sleep"),
    wire={frames.SEGMENTS: frames.SEGMENT_LIST},
    parse=frames.parse_night,
    list_fields=frames.list_night_fields,
    split=_split_stages,
    prepare=frames.prepare_night,
    tables=(
        Scalars(
            "sleep",
            {
                "metadata_summary_id": pl.col("context.night"),
                **SPAN,
                "sleep_durations_hypnogram_samples": pl.col("hypnogram"),
                "heart_rate_detailed_hr_samples": pl.col("hr"),
                "heart_rate_detailed_hrv_samples_rmssd": pl.col("rmssd"),
                "heart_rate_detailed_hrv_samples_sdnn": pl.col("sdnn_1"),
                "respiration_breaths_samples": pl.col("rr"),
                "respiration_snoring_samples": pl.col("snoring"),
            },
        ),
    ),
    rejects=(NO_SPAN,),
    context_wire={
        **_CONTEXT,
        "night": pl.String(),
        "start": pl.Float64(),
        "end": pl.Float64(),
    },
    # The first ones are fields of a segment, which are typed with the list they stand in.
    ignored=frozenset(
        {
            *("startdate", "enddate", "state", *frames.MAPS),
            *("model", "model_id", "hash_deviceid", "deviceid", "mvt_score"),
        }
    ),
    evidence="recorded",
)

_LISTINGS: Mapping[str, tuple[str, str, str, Mapping[str, str]]] = {
    "activity": ("/v2/measure", "getactivity", "activities", {"data_fields": _DAY_FIELDS}),
    "measure": (
        "/measure",
        "getmeas",
        "measuregrps",
        {"meastypes": _MEASURE_TYPES, "category": "1"},
    ),
    "workout": ("/v2/measure", "getworkouts", "series", {"data_fields": _WORKOUT_FIELDS}),
    "sleep_summary": ("/v2/sleep", "getsummary", "series", {"data_fields": _NIGHT_FIELDS}),
}

# --- pushes

# Weight, temperature, pressure and pulse, activity, sleep, the account, electrocardiograms.
TOPICS = (1, 2, 4, 16, 44, 46, 54)
_ACCOUNT = "46"


async def _keep_subscribed(client: Client, connection: Connection) -> None:
    """Make the person's subscriptions once per address; a refusal leaves the polls as they are."""
    subscriber = connection.subscriber
    if subscriber is None:
        return
    mark = content_id(subscriber.callback_url.encode())
    if connection.state.get("subscribed") == mark:
        return
    for topic in TOPICS:
        form = {
            "action": "subscribe",
            "callbackurl": subscriber.callback_url,
            "appli": str(topic),
            "comment": "wearable-pipeline",
        }
        try:
            await client.request("POST", "/notify", form=form)
        except RateLimitedError:
            raise
        except TransientError:
            # Next time: what is fetched now needs no subscription.
            return
        except PermanentError:
            # The address is not one Withings posts to: only another address will do better.
            break
    connection.state["subscribed"] = mark


def read_push(request: PushRequest) -> Iterator[Pushed]:
    """What a notification says: something of an account is new, or the account is gone."""
    form = parse_qs(request.body.decode("utf-8", "replace"))
    account = form.get("userid", [""])[0]
    if not account.isalnum():
        raise BadPayloadError("withings: a notification names no account")
    action = form.get("action", [""])[0]
    if form.get("appli") == [_ACCOUNT] and action in ("delete", "unlink"):
        yield Departed(account)
    else:
        # Fetching the present asks for whatever was modified, of whatever day.
        yield Changed(account)


def answer_challenge(request: PushRequest, secrets: PushSecrets) -> PushAnswer | None:
    """Withings looks whether the address is there before it takes a subscription."""
    if request.method not in ("HEAD", "GET"):
        return None
    given = request.query.get("key", "").encode()
    if not secrets.push_secret or not compare_digest(given, secrets.push_secret.encode()):
        return PushAnswer(401)
    return PushAnswer()


PROVIDER = Provider(
    name="withings",
    title="Withings",
    client_name="WITHINGS",
    summary="Weight, blood pressure, activity and nights of Withings devices.",
    freshness="With each sync of the device; a notification tells of it.",
    docs_url="https://developer.withings.com/api-reference",
    resources=(_MEASURE, _ACTIVITY, _INTRADAY, _WORKOUT, _SLEEP_SUMMARY, _SLEEP),
    fetch=fetch,
    explain=api.explain,
    oauth=OAuth(
        authorize_url="https://account.withings.com/oauth2_user/authorize2",
        token_url="https://wbsapi.withings.net/v2/oauth2",  # noqa: S106 - an address
        api_url="https://wbsapi.withings.net",
        identify=identify,
        scopes=("user.info", "user.metrics", "user.activity", "user.sleepevents"),
        scope_separator=",",
        pkce=False,
        lifetime=timedelta(hours=3),
        revoke=revoke,
        prepare_request=api.prepare_request,
        read_answer=api.read_token_answer,
        read_status=api.read_status,
    ),
    push=Push(
        read=read_push,
        challenge=answer_challenge,
        setup="each person's subscriptions are made with their next fetch, once"
        " WEARABLE_WITHINGS_PUSH_SECRET is set and WEARABLE_SERVE_URL is an https address",
    ),
    refusals=api.REFUSALS,
    poll_interval=timedelta(hours=1),
    open_days=3,
    refetch=timedelta(days=3),
    max_window=timedelta(days=90),
    # 120 requests a minute, for all people of the app together.
    requests_per_second=2.0,
    limit_scope="app",
)
