"""Typed frames of Fitbit records → frames with times: points and minutes laid out, nights put together.

Fitbit writes what the clock showed, without an offset. The instant is known where the zone is; an
hour that came twice leaves it null.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import polars as pl

from wearable_pipeline.model.columns import INSTANT, LOCAL
from wearable_pipeline.model.time import parse_pair
from wearable_pipeline.providers._fitbit_split import LONGEST_MS
from wearable_pipeline.providers._local_time import instant_of
from wearable_pipeline.providers._values import positive

Prepare = Callable[[pl.DataFrame], pl.DataFrame]

_DAY = pl.col("context.date").str.to_date("%Y-%m-%d", strict=False)
_ZONE = "context.timezone"
_ROW = "_row"
_MICROVOLTS = 1000.0
_MICROSECONDS = 1_000_000
_LENGTH = pl.when(pl.col("duration").is_between(0, LONGEST_MS)).then(pl.col("duration"))

# Points and stages are lists of objects: their leaves are read as text, like all leaves.
POINTS = pl.List(
    pl.Struct(
        {"time": pl.String(), "value": pl.String(), "level": pl.String(), "mets": pl.String()}
    )
)
MINUTES = pl.List(pl.Struct({"minute": pl.String(), "value": pl.String()}))
VARIABILITY = pl.List(
    pl.Struct({"minute": pl.String(), "value": pl.Struct({"rmssd": pl.String()})})
)
LEVELS = pl.List(
    pl.Struct(
        {
            "dateTime": pl.String(),
            # Some accounts were answered with this spelling.
            "datetime": pl.String(),
            "level": pl.String(),
            "seconds": pl.String(),
        }
    )
)
V1_MINUTES = pl.List(pl.Struct({"dateTime": pl.String(), "value": pl.String()}))


def number(text: pl.Expr) -> pl.Expr:
    """Text as a number; null when it is none."""
    return text.str.strip_chars().cast(pl.Float64, strict=False)


def local_time(text: pl.Expr) -> pl.Expr:
    """ISO 8601 as what the clock showed; an offset behind it changes nothing."""
    bare = text.str.replace(r"(Z|[+-]\d{2}:?\d{2})$", "")
    return pl.coalesce(
        bare.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us"),
        bare.str.to_datetime("%Y-%m-%dT%H:%M", strict=False, time_unit="us"),
    )


def _clock(text: pl.Expr) -> pl.Expr:
    """`HH:MM:SS` or `HH:MM` as a time of day."""
    return pl.coalesce(
        text.str.to_time("%H:%M:%S", strict=False), text.str.to_time("%H:%M", strict=False)
    )


def _instants(frame: pl.DataFrame, local: str) -> pl.Series:
    """Instants of the local times in the column `local`, where zone and clock tell."""
    with_fold = frame.with_columns(pl.lit(None, pl.Int64).alias("_fold"))
    return instant_of(with_fold, local, _ZONE, "_fold")


def _with_zone(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.col(_ZONE).alias("timezone"),
        pl.when(pl.col(_ZONE).is_not_null())
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    )


def _at(frame: pl.DataFrame, local: pl.Expr) -> pl.DataFrame:
    """`frame` with the four time columns of records that happened at `local`."""
    timed = frame.with_columns(local.cast(LOCAL).alias("local_timestamp"))
    return _with_zone(timed.with_columns(_instants(timed, "local_timestamp").alias("timestamp")))


def prepare_day(frame: pl.DataFrame) -> pl.DataFrame:
    """Records of a whole day: midnight stands for the day, no instant is claimed."""
    return _with_zone(
        frame.with_columns(
            pl.lit(None, INSTANT).alias("timestamp"), _DAY.cast(LOCAL).alias("local_timestamp")
        )
    )


def prepare_at(local: pl.Expr) -> Prepare:
    """Records that happened at one moment."""
    return lambda frame: _at(frame, local)


def at_date_and_time(day: pl.Expr) -> pl.Expr:
    """The moment of logs that give date and time apart."""
    return local_time(pl.concat_str(day, pl.col("time"), separator="T"))


def prepare_ecg(frame: pl.DataFrame) -> pl.DataFrame:
    """Readings with `trace`: samples in microvolts, evenly spaced from the start on."""
    started = _at(frame.with_row_index(_ROW), local_time(pl.col("startTime")))
    lines = (
        started.select(
            _ROW,
            "timestamp",
            "local_timestamp",
            "waveformSamples",
            (_MICROSECONDS / positive("samplingFrequencyHz")).alias("step"),
            (_MICROVOLTS / positive("scalingFactor")).alias("scale"),
        )
        .explode("waveformSamples", empty_as_null=False, keep_nulls=False)
        .with_columns((pl.int_range(pl.len()).over(_ROW) * pl.col("step")).alias("since"))
    )
    whole = pl.col("since").round().cast(pl.Int64, strict=False)
    since = pl.duration(microseconds=whole, time_unit="us")
    traces = lines.group_by(_ROW, maintain_order=True).agg(
        pl.struct(
            (pl.col("timestamp") + since).alias("timestamp"),
            (pl.col("local_timestamp") + since).alias("local_timestamp"),
            (number(pl.col("waveformSamples")) * pl.col("scale")).alias("potential_uv"),
        ).alias("trace")
    )
    return started.join(traces, on=_ROW, how="left", maintain_order="left").drop(_ROW)


# --- points of a day


def prepare_points(frame: pl.DataFrame) -> pl.DataFrame:
    """One line per point, with `point`; a record whose day is unknown stays one line without."""
    lines = _exploded(frame, "dataset", "point")
    clock = _clock(pl.col("point").struct.field("time"))
    timed = lines.with_columns(clock.alias("_clock"))
    # The clock starting again is midnight: which run a point is in, its record says.
    known = pl.col("_clock").forward_fill()
    run = (known < known.shift(1)).fill_null(value=False).cum_sum().over(_ROW)
    mine = timed.with_columns(run.alias("_run")).filter(
        pl.col("context.run").is_null() | (pl.col("_run") == pl.col("context.run"))
    )
    return _at(mine, _DAY.dt.combine(pl.col("_clock"), "us")).drop(_ROW, "_clock", "_run")


def prepare_amounts(frame: pl.DataFrame) -> pl.DataFrame:
    """Like `prepare_points`, for amounts, which must not be told twice in steps of two lengths.

    Where a day was asked for in steps of one and of fifteen minutes, the finer ones stand wherever
    they make up the coarser one, else the coarser one does.
    """
    points = prepare_points(frame)
    unit = pl.col("datasetType").replace_strict(
        {"second": 1, "minute": 60, "hour": 3600}, default=None, return_dtype=pl.Int64
    )
    lines = points.with_columns((pl.col("datasetInterval") * unit).alias("_step"))
    person = ["user_id", "local_date"]
    steps = sorted(lines["_step"].drop_nulls().filter(lines["_step"].drop_nulls() > 0).unique())
    for fine, coarse in pairwise(steps):
        slot = pl.col("local_timestamp").dt.truncate(f"{coarse}s").alias("_slot")
        lines = lines.with_columns(slot)
        finer = lines.filter(pl.col("_step") <= fine)
        made_up = (
            finer.unique([*person, "_slot", "local_timestamp", "_step"])
            .group_by(*person, "_slot")
            .agg((pl.col("_step").sum() >= coarse).alias("_whole"))
        )
        told = lines.filter(pl.col("_step") == coarse).select(*person, "_slot").unique()
        lines = (
            lines.join(made_up, on=[*person, "_slot"], how="left", maintain_order="left")
            .join(
                told.with_columns(pl.lit(value=True).alias("_told")),
                on=[*person, "_slot"],
                how="left",
                maintain_order="left",
            )
            .filter(
                pl.when(pl.col("_step") == coarse)
                .then(~pl.col("_whole").fill_null(value=False))
                .when(pl.col("_step") <= fine)
                .then(pl.col("_whole").fill_null(value=False) | pl.col("_told").is_null())
                .otherwise(pl.lit(value=True))
                .fill_null(value=True)
            )
            .drop("_slot", "_whole", "_told")
        )
    return lines.drop("_step")


def prepare_minutes(frame: pl.DataFrame) -> pl.DataFrame:
    """One line per minute of a night, with `point`; minutes say date and time."""
    lines = _exploded(frame, "minutes", "point")
    return _at(lines, local_time(pl.col("point").struct.field("minute"))).drop(_ROW)


def _exploded(frame: pl.DataFrame, column: str, name: str) -> pl.DataFrame:
    listed = pl.when(_DAY.is_not_null()).then(pl.col(column))
    return (
        frame.with_row_index(_ROW)
        .with_columns(listed.alias(column))
        .explode(column, empty_as_null=False, keep_nulls=True)
        .rename({column: name})
    )


# --- sessions


def prepare_activities(frame: pl.DataFrame) -> pl.DataFrame:
    """Sessions whose start has an offset, with `end_at` and `local_end_at`.

    `Z` is the offset of somebody at UTC: others are answered with their own.
    """
    pair = parse_pair(pl.col("startTime").str.replace(r"Z$", "+00:00"))
    stated = frame.with_columns(
        pair.timestamp.alias("_instant"),
        local_time(pl.col("startTime")).alias("local_timestamp"),
    )
    zoned = _instants(stated, "local_timestamp")
    told = pl.col("_instant").is_not_null()
    started = stated.with_columns(pl.coalesce("_instant", zoned).alias("timestamp"))
    return _with_end(
        _with_zone(started).with_columns(
            pl.when(~told).then(pl.col("timezone")).alias("timezone"),
            pl.when(told).then(pl.lit("provider")).otherwise("tz_source").alias("tz_source"),
        )
    ).drop("_instant")


def prepare_day_activities(frame: pl.DataFrame) -> pl.DataFrame:
    """Sessions of a day's summary; one without a start time lies somewhere in its day."""
    has_start = pl.col("hasStartTime").fill_null(value=True)
    start = local_time(pl.concat_str(pl.col("startDate"), pl.col("startTime"), separator="T"))
    midnight = pl.col("startDate").str.to_date("%Y-%m-%d", strict=False).cast(LOCAL)
    started = _at(frame, pl.when(has_start).then(start).otherwise(midnight))
    ended = _with_end(started)
    next_midnight = midnight.dt.offset_by("1d")
    bounds = ended.with_columns(
        pl.when(has_start).then("local_end_at").otherwise(next_midnight).alias("local_end_at")
    )
    return bounds.with_columns(
        pl.when(has_start)
        .then("end_at")
        .otherwise(_instants(bounds, "local_end_at"))
        .alias("end_at")
    )


