"""Bodies of one pattern are read as a decoder would read them; what differs in the least is left to one."""

import math
import os
from datetime import UTC, date, datetime

import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wearable_pipeline.providers._contract import Record, Resource
from wearable_pipeline.raw.store import Arrival, frame_of, latest_revisions
from wearable_pipeline.tables import parse as parse_module
from wearable_pipeline.tables import patterns
from wearable_pipeline.tables.parse import ENVELOPE, parse
from wearable_pipeline.tables.patterns import read_patterns

# A factor; `make faults` takes 10.
EXAMPLES = int(os.environ.get("WEARABLE_TEST_EXAMPLES", "1"))
WIRE = {
    "at": pl.String(),
    "n": pl.Int64(),
    "v": pl.Float64(),
    "is_high": pl.Boolean(),
    "sensor.sn": pl.String(),
    "absent": pl.Float64(),
}
BODY = b'{"at":"4:47:40 PM","n":117,"v":6.5,"is_high":false,"sensor":{"sn":"MH01"},"other":-12.75}'


@pytest.fixture(autouse=True)
def _two_make_a_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_FEWEST", 2)


def read(
    *bodies: bytes | None, wire: dict[str, pl.DataType] | None = None
) -> dict[int, tuple[object, ...]]:
    """What was read, by the number of the body."""
    columns, rows = read_patterns(pl.Series(bodies, dtype=pl.Binary), wire or WIRE)
    assert columns.schema == pl.Schema(wire or WIRE)
    return dict(zip(rows.tolist(), columns.rows(), strict=True))


def test_values_are_read_from_the_places_they_have_in_all_bodies() -> None:
    other = (
        BODY.replace(b"4:47:40 PM", b"5:01:09 AM").replace(b"117", b"204").replace(b"6.5", b"9.3")
    )
    assert read(BODY, other.replace(b"MH01", b"MH99")) == {
        0: ("4:47:40 PM", 117, 6.5, False, "MH01", None),
        1: ("5:01:09 AM", 204, 9.3, False, "MH99", None),
    }


def test_bodies_of_several_patterns_and_lengths_keep_their_numbers() -> None:
    true = BODY.replace(b"false", b"true ")
    longer = BODY.replace(b"117", b"1117")
    found = read(BODY, longer, true, None, BODY, b"", true, longer)
    told = {number: (row[1], row[3]) for number, row in found.items()}
    assert told[0] == told[4] == (117, False)
    assert told[1] == told[7] == (1117, False)
    assert told[2] == told[6] == (117, True)
    assert len(told) == 6


@pytest.mark.parametrize(
    ("found", "instead"),
    [
        (b"117", b"017"),
        (b"117", b"1 7"),
        (b"117", b"1e7"),
        (b"117", b"1.7"),
        (b"117", b'"7"'),
        (b"117", b"-17"),
        (b"6.5", b"605"),
        (b"6.5", b".65"),
        (b"12.75", b"02.75"),
        (b"false", b"true "),
        (b"false", b"falsy"),
        (b"4:47", b'4"47'),
        (b"4:47", b"4\\47"),
        (b"4:47", b"4\n47"),
        (b"4:47", b"4\x7f47"),
        (b"4:47", b"\xc3\xa947"),
        (b"40 PM", b"40PM "),
        (b'"at"', b'"ta"'),
        (b'"other"', b'"v"    '),
        (b"75}", b"75 "),
        (b'},"', b'} "'),
        (b":{", b":["),
    ],
)
def test_what_differs_in_more_than_digits_and_characters_is_left_alone(
    found: bytes, instead: bytes
) -> None:
    odd = BODY.replace(found, instead)
    odd += b" " * (len(BODY) - len(odd))
    assert odd != BODY
    assert list(read(BODY, odd, BODY, BODY)) == [0, 2, 3]


@pytest.mark.parametrize(
    "sample",
    [
        b"[1]",
        b"117",
        b'"text"',
        b'{"n":1',
        b'{"n":1}{"n":2}',
        b'{"n":1,"n":2}',
        b'{"n":"1"}',
        b'{"n":1.0}',
        b'{"n":true}',
        b'{"n":1234567890123456}',
        b'{"v":"6.5"}',
        b'{"v":1e3}',
        b'{"v":0.1234567890123456}',
        b'{"at":5}',
        b'{"at":{}}',
        b'{"at":"a\\u00e9"}',
        b'{"is_high":1}',
        b'{"is_high":"true"}',
        b'{"is_high":""}',
        b'{"sensor":"MH01"}',
        b'{"sensor":{"sn":1}}',
        b'{"other":[1,2]}',
        b'{"other":1e400}',
        b'{"other":1234567890123456789}',
        b'{"n":1,\n"v":2.5}',
        b'{"at":"\xff"}',
        b'{"other":' + b'{"a":' * 4_000 + b"1" + b"}" * 4_001,
        b'{"at":5' + b" " * (1 << 15) + b"}",
    ],
)
def test_what_takes_a_decoder_is_no_pattern(sample: bytes) -> None:
    assert read(sample, sample, sample) == {}


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (b"{}", (None, None, None, None, None, None)),
        (b'{"at":null,"n":null,"sensor":null}', (None, None, None, None, None, None)),
        (b'{"at":"","sensor":{}}', ("", None, None, None, None, None)),
        (b'{ "n" : 5 , "is_high" : true }', (None, 5, None, True, None, None)),
        (b'{"at":"Z\xc3\xbcrich"}', ("Zürich", None, None, None, None, None)),
        (b'{"n":-7,"v":100}', (None, -7, 100.0, None, None, None)),
        (b'{"n":999999999999999,"v":0.1}', (None, 999999999999999, 0.1, None, None, None)),
        (b'{"v":12345.6789012345}', (None, None, 12345.6789012345, None, None, None)),
        (b'{"sensor.sn":"flat","at":"x"}', ("x", None, None, None, None, None)),
    ],
)
def test_plain_values_of_every_kind_are_read(sample: bytes, expected: tuple[object, ...]) -> None:
    assert read(sample, sample) == {0: expected, 1: expected}


