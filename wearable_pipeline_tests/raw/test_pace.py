"""Turns of this process: spaced, reserved in blocks, let go when their time is over."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from wearable_pipeline.errors import QuotaSpentError, RateLimitedError
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Answer, Quota
from wearable_pipeline.raw.pace import OfAccount, SharedPace, SharedQuotas, allowances_of
from wearable_pipeline.registry import Allowance
from wearable_pipeline.workspace import Workspace


class Clock:
    """Epoch seconds that pass only by sleeping."""

    def __init__(self) -> None:
        self.at = 1_795_000_000.0

    def __call__(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


def paces(workspace: Workspace, count: int, per_second: float, clock: Clock) -> list[SharedPace]:
    return [
        SharedPace(workspace.registry, "libre", per_second, clock=clock, sleep=clock.sleep)
        for _ in range(count)
    ]


def test_one_caller_is_spaced_by_the_rate(workspace: Workspace) -> None:
    clock = Clock()
    (pace,) = paces(workspace, 1, 10.0, clock)
    left: list[float] = []

    async def run() -> None:
        for _ in range(25):
            await pace.wait()
            left.append(clock.at)

    asyncio.run(run())
    gaps = [later - earlier for earlier, later in pairwise(left)]
    assert all(gap >= 0.0999 for gap in gaps)
    assert left[-1] - left[0] == pytest.approx(2.4, abs=0.01)


def test_processes_together_stay_within_the_rate(workspace: Workspace) -> None:
    clock = Clock()
    left: list[float] = []

    async def run() -> None:
        several = paces(workspace, 4, 20.0, clock)
        for turn in range(100):
            await several[turn % 4].wait()
            left.append(clock.at)

    asyncio.run(run())
    # 20 a second; a turn may be taken up to a quarter of a second late and meet the next ones.
    for start in left:
        assert sum(start <= at < start + 1.0 for at in left) <= 25
    assert left[-1] - left[0] >= 99 / 20 - 0.26


def test_turns_whose_time_is_over_are_let_go(workspace: Workspace) -> None:
    clock = Clock()
    (pace,) = paces(workspace, 1, 10.0, clock)
    left: list[float] = []

    async def run() -> None:
        for _ in range(8):
            await pace.wait()
        # The process was busy elsewhere: its block has passed.
        clock.at += 30
        for _ in range(5):
            await pace.wait()
            left.append(clock.at)

    asyncio.run(run())
    gaps = [later - earlier for earlier, later in pairwise(left)]
    assert all(gap >= 0.0999 for gap in gaps)


def test_a_provider_that_told_everybody_to_wait_is_not_asked(workspace: Workspace) -> None:
    clock = Clock()
    (pace,) = paces(workspace, 1, 10.0, clock)
    workspace.registry.block_turns("libre", clock.at + 90)
    with pytest.raises(RateLimitedError) as caught:
        asyncio.run(pace.wait())
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == pytest.approx(90)


def test_history_leaves_the_rest_of_the_rate_to_readings_that_are_due(workspace: Workspace) -> None:
    clock = Clock()
    left: list[float] = []
    pace = SharedPace(workspace.registry, "libre", 20.0, share=0.5, clock=clock, sleep=clock.sleep)

    async def run() -> None:
        for _ in range(100):
            await pace.wait()
            left.append(clock.at)

    asyncio.run(run())
    # 20 a second, of which half: 100 turns take ten seconds, but for the last block's own.
    assert left[-1] - left[0] >= 9.0
    for start in left:
        # Half of 80 in four seconds, and what of one block of 20 comes before its pause.
        assert sum(start <= at < start + 4.0 for at in left) <= 60


# The clock begins 400 s into a quarter of an hour.
QUARTER = Allowance("strava/900s", 100, 900.0)
DAY = Allowance("strava/86400s", 150, 86_400.0)


async def ask(pace: SharedPace | SharedQuotas, times: int) -> int:
    """How many of `times` requests may be made until one is refused."""
    for done in range(times):
        try:
            await (pace.wait() if isinstance(pace, SharedPace) else pace.take())
        except QuotaSpentError:
            return done
    return times


def quotas(
    workspace: Workspace, clock: Clock, *allowances: Allowance, share: float = 1.0
) -> SharedQuotas:
    return SharedQuotas(
        workspace.registry, "strava", allowances, share=share, clock=clock, sleep=clock.sleep
    )


def test_processes_together_ask_no_oftener_than_the_quota_of_a_window(workspace: Workspace) -> None:
    clock = Clock()
    several = [
        SharedPace(
            workspace.registry,
            "strava",
            50.0,
            quotas=quotas(workspace, clock, QUARTER),
            clock=clock,
            sleep=clock.sleep,
        )
        for _ in range(4)
    ]

    async def run() -> list[int]:
        return [await ask(pace, 40) for pace in several]

    assert asyncio.run(run()) == [40, 40, 20, 0]


def test_who_is_refused_hears_when_the_window_ends_and_writes_nothing_until_then(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    asked = quotas(workspace, clock, QUARTER)
    assert asyncio.run(ask(asked, 1_000)) == 100
    with pytest.raises(QuotaSpentError) as caught:
        asyncio.run(asked.take())
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == pytest.approx(500)

    def spend(*_: object, **__: object) -> None:
        raise AssertionError("it is known that nothing is left")

    with monkeypatch.context() as patch:
        patch.setattr(workspace.registry, "spend", spend)
        with pytest.raises(QuotaSpentError):
            asyncio.run(asked.take())
    clock.at += 500
    assert asyncio.run(ask(asked, 1_000)) == 100


def test_what_was_set_aside_in_one_window_is_not_asked_for_in_the_next(
    workspace: Workspace,
) -> None:
    clock = Clock()
    early, late = (quotas(workspace, clock, QUARTER) for _ in range(2))
    # Blocks are of two: one request of the first window is left in hand.
    assert asyncio.run(ask(early, 1)) == 1
    clock.at += 500
    assert asyncio.run(ask(late, 1_000)) == 100
    assert asyncio.run(ask(early, 1)) == 0


def test_history_waits_for_the_next_quarter_but_not_for_the_next_day(workspace: Workspace) -> None:
    clock = Clock()
    began = clock.at
    history = quotas(workspace, clock, QUARTER, DAY, share=0.5)
    # Half of 100 in this quarter of an hour, and of the day's 75 the last 25 in the next one.
    assert asyncio.run(ask(history, 1_000)) == 75
    assert clock.at == began + 500
    live = quotas(workspace, clock, QUARTER, DAY)
    # The quarter's other 75, which are the day's other 75.
    assert asyncio.run(ask(live, 1_000)) == 75


def test_a_reading_that_is_due_finds_the_half_history_left(workspace: Workspace) -> None:
    clock = Clock()
    assert asyncio.run(ask(quotas(workspace, clock, DAY, share=0.5), 1_000)) == 75
    assert asyncio.run(ask(quotas(workspace, clock, DAY), 1_000)) == 75


def test_documented_quotas_are_counted_for_the_app_and_apart_for_each_account() -> None:
    strava = get_provider("strava")
    assert allowances_of(strava, "app", 2.0) == (
        Allowance("strava/900s", 200, 900.0),
        Allowance("strava/86400s", 2_000, 86_400.0),
    )
    assert allowances_of(strava, "account", 1.0, "ann") == ()
    limited = replace(strava, quotas=(Quota(150, timedelta(hours=1), of="account"),))
    assert allowances_of(limited, "account", 1.0, "ann") == (
        Allowance("strava/3600s/ann", 150, 3_600.0),
    )


def test_every_request_of_an_account_counts_and_its_neighbours_do_not(workspace: Workspace) -> None:
    clock = Clock()
    for name in ("ann", "bob"):
        workspace.registry.add_user("fitbit", user_id=name)
    limited = replace(get_provider("fitbit"), quotas=(Quota(3, timedelta(hours=1), of="account"),))
    asked: list[str] = []

    class Service:
        async def request(self, method: str, url: str, **_: object) -> Answer:
            asked.append(f"{method} {url}")
            return Answer(200, {}, b"", datetime(2026, 11, 20, tzinfo=UTC))

    def client_of(user_id: str) -> OfAccount:
        own = SharedQuotas(
            workspace.registry,
            "fitbit",
            allowances_of(limited, "account", 1.0, user_id),
            user_id=user_id,
            clock=clock,
            sleep=clock.sleep,
        )
        return OfAccount(Service(), own)

    async def run() -> None:
        # Two processes at work on one account.
        await client_of("ann").request("GET", "/a")
        again = client_of("ann")
        await again.request("GET", "/b")
        await again.request("GET", "/c")
        with pytest.raises(QuotaSpentError):
            await again.request("GET", "/d")
        await client_of("bob").request("GET", "/e")

    asyncio.run(run())
    assert asked == ["GET /a", "GET /b", "GET /c", "GET /e"]
