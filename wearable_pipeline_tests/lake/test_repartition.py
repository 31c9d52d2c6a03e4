"""A lake cut anew: nothing lost, nothing doubled, whoever is killed and whoever reads meanwhile."""

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from wearable_pipeline.errors import StorageError, UsageError
from wearable_pipeline.lake.layout import Manifest, Move, read_manifest, replace_manifest
from wearable_pipeline.lake.repartition import STAGE, repartition
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.providers import get_provider
from wearable_pipeline.raw.ingest import ingest
from wearable_pipeline.raw.store import Arrival
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables.update import update_table
from wearable_pipeline.workspace import Workspace, open_workspace
from wearable_pipeline_tests.faults.entries import entry, split
from wearable_pipeline_tests.lake.cutting import cut_anew
from wearable_pipeline_tests.servers.fixtures import Place
from wearable_pipeline_tests.servers.forked import Child, fork

START = datetime(2026, 11, 18, tzinfo=UTC)
USERS = tuple(f"u{number}" for number in range(4))
DAYS = 2
READINGS = 12
RIGHT = len(USERS) * DAYS * READINGS
KILLS = int(os.environ.get("WEARABLE_TEST_KILLS", "3"))


def now() -> datetime:
    return START + timedelta(days=DAYS)


def fill(settings: Settings) -> None:
    """Two days of readings of four people, in raw and in the table."""
    with open_workspace(settings, now) as workspace:
        for user_id in USERS:
            workspace.registry.add_user("nightscout", user_id=user_id)
        for number, value in enumerate((100, 120)):
            # Two fetches: every reading has a revision, every folder two segments.
            at = now() + timedelta(minutes=number)
            documents = [
                entry(START + timedelta(days=day, minutes=30 * step), value)
                for day in range(DAYS)
                for step in range(READINGS)
            ]
            arrivals = [Arrival(user_id, split(documents, at), at) for user_id in USERS]
            ingest(workspace, get_provider("nightscout"), arrivals, "poll")
        update(workspace)


def update(workspace: Workspace) -> None:
    cells = [
        Partition((START + timedelta(days=day)).date(), workspace.lake.scheme.cohort_of(user_id))
        for day in range(DAYS)
        for user_id in USERS
    ]
    for table in ("body", "nutrition"):
        update_table(workspace, table, cells)


def rows_of(lake: str) -> pl.DataFrame:
    found: pl.DataFrame = pl.read_parquet(f"{lake}/body/**/*.parquet", hive_partitioning=False)
    return found.sort("user_id", "local_date")


def raw_of(lake: str) -> pl.DataFrame:
    found: pl.DataFrame = pl.read_parquet(f"{lake}/raw/**/*.parquet", hive_partitioning=False)
    return found.sort(*found.columns)


def folders_of(lake: str) -> set[str]:
    return {path.parent.name for path in Path(lake).rglob("*.parquet")}


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


def cut(settings: Settings, cohorts: int | None) -> Settings:
    repartition(settings, cohorts, now=now)
    return settings.model_copy(update={"cohorts": cohorts})


def test_every_cut_keeps_every_record_and_a_rebuild_makes_the_same_files(
    settings: Settings,
) -> None:
    fill(settings)
    rows, raw = rows_of(settings.lake), raw_of(settings.lake)
    assert raw.height == 2 * RIGHT
    for cohorts in (4, 6, None, 4):
        settings = cut(settings, cohorts)
        assert_frame_equal(rows_of(settings.lake), rows)
        assert_frame_equal(raw_of(settings.lake), raw)
        assert not (Path(settings.lake) / STAGE).exists()
        with open_workspace(settings, now) as workspace:
            expected = {f"user={workspace.lake.scheme.cohort_of(user_id)}" for user_id in USERS}
            assert folders_of(settings.lake) == expected
            before = {entry.path: entry.version for entry in workspace.lake.storage.list("body/")}
            update(workspace)
            assert before == {
                entry.path: entry.version for entry in workspace.lake.storage.list("body/")
            }
            assert workspace.registry.touched() == []


def test_no_path_of_one_cut_exists_in_the_next(settings: Settings) -> None:
    settings = settings.model_copy(update={"cohorts": 2})
    fill(settings)
    before = {path.relative_to(settings.lake) for path in Path(settings.lake).rglob("*.parquet")}
    settings = cut(settings, 3)
    after = {path.relative_to(settings.lake) for path in Path(settings.lake).rglob("*.parquet")}
    assert before
    assert not before & after


