"""User × date: what a partition key is, which cohort a user falls into, which keys are legal.

Keys of the grid read `date|user`, so a `|` in a user key would make that user vanish without a word.
Keys are also folder names in the lake. Hence the narrow alphabet, checked here and nowhere else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
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
_SHARD = re.compile(r"s(\d{2})(?:g\d+)?")


def check_user_id(user_id: str) -> str:
    """Return `user_id` when it can be a partition key and a folder name, else raise UsageError."""
    if not _LEGAL_KEY.fullmatch(user_id):
        shown = user_id if len(user_id) <= 80 else user_id[:77] + "..."
        raise UsageError(
            f"user id {shown!r} is not allowed: use 1 to 64 letters, digits, '-' and '_'"
            " (`wearable-pipeline users list` shows the ids)"
        )
    return user_id


def hash_user(user_id: str) -> int:
    """A stable 64-bit number of `user_id`, signed as databases keep it."""
    digest = hashlib.blake2b(user_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def cohort_name(number: int, generation: int = 0) -> str:
    """Folder of shard `number`: `s00`, `s01` and so on; `s00g1` after the lake was cut anew once."""
    return f"s{number:02d}" + (f"g{generation}" if generation else "")


def shard_number(cohort: str) -> int | None:
    """The number of the shard a folder or a Dagster key names, or None where it names a user."""
    match = _SHARD.fullmatch(cohort)
    return None if match is None else int(match[1])


@dataclass(frozen=True, slots=True)
class Partition:
    """One cell of the grid."""

    date: date
    cohort: str


@dataclass(frozen=True, slots=True)
class Members:
    """Which users: named ones, or those of some shards. Neither is everybody."""

    user_ids: frozenset[str] | None = None
    shards: frozenset[int] | None = None
    shard_count: int = 1

    def narrowed(self, user_ids: Iterable[str]) -> Members:
        """Those of `user_ids` who are among them; by name, so keep the list short."""
        names = frozenset(user_ids)
        if self.user_ids is not None:
            return Members(names & self.user_ids)
        if self.shards is None:
            return Members(names)
        return Members(
            frozenset(
                name for name in names if hash_user(name) % 2**64 % self.shard_count in self.shards
            )
        )


@dataclass(frozen=True, slots=True)
class Scheme:
    """How users map to cohorts, the values of the partition dimension `user`.

    `generation` counts how often the lake was cut anew. Folders carry it, so that a path of one cut never
    means something else in the next: who listed before the change finds nothing there instead of other
    people. Dagster's keys do not (definitions load without looking at the lake).
    """

    cohorts: int | None = None
    generation: int = 0

    def cohort_of(self, user_id: str) -> str:
        """The cohort of `user_id`: itself, or a stable shard of its hash."""
        check_user_id(user_id)
        if self.cohorts is None:
            return user_id
        return cohort_name(hash_user(user_id) % 2**64 % self.cohorts, self.generation)

    def cohort_keys(self) -> list[str] | None:
        """All cohorts, or None when they are the users themselves."""
        if self.cohorts is None:
            return None
        return [cohort_name(number, self.generation) for number in range(self.cohorts)]

    def members_of(self, cohorts: Iterable[str]) -> Members:
        """The users of `cohorts`."""
        if self.cohorts is None:
            return Members(frozenset(cohorts))
        numbers = frozenset(
            number for cohort in cohorts if (number := shard_number(cohort)) is not None
        )
        if len(numbers) == self.cohorts:
            return Members()
        return Members(shards=numbers, shard_count=self.cohorts)

    def cohort_at(self, key: str) -> str:
        """The cohort Dagster's key of the dimension stands for."""
        number = None if self.cohorts is None else shard_number(key)
        return key if number is None else cohort_name(number, self.generation)

    def key_of(self, cohort: str) -> str:
        """Dagster's key of a cohort."""
        number = None if self.cohorts is None else shard_number(cohort)
        return cohort if number is None else cohort_name(number)


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

    cohorts = scheme.cohort_keys()
    keys = None if cohorts is None else [scheme.key_of(cohort) for cohort in cohorts]
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
