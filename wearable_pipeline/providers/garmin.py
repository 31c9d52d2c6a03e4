"""Garmin: days, nights, activities, body and cycle of Garmin watches and scales, through the Health API.

https://developer.garmin.com/gc-developer-program/health-api/

Summaries are posted to us; see `_garmin_api.py`. A summary of a day or a quarter of an hour is posted again
under the same id while it grows: what reaches further is newer. Starts are epoch seconds, and the offset that
added to them gives the local time stands beside them, under a name of its own for some kinds. Series are
objects from seconds after the start to values; a negative value says why there is none.

History comes only with the permission for historical data. What an app may ask is documented for those that
are being evaluated; `WEARABLE_GARMIN_QUOTA_FACTOR` and `…_REQUESTS_PER_SECOND` say what one was granted.
Posts with the details of activities reach a hundred megabytes: `WEARABLE_PUSH_MAX_BYTES` must let them in.

Posts may repeat an access token in every summary: it is cut out of what is stored, the rest is kept as it
came.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial

import msgspec
import polars as pl

from wearable_pipeline.errors import BadPayloadError
from wearable_pipeline.model.units import grams_to_kilograms
from wearable_pipeline.providers import _garmin_api as api
from wearable_pipeline.providers import _garmin_frames as frames
from wearable_pipeline.providers._contract import (
    Evidence,
    OAuth,
    Page,
    Provider,
    Push,
    Quota,
    Record,
    Reject,
    Resource,
    Samples,
    Scalars,
)
from wearable_pipeline.providers._local_time import in_years, local_date_of, read_date, zone_of
from wearable_pipeline.providers._moments import SPAN
from wearable_pipeline.providers._split import content_id, decode, item_fields
from wearable_pipeline.providers._values import positive

# --- posts → records

# Where a kind's start and its offset stand, if not where most have them.
_STARTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "bodyComps": ("measurementTimeInSeconds", ("measurementTimeOffsetInSeconds",)),
    "bloodPressures": ("measurementTimeInSeconds", ("measurementTimeOffsetInSeconds",)),
    "moveIQActivities": ("startTimeInSeconds", ("offsetInSeconds", "startTimeOffsetInSeconds")),
    "healthSnapshot": (
        "startTimeInSeconds",
        ("offsetStartTimeInSeconds", "startTimeOffsetInSeconds"),
    ),
}
_START = ("startTimeInSeconds", ("startTimeOffsetInSeconds",))
# They belong to the day on which they end.
_NIGHTLY = frozenset({"sleeps", "hrv", "skinTemp"})
# Posted again and again while they grow.
_GROWING = frozenset({"dailies", "epochs", "stressDetails", "pulseox", "allDayRespiration"})


def _items(page: Page) -> list[msgspec.Raw]:
    """Summaries of a post, of what a link leads to, or the one the body is; without tokens."""
    what = f"garmin: reading {page.resource}"
    body = api.drop_tokens(page.body)
    if body.lstrip()[:1] == b"[":
        return decode(body, list[msgspec.Raw], what)
    told = decode(body, dict[str, msgspec.Raw], what)
    names = [name for name, kind in api.ALIASES.items() if kind == page.resource and name in told]
    if not names:
        if "summaryId" not in told:
            raise BadPayloadError(f"{what}: the body holds no such summaries")
        return [msgspec.Raw(body.strip())]
    return [item for name in names for item in decode(told[name], list[msgspec.Raw], what)]


def _split(page: Page) -> Iterator[Record]:
    kind = page.resource
    zone = zone_of(page)
    context = {"timezone": zone} if zone else {}
    first: object = None
    for item in _items(page):
        fields = item_fields(item)
        owner = fields.get("userId")
        first = owner if first is None else first
        day, reaches_to = _placed(kind, fields, page.fetched_at, zone)
        named = fields.get("summaryId")
        record_id = str(named) if named else content_id(bytes(item))
        if kind == "mct":
            # One summary for the whole cycle: each day it speaks of stays.
            record_id = f"{record_id}/{day}"
        if owner not in (None, first):
            # A post of several people, as it arrived: their ids are not apart.
            record_id = f"{owner}/{record_id}"
        yield Record(
            kind,
            record_id,
            bytes(item),
            day,
            context,
            provider_updated_at=reaches_to if kind in _GROWING else None,
        )


def _placed(
    kind: str, fields: Mapping[str, object], fetched_at: datetime, zone: str | None
) -> tuple[date, datetime | None]:
    """The local date of a summary, and up to when it speaks."""
    summary = fields.get("summary")
    told = {**summary, **fields} if isinstance(summary, dict) else fields
    start_name, offset_names = _STARTS.get(kind, _START)
    start = _number(told.get(start_name))
    offset = next((o for name in offset_names if (o := _number(told.get(name))) is not None), None)
    if kind == "mct":
        start, offset = _number(told.get("lastUpdatedTimeInSeconds")), None
    length = _number(told.get("durationInSeconds"))
    begin = _instant(start)
    end = _instant(start + length) if start is not None and length is not None else None
    at = (end if kind in _NIGHTLY else None) or begin
    day = _date(told.get("calendarDate")) or (_day_in_cycle(told) if kind == "mct" else None)
    if day is None and at is not None and offset is not None and abs(offset) < 86_400:
        day = (at + timedelta(seconds=offset)).date()
    return day or local_date_of(at or fetched_at, zone), end


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return None
    return number if number is not None and abs(number) < 1e11 else None


def _instant(seconds: float | None) -> datetime | None:
    is_known = seconds is not None and 946_684_800 <= seconds <= 4_102_444_800
    return datetime.fromtimestamp(seconds, UTC) if is_known and seconds is not None else None


def _date(text: object) -> date | None:
    return read_date(text) if isinstance(text, str) and len(text) == 10 else None


def _day_in_cycle(fields: Mapping[str, object]) -> date | None:
    start, number = _date(fields.get("periodStartDate")), _number(fields.get("dayInCycle"))
    if start is None or number is None or not 1 <= number <= 1000:
        return None
    return start + timedelta(days=int(number) - 1)


# --- bodies of unknown origin

# Fields that tell a lone summary: one of these, and none of those.
_MARKS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "dailies": (
        frozenset(
            {
                *("bmrKilocalories", "timeOffsetHeartRateSamples", "stepsGoal", "floorsClimbed"),
                *("moderateIntensityDurationInSeconds", "restingHeartRateInBeatsPerMinute"),
            }
        ),
        frozenset({"activityId", "met", "intensity"}),
    ),
    "epochs": (frozenset({"met", "intensity", "meanMotionIntensity"}), frozenset({"activityId"})),
    "sleeps": (
        frozenset(
            {"sleepLevelsMap", "deepSleepDurationInSeconds", "naps", "validation", "sleepScores"}
        ),
        frozenset(),
    ),
    "bodyComps": (
        frozenset({"weightInGrams", "bodyFatInPercent", "bodyMassIndex", "muscleMassInGrams"}),
        frozenset({"systolic"}),
    ),
    "bloodPressures": (frozenset({"systolic", "diastolic"}), frozenset()),
    "stressDetails": (
        frozenset({"timeOffsetStressLevelValues", "timeOffsetBodyBatteryValues"}),
        frozenset(),
    ),
    "userMetrics": (frozenset({"vo2Max", "vo2MaxCycling", "fitnessAge"}), frozenset()),
    "pulseox": (frozenset({"timeOffsetSpo2Values"}), frozenset()),
    "allDayRespiration": (frozenset({"timeOffsetEpochToBreaths"}), frozenset()),
    "hrv": (frozenset({"hrvValues", "lastNightAvg"}), frozenset()),
    "healthSnapshot": (frozenset({"summaries"}), frozenset()),
    "skinTemp": (frozenset({"avgDeviationCelsius"}), frozenset()),
    "activities": (frozenset({"activityId"}), frozenset({"summary", "samples", "laps"})),
    "activityDetails": (frozenset({"summary", "samples", "laps"}), frozenset()),
    "moveIQActivities": (frozenset({"activitySubType", "offsetInSeconds"}), frozenset()),
    "mct": (frozenset({"periodStartDate", "dayInCycle"}), frozenset()),
}


def _recognise(kind: str, answer: object) -> bool:
    if isinstance(answer, dict):
        named = [items for name, items in answer.items() if api.ALIASES.get(name) == kind]
        if named:
            return all(
                isinstance(items, list)
                and (_are_summaries(items) if items else answer.keys() <= api.ALIASES.keys())
                for items in named
            )
    items = answer if isinstance(answer, list) else [answer]
    wanted, unwanted = _MARKS[kind]
    return bool(items) and all(
        isinstance(one, dict)
        and "summaryId" in one
        and bool(wanted & one.keys())
        and not unwanted & one.keys()
        for one in items
    )


def _are_summaries(items: list[object]) -> bool:
    """Whether a list is Garmin's: others call theirs `activities`, too."""
    marks = {"summaryId", "startTimeInSeconds", "measurementTimeInSeconds"}
    return any(isinstance(one, dict) and marks & one.keys() for one in items)


