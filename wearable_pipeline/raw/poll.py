"""The poll door: ask a provider for many users at once, keep what arrives, note how it went.

A user's failure is that user's: it is written down with its class and its next try, the others go on.
What arrived before a failure is kept; the cursor moves only after a fetch that went through whole.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    PipelineError,
    RateLimitedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.providers._contract import Connection, Provider, Record, Window
from wearable_pipeline.raw.client import HttpClient
from wearable_pipeline.raw.ingest import ingest
from wearable_pipeline.raw.store import Appended, Arrival
from wearable_pipeline.registry import SyncResult, User
from wearable_pipeline.workspace import Workspace

USERS_PER_BATCH = 1_000
LONGEST_BACK_OFF = timedelta(hours=1)
REFUSED_BACK_OFF = timedelta(hours=6)
# A provider's poll interval is the age no reading shall exceed. What a sensor tick, the start of a run and
# the run itself take of it is kept back, or a reading that appears just after a poll would come too late.
MARGIN = timedelta(seconds=75)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class PollReport:
    """How a poll went: counts, and per failed user the class and text of the error."""

    provider: str
    users: int = 0
    pages: int = 0
    appended: Appended = field(default_factory=Appended)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(slots=True)
class _Fetched:
    user: User
    connection: Connection
    started_at: datetime
    records: list[Record] = field(default_factory=list)
    pages: int = 0
    fetched_at: datetime | None = None
    error: PipelineError | None = None


def poll(
    workspace: Workspace,
    provider: Provider,
    users: Sequence[User],
    window: Window,
    progress: Callable[[int], None] = lambda done: None,
) -> PollReport:
    """Fetch `window` for `users` of `provider` into raw; report counts and failures.

    `progress` is called with the number of users done so far.
    """
    report = PollReport(provider.name)
    if provider.fetch is None:
        return report
    started = workspace.now()
    connected = _without_locked(
        workspace, provider, [user for user in users if user.status == "connected"], report
    )
    for first in range(0, len(connected), USERS_PER_BATCH):
        batch = connected[first : first + USERS_PER_BATCH]
        fetched = asyncio.run(_fetch_all(workspace, provider, batch, window))
        arrivals = [
            Arrival(one.user.user_id, one.records, one.fetched_at)
            for one in fetched
            if one.records and one.fetched_at is not None
        ]
        report.appended.add(ingest(workspace, provider, arrivals, "poll"))
        _note_results(workspace, provider, fetched)
        report.users += len(fetched)
        report.pages += sum(one.pages for one in fetched)
        for one in fetched:
            if one.error is not None:
                report.failures[one.user.user_id] = (one.error.error_class, str(one.error))
        progress(report.users)
    report.seconds = (workspace.now() - started).total_seconds()
    return report


def _without_locked(
    workspace: Workspace, provider: Provider, users: Sequence[User], report: PollReport
) -> list[User]:
    """`users` but those the provider told us to leave alone for now; these are reported instead."""
    now = workspace.now()
    states = workspace.registry.load_states([user.user_id for user in users])
    asked = []
    for user in users:
        state = states.get(user.user_id)
        if state is None or state.locked_until is None or state.locked_until <= now:
            asked.append(user)
            continue
        report.users += 1
        report.failures[user.user_id] = (
            "rate_limited",
            f"{provider.name}: not asked: told to wait until {state.locked_until:%Y-%m-%d %H:%M}Z",
        )
    return asked


async def _fetch_all(
    workspace: Workspace, provider: Provider, users: Iterable[User], window: Window
) -> list[_Fetched]:
    states = workspace.registry.load_states([user.user_id for user in users])
    async with HttpClient(
        provider.name,
        max_concurrency=provider.max_concurrency,
        requests_per_second=provider.requests_per_second,
        now=workspace.now,
    ) as client:
        slots = asyncio.Semaphore(provider.max_concurrency)

        async def one(user: User) -> _Fetched:
            async with slots:
                state = states.get(user.user_id)
                return await _fetch_user(
                    workspace, provider, client, user, dict(state.state) if state else {}, window
                )

        return await asyncio.gather(*(one(user) for user in users))


async def _fetch_user(
    workspace: Workspace,
    provider: Provider,
    client: HttpClient,
    user: User,
    state: dict[str, object],
    window: Window,
) -> _Fetched:
    if provider.fetch is None:
        raise UsageError(f"{provider.name} cannot be polled: import a file instead")
    connection = Connection(
        user_id=user.user_id,
        config=dict(user.config),
        credentials={},
        state=state,
        timezone=user.timezone,
        save_credentials=lambda: None,
    )
    result = _Fetched(user, connection, workspace.now())
    try:
        connection.credentials = workspace.registry.load_credentials(user.user_id)
        connection.save_credentials = lambda: workspace.registry.save_credentials(
            user.user_id, connection.credentials
        )
        async for page in provider.fetch(client, connection, window):
            result.pages += 1
            result.fetched_at = page.fetched_at
            result.records.extend(provider.resource(page.resource).split(page))
    except PipelineError as error:
        result.error = error
    except msgspec.MsgspecError:
        # The decoder's own words quote the body.
        result.error = BadPayloadError(f"{provider.name}: the answer is not the documented JSON")
    except Exception as error:  # noqa: BLE001
        # One user's body may break a provider module in a way nobody thought of, and the others must
        # go on. The error's text may quote the body, so only its type is kept.
        _log.error("%s: fetch failed with %s", provider.name, type(error).__name__)
        result.error = BadPayloadError(
            f"{provider.name}: the answer cannot be read ({type(error).__name__})"
        )
    return result


def _note_results(workspace: Workspace, provider: Provider, fetched: Sequence[_Fetched]) -> None:
    known = workspace.registry.load_states([one.user.user_id for one in fetched])
    results = []
    for one in fetched:
        if one.error is None:
            period = max(provider.poll_interval - MARGIN, provider.poll_interval / 2)
            due = one.started_at + period * random.uniform(1.0, 1.04)  # noqa: S311 - jitter
            results.append(
                SyncResult(
                    user_id=one.user.user_id,
                    attempted_at=one.started_at,
                    next_due_at=due,
                    state=one.connection.state,
                )
            )
            continue
        before = known.get(one.user.user_id)
        due = workspace.now() + _wait_after(one.error, provider, before.failures if before else 0)
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


def _wait_after(error: PipelineError, provider: Provider, failures: int) -> timedelta:
    """How long to leave a user alone after `error`, the `failures`-th before it."""
    if isinstance(error, TransientError):
        backed_off = min(provider.poll_interval * 2 ** min(failures, 6), LONGEST_BACK_OFF)
        return _jittered(max(error.retry_after or timedelta(), backed_off))
    if isinstance(error, PermanentError):
        return _jittered(REFUSED_BACK_OFF)
    return _jittered(LONGEST_BACK_OFF)


def _locked_until(error: PipelineError, now: datetime, due: datetime) -> datetime | None:
    """Until when nobody may ask: whoever named a time, or just said to slow down, is believed."""
    if isinstance(error, TransientError) and error.retry_after is not None:
        return now + error.retry_after
    return due if isinstance(error, RateLimitedError) else None


def _jittered(wait: timedelta) -> timedelta:
    """`wait` plus up to a tenth: never sooner than asked, never all at once."""
    return wait * random.uniform(1.0, 1.1)  # noqa: S311 - jitter, not a secret
