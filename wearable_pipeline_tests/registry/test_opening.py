import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from wearable_pipeline.errors import PipelineError, TransientError, UsageError
from wearable_pipeline.registry import Registry
from wearable_pipeline.registry.database import clean
from wearable_pipeline.registry.migration import MIGRATIONS
from wearable_pipeline.registry.schema import SCHEMA_VERSION, VERSION_TABLE, UtcDateTime, metadata
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.registry.opening import open_and_add
from wearable_pipeline_tests.servers.forked import fork


def test_the_newest_migration_is_the_schema_the_code_knows() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_VERSION]


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based")
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based")
def test_migrations_build_exactly_the_declared_tables(registry: Registry) -> None:
    with registry._db.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
        )
        # SQLite does not tell expression indexes and Postgres spells them its own way.
        differences = [
            difference
            for difference in compare_metadata(context, metadata)
            if "uq_wearable_users_account" not in str(difference)
        ]
        assert differences == []
        names = sa.text(
            "select indexname from pg_indexes"
            if registry._db.engine.dialect.name == "postgresql"
            else "select name from sqlite_master"
        )
        assert "uq_wearable_users_account" in connection.execute(names).scalars().all()


def test_eight_processes_open_a_fresh_registry_at_once(settings: Settings) -> None:
    children = [fork(open_and_add, settings, number) for number in range(8)]
    for child in children:
        child.begin()
    assert [child.listen() for child in children] == [["done"]] * 8
    with Registry.open(settings) as registry:
        ids = [user.user_id for user in registry.find_users()]
        assert ids == [f"u{number}" for number in range(8)]
        assert registry.load_credentials("u3") == {"n": "3"}
        assert max(row.version for row in registry.touched()) == 40


