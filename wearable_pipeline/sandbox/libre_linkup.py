"""LibreLinkUp v4 as the phone app sees it: login by region, connections, graph, logbook.

One server plays every region: the region is the first part of the path, `global` for the host
without one. Shapes follow what public clients of the service parse.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from functools import lru_cache

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox import people, tokens
from wearable_pipeline.sandbox.control import Endpoint, Fault, Sandbox, json_answer
from wearable_pipeline.sandbox.people import Account, OutOfRange, Person

REGIONS = ("ae", "ap", "au", "ca", "de", "eu", "eu2", "fr", "jp", "la", "us", "ru", "cn", "global")
PRODUCTS = frozenset(("llu.android", "llu.ios"))
OLDEST_VERSION = (4, 16, 0)
TICKET_SECONDS = 180 * people.DAY
STEP_TICKET_SECONDS = people.HOUR
FAILURES, FAILURE_INTERVAL, LOCKOUT = 3, 60, 300

_SIGNING_KEY = "fake-signing-key-of-the-libre-sandbox"
_DTID = {"libre2": 40067, "libre3": 40068}
_PT = {"libre2": 3, "libre3": 4}
_ENROLLED_AT = 1_700_000_000
_TARGET_LOW, _TARGET_HIGH = 70, 180

Json = dict[str, object]


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/libre/{region}`."""
    return _LibreLinkUp(sandbox).mount()


class _Login(msgspec.Struct):
    email: str
    password: str


