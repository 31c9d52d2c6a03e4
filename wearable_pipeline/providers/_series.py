"""Samples at even steps from a start, as many providers send a night or a day."""

import polars as pl

from wearable_pipeline.model.time import Pair

_ROW, _POSITION, _VALUE = "\x00row", "\x00position", "\x00value"


_LONGEST_STEP = 86_400


def _plausible(step: pl.Expr) -> pl.Expr:
    """A step; null where it is none: samples whose times nobody knows are left out."""
    return pl.when(step.is_between(0, _LONGEST_STEP)).then(step)


def regular_samples(
    frame: pl.DataFrame,
    values: pl.Expr,
    start: Pair,
    step_seconds: pl.Expr,
    field: str,
    *,
    only_changes: bool = False,
) -> pl.Series:
    """One list per row of `frame`: structs of `timestamp`, `local_timestamp` and `field`.

    `values` is a list per row, its first element measured at `start`. A null in it is no sample.
    `only_changes` keeps the first of equal neighbours, for states that hold until the next. A row
    without values has a null list.
    """
    lines = (
        frame.select(
            values.alias(_VALUE),
            start.timestamp.alias("timestamp"),
            start.local_timestamp.alias("local_timestamp"),
            _plausible(step_seconds.cast(pl.Float64)).alias("step"),
        )
        .with_row_index(_ROW)
        .filter(pl.col(_VALUE).list.len() > 0)
        .with_columns(pl.int_ranges(0, pl.col(_VALUE).list.len()).alias(_POSITION))
        .explode(_VALUE, _POSITION)
        .with_columns(
            pl.duration(
                microseconds=(pl.col(_POSITION) * pl.col("step") * 1e6).round().cast(pl.Int64),
                time_unit="us",
            ).alias("after")
        )
    )
    if only_changes:
        lines = lines.filter(
            pl.col(_VALUE).ne_missing(pl.col(_VALUE).shift().over(_ROW)) | (pl.col(_POSITION) == 0)
        )
    lists = (
        lines.filter(pl.col(_VALUE).is_not_null() & pl.col("after").is_not_null())
        .group_by(_ROW, maintain_order=True)
        .agg(
            pl.struct(
                pl.col("timestamp") + pl.col("after"),
                pl.col("local_timestamp") + pl.col("after"),
                pl.col(_VALUE).alias(field),
            ).alias("samples")
        )
    )
    return (
        frame.select(pl.int_range(pl.len(), dtype=pl.get_index_type()).alias(_ROW))
        .join(lists, on=_ROW, how="left", maintain_order="left")["samples"]
        .alias(field)
    )
