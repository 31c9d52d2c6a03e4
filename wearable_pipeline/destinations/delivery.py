"""The engine behind every destination: what it should have, what is still to send, what failed.

Truth lies in the registry's delivery ledger, the rows lie in the lake. A pass claims rows, reads
their partitions, hands them to the sender and writes down each outcome soon after it is known. A
crash in between re-sends under the same trace id.
"""

import hashlib
import io
import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cache

import polars as pl

from wearable_pipeline.destinations import get_destination
from wearable_pipeline.destinations._contract import (
    Batch,
    Destination,
    Item,
    Json,
    Outcome,
    Sender,
    UserInfo,
    permanent,
    transient,
)
from wearable_pipeline.errors import PermanentError, StorageError, TransientError
from wearable_pipeline.lake.layout import table_path
from wearable_pipeline.lake.storage import MissingError, Storage
from wearable_pipeline.model import TABLES, Table
from wearable_pipeline.model.payload import Compat, to_payload
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.providers import providers
from wearable_pipeline.registry import Delivery, Registry, User, WantedRow
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace

FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(hours=8)
# 30 s doubling to 8 h: the eighteen waits between nineteen attempts add up to 72.5 hours.
ATTEMPTS = 19
# What a receiver may ask for at most.
LONGEST_RETRY_AFTER = timedelta(days=1)
CLAIM_ROWS = 1_000
CLAIM_TTL = timedelta(minutes=10)
# A claim this old is not worked on any more: another sender could take its rows over.
CLAIM_USE = timedelta(minutes=8)
NOTE_AFTER = 50
LIVE = timedelta(days=2)
_HASH_SLICE_ROWS = 2_000

# A key without a value, after others and as the first. Quotes inside values are escaped, so neither
# matches inside one.
_LATER_NULL = r',"[A-Za-z0-9_]+":null'
_FIRST_NULL = r'"[A-Za-z0-9_]+":null,?'
_INSTANT = pl.Datetime("us", "UTC")

Jitter = Callable[[], float]
Clock = Callable[[], datetime]
RowKey = tuple[str, str, str]
OpenRows = dict[RowKey, Delivery]

_log = logging.getLogger(__name__)


