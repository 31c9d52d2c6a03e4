"""LibreLinkUp: login, regions, body statuses, graph and logbook, and what readings become."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.providers import freestyle_libre
from wearable_pipeline.providers._contract import Page, Record, Window

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
WINDOW = Window(date(2026, 11, 18), date(2026, 11, 20), NOW)
PATIENT = "5f0c7a52-0000-4000-8000-00000000000a"
OTHER_PATIENT = "5f0c7a52-0000-4000-8000-00000000000b"
FOLLOWER = "a-follower"
EXPIRES = int((NOW + timedelta(days=180)).timestamp())
# 2026-11-18 06:00:00 UTC
ACTIVATED = 1_794_981_600


def wall(*parts: int) -> datetime:
    """What a clock on the wall shows."""
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001


def reading(factory: str, local: str, mg: int, **more: object) -> dict[str, object]:
    return {
        "FactoryTimestamp": factory,
        "Timestamp": local,
        "type": 0,
        "ValueInMgPerDl": mg,
        "MeasurementColor": 1,
        "GlucoseUnits": 1,
        "Value": mg,
        "isHigh": False,
        "isLow": False,
        **more,
    }


CURRENT = reading(
    "11/20/2026 11:55:40 AM", "11/20/2026 12:55:40 PM", 115, type=1, TrendArrow=4, TrendMessage=None
)


def graph_body(
    points: list[dict[str, object]] | None = None,
    current: dict[str, object] | None = None,
    sensor: dict[str, object] | None = None,
) -> bytes:
    connection = {
        "patientId": PATIENT,
        "firstName": "Ada",
        "glucoseMeasurement": current,
        "glucoseItem": {**current, "TrendArrow": 2} if current else None,
        "sensor": sensor or {"deviceId": "", "sn": "0M0000ABCD", "a": ACTIVATED, "w": 60, "pt": 4},
    }
    # Indented, as some proxies do: bytes of a record must survive as they are.
    return json.dumps(
        {"status": 0, "data": {"connection": connection, "graphData": points or []}}, indent=1
    ).encode()


def logbook_body(items: list[dict[str, object]]) -> bytes:
    return json.dumps({"status": 0, "data": items}).encode()


def ticket(jwt: str = "jwt-1") -> dict[str, object]:
    return {
        "status": 0,
        "data": {
            "authTicket": {"token": jwt, "expires": EXPIRES, "duration": 15552000000},
            "user": {"id": FOLLOWER, "country": "DE"},
        },
    }


class Abbott:
    """Answers by host and path; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.requests: list[httpx.Request] = []
        self.home = "api-eu.libreview.io"
        self.login: list[httpx.Response] = []
        self.patients = [PATIENT]
        self.valid_token = "jwt-1"
        self.not_found_times = 0
        self.graph = graph_body([], CURRENT)
        self.logbook = logbook_body([])

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.url.host, request.url.path))
        self.requests.append(request)
        path = request.url.path
        if path == "/llu/auth/login":
            if self.login:
                return self.login.pop(0)
            if request.url.host != self.home:
                region = self.home.removeprefix("api-").removesuffix(".libreview.io")
                data = {"redirect": True, "region": region}
                return httpx.Response(200, json={"status": 0, "data": data})
            return httpx.Response(200, json=ticket(self.valid_token))
        if request.headers["authorization"] != f"Bearer {self.valid_token}":
            return httpx.Response(401, json={"message": "invalid or expired jwt"})
        if path == "/llu/connections":
            shared = [{"patientId": patient, "firstName": "Ada"} for patient in self.patients]
            return httpx.Response(200, json={"status": 0, "data": shared})
        if self.not_found_times:
            self.not_found_times -= 1
            error = {"status": 4, "error": {"message": "couldNotLoadPatient"}}
            return httpx.Response(200, json=error)
        return httpx.Response(200, content=self.graph if path.endswith("graph") else self.logbook)

    def logins(self) -> int:
        return sum(path == "/llu/auth/login" for _, path in self.asked)


