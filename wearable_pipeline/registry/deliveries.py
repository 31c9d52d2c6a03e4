"""Delivery ledger: what each destination should have, what it has, and who is sending it now.

A row is claimed, sent, then acknowledged or failed. A crash in between lets the claim run out and
the row is sent again: at least once, with the same trace id and ordering timestamp, so that the
destination can make it once.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.registry.database import clean
from wearable_pipeline.registry.schema import deliveries
from wearable_pipeline.registry.store import Store

DeliveryStatus = Literal["pending", "delivered", "parked"]
CLAIM_TTL = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class WantedRow:
    """A row as it lies in the lake; `row_key` is its date or session id."""

    table: str
    user_id: str
    row_key: str
    date: date
    content_hash: str
    is_deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One row for one destination.

    `ordering_timestamp` (unix ms) grows strictly with each new content of the row and stays through
    retries, as does `trace_id`. `claim` is None unless the row was claimed.
    """

    destination: str
    table: str
    user_id: str
    row_key: str
    date: date
    is_deleted: bool
    wanted_hash: str
    ordering_timestamp: int
    trace_id: str
    wanted_at: datetime
    status: DeliveryStatus
    attempts: int
    next_attempt_at: datetime
    last_error: str | None
    delivered_hash: str | None
    delivered_at: datetime | None
    claim: str | None


@dataclass(frozen=True, slots=True)
class DeliveryCounts:
    """How a destination stands."""

    pending: int
    delivered: int
    parked: int
    oldest_pending_at: datetime | None


