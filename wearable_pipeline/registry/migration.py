"""Bringing a database to the schema this code knows, by Alembic, once, whoever comes first."""

import threading
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.errors import UsageError
from wearable_pipeline.registry.database import Database
from wearable_pipeline.registry.schema import SCHEMA_VERSION, VERSION_TABLE

MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x77656172  # any number, the same in every process
_alembic_is_global = threading.Lock()


def upgrade(database: Database) -> None:
    """Bring the schema to `SCHEMA_VERSION`. Raises UsageError when it is newer than this code."""
    if database.read(lambda connection: _is_current(database, connection)):
        return

    def migrate(connection: Connection) -> None:
        if not database.is_sqlite:
            # Whoever comes second waits as long as the first one needs.
            for limit in ("statement_timeout", "lock_timeout"):
                connection.execute(sa.text(f"set local {limit} = 0"))
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        if not _is_current(database, connection):
            _run_alembic(connection)

    with _alembic_is_global:
        database.write(migrate)


def _is_current(database: Database, connection: Connection) -> bool:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return False
    column: sa.ColumnClause[str] = sa.column("version_num")
    version = connection.execute(sa.select(column).select_from(sa.table(VERSION_TABLE))).scalar()
    if version is not None and version > SCHEMA_VERSION:
        raise UsageError(
            f"registry {database.name} was written by a newer wearable-pipeline (schema {version},"
            f" this one knows {SCHEMA_VERSION}); upgrade the package"
        )
    return version == SCHEMA_VERSION


def _run_alembic(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
