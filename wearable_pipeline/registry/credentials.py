"""Credentials: what a provider lets us in with, encrypted before it reaches the database."""

from collections.abc import Collection, Mapping
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.registry.schema import credentials, users
from wearable_pipeline.registry.store import Store
from wearable_pipeline.registry.users import no_such_user

_BATCH = 1000


class Credentials(Store):
    """Loading, saving and re-encrypting. Nothing here puts a plain value into a message."""

    def load_credentials(self, user_id: str) -> dict[str, object]:
        """The user's credentials, maybe empty. Raises UsageError when user or key is unknown."""
        found = self.load_all_credentials([user_id])
        if user_id not in found:
            raise no_such_user(user_id)
        return found[user_id]

    def load_all_credentials(self, user_ids: Collection[str]) -> dict[str, dict[str, object]]:
        """Credentials by user_id, for those of `user_ids` that exist."""
        query = (
            sa.select(users.c.user_id, credentials.c.token)
            .join_from(users, credentials, isouter=True)
            .where(self._db.any_of(users.c.user_id, user_ids))
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return {
            row.user_id: self._keys.unseal(row.user_id, row.token) if row.token else {}
            for row in rows
        }

    def load_sealed(self, user_ids: Collection[str]) -> dict[str, bytes]:
        """Credentials as they are stored, by user_id; `open_sealed` opens one."""
        query = sa.select(credentials.c.user_id, credentials.c.token).where(
            self._db.any_of(credentials.c.user_id, user_ids)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return {row.user_id: row.token for row in rows}

    def open_sealed(self, user_id: str, sealed: bytes | None) -> dict[str, object]:
        """The user's credentials, maybe empty. Raises UsageError when no key fits."""
        return {} if sealed is None else self._keys.unseal(user_id, sealed)

    def save_credentials(self, user_id: str, values: Mapping[str, object]) -> None:
        """Replace the user's credentials; they are on disk when this returns."""
        token = self._keys.seal(user_id, values)
        now = self._clock()

        def save(connection: Connection) -> None:
            if not self._db.known_users(connection, [user_id]):
                raise no_such_user(user_id)
            statement = self._db.insert(credentials).values(
                user_id=user_id, token=token, updated_at=now
            )
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["user_id"],
                    set_={"token": statement.excluded.token, "updated_at": now},
                )
            )

        self._db.write(save)

    def rotate_keys(self) -> int:
        """Re-encrypt what is not yet under the newest key; returns how many credentials changed.

        Put the new key in front of the old ones first. Safe beside running processes as long as
        they know both keys; can be broken off and repeated.
        """
        self._keys.rotate_salt()
        changed, last = self._db.write(partial(self._rotate, after=""))
        while last:
            batch, last = self._db.write(partial(self._rotate, after=last))
            changed += batch
        return changed

    def _rotate(self, connection: Connection, after: str) -> tuple[int, str]:
        rows = connection.execute(
            sa.select(credentials.c.user_id, credentials.c.token)
            .where(credentials.c.user_id > after)
            .order_by(credentials.c.user_id)
            .limit(_BATCH)
            .with_for_update()
        ).all()
        changes = [
            {
                "b_user_id": row.user_id,
                "b_token": self._keys.encrypt(
                    self._keys.decrypt(row.token, f"credentials of user {row.user_id}")
                ),
            }
            for row in rows
            if not self._keys.is_newest(row.token)
        ]
        if changes:
            connection.execute(
                sa.update(credentials)
                .where(credentials.c.user_id == sa.bindparam("b_user_id"))
                .values(token=sa.bindparam("b_token")),
                changes,
            )
        return len(changes), rows[-1].user_id if len(rows) == _BATCH else ""
