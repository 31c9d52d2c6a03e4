"""WHOOP's records as rows; expected values are worked out by hand from the records below."""

import asyncio
import base64
import hashlib
import hmac
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from wearable_pipeline.connect import disconnect
from wearable_pipeline.errors import BadPayloadError, PermanentError, UsageError
from wearable_pipeline.model.enums import ACTIVITY_TYPE
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import (
    Changed,
    Page,
    PushRequest,
    PushSecrets,
    Record,
    Removed,
    TokenRequest,
    Window,
)
from wearable_pipeline.providers.whoop import (
    SPORTS,
    ask_to_stay,
    fetch,
    identify,
    read_push,
    revoke,
)
from wearable_pipeline.raw.push import RefusedError, check_proof, take_in
from wearable_pipeline.sandbox._oauth_server import CLIENT_SECRET
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.sandbox.whoop import PEOPLE
from wearable_pipeline.tables.inspect import inspect_body
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.moments import at, naive
from wearable_pipeline_tests.providers.oauth_cast import connected, contents, served
from wearable_pipeline_tests.providers.oauth_cast import fetch as fetch_user
from wearable_pipeline_tests.providers.paper_api import (
    FORMS,
    Answers,
    AtBase,
    fetched_pages,
    in_form,
)

WHOOP = get_provider("whoop")
NOW = datetime(2026, 11, 20, 18, tzinfo=UTC)
SLEEP_ID = "11111111-2222-4333-8444-555555555555"
STAMPS = {"created_at": "2026-11-20T11:40:00.000Z", "updated_at": "2026-11-20T11:45:00.000Z"}

# Asleep at 23:12 in New York, awake at 06:42.
SLEEP: dict[str, Any] = {
    "id": SLEEP_ID,
    "cycle_id": 501,
    "v1_id": None,
    "user_id": 77,
    **STAMPS,
    "start": "2026-11-20T04:12:00.338Z",
    "end": "2026-11-20T11:42:00.338Z",
    "timezone_offset": "-05:00",
    "nap": False,
    "score_state": "SCORED",
    "score": {
        "stage_summary": {
            "total_in_bed_time_milli": 27000000,
            "total_awake_time_milli": 1800500,
            "total_no_data_time_milli": 60000,
            "total_light_sleep_time_milli": 14000000,
            "total_slow_wave_sleep_time_milli": 6000000,
            "total_rem_sleep_time_milli": 5139500,
            "sleep_cycle_count": 4,
            "disturbance_count": 9,
        },
        "sleep_needed": {
            "baseline_milli": 27395716,
            "need_from_sleep_debt_milli": 352230,
            "need_from_recent_strain_milli": 208595,
            "need_from_recent_nap_milli": -12312,
        },
        "respiratory_rate": 16.11328125,
        "sleep_performance_percentage": 91.0,
        "sleep_consistency_percentage": 80.0,
        "sleep_efficiency_percentage": 93.25,
    },
}
CYCLE: dict[str, Any] = {
    "id": 501,
    "user_id": 77,
    **STAMPS,
    "start": "2026-11-20T04:12:00.338Z",
    "end": "2026-11-21T05:30:00.000Z",
    "timezone_offset": "-05:00",
    "score_state": "SCORED",
    "score": {
        "strain": 5.25,
        "kilojoule": 8368.0,
        "average_heart_rate": 68,
        "max_heart_rate": 141,
    },
}
RECOVERY: dict[str, Any] = {
    "cycle_id": 501,
    "sleep_id": SLEEP_ID,
    "user_id": 77,
    **STAMPS,
    "score_state": "SCORED",
    "score": {
        "user_calibrating": False,
        "recovery_score": 44.0,
        "resting_heart_rate": 64.0,
        "hrv_rmssd_milli": 31.813562,
        "spo2_percentage": 95.6875,
        "skin_temp_celsius": 33.7,
    },
}
WORKOUT: dict[str, Any] = {
    "id": "66666666-2222-4333-8444-555555555555",
    "v1_id": None,
    "user_id": 77,
    **STAMPS,
    "start": "2026-11-19T17:30:00.000Z",
    "end": "2026-11-19T18:15:30.000Z",
    "timezone_offset": "+05:30",
    "sport_name": "hiking-rucking",
    "sport_id": 52,
    "score_state": "SCORED",
    "score": {
        "strain": 8.2463,
        "average_heart_rate": 123,
        "max_heart_rate": 146,
        "kilojoule": 1046.0,
        "percent_recorded": 1.0,
        "distance_meter": 1772.5,
        "altitude_gain_meter": 46.5,
        "altitude_change_meter": -0.75,
        "zone_durations": {
            "zone_zero_milli": 300000,
            "zone_one_milli": 600500,
            "zone_two_milli": 0,
            "zone_three_milli": None,
            "zone_four_milli": 600000,
            "zone_five_milli": 1000,
        },
    },
}
# As `fetch` notes it from the sleeps it has read.
SLEPT = {
    f"sleep/{SLEEP_ID}": [SLEEP["end"], "-05:00"],
    "cycle/501": [SLEEP["end"], "-05:00"],
}


