# ruff: noqa: DTZ001 local times are the subject
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from wearable_pipeline.model.columns import INSTANT, LOCAL
from wearable_pipeline.model.time import (
    Pair,
    day_in_zone,
    day_with_offset,
    day_without_zone,
    earlier,
    format_instant,
    format_pair,
    later,
    offset_seconds,
    pair_from_instant,
    pair_from_local,
    pair_from_local_offset,
    pair_from_offset,
    pair_from_zone,
    pairs_by_zone,
    parse_pair,
    sort_key,
)

BERLIN = "Europe/Berlin"


def _utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


def _pairs(frame: pl.DataFrame, pair: Pair) -> list[tuple[datetime | None, datetime | None]]:
    made = frame.select(pair.named())
    assert list(made.schema.values()) == [INSTANT, LOCAL]
    return made.rows()


def test_an_instant_and_its_offset_give_both_halves() -> None:
    frame = pl.DataFrame({"t": [_utc(2026, 11, 20, 6), _utc(2026, 11, 20, 6)], "o": [3600, None]})
    assert _pairs(frame, pair_from_offset(pl.col("t"), pl.col("o"))) == [
        (_utc(2026, 11, 20, 6), datetime(2026, 11, 20, 7)),
        (_utc(2026, 11, 20, 6), None),
    ]


def test_a_local_time_and_its_offset_give_both_halves() -> None:
    frame = pl.DataFrame({"l": [datetime(2026, 11, 20, 7)] * 2, "o": [-12600, None]})
    assert _pairs(frame, pair_from_local_offset(pl.col("l"), pl.col("o"))) == [
        (_utc(2026, 11, 20, 10, 30), datetime(2026, 11, 20, 7)),
        (None, datetime(2026, 11, 20, 7)),
    ]


def test_an_instant_in_a_zone_follows_the_clock_change() -> None:
    # Berlin goes from +02:00 to +01:00 at 01:00 UTC on 25 October 2026.
    frame = pl.DataFrame({"t": [_utc(2026, 10, 25, 0, 30), _utc(2026, 10, 25, 1, 30)]})
    assert _pairs(frame, pair_from_instant(pl.col("t"), BERLIN)) == [
        (_utc(2026, 10, 25, 0, 30), datetime(2026, 10, 25, 2, 30)),
        (_utc(2026, 10, 25, 1, 30), datetime(2026, 10, 25, 2, 30)),
    ]


def test_an_instant_without_zone_and_a_local_time_without_zone_stay_halves() -> None:
    frame = pl.DataFrame({"t": [_utc(2026, 1, 1)], "l": [datetime(2026, 1, 1)]})
    assert _pairs(frame, pair_from_instant(pl.col("t"))) == [(_utc(2026, 1, 1), None)]
    assert _pairs(frame, pair_from_local(pl.col("l"))) == [(None, datetime(2026, 1, 1))]


def _zoned(local: datetime, zone: str) -> tuple[datetime | None, bool, bool]:
    pair = pair_from_zone(pl.col("l"), zone)
    made = pl.DataFrame({"l": [local]}).select(
        pair.timestamp, pair.is_ambiguous.alias("a"), pair.is_nonexistent.alias("n")
    )
    instant, is_ambiguous, is_nonexistent = made.row(0)
    return instant, is_ambiguous, is_nonexistent


def test_an_ordinary_local_time_has_one_instant() -> None:
    assert _zoned(datetime(2026, 7, 1, 12), BERLIN) == (_utc(2026, 7, 1, 10), False, False)
    assert _zoned(datetime(2026, 7, 1, 12), "Asia/Kolkata") == (
        _utc(2026, 7, 1, 6, 30),
        False,
        False,
    )


def test_the_hour_that_happens_twice_has_no_instant_until_somebody_chooses() -> None:
    twice = datetime(2026, 10, 25, 2, 30)
    assert _zoned(twice, BERLIN) == (None, True, False)
    frame = pl.DataFrame({"l": [twice]})
    assert frame.select(earlier(pl.col("l"), BERLIN)).item() == _utc(2026, 10, 25, 0, 30)
    assert frame.select(later(pl.col("l"), BERLIN)).item() == _utc(2026, 10, 25, 1, 30)


