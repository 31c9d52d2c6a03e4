"""Oura: nights, days, workouts and heart rate of a ring, through API v2.

https://cloud.ouraring.com/v2/docs

A document has an id, a `day` the provider counts it to, and times with the offset where the person
was. The day of activity runs from 04:00 to 04:00; `daily` rows take that span where there is
activity. Heart rate is in UTC without an offset, tags in local time without one.

`personal_info` has no date at all: it is stored when it differs from what was there before, under the
day that was noticed.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial

import msgspec
import polars as pl

from wearable_pipeline.errors import BadPayloadError, PermanentError
from wearable_pipeline.model.columns import INSTANT, LOCAL
from wearable_pipeline.model.time import Pair, parse_pair
from wearable_pipeline.providers._activity_types import OWN_WORDS, activity_type
from wearable_pipeline.providers._challenge import echo_challenge
from wearable_pipeline.providers._contract import (
    Changed,
    Client,
    Connection,
    Identity,
    OAuth,
    Page,
    Provider,
    Push,
    Pushed,
    PushRequest,
    Record,
    Refusal,
    Reject,
    Removed,
    Resource,
    Samples,
    Scalars,
    Signature,
    Subscriber,
    Subscription,
    Window,
)
from wearable_pipeline.providers._local_time import (
    compact,
    local_date_of,
    read_date,
    read_instant,
    wall_clock,
    zone_of,
)
from wearable_pipeline.providers._moments import NO_SPAN, SPAN, at_moment, on_calendar
from wearable_pipeline.providers._noticed import (
    NOTICED,
    pages_if_changed,
    prepare_noticed,
    split_noticed,
)
from wearable_pipeline.providers._paging import follow_tokens
from wearable_pipeline.providers._series import regular_samples
from wearable_pipeline.providers._split import (
    IsOne,
    content_id,
    decode,
    decode_any,
    holds_items,
    items_of,
    with_fields,
)
from wearable_pipeline.providers._subscriptions import end_all
from wearable_pipeline.providers._values import not_empty, positive
from wearable_pipeline.providers._windows import instants_around

_PATH = "/v2/usercollection"
_SUBSCRIPTIONS = "/v2/webhook/subscription"
_DAY = timedelta(days=1)

# --- talking to Oura


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw]
    next_token: str | None = None


class _PersonalInfo(msgspec.Struct):
    id: str


async def identify(client: Client, granted: Mapping[str, object]) -> Identity:
    """Whose ring it is."""
    answer = await client.request("GET", f"{_PATH}/personal_info")
    found = decode(answer.body, _PersonalInfo, "oura: reading the account")
    return Identity(account_id=found.id)


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield the documents of the window, collection by collection, and who the person is."""
    context = {"timezone": connection.timezone}
    days = {
        "start_date": window.start.isoformat(),
        # Several collections leave the last day out.
        "end_date": (window.end + _DAY).isoformat(),
    }
    begin, end = instants_around(window)
    times = {
        "start_datetime": begin.isoformat(),
        "end_datetime": min(end, window.now + _DAY).isoformat(),
    }
    asked = {**{resource.name: days for resource in _DATED}, _HEART_RATE.name: times}
    refused: list[str] = []
    for collection, params in asked.items():
        what = f"oura: reading {collection}"
        path = f"{_PATH}/{collection}"
        async for answer in follow_tokens(client, path, params, "next_token", _Answer, what):
            if answer.status == 403:
                refused.append(collection)
                break
            yield Page(collection, answer.body, answer.fetched_at, context)
    if len(refused) == len(asked):
        raise PermanentError(
            "oura: every collection is refused (HTTP 403): the membership has lapsed,"
            " or no permission was given"
        )
    answer = await client.request("GET", f"{_PATH}/{_PERSON.name}")
    if answer.status != 403:
        for page in pages_if_changed(connection, _PERSON.name, answer, context):
            yield page


# --- answers → records


def _items(page: Page) -> list[msgspec.Raw]:
    return items_of(page, "data", _DOCUMENTS[page.resource], f"oura: reading {page.resource}")


def _split(page: Page, day: str = "day") -> Iterator[Record]:
    for item, fields in with_fields(_items(page)):
        named = fields.get("id")
        yield Record(
            page.resource,
            str(named) if named else content_id(item),
            item,
            read_date(fields.get(day)) or local_date_of(page.fetched_at, zone_of(page)),
            provider_updated_at=_updated_at(fields),
            is_deleted=fields.get("type") == "deleted",
        )


