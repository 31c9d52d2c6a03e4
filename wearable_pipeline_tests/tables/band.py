"""A synthetic band: its records are as plain as the rules under test."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import polars as pl

from wearable_pipeline.model.time import pair_from_offset
from wearable_pipeline.model.units import fraction_to_percent
from wearable_pipeline.providers._contract import (
    Page,
    Provider,
    Record,
    Resource,
    Samples,
    Scalars,
)
from wearable_pipeline.raw.store import Arrival, Door, frame_of

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = date(2026, 11, 20)
STAGES = pl.List(pl.Struct({"at": pl.String, "level": pl.String}))
TRACK = pl.List(pl.Struct({"at": pl.String, "lat": pl.Float64, "lon": pl.Float64}))


def _no_split(page: Page) -> Iterator[Record]:
    yield from ()


def _instant(column: str) -> pl.Expr:
    return pl.col(column).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC", time_unit="us")


def _offset() -> pl.Expr:
    """Seconds of `-05:00`; null where the band does not say."""
    text = pl.col("timezone_offset")
    sign = pl.when(text.str.starts_with("-")).then(-1).otherwise(1)
    hours, minutes = text.str.slice(1, 2), text.str.slice(4, 2)
    return sign * (hours.cast(pl.Int32) * 3600 + minutes.cast(pl.Int32) * 60)


def _prepare(frame: pl.DataFrame) -> pl.DataFrame:
    start = pair_from_offset(_instant("start"), _offset())
    end = pair_from_offset(_instant("end"), _offset())
    return frame.with_columns(
        *start.named(),
        *end.named("end_at", "local_end_at"),
        pl.lit(None, pl.String).alias("timezone"),
        pl.when(_offset().is_null())
        .then(pl.lit("unknown"))
        .otherwise(pl.lit("provider"))
        .alias("tz_source"),
    )


_SPAN = {
    "metadata_summary_id": pl.col("id"),
    "start_at": pl.col("timestamp"),
    "local_start_at": pl.col("local_timestamp"),
    "end_at": pl.col("end_at"),
    "local_end_at": pl.col("local_end_at"),
}
_WIRE: dict[str, Any] = {
    "id": pl.String(),
    "start": pl.String(),
    "end": pl.String(),
    "timezone_offset": pl.String(),
}


def _elements(column: str, **fields: pl.Expr) -> pl.Expr:
    return pl.col(column).list.eval(pl.struct(**fields))


def _field(name: str) -> pl.Expr:
    return pl.element().struct.field(name)


NIGHT = Resource(
    "night",
    wire={
        **_WIRE,
        "score": pl.Float64(),
        "deep_seconds": pl.Float64(),
        "spo2_fraction": pl.Float64(),
        "stages": STAGES,
    },
    split=_no_split,
    prepare=_prepare,
    tables=(
        Scalars(
            "sleep",
            {
                **_SPAN,
                "scores_sleep": pl.col("score"),
                "sleep_durations_asleep_duration_deep_sleep_state_seconds": pl.col("deep_seconds"),
                "respiration_oxygen_saturation_avg_saturation_percentage": fraction_to_percent(
                    pl.col("spo2_fraction")
                ),
                "sleep_durations_hypnogram_samples": pl.col("stages").list.eval(
                    pl.struct(
                        _field("at")
                        .str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC", time_unit="us")
                        .alias("timestamp"),
                        pl.lit(None, pl.Datetime("us")).alias("local_timestamp"),
                        _field("level").alias("level"),
                    )
                ),
            },
        ),
    ),
)
WORKOUT = Resource(
    "workout",
    wire={**_WIRE, "kcal": pl.Float64(), "track": TRACK},
    split=_no_split,
    prepare=_prepare,
    tables=(
        Scalars(
            "activity",
            {
                **_SPAN,
                "calories_total_burned_calories": pl.col("kcal"),
                "position_position_samples": pl.col("track").list.eval(
                    pl.struct(
                        _field("at")
                        .str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC", time_unit="us")
                        .alias("timestamp"),
                        pl.lit(None, pl.Datetime("us")).alias("local_timestamp"),
                        pl.concat_list(_field("lat"), _field("lon")).alias("coords_lat_lng_deg"),
                        pl.lit(None, pl.Float64).alias("timer_duration_seconds"),
                    )
                ),
            },
        ),
    ),
)
HEART = Resource(
    "heart",
    wire={**_WIRE, "bpm": pl.Float64()},
    split=_no_split,
    prepare=_prepare,
    tables=(
        Samples(
            "sleep",
            "heart_rate_detailed_hr_samples",
            {"bpm": pl.col("bpm")},
            key={"metadata_summary_id": pl.col("id")},
        ),
    ),
)
CGM = Resource(
    "cgm",
    wire={**_WIRE, "mg_dl": pl.Float64()},
    split=_no_split,
    prepare=_prepare,
    tables=(
        Samples(
            "body",
            "glucose_blood_glucose_samples",
            {"blood_glucose_mg_per_dl": pl.col("mg_dl"), "sample_kind": pl.lit("cgm")},
        ),
    ),
)
SUMMARY = Resource(
    "summary",
    wire={**_WIRE, "steps": pl.Int64(), "resting_bpm": pl.Float64()},
    split=_no_split,
    prepare=_prepare,
    tables=(
        Scalars(
            "daily",
            {
                "distance_steps": pl.col("steps"),
                "heart_rate_summary_resting_hr_bpm": pl.col("resting_bpm"),
            },
        ),
    ),
)
BAND = Provider(
    name="band",
    title="Band",
    client_name="BAND",
    summary="Synthetic.",
    docs_url="https://example.invalid",
    resources=(NIGHT, WORKOUT, HEART, CGM, SUMMARY),
)


def told(
    resource: str,
    minutes: int = 0,
    *,
    record_id: str | None = None,
    day: date = DAY,
    user_id: str = "u1",
    is_deleted: bool = False,
    **body: Any,
) -> pl.DataFrame:
    """One record as it was fetched `minutes` after noon."""
    record = Record(
        resource,
        record_id or str(body["id"]),
        msgspec.json.encode(body),
        day,
        is_deleted=is_deleted,
    )
    at = NOON + timedelta(minutes=minutes)
    door: Door = "poll"
    return frame_of("band", [Arrival(user_id, [record], at)], f"b{minutes}", door)
