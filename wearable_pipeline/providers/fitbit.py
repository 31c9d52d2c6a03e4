"""Fitbit Web API: archived answers of a service that is gone.

It answers HTTP 410 since 2 November 2026; https://dev.fitbit.com/build/reference/web-api/ described it.
Nothing is fetched: people import the bodies they kept, one JSON file or a zip of them.

What to know of the bodies:

- Units follow the `Accept-Language` of the request and are not written down. Bodies are read as metric,
  what the API answered without that header, or as those of `en_US` where whoever imports them says so;
  activity logs alone name the unit of their distance. A weight that does not fit its BMI, or a body
  temperature no body has, is refused: it is of other units than was said.
- Times are local, without an offset; only the activity log states one. The zone is the user's, or that
  of a profile kept in the same zip.
- A sleep belongs to `dateOfSleep`, the day it ended on. Heart rate variability, breathing, oxygen and
  skin temperature are of a night too, but do not say of which log: they go to the date's main sleep.
  Where the archive holds none, they stand in a row without durations, `night-<date>`.
- A deletion left no trace in any body.
"""

from collections.abc import Mapping

import polars as pl

from wearable_pipeline.model import TABLES
from wearable_pipeline.model.units import (
    fahrenheit_to_celsius,
    feet_to_metres,
    fluid_ounces_to_millilitres,
    miles_to_metres,
    pounds_to_kilograms,
)
from wearable_pipeline.providers import _fitbit_archive as archive
from wearable_pipeline.providers import _fitbit_frames as frames
from wearable_pipeline.providers import _fitbit_split as bodies
from wearable_pipeline.providers._contract import (
    Evidence,
    Importer,
    Provider,
    Reject,
    Resource,
    Samples,
    Scalars,
)
from wearable_pipeline.providers._fitbit_frames import number
from wearable_pipeline.providers._moments import SPAN
from wearable_pipeline.providers._values import positive, written

# Series there are bodies of; the others are of the same shapes, as far as the documentation goes.
_MET_IN_FIXTURES = frozenset(
    {
        *("activities_steps", "activities_calories", "activities_heart_intraday"),
        *("activities_steps_intraday", "activities_calories_intraday", "hrv_intraday"),
        *("breathing_rate", "breathing_rate_intraday", "spo2", "spo2_intraday"),
    }
)

_KILOMETRE = 1000.0
_MINUTE = 60.0
_MILLISECONDS = 1000.0
_YARD = 0.9144

# `units`: `us`, or none for metric. `run`: which of several runs of the clock the points are of. `is_part`: a
# total of a part of the day.
_CONTEXT: Mapping[str, pl.DataType] = {
    "timezone": pl.String(),
    "date": pl.String(),
    "run": pl.Int64(),
    "is_part": pl.Boolean(),
    "units": pl.String(),
}
_IS_US = (pl.col("context.units") == "us").fill_null(value=False)
_UNDATED = Reject(
    "date: the body does not say of which day it is; put the day into the file's name"
    " (…2026-01-31.json)",
    pl.col("context.date").is_null(),
)
_IS_WHOLE = ~pl.col("context.is_part").fill_null(value=False)


def _evidence(resource: str) -> Evidence:
    return "project-fixture" if resource in _MET_IN_FIXTURES else "contract only"


def _metres(distance: pl.Expr) -> pl.Expr:
    return pl.when(_IS_US).then(miles_to_metres(distance)).otherwise(distance * _KILOMETRE)


def _climbed(height: pl.Expr) -> pl.Expr:
    return pl.when(_IS_US).then(feet_to_metres(height)).otherwise(height)


def _kilograms(weight: pl.Expr) -> pl.Expr:
    return pl.when(_IS_US).then(pounds_to_kilograms(weight)).otherwise(weight)


def _millilitres(volume: pl.Expr) -> pl.Expr:
    return pl.when(_IS_US).then(fluid_ounces_to_millilitres(volume)).otherwise(volume)


def _celsius(temperature: pl.Expr) -> pl.Expr:
    return pl.when(_IS_US).then(fahrenheit_to_celsius(temperature)).otherwise(temperature)


def _seconds(minutes: str) -> pl.Expr:
    return pl.col(minutes) * _MINUTE


def _element(table: str, column: str, fields: Mapping[str, pl.Expr]) -> pl.Expr:
    """An element of a list column, to be used inside `list.eval`."""
    return pl.struct(
        fields.get(field.name, pl.lit(None)).cast(field.dtype).alias(field.name)
        for field in TABLES[table].column(column).fields
    )


def _named(column: str, names: str, name: str, value: str) -> pl.Expr:
    """The number beside `name` in a list of named numbers; null when the list does not have it."""
    item = pl.element().struct
    found = pl.when(item.field(names) == name).then(number(item.field(value)))
    return pl.col(column).list.eval(found).list.drop_nulls().list.first()


_ZONES = pl.List(pl.Struct({"name": pl.String(), "minutes": pl.String()}))
_ZONE_NUMBERS = {"Out of Range": 0, "Fat Burn": 1, "Cardio": 2, "Peak": 3}


def _zones(table: str, column: str) -> pl.Expr:
    """Time in zones. Their ends are heart rates, not shares of the highest one: they stay in raw."""
    item = pl.element().struct
    element = _element(
        table,
        "heart_rate_summary_hr_zone",
        {
            "zone": item.field("name").replace_strict(
                _ZONE_NUMBERS, default=None, return_dtype=pl.Int64
            ),
            "name": item.field("name"),
            "duration_seconds": number(item.field("minutes")) * _MINUTE,
        },
    )
    return pl.when(pl.col(column).list.len() > 0).then(pl.col(column).list.eval(element))


# --- totals of days

_VALUE = pl.col("value")
# A day without a log of food or water is answered with zero.
_LOGGED = pl.when(_VALUE > 0).then(_VALUE)
_FROM_MINUTES = _VALUE * _MINUTE