def test_the_wrong_number_is_refused_with_the_command_that_helps(settings: Settings) -> None:
    fill(settings)
    with (
        pytest.raises(UsageError, match="wearable-pipeline repartition --cohorts 4"),
        open_workspace(settings.model_copy(update={"cohorts": 4}), now),
    ):
        pass
    assert repartition(settings, None, now=now).was_needed is False


def test_it_waits_for_runs_and_runs_wait_for_it(settings: Settings) -> None:
    fill(settings)
    with open_workspace(settings, now) as workspace:
        with workspace.writing(), pytest.raises(UsageError, match="1 steps of runs"):
            repartition(settings, 4, now=now)
        # Refused, it leaves no trace.
        with workspace.writing():
            pass
        mark(settings, Move(4, "copy"))
        with pytest.raises(UsageError, match="is being cut anew"), workspace.writing():
            pass
    with pytest.raises(UsageError, match="repartition --cohorts 4"), open_workspace(settings, now):
        pass
    cut(settings, 4)


def mark(settings: Settings, move: Move | None) -> None:
    storage = Storage.open(settings.lake, settings)
    found = read_manifest(storage)
    assert found is not None
    manifest = found[0]
    changed = Manifest(manifest.format, manifest.cohorts, manifest.generation, move)
    replace_manifest(storage, changed, found[1])


def test_another_number_than_the_one_under_way_is_refused(settings: Settings) -> None:
    fill(settings)
    mark(settings, Move(4, "copy"))
    with pytest.raises(UsageError, match="repartition --cohorts 4"):
        repartition(settings, 8, now=now)


