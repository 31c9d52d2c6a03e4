"""Numbers, ids and moments of synthetic people: by chance, and the same at every run."""

import hashlib
import uuid
from datetime import UTC, date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo


def number_of(*parts: object, size: int = 5) -> int:
    """A number below 256 to the power of `size` that belongs to `parts`."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=size).digest()
    return int.from_bytes(digest)


def uuid_of(*parts: object) -> str:
    """The UUID that belongs to `parts`."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return str(uuid.UUID(bytes=digest, version=4))


def random_of(seed: int, name: str, day: date, what: str) -> Random:
    """The chance that decides of `what`, on that day of that person."""
    return Random(number_of(seed, name, day, what, size=8))  # noqa: S311 - synthetic people


def local_at(zone: str, day: date, minutes: int) -> datetime:
    """`minutes` after the midnight that begins the day, on the clocks of a zone."""
    midnight = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)  # noqa: DTZ001 - a wall clock
    return midnight.replace(tzinfo=ZoneInfo(zone))


def instant_at(zone: str, day: date, minutes: int) -> datetime:
    """The same moment in UTC."""
    return local_at(zone, day, minutes).astimezone(UTC)
