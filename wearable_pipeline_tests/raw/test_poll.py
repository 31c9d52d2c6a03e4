"""One user's failure is that user's: its class, its next try, and nobody else's business."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    RateLimitedError,
    TransientError,
)
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Client, Connection, Page, Provider, Window
from wearable_pipeline.raw import poll as poll_module
from wearable_pipeline.raw.poll import LONGEST_BACK_OFF, REFUSED_BACK_OFF, PollReport, poll
from wearable_pipeline.registry import SyncState, User
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.faults.entries import DAY, NOON, add_user, entry

CANARY = "canary-of-a-body"
Behave = Callable[[Connection], object]


def page(*documents: object, body: bytes | None = None) -> Page:
    content = body if body is not None else msgspec.json.encode(documents)
    return Page("entries", content, NOON, {"timezone": None})


def provider_that(*steps: Behave) -> Provider:
    """Nightscout whose fetch does `steps`: a page is yielded, an exception raised."""

    async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
        for step in steps:
            result = step(connection)
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, Page):
                yield result

    return replace(get_provider("nightscout"), fetch=fetch)


def fail(error: Exception) -> Behave:
    return lambda connection: error


def give(*documents: object, body: bytes | None = None) -> Behave:
    return lambda connection: page(*documents, body=body)


def for_user(user: User, step: Behave) -> Behave:
    return lambda connection: step(connection) if connection.user_id == user.user_id else None


@pytest.fixture
def users(workspace: Workspace) -> list[User]:
    return [add_user(workspace) for _ in range(3)]


def run(workspace: Workspace, provider: Provider, users: list[User]) -> PollReport:
    now = workspace.now()
    return poll(workspace, provider, users, Window(now.date(), now.date(), now))


def state_of(workspace: Workspace, user: User) -> SyncState:
    return workspace.registry.load_states([user.user_id])[user.user_id]


def stored(workspace: Workspace, user: User) -> int:
    cell = Partition(DAY, user.user_id)
    return workspace.lake.raw.read(["nightscout"], [cell]).height


ERRORS: list[tuple[Exception, str]] = [
    (TransientError("nightscout: no answer in time"), "transient"),
    (RateLimitedError("nightscout: slow down", timedelta(minutes=9)), "rate_limited"),
    (NotConnectedError("nightscout: refused"), "not_connected"),
    (BadPayloadError("nightscout: a web page"), "bad_payload"),
    (PermanentError("nightscout: refused"), "permanent"),
    (RecursionError(CANARY), "bad_payload"),
    (UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY), "bad_payload"),
    (KeyError(CANARY), "bad_payload"),
    (OverflowError(CANARY), "bad_payload"),
    (msgspec.ValidationError(CANARY), "bad_payload"),
]


@pytest.mark.parametrize(
    ("error", "error_class"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS]
)
def test_a_users_error_is_noted_by_class_and_the_others_are_complete(
    workspace: Workspace,
    users: list[User],
    error: Exception,
    error_class: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    bad = users[1]
    provider = provider_that(for_user(bad, fail(error)), give(entry(NOON)))
    report = run(workspace, provider, users)
    assert set(report.failures) == {bad.user_id}
    assert report.failures[bad.user_id][0] == error_class
    assert [stored(workspace, user) for user in users] == [1, 0, 1]
    state = state_of(workspace, bad)
    assert (state.error_class, state.failures, state.last_success_at) == (error_class, 1, None)
    assert CANARY not in f"{state.error_message} {report.failures} {caplog.text}"
    assert all(state_of(workspace, user).failures == 0 for user in (users[0], users[2]))


@pytest.mark.parametrize(
    "body",
    [
        b'[{"identifier":"a","note":"\xff"}]',
        b'[{"identifier":"a","note":' + b"[" * 5000 + b"]" * 5000 + b"}]",
        b'[{"identifier":"a","note":"\\ud83d"}]',
        b'[{"identifier":"a","date":1e400}]',
        b"[" * 100_000,
        b"\x00\x01\x02",
        b"<html>",
    ],
    ids=["not utf-8", "deep", "half a surrogate", "too large", "very deep", "binary", "html"],
)
def test_no_body_of_one_user_stops_the_others(
    workspace: Workspace, users: list[User], body: bytes
) -> None:
    bad = users[0]
    provider = provider_that(for_user(bad, give(body=body)), give(entry(NOON)))
    run(workspace, provider, users)
    assert stored(workspace, users[1]) == stored(workspace, users[2]) == 1


def test_what_arrived_before_a_failure_is_kept_and_the_cursor_stays(
    workspace: Workspace, users: list[User], clock: StandingClock
) -> None:
    def move(connection: Connection) -> None:
        connection.state["cursor"] = connection.state.get("cursor", 0) + 1  # type: ignore[operator]

    good = provider_that(move, give(entry(NOON)))
    run(workspace, good, users)
    clock.advance(minutes=5)
    broken = provider_that(
        move, give(entry(NOON), entry(NOON - timedelta(hours=1))), fail(ERRORS[0][0])
    )
    run(workspace, broken, users)
    assert stored(workspace, users[0]) == 2
    assert state_of(workspace, users[0]).state == {"cursor": 1}


def test_waiting_grows_with_failures_up_to_an_hour(
    workspace: Workspace, users: list[User], clock: StandingClock
) -> None:
    provider = provider_that(fail(TransientError("no answer")))
    for failures, minutes in enumerate((5, 10, 20, 40, 60, 60, 60)):
        run(workspace, provider, users[:1])
        due = state_of(workspace, users[0]).next_due_at
        assert due is not None
        shortest = timedelta(minutes=minutes)
        assert shortest <= due - clock.at <= shortest * 1.1 + timedelta(seconds=1), failures
        clock.at = due


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (PermanentError("refused"), REFUSED_BACK_OFF),
        (BadPayloadError("a web page"), REFUSED_BACK_OFF),
        (RateLimitedError("slow down", timedelta(hours=5)), timedelta(hours=5)),
        (TransientError("locked", timedelta(hours=2)), timedelta(hours=2)),
        (TransientError("trouble", timedelta(days=7)), timedelta(days=7)),
    ],
)
def test_each_error_waits_as_long_as_it_should(
    workspace: Workspace, users: list[User], error: Exception, wait: timedelta
) -> None:
    run(workspace, provider_that(fail(error)), users[:1])
    due = state_of(workspace, users[0]).next_due_at
    assert due is not None
    assert wait <= due - workspace.now() <= wait * 1.1
    assert wait >= LONGEST_BACK_OFF


@pytest.mark.parametrize(
    "error",
    [
        RateLimitedError("slow down", timedelta(minutes=9)),
        TransientError("locked after failed logins", timedelta(minutes=9)),
    ],
    ids=["rate limited", "locked"],
)
def test_before_the_time_a_provider_named_it_is_asked_by_nobody(
    workspace: Workspace, users: list[User], clock: StandingClock, error: Exception
) -> None:
    asked = 0

    def count(connection: Connection) -> None:
        nonlocal asked
        asked += 1

    run(workspace, provider_that(fail(error)), users[:1])
    assert state_of(workspace, users[0]).locked_until == clock.at + timedelta(minutes=9)
    clock.advance(minutes=8, seconds=59)
    report = run(workspace, provider_that(count, give(entry(NOON))), users)
    assert asked == 2
    assert report.users == 3
    ((user_id, (error_class, text)),) = report.failures.items()
    assert (user_id, error_class) == (users[0].user_id, "rate_limited")
    assert "2026-11-20 12:09Z" in text
    # Not having asked is no attempt.
    assert state_of(workspace, users[0]).failures == 1
    clock.advance(seconds=1)
    run(workspace, provider_that(count, give(entry(NOON))), users[:1])
    assert asked == 3
    assert state_of(workspace, users[0]).locked_until is None


def test_a_throttle_without_a_time_locks_until_the_next_try(
    workspace: Workspace, users: list[User]
) -> None:
    run(workspace, provider_that(fail(RateLimitedError("slow down"))), users[:1])
    state = state_of(workspace, users[0])
    assert state.locked_until == state.next_due_at is not None


def test_who_lost_the_connection_is_not_asked_until_connected_again(
    workspace: Workspace, users: list[User], clock: StandingClock
) -> None:
    run(workspace, provider_that(fail(NotConnectedError("refused"))), users[:1])
    again = workspace.registry.get_user(users[0].user_id)
    assert again.status == "needs_reauth"
    assert run(workspace, provider_that(give(entry(NOON))), [again]).users == 0
    workspace.registry.set_status(again.user_id, "connected")
    clock.advance(minutes=1)
    back = workspace.registry.get_user(again.user_id)
    assert run(workspace, provider_that(give(entry(NOON))), [back]).failures == {}
    assert stored(workspace, back) == 1


def test_a_success_forgets_the_failures(
    workspace: Workspace, users: list[User], clock: StandingClock
) -> None:
    run(workspace, provider_that(fail(TransientError("no answer"))), users[:1])
    clock.advance(minutes=30)
    run(workspace, provider_that(give(entry(NOON))), users[:1])
    state = state_of(workspace, users[0])
    assert (state.failures, state.error_class, state.error_message) == (0, None, None)
    assert state.last_success_at == clock.at


def test_credentials_changed_during_a_fetch_are_stored_even_if_it_fails(
    workspace: Workspace, users: list[User]
) -> None:
    def rotate(connection: Connection) -> None:
        connection.credentials["token"] = "rotated"
        connection.save_credentials()

    run(workspace, provider_that(rotate, fail(TransientError("no answer"))), users[:1])
    assert workspace.registry.load_credentials(users[0].user_id) == {"token": "rotated"}


def test_a_user_whose_credentials_cannot_be_read_fails_alone(
    workspace: Workspace, users: list[User]
) -> None:
    import sqlite3

    path = Path(workspace.settings.home) / "registry.sqlite"
    workspace.registry.save_credentials(users[0].user_id, {"token": "x"})
    with sqlite3.connect(path) as database:
        database.execute(
            "update wearable_credentials set token = ? where user_id = ?",
            (b"broken", users[0].user_id),
        )
    report = run(workspace, provider_that(give(entry(NOON))), users)
    assert set(report.failures) == {users[0].user_id}
    assert [stored(workspace, user) for user in users] == [0, 1, 1]


def test_more_users_than_one_batch_are_all_asked(
    workspace: Workspace, users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll_module, "USERS_PER_BATCH", 2)
    done: list[int] = []
    now = workspace.now()
    window = Window(now.date(), now.date(), now)
    report = poll(workspace, provider_that(give(entry(NOON))), users, window, done.append)
    assert (report.users, report.appended.new, done) == (3, 3, [2, 3])


def test_an_overtaken_poll_does_not_put_the_cursor_back(
    workspace: Workspace, users: list[User], clock: StandingClock
) -> None:
    def overtaken(connection: Connection) -> None:
        connection.state["cursor"] = 1
        clock.advance(minutes=1)

        def newer(inner: Connection) -> None:
            inner.state["cursor"] = 2

        import threading

        thread = threading.Thread(target=run, args=(workspace, provider_that(newer), users[:1]))
        thread.start()
        thread.join()

    run(workspace, provider_that(overtaken), users[:1])
    assert state_of(workspace, users[0]).state == {"cursor": 2}


def test_the_report_counts_pages_and_records(workspace: Workspace, users: list[User]) -> None:
    provider = provider_that(give(entry(NOON)), give(entry(NOON), entry(NOON - timedelta(hours=1))))
    report = run(workspace, provider, users[:1])
    assert (report.pages, report.appended.new, report.users) == (2, 2, 1)
    assert report.appended.touched == {
        users[0].user_id: {datetime(2026, 11, 20, tzinfo=UTC).date()}
    }


def test_a_throttle_that_speaks_to_the_app_is_known_to_every_process(
    workspace: Workspace, users: list[User]
) -> None:
    slow_down = RateLimitedError("nightscout: slow down", timedelta(minutes=9))
    scopes: list[tuple[Literal["account", "app"], bool]] = [("account", False), ("app", True)]
    for scope, is_blocked in scopes:
        provider = replace(
            provider_that(for_user(users[0], fail(slow_down)), give(entry(NOON))),
            limit_scope=scope,
        )
        started = time.time()
        run(workspace, provider, users[:1])
        turns = workspace.registry.reserve_turns("nightscout", 1, 1.0, time.time())
        assert (turns.count == 0) == is_blocked
        if is_blocked:
            assert 0 <= turns.blocked_until - started - 540 < 60
        workspace.registry.set_status(users[0].user_id, "disconnected")
        workspace.registry.set_status(users[0].user_id, "connected")
