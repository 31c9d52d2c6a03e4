import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from wearable_pipeline.model import TABLES, Column, Table
from wearable_pipeline.model.arrow import to_arrow
from wearable_pipeline.model.columns import column_name, number, samples, text, under

FACTS = Path(__file__).parents[2].parent / "shared" / "reference" / "data_model.json"

WHOLE_LEAVES = {
    "BMR_calories",
    "net_activity_calories",
    "net_intake_calories",
    "total_burned_calories",
    "distance_meters",
    "steps",
    "floors_climbed",
    "readiness",
    "blood_glucose_mg_per_dL",
    "percentile_5",
    "percentile_25",
    "percentile_50",
    "percentile_75",
    "percentile_95",
}


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    if not FACTS.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{FACTS} is missing")
        pytest.skip("the shared reference is not beside this checkout")
    found: dict[str, Any] = json.loads(FACTS.read_text())
    return found


def _fields(table: Table) -> Iterator[tuple[Column, Column | None]]:
    def walk(columns: tuple[Column, ...], parent: Column | None) -> Iterator[Any]:
        for column in columns:
            yield column, parent
            yield from walk(column.fields, column)

    yield from walk(table.columns, None)


def test_names_follow_from_paths() -> None:
    path = "heart_rate_data.summary.avg_hr_bpm"
    assert column_name(path) == "heart_rate_summary_avg_hr_bpm"
    assert column_name("MET_data.avg_level") == "met_avg_level"
    assert "glucose_blood_glucose_samples" in TABLES["body"].polars_schema()


def test_a_group_moves_under_a_path_with_its_names() -> None:
    (column,) = under("a_data", number("B", "b", twins=("b",)))
    assert (column.name, column.path, column.twins) == ("a_b", "a_data.B", ("a_data.b",))


@pytest.mark.corpus
@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_every_path_clients_know_is_declared(table: Table, facts: dict[str, Any]) -> None:
    declared = {path for path, _ in table.paths()}
    if table.is_dated:
        assert {"metadata.start_time", "metadata.end_time"} <= declared
    groups = {
        path.rsplit(".", keep)[0] for path in declared for keep in range(1, path.count(".") + 1)
    }
    wanted = {field["path"] for field in facts["types"][table.name]["fields"]}
    assert wanted - declared - groups == set()


@pytest.mark.corpus
@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_declared_paths_fit_the_type_and_code_list_clients_know(
    table: Table, facts: dict[str, Any]
) -> None:
    declared = dict(table.paths())
    fitting: dict[str, Callable[[Column], bool]] = {
        "number": lambda c: c.dtype == pl.Float64,
        "integer": lambda c: c.dtype == pl.Int64,
        "boolean": lambda c: c.dtype == pl.Boolean,
        "string": lambda c: (
            (c.dtype == pl.String and (c.codes is None or not c.codes.is_numeric))
            or c.role == "instant"
            or c.dtype == pl.Date
        ),
        "integer-enum": lambda c: c.codes is not None and c.codes.is_numeric,
        "array<enum>": lambda c: c.dtype == pl.List(pl.String) and c.codes is not None,
        "array<object>": lambda c: bool(c.fields) and not c.is_map,
        "array<number>": lambda c: c.dtype == pl.List(pl.Float64),
        "array<None>": lambda c: c.dtype == pl.List(pl.Float64),
        "map<string,number>": lambda c: c.is_map,
        "array": lambda c: c.is_list,
        "object": lambda c: False,
    }
    for field in facts["types"][table.name]["fields"]:
        path = field["path"]
        if path not in declared:
            assert field["type"] == "object", path
            continue
        column = declared[path]
        # The client's older spelling `level` is a bare number where the schema has a code list.
        if field["type"] == "number" and path.endswith("activity_levels_samples[].level"):
            assert column.codes is not None
            continue
        assert fitting[field["type"]](column), (path, field["type"], column.dtype)
        if "enum" in field:
            assert column.codes is not None
            assert column.codes.title == field["enum"]
            wire = {entry["value"] for entry in facts["enums"][field["enum"]]}
            assert set(column.codes.names) == wire


@pytest.mark.corpus
@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_whole_numbers_are_promised_exactly_where_the_client_refuses_fractions(
    table: Table, facts: dict[str, Any]
) -> None:
    wanted = {
        field["path"]
        for field in facts["types"][table.name]["fields"]
        if field["type"] == "number" and field.get("client_type") == "Optional[int]"
    }
    assert {path for path, column in table.paths() if column.sdk_whole} == wanted


def test_twenty_two_paths_of_fourteen_names_are_whole() -> None:
    paths = [path for t in TABLES.values() for path, c in t.paths() if c.sdk_whole]
    assert len(paths) == 22
    assert {path.rpartition(".")[2] for path in paths} == WHOLE_LEAVES


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_every_column_is_described_and_every_name_is_plain(table: Table) -> None:
    for column, _ in _fields(table):
        assert column.description.endswith("."), column.name
        assert column.name == column.name.lower()
        assert column.name.replace("_", "").isalnum()


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_every_moment_has_both_halves(table: Table) -> None:
    for column, parent in _fields(table):
        if column.role == "value":
            continue
        siblings = parent.fields if parent else table.columns
        partner = next(c for c in siblings if c.name == column.partner)
        assert partner.partner == column.name
        assert {column.role, partner.role} == {"instant", "local"}