# --- records → columns

_CONTEXT: Mapping[str, pl.DataType] = {"timezone": pl.String()}
_NO_START = Reject("start: missing or no time", pl.col("timestamp").is_null())
_NO_SPAN = Reject(
    "durationInSeconds: missing, below zero or too long",
    (pl.col("durationInSeconds").fill_null(-1) < 0) | pl.col("end_at").is_null(),
)
# Who the summary is of, and what names it.
_IDENTITY = ("userId", "userAccessToken", "summaryId")


def _numbers(*names: str) -> dict[str, pl.DataType]:
    return dict.fromkeys(names, pl.Float64())


def _times(*names: str) -> dict[str, pl.DataType]:
    return dict.fromkeys(names, pl.Int64())


def _words(*names: str) -> dict[str, pl.DataType]:
    return dict.fromkeys(names, pl.String())


def _resource(
    kind: str,
    wire: Mapping[str, pl.DataType],
    prepare: Callable[[pl.DataFrame], pl.DataFrame],
    tables: tuple[Samples | Scalars, ...],
    *,
    rejects: tuple[Reject, ...] = (_NO_START,),
    ignored: Iterable[str] = (),
    evidence: Evidence = "vendor-doc",
) -> Resource:
    left = frozenset({*_IDENTITY, *ignored}) - wire.keys()
    return Resource(
        name=kind,
        recognise=partial(_recognise, kind),
        wire=dict(wire),
        parse=partial(frames.parse, wire=wire),
        list_fields=partial(frames.list_fields, wire=wire, ignored=left),
        split=_split,
        prepare=prepare,
        tables=tables,
        rejects=rejects,
        context_wire=_CONTEXT,
        ignored=left,
        evidence=evidence,
    )


def _told(column: str) -> pl.Expr:
    """A value where a negative one says that there is none."""
    return pl.when(pl.col(column) >= 0).then(pl.col(column))


def _whole(column: str) -> pl.Expr:
    return pl.col(column).round().cast(pl.Int64, strict=False)


def _element(
    series: str, table: str, column: str, field: str, more: Mapping[str, pl.Expr] | None = None
) -> Samples:
    """Elements of a series as samples; negative values are reasons, not readings."""
    fields = {field: pl.col(frames.VALUE), **(more or {})}
    # What cannot be zero is told as zero where nothing was measured.
    is_reading = pl.col(frames.VALUE) >= 0 if field == "level" else pl.col(frames.VALUE) > 0
    return Samples(table, column, fields, where=(pl.col(frames.SERIES) == series) & is_reading)


