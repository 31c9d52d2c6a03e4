"""A Nightscout site per person: REST v1, the token exchange of v2, and v3 with its history.

Documents of people with a `v3` uploader carry `identifier`, `srvCreated` and `srvModified`; those
of a `v1` uploader do not, so v3's history never lists them (it filters on `srvModified`) and late
ones can only be found by their date.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime
from itertools import islice

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox import people, tokens
from wearable_pipeline.sandbox.control import Endpoint, Fault, Sandbox, json_answer
from wearable_pipeline.sandbox.people import DAY, HOUR, Person

DEFAULT_COUNT = 10
MAX_LIMIT = 1000
TOKEN_SECONDS = HOUR
# Without a date filter, v1 looks back this far.
V1_DEFAULT_REACH = 4 * DAY
# No document changes later than this after its own date.
LATEST_CHANGE = 2 * DAY
COLLECTIONS = ("entries", "treatments", "profile", "devicestatus", "food")
VERSION = "15.0.3"

Json = dict[str, object]

_OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "re")
_RESERVED = ("token", "sort", "sort$desc", "limit", "skip", "fields", "now")
_NATURAL_DATE = {"entries": "date"}


def mount(sandbox: Sandbox) -> Mount:
    """The sites under `/nightscout/{person}`."""
    return _Nightscout(sandbox).mount()


class _BadRequestError(Exception):
    """The query is not one the API accepts; the text is the message it answers with."""


# Documents


def documents(
    who: Person, collection: str, start: int, end: int, now: int, changed_since: int | None = None
) -> list[Json]:
    """Documents dated in [start, end) as stored at `now`, by date; `isValid` false when deleted.

    They are internal: `_id` is present, and `srvModified` only where the uploader made it. With
    `changed_since` (milliseconds) most documents not modified since are left out, to spare work.
    """
    start = max(start, now - who.history_days * DAY)
    match collection:
        case "entries":
            return _entries(who, start, end, now, changed_since)
        case "treatments":
            return _treatments(who, start, end, now)
        case "profile":
            return _profiles(who, end, now)
    return []


def _entries(who: Person, start: int, end: int, now: int, changed_since: int | None) -> list[Json]:
    found: list[Json] = []
    if changed_since is not None and who.uploader == "v1":
        return found
    for reading in people.readings(who, start, end):
        if reading.available_at > now:
            continue
        modified = reading.available_at
        if reading.corrected_at is not None and now >= reading.corrected_at:
            modified = reading.corrected_at
        is_deleted = reading.deleted_at is not None and now >= reading.deleted_at
        if is_deleted and reading.deleted_at is not None:
            modified = reading.deleted_at
        if changed_since is not None and modified * 1000 < changed_since:
            continue
        noise = _digest(who, f"sgv{reading.at}")
        value = reading.value(now)
        entry = _dated(who, "sgv", reading.at)
        is_calm = not reading.is_error
        entry |= {
            "type": "sgv",
            # Some uploaders write numbers as text.
            "sgv": str(value) if noise % 37 == 0 else value,
            "direction": _direction(who, reading.at) if is_calm else "NOT COMPUTABLE",
            "noise": 1 if is_calm else 4,
            "device": "xDrip-DexcomG6" if who.uploader == "v3" else "share2",
        }
        if who.uploader == "v3":
            entry |= {"filtered": value * 1000, "unfiltered": value * 1010, "rssi": 100}
        _stamp(who, entry, reading.available_at, modified, is_deleted=is_deleted)
        found.append(entry)
    for plan in people.plans_between(who, start, end):
        for at in plan.fingersticks:
            if start <= at < end and at + 60 <= now:
                entry = _dated(who, "mbg", at)
                entry |= {
                    "type": "mbg",
                    "mbg": max(round(people.glucose(who, at)) + 3, 20),
                    "device": "sandbox-meter",
                }
                _stamp(who, entry, at + 60, at + 60)
                found.append(entry)
    found.sort(key=_date)
    return found


def _treatments(who: Person, start: int, end: int, now: int) -> list[Json]:
    found: list[Json] = []

    def add(at: int, event: str, fields: Json, deleted_at: int | None = None) -> None:
        if not start <= at < end or at + 30 > now:
            return
        treatment = _dated(who, event, at)
        treatment.pop("dateString")
        treatment.pop("sysTime")
        treatment |= {
            "eventType": event,
            "created_at": _iso(at),
            "enteredBy": "sandbox",
            "carbs": None,
            "insulin": None,
            **fields,
        }
        if who.uploader == "v1":
            treatment.pop("date")
        is_deleted = deleted_at is not None and now >= deleted_at
        modified = deleted_at if is_deleted and deleted_at is not None else at + 30
        _stamp(who, treatment, at + 30, modified, is_deleted=is_deleted)
        # v1 deletes for good, v3 keeps a tombstone.
        if not (is_deleted and who.uploader == "v1"):
            found.append(treatment)

    for plan in people.plans_between(who, start, end):
        for meal in plan.meals:
            add(meal.at, "Meal Bolus", {"carbs": meal.carbs, "insulin": meal.insulin})
        if plan.rescue_carbs_at is not None:
            add(plan.rescue_carbs_at, "Carb Correction", {"carbs": 12})
        if plan.correction_bolus_at is not None:
            # Some pumps' uploaders write numbers as text.
            fields: Json = {"duration": "30", "absolute": "1.425", "temp": "absolute"}
            add(plan.correction_bolus_at, "Correction Bolus", {"insulin": 1.5})
            add(plan.correction_bolus_at + 600, "Temp Basal", fields)
        for at in plan.fingersticks:
            value = people.display(max(round(people.glucose(who, at)) + 3, 20), who.uom)
            unit = "mg/dl" if who.uom == 1 else "mmol"
            add(at, "BG Check", {"glucose": value, "glucoseType": "Finger", "units": unit})
        if plan.phantom_at is not None:
            note: Json = {"notes": "Entered twice by mistake"}
            add(plan.phantom_at, "Note", note, deleted_at=plan.phantom_at + 5700)
        if plan.midnight // DAY % 5 == 0:
            walk: Json = {"duration": 45, "notes": "Walk"}
            add(plan.midnight + 18 * HOUR, "Exercise", walk)
    activated = people.sensor_started_at(who, end - 1)
    while activated >= start:
        serial = people.sensor_serial(who, activated)
        add(activated, "Sensor Change", {"notes": f"Sensor {serial}"})
        activated -= people.WEAR
    found.sort(key=lambda treatment: str(treatment["created_at"]))
    return found


def _profiles(who: Person, end: int, now: int) -> list[Json]:
    at = 1_700_006_400
    if not at < min(end, now):
        return []
    segment = {"time": "00:00", "timeAsSeconds": "0"}
    store = {
        "dia": "4",
        "carbratio": [segment | {"value": "10"}],
        "carbs_hr": "20",
        "delay": "20",
        "sens": [segment | {"value": "45"}],
        "timezone": who.zone,
        "basal": [segment | {"value": "0.8"}],
        "target_low": [segment | {"value": "80"}],
        "target_high": [segment | {"value": "140"}],
        "units": "mg/dl" if who.uom == 1 else "mmol",
    }
    profile: Json = {
        "_id": f"{_digest(who, 'profile') & (1 << 96) - 1:024x}",
        "defaultProfile": "Default",
        "store": {"Default": store},
        "startDate": _iso(at),
        "created_at": _iso(at),
        "mills": str(at * 1000),
    }
    if who.uploader == "v3":
        profile |= {"date": at * 1000, "utcOffset": 0, "app": "sandbox"}
    _stamp(who, profile, at, at)
    return [profile]


def _dated(who: Person, kind: str, at: int) -> Json:
    return {
        "_id": f"{_digest(who, f'{kind}/{at}') & (1 << 96) - 1:024x}",
        "date": at * 1000,
        "dateString": _iso(at),
        "sysTime": _iso(at),
        "utcOffset": people.offset_at(who, at) // 60,
    }


def _stamp(
    who: Person, document: Json, created: int, modified: int, *, is_deleted: bool = False
) -> None:
    if who.uploader == "v3":
        # Every document is stored in a millisecond of its own, up to a second before.
        fraction = _date(document) // 60_000 % 1000 - 999
        identifier = hashlib.md5(str(document["_id"]).encode(), usedforsecurity=False).hexdigest()
        document |= {
            "app": "sandbox",
            "identifier": identifier,
            "srvCreated": created * 1000 + fraction,
            "srvModified": modified * 1000 + fraction,
            "subject": "uploader",
        }
    if is_deleted:
        document |= {"isValid": False, "modifiedBy": "uploader"}


def _direction(who: Person, at: int) -> str:
    if people.pauses_between(who, at - 15 * 60, at):
        return "NONE"
    rate = people.change_per_minute(who, at)
    for bound, name in (
        (-3, "DoubleDown"),
        (-2, "SingleDown"),
        (-1, "FortyFiveDown"),
        (1, "Flat"),
        (2, "FortyFiveUp"),
        (3, "SingleUp"),
    ):
        if rate <= bound:
            return name
    return "DoubleUp"


def _iso(at: int) -> str:
    return people.moment(at).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _date(document: Json) -> int:
    date = document.get("date")
    if isinstance(date, int):
        return date
    return _milliseconds(str(document["created_at"]))


def _digest(who: Person, text: str) -> int:
    material = f"{who.key}/{text}".encode()
    return int.from_bytes(hashlib.blake2b(material, digest_size=16).digest(), "big")


# The site


class _Nightscout:
    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def mount(self) -> Mount:
        v1: tuple[tuple[str, Callable[[Request, Person], Response]], ...] = (
            ("/entries", self.list_entries),
            ("/entries/{spec}", self.list_entries),
            ("/treatments", self.list_treatments),
            ("/profile", self.list_profiles),
            ("/profile/current", self.show_profile),
            ("/devicestatus", self.list_nothing),
            ("/status", self.show_status),
            ("/verifyauth", self.verify),
        )
        v3: tuple[tuple[str, Callable[[Request, Person], Response]], ...] = (
            ("/status", self.show_v3_status),
            ("/lastModified", self.show_last_modified),
            ("/{collection}", self.search),
            ("/{collection}/history", self.list_history),
            ("/{collection}/history/{since}", self.list_history),
            ("/{collection}/{identifier}", self.read),
        )
        routes = [
            Route("/api/v2/authorization/request/{token}", self._guard(self.exchange_token)),
            Route("/api/v3/version", self._guard(self.show_version)),
        ]
        for path, endpoint in v1:
            guarded = self._guard(self._authorize(endpoint, self._is_allowed))
            routes += [Route(f"/api/v1{path}{suffix}", guarded) for suffix in (".json", "")]
            if path.endswith("status"):
                routes.append(Route(f"/api/v1{path}/", guarded))
        for path, endpoint in v3:
            guarded = self._guard(self._authorize_v3(endpoint))
            routes.append(Route(f"/api/v3{path}", guarded))
        return Mount("/nightscout/{person}", routes=routes)

    # v1

    def list_entries(self, request: Request, who: Person) -> Response:
        spec = str(request.path_params.get("spec", "")).removesuffix(".json")
        find = _find(request.query_params.multi_items())
        if spec == "current":
            return json_answer(self._v1_page(who, "entries", [("type", "$eq", "sgv")], 1))
        if re.fullmatch(r"[0-9a-f]{24}", spec):
            find = [("_id", "$eq", spec)]
        elif spec:
            find.append(("type", "$eq", spec))
        return json_answer(self._v1_page(who, "entries", find, _count(request)))

    def list_treatments(self, request: Request, who: Person) -> Response:
        find = _find(request.query_params.multi_items())
        has_count = "count" in request.query_params
        # Treatments have no default count, only the default reach.
        count = _count(request) if has_count else MAX_LIMIT * 1000
        return json_answer(self._v1_page(who, "treatments", find, count))

    def list_profiles(self, request: Request, who: Person) -> Response:
        now = self.sandbox.clock.now()
        return json_answer(documents(who, "profile", 0, now + 1, now)[: _count(request)])

    def show_profile(self, _: Request, who: Person) -> Response:
        now = self.sandbox.clock.now()
        return json_answer(documents(who, "profile", 0, now + 1, now)[0])

    def list_nothing(self, _: Request, __: Person) -> Response:
        return json_answer([])

    def show_status(self, _: Request, who: Person) -> Response:
        now = self.sandbox.clock.exact()
        return json_answer(
            {
                "status": "ok",
                "name": "nightscout",
                "version": VERSION,
                "serverTime": _iso(math.floor(now)),
                "serverTimeEpoch": math.floor(now * 1000),
                "apiEnabled": True,
                "careportalEnabled": True,
                "boluscalcEnabled": True,
                "settings": {
                    "units": "mg/dl" if who.uom == 1 else "mmol",
                    "timeFormat": 24,
                    "customTitle": f"Sandbox {who.last_name}",
                    "language": "en",
                    "thresholds": {
                        "bgHigh": 260,
                        "bgTargetTop": 180,
                        "bgTargetBottom": 80,
                        "bgLow": 55,
                    },
                },
                "extendedSettings": {},
                "authorized": None,
            }
        )

    def verify(self, _: Request, __: Person) -> Response:
        return json_answer(
            {
                "status": 200,
                "message": {"canRead": True, "canWrite": False, "isAdmin": False, "message": "OK"},
            }
        )

    def _v1_page(
        self, who: Person, collection: str, find: list[tuple[str, str, str]], count: int
    ) -> list[Json]:
        now = self.sandbox.clock.now()
        date_field = _NATURAL_DATE.get(collection, "created_at")
        first, last = now - who.history_days * DAY, now + 1
        named = {field for field, _, _ in find}
        if not named & {date_field, "dateString", "_id"}:
            first = now - V1_DEFAULT_REACH
        for field, operator, value in find:
            if field != "date" or collection != "entries":
                continue
            bound = _integer(value)
            if operator in ("$gte", "$gt"):
                first = max(first, bound // 1000)
            elif operator in ("$lte", "$lt"):
                last = min(last, bound // 1000 + 1)
        wanted = (
            document
            for document in _newest_first(who, collection, first, last, now)
            if document.get("isValid") is not False
            and all(_v1_matches(document, *condition) for condition in find)
        )
        return list(islice(wanted, count))

    # v2

    async def exchange_token(self, request: Request) -> Response:
        who = self._person(request)
        if who is None or request.path_params["token"] != who.access_token:
            return _unauthorized_v1()
        now = self.sandbox.clock.now()
        claims: Json = {"accessToken": who.access_token, "iat": now, "exp": now + TOKEN_SECONDS}
        return json_answer(
            {
                "token": tokens.sign(claims, who.api_secret),
                "sub": "reader",
                "permissionGroups": [["*:*:read"]],
                "iat": now,
                "exp": now + TOKEN_SECONDS,
            }
        )

    # v3

    async def show_version(self, request: Request) -> Response:
        if self._person(request) is None:
            return _status(404)
        return json_answer({"status": 200, "result": self._version()})

    def show_v3_status(self, _: Request, __: Person) -> Response:
        permissions = dict.fromkeys(COLLECTIONS, "r")
        return json_answer(
            {"status": 200, "result": self._version() | {"apiPermissions": permissions}}
        )

    def show_last_modified(self, _: Request, who: Person) -> Response:
        now = self.sandbox.clock.now()
        newest: Json = {}
        for collection in COLLECTIONS:
            start = 0 if collection == "profile" else now - LATEST_CHANGE - DAY
            moments = [
                _integer(document.get("srvModified", _date(document)))
                for document in documents(who, collection, start, now + 1, now)
            ]
            if moments:
                newest[collection] = max(moments)
        now_ms = math.floor(self.sandbox.clock.exact() * 1000)
        return json_answer({"status": 200, "result": {"srvDate": now_ms, "collections": newest}})

    def search(self, request: Request, who: Person) -> Response:
        collection = request.path_params["collection"]
        if collection not in COLLECTIONS:
            return _status(404, "Bad operation or collection")
        query = request.query_params
        limit = _limit(query)
        skip = _whole(query.get("skip", "0"), 0, None, "Parameter skip out of tolerance")
        if "sort" in query and "sort$desc" in query:
            raise _BadRequestError("Parameters sort and sort_desc cannot be combined")
        is_descending = "sort$desc" in query
        sort = query.get("sort$desc") or query.get("sort")
        conditions = _conditions(query.multi_items())
        now = self.sandbox.clock.now()
        first, last = now - who.history_days * DAY, now + 1
        for field, operator, value in conditions:
            if field == "date" and isinstance(value, int):
                if operator in ("gt", "gte", "eq"):
                    first = max(first, value // 1000)
                if operator in ("lt", "lte", "eq"):
                    last = min(last, value // 1000 + 1)
        if sort is None or sort in ("date", "created_at"):
            walk = _newest_first if is_descending else _oldest_first
            candidates: Iterable[Json] = walk(who, collection, first, last, now)
        else:
            candidates = sorted(
                _oldest_first(who, collection, first, last, now),
                key=lambda document: _sort_key(document, sort),
                reverse=is_descending,
            )
        wanted = (
            document
            for document in candidates
            if document.get("isValid") is not False
            and all(_v3_matches(document, *condition) for condition in conditions)
        )
        page = [
            _outside(document, query.get("fields"))
            for document in islice(wanted, skip, skip + limit)
        ]
        return json_answer({"status": 200, "result": page})

    def list_history(self, request: Request, who: Person) -> Response:
        collection = request.path_params["collection"]
        if collection not in COLLECTIONS:
            return _status(404, "Bad operation or collection")
        since, is_exclusive = _since(request)
        limit = _limit(request.query_params)
        now = self.sandbox.clock.now()
        start = since // 1000 - LATEST_CHANGE
        if collection == "profile":
            start = 0
        found: list[Json] = []
        for chunk_end, chunk in _chunks(who, collection, start, now + 1, now, since):
            for document in chunk:
                modified = document.get("srvModified")
                if isinstance(modified, int) and (
                    modified > since or (modified == since and not is_exclusive)
                ):
                    found.append(document)
            # Whatever comes later was modified after its own date.
            if sum(_integer(one["srvModified"]) < chunk_end * 1000 for one in found) >= limit:
                break
        found.sort(key=lambda one: _integer(one["srvModified"]))
        page = found[:limit]
        headers = {}
        if page:
            newest = _integer(page[-1]["srvModified"])
            headers = {
                "Last-Modified": format_datetime(people.moment(newest // 1000), usegmt=True),
                "ETag": f'W/"{newest}"',
            }
        fields = request.query_params.get("fields")
        return json_answer(
            {"status": 200, "result": [_outside(document, fields) for document in page]},
            headers=headers,
        )

    def read(self, request: Request, who: Person) -> Response:
        collection = request.path_params["collection"]
        wanted = request.path_params["identifier"]
        now = self.sandbox.clock.now()
        if collection not in COLLECTIONS:
            return _status(404, "Bad operation or collection")
        for document in _newest_first(who, collection, 0, now + 1, now):
            if wanted in (document.get("identifier"), document["_id"]):
                if document.get("isValid") is False:
                    return _status(410)
                result = _outside(document, request.query_params.get("fields"))
                return json_answer({"status": 200, "result": result})
        return _status(404)

    def _version(self) -> Json:
        return {
            "version": VERSION,
            "apiVersion": "3.0.4",
            "srvDate": math.floor(self.sandbox.clock.exact() * 1000),
            "storage": {"storage": "mongodb", "version": "6.0.0"},
        }

    # Who may

    def _person(self, request: Request) -> Person | None:
        try:
            return people.person(request.path_params["person"], self.sandbox.seed, "nightscout")
        except KeyError:
            return None

    def _is_allowed(self, request: Request, who: Person) -> bool:
        secret = request.headers.get("api-secret") or request.query_params.get("secret")
        if secret is not None:
            hashed = hashlib.sha1(who.api_secret.encode(), usedforsecurity=False).hexdigest()
            if secret.lower() == hashed:
                return True
        return self._has_token(request, who)

    def _has_token(self, request: Request, who: Person) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            claims = tokens.read(token, who.api_secret, self.sandbox.clock.now())
            return claims is not None and claims.get("accessToken") == who.access_token
        return request.query_params.get("token") == who.access_token

    def _authorize(
        self,
        endpoint: Callable[[Request, Person], Response],
        is_allowed: Callable[[Request, Person], bool],
    ) -> Endpoint:
        async def authorized(request: Request) -> Response:
            who = self._person(request)
            if who is None:
                return Response("no such site", 404, media_type="text/plain")
            if not is_allowed(request, who):
                return _unauthorized_v1()
            return endpoint(request, who)

        return authorized

    def _authorize_v3(self, endpoint: Callable[[Request, Person], Response]) -> Endpoint:
        async def authorized(request: Request) -> Response:
            who = self._person(request)
            if who is None:
                return Response("no such site", 404, media_type="text/plain")
            # v3 knows tokens only; the API secret opens v1.
            if not self._has_token(request, who):
                return _status(401, "Missing or bad access token or JWT")
            try:
                return endpoint(request, who)
            except _BadRequestError as error:
                return _status(400, str(error))

        return authorized

    def _guard(self, endpoint: Endpoint) -> Endpoint:
        return self.sandbox.guard(endpoint, self._identify, self._answer_fault)

    async def _identify(self, request: Request) -> str | None:
        return str(request.path_params["person"])

    async def _answer_fault(self, request: Request, fault: Fault) -> Response | None:
        if fault.fault == "401":
            is_v3 = "/api/v3/" in request.url.path
            return _status(401, "Bad access token or JWT") if is_v3 else _unauthorized_v1()
        return None


def _unauthorized_v1() -> Response:
    body = {"status": 401, "message": "Unauthorized", "description": "Invalid/Missing"}
    return json_answer(body, 401)


def _status(status: int, message: str | None = None) -> Response:
    body: Json = {"status": status}
    if message is not None:
        body["message"] = message
    return json_answer(body, status)


# Queries


def _sort_key(document: Json, field: str) -> tuple[int, float, str, int]:
    value = document.get(field)
    if isinstance(value, int | float):
        return (1, value, "", _date(document))
    return (0 if value is None else 2, 0.0, str(value), _date(document))


def _chunks(
    who: Person,
    collection: str,
    start: int,
    end: int,
    now: int,
    changed_since: int | None = None,
) -> Iterator[tuple[int, list[Json]]]:
    """Documents by date, a few days at a time, with the end of each stretch."""
    start = max(start, now - who.history_days * DAY)
    if collection == "profile":
        yield end, documents(who, collection, 0, end, now)
        return
    while start < end:
        until = min(start + 2 * DAY, end)
        yield until, documents(who, collection, start, until, now, changed_since)
        start = until


def _oldest_first(who: Person, collection: str, start: int, end: int, now: int) -> Iterator[Json]:
    for _, chunk in _chunks(who, collection, start, end, now):
        yield from chunk


def _newest_first(who: Person, collection: str, start: int, end: int, now: int) -> Iterator[Json]:
    start = max(start, now - who.history_days * DAY)
    if collection == "profile":
        yield from documents(who, collection, 0, end, now)
        return
    # The first stretch is short: most requests want the newest few.
    stretch = 3 * HOUR
    while end > start:
        since = max(end - stretch, start)
        yield from reversed(documents(who, collection, since, end, now))
        end = since
        stretch = 2 * DAY


def _find(items: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Conditions of v1's `find[field][$op]=value`; without an operator it is equality."""
    found = []
    for key, value in items:
        parts = re.fullmatch(r"find\[(\w+)\](?:\[(\$?\w+)\])?", key)
        if parts is not None:
            found.append((parts[1], parts[2] or "$eq", value))
    return found


