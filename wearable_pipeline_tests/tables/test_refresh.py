"""A partition is a function of its raw records: run twice, twice at once, or by a stale writer."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from wearable_pipeline.errors import StorageError
from wearable_pipeline.lake.layout import quarantine_path, table_path
from wearable_pipeline.lake.storage import ConflictError, Storage
from wearable_pipeline.partitions import Partition
from wearable_pipeline.raw.store import MERGE_ABOVE_SEGMENTS, RawStore
from wearable_pipeline.registry import User
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables.refresh import refresh
from wearable_pipeline.tables.update import rebuild
from wearable_pipeline.workspace import Lake, Workspace, open_workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.faults.entries import (
    DAY,
    NOON,
    add_user,
    entry,
    hash_files,
    read_table,
    samples_of,
    series,
    take_in,
)

MORNING = datetime(2026, 11, 20, 6, tzinfo=UTC)


@pytest.fixture
def user(workspace: Workspace) -> User:
    return add_user(workspace)


@pytest.fixture
def cell(user: User) -> Partition:
    return Partition(DAY, user.user_id)


class Interrupted:
    """A storage before whose `replace` somebody else gets a turn."""

    def __init__(self, storage: Storage, turn: Callable[[str], None]) -> None:
        self._storage = storage
        self._turn = turn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def replace(self, path: str, data: bytes, expected: str | None) -> str:
        self._turn(path)
        return self._storage.replace(path, data, expected)


def interrupted(lake: Lake, turn: Callable[[str], None]) -> Lake:
    storage: Any = Interrupted(lake.storage, turn)
    return Lake(storage, RawStore(storage, lake.scheme), lake.scheme)


def once(action: Callable[[], None], path: str) -> Callable[[str], None]:
    """Does `action` the first time `path` is about to be replaced."""
    waiting = [action]

    def turn(replaced: str) -> None:
        if replaced == path and waiting:
            waiting.pop()()

    return turn


def test_refreshing_twice_changes_no_byte_and_no_time_of_change(
    workspace: Workspace, user: User, cell: Partition
) -> None:
    take_in(workspace, user, [*series(MORNING, 20), entry(NOON, "LOW")])
    first = refresh(workspace.lake, "body", [cell])
    before = {found.path: found for found in workspace.lake.storage.list("")}
    second = refresh(workspace.lake, "body", [cell])
    assert first.written == [cell]
    assert second.written == []
    assert {found.path: found for found in workspace.lake.storage.list("")} == before
    assert second.rows.equals(first.rows)


def test_a_partition_without_records_gets_no_file(workspace: Workspace, cell: Partition) -> None:
    assert refresh(workspace.lake, "body", [cell]).written == []
    assert list(workspace.lake.storage.list("body/")) == []


def test_a_partition_that_became_empty_keeps_a_file_without_rows(
    workspace: Workspace, user: User, cell: Partition, clock: StandingClock
) -> None:
    take_in(workspace, user, [entry(NOON)])
    refresh(workspace.lake, "body", [cell])
    clock.advance(minutes=5)
    take_in(workspace, user, [entry(NOON, isValid=False)])
    assert refresh(workspace.lake, "body", [cell]).written == [cell]
    left = read_table(workspace.lake, "body", cell)
    assert left.height == 0
    assert "glucose_blood_glucose_samples" in left.columns


def test_a_writer_that_read_older_raw_never_wins(
    workspace: Workspace, user: User, cell: Partition, clock: StandingClock
) -> None:
    take_in(workspace, user, [entry(NOON, 100)])
    refresh(workspace.lake, "body", [cell])
    take_in(workspace, user, [entry(MORNING, 90)])

    def overtake() -> None:
        clock.advance(minutes=5)
        take_in(workspace, user, [entry(NOON, 110)])
        refresh(workspace.lake, "body", [cell])

    slow = interrupted(workspace.lake, once(overtake, table_path("body", cell)))
    refresh(slow, "body", [cell])
    expected = [(MORNING, 90.0), (NOON, 110.0)]
    assert samples_of(read_table(workspace.lake, "body", cell)) == expected


def test_a_first_writer_that_was_overtaken_does_not_overwrite_the_other_first_writer(
    workspace: Workspace, user: User, cell: Partition
) -> None:
    take_in(workspace, user, [entry(NOON, 100)])

    def overtake() -> None:
        take_in(workspace, user, [entry(MORNING, 90)])
        refresh(workspace.lake, "body", [cell])

    slow = interrupted(workspace.lake, once(overtake, table_path("body", cell)))
    report = refresh(slow, "body", [cell])
    assert samples_of(report.rows) == [(MORNING, 90.0), (NOON, 100.0)]
    assert samples_of(read_table(workspace.lake, "body", cell)) == samples_of(report.rows)


def test_a_partition_replaced_before_a_conflict_over_its_quarantine_counts_as_written(
    workspace: Workspace, user: User, cell: Partition, clock: StandingClock
) -> None:
    take_in(workspace, user, [entry(NOON), entry(MORNING, "LOW")])
    refresh(workspace.lake, "body", [cell])
    clock.advance(minutes=5)
    take_in(workspace, user, [entry(NOON, 120), entry(MORNING, "LOWER")])
    path = quarantine_path("body", cell)

    def touch_quarantine() -> None:
        workspace.lake.storage.put(path, workspace.lake.storage.read(path))

    slow = interrupted(workspace.lake, once(touch_quarantine, path))
    assert refresh(slow, "body", [cell]).written == [cell]


def test_a_conflict_that_never_ends_is_an_error_and_no_loop(
    workspace: Workspace, user: User, cell: Partition
) -> None:
    take_in(workspace, user, [entry(NOON)])
    turns = 0

    def refuse(path: str) -> None:
        nonlocal turns
        turns += 1
        raise ConflictError("somebody else was faster")

    with pytest.raises(StorageError, match="keep being replaced"):
        refresh(interrupted(workspace.lake, refuse), "body", [cell])
    assert turns == 8


def test_two_processes_refreshing_at_once_end_the_same(
    make_settings: Callable[..., Settings], workspace: Workspace
) -> None:
    cells = []
    for _ in range(3):
        one = add_user(workspace)
        take_in(workspace, one, [*series(MORNING, 60), entry(NOON, "LOW")])
        cells.append(Partition(DAY, one.user_id))
    refresh(workspace.lake, "body", cells)
    expected = hash_files(workspace.lake)
    assert len(expected) == 6
    for path in expected:
        workspace.lake.storage.delete(path)
    program = (
        "import sys; from datetime import date;"
        "from wearable_pipeline.workspace import open_workspace;"
        "from wearable_pipeline.partitions import Partition;"
        "from wearable_pipeline.tables.refresh import refresh\n"
        "cells = [Partition(date(2026, 11, 20), one) for one in sys.argv[1:]]\n"
        "with open_workspace() as w:\n"
        "    print('ready', flush=True); sys.stdin.readline()\n"
        "    [refresh(w.lake, 'body', cells) for _ in range(3)]\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, *(cell.cohort for cell in cells)],
            env={**os.environ, "WEARABLE_HOME": str(workspace.settings.home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in running:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert hash_files(workspace.lake) == expected


@pytest.fixture
def history(workspace: Workspace, clock: StandingClock) -> Workspace:
    """Two users, two days, corrections, deletions, quarantine, meals; tables up to date."""
    for _ in range(2):
        one = add_user(workspace)
        for day in range(2):
            start = MORNING - timedelta(days=day)
            take_in(workspace, one, [*series(start, 30), entry(start + timedelta(hours=5), "LOW")])
            meal = {"created_at": f"{start:%Y-%m-%dT%H:%M:%S.000Z}", "eventType": "Meal"}
            take_in(workspace, one, [{**meal, "carbs": "12.5"}], resource="treatments")
            clock.advance(minutes=5)
            take_in(
                workspace,
                one,
                [entry(start, 222), entry(start + timedelta(minutes=5), isValid=False)],
            )
            clock.advance(minutes=5)
    rebuild(workspace, ["body", "nutrition"], None, None)
    return workspace


def delete_tables(workspace: Workspace) -> None:
    for path in hash_files(workspace.lake):
        workspace.lake.storage.delete(path)
    assert hash_files(workspace.lake) == {}


def test_rebuilding_deleted_tables_gives_the_same_bytes(history: Workspace) -> None:
    expected = hash_files(history.lake)
    assert len(expected) == 2 * 2 * 3  # body, its quarantine, nutrition per user and day
    delete_tables(history)
    rebuild(history, ["body", "nutrition"], None, None)
    assert hash_files(history.lake) == expected


def test_another_process_in_another_zone_rebuilds_the_same_bytes(
    history: Workspace,
) -> None:
    expected = hash_files(history.lake)
    delete_tables(history)
    program = (
        "from wearable_pipeline.workspace import open_workspace;"
        "from wearable_pipeline.tables.update import rebuild\n"
        "with open_workspace() as w: rebuild(w, ['nutrition', 'body'], None, None)\n"
    )
    home = str(history.settings.home)
    environment = {**os.environ, "WEARABLE_HOME": home, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    assert hash_files(history.lake) == expected


def test_merged_raw_segments_rebuild_the_same_bytes(
    workspace: Workspace, user: User, cell: Partition, clock: StandingClock
) -> None:
    for number in range(MERGE_ABOVE_SEGMENTS):
        take_in(workspace, user, [entry(NOON, 100 + number % 3), *series(MORNING, number)])
        clock.advance(minutes=5)
    rebuild(workspace, ["body"], None, None)
    segments = len(list(workspace.lake.storage.list("raw/")))
    expected = hash_files(workspace.lake)
    # The next append merges; what it brings is then taken back out by comparing a day it is not of.
    take_in(workspace, user, [entry(MORNING + timedelta(hours=12), "LOW")])
    assert len(list(workspace.lake.storage.list("raw/"))) < segments
    body = {path: digest for path, digest in expected.items() if path.startswith("body/")}
    delete_tables(workspace)
    rebuild(workspace, ["body"], None, None)
    after = hash_files(workspace.lake)
    assert {path: digest for path, digest in after.items() if path.startswith("body/")} == body


def test_the_order_of_batches_does_not_matter_for_content(
    make_settings: Callable[..., Settings], tmp_path: Path, clock: StandingClock
) -> None:
    batches = [
        (NOON, [*series(MORNING, 10, 100), entry(NOON, "LOW")]),
        (NOON + timedelta(minutes=5), [entry(MORNING, 150)]),
        (NOON + timedelta(minutes=10), [entry(MORNING + timedelta(minutes=5), isValid=False)]),
        (NOON + timedelta(minutes=15), [entry(MORNING, 151), entry(NOON, 99)]),
        (NOON + timedelta(minutes=20), series(MORNING + timedelta(hours=1), 10, 70)),
    ]
    found: list[pl.DataFrame] = []
    for name, order in (("forth", batches), ("back", batches[::-1])):
        settings = make_settings(lake_url=str(tmp_path / name))
        with open_workspace(settings, clock) as workspace:
            user = add_user(workspace)
            for fetched_at, documents in order:
                take_in(workspace, user, documents, fetched_at)
            refresh(workspace.lake, "body", [Partition(DAY, user.user_id)])
            rows = read_table(workspace.lake, "body", Partition(DAY, user.user_id))
            found.append(rows.drop("user_id", "batch_ids", "revision"))
    assert found[0].equals(found[1], null_equal=True)
    samples = dict(samples_of(found[0]))
    assert samples[MORNING] == 151.0
    assert samples[NOON] == 99.0
    assert MORNING + timedelta(minutes=5) not in samples