def records(resource: str, *items: object, **context: object) -> list[Record]:
    body = json.dumps({"records": items, "next_token": None}).encode()
    return list(WHOOP.resource(resource).split(Page(resource, body, NOW, context)))


def one_row(rows: Any, table: str, *found: list[Record]) -> dict[str, Any]:
    result = rows("whoop", table, *found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def test_a_night(rows: Any) -> None:
    row = one_row(rows, "sleep", records("sleep", SLEEP))
    expected = {
        "metadata_summary_id": SLEEP_ID,
        "metadata_is_nap": False,
        # The morning, not the evening it began.
        "local_date": date(2026, 11, 20),
        "start_at": at("2026-11-20T04:12:00.338+00:00"),
        "local_start_at": naive("2026-11-19T23:12:00.338"),
        "end_at": at("2026-11-20T11:42:00.338+00:00"),
        "local_end_at": naive("2026-11-20T06:42:00.338"),
        "utc_offset_seconds": -18000,
        "timezone": None,
        "tz_source": "provider",
        # 14000 + 6000 + 5139.5
        "sleep_durations_asleep_duration_asleep_state_seconds": 25139.5,
        "sleep_durations_asleep_duration_light_sleep_state_seconds": 14000.0,
        "sleep_durations_asleep_duration_deep_sleep_state_seconds": 6000.0,
        "sleep_durations_asleep_duration_rem_sleep_state_seconds": 5139.5,
        "sleep_durations_awake_duration_awake_state_seconds": 1800.5,
        "sleep_durations_awake_num_wakeup_events": 9,
        "sleep_durations_other_duration_in_bed_seconds": 27000.0,
        "sleep_durations_other_duration_unmeasurable_sleep_seconds": 60.0,
        "sleep_durations_sleep_efficiency": 93.25,
        "respiration_breaths_avg_breaths_per_min": 16.11328125,
        "scores_sleep": 91.0,
        # There are totals only.
        "sleep_durations_hypnogram_samples": None,
        "heart_rate_summary_avg_hr_bpm": None,
    }
    assert {name: row[name] for name in expected} == expected


def test_a_night_that_lies_on_one_date_in_utc_and_on_two_where_it_was_slept(rows: Any) -> None:
    stages = {
        "total_in_bed_time_milli": 27000000,
        "total_awake_time_milli": 1200000,
        "total_no_data_time_milli": 0,
        "total_light_sleep_time_milli": 13800000,
        "total_slow_wave_sleep_time_milli": 5400000,
        "total_rem_sleep_time_milli": 6600000,
        "disturbance_count": 0,
    }
    night = {
        **SLEEP,
        "start": "2026-11-19T14:10:00.000Z",
        "end": "2026-11-19T21:40:00.000Z",
        "timezone_offset": "+09:00",
        "score": {**SLEEP["score"], "stage_summary": stages, "sleep_performance_percentage": 88.0},
    }
    row = one_row(rows, "sleep", records("sleep", night))
    expected = {
        "local_date": date(2026, 11, 20),
        "local_start_at": naive("2026-11-19T23:10:00"),
        "local_end_at": naive("2026-11-20T06:40:00"),
        "utc_offset_seconds": 32400,
        # 13800 + 5400 + 6600
        "sleep_durations_asleep_duration_asleep_state_seconds": 25800.0,
        "sleep_durations_asleep_duration_light_sleep_state_seconds": 13800.0,
        "sleep_durations_asleep_duration_deep_sleep_state_seconds": 5400.0,
        "sleep_durations_asleep_duration_rem_sleep_state_seconds": 6600.0,
        "sleep_durations_awake_duration_awake_state_seconds": 1200.0,
        "sleep_durations_awake_num_wakeup_events": 0,
        "sleep_durations_other_duration_in_bed_seconds": 27000.0,
        "sleep_durations_other_duration_unmeasurable_sleep_seconds": 0.0,
        "scores_sleep": 88.0,
    }
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("state", ["PENDING_SCORE", "UNSCORABLE"])
@pytest.mark.parametrize("without", ["null", "absent"])
def test_a_night_without_a_score_is_a_row_of_nulls_not_zeros(
    rows: Any, state: str, without: str
) -> None:
    bare = {**SLEEP, "score_state": state, "score": None}
    if without == "absent":
        del bare["score"]
    row = one_row(rows, "sleep", records("sleep", bare))
    assert row["end_at"] - row["start_at"] == timedelta(hours=7, minutes=30)
    for name in (
        "sleep_durations_asleep_duration_asleep_state_seconds",
        "sleep_durations_other_duration_in_bed_seconds",
        "sleep_durations_awake_num_wakeup_events",
        "scores_sleep",
    ):
        assert row[name] is None, name
    assert rows("whoop", "daily", records("sleep", bare)).rows.is_empty()


def test_a_nap_has_a_row_and_no_say_in_the_day(rows: Any) -> None:
    nap = {**SLEEP, "nap": True}
    assert one_row(rows, "sleep", records("sleep", nap))["metadata_is_nap"] is True
    assert rows("whoop", "daily", records("sleep", nap)).rows.is_empty()


def test_a_day_is_a_cycle_with_its_recovery_and_the_score_of_its_night(rows: Any) -> None:
    found = [
        *records("cycle", CYCLE, slept=SLEPT),
        *records("recovery", RECOVERY, slept=SLEPT),
        *records("sleep", SLEEP),
    ]
    assert {record.local_date for record in found} == {date(2026, 11, 20)}
    row = one_row(rows, "daily", found)
    expected = {
        "local_date": date(2026, 11, 20),
        "start_at": at("2026-11-20T04:12:00.338+00:00"),
        "local_start_at": naive("2026-11-19T23:12:00.338"),
        "end_at": at("2026-11-21T05:30:00+00:00"),
        "local_end_at": naive("2026-11-21T00:30:00"),
        "utc_offset_seconds": -18000,
        "tz_source": "provider",
        "strain_strain_level": 5.25,
        # 8368 / 4.184
        "calories_total_burned_calories": 2000.0,
        "heart_rate_summary_avg_hr_bpm": 68.0,
        "heart_rate_summary_max_hr_bpm": 141.0,
        "heart_rate_summary_resting_hr_bpm": 64.0,
        "heart_rate_summary_avg_hrv_rmssd": 31.813562,
        "oxygen_avg_saturation_percentage": 95.6875,
        "scores_recovery": 44.0,
        "scores_sleep": 91.0,
        "scores_activity": None,
        "distance_steps": None,
    }
    assert {name: row[name] for name in expected} == expected


def test_the_skin_is_measured_until_the_person_wakes(rows: Any) -> None:
    row = one_row(rows, "body", records("recovery", RECOVERY, slept=SLEPT))
    assert row["temperature_skin_temperature_samples"] == [
        {
            "timestamp": at("2026-11-20T11:42:00.338+00:00"),
            "local_timestamp": naive("2026-11-20T06:42:00.338"),
            "temperature_celsius": 33.7,
        }
    ]
    old = {**RECOVERY["score"], "spo2_percentage": None}
    del old["skin_temp_celsius"]
    strap = records("recovery", {**RECOVERY, "score": old}, slept=SLEPT)
    assert rows("whoop", "body", strap).rows.is_empty()
    assert one_row(rows, "daily", strap)["oxygen_avg_saturation_percentage"] is None


def test_the_open_cycle_is_a_day_on_the_calendar_and_grows(rows: Any) -> None:
    cycle = {**CYCLE, "end": None}
    row = one_row(rows, "daily", records("cycle", cycle, slept=SLEPT))
    assert row["local_start_at"] == naive("2026-11-20T00:00:00")
    assert row["end_at"] == at("2026-11-21T05:00:00+00:00")
    assert row["calories_total_burned_calories"] == 2000.0
    later = {**CYCLE, "updated_at": "2026-11-21T06:00:00.000Z"}
    later["score"] = {**CYCLE["score"], "kilojoule": 10460.0}
    row = one_row(
        rows,
        "daily",
        records("cycle", cycle, slept=SLEPT),
        records("cycle", later, slept=SLEPT),
    )
    assert row["calories_total_burned_calories"] == 2500.0
    assert row["end_at"] == at("2026-11-21T05:30:00+00:00")


@pytest.mark.parametrize(
    ("start", "offset", "day"),
    [
        # 23:12 on the 19th and eight hours.
        ("2026-11-20T04:12:00.338Z", "-05:00", date(2026, 11, 20)),
        # 01:10 of the same day.
        ("2026-11-20T06:10:00.000Z", "-05:00", date(2026, 11, 20)),
        # 08:30 after a night's work.
        ("2026-11-20T08:30:00.000Z", "Z", date(2026, 11, 20)),
        # 22:30 in India.
        ("2026-11-19T17:00:00.000Z", "+05:30", date(2026, 11, 20)),
    ],
)
def test_a_cycle_whose_sleep_nobody_knows_is_of_the_morning_after(
    start: str, offset: str, day: date
) -> None:
    cycle = {**CYCLE, "start": start, "timezone_offset": offset}
    (record,) = records("cycle", cycle)
    assert (record.local_date, record.former_date) == (day, None)


def test_a_cycle_moves_when_its_sleep_says_otherwise() -> None:
    # Asleep at 15:30, awake at 23:00: eight hours would have ended the day after.
    cycle = {**CYCLE, "start": "2026-11-19T20:30:00.000Z"}
    slept = {"cycle/501": ["2026-11-20T04:00:00.000Z", "-05:00"]}
    (record,) = records("cycle", cycle, slept=slept)
    assert record.local_date == date(2026, 11, 19)
    assert record.former_date is None
    cycle = {**CYCLE, "start": "2026-11-19T21:30:00.000Z"}
    (record,) = records("cycle", cycle, slept=slept)
    assert (record.local_date, record.former_date) == (date(2026, 11, 19), date(2026, 11, 20))


def test_a_recovery_alone_is_of_the_moment_it_was_made_without_an_offset(rows: Any) -> None:
    (record,) = records("recovery", RECOVERY)
    assert record.record_id == SLEEP_ID
    row = one_row(rows, "daily", [record])
    assert row["local_date"] == date(2026, 11, 20)
    assert row["utc_offset_seconds"] is None
    assert row["tz_source"] == "unknown"
    assert row["scores_recovery"] == 44.0
    made = {**RECOVERY, "created_at": "2026-11-20T23:40:00.000Z"}
    assert records("recovery", made, timezone="Asia/Tokyo")[0].local_date == date(2026, 11, 21)


def test_an_offset_nobody_can_read_is_no_offset(rows: Any) -> None:
    for offset in (None, "EST", "-5"):
        night = {**SLEEP, "timezone_offset": offset}
        row = one_row(rows, "sleep", records("sleep", night))
        assert row["start_at"] == at("2026-11-20T04:12:00.338+00:00")
        assert row["local_start_at"] is None
        assert row["utc_offset_seconds"] is None
        assert row["tz_source"] == "unknown"


def test_the_offset_of_greenwich_is_an_offset(rows: Any) -> None:
    row = one_row(rows, "sleep", records("sleep", {**SLEEP, "timezone_offset": "Z"}))
    assert row["utc_offset_seconds"] == 0
    assert row["tz_source"] == "provider"


def test_a_workout(rows: Any) -> None:
    row = one_row(rows, "activity", records("workout", WORKOUT))
    expected = {
        "metadata_summary_id": "66666666-2222-4333-8444-555555555555",
        "metadata_type": "hiking",
        "metadata_upload_type": "unknown",
        "local_date": date(2026, 11, 19),
        "start_at": at("2026-11-19T17:30:00+00:00"),
        "local_start_at": naive("2026-11-19T23:00:00"),
        "local_end_at": naive("2026-11-19T23:45:30"),
        "utc_offset_seconds": 19800,
        "strain_strain_level": 8.2463,
        # 1046 / 4.184
        "calories_total_burned_calories": 250.0,
        "energy_energy_kilojoules": 1046.0,
        "distance_summary_distance_meters": 1772.5,
        "distance_summary_elevation_gain_actual_meters": 46.5,
        "heart_rate_summary_avg_hr_bpm": 123.0,
        "heart_rate_summary_max_hr_bpm": 146.0,
    }
    assert {name: row[name] for name in expected} == expected
    zones = [(z["zone"], z["duration_seconds"]) for z in row["heart_rate_summary_hr_zone"]]
    # Zone 3 was not told; zone 2 was, and was empty.
    assert zones == [(0, 300.0), (1, 600.5), (2, 0.0), (4, 600.0), (5, 1.0)]


def test_a_run_before_breakfast_in_tokyo(rows: Any) -> None:
    run = {
        **WORKOUT,
        "id": "77777777-2222-4333-8444-555555555555",
        "start": "2026-11-18T21:00:00.000Z",
        "end": "2026-11-18T21:42:10.500Z",
        "timezone_offset": "+09:00",
        "sport_name": "running",
        "score": {
            "strain": 11.5,
            "average_heart_rate": 151,
            "max_heart_rate": 172,
            "kilojoule": 1882.8,
            "distance_meter": 8000.0,
            "altitude_gain_meter": None,
            "zone_durations": {"zone_one_milli": 120000, "zone_five_milli": 30500},
        },
    }
    row = one_row(rows, "activity", records("workout", run))
    expected = {
        "metadata_type": "running",
        # Still the 18th in UTC.
        "local_date": date(2026, 11, 19),
        "local_start_at": naive("2026-11-19T06:00:00"),
        "local_end_at": naive("2026-11-19T06:42:10.500"),
        "utc_offset_seconds": 32400,
        "strain_strain_level": 11.5,
        # 1882.8 / 4.184
        "calories_total_burned_calories": pytest.approx(450.0),
        "energy_energy_kilojoules": 1882.8,
        "distance_summary_distance_meters": 8000.0,
        "distance_summary_elevation_gain_actual_meters": None,
        "heart_rate_summary_avg_hr_bpm": 151.0,
        "heart_rate_summary_max_hr_bpm": 172.0,
    }
    assert {name: row[name] for name in expected} == expected
    zones = [(z["zone"], z["duration_seconds"]) for z in row["heart_rate_summary_hr_zone"]]
    assert zones == [(1, 120.0), (5, 30.5)]


def test_a_workout_without_a_score_keeps_its_times(rows: Any) -> None:
    bare = {**WORKOUT, "score_state": "UNSCORABLE", "score": None}
    row = one_row(rows, "activity", records("workout", bare))
    assert row["end_at"] - row["start_at"] == timedelta(minutes=45, seconds=30)
    assert row["calories_total_burned_calories"] is None
    assert row["heart_rate_summary_hr_zone"] is None


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("running", "running"),
        ("weightlifting_msk", "weightlifting"),
        ("Ice Hockey", "hockey"),
        ("spikeball", "other"),
        (None, "unknown"),
    ],
)
def test_words_for_sports(rows: Any, word: str | None, kind: str) -> None:
    row = one_row(rows, "activity", records("workout", {**WORKOUT, "sport_name": word}))
    assert row["metadata_type"] == kind
    assert set(SPORTS.values()) <= set(ACTIVITY_TYPE.names.values())


