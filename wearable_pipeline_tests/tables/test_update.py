"""After the files: ledger, destinations and marks say what lies in the lake, whatever came between."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from wearable_pipeline.lake.layout import table_path
from wearable_pipeline.partitions import Partition
from wearable_pipeline.registry import Touched, User
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables import refresh as refresh_module
from wearable_pipeline.tables import update as update_module
from wearable_pipeline.tables.refresh import Refreshed, refresh, refresh_in_parts
from wearable_pipeline.tables.update import rebuild, update_table
from wearable_pipeline.workspace import Workspace, open_workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.faults.entries import (
    DAY,
    NOON,
    add_user,
    entry,
    read_table,
    samples_of,
    series,
    take_in,
)

MORNING = datetime(2026, 11, 20, 6, tzinfo=UTC)


class PowerCutError(BaseException):
    """Nothing may catch it."""


@pytest.fixture
def workspace(make_settings: Callable[..., Settings], clock: StandingClock) -> Iterator[Workspace]:
    """With a webhook that is never called: what it should get is in the ledger."""
    settings = make_settings(
        webhook_url="http://127.0.0.1:9/hook", webhook_secret="x", webhook_allow_private=True
    )
    with open_workspace(settings, clock) as opened:
        yield opened


@pytest.fixture
def user(workspace: Workspace) -> User:
    return add_user(workspace)


def update(workspace: Workspace, user: User, day: date = DAY) -> Any:
    return update_table(workspace, "body", [Partition(day, user.user_id)])


def wanted(workspace: Workspace, user: User) -> dict[date, bool]:
    """Rows the webhook should have, and whether they are to be withdrawn."""
    return {
        row.date: row.is_deleted
        for row in workspace.registry.deliveries("webhook", user_ids={user.user_id})
        if row.table == "body"
    }


def ledger(workspace: Workspace, user: User) -> dict[date, tuple[str, int, int, int]]:
    rows = workspace.registry.partitions(user_ids=[user.user_id], tables=["body"])
    return {row.date: (row.status, row.rows, row.samples, row.rejected) for row in rows}


def cut_before(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def cut(*args: object, **kwargs: object) -> None:
        raise PowerCutError

    monkeypatch.setattr(update_module, name, cut)


def test_an_update_writes_the_ledger_tells_destinations_and_clears_its_marks(
    workspace: Workspace, user: User
) -> None:
    take_in(workspace, user, [*series(MORNING, 12), entry(NOON, "LOW")])
    workspace.registry.mark_touched([Touched("nutrition", user.user_id, DAY)])
    report = update(workspace, user)
    assert (report.rows, report.samples, report.rejected, report.records) == (1, 12, 1, 13)
    assert report.newest_at == MORNING + timedelta(minutes=55)
    assert dict(report.reasons) == {"sgv: not a number": 1}
    assert ledger(workspace, user) == {DAY: ("ok", 1, 12, 1)}
    assert wanted(workspace, user) == {DAY: False}
    assert [mark.table for mark in workspace.registry.touched()] == ["nutrition"]
    state = workspace.registry.load_states([user.user_id])[user.user_id]
    assert state.newest_reading_at == report.newest_at


def test_touched_days_outside_the_cells_are_taken_along(workspace: Workspace, user: User) -> None:
    take_in(workspace, user, [entry(NOON - timedelta(days=40)), entry(NOON)])
    assert update(workspace, user).partitions == 2
    assert set(ledger(workspace, user)) == {DAY, DAY - timedelta(days=40)}


def test_a_mark_made_while_the_table_is_being_made_stays(
    workspace: Workspace, user: User, monkeypatch: pytest.MonkeyPatch, clock: StandingClock
) -> None:
    take_in(workspace, user, [entry(NOON)])

    def refresh_then_more(*args: Any) -> Iterator[Refreshed]:
        for part in refresh_in_parts(*args):
            clock.advance(minutes=5)
            take_in(workspace, user, [entry(NOON, 140)])
            yield part

    monkeypatch.setattr(update_module, "refresh_in_parts", refresh_then_more)
    update(workspace, user)
    monkeypatch.undo()
    marks = workspace.registry.touched(table="body")
    assert [(mark.user_id, mark.date) for mark in marks] == [(user.user_id, DAY)]
    update(workspace, user)
    cell = Partition(DAY, user.user_id)
    assert samples_of(read_table(workspace.lake, "body", cell)) == [(NOON, 140.0)]


@pytest.mark.parametrize("step", ["_note", "_note_emptied", "note_wanted"])
def test_a_power_cut_after_the_files_leaves_the_rest_to_the_next_run(
    workspace: Workspace, user: User, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    take_in(workspace, user, [entry(NOON)])
    cut_before(monkeypatch, step)
    with pytest.raises(PowerCutError):
        update(workspace, user)
    monkeypatch.undo()
    assert workspace.registry.touched(table="body") != []
    update(workspace, user)
    assert ledger(workspace, user) == {DAY: ("ok", 1, 1, 0)}
    assert wanted(workspace, user) == {DAY: False}
    assert workspace.registry.touched(table="body") == []


def test_a_row_that_is_gone_is_withdrawn_and_leaves_the_ledger_empty(
    workspace: Workspace, user: User, clock: StandingClock
) -> None:
    take_in(workspace, user, [entry(NOON)])
    update(workspace, user)
    clock.advance(minutes=5)
    take_in(workspace, user, [entry(NOON, isValid=False)])
    update(workspace, user)
    assert wanted(workspace, user) == {DAY: True}
    assert ledger(workspace, user) == {DAY: ("empty", 0, 0, 0)}


def test_a_row_that_is_gone_is_withdrawn_even_when_the_power_was_cut_after_its_file(
    workspace: Workspace, user: User, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in(workspace, user, [entry(NOON)])
    update(workspace, user)
    clock.advance(minutes=5)
    take_in(workspace, user, [entry(NOON, isValid=False)])
    cut_before(monkeypatch, "note_wanted")
    with pytest.raises(PowerCutError):
        update(workspace, user)
    monkeypatch.undo()
    update(workspace, user)
    assert wanted(workspace, user) == {DAY: True}


def test_a_day_with_only_refused_records_is_in_the_ledger(workspace: Workspace, user: User) -> None:
    take_in(workspace, user, [entry(NOON, "LOW"), entry(MORNING, "HIGH")])
    update(workspace, user)
    assert ledger(workspace, user) == {DAY: ("empty", 0, 0, 2)}
    assert wanted(workspace, user) == {}


def test_records_repaired_at_the_source_leave_quarantine_and_ledger(
    workspace: Workspace, user: User, clock: StandingClock
) -> None:
    take_in(workspace, user, [entry(NOON, "LOW")])
    update(workspace, user)
    clock.advance(minutes=5)
    take_in(workspace, user, [entry(NOON, 61)])
    update(workspace, user)
    assert ledger(workspace, user) == {DAY: ("ok", 1, 1, 0)}


def test_a_record_that_moved_to_the_next_day_is_withdrawn_from_the_old_one(
    workspace: Workspace, user: User, clock: StandingClock
) -> None:
    late = datetime(2026, 11, 20, 23, 59, tzinfo=UTC)
    take_in(workspace, user, [entry(late, identifier="one")], fetched_at=late)
    update(workspace, user)
    clock.at = late + timedelta(hours=1)
    moved = entry(late + timedelta(minutes=2), identifier="one")
    take_in(workspace, user, [moved])
    update(workspace, user)
    following = DAY + timedelta(days=1)
    assert wanted(workspace, user) == {DAY: True, following: False}
    assert ledger(workspace, user)[DAY] == ("empty", 0, 0, 0)
    found = read_table(workspace.lake, "body", Partition(following, user.user_id))
    assert samples_of(found) == [(late + timedelta(minutes=2), 100.0)]


def test_another_users_marks_and_rows_are_left_alone(workspace: Workspace, user: User) -> None:
    other = add_user(workspace)
    take_in(workspace, user, [entry(NOON)])
    take_in(workspace, other, [entry(NOON, 150)])
    update(workspace, user)
    assert wanted(workspace, other) == {}
    left = workspace.registry.touched(table="body")
    assert [mark.user_id for mark in left] == [other.user_id]


def test_in_a_shared_cohort_every_users_rows_are_told(
    make_settings: Callable[..., Settings], clock: StandingClock
) -> None:
    settings = make_settings(
        cohorts=1,
        webhook_url="http://127.0.0.1:9/hook",
        webhook_secret="x",
        webhook_allow_private=True,
    )
    with open_workspace(settings, clock) as workspace:
        one, two = add_user(workspace), add_user(workspace)
        for each in (one, two):
            take_in(workspace, each, [entry(NOON)])
        update_table(workspace, "body", [Partition(DAY, "s00")], user_ids=[one.user_id])
        assert read_table(workspace.lake, "body", Partition(DAY, "s00")).height == 2
        assert wanted(workspace, one) == wanted(workspace, two) == {DAY: False}
        # The other's mark was not read before and so is not cleared: at worst work is done twice.
        assert [m.user_id for m in workspace.registry.touched(table="body")] == [two.user_id]


def test_a_rebuild_tells_destinations_nothing_new(workspace: Workspace, user: User) -> None:
    take_in(workspace, user, series(MORNING, 12))
    update(workspace, user)
    before = workspace.registry.deliveries("webhook")
    rebuild(workspace, ["body"], None, None)
    assert workspace.registry.deliveries("webhook") == before


def test_a_rebuild_between_dates_leaves_the_others(workspace: Workspace, user: User) -> None:
    take_in(workspace, user, [entry(NOON - timedelta(days=n)) for n in range(5)])
    reports = rebuild(workspace, ["body"], DAY - timedelta(days=3), DAY - timedelta(days=1))
    assert reports["body"].partitions == 3
    assert sorted(ledger(workspace, user)) == [DAY - timedelta(days=n) for n in (3, 2, 1)]


def test_a_mark_of_a_user_without_records_is_cleared(workspace: Workspace, user: User) -> None:
    workspace.registry.mark_touched([Touched("body", user.user_id, DAY)])
    update(workspace, user)
    assert workspace.registry.touched(table="body") == []
    assert ledger(workspace, user) == {}


@pytest.fixture
def shard(make_settings: Callable[..., Settings], clock: StandingClock) -> Iterator[Workspace]:
    """Every user in one cohort."""
    settings = make_settings(
        cohorts=1,
        webhook_url="http://127.0.0.1:9/hook",
        webhook_secret="x",
        webhook_allow_private=True,
    )
    with open_workspace(settings, clock) as opened:
        yield opened


def test_a_partition_too_large_for_memory_ends_as_one_that_is_not(
    shard: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = sorted((add_user(shard) for _ in range(5)), key=lambda user: user.user_id)
    for number, user in enumerate(people):
        take_in(shard, user, [*series(MORNING, 3 + number), entry(NOON, "LOW")])
    monkeypatch.setattr(refresh_module, "_ROW_GROUP_ROWS", 2)
    cell = Partition(DAY, "s00")
    at_once = refresh(shard.lake, "body", [cell])
    assert at_once.written == [cell]
    path = table_path("body", cell)
    expected = shard.lake.storage.read(path)
    shard.lake.storage.delete(path)
    # Two or three records: every user is a slice.
    monkeypatch.setattr(refresh_module, "DECODED_AT_ONCE", 1_000)
    parts = list(refresh_in_parts(shard.lake, "body", [cell]))
    assert shard.lake.storage.read(path) == expected
    assert [(part.after_user, part.last_user) for part in parts] == [
        (None, people[0].user_id),
        (people[0].user_id, people[2].user_id),
        (people[2].user_id, None),
    ]
    assert [part.done for part in parts] == [[], [], [cell]]
    assert pl.concat([part.rows for part in parts]).equals(at_once.rows)
    assert [part.rejected.height for part in parts] == [1, 2, 2]

    shard.lake.storage.delete(path)
    report = update_table(shard, "body", [cell])
    assert (report.partitions, report.written, report.rows, report.rejected) == (1, 1, 5, 5)
    for number, user in enumerate(people):
        assert ledger(shard, user) == {DAY: ("ok", 1, 3 + number, 1)}
        assert wanted(shard, user) == {DAY: False}
    assert shard.registry.touched(table="body") == []


def test_a_user_without_rows_in_a_large_partition_is_withdrawn_and_nobody_else(
    shard: Workspace, monkeypatch: pytest.MonkeyPatch, clock: StandingClock
) -> None:
    monkeypatch.setattr(refresh_module, "_ROW_GROUP_ROWS", 2)
    monkeypatch.setattr(refresh_module, "DECODED_AT_ONCE", 1_000)
    people = sorted((add_user(shard) for _ in range(5)), key=lambda user: user.user_id)
    for user in people:
        take_in(shard, user, [entry(NOON)])
    update_table(shard, "body", [Partition(DAY, "s00")])
    clock.advance(minutes=5)
    take_in(shard, people[2], [entry(NOON, isValid=False)])
    update_table(shard, "body", [Partition(DAY, "s00")])
    for number, user in enumerate(people):
        assert wanted(shard, user) == {DAY: number == 2}
        assert ledger(shard, user)[DAY][:2] == (("empty", 0) if number == 2 else ("ok", 1))


def test_few_bytes_at_once_change_no_byte(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = []
    for hours in range(4):
        user = add_user(workspace)
        take_in(
            workspace, user, [*series(MORNING + timedelta(hours=hours), 20), entry(NOON, "LOW")]
        )
        cells.append(Partition(DAY, user.user_id))
    together = refresh(workspace.lake, "body", cells)
    monkeypatch.setattr(refresh_module, "ENCODED_AT_ONCE", 1)
    assert [part.done for part in refresh_in_parts(workspace.lake, "body", cells)] == [
        [cell] for cell in sorted(cells, key=lambda cell: cell.cohort)
    ]
    monkeypatch.setattr(refresh_module, "DECODED_AT_ONCE", 1)
    again = refresh(workspace.lake, "body", cells)
    assert again.written == []
    assert again.rows.equals(together.rows)
