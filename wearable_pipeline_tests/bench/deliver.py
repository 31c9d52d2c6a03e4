"""Rows of `body` to a webhook: noted, claimed, read, rendered, signed, posted, acknowledged.

Each row is a user's day of 144 glucose samples (48 KB of JSON) in a lake of few cohorts; the receiver is a
process of its own on loopback that counts what comes. CPU is that of our process without the receiver's.

Peers, in the same run on the same rows: an aiohttp loop that posts the finished bodies without ledger, lake,
signature or retries, as many at a time (what posting alone costs); for the payload, `json.dumps` of dicts
that are there already. Limits: 1 ms of CPU a row in all, so that 100,000 rows take 100 of the 600 CPU seconds
of a cycle on two cores; 2 GB of memory.
"""

import asyncio
import json
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import polars as pl

from wearable_pipeline.destinations import _contract, delivery, get_target, webhook
from wearable_pipeline.lake.layout import table_path
from wearable_pipeline.lake.storage import LocalStorage
from wearable_pipeline.model.payload import to_payload
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.registry import NewUser, Registry
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables.refresh import encode_parquet
from wearable_pipeline_tests.bench._figures import Figure, Scale
from wearable_pipeline_tests.bench._receiver import ReceiverProcess
from wearable_pipeline_tests.destinations.bench import BODY, SECRET, TODAY, body_row

SAMPLES = 144
ROWS_PER_COHORT = 1_000
LIMIT_MS = 1.0
LIMIT_MB = 2048
STAGES = ("note", "claim", "read", "payload", "sign", "acknowledge", "post and the rest")


