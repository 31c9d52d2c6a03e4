"""One table brought up to date: files refreshed, ledger written, destinations told, marks cleared.

In that order: whatever is killed in between is done again, because its mark still stands.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import polars as pl

from wearable_pipeline.destinations import wanting
from wearable_pipeline.destinations.delivery import note_wanted
from wearable_pipeline.model import TABLES
from wearable_pipeline.partitions import Partition
from wearable_pipeline.registry import PartitionResult
from wearable_pipeline.registry.touched import TouchedRow
from wearable_pipeline.tables.normalize import CODE_VERSION, providers_feeding, reasons_of
from wearable_pipeline.tables.refresh import Refreshed, newest_instants, refresh_in_parts
from wearable_pipeline.workspace import Workspace

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
        self.latest_rows = _latest(pl.concat([self.latest_rows, _latest(part.rows)]))


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
    marks_of: dict[Partition, list[TouchedRow]] = defaultdict(list)
    for mark in marks:
        marks_of[Partition(mark.date, cohort_of(mark.user_id))].append(mark)
    users_of: dict[str, list[str]] = defaultdict(list)
    for user_id in sorted(users):
        users_of[cohort_of(user_id)].append(user_id)
    report = Updated(table_name, latest_rows=table.empty())
    # What the parts of one partition had, until it is done.
    held: set[tuple[str, date]] = set()
    for part in refresh_in_parts(workspace.lake, table_name, wanted):
        newest = newest_instants(part.rows, table)
        samples = _note(workspace, part, newest)
        read = [mark for partition in part.done for mark in marks_of.get(partition, ())]
        held |= _days_in(part.rows) | _days_in(part.rejected)
        # A marked one may have been rewritten by somebody who died before telling anybody.
        rewritten = [*part.written, *(one for one in part.done if one in marks_of)]
        if not part.done:
            day, some_user = part.rows.select("local_date", "user_id").row(0)
            rewritten = [Partition(day, cohort_of(some_user))]
        note_wanted(
            workspace.registry,
            wanting(workspace.settings, table_name),
            table_name,
            part.rows,
            cells=[
                (user_id, cell.date)
                for cell in dict.fromkeys(rewritten)
                for user_id in users_of[cell.cohort]
                if (part.after_user is None or user_id > part.after_user)
                and (part.last_user is None or user_id <= part.last_user)
            ],
        )
        if part.done:
            _note_emptied(workspace, part, {(mark.user_id, mark.date) for mark in read} - held)
            workspace.registry.clear_touched(read)
            held.clear()
        report.add(part, samples, newest.values())
        progress(report.partitions)
    return report


def _latest(rows: pl.DataFrame) -> pl.DataFrame:
    """The last rows by date; only those are moved."""
    order = rows.select("local_date", "user_id").with_row_index("row\x00")
    return rows[order.sort("local_date", "user_id").tail(LATEST_ROWS)["row\x00"]]


def _days_in(frame: pl.DataFrame) -> set[tuple[str, date]]:
    return set(frame.select("user_id", "local_date").unique().rows())


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
    workspace: Workspace, part: Refreshed, gone: Collection[tuple[str, date]]
) -> None:
    """Correct the ledger where it knows rows of days that are `gone`."""
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