def _prepare_series(frame: pl.DataFrame, series: Iterable[str]) -> pl.DataFrame:
    return frames.lay_out(frames.prepare_moment(frame), {name: pl.col(name) for name in series})


# More than nothing: what cannot be zero is told as zero where nothing was measured.
_ABOVE_ZERO = 1e-9


def _prepare_lists(
    frame: pl.DataFrame, lists: Mapping[str, tuple[str, str, float]]
) -> pl.DataFrame:
    """Series of which a day has one: a list each, from its field, its name in samples and its least value."""
    made = frames.prepare_moment(frame)
    return made.with_columns(
        frames.series_list(made, column, field, least).alias(name)
        for name, (column, field, least) in lists.items()
    )


_BLOOD = {"type": pl.lit("blood")}

# --- days

_DAILY_SERIES = ("timeOffsetHeartRateSamples",)
_DAILIES = _resource(
    "dailies",
    frames.flat_wire(
        {
            **_times("startTimeInSeconds", "startTimeOffsetInSeconds"),
            **_numbers("steps", "distanceInMeters", "floorsClimbed", "activeTimeInSeconds"),
            **_numbers("activeKilocalories", "bmrKilocalories", "consumedCalories"),
            **_numbers("moderateIntensityDurationInSeconds", "vigorousIntensityDurationInSeconds"),
            **_numbers("minHeartRateInBeatsPerMinute", "maxHeartRateInBeatsPerMinute"),
            **_numbers("restingHeartRateInBeatsPerMinute", "averageStressLevel"),
            **_numbers("averageStresslevel", "maxStressLevel", "stressDurationInSeconds"),
            **_numbers("restStressDurationInSeconds", "activityStressDurationInSeconds"),
            **_numbers("lowStressDurationInSeconds", "mediumStressDurationInSeconds"),
            **_numbers("highStressDurationInSeconds"),
        },
        _DAILY_SERIES,
    ),
    partial(_prepare_lists, lists={"pulse": ("timeOffsetHeartRateSamples", "bpm", _ABOVE_ZERO)}),
    (
        Scalars(
            "daily",
            {
                "distance_steps": _whole("steps"),
                "distance_distance_meters": pl.col("distanceInMeters"),
                "distance_floors_climbed": _whole("floorsClimbed"),
                "active_durations_activity_seconds": pl.col("activeTimeInSeconds"),
                "active_durations_moderate_intensity_seconds": pl.col(
                    "moderateIntensityDurationInSeconds"
                ),
                "active_durations_vigorous_intensity_seconds": pl.col(
                    "vigorousIntensityDurationInSeconds"
                ),
                "calories_net_activity_calories": pl.col("activeKilocalories"),
                "calories_bmr_calories": pl.col("bmrKilocalories"),
                "calories_net_intake_calories": pl.col("consumedCalories"),
                # What moving took does not hold what living took, and there is nothing else.
                "calories_total_burned_calories": pl.col("activeKilocalories")
                + pl.col("bmrKilocalories"),
                "heart_rate_summary_min_hr_bpm": positive("minHeartRateInBeatsPerMinute"),
                "heart_rate_summary_max_hr_bpm": positive("maxHeartRateInBeatsPerMinute"),
                "heart_rate_summary_resting_hr_bpm": positive("restingHeartRateInBeatsPerMinute"),
                "stress_avg_stress_level": pl.coalesce(
                    _told("averageStressLevel"), _told("averageStresslevel")
                ),
                "stress_max_stress_level": _told("maxStressLevel"),
                "stress_stress_duration_seconds": _told("stressDurationInSeconds"),
                "stress_rest_stress_duration_seconds": _told("restStressDurationInSeconds"),
                "stress_activity_stress_duration_seconds": _told("activityStressDurationInSeconds"),
                "stress_low_stress_duration_seconds": _told("lowStressDurationInSeconds"),
                "stress_medium_stress_duration_seconds": _told("mediumStressDurationInSeconds"),
                "stress_high_stress_duration_seconds": _told("highStressDurationInSeconds"),
                "heart_rate_detailed_hr_samples": pl.col("pulse"),
            },
        ),
    ),
    ignored=(
        # A mean of the last seven days.
        "averageHeartRateInBeatsPerMinute",
        # A word for the day on a scale of Garmin's own.
        "stressQualifier",
        *("calendarDate", "activityType", "durationInSeconds", "stepsGoal", "netKilocaloriesGoal"),
        *("intensityDurationGoalInSeconds", "floorsClimbedGoal", "pushes", "pushDistanceInMeters"),
        *("pushesGoal", "bodyBatteryChargedValue", "bodyBatteryDrainedValue"),
    ),
)

_LEADING = pl.col("is_leading")
_EFFORTS = {
    "SEDENTARY": "inactive",
    "ACTIVE": "medium_intensity",
    "HIGHLY_ACTIVE": "high_intensity",
}
_EPOCHS = _resource(
    "epochs",
    {
        **_times("startTimeInSeconds", "startTimeOffsetInSeconds", "durationInSeconds"),
        **_numbers("activeTimeInSeconds", "steps", "distanceInMeters", "met"),
        **_words("intensity"),
    },
    frames.prepare_epoch,
    (
        Samples(
            "daily",
            "distance_detailed_step_samples",
            {"steps": pl.col("slot.steps")},
            where=pl.col("slot.steps").is_not_null(),
        ),
        Samples(
            "daily",
            "distance_detailed_distance_samples",
            {"distance_meters": pl.col("slot.distanceInMeters")},
            where=pl.col("slot.distanceInMeters").is_not_null(),
        ),
        Samples(
            "daily",
            "met_met_samples",
            {"level": pl.col("met")},
            where=_LEADING & pl.col("met").is_not_null(),
        ),
        Samples(
            "daily",
            "active_durations_activity_levels_samples",
            {
                "activity_level": pl.col("intensity").replace_strict(
                    _EFFORTS, default="unknown", return_dtype=pl.String
                )
            },
            where=_LEADING & pl.col("intensity").is_not_null(),
        ),
    ),
    ignored=(
        *("calendarDate", "activityType", "meanMotionIntensity", "maxMotionIntensity"),
        # Of moving alone; what was burned in all is not told by the quarter of an hour.
        "activeKilocalories",
        *("pushes", "pushDistanceInMeters"),
    ),
)

