"""docs/scale.md: its tables are what its figures make them."""

from wearable_pipeline_tests.bench import _sizing

GIVEN = {
    "cgm_users_per_cycle": 50_000.0,
    "run_rss_mb": 1_500.0,
    "requests_writes": 2.0,
    "requests_reads": 10.0,
    "requests_reads_growth": 1.0,
    "requests_listings": 4.0,
    "bytes_user_day": 10_000.0,
    "registry_bytes_user": 1_000.0,
    "users_per_installation": 1_000_000.0,
    "price_writes": 5.0,
    "price_reads": 0.4,
    "price_gb_month": 0.02,
}


def test_the_tables_follow_from_the_figures_above_them() -> None:
    text = _sizing.DOCUMENT.read_text()
    assert _sizing.render(text) == text, "run python -m wearable_pipeline_tests.bench._sizing"
    assert GIVEN.keys() <= _sizing.read_inputs(text).keys()


def test_a_hundred_thousand_users_worked_out_by_hand() -> None:
    one = _sizing.size(100_000, GIVEN)
    assert (one.installations, one.cohorts, one.users_per_cohort) == (1, 64, 1_563)
    assert (one.pairs_of_cores, one.lanes, one.run_memory_gb) == (2.0, 2, 3.0)
    # 100,000 × 365 × 10,000 bytes; a year filled evenly holds half of it on average.
    assert one.lake_gb_a_year == 365.0
    assert round(one.storage_dollars, 6) == 3.65
    # 64 cohorts × 8,640 cycles × (6 × 5.00 + (10 + 144) × 0.40) / 1,000,000
    assert round(one.requests_dollars, 4) == 50.6511


def test_more_installations_when_one_is_full() -> None:
    one = _sizing.size(2_500_000, GIVEN)
    assert (one.installations, one.cohorts, one.users_per_cohort) == (3, 64, 13_021)
    assert one.lanes == 17
