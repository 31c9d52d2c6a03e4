from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from wearable_pipeline.partitions import Members, Scheme
from wearable_pipeline.registry import History, HistoryResult, PartitionResult, Registry
from wearable_pipeline.registry.backfills import ATTEMPTS, slot_of, window_days

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
TODAY = date(2026, 11, 20)
Forward = Callable[..., datetime]
EVERYBODY = Members()


def day(number: int) -> date:
    return TODAY - timedelta(days=number)


def test_windows_of_28_days_lie_where_they_always_lay() -> None:
    # 2026-11-20 is day 739,940 of the calendar: 26,426 windows of 28 days and 12 days.
    assert slot_of(TODAY) == 26_426
    assert window_days(26_426) == (date(2026, 11, 8), date(2026, 12, 5))
    assert slot_of(date(2026, 11, 7)) == 26_425


def test_history_is_handed_out_from_new_to_old_until_nothing_is_left(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    assert registry.queue_history([History("ann", "oura", date(2026, 10, 1), day(1))]) == 1
    seen = []
    while waiting := registry.waiting_history(NOON, Scheme(), 10):
        (one,) = waiting
        (history,) = registry.histories_in(one.slot, "oura", NOON, EVERYBODY)
        first, last = window_days(one.slot)
        seen.append((max(first, history.start), min(last, history.upto)))
        assert registry.record_history([HistoryResult(history=history)]) == 1
    assert seen == [
        (date(2026, 11, 8), date(2026, 11, 19)),
        (date(2026, 10, 11), date(2026, 11, 7)),
        (date(2026, 10, 1), date(2026, 10, 10)),
    ]
    (total,) = registry.backfill_totals()
    assert (total.provider, total.status, total.users, total.windows) == ("oura", "done", 1, 0)


def test_a_window_reported_twice_counts_once(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.queue_history([History("ann", "oura", day(60), day(1))])
    (history,) = registry.histories_in(slot_of(day(1)), "oura", NOON, EVERYBODY)
    assert registry.record_history([HistoryResult(history=history)]) == 1
    assert registry.record_history([HistoryResult(history=history)]) == 0


def test_a_failure_is_tried_again_later_and_given_up_in_the_end(
    registry: Registry, forward: Forward
) -> None:
    registry.add_user("oura", user_id="ann")
    registry.queue_history([History("ann", "oura", day(3), day(1))])
    now = NOON
    for _ in range(ATTEMPTS):
        (history,) = registry.histories_in(slot_of(day(1)), "oura", now, EVERYBODY)
        later = now + timedelta(hours=1)
        registry.record_history(
            [HistoryResult(history=history, error_class="transient", next_attempt_at=later)]
        )
        assert registry.waiting_history(now, Scheme(), 10) == []
        now = forward(hours=1)
    assert registry.waiting_history(now, Scheme(), 10) == []
    assert [(one.status, one.users) for one in registry.backfill_totals()] == [("failed", 1)]
    registry.queue_history([History("ann", "oura", day(3), day(1))])
    assert len(registry.waiting_history(now, Scheme(), 10)) == 1


def test_that_the_share_of_history_was_spent_is_no_try(
    registry: Registry, forward: Forward
) -> None:
    registry.add_user("strava", user_id="ann")
    registry.queue_history([History("ann", "strava", day(3), day(1))])
    (history,) = registry.histories_in(slot_of(day(1)), "strava", NOON, EVERYBODY)
    for _ in range(ATTEMPTS + 1):
        now = forward(hours=1)
        registry.record_history(
            [HistoryResult(history=history, error_class="quota_spent", next_attempt_at=now)]
        )
    assert [one.users for one in registry.waiting_history(now, Scheme(), 10)] == [1]


def test_more_days_for_somebody_in_line_widen_what_is_left(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.queue_history([History("ann", "oura", day(5), day(3))])
    registry.queue_history(
        [History("ann", "oura", day(1), day(1)), History("ann", "oura", day(9), day(8), True)]
    )
    (history,) = registry.histories_in(slot_of(day(1)), "oura", NOON, EVERYBODY)
    assert (history.start, history.upto, history.is_forced) == (day(9), day(1), True)


def test_every_new_user_is_put_in_line_once_and_those_with_files_never(registry: Registry) -> None:
    for name, provider in (("ann", "oura"), ("bob", "libre"), ("eve", "keto"), ("gone", "oura")):
        registry.add_user(provider, user_id=name)
    registry.set_status("gone", "disconnected")
    days = {"oura": 90, "libre": 14, "keto": 0}
    assert registry.queue_newcomers(days, TODAY) == 3
    assert registry.queue_newcomers(days, TODAY) == 0
    waiting = registry.waiting_history(NOON, Scheme(), 10)
    assert sorted((one.cohort, one.provider) for one in waiting) == [
        ("ann", "oura"),
        ("bob", "libre"),
    ]
    (history,) = registry.histories_in(slot_of(day(1)), "libre", NOON, EVERYBODY)
    assert (history.start, history.upto) == (day(14), day(1))


def test_the_window_that_waited_longest_is_next_so_newcomers_starve_nobody(
    registry: Registry, forward: Forward
) -> None:
    registry.add_user("oura", user_id="ann")
    registry.queue_history([History("ann", "oura", day(60), day(1))])
    (history,) = registry.histories_in(slot_of(day(1)), "oura", NOON, EVERYBODY)
    forward(minutes=1)
    registry.record_history([HistoryResult(history=history)])
    now = forward(minutes=1)
    registry.add_user("oura", user_id="bob")
    registry.queue_history([History("bob", "oura", day(60), day(1))])
    assert [one.cohort for one in registry.waiting_history(now, Scheme(), 10)] == ["ann", "bob"]


def test_days_held_are_those_with_rows_in_some_table(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.record_partitions(
        [
            PartitionResult(
                user_id="ann",
                provider="oura",
                table=table,
                date=at,
                status=status,
                code_version="1",
            )
            for table, at, status in (
                ("body", day(1), "ok"),
                ("sleep", day(1), "ok"),
                ("body", day(2), "empty"),
                ("body", day(3), "ok"),
                ("body", day(9), "ok"),
            )
        ]
    )
    assert registry.count_days_held(["ann", "bob"], day(3), day(1)) == {"ann": 2}
