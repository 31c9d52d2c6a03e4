"""How Garmin talks: what is asked of it, and what its posts say.

Garmin answers no questions about data. It posts summaries to an address entered on its developer site:
whole (push), or as links (ping) that are fetched with the person's token. History is asked for by its span;
the answer is empty, and the summaries are posted some time later.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit

import msgspec

from wearable_pipeline.errors import BadPayloadError, PermanentError
from wearable_pipeline.providers._contract import (
    Changed,
    Client,
    Connection,
    Delivered,
    Departed,
    Identity,
    Linked,
    Page,
    Pushed,
    PushRequest,
    Window,
)
from wearable_pipeline.providers._split import decode, decode_any, item_fields

REST = "/wellness-api/rest/"
_USER_ID = f"{REST}user/id"
_PERMISSIONS = f"{REST}user/permissions"
_REGISTRATION = f"{REST}user/registration"

# Kinds of summaries by the name they are posted under, and what their history is asked for by.
KINDS: Mapping[str, str] = {
    "dailies": "dailies",
    "epochs": "epochs",
    "sleeps": "sleeps",
    "bodyComps": "bodyComps",
    "stressDetails": "stressDetails",
    "userMetrics": "userMetrics",
    "pulseox": "pulseOx",
    "allDayRespiration": "respiration",
    "hrv": "hrv",
    "healthSnapshot": "healthSnapshot",
    "bloodPressures": "bloodPressures",
    "skinTemp": "skinTemp",
    "activities": "activities",
    "activityDetails": "activityDetails",
    "moveIQActivities": "moveiq",
    "mct": "mct",
}
# Other names the same kinds come under.
ALIASES: Mapping[str, str] = {
    **{kind: kind for kind in KINDS},
    "manuallyUpdatedActivities": "activities",
    "pulseOx": "pulseox",
    "respiration": "allDayRespiration",
    "menstrualCycleTracking": "mct",
}
DEREGISTRATIONS = "deregistrations"
PERMISSION_CHANGES = ("userPermissionsChange", "userPermissions")
# Links to FIT files: the same activities come as details.
_LEFT = frozenset({"activityFiles"})

_HISTORY = "HISTORICAL_DATA_EXPORT"
_DATA = frozenset({"HEALTH_EXPORT", "ACTIVITY_EXPORT", "MCT_EXPORT"})
# A request for history may span so much; a second less than the documented thirty days.
_LONGEST = 30 * 86_400 - 1
# What was on its way when a connection ended.
_OVERLAP = 86_400
# Answers that mean this kind is not for this app or this person: not permitted, not set up, not there.
_NOT_OURS = (403, 404, 412)

Span = tuple[int, int]

# --- asking


class _UserId(msgspec.Struct):
    userId: str  # noqa: N815 - Garmin's name


class _Permissions(msgspec.Struct):
    permissions: list[str] = []


async def identify(client: Client, granted: Mapping[str, object]) -> Identity:
    """Whose account it is, and since when its summaries are posted to us."""
    answer = await client.request("GET", _USER_ID)
    account = decode(answer.body, _UserId, "garmin: the account").userId
    return Identity(account, config={"registered_at": int(answer.fetched_at.timestamp())})


async def revoke(client: Client, credentials: Mapping[str, object]) -> None:
    """End the registration: Garmin stops posting and takes the tokens back."""
    await client.request("DELETE", _REGISTRATION, accept=(204, 200, 404))


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Ask for what nobody has posted to us: all before the connection, and while there was none.

    Nothing comes back here. What the person does not permit yet is remembered, and asked for once it is.
    """
    nothing: tuple[Page, ...] = ()
    for page in nothing:
        yield page
    permitted = await _permissions(client)
    if not permitted & _DATA:
        raise PermanentError("garmin: no permission was given for any kind of data")
    state, now = connection.state, int(window.now.timestamp())
    registered, before, seen = (
        connection.config.get("registered_at"),
        state.get("registered"),
        state.get("seen"),
    )
    wanted = _spans(state.get("wanted"))
    if "until" not in state or before != registered:
        # From now on it is posted to us; what was meanwhile, to nobody.
        state["until"], state["registered"] = now, registered
        if isinstance(seen, int):
            wanted.append((seen - _OVERLAP, now))
    until = state["until"]
    # Days begin up to fourteen hours before and end up to twelve hours after those of UTC.
    end = min(_epoch(window.end) + 36 * 3600, until if isinstance(until, int) else now)
    wanted.append((_epoch(window.start) - 14 * 3600, end))
    if _HISTORY in permitted:
        state["asked"] = await _ask_for(client, merge(wanted), _asked(state.get("asked")))
        state["wanted"] = []
    else:
        state["wanted"] = merge(wanted)
    state["seen"] = now