_STRESS_SERIES = ("timeOffsetStressLevelValues", "timeOffsetBodyBatteryValues")
_STRESS = _resource(
    "stressDetails",
    frames.flat_wire(
        _times("startTimeInSeconds", "startTimeOffsetInSeconds"),
        _STRESS_SERIES,
    ),
    partial(
        _prepare_lists,
        lists={
            "stress": ("timeOffsetStressLevelValues", "level", 0.0),
            "battery": ("timeOffsetBodyBatteryValues", "level", 0.0),
        },
    ),
    (
        Scalars(
            "daily",
            {
                "stress_samples": pl.col("stress"),
                "stress_body_battery_samples": pl.col("battery"),
            },
        ),
    ),
    ignored=(
        *("calendarDate", "durationInSeconds", "bodyBatteryChargedValue"),
        *("bodyBatteryDrainedValue", "bodyBatteryDynamicFeedbackEvent"),
        *("bodyBatteryActivityEvents", "bodyBatteryActivityEventList"),
    ),
    evidence="contract only",
)

_PULSEOX = _resource(
    "pulseox",
    frames.flat_wire(
        _times("startTimeInSeconds", "startTimeOffsetInSeconds"), ("timeOffsetSpo2Values",)
    ),
    partial(_prepare_series, series=("timeOffsetSpo2Values",)),
    (_element("timeOffsetSpo2Values", "daily", "oxygen_saturation_samples", "percentage", _BLOOD),),
    ignored=("calendarDate", "durationInSeconds", "onDemand"),
    evidence="contract only",
)

_HRV = _resource(
    "hrv",
    frames.flat_wire(
        {
            **_times("startTimeInSeconds", "startTimeOffsetInSeconds"),
            **_numbers("lastNightAvg"),
        },
        ("hrvValues",),
    ),
    partial(_prepare_lists, lists={"rmssd": ("hrvValues", "hrv_rmssd", _ABOVE_ZERO)}),
    (
        Scalars(
            "daily",
            {
                "heart_rate_summary_avg_hrv_rmssd": positive("lastNightAvg"),
                "heart_rate_detailed_hrv_samples_rmssd": pl.col("rmssd"),
            },
        ),
    ),
    ignored=("calendarDate", "durationInSeconds", "lastNight5MinHigh"),
)

# Where the day's own series are, these give way to them; in the table `body` they stay in any case.
_SNAPSHOT_SERIES: Mapping[str, tuple[Samples, ...]] = {
    "heart_rate": (
        _element("heart_rate", "daily", "heart_rate_detailed_hr_samples", "bpm"),
        _element("heart_rate", "body", "heart_heart_rate_detailed_hr_samples", "bpm"),
    ),
    "stress": (_element("stress", "daily", "stress_samples", "level"),),
    "spo2": (_element("spo2", "daily", "oxygen_saturation_samples", "percentage", _BLOOD),),
    "rmssd_hrv": (
        _element("rmssd_hrv", "daily", "heart_rate_detailed_hrv_samples_rmssd", "hrv_rmssd"),
        _element("rmssd_hrv", "body", "heart_heart_rate_detailed_hrv_samples_rmssd", "hrv_rmssd"),
    ),
    "sdrr_hrv": (
        _element("sdrr_hrv", "daily", "heart_rate_detailed_hrv_samples_sdnn", "hrv_sdnn"),
    ),
}


def _prepare_snapshot(frame: pl.DataFrame) -> pl.DataFrame:
    made = frames.prepare_moment(
        frame, offsets=("offsetStartTimeInSeconds", "startTimeOffsetInSeconds")
    )

    def own(name: str) -> pl.Expr:
        kind = pl.element().struct.field("summaryType").str.to_lowercase()
        return (
            pl.col("summaries")
            .list.eval(pl.element().filter(kind == name))
            .list.first()
            .struct.field("epochSummaries")
        )

    return frames.lay_out(made, {name: own(name) for name in _SNAPSHOT_SERIES})


_SNAPSHOT = _resource(
    "healthSnapshot",
    {
        **_times("startTimeInSeconds", "startTimeOffsetInSeconds", "offsetStartTimeInSeconds"),
        "summaries": frames.list_of("summaryType", "epochSummaries"),
    },
    _prepare_snapshot,
    tuple(mapping for several in _SNAPSHOT_SERIES.values() for mapping in several),
    # Ends and means of two minutes: the day's are another thing.
    ignored=("calendarDate", "durationInSeconds", "minValue", "maxValue", "avgValue"),
    evidence="contract only",
)

_METRICS = _resource(
    "userMetrics",
    {**_words("calendarDate"), **_numbers("vo2Max", "fitnessAge")},
    partial(frames.dated, day=pl.col("calendarDate")),
    (
        Scalars("daily", {"oxygen_vo2max_ml_per_min_per_kg": positive("vo2Max")}),
        Scalars(
            "body",
            {"measurements_day_avg_estimated_fitness_age": positive("fitnessAge")},
            where=pl.col("fitnessAge").is_not_null(),
        ),
    ),
    rejects=(Reject("calendarDate: missing or not a date", pl.col("local_timestamp").is_null()),),
    ignored=("enhanced", "vo2MaxCycling"),
)

