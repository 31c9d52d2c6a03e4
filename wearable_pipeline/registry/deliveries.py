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
from wearable_pipeline.registry.events import EVENT_DATE
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
    retries, as does `trace_id`. `claim` is None unless the row was claimed. Rows of a large request
    share `reference`, those that travel together `chunk` as well.
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
    reference: str | None = None
    chunk: int | None = None


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
                "reference": None,
                "chunk": None,
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
        on: date | None = None,
    ) -> list[Delivery]:
        """Take up to `limit` pending rows for sending; nobody else gets them until `now + ttl`.

        `on` takes rows of that date only.

        Taking counts as an attempt, so a row that kills its sender is not tried for ever. A chunk
        is taken whole, even if that makes a few rows more than `limit`.
        """
        token = str(uuid.uuid4())
        d = deliveries.c
        query = self._sendable(destination, now, limit, user_ids).with_for_update(skip_locked=True)
        if on is not None:
            query = query.where(d.date == on)

        def take(connection: Connection) -> list[Delivery]:
            rows = list(connection.execute(query))
            chunks = {(row.reference, row.chunk) for row in rows if row.chunk is not None}
            if chunks:
                known = {(row.user_id, row.table, row.row_key) for row in rows}
                mates = self._sendable(destination, now, None, user_ids).where(
                    self._db.any_of(d.reference, {reference for reference, _ in chunks})
                )
                rows += [
                    row
                    for row in connection.execute(mates.with_for_update(skip_locked=True))
                    if (row.reference, row.chunk) in chunks
                    and (row.user_id, row.table, row.row_key) not in known
                ]
            taken = [_delivery(row, claim=token, attempts=row.attempts + 1) for row in rows]
            if taken:
                connection.execute(
                    _CLAIM, [_parameters(row, token, until=now + ttl) for row in taken]
                )
            return taken

        return self._db.write(take)

    def due_days(
        self,
        destination: str,
        now: datetime,
        limit: int,
        user_ids: Collection[str] | None = None,
    ) -> list[tuple[date, str]]:
        """Dates and users of the first `limit` rows that could be claimed, newest dates first."""
        d = deliveries.c
        query = self._sendable(destination, now, limit, user_ids).with_only_columns(
            d.date, d.user_id
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [(row[0], row[1]) for row in rows]

    def chunk_request(
        self,
        destination: str,
        user_id: str,
        reference: str,
        size: int,
        *,
        tables: Collection[str] | None = None,
        start: date | None = None,
        end: date | None = None,
    ) -> int:
        """Put a user's waiting rows that fit under `reference`, `size` to a chunk; returns chunks.

        A chunk holds rows of one table and one ordering timestamp, the newest days first: a receiver
        keeps the greatest, so one that spoke for rows of different ages would hide the next change.
        """
        d = deliveries.c
        query = (
            sa.select(d.table_name, d.row_key, d.ordering_timestamp)
            .where(
                d.destination == destination,
                d.user_id == user_id,
                d.status == "pending",
                d.date != EVENT_DATE,
                d.claim.is_(None),
                *_fits(tables, start, end),
            )
            .order_by(d.table_name, d.ordering_timestamp, d.date.desc(), d.row_key)
            .with_for_update(skip_locked=True)
        )

        def assign(connection: Connection) -> int:
            changes: list[dict[str, object]] = []
            chunk, held, kin = -1, size, None
            for row in connection.execute(query).all():
                if held == size or kin != (row.table_name, row.ordering_timestamp):
                    chunk, held, kin = chunk + 1, 0, (row.table_name, row.ordering_timestamp)
                held += 1
                changes.append(
                    {
                        "b_user_id": user_id,
                        "b_destination": destination,
                        "b_table": row.table_name,
                        "b_row_key": row.row_key,
                        "b_reference": reference,
                        "b_chunk": chunk,
                    }
                )
            if changes:
                connection.execute(_CHUNKED, changes)
            return chunk + 1

        return self._db.write(assign)

    def acknowledge(self, sent: Sequence[Delivery]) -> None:
        """Record that the destination has these contents.

        True whoever holds the claim by now. A row wanted anew meanwhile stays pending, and an older
        content acknowledged late does not hide a newer one.
        """
        now = self._clock()
        parameters = [_parameters(row, row.claim or "", now=now) for row in _in_order(sent)]

        def record(connection: Connection) -> None:
            connection.execute(_DELIVERED, parameters)

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

    def count_deliveries(self, destination: str, status: DeliveryStatus) -> int:
        """How many rows of the destination have that status; `pending` and `parked` are cheap.

        Delivered rows grow with history: a pass that asked for `counts` would read them all.
        """
        query = sa.select(sa.func.count()).where(
            deliveries.c.destination == destination,
            # Written out for the partial index, as in `_sendable`.
            sa.text(f"status = '{status}'"),
        )
        return int(self._db.read(lambda connection: connection.execute(query).scalar_one()))

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
        query = query.where(*_fits(tables, start, end))
        if destination is not None:
            query = query.where(deliveries.c.destination == destination)
        if user_ids is not None:
            query = query.where(self._db.any_of(deliveries.c.user_id, user_ids))
        if status is not None:
            query = query.where(deliveries.c.status == status)
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [_delivery(row) for row in rows]

    def live_keys(
        self, destination: str, table: str, user_ids: Collection[str], start: date, end: date
    ) -> list[tuple[str, str, date, str]]:
        """User, key, date and wanted hash of rows the destination should have, not withdrawn."""
        d = deliveries.c
        query = sa.select(d.user_id, d.row_key, d.date, d.wanted_hash).where(
            d.destination == destination,
            ~d.is_deleted,
            self._db.any_of(d.user_id, user_ids),
            *_fits([table], start, end),
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [(row[0], row[1], row[2], row[3]) for row in rows]

    def withdraw(self, destination: str, user_id: str, tables: Collection[str]) -> int:
        """Say that the destination should have no row of the user any more; returns rows to withdraw."""
        every = (user_id,), date.min, date.max
        return sum(
            self.want(
                destination,
                [
                    WantedRow(table, user, row_key, day, wanted_hash, is_deleted=True)
                    for user, row_key, day, wanted_hash in self.live_keys(
                        destination, table, *every
                    )
                ],
            )
            for table in tables
        )

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
            .values(
                status="pending",
                attempts=0,
                next_attempt_at=self._clock(),
                reference=None,
                chunk=None,
            )
        )
        if user_ids is not None:
            change = change.where(self._db.any_of(d.user_id, user_ids))
        if status == "delivered":
            # What happened once is not said to happen again.
            change = change.where(d.date != EVENT_DATE)
        change = change.where(*_fits(tables, start, end))
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
        status=sa.case((_SAME_CONTENT, "delivered"), else_=_d.status),
        last_error=sa.case((_SAME_CONTENT, None), else_=_d.last_error),
        # Free for the next content; a claim somebody else took for that stays theirs.
        claim=sa.case((sa.or_(_OUR_CLAIM, _SAME_CONTENT), None), else_=_d.claim),
        claimed_until=sa.case((sa.or_(_OUR_CLAIM, _SAME_CONTENT), None), else_=_d.claimed_until),
    )
)
_FAILED = (
    sa.update(deliveries)
    .where(*_THE_ROW, _SAME_CONTENT, _OUR_CLAIM)
    .values(
        status=sa.bindparam("b_status"),
        next_attempt_at=sa.bindparam("b_at"),
        last_error=sa.bindparam("b_error"),
        # Refused twice, each row goes alone: one that cannot be taken must not hold the others.
        chunk=sa.case((_d.attempts >= 2, None), else_=_d.chunk),
    )
)
_UNTRIED = (
    sa.update(deliveries)
    .where(*_THE_ROW, _SAME_CONTENT, _OUR_CLAIM)
    .values(attempts=_d.attempts - 1)
)
_CHUNKED = (
    sa.update(deliveries)
    .where(*_THE_ROW)
    .values(reference=sa.bindparam("b_reference"), chunk=sa.bindparam("b_chunk"))
)
_UNCLAIMED = (
    sa.update(deliveries).where(*_THE_ROW, _OUR_CLAIM).values(claim=None, claimed_until=None)
)


def _fits(
    tables: Collection[str] | None, start: date | None, end: date | None
) -> list[sa.ColumnElement[bool]]:
    fits: list[sa.ColumnElement[bool]] = []
    if tables is not None:
        fits.append(_d.table_name.in_(sorted(tables)))
    if start is not None:
        fits.append(_d.date >= start)
    if end is not None:
        fits.append(_d.date <= end)
    return fits


_NAMES = tuple(_SELECT.selected_columns.keys())


def _delivery(row: sa.Row[tuple[object, ...]], **changes: object) -> Delivery:
    # By position: a mapping of the row costs three times as much.
    return Delivery(**{**dict(zip(_NAMES, row, strict=True)), **changes})


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
