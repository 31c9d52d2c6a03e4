"""A double of Firestore, and what an application finds in its collections."""

from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.cloud.firestore_v1.services.firestore import FirestoreClient
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcTransport

from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.destinations.firestore import DESTINATION, FirestoreSettings
from wearable_pipeline.model import TABLES
from wearable_pipeline_tests.destinations.counterpart import Counterpart, State


def read_documents(settings: FirestoreSettings, collection: str, below: str = "") -> dict[str, Any]:
    """All documents of a collection by id, tombstones too; `below` is the path of a document."""
    assert settings.emulator is not None
    parent = f"projects/{settings.project}/databases/{settings.database}/documents"
    request = {
        "parent": f"{parent}/{below}".rstrip("/"),
        "collection_id": collection,
        "page_size": 50,
    }
    options = [("grpc.max_receive_message_length", -1)]
    found = {}
    with grpc.insecure_channel(settings.emulator, options=options) as channel:
        transport = FirestoreGrpcTransport(host=settings.emulator, channel=channel)
        client = FirestoreClient(transport=transport)
        for document in client.list_documents(
            request, metadata=[("authorization", "Bearer owner")]
        ):
            fields = type(document).pb(document).fields
            name = document.name.rpartition("/")[2]
            found[name] = {key: plain(fields[key]) for key in fields}
    return found


def read_parts(settings: FirestoreSettings, collection: str, name: str) -> dict[str, Any]:
    """What lies below a document, by id."""
    return read_documents(settings, "samples", f"{collection}/{name}")


def join_parts(settings: FirestoreSettings, collection: str, name: str, row: Any) -> None:
    """Put lists that lie below a document back where they belong."""
    below = read_parts(settings, collection, name)
    for path, count in row["parts"].items():
        *heads, last = path.split(".")
        holder = row
        for head in heads:
            holder = holder[head]
        assert holder[last] is None
        holder[last] = []
        for number in range(count):
            part = below.pop(f"{path}-{number:04d}")
            assert (part["path"], part["part"]) == (path, number)
            assert part["ordering_timestamp"] == row["ordering_timestamp"]
            holder[last] += part["values"]
    assert below == {}, "parts of no row"


def read_firestore(settings: FirestoreSettings) -> State:
    """Every document that is no tombstone."""
    found: dict[tuple[str, str, str], Any] = {}
    for table in TABLES:
        collection = settings.prefix + table
        for name, row in read_documents(settings, collection).items():
            if not row.get("is_deleted"):
                if "parts" in row:
                    join_parts(settings, collection, name, row)
                user_id, _, key = name.partition(":")
                found[user_id, table, key] = row
    return found


def plain(value: Any) -> Any:
    """The Python value of a Firestore value."""
    kind = value.WhichOneof("value_type")
    if kind == "map_value":
        fields = value.map_value.fields
        return {name: plain(fields[name]) for name in fields}
    if kind == "array_value":
        return [plain(element) for element in value.array_value.values]
    if kind == "null_value":
        return None
    return getattr(value, kind)


def start_firestore(request: pytest.FixtureRequest) -> Counterpart:
    """A project of its own on the session's double."""
    address: str = request.getfixturevalue("firestore_server")
    settings = FirestoreSettings(project=f"t-{uuid4().hex}", emulator=address)
    return Counterpart(Target("firestore", DESTINATION, settings), lambda: read_firestore(settings))
