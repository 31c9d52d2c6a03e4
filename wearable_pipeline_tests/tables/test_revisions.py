"""What becomes of nights, workouts and scores that change after they were first told."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from wearable_pipeline.model import TABLES
from wearable_pipeline.model.payload import from_payload, to_payload
from wearable_pipeline.tables import normalize as engine
from wearable_pipeline.tables.refresh import encode_parquet
from wearable_pipeline_tests.tables.band import BAND, DAY, NOON, told


@pytest.fixture(autouse=True)
def only_the_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "providers", lambda: {"band": BAND})


def rows(table: str, *fetched: pl.DataFrame) -> list[dict[str, Any]]:
    result = engine.normalize(pl.concat(fetched), table)
    assert result.rejected.is_empty(), result.rejected
    return result.rows.to_dicts()


def night(**changes: Any) -> dict[str, Any]:
    base = {
        "id": "n1",
        "start": "2026-11-19T22:00:00Z",
        "end": "2026-11-20T06:00:00Z",
        "timezone_offset": "+01:00",
        "score": 61.0,
    }
    return {**base, **changes}


def test_a_night_revised_with_the_same_interval_is_one_row_with_the_newest_truth() -> None:
    (row,) = rows(
        "sleep",
        told("night", 0, **night(deep_seconds=3600.0)),
        told("night", 60, **night(deep_seconds=4200.0)),
    )
    assert row["sleep_durations_asleep_duration_deep_sleep_state_seconds"] == 4200.0
    assert row["revision"] == 2
    assert row["first_seen_at"] == NOON
    assert row["updated_at"] == NOON + timedelta(hours=1)


def test_the_same_id_with_a_longer_interval_is_one_row() -> None:
    (row,) = rows(
        "sleep",
        told("night", 0, **night()),
        told("night", 60, **night(end="2026-11-20T07:30:00Z")),
    )
    assert row["end_at"] == datetime(2026, 11, 20, 7, 30, tzinfo=UTC)
    assert row["start_at"] == datetime(2026, 11, 19, 22, 0, tzinfo=UTC)


def test_the_offset_the_provider_states_is_kept() -> None:
    (row,) = rows("sleep", told("night", **night(timezone_offset="-05:00")))
    assert row["utc_offset_seconds"] == -18_000
    assert row["local_start_at"] == datetime(2026, 11, 19, 17, 0)  # noqa: DTZ001 - wall clock
    assert row["tz_source"] == "provider"
    (client,) = to_payload(
        TABLES["sleep"],
        engine.normalize(told("night", **night(timezone_offset="-05:00")), "sleep").rows,
    )
    assert client["metadata"]["start_time"] == "2026-11-19T17:00:00.000000-05:00"


def test_without_an_offset_nothing_is_made_up() -> None:
    (row,) = rows("sleep", told("night", **night(timezone_offset=None)))
    assert row["utc_offset_seconds"] is None
    assert row["local_start_at"] is None
    assert row["tz_source"] == "unknown"


def test_a_sleep_without_stage_fields_gives_null_stages() -> None:
    (row,) = rows("sleep", told("night", **night()))
    assert row["sleep_durations_asleep_duration_deep_sleep_state_seconds"] is None
    assert row["sleep_durations_hypnogram_samples"] is None


def test_a_saturation_told_as_a_fraction_is_stored_as_percent() -> None:
    (row,) = rows("sleep", told("night", **night(spo2_fraction=0.965)))
    column = "respiration_oxygen_saturation_avg_saturation_percentage"
    assert row[column] == pytest.approx(96.5)


def test_a_percentage_sent_where_a_fraction_is_declared_is_refused_not_shown() -> None:
    result = engine.normalize(told("night", **night(spo2_fraction=96.5)), "sleep")
    column = "respiration_oxygen_saturation_avg_saturation_percentage"
    assert result.rows[column].to_list() == [None]
    assert result.rejected.height == 1


def test_a_sleep_score_revised_ends_with_the_newest() -> None:
    (row,) = rows(
        "sleep", told("night", 0, **night(score=61.0)), told("night", 1440, **night(score=84.0))
    )
    assert row["scores_sleep"] == 84.0


def test_a_record_that_shrinks_takes_its_children_along() -> None:
    stages = [
        {"at": "2026-11-19T22:00:00Z", "level": "light_sleep"},
        {"at": "2026-11-19T23:00:00Z", "level": "deep_sleep"},
    ]
    (row,) = rows(
        "sleep",
        told("night", 0, **night(stages=stages, deep_seconds=3600.0)),
        told("night", 60, **night(stages=stages[:1])),
    )
    assert [stage["level"] for stage in row["sleep_durations_hypnogram_samples"]] == ["light_sleep"]
    assert row["sleep_durations_asleep_duration_deep_sleep_state_seconds"] is None


def test_workout_calories_that_change_are_not_added_up() -> None:
    workout = {
        "id": "w1",
        "start": "2026-11-20T07:00:00Z",
        "end": "2026-11-20T08:00:00Z",
        "timezone_offset": "+01:00",
    }
    (row,) = rows(
        "activity",
        told("workout", 0, **workout, kcal=300.0),
        told("workout", 30, **workout, kcal=420.0),
    )
    assert row["calories_total_burned_calories"] == 420.0


def test_a_latitude_keeps_its_seven_digits_through_the_clients_json() -> None:
    track = [{"at": "2026-11-20T07:00:00Z", "lat": 48.8583701, "lon": 2.2944813}]
    body = {
        "id": "w1",
        "start": "2026-11-20T07:00:00Z",
        "end": "2026-11-20T08:00:00Z",
        "timezone_offset": "+01:00",
        "track": track,
    }
    made = engine.normalize(told("workout", **body), "activity").rows
    (client,) = to_payload(TABLES["activity"], made)
    (position,) = client["position_data"]["position_samples"]
    assert position["coords_lat_lng_deg"] == [48.8583701, 2.2944813]
    back = from_payload(TABLES["activity"], [client])
    assert back["position_position_samples"][0][0]["coords_lat_lng_deg"] == [
        48.8583701,
        2.2944813,
    ]


def reading(minute: int, value: float) -> dict[str, Any]:
    return {
        "id": f"g{minute}",
        "start": f"2026-11-20T08:{minute:02}:00Z",
        "timezone_offset": "+01:00",
        "mg_dl": value,
    }


def test_a_cgm_window_sent_again_with_one_correction_changes_that_reading_alone() -> None:
    first = [told("cgm", 0, **reading(minute, 100.0 + minute)) for minute in (0, 5, 10)]
    again = [
        told("cgm", 5, **reading(minute, value))
        for minute, value in ((0, 100.0), (5, 99.0), (10, 110.0))
    ]
    (row,) = rows("body", *first, *again)
    values = [s["blood_glucose_mg_per_dl"] for s in row["glucose_blood_glucose_samples"]]
    assert values == [100.0, 99.0, 110.0]


def test_a_resend_in_another_order_gives_the_same_bytes() -> None:
    parts = [told("cgm", 0, **reading(minute, 100.0 + minute)) for minute in range(0, 60, 5)]
    parts.append(told("cgm", 0, **reading(20, 119.0)))
    table = TABLES["body"]

    def content(order: Sequence[pl.DataFrame]) -> bytes:
        made = engine.normalize(pl.concat(order), "body").rows
        return encode_parquet(made.to_arrow(), table.arrow_schema())

    assert content(parts) == content(parts[::-1]) == content(parts[5:] + parts[:5])


def test_several_records_make_one_day_and_a_null_erases_nobody_elses_value() -> None:
    day = {"start": "2026-11-20T00:00:00Z", "timezone_offset": "+00:00"}
    (row,) = rows(
        "daily",
        told("summary", 0, id="heart", resting_bpm=52.0, **day),
        told("summary", 10, id="steps", steps=7_000, **day),
    )
    assert row["heart_rate_summary_resting_hr_bpm"] == 52.0
    assert row["distance_steps"] == 7_000


def test_samples_of_a_session_join_their_session() -> None:
    beat = {"id": "n1", "start": "2026-11-20T01:00:00Z", "timezone_offset": "+01:00", "bpm": 48.0}
    (row,) = rows("sleep", told("night", **night()), told("heart", record_id="n1-0100", **beat))
    assert [sample["bpm"] for sample in row["heart_rate_detailed_hr_samples"]] == [48.0]
    # The session's own interval stands, whatever its samples cover.
    assert row["start_at"] == datetime(2026, 11, 19, 22, 0, tzinfo=UTC)
    assert row["source_record_ids"] == ["n1", "n1-0100"]


def test_two_sessions_of_a_day_are_two_rows() -> None:
    nap = night(id="n2", start="2026-11-20T13:00:00Z", end="2026-11-20T13:30:00Z", score=None)
    found = rows("sleep", told("night", **night()), told("night", **nap))
    assert [row["metadata_summary_id"] for row in found] == ["n1", "n2"]


def test_a_session_over_midnight_belongs_to_the_date_its_record_has() -> None:
    (row,) = rows("sleep", told("night", **night()))
    assert row["local_date"] == DAY
    assert row["local_start_at"].date() == DAY - timedelta(days=1)


def test_as_of_an_earlier_time_the_old_revision_is_there() -> None:
    both = pl.concat(
        [told("night", 0, **night(score=61.0)), told("night", 60, **night(score=84.0))]
    )
    then = both.filter(pl.col("fetched_at") <= NOON + timedelta(minutes=30))
    assert rows("sleep", then)[0]["scores_sleep"] == 61.0