def test_long_views_have_distinct_names_over_all_tables() -> None:
    views = [t.view_name(c) for t in TABLES.values() for c in t.lists]
    assert len(set(views)) == len(views)
    assert "body_glucose_samples" in views


def test_sample_keys_name_fields_of_the_sample() -> None:
    for table in TABLES.values():
        for column in table.lists:
            assert column.sample_key
            assert set(column.sample_key) <= {field.name for field in column.fields}
    glucose = TABLES["body"].column("glucose_blood_glucose_samples")
    assert glucose.sample_key == (
        "timestamp",
        "local_timestamp",
        "sample_kind",
        "device_id",
        "occurrence",
    )


def test_glucose_samples_carry_the_providers_own_words() -> None:
    glucose = TABLES["body"].column("glucose_blood_glucose_samples")
    assert [field.name for field in glucose.fields] == [
        "timestamp",
        "local_timestamp",
        "blood_glucose_mg_per_dl",
        "glucose_level_flag",
        "trend_arrow",
        "native_value",
        "native_unit",
        "sample_kind",
        "out_of_range",
        "native_trend",
        "sensor_status",
        "device_id",
        "occurrence",
    ]


def test_days_and_sessions_have_their_natural_keys() -> None:
    assert TABLES["body"].row_key == ("user_id", "local_date")
    assert TABLES["sleep"].row_key == ("user_id", "metadata_summary_id")
    assert TABLES["athlete"].row_key == ("user_id",)
    assert not TABLES["athlete"].is_dated


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        Table("t", "t.", ("a",), (text("a", "A."), text("A", "A.")))


def test_two_views_of_one_name_are_refused() -> None:
    lists = (samples("a", "v", "A.", text("x", "X.")), samples("b", "v", "B.", text("x", "X.")))
    with pytest.raises(ValueError, match="two views"):
        Table("t", "t.", ("a",), lists)


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(KeyError, match="body has no column 'x'"):
        TABLES["body"].column("x")


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_arrow_and_polars_agree_and_parquet_keeps_the_meaning(
    table: Table, fill_row: Any, frame_of: Any, tmp_path: Path
) -> None:
    frame = frame_of(table, fill_row(table))
    path = tmp_path / "part.parquet"
    pq.write_table(to_arrow(table, frame), path)
    assert pl.read_parquet(path).equals(frame)
    assert pl.read_parquet(path).schema == table.polars_schema()
    written = pq.read_schema(path)
    assert written.equals(table.arrow_schema())
    assert written.metadata[b"table"] == table.name.encode()
    for column in table.columns:
        assert written.field(column.name).metadata[b"description"] == column.description.encode()


def test_parquet_fields_say_unit_path_and_codes_also_inside_lists() -> None:
    schema = TABLES["body"].arrow_schema()
    sample = schema.field("glucose_blood_glucose_samples").type.value_type
    value = sample.field("blood_glucose_mg_per_dl").metadata
    assert value[b"unit"] == b"mg/dL"
    assert value[b"path"] == b"glucose_data.blood_glucose_samples[].blood_glucose_mg_per_dL"
    assert json.loads(sample.field("glucose_level_flag").metadata[b"enum"])["1"] == "high"
    assert b"path" not in sample.field("native_value").metadata


def test_conform_orders_columns_adds_nulls_and_matches_struct_fields_by_name() -> None:
    table = TABLES["body"]
    frame = pl.DataFrame(
        {
            "revision": [1],
            "user_id": ["u"],
            "glucose_blood_glucose_samples": [[{"device_id": "d", "blood_glucose_mg_per_dl": 90}]],
        }
    )
    fitted = table.conform(frame)
    assert fitted.schema == table.polars_schema()
    (sample,) = fitted["glucose_blood_glucose_samples"].to_list()[0]
    assert sample["blood_glucose_mg_per_dl"] == 90.0
    assert sample["device_id"] == "d"
    assert sample["timestamp"] is None
    assert fitted["revision"].to_list() == [1]


def test_conform_refuses_values_that_do_not_fit() -> None:
    with pytest.raises(pl.exceptions.InvalidOperationError):
        TABLES["body"].conform(pl.DataFrame({"glucose_gmi": ["much"]}))


def test_content_columns_leave_provenance_out() -> None:
    content = TABLES["body"].content_columns
    assert "start_at" in content
    assert not {"revision", "updated_at", "first_seen_at", "batch_ids", "code_version"} & set(
        content
    )


def test_the_row_key_as_text_is_the_key_within_the_user() -> None:
    frame = (
        TABLES["body"]
        .conform(pl.DataFrame({"user_id": ["u"]}))
        .with_columns(pl.lit("2026-11-20").str.to_date().alias("local_date"))
    )
    assert frame.select(TABLES["body"].row_key_expression()).item() == "2026-11-20"