def _split_heart_rate(page: Page) -> Iterator[Record]:
    zone = zone_of(page)
    context: Mapping[str, object] = {"timezone": zone} if zone else {}
    for item, fields in with_fields(_items(page)):
        at = read_instant(fields.get("timestamp"))
        # Twice the same second from two sources is two readings.
        record_id = f"{compact(at)}/{fields.get('source')}" if at else content_id(item)
        yield Record(
            page.resource,
            record_id,
            item,
            local_date_of(at or page.fetched_at, zone),
            context,
        )


def _split_personal_info(page: Page) -> Iterator[Record]:
    decode(page.body, _PersonalInfo, "oura: reading personal_info")
    yield split_noticed(page)


def _updated_at(fields: Mapping[str, object]) -> datetime | None:
    meta = fields.get("meta")
    return read_instant(meta.get("updated_at")) if isinstance(meta, dict) else None


# --- bodies of unknown origin


def _has(*keys: str) -> IsOne:
    wanted = frozenset(keys)
    return lambda document: wanted <= document.keys()


def _is_scored(part: str) -> IsOne:
    """Daily documents of one shape, told apart by what their score is made of."""

    def check(document: Mapping[str, object]) -> bool:
        parts = document.get("contributors")
        is_daily = "day" in document and "steps" not in document
        return is_daily and isinstance(parts, dict) and part in parts

    return check


# What tells a document of each collection from all others.
_DOCUMENTS: Mapping[str, IsOne] = {
    "daily_activity": _has("day", "steps", "active_calories"),
    "daily_readiness": _is_scored("previous_night"),
    "daily_sleep": _is_scored("total_sleep"),
    "daily_stress": _has("day", "stress_high", "recovery_high"),
    "daily_spo2": _has("day", "spo2_percentage"),
    "daily_resilience": _is_scored("daytime_recovery"),
    "daily_cardiovascular_age": _has("day", "vascular_age"),
    "vO2_max": _has("day", "vo2_max"),
    "sleep": _has("day", "bedtime_start", "bedtime_end"),
    "workout": _has("day", "activity", "start_datetime", "end_datetime", "intensity"),
    "session": lambda d: (
        _has("day", "start_datetime", "end_datetime", "type")(d) and "activity" not in d
    ),
    "enhanced_tag": _has("start_day", "start_time"),
    "heartrate": _has("bpm", "source", "timestamp"),
    "personal_info": lambda d: "id" in d and bool({"age", "weight", "height"} & d.keys()),
}


def _recognise(resource: str, answer: object) -> bool:
    return holds_items(answer, "data", _DOCUMENTS[resource])


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer of Oura without documents."""
    answer = decode_any(body)
    if not isinstance(answer, dict) or "data" in answer:
        return
    if answer.keys() == {"event_type", "data_type", "object_id", "event_time", "user_id"}:
        raise BadPayloadError("oura: reading the answer: it is a webhook event: it has no readings")
    if "detail" in answer or {"title", "status"} <= answer.keys():
        raise BadPayloadError("oura: reading the answer: it is a refusal: it carries no readings")


# --- records → columns


def _at(column: str) -> Pair:
    return parse_pair(pl.col(column))


def _by_stamp(column: str, frame: pl.DataFrame) -> pl.DataFrame:
    return at_moment(frame, _at(column))


def _by_day(column: str, frame: pl.DataFrame) -> pl.DataFrame:
    """A document of a day without any time of day: a day on the person's calendar."""
    return at_moment(frame, on_calendar(pl.col(column)))


def _prepare_heart_rate(frame: pl.DataFrame) -> pl.DataFrame:
    instant = _at("timestamp").timestamp
    zoned = wall_clock(frame, instant, "context.timezone")
    return frame.with_columns(
        instant.cast(INSTANT).alias("timestamp"),
        zoned.cast(LOCAL).alias("local_timestamp"),
        pl.when(zoned.is_not_null()).then(pl.col("context.timezone")).alias("timezone"),
        pl.when(zoned.is_not_null())
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    )


def _with_series(frame: pl.DataFrame, *named: tuple[str, str]) -> pl.DataFrame:
    """`frame` with a column `<path>.samples` for every (path, field) of Oura's sample objects."""
    return frame.with_columns(
        regular_samples(
            frame,
            pl.col(f"{path}.items"),
            _at(f"{path}.timestamp"),
            pl.col(f"{path}.interval"),
            field,
        ).alias(f"{path}.samples")
        for path, field in named
    )


