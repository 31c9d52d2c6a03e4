from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from wearable_pipeline.orchestration.decisions import cover, slot_name, stale_users
from wearable_pipeline.partitions import Partition, Scheme

NOW = datetime(2026, 11, 20, 12, 7, 30, tzinfo=UTC)
DAY = date(2026, 11, 20)


def test_a_slot_is_named_by_its_start() -> None:
    assert slot_name(NOW) == "20261120T1205"
    assert slot_name(NOW.replace(minute=5, second=0)) == "20261120T1205"
    assert slot_name(NOW.replace(minute=4, second=59)) == "20261120T1200"


def test_one_rectangle_spans_the_first_to_the_last_user_in_the_order_of_the_grid() -> None:
    order = {"zoe": 0, "ann": 1, "bob": 2, "eve": 3}
    (rectangle,) = cover(["ann", "eve"], DAY, DAY, order, Scheme(), max_keys=100)
    assert rectangle.first == Partition(DAY, "ann")
    assert rectangle.last == Partition(DAY, "eve")
    assert rectangle.user_ids == ("ann", "eve")
    assert rectangle.tags == {
        "dagster/asset_partition_range_start": "2026-11-20|ann",
        "dagster/asset_partition_range_end": "2026-11-20|eve",
    }


def test_users_in_one_cohort_share_a_column() -> None:
    scheme = Scheme(cohorts=1)
    (rectangle,) = cover(["ann", "bob"], DAY, DAY, {"s00": 0}, scheme, max_keys=1)
    assert (rectangle.first.cohort, rectangle.last.cohort) == ("s00", "s00")
    assert rectangle.user_ids == ("ann", "bob")


@given(
    chosen=st.sets(st.integers(0, 60), max_size=40),
    days=st.integers(1, 5),
    max_keys=st.integers(1, 50),
)
def test_rectangles_cover_every_user_once_and_stay_below_the_limit(
    chosen: set[int], days: int, max_keys: int
) -> None:
    order = {f"u{number}": number for number in range(61)}
    end = DAY + timedelta(days=days - 1)
    found = cover([f"u{n}" for n in chosen], DAY, end, order, Scheme(), max_keys)
    named = [user_id for rectangle in found for user_id in rectangle.user_ids]
    assert sorted(named) == sorted(f"u{n}" for n in chosen)
    for rectangle in found:
        width = order[rectangle.last.cohort] - order[rectangle.first.cohort] + 1
        assert width * days <= max(max_keys, days)


def test_a_user_who_is_no_partition_yet_waits_for_the_next_tick() -> None:
    assert cover(["new"], DAY, DAY, {"old": 0}, Scheme(), 10) == []


def test_the_longest_silence_comes_first_and_never_read_before_all() -> None:
    limit = timedelta(minutes=15)
    newest = {
        "fresh": NOW - timedelta(minutes=15),
        "stale": NOW - timedelta(minutes=16),
        "staler": NOW - timedelta(hours=2),
        "never": None,
    }
    assert stale_users(newest, NOW, limit) == ["never", "staler", "stale"]
