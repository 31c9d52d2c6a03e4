"""History of very many people in one run: thirty days of an Oura ring each, fetched into raw.

A process of its own polls all of them as the backfill lane does, against a server with the sandbox's
documents that takes ten milliseconds for an answer and refuses one person with HTTP 400. Peer of the
rate: aiohttp alone fetching the same pages, as many at a time, and throwing them away. Requests on
their way at once stand beside what the provider allows; memory beside that of a run for a quarter of
the people, so a figure near one means that it does not grow with them. The run fails unless everybody but
the refused one has every record.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from wearable_pipeline.registry import NewUser
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import open_workspace
from wearable_pipeline_tests.bench._backfill import CONCURRENCY, PROVIDER
from wearable_pipeline_tests.bench._figures import Figure, Scale
from wearable_pipeline_tests.bench._history_server import HistoryServer, Stats

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAYS = 30
# Further back than what is read again because it may have come late.
END = date(2026, 11, 9)
START = END - timedelta(days=DAYS - 1)
COHORTS = 16
FAILING = 1


def measure(scale: Scale) -> list[Figure]:
    """`backfill_users_s`, requests at once and memory."""
    users = scale.of(1_000, 12)
    with HistoryServer(NOW, FAILING) as server:
        few, _ = _run(server, users // 4)
        many, stats = _run(server, users)
        bare = asyncio.run(_fetch_bare(server.origin, stats.addresses, users))
    each = few["records"] / (users // 4 - 1)
    if many["records"] != each * (users - 1) or not each:
        raise AssertionError(f"{many['records']} records instead of {each * (users - 1)}")
    return [
        Figure(
            name="backfill_users_s",
            value=users / many["seconds"],
            unit="users/s",
            peer=f"aiohttp alone, the same pages, {CONCURRENCY} at a time",
            peer_value=users / bare,
            note=f"{users:,} people in one run, {len(stats.addresses)} requests and {each:,.0f} records"
            f" each, {1000 * many['cpu'] / users:.0f} ms CPU; one refused, the others whole",
        ),
        Figure(
            name="backfill_in_flight",
            value=float(stats.most_in_flight),
            unit="requests at once",
            peer="what the provider allows",
            peer_value=float(CONCURRENCY),
            better="lower",
            target="never more",
        ),
        Figure(
            name="backfill_rss_mb",
            value=many["peak_mb"],
            unit="MB at the most",
            peer="a quarter of the people",
            peer_value=few["peak_mb"],
            better="lower",
            target="below 1,000 MB whatever the number of people",
        ),
    ]


def _run(server: HistoryServer, users: int) -> tuple[dict[str, Any], Stats]:
    """What a run for that many new people says, and the server of it."""
    with tempfile.TemporaryDirectory(prefix="wearable-backfill-") as folder:
        _register(Path(folder), users)
        server.stats()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "wearable_pipeline_tests.bench._backfill"),
                *(NOW.isoformat(), START.isoformat(), END.isoformat()),
            ],
            env={
                **{name: value for name, value in os.environ.items() if "WEARABLE" not in name},
                "WEARABLE_HOME": folder,
                "WEARABLE_COHORTS": str(COHORTS),
                "WEARABLE_OURA_CLIENT_ID": "bench",
                "WEARABLE_OURA_CLIENT_SECRET": "bench",
                "WEARABLE_OURA_BASE_URL": server.origin,
                "WEARABLE_OURA_AUTH_URL": server.origin,
            },
            stdout=subprocess.PIPE,
            check=True,
        )
    told: dict[str, Any] = json.loads(done.stdout)
    stats = server.stats()
    if list(told["failures"].values()) != ["permanent"] or told["users"] != users:
        raise AssertionError(f"not one failure among {users} users: {told['failures']}")
    if stats.most_in_flight > CONCURRENCY:
        raise AssertionError(f"{stats.most_in_flight} requests were on their way at once")
    return told, stats


def _register(home: Path, users: int) -> None:
    settings = Settings(_env_file=None, home=home, cohorts=COHORTS)  # type: ignore[call-arg]
    with open_workspace(settings, lambda: NOW) as workspace:
        workspace.registry.add_users(
            NewUser(
                user_id=f"00000000-0000-4000-8000-{number:012d}",
                provider=PROVIDER,
                timezone="Europe/Berlin",
                credentials={
                    "access_token": f"user-{number}",
                    "refresh_token": "none",
                    "expires_at": (NOW + timedelta(days=1)).timestamp(),
                },
            )
            for number in range(users)
        )


async def _fetch_bare(origin: str, addresses: list[str], users: int) -> float:
    """Seconds it takes to fetch the pages of everybody, one after the other for each."""
    waiting = iter(range(users))
    async with aiohttp.ClientSession(
        origin, connector=aiohttp.TCPConnector(limit=CONCURRENCY)
    ) as session:

        async def work() -> None:
            for number in waiting:
                for address in addresses:
                    headers = {"authorization": f"Bearer user-{number}"}
                    async with session.get(address, headers=headers) as answer:
                        await answer.read()

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        return time.perf_counter() - started