def test_weight_height_and_highest_rate_are_of_the_day_they_were_noticed(rows: Any) -> None:
    body = b'{"height_meter": 1.8288, "weight_kilogram": 90.7185, "max_heart_rate": 200}'
    found = list(WHOOP.resource("body").split(Page("body", body, NOW)))
    row = one_row(rows, "body", found)
    (measured,) = row["measurements_measurements"]
    assert (measured["weight_kg"], measured["height_cm"]) == (90.7185, pytest.approx(182.88))
    assert measured["measurement_time"] is None
    assert measured["local_measurement_time"] == naive("2026-11-20T00:00:00")
    assert row["heart_heart_rate_summary_user_max_hr_bpm"] == 200.0
    assert row["tz_source"] == "unknown"


@pytest.mark.parametrize(
    ("resource", "good", "table"),
    [("sleep", SLEEP, "sleep"), ("workout", WORKOUT, "activity"), ("cycle", CYCLE, "daily")],
)
@pytest.mark.parametrize(
    "broken",
    [
        {"start": "yesterday"},
        {"start": None},
        {"end": "2026-11-18T00:00:00.000Z"},
        {"end": "never"},
        {"start": 17},
    ],
)
def test_one_broken_time_loses_that_record_only(
    rows: Any, resource: str, good: dict[str, Any], table: str, broken: dict[str, object]
) -> None:
    result = rows("whoop", table, records(resource, {**good, **broken, "id": "broken"}, good))
    assert result.rows.height == 1
    assert result.rejected["record_id"].unique().to_list() == ["broken"]


