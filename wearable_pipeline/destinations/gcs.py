"""The destination Google Cloud Storage: see `_objects` for what lies where."""

from wearable_pipeline.destinations._contract import Destination
from wearable_pipeline.destinations._objects import BATCH_ROWS, GcsSettings, open_objects

DESTINATION = Destination(
    name="gcs",
    title="Google Cloud Storage",
    kind="object_store",
    summary="Rows as JSON or Parquet in a Google bucket, the newest revision of each.",
    settings=GcsSettings,
    open=open_objects,
    takes_events=True,
    batch_rows=BATCH_ROWS,
)
