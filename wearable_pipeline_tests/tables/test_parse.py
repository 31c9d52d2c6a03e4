"""Bodies of every shape become typed rows or reasons; one strange body never stops the others."""

import os
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wearable_pipeline.providers._contract import Record, Resource
from wearable_pipeline.raw.store import Arrival, frame_of, latest_revisions
from wearable_pipeline.tables import parse as parse_module
from wearable_pipeline.tables.parse import ENVELOPE, Parsed, parse

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = date(2026, 11, 20)
# A factor; `make faults` takes 10.
EXAMPLES = int(os.environ.get("WEARABLE_TEST_EXAMPLES", "1"))


def resource(context: dict[str, pl.DataType] | None = None, **wire: pl.DataType) -> Resource:
    return Resource(
        name="things",
        wire={name.replace("__", "."): dtype for name, dtype in wire.items()},
        split=lambda page: iter(()),
        prepare=lambda frame: frame,
        tables=(),
        context_wire=context or {},
    )


def raw_of(*bodies: bytes, contexts: list[dict[str, object]] | None = None) -> pl.DataFrame:
    given_contexts = contexts or [{}] * len(bodies)
    records = [
        Record("things", f"r{number:05}", body, DAY, context)
        for number, (body, context) in enumerate(zip(bodies, given_contexts, strict=True))
    ]
    frame = frame_of("nightscout", [Arrival("u1", records, NOON)], "b1", "poll")
    return latest_revisions(frame)


def parsed(wire: Resource, *bodies: bytes, **parts: Any) -> Parsed:
    return parse(raw_of(*bodies, **parts), wire)


def reasons(result: Parsed) -> dict[str, str]:
    return dict(result.rejected.select("record_id", "reason").rows())


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"120", 120.0),
        (b'"120"', 120.0),
        (b'" 120.5 "', 120.5),
        (b"1.2e2", 120.0),
        (b"-0.1", -0.1),
        (b"0.1234567890123456", 0.1234567890123456),
        (b"null", None),
        (b'""', None),
        (b'"  "', None),
    ],
)
def test_a_number_is_a_number_with_or_without_quotes(
    written: bytes, expected: float | None
) -> None:
    result = parsed(resource(v=pl.Float64()), b'{"v":' + written + b"}")
    assert result.typed["v"].to_list() == [expected]
    assert result.rejected.is_empty()


@pytest.mark.parametrize(
    "written", [b'"LOW"', b'"NaN"', b'"Infinity"', b'"1e999"', b'"5,3"', b"true", b'"0x1F"']
)
def test_what_is_no_finite_number_is_refused_with_its_column(written: bytes) -> None:
    result = parsed(resource(v=pl.Float64()), b'{"v":' + written + b"}")
    assert result.typed.is_empty()
    assert reasons(result) == {"r00000": "v: not a number"}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"5", 5),
        (b"5.0", 5),
        (b'"5"', 5),
        (b'"5.0"', 5),
        (b"-7", -7),
        (b"1e3", 1000),
        # One past what a float can tell apart.
        (b"9007199254740993", 9007199254740993),
        (b"9223372036854775807", 9223372036854775807),
    ],
)
def test_whole_numbers_keep_every_digit(written: bytes, expected: int) -> None:
    result = parsed(resource(v=pl.Int64()), b'{"v":' + written + b"}")
    assert result.typed["v"].to_list() == [expected]


@pytest.mark.parametrize(
    "written", [b"5.5", b"123456789012345678901234567890", b"1e300", b'"five"', b'"5.5"']
)
def test_what_is_no_whole_number_is_refused(written: bytes) -> None:
    result = parsed(resource(v=pl.Int64()), b'{"v":' + written + b"}")
    assert reasons(result) == {"r00000": "v: not a whole number"}


def test_a_whole_number_too_large_for_its_column_is_refused() -> None:
    result = parsed(resource(v=pl.Int32()), b'{"v":2147483648}', b'{"v":2147483647}')
    assert reasons(result) == {"r00000": "v: not a whole number"}
    assert result.typed["v"].to_list() == [2147483647]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"true", True),
        (b"false", False),
        (b'"True"', True),
        (b'"0"', False),
        (b"1", True),
        (b"null", None),
    ],
)
def test_booleans_are_read_leniently(written: bytes, expected: bool | None) -> None:
    result = parsed(resource(v=pl.Boolean()), b'{"v":' + written + b"}")
    assert result.typed["v"].to_list() == [expected]


