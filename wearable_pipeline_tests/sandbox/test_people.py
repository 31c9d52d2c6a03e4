import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from wearable_pipeline.sandbox import people
from wearable_pipeline.sandbox.people import DAY, HOUR, epoch, person, wall_clock

NOW = datetime(2026, 11, 20, 7, 0, tzinfo=UTC)
FOUR_WEEKS = timedelta(days=28)


def test_another_process_sees_the_same_people_and_readings() -> None:
    program = (
        "from datetime import UTC, datetime\n"
        "from wearable_pipeline.sandbox import people\n"
        "for who in people.cast():\n"
        "    now = people.epoch(datetime(2026, 11, 20, 7, tzinfo=UTC))\n"
        "    readings = people.readings(who, now - 86400, now)\n"
        "    import sys; sys.stdout.write(repr((who, readings)))\n"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    now = epoch(NOW)
    mine = "".join(repr((who, people.readings(who, now - DAY, now))) for who in people.cast())
    assert other.stdout.decode() == mine


def test_another_seed_makes_other_people() -> None:
    first, second = person("ada", 1), person("ada", 2)
    now = epoch(NOW)
    assert first.patient_id != second.patient_id
    assert people.readings(first, now - DAY, now) != people.readings(second, now - DAY, now)


def test_reading_in_pieces_gives_what_reading_at_once_gives() -> None:
    now = epoch(NOW)
    for who in people.cast():
        whole = people.readings(who, now - 3 * DAY, now)
        pieces = [
            reading
            for start in range(now - 3 * DAY, now, 5 * HOUR)
            for reading in people.readings(who, start, min(start + 5 * HOUR, now))
        ]
        assert pieces == whole


def test_libre_2_stores_every_fifteen_minutes_and_libre_3_every_five_with_seconds_of_jitter() -> (
    None
):
    now = epoch(NOW)
    steps = {
        name: {
            later.at - earlier.at
            for earlier, later in _neighbours(people.readings(person(name), now - 28 * DAY, now))
        }
        for name in ("ada", "cleo")
    }
    assert {step for step in steps["ada"] if step < 1800} == {900}
    assert {step for step in steps["cleo"] if step < 600} == {298, 299, 300, 301, 302}


def test_a_new_sensor_is_silent_for_an_hour_every_fourteen_days() -> None:
    who = person("cleo")
    activated = people.sensor_started_at(who, epoch(NOW))
    assert people.sensor_started_at(who, activated - 1) == activated - 14 * DAY
    assert people.sensor_serial(who, activated) != people.sensor_serial(who, activated - 1)
    assert people.readings(who, activated, activated + 3600) == []
    assert people.readings(who, activated - 6 * HOUR, activated)
    assert people.readings(who, activated + 3600, activated + 6 * HOUR)


def test_four_weeks_contain_highs_lows_corrections_late_and_lost_readings() -> None:
    now = epoch(NOW)
    for who in people.cast():
        readings = people.readings(who, now - 28 * DAY, now)
        assert {reading.out_of_range for reading in readings} == {"high", "low", None}
        assert any(reading.corrected_at for reading in readings)
        assert any(reading.available_at - reading.at > 30 * 60 for reading in readings)
        gaps = [
            later.at - earlier.at
            for earlier, later in _neighbours(readings)
            if later.at - earlier.at > 1.5 * who.step
        ]
        assert gaps
        in_range = sum(70 <= reading.mg_dl <= 180 for reading in readings) / len(readings)
        assert 0.7 < in_range < 0.99


def test_out_of_range_readings_show_the_limit_of_the_device() -> None:
    now = epoch(NOW)
    shown = {}
    for name in ("ada", "dag"):
        readings = people.readings(person(name), now - 28 * DAY, now)
        shown[name] = {(one.out_of_range, one.mg_dl) for one in readings if one.out_of_range}
    assert shown["ada"] == {("high", 500), ("low", 40)}
    assert shown["dag"] == {("high", 401), ("low", 39)}
    assert person("load-00001").region == "us"
    assert person("load-00001").limits == (40, 400)


def test_wall_clocks_follow_daylight_saving_time() -> None:
    # Europe/Berlin leaves summer time on 2026-10-25 at 01:00 UTC.
    who = person("ada")
    change = epoch(datetime(2026, 10, 25, 1, 0, tzinfo=UTC))
    assert wall_clock(who, change - 1) == datetime(2026, 10, 25, 2, 59, 59)  # noqa: DTZ001
    assert wall_clock(who, change) == datetime(2026, 10, 25, 2, 0, 0)  # noqa: DTZ001


def test_half_hour_zones_keep_their_half_hour() -> None:
    assert people.offset_at(person("bo"), epoch(NOW)) == 19800
    # Adelaide is on summer time in November (+10:30) and not in June (+9:30).
    assert people.offset_at(person("esi"), epoch(NOW)) == 37800
    winter = datetime(2026, 6, 1, tzinfo=UTC)
    assert people.offset_at(person("esi"), epoch(winter)) == 34200


def test_the_traveller_changes_zone_on_a_wednesday_and_comes_back_on_saturday() -> None:
    who = person("cleo")
    zones = {}
    for week in (2, 9):  # Mondays 2026-11-02 and 2026-11-09, one of them at home
        monday = datetime(2026, 11, week, tzinfo=UTC)
        zones[week] = [
            people.zone_at(who, epoch(monday + timedelta(days=days, hours=hours)))
            for days, hours in ((2, 14), (2, 15), (5, 8), (5, 9))
        ]
    home, away = "Europe/London", "America/New_York"
    assert sorted(zones.values()) == sorted([[home, away, away, home], [home] * 4])


def test_the_graph_never_shows_a_reading_before_it_is_available() -> None:
    for name in ("ada", "cleo", "load-00007"):
        who = person(name)
        for hours in range(0, 14 * 24, 5):
            now = epoch(NOW) - hours * HOUR
            shown = people.graph(who, now)
            assert all(reading.available_at <= now for reading in shown)
            assert all(now - 12 * HOUR <= reading.at <= now - 17 * 60 for reading in shown)


def test_readings_of_a_lost_connection_appear_when_it_is_over() -> None:
    who = person("cleo")
    pause = next(
        pause
        for pause in people.pauses_between(who, epoch(NOW) - 14 * DAY, epoch(NOW))
        if not pause.is_lost and pause.end - pause.start > 40 * 60
    )
    start, end = people.moment(pause.start), people.moment(pause.end)
    assert people.truth(who, start, end, end) == set()
    assert len(people.truth(who, start, end, end + timedelta(minutes=20))) >= 5
    during = pause.start + 30 * 60
    before = people.current(who, during)
    assert before is not None
    assert before < pause.start


def test_a_corrected_reading_changes_after_its_time_and_not_before() -> None:
    for name, wait in (("ada", timedelta(hours=2)), ("dag", timedelta(days=1))):
        who = person(name)
        reading = next(
            reading
            for reading in people.readings(who, epoch(NOW) - 10 * DAY, epoch(NOW))
            if reading.corrected_at is not None
        )
        at = people.moment(reading.at)
        changes = people.moment(reading.available_at) + wait
        second = timedelta(seconds=1)
        before = people.truth(who, at, at + second, changes - second)
        after = people.truth(who, at, at + second, changes)
        assert before == {(at, reading.mg_dl)}
        assert after == {(at, reading.mg_dl + 17)}


def test_a_nightscout_entry_made_by_mistake_disappears() -> None:
    who = person("dag")
    mistake = next(
        reading
        for reading in people.readings(who, epoch(NOW) - 10 * DAY, epoch(NOW))
        if reading.deleted_at is not None
    )
    at = people.moment(mistake.at)
    span = (at, at + timedelta(seconds=1))
    assert people.truth(who, *span, at + timedelta(minutes=94)) == {(at, 47)}
    assert people.truth(who, *span, at + timedelta(minutes=95)) == set()


def test_polling_every_five_minutes_learns_every_stored_reading() -> None:
    for name in ("ada", "cleo"):
        who = person(name)
        polls = [NOW + timedelta(minutes=5 * number) for number in range(24 * 12)]
        known = people.polled(who, polls)
        stored = people.truth(who, NOW, NOW + timedelta(hours=20), polls[-1])
        assert stored
        assert all(known[instant] == value for instant, value in stored)


def test_mmol_is_shown_as_abbott_shows_it() -> None:
    # 181 / 18 = 10.06, 197 / 18 = 10.94, 159 / 18 = 8.83, 180 / 18 = 10
    assert [people.display(value, 0) for value in (181, 197, 159, 180)] == [10.1, 10.9, 8.8, 10]
    assert people.display(181, 1) == 181


def test_load_people_exist_for_both_providers_and_strangers_for_none() -> None:
    assert person("load-00042").device == "libre2"
    assert person("load-00041").device == "libre3"
    assert person("load-00042", source="nightscout").device == "dexcom"
    assert people.account("load-00042@sandbox.invalid").follows == ("load-00042",)
    with pytest.raises(KeyError):
        person("mallory")
    with pytest.raises(KeyError):
        people.account("dag@sandbox.invalid")
    with pytest.raises(KeyError):
        people.account("ada@example.com")


def test_instants_without_a_zone_are_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        epoch(datetime(2026, 11, 20))  # noqa: DTZ001


def test_a_european_export_is_what_libreview_writes() -> None:
    who = person("finn")
    body = people.libreview_csv(who, NOW - FOUR_WEEKS, NOW).decode()
    lines = body.split("\r\n")
    assert lines[0] == (
        "Glucose Data,Generated on,20-11-2026 07:00 UTC,Generated by,Sandbox Person finn"
    )
    header = lines[1].split(",")
    assert len(header) == 19
    assert header[:6] == [
        "Device",
        "Serial Number",
        "Device Timestamp",
        "Record Type",
        "Historic Glucose mmol/L",
        "Scan Glucose mmol/L",
    ]
    assert header[12] == "Long-Acting Insulin Value (units)"
    assert lines[-1] == ""
    rows = lines[2:-1]
    kinds = [row.split(",")[3] for row in rows]
    assert kinds == sorted(kinds)
    assert set(kinds) == {"0", "1", "2", "3", "4", "5", "6"}
    historic = [row.split(",") for row in rows if row.split(",")[3] == "0"]
    expected = sorted(
        (wall_clock(who, epoch(instant)).strftime("%d-%m-%Y %H:%M"), people.display(value, 0))
        for instant, value in people.truth(who, NOW - FOUR_WEEKS, NOW, NOW)
    )
    assert sorted((row[2], float(row[4])) for row in historic) == expected
    assert '"Walk, then tea"' in body


def test_an_american_export_uses_mg_dl_and_the_twelve_hour_clock() -> None:
    body = people.libreview_csv(person("finn"), NOW - FOUR_WEEKS, NOW, "mg/dL", "us").decode()
    lines = body.split("\r\n")
    assert lines[0].startswith("Glucose Data,Generated on,11-20-2026 07:00 AM UTC,")
    assert "Historic Glucose mg/dL" in lines[1]
    assert "Long-Acting Insulin (units)" in lines[1]
    assert lines[2].split(",")[2][-2:] in ("AM", "PM")
    assert lines[2].split(",")[4].isdigit()


def test_an_export_repeats_the_hour_the_clocks_go_back() -> None:
    # Madrid leaves summer time on 2026-10-25 at 01:00 UTC: the hour from 02:00 happens twice.
    who = person("finn")
    start = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)
    body = people.libreview_csv(who, start, start + timedelta(hours=10)).decode()
    rows = [line.split(",") for line in body.split("\r\n")[2:-1]]
    hours = [row[2][11:13] for row in rows if row[3] == "0"]
    instants = people.readings(who, epoch(start), epoch(start) + 2 * HOUR)
    # One hour alone holds four readings.
    assert hours.count("02") == len(instants) > 4


def _neighbours(
    readings: list[people.Reading],
) -> list[tuple[people.Reading, people.Reading]]:
    return list(pairwise(readings))
