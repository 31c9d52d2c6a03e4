"""Sync state: who is due, how far each user has come, who has gone silent."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.registry.database import clean
from wearable_pipeline.registry.schema import sync_state, users
from wearable_pipeline.registry.store import Store


@dataclass(frozen=True, slots=True)
class DueUser:
    """A user to ask the provider for now."""

    user_id: str
    provider: str
    next_due_at: datetime
    last_success_at: datetime | None
    newest_reading_at: datetime | None
    failures: int


@dataclass(frozen=True, slots=True)
class SyncState:
    """How far a user has come; `state` is the provider module's own cursor."""

    user_id: str
    provider: str
    state: dict[str, object] = field(repr=False)
    last_attempt_at: datetime | None
    last_success_at: datetime | None
    newest_reading_at: datetime | None
    next_due_at: datetime | None
    failures: int
    error_class: str | None
    error_message: str | None
    locked_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncResult:
    """How one attempt for one user ended; success is the absence of `error_class`.

    `attempted_at` is when it began. `state` None keeps the cursor. `newest_reading_at` only ever
    moves forward. `status` is for errors that end the connection.
    """

    user_id: str
    attempted_at: datetime
    next_due_at: datetime | None
    state: Mapping[str, object] | None = field(default=None, repr=False)
    newest_reading_at: datetime | None = None
    error_class: str | None = None
    error_message: str | None = None
    locked_until: datetime | None = None
    status: Literal["needs_reauth", "revoked"] | None = None


@dataclass(frozen=True, slots=True)
class Staleness:
    """How long a connected user's readings have been silent; `age` is None before the first one."""

    user_id: str
    provider: str
    newest_reading_at: datetime | None
    last_success_at: datetime | None
    age: timedelta | None
    failures: int
    error_class: str | None