_ACTIVE = "active_durations"
_COUNTS = frozenset({"activities-steps", "activities-floors", "activities-swimming-strokes"})
# Key, table, column, value.
_SERIES: tuple[tuple[str, str, str, pl.Expr], ...] = (
    ("activities-steps", "daily", "distance_steps", _VALUE),
    ("activities-distance", "daily", "distance_distance_meters", _metres(_VALUE)),
    ("activities-floors", "daily", "distance_floors_climbed", _VALUE),
    ("activities-elevation", "daily", "distance_elevation_gain_actual_meters", _climbed(_VALUE)),
    ("activities-calories", "daily", "calories_total_burned_calories", _VALUE),
    ("activities-caloriesBMR", "daily", "calories_bmr_calories", _VALUE),
    ("activities-activityCalories", "daily", "calories_net_activity_calories", _VALUE),
    ("activities-minutesSedentary", "daily", f"{_ACTIVE}_inactivity_seconds", _FROM_MINUTES),
    ("activities-minutesLightlyActive", "daily", f"{_ACTIVE}_low_intensity_seconds", _FROM_MINUTES),
    (
        "activities-minutesFairlyActive",
        "daily",
        f"{_ACTIVE}_moderate_intensity_seconds",
        _FROM_MINUTES,
    ),
    (
        "activities-minutesVeryActive",
        "daily",
        f"{_ACTIVE}_vigorous_intensity_seconds",
        _FROM_MINUTES,
    ),
    ("activities-swimming-strokes", "daily", "distance_swimming_num_strokes", _VALUE),
    ("body-weight", "body", "measurements_day_avg_weight_kg", _kilograms(_LOGGED)),
    ("body-bmi", "body", "measurements_day_avg_bmi", _LOGGED),
    ("body-fat", "body", "measurements_day_avg_bodyfat_percentage", _LOGGED),
    ("foods-log-caloriesIn", "nutrition", "summary_macros_calories", _LOGGED),
    ("foods-log-water", "nutrition", "summary_water_ml", _millilitres(_LOGGED)),
)


def _series(key: str, table: str, column: str, value: pl.Expr) -> Resource:
    return Resource(
        name=_resource_name(key),
        recognise=bodies.has_list(key),
        wire={"value": pl.Int64() if key in _COUNTS else pl.Float64()},
        split=bodies.split_series(key),
        prepare=frames.prepare_day,
        tables=(Scalars(table, {column: value}, where=_IS_WHOLE & value.is_not_null()),),
        rejects=(_UNDATED,),
        context_wire=_CONTEXT,
        ignored=frozenset({"dateTime"}),
        evidence=_evidence(_resource_name(key)),
    )


def _resource_name(key: str) -> str:
    return key.replace("-", "_")


_HEART = Resource(
    name="activities_heart",
    recognise=bodies.has_any_or_none("activities-heart", bodies.is_heart_day),
    wire={"value.restingHeartRate": pl.Float64(), "value.heartRateZones": _ZONES},
    split=bodies.split_days("activities-heart", bodies.is_heart_day),
    prepare=frames.prepare_day,
    tables=(
        Scalars(
            "daily",
            {
                "heart_rate_summary_resting_hr_bpm": positive("value.restingHeartRate"),
                "heart_rate_summary_hr_zone": _zones("daily", "value.heartRateZones"),
            },
        ),
    ),
    rejects=(_UNDATED,),
    context_wire=_CONTEXT,
    # Zones people draw themselves overlap the others.
    ignored=frozenset({"dateTime", "value.customHeartRateZones"}),
    evidence="project-fixture",
)

_HEART_WINDOW = Resource(
    name="activities_heart_window",
    recognise=bodies.has_some("activities-heart", bodies.is_heart_window),
    wire={"value": pl.Float64(), "heartRateZones": _ZONES},
    split=bodies.split_heart_window,
    prepare=frames.prepare_day,
    tables=(
        Scalars(
            "daily",
            {
                "heart_rate_summary_avg_hr_bpm": positive("value"),
                "heart_rate_summary_hr_zone": _zones("daily", "heartRateZones"),
            },
            where=_IS_WHOLE,
        ),
    ),
    rejects=(_UNDATED,),
    context_wire=_CONTEXT,
    ignored=frozenset({"dateTime", "customHeartRateZones"}),
    evidence="project-fixture",
)

_SUMMARY = Resource(
    name="activities_summary",
    recognise=bodies.has_object("summary", "caloriesOut", "caloriesBMR", "veryActiveMinutes"),
    wire={
        "steps": pl.Int64(),
        "floors": pl.Int64(),
        "elevation": pl.Float64(),
        "caloriesOut": pl.Float64(),
        "caloriesBMR": pl.Float64(),
        "activityCalories": pl.Float64(),
        "sedentaryMinutes": pl.Float64(),
        "lightlyActiveMinutes": pl.Float64(),
        "fairlyActiveMinutes": pl.Float64(),
        "veryActiveMinutes": pl.Float64(),
        "restingHeartRate": pl.Float64(),
        "distances": pl.List(pl.Struct({"activity": pl.String(), "distance": pl.String()})),
        "heartRateZones": _ZONES,
    },
    split=bodies.split_activity_summary,
    prepare=frames.prepare_day,
    tables=(
        Scalars(
            "daily",
            {
                "distance_steps": pl.col("steps"),
                "distance_floors_climbed": pl.col("floors"),
                "distance_elevation_gain_actual_meters": _climbed(pl.col("elevation")),
                "distance_distance_meters": _metres(
                    _named("distances", "activity", "total", "distance")
                ),
                "calories_total_burned_calories": pl.col("caloriesOut"),
                "calories_bmr_calories": pl.col("caloriesBMR"),
                "calories_net_activity_calories": pl.col("activityCalories"),
                "active_durations_inactivity_seconds": _seconds("sedentaryMinutes"),
                "active_durations_low_intensity_seconds": _seconds("lightlyActiveMinutes"),
                "active_durations_moderate_intensity_seconds": _seconds("fairlyActiveMinutes"),
                "active_durations_vigorous_intensity_seconds": _seconds("veryActiveMinutes"),
                "active_durations_activity_seconds": _seconds("lightlyActiveMinutes")
                + _seconds("fairlyActiveMinutes")
                + _seconds("veryActiveMinutes"),
                "heart_rate_summary_resting_hr_bpm": positive("restingHeartRate"),
                "heart_rate_summary_hr_zone": _zones("daily", "heartRateZones"),
            },
        ),
    ),
    rejects=(_UNDATED,),
    context_wire=_CONTEXT,
    ignored=frozenset({"activeScore", "marginalCalories", "customHeartRateZones"}),
    evidence="project-fixture",
)