def stored(jwt: str = "jwt-1", expires: int = EXPIRES) -> dict[str, object]:
    return {
        "email": "ada@example.org",
        "password": "s3cret-pass",
        "region": "eu",
        "token": jwt,
        "expires_at": expires,
        "account_hash": hashlib.sha256(FOLLOWER.encode()).hexdigest(),
    }


def connect(client: Any, **values: str) -> Any:
    given = {"email": "ada@example.org", "password": "s3cret-pass", **values}
    return asyncio.run(freestyle_libre.connect(client, given))


def test_login_follows_the_redirect_and_remembers_the_region(
    client_for: Callable[..., Any],
) -> None:
    abbott = Abbott()
    connected = connect(client_for(abbott))
    assert abbott.asked == [
        ("api.libreview.io", "/llu/auth/login"),
        ("api-eu.libreview.io", "/llu/auth/login"),
        ("api-eu.libreview.io", "/llu/connections"),
    ]
    assert connected.credentials["region"] == "eu"
    assert connected.config == {"patient_id": PATIENT}
    assert connected.account_id == PATIENT
    headers = abbott.requests[-1].headers
    assert headers["product"] == "llu.android"
    assert headers["version"] == "4.16.0"
    # sha256 of "a-follower", by `printf a-follower | sha256sum`.
    assert headers["account-id"] == hashlib.sha256(b"a-follower").hexdigest()


def test_a_redirect_in_circles_ends(client_for: Callable[..., Any]) -> None:
    abbott = Abbott()
    there = {"status": 0, "data": {"redirect": True, "region": "eu"}}
    abbott.login = [httpx.Response(200, json=there) for _ in range(9)]
    with pytest.raises(BadPayloadError, match="region to region"):
        connect(client_for(abbott))
    assert abbott.logins() == 2


def test_a_redirect_never_sends_the_password_to_another_host(
    client_for: Callable[..., Any],
) -> None:
    abbott = Abbott()
    data = {"redirect": True, "region": "evil.example/"}
    abbott.login = [httpx.Response(200, json={"status": 0, "data": data})]
    with pytest.raises(BadPayloadError, match="not a region"):
        connect(client_for(abbott))
    assert [host for host, _ in abbott.asked] == ["api.libreview.io"]


def test_russia_and_china_have_hosts_of_their_own(client_for: Callable[..., Any]) -> None:
    abbott = Abbott()
    abbott.home = "api.libreview.ru"
    connected = connect(client_for(abbott), region="ru")
    assert connected.credentials["region"] == "ru"
    assert {host for host, _ in abbott.asked} == {"api.libreview.ru"}


STEP = {"status": 4, "data": {"step": {"type": "tou"}, "authTicket": {"token": "t", "expires": 1}}}


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (200, {"status": 2, "error": {"message": "notAuthenticated"}}, NotConnectedError, "wrong"),
        (401, {"status": 401, "message": "x"}, NotConnectedError, "wrong"),
        (200, STEP, NotConnectedError, "accept the new terms of use"),
        (200, {"status": 4, "data": {"step": {"type": "pp"}}}, NotConnectedError, "privacy"),
        (
            200,
            {"status": 4, "data": {"step": {"type": "verifyEmail"}}},
            NotConnectedError,
            "e-mail",
        ),
        (200, {"status": 4, "data": {"step": {"type": "rwe"}}}, NotConnectedError, "step the app"),
        (
            200,
            {
                "status": 4,
                "data": {
                    "step": {"type": "tou", "props": {"expires": 1, "duration": 3600000}},
                    "user": {"country": "CA", "uiLanguage": "fr-CA"},
                    "authTicket": {"token": "short"},
                },
            },
            NotConnectedError,
            "terms of use",
        ),
        (200, {"status": 4, "data": {"step": "pp"}}, NotConnectedError, "step the app"),
        (200, {"status": 4}, NotConnectedError, "step the app"),
        (200, {"status": 911}, TransientError, "maintenance"),
        (403, {"status": 920, "data": {"minimumVersion": "4.99.0"}}, PermanentError, "update"),
        (403, {"message": "Forbidden"}, NotConnectedError, "403"),
        (200, {"status": 77}, BadPayloadError, "unknown status 77"),
        (200, {"status": 0, "data": {}}, BadPayloadError, "no token"),
        (200, {"status": 0}, BadPayloadError, "no token"),
    ],
)
def test_every_body_status_of_the_login_says_what_to_do(
    client_for: Callable[..., Any],
    status: int,
    body: dict[str, object],
    error: type[Exception],
    says: str,
) -> None:
    abbott = Abbott()
    abbott.login = [httpx.Response(status, json=body)]
    with pytest.raises(error, match=says) as raised:
        connect(client_for(abbott))
    assert abbott.logins() == 1
    assert "ada@" not in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("http_status", [200, 429])
