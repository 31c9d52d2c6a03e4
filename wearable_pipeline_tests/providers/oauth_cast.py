"""People of the sandbox connected by a browser that always says yes, and what the lake holds of them."""

import importlib
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import polars as pl

from wearable_pipeline.api.server import serving
from wearable_pipeline.model import TABLES
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider, providers
from wearable_pipeline.providers._contract import Window
from wearable_pipeline.raw.poll import PollReport, poll
from wearable_pipeline.registry import User
from wearable_pipeline.sandbox._oauth_server import CLIENT_ID, CLIENT_SECRET
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables.normalize import tables_fed_by
from wearable_pipeline.tables.update import update_table
from wearable_pipeline.workspace import Workspace, open_workspace

OAUTH_PROVIDERS = [name for name, provider in providers().items() if provider.oauth is not None]
PUSH_SECRET = secrets.token_urlsafe(16)


def people_of(provider: str) -> list[str]:
    """Names of the synthetic people the provider's half of the sandbox knows."""
    half = importlib.import_module(f"wearable_pipeline.sandbox.{provider}")
    return list(half.PEOPLE)


def posts_data(provider: str) -> bool:
    """Whether the provider answers no questions about data, but posts them when it likes."""
    half = importlib.import_module(f"wearable_pipeline.sandbox.{provider}")
    return bool(getattr(half, "POSTS_DATA", False))


@dataclass(frozen=True)
class Served:
    """A workspace with `serve` running on it."""

    workspace: Workspace
    url: str


@contextmanager
def served(
    home: Path, sandbox: SandboxProcess, now: Callable[[], object], **values: object
) -> Iterator[Served]:
    """A workspace whose OAuth providers are the sandbox's, and its HTTP face on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app: Mapping[str, object] = {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "push_secret": PUSH_SECRET,
        }
        at = {
            name: {**app, "base_url": f"{sandbox.url}/{name}", "auth_url": f"{sandbox.url}/{name}"}
            for name in OAUTH_PROVIDERS
        }
        settings = Settings(
            _env_file=None,  # type: ignore[call-arg]
            home=home,
            providers=at,  # type: ignore[arg-type]
            serve_url=url,
            **values,  # type: ignore[arg-type]
        )
        with (
            open_workspace(settings, now) as workspace,  # type: ignore[arg-type]
            serving(workspace, listener),
        ):
            yield Served(workspace, url)


def browse(there: Served, provider: str, person: str, **parameters: str) -> httpx.Response:
    """The last page a browser shows after connecting `person`, having said yes on the way."""
    with httpx.Client(trust_env=False, timeout=20) as browser:
        start = browser.get(f"{there.url}/connect/{provider}", params=parameters)
        if start.status_code != 302:
            return start
        consent = browser.get(f"{start.headers['location']}&person={person}")
        assert consent.status_code == 302, consent.text
        return browser.get(consent.headers["location"])


def state_of(address: str) -> str:
    """The state an address carries."""
    return parse_qs(urlsplit(address).query)["state"][0]


def connected(there: Served, provider: str, person: str) -> User:
    """The user a browser has just connected."""
    page = browse(there, provider, person, reference_id=person)
    assert page.status_code == 200, page.text
    (user,) = there.workspace.registry.find_users(provider=provider, reference_id=person)
    return user


def fetch(workspace: Workspace, user: User, days: int = 0) -> PollReport:
    """What a run does for the user: the last `days` and today."""
    now = workspace.now()
    fresh = workspace.registry.get_user(user.user_id)
    window = Window(now.date() - timedelta(days=days), now.date(), now)
    return poll(workspace, get_provider(user.provider), [fresh], window)


def contents(workspace: Workspace, users: Iterable[User]) -> dict[str, list[dict[str, object]]]:
    """Rows of every table, brought up to date, without who and when they were fetched."""
    found: dict[str, list[dict[str, object]]] = {}
    everybody = list(users)
    fed = {table for user in everybody for table in tables_fed_by(get_provider(user.provider))}
    for name in sorted(fed):
        cells = [
            Partition(workspace.now().date(), workspace.lake.scheme.cohort_of(user.user_id))
            for user in everybody
        ]
        update_table(workspace, name, cells)
        glob = f"{workspace.lake.storage.url}/{name}/**/*.parquet"
        if not list(workspace.lake.storage.list(f"{name}/")):
            found[name] = []
            continue
        rows = pl.read_parquet(glob, hive_partitioning=False)
        columns = [c for c in TABLES[name].content_columns if c != "user_id"]
        found[name] = (
            rows.select(columns)
            .sort(
                "local_date",
                *(key for key in TABLES[name].row_key if key not in ("user_id", "local_date")),
            )
            .to_dicts()
        )
    return found
