from datetime import UTC, date, datetime, timedelta

import pytest

from wearable_pipeline.partitions import Members, Scheme, hash_user
from wearable_pipeline.registry import Registry, SyncResult, Touched, WantedRow
from wearable_pipeline.registry.schema import users
from wearable_pipeline.registry.shards import shard_column

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = date(2026, 11, 20)


@pytest.mark.parametrize("cohorts", [1, 3, 16, 48, 64])
def test_the_database_counts_the_cohort_of_a_user_as_the_lake_does(
    registry: Registry, cohorts: int
) -> None:
    import sqlalchemy as sa

    names = [f"user-{number}" for number in range(40)]
    assert {hash_user(name) < 0 for name in names} == {True, False}
    for name in names:
        registry.add_user("oura", user_id=name)
    query = sa.select(users.c.user_id, shard_column(cohorts))
    found = dict(registry._db.read(lambda connection: connection.execute(query).all()))
    scheme = Scheme(cohorts)
    assert {name: f"s{number:02d}" for name, number in found.items()} == {
        name: scheme.cohort_of(name) for name in names
    }


def test_who_is_due_is_counted_by_cohort_longest_silence_first(registry: Registry) -> None:
    # Of three shards, ann and eve fall into different ones; where, the lake's own count says.
    scheme = Scheme(3)
    for name in ("ann", "bob", "eve", "kim"):
        registry.add_user("oura", user_id=name)
    registry.add_user("libre", user_id="lea")
    at = NOON - 10 * MINUTE
    registry.record_sync(
        [
            SyncResult(user_id="ann", attempted_at=at, next_due_at=NOON),
            SyncResult(user_id="bob", attempted_at=at - MINUTE, next_due_at=NOON),
            SyncResult(user_id="eve", attempted_at=at, next_due_at=NOON + MINUTE),
            SyncResult(user_id="kim", attempted_at=at, next_due_at=NOON + 9 * MINUTE),
            SyncResult(user_id="lea", attempted_at=at, next_due_at=NOON),
        ]
    )
    found = registry.due_cohorts(NOON, NOON + MINUTE, ["oura"], scheme, limit=10)
    due: dict[str, int] = {}
    ready: dict[str, int] = {}
    for name in ("ann", "bob", "eve"):
        cohort = scheme.cohort_of(name)
        due[cohort] = due.get(cohort, 0) + (name != "eve")
        ready[cohort] = ready.get(cohort, 0) + 1
    assert {one.cohort: one.due for one in found} == due
    assert {one.cohort: one.ready for one in found} == ready
    assert found[0].cohort == scheme.cohort_of("bob")
    assert found[0].silent_since == at - MINUTE


def test_a_cohort_in_which_somebody_was_never_read_comes_before_all(registry: Registry) -> None:
    for name in ("ann", "new"):
        registry.add_user("oura", user_id=name)
    old = NOON - timedelta(days=30)
    registry.record_sync([SyncResult(user_id="ann", attempted_at=old, next_due_at=old)])
    found = registry.due_cohorts(NOON, NOON, ["oura"], Scheme(), limit=10)
    assert [(one.cohort, one.silent_since) for one in found] == [("new", None), ("ann", old)]
    assert [one.cohort for one in registry.due_cohorts(NOON, NOON, ["oura"], Scheme(), 1)] == [
        "new"
    ]


def test_the_limit_holds_for_each_provider_by_itself(registry: Registry) -> None:
    for number in range(5):
        registry.add_user("libre", user_id=f"l{number}")
    registry.add_user("oura", user_id="o0")
    found = registry.due_cohorts(NOON, NOON, ["libre", "oura"], Scheme(), limit=2)
    assert sorted(one.provider for one in found) == ["libre", "libre", "oura"]


def test_members_are_named_people_or_whole_shards(registry: Registry) -> None:
    scheme = Scheme(4)
    names = [f"u{number}" for number in range(20)]
    for name in names:
        registry.add_user("oura", user_id=name)
    some = scheme.members_of(["s01", "s02"])
    expected = [name for name in sorted(names) if scheme.cohort_of(name) in ("s01", "s02")]
    assert expected
    assert [user.user_id for user in registry.find_users(members=some)] == expected
    assert [one.user_id for one in registry.due_users(NOON, ["oura"], members=some)] == expected
    few = some.narrowed([expected[0], *(n for n in names if n not in expected)])
    assert [user.user_id for user in registry.find_users(members=few)] == [expected[0]]
    everybody = scheme.members_of(["s00", "s01", "s02", "s03"])
    assert everybody == Members()
    assert len(registry.find_users(members=everybody)) == 20
    assert registry.find_users(members=Scheme().members_of([])) == []


def test_touched_days_are_counted_by_partition_longest_waiting_first(
    registry: Registry, clock: object
) -> None:
    for name in ("ann", "bob"):
        registry.add_user("oura", user_id=name)
    registry.mark_touched([Touched("sleep", "bob", DAY)])
    clock.forward(minutes=5)  # type: ignore[attr-defined]
    registry.mark_touched([Touched("body", "ann", DAY), Touched("body", "bob", DAY)])
    cells = registry.touched_cells(Scheme(1))
    assert [(one.table, one.cohort, one.users) for one in cells] == [
        ("sleep", "s00", 1),
        ("body", "s00", 2),
    ]
    assert [one.table for one in registry.touched_cells(Scheme(1), until=NOON + MINUTE)] == [
        "sleep"
    ]
    assert registry.touched_cells(Scheme(1), start=DAY + timedelta(days=1)) == []
    assert [one.cohort for one in registry.touched_cells(Scheme(), tables=["body"], limit=1)] == [
        "ann"
    ]
    assert registry.count_touched() == 3


def test_rows_to_send_are_counted_by_cohort_and_those_of_later_wait(registry: Registry) -> None:
    for name in ("ann", "bob"):
        registry.add_user("oura", user_id=name)
    registry.want(
        "webhook", [WantedRow("body", name, "2026-11-20", DAY, "h") for name in ("ann", "bob")]
    )
    found = registry.cohorts_to_send("webhook", NOON, Scheme(), limit=10, members=10)
    assert found == {"ann": 1, "bob": 1}
    assert registry.cohorts_to_send("webhook", NOON, Scheme(1), 10, 10) == {"s00": 2}
    assert registry.cohorts_to_send("webhook", NOON - MINUTE, Scheme(1), 10, 10) == {}
    assert registry.cohorts_to_send("other", NOON, Scheme(1), 10, 10) == {}


def test_the_connected_are_counted_by_provider_and_cohort(registry: Registry) -> None:
    for name, provider in (("ann", "oura"), ("bob", "libre"), ("eve", "libre"), ("gone", "libre")):
        registry.add_user(provider, user_id=name)
    registry.set_status("gone", "disconnected")
    assert registry.connected_cohorts(["oura", "libre"], Scheme(1)) == {
        "libre": {"s00": 2},
        "oura": {"s00": 1},
    }
