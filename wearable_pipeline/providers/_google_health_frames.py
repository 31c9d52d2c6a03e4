"""Typed frames of Google Health points → frames with times, and expressions for what they hold.

Instants are in UTC with the offset where the person was beside them. Days have no time at all.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from wearable_pipeline.model.columns import INSTANT, LOCAL
from wearable_pipeline.model.time import Pair, pair_from_offset, parse_pair
from wearable_pipeline.model.units import millimetres_to_metres
from wearable_pipeline.providers._local_time import wall_clock
from wearable_pipeline.providers._series import regular_samples

_WIDEST_SECONDS = 18 * 3600
_ZONE = "context.timezone"

# --- wire


def interval_wire(key: str) -> dict[str, pl.DataType]:
    """The times of points that last."""
    names = ("startTime", "startUtcOffset", "endTime", "endUtcOffset")
    return {f"{key}.interval.{name}": pl.String() for name in names}


def moment_wire(key: str) -> dict[str, pl.DataType]:
    """The time of points of one moment."""
    return {f"{key}.sampleTime.{name}": pl.String() for name in ("physicalTime", "utcOffset")}


def date_wire(path: str) -> dict[str, pl.DataType]:
    """A date in its three parts."""
    return {f"{path}.date.{name}": pl.Int64() for name in ("year", "month", "day")}


DEVICE_WIRE: Mapping[str, pl.DataType] = {
    "dataSource.recordingMethod": pl.String(),
    "dataSource.device.displayName": pl.String(),
    "dataSource.device.manufacturer": pl.String(),
}

# Elements of lists are objects whose leaves are read as text.
_SPAN = ("startTime", "startUtcOffset", "endTime", "endUtcOffset")
STAGES = pl.List(pl.Struct({**dict.fromkeys(_SPAN, pl.String()), "type": pl.String()}))
SEGMENTS = pl.List(pl.Struct(dict.fromkeys(_SPAN, pl.String())))
STAGE_SUMMARIES = pl.List(pl.Struct({name: pl.String() for name in ("type", "minutes", "count")}))
SPLITS = pl.List(
    pl.Struct(
        {
            **dict.fromkeys((*_SPAN, "activeDuration"), pl.String()),
            "metricsSummary": pl.Struct(
                {
                    name: pl.String()
                    for name in (
                        "caloriesKcal",
                        "distanceMillimeters",
                        "averageHeartRateBeatsPerMinute",
                        "averageSpeedMillimetersPerSecond",
                    )
                }
            ),
        }
    )
)
ZONES = pl.List(pl.Struct({"heartRateZone": pl.String(), "duration": pl.String()}))
LEVELS = pl.List(pl.Struct({"activityLevel": pl.String(), "activeMinutesSum": pl.String()}))


def nutrients_wire(field: str) -> pl.List:
    """A list of nutrients with their masses in `field`."""
    return pl.List(
        pl.Struct({"nutrient": pl.String(), "quantity": pl.Struct({field: pl.String()})})
    )


# --- times


def offset_seconds(text: pl.Expr) -> pl.Expr:
    """Seconds of an offset as the API writes it (`-18000s`), or as a clock does (`-05:00`)."""
    plain = text.str.extract(r"^(-?\d{1,5})(?:\.\d+)?s$", 1).cast(pl.Int64)
    clock = text.str.extract_groups(r"^([+-])(\d{2}):?(\d{2})$").struct
    sign = pl.when(clock.field("1") == "-").then(-1).otherwise(1)
    hours, minutes = (clock.field(part).cast(pl.Int64) for part in ("2", "3"))
    found = pl.coalesce(plain, sign * (hours * 3600 + minutes * 60))
    return pl.when(found.abs() <= _WIDEST_SECONDS).then(found)


def duration_seconds(text: pl.Expr) -> pl.Expr:
    """Seconds of a duration (`934s`, `1.5s`)."""
    return text.str.extract(r"^(\d+(?:\.\d+)?)s$", 1).cast(pl.Float64)


def number(text: pl.Expr) -> pl.Expr:
    """Text as a number; null when it is none."""
    return text.str.strip_chars().cast(pl.Float64, strict=False)


def _pair(stamp: pl.Expr, offset: pl.Expr) -> Pair:
    return pair_from_offset(parse_pair(stamp).timestamp, offset_seconds(offset))


def _with_moment(
    frame: pl.DataFrame, pair: Pair, at: str = "timestamp", local: str = "local_timestamp"
) -> pl.DataFrame:
    """`frame` with the halves of `pair`; where no offset was told, local by the person's zone."""
    told = frame.with_columns(
        pair.timestamp.cast(INSTANT).alias(at), pair.local_timestamp.cast(LOCAL).alias(local)
    )
    zoned = wall_clock(told, pl.col(at), _ZONE).cast(LOCAL)
    return told.with_columns(
        pl.coalesce(pl.col(local), zoned).alias(local),
        pl.col(local).is_not_null().alias(f"{local}\x00told"),
    )


