"""Garmin's summaries as typed frames: times, and series keyed by the seconds since a start."""

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from wearable_pipeline.model.columns import INSTANT, LOCAL
from wearable_pipeline.providers._contract import Record
from wearable_pipeline.providers._lenient_json import read_json
from wearable_pipeline.providers._local_time import wall_clock
from wearable_pipeline.providers._split import decode_any

# Epoch seconds of the years 2000 to 2100: anything else is no time of a reading.
_FIRST, _LAST = 946_684_800, 4_102_444_800
_WIDEST_OFFSET = 18 * 3600
# Seconds of a hundred days: nothing Garmin sums up lasts longer.
_LONGEST = 8_640_000
_ROW = "\x00row"
_OWN = (
    *("user_id", "provider", "resource", "record_id", "content_hash", "local_date", "fetched_at"),
    *("revised_at", "first_seen_at", "revisions", "batch_id"),
)
_TIMES = ("timestamp", "local_timestamp", "timezone", "tz_source")

# The name and the value of a line that is one element of a series.
SERIES, VALUE = "series", "value"

Fields = Mapping[str, pl.DataType]

# --- JSON: fields, objects of fields, lists of objects, and series as their text


def flat_wire(fields: Fields, series: Iterable[str] = ()) -> dict[str, pl.DataType]:
    """The wire of a summary; a series stays the text of its object."""
    return {**fields, **dict.fromkeys(series, pl.String())}


def list_of(*names: str) -> pl.DataType:
    """A list of objects whose fields are read as text."""
    return pl.List(pl.Struct(dict.fromkeys(names, pl.String())))


def _shape(wire: Fields) -> dict[str, object]:
    shape: dict[str, object] = {}
    inner: dict[str, dict[str, object]] = {}
    for path, dtype in wire.items():
        parent, _, leaf = path.rpartition(".")
        # Text of whatever it is: a number, or an object whose keys nobody can declare.
        kind: object = "VARCHAR"
        if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
            kind = [{field.name: "VARCHAR" for field in dtype.inner.fields}]
        if parent:
            shape[parent] = inner.setdefault(parent, {})
            inner[parent][leaf] = kind
        else:
            shape[leaf] = kind
    return shape


def parse(raw: pl.DataFrame, wire: Fields) -> pl.DataFrame:
    """One column per path of `wire`: texts, and lists of objects of texts."""
    found = read_json(raw["body"], _shape(wire)).rename("found").to_frame()

    def at(path: str, dtype: pl.DataType) -> pl.Expr:
        expression = pl.col("found")
        for step in path.split("."):
            expression = expression.struct.field(step)
        return expression.cast(dtype if dtype.is_nested() else pl.String).alias(path)

    return found.select(at(path, dtype) for path, dtype in wire.items())


def list_fields(record: Record, wire: Fields, ignored: frozenset[str]) -> Iterable[str]:
    """Paths of a record; of an object in a list, the fields nobody declared."""
    body = decode_any(record.body)
    parents = {path.partition(".")[0] for path in wire if "." in path}
    for name, value in body.items() if isinstance(body, dict) else ():
        dtype = wire.get(name)
        if name in parents and isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)
        else:
            yield name
        if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
            declared = {field.name for field in dtype.inner.fields} | ignored
            objects = value if isinstance(value, list) else []
            yield from sorted(
                {inner for one in objects if isinstance(one, dict) for inner in one} - declared
            )


# --- times


def from_epoch(seconds: pl.Expr) -> pl.Expr:
    """The instant of epoch seconds; null where they are of no reading."""
    whole = pl.when(seconds.is_between(_FIRST, _LAST)).then(seconds)
    return (whole.cast(pl.Int64) * 1_000_000).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def seconds_after(moment: pl.Expr, seconds: pl.Expr) -> pl.Expr:
    """`moment` so many seconds later; null where that is no time of a summary."""
    number = seconds.cast(pl.Float64)
    whole = pl.when(number.abs() < _LONGEST).then((number * 1e6).round()).cast(pl.Int64)
    return moment + pl.duration(microseconds=whole, time_unit="us")


def _plausible(offset: pl.Expr) -> pl.Expr:
    return pl.when(offset.abs() <= _WIDEST_OFFSET).then(offset)


def timed(frame: pl.DataFrame, start: pl.Expr, offset: pl.Expr) -> pl.DataFrame:
    """`frame` with its time columns: Garmin's offset, else the zone somebody gave for the person."""
    told = frame.select(
        from_epoch(start).alias("timestamp"),
        _plausible(offset).alias("offset"),
        pl.col("context.timezone").alias("zone"),
    )
    told = told.with_columns(wall_clock(told, pl.col("timestamp"), "zone").alias("wall"))
    by_offset = seconds_after(pl.col("timestamp").dt.replace_time_zone(None), pl.col("offset"))
    made = told.select(
        pl.col("timestamp").cast(INSTANT),
        pl.coalesce(by_offset, "wall").cast(LOCAL).alias("local_timestamp"),
        pl.when(by_offset.is_null() & pl.col("wall").is_not_null()).then("zone").alias("timezone"),
        pl.when(by_offset.is_not_null())
        .then(pl.lit("provider"))
        .when(pl.col("wall").is_not_null())
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    )
    return frame.with_columns(*made.get_columns())


