"""Oura's documents as rows; expected values are worked out by hand from the documents below."""

import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from wearable_pipeline.errors import BadPayloadError, PermanentError, UsageError
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import (
    Changed,
    Page,
    PushRequest,
    PushSecrets,
    Record,
    Removed,
    Window,
)
from wearable_pipeline.providers.oura import ACTIVITIES, answer_challenge, fetch, read_push
from wearable_pipeline.sandbox.oura import COLLECTIONS, PEOPLE, heart_rate
from wearable_pipeline.sandbox.people import DEFAULT_SEED
from wearable_pipeline.tables.inspect import inspect_body
from wearable_pipeline_tests.providers.moments import at, naive
from wearable_pipeline_tests.providers.paper_api import FORMS, Answers, fetched_pages, in_form

OURA = get_provider("oura")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
META = {"updated_at": "2026-11-20T09:00:00Z", "version": 1}

NIGHT: dict[str, Any] = {
    "id": "night-1",
    "meta": META,
    "day": "2026-11-20",
    "type": "long_sleep",
    "bedtime_start": "2026-11-19T23:30:00+01:00",
    "bedtime_end": "2026-11-19T23:50:00+01:00",
    "total_sleep_duration": 900,
    "time_in_bed": 1200,
    "awake_time": 300,
    "light_sleep_duration": 300,
    "rem_sleep_duration": 300,
    "deep_sleep_duration": 300,
    "latency": 60,
    "efficiency": 75,
    "average_heart_rate": 52.5,
    "lowest_heart_rate": 48,
    "average_hrv": 61,
    "average_breath": 13.875,
    "sleep_phase_5_min": "4123",
    "sleep_phase_30_sec": None,
    "heart_rate": {
        "interval": 300.0,
        "items": [55, None, 50, 48],
        "timestamp": "2026-11-19T23:30:00+01:00",
    },
    "hrv": {"interval": 300.0, "items": [60.5], "timestamp": "2026-11-19T23:30:00+01:00"},
    "readiness": {
        "score": 81,
        "temperature_deviation": -0.21,
        "contributors": {"previous_night": 90, "sleep_balance": None},
    },
    "low_battery_alert": False,
    "period": 0,
}
ACTIVITY: dict[str, Any] = {
    "id": "activity-1",
    "day": "2026-11-19",
    "timestamp": "2026-11-19T04:00:00-05:00",
    "score": 88,
    "steps": 9000,
    "active_calories": 410,
    "total_calories": 2310,
    "equivalent_walking_distance": 8123,
    "high_activity_time": 600,
    "medium_activity_time": 1200,
    "low_activity_time": 3600,
    "sedentary_time": 30000,
    "resting_time": 28000,
    "inactivity_alerts": 2,
    "average_met_minutes": 1.59,
    "class_5_min": "01152",
    "met": {"interval": 60.0, "items": [0.9, 1.2, None], "timestamp": "2026-11-19T04:00:00-05:00"},
}


def records(resource: str, *documents: object, timezone: str | None = None) -> list[Record]:
    body = json.dumps({"data": documents, "next_token": None}).encode()
    return list(OURA.resource(resource).split(Page(resource, body, NOW, {"timezone": timezone})))


