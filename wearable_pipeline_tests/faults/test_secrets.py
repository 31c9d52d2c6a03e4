"""Canaries in every secret and every reading: nothing the pipeline says or keeps may sing."""

import hashlib
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from wearable_pipeline.connect import connect
from wearable_pipeline.errors import PipelineError
from wearable_pipeline.orchestration.jobs import SYNC
from wearable_pipeline.orchestration.local import run_job
from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.providers import get_provider
from wearable_pipeline.raw.client import HttpClient
from wearable_pipeline.registry import User
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline.settings import Settings, settings
from wearable_pipeline.workspace import Workspace, open_workspace
from wearable_pipeline_tests.faults.cast import glob_body

PASSWORD = "canary-Passw0rd"
EMAIL = "canary.address@example.invalid"
TOKEN = "reader-canarytoken"
API_SECRET = "canary-api-secret-12"
JWT = "canary.jwt.session"
FIRST, LAST = "Canarina", "Canariensis"
SIGNING = "canary-signing-secret"
SECRETS = (
    PASSWORD,
    EMAIL,
    TOKEN,
    API_SECRET,
    hashlib.sha1(API_SECRET.encode(), usedforsecurity=False).hexdigest(),
    JWT,
    FIRST,
    LAST,
    SIGNING,
)
GLUCOSE = "123.456"
PATIENT = "7f0c7f0c-0000-4000-8000-000000000001"
NOW = datetime.now(UTC).replace(microsecond=0)


class Service:
    """LibreLinkUp and Nightscout in one, full of canaries; `mood` says how it answers."""

    def __init__(self) -> None:
        self.mood = "well"
        self.calls = 0
        app = Starlette(
            routes=[
                Route("/libre/{region}/llu/auth/login", self.guard(self.login), methods=["POST"]),
                Route("/libre/{region}/llu/connections", self.guard(self.connections)),
                Route("/libre/{region}/llu/connections/{patient}/graph", self.guard(self.graph)),
                Route(
                    "/libre/{region}/llu/connections/{patient}/logbook", self.guard(self.logbook)
                ),
                Route("/api/v2/authorization/request/{token}", self.guard(self.exchange)),
                Route("/{rest:path}", self.guard(self.nightscout)),
            ]
        )
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(5)

    def guard(self, answer: Callable[[Request], Response]) -> Callable[..., object]:
        async def guarded(request: Request) -> Response:
            self.calls += 1
            echo = " ".join((*SECRETS, GLUCOSE))
            match self.mood:
                case "broken":
                    return Response(f"trace: {echo}", 500)
                case "refusing":
                    return JSONResponse({"message": echo}, 401, {"www-authenticate": "canary"})
                case "a web page":
                    return HTMLResponse(f"<html>{echo}</html>")
                case "redirecting":
                    return RedirectResponse(f"/elsewhere?token={TOKEN}&email={EMAIL}", 302)
                case "cut off":
                    return Response(
                        f'{{"result": [{{"note": "{echo}"', media_type="application/json"
                    )
                case "of another shape":
                    return JSONResponse({"status": echo, "data": [echo], "result": {"a": echo}})
            return answer(request)

        return guarded

    def login(self, request: Request) -> Response:
        ticket = {"token": JWT, "expires": int(NOW.timestamp()) + 86400, "duration": 1}
        user = {"id": PATIENT, "firstName": FIRST, "lastName": LAST, "email": EMAIL}
        return JSONResponse({"status": 0, "data": {"user": user, "authTicket": ticket}})

    def connections(self, request: Request) -> Response:
        return JSONResponse({"status": 0, "data": [self.connection()]})

    def connection(self) -> dict[str, object]:
        return {
            "patientId": PATIENT,
            "firstName": FIRST,
            "lastName": LAST,
            "sensor": {"sn": "SN1", "a": 1_700_000_000, "pt": 4},
            "glucoseMeasurement": self.point(NOW),
        }

    def point(self, at: datetime, value: object = float(GLUCOSE)) -> dict[str, object]:
        text = f"{at.month}/{at.day}/{at.year} {at:%I:%M:%S %p}"
        parts = {"FactoryTimestamp": text, "Timestamp": text, "type": 0, "GlucoseUnits": 1}
        return {**parts, "ValueInMgPerDl": value, "Value": value}

    def graph(self, request: Request) -> Response:
        points = [
            self.point(NOW - timedelta(minutes=20)),
            self.point(NOW - timedelta(minutes=25), f"{GLUCOSE} LOW"),
        ]
        return JSONResponse(
            {"status": 0, "data": {"connection": self.connection(), "graphData": points}}
        )

    def logbook(self, request: Request) -> Response:
        return JSONResponse({"status": 0, "data": []})

    def exchange(self, request: Request) -> Response:
        return JSONResponse({"token": JWT, "iat": 0, "exp": NOW.timestamp() + 3600})

    def nightscout(self, request: Request) -> Response:
        path = request.url.path
        if "status" in path:
            return JSONResponse({"status": "ok", "apiEnabled": True, "name": f"{FIRST} {LAST}"})
        if "v3" in path:
            return JSONResponse({"status": 404}, 404)
        if "entries" not in path:
            return JSONResponse([])
        entries = [
            {
                "type": "sgv",
                "identifier": f"e{n}",
                "date": int((NOW - timedelta(minutes=5 * n)).timestamp() * 1000),
                "sgv": value,
                "utcOffset": 60,
            }
            for n, value in enumerate((float(GLUCOSE), f"{GLUCOSE}LOW", 1e9))
        ]
        return JSONResponse(entries)