class _LibreLinkUp:
    """The endpoints; `answer…` methods give the `data` of an authorized request, or None."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def mount(self) -> Mount:
        authorized: tuple[tuple[str, Callable[[Request, Account], object]], ...] = (
            ("/user", self.answer_user),
            ("/account", self.answer_user),
            ("/llu/connections", self.answer_connections),
            ("/llu/connections/{patient_id}/graph", self.answer_graph),
            ("/llu/connections/{patient_id}/logbook", self.answer_logbook),
            ("/llu/notifications/settings/{connection_id}", self.answer_settings),
        )
        routes = [
            Route("/llu/auth/login", self._guard(self.login), methods=["POST"]),
            Route("/llu/config/country", self._guard(self.country), methods=["GET"]),
        ]
        routes += [
            Route(path, self._guard(self._authorize(answer)), methods=["GET"])
            for path, answer in authorized
        ]
        return Mount("/libre/{region}", routes=routes)

    async def login(self, request: Request) -> Response:
        refusal = _refuse_client(request)
        if refusal is not None:
            return refusal
        now = self.sandbox.clock.now()
        try:
            asked = msgspec.json.decode(await request.body(), type=_Login)
        except msgspec.DecodeError:
            return json_answer({"status": 1, "error": {"message": "badRequest"}}, 400)
        if now < self.sandbox.locked_until.get(asked.email, 0):
            return json_answer(_LOCKED)
        try:
            account = people.account(asked.email, self.sandbox.seed)
        except KeyError:
            return self._fail_login(asked.email, now)
        if asked.password != account.password:
            return self._fail_login(asked.email, now)
        if request.path_params["region"] != account.region:
            return _redirect_to(account.region)
        self.sandbox.failed_logins.pop(asked.email, None)
        match account.login:
            case "maintenance":
                return json_answer({"status": 911})
            case "tou" | "pp" | "verifyEmail":
                return json_answer(_pending_step(account, now))
            case "ok":
                return json_answer(_logged_in(account, now))

    async def country(self, request: Request) -> Response:
        refusal = _refuse_client(request)
        if refusal is not None:
            return refusal
        base = str(request.base_url).rstrip("/")
        regions = {
            region: {"lslApi": f"{base}/libre/{region}", "socketHub": ""}
            for region in REGIONS
            if region != "global"
        }
        return json_answer({"status": 0, "data": {"regionalMap": regions}})

    def answer_user(self, _: Request, account: Account) -> object:
        return {"user": _user(account, self.sandbox.clock.now())}

    def answer_connections(self, _: Request, account: Account) -> object:
        now = self.sandbox.clock.now()
        return [connection(who, now) for who in account.people()]

    def answer_graph(self, request: Request, account: Account) -> object:
        who = _followed(account, request.path_params["patient_id"])
        return None if who is None else graph(who, self.sandbox.clock.now())

    def answer_logbook(self, request: Request, account: Account) -> object:
        who = _followed(account, request.path_params["patient_id"])
        return None if who is None else logbook(who, self.sandbox.clock.now())

    def answer_settings(self, request: Request, account: Account) -> object:
        wanted = request.path_params["connection_id"]
        for who in account.people():
            if who.connection_id == wanted:
                return {
                    "connectionId": wanted,
                    "alarmRules": _alarm_rules(),
                    "std": {},
                    "patientDevice": _patient_device(who),
                }
        return None

    def _authorize(self, answer: Callable[[Request, Account], object]) -> Endpoint:
        async def authorized(request: Request) -> Response:
            refusal = _refuse_client(request)
            if refusal is not None:
                return refusal
            now = self.sandbox.clock.now()
            name = _bearer_name(request, now)
            if name is None:
                return json_answer({"message": "invalid or expired jwt"}, 401)
            account = people.account(name, self.sandbox.seed)
            account_id = request.headers.get("account-id")
            if not account_id:
                return json_answer({"message": "RequiredHeaderMissing"}, 400)
            if account_id.lower() != hashlib.sha256(account.user_id.encode()).hexdigest():
                return json_answer({"message": "invalid or expired jwt"}, 401)
            if request.path_params["region"] != account.region:
                return json_answer(_COULD_NOT_LOAD)
            data = answer(request, account)
            if data is None:
                return json_answer(_COULD_NOT_LOAD)
            return json_answer(
                {"status": 0, "data": data, "ticket": _ticket(account, now, TICKET_SECONDS)}
            )

        return authorized

    def _guard(self, endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            if request.path_params["region"] not in REGIONS:
                return Response("no such host", 404, media_type="text/plain")
            return await endpoint(request)

        return self.sandbox.guard(checked, self._identify, self._answer_fault)

    async def _identify(self, request: Request) -> str | None:
        if request.method == "POST":
            try:
                asked = msgspec.json.decode(await request.body(), type=_Login)
            except msgspec.DecodeError:
                return None
            return asked.email.partition("@")[0]
        email = _bearer_name(request, 0)
        return None if email is None else email.partition("@")[0]

    async def _answer_fault(self, request: Request, fault: Fault) -> Response | None:
        is_login = request.url.path.endswith("/login")
        match fault.fault:
            case "lockout":
                return json_answer(_LOCKED)
            case "maintenance":
                return json_answer({"status": 911})
            case "wrong_region" if not is_login:
                return json_answer(_COULD_NOT_LOAD)
            case "wrong_region" | "redirect_loop" if is_login:
                here = request.path_params["region"]
                return _redirect_to("eu2" if here != "eu2" else "eu")
        return None

    def _fail_login(self, email: str, now: int) -> Response:
        failures = self.sandbox.failed_logins.setdefault(email, deque(maxlen=FAILURES))
        failures.append(now)
        if len(failures) == FAILURES and now - failures[0] < FAILURE_INTERVAL:
            self.sandbox.locked_until[email] = now + LOCKOUT
            failures.clear()
        return json_answer({"status": 2, "error": {"message": "notAuthenticated"}})


def connection(who: Person, now: int) -> Json:
    """One followed person with the newest one-minute reading."""
    at = people.current(who, now)
    measurement: Json | None = None
    item: Json | None = None
    if at is not None:
        value, out_of_range = people.measured(who, at)
        measurement = _with_arrow(_point(who, at, value, out_of_range, 1), trend_arrow(who, at))
        # The service's `glucoseItem` has been seen with another arrow for the same reading.
        item = measurement | {"TrendArrow": 3}
    return {
        "id": who.connection_id,
        "patientId": who.patient_id,
        "country": who.country,
        "status": 2,
        "firstName": "Sandbox",
        "lastName": who.last_name,
        "targetLow": _TARGET_LOW,
        "targetHigh": _TARGET_HIGH,
        "uom": who.uom,
        "sensor": _sensor(who, now, ""),
        "alarmRules": _alarm_rules(),
        "glucoseMeasurement": measurement,
        "glucoseItem": item,
        "glucoseAlarm": None,
        "patientDevice": _patient_device(who),
        "created": _ENROLLED_AT,
    }


def graph(who: Person, now: int) -> Json:
    """The connection, the sensors of the last twelve hours and their stored readings."""
    sensors = sorted(
        {people.sensor_started_at(who, at): at for at in (now - people.GRAPH_WINDOW, now)}.items(),
        reverse=True,
    )
    return {
        "connection": connection(who, now),
        "activeSensors": [
            {"sensor": _sensor(who, at, who.device_id), "device": _patient_device(who)}
            for _, at in sensors
        ],
        "graphData": [
            _point(who, reading.at, reading.value(now), reading.out_of_range, 0)
            for reading in people.graph(who, now)
        ],
    }


def logbook(who: Person, now: int) -> list[Json]:
    """Scans (Libre 2 only) and alarms of the last 14 days, newest first."""
    start, end = now - people.LOGBOOK_WINDOW, now + 1
    found: list[tuple[int, Json]] = []
    if who.device == "libre2":
        for at in people.scans(who, start, end):
            point = _point(who, at, *people.measured(who, at), 1)
            found.append((at, _with_arrow(point, trend_arrow(who, at))))
    for at, kind in people.alarms(who, start, end):
        point = _point(who, at, *people.measured(who, at), 3)
        found.append((at, _with_arrow(point, trend_arrow(who, at)) | {"alarmType": kind}))
    found.sort(key=lambda entry: entry[0], reverse=True)
    return [entry for _, entry in found]


def trend_arrow(who: Person, at: int) -> int:
    """LibreLinkUp's arrow: 1 falling fast … 3 steady … 5 rising fast."""
    rate = people.change_per_minute(who, at)
    if rate < -2:
        return 1
    if rate < -1:
        return 2
    if rate <= 1:
        return 3
    return 4 if rate <= 2 else 5


