import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

from wearable_pipeline.registry import Registry, Touched

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
DAY = date(2026, 11, 20)


def key(user_id: str, back: int = 0, table: str = "body") -> Touched:
    return Touched(table, user_id, DAY - timedelta(days=back))


def test_marks_come_back_once_each_with_their_instant(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    assert registry.mark_touched([key("ann"), key("ann", 1), key("ann")]) == 2
    rows = registry.touched()
    assert [(row.table, row.user_id, row.date, row.touched_at) for row in rows] == [
        ("body", "ann", date(2026, 11, 19), NOON),
        ("body", "ann", date(2026, 11, 20), NOON),
    ]


def test_every_mark_raises_the_version(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.mark_touched([key("ann")])
    [first] = registry.touched()
    registry.mark_touched([key("ann")])
    [second] = registry.touched()
    assert second.version > first.version


def test_a_mark_made_since_reading_survives_clearing(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.mark_touched([key("ann"), key("ann", 1)])
    read = registry.touched()
    registry.mark_touched([key("ann")])
    assert registry.clear_touched(read) == 1
    assert [row.date for row in registry.touched()] == [DAY]
    assert registry.clear_touched([]) == 0


def test_a_mark_cleared_by_another_and_set_again_is_not_taken_for_the_old_one(
    registry: Registry,
) -> None:
    registry.add_user("oura", user_id="ann")
    registry.mark_touched([key("ann")])
    read = registry.touched()
    assert registry.clear_touched(read) == 1
    registry.mark_touched([key("ann")])
    assert registry.clear_touched(read) == 0
    assert len(registry.touched()) == 1


def test_the_list_is_narrowed_by_user_table_and_limit_oldest_first(registry: Registry) -> None:
    for user_id in ("ann", "bob"):
        registry.add_user("oura", user_id=user_id)
    registry.mark_touched([key("bob")])
    registry.mark_touched([key("ann"), key("ann", table="sleep")])
    assert [row.user_id for row in registry.touched(limit=1)] == ["bob"]
    assert [row.table for row in registry.touched(user_ids=["ann"])] == ["body", "sleep"]
    assert [row.user_id for row in registry.touched(table="sleep")] == ["ann"]
    assert registry.touched(user_ids=[]) == []


def test_an_erased_user_cannot_be_touched_again(registry: Registry) -> None:
    for user_id in ("ann", "bob"):
        registry.add_user("oura", user_id=user_id)
    registry.mark_touched([key("ann")])
    registry.delete_user("ann")
    assert registry.mark_touched([key("ann"), key("bob")]) == 1
    assert [row.user_id for row in registry.touched()] == ["bob"]


def test_more_marks_than_fit_one_statement_are_cleared(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    assert registry.mark_touched([key("ann", back) for back in range(2500)]) == 2500
    assert registry.clear_touched(registry.touched()) == 2500
    assert registry.touched() == []


def test_marking_and_clearing_by_eight_threads_loses_no_mark(registry: Registry) -> None:
    # Raw is a number that only grows; a reader notes it after reading the marks, before clearing.
    # At the end every key without a mark must have been seen with its last number.
    for user_id in ("ann", "bob"):
        registry.add_user("oura", user_id=user_id)
    keys = [key("ann"), key("ann", 1), key("bob"), key("bob", 1)]
    raw = dict.fromkeys(keys, 0)
    seen: dict[Touched, int] = {}
    lock = threading.Lock()

    def ingest(number: int) -> None:
        for _ in range(12):
            chosen = keys if number % 2 else keys[::-1]
            registry.mark_touched(chosen)
            with lock:
                for one in chosen:
                    raw[one] += 1
            registry.mark_touched(chosen)

    def normalize(_number: int) -> None:
        for _ in range(25):
            rows = registry.touched()
            for row in rows:
                one = Touched(row.table, row.user_id, row.date)
                with lock:
                    seen[one] = max(seen.get(one, 0), raw[one])
            registry.clear_touched(rows)

    with ThreadPoolExecutor(8) as pool:
        work = [pool.submit(one, number) for number in range(4) for one in (ingest, normalize)]
    assert [one.exception() for one in work] == [None] * 8
    assert set(raw.values()) == {48}
    marked = {Touched(row.table, row.user_id, row.date) for row in registry.touched()}
    assert {one for one in keys if seen.get(one) != 48} <= marked