def test_a_lockout_waits_as_long_as_it_lasts(
    client_for: Callable[..., Any], http_status: int
) -> None:
    abbott = Abbott()
    body = {
        "status": 429,
        "data": {"code": 60, "data": {"failures": 3, "interval": 60, "lockout": 300}},
    }
    abbott.login = [httpx.Response(http_status, json=body)]
    with pytest.raises(TransientError) as raised:
        connect(client_for(abbott))
    assert raised.value.retry_after == timedelta(seconds=300)
    assert abbott.logins() == 1


@pytest.mark.parametrize("http_status", [200, 403, 429])
def test_a_page_of_the_web_front_is_throttling_not_json(
    client_for: Callable[..., Any], http_status: int
) -> None:
    abbott = Abbott()
    page = "<!DOCTYPE html><title>Access denied</title>error code: 1015"
    abbott.login = [httpx.Response(http_status, text=page)]
    with pytest.raises(RateLimitedError):
        connect(client_for(abbott))


def test_with_nobody_sharing_the_way_to_invite_is_told(client_for: Callable[..., Any]) -> None:
    abbott = Abbott()
    abbott.patients = []
    with pytest.raises(NotConnectedError, match="invite it"):
        connect(client_for(abbott))


def test_of_several_people_the_person_chooses(client_for: Callable[..., Any]) -> None:
    abbott = Abbott()
    abbott.patients = [PATIENT, OTHER_PATIENT]
    with pytest.raises(UsageError, match=f"{PATIENT}, {OTHER_PATIENT}"):
        connect(client_for(abbott))
    with pytest.raises(UsageError, match="does not share"):
        connect(client_for(abbott), patient_id="somebody-else")
    connected = connect(client_for(abbott), patient_id=OTHER_PATIENT)
    assert connected.config == {"patient_id": OTHER_PATIENT}


def pages_of(fetch_all: Any, client: Any, connection: Any, window: Window = WINDOW) -> list[Page]:
    found: list[Page] = asyncio.run(fetch_all("freestyle_libre", client, connection, window))
    return found


def test_a_poll_uses_the_stored_token_and_asks_the_logbook_once_a_day(
    client_for: Callable[..., Any], connection_of: Callable[..., Any], fetch_all: Any
) -> None:
    abbott = Abbott()
    connection = connection_of(stored(), {"patient_id": PATIENT})
    first = pages_of(fetch_all, client_for(abbott), connection)
    assert [page.resource for page in first] == ["current", "graph", "logbook"]
    second = pages_of(fetch_all, client_for(abbott), connection)
    assert [page.resource for page in second] == ["current", "graph"]
    tomorrow = Window(WINDOW.start, WINDOW.end, NOW + timedelta(days=1))
    third = pages_of(fetch_all, client_for(abbott), connection, tomorrow)
    assert [page.resource for page in third] == ["current", "graph", "logbook"]
    assert abbott.logins() == 0
    assert {host for host, _ in abbott.asked} == {"api-eu.libreview.io"}


def test_a_refused_token_is_renewed_once_and_saved(
    client_for: Callable[..., Any], connection_of: Callable[..., Any], fetch_all: Any
) -> None:
    abbott = Abbott()
    saved: list[object] = []
    connection = connection_of(
        stored("revoked"), {"patient_id": PATIENT}, save=lambda: saved.append(1)
    )
    assert pages_of(fetch_all, client_for(abbott), connection)
    assert abbott.logins() == 1
    assert connection.credentials["token"] == "jwt-1"
    assert len(saved) == 1


