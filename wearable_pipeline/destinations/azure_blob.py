"""The destination Azure Blob Storage: see `_objects` for what lies where."""

from wearable_pipeline.destinations._contract import Destination
from wearable_pipeline.destinations._objects import BATCH_ROWS, AzureBlobSettings, open_objects

DESTINATION = Destination(
    name="azure_blob",
    title="Azure Blob Storage",
    kind="object_store",
    summary="Rows as JSON or Parquet in an Azure container, the newest revision of each.",
    settings=AzureBlobSettings,
    open=open_objects,
    takes_events=True,
    batch_rows=BATCH_ROWS,
)
