"""The plain client of every kind of destination, as somebody uses it who has finished rows to insert.

No ledger, no lake, no order of revisions, no outcome per row: what inserting alone costs. `prepare`
makes what the client wants to be handed and is not measured.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

import polars as pl

from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.model.payload import to_json, to_payload
from wearable_pipeline_tests.destinations.bench import BODY

Json = dict[str, Any]


@dataclass(frozen=True)
class Plain:
    """A connected client: what it wants made of a frame, how it inserts that, and how it ends."""

    name: str
    prepare: Callable[[pl.DataFrame], Any]
    insert: Callable[[Any], object]
    finish: Callable[[], object] = lambda: None


PlainClient = Callable[[Target], AbstractContextManager[Plain]]


def _bodies(rows: pl.DataFrame) -> list[bytes]:
    return [bytes(text) for text in to_json(BODY, rows)]


def _keyed(rows: pl.DataFrame) -> list[tuple[str, Json]]:
    found = to_payload(BODY, rows)
    return [(f"{row['user_id']}:{row['local_date']}", row) for row in found]


@contextmanager
def mongodb(target: Target) -> Iterator[Plain]:
    """`insert_many` of finished documents."""
    from pymongo import MongoClient

    from wearable_pipeline.destinations.mongodb import MongoSettings

    settings = cast(MongoSettings, target.settings)
    with MongoClient[Json](settings.uri.get_secret_value()) as client:
        collection = client[settings.database]["plain"]
        yield Plain(
            "pymongo insert_many",
            lambda rows: [{"_id": key, **row} for key, row in _keyed(rows)],
            lambda documents: collection.insert_many(documents, ordered=False),
        )


@contextmanager
def firestore(target: Target) -> Iterator[Plain]:
    """The client's BulkWriter, its throttle opened."""
    from unittest import mock

    from google.auth.credentials import AnonymousCredentials
    from google.cloud.firestore import Client
    from google.cloud.firestore_v1.bulk_writer import BulkWriterOptions

    from wearable_pipeline.destinations.firestore import FirestoreSettings

    settings = cast(FirestoreSettings, target.settings)
    with mock.patch.dict("os.environ", {"FIRESTORE_EMULATOR_HOST": str(settings.emulator)}):
        client = Client(project=settings.project, credentials=AnonymousCredentials())
    fast = BulkWriterOptions(initial_ops_per_second=10**6, max_ops_per_second=10**6)
    writer = client.bulk_writer(options=fast)
    collection = client.collection("plain")

    def insert(documents: list[tuple[str, Json]]) -> None:
        for key, document in documents:
            writer.set(collection.document(key), document)

    yield Plain("BulkWriter", _keyed, insert, writer.close)
    client.close()


