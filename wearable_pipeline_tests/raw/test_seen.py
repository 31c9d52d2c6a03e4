"""Only what is new is read, and nothing is lost by it: what raw ends up with is what comparing would give."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wearable_pipeline.errors import TransientError
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Client, Connection, Page, Provider, Window
from wearable_pipeline.raw import poll as poll_module
from wearable_pipeline.raw.poll import PollReport, poll, poll_in_parts
from wearable_pipeline.raw.store import RawStore, latest_revisions
from wearable_pipeline.registry import Registry, User
from wearable_pipeline.sandbox.libre_linkup import factory_timestamp
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace, open_workspace
from wearable_pipeline_tests.conftest import StandingClock

LIBRE = "freestyle_libre"
DAY = date(2026, 11, 20)
# A factor; `make faults` takes 10.
EXAMPLES = int(os.environ.get("WEARABLE_TEST_EXAMPLES", "1"))
Point = tuple[datetime, int, int]
"""When, how much, hours east of UTC the phone showed."""


def graph(points: Sequence[Point]) -> bytes:
    """An answer whose graph has these points, the last of them as the current reading, too."""

    def item(point: Point, kind: int) -> str:
        at, value, hours = point
        shown = at + timedelta(hours=hours)
        return (
            f'{{"FactoryTimestamp": "{factory_timestamp(int(at.timestamp()))}", '
            f'"Timestamp":"{factory_timestamp(int(shown.timestamp()))}","type":{kind},'
            f'"ValueInMgPerDl":{value}}}'
        )

    items = ",\n ".join(item(point, 0) for point in points[:-1])
    current = item(points[-1], 1) if points else "null"
    return (
        f'{{"status":0,"data":{{"connection":{{"patientId":"p","glucoseMeasurement":{current}}},'
        f'"graphData":[{items}]}}}}'
    ).encode()


def libre_that_shows(*bodies: bytes, error: Exception | None = None) -> Provider:
    """LibreLinkUp whose next fetch gets these answers."""

    async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
        for body in bodies:
            for resource in ("current", "graph"):
                yield Page(resource, body, window.now, {"patient_id": "p", "timezone": None})
        if error is not None:
            raise error

    return replace(get_provider(LIBRE), fetch=fetch)


def ask(workspace: Workspace, users: Sequence[User], provider: Provider) -> PollReport:
    now = workspace.now()
    return poll(workspace, provider, users, Window(now.date(), now.date(), now))


def stored(workspace: Workspace, users: Sequence[User]) -> pl.DataFrame:
    """The newest revision of every record, over all partitions."""
    cells = workspace.lake.raw.partitions(LIBRE)
    raw = workspace.lake.raw.read([LIBRE], cells, user_ids=[user.user_id for user in users])
    return (
        latest_revisions(raw)
        .select("user_id", "resource", "record_id", "local_date", "body", "is_deleted")
        .sort("user_id", "resource", "record_id", "local_date")
    )


@pytest.fixture
def user(workspace: Workspace) -> User:
    return workspace.registry.add_user(LIBRE, user_id="ann", config={"patient_id": "p"})


def every_five(clock: StandingClock, count: int, value: int = 100) -> list[Point]:
    """Readings up to now, five minutes apart."""
    return [
        (clock.at - timedelta(minutes=5 * back), value + back, 0)
        for back in range(count - 1, -1, -1)
    ]


def test_the_second_answer_costs_its_new_items_alone(
    workspace: Workspace, user: User, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = every_five(clock, 100)
    first = ask(workspace, [user], libre_that_shows(graph(points)))
    assert (first.appended.new, first.appended.unchanged) == (100, 0)

    def no_reading(*arguments: object) -> object:
        raise AssertionError("what is stored was read")

    monkeypatch.setattr(RawStore, "_read_folder", no_reading)
    clock.advance(minutes=5)
    later = [*points[1:], (clock.at, 140, 0)]
    second = ask(workspace, [user], libre_that_shows(graph(later)))
    # The newest reading, and the one before it as a point of the graph.
    assert (second.appended.new, second.appended.unchanged) == (2, 98)
    assert second.failures == {}


def test_an_old_point_that_changes_is_a_new_revision(
    workspace: Workspace, user: User, clock: StandingClock
) -> None:
    points = every_five(clock, 20)
    ask(workspace, [user], libre_that_shows(graph(points)))
    clock.advance(minutes=5)
    corrected = [
        (at, 77 if index == 3 else value, 0) for index, (at, value, _) in enumerate(points)
    ]
    report = ask(workspace, [user], libre_that_shows(graph(corrected)))
    assert (report.appended.new, report.appended.changed) == (0, 1)
    bodies = stored(workspace, [user])["body"].to_list()
    assert sum(b'"ValueInMgPerDl":77' in body for body in bodies) == 1
    # And back again: the comparison is with the answer before, not with any ever seen.
    clock.advance(minutes=5)
    report = ask(workspace, [user], libre_that_shows(graph(points)))
    assert (report.appended.new, report.appended.changed) == (0, 1)


def test_readings_that_move_to_another_day_leave_the_first(
    workspace: Workspace, user: User, clock: StandingClock
) -> None:
    clock.at = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
    points = every_five(clock, 5)
    ask(workspace, [user], libre_that_shows(graph(points)))
    clock.advance(minutes=5)
    moved = [(at, value, 1) for at, value, _ in points]
    ask(workspace, [user], libre_that_shows(graph(moved)))
    found = stored(workspace, [user])
    standing = found.filter(~pl.col("is_deleted"))
    assert standing["local_date"].unique().to_list() == [DAY + timedelta(days=1)]
    assert standing.height == 5


def test_a_crash_after_the_write_is_looked_up_not_believed(
    workspace: Workspace, user: User, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = every_five(clock, 10)
    ask(workspace, [user], libre_that_shows(graph(points)))
    clock.advance(minutes=5)
    later = [*points, (clock.at, 140, 0)]
    with monkeypatch.context() as broken:
        broken.setattr(Registry, "record_sync", _die)
        with pytest.raises(KeyboardInterrupt):
            ask(workspace, [user], libre_that_shows(graph(later)))
    assert workspace.registry.load_seen([user.user_id]) == {}
    report = ask(workspace, [user], libre_that_shows(graph(later)))
    assert (report.appended.new, report.appended.unchanged) == (0, 11)
    assert stored(workspace, [user]).height == 12


def test_a_crash_before_the_write_loses_nothing(
    workspace: Workspace, user: User, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = every_five(clock, 10)
    ask(workspace, [user], libre_that_shows(graph(points)))
    clock.advance(minutes=5)
    later = [*points, (clock.at, 140, 0)]
    with monkeypatch.context() as broken:
        broken.setattr(RawStore, "append", _die)
        with pytest.raises(KeyboardInterrupt):
            ask(workspace, [user], libre_that_shows(graph(later)))
    ask(workspace, [user], libre_that_shows(graph(later)))
    assert stored(workspace, [user]).height == 12


def _die(*arguments: object, **named: object) -> None:
    raise KeyboardInterrupt


def test_a_lake_started_anew_gets_everything_again(
    workspace: Workspace, user: User, clock: StandingClock
) -> None:
    other = workspace.registry.add_user(LIBRE, user_id="bob", config={"patient_id": "p"})
    points = every_five(clock, 10)
    ask(workspace, [user, other], libre_that_shows(graph(points)))
    shutil.rmtree(Path(workspace.settings.lake) / "raw")
    clock.advance(minutes=5)
    later = [*points, (clock.at, 140, 0)]
    for one in (user, other):
        report = ask(workspace, [one], libre_that_shows(graph(later)))
        assert report.appended.new == 11


def test_a_lake_restored_from_yesterday_gets_what_is_missing_for_each_member_of_a_cohort(
    make_settings: Callable[..., Settings], clock: StandingClock, tmp_path: Path
) -> None:
    with open_workspace(make_settings(cohorts=1), clock) as workspace:
        users = [
            workspace.registry.add_user(LIBRE, user_id=name, config={"patient_id": "p"})
            for name in ("ann", "bob")
        ]
        points = every_five(clock, 10)
        ask(workspace, users, libre_that_shows(graph(points[:5])))
        raw = Path(workspace.settings.lake) / "raw"
        shutil.copytree(raw, tmp_path / "backup")
        clock.advance(minutes=5)
        ask(workspace, users, libre_that_shows(graph(points)))
        shutil.rmtree(raw)
        shutil.copytree(tmp_path / "backup", raw)
        clock.advance(minutes=5)
        # The first one's new segment must not vouch for the second one's lost one.
        for user in users:
            ask(workspace, [user], libre_that_shows(graph(points)))
            assert stored(workspace, [user])["record_id"].n_unique() == 10


def test_merged_segments_still_vouch_for_what_they_hold(
    workspace: Workspace, user: User, clock: StandingClock
) -> None:
    points = every_five(clock, 3)
    for _ in range(30):
        ask(workspace, [user], libre_that_shows(graph(points)))
        clock.advance(minutes=5)
        points = [*points, (clock.at, 120, 0)]
    report = ask(workspace, [user], libre_that_shows(graph(points)))
    assert (report.appended.new, report.appended.unchanged) == (2, 31)


def test_a_failed_fetch_keeps_what_came_and_claims_nothing(
    workspace: Workspace, user: User, clock: StandingClock
) -> None:
    points = every_five(clock, 10)
    broken = libre_that_shows(graph(points), error=TransientError("no answer"))
    assert set(ask(workspace, [user], broken).failures) == {"ann"}
    assert stored(workspace, [user]).height == 10
    assert workspace.registry.load_seen([user.user_id]) == {}
    clock.advance(minutes=10)
    report = ask(workspace, [user], libre_that_shows(graph(points)))
    assert (report.appended.new, report.appended.unchanged) == (0, 10)


def test_another_time_zone_of_the_person_is_read_again(
    workspace: Workspace, user: User, clock: StandingClock
) -> None:
    """Where the phone's clock is of no use the date comes from the person's zone."""
    clock.at = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
    body = graph([(clock.at, 100, 33)])

    def shown_in(zone: str | None) -> Provider:
        async def fetch(
            client: Client, connection: Connection, window: Window
        ) -> AsyncIterator[Page]:
            yield Page("current", body, window.now, {"patient_id": "p", "timezone": zone})

        return replace(get_provider(LIBRE), fetch=fetch)

    ask(workspace, [user], shown_in(None))
    clock.advance(minutes=5)
    ask(workspace, [user], shown_in("Europe/Berlin"))
    standing = stored(workspace, [user]).filter(~pl.col("is_deleted"))
    assert standing["local_date"].to_list() == [DAY + timedelta(days=1)]


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 12), st.integers(60, 63), st.integers(0, 1)),
            max_size=6,
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(
    max_examples=10 * EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_is_shown_raw_ends_as_if_everything_had_been_compared(
    make_settings: Callable[..., Settings],
    tmp_path_factory: pytest.TempPathFactory,
    shown: list[list[tuple[int, int, int]]],
) -> None:
    """Points come, go, change and move between days: with and without the memory, the same records."""
    start = datetime(2026, 11, 20, 22, 30, tzinfo=UTC)
    ends = []
    for remembers in (True, False):
        clock = StandingClock(start)
        home = tmp_path_factory.mktemp("home")
        with open_workspace(make_settings().model_copy(update={"home": home}), clock) as workspace:
            user = workspace.registry.add_user(LIBRE, user_id="ann", config={"patient_id": "p"})
            for answer in shown:
                slots = {slot: (value, hours) for slot, value, hours in answer}
                points = [
                    (start + timedelta(minutes=5 * slot), value, hours)
                    for slot, (value, hours) in sorted(slots.items())
                ]
                report = ask(workspace, [user], libre_that_shows(graph(points)))
                assert report.failures == {}
                clock.advance(minutes=5)
                if not remembers:
                    seen = workspace.registry.load_seen(["ann"])
                    workspace.registry.forget_seen(seen)
            ends.append(stored(workspace, [user]))
    assert ends[0].rows() == ends[1].rows()


# --- many users


def test_a_slow_user_holds_nobody_up(
    workspace: Workspace, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll_module, "STRAGGLER_SECONDS", 0.0)
    users = [
        workspace.registry.add_user(LIBRE, user_id=name, config={"patient_id": "p"})
        for name in ("ann", "bob", "eve")
    ]
    body = graph(every_five(clock, 3))

    async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
        if connection.user_id == "bob":
            # Bob's answer comes only when the others are in raw.
            while workspace.lake.raw.read([LIBRE], [Partition(DAY, "eve")]).is_empty():  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.02)
        yield Page("graph", body, window.now, {"patient_id": "p", "timezone": None})

    provider = replace(get_provider(LIBRE), fetch=fetch)
    now = workspace.now()
    parts = list(poll_in_parts(workspace, provider, users, Window(now.date(), now.date(), now)))
    assert [part.users for part in parts] == [2, 1]
    assert sum(part.appended.new for part in parts) == 6


def test_a_long_history_is_written_in_parts_and_the_cursor_moves_at_the_end(
    workspace: Workspace, user: User, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll_module, "BYTES_PER_PART", 500)
    monkeypatch.setattr(poll_module, "BYTES_IN_HAND", 1_000)
    points = every_five(clock, 100)
    pages = [graph(points[first : first + 10]) for first in range(0, 100, 10)]
    written_at_the_last: list[int] = []

    def fetching(error: Exception | None) -> Provider:
        async def fetch(
            client: Client, connection: Connection, window: Window
        ) -> AsyncIterator[Page]:
            for body in pages:
                yield Page("graph", body, window.now, {"patient_id": "p", "timezone": None})
            written_at_the_last.append(
                workspace.lake.raw.read([LIBRE], [Partition(DAY, "ann")]).height
            )
            connection.state["cursor"] = "moved"
            if error is not None:
                raise error

        return replace(get_provider(LIBRE), fetch=fetch)

    report = ask(workspace, [user], fetching(TransientError("no answer")))
    assert report.users == 1
    assert report.appended.new == 90
    assert workspace.registry.load_states(["ann"])["ann"].state == {}
    clock.advance(minutes=10)
    report = ask(workspace, [user], fetching(None))
    assert (report.appended.new, report.pages) == (0, 10)
    assert workspace.registry.load_states(["ann"])["ann"].state == {"cursor": "moved"}
    assert stored(workspace, [user]).height == 90
    assert written_at_the_last[0] > 0


def test_whoever_stops_listening_stops_the_fetching(
    workspace: Workspace, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll_module, "USERS_PER_BATCH", 1)
    users = [
        workspace.registry.add_user(LIBRE, user_id=f"u{n}", config={"patient_id": "p"})
        for n in range(30)
    ]
    asked: list[str] = []
    body = graph(every_five(clock, 3))

    async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
        asked.append(connection.user_id)
        await asyncio.sleep(0.01)
        yield Page("graph", body, window.now, {"patient_id": "p", "timezone": None})

    provider = replace(get_provider(LIBRE), fetch=fetch, max_concurrency=1)
    now = workspace.now()
    parts = poll_in_parts(workspace, provider, users, Window(now.date(), now.date(), now))
    next(parts)
    parts.close()
    assert 1 <= len(asked) < 30
    states = workspace.registry.load_states([user.user_id for user in users])
    assert sum(state.last_success_at is not None for state in states.values()) == 1