def test_a_corrected_night_replaces_the_old_one_whatever_comes_last(rows: Any) -> None:
    corrected = {**SLEEP, "updated_at": "2026-11-21T08:00:00.000Z"}
    corrected["score"] = {**SLEEP["score"], "sleep_performance_percentage": 95.0}
    first, second = records("sleep", SLEEP), records("sleep", corrected)
    assert one_row(rows, "sleep", first, second)["scores_sleep"] == 95.0
    assert one_row(rows, "sleep", second, first)["scores_sleep"] == 95.0


# --- fetching


def answers_of(**of: object) -> Answers:
    return Answers({"records": [], "next_token": None}, {"body": {}, **of})


def pages_of(client_for: Any, answer: Any, state: dict[str, object] | None = None) -> list[Page]:
    window = Window(date(2026, 11, 18), date(2026, 11, 20), NOW)
    return fetched_pages(fetch, client_for, answer, window, state, absent=(403,))


def test_pages_are_followed_and_days_are_those_of_the_sleeps(client_for: Any) -> None:
    nap = {**SLEEP, "id": "nap", "nap": True, "end": "2026-11-20T05:12:00.000Z"}
    answers = answers_of(
        sleep=[
            {"records": [SLEEP], "next_token": "more"},
            {"records": [nap]},
        ],
        cycle={"records": [CYCLE], "next_token": ""},
        recovery={"records": [RECOVERY], "next_token": None},
        workout={"records": []},
        body={"height_meter": 1.8, "weight_kilogram": 80, "max_heart_rate": 190},
    )
    found = pages_of(client_for, answers)
    assert [p.resource for p in found] == [
        *("sleep", "sleep", "cycle", "recovery", "workout", "body")
    ]
    first, second = answers.of_path("/activity/sleep")
    # A day, and fourteen hours; sleeps three days earlier than the cycles they belong to.
    assert first == {
        "limit": "25",
        "start": "2026-11-13T10:00:00.000Z",
        "end": "2026-11-20T18:00:00.000Z",
    }
    assert second == {**first, "nextToken": "more"}
    (cycles,) = answers.of_path("/cycle")
    assert cycles == {**first, "start": "2026-11-16T10:00:00.000Z"}
    made = {
        page.resource: list(WHOOP.resource(page.resource).split(page))
        for page in found
        if page.resource in ("cycle", "recovery")
    }
    assert made["cycle"][0].local_date == date(2026, 11, 20)
    assert made["recovery"][0].context == {
        "woke_at": "2026-11-20T11:42:00.338000+00:00",
        "timezone_offset": "-05:00",
    }


