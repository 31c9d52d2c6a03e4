"""The engine behind every destination: what it should have, what is still to send, what failed.

Truth lies in the registry's delivery ledger, the rows lie in the lake. A pass claims rows, reads
their partitions, hands them to the sender and writes down each outcome soon after it is known. A
crash in between re-sends under the same trace id.
"""

import io
import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import cast

import polars as pl

from wearable_pipeline.destinations import get_target
from wearable_pipeline.destinations._contract import (
    Batch,
    Event,
    EventSender,
    Item,
    Outcome,
    Sender,
    Target,
    UserInfo,
    permanent,
    transient,
)
from wearable_pipeline.destinations._events import event_body
from wearable_pipeline.destinations._hash import hash_rows
from wearable_pipeline.errors import PermanentError, StorageError, TransientError
from wearable_pipeline.lake.layout import table_path
from wearable_pipeline.lake.storage import MissingError, Storage
from wearable_pipeline.model import TABLES, Table
from wearable_pipeline.model.payload import Compat
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.providers import providers
from wearable_pipeline.registry import EVENT_TYPES, Delivery, Registry, User, WantedRow
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace

FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(hours=8)
# 30 s doubling to 8 h: the eighteen waits between nineteen attempts add up to 72.5 hours.
ATTEMPTS = 19
# What a receiver may ask for at most.
LONGEST_RETRY_AFTER = timedelta(days=1)
# As many as one file of the largest cohort we aim at holds.
CLAIM_ROWS = 2_000
PLAN_ROWS = 100_000
CLAIM_TTL = timedelta(minutes=10)
# A claim this old is not worked on any more: another sender could take its rows over.
CLAIM_USE = timedelta(minutes=8)
# Outcomes are written down together, for each time the disk is waited for; none waits much longer.
NOTE_AFTER = 1_000
NOTE_WITHIN = timedelta(seconds=1)
LIVE = timedelta(days=2)
_INSTANT = pl.Datetime("us", "UTC")

Jitter = Callable[[], float]
Clock = Callable[[], datetime]
RowKey = tuple[str, str, str]
OpenRows = dict[RowKey, Delivery]

_log = logging.getLogger(__name__)


def note_wanted(
    registry: Registry,
    targets: Iterable[Target],
    table_name: str,
    rows: pl.DataFrame,
    *,
    cells: Collection[tuple[str, date]] | None = None,
) -> dict[str, int]:
    """Say that each target should have `rows`; returns how many became pending by that.

    Rows a target's filter leaves out are not said. `cells`, pairs of user and local date, says that
    `rows` are all there is in them: rows of the ledger that lie there and are gone are withdrawn.
    """
    told = [target for target in targets if target.filter.takes_table(table_name)]
    if not told:
        return {}
    providers_of = rows["provider"].to_list()
    wanted = [
        WantedRow(table_name, user_id, key, day, content_hash)
        for user_id, key, day, content_hash in hash_rows(rows, TABLES[table_name]).rows()
    ]
    counts: dict[str, int] = {}
    for target in told:
        takes = target.filter.takes_user
        gone = [] if cells is None else _withdrawn(registry, target, table_name, cells, wanted)
        taken = [
            row
            for row, provider in zip(wanted, providers_of, strict=True)
            if takes(row.user_id, str(provider))
        ]
        counts[target.name] = registry.want(target.name, [*taken, *gone])
    return counts


def _withdrawn(
    registry: Registry,
    target: Target,
    table_name: str,
    cells: Collection[tuple[str, date]],
    wanted: Sequence[WantedRow],
) -> list[WantedRow]:
    present = {(row.user_id, row.row_key) for row in wanted}
    inside = set(cells)
    if not inside:
        return []
    known = registry.live_keys(
        target.name,
        table_name,
        {user_id for user_id, _ in inside},
        min(day for _, day in inside),
        max(day for _, day in inside),
    )
    return [
        WantedRow(table_name, user_id, row_key, day, wanted_hash, is_deleted=True)
        for user_id, row_key, day, wanted_hash in known
        if (user_id, day) in inside and (user_id, row_key) not in present
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
    progress: Callable[[int], None] = lambda delivered: None,
) -> DeliveryReport:
    """Send what is due to the destination of that name; see `deliver_pending`."""
    return deliver_pending(
        workspace.lake.storage,
        workspace.lake.scheme,
        workspace.registry,
        get_target(workspace.settings, destination_name),
        workspace.settings,
        workspace.now,
        user_ids=user_ids,
        limit=limit,
        deadline=deadline,
        progress=progress,
    )


