"""Withings' records as typed frames: times, measures by type, and the maps of a night."""

from collections.abc import Iterable, Mapping

import polars as pl

from wearable_pipeline.model.columns import INSTANT, LOCAL
from wearable_pipeline.model.units import kilograms_to_grams, metres_to_centimetres
from wearable_pipeline.providers._contract import Record
from wearable_pipeline.providers._lenient_json import read_json
from wearable_pipeline.providers._local_time import instant_of, wall_clock
from wearable_pipeline.providers._split import decode_any

_ROW = "\x00row"
_AT, _ZONE, _WALL, _FOLD = "\x00at", "\x00zone", "\x00wall", "\x00fold"
# Epoch seconds of the years 2000 to 2100: anything else is no time of a reading.
_FIRST, _LAST = 946_684_800, 4_102_444_800

# --- JSON whose objects may be empty lists, and maps from epoch seconds to values

SEGMENTS = "series"
MAPS = ("hr", "rr", "snoring", "sdnn_1", "rmssd")
_SEGMENT: Mapping[str, str] = {
    **dict.fromkeys(("startdate", "enddate", "state"), "VARCHAR"),
    **dict.fromkeys(MAPS, "JSON"),
}
SEGMENT_LIST = pl.List(pl.Struct(dict.fromkeys(_SEGMENT, pl.String())))


