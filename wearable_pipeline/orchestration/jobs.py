"""Jobs: a provider's records to raw, to tables, to destinations.

In-process: a step process would pay seconds of imports for milliseconds of work.
"""

import dagster as dg

SYNC = "sync"
NORMALIZE = "normalize"
DELIVER = "deliver"

LANE = "wearable/lane"

_RAW = dg.AssetSelection.groups("raw")
_TABLES = dg.AssetSelection.groups("tables")
_DESTINATIONS = dg.AssetSelection.groups("destinations")

sync_job = dg.define_asset_job(
    SYNC,
    selection=_RAW | _TABLES | _DESTINATIONS,
    description="Fetch, keep raw, normalize, deliver: the users and days of the rectangle.",
    executor_def=dg.in_process_executor,
)
normalize_job = dg.define_asset_job(
    NORMALIZE,
    selection=_TABLES | _DESTINATIONS,
    description="Normalize what raw holds and deliver what changed; asks no provider.",
    executor_def=dg.in_process_executor,
)
deliver_job = dg.define_asset_job(
    DELIVER,
    selection=_DESTINATIONS,
    description="Send again what is due for another try.",
    executor_def=dg.in_process_executor,
)