def dated(frame: pl.DataFrame, day: pl.Expr) -> pl.DataFrame:
    """`frame` with the time columns of a day nobody knows the zone of."""
    midnight = day.str.to_datetime("%Y-%m-%d", strict=False, time_unit="us")
    return frame.with_columns(
        pl.lit(None, INSTANT).alias("timestamp"),
        midnight.cast(LOCAL).alias("local_timestamp"),
        pl.lit(None, pl.String).alias("timezone"),
        pl.lit("unknown").alias("tz_source"),
    )


def prepare_moment(
    frame: pl.DataFrame,
    start: str = "startTimeInSeconds",
    offsets: Sequence[str] = ("startTimeOffsetInSeconds",),
) -> pl.DataFrame:
    """Time columns of a summary that begins at `start`."""
    return timed(frame, pl.col(start), pl.coalesce(*offsets))


def with_end(frame: pl.DataFrame, seconds: pl.Expr) -> pl.DataFrame:
    """`frame` with the end of the span, so many seconds after its start."""
    return frame.with_columns(
        seconds_after(pl.col("timestamp"), seconds).alias("end_at"),
        seconds_after(pl.col("local_timestamp"), seconds).alias("local_end_at"),
    )


# --- series

_PAIR = r'"(\d{1,9})"\s*:\s*"?(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)'


def _pairs(rows: pl.DataFrame, series: pl.Expr) -> pl.DataFrame:
    """Seconds and value of every element of the text of a series, a line each."""
    return (
        rows.with_columns(series.str.extract_all(_PAIR).alias("pair"))
        .filter(pl.col("pair").list.len() > 0)
        .explode("pair")
        .with_columns(
            pl.col("pair").str.extract(_PAIR, 1).cast(pl.Int64).alias("after"),
            pl.col("pair").str.extract(_PAIR, 2).cast(pl.Float64).alias(VALUE),
        )
        .drop("pair")
    )


def lay_out(frame: pl.DataFrame, series: Mapping[str, pl.Expr]) -> pl.DataFrame:
    """`frame`, and behind it a line for every element of its series.

    `series` maps a name to the text of its object. The summary itself is the line without `SERIES`.
    """
    parts = [frame.with_columns(pl.lit(None, pl.String).alias(SERIES))]
    for name, text in series.items():
        rows = frame.select(*_OWN, *_TIMES, text.alias(VALUE))
        lines = _pairs(rows, pl.col(VALUE))
        parts.append(
            lines.with_columns(
                seconds_after(pl.col("timestamp"), pl.col("after")),
                seconds_after(pl.col("local_timestamp"), pl.col("after")),
                pl.lit(name).alias(SERIES),
            ).drop("after")
        )
    return pl.concat(parts, how="diagonal")


# A day of pulse has 5760 elements, and needs a multiple of its room while it is taken apart.
_SUMMARIES_AT_ONCE = 64


def series_list(frame: pl.DataFrame, column: str, field: str, minimum: float) -> pl.Series:
    """A series as one list per row: structs of the two times and `field`; null without elements."""
    rows = frame.select("timestamp", "local_timestamp", column)
    return pl.concat(
        _series_list(rows.slice(first, _SUMMARIES_AT_ONCE), column, field, minimum)
        for first in range(0, max(rows.height, 1), _SUMMARIES_AT_ONCE)
    )


def _series_list(rows: pl.DataFrame, column: str, field: str, minimum: float) -> pl.Series:
    lines = (
        _pairs(rows.with_row_index(_ROW), pl.col(column))
        .filter((pl.col(VALUE) >= minimum) & pl.col("timestamp").is_not_null())
        .sort(_ROW, "after", maintain_order=True)
        .select(
            _ROW,
            pl.struct(
                seconds_after(pl.col("timestamp"), pl.col("after")).alias("timestamp"),
                seconds_after(pl.col("local_timestamp"), pl.col("after")).alias("local_timestamp"),
                pl.col(VALUE).alias(field),
            ).alias("sample"),
        )
    )
    return gathered(rows, lines, column)


