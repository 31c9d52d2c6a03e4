"""Nightscout documents written down in a test, and the doors they come in by."""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec
import polars as pl

from wearable_pipeline.lake.layout import quarantine_path, table_path
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Page, Record
from wearable_pipeline.raw.ingest import ingest
from wearable_pipeline.raw.store import Appended, Arrival, frame_of
from wearable_pipeline.registry import User
from wearable_pipeline.workspace import Lake, Workspace

NIGHTSCOUT = "nightscout"
DAY = date(2026, 11, 20)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)

Fields = Mapping[str, object]


def milliseconds(at: datetime) -> int:
    """As Nightscout writes instants."""
    return int(at.timestamp() * 1000)


def entry(at: datetime, sgv: object = 100, **fields: object) -> dict[str, object]:
    """A sensor entry of an uploader at UTC; its identity is its instant."""
    return {
        "type": "sgv",
        "date": milliseconds(at),
        "identifier": f"id-{milliseconds(at)}",
        "sgv": sgv,
        "direction": "Flat",
        "device": "share2",
        "utcOffset": 0,
        **fields,
    }


def split(
    documents: Iterable[Fields] | bytes, fetched_at: datetime, resource: str = "entries"
) -> list[Record]:
    """Records of a page of `documents`, cut the way the provider cuts them."""
    body = documents if isinstance(documents, bytes) else msgspec.json.encode(list(documents))
    page = Page(resource, body, fetched_at, {"timezone": None})
    return list(get_provider(NIGHTSCOUT).resource(resource).split(page))


def raw_frame(
    documents: Iterable[Fields] | bytes,
    fetched_at: datetime = NOON,
    user_id: str = "u1",
    resource: str = "entries",
    batch: str = "b1",
) -> pl.DataFrame:
    """`documents` as raw records."""
    records = split(documents, fetched_at, resource)
    return frame_of(NIGHTSCOUT, [Arrival(user_id, records, fetched_at)], batch, "poll")


def add_user(workspace: Workspace) -> User:
    """A connected user nobody will ask."""
    return workspace.registry.add_user(NIGHTSCOUT, reference_id=None, credentials={})


def take_in(
    workspace: Workspace,
    user: User,
    documents: Iterable[Fields] | bytes,
    fetched_at: datetime | None = None,
    resource: str = "entries",
) -> Appended:
    """Ingest `documents` as a poll would."""
    at = fetched_at or workspace.now()
    arrival = Arrival(user.user_id, split(documents, at, resource), at)
    return ingest(workspace, get_provider(NIGHTSCOUT), [arrival], "poll")


def series(start: datetime, count: int, sgv: int = 100) -> list[dict[str, object]]:
    """`count` entries five minutes apart."""
    return [entry(start + timedelta(minutes=5 * n), sgv + n % 50) for n in range(count)]


def samples_of(frame: pl.DataFrame) -> list[tuple[datetime, float | None]]:
    """Glucose samples of body rows, in the order of the file."""
    return [
        (one["timestamp"], one["blood_glucose_mg_per_dl"])
        for row in frame["glucose_blood_glucose_samples"].to_list()
        for one in row or []
    ]


def read_table(lake: Lake, table: str, cell: Partition) -> pl.DataFrame:
    """A partition's file."""
    return pl.read_parquet(io.BytesIO(lake.storage.read(table_path(table, cell))))


def read_quarantine(lake: Lake, table: str, cell: Partition) -> pl.DataFrame:
    """What a partition left out."""
    return pl.read_parquet(io.BytesIO(lake.storage.read(quarantine_path(table, cell))))


def hash_files(
    lake: Lake, prefixes: Sequence[str] = ("body", "nutrition", "quarantine")
) -> dict[str, str]:
    """Digest of every file of the tables."""
    return {
        found.path: hashlib.sha256(lake.storage.read(found.path)).hexdigest()
        for prefix in prefixes
        for found in lake.storage.list(f"{prefix}/")
    }
