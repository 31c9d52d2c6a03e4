"""Merged days, worked out by hand. Times are UTC unless a row says otherwise."""

import io
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import polars as pl
import pytest

from wearable_pipeline.lake.merged import (
    DAILY_MERGED,
    MEASURES,
    PEOPLE_PATH,
    default_priority,
    merged_columns,
    merged_sql,
    priority_list,
    write_people,
)
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.registry import User
from wearable_pipeline_tests.lake.rows import DAY, frame_of
from wearable_pipeline_tests.servers.fixtures import Place

DAILY = TABLES["daily"]
PHONE, WATCH, RING = "apple_health", "garmin", "oura"
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def at(hour: int, minute: int = 0, day: date = DAY) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(
        hours=hour, minutes=minute
    )


def source(
    provider: str,
    steps: int | None,
    samples: Sequence[tuple[datetime, float]] = (),
    **columns: Any,
) -> dict[str, Any]:
    """A daily row of the user named like the provider; naive times of samples are local ones."""
    taken = [
        {
            "timestamp": moment if moment.tzinfo else None,
            "local_timestamp": None if moment.tzinfo else moment,
            "steps": count,
        }
        for moment, count in samples
    ]
    row = {"user_id": provider, "provider": provider, "local_date": DAY, "distance_steps": steps}
    return row | {"distance_detailed_step_samples": taken or None} | columns