# Breaths and the warmth of the skin as it differs from usual: no table has columns for them. Kept raw.
_RESPIRATION = _resource(
    "allDayRespiration",
    _times("startTimeInSeconds", "startTimeOffsetInSeconds"),
    frames.prepare_moment,
    (),
    ignored=("calendarDate", "durationInSeconds", "timeOffsetEpochToBreaths"),
)
_SKIN = _resource(
    "skinTemp",
    _times("startTimeInSeconds", "startTimeOffsetInSeconds"),
    frames.prepare_moment,
    (),
    ignored=("calendarDate", "durationInSeconds", "avgDeviationCelsius"),
    evidence="contract only",
)

# --- nights

_VALIDATION = {
    "MANUAL": "manual",
    # Recorded, but begun and ended by hand: the times are the person's own.
    "AUTO_MANUAL": "manual",
    "DEVICE": "automatic",
    "AUTO_FINAL": "automatic",
    "ENHANCED_FINAL": "automatic",
    "AUTO_TENTATIVE": "tentative",
    "ENHANCED_TENTATIVE": "tentative",
    "OFF_WRIST": "indeterminate",
}
_IS_NAP = pl.col(frames.NAP).is_not_null()
_LEVEL = frames.list_of("startTimeInSeconds", "endTimeInSeconds")
_SLEEPS = _resource(
    "sleeps",
    frames.flat_wire(
        {
            **_times("startTimeInSeconds", "startTimeOffsetInSeconds"),
            **_numbers("durationInSeconds", "deepSleepDurationInSeconds"),
            **_numbers("lightSleepDurationInSeconds", "remSleepInSeconds"),
            **_numbers("awakeDurationInSeconds", "unmeasurableSleepDurationInSeconds"),
            **_numbers("unmeasurableSleepInSeconds", "overallSleepScore.value"),
            **_words("validation"),
            **{f"sleepLevelsMap.{level}": _LEVEL for level in frames.LEVELS},
            "naps": frames.list_of(
                *("napStartTimeInSeconds", "napOffsetInSeconds"),
                *("napDurationInSeconds", "napValidation"),
            ),
        },
        ("timeOffsetSleepRespiration", "timeOffsetSleepSpo2"),
    ),
    frames.prepare_night,
    (
        Scalars(
            "sleep",
            {
                "metadata_summary_id": pl.when(_IS_NAP)
                .then(pl.format("{}/nap/{}", "record_id", frames.NAP))
                .otherwise("record_id"),
                "metadata_is_nap": _IS_NAP,
                "metadata_upload_type": pl.col("validation")
                .str.to_uppercase()
                .replace_strict(_VALIDATION, default="unknown", return_dtype=pl.String),
                **SPAN,
                # Asleep is all of the three stages there are.
                "sleep_durations_asleep_duration_asleep_state_seconds": pl.sum_horizontal(
                    "deepSleepDurationInSeconds",
                    "lightSleepDurationInSeconds",
                    "remSleepInSeconds",
                    ignore_nulls=False,
                ),
                "sleep_durations_asleep_duration_deep_sleep_state_seconds": pl.col(
                    "deepSleepDurationInSeconds"
                ),
                "sleep_durations_asleep_duration_light_sleep_state_seconds": pl.col(
                    "lightSleepDurationInSeconds"
                ),
                "sleep_durations_asleep_duration_rem_sleep_state_seconds": pl.col(
                    "remSleepInSeconds"
                ),
                "sleep_durations_awake_duration_awake_state_seconds": pl.col(
                    "awakeDurationInSeconds"
                ),
                "sleep_durations_other_duration_unmeasurable_sleep_seconds": pl.col("unmeasurable"),
                "sleep_durations_hypnogram_samples": pl.col("hypnogram"),
                "respiration_breaths_samples": pl.col("breaths"),
                "respiration_oxygen_saturation_samples": pl.col("saturation"),
                "scores_sleep": positive("overallSleepScore.value"),
                "data_enrichment_sleep_score": positive("overallSleepScore.value"),
            },
        ),
    ),
    rejects=(_NO_START, _NO_SPAN),
    ignored=(
        *("calendarDate", "overallSleepScore.qualifierKey", "totalNapDurationInSeconds"),
        # Words from POOR to EXCELLENT.
        "sleepScores",
    ),
)

# --- activities