def test_a_negative_nought_keeps_its_sign() -> None:
    rows = read(b'{"v":-0.0}', b'{"v":-0.0}')
    assert [math.copysign(1, row[2]) for row in rows.values()] == [-1, -1]  # type: ignore[arg-type]


def test_a_column_of_another_type_leaves_all_to_the_decoders() -> None:
    assert read(b'{"n":5}', b'{"n":5}', wire={"n": pl.Int32()}) == {}


def test_odd_bodies_in_front_hide_no_pattern() -> None:
    odd = BODY.replace(b"117", b'"HI"').replace(b"6.5", b"65")
    assert len(odd) == len(BODY)
    assert list(read(*[odd] * 20, *[BODY] * 40)) == list(range(20, 60))


def test_few_bodies_are_not_searched_for_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_FEWEST", 4)
    assert read(BODY, BODY, BODY) == {}


def raw_of(bodies: list[bytes]) -> pl.DataFrame:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    records = [
        Record("things", f"r{number:05}", body, date(2026, 11, 20), {})
        for number, body in enumerate(bodies)
    ]
    return latest_revisions(frame_of("nightscout", [Arrival("u1", records, noon)], "b1", "poll"))


THINGS = Resource(
    name="things",
    wire=WIRE,
    split=lambda page: iter(()),
    prepare=lambda frame: frame,
    tables=(),
)


def test_a_batch_of_one_pattern_meets_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("decoded one by one")

    monkeypatch.setattr(parse_module, "_decode_fast", refuse)
    monkeypatch.setattr(parse_module, "_parse_strictly", refuse)
    bodies = [BODY.replace(b"117", b"%d" % number) for number in range(100, 140)]
    typed = parse(raw_of(bodies), THINGS).typed
    assert typed["n"].to_list() == list(range(100, 140))
    assert typed["record_id"].to_list() == [f"r{number:05}" for number in range(40)]


def test_a_broken_body_among_others_is_refused_and_moves_nobody() -> None:
    bodies = [BODY.replace(b"117", b"%d" % number) for number in range(100, 110)]
    bodies[3] = bodies[3].replace(b"103", b'"H"')
    bodies[6] = b'{"n":"106"}'
    result = parse(raw_of(bodies), THINGS)
    assert result.typed.select("record_id", "n").rows() == [
        (f"r{number:05}", 100 + number) for number in range(10) if number != 3
    ]
    assert result.rejected.select("record_id", "reason").rows() == [
        ("r00003", "n: not a whole number")
    ]


VALUES = st.sampled_from(
    [
        *(b"0", b"7", b"-7", b"10", b"117", b"1.5", b"-0.0", b"0.10", b"1e5", b"12345678901234567"),
        *(b'""', b'"7"', b'"a"', b'"PM 4"', b'"\\n"', b'"\xc3\xa9"', b"true", b"false", b"null"),
        *(b"{}", b'{"sn":"MH01"}', b'{"sn":5}', b"[]", b"[1]"),
    ]
)
TEMPLATES = st.lists(
    st.tuples(st.sampled_from([b"at", b"n", b"v", b"is_high", b"sensor", b"other"]), VALUES),
    max_size=5,
).map(lambda pairs: b"{" + b",".join(b'"%b":%b' % pair for pair in pairs) + b"}")
# A byte that is put in the place of another, and where.
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 60), st.sampled_from(list(b'0019aZ "\\{}[],:.-+e#~\x00\n\x7f\xc3\xa9'))
    ),
    max_size=2,
)


def changed(body: bytes, changes: list[tuple[int, int]]) -> bytes:
    letters = bytearray(body)
    for place, letter in changes:
        letters[place % len(letters)] = letter
    return bytes(letters)


@settings(
    max_examples=100 * EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(TEMPLATES, st.lists(CHANGES, min_size=2, max_size=12))
def test_whatever_keeps_to_a_pattern_is_what_the_strict_decoder_reads(
    template: bytes, changes: list[list[tuple[int, int]]]
) -> None:
    bodies = [changed(template, one) for one in changes]
    raw = raw_of(bodies)
    columns, rows = read_patterns(raw["body"], WIRE)
    strict = parse_module._parse_strictly(raw, THINGS, WIRE, ENVELOPE).typed
    ids = raw["record_id"].gather(rows)
    expected = pl.DataFrame({"record_id": ids}).join(
        strict.select("record_id", *WIRE), on="record_id", how="left", maintain_order="left"
    )
    assert set(ids) <= set(strict["record_id"])
    assert columns.equals(expected.drop("record_id"))
    for row in rows.tolist():
        assert isinstance(msgspec.json.decode(raw["body"][row]), dict)