def deliver_pending(
    storage: Storage,
    scheme: Scheme,
    registry: Registry,
    target: Target,
    settings: Settings,
    now: Clock,
    *,
    user_ids: Collection[str] | None = None,
    limit: int | None = None,
    deadline: datetime | None = None,
    jitter: Jitter = random.random,
    progress: Callable[[int], None] = lambda delivered: None,
) -> DeliveryReport:
    """Send what is due and not being sent by somebody else, newest dates first.

    Ends when nothing is due, after `limit` rows, at `deadline`, or when the destination asks for a
    pause. Rows taken and not sent are given back. Any number of processes may do this at once.
    `progress` is called with the number of rows delivered so far. Raises UsageError when the
    destination's settings are bad.
    """
    report = DeliveryReport(target.name)
    taken = 0
    with target.open() as sender:
        if target.destination.takes_events:
            registry.want_events(target.name, target.filter.takes_user)
        run = _Pass(
            lake=_Lake(storage, scheme),
            registry=registry,
            target=target,
            sender=sender,
            compat=settings.compat,
            now=now,
            deadline=deadline,
            jitter=jitter,
            report=report,
        )
        goes_on = True
        while goes_on:
            goes_on = False
            for day, users in _plan(registry, scheme, target.name, now(), user_ids):
                rows = CLAIM_ROWS if limit is None else min(CLAIM_ROWS, limit - taken)
                if deadline is not None and now() >= deadline:
                    report.is_cut_short = True
                if report.is_cut_short or rows <= 0:
                    goes_on = False
                    break
                claimed = registry.claim(target.name, now(), rows, users, CLAIM_TTL, day)
                if not claimed:
                    continue
                taken += len(claimed)
                goes_on = run.work_off(claimed)
                progress(report.delivered)
                if not goes_on:
                    break
    report.remaining = registry.count_deliveries(target.name, "pending")
    return report


def _plan(
    registry: Registry,
    scheme: Scheme,
    destination: str,
    now: datetime,
    user_ids: Collection[str] | None,
) -> Iterator[tuple[date | None, Collection[str] | None]]:
    """What to claim together, newest dates first: a date and users, None for any.

    In a lake cut into cohorts a file holds many users. Rows claimed in the order of users would lie
    in all files, and every claim would read all of them.
    """
    if scheme.cohorts is None:
        yield None, user_ids
        return
    groups: dict[tuple[date, str], set[str]] = {}
    for day, user_id in registry.due_days(destination, now, PLAN_ROWS, user_ids):
        groups.setdefault((day, scheme.cohort_of(user_id)), set()).add(user_id)
    for day, cohort in sorted(groups, key=lambda key: (-key[0].toordinal(), key[1])):
        yield day, groups[day, cohort]


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
        asked = {(row.user_id, row.row_key) for row in rows}
        keys = frame.select("user_id", table.row_key_expression().alias("row_key"))
        found = [index for index, key in enumerate(keys.rows()) if key in asked]
        frame = _pick(frame.with_columns(keys["row_key"]), found)
        return frame.with_columns(hash_rows(frame, table)["content_hash"])


@dataclass(slots=True)
class _Gathered:
    """Rows of one table that wait to become batches; a chunk waits until all of it is there."""

    sizes: Counter[tuple[str | None, int | None]]
    rows: list[Delivery] = field(default_factory=list)
    frames: list[pl.DataFrame] = field(default_factory=list)

    def add(self, rows: Sequence[Delivery], frame: pl.DataFrame) -> None:
        """Put `rows` behind the others; `frame` holds them in the same order."""
        if rows:
            self.rows += rows
            self.frames.append(frame)

    def take(
        self, size: int, *, last: bool = False
    ) -> Iterator[tuple[list[Delivery], pl.DataFrame]]:
        """Full batches, at most `size` rows unless one chunk is larger; with `last`, all the rest."""
        if not self.rows or (len(self.rows) < size and not last):
            return
        frame = pl.concat(self.frames)
        units: dict[object, list[int]] = {}
        for index, row in enumerate(self.rows):
            units.setdefault(index if row.chunk is None else _chunk(row), []).append(index)
        batches: list[list[int]] = [[]]
        held: list[int] = []
        for name, unit in units.items():
            if isinstance(name, tuple) and len(unit) < self.sizes[name] and not last:
                held += unit
                continue
            if batches[-1] and len(batches[-1]) + len(unit) > size:
                batches.append([])
            batches[-1] += unit
        if not last and len(batches[-1]) < size:
            held += batches.pop()
        held.sort()
        rows = self.rows
        self.rows, self.frames = [rows[i] for i in held], [_pick(frame, held)] if held else []
        for batch in batches:
            if batch:
                yield [rows[i] for i in batch], _pick(frame, batch)


