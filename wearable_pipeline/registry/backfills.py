"""History still to be read: per user the days that are left, done window by window from new to old.

A window is one of the fixed stretches of 28 days that every user shares, so that people of one cohort
whose next window is the same go into one run.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.errors import QuotaSpentError
from wearable_pipeline.partitions import Members, Scheme
from wearable_pipeline.registry.database import clean
from wearable_pipeline.registry.schema import backfills, partitions, sync_state, users
from wearable_pipeline.registry.shards import belongs_to, cohort_column, cohort_named
from wearable_pipeline.registry.store import Store

WINDOW_DAYS = 28
# Two days of hourly tries; after that somebody has to look.
ATTEMPTS = 48
_BATCH = 5_000

BackfillStatus = Literal["pending", "done", "failed"]


@dataclass(frozen=True, slots=True)
class History:
    """Days of a user to be read: `start` to `upto`, both included."""

    user_id: str
    provider: str
    start: date
    upto: date
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """Users of a cohort and provider whose next window is `slot`; nobody has served them since."""

    cohort: str
    provider: str
    slot: int
    users: int
    served_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryResult:
    """How the window of `history` ended; success is the absence of `error_class`."""

    history: History
    error_class: str | None = None
    error_message: str | None = None
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BackfillTotal:
    """Users of a provider by status, and the windows they have left."""

    provider: str
    status: BackfillStatus
    users: int
    windows: int


def slot_of(day: date) -> int:
    """The window a day lies in."""
    return day.toordinal() // WINDOW_DAYS


def window_days(slot: int) -> tuple[date, date]:
    """First and last day of a window."""
    first = date.fromordinal(slot * WINDOW_DAYS)
    return first, first + timedelta(days=WINDOW_DAYS - 1)


class Backfills(Store):
    """Queueing history, handing it out, writing down how far it came."""

    def queue_history(self, wanted: Iterable[History]) -> int:
        """Put days in line; returns for how many users. What is in line already is widened.

        Erased users fall away. Several of one user count as everything between them.
        """
        by_user: dict[str, History] = {}
        for one in wanted:
            by_user[one.user_id] = _joined(by_user.get(one.user_id), one)
        now = self._clock()

        def queue(connection: Connection) -> int:
            known = self._db.known_users(connection, by_user)
            pending = sa.select(backfills).where(
                self._db.any_of(backfills.c.user_id, known), backfills.c.status == "pending"
            )
            rows = {
                row.user_id: History(row.user_id, row.provider, row.start, row.upto, row.is_forced)
                for row in connection.execute(pending)
            }
            merged = [_joined(rows.get(user_id), by_user[user_id]) for user_id in sorted(known)]
            statement = self._db.insert(backfills)
            upsert = statement.on_conflict_do_update(
                index_elements=["user_id"],
                set_={name: statement.excluded[name] for name in _UPDATED},
            )
            for first in range(0, len(merged), _BATCH):
                connection.execute(upsert, [_row(one, now) for one in merged[first:][:_BATCH]])
            return len(merged)

        return self._db.write(queue) if by_user else 0

    def queue_newcomers(self, days: Mapping[str, int], today: date) -> int:
        """Put the history of users who were never in line there: `days` back, by provider.

        Days before today: today is the live lane's. Returns how many users.
        """
        now = self._clock()
        upto = today - timedelta(days=1)
        count = 0
        for provider, back in sorted(days.items()):
            start = today - timedelta(days=max(back, 1))
            values = _row(History("", provider, start, upto), now) | {
                "status": "pending" if back > 0 else "done"
            }
            chosen = (
                sa.select(
                    users.c.user_id,
                    *(
                        sa.literal(values[name], backfills.c[name].type).label(name)
                        for name in _UPDATED
                    ),
                )
                .join_from(users, sync_state)
                .outerjoin(backfills, backfills.c.user_id == users.c.user_id)
                .where(
                    users.c.provider == provider,
                    users.c.status == "connected",
                    # People whose data come from files are asked for nothing.
                    sync_state.c.next_due_at.is_not(None),
                    backfills.c.user_id.is_(None),
                )
            )
            # Looked for first: a tick that finds nobody must not take SQLite's write lock.
            if not self._db.read(partial(_any, chosen)):
                continue
            statement = (
                self._db.insert(backfills)
                .from_select(["user_id", *_UPDATED], chosen)
                .on_conflict_do_nothing()
            )
            count += self._db.write(partial(_count_changed, statement))
        return count

    def waiting_history(self, now: datetime, scheme: Scheme, limit: int) -> list[Waiting]:
        """Windows to be read next, those that have waited longest first."""
        b = backfills.c
        key = cohort_column(scheme).label("cohort")
        served = sa.func.min(b.updated_at)
        query = (
            sa.select(key, b.provider, b.slot, sa.func.count(), served)
            .join_from(backfills, users)
            .where(*_is_waiting(now))
            .group_by(key, b.provider, b.slot)
            .order_by(served, b.slot.desc(), key, b.provider)
            .limit(limit)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [
            Waiting(cohort_named(scheme, cohort), provider, slot, count, at)
            for cohort, provider, slot, count, at in rows
        ]

    def histories_in(
        self, slot: int, provider: str, now: datetime, members: Members, limit: int | None = None
    ) -> list[History]:
        """Users whose next window is `slot`, those who have waited longest first."""
        b = backfills.c
        query = (
            sa.select(b.user_id, b.provider, b.start, b.upto, b.is_forced)
            .join_from(backfills, users)
            .where(
                *_is_waiting(now),
                b.slot == slot,
                b.provider == provider,
                *belongs_to(self._db, members),
            )
            .order_by(b.updated_at, b.user_id)
            .limit(limit)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [History(*row) for row in rows]

    def count_days_held(self, user_ids: Collection[str], start: date, end: date) -> dict[str, int]:
        """Days between `start` and `end` of which some table holds rows, by user."""
        p = partitions.c
        query = (
            sa.select(p.user_id, sa.func.count(sa.distinct(p.date)))
            .where(
                self._db.any_of(p.user_id, user_ids),
                p.date >= start,
                p.date <= end,
                p.status == "ok",
            )
            .group_by(p.user_id)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return {str(user_id): int(count) for user_id, count in rows}

    def record_history(self, results: Sequence[HistoryResult]) -> int:
        """Write down how windows ended, in one transaction; returns how many counted.

        Somebody put in line anew meanwhile keeps the newer order.
        """
        now = self._clock()
        done = [_parameters(one, now) for one in results if one.error_class is None]
        failed = [_parameters(one, now) for one in results if one.error_class is not None]

        def record(connection: Connection) -> int:
            count = 0
            for statement, rows in ((_DONE, done), (_FAILED, failed)):
                for row in sorted(rows, key=lambda row: str(row["b_user_id"])):
                    count += connection.execute(statement, row).rowcount
            return count

        return self._db.write(record) if results else 0

    def backfill_totals(self) -> list[BackfillTotal]:
        """How far history has come, by provider and status."""
        b = backfills.c
        query = (
            sa.select(
                b.provider,
                b.status,
                sa.func.count(),
                sa.func.sum(b.slot - b.start_slot + 1),
            )
            .group_by(b.provider, b.status)
            .order_by(b.provider, b.status)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [
            BackfillTotal(provider, status, count, 0 if status == "done" else int(windows))
            for provider, status, count, windows in rows
        ]


_UPDATED = tuple(column.name for column in backfills.columns if column.name != "user_id")


def _any(query: sa.Select[tuple[object, ...]], connection: Connection) -> bool:
    return connection.execute(query.limit(1)).first() is not None


def _count_changed(statement: sa.Insert, connection: Connection) -> int:
    return connection.execute(statement).rowcount


def _joined(one: History | None, other: History) -> History:
    if one is None:
        return other
    return History(
        other.user_id,
        other.provider,
        min(one.start, other.start),
        max(one.upto, other.upto),
        one.is_forced or other.is_forced,
    )


def _row(history: History, now: datetime) -> dict[str, object]:
    return {
        "user_id": history.user_id,
        "provider": history.provider,
        "start": history.start,
        "upto": history.upto,
        "slot": slot_of(history.upto),
        "start_slot": slot_of(history.start),
        "status": "pending",
        "is_forced": history.is_forced,
        "attempts": 0,
        "next_attempt_at": now,
        "error_class": None,
        "error_message": None,
        "requested_at": now,
        "updated_at": now,
    }


def _is_waiting(now: datetime) -> list[sa.ColumnElement[bool]]:
    return [
        # Written out, not as a parameter: only so does SQLite use the partial index.
        sa.text("wearable_backfills.status = 'pending'"),  # type: ignore[list-item]
        backfills.c.next_attempt_at <= now,
        users.c.status == "connected",
    ]


# Who was put in line again meanwhile has another `upto` or another `requested_at`; only the first tells
# of work, and doing a window once more is harmless.
_SAME = (
    backfills.c.user_id == sa.bindparam("b_user_id"),
    backfills.c.upto == sa.bindparam("b_upto", type_=sa.Date),
    backfills.c.status == "pending",
)
_BEFORE = sa.bindparam("b_before", type_=sa.Date)
_SLOT = sa.bindparam("b_slot", type_=sa.Integer)
_NOW = sa.bindparam("b_now", type_=backfills.c.updated_at.type)
_IS_OVER = backfills.c.start > _BEFORE
_DONE = (
    sa.update(backfills)
    .where(*_SAME)
    .values(
        status=sa.case((_IS_OVER, "done"), else_="pending"),
        upto=sa.case((_IS_OVER, backfills.c.start), else_=_BEFORE),
        slot=sa.case((_IS_OVER, backfills.c.start_slot), else_=_SLOT - 1),
        attempts=0,
        next_attempt_at=_NOW,
        error_class=None,
        error_message=None,
        updated_at=_NOW,
    )
)
# A share that was spent is no try: nobody was asked.
_ATTEMPTS = backfills.c.attempts + sa.case(
    (sa.bindparam("b_error_class") == QuotaSpentError.error_class, 0), else_=1
)
_FAILED = (
    sa.update(backfills)
    .where(*_SAME)
    .values(
        status=sa.case((_ATTEMPTS >= ATTEMPTS, "failed"), else_="pending"),
        attempts=_ATTEMPTS,
        next_attempt_at=sa.bindparam("b_next", type_=backfills.c.next_attempt_at.type),
        error_class=sa.bindparam("b_error_class"),
        error_message=sa.bindparam("b_error_message"),
        updated_at=_NOW,
    )
)


def _parameters(result: HistoryResult, now: datetime) -> dict[str, object]:
    slot = slot_of(result.history.upto)
    base: dict[str, object] = {
        "b_user_id": result.history.user_id,
        "b_upto": result.history.upto,
        "b_now": now,
    }
    if result.error_class is None:
        return base | {"b_before": window_days(slot)[0] - timedelta(days=1), "b_slot": slot}
    return base | {
        "b_next": result.next_attempt_at or now,
        "b_error_class": result.error_class,
        "b_error_message": clean(result.error_message),
    }
