"""The SQL destination: typed tables in PostgreSQL, MySQL, MariaDB, SQLite or DuckDB.

A table per data type and one per list of samples, made from the model. A batch is one transaction:
readers see a row with all its samples or as it was. `revisions` is locked and asked first, so an
older revision that comes late changes nothing; a withdrawn row leaves its tables and stays there as
a line of user, key and ordering. A user without rows left leaves `users` and `events` too.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self
from uuid import NAMESPACE_OID, uuid5

import msgspec
import polars as pl
from pydantic import Field, SecretStr

from wearable_pipeline.destinations._contract import (
    Batch,
    Destination,
    DestinationSettings,
    Event,
    Item,
    Outcome,
    delivered,
    permanent,
    untried,
)
from wearable_pipeline.destinations._sql_relations import (
    ORDERING,
    POSITION,
    TERRA,
    TERRA_DATA,
    TERRA_OTHER,
    TERRA_USERS,
    Relation,
    events_of,
    flatten_rows,
    flatten_samples,
    relations_of,
    revisions_of,
    users_of,
)
from wearable_pipeline.destinations._sql_stores import (
    Access,
    Line,
    RowsRefusedError,
    Store,
    make_store,
    parse_url,
)
from wearable_pipeline.errors import PermanentError, TransientError
from wearable_pipeline.model import Table
from wearable_pipeline.model.time import format_pair

TIMEOUT_SECONDS = 60.0
CONNECT_SECONDS = 10.0
# Of ours, in front of the longest name of a table, it must fit the 63 bytes of PostgreSQL.
PREFIX = r"([a-z][a-z0-9_]{0,23})?"

# Of one transaction, so that none takes longer than a statement may.
TRANSACTION_BYTES = 64 * 1024 * 1024
_REVISION = ("user_id", "table_name", "row_key")


class TableSettings(DestinationSettings):
    """How tables are named and which are kept."""

    prefix: str = Field(
        "wearable_", pattern=f"^{PREFIX}$", description="What the names of our tables begin with."
    )
    terra_tables: bool = Field(
        False,
        description="Keep terra_users, terra_data_payloads and terra_other_payloads as well.",
    )
    timeout_seconds: float = Field(
        TIMEOUT_SECONDS, ge=1, le=600, description="How long one statement may take."
    )
    connect_timeout_seconds: float = Field(
        CONNECT_SECONDS, ge=1, le=60, description="How long connecting may take."
    )
    allow_plaintext: bool = Field(
        False, description="Let a server elsewhere be reached without encryption."
    )
    database_schema: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$",
        description="PostgreSQL schema of our tables, made when it is missing; unset: the user's own.",
    )


class SqlSettings(TableSettings):
    """What one database needs."""

    url: SecretStr = Field(
        description="postgresql://user:password@host/database, mysql://…, mariadb://…,"
        " sqlite:///path or duckdb:///path."
    )


class Keeper(Protocol):
    """A place beside the database that keeps the JSON of rows."""

    def put(self, items: Sequence[Item], texts: Sequence[bytes | memoryview]) -> list[str]:
        """Keep the texts; returns their addresses."""
        ...

    def remove(self, items: Sequence[Item]) -> None:
        """Forget the texts of withdrawn rows."""
        ...


class SqlSender:
    """Writes batches into a database; a context manager. It connects with the first batch."""

    def __init__(self, store: Store, settings: TableSettings, keeper: Keeper | None = None) -> None:
        self._store = store
        self._prefix = settings.prefix
        self._has_terra = settings.terra_tables
        self._keeper = keeper
        self._checked: set[str] = set()
        self._down: str | None = None
        self._users = users_of(settings.prefix)
        self._revisions = revisions_of(settings.prefix)
        self._events = events_of(settings.prefix)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._store.close()

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        """Write the rows, all of one in one transaction; refused ones are found by halving."""
        if self._down is not None:
            yield from (untried(item, self._down) for item in batch.items)
            return
        if not batch.items:
            return
        self._prepare(batch.table)
        # Everybody locks rows in the same order.
        order = sorted(range(len(batch.items)), key=lambda i: _key_of(batch.items[i]))
        parts = 1 + int(batch.rows.estimated_size()) // TRANSACTION_BYTES
        size = -(-len(order) // parts)
        for start in range(0, len(order), size):
            yield from self._write(batch, order[start : start + size])

    def deliver_events(self, events: Sequence[Event]) -> Iterator[Outcome]:
        """Write the events, one transaction each."""
        if self._down is not None:
            yield from (untried(event.item, self._down) for event in events)
            return
        for event in events:
            self._prepare(None)
            try:
                with self._store.transaction():
                    self._put_event(event)
            except RowsRefusedError as error:
                yield permanent(event.item, str(error))
            else:
                yield delivered(event.item)

    def _write(self, batch: Batch, picked: list[int]) -> Iterator[Outcome]:
        if not self._store.is_connected:
            self._connect()
        try:
            with self._store.transaction():
                self._put(batch, picked)
        except RowsRefusedError as error:
            if len(picked) == 1:
                yield permanent(batch.items[picked[0]], str(error))
                return
            middle = len(picked) // 2
            yield from self._write(batch, picked[:middle])
            yield from self._write(batch, picked[middle:])
            return
        yield from (delivered(batch.items[index]) for index in picked)

    def _put(self, batch: Batch, picked: list[int]) -> None:
        store, relations = self._store, relations_of(batch.table, self._prefix)
        known, taken = self._stamp([batch.items[index] for index in picked])
        picked = [index for index in picked if _key_of(batch.items[index]) in taken]
        live = [index for index in picked if not batch.items[index].is_deleted]
        old = [index for index in picked if _key_of(batch.items[index]) in known]
        gone = [batch.items[index] for index in picked if batch.items[index].is_deleted]
        if old:
            keys = [_natural_key(relations.row_key, batch.items[index]) for index in old]
            for relation in relations.all():
                store.delete(relation, relations.row_key, keys)
        if live:
            rows = batch.rows[live]
            ordering = pl.Series([batch.items[index].ordering_timestamp for index in live])
            store.insert(relations.rows, flatten_rows(relations, rows, ordering))
            for column, relation in relations.samples:
                samples = flatten_samples(column, relation, rows)
                if samples is not None:
                    store.insert(relation, samples)
            self._put_users([batch.items[index] for index in live])
        self._keep(batch, live, old, gone)
        if gone:
            self._drop_users({item.user.user_id for item in gone})

    def _stamp(self, items: Sequence[Item]) -> tuple[set[Line], set[Line]]:
        """Lock the rows and enter their revisions: those that were known, those that are newest."""
        store, names = self._store, [*_REVISION, ORDERING]
        keys = [_key_of(item) for item in items]
        known = {line[:3] for line in store.read_keys(self._revisions, names, _REVISION, keys)}
        store.upsert(
            self._revisions,
            [(*_key_of(item), item.ordering_timestamp, item.is_deleted) for item in items],
            newest_by=ORDERING,
        )
        stored = {
            line[:3]: line[3] for line in store.read_keys(self._revisions, names, _REVISION, keys)
        }
        newest = {_key_of(i) for i in items if stored[_key_of(i)] == i.ordering_timestamp}
        return known, newest

    def _put_users(self, items: Sequence[Item]) -> None:
        users = {item.user.user_id: item.user for item in items}
        ordered = [users[user_id] for user_id in sorted(users)]
        self._store.upsert(
            self._users,
            [
                (u.user_id, u.provider, u.reference_id, u.scopes, u.created_at, u.is_active)
                for u in ordered
            ],
        )
        if self._has_terra:
            self._store.upsert(
                TERRA_USERS,
                [
                    (
                        u.user_id,
                        u.reference_id,
                        _text_of(u.created_at or datetime.fromtimestamp(0, UTC)),
                        u.scopes,
                        u.provider,
                        "active" if u.is_active else "inactive",
                    )
                    for u in ordered
                ],
            )

    def _drop_users(self, user_ids: Collection[str]) -> None:
        """Forget users none of whose rows is left."""
        store = self._store
        mine = [self._users, self._events]
        theirs = [TERRA_USERS, TERRA_OTHER] if self._has_terra else []
        keys = [(user_id,) for user_id in sorted(user_ids)]
        revisions = store.quote(self._revisions.name)
        for relation in (*mine, *theirs):
            left = (
                f" AND NOT EXISTS (SELECT 1 FROM {revisions} r WHERE r.user_id ="  # noqa: S608
                f" {store.quote(relation.name)}.user_id AND NOT r.is_deleted)"
            )
            store.delete(relation, ("user_id",), keys, left)

    def _keep(self, batch: Batch, live: list[int], old: list[int], gone: Sequence[Item]) -> None:
        """The JSON of rows, beside the tables and in those of Terra's form."""
        places: list[str | None] = [None] * len(live)
        if self._keeper is not None:
            if live:
                kept = self._keeper.put(
                    [batch.items[i] for i in live], [batch.texts[i] for i in live]
                )
                places = list(kept)
            if gone:
                self._keeper.remove(gone)
        if not self._has_terra:
            return
        if old:
            keys = [(batch.items[i].user.user_id, payload_id(batch.items[i])) for i in old]
            self._store.delete(TERRA_DATA, ("user_id", "payload_id"), keys)
        if live:
            moments = batch.rows[live].select(
                start=format_pair(pl.col("start_at"), pl.col("local_start_at")),
                end=format_pair(pl.col("end_at"), pl.col("local_end_at")),
            )
            self._store.upsert(
                TERRA_DATA,
                [
                    (
                        item.user.user_id,
                        item.table,
                        _written_at(item),
                        payload_id(item),
                        start,
                        end,
                        place,
                        # Kept elsewhere, it is not kept twice.
                        None if place else bytes(batch.texts[index]).decode(),
                    )
                    for index, place, (start, end) in zip(
                        live, places, moments.iter_rows(), strict=True
                    )
                    for item in (batch.items[index],)
                ],
            )

    def _put_event(self, event: Event) -> None:
        item = event.item
        self._put_users([item])
        at = datetime.fromtimestamp(item.ordering_timestamp / 1000, UTC)
        body = msgspec.json.encode(event.body).decode()
        self._store.upsert(self._events, [(item.row_key, item.user.user_id, item.table, at, body)])
        if self._has_terra:
            self._store.upsert(
                TERRA_OTHER,
                [
                    (
                        item.user.user_id,
                        item.table,
                        item.table,
                        _written_at(item),
                        payload_id(item),
                        None,
                        body,
                    )
                ],
            )

    def _connect(self) -> None:
        try:
            self._store.connect()
        except TransientError as error:
            self._down = str(error)
            raise

    def _prepare(self, table: Table | None) -> None:
        """Connect, and make sure of our tables, those of `table` among them."""
        if not self._store.is_connected:
            self._connect()
        name = table.name if table is not None else ""
        if name in self._checked:
            return
        relations: list[Relation] = [self._users, self._revisions, self._events]
        if self._has_terra:
            relations += TERRA
        if table is not None:
            relations += relations_of(table, self._prefix).all()
        try:
            with self._store.transaction():
                if self._differences(relations):
                    self._store.lock_tables()
                    for relation, missing in self._differences(relations):
                        if missing is None:
                            self._store.create(relation)
                        else:
                            self._store.add_columns(relation, missing)
        except RowsRefusedError as error:
            raise PermanentError(str(error)) from None
        self._checked.add(name)

    def _differences(
        self, relations: Sequence[Relation]
    ) -> list[tuple[Relation, list[str] | None]]:
        """Tables to make (None) and columns to add. Raises PermanentError for a foreign table."""
        found = self._store.find_columns([relation.name for relation in relations])
        wanted: list[tuple[Relation, list[str] | None]] = []
        for relation in relations:
            columns = found.get(relation.name)
            if columns is None:
                wanted.append((relation, None))
                continue
            missing = [name for name in relation.names if name not in columns]
            faults = self._faults(relation, columns, missing)
            if faults:
                raise PermanentError(
                    f"{self._store.name}: table {relation.name} is not one of ours:"
                    f" {'; '.join(faults)}. Rename it, or set another prefix"
                )
            if missing:
                wanted.append((relation, missing))
        return wanted

    def _faults(
        self, relation: Relation, columns: dict[str, tuple[str, bool]], missing: Sequence[str]
    ) -> list[str]:
        if relation in TERRA:
            needed = set(relation.names) - {"payload", "payload_url"}
        elif ORDERING in relation.names or POSITION in relation.key:
            needed = {*relation.key, ORDERING}
        else:
            # Nothing else tells ours from a `users` of somebody else.
            needed = set(relation.names)
        faults = [f"it has no column {name}" for name in missing if name in needed]
        for field in relation.fields:
            dtype = columns.get(field.name, ("", False))[0]
            if field.name in columns and dtype not in self._store.accepts[field.kind]:
                faults.append(
                    f"column {field.name} is {dtype}, not {self._store.types[field.kind]}"
                )
        names = set(relation.names)
        faults += [
            f"column {name} must be given a value"
            for name, (_, must) in columns.items()
            if must and name not in names
        ]
        return faults