def parse_flat(raw: pl.DataFrame, wire: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Texts of `wire`, where `data` may be the empty list PHP makes of an empty object."""
    outer = {path: "VARCHAR" for path in wire if "." not in path}
    inner = {path.removeprefix("data."): "VARCHAR" for path in wire if "." in path}
    found = read_json(raw["body"], {**outer, "data": inner}).rename("found").to_frame()
    record = pl.col("found").struct
    return found.select(
        *(record.field(path).cast(pl.String).alias(path) for path in outer),
        *(
            record.field("data").struct.field(path).cast(pl.String).alias(f"data.{path}")
            for path in inner
        ),
    )


def parse_night(raw: pl.DataFrame) -> pl.DataFrame:
    """The segments of a night; their maps stay JSON."""
    found = read_json(raw["body"], {SEGMENTS: [dict(_SEGMENT)]}).rename("found").to_frame()
    return found.select(
        pl.col("found")
        .struct.field(SEGMENTS)
        .cast(pl.List(pl.Struct(dict.fromkeys(_SEGMENT, pl.String))))
        .alias(SEGMENTS)
    )


def list_flat_fields(record: Record) -> Iterable[str]:
    """Paths of a record, those in `data` with it."""
    fields = decode_any(record.body)
    if not isinstance(fields, dict):
        return
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from (f"{name}.{inner}" for inner in value)
        elif name != "data":
            yield name


def list_night_fields(record: Record) -> Iterable[str]:
    """Names of the fields of the segments."""
    night = decode_any(record.body)
    segments = night.get(SEGMENTS) if isinstance(night, dict) else None
    for segment in segments if isinstance(segments, list) else ():
        if isinstance(segment, dict):
            yield from segment


# --- times


def _from_epoch(seconds: pl.Expr) -> pl.Expr:
    is_known = seconds.is_between(_FIRST, _LAST)
    whole = (pl.when(is_known).then(seconds) * 1_000_000).cast(pl.Int64)
    return whole.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _in_zone(frame: pl.DataFrame, instant: pl.Expr) -> pl.Series:
    return wall_clock(frame, instant, _ZONE).cast(LOCAL)


def _with_zone(frame: pl.DataFrame, told: str) -> pl.DataFrame:
    """`frame` with the zone of each record: Withings' own, else that of the person."""
    return frame.with_columns(pl.coalesce(told, "context.profile").alias(_ZONE))


def _timed(frame: pl.DataFrame, told: str, timestamp: pl.Expr, local: pl.Expr) -> pl.DataFrame:
    is_whole = timestamp.is_not_null() & local.is_not_null()
    return frame.with_columns(
        timestamp.cast(INSTANT).alias("timestamp"),
        local.cast(LOCAL).alias("local_timestamp"),
        pl.when(is_whole).then(pl.col(_ZONE)).alias("timezone"),
        pl.when(~is_whole)
        .then(pl.lit("unknown"))
        .when(pl.col(told).is_not_null())
        .then(pl.lit("provider"))
        .otherwise(pl.lit("profile"))
        .alias("tz_source"),
    ).drop(_ZONE)


def prepare_instant(frame: pl.DataFrame, seconds: str, told: str) -> pl.DataFrame:
    """Time columns of records with one moment in epoch seconds."""
    frame = _with_zone(frame, told)
    at = _from_epoch(pl.col(seconds))
    frame = frame.with_columns(at.alias(_AT), _in_zone(frame, at).alias(_WALL))
    return _timed(frame, told, pl.col(_AT), pl.col(_WALL)).drop(_AT, _WALL)


def prepare_span(frame: pl.DataFrame) -> pl.DataFrame:
    """Time columns of sessions from `startdate` to `enddate`, and `end_at` with its local time."""
    zoned = _with_zone(frame, "timezone")
    end = _from_epoch(pl.col("enddate"))
    ends = zoned.select(end.alias("end_at")).with_columns(
        _in_zone(zoned, end).alias("local_end_at")
    )
    return prepare_instant(frame, "startdate", "timezone").with_columns(*ends.get_columns())


def prepare_day(frame: pl.DataFrame) -> pl.DataFrame:
    """Time columns of a day: its midnight where the person was."""
    midnight = pl.col("date").str.to_datetime("%Y-%m-%d", strict=False, time_unit="us")
    frame = _with_zone(frame, "timezone").with_columns(
        midnight.alias(_WALL), pl.lit(0).alias(_FOLD)
    )
    frame = frame.with_columns(instant_of(frame, _WALL, _ZONE, _FOLD).alias(_AT))
    return _timed(frame, "timezone", pl.col(_AT), pl.col(_WALL)).drop(_AT, _WALL, _FOLD)


# --- measures

# Whole-body values of composition scales stand under position 7, older ones under none.
_WHOLE_BODY = (7,)
_MEASURES: Mapping[str, int] = {
    "weight": 1,
    "height": 4,
    "fat_free": 5,
    "fat_share": 6,
    "diastolic": 9,
    "systolic": 10,
    "pulse": 11,
    "saturation": 54,
    "body_temperature": 71,
    "skin_temperature": 73,
    "muscle": 76,
    "hydration": 77,
    "bone": 88,
    "pulse_wave": 91,
    "vo2max": 123,
    "afib_ecg": 130,
    "afib_ppg": 139,
    "visceral_fat": 170,
    "metabolism": 226,
}
BROKEN = "measures\x00broken"


def _exact(kilograms: pl.Expr) -> pl.Expr:
    # To the milligram: beyond that is only what the conversion added.
    return kilograms_to_grams(kilograms).round(3)


def prepare_measures(frame: pl.DataFrame) -> pl.DataFrame:
    """One column per kind of measure of a group, and `BROKEN`, a value that is no number."""
    lines = (
        frame.select(pl.col("measures"))
        .with_row_index(_ROW)
        .filter(pl.col("measures").list.len() > 0)
        .explode("measures")
        .unnest("measures")
        .with_columns(
            *(pl.col(name).cast(pl.Float64, strict=False) for name in ("value", "unit", "type")),
            pl.col("position").cast(pl.Int64, strict=False),
            pl.any_horizontal(
                pl.col(name).is_null() | pl.col(name).cast(pl.Float64, strict=False).is_null()
                for name in ("value", "unit", "type")
            ).alias(BROKEN),
        )
        .with_columns(
            # Divided where the exponent is negative: 79300 / 10³ is 79.3, 79300 · 10⁻³ is not.
            pl.when(pl.col("unit") < 0)
            .then(pl.col("value") / pl.lit(10.0).pow(-pl.col("unit")))
            .otherwise(pl.col("value") * pl.lit(10.0).pow(pl.col("unit")))
            .alias("real")
        )
    )
    is_whole = pl.col("position").is_null() | pl.col("position").is_in(_WHOLE_BODY)
    by_group = lines.group_by(_ROW, maintain_order=True).agg(
        pl.col(BROKEN).any(),
        *(
            pl.col("real").filter((pl.col("type") == number) & is_whole).first().alias(name)
            for name, number in _MEASURES.items()
        ),
    )
    index = frame.select(pl.int_range(pl.len(), dtype=pl.get_index_type()).alias(_ROW))
    found = index.join(by_group, on=_ROW, how="left", maintain_order="left").drop(_ROW)
    found = found.with_columns(
        pl.col(BROKEN).fill_null(value=False),
        metres_to_centimetres(pl.col("height")).round(3),
        *(_exact(pl.col(name)) for name in ("fat_free", "muscle", "bone")),
    )
    timed = prepare_instant(frame, "date", "context.timezone")
    return pl.concat([timed, found], how="horizontal")


# --- nights

_STAGES: Mapping[str, str] = {
    "0": "awake",
    "1": "light_sleep",
    "2": "deep_sleep",
    "3": "rem_sleep",
    # Entered by hand, or of a stage nobody measured.
    "4": "sleeping",
    "5": "sleeping",
}
_PAIR = r'"(\d+)"\s*:\s*"?(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)'


def _collected(frame: pl.DataFrame, lines: pl.DataFrame, field: str, name: str) -> pl.Series:
    """Lines of `_ROW`, `at` and `field` as one list of samples per row of `frame`."""
    zones = frame.select(_ZONE).with_row_index(_ROW)
    lines = lines.filter(pl.col("at").is_not_null() & pl.col(field).is_not_null()).join(
        zones, on=_ROW, how="left", maintain_order="left"
    )
    lists = (
        lines.with_columns(wall_clock(lines, pl.col("at"), _ZONE).cast(LOCAL).alias("wall"))
        .sort(_ROW, "at", maintain_order=True)
        .group_by(_ROW, maintain_order=True)
        .agg(
            pl.struct(
                pl.col("at").alias("timestamp"),
                pl.col("wall").alias("local_timestamp"),
                pl.col(field),
            ).alias(name)
        )
    )
    return zones.select(_ROW).join(lists, on=_ROW, how="left", maintain_order="left")[name]


def prepare_night(frame: pl.DataFrame) -> pl.DataFrame:
    """Lists of a night's stages, pulse, breath, snoring and variability; start and end of it."""
    frame = _with_zone(frame, "context.timezone")
    segments = (
        frame.select(SEGMENTS)
        .with_row_index(_ROW)
        .filter(pl.col(SEGMENTS).list.len() > 0)
        .explode(SEGMENTS)
        .unnest(SEGMENTS)
        .with_columns(
            _from_epoch(pl.col("startdate").cast(pl.Float64, strict=False)).alias("at"),
            _from_epoch(pl.col("enddate").cast(pl.Float64, strict=False)).alias("until"),
            pl.col("state")
            .replace_strict(_STAGES, default="unknown", return_dtype=pl.String)
            .alias("level"),
        )
    )
    lists = [
        _collected(frame, segments.select(_ROW, "at", "level"), "level", "hypnogram"),
    ]
    for path, field in zip(
        MAPS, ("bpm", "breaths_per_min", "duration_seconds", "hrv_sdnn", "hrv_rmssd"), strict=True
    ):
        pairs = (
            segments.select(_ROW, pl.col(path).str.extract_all(_PAIR).alias("pair"))
            .explode("pair")
            .select(
                _ROW,
                _from_epoch(
                    pl.col("pair").str.extract(_PAIR, 1).cast(pl.Int64, strict=False)
                ).alias("at"),
                pl.col("pair").str.extract(_PAIR, 2).cast(pl.Float64, strict=False).alias(field),
            )
            # A sensor that saw nothing writes zero; a minute without snoring is no spell of it.
            .filter(pl.col(field) > 0)
        )
        if path == "snoring":
            # A minute is marked by 1 (the summary then counts 60 seconds), or its seconds are told.
            seconds = pl.when(pl.col(field) == 1).then(60.0).otherwise(pl.col(field))
            pairs = pairs.with_columns(seconds.alias(field))
        lists.append(_collected(frame, pairs, field, path))
    ends = (
        frame.select(pl.int_range(pl.len(), dtype=pl.get_index_type()).alias(_ROW))
        .join(
            segments.group_by(_ROW).agg(pl.col("at").min(), pl.col("until").max()),
            on=_ROW,
            how="left",
            maintain_order="left",
        )
        .drop(_ROW)
    )
    frame = pl.concat([frame, ends], how="horizontal").with_columns(
        pl.coalesce(_from_epoch(pl.col("context.start")), "at").alias(_AT),
        pl.coalesce(_from_epoch(pl.col("context.end")), "until").alias("end_at"),
        *lists,
    )
    frame = frame.with_columns(
        _in_zone(frame, pl.col(_AT)).alias(_WALL),
        _in_zone(frame, pl.col("end_at")).alias("local_end_at"),
    )
    return _timed(frame, "context.timezone", pl.col(_AT), pl.col(_WALL)).drop(
        _AT, _WALL, "at", "until"
    )
