"""Strava: activities with their laps and what was recorded in them, through API v3.

https://developers.strava.com/docs/reference/

The listing of activities is the index, and not kept: what it names is asked for one by one, because energy
and laps are told only there, and so is what was recorded. An activity whose entry says what it said before
is not asked for again.

`start_date` is an instant. `start_date_local` is a local time whose `Z` means nothing, `timezone` names the
zone behind its standard offset, and `utc_offset` is the offset that held.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import date, timedelta
from functools import partial
from zoneinfo import available_timezones

import msgspec
import polars as pl

from wearable_pipeline.errors import BadPayloadError, NotConnectedError, PermanentError
from wearable_pipeline.model.time import Pair, parse_pair
from wearable_pipeline.providers._activity_types import activity_type
from wearable_pipeline.providers._challenge import echo_challenge
from wearable_pipeline.providers._contract import (
    Answer,
    Changed,
    Client,
    Connection,
    Departed,
    Identity,
    OAuth,
    Page,
    Provider,
    Push,
    Pushed,
    PushRequest,
    Quota,
    Record,
    Refusal,
    Reject,
    Removed,
    Resource,
    Scalars,
    Signature,
    Subscriber,
    Subscription,
    Window,
)
from wearable_pipeline.providers._local_time import (
    local_date_of,
    read_instant,
    zone_of,
)
from wearable_pipeline.providers._moments import at_moment
from wearable_pipeline.providers._paging import follow
from wearable_pipeline.providers._split import (
    content_id,
    decode,
    decode_any,
    item_fields,
    with_fields,
)
from wearable_pipeline.providers._subscriptions import end_all
from wearable_pipeline.providers._windows import instants_around

_API = "/api/v3"
_SUBSCRIPTIONS = f"{_API}/push_subscriptions"
_DAY = timedelta(days=1)
_PAGE = 200
# How long it is remembered what the listing said of an activity; longer than any usual window reaches.
_REMEMBERED = timedelta(days=60)
# What others do to an activity changes nothing in it.
_SOCIAL = frozenset(
    {
        *("achievement_count", "kudos_count", "comment_count", "athlete_count", "photo_count"),
        *("total_photo_count", "pr_count", "has_kudoed", "athlete"),
    }
)
# What was recorded, by the names it is asked for.
_STREAMS = (
    *("time", "distance", "latlng", "altitude", "heartrate", "cadence", "watts"),
    *("temp", "velocity_smooth", "moving", "grade_smooth"),
)

# What a stream needs to be told of its activity.
_OF_STREAMS: Mapping[str, pl.DataType] = {
    "start_date": pl.String(),
    "start_date_local": pl.String(),
    "utc_offset": pl.Float64(),
    "sport": pl.String(),
}

# --- talking to Strava


class _Athlete(msgspec.Struct):
    id: int


async def identify(client: Client, granted: Mapping[str, object]) -> Identity:
    """Whose account it is, having made sure that the box for activities was left ticked."""
    answer = await client.request(
        "GET", f"{_API}/athlete/activities", params={"per_page": 1}, accept=(200, 401, 403)
    )
    if answer.status != 200:
        raise NotConnectedError(
            "strava: the permission to read activities was not given:"
            " start connecting again and leave it ticked"
        )
    athlete = granted.get("athlete")
    if isinstance(athlete, dict) and athlete.get("id"):
        return Identity(account_id=str(athlete["id"]))
    answer = await client.request("GET", f"{_API}/athlete")
    return Identity(account_id=str(decode(answer.body, _Athlete, "strava: the account").id))


async def revoke(client: Client, credentials: Mapping[str, object]) -> None:
    """Take our access back."""
    token = str(credentials.get("access_token", ""))
    await client.request("POST", "/oauth/deauthorize", form={"access_token": token})


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield the activities of the window that are new or changed, each with what was recorded in it."""
    known = connection.state.get("listed")
    before = dict(known) if isinstance(known, dict) else {}
    listed: dict[str, dict[str, object]] = {}
    async for answer in _listing(client, window):
        for item in decode(answer.body, list[msgspec.Raw], "strava: listing activities"):
            fields = item_fields(item)
            if fields.get("id"):
                listed[str(fields["id"])] = fields
    for number, fields in listed.items():
        said, day = _digest(fields), _local_date(fields)
        entry = before.get(number, [None, None])
        if entry[0] == said:
            continue
        # Entered under another day, it is to leave that one.
        context = {"timezone": connection.timezone, "former": entry[1]}
        answer = await client.request("GET", f"{_API}/activities/{number}", accept=(200, 404))
        # Deleted since it was listed.
        if answer.status == 200:
            yield Page("activity", answer.body, answer.fetched_at, context)
            async for page in _streams(client, number, fields, context):
                yield page
        before[number] = [said, day.isoformat() if day else ""]
    oldest = (window.now - _REMEMBERED).date().isoformat()
    connection.state["listed"] = {
        number: entry for number, entry in before.items() if entry[1] >= oldest
    }


