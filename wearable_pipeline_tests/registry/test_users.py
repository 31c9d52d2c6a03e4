import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from wearable_pipeline.errors import UsageError
from wearable_pipeline.registry import Registry

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
Forward = Callable[..., datetime]


def test_a_new_user_is_connected_and_comes_back_as_it_was_added(registry: Registry) -> None:
    user = registry.add_user(
        "oura", reference_id="app-7", timezone="Europe/Berlin", config={"region": "eu", "n": [1]}
    )
    assert uuid.UUID(user.user_id).version == 4
    assert registry.get_user(user.user_id) == user
    assert user.status == "connected"
    assert user.config == {"region": "eu", "n": [1]}
    assert user.created_at == NOON
    assert registry.get_user(user.user_id).created_at.tzinfo is UTC


def test_an_unknown_user_is_answered_with_the_way_out(registry: Registry) -> None:
    with pytest.raises(UsageError) as caught:
        registry.get_user("nobody")
    assert str(caught.value) == "no user nobody; `wearable-pipeline users list` shows them"


@pytest.mark.parametrize("user_id", ["a|b", "../x", "", "a b"])
def test_an_id_that_cannot_be_a_partition_key_is_refused(registry: Registry, user_id: str) -> None:
    with pytest.raises(UsageError, match="not allowed"):
        registry.add_user("oura", user_id=user_id)
    assert registry.find_users() == []


def test_an_id_in_use_is_refused(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    with pytest.raises(UsageError, match="user ann exists already"):
        registry.add_user("libre", user_id="ann")


def test_users_are_found_by_all_that_is_given_and_sorted(registry: Registry) -> None:
    for user_id, provider, reference in [
        ("c", "oura", "p1"),
        ("B", "libre", "p1"),
        ("a", "oura", "p2"),
    ]:
        registry.add_user(provider, user_id=user_id, reference_id=reference)
    registry.set_status("a", "revoked", "by the person")
    assert [u.user_id for u in registry.find_users()] == ["B", "a", "c"]
    assert [u.user_id for u in registry.find_users(provider="oura")] == ["a", "c"]
    assert [u.user_id for u in registry.find_users(reference_id="p1")] == ["B", "c"]
    assert [u.user_id for u in registry.find_users("oura", status="connected")] == ["c"]
    assert [u.user_id for u in registry.find_users(user_ids=["a", "zz"])] == ["a"]
    assert registry.find_users(user_ids=[]) == []


def test_forty_thousand_ids_fit_into_one_question(registry: Registry) -> None:
    registry.add_user("oura", user_id="u39999")
    found = registry.find_users(user_ids=[f"u{n}" for n in range(40_000)])
    assert [u.user_id for u in found] == ["u39999"]


@pytest.mark.parametrize("reference_id", ["", "a\nb", "nul\x00", "x" * 513, "\ud800"])
def test_a_reference_id_no_database_can_keep_is_refused(
    registry: Registry, reference_id: str
) -> None:
    with pytest.raises(UsageError, match="reference_id"):
        registry.add_user("oura", reference_id=reference_id)


def test_an_emoji_in_a_reference_id_is_kept(registry: Registry) -> None:
    user = registry.add_user("oura", reference_id="Zoë 🩸")
    assert registry.find_users(reference_id="Zoë 🩸") == [user]


def test_a_time_zone_must_be_an_iana_name(registry: Registry) -> None:
    with pytest.raises(UsageError, match="Europe/Berlin"):
        registry.add_user("oura", timezone="Middle Earth")


def test_the_hash_of_an_account_is_stable_and_says_nothing(registry: Registry) -> None:
    first = registry.hash_account("libre", "ann@example.org")
    assert first == registry.hash_account("libre", "ann@example.org")
    assert first != registry.hash_account("oura", "ann@example.org")
    assert first != registry.hash_account("libre", "bob@example.org")
    assert len(first) == 64


def test_the_same_account_is_connected_once_for_a_reference(registry: Registry) -> None:
    account = registry.hash_account("libre", "ann@example.org")
    first = registry.add_user("libre", account_hash=account, reference_id="p1")
    with pytest.raises(UsageError, match=f"already connected as user {first.user_id}"):
        registry.add_user("libre", account_hash=account, reference_id="p1")
    registry.add_user("libre", account_hash=account, reference_id="p2")
    registry.add_user("libre", account_hash=account)
    with pytest.raises(UsageError, match="already connected"):
        registry.add_user("libre", account_hash=account)


def test_an_account_is_found_by_reference_and_the_live_connection_first(
    registry: Registry, forward: Forward
) -> None:
    account = registry.hash_account("libre", "ann@example.org")
    old = registry.add_user("libre", account_hash=account)
    registry.set_status(old.user_id, "disconnected")
    forward(days=1)
    assert registry.find_account("libre", account, None) == registry.get_user(old.user_id)
    live = registry.add_user("libre", account_hash=account)
    forward(days=1)
    registry.update_user(old.user_id, timezone="Asia/Tokyo")
    assert registry.find_account("libre", account, None) == live
    assert registry.find_account("libre", account, "p1") is None
    assert registry.find_account("oura", account, None) is None
    with pytest.raises(UsageError, match=f"already connected as user {live.user_id}"):
        registry.set_status(old.user_id, "connected")


def test_a_disconnected_user_is_no_longer_due_and_a_reconnected_one_is_at_once(
    registry: Registry, forward: Forward
) -> None:
    registry.add_user("oura", user_id="ann")
    registry.set_status("ann", "disconnected", "by the person")
    assert registry.get_user("ann").status_reason == "by the person"
    later = forward(days=3)
    assert registry.due_users(later, ["oura"]) == []
    registry.set_status("ann", "connected")
    assert [due.user_id for due in registry.due_users(later, ["oura"])] == ["ann"]


def test_a_status_nobody_knows_is_refused(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    with pytest.raises(UsageError, match="connected, needs_reauth, revoked, disconnected"):
        registry.set_status("ann", "asleep")  # type: ignore[arg-type]


def test_what_a_person_may_have_put_a_name_into_is_not_in_the_repr(registry: Registry) -> None:
    user = registry.add_user("oura", reference_id="ann@example.org", config={"name": "Ann"})
    assert "ann@example.org" not in repr(user)
    assert "Ann" not in repr(user)


def test_one_account_connected_eight_times_at_once_is_one_user(registry: Registry) -> None:
    account = registry.hash_account("libre", "ann@example.org")
    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(registry.add_user, "libre", account_hash=account) for _ in range(8)]
    assert len(registry.find_users()) == 1
    assert sum(isinstance(one.exception(), UsageError) for one in tries) == 7
