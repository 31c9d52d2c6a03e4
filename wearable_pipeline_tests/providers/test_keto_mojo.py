"""Keto-Mojo's readings as rows; expected values are worked out by hand from the readings below.

Every body here is invented after the documented contract: no answer of the service has been published.
"""

import asyncio
import io
import json
import zipfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import httpx
import pytest
from pydantic import SecretStr

from wearable_pipeline.connect import connect, disconnect
from wearable_pipeline.errors import BadPayloadError, NotConnectedError, UsageError
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Connection, ImportOptions, Page, Record, Window
from wearable_pipeline.providers._oauth import app_of, authorization_address
from wearable_pipeline.providers.keto_mojo import fetch, identify
from wearable_pipeline.raw.files import import_file
from wearable_pipeline.raw.store import latest_revisions
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import ProviderSettings
from wearable_pipeline.tables.inspect import inspect_body
from wearable_pipeline.tables.normalize import normalize
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.moments import at, naive
from wearable_pipeline_tests.providers.oauth_cast import connected, served
from wearable_pipeline_tests.providers.oauth_cast import fetch as poll_once

KETO_MOJO = get_provider("keto_mojo")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
GLUCOSE = "glucose_blood_glucose_samples"
KETONE = "ketone_ketone_samples"
OTHERS = "measurements_measurements"

READING: dict[str, Any] = {
    "reading_id": "0b6d",
    "reading_type": "glucose",
    "reading_value": "90",
    "reading_unit": "mgdl",
    "reading_sample_type": "blood",
    "reading_timestamp": "2026-11-19T23:30:00.250-06:00",
    "source": "device",
    "has_device_calculated_gki": False,
    "meter_type": "gk+_meter",
    "serial_number": "KM0001",
    "device_id": "phone-1",
    "client_updated_at": "2026-11-20T06:00:00.000Z",
    "notes": "",
}
KETONES = {
    **READING,
    "reading_id": "0b6e",
    "reading_type": "ketone",
    "reading_value": "1.5",
    "reading_unit": "mmoll",
    "reading_timestamp": "2026-11-19T23:32:00.000-06:00",
}
INDEX = {
    **KETONES,
    "reading_id": "0b6f",
    "reading_type": "glucose_ketone_index",
    "reading_value": "3.3",
    "reading_unit": "",
    "source": "device_calculated_gki",
    "has_device_calculated_gki": True,
}


def records(*found: object, timezone: str | None = None) -> list[Record]:
    body = json.dumps(found).encode()
    page = Page("readings", body, NOW, {"timezone": timezone})
    return list(KETO_MOJO.resource("readings").split(page))


