"""The poll door: ask a provider for many users at once, keep what arrives, note how it went.

A user's failure is that user's: it is written down with its class and its next try, the others go on.
What arrived before a failure is kept; the cursor moves only after a fetch that went through whole.

Fetching goes on in a thread of its own while what has arrived is written, a cohort at a time. A slow
user holds nobody up: what is there is written without them. Memory is bounded by `USERS_PER_BATCH` and
`BYTES_IN_HAND`, whatever the number of users and however long their histories: some 600 MB at most.
"""

import asyncio
import logging
import queue
import random
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Literal, Self

import msgspec

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    PipelineError,
    QuotaSpentError,
    RateLimitedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers._contract import Client, Connection, Provider, Record, Window
from wearable_pipeline.providers._oauth import LetIn, app_of
from wearable_pipeline.providers._windows import windows_of
from wearable_pipeline.raw.client import TOTAL_SECONDS, HttpClient
from wearable_pipeline.raw.ingest import ingest
from wearable_pipeline.raw.pace import OfAccount, SharedPace, SharedQuotas, allowances_of
from wearable_pipeline.raw.push_address import subscriber_of
from wearable_pipeline.raw.schedule import next_poll
from wearable_pipeline.raw.seen import Reader, Seen, decode_seen, encode_seen
from wearable_pipeline.raw.store import Appended, Arrival
from wearable_pipeline.registry import SyncResult, SyncState, User
from wearable_pipeline.workspace import Workspace

USERS_PER_BATCH = 2_000
# Records of this size together are worth writing, however few users they are of. In memory they take
# five to eight times the room.
BYTES_PER_BATCH = 24 * 1024 * 1024
# Fetched and not yet written: one batch on its way into the lake, one gathering.
BYTES_IN_HAND = 2 * BYTES_PER_BATCH
# What a user's long history is cut into.
BYTES_PER_PART = 8 * 1024 * 1024
# Whoever takes longer than this after the others of a batch is left out of it and comes later.
STRAGGLER_SECONDS = 10.0
LONGEST_BACK_OFF = timedelta(hours=1)
REFUSED_BACK_OFF = timedelta(hours=6)
# Longer than a login can take: whoever holds the lease and has not finished by then is dead.
_ALONE = timedelta(seconds=TOTAL_SECONDS + 30)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class PollReport:
    """How a poll went: counts, and per failed user the class and text of the error.

    `spent_until` is when a quota that was spent begins anew.
    """

    provider: str
    users: int = 0
    pages: int = 0
    appended: Appended = field(default_factory=Appended)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    spent_until: datetime | None = None
    seconds: float = 0.0

    def add(self, other: "PollReport") -> None:
        """Count `other` in."""
        self.users += other.users
        self.pages += other.pages
        self.appended.add(other.appended)
        self.failures.update(other.failures)
        self.spent_until = max(filter(None, (self.spent_until, other.spent_until)), default=None)
        self.seconds += other.seconds


def poll(
    workspace: Workspace,
    provider: Provider,
    users: Sequence[User],
    window: Window,
    progress: Callable[[int], None] = lambda done: None,
    *,
    share: float = 1.0,
    is_what_is_due: bool = True,
) -> PollReport:
    """Fetch `window` for `users` of `provider` into raw; report counts and failures.

    `progress` is called with the number of users done so far. `share` of the provider's rate limit is
    used at most. What was not due (old days, a link) leaves the next fetch where it is, unless it fails.
    """
    report = PollReport(provider.name)
    started = workspace.now()
    for part in poll_in_parts(
        workspace, provider, users, window, share=share, is_what_is_due=is_what_is_due
    ):
        report.add(part)
        progress(report.users)
    report.seconds = (workspace.now() - started).total_seconds()
    return report


def poll_in_parts(
    workspace: Workspace,
    provider: Provider,
    users: Sequence[User],
    window: Window,
    *,
    share: float = 1.0,
    is_what_is_due: bool = True,
) -> Generator[PollReport]:
    """`poll`, a report whenever up to `USERS_PER_BATCH` users are in raw; fetching goes on meanwhile.

    Users of one cohort come together, so a part touches few partitions. Ending the iteration early ends
    the fetching; who was not reported is as if never asked.
    """
    if provider.fetch is None:
        return
    locked = PollReport(provider.name)
    connected = _without_locked(
        workspace, provider, [user for user in users if user.status == "connected"], locked
    )
    if locked.users:
        yield locked
    if not connected:
        return
    groups = _group(workspace, connected)
    with _Fetching(workspace, provider, groups, window, share) as fetching:
        for batch in fetching.batches():
            yield _keep(workspace, provider, batch, is_what_is_due=is_what_is_due)