def test_a_token_refused_twice_is_not_connected(
    client_for: Callable[..., Any], connection_of: Callable[..., Any], fetch_all: Any
) -> None:
    abbott = Abbott()
    abbott.login = [httpx.Response(200, json=ticket("still-refused"))]
    connection = connection_of(stored("revoked"), {"patient_id": PATIENT})
    with pytest.raises(NotConnectedError):
        pages_of(fetch_all, client_for(abbott), connection)
    assert abbott.logins() == 1


def test_an_expired_token_is_replaced_before_it_is_used(
    client_for: Callable[..., Any], connection_of: Callable[..., Any], fetch_all: Any
) -> None:
    abbott = Abbott()
    connection = connection_of(stored("old", int(NOW.timestamp())), {"patient_id": PATIENT})
    pages_of(fetch_all, client_for(abbott), connection)
    assert abbott.asked[0] == ("api-eu.libreview.io", "/llu/auth/login")
    assert abbott.logins() == 1


def test_an_account_moved_to_another_region_is_found_again(
    client_for: Callable[..., Any], connection_of: Callable[..., Any], fetch_all: Any
) -> None:
    abbott = Abbott()
    abbott.home = "api-eu2.libreview.io"
    abbott.not_found_times = 1
    connection = connection_of(stored(), {"patient_id": PATIENT})
    assert pages_of(fetch_all, client_for(abbott), connection)
    assert connection.credentials["region"] == "eu2"


def test_who_stopped_sharing_is_not_connected(
    client_for: Callable[..., Any], connection_of: Callable[..., Any], fetch_all: Any
) -> None:
    abbott = Abbott()
    abbott.not_found_times = 9
    abbott.patients = [OTHER_PATIENT]
    connection = connection_of(stored(), {"patient_id": PATIENT})
    with pytest.raises(NotConnectedError, match="no longer shares"):
        pages_of(fetch_all, client_for(abbott), connection)


def test_a_patient_that_does_not_load_for_the_moment_is_tried_again_later(
    client_for: Callable[..., Any], connection_of: Callable[..., Any], fetch_all: Any
) -> None:
    abbott = Abbott()
    abbott.not_found_times = 9
    connection = connection_of(stored(), {"patient_id": PATIENT})
    with pytest.raises(TransientError):
        pages_of(fetch_all, client_for(abbott), connection)