def test_pages_that_turn_in_a_circle_fail_the_fetch(client_for: Any) -> None:
    answers = answers_of(sleep={"records": [SLEEP], "next_token": "again"})
    with pytest.raises(BadPayloadError, match="repeat themselves"):
        pages_of(client_for, answers)


def test_a_collection_without_permission_is_left_out_and_the_others_are_read(
    client_for: Any,
) -> None:
    answers = answers_of(
        sleep=httpx.Response(403), cycle={"records": [CYCLE]}, body=httpx.Response(404)
    )
    names = [page.resource for page in pages_of(client_for, answers)]
    assert names == ["cycle", "recovery", "workout"]


def test_everything_refused_is_an_error_and_no_empty_day(client_for: Any) -> None:
    with pytest.raises(PermanentError, match="refused"):
        pages_of(client_for, lambda _: httpx.Response(403))


def test_a_membership_that_ended_is_told_from_a_permission_not_given() -> None:
    def first(body: bytes) -> str:
        return next(one.meaning for one in WHOOP.refusals if one.fits(403, body))

    assert first(b'{"error": "deactivated_user"}') == "permanent"
    assert first(b"{}") == "absent"


def test_measurements_come_only_when_they_changed(client_for: Any) -> None:
    state: dict[str, object] = {}

    def is_told(weight: float) -> bool:
        answers = answers_of(body={"height_meter": 1.8, "weight_kilogram": weight})
        return "body" in [page.resource for page in pages_of(client_for, answers, state)]

    assert [is_told(70), is_told(70), is_told(71)] == [True, False, True]


