import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from wearable_pipeline.registry import Registry

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
TTL = timedelta(minutes=5)
Forward = Callable[..., datetime]


def test_a_name_has_one_holder_until_it_is_given_back(registry: Registry) -> None:
    assert registry.lease("refresh:ann", "one", TTL)
    assert not registry.lease("refresh:ann", "two", TTL)
    assert registry.lease("refresh:bob", "two", TTL)
    assert not registry.release_lease("refresh:ann", "two")
    assert registry.release_lease("refresh:ann", "one")
    assert registry.lease("refresh:ann", "two", TTL)


def test_a_lease_ends_by_itself_exactly_after_its_time(
    registry: Registry, forward: Forward
) -> None:
    registry.lease("lane:cgm", "one", TTL)
    forward(minutes=4, seconds=59)
    assert not registry.lease("lane:cgm", "two", TTL)
    forward(seconds=1)
    assert registry.lease("lane:cgm", "two", TTL)
    assert not registry.renew("lane:cgm", "one", TTL)
    assert not registry.release_lease("lane:cgm", "one")


def test_a_renewed_lease_holds_on(registry: Registry, forward: Forward) -> None:
    registry.lease("lane:cgm", "one", TTL)
    forward(minutes=4)
    assert registry.renew("lane:cgm", "one", TTL)
    forward(minutes=4)
    assert not registry.lease("lane:cgm", "two", TTL)
    assert registry.lease("lane:cgm", "one", TTL)


def test_the_block_gets_the_lease_or_none_and_gives_it_back_even_after_an_error(
    registry: Registry,
) -> None:
    with registry.lease_or_none("lane:cgm", TTL) as held:
        assert held is not None
        assert (held.name, held.expires_at) == ("lane:cgm", NOON + TTL)
        with registry.lease_or_none("lane:cgm", TTL) as second:
            assert second is None
        assert not registry.lease("lane:cgm", "other", TTL)

    def work() -> None:
        with registry.lease_or_none("lane:cgm", TTL):
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        work()
    assert registry.lease("lane:cgm", "other", TTL)


def test_of_eight_at_once_one_gets_it(registry: Registry) -> None:
    start = threading.Barrier(8)

    def take(number: int) -> bool:
        start.wait()
        return registry.lease("lane:cgm", f"owner{number}", TTL)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(take, range(8))) == [False] * 7 + [True]
