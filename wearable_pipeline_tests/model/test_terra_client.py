"""The JSON of the tables as Terra's own Python client reads it, over HTTP on the loopback."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import polars as pl
import pytest
from terra import Terra

from wearable_pipeline.model import TABLES, Column, Table
from wearable_pipeline.model.payload import Compat, to_payload

USER = {"user_id": "0b6b2f0e-6f5f-4d5c-9a55-7a1f3c0e2d11", "provider": "FREESTYLELIBRE"}
TYPES = ("activity", "body", "daily", "sleep", "menstruation", "nutrition")

FillRow = Callable[[Table], dict[str, Any]]
FrameOf = Callable[..., pl.DataFrame]
Fetch = Callable[[str, dict[str, Any]], Any]

types = pytest.mark.parametrize("name", TYPES)


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(httpd.answer).encode()  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Keep the test output clean."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def fetch(server: ThreadingHTTPServer) -> Fetch:
    client = Terra(
        base_url=f"http://127.0.0.1:{server.server_port}/v2", dev_id="d", api_key="k", timeout=10
    )

    def ask(name: str, answer: dict[str, Any]) -> Any:
        server.answer = answer  # type: ignore[attr-defined]
        if name == "athlete":
            return client.athlete.fetch(user_id=USER["user_id"])
        return getattr(client, name).fetch(
            user_id=USER["user_id"], start_date="2026-11-20", to_webhook=False
        )

    return ask


def _answer(name: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": name, "user": USER, "data": records}


def _class_name(name: str) -> str:
    return f"{name.capitalize()}FetchResponseData"


def _without(columns: tuple[Column, ...], row: dict[str, Any], where: str) -> list[str]:
    """Null what the client and Terra's own schema cannot agree on; returns what that was."""
    gone = []
    for column in columns:
        disputed = column.sdk_text or (
            column.is_map and column.name.startswith("data_enrichment_") and column.name in DISPUTED
        )
        if disputed and row.get(column.name) is not None:
            row[column.name] = None
            gone.append(where + column.name)
        for element in (row.get(column.name) or []) if column.fields else []:
            gone += _without(column.fields, element, f"{where}{column.name}.")
    return sorted(set(gone))


# Maps in Terra's schema, lists in its client.
DISPUTED = {
    "data_enrichment_stress_contributors",
    "data_enrichment_respiratory_contributors",
    "data_enrichment_immune_contributors",
    "data_enrichment_cardiovascular_contributors",
    "data_enrichment_readiness_contributors",
    "data_enrichment_sleep_contributors",
}


@types
def test_a_full_record_is_typed_by_the_client_on_its_own_terms(
    name: str, fetch: Fetch, fill_row: FillRow, frame_of: FrameOf
) -> None:
    table = TABLES[name]
    records = to_payload(table, frame_of(table, fill_row(table)), "sdk")
    response = fetch(name, _answer(name, records))
    assert type(response).__name__ == _class_name(name)
    assert type(response.data[0]).__name__ == name.capitalize()


@types
def test_a_full_record_is_typed_under_terras_schema_but_for_the_disputed_fields(
    name: str, fetch: Fetch, fill_row: FillRow, frame_of: FrameOf
) -> None:
    table = TABLES[name]
    row = fill_row(table)
    _without(table.columns, row, "")
    response = fetch(name, _answer(name, to_payload(table, frame_of(table, row), "openapi")))
    assert type(response).__name__ == _class_name(name)
    assert type(response.data[0]).__name__ == name.capitalize()


@types
@pytest.mark.parametrize("compat", ["openapi", "sdk"])
def test_a_nearly_empty_record_is_typed(
    name: str, compat: Compat, fetch: Fetch, fill_row: FillRow, frame_of: FrameOf
) -> None:
    table = TABLES[name]
    needed = [column.name for column in table.columns if column.required]
    row = {key: value for key, value in fill_row(table).items() if key in needed}
    response = fetch(name, _answer(name, to_payload(table, frame_of(table, row, row), compat)))
    assert type(response).__name__ == _class_name(name)
    assert [type(record).__name__ for record in response.data] == [name.capitalize()] * 2


@pytest.mark.parametrize("name", ["body", "daily", "sleep", "menstruation", "nutrition"])
def test_the_disputed_fields_are_the_reason_for_two_sides(
    name: str, fetch: Fetch, fill_row: FillRow, frame_of: FrameOf
) -> None:
    table = TABLES[name]
    records = to_payload(table, frame_of(table, fill_row(table)), "openapi")
    response = fetch(name, _answer(name, records))
    assert type(response).__name__ == "NoDataReturned"


def test_the_client_sees_the_values_of_the_row(
    fetch: Fetch, fill_row: FillRow, frame_of: FrameOf
) -> None:
    table = TABLES["body"]
    row = fill_row(table)
    sample = row["glucose_blood_glucose_samples"][0]
    sample |= {"blood_glucose_mg_per_dl": 95.48268, "trend_arrow": "unknown:42"}
    response = fetch("body", _answer("body", to_payload(table, frame_of(table, row), "sdk")))
    seen = response.data[0].glucose_data.blood_glucose_samples[0]
    assert seen.blood_glucose_mg_per_d_l == 95
    assert seen.blood_glucose_mg_per_dL_exact == 95.48268
    assert seen.trend_arrow == 42
    assert seen.timestamp == "2026-11-20T12:00:00.000000+01:00"
    assert response.data[0].metadata.start_time == "2026-11-20T12:00:00.000000+01:00"


@pytest.mark.parametrize("compat", ["openapi", "sdk"])
def test_a_full_profile_is_typed(
    compat: Compat, fetch: Fetch, fill_row: FillRow, frame_of: FrameOf
) -> None:
    table = TABLES["athlete"]
    (athlete,) = to_payload(table, frame_of(table, fill_row(table)), compat)
    response = fetch("athlete", {"type": "athlete", "user": USER, "athlete": athlete})
    assert type(response).__name__ == "AthleteFetchResponse_Athlete"
    assert (
        response.athlete.devices[0].other_devices[0].name
        == athlete["devices"][0]["other_devices"][0]["name"]
    )
