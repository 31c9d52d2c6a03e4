"""The plain client of every kind of destination, as somebody uses it who has finished rows to insert.

No ledger, no lake, no order of revisions, no outcome per row: what inserting alone costs. `prepare` is
not measured; it makes frames for SQL and the rows as dicts for all others. To write these as JSON where
the client takes bytes is a part of inserting, and measured: by orjson, the fastest there is.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

import orjson
import polars as pl

from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.model.payload import to_payload
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


def _documents(rows: pl.DataFrame) -> list[Json]:
    return to_payload(BODY, rows)


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
    """ADBC's bulk ingest (COPY) of flat rows and of exploded samples, one transaction.

    Into tables with a primary key, as whoever wants to write a row again later needs.
    """
    from adbc_driver_postgresql import dbapi

    url = cast(Any, target.settings).url.get_secret_value()
    lists = [column.name for column in BODY.lists]
    samples = "glucose_blood_glucose_samples"

    def prepare(rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
        flat = rows.select(pl.exclude([*lists, "source_record_ids", "batch_ids"]))
        nested = [name for name, dtype in flat.schema.items() if isinstance(dtype, pl.List)]
        place = pl.int_ranges(pl.col(samples).list.len()).alias("position")
        exploded = rows.select("user_id", "local_date", samples, place)
        exploded = exploded.explode(samples, "position").unnest(samples)
        return {"plain_rows": flat.drop(nested), "plain_samples": exploded}

    with dbapi.connect(url) as connection, connection.cursor() as cursor:
        keys = {
            "plain_rows": "user_id, local_date",
            "plain_samples": "user_id, local_date, position",
        }
        for name, frame in prepare(BODY.empty()).items():
            cursor.adbc_ingest(name, frame.to_arrow(), mode="create")
            cursor.execute(f"ALTER TABLE {name} ADD PRIMARY KEY ({keys[name]})")

        def insert(frames: dict[str, pl.DataFrame]) -> None:
            for name, frame in frames.items():
                cursor.adbc_ingest(name, frame.to_arrow(), mode="append")

        yield Plain("ADBC ingest", prepare, insert, connection.commit)


@contextmanager
def supabase(target: Target) -> Iterator[Plain]:
    """As `sql`, and an upload of each row to the storage bucket, as many at a time as ours."""
    import httpx

    settings = cast(Any, target.settings)
    key = settings.service_key.get_secret_value()
    headers = {"apikey": key, "Authorization": f"Bearer {key}", "x-upsert": "true"}
    address = f"{settings.project_url}/storage/v1/object/{settings.bucket}/plain"
    with (
        sql(target) as tables,
        httpx.Client(headers=headers, trust_env=False) as client,
        ThreadPoolExecutor(settings.concurrency) as pool,
    ):

        def put(row: Json) -> None:
            client.post(
                f"{address}/{uuid4().hex}.json", content=orjson.dumps(row)
            ).raise_for_status()

        def insert(ready: tuple[dict[str, pl.DataFrame], list[Json]]) -> None:
            frames, documents = ready
            tables.insert(frames)
            list(pool.map(put, documents))

        yield Plain(
            "ADBC ingest; orjson, httpx",
            lambda rows: (tables.prepare(rows), _documents(rows)),
            insert,
            tables.finish,
        )


@contextmanager
def objects(target: Target) -> Iterator[Plain]:
    """`obstore.put` of an object a row, as many at a time as ours."""
    import obstore

    from wearable_pipeline.destinations._objects import open_store

    settings = cast(Any, target.settings)
    store = open_store(settings.store, "plain")._writer
    with ThreadPoolExecutor(settings.concurrency) as pool:

        def put(row: Json) -> None:
            obstore.put(store, f"plain/{uuid4().hex}.json", orjson.dumps(row))

        yield Plain(
            "orjson, obstore.put", _documents, lambda documents: list(pool.map(put, documents))
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

    def pack(documents: list[Json]) -> Iterator[list[Json]]:
        entries: list[Json] = []
        size = 0
        for document in documents:
            body = orjson.dumps(document)
            if len(entries) == 10 or size + len(body) > 2**20:
                yield entries
                entries, size = [], 0
            size += len(body)
            entries.append(
                {
                    "Id": str(len(entries)),
                    "MessageBody": body.decode(),
                    "MessageGroupId": document["user_id"],
                    "MessageDeduplicationId": uuid4().hex,
                }
            )
        yield entries

    with ThreadPoolExecutor(settings.concurrency) as pool:

        def send(entries: list[Json]) -> None:
            assert not client.send_message_batch(QueueUrl=queue, Entries=entries).get("Failed")

        yield Plain(
            "orjson, boto3 send_message_batch",
            _documents,
            lambda documents: list(pool.map(send, pack(documents))),
        )
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

    def note(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    def insert(documents: list[Json]) -> None:
        for document in documents:
            body = orjson.dumps(document)
            while True:
                try:
                    producer.produce(topic, body, document["user_id"], on_delivery=note)
                    break
                except BufferError:
                    producer.poll(0.1)

    def finish() -> None:
        assert producer.flush(60) == 0
        assert not failed

    yield Plain("orjson, confluent-kafka produce", _documents, insert, finish)


@contextmanager
def webhook(target: Target) -> Iterator[Plain]:
    """An aiohttp loop that posts a row each, as many at a time as ours."""
    import aiohttp

    settings = cast(Any, target.settings)

    async def post_all(documents: list[Json]) -> None:
        waiting = iter(documents)

        async def work(session: aiohttp.ClientSession) -> None:
            for document in waiting:
                user = {"user_id": document["user_id"]}
                body = orjson.dumps({"user": user, "data": [document], "type": "body"})
                async with session.post(settings.url, data=body) as response:
                    assert response.status == 200

        connector = aiohttp.TCPConnector(limit=settings.concurrency)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(work(session) for _ in range(settings.concurrency)))

    yield Plain(
        "orjson, aiohttp loop", _documents, lambda documents: asyncio.run(post_all(documents))
    )


PLAIN_CLIENTS: dict[str, PlainClient] = {
    "azure_blob": objects,
    "firestore": firestore,
    "gcs": objects,
    "kafka": kafka,
    "mongodb": mongodb,
    "s3": objects,
    "sql": sql,
    "sqs": sqs,
    "supabase": supabase,
    "webhook": webhook,
}