_ZONE_MINUTES = Resource(
    name="active_zone_minutes",
    recognise=bodies.has_list("activities-active-zone-minutes"),
    wire={
        "value.fatBurnActiveZoneMinutes": pl.Float64(),
        "value.cardioActiveZoneMinutes": pl.Float64(),
        "value.peakActiveZoneMinutes": pl.Float64(),
    },
    split=bodies.split_days("activities-active-zone-minutes"),
    prepare=frames.prepare_day,
    tables=(
        Scalars(
            "daily",
            {
                "met_num_moderate_intensity_minutes": pl.col("value.fatBurnActiveZoneMinutes"),
                # A minute of these counts twice.
                "met_num_high_intensity_minutes": pl.when(
                    pl.col("value.cardioActiveZoneMinutes").is_not_null()
                    | pl.col("value.peakActiveZoneMinutes").is_not_null()
                ).then(
                    pl.sum_horizontal(
                        "value.cardioActiveZoneMinutes", "value.peakActiveZoneMinutes"
                    )
                    / 2
                ),
            },
        ),
    ),
    rejects=(_UNDATED,),
    context_wire=_CONTEXT,
    ignored=frozenset({"dateTime", "value.activeZoneMinutes"}),
    evidence="project-fixture",
)

_IS_RANGE = (
    pl.col("value.vo2Max").str.contains(r"^\s*[\d.]+\s*-\s*[\d.]+\s*$").fill_null(value=False)
)

_CARDIO_SCORE = Resource(
    name="cardio_score",
    recognise=bodies.has_list("cardioScore"),
    wire={"value.vo2Max": pl.String()},
    split=bodies.split_days("cardioScore"),
    prepare=frames.prepare_day,
    tables=(Scalars("daily", {"oxygen_vo2max_ml_per_min_per_kg": number(pl.col("value.vo2Max"))}),),
    rejects=(
        _UNDATED,
        # The middle of a range is nobody's measurement.
        Reject("value.vo2Max: a range, not a value", _IS_RANGE),
        Reject(
            "value.vo2Max: not a number",
            ~_IS_RANGE
            & pl.col("value.vo2Max").is_not_null()
            & number(pl.col("value.vo2Max")).is_null(),
        ),
    ),
    context_wire=_CONTEXT,
    ignored=frozenset({"dateTime"}),
    evidence="project-fixture",
)

# --- points of days

_POINT = pl.col("point").struct
_POINT_VALUE = number(_POINT.field("value"))
_HAS_POINT = _POINT_VALUE.is_not_null()
_POINT_REJECT = Reject(
    "dataset.value: not a number",
    _POINT.field("value").is_not_null() & (_POINT_VALUE.is_null() | ~_POINT_VALUE.is_finite()),
)
_LEVEL_NAMES = {
    "0": "inactive",
    "1": "low_intensity",
    "2": "medium_intensity",
    "3": "high_intensity",
}


def _points(
    key: str, *tables: Samples, prepare: frames.Prepare = frames.prepare_points
) -> Resource:
    return Resource(
        name=f"{_resource_name(key)}_intraday",
        recognise=bodies.has_points(key),
        wire={
            "dataset": frames.POINTS,
            "datasetInterval": pl.Int64(),
            "datasetType": pl.String(),
        },
        split=bodies.split_points(key),
        prepare=prepare,
        tables=tables,
        rejects=(_UNDATED, _POINT_REJECT),
        context_wire=_CONTEXT,
        evidence=_evidence(f"{_resource_name(key)}_intraday"),
    )


_POINTS = (
    _points(
        "activities-heart",
        Samples("daily", "heart_rate_detailed_hr_samples", {"bpm": _POINT_VALUE}, where=_HAS_POINT),
    ),
    _points(
        "activities-steps",
        Samples(
            "daily", "distance_detailed_step_samples", {"steps": _POINT_VALUE}, where=_HAS_POINT
        ),
        prepare=frames.prepare_amounts,
    ),
    _points(
        "activities-distance",
        Samples(
            "daily",
            "distance_detailed_distance_samples",
            {"distance_meters": _metres(_POINT_VALUE)},
            where=_HAS_POINT,
        ),
        prepare=frames.prepare_amounts,
    ),
    _points(
        "activities-floors",
        Samples(
            "daily",
            "distance_detailed_floors_climbed_samples",
            {"floors_climbed": _POINT_VALUE},
            where=_HAS_POINT,
        ),
        prepare=frames.prepare_amounts,
    ),
    _points(
        "activities-calories",
        Samples("daily", "calories_calorie_samples", {"calories": _POINT_VALUE}, where=_HAS_POINT),
        Samples(
            "daily",
            "met_met_samples",
            # Written tenfold.
            {"level": number(_POINT.field("mets")) / 10},
            where=number(_POINT.field("mets")).is_not_null(),
        ),
        Samples(
            "daily",
            "active_durations_activity_levels_samples",
            {
                "activity_level": _POINT.field("level").replace_strict(
                    _LEVEL_NAMES, default="unknown", return_dtype=pl.String
                )
            },
            where=_POINT.field("level").is_not_null(),
        ),
        prepare=frames.prepare_amounts,
    ),
)

# --- sessions

_ACTIVITY_TYPES: Mapping[str, str] = {
    "aerobic workout": "aerobics",
    "aerobics": "aerobics",
    "badminton": "badminton",
    "baseball": "baseball",
    "basketball": "basketball",
    "bicycling": "biking",
    "bike": "biking",
    "biking": "biking",
    "bootcamp": "circuit_training",
    "boxing": "boxing",
    "canoeing": "canoeing",
    "circuit training": "circuit_training",
    "crossfit": "crossfit",
    "cycling": "biking",
    "dancing": "dancing",
    "elliptical": "elliptical",
    "elliptical trainer": "elliptical",
    "golf": "golf",
    "hike": "hiking",
    "hiking": "hiking",
    "hiit": "hiit",
    "indoor climbing": "rock_climbing",
    "interval workout": "interval_training",
    "jogging": "jogging",
    "kayaking": "kayaking",
    "kickboxing": "kickboxing",
    "martial arts": "martial_arts",
    "meditating": "meditation",
    "meditation": "meditation",
    "mountain biking": "mountain_biking",
    "outdoor bike": "biking",
    "paddleboarding": "stand_up_paddleboarding",
    "pilates": "pilates",
    "racquetball": "racquetball",
    "rock climbing": "rock_climbing",
    "rollerblading": "inline_skating",
    "rowing": "rowing",
    "rowing machine": "rowing_machine",
    "run": "running",
    "running": "running",
    "skating": "skating",
    "skiing": "skiing",
    "snowboarding": "snowboarding",
    "soccer": "english_football",
    "spinning": "spinning",
    "squash": "squash",
    "stairclimber": "stair_climbing_machine",
    "strength training": "strength_training",
    "surfing": "surfing",
    "swim": "swimming",
    "swimming": "swimming",
    "table tennis": "table_tennis",
    "tennis": "tennis",
    "treadmill": "treadmill",
    "volleyball": "volleyball",
    "walk": "walking",
    "walking": "walking",
    "weightlifting": "weightlifting",
    "weights": "weightlifting",
    "yoga": "yoga",
    "zumba": "zumba",
}