def factory_timestamp(at: int) -> str:
    """`M/D/YYYY h:mm:ss AM/PM` of an epoch second, without a zone as the service writes it."""
    day, second = divmod(at, people.DAY)
    hour, second = divmod(second, people.HOUR)
    minute, second = divmod(second, 60)
    half = "AM" if hour < 12 else "PM"
    return f"{_us_date(day)} {hour % 12 or 12}:{minute:02}:{second:02} {half}"


@lru_cache(maxsize=4096)
def _us_date(day: int) -> str:
    date = people.moment(day * people.DAY)
    return f"{date.month}/{date.day}/{date.year}"


def _point(who: Person, at: int, value: int, out_of_range: OutOfRange | None, kind: int) -> Json:
    return {
        "FactoryTimestamp": factory_timestamp(at),
        "Timestamp": factory_timestamp(at + people.offset_at(who, at)),
        "type": kind,
        "ValueInMgPerDl": value,
        "MeasurementColor": _color(value),
        "GlucoseUnits": who.uom,
        "Value": people.display(value, who.uom),
        "isHigh": out_of_range == "high",
        "isLow": out_of_range == "low",
    }


def _with_arrow(point: Json, arrow: int) -> Json:
    return point | {"TrendArrow": arrow, "TrendMessage": None}


def _color(value: int) -> int:
    if value < _TARGET_LOW:
        return 4
    if value <= _TARGET_HIGH:
        return 1
    return 2 if value <= 250 else 3


def _sensor(who: Person, at: int, device_id: str) -> Json:
    return {
        "deviceId": device_id,
        "sn": people.sensor_serial(who, at),
        "a": people.sensor_started_at(who, at),
        "w": people.WARM_UP // 60,
        "pt": _PT[who.device],
        "s": False,
        "lj": False,
    }


def _patient_device(who: Person) -> Json:
    return {
        "did": who.device_id,
        "dtid": _DTID[who.device],
        "v": "3.6.1",
        "l": True,
        "ll": 70,
        "h": True,
        "hl": 250,
        "u": _ENROLLED_AT,
        "fixedLowAlarmValues": {"mgdl": 60, "mmoll": 3.3},
        "alarms": False,
        "fixedLowThreshold": 0,
    }