def test_the_account_is_named_as_events_name_it_and_access_can_be_given_back(
    client_for: Any,
) -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path))
        if request.method == "DELETE":
            return httpx.Response(204)
        return httpx.Response(200, json={"user_id": 77, "email": "a@example.org"})

    async def run() -> str:
        async with client_for(answer) as client:
            await revoke(AtBase(client), {})
            return (await identify(AtBase(client), {})).account_id

    assert asyncio.run(run()) == "77"
    assert asked == [("DELETE", "/v2/user/access"), ("GET", "/v2/user/profile/basic")]


def test_a_refresh_asks_for_the_next_refresh_token() -> None:
    refresh = ask_to_stay(TokenRequest("u", {"grant_type": "refresh_token"}, {}))
    assert refresh.form == {"grant_type": "refresh_token", "scope": "offline"}
    code = TokenRequest("u", {"grant_type": "authorization_code"}, {})
    assert ask_to_stay(code) is code


# --- bodies of unknown origin

RECORDS: dict[str, dict[str, Any]] = {
    "sleep": SLEEP,
    "cycle": CYCLE,
    "recovery": RECOVERY,
    "workout": WORKOUT,
}


@pytest.mark.parametrize("name", list(RECORDS))
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_scored", [True, False])
def test_a_body_is_recognised_as_what_it_is_alone(name: str, form: str, is_scored: bool) -> None:
    record = RECORDS[name]
    if not is_scored:
        record = {**record, "score_state": "PENDING_SCORE", "score": None}
    whole = in_form(form, "records", record)
    recognised = [r.name for r in WHOOP.resources if r.recognise and r.recognise(whole)]
    assert recognised == [name]
    found = inspect_body(WHOOP, json.dumps(whole).encode(), name="body", now=NOW)
    assert found.unknown_fields == []
    assert found.rejected == []


