"""How fast a provider may be asked: turns out of a budget that all processes share."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from wearable_pipeline.errors import RateLimitedError
from wearable_pipeline.registry import Registry, Turns

# How long a block of turns may last: what a process that dies at once takes from the others.
_BLOCK_SECONDS = 1.0
# A turn is good for so long after its time. Later it might meet other processes' turns.
_GRACE_SECONDS = 0.25

Sleep = Callable[[float], Awaitable[None]]


class SharedPace:
    """Turns for every task of this process, reserved in blocks: one write to the registry each.

    All processes together ask at most `per_second` times a second in the long run. In any one second it
    may be a quarter more, because a turn is good for a quarter of a second after its time. Of that rate
    this process takes `share` at most: history leaves the rest to readings that are due.
    """

    def __init__(
        self,
        registry: Registry,
        provider: str,
        per_second: float,
        *,
        share: float = 1.0,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._registry = registry
        self._provider = provider
        self._per_second = per_second
        self._share = share
        self._not_before = 0.0
        self._clock = clock
        self._sleep = sleep
        self._turns = Turns(0.0, 0, 0.0)
        self._taken = 0
        self._waiting = 0
        self._size = 1
        self._lock = asyncio.Lock()

    async def wait(self) -> None:
        """Return when this caller's turn has come.

        Raises RateLimitedError when the provider told everybody to wait.
        """
        self._waiting += 1
        try:
            turn = self._take()
            while turn is None:
                async with self._lock:
                    turn = self._take()
                    if turn is None:
                        await self._reserve()
                        turn = self._take()
        finally:
            self._waiting -= 1
        ahead = turn - self._clock()
        if ahead > 0:
            await self._sleep(ahead)

    def _take(self) -> float | None:
        """The time of the next turn of the block that is not over; None when there is none left."""
        turns = self._turns
        oldest = self._clock() - _GRACE_SECONDS
        if turns.gap > 0 and turns.starts_at + self._taken * turns.gap < oldest:
            self._taken = max(self._taken, int((oldest - turns.starts_at) / turns.gap) + 1)
        if self._taken >= turns.count:
            return None
        self._taken += 1
        return turns.starts_at + (self._taken - 1) * turns.gap

    async def _reserve(self) -> None:
        # Whoever used up a block may want more the next time; whoever let it go by, less.
        most = max(1, int(self._per_second * _BLOCK_SECONDS))
        is_used_up = self._clock() <= self._turns.starts_at + (
            self._turns.count * self._turns.gap + _GRACE_SECONDS
        )
        self._size = min(self._size * 2, most) if is_used_up else 1
        count = min(max(self._waiting, self._size), most)
        if self._not_before > self._clock():
            await self._sleep(self._not_before - self._clock())
        now = self._clock()
        turns = await asyncio.to_thread(
            self._registry.reserve_turns, self._provider, count, self._per_second, now
        )
        if turns.blocked_until > now:
            raise RateLimitedError(
                f"{self._provider}: not asked: everybody was told to wait",
                timedelta(seconds=turns.blocked_until - now),
            )
        self._turns = turns
        self._taken = 0
        if self._share < 1:
            self._not_before = turns.starts_at + turns.count * turns.gap / self._share
