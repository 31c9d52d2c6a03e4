"""Sessions of people on their way to a provider: short, good once, and silent about what they hold."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import sqlalchemy as sa

from wearable_pipeline.registry import Registry
from wearable_pipeline.registry.connect_sessions import SESSION_LIFETIME
from wearable_pipeline.settings import Settings

VALUES = {"verifier": "very-secret-verifier", "reference_id": "person-17"}


def test_a_session_is_redeemed_once_with_what_was_put_into_it(registry: Registry) -> None:
    session, state = registry.start_session("oura", VALUES)
    assert registry.peek_session("oura", state) is not None
    found = registry.redeem_session("oura", state)
    assert found is not None
    assert (found.session_id, found.values) == (session.session_id, VALUES)
    assert registry.redeem_session("oura", state) is None
    assert registry.peek_session("oura", state) is None


def test_of_many_at_once_one_redeems(registry: Registry) -> None:
    _, state = registry.start_session("oura", VALUES)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: registry.redeem_session("oura", state), range(8)))
    assert sum(one is not None for one in found) == 1


def test_a_session_is_of_one_provider_and_one_quarter_of_an_hour(
    registry: Registry, forward: Callable[..., datetime]
) -> None:
    _, state = registry.start_session("oura", VALUES)
    assert registry.redeem_session("whoop", state) is None
    forward(seconds=SESSION_LIFETIME.total_seconds() - 1)
    assert registry.peek_session("oura", state) is not None
    forward(seconds=1)
    assert registry.redeem_session("oura", state) is None


def test_neither_state_nor_verifier_lies_in_the_database(
    registry: Registry, settings: Settings
) -> None:
    _, state = registry.start_session("oura", VALUES)
    engine = sa.create_engine(settings.registry)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("select * from wearable_connect_sessions")).all()
    engine.dispose()
    stored = repr(rows)
    assert state.partition(".")[2] not in stored
    assert "very-secret-verifier" not in stored
    assert "person-17" not in stored


def test_an_ended_session_tells_how_and_keeps_nothing(registry: Registry) -> None:
    user = registry.add_user("oura", credentials={})
    for outcome in ({"user_id": user.user_id}, {"error": "oura: refused"}):
        session, _ = registry.start_session("oura", VALUES)
        registry.end_session(session.session_id, **outcome)
        found = registry.find_session(session.session_id)
        assert found is not None
        assert found.values == {}
        assert {"user_id": found.user_id, "error": found.error}.items() >= outcome.items()


def test_an_erased_user_is_in_no_session(registry: Registry) -> None:
    user = registry.add_user("oura", credentials={})
    session, _ = registry.start_session("oura", VALUES)
    registry.end_session(session.session_id, user_id=user.user_id)
    registry.delete_user(user.user_id)
    assert registry.find_session(session.session_id) is None


def test_old_sessions_go(registry: Registry, forward: Callable[..., datetime]) -> None:
    session, _ = registry.start_session("oura", VALUES)
    forward(days=2)
    registry.start_session("oura", VALUES)
    assert registry.find_session(session.session_id) is None


def test_marks_of_pushes_are_remembered_until_their_time(
    registry: Registry, forward: Callable[..., datetime]
) -> None:

    def until(minutes: int) -> datetime:
        return forward() + timedelta(minutes=minutes)

    registry.note_pushes({"a": until(1), "b": until(10)})
    registry.note_pushes({"a": until(20)})
    assert registry.seen_pushes(["a", "b", "c"]) == {"a", "b"}
    forward(minutes=2)
    assert registry.forget_pushes() == 1
    assert registry.seen_pushes(["a", "b"]) == {"b"}


def test_accounts_are_found_by_their_hash_while_they_are_live(registry: Registry) -> None:
    hashed = registry.hash_account("oura", "account")
    first = registry.add_user("oura", account_hash=hashed, reference_id="a", credentials={})
    second = registry.add_user("oura", account_hash=hashed, reference_id="b", credentials={})
    registry.set_status(second.user_id, "needs_reauth")
    assert registry.users_of_accounts("oura", {hashed}) == {
        hashed: sorted([first.user_id, second.user_id])
    }
    registry.set_status(first.user_id, "disconnected")
    assert registry.users_of_accounts("oura", {hashed}) == {hashed: [second.user_id]}
    assert registry.users_of_accounts("whoop", {hashed}) == {}