# Words of Garmin and those of the code list.
SPORTS: Mapping[str, str] = {
    "RUNNING": "running",
    "INDOOR_RUNNING": "indoor_running",
    "OBSTACLE_RUN": "running",
    "STREET_RUNNING": "running",
    "TRACK_RUNNING": "running",
    "TRAIL_RUNNING": "trail_running",
    "TREADMILL_RUNNING": "treadmill_running",
    "ULTRA_RUN": "running",
    "VIRTUAL_RUN": "treadmill_running",
    "CYCLING": "biking",
    "BMX": "biking",
    "CYCLOCROSS": "biking",
    "DOWNHILL_BIKING": "mountain_biking",
    "E_BIKE_FITNESS": "e_biking",
    "E_BIKE_MOUNTAIN": "e_mountain_biking",
    "GRAVEL_CYCLING": "gravel_cycling",
    "HANDCYCLING": "hand_biking",
    "INDOOR_CYCLING": "stationary_biking",
    "INDOOR_HANDCYCLING": "hand_biking",
    "MOUNTAIN_BIKING": "mountain_biking",
    "RECUMBENT_CYCLING": "biking",
    "ROAD_BIKING": "road_biking",
    "TRACK_CYCLING": "biking",
    "VIRTUAL_RIDE": "stationary_biking",
    "BOXING": "boxing",
    "BREATHWORK": "guided_breathing",
    "DANCE": "dancing",
    "ELLIPTICAL": "elliptical",
    "HIIT": "hiit",
    "INDOOR_CARDIO": "cardio_training",
    "INDOOR_CLIMBING": "rock_climbing",
    "INDOOR_ROWING": "rowing_machine",
    "JUMP_ROPE": "jumping_rope",
    "MEDITATION": "meditation",
    "MIXED_MARTIAL_ARTS": "mixed_martial_arts",
    "PILATES": "pilates",
    "STAIR_CLIMBING": "stair_climbing_machine",
    "STRENGTH_TRAINING": "strength_training",
    "YOGA": "yoga",
    "HIKING": "hiking",
    "SWIMMING": "swimming",
    "LAP_SWIMMING": "swimming_in_pool",
    "OPEN_WATER_SWIMMING": "open_water_swimming",
    "WALKING": "walking",
    "CASUAL_WALKING": "walking",
    "SPEED_WALKING": "walking_for_fitness",
    "INDOOR_WALKING": "walking",
    "BACKCOUNTRY_SKIING": "back_country_skiing",
    "BACKCOUNTRY_SNOWBOARDING": "snowboarding",
    "CROSS_COUNTRY_SKIING": "cross_country_skiing",
    "CROSS_COUNTRY_SKIING_WS": "cross_country_skiing",
    "RESORT_SKIING": "downhill_skiing",
    "RESORT_SKIING_SNOWBOARDING_WS": "skiing",
    "RESORT_SNOWBOARDING": "snowboarding",
    "SKATE_SKIING_WS": "cross_country_skiing",
    "SKATING_WS": "ice_skating",
    "SNOWMOBILING_WS": "snowmobile",
    "SNOW_SHOE_WS": "snowshoeing",
    "FISHING_V2": "fishing",
    "KAYAKING_V2": "kayaking",
    "KITEBOARDING_V2": "kitesurfing",
    "PADDLING_V2": "paddling",
    "POWER_BOATING": "power_boating",
    "ROWING_V2": "rowing",
    "SAILING_V2": "sailing",
    "STAND_UP_PADDLEBOARDING_V2": "stand_up_paddleboarding",
    "SURFING_V2": "surfing",
    "WAKEBOARDING_V2": "wakeboarding",
    "WATERSKIING": "water_skiing",
    "WINDSURFING_V2": "windsurfing",
    "ROWING": "rowing",
    "SAILING": "sailing",
    "SURFING": "surfing",
    "STAND_UP_PADDLEBOARDING": "stand_up_paddleboarding",
    "AMERICAN_FOOTBALL": "american_football",
    "BADMINTON": "badminton",
    "BASEBALL": "baseball",
    "BASKETBALL": "basketball",
    "CRICKET": "cricket",
    "DISC_GOLF": "frisbee",
    "GOLF": "golf",
    "HORSEBACK_RIDING": "horseback_riding",
    "ICE_HOCKEY": "hockey",
    "INLINE_SKATING": "inline_skating",
    "LACROSSE": "lacrosse",
    "MOTORCYCLING": "motorbiking",
    "MOTORCYCLING_V2": "motorbiking",
    "MOUNTAINEERING": "mountaineering",
    "PADEL": "padel_tennis",
    "RACQUETBALL": "racquetball",
    "ROCK_CLIMBING": "rock_climbing",
    "BOULDERING": "rock_climbing",
    "RUGBY": "rugby",
    "SKY_DIVING": "sky_diving",
    "SOCCER": "english_football",
    "SOFTBALL": "softball",
    "SQUASH": "squash",
    "TABLE_TENNIS": "table_tennis",
    "TENNIS": "tennis",
    "TENNIS_V2": "tennis",
    "VOLLEYBALL": "volleyball",
    "MULTI_SPORT": "multisport",
}


def _sport() -> pl.Expr:
    """A word nobody has met is some activity; no word at all is not known to be one."""
    word = pl.col("activityType").str.to_uppercase().str.replace_all(" ", "_")
    return pl.when(word.is_not_null()).then(
        word.replace_strict(dict(SPORTS), default="other", return_dtype=pl.String)
    )


_ACTIVITY_FIELDS: Mapping[str, pl.DataType] = {
    **_times("startTimeInSeconds", "startTimeOffsetInSeconds"),
    **_numbers("durationInSeconds", "distanceInMeters", "activeKilocalories", "steps"),
    **_numbers("averageHeartRateInBeatsPerMinute", "maxHeartRateInBeatsPerMinute"),
    **_numbers("averageSpeedInMetersPerSecond", "maxSpeedInMetersPerSecond"),
    **_numbers("averagePaceInMinutesPerKilometer", "maxPaceInMinutesPerKilometer"),
    **_numbers("averageRunCadenceInStepsPerMinute", "maxRunCadenceInStepsPerMinute"),
    **_numbers("averageBikeCadenceInRoundsPerMinute", "maxBikeCadenceInRoundsPerMinute"),
    **_numbers("averageSwimCadenceInStrokesPerMinute", "numberOfActiveLengths"),
    **_numbers("totalElevationGainInMeters", "totalElevationLossInMeters"),
    **_numbers("startingLatitudeInDegree", "startingLongitudeInDegree"),
    **_words("activityType", "activityName", "deviceName"),
    "manual": pl.Boolean(),
}
_ACTIVITY_LEFT = (
    *("activityId", "isParent", "parentSummaryId", "calendarDate", "activityDescription"),
    *("isWebUpload", "averagePushCadenceInPushesPerMinute", "maxPushCadenceInPushesPerMinute"),
    "pushes",
)