def _alarm_rules() -> Json:
    return {
        "c": True,
        "h": {"on": True, "th": 250, "thmm": 13.9, "d": 1440, "f": 0.1},
        "f": {"th": 55, "thmm": 3, "d": 30, "tl": 10, "tlmm": 0.6},
        "l": {"on": True, "th": 70, "thmm": 3.9, "d": 1440, "tl": 10, "tlmm": 0.6},
        "nd": {"i": 20, "r": 5, "l": 6},
        "p": 5,
        "r": 5,
        "std": {},
    }


_COULD_NOT_LOAD: Json = {"status": 4, "error": {"message": "couldNotLoadPatient"}}
_LOCKED: Json = {
    "status": 429,
    "data": {
        "code": 60,
        "data": {"failures": FAILURES, "interval": FAILURE_INTERVAL, "lockout": LOCKOUT},
        "message": "locked",
    },
}


def _refuse_client(request: Request) -> Response | None:
    if request.headers.get("product") not in PRODUCTS:
        return json_answer({"message": "RequiredHeaderMissing"}, 400)
    parts = request.headers.get("version", "").split(".")
    version = tuple(int(part) for part in parts if part.isdigit())
    if len(version) != len(parts) or version < OLDEST_VERSION:
        return json_answer({"status": 920, "data": {"minimumVersion": "4.16.0"}}, 403)
    return None


def _redirect_to(region: str) -> Response:
    return json_answer({"status": 0, "data": {"redirect": True, "region": region}})


def _bearer_name(request: Request, now: int) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    claims = tokens.read(token, _SIGNING_KEY, now)
    return None if claims is None else str(claims["email"])


def _ticket(account: Account, now: int, seconds: int) -> Json:
    claims: Json = {
        "id": account.user_id,
        "email": account.email,
        "region": account.region,
        "role": "patient",
        "iat": now,
        "exp": now + seconds,
    }
    return {
        "token": tokens.sign(claims, _SIGNING_KEY),
        "expires": now + seconds,
        "duration": seconds * 1000,
    }


def _logged_in(account: Account, now: int) -> Json:
    return {
        "status": 0,
        "data": {
            "user": _user(account, now),
            "messages": {"unread": 0},
            "notifications": {"unresolved": 0},
            "authTicket": _ticket(account, now, TICKET_SECONDS),
            "invitations": None,
            "trustedDeviceToken": "",
        },
    }


def _pending_step(account: Account, now: int) -> Json:
    ticket = _ticket(account, now, STEP_TICKET_SECONDS)
    # A ticket for a pending step opens nothing but the step.
    ticket["token"] = tokens.sign({"id": account.user_id, "exp": 0}, _SIGNING_KEY)
    return {
        "status": 4,
        "data": {
            "step": {
                "type": account.login,
                "componentName": "AcceptDocument",
                "props": {
                    "reaccept": True,
                    "titleKey": "Common.privacyPolicy"
                    if account.login == "pp"
                    else "Common.termsOfUse",
                    "type": account.login,
                },
            },
            "user": {
                "accountType": "pat",
                "country": account.country,
                "uiLanguage": "en-GB",
            },
            "authTicket": ticket,
        },
    }


def _user(account: Account, now: int) -> Json:
    return {
        "id": account.user_id,
        "firstName": "Sandbox",
        "lastName": f"Follower {account.name}",
        "email": account.email,
        "country": account.country,
        "uiLanguage": "en-GB",
        "communicationLanguage": "en-GB",
        "accountType": "pat",
        "uom": "1",
        "dateFormat": "2",
        "timeFormat": "2",
        "emailDay": [1],
        "system": {"messages": {"firstUsePhoenix": _ENROLLED_AT}},
        "details": {},
        "twoFactor": {
            "primaryMethod": "",
            "primaryValue": "",
            "secondaryMethod": "",
            "secondaryValue": "",
        },
        "created": _ENROLLED_AT,
        "lastLogin": now,
        "programs": {},
        "dateOfBirth": 0,
        "practices": {},
        "devices": {},
        "consents": {
            "realWorldEvidence": {"policyAccept": _ENROLLED_AT, "touAccept": 0, "history": []}
        },
    }


def _followed(account: Account, patient_id: str) -> Person | None:
    for who in account.people():
        if who.patient_id == patient_id:
            return who
    return None
