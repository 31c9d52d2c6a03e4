"""The push door: what providers post is proven, kept in the lake's inbox, and later taken into raw.

Keeping and taking are apart: a push is answered once its bytes are durable, whatever the rest of the
pipeline does at that moment. Many pushes share one write (`Inbox`). Taking (`take_in`) deletes a segment
only after raw, the work lists or the parked pushes hold what it says; a crash in between repeats work
and changes nothing.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import uuid
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

import msgspec

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PipelineError,
    RateLimitedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.lake.storage import MissingError, Storage
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers._contract import (
    Changed,
    Client,
    Connection,
    Delivered,
    Departed,
    Linked,
    Page,
    Provider,
    Push,
    Pushed,
    PushRequest,
    PushSecrets,
    Record,
    Removed,
    SharedSecret,
    Signature,
    Subscriber,
    Subscription,
    Window,
)
from wearable_pipeline.providers._oauth import ACCESS_REVOKED, AppClient, app_of
from wearable_pipeline.raw.client import HttpClient
from wearable_pipeline.raw.ingest import ingest
from wearable_pipeline.raw.poll import poll
from wearable_pipeline.raw.push_address import subscriber_of
from wearable_pipeline.raw.store import Appended, Arrival
from wearable_pipeline.registry import Registry
from wearable_pipeline.workspace import Workspace

T = TypeVar("T")

# Only what a provider module may want to know of a request; never a signature or a token.
_KEPT_HEADERS = ("content-type", "content-encoding")
MAX_WAITING_BYTES = 128 * 1024 * 1024
MAX_SEGMENT_BYTES = 32 * 1024 * 1024
# What is taken in before raw is written, so that memory stays bounded.
_BYTES_AT_ONCE = 64 * 1024 * 1024
_ATTEMPTS = 12
PARKED_FOR = timedelta(days=7)
RENEW_BEFORE = timedelta(days=7)
_LEASE = timedelta(minutes=10)

_log = logging.getLogger(__name__)


class RefusedError(PipelineError):
    """A push that is not taken, with the HTTP status that says why."""

    error_class = "refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# --- proof


def check_proof(
    push: Push, request: PushRequest, secrets: PushSecrets, now: datetime
) -> tuple[str, datetime] | None:
    """What a signed push is known by and until when; None where the proof has no time in it.

    Raises RefusedError (401) when the push is not proven or its time is too far from `now`. All
    comparisons take the same time whatever differs.
    """
    match push.proof:
        case Signature() as signature:
            return _check_signature(signature, request, secrets, now, push.tolerance)
        case SharedSecret() as shared:
            given = (
                request.headers.get(shared.header, "")
                if shared.header
                else request.query.get(shared.parameter or "", "")
            )
            expected = shared.prefix + secrets.push_secret
        case None:
            given, expected = request.query.get("key", ""), secrets.push_secret
    if not secrets.push_secret or not _same(given, expected):
        raise RefusedError(401, "the push does not carry the secret")
    return None


def _check_signature(
    signature: Signature,
    request: PushRequest,
    secrets: PushSecrets,
    now: datetime,
    tolerance: timedelta,
) -> tuple[str, datetime] | None:
    header = request.headers.get(signature.header, "")
    timestamp = ""
    if signature.parse is not None:
        try:
            header, timestamp = signature.parse(header)
        except (ValueError, LookupError):
            raise RefusedError(401, "the signature header is not of the documented form") from None
    elif signature.timestamp_header is not None:
        timestamp = request.headers.get(signature.timestamp_header, "")
    key = signature.key(secrets)
    digest = hmac.digest(key, signature.message(timestamp, request.body), signature.algorithm)
    expected = {
        "hex": digest.hex(),
        "HEX": digest.hex().upper(),
        "base64": base64.b64encode(digest).decode(),
    }[signature.encoding]
    if not key or not _same(header, expected):
        raise RefusedError(401, "the signature does not fit")
    if signature.parse is None and signature.timestamp_header is None:
        return None
    at = _instant(timestamp)
    if at is None or abs(now - at) > tolerance:
        raise RefusedError(401, "the push is too old, or from the future")
    return hashlib.sha256(expected.encode() + timestamp.encode()).hexdigest(), at + 2 * tolerance


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _instant(text: str) -> datetime | None:
    try:
        number = float(text)
    except ValueError:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            return None
        return at.astimezone(UTC) if at.tzinfo is not None else None
    # Seconds for the next thousand years are fewer than the milliseconds since 1971.
    seconds = number / 1000 if abs(number) > 4e10 else number
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


# --- keeping


class KeptPush(msgspec.Struct, frozen=True):
    """One push as it lies in the inbox."""

    received_at: datetime
    method: str
    headers: dict[str, str]
    query: dict[str, str]
    body: bytes
    attempts: int = 0

    def request(self) -> PushRequest:
        """What the provider module reads."""
        return PushRequest(self.method, self.headers, self.query, self.body)


def keep(push: Push, request: PushRequest, received_at: datetime) -> KeptPush:
    """What is stored of a request: not what proved it, nor secrets the provider repeats in it."""
    headers = {name: request.headers[name] for name in _KEPT_HEADERS if name in request.headers}
    query = {name: value for name, value in request.query.items() if name != "key"}
    body = request.body if push.redact is None else push.redact(request.body)
    return KeptPush(received_at, request.method, headers, query, body)


def inbox_root(provider: str) -> str:
    """Prefix of what the provider pushed and raw does not hold yet."""
    return f"inbox/{provider}/"


def parked_root(provider: str) -> str:
    """Prefix of pushes nobody could read, or of nobody we know; kept for `PARKED_FOR`."""
    return f"inbox_parked/{provider}/"


def _write_segment(storage: Storage, root: str, pushes: Sequence[KeptPush], at: datetime) -> None:
    # Ordered by time; readable with any MessagePack reader.
    name = f"{root}{at.astimezone(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:12]}.msgpack"
    storage.create(name, msgspec.msgpack.encode(pushes))


@dataclass(slots=True)
class _Waiting:
    provider: str
    push: KeptPush
    mark: tuple[str, datetime] | None
    done: "asyncio.Future[bool]"


class Inbox:
    """Group commit: whoever arrives while a write is on its way shares the next one.

    The marks of signed pushes are noted in the registry after their senders were answered. Were this
    process killed in between, the same push sent again would be stored again, which changes nothing.
    """

    def __init__(self, storage: Storage, registry: Registry, now: Callable[[], datetime]) -> None:
        self._storage = storage
        self._registry = registry
        self._now = now
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._unnoted: dict[str, datetime] = {}
        self._noter: asyncio.Task[None] | None = None

    async def put(self, provider: str, push: KeptPush, mark: tuple[str, datetime] | None) -> bool:
        """Return once the push is durable; False when it was there before (by its mark).

        Raises TransientError when too much waits, or when the lake cannot be written.
        """
        if self._bytes + len(push.body) > MAX_WAITING_BYTES:
            raise TransientError("the inbox is full: try again", timedelta(seconds=5))
        waiting = _Waiting(provider, push, mark, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._bytes += len(push.body)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return await waiting.done

    async def close(self) -> None:
        """Wait until nothing waits any more."""
        for task in (self._writer, self._noter):
            if task is not None:
                await task

    async def _write(self) -> None:
        while self._waiting:
            # Whoever is about to arrive in this turn of the loop may come along.
            await asyncio.sleep(0)
            batch: list[_Waiting] = []
            size = 0
            while self._waiting and size < MAX_SEGMENT_BYTES:
                batch.append(self._waiting.popleft())
                size += len(batch[-1].push.body)
            marks = {one.mark[0]: one.mark[1] for one in batch if one.mark is not None}
            known = marks.keys() & self._unnoted.keys()
            try:
                known |= await asyncio.to_thread(self._store, batch, marks.keys() - known, known)
            except Exception as error:  # noqa: BLE001
                # Every one of the batch must hear of it: no answer is worse than a refusal.
                _log.error("the inbox cannot be written: %s", type(error).__name__)
                told = TransientError(f"the inbox cannot be written ({type(error).__name__})")
                for one in batch:
                    if not one.done.done():
                        one.done.set_exception(told)
            else:
                for one in batch:
                    if not one.done.done():
                        one.done.set_result(one.mark is None or one.mark[0] not in known)
                self._unnoted |= {mark: marks[mark] for mark in marks if mark not in known}
                if self._unnoted and self._noter is None:
                    self._noter = asyncio.create_task(self._note())
            self._bytes -= size
        self._writer = None

    def _store(
        self, batch: Sequence[_Waiting], asked: Collection[str], known: Collection[str]
    ) -> set[str]:
        """Make what is new in the batch durable; returns which of `asked` the registry knows."""
        noted = self._registry.seen_pushes(asked) if asked else set()
        taken = {*noted, *known}
        fresh: dict[str, list[KeptPush]] = {}
        for one in batch:
            if one.mark is not None:
                if one.mark[0] in taken:
                    continue
                taken.add(one.mark[0])
            fresh.setdefault(one.provider, []).append(one.push)
        for provider, pushes in fresh.items():
            _write_segment(self._storage, inbox_root(provider), pushes, self._now())
        return noted

    async def _note(self) -> None:
        while self._unnoted:
            some = dict(self._unnoted)
            try:
                await asyncio.to_thread(self._registry.note_pushes, some)
            except PipelineError as error:
                # Kept in memory: the next batch brings them along.
                _log.warning("marks of pushes cannot be noted: %s", error)
                break
            for mark in some:
                del self._unnoted[mark]
        self._noter = None


# --- taking in


@dataclass(slots=True)
class TakenIn:
    """What taking in did: counts of pushes, and what raw got."""

    pushes: int = 0
    made_due: int = 0
    departed: int = 0
    parked: int = 0
    postponed: int = 0
    appended: Appended = field(default_factory=Appended)

    def as_dict(self) -> dict[str, int]:
        """Counts for metadata and scripts."""
        return {
            "pushes": self.pushes,
            "records_new": self.appended.new,
            "records_changed": self.appended.changed,
            "users_made_due": self.made_due,
            "users_departed": self.departed,
            "parked": self.parked,
            "postponed": self.postponed,
        }

    def add(self, other: "TakenIn") -> None:
        """Count `other` in."""
        self.pushes += other.pushes
        self.made_due += other.made_due
        self.departed += other.departed
        self.parked += other.parked
        self.postponed += other.postponed
        self.appended.add(other.appended)


def has_pushes(storage: Storage, provider: str) -> bool:
    """Whether something waits in the provider's inbox."""
    return next(iter(storage.list(inbox_root(provider))), None) is not None