class Deliveries(Store):
    """Wanting, claiming, acknowledging, failing."""

    def want(self, destination: str, rows: Sequence[WantedRow]) -> int:
        """Say what the destination should have; returns how many rows became pending by that.

        A row whose wanted content is unchanged stays as it is: delivered, in back-off or parked.
        New content starts afresh, also over an older one that is in back-off; one that is being
        sent just now is sent after that.
        """
        latest = {(row.user_id, row.table, row.row_key): row for row in rows}
        now = self._clock()
        milliseconds = int(now.timestamp() * 1000)
        statement = self._db.insert(deliveries)
        new, old = statement.excluded, deliveries.c
        upsert = statement.on_conflict_do_update(
            index_elements=_KEY,
            set_={
                "date": new.date,
                "is_deleted": new.is_deleted,
                "wanted_hash": new.wanted_hash,
                "ordering_timestamp": sa.case(
                    (new.ordering_timestamp > old.ordering_timestamp, new.ordering_timestamp),
                    else_=old.ordering_timestamp + 1,
                ),
                "trace_id": new.trace_id,
                "wanted_at": new.wanted_at,
                "status": "pending",
                "attempts": 0,
                "next_attempt_at": new.next_attempt_at,
                "last_error": None,
            },
            where=sa.or_(old.wanted_hash != new.wanted_hash, old.is_deleted != new.is_deleted),
        ).returning(deliveries.c.user_id)

        def upsert_all(connection: Connection) -> int:
            known = self._db.known_users(connection, {key[0] for key in latest})
            parameters = [
                {
                    "destination": destination,
                    "table_name": row.table,
                    "user_id": row.user_id,
                    "row_key": row.row_key,
                    "date": row.date,
                    "is_deleted": row.is_deleted,
                    "wanted_hash": row.content_hash,
                    "ordering_timestamp": milliseconds,
                    "trace_id": str(uuid.uuid4()),
                    "wanted_at": now,
                    "status": "pending",
                    "attempts": 0,
                    "next_attempt_at": now,
                }
                for row in (latest[key] for key in sorted(latest) if key[0] in known)
            ]
            return len(connection.execute(upsert, parameters).all()) if parameters else 0

        return self._db.write(upsert_all) if latest else 0

    def pending(
        self,
        destination: str,
        now: datetime,
        limit: int | None = None,
        user_ids: Collection[str] | None = None,
    ) -> list[Delivery]:
        """Rows to send at `now` that nobody is sending: newest date first, then oldest wanted."""
        query = self._sendable(destination, now, limit, user_ids)
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [_delivery(row) for row in rows]

    def claim(
        self,
        destination: str,
        now: datetime,
        limit: int,
        user_ids: Collection[str] | None = None,
        ttl: timedelta = CLAIM_TTL,
    ) -> list[Delivery]:
        """Take up to `limit` pending rows for sending; nobody else gets them until `now + ttl`.

        Taking counts as an attempt, so a row that kills its sender is not tried for ever.
        """
        token = str(uuid.uuid4())
        query = self._sendable(destination, now, limit, user_ids).with_for_update(skip_locked=True)

        def take(connection: Connection) -> list[Delivery]:
            rows = connection.execute(query).all()
            if rows:
                connection.execute(
                    _CLAIM, [_parameters(_delivery(row), token, until=now + ttl) for row in rows]
                )
            return [_delivery(row, claim=token, attempts=row.attempts + 1) for row in rows]

        return self._db.write(take)

    def acknowledge(self, sent: Sequence[Delivery]) -> None:
        """Record that the destination has these contents.

        True whoever holds the claim by now. A row wanted anew meanwhile stays pending, and an older
        content acknowledged late does not hide a newer one.
        """
        now = self._clock()
        parameters = [_parameters(row, row.claim or "", now=now) for row in _in_order(sent)]

        def record(connection: Connection) -> None:
            connection.execute(_DELIVERED, parameters)
            connection.execute(_SETTLED, parameters)

        if parameters:
            self._db.write(record)

    def fail(
        self,
        failed: Delivery | Sequence[Delivery],
        error: str,
        next_attempt_at: datetime | None = None,
        *,
        park: bool = False,
    ) -> None:
        """Give claimed rows back: to be tried at `next_attempt_at` (default: at once), or parked.

        Says nothing about rows somebody else has claimed since; new content wanted meanwhile is
        neither delayed nor parked.
        """
        rows = [failed] if isinstance(failed, Delivery) else failed
        parameters = [
            _parameters(
                row,
                row.claim or "",
                error=clean(error),
                at=next_attempt_at or self._clock(),
                status="parked" if park else "pending",
            )
            for row in _in_order(rows)
        ]

        def record(connection: Connection) -> None:
            connection.execute(_FAILED, parameters)
            connection.execute(_UNCLAIMED, parameters)

        if parameters:
            self._db.write(record)

    def release(self, unsent: Sequence[Delivery]) -> None:
        """Give claimed rows back untried, as on shutdown; does not count as an attempt."""
        parameters = [_parameters(row, row.claim or "") for row in _in_order(unsent)]

        def record(connection: Connection) -> None:
            connection.execute(_UNTRIED, parameters)
            connection.execute(_UNCLAIMED, parameters)

        if parameters:
            self._db.write(record)

    def retry_parked(self, destination: str, user_ids: Collection[str] | None = None) -> int:
        """Make parked rows pending again, with the same trace id; returns how many."""
        return self._send_again(destination, "parked", user_ids=user_ids)

    def redeliver(
        self,
        destination: str,
        *,
        user_ids: Collection[str] | None = None,
        tables: Collection[str] | None = None,
        start: date | None = None,
        end: date | None = None,
    ) -> int:
        """Make delivered rows that fit pending again, with the same trace id; returns how many."""
        return self._send_again(
            destination, "delivered", user_ids=user_ids, tables=tables, start=start, end=end
        )

    def counts(self, destination: str) -> DeliveryCounts:
        """How the destination stands."""
        d = deliveries.c
        query = (
            sa.select(d.status, sa.func.count(), sa.func.min(d.wanted_at))
            .where(d.destination == destination)
            .group_by(d.status)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        by_status = {row[0]: row for row in rows}
        number = {status: row[1] for status, row in by_status.items()}
        return DeliveryCounts(
            pending=number.get("pending", 0),
            delivered=number.get("delivered", 0),
            parked=number.get("parked", 0),
            oldest_pending_at=by_status["pending"][2] if "pending" in by_status else None,
        )

    def deliveries(
        self,
        destination: str | None = None,
        user_ids: Collection[str] | None = None,
        status: DeliveryStatus | None = None,
        limit: int | None = None,
        *,
        tables: Collection[str] | None = None,
        start: date | None = None,
        end: date | None = None,
    ) -> list[Delivery]:
        """Ledger rows that fit (both dates included), by user, destination, table and key."""
        query = _SELECT.order_by(*_ORDER).limit(limit)
        if tables is not None:
            query = query.where(deliveries.c.table_name.in_(sorted(tables)))
        if start is not None:
            query = query.where(deliveries.c.date >= start)
        if end is not None:
            query = query.where(deliveries.c.date <= end)
        if destination is not None:
            query = query.where(deliveries.c.destination == destination)
        if user_ids is not None:
            query = query.where(self._db.any_of(deliveries.c.user_id, user_ids))
        if status is not None:
            query = query.where(deliveries.c.status == status)
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [_delivery(row) for row in rows]

    def _sendable(
        self,
        destination: str,
        now: datetime,
        limit: int | None,
        user_ids: Collection[str] | None,
    ) -> sa.Select[tuple[object, ...]]:
        d = deliveries.c
        query = _SELECT.where(
            d.destination == destination,
            # Written out, not as a parameter: only so does SQLite use the partial index.
            sa.text("status = 'pending'"),
            d.next_attempt_at <= now,
            sa.or_(d.claimed_until.is_(None), d.claimed_until <= now),
        )
        if user_ids is not None:
            query = query.where(self._db.any_of(d.user_id, user_ids))
        return query.order_by(
            d.date.desc(), d.ordering_timestamp, d.user_id, d.table_name, d.row_key
        ).limit(limit)

    def _send_again(
        self,
        destination: str,
        status: DeliveryStatus,
        *,
        user_ids: Collection[str] | None = None,
        tables: Collection[str] | None = None,
        start: date | None = None,
        end: date | None = None,
    ) -> int:
        d = deliveries.c
        change = (
            sa.update(deliveries)
            .where(d.destination == destination, d.status == status)
            .values(status="pending", attempts=0, next_attempt_at=self._clock())
        )
        if user_ids is not None:
            change = change.where(self._db.any_of(d.user_id, user_ids))
        if tables is not None:
            change = change.where(d.table_name.in_(sorted(tables)))
        if start is not None:
            change = change.where(d.date >= start)
        if end is not None:
            change = change.where(d.date <= end)
        return self._db.write(lambda connection: connection.execute(change).rowcount)


_KEY = ["user_id", "destination", "table_name", "row_key"]
_ORDER = [deliveries.c[name] for name in _KEY]
_HIDDEN = {"delivered_timestamp", "claimed_until"}
_SELECT: sa.Select[tuple[object, ...]] = sa.select(
    *(
        column.label("table") if column.name == "table_name" else column
        for column in deliveries.columns
        if column.name not in _HIDDEN
    )
)

_d = deliveries.c
_THE_ROW = (
    _d.user_id == sa.bindparam("b_user_id"),
    _d.destination == sa.bindparam("b_destination"),
    _d.table_name == sa.bindparam("b_table"),
    _d.row_key == sa.bindparam("b_row_key"),
)
_SAME_CONTENT = _d.ordering_timestamp == sa.bindparam("b_ordering_timestamp")
_OUR_CLAIM = _d.claim == sa.bindparam("b_claim")

_CLAIM = (
    sa.update(deliveries)
    .where(*_THE_ROW)
    .values(
        claim=sa.bindparam("b_claim"),
        claimed_until=sa.bindparam("b_until"),
        attempts=_d.attempts + 1,
    )
)
_DELIVERED = (
    sa.update(deliveries)
    .where(
        *_THE_ROW,
        sa.or_(
            _d.delivered_timestamp.is_(None),
            _d.delivered_timestamp <= sa.bindparam("b_ordering_timestamp"),
        ),
    )
    .values(
        delivered_hash=sa.bindparam("b_hash"),
        delivered_timestamp=sa.bindparam("b_ordering_timestamp"),
        delivered_at=sa.bindparam("b_now"),
        # Free for the next content; a claim somebody else took meanwhile stays theirs.
        claim=sa.case((_OUR_CLAIM, None), else_=_d.claim),
        claimed_until=sa.case((_OUR_CLAIM, None), else_=_d.claimed_until),
    )
)
_SETTLED = (
    sa.update(deliveries)
    .where(*_THE_ROW, _SAME_CONTENT)
    .values(status="delivered", last_error=None, claim=None, claimed_until=None)
)
_FAILED = (
    sa.update(deliveries)
    .where(*_THE_ROW, _SAME_CONTENT, _OUR_CLAIM)
    .values(
        status=sa.bindparam("b_status"),
        next_attempt_at=sa.bindparam("b_at"),
        last_error=sa.bindparam("b_error"),
    )
)
_UNTRIED = (
    sa.update(deliveries)
    .where(*_THE_ROW, _SAME_CONTENT, _OUR_CLAIM)
    .values(attempts=_d.attempts - 1)
)
_UNCLAIMED = (
    sa.update(deliveries).where(*_THE_ROW, _OUR_CLAIM).values(claim=None, claimed_until=None)
)


def _delivery(row: sa.Row[tuple[object, ...]], **changes: object) -> Delivery:
    return Delivery(**{**row._mapping, **changes})


def _in_order(rows: Sequence[Delivery]) -> list[Delivery]:
    # Every writer locks in the order of the key, so two never wait for each other.
    return sorted(rows, key=lambda row: (row.user_id, row.destination, row.table, row.row_key))


def _parameters(
    row: Delivery,
    claim: str,
    *,
    until: datetime | None = None,
    now: datetime | None = None,
    at: datetime | None = None,
    error: str | None = None,
    status: DeliveryStatus = "pending",
) -> dict[str, object]:
    return {
        "b_user_id": row.user_id,
        "b_destination": row.destination,
        "b_table": row.table,
        "b_row_key": row.row_key,
        "b_ordering_timestamp": row.ordering_timestamp,
        "b_hash": row.wanted_hash,
        "b_claim": claim,
        "b_until": until,
        "b_now": now,
        "b_at": at,
        "b_error": error,
        "b_status": status,
    }