def _activity(summary_id: pl.Expr) -> dict[str, pl.Expr]:
    latitude, longitude = "startingLatitudeInDegree", "startingLongitudeInDegree"
    has_place = pl.col(latitude).is_not_null() & pl.col(longitude).is_not_null()
    return {
        "metadata_summary_id": summary_id,
        "metadata_name": pl.col("activityName"),
        "metadata_type": _sport(),
        # Only what was typed in says so.
        "metadata_upload_type": pl.when(pl.col("manual").fill_null(value=False))
        .then(pl.lit("manual"))
        .otherwise(pl.lit("automatic")),
        **SPAN,
        "device_name": pl.when(pl.col("deviceName").str.to_lowercase() != "unknown").then(
            "deviceName"
        ),
        "calories_net_activity_calories": pl.col("activeKilocalories"),
        "distance_summary_distance_meters": pl.col("distanceInMeters"),
        "distance_summary_steps": _whole("steps"),
        "distance_summary_elevation_gain_actual_meters": _told("totalElevationGainInMeters"),
        "distance_summary_elevation_loss_actual_meters": _told("totalElevationLossInMeters"),
        "distance_summary_swimming_num_laps": _whole("numberOfActiveLengths"),
        "heart_rate_summary_avg_hr_bpm": positive("averageHeartRateInBeatsPerMinute"),
        "heart_rate_summary_max_hr_bpm": positive("maxHeartRateInBeatsPerMinute"),
        "movement_avg_speed_meters_per_second": pl.col("averageSpeedInMetersPerSecond"),
        "movement_max_speed_meters_per_second": pl.col("maxSpeedInMetersPerSecond"),
        "movement_avg_pace_minutes_per_kilometer": pl.col("averagePaceInMinutesPerKilometer"),
        "movement_max_pace_minutes_per_kilometer": pl.col("maxPaceInMinutesPerKilometer"),
        "movement_avg_cadence_rpm": pl.coalesce(
            "averageRunCadenceInStepsPerMinute",
            "averageBikeCadenceInRoundsPerMinute",
            "averageSwimCadenceInStrokesPerMinute",
        ),
        "movement_max_cadence_rpm": pl.coalesce(
            "maxRunCadenceInStepsPerMinute", "maxBikeCadenceInRoundsPerMinute"
        ),
        "position_start_pos_lat_lng_deg": pl.when(has_place).then(
            pl.concat_list(latitude, longitude)
        ),
    }


def _prepare_activity(frame: pl.DataFrame) -> pl.DataFrame:
    return frames.with_end(frames.prepare_moment(frame), pl.col("durationInSeconds"))


_ACTIVITIES = _resource(
    "activities",
    _ACTIVITY_FIELDS,
    _prepare_activity,
    (Scalars("activity", _activity(pl.col("record_id"))),),
    rejects=(_NO_START, _NO_SPAN),
    ignored=_ACTIVITY_LEFT,
)

_DETAILS = _resource(
    "activityDetails",
    {
        **_ACTIVITY_FIELDS,
        **{f"{frames.SUMMARY}{name}": dtype for name, dtype in _ACTIVITY_FIELDS.items()},
        "samples": frames.list_of(*frames.SAMPLE_FIELDS),
        "laps": frames.list_of("startTimeInSeconds"),
    },
    partial(frames.prepare_details, fields=tuple(_ACTIVITY_FIELDS)),
    (
        Scalars(
            "activity",
            {
                # Named after the activity they are of.
                **_activity(pl.col("record_id").str.strip_suffix("-detail")),
                **{column: pl.col(column) for column in frames.RECORDED},
                "lap_laps": pl.col("lap_lines"),
            },
        ),
    ),
    rejects=(_NO_START, _NO_SPAN),
    ignored=(
        *_ACTIVITY_LEFT,
        *(f"{frames.SUMMARY}{name}" for name in (*_ACTIVITY_LEFT, *_IDENTITY)),
        *("airTemperatureCelcius", "clockDurationInSeconds", "movingDurationInSeconds"),
    ),
    evidence="contract only",
)


def _prepare_move(frame: pl.DataFrame) -> pl.DataFrame:
    made = frames.prepare_moment(frame, offsets=_STARTS["moveIQActivities"][1])
    return frames.with_end(made, pl.col("durationInSeconds"))


_MOVES = _resource(
    "moveIQActivities",
    {
        **_times("startTimeInSeconds", "startTimeOffsetInSeconds", "offsetInSeconds"),
        **_numbers("durationInSeconds"),
        **_words("activityType"),
    },
    _prepare_move,
    (
        Scalars(
            "activity",
            {
                "metadata_summary_id": pl.col("record_id"),
                "metadata_type": _sport(),
                "metadata_upload_type": pl.lit("automatic"),
                **SPAN,
            },
        ),
    ),
    rejects=(_NO_START, _NO_SPAN),
    ignored=("calendarDate", "activitySubType"),
)

# --- body

_WEIGHING: Mapping[str, pl.Expr] = {
    "weight_kg": grams_to_kilograms(positive("weightInGrams")),
    "bmi": positive("bodyMassIndex"),
    "bodyfat_percentage": positive("bodyFatInPercent"),
    "water_percentage": positive("bodyWaterInPercent"),
    "muscle_mass_g": positive("muscleMassInGrams"),
    "bone_mass_g": positive("boneMassInGrams"),
}
_MEASURED_AT = ("measurementTimeInSeconds", "measurementTimeOffsetInSeconds")
_prepare_measurement = partial(
    frames.prepare_moment, start=_MEASURED_AT[0], offsets=_MEASURED_AT[1:]
)
_BODY = _resource(
    "bodyComps",
    {
        **_times(*_MEASURED_AT),
        **_numbers("weightInGrams", "bodyMassIndex", "bodyFatInPercent", "bodyWaterInPercent"),
        **_numbers("muscleMassInGrams", "boneMassInGrams"),
    },
    _prepare_measurement,
    (
        Samples(
            "body",
            "measurements_measurements",
            _WEIGHING,
            where=pl.any_horizontal(value.is_not_null() for value in _WEIGHING.values()),
        ),
    ),
    ignored=("calendarDate",),
)