@pytest.mark.parametrize("written", [b'"yes"', b"2", b'"maybe"'])
def test_other_words_are_no_boolean(written: bytes) -> None:
    result = parsed(resource(v=pl.Boolean()), b'{"v":' + written + b"}")
    assert reasons(result) == {"r00000": "v: not a true/false value"}


def test_a_reason_names_every_bad_column_and_no_value() -> None:
    wire = resource(a__b=pl.Float64(), c=pl.Int64(), d=pl.String())
    result = parsed(wire, b'{"a":{"b":"secret-123.456"},"c":"x","d":"fine"}')
    assert reasons(result) == {"r00000": "a.b: not a number; c: not a whole number"}


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"5",
        b'"text"',
        b"null",
        b"",
        b"  ",
        b"\n",
        b"{",
        b'{"v":1',
        b'{"v":NaN}',
        b'{"v":1}{"v":2}',
        b'{"v":1}\n{"v":2}',
        b'{"v":{"w":1}}',
        b'{"v":[1]}',
        b"\xff\xfe",
        b'{"v":"\xff"}',
        b"<html>",
        b'{"v":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_body_of_another_shape_goes_alone(body: bytes) -> None:
    result = parsed(resource(v=pl.Float64()), b'{"v":1}', body, b'{"v":3}')
    assert result.typed.select("record_id", "v").rows() == [("r00000", 1.0), ("r00002", 3.0)]
    assert reasons(result) == {"r00001": "body: not the JSON object this resource sends"}


@pytest.mark.parametrize(
    "bodies",
    [
        # Each alone is broken; one after the other they are an object, and two.
        [b'{"x":"', b'","v":1}'],
        [b'{"v":1,"x', b'":2}'],
        [b'{"x":"', b'","v":1}', b'{"v":2}{"v":3}'],
        [b'{"v":2} {"v":3}', b'{"v":1,"x', b'":2}'],
    ],
)
def test_broken_bodies_do_not_complete_each_other(bodies: list[bytes]) -> None:
    result = parsed(resource(v=pl.Float64()), *bodies, b'{"v":7}', b'{"v":8}')
    count = len(bodies)
    assert result.typed.select("record_id", "v").rows() == [
        (f"r{count:05}", 7.0),
        (f"r{count + 1:05}", 8.0),
    ]
    assert sorted(reasons(result)) == [f"r{number:05}" for number in range(count)]


def test_missing_fields_are_null_and_unknown_ones_are_no_fault() -> None:
    wire = resource(v=pl.Float64(), a__b=pl.String())
    result = parsed(wire, b"{}", b'{"a":null}', b'{"a":{}}', b'{"z":[1,{"y":2}],"v":1}')
    assert result.typed.select("v", "a.b").rows() == [(None, None)] * 3 + [(1.0, None)]
    assert result.rejected.is_empty()


def test_the_envelope_stays_beside_its_own_body() -> None:
    bodies = [b'{"v":%d}' % number if number % 7 else b"{" for number in range(50)]
    result = parsed(resource(v=pl.Int64()), *bodies)
    assert all(
        name == f"r{value:05}" for name, value in result.typed.select("record_id", "v").rows()
    )
    assert result.typed.height == 42
    assert sorted(reasons(result)) == [f"r{number:05}" for number in range(0, 50, 7)]


def test_one_broken_record_among_ten_thousand_costs_few_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = 0
    real = parse_module._decode_json

    def counted(body: pl.Series, dtype: pl.Struct) -> pl.Series:
        nonlocal attempts
        attempts += 1
        return real(body, dtype)

    monkeypatch.setattr(parse_module, "_decode_json", counted)
    bodies = [b'{"v":%d}' % number for number in range(10_000)]
    bodies[6_789] = b'{"v":6789'
    result = parsed(resource(v=pl.Int64()), *bodies)
    assert result.typed.height == 9_999
    assert list(reasons(result)) == ["r06789"]
    # Two halves on each of the levels from 10,000 down to one, and the whole.
    assert attempts <= 2 * 14 + 1


def test_context_columns_are_typed_like_the_body() -> None:
    wire = resource({"sensor": pl.String(), "n": pl.Int64()}, v=pl.Float64())
    result = parsed(
        wire,
        b'{"v":1}',
        b'{"v":2}',
        b'{"v":3}',
        contexts=[{"sensor": "A", "n": 1}, {}, {"n": "x"}],
    )
    assert result.typed.select("v", "context.sensor", "context.n").rows() == [
        (1.0, "A", 1),
        (2.0, None, None),
    ]
    assert reasons(result) == {"r00002": "context.n: not a whole number"}