def take_in(workspace: Workspace, provider: Provider) -> TakenIn | None:
    """Bring the provider's inbox into raw and the work lists; None when somebody else is at it."""
    report = TakenIn()
    if provider.push is None:
        return report
    with workspace.registry.lease_or_none(f"inbox:{provider.name}", _LEASE) as lease:
        if lease is None:
            return None
        storage = workspace.lake.storage
        # What comes while we are at it is for the next time: this must end.
        entries = sorted(storage.list(inbox_root(provider.name)), key=lambda entry: entry.path)
        group: list[str] = []
        size = 0
        for number, entry in enumerate(entries):
            group.append(entry.path)
            size += entry.size
            if size >= _BYTES_AT_ONCE or number == len(entries) - 1:
                if not workspace.registry.renew(lease.name, lease.owner, _LEASE):
                    break
                report.add(_take_segments(workspace, provider, provider.push, group))
                group, size = [], 0
        _drop_old_parked(workspace, provider.name)
        workspace.registry.forget_pushes()
    return report


def _take_segments(
    workspace: Workspace, provider: Provider, push: Push, paths: Sequence[str]
) -> TakenIn:
    storage = workspace.lake.storage
    report = TakenIn()
    kept: list[KeptPush] = []
    for path in paths:
        try:
            kept.extend(msgspec.msgpack.decode(storage.read(path), type=list[KeptPush]))
        except MissingError:
            # Taken in by somebody whose lease ran out while we waited.
            continue
    report.pushes = len(kept)
    read = [(one, _read(provider, push, one)) for one in kept]
    accounts = {said.account_id for _, told in read if told is not None for said in told}
    hashes = {
        account: workspace.registry.hash_account(provider.name, account) for account in accounts
    }
    of_hash = workspace.registry.users_of_accounts(provider.name, set(hashes.values()))
    users = {account: of_hash.get(hashes[account], []) for account in accounts}

    # By identity: bodies are large to compare, and the same body twice is two pushes.
    parked = {id(one): one for one, told in read if told is None}
    arrivals: list[Arrival] = []
    due: set[str] = set()
    spans: dict[tuple[date, date], dict[str, list[KeptPush]]] = {}
    links: dict[str, list[tuple[KeptPush, Linked]]] = {}
    for one, told in read:
        for said in told or ():
            if not users[said.account_id]:
                # A hint for nobody holds nothing worth keeping; data may belong to who is just connecting.
                if isinstance(said, Delivered | Linked):
                    parked[id(one)] = one
                continue
            for user_id in users[said.account_id]:
                match said:
                    case Changed():
                        span = _old_span(workspace, provider, said)
                        if span is None:
                            due.add(user_id)
                        else:
                            spans.setdefault(span, {}).setdefault(user_id, []).append(one)
                    case Delivered():
                        try:
                            records = _records(provider, said, one)
                        except PipelineError:
                            parked[id(one)] = one
                            continue
                        arrivals.append(Arrival(user_id, records, one.received_at))
                    case Linked() if not _leads_there(workspace, provider, said):
                        parked[id(one)] = one
                    case Linked():
                        links.setdefault(user_id, []).append((one, said))
                    case Removed():
                        gone = _deletions(workspace, provider, user_id, said)
                        arrivals.append(Arrival(user_id, gone, one.received_at))
                    case Departed():
                        workspace.registry.set_status(
                            user_id, "revoked", f"{ACCESS_REVOKED}: told by the provider"
                        )
                        report.departed += 1
    some = [arrival for arrival in arrivals if arrival.records]
    report.appended.add(ingest(workspace, provider, some, "push"))
    report.made_due = workspace.registry.make_due(due, workspace.now())
    again = _fetch_spans(workspace, provider, spans, report)
    later, lost = _follow_links(workspace, provider, links, report)
    again += later
    parked |= {id(one): one for one in lost}
    report.parked = len(parked)
    report.postponed = len(again)
    now = workspace.now()
    if parked:
        _write_segment(storage, parked_root(provider.name), list(parked.values()), now)
        _log.warning("%s: %d pushes parked: unreadable or of nobody", provider.name, len(parked))
    if again:
        _write_segment(storage, inbox_root(provider.name), again, now)
    storage.delete_many(paths)
    return report