def test_the_base_url_setting_replaces_every_host(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wearable_pipeline.settings import settings

    monkeypatch.setenv("WEARABLE_FREESTYLE_LIBRE_BASE_URL", "http://127.0.0.1:1/libre/{region}")
    settings.cache_clear()
    try:
        asked: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            if request.url.path == "/libre/global/llu/auth/login":
                data = {"redirect": True, "region": "eu"}
                return httpx.Response(200, json={"status": 0, "data": data})
            if request.url.path == "/libre/eu/llu/auth/login":
                return httpx.Response(200, json=ticket())
            return httpx.Response(200, json={"status": 0, "data": [{"patientId": PATIENT}]})

        connect(client_for(answer))
        assert asked == [
            "/libre/global/llu/auth/login",
            "/libre/eu/llu/auth/login",
            "/libre/eu/llu/connections",
        ]
    finally:
        settings.cache_clear()


# --- splitting


def page(resource: str, body: bytes, **context: object) -> Page:
    return Page(resource, body, NOW, {"patient_id": PATIENT, **context})


def test_records_keep_their_exact_bytes(split: Any) -> None:
    body = graph_body([reading("11/20/2026 1:39:50 AM", "11/20/2026 2:39:50 AM", 117)], CURRENT)
    current, point = split("freestyle_libre", [page("current", body), page("graph", body)])
    assert current.body in body
    assert point.body in body
    assert b"\n" in point.body
    assert json.loads(current.body)["TrendArrow"] == 4  # glucoseMeasurement, not glucoseItem
    assert point.record_id != current.record_id
    assert (current.resource, point.resource) == ("current", "graph")


def test_a_record_is_known_by_a_hash_of_person_and_instant(split: Any) -> None:
    at = ("11/20/2026 1:39:50 AM", "11/20/2026 2:39:50 AM", 117)
    later = ("11/20/2026 1:44:50 AM", "11/20/2026 2:44:50 AM", 117)
    body = graph_body([reading(*at), reading(*later)])
    first, second = split("freestyle_libre", [page("graph", body)])
    # printf '%s|2026-11-20T01:39:50Z' 5f0c7a52-0000-4000-8000-00000000000a | b2sum -l 96
    assert first.record_id == "5d00a3409386ee18eea53629"
    assert second.record_id != first.record_id
    (other,) = split(
        "freestyle_libre", [page("graph", graph_body([reading(*at)]), patient_id=OTHER_PATIENT)]
    )
    assert other.record_id != first.record_id


def test_no_account_of_the_person_reaches_a_table(split: Any, rows: Any) -> None:
    body = graph_body([reading("11/20/2026 1:39:50 AM", "11/20/2026 2:39:50 AM", 117)], CURRENT)
    records = split("freestyle_libre", [page("current", body), page("graph", body)])
    result = rows("freestyle_libre", "body", records)
    assert PATIENT not in str(result.rows.to_dicts())


def test_without_a_context_the_answer_says_whose_readings_they_are(split: Any) -> None:
    body = graph_body([reading("11/20/2026 1:39:50 AM", "11/20/2026 2:39:50 AM", 117)], CURRENT)
    fetched = split("freestyle_libre", [page("current", body), page("graph", body)])
    saved = split("freestyle_libre", [Page("current", body, NOW), Page("graph", body, NOW)])
    assert [r.record_id for r in saved] == [r.record_id for r in fetched]


def test_a_reading_belongs_to_the_day_on_the_phone(split: Any) -> None:
    points = [
        reading("11/19/2026 10:59:00 PM", "11/19/2026 11:59:00 PM", 100),
        reading("11/19/2026 11:04:00 PM", "11/20/2026 12:04:00 AM", 101),
    ]
    records = split("freestyle_libre", [page("graph", graph_body(points))])
    assert [record.local_date for record in records] == [date(2026, 11, 19), date(2026, 11, 20)]


def test_the_sensor_is_named_only_for_readings_after_its_activation(split: Any) -> None:
    points = [
        reading("11/18/2026 5:59:59 AM", "11/18/2026 6:59:59 AM", 100),
        reading("11/18/2026 6:00:00 AM", "11/18/2026 7:00:00 AM", 101),
    ]
    before, after = split("freestyle_libre", [page("graph", graph_body(points))])
    assert before.context == {"patient_id": PATIENT}
    assert after.context == {
        "patient_id": PATIENT,
        "sensor_sn": "0M0000ABCD",
        "sensor_activation": ACTIVATED,
        "sensor_pt": 4,
    }


def test_a_page_without_readings_has_no_records(split: Any) -> None:
    body = b'{"status":0,"data":{"connection":{"glucoseMeasurement":null},"graphData":null}}'
    assert split("freestyle_libre", [page("current", body), page("graph", body)]) == []
    assert split("freestyle_libre", [page("logbook", b'{"status":0,"data":[]}')]) == []


@pytest.mark.parametrize("resource", ["current", "graph", "logbook"])
@pytest.mark.parametrize("body", [b"", b'{"data":{"graphData":[{"a":1}', b"<html></html>", b"\xff"])
def test_half_an_answer_is_not_an_answer(split: Any, resource: str, body: bytes) -> None:
    with pytest.raises(BadPayloadError):
        split("freestyle_libre", [page(resource, body)])


# --- samples


def samples_of(rows: Any, *fetched: list[Record]) -> list[dict[str, Any]]:
    result = rows("freestyle_libre", "body", *fetched)
    found: list[dict[str, Any]] = [
        sample for row in result.rows["glucose_blood_glucose_samples"].to_list() for sample in row
    ]
    return found


def test_the_arrow_survives_when_the_reading_comes_again_in_the_graph(
    split: Any, rows: Any
) -> None:
    again = {**CURRENT, "type": 0}
    del again["TrendArrow"]
    first = split("freestyle_libre", [page("current", graph_body([], CURRENT))])
    later = split("freestyle_libre", [page("graph", graph_body([again]))])
    assert first[0].record_id == later[0].record_id
    assert first[0].resource != later[0].resource
    (sample,) = samples_of(rows, first, later)
    assert sample["trend_arrow"] == "rising"
    assert sample["native_trend"] == "4"
    assert sample["blood_glucose_mg_per_dl"] == 115.0
    assert sample["timestamp"] == datetime(2026, 11, 20, 11, 55, 40, tzinfo=UTC)
    assert sample["local_timestamp"] == wall(2026, 11, 20, 12, 55, 40)
    assert sample["sample_kind"] == "cgm"
    assert sample["device_id"] == "0M0000ABCD"


def test_a_row_names_sensor_and_offset(split: Any, rows: Any) -> None:
    records = split("freestyle_libre", [page("current", graph_body([], CURRENT))])
    row = rows("freestyle_libre", "body", records).rows.to_dicts()[0]
    assert row["device_manufacturer"] == "Abbott"
    assert row["device_name"] == "FreeStyle Libre 3"
    assert row["device_serial_number"] == "0M0000ABCD"
    assert row["device_activation_timestamp"] == datetime(2026, 11, 18, 6, tzinfo=UTC)
    assert row["utc_offset_seconds"] == 3600
    assert row["tz_source"] == "provider"
    assert row["timezone"] is None


@pytest.mark.parametrize(
    ("arrow", "name"),
    [
        (1, "falling_quickly"),
        (2, "falling"),
        (3, "flat"),
        (4, "rising"),
        (5, "rising_quickly"),
        (0, "unknown"),
        (None, None),
    ],
)
def test_arrows_have_names(split: Any, rows: Any, arrow: int | None, name: str | None) -> None:
    current = {**CURRENT, "TrendArrow": arrow}
    records = split("freestyle_libre", [page("current", graph_body([], current))])
    (sample,) = samples_of(rows, records)
    assert sample["trend_arrow"] == name
    assert sample["native_trend"] == (None if arrow is None else str(arrow))


def test_hi_and_lo_are_limits_not_measurements(split: Any, rows: Any) -> None:
    points = [
        reading("11/20/2026 1:00:00 AM", "11/20/2026 2:00:00 AM", 500, isHigh=True),
        reading("11/20/2026 1:05:00 AM", "11/20/2026 2:05:00 AM", 40, isLow=True),
        reading("11/20/2026 1:10:00 AM", "11/20/2026 2:10:00 AM", 250),
    ]
    records = split("freestyle_libre", [page("graph", graph_body(points))])
    found = samples_of(rows, records)
    assert [s["out_of_range"] for s in found] == ["high", "low", None]
    assert [s["glucose_level_flag"] for s in found] == ["high", "low", None]
    assert [s["blood_glucose_mg_per_dl"] for s in found] == [500.0, 40.0, 250.0]


def test_mg_per_dl_of_the_sensor_is_canonical_and_the_shown_value_is_kept(
    split: Any, rows: Any
) -> None:
    point = reading("11/20/2026 1:00:00 AM", "11/20/2026 2:00:00 AM", 181)
    point |= {"GlucoseUnits": 0, "Value": 10.1}
    (sample,) = samples_of(rows, split("freestyle_libre", [page("graph", graph_body([point]))]))
    assert sample["blood_glucose_mg_per_dl"] == 181.0
    assert (sample["native_value"], sample["native_unit"]) == (10.1, "mmol/L")


@pytest.mark.parametrize(
    ("local", "timezone", "shown", "source", "zone", "day"),
    [
        # 5:45 is Kathmandu's offset.
        ("11/20/2026 1:45:00 AM", None, wall(2026, 11, 20, 1, 45), "provider", None, 20),
        # 7 minutes is nobody's.
        ("11/19/2026 8:07:00 PM", None, None, "unknown", None, 19),
        (
            "11/19/2026 8:07:00 PM",
            "Asia/Tokyo",
            wall(2026, 11, 20, 5, 0),
            "profile",
            "Asia/Tokyo",
            20,
        ),
        # 15 hours neither.
        ("11/20/2026 11:00:00 AM", None, None, "unknown", None, 19),
        ("yesterday", None, None, "unknown", None, 19),
    ],
)
def test_an_offset_that_no_place_has_is_unknown(
    split: Any,
    rows: Any,
    local: str,
    timezone: str | None,
    shown: datetime | None,
    source: str,
    zone: str | None,
    day: int,
) -> None:
    body = graph_body([reading("11/19/2026 8:00:00 PM", local, 100)])
    (record,) = split("freestyle_libre", [page("graph", body, timezone=timezone)])
    assert record.local_date == date(2026, 11, day)
    result = rows("freestyle_libre", "body", [record]).rows.to_dicts()[0]
    (sample,) = result["glucose_blood_glucose_samples"]
    assert sample["timestamp"] == datetime(2026, 11, 19, 20, tzinfo=UTC)
    assert sample["local_timestamp"] == shown
    assert (result["tz_source"], result["timezone"]) == (source, zone)


def test_a_reading_without_a_time_is_kept_and_quarantined(split: Any, rows: Any) -> None:
    points = [
        {"FactoryTimestamp": "30/12/2022 1:00:00 PM", "ValueInMgPerDl": 100, "type": 0},
        reading("11/20/2026 1:00:00 AM", "11/20/2026 2:00:00 AM", 100),
    ]
    records = split("freestyle_libre", [page("graph", graph_body(points))])
    assert records[0].record_id.startswith("sha256:")
    assert records[0].local_date == date(2026, 11, 20)
    result = rows("freestyle_libre", "body", records)
    (reason,) = result.rejected["reason"].to_list()
    assert "time" in reason
    assert result.rows["glucose_blood_glucose_samples"].list.len().sum() == 1


def test_an_alarm_of_the_logbook_is_no_reading(split: Any, rows: Any) -> None:
    alarm = {
        "FactoryTimestamp": "11/20/2026 1:00:00 AM",
        "Timestamp": "11/20/2026 2:00:00 AM",
        "type": 2,
        "alarmType": 0,
    }
    records = split("freestyle_libre", [page("logbook", logbook_body([alarm]))])
    result = rows("freestyle_libre", "body", records)
    assert result.rejected.is_empty()
    assert result.rows.filter(
        result.rows["glucose_blood_glucose_samples"].list.len() > 0
    ).is_empty()


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("12/30/2022 4:47:40 PM", datetime(2022, 12, 30, 16, 47, 40, tzinfo=UTC)),
        ("1/2/2026 12:00:00 AM", datetime(2026, 1, 2, tzinfo=UTC)),
        ("1/2/2026 12:00:00 PM", datetime(2026, 1, 2, 12, tzinfo=UTC)),
        ("30/12/2022 4:47:40 PM", None),
        ("12/30/2022 16:47:40 PM", None),
        ("2022-12-30T16:47:40Z", None),
        (None, None),
    ],
)
def test_times_are_read_by_fixed_rules(text: object, at: datetime | None) -> None:
    assert freestyle_libre.parse_time(text) == at


