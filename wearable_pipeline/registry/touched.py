"""Touched partitions: the work list of what ingest has changed and tables have not yet seen."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.registry.schema import touched
from wearable_pipeline.registry.store import Store

_BATCH = 1000
_MARK = sa.tuple_(touched.c.user_id, touched.c.table_name, touched.c.date, touched.c.version)


@dataclass(frozen=True, slots=True, order=True)
class Touched:
    """A user's day in one table."""

    table: str
    user_id: str
    date: date


@dataclass(frozen=True, slots=True)
class TouchedRow:
    """A mark as it was read; `version` says which one."""

    table: str
    user_id: str
    date: date
    version: int
    touched_at: datetime


class TouchedPartitions(Store):
    """Marking, reading and clearing."""

    def mark_touched(self, keys: Iterable[Touched]) -> int:
        """Mark `keys`; returns how many (erased users fall away).

        Call it before raw is written, so a crash leaves work and not a hole, and once more after: a
        reader that came in between has seen the old raw and may have cleared the first mark.
        """
        wanted = sorted(set(keys), key=lambda key: (key.user_id, key.table, key.date))
        now = self._clock()

        def mark(connection: Connection) -> int:
            known = self._db.known_users(connection, {key.user_id for key in wanted})
            kept = [key for key in wanted if key.user_id in known]
            if not kept:
                return 0
            # Versions grow over all keys and for ever: a mark that is cleared and set again must
            # not look like the one somebody read before.
            version = self._db.next_number(connection, "touched")
            statement = self._db.insert(touched)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["user_id", "table_name", "date"],
                    set_={
                        "version": statement.excluded.version,
                        "touched_at": statement.excluded.touched_at,
                    },
                ),
                [
                    {
                        "table_name": key.table,
                        "user_id": key.user_id,
                        "date": key.date,
                        "version": version,
                        "touched_at": now,
                    }
                    for key in kept
                ],
            )
            return len(kept)

        return self._db.write(mark) if wanted else 0

    def touched(
        self,
        user_ids: Collection[str] | None = None,
        limit: int | None = None,
        table: str | None = None,
    ) -> list[TouchedRow]:
        """Marks, longest waiting first."""
        query = (
            sa.select(
                touched.c.table_name,
                touched.c.user_id,
                touched.c.date,
                touched.c.version,
                touched.c.touched_at,
            )
            .order_by(touched.c.version, touched.c.user_id, touched.c.table_name, touched.c.date)
            .limit(limit)
        )
        if user_ids is not None:
            query = query.where(self._db.any_of(touched.c.user_id, user_ids))
        if table is not None:
            query = query.where(touched.c.table_name == table)
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [TouchedRow(*row) for row in rows]

    def clear_touched(self, rows: Iterable[TouchedRow]) -> int:
        """Remove the marks that are still the ones read; returns how many. Newer ones stay."""
        read = sorted(rows, key=lambda row: (row.user_id, row.table, row.date))

        def clear(connection: Connection) -> int:
            removed = 0
            for start in range(0, len(read), _BATCH):
                batch = [
                    (row.user_id, row.table, row.date, row.version)
                    for row in read[start : start + _BATCH]
                ]
                removed += connection.execute(sa.delete(touched).where(_MARK.in_(batch))).rowcount
            return removed

        return self._db.write(clear) if read else 0