def _activity_type(*names: str) -> pl.Expr:
    """The kind by the first name that is known; names may go on after a bracket or comma."""
    heads = (
        pl.col(name).str.extract(r"^\s*([^(,:]+)", 1).str.strip_chars().str.to_lowercase()
        for name in names
    )
    known = [
        head.replace_strict(dict(_ACTIVITY_TYPES), default=None, return_dtype=pl.String)
        for head in heads
    ]
    return pl.coalesce(*known, pl.lit("unknown"))


_UNIT = pl.col("distanceUnit").str.to_lowercase().str.strip_suffix("s")
_IS_METRIC = (_UNIT == "kilometer").fill_null(value=False) | (_UNIT.is_null() & ~_IS_US)
_IS_IMPERIAL = (_UNIT == "mile").fill_null(value=False) | (_UNIT.is_null() & _IS_US)
_LOGGED_DISTANCE = (
    pl.when(_IS_METRIC)
    .then(pl.col("distance") * _KILOMETRE)
    .when(_IS_IMPERIAL)
    .then(miles_to_metres(pl.col("distance")))
    .when(_UNIT == "meter")
    .then(pl.col("distance"))
    .when(_UNIT == "yard")
    .then(pl.col("distance") * _YARD)
)
_PER_HOUR = (
    pl.when(_IS_METRIC)
    .then(pl.col("speed") * _KILOMETRE)
    .when(_IS_IMPERIAL)
    .then(miles_to_metres(pl.col("speed")))
)
# Seconds for a kilometre or a mile.
_PACE = (
    pl.when(_IS_METRIC)
    .then(pl.col("pace"))
    .when(_IS_IMPERIAL)
    .then(pl.col("pace") * _KILOMETRE / miles_to_metres(1.0))
)
_POOL_UNIT = pl.col("poolLengthUnit").str.to_lowercase().str.strip_suffix("s")

_LENGTH = Reject(
    "duration: no length of a session in milliseconds",
    ~pl.col("duration").is_between(0, bodies.LONGEST_MS),
)


def _level(name: str) -> pl.Expr:
    return _named("activityLevel", "name", name, "minutes") * _MINUTE


_ACTIVITIES = Resource(
    name="activities_list",
    recognise=bodies.is_loose(
        "activities", lambda item: "logId" in item and "activityTypeId" in item
    ),
    wire={
        "startTime": pl.String(),
        "duration": pl.Int64(),
        "activeDuration": pl.Float64(),
        "activityName": pl.String(),
        "logType": pl.String(),
        "calories": pl.Float64(),
        "steps": pl.Int64(),
        "distance": pl.Float64(),
        "distanceUnit": pl.String(),
        "speed": pl.Float64(),
        "pace": pl.Float64(),
        "elevationGain": pl.Float64(),
        "averageHeartRate": pl.Float64(),
        "heartRateZones": _ZONES,
        "activityLevel": _ZONES,
        "swimLengths": pl.Int64(),
        "poolLength": pl.Float64(),
        "poolLengthUnit": pl.String(),
        "source.name": pl.String(),
        "source.type": pl.String(),
    },
    split=bodies.split_activities,
    prepare=frames.prepare_activities,
    tables=(
        Scalars(
            "activity",
            {
                "metadata_summary_id": pl.col("record_id"),
                **SPAN,
                "metadata_name": written("activityName"),
                "metadata_type": _activity_type("activityName"),
                "metadata_upload_type": pl.col("logType").replace_strict(
                    {
                        "auto_detected": "automatic",
                        "tracker": "automatic",
                        "mobile_run": "automatic",
                        "manual": "manual",
                    },
                    default="unknown",
                    return_dtype=pl.String,
                ),
                "device_name": written("source.name"),
                "device_manufacturer": pl.when(pl.col("source.type") == "tracker").then(
                    pl.lit("Fitbit")
                ),
                "active_durations_activity_seconds": pl.col("activeDuration") / _MILLISECONDS,
                "active_durations_inactivity_seconds": _level("sedentary"),
                "active_durations_low_intensity_seconds": _level("lightly"),
                "active_durations_moderate_intensity_seconds": _level("fairly"),
                "active_durations_vigorous_intensity_seconds": _level("very"),
                "calories_total_burned_calories": pl.col("calories"),
                "distance_summary_steps": pl.col("steps"),
                "distance_summary_distance_meters": _LOGGED_DISTANCE,
                "distance_summary_elevation_gain_actual_meters": pl.when(_IS_IMPERIAL)
                .then(feet_to_metres(pl.col("elevationGain")))
                .otherwise(pl.col("elevationGain")),
                "distance_summary_swimming_num_laps": pl.col("swimLengths"),
                "distance_summary_swimming_pool_length_meters": pl.when(_POOL_UNIT == "yard")
                .then(pl.col("poolLength") * _YARD)
                .when(_POOL_UNIT == "meter")
                .then(pl.col("poolLength"))
                .round()
                .cast(pl.Int64, strict=False),
                "movement_avg_speed_meters_per_second": _PER_HOUR / 3600,
                "movement_avg_pace_minutes_per_kilometer": _PACE / _MINUTE,
                "heart_rate_summary_avg_hr_bpm": positive("averageHeartRate"),
                "heart_rate_summary_hr_zone": _zones("activity", "heartRateZones"),
            },
        ),
    ),
    rejects=(_LENGTH,),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("logId", "activityTypeId", "lastModified", "originalStartTime", "originalDuration"),
            *("caloriesLink", "heartRateLink", "tcxLink", "detailsLink", "manualValuesSpecified"),
            *("source.id", "source.url", "source.trackerFeatures", "activeZoneMinutes"),
            *("hasGps", "hasActiveZoneMinutes", "shouldFetchDetails", "intervalWorkoutSummaries"),
            *("customHeartRateZones", "inProgress"),
        }
    ),
    evidence="project-fixture",
)

