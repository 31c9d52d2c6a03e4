"""What a started counterpart of a destination offers to tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wearable_pipeline.destinations._contract import Target

# User id, type, day or session: what a client merges by.
State = Mapping[tuple[str, str, str], Any]


@dataclass(frozen=True)
class Counterpart:
    """A started counterpart: the target that leads there and what a reader finds there now."""

    target: Target
    read: Callable[[], State]