def _with_end(frame: pl.DataFrame) -> pl.DataFrame:
    """The end by the length of the session; one without a length ends where it starts."""
    length = pl.duration(milliseconds=_LENGTH.fill_null(0), time_unit="us")
    return frame.with_columns(
        (pl.col("timestamp") + length).alias("end_at"),
        (pl.col("local_timestamp") + length).alias("local_end_at"),
    )


# --- nights

_STAGES: Mapping[str, str] = {
    "wake": "awake",
    "light": "light_sleep",
    "deep": "deep_sleep",
    "rem": "rem_sleep",
    "asleep": "sleeping",
    "awake": "awake",
    # Fitbit counts restless minutes among those awake.
    "restless": "awake",
}
# Of the first version of the API: 1 asleep, 2 restless, 3 awake.
_V1_LEVELS: Mapping[str, str] = {"1": "asleep", "2": "restless", "3": "awake"}
_STAGE = pl.col("level").replace_strict(dict(_STAGES), default="unknown", return_dtype=pl.String)
_ENDS = pl.col("at") + pl.duration(seconds=pl.col("seconds"), time_unit="us")


def prepare_sleep(frame: pl.DataFrame) -> pl.DataFrame:
    """Nights with start, end and `hypnogram`."""
    started = _at(frame.with_row_index(_ROW), local_time(pl.col("startTime")))
    length = pl.duration(milliseconds=_LENGTH, time_unit="us")
    ended = started.with_columns(
        pl.coalesce(local_time(pl.col("endTime")), pl.col("local_timestamp") + length).alias(
            "local_end_at"
        )
    )
    bounded = ended.with_columns(
        pl.coalesce(_instants(ended, "local_end_at"), pl.col("timestamp") + length).alias("end_at")
    )
    return bounded.join(_hypnograms(bounded), on=_ROW, how="left", maintain_order="left").drop(_ROW)


