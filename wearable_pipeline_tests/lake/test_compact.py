"""The second tree: what it holds, when it is believed, and what readers see while it is made."""

import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import polars as pl
import pyarrow.parquet as pq
import pytest

from wearable_pipeline.errors import StorageError
from wearable_pipeline.lake import compact as compact_module
from wearable_pipeline.lake.catalog import connect, create_statements, run_query, script
from wearable_pipeline.lake.compact import compact, compact_table, is_closed
from wearable_pipeline.lake.coverage import (
    bucket_of,
    compact_path,
    find_covered,
    list_parts,
    parse_stamp,
)
from wearable_pipeline.lake.layout import MANIFEST, Manifest, table_path
from wearable_pipeline.lake.retention import drop_compact
from wearable_pipeline.lake.storage import ConflictError, LocalStorage, Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.model.arrow import to_arrow
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.lake.compacting import (
    DAYS,
    HUGE,
    MANY,
    READINGS,
    TODAY,
    USERS,
    body_row,
    compact_once,
    days_of,
    fill,
    run,
    work_until_stopped,
)
from wearable_pipeline_tests.lake.rows import frame_of, full_row, write_rows
from wearable_pipeline_tests.servers.fixtures import Place
from wearable_pipeline_tests.servers.forked import fork

SAMPLES = "body_glucose_samples"
FEWEST_READS = 4
REFUSALS_IN_A_ROW = 20
REFUSALS = (duckdb.Error, StorageError, UnicodeDecodeError)
KILLS = int(os.environ.get("WEARABLE_TEST_KILLS", "5")) // 2
SECONDS = float(os.environ.get("WEARABLE_TEST_READING_SECONDS", "2"))


@pytest.fixture
def storage(local_place: Place) -> Storage:
    return Storage.open(local_place.url, local_place.settings)


def answers_of(
    storage: Storage, views: Sequence[str], *, use_compact: bool = True
) -> dict[str, list[tuple[Any, ...]]]:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        storage.prepare_duckdb(connection)
        for statement in create_statements(storage, views, use_compact=use_compact):
            connection.execute(statement)
        return {
            view: connection.execute(f"SELECT * FROM {view} ORDER BY ALL").fetchall()
            for view in views
        }


def answers(storage: Storage, view: str, *, use_compact: bool = True) -> list[tuple[Any, ...]]:
    return answers_of(storage, [view], use_compact=use_compact)[view]


def months_in_use(storage: Storage) -> list[str]:
    return [month.month for month in find_covered(storage, TABLES["body"])]


def values_by_day(storage: Storage) -> dict[tuple[str, date], tuple[int, float, float]]:
    _, rows = run_query(
        storage,
        f"SELECT user_id, local_date, count(*), min(value), max(value) FROM {SAMPLES} GROUP BY ALL",
    )
    return {(row[0], row[1]): row[2:] for row in rows}  # type: ignore[misc]


@pytest.mark.parametrize("name", [name for name, table in TABLES.items() if table.is_dated])
def test_every_view_answers_from_compact_files_as_from_base_files(
    storage: Storage, name: str
) -> None:
    table = TABLES[name]
    views = [name, *(table.view_name(column) for column in table.lists)]
    row = full_row(table)
    write_rows(
        storage,
        name,
        [
            {**row, "user_id": user, "local_date": day, "metadata_summary_id": f"{user} {day}"}
            for user in ("ann", "bob")
            for day in (date(2026, 9, 30), date(2026, 10, 1), date(2026, 11, 20))
        ],
    )
    done = compact_table(storage, name, TODAY, after_days=3, file_bytes=HUGE)

    assert (done.months, done.open_months, done.rows) == (2, 1, 4)
    fast_answers = answers_of(storage, views)
    assert [len(found) for found in fast_answers.values()] == [6, *[12] * len(table.lists)]
    assert fast_answers == answers_of(storage, views, use_compact=False)
    with connect(storage, views) as fast, connect(LocalStorage(Path("/nowhere")), views) as empty:
        for view in views:
            described = fast.execute(f"DESCRIBE {view}").fetchall()
            assert described == empty.execute(f"DESCRIBE {view}").fetchall(), view


