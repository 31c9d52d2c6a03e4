"""A wire made of paper, and the way from records to the rows they become."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
import polars as pl
import pytest
import yarl

from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Connection, Page, Record, Window
from wearable_pipeline.raw.client import HttpClient
from wearable_pipeline.raw.store import Arrival, frame_of
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import settings
from wearable_pipeline.tables.normalize import Normalized, normalize
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.session_cast import change_session

CORPUS = Path(__file__).resolve().parents[2] / ".." / "shared" / "corpus"
USER = "11111111-1111-4111-8111-111111111111"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)

Answering = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def corpus() -> Path:
    """Folder of the shared bodies; outside CI tests skip without it."""
    if not CORPUS.is_dir():
        if os.environ.get("CI"):
            pytest.fail("the shared corpus is missing")
        pytest.skip("the shared corpus is not here")
    return CORPUS


class WrittenDown:
    """Answers from a function of the test in place of the network."""

    def __init__(self, answer: Answering) -> None:
        self._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))

    async def send(
        self, method: str, url: yarl.URL, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        request = httpx.Request(method, str(url), headers=dict(headers), content=content)
        response = await self._client.send(request)
        return response.status_code, response.headers, response.content

    async def close(self) -> None:
        await self._client.aclose()


@pytest.fixture
def client_for() -> Callable[[Answering], HttpClient]:
    """The real client over answers written down in the test."""

    def make(answer: Answering) -> HttpClient:
        return HttpClient(
            "test",
            max_concurrency=4,
            requests_per_second=1e6,
            now=lambda: datetime(2026, 11, 20, 12, tzinfo=UTC),
            transport=WrittenDown(answer),
            attempts=1,
        )

    return make


class Saved:
    """Counts how often credentials were saved."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def connection_of() -> Callable[..., Connection]:
    """A connection as the framework hands it over."""

    def make(
        credentials: dict[str, object],
        config: dict[str, object],
        state: dict[str, object] | None = None,
        timezone: str | None = None,
        save: Callable[[], None] = lambda: None,
    ) -> Connection:
        return Connection(
            USER, config, credentials, state if state is not None else {}, timezone, save
        )

    return make


@pytest.fixture
def fetch_all() -> Callable[..., object]:
    """All pages of a fetch."""

    async def run(name: str, client: HttpClient, connection: Connection, window: Window) -> object:
        fetch = get_provider(name).fetch
        assert fetch is not None
        return [page async for page in fetch(client, connection, window)]

    return run


@pytest.fixture
def split() -> Callable[[str, Iterable[Page]], list[Record]]:
    """Records of pages, by the resource each belongs to."""

    def run(name: str, pages: Iterable[Page]) -> list[Record]:
        provider = get_provider(name)
        return [record for page in pages for record in provider.resource(page.resource).split(page)]

    return run


Rows = Callable[..., Normalized]


@pytest.fixture
def rows() -> Rows:
    """Rows of a table from lists of records, each fetched a minute after the one before."""

    def run(name: str, table: str, *fetched: list[Record]) -> Normalized:
        raw = pl.concat(
            frame_of(
                name,
                [Arrival(USER, records, datetime(2026, 11, 20, 12, minute, tzinfo=UTC))],
                f"batch-{minute}",
                "poll",
            )
            for minute, records in enumerate(fetched)
        )
        return normalize(raw, table)

    return run


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    """The sandbox at noon, one for a module."""
    with SandboxProcess(now=NOON) as running:
        yield running


@pytest.fixture
def hurried_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, paced by nothing and hardly waiting between tries."""
    real = HttpClient.__init__

    def init(self: object, *args: object, **kwargs: object) -> None:
        kwargs |= {"wait_initial": 0.001, "requests_per_second": 1e6}
        real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(HttpClient, "__init__", init)


AtSandbox = Callable[[str, Iterable[str]], Workspace]


@pytest.fixture
def at_sandbox(
    sandbox: SandboxProcess,
    workspace: Workspace,
    clock: StandingClock,
    hurried_client: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[AtSandbox]:
    """The workspace, asking a provider of the sandbox, where everybody's session is as it was at noon."""

    def make(provider: str, people: Iterable[str]) -> Workspace:
        monkeypatch.setenv(f"WEARABLE_{provider.upper()}_BASE_URL", f"{sandbox.url}/{provider}")
        settings.cache_clear()
        clock.at = NOON
        sandbox.set_clock(NOON)
        sandbox.clear_faults()
        for person in people:
            change_session(sandbox, provider, person, "reset")
        return workspace

    yield make
    settings.cache_clear()