@dataclass(slots=True)
class _Fetched:
    """A user's answers, or a part of a long one: only the last part `is_done`."""

    user: User
    connection: Connection
    before: SyncState | None
    loaded_seen: bytes | None
    known: Seen | None
    started_at: datetime
    records: list[Record] = field(default_factory=list)
    size: int = 0
    pages: int = 0
    unchanged: int = 0
    fetched_at: datetime | None = None
    seen: Seen | None = None
    error: PipelineError | None = None
    is_done: bool = True


def _keep(
    workspace: Workspace, provider: Provider, batch: Sequence[_Fetched], *, is_what_is_due: bool
) -> PollReport:
    """Write what a batch brought, then how each fetch went: the cursor follows what it stands for."""
    started = time.monotonic()
    report = PollReport(provider.name)
    loaded = {one.user.user_id: one.loaded_seen for one in batch if one.records}
    changed = workspace.registry.forget_seen(
        {user_id: seen for user_id, seen in loaded.items() if seen is not None}
    )
    arrivals = [
        Arrival(
            one.user.user_id,
            one.records,
            one.fetched_at,
            {} if one.known is None or one.user.user_id in changed else one.known.newest(),
        )
        for one in batch
        if one.records and one.fetched_at is not None
    ]
    report.appended.add(ingest(workspace, provider, arrivals, "poll"))
    report.appended.unchanged += sum(one.unchanged for one in batch)
    done = [one for one in batch if one.is_done]
    # That history has had its share says nothing of when the next reading is due.
    told = [one for one in done if is_what_is_due or not isinstance(one.error, QuotaSpentError)]
    _note_results(workspace, provider, told, report.appended, keeps_due=not is_what_is_due)
    report.users = len(done)
    report.pages = sum(one.pages for one in batch)
    for one in done:
        if one.error is not None:
            report.failures[one.user.user_id] = (one.error.error_class, str(one.error))
        if isinstance(one.error, QuotaSpentError) and one.error.retry_after is not None:
            until = workspace.now() + one.error.retry_after
            report.spent_until = max(until, report.spent_until or until)
    report.seconds = time.monotonic() - started
    return report


def _without_locked(
    workspace: Workspace, provider: Provider, users: Sequence[User], report: PollReport
) -> list[User]:
    """`users` but those the provider told us to leave alone for now; these are reported instead."""
    now = workspace.now()
    locked = workspace.registry.locked_users([user.user_id for user in users], now)
    for user_id, until in locked.items():
        report.users += 1
        report.failures[user_id] = (
            "rate_limited",
            f"{provider.name}: not asked: told to wait until {until:%Y-%m-%d %H:%M}Z",
        )
    return [user for user in users if user.user_id not in locked]


def _group(workspace: Workspace, users: Sequence[User]) -> list[list[User]]:
    """`users` in batches: whole cohorts as long as they fit, because a batch writes to each it holds."""
    by_cohort: dict[str, list[User]] = {}
    for user in users:
        by_cohort.setdefault(workspace.lake.scheme.cohort_of(user.user_id), []).append(user)
    groups: list[list[User]] = []
    for cohort in sorted(by_cohort):
        members = by_cohort[cohort]
        for first in range(0, len(members), USERS_PER_BATCH):
            some = members[first : first + USERS_PER_BATCH]
            if groups and len(groups[-1]) + len(some) <= USERS_PER_BATCH:
                groups[-1].extend(some)
            else:
                groups.append(some)
    return groups


@dataclass(slots=True)
class _Group:
    """A batch on its way: what is there of it, and who is still being asked."""

    asking: set[str]
    ready: list[_Fetched] = field(default_factory=list)
    size: int = 0
    last_at: float = field(default_factory=time.monotonic)
    is_started: bool = False

    def take(self) -> list[_Fetched]:
        ready, self.ready, self.size = self.ready, [], 0
        return ready


@dataclass(frozen=True, slots=True)
class _Job:
    """A user to be asked, with all that was loaded of them."""

    user: User
    state: SyncState | None
    sealed: bytes | None
    loaded_seen: bytes | None
    known: Seen | None
    group: _Group


