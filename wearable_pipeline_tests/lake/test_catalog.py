"""The catalog over lakes with and without rows."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from wearable_pipeline.errors import StorageError, UsageError
from wearable_pipeline.lake import catalog
from wearable_pipeline.lake.catalog import (
    connect,
    create_statements,
    list_keys,
    run_query,
    script,
    view_names,
)
from wearable_pipeline.lake.merged import write_people
from wearable_pipeline.lake.storage import Entry, Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline_tests.lake.rows import DAY, NOON, USER, full_row, write_rows
from wearable_pipeline_tests.servers.fixtures import Place, make_settings

DATED = [name for name, table in TABLES.items() if table.is_dated]


@pytest.fixture
def storage(local_place: Place) -> Storage:
    return Storage.open(local_place.url, local_place.settings)


@pytest.fixture
def filled(storage: Storage) -> Storage:
    for name in DATED:
        write_rows(storage, name, [full_row(TABLES[name])])
    return storage


def columns_of(connection: duckdb.DuckDBPyConnection, view: str) -> list[tuple[str, str]]:
    return [row[:2] for row in connection.execute(f'DESCRIBE "{view}"').fetchall()]


def test_every_view_of_an_empty_lake_is_empty(storage: Storage) -> None:
    connection = connect(storage)

    assert len(view_names()) == len(set(view_names()))
    for name in view_names():
        assert connection.execute(f'SELECT count(*) FROM "{name}"').fetchone() == (0,)


def test_every_view_of_a_filled_lake_has_rows(filled: Storage) -> None:
    connection = connect(filled)

    for name in DATED:
        assert connection.execute(f'SELECT count(*) FROM "{name}"').fetchone() == (1,), name
        for column in TABLES[name].lists:
            view = TABLES[name].view_name(column)
            assert connection.execute(f'SELECT count(*) FROM "{view}"').fetchone() == (2,), view
    assert connection.execute("SELECT count(*) FROM daily_merged").fetchone() == (1,)


def test_views_have_the_same_columns_with_and_without_files(
    filled: Storage, tmp_path: Path
) -> None:
    empty = connect(Storage.open(str(tmp_path / "other"), make_settings()))
    full = connect(filled)

    for name in view_names():
        assert columns_of(empty, name) == columns_of(full, name), name
    for name, table in TABLES.items():
        assert [column for column, _ in columns_of(full, name)] == list(table.polars_schema())


def test_a_long_view_names_the_row_each_sample_stands_in(filled: Storage) -> None:
    connection = connect(filled)

    assert list_keys(TABLES["body"]) == ["user_id", "provider", "local_date"]
    for name in ("activity", "sleep"):
        assert list_keys(TABLES[name])[-1] == "metadata_summary_id"
    for table in TABLES.values():
        for column in table.lists:
            names = [name for name, _ in columns_of(connection, table.view_name(column))]
            assert len(names) == len(set(names))
            assert names[: len(list_keys(table))] == list_keys(table)


def test_value_is_the_one_measured_field(filled: Storage) -> None:
    names, rows = run_query(
        filled,
        "SELECT timestamp, value, blood_glucose_mg_per_dl, native_value"
        " FROM body_glucose_samples ORDER BY timestamp",
    )

    assert names[1] == "value"
    # The lowest glucose that is not refused is 5 mg/dL; the next one in the row is 6.
    assert [row[1:3] for row in rows] == [(5.0, 5.0), (6.0, 6.0)]
    assert [row[0] for row in rows] == [NOON, NOON + timedelta(minutes=1)]
    assert "value" in run_query(filled, "SELECT * FROM daily_heart_rate_samples")[0]
    assert "value" not in run_query(filled, "SELECT * FROM body_measurements")[0]


def test_a_condition_on_the_day_opens_only_that_days_file(storage: Storage) -> None:
    row = full_row(TABLES["body"])
    days = [DAY - timedelta(days=back) for back in range(5)]
    write_rows(storage, "body", [row | {"local_date": day} for day in days])

    (plan,) = (
        plan
        for _, plan in run_query(
            storage, f"EXPLAIN ANALYZE SELECT count(revision) FROM body WHERE local_date = '{DAY}'"
        )[1]
    )

    assert "Scanning Files: 1/5" in str(plan)


def test_other_objects_of_the_lake_are_not_rows(filled: Storage) -> None:
    filled.put("_lake.json", b"{}")
    filled.put("raw/nightscout/date=2026-11-20/user=s00/a.parquet", b"not a table")
    filled.put("quarantine/body/date=2026-11-20/user=s00/part.parquet", b"not a table")
    filled.put("marts/glucose_daily.parquet", b"not a table")

    assert run_query(filled, "SELECT count(*) FROM body")[1] == [(1,)]


@pytest.mark.parametrize(
    "name", ["with space", "it's", 'say "lake"', "a[1]b", "what?*", "käse 猫", "semi;colon--"]
)
def test_odd_lake_paths_are_quoted(tmp_path: Path, name: str) -> None:
    storage = Storage.open(str(tmp_path / name / "lake"), make_settings())
    write_rows(storage, "body", [full_row(TABLES["body"])])
    write_people(storage, [], str)

    assert run_query(storage, "SELECT count(*) FROM body_glucose_samples")[1] == [(2,)]
    assert run_query(storage, "SELECT count(*) FROM people")[1] == [(0,)]


def test_a_neighbour_that_fits_the_pattern_is_not_read(tmp_path: Path) -> None:
    mine = Storage.open(str(tmp_path / "lake?"), make_settings())
    other = Storage.open(str(tmp_path / "lakeX"), make_settings())
    write_rows(mine, "body", [full_row(TABLES["body"])])
    write_rows(other, "body", [full_row(TABLES["body"]) | {"user_id": "other"}])

    assert run_query(mine, "SELECT user_id FROM body")[1] == [(USER,)]


def test_the_script_runs_in_any_duckdb(filled: Storage) -> None:
    with duckdb.connect() as connection:
        connection.execute(script(filled))
        connection.execute(script(filled))

        assert connection.execute("SELECT count(*) FROM sleep").fetchone() == (1,)
        assert {row[0] for row in connection.execute("SHOW TABLES").fetchall()} == set(view_names())


def test_the_script_runs_where_this_package_is_not(filled: Storage, tmp_path: Path) -> None:
    file = tmp_path / "catalog.sql"
    file.write_text(script(filled), encoding="utf-8")
    program = (
        "import duckdb, pathlib, sys; c = duckdb.connect();"
        " c.execute(pathlib.Path(sys.argv[1]).read_text());"
        " print(c.execute('select count(*) from body_glucose_samples').fetchone()[0])"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(file)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )

    assert done.stdout.strip() == "2"


def test_a_priority_set_in_the_session_counts(storage: Storage) -> None:
    row = {"local_date": DAY, "start_at": NOON, "end_at": NOON + timedelta(hours=1)}
    write_rows(
        storage,
        "daily",
        [
            row | {"user_id": "u1", "provider": "garmin", "distance_steps": 1000},
            row | {"user_id": "u2", "provider": "apple_health", "distance_steps": 800},
        ],
    )
    users = "SELECT 'u1' AS user_id, 'p' AS person_id UNION ALL SELECT 'u2', 'p'"
    question = "SELECT distance_steps FROM daily_merged"

    with duckdb.connect() as connection:
        connection.execute(script(storage))
        connection.execute(f"CREATE OR REPLACE VIEW people AS {users}")
        assert connection.execute(question).fetchall() == [(1000,)]
        connection.execute("SET VARIABLE source_priority = ['apple_health', '*']")
        assert connection.execute(question).fetchall() == [(800,)]
    # Nobody has said in this lake that the two users are one person.
    _, rows = run_query(storage, f"{question} ORDER BY 1", source_priority=["apple_health"])
    assert rows == [(800,), (1000,)]


def test_a_query_makes_only_the_views_it_names(
    filled: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    look = catalog._has_files

    def note(storage: Storage, name: str) -> bool:
        asked.append(name)
        return look(storage, name)

    monkeypatch.setattr(catalog, "_has_files", note)

    run_query(filled, "SELECT count(*) FROM Body_Glucose_Samples")
    assert asked == ["body"]
    run_query(filled, "WITH sleep AS (SELECT 1 AS x) SELECT x FROM sleep")
    assert asked == ["body"]
    run_query(filled, "SELECT count(*) FROM daily_merged")
    assert asked == ["body", "daily"]
    assert len(run_query(filled, "SHOW TABLES")[1]) == len(view_names())


def test_to_see_whether_a_table_is_empty_its_files_are_not_listed(
    filled: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Storage, prefix: str = "") -> Iterator[Entry]:
        raise AssertionError(f"listed {prefix}")

    monkeypatch.setattr(type(filled), "list", refuse)

    assert len(create_statements(filled)) == len(view_names())


def test_a_wrong_query_is_the_users_error(storage: Storage) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        run_query(storage, "SELEKT 1")
    with pytest.raises(UsageError, match="nothing does not exist"):
        run_query(storage, "SELECT * FROM nothing")
    with pytest.raises(UsageError, match="body_glucose_samples"):
        run_query(storage, "SELECT nothing FROM body")


def test_a_broken_file_is_the_lakes_error(filled: Storage) -> None:
    filled.put(f"body/date={date.min.isoformat()}/user=s00/part.parquet", b"no parquet at all")

    with pytest.raises(StorageError, match="cannot read the lake"):
        connect(filled, ["body"])


def test_an_object_store_answers_like_a_folder(
    moto_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    if duckdb.__version__ != "1.5.5":
        pytest.skip("only DuckDB 1.5.5 has httpfs on PyPI")
    storage = Storage.open(moto_place.url, moto_place.settings)
    assert run_query(storage, "SELECT count(*) FROM body")[1] == [(0,)]
    write_rows(storage, "body", [full_row(TABLES["body"])])
    write_rows(storage, "daily", [full_row(TABLES["daily"])])
    write_people(storage, [], str)

    assert run_query(storage, "SELECT count(*), max(value) FROM body_glucose_samples")[1] == [
        (2, 6.0)
    ]
    assert run_query(storage, "SELECT person_id FROM daily_merged")[1] == [(USER,)]
    assert run_query(storage, "SELECT count(*) FROM sleep")[1] == [(0,)]
    text = script(storage)
    assert "CREATE SECRET" in text
    secret = moto_place.settings.lake_secret_access_key
    assert secret is not None
    assert secret.get_secret_value() not in text
    with connect(storage, ["body"]) as connection:
        connection.execute(text)
        assert connection.execute("SELECT count(*) FROM body").fetchone() == (1,)