# --- recorded bodies


@pytest.mark.corpus
def test_the_recorded_graph_gives_141_points_and_one_current_reading(
    corpus: Path, split: Any, rows: Any
) -> None:
    body = (
        corpus / "libre_linkup" / "timoschlueter__nightscout-librelink-up__tests_data_graph.json"
    ).read_bytes()
    current = split("freestyle_libre", [page("current", body)])
    points = split("freestyle_libre", [page("graph", body)])
    assert (len(current), len(points)) == (1, 141)
    assert all(record.body in body for record in points)
    result = rows("freestyle_libre", "body", current + points)
    assert result.rejected.is_empty()
    (row,) = result.rows.to_dicts()
    found = row["glucose_blood_glucose_samples"]
    assert len(found) == 142
    # 5:50 at the wall on 30 December in central Europe.
    assert found[0]["timestamp"] == datetime(2022, 12, 30, 4, 50, 40, tzinfo=UTC)
    assert found[0]["local_timestamp"] == wall(2022, 12, 30, 5, 50, 40)
    assert found[-2]["timestamp"] == datetime(2022, 12, 30, 16, 30, 41, tzinfo=UTC)
    assert found[-1]["trend_arrow"] == "flat"
    assert row["utc_offset_seconds"] == 3600
    assert row["device_serial_number"] == "ABCDEF1234"


