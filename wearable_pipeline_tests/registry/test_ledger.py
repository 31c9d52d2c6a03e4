from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from wearable_pipeline.registry import PartitionResult, PartitionTotal, Registry

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
DAY = date(2026, 11, 20)
Forward = Callable[..., datetime]


def result(user_id: str = "ann", day: date = DAY, **more: Any) -> PartitionResult:
    fields: dict[str, Any] = {
        "user_id": user_id,
        "provider": "oura",
        "table": "sleep",
        "date": day,
        "status": "ok",
        "code_version": "v1",
        "rows": 1,
        "samples": 288,
        "rejected": 2,
        "content_hash": "h1",
        "newest_at": NOON,
    }
    return PartitionResult(**(fields | more))


def failure(**more: Any) -> PartitionResult:
    return result(
        **({"status": "failed", "error_class": "bad_payload", "error_message": "HTML"} | more)
    )


def test_a_result_comes_back_as_recorded(registry: Registry, forward: Forward) -> None:
    registry.add_user("oura", user_id="ann")
    recorded = forward(seconds=3)
    assert registry.record_partitions([result()]) == 1
    [row] = registry.partitions()
    assert (row.user_id, row.provider, row.table, row.date) == ("ann", "oura", "sleep", DAY)
    assert (row.status, row.rows, row.samples, row.rejected) == ("ok", 1, 288, 2)
    assert (row.content_hash, row.newest_at, row.code_version) == ("h1", NOON, "v1")
    assert (row.attempts, row.error_class, row.updated_at) == (0, None, recorded)


def test_a_failure_keeps_the_figures_of_the_file_that_lies_there(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.record_partitions([result()])
    registry.record_partitions([failure(code_version="v2")])
    registry.record_partitions([failure(code_version="v2")])
    [row] = registry.partitions(status="failed")
    assert (row.rows, row.samples, row.content_hash, row.code_version) == (1, 288, "h1", "v1")
    assert (row.attempts, row.error_class, row.error_message) == (2, "bad_payload", "HTML")
    registry.record_partitions([result(status="empty", rows=0, samples=0, newest_at=None)])
    [row] = registry.partitions()
    assert (row.status, row.rows, row.attempts, row.error_class) == ("empty", 0, 0, None)
    assert row.newest_at is None


def test_a_first_attempt_that_fails_counts_nothing_as_written(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.record_partitions([failure()])
    [row] = registry.partitions()
    assert (row.rows, row.samples, row.content_hash, row.newest_at) == (0, 0, None, None)
    assert row.attempts == 1


def test_good_and_failed_results_go_in_together_and_the_last_of_a_key_counts(
    registry: Registry,
) -> None:
    for user_id in ("ann", "bob"):
        registry.add_user("oura", user_id=user_id)
    recorded = registry.record_partitions(
        [failure(), result(content_hash="h2"), failure(user_id="bob"), result("gone")]
    )
    assert recorded == 2
    assert [(row.user_id, row.status) for row in registry.partitions()] == [
        ("ann", "ok"),
        ("bob", "failed"),
    ]


def test_partitions_are_asked_for_by_user_table_and_days_both_ends_included(
    registry: Registry,
) -> None:
    for user_id in ("ann", "bob"):
        registry.add_user("oura", user_id=user_id)
    registry.record_partitions(
        [
            result(user_id, DAY - timedelta(days=back), table=table)
            for user_id in ("ann", "bob")
            for back in range(4)
            for table in ("sleep", "body")
        ]
    )
    rows = registry.partitions(["ann"], ["body"], DAY - timedelta(days=2), DAY - timedelta(days=1))
    assert [(row.user_id, row.table, row.date.day) for row in rows] == [
        ("ann", "body", 18),
        ("ann", "body", 19),
    ]
    assert len(registry.partitions()) == 16
    assert len(registry.partitions(limit=3)) == 3
    assert registry.partitions(user_ids=[]) == []
    assert registry.forget_partitions(rows) == 2
    assert len(registry.partitions(["ann"], ["body"])) == 2


def test_what_older_or_newer_code_wrote_is_stale(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    versions = {18: "v1", 19: "v2", 20: "v3"}
    registry.record_partitions(
        [result(day=date(2026, 11, n), code_version=v) for n, v in versions.items()]
    )
    assert [row.date.day for row in registry.stale_partitions("v2")] == [18, 20]
    assert [row.date.day for row in registry.stale_partitions("v2", limit=1)] == [18]


def test_totals_add_up_by_table_and_status(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    later = NOON + timedelta(hours=1)
    registry.record_partitions(
        [
            result(),
            result(day=date(2026, 11, 19), newest_at=later),
            failure(day=date(2026, 11, 18)),
            result(table="body", samples=5_000_000_000, newest_at=None),
        ]
    )
    assert registry.partition_totals() == [
        PartitionTotal("body", "ok", 1, 1, 5_000_000_000, 2, None),
        PartitionTotal("sleep", "failed", 1, 0, 0, 0, None),
        PartitionTotal("sleep", "ok", 2, 2, 576, 4, later),
    ]
