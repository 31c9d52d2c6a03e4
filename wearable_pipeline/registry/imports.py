"""Imports: which files a person has brought in by hand."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.registry.schema import imports
from wearable_pipeline.registry.store import Store
from wearable_pipeline.registry.users import no_such_user


@dataclass(frozen=True, slots=True)
class Import:
    """One file, by its hash; its name may hold a person's and is not kept."""

    user_id: str
    file_hash: str
    importer: str
    rows: int
    at: datetime


class Imports(Store):
    """Recording and listing."""

    def record_import(self, user_id: str, file_hash: str, importer: str, rows: int) -> None:
        """Remember an import; the same file again replaces the entry."""
        now = self._clock()

        def record(connection: Connection) -> None:
            if not self._db.known_users(connection, [user_id]):
                raise no_such_user(user_id)
            statement = self._db.insert(imports).values(
                user_id=user_id, file_hash=file_hash, importer=importer, rows=rows, at=now
            )
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["user_id", "file_hash", "importer"],
                    set_={"rows": statement.excluded.rows, "at": statement.excluded.at},
                )
            )

        self._db.write(record)

    def imports(
        self, user_ids: Collection[str] | None = None, file_hash: str | None = None
    ) -> list[Import]:
        """Past imports, latest first."""
        i = imports.c
        query = sa.select(i.user_id, i.file_hash, i.importer, i.rows, i.at).order_by(
            i.at.desc(), i.user_id, i.file_hash, i.importer
        )
        if user_ids is not None:
            query = query.where(self._db.any_of(i.user_id, user_ids))
        if file_hash is not None:
            query = query.where(i.file_hash == file_hash)
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [Import(*row) for row in rows]
