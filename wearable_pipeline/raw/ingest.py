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
    tables = sorted(
        {mapping.table for name in resources for mapping in provider.resource(name).tables}
    )

    def note(touched: Mapping[str, set[date]]) -> None:
        workspace.registry.mark_touched(
            Touched(table=table, user_id=user_id, date=day)
            for user_id, days in sorted(touched.items())
            for day in sorted(days)
            for table in tables
        )

    appended = workspace.lake.raw.append(
        provider.name, arrivals, batch_id=uuid.uuid4().hex[:16], door=door, before_write=note
    )
    note(appended.touched)
    return appended