def hash_rows(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """`user_id`, `row_key`, `local_date` and `content_hash` of every row, in order.

    Provenance is left out, so a row fetched again without a change keeps its hash; null fields are
    too, so a column added to the table changes only the rows that have a value there.
    """
    names = sorted(table.content_columns)
    hashes: list[str] = []
    for part in table.conform(rows.rechunk()).select(names).iter_slices(_HASH_SLICE_ROWS):
        # Columns nobody has a value in would be written only to be taken out again.
        filled = [column.name for column in part if column.null_count() < part.height]
        texts = part.select(
            pl.struct(filled)
            .struct.json_encode()
            .str.replace_all(_LATER_NULL, "")
            .str.replace_all(_FIRST_NULL, "")
        ).to_series()
        hashes += [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in texts]
    return rows.select(
        "user_id",
        table.row_key_expression().alias("row_key"),
        "local_date",
        pl.Series("content_hash", hashes, dtype=pl.String),
    )


def note_wanted(
    registry: Registry,
    destination_names: Iterable[str],
    table_name: str,
    rows: pl.DataFrame,
    *,
    cells: Collection[tuple[str, date]] | None = None,
) -> dict[str, int]:
    """Say that each destination should have `rows`; returns how many became pending by that.

    `cells`, pairs of user and local date, says that `rows` are all there is in them: rows of the
    ledger that lie there and are gone are withdrawn.
    """
    wanted = [
        WantedRow(table_name, user_id, key, day, content_hash)
        for user_id, key, day, content_hash in hash_rows(rows, TABLES[table_name]).rows()
    ]
    counts: dict[str, int] = {}
    for name in destination_names:
        gone = [] if cells is None else _withdrawn(registry, name, table_name, cells, wanted)
        counts[name] = registry.want(name, [*wanted, *gone])
    return counts


def _withdrawn(
    registry: Registry,
    destination: str,
    table_name: str,
    cells: Collection[tuple[str, date]],
    wanted: Sequence[WantedRow],
) -> list[WantedRow]:
    present = {(row.user_id, row.row_key) for row in wanted}
    inside = set(cells)
    if not inside:
        return []
    known = registry.deliveries(
        destination,
        user_ids={user_id for user_id, _ in inside},
        tables=[table_name],
        start=min(day for _, day in inside),
        end=max(day for _, day in inside),
    )
    return [
        WantedRow(table_name, row.user_id, row.row_key, row.date, row.wanted_hash, is_deleted=True)
        for row in known
        if not row.is_deleted
        and (row.user_id, row.date) in inside
        and (row.user_id, row.row_key) not in present
    ]


@dataclass(slots=True)
class DeliveryReport:
    """How a pass went.

    `superseded` rows had changed in the lake since they were noted; their new content was noted
    instead. `remaining` counts all rows still pending, due or not. `next_attempt_at` is the
    earliest retry this pass arranged. `lags` holds, per delivered row of the last days, the
    seconds from its newest reading to its delivery.
    """

    destination: str
    delivered: int = 0
    failed: int = 0
    parked: int = 0
    superseded: int = 0
    untried: int = 0
    remaining: int = 0
    next_attempt_at: datetime | None = None
    lags: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    is_cut_short: bool = False

    def lag_seconds(self, share: float) -> float | None:
        """The lag that `share` of the rows (0 to 1) stayed within; None without rows."""
        if not self.lags:
            return None
        ordered = sorted(self.lags)
        return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def deliver(
    workspace: Workspace,
    destination_name: str,
    *,
    user_ids: Collection[str] | None = None,
    limit: int | None = None,
    deadline: datetime | None = None,
) -> DeliveryReport:
    """Send what is due to the destination of that name; see `deliver_pending`."""
    return deliver_pending(
        workspace.lake.storage,
        workspace.lake.scheme,
        workspace.registry,
        get_destination(destination_name),
        workspace.settings,
        workspace.now,
        user_ids=user_ids,
        limit=limit,
        deadline=deadline,
    )


def deliver_pending(
    storage: Storage,
    scheme: Scheme,
    registry: Registry,
    destination: Destination,
    settings: Settings,
    now: Clock,
    *,
    user_ids: Collection[str] | None = None,
    limit: int | None = None,
    deadline: datetime | None = None,
    jitter: Jitter = random.random,
) -> DeliveryReport:
    """Send what is due and not being sent by somebody else, newest dates first.

    Ends when nothing is due, after `limit` rows, at `deadline`, or when the destination asks for a
    pause. Rows taken and not sent are given back. Any number of processes may do this at once.
    Raises UsageError when the destination's settings are bad.
    """
    report = DeliveryReport(destination.name)
    taken = 0
    with destination.open(settings) as sender:
        run = _Pass(
            lake=_Lake(storage, scheme),
            registry=registry,
            destination=destination,
            sender=sender,
            compat=settings.compat,
            now=now,
            deadline=deadline,
            jitter=jitter,
            report=report,
        )
        while not report.is_cut_short and (limit is None or taken < limit):
            if deadline is not None and now() >= deadline:
                report.is_cut_short = True
                break
            rows = CLAIM_ROWS if limit is None else min(CLAIM_ROWS, limit - taken)
            claimed = registry.claim(destination.name, now(), rows, user_ids, CLAIM_TTL)
            if not claimed:
                break
            taken += len(claimed)
            if not run.work_off(claimed):
                break
    report.remaining = registry.counts(destination.name).pending
    return report


def wait_after(attempts: int, retry_after: timedelta | None, jitter: Jitter) -> timedelta:
    """How long to wait after the `attempts`-th failed attempt; never less than was asked for."""
    backed_off: timedelta = min(FIRST_WAIT * 2 ** min(attempts - 1, 20), LONGEST_WAIT)
    asked = min(retry_after or timedelta(), LONGEST_RETRY_AFTER)
    wait = max(backed_off, asked)
    return wait + wait * (jitter() / 10)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A batch with the ledger rows and newest readings of its items, in their order."""

    batch: Batch
    deliveries: tuple[Delivery, ...]
    newest: tuple[datetime | None, ...]


@dataclass(frozen=True, slots=True)
class _Lake:
    """Reads the rows of partitions; a missing file is a partition without rows."""

    storage: Storage
    scheme: Scheme

    def read(self, table: Table, partition: Partition, rows: Sequence[Delivery]) -> pl.DataFrame:
        """Those of `rows` the partition has now, with `row_key` and `content_hash` added."""
        path = table_path(table.name, partition)
        try:
            frame = table.conform(pl.read_parquet(io.BytesIO(self.storage.read(path))))
        except MissingError:
            frame = table.empty()
        except pl.exceptions.PolarsError:
            # What polars says may quote the file.
            raise StorageError(
                f"{self.storage.uri(path)} is not a table's partition: rebuild it"
            ) from None
        keys = pl.DataFrame(
            [(row.user_id, row.row_key) for row in rows],
            schema={"user_id": pl.String, "row_key": pl.String},
            orient="row",
        )
        frame = frame.with_columns(table.row_key_expression().alias("row_key")).join(
            keys, on=["user_id", "row_key"], how="semi", maintain_order="left"
        )
        return frame.with_columns(hash_rows(frame, table)["content_hash"])


@dataclass(slots=True)
class _Pass:
    """One pass over a destination's ledger: what is shared between its claims."""

    lake: _Lake
    registry: Registry
    destination: Destination
    sender: Sender
    compat: Compat
    now: Clock
    deadline: datetime | None
    jitter: Jitter
    report: DeliveryReport
    superseded: set[RowKey] = field(default_factory=set)

    def work_off(self, claimed: Sequence[Delivery]) -> bool:
        """Deal with every claimed row; returns whether it makes sense to claim more."""
        use_until = self.now() + CLAIM_USE
        open_rows = {_key(row): row for row in claimed}
        progress = False
        try:
            for prepared in self._prepare(claimed, open_rows):
                if self.now() >= use_until:
                    return True
                progress |= self._send(prepared, open_rows)
                if self.report.is_cut_short:
                    break
        finally:
            # Nothing here was sent, or nobody knows: it goes back as it was.
            self.registry.release(list(open_rows.values()))
            self.report.untried += len(open_rows)
        return progress or len(open_rows) < len(claimed)

    def _prepare(self, claimed: Sequence[Delivery], open_rows: OpenRows) -> Iterator[_Prepared]:
        """Batches of what can be sent; rows that cannot are dealt with and leave `open_rows`."""
        users = {
            user.user_id: user_info(user)
            for user in self.registry.find_users(user_ids={row.user_id for row in claimed})
        }
        groups: dict[tuple[str, Partition], list[Delivery]] = {}
        given_up: list[Delivery] = []
        for row in claimed:
            if row.user_id not in users:
                del open_rows[_key(row)]  # erased since; the ledger rows went along
            elif row.table not in TABLES or row.attempts > ATTEMPTS:
                given_up.append(row)
            else:
                cohort = self.lake.scheme.cohort_of(row.user_id)
                groups.setdefault((row.table, Partition(row.date, cohort)), []).append(row)
        if given_up:
            # Not tried: the process that sent them died each time, or the table is no longer ours.
            self._park(given_up, "given up: every attempt was cut off", open_rows)
        gathered: dict[str, list[tuple[Delivery, pl.DataFrame]]] = {}
        for (table_name, partition), rows in groups.items():
            table = TABLES[table_name]
            try:
                found = self.lake.read(table, partition, rows)
            except StorageError as error:
                self._fail([transient(_item(row, users), str(error)) for row in rows], open_rows)
                continue
            waiting = gathered.setdefault(table_name, [])
            waiting += self._settle(table, rows, found, users, open_rows)
            while len(waiting) >= self.destination.batch_rows:
                part = waiting[: self.destination.batch_rows]
                del waiting[: self.destination.batch_rows]
                yield self._batch(table, part, users)
        for table_name, waiting in gathered.items():
            if waiting:
                yield self._batch(TABLES[table_name], waiting, users)

    def _settle(
        self,
        table: Table,
        rows: Sequence[Delivery],
        found: pl.DataFrame,
        users: dict[str, UserInfo],
        open_rows: OpenRows,
    ) -> list[tuple[Delivery, pl.DataFrame]]:
        """Rows that are in the lake as noted, each with its frame; the others are dealt with."""
        at = {
            (user_id, key): (index, content_hash)
            for index, (user_id, key, content_hash) in enumerate(
                found.select("user_id", "row_key", "content_hash").rows()
            )
        }
        content = found.select(table.polars_schema().names())
        ready: list[tuple[Delivery, pl.DataFrame]] = []
        moved_on: list[WantedRow] = []
        lost: list[Outcome] = []
        for row in rows:
            index, content_hash = at.get((row.user_id, row.row_key), (None, None))
            if index is None and row.is_deleted:
                ready.append((row, _withdrawal(table, row)))
            elif index is None or content_hash is None:
                lost.append(
                    transient(_item(row, users), f"{table.name} row is not in the lake (any more)")
                )
            elif content_hash == row.wanted_hash and not row.is_deleted:
                ready.append((row, content[index]))
            elif _key(row) not in self.superseded:
                self.superseded.add(_key(row))
                moved_on.append(
                    WantedRow(table.name, row.user_id, row.row_key, row.date, content_hash)
                )
        if moved_on:
            # Under a new trace id and a higher ordering timestamp, claimed again in a moment.
            self.registry.want(self.destination.name, moved_on)
            self.registry.release(
                [open_rows.pop((row.user_id, row.table, row.row_key)) for row in moved_on]
            )
            self.report.superseded += len(moved_on)
        if lost:
            self._fail(lost, open_rows)
        return ready

    def _batch(
        self,
        table: Table,
        ready: Sequence[tuple[Delivery, pl.DataFrame]],
        users: dict[str, UserInfo],
    ) -> _Prepared:
        frame = pl.concat([row for _, row in ready])
        compat = self.compat

        def render(table: Table, rows: pl.DataFrame) -> list[Json]:
            return to_payload(_content_of(table), rows, compat)

        return _Prepared(
            Batch(table, tuple(_item(row, users) for row, _ in ready), frame, render),
            tuple(row for row, _ in ready),
            newest_readings(frame, table),
        )

    def _send(self, prepared: _Prepared, open_rows: OpenRows) -> bool:
        """Hand a batch to the sender and write down what becomes of it; whether any was tried."""
        newest = {
            _key(row): instant
            for row, instant in zip(prepared.deliveries, prepared.newest, strict=True)
        }
        collected: list[Outcome] = []
        tried = False
        outcomes = self.sender.deliver(prepared.batch)
        try:
            for outcome in outcomes:
                if outcome.kind == "untried":
                    self.report.is_cut_short = True
                    self.report.errors[outcome.message] += 1
                    continue
                tried = True
                collected.append(outcome)
                if outcome.kind == "delivered":
                    self._note_lag(newest[_item_key(outcome.item)], outcome.item.date)
                if len(collected) >= NOTE_AFTER:
                    self._note(collected, open_rows)
                    collected = []
                if self.deadline is not None and self.now() >= self.deadline:
                    self.report.is_cut_short = True
                    break
        except TransientError as error:
            collected += self._rest(
                prepared, collected, open_rows, str(error), retry_after=error.retry_after
            )
        except PermanentError as error:
            collected += self._rest(prepared, collected, open_rows, str(error), is_permanent=True)
        except Exception as error:  # noqa: BLE001
            # A driver may raise anything for one row; the other batches must go on. Its text may
            # quote the row, so only its type is kept.
            _log.error("%s: sender failed with %s", self.destination.name, type(error).__name__)
            message = f"{self.destination.name}: sender failed ({type(error).__name__})"
            collected += self._rest(prepared, collected, open_rows, message)
        finally:
            close = getattr(outcomes, "close", None)
            if close is not None:
                close()
            self._note(collected, open_rows)
        return tried or bool(collected)

    def _rest(
        self,
        prepared: _Prepared,
        collected: Sequence[Outcome],
        open_rows: OpenRows,
        message: str,
        *,
        retry_after: timedelta | None = None,
        is_permanent: bool = False,
    ) -> list[Outcome]:
        known = {_item_key(outcome.item) for outcome in collected}
        rest = [
            item
            for item in prepared.batch.items
            if _item_key(item) in open_rows and _item_key(item) not in known
        ]
        if is_permanent:
            return [permanent(item, message) for item in rest]
        return [transient(item, message, retry_after) for item in rest]

    def _note(self, outcomes: Sequence[Outcome], open_rows: OpenRows) -> None:
        sent = [o for o in outcomes if o.kind == "delivered" and _item_key(o.item) in open_rows]
        self.registry.acknowledge([open_rows.pop(_item_key(o.item)) for o in sent])
        self.report.delivered += len(sent)
        self._fail([o for o in outcomes if o.kind == "transient"], open_rows)
        by_message: dict[str, list[Delivery]] = {}
        for outcome in outcomes:
            row = open_rows.get(_item_key(outcome.item))
            if outcome.kind == "permanent" and row is not None:
                by_message.setdefault(outcome.message, []).append(row)
        for message, rows in by_message.items():
            self._park(rows, message, open_rows)

    def _fail(self, outcomes: Iterable[Outcome], open_rows: OpenRows) -> None:
        groups: dict[tuple[str, int, timedelta | None], list[Delivery]] = {}
        for outcome in outcomes:
            row = open_rows.get(_item_key(outcome.item))
            if row is not None:
                group = (outcome.message, row.attempts, outcome.retry_after)
                groups.setdefault(group, []).append(row)
        for (message, attempts, retry_after), rows in groups.items():
            if attempts >= ATTEMPTS:
                self._park(rows, f"given up after {attempts} attempts: {message}", open_rows)
                continue
            at = self.now() + wait_after(attempts, retry_after, self.jitter)
            self.registry.fail(rows, message, at)
            self._forget(rows, open_rows)
            self.report.failed += len(rows)
            self.report.errors[message] += len(rows)
            self.report.next_attempt_at = min(at, self.report.next_attempt_at or at)

    def _park(
        self,
        rows: Sequence[Delivery],
        message: str,
        open_rows: OpenRows,
    ) -> None:
        self.registry.fail(rows, message, park=True)
        self._forget(rows, open_rows)
        self.report.parked += len(rows)
        self.report.errors[message] += len(rows)

    def _forget(self, rows: Iterable[Delivery], open_rows: OpenRows) -> None:
        for row in rows:
            del open_rows[_key(row)]

    def _note_lag(self, newest: datetime | None, day: date) -> None:
        now = self.now()
        if newest is not None and day >= (now - LIVE).date():
            self.report.lags.append((now - newest).total_seconds())


def user_info(user: User) -> UserInfo:
    """The user as clients are told."""
    provider = providers().get(user.provider)
    scopes = user.config.get("scopes")
    return UserInfo(
        user_id=user.user_id,
        provider=provider.client_name if provider else user.provider.upper(),
        reference_id=user.reference_id,
        scopes=scopes if isinstance(scopes, str) else None,
        created_at=user.created_at,
        is_active=user.status == "connected",
    )


def newest_readings(rows: pl.DataFrame, table: Table) -> tuple[datetime | None, ...]:
    """The newest known instant among the samples of each row; of a session without any, its end."""
    instants = [
        pl.col(column.name).list.eval(pl.element().struct.field(column.time.name)).list.max()
        for column in table.lists
        if column.time is not None
    ]
    is_session = "local_date" not in table.row_key
    newest = pl.max_horizontal(*instants) if instants else pl.lit(None, dtype=_INSTANT)
    if is_session:
        newest = pl.coalesce(newest, "end_at")
    return tuple(rows.select(newest.cast(_INSTANT).alias("newest"))["newest"].to_list())


def _withdrawal(table: Table, row: Delivery) -> pl.DataFrame:
    """A row with nothing but its key: what overwrites a row that is no longer true.

    Clients merge by the natural key and know no deletion. A day is empty from midnight to
    midnight; of a session only the day is left to say.
    """
    midnight = datetime.combine(row.date, datetime.min.time())
    known: dict[str, object] = {
        "user_id": row.user_id,
        "local_date": row.date,
        "local_start_at": midnight,
        "local_end_at": midnight + timedelta(days=1),
        "tz_source": "unknown",
    }
    for name in table.row_key:
        if name not in known:
            known[name] = row.row_key
    schema = table.polars_schema()
    return pl.DataFrame({name: [known.get(name)] for name in schema}, schema=schema)


@cache
def _content_of(table: Table) -> Table:
    """The table without provenance: what is sent depends on the content alone, try after try."""
    return replace(table, columns=tuple(c for c in table.columns if not c.is_provenance))


def _item(row: Delivery, users: dict[str, UserInfo]) -> Item:
    return Item(
        table=row.table,
        user=users[row.user_id],
        row_key=row.row_key,
        date=row.date,
        content_hash=row.wanted_hash,
        trace_id=row.trace_id,
        ordering_timestamp=row.ordering_timestamp,
        is_deleted=row.is_deleted,
    )


def _key(row: Delivery) -> RowKey:
    return (row.user_id, row.table, row.row_key)


def _item_key(item: Item) -> RowKey:
    return (item.user.user_id, item.table, item.row_key)
