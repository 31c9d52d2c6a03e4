"""The life of a connection, the same for every OAuth provider, over real HTTP against its sandbox.

A provider takes part because it is there: its half of the sandbox is the module of its name, mounted
under its name, with `PEOPLE`.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wearable_pipeline.providers import get_provider
from wearable_pipeline.raw import client as client_module
from wearable_pipeline.raw.push import take_in
from wearable_pipeline.registry import User
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.oauth_cast import (
    OAUTH_PROVIDERS,
    PUSH_SECRET,
    Served,
    connected,
    contents,
    fetch,
    people_of,
    posts_data,
    served,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
# Days enough for a row of every table; `make faults` takes 90.
HISTORY = 14
# Longer than the longest question these answer, so that they are asked two.
LONG_HISTORY = {"dexcom": 31, "garmin": 31}


def history_of(name: str) -> int:
    return int(os.environ.get("WEARABLE_TEST_HISTORY_DAYS", LONG_HISTORY.get(name, HISTORY)))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess(now=NOW) as running:
        yield running


@pytest.fixture(autouse=True)
def fast_and_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that paces nothing and hardly waits between tries."""
    real = client_module.HttpClient.__init__

    def init(self: object, *args: object, **kwargs: object) -> None:
        # A pace of its own: told to wait for everybody, the shared one does by the wall's clock.
        kwargs |= {"wait_initial": 0.001, "requests_per_second": 1e6, "pace": client_module.Pace}
        real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(client_module.HttpClient, "__init__", init)


class Life:
    """One person, one provider, one clock for both sides."""

    def __init__(self, there: Served, sandbox: SandboxProcess, clock: StandingClock, name: str):
        self.workspace = there.workspace
        self.there = there
        self.sandbox = sandbox
        self.clock = clock
        self.provider = name
        self.person = people_of(name)[0]
        self.posts = posts_data(name)
        if self.posts:
            sandbox.set_endpoint(name, f"{there.url}/in/{name}?key={PUSH_SECRET}")
        self.user = connected(there, name, self.person)

    def pass_time(self, **parts: float) -> None:
        self.sandbox.set_clock(self.clock.advance(**parts))

    def fetch(self, days: int = 0) -> None:
        report = fetch(self.workspace, self.user, days)
        assert report.failures == {}
        assert report.users == 1
        if self.posts:
            self.receive()

    def receive(self) -> None:
        """What was asked for, and what has happened since, is posted and taken in."""
        self.sandbox.deliver(self.provider)
        taken = take_in(self.workspace, get_provider(self.provider))
        assert taken is not None
        assert taken.parked == taken.postponed == 0

    def fail(self, days: int = 0) -> str:
        report = fetch(self.workspace, self.user, days)
        ((error_class, _),) = report.failures.values()
        return error_class

    @property
    def can_renew(self) -> bool:
        oauth = get_provider(self.provider).oauth
        return oauth is not None and oauth.refreshes

    def fetch_past_the_token(self, days: int = 0) -> None:
        """Fetch although the token ends: it is renewed, or the person connects again."""
        if not self.can_renew:
            assert self.fail(days) == "not_connected"
            assert self.known().status == "needs_reauth"
            again = connected(self.there, self.provider, self.person)
            assert again.user_id == self.user.user_id
        self.fetch(days)

    def known(self) -> User:
        return self.workspace.registry.get_user(self.user.user_id)

    def rows(self) -> dict[str, list[dict[str, object]]]:
        return contents(self.workspace, [self.user])


@pytest.fixture
def clock(sandbox: SandboxProcess) -> StandingClock:
    sandbox.set_clock(NOW)
    sandbox.clear_faults()
    return StandingClock(NOW)


def data_paths(name: str) -> str:
    """Paths of the provider that are neither its doors nor its controls."""
    return rf"^/{name}/(?!.*(oauth|token|authorize|control|grants))"


@pytest.mark.slow
@pytest.mark.parametrize("name", OAUTH_PROVIDERS)
def test_a_life_with_faults_ends_as_one_without(
    name: str, sandbox: SandboxProcess, clock: StandingClock, tmp_path: Path
) -> None:
    with served(tmp_path / "calm", sandbox, clock) as there:
        calm = Life(there, sandbox, clock, name)
        calm.fetch(history_of(name))
        assert all(rows for rows in calm.rows().values())
        calm.pass_time(hours=20)
        calm.fetch()
        calm.pass_time(hours=20)
        calm.fetch()
        expected = calm.rows()

    clock.at = NOW
    sandbox.set_clock(NOW)
    with served(tmp_path / "rough", sandbox, clock) as there:
        rough = Life(there, sandbox, clock, name)
        first = rough.workspace.registry.load_credentials(rough.user.user_id)
        # The token ends in the middle of the pages: it is renewed and the same page asked for again.
        sandbox.fault("401", path=data_paths(name), after=4)
        rough.fetch_past_the_token(history_of(name))
        assert rough.workspace.registry.load_credentials(rough.user.user_id) != first
        rough.pass_time(hours=20)
        sandbox.change_grant(name, rough.person, "expire")
        rough.fetch_past_the_token()
        rough.pass_time(hours=20)
        # Where data are posted, a fetch of the present asks but one question.
        asked_before = 0 if rough.posts else 2
        sandbox.fault("429", path=data_paths(name), after=asked_before)
        assert rough.fail() == "rate_limited"
        assert rough.known().status == "connected"
        sandbox.fault("500", path=data_paths(name), after=asked_before, times=3)
        later = rough.workspace.registry.load_states([rough.user.user_id])[rough.user.user_id]
        assert later.locked_until is not None
        clock.at = later.locked_until + timedelta(seconds=1)
        assert rough.fail() == "transient"
        sandbox.clear_faults()
        rough.fetch()
        assert rough.rows() == expected

        # Taken back at the provider: the connection ends, what was there stays.
        sandbox.change_grant(name, rough.person, "revoke")
        assert rough.fail() == "not_connected"
        if rough.can_renew:
            assert rough.known().status == "revoked"
            assert str(rough.known().status_reason).startswith("access_revoked")
        else:
            # Nothing tells a permission taken back from a token that has ended.
            assert rough.known().status == "needs_reauth"
        assert rough.rows() == expected
        # Nobody asks any more.
        sandbox.clear_requests()
        assert fetch(rough.workspace, rough.user).users == 0
        assert sandbox.requests() == {}

        # The same person again is the same user, and nothing is there twice.
        again = connected(there, name, rough.person)
        assert again.user_id == rough.user.user_id
        assert again.status == "connected"
        rough.fetch(7)
        assert rough.rows() == expected