def _v1_matches(document: Json, field: str, operator: str, value: str) -> bool:
    actual = document.get(field)
    if operator == "$exists":
        return (field in document) == (value != "false")
    if operator == "$regex":
        return isinstance(actual, str) and re.search(value, actual) is not None
    if actual is None:
        return operator == "$ne"
    if isinstance(actual, str):
        # dateString and created_at are text and compare as text.
        return _compare(operator.removeprefix("$"), actual, value)
    try:
        number = float(value)
    except ValueError:
        return operator == "$ne"
    return isinstance(actual, int | float) and _compare(operator.removeprefix("$"), actual, number)


def _conditions(items: Iterable[tuple[str, str]]) -> list[tuple[str, str, object]]:
    """Conditions of v3's `field$op=value`."""
    found: list[tuple[str, str, object]] = []
    for key, text in items:
        if key in _RESERVED:
            continue
        field, _, operator = key.rpartition("$")
        if not field:
            field, operator = key, "eq"
        if operator not in _OPERATORS:
            raise _BadRequestError(f"Unsupported filter operator {operator}")
        found.append((field, operator, _typed(field, text)))
    return found


def _typed(field: str, text: str) -> object:
    if field in ("date", "srvModified", "srvCreated"):
        return _milliseconds(text)
    if field == "created_at":
        return _iso(_milliseconds(text) // 1000)
    if text in ("true", "false"):
        return text == "true"
    if len(text) > 1 and text.startswith("'") and text.endswith("'"):
        return text[1:-1]
    try:
        return float(text)
    except ValueError:
        return text


def _v3_matches(document: Json, field: str, operator: str, value: object) -> bool:
    actual = document.get(field)
    if operator in ("in", "nin"):
        is_in = str(actual) in str(value).split("|")
        return is_in if operator == "in" else not is_in
    if operator == "re":
        return isinstance(actual, str) and re.search(str(value), actual) is not None
    if operator == "ne":
        return actual != value
    if isinstance(actual, str) and isinstance(value, str):
        return _compare(operator, actual, value)
    if isinstance(actual, int | float) and isinstance(value, int | float):
        return _compare(operator, actual, value)
    return False


def _compare(operator: str, actual: str | float, value: str | float) -> bool:
    if isinstance(actual, str) or isinstance(value, str):
        left, right = str(actual), str(value)
        return _ordered(operator, (left > right) - (left < right))
    return _ordered(operator, (actual > value) - (actual < value))


def _ordered(operator: str, order: int) -> bool:
    match operator:
        case "eq":
            return order == 0
        case "ne":
            return order != 0
        case "gt":
            return order > 0
        case "gte":
            return order >= 0
        case "lt":
            return order < 0
        case "lte":
            return order <= 0
    return False


def _outside(document: Json, fields: str | None) -> Json:
    """A document as v3 shows it: without `_id`, which stands in for a missing identifier."""
    shown = {key: value for key, value in document.items() if key != "_id"}
    shown.setdefault("identifier", document["_id"])
    if fields is None or fields == "_all":
        return shown
    wanted = fields.split(",")
    return {key: value for key, value in shown.items() if key in wanted}


def _since(request: Request) -> tuple[int, bool]:
    """Milliseconds history starts at, and whether that moment itself is left out."""
    given = request.path_params.get("since")
    if given is not None:
        return _milliseconds(given), True
    try:
        header = parsedate_to_datetime(request.headers["last-modified"])
    except (KeyError, ValueError):
        raise _BadRequestError("Bad or missing Last-Modified header/parameter") from None
    return people.epoch(header) * 1000, False


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(MAX_LIMIT))
    return _whole(text, 1, MAX_LIMIT, "Parameter limit out of tolerance")


def _whole(text: str, least: int, most: int | None, complaint: str) -> int:
    if not text.isdigit() or int(text) < least or (most is not None and int(text) > most):
        raise _BadRequestError(complaint)
    return int(text)


def _count(request: Request) -> int:
    text = request.query_params.get("count", "")
    return int(text) if text.isdigit() and int(text) > 0 else DEFAULT_COUNT


def _milliseconds(text: str) -> int:
    """Milliseconds of an epoch in seconds or milliseconds, or of an ISO date."""
    try:
        number = float(text)
    except ValueError:
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            raise _BadRequestError("Bad or missing Last-Modified header/parameter") from None
        return people.epoch(instant) * 1000
    return int(number if number > 1e11 else number * 1000)


def _integer(value: object) -> int:
    """A whole number, 0 for anything else (as a query of v1 matches nothing by it)."""
    if isinstance(value, int):
        return value
    text = str(value)
    return int(text) if text.lstrip("-").isdigit() else 0