def test_a_month_is_closed_some_days_after_its_end() -> None:
    assert not is_closed("2026-10", date(2026, 11, 3), 3)
    assert is_closed("2026-10", date(2026, 11, 4), 3)
    assert is_closed("2026-12", date(2027, 1, 1), 0)
    assert not is_closed("2026-12", date(2026, 12, 31), 0)


def test_open_months_stay_in_base_files_only(storage: Storage) -> None:
    fill(storage)
    assert run(storage, today=date(2026, 10, 5)).months == 1

    assert months_in_use(storage) == ["2026-09"]
    assert list(list_parts(storage, "body")) == ["2026-09"]
    assert len(values_by_day(storage)) == len(USERS) * DAYS
    # A day that comes later is in the open month, and so in the same view.
    with connect(storage, [SAMPLES]) as before:
        write_rows(storage, "body", [body_row("ann", date(2026, 10, 9), 90)])
        (count,) = before.execute(f"SELECT count(*) FROM {SAMPLES}").fetchall()
    assert count == ((len(USERS) * DAYS + 1) * READINGS,)


def test_a_bare_glob_of_either_tree_sees_each_reading_once(storage: Storage) -> None:
    fill(storage)
    run(storage)
    every = len(USERS) * DAYS * READINGS

    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT count(*), count(DISTINCT (user_id, local_date)),"
            " sum(len(glucose_blood_glucose_samples))"
            f" FROM read_parquet('{storage.url}/compact/body/**/*.parquet')"
        ).fetchone()
        long = connection.execute(
            "SELECT count(*), count(DISTINCT (user_id, timestamp))"
            f" FROM read_parquet('{storage.url}/compact/{SAMPLES}/**/*.parquet')"
        ).fetchone()
        base = connection.execute(
            f"SELECT count(*) FROM read_parquet('{storage.url}/body/**/*.parquet')"
        ).fetchone()
    assert rows == (len(USERS) * DAYS, len(USERS) * DAYS, every)
    assert long == (every, every)
    assert base == (len(USERS) * DAYS,)


def test_long_files_are_sorted_by_user_and_time_also_where_somebody_travels(
    storage: Storage,
) -> None:
    # Flying west, the 2nd of October begins before the 1st has ended.
    west = body_row("ann", date(2026, 10, 2), 80)
    for sample in west["glucose_blood_glucose_samples"]:
        sample["timestamp"] -= timedelta(hours=24, minutes=-2)
    write_rows(storage, "body", [west, body_row("ann", date(2026, 10, 1), 70)])
    write_rows(storage, "body", [body_row("aaa", date(2026, 10, 3), 60)])
    run(storage)

    frame = pl.read_parquet(storage.uri(compact_path(SAMPLES, "2026-10", 0)))
    assert frame.select("user_id", "timestamp").equals(
        frame.select("user_id", "timestamp").sort("user_id", "timestamp")
    )
    assert frame.height == 3 * READINGS
    assert frame.filter(user_id="ann")["local_date"].to_list()[:4] == [
        date(2026, 10, 1),
        date(2026, 10, 2),
        date(2026, 10, 1),
        date(2026, 10, 2),
    ]


def test_rows_whose_samples_have_only_local_times_come_along(storage: Storage) -> None:
    row = body_row("ann", date(2026, 10, 2), 80)
    for sample in row["glucose_blood_glucose_samples"]:
        sample["local_timestamp"] = sample.pop("timestamp").replace(tzinfo=None)
    write_rows(storage, "body", [row, body_row("ann", date(2026, 10, 1), 70)])
    run(storage)

    assert answers(storage, SAMPLES) == answers(storage, SAMPLES, use_compact=False)
    assert len(answers(storage, SAMPLES)) == 2 * READINGS


def test_compacting_again_writes_nothing_and_from_nothing_the_same_bytes(storage: Storage) -> None:
    fill(storage)
    assert run(storage).files == 4
    first = {entry.path: storage.read(entry.path) for entry in storage.list("compact/")}
    assert run(storage).files == 0
    assert drop_compact(storage, "body") == 4
    assert run(storage).files == 4
    assert {entry.path: storage.read(entry.path) for entry in storage.list("compact/")} == first


