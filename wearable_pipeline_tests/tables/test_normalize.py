"""Rows as a function of raw records: purity, conservation of counts, newest truth, poison."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Page
from wearable_pipeline.raw.store import Arrival, frame_of, latest_revisions
from wearable_pipeline.tables.normalize import Normalized, normalize
from wearable_pipeline_tests.faults.entries import (
    NOON,
    entry,
    raw_frame,
    samples_of,
    series,
)

MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
FIVE = timedelta(minutes=5)


def libre_raw(
    user_id: str, fetched_at: datetime, current: tuple[datetime, int] | None, graph: Sequence[Any]
) -> pl.DataFrame:
    """A poll of LibreLinkUp: the current reading and the points of the graph."""

    def point(at: datetime, value: int) -> dict[str, object]:
        text = f"{at.month}/{at.day}/{at.year} {at:%I:%M:%S %p}"
        return {
            "FactoryTimestamp": text,
            "Timestamp": text,
            "type": 0,
            "ValueInMgPerDl": value,
            "Value": value,
            "GlucoseUnits": 1,
        }

    body = {
        "data": {
            "connection": {
                "glucoseMeasurement": None
                if current is None
                else {**point(*current), "TrendArrow": 4},
                "sensor": {"sn": "SN1", "a": 1_700_000_000, "pt": 4},
            },
            "graphData": [point(*one) for one in graph],
        }
    }
    provider = get_provider("freestyle_libre")
    records = [
        record
        for name in ("current", "graph")
        for record in provider.resource(name).split(
            Page(name, msgspec.json.encode(body), fetched_at, {"patient_id": user_id})
        )
    ]
    arrival = Arrival(user_id, records, fetched_at)
    return frame_of("freestyle_libre", [arrival], f"b{fetched_at:%H%M}", "poll")


def conserved(result: Normalized, table: str, column: str) -> int:
    """Records that became elements of a list column, or went somewhere else that is counted."""
    elements = sum(len(one or []) for one in result.rows[column].to_list())
    records = result.rejected.filter(pl.col("record_id").is_not_null())
    return elements + result.merged + records.height


# --- purity


def _world() -> pl.DataFrame:
    frames = []
    for number, user in enumerate(("u1", "u2", "u3")):
        for day in range(2):
            start = MIDNIGHT - timedelta(days=day) + timedelta(hours=2 * number)
            documents = [
                *series(start, 4, 80 + number),
                entry(start + timedelta(hours=1), "LOW", identifier=f"{user}-low-{day}"),
                entry(start + FIVE, 5, device="other"),
            ]
            frames.append(raw_frame(documents, NOON, user, batch="b1"))
            again = [entry(start, 200 + number), entry(start + FIVE, isValid=False)]
            frames.append(raw_frame(again, NOON + FIVE, user, batch="b2"))
    # The same instant in both resources of the same poll, with different values.
    at = MIDNIGHT + timedelta(hours=9)
    frames.append(libre_raw("l1", NOON, None, [(at, 101), (at + FIVE, 102)]))
    frames.append(libre_raw("l2", NOON, (at, 111), [(at, 112), (at + FIVE, 113)]))
    frames.append(libre_raw("l3", NOON, (at, 121), [(at, 122)]))
    return pl.concat(frames)


WORLD = _world()
CELLS = sorted(set(WORLD.select("user_id", "local_date").rows()))


def _of_cell(frame: pl.DataFrame, cell: tuple[str, date]) -> list[dict[str, Any]]:
    return frame.filter(
        (pl.col("user_id") == cell[0]) & (pl.col("local_date") == cell[1])
    ).to_dicts()


@cache
def _alone(cell: tuple[str, date]) -> Normalized:
    return normalize(
        WORLD.filter((pl.col("user_id") == cell[0]) & (pl.col("local_date") == cell[1])), "body"
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sets(st.sampled_from(CELLS), min_size=1), st.randoms(use_true_random=False))
def test_what_a_partition_becomes_does_not_depend_on_what_is_beside_it(
    cells: set[tuple[str, date]], rng: Any
) -> None:
    wanted = pl.DataFrame(sorted(cells), schema=["user_id", "local_date"], orient="row")
    some = WORLD.join(wanted, on=["user_id", "local_date"], how="semi")
    order = list(range(some.height))
    rng.shuffle(order)
    together = normalize(some[order], "body")
    for cell in cells:
        alone = _alone(cell)
        assert _of_cell(together.rows, cell) == alone.rows.to_dicts()
        assert _of_cell(together.rejected, cell) == alone.rejected.to_dicts()


def test_the_order_of_raw_rows_and_segments_does_not_matter() -> None:
    straight = normalize(WORLD, "body")
    reverse = normalize(WORLD.reverse(), "body")
    assert straight.rows.equals(reverse.rows)
    assert straight.rejected.equals(reverse.rejected)


def test_two_batches_with_the_same_instant_of_fetching_tie_by_their_name() -> None:
    documents = [entry(MIDNIGHT), entry(MIDNIGHT + FIVE)]
    batches = [raw_frame(documents, NOON, batch=name) for name in ("b2", "b1", "b3")]
    found = {
        tuple(normalize(pl.concat(order), "body").rows["batch_ids"].to_list()[0])
        for order in (batches, batches[::-1], batches[1:] + batches[:1])
    }
    assert found == {("b3",)}


def test_nothing_makes_no_rows_and_no_error() -> None:
    result = normalize(WORLD.clear(), "body")
    assert (result.rows.height, result.rejected.height, result.records, result.merged) == (0,) * 4


def test_a_resource_nobody_knows_any_more_is_left_out() -> None:
    gone = WORLD.head(1).with_columns(provider=pl.lit("vanished"), resource=pl.lit("things"))
    assert normalize(pl.concat([WORLD, gone]), "body").rows.equals(normalize(WORLD, "body").rows)


# --- newest truth


def test_the_newest_of_twins_wins_and_keeps_what_it_does_not_know() -> None:
    at = MIDNIGHT + timedelta(hours=9)
    live = libre_raw("u1", NOON, (at, 100), [])
    later = libre_raw("u1", NOON + FIVE, None, [(at, 104)])
    (row,) = normalize(pl.concat([live, later]), "body").rows.to_dicts()
    (sample,) = row["glucose_blood_glucose_samples"]
    assert sample["blood_glucose_mg_per_dl"] == 104.0
    assert sample["trend_arrow"] == "rising"


def test_provenance_covers_all_resources_a_row_was_made_of() -> None:
    at = MIDNIGHT + timedelta(hours=9)
    live = libre_raw("u1", NOON, (at, 100), [])
    later = libre_raw("u1", NOON + FIVE, None, [(at, 104)])
    (row,) = normalize(pl.concat([live, later]), "body").rows.to_dicts()
    assert row["batch_ids"] == ["b1200", "b1205"]
    assert row["first_seen_at"] == NOON
    assert row["updated_at"] == NOON + FIVE
    assert row["revision"] == 2


def test_a_record_is_never_twice_whatever_its_revisions() -> None:
    frames = [
        raw_frame([entry(MIDNIGHT, 100 + n)], NOON + n * FIVE, batch=f"b{n}") for n in range(5)
    ]
    result = normalize(pl.concat(frames), "body")
    assert samples_of(result.rows) == [(MIDNIGHT, 104.0)]
    assert result.rows["revision"].to_list() == [5]
    assert result.records == 1


def test_latest_revisions_of_a_record_are_decided_day_by_day() -> None:
    both = pl.concat([raw_frame([entry(MIDNIGHT - FIVE)]), raw_frame([entry(MIDNIGHT)])])
    assert latest_revisions(both).height == 2


# --- poison

POISON: list[tuple[str, dict[str, object] | bytes, str]] = [
    ("a word for a number", entry(NOON, "LOW"), "sgv: not a number"),
    ("NaN in quotes", entry(NOON, "NaN"), "sgv: not a number"),
    ("beyond any glucose", entry(NOON, 1e9), "blood_glucose_mg_per_dl"),
    ("no value", entry(NOON, None), "no glucose value"),
    ("no time", {**entry(NOON), "date": None}, "date: missing or before 2000"),
    ("a time of 1970", entry(datetime(1970, 1, 2, tzinfo=UTC)), "before"),
    ("a time of 2099", entry(datetime(2099, 1, 2, tzinfo=UTC)), "more than a day after"),
    ("an object for a number", entry(NOON, {"value": 100}), "body: not the JSON object"),
    ("a list for a number", entry(NOON, [100]), "body: not the JSON object"),
    ("a time in words", {**entry(NOON), "date": "yesterday"}, "date: not a whole number"),
]


@pytest.mark.parametrize(
    ("document", "reason"), [(d, r) for _, d, r in POISON], ids=[n for n, *_ in POISON]
)
def test_a_poisoned_record_is_refused_with_its_reason_and_goes_alone(
    document: dict[str, object], reason: str
) -> None:
    document["identifier"] = "poison"
    good = series(MIDNIGHT, 10)
    result = normalize(
        pl.concat([raw_frame([*good, document]), raw_frame(good, user_id="u2")]), "body"
    )
    samples = {
        user: samples_of(result.rows.filter(pl.col("user_id") == user)) for user in ("u1", "u2")
    }
    assert samples["u1"] == samples["u2"]
    assert len(samples["u2"]) == 10
    (refused,) = result.rejected.to_dicts()
    assert refused["user_id"] == "u1"
    assert reason in refused["reason"]


@pytest.mark.parametrize(
    "parts",
    [
        {"direction": "🚀"},
        {"direction": "SIDEWAYS"},
        {"direction": 7},
        {"device": "pump 🧃\u0000"},
        {"identifier": "🍕" * 20},
        {"identifier": "a|b/../c"},
        {"utcOffset": 99_999},
        {"unknown": {"deep": [1, 2]}},
        {"sgv": "100"},
        {"sgv": 100.0},
    ],
    ids=str,
)
def test_what_is_only_strange_is_taken(parts: dict[str, object]) -> None:
    result = normalize(raw_frame([{**entry(NOON), **parts}]), "body")
    assert samples_of(result.rows) == [(NOON, 100.0)]
    assert result.rejected.is_empty()


def test_an_unknown_direction_is_unknown_and_kept_as_it_came() -> None:
    (row,) = normalize(raw_frame([entry(NOON, direction="🚀")]), "body").rows.to_dicts()
    (sample,) = row["glucose_blood_glucose_samples"]
    assert (sample["trend_arrow"], sample["native_trend"]) == ("unknown", "🚀")


def test_every_record_is_somewhere() -> None:
    duplicate = entry(NOON - FIVE, 90, identifier="twin-of-the-next")
    documents = [
        *series(MIDNIGHT, 10),
        entry(NOON, "LOW"),
        entry(NOON - FIVE, 91),
        duplicate,
        {**entry(NOON - 2 * FIVE), "type": "cal"},
        {**entry(NOON - 3 * FIVE), "date": None, "identifier": "no-time"},
    ]
    raw = raw_frame(documents)
    result = normalize(raw, "body")
    assert raw.height == result.records == 15
    without_table = 1
    assert (
        conserved(result, "body", "glucose_blood_glucose_samples") + without_table == result.records
    )
    assert result.merged == 1
    assert result.rejected.height == 2


ANY_SGV = st.one_of(
    st.integers(-10, 700),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["LOW", "", "120", None, True, {"a": 1}, [1], "1e999"]),
)
ANY_DATE = st.one_of(
    st.integers(0, 288).map(lambda n: int((MIDNIGHT + n * FIVE).timestamp() * 1000)),
    st.sampled_from([None, 0, -1, 1e30, "soon", 4_102_444_800_000, 10**25, True]),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(ANY_DATE, ANY_SGV, st.sampled_from(["sgv", "mbg", "cal"])), max_size=12))
def test_no_record_is_lost_whatever_it_holds(parts: list[tuple[object, object, str]]) -> None:
    documents = [
        {
            "identifier": f"r{n}",
            "date": at,
            "sgv": value,
            "mbg": value,
            "type": kind,
            "utcOffset": 0,
        }
        for n, (at, value, kind) in enumerate(parts)
    ]
    raw = raw_frame(documents)
    result = normalize(raw, "body")
    refused = set(result.rejected["record_id"].drop_nulls())
    used = {name for row in result.rows["source_record_ids"].to_list() for name in row}
    # Values out of bounds leave the sample away and say so; the rest is a sample, refused or a `cal`.
    out_of_bounds = result.rejected.filter(pl.col("record_id").is_null()).height
    tableless = {f"r{n}" for n, (*_, kind) in enumerate(parts) if kind == "cal"} - refused
    assert refused.isdisjoint(used)
    assert refused | used | tableless == {f"r{n}" for n in range(len(parts))}
    elements = len(samples_of(result.rows))
    assert elements + result.merged + out_of_bounds >= len(used)
