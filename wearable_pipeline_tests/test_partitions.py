from datetime import UTC, date, datetime

import pytest

from wearable_pipeline.errors import UsageError
from wearable_pipeline.lake.layout import check_manifest, parse_partition, table_path
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.partitions import (
    Partition,
    Scheme,
    check_user_id,
    format_key,
    grid_start,
    last_day,
    parse_key,
)
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace


@pytest.mark.parametrize(
    "user_id", ["", "a|b", "a/b", "../x", "a b", "é", "x" * 65, "a\n", "a.b", "a%2Fb"]
)
def test_a_key_dagster_or_a_folder_would_misread_is_refused(user_id: str) -> None:
    with pytest.raises(UsageError, match="not allowed"):
        check_user_id(user_id)


def test_without_cohorts_a_user_is_a_cohort() -> None:
    assert Scheme().cohort_of("u-1") == "u-1"


def test_a_users_shard_never_moves() -> None:
    # `printf ann | b2sum -l 64` ends in 5, that of bob in 2: the last hex digit is the number modulo 16.
    assert Scheme(16).cohort_of("ann") == "s05"
    assert Scheme(16).cohort_of("bob") == "s02"


def test_shards_are_even_enough() -> None:
    counts: dict[str, int] = {}
    for number in range(16_000):
        cohort = Scheme(16).cohort_of(f"user-{number}")
        counts[cohort] = counts.get(cohort, 0) + 1
    assert len(counts) == 16
    assert min(counts.values()) > 800
    assert max(counts.values()) < 1_200


def test_keys_and_paths_are_read_back() -> None:
    cell = Partition(date(2026, 11, 20), "u-1")
    assert format_key(cell) == "2026-11-20|u-1"
    assert parse_key("2026-11-20|u-1") == cell
    assert parse_partition(table_path("body", cell)) == cell
    for bad in ("2026-11-20", "2026-11-31|u", "2026-11-20|a|b", "|"):
        with pytest.raises(UsageError):
            parse_key(bad)


def test_the_newest_day_is_that_of_the_first_zone_on_earth() -> None:
    # Kiritimati is 14 hours ahead of UTC: its 21st begins at 10:00 UTC on the 20th.
    assert last_day(datetime(2026, 11, 20, 9, 59, tzinfo=UTC)) == date(2026, 11, 20)
    assert last_day(datetime(2026, 11, 20, 10, 0, tzinfo=UTC)) == date(2026, 11, 21)


def test_a_thousand_users_stay_below_a_hundred_thousand_keys() -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert (last_day(now) - grid_start(Scheme(), None, now)).days + 1 <= 100
    assert ((last_day(now) - grid_start(Scheme(64), None, now)).days + 1) * 64 <= 100_000
    assert grid_start(Scheme(), date(2020, 1, 1), now) == date(2020, 1, 1)


def test_a_lake_refuses_another_number_of_cohorts(workspace: Workspace) -> None:
    storage = Storage.open(workspace.settings.lake, Settings(_env_file=None))
    check_manifest(storage, None)
    with pytest.raises(UsageError, match="one cohort per user") as refusal:
        check_manifest(storage, 16)
    assert "WEARABLE_COHORTS=" in str(refusal.value)
    assert "wearable-pipeline repartition --cohorts 16" in str(refusal.value)


def test_a_shard_has_another_folder_after_every_cut_and_the_same_key_in_dagster() -> None:
    first, second = Scheme(16), Scheme(16, generation=2)
    assert first.cohort_of("ann") == "s05"
    assert second.cohort_of("ann") == "s05g2"
    assert second.key_of("s05g2") == "s05"
    assert second.cohort_at("s05") == "s05g2"
    assert Scheme(None, generation=2).cohort_at("s05") == "s05"
    assert not set(first.cohort_keys() or ()) & set(second.cohort_keys() or ())
