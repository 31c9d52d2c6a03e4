import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from wearable_pipeline.sandbox import people
from wearable_pipeline.sandbox.people import epoch, person

NOW = datetime(2026, 11, 20, 7, 0, tzinfo=UTC)
DAG = "/nightscout/dag"
ESI = "/nightscout/esi"
DAY_MS = 86_400_000
NOW_MS = 1_795_158_000_000


def secret(name: str) -> dict[str, str]:
    return {
        "api-secret": hashlib.new(
            "sha1", person(name).api_secret.encode(), usedforsecurity=False
        ).hexdigest()
    }


def bearer(client: httpx.Client, name: str) -> dict[str, str]:
    token = person(name).access_token
    body = client.get(f"/nightscout/{name}/api/v2/authorization/request/{token}").json()
    return {"authorization": f"Bearer {body['token']}"}


def results(client: httpx.Client, path: str, name: str = "dag") -> list[dict[str, Any]]:
    answer = client.get(f"/nightscout/{name}/api/v3/{path}", headers=bearer(client, name))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["status"] == 200
    found: list[dict[str, Any]] = body["result"]
    return found


def glucose(entries: list[dict[str, Any]]) -> set[tuple[datetime, int]]:
    return {
        (people.moment(entry["date"] // 1000), int(entry["sgv"]))
        for entry in entries
        if entry["type"] == "sgv" and int(entry["sgv"]) >= 39
    }


def test_nobody_gets_in_without_credentials(client: httpx.Client) -> None:
    for path in ("/api/v1/entries.json", "/api/v1/status.json", "/api/v3/entries"):
        assert client.get(DAG + path).status_code == 401
    wrong = {"api-secret": hashlib.new("sha1", b"wrong", usedforsecurity=False).hexdigest()}
    assert client.get(f"{DAG}/api/v1/entries.json", headers=wrong).status_code == 401
    assert client.get(f"{DAG}/api/v1/entries.json", headers=secret("esi")).status_code == 401
    assert client.get(f"{DAG}/api/v2/authorization/request/wrong").status_code == 401
    assert client.get(f"{DAG}/api/v3/version").status_code == 200


def test_v1_takes_the_secret_the_token_and_the_jwt(client: httpx.Client) -> None:
    path = f"{DAG}/api/v1/entries.json"
    assert client.get(path, headers=secret("dag")).status_code == 200
    assert client.get(path, params={"token": person("dag").access_token}).status_code == 200
    assert client.get(path, headers=bearer(client, "dag")).status_code == 200


def test_v3_takes_tokens_but_not_the_secret(client: httpx.Client) -> None:
    path = f"{DAG}/api/v3/entries"
    assert client.get(path, headers=secret("dag")).status_code == 401
    assert client.get(path, params={"token": person("dag").access_token}).status_code == 200
    assert client.get(path, headers=bearer(client, "dag")).status_code == 200


def test_a_jwt_lasts_an_hour(client: httpx.Client) -> None:
    headers = bearer(client, "dag")
    client.post("/control/clock", json={"advance": 3599})
    assert client.get(f"{DAG}/api/v3/entries?limit=1", headers=headers).status_code == 200
    client.post("/control/clock", json={"advance": 1})
    assert client.get(f"{DAG}/api/v3/entries?limit=1", headers=headers).status_code == 401


def test_v1_gives_the_ten_newest_entries_by_default(client: httpx.Client) -> None:
    entries = client.get(f"{DAG}/api/v1/entries.json", headers=secret("dag")).json()
    assert len(entries) == 10
    dates = [entry["date"] for entry in entries]
    assert dates == sorted(dates, reverse=True)
    assert NOW_MS - dates[0] < 3 * 3_600_000


def test_v1_filters_entries_by_date_and_counts(client: httpx.Client) -> None:
    query = f"find[date][$gte]={NOW_MS - 3 * DAY_MS}&find[date][$lt]={NOW_MS - 2 * DAY_MS}"
    path = f"{DAG}/api/v1/entries/sgv.json?count=1000&{query}"
    entries = client.get(path, headers=secret("dag")).json()
    assert {entry["type"] for entry in entries} == {"sgv"}
    assert glucose(entries) == people.truth(
        person("dag"), NOW - timedelta(days=3), NOW - timedelta(days=2), NOW
    )
    fewer = client.get(path.replace("1000", "7"), headers=secret("dag")).json()
    assert fewer == entries[:7]


def test_v1_without_a_date_filter_looks_back_four_days(client: httpx.Client) -> None:
    path = f"{DAG}/api/v1/entries.json?count=100000"
    entries = client.get(path, headers=secret("dag")).json()
    assert min(entry["date"] for entry in entries) >= NOW_MS - 4 * DAY_MS
    assert min(entry["date"] for entry in entries) < NOW_MS - 3 * DAY_MS


def test_v1_compares_created_at_as_text(client: httpx.Client) -> None:
    def created(bound: str) -> list[str]:
        path = f"{DAG}/api/v1/treatments.json?find[created_at][$gte]={bound}"
        found = client.get(path, headers=secret("dag")).json()
        return [treatment["created_at"] for treatment in found]

    since = created("2026-11-19")
    assert since
    assert min(since) >= "2026-11-19T00:00:00.000Z"
    # As text, 'T07' of the bound is behind 'T06…Z' whatever offset it carries.
    assert all(one >= "2026-11-19T07" for one in created("2026-11-19T07:00:00%2B05:00"))


def test_entries_carry_the_oddities_real_sites_have(client: httpx.Client) -> None:
    query = f"count=100000&find[date][$gte]={NOW_MS - 28 * DAY_MS}"
    entries = client.get(f"{DAG}/api/v1/entries.json?{query}", headers=secret("dag")).json()
    sgv = [entry for entry in entries if entry["type"] == "sgv"]
    assert any(isinstance(entry["sgv"], str) for entry in sgv)
    assert any(isinstance(entry["sgv"], int) for entry in sgv)
    errors = [entry for entry in sgv if int(entry["sgv"]) < 39]
    assert errors
    assert {entry["direction"] for entry in errors} == {"NOT COMPUTABLE"}
    assert {"NONE", "Flat", "FortyFiveUp", "FortyFiveDown"} <= {e["direction"] for e in sgv}
    meter = [entry for entry in entries if entry["type"] == "mbg"]
    assert meter
    assert all("sgv" not in entry and entry["mbg"] >= 20 for entry in meter)
    # New York is five hours behind in November and four before 2026-11-01 06:00 UTC.
    assert {entry["utcOffset"] for entry in entries} == {-240, -300}


def test_treatments_cover_what_people_enter(client: httpx.Client) -> None:
    path = f"{DAG}/api/v1/treatments.json?find[created_at][$gte]=2026-10-20"
    treatments = client.get(path, headers=secret("dag")).json()
    by_event: dict[str, dict[str, Any]] = {one["eventType"]: one for one in treatments}
    assert set(by_event) >= {
        "Meal Bolus",
        "Correction Bolus",
        "Carb Correction",
        "Sensor Change",
        "BG Check",
        "Temp Basal",
        "Exercise",
    }
    assert by_event["Meal Bolus"]["carbs"] > 0
    assert by_event["Meal Bolus"]["insulin"] > 0
    assert by_event["Temp Basal"]["duration"] == "30"
    assert by_event["BG Check"]["glucoseType"] == "Finger"


def test_profile_and_status_say_zone_and_unit(client: httpx.Client) -> None:
    headers = secret("esi")
    (profile,) = client.get(f"{ESI}/api/v1/profile.json", headers=headers).json()
    default = profile["store"]["Default"]
    assert (default["timezone"], default["units"]) == ("Australia/Adelaide", "mmol")
    status = client.get(f"{ESI}/api/v1/status.json", headers=headers).json()
    assert (status["status"], status["settings"]["units"]) == ("ok", "mmol")


def test_v3_search_pages_without_gap_or_overlap(client: httpx.Client) -> None:
    query = f"entries?sort$desc=date&date$gte={NOW_MS - 2 * DAY_MS}&type$eq=sgv"
    whole = results(client, f"{query}&limit=1000")
    pages = [
        entry
        for skip in range(0, len(whole) + 100, 100)
        for entry in results(client, f"{query}&limit=100&skip={skip}")
    ]
    assert pages == whole
    assert glucose(whole) == people.truth(person("dag"), NOW - timedelta(days=2), NOW, NOW)
    assert all("_id" not in entry and entry["identifier"] for entry in whole)


@pytest.mark.parametrize(
    "query",
    ["limit=1001", "limit=0", "limit=x", "skip=-1", "sort=date&sort$desc=date", "date$near=5"],
)
def test_v3_refuses_bad_parameters(client: httpx.Client, query: str) -> None:
    path = f"{DAG}/api/v3/entries?{query}"
    assert client.get(path, headers=bearer(client, "dag")).status_code == 400


def test_v3_fields_and_reading_one_document(client: httpx.Client) -> None:
    (chosen,) = results(client, "entries?limit=1&fields=date,sgv")
    assert set(chosen) == {"date", "sgv"}
    (entry,) = results(client, "entries?limit=1&sort$desc=date&type=sgv")
    path = f"{DAG}/api/v3/entries/{entry['identifier']}"
    headers = bearer(client, "dag")
    assert client.get(path, headers=headers).json()["result"] == entry
    assert client.get(f"{DAG}/api/v3/entries/{'0' * 24}", headers=headers).status_code == 404
    assert client.get(f"{DAG}/api/v3/nonsense", headers=headers).status_code == 404


def test_v3_history_walks_through_everything_once(client: httpx.Client) -> None:
    seen: dict[str, dict[str, Any]] = {}
    since, headers = 0, bearer(client, "dag")
    for _ in range(100):
        path = f"{DAG}/api/v3/entries/history/{since}?limit=500"
        answer = client.get(path, headers=headers)
        page = answer.json()["result"]
        if not page:
            break
        modified = [entry["srvModified"] for entry in page]
        assert modified == sorted(modified)
        assert modified[0] > since
        assert answer.headers["etag"] == f'W/"{modified[-1]}"'
        assert not seen.keys() & {entry["identifier"] for entry in page}
        seen |= {entry["identifier"]: entry for entry in page}
        since = modified[-1]
    valid = [entry for entry in seen.values() if entry.get("isValid") is not False]
    start = NOW - timedelta(days=person("dag").history_days)
    assert glucose(valid) == people.truth(person("dag"), start, NOW, NOW)
    assert any(entry.get("isValid") is False for entry in seen.values())


def test_v3_history_tells_late_corrected_and_deleted_entries(client: httpx.Client) -> None:
    who = person("dag")
    readings = people.readings(who, epoch(NOW) - 10 * people.DAY, epoch(NOW) - 2 * people.DAY)
    late = next(one for one in readings if one.available_at - one.at > 1800)
    corrected = next(one for one in readings if one.corrected_at is not None)
    deleted = next(one for one in readings if one.deleted_at is not None)
    for reading, moment in (
        (late, late.available_at),
        (corrected, corrected.corrected_at),
        (deleted, deleted.deleted_at),
    ):
        assert moment is not None
        before = people.moment(moment - 5)
        client.post("/control/clock", json={"now": before.isoformat()})
        cursor = results(client, "entries?sort$desc=srvModified&limit=1")[0]["srvModified"]
        assert all(
            entry["date"] != reading.at * 1000
            for entry in results(client, f"entries/history/{cursor}")
        )
        client.post("/control/clock", json={"advance": 5})
        (entry,) = [
            entry
            for entry in results(client, f"entries/history/{cursor}")
            if entry["date"] == reading.at * 1000
        ]
        if reading is deleted:
            assert entry["isValid"] is False
            assert results(client, f"entries?date={reading.at * 1000}") == []
        elif reading is corrected:
            assert int(entry["sgv"]) == reading.mg_dl + 17
            assert entry["srvModified"] > entry["srvCreated"]


def test_v3_history_by_header_includes_its_own_second(client: httpx.Client) -> None:
    headers = bearer(client, "dag") | {"last-modified": "Fri, 20 Nov 2026 06:00:00 GMT"}
    answer = client.get(f"{DAG}/api/v3/entries/history", headers=headers)
    modified = [entry["srvModified"] for entry in answer.json()["result"]]
    assert modified
    assert min(modified) >= NOW_MS - 3_600_000
    missing = client.get(f"{DAG}/api/v3/entries/history", headers=bearer(client, "dag"))
    assert missing.status_code == 400


def test_documents_of_v1_uploaders_are_found_by_date_but_never_in_history(
    client: httpx.Client,
) -> None:
    assert results(client, "entries/history/0", "esi") == []
    found = results(client, f"entries?date$gte={NOW_MS - DAY_MS}&limit=1000", "esi")
    assert glucose(found) == people.truth(person("esi"), NOW - timedelta(days=1), NOW, NOW)
    assert all("srvModified" not in entry and len(entry["identifier"]) == 24 for entry in found)


def test_last_modified_follows_the_newest_document(client: httpx.Client) -> None:
    path = f"{DAG}/api/v3/lastModified"
    body = client.get(path, headers=bearer(client, "dag")).json()["result"]
    newest = results(client, "entries?sort$desc=srvModified&limit=1")[0]["srvModified"]
    assert body["collections"]["entries"] == newest
    assert body["srvDate"] == NOW_MS


def test_load_sites_can_be_asked_by_name(client: httpx.Client) -> None:
    who = person("load-01234", source="nightscout")
    params = {"token": who.access_token, "count": "3"}
    path = f"/nightscout/{who.name}/api/v1/entries/sgv.json"
    assert len(client.get(path, params=params).json()) == 3
    assert client.get("/nightscout/mallory/api/v1/entries.json").status_code == 404