def test_fields_nobody_knows_are_named_and_harm_nobody() -> None:
    score = {**CYCLE["score"], "fresh": 1}
    body = json.dumps({"records": [{**CYCLE, "step_count": 4000, "score": score}]}).encode()
    found = inspect_body(WHOOP, body, name="body", now=NOW)
    assert found.unknown_fields == ["score.fresh", "step_count"]
    assert len(found.tables["daily"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"user_id":1,"id":"x","type":"sleep.updated","trace_id":"t"}',
        b'{"user_id":1,"email":"a@example.org","first_name":"A","last_name":"B"}',
        b'{"message":"Authorization was not valid"}',
        b'{"error":"invalid_grant"}',
        b'{"v2_activity_id":"x"}',
        b"<html>",
        b'{"records":[{"id":"half"',
        b'{"records":[],"next_token":null}',
    ],
)
def test_what_is_no_records_says_so(body: bytes) -> None:
    with pytest.raises((BadPayloadError, UsageError)):
        inspect_body(WHOOP, body, name="body", now=NOW)


# --- pushes


def event(**said: object) -> PushRequest:
    body = {"user_id": 77, "id": SLEEP_ID, "type": "sleep.updated", "trace_id": "t", **said}
    return PushRequest("POST", {}, {}, json.dumps(body).encode())


