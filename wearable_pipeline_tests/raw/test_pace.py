"""Turns of this process: spaced, reserved in blocks, let go when their time is over."""

import asyncio
from itertools import pairwise

import pytest

from wearable_pipeline.errors import RateLimitedError
from wearable_pipeline.raw.pace import SharedPace
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
