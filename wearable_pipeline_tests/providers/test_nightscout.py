"""Nightscout: both APIs, cursors that never run ahead, and what documents become."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from wearable_pipeline.errors import BadPayloadError, NotConnectedError, UsageError
from wearable_pipeline.providers import nightscout
from wearable_pipeline.providers._contract import Page, Record, Window

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOW_MS = 1_795_176_000_000
HOUR_MS = 3_600_000
WINDOW = Window(date(2026, 11, 18), date(2026, 11, 20), NOW)
BASE = "https://site.example.org"
SECRET = "correct horse battery"
TOKEN = "reader-0123456789abcdef"


def wall(*parts: int) -> datetime:
    """What a clock on the wall shows."""
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001


def sgv(at_ms: int, value: object, **more: object) -> dict[str, object]:
    return {"type": "sgv", "date": at_ms, "sgv": value, "device": "xDrip", **more}


class Site:
    """A Nightscout with as much of its APIs as the provider uses."""

    def __init__(self, *, has_v3: bool = True) -> None:
        self.has_v3 = has_v3
        self.entries: list[dict[str, Any]] = []
        self.treatments: list[dict[str, Any]] = []
        self.profiles: object = []
        self.permissions: dict[str, str] = {"entries": "r", "treatments": "crud"}
        self.jwt = "jwt-1"
        self.asked: list[str] = []
        self.page_size = 1000
        self.stuck = False

    def paths(self, part: str) -> list[str]:
        return [path for path in self.asked if part in path]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path, query = request.url.path, dict(request.url.params)
        self.asked.append(path)
        if path == "/api/v3/version":
            return httpx.Response(200 if self.has_v3 else 404, json={"status": 200, "result": {}})
        if path.startswith("/api/v2/authorization/request/"):
            if not path.endswith(TOKEN):
                return httpx.Response(401, json={"status": 401})
            exp = (NOW_MS + HOUR_MS) // 1000
            return httpx.Response(200, json={"token": self.jwt, "sub": "reader", "exp": exp})
        secret = hashlib.sha1(SECRET.encode(), usedforsecurity=False).hexdigest()
        has_token = request.headers.get("authorization") == f"Bearer {self.jwt}"
        if not has_token and (
            path.startswith("/api/v3") or request.headers.get("api-secret") != secret
        ):
            return httpx.Response(401, json={"status": 401, "message": "Unauthorized"})
        match path.split("/")[2:]:
            case ["v1", "status.json"]:
                return httpx.Response(200, json={"status": "ok", "apiEnabled": True})
            case ["v1", "profile.json"]:
                return httpx.Response(200, json=self.profiles)
            case ["v1", name]:
                return httpx.Response(200, json=self._v1(name.removesuffix(".json"), query))
            case ["v3", "status"]:
                result = {"apiPermissions": self.permissions}
                return httpx.Response(200, json={"status": 200, "result": result})
            case ["v3", name]:
                return self._found(self._search(name, query))
            case ["v3", name, "history", cursor]:
                return self._found(self._changed(name, 0 if self.stuck else int(cursor)))
        return httpx.Response(404)

    def _found(self, documents: list[dict[str, Any]]) -> httpx.Response:
        return httpx.Response(200, json={"status": 200, "result": documents})

    def _v1(self, name: str, query: dict[str, str]) -> list[dict[str, Any]]:
        field = "date" if name == "entries" else "created_at"
        found = sorted(getattr(self, name), key=lambda d: d[field], reverse=True)
        for key, bound in query.items():
            if not key.startswith("find"):
                continue
            limit: Any = int(bound) if field == "date" else bound
            if key.endswith("[$gte]"):
                found = [d for d in found if d[field] >= limit]
            elif key.endswith("[$lt]"):
                found = [d for d in found if d[field] < limit]
            else:
                found = [d for d in found if d[field] <= limit]
        return found[: int(query.get("count", 10))]

    def _search(self, name: str, query: dict[str, str]) -> list[dict[str, Any]]:
        field = query["sort"]
        low, high = query[f"{field}$gte"], query[f"{field}$lt"]
        bounds: Any = (int(low), int(high)) if field == "date" else (low, high)
        found = [
            d
            for d in getattr(self, name)
            if bounds[0] <= d[field] < bounds[1] and d.get("isValid") is not False
        ]
        skip = int(query["skip"])
        return sorted(found, key=lambda d: d[field])[skip : skip + int(query["limit"])]

    def _changed(self, name: str, cursor: int) -> list[dict[str, Any]]:
        found = [d for d in getattr(self, name) if d.get("srvModified", 0) > cursor]
        return sorted(found, key=lambda d: d["srvModified"])[: self.page_size]


def connect(client: Any, **values: str) -> Any:
    return asyncio.run(nightscout.connect(client, {"base_url": BASE, **values}))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("site.example.org", "https://site.example.org"),
        ("https://Site.Example.org/", "https://site.example.org"),
        (" http://127.0.0.1:1337/ns/ ", "http://127.0.0.1:1337/ns"),
        ("https://site.example.org/api/v1/entries.json", "https://site.example.org"),
        ("https://site.example.org/api", "https://site.example.org"),
    ],
)
def test_what_people_paste_becomes_the_address_of_the_site(given: str, kept: str) -> None:
    assert nightscout.check_base_url(given) == kept


@pytest.mark.parametrize(
    "given", ["", "ftp://site", "https://", "https://a:b@site.org", "https://site:x"]
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="base_url"):
        nightscout.check_base_url(given)


def test_the_secret_is_kept_as_its_hash_and_opens_v1(client_for: Callable[..., Any]) -> None:
    site = Site()
    site.profiles = [
        {"defaultProfile": "Day", "store": {"Day": {"timezone": "America/Los_Angeles"}}}
    ]
    connected = connect(client_for(site), api_secret=SECRET)
    digest = hashlib.sha1(SECRET.encode(), usedforsecurity=False).hexdigest()
    assert connected.credentials == {"api_secret_sha1": digest}
    assert connected.config == {"base_url": BASE, "api": "v1"}
    assert connected.timezone == "America/Los_Angeles"
    assert connected.account_id == BASE


def test_a_token_opens_v3_where_there_is_one(client_for: Callable[..., Any]) -> None:
    connected = connect(client_for(Site()), token=TOKEN)
    assert connected.config["api"] == "v3"
    assert connected.credentials["jwt"] == "jwt-1"


def test_a_token_reads_v1_where_v3_is_missing_or_closed(client_for: Callable[..., Any]) -> None:
    assert connect(client_for(Site(has_v3=False)), token=TOKEN).config["api"] == "v1"
    closed = Site()
    closed.permissions = {"entries": "r"}
    assert connect(client_for(closed), token=TOKEN).config["api"] == "v1"


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({}, UsageError),
        ({"api_secret": "wrong"}, NotConnectedError),
        ({"token": "wrong"}, NotConnectedError),
    ],
)
def test_wrong_keys_do_not_connect_and_are_not_repeated(
    client_for: Callable[..., Any], values: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error) as raised:
        connect(client_for(Site()), **values)
    assert "wrong" not in str(raised.value)


def test_an_address_without_nightscout_is_the_callers_mistake(
    client_for: Callable[..., Any],
) -> None:
    def shop(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>Welcome</html>")

    with pytest.raises(UsageError, match="no Nightscout"):
        connect(client_for(shop), api_secret=SECRET)


@pytest.mark.parametrize(
    ("profiles", "zone"),
    [
        ([], None),
        ({}, None),
        ([{"store": {}}], None),
        ([{"defaultProfile": "D", "store": {"D": {"timezone": "Mars/Base"}}}], None),
        ([{"defaultProfile": "D", "store": {"D": {"timezone": "ETC/GMT+3"}}}], "Etc/GMT+3"),
    ],
)
def test_a_profile_that_names_no_zone_leaves_it_unknown(
    client_for: Callable[..., Any], profiles: object, zone: str | None
) -> None:
    site = Site()
    site.profiles = profiles
    assert connect(client_for(site), api_secret=SECRET).timezone == zone


# --- fetching


@pytest.fixture
def v3(connection_of: Callable[..., Any]) -> Any:
    return connection_of(
        {"token": TOKEN, "jwt": "jwt-1", "jwt_expires_at": (NOW_MS + HOUR_MS) // 1000},
        {"base_url": BASE, "api": "v3"},
    )


@pytest.fixture
def v1(connection_of: Callable[..., Any]) -> Any:
    digest = hashlib.sha1(SECRET.encode(), usedforsecurity=False).hexdigest()
    return connection_of({"api_secret_sha1": digest}, {"base_url": BASE, "api": "v1"})


def dates_of(pages: list[Page], collection: str) -> list[int]:
    return [
        json.loads(bytes(item))["date"]
        for page in pages
        if page.resource == collection
        for item in nightscout.split_items(page.body)
    ]


def fetched(fetch_all: Any, client: Any, connection: Any, window: Window = WINDOW) -> list[Page]:
    found: list[Page] = asyncio.run(fetch_all("nightscout", client, connection, window))
    return found


def test_the_first_fetch_reads_the_window_and_sets_the_cursor_behind_what_may_change(
    client_for: Callable[..., Any], fetch_all: Any, v3: Any
) -> None:
    site = Site()
    old, recent, fresh = NOW_MS - 20 * 24 * HOUR_MS, NOW_MS - HOUR_MS, NOW_MS - 60_000
    site.entries = [sgv(at, 100, identifier=str(at), srvModified=at) for at in (old, recent, fresh)]
    pages = fetched(fetch_all, client_for(site), v3)
    assert dates_of(pages, "entries") == [recent, fresh]
    assert site.paths("history") == []
    # Ten minutes before now, because the newest change is one minute old.
    assert v3.state["entries_modified"] == NOW_MS - 600_000
    assert v3.state["entries_since"] == "2026-11-18"


def test_later_fetches_follow_the_history_with_late_and_deleted_documents(
    client_for: Callable[..., Any], fetch_all: Any, split: Any, v3: Any
) -> None:
    site = Site()
    v3.state.update(
        entries_modified=NOW_MS - 24 * HOUR_MS,
        entries_since="2026-11-01",
        treatments_modified=NOW_MS,
        treatments_since="2026-11-01",
    )
    late = sgv(NOW_MS - 240 * HOUR_MS, 90, identifier="late", srvModified=NOW_MS - 7)
    gone = sgv(NOW_MS - 48 * HOUR_MS, 80, identifier="gone", srvModified=NOW_MS - 5, isValid=False)
    site.entries = [late, gone]
    records = split("nightscout", fetched(fetch_all, client_for(site), v3))
    assert [(r.record_id, r.is_deleted) for r in records] == [("late", False), ("gone", True)]
    assert records[0].provider_updated_at == NOW - timedelta(milliseconds=7)
    assert v3.state["entries_modified"] == NOW_MS - 5


def test_documents_written_through_v1_are_found_by_date_although_history_omits_them(
    client_for: Callable[..., Any], fetch_all: Any, v3: Any
) -> None:
    site = Site()
    v3.state.update(entries_modified=NOW_MS, entries_since="2026-11-01")
    site.entries = [sgv(NOW_MS - 23 * HOUR_MS, 90), sgv(NOW_MS - 30 * HOUR_MS, 90)]
    assert dates_of(fetched(fetch_all, client_for(site), v3), "entries") == [NOW_MS - 23 * HOUR_MS]
    assert v3.state["entries_modified"] == NOW_MS


def test_an_earlier_window_is_searched_even_with_a_cursor(
    client_for: Callable[..., Any], fetch_all: Any, v3: Any
) -> None:
    site = Site()
    v3.state.update(entries_modified=NOW_MS, entries_since="2026-11-18")
    site.entries = [sgv(NOW_MS - 10 * 24 * HOUR_MS, 90)]
    window = Window(date(2026, 11, 10), date(2026, 11, 11), NOW)
    assert len(dates_of(fetched(fetch_all, client_for(site), v3, window), "entries")) == 1
    assert v3.state["entries_since"] == "2026-11-10"


def test_the_history_is_paged_to_its_end_without_skipping_a_shared_millisecond(
    client_for: Callable[..., Any], fetch_all: Any, v3: Any
) -> None:
    site = Site()
    v3.state.update(entries_modified=NOW_MS - 10_000, entries_since="2026-11-01")
    # Document 1000 and 1001 were changed in the same millisecond, on both sides of the page's end.
    modified = [*range(999), 998, *range(999, 1500)]
    long_ago = NOW_MS - 100 * HOUR_MS
    site.entries = [
        sgv(long_ago + n, 90, identifier=str(n), srvModified=NOW_MS - 9_000 + at)
        for n, at in enumerate(modified)
    ]
    site.entries[999]["srvModified"] = site.entries[1000]["srvModified"]
    pages = fetched(fetch_all, client_for(site), v3)
    assert set(dates_of(pages, "entries")) == {long_ago + n for n in range(len(modified))}
    assert v3.state["entries_modified"] == NOW_MS - 9_000 + 1499


def test_the_cursor_stands_where_the_last_stored_page_ended(
    client_for: Callable[..., Any], v3: Any
) -> None:
    site = Site()
    v3.state.update(entries_modified=0, entries_since="2026-11-01")
    site.entries = [
        sgv(NOW_MS - 100 * HOUR_MS, 90, identifier=str(n), srvModified=1_000_000 + n)
        for n in range(1500)
    ]

    async def take_one() -> None:
        pages = nightscout.fetch(client_for(site), v3, WINDOW)
        await anext(pages)

    asyncio.run(take_one())
    assert v3.state["entries_modified"] == 0


def test_a_history_that_repeats_itself_is_an_error_not_a_loop(
    client_for: Callable[..., Any], fetch_all: Any, v3: Any
) -> None:
    site = Site()
    site.stuck = True
    v3.state.update(entries_modified=NOW_MS, entries_since="2026-11-01")
    site.entries = [sgv(NOW_MS - 100 * HOUR_MS, 90, srvModified=5_000_000 + n) for n in range(1000)]
    with pytest.raises(BadPayloadError, match="repeats itself"):
        fetched(fetch_all, client_for(site), v3)
    assert len(site.paths("history")) == 1


def test_a_refused_session_is_renewed_once(
    client_for: Callable[..., Any], fetch_all: Any, v3: Any
) -> None:
    site = Site()
    site.jwt = "jwt-2"
    fetched(fetch_all, client_for(site), v3)
    assert v3.credentials["jwt"] == "jwt-2"
    assert len(site.paths("authorization")) == 1


def test_a_revoked_token_is_not_connected(
    client_for: Callable[..., Any], fetch_all: Any, v3: Any
) -> None:
    v3.credentials.update(token="revoked", jwt_expires_at=0)
    with pytest.raises(NotConnectedError, match="access token"):
        fetched(fetch_all, client_for(Site()), v3)


def test_v1_reads_the_window_and_a_day_around_it_page_by_page(
    client_for: Callable[..., Any], fetch_all: Any, v1: Any
) -> None:
    site = Site()
    # Every minute from noon of the 20th back: 3,900 minutes reach into the 17th.
    site.entries = [sgv(NOW_MS - n * 60_000, 90) for n in range(3_900)]
    pages = fetched(fetch_all, client_for(site), v1)
    # Begin is 2026-11-17 00:00 UTC, 84 hours before: all of them are inside.
    assert set(dates_of(pages, "entries")) == {NOW_MS - n * 60_000 for n in range(3_900)}
    assert len(site.paths("entries")) == 4
    assert v1.state == {}


def test_v1_leaves_out_what_is_further_away(
    client_for: Callable[..., Any], fetch_all: Any, v1: Any
) -> None:
    site = Site()
    inside, outside = NOW_MS - 84 * HOUR_MS, NOW_MS - 84 * HOUR_MS - 1
    site.entries = [sgv(inside, 90), sgv(outside, 90)]
    site.treatments = [
        {"created_at": "2026-11-17T00:00:00.000Z", "eventType": "Note", "date": 1},
        {"created_at": "2026-11-16T23:59:59.999Z", "eventType": "Note", "date": 2},
    ]
    pages = fetched(fetch_all, client_for(site), v1)
    assert dates_of(pages, "entries") == [inside]
    assert dates_of(pages, "treatments") == [1]


def test_v1_with_a_page_of_one_instant_is_an_error_not_a_loop(
    client_for: Callable[..., Any], fetch_all: Any, v1: Any
) -> None:
    site = Site()
    site.entries = [sgv(NOW_MS, 90 + n % 3) for n in range(1200)]
    with pytest.raises(BadPayloadError, match="one instant"):
        fetched(fetch_all, client_for(site), v1)


# --- splitting


def page(items: list[dict[str, Any]], resource: str = "entries", zone: str | None = None) -> Page:
    return Page(resource, json.dumps(items).encode(), NOW, {"timezone": zone})


@pytest.mark.parametrize(
    ("fields", "record_id"),
    [
        ({"identifier": "abc", "sysTime": "t", "_id": "x"}, "abc"),
        ({"sysTime": "2026-11-20T11:00:00.000Z"}, "2026-11-20T11:00:00.000Z/sgv"),
        ({}, f"{NOW_MS}/sgv/xDrip"),
    ],
)
def test_entries_have_the_identity_nightscout_gives_them(
    split: Any, fields: dict[str, object], record_id: str
) -> None:
    (record,) = split("nightscout", [page([sgv(NOW_MS, 100, **fields)])])
    assert record.record_id == record_id


def test_two_pumps_at_the_same_second_are_two_treatments(split: Any) -> None:
    dose = {"created_at": "2026-11-20T11:00:00.000Z", "eventType": "Correction Bolus", "insulin": 1}
    doses = [dose, dose | {"pumpSerial": "A", "pumpId": 1}, dose | {"pumpSerial": "B", "pumpId": 1}]
    records = split("nightscout", [page(doses, "treatments")])
    assert [record.record_id for record in records] == [
        "2026-11-20T11:00:00.000Z/Correction Bolus",
        "2026-11-20T11:00:00.000Z/Correction Bolus/A/1",
        "2026-11-20T11:00:00.000Z/Correction Bolus/B/1",
    ]


def test_both_shapes_of_v3_and_the_list_of_v1_are_read() -> None:
    assert len(nightscout.split_items(b' [{"a":1}]')) == 1
    assert len(nightscout.split_items(b'{"status":200,"result":[{"a":1},{"a":2}]}')) == 2
    for body in (b"", b'[{"a":1}', b"<html>", b'{"status":200}'):
        with pytest.raises(BadPayloadError):
            nightscout.split_items(body)


# 2026-11-20 06:30 UTC
MORNING = NOW_MS - 5 * HOUR_MS - HOUR_MS // 2


@pytest.mark.parametrize(
    ("fields", "zone", "offset_hours", "source", "day"),
    [
        ({"utcOffset": -480}, "Europe/Berlin", -8, "provider", 19),
        ({"utcOffset": "60"}, None, 1, "provider", 20),
        ({"dateString": "2026-11-19T22:30:00-08:00"}, "Europe/Berlin", -8, "provider", 19),
        ({"dateString": "2026-11-19T22:30:00-0800"}, None, -8, "provider", 19),
        ({"dateString": "2026-11-20T06:30:00.000Z"}, "America/Los_Angeles", -8, "profile", 19),
        # The server writes 0 for whoever sends UTC: the profile knows better.
        (
            {"utcOffset": 0, "dateString": "2026-11-20T06:30:00.000Z"},
            "America/Los_Angeles",
            -8,
            "profile",
            19,
        ),
        ({"utcOffset": 0}, None, 0, "provider", 20),
        ({"utcOffset": 5000}, None, None, "unknown", 20),
        ({"dateString": "2026-11-20T06:30:00.000Z"}, None, None, "unknown", 20),
        ({}, None, None, "unknown", 20),
    ],
)
def test_the_local_day_comes_from_who_knows_it_best(
    split: Any,
    rows: Any,
    fields: dict[str, object],
    zone: str | None,
    offset_hours: int | None,
    source: str,
    day: int,
) -> None:
    (record,) = split("nightscout", [page([sgv(MORNING, 100, **fields)], zone=zone)])
    assert record.local_date == date(2026, 11, day)
    (row,) = rows("nightscout", "body", [record]).rows.to_dicts()
    (sample,) = row["glucose_blood_glucose_samples"]
    assert sample["timestamp"] == datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
    expected = (
        None if offset_hours is None else wall(2026, 11, 20, 6, 30) + timedelta(hours=offset_hours)
    )
    assert sample["local_timestamp"] == expected
    assert row["tz_source"] == source
    assert row["timezone"] == (zone if source == "profile" else None)


def test_dates_before_2000_are_kept_under_the_day_of_the_fetch_and_quarantined(
    split: Any, rows: Any
) -> None:
    records = split("nightscout", [page([sgv(946_684_799_999, 100), sgv(MORNING, 100)])])
    assert [record.local_date for record in records] == [date(2026, 11, 20)] * 2
    result = rows("nightscout", "body", records)
    assert result.rejected.height == 1
    assert "2000" in result.rejected["reason"][0]
    assert len(samples_of(result)) == 1


# --- samples


def samples_of(result: Any, column: str = "glucose_blood_glucose_samples") -> list[dict[str, Any]]:
    return [sample for row in result.rows[column].to_list() for sample in row or []]


def entries_become(split: Any, rows: Any, *items: dict[str, Any]) -> list[dict[str, Any]]:
    return samples_of(rows("nightscout", "body", split("nightscout", [page(list(items))])))


@pytest.mark.parametrize("code", [1, 2, 3, 5, 6, 9, 10, 12, 38, "5"])
def test_tiny_values_are_faults_of_the_sensor_not_glucose(
    split: Any, rows: Any, code: object
) -> None:
    (sample,) = entries_become(split, rows, sgv(MORNING, code))
    assert sample["blood_glucose_mg_per_dl"] is None
    assert sample["native_value"] is None
    assert sample["sensor_status"] == f"error:{code}"


def test_numbers_in_quotes_are_numbers_and_39_is_a_value(split: Any, rows: Any) -> None:
    found = entries_become(split, rows, sgv(MORNING, "102"), sgv(MORNING + 300_000, 39))
    assert [s["blood_glucose_mg_per_dl"] for s in found] == [102.0, 39.0]
    assert [s["native_unit"] for s in found] == ["mg/dL", "mg/dL"]
    assert [s["sensor_status"] for s in found] == [None, None]
    assert found[0]["device_id"] == "xDrip"


@pytest.mark.parametrize(
    ("direction", "arrow"),
    [
        ("TripleDown", "falling_quickly"),
        ("DoubleDown", "falling_quickly"),
        ("SingleDown", "falling_quickly"),
        ("FortyFiveDown", "falling"),
        ("Flat", "flat"),
        ("FortyFiveUp", "rising"),
        ("SingleUp", "rising_quickly"),
        ("DoubleUp", "rising_quickly"),
        ("TripleUp", "rising_quickly"),
        ("NONE", "unknown"),
        ("NOT COMPUTABLE", "unknown"),
        ("NotComputable", "unknown"),
        ("RATE OUT OF RANGE", "unknown"),
        ("", None),
        (None, None),
    ],
)
def test_directions_become_arrows_and_stay_beside_them(
    split: Any, rows: Any, direction: str | None, arrow: str | None
) -> None:
    (sample,) = entries_become(split, rows, sgv(MORNING, 100, direction=direction))
    assert sample["trend_arrow"] == arrow
    assert sample["native_trend"] == (direction or None)


def test_meters_are_finger_sticks_and_calibrations_are_nothing(split: Any, rows: Any) -> None:
    found = entries_become(
        split,
        rows,
        {"type": "mbg", "date": MORNING, "mbg": 120, "device": "meter"},
        {"type": "cal", "date": MORNING, "slope": 800, "intercept": 30000, "scale": 1},
        {"type": "etc", "date": MORNING},
    )
    (sample,) = found
    assert sample["sample_kind"] == "fingerstick"
    assert sample["blood_glucose_mg_per_dl"] == 120.0


def test_a_deleted_entry_leaves_no_sample(split: Any, rows: Any) -> None:
    first = split("nightscout", [page([sgv(MORNING, 100, identifier="a", srvModified=NOW_MS - 9)])])
    then = split(
        "nightscout",
        [page([sgv(MORNING, 100, identifier="a", srvModified=NOW_MS - 3, isValid=False)])],
    )
    assert samples_of(rows("nightscout", "body", first, then)) == []
    # The order of arrival does not matter, the time of change does.
    assert samples_of(rows("nightscout", "body", then, first)) == []


def treatment(**fields: object) -> dict[str, Any]:
    return {"created_at": "2026-11-20T06:30:00.000Z", "eventType": "Note", **fields}


def test_meals_insulin_and_finger_sticks_of_treatments(split: Any, rows: Any) -> None:
    items = [
        treatment(eventType="Meal Bolus", carbs="45", protein=20, fat=None, insulin="3.5"),
        treatment(
            eventType="BG Check",
            created_at="2026-11-20T07:30:00+01:00",
            glucose="5.6",
            glucoseType="Finger",
            units="mmol",
        ),
        treatment(
            eventType="Bolus Wizard",
            created_at="2026-11-20T06:31:00Z",
            glucose=134,
            glucoseType="Sensor",
            units="mg/dl",
            carbs=0,
            insulin=0,
        ),
        treatment(eventType="Note", created_at="2026-11-20T06:32:00Z", notes=" Long walk "),
        treatment(eventType="Temp Basal", duration="30", absolute="1.425"),
        treatment(
            eventType="Announcement",
            created_at="2026-11-20T06:33:00Z",
            glucose=101,
            glucoseType="Manual",
            units="mg/dl",
        ),
        treatment(eventType="BG Check2", glucose=101, glucoseType="Finger"),
    ]
    records = split("nightscout", [page(items, "treatments", "Europe/Berlin")])
    body = rows("nightscout", "body", records)
    assert body.rejected.is_empty()
    finger, manual = sorted(samples_of(body), key=lambda s: s["timestamp"])
    assert finger["timestamp"] == datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
    assert finger["sample_kind"] == "fingerstick"
    assert (finger["native_value"], finger["native_unit"]) == (5.6, "mmol/L")
    # 5.6 x 18.0156
    assert finger["blood_glucose_mg_per_dl"] == pytest.approx(100.88736)
    assert (manual["sample_kind"], manual["blood_glucose_mg_per_dl"]) == ("manual", 101.0)
    measured = [
        (m["insulin_units"], m["insulin_type"], m["user_notes"])
        for m in sorted(
            samples_of(body, "measurements_measurements"), key=lambda m: m["measurement_time"]
        )
    ]
    assert measured == [(3.5, None, None), (None, None, "Long walk")]
    (meal,) = samples_of(rows("nightscout", "nutrition", records), "meals")
    assert (meal["macros_carbohydrates_g"], meal["macros_protein_g"]) == (45.0, 20.0)
    assert meal["macros_fat_g"] is None
    assert meal["local_timestamp"] == wall(2026, 11, 20, 7, 30)
    assert meal["type"] == "unknown"


def test_a_snack_with_fat_is_a_meal_and_a_correction_without_carbohydrates_is_none(
    split: Any, rows: Any
) -> None:
    items = [
        treatment(eventType="Snack Bolus", carbs=12.5, fat="8", protein=None, insulin=1),
        treatment(eventType="Correction Bolus", created_at="2026-11-20T06:35:00Z", insulin=2),
    ]
    records = split("nightscout", [page(items, "treatments", "America/New_York")])
    result = rows("nightscout", "nutrition", records)
    # Half past six in UTC is half past one in New York.
    assert result.rows["local_date"].to_list() == [date(2026, 11, 20)]
    (meal,) = samples_of(result, "meals")
    assert (meal["macros_carbohydrates_g"], meal["macros_fat_g"]) == (12.5, 8.0)
    assert meal["macros_protein_g"] is None
    assert meal["timestamp"] == datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
    assert meal["local_timestamp"] == wall(2026, 11, 20, 1, 30)


def test_the_date_of_a_treatment_wins_over_its_text(split: Any, rows: Any) -> None:
    item = treatment(created_at="2026-11-20T01:00:00Z", date=MORNING, carbs=10)
    records = split("nightscout", [page([item], "treatments")])
    (meal,) = samples_of(rows("nightscout", "nutrition", records), "meals")
    assert meal["timestamp"] == datetime(2026, 11, 20, 6, 30, tzinfo=UTC)


def test_a_treatment_without_an_instant_is_quarantined(split: Any, rows: Any) -> None:
    items = [treatment(created_at="2026-11-20T06:30:00", carbs=10), {"carbs": 10}]
    records: list[Record] = split("nightscout", [page(items, "treatments")])
    assert records[1].record_id.startswith("sha256:")
    result = rows("nightscout", "nutrition", records)
    assert result.rejected.height == 2
    assert result.rows.is_empty()


# --- bodies of others


@pytest.mark.corpus
def test_the_recorded_entries_trust_date_over_the_drifted_receiver(
    corpus: Path, split: Any, rows: Any
) -> None:
    name = (
        "nightscout__cgm-remote-monitor__tests_fixtures_openaps-storage_cgm-loop_monitor_"
        "glucose-zoned-merge.json"
    )
    body = (corpus / "nightscout" / name).read_bytes()
    records = split("nightscout", [Page("entries", body, NOW, {})])
    assert len(records) == 4
    assert all(record.body in body for record in records)
    (row,) = rows("nightscout", "body", records).rows.to_dicts()
    newest = row["glucose_blood_glucose_samples"][-1]
    # 1477247616000 is 2016-10-23 18:33:36 UTC; display_time is 11:33:36-07:00.
    assert newest["timestamp"] == datetime(2016, 10, 23, 18, 33, 36, tzinfo=UTC)
    assert newest["local_timestamp"] == wall(2016, 10, 23, 11, 33, 36)
    assert newest["blood_glucose_mg_per_dl"] == 102.0
    assert row["utc_offset_seconds"] == -25_200
    values = [s["blood_glucose_mg_per_dl"] for s in row["glucose_blood_glucose_samples"]]
    assert values == [87.0, 91.0, 98.0, 102.0]


@pytest.mark.corpus
def test_offsets_without_a_colon_and_numbers_as_strings_are_read(
    corpus: Path, split: Any, rows: Any
) -> None:
    folder = corpus / "nightscout"
    entries = Page("entries", (folder / "openaps__oref0__examples_glucose.json").read_bytes(), NOW)
    found = samples_of(rows("nightscout", "body", split("nightscout", [entries])))
    assert len(found) == 6
    # 1527922800000 is 2018-06-02 07:00 UTC, midnight in Los Angeles.
    assert found[0]["local_timestamp"] == wall(2018, 6, 2)
    history = (
        "nightscout__cgm-remote-monitor__tests_fixtures_openaps-storage_loop_nightscout_"
        "pump-history-formatted.json"
    )
    basals = split("nightscout", [Page("treatments", (folder / history).read_bytes(), NOW)])
    assert [record.local_date for record in basals] == [date(2016, 10, 23)] * 2
    carbs = (folder / "openaps__oref0__examples_carbhistory.json").read_bytes()
    meals = samples_of(
        rows("nightscout", "nutrition", split("nightscout", [Page("treatments", carbs, NOW)])),
        "meals",
    )
    assert sum(meal["macros_carbohydrates_g"] for meal in meals) == 20.0


@pytest.mark.corpus
def test_documents_in_the_manner_of_androidaps_are_told_apart(
    corpus: Path, split: Any, rows: Any
) -> None:
    name = "nightscout__cgm-remote-monitor__tests_fixtures_aaps-patterns.json"
    patterns = json.loads((corpus / "nightscout" / name).read_bytes())
    entries = [
        *patterns["SGV_ENTRIES"]["HIGH_FREQUENCY_BATCH"],
        patterns["SGV_ENTRIES"]["SINGLE_READING"],
    ]
    found = samples_of(rows("nightscout", "body", split("nightscout", [page(entries)])))
    assert [s["trend_arrow"] for s in found] == [
        *("flat", "flat", "rising", "rising_quickly", "flat", "falling"),
    ]
    doses = [value for key, value in patterns["DEDUPLICATION_TESTS"].items() if key != "COMMENT"]
    records = split("nightscout", [page(doses, "treatments")])
    # The second repeats the first; another pump or another delivery does not.
    assert len({record.record_id for record in records}) == 3