def test_what_events_say() -> None:
    assert list(read_push(event())) == [Changed("77")]
    assert list(read_push(event(type="recovery.updated", id=501))) == [Changed("77")]
    assert list(read_push(event(type="workout.deleted"))) == [Removed("77", "workout", (SLEEP_ID,))]
    # A recovery is known by the sleep it judges, and so is its end.
    assert list(read_push(event(type="recovery.deleted"))) == [
        Removed("77", "recovery", (records("recovery", RECOVERY)[0].record_id,))
    ]
    assert list(read_push(event(type="mood.updated"))) == []
    with pytest.raises(BadPayloadError):
        list(read_push(PushRequest("POST", {}, {}, b"[]")))


def test_an_event_is_proven_by_its_time_and_its_bytes() -> None:
    push = WHOOP.push
    assert push is not None
    secrets = PushSecrets("app", "hush", "")
    body = event().body
    stamp = str(int(NOW.timestamp() * 1000))
    told = hmac.new(b"hush", stamp.encode() + body, hashlib.sha256).digest()
    headers = {
        "x-whoop-signature": base64.b64encode(told).decode(),
        "x-whoop-signature-timestamp": stamp,
    }
    check_proof(push, PushRequest("POST", headers, {}, body), secrets, NOW)
    late = NOW + timedelta(seconds=301)
    with pytest.raises(RefusedError):
        check_proof(push, PushRequest("POST", headers, {}, body), secrets, late)
    with pytest.raises(RefusedError):
        check_proof(push, PushRequest("POST", headers, {}, body + b" "), secrets, NOW)


@pytest.mark.slow
def test_over_http_events_bring_and_take_nights_and_access_is_given_back(tmp_path: Path) -> None:
    clock = StandingClock(NOW)
    with SandboxProcess(now=NOW) as sandbox, served(tmp_path / "home", sandbox, clock) as there:
        workspace = there.workspace
        workspace.settings.providers["whoop"].requests_per_second = 1e4
        user = connected(there, "whoop", "juno")
        assert fetch_user(workspace, user).failures == {}
        before = contents(workspace, [user])
        # Every day has its cycle, its recovery and the score of its night.
        whole = ("strain_strain_level", "scores_recovery", "scores_sleep")
        days = [row for row in before["daily"] if all(row[name] is not None for name in whole)]
        assert len(days) >= 4

        def post(**said: object) -> int:
            body = event(user_id=PEOPLE["juno"].account_id, **said).body
            stamp = str(int(clock.at.timestamp() * 1000))
            told = hmac.digest(CLIENT_SECRET.encode(), stamp.encode() + body, "sha256")
            headers = {
                "x-whoop-signature": base64.b64encode(told).decode(),
                "x-whoop-signature-timestamp": stamp,
            }
            url = f"{there.url}/in/whoop"
            return httpx.post(url, content=body, headers=headers, trust_env=False).status_code

        later = clock.advance(minutes=1)
        assert workspace.registry.due_users(later, ["whoop"]) == []
        assert post() == 200
        report = take_in(workspace, WHOOP)
        assert report is not None
        assert (report.pushes, report.made_due, report.parked) == (1, 1, 0)

        night = [row for row in before["sleep"] if not row["metadata_is_nap"]][-1]
        gone = night["metadata_summary_id"]
        assert post(type="sleep.deleted", id=gone) == 200
        assert post(type="recovery.deleted", id=gone) == 200
        take_in(workspace, WHOOP)
        after = contents(workspace, [user])
        assert after["sleep"] == [row for row in before["sleep"] if row != night]
        (day,) = [row for row in after["daily"] if row["local_date"] == night["local_date"]]
        assert (day["scores_sleep"], day["scores_recovery"]) == (None, None)
        assert day["strain_strain_level"] is not None

        # The token has ended since.
        sandbox.set_clock(clock.advance(hours=2))
        disconnect(workspace, user, WHOOP)
        # Kept only where the provider could not be told.
        assert workspace.registry.load_credentials(user.user_id) == {}
