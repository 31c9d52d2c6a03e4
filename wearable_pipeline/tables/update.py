"""One table brought up to date: files refreshed, ledger written, destinations told, marks cleared.

In that order: whatever is killed in between is done again, because its mark still stands.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import polars as pl

from wearable_pipeline.destinations import wanting
from wearable_pipeline.destinations.delivery import note_wanted
from wearable_pipeline.model import TABLES
from wearable_pipeline.partitions import Partition, batches
from wearable_pipeline.registry import PartitionResult
from wearable_pipeline.tables.normalize import CODE_VERSION, providers_feeding, reasons_of
from wearable_pipeline.tables.refresh import Refreshed, newest_instants, refresh
from wearable_pipeline.workspace import Workspace

PARTITIONS_AT_ONCE = 200
LATEST_ROWS = 200


@dataclass(slots=True)
class Updated:
    """What an update of a table found and did, bounded in size however much it went through."""

    table: str
    partitions: int = 0
    written: int = 0
    records: int = 0
    merged: int = 0
    rows: int = 0
    samples: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    users: set[str] = field(default_factory=set)
    newest_at: datetime | None = None
    latest_rows: pl.DataFrame = field(default_factory=pl.DataFrame)

    def add(self, part: Refreshed, samples: int, newest: Iterable[datetime]) -> None:
        """Count one batch in."""
        self.partitions += part.partitions
        self.written += len(part.written)
        self.records += part.records
        self.merged += part.merged
        self.rows += part.rows.height
        self.samples += samples
        self.rejected += part.rejected.height
        self.reasons.update(reasons_of(part.rejected))
        self.users.update(part.rows["user_id"].unique())
        self.newest_at = max([*newest, *([self.newest_at] if self.newest_at else [])], default=None)
        kept = pl.concat([self.latest_rows, part.rows], how="diagonal")
        self.latest_rows = kept.sort("local_date", "user_id").tail(LATEST_ROWS)


def update_table(
    workspace: Workspace,
    table_name: str,
    cells: Iterable[Partition],
    *,
    user_ids: Collection[str] = (),
    include_touched: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> Updated:
    """Recompute `cells` of a table, and what ingest has touched for their users; report what was found.

    `progress` is called with the number of partitions done so far.
    """
    wanted = set(cells)
    users = {user.user_id for user in workspace.users_in(wanted, None, user_ids)}
    marks = workspace.registry.touched(user_ids=sorted(users), table=table_name)
    cohort_of = workspace.lake.scheme.cohort_of
    if include_touched:
        wanted |= {Partition(mark.date, cohort_of(mark.user_id)) for mark in marks}
    table = TABLES[table_name]
    report = Updated(table_name, latest_rows=table.empty())
    for some in batches(wanted, PARTITIONS_AT_ONCE):
        part = refresh(workspace.lake, table_name, some)
        newest = newest_instants(part.rows, table)
        done = set(some)
        read = [mark for mark in marks if Partition(mark.date, cohort_of(mark.user_id)) in done]
        samples = _note(workspace, part, newest)
        _note_emptied(workspace, part, {(mark.user_id, mark.date) for mark in read})
        # A marked one may have been rewritten by somebody who died before telling anybody.
        rewritten = {*part.written, *(Partition(m.date, cohort_of(m.user_id)) for m in read)}
        note_wanted(
            workspace.registry,
            wanting(workspace.settings, table_name),
            table_name,
            part.rows,
            cells=[
                (user_id, cell.date)
                for user_id in users
                if (cohort := cohort_of(user_id))
                for cell in rewritten
                if cell.cohort == cohort
            ],
        )
        workspace.registry.clear_touched(read)
        report.add(part, samples, newest.values())
        progress(report.partitions)
    return report


def _note(
    workspace: Workspace, part: Refreshed, newest: Mapping[tuple[str, date], datetime]
) -> int:
    """Write the ledger: what each user's day of the table holds now; returns the number of samples."""
    table = TABLES[part.table]
    rejected = {
        (str(user_id), day): int(count)
        for user_id, day, count in part.rejected.group_by("user_id", "local_date").len().rows()
    }
    samples = pl.sum_horizontal(pl.col(c.name).list.len() for c in table.lists)
    statuses: list[PartitionResult] = []
    per_day = (
        part.rows.with_columns(samples.alias("samples\x00"))
        .group_by("user_id", "provider", "local_date", maintain_order=True)
        .agg(pl.len().alias("rows"), pl.col("samples\x00").sum())
    )
    for user_id, provider, day, rows, count in per_day.rows():
        statuses.append(
            PartitionResult(
                user_id=user_id,
                provider=provider,
                table=part.table,
                date=day,
                status="ok",
                rows=rows,
                samples=count or 0,
                rejected=rejected.pop((user_id, day), 0),
                newest_at=newest.get((user_id, day)),
                code_version=CODE_VERSION,
            )
        )
    providers = dict(part.rejected.select("user_id", "provider").drop_nulls().rows())
    for (user_id, day), count in sorted(rejected.items()):
        statuses.append(
            PartitionResult(
                user_id=user_id,
                provider=providers.get(user_id, ""),
                table=part.table,
                date=day,
                status="empty",
                rows=0,
                samples=0,
                rejected=count,
                newest_at=None,
                code_version=CODE_VERSION,
            )
        )
    workspace.registry.record_partitions(statuses)
    latest: dict[str, datetime] = {}
    for (user_id, _day), instant in newest.items():
        latest[user_id] = max(instant, latest.get(user_id, instant))
    workspace.registry.record_readings(latest)
    return int(per_day["samples\x00"].sum())


def _note_emptied(
    workspace: Workspace, part: Refreshed, marked: Collection[tuple[str, date]]
) -> None:
    """Correct the ledger where it knows rows of `marked` days that are gone."""
    held = pl.concat(
        [part.rows.select("user_id", "local_date"), part.rejected.select("user_id", "local_date")]
    )
    gone = set(marked) - set(held.rows())
    if not gone:
        return
    days = [day for _, day in gone]
    known = workspace.registry.partitions(
        user_ids={user_id for user_id, _ in gone},
        tables=[part.table],
        start=min(days),
        end=max(days),
    )
    workspace.registry.record_partitions(
        [
            PartitionResult(
                user_id=row.user_id,
                provider=row.provider,
                table=part.table,
                date=row.date,
                status="empty",
                code_version=CODE_VERSION,
            )
            for row in known
            if (row.user_id, row.date) in gone and (row.rows or row.rejected)
        ]
    )


def rebuild(
    workspace: Workspace,
    table_names: Sequence[str],
    start: date | None,
    end: date | None,
    progress: Callable[[str, int, int], None] = lambda table, done, total: None,
) -> dict[str, Updated]:
    """Recompute every partition raw has records for, in `table_names` and between `start` and `end`.

    `progress` is called with the table, the partitions done and their number.
    """
    reports: dict[str, Updated] = {}
    for name in table_names:
        cells = {
            cell
            for provider in providers_feeding(name)
            for cell in workspace.lake.raw.partitions(provider)
            if (start is None or cell.date >= start) and (end is None or cell.date <= end)
        }
        total = len(cells)
        reports[name] = update_table(
            workspace,
            name,
            cells,
            include_touched=False,
            progress=lambda done, name=name, total=total: progress(name, done, total),  # type: ignore[misc]
        )
    return reports
