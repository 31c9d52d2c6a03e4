"""What stands at the other end of each kind of destination in tests: the real thing, or its double.

A kind has its `start_<kind>` in `counterpart_<kind>.py` and a line in COUNTERPARTS.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.destinations.webhook import DESTINATION as WEBHOOK
from wearable_pipeline.destinations.webhook import WebhookSettings
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline_tests.destinations.bench import SECRET
from wearable_pipeline_tests.destinations.counterpart import Counterpart, State
from wearable_pipeline_tests.destinations.counterpart_firestore import start_firestore
from wearable_pipeline_tests.destinations.counterpart_kafka import start_kafka
from wearable_pipeline_tests.destinations.counterpart_mongodb import start_mongodb
from wearable_pipeline_tests.destinations.counterpart_objects import (
    start_azure_blob,
    start_gcs,
    start_s3,
)
from wearable_pipeline_tests.destinations.counterpart_sql import start_sql
from wearable_pipeline_tests.destinations.counterpart_sqs import start_sqs
from wearable_pipeline_tests.destinations.counterpart_supabase import start_supabase


def merged(receiver: Receiver) -> State:
    """What a client has that merges by key and keeps the greatest ordering timestamp."""
    kept: dict[tuple[str, str, str], tuple[int, Any]] = {}
    for post in receiver.posts():
        if post.status >= 300:
            continue
        event = msgspec.json.decode(post.body)
        order = int(post.headers["x-terra-ordering-timestamp"])
        for row in event.get("data", []):
            meta = row["metadata"]
            name = str(meta.get("summary_id") or meta["start_time"][:10])
            key = (event["user"]["user_id"], event["type"], name)
            if key not in kept or order >= kept[key][0]:
                kept[key] = (order, row)
    return {key: row for key, (_, row) in kept.items()}


def start_webhook(request: pytest.FixtureRequest) -> Counterpart:
    """A receiver in a process of its own."""
    receiver: Receiver = request.getfixturevalue("receiver")
    settings = WebhookSettings(url=receiver.url, secret=SECRET)  # type: ignore[arg-type]
    return Counterpart(Target("webhook", WEBHOOK, settings), lambda: merged(receiver))


COUNTERPARTS: dict[str, Callable[[pytest.FixtureRequest], Counterpart]] = {
    "firestore": start_firestore,
    "mongodb": start_mongodb,
    "webhook": start_webhook,
    "azure_blob": start_azure_blob,
    "gcs": start_gcs,
    "kafka": start_kafka,
    "s3": start_s3,
    "sql": start_sql,
    "sqs": start_sqs,
    "supabase": start_supabase,
}
