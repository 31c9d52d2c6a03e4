"""Leases: one holder per name at a time, given back by itself when the holder dies."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.registry.schema import leases
from wearable_pipeline.registry.store import Store


@dataclass(frozen=True, slots=True)
class Lease:
    """A name held by `owner` until `expires_at`."""

    name: str
    owner: str
    expires_at: datetime


class Leases(Store):
    """Taking, renewing, giving back. Names are `<what>:<user_id>` or `<what>:<lane>`.

    Time is the holders' own clock: machines that share a Postgres registry need theirs in step to
    well within a ttl.
    """

    def lease(self, name: str, owner: str, ttl: timedelta) -> bool:
        """Whether `owner` holds `name` from now for `ttl`; asking again extends."""
        now = self._clock()
        statement = self._db.insert(leases).values(name=name, owner=owner, expires_at=now + ttl)
        take = statement.on_conflict_do_update(
            index_elements=["name"],
            set_={"owner": statement.excluded.owner, "expires_at": statement.excluded.expires_at},
            where=sa.or_(leases.c.owner == owner, leases.c.expires_at <= now),
        ).returning(leases.c.name)
        return self._db.write(lambda connection: connection.execute(take).first() is not None)

    def renew(self, name: str, owner: str, ttl: timedelta) -> bool:
        """Extend to `ttl` from now. False: somebody else has it, stop working."""
        extend = (
            sa.update(leases)
            .where(leases.c.name == name, leases.c.owner == owner)
            .values(expires_at=self._clock() + ttl)
        )
        return self._db.write(lambda connection: connection.execute(extend).rowcount > 0)

    def release_lease(self, name: str, owner: str) -> bool:
        """Give `name` back. False: it was no longer `owner`'s."""
        remove = sa.delete(leases).where(leases.c.name == name, leases.c.owner == owner)
        return self._db.write(lambda connection: connection.execute(remove).rowcount > 0)

    @contextmanager
    def lease_or_none(
        self, name: str, ttl: timedelta, owner: str | None = None
    ) -> Iterator[Lease | None]:
        """Hold `name` for the block, or get None because somebody else does; never waits."""
        holder = owner if owner is not None else str(uuid.uuid4())
        expires_at = self._clock() + ttl
        if not self.lease(name, holder, ttl):
            yield None
            return
        try:
            yield Lease(name, holder, expires_at)
        finally:
            self.release_lease(name, holder)

    def _leases_of(self, connection: Connection, user_id: str) -> list[str]:
        names = connection.execute(
            sa.select(leases.c.name).where(leases.c.name.contains(user_id, autoescape=True))
        ).scalars()
        return [name for name in names if user_id in name.split(":")]
