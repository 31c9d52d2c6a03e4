"""Spans of time, and the days that were missed."""

import json
from datetime import date, timedelta

import pytest

from wearable_pipeline.providers._spans import Missed, merge, read_spans, subtract

TODAY = date(2026, 11, 20)
PRESENT = (date(2026, 11, 13), TODAY)


def test_spans_that_touch_are_one_and_empty_ones_are_none() -> None:
    assert merge([(5, 9), (1, 3), (3, 4), (8, 12), (7, 7)]) == [(1, 4), (5, 12)]


def test_what_lies_outside_others_is_left() -> None:
    assert subtract([(0, 10), (20, 30)], [(-5, 2), (4, 6), (8, 25)]) == [(2, 4), (6, 8), (25, 30)]
    assert subtract([(0, 10)], []) == [(0, 10)]
    assert subtract([(0, 10)], [(0, 10)]) == []


@pytest.mark.parametrize("stored", [None, "text", {"a": 1}, [[1]], [["a", "b"]]])
def test_what_is_no_list_of_spans_holds_none(stored: object) -> None:
    assert read_spans(stored) == []
    assert "weight" not in Missed({"weight": stored}, TODAY)


def refused(*days: tuple[date, date]) -> object:
    missed = Missed(None, TODAY)
    missed.note("weight", [], days, 0)
    return json.loads(json.dumps(missed.to_store()))


def test_days_that_are_due_anyway_are_not_asked_for_twice() -> None:
    stored = refused((date(2026, 11, 10), date(2026, 11, 15)))
    missed = Missed(stored, TODAY)
    assert "weight" in missed
    assert missed.find("weight", [PRESENT], 30) == (date(2026, 11, 10), date(2026, 11, 12))
    assert missed.find("weight", [(date(2026, 11, 1), TODAY)], 30) is None
    assert missed.find("height", [PRESENT], 30) is None


def test_the_newest_come_first_a_few_at_a_time_until_none_is_left() -> None:
    stored = refused((date(2026, 1, 1), date(2026, 1, 3)), (date(2026, 3, 1), date(2026, 3, 5)))
    found = []
    for _ in range(5):
        missed = Missed(stored, TODAY)
        late = missed.find("weight", [PRESENT], 4)
        found.append(late)
        missed.note("weight", [PRESENT, *([late] if late else [])], [], 1 if late else 0)
        stored = json.loads(json.dumps(missed.to_store()))
    assert found == [
        (date(2026, 3, 2), date(2026, 3, 5)),
        (date(2026, 3, 1), date(2026, 3, 1)),
        (date(2026, 1, 1), date(2026, 1, 3)),
        None,
        None,
    ]
    assert stored == {}


def test_what_is_refused_again_while_the_present_is_not_waits_for_the_next_day() -> None:
    old = (date(2026, 3, 1), date(2026, 3, 5))
    missed = Missed(refused(old), TODAY)
    missed.note("weight", [PRESENT], [old], 1)
    stored = json.loads(json.dumps(missed.to_store()))
    later = Missed(stored, TODAY)
    assert later.find("weight", [PRESENT], 30) is None
    # A fetch in between that goes well does not change that.
    later.note("weight", [PRESENT], [], 0)
    assert Missed(later.to_store(), TODAY).find("weight", [PRESENT], 30) is None
    assert Missed(later.to_store(), TODAY + timedelta(days=1)).find("weight", [PRESENT], 30) == old
    # Refused with the present, it is asked for as soon as that is not.
    missed = Missed(refused(old), TODAY)
    missed.note("weight", [], [PRESENT, old], 1)
    assert missed.find("weight", [PRESENT], 30) == old


def test_days_beyond_what_a_provider_keeps_are_forgotten() -> None:
    stored = refused((date(2025, 11, 1), date(2025, 11, 25)))
    missed = Missed(stored, TODAY, history_days=365)
    assert missed.find("weight", [], 30) == (date(2025, 11, 20), date(2025, 11, 25))
