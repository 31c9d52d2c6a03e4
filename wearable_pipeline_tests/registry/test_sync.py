from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from wearable_pipeline.registry import Registry, SyncResult

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
Forward = Callable[..., datetime]


def succeeded(user_id: str, at: datetime, **more: object) -> SyncResult:
    fields: dict[str, object] = {"next_due_at": at + 5 * MINUTE} | more
    return SyncResult(user_id=user_id, attempted_at=at, **fields)  # type: ignore[arg-type]


def failed(user_id: str, at: datetime, **more: object) -> SyncResult:
    error: dict[str, object] = {"error_class": "transient", "error_message": "HTTP 503"}
    return succeeded(user_id, at, **(error | more))


def test_new_users_are_due_at_once_and_only_of_the_providers_asked_for(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.add_user("libre", user_id="bob")
    assert [d.user_id for d in registry.due_users(NOON, ["oura", "garmin"])] == ["ann"]
    assert registry.due_users(NOON - MINUTE, ["oura"]) == []
    assert registry.due_users(NOON, []) == []


def test_the_longest_silence_comes_first_and_the_limit_cuts_the_rest(registry: Registry) -> None:
    for user_id in ("a", "b", "c", "never"):
        registry.add_user("oura", user_id=user_id)
    registry.record_sync(
        [
            succeeded("a", NOON + 2 * MINUTE),
            succeeded("b", NOON + MINUTE),
            succeeded("c", NOON + 3 * MINUTE),
        ]
    )
    later = NOON + 60 * MINUTE
    assert [d.user_id for d in registry.due_users(later, ["oura"])] == ["never", "b", "a", "c"]
    assert [d.user_id for d in registry.due_users(later, ["oura"], limit=2)] == ["never", "b"]


def test_a_user_is_due_again_exactly_when_said(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.record_sync([succeeded("ann", NOON)])
    assert registry.due_users(NOON + 5 * MINUTE - timedelta(microseconds=1), ["oura"]) == []
    assert len(registry.due_users(NOON + 5 * MINUTE, ["oura"])) == 1


def test_a_locked_account_is_left_alone_until_the_lock_ends(registry: Registry) -> None:
    registry.add_user("libre", user_id="ann")
    registry.record_sync([failed("ann", NOON, next_due_at=NOON, locked_until=NOON + 10 * MINUTE)])
    assert registry.due_users(NOON + 9 * MINUTE, ["libre"]) == []
    assert len(registry.due_users(NOON + 10 * MINUTE, ["libre"])) == 1


def test_a_success_stores_the_cursor_and_forgets_the_failures(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.record_sync([failed("ann", NOON)])
    registry.record_sync([failed("ann", NOON + MINUTE)])
    state = registry.load_states(["ann"])["ann"]
    assert (state.failures, state.error_class, state.error_message) == (2, "transient", "HTTP 503")
    assert state.last_attempt_at == NOON + MINUTE
    assert state.last_success_at is None
    reading = NOON - 3 * MINUTE
    registry.record_sync(
        [succeeded("ann", NOON + 2 * MINUTE, state={"next": "x"}, newest_reading_at=reading)]
    )
    state = registry.load_states(["ann", "gone"])["ann"]
    assert state.state == {"next": "x"}
    assert (state.failures, state.error_class, state.error_message) == (0, None, None)
    assert state.last_success_at == NOON + 2 * MINUTE
    assert state.newest_reading_at == reading
    assert state.next_due_at == NOON + 7 * MINUTE


def test_no_new_state_keeps_the_cursor_and_an_empty_one_empties_it(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.record_sync([succeeded("ann", NOON, state={"next": "x"})])
    registry.record_sync([failed("ann", NOON + MINUTE)])
    assert registry.load_states(["ann"])["ann"].state == {"next": "x"}
    registry.record_sync([succeeded("ann", NOON + 2 * MINUTE, state={})])
    assert registry.load_states(["ann"])["ann"].state == {}


def test_the_newest_reading_never_goes_back(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    for number, reading in enumerate([NOON, NOON - MINUTE, None]):
        registry.record_sync([succeeded("ann", NOON + number * MINUTE, newest_reading_at=reading)])
        assert registry.load_states(["ann"])["ann"].newest_reading_at == NOON


def test_an_overtaken_run_does_not_put_the_cursor_back(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    assert registry.record_sync([succeeded("ann", NOON + MINUTE, state={"page": 9})]) == 1
    assert registry.record_sync([succeeded("ann", NOON, state={"page": 2})]) == 0
    assert registry.load_states(["ann"])["ann"].state == {"page": 9}


def test_results_of_an_erased_user_fall_away_and_the_others_count(registry: Registry) -> None:
    for user_id in ("ann", "bob"):
        registry.add_user("oura", user_id=user_id)
    registry.delete_user("ann")
    assert registry.record_sync([succeeded("ann", NOON), failed("bob", NOON)]) == 1
    assert registry.load_states(["ann", "bob"]).keys() == {"bob"}
    assert registry.record_sync([]) == 0


def test_a_refused_login_ends_the_connection_unless_the_person_was_faster(
    registry: Registry, forward: Forward
) -> None:
    for user_id in ("ann", "bob"):
        registry.add_user("libre", user_id=user_id)
    began = forward(minutes=1)
    forward(minutes=1)
    registry.set_status("bob", "disconnected")
    registry.record_sync(
        [failed(u, began, status="needs_reauth", error_message="refused") for u in ("ann", "bob")]
    )
    ann = registry.get_user("ann")
    assert (ann.status, ann.status_reason) == ("needs_reauth", "refused")
    assert registry.get_user("bob").status == "disconnected"
    assert registry.due_users(began + timedelta(days=1), ["libre"]) == []


def test_an_error_text_is_stored_as_one_bounded_line(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.record_sync([failed("ann", NOON, error_message="a\nb\x00c " + "x" * 600)])
    text = registry.load_states(["ann"])["ann"].error_message
    assert text is not None
    assert text.startswith("a b c xxx")
    assert len(text) == 500


def test_people_can_be_made_due_by_hand_but_not_disconnected_ones(registry: Registry) -> None:
    for user_id in ("ann", "bob"):
        registry.add_user("oura", user_id=user_id)
        registry.record_sync([succeeded(user_id, NOON, next_due_at=NOON + timedelta(days=9))])
    registry.set_status("bob", "revoked")
    assert registry.make_due(["ann", "bob", "gone"], NOON) == 1
    assert [d.user_id for d in registry.due_users(NOON, ["oura"])] == ["ann"]


def test_freshness_counts_the_silent_and_names_those_who_were_never_read_first(
    registry: Registry,
) -> None:
    for user_id in ("a", "b", "c", "never", "gone", "file"):
        registry.add_user("libre", user_id=user_id)
    registry.add_user("oura", user_id="other")
    registry.record_sync(
        [
            succeeded("a", NOON, newest_reading_at=NOON - MINUTE),
            succeeded("b", NOON, newest_reading_at=NOON - 15 * MINUTE),
            succeeded("c", NOON, newest_reading_at=NOON - 90 * MINUTE),
            # Nobody is asked for this one's data.
            succeeded("file", NOON, next_due_at=None, newest_reading_at=NOON - 900 * MINUTE),
        ]
    )
    registry.set_status("gone", "disconnected")
    found = registry.freshness(NOON, ["libre"], 15 * MINUTE, shown=1)
    assert (found.users, found.stale) == (4, 2)
    assert found.longest_silent == ("never",)
    assert (found.age_p50, found.age_p95, found.age_max) == (
        15 * MINUTE,
        90 * MINUTE,
        90 * MINUTE,
    )
    nobody = registry.freshness(NOON, ["garmin"], MINUTE, shown=5)
    assert (nobody.users, nobody.stale, nobody.age_max, nobody.longest_silent) == (0, 0, None, ())


def test_asking_who_is_due_goes_through_the_index(sqlite_settings: object) -> None:
    from wearable_pipeline.settings import Settings

    assert isinstance(sqlite_settings, Settings)
    with (
        Registry.open(sqlite_settings) as registry,
        registry._db.engine.connect() as connection,
    ):
        plan = connection.execute(
            sa.text(
                "explain query plan select s.user_id from wearable_sync_state s"
                " join wearable_users u on u.user_id = s.user_id"
                " where s.provider in ('oura', 'libre') and s.next_due_at <= '2026-11-20'"
                " and u.status = 'connected' order by s.last_success_at"
            )
        ).all()
    text = " ".join(str(row) for row in plan)
    assert "ix_wearable_sync_state_due (provider=? AND next_due_at<?)" in text