_PRESSURE = _resource(
    "bloodPressures",
    {**_times(*_MEASURED_AT), **_numbers("systolic", "diastolic", "pulse")},
    _prepare_measurement,
    (
        Samples(
            "body",
            "blood_pressure_blood_pressure_samples",
            {"systolic_bp": positive("systolic"), "diastolic_bp": positive("diastolic")},
            where=positive("systolic").is_not_null() | positive("diastolic").is_not_null(),
        ),
        Samples(
            "body",
            "heart_heart_rate_detailed_hr_samples",
            {"bpm": positive("pulse")},
            where=positive("pulse").is_not_null(),
        ),
    ),
    ignored=("calendarDate", "sourceType", "startTimeInSeconds"),
)

# --- cycle

_PHASES = {
    "MENSTRUAL": "period",
    "MENSTRUATION": "period",
    "PERIOD": "period",
    "FOLLICULAR": "follicular",
    "FERTILE_WINDOW": "fertile_window",
    "FERTILE": "fertile_window",
    "OVULATION": "ovulation",
    "OVULATORY": "ovulation",
    "LUTEAL": "luteal",
    "PMS": "pms",
    "FIRST_TRIMESTER": "first_trimester",
    "SECOND_TRIMESTER": "second_trimester",
    "THIRD_TRIMESTER": "third_trimester",
}


def _day_of(column: str) -> pl.Expr:
    return in_years(pl.col(column).str.to_date("%Y-%m-%d", strict=False))


def _prepare_cycle(frame: pl.DataFrame) -> pl.DataFrame:
    updated = frames.from_epoch(pl.col("lastUpdatedTimeInSeconds"))
    return frames.dated(frame, pl.col("local_date").cast(pl.String)).with_columns(
        updated.alias("updated"), _day_of("periodStartDate").alias("begun")
    )


_CYCLE = _resource(
    "mct",
    {
        **_words("calendarDate", "periodStartDate", "currentPhaseType"),
        **_times("lastUpdatedTimeInSeconds", "dayInCycle", "periodLength", "cycleLength"),
        **_times("predictedCycleLength", "lengthOfCurrentPhase", "daysUntilNextPhase"),
        "isPredictedCycle": pl.Boolean(),
    },
    _prepare_cycle,
    (
        Scalars(
            "menstruation",
            {
                "menstruation_period_start_date": pl.col("begun"),
                "menstruation_day_in_cycle": pl.col("dayInCycle"),
                "menstruation_period_length_days": pl.col("periodLength"),
                "menstruation_current_phase": pl.col("currentPhaseType")
                .str.to_uppercase()
                .replace_strict(_PHASES, default="unknown", return_dtype=pl.String),
                "menstruation_length_of_current_phase_days": pl.col("lengthOfCurrentPhase"),
                "menstruation_days_until_next_phase": pl.col("daysUntilNextPhase"),
                "menstruation_cycle_length_days": pl.col("cycleLength"),
                "menstruation_predicted_cycle_length_days": pl.col("predictedCycleLength"),
                "menstruation_is_predicted_cycle": pl.col("isPredictedCycle"),
                "menstruation_last_updated_time": pl.col("updated"),
            },
        ),
    ),
    rejects=(
        Reject(
            "periodStartDate: no date, and nothing else says of which day this is",
            pl.col("begun").is_null()
            & pl.col("updated").is_null()
            & _day_of("calendarDate").is_null(),
        ),
    ),
    ignored=(
        "currentPhase",
        # A number of days, from nobody says which: a day off would be a wrong answer.
        *("fertileWindowStart", "lengthOfFertileWindow"),
        *("hasSpecifiedCycleLength", "hasSpecifiedPeriodLength", "pregnancySnapshot"),
    ),
    evidence="contract only",
)


PROVIDER = Provider(
    name="garmin",
    title="Garmin",
    client_name="GARMIN",
    summary="Days, nights, activities, weight, blood pressure and cycle of Garmin devices.",
    docs_url="https://developer.garmin.com/gc-developer-program/health-api/",
    resources=(
        *(_DAILIES, _EPOCHS, _SLEEPS, _BODY, _STRESS, _METRICS, _PULSEOX, _RESPIRATION, _HRV),
        *(_SNAPSHOT, _PRESSURE, _SKIN, _ACTIVITIES, _DETAILS, _MOVES, _CYCLE),
    ),
    fetch=api.fetch,
    fetch_orders=True,
    explain=api.explain,
    oauth=OAuth(
        authorize_url="https://connect.garmin.com/oauth2Confirm",
        token_url="https://diauth.garmin.com/di-oauth2-service/oauth/token",  # noqa: S106 - an address
        api_url="https://apis.garmin.com",
        identify=api.identify,
        lifetime=timedelta(hours=24),
        revoke=api.revoke,
    ),
    push=Push(
        read=api.read_push,
        redact=api.drop_tokens,
        setup="on Garmin's developer site enter the address /in/garmin?key=… that ends in"
        " WEARABLE_GARMIN_PUSH_SECRET, for every kind of summary, whole (push) or as links (ping), and for"
        " deregistrations and changed permissions",
    ),
    freshness="With each sync of the device; a post brings it.",
    # Data are posted: what is asked is whether the permission still holds, and for history.
    poll_interval=timedelta(hours=12),
    open_days=3,
    max_window=api.MAX_WINDOW,
    max_concurrency=4,
    # Of an app that is being evaluated.
    quotas=(Quota(100, timedelta(minutes=1)),),
    requests_per_second=1.6,
    limit_scope="app",
)