@pytest.mark.corpus
@pytest.mark.parametrize("variant", ["", "_no_alarm_rules_c", "_no_sd", "_no_u"])
def test_recorded_graphs_with_missing_parts_are_read_alike(
    corpus: Path, split: Any, rows: Any, variant: str
) -> None:
    name = f"robberwick__pylibrelinkup__tests_data_graph_response{variant}.json"
    body = (corpus / "libre_linkup" / name).read_bytes()
    records = split("freestyle_libre", [page("current", body), page("graph", body)])
    assert len(records) == 9
    (row,) = rows("freestyle_libre", "body", records).rows.to_dicts()
    found = row["glucose_blood_glucose_samples"]
    assert [s["blood_glucose_mg_per_dl"] for s in found] == [
        *(117.0, 115.0, 115.0, 116.0, 116.0, 118.0, 118.0, 115.0),
        91.0,
    ]
    # The measurement's arrow: 1 in the first body, where the item's is 3.
    assert found[-1]["native_trend"] == ("3" if variant else "1")
    assert row["utc_offset_seconds"] == 7200


@pytest.mark.corpus
def test_the_recorded_logbook_keeps_mmol_beside_mg(corpus: Path, split: Any, rows: Any) -> None:
    name = "robberwick__pylibrelinkup__tests_data_logbook_response.json"
    records = split(
        "freestyle_libre", [page("logbook", (corpus / "libre_linkup" / name).read_bytes())]
    )
    assert [record.local_date for record in records] == [
        date(2024, 11, 10),
        date(2024, 11, 10),
        date(2024, 11, 9),
    ]
    found = samples_of(rows, records)
    pairs = [(s["blood_glucose_mg_per_dl"], s["native_value"], s["trend_arrow"]) for s in found]
    assert pairs == [(159.0, 8.8, "flat"), (181.0, 10.1, "rising"), (197.0, 10.9, "flat")]


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        (
            "robberwick__pylibrelinkup__tests_data_privacy_policy_response",
            NotConnectedError,
            "priv",
        ),
        ("robberwick__pylibrelinkup__tests_data_terms_of_use_response", NotConnectedError, "terms"),
        (
            "timoschlueter__nightscout-librelink-up__tests_data_login-failed",
            NotConnectedError,
            "wr",
        ),
    ],
)
def test_recorded_refusals_are_understood(
    corpus: Path,
    client_for: Callable[..., Any],
    name: str,
    error: type[Exception],
    says: str,
) -> None:
    abbott = Abbott()
    body = (corpus / "libre_linkup" / f"{name}.json").read_bytes()
    abbott.login = [httpx.Response(200, content=body)]
    with pytest.raises(error, match=says):
        connect(client_for(abbott))