def _with_states(
    frame: pl.DataFrame, digits: pl.Expr, start: Pair, step: pl.Expr, field: str, names: list[str]
) -> pl.Series:
    """Samples from a text of one digit per step; `names` by the digit, changes only."""
    states = digits.str.split("").list.eval(
        pl.element().replace_strict(
            {str(digit): name for digit, name in enumerate(names)},
            default=None,
            return_dtype=pl.String,
        )
    )
    return regular_samples(frame, states, start, step, field, only_changes=True)


def _contributors(wire: Mapping[str, pl.DataType], prefix: str) -> pl.Expr:
    """What a score is made of, as far as it was told; null when nothing was."""
    names = [path.removeprefix(prefix) for path in wire if path.startswith(prefix)]
    parts = pl.concat_list(
        pl.struct(
            pl.lit(name).alias("contributor_name"),
            pl.col(prefix + name).cast(pl.Float64).alias("contributor_score"),
        )
        for name in names
    )
    return not_empty(
        parts.list.filter(pl.element().struct.field("contributor_score").is_not_null())
    )


def _scored(names: str, prefix: str = "contributors.") -> dict[str, pl.DataType]:
    return {f"{prefix}{name}": pl.Float64() for name in names.split()}


def _sample(path: str) -> dict[str, pl.DataType]:
    return {
        f"{path}.interval": pl.Float64(),
        f"{path}.items": pl.List(pl.Float64()),
        f"{path}.timestamp": pl.String(),
    }


_ACTIVITY_LEVELS = [
    "unknown",
    "rest",
    "inactive",
    "low_intensity",
    "medium_intensity",
    "high_intensity",
]
# 1 deep, 2 light, 3 REM, 4 awake; no 0.
_STAGES = ["unknown", "deep_sleep", "light_sleep", "rem_sleep", "awake"]


def _prepare_activity(frame: pl.DataFrame) -> pl.DataFrame:
    start = _at("timestamp")
    levels = _with_states(
        frame, pl.col("class_5_min"), start, pl.lit(300.0), "activity_level", _ACTIVITY_LEVELS
    ).alias("levels")
    # Read before the column of that name becomes the instant.
    ends = frame.select(
        (start.timestamp + _DAY).alias("end_at"),
        (start.local_timestamp + _DAY).alias("local_end_at"),
    )
    series = _with_series(frame, ("met", "level"))["met.samples"]
    return at_moment(frame, start).with_columns(levels, series, *ends.get_columns())


def _prepare_sleep(frame: pl.DataFrame) -> pl.DataFrame:
    start = _at("bedtime_start")
    has_fine = pl.col("sleep_phase_30_sec").is_not_null()
    hypnogram = _with_states(
        frame,
        pl.coalesce("sleep_phase_30_sec", "sleep_phase_5_min"),
        start,
        pl.when(has_fine).then(30.0).otherwise(300.0),
        "level",
        _STAGES,
    ).alias("hypnogram")
    with_series = _with_series(frame, ("heart_rate", "bpm"), ("hrv", "hrv_rmssd"))
    return at_moment(with_series, start).with_columns(
        hypnogram, *_at("bedtime_end").named("end_at", "local_end_at")
    )


def _prepare_span(frame: pl.DataFrame) -> pl.DataFrame:
    return at_moment(frame, _at("start_datetime")).with_columns(
        *_at("end_datetime").named("end_at", "local_end_at")
    )


def _prepare_session(frame: pl.DataFrame) -> pl.DataFrame:
    series = (("heart_rate", "bpm"), ("heart_rate_variability", "hrv_rmssd"))
    return _prepare_span(_with_series(frame, *series))


_NO_TIME = Reject("day: missing or not a date", pl.col("local_timestamp").is_null())
_META = ("id", "meta", "day")


def _seconds(*names: str) -> pl.Expr:
    """Sum of durations; null where one of them is."""
    return pl.sum_horizontal(*names, ignore_nulls=False).cast(pl.Float64)


def _minutes(name: str) -> pl.Expr:
    return pl.col(name) / 60


