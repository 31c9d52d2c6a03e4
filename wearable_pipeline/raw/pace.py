"""How fast and how often a provider may be asked: budgets that all processes share."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Literal

from wearable_pipeline.errors import QuotaSpentError, RateLimitedError
from wearable_pipeline.providers._contract import Answer, Client, Provider
from wearable_pipeline.registry import Allowance, Registry, Turns

# How long a block of turns may last: what a process that dies at once takes from the others.
_BLOCK_SECONDS = 1.0
# A turn is good for so long after its time. Later it might meet other processes' turns.
_GRACE_SECONDS = 0.25

# Requests of a quota set aside at once: what a process that ends takes from the others.
_BLOCK_SHARE = 50
_LARGEST_BLOCK = 100
# How long is waited for the next window. Readings that are due have a run to go on with; history has
# nothing else to do, and its windows begin at the latest with the next quarter of an hour.
_LIVE_WAIT = 20.0
_HISTORY_WAIT = 900.0
_WINDOWS_WAITED = 4

Sleep = Callable[[float], Awaitable[None]]


def allowances_of(
    provider: Provider,
    of: Literal["app", "account"],
    factor: float,
    user_id: str | None = None,
    *,
    people: int = 0,
) -> tuple[Allowance, ...]:
    """The quotas of a provider as the registry counts them; `factor` is how many times the documented.

    `people` are connected to it.
    """
    own = f"/{user_id}" if user_id else ""
    return tuple(
        Allowance(
            f"{provider.name}/{quota.window.total_seconds():g}s{own}",
            max(1, int((quota.requests + quota.per_user * people) * factor)),
            quota.window.total_seconds(),
        )
        for quota in provider.quotas
        if quota.of == of
    )


class SharedQuotas:
    """Requests out of quotas, set aside in small blocks: one write to the registry each.

    With a `share` below one it stops when that share is spent, by whomever: the rest is for readings that
    are due.
    """

    def __init__(
        self,
        registry: Registry,
        provider: str,
        allowances: Sequence[Allowance],
        *,
        share: float = 1.0,
        user_id: str | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._registry = registry
        self._provider = provider
        self._allowances = allowances
        self._share = share
        self._user_id = user_id
        self._clock = clock
        self._sleep = sleep
        self._left = 0
        self._until = 0.0
        self._spent_until = 0.0
        self._lock = asyncio.Lock()
        least = min((one.requests for one in allowances), default=0)
        self._block = max(1, min(least // _BLOCK_SHARE, _LARGEST_BLOCK))

    async def take(self) -> None:
        """Return when one more request may be made.

        Raises QuotaSpentError when the next window is too far away to wait for.
        """
        if not self._allowances:
            return
        async with self._lock:
            for _ in range(_WINDOWS_WAITED):
                if self._left and self._clock() < self._until:
                    break
                now = self._clock()
                if now >= self._spent_until:
                    given = await asyncio.to_thread(
                        self._registry.spend,
                        self._allowances,
                        self._block,
                        now,
                        share=self._share,
                        user_id=self._user_id,
                    )
                    if given.count:
                        self._left, self._until = given.count, given.until
                        break
                    self._spent_until = given.until
                wait = self._spent_until - now
                if wait > (_LIVE_WAIT if self._share >= 1 else _HISTORY_WAIT):
                    raise self._refuse(wait)
                await self._sleep(wait)
            else:
                raise self._refuse(max(self._spent_until - self._clock(), 0.0))
            self._left -= 1

    def _refuse(self, wait: float) -> QuotaSpentError:
        what = "what it allows" if self._share >= 1 else "the share of history in what it allows"
        return QuotaSpentError(
            f"{self._provider}: not asked: {what} is spent", timedelta(seconds=wait)
        )


class OfAccount:
    """A client whose every request counts against the quotas of one account; tries again count once."""

    def __init__(self, client: Client, quotas: SharedQuotas) -> None:
        self._client = client
        self._quotas = quotas

    async def request(self, method: str, url: str, **options: Any) -> Answer:
        """Return the answer as `Client` does, when the account's turn has come."""
        await self._quotas.take()
        return await self._client.request(method, url, **options)


class SharedPace:
    """Turns for every task of this process, reserved in blocks: one write to the registry each.

    All processes together ask at most `per_second` times a second in the long run. In any one second it
    may be a quarter more, because a turn is good for a quarter of a second after its time. Of that rate
    this process takes `share` at most: history leaves the rest to readings that are due. Every turn also
    counts against `quotas`.
    """

    def __init__(
        self,
        registry: Registry,
        provider: str,
        per_second: float,
        *,
        share: float = 1.0,
        quotas: SharedQuotas | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._quotas = quotas
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

        Raises RateLimitedError when the provider told everybody to wait, QuotaSpentError when its quotas
        are spent.
        """
        if self._quotas is not None:
            await self._quotas.take()
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
