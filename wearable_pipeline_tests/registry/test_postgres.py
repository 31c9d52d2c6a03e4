"""What only a database shared by many machines can do to us: hanging workers, held rows, no room."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from wearable_pipeline.errors import TransientError
from wearable_pipeline.registry import Registry
from wearable_pipeline.registry.database import (
    POOL_MOST,
    Database,
    connect,
    explain,
    lock_database,
)
from wearable_pipeline.settings import Settings

pytestmark = pytest.mark.real


@pytest.fixture
def database(empty_postgres: str) -> Iterator[Database]:
    opened = Database(connect(empty_postgres))
    yield opened
    opened.close()


def shown(connection: sa.Connection, name: str) -> str:
    found: str = connection.exec_driver_sql(f"show {name}").scalar_one()
    return found


def test_connections_say_who_they_are_and_never_wait_for_ever(database: Database) -> None:
    with database.engine.connect() as connection:
        assert shown(connection, "application_name") == "wearable_pipeline"
        assert shown(connection, "statement_timeout") == "2min"
        assert shown(connection, "lock_timeout") == "30s"
        assert shown(connection, "idle_in_transaction_session_timeout") == "2min"


def test_what_the_address_says_goes_before_what_we_would_say(empty_postgres: str) -> None:
    engine = connect(f"{empty_postgres}?application_name=mine&options=-c%20statement_timeout%3D5s")
    with engine.connect() as connection:
        assert shown(connection, "application_name") == "mine"
        assert shown(connection, "statement_timeout") == "5s"
    engine.dispose()


def test_a_process_takes_eight_connections_at_most_and_then_waits(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.05)
    held = [database.engine.connect() for _ in range(POOL_MOST)]
    with pytest.raises(TransientError, match="all connections are in use"):
        database.read(lambda connection: connection.exec_driver_sql("select 1"))
    held.pop().close()
    assert database.read(lambda one: one.exec_driver_sql("select 1").scalar_one()) == 1
    for connection in held:
        connection.close()


def test_a_statement_that_takes_too_long_is_one_line_that_says_so(database: Database) -> None:
    def hang(connection: sa.Connection) -> None:
        connection.exec_driver_sql("set local statement_timeout = '20ms'")
        connection.exec_driver_sql("select pg_sleep(5)")

    with pytest.raises(TransientError, match=r"took over 120 seconds and was cancelled$"):
        database.write(hang)


def test_rows_somebody_holds_are_waited_for_and_then_named(
    database: Database, empty_postgres: str
) -> None:
    database.write(lambda one: one.exec_driver_sql("create table held (n int)"))
    other = connect(empty_postgres)

    def wait_briefly(connection: sa.Connection) -> None:
        connection.exec_driver_sql("set local lock_timeout = '20ms'")
        connection.exec_driver_sql("lock table held")

    with other.begin() as holder:
        holder.exec_driver_sql("lock table held")
        with pytest.raises(TransientError, match="holding rows for over 30 seconds"):
            database.write(wait_briefly)
    other.dispose()


def test_a_full_server_says_what_to_do() -> None:
    refused = sa.exc.OperationalError(
        "connect", None, Exception("FATAL:  sorry, too many clients already")
    )
    error = explain(refused, sa.engine.make_url("postgresql://ann@db.example.org/registry"))
    assert isinstance(error, TransientError)
    assert "fewer workers" in str(error)


def test_the_lock_keeps_others_out_until_it_is_let_go(empty_postgres: str) -> None:
    order: list[str] = []
    taken = threading.Event()

    def second() -> None:
        taken.wait(30)
        with lock_database(empty_postgres, 7):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with lock_database(empty_postgres, 7):
        taken.set()
        with lock_database(empty_postgres, 8):
            order.append("another number")
        waiting = sa.create_engine(empty_postgres, poolclass=sa.NullPool)
        with waiting.connect() as connection:
            while not connection.exec_driver_sql(
                "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            ).scalar():
                connection.rollback()
        order.append("first")
    thread.join(30)
    assert order == ["another number", "first", "second"]


def test_many_workers_write_side_by_side_within_the_bounds_of_their_pools(
    empty_postgres: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, registry_url=empty_postgres)
    registries = [Registry.open(settings) for _ in range(4)]

    def work(registry: Registry, number: int) -> None:
        registry.add_user("nightscout", user_id=f"u{number:02}")

    threads = [
        threading.Thread(target=work, args=(registries[number % 4], number)) for number in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(registries[0].find_users()) == 40
    for registry in registries:
        registry.close()