_ACTIVITY = Resource(
    name="daily_activity",
    recognise=partial(_recognise, "daily_activity"),
    wire={
        "timestamp": pl.String(),
        "score": pl.Float64(),
        "steps": pl.Int64(),
        "active_calories": pl.Float64(),
        "total_calories": pl.Float64(),
        "equivalent_walking_distance": pl.Float64(),
        "high_activity_time": pl.Float64(),
        "medium_activity_time": pl.Float64(),
        "low_activity_time": pl.Float64(),
        "sedentary_time": pl.Float64(),
        "resting_time": pl.Float64(),
        "inactivity_alerts": pl.Int64(),
        "average_met_minutes": pl.Float64(),
        "class_5_min": pl.String(),
        **_sample("met"),
    },
    split=_split,
    prepare=_prepare_activity,
    tables=(
        Scalars(
            "daily",
            {
                **SPAN,
                "scores_activity": pl.col("score"),
                "distance_steps": pl.col("steps"),
                "distance_distance_meters": pl.col("equivalent_walking_distance"),
                "calories_net_activity_calories": pl.col("active_calories"),
                "calories_total_burned_calories": pl.col("total_calories"),
                "active_durations_activity_seconds": _seconds(
                    "high_activity_time", "medium_activity_time", "low_activity_time"
                ),
                "active_durations_inactivity_seconds": pl.col("sedentary_time"),
                "active_durations_rest_seconds": pl.col("resting_time"),
                "active_durations_low_intensity_seconds": pl.col("low_activity_time"),
                "active_durations_moderate_intensity_seconds": pl.col("medium_activity_time"),
                "active_durations_vigorous_intensity_seconds": pl.col("high_activity_time"),
                "active_durations_num_continuous_inactive_periods": pl.col("inactivity_alerts"),
                "active_durations_activity_levels_samples": pl.col("levels"),
                "met_avg_level": pl.col("average_met_minutes"),
                "met_num_high_intensity_minutes": _minutes("high_activity_time"),
                "met_num_moderate_intensity_minutes": _minutes("medium_activity_time"),
                "met_num_low_intensity_minutes": _minutes("low_activity_time"),
                "met_num_inactive_minutes": _minutes("sedentary_time"),
                "met_met_samples": pl.col("met.samples"),
            },
        ),
    ),
    rejects=(Reject("timestamp: missing or without an offset", pl.col("timestamp").is_null()),),
    ignored=frozenset(
        {
            *_META,
            *("contributors", "high_activity_met_minutes", "medium_activity_met_minutes"),
            *("low_activity_met_minutes", "sedentary_met_minutes", "meters_to_target"),
            *("non_wear_time", "target_calories", "target_meters"),
        }
    ),
    evidence="project-fixture",
)

_READINESS_PARTS = (
    "activity_balance body_temperature hrv_balance previous_day_activity previous_night"
    " recovery_index resting_heart_rate sleep_balance sleep_regularity"
)
_READINESS_WIRE: dict[str, pl.DataType] = {
    "day": pl.String(),
    "score": pl.Float64(),
    **_scored(_READINESS_PARTS),
}


_READINESS = Resource(
    name="daily_readiness",
    recognise=partial(_recognise, "daily_readiness"),
    wire=_READINESS_WIRE,
    split=_split,
    prepare=partial(_by_day, "day"),
    rejects=(_NO_TIME,),
    tables=(
        Scalars(
            "daily",
            {
                "scores_recovery": pl.col("score"),
                "data_enrichment_readiness_score": pl.col("score"),
                "data_enrichment_readiness_contributors": _contributors(
                    _READINESS_WIRE, "contributors."
                ),
            },
        ),
    ),
    # The night's own document carries the temperature. The stamp is a midnight of +00:00, wherever
    # the person is.
    ignored=frozenset(
        {"id", "meta", "timestamp", "temperature_deviation", "temperature_trend_deviation"}
    ),
    evidence="project-fixture",
)

_DAILY_SLEEP = Resource(
    name="daily_sleep",
    recognise=partial(_recognise, "daily_sleep"),
    wire={"day": pl.String(), "score": pl.Float64()},
    split=_split,
    prepare=partial(_by_day, "day"),
    rejects=(_NO_TIME,),
    tables=(Scalars("daily", {"scores_sleep": pl.col("score")}),),
    ignored=frozenset({"id", "meta", "timestamp", "contributors"}),
    evidence="project-fixture",
)

_STRESS = Resource(
    name="daily_stress",
    recognise=partial(_recognise, "daily_stress"),
    wire={
        "day": pl.String(),
        "stress_high": pl.Float64(),
        "recovery_high": pl.Float64(),
        "day_summary": pl.String(),
    },
    split=_split,
    prepare=partial(_by_day, "day"),
    tables=(
        Scalars(
            "daily",
            {
                "stress_high_stress_duration_seconds": pl.col("stress_high"),
                "stress_rest_stress_duration_seconds": pl.col("recovery_high"),
                # Three classes of Oura on the three the code list has between rest and high.
                "stress_stress_rating": pl.col("day_summary").replace_strict(
                    {"restored": "low", "normal": "medium", "stressful": "high"},
                    default=None,
                    return_dtype=pl.String,
                ),
            },
        ),
    ),
    rejects=(_NO_TIME,),
    ignored=frozenset({"id", "meta"}),
)