def _timed(frame: pl.DataFrame, pair: Pair) -> pl.DataFrame:
    """`frame` with the four time columns."""
    is_told = pl.col("local_timestamp\x00told")
    by_profile = ~is_told & pl.col("local_timestamp").is_not_null()
    return (
        _with_moment(frame, pair)
        .with_columns(
            pl.when(by_profile).then(pl.col(_ZONE)).alias("timezone"),
            pl.when(is_told)
            .then(pl.lit("provider"))
            .when(by_profile)
            .then(pl.lit("profile"))
            .otherwise(pl.lit("unknown"))
            .alias("tz_source"),
        )
        .drop("local_timestamp\x00told")
    )


def prepare_moment(frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """Points of one moment."""
    told = f"{key}.sampleTime"
    return _timed(frame, _pair(pl.col(f"{told}.physicalTime"), pl.col(f"{told}.utcOffset")))


def prepare_interval(frame: pl.DataFrame, key: str, *, is_zero_known: bool = True) -> pl.DataFrame:
    """Points that last, with `end_at` and `local_end_at`; an offset of zero may mean that none is known."""

    def side(name: str) -> Pair:
        offset = pl.col(f"{key}.interval.{name}UtcOffset")
        known = offset if is_zero_known else pl.when(offset_seconds(offset) != 0).then(offset)
        return _pair(pl.col(f"{key}.interval.{name}Time"), known)

    ended = _with_moment(frame, side("end"), "end_at", "local_end_at").drop("local_end_at\x00told")
    return _timed(ended, side("start"))


def day_at(path: str) -> pl.Expr:
    """Midnight of the date below `path`; null when it is none."""
    year, month, day = (
        pl.col(f"{path}.date.{name}").cast(pl.String).str.zfill(width)
        for name, width in (("year", 4), ("month", 2), ("day", 2))
    )
    text = pl.concat_str(year, month, day, separator="-")
    return text.str.to_datetime("%Y-%m-%d", strict=False, time_unit="us")


def prepare_day(frame: pl.DataFrame, path: str) -> pl.DataFrame:
    """Points of a day on the person's calendar: no instant is claimed."""
    return frame.with_columns(
        pl.lit(None, INSTANT).alias("timestamp"),
        day_at(path).cast(LOCAL).alias("local_timestamp"),
        pl.lit(None, pl.String).alias("timezone"),
        pl.lit("unknown").alias("tz_source"),
    )


# --- lists inside points


def _listed(source: pl.Expr, fields: Sequence[pl.Expr]) -> pl.Expr:
    found = source.list.eval(pl.struct(*fields))
    return pl.when(found.list.len() > 0).then(found)


_LEVEL_NAMES: Mapping[str, str] = {
    "AWAKE": "awake",
    "LIGHT": "light_sleep",
    "DEEP": "deep_sleep",
    "REM": "rem_sleep",
    "ASLEEP": "sleeping",
    # Restless minutes are not among those asleep.
    "RESTLESS": "awake",
}


def _element(name: str) -> pl.Expr:
    return pl.element().struct.field(name)


_ROW = "row\x00"


def hypnogram(frame: pl.DataFrame, key: str) -> pl.Series:
    """When which stage began, per night; short awakenings and ways out of bed laid over the stages."""
    nights = frame.with_row_index(_ROW)
    stages = _segments(nights, f"{key}.stages", _LEVELS_OF_STAGES)
    timed = stages.filter(pl.col("at").is_not_null() & pl.col("until").is_not_null())
    layers = [
        _segments(nights, f"{key}.outOfBedSegments", pl.lit("out_of_bed")).drop_nulls("at"),
        _segments(nights, f"{key}.shortAwakenings", pl.lit("awake")).drop_nulls("at"),
        timed,
    ]
    borders = pl.concat(
        [layer.select(_ROW, at=pl.col(side)) for layer in layers for side in ("at", "until")]
    )
    found = borders.drop_nulls().unique().sort("at")
    for number, layer in enumerate(layers):
        found = found.join_asof(
            layer.select(
                _ROW,
                "at",
                pl.struct("until", "level", "offset").alias(f"{number}"),
            ).sort("at"),
            on="at",
            by=_ROW,
            strategy="backward",
            check_sortedness=False,
        ).with_columns(
            pl.when(pl.col(f"{number}").struct.field("until") > pl.col("at")).then(f"{number}")
        )
    chosen = pl.coalesce(*(str(number) for number in range(len(layers)))).struct
    events = found.select(
        _ROW, "at", level=chosen.field("level"), offset=chosen.field("offset")
    ).filter(pl.col("level").is_not_null())
    # A stage without times cannot be laid anywhere: validation names it.
    lost = stages.filter(pl.col("at").is_null() | pl.col("until").is_null())
    lines = pl.concat([events, lost.select(_ROW, "at", "level", "offset")])
    lists = (
        lines.sort(_ROW, "at", nulls_last=True)
        .group_by(_ROW, maintain_order=True)
        .agg(
            pl.struct(
                *pair_from_offset(pl.col("at"), pl.col("offset")).named(), pl.col("level")
            ).alias("hypnogram")
        )
    )
    return nights.select(_ROW).join(lists, on=_ROW, how="left", maintain_order="left")["hypnogram"]


_LEVELS_OF_STAGES = pl.col("type").replace_strict(
    dict(_LEVEL_NAMES), default="unknown", return_dtype=pl.String
)


def _segments(nights: pl.DataFrame, column: str, level: pl.Expr) -> pl.DataFrame:
    return (
        nights.select(_ROW, column)
        .filter(pl.col(column).list.len() > 0)
        .explode(column)
        .unnest(column)
        .select(
            _ROW,
            parse_pair(pl.col("startTime")).timestamp.cast(INSTANT).alias("at"),
            parse_pair(pl.col("endTime")).timestamp.cast(INSTANT).alias("until"),
            level.cast(pl.String).alias("level"),
            offset_seconds(pl.col("startUtcOffset")).alias("offset"),
        )
    )


def of_stage(summaries: str, stage: str, field: str) -> pl.Expr:
    """What the summary says of one stage; null when it says nothing of it."""
    mine = pl.col(summaries).list.filter(_element("type") == stage).list.first()
    return number(mine.struct.field(field))


def laps(splits: str) -> pl.Expr:
    """Laps with their distance, energy, heart rate and speed."""
    metrics = _element("metricsSummary").struct
    start = _pair(_element("startTime"), _element("startUtcOffset"))
    end = _pair(_element("endTime"), _element("endUtcOffset"))
    speed = number(metrics.field("averageSpeedMillimetersPerSecond"))
    found = {
        "distance_meters": millimetres_to_metres(number(metrics.field("distanceMillimeters"))),
        "calories": number(metrics.field("caloriesKcal")),
        "avg_hr_bpm": number(metrics.field("averageHeartRateBeatsPerMinute")),
        "avg_speed_meters_per_second": millimetres_to_metres(speed),
        "avg_watts": pl.lit(None, pl.Float64),
        "active_duration_seconds": duration_seconds(_element("activeDuration")),
        "total_strokes": pl.lit(None, pl.Int64),
        "stroke_type": pl.lit(None, pl.String),
        "trigger_method": pl.lit(None, pl.String),
    }
    return _listed(
        pl.col(splits),
        [
            *start.named("start_time"),
            *end.named("end_time"),
            *(value.alias(name) for name, value in found.items()),
        ],
    )


_ZONE_NUMBERS: Mapping[str, int] = {"LIGHT": 1, "MODERATE": 2, "VIGOROUS": 3, "PEAK": 4}


def _zone(number_of: pl.Expr, name: pl.Expr, seconds: pl.Expr) -> list[pl.Expr]:
    return [
        number_of.cast(pl.Int64).alias("zone"),
        name.alias("name"),
        pl.lit(None, pl.Float64).alias("start_percentage"),
        pl.lit(None, pl.Float64).alias("end_percentage"),
        seconds.alias("duration_seconds"),
    ]


def zones_of_day(column: str) -> pl.Expr:
    """Time in each heart rate zone, from a list of zones."""
    kind = _element("heartRateZone")
    numbers = kind.replace_strict(dict(_ZONE_NUMBERS), default=None, return_dtype=pl.Int64)
    return _listed(
        pl.col(column),
        _zone(numbers, kind.str.to_lowercase(), duration_seconds(_element("duration"))),
    )


def zones_of_session(path: str) -> pl.Expr:
    """Time in each heart rate zone, from an object with one member per zone."""
    told = pl.concat_list(
        pl.struct(
            *_zone(
                pl.lit(number_of),
                pl.lit(name.lower()),
                duration_seconds(pl.col(f"{path}.{name.lower()}Time")),
            )
        )
        for name, number_of in _ZONE_NUMBERS.items()
    ).list.filter(_element("duration_seconds").is_not_null())
    return pl.when(told.list.len() > 0).then(told)


def active_seconds(column: str, level: str) -> pl.Expr:
    """Seconds of the day's minutes at one level of activity."""
    mine = pl.col(column).list.filter(_element("activityLevel") == level).list.first()
    return number(mine.struct.field("activeMinutesSum")) * 60


def grams_of(nutrients: str, name: str, field: str) -> pl.Expr:
    """Mass of one nutrient; null when it is not listed."""
    mine = pl.col(nutrients).list.filter(_element("nutrient") == name).list.first()
    return number(mine.struct.field("quantity").struct.field(field))


def trace(frame: pl.DataFrame, samples: str, per_second: str, scale: str) -> pl.Series:
    """Samples of an electrocardiogram in microvolts, evenly spaced from the start on."""
    factor = pl.when(pl.col(scale) > 0).then(1e3 / pl.col(scale))
    return regular_samples(
        frame,
        pl.col(samples).cast(pl.List(pl.Float64)) * factor,
        Pair(pl.col("timestamp"), pl.col("local_timestamp")),
        pl.when(pl.col(per_second) > 0).then(1 / pl.col(per_second)),
        "potential_uv",
    )


def pace_minutes_per_kilometre(seconds_per_metre: pl.Expr) -> pl.Expr:
    """Pace as clients know it."""
    return seconds_per_metre * 1000 / 60