def test_a_cut_is_taken_back_while_no_table_has_moved(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(settings)
    before = raw_of(settings.lake)

    def stop(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("wearable_pipeline.lake.repartition.refresh", stop)
        with pytest.raises(StorageError, match="full"):
            repartition(settings, 4, now=now)
    assert raw_of(settings.lake).height == 2 * before.height
    assert repartition(settings, None, now=now).was_taken_back
    assert_frame_equal(raw_of(settings.lake), before)
    with open_workspace(settings, now):
        pass


def test_tables_that_are_not_what_raw_makes_are_not_replaced(settings: Settings) -> None:
    fill(settings)
    path = next(Path(settings.lake, "body").rglob("*.parquet"))
    rows = pl.read_parquet(path, hive_partitioning=False)
    rows.head(0).write_parquet(path)
    with pytest.raises(UsageError, match="wearable-pipeline rebuild"):
        repartition(settings, 4, now=now)
    assert rows_of(settings.lake).height == len(USERS) * DAYS - rows.height


def test_a_changed_byte_in_the_copy_stops_everything(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(settings)
    from wearable_pipeline.lake.storage import LocalStorage

    create = LocalStorage.create

    def spoil(self: LocalStorage, path: str, data: bytes) -> str:
        if "-moved" in path:
            rows = pl.read_parquet(data)
            body = pl.col("body").bin.encode("hex").str.replace("30", "31").str.decode("hex")
            import io

            buffer = io.BytesIO()
            rows.with_columns(body).write_parquet(buffer)
            data = buffer.getvalue()
        return create(self, path, data)

    monkeypatch.setattr(LocalStorage, "create", spoil)
    with pytest.raises(StorageError, match="is not what was copied"):
        repartition(settings, 4, now=now)
    monkeypatch.undo()
    assert repartition(settings, None, now=now).was_taken_back


def start(settings: Settings, cohorts: int | None, number: int) -> Child:
    """A process about to cut."""
    # A killed holder's leases are five minutes in the way; here a day is over at every call.
    return fork(cut_anew, settings, cohorts, now() + timedelta(days=number))


class PowerCutError(BaseException):
    """Nothing survives it."""


def test_power_cuts_before_every_write_lose_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wearable_pipeline.lake import repartition as module
    from wearable_pipeline.lake.storage import LocalStorage

    fill(settings)
    rows, raw = rows_of(settings.lake), raw_of(settings.lake)
    fuse = {"left": 0}

    def guard(function: Callable[..., object]) -> Callable[..., object]:
        def guarded(*args: object, **kwargs: object) -> object:
            fuse["left"] -= 1
            if fuse["left"] < 0:
                raise PowerCutError
            return function(*args, **kwargs)

        return guarded

    for name in ("create", "replace", "put", "delete_many"):
        monkeypatch.setattr(LocalStorage, name, guard(getattr(LocalStorage, name)))
    monkeypatch.setattr(module, "_exchange_folders", guard(module._exchange_folders))
    cuts = 0
    # What was done stays done: every call gets a few writes further, until one gets through.
    for allowed in range(4_000):
        fuse["left"] = allowed
        try:
            repartition(settings, 4, now=now)
        except PowerCutError:
            cuts += 1
            # Readers see each row once, wherever it stopped.
            assert_frame_equal(rows_of(settings.lake), rows)
            continue
        break
    assert cuts > 5
    fuse["left"] = 10**9
    assert_frame_equal(rows_of(settings.lake), rows)
    assert_frame_equal(raw_of(settings.lake), raw)
    with open_workspace(settings.model_copy(update={"cohorts": 4}), now) as workspace:
        assert workspace.lake.scheme == Scheme(4, 1)


@pytest.mark.slow
def test_kills_at_random_instants_lose_nothing(settings: Settings) -> None:
    fill(settings)
    rows, raw = rows_of(settings.lake), raw_of(settings.lake)
    chance = random.Random(20261120)
    cohorts, killed = 4, 0
    for number in range(1, KILLS + 1):
        cutter = start(settings, cohorts, number).begin()
        # The moment is the point of it: nothing to inject here.
        time.sleep(chance.uniform(0.05, 0.5))
        if cutter.process.is_alive():
            killed += 1
            cutter.kill()
        else:
            assert cutter.listen() == ["done"]
            cohorts = 10 - cohorts
        assert_frame_equal(rows_of(settings.lake), rows)
    assert killed > 0
    assert start(settings, cohorts, KILLS + 1).begin().listen() == ["done"]
    assert_frame_equal(rows_of(settings.lake), rows)
    assert_frame_equal(raw_of(settings.lake), raw)


def read_while_cutting(
    settings: Settings, uri: str, prepare: Callable, cuts: Sequence[int]
) -> tuple[int, int]:
    """Numbers of right and of refused reads while the lake is cut anew; a wrong one fails."""
    query = (
        "select count(*), count(distinct (user_id, s.timestamp)) from (select user_id,"
        " unnest(glucose_blood_glucose_samples) as s from"
        f" read_parquet('{uri}/**/*.parquet', hive_partitioning = true))"
    )
    over = threading.Event()
    right, refused, wrong = [0], [0], []

    def hammer() -> None:
        # One thread, or the reader takes the cores the other process needs.
        connection = duckdb.connect(config={"threads": 1})
        prepare(connection)
        while not over.is_set():
            try:
                found = connection.execute(query).fetchone()
            except duckdb.Error:
                refused[0] += 1
                continue
            if found == (RIGHT, RIGHT):
                right[0] += 1
            else:
                wrong.append(found)
            over.wait(0.02)

    reader = threading.Thread(target=hammer)
    cutter = start(settings, cuts[0], 1)
    reader.start()
    try:
        for number, cohorts in enumerate(cuts, start=1):
            if number > 1:
                cutter = start(settings, cohorts, number)
            assert cutter.begin().listen() == ["done"]
    finally:
        over.set()
        reader.join()
    assert wrong == []
    return right[0], refused[0]


@pytest.mark.slow
def test_a_bare_glob_of_a_folder_is_never_wrong_while_tables_change_places(
    settings: Settings,
) -> None:
    fill(settings)
    uri = f"{settings.lake}/body"
    right, refused = read_while_cutting(settings, uri, lambda connection: None, (4, 6))
    assert right > 5
    # Only who listed before an exchange and opened after it.
    assert refused <= 2


@pytest.mark.slow
def test_a_bare_glob_of_a_bucket_is_never_wrong_while_days_change_places(
    make_settings: Callable[..., Settings], moto_place: Place
) -> None:
    given = moto_place.settings
    settings = make_settings(
        lake_url=moto_place.url,
        lake_endpoint=given.lake_endpoint,
        lake_access_key_id=given.lake_access_key_id,
        lake_secret_access_key=given.lake_secret_access_key,
    )
    fill(settings)
    storage = Storage.open(settings.lake, settings)
    right, refused = read_while_cutting(settings, storage.uri("body"), storage.prepare_duckdb, (4,))
    assert right > 5
    assert not any(name.path.endswith("moving.parquet") for name in storage.list("body/"))
    assert refused < right
