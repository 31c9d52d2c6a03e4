import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from wearable_pipeline.sandbox import people
from wearable_pipeline.sandbox.people import person
from wearable_pipeline.sandbox.server import SandboxProcess

NOW = datetime(2026, 11, 20, 7, 0, tzinfo=UTC)
PRODUCT = {"product": "llu.ios", "version": "4.16.0"}
ENTRIES = f"/nightscout/dag/api/v1/entries.json?token={person('dag').access_token}"
LOGIN = "/libre/eu/llu/auth/login"
ADA = {"email": "ada@sandbox.invalid", "password": people.fake_password("ada")}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess(now=NOW) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("kind", "status"), [("401", 401), ("429", 429), ("500", 500), ("redirect_loop", 302)]
)
def test_a_fault_fires_exactly_as_often_as_asked(
    client: httpx.Client, kind: str, status: int
) -> None:
    client.post("/control/faults", json={"fault": kind, "times": 2})
    statuses = [client.get(ENTRIES).status_code for _ in range(4)]
    assert statuses == [status, status, 200, 200]
    (fault,) = client.get("/control/faults").json()
    assert fault["fired"] == 2


def test_faults_hit_only_the_path_and_person_they_name(client: httpx.Client) -> None:
    client.post("/control/faults", json={"fault": "500", "match": {"person": "esi"}})
    client.post("/control/faults", json={"fault": "500", "match": {"path": "treatments"}})
    assert client.get(ENTRIES).status_code == 200
    assert client.get(ENTRIES.replace("entries", "treatments")).status_code == 500
    assert client.get(ENTRIES.replace("dag", "esi")).status_code == 500


def test_a_person_is_known_by_login_and_by_ticket(client: httpx.Client) -> None:
    ticket = client.post(LOGIN, json=ADA, headers=PRODUCT).json()["data"]["authTicket"]
    fault = {"fault": "500", "match": {"person": "ada@sandbox.invalid"}, "times": None}
    client.post("/control/faults", json=fault)
    assert client.post(LOGIN, json=ADA, headers=PRODUCT).status_code == 500
    headers = PRODUCT | {"authorization": f"Bearer {ticket['token']}"}
    assert client.get("/libre/eu/llu/connections", headers=headers).status_code == 500
    client.delete("/control/faults")
    assert client.post(LOGIN, json=ADA, headers=PRODUCT).status_code == 200


def test_throttling_says_how_long(client: httpx.Client) -> None:
    client.post("/control/faults", json={"fault": "429", "retry_after": 7})
    assert client.get(ENTRIES).headers["retry-after"] == "7"


def test_spoiled_bodies_are_not_json(client: httpx.Client) -> None:
    for kind in ("html", "truncated", "garbage"):
        client.post("/control/faults", json={"fault": kind})
        answer = client.get(ENTRIES)
        assert answer.status_code == 200
        with pytest.raises(ValueError, match=r".*"):
            answer.json()
    client.post("/control/faults", json={"fault": "html", "status": 429})
    blocked = client.get(ENTRIES)
    assert blocked.status_code == 429
    assert blocked.headers["content-type"].startswith("text/html")


def test_libre_faults_use_the_words_of_the_service(client: httpx.Client) -> None:
    expected = {
        "lockout": ("status", 429),
        "maintenance": ("status", 911),
        "wrong_region": ("data", {"redirect": True, "region": "eu2"}),
        "redirect_loop": ("data", {"redirect": True, "region": "eu2"}),
    }
    for kind, (key, value) in expected.items():
        client.post("/control/faults", json={"fault": kind})
        assert client.post(LOGIN, json=ADA, headers=PRODUCT).json()[key] == value


def test_bad_control_requests_are_refused(client: httpx.Client) -> None:
    for body in ({"fault": "meteor"}, {"fault": "500", "match": {"path": "("}}, {}):
        assert client.post("/control/faults", json=body).status_code == 400
    assert client.post("/control/clock", json={"now": "2026-11-20T07:00:00"}).status_code == 400