def gathered(frame: pl.DataFrame, lines: pl.DataFrame, name: str) -> pl.Series:
    """The column `sample` of `lines` as one list per row of `frame`; null where there is no line."""
    lists = lines.group_by(_ROW, maintain_order=True).agg(pl.col("sample").alias(f"{name}.list"))
    rows = frame.select(pl.int_range(pl.len(), dtype=pl.get_index_type()).alias(_ROW))
    return rows.join(lists, on=_ROW, how="left", maintain_order="left")[f"{name}.list"]


# --- nights

LEVELS: Mapping[str, str] = {
    "deep": "deep_sleep",
    "light": "light_sleep",
    "rem": "rem_sleep",
    "awake": "awake",
}


def _ahead() -> pl.Expr:
    return pl.col("local_timestamp") - pl.col("timestamp").dt.replace_time_zone(None)


def _hypnogram(frame: pl.DataFrame) -> pl.Series:
    parts = []
    rows = frame.select(
        _ahead().alias("ahead"), *(f"sleepLevelsMap.{level}" for level in LEVELS)
    ).with_row_index(_ROW)
    for level, name in LEVELS.items():
        spans = rows.select(_ROW, "ahead", pl.col(f"sleepLevelsMap.{level}").alias("span"))
        spans = spans.filter(pl.col("span").list.len() > 0).explode("span")
        start = pl.col("span").struct.field("startTimeInSeconds").cast(pl.Int64, strict=False)
        parts.append(
            spans.select(_ROW, "ahead", from_epoch(start).alias("at"), pl.lit(name).alias("level"))
        )
    lines = (
        pl.concat(parts)
        .filter(pl.col("at").is_not_null())
        .sort(_ROW, "at", maintain_order=True)
        .select(
            _ROW,
            pl.struct(
                pl.col("at").alias("timestamp"),
                (pl.col("at").dt.replace_time_zone(None) + pl.col("ahead")).alias(
                    "local_timestamp"
                ),
                "level",
            ).alias("sample"),
        )
    )
    return gathered(frame, lines, "hypnogram")


NAP = "nap"


def prepare_night(frame: pl.DataFrame) -> pl.DataFrame:
    """The night with its stages and series, and behind the nights a line for each nap."""
    night = prepare_moment(frame)
    asleep = pl.sum_horizontal(
        "deepSleepDurationInSeconds", "lightSleepDurationInSeconds", "remSleepInSeconds"
    )
    # Some summaries count the time awake into the duration, others do not: the parts tell.
    uncounted = (
        pl.when((pl.col("durationInSeconds") == asleep) & (asleep > 0))
        .then(pl.sum_horizontal("awakeDurationInSeconds", "unmeasurable"))
        .otherwise(0)
    )
    night = night.with_columns(
        pl.coalesce("unmeasurableSleepDurationInSeconds", "unmeasurableSleepInSeconds").alias(
            "unmeasurable"
        )
    )
    night = with_end(night, pl.col("durationInSeconds") + uncounted).with_columns(
        _hypnogram(night).alias("hypnogram"),
        series_list(night, "timeOffsetSleepRespiration", "breaths_per_min", 1e-9).alias("breaths"),
        series_list(night, "timeOffsetSleepSpo2", "percentage", 1e-9).alias("saturation"),
        pl.lit(None, pl.Int64).alias(NAP),
    )
    naps = (
        frame.select(*_OWN, "context.timezone", "naps")
        .filter(pl.col("naps").list.len() > 0)
        .explode("naps")
        .filter(pl.col("naps").is_not_null())
        .unnest("naps")
        .with_columns(
            pl.col("napStartTimeInSeconds").cast(pl.Int64, strict=False).alias(NAP),
            pl.col("napOffsetInSeconds").cast(pl.Int64, strict=False),
            pl.col("napDurationInSeconds")
            .cast(pl.Float64, strict=False)
            .alias("durationInSeconds"),
            pl.col("napValidation").alias("validation"),
        )
    )
    # A nap without a start would be taken for the night.
    naps = naps.filter(pl.col(NAP).is_not_null())
    naps = with_end(
        timed(naps, pl.col(NAP), pl.col("napOffsetInSeconds")), pl.col("durationInSeconds")
    )
    return pl.concat(
        [
            night,
            naps.drop(
                "napStartTimeInSeconds",
                "napOffsetInSeconds",
                "napDurationInSeconds",
                "napValidation",
            ),
        ],
        how="diagonal",
    )


# --- activities

SUMMARY = "summary."


def prepare_details(frame: pl.DataFrame, fields: Iterable[str]) -> pl.DataFrame:
    """An activity whose summary may stand in an object of its own, with what was recorded in it."""
    whole = frame.with_columns(pl.coalesce(f"{SUMMARY}{name}", name).alias(name) for name in fields)
    whole = with_end(prepare_moment(whole), pl.col("durationInSeconds"))
    return whole.with_columns(*_recorded(whole), _laps(whole))


