"""Partition ledger: the truth per (user, provider, table, date) about what lies in the lake."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.registry.database import clean
from wearable_pipeline.registry.schema import partitions
from wearable_pipeline.registry.store import Store

PartitionStatus = Literal["ok", "failed", "empty"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionResult:
    """How writing one user's day of one table ended."""

    user_id: str
    provider: str
    table: str
    date: date
    status: PartitionStatus
    code_version: str
    rows: int = 0
    samples: int = 0
    rejected: int = 0
    content_hash: str | None = None
    newest_at: datetime | None = None
    error_class: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRow:
    """What the ledger knows of one user's day of one table.

    After a failure rows, samples, rejected, hash, `newest_at` and `code_version` are still those of
    the file that lies in the lake; `attempts` counts the failures since.
    """

    user_id: str
    provider: str
    table: str
    date: date
    status: PartitionStatus
    rows: int
    samples: int
    rejected: int
    content_hash: str | None
    newest_at: datetime | None
    attempts: int
    error_class: str | None
    error_message: str | None
    code_version: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PartitionTotal:
    """Sums over all partitions of one table in one status."""

    table: str
    status: PartitionStatus
    partitions: int
    rows: int
    samples: int
    rejected: int
    newest_at: datetime | None


class PartitionLedger(Store):
    """Recording and asking."""

    def record_partitions(self, results: Sequence[PartitionResult]) -> int:
        """Record results in one transaction; returns how many (erased users fall away)."""
        latest = {(r.user_id, r.table, r.date, r.provider): r for r in results}
        now = self._clock()

        def record(connection: Connection) -> int:
            known = self._db.known_users(connection, {key[0] for key in latest})
            kept = [latest[key] for key in sorted(latest) if key[0] in known]
            succeeded = [_parameters(r, now) for r in kept if r.status != "failed"]
            failed = [_parameters(r, now) for r in kept if r.status == "failed"]
            statement = self._db.insert(partitions)
            new = statement.excluded
            outcome = {
                name: new[name] for name in ("status", "error_class", "error_message", "updated_at")
            }
            figures = {
                name: new[name]
                for name in (
                    "rows",
                    "samples",
                    "rejected",
                    "content_hash",
                    "newest_at",
                    "code_version",
                    "attempts",
                )
            }
            if succeeded:
                connection.execute(
                    statement.on_conflict_do_update(index_elements=_KEY, set_=outcome | figures),
                    succeeded,
                )
            if failed:
                connection.execute(
                    statement.on_conflict_do_update(
                        index_elements=_KEY,
                        set_=outcome | {"attempts": partitions.c.attempts + 1},
                    ),
                    failed,
                )
            return len(kept)

        return self._db.write(record) if latest else 0

    def partitions(
        self,
        user_ids: Collection[str] | None = None,
        tables: Collection[str] | None = None,
        start: date | None = None,
        end: date | None = None,
        status: PartitionStatus | None = None,
        limit: int | None = None,
    ) -> list[PartitionRow]:
        """Partitions that fit everything given (both dates included), by user, table and date."""
        query = _SELECT.order_by(*_ORDER).limit(limit)
        if user_ids is not None:
            query = query.where(self._db.any_of(partitions.c.user_id, user_ids))
        if tables is not None:
            query = query.where(partitions.c.table_name.in_(sorted(tables)))
        if start is not None:
            query = query.where(partitions.c.date >= start)
        if end is not None:
            query = query.where(partitions.c.date <= end)
        if status is not None:
            query = query.where(partitions.c.status == status)
        return self._rows(query)

    def stale_partitions(
        self,
        code_version: str,
        limit: int | None = None,
        *,
        user_ids: Collection[str] | None = None,
        start: date | None = None,
        end: date | None = None,
    ) -> list[PartitionRow]:
        """Partitions whose file was written by other code than `code_version`."""
        column = partitions.c.code_version
        # Two ranges instead of <>: those the index can answer.
        query = _SELECT.where(sa.or_(column < code_version, column > code_version))
        if user_ids is not None:
            query = query.where(self._db.any_of(partitions.c.user_id, user_ids))
        if start is not None:
            query = query.where(partitions.c.date >= start)
        if end is not None:
            query = query.where(partitions.c.date <= end)
        return self._rows(query.order_by(*_ORDER).limit(limit))

    def forget_partitions(self, rows: Collection[PartitionRow]) -> int:
        """Remove entries whose files are gone from the lake; returns how many."""
        keys = sorted((row.user_id, row.table, row.date, row.provider) for row in rows)

        def forget(connection: Connection) -> int:
            removed = 0
            for start in range(0, len(keys), _BATCH):
                claim = sa.tuple_(*_ORDER).in_(keys[start : start + _BATCH])
                removed += connection.execute(sa.delete(partitions).where(claim)).rowcount
            return removed

        return self._db.write(forget) if keys else 0

    def partition_totals(self) -> list[PartitionTotal]:
        """Sums by table and status."""
        p = partitions.c
        query = (
            sa.select(
                p.table_name,
                p.status,
                sa.func.count(),
                sa.func.sum(p.rows),
                sa.func.sum(p.samples),
                sa.func.sum(p.rejected),
                sa.func.max(p.newest_at),
            )
            .group_by(p.table_name, p.status)
            .order_by(p.table_name, p.status)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [
            PartitionTotal(
                table=row[0],
                status=row[1],
                partitions=row[2],
                rows=int(row[3]),  # Postgres sums bigints to a Decimal
                samples=int(row[4]),
                rejected=int(row[5]),
                newest_at=row[6],
            )
            for row in rows
        ]

    def _rows(self, query: sa.Select[tuple[object, ...]]) -> list[PartitionRow]:
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [PartitionRow(**row._mapping) for row in rows]


_BATCH = 1000
_KEY = ["user_id", "table_name", "date", "provider"]
_ORDER = [partitions.c[name] for name in _KEY]
_SELECT: sa.Select[tuple[object, ...]] = sa.select(
    *(
        column.label("table") if column.name == "table_name" else column
        for column in partitions.columns
    )
)


def _parameters(result: PartitionResult, now: datetime) -> dict[str, object]:
    has_failed = result.status == "failed"
    return {
        "user_id": result.user_id,
        "provider": result.provider,
        "table_name": result.table,
        "date": result.date,
        "status": result.status,
        "rows": 0 if has_failed else result.rows,
        "samples": 0 if has_failed else result.samples,
        "rejected": 0 if has_failed else result.rejected,
        "content_hash": None if has_failed else result.content_hash,
        "newest_at": None if has_failed else result.newest_at,
        "attempts": 1 if has_failed else 0,
        "error_class": result.error_class,
        "error_message": clean(result.error_message),
        "code_version": result.code_version,
        "updated_at": now,
    }
