"""Turns to ask a provider: blocks of processes never overlap, a block order reaches everybody."""

from collections.abc import Callable

import pytest

from wearable_pipeline.registry import Registry

NOW = 1_795_000_000.0


def test_blocks_follow_each_other_at_the_allowed_rate(registry: Registry) -> None:
    first = registry.reserve_turns("libre", 5, 10.0, NOW)
    second = registry.reserve_turns("libre", 10, 10.0, NOW)
    third = registry.reserve_turns("libre", 1, 10.0, NOW)
    assert (first.starts_at, first.count, first.gap) == (NOW, 5, 0.1)
    assert second.starts_at == pytest.approx(NOW + 0.5)
    assert third.starts_at == pytest.approx(NOW + 1.5)


def test_turns_nobody_took_are_not_saved_up(registry: Registry) -> None:
    registry.reserve_turns("libre", 5, 10.0, NOW)
    assert registry.reserve_turns("libre", 5, 10.0, NOW + 60).starts_at == NOW + 60


def test_budgets_of_two_names_know_nothing_of_each_other(registry: Registry) -> None:
    registry.reserve_turns("libre", 100, 1.0, NOW)
    registry.block_turns("libre", NOW + 50)
    assert registry.reserve_turns("oura", 1, 1.0, NOW).starts_at == NOW


def test_who_is_blocked_gets_no_turns_until_the_time_named(registry: Registry) -> None:
    registry.block_turns("oura", NOW + 30)
    refused = registry.reserve_turns("oura", 5, 10.0, NOW + 29.9)
    assert (refused.count, refused.blocked_until) == (0, NOW + 30)
    allowed = registry.reserve_turns("oura", 5, 10.0, NOW + 30)
    assert (allowed.count, allowed.starts_at, allowed.blocked_until) == (5, NOW + 30, 0.0)


def test_a_block_is_never_shortened(registry: Registry) -> None:
    registry.block_turns("oura", NOW + 300)
    registry.block_turns("oura", NOW + 10)
    assert registry.reserve_turns("oura", 1, 10.0, NOW + 11).blocked_until == NOW + 300


def test_a_clock_that_was_far_ahead_makes_nobody_wait_for_it(registry: Registry) -> None:
    registry.reserve_turns("oura", 1, 10.0, NOW + 86_400)
    assert registry.reserve_turns("oura", 1, 10.0, NOW).starts_at == NOW


def test_what_was_seen_is_forgotten_before_it_is_written_anew(
    registry: Registry, forward: Callable[..., object]
) -> None:
    from datetime import UTC, datetime

    from wearable_pipeline.registry import SyncResult

    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    for name in ("ann", "bob"):
        registry.add_user("freestyle_libre", user_id=name)
    registry.record_sync(
        [
            SyncResult(user_id=name, attempted_at=noon, next_due_at=noon, seen=name.encode())
            for name in ("ann", "bob")
        ]
    )
    assert registry.load_seen(["ann", "bob", "eve"]) == {"ann": b"ann", "bob": b"bob"}
    # Somebody else has written bob's since it was loaded.
    assert registry.forget_seen({"ann": b"ann", "bob": b"older", "eve": b"x"}) == {"bob", "eve"}
    assert registry.load_seen(["ann", "bob"]) == {}
    forward(minutes=5)
    registry.record_sync([SyncResult(user_id="ann", attempted_at=noon, next_due_at=noon)])
    assert registry.load_seen(["ann"]) == {}
