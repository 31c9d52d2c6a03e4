"""Clocks on the wall and instants, for frames whose rows lie in different time zones."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl

from wearable_pipeline.errors import UsageError
from wearable_pipeline.model.columns import INSTANT, LOCAL
from wearable_pipeline.model.time import earlier, later, pair_from_instant
from wearable_pipeline.providers._contract import Page


@lru_cache(maxsize=1024)
def find_zone(name: str | None) -> ZoneInfo | None:
    """The time zone of that IANA name, None when there is none."""
    if not name:
        return None
    try:
        # Polars has a list of its own: files like `localtime` are zones to Python alone.
        pl.Series([], dtype=pl.Datetime("us", "UTC")).dt.convert_time_zone(name)
        return ZoneInfo(name)
    except (pl.exceptions.ComputeError, ZoneInfoNotFoundError, ValueError, OSError):
        return None


def local_date_of(instant: datetime, timezone: str | None) -> date:
    """Date at `instant` where the person is; the UTC date when nobody knows where that is."""
    return instant.astimezone(find_zone(timezone) or UTC).date()


# Years devices have lived in; those near the ends of the calendar have no UTC.
YEARS = range(2000, 2100)


def in_years(moment: pl.Expr) -> pl.Expr:
    """A moment of the years devices have lived in; null for any other."""
    return pl.when(moment.dt.year().is_between(YEARS.start, YEARS.stop - 1)).then(moment)


def check_zone(timezone: str | None, provider: str) -> None:
    """Raise UsageError when somebody gave a time zone that is none."""
    if timezone is not None and find_zone(timezone) is None:
        raise UsageError(f"{provider}: no time zone {timezone!r}; say for example Europe/Berlin")


def read_time(text: object) -> datetime | None:
    """An ISO 8601 stamp, with or without an offset; None for anything else."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at if at is not None and at.year in YEARS else None


def read_instant(text: object) -> datetime | None:
    """The instant an ISO 8601 stamp with an offset names; None for anything else."""
    at = read_time(text)
    return at.astimezone(UTC) if at is not None and at.tzinfo is not None else None


def compact(at: datetime) -> str:
    """`at`, of a year with four digits, as `%Y%m%dT%H%M%S%f` writes it, in a third of the time."""
    day = (at.year * 100 + at.month) * 100 + at.day
    time = (at.hour * 100 + at.minute) * 100 + at.second
    return f"{day}T{time:06}{at.microsecond:06}"


def read_date(text: object) -> date | None:
    """The date a text begins with; None for anything else, and for years no device has lived in."""
    try:
        day = date.fromisoformat(text[:10]) if isinstance(text, str) else None
    except ValueError:
        return None
    return day if day is not None and day.year in YEARS else None


def zone_of(page: Page) -> str | None:
    """The person's zone, where the page was fetched for somebody whose zone is known."""
    timezone = page.context.get("timezone")
    return timezone if isinstance(timezone, str) and find_zone(timezone) else None


def wall_clock(frame: pl.DataFrame, instant: pl.Expr, zone: str) -> pl.Series:
    """What clocks showed at `instant` in the zone whose IANA name is in the column `zone`."""
    rows = frame.select(instant.alias("instant"), pl.col(zone).alias("zone"))
    return _by_zone(
        rows, LOCAL, lambda name: pair_from_instant(pl.col("instant"), name).local_timestamp
    )


def instant_of(frame: pl.DataFrame, local: str, zone: str, fold: str) -> pl.Series:
    """The instant at which clocks showed the column `local` in the zone of the column `zone`.

    Null where the zone is unknown, where the clocks skipped that time, and where they showed it
    twice unless the column `fold` says which: 0 the first, 1 the second time.
    """
    rows = frame.select(
        pl.col(local).alias("local"), pl.col(zone).alias("zone"), pl.col(fold).alias("fold")
    )
    return _by_zone(rows, INSTANT, _instant)


def _by_zone(
    rows: pl.DataFrame, dtype: pl.DataType, convert: Callable[[str], pl.Expr]
) -> pl.Series:
    """`convert` of its zone for every row; null where the zone is unknown."""
    parts = [
        part.select(
            "row",
            (convert(str(name)) if find_zone(name) else pl.lit(None, dtype)).alias("found"),
        )
        for (name,), part in rows.with_row_index("row").partition_by("zone", as_dict=True).items()
    ]
    if not parts:
        return pl.Series("found", [], dtype)
    return pl.concat(parts).sort("row")["found"]


def _instant(zone: str) -> pl.Expr:
    first, second = earlier(pl.col("local"), zone), later(pl.col("local"), zone)
    return (
        pl.when((first == second) | (pl.col("fold") == 0))
        .then(first)
        .when(pl.col("fold") == 1)
        .then(second)
    )
