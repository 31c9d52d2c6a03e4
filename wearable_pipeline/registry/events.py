"""Events about connections and requests, kept until every destination that takes them has them.

An event is noted in the transaction that makes it true. Destinations are told by delivery rows like
any other, so claims, back-off, parking and counts are those of data.
"""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.registry.database import Database
from wearable_pipeline.registry.schema import counters, deliveries, events, users
from wearable_pipeline.registry.store import Store

EventType = Literal[
    "auth",
    "deauth",
    "user_reauth",
    "access_revoked",
    "connection_error",
    "permission_change",
    "large_request_processing",
    "large_request_sending",
]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
# The date of an event's delivery row: the newest date is sent first, and events come before data.
EVENT_DATE = date(9999, 12, 31)
# A destination that is new is told no older news than this.
NEWS = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """Something that happened to a user; `destination` limits who is told."""

    user_id: str
    type: EventType
    detail: Mapping[str, object] = field(default_factory=dict, repr=False)
    destination: str | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it was noted; `event_id` is its trace id as well."""

    event_id: str
    user_id: str
    type: EventType
    detail: dict[str, object] = field(repr=False)
    at: datetime


def insert_events(
    database: Database, connection: Connection, found: Sequence[NewEvent], at: datetime
) -> None:
    """Note events inside the caller's transaction, which holds their users in place."""
    if not found:
        return
    # The counter's row lock puts writers in line: a higher number was committed later, so a reader
    # that has seen a number has seen all below it.
    rows = [
        {
            "number": database.next_number(connection, "events"),
            "event_id": str(uuid.uuid4()),
            "user_id": event.user_id,
            "type": event.type,
            "detail": dict(event.detail),
            "destination": event.destination,
            "at": at,
        }
        for event in found
    ]
    connection.execute(sa.insert(events), rows)


class Events(Store):
    """Noting events and handing them to destinations."""

    def note_event(
        self,
        user_id: str,
        kind: EventType,
        detail: Mapping[str, object] | None = None,
        *,
        destination: str | None = None,
    ) -> None:
        """Note that `kind` happened to the user. An erased user falls away.

        `detail` holds no secrets; what clients are told of it: `old_user_id`, `widget_session_id`,
        `scopes_added`, `scopes_removed`, `reference`, `expected_payloads`.
        """

        def note(connection: Connection) -> None:
            if self._db.known_users(connection, [user_id]):
                event = NewEvent(user_id, kind, detail or {}, destination)
                insert_events(self._db, connection, [event], self._clock())

        self._db.write(note)

    def want_events(
        self, destination: str, takes: Callable[[str, str], bool] = lambda user_id, provider: True
    ) -> int:
        """Make the events `destination` has not been offered pending for it; returns how many.

        `takes` is asked with user id and provider.
        """
        cursor = f"events/{destination}"
        position = sa.select(counters.c.value).where(counters.c.name == cursor)
        newest = sa.select(sa.func.max(events.c.number))

        def is_behind(connection: Connection) -> bool:
            last = connection.execute(newest).scalar()
            return last is not None and last > (connection.execute(position).scalar() or 0)

        def offer(connection: Connection) -> int:
            connection.execute(
                self._db.insert(counters)
                .values(name=cursor, value=-1)
                .on_conflict_do_nothing(index_elements=["name"])
            )
            seen = connection.execute(position.with_for_update()).scalar_one()
            query = (
                sa.select(events, users.c.provider)
                .join_from(events, users)
                .where(
                    events.c.number > seen,
                    sa.or_(events.c.destination.is_(None), events.c.destination == destination),
                )
                .order_by(events.c.number)
            )
            if seen < 0:
                query = query.where(events.c.at >= self._clock() - NEWS)
            last = connection.execute(newest).scalar() or 0
            rows = [row for row in connection.execute(query) if takes(row.user_id, row.provider)]
            if rows:
                connection.execute(
                    self._db.insert(deliveries).on_conflict_do_nothing(),
                    [
                        {
                            "destination": destination,
                            "table_name": row.type,
                            "user_id": row.user_id,
                            "row_key": row.event_id,
                            "date": EVENT_DATE,
                            "is_deleted": False,
                            "wanted_hash": row.event_id,
                            "ordering_timestamp": int(row.at.timestamp() * 1000),
                            "trace_id": row.event_id,
                            "wanted_at": row.at,
                            "status": "pending",
                            "attempts": 0,
                            "next_attempt_at": row.at,
                            "reference": row.detail.get("reference"),
                        }
                        for row in rows
                    ],
                )
            connection.execute(
                sa.update(counters).where(counters.c.name == cursor).values(value=last)
            )
            return len(rows)

        return self._db.write(offer) if self._db.read(is_behind) else 0

    def load_events(self, event_ids: Collection[str]) -> list[StoredEvent]:
        """Those of `event_ids` that exist, in the order they were noted."""
        query = (
            sa.select(
                events.c.event_id, events.c.user_id, events.c.type, events.c.detail, events.c.at
            )
            .where(self._db.any_of(events.c.event_id, event_ids))
            .order_by(events.c.number)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [StoredEvent(*row) for row in rows]

    def events_of(self, user_id: str) -> list[StoredEvent]:
        """All events of a user, oldest first."""
        query = sa.select(events.c.event_id).where(events.c.user_id == user_id)
        ids = self._db.read(lambda connection: connection.execute(query).scalars().all())
        return self.load_events(ids)