@dataclass(slots=True)
class _Pass:
    """One pass over a target's ledger: what is shared between its claims."""

    lake: _Lake
    registry: Registry
    target: Target
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
            users = self._users(claimed, open_rows)
            data = self._sort_out(claimed, users, open_rows)
            happened = [row for row in open_rows.values() if row.table in EVENT_TYPES]
            if happened:
                progress |= self._tell(happened, users, open_rows)
            if not self.report.is_cut_short:
                for prepared in self._prepare(data, users, open_rows):
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

    def _users(self, claimed: Sequence[Delivery], open_rows: OpenRows) -> dict[str, UserInfo]:
        """The users of the claimed rows; rows of erased ones and of left out ones are dealt with."""
        found = {
            user.user_id: user
            for user in self.registry.find_users(user_ids={row.user_id for row in claimed})
        }
        left_out = []
        for row in claimed:
            user = found.get(row.user_id)
            if user is None:
                del open_rows[_key(row)]  # erased since; the ledger rows went along
            elif not self.target.filter.takes_user(row.user_id, user.provider) or (
                row.table not in EVENT_TYPES and not self.target.filter.takes_table(row.table)
            ):
                left_out.append(row)
        if left_out:
            # Noted under another filter.
            self._park(left_out, f"{self.target.name}: the filter leaves it out", open_rows)
        return {user_id: user_info(user) for user_id, user in found.items()}

    def _sort_out(
        self, claimed: Sequence[Delivery], users: dict[str, UserInfo], open_rows: OpenRows
    ) -> list[Delivery]:
        """The rows to read from the lake; what was tried too often is given up."""
        given_up: list[Delivery] = []
        data: list[Delivery] = []
        for row in claimed:
            if _key(row) not in open_rows:
                continue
            if row.attempts > ATTEMPTS or row.table not in (*TABLES, *EVENT_TYPES):
                given_up.append(row)
            elif row.table in TABLES:
                data.append(row)
        if given_up:
            # Not tried: the process that sent them died each time, or the table is no longer ours.
            self._park(given_up, "given up: every attempt was cut off", open_rows)
        return data

    def _tell(
        self, happened: Sequence[Delivery], users: dict[str, UserInfo], open_rows: OpenRows
    ) -> bool:
        """Send events, in the order they were noted; whether any was tried."""
        rows = {row.row_key: row for row in happened}
        told = [
            Event(_item(rows[event.event_id], users), event_body(event, users[event.user_id]))
            for event in self.registry.load_events(rows)
        ]
        # Only senders of a kind that takes events are ever offered any.
        sender = cast(EventSender, self.sender)
        items = [event.item for event in told]
        return self._take_down(sender.deliver_events(told), items, open_rows, lambda item: None)

    def _prepare(
        self, data: Sequence[Delivery], users: dict[str, UserInfo], open_rows: OpenRows
    ) -> Iterator[_Prepared]:
        """Batches of what can be sent; rows that cannot are dealt with and leave `open_rows`."""
        groups: dict[tuple[str, Partition], list[Delivery]] = {}
        for row in data:
            cohort = self.lake.scheme.cohort_of(row.user_id)
            groups.setdefault((row.table, Partition(row.date, cohort)), []).append(row)
        size = self.target.destination.batch_rows
        sizes = Counter(_chunk(row) for row in data if row.chunk is not None)
        gathered: dict[str, _Gathered] = {}
        for (table_name, partition), rows in groups.items():
            table = TABLES[table_name]
            try:
                found = self.lake.read(table, partition, rows)
            except StorageError as error:
                self._fail([transient(_item(row, users), str(error)) for row in rows], open_rows)
                continue
            waiting = gathered.setdefault(table_name, _Gathered(sizes))
            waiting.add(*self._settle(table, rows, found, users, open_rows))
            for part, frame in waiting.take(size):
                yield self._batch(table, part, frame, users)
        for table_name, waiting in gathered.items():
            for part, frame in waiting.take(size, last=True):
                yield self._batch(TABLES[table_name], part, frame, users)

    def _settle(
        self,
        table: Table,
        rows: Sequence[Delivery],
        found: pl.DataFrame,
        users: dict[str, UserInfo],
        open_rows: OpenRows,
    ) -> tuple[list[Delivery], pl.DataFrame]:
        """Rows that are in the lake as noted, with their frame; the others are dealt with."""
        at = {
            (user_id, key): (index, content_hash)
            for index, (user_id, key, content_hash) in enumerate(
                found.select("user_id", "row_key", "content_hash").rows()
            )
        }
        ready: list[Delivery] = []
        indices: list[int] = []
        withdrawn: list[Delivery] = []
        moved_on: list[WantedRow] = []
        lost: list[Outcome] = []
        for row in rows:
            index, content_hash = at.get((row.user_id, row.row_key), (None, None))
            if index is None and row.is_deleted:
                withdrawn.append(row)
            elif index is None or content_hash is None:
                lost.append(
                    transient(_item(row, users), f"{table.name} row is not in the lake (any more)")
                )
            elif content_hash == row.wanted_hash and not row.is_deleted:
                ready.append(row)
                indices.append(index)
            elif _key(row) not in self.superseded:
                self.superseded.add(_key(row))
                moved_on.append(
                    WantedRow(table.name, row.user_id, row.row_key, row.date, content_hash)
                )
        if moved_on:
            # Under a new trace id and a higher ordering timestamp, claimed again in a moment.
            self.registry.want(self.target.name, moved_on)
            self.registry.release(
                [open_rows.pop((row.user_id, row.table, row.row_key)) for row in moved_on]
            )
            self.report.superseded += len(moved_on)
        if lost:
            self._fail(lost, open_rows)
        frame = _pick(found.select(table.polars_schema().names()), indices)
        if withdrawn:
            frame = pl.concat([frame, *(_withdrawal(table, row) for row in withdrawn)])
        return ready + withdrawn, frame

    def _batch(
        self,
        table: Table,
        ready: Sequence[Delivery],
        frame: pl.DataFrame,
        users: dict[str, UserInfo],
    ) -> _Prepared:
        items = tuple(_item(row, users) for row in ready)
        return _Prepared(
            Batch(table, items, frame, self.compat), tuple(ready), newest_readings(frame, table)
        )

    def _send(self, prepared: _Prepared, open_rows: OpenRows) -> bool:
        """Hand a batch to the sender and write down what becomes of it; whether any was tried."""
        newest = {
            _key(row): instant
            for row, instant in zip(prepared.deliveries, prepared.newest, strict=True)
        }

        def note_lag(item: Item) -> None:
            self._note_lag(newest[_item_key(item)], item.date)

        outcomes = self.sender.deliver(prepared.batch)
        return self._take_down(outcomes, prepared.batch.items, open_rows, note_lag)

    def _take_down(
        self,
        outcomes: Iterator[Outcome],
        items: Sequence[Item],
        open_rows: OpenRows,
        note_lag: Callable[[Item], None],
    ) -> bool:
        """Write down what became of `items`; whether any was tried."""
        collected: list[Outcome] = []
        first_at = self.now()
        tried = False
        try:
            for outcome in outcomes:
                if outcome.kind == "untried":
                    self.report.is_cut_short = True
                    self.report.errors[outcome.message] += 1
                    continue
                tried = True
                now = self.now()
                first_at = first_at if collected else now
                collected.append(outcome)
                if outcome.kind == "delivered":
                    note_lag(outcome.item)
                if len(collected) >= NOTE_AFTER or now - first_at >= NOTE_WITHIN:
                    self._note(collected, open_rows)
                    collected = []
                if self.deadline is not None and now >= self.deadline:
                    self.report.is_cut_short = True
                    break
        except TransientError as error:
            collected += self._rest(
                items, collected, open_rows, str(error), retry_after=error.retry_after
            )
        except PermanentError as error:
            collected += self._rest(items, collected, open_rows, str(error), is_permanent=True)
        except Exception as error:  # noqa: BLE001
            # A driver may raise anything for one row; the other batches must go on. Its text may
            # quote the row, so only its type is kept.
            _log.error("%s: sender failed with %s", self.target.name, type(error).__name__)
            message = f"{self.target.name}: sender failed ({type(error).__name__})"
            collected += self._rest(items, collected, open_rows, message)
        finally:
            close = getattr(outcomes, "close", None)
            if close is not None:
                close()
            self._note(collected, open_rows)
        return tried or bool(collected)

    def _rest(
        self,
        items: Sequence[Item],
        collected: Sequence[Outcome],
        open_rows: OpenRows,
        message: str,
        *,
        retry_after: timedelta | None = None,
        is_permanent: bool = False,
    ) -> list[Outcome]:
        known = {_item_key(outcome.item) for outcome in collected}
        rest = [
            item for item in items if _item_key(item) in open_rows and _item_key(item) not in known
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
        provider=provider.client_name_of(user.config) if provider else user.provider.upper(),
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
        reference=row.reference,
        chunk=row.chunk,
    )


def _pick(frame: pl.DataFrame, indices: Sequence[int]) -> pl.DataFrame:
    """The rows at `indices`; those that lie side by side are not copied."""
    start = indices[0] if indices else 0
    if list(indices) == list(range(start, start + len(indices))):
        return frame.slice(start, len(indices))
    return frame[list(indices)]


def _chunk(row: Delivery) -> tuple[str | None, int | None]:
    return (row.reference, row.chunk)


def _key(row: Delivery) -> RowKey:
    return (row.user_id, row.table, row.row_key)


def _item_key(item: Item) -> RowKey:
    return (item.user.user_id, item.table, item.row_key)