def _covered(total: pl.Expr) -> pl.Expr:
    """Way since the sample before, from the way since the start; the total never shrinks."""
    grown = total.cum_max()
    return (grown - grown.shift(1, fill_value=0.0)).over(_ROW)


def _field(name: str) -> pl.Expr:
    return pl.col("samples").struct.field(name).cast(pl.Float64, strict=False)


SAMPLE_FIELDS = (
    *("startTimeInSeconds", "heartRate", "latitudeInDegree", "longitudeInDegree"),
    *("elevationInMeters", "speedMetersPerSecond", "powerInWatts", "totalDistanceInMeters"),
    *("stepsPerMinute", "bikeCadenceInRPM", "swimCadenceInStrokesPerMinute"),
    "timerDurationInSeconds",
)
# Column of samples → its field and what it is made of.
RECORDED: Mapping[str, tuple[str, pl.Expr]] = {
    "heart_rate_detailed_hr_samples": (
        "bpm",
        pl.when(_field("heartRate") > 0).then(_field("heartRate")),
    ),
    "distance_detailed_elevation_samples": ("elev_meters", _field("elevationInMeters")),
    "distance_detailed_distance_samples": (
        "distance_meters",
        _covered(_field("totalDistanceInMeters")),
    ),
    "movement_speed_samples": ("speed_meters_per_second", _field("speedMetersPerSecond")),
    "movement_cadence_samples": (
        "cadence_rpm",
        pl.coalesce(
            _field("stepsPerMinute"),
            _field("bikeCadenceInRPM"),
            _field("swimCadenceInStrokesPerMinute"),
        ),
    ),
    "power_power_samples": ("watts", _field("powerInWatts")),
    "position_position_samples": (
        "coords_lat_lng_deg",
        pl.when(
            _field("latitudeInDegree").is_not_null() & _field("longitudeInDegree").is_not_null()
        ).then(pl.concat_list(_field("latitudeInDegree"), _field("longitudeInDegree"))),
    ),
}


def _recorded(frame: pl.DataFrame) -> list[pl.Series]:
    lines = (
        frame.select(_ahead().alias("ahead"), "samples")
        .with_row_index(_ROW)
        .filter(pl.col("samples").list.len() > 0)
        .explode("samples")
        .filter(pl.col("samples").is_not_null())
        .with_columns(from_epoch(_field("startTimeInSeconds")).alias("at"))
        .filter(pl.col("at").is_not_null())
        .sort(_ROW, "at", maintain_order=True)
        .with_columns(
            *(made.alias(column) for column, (_, made) in RECORDED.items()),
        )
    )
    found = []
    for column, (field, _) in RECORDED.items():
        own = lines.filter(pl.col(column).is_not_null()).select(
            _ROW,
            pl.struct(
                pl.col("at").alias("timestamp"),
                (pl.col("at").dt.replace_time_zone(None) + pl.col("ahead")).alias(
                    "local_timestamp"
                ),
                pl.col(column).alias(field),
                _field("timerDurationInSeconds").alias("timer_duration_seconds"),
            ).alias("sample"),
        )
        found.append(gathered(frame, own, column).alias(column))
    return found


def _laps(frame: pl.DataFrame) -> pl.Series:
    lines = (
        frame.select(_ahead().alias("ahead"), "laps")
        .with_row_index(_ROW)
        .filter(pl.col("laps").list.len() > 0)
        .explode("laps")
        .with_columns(
            from_epoch(
                pl.col("laps").struct.field("startTimeInSeconds").cast(pl.Int64, strict=False)
            ).alias("at")
        )
        .filter(pl.col("at").is_not_null())
        .select(
            _ROW,
            pl.struct(
                pl.col("at").alias("start_time"),
                (pl.col("at").dt.replace_time_zone(None) + pl.col("ahead")).alias(
                    "local_start_time"
                ),
            ).alias("sample"),
        )
    )
    return gathered(frame, lines, "laps").alias("lap_lines")


# --- epochs


def prepare_epoch(frame: pl.DataFrame) -> pl.DataFrame:
    """A quarter of an hour has an epoch per kind of movement: what is counted adds up over them.

    `is_leading` marks the one that took most of the time; only it speaks of effort.
    """
    slot = ["user_id", "local_date", "startTimeInSeconds"]

    def total(name: str) -> pl.Expr:
        known = pl.col(name).count().over(slot) > 0
        return pl.when(known).then(pl.col(name).sum().over(slot)).alias(f"slot.{name}")

    made = prepare_moment(frame).with_columns(total("steps"), total("distanceInMeters"))
    longest = pl.col("record_id").sort_by(
        pl.col("activeTimeInSeconds").fill_null(-1), "durationInSeconds", "record_id"
    )
    return made.with_columns((pl.col("record_id") == longest.last().over(slot)).alias("is_leading"))
