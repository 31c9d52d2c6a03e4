"""Whatever happens between a store and the ledger, at every kind: nothing lost, nothing doubled.

WEARABLE_TEST_KILLS says how many times a sender is killed at each kind; `make faults` kills oftener and
waits longer.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from wearable_pipeline.destinations import destinations
from wearable_pipeline.lake.storage import LocalStorage
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.bench import (
    TODAY,
    Bench,
    TurnedClock,
    body_row,
    open_new_registry,
)
from wearable_pipeline_tests.destinations.counterparts import COUNTERPARTS, Counterpart, State
from wearable_pipeline_tests.destinations.deliver_once import deliver_once
from wearable_pipeline_tests.destinations.faulty import Watcher, gated, write_toml
from wearable_pipeline_tests.servers.forked import fork

KILLS = int(os.environ.get("WEARABLE_TEST_KILLS", "1"))
A = "11111111-1111-4111-8111-111111111111"
B = "22222222-2222-4222-8222-222222222222"
BATCH_ROWS = 4
# A pass that hangs longer takes the next ones' time.
LONGEST_STALL = 30
# A claim of a dead sender is free after ten minutes.
AFTER_CLAIMS = timedelta(minutes=11)

kinds = pytest.mark.parametrize("counterpart", sorted(destinations()), indirect=True)

Glucose = dict[tuple[str, str], list[float]]


@pytest.fixture
def counterpart(request: pytest.FixtureRequest) -> Counterpart:
    return COUNTERPARTS[request.param](request)


@pytest.fixture
def installed(tmp_path: Path, counterpart: Counterpart, clock: TurnedClock) -> Iterator[Bench]:
    home = tmp_path / "home"
    home.mkdir()
    settings = Settings(home=home, webhook_url="https://example.org/unused")
    with open_new_registry(settings, clock) as registry:
        bench = Bench(settings, LocalStorage(home / "lake"), registry, clock)
        # The environment could describe a webhook of the kind's own name.
        bench.target = replace(counterpart.target, name="tested")
        for user_id in (A, B):
            bench.add_user(user_id, f"person-{user_id[0]}")
        yield bench


def note(bench: Bench, truth: Glucose, user_id: str, day: date, values: list[float]) -> None:
    """A day as it is now, in the lake and in what should arrive."""
    assert bench.note(body_row(user_id, values, day)) == 1
    truth[user_id, day.isoformat()] = values


def readings(state: State) -> Glucose:
    """Glucose by user and day, every sample as often as it lies there."""
    return {
        (user_id, day): [
            sample["blood_glucose_mg_per_dL_exact"]
            for sample in row["glucose_data"]["blood_glucose_samples"]
        ]
        for (user_id, _, day), row in state.items()
    }


# Killed.


@kinds
def test_killed_between_write_and_acknowledgement_nothing_is_lost_or_doubled(
    installed: Bench, counterpart: Counterpart
) -> None:
    write_toml(installed.target, installed.settings.home / "destinations.toml")
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    truth: Glucose = {}
    days = [TODAY - timedelta(days=n) for n in range(8)]
    for user_id in (A, B):
        for n, day in enumerate(days):
            note(installed, truth, user_id, day, [100.0 + n, 150.5])
    killed = 0
    for turn in range(KILLS):
        # In the first batch or the second one, at whatever row; every third time from outside, at a
        # moment nobody chose.
        is_blind = turn % 3 == 2
        die_at = rng.randint(1, min(len(due_rows(installed)), 2 * BATCH_ROWS))
        child = fork(
            deliver_once,
            installed.settings.home,
            installed.target.name,
            installed.clock.now,
            BATCH_ROWS,
            None if is_blind else die_at,
        ).begin()
        if is_blind:
            # The moment is the point of it: nothing to inject here.
            time.sleep(rng.uniform(0.0, 0.3))
            child.kill()
        told = child.listen()
        is_killed = child.process.exitcode == -signal.SIGKILL
        assert is_killed or is_blind, (seed, told)
        killed += is_killed
        # Nothing was said to be written that is not there, though the ledger never heard of it.
        written = [tuple(line.split(" ", 1)) for line in told]
        assert len(written) == die_at or is_blind, seed
        found = readings(counterpart.read())
        assert {key: found.get(key) for key in written} == {key: truth[key] for key in written}
        installed.clock.now += AFTER_CLAIMS
        # Life goes on: a corrected day and a new one.
        corrected = rng.choice(days)
        note(installed, truth, A, corrected, [90.0, 95.5 + turn])
        note(installed, truth, B, TODAY + timedelta(days=turn + 1), [60.0 + turn])
    assert killed > 0, seed
    report = installed.deliver()
    assert (report.failed, report.parked, report.remaining) == (0, 0, 0), (seed, report)
    assert readings(counterpart.read()) == truth, seed
    assert {row.status for row in installed.ledger()} == {"delivered"}
    # Once more from the beginning, and still the same.
    assert installed.registry.redeliver(installed.target.name) == len(truth)
    assert installed.deliver().delivered == len(truth)
    assert readings(counterpart.read()) == truth, seed


def due_rows(bench: Bench) -> list[object]:
    """Rows the next process will find."""
    return [row for row in bench.ledger() if row.status == "pending"]


# Down.


@kinds
def test_an_hour_without_the_destination_while_data_keep_coming_loses_nothing(
    installed: Bench, counterpart: Counterpart
) -> None:
    truth: Glucose = {}
    days = [TODAY - timedelta(days=n) for n in range(3)]
    with gated(installed.target) as behind:
        installed.target = behind.target
        note(installed, truth, A, days[1], [100.0])
        assert installed.deliver().delivered == 1
        before = readings(counterpart.read())
        assert before == truth
        behind.shut()
        installed.target = behind.hasty
        for minute in range(0, 60, 20):
            for user_id in (A, B):
                # Today grows, an old day is corrected: what waits is always the newest content.
                note(installed, truth, user_id, TODAY, [100.0, 101.0 + minute])
                note(installed, truth, user_id, days[2 if minute else 1], [80.0 + minute])
            report = installed.deliver()
            assert (report.delivered, report.parked) == (0, 0), report
            assert report.remaining == len(due_rows(installed)) > 0
            installed.clock.forward(minutes=20)
        assert readings(counterpart.read()) == before
        behind.open()
        # Later than any back-off of three failures.
        installed.clock.forward(minutes=5)
        watcher = Watcher()
        installed.target = watcher.watch(behind.target, batch_rows=2)
        report = installed.deliver()
    assert (report.failed, report.parked, report.remaining) == (0, 0, 0), report
    assert report.delivered == 6
    assert readings(counterpart.read()) == truth
    sent = [[item.date for item in batch.items] for batch in watcher.batches]
    assert sent == [[days[0]] * 2, [days[1]] * 2, [days[2]] * 2], "live data go first"
    orderings = {(row.user_id, row.row_key): row.ordering_timestamp for row in installed.ledger()}
    arrived = {
        (o.item.user.user_id, o.item.row_key): o.item.ordering_timestamp for o in watcher.outcomes
    }
    assert arrived.items() <= orderings.items()


@kinds
def test_a_connection_that_breaks_between_two_batches_loses_and_doubles_nothing(
    installed: Bench, counterpart: Counterpart
) -> None:
    truth: Glucose = {}
    for n in range(10):
        note(installed, truth, A, TODAY - timedelta(days=n), [100.0 + n, 120.5])
    # Long enough for what arrives before it breaks.
    with gated(installed.target, timeout_seconds=2) as behind:
        broken = Watcher()
        broken.batch = lambda batch: behind.shut() if len(broken.batches) == 3 else None
        installed.target = broken.watch(behind.hasty, batch_rows=2)
        report = installed.deliver()
        assert report.parked == 0, report
        assert len(readings(counterpart.read())) >= 4
        behind.open()
        installed.clock.now += AFTER_CLAIMS
        installed.target = behind.target
        assert installed.deliver().remaining == 0
    assert readings(counterpart.read()) == truth


@kinds
def test_a_destination_that_takes_everything_and_never_answers_does_not_hold_the_pass(
    installed: Bench, counterpart: Counterpart
) -> None:
    truth: Glucose = {}
    for n in range(6):
        note(installed, truth, A, TODAY - timedelta(days=n), [100.0 + n])
    with gated(installed.target) as behind:
        installed.target = Watcher().watch(behind.hasty, batch_rows=2)
        behind.stall()
        began = time.monotonic()
        report = installed.deliver()
        assert time.monotonic() - began < LONGEST_STALL
        assert (report.delivered, report.parked, report.remaining) == (0, 0, 6), report
        behind.open()
        installed.clock.now += AFTER_CLAIMS
        installed.target = behind.target
        assert installed.deliver().remaining == 0
    assert readings(counterpart.read()) == truth
