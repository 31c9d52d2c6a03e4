"""How Garmin talks: what is asked of it, and what its posts say.

Garmin answers no questions about data. It posts summaries to an address entered on its developer site:
whole (push), or as links (ping) that are fetched with the person's token. History is asked for by its span;
the answer is empty, and the summaries are posted some time later.
"""

import logging
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit

import msgspec

from wearable_pipeline.errors import BadPayloadError, PermanentError
from wearable_pipeline.providers._contract import (
    Answer,
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
from wearable_pipeline.providers._local_time import read_instant
from wearable_pipeline.providers._spans import Span, merge, read_spans, subtract
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
_ORDERED_BEFORE = (409,)
# Its answer: start <instant> before min start time of <instant>.
_MIN_START = re.compile(rb"min start time of (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)")
# This kind is not for this app or this person: not permitted, not set up, not there.
_REFUSED = (400, 403, 404, 412)

_log = logging.getLogger(__name__)

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
    wanted = read_spans(state.get("wanted"))
    if "until" not in state or before != registered:
        # From now on it is posted to us; what was meanwhile, to nobody.
        state["until"], state["registered"] = now, registered
        if isinstance(seen, int):
            wanted.append((seen - _OVERLAP, now))
    until = state["until"]
    # Days begin up to fourteen hours before and end up to twelve hours after those of UTC.
    end = min(_epoch(window.end) + 36 * 3600, until if isinstance(until, int) else now)
    wanted.append((_epoch(window.start) - 14 * 3600, end))
    state["wanted"] = merge(wanted)
    if _HISTORY in permitted:
        asked = _asked(state.get("asked"))
        refused = await _ask_for(client, merge(wanted), asked)
        known = state.get("refused")
        for kind in sorted(refused - set(known if isinstance(known, list) else [])):
            _log.warning("garmin: history of %s is refused", kind)
        state["asked"], state["refused"] = asked, sorted(refused)
        if not refused:
            state["wanted"] = []
    state["seen"] = now


def _epoch(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


async def _permissions(client: Client) -> set[str]:
    answer = await client.request("GET", _PERMISSIONS)
    what = "garmin: the permissions"
    if answer.body.lstrip()[:1] == b"[":
        return set(decode(answer.body, list[str], what))
    return set(decode(answer.body, _Permissions, what).permissions)


async def _ask_for(client: Client, wanted: list[Span], asked: dict[str, list[Span]]) -> set[str]:
    """Order the history of `wanted` that was not ordered before, and note it in `asked`.

    Returns the kinds that are refused: they stop none of the others.
    """
    refused: set[str] = set()
    for kind, name in KINDS.items():
        for begin, end in missing(wanted, asked.get(kind, [])):
            answer = await _order(client, name, begin, end)
            earliest = _earliest(answer)
            if earliest is not None and begin < earliest < end:
                # Of a span that begins too far back, the part that does not.
                answer = await _order(client, name, earliest, end)
            if answer.status in _REFUSED and not _is_too_far_back(answer):
                refused.add(kind)
                break
            asked[kind] = merge([*asked.get(kind, []), (begin, end)])
    if len(refused) == len(KINDS):
        raise PermanentError("garmin: history is refused for every kind of data")
    return refused


async def _order(client: Client, name: str, begin: int, end: int) -> Answer:
    return await client.request(
        "GET",
        f"{REST}backfill/{name}",
        params={"summaryStartTimeInSeconds": begin, "summaryEndTimeInSeconds": end},
        accept=(202, 200, 204, *_ORDERED_BEFORE, *_REFUSED),
    )


def _is_too_far_back(answer: Answer) -> bool:
    return answer.status == 400 and b"min start time" in answer.body


def _earliest(answer: Answer) -> int | None:
    """The first second Garmin has history of, and a minute: it moves on with the clock."""
    found = _MIN_START.search(answer.body) if _is_too_far_back(answer) else None
    told = read_instant(f"{found[1].decode()}Z") if found else None
    return int(told.timestamp()) + 60 if told else None


def _asked(told: object) -> dict[str, list[Span]]:
    return (
        {kind: read_spans(spans) for kind, spans in told.items()} if isinstance(told, dict) else {}
    )


def missing(wanted: Iterable[Span], asked: Iterable[Span]) -> list[Span]:
    """What of `wanted` lies outside `asked`, the newest first, in spans Garmin takes."""
    pieces: list[Span] = []
    for first, last in reversed(subtract(wanted, asked)):
        end = last
        while end > first:
            pieces.append((max(first, end - _LONGEST), end))
            end = pieces[-1][0]
    return pieces


# --- posts

# A token of the old OAuth 1, which some posts still repeat in every summary. Such a name with its quotes can
# only be a name: inside a text they would be escaped.
_TOKEN = rb'"userAccessToken"\s*:\s*(?:"(?:[^"\\]|\\.)*"|[^",{}\[\]\s]+)'
_TOKENS = re.compile(rb"%(one)s\s*,\s*|\s*,\s*%(one)s|%(one)s" % {b"one": _TOKEN}, re.DOTALL)


def drop_tokens(body: bytes) -> bytes:
    """`body` byte for byte without its access tokens: a secret is no part of a summary."""
    return _TOKENS.sub(b"", body) if b'"userAccessToken"' in body else body


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