@contextmanager
def sql(target: Target) -> Iterator[Plain]:
    """ADBC's bulk ingest (COPY) of flat rows and of exploded samples, one transaction."""
    from adbc_driver_postgresql import dbapi

    url = cast(Any, target.settings).url.get_secret_value()
    lists = [column.name for column in BODY.lists]
    samples = "glucose_blood_glucose_samples"

    def prepare(rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
        flat = rows.select(pl.exclude([*lists, "source_record_ids", "batch_ids"]))
        nested = [name for name, dtype in flat.schema.items() if isinstance(dtype, pl.List)]
        exploded = rows.select("user_id", "local_date", samples).explode(samples).unnest(samples)
        return {"plain_rows": flat.drop(nested), "plain_samples": exploded}

    with dbapi.connect(url) as connection, connection.cursor() as cursor:

        def insert(frames: dict[str, pl.DataFrame]) -> None:
            for name, frame in frames.items():
                cursor.adbc_ingest(name, frame.to_arrow(), mode="create_append")

        yield Plain("ADBC ingest", prepare, insert, connection.commit)


@contextmanager
def objects(target: Target) -> Iterator[Plain]:
    """`obstore.put` of finished JSON objects, as many at a time as ours."""
    import obstore

    from wearable_pipeline.destinations._objects import open_store

    settings = cast(Any, target.settings)
    store = open_store(settings.store, "plain")._writer
    with ThreadPoolExecutor(settings.concurrency) as pool:

        def put(one: tuple[str, bytes]) -> None:
            obstore.put(store, one[0], one[1])

        yield Plain(
            "obstore.put",
            lambda rows: [(f"plain/{uuid4().hex}.json", body) for body in _bodies(rows)],
            lambda bodies: list(pool.map(put, bodies)),
        )


@contextmanager
def sqs(target: Target) -> Iterator[Plain]:
    """`send_message_batch` of up to ten messages or 1 MiB, as many at a time as ours."""
    import boto3

    settings = cast(Any, target.settings)
    client = boto3.client(
        "sqs",
        endpoint_url=settings.queue_url.rsplit("/", 2)[0],
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key.get_secret_value(),
        region_name="us-east-1",
    )
    queue = client.create_queue(
        QueueName=f"plain-{uuid4().hex[:8]}.fifo", Attributes={"FifoQueue": "true"}
    )["QueueUrl"]

    def prepare(rows: pl.DataFrame) -> list[list[Json]]:
        packs: list[list[Json]] = [[]]
        size = 0
        for user_id, body in zip(rows["user_id"], _bodies(rows), strict=True):
            if len(packs[-1]) == 10 or size + len(body) > 2**20:
                packs.append([])
                size = 0
            size += len(body)
            packs[-1].append(
                {
                    "Id": str(len(packs[-1])),
                    "MessageBody": body.decode(),
                    "MessageGroupId": user_id,
                    "MessageDeduplicationId": uuid4().hex,
                }
            )
        return packs

    with ThreadPoolExecutor(settings.concurrency) as pool:

        def send(pack: list[Json]) -> None:
            assert not client.send_message_batch(QueueUrl=queue, Entries=pack).get("Failed")

        yield Plain("boto3 send_message_batch", prepare, lambda ps: list(pool.map(send, ps)))
    client.close()


@contextmanager
def kafka(target: Target) -> Iterator[Plain]:
    """An idempotent producer with the same compression."""
    from confluent_kafka import Producer

    settings = cast(Any, target.settings)
    producer = Producer(
        {
            "bootstrap.servers": settings.brokers,
            "enable.idempotence": True,
            "compression.type": settings.compression,
        }
    )
    topic = f"plain-{uuid4().hex[:8]}"
    failed: list[object] = []

    def insert(bodies: list[tuple[str, bytes]]) -> None:
        for user_id, body in bodies:
            while True:
                try:
                    producer.produce(
                        topic, body, user_id, on_delivery=lambda e, _: e and failed.append(e)
                    )
                    break
                except BufferError:
                    producer.poll(0.1)

    def finish() -> None:
        assert producer.flush(60) == 0
        assert not failed

    yield Plain(
        "confluent-kafka produce",
        lambda rows: list(zip(rows["user_id"], _bodies(rows), strict=True)),
        insert,
        finish,
    )


@contextmanager
def webhook(target: Target) -> Iterator[Plain]:
    """An aiohttp loop that posts finished bodies, as many at a time as ours."""
    import aiohttp

    settings = cast(Any, target.settings)
    start = b'{"user":{"user_id":"plain"},"data":['

    def prepare(rows: pl.DataFrame) -> list[bytes]:
        return [start + body + b'],"type":"body"}' for body in _bodies(rows)]

    async def post_all(bodies: list[bytes]) -> None:
        waiting = iter(bodies)

        async def work(session: aiohttp.ClientSession) -> None:
            for body in waiting:
                async with session.post(settings.url, data=body) as response:
                    assert response.status == 200

        connector = aiohttp.TCPConnector(limit=settings.concurrency)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(work(session) for _ in range(settings.concurrency)))

    yield Plain("aiohttp loop", prepare, lambda bodies: asyncio.run(post_all(bodies)))


PLAIN_CLIENTS: dict[str, PlainClient] = {
    "azure_blob": objects,
    "firestore": firestore,
    "gcs": objects,
    "kafka": kafka,
    "mongodb": mongodb,
    "s3": objects,
    "sql": sql,
    "sqs": sqs,
    "supabase": sql,
    "webhook": webhook,
}
