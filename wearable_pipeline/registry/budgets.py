"""Rate limits of providers, shared by all processes: who asks takes turns out of one row.

A process reserves a block of turns, evenly spaced at the allowed rate, with one write. Blocks of two
processes never overlap, so together they never ask faster than the limit. A turn that was not taken in
its time is gone: nobody saves turns up, and a process that dies takes none along.
"""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.registry.schema import budgets
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


class Budgets(Store):
    """Reserving turns and blocking.

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