async def _listing(client: Client, window: Window) -> AsyncIterator[Answer]:
    begin, end = instants_around(window)
    params: dict[str, str | int] = {
        "after": int(begin.timestamp()),
        "before": int(end.timestamp()),
        "per_page": _PAGE,
    }
    page = 1

    async def ask(number: int | None) -> Answer:
        nonlocal page
        page = number or 1
        return await client.request(
            "GET", f"{_API}/athlete/activities", params={**params, "page": page}
        )

    what = "strava: listing activities"

    def find_next(answer: Answer) -> int | None:
        # Pages may hold fewer than asked for before the last: only an empty one is the end.
        return page + 1 if decode(answer.body, list[msgspec.Raw], what) else None

    async for answer in follow(ask, find_next, what):
        yield answer


async def _streams(
    client: Client, number: str, fields: Mapping[str, object], around: Mapping[str, object]
) -> AsyncIterator[Page]:
    if fields.get("manual") is True:
        return
    answer = await client.request(
        "GET",
        f"{_API}/activities/{number}/streams",
        params={"keys": ",".join(_STREAMS), "key_by_type": "true"},
        accept=(200, 404),
    )
    if answer.status == 200:
        # The body itself says neither which activity it is of, nor when that was.
        context = {
            **around,
            "activity": number,
            "start_date": fields.get("start_date"),
            "start_date_local": fields.get("start_date_local"),
            "utc_offset": fields.get("utc_offset"),
            "sport": fields.get("sport_type") or fields.get("type"),
        }
        yield Page("streams", answer.body, answer.fetched_at, context)


def _digest(fields: Mapping[str, object]) -> str:
    own = {name: value for name, value in fields.items() if name not in _SOCIAL}
    return content_id(msgspec.json.encode(own, order="deterministic"))


# --- answers → records


def _split_activities(page: Page) -> Iterator[Record]:
    what = "strava: reading activities"
    if page.body.lstrip()[:1] == b"[":
        items = decode(page.body, list[msgspec.Raw], what)
    else:
        decode(page.body, dict[str, msgspec.Raw], what)
        items = [msgspec.Raw(page.body.strip())]
    for item, fields in with_fields(items):
        number = fields.get("id")
        day = _local_date(fields) or local_date_of(page.fetched_at, zone_of(page))
        yield Record(
            page.resource,
            str(number) if number else content_id(item),
            item,
            day,
            former_date=_former(page, day),
        )


def _split_streams(page: Page) -> Iterator[Record]:
    number, day = page.context.get("activity"), _local_date(page.context)
    if not number or day is None:
        raise BadPayloadError(
            "strava: reading streams: they do not say of which activity they are, nor when it was"
        )
    decode(page.body, dict[str, msgspec.Raw], "strava: reading streams")
    yield Record(
        page.resource,
        str(number),
        page.body.strip(),
        day,
        {name: page.context.get(name) for name in _OF_STREAMS},
        # Moved to another time, what was recorded has other times.
        is_context_content=True,
        former_date=_former(page, day),
    )


def _former(page: Page, day: date) -> date | None:
    told = page.context.get("former")
    former = date.fromisoformat(told) if isinstance(told, str) and told else day
    return former if former != day else None


def _local_date(fields: Mapping[str, object]) -> date | None:
    start, offset = read_instant(fields.get("start_date")), fields.get("utc_offset")
    if start and isinstance(offset, int | float) and abs(offset) < _DAY.total_seconds():
        return (start + timedelta(seconds=offset)).date()
    local = read_instant(fields.get("start_date_local")) or start
    return local.date() if local else None


