"""History to a destination on request: what it had once more, or what it never had.

Nothing is sent here. Rows become pending and go out as any others do, newest dates first, so live
readings never wait for them.
"""

import io
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

import polars as pl

from wearable_pipeline.destinations import get_target
from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.destinations.delivery import note_wanted
from wearable_pipeline.errors import UsageError
from wearable_pipeline.lake.layout import parse_partition, table_path
from wearable_pipeline.lake.storage import MissingError
from wearable_pipeline.model import TABLES
from wearable_pipeline.partitions import Partition
from wearable_pipeline.workspace import Workspace

# More than a month of one user is a large request: announced, and sent in payloads of many rows.
LARGE = timedelta(days=31)
ROWS_OF_A_PAYLOAD = 10
_ROWS_AT_ONCE = 2_000

Progress = Callable[[int], None]


@dataclass(slots=True)
class Requested:
    """What a request has put in line; `references` has one of each user whose request is large."""

    destination: str
    rows: int = 0
    references: dict[str, str] = field(default_factory=dict)


def replay(
    workspace: Workspace,
    name: str,
    start: date,
    end: date | None = None,
    *,
    user_ids: Collection[str] | None = None,
    tables: Collection[str] | None = None,
) -> Requested:
    """Put delivered rows that fit in line once more, under the same trace ids."""
    target = get_target(workspace.settings, name)
    _check(workspace, user_ids, tables)
    report = Requested(name)
    announced = _announce(workspace, target, user_ids, tables, start, end)
    report.rows = workspace.registry.redeliver(
        name, user_ids=user_ids, tables=tables, start=start, end=end
    )
    _bundle(workspace, target, announced, tables, start, end)
    report.references = announced
    return report


def backfill(
    workspace: Workspace,
    name: str,
    start: date | None = None,
    end: date | None = None,
    *,
    user_ids: Collection[str] | None = None,
    tables: Collection[str] | None = None,
    progress: Progress = lambda rows: None,
) -> Requested:
    """Put every row of the lake that fits and the destination does not have in line.

    Newest dates first; broken off, it is simply repeated. `progress` is called with the number of
    rows looked at.
    """
    target = get_target(workspace.settings, name)
    _check(workspace, user_ids, tables)
    report = Requested(name)
    announced = _announce(workspace, target, user_ids, tables, start, end)
    looked_at = 0
    for table_name in tables or [one for one in TABLES if TABLES[one].is_dated]:
        if not target.filter.takes_table(table_name):
            continue
        for rows in _read_all(workspace, table_name, start, end, user_ids):
            noted = note_wanted(workspace.registry, [target], table_name, rows)
            report.rows += noted.get(name, 0)
            looked_at += rows.height
            progress(looked_at)
    _bundle(workspace, target, announced, tables, start, end)
    report.references = announced
    return report


def _check(
    workspace: Workspace, user_ids: Collection[str] | None, tables: Collection[str] | None
) -> None:
    for user_id in user_ids or ():
        workspace.registry.get_user(user_id)
    unknown = sorted(set(tables or ()) - set(TABLES))
    if unknown:
        raise UsageError(f"no type {', '.join(unknown)}; choose from {', '.join(TABLES)}")


def _announce(
    workspace: Workspace,
    target: Target,
    user_ids: Collection[str] | None,
    tables: Collection[str] | None,
    start: date | None,
    end: date | None,
) -> dict[str, str]:
    """References of the users whose part is large, each announced to a target that sends bundles.

    Only of users asked for by name: a request for everybody is a matter between operators.
    """
    if not user_ids or not target.destination.bundles:
        return {}
    days: dict[str, list[date]] = {}
    for cell in workspace.registry.partitions(
        user_ids=user_ids, tables=tables, start=start, end=end
    ):
        if cell.rows:
            days.setdefault(cell.user_id, []).append(cell.date)
    announced: dict[str, str] = {}
    for user_id, found in sorted(days.items()):
        if max(found) - min(found) >= LARGE:
            announced[user_id] = str(uuid.uuid4())
            workspace.registry.note_event(
                user_id,
                "large_request_processing",
                {"reference": announced[user_id]},
                destination=target.name,
            )
    return announced


def _bundle(
    workspace: Workspace,
    target: Target,
    announced: dict[str, str],
    tables: Collection[str] | None,
    start: date | None,
    end: date | None,
) -> None:
    """Put the rows of large requests together into payloads and say how many come."""
    for user_id, reference in announced.items():
        payloads = workspace.registry.chunk_request(
            target.name, user_id, reference, ROWS_OF_A_PAYLOAD, tables=tables, start=start, end=end
        )
        workspace.registry.note_event(
            user_id,
            "large_request_sending",
            {"reference": reference, "expected_payloads": payloads},
            destination=target.name,
        )


def _read_all(
    workspace: Workspace,
    table_name: str,
    start: date | None,
    end: date | None,
    user_ids: Collection[str] | None,
) -> Iterator[pl.DataFrame]:
    """Rows of the table's partitions, newest first, some thousands at a time."""
    lake, table = workspace.lake, TABLES[table_name]
    cohorts = {lake.scheme.cohort_of(user_id) for user_id in user_ids or ()}
    cells: set[Partition] = set()
    for entry in lake.storage.list(f"{table_name}/"):
        cell = parse_partition(entry.path)
        if (
            cell is not None
            and (start is None or cell.date >= start)
            and (end is None or cell.date <= end)
            and (not cohorts or cell.cohort in cohorts)
        ):
            cells.add(cell)
    held: list[pl.DataFrame] = []
    for cell in sorted(cells, key=lambda cell: (-cell.date.toordinal(), cell.cohort)):
        try:
            content = lake.storage.read(table_path(table_name, cell))
        except MissingError:
            continue
        rows = table.conform(pl.read_parquet(io.BytesIO(content)))
        if user_ids:
            rows = rows.filter(pl.col("user_id").is_in(list(user_ids)))
        held.append(rows)
        if sum(one.height for one in held) >= _ROWS_AT_ONCE:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)
