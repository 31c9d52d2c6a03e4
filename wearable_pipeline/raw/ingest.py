"""The last step of every door: records into the raw store, touched partitions noted down around it."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import date

from wearable_pipeline.providers._contract import Provider
from wearable_pipeline.raw.store import Appended, Arrival, Door
from wearable_pipeline.registry import Touched
from wearable_pipeline.workspace import Workspace


def ingest(
    workspace: Workspace, provider: Provider, arrivals: Sequence[Arrival], door: Door
) -> Appended:
    """Append what is new or changed, and leave a note of every table partition to be recomputed.

    The note is written before the records, so that a crash in between leaves work and not a hole, and
    again after them: a step that came in between has seen the old records and cleared the first note.
    """
    resources = {record.resource for arrival in arrivals for record in arrival.records}
    tables = {
        name: {mapping.table for mapping in provider.resource(name).tables} for name in resources
    }

    def note(changes: Mapping[tuple[str, str], set[date]]) -> None:
        touched: dict[tuple[str, str], set[date]] = {}
        for (user_id, resource), days in changes.items():
            for table in tables[resource]:
                touched.setdefault((user_id, table), set()).update(days)
        workspace.registry.mark_touched(
            Touched(table, user_id, day)
            for (user_id, table), days in touched.items()
            for day in days
        )

    appended = workspace.lake.raw.append(
        provider.name, arrivals, batch_id=uuid.uuid4().hex[:16], door=door, before_write=note
    )
    note(appended.changes)
    return appended
