"""Events: noted with the change that makes them true, offered to every destination once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from wearable_pipeline.errors import UsageError
from wearable_pipeline.registry import Registry, SyncResult

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
Forward = Callable[..., datetime]


def told(registry: Registry, user_id: str = "ann") -> list[str]:
    return [event.type for event in registry.events_of(user_id)]


def test_a_status_that_changes_is_an_event_and_one_that_stays_is_none(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann", event="auth")
    registry.set_status("ann", "connected")
    assert told(registry) == ["auth"]
    for status in ("needs_reauth", "needs_reauth", "connected", "revoked", "disconnected"):
        registry.set_status("ann", status)
    assert told(registry)[1:] == ["connection_error", "user_reauth", "access_revoked", "deauth"]


def test_a_user_that_could_not_be_added_leaves_no_event(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann", account_hash="h")
    with pytest.raises(UsageError):
        registry.add_user("oura", user_id="bob", account_hash="h", event="auth")
    assert told(registry, "bob") == []
    assert registry.want_events("webhook") == 0


def test_an_attempt_older_than_the_last_change_of_the_user_is_no_event(
    registry: Registry, forward: Forward
) -> None:
    registry.add_user("oura", user_id="ann")
    forward(minutes=1)
    registry.set_status("ann", "needs_reauth")
    registry.set_status("ann", "connected")

    def refused(at: datetime) -> SyncResult:
        return SyncResult(
            user_id="ann",
            attempted_at=at,
            next_due_at=None,
            error_class="not_connected",
            error_message="HTTP 401",
            status="revoked",
        )

    registry.record_sync([refused(NOON)])
    assert registry.get_user("ann").status == "connected"
    assert told(registry) == ["connection_error", "user_reauth"]
    registry.record_sync([refused(forward(minutes=1))])
    assert registry.get_user("ann").status == "revoked"
    assert told(registry)[-1] == "access_revoked"


def test_an_event_for_one_destination_is_offered_to_no_other(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.note_event("ann", "large_request_processing", {"reference": "r"}, destination="one")
    assert registry.want_events("two") == 0
    assert registry.want_events("one") == 1
    (row,) = registry.deliveries("one")
    assert (row.table, row.reference, row.status) == ("large_request_processing", "r", "pending")


def test_an_event_is_claimed_before_any_row(registry: Registry, forward: Forward) -> None:
    registry.add_user("oura", user_id="ann", event="auth")
    registry.want_events("webhook")
    (first,) = registry.claim("webhook", NOON, 1)
    assert (first.table, first.attempts) == ("auth", 1)
    assert first.trace_id == first.row_key == registry.events_of("ann")[0].event_id
    registry.acknowledge([first])
    assert registry.counts("webhook").delivered == 1
    # What happened once does not happen again because data are sent again.
    assert registry.redeliver("webhook") == 0


def test_eight_offering_at_once_offer_each_event_once(registry: Registry) -> None:
    for number in range(30):
        registry.add_user("oura", user_id=f"u{number}", event="auth")
    with ThreadPoolExecutor(8) as pool:
        offered = list(pool.map(lambda _: registry.want_events("webhook"), range(8)))
    assert sum(offered) == 30
    assert len(registry.deliveries("webhook")) == 30


def test_no_event_is_passed_over_while_others_are_being_noted(registry: Registry) -> None:
    def note(number: int) -> None:
        registry.add_user("oura", user_id=f"u{number}", event="auth")
        registry.want_events("webhook")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(note, range(40)))
    registry.want_events("webhook")
    assert len(registry.deliveries("webhook")) == 40