_DAY_ACTIVITIES = Resource(
    name="activities_date",
    recognise=bodies.has_some(
        "activities", lambda item: "logId" in item and "activityTypeId" not in item
    ),
    wire={
        "startDate": pl.String(),
        "startTime": pl.String(),
        "hasStartTime": pl.Boolean(),
        "duration": pl.Int64(),
        "name": pl.String(),
        "activityParentName": pl.String(),
        "calories": pl.Float64(),
        "steps": pl.Int64(),
        "distance": pl.Float64(),
    },
    split=bodies.split_day_activities,
    prepare=frames.prepare_day_activities,
    tables=(
        Scalars(
            "activity",
            {
                "metadata_summary_id": pl.col("record_id"),
                **SPAN,
                "metadata_name": written("name"),
                "metadata_type": _activity_type("activityParentName", "name"),
                "calories_total_burned_calories": pl.col("calories"),
                "distance_summary_steps": pl.col("steps"),
                "distance_summary_distance_meters": _metres(pl.col("distance")),
            },
        ),
    ),
    rejects=(_LENGTH,),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("logId", "activityId", "activityParentId", "description", "isFavorite"),
            *("lastModified", "hasActiveZoneMinutes"),
        }
    ),
    evidence="project-fixture",
)

# --- nights

_IS_CLASSIC = (pl.col("type") == "classic").fill_null(value=False)


def _minutes(path: str) -> pl.Expr:
    return pl.col(f"levels.summary.{path}.minutes") * _MINUTE


_SLEEP = Resource(
    name="sleep",
    recognise=bodies.is_loose(
        "sleep",
        lambda item: "logId" in item and {"levels", "minuteData", "timeInBed"} & set(item) != set(),
    ),
    wire={
        "startTime": pl.String(),
        "endTime": pl.String(),
        "duration": pl.Int64(),
        "isMainSleep": pl.Boolean(),
        "type": pl.String(),
        "logType": pl.String(),
        "efficiency": pl.Float64(),
        "minutesAsleep": pl.Float64(),
        "minutesAwake": pl.Float64(),
        "minutesToFallAsleep": pl.Float64(),
        "minutesAfterWakeup": pl.Float64(),
        "timeInBed": pl.Float64(),
        "awakeCount": pl.Int64(),
        "levels.data": frames.LEVELS,
        "levels.shortData": frames.LEVELS,
        "levels.summary.deep.minutes": pl.Float64(),
        "levels.summary.light.minutes": pl.Float64(),
        "levels.summary.rem.minutes": pl.Float64(),
        "levels.summary.rem.count": pl.Int64(),
        "levels.summary.wake.count": pl.Int64(),
        "levels.summary.awake.count": pl.Int64(),
        "minuteData": frames.V1_MINUTES,
    },
    split=bodies.split_sleep,
    prepare=frames.prepare_sleep,
    tables=(
        Scalars(
            "sleep",
            {
                "metadata_summary_id": pl.col("record_id"),
                **SPAN,
                "metadata_upload_type": pl.col("logType").replace_strict(
                    {"auto_detected": "automatic", "manual": "manual"},
                    default="unknown",
                    return_dtype=pl.String,
                ),
                "metadata_is_nap": ~pl.col("isMainSleep"),
                "sleep_durations_asleep_duration_asleep_state_seconds": _seconds("minutesAsleep"),
                "sleep_durations_asleep_duration_light_sleep_state_seconds": _minutes("light"),
                "sleep_durations_asleep_duration_deep_sleep_state_seconds": _minutes("deep"),
                "sleep_durations_asleep_duration_rem_sleep_state_seconds": _minutes("rem"),
                "sleep_durations_asleep_num_rem_events": pl.col("levels.summary.rem.count"),
                "sleep_durations_awake_duration_awake_state_seconds": _seconds("minutesAwake"),
                "sleep_durations_awake_sleep_latency_seconds": _seconds("minutesToFallAsleep"),
                "sleep_durations_awake_wake_up_latency_seconds": _seconds("minutesAfterWakeup"),
                "sleep_durations_awake_num_wakeup_events": pl.coalesce(
                    "levels.summary.wake.count", "levels.summary.awake.count", "awakeCount"
                ),
                "sleep_durations_other_duration_in_bed_seconds": _seconds("timeInBed"),
                "sleep_durations_sleep_efficiency": pl.col("efficiency"),
                "sleep_durations_hypnogram_samples": pl.col("hypnogram").list.eval(
                    _element(
                        "sleep",
                        "sleep_durations_hypnogram_samples",
                        {
                            name: pl.element().struct.field(name)
                            for name in ("timestamp", "local_timestamp", "level")
                        },
                    )
                ),
            },
        ),
    ),
    rejects=(_LENGTH,),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("logId", "dateOfSleep", "infoCode", "levels.summary", "awakeningsCount"),
            *("awakeDuration", "restlessCount", "restlessDuration"),
        }
    ),
    evidence="project-fixture",
)

_NIGHT_KEY: Mapping[str, pl.Expr] = {
    "metadata_summary_id": pl.lit("night-") + pl.col("context.date")
}


def _night(columns: Mapping[str, pl.Expr]) -> Scalars:
    stated = pl.any_horizontal(value.is_not_null() for value in columns.values())
    return Scalars("sleep", columns, where=stated, key=_NIGHT_KEY, joins_main=True)


def _nightly(
    name: str,
    wire: Mapping[str, pl.DataType],
    *tables: Samples | Scalars,
    split: bodies.Split,
    recognise: bodies.Recognise,
    ignored: tuple[str, ...] = (),
    prepare: frames.Prepare = frames.prepare_day,
) -> Resource:
    return Resource(
        name=name,
        recognise=recognise,
        wire=wire,
        split=split,
        prepare=prepare,
        tables=tables,
        rejects=(_UNDATED,),
        context_wire=_CONTEXT,
        ignored=frozenset({"dateTime", *ignored}),
        evidence=_evidence(name),
    )


def _has_minutes(item: Mapping[str, object]) -> bool:
    return isinstance(item.get("minutes"), list)


