import json
import os
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from wearable_pipeline.errors import BadPayloadError
from wearable_pipeline.model import TABLES, Column, Table
from wearable_pipeline.model.payload import (
    Compat,
    _bytes_of,
    from_payload,
    to_json,
    to_payload,
    unknown_keys,
)

COMPATS: tuple[Compat, ...] = ("openapi", "sdk")
BODY = TABLES["body"]
TS = datetime(2026, 11, 20, 6, tzinfo=UTC)
LOCAL = datetime(2026, 11, 20, 7)  # noqa: DTZ001 local time on purpose

# A factor; `make faults` takes 10.
EXAMPLES = int(os.environ.get("WEARABLE_TEST_EXAMPLES", "1"))

tables = pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
compats = pytest.mark.parametrize("compat", COMPATS)


# Values of every kind, made from the declaration. Hypothesis chooses the seed: drawing each of the
# thousands of cells of a row by itself takes it minutes.

TEXTS = (
    "",
    "x",
    "é",
    "猫 said",
    "\N{GRINNING FACE}",
    '"quoted"',
    "back\\slash",
    "new\nline",
    "null",
    "7",
)
FLOATS = (0.0, -0.0, 0.1, 1 / 3, 1e-300, 1.7976931348623157e308, 95.48268, 100.5, -0.5, 2.0**53)


def _stamp(random: Random) -> datetime:
    return datetime(2000, 1, 1) + timedelta(  # noqa: DTZ001 local time on purpose
        microseconds=random.randrange(35 * 365 * 86_400_000_000)
    )


def _moment(random: Random) -> tuple[datetime | None, datetime | None]:
    local = _stamp(random)
    offset = timedelta(minutes=random.choice((0, 60, 330, 345, -210, -1080, 1080, 1)))
    instant = (local - offset).replace(tzinfo=UTC)
    return random.choice(((instant, local), (instant, None), (None, local)))


def _number(random: Random) -> float:
    return random.choice((*FLOATS, random.uniform(-1e6, 1e6), float(random.randrange(10**6))))


def _value(column: Column, random: Random) -> Any:
    if column.codes is not None:
        novel = (
            f"unknown:{random.randrange(1000, 10**6)}" if column.codes.is_numeric else "unknown:N w"
        )
        names = [*column.codes.names.values(), novel]
        chosen = random.choices(names, k=2)
        return chosen if column.is_list else chosen[0]
    if column.is_list:
        if column.dtype == pl.List(pl.Float64):
            return [_number(random), _number(random)]
        return random.choices(TEXTS, k=2)
    if column.dtype == pl.Float64:
        return _number(random)
    if column.dtype == pl.Int32:
        return random.randrange(-(2**31), 2**31)
    if column.dtype == pl.Int64:
        return random.randrange(-(2**53), 2**53)
    if column.dtype == pl.Boolean:
        return random.random() < 0.5
    if column.dtype == pl.Date:
        return _stamp(random).date()
    if isinstance(column.dtype, pl.Datetime):
        return _stamp(random).replace(tzinfo=UTC)
    return random.choice(TEXTS[1:] if column.demanded == "" else TEXTS)


def _record(columns: Sequence[Column], share: float, random: Random) -> dict[str, Any]:
    """A row or sample in which about `share` of the columns have values."""
    record: dict[str, Any] = {}
    for column in columns:
        is_set = random.random() < share or column.required
        if column.role == "local":
            continue
        if column.role == "instant":
            halves = _moment(random) if is_set else (None, None)
            record[column.name], record[str(column.partner)] = halves
        elif not is_set:
            record[column.name] = None
        elif column.is_map:
            record[column.name] = [
                {"contributor_name": name, "contributor_score": random.choice((None, 61.5))}
                for name in random.sample(TEXTS, 3)
            ]
        elif column.fields:
            record[column.name] = [
                _record(column.fields, share, random) for _ in range(random.randrange(1, 3))
            ]
        else:
            record[column.name] = _value(column, random)
    return record


def _frame(table: Table, *rows: dict[str, Any]) -> pl.DataFrame:
    schema = table.polars_schema()
    return pl.DataFrame([{n: row.get(n) for n in schema} for row in rows], schema=schema)


