"""Sync state: who is due, how far each user has come, who has gone silent."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.partitions import Members
from wearable_pipeline.registry.database import clean
from wearable_pipeline.registry.events import NewEvent, insert_events
from wearable_pipeline.registry.schema import sync_state, users
from wearable_pipeline.registry.shards import belongs_to
from wearable_pipeline.registry.store import Store
from wearable_pipeline.registry.users import EVENT_OF
from wearable_pipeline.registry.work import is_due_by


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

    `attempted_at` is when it began. `state` None keeps the cursor, `seen` None what was noted of the
    last answer. `keeps_due` leaves the next attempt where it is instead of moving it to `next_due_at`.
    `newest_reading_at` only ever moves forward. `status` is for errors that end the connection.
    """

    user_id: str
    attempted_at: datetime
    next_due_at: datetime | None
    keeps_due: bool = False
    state: Mapping[str, object] | None = field(default=None, repr=False)
    newest_reading_at: datetime | None = None
    error_class: str | None = None
    error_message: str | None = None
    locked_until: datetime | None = None
    status: Literal["needs_reauth", "revoked"] | None = None
    seen: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old the newest readings of connected users are, counted by the database.

    Ages are those of users who have a reading. `longest_silent` names some of the stale ones, those who
    were never read first.
    """

    users: int
    stale: int
    age_p50: timedelta | None
    age_p95: timedelta | None
    age_max: timedelta | None
    longest_silent: tuple[str, ...]


class SyncStates(Store):
    """Reading and recording sync state, many users at a time."""

    def due_users(
        self,
        now: datetime,
        providers: Collection[str],
        limit: int | None = None,
        *,
        members: Members | None = None,
        soon: datetime | None = None,
    ) -> list[DueUser]:
        """Connected users of `providers` due at `now` and not locked out, longest silence first.

        Who is due by `soon` comes along, unless the last attempt failed. Silence is measured from the
        last successful attempt, not from the newest reading: a sensor that is off the arm would
        otherwise push everybody else back for ever.
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
            .where(*is_due_by(now, soon or now, providers), *belongs_to(self._db, members))
            .order_by(state.last_success_at.asc().nulls_first(), state.next_due_at, state.user_id)
            .limit(limit)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [DueUser(*row) for row in rows]

    def load_states(self, user_ids: Collection[str]) -> dict[str, SyncState]:
        """Sync state by user_id, for those of `user_ids` that exist."""
        query = sa.select(*_STATE_COLUMNS).where(self._db.any_of(sync_state.c.user_id, user_ids))
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return {row.user_id: SyncState(*row) for row in rows}

    def locked_users(self, user_ids: Collection[str], now: datetime) -> dict[str, datetime]:
        """Those of `user_ids` nobody may ask for at `now`, with the end of that."""
        until = sync_state.c.locked_until
        query = sa.select(sync_state.c.user_id, until).where(
            until > now, self._db.any_of(sync_state.c.user_id, user_ids)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return {row.user_id: row.locked_until for row in rows}

    def load_seen(self, user_ids: Collection[str]) -> dict[str, bytes]:
        """What was noted of each user's last answer, for those of whom something is."""
        column = sync_state.c.seen
        query = sa.select(sync_state.c.user_id, column).where(
            self._db.any_of(sync_state.c.user_id, user_ids), column.is_not(None)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return {row.user_id: row.seen for row in rows}

    def forget_seen(self, loaded: Mapping[str, bytes]) -> set[str]:
        """Forget what was noted of the last answers of these users; returns whose is not as `loaded`.

        Call it before their records are written: if `record_sync` never comes, nothing is claimed of
        what raw holds. Somebody whose note has changed is being written by another process, too.
        """

        def forget(connection: Connection) -> set[str]:
            mine = self._db.any_of(sync_state.c.user_id, loaded)
            rows = connection.execute(
                sa.select(sync_state.c.user_id, sync_state.c.seen).where(mine).with_for_update()
            ).all()
            connection.execute(sa.update(sync_state).where(mine).values(seen=None))
            same = {user_id for user_id, seen in rows if seen == loaded[user_id]}
            return set(loaded) - same

        return self._db.write(forget) if loaded else set()

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
                self._note_changes(connection, changes)
                connection.execute(_CHANGE_STATUS, changes)
            counted = sa.select(sync_state.c.user_id, sync_state.c.last_attempt_at).where(
                self._db.any_of(sync_state.c.user_id, known)
            )
            return sum(
                row.last_attempt_at == latest[row.user_id].attempted_at
                for row in connection.execute(counted)
            )

        return self._db.write(record) if latest else 0

    def _note_changes(
        self, connection: Connection, changes: Sequence[Mapping[str, object]]
    ) -> None:
        """Note as events those of `changes` that are going to happen."""
        by_user = {str(change["b_user_id"]): change for change in changes}
        query = (
            sa.select(users.c.user_id, users.c.updated_at)
            .where(self._db.any_of(users.c.user_id, by_user), users.c.status == "connected")
            .order_by(users.c.user_id)
            .with_for_update()
        )
        found = [
            NewEvent(user_id, EVENT_OF[str(by_user[user_id]["b_status"])])
            for user_id, updated_at in connection.execute(query)
            if updated_at <= by_user[user_id]["b_at"]
        ]
        insert_events(self._db, connection, found, self._clock())

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

    def freshness(
        self, now: datetime, providers: Collection[str], limit: timedelta, shown: int
    ) -> Freshness:
        """Freshness of the connected users of `providers`, `shown` of the stale ones by name.

        People whose data come from files are asked for nothing and count for nothing.
        """
        newest = sync_state.c.newest_reading_at
        is_meant = (
            sync_state.c.provider.in_(sorted(providers)),
            sync_state.c.next_due_at.is_not(None),
            users.c.status == "connected",
        )
        is_stale = sa.or_(newest.is_(None), newest < now - limit)
        counted = sa.select(sa.func.count(), sa.func.count(newest)).join_from(sync_state, users)
        known = (
            sa.select(newest)
            .join_from(sync_state, users)
            .where(*is_meant, newest.is_not(None))
            .order_by(newest.desc())
        )
        silent = (
            sa.select(sync_state.c.user_id)
            .join_from(sync_state, users)
            .where(*is_meant, is_stale)
            .order_by(newest.asc().nulls_first(), sync_state.c.user_id)
            .limit(shown)
        )

        def load(connection: Connection) -> Freshness:
            everybody, read = connection.execute(counted.where(*is_meant)).one()
            stale, _ = connection.execute(counted.where(*is_meant, is_stale)).one()

            def age_at(position: int) -> timedelta | None:
                found = connection.execute(known.offset(position).limit(1)).scalar()
                return None if found is None else now - found

            return Freshness(
                everybody,
                stale,
                age_at(read // 2),
                age_at(int(read * 0.95)),
                age_at(max(read - 1, 0)),
                tuple(connection.execute(silent).scalars()),
            )

        return self._db.read(load)


_STATE_COLUMNS = tuple(sync_state.c[one.name] for one in fields(SyncState))
_STATE = sa.bindparam("b_state", type_=sa.JSON(none_as_null=True))
_SEEN = sa.bindparam("b_seen", type_=sa.LargeBinary)
_READING = sa.bindparam("b_newest_reading_at", type_=sync_state.c.newest_reading_at.type)
_DUE = sa.bindparam("b_next_due_at", type_=sync_state.c.next_due_at.type)
_NOT_OVERTAKEN = (
    sync_state.c.user_id == sa.bindparam("b_user_id"),
    sa.or_(
        sync_state.c.last_attempt_at.is_(None),
        sync_state.c.last_attempt_at <= sa.bindparam("b_attempted_at"),
    ),
)
_BOTH = {
    "state": sa.func.coalesce(_STATE, sync_state.c.state, type_=sa.JSON),
    "seen": sa.func.coalesce(_SEEN, sync_state.c.seen, type_=sa.LargeBinary),
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
    "next_due_at": sa.case(
        (sa.bindparam("b_keeps_due", type_=sa.Boolean), sync_state.c.next_due_at), else_=_DUE
    ),
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
        "b_seen": result.seen,
        "b_newest_reading_at": result.newest_reading_at,
        "b_next_due_at": result.next_due_at,
        "b_keeps_due": result.keeps_due,
        "b_locked_until": result.locked_until,
        "b_error_class": result.error_class,
        "b_error_message": clean(result.error_message),
    }
