"""The MongoDB destination: a collection for each data type, a document for each row.

A document is the client's JSON under `_id` = `<user id>:<day or session id>`, with the
`ordering_timestamp` of its content beside it. A write replaces only a document whose ordering is not
greater: where that filter finds none the upsert meets the newer one's `_id` (error 11000), so an
older content that comes late changes nothing. A withdrawn row leaves a tombstone without any
content, `is_deleted: true`, which keeps the ordering for a day; then the server's TTL index removes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit

import msgspec
from pydantic import Field, SecretStr

from wearable_pipeline.destinations._addresses import LOCAL_NAMES
from wearable_pipeline.destinations._contract import (
    Batch,
    Destination,
    DestinationSettings,
    Item,
    Outcome,
    delivered,
    permanent,
    transient,
    untried,
)
from wearable_pipeline.errors import PermanentError, TransientError, UsageError

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.collection import Collection

Document = dict[str, Any]

# A sender that claimed an older content has given up long before: its claim ends after minutes.
TOMBSTONE_LIFE = timedelta(days=1)
DOCUMENT_BYTES = 16 * 1024 * 1024
# BSON may be five times as long as the JSON it stands for, not more.
_WORTH_MEASURING = DOCUMENT_BYTES // 8
_SELECTION_SECONDS = 10.0
_DUPLICATE = 11000
# Somebody made the index with another life of tombstones: theirs counts.
_OTHER_INDEX = (85, 86)
# What the server says of one document that will not change by itself.
_REFUSED = {
    2: "a value the server does not take",
    13: "no right to write to the collection",
    14: "a type the server does not take",
    52: "a field name the server does not take",
    57: "a field name the server does not take",
    73: "the collection's name is not allowed",
    121: "the collection's validation rules refuse it",
    10334: "larger than a document may be",
    17280: "a key too large for an index of the collection",
    17419: "larger than a document may be",
    17420: "larger than a document may be",
}
_DENIED = {
    13: "no right to write; grant readWrite on the database",
    18: "user name or password refused",
    8000: "user name or password refused",
    72: "the server does not know an option of the URI",
    73: "the name of the database or collection is not allowed",
}


class MongoSettings(DestinationSettings):
    """What one MongoDB needs."""

    uri: SecretStr = Field(
        description="Connection string, mongodb://… or mongodb+srv://…, with user and password."
    )
    database: str = Field(
        "wearables", pattern=r"^[A-Za-z0-9_-]{1,63}$", description="Database to write to."
    )
    prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_-]{0,32}$",
        description="Put in front of collection names, which are the data types.",
    )
    timeout_seconds: float = Field(
        30.0, gt=0, le=120, description="How long one bulk write may take."
    )
    allow_plaintext: bool = Field(
        False, description="Let data travel unencrypted to a server elsewhere."
    )


@dataclass(slots=True)
class MongoSender:
    """Bulk upserts into one database; a context manager. The client connects at the first write."""

    client: "MongoClient[Document]" = field(repr=False)
    settings: MongoSettings = field(repr=False)
    name: str
    _expiring: set[str] = field(default_factory=set)
    _stopped: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.client.close()

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        """Upsert every row; outcomes when the server has confirmed the batch."""
        if self._stopped is not None or not batch.items:
            for item in batch.items:
                yield untried(item, self._stopped or "")
            return
        rows = _rows(batch)
        unfit = _find_unfit([row for row in rows if row.length > _WORTH_MEASURING])
        yield from self._refuse(unfit)
        if unfit:
            rows = [row for row in rows if row.item not in unfit]
        try:
            yield from self._write(self._collection(batch), rows)
        except (TransientError, PermanentError) as error:
            # The rest of the pass would wait as long and hear the same.
            self._stopped = str(error)
            raise

    def _collection(self, batch: Batch) -> "Collection[Document]":
        from pymongo import ReadPreference, WriteConcern
        from pymongo.errors import OperationFailure

        database = self.client.get_database(
            self.settings.database,
            read_preference=ReadPreference.PRIMARY,
            write_concern=WriteConcern("majority", j=True),
        )
        collection = database[self.settings.prefix + batch.table.name]

        def expire_tombstones() -> None:
            life = int(TOMBSTONE_LIFE.total_seconds())
            try:
                collection.create_index("withdrawn_at", expireAfterSeconds=life)
            except OperationFailure as error:
                if error.code not in _OTHER_INDEX:
                    raise

        if collection.name not in self._expiring and any(item.is_deleted for item in batch.items):
            self._ask(expire_tombstones)
            self._expiring.add(collection.name)
        return collection

    def _write(
        self, collection: "Collection[Document]", pending: list["_Row"]
    ) -> Iterator[Outcome]:
        # 11000 may also be a race of two inserts, which the newer one can lose: after it the document
        # is there, and the second try replaces it or meets a newer one.
        is_there = False
        while pending:
            try:
                codes = self._bulk(collection, pending)
            except _UnwritableError:
                unfit = _find_unfit(pending)
                if not unfit:
                    raise PermanentError(f"{self.name}: rows cannot be written as BSON") from None
                yield from self._refuse(unfit)
                pending = [row for row in pending if row.item not in unfit]
                continue
            met = []
            for index, row in enumerate(pending):
                code = codes.get(index)
                if code is None:
                    yield delivered(row.item)
                elif code == _DUPLICATE:
                    met.append(row)
                elif code in _REFUSED:
                    yield permanent(row.item, f"{self.name}: {_REFUSED[code]} (error {code})")
                else:
                    yield transient(row.item, f"{self.name}: refused (error {code})")
            if is_there:
                yield from self._compare(collection, met)
                return
            pending, is_there = met, True

    def _compare(
        self, collection: "Collection[Document]", met: Sequence["_Row"]
    ) -> Iterator[Outcome]:
        """Whether what stood in the way was a newer content, or somebody's own unique index."""
        if not met:
            return
        there: dict[str, int] = {}

        def read() -> None:
            wanted = {"_id": {"$in": [row.document["_id"] for row in met]}}
            for found in collection.find(wanted, {"ordering_timestamp": 1}):
                there[found["_id"]] = found.get("ordering_timestamp", 0)

        self._ask(read)
        for row in met:
            if there.get(row.document["_id"], 0) > row.item.ordering_timestamp:
                yield delivered(row.item)
            else:
                yield permanent(
                    row.item,
                    f"{self.name}: a unique index of the collection refuses it (error {_DUPLICATE})",
                )

    def _bulk(self, collection: "Collection[Document]", rows: Sequence["_Row"]) -> dict[int, int]:
        """Error codes by index of what was refused."""
        from pymongo import ReplaceOne
        from pymongo.errors import BulkWriteError

        operations = [ReplaceOne(row.guard, row.document, upsert=True) for row in rows]
        try:
            self._ask(collection.bulk_write, operations, ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            if details.get("writeConcernErrors"):
                raise TransientError(
                    f"{self.name}: written, but not confirmed by a majority of the servers"
                ) from None
            return {fault["index"]: fault["code"] for fault in details.get("writeErrors", ())}
        return {}

    def _ask(self, call: Any, *args: Any, **kwargs: Any) -> None:
        """Call the client; what concerns more than single documents is said in our words."""
        from bson.errors import InvalidDocument
        from pymongo import errors

        try:
            call(*args, **kwargs)
        except errors.BulkWriteError:
            raise
        except (errors.DocumentTooLarge, InvalidDocument, OverflowError):
            raise _UnwritableError from None
        except errors.OperationFailure as error:
            if error.code in _DENIED:
                raise PermanentError(
                    f"{self.name}: {_DENIED[error.code]} (error {error.code})"
                ) from None
            raise TransientError(f"{self.name}: refused (error {error.code})") from None
        except errors.ConfigurationError:
            raise PermanentError(
                f"{self.name}: {self.name}.uri leads to no usable server; check host and options"
            ) from None
        except errors.PyMongoError as error:
            # The text names hosts and may quote documents.
            why = (
                "its certificate is not trusted"
                if "CERTIFICATE_VERIFY_FAILED" in str(error)
                else type(error).__name__
            )
            raise TransientError(f"{self.name}: cannot be reached ({why})") from None

    def _refuse(self, unfit: Mapping[Item, str]) -> Iterator[Outcome]:
        for item, why in unfit.items():
            yield permanent(item, f"{self.name}: {why}")


@dataclass(frozen=True, slots=True)
class _Row:
    """A document to put in place of one whose ordering is not greater."""

    item: Item
    document: Document = field(repr=False)
    length: int  # of its JSON text

    @property
    def guard(self) -> Document:
        return {
            "_id": self.document["_id"],
            "ordering_timestamp": {"$lte": self.item.ordering_timestamp},
        }


class _UnwritableError(Exception):
    """The client refuses to send at least one of the documents."""


def document_id(item: Item) -> str:
    """The natural key as one text; user ids hold no colon."""
    return f"{item.user.user_id}:{item.row_key}"


def _rows(batch: Batch) -> list[_Row]:
    made = []
    withdrawn_at = datetime.now(UTC)
    for item, text in zip(batch.items, batch.texts, strict=True):
        document: Document = {
            "_id": document_id(item),
            "ordering_timestamp": item.ordering_timestamp,
        }
        if item.is_deleted:
            document |= {
                "user_id": item.user.user_id,
                "is_deleted": True,
                "withdrawn_at": withdrawn_at,
            }
        else:
            document["reference_id"] = item.user.reference_id
            document |= msgspec.json.decode(text)
        made.append(_Row(item, document, len(text)))
    return made


def _find_unfit(rows: Sequence[_Row]) -> dict[Item, str]:
    """Why no server takes them, by row: too large, or not to be said in BSON."""
    import bson
    from bson.errors import InvalidDocument

    found = {}
    for row in rows:
        try:
            size = len(bson.encode(row.document))
        except (InvalidDocument, OverflowError):
            found[row.item] = "the row cannot be written as BSON"
            continue
        if size > DOCUMENT_BYTES:
            found[row.item] = "larger than the 16 MB of a MongoDB document; leave it out by types"
    return found


def open_mongodb(settings: MongoSettings, name: str = "mongodb") -> MongoSender:
    """A sender for the database. Raises UsageError when the settings do not allow it."""
    try:
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError
    except ImportError:
        raise UsageError(
            f"{name}: the client is missing: pip install 'wearable-pipeline[mongodb]'"
        ) from None
    uri = settings.uri.get_secret_value()
    _check_uri(uri, name, allow_plaintext=settings.allow_plaintext)
    milliseconds = int(settings.timeout_seconds * 1000)
    try:
        client: MongoClient[Document] = MongoClient(
            uri,
            appname="wearable-pipeline",
            connect=False,
            timeoutMS=milliseconds,
            serverSelectionTimeoutMS=min(milliseconds, int(_SELECTION_SECONDS * 1000)),
            connectTimeoutMS=min(milliseconds, int(_SELECTION_SECONDS * 1000)),
        )
    except (PyMongoError, ValueError, TypeError):
        raise UsageError(_bad_uri(name)) from None
    return MongoSender(client, settings, name)


def _check_uri(uri: str, name: str, *, allow_plaintext: bool) -> None:
    """Raise UsageError unless it is a connection string, encrypted when it leads elsewhere."""
    from pymongo.errors import PyMongoError
    from pymongo.uri_parser import parse_uri

    if uri.startswith("mongodb+srv://"):
        # Not resolved here: opening needs no network. TLS is on unless it is switched off.
        try:
            options = {k.lower(): v.lower() for k, v in parse_qsl(urlsplit(uri).query)}
        except ValueError:
            raise UsageError(_bad_uri(name)) from None
        is_encrypted = "false" not in (options.get("tls"), options.get("ssl"))
        is_here = False
    else:
        try:
            parsed = parse_uri(uri, warn=False)
        except (PyMongoError, ValueError):
            raise UsageError(_bad_uri(name)) from None
        hosts = [host for host, _ in parsed["nodelist"]]
        is_here = all(host in LOCAL_NAMES or host.endswith(".sock") for host in hosts)
        is_encrypted = bool(parsed["options"].get("tls"))
    if not (is_encrypted or is_here or allow_plaintext):
        raise UsageError(
            f"{name}.uri must say tls=true: health data do not travel in the clear"
            f" ({name}.allow_plaintext=true lets them)"
        )


def _bad_uri(name: str) -> str:
    # What the client says may quote the password.
    return (
        f"{name}.uri is no MongoDB connection string, or has an option MongoDB does not know:"
        " mongodb://user:password@host/?tls=true (':', '/', '@' in a password as %3A, %2F, %40)"
    )


DESTINATION = Destination(
    name="mongodb",
    title="MongoDB",
    kind="database",
    summary="One document per row in a collection per data type, replaced when the row changes.",
    settings=MongoSettings,
    open=open_mongodb,
    extra="mongodb",
    batch_rows=500,
)