_SPO2 = Resource(
    name="daily_spo2",
    recognise=partial(_recognise, "daily_spo2"),
    wire={"day": pl.String(), "spo2_percentage.average": pl.Float64()},
    split=_split,
    prepare=partial(_by_day, "day"),
    tables=(
        Scalars(
            "daily",
            {
                # A night without a measurement is sent as zero.
                "oxygen_avg_saturation_percentage": positive("spo2_percentage.average"),
            },
        ),
    ),
    rejects=(_NO_TIME,),
    ignored=frozenset({"id", "meta", "breathing_disturbance_index", "spo2_percentage"}),
)

_RESILIENCE_WIRE: dict[str, pl.DataType] = {
    "day": pl.String(),
    **_scored("sleep_recovery daytime_recovery stress"),
}
_RESILIENCE = Resource(
    name="daily_resilience",
    recognise=partial(_recognise, "daily_resilience"),
    wire=_RESILIENCE_WIRE,
    split=_split,
    prepare=partial(_by_day, "day"),
    tables=(
        Scalars(
            "daily",
            {
                "data_enrichment_resilience_contributors": _contributors(
                    _RESILIENCE_WIRE, "contributors."
                )
            },
        ),
    ),
    rejects=(_NO_TIME,),
    # Limited to exceptional: a word for which there is a column of numbers only.
    ignored=frozenset({"id", "meta", "level"}),
)

_CARDIOVASCULAR_AGE = Resource(
    name="daily_cardiovascular_age",
    recognise=partial(_recognise, "daily_cardiovascular_age"),
    wire={"day": pl.String(), "vascular_age": pl.Float64()},
    split=_split,
    prepare=partial(_by_day, "day"),
    # Kept raw: no table has a column for the age of vessels.
    tables=(),
    ignored=frozenset({"id", "meta", "pulse_wave_velocity"}),
)

_VO2_MAX = Resource(
    name="vO2_max",
    recognise=partial(_recognise, "vO2_max"),
    wire={"timestamp": pl.String(), "vo2_max": pl.Float64()},
    split=_split,
    prepare=partial(_by_stamp, "timestamp"),
    tables=(
        Scalars("daily", {"oxygen_vo2max_ml_per_min_per_kg": pl.col("vo2_max")}),
        Samples(
            "daily",
            "oxygen_vo2_samples",
            {"vo2max_ml_per_min_per_kg": pl.col("vo2_max")},
            where=pl.col("vo2_max").is_not_null(),
        ),
    ),
    ignored=frozenset(_META),
)

_HEART_RATE = Resource(
    name="heartrate",
    recognise=partial(_recognise, "heartrate"),
    wire={"timestamp": pl.String(), "bpm": pl.Float64(), "source": pl.String()},
    split=_split_heart_rate,
    prepare=_prepare_heart_rate,
    tables=(
        Samples(
            "daily",
            "heart_rate_detailed_hr_samples",
            {
                "bpm": pl.col("bpm"),
                "context": pl.col("source").replace_strict(
                    {"workout": "active", "rest": "not_active", "sleep": "not_active"},
                    default="not_set",
                    return_dtype=pl.String,
                ),
            },
        ),
    ),
    rejects=(Reject("bpm: missing", pl.col("bpm").is_null()),),
    context_wire={"timezone": pl.String()},
    ignored=frozenset({"timestamp_unix"}),
)

_TAG = Resource(
    name="enhanced_tag",
    recognise=partial(_recognise, "enhanced_tag"),
    wire={
        "start_time": pl.String(),
        "tag_type_code": pl.String(),
        "custom_name": pl.String(),
        "comment": pl.String(),
    },
    split=partial(_split, day="start_day"),
    prepare=partial(_by_stamp, "start_time"),
    tables=(
        Samples(
            "daily",
            "tag_tags",
            {
                "tag_name": pl.when(pl.col("tag_type_code") == "custom")
                .then(pl.coalesce("custom_name", "tag_type_code"))
                # What was only written down has no name of its own.
                .otherwise(pl.coalesce("tag_type_code", pl.lit("text"))),
                "notes": pl.col("comment"),
            },
        ),
    ),
    ignored=frozenset({"id", "meta", "start_day", "end_day", "end_time"}),
)