# --- bodies of unknown origin


def _recognise_activities(answer: object) -> bool:
    items = [answer] if isinstance(answer, dict) else answer
    if not isinstance(items, list) or not items:
        return False
    return all(isinstance(one, dict) and _is_activity(one) for one in items)


def _is_activity(fields: Mapping[str, object]) -> bool:
    has_kind = bool({"type", "sport_type"} & fields.keys())
    return has_kind and {"id", "start_date", "elapsed_time"} <= fields.keys()


def _recognise_streams(answer: object) -> bool:
    streams = list(answer.values()) if isinstance(answer, dict) else answer
    if not isinstance(streams, list) or not streams:
        return False
    return all(isinstance(one, dict) and {"data", "series_type"} <= one.keys() for one in streams)


# Keys that tell what a body without activities is.
_OTHERS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"object_type", "aspect_type"}), "a webhook event"),
    (frozenset({"hub.challenge"}), "the answer to a challenge"),
    (frozenset({"access_token"}), "a token answer"),
    (frozenset({"message", "errors"}), "a refusal"),
    (frozenset({"errors", "status"}), "a refusal"),
    (frozenset({"message", "status"}), "a refusal"),
    (frozenset({"lap_index"}), "the laps of an activity, which come with the activity itself"),
    (frozenset({"distribution_buckets"}), "the zones of an activity"),
    (frozenset({"all_ride_totals"}), "totals of an athlete"),
    (frozenset({"segment", "elapsed_time"}), "efforts on segments"),
    (frozenset({"firstname"}), "a profile"),
    (frozenset({"heart_rate", "power"}), "the zones of an athlete"),
    (frozenset({"callback_url", "application_id"}), "a subscription"),
)


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer of Strava without activities."""
    answer = decode_any(body)
    one = answer[0] if isinstance(answer, list) and answer else answer
    if not isinstance(one, dict) or _is_activity(one):
        return
    for keys, what in _OTHERS:
        if keys <= one.keys():
            raise BadPayloadError(
                f"strava: reading the answer: it is {what}: it carries no activities"
            )


# --- records → columns


def _naive(column: str) -> pl.Expr:
    """A local time behind a `Z` that means nothing."""
    return parse_pair(pl.col(column).str.strip_suffix("Z")).local_timestamp


def _start(prefix: str = "") -> Pair:
    instant = parse_pair(pl.col(f"{prefix}start_date")).timestamp
    ahead = pl.duration(
        microseconds=(pl.col(f"{prefix}utc_offset") * 1e6).cast(pl.Int64), time_unit="us"
    )
    local = instant.dt.replace_time_zone(None) + ahead
    return Pair(instant, pl.coalesce(local, _naive(f"{prefix}start_date_local")))


def _after(moment: pl.Expr, seconds: pl.Expr) -> pl.Expr:
    return moment + pl.duration(microseconds=(seconds * 1e6).cast(pl.Int64), time_unit="us")


def _prepare_activities(frame: pl.DataFrame) -> pl.DataFrame:
    name = pl.col("timezone").str.extract(r"([A-Za-z][\w+\-]*(?:/[\w+\-]+)*)\s*$", 1)
    known = pl.Series(sorted(available_timezones()))
    timed = at_moment(frame, _start(), pl.when(name.is_in(known.implode())).then(name))
    return timed.with_columns(
        _after(pl.col("timestamp"), pl.col("elapsed_time")).alias("end_at"),
        _after(pl.col("local_timestamp"), pl.col("elapsed_time")).alias("local_end_at"),
        _laps(timed),
    )


_ROW, _POSITION = "\x00row", "\x00position"


def _lists(frame: pl.DataFrame, lines: pl.DataFrame, name: str) -> pl.Series:
    """The column `sample` of `lines` as one list per row of `frame`; null where there is no line."""
    gathered = lines.group_by(_ROW, maintain_order=True).agg(pl.col("sample").alias(name))
    rows = frame.select(pl.int_range(pl.len(), dtype=pl.get_index_type()).alias(_ROW))
    return rows.join(gathered, on=_ROW, how="left", maintain_order="left")[name]


def _laps(timed: pl.DataFrame) -> pl.Series:
    def lap(name: str) -> pl.Expr:
        return pl.col("laps").struct.field(name)

    begin = parse_pair(lap("start_date")).timestamp
    # A lap has the offset of its activity.
    ahead = pl.col("local_timestamp") - pl.col("timestamp").dt.replace_time_zone(None)
    local = begin.dt.replace_time_zone(None) + ahead
    lines = (
        timed.select("timestamp", "local_timestamp", "laps")
        .with_row_index(_ROW)
        .filter(pl.col("laps").list.len() > 0)
        .explode("laps")
        .filter(pl.col("laps").is_not_null())
        .select(
            _ROW,
            pl.struct(
                begin.alias("start_time"),
                local.alias("local_start_time"),
                _after(begin, lap("elapsed_time")).alias("end_time"),
                _after(local, lap("elapsed_time")).alias("local_end_time"),
                lap("distance").alias("distance_meters"),
                lap("average_heartrate").alias("avg_hr_bpm"),
                lap("average_speed").alias("avg_speed_meters_per_second"),
                lap("average_watts").alias("avg_watts"),
                lap("moving_time").cast(pl.Int64, strict=False).alias("active_duration_seconds"),
            ).alias("sample"),
        )
    )
    return _lists(timed, lines, "lap_lines")


# One leg is counted on foot.
_ON_FOOT = ("Run", "TrailRun", "VirtualRun", "Walk", "Hike")


def _cadence(value: pl.Expr, sport: pl.Expr) -> pl.Expr:
    return pl.when(sport.is_in(_ON_FOOT)).then(value * 2).otherwise(value)


def _covered(total: pl.Expr) -> pl.Expr:
    """Way since the sample before, from the way since the start; the total never shrinks."""
    grown = total.cum_max()
    return (grown - grown.shift(1, fill_value=0.0)).over(_ROW)


# Stream → column of samples, field, and what becomes of the values.
_SERIES: Mapping[str, tuple[str, str, pl.Expr]] = {
    "distance": (
        "distance_detailed_distance_samples",
        "distance_meters",
        _covered(pl.col("value")),
    ),
    "altitude": ("distance_detailed_elevation_samples", "elev_meters", pl.col("value")),
    "heartrate": ("heart_rate_detailed_hr_samples", "bpm", pl.col("value")),
    "cadence": (
        "movement_cadence_samples",
        "cadence_rpm",
        _cadence(pl.col("value"), pl.col("sport")),
    ),
    "watts": ("power_power_samples", "watts", pl.col("value")),
    "velocity_smooth": ("movement_speed_samples", "speed_meters_per_second", pl.col("value")),
    "latlng": ("position_position_samples", "coords_lat_lng_deg", pl.col("value")),
}


def _prepare_streams(frame: pl.DataFrame) -> pl.DataFrame:
    timed = at_moment(frame, _start("context."), pl.lit(None, pl.String))
    indexed = timed.with_row_index(_ROW)

    def lay_out(values: str) -> pl.DataFrame:
        return (
            indexed.select(_ROW, pl.col(values).alias("value"))
            .filter(pl.col("value").list.len() > 0)
            .with_columns(pl.int_ranges(0, pl.col("value").list.len()).alias(_POSITION))
            .explode("value", _POSITION)
            .filter(pl.col("value").is_not_null())
        )

    moments = indexed.select(_ROW, "timestamp", "local_timestamp", sport="context.sport")
    clock = (
        lay_out("time.data")
        .join(moments, on=_ROW, maintain_order="left")
        .select(
            _ROW,
            _POSITION,
            "sport",
            _after(pl.col("timestamp"), pl.col("value")).alias("timestamp"),
            _after(pl.col("local_timestamp"), pl.col("value")).alias("local_timestamp"),
        )
    )
    series = []
    for stream, (_, field, made) in _SERIES.items():
        lines = (
            lay_out(f"{stream}.data")
            .join(clock, on=[_ROW, _POSITION], maintain_order="left")
            .select(
                _ROW,
                pl.struct("timestamp", "local_timestamp", made.alias(field)).alias("sample"),
            )
        )
        series.append(_lists(timed, lines, f"{stream}.samples"))
    return timed.with_columns(series)


_NO_START = Reject("start_date: missing or no instant", pl.col("timestamp").is_null())
_NO_SPAN = Reject("elapsed_time: missing or below zero", pl.col("elapsed_time").fill_null(-1) < 0)

# Words of Strava and those of the code list.
SPORTS: Mapping[str, str] = {
    "AlpineSki": "downhill_skiing",
    "BackcountrySki": "back_country_skiing",
    "Badminton": "badminton",
    "Basketball": "basketball",
    "Canoeing": "canoeing",
    "Cricket": "cricket",
    "Crossfit": "crossfit",
    "Dance": "dancing",
    "EBikeRide": "e_biking",
    "EMountainBikeRide": "e_mountain_biking",
    "Elliptical": "elliptical",
    "Golf": "golf",
    "GravelRide": "gravel_cycling",
    "Handcycle": "hand_biking",
    "HighIntensityIntervalTraining": "hiit",
    "Hike": "hiking",
    "IceSkate": "ice_skating",
    "InlineSkate": "inline_skating",
    "Kayaking": "kayaking",
    "Kitesurf": "kitesurfing",
    "MountainBikeRide": "mountain_biking",
    "NordicSki": "cross_country_skiing",
    "Padel": "padel_tennis",
    "PhysicalTherapy": "physical_therapy",
    "Pilates": "pilates",
    "Racquetball": "racquetball",
    "Ride": "biking",
    "RockClimbing": "rock_climbing",
    "RollerSki": "roller_skiing",
    "Rowing": "rowing",
    "Run": "running",
    "Sail": "sailing",
    "Skateboard": "skateboarding",
    "Snowboard": "snowboarding",
    "Snowshoe": "snowshoeing",
    "Soccer": "english_football",
    "Squash": "squash",
    "StairStepper": "stair_climbing_machine",
    "StandUpPaddling": "stand_up_paddleboarding",
    "Surfing": "surfing",
    "Swim": "swimming",
    "TableTennis": "table_tennis",
    "Tennis": "tennis",
    "TrailRun": "trail_running",
    "Velomobile": "biking",
    "VirtualRide": "stationary_biking",
    "VirtualRow": "rowing_machine",
    "VirtualRun": "treadmill_running",
    "Volleyball": "volleyball",
    "Walk": "walking",
    "WeightTraining": "weightlifting",
    "Wheelchair": "wheelchair",
    "Windsurf": "windsurfing",
    "Yoga": "yoga",
}

_SPORT = pl.coalesce("sport_type", "type")
# Null where the person wore nothing: a zero then is no measurement.
_HAS_HEART = pl.col("has_heartrate").ne_missing(other=False)


def _place(column: str) -> pl.Expr:
    """Latitude and longitude; an empty list is no place."""
    return pl.when(pl.col(column).list.len() == 2).then(pl.col(column))


_LAP: Mapping[str, pl.DataType] = {
    "start_date": pl.String(),
    "elapsed_time": pl.Float64(),
    "moving_time": pl.Float64(),
    "distance": pl.Float64(),
    "average_speed": pl.Float64(),
    "average_heartrate": pl.Float64(),
    "average_watts": pl.Float64(),
}
_NUMBERS = (
    *("utc_offset", "elapsed_time", "moving_time", "distance", "calories", "kilojoules"),
    *("total_elevation_gain", "elev_high", "elev_low", "average_speed", "max_speed"),
    *("average_cadence", "average_watts", "max_watts", "average_heartrate", "max_heartrate"),
)
_WORDS = (
    *("name", "type", "sport_type", "start_date", "start_date_local", "timezone"),
    *("location_city", "location_state", "location_country", "device_name", "map.summary_polyline"),
)

_ACTIVITY = Resource(
    name="activity",
    recognise=_recognise_activities,
    wire={
        **dict.fromkeys(_WORDS, pl.String()),
        **dict.fromkeys(_NUMBERS, pl.Float64()),
        "manual": pl.Boolean(),
        "has_heartrate": pl.Boolean(),
        "start_latlng": pl.List(pl.Float64()),
        "end_latlng": pl.List(pl.Float64()),
        "laps": pl.List(pl.Struct(dict(_LAP))),
    },
    split=_split_activities,
    prepare=_prepare_activities,
    tables=(
        Scalars(
            "activity",
            {
                "metadata_summary_id": pl.col("record_id"),
                "metadata_name": pl.col("name"),
                "metadata_type": activity_type(_SPORT, SPORTS),
                "metadata_upload_type": pl.col("manual").replace_strict(
                    {True: "manual", False: "automatic"}, default=None, return_dtype=pl.String
                ),
                "metadata_city": pl.col("location_city"),
                "metadata_state": pl.col("location_state"),
                "metadata_country": pl.col("location_country"),
                "start_at": pl.col("timestamp"),
                "local_start_at": pl.col("local_timestamp"),
                "end_at": pl.col("end_at"),
                "local_end_at": pl.col("local_end_at"),
                "device_name": pl.col("device_name"),
                "active_durations_activity_seconds": pl.col("moving_time"),
                "calories_total_burned_calories": pl.col("calories"),
                "work_work_kilojoules": pl.col("kilojoules"),
                "distance_summary_distance_meters": pl.col("distance"),
                "distance_summary_elevation_gain_actual_meters": pl.col("total_elevation_gain"),
                "distance_summary_elevation_max_meters": pl.col("elev_high"),
                "distance_summary_elevation_min_meters": pl.col("elev_low"),
                "heart_rate_summary_avg_hr_bpm": pl.when(_HAS_HEART).then("average_heartrate"),
                "heart_rate_summary_max_hr_bpm": pl.when(_HAS_HEART).then("max_heartrate"),
                "movement_avg_speed_meters_per_second": pl.col("average_speed"),
                "movement_max_speed_meters_per_second": pl.col("max_speed"),
                "movement_avg_cadence_rpm": _cadence(pl.col("average_cadence"), _SPORT),
                "power_avg_watts": pl.col("average_watts"),
                "power_max_watts": pl.col("max_watts"),
                "polyline_map_summary_polyline": pl.col("map.summary_polyline"),
                "position_start_pos_lat_lng_deg": _place("start_latlng"),
                "position_end_pos_lat_lng_deg": _place("end_latlng"),
                "lap_laps": pl.col("lap_lines"),
            },
        ),
    ),
    rejects=(_NO_START, _NO_SPAN),
    ignored=_SOCIAL
    | {
        *("id", "resource_state", "external_id", "upload_id", "upload_id_str", "map.id"),
        *("map.polyline", "map.resource_state", "trainer", "commute", "private", "visibility"),
        *("flagged", "gear_id", "gear", "from_accepted_tag", "workout_type", "description"),
        *("start_latitude", "start_longitude", "device_watts", "average_temp", "photos"),
        *(
            "segment_efforts",
            "best_efforts",
            "splits_metric",
            "splits_standard",
            "similar_activities",
        ),
        *("available_zones", "stats_visibility", "highlighted_kudosers", "hide_from_home"),
        *("heartrate_opt_out", "display_hide_heartrate_option", "prefer_perceived_exertion"),
        *("embed_token", "segment_leaderboard_opt_out", "leaderboard_opt_out", "partner_brand_tag"),
        # Ratings of effort, and power weighted by its variation: no column means the same.
        *("suffer_score", "perceived_exertion", "weighted_average_watts"),
    },
    evidence="recorded",
)

_STREAM = Resource(
    name="streams",
    recognise=_recognise_streams,
    wire={
        "time.data": pl.List(pl.Float64()),
        **{
            f"{stream}.data": pl.List(pl.List(pl.Float64()) if stream == "latlng" else pl.Float64())
            for stream in _SERIES
        },
    },
    split=_split_streams,
    prepare=_prepare_streams,
    tables=(
        Scalars(
            "activity",
            {column: pl.col(f"{stream}.samples") for stream, (column, _, _) in _SERIES.items()},
            key={"metadata_summary_id": pl.col("record_id")},
        ),
    ),
    rejects=(_NO_START,),
    context_wire=_OF_STREAMS,
    ignored=frozenset(
        {
            *(
                f"{stream}.{part}"
                for stream in ("time", *_SERIES)
                for part in ("type", "series_type", "original_size", "resolution")
            ),
            *("temp", "moving", "grade_smooth"),
        }
    ),
)

# --- pushes


class _Event(msgspec.Struct):
    object_type: str
    object_id: int
    aspect_type: str
    owner_id: int
    updates: dict[str, object] = {}


class _Made(msgspec.Struct):
    id: int
    callback_url: str = ""


def read_push(request: PushRequest) -> Iterator[Pushed]:
    """What an event says: an activity changed or is gone, or the person has left."""
    event = decode(request.body, _Event, "strava: reading an event")
    owner, number = str(event.owner_id), str(event.object_id)
    if event.object_type == "athlete":
        if str(event.updates.get("authorized")).lower() == "false":
            yield Departed(owner)
    elif event.object_type == "activity":
        if event.aspect_type == "delete":
            yield Removed(owner, "activity", (number,))
            yield Removed(owner, "streams", (number,))
        else:
            yield Changed(owner)


def read_signature(header: str) -> tuple[str, str]:
    """Signature and time of `t=…,v1=…`."""
    parts = dict(part.strip().split("=", 1) for part in header.split(","))
    return parts["v1"], parts["t"]


answer_challenge = partial(echo_challenge, proof="hub.verify_token", challenge="hub.challenge")


def _app(subscriber: Subscriber) -> dict[str, str]:
    return {
        "client_id": subscriber.secrets.client_id,
        "client_secret": subscriber.secrets.client_secret,
    }


async def _subscriptions(client: Client, subscriber: Subscriber) -> list[_Made]:
    answer = await client.request("GET", _SUBSCRIPTIONS, params=_app(subscriber))
    return decode(answer.body, list[_Made], "strava: reading the subscriptions")


async def subscribe(client: Client, subscriber: Subscriber) -> list[Subscription]:
    """The one subscription an app may have, for all people and events; it does not end by itself."""
    there = await _subscriptions(client, subscriber)
    ours = [one for one in there if one.callback_url == subscriber.callback_url]
    if not ours and there:
        raise PermanentError(
            "strava: the app's one subscription leads to another address: end it there first"
        )
    if not ours:
        form = {
            **_app(subscriber),
            "callback_url": subscriber.callback_url,
            "verify_token": subscriber.secrets.push_secret,
        }
        answer = await client.request("POST", _SUBSCRIPTIONS, form=form, accept=(201, 200))
        ours = [decode(answer.body, _Made, "strava: subscribing")]
    return [Subscription(str(one.id), "activity and athlete") for one in ours]


async def unsubscribe(client: Client, subscriber: Subscriber) -> int:
    """End the subscription to our address; how many there were."""
    there = await _subscriptions(client, subscriber)
    ids = [one.id for one in there if one.callback_url == subscriber.callback_url]
    return await end_all(client, _SUBSCRIPTIONS, ids, params=_app(subscriber))


PROVIDER = Provider(
    name="strava",
    title="Strava",
    client_name="STRAVA",
    summary="Activities with laps, way, heart rate, power and cadence.",
    freshness="When an activity is uploaded; an event tells of it.",
    docs_url="https://developers.strava.com/docs/reference/",
    resources=(_ACTIVITY, _STREAM),
    fetch=fetch,
    explain=explain,
    oauth=OAuth(
        authorize_url="https://www.strava.com/oauth/authorize",
        token_url="https://www.strava.com/oauth/token",  # noqa: S106 - an address
        api_url="https://www.strava.com",
        identify=identify,
        scopes=("read", "activity:read_all"),
        scope_separator=",",
        pkce=False,
        lifetime=timedelta(hours=6),
        revoke=revoke,
    ),
    push=Push(
        read=read_push,
        proof=Signature(
            header="x-strava-signature",
            message=lambda timestamp, body: timestamp.encode() + b"." + body,
            parse=read_signature,
        ),
        challenge=answer_challenge,
        subscribe=subscribe,
        unsubscribe=unsubscribe,
    ),
    refusals=(
        Refusal(
            401,
            "not_connected",
            "the permission to read activities was not given: connect again and leave it ticked",
            containing=b"activity:read",
        ),
    ),
    poll_interval=timedelta(hours=1),
    open_days=3,
    # Uploads come late and are edited; the listing of a month is one page, and only what changed is read.
    refetch=timedelta(days=30),
    max_window=timedelta(days=31),
    max_concurrency=4,
    # Of reads 100 in a quarter of an hour and 1,000 a day, for all people of the app together.
    requests_per_second=0.2,
    quotas=(Quota(100, timedelta(minutes=15)), Quota(1_000, timedelta(days=1))),
    limit_scope="app",
)
