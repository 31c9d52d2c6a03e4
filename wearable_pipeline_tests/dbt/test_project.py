"""The dbt project: made from the declarations, green on good lakes, red on bad ones."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import yaml  # type: ignore[import-untyped]  # ships no types
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt_common.exceptions import DbtRuntimeError

from wearable_pipeline.lake.merged import write_people
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.model.render import DBT_PROJECT, MANIFEST, dbt_files, dbt_manifest
from wearable_pipeline.registry import User
from wearable_pipeline_tests.dbt.conftest import Build, RunDbt
from wearable_pipeline_tests.lake.rows import DAY, USER, Row, full_row, write_rows
from wearable_pipeline_tests.servers.fixtures import Place, make_settings

# One worker: what dbt has parsed once, and the lake it built, serve all tests.
pytestmark = pytest.mark.xdist_group("dbt")

MADE = dbt_files(tuple(TABLES.values()))
NIGHT = date(2026, 10, 25)  # clocks go back in Berlin
BERLIN = {"timezone": "Europe/Berlin", "utc_offset_seconds": 3600, "tz_source": "provider"}
SPAN = {
    "start_at": datetime(2026, 11, 20, tzinfo=UTC),
    "end_at": datetime(2026, 11, 21, tzinfo=UTC),
}


def utc(hour: int, minute: int = 0, day: date = DAY) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


def reading(moment: datetime, value: float, kind: str = "cgm") -> dict[str, Any]:
    local = moment.replace(tzinfo=None) + timedelta(hours=1)
    return {
        "timestamp": moment,
        "local_timestamp": local,
        "blood_glucose_mg_per_dl": float(value),
        "sample_kind": kind,
    }


def glucose(user_id: str, readings: list[dict[str, Any]], day: date = DAY) -> dict[str, Any]:
    row = {"user_id": user_id, "provider": "nightscout", "local_date": day}
    return row | BERLIN | SPAN | {"glucose_blood_glucose_samples": readings}


GLUCOSE: list[Row] = [
    glucose(
        "mixed",
        [
            reading(utc(10), 70),
            reading(utc(10, 15), 180),
            reading(utc(10, 30), 250),
            reading(utc(10, 40), 53),
            reading(utc(11, 30), 100),
            reading(utc(10, 35), 400, "fingerstick"),
        ],
    ),
    glucose(
        "borders",
        [
            reading(utc(10), 54),
            reading(utc(10, 15), 69.9),
            reading(utc(10, 30), 180.1),
            reading(utc(10, 45), 250.1),
        ],
    ),
    # Whatever is at its bound, undocumented or told apart by its kind alone is no fault.
    glucose(
        "odd",
        [
            reading(utc(10), 1500) | {"trend_arrow": "unknown:77"},
            reading(utc(10), 5, "fingerstick"),
            reading(utc(11), 5) | {"timestamp": None},
        ],
    ),
    # 23:55 and 00:05 in Berlin.
    glucose("midnight", [reading(utc(22, 55), 100)]),
    glucose("midnight", [reading(utc(23, 5), 300)], DAY + timedelta(days=1)),
    glucose("sticks", [reading(utc(7), 90, "fingerstick"), reading(utc(19), 200, "fingerstick")]),
    glucose("clock_change", [reading(utc(12, day=NIGHT), 120)], NIGHT),
    glucose("both_lists", [reading(utc(10), 90)])
    | {"glucose_detailed_blood_glucose_samples": [reading(utc(10), 110)]},
]


def write_lake(storage: Storage) -> None:
    for name, table in TABLES.items():
        if table.is_dated:
            write_rows(storage, name, [full_row(table)])
    write_rows(storage, "body", GLUCOSE)
    days = {"local_date": DAY, **BERLIN, **SPAN, "metadata_upload_type": "automatic"}
    write_rows(
        storage,
        "daily",
        [
            days | {"user_id": "w", "provider": "garmin", "distance_steps": 8000},
            days | {"user_id": "p", "provider": "apple_health", "distance_steps": 9000},
        ],
    )
    now = datetime(2026, 11, 21, tzinfo=UTC)
    users = [
        User(user_id, "garmin", "anna", None, None, "connected", None, {}, now, now)
        for user_id in ("w", "p")
    ]
    write_people(storage, users, lambda reference: f"hash of {len(reference)}")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake's [home]")
    write_lake(Storage.open(str(folder / "lake"), make_settings()))
    return folder / "lake"


@pytest.fixture(scope="module")
def built(run_dbt: RunDbt, lake: Path) -> Build:
    return run_dbt("build", WEARABLE_HOME=str(lake.parent))


@pytest.fixture
def glucose_days(built: Build, lake: Path) -> dict[tuple[str, date], dict[str, Any]]:
    assert built.code == 0, built.output
    frame = pl.read_parquet(lake / "marts" / "glucose_daily.parquet", glob=False)
    return {(row["user_id"], row["local_date"]): row for row in frame.to_dicts()}


def test_the_committed_project_is_what_the_declarations_say() -> None:
    for path, text in MADE.items():
        assert (DBT_PROJECT / path).read_text(encoding="utf-8") == text, (
            f"{path}: run python -m wearable_pipeline.model.render"
        )
    there = {f"models/staging/{file.name}" for file in (DBT_PROJECT / "models/staging").iterdir()}
    assert there == {path for path in MADE if path.startswith("models/staging/")}


def test_the_committed_manifest_is_what_dbt_reads() -> None:
    assert MANIFEST.read_text(encoding="utf-8") == dbt_manifest(DBT_PROJECT), (
        "run python -m wearable_pipeline.model.render"
    )


def test_there_is_a_described_view_per_table_and_per_list() -> None:
    described = {
        model["name"]: {column["name"]: column["description"] for column in model["columns"]}
        for path, text in MADE.items()
        if path.startswith("models/staging/") and path.endswith(".yml")
        for model in yaml.safe_load(text)["models"]
    }
    for table in TABLES.values():
        assert set(described[f"stg_{table.name}"]) == set(table.polars_schema())
        for column in table.lists:
            fields = described[f"stg_{table.view_name(column)}"]
            assert {field.name for field in column.fields} <= set(fields)
    assert all(text for columns in described.values() for text in columns.values())
    assert not any("&id" in text for text in MADE.values())
    sources = yaml.safe_load(MADE["models/sources.yml"])["sources"][0]["tables"]
    assert [source["name"] for source in sources] == [*TABLES, "people"]


@pytest.mark.slow
def test_a_good_lake_builds_green(built: Build, lake: Path) -> None:
    assert built.code == 0, built.output
    assert set(built.statuses.values()) == {"success", "pass"}
    lists = sum(len(table.lists) for table in TABLES.values())
    models = len(TABLES) + lists + len(["people", "daily_merged", "glucose_daily"])
    assert list(built.statuses.values()).count("success") == models
    assert {file.name for file in (lake / "marts").iterdir()} == {
        "daily_merged.parquet",
        "glucose_daily.parquet",
    }


@pytest.mark.slow
def test_glucose_is_weighted_by_time(glucose_days: dict[tuple[str, date], dict[str, Any]]) -> None:
    # Minutes: 70 stands for 15, 180 for 15, 250 for 10, 53 for 15 of the 50 to come, 100 for 15.
    day = glucose_days["mixed", DAY]

    assert day["is_cgm"]
    assert day["readings"] == 5
    assert day["mean_glucose_mg_per_dl"] == pytest.approx(653 / 5)
    assert day["glucose_management_indicator_percentage"] == pytest.approx(6.433952)
    # Squares of the distances from 130.6 add up to 27,327.2.
    deviation = (27_327.2 / 4) ** 0.5
    assert day["coefficient_of_variation_percentage"] == pytest.approx(100 * deviation / 130.6)
    assert day["time_in_range_percentage"] == pytest.approx(100 * 45 / 70)
    assert day["time_above_range_level_1_percentage"] == pytest.approx(100 * 10 / 70)
    assert day["time_above_range_level_2_percentage"] == 0
    assert day["time_below_range_level_1_percentage"] == 0
    assert day["time_below_range_level_2_percentage"] == pytest.approx(100 * 15 / 70)
    assert day["coverage_percentage"] == pytest.approx(100 * 70 / 1440)


@pytest.mark.slow
def test_thresholds_lie_where_the_consensus_puts_them(
    glucose_days: dict[tuple[str, date], dict[str, Any]],
) -> None:
    day = glucose_days["borders", DAY]

    assert day["time_in_range_percentage"] == 0
    assert day["time_below_range_level_1_percentage"] == pytest.approx(50)
    assert day["time_below_range_level_2_percentage"] == 0
    assert day["time_above_range_level_1_percentage"] == pytest.approx(25)
    assert day["time_above_range_level_2_percentage"] == pytest.approx(25)


@pytest.mark.slow
def test_a_reading_before_midnight_stands_for_time_until_midnight(
    glucose_days: dict[tuple[str, date], dict[str, Any]],
) -> None:
    before = glucose_days["midnight", DAY]
    after = glucose_days["midnight", DAY + timedelta(days=1)]

    assert before["coverage_percentage"] == pytest.approx(100 * 5 / 1440)
    assert after["coverage_percentage"] == pytest.approx(100 * 15 / 1440)
    assert after["time_above_range_level_2_percentage"] == 100
    assert before["coefficient_of_variation_percentage"] is None


@pytest.mark.slow
def test_the_day_of_25_hours_is_longer(
    glucose_days: dict[tuple[str, date], dict[str, Any]],
) -> None:
    assert glucose_days["clock_change", NIGHT]["coverage_percentage"] == pytest.approx(1.0)


@pytest.mark.slow
def test_finger_sticks_count_where_there_is_no_sensor(
    glucose_days: dict[tuple[str, date], dict[str, Any]],
) -> None:
    day = glucose_days["sticks", DAY]

    assert not day["is_cgm"]
    assert day["mean_glucose_mg_per_dl"] == 145
    assert day["time_in_range_percentage"] == 50


@pytest.mark.slow
def test_a_reading_in_both_lists_counts_once(
    glucose_days: dict[tuple[str, date], dict[str, Any]],
) -> None:
    day = glucose_days["both_lists", DAY]

    assert day["readings"] == 1
    assert day["mean_glucose_mg_per_dl"] == 110


@pytest.mark.slow
def test_merged_days_follow_the_priority_given(built: Build, run_dbt: RunDbt, lake: Path) -> None:
    file = lake / "marts" / "daily_merged.parquet"

    def steps() -> dict[str, int]:
        frame = pl.read_parquet(file, glob=False).select("person_id", "distance_steps")
        return dict(frame.rows())

    assert steps() == {"hash of 4": 8000, USER: 0}
    again = run_dbt(
        "run",
        "--target",
        "dagster",
        *("--select", "daily_merged"),
        *("--vars", "{source_priority: [apple_health, '*']}"),
        parsed="dagster",
        WEARABLE_LAKE_URL=str(lake),
    )
    assert again.code == 0, again.output
    assert steps() == {"hash of 4": 9000, USER: 0}


@pytest.mark.slow
def test_a_lake_without_rows_builds_green_and_empty(run_dbt: RunDbt, tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()

    build = run_dbt("build", "--select", "+fqn:wearable.marts", WEARABLE_HOME=str(tmp_path))

    assert build.code == 0, build.output
    for name in ("daily_merged", "glucose_daily"):
        assert pl.read_parquet(tmp_path / "lake" / "marts" / f"{name}.parquet").is_empty()


@pytest.mark.slow
def test_views_can_be_kept_in_a_file(run_dbt: RunDbt, lake: Path, tmp_path: Path) -> None:
    file = tmp_path / "marts.duckdb"

    select = ("run", "--select", "stg_body", "glucose_daily")
    settings = {"WEARABLE_LAKE_URL": str(lake), "WEARABLE_MARTS_DB": str(file)}
    for _ in range(2):
        build = run_dbt(*select, parsed="file", **settings)
        assert build.code == 0, build.output

    with duckdb.connect(str(file), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM stg_body").fetchone() == (9,)
        assert connection.execute("SELECT count(*) FROM glucose_daily").fetchone() == (9,)
        kept = connection.execute("SELECT count(*) FROM duckdb_tables()").fetchone()
    assert kept == (0,)


@pytest.mark.slow
def test_what_the_declarations_refuse_turns_the_build_red(run_dbt: RunDbt, tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path / "lake"), make_settings())
    good = full_row(TABLES["body"])
    write_rows(
        storage,
        "body",
        [
            good | {"tz_source": "guessed", "start_at": None, "local_start_at": None},
            good,
        ],
    )

    build = run_dbt("build", "--select", "stg_body", WEARABLE_HOME=str(tmp_path))

    assert build.code == 1
    failed = {name for name, status in build.statuses.items() if status == "fail"}
    assert failed == {
        "stg_body_unique_key",
        "stg_body_never_null",
        "stg_body_listed_codes",
    }


@pytest.mark.slow
def test_samples_are_tested_like_rows(run_dbt: RunDbt, tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path / "lake"), make_settings())
    wrong = [
        reading(utc(10), 3000),
        reading(utc(10), 100),
        reading(utc(11), 100) | {"trend_arrow": "sideways"},
        reading(utc(12), 100) | {"timestamp": None, "local_timestamp": None},
    ]
    write_rows(storage, "body", [glucose("u", wrong)])

    build = run_dbt(
        "build", "--select", "stg_body", "stg_body_glucose_samples", WEARABLE_HOME=str(tmp_path)
    )

    failed = {name for name, status in build.statuses.items() if status == "fail"}
    assert failed == {
        f"stg_body_glucose_samples_{test}"
        for test in ("unique_key", "never_null", "within_bounds", "listed_codes")
    }


def test_dbt_refuses_to_guess_where_the_lake_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DbtRuntimeError, match="which lake"):
        BasePlugin.create("wearable_pipeline.lake.dbt_plugin")
    monkeypatch.setenv("WEARABLE_HOME", "nowhere")
    with pytest.raises(DbtRuntimeError, match=r"there is no lake at .*nowhere/lake"):
        BasePlugin.create("wearable_pipeline.lake.dbt_plugin")


@pytest.mark.slow
def test_a_dbt_without_a_lake_says_so_in_one_line(run_dbt: RunDbt) -> None:
    build = run_dbt("build", "--select", "stg_people", is_program=True)

    assert build.code != 0
    assert "which lake? Set WEARABLE_LAKE_URL or WEARABLE_HOME" in build.output
    assert "Traceback" not in build.output


@pytest.mark.slow
def test_a_lake_in_object_storage_builds_green(run_dbt: RunDbt, moto_place: Place) -> None:
    if duckdb.__version__ != "1.5.5":
        pytest.skip("only DuckDB 1.5.5 has httpfs on PyPI")
    storage = Storage.open(moto_place.url, moto_place.settings)
    write_rows(storage, "body", GLUCOSE)
    secret = moto_place.settings.lake_secret_access_key
    assert secret is not None

    build = run_dbt(
        "build",
        *("--select", "+fqn:wearable.marts"),
        WEARABLE_LAKE_URL=moto_place.url,
        WEARABLE_LAKE_ENDPOINT=str(moto_place.settings.lake_endpoint),
        WEARABLE_LAKE_ACCESS_KEY_ID=str(moto_place.settings.lake_access_key_id),
        WEARABLE_LAKE_SECRET_ACCESS_KEY=secret.get_secret_value(),
    )

    assert build.code == 0, build.output
    assert secret.get_secret_value() not in build.output
    frame = pl.read_parquet(
        storage.uri("marts/glucose_daily.parquet"), storage_options=storage.polars_options()
    )
    assert frame.height == 8
