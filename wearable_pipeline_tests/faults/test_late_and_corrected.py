"""Data that come late, are corrected or withdrawn; days that are longer, shorter or elsewhere."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from wearable_pipeline.destinations.delivery import deliver
from wearable_pipeline.partitions import Partition
from wearable_pipeline.registry import User
from wearable_pipeline.sandbox import people as sandbox_people
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.tables.normalize import normalize
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.faults.cast import (
    NOW,
    cgm_of,
    each_once,
    glob_body,
    received_rows,
    sync,
    update_touched,
)
from wearable_pipeline_tests.faults.entries import (
    add_user,
    entry,
    read_table,
    samples_of,
    take_in,
)
from wearable_pipeline_tests.faults.test_kills import cgm_of_payload

FIVE = timedelta(minutes=5)


def sync_raw(workspace: Workspace, user: User) -> None:
    """Tables and deliveries from what is in raw; nobody is asked."""
    update_touched(workspace, [user])
    deliver(workspace, "webhook", user_ids=[user.user_id])


def told(receiver: Receiver, user: User, day: date) -> list[tuple[datetime, float]]:
    row: Any = received_rows(receiver.posts()).get((user.user_id, day, "body"))
    return [] if row is None else sorted(cgm_of_payload(row))


def test_polling_on_for_two_days_ends_where_the_source_stands(
    workspace: Workspace,
    people: dict[str, User],
    sandbox: SandboxProcess,
    clock: StandingClock,
    receiver: Receiver,
) -> None:
    """Late readings, corrections a day after, deletions: all of them happen in two days."""
    user, who = people["dag"], sandbox_people.person("dag")
    for _ in range(5):
        sync(workspace, [user], days=0)
        sandbox.set_clock(clock.advance(hours=12))
    sync(workspace, [user], days=0)
    start = datetime(2026, 11, 19, tzinfo=UTC)
    expected = {(at, float(v)) for at, v in sandbox_people.truth(who, start, clock.at, clock.at)}
    assert each_once(cgm_of(glob_body(workspace), user.user_id)) == expected
    received = received_rows(receiver.posts())
    everything = [
        one
        for (_, _, kind), row in received.items()
        if kind == "body"
        for one in cgm_of_payload(row)
    ]
    assert each_once(everything) == expected
    readings = sandbox_people.readings(
        who, sandbox_people.epoch(start), sandbox_people.epoch(clock.at)
    )
    assert any(one.corrected_at and one.corrected_at <= clock.at.timestamp() for one in readings)
    assert any(one.deleted_at and one.deleted_at <= clock.at.timestamp() for one in readings)


def test_a_late_reading_reopens_its_old_day(
    workspace: Workspace, clock: StandingClock, receiver: Receiver
) -> None:
    user = add_user(workspace)
    old = NOW - timedelta(days=20)
    take_in(workspace, user, [entry(old), entry(NOW)])
    sync_raw(workspace, user)
    clock.advance(minutes=5)
    take_in(workspace, user, [entry(old - FIVE, 77)])
    sync_raw(workspace, user)
    assert told(receiver, user, old.date()) == [(old - FIVE, 77.0), (old, 100.0)]
    assert told(receiver, user, NOW.date()) == [(NOW, 100.0)]
    # The day that did not change was told once.
    days = [key for post in receiver.posts() for key in received_rows([post])]
    assert sorted(day for _, day, _ in days) == [old.date(), old.date(), NOW.date()]


def test_a_corrected_value_ends_newest_and_the_old_one_can_be_read_as_of_then(
    workspace: Workspace, clock: StandingClock, receiver: Receiver
) -> None:
    user = add_user(workspace)
    cell = Partition(NOW.date(), user.user_id)
    take_in(workspace, user, [entry(NOW - FIVE, 100), entry(NOW, 110)])
    sync_raw(workspace, user)
    before = clock.at
    clock.advance(hours=26)
    take_in(workspace, user, [entry(NOW - FIVE, 117)])
    sync_raw(workspace, user)
    expected = [(NOW - FIVE, 117.0), (NOW, 110.0)]
    assert samples_of(read_table(workspace.lake, "body", cell)) == expected
    assert told(receiver, user, NOW.date()) == expected
    then = workspace.lake.raw.read(["nightscout"], [cell], as_of=before)
    assert samples_of(normalize(then, "body").rows) == [(NOW - FIVE, 100.0), (NOW, 110.0)]


def test_a_deleted_reading_leaves_the_lake_and_the_new_row_is_told(
    workspace: Workspace, clock: StandingClock, receiver: Receiver
) -> None:
    user = add_user(workspace)
    take_in(workspace, user, [entry(NOW - FIVE, 47), entry(NOW)])
    sync_raw(workspace, user)
    clock.advance(minutes=90)
    take_in(workspace, user, [entry(NOW - FIVE, 47, isValid=False)])
    sync_raw(workspace, user)
    cell = Partition(NOW.date(), user.user_id)
    assert samples_of(read_table(workspace.lake, "body", cell)) == [(NOW, 100.0)]
    assert told(receiver, user, NOW.date()) == [(NOW, 100.0)]


def test_the_last_reading_of_a_day_deleted_withdraws_the_day(
    workspace: Workspace, clock: StandingClock, receiver: Receiver
) -> None:
    user = add_user(workspace)
    take_in(workspace, user, [entry(NOW, 47)])
    sync_raw(workspace, user)
    clock.advance(minutes=90)
    take_in(workspace, user, [entry(NOW, 47, isValid=False)])
    sync_raw(workspace, user)
    assert len(receiver.posts()) == 2
    assert told(receiver, user, NOW.date()) == []
    mine = workspace.registry.deliveries("webhook", [user.user_id])
    assert {row.status for row in mine} == {"delivered"}


def test_readings_around_midnight_lie_on_their_own_side_once(
    workspace: Workspace, clock: StandingClock
) -> None:
    user = add_user(workspace)
    midnight = datetime(2026, 11, 20, tzinfo=UTC)
    around = [entry(midnight + n * FIVE, 100 + n) for n in range(-3, 3)]
    take_in(workspace, user, around)
    clock.advance(minutes=5)
    take_in(workspace, user, around[2:])
    sync_raw(workspace, user)
    days = {
        day: samples_of(read_table(workspace.lake, "body", Partition(day, user.user_id)))
        for day in (date(2026, 11, 19), date(2026, 11, 20))
    }
    assert days[date(2026, 11, 19)] == [(midnight + n * FIVE, 100.0 + n) for n in (-3, -2, -1)]
    assert days[date(2026, 11, 20)] == [(midnight + n * FIVE, 100.0 + n) for n in (0, 1, 2)]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("Australia/Adelaide", date(2026, 4, 5), 25),
        ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
        ("America/New_York", date(2026, 11, 1), 25),
        ("Asia/Kathmandu", date(2026, 11, 1), 24),
    ],
)
def test_a_day_of_any_length_holds_every_reading_once_in_one_row(
    workspace: Workspace, clock: StandingClock, zone: str, day: date, hours: float
) -> None:
    place = ZoneInfo(zone)
    start = datetime(day.year, day.month, day.day, tzinfo=place).astimezone(UTC)
    count = int(hours * 12)
    clock.at = start + timedelta(hours=hours)
    user = add_user(workspace)

    def offset(at: datetime) -> int:
        found = at.astimezone(place).utcoffset()
        assert found is not None
        return int(found.total_seconds() // 60)

    instants = [start + n * FIVE for n in range(-1, count + 1)]
    take_in(workspace, user, [entry(at, utcOffset=offset(at)) for at in instants])
    sync_raw(workspace, user)
    body = glob_body(workspace)
    assert body["local_date"].to_list() == [day + timedelta(days=n) for n in (-1, 0, 1)]
    row = body.filter(pl.col("local_date") == day)
    assert [at for at, _ in samples_of(row)] == instants[1:-1]
    (bounds,) = row.select("start_at", "end_at").rows()
    assert bounds == (start, start + timedelta(hours=hours))


def test_a_flight_over_the_date_line_neither_doubles_nor_loses_a_reading(
    workspace: Workspace, clock: StandingClock
) -> None:
    """Honolulu (-10:00) to Tokyo (+9:00): the wall clock jumps nineteen hours ahead."""
    user = add_user(workspace)
    landing = datetime(2026, 11, 20, 4, tzinfo=UTC)
    clock.at = landing + timedelta(hours=6)
    instants = [landing + n * FIVE for n in range(-60, 60)]
    documents = [
        entry(at, utcOffset=-600 if at < landing else 540, identifier=f"i{n}")
        for n, at in enumerate(instants)
    ]
    take_in(workspace, user, documents[:80])
    clock.advance(minutes=5)
    take_in(workspace, user, documents[40:])
    sync_raw(workspace, user)
    body = glob_body(workspace)
    found = cgm_of(body, user.user_id)
    assert [at for at, _ in found] == instants
    # Before landing it is the 19th in Honolulu, after it the 20th in Tokyo.
    assert body["local_date"].to_list() == [date(2026, 11, 19), date(2026, 11, 20)]
    assert [len(samples_of(body[n])) for n in (0, 1)] == [60, 60]


def test_an_older_version_that_arrives_late_overwrites_nothing(
    workspace: Workspace, clock: StandingClock
) -> None:
    user = add_user(workspace)
    newer = {"srvModified": int(NOW.timestamp() * 1000)}
    older = {"srvModified": int((NOW - timedelta(hours=2)).timestamp() * 1000)}
    take_in(workspace, user, [entry(NOW, 120, **newer)])
    clock.advance(hours=1)
    take_in(workspace, user, [entry(NOW, 100, **older)])
    sync_raw(workspace, user)
    cell = Partition(NOW.date(), user.user_id)
    assert samples_of(read_table(workspace.lake, "body", cell)) == [(NOW, 120.0)]