_SLEEP_WIRE: dict[str, pl.DataType] = {
    "bedtime_start": pl.String(),
    "bedtime_end": pl.String(),
    "type": pl.String(),
    "total_sleep_duration": pl.Float64(),
    "time_in_bed": pl.Float64(),
    "awake_time": pl.Float64(),
    "light_sleep_duration": pl.Float64(),
    "rem_sleep_duration": pl.Float64(),
    "deep_sleep_duration": pl.Float64(),
    "latency": pl.Float64(),
    "efficiency": pl.Float64(),
    "average_heart_rate": pl.Float64(),
    "lowest_heart_rate": pl.Float64(),
    "average_hrv": pl.Float64(),
    "average_breath": pl.Float64(),
    "sleep_phase_5_min": pl.String(),
    "sleep_phase_30_sec": pl.String(),
    "readiness.score": pl.Float64(),
    "readiness.temperature_deviation": pl.Float64(),
    **_scored(_READINESS_PARTS, "readiness.contributors."),
    **_sample("heart_rate"),
    **_sample("hrv"),
}
_SLEEP = Resource(
    name="sleep",
    recognise=partial(_recognise, "sleep"),
    wire=_SLEEP_WIRE,
    split=_split,
    prepare=_prepare_sleep,
    tables=(
        Scalars(
            "sleep",
            {
                "metadata_summary_id": pl.col("record_id"),
                "metadata_upload_type": pl.lit("automatic"),
                "metadata_is_nap": pl.col("type") != "long_sleep",
                **SPAN,
                "sleep_durations_asleep_duration_asleep_state_seconds": pl.col(
                    "total_sleep_duration"
                ),
                "sleep_durations_asleep_duration_light_sleep_state_seconds": pl.col(
                    "light_sleep_duration"
                ),
                "sleep_durations_asleep_duration_deep_sleep_state_seconds": pl.col(
                    "deep_sleep_duration"
                ),
                "sleep_durations_asleep_duration_rem_sleep_state_seconds": pl.col(
                    "rem_sleep_duration"
                ),
                "sleep_durations_awake_duration_awake_state_seconds": pl.col("awake_time"),
                "sleep_durations_awake_sleep_latency_seconds": pl.col("latency"),
                "sleep_durations_other_duration_in_bed_seconds": pl.col("time_in_bed"),
                "sleep_durations_sleep_efficiency": pl.col("efficiency"),
                "sleep_durations_hypnogram_samples": pl.col("hypnogram"),
                "heart_rate_summary_avg_hr_bpm": pl.col("average_heart_rate"),
                "heart_rate_summary_min_hr_bpm": pl.col("lowest_heart_rate"),
                "heart_rate_summary_avg_hrv_rmssd": pl.col("average_hrv"),
                "heart_rate_detailed_hr_samples": pl.col("heart_rate.samples"),
                "heart_rate_detailed_hrv_samples_rmssd": pl.col("hrv.samples"),
                "respiration_breaths_avg_breaths_per_min": pl.col("average_breath"),
                "readiness_readiness": pl.col("readiness.score"),
                "data_enrichment_readiness_score": pl.col("readiness.score"),
                "data_enrichment_readiness_contributors": _contributors(
                    _SLEEP_WIRE, "readiness.contributors."
                ),
                "temperature_delta": pl.col("readiness.temperature_deviation"),
            },
            # `rest` is time in bed that turned out to be no sleep.
            where=pl.col("type").ne_missing("rest"),
        ),
    ),
    rejects=(NO_SPAN,),
    ignored=frozenset(
        {
            *_META,
            *("app_sleep_phase_5_min", "movement_30_sec", "period", "restless_periods"),
            *("low_battery_alert", "ring_id", "readiness_score_delta", "sleep_score_delta"),
            *("sleep_algorithm_version", "sleep_analysis_reason"),
            *("readiness", "readiness.temperature_trend_deviation", "heart_rate", "hrv"),
        }
    ),
    evidence="project-fixture",
)

# Words of Oura that are not already the code list's own.
ACTIVITIES: Mapping[str, str] = {
    "cycling": "biking",
    "mountainbiking": "mountain_biking",
    "indoorcycling": "stationary_biking",
    "soccer": "english_football",
    "football": "american_football",
    "strengthtraining": "strength_training",
    "crosscountryskiing": "cross_country_skiing",
    "downhillskiing": "downhill_skiing",
    "crosstraining": "crossfit",
    "stairexercise": "stair_climbing",
    "horsebackriding": "horseback_riding",
    "nordicwalking": "nordic_walking",
    "martialarts": "martial_arts",
    "tabletennis": "table_tennis",
    "coreexercise": "calisthenics",
    "jumpingrope": "jumping_rope",
    "yardwork": "gardening",
    "dance": "dancing",
}

