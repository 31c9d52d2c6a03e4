"""Readings of Dexcom Share as rows, and a login that lasts; expected values are worked out by hand."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from wearable_pipeline.connect import connect
from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    TransientError,
    UsageError,
)
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Connection, Page, Record, Window
from wearable_pipeline.providers._windows import windows_of
from wearable_pipeline.providers.dexcom_share import NOBODY, fetch
from wearable_pipeline.registry import User
from wearable_pipeline.sandbox.dexcom_share import PEOPLE
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.tables.inspect import inspect_body
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.conftest import AtSandbox
from wearable_pipeline_tests.providers.moments import naive
from wearable_pipeline_tests.providers.oauth_cast import contents
from wearable_pipeline_tests.providers.oauth_cast import fetch as poll_once
from wearable_pipeline_tests.providers.session_cast import change_session

SHARE = get_provider("dexcom_share")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
GLUCOSE = "glucose_blood_glucose_samples"
# 2026-11-20T04:30:05.123Z: 20,777 days of 86,400 s since 1970, then 4.5 h and 5.123 s.
AT_MS = 1_795_149_005_123
READING: dict[str, Any] = {
    "WT": f"Date({AT_MS})",
    "ST": f"Date({AT_MS})",
    "DT": f"Date({AT_MS}-0500)",
    "Value": 149,
    "Trend": "FortyFiveDown",
}


def records(*found: object, timezone: str | None = None) -> list[Record]:
    page = Page("readings", json.dumps(found).encode(), NOW, {"timezone": timezone})
    return list(SHARE.resource("readings").split(page))


def one_row(rows: Any, found: list[Record]) -> dict[str, Any]:
    result = rows("dexcom_share", "body", found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def one_sample(rows: Any, **changed: object) -> dict[str, Any]:
    (sample,) = one_row(rows, records({**READING, **changed}))[GLUCOSE]
    return dict(sample)


def test_a_reading(rows: Any) -> None:
    row = one_row(rows, records(READING))
    expected = {
        # Half past eleven at night, five hours behind UTC.
        "local_date": date(2026, 11, 19),
        "utc_offset_seconds": -18000,
        "timezone": None,
        "tz_source": "provider",
        "device_manufacturer": "Dexcom",
    }
    assert {name: row[name] for name in expected} == expected
    (sample,) = row[GLUCOSE]
    assert sample == {
        "timestamp": datetime(2026, 11, 20, 4, 30, 5, 123_000, tzinfo=UTC),
        "local_timestamp": naive("2026-11-19T23:30:05.123"),
        "blood_glucose_mg_per_dl": 149.0,
        "glucose_level_flag": None,
        "trend_arrow": "falling",
        "native_value": 149.0,
        "native_unit": "mg/dL",
        "sample_kind": "cgm",
        "out_of_range": None,
        "native_trend": "FortyFiveDown",
        "sensor_status": None,
        "device_id": None,
        "occurrence": None,
    }


@pytest.mark.parametrize(
    ("display", "timezone", "local", "source"),
    [
        (f"Date({AT_MS}+0545)", None, "2026-11-20T10:15:05.123", "provider"),
        (f"/Date({AT_MS}+0100)/", "Asia/Tokyo", "2026-11-20T05:30:05.123", "provider"),
        # Nobody says where the display was: then where the person lives, or nowhere.
        (f"Date({AT_MS})", "Asia/Tokyo", "2026-11-20T13:30:05.123", "profile"),
        (f"Date({AT_MS})", None, None, "unknown"),
        (f"Date({AT_MS}+9900)", None, None, "unknown"),
        (None, None, None, "unknown"),
    ],
)
def test_where_the_display_was(
    rows: Any, display: str | None, timezone: str | None, local: str | None, source: str
) -> None:
    row = one_row(rows, records({**READING, "DT": display}, timezone=timezone))
    (sample,) = row[GLUCOSE]
    assert sample["timestamp"] == datetime(2026, 11, 20, 4, 30, 5, 123_000, tzinfo=UTC)
    assert sample["local_timestamp"] == (naive(local) if local else None)
    assert (row["tz_source"], row["local_date"]) == (source, date(2026, 11, 20))


def test_the_clock_of_the_device_is_not_believed(rows: Any) -> None:
    # Old receivers: the system clock an hour ahead, all in the form with slashes, numbers for arrows.
    old = {
        "DT": "/Date(1426292016000-0700)/",
        "ST": "/Date(1426295616000)/",
        "Trend": 4,
        "Value": 101,
        "WT": "/Date(1426292039000)/",
    }
    row = one_row(rows, records(old))
    (sample,) = row[GLUCOSE]
    # 1426292039 is 2015-03-14T00:13:59Z.
    assert sample["timestamp"] == datetime(2015, 3, 14, 0, 13, 59, tzinfo=UTC)
    assert sample["local_timestamp"] == naive("2015-03-13T17:13:59")
    assert (sample["trend_arrow"], sample["native_trend"]) == ("flat", "4")
    assert row["local_date"] == date(2015, 3, 13)


def test_a_reading_without_the_server_s_time_is_when_the_display_says(rows: Any) -> None:
    bare = {key: value for key, value in READING.items() if key != "WT"}
    (record,) = records(bare)
    assert record.record_id == str(AT_MS)
    (sample,) = one_row(rows, [record])[GLUCOSE]
    assert sample["timestamp"] == datetime(2026, 11, 20, 4, 30, 5, 123_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "glucose", "beyond", "status"),
    [
        (39, 39.0, "low", None),
        (40, 40.0, None, None),
        (400, 400.0, None, None),
        (401, 401.0, "high", None),
        # Codes of faults are no glucose.
        (10, None, None, "error:10"),
        (5, None, None, "error:5"),
    ],
)
def test_values_beyond_the_range_and_faults(
    rows: Any, value: int, glucose: float | None, beyond: str | None, status: str | None
) -> None:
    sample = one_sample(rows, Value=value)
    assert sample["blood_glucose_mg_per_dl"] == glucose
    assert sample["native_value"] == glucose
    assert sample["native_unit"] == (None if glucose is None else "mg/dL")
    assert (sample["out_of_range"], sample["glucose_level_flag"]) == (beyond, beyond)
    assert sample["sensor_status"] == status


@pytest.mark.parametrize(
    ("trend", "arrow"),
    [
        ("DoubleUp", "rising_quickly"),
        (2, "rising_quickly"),
        (3, "rising"),
        ("Flat", "flat"),
        (7, "falling_quickly"),
        (0, "unknown"),
        (9, "unknown"),
        ("NotComputable", "unknown"),
        (None, None),
        ("", None),
    ],
)
def test_trends(rows: Any, trend: object, arrow: str | None) -> None:
    assert one_sample(rows, Trend=trend)["trend_arrow"] == arrow


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"WT": "Date(soon)"}, "WT"),
        ({"WT": "Date(99999999999999)"}, "WT"),
        ({"WT": None, "DT": None, "ST": None}, "WT"),
        ({"Value": None}, "no glucose value"),
        ({"Value": "Low"}, "Value"),
    ],
)
def test_a_broken_reading_is_quarantined_and_the_next_one_kept(
    rows: Any, broken: dict[str, object], reason: str
) -> None:
    late = {**READING, "WT": f"Date({AT_MS + 300_000})"}
    result = rows("dexcom_share", "body", records({**late, **broken}, READING))
    assert result.rejected.height == 1
    assert reason in result.rejected["reason"][0]
    samples = [s for row in result.rows.to_dicts() for s in row[GLUCOSE]]
    assert [s["blood_glucose_mg_per_dl"] for s in samples] == [149.0]


def test_the_same_reading_in_two_answers_is_one(rows: Any) -> None:
    result = rows("dexcom_share", "body", records(READING), records(READING))
    (row,) = result.rows.to_dicts()
    assert len(row[GLUCOSE]) == 1
    # Five minutes later by nine tenths of a second less: a reading of its own.
    near = {**READING, "WT": f"Date({AT_MS + 299_100})"}
    (row,) = rows("dexcom_share", "body", records(near, READING)).rows.to_dicts()
    assert len(row[GLUCOSE]) == 2


# --- logging in and asking

ACCOUNT, SESSION, NEXT = (f"{n}0000000-0000-4000-8000-000000000000" for n in (1, 2, 3))


class Share:
    """Answers by service, one after the other; remembers what was asked for."""

    def __init__(self, **answers: list[object]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, str], dict[str, object]]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        self.asked.append((name, dict(request.url.params), json.loads(request.content)))
        answer = self.answers[name].pop(0)
        if isinstance(answer, dict):
            return httpx.Response(500, json=answer)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)


def code(name: str, message: str = "") -> dict[str, object]:
    return {"Code": name, "Message": message, "SubCode": "", "TypeName": "FaultException"}


def fetched(
    client_for: Any, share: Share, credentials: dict[str, object], save: Callable[[], None]
) -> list[Page]:
    async def run() -> list[Page]:
        async with client_for(share) as client:
            connection = Connection("u", {}, credentials, {}, None, save)
            window = Window(NOW.date(), NOW.date(), NOW)
            return [page async for page in fetch(client, connection, window)]

    return asyncio.run(run())


def known(**more: object) -> dict[str, object]:
    return {
        "username": "somebody",
        "password": "hidden",
        "region": "ous",
        "account_id": ACCOUNT,
        "session_id": SESSION,
        **more,
    }


def test_a_session_is_used_as_long_as_it_lasts(client_for: Any) -> None:
    share = Share(ReadPublisherLatestGlucoseValues=[[READING]])
    (page,) = fetched(client_for, share, known(), lambda: None)
    assert json.loads(page.body) == [READING]
    ((name, asked, _),) = share.asked
    assert name == "ReadPublisherLatestGlucoseValues"
    assert asked == {"sessionId": SESSION, "minutes": "1440", "maxCount": "288"}


@pytest.mark.parametrize("ended", ["SessionIdNotFound", "SessionNotValid"])
def test_a_session_that_ended_is_begun_anew_once_and_kept(client_for: Any, ended: str) -> None:
    share = Share(
        ReadPublisherLatestGlucoseValues=[code(ended), [READING]],
        LoginPublisherAccountById=[NEXT],
    )
    credentials, saved = known(), []
    fetched(client_for, share, credentials, lambda: saved.append(dict(credentials)))
    assert [one["session_id"] for one in saved] == [NEXT]
    assert [name for name, _, _ in share.asked] == [
        "ReadPublisherLatestGlucoseValues",
        "LoginPublisherAccountById",
        "ReadPublisherLatestGlucoseValues",
    ]
    assert share.asked[1][2]["accountId"] == ACCOUNT
    assert share.asked[2][1]["sessionId"] == NEXT

    again = Share(
        ReadPublisherLatestGlucoseValues=[code(ended), code(ended)],
        LoginPublisherAccountById=[NEXT],
    )
    with pytest.raises(TransientError, match="just begun"):
        fetched(client_for, again, known(), lambda: None)


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (code("AccountPasswordInvalid"), NotConnectedError, "the login is wrong"),
        (
            code("SSO_InternalError", "Cannot Authenticate by AccountId"),
            NotConnectedError,
            "the login is wrong",
        ),
        (code("InvalidArgument", "accountName"), NotConnectedError, "the login is wrong"),
        (code("SSO_AuthenticateMaxAttemptsExceeded"), NotConnectedError, "locked"),
        (NOBODY, NotConnectedError, "the login is wrong"),
        ("", NotConnectedError, "the login is wrong"),
        (code("InvalidArgument", "minutes"), PermanentError, "argument"),
        (code("SSO_InternalError", "out of order"), TransientError, "HTTP 500"),
        (code("Unheard"), TransientError, "HTTP 500"),
        (httpx.Response(500, text="<html>"), TransientError, "HTTP 500"),
        (httpx.Response(502, text="<html>"), TransientError, "HTTP 502"),
    ],
)
def test_what_refusals_of_a_login_mean(
    client_for: Any, answer: object, error: type[Exception], says: str
) -> None:
    share = Share(LoginPublisherAccountById=[answer])
    with pytest.raises(error, match=says) as raised:
        fetched(client_for, share, known(session_id=None), lambda: None)
    assert type(raised.value) is error
    assert "hidden" not in str(raised.value)
    assert ACCOUNT not in str(raised.value)
    # A login that was refused is not tried again: five failures lock the account.
    assert len(share.asked) == 1


def test_history_is_not_asked_for() -> None:
    def asked(start: date, end: date) -> list[Window]:
        return list(windows_of(SHARE, Window(start, end, NOW)))

    assert asked(date(2026, 8, 1), date(2026, 11, 18)) == []
    (window,) = asked(date(2026, 8, 1), date(2026, 11, 20))
    assert window.start == date(2026, 11, 19)


# --- over real HTTP


@pytest.fixture
def there(at_sandbox: AtSandbox) -> Workspace:
    """A workspace that asks the sandbox without waiting."""
    return at_sandbox("dexcom_share", PEOPLE)


def sharer(there: Workspace, person: str) -> User:
    values = {"username": person, "password": PEOPLE[person].password, "region": "ous"}
    return connect(there, SHARE, values, reference_id=person)


def test_a_life_with_faults_loses_no_reading(
    there: Workspace, sandbox: SandboxProcess, clock: StandingClock
) -> None:
    user = sharer(there, "hedda")

    def passed(**parts: float) -> None:
        sandbox.set_clock(clock.advance(**parts))

    def failed() -> str:
        ((error_class, _),) = poll_once(there, user).failures.values()
        return error_class

    assert poll_once(there, user, 90).failures == {}
    # Noon to noon, a reading every five minutes but those of a sensor's first half hour.
    first = [s for row in contents(there, [user])["body"] for s in row[GLUCOSE]]
    assert 280 <= len(first) <= 288

    passed(hours=6)
    change_session(sandbox, "dexcom_share", "hedda", "expire")
    before = there.registry.load_credentials(user.user_id)["session_id"]
    assert poll_once(there, user).failures == {}
    assert there.registry.load_credentials(user.user_id)["session_id"] != before

    passed(hours=6)
    sandbox.fault("500", path="ReadPublisher", times=None)
    assert failed() == "transient"
    sandbox.clear_faults()
    sandbox.fault("429", path="ReadPublisher", times=1)
    assert failed() == "rate_limited"
    locked = there.registry.load_states([user.user_id])[user.user_id].locked_until
    assert locked is not None
    clock.at = locked + timedelta(seconds=1)
    assert poll_once(there, user).failures == {}
    rows = contents(there, [user])

    samples = [s for row in rows["body"] for s in row[GLUCOSE]]
    instants = [s["timestamp"] for s in samples]
    assert instants == sorted(set(instants))
    # From the noon before the first poll to midnight after it there is no hole longer than a warm-up.
    gaps = [later - earlier for earlier, later in pairwise(instants)]
    assert max(gaps) < timedelta(minutes=40)
    assert instants[0] < NOW - timedelta(hours=23, minutes=20)
    assert instants[-1] > NOW + timedelta(hours=11, minutes=50)
    assert all(row["tz_source"] == "provider" for row in rows["body"])

    change_session(sandbox, "dexcom_share", "hedda", "expire")
    change_session(sandbox, "dexcom_share", "hedda", "change_password")
    assert failed() == "not_connected"
    assert contents(there, [user]) == rows
    change_session(sandbox, "dexcom_share", "hedda", "reset")
    again = sharer(there, "hedda")
    assert again.user_id == user.user_id
    assert poll_once(there, again).failures == {}
    assert contents(there, [again]) == rows


def test_a_wrong_password_connects_nobody(there: Workspace, sandbox: SandboxProcess) -> None:
    wrong = {"username": "gil", "password": "guessed"}
    with pytest.raises(NotConnectedError, match="no follower's"):
        connect(there, SHARE, wrong)
    with pytest.raises(UsageError, match="us, ous, jp"):
        connect(there, SHARE, {**wrong, "region": "mars"})
    assert there.registry.find_users(provider="dexcom_share") == []


# --- bodies of unknown origin


@pytest.mark.parametrize("whole", [[READING], READING])
def test_a_body_is_recognised(whole: object) -> None:
    found = inspect_body(SHARE, json.dumps(whole).encode(), name="body", now=NOW)
    assert (found.rejected, found.unknown_fields) == ([], [])
    assert found.tables["body"]


def test_an_empty_day_is_no_error_and_an_unknown_field_is_told() -> None:
    assert inspect_body(SHARE, b"[]", name="body", now=NOW).tables == {}
    body = json.dumps([{**READING, "Noise": 1}]).encode()
    found = inspect_body(SHARE, body, name="body", now=NOW)
    assert found.unknown_fields == ["Noise"]
    assert found.tables["body"]


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (json.dumps(code("AccountPasswordInvalid")).encode(), NotConnectedError, "login is wrong"),
        (json.dumps(code("SessionIdNotFound")).encode(), TransientError, "session has ended"),
        (json.dumps(NOBODY).encode(), NotConnectedError, "login is wrong"),
        (json.dumps(SESSION).encode(), BadPayloadError, "id of a login"),
        (b"<html></html>", BadPayloadError, "web page"),
        (b'[{"WT":"Da', BadPayloadError, "cut off"),
        (b'[{"sgv":100}]', UsageError, "--resource"),
    ],
)
def test_what_is_no_readings_says_so(body: bytes, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        inspect_body(SHARE, body, name="body", now=NOW)


# --- recorded at Share


def exchanges(corpus: Path, name: str) -> list[tuple[str, int, bytes]]:
    """Service, status and body of every answer of a recording."""
    (file,) = (corpus / "dexcom_share").glob(f"*{name}")
    found = yaml.safe_load(file.read_text())["interactions"]
    return [
        (
            one["request"]["uri"].partition("?")[0].rpartition("/")[2],
            one["response"]["status"]["code"],
            one["response"]["body"]["string"].encode(),
        )
        for one in found
    ]


@pytest.mark.corpus
def test_recorded_readings(corpus: Path, rows: Any) -> None:
    answers = exchanges(corpus, "test_get_latest_glucose_reading.yaml")
    found = [
        record
        for _, _, body in answers
        for record in SHARE.resource("readings").split(Page("readings", body, NOW))
    ]
    result = rows("dexcom_share", "body", found)
    assert result.rejected.is_empty()
    told = [
        (row["local_date"], s["timestamp"], s["local_timestamp"], s["blood_glucose_mg_per_dl"])
        for row in result.rows.to_dicts()
        for s in row[GLUCOSE]
    ]
    # 1745081013.817 s is 2025-04-19T16:43:33.817Z, 899.268 s before the second; four hours behind.
    assert told == [
        (
            date(2025, 4, 19),
            datetime(2025, 4, 19, 16, 43, 33, 817_000, tzinfo=UTC),
            naive("2025-04-19T12:43:33.817"),
            224.0,
        ),
        (
            date(2025, 4, 19),
            datetime(2025, 4, 19, 16, 58, 33, 85_000, tzinfo=UTC),
            naive("2025-04-19T12:58:33.085"),
            216.0,
        ),
        # 1750022969.925 s is 2025-06-15T21:29:29.925Z.
        (
            date(2025, 6, 15),
            datetime(2025, 6, 15, 21, 29, 29, 925_000, tzinfo=UTC),
            naive("2025-06-15T17:29:29.925"),
            175.0,
        ),
    ]


@pytest.mark.corpus
def test_every_recorded_answer_is_readings_or_one_line(corpus: Path) -> None:
    seen: set[str] = set()
    for file in sorted((corpus / "dexcom_share").glob("*.yaml")):
        for service, status, body in exchanges(corpus, file.name):
            seen.add(f"{service}/{status}")
            if status == 200 and service.startswith("Read"):
                found = inspect_body(SHARE, body, name=file.name, now=NOW)
                assert (found.rejected, found.unknown_fields) == ([], [])
                continue
            with pytest.raises((NotConnectedError, TransientError, BadPayloadError)) as raised:
                inspect_body(SHARE, body, name=file.name, now=NOW)
            assert "\n" not in str(raised.value)
    assert seen >= {
        "ReadPublisherLatestGlucoseValues/200",
        "ReadPublisherLatestGlucoseValues/500",
        "LoginPublisherAccountById/200",
        "AuthenticatePublisherAccount/500",
    }
