"""The last step of every door: notes around the write, races between doors."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.raw.ingest import ingest
from wearable_pipeline.raw.store import MERGE_ABOVE_SEGMENTS, Arrival, RawStore
from wearable_pipeline.registry import User
from wearable_pipeline.tables.refresh import refresh
from wearable_pipeline.tables.update import update_table
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.faults.entries import (
    DAY,
    NOON,
    add_user,
    entry,
    milliseconds,
    read_table,
    samples_of,
    split,
    take_in,
)

MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)


class StoppedError(BaseException):
    """Nothing may catch it."""


@pytest.fixture
def user(workspace: Workspace) -> User:
    return add_user(workspace)


def marks(workspace: Workspace) -> set[tuple[str, date]]:
    return {(mark.table, mark.date) for mark in workspace.registry.touched()}


def test_every_table_the_records_feed_is_marked_for_every_day(
    workspace: Workspace, user: User
) -> None:
    take_in(workspace, user, [entry(NOON), entry(NOON - timedelta(days=9))])
    days = (DAY, DAY - timedelta(days=9))
    assert marks(workspace) == {("body", day) for day in days}
    meal = {"identifier": "m", "eventType": "Meal Bolus", "carbs": 30, "date": milliseconds(NOON)}
    take_in(workspace, user, [meal], resource="treatments")
    assert marks(workspace) == {("body", day) for day in days} | {("nutrition", DAY)}


def test_a_day_is_marked_only_in_the_tables_its_own_records_feed(
    workspace: Workspace, user: User
) -> None:
    past = DAY - timedelta(days=9)
    meal = {
        "identifier": "m",
        "eventType": "Meal Bolus",
        "carbs": 30,
        "date": milliseconds(NOON - timedelta(days=9)),
    }
    found = [*split([entry(NOON)], NOON), *split([meal], NOON, "treatments")]
    report = ingest(
        workspace, get_provider("nightscout"), [Arrival(user.user_id, found, NOON)], "poll"
    )
    # Readings feed one table, a meal two.
    assert marks(workspace) == {("body", DAY), ("body", past), ("nutrition", past)}
    assert report.touched == {user.user_id: {DAY, past}}


def test_nothing_new_marks_nothing(workspace: Workspace, user: User, clock: StandingClock) -> None:
    take_in(workspace, user, [entry(NOON)])
    workspace.registry.clear_touched(workspace.registry.touched())
    clock.advance(minutes=5)
    assert take_in(workspace, user, [entry(NOON)]).unchanged == 1
    assert marks(workspace) == set()


def test_nobody_brought_anything(workspace: Workspace) -> None:
    assert ingest(workspace, get_provider("nightscout"), [], "poll").touched == {}


def test_a_crash_before_the_write_leaves_the_mark_and_no_record(
    workspace: Workspace, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise StoppedError

    monkeypatch.setattr(workspace.lake.storage, "create", stop)
    with pytest.raises(StoppedError):
        take_in(workspace, user, [entry(NOON)])
    assert ("body", DAY) in marks(workspace)
    assert list(workspace.lake.storage.list("raw/")) == []


def test_a_table_made_between_mark_and_write_is_made_again(
    workspace: Workspace, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = workspace.lake.storage.create
    cell = Partition(DAY, user.user_id)

    def update_first(path: str, data: bytes) -> str:
        # Somebody sees the first mark, finds the old raw and clears the mark.
        if path.startswith("raw/"):
            update_table(workspace, "body", [cell])
            assert ("body", DAY) not in marks(workspace)
        return real(path, data)

    monkeypatch.setattr(workspace.lake.storage, "create", update_first)
    take_in(workspace, user, [entry(NOON)])
    assert ("body", DAY) in marks(workspace)
    update_table(workspace, "body", [cell])
    assert samples_of(read_table(workspace.lake, "body", cell)) == [(NOON, 100.0)]


def test_two_doors_that_bring_the_same_at_once_give_it_once(
    workspace: Workspace, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have read what is stored before either has written."""
    real = RawStore._known
    inner = False

    def known(self: RawStore, *args: Any) -> Any:
        nonlocal inner
        found = real(self, *args)
        if not inner:
            inner = True
            take_in(workspace, user, [entry(NOON), entry(MIDNIGHT)])
        return found

    monkeypatch.setattr(RawStore, "_known", known)
    take_in(workspace, user, [entry(NOON), entry(MIDNIGHT)])
    monkeypatch.undo()
    cell = Partition(DAY, user.user_id)
    assert workspace.lake.raw.read(["nightscout"], [cell]).height == 4
    refresh(workspace.lake, "body", [cell])
    found = read_table(workspace.lake, "body", cell)
    assert samples_of(found) == [(MIDNIGHT, 100.0), (NOON, 100.0)]
    assert found["revision"].to_list() == [2]


def test_two_merges_of_the_same_segments_at_once_lose_nothing(
    workspace: Workspace, user: User, monkeypatch: pytest.MonkeyPatch, clock: StandingClock
) -> None:
    for number in range(MERGE_ABOVE_SEGMENTS):
        take_in(workspace, user, [entry(MIDNIGHT + timedelta(minutes=number))])
        clock.advance(minutes=5)
    real = workspace.lake.storage.create
    state: Mapping[str, list[str]] = {"merging": []}

    def create(path: str, data: bytes) -> str:
        if "-merged-" in path and not state["merging"]:
            state["merging"].append(path)
            prefix = path.rsplit("/", 1)[0] + "/"
            workspace.lake.raw._merge_segments(prefix)
        return real(path, data)

    monkeypatch.setattr(workspace.lake.storage, "create", create)
    take_in(workspace, user, [entry(NOON)])
    assert state["merging"] != []
    cell = Partition(DAY, user.user_id)
    assert workspace.lake.raw.read(["nightscout"], [cell]).height == MERGE_ABOVE_SEGMENTS + 1
    assert len(list(workspace.lake.storage.list("raw/"))) == 1


def test_a_record_without_time_seen_on_both_sides_of_midnight_stays_on_its_days(
    workspace: Workspace, user: User
) -> None:
    """Two pages of one fetch, the day changing between them: what a day holds is its own affair."""
    from wearable_pipeline.providers import get_provider
    from wearable_pipeline.raw.ingest import ingest
    from wearable_pipeline.raw.store import Arrival
    from wearable_pipeline_tests.faults.entries import split

    document = {**entry(NOON), "date": None}
    before = datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC)
    after = before + timedelta(seconds=2)
    records = [*split([document], before), *split([document], after)]
    ingest(workspace, get_provider("nightscout"), [Arrival(user.user_id, records, after)], "poll")
    cells = [Partition(day, user.user_id) for day in (DAY, DAY + timedelta(days=1))]
    together = workspace.lake.raw.read(["nightscout"], cells)
    apart = [workspace.lake.raw.read(["nightscout"], [cell]) for cell in cells]
    assert together.height == sum(frame.height for frame in apart)
