"""What the receiver must remember between pushes, and whose account a push is about."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.registry.schema import push_subscriptions, pushes_seen, users
from wearable_pipeline.registry.store import Store

# A parameter each: SQLite takes 32,766 of them in one statement.
_AT_ONCE = 10_000


class Inbox(Store):
    """Signed pushes seen already, accounts by their hash, subscriptions at providers."""

    def seen_pushes(self, digests: Collection[str]) -> set[str]:
        """Which of `digests` were noted before."""
        query = sa.select(pushes_seen.c.digest).where(
            self._db.any_of(pushes_seen.c.digest, digests)
        )
        return set(self._db.read(lambda connection: connection.execute(query).scalars().all()))

    def note_pushes(self, digests: Mapping[str, datetime]) -> None:
        """Remember pushes until the instants given; they are on disk when this returns."""
        rows = [{"digest": digest, "until": digests[digest]} for digest in sorted(digests)]

        def note(connection: Connection) -> None:
            for first in range(0, len(rows), _AT_ONCE):
                connection.execute(
                    self._db.insert(pushes_seen).on_conflict_do_nothing(),
                    rows[first : first + _AT_ONCE],
                )

        if rows:
            self._db.write(note)

    def forget_pushes(self) -> int:
        """Drop what need not be remembered any more; returns how many."""
        remove = sa.delete(pushes_seen).where(pushes_seen.c.until < self._clock())
        return self._db.write(lambda connection: connection.execute(remove).rowcount)

    def users_of_accounts(
        self, provider: str, account_hashes: Collection[str]
    ) -> dict[str, list[str]]:
        """Ids of the users, connected or waiting for a new login, by the hash of their account."""
        query = (
            sa.select(users.c.account_hash, users.c.user_id)
            .where(
                users.c.provider == provider,
                users.c.status.in_(("connected", "needs_reauth")),
                self._db.any_of(users.c.account_hash, account_hashes),
            )
            .order_by(users.c.user_id)
        )
        found: dict[str, list[str]] = {}
        for row in self._db.read(lambda connection: connection.execute(query).all()):
            found.setdefault(row.account_hash, []).append(row.user_id)
        return found

    def save_subscriptions(
        self, provider: str, rows: Sequence[tuple[str, str, datetime | None]]
    ) -> None:
        """Replace what is known of a provider's subscriptions: id, topic, end."""
        values = [
            {
                "provider": provider,
                "subscription_id": subscription_id,
                "topic": topic,
                "expires_at": expires_at,
            }
            for subscription_id, topic, expires_at in rows
        ]

        def save(connection: Connection) -> None:
            connection.execute(
                sa.delete(push_subscriptions).where(push_subscriptions.c.provider == provider)
            )
            if values:
                connection.execute(sa.insert(push_subscriptions), values)

        self._db.write(save)

    def load_subscriptions(self, provider: str) -> list[tuple[str, str, datetime | None]]:
        """Id, topic and end of every subscription at the provider, sorted by topic."""
        query = (
            sa.select(
                push_subscriptions.c.subscription_id,
                push_subscriptions.c.topic,
                push_subscriptions.c.expires_at,
            )
            .where(push_subscriptions.c.provider == provider)
            .order_by(push_subscriptions.c.topic, push_subscriptions.c.subscription_id)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [(row.subscription_id, row.topic, row.expires_at) for row in rows]
