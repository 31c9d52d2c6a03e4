"""Items read all at once are what each of them is alone, byte for byte."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wearable_pipeline.errors import BadPayloadError
from wearable_pipeline.providers._local_time import compact
from wearable_pipeline.providers._split import decode, item_fields, with_fields
from wearable_pipeline_tests.providers.moments import naive

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


def cut(body: bytes) -> list[msgspec.Raw]:
    return decode(body, list[msgspec.Raw], "cutting")


@given(st.lists(VALUES | st.dictionaries(st.text(), VALUES, min_size=1)))
def test_all_at_once_gives_what_one_by_one_gives(values: list[object]) -> None:
    items = cut(msgspec.json.encode(values))
    assert list(with_fields(items)) == [(bytes(item), item_fields(item)) for item in items]


def test_more_than_is_read_at_once_comes_whole_and_in_order() -> None:
    # Of ten with 300,000 bytes four are read at a time, the last two by themselves.
    bodies = [b'{"n":%d,"text":"%s"}' % (n, b"x" * 300_000) for n in range(10)]
    found = list(with_fields(cut(b"[" + b",".join(bodies) + b"]")))
    assert [body for body, _ in found] == bodies
    assert [fields["n"] for _, fields in found] == list(range(10))


def test_an_item_nobody_can_read_has_no_fields_and_spoils_no_other() -> None:
    body = b'[{"bpm":60} , {"bpm":1e999},{"note":"\xff"},7,\n{ "bpm" : 6.10e1 }]'
    assert list(with_fields(cut(body))) == [
        (b'{"bpm":60}', {"bpm": 60}),
        (b'{"bpm":1e999}', {}),
        (b'{"note":"\xff"}', {}),
        (b"7", {}),
        (b'{ "bpm" : 6.10e1 }', {"bpm": 61.0}),
    ]
    assert list(with_fields([])) == []


def test_one_shape_is_not_taken_for_another() -> None:
    assert decode(b"[1]", list[int], "numbers") == [1]
    assert decode(b'["1"]', list[str], "words") == ["1"]
    with pytest.raises(BadPayloadError, match="numbers: the answer is cut off or of another shape"):
        decode(b'["1"]', list[int], "numbers")


@given(
    st.datetimes(naive("2000-01-01T00:00:00"), naive("2099-12-31T23:59:59"), timezones=st.just(UTC))
)
def test_an_instant_is_written_without_its_signs(at: datetime) -> None:
    assert compact(at) == f"{at:%Y%m%dT%H%M%S%f}"


def test_an_instant_at_the_whole_second_has_six_zeros() -> None:
    assert compact(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "20260102T030405000000"
