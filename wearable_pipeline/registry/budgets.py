"""Rate limits of providers, shared by all processes: who asks takes turns out of one row.

A process reserves a block of turns, evenly spaced at the allowed rate, with one write. Blocks of two
processes never overlap, so together they never ask faster than the limit. A turn that was not taken in
its time is gone: nobody saves turns up, and a process that dies takes none along.

Quotas of longer windows are counted in rows of the same table: how far `next_at` lies in the current
window, as a share of it, is how much of the quota is spent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.registry.schema import budgets, users
from wearable_pipeline.registry.store import Store


@dataclass(frozen=True, slots=True)
class Turns:
    """Reserved turns: the first at `starts_at` (epoch seconds), `count` of them, `gap` seconds apart.

    `blocked_until` lies ahead when the provider told everybody to wait: `count` is 0 then.
    """

    starts_at: float
    count: int
    gap: float
    blocked_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """So many requests in every window of so many seconds; windows begin at multiples of it.

    One that belongs to a user ends its name in `/<user_id>`, so that it is erased with them.
    """

    name: str
    requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SetAside:
    """`count` requests that may be made before `until`. None: there will be some again at `until`."""

    count: int
    until: float


class Budgets(Store):
    """Reserving turns, spending quotas and blocking.

    Time is the processes' own wall clock; machines that share a registry need theirs in step to well
    within a second.
    """

    def reserve_turns(self, name: str, count: int, per_second: float, now: float) -> Turns:
        """The next `count` turns of the budget `name`, none before `now`."""

        def reserve(connection: Connection) -> Turns:
            connection.execute(
                self._db.insert(budgets)
                .values(name=name, next_at=now, blocked_until=0.0)
                .on_conflict_do_nothing()
            )
            row = connection.execute(
                sa.select(budgets.c.next_at, budgets.c.blocked_until)
                .where(budgets.c.name == name)
                .with_for_update()
            ).one()
            if row.blocked_until > now:
                return Turns(row.blocked_until, 0, 1 / per_second, row.blocked_until)
            # A clock that was set back must not make everybody wait for it.
            starts_at = now if row.next_at > now + _FURTHEST else max(row.next_at, now)
            connection.execute(
                sa.update(budgets)
                .where(budgets.c.name == name)
                .values(next_at=starts_at + count / per_second)
            )
            return Turns(starts_at, count, 1 / per_second)

        return self._db.write(reserve)

    def spend(
        self,
        allowances: Sequence[Allowance],
        count: int,
        now: float,
        *,
        share: float = 1.0,
        user_id: str | None = None,
    ) -> SetAside:
        """Set aside up to `count` requests, of every allowance as many.

        None are given while `share` of an allowance, or more, is spent by whomever. For a `user_id` that
        was erased meanwhile nothing is counted.
        """

        def spend(connection: Connection) -> SetAside:
            until = min(_end(one, now) for one in allowances)
            if user_id is not None and not self._is_there(connection, user_id):
                return SetAside(count, until)
            # In one order for everybody, or two could wait for each other.
            spent = {
                one: self._spent(connection, one, now) for one in sorted(allowances, key=_name)
            }
            free = {one: max(1, int(one.requests * share)) - used for one, used in spent.items()}
            gone = [_end(one, now) for one, left in free.items() if left < 1]
            if gone:
                return SetAside(0, max(gone))
            granted = min(count, *free.values())
            for one, used in spent.items():
                connection.execute(
                    sa.update(budgets)
                    .where(budgets.c.name == one.name)
                    .values(
                        next_at=_start(one, now) + (used + granted) * one.seconds / one.requests
                    )
                )
            return SetAside(granted, until)

        return self._db.write(spend)

    def _is_there(self, connection: Connection, user_id: str) -> bool:
        # Held until the end: an erasure waits, and finds what is written here.
        query = sa.select(users.c.user_id).where(users.c.user_id == user_id)
        return connection.execute(query.with_for_update(key_share=True)).first() is not None

    def _spent(self, connection: Connection, allowance: Allowance, now: float) -> int:
        """How many requests of the current window are spent; nobody else changes it meanwhile."""
        connection.execute(
            self._db.insert(budgets)
            .values(name=allowance.name, next_at=0.0, blocked_until=0.0)
            .on_conflict_do_nothing()
        )
        at: float = connection.execute(
            sa.select(budgets.c.next_at).where(budgets.c.name == allowance.name).with_for_update()
        ).scalar_one()
        since = at - _start(allowance, now)
        # Beyond the window is what a clock far ahead wrote.
        if not 0 < since <= allowance.seconds * 1.001:
            return 0
        return round(since * allowance.requests / allowance.seconds)

    def block_turns(self, name: str, until: float) -> None:
        """Give nobody turns of `name` before `until` (epoch seconds); only ever moves forward."""
        statement = self._db.insert(budgets).values(name=name, next_at=until, blocked_until=until)
        later = statement.on_conflict_do_update(
            index_elements=["name"],
            set_={"blocked_until": statement.excluded.blocked_until},
            where=budgets.c.blocked_until < statement.excluded.blocked_until,
        )
        self._db.write(lambda connection: connection.execute(later))


# Turns reserved further ahead than any crowd of processes would need are a clock gone wrong.
_FURTHEST = 3600.0


def _name(allowance: Allowance) -> str:
    return allowance.name


def _start(allowance: Allowance, now: float) -> float:
    return now - now % allowance.seconds


def _end(allowance: Allowance, now: float) -> float:
    return _start(allowance, now) + allowance.seconds