_WORKOUT = Resource(
    name="workout",
    recognise=partial(_recognise, "workout"),
    wire={
        "activity": pl.String(),
        "calories": pl.Float64(),
        "distance": pl.Float64(),
        "start_datetime": pl.String(),
        "end_datetime": pl.String(),
        "label": pl.String(),
        "source": pl.String(),
    },
    split=_split,
    prepare=_prepare_span,
    tables=(
        Scalars(
            "activity",
            {
                "metadata_summary_id": pl.col("record_id"),
                "metadata_name": pl.col("label"),
                "metadata_type": activity_type(
                    pl.col("activity").str.to_lowercase(), {**OWN_WORDS, **ACTIVITIES}
                ),
                "metadata_upload_type": pl.when(pl.col("source") == "manual")
                .then(pl.lit("manual"))
                .otherwise(pl.lit("automatic")),
                **SPAN,
                "calories_total_burned_calories": pl.col("calories"),
                "distance_summary_distance_meters": pl.col("distance"),
            },
        ),
    ),
    rejects=(NO_SPAN,),
    ignored=frozenset({*_META, "intensity"}),
    evidence="project-fixture",
)

_SESSION = Resource(
    name="session",
    recognise=partial(_recognise, "session"),
    wire={
        "type": pl.String(),
        "start_datetime": pl.String(),
        "end_datetime": pl.String(),
        **_sample("heart_rate"),
        **_sample("heart_rate_variability"),
    },
    split=_split,
    prepare=_prepare_session,
    tables=(
        Scalars(
            "activity",
            {
                "metadata_summary_id": pl.col("record_id"),
                "metadata_type": pl.col("type").replace_strict(
                    {"breathing": "guided_breathing", "meditation": "meditation"},
                    default="other",
                    return_dtype=pl.String,
                ),
                "metadata_upload_type": pl.lit("manual"),
                **SPAN,
                "heart_rate_detailed_hr_samples": pl.col("heart_rate.samples"),
                "heart_rate_detailed_hrv_samples_rmssd": pl.col("heart_rate_variability.samples"),
            },
            # A nap comes as a document of sleep, too.
            where=pl.col("type").ne_missing("nap"),
        ),
    ),
    rejects=(NO_SPAN,),
    ignored=frozenset({*_META, "mood", "motion_count", "heart_rate", "heart_rate_variability"}),
)

_HEIGHT = pl.col("height")
_PERSON = Resource(
    name="personal_info",
    recognise=partial(_recognise, "personal_info"),
    wire={"weight": pl.Float64(), "height": pl.Float64()},
    split=_split_personal_info,
    prepare=prepare_noticed,
    tables=(
        Samples(
            "body",
            "measurements_measurements",
            {
                "weight_kg": pl.col("weight"),
                # Metres by the documentation; centimetres have been seen.
                "height_cm": pl.when(_HEIGHT <= 3).then(_HEIGHT * 100).otherwise(_HEIGHT),
            },
            where=pl.col("weight").is_not_null() | _HEIGHT.is_not_null(),
        ),
    ),
    context_wire=NOTICED,
    ignored=frozenset({"id", "age", "biological_sex", "email"}),
    evidence="project-fixture",
)

_DATED = (
    _ACTIVITY,
    _READINESS,
    _DAILY_SLEEP,
    _STRESS,
    _SPO2,
    _RESILIENCE,
    _CARDIOVASCULAR_AGE,
    _VO2_MAX,
    _SLEEP,
    _WORKOUT,
    _SESSION,
    _TAG,
)

# --- pushes

# By the names events use; the other topics have no documents anybody could read.
_TOPICS: Mapping[str, str] = {
    **{resource.name: resource.name for resource in _DATED},
    "vo2_max": "vO2_max",
}
_EVENTS = ("create", "update", "delete")


class _Event(msgspec.Struct):
    event_type: str
    data_type: str
    object_id: str
    user_id: str


class _Made(msgspec.Struct):
    id: str
    event_type: str
    data_type: str
    callback_url: str
    expiration_time: str | None = None


