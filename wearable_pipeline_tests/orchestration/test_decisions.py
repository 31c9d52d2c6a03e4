from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from wearable_pipeline.orchestration.decisions import (
    cover,
    lane_name,
    lane_of,
    share_out,
    slot_name,
)
from wearable_pipeline.partitions import Partition

NOW = datetime(2026, 11, 20, 12, 7, 30, tzinfo=UTC)
DAY = date(2026, 11, 20)


def test_a_slot_is_named_by_its_start() -> None:
    assert slot_name(NOW) == "20261120T1205"
    assert slot_name(NOW.replace(minute=5, second=0)) == "20261120T1205"
    assert slot_name(NOW.replace(minute=4, second=59)) == "20261120T1200"


def test_a_slot_may_be_seconds_long() -> None:
    assert slot_name(NOW + timedelta(seconds=14), timedelta(seconds=15)) == "20261120T120730"


def test_one_rectangle_spans_the_first_to_the_last_cohort_in_the_order_of_the_grid() -> None:
    order = {"zoe": 0, "ann": 1, "bob": 2, "eve": 3}
    (rectangle,) = cover({"eve": 1, "ann": 1}, DAY, DAY, order, max_keys=100)
    assert rectangle.first == Partition(DAY, "ann")
    assert rectangle.last == Partition(DAY, "eve")
    assert rectangle.keys == ("ann", "eve")
    assert rectangle.tags == {
        "dagster/asset_partition_range_start": "2026-11-20|ann",
        "dagster/asset_partition_range_end": "2026-11-20|eve",
    }


def test_a_rectangle_holds_no_more_people_than_one_run_should() -> None:
    users = {"s00": 60, "s01": 40, "s02": 1, "s03": 300, "s04": 5}
    order = {key: number for number, key in enumerate(users)}
    found = cover(users, DAY, DAY, order, max_keys=100, max_users=100)
    assert [one.keys for one in found] == [("s00", "s01"), ("s02",), ("s03",), ("s04",)]


@given(
    chosen=st.sets(st.integers(0, 60), max_size=40),
    days=st.integers(1, 5),
    max_keys=st.integers(1, 50),
)
def test_rectangles_cover_every_cohort_once_and_stay_below_the_limit(
    chosen: set[int], days: int, max_keys: int
) -> None:
    order = {f"u{number}": number for number in range(61)}
    end = DAY + timedelta(days=days - 1)
    found = cover({f"u{n}": 1 for n in chosen}, DAY, end, order, max_keys)
    named = [key for rectangle in found for key in rectangle.keys]
    assert sorted(named) == sorted(f"u{n}" for n in chosen)
    for rectangle in found:
        width = order[rectangle.last.cohort] - order[rectangle.first.cohort] + 1
        assert width * days <= max(max_keys, days)


def test_a_cohort_that_is_no_partition_yet_waits_for_the_next_tick() -> None:
    assert cover({"new": 1}, DAY, DAY, {"old": 0}, 10) == []


def test_lanes_are_stretches_of_the_dimension_that_do_not_overlap() -> None:
    assert [lane_of(position, 8, 3) for position in range(8)] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [lane_of(position, 2, 4) for position in range(2)] == [0, 2]
    assert lane_name(0, 1) == "live"
    assert lane_name(2, 3) == "live-2"


def test_places_are_shared_out_evenly_and_what_one_leaves_goes_to_the_others() -> None:
    assert share_out({"libre": 90_000, "oura": 10, "garmin": 9_000}, 10_000) == {
        "oura": 10,
        "garmin": 4_995,
        "libre": 4_995,
    }
    assert share_out({"libre": 3}, 10_000) == {"libre": 3}
    assert share_out({}, 10) == {}