class SyncStates(Store):
    """Reading and recording sync state, many users at a time."""

    def due_users(
        self, now: datetime, providers: Collection[str], limit: int | None = None
    ) -> list[DueUser]:
        """Connected users of `providers` due at `now` and not locked out, longest silence first.

        Silence is measured from the last successful attempt, not from the newest reading: a sensor
        that is off the arm would otherwise push everybody else back for ever.
        """
        state = sync_state.c
        query = (
            sa.select(
                state.user_id,
                state.provider,
                state.next_due_at,
                state.last_success_at,
                state.newest_reading_at,
                state.failures,
            )
            .join_from(sync_state, users)
            .where(
                state.provider.in_(sorted(providers)),
                state.next_due_at <= now,
                sa.or_(state.locked_until.is_(None), state.locked_until <= now),
                users.c.status == "connected",
            )
            .order_by(state.last_success_at.asc().nulls_first(), state.next_due_at, state.user_id)
            .limit(limit)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [DueUser(*row) for row in rows]

    def load_states(self, user_ids: Collection[str]) -> dict[str, SyncState]:
        """Sync state by user_id, for those of `user_ids` that exist."""
        query = sa.select(sync_state).where(self._db.any_of(sync_state.c.user_id, user_ids))
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return {row.user_id: SyncState(**row._mapping) for row in rows}

    def record_sync(self, results: Sequence[SyncResult]) -> int:
        """Record attempts in one transaction; returns how many counted.

        Left out: users erased meanwhile, and attempts older than one already recorded (an overtaken
        run must not put the cursor back).
        """
        latest = {result.user_id: result for result in sorted(results, key=_by_attempt)}

        def record(connection: Connection) -> int:
            known = self._db.known_users(connection, latest)
            rows = [_parameters(latest[user_id]) for user_id in sorted(known)]
            for succeeded in (True, False):
                group = [row for row in rows if (row["b_error_class"] is None) == succeeded]
                if group:
                    connection.execute(_SUCCEEDED if succeeded else _FAILED, group)
            changes = [
                {
                    "b_user_id": result.user_id,
                    "b_status": result.status,
                    "b_reason": clean(result.error_message),
                    "b_at": result.attempted_at,
                }
                for result in (latest[user_id] for user_id in sorted(known))
                if result.status is not None
            ]
            if changes:
                connection.execute(_CHANGE_STATUS, changes)
            counted = sa.select(sync_state.c.user_id, sync_state.c.last_attempt_at).where(
                self._db.any_of(sync_state.c.user_id, known)
            )
            return sum(
                row.last_attempt_at == latest[row.user_id].attempted_at
                for row in connection.execute(counted)
            )

        return self._db.write(record) if latest else 0

    def record_readings(self, newest: Mapping[str, datetime]) -> None:
        """Note the newest reading that tables hold of each user; it only ever moves forward."""
        column = sync_state.c.newest_reading_at
        later = sa.bindparam("b_at", type_=column.type)
        statement = (
            sa.update(sync_state)
            .where(
                sync_state.c.user_id == sa.bindparam("b_user_id"),
                sa.or_(column.is_(None), column < later),
            )
            .values(newest_reading_at=later)
        )
        rows = [{"b_user_id": user_id, "b_at": newest[user_id]} for user_id in sorted(newest)]

        def record(connection: Connection) -> None:
            connection.execute(statement, rows)

        if rows:
            self._db.write(record)

    def make_due(self, user_ids: Iterable[str], at: datetime) -> int:
        """Make connected users due at `at`; returns how many."""
        wanted = set(user_ids)

        def change(connection: Connection) -> int:
            connected = sa.select(users.c.user_id).where(
                users.c.status == "connected", self._db.any_of(users.c.user_id, wanted)
            )
            result = connection.execute(
                sa.update(sync_state)
                .where(sync_state.c.user_id.in_(connected))
                .values(next_due_at=at)
            )
            return result.rowcount

        return self._db.write(change) if wanted else 0

    def staleness(self, now: datetime, providers: Collection[str] | None = None) -> list[Staleness]:
        """Connected users with the age of their newest reading, longest silence first."""
        state = sync_state.c
        query = (
            sa.select(
                state.user_id,
                state.provider,
                state.newest_reading_at,
                state.last_success_at,
                state.failures,
                state.error_class,
            )
            .join_from(sync_state, users)
            .where(users.c.status == "connected")
            .order_by(state.newest_reading_at.asc().nulls_first(), state.user_id)
        )
        if providers is not None:
            query = query.where(state.provider.in_(sorted(providers)))
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [
            Staleness(
                age=None if row.newest_reading_at is None else now - row.newest_reading_at,
                **row._mapping,
            )
            for row in rows
        ]


_STATE = sa.bindparam("b_state", type_=sa.JSON(none_as_null=True))
_READING = sa.bindparam("b_newest_reading_at", type_=sync_state.c.newest_reading_at.type)
_NOT_OVERTAKEN = (
    sync_state.c.user_id == sa.bindparam("b_user_id"),
    sa.or_(
        sync_state.c.last_attempt_at.is_(None),
        sync_state.c.last_attempt_at <= sa.bindparam("b_attempted_at"),
    ),
)
_BOTH = {
    "state": sa.func.coalesce(_STATE, sync_state.c.state, type_=sa.JSON),
    "last_attempt_at": sa.bindparam("b_attempted_at"),
    "newest_reading_at": sa.case(
        (
            sa.or_(
                sync_state.c.newest_reading_at.is_(None),
                sync_state.c.newest_reading_at < _READING,
            ),
            _READING,
        ),
        else_=sync_state.c.newest_reading_at,
    ),
    "next_due_at": sa.bindparam("b_next_due_at"),
    "locked_until": sa.bindparam("b_locked_until"),
    "error_class": sa.bindparam("b_error_class"),
    "error_message": sa.bindparam("b_error_message"),
}
_SUCCEEDED = (
    sa.update(sync_state)
    .where(*_NOT_OVERTAKEN)
    .values(_BOTH | {"last_success_at": sa.bindparam("b_attempted_at"), "failures": 0})
)
_FAILED = (
    sa.update(sync_state)
    .where(*_NOT_OVERTAKEN)
    .values(_BOTH | {"failures": sync_state.c.failures + 1})
)
# What a person did while the attempt was under way (connect again, disconnect) stands.
_CHANGE_STATUS = (
    sa.update(users)
    .where(
        users.c.user_id == sa.bindparam("b_user_id"),
        users.c.status == "connected",
        users.c.updated_at <= sa.bindparam("b_at"),
    )
    .values(
        status=sa.bindparam("b_status"),
        status_reason=sa.bindparam("b_reason"),
        updated_at=sa.bindparam("b_at"),
    )
)


def _by_attempt(result: SyncResult) -> datetime:
    return result.attempted_at


def _parameters(result: SyncResult) -> dict[str, object]:
    return {
        "b_user_id": result.user_id,
        "b_attempted_at": result.attempted_at,
        "b_state": None if result.state is None else dict(result.state),
        "b_newest_reading_at": result.newest_reading_at,
        "b_next_due_at": result.next_due_at,
        "b_locked_until": result.locked_until,
        "b_error_class": result.error_class,
        "b_error_message": clean(result.error_message),
    }