def one_row(rows: Any, found: list[Record]) -> dict[str, Any]:
    result = rows("keto_mojo", "body", found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def test_glucose_ketone_and_the_index_the_meter_sent(rows: Any) -> None:
    row = one_row(rows, records(READING, KETONES, INDEX))
    expected = {
        # Half past eleven at night in Chicago.
        "local_date": date(2026, 11, 19),
        "utc_offset_seconds": -21600,
        "timezone": None,
        "tz_source": "provider",
        "device_manufacturer": "Keto-Mojo",
        "device_name": "gk+_meter",
        "device_serial_number": "KM0001",
    }
    assert {name: row[name] for name in expected} == expected
    (glucose,) = row[GLUCOSE]
    assert glucose == {
        "timestamp": at("2026-11-20T05:30:00.250+00:00"),
        "local_timestamp": naive("2026-11-19T23:30:00.250"),
        "blood_glucose_mg_per_dl": 90.0,
        "glucose_level_flag": None,
        "trend_arrow": None,
        "native_value": 90.0,
        "native_unit": "mg/dL",
        "sample_kind": "fingerstick",
        "out_of_range": None,
        "native_trend": None,
        "sensor_status": None,
        "device_id": "KM0001",
        "occurrence": None,
    }
    (ketone,) = row[KETONE]
    assert ketone == {
        "timestamp": at("2026-11-20T05:32:00+00:00"),
        "local_timestamp": naive("2026-11-19T23:32:00"),
        # 1.5 mmol/L of 104.1 g/mol.
        "ketone_mg_per_dl": pytest.approx(15.615),
        "sample_type": "blood",
        "native_value": 1.5,
        "native_unit": "mmol/L",
        "device_id": "KM0001",
        "occurrence": None,
    }
    (index,) = row[OTHERS]
    told = {name: value for name, value in index.items() if value is not None}
    assert told == {
        "measurement_time": at("2026-11-20T05:32:00+00:00"),
        "local_measurement_time": naive("2026-11-19T23:32:00"),
        "native_value": 3.3,
        "native_unit": "{glucose_ketone_index}",
        "device_id": "KM0001",
    }


def test_without_an_index_sent_there_is_none(rows: Any) -> None:
    row = one_row(rows, records(READING, KETONES))
    assert row[OTHERS] is None


def test_glucose_in_mmol_is_converted_once_and_a_number_needs_no_quotes(rows: Any) -> None:
    row = one_row(rows, records({**READING, "reading_value": 5.0, "reading_unit": "mmoll"}))
    (sample,) = row[GLUCOSE]
    # 5 mmol/L of 180.156 g/mol.
    assert sample["blood_glucose_mg_per_dl"] == pytest.approx(90.078)
    assert (sample["native_value"], sample["native_unit"]) == (5.0, "mmol/L")


def test_a_value_without_a_unit_is_kept_as_sent_and_not_converted(rows: Any) -> None:
    row = one_row(rows, records({**READING, "reading_unit": ""}))
    (sample,) = row[GLUCOSE]
    assert (sample["native_value"], sample["native_unit"]) == (90.0, None)
    assert sample["blood_glucose_mg_per_dl"] is None


def test_a_note_is_kept_beside_its_reading(rows: Any) -> None:
    row = one_row(rows, records({**READING, "notes": " felt tired "}))
    (noted,) = row[OTHERS]
    assert noted["user_notes"] == "felt tired"
    assert noted["measurement_time"] == at("2026-11-20T05:30:00.250+00:00")
    assert noted["native_value"] is None


def test_ketones_of_zero_are_a_reading(rows: Any) -> None:
    (sample,) = one_row(rows, records({**KETONES, "reading_value": "0.0"}))[KETONE]
    assert (sample["ketone_mg_per_dl"], sample["native_value"]) == (0.0, 0.0)


@pytest.mark.parametrize("kind", ["hemoglobin", "hematocrit", "dbr"])
def test_what_has_no_column_stays_in_raw_and_is_no_error(rows: Any, kind: str) -> None:
    found = records({**READING, "reading_type": kind, "reading_unit": ""}, READING)
    assert len(found) == 2
    row = one_row(rows, found)
    assert len(row[GLUCOSE]) == 1
    assert (row[KETONE], row[OTHERS]) == (None, None)
    alone = rows("keto_mojo", "body", found[:1])
    assert alone.rows.is_empty()
    assert alone.rejected.is_empty()


@pytest.mark.parametrize(
    ("stamp", "timezone", "instant", "local", "zone", "source"),
    [
        ("2026-11-19T08:00:00.000+01:00", None, "07:00", "08:00", None, "provider"),
        ("2026-11-19T08:00+0100", "Asia/Tokyo", "07:00", "08:00", None, "provider"),
        ("2026-11-19T07:00:00.000Z", None, "07:00", None, None, "unknown"),
        ("2026-11-19T07:00:00Z", "Europe/Berlin", "07:00", "08:00", "Europe/Berlin", "profile"),
        ("2026-11-19T08:00:00", None, None, "08:00", None, "unknown"),
        ("2026-11-19 08:00:00", "Europe/Berlin", "07:00", "08:00", "Europe/Berlin", "profile"),
    ],
)
def test_where_the_meter_was(
    rows: Any,
    stamp: str,
    timezone: str | None,
    instant: str | None,
    local: str | None,
    zone: str | None,
    source: str,
) -> None:
    row = one_row(rows, records({**READING, "reading_timestamp": stamp}, timezone=timezone))
    (sample,) = row[GLUCOSE]
    assert sample["timestamp"] == (at(f"2026-11-19T{instant}:00+00:00") if instant else None)
    assert sample["local_timestamp"] == (naive(f"2026-11-19T{local}:00") if local else None)
    assert (row["local_date"], row["timezone"], row["tz_source"]) == (
        date(2026, 11, 19), zone, source,
    )  # fmt: skip


def test_a_zone_beside_the_time_says_where_it_was(rows: Any) -> None:
    told = {"reading_timestamp": "2026-11-20T05:30:00Z", "reading_timezone": "America/Chicago"}
    row = one_row(rows, records({**READING, **told}, timezone="Europe/Berlin"))
    assert (row["local_date"], row["timezone"], row["tz_source"]) == (
        date(2026, 11, 19), "America/Chicago", "provider",
    )  # fmt: skip
    assert row[GLUCOSE][0]["local_timestamp"] == naive("2026-11-19T23:30:00")
    unknown = {**told, "reading_timezone": "Mars/Olympus"}
    row = one_row(rows, records({**READING, **unknown}))
    assert (row["timezone"], row["tz_source"]) == (None, "unknown")


def test_an_hour_that_came_twice_has_two_readings(rows: Any) -> None:
    row = one_row(
        rows,
        records(
            {**READING, "reading_timestamp": "2026-10-25T02:30:00.000+02:00"},
            {**READING, "reading_timestamp": "2026-10-25T02:30:00.000+01:00"},
        ),
    )
    assert [sample["timestamp"] for sample in row[GLUCOSE]] == [
        at("2026-10-25T00:30:00+00:00"),
        at("2026-10-25T01:30:00+00:00"),
    ]


def test_the_same_reading_again_is_one_however_it_is_written() -> None:
    again = {
        **READING,
        "reading_id": "other",
        "reading_value": 90,
        "reading_timestamp": "2026-11-20T05:30:00.250Z",
        "notes": "later",
    }
    (first,), (second,) = records(READING), records(again)
    assert first.record_id == second.record_id
    others = [
        {**READING, "reading_value": "91"},
        {**READING, "serial_number": "KM0002"},
        {**READING, "reading_type": "ketone"},
        {**READING, "reading_timestamp": "2026-11-19T23:31:00.250-06:00"},
    ]
    assert len({record.record_id for record in records(READING, *others)}) == 5
    # A value is nobody's business where ids are shown.
    assert "90" not in first.record_id.split("/")


def test_a_note_added_later_is_a_change_of_the_reading(rows: Any) -> None:
    noted = {**READING, "notes": "late", "client_updated_at": "2026-11-20T07:00:00.000Z"}
    (first,), (second,) = records(READING), records(noted)
    assert first.provider_updated_at == at("2026-11-20T06:00:00+00:00")
    assert second.provider_updated_at == at("2026-11-20T07:00:00+00:00")
    (row,) = rows("keto_mojo", "body", [first], [second]).rows.to_dicts()
    assert len(row[GLUCOSE]) == 1
    assert row[OTHERS][0]["user_notes"] == "late"


def test_two_values_of_one_minute_are_both_kept_in_whatever_order_they_come(rows: Any) -> None:
    pair = ({**READING, "reading_value": "97"}, {**READING, "reading_value": "94"})
    for found in (records(*pair), records(*reversed(pair))):
        samples = one_row(rows, found)[GLUCOSE]
        told = {sample["native_value"]: sample["occurrence"] for sample in samples}
        assert told == {94.0: None, 97.0: 2}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"reading_timestamp": "2026-13-45T99:00:00.000Z"}, "reading_timestamp: no time"),
        ({"reading_timestamp": None}, "reading_timestamp: no time"),
        ({"reading_timestamp": "9999-12-31T23:59:59-12:00"}, "reading_timestamp: no time"),
        ({"reading_value": "HI"}, "reading_value"),
        ({"reading_value": None}, "reading_value: missing"),
        ({"reading_unit": "ounces"}, "reading_unit"),
        ({"reading_type": "lactate"}, "reading_type: not one we know"),
        ({"reading_type": None}, "reading_type: missing"),
    ],
)
def test_a_broken_reading_is_quarantined_and_the_next_one_kept(
    rows: Any, broken: dict[str, Any], reason: str
) -> None:
    result = rows("keto_mojo", "body", records({**READING, **broken}, KETONES))
    (told,) = result.rejected["reason"].to_list()
    assert reason in told
    (row,) = result.rows.to_dicts()
    assert len(row[KETONE]) == 1
    assert row[GLUCOSE] is None