def payload_id(item: Item) -> str:
    """One identity of a row through all its revisions."""
    return str(uuid5(NAMESPACE_OID, "|".join(_key_of(item))))


def _key_of(item: Item) -> Line:
    return (item.user.user_id, item.table, item.row_key)


def _natural_key(names: Sequence[str], item: Item) -> Line:
    known = {"user_id": item.user.user_id, "local_date": item.date}
    return tuple(known.get(name, item.row_key) for name in names)


def _written_at(item: Item) -> str:
    """When the content was noted, as text no other row of the user has.

    Rows noted in the same millisecond differ in digits behind it, made from their identity.
    """
    at = datetime.fromtimestamp(item.ordering_timestamp / 1000, UTC)
    behind = int(payload_id(item).replace("-", ""), 16) % 10**9
    return (
        f"{at.strftime('%Y-%m-%dT%H:%M:%S')}.{item.ordering_timestamp % 1000:03d}{behind:09d}+00:00"
    )


def _text_of(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def open_sql(settings: SqlSettings, name: str = "sql") -> SqlSender:
    """A sender for the database. Raises UsageError when it may not or cannot be used."""
    return SqlSender(make_store(access_to(settings, settings.url, name, "sql")), settings)


def access_to(
    settings: TableSettings, url: SecretStr, name: str, extra: str, *, guards_rows: bool = False
) -> Access:
    """How to get at the database of `url`. Raises UsageError."""
    return Access(
        name=name,
        url=parse_url(url.get_secret_value(), name),
        timeout=settings.timeout_seconds,
        connect_timeout=settings.connect_timeout_seconds,
        allow_plaintext=settings.allow_plaintext,
        schema=settings.database_schema,
        extra=extra,
        guards_rows=guards_rows,
    )


DESTINATION = Destination(
    name="sql",
    title="SQL database",
    kind="database",
    summary="Typed tables in PostgreSQL, MySQL, MariaDB, SQLite or DuckDB, one line per row or sample.",
    settings=SqlSettings,
    open=open_sql,
    takes_events=True,
    extra="sql",
    batch_rows=2_000,
)
