"""User × date: what a partition key is, which cohort a user falls into, which keys are legal.

Keys of the grid read `date|user`, so a `|` in a user key would make that user vanish without a word.
Keys are also folder names in the lake. Hence the narrow alphabet, checked here and nowhere else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from wearable_pipeline.errors import UsageError

if TYPE_CHECKING:  # importing dagster costs a second, which most commands need not pay
    import dagster as dg

DATE = "date"
USER = "user"
USERS = "users"  # name of the dynamic dimension in Dagster's instance

# The zone in which a day begins first: whatever day it is for a person, it has begun here.
_FIRST_ZONE = "Pacific/Kiritimati"
_EXACT_DAYS = 90
_COHORT_DAYS = 1_000

_LEGAL_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_user_id(user_id: str) -> str:
    """Return `user_id` when it can be a partition key and a folder name, else raise UsageError."""
    if not _LEGAL_KEY.fullmatch(user_id):
        shown = user_id if len(user_id) <= 80 else user_id[:77] + "..."
        raise UsageError(
            f"user id {shown!r} is not allowed: use 1 to 64 letters, digits, '-' and '_'"
            " (`wearable-pipeline users list` shows the ids)"
        )
    return user_id


def cohort_name(number: int) -> str:
    """Key of shard `number`: `s00`, `s01` and so on."""
    return f"s{number:02d}"


@dataclass(frozen=True, slots=True)
class Partition:
    """One cell of the grid."""

    date: date
    cohort: str


@dataclass(frozen=True, slots=True)
class Scheme:
    """How users map to values of the partition dimension `user`."""

    cohorts: int | None = None

    def cohort_of(self, user_id: str) -> str:
        """The cohort of `user_id`: itself, or a stable shard of its hash."""
        check_user_id(user_id)
        if self.cohorts is None:
            return user_id
        digest = hashlib.blake2b(user_id.encode(), digest_size=8).digest()
        return cohort_name(int.from_bytes(digest, "big") % self.cohorts)

    def cohort_keys(self) -> list[str] | None:
        """All keys of the dimension, or None when they are the users themselves."""
        if self.cohorts is None:
            return None
        return [cohort_name(number) for number in range(self.cohorts)]


def batches(cells: Iterable[Partition], size: int) -> Iterator[list[Partition]]:
    """`cells` in date order, at most `size` at a time."""
    ordered = sorted(cells, key=lambda cell: (cell.date, cell.cohort))
    for first in range(0, len(ordered), size):
        yield ordered[first : first + size]


def grid_start(scheme: Scheme, start: date | None, now: datetime) -> date:
    """First day of the grid: `start`, or a rolling one that keeps the grid under 100,000 keys."""
    if start is not None:
        return start
    days = _EXACT_DAYS if scheme.cohorts is None else _COHORT_DAYS
    return (now - timedelta(days=days)).date()


def last_day(now: datetime) -> date:
    """The newest local date anybody on earth can have."""
    return now.astimezone(ZoneInfo(_FIRST_ZONE)).date()


def grid_definition(scheme: Scheme, start: date) -> dg.MultiPartitionsDefinition:
    """The grid date × user as Dagster knows it."""
    import dagster as dg

    keys = scheme.cohort_keys()
    return dg.MultiPartitionsDefinition(
        {
            DATE: dg.DailyPartitionsDefinition(
                start_date=start.isoformat(), timezone=_FIRST_ZONE, end_offset=1
            ),
            USER: dg.DynamicPartitionsDefinition(name=USERS)
            if keys is None
            else dg.StaticPartitionsDefinition(keys),
        }
    )


def format_key(cell: Partition) -> str:
    """Dagster's key of a cell."""
    return f"{cell.date.isoformat()}|{cell.cohort}"


def parse_key(key: str) -> Partition:
    """The cell of a Dagster key. Raises UsageError for anything that is not `date|user`."""
    day, _, cohort = key.partition("|")
    try:
        return Partition(date.fromisoformat(day), check_user_id(cohort))
    except ValueError:
        raise UsageError(f"{key!r} is not a partition key: expected date|user") from None