# --- fetching


class Api:
    """Readings by their instant; remembers what was asked for."""

    def __init__(self, found: list[dict[str, Any]], status: int = 200) -> None:
        self.found = found
        self.status = status
        self.asked: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/v1/readings"
        asked = dict(request.url.params)
        self.asked.append(asked)
        if self.status != 200:
            return httpx.Response(self.status, json={"error": "invalid_token"})
        there = [
            one
            for one in self.found
            if at(asked.get("from_date", "2000-01-01T00:00:00Z"))
            <= at(one["reading_timestamp"])
            <= at(asked.get("to_date", "2099-01-01T00:00:00Z"))
        ]
        return httpx.Response(200, json=there[: int(asked["page_size"])])


class AtBase:
    """A client for paths."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def request(self, method: str, url: str, **more: Any) -> Any:
        return await self.client.request(method, f"https://api.example{url}", **more)


def fetched(client_for: Any, api: Api, window: Window) -> list[Page]:
    async def run() -> list[Page]:
        async with client_for(api) as client:
            connection = Connection("u", {}, {}, {}, None, lambda: None)
            return [page async for page in fetch(AtBase(client), connection, window)]

    return asyncio.run(run())


def test_the_window_covers_every_clock_and_is_asked_for_in_utc(client_for: Any) -> None:
    api = Api([READING])
    (page,) = fetched(client_for, api, Window(date(2026, 11, 19), date(2026, 11, 19), NOW))
    assert api.asked == [
        {
            "from_date": "2026-11-18T10:00:00.000Z",
            "to_date": "2026-11-20T12:00:00.000Z",
            "page_size": "100",
            "scroll": "true",
        }
    ]
    assert json.loads(page.body) == [READING]


def test_a_page_that_is_full_is_asked_for_in_halves_until_none_is(client_for: Any) -> None:
    # One every ten minutes for two days.
    taken = [
        {
            **READING,
            "reading_timestamp": f"{at('2026-11-18T10:00:00+00:00') + n * step:%Y-%m-%dT%H:%M:%SZ}",
        }
        for step in [timedelta(minutes=10)]
        for n in range(300)
    ]
    api = Api(taken)
    pages = fetched(client_for, api, Window(date(2026, 11, 19), date(2026, 11, 19), NOW))
    found = {
        record.record_id for page in pages for record in KETO_MOJO.resource("readings").split(page)
    }
    assert len(found) == 300
    # 50 hours; 25 with 150 each; 12.5 with 75 each. The newest come first.
    assert len(api.asked) == 7
    newest = [max(one["reading_timestamp"] for one in json.loads(page.body)) for page in pages]
    assert newest == sorted(newest, reverse=True)


def test_a_server_that_ignores_the_dates_fails_the_fetch(client_for: Any) -> None:
    class Deaf(Api):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            self.asked.append({})
            return httpx.Response(200, json=[READING] * 100)

    api = Deaf([])
    with pytest.raises(BadPayloadError, match="fills a page"):
        fetched(client_for, api, Window(date(2026, 11, 1), date(2026, 11, 19), NOW))
    assert len(api.asked) < 20


def test_who_it_is_when_the_token_says_so_and_nobody_else_when_it_does_not(client_for: Any) -> None:
    async def run(granted: dict[str, object], api: Api) -> str:
        async with client_for(api) as client:
            return (await identify(AtBase(client), granted)).account_id

    assert asyncio.run(run({"user_id": "u-1"}, Api([]))) == "u-1"
    assert asyncio.run(run({"user": {"id": 7}}, Api([]))) == "7"
    nameless = [asyncio.run(run({"scope": "readings:retrieve"}, Api([]))) for _ in range(2)]
    assert nameless[0] != nameless[1]
    with pytest.raises(NotConnectedError, match="permission to read"):
        asyncio.run(run({"user_id": "u-1"}, Api([], status=403)))


def test_people_are_sent_to_the_documented_address_with_pkce() -> None:
    app = app_of(KETO_MOJO, ProviderSettings(client_id="our-app", client_secret=SecretStr("hush")))
    address = urlsplit(authorization_address(app, "https://ours.invalid/back", "state", "verifier"))
    assert f"{address.scheme}://{address.netloc}{address.path}" == (
        "https://auth.us.mymojohealth.com/oauth/authorize"
    )
    asked = {name: value for name, (value,) in parse_qs(address.query).items()}
    # The digest of "verifier", in base64 for addresses.
    assert asked == {
        "response_type": "code",
        "client_id": "our-app",
        "redirect_uri": "https://ours.invalid/back",
        "scope": "readings:retrieve users:profile:retrieve",
        "state": "state",
        "code_challenge": "iMnq5o6zALKXGivsnlom_0F5_WYda32GHkxlV7mq7hQ",
        "code_challenge_method": "S256",
    }


@pytest.mark.slow
def test_disconnecting_gives_the_permission_back(tmp_path: Path, clock: StandingClock) -> None:
    clock.at = NOW
    with SandboxProcess(now=NOW) as running, served(tmp_path, running, clock) as there:
        user = connected(there, "keto_mojo", "mila")
        assert poll_once(there.workspace, user, 1).failures == {}
        kept = there.workspace.registry.load_credentials(user.user_id)
        assert disconnect(there.workspace, user, KETO_MOJO).status == "disconnected"
        answer = httpx.get(
            f"{running.url}/keto_mojo/api/v1/readings",
            headers={"authorization": f"Bearer {kept['access_token']}"},
            trust_env=False,
        )
        assert answer.status_code == 403
        assert there.workspace.registry.load_credentials(user.user_id) == {}


# --- files

APP_CSV = (
    "type,value,unit,date,time\r\n"
    "Glucose,94,mg/dL,11/09/26,07:05 AM\r\n"
    "Ketone,1.2,mmol/L,11/09/26,07:07 AM\r\n"
    "Hematocrit,41,%,11/09/26,07:05 AM\r\n"
    "Glucose,5.0,mmol/L,11/19/26,11:30 PM\r\n"
)
TITLE = "MyMojoHealth readings\r\nsomebody\r\n\r\n"
HEADER = "reading_id,reading_timestamp,reading_type,reading_value,reading_unit,serial_number,notes"


def imported(content: bytes, name: str = "export.csv", **options: Any) -> list[Record]:
    (importer,) = [one for one in KETO_MOJO.importers if one.recognise(content[:65536])]
    stream = io.BytesIO(content)
    stream.name = name
    return [record for batch in importer.read(stream, ImportOptions(**options)) for record in batch]


def by_day(rows: Any, found: list[Record]) -> dict[date, dict[str, Any]]:
    result = rows("keto_mojo", "body", found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    return {row["local_date"]: row for row in result.rows.to_dicts()}


def test_the_apps_csv_is_month_first_and_has_no_zone(rows: Any) -> None:
    found = imported(APP_CSV.encode())
    assert found[0].body == b"Glucose,94,mg/dL,11/09/26,07:05 AM"
    days = by_day(rows, found)
    assert set(days) == {date(2026, 11, 9), date(2026, 11, 19)}
    (morning,) = days[date(2026, 11, 9)][GLUCOSE]
    assert (morning["timestamp"], morning["local_timestamp"]) == (None, naive("2026-11-09T07:05"))
    assert (morning["blood_glucose_mg_per_dl"], morning["native_unit"]) == (94.0, "mg/dL")
    (ketone,) = days[date(2026, 11, 9)][KETONE]
    assert ketone["ketone_mg_per_dl"] == pytest.approx(12.492)
    # The meters take nothing else, and the API says so of its readings.
    assert ketone["sample_type"] == "blood"
    assert days[date(2026, 11, 9)]["tz_source"] == "unknown"
    assert days[date(2026, 11, 9)]["device_manufacturer"] == "Keto-Mojo"
    (night,) = days[date(2026, 11, 19)][GLUCOSE]
    assert night["local_timestamp"] == naive("2026-11-19T23:30")
    assert night["blood_glucose_mg_per_dl"] == pytest.approx(90.078)


def test_a_reading_of_the_api_and_of_a_file_is_one_where_both_tell_the_same_time(rows: Any) -> None:
    from_api = records({**READING, "reading_timestamp": "2026-11-19T23:30:00.000-06:00"}, KETONES)
    from_file = imported(
        b"type,value,unit,date,time\r\n"
        b"Glucose,90,mg/dL,11/19/26,11:30 PM\r\n"
        b"Ketone,1.5,mmol/L,11/19/26,11:32 PM\r\n",
        timezone="America/Chicago",
    )
    for first, second in ((from_api, from_file), (from_file, from_api)):
        result = rows("keto_mojo", "body", first, second)
        assert result.rejected.is_empty()
        (row,) = result.rows.to_dicts()
        (glucose,), (ketone,) = row[GLUCOSE], row[KETONE]
        assert (glucose["timestamp"], glucose["device_id"], glucose["native_value"]) == (
            *(at("2026-11-20T05:30:00+00:00"), "KM0001", 90.0),
        )
        assert (ketone["timestamp"], ketone["device_id"], ketone["sample_type"]) == (
            *(at("2026-11-20T05:32:00+00:00"), "KM0001", "blood"),
        )


def test_what_an_answer_does_not_say_was_taken_of_stays_unknown(rows: Any) -> None:
    unsaid = {name: value for name, value in KETONES.items() if name != "reading_sample_type"}
    assert one_row(rows, records(unsaid))[KETONE][0]["sample_type"] is None


def test_with_a_zone_the_instants_are_known_but_where_clocks_went_back(rows: Any) -> None:
    text = (
        "\ufeffType;Value;Unit;Date (%m/%d/%y);Time (%I:%M %p)\n"
        "glucose;94;mgdl;11/09/2026;7:05 AM\n"
        "glucose;95;mgdl;10/25/26;2:30 AM\n"
        "ketone;1,2;mmoll;11/09/26;19:05\n"
    )
    days = by_day(rows, imported(text.encode(), timezone="Europe/Berlin"))
    (sample,) = days[date(2026, 11, 9)][GLUCOSE]
    assert sample["timestamp"] == at("2026-11-09T06:05:00+00:00")
    row = days[date(2026, 11, 9)]
    assert (row["timezone"], row["tz_source"]) == ("Europe/Berlin", "profile")
    assert row[KETONE][0]["native_value"] == 1.2
    assert row[KETONE][0]["timestamp"] == at("2026-11-09T18:05:00+00:00")
    (twice,) = days[date(2026, 10, 25)][GLUCOSE]
    assert (twice["timestamp"], twice["local_timestamp"]) == (None, naive("2026-10-25T02:30"))


def test_readings_below_a_title_keep_instant_offset_and_meter(rows: Any) -> None:
    text = (
        f"{TITLE}{HEADER}\r\n"
        'a,2026-11-19T23:30:00.250-06:00,glucose,90,mgdl,KM0001,"tired, and\r\nhungry"\r\n'
        "b,2026-11-19T23:32:00.000-06:00,glucose_ketone_index,3.3,,KM0001,\r\n"
    )
    found = imported(text.encode())
    (row,) = by_day(rows, found).values()
    (sample,) = row[GLUCOSE]
    assert sample["timestamp"] == at("2026-11-20T05:30:00.250+00:00")
    assert (sample["device_id"], row["utc_offset_seconds"]) == ("KM0001", -21600)
    assert [one["user_notes"] for one in row[OTHERS]] == ["tired, and\r\nhungry", None]
    assert [one["native_value"] for one in row[OTHERS]] == [None, 3.3]


def spreadsheet(*lines: list[object]) -> bytes:
    """A workbook of one sheet; datetimes are cells of a date style."""

    def cell(value: object) -> str:
        if isinstance(value, datetime):
            days = (value - datetime(1899, 12, 30)) / timedelta(days=1)  # noqa: DTZ001 - of a sheet
            return f'<c s="1"><v>{days!r}</v></c>'
        if isinstance(value, int | float):
            return f"<c><v>{value}</v></c>"
        if value is None:
            return "<c/>"
        return f'<c t="inlineStr"><is><t>{escape(str(value))}</t></is></c>'

    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    sheet = "".join(f"<row>{''.join(map(cell, line))}</row>" for line in lines)
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="xml" ContentType="application/xml"/>'
        '<Default Extension="rels"'
        ' ContentType="application/vnd.openxmlformats-package.relationships+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="a"'
        f' Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {main} xmlns:r="{office}"><sheets>'
        '<sheet name="Readings" sheetId="1" r:id="a"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="a" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="b" Type="{office}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet {main}><cellXfs count="2"><xf numFmtId="0"/>'
        '<xf numFmtId="22"/></cellXfs></styleSheet>',
        "xl/worksheets/sheet1.xml": f"<worksheet {main}><sheetData>{sheet}</sheetData></worksheet>",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{text}')
    return packed.getvalue()


SHEET = spreadsheet(
    ["Keto-Mojo"],
    [],
    ["somebody"],
    ["reading_type", "reading_timestamp", "reading_value"],
    ["glucose_ketone_index", "2026-11-19T23:32:00.000-06:00", 3.3],
    ["ketone", datetime(2026, 11, 9, 7, 7), 1.2],  # noqa: DTZ001 - of a sheet
    ["glucose", "2026-11-09T07:05:00.000-06:00", "94"],
    [None, None, None],
)


def test_a_spreadsheet_is_read_below_its_fourth_line_and_no_unit_is_made_up(rows: Any) -> None:
    found = imported(SHEET, "readings.xlsx")
    assert found[2].body == b"glucose,2026-11-09T07:05:00.000-06:00,94"
    days = by_day(rows, found)
    (index,) = days[date(2026, 11, 19)][OTHERS]
    assert (index["native_value"], index["native_unit"]) == (3.3, "{glucose_ketone_index}")
    day = days[date(2026, 11, 9)]
    (ketone,) = day[KETONE]
    assert (ketone["local_timestamp"], ketone["timestamp"]) == (naive("2026-11-09T07:07"), None)
    assert (ketone["native_value"], ketone["native_unit"]) == (1.2, None)
    assert ketone["ketone_mg_per_dl"] is None
    (glucose,) = day[GLUCOSE]
    assert glucose["timestamp"] == at("2026-11-09T13:05:00+00:00")
    assert (glucose["native_value"], glucose["blood_glucose_mg_per_dl"]) == (94.0, None)


def test_a_spreadsheet_with_units_is_converted(rows: Any) -> None:
    book = spreadsheet(
        ["reading_type", "reading_timestamp", "reading_value", "reading_unit"],
        ["glucose", "2026-11-09T07:05:00.000-06:00", 5, "mmol/L"],
    )
    (row,) = by_day(rows, imported(book, "readings.xlsx")).values()
    assert row[GLUCOSE][0]["blood_glucose_mg_per_dl"] == pytest.approx(90.078)


def test_a_file_again_adds_nothing_and_another_order_of_dates_moves_its_lines(
    workspace: Workspace, tmp_path: Path, clock: Any
) -> None:
    user = connect(workspace, KETO_MOJO, {}, reference_id=None, timezone=None, import_only=True)
    path = tmp_path / "export.csv"
    path.write_bytes(b"type,value,unit,date,time\nGlucose,94,mgdl,03/09/26,07:05 AM\n")

    def bring(**options: Any) -> tuple[int, int, int]:
        clock.advance(minutes=1)
        report = import_file(workspace, KETO_MOJO, user, path, ImportOptions(**options)).appended
        return report.new, report.changed, report.unchanged

    def days() -> list[date]:
        raw = workspace.lake.raw.read(
            ["keto_mojo"],
            [Partition(p.date, p.cohort) for p in workspace.lake.raw.partitions("keto_mojo")],
        )
        living = latest_revisions(raw)
        table = normalize(living.filter(~living["is_deleted"]), "body")
        return list(table.rows["local_date"])

    assert bring() == (1, 0, 0)
    assert days() == [date(2026, 3, 9)]
    assert bring() == (0, 0, 1)
    assert sum(bring(date_order="dmy")) == 1
    assert days() == [date(2026, 9, 3)]
    assert bring(date_order="dmy", timezone="Europe/Berlin") == (0, 1, 0)
    assert days() == [date(2026, 9, 3)]


def test_two_values_of_one_minute_in_a_file_are_both_kept(rows: Any) -> None:
    text = (
        "type,value,unit,date,time\nGlucose,97,mgdl,11/09/26,07:05 AM\n"
        "Glucose,94,mgdl,11/09/26,07:05 AM\nGlucose,94,mgdl,11/09/26,07:05 AM\n"
    )
    (row,) = by_day(rows, imported(text.encode())).values()
    told = [(sample["native_value"], sample["occurrence"]) for sample in row[GLUCOSE]]
    assert sorted(told) == [(94.0, None), (97.0, 2)]


def test_a_broken_time_in_a_file_loses_its_line_alone(rows: Any) -> None:
    text = APP_CSV + "Glucose,99,mg/dL,soon,07:05 AM\r\n"
    result = rows("keto_mojo", "body", imported(text.encode()))
    assert result.rejected["reason"].to_list() == [
        "reading_timestamp: no time; time: missing or not a date"
    ]
    assert result.rows[GLUCOSE].list.len().sum() == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"type,value,unit,date,time\n", "no lines"),
        (b"type,value,unit,date,time\nGlucose,94,mgdl,soon,later\n", "no line has a time"),
        (b'type,value,date,time\nGlucose,94,11/09/26,"07:05 AM\n', "never closed"),
        (b"type,value,date,time\nGlucose,94,\xff,1\n", "not UTF-8"),
        (SHEET[:-40], "cannot be read"),
        (spreadsheet(["name", "age"], ["Ada", 36]), "no header"),
        (spreadsheet(), "no header"),
    ],
)
def test_what_is_no_export_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(BadPayloadError, match=says):
        imported(content)


def test_a_zone_that_is_none_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="Mars"):
        imported(APP_CSV.encode(), timezone="Mars/Olympus")


# --- bodies of unknown origin


@pytest.mark.parametrize(
    "whole", [[READING], READING, {"readings": [READING]}, {"data": [READING], "total": 1}]
)
def test_readings_are_recognised_in_whatever_they_lie(whole: object) -> None:
    found = inspect_body(KETO_MOJO, json.dumps(whole).encode(), name="body", now=NOW)
    assert (found.unknown_fields, found.rejected) == ([], [])
    assert len(found.tables["body"][0][GLUCOSE]) == 1  # type: ignore[arg-type]


def test_files_are_inspected_like_answers() -> None:
    found = inspect_body(KETO_MOJO, APP_CSV.encode(), name="a.csv", now=NOW)
    assert (len(found.tables["body"]), found.rejected, found.unknown_fields) == (2, [], [])
    strange = f"{HEADER},mood\r\na,2026-11-19T08:00:00Z,glucose,90,mgdl,K,,fine\r\n"
    found = inspect_body(KETO_MOJO, strange.encode(), name="a.csv", now=NOW)
    assert found.unknown_fields == ["mood"]
    assert len(found.tables["body"]) == 1
    assert inspect_body(KETO_MOJO, SHEET, name="readings.xlsx", now=NOW).tables["body"]


def test_an_unknown_field_is_told_and_an_empty_list_is_no_error() -> None:
    body = json.dumps([{**READING, "mood": {"of": "today"}}]).encode()
    assert inspect_body(KETO_MOJO, body, name="b", now=NOW).unknown_fields == ["mood.of"]
    page = Page("readings", b"[]", NOW)
    assert list(KETO_MOJO.resource("readings").split(page)) == []


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (b'{"error":"invalid_grant"}', NotConnectedError, "connect this user again"),
        (b'{"error":"invalid_request"}', BadPayloadError, "refusal"),
        (b"<html></html>", BadPayloadError, "web page"),
        (b'[{"reading_type":"gl', BadPayloadError, "cut off"),
        (b"{}", UsageError, "--resource"),
        (b"[]", UsageError, "--resource"),
        (b"name,age\r\nAda,36\r\n", BadPayloadError, "no Keto-Mojo CSV"),
    ],
)
def test_what_is_no_readings_says_so(body: bytes, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        inspect_body(KETO_MOJO, body, name="body", now=NOW)