def _read(provider: Provider, push: Push, kept: KeptPush) -> list[Pushed] | None:
    """What a push says; None when it cannot be read."""
    try:
        return list(push.read(kept.request()))
    except PipelineError as error:
        _log.warning("%s: a push cannot be read: %s", provider.name, error)
    except Exception as error:  # noqa: BLE001
        # One body may break a provider module in a way nobody thought of; its text may quote the body.
        _log.error("%s: reading a push failed with %s", provider.name, type(error).__name__)
    return None


def _records(provider: Provider, said: Delivered, kept: KeptPush) -> list[Record]:
    page = Page(said.resource, said.body, kept.received_at, said.context)
    try:
        return list(provider.resource(said.resource).split(page))
    except PipelineError:
        raise
    except Exception as error:  # noqa: BLE001
        _log.error("%s: splitting a push failed with %s", provider.name, type(error).__name__)
        raise BadPayloadError(f"{provider.name}: a push cannot be read") from None


def _old_span(workspace: Workspace, provider: Provider, said: Changed) -> tuple[date, date] | None:
    """The days to fetch at once; None where the next usual fetch asks for them anyway."""
    today = workspace.now().date()
    if said.start is None and said.end is None:
        return None
    start = said.start or said.end or today
    end = said.end or today
    if start >= today - max(provider.refetch, timedelta()):
        return None
    return start, max(start, end)


