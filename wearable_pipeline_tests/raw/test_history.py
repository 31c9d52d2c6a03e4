"""Old days of many users in one run: so many requests at a time, nobody's failure another's, no more than
history's share of what a provider allows."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
import yarl

from wearable_pipeline.partitions import Members, Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import (
    Client,
    Connection,
    Page,
    Provider,
    Quota,
    Window,
)
from wearable_pipeline.raw import client as client_module
from wearable_pipeline.raw.history import fetch_history
from wearable_pipeline.raw.poll import PollReport, poll
from wearable_pipeline.registry import History, User
from wearable_pipeline.registry.backfills import slot_of, window_days
from wearable_pipeline.settings import ProviderSettings
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.faults.entries import NOON, add_user, entry

PAGES = 3
START, END = window_days(slot_of(NOON.date()) - 1)
OLD = NOON.replace(year=START.year, month=START.month, day=START.day)
SITE = "https://ns.example.org"


class Site:
    """Answers in place of the network: a page per request; remembers how many were on their way at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.refusing: set[str] = set()
        self.garbling: set[str] = set()

    async def send(
        self, method: str, url: yarl.URL, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        user_id, number = url.parts[1:]
        self.asked.append(user_id)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        for _ in range(20):
            await asyncio.sleep(0)
        self.in_flight -= 1
        if user_id in self.refusing:
            return 404, {}, b""
        if user_id in self.garbling and number == "1":
            return 200, {}, b"[{"
        return 200, {}, msgspec.json.encode([entry(OLD + timedelta(minutes=5 * int(number)))])

    async def close(self) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> Site:
    there = Site()
    monkeypatch.setattr(client_module, "_Network", lambda *_: there)
    workspace.settings.providers["nightscout"] = ProviderSettings(requests_per_second=1e6)
    return there


def asking(**changes: object) -> Provider:
    """Nightscout that is asked for three pages of each user."""

    async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
        for number in range(PAGES):
            answer = await client.request("GET", f"{SITE}/{connection.user_id}/{number}")
            yield Page("entries", answer.body, answer.fetched_at, {"timezone": None})

    return replace(get_provider("nightscout"), fetch=fetch, **changes)  # type: ignore[arg-type]


def queued(workspace: Workspace, count: int) -> list[User]:
    users = [add_user(workspace) for _ in range(count)]
    workspace.registry.queue_history(
        [History(user.user_id, "nightscout", START, END) for user in users]
    )
    return users


def read_history(workspace: Workspace, provider: Provider) -> PollReport:
    return fetch_history(workspace, provider, slot_of(END), Members())


def pages_of(workspace: Workspace, user: User) -> int:
    cell = Partition(START, user.user_id)
    return workspace.lake.raw.read(["nightscout"], [cell]).height


def test_many_users_are_asked_so_many_at_a_time_and_no_more(
    workspace: Workspace, site: Site
) -> None:
    users = queued(workspace, 40)
    report = read_history(workspace, asking(max_concurrency=5))
    assert site.most_in_flight == 5
    assert len(site.asked) == 40 * PAGES
    assert (report.users, report.failures) == (40, {})
    assert {pages_of(workspace, user) for user in users} == {PAGES}
    assert [one.status for one in workspace.registry.backfill_totals()] == ["done"]


def test_the_failure_of_some_is_theirs_and_the_others_are_whole(
    workspace: Workspace, site: Site
) -> None:
    users = queued(workspace, 12)
    refused, garbled = users[3], users[7]
    site.refusing.add(refused.user_id)
    site.garbling.add(garbled.user_id)
    report = read_history(workspace, asking(max_concurrency=4))
    assert {user_id: told[0] for user_id, told in report.failures.items()} == {
        refused.user_id: "permanent",
        garbled.user_id: "bad_payload",
    }
    whole = [user for user in users if user not in (refused, garbled)]
    assert {pages_of(workspace, user) for user in whole} == {PAGES}
    # What came before the broken page is kept.
    assert (pages_of(workspace, refused), pages_of(workspace, garbled)) == (0, 1)
    left = workspace.registry.histories_in(
        slot_of(END), "nightscout", NOON + timedelta(hours=1), Members()
    )
    assert {one.user_id for one in left} == {refused.user_id, garbled.user_id}


def test_history_that_had_its_share_leaves_the_next_reading_where_it_was(
    workspace: Workspace, site: Site
) -> None:
    # Twelve requests a day, of which history takes six: those of two users.
    limited = asking(quotas=(Quota(12, timedelta(days=1)),), max_concurrency=1, limit_scope="app")
    users = queued(workspace, 3)
    before = workspace.registry.load_states([user.user_id for user in users])
    report = read_history(workspace, limited)
    assert len(site.asked) == 6
    ((user_id, (error_class, _)),) = report.failures.items()
    assert error_class == "quota_spent"
    assert workspace.registry.load_states([user_id]) == {
        one: state for one, state in before.items() if one == user_id
    }
    assert workspace.registry.locked_users([user_id], NOON) == {}

    # Its next try is at midnight, when the day's quota begins anew, not in an hour.
    for hours, waiting in ((11.9, []), (12, [user_id])):
        then = NOON + timedelta(hours=hours)
        found = workspace.registry.histories_in(slot_of(END), "nightscout", then, Members())
        assert [one.user_id for one in found] == waiting

    live = [user for user in users if user.user_id == user_id]
    window = Window(NOON.date(), NOON.date(), NOON)
    assert poll(workspace, limited, live, window).failures == {}
    assert len(site.asked) == 9


def test_an_account_that_spent_its_own_quota_stops_nobody_else(
    workspace: Workspace, site: Site
) -> None:
    limited = asking(quotas=(Quota(4, timedelta(hours=1), of="account"),), limit_scope="app")
    ann, bob = add_user(workspace), add_user(workspace)
    window = Window(NOON.date(), NOON.date(), NOON)
    assert poll(workspace, limited, [ann], window).failures == {}
    second = poll(workspace, limited, [ann, bob], window)
    assert {user_id: told[0] for user_id, told in second.failures.items()} == {
        ann.user_id: "quota_spent"
    }
    assert (site.asked.count(ann.user_id), site.asked.count(bob.user_id)) == (4, 3)
    # Asked again with the next hour, and not locked: a larger quota may have been granted by then.
    state = workspace.registry.load_states([ann.user_id])[ann.user_id]
    assert state.next_due_at is not None
    assert timedelta(hours=1) <= state.next_due_at - NOON <= timedelta(hours=1.1)
    assert workspace.registry.locked_users([ann.user_id], NOON) == {}
