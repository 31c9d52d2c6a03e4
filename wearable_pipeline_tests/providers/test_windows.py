"""Which days are asked for, and pages followed to their end."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wearable_pipeline.errors import BadPayloadError
from wearable_pipeline.model.time import parse_pair
from wearable_pipeline.providers._contract import Answer, Provider, Window
from wearable_pipeline.providers._paging import follow
from wearable_pipeline.providers._series import regular_samples
from wearable_pipeline.providers._windows import windows_of

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TODAY = NOW.date()
PROVIDER = Provider(name="example", title="", client_name="", summary="", docs_url="", resources=())


def days(provider: Provider, start: date, end: date) -> list[tuple[date, date]]:
    return [(one.start, one.end) for one in windows_of(provider, Window(start, end, NOW))]


def test_without_a_word_from_the_provider_the_window_stays_whole() -> None:
    assert days(PROVIDER, date(2020, 1, 1), TODAY) == [(date(2020, 1, 1), TODAY)]


def test_a_long_window_is_cut_newest_first() -> None:
    provider = replace(PROVIDER, max_window=timedelta(days=30))
    assert days(provider, date(2026, 8, 1), date(2026, 10, 10)) == [
        (date(2026, 9, 11), date(2026, 10, 10)),
        (date(2026, 8, 12), date(2026, 9, 10)),
        (date(2026, 8, 1), date(2026, 8, 11)),
    ]


def test_a_window_that_ends_in_the_present_reaches_back_for_what_comes_late() -> None:
    provider = replace(PROVIDER, refetch=timedelta(days=3))
    for end in (TODAY - timedelta(days=1), TODAY, TODAY + timedelta(days=1)):
        assert days(provider, end, end) == [(TODAY - timedelta(days=3), end)]
    past = TODAY - timedelta(days=2)
    assert days(provider, past, past) == [(past, past)]


def test_nothing_is_asked_for_that_the_provider_does_not_keep() -> None:
    provider = replace(PROVIDER, history_days=30)
    oldest = TODAY - timedelta(days=30)
    assert days(provider, date(2020, 1, 1), TODAY) == [(oldest, TODAY)]
    assert days(provider, date(2020, 1, 1), date(2020, 2, 1)) == []


@given(length=st.integers(0, 400), ends=st.integers(0, 400), most=st.integers(0, 60))
def test_the_parts_are_the_window_each_day_once(length: int, ends: int, most: int) -> None:
    end = TODAY - timedelta(days=ends)
    start = end - timedelta(days=length)
    parts = days(replace(PROVIDER, max_window=timedelta(days=most)), start, end)
    asked = [
        first + timedelta(days=n) for first, last in parts for n in range((last - first).days + 1)
    ]
    assert sorted(asked) == [start + timedelta(days=n) for n in range(length + 1)]
    assert all((last - first).days < max(most, 1) for first, last in parts)


def followed(cursors: list[int | None], most: int = 50) -> list[int | None]:
    asked: list[int | None] = []

    async def ask(cursor: int | None) -> Answer:
        asked.append(cursor)
        return Answer(200, {}, b"", NOW)

    async def run() -> None:
        answers: AsyncIterator[Answer] = follow(
            ask, lambda _: cursors[min(len(asked), len(cursors)) - 1], "reading", most
        )
        async for _ in answers:
            pass

    asyncio.run(run())
    return asked


def test_pages_are_followed_until_there_is_no_next() -> None:
    assert followed([7, 8, None]) == [None, 7, 8]


def test_a_cursor_that_comes_back_or_never_ends_is_an_error_and_no_end() -> None:
    with pytest.raises(BadPayloadError, match="repeat"):
        followed([7, 8, 7])
    with pytest.raises(BadPayloadError, match="more than 3 pages"):
        followed([1, 2, 3, 4, 5], most=3)


def test_samples_lie_at_their_step_and_what_was_not_measured_is_none_of_them() -> None:
    frame = pl.DataFrame(
        {
            "start": [
                "2026-11-20T00:00:00+02:00",
                "2026-11-20T00:00:00Z",
                None,
                "2026-11-20T00:00:00Z",
            ],
            "items": [[1.0, None, 3.0], [], [5.0], None],
            "step": [0.5, 60.0, 60.0, 60.0],
        }
    )
    found = regular_samples(
        frame, pl.col("items"), parse_pair(pl.col("start")), pl.col("step"), "bpm"
    ).to_list()
    start = datetime(2026, 11, 19, 22, tzinfo=UTC)
    assert found[0] == [
        {"timestamp": start, "local_timestamp": datetime(2026, 11, 20), "bpm": 1.0},  # noqa: DTZ001
        {
            "timestamp": start + timedelta(seconds=1),
            "local_timestamp": datetime(2026, 11, 20, 0, 0, 1),  # noqa: DTZ001
            "bpm": 3.0,
        },
    ]
    assert found[1] is None
    assert found[3] is None