def _fetch_spans(
    workspace: Workspace,
    provider: Provider,
    spans: Mapping[tuple[date, date], Mapping[str, Sequence[KeptPush]]],
    report: TakenIn,
) -> list[KeptPush]:
    """Fetch days further back than usual; returns the pushes to try again later."""
    again: dict[int, KeptPush] = {}
    for (start, end), by_user in sorted(spans.items()):
        users = workspace.registry.find_users(user_ids=sorted(by_user), status="connected")
        window = Window(start, end, workspace.now())
        polled = poll(workspace, provider, users, window, is_what_is_due=False)
        report.appended.add(polled.appended)
        for user_id in polled.failures:
            for kept in by_user.get(user_id, ()):
                if kept.attempts + 1 < _ATTEMPTS:
                    again[id(kept)] = kept
    return [msgspec.structs.replace(kept, attempts=kept.attempts + 1) for kept in again.values()]


def _leads_there(workspace: Workspace, provider: Provider, link: Linked) -> bool:
    """Whether a link leads to the provider's API: nothing else is asked, least of all with a token."""
    try:
        app_of(provider, workspace.settings.provider(provider.name)).address(link.url)
    except PipelineError as error:
        _log.warning("%s: a link of a push is not followed: %s", provider.name, error)
        return False
    return True