def measure(scale: Scale) -> list[Figure]:
    """CPU a row by stage, rates beside the peers', peak memory."""
    count = scale.of(4_000, 600)
    cohorts = max(1, count // ROWS_PER_COHORT)
    with tempfile.TemporaryDirectory() as folder, ReceiverProcess() as receiver:
        settings = Settings(
            home=Path(folder), webhook_url=receiver.url, webhook_secret=SECRET, cohorts=cohorts
        )
        storage, scheme = LocalStorage(settings.home / "lake"), Scheme(cohorts)
        rounds: list[Counter[str]] = []
        peers: list[Counter[str]] = []
        with Registry.open(settings) as registry:
            users = [f"{n:08d}-0000-4000-8000-000000000000" for n in range(count)]
            registry.add_users(NewUser(user_id=user, provider="freestyle_libre") for user in users)
            for turn in range(scale.rounds + 1):  # the first warms up
                rows = make_rows(users, turn)
                write(storage, scheme, rows)
                rounds.append(deliver_once(storage, scheme, registry, settings, rows))
                peers.append(post_only(receiver.url, rows))
        received = receiver.counts()
    objects = count * 2 * (scale.rounds + 1)
    assert received.objects == objects, (received.objects, objects)
    return figures(rounds[1:], peers[1:], count, received.cpu_seconds / objects)


def figures(
    rounds: list[Counter[str]], peers: list[Counter[str]], count: int, receiver_seconds: float
) -> list[Figure]:
    """What the rounds say in the middle."""

    def middle(found: list[Counter[str]], name: str) -> float:
        return statistics.median(one[name] for one in found)

    alone = "aiohttp loop, finished bodies"
    made = [
        Figure(
            "deliver_cpu_ms_per_row",
            1000 * middle(rounds, "cpu") / count,
            "ms",
            alone,
            1000 * middle(peers, "cpu") / count,
            better="lower",
            target=f"<= {LIMIT_MS:g} ms",
            note=f"the receiver's own process takes {1000 * receiver_seconds:.2f} ms a post",
        ),
        Figure(
            "deliver_objects_per_second",
            count / middle(rounds, "wall"),
            "1/s",
            alone,
            count / middle(peers, "wall"),
            target=">= 334 (100,000 in 300 s)",
        ),
        Figure(
            "deliver_mb_per_second",
            middle(peers, "bytes") / 1e6 / middle(rounds, "wall"),
            "MB/s",
            alone,
            middle(peers, "bytes") / 1e6 / middle(peers, "wall"),
        ),
        Figure(
            "deliver_payload_mb_per_cpu_second",
            middle(peers, "bytes") / 1e6 / middle(rounds, "payload"),
            "MB/s",
            "json.dumps of finished dicts",
            middle(peers, "bytes") / 1e6 / middle(peers, "dumps"),
            note="from the polars frame to bytes; the peer's dicts are not counted",
        ),
        Figure(
            "deliver_peak_rss_mb",
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "MB",
            "limit",
            LIMIT_MB,
            better="lower",
            note="with the rows, the peer's dicts and its bodies in the same process",
        ),
    ]
    made += [
        Figure(
            f"deliver_cpu_ms_per_row: {stage}",
            1000 * middle(rounds, stage) / count,
            "ms",
            "all stages",
            1000 * middle(rounds, "cpu") / count,
            better="lower",
        )
        for stage in STAGES
    ]
    return made


def make_rows(users: list[str], turn: int) -> pl.DataFrame:
    """A day of each user, other values each turn."""
    one = body_row("x", [70 + (turn * 0.25 + index * 0.37) % 180 for index in range(SAMPLES)])
    return pl.concat([one] * len(users)).with_columns(user_id=pl.Series(users)).rechunk()


def write(storage: LocalStorage, scheme: Scheme, rows: pl.DataFrame) -> None:
    """Put the rows into the lake, a file per cohort."""
    cohorts = pl.Series([scheme.cohort_of(user_id) for user_id in rows["user_id"]])
    for cohort in cohorts.unique():
        part = rows.filter(cohorts == cohort)
        content = encode_parquet(part.to_arrow(), BODY.arrow_schema())
        storage.put(table_path("body", Partition(TODAY, cohort)), content)


def deliver_once(
    storage: LocalStorage,
    scheme: Scheme,
    registry: Registry,
    settings: Settings,
    rows: pl.DataFrame,
) -> Counter[str]:
    """CPU seconds by stage, `cpu` and `wall` seconds of noting and delivering all rows."""
    spent: Counter[str] = Counter()
    target = get_target(settings, "webhook")
    cells = [(user_id, TODAY) for user_id in rows["user_id"]]
    wall, cpu = time.perf_counter(), time.process_time()
    delivery.note_wanted(registry, [target], "body", rows, cells=cells)
    spent["note"] = time.process_time() - cpu
    with (
        timed(spent, "claim", Registry, "claim"),
        timed(spent, "acknowledge", Registry, "acknowledge"),
        timed(spent, "read", delivery._Lake, "read"),
        timed(spent, "payload", _contract, "to_json"),
        timed(spent, "sign", webhook, "sign"),
    ):
        report = delivery.deliver_pending(
            storage, scheme, registry, target, settings, lambda: datetime.now(UTC)
        )
    assert report.delivered == rows.height, report
    stages = sum(spent.values())
    spent["cpu"] = time.process_time() - cpu
    spent["post and the rest"] = spent["cpu"] - stages
    spent["wall"] = time.perf_counter() - wall
    return spent


@contextmanager
def timed(spent: Counter[str], stage: str, owner: Any, name: str) -> Iterator[None]:
    """Count the CPU seconds of `owner.name` under `stage`."""
    real: Callable[..., Any] = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return real(*args, **kwargs)
        finally:
            spent[stage] += time.process_time() - started

    with mock.patch.object(owner, name, counted):
        yield


def post_only(url: str, rows: pl.DataFrame) -> Counter[str]:
    """What the peers take: posting the same bodies, and dumping the same dicts."""
    spent: Counter[str] = Counter()
    bodies: list[bytes] = []
    for part in rows.iter_slices(200):
        payloads = to_payload(BODY, part)
        started = time.process_time()
        texts = [json.dumps(payload) for payload in payloads]
        spent["dumps"] += time.process_time() - started
        bodies += [f'{{"user":{{}},"data":[{text}]}}'.encode() for text in texts]
    spent["bytes"] = sum(map(len, bodies))

    async def post_all() -> None:
        waiting = iter(bodies)

        async def work(session: aiohttp.ClientSession) -> None:
            for body in waiting:
                headers = {"content-type": "application/json"}
                async with session.post(url, data=body, headers=headers) as response:
                    await response.read()
                    assert response.status == 200

        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=webhook.CONCURRENCY)
        ) as session:
            await asyncio.gather(*(work(session) for _ in range(webhook.CONCURRENCY)))

    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(post_all())
    spent["wall"], spent["cpu"] = time.perf_counter() - wall, time.process_time() - cpu
    return spent