def _hypnograms(frame: pl.DataFrame) -> pl.DataFrame:
    """Stages of every night in order of time, short awakenings laid over the long stages."""
    long = pl.concat([_stages(frame, "levels.data"), _v1_stages(frame)])
    short = _stages(frame, "levels.shortData").filter(pl.col("at").is_not_null())
    timed = long.filter(pl.col("at").is_not_null())
    awake = short.with_columns(_ENDS.alias("until")).sort("at")
    running = awake.with_columns(pl.col("until").cum_max().over(_ROW).alias("until"))
    events = pl.concat(
        [
            awake.select(_ROW, "at", "level"),
            _outside(timed, running).select(_ROW, "at", "level"),
            _outside(_resumed(awake, timed), running).select(_ROW, "at", "level"),
        ]
    ).unique([_ROW, "at"], keep="first", maintain_order=True)
    lines = (
        pl.concat([events, long.filter(pl.col("at").is_null()).select(_ROW, "at", "level")])
        .sort(_ROW, "at", nulls_last=True, maintain_order=True)
        .join(frame.select(_ROW, _ZONE), on=_ROW, how="left", maintain_order="left")
    )
    return (
        lines.with_columns(_instants(lines, "at").alias("instant"), _STAGE.alias("stage"))
        .group_by(_ROW, maintain_order=True)
        .agg(
            pl.struct(
                pl.col("instant").alias("timestamp"),
                pl.col("at").alias("local_timestamp"),
                pl.col("stage").alias("level"),
            ).alias("hypnogram")
        )
    )