def test_four_threads_of_one_process_open_a_fresh_registry_at_once(settings: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        for registry in list(pool.map(Registry.open, [settings] * 4)):
            assert registry.find_users() == []
            registry.close()


def test_opening_again_keeps_everything(settings: Settings) -> None:
    with Registry.open(settings) as registry:
        user = registry.add_user("oura")
    with Registry.open(settings) as registry:
        assert registry.get_user(user.user_id) == user


def test_a_newer_schema_is_refused_and_left_alone(settings: Settings) -> None:
    with Registry.open(settings) as registry, registry._db.engine.begin() as connection:
        connection.execute(sa.text(f"update {VERSION_TABLE} set version_num = '9999'"))
    with pytest.raises(UsageError, match=r"newer wearable-pipeline \(schema 9999.*upgrade"):
        Registry.open(settings)


def test_a_migration_that_breaks_leaves_nothing_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wearable_pipeline.registry.migration as module

    real = module._run_alembic

    def breaks(connection: sa.Connection) -> None:
        real(connection)
        raise RuntimeError("power cut")

    monkeypatch.setattr(module, "_run_alembic", breaks)
    with pytest.raises(RuntimeError, match="power cut"):
        Registry.open(settings)
    monkeypatch.undo()
    with Registry.open(settings) as registry:
        assert registry.find_users() == []


def test_the_registry_lives_beside_other_tables_of_the_same_database(settings: Settings) -> None:
    with Registry.open(settings) as registry, registry._db.engine.begin() as connection:
        tables = sa.inspect(connection).get_table_names()
    assert tables
    assert all(name.startswith("wearable_") for name in tables)


def test_sqlite_runs_with_a_write_ahead_log_and_checked_references(
    sqlite_settings: Settings,
) -> None:
    with (
        Registry.open(sqlite_settings) as registry,
        registry._db.engine.connect() as connection,
    ):
        found = {
            name: connection.exec_driver_sql(f"pragma {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "secure_delete")
        }
    assert found == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "busy_timeout": 30_000,
        "secure_delete": 1,
    }


def test_a_forked_process_works_on_connections_of_its_own(registry: Registry) -> None:
    registry.add_user("oura", user_id="parent")
    parents_pool = registry._db.engine.pool

    def child() -> None:
        registry.add_user("oura", user_id="child")
        is_own = registry._db.engine.pool is not parents_pool
        os._exit(0 if is_own and len(registry.find_users()) == 2 else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert [user.user_id for user in registry.find_users()] == ["child", "parent"]


def test_instants_come_back_aware_in_utc_whatever_zone_they_went_in_with(
    registry: Registry,
) -> None:
    registry.add_user("oura", user_id="ann")
    tokyo = datetime(2026, 11, 21, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
    registry.make_due(["ann"], tokyo)
    due = registry.load_states(["ann"])["ann"].next_due_at
    assert due == datetime(2026, 11, 20, 16, 30, 0, 123456, tzinfo=UTC)
    assert due.tzinfo is UTC


def test_an_instant_without_a_zone_is_refused(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    with pytest.raises((ValueError, sa.exc.StatementError), match="without a time zone"):
        registry.make_due(["ann"], datetime(2026, 11, 20))  # noqa: DTZ001
    assert UtcDateTime.cache_ok


SECRET = "s3cr%2Ft-canary"


@pytest.mark.parametrize(
    ("url", "kind", "says"),
    [
        ("postgresql://ann:{s}@127.0.0.1:1/db", TransientError, "cannot be reached"),
        ("postgresql://ann:{s}@127.0.0.1:port/db", UsageError, "cannot be read"),
        ("postgresql://ann:{s}@tail@127.0.0.1:1/db", UsageError, "percent-encoded"),
        ("mysql://ann:{s}@127.0.0.1/db", UsageError, "mysql is not supported"),
        ("postgresql+nope://ann:{s}@127.0.0.1/db", UsageError, "unknown driver"),
        ("postgresql://127.0.0.1:1/db?password={s}", TransientError, "cannot be reached"),
        ("just words {s}", UsageError, "cannot be read"),
        ("sqlite://", UsageError, "memory"),
    ],
)
def test_an_address_that_does_not_work_is_one_line_without_the_password(
    tmp_path: Path, url: str, kind: type[PipelineError], says: str
) -> None:
    settings = Settings(home=tmp_path, registry_url=url.format(s=SECRET))
    with pytest.raises(kind, match=says) as caught:
        Registry.open(settings)
    text = str(caught.value)
    assert "canary" not in text
    assert "tail" not in text
    assert "\n" not in text


@pytest.mark.real
def test_a_missing_database_and_a_server_gone_are_told_apart(
    postgres_server: str, empty_postgres: str, tmp_path: Path
) -> None:
    absent = Settings(home=tmp_path, registry_url=f"{postgres_server}/absent")
    with pytest.raises(UsageError, match="no such database"):
        Registry.open(absent)
    short = Settings(
        home=tmp_path, registry_url=empty_postgres.replace("postgresql://", "postgres://")
    )
    with Registry.open(short) as registry:
        registry.add_user("oura", user_id="ann")
        with registry._db.engine.connect() as connection:
            connection.exec_driver_sql(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        assert registry.get_user("ann").user_id == "ann"


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("shopping list\n" * 200)
    with pytest.raises(UsageError, match=r"notes\.txt is not a sound SQLite database"):
        Registry.open(Settings(home=tmp_path, registry_url=f"sqlite:///{file}"))
    assert file.read_text().startswith("shopping list")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = f"sqlite:///{tmp_path}/file/registry.sqlite"
    with pytest.raises(UsageError, match="cannot be written"):
        Registry.open(Settings(home=tmp_path, registry_url=url))
    with pytest.raises(UsageError, match="cannot be written"):
        Registry.open(Settings(home=tmp_path, registry_url=f"sqlite:///{tmp_path}"))


def test_a_writer_that_never_ends_becomes_a_transient_error(
    sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wearable_pipeline.registry.database.BUSY_SECONDS", 0.05)
    with (
        Registry.open(sqlite_settings) as registry,
        registry._db._write_engine.begin(),
        pytest.raises(TransientError, match="another process has been writing"),
    ):
        registry.add_user("oura")


def test_a_registry_is_not_shipped_to_other_processes_by_pickle(registry: Registry) -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(registry)


def test_a_closed_registry_shows_neither_password_nor_key(registry: Registry) -> None:
    assert "unused-password" not in repr(registry)
    registry.close()
    registry.close()


def test_a_message_becomes_one_line() -> None:
    assert clean(None) is None
    assert clean(" a\r\n\tb\x00 ") == "a b"
