"""When a record happened: the four time columns of its frame, and the span of what lasts."""

from collections.abc import Mapping

import polars as pl

from wearable_pipeline.model.columns import INSTANT, LOCAL
from wearable_pipeline.model.time import Pair
from wearable_pipeline.providers._contract import Reject

# Of a frame with `end_at` and `local_end_at` beside its moment.
SPAN: Mapping[str, pl.Expr] = {
    "start_at": pl.col("timestamp"),
    "local_start_at": pl.col("local_timestamp"),
    "end_at": pl.col("end_at"),
    "local_end_at": pl.col("local_end_at"),
}
NO_SPAN = Reject(
    "times: the start or the end is missing, or the end is before the start",
    pl.col("timestamp").is_null()
    | pl.col("end_at").is_null()
    | (pl.col("end_at") < pl.col("timestamp")),
)


def at_moment(frame: pl.DataFrame, pair: Pair, timezone: pl.Expr | None = None) -> pl.DataFrame:
    """`frame` with the four time columns of a moment the provider told, offset and all.

    Where it told only one half of it, nobody knows the offset.
    """
    is_whole = pair.timestamp.is_not_null() & pair.local_timestamp.is_not_null()
    return frame.with_columns(
        pair.timestamp.cast(INSTANT).alias("timestamp"),
        pair.local_timestamp.cast(LOCAL).alias("local_timestamp"),
        (pl.lit(None, pl.String) if timezone is None else timezone).alias("timezone"),
        pl.when(is_whole).then(pl.lit("provider")).otherwise(pl.lit("unknown")).alias("tz_source"),
    )


def on_calendar(day: pl.Expr) -> Pair:
    """The day a text begins with, on a calendar nobody knows the zone of."""
    midnight = day.str.head(10).str.to_datetime("%Y-%m-%d", strict=False, time_unit="us")
    return Pair(pl.lit(None, INSTANT), midnight)
