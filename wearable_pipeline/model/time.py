"""Moments as pairs: the instant in UTC and what local clocks showed, nothing invented in between.

`timestamp` is null when the zone is unknown, `local_timestamp` when the offset is. The difference
of the two is the offset. JSON writes `+01:00` when both are known, `Z` when only the instant is
(RFC 9557), and no suffix when only the local time is.
"""

from dataclasses import dataclass
from datetime import timedelta
from zoneinfo import available_timezones

import polars as pl

from wearable_pipeline.model.columns import INSTANT, LOCAL

MICROSECONDS = 1_000_000
_STAMP = "%Y-%m-%dT%H:%M:%S%.6f"
_SUFFIX = r"(?:Z|[+-]\d{2}:\d{2})$"


@dataclass(frozen=True, slots=True)
class Pair:
    """The two halves of a moment, as expressions."""

    timestamp: pl.Expr
    local_timestamp: pl.Expr

    def named(self, timestamp: str = "timestamp", local: str | None = None) -> list[pl.Expr]:
        """The halves under their column names."""
        return [
            self.timestamp.alias(timestamp),
            self.local_timestamp.alias(local or f"local_{timestamp}"),
        ]


def pair_from_offset(instant: pl.Expr, offset_seconds: pl.Expr) -> Pair:
    """Pair of a known instant and the offset valid then; null offset leaves the local time null."""
    utc = instant.cast(INSTANT)
    return Pair(utc, _wall(utc) + pl.duration(seconds=offset_seconds, time_unit="us"))


def pair_from_local_offset(local: pl.Expr, offset_seconds: pl.Expr) -> Pair:
    """Pair of a local time and the offset valid then; null offset leaves the instant null."""
    wall = local.cast(LOCAL)
    utc = (wall - pl.duration(seconds=offset_seconds, time_unit="us")).dt.replace_time_zone("UTC")
    return Pair(utc, wall)


def pair_from_instant(instant: pl.Expr, zone: str | None = None) -> Pair:
    """Pair of a known instant in an IANA zone, or without local time when the zone is unknown."""
    utc = instant.cast(INSTANT)
    if zone is None:
        return Pair(utc, pl.lit(None, dtype=LOCAL))
    return Pair(utc, utc.dt.convert_time_zone(zone).dt.replace_time_zone(None))


def pair_from_local(local: pl.Expr) -> Pair:
    """Pair of a local time whose zone nobody knows."""
    return Pair(pl.lit(None, dtype=INSTANT), local.cast(LOCAL))


@dataclass(frozen=True, slots=True)
class ZonedPair(Pair):
    """A pair made from a local time, where a clock change may leave no single answer."""

    is_ambiguous: pl.Expr
    is_nonexistent: pl.Expr


def pair_from_zone(local: pl.Expr, zone: str) -> ZonedPair:
    """Pair of a local time in an IANA zone.

    The hour that happens twice in autumn is ambiguous and the one skipped in spring never was: in
    both cases the instant stays null and the flag says why. `earlier` and `later` settle the first.
    """
    wall = local.cast(LOCAL)
    early, late = earlier(wall, zone), later(wall, zone)
    return ZonedPair(
        pl.when(early == late).then(early),
        wall,
        wall.is_not_null() & early.is_not_null() & (early != late),
        wall.is_not_null() & early.is_null(),
    )


def earlier(local: pl.Expr, zone: str) -> pl.Expr:
    """First instant at which clocks of the zone showed the local time; null if they never did."""
    return _in_zone(local, zone, "earliest")


def later(local: pl.Expr, zone: str) -> pl.Expr:
    """Last instant at which clocks of the zone showed the local time; null if they never did."""
    return _in_zone(local, zone, "latest")


def pairs_by_zone(
    frame: pl.DataFrame, zone: str, *, local: str | None = None, instant: str | None = None
) -> pl.DataFrame:
    """The frame with `timestamp`, `local_timestamp`, `is_ambiguous`, `is_nonexistent` added.

    The IANA zone of each row stands in the column `zone`. Give either the name of a local or of an
    instant column. A null or unknown zone leaves the other half null.
    """
    if (local is None) == (instant is None):
        raise ValueError("give either local or instant")
    known = available_timezones()
    rows = frame.with_row_index("_row")
    made = []
    for (name,), part in rows.partition_by(zone, as_dict=True).items():
        place = name if isinstance(name, str) and name in known else None
        pair: Pair
        if local is None:
            pair = pair_from_instant(pl.col(str(instant)), place)
        elif place is None:
            pair = pair_from_local(pl.col(local))
        else:
            pair = pair_from_zone(pl.col(local), place)
        no = pl.lit(value=False)
        made.append(
            part.with_columns(
                *pair.named(),
                (pair.is_ambiguous if isinstance(pair, ZonedPair) else no).alias("is_ambiguous"),
                (pair.is_nonexistent if isinstance(pair, ZonedPair) else no).alias(
                    "is_nonexistent"
                ),
            )
        )
    if not made:
        empty = pl.Series(dtype=pl.Boolean)
        return frame.with_columns(
            pl.Series("timestamp", [], dtype=INSTANT),
            pl.Series("local_timestamp", [], dtype=LOCAL),
            empty.alias("is_ambiguous"),
            empty.alias("is_nonexistent"),
        )
    return pl.concat(made).sort("_row").drop("_row")


