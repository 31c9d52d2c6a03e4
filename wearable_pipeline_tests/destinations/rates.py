"""What `bench destinations` runs: a pytest session of its own, because counterparts are fixtures.

Not collected with the tests; `Rates`, a plugin, says what to measure and takes down what came out.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wearable_pipeline.destinations._contract import Batch, Item, Target, UserInfo
from wearable_pipeline.destinations.delivery import deliver_pending, note_wanted
from wearable_pipeline.lake.storage import LocalStorage
from wearable_pipeline.partitions import Scheme
from wearable_pipeline.registry import NewUser, Registry
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.bench._plain_clients import PLAIN_CLIENTS
from wearable_pipeline_tests.bench.deliver import make_rows, write
from wearable_pipeline_tests.destinations.bench import BODY, TODAY
from wearable_pipeline_tests.destinations.counterparts import COUNTERPARTS

ROWS_PER_COHORT = 1_000
ROWS_AT_ONCE = 500
_ORDERING = 1_795_176_000_000


@dataclass
class Rates:
    """Kinds and rows to measure, and the seconds of every way, by kind."""

    kinds: list[str]
    rows: int
    turn: int
    seconds: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    peers: dict[str, str] = field(default_factory=dict)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.parametrize("kind", self.kinds)

    @pytest.fixture
    def rates(self) -> "Rates":
        return self

    @contextmanager
    def timed(self, kind: str, way: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds = self.seconds[kind]
        seconds[way] = seconds.get(way, 0.0) + time.perf_counter() - started


def test_rows_per_second(
    kind: str, rates: Rates, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    target = COUNTERPARTS[kind](request).target
    ways: list[Callable[[], None]] = [
        lambda: backfill(rates, kind, target, tmp_path),
        lambda: send(rates, kind, target),
        lambda: insert_plainly(rates, kind, target),
    ]
    shift = rates.turn % len(ways)
    for way in ways[shift:] + ways[:shift]:
        way()


def users_of(rates: Rates, prefix: int) -> list[str]:
    """People of their own for each way, so that every way inserts."""
    return [f"{prefix}{n:07d}-0000-4000-8000-000000000000" for n in range(rates.rows)]


def backfill(rates: Rates, kind: str, target: Target, folder: Path) -> None:
    """All of it: from the lake, through the ledger, acknowledged. That it arrives, the tests say."""
    users = users_of(rates, 1)
    scheme = Scheme(max(1, len(users) // ROWS_PER_COHORT))
    settings = Settings(home=folder, webhook_url="https://example.org/unused")
    storage = LocalStorage(folder / "lake")
    rows = make_rows(users, rates.turn)
    write(storage, scheme, rows)
    with Registry.open(settings) as registry:
        registry.add_users(NewUser(user_id=user, provider="freestyle_libre") for user in users)
        with rates.timed(kind, "backfill"):
            for part in rows.iter_slices(2_000):
                note_wanted(registry, [target], "body", part)
            report = deliver_pending(
                storage,
                scheme,
                registry,
                target,
                settings,
                lambda: datetime.now(UTC),
            )
    assert report.delivered == len(users), report


def send(rates: Rates, kind: str, target: Target) -> None:
    """The sender alone, batch by batch."""
    rows = make_rows(users_of(rates, 2), rates.turn)
    with rates.timed(kind, "send"), target.open() as sender:
        for part in rows.iter_slices(target.destination.batch_rows):
            outcomes = sender.deliver(Batch(BODY, tuple(map(item_of, part["user_id"])), part))
            assert {outcome.kind for outcome in outcomes} == {"delivered"}


def insert_plainly(rates: Rates, kind: str, target: Target) -> None:
    """The client alone, with rows made ready for it."""
    rows = make_rows(users_of(rates, 3), rates.turn)
    with PLAIN_CLIENTS[kind](target) as plain:
        rates.peers[kind] = plain.name
        for part in rows.iter_slices(ROWS_AT_ONCE):
            ready = plain.prepare(part)
            with rates.timed(kind, "plain"):
                plain.insert(ready)
        with rates.timed(kind, "plain"):
            plain.finish()


def item_of(user_id: str) -> Item:
    """A user's day of today."""
    user = UserInfo(user_id, "FREESTYLELIBRE")
    return Item("body", user, TODAY.isoformat(), TODAY, "hash", f"trace-{user_id}", _ORDERING)
