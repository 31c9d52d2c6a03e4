"""What every part of the registry stands on: the database, the clock, the keys."""

from collections.abc import Callable
from datetime import UTC, datetime

from wearable_pipeline.registry.database import Database
from wearable_pipeline.registry.keys import KeyRing

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The instant now, aware, in UTC."""
    return datetime.now(UTC)


class Store:
    """Base of the registry's parts; each part adds the methods of one topic."""

    def __init__(self, database: Database, keys: KeyRing, clock: Clock) -> None:
        self._db = database
        self._keys = keys
        self._clock = clock
