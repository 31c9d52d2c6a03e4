"""Work by cohort: who is due, what is touched, what waits to be sent. Counts, never lists of people.

The questions of sensors. Their answers are bounded by cohorts × days however many users there are; the
run that follows asks for the users themselves.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa

from wearable_pipeline.partitions import Members, Scheme
from wearable_pipeline.registry.schema import deliveries, leases, sync_state, touched, users
from wearable_pipeline.registry.shards import belongs_to, cohort_column, cohort_named
from wearable_pipeline.registry.store import Store


@dataclass(frozen=True, slots=True)
class DueCohort:
    """Users of one provider and cohort to be asked: `due` now, `ready` in the next moment or now.

    `silent_since` is the oldest last success among them, None when somebody was never read.
    """

    provider: str
    cohort: str
    due: int
    ready: int
    silent_since: datetime | None


@dataclass(frozen=True, slots=True)
class TouchedCell:
    """A partition of a table that `users` people's records have changed since `touched_at`."""

    table: str
    cohort: str
    date: date
    users: int
    version: int
    touched_at: datetime


class Work(Store):
    """Counting what is to be done."""

    def due_cohorts(
        self,
        now: datetime,
        soon: datetime,
        providers: Collection[str],
        scheme: Scheme,
        limit: int,
    ) -> list[DueCohort]:
        """Cohorts with users due by `soon`, longest silence first; at most `limit` per provider.

        Who failed last time is not counted before the time is reached: then it is a promise.
        """
        state = sync_state.c
        key = cohort_column(scheme).label("cohort")
        is_due = sa.case((state.next_due_at <= now, 1), else_=0)
        # Null is the longest silence; `min` would pass over it.
        is_new = sa.case((state.last_success_at.is_(None), 1), else_=0)
        counted = (
            sa.select(
                state.provider,
                key,
                sa.func.sum(is_due).label("due"),
                sa.func.count().label("ready"),
                sa.func.max(is_new).label("is_new"),
                sa.func.min(state.last_success_at).label("silent_since"),
            )
            .join_from(sync_state, users)
            .where(*is_due_by(now, soon, providers))
            .group_by(state.provider, key)
            .subquery()
        )
        place = sa.func.row_number().over(
            partition_by=counted.c.provider,
            order_by=(counted.c.is_new.desc(), counted.c.silent_since, counted.c.cohort),
        )
        ranked = sa.select(counted, place.label("place")).subquery()
        r = ranked.c
        query = (
            sa.select(r.provider, r.cohort, r.due, r.ready, r.is_new, r.silent_since)
            .where(r.place <= limit)
            .order_by(r.is_new.desc(), r.silent_since, r.provider, r.cohort)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [
            DueCohort(
                row.provider,
                cohort_named(scheme, row.cohort),
                int(row.due),
                int(row.ready),
                None if row.is_new else row.silent_since,
            )
            for row in rows
        ]

    def connected_cohorts(
        self, providers: Collection[str], scheme: Scheme
    ) -> dict[str, dict[str, int]]:
        """Connected users who are asked for data, counted by provider and cohort."""
        key = cohort_column(scheme).label("cohort")
        query = (
            sa.select(users.c.provider, key, sa.func.count())
            .join_from(users, sync_state)
            .where(
                users.c.status == "connected",
                users.c.provider.in_(sorted(providers)),
                sync_state.c.next_due_at.is_not(None),
            )
            .group_by(users.c.provider, key)
            .order_by(users.c.provider, key)
        )
        found: dict[str, dict[str, int]] = {}
        for provider, cohort, count in self._db.read(lambda c: c.execute(query).all()):
            found.setdefault(provider, {})[cohort_named(scheme, cohort)] = count
        return found

    def touched_cells(
        self,
        scheme: Scheme,
        *,
        tables: Collection[str] | None = None,
        members: Members | None = None,
        start: date | None = None,
        end: date | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> list[TouchedCell]:
        """Touched partitions, longest waiting first; `until` leaves out what was touched later."""
        t = touched.c
        key = cohort_column(scheme).label("cohort")
        oldest = sa.func.min(t.version)
        query = (
            sa.select(
                t.table_name,
                key,
                t.date,
                sa.func.count(),
                sa.func.max(t.version),
                sa.func.min(t.touched_at),
            )
            .join_from(touched, users)
            .where(*belongs_to(self._db, members))
            .group_by(t.table_name, key, t.date)
            .order_by(oldest, t.table_name, t.date, key)
            .limit(limit)
        )
        if tables is not None:
            query = query.where(t.table_name.in_(sorted(tables)))
        if start is not None:
            query = query.where(t.date >= start)
        if end is not None:
            query = query.where(t.date <= end)
        if until is not None:
            query = query.where(t.touched_at <= until)
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [
            TouchedCell(table, cohort_named(scheme, cohort), day, count, version, at)
            for table, cohort, day, count, version, at in rows
        ]

    def count_leases(self, prefix: str) -> int:
        """Leases in force whose name begins with `prefix`."""
        query = (
            sa.select(sa.func.count())
            .select_from(leases)
            .where(
                leases.c.name.startswith(prefix, autoescape=True),
                leases.c.expires_at > self._clock(),
            )
        )
        return self._db.read(lambda connection: connection.execute(query).scalar_one())

    def count_touched(self) -> int:
        """Number of marks: users' days of a table waiting to be normalized."""
        query = sa.select(sa.func.count()).select_from(touched)
        return self._db.read(lambda connection: connection.execute(query).scalar_one())

    def cohorts_to_send(
        self, destination: str, now: datetime, scheme: Scheme, limit: int, members: int
    ) -> dict[str, int]:
        """Rows that may be sent now, by cohort, out of the first `limit` of them; at most `members`."""
        d = deliveries.c
        waiting = (
            sa.select(d.user_id)
            .where(
                d.destination == destination,
                # Written out, not as a parameter: only so does SQLite use the partial index.
                sa.text("wearable_deliveries.status = 'pending'"),
                d.next_attempt_at <= now,
                sa.or_(d.claimed_until.is_(None), d.claimed_until <= now),
            )
            .limit(limit)
            .subquery()
        )
        key = cohort_column(scheme).label("cohort")
        query = (
            sa.select(key, sa.func.count())
            .join_from(waiting, users, waiting.c.user_id == users.c.user_id)
            .group_by(key)
            .order_by(key)
            .limit(members)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return {cohort_named(scheme, cohort): count for cohort, count in rows}


def is_due_by(
    now: datetime, soon: datetime, providers: Collection[str]
) -> list[sa.ColumnElement[bool]]:
    """Conditions on `sync_state` and `users` for who is to be asked at `now`."""
    state = sync_state.c
    return [
        state.provider.in_(sorted(providers)),
        state.next_due_at <= soon,
        sa.or_(state.next_due_at <= now, state.failures == 0),
        sa.or_(state.locked_until.is_(None), state.locked_until <= now),
        users.c.status == "connected",
    ]
