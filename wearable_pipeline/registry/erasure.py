"""Erasure and the audit trail that remains of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.partitions import check_user_id
from wearable_pipeline.registry.leases import Leases
from wearable_pipeline.registry.schema import USER_TABLES, audit, budgets, leases, users


@dataclass(frozen=True, slots=True)
class AuditRow:
    """That something was done to somebody, without saying who: `subject_hash` proves, not tells."""

    at: datetime
    action: str
    subject_hash: str
    detail: dict[str, object] = field(default_factory=dict)


class Erasure(Leases):
    """Removing a user, and what is left to show for it."""

    def delete_user(self, user_id: str, *, compact: bool = True) -> dict[str, int]:
        """Remove every row of the user; returns rows removed by table.

        No such user is no error: a broken-off erasure is simply repeated. `compact` rewrites a
        SQLite file so that no deleted bytes remain in it (seconds per GB; when erasing many, do it
        with the last). Postgres reuses the room by itself; its backups and archived WAL are the
        operator's.
        """
        check_user_id(user_id)

        def remove(connection: Connection) -> dict[str, int]:
            # Writers hold this row while they add: after this nobody can add rows of the user.
            connection.execute(
                sa.select(users.c.user_id).where(users.c.user_id == user_id).with_for_update()
            )
            removed: dict[str, int] = {}
            for table in USER_TABLES:
                result = connection.execute(sa.delete(table).where(table.c.user_id == user_id))
                removed[table.name.removeprefix("wearable_")] = result.rowcount
            names = self._leases_of(connection, user_id)
            connection.execute(sa.delete(leases).where(leases.c.name.in_(names)))
            removed["leases"] = len(names)
            own = budgets.c.name.endswith(f"/{user_id}", autoescape=True)
            removed["budgets"] = connection.execute(sa.delete(budgets).where(own)).rowcount
            if any(removed.values()):
                self._write_audit(connection, "user erased", user_id, dict(removed))
            return removed

        removed = self._db.write(remove)
        if compact:
            self._db.compact()
        return removed

    def subject_hash(self, user_id: str) -> str:
        """What the audit trail calls this user."""
        return self._db.write(lambda connection: self._keys.hash_subject(connection, user_id))

    def write_audit(self, action: str, user_id: str, detail: Mapping[str, object]) -> None:
        """Add to the audit trail. `detail` holds counts and names of tables, nothing personal."""
        self._db.write(
            lambda connection: self._write_audit(connection, action, user_id, dict(detail))
        )

    def audit_trail(self, user_id: str | None = None) -> list[AuditRow]:
        """The trail, oldest first; with `user_id`, what was done to that user, erased or not."""

        def load(connection: Connection) -> list[AuditRow]:
            query = sa.select(audit.c.at, audit.c.action, audit.c.subject_hash, audit.c.detail)
            if user_id is not None:
                subject = self._keys.hash_subject(connection, user_id)
                query = query.where(audit.c.subject_hash == subject)
            return [AuditRow(*row) for row in connection.execute(query.order_by(audit.c.id))]

        return self._db.write(load)

    def _write_audit(
        self, connection: Connection, action: str, user_id: str, detail: dict[str, object]
    ) -> None:
        subject = self._keys.hash_subject(connection, user_id)
        connection.execute(
            sa.insert(audit).values(
                at=self._clock(), action=action, subject_hash=subject, detail=detail
            )
        )
