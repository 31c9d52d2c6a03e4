"""The fleet speaks what the connector reads, everybody at their own second, the same every time."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Page, Record
from wearable_pipeline.registry import Registry
from wearable_pipeline.sandbox.fleet import GRAPH_POINTS, OFFSETS, FleetProcess, FleetUser
from wearable_pipeline.settings import Settings

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
USERS = 400


@pytest.fixture(scope="module")
def fleet() -> Iterator[FleetProcess]:
    with FleetProcess(USERS, now=NOW) as process:
        yield process


@pytest.fixture(autouse=True)
def start_of_time(fleet: FleetProcess) -> None:
    fleet.set_clock(NOW)
    fleet.limit(None)


def ask(fleet: FleetProcess, user: FleetUser, path: str) -> httpx.Response:
    return httpx.get(
        f"{fleet.origin}/libre/eu{path}",
        headers={"authorization": f"Bearer {user.token(2_000_000_000)}"},
        trust_env=False,
    )


def graph(fleet: FleetProcess, user: FleetUser) -> bytes:
    answer = ask(fleet, user, f"/llu/connections/{user.patient_id}/graph")
    assert answer.status_code == 200
    return answer.content


def records(body: bytes, resource: str) -> list[Record]:
    page = Page(resource, body, NOW, {"patient_id": "", "timezone": None})
    return list(get_provider("freestyle_libre").resource(resource).split(page))


def test_a_graph_has_twelve_hours_up_to_the_reading_before_the_newest(
    fleet: FleetProcess,
) -> None:
    for number in (0, 7, 399):
        user = FleetUser(number)
        body = graph(fleet, user)
        (current,) = records(body, "current")
        points = records(body, "graph")
        newest = user.newest_reading(NOW)
        assert current.taken_at == newest
        assert [one.taken_at for one in points] == [
            newest - timedelta(minutes=5 * (GRAPH_POINTS - index)) for index in range(GRAPH_POINTS)
        ]
        assert timedelta() <= NOW - newest < timedelta(minutes=5)
        offset = timedelta(seconds=OFFSETS[user.phase % len(OFFSETS)])
        assert current.local_date == (newest + offset).date()


def test_five_minutes_later_there_is_one_point_more_and_the_others_are_the_same_bytes(
    fleet: FleetProcess,
) -> None:
    user = FleetUser(11)
    before = [one.body for one in records(graph(fleet, user), "graph")]
    (was_newest,) = records(graph(fleet, user), "current")
    fleet.advance_clock(300)
    after = [one.body for one in records(graph(fleet, user), "graph")]
    assert after[:-1] == before[1:]
    assert records(graph(fleet, user), "graph")[-1].taken_at == was_newest.taken_at
    fleet.advance_clock(-300)
    assert [one.body for one in records(graph(fleet, user), "graph")] == before


def test_people_are_spread_over_the_five_minutes() -> None:
    assert len({FleetUser(number).phase for number in range(300)}) == 300


def test_a_login_gives_a_token_that_opens_only_the_own_graph(fleet: FleetProcess) -> None:
    user, other = FleetUser(3), FleetUser(4)
    answer = httpx.post(
        f"{fleet.origin}/libre/eu/llu/auth/login",
        json={"email": user.email, "password": user.password},
        trust_env=False,
    ).json()
    token = answer["data"]["authTicket"]["token"]
    headers = {"authorization": f"Bearer {token}"}
    mine = httpx.get(f"{fleet.origin}/libre/eu/llu/connections", headers=headers).json()
    assert [one["patientId"] for one in mine["data"]] == [user.patient_id]
    foreign = httpx.get(
        f"{fleet.origin}/libre/eu/llu/connections/{other.patient_id}/graph", headers=headers
    ).json()
    assert foreign["status"] == 4
    wrong = httpx.post(
        f"{fleet.origin}/libre/eu/llu/auth/login", json={"email": user.email, "password": "no"}
    ).json()
    assert wrong["status"] == 2
    expired = {"authorization": f"Bearer {user.token(int(NOW.timestamp()))}"}
    refused = httpx.get(f"{fleet.origin}/libre/eu/llu/connections", headers=expired)
    assert refused.status_code == 401


def test_a_limit_refuses_what_comes_faster(fleet: FleetProcess) -> None:
    fleet.limit(1)
    statuses = [ask(fleet, FleetUser(1), "/llu/connections").status_code for _ in range(3)]
    assert 429 in statuses


def test_a_fleet_is_registered_in_bulk_with_credentials_that_open(
    fleet: FleetProcess, make_settings: Callable[..., Settings]
) -> None:
    with Registry.open(make_settings(), lambda: NOW) as registry:
        ids = fleet.register(registry, range(5), now=NOW)
        assert ids == [FleetUser(number).user_id for number in range(5)]
        assert len(registry.due_users(NOW, ["freestyle_libre"])) == 5
        opened = registry.load_credentials(ids[2])
        assert opened["email"] == "fleet-2@sandbox.invalid"
        assert registry.get_user(ids[2]).config == {"patient_id": FleetUser(2).patient_id}
