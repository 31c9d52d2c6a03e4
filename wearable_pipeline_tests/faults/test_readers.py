"""A bare glob is right at any instant: before, during and after partitions are rewritten."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from pydantic import SecretStr

from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.raw.store import Arrival, RawStore
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables.refresh import refresh
from wearable_pipeline.workspace import Lake
from wearable_pipeline_tests.faults.entries import entry, split
from wearable_pipeline_tests.servers.fixtures import Place

USERS = ("u1", "u2")
DAYS = 3
READINGS = 48
START = datetime(2026, 11, 18, tzinfo=UTC)
RIGHT = (len(USERS) * DAYS * READINGS, len(USERS) * DAYS * READINGS, len(USERS) * DAYS)
SECONDS = float(os.environ.get("WEARABLE_TEST_READING_SECONDS", "3"))

REFUSALS_IN_A_ROW = 10

# Readings, different ones, pairs of partition and value (two in one would be a torn file), values.
Count = tuple[int, int, int, set[int]]


def lake_at(url: str, settings: Settings) -> Lake:
    storage = Storage.open(url, settings)
    return Lake(storage, RawStore(storage, Scheme()), Scheme())


def write_round(lake: Lake, number: int) -> None:
    """Every reading of everybody gets the value `100 + number % 100`; all partitions are rewritten."""
    at = START + timedelta(days=DAYS, minutes=number)
    documents = [
        entry(START + timedelta(days=day, minutes=30 * step), 100 + number % 100)
        for day in range(DAYS)
        for step in range(READINGS)
    ]
    lake.raw.append(
        "nightscout",
        [Arrival(user_id, split(documents, at), at) for user_id in USERS],
        batch_id=f"b{number}",
        door="poll",
        before_write=lambda touched: None,
    )
    cells = [
        Partition((START + timedelta(days=day)).date(), user_id)
        for day in range(DAYS)
        for user_id in USERS
    ]
    refresh(lake, "body", cells)


def settings_from_environment() -> Settings:
    secret = os.environ.get("TEST_SECRET")
    return Settings(
        _env_file=None,
        lake_endpoint=os.environ.get("TEST_ENDPOINT") or None,
        lake_access_key_id=os.environ.get("TEST_KEY") or None,
        lake_secret_access_key=SecretStr(secret) if secret else None,
    )


def write_until_stopped() -> None:
    """The writer's process: rounds until its input closes."""
    lake = lake_at(os.environ["TEST_LAKE"], settings_from_environment())
    stopped = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        stopped.set()

    threading.Thread(target=wait, daemon=True).start()
    number = 1
    while not stopped.is_set():
        write_round(lake, number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1


def count_with_polars(lake: Lake) -> Count:
    frame = pl.read_parquet(
        lake.storage.uri("body") + "/**/*.parquet",
        hive_partitioning=False,
        storage_options=lake.storage.polars_options() or None,
        columns=["user_id", "local_date", "glucose_blood_glucose_samples"],
    )
    sample = pl.col("glucose_blood_glucose_samples").struct
    readings = frame.explode(
        "glucose_blood_glucose_samples", empty_as_null=False, keep_nulls=False
    ).select(
        "user_id",
        "local_date",
        at=sample.field("timestamp"),
        value=sample.field("blood_glucose_mg_per_dl"),
    )
    values = {int(value) for value in readings["value"].unique()}
    return (
        readings.height,
        readings.select("user_id", "at").n_unique(),
        readings.select("user_id", "local_date", "value").n_unique(),
        values,
    )


def count_with_duckdb(lake: Lake, connection: duckdb.DuckDBPyConnection) -> Count:
    found = connection.execute(
        "select count(*), count(distinct (user_id, s.timestamp)),"
        " count(distinct (user_id, local_date, s.blood_glucose_mg_per_dl)),"
        " list(distinct s.blood_glucose_mg_per_dl::int)"
        " from (select user_id, local_date, unnest(glucose_blood_glucose_samples) as s from"
        f" read_parquet('{lake.storage.uri('body')}/**/*.parquet', hive_partitioning = true))"
    ).fetchone()
    assert found is not None
    return found[0], found[1], found[2], set(found[3])


def duckdb_for(lake: Lake) -> Callable[[Lake], Count]:
    connection = duckdb.connect()
    lake.storage.prepare_duckdb(connection)
    return lambda one: count_with_duckdb(one, connection.cursor())


def read_while_writing(
    place: Place, environment: dict[str, str], refusing: tuple[str, ...]
) -> tuple[int, int]:
    """Numbers of rounds written and of reads, all of them right, in `SECONDS`.

    A reader that takes a file's size from a listing and then finds another file there refuses it: polars
    does everywhere, DuckDB where there are no open files, and on a disk now and then, between reading what a
    file is made of and opening it to scan. Readers named in `refusing` may refuse, not
    forever; a wrong count passes for nobody.
    """
    lake = lake_at(place.url, place.settings)
    write_round(lake, 0)
    readers: dict[str, Callable[[Lake], Count]] = {
        "polars": count_with_polars,
        "duckdb": duckdb_for(lake),
    }
    for read in readers.values():
        assert read(lake) == (*RIGHT, {100})
    writer = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import write_until_stopped as w; w()"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TEST_LAKE": place.url, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"1\n"
    faults: list[str] = []
    reads = 0
    until = time.monotonic() + SECONDS

    def keep_reading(name: str) -> None:
        nonlocal reads
        refused = 0
        while time.monotonic() < until:
            try:
                counted = readers[name](lake)[:3]
            except BaseException as error:  # noqa: BLE001 - polars panics, which is no Exception
                refused += 1
                if name not in refusing or refused > REFUSALS_IN_A_ROW:
                    faults.append(f"{name}: {error!r}")
                    return
                continue
            refused = 0
            if counted != RIGHT:
                faults.append(f"{name}: {counted}")
            reads += 1

    threads = [threading.Thread(target=keep_reading, args=(name,)) for name in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rest, _ = writer.communicate(timeout=60)
    assert writer.returncode == 0
    assert faults == []
    last = int(rest.split()[-1]) if rest.split() else 1
    for read in readers.values():
        assert read(lake) == (*RIGHT, {100 + last % 100})
    return last, reads


def test_readers_of_a_local_lake_see_each_reading_once_while_it_is_rewritten(
    local_place: Place,
) -> None:
    rounds, reads = read_while_writing(local_place, {}, ("polars", "duckdb"))
    assert rounds > 1
    assert reads > 5


def test_readers_of_a_bucket_see_each_reading_once_while_it_is_rewritten(
    moto_place: Place, no_cloud_variables: Any
) -> None:
    settings = moto_place.settings
    assert settings.lake_secret_access_key is not None
    environment = {
        "TEST_ENDPOINT": str(settings.lake_endpoint),
        "TEST_KEY": str(settings.lake_access_key_id),
        "TEST_SECRET": settings.lake_secret_access_key.get_secret_value(),
    }
    rounds, reads = read_while_writing(moto_place, environment, ("polars", "duckdb"))
    assert rounds > 1
    assert reads > 3
