import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import sqlalchemy as sa

from wearable_pipeline.registry import (
    Allowance,
    History,
    Import,
    PartitionResult,
    Registry,
    SyncResult,
    Touched,
    WantedRow,
)
from wearable_pipeline.registry.schema import metadata
from wearable_pipeline.settings import Settings

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
DAY = date(2026, 11, 20)
Forward = Callable[..., datetime]
ANN = "1b2e6a52-7d0b-4a53-9c0e-3b8f0c9f7a11"
BOB = "5f0c9d3e-2222-4b6f-8d5e-0a1b2c3d4e5f"


def fill(registry: Registry, user_id: str, reference_id: str) -> None:
    registry.add_user(
        "oura", user_id=user_id, reference_id=reference_id, credentials={"token": "t"}
    )
    days = [DAY - timedelta(days=back) for back in range(60)]
    registry.record_sync(
        [SyncResult(user_id=user_id, attempted_at=NOON, next_due_at=NOON, state={"of": user_id})]
    )
    registry.mark_touched(Touched("body", user_id, day) for day in days)
    registry.record_partitions(
        [
            PartitionResult(
                user_id=user_id,
                provider="oura",
                table="sleep",
                date=day,
                status="ok",
                code_version="v1",
            )
            for day in days
        ]
    )
    registry.want(
        "webhook", [WantedRow("sleep", user_id, day.isoformat(), day, "h") for day in days]
    )
    registry.note_event(user_id, "auth")
    registry.queue_history([History(user_id, "oura", days[-1], days[0])])
    registry.record_import(user_id, "f00d", "libreview", 12)
    session, _ = registry.start_session("oura", {"reference_id": reference_id})
    registry.end_session(session.session_id, user_id=user_id)
    registry.lease(f"refresh:{user_id}", "one", timedelta(minutes=1))
    registry.spend([Allowance(f"oura/60s/{user_id}", 10, 60.0)], 1, 0.0, user_id=user_id)


def rows_naming(registry: Registry, text: str) -> int:
    found = 0
    with registry._db.engine.connect() as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(sa.select(table)):
                found += any(text in str(value) for value in row)
    return found


def test_an_erased_user_is_in_no_table_and_the_others_are_untouched(registry: Registry) -> None:
    fill(registry, ANN, "app-ann")
    fill(registry, BOB, "app-bob")
    bobs = rows_naming(registry, BOB)
    removed = registry.delete_user(ANN)
    assert removed == {
        "credentials": 1,
        "sync_state": 1,
        "touched": 60,
        "partitions": 60,
        "deliveries": 60,
        "events": 1,
        "imports": 1,
        "backfills": 1,
        "connect_sessions": 1,
        "users": 1,
        "leases": 1,
        "budgets": 1,
    }
    assert rows_naming(registry, ANN) == 0
    assert rows_naming(registry, "app-ann") == 0
    assert rows_naming(registry, BOB) == bobs


def test_erasing_leaves_an_audit_row_that_proves_but_does_not_tell(
    registry: Registry, forward: Forward
) -> None:
    fill(registry, ANN, "app-ann")
    later = forward(hours=1)
    registry.delete_user(ANN)
    [row] = registry.audit_trail(ANN)
    assert (row.at, row.action) == (later, "user erased")
    assert row.detail["partitions"] == 60
    assert ANN not in str(row)
    assert registry.audit_trail(BOB) == []
    assert registry.audit_trail() == [row]


def test_erasing_again_is_no_error_and_leaves_no_second_audit_row(registry: Registry) -> None:
    fill(registry, ANN, "app-ann")
    registry.delete_user(ANN)
    assert set(registry.delete_user(ANN).values()) == {0}
    assert len(registry.audit_trail()) == 1


def test_erasing_works_when_the_secret_key_is_lost(settings: Settings) -> None:
    with Registry.open(settings) as registry:
        fill(registry, ANN, "app-ann")
    settings.key_file.unlink()
    with Registry.open(settings) as registry:
        assert registry.delete_user(ANN)["credentials"] == 1


def test_other_things_done_to_a_user_can_be_written_down(registry: Registry) -> None:
    registry.write_audit("export", ANN, {"rows": 3})
    assert [(row.action, row.detail) for row in registry.audit_trail(ANN)] == [
        ("export", {"rows": 3})
    ]


def test_no_byte_of_an_erased_user_stays_in_the_sqlite_files(sqlite_settings: Settings) -> None:
    with Registry.open(sqlite_settings) as registry:
        fill(registry, ANN, "app-ann-canary")
        fill(registry, BOB, "app-bob")

        def written() -> bytes:
            files = sqlite_settings.home.glob("registry.sqlite*")
            return b"".join(file.read_bytes() for file in files)

        assert ANN.encode() in written()
        registry.delete_user(ANN)
        after = written()
        assert ANN.encode() not in after
        assert b"app-ann-canary" not in after
        assert BOB.encode() in after


def test_a_lease_of_somebody_whose_id_is_part_of_anothers_name_stays(registry: Registry) -> None:
    registry.add_user("oura", user_id="a")
    registry.lease("refresh:ab", "one", timedelta(minutes=1))
    registry.lease("refresh:a", "one", timedelta(minutes=1))
    assert registry.delete_user("a")["leases"] == 1
    assert not registry.lease("refresh:ab", "two", timedelta(minutes=1))


def test_a_sweep_that_runs_during_an_erasure_brings_nobody_back(registry: Registry) -> None:
    fill(registry, ANN, "app-ann")
    fill(registry, BOB, "app-bob")
    stop = threading.Event()

    def sweep(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            registry.mark_touched([Touched("body", u, DAY) for u in (ANN, BOB)])
            content = f"h{number}-{turn}"
            registry.want("webhook", [WantedRow("sleep", u, "x", DAY, content) for u in (BOB, ANN)])

    with ThreadPoolExecutor(3) as pool:
        sweeps = [pool.submit(sweep, number) for number in range(3)]
        registry.delete_user(ANN, compact=False)
        registry.mark_touched([Touched("body", u, DAY) for u in (ANN, BOB)])
        stop.set()
    assert [sweep.exception() for sweep in sweeps] == [None] * 3
    assert rows_naming(registry, ANN) == 0
    assert len(registry.touched([BOB])) == 60


def test_past_imports_are_listed_latest_first_and_a_repeat_replaces(
    registry: Registry, forward: Forward
) -> None:
    registry.add_user("libre", user_id="ann")
    registry.record_import("ann", "aa", "libreview", 10)
    forward(minutes=1)
    registry.record_import("ann", "bb", "libreview", 5)
    forward(minutes=1)
    registry.record_import("ann", "aa", "libreview", 11)
    assert registry.imports(["ann"]) == [
        Import("ann", "aa", "libreview", 11, NOON + timedelta(minutes=2)),
        Import("ann", "bb", "libreview", 5, NOON + timedelta(minutes=1)),
    ]
    assert [one.rows for one in registry.imports(file_hash="bb")] == [5]