@pytest.mark.parametrize("name", TABLES)
@compats
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0], ids=["empty", "sparse", "full"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=2 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_rows_survive_the_way_through_json(
    name: str, compat: Compat, share: float, seed: int
) -> None:
    table, random = TABLES[name], Random(seed)
    frame = _frame(table, *(_record(table.columns, share, random) for _ in range(6)))
    payloads = to_payload(table, frame, compat)
    objects = json.loads(json.dumps(payloads, allow_nan=False))
    assert_frame_equal(from_payload(table, objects), frame, check_exact=True)
    assert [json.loads(bytes(text)) for text in to_json(table, frame, compat)] == objects


@tables
@compats
def test_json_survives_the_way_through_rows(
    table: Table, compat: Compat, fill_row: Any, frame_of: Any
) -> None:
    objects = to_payload(table, frame_of(table, fill_row(table), {"user_id": "u"}), compat)
    assert to_payload(table, from_payload(table, objects), compat) == objects


@tables
@compats
def test_every_path_is_present_even_when_the_row_is_empty(
    table: Table, compat: Compat, frame_of: Any
) -> None:
    (record,) = to_payload(table, frame_of(table, {}), compat)
    for path, _ in table.paths():
        if "[]" in path:
            continue
        node: Any = record
        for segment in path.split("."):
            assert segment in node, path
            node = node[segment]
        assert node is None or node == [], path


@tables
@compats
def test_the_text_is_byte_for_byte_what_encoding_the_objects_gives(
    table: Table, compat: Compat, fill_row: Any, frame_of: Any
) -> None:
    row = fill_row(table)
    some = {name: value for number, (name, value) in enumerate(row.items()) if number % 3}
    frame = frame_of(table, {}, row, some, {}, row)
    for part in (frame, frame[:1], frame[1:2], frame[2:4], frame[::2]):
        expected = [msgspec.json.encode(record) for record in to_payload(table, part, compat)]
        assert [bytes(text) for text in to_json(table, part, compat)] == expected


def test_texts_are_found_where_they_lie_however_long_they_are() -> None:
    texts = ["", "é" * 6, "x" * 13, "y" * 100_000, "z"]
    for part in (slice(0, 5), slice(1, 3), slice(2, 5), slice(0, 0)):
        found = _bytes_of(pl.Series(texts, dtype=pl.String)[part])
        assert [bytes(text).decode() for text in found] == texts[part]


def test_the_text_has_null_where_json_has_no_number() -> None:
    frame = _frame(
        BODY,
        {"glucose_gmi": float("nan"), "device_name": 'a"b\\c\n\x01'},
        {"glucose_gmi": float("-inf"), "device_name": "plain"},
        {"glucose_gmi": 6.5},
    )
    first, second, third = [json.loads(bytes(text)) for text in to_json(BODY, frame)]
    assert [one["glucose_data"]["gmi"] for one in (first, second, third)] == [None, None, 6.5]
    names = [one["device_data"]["name"] for one in (first, second, third)]
    assert names == ['a"b\\c\n\x01', "plain", None]


@tables
def test_no_rows_make_no_objects_and_no_objects_make_no_rows(table: Table) -> None:
    assert to_payload(table, table.empty()) == []
    assert to_json(table, table.empty()) == []
    assert from_payload(table, []).equals(table.empty())
    assert from_payload(table, []).schema == table.polars_schema()


def test_a_glucose_day_reads_as_clients_expect() -> None:
    row = {
        "user_id": "u",
        "provider": "freestyle_libre",
        "local_date": date(2026, 11, 20),
        "start_at": TS,
        "local_start_at": LOCAL,
        "local_end_at": LOCAL,
        "metadata_timestamp_localization": "local",
        "glucose_blood_glucose_samples": [
            {
                "timestamp": TS,
                "local_timestamp": LOCAL,
                "blood_glucose_mg_per_dl": 5.3 * 18.0156,
                "glucose_level_flag": "normal",
                "trend_arrow": "rising_quickly",
                "native_value": 5.3,
                "native_unit": "mmol/L",
                "sample_kind": "cgm",
            },
            {"timestamp": TS, "blood_glucose_mg_per_dl": 100.5, "trend_arrow": "unknown:42"},
            {"local_timestamp": LOCAL, "blood_glucose_mg_per_dl": 100.0},
        ],
        "glucose_day_avg_blood_glucose_mg_per_dl": 98.4,
        "device_data_provided": ["HEART_RATE".lower(), "unknown:TEMPERATURE"],
    }
    (record,) = to_payload(BODY, _frame(BODY, row))
    first, second, third = record["glucose_data"]["blood_glucose_samples"]
    assert first["timestamp"] == "2026-11-20T07:00:00.000000+01:00"
    assert first["blood_glucose_mg_per_dL"] == 95
    assert isinstance(first["blood_glucose_mg_per_dL"], int)
    assert first["blood_glucose_mg_per_dL_exact"] == 5.3 * 18.0156
    assert first["native_value"] == 5.3
    assert first["native_unit"] == "mmol/L"
    assert (first["glucose_level_flag"], first["trend_arrow"]) == (0, 5)
    assert second["timestamp"] == "2026-11-20T06:00:00.000000Z"
    assert second["blood_glucose_mg_per_dL"] == 101
    assert second["trend_arrow"] == 42
    assert third["timestamp"] == "2026-11-20T07:00:00.000000"
    assert record["glucose_data"]["day_avg_blood_glucose_mg_per_dL"] == 98.4
    assert record["glucose_data"]["day_avg_blood_glucose_mg_per_dl"] == 98.4
    assert record["metadata"] == {
        "start_time": "2026-11-20T07:00:00.000000+01:00",
        "end_time": "2026-11-20T07:00:00.000000",
        "timestamp_localization": 1,
    }
    assert record["device_data"]["data_provided"] == ["HEART_RATE", "TEMPERATURE"]
    assert record["local_date"] == "2026-11-20"
    assert record["provider"] == "freestyle_libre"
    assert record["heart_data"]["ecg_signal"] == []


def test_a_foreign_object_without_our_keys_is_read() -> None:
    frame = from_payload(
        BODY,
        [
            {
                "metadata": {
                    "start_time": "2026-11-20T00:00:00+00:00",
                    "end_time": None,
                },
                "glucose_data": {
                    "day_avg_blood_glucose_mg_per_dl": 101.0,
                    "blood_glucose_samples": [{"blood_glucose_mg_per_dL": 90, "trend_arrow": 4.0}],
                },
                "heart_data": None,
            }
        ],
    )
    row = frame.row(0, named=True)
    assert row["start_at"] == datetime(2026, 11, 20, tzinfo=UTC)
    assert row["local_start_at"] == datetime(2026, 11, 20)  # noqa: DTZ001
    assert row["glucose_day_avg_blood_glucose_mg_per_dl"] == 101.0
    assert row["glucose_blood_glucose_samples"][0]["blood_glucose_mg_per_dl"] == 90.0
    assert row["glucose_blood_glucose_samples"][0]["trend_arrow"] == "rising"
    assert row["user_id"] is None


def test_the_path_itself_wins_over_its_older_spelling() -> None:
    (record,) = to_payload(
        TABLES["sleep"],
        from_payload(TABLES["sleep"], [{"scores": {"sleep": 80, "sleep_score": 70}}]),
    )
    assert record["scores"] == {"sleep": 80.0, "sleep_score": 80.0}


def test_the_sdk_side_has_text_and_lists_where_the_client_demands_them() -> None:
    body = _frame(
        BODY,
        {"measurements_measurements": [{"measurement_time": TS, "estimated_fitness_age": 31}]},
    )
    nutrition = _frame(
        TABLES["nutrition"], {"drink_samples": [{"timestamp": TS, "drink_unit": "milliliter"}]}
    )
    cycle = _frame(
        TABLES["menstruation"],
        {"menstruation_cycle_length_days": 28, "menstruation_is_predicted_cycle": True},
    )
    daily = _frame(
        TABLES["daily"],
        {
            "data_enrichment_stress_contributors": [
                {"contributor_name": "hrv", "contributor_score": 61.5}
            ]
        },
    )

    def shown(compat: Compat) -> tuple[Any, ...]:
        (b,) = to_payload(BODY, body, compat)
        (n,) = to_payload(TABLES["nutrition"], nutrition, compat)
        (m,) = to_payload(TABLES["menstruation"], cycle, compat)
        (d,) = to_payload(TABLES["daily"], daily, compat)
        return (
            b["measurements_data"]["measurements"][0]["estimated_fitness_age"],
            n["drink_samples"][0]["drink_unit"],
            m["menstruation_data"]["cycle_length_days"],
            m["menstruation_data"]["is_predicted_cycle"],
            d["data_enrichment"]["stress_contributors"],
        )

    assert shown("openapi") == (31, 8, 28, True, {"hrv": 61.5})
    contributor = {"contributor_name": "hrv", "contributor_score": 61.5}
    assert shown("sdk") == ("31", "8", "28", "true", [contributor])


def test_a_meal_without_name_or_amount_has_the_values_clients_demand_and_stays_without() -> None:
    table = TABLES["nutrition"]
    meal = {"id": "m1", "timestamp": TS, "type": "unknown", "quantity_unit": "unknown"}
    frame = _frame(table, {"meals": [meal]})
    (record,) = to_payload(table, frame)
    (shown,) = record["meals"]
    assert shown["name"] == ""
    assert shown["quantity"] == {"unit": 0, "amount": 0, "amount_is_missing": True}
    assert from_payload(table, [record]).equals(frame)


def test_positions_stay_positions() -> None:
    table = TABLES["activity"]
    frame = _frame(
        table,
        {
            "position_start_pos_lat_lng_deg": [48.25, 11.5],
            "position_position_samples": [
                {
                    "timestamp": TS,
                    "coords_lat_lng_deg": [48.25, 11.5],
                    "timer_duration_seconds": 1.5,
                }
            ],
        },
    )
    (record,) = to_payload(table, frame)
    assert record["position_data"]["start_pos_lat_lng_deg"] == [48.25, 11.5]
    assert record["position_data"]["position_samples"][0]["coords_lat_lng_deg"] == [48.25, 11.5]
    assert record["position_data"]["end_pos_lat_lng_deg"] == []


@pytest.mark.parametrize(
    ("record", "where"),
    [
        ({"metadata": {"start_time": 5}}, "metadata.start_time"),
        ({"metadata": {"start_time": "yesterday"}}, "metadata.start_time"),
        ({"metadata": []}, "metadata"),
        ({"local_date": "20.11.2026"}, "local_date"),
        ({"local_date": "2026-02-30"}, "local_date"),
        ({"glucose_data": {"gmi": "7"}}, "glucose_data.gmi"),
        ({"glucose_data": {"sensor_usage": 1.5}}, "glucose_data.sensor_usage"),
        (
            {"glucose_data": {"blood_glucose_samples": [{"timestamp": "2026-13-01T00:00:00"}]}},
            "glucose_data.blood_glucose_samples[].timestamp",
        ),
        (
            {"glucose_data": {"blood_glucose_samples": [{}, {"trend_arrow": "up"}]}},
            "glucose_data.blood_glucose_samples[1].trend_arrow",
        ),
        (
            {"measurements_data": {"measurements": [{"estimated_fitness_age": "old"}]}},
            "measurements_data.measurements[]",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_path(record: Any, where: str) -> None:
    with pytest.raises(BadPayloadError) as caught:
        from_payload(BODY, [record])
    assert where in str(caught.value).replace("[...]", "[]")


def test_what_is_refused_is_not_repeated_in_the_message() -> None:
    with pytest.raises(BadPayloadError) as caught:
        from_payload(BODY, [{"metadata": {"start_time": "Anna, 5.3 mmol/L"}}])
    assert "Anna" not in str(caught.value)


def test_unknown_keys_are_reported_by_path_and_ignored() -> None:
    record = {
        "new_data": {"a": 1},
        "glucose_data": {"blood_glucose_samples": [{"confidence": 1}, {"confidence": 2}]},
        "metadata": {"start_time": "2026-11-20T00:00:00Z"},
    }
    assert unknown_keys(BODY, [record]) == [
        "glucose_data.blood_glucose_samples[].confidence",
        "new_data",
    ]
    assert from_payload(BODY, [record])["start_at"].to_list() == [
        datetime(2026, 11, 20, tzinfo=UTC)
    ]


def test_names_of_contributors_are_data_not_unknown_keys() -> None:
    daily = TABLES["daily"]
    record = {"data_enrichment": {"stress_contributors": {"anything": 1.0}}}
    assert unknown_keys(daily, [record]) == []
    assert from_payload(daily, [record])["data_enrichment_stress_contributors"].to_list() == [
        [{"contributor_name": "anything", "contributor_score": 1.0}]
    ]
