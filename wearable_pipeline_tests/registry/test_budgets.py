"""Turns to ask a provider: blocks of processes never overlap, a block order reaches everybody."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from wearable_pipeline.registry import Allowance, Registry, SetAside

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


# 1,795,000,000 is 400 s into a quarter of an hour and 40,000 s into a day of UTC (11:06:40).
QUARTER = Allowance("strava/900s", 10, 900.0)
DAY = Allowance("strava/86400s", 25, 86_400.0)
ENDS = NOW + 500
MIDNIGHT = NOW + 46_400


def test_a_quota_is_given_out_once_in_each_window(registry: Registry) -> None:
    assert registry.spend([QUARTER], 6, NOW) == SetAside(6, ENDS)
    assert registry.spend([QUARTER], 6, NOW + 100) == SetAside(4, ENDS)
    assert registry.spend([QUARTER], 1, ENDS - 0.001) == SetAside(0, ENDS)
    assert registry.spend([QUARTER], 6, ENDS) == SetAside(6, ENDS + 900)


def test_of_two_windows_the_fuller_one_decides_and_says_until_when(registry: Registry) -> None:
    both = [DAY, QUARTER]
    assert registry.spend(both, 99, NOW) == SetAside(10, ENDS)
    assert registry.spend(both, 99, ENDS) == SetAside(10, ENDS + 900)
    # 20 of the day's 25 are gone.
    assert registry.spend(both, 99, ENDS + 900) == SetAside(5, ENDS + 1800)
    assert registry.spend(both, 1, ENDS + 1800) == SetAside(0, MIDNIGHT)
    assert registry.spend(both, 99, MIDNIGHT) == SetAside(10, MIDNIGHT + 900)


def test_a_share_stops_where_all_together_have_spent_it_and_the_rest_stays_for_others(
    registry: Registry,
) -> None:
    assert registry.spend([QUARTER], 4, NOW) == SetAside(4, ENDS)
    assert registry.spend([QUARTER], 4, NOW, share=0.5) == SetAside(1, ENDS)
    assert registry.spend([QUARTER], 4, NOW, share=0.5) == SetAside(0, ENDS)
    assert registry.spend([QUARTER], 99, NOW) == SetAside(5, ENDS)


def test_every_one_of_a_large_quota_is_counted(registry: Registry) -> None:
    day = Allowance("google/86400s", 86_400_000, 86_400.0)
    for _ in range(50):
        assert registry.spend([day], 7, NOW) == SetAside(7, MIDNIGHT)
    assert registry.spend([day], 10**9, NOW) == SetAside(86_400_000 - 350, MIDNIGHT)


def test_a_clock_far_ahead_spends_nothing_of_the_windows_in_between(registry: Registry) -> None:
    registry.spend([QUARTER], 10, NOW + 86_400)
    assert registry.spend([QUARTER], 10, NOW) == SetAside(10, ENDS)


def test_an_accounts_quota_is_its_own(registry: Registry) -> None:
    registry.add_user("fitbit", user_id="ann")
    registry.add_user("fitbit", user_id="bob")
    anns, bobs = (Allowance(f"fitbit/3600s/{name}", 3, 3600.0) for name in ("ann", "bob"))
    assert registry.spend([anns], 3, NOW, user_id="ann").count == 3
    assert registry.spend([anns], 3, NOW, user_id="ann").count == 0
    assert registry.spend([bobs], 3, NOW, user_id="bob").count == 3


def test_of_who_was_erased_meanwhile_nothing_is_written_down(registry: Registry) -> None:
    registry.add_user("fitbit", user_id="ann")
    anns = Allowance("fitbit/3600s/ann", 3, 3600.0)
    registry.spend([anns], 1, NOW, user_id="ann")
    assert registry.delete_user("ann")["budgets"] == 1
    registry.spend([anns], 1, NOW, user_id="ann")
    assert registry.delete_user("ann")["budgets"] == 0


def test_many_at_once_spend_no_more_than_there_is(registry: Registry) -> None:
    both = [Allowance("strava/900s", 300, 900.0), Allowance("strava/86400s", 400, 86_400.0)]

    def spend(turn: int) -> int:
        return registry.spend(both if turn % 2 else both[::-1], 7, NOW).count

    with ThreadPoolExecutor(6) as pool:
        granted = list(pool.map(spend, range(60)))
    # Sevens until the window's 300 are gone: 42 of them, and the last six.
    assert sum(granted) == 300
    assert sorted(granted, reverse=True)[:43] == [7] * 42 + [6]