def merge(
    *rows: dict[str, Any],
    people: dict[str, str] | None = None,
    priority: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Merged days; all users are one person unless `people` says otherwise."""
    persons = {row["user_id"]: "p" for row in rows} if people is None else people
    with duckdb.connect() as connection:
        connection.register("daily", frame_of(DAILY, rows).to_arrow())
        connection.register(
            "people",
            pl.DataFrame(
                {"user_id": list(persons), "person_id": list(persons.values())},
                schema={"user_id": pl.String, "person_id": pl.String},
            ).to_arrow(),
        )
        order = default_priority() if priority is None else priority_list(priority)
        cursor = connection.execute(
            f"SELECT * FROM ({merged_sql('daily', 'people', order)}) ORDER BY person_id, local_date"
        )
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def steps_of(*rows: dict[str, Any], priority: Sequence[str] | None = None) -> int | None:
    (day,) = merge(*rows, priority=priority)
    steps: int | None = day["distance_steps"]
    return steps


def parts_of(day: dict[str, Any]) -> dict[str, float]:
    return {part["provider"]: part["distance_steps"] for part in day["sources"]}


def test_a_morning_on_the_phone_and_an_evening_on_the_watch_are_added() -> None:
    (day,) = merge(
        source(PHONE, 7000, [(at(9), 7000)]),
        source(WATCH, 3000, [(at(20), 3000)]),
    )

    assert day["distance_steps"] == 10_000
    assert day["contributing_providers"] == [PHONE, WATCH]
    assert parts_of(day) == {WATCH: 3000, PHONE: 7000}


def test_the_same_steps_seen_by_both_count_once() -> None:
    (day,) = merge(
        source(PHONE, 3000, [(at(20), 3000)]),
        source(WATCH, 3000, [(at(20), 3000)]),
    )

    assert day["distance_steps"] == 3000
    assert day["contributing_providers"] == [WATCH]
    assert parts_of(day) == {WATCH: 3000, PHONE: 0}


def test_rows_without_samples_are_added_when_their_spans_are_apart() -> None:
    morning: dict[str, Any] = {"start_at": at(6), "end_at": at(12)}
    evening: dict[str, Any] = {"start_at": at(18), "end_at": at(22)}

    assert steps_of(source(PHONE, 7000, **morning), source(WATCH, 3000, **evening)) == 10_000
    assert steps_of(source(PHONE, 3000, **evening), source(WATCH, 3000, **evening)) == 3000


def test_a_partial_overlap_takes_the_uncovered_part_at_an_even_pace() -> None:
    # Hourly samples. The watch has 9-10 and 10-11, the phone 9:30-10:30 and 10:30-11:30: half an
    # hour of the phone's 400 steps, 11:00-11:30, is its own.
    watch = [(at(10), 1000), (at(11), 500)]
    phone = [(at(10, 30), 800), (at(11, 30), 400)]

    (day,) = merge(source(WATCH, 1500, watch), source(PHONE, 1200, phone))

    assert day["distance_steps"] == 1700
    assert parts_of(day) == {WATCH: 1500, PHONE: 200}


def test_three_sources_take_what_is_left_by_those_before() -> None:
    # Hours: oura 10-11; watch 10-11 and 11-12; phone 11-12 and 12-13.
    (day,) = merge(
        source(RING, 900, [(at(11), 900)]),
        source(WATCH, 1700, [(at(11), 1000), (at(12), 700)]),
        source(PHONE, 1100, [(at(12), 600), (at(13), 500)]),
        priority=[RING, WATCH, PHONE],
    )

    assert parts_of(day) == {RING: 900, WATCH: 700, PHONE: 500}
    assert [part["provider"] for part in day["sources"]] == [RING, WATCH, PHONE]
    assert day["distance_steps"] == 2100


def test_the_priority_decides_whose_number_counts_in_the_overlap() -> None:
    rows = source(WATCH, 1000, [(at(11), 1000)]), source(PHONE, 800, [(at(11), 800)])

    assert steps_of(*rows) == 1000
    assert steps_of(*rows, priority=[PHONE]) == 800
    assert steps_of(*rows, priority=[PHONE, "*"]) == 800
    assert steps_of(*rows, priority=["*", PHONE]) == 1000


def test_two_whole_day_totals_are_one_day_of_the_source_before() -> None:
    whole: dict[str, Any] = {"start_at": at(0), "end_at": at(24)}
    nearly: dict[str, Any] = {"start_at": at(0), "end_at": at(23, 59)}

    assert steps_of(source(WATCH, 8000, **nearly), source(PHONE, 9000, **whole)) == 8000
    assert steps_of(source(WATCH, 8000), source(PHONE, 9000)) == 8000


def test_a_total_without_samples_fills_up_what_samples_before_it_lack() -> None:
    # The phone's 8,000 of the whole day include what the watch saw in the evening.
    watch = source(WATCH, 3000, [(at(20), 3000)])

    (day,) = merge(watch, source(PHONE, 8000))

    assert day["distance_steps"] == 8000
    assert parts_of(day) == {WATCH: 3000, PHONE: 5000}
    assert steps_of(watch, source(PHONE, 3000)) == 3000
    assert steps_of(watch, source(PHONE, 2000)) == 3000


def test_a_total_without_samples_counts_before_samples_of_a_later_source() -> None:
    assert steps_of(source(RING, 9000), source(PHONE, 9800, [(at(11), 9800)])) == 9000


def test_one_source_alone_counts_as_it_says() -> None:
    assert steps_of(source(PHONE, 4321)) == 4321
    # Its total beyond its samples is its own, and so is a total below them.
    assert steps_of(source(PHONE, 5000, [(at(9), 3000), (at(10), 1000)])) == 5000
    assert steps_of(source(PHONE, 3600, [(at(9), 3000), (at(10), 1000)])) == 3600
    assert steps_of(source(PHONE, None, [(at(9), 3000), (at(10), 1000)])) == 4000


def test_a_rest_beyond_the_samples_only_fills_up_to_the_sources_own_total() -> None:
    # 600 and 400 by samples; of the watch's 2,400 1,800 have no time, of the phone's 2,200 also.
    (day,) = merge(
        source(WATCH, 2400, [(at(20), 600)]),
        source(PHONE, 2200, [(at(9), 400)]),
    )

    assert day["distance_steps"] == 2400
    assert parts_of(day) == {WATCH: 2000, PHONE: 400}


def test_a_zero_says_nothing_about_the_time_it_stands_for() -> None:
    on_the_table = source(WATCH, 0, [(at(9), 0), (at(10), 0)])

    assert steps_of(on_the_table, source(PHONE, 700, [(at(10), 700)])) == 700
    assert steps_of(source(WATCH, 0), source(PHONE, 700)) == 700


def test_a_day_of_zeros_is_zero_and_a_day_nobody_counted_is_null() -> None:
    assert steps_of(source(WATCH, 0), source(PHONE, None)) == 0
    assert steps_of(source(WATCH, None), source(PHONE, None)) is None
    (day,) = merge(source(WATCH, None))
    assert day["contributing_providers"] == []
    assert parts_of(day) == {WATCH: None}


def test_a_sample_after_a_silence_reaches_back_one_usual_step() -> None:
    # The watch counts by minutes and was silent until 12:00. Its sample covers 11:59-12:00 and
    # leaves the phone's 11:30 alone.
    watch = [(at(9, minute), 10) for minute in range(1, 6)] + [(at(12), 100)]
    phone = [(at(11, 29), 40), (at(11, 30), 50)]

    assert steps_of(source(WATCH, 150, watch), source(PHONE, 90, phone)) == 240


def test_a_lone_sample_reaches_back_an_hour() -> None:
    # 19:58-20:58 and 20:00-21:00: two of the phone's sixty minutes are not the watch's.
    phone, watch = source(PHONE, 3000, [(at(20, 58), 3000)]), source(WATCH, 3000, [(at(21), 3000)])

    assert steps_of(phone, watch) == 3100


def test_two_people_do_not_mix_and_users_nobody_mapped_stand_alone() -> None:
    days = merge(
        source(WATCH, 1000, user_id="a1"),
        source(PHONE, 900, user_id="a2"),
        source(PHONE, 500, user_id="b1"),
        source(RING, 300, user_id="c1"),
        people={"a1": "anna", "a2": "anna", "b1": "bert"},
    )

    assert {day["person_id"]: day["distance_steps"] for day in days} == {
        "anna": 1000,
        "bert": 500,
        "c1": 300,
    }


def test_two_days_do_not_mix() -> None:
    days = merge(source(WATCH, 1000), source(PHONE, 1500, local_date=DAY + timedelta(days=1)))

    assert [(day["local_date"], day["distance_steps"]) for day in days] == [
        (DAY, 1000),
        (DAY + timedelta(days=1), 1500),
    ]


def test_the_hour_that_comes_twice_holds_two_hours() -> None:
    # Berlin, 25 October 2026: 02:00-03:00 comes twice, as 00:00-01:00 and as 01:00-02:00 UTC.
    night = date(2026, 10, 25)
    columns: dict[str, Any] = {
        "local_date": night,
        "timezone": "Europe/Berlin",
        "utc_offset_seconds": 7200,
    }
    first = source(WATCH, 600, [(at(1, day=night), 600)], **columns)
    second = source(PHONE, 400, [(at(2, day=night), 400)], **columns)

    assert steps_of(first, second) == 1000


def test_a_day_of_25_hours_is_covered_whole() -> None:
    night = date(2026, 10, 25)
    columns: dict[str, Any] = {
        "local_date": night,
        "timezone": "Europe/Berlin",
        "utc_offset_seconds": 7200,
    }
    # 22:00 UTC the day before to 23:00 UTC.
    whole: dict[str, Any] = {"start_at": at(-2, day=night), "end_at": at(23, day=night)}

    assert steps_of(source(WATCH, 8000, **columns), source(PHONE, 9000, **columns, **whole)) == 8000
    # The last hour alone is another matter when the watch's row ends before it: 9,000 - 8,000.
    short: dict[str, Any] = {"start_at": at(-2, day=night), "end_at": at(22, day=night)}
    assert (
        steps_of(source(WATCH, 8000, **columns, **short), source(PHONE, 9000, **columns, **whole))
        == 9000
    )


def test_local_times_are_placed_by_the_zone_another_source_knows() -> None:
    # 20:00 in Berlin in November is 19:00 UTC.
    local = datetime(2026, 11, 20, 20)  # noqa: DTZ001 local time on purpose
    phone = source(PHONE, 3000, [(local, 3000)])
    zoned: dict[str, Any] = {"timezone": "Europe/Berlin", "utc_offset_seconds": 3600}

    assert steps_of(phone, source(WATCH, 3000, [(at(19), 3000)], **zoned)) == 3000
    by_offset: dict[str, Any] = {"utc_offset_seconds": 3600}
    assert steps_of(phone, source(WATCH, 3000, [(at(19), 3000)], **by_offset)) == 3000
    assert steps_of(phone, source(WATCH, 3000, [(local, 3000)])) == 3000


def test_each_quantity_is_counted_by_itself() -> None:
    (day,) = merge(
        source(WATCH, 1000, distance_distance_meters=800.0),
        source(PHONE, 900, calories_total_burned_calories=2100.5, distance_floors_climbed=3),
    )

    assert day["distance_steps"] == 1000
    assert day["distance_distance_meters"] == 800.0
    assert day["calories_total_burned_calories"] == 2100.5
    assert day["distance_floors_climbed"] == 3
    assert day["contributing_providers"] == [PHONE, WATCH]


def test_what_cannot_be_added_comes_from_the_first_source_that_has_it() -> None:
    (day,) = merge(
        source(PHONE, 1, heart_rate_summary_resting_hr_bpm=58.0, scores_sleep=70.0),
        source(WATCH, 1, heart_rate_summary_resting_hr_bpm=55.0),
    )

    assert day["heart_rate_summary_resting_hr_bpm"] == 55.0
    assert day["scores_sleep"] == 70.0


def test_two_connections_to_one_provider_are_two_sources() -> None:
    (day,) = merge(
        source(WATCH, 1000, [(at(10), 1000)], user_id="old"),
        source(WATCH, 1200, [(at(10), 200), (at(20), 1000)], user_id="new"),
    )

    # "new" comes first by name: 9-10 and 19-20 are taken, nothing of "old" is left.
    assert day["distance_steps"] == 1200
    assert day["contributing_providers"] == [WATCH]


def test_the_described_columns_are_those_of_the_view() -> None:
    (day,) = merge(source(WATCH, 1))

    assert list(day) == [name for name, _ in merged_columns()]
    assert {measure.total for measure in MEASURES} < set(day)
    assert DAILY_MERGED not in TABLES


def test_the_merged_total_lies_between_the_largest_source_and_the_sum() -> None:
    rows = [
        source(WATCH, 5000, [(at(hour), 250) for hour in range(3, 23)]),
        source(PHONE, 6000, [(at(hour, 20), 300) for hour in range(2, 22)]),
        source(RING, 4000, [(at(hour, 50), 200) for hour in range(1, 21)]),
    ]
    for first in (WATCH, PHONE, RING):
        (day,) = merge(*rows, priority=[first, "*"])
        assert 4000 <= day["distance_steps"] <= 15_000
        assert sum(parts_of(day).values()) == pytest.approx(day["distance_steps"], abs=0.5)
        assert parts_of(day)[first] == {WATCH: 5000, PHONE: 6000, RING: 4000}[first]


def test_many_samples_are_merged_in_reasonable_time() -> None:
    every_minute = [(at(0, minute), 5) for minute in range(1, 1440)]
    rows = [
        source(provider, 5 * 1439, every_minute, user_id=f"{provider}-{person}")
        for person in range(5)
        for provider in (WATCH, PHONE, RING)
    ]
    people = {row["user_id"]: row["user_id"].split("-")[1] for row in rows}

    days = merge(*rows, people=people)

    assert [day["distance_steps"] for day in days] == [7195] * 5


def _user(user_id: str, reference_id: str | None) -> User:
    return User(user_id, WATCH, reference_id, None, None, "connected", None, {}, NOW, NOW)


def test_people_are_written_under_an_opaque_name(local_place: Place) -> None:
    storage = Storage.open(local_place.url, local_place.settings)
    users = [_user("u2", "anna@example.org"), _user("u1", "anna@example.org"), _user("u3", None)]

    count = write_people(storage, users, lambda reference: f"hash{len(reference)}")

    stored = storage.read(PEOPLE_PATH)
    assert count == 3
    assert b"anna" not in stored
    assert pl.read_parquet(io.BytesIO(stored)).rows() == [
        ("u1", "hash16"),
        ("u2", "hash16"),
        ("u3", "u3"),
    ]


def test_writing_people_again_forgets_who_is_gone(local_place: Place) -> None:
    storage = Storage.open(local_place.url, local_place.settings)
    write_people(storage, [_user("u1", "a"), _user("u2", "b")], str.upper)

    write_people(storage, [_user("u2", "b")], str.upper)
    assert pl.read_parquet(io.BytesIO(storage.read(PEOPLE_PATH))).rows() == [("u2", "B")]
    write_people(storage, [], str.upper)
    assert pl.read_parquet(io.BytesIO(storage.read(PEOPLE_PATH))).rows() == []