class _Fetching:
    """Asks for groups of users in a thread of its own, so many at a time; a context manager."""

    def __init__(
        self,
        workspace: Workspace,
        provider: Provider,
        groups: Sequence[Sequence[User]],
        window: Window,
        share: float,
    ) -> None:
        self._workspace = workspace
        self._share = share
        self._provider = provider
        self._groups = groups
        self._window = window
        own = workspace.settings.provider(provider.name)
        self._concurrency = own.max_concurrency or provider.max_concurrency
        self._per_second = own.requests_per_second or provider.requests_per_second
        self._quota_factor = own.quota_factor
        self._subscriber = subscriber_of(workspace, provider)
        self._out: queue.SimpleQueue[list[_Fetched] | BaseException | None] = queue.SimpleQueue()
        self._users_in_hand = 0
        self._bytes_in_hand = 0
        self._open: list[_Group] = []
        self._loop = asyncio.new_event_loop()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)

    def __enter__(self) -> Self:
        self._room.set()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread.is_alive():
            self._call(self._cancel)
        self._thread.join()
        self._loop.close()

    def batches(self) -> Iterator[list[_Fetched]]:
        """What has arrived, as it arrives; at most two batches lie in memory."""
        while True:
            batch = self._out.get()
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            yield batch
            self._call(self._give_back, len(batch), sum(one.size for one in batch))

    def _call(self, what: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:
            return  # the thread has finished

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _give_back(self, users: int, size: int) -> None:
        self._users_in_hand -= users
        self._bytes_in_hand -= size
        self._room.set()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._task = self._loop.create_task(self._fetch_all())
            self._loop.run_until_complete(self._task)
            self._out.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self._out.put(error)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())

    async def _fetch_all(self) -> None:
        workspace, provider = self._workspace, self._provider
        jobs: asyncio.Queue[_Job | None] = asyncio.Queue(self._concurrency)
        async with (
            HttpClient(
                provider.name,
                max_concurrency=self._concurrency,
                requests_per_second=self._per_second,
                now=workspace.now,
                pace=lambda per_second: SharedPace(
                    workspace.registry,
                    provider.name,
                    per_second,
                    share=self._share,
                    quotas=self._quotas("app"),
                ),
            ) as client,
            asyncio.TaskGroup() as tasks,
        ):
            workers = [
                tasks.create_task(self._work(client, jobs)) for _ in range(self._concurrency)
            ]
            sweeper = tasks.create_task(self._sweep())
            for users in self._groups:
                for job in await asyncio.to_thread(self._load, users):
                    if not job.group.is_started:
                        job.group.is_started = True
                        self._open.append(job.group)
                    await jobs.put(job)
            for _ in workers:
                await jobs.put(None)
            await asyncio.gather(*workers)
            sweeper.cancel()

    def _load(self, users: Sequence[User]) -> list[_Job]:
        registry = self._workspace.registry
        ids = [user.user_id for user in users]
        states = registry.load_states(ids)
        sealed = registry.load_sealed(ids) if self._provider.oauth is None else {}
        loaded = registry.load_seen(ids) if self._uses_seen else {}
        known = self._proven({user_id: decode_seen(seen) for user_id, seen in loaded.items()})
        group = _Group({user.user_id for user in users})
        return [
            _Job(
                user,
                states.get(user.user_id),
                sealed.get(user.user_id),
                loaded.get(user.user_id),
                known.get(user.user_id),
                group,
            )
            for user in users
        ]

    @property
    def _uses_seen(self) -> bool:
        return any(resource.cut is not None for resource in self._provider.resources)

    def _proven(self, seen: dict[str, Seen | None]) -> dict[str, Seen]:
        """Those whose last segment is still in the lake."""
        lake = self._workspace.lake
        wanted = {
            user_id: (Partition(one.day, lake.scheme.cohort_of(user_id)), one.segment)
            for user_id, one in seen.items()
            if one is not None and one.day is not None
        }
        held = lake.raw.holds(self._provider.name, wanted.values())
        return {
            user_id: one
            for user_id, one in seen.items()
            if one is not None and wanted.get(user_id) in held
        }

    async def _work(self, client: HttpClient, jobs: "asyncio.Queue[_Job | None]") -> None:
        while (job := await jobs.get()) is not None:
            await self._wait_for_room()
            self._add(job.group, await self._fetch(client, job))

    async def _wait_for_room(self) -> None:
        while self._users_in_hand >= 2 * USERS_PER_BATCH or self._bytes_in_hand >= BYTES_IN_HAND:
            # Whatever lies around is written first, or nobody would ever make room.
            for group in self._open:
                self._ship(group)
            self._room.clear()
            await self._room.wait()

    def _add(self, group: _Group, fetched: _Fetched) -> None:
        group.ready.append(fetched)
        group.size += fetched.size
        group.last_at = time.monotonic()
        self._users_in_hand += 1
        self._bytes_in_hand += fetched.size
        if fetched.is_done:
            group.asking.discard(fetched.user.user_id)
        if not group.asking:
            self._ship(group)
            self._open.remove(group)
        elif group.size >= BYTES_PER_BATCH:
            self._ship(group)

    def _ship(self, group: _Group) -> None:
        if group.ready:
            self._out.put(group.take())

    async def _sweep(self) -> None:
        """Let those who are there go on without those who are slow."""
        while True:
            await asyncio.sleep(1.0)
            for group in self._open:
                if time.monotonic() - group.last_at > STRAGGLER_SECONDS:
                    self._ship(group)

    async def _spill(self, group: _Group, fetched: _Fetched) -> None:
        """Hand a part of a long answer over to be written, and go on when there is room."""
        # Once some of it is stored, nothing of the rest is certain not to be.
        fetched.known = None
        self._add(group, replace(fetched, is_done=False))
        fetched.records, fetched.size, fetched.pages = [], 0, 0
        await self._wait_for_room()

    async def _fetch(self, client: HttpClient, job: _Job) -> _Fetched:
        workspace, provider, user = self._workspace, self._provider, job.user
        connection = Connection(
            user_id=user.user_id,
            config=dict(user.config),
            credentials={},
            state=dict(job.state.state) if job.state else {},
            timezone=user.timezone,
            save_credentials=lambda: None,
            subscriber=self._subscriber,
        )
        result = _Fetched(user, connection, job.state, job.loaded_seen, job.known, workspace.now())
        try:
            if provider.fetch is None:
                raise UsageError(f"{provider.name} cannot be polled: import a file instead")
            own = self._quotas("account", user.user_id)
            asked: Client = client if own is None else OfAccount(client, own)
            if provider.oauth is not None:
                app = app_of(provider, workspace.settings.provider(provider.name))
                asked = LetIn(asked, provider, app, workspace.registry, user.user_id, workspace.now)
            else:
                connection.credentials = workspace.registry.open_sealed(user.user_id, job.sealed)
                connection.save_credentials = lambda: workspace.registry.save_credentials(
                    user.user_id, connection.credentials
                )
                connection.alone = lambda: _alone(workspace, connection)
            reader = Reader(job.known)
            for part in windows_of(provider, self._window):
                async for page in provider.fetch(asked, connection, part):
                    result.pages += 1
                    result.fetched_at = page.fetched_at
                    records = reader.read(provider.resource(page.resource), page)
                    result.records.extend(records)
                    result.size += sum(len(record.body) for record in records)
                    if result.size >= BYTES_PER_PART:
                        await self._spill(job.group, result)
            result.seen = reader.finish()
            result.unchanged = reader.passed_over
        except PipelineError as error:
            result.error = error
            if isinstance(error, RateLimitedError) and not isinstance(error, QuotaSpentError):
                await self._tell_everybody(error)
        except msgspec.MsgspecError:
            # The decoder's own words quote the body.
            result.error = BadPayloadError(
                f"{provider.name}: the answer is not the documented JSON"
            )
        except Exception as error:  # noqa: BLE001
            # One user's body may break a provider module in a way nobody thought of, and the others must
            # go on. The error's text may quote the body, so only its type is kept.
            _log.error("%s: fetch failed with %s", provider.name, type(error).__name__)
            result.error = BadPayloadError(
                f"{provider.name}: the answer cannot be read ({type(error).__name__})"
            )
        return result

    def _quotas(
        self, of: Literal["app", "account"], user_id: str | None = None
    ) -> SharedQuotas | None:
        workspace = self._workspace
        people = 0
        if any(quota.per_user for quota in self._provider.quotas):
            people = workspace.registry.count_connected(self._provider.name)
        allowances = allowances_of(self._provider, of, self._quota_factor, user_id, people=people)
        if not allowances:
            return None
        return SharedQuotas(
            workspace.registry,
            self._provider.name,
            allowances,
            share=self._share,
            user_id=user_id,
            clock=lambda: workspace.now().timestamp(),
        )

    async def _tell_everybody(self, error: RateLimitedError) -> None:
        if self._provider.limit_scope == "app" and error.retry_after is not None:
            await asyncio.to_thread(
                self._workspace.registry.block_turns,
                self._provider.name,
                time.time() + error.retry_after.total_seconds(),
            )