def _stages(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    stage = pl.col(column).struct
    return (
        frame.select(_ROW, column)
        .explode(column, empty_as_null=False, keep_nulls=False)
        .select(
            _ROW,
            local_time(pl.coalesce(stage.field("dateTime"), stage.field("datetime"))).alias("at"),
            stage.field("level").str.to_lowercase().alias("level"),
            _seconds(stage.field("seconds")).alias("seconds"),
        )
    )


def _seconds(text: pl.Expr) -> pl.Expr:
    length = number(text)
    return pl.when(length.is_between(0, LONGEST_MS / 1000)).then(length).otherwise(0).cast(pl.Int64)


def _v1_stages(frame: pl.DataFrame) -> pl.DataFrame:
    """Minutes of a night that say only the time: those before the start are of the next day."""
    minute = pl.col("minuteData").struct
    start = pl.col("local_timestamp")
    lines = (
        frame.select(_ROW, "local_timestamp", "minuteData")
        .explode("minuteData", empty_as_null=False, keep_nulls=False)
        .with_columns(
            start.dt.date().dt.combine(_clock(minute.field("dateTime")), "us").alias("at"),
            minute.field("value")
            .replace_strict(dict(_V1_LEVELS), default=None, return_dtype=pl.String)
            .alias("level"),
        )
    )
    # A minute like the one before says nothing: each stage holds until the next.
    changed = (pl.col("level") != pl.col("level").shift(1).over(_ROW)).fill_null(value=True)
    return lines.filter(changed | pl.col("at").is_null()).select(
        _ROW,
        pl.when(pl.col("at") < start.dt.truncate("1m"))
        .then(pl.col("at").dt.offset_by("1d"))
        .otherwise("at")
        .alias("at"),
        "level",
        pl.lit(60, pl.Int64).alias("seconds"),
    )


def _outside(stages: pl.DataFrame, awake: pl.DataFrame) -> pl.DataFrame:
    """Stages that do not begin inside a short awakening."""
    return (
        stages.sort("at")
        .join_asof(
            awake.select(_ROW, pl.col("at").alias("since"), "until").sort("since"),
            left_on="at",
            right_on="since",
            by=_ROW,
            strategy="backward",
            check_sortedness=False,
        )
        .filter((pl.col("until") > pl.col("at")).fill_null(value=False).not_())
    )


def _resumed(awake: pl.DataFrame, stages: pl.DataFrame) -> pl.DataFrame:
    """The long stage that goes on where a short awakening ends, while it lasts."""
    running = stages.with_columns(_ENDS.alias("ends")).sort("at")
    return (
        awake.select(_ROW, pl.col("until").alias("at"))
        .sort("at")
        .join_asof(
            running.select(_ROW, pl.col("at").alias("since"), "level", "ends"),
            left_on="at",
            right_on="since",
            by=_ROW,
            strategy="backward",
            check_sortedness=False,
        )
        .filter(pl.col("ends") > pl.col("at"))
    )
