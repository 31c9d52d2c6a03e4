"""What the lake lets go by age, and only when the settings say so; by default nothing, ever.

Raw is what tables are made from. A late record of a day whose raw is gone would replace that day's
rows by itself alone, so raw is never let go before the rows made of it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Literal

from wearable_pipeline.errors import UsageError
from wearable_pipeline.lake.coverage import COMPACT, list_parts, parse_part, sampled_views
from wearable_pipeline.lake.layout import parse_partition
from wearable_pipeline.lake.storage import Entry, Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.workspace import Workspace

Kind = Literal["tables", "quarantine", "raw", "compact"]

_AT_ONCE = 1_000
_LEDGER_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Rules:
    """What to keep. Days count back from today; None keeps for ever."""

    raw_days: int | None = None
    tables_days: int | None = None
    compact: bool = True

    def __post_init__(self) -> None:
        if self.raw_days is None:
            return
        if self.tables_days is None or self.tables_days > self.raw_days:
            raise UsageError(
                f"WEARABLE_RAW_KEEP_DAYS={self.raw_days} would delete what tables are made from: a late"
                " record would then replace a whole day by itself. Set WEARABLE_TABLES_KEEP_DAYS to at"
                f" most {self.raw_days} too, or keep raw"
            )


@dataclass(slots=True)
class Expired:
    """Files of one kind that may go."""

    files: int = 0
    bytes: int = 0
    oldest: date | None = None
    newest: date | None = None
    paths: list[str] = field(default_factory=list)

    def add(self, entry: Entry, first: date | None = None, last: date | None = None) -> None:
        """Count one in."""
        self.files += 1
        self.bytes += entry.size
        self.paths.append(entry.path)
        if first is not None:
            self.oldest = min(first, self.oldest or first)
        if last is not None:
            self.newest = max(last, self.newest or last)


def apply_retention(workspace: Workspace, *, dry_run: bool) -> dict[Kind, Expired]:
    """Delete what the settings let go, unless `dry_run`; returns what that is.

    The ledger forgets the deleted days, the audit trail keeps how many files went. What raw no longer
    has no rebuild brings back.
    """
    settings, storage = workspace.settings, workspace.lake.storage
    rules = Rules(settings.raw_keep_days, settings.tables_keep_days, settings.keep_compact)
    today = workspace.now().date()
    found = find_expired(storage, rules, today)
    if dry_run or not any(expired.files for expired in found.values()):
        return found
    delete_expired(storage, found)
    if rules.tables_days is not None:
        last = today - timedelta(days=rules.tables_days + 1)
        while gone := workspace.registry.partitions(end=last, limit=_LEDGER_ROWS):
            workspace.registry.forget_partitions(gone)
    counts: dict[str, object] = {
        str(kind): expired.files for kind, expired in found.items() if expired.files
    }
    workspace.registry.write_audit("retention", "lake", counts)
    return found


def find_expired(storage: Storage, rules: Rules, today: date) -> dict[Kind, Expired]:
    """What the rules let go, in the order in which it has to."""
    # Rows first, what they were made from last.
    found: dict[Kind, Expired] = {
        "tables": Expired(),
        "quarantine": Expired(),
        "compact": Expired(),
        "raw": Expired(),
    }
    if rules.tables_days is not None:
        limit = today - timedelta(days=rules.tables_days)
        for name, table in TABLES.items():
            if table.is_dated:
                _add_days(found["tables"], storage.list(f"{name}/"), limit)
                _add_days(found["quarantine"], storage.list(f"quarantine/{name}/"), limit)
    if rules.raw_days is not None:
        _add_days(found["raw"], storage.list("raw/"), today - timedelta(days=rules.raw_days))
    for entry in storage.list(f"{COMPACT}/"):
        part = parse_part(entry.path)
        if part is None:
            continue
        first, last = _span(part[1])
        is_old = rules.tables_days is not None and last < today - timedelta(days=rules.tables_days)
        if is_old or not rules.compact:
            found["compact"].add(entry, first, last)
    return found


def delete_expired(storage: Storage, found: dict[Kind, Expired]) -> None:
    """Delete what was found: rows first, what they were made from last.

    Broken off, it is simply done again. A reader that has listed a file just before fails loudly.
    """
    for expired in found.values():
        for some in _in_lots(expired.paths):
            storage.delete_many(some)


def drop_compact(storage: Storage, table_name: str) -> int:
    """Delete the compact files of a table and of its lists; returns how many. Base files stay."""
    paths = [
        entry.path
        for name in (table_name, *sampled_views(TABLES[table_name]))
        for parts in list_parts(storage, name).values()
        for entry in parts.values()
    ]
    for some in _in_lots(paths):
        storage.delete_many(some)
    return len(paths)


def _add_days(expired: Expired, entries: Iterable[Entry], limit: date) -> None:
    for entry in entries:
        cell = parse_partition(entry.path)
        if cell is not None and cell.date < limit:
            expired.add(entry, cell.date, cell.date)


def _span(month: str) -> tuple[date, date]:
    first = date.fromisoformat(f"{month}-01")
    return first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)


def _in_lots(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(paths), _AT_ONCE):
        yield paths[first : first + _AT_ONCE]
