"""A provider that misbehaves for one person: that person waits, the others are complete."""

from datetime import timedelta
from typing import Any

import pytest

from wearable_pipeline.raw import client as client_module
from wearable_pipeline.registry import SyncState, User
from wearable_pipeline.sandbox import people as sandbox_people
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.faults.cast import (
    NOW,
    cgm_of,
    each_once,
    glob_body,
    poll_everybody,
    update_touched,
)
from wearable_pipeline_tests.faults.test_kills import expected_of

LIBRE = ("ada", "bo", "cleo")
# What one poll of one user may cost when everything goes wrong: three tries of the first request, or of
# the second, or a token renewed in between.
MOST_REQUESTS = 12

FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("500", {}, "transient"),
    ("429", {"retry_after": 900}, "rate_limited"),
    ("429", {}, "rate_limited"),
    ("timeout", {"delay": 5}, "transient"),
    ("html", {}, "bad_payload"),
    ("truncated", {}, "bad_payload"),
    ("garbage", {}, "bad_payload"),
    ("disconnect", {}, "transient"),
    ("redirect_loop", {}, "permanent"),
    ("401", {}, "not_connected"),
]
OWN_OF_LIBRE: list[tuple[str, dict[str, Any], str]] = [
    ("lockout", {}, "transient"),
    ("maintenance", {}, "transient"),
    ("html", {}, "rate_limited"),
    ("html", {"status": 429}, "rate_limited"),
]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that gives up after half a second and hardly waits between tries."""
    real = client_module.HttpClient.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"timeout": 0.5, "wait_initial": 0.001, "requests_per_second": 1e6}
        real(self, *args, **kwargs)

    monkeypatch.setattr(client_module.HttpClient, "__init__", init)


def state_of(workspace: Workspace, user: User) -> SyncState:
    return workspace.registry.load_states([user.user_id])[user.user_id]


def asked_about(sandbox: SandboxProcess, name: str) -> int:
    """Requests that named the person in their path: one by one for Nightscout, all for Libre."""
    who = sandbox_people.person(name)
    part = f"/nightscout/{name}/" if who.source == "nightscout" else "/libre/"
    return sum(count for path, count in sandbox.requests().items() if part in path)


def assert_complete(workspace: Workspace, users: dict[str, User]) -> None:
    update_touched(workspace, users.values())
    body = glob_body(workspace)
    for name, user in users.items():
        assert each_once(cgm_of(body, user.user_id)) == expected_of(name, NOW), name


def fails_alone_and_recovers(
    workspace: Workspace,
    people: dict[str, User],
    sandbox: SandboxProcess,
    clock: StandingClock,
    victim: str,
    others: tuple[str, ...],
    fault: tuple[str, dict[str, Any], str],
) -> None:
    kind, parts, error_class = fault
    everybody = {name: people[name] for name in (victim, *others)}
    sandbox.fault(kind, person=victim, times=None, **parts)
    reports = poll_everybody(workspace, everybody.values(), days=0)
    failures = {
        user: found for report in reports.values() for user, found in report.failures.items()
    }
    user = people[victim]
    assert set(failures) == {user.user_id}
    assert failures[user.user_id][0] == error_class
    state = state_of(workspace, user)
    assert state.error_class == error_class
    assert state.failures == 1
    assert state.next_due_at is not None
    assert state.next_due_at - clock.at >= timedelta(seconds=parts.get("retry_after") or 225)
    # Whoever is not due, locked out or no longer connected is not asked by the sensor's question.
    due = workspace.registry.due_users(clock.at, [user.provider])
    assert user.user_id not in [one.user_id for one in due]
    if state.locked_until is not None:
        sandbox.clear_requests()
        poll_everybody(workspace, [user], days=0)
        assert asked_about(sandbox, victim) == 0

    sandbox.clear_faults()
    clock.at = max(state.next_due_at, state.locked_until or clock.at)
    if error_class == "not_connected":
        clock.at = NOW + timedelta(minutes=1)
        workspace.registry.set_status(user.user_id, "connected")
        clock.advance(seconds=1)
    reports = poll_everybody(workspace, [user], days=0)
    assert all(report.failures == {} for report in reports.values())
    assert state_of(workspace, user).failures == 0
    assert_complete(workspace, everybody)


@pytest.mark.parametrize("fault", FAULTS, ids=[f"{k}{p or ''}" for k, p, _ in FAULTS])
def test_a_nightscout_site_in_trouble_fails_alone_and_recovers(
    workspace: Workspace,
    people: dict[str, User],
    sandbox: SandboxProcess,
    clock: StandingClock,
    fault: tuple[str, dict[str, Any], str],
) -> None:
    fails_alone_and_recovers(workspace, people, sandbox, clock, "dag", ("esi",), fault)


# A page that says 1015 is the web front's throttle.
ALL_OF_LIBRE = [fault for fault in FAULTS if fault[0] in ("500", "401", "truncated")] + OWN_OF_LIBRE


@pytest.mark.parametrize("fault", ALL_OF_LIBRE, ids=[f"{k}{p or ''}" for k, p, _ in ALL_OF_LIBRE])
def test_a_libre_account_in_trouble_fails_alone_and_recovers(
    workspace: Workspace,
    people: dict[str, User],
    sandbox: SandboxProcess,
    clock: StandingClock,
    fault: tuple[str, dict[str, Any], str],
) -> None:
    fails_alone_and_recovers(workspace, people, sandbox, clock, "bo", ("cleo",), fault)


@pytest.mark.parametrize("victim", ["dag", "bo"])
@pytest.mark.parametrize("kind", ["500", "401", "429", "lockout"])
def test_trouble_is_no_reason_to_knock_without_end(
    workspace: Workspace, people: dict[str, User], sandbox: SandboxProcess, victim: str, kind: str
) -> None:
    sandbox.fault(kind, person=victim, times=None)
    sandbox.clear_requests()
    poll_everybody(workspace, [people[victim]], days=0)
    asked = asked_about(sandbox, victim)
    assert 1 <= asked <= MOST_REQUESTS
    # However often a run is started: whoever is not due is not asked.
    for _ in range(5):
        due = workspace.registry.due_users(workspace.now(), [people[victim].provider])
        assert people[victim].user_id not in [one.user_id for one in due]
    assert asked_about(sandbox, victim) == asked


def test_a_lockout_is_respected_by_everybody_who_might_ask(
    workspace: Workspace, people: dict[str, User], sandbox: SandboxProcess, clock: StandingClock
) -> None:
    sandbox.fault("lockout", person="bo", times=1)
    poll_everybody(workspace, [people["bo"]], days=0)
    locked_until = state_of(workspace, people["bo"]).locked_until
    assert locked_until == NOW + timedelta(seconds=300)
    sandbox.clear_requests()
    clock.at = NOW + timedelta(seconds=299)
    poll_everybody(workspace, [people["bo"]], days=0)
    assert asked_about(sandbox, "bo") == 0
    clock.at = NOW + timedelta(seconds=300)
    poll_everybody(workspace, [people["bo"]], days=0)
    assert asked_about(sandbox, "bo") > 0


def test_an_account_that_moved_to_another_region_is_followed(
    workspace: Workspace, people: dict[str, User], sandbox: SandboxProcess
) -> None:
    sandbox.fault("wrong_region", person="bo", path="/graph", times=1)
    (report,) = poll_everybody(workspace, [people["bo"]], days=0).values()
    assert report.failures == {}
    assert_complete(workspace, {"bo": people["bo"]})


def test_a_fault_in_the_middle_keeps_what_came_before_and_loses_nothing_after(
    workspace: Workspace, people: dict[str, User], sandbox: SandboxProcess, clock: StandingClock
) -> None:
    sandbox.fault("truncated", person="dag", path="treatments", times=1)
    (report,) = poll_everybody(workspace, [people["dag"]], days=0).values()
    assert report.appended.new > 100
    assert set(report.failures) == {people["dag"].user_id}
    clock.advance(hours=7)
    (report,) = poll_everybody(workspace, [people["dag"]], days=0).values()
    assert report.failures == {}
    assert_complete(workspace, {"dag": people["dag"]})


def test_one_persons_silence_does_not_hold_the_others_up(
    workspace: Workspace,
    people: dict[str, User],
    sandbox: SandboxProcess,
) -> None:
    sandbox.fault("timeout", person="dag", times=None, delay=30)
    users = {name: people[name] for name in ("dag", "esi", "ada", "bo", "cleo")}
    reports = poll_everybody(workspace, users.values(), days=0)
    assert set(reports["nightscout"].failures) == {people["dag"].user_id}
    assert_complete(workspace, {name: user for name, user in users.items() if name != "dag"})