def test_the_edges_of_the_repeated_hour_are_told_apart() -> None:
    assert _zoned(datetime(2026, 10, 25, 1, 59, 59), BERLIN) == (
        _utc(2026, 10, 24, 23, 59, 59),
        False,
        False,
    )
    assert _zoned(datetime(2026, 10, 25, 2), BERLIN)[1]
    assert _zoned(datetime(2026, 10, 25, 3), BERLIN) == (_utc(2026, 10, 25, 2), False, False)


def test_the_hour_that_never_was_has_no_instant() -> None:
    assert _zoned(datetime(2026, 3, 29, 2, 30), BERLIN) == (None, False, True)
    assert _zoned(datetime(2026, 3, 29, 3), BERLIN) == (_utc(2026, 3, 29, 1), False, False)


def test_rows_of_many_zones_keep_their_order_and_unknown_zones_stay_local() -> None:
    noon = datetime(2026, 1, 1, 12)
    frame = pl.DataFrame(
        {"z": [BERLIN, None, "America/New_York", "Mars/Base", BERLIN], "n": range(5)}
    )
    frame = frame.with_columns(pl.lit(noon).cast(LOCAL).alias("l"))
    made = pairs_by_zone(frame, "z", local="l")
    assert made["n"].to_list() == [0, 1, 2, 3, 4]
    assert made["timestamp"].to_list() == [
        _utc(2026, 1, 1, 11),
        None,
        _utc(2026, 1, 1, 17),
        None,
        _utc(2026, 1, 1, 11),
    ]
    assert made["local_timestamp"].to_list() == [noon] * 5
    assert not made["is_ambiguous"].any()


def test_instants_of_many_zones_get_their_local_times() -> None:
    frame = pl.DataFrame({"z": ["Asia/Kathmandu", None], "t": [_utc(2026, 1, 1)] * 2})
    made = pairs_by_zone(frame, "z", instant="t")
    assert made["local_timestamp"].to_list() == [datetime(2026, 1, 1, 5, 45), None]


def test_no_rows_of_no_zones_have_the_columns_all_the_same() -> None:
    frame = pl.DataFrame(schema={"z": pl.String, "l": LOCAL})
    made = pairs_by_zone(frame, "z", local="l")
    assert made.columns[2:] == ["timestamp", "local_timestamp", "is_ambiguous", "is_nonexistent"]


def test_pairs_by_zone_wants_one_half() -> None:
    with pytest.raises(ValueError, match="either"):
        pairs_by_zone(pl.DataFrame({"z": [BERLIN]}), "z")


def _day(day: date, zone: str) -> tuple[tuple[object, object], tuple[object, object], timedelta]:
    start, end = day_in_zone(pl.col("d"), zone)
    frame = pl.DataFrame({"d": [day]})
    (first,), (last,) = _pairs(frame, start), _pairs(frame, end)
    assert first[0] is not None
    assert last[0] is not None
    return first, last, last[0] - first[0]