def _epoch(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


async def _permissions(client: Client) -> set[str]:
    answer = await client.request("GET", _PERMISSIONS)
    what = "garmin: the permissions"
    if answer.body.lstrip()[:1] == b"[":
        return set(decode(answer.body, list[str], what))
    return set(decode(answer.body, _Permissions, what).permissions)


async def _ask_for(
    client: Client, wanted: list[Span], asked: dict[str, list[Span]]
) -> dict[str, list[Span]]:
    """Order the history of `wanted` that was not ordered before; returns what is ordered by now."""
    refused: set[str] = set()
    for kind, name in KINDS.items():
        for begin, end in missing(wanted, asked.get(kind, [])):
            answer = await client.request(
                "GET",
                f"{REST}backfill/{name}",
                params={"summaryStartTimeInSeconds": begin, "summaryEndTimeInSeconds": end},
                # 400: further back than Garmin reaches; 409: ordered before.
                accept=(202, 200, 204, 400, 409, *_NOT_OURS),
            )
            if answer.status in _NOT_OURS:
                refused.add(kind)
                break
            if answer.status == 400 and b"min start time" not in answer.body:
                raise PermanentError("garmin: a request for history is refused (HTTP 400)")
            asked[kind] = merge([*asked.get(kind, []), (begin, end)])
    if len(refused) == len(KINDS):
        raise PermanentError("garmin: history is refused for every kind of data")
    return asked


def _spans(told: object) -> list[Span]:
    try:
        return msgspec.convert(told or [], list[Span])
    except msgspec.ValidationError:
        return []


def _asked(told: object) -> dict[str, list[Span]]:
    return {kind: _spans(spans) for kind, spans in told.items()} if isinstance(told, dict) else {}


def merge(spans: Iterable[Span]) -> list[Span]:
    """The same seconds in as few spans as possible, in order; empty ones are none."""
    merged: list[Span] = []
    for begin, end in sorted(spans):
        if begin >= end:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def missing(wanted: Iterable[Span], asked: Iterable[Span]) -> list[Span]:
    """What of `wanted` lies outside `asked`, the newest first, in spans Garmin takes."""
    left = merge(wanted)
    for begin, end in asked:
        left = [
            part
            for first, last in left
            for part in ((first, min(last, begin)), (max(first, end), last))
            if part[0] < part[1]
        ]
    pieces: list[Span] = []
    for first, last in reversed(left):
        end = last
        while end > first:
            pieces.append((max(first, end - _LONGEST), end))
            end = pieces[-1][0]
    return pieces


# --- posts


def read_push(request: PushRequest) -> Iterator[Pushed]:
    """What a post says, account by account: summaries, links to them, permissions, departures."""
    what = "garmin: reading a push"
    told = decode(request.body, dict[str, msgspec.Raw], what)
    if not told.keys() & {*ALIASES, *_LEFT, *PERMISSION_CHANGES, DEREGISTRATIONS}:
        raise BadPayloadError(f"{what}: it holds no kind of summary that is known")
    for name, raw in told.items():
        if name not in ALIASES and name not in (*PERMISSION_CHANGES, DEREGISTRATIONS):
            continue
        items = decode(raw, list[msgspec.Raw], what)
        if name == DEREGISTRATIONS:
            yield from (Departed(_account(item_fields(item))) for item in items)
        elif name in PERMISSION_CHANGES:
            yield from (Changed(_account(item_fields(item))) for item in items)
        else:
            yield from _read_summaries(ALIASES[name], items, what)


def _account(fields: Mapping[str, object]) -> str:
    # Of nobody, a summary is kept aside instead of being dropped.
    account = fields.get("userId")
    return account if isinstance(account, str) else ""


def _read_summaries(kind: str, items: list[msgspec.Raw], what: str) -> Iterator[Pushed]:
    by_account: dict[str, list[bytes]] = {}
    for item in items:
        fields = item_fields(item)
        account = _account(fields)
        if "callbackURL" not in fields:
            by_account.setdefault(account, []).append(bytes(item))
            continue
        url = fields["callbackURL"]
        if not isinstance(url, str) or not _is_of_data(url):
            raise BadPayloadError(f"{what}: a link leads elsewhere than to summaries")
        yield Linked(account, kind, url)
    for account, own in by_account.items():
        body = b'{"' + kind.encode() + b'":[' + b",".join(own) + b"]}"
        yield Delivered(account, kind, body)


def _is_of_data(url: str) -> bool:
    """Whether a link is one of the documented form; whose host it names is looked at when it is followed."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    name = parts.path.rpartition(REST)[2]
    return REST in parts.path and name in {*KINDS.values(), *ALIASES}


# --- bodies of unknown origin

_NO_SUMMARIES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({DEREGISTRATIONS}), "a note that people have left"),
    *((frozenset({name}), "a note of changed permissions") for name in PERMISSION_CHANGES),
    (frozenset({"activityFiles"}), "links to files of activities"),
    (frozenset({"access_token"}), "a token answer"),
    (frozenset({"errorMessage"}), "a refusal"),
    (frozenset({"permissions"}), "a list of permissions"),
)


def explain(body: bytes) -> None:
    """Raise what `body` means when it is a body of Garmin without summaries."""
    answer = decode_any(body)
    if isinstance(answer, list) and answer and all(isinstance(one, str) for one in answer):
        answer = {"permissions": answer}
    if not isinstance(answer, dict):
        return
    what = next((says for keys, says in _NO_SUMMARIES if keys <= answer.keys()), None)
    if answer.keys() == {"userId"}:
        what = "the name of an account"
    listed = [
        one
        for name, items in answer.items()
        if name in ALIASES and isinstance(items, list)
        for one in items
    ]
    if listed and all(isinstance(one, dict) and "callbackURL" in one for one in listed):
        what = "links to summaries"
    if what is not None:
        raise BadPayloadError(f"garmin: reading the answer: it is {what}: it carries no summaries")


MAX_WINDOW = timedelta(days=28)