@asynccontextmanager
async def _alone(workspace: Workspace, connection: Connection) -> AsyncIterator[None]:
    """Nobody else logs this user in meanwhile; what others have stored is read again first."""
    registry, name, owner = workspace.registry, f"login:{connection.user_id}", str(uuid.uuid4())
    given_up_at = time.monotonic() + _ALONE.total_seconds()
    while not await asyncio.to_thread(registry.lease, name, owner, _ALONE):
        if time.monotonic() > given_up_at:
            raise TransientError("another process has been logging this user in for too long")
        await asyncio.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - jitter
    try:
        connection.credentials = await asyncio.to_thread(
            registry.load_credentials, connection.user_id
        )
        yield
    finally:
        await asyncio.to_thread(registry.release_lease, name, owner)


def _note_results(
    workspace: Workspace,
    provider: Provider,
    fetched: Sequence[_Fetched],
    appended: Appended,
    *,
    keeps_due: bool,
) -> None:
    results = []
    for one in fetched:
        if one.error is None:
            results.append(
                SyncResult(
                    user_id=one.user.user_id,
                    attempted_at=one.started_at,
                    next_due_at=next_poll(
                        one.started_at,
                        [
                            datetime.fromtimestamp(second, UTC)
                            for second in (one.seen.readings if one.seen else ())
                        ],
                        poll_interval=provider.poll_interval,
                        sample_step=provider.sample_step,
                        publishing_delay=provider.publishing_delay,
                    ),
                    keeps_due=keeps_due,
                    state=one.connection.state,
                    seen=_seal_seen(one, appended),
                )
            )
            continue
        due = workspace.now() + _wait_after(
            one.error, provider, one.before.failures if one.before else 0
        )
        results.append(
            SyncResult(
                user_id=one.user.user_id,
                attempted_at=one.started_at,
                next_due_at=due,
                error_class=one.error.error_class,
                error_message=str(one.error),
                locked_until=_locked_until(one.error, workspace.now(), due),
                status="needs_reauth" if isinstance(one.error, NotConnectedError) else None,
            )
        )
    workspace.registry.record_sync(results)