def one_row(rows: Any, table: str, found: list[Record]) -> dict[str, Any]:
    result = rows("oura", table, found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def test_a_night(rows: Any) -> None:
    row = one_row(rows, "sleep", records("sleep", NIGHT))
    expected = {
        "metadata_summary_id": "night-1",
        "metadata_is_nap": False,
        "local_date": date(2026, 11, 20),
        "start_at": at("2026-11-19T22:30:00+00:00"),
        "local_start_at": naive("2026-11-19T23:30:00"),
        "end_at": at("2026-11-19T22:50:00+00:00"),
        "utc_offset_seconds": 3600,
        "tz_source": "provider",
        "timezone": None,
        "sleep_durations_asleep_duration_asleep_state_seconds": 900.0,
        "sleep_durations_asleep_duration_light_sleep_state_seconds": 300.0,
        "sleep_durations_asleep_duration_deep_sleep_state_seconds": 300.0,
        "sleep_durations_asleep_duration_rem_sleep_state_seconds": 300.0,
        "sleep_durations_awake_duration_awake_state_seconds": 300.0,
        "sleep_durations_awake_sleep_latency_seconds": 60.0,
        "sleep_durations_other_duration_in_bed_seconds": 1200.0,
        "sleep_durations_sleep_efficiency": 75.0,
        "heart_rate_summary_avg_hr_bpm": 52.5,
        "heart_rate_summary_min_hr_bpm": 48.0,
        "heart_rate_summary_avg_hrv_rmssd": 61.0,
        "respiration_breaths_avg_breaths_per_min": 13.875,
        "readiness_readiness": 81.0,
        "temperature_delta": -0.21,
    }
    assert {name: row[name] for name in expected} == expected
    start, local = at("2026-11-19T22:30:00+00:00"), naive("2026-11-19T23:30:00")
    five = timedelta(minutes=5)
    assert row["sleep_durations_hypnogram_samples"] == [
        {"timestamp": start + n * five, "local_timestamp": local + n * five, "level": level}
        for n, level in enumerate(("awake", "deep_sleep", "light_sleep", "rem_sleep"))
    ]
    # The second of four was not measured: no sample, no zero.
    pulse = [(s["timestamp"], s["bpm"]) for s in row["heart_rate_detailed_hr_samples"]]
    assert pulse == [(start, 55.0), (start + 2 * five, 50.0), (start + 3 * five, 48.0)]
    assert [s["hrv_rmssd"] for s in row["heart_rate_detailed_hrv_samples_rmssd"]] == [60.5]
    assert row["data_enrichment_readiness_contributors"] == [
        {"contributor_name": "previous_night", "contributor_score": 90.0}
    ]


def test_the_finer_phases_are_taken_where_there_are_any_and_only_changes_kept(rows: Any) -> None:
    night = {**NIGHT, "sleep_phase_30_sec": "4442211333"}
    row = one_row(rows, "sleep", records("sleep", night))
    start = at("2026-11-19T22:30:00+00:00")
    told = [(s["timestamp"] - start, s["level"]) for s in row["sleep_durations_hypnogram_samples"]]
    half = timedelta(seconds=30)
    assert told == [
        (0 * half, "awake"),
        (3 * half, "light_sleep"),
        (5 * half, "deep_sleep"),
        (7 * half, "rem_sleep"),
    ]


@pytest.mark.parametrize(
    ("kind", "is_nap"), [("long_sleep", False), ("sleep", True), ("late_nap", True), (None, None)]
)
def test_what_is_a_nap(rows: Any, kind: str | None, is_nap: bool | None) -> None:
    row = one_row(rows, "sleep", records("sleep", {**NIGHT, "type": kind}))
    assert row["metadata_is_nap"] is is_nap


def test_rest_is_no_sleep_and_a_deleted_night_goes(rows: Any) -> None:
    assert rows("oura", "sleep", records("sleep", {**NIGHT, "type": "rest"})).rows.is_empty()
    deleted = records("sleep", {**NIGHT, "type": "deleted"})
    assert deleted[0].is_deleted
    assert rows("oura", "sleep", records("sleep", NIGHT), deleted).rows.is_empty()


def test_a_night_without_measurements_is_a_row_of_nulls_not_zeros(rows: Any) -> None:
    bare = {key: NIGHT[key] for key in ("id", "day", "bedtime_start", "bedtime_end", "time_in_bed")}
    row = one_row(rows, "sleep", records("sleep", {**bare, "heart_rate": None, "readiness": None}))
    assert row["sleep_durations_other_duration_in_bed_seconds"] == 1200.0
    for name in (
        "heart_rate_summary_avg_hr_bpm",
        "heart_rate_detailed_hr_samples",
        "sleep_durations_hypnogram_samples",
        "data_enrichment_readiness_contributors",
        "temperature_delta",
    ):
        assert row[name] is None, name


def test_the_night_of_the_clock_change_keeps_both_offsets(rows: Any) -> None:
    night = {
        **NIGHT,
        "day": "2026-10-25",
        "heart_rate": None,
        "hrv": None,
        "bedtime_start": "2026-10-25T01:00:00+02:00",
        "bedtime_end": "2026-10-25T07:00:00+01:00",
    }
    row = one_row(rows, "sleep", records("sleep", night))
    assert row["end_at"] - row["start_at"] == timedelta(hours=7)
    assert row["local_end_at"] - row["local_start_at"] == timedelta(hours=6)


def test_weeks_of_documents_are_cut_into_their_very_bytes_ids_and_days() -> None:
    who = next(iter(PEOPLE.values()))
    zone = ZoneInfo("Pacific/Auckland")
    start = NOW - timedelta(days=30)
    beats = list(heart_rate(DEFAULT_SEED, who, start, NOW))
    # Written with a space here and there, as no encoder of ours does.
    bodies = [json.dumps(beat).encode() for beat in beats]
    body = b'{"next_token": null, "data": [' + b" ,\n".join(bodies) + b"] }"
    found = list(
        OURA.resource("heartrate").split(Page("heartrate", body, NOW, {"timezone": zone.key}))
    )
    instants = [datetime.fromisoformat(str(beat["timestamp"])) for beat in beats]
    assert [one.body for one in found] == bodies
    assert [one.record_id for one in found] == [
        f"{at:%Y%m%dT%H%M%S%f}/{beat['source']}" for at, beat in zip(instants, beats, strict=True)
    ]
    assert [one.local_date for one in found] == [at.astimezone(zone).date() for at in instants]
    assert {str(one.context) for one in found} == {str({"timezone": zone.key})}
    assert len(beats) == 30 * 96
    for name, make in COLLECTIONS.items():
        days = [NOW.date() - timedelta(days=back) for back in range(30)]
        made = [one for day in days if (one := make(DEFAULT_SEED, who, day, NOW)) is not None]
        assert made, name
        split = records(name, *made)
        assert [one.body for one in split] == [json.dumps(one).encode() for one in made]
        assert [one.record_id for one in split] == [one["id"] for one in made]
        field = "start_day" if name == "enhanced_tag" else "day"
        assert [one.local_date.isoformat() for one in split] == [one[field] for one in made]


@pytest.mark.parametrize(
    ("item", "record_id"),
    [
        (
            b'{"timestamp":"2026-11-19T10:00:00+02:00","source":"rest"}',
            "20261119T080000000000/rest",
        ),
        (b'{"timestamp":"2026-11-19T10:00:00.250Z"}', "20261119T100000250000/None"),
        (b'{"timestamp":"2026-11-19T10:00:00Z","source":7}', "20261119T100000000000/7"),
    ],
)
def test_a_beat_is_known_by_its_instant_and_its_source(item: bytes, record_id: str) -> None:
    page = Page("heartrate", b'{"data":[' + item + b"]}", NOW, {})
    (one,) = OURA.resource("heartrate").split(page)
    assert (one.record_id, one.body) == (record_id, item)


@pytest.mark.parametrize(
    "item", [b'{"timestamp":"10:00","bpm":60}', b"7", b'{"bpm":1e999}', b'{"timestamp":null}']
)
def test_a_beat_without_an_instant_is_known_by_its_bytes_beside_one_with(item: bytes) -> None:
    good = b'{"timestamp":"2026-11-19T10:00:00Z","source":"rest","bpm":60}'
    page = Page("heartrate", b'{"data":[' + item + b"," + good + b"]}", NOW, {})
    odd, even = OURA.resource("heartrate").split(page)
    assert odd.record_id == f"sha256:{hashlib.sha256(item).hexdigest()[:32]}"
    assert (odd.body, odd.local_date) == (item, NOW.date())
    assert (even.record_id, even.body) == ("20261119T100000000000/rest", good)


def test_a_corrected_night_replaces_the_old_one_and_repetition_changes_nothing(rows: Any) -> None:
    corrected = {
        **NIGHT,
        "efficiency": 80,
        "meta": {"updated_at": "2026-11-20T10:00:00Z", "version": 2},
    }
    row = one_row(rows, "sleep", records("sleep", NIGHT) + records("sleep", corrected))
    assert row["sleep_durations_sleep_efficiency"] == 80.0
    # The older document arriving last changes nothing.
    again = rows("oura", "sleep", records("sleep", corrected), records("sleep", NIGHT))
    assert again.rows["sleep_durations_sleep_efficiency"].to_list() == [80.0]


def test_a_night_that_ends_before_it_starts_is_quarantined_and_the_next_one_kept(rows: Any) -> None:
    broken = {**NIGHT, "id": "broken", "bedtime_end": "2026-11-18T00:00:00+01:00"}
    result = rows("oura", "sleep", records("sleep", broken, NIGHT))
    assert result.rows["metadata_summary_id"].to_list() == ["night-1"]
    assert result.rejected["record_id"].to_list() == ["broken"]
    assert "the end is before the start" in result.rejected["reason"][0]


def test_a_day_of_activity_runs_from_four_to_four(rows: Any) -> None:
    row = one_row(rows, "daily", records("daily_activity", ACTIVITY))
    expected = {
        "local_date": date(2026, 11, 19),
        "start_at": at("2026-11-19T09:00:00+00:00"),
        "local_start_at": naive("2026-11-19T04:00:00"),
        "end_at": at("2026-11-20T09:00:00+00:00"),
        "utc_offset_seconds": -18000,
        "scores_activity": 88.0,
        "distance_steps": 9000,
        "distance_distance_meters": 8123.0,
        "calories_net_activity_calories": 410.0,
        "calories_total_burned_calories": 2310.0,
        # 600 + 1200 + 3600
        "active_durations_activity_seconds": 5400.0,
        "active_durations_vigorous_intensity_seconds": 600.0,
        "active_durations_moderate_intensity_seconds": 1200.0,
        "active_durations_low_intensity_seconds": 3600.0,
        "active_durations_inactivity_seconds": 30000.0,
        "active_durations_rest_seconds": 28000.0,
        "active_durations_num_continuous_inactive_periods": 2,
        "met_avg_level": 1.59,
        "met_num_high_intensity_minutes": 10.0,
        "met_num_moderate_intensity_minutes": 20.0,
        "met_num_low_intensity_minutes": 60.0,
        "met_num_inactive_minutes": 500.0,
    }
    assert {name: row[name] for name in expected} == expected
    start = at("2026-11-19T09:00:00+00:00")
    levels = [
        ((s["timestamp"] - start) / timedelta(minutes=5), s["activity_level"])
        for s in row["active_durations_activity_levels_samples"]
    ]
    assert levels == [(0, "unknown"), (1, "rest"), (3, "high_intensity"), (4, "inactive")]
    mets = [(s["timestamp"] - start, s["level"]) for s in row["met_met_samples"]]
    assert mets == [(timedelta(0), 0.9), (timedelta(minutes=1), 1.2)]


def test_all_documents_of_a_day_are_one_row(rows: Any) -> None:
    day = {"day": "2026-11-19"}
    found = [
        *records("daily_activity", ACTIVITY),
        *records(
            "daily_readiness",
            {
                **day,
                "id": "r",
                "score": 77,
                "timestamp": "2026-11-19T00:00:00+00:00",
                "contributors": {"previous_night": 70},
            },
        ),
        *records(
            "daily_sleep", {**day, "id": "s", "score": 66, "contributors": {"total_sleep": 1}}
        ),
        *records(
            "daily_stress",
            {
                **day,
                "id": "t",
                "stress_high": 5400,
                "recovery_high": 900,
                "day_summary": "stressful",
            },
        ),
        *records("daily_spo2", {**day, "id": "o", "spo2_percentage": {"average": 97.25}}),
        *records(
            "daily_resilience",
            {
                **day,
                "id": "q",
                "level": "solid",
                "contributors": {"sleep_recovery": 60.1, "daytime_recovery": 20, "stress": 40.5},
            },
        ),
        *records(
            "vO2_max", {**day, "id": "v", "timestamp": "2026-11-19T10:00:00-05:00", "vo2_max": 44}
        ),
        *records("daily_cardiovascular_age", {**day, "id": "c", "vascular_age": 39}),
    ]
    row = one_row(rows, "daily", found)
    expected = {
        "scores_activity": 88.0,
        "scores_recovery": 77.0,
        "scores_sleep": 66.0,
        "stress_high_stress_duration_seconds": 5400.0,
        "stress_rest_stress_duration_seconds": 900.0,
        "stress_stress_rating": "high",
        "oxygen_avg_saturation_percentage": 97.25,
        "oxygen_vo2max_ml_per_min_per_kg": 44.0,
        # The midnight of +00:00 that other documents carry is not where the person was.
        "utc_offset_seconds": -18000,
        "local_start_at": naive("2026-11-19T04:00:00"),
    }
    assert {name: row[name] for name in expected} == expected
    assert row["data_enrichment_resilience_contributors"] == [
        {"contributor_name": "sleep_recovery", "contributor_score": 60.1},
        {"contributor_name": "daytime_recovery", "contributor_score": 20.0},
        {"contributor_name": "stress", "contributor_score": 40.5},
    ]
    assert [s["vo2max_ml_per_min_per_kg"] for s in row["oxygen_vo2_samples"]] == [44.0]


def test_a_day_nobody_knows_the_offset_of_is_a_day_on_the_calendar(rows: Any) -> None:
    stress = {"id": "t", "day": "2026-11-19", "stress_high": None, "recovery_high": 0}
    row = one_row(rows, "daily", records("daily_stress", stress))
    assert row["start_at"] is None
    assert row["local_start_at"] == naive("2026-11-19T00:00:00")
    assert row["utc_offset_seconds"] is None
    assert row["stress_high_stress_duration_seconds"] is None
    assert row["stress_rest_stress_duration_seconds"] == 0.0


def test_an_oxygen_of_zero_was_not_measured(rows: Any) -> None:
    for sent in ({"average": 0.0}, None):
        document = {"id": "o", "day": "2026-11-19", "spo2_percentage": sent}
        row = one_row(rows, "daily", records("daily_spo2", document))
        assert row["oxygen_avg_saturation_percentage"] is None


def test_heart_rate_without_a_zone_is_known_by_its_instant_alone(rows: Any) -> None:
    reading = {"bpm": 61, "source": "workout", "timestamp": "2026-11-19T23:30:00.000Z"}
    (record,) = records("heartrate", reading)
    assert record.local_date == date(2026, 11, 19)
    row = one_row(rows, "daily", [record])
    assert row["heart_rate_detailed_hr_samples"] == [
        {
            "timestamp": at("2026-11-19T23:30:00+00:00"),
            "local_timestamp": None,
            "bpm": 61.0,
            "timer_duration_seconds": None,
            "context": "active",
        }
    ]
    (record,) = records("heartrate", reading, timezone="Europe/Berlin")
    assert record.local_date == date(2026, 11, 20)
    (sample,) = one_row(rows, "daily", [record])["heart_rate_detailed_hr_samples"]
    assert sample["local_timestamp"] == naive("2026-11-20T00:30:00")


def test_tags_are_in_local_time_by_the_name_they_have(rows: Any) -> None:
    def tag(**fields: object) -> dict[str, object]:
        bare = {"id": str(len(fields)) + str(fields), "start_day": "2026-11-19"}
        return {**bare, "start_time": "2026-11-19T08:00:00", **fields}

    found = records(
        "enhanced_tag",
        tag(tag_type_code="tag_generic_coffee", comment="two cups"),
        tag(tag_type_code="custom", custom_name="Sauna"),
        tag(tag_type_code=None, comment="slept badly"),
    )
    row = one_row(rows, "daily", found)
    told = {(t["tag_name"], t["notes"]) for t in row["tag_tags"]}
    assert told == {("tag_generic_coffee", "two cups"), ("Sauna", None), ("text", "slept badly")}
    assert {t["local_timestamp"] for t in row["tag_tags"]} == {naive("2026-11-19T08:00:00")}
    assert {t["timestamp"] for t in row["tag_tags"]} == {None}


def test_a_workout(rows: Any) -> None:
    workout = {
        "id": "w",
        "activity": "cycling",
        "calories": 212.5,
        "day": "2026-11-19",
        "distance": None,
        "start_datetime": "2026-11-19T17:00:00+01:00",
        "end_datetime": "2026-11-19T17:45:00+01:00",
        "intensity": "moderate",
        "label": "Home",
        "source": "confirmed",
    }
    row = one_row(rows, "activity", records("workout", workout))
    expected = {
        "metadata_summary_id": "w",
        "metadata_name": "Home",
        "metadata_type": "biking",
        "metadata_upload_type": "automatic",
        "start_at": at("2026-11-19T16:00:00+00:00"),
        "end_at": at("2026-11-19T16:45:00+00:00"),
        "calories_total_burned_calories": 212.5,
        "distance_summary_distance_meters": None,
    }
    assert {name: row[name] for name in expected} == expected
    by_hand = one_row(rows, "activity", records("workout", {**workout, "source": "manual"}))
    assert by_hand["metadata_upload_type"] == "manual"


@pytest.mark.parametrize(
    ("word", "kind"),
    [("running", "running"), ("strengthTraining", "strength_training"), ("snorkeling", "other")],
)
def test_words_for_activities(rows: Any, word: str, kind: str) -> None:
    workout = {
        "id": "w",
        "activity": word,
        "day": "2026-11-19",
        "start_datetime": "2026-11-19T17:00:00+01:00",
        "end_datetime": "2026-11-19T17:45:00+01:00",
        "intensity": "easy",
    }
    assert one_row(rows, "activity", records("workout", workout))["metadata_type"] == kind
    assert all(name == name.lower() for name in ACTIVITIES)


def test_a_session_of_breathing_is_an_activity_and_a_nap_is_not(rows: Any) -> None:
    session = {
        "id": "b",
        "day": "2026-11-19",
        "type": "breathing",
        "start_datetime": "2026-11-19T20:00:00+01:00",
        "end_datetime": "2026-11-19T20:10:00+01:00",
        "heart_rate": {
            "interval": 5.0,
            "items": [60, 61],
            "timestamp": "2026-11-19T20:00:00+01:00",
        },
    }
    row = one_row(rows, "activity", records("session", session))
    assert row["metadata_type"] == "guided_breathing"
    assert [s["bpm"] for s in row["heart_rate_detailed_hr_samples"]] == [60.0, 61.0]
    nap = records("session", {**session, "type": "nap"})
    assert rows("oura", "activity", nap).rows.is_empty()


@pytest.mark.parametrize(("height", "centimetres"), [(1.8, 180.0), (180, 180.0), (None, None)])
def test_weight_and_height_are_of_the_day_they_were_noticed(
    rows: Any, height: float | None, centimetres: float | None
) -> None:
    body = json.dumps({"id": "p", "age": 31, "weight": 74.8, "height": height}).encode()
    found = list(OURA.resource("personal_info").split(Page("personal_info", body, NOW)))
    row = one_row(rows, "body", found)
    (measured,) = row["measurements_measurements"]
    assert (measured["weight_kg"], measured["height_cm"]) == (74.8, centimetres)
    assert measured["measurement_time"] is None
    assert measured["local_measurement_time"] == naive("2026-11-20T00:00:00")


def test_a_person_who_told_only_a_weight_is_one_without_a_height(rows: Any) -> None:
    body = json.dumps({"id": "q", "age": None, "weight": 58, "biological_sex": "female"}).encode()
    seen = Page("personal_info", body, NOW, {"timezone": "Pacific/Kiritimati"})
    row = one_row(rows, "body", list(OURA.resource("personal_info").split(seen)))
    # Noon in UTC is two in the morning of the next day there.
    assert row["local_date"] == date(2026, 11, 21)
    (measured,) = row["measurements_measurements"]
    assert {name: value for name, value in measured.items() if value is not None} == {
        "local_measurement_time": naive("2026-11-21T00:00:00"),
        "weight_kg": 58.0,
    }


# --- fetching


def window(days: int = 0) -> Window:
    return Window(NOW.date() - timedelta(days=days), NOW.date(), NOW)


def answers_of(**of: object) -> Answers:
    return Answers({"data": [], "next_token": None}, of)


def pages_of(client_for: Any, answer: Any, state: dict[str, object] | None = None) -> list[Page]:
    return fetched_pages(fetch, client_for, answer, window(), state, absent=(403,))


def test_pages_are_followed_to_the_end_and_the_window_covers_every_clock(client_for: Any) -> None:
    answers = answers_of(
        sleep=[{"data": [NIGHT], "next_token": "more"}, {"data": [], "next_token": None}],
        personal_info={"id": "p", "weight": 70},
    )
    found = pages_of(client_for, answers)
    assert [page.resource for page in found].count("sleep") == 2
    first, second = answers.of_path("/sleep")
    assert first == {"start_date": "2026-11-20", "end_date": "2026-11-21"}
    assert second == {**first, "next_token": "more"}
    (heart,) = answers.of_path("/heartrate")
    assert heart == {
        "start_datetime": "2026-11-19T10:00:00+00:00",
        "end_datetime": "2026-11-21T12:00:00+00:00",
    }


def test_pages_that_turn_in_a_circle_fail_the_fetch(client_for: Any) -> None:
    answers = answers_of(sleep={"data": [NIGHT], "next_token": "again"}, personal_info={"id": "p"})
    with pytest.raises(BadPayloadError, match="repeat themselves"):
        pages_of(client_for, answers)


def test_a_collection_without_permission_is_left_out_and_the_others_are_read(
    client_for: Any,
) -> None:
    answers = answers_of(heartrate=httpx.Response(403), personal_info={"id": "p"})
    names = {page.resource for page in pages_of(client_for, answers)}
    assert "heartrate" not in names
    assert {"sleep", "daily_activity", "personal_info"} <= names


def test_a_lapsed_membership_is_an_error_and_no_empty_day(client_for: Any) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(403)

    with pytest.raises(PermanentError, match="membership"):
        pages_of(client_for, refuse)


def test_who_the_person_is_comes_only_when_it_changed(client_for: Any) -> None:
    state: dict[str, object] = {}

    def named(info: object) -> list[str]:
        answers = answers_of(personal_info=info)
        return [page.resource for page in pages_of(client_for, answers, state)]

    assert "personal_info" in named({"id": "p", "weight": 70})
    assert "personal_info" not in named({"id": "p", "weight": 70})
    assert "personal_info" in named({"id": "p", "weight": 71})


# --- bodies of unknown origin

DOCUMENTS: dict[str, dict[str, object]] = {
    "sleep": NIGHT,
    "daily_activity": ACTIVITY,
    "daily_readiness": {"id": "r", "day": "2026-11-19", "contributors": {"previous_night": 1}},
    "daily_sleep": {"id": "s", "day": "2026-11-19", "contributors": {"total_sleep": 1}},
    "daily_stress": {"id": "t", "day": "2026-11-19", "stress_high": 1, "recovery_high": 1},
    "daily_spo2": {"id": "o", "day": "2026-11-19", "spo2_percentage": None},
    "heartrate": {"bpm": 60, "source": "rest", "timestamp": "2026-11-19T10:00:00Z"},
}


@pytest.mark.parametrize("name", list(DOCUMENTS))
@pytest.mark.parametrize("form", FORMS)
def test_a_body_is_recognised_as_what_it_is_alone(name: str, form: str) -> None:
    whole = in_form(form, "data", DOCUMENTS[name])
    recognised = [r.name for r in OURA.resources if r.recognise and r.recognise(whole)]
    assert recognised == [name]
    found = inspect_body(OURA, json.dumps(whole).encode(), name="body", now=NOW)
    assert found.unknown_fields == []
    assert found.rejected == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"status":401,"title":"Unauthorized","detail":"no"}',
        b'{"detail":[{"msg":"invalid"}]}',
        b'{"event_type":"update","data_type":"sleep","object_id":"o","event_time":"t","user_id":"u"}',
        b"<html>",
        b'{"data":[{"id":"half"',
    ],
)
def test_what_is_no_documents_says_so(body: bytes) -> None:
    with pytest.raises((BadPayloadError, UsageError)):
        inspect_body(OURA, body, name="body", now=NOW)


# --- pushes


def event(**said: str) -> PushRequest:
    body = {
        "event_type": "update",
        "data_type": "sleep",
        "object_id": "o-1",
        "event_time": "2026-11-20T10:00:00Z",
        "user_id": "account",
        **said,
    }
    return PushRequest("POST", {}, {}, json.dumps(body).encode())


def test_what_events_say() -> None:
    assert list(read_push(event())) == [Changed("account")]
    assert list(read_push(event(event_type="create", data_type="vo2_max"))) == [Changed("account")]
    assert list(read_push(event(event_type="delete", data_type="vo2_max"))) == [
        Removed("account", "vO2_max", ("o-1",))
    ]
    assert list(read_push(event(data_type="fertile_window"))) == []
    with pytest.raises(BadPayloadError):
        list(read_push(PushRequest("POST", {}, {}, b"[]")))


def test_a_challenge_is_answered_only_with_a_secret_set() -> None:
    asked = PushRequest("GET", {}, {"verification_token": "", "challenge": "x"}, b"")
    refused = answer_challenge(asked, PushSecrets("a", "b", ""))
    assert refused is not None
    assert refused.status == 401
