"""What every destination must stand: whatever happens on the way, the end is as if it came once."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from wearable_pipeline.destinations import destinations
from wearable_pipeline.destinations._contract import Batch, Item, UserInfo
from wearable_pipeline.lake.layout import table_path
from wearable_pipeline.lake.storage import LocalStorage
from wearable_pipeline.partitions import Partition
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.bench import (
    BODY,
    TODAY,
    Bench,
    TurnedClock,
    body_row,
    open_new_registry,
)
from wearable_pipeline_tests.destinations.counterparts import COUNTERPARTS, Counterpart, State

A = "11111111-1111-4111-8111-111111111111"
B = "22222222-2222-4222-8222-222222222222"
DAYS = [TODAY - timedelta(days=n) for n in range(3)]

kinds = pytest.mark.parametrize("counterpart", sorted(destinations()), indirect=True)


class PowerCutError(BaseException):
    """Nothing may catch it."""


@pytest.fixture
def counterpart(request: pytest.FixtureRequest) -> Counterpart:
    return COUNTERPARTS[request.param](request)


def open_bench(home: Path, counterpart: Counterpart, clock: TurnedClock) -> Bench:
    home.mkdir(parents=True)
    settings = Settings(home=home, webhook_url="https://example.org/unused")
    bench = Bench(settings, LocalStorage(home / "lake"), open_new_registry(settings, clock), clock)
    bench.target = counterpart.target
    for user_id in (A, B):
        bench.add_user(user_id, f"person-{user_id[0]}")
    return bench


@pytest.fixture
def installed(tmp_path: Path, counterpart: Counterpart, clock: TurnedClock) -> Iterator[Bench]:
    bench = open_bench(tmp_path / "first", counterpart, clock)
    yield bench
    bench.registry.close()


def note_all(bench: Bench) -> None:
    bench.note(
        *(body_row(user, [100, 101 + n], day) for user in (A, B) for n, day in enumerate(DAYS))
    )


def readings(state: State) -> dict[tuple[str, str], list[float]]:
    """Glucose by user and day, whatever form the destination keeps rows in."""
    found = {}
    for (user_id, _, day), row in state.items():
        samples = row["glucose_data"]["blood_glucose_samples"]
        found[user_id, day] = [sample["blood_glucose_mg_per_dL_exact"] for sample in samples]
    return found


EXPECTED = {
    (user, day): [100.0, last]
    for user in (A, B)
    for day, last in (("2026-11-20", 101.0), ("2026-11-19", 102.0), ("2026-11-18", 103.0))
}


def test_every_kind_has_its_counterpart() -> None:
    assert set(COUNTERPARTS) == set(destinations())


@kinds
def test_rows_arrive_whole(installed: Bench, counterpart: Counterpart) -> None:
    note_all(installed)
    assert installed.deliver().delivered == 6
    assert readings(counterpart.read()) == EXPECTED


@kinds
def test_all_of_it_twice_is_as_once(
    installed: Bench, counterpart: Counterpart, clock: TurnedClock, tmp_path: Path
) -> None:
    note_all(installed)
    installed.deliver()
    once = counterpart.read()
    # The same lake, a ledger that remembers nothing.
    again = open_bench(tmp_path / "second", counterpart, clock)
    try:
        note_all(again)
        assert again.deliver().delivered == 6
    finally:
        again.registry.close()
    assert counterpart.read() == once


@kinds
def test_a_crash_before_the_ledger_knew_and_a_new_start_are_as_once(
    installed: Bench, counterpart: Counterpart, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_all(installed)
    assert installed.deliver(limit=2).delivered == 2

    def die(*args: object) -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        for name in ("acknowledge", "fail", "release"):
            patch.setattr(installed.registry, name, die)
        with pytest.raises(PowerCutError):
            installed.deliver(limit=2)
    assert installed.deliver().delivered == 2  # those nobody had claimed
    installed.clock.forward(minutes=11)
    assert installed.deliver().delivered == 2
    assert readings(counterpart.read()) == EXPECTED
    assert installed.registry.counts(counterpart.target.name).pending == 0


@kinds
def test_an_older_content_that_comes_late_changes_nothing(counterpart: Counterpart) -> None:
    user = UserInfo(A, "FREESTYLELIBRE", "person-1")
    item = Item("body", user, TODAY.isoformat(), TODAY, "new", "trace-new", 1_795_176_000_001)
    older = replace(
        item, content_hash="old", trace_id="trace-old", ordering_timestamp=1_795_176_000_000
    )
    with counterpart.target.open() as sender:
        for one, values in ((item, [100, 120]), (older, [100])):
            batch = Batch(BODY, (one,), body_row(A, values))
            assert [outcome.kind for outcome in sender.deliver(batch)] == ["delivered"]
    assert readings(counterpart.read()) == {(A, "2026-11-20"): [100.0, 120.0]}


@kinds
def test_a_corrected_day_replaces_what_was_there(
    installed: Bench, counterpart: Counterpart
) -> None:
    note_all(installed)
    installed.deliver()
    installed.note(body_row(A, [90], DAYS[1]))
    assert installed.deliver().delivered == 1
    assert readings(counterpart.read()) == {**EXPECTED, (A, "2026-11-19"): [90.0]}


@kinds
def test_nothing_of_an_erased_user_is_sent_and_the_others_are_as_ever(
    installed: Bench, counterpart: Counterpart
) -> None:
    note_all(installed)
    installed.registry.delete_user(A)
    assert installed.deliver().delivered == 3
    expected = {key: values for key, values in EXPECTED.items() if key[0] == B}
    assert readings(counterpart.read()) == expected


@kinds
def test_what_was_delivered_of_an_erased_user_is_taken_back(
    installed: Bench, counterpart: Counterpart
) -> None:
    note_all(installed)
    assert installed.deliver().delivered == 6
    for day in DAYS:
        cohort = installed.scheme.cohort_of(A)
        installed.storage.delete(table_path("body", Partition(day, cohort)))
    assert installed.registry.withdraw(counterpart.target.name, A, ["body"]) == 3
    assert installed.deliver().delivered == 3
    # Receivers of events are left with rows that hold nothing.
    with_glucose = {key: row for key, row in counterpart.read().items() if row.get("glucose_data")}
    left = {key: values for key, values in readings(with_glucose).items() if values}
    assert left == {key: values for key, values in EXPECTED.items() if key[0] == B}


@kinds
def test_a_batch_of_nothing_is_fine(counterpart: Counterpart) -> None:
    with counterpart.target.open() as sender:
        assert (
            list(sender.deliver(Batch(BODY, (), pl.DataFrame(schema=BODY.polars_schema())))) == []
        )