@pytest.mark.parametrize(
    ("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 7, 1), 24)]
)
def test_days_are_as_long_as_clocks_make_them(day: tuple[int, int, int], hours: int) -> None:
    assert _day(date(*day), BERLIN)[2] == timedelta(hours=hours)


def test_offsets_at_both_ends_of_a_day_of_clock_change_differ() -> None:
    first, last, _ = _day(date(2026, 3, 29), BERLIN)
    assert first == (_utc(2026, 3, 28, 23), datetime(2026, 3, 29))
    assert last == (_utc(2026, 3, 29, 22), datetime(2026, 3, 30))


def test_a_day_without_midnight_starts_at_one() -> None:
    # Cairo skips from 24 April 2026 00:00 to 01:00.
    first, _, length = _day(date(2026, 4, 24), "Africa/Cairo")
    assert first == (_utc(2026, 4, 23, 22), datetime(2026, 4, 24, 1))
    assert length == timedelta(hours=23)


def test_a_day_with_two_midnights_starts_with_the_first() -> None:
    # Havana falls back from 01:00 to 00:00 on 1 November 2026: -04:00, then -05:00.
    first, _, length = _day(date(2026, 11, 1), "America/Havana")
    assert first == (_utc(2026, 11, 1, 4), datetime(2026, 11, 1))
    assert length == timedelta(hours=25)


def test_days_by_offset_and_days_nowhere() -> None:
    frame = pl.DataFrame({"d": [date(2026, 3, 29)], "a": [3600], "b": [7200], "none": [None]})
    start, end = day_with_offset(pl.col("d"), pl.col("a"), pl.col("b"))
    assert _pairs(frame, start) == [(_utc(2026, 3, 28, 23), datetime(2026, 3, 29))]
    assert _pairs(frame, end) == [(_utc(2026, 3, 29, 22), datetime(2026, 3, 30))]
    start, end = day_without_zone(pl.col("d"))
    assert _pairs(frame, start) == [(None, datetime(2026, 3, 29))]
    assert _pairs(frame, end) == [(None, datetime(2026, 3, 30))]


SEVEN = datetime(2026, 11, 20, 7)


@pytest.mark.parametrize(
    ("text", "instant", "local"),
    [
        ("2026-11-20T07:00:00.000000+01:00", _utc(2026, 11, 20, 6), SEVEN),
        ("2026-11-20T07:00:00.000000-03:30", _utc(2026, 11, 20, 10, 30), SEVEN),
        ("2026-11-20T07:00:00.000000+00:00", _utc(2026, 11, 20, 7), SEVEN),
        ("2026-11-20T07:00:00.123456Z", _utc(2026, 11, 20, 7, 0, 0, 123456), None),
        ("2026-11-20T07:00:00.000000", None, SEVEN),
    ],
)
def test_moments_are_written_and_read_by_what_is_known(
    text: str, instant: datetime | None, local: datetime | None
) -> None:
    read = pl.DataFrame({"x": [text]}).select(parse_pair(pl.col("x")).named())
    assert read.row(0) == (instant, local)
    written = read.select(format_pair(pl.col("timestamp"), pl.col("local_timestamp")))
    assert written.item() == text


def test_minus_zero_means_an_unknown_offset_and_digits_may_lack() -> None:
    frame = pl.DataFrame({"x": ["2026-11-20T07:00:00-00:00", "2026-11-20T07:00:00.5Z"]})
    assert frame.select(parse_pair(pl.col("x")).named()).rows() == [
        (_utc(2026, 11, 20, 7), None),
        (_utc(2026, 11, 20, 7, 0, 0, 500_000), None),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-20",
        "2026-13-20T07:00:00Z",
        "2026-11-20T07:00:00+19:00",
        "1763622000",
        "2026-11-20T07:00:00 CET",
    ],
)
def test_what_is_no_moment_has_no_half(text: str) -> None:
    frame = pl.DataFrame({"x": [text]}).select(parse_pair(pl.col("x")).named())
    assert frame.row(0) == (None, None)


def test_an_instant_of_ours_is_written_with_z() -> None:
    frame = pl.DataFrame({"t": [_utc(2026, 11, 20, 7, 0, 0, 5)]})
    assert frame.select(format_instant(pl.col("t"))).item() == "2026-11-20T07:00:00.000005Z"


def test_pairs_sort_by_instant_and_else_by_local_time() -> None:
    frame = pl.DataFrame(
        {
            "t": [_utc(2026, 1, 1, 6), None],
            "l": [datetime(2026, 1, 1, 12), datetime(2026, 1, 1, 5)],
        }
    )
    keys = frame.select(
        sort_key(pl.col("t"), pl.col("l")).alias("k"),
        offset_seconds(pl.col("t"), pl.col("l")).alias("o"),
    )
    assert keys.rows() == [(datetime(2026, 1, 1, 6), 21600), (datetime(2026, 1, 1, 5), None)]