def read_push(request: PushRequest) -> Iterator[Pushed]:
    """What an event says: a document changed, or is gone."""
    event = decode(request.body, _Event, "oura: reading an event")
    resource = _TOPICS.get(event.data_type)
    if resource is None:
        return
    if event.event_type == "delete":
        yield Removed(event.user_id, resource, (event.object_id,))
    else:
        yield Changed(event.user_id)


answer_challenge = partial(echo_challenge, proof="verification_token", challenge="challenge")


def _app_headers(subscriber: Subscriber) -> dict[str, str]:
    return {
        "x-client-id": subscriber.secrets.client_id,
        "x-client-secret": subscriber.secrets.client_secret,
    }


async def _subscriptions(client: Client, subscriber: Subscriber) -> list[_Made]:
    answer = await client.request("GET", _SUBSCRIPTIONS, headers=_app_headers(subscriber))
    found = decode(answer.body, list[_Made], "oura: reading the subscriptions")
    return [one for one in found if one.callback_url == subscriber.callback_url]


def _subscription(made: _Made) -> Subscription:
    return Subscription(
        made.id, f"{made.event_type} {made.data_type}", read_instant(_as_utc(made.expiration_time))
    )


def _as_utc(text: str | None) -> str | None:
    """Ends are written without an offset and meant in UTC."""
    return text if text is None or text.endswith("Z") or "+" in text[10:] else f"{text}Z"


async def subscribe(client: Client, subscriber: Subscriber) -> list[Subscription]:
    """One subscription for each event of each topic we read; those there are stay."""
    there = {
        (one.event_type, one.data_type): one for one in await _subscriptions(client, subscriber)
    }
    topics = sorted({name.lower() if name == "vO2_max" else name for name in _TOPICS})
    for topic in topics:
        for event in _EVENTS:
            if (event, topic) in there:
                continue
            answer = await client.request(
                "POST",
                _SUBSCRIPTIONS,
                headers=_app_headers(subscriber),
                json={
                    "callback_url": subscriber.callback_url,
                    "verification_token": subscriber.secrets.push_secret,
                    "event_type": event,
                    "data_type": topic,
                },
                accept=(201, 200),
            )
            there[event, topic] = decode(answer.body, _Made, "oura: subscribing")
    return [_subscription(there[key]) for key in sorted(there)]


async def renew(client: Client, subscriber: Subscriber, subscription: Subscription) -> Subscription:
    """The subscription with a later end."""
    answer = await client.request(
        "PUT",
        f"{_SUBSCRIPTIONS}/renew/{subscription.subscription_id}",
        headers=_app_headers(subscriber),
    )
    return _subscription(decode(answer.body, _Made, "oura: renewing a subscription"))


async def unsubscribe(client: Client, subscriber: Subscriber) -> int:
    """End all subscriptions to our address; how many there were."""
    ids = [one.id for one in await _subscriptions(client, subscriber)]
    return await end_all(client, _SUBSCRIPTIONS, ids, headers=_app_headers(subscriber))


PROVIDER = Provider(
    name="oura",
    title="Oura",
    client_name="OURA",
    summary="Nights, days, workouts, heart rate and tags of an Oura ring.",
    freshness=(
        "Days and heart rate with each sync of the ring, nights once the app is opened;"
        " events some 30 seconds later."
    ),
    docs_url="https://cloud.ouraring.com/v2/docs",
    resources=(*_DATED, _HEART_RATE, _PERSON),
    fetch=fetch,
    explain=explain,
    oauth=OAuth(
        authorize_url="https://cloud.ouraring.com/oauth/authorize",
        token_url="https://api.ouraring.com/oauth/token",  # noqa: S106 - an address
        revoke_url="https://api.ouraring.com/oauth/revoke",
        api_url="https://api.ouraring.com",
        identify=identify,
        scopes=("personal", "daily", "heartrate", "workout", "tag", "session", "spo2"),
        lifetime=timedelta(hours=24),
    ),
    push=Push(
        read=read_push,
        proof=Signature(
            header="x-oura-signature",
            encoding="HEX",
            timestamp_header="x-oura-timestamp",
            message=lambda timestamp, body: timestamp.encode() + body,
        ),
        challenge=answer_challenge,
        subscribe=subscribe,
        renew=renew,
        unsubscribe=unsubscribe,
    ),
    refusals=(Refusal(403, "absent", "the membership has lapsed or a permission is missing"),),
    # Nights appear when the person opens the app; events tell of everything else.
    poll_interval=timedelta(hours=1),
    open_days=3,
    refetch=timedelta(days=3),
    max_window=timedelta(days=30),
    # 5,000 requests in five minutes.
    requests_per_second=16.0,
)