def test_no_records_give_the_columns_all_the_same() -> None:
    wire = resource({"zone": pl.String()}, v=pl.Float64(), a__b=pl.Int64())
    result = parsed(wire)
    assert result.typed.schema["v"] == pl.Float64
    assert result.typed.schema["a.b"] == pl.Int64
    assert "context.zone" in result.typed.columns
    assert result.typed.is_empty()
    assert result.rejected.is_empty()


def test_a_list_column_comes_typed() -> None:
    wire = resource(v=pl.List(pl.Struct({"x": pl.Float64()})))
    result = parsed(wire, b'{"v":[{"x":1.5},{"x":null}]}', b'{"v":null}', b'{"v":7}')
    assert result.typed["v"].to_list() == [[{"x": 1.5}, {"x": None}], None]
    assert list(reasons(result)) == ["r00002"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["v", "a", "b", "n", "é"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=50 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(JSON.map(msgspec.json.encode) | st.binary(max_size=12), min_size=1, max_size=6))
def test_whatever_arrives_every_record_ends_typed_or_refused(bodies: list[bytes]) -> None:
    wire = resource(v=pl.Float64(), a__b=pl.Int64(), n=pl.Boolean())
    result = parsed(wire, *bodies)
    accepted = set(result.typed["record_id"])
    assert accepted.isdisjoint(reasons(result))
    assert len(accepted) + len(reasons(result)) == len(bodies)
    for body, record_id in zip(bodies, sorted(accepted | set(reasons(result))), strict=True):
        alone = parsed(wire, body)
        assert alone.rejected.is_empty() == (record_id in accepted)


ODD = st.sampled_from(
    [
        *(b"1.0", b"1e2", b"-0", b"0.1e1", b"1E5", b"12345.678901234567890", b"1e400"),
        *(b'"1.0"', b'"1.5"', b'" 7 "', b'"NaN"', b"NaN", b"Infinity", b'"Inf"', b'"-Infinity"'),
        *(b'"{"', b'"[1]"', b'{"z":1}', b"[]", b"[1,2]", b'""', b'" "', b"true", b'"TRUE"', b"0"),
        *(b'"\\u00e9\\n"', b'"\\u0000"', b'"\\ud800"', b"18446744073709551616", b"01", b"nul"),
    ]
)
FIELDS = st.lists(
    st.tuples(st.sampled_from([b"v", b"n", b"t", b"f", b"a", b"V", b"other"]), ODD), max_size=5
).map(lambda pairs: b"{" + b",".join(b'"%b":%b' % pair for pair in pairs) + b"}")
NESTED = ODD.map(lambda value: b'{"a":{"b":%b},"t":"x"}' % value)


@settings(max_examples=100 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        FIELDS | NESTED | JSON.map(msgspec.json.encode) | st.binary(max_size=8),
        min_size=1,
        max_size=20,
    )
)
def test_the_fast_decoder_reads_what_the_strict_one_reads(bodies: list[bytes]) -> None:
    things = resource(v=pl.Float64(), n=pl.Int64(), t=pl.String(), f=pl.Boolean(), a__b=pl.String())
    raw = raw_of(*bodies)
    fast = parse(raw, things)
    strict = parse_module._parse_strictly(raw, things, things.wire, ENVELOPE)
    # What the strict decoder refuses as a whole for a field nobody asked for, the fast one may read.
    lenient = set(fast.typed["record_id"]) - set(strict.typed["record_id"])
    assert all(_has_what_is_no_json(bodies[int(one[1:])]) for one in lenient)
    assert fast.typed.filter(~pl.col("record_id").is_in(list(lenient))).equals(strict.typed)
    assert fast.rejected.sort("record_id").equals(
        strict.rejected.filter(~pl.col("record_id").is_in(list(lenient))).sort("record_id")
    )


def _has_what_is_no_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True
    return False


def test_a_plain_batch_never_meets_the_slow_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("decoded twice")

    monkeypatch.setattr(parse_module, "_parse_strictly", refuse)
    things = resource(v=pl.Float64(), n=pl.Int64(), t=pl.String(), f=pl.Boolean())
    bodies = [
        b'{"v":%d.5,"n":"%d","t":"12/30/2026 1:00:00 PM","f":true}' % (n, n) for n in range(9)
    ]
    typed = parse(raw_of(*bodies), things).typed
    assert typed["v"].to_list() == [n + 0.5 for n in range(9)]
    assert typed["n"].to_list() == list(range(9))