MOODS = ("broken", "refusing", "a web page", "redirecting", "cut off", "of another shape")


@pytest.fixture(scope="module")
def service_process() -> Iterator[Service]:
    service = Service()
    service.start()
    yield service
    service.stop()


@pytest.fixture
def service(service_process: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service_process.mood = "well"
    base = f"{service_process.url}/libre/{{region}}"
    monkeypatch.setenv("WEARABLE_FREESTYLE_LIBRE_BASE_URL", base)
    settings.cache_clear()
    yield service_process
    settings.cache_clear()


@pytest.fixture
def everything_said(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Callable[[], str]:
    """All log records at DEBUG with their arguments, and both standard streams."""
    caplog.set_level(logging.DEBUG)

    def said() -> str:
        streams = capfd.readouterr()
        records = [f"{record.getMessage()} {record.__dict__}" for record in caplog.records]
        return "\n".join([*records, caplog.text, streams.out, streams.err])

    return said


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that hardly waits between tries."""
    real = HttpClient.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **{**kwargs, "wait_initial": 0.001, "requests_per_second": 1e6})

    monkeypatch.setattr(HttpClient, "__init__", init)


def singing(text: str, *also: str) -> list[str]:
    return [canary for canary in (*SECRETS, *also) if canary in text]


def connect_both(workspace: Workspace, service: Service) -> list[User]:
    libre = {"email": EMAIL, "password": PASSWORD}
    token = {"base_url": service.url, "token": TOKEN}
    secret = {"base_url": service.url, "api_secret": API_SECRET}
    return [
        connect(workspace, get_provider("freestyle_libre"), libre),
        connect(workspace, get_provider("nightscout"), token, reference_id="a"),
        connect(workspace, get_provider("nightscout"), secret, reference_id="b"),
    ]


def now() -> datetime:
    return NOW + timedelta(seconds=30)


def test_a_whole_run_with_its_failures_sings_nowhere(
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    everything_said: Callable[[], str],
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    with Receiver(SIGNING) as receiver:
        own = Settings(
            _env_file=None,
            home=home,
            webhook_url=f"{receiver.url}?token={TOKEN}",
            webhook_secret=SIGNING,
            webhook_allow_private=True,
        )
        moments = iter(range(10_000))

        def clock() -> datetime:
            return now() + timedelta(milliseconds=next(moments))

        with open_workspace(own, clock) as workspace:
            users = connect_both(workspace, service)
            ids = [user.user_id for user in users]
            opener = WorkspaceOpener(own, clock)
            day = NOW.date()
            run_job(opener, workspace, SYNC, ids, day - timedelta(days=1), day)
            for mood in ("of another shape", "refusing"):
                service.mood = mood
                run_job(opener, workspace, SYNC, ids, day, day)
            states = workspace.registry.load_states(ids)
            assert all(state.error_class for state in states.values())
            body = glob_body(workspace)
            reprs = f"{workspace.registry} {workspace.lake} {users} {states} {opener}"
            lake = Path(workspace.lake.storage.url)
        posts = receiver.posts()

    # It did happen: readings in the lake, in the payload, and refused ones in quarantine.
    assert body.height >= 3
    assert any(GLUCOSE.encode() in post.body for post in posts)
    assert singing("".join(post.body.decode() for post in posts)) == []
    refused = pl.read_parquet(f"{lake}/quarantine/**/*.parquet", hive_partitioning=False)
    assert refused.height >= 5

    assert singing(everything_said(), GLUCOSE) == []
    assert singing(reprs, GLUCOSE) == []
    assert singing(str(refused.to_dicts()), GLUCOSE) == []
    assert singing(str(body.to_dicts())) == []
    raw = pl.read_parquet(f"{lake}/raw/**/*.parquet", hive_partitioning=False)
    assert singing(str(raw.to_dicts())) == []
    outside_the_lake = 0
    for path in home.rglob("*"):
        assert singing(str(path), GLUCOSE) == []
        if path.is_file():
            is_lake = path.is_relative_to(lake)
            outside_the_lake += not is_lake
            told = path.read_bytes().decode("latin-1")
            assert singing(told, *(() if is_lake else (GLUCOSE,))) == [], path
    assert outside_the_lake > 5
    assert list(home.rglob("*.db")), "no Dagster event log was written"


@pytest.mark.parametrize("mood", MOODS)
@pytest.mark.parametrize("name", ["freestyle_libre", "nightscout", "nightscout with a secret"])
def test_a_connection_that_fails_sings_nowhere(
    workspace: Workspace,
    service: Service,
    everything_said: Callable[[], str],
    mood: str,
    name: str,
) -> None:
    values = {
        "freestyle_libre": {"email": EMAIL, "password": PASSWORD},
        "nightscout": {"base_url": service.url, "token": TOKEN},
        "nightscout with a secret": {"base_url": service.url, "api_secret": API_SECRET},
    }[name]
    service.mood = mood
    try:
        connect(workspace, get_provider(name.split()[0]), values)
    except PipelineError as error:
        # What a log or the command line shows of it: no chain of causes.
        told = "".join(traceback.format_exception(error)) + repr(error) + str(error.args)
    else:
        pytest.fail("it should not connect")
    assert singing(told, GLUCOSE) == []
    assert singing(everything_said(), GLUCOSE) == []


@pytest.mark.parametrize(
    "values",
    [
        {
            "base_url": f"https://{EMAIL.replace('@', '%40')}:{PASSWORD}@example.invalid",
            "token": TOKEN,
        },
        {"base_url": f"nonsense {PASSWORD}", "token": TOKEN},
        {"base_url": f"http://127.0.0.1:1/?token={TOKEN}", "token": TOKEN},
    ],
    ids=["login in url", "no url", "token in url"],
)
def test_bad_values_are_refused_without_repeating_them(
    workspace: Workspace, everything_said: Callable[[], str], values: dict[str, str]
) -> None:
    with pytest.raises(PipelineError) as caught:
        connect(workspace, get_provider("nightscout"), values)
    assert singing("".join(traceback.format_exception(caught.value))) == []
    assert singing(everything_said()) == []
