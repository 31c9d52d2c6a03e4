"""The Firestore destination: a collection for each data type, a document for each row.

A document is the client's JSON under the id `<user id>:<day or session id>` ("/" and "%" of a session
id escaped), with the `ordering_timestamp` of its content beside it. Firestore knows no condition on a
field, so the ordering of what is there is read first and every write carries the precondition that
nothing has changed since: `update_time` of a document that was there, absence of one that was not.
Whoever loses against another sender reads again, so an older content never overwrites a newer one
and no transaction holds a lock.

Lists that would make a document larger than Firestore allows lie below it in `samples`, at most 900 kB
each; the list is null then and `parts` says how many there are of it. Such a row is written as one
commit, all of it or nothing. A withdrawn row leaves a tombstone without any content,
`is_deleted: true`, which keeps the ordering; a TTL policy on `expire_at` removes it.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

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
    from google.auth.credentials import Credentials
    from google.cloud.firestore_v1.services.firestore import FirestoreClient

# A document may be 1 MiB, as Firestore counts; as a message it is always larger.
DOCUMENT_BYTES = 1_000_000
PART_BYTES = 900_000
# What one request may hold.
WRITES = 500
COMMIT_BYTES = 10 * 1024 * 1024
ID_BYTES = 1_500
REQUEST_BYTES = 9 * 1024 * 1024
TOMBSTONE_LIFE = timedelta(days=1)
# Two senders meet at one document once; more than that is somebody else writing all the time.
_ROUNDS = 4
_OK, _INVALID = 0, 3
# Not found, already exists, failed precondition, aborted: somebody else was there in between.
_MET = frozenset({5, 6, 9, 10})
_REFUSED = {
    _INVALID: "not a document Firestore takes: more than 10 MiB, too many index entries or a"
    " forbidden field name; exempt lists from indexing or leave the type out by types",
    7: "no right to write; grant roles/datastore.user",
    16: "the credentials are refused",
}
_DENIED = {
    **_REFUSED,
    5: "no such project or database",
    9: "the database is not in native mode",
    12: "this is no Firestore",
}

Message = Any  # protobuf classes are made at run time


class FirestoreSettings(DestinationSettings):
    """What one Firestore database needs; without a service account, Google's default credentials."""

    project: str = Field(
        pattern=r"^[a-z0-9:.-]{1,100}$", description="Id of the Google Cloud project."
    )
    database: str = Field(
        "(default)", pattern=r"^(\(default\)|[a-z0-9-]{1,63})$", description="Database id."
    )
    prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_-]{0,32}$",
        description="Put in front of collection names, which are the data types.",
    )
    service_account: SecretStr | None = Field(
        None, description="Key of a service account, as the JSON text Google hands out."
    )
    service_account_file: Path | None = Field(None, description="File with that key.")
    emulator: str | None = Field(
        None, description="host:port of an emulator, spoken to without TLS and credentials."
    )
    timeout_seconds: float = Field(30.0, gt=0, le=120, description="How long one call may take.")
    allow_plaintext: bool = Field(
        False, description="Let data travel unencrypted to an emulator elsewhere."
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """A document to write, how many bytes it is, and documents below it for lists that do not fit."""

    item: Item
    document: Message = field(repr=False)
    size: int
    parts: tuple[Message, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class _Version:
    """A document that is there: its ordering, its version, and the names of what lies below it."""

    ordering: int
    update_time: Message
    parts: frozenset[str]


@dataclass(slots=True)
class FirestoreSender:
    """Batched writes into one database; a context manager. It connects at the first call."""

    client: "FirestoreClient" = field(repr=False)
    settings: FirestoreSettings = field(repr=False)
    name: str
    _stopped: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        transport: Any = self.client.transport
        transport.close()

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        """Write every row; outcomes as requests of up to 500 rows or 9 MiB are answered."""
        if self._stopped is not None or not batch.items:
            for item in batch.items:
                yield untried(item, self._stopped or "")
            return
        rows = self._rows(batch)
        for row in rows:
            if len(document_id(row.item).encode()) > ID_BYTES:
                yield permanent(row.item, f"{self.name}: the row's key is too long for an id")
        try:
            yield from self._write(
                [row for row in rows if len(document_id(row.item).encode()) <= ID_BYTES]
            )
        except (TransientError, PermanentError) as error:
            # The rest of the pass would wait as long and hear the same.
            self._stopped = str(error)
            raise

    @property
    def _database(self) -> str:
        return f"projects/{self.settings.project}/databases/{self.settings.database}"

    def _rows(self, batch: Batch) -> list[_Row]:
        from google.cloud.firestore_v1.types import Document

        make = Document.pb()
        collection = f"{self._database}/documents/{self.settings.prefix}{batch.table.name}"
        expire_at = datetime.now(UTC) + TOMBSTONE_LIFE
        rows = []
        for item, text in zip(batch.items, batch.texts, strict=True):
            document = make(name=f"{collection}/{document_id(item)}")
            fields = document.fields
            fields["ordering_timestamp"].integer_value = item.ordering_timestamp
            if item.is_deleted:
                _put(fields, {"user_id": item.user.user_id, "is_deleted": True})
                fields["expire_at"].timestamp_value.FromDatetime(expire_at)
            else:
                _put(fields, {"reference_id": item.user.reference_id})
                _put(fields, msgspec.json.decode(text))
            size = document.ByteSize()
            parts = _divide(document) if size > DOCUMENT_BYTES else ()
            rows.append(_Row(item, document, document.ByteSize() if parts else size, parts))
        return rows

    def _write(self, pending: list[_Row]) -> Iterator[Outcome]:
        for _ in range(_ROUNDS):
            met: list[_Row] = []
            for group in _groups(pending):
                versions = self._read_versions(group)
                ahead = []
                for row in group:
                    if _is_behind(row, versions):
                        yield delivered(row.item)  # what is there is newer
                    else:
                        ahead.append(row)
                for row, code in self._write_group(ahead, versions):
                    if code in _MET:
                        met.append(row)
                    else:
                        yield self._outcome(row.item, code)
            pending = met
            if not pending:
                return
        for row in pending:
            yield transient(row.item, f"{self.name}: somebody else keeps writing the document")

    def _outcome(self, item: Item, code: int) -> Outcome:
        if code == _OK:
            return delivered(item)
        if code in _REFUSED:
            return permanent(item, f"{self.name}: {_REFUSED[code]} (status {code})")
        return transient(item, f"{self.name}: refused (status {code})")

    def _read_versions(self, rows: Sequence[_Row]) -> dict[str, _Version]:
        """The documents that are there, by name."""
        from google.cloud.firestore_v1.types import BatchGetDocumentsRequest

        request = BatchGetDocumentsRequest.pb()(
            database=self._database,
            documents=[row.document.name for row in rows],
            mask={"field_paths": ["ordering_timestamp", "parts"]},
        )
        found: dict[str, _Version] = {}

        def read() -> None:
            answers = self.client.batch_get_documents(
                BatchGetDocumentsRequest.wrap(request), **self._options
            )
            for answer in answers:
                one = type(answer).pb(answer)
                if one.HasField("found"):
                    fields = one.found.fields
                    parts = fields["parts"].map_value.fields
                    found[one.found.name] = _Version(
                        fields["ordering_timestamp"].integer_value,
                        one.found.update_time,
                        frozenset(
                            _part_name(one.found.name, path, number)
                            for path in parts
                            for number in range(parts[path].integer_value)
                        ),
                    )

        self._ask(read)
        return found

    def _write_group(
        self, rows: Sequence[_Row], versions: Mapping[str, _Version]
    ) -> Iterator[tuple[_Row, int]]:
        """Rows with their status."""
        alone = []
        for row in rows:
            known = versions.get(row.document.name)
            if row.parts or (known is not None and known.parts):
                yield row, self._commit(row, known)
            else:
                alone.append(row)
        yield from self._write_batch(alone, versions)

    def _write_batch(
        self, rows: Sequence[_Row], versions: Mapping[str, _Version]
    ) -> Iterator[tuple[_Row, int]]:
        """Each row for itself. A request refused as a whole is cut in two until one is to blame."""
        from google.cloud.firestore_v1.types import BatchWriteRequest

        if not rows:
            return
        request = BatchWriteRequest.pb()(database=self._database)
        for row in rows:
            _fill(request.writes.add(), row, versions.get(row.document.name))
        codes: list[int] = []

        def send() -> None:
            answer = self.client.batch_write(BatchWriteRequest.wrap(request), **self._options)
            codes.extend(status.code for status in type(answer).pb(answer).status)

        try:
            self._ask(send, {_INVALID})
        except _RefusedError:
            if len(rows) == 1:
                yield rows[0], _INVALID
                return
            middle = len(rows) // 2
            yield from self._write_batch(rows[:middle], versions)
            yield from self._write_batch(rows[middle:], versions)
            return
        yield from zip(rows, codes, strict=True)

    def _commit(self, row: _Row, known: _Version | None) -> int:
        """The status of a row that is more than one document: all of them or none."""
        from google.cloud.firestore_v1.types import CommitRequest

        request = CommitRequest.pb()(database=self._database)
        _fill(request.writes.add(), row, known)
        for part in row.parts:
            request.writes.add().update.CopyFrom(part)
        gone = (known.parts if known else frozenset()) - {part.name for part in row.parts}
        for name in sorted(gone):
            request.writes.add().delete = name
        if request.ByteSize() > COMMIT_BYTES:
            return _INVALID
        try:
            self._ask(
                lambda: self.client.commit(CommitRequest.wrap(request), **self._options),
                {_INVALID, *_MET},
            )
        except _RefusedError as error:
            return error.code
        return _OK

    @property
    def _options(self) -> dict[str, Any]:
        metadata = [("google-cloud-resource-prefix", self._database)]
        if self.settings.emulator is not None:
            metadata.append(("authorization", "Bearer owner"))
        # The ledger tries again; the client's own retries would only hold up the pass.
        return {"retry": None, "timeout": self.settings.timeout_seconds, "metadata": metadata}

    def _ask(self, call: Callable[[], object], meant: Collection[int] = ()) -> None:
        """Call the client; a status that is not meant for the caller is said in our words."""
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError

        try:
            call()
        except GoogleAPICallError as error:
            # The text names the project and may quote documents.
            status = error.grpc_status_code
            code, word = status.value if status is not None else (2, "unknown")
            if code in meant:
                raise _RefusedError(code) from None
            if code in _DENIED:
                raise PermanentError(f"{self.name}: {_DENIED[code]} (status {code})") from None
            raise TransientError(f"{self.name}: not written ({word})") from None
        except GoogleAuthError as error:
            raise TransientError(
                f"{self.name}: the credentials cannot be used ({type(error).__name__})"
            ) from None


class _RefusedError(Exception):
    """Firestore refuses the request as such."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def document_id(item: Item) -> str:
    """The natural key as one text; user ids hold no colon."""
    key = item.row_key.replace("%", "%25").replace("/", "%2F")
    return f"{item.user.user_id}:{key}"


def _part_name(name: str, path: str, number: int) -> str:
    return f"{name}/samples/{path}-{number:04d}"


def _divide(document: Message) -> tuple[Message, ...]:
    """Take the longest lists out of the document until it fits; what lies below it instead."""
    parts: list[Message] = []
    lists = sorted(_lists(document.fields, ""), key=lambda one: -one[1].ByteSize())
    for path, value in lists:
        if document.ByteSize() <= DOCUMENT_BYTES:
            break
        elements = list(value.array_value.values)
        pieces = min(-(-value.ByteSize() // PART_BYTES), max(1, len(elements)))
        length = -(-len(elements) // pieces)
        for number, start in enumerate(range(0, len(elements), length)):
            part = type(document)(name=_part_name(document.name, path, number))
            for name in ("user_id", "ordering_timestamp"):
                part.fields[name].CopyFrom(document.fields[name])
            _put(part.fields, {"path": path, "part": number})
            part.fields["values"].array_value.values.extend(elements[start : start + length])
            parts.append(part)
        document.fields["parts"].map_value.fields[path].integer_value = number + 1
        value.null_value = 0
    return tuple(parts)


def _lists(fields: Message, prefix: str) -> Iterator[tuple[str, Message]]:
    """Paths of lists that are not inside lists, and where they stand."""
    for key in fields:
        value = fields[key]
        if value.HasField("map_value"):
            yield from _lists(value.map_value.fields, f"{prefix}{key}.")
        elif value.HasField("array_value") and value.array_value.values:
            yield prefix + key, value


def _fill(write: Message, row: _Row, known: _Version | None) -> None:
    """A write of the row's document that only counts if nothing has changed since it was read."""
    write.update.CopyFrom(row.document)
    if known is None:
        write.current_document.exists = False
    else:
        write.current_document.update_time.CopyFrom(known.update_time)


def _is_behind(row: _Row, versions: Mapping[str, _Version]) -> bool:
    known = versions.get(row.document.name)
    return known is not None and known.ordering > row.item.ordering_timestamp


def _groups(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """As many rows as fit into a request."""
    group: list[_Row] = []
    size = 0
    for row in rows:
        if group and (len(group) == WRITES or size + row.size > REQUEST_BYTES):
            yield group
            group, size = [], 0
        group.append(row)
        size += row.size
    if group:
        yield group


def _put(fields: Message, values: Mapping[str, object]) -> None:
    """Write JSON into the fields of a document: a tenth of what the client's own encoder takes."""
    for key, value in values.items():
        _set(fields[key], value)


def _set(target: Message, value: object) -> None:
    if value is None:
        target.null_value = 0
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, bool):
        target.boolean_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, int):
        target.integer_value = value
    elif isinstance(value, dict):
        target.map_value.SetInParent()
        _put(target.map_value.fields, value)
    elif isinstance(value, list):
        target.array_value.SetInParent()
        add = target.array_value.values.add
        for element in value:
            _set(add(), element)
    else:
        raise TypeError(type(value))


def open_firestore(settings: FirestoreSettings, name: str = "firestore") -> FirestoreSender:
    """A sender for the database. Raises UsageError when the settings do not allow it."""
    try:
        from google.cloud.firestore_v1.services.firestore import FirestoreClient
        from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcTransport
    except ImportError:
        raise UsageError(
            f"{name}: the client is missing: pip install 'wearable-pipeline[firestore]'"
        ) from None
    # A new sender tries anew: gRPC shares connections, and their back-off, within a process.
    own = ("grpc.use_local_subchannel_pool", 1)

    def connect(host: str, **kwargs: Any) -> Any:
        kwargs["options"] = [*kwargs["options"], own]
        return FirestoreGrpcTransport.create_channel(host, **kwargs)

    if settings.emulator is not None:
        import grpc

        _check_emulator(settings, settings.emulator, name)
        options = [own, ("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
        channel = grpc.insecure_channel(settings.emulator, options=options)
        transport = FirestoreGrpcTransport(host=settings.emulator, channel=channel)
    else:
        transport = FirestoreGrpcTransport(
            credentials=_read_credentials(settings, name),
            channel=connect,
            always_use_jwt_access=True,
        )
    return FirestoreSender(FirestoreClient(transport=transport), settings, name)


def _check_emulator(settings: FirestoreSettings, emulator: str, name: str) -> None:
    host, colon, port = emulator.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise UsageError(f"{name}.emulator must be host:port")
    if settings.service_account is not None or settings.service_account_file is not None:
        raise UsageError(f"{name}: an emulator takes no service account; drop one of the two")
    if host.strip("[]") not in LOCAL_NAMES and not settings.allow_plaintext:
        raise UsageError(
            f"{name}.emulator must be on this machine: health data do not travel in the clear"
            f" ({name}.allow_plaintext=true lets them)"
        )


def _read_credentials(settings: FirestoreSettings, name: str) -> "Credentials":
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError
    from google.oauth2.service_account import Credentials as ServiceAccount

    if settings.service_account is not None and settings.service_account_file is not None:
        raise UsageError(f"{name}: service_account or service_account_file, not both")
    key = settings.service_account.get_secret_value() if settings.service_account else None
    if settings.service_account_file is not None:
        try:
            key = settings.service_account_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{name}.service_account_file cannot be read ({type(error).__name__})"
            ) from None
    if key is None:
        try:
            found: Credentials
            found, _ = google.auth.default()
        except DefaultCredentialsError:
            raise UsageError(
                f"{name}: no credentials; set {name}.service_account_file or Google's defaults"
            ) from None
        return found
    make: Any = ServiceAccount.from_service_account_info
    try:
        made: Credentials = make(json.loads(key))
    except (ValueError, TypeError, KeyError, AttributeError):
        # What is said of a key may quote it.
        raise UsageError(f"{name}: the service account's key is not the JSON of one") from None
    return made


DESTINATION = Destination(
    name="firestore",
    title="Firestore",
    kind="database",
    summary="One document per row in a collection per data type, replaced when the row changes.",
    settings=FirestoreSettings,
    open=open_firestore,
    extra="firestore",
    batch_rows=500,
)