def _follow_links(
    workspace: Workspace,
    provider: Provider,
    links: Mapping[str, Sequence[tuple[KeptPush, Linked]]],
    report: TakenIn,
) -> tuple[list[KeptPush], list[KeptPush]]:
    """Fetch what pushes linked to; returns the pushes to try again later, and those given up on.

    One link that leads to nothing stops none of the others.
    """
    followed: set[tuple[str, Linked]] = set()
    refused: set[tuple[str, Linked]] = set()

    async def follow(
        client: Client, connection: Connection, _window: Window
    ) -> AsyncIterator[Page]:
        for link in dict.fromkeys(link for _, link in links[connection.user_id]):
            try:
                answer = await client.request("GET", link.url, accept=(200, 204))
                if answer.status == 204:
                    followed.add((connection.user_id, link))
                    continue
                page = Page(link.resource, answer.body, answer.fetched_at)
                # Looked into here, where only this link is lost by it.
                list(provider.resource(link.resource).split(page))
            except (RateLimitedError, NotConnectedError):
                raise
            except TransientError:
                continue
            except PipelineError as error:
                _log.warning("%s: a link of a push leads to nothing: %s", provider.name, error)
                refused.add((connection.user_id, link))
                continue
            yield page
            followed.add((connection.user_id, link))

    if not links:
        return [], []
    now = workspace.now()
    users = workspace.registry.find_users(user_ids=sorted(links), status="connected")
    following = replace(
        provider, fetch=follow, refetch=timedelta(), max_window=None, history_days=None
    )
    window = Window(now.date(), now.date(), now)
    polled = poll(workspace, following, users, window, is_what_is_due=False)
    report.appended.add(polled.appended)
    again: dict[int, KeptPush] = {}
    lost: dict[int, KeptPush] = {}
    for user_id, own in links.items():
        for one, link in own:
            if (user_id, link) in followed:
                continue
            if (user_id, link) in refused or one.attempts + 1 >= _ATTEMPTS:
                lost[id(one)] = one
            else:
                again[id(one)] = msgspec.structs.replace(one, attempts=one.attempts + 1)
    return list(again.values()), list(lost.values())


def _deletions(
    workspace: Workspace, provider: Provider, user_id: str, said: Removed
) -> list[Record]:
    """Deletions of the records, as far as raw knows them, each under the date it is stored under."""
    wanted = set(said.record_ids)
    cohort = workspace.lake.scheme.cohort_of(user_id)
    cells = sorted(
        (cell for cell in workspace.lake.raw.partitions(provider.name) if cell.cohort == cohort),
        key=lambda cell: cell.date,
        reverse=True,
    )
    found: list[Record] = []
    for first in range(0, len(cells), 32):
        if not wanted:
            break
        found.extend(
            _known_in(workspace, provider, user_id, said, wanted, cells[first : first + 32])
        )
        wanted -= {record.record_id for record in found}
    return found


def _known_in(
    workspace: Workspace,
    provider: Provider,
    user_id: str,
    said: Removed,
    wanted: Iterable[str],
    cells: Sequence[Partition],
) -> list[Record]:
    raw = workspace.lake.raw.read([provider.name], cells, user_ids=[user_id])
    rows = raw.filter(
        (raw["resource"] == said.resource) & raw["record_id"].is_in(list(wanted))
    ).unique(["record_id", "local_date"], keep="last")
    return [
        Record(
            said.resource,
            row["record_id"],
            row["body"],
            row["local_date"],
            msgspec.json.decode(row["context"], type=dict[str, object]),
            is_deleted=True,
        )
        for row in rows.sort("record_id", "local_date").to_dicts()
    ]


def _drop_old_parked(workspace: Workspace, provider: str) -> None:
    storage = workspace.lake.storage
    oldest = f"{workspace.now() - PARKED_FOR:%Y%m%dT%H%M%S%f}"
    root = parked_root(provider)
    old = [entry.path for entry in storage.list(root) if entry.path[len(root) :] < oldest]
    if old:
        storage.delete_many(old)