def test_a_day_written_again_is_read_from_base_until_its_month_is_compacted(
    storage: Storage,
) -> None:
    fill(storage)
    run(storage)
    late = date(2026, 9, 29)
    write_rows(storage, "body", [body_row("bob", late, 55)])

    assert months_in_use(storage) == ["2026-10"]
    seen = values_by_day(storage)
    assert seen["bob", late] == (READINGS, 55, 55)
    assert len(seen) == len(USERS) * DAYS
    assert run(storage).files == 2
    assert months_in_use(storage) == ["2026-09", "2026-10"]
    assert values_by_day(storage) == seen


def test_a_day_that_comes_late_for_the_first_time_reopens_its_month(storage: Storage) -> None:
    fill(storage)
    run(storage)
    write_rows(storage, "body", [body_row("dee", date(2026, 9, 3), 55)])

    assert months_in_use(storage) == ["2026-10"]
    assert values_by_day(storage)["dee", date(2026, 9, 3)] == (READINGS, 55, 55)


def test_an_open_view_keeps_a_whole_month_when_its_file_is_replaced(storage: Storage) -> None:
    fill(storage)
    run(storage)
    with connect(storage, [SAMPLES]) as before:
        question = f"SELECT count(*), max(value) FROM {SAMPLES}"
        assert before.execute(question).fetchone() == (len(USERS) * DAYS * READINGS, 100)
        write_rows(storage, "body", [body_row("bob", date(2026, 9, 29), 55)])
        assert before.execute(question).fetchone() == (len(USERS) * DAYS * READINGS, 100)
        run(storage)
        assert before.execute(f"SELECT min(value) FROM {SAMPLES}").fetchone() == (55,)


def test_a_large_month_is_cut_by_users_and_stays_cut(storage: Storage) -> None:
    users = [f"user{number:02d}" for number in range(12)]
    write_rows(
        storage,
        "body",
        [body_row(user, day, 100 + n, MANY) for n, user in enumerate(users) for day in days_of()],
    )
    run(storage, file_bytes=100_000)
    parts = list_parts(storage, "body")["2026-10"]
    assert len(parts) > 1

    seen: dict[int, set[str]] = {}
    for number, entry in parts.items():
        data = storage.read(entry.path)
        stamp = parse_stamp(data)
        assert stamp is not None
        assert (stamp.bucket, stamp.buckets) == (number, len(parts))
        seen[number] = set(pl.read_parquet(data)["user_id"])
        assert all(bucket_of(user, len(parts)) == number for user in seen[number])
    assert sum(len(users) for users in seen.values()) == len(users)
    assert answers(storage, SAMPLES) == answers(storage, SAMPLES, use_compact=False)
    write_rows(storage, "body", [body_row("user03", date(2026, 10, 1), 55, MANY)])
    assert "2026-10" not in months_in_use(storage)
    # One bucket of rows and one of samples; the others are right as they are.
    assert run(storage, file_bytes=HUGE).files == 2
    assert list_parts(storage, "body")["2026-10"].keys() == parts.keys()
    assert months_in_use(storage) == ["2026-09", "2026-10"]


def test_shards_fill_buckets_evenly() -> None:
    buckets = [bucket_of(f"s{number:02d}", 4) for number in range(64)]
    assert [buckets.count(number) for number in range(4)] == [16] * 4