def offset_seconds(timestamp: pl.Expr, local_timestamp: pl.Expr) -> pl.Expr:
    """Offset of the pair, null unless both halves are known."""
    return (local_timestamp - _wall(timestamp)).dt.total_seconds().cast(pl.Int32)


def sort_key(timestamp: pl.Expr, local_timestamp: pl.Expr) -> pl.Expr:
    """What pairs are sorted by: the instant, or the local time where there is no instant."""
    return pl.coalesce(_wall(timestamp), local_timestamp)


def day_in_zone(local_date: pl.Expr, zone: str) -> tuple[Pair, Pair]:
    """Start and end of a local day in an IANA zone: 23 or 25 hours apart when the clocks change.

    A day whose midnight is skipped starts with the first instant that exists; one whose midnight
    comes twice starts with the first of them.
    """
    return _midnight(local_date, zone), _midnight(local_date.dt.offset_by("1d"), zone)


def day_with_offset(
    local_date: pl.Expr, start_offset_seconds: pl.Expr, end_offset_seconds: pl.Expr | None = None
) -> tuple[Pair, Pair]:
    """Start and end of a local day by the offsets at its ends; null offset: no instant."""
    end_offset = start_offset_seconds if end_offset_seconds is None else end_offset_seconds
    return (
        pair_from_local_offset(local_date.cast(LOCAL), start_offset_seconds),
        pair_from_local_offset(local_date.dt.offset_by("1d").cast(LOCAL), end_offset),
    )


def day_without_zone(local_date: pl.Expr) -> tuple[Pair, Pair]:
    """Start and end of a local day somewhere: local midnights without instants."""
    return (
        pair_from_local(local_date.cast(LOCAL)),
        pair_from_local(local_date.dt.offset_by("1d").cast(LOCAL)),
    )


def format_pair(timestamp: pl.Expr, local_timestamp: pl.Expr) -> pl.Expr:
    """The moment as clients read it: ISO 8601 with six digits and the offset, `Z` or nothing."""
    minutes = (local_timestamp - _wall(timestamp)).dt.total_minutes()
    suffix = minutes.cast(pl.Int16).replace_strict(_OFFSETS, default=None, return_dtype=pl.String)
    stamp = pl.coalesce(local_timestamp, _wall(timestamp)).dt.strftime(_STAMP)
    return (
        pl.when(timestamp.is_null())
        .then(stamp)
        .when(local_timestamp.is_null())
        .then(stamp + "Z")
        .otherwise(stamp + suffix)
    )


def format_instant(timestamp: pl.Expr) -> pl.Expr:
    """An instant of ours, which never had a local time."""
    return _wall(timestamp).dt.strftime(_STAMP) + "Z"


def parse_pair(text: pl.Expr) -> Pair:
    """Inverse of `format_pair`; a malformed text gives two nulls.

    Fewer or more digits of a second are read, those past the sixth are cut; `-00:00` means what
    `Z` means.
    """
    suffix = text.str.extract(f"({_SUFFIX})", 1)
    wall = text.str.replace(_SUFFIX, "").str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False
    )
    is_local = suffix.is_null()
    seconds = suffix.replace_strict(_SECONDS, default=None, return_dtype=pl.Int64)
    instant = (wall - pl.duration(seconds=seconds, time_unit="us")).dt.replace_time_zone("UTC")
    has_offset = ~suffix.is_in(["Z", "-00:00"])
    return Pair(instant, pl.when(is_local | (has_offset & seconds.is_not_null())).then(wall))


def _offset_text(minutes: int) -> str:
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02}:{rest:02}"


_WIDEST = timedelta(hours=18) // timedelta(minutes=1)
_OFFSETS = {minutes: _offset_text(minutes) for minutes in range(-_WIDEST, _WIDEST + 1)}
_SECONDS = {text: minutes * 60 for minutes, text in _OFFSETS.items()} | {"Z": 0, "-00:00": 0}


def _wall(timestamp: pl.Expr) -> pl.Expr:
    return timestamp.dt.replace_time_zone(None)


def _in_zone(local: pl.Expr, zone: str, which: str) -> pl.Expr:
    chosen = pl.lit(which)
    return (
        local.cast(LOCAL)
        .dt.replace_time_zone(zone, ambiguous=chosen, non_existent="null")
        .dt.convert_time_zone("UTC")
    )


def _midnight(local_date: pl.Expr, zone: str) -> Pair:
    midnight = local_date.cast(LOCAL)
    before = midnight.dt.offset_by("-3h")
    # A skipped midnight, read with the offset of shortly before, is the moment of the change.
    skipped = earlier(before, zone) + pl.duration(hours=3, time_unit="us")
    return pair_from_instant(pl.coalesce(earlier(midnight, zone), skipped), zone)
