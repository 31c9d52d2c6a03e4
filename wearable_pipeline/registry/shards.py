"""Users by cohort, counted by the database: a list of 100,000 ids never leaves it."""

from typing import Any

import sqlalchemy as sa

from wearable_pipeline.partitions import Members, Scheme, cohort_name
from wearable_pipeline.registry.database import Database
from wearable_pipeline.registry.schema import users


def shard_column(count: int) -> sa.ColumnElement[int]:
    """The shard of a user, as `Scheme.cohort_of` counts it."""
    # Both databases let the sign of a remainder follow the number; the hash is unsigned elsewhere.
    # Numbers are written out: Postgres takes `group by` with other parameters for something else.
    n: sa.ColumnElement[int] = sa.literal_column(str(count), sa.BigInteger)
    missing = sa.literal_column(str(2**64 % count), sa.BigInteger)
    none = sa.literal_column("0", sa.BigInteger)
    hashed = users.c.user_hash
    return (hashed % n + n + sa.case((hashed < none, missing), else_=none)) % n


def cohort_column(scheme: Scheme) -> sa.ColumnElement[Any]:
    """What to group users by: their shard's number, or their own id."""
    return users.c.user_id if scheme.cohorts is None else shard_column(scheme.cohorts)


def cohort_named(scheme: Scheme, value: object) -> str:
    """The cohort a value of `cohort_column` means."""
    if scheme.cohorts is None:
        return str(value)
    return cohort_name(int(str(value)), scheme.generation)


def belongs_to(database: Database, members: Members | None) -> list[sa.ColumnElement[bool]]:
    """Conditions on `users` that leave only `members`; none when they are everybody."""
    if members is None:
        return []
    if members.user_ids is not None:
        return [database.any_of(users.c.user_id, members.user_ids)]
    if members.shards is not None:
        return [shard_column(members.shard_count).in_(sorted(members.shards))]
    return []