def test_rows_are_the_same_however_few_are_sorted_at_a_time(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [f"user{number:02d}" for number in range(9)]
    write_rows(
        storage, "body", [body_row(user, day, 90, 50) for user in users for day in days_of()]
    )
    run(storage)
    whole = [pl.read_parquet(storage.read(e.path)) for e in storage.list("compact/")]
    drop_compact(storage, "body")
    monkeypatch.setattr(compact_module, "_READ_BYTES", 100_000)
    monkeypatch.setattr(compact_module, "_SLICE_BYTES", 2_000)
    monkeypatch.setattr(compact_module, "_GROUP_ROWS", 700)
    cuts: list[int] = []
    choose = compact_module._cut_users

    def note(*arguments: Any) -> list[str]:
        cuts.append(len(found := choose(*arguments)))
        return found

    monkeypatch.setattr(compact_module, "_cut_users", note)
    run(storage)

    assert min(cuts) > 1
    sliced = [pl.read_parquet(storage.read(e.path)) for e in storage.list("compact/")]
    assert all(a.equals(b) for a, b in zip(whole, sliced, strict=True))
    file = pq.ParquetFile(storage.uri(compact_path(SAMPLES, "2026-10", 0)))
    groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert groups == [700, 700, 700, 150]  # 9 users, 5 days, 50 readings


def test_a_list_without_samples_any_more_keeps_an_empty_file(storage: Storage) -> None:
    day = date(2026, 10, 1)
    write_rows(storage, "body", [body_row("ann", day, 70)])
    run(storage)
    write_rows(storage, "body", [body_row("ann", day, 70, readings=0)])
    run(storage)

    assert pl.read_parquet(storage.uri(compact_path(SAMPLES, "2026-10", 0))).height == 0
    assert months_in_use(storage) == ["2026-10"]
    assert answers(storage, SAMPLES) == []


def test_a_long_file_that_is_missing_is_made_up_from_the_rows_and_then_again(
    storage: Storage,
) -> None:
    fill(storage)
    run(storage)
    storage.delete(compact_path(SAMPLES, "2026-10", 0))

    assert months_in_use(storage) == ["2026-09", "2026-10"]
    assert len(values_by_day(storage)) == len(USERS) * DAYS
    assert run(storage).files == 2
    assert storage.version(compact_path(SAMPLES, "2026-10", 0)) is not None


def test_a_base_file_of_an_older_declaration_gets_the_new_columns_empty(storage: Storage) -> None:
    fill(storage)
    cell = Partition(date(2026, 10, 1), "ann")
    path = table_path("body", cell)
    old = pl.read_parquet(storage.read(path)).drop("temperature_body_temperature_samples")
    file = Path(storage.uri(path))
    old.write_parquet(file)
    run(storage)

    frame = pl.read_parquet(storage.uri(compact_path("body", "2026-10", 0)))
    assert frame.schema == TABLES["body"].polars_schema()
    assert frame.height == len(USERS) * 5


def test_a_file_that_does_not_say_what_it_was_made_of_is_not_read(storage: Storage) -> None:
    fill(storage)
    run(storage)
    path = compact_path("body", "2026-10", 0)
    Path(storage.uri(path)).write_bytes(b"no parquet")

    assert months_in_use(storage) == ["2026-09"]
    assert len(values_by_day(storage)) == len(USERS) * DAYS
    with pytest.raises(StorageError, match="does not say how its month is cut"):
        run(storage)


def test_a_written_catalog_is_right_for_ever_unless_asked_to_be_fast(storage: Storage) -> None:
    fill(storage)
    run(storage)
    slow, fast = script(storage), script(storage, use_compact=True)
    assert "/compact/" not in slow
    assert "/compact/" in fast
    write_rows(storage, "body", [body_row("bob", date(2026, 9, 29), 55)])
    question = f"SELECT count(*), min(value) FROM {SAMPLES}"
    for text, lowest in ((slow, 55), (fast, 100)):
        with duckdb.connect() as connection:
            connection.execute(text)
            found = connection.execute(question).fetchone()
        assert found == (len(USERS) * DAYS * READINGS, lowest)


def test_a_day_that_changes_while_its_month_is_compacted_is_not_lost(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(storage)
    late = date(2026, 9, 29)
    make = compact_module._make
    made: list[str] = []

    def make_then_change(*arguments: Any) -> Any:
        result = make(*arguments)
        if not made:
            write_rows(storage, "body", [body_row("bob", late, 55)])
        made.append(result.digest)
        return result

    monkeypatch.setattr(compact_module, "_make", make_then_change)
    run(storage)

    assert len(made) == 3  # September twice
    assert months_in_use(storage) == ["2026-09", "2026-10"]
    assert values_by_day(storage)["bob", late] == (READINGS, 55, 55)


def test_a_slower_compaction_never_overwrites_a_newer_one(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(storage)
    late = date(2026, 9, 29)
    make = compact_module._make
    is_first = True

    def overtaken(*arguments: Any) -> Any:
        nonlocal is_first
        result = make(*arguments)
        if is_first:
            is_first = False
            write_rows(storage, "body", [body_row("bob", late, 55)])
            run(storage)
        return result

    monkeypatch.setattr(compact_module, "_make", overtaken)
    refused: list[str] = []
    replace = LocalStorage.replace

    def note(self: LocalStorage, path: str, data: bytes, expected: str | None) -> str:
        try:
            return replace(self, path, data, expected)
        except ConflictError:
            refused.append(path)
            raise

    monkeypatch.setattr(LocalStorage, "replace", note)
    run(storage)

    assert refused == [compact_path("body", "2026-09", 0)]
    assert values_by_day(storage)["bob", late] == (READINGS, 55, 55)


def test_a_lake_cut_anew_has_nobody_in_two_buckets(storage: Storage) -> None:
    users = [f"user{number:02d}" for number in range(6)]
    rows = [body_row(user, day, 90, MANY) for user in users for day in days_of()]
    storage.create(MANIFEST, msgspec.json.encode(Manifest(cohorts=None)))
    write_rows(storage, "body", rows)
    run(storage, file_bytes=60_000)
    assert len(list_parts(storage, "body")["2026-10"]) > 1
    # The same rows in other folders: everybody in one of two shards.
    for entry in list(storage.list("body/")):
        storage.delete(entry.path)
    frame = frame_of(TABLES["body"], rows)
    scheme = Scheme(2)
    for day in days_of():
        for cohort in ("s00", "s01"):
            own = [user for user in users if scheme.cohort_of(user) == cohort]
            some = frame.filter(pl.col("local_date") == day, pl.col("user_id").is_in(own))
            file = Path(storage.uri(table_path("body", Partition(day, cohort))))
            file.parent.mkdir(parents=True)
            pq.write_table(to_arrow(TABLES["body"], some), file)
    storage.put(MANIFEST, msgspec.json.encode(Manifest(cohorts=2)))
    assert months_in_use(storage) == []

    run(storage, file_bytes=60_000)
    assert months_in_use(storage) == ["2026-09", "2026-10"]
    bare = pl.read_parquet(f"{storage.url}/compact/{SAMPLES}/**/*.parquet")
    assert bare.height == bare.unique().height == 6 * DAYS * MANY


def test_two_compactions_at_once_end_like_one(storage: Storage) -> None:
    users = [f"user{number:02d}" for number in range(6)]
    write_rows(
        storage, "body", [body_row(user, day, 90, MANY) for user in users for day in days_of()]
    )
    # They disagree about how many files a month takes: whoever is first decides.
    with ThreadPoolExecutor(3) as pool:
        sizes = (40_000, 80_000, HUGE)
        for done in [pool.submit(run, storage, size) for size in sizes]:
            done.result()

    assert months_in_use(storage) == ["2026-09", "2026-10"]
    assert answers(storage, SAMPLES) == answers(storage, SAMPLES, use_compact=False)
    for name in ("body", SAMPLES):
        frame = pl.read_parquet(f"{storage.url}/compact/{name}/**/*.parquet")
        assert frame.height == frame.unique().height == 6 * DAYS * (1 if name == "body" else MANY)


def test_what_another_process_compacts_is_left_to_it(workspace: Workspace) -> None:
    fill(workspace.lake.storage)
    workspace.registry.lease("compact:body", "other", timedelta(hours=1))
    assert [report.is_left for report in compact(workspace, ["body"])] == [True]
    workspace.registry.release_lease("compact:body", "other")
    (report,) = compact(workspace, ["body"])
    assert (report.is_left, report.files) == (False, 4)
    assert workspace.registry.lease("compact:body", "other", timedelta(hours=1))


def hammer(place: Place, stop: Path, *, may_refuse: bool) -> None:
    """Reads through fresh views while days change and months are compacted; every one right."""
    storage = Storage.open(place.url, place.settings)
    fill(storage)
    run(storage, file_bytes=5_000)
    writer = fork(work_until_stopped, place.url, place.settings, stop).begin()
    assert writer.hear() == "1"
    right = (len(USERS) * DAYS * READINGS, len(USERS) * DAYS * READINGS, len(USERS) * DAYS)
    question = (
        "SELECT count(*), count(DISTINCT (user_id, timestamp)),"
        f" count(DISTINCT (user_id, local_date, value)) FROM {SAMPLES}"
    )
    reads = refused_in_a_row = 0
    until = time.monotonic() + SECONDS
    with duckdb.connect(config={"threads": 1}) as bare:
        storage.prepare_duckdb(bare)
        pattern = storage.uri(f"compact/{SAMPLES}/**/*.parquet")
        glob = f"SELECT count(*), count(DISTINCT (user_id, timestamp)) FROM '{pattern}'"
        # On a busy machine at least a few reads, however long they take.
        while time.monotonic() < until or reads < FEWEST_READS:
            try:
                with connect(storage, [SAMPLES]) as views:
                    assert views.execute(question).fetchone() == right
                assert bare.cursor().execute(glob).fetchone() == right[:2]
            except REFUSALS as error:
                # A store without open files refuses what was replaced since it was opened; DuckDB
                # may quote bytes when it does.
                refused_in_a_row += 1
                if not may_refuse or refused_in_a_row > REFUSALS_IN_A_ROW:
                    raise AssertionError(f"refused: {error!r}") from error
                continue
            refused_in_a_row = 0
            reads += 1
    stop.touch()
    changes = writer.listen()
    assert writer.process.exitcode == 0, changes
    assert len(changes) > 1
    assert run(storage, file_bytes=5_000).months == 2
    assert months_in_use(storage) == ["2026-09", "2026-10"]


def test_a_reader_sees_each_reading_once_while_months_are_compacted(
    local_place: Place, tmp_path: Path
) -> None:
    hammer(local_place, tmp_path / "stop", may_refuse=False)


def test_a_reader_of_a_bucket_sees_each_reading_once_while_months_are_compacted(
    moto_place: Place, no_cloud_variables: None, tmp_path: Path
) -> None:
    hammer(moto_place, tmp_path / "stop", may_refuse=True)


def test_killed_anywhere_a_compaction_leaves_readers_right_and_is_done_by_the_next(
    local_place: Place,
) -> None:
    storage = Storage.open(local_place.url, local_place.settings)
    users = [f"user{number:02d}" for number in range(6)]
    write_rows(
        storage, "body", [body_row(user, day, 90, MANY) for user in users for day in days_of()]
    )
    expected = answers(storage, SAMPLES, use_compact=False)
    started = time.monotonic()
    run(storage, file_bytes=30_000)
    length = time.monotonic() - started
    drop_compact(storage, "body")
    rng = random.Random(random.randrange(10**6))
    killed = 0
    for _ in range(KILLS):
        victim = fork(compact_once, local_place.url, local_place.settings).begin()
        # The moment is the point of it: nothing to inject here.
        time.sleep(rng.uniform(0.05, length))
        killed += victim.process.is_alive()
        victim.kill()
        assert answers(storage, SAMPLES) == expected
        # Something is written again each time, so that every round has work to be killed at.
        write_rows(storage, "body", [body_row("user03", rng.choice(days_of()), 90, MANY)])
    assert killed > 0
    run(storage, file_bytes=30_000)
    assert months_in_use(storage) == ["2026-09", "2026-10"]
    assert answers(storage, SAMPLES) == expected
    for name, each in (("body", 1), (SAMPLES, MANY)):
        frame = pl.read_parquet(f"{storage.url}/compact/{name}/**/*.parquet")
        assert frame.height == frame.unique().height == len(users) * DAYS * each


def test_a_bucket_of_an_object_store_is_compacted_too(
    moto_place: Place, no_cloud_variables: None
) -> None:
    storage = Storage.open(moto_place.url, moto_place.settings)
    fill(storage)
    assert run(storage).files == 4
    assert run(storage).files == 0
    assert months_in_use(storage) == ["2026-09", "2026-10"]
    assert storage.read_range(compact_path("body", "2026-10", 0), 0, 4) == b"PAR1"
    if duckdb.__version__ == "1.5.5":
        assert len(values_by_day(storage)) == len(USERS) * DAYS


def test_compacting_can_be_switched_off(make_settings: Any, workspace: Workspace) -> None:
    fill(workspace.lake.storage)
    off: Settings = make_settings(keep_compact=False)
    other = Workspace(off, workspace.registry, workspace.lake, workspace.now)
    assert [report.is_left for report in compact(other, ["body"])] == [True]
    assert list(workspace.lake.storage.list("compact/")) == []
