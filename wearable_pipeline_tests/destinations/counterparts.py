"""What stands at the other end of each kind of destination in tests: the real thing, or its double.

A new kind adds a function here; the contract tests find it by the kind's name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.destinations.webhook import DESTINATION as WEBHOOK
from wearable_pipeline.destinations.webhook import WebhookSettings
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline_tests.destinations.bench import SECRET

# User id, type, day or session: what a client merges by.
State = Mapping[tuple[str, str, str], Any]


@dataclass(frozen=True)
class Counterpart:
    """A started counterpart: the target that leads there and what a reader finds there now."""

    target: Target
    read: Callable[[], State]


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
    "webhook": start_webhook,
}