def drop_pushes(workspace: Workspace, provider: Provider, account_hash: str) -> int:
    """Delete what waits or is parked of an account alone; returns how many pushes that were.

    What cannot be read, or tells of others too who may still be connecting, goes after `PARKED_FOR`.
    Raises TransientError while the inbox is being taken in.
    """
    push, storage = provider.push, workspace.lake.storage
    if push is None:
        return 0

    def is_theirs(one: KeptPush) -> bool:
        accounts = {said.account_id for said in _read(provider, push, one) or ()}
        hashes = {workspace.registry.hash_account(provider.name, account) for account in accounts}
        return hashes == {account_hash}

    dropped = 0
    with workspace.registry.lease_or_none(f"inbox:{provider.name}", _LEASE) as lease:
        if lease is None:
            raise TransientError(
                f"{provider.name}: its inbox is being taken in; repeat the command"
            )
        for root in (inbox_root(provider.name), parked_root(provider.name)):
            for entry in list(storage.list(root)):
                kept = msgspec.msgpack.decode(storage.read(entry.path), type=list[KeptPush])
                others = [one for one in kept if not is_theirs(one)]
                if len(others) == len(kept):
                    continue
                if others:
                    # Under the time of the old one, by which parked pushes end.
                    _write_segment(storage, root, others, kept[0].received_at)
                storage.delete(entry.path)
                dropped += len(kept) - len(others)
    return dropped


# --- subscriptions


def subscribe(workspace: Workspace, provider: Provider) -> list[Subscription]:
    """Make the subscriptions that are missing and note all of them."""
    push = _push_of(provider)
    if push.subscribe is None:
        # Told before any missing secret is: here it would be of no use.
        by_hand = f"enter the address of /in/{provider.name} on its developer site"
        raise UsageError(
            f"{provider.title}: the app as a whole has nothing to subscribe to:"
            f" {push.setup or by_hand}"
        )
    subscriber = _subscriber(workspace, provider)
    made = asyncio.run(_with_client(workspace, provider, push.subscribe, subscriber))
    _note(workspace, provider, made)
    return made


def unsubscribe(workspace: Workspace, provider: Provider) -> int:
    """End the subscriptions; how many there were."""
    push = _push_of(provider)
    if push.unsubscribe is None:
        return 0
    subscriber = _subscriber(workspace, provider)
    count = asyncio.run(_with_client(workspace, provider, push.unsubscribe, subscriber))
    _note(workspace, provider, [])
    return count


def needs_renewal(workspace: Workspace, provider: Provider) -> bool:
    """Whether a subscription ends soon."""
    soon = workspace.now() + RENEW_BEFORE
    return (
        provider.push is not None
        and provider.push.renew is not None
        and any(
            end is not None and end < soon
            for _, _, end in workspace.registry.load_subscriptions(provider.name)
        )
    )


def renew_subscriptions(workspace: Workspace, provider: Provider) -> int:
    """Extend what ends soon; returns how many."""
    if not needs_renewal(workspace, provider):
        return 0
    push, subscriber = _push_of(provider), _subscriber(workspace, provider)
    renew = push.renew
    if renew is None:
        return 0
    soon = workspace.now() + RENEW_BEFORE
    known = [Subscription(*row) for row in workspace.registry.load_subscriptions(provider.name)]

    async def extend(client: Client, to: Subscriber) -> list[Subscription]:
        return [
            await renew(client, to, one)
            if one.expires_at is not None and one.expires_at < soon
            else one
            for one in known
        ]

    _note(workspace, provider, asyncio.run(_with_client(workspace, provider, extend, subscriber)))
    return sum(1 for one in known if one.expires_at is not None and one.expires_at < soon)


def _note(workspace: Workspace, provider: Provider, made: Sequence[Subscription]) -> None:
    workspace.registry.save_subscriptions(
        provider.name, [(one.subscription_id, one.topic, one.expires_at) for one in made]
    )


def _push_of(provider: Provider) -> Push:
    if provider.push is None:
        raise UsageError(f"{provider.title} pushes nothing")
    return provider.push


def _subscriber(workspace: Workspace, provider: Provider) -> Subscriber:
    subscriber = subscriber_of(workspace, provider)
    if subscriber is None:
        raise UsageError(
            f"{provider.title}: set WEARABLE_{provider.name.upper()}_PUSH_SECRET to a long random text"
        )
    return subscriber


async def _with_client(
    workspace: Workspace,
    provider: Provider,
    call: Callable[[Client, Subscriber], Awaitable[T]],
    subscriber: Subscriber,
) -> T:
    app = app_of(provider, workspace.settings.provider(provider.name))
    async with HttpClient(
        provider.name, max_concurrency=2, requests_per_second=5, now=workspace.now
    ) as client:
        return await call(AppClient(client, app), subscriber)
