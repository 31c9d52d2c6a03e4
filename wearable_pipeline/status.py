"""How everything stands: one look at users, tables, freshness, waiting work and deliveries."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

from rich.console import Console
from rich.table import Column
from rich.table import Table as Grid

from wearable_pipeline.registry import BackfillTotal, PartitionTotal
from wearable_pipeline.workspace import Workspace

SHOWN_USERS = 50


@dataclass(slots=True)
class UserLine:
    """One user's freshness."""

    user_id: str
    provider: str
    status: str
    newest_reading_at: datetime | None
    age_seconds: float | None
    failures: int
    error: str | None


@dataclass(slots=True)
class StatusReport:
    """The whole of it; see the field names."""

    at: datetime
    lake: str
    registry: str
    users: list[UserLine] = field(default_factory=list)
    tables: list[PartitionTotal] = field(default_factory=list)
    touched: int = 0
    deliveries: dict[str, dict[str, int]] = field(default_factory=dict)
    parked: list[dict[str, object]] = field(default_factory=list)
    imports: int = 0
    backfill: list[BackfillTotal] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def _shown(self) -> list[UserLine]:
        """All users while they are few, else those in trouble and the longest silent."""
        if len(self.users) <= SHOWN_USERS:
            return self.users
        return sorted(self.users, key=_trouble)[:SHOWN_USERS]

    def render(self, out: Console) -> None:
        """Print it for a person."""
        out.print(f"lake      {self.lake}\nregistry  {self.registry}")
        counts = Counter(line.status for line in self.users)
        told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        out.print(f"users     {told or 'none yet: `wearable-pipeline users connect --help`'}")
        if self.touched:
            out.print(
                f"waiting   {self.touched} days to normalize (the daemon or `sync` takes them)"
            )
        for history in self.backfill:
            if history.status != "done":
                out.print(
                    f"history   {history.provider}: {history.users} users {history.status},"
                    f" {history.windows} windows of 28 days left"
                )
        if self.users:
            whole = Column("user", no_wrap=True)
            grid = Grid(whole, "provider", "status", "newest reading", "age", "error")
            for line in self._shown():
                grid.add_row(
                    line.user_id,
                    line.provider,
                    line.status,
                    f"{line.newest_reading_at:%Y-%m-%d %H:%M:%S}Z"
                    if line.newest_reading_at
                    else "",
                    "" if line.age_seconds is None else f"{line.age_seconds / 60:.1f} min",
                    line.error or "",
                )
            out.print(grid)
            if len(self.users) > SHOWN_USERS:
                out.print(
                    f"{len(self.users) - SHOWN_USERS} more users, in better order (--json has all)"
                )
        if self.tables:
            grid = Grid("table", "status", "days", "rows", "samples", "quarantined")
            for total in self.tables:
                grid.add_row(
                    total.table,
                    total.status,
                    str(total.partitions),
                    str(total.rows),
                    str(total.samples),
                    str(total.rejected),
                )
            out.print(grid)
        for name, figures in self.deliveries.items():
            out.print(f"{name}: " + ", ".join(f"{count} {key}" for key, count in figures.items()))
        for row in self.parked:
            out.print(
                f"parked: {row['destination']} {row['table']} {row['row_key']}: {row['error']}"
            )


def _trouble(line: UserLine) -> tuple[bool, float, str]:
    silence = float("inf") if line.age_seconds is None else line.age_seconds
    return line.error is None, -silence, line.user_id


def read_status(workspace: Workspace, destination_names: Sequence[str]) -> StatusReport:
    """The state of this installation now."""
    registry = workspace.registry
    now = workspace.now()
    users = registry.find_users()
    states = registry.load_states([user.user_id for user in users])
    report = StatusReport(now, workspace.settings.lake, workspace.settings.shown_registry)
    for user in users:
        state = states.get(user.user_id)
        newest = state.newest_reading_at if state else None
        report.users.append(
            UserLine(
                user.user_id,
                user.provider,
                user.status,
                newest,
                (now - newest).total_seconds() if newest else None,
                state.failures if state else 0,
                (state.error_message if state else None) or user.status_reason,
            )
        )
    report.tables = registry.partition_totals()
    report.touched = registry.count_touched()
    report.backfill = registry.backfill_totals()
    report.imports = len(registry.imports())
    for name in destination_names:
        counts = registry.counts(name)
        if counts.pending or counts.delivered or counts.parked:
            report.deliveries[name] = {
                "delivered": counts.delivered,
                "pending": counts.pending,
                "parked": counts.parked,
            }
        report.parked += [
            {
                "destination": name,
                "table": row.table,
                "user_id": row.user_id,
                "row_key": row.row_key,
                "error": row.last_error,
            }
            for row in registry.deliveries(name, status="parked", limit=20)
        ]
    return report