def _has_value(item: Mapping[str, object]) -> bool:
    return not _has_minutes(item)


def _is_oxygen_day(item: Mapping[str, object]) -> bool:
    value = item.get("value")
    return (
        "dateTime" in item
        and isinstance(value, dict)
        and {"avg", "min", "max"} & set(value) != set()
    )


def _is_oxygen_night(item: Mapping[str, object]) -> bool:
    return "dateTime" in item and _has_minutes(item)


def _has_stages(item: Mapping[str, object]) -> bool:
    value = item.get("value")
    return isinstance(value, dict) and "fullSleepSummary" in value


def _has_rate(item: Mapping[str, object]) -> bool:
    return not _has_stages(item)


_BREATHS = "respiration_breaths_avg_breaths_per_min"
_VARIABILITY = "heart_rate_summary_avg_hrv_rmssd"
_SATURATION = "respiration_oxygen_saturation_samples"
_RMSSD = number(_POINT.field("value").struct.field("rmssd"))

_NIGHTS = (
    _nightly(
        "hrv",
        {"value.dailyRmssd": pl.Float64()},
        _night({_VARIABILITY: pl.col("value.dailyRmssd")}),
        Scalars(
            "daily",
            {_VARIABILITY: pl.col("value.dailyRmssd")},
            where=pl.col("value.dailyRmssd").is_not_null(),
        ),
        split=bodies.split_days("hrv", _has_value),
        recognise=bodies.has_any_or_none("hrv", _has_value),
        ignored=("value.deepRmssd",),
    ),
    _nightly(
        "hrv_intraday",
        {"minutes": frames.VARIABILITY},
        Samples(
            "sleep",
            "heart_rate_detailed_hrv_samples_rmssd",
            {"hrv_rmssd": _RMSSD},
            where=_RMSSD.is_not_null(),
            key=_NIGHT_KEY,
            joins_main=True,
        ),
        split=bodies.split_days("hrv", _has_minutes),
        recognise=bodies.has_some("hrv", _has_minutes),
        prepare=frames.prepare_minutes,
    ),
    _nightly(
        "breathing_rate",
        {"value.breathingRate": pl.Float64()},
        _night({_BREATHS: positive("value.breathingRate")}),
        split=bodies.split_days("br", _has_rate),
        recognise=bodies.has_any_or_none("br", _has_rate),
    ),
    _nightly(
        "breathing_rate_intraday",
        {"value.fullSleepSummary.breathingRate": pl.Float64()},
        # -1 where a rate could not be told.
        _night({_BREATHS: positive("value.fullSleepSummary.breathingRate")}),
        split=bodies.split_days("br", _has_stages),
        recognise=bodies.has_some("br", _has_stages),
        ignored=(
            "value.deepSleepSummary",
            "value.lightSleepSummary",
            "value.remSleepSummary",
            "value.fullSleepSummary",
        ),
    ),
    _nightly(
        "spo2",
        {"value.avg": pl.Float64()},
        _night({"respiration_oxygen_saturation_avg_saturation_percentage": positive("value.avg")}),
        Scalars(
            "daily",
            {"oxygen_avg_saturation_percentage": positive("value.avg")},
            where=positive("value.avg").is_not_null(),
        ),
        split=bodies.split_loose_days(_has_value),
        recognise=bodies.is_loose("spo2", _is_oxygen_day),
        ignored=("value.min", "value.max"),
    ),
    _nightly(
        "spo2_intraday",
        {"minutes": frames.MINUTES},
        Samples(
            "sleep",
            _SATURATION,
            {"percentage": _POINT_VALUE, "type": pl.lit("blood")},
            where=_HAS_POINT,
            key=_NIGHT_KEY,
            joins_main=True,
        ),
        split=bodies.split_loose_days(_has_minutes),
        recognise=bodies.is_loose(None, _is_oxygen_night),
        prepare=frames.prepare_minutes,
    ),
    _nightly(
        "temperature_skin",
        {"value.nightlyRelative": pl.Float64()},
        _night(
            {
                # A difference of temperatures: no zero to be moved.
                "temperature_delta": pl.when(_IS_US)
                .then(pl.col("value.nightlyRelative") / 1.8)
                .otherwise(pl.col("value.nightlyRelative"))
            }
        ),
        split=bodies.split_days("tempSkin"),
        recognise=bodies.has_list("tempSkin"),
        ignored=("logType",),
    ),
)

# --- the body

_MEASUREMENTS = "measurements_measurements"
_MOMENT: Mapping[str, pl.Expr] = {
    "measurement_time": pl.col("timestamp"),
    "local_measurement_time": pl.col("local_timestamp"),
}
# People log through apps and sites as well; those are no scales.
_SCALE = pl.when(pl.col("source").str.starts_with("Aria")).then(pl.col("source"))
_HEIGHT = (_kilograms(pl.col("weight")) / pl.col("bmi")).sqrt()
_TALLEST = 2.4
_SMALLEST = 0.8

_LOG_WIRE: Mapping[str, pl.DataType] = {
    "date": pl.String(),
    "time": pl.String(),
    "source": pl.String(),
    "fat": pl.Float64(),
}

_WEIGHT = Resource(
    name="body_log_weight",
    recognise=bodies.has_list("weight", test=lambda item: "weight" in item),
    wire={**_LOG_WIRE, "weight": pl.Float64(), "bmi": pl.Float64()},
    split=bodies.split_logs("weight"),
    prepare=frames.prepare_at(frames.at_date_and_time(pl.col("date"))),
    tables=(
        Samples(
            "body",
            _MEASUREMENTS,
            {
                **_MOMENT,
                "weight_kg": _kilograms(pl.col("weight")),
                "bmi": positive("bmi"),
                "bodyfat_percentage": positive("fat"),
                "device_id": _SCALE,
            },
        ),
    ),
    rejects=(
        Reject("weight: missing", pl.col("weight").is_null()),
        # Pounds make people too tall by half, stones far too small.
        Reject(
            "weight: does not fit the BMI; was it asked for in other units? See --units of import",
            ((pl.col("bmi") > 0) & ~_HEIGHT.is_between(_SMALLEST, _TALLEST)).fill_null(value=False),
        ),
    ),
    context_wire=_CONTEXT,
    ignored=frozenset({"logId"}),
    evidence="project-fixture",
)

