"""The real client and the real providers over real HTTP against the simulated services."""

import asyncio
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from wearable_pipeline.errors import TransientError
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Connection, ImportOptions, Page, Record, Window
from wearable_pipeline.raw.client import HttpClient
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import settings

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
USER = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def person(sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    sandbox.set_clock(NOW)
    sandbox.clear_faults()
    monkeypatch.setenv("WEARABLE_FREESTYLE_LIBRE_BASE_URL", sandbox.libre_base_url)
    settings.cache_clear()
    cast = {str(someone["name"]): someone for someone in sandbox.people()}
    yield cast.__getitem__
    settings.cache_clear()


def client() -> HttpClient:
    return HttpClient(
        "test", max_concurrency=4, requests_per_second=1e6, now=lambda: NOW, attempts=1
    )


async def connected(name: str, values: dict[str, str]) -> Connection:
    provider = get_provider(name)
    assert provider.connect is not None
    async with client() as http:
        found = await provider.connect(http, values)
    return Connection(
        USER, found.config, found.credentials, {}, found.timezone, save_credentials=lambda: None
    )


async def fetched(name: str, connection: Connection, now: datetime = NOW) -> list[Record]:
    provider = get_provider(name)
    assert provider.fetch is not None
    window = Window((now - timedelta(days=2)).date(), now.date(), now)
    async with client() as http:
        pages: list[Page] = [page async for page in provider.fetch(http, connection, window)]
    return [record for page in pages for record in provider.resource(page.resource).split(page)]


def values_of(someone: dict[str, Any]) -> dict[str, str]:
    if someone["provider"] == "nightscout":
        return {"base_url": someone["url"], "token": someone["token"]}
    return {"email": someone["email"], "password": someone["password"]}


@pytest.mark.parametrize("name", ["ada", "bo", "cleo"])
def test_a_libre_user_connects_and_gets_readings(person: Any, rows: Any, name: str) -> None:
    someone = person(name)
    connection = asyncio.run(connected("freestyle_libre", values_of(someone)))
    assert connection.config["patient_id"] == someone["patient_id"]
    assert connection.credentials["region"] == someone["region"]
    records = asyncio.run(fetched("freestyle_libre", connection))
    resources = {record.resource for record in records}
    assert "graph" in resources
    result = rows("freestyle_libre", "body", records)
    assert result.rejected.is_empty()
    row = result.rows.to_dicts()[-1]
    assert row["tz_source"] == "provider"
    assert len(row["glucose_blood_glucose_samples"]) > 10


def test_a_second_poll_asks_for_neither_login_nor_logbook(
    person: Any, sandbox: SandboxProcess
) -> None:
    connection = asyncio.run(connected("freestyle_libre", values_of(person("ada"))))
    asyncio.run(fetched("freestyle_libre", connection))
    sandbox.clear_requests()
    asyncio.run(fetched("freestyle_libre", connection))
    asked = list(sandbox.requests())
    assert len(asked) == 1
    assert asked[0].endswith("/graph")


@pytest.mark.parametrize("name", ["dag", "esi"])
@pytest.mark.parametrize("door", ["token", "api_secret"])
def test_a_nightscout_site_connects_and_gets_entries(
    person: Any, rows: Any, name: str, door: str
) -> None:
    someone = person(name)
    values = {"base_url": someone["url"], door: someone[door]}
    connection = asyncio.run(connected("nightscout", values))
    assert connection.config["api"] == ("v3" if door == "token" else "v1")
    assert connection.timezone == someone["zone"]
    records = asyncio.run(fetched("nightscout", connection))
    result = rows("nightscout", "body", records)
    assert result.rejected.is_empty()
    samples = [s for row in result.rows["glucose_blood_glucose_samples"].to_list() for s in row]
    # Three days at five minutes, less gaps.
    assert len(samples) > 500
    meals = rows("nightscout", "nutrition", records)
    assert meals.rows.height > 0


@pytest.mark.parametrize("name", ["dag", "esi"])
def test_polling_on_ends_where_one_later_fetch_ends(
    person: Any, sandbox: SandboxProcess, rows: Any, name: str
) -> None:
    values = values_of(person(name))
    patient = asyncio.run(connected("nightscout", values))
    batches = []
    for step in range(5):
        at = NOW + timedelta(hours=4 * step)
        sandbox.set_clock(at)
        batches.append(asyncio.run(fetched("nightscout", patient, at)))
    late = asyncio.run(fetched("nightscout", asyncio.run(connected("nightscout", values)), at))
    since = NOW.date()

    def samples(*fetches: list[Record]) -> set[tuple[Any, ...]]:
        found = rows("nightscout", "body", *fetches).rows
        return {
            (s["timestamp"], s["sample_kind"], s["blood_glucose_mg_per_dl"])
            for row in found.filter(found["local_date"] >= since).to_dicts()
            for s in row["glucose_blood_glucose_samples"]
        }

    assert samples(*batches) == samples(late)


def test_server_trouble_fails_the_fetch_and_moves_no_cursor(
    person: Any, sandbox: SandboxProcess
) -> None:
    connection = asyncio.run(connected("nightscout", values_of(person("dag"))))
    asyncio.run(fetched("nightscout", connection))
    before = dict(connection.state)
    sandbox.fault("500", person="dag", times=None)
    with pytest.raises(TransientError):
        asyncio.run(fetched("nightscout", connection))
    assert connection.state == before


def test_the_sandbox_export_is_imported_whole(person: Any, rows: Any) -> None:
    someone = person("finn")
    content = httpx.get(someone["csv_url"], timeout=20).raise_for_status().content
    (importer,) = get_provider("freestyle_libre").importers
    assert importer.recognise(content[:65536])
    batches = importer.read(io.BytesIO(content), ImportOptions(timezone=someone["zone"]))
    records = [record for batch in batches for record in batch]
    assert len(records) > 1000
    result = rows("freestyle_libre", "body", records)
    assert result.rejected.is_empty()
    samples = [s for row in result.rows["glucose_blood_glucose_samples"].to_list() for s in row]
    unknown = [s for s in samples if s["timestamp"] is None]
    # At most the repeated hour of autumn may stay without an instant.
    assert len(unknown) <= 8
