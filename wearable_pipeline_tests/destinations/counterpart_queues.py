"""What a consumer of a queue keeps: by user, type and row the event of the greatest ordering."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from wearable_pipeline_tests.destinations.counterpart import State


def _follow(url: str) -> Mapping[str, Any]:
    """What a link leads to; nothing is there any more once the row was withdrawn."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: dict[str, Any] = msgspec.json.decode(answer.read())
            return found
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return {"data": []}


@dataclass
class Merged:
    """Events merged by key, as they come."""

    orderings: dict[tuple[str, str, str], int] = field(default_factory=dict)
    kept: dict[tuple[str, str, str], Any] = field(default_factory=dict)

    def take(self, headers: Mapping[str, str], event: Mapping[str, Any]) -> None:
        """Take a message in; links are followed."""
        if "url" in event and "data" not in event:
            event = {**event, **_follow(event["url"])}
        if "data" not in event:
            return  # about a connection
        key = (headers["user_id"], headers["type"], headers["row_key"])
        ordering = int(headers["ordering_timestamp"])
        if ordering < self.orderings.get(key, 0):
            return
        self.orderings[key] = ordering
        if event["data"]:
            (self.kept[key],) = event["data"]
        else:
            self.kept.pop(key, None)

    @property
    def rows(self) -> State:
        """The rows there are."""
        return dict(self.kept)