_FAT = Resource(
    name="body_log_fat",
    recognise=bodies.has_list("fat", test=lambda item: "fat" in item),
    wire=_LOG_WIRE,
    split=bodies.split_logs("fat"),
    prepare=frames.prepare_at(frames.at_date_and_time(pl.col("date"))),
    tables=(
        Samples(
            "body",
            _MEASUREMENTS,
            {**_MOMENT, "bodyfat_percentage": pl.col("fat"), "device_id": _SCALE},
        ),
    ),
    rejects=(Reject("fat: missing", pl.col("fat").is_null()),),
    context_wire=_CONTEXT,
    ignored=frozenset({"logId"}),
    evidence="project-fixture",
)

_BODY = Resource(
    name="body_date",
    recognise=bodies.has_object("body", "weight", "bmi", "fat"),
    wire={"weight": pl.Float64(), "bmi": pl.Float64(), "fat": pl.Float64()},
    split=bodies.split_body,
    prepare=frames.prepare_day,
    tables=(
        Scalars(
            "body",
            {
                "measurements_day_avg_weight_kg": _kilograms(positive("weight")),
                "measurements_day_avg_bmi": positive("bmi"),
                "measurements_day_avg_bodyfat_percentage": positive("fat"),
            },
        ),
    ),
    rejects=(_UNDATED,),
    context_wire=_CONTEXT,
    ignored=frozenset({"bicep", "calf", "chest", "forearm", "hips", "neck", "thigh", "waist"}),
    evidence="project-fixture",
)

_PRESSURE = Resource(
    name="blood_pressure",
    recognise=bodies.has_list("bp", test=lambda item: "systolic" in item),
    wire={"time": pl.String(), "systolic": pl.Float64(), "diastolic": pl.Float64()},
    split=bodies.split_undated_logs("bp"),
    prepare=frames.prepare_at(frames.at_date_and_time(pl.col("context.date"))),
    tables=(
        Samples(
            "body",
            "blood_pressure_blood_pressure_samples",
            {"systolic_bp": pl.col("systolic"), "diastolic_bp": pl.col("diastolic")},
        ),
    ),
    rejects=(
        _UNDATED,
        Reject("time: the log does not say when it was taken", pl.col("time").is_null()),
    ),
    context_wire=_CONTEXT,
    ignored=frozenset({"logId"}),
    evidence="project-fixture",
)

_CORE = Resource(
    name="temperature_core",
    recognise=bodies.has_list("tempCore"),
    wire={"dateTime": pl.String(), "value": pl.Float64()},
    split=bodies.split_timed("tempCore", "dateTime"),
    prepare=frames.prepare_at(frames.local_time(pl.col("dateTime"))),
    tables=(
        Samples(
            "body",
            "temperature_body_temperature_samples",
            {"temperature_celsius": _celsius(pl.col("value"))},
        ),
    ),
    rejects=(
        Reject("value: missing", pl.col("value").is_null()),
        Reject(
            "value: no temperature of a body; was it asked for in Fahrenheit? See --units of import",
            ~_celsius(pl.col("value")).is_between(20, 45),
        ),
    ),
    context_wire=_CONTEXT,
)

_ECG = Resource(
    name="ecg",
    recognise=bodies.has_list("ecgReadings"),
    wire={
        "startTime": pl.String(),
        "averageHeartRate": pl.Float64(),
        "resultClassification": pl.String(),
        "waveformSamples": pl.List(pl.String()),
        "samplingFrequencyHz": pl.Float64(),
        # Samples are in so many parts of a millivolt.
        "scalingFactor": pl.Float64(),
    },
    split=bodies.split_timed("ecgReadings", "startTime"),
    prepare=frames.prepare_ecg,
    tables=(
        Samples(
            "body",
            "heart_ecg_signal",
            {
                "start_timestamp": pl.col("timestamp"),
                "local_start_timestamp": pl.col("local_timestamp"),
                "avg_hr_bpm": positive("averageHeartRate"),
                "afib_classification": pl.col("resultClassification")
                .str.to_lowercase()
                .replace_strict(
                    {
                        "normal sinus rhythm": "negative",
                        "atrial fibrillation": "positive",
                        "inconclusive": "inconclusive",
                    },
                    default=None,
                    return_dtype=pl.String,
                ),
                "raw_signal": pl.col("trace"),
            },
        ),
    ),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {"numberOfWaveformSamples", "leadNumber", "featureVersion", "firmwareVersion", "deviceName"}
    ),
)

_DEVICES = Resource(
    name="devices",
    recognise=bodies.is_loose(
        None, lambda item: "deviceVersion" in item and "lastSyncTime" in item
    ),
    wire={
        "deviceVersion": pl.String(),
        "id": pl.String(),
        "type": pl.String(),
        "lastSyncTime": pl.String(),
    },
    split=bodies.split_devices,
    prepare=frames.prepare_at(frames.local_time(pl.col("lastSyncTime"))),
    tables=tuple(
        Samples(
            table,
            "device_other_devices",
            {
                "name": written("deviceVersion"),
                "manufacturer": pl.lit("Fitbit"),
                "serial_number": written("id"),
                "last_upload_date": pl.col("timestamp"),
                "local_last_upload_date": pl.col("local_timestamp"),
            },
            where=where,
        )
        for table, where in (
            ("body", (pl.col("type") == "SCALE").fill_null(value=False)),
            ("daily", (pl.col("type") != "SCALE").fill_null(value=True)),
        )
    ),
    context_wire=_CONTEXT,
    ignored=frozenset({"battery", "batteryLevel", "features", "mac"}),
    evidence="project-fixture",
)

# --- food and drink

_MEALS = {
    1: "breakfast",
    2: "morning_snack",
    3: "lunch",
    4: "afternoon_snack",
    5: "dinner",
}
_FOOD_UNITS = {
    "g": "gram",
    "gram": "gram",
    "grams": "gram",
    "ml": "milliliter",
    "milliliter": "milliliter",
    "oz": "ounce",
    "ounce": "ounce",
    "fl oz": "fluid_ounce",
    "fluid ounce": "fluid_ounce",
    "tsp": "teaspoon",
    "teaspoon": "teaspoon",
    "tbsp": "tablespoon",
    "tablespoon": "tablespoon",
    "cup": "cup",
    "scoop": "scoop",
    "piece": "count",
    "each": "count",
    "unit": "count",
}

