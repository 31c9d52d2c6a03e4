"""The destination S3: see `_objects` for what lies where."""

from wearable_pipeline.destinations._contract import Destination
from wearable_pipeline.destinations._objects import BATCH_ROWS, S3Settings, open_objects

DESTINATION = Destination(
    name="s3",
    title="S3",
    kind="object_store",
    summary="Rows as JSON or Parquet in an S3 bucket, the newest revision of each.",
    settings=S3Settings,
    open=open_objects,
    takes_events=True,
    batch_rows=BATCH_ROWS,
)