def _seal_seen(one: _Fetched, appended: Appended) -> bytes | None:
    """What to remember of the answer, with the segment that proves it is stored."""
    if one.seen is None:
        return None
    written = appended.segments.get(one.user.user_id)
    if written is not None:
        one.seen.day, one.seen.segment = written
    return encode_seen(one.seen)


def _wait_after(error: PipelineError, provider: Provider, failures: int) -> timedelta:
    """How long to leave a user alone after `error`, the `failures`-th before it."""
    if isinstance(error, QuotaSpentError) and error.retry_after is not None:
        return _jittered(error.retry_after)
    if isinstance(error, TransientError):
        backed_off = min(provider.poll_interval * 2 ** min(failures, 6), LONGEST_BACK_OFF)
        return _jittered(max(error.retry_after or timedelta(), backed_off))
    if isinstance(error, PermanentError):
        return _jittered(REFUSED_BACK_OFF)
    return _jittered(LONGEST_BACK_OFF)


def _locked_until(error: PipelineError, now: datetime, due: datetime) -> datetime | None:
    """Until when nobody may ask: whoever named a time, or just said to slow down, is believed.

    A quota that is spent stops everybody by itself, and may be granted larger.
    """
    if isinstance(error, QuotaSpentError):
        return None
    if isinstance(error, TransientError) and error.retry_after is not None:
        return now + error.retry_after
    return due if isinstance(error, RateLimitedError) else None


def _jittered(wait: timedelta) -> timedelta:
    """`wait` plus up to a tenth: never sooner than asked, never all at once."""
    return wait * random.uniform(1.0, 1.1)  # noqa: S311 - jitter, not a secret