def test_requests_are_counted_by_path_without_the_control_plane(client: httpx.Client) -> None:
    for _ in range(3):
        client.get(ENTRIES)
    counts = client.get("/control/requests").json()
    assert counts["paths"] == {"/nightscout/dag/api/v1/entries.json": 3}
    assert counts["persons"] == {"dag": 3}
    assert counts["statuses"] == {"200": 3}
    client.delete("/control/requests")
    assert client.get("/control/requests").json()["total"] == 0


def test_the_clock_is_set_moved_and_released(client: httpx.Client) -> None:
    moved = client.post("/control/clock", json={"advance": 90.5}).json()
    assert moved == {"now": "2026-11-20T07:01:30.500000+00:00"}
    client.post("/control/clock", json={"now": "2026-12-01T00:00:00+01:00"})
    assert client.get("/control/clock").json() == {"now": "2026-11-30T23:00:00+00:00"}
    client.post("/control/clock", json={"now": None})
    told = datetime.fromisoformat(client.get("/control/clock").json()["now"])
    assert abs((told - datetime.now(UTC)).total_seconds()) < 60


def test_the_cast_can_be_connected_from_what_the_control_plane_tells(client: httpx.Client) -> None:
    cast = client.get("/control/people").json()
    assert [one["provider"] for one in cast] == [
        "freestyle_libre",
        "freestyle_libre",
        "freestyle_libre",
        "nightscout",
        "nightscout",
        "libreview",
    ]
    assert all("fake" in one["password"] for one in cast[:3])
    export = client.get(cast[5]["csv_url"])
    assert export.content.startswith(b"Glucose Data,Generated on,20-11-2026 07:00 UTC")


def test_a_child_process_serves_and_obeys(sandbox: SandboxProcess) -> None:
    sandbox.clear_requests()
    sandbox.fault("500", path="entries", times=1)
    answers = [httpx.get(sandbox.url + ENTRIES).status_code for _ in range(2)]
    assert answers == [500, 200]
    assert sandbox.requests() == {"/nightscout/dag/api/v1/entries.json": 2}
    newest = httpx.get(sandbox.url + ENTRIES).json()[0]["date"]
    sandbox.advance_clock(86400)
    assert httpx.get(sandbox.url + ENTRIES).json()[0]["date"] > newest
    sandbox.set_clock(NOW)
    assert httpx.get(sandbox.url + ENTRIES).json()[0]["date"] == newest
    assert sandbox.libre_base_url == sandbox.url + "/libre/{region}"
    assert len(sandbox.people()) == 6


def test_a_dropped_connection_and_a_silent_server_look_like_it(sandbox: SandboxProcess) -> None:
    sandbox.fault("disconnect")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(sandbox.url + ENTRIES)
    sandbox.fault("timeout")
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(sandbox.url + ENTRIES, timeout=0.2)
    sandbox.fault("timeout", delay=0.05)
    assert httpx.get(sandbox.url + ENTRIES).status_code == 504
    sandbox.fault("slow", delay=0.05)
    assert httpx.get(sandbox.url + ENTRIES).status_code == 200


def test_a_closed_sandbox_is_gone() -> None:
    sandbox = SandboxProcess(now=NOW)
    sandbox.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(sandbox.url)


def test_the_child_does_not_outlive_a_parent_that_dies() -> None:
    program = (
        "import os, sys\n"
        "from wearable_pipeline.sandbox.server import SandboxProcess\n"
        "sandbox = SandboxProcess()\n"
        "sys.stdout.write(sandbox.url)\n"
        "sys.stdout.flush()\n"
        "os._exit(1)\n"
    )
    parent = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    url = parent.stdout.decode()
    assert url.startswith("http://127.0.0.1:")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/control/clock")
        except httpx.TransportError:
            return
    pytest.fail("the sandbox is still there")