_FOODS = Resource(
    name="foods_log",
    recognise=bodies.has_some("foods", lambda item: "loggedFood" in item),
    wire={
        "loggedFood.name": pl.String(),
        "loggedFood.amount": pl.Float64(),
        "loggedFood.mealTypeId": pl.Int64(),
        "loggedFood.unit.name": pl.String(),
        "loggedFood.calories": pl.Float64(),
        "nutritionalValues.calories": pl.Float64(),
        "nutritionalValues.carbs": pl.Float64(),
        "nutritionalValues.fat": pl.Float64(),
        "nutritionalValues.fiber": pl.Float64(),
        "nutritionalValues.protein": pl.Float64(),
        "nutritionalValues.sodium": pl.Float64(),
    },
    split=bodies.split_foods,
    prepare=frames.prepare_day,
    tables=(
        Samples(
            "nutrition",
            "meals",
            {
                "id": pl.col("record_id"),
                "name": written("loggedFood.name"),
                "timestamp": pl.col("timestamp"),
                "local_timestamp": pl.col("local_timestamp"),
                "type": pl.col("loggedFood.mealTypeId").replace_strict(
                    _MEALS, default="unknown", return_dtype=pl.String
                ),
                "quantity_amount": pl.col("loggedFood.amount"),
                "quantity_unit": pl.col("loggedFood.unit.name")
                .str.to_lowercase()
                .replace_strict(_FOOD_UNITS, default="unknown", return_dtype=pl.String),
                "macros_calories": pl.coalesce("nutritionalValues.calories", "loggedFood.calories"),
                "macros_carbohydrates_g": pl.col("nutritionalValues.carbs"),
                "macros_fat_g": pl.col("nutritionalValues.fat"),
                "macros_fiber_g": pl.col("nutritionalValues.fiber"),
                "macros_protein_g": pl.col("nutritionalValues.protein"),
                "macros_sodium_mg": pl.col("nutritionalValues.sodium"),
            },
        ),
    ),
    rejects=(_UNDATED,),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("logId", "logDate", "isFavorite", "loggedFood.accessLevel", "loggedFood.brand"),
            *("loggedFood.foodId", "loggedFood.locale", "loggedFood.unit", "loggedFood.units"),
            *("loggedFood.creatorEncodedId", "loggedFood.defaultServingSize"),
        }
    ),
    evidence="project-fixture",
)

_NUTRIENTS = {
    "summary_macros_calories": "calories",
    "summary_macros_carbohydrates_g": "carbs",
    "summary_macros_fat_g": "fat",
    "summary_macros_fiber_g": "fiber",
    "summary_macros_protein_g": "protein",
    "summary_macros_sodium_mg": "sodium",
}
_HAS_EATEN = pl.any_horizontal(
    (pl.col(name) > 0).fill_null(value=False) for name in _NUTRIENTS.values()
)

_FOODS_SUMMARY = Resource(
    name="foods_log_summary",
    recognise=lambda answer: (
        bodies.has_list("foods", "summary")(answer)
        and bodies.has_object("summary", "calories", "water")(answer)
    ),
    wire={name: pl.Float64() for name in (*_NUTRIENTS.values(), "water")},
    split=bodies.split_foods_summary,
    prepare=frames.prepare_day,
    tables=(
        Scalars(
            "nutrition",
            {
                # All zero: nothing was logged, which is not nothing eaten.
                **{
                    column: pl.when(_HAS_EATEN).then(pl.col(name))
                    for column, name in _NUTRIENTS.items()
                },
                "summary_water_ml": _millilitres(positive("water")),
            },
            where=_HAS_EATEN | (pl.col("water") > 0).fill_null(value=False),
        ),
    ),
    rejects=(_UNDATED,),
    context_wire=_CONTEXT,
    evidence="project-fixture",
)

_WATER = Resource(
    name="foods_log_water_date",
    recognise=bodies.has_list("water"),
    wire={
        "summary.water": pl.Float64(),
        "water": pl.List(pl.Struct({"amount": pl.String()})),
    },
    split=bodies.split_water,
    prepare=frames.prepare_day,
    tables=(
        Scalars(
            "nutrition",
            {
                "summary_water_ml": _millilitres(
                    pl.coalesce(
                        positive("summary.water"),
                        pl.when(pl.col("water").list.len() > 0).then(
                            pl.col("water")
                            .list.eval(number(pl.element().struct.field("amount")))
                            .list.sum()
                        ),
                    )
                )
            },
        ),
    ),
    rejects=(_UNDATED,),
    context_wire=_CONTEXT,
    evidence="project-fixture",
)

# --- what no table has a place for

_UNMAPPED = Resource(
    name="unmapped_series",
    recognise=bodies.has_unmapped,
    wire={},
    split=bodies.split_unmapped,
    prepare=frames.prepare_day,
    tables=(),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {"dateTime", "value", "dataset", "datasetInterval", "datasetType", "minutes"}
    ),
)

_RESOURCES = (
    _ACTIVITIES,
    _DAY_ACTIVITIES,
    _SUMMARY,
    *(_series(*line) for line in _SERIES),
    _HEART,
    _HEART_WINDOW,
    _ZONE_MINUTES,
    _CARDIO_SCORE,
    *_POINTS,
    _SLEEP,
    *_NIGHTS,
    _WEIGHT,
    _FAT,
    _BODY,
    _PRESSURE,
    _CORE,
    _ECG,
    _DEVICES,
    _FOODS,
    _FOODS_SUMMARY,
    _WATER,
    _UNMAPPED,
)


def _is_known(answer: object) -> bool:
    return any(resource.recognise(answer) for resource in _RESOURCES if resource.recognise)


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer without readings."""
    bodies.refuse_other(body, _is_known)


PROVIDER = Provider(
    name="fitbit",
    title="Fitbit Web API (archive)",
    client_name="FITBIT",
    summary="Archived answers of the Fitbit Web API, which is gone; imported, nothing is fetched.",
    freshness="No more than the archive: the service ended on 2 November 2026.",
    docs_url="https://dev.fitbit.com/build/reference/web-api/",
    resources=_RESOURCES,
    importers=(
        Importer(
            name="fitbit_archive",
            resource=None,
            title="Fitbit Web API answer (JSON) or a zip of them",
            recognise=archive.recognise(_is_known),
            read=archive.reader(_RESOURCES, explain),
        ),
    ),
    explain=explain,
)