@pytest.mark.corpus
@pytest.mark.parametrize(
    "name",
    [
        "timoschlueter__nightscout-librelink-up__tests_data_login",
        "robberwick__pylibrelinkup__tests_data_realworldevidence_consent_response",
    ],
)
def test_recorded_logins_are_accepted(
    corpus: Path, client_for: Callable[..., Any], name: str
) -> None:
    abbott = Abbott()
    body = (corpus / "libre_linkup" / f"{name}.json").read_bytes()
    abbott.login = [httpx.Response(200, content=body)]
    abbott.valid_token = json.loads(body)["data"]["authTicket"]["token"]
    assert connect(client_for(abbott)).account_id == PATIENT


def test_times_are_read_in_two_halves_as_they_are_in_one() -> None:
    told = pl.Series(
        [
            *("12/30/2022 4:47:40 PM", "1/2/2026 12:00:00 AM", "01/02/2026 12:59:59 PM"),
            *("1/2/2026 4:7:9 PM", "1/2/2026 10:1:19 AM", "1/2/2026 13:00:00 PM"),
            *("2/30/2026 1:00:00 AM", ":00:00 AM", "1:00:00 AM", "today", "", None),
        ]
    )
    read = freestyle_libre._times_told(told)
    assert [str(at) for at in read[:3]] == [
        *("2022-12-30 16:47:40", "2026-01-02 00:00:00", "2026-01-02 12:59:59"),
    ]
    assert read.equals(freestyle_libre._clock_times(told))
    assert freestyle_libre._times_told(told.clear()).dtype == pl.Datetime("us")
