"""Withings' public API: scales, cuffs, watches and mats of synthetic people, in its own envelope.

Every answer is HTTP 200 with a `status` inside. Records are pure functions of (seed, person, day) and of
how much of the day has happened; some weighings and nights are corrected a day later, which only their
`modified` tells.
"""

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox._oauth_server import CLIENT_ID, CLIENT_SECRET, OAuthServer
from wearable_pipeline.sandbox.chance import random_of
from wearable_pipeline.sandbox.control import Endpoint, Fault, Sandbox, json_answer

PAGE = 25
HISTORY_DAYS = 120
_DAY = timedelta(days=1)
_FOR_EVER = 2_147_483_647

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Member:
    """One synthetic person with a Withings account."""

    name: str
    zone: str
    user_id: int


PEOPLE = {
    one.name: one
    for one in (
        Member("jana", "Europe/Paris", 40_000_001),
        Member("kofi", "America/New_York", 40_000_002),
        Member("lien", "Asia/Ho_Chi_Minh", 40_000_003),
    )
}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/withings`."""
    return _Withings(sandbox).mount()


def _id(*parts: object) -> int:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=5).digest()
    return int.from_bytes(digest) >> 4


def _device(who: Member, what: str) -> str:
    return hashlib.blake2b(f"{who.name}/{what}".encode(), digest_size=20).hexdigest()


def _second(who: Member, day: date, minutes: int) -> int:
    """Epoch second `minutes` after the midnight that begins the day, on the person's clock."""
    wall = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)  # noqa: DTZ001
    return int(wall.replace(tzinfo=ZoneInfo(who.zone)).timestamp())


# --- records of a day at the second `now`


def _group(
    who: Member, day: date, what: str, second: int, attrib: int, *measures: tuple[int, int, int]
) -> Json:
    device = _device(who, "cuff" if what == "pressure" else "scale") if attrib != 2 else None
    return {
        "grpid": _id(who.name, day, what),
        "attrib": attrib,
        "date": second,
        "created": second + 60,
        "modified": second + 60,
        "category": 1,
        "deviceid": device,
        "hash_deviceid": device,
        "measures": [
            {"value": value, "type": kind, "unit": unit, "algo": 0, "fm": 3}
            for kind, value, unit in measures
        ],
        "modelid": None if device is None else 45 if what == "pressure" else 13,
        "model": None if device is None else "BPM Connect" if what == "pressure" else "Body Smart",
        "comment": None,
    }


def measure_groups(seed: int, who: Member, day: date, now: int) -> list[Json]:
    """A weighing in three groups on two days of three, blood pressure every second evening."""
    random = random_of(seed, who.name, day, "measures")
    grams = 70_000 + random.randrange(-900, 900)
    morning, evening = _second(who, day, 430), _second(who, day, 1170)
    found: list[Json] = []
    if day.toordinal() % 3:
        weighing = _group(
            who,
            day,
            "weight",
            morning,
            0,
            (1, grams, -3),
            (5, 5_500 + random.randrange(50), -2),
            (6, 21_430, -3),
            (8, 1_480, -2),
            (76, 5_221, -2),
            (77, 3_890, -2),
            (88, 280, -2),
        )
        if day.toordinal() % 7 == 0 and now >= morning + 86_400:
            weighing["measures"] = [{"value": grams // 10 - 10, "type": 1, "unit": -2}]
            weighing["modified"] = morning + 86_400
        found += [
            weighing,
            _group(who, day, "pulse", morning, 0, (11, 62 + day.toordinal() % 9, 0)),
            _group(who, day, "vessels", morning, 8, (91, 6_900, -3), (155, 380, -1)),
        ]
    if day.toordinal() % 2:
        kinds = ((9, 78 + random.randrange(9), 0), (10, 12_100, -2), (11, 66, 0))
        found.append(_group(who, day, "pressure", evening, 0, *kinds))
    if day.toordinal() % 5 == 0:
        found.append(_group(who, day, "fever", evening, 0, (71, 3_671, -2), (54, 97, 0)))
    if day.toordinal() % 11 == 0:
        found.append(_group(who, day, "typed", evening, 2, (1, grams // 100, -1)))
    return [one for one in found if _as_second(one["created"]) <= now]


def activity(seed: int, who: Member, day: date, now: int) -> list[Json]:
    """A day's totals, which grow by the hour until it ends."""
    begin, end = _second(who, day, 0), _second(who, day, 1440)
    hours = (min(now, end) - begin) // 3600
    if hours < 8:
        return []
    random = random_of(seed, who.name, day, "activity")
    per_hour = random.randrange(200, 700)
    row: Json = {
        "steps": per_hour * (hours - 7),
        "distance": round(per_hour * (hours - 7) * 0.74, 3),
        "elevation": random.randrange(0, 12),
        "soft": 240 * (hours - 7),
        "moderate": 60 * (hours - 7),
        "intense": 0,
        "active": 60 * (hours - 7),
        "calories": round(per_hour * (hours - 7) * 0.04, 3),
        "totalcalories": round(hours * 66.5, 3),
        "deviceid": None,
        "hash_deviceid": _device(who, "watch"),
        "timezone": who.zone,
        "date": day.isoformat(),
        "modified": begin + 3600 * hours,
        "brand": 1,
        "modelid": 93,
        "model": "ScanWatch",
        "is_tracker": True,
    }
    if day.toordinal() % 4:
        row |= {"hr_average": 74, "hr_min": 51, "hr_max": 131, "hr_zone_0": 3600 * hours // 2}
        row |= {"hr_zone_1": 600, "hr_zone_2": 120, "hr_zone_3": 0}
    return [row]


def minutes(seed: int, who: Member, day: date, now: int) -> dict[int, Json]:
    """Steps and pulse every quarter of an hour from seven to ten."""
    random = random_of(seed, who.name, day, "minutes")
    found: dict[int, Json] = {}
    for quarter in range(28, 88):
        second = _second(who, day, 15 * quarter)
        one: Json = {"deviceid": _device(who, "watch"), "model": "ScanWatch", "model_id": 93}
        steps = random.randrange(0, 90)
        if quarter % 3:
            one |= {"steps": steps, "distance": round(steps * 0.74, 2), "elevation": 0}
            one |= {"calories": round(steps * 0.04, 2), "duration": 60}
        if quarter % 2:
            one["heart_rate"] = random.randrange(58, 120)
        if quarter == 40:
            one["spo2_auto"] = 97
        # The watch hands over what it has at every full hour.
        if second + 3600 - second % 3600 <= now:
            found[second] = one
    return found


def workout(seed: int, who: Member, day: date, now: int) -> list[Json]:
    """A run or a swim every third day; the swim's details are an empty list."""
    random = random_of(seed, who.name, day, "workout")
    start = _second(who, day, 1020)
    end = start + 60 * random.randrange(20, 70)
    if day.toordinal() % 3 or now < end:
        return []
    is_swim = day.toordinal() % 6 == 0
    data: object = (
        []
        if is_swim
        else {
            "calories": random.randrange(150, 500),
            "effduration": end - start - 60,
            "distance": 5_012,
            "steps": 6_200,
            "elevation": 2,
            "hr_average": 141,
            "hr_min": 95,
            "hr_max": 171,
            **{f"hr_zone_{number}": 300 * number for number in range(4)},
            "manual_distance": 0,
            "manual_calories": 0,
            "intensity": 50,
            "pause_duration": 0,
            "algo_pause_duration": None,
            "spo2_average": None,
        }
    )
    return [
        {
            "id": _id(who.name, day, "workout"),
            "category": 7 if is_swim else 2,
            "timezone": who.zone,
            "model": 93,
            "attrib": 7,
            "startdate": start,
            "enddate": end,
            "date": day.isoformat(),
            "deviceid": _device(who, "watch"),
            "data": data,
            "modified": end + 60,
        }
    ]


def _night(seed: int, who: Member, day: date) -> tuple[int, list[int]]:
    """Start and the states, one for five minutes each, of the night that ends on that day."""
    random = random_of(seed, who.name, day, "night")
    start = _second(who, day - _DAY, 1370 + random.randrange(0, 60))
    states = [0, 0, *(random.choice((1, 1, 1, 2, 2, 3)) for _ in range(random.randrange(70, 95)))]
    return start, [*states, 0]


def sleep_summary(seed: int, who: Member, day: date, now: int) -> list[Json]:
    """The night that ends on that day, there once the mat has handed it over."""
    start, states = _night(seed, who, day)
    end = start + 300 * len(states)
    seen_at = end + 1500
    if now < seen_at:
        return []
    is_corrected = day.toordinal() % 3 == 0 and now >= seen_at + 86_400
    seconds = {state: 300 * states.count(state) for state in range(4)}
    asleep = seconds[1] + seconds[2] + seconds[3]
    random = random_of(seed, who.name, day, "summary")
    return [
        {
            "id": _id(who.name, day, "sleep"),
            "timezone": who.zone,
            "model": 32,
            "model_id": 63,
            "hash_deviceid": _device(who, "mat"),
            "startdate": start,
            "enddate": end,
            "date": day.isoformat(),
            "data": {
                "wakeupduration": seconds[0],
                "wakeupcount": 1,
                "remsleepduration": seconds[3],
                "lightsleepduration": seconds[1],
                "deepsleepduration": seconds[2],
                "total_sleep_time": asleep,
                "total_timeinbed": end - start,
                "sleep_efficiency": round(asleep / (end - start), 2),
                "sleep_latency": 600,
                "wakeup_latency": 300,
                "waso": 0,
                "nb_rem_episodes": 3,
                "out_of_bed_count": 0,
                "hr_average": 58,
                "hr_min": 49,
                "hr_max": 77,
                "rr_average": 14,
                "rr_min": 11,
                "rr_max": 19,
                "breathing_disturbances_intensity": 9,
                "snoring": 0,
                "snoringepisodecount": 0,
                "sleep_score": random.randrange(60, 95) + (1 if is_corrected else 0),
                "apnea_hypopnea_index": 4,
            },
            "created": seen_at,
            "modified": seen_at + 86_400 if is_corrected else seen_at,
        }
    ]


def stages(seed: int, who: Member, day: date, now: int) -> list[Json]:
    """The course of a night, newest segment first: nobody promises an order."""
    if not sleep_summary(seed, who, day, now):
        return []
    start, states = _night(seed, who, day)
    return [
        {
            "startdate": start + 300 * number,
            "enddate": start + 300 * (number + 1),
            "state": state,
            "model": "Aura Sensor V2",
            "model_id": 63,
            "hash_deviceid": _device(who, "mat"),
            "hr": {str(start + 300 * number + 60 * n): 52 + (number + n) % 9 for n in (0, 2)},
            "rr": {str(start + 300 * number): 13 + number % 4},
            "snoring": {str(start + 300 * number): 1 if number == 12 else 0},
            "rmssd": [],
        }
        for number, state in reversed(list(enumerate(states)))
    ]


def _as_second(value: object) -> int:
    return value if isinstance(value, int) else 0


_Make = Callable[[int, Member, date, int], list[Json]]

# --- the service


def _envelope(body: object, status: int = 0, error: str | None = None) -> Response:
    told: Json = {"status": status, "body": body}
    return json_answer(told if error is None else {**told, "error": error})


def _wrap(answer: Mapping[str, object], status: int) -> Response:
    """A token answer as Withings gives it."""
    del status
    match answer.get("error"):
        case None:
            return _envelope(dict(answer))
        case "invalid_client":
            return _envelope({}, 503, "Invalid Params: invalid client_id/client_secret")
        case _:
            return _envelope({}, 503, "Invalid Params: invalid refresh_token")


async def _own_fault(request: Request, fault: Fault) -> Response | None:
    """Refusals in the envelope; what the network does is left to the sandbox."""
    del request
    match fault.fault:
        case "401":
            return _envelope({}, 401, "XRequestID: Not provided invalid_token")
        case "429":
            return _envelope({}, 601, "Too Many Request")
    return None


class _Withings:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._oauth = OAuthServer(
            provider="withings",
            sandbox=sandbox,
            people=PEOPLE,
            authorize_path="/oauth2_user/authorize2",
            token_path="/v2/oauth2",  # noqa: S106 - an address
            access_seconds=10_800,
            more=lambda name: {"userid": str(PEOPLE[name].user_id), "csrf_token": "0"},
            wrap=_wrap,
        )
        self._nonces: set[str] = set()
        self._subscriptions: dict[tuple[str, str, str], Json] = {}

    def mount(self) -> Mount:
        routes = self._oauth.routes()
        (token,) = [route for route in routes if route.path == "/v2/oauth2"]
        self._token: Endpoint = token.endpoint
        routes.remove(token)
        return Mount(
            "/withings",
            routes=[
                *routes,
                Route("/v2/oauth2", self._oauth2, methods=["POST"]),
                Route("/v2/signature", self._signature, methods=["POST"]),
                *(
                    Route(path, self._guarded(self._for_members(answer)), methods=["POST"])
                    for path, answer in (
                        ("/measure", self._measure),
                        ("/v2/measure", self._measure),
                        ("/v2/sleep", self._sleep),
                        ("/v2/user", self._user),
                        ("/notify", self._notify),
                    )
                ),
            ],
        )

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        return self._sandbox.guard(endpoint, self._oauth.identify, _own_fault)

    def _for_members(
        self, answer: Callable[[Member, Mapping[str, str]], Awaitable[Response]]
    ) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            name = self._oauth.person_of(request)
            if name is None:
                return _envelope({}, 401, "XRequestID: Not provided invalid_token")
            try:
                return await answer(PEOPLE[name], await _form(request))
            except (KeyError, ValueError):
                return _envelope({}, 503, "Invalid Params")

        return endpoint

    def _now(self) -> int:
        return self._sandbox.clock.now()

    # --- tokens

    async def _oauth2(self, request: Request) -> Response:
        form = await _form(request)
        match form.get("action"):
            case "requesttoken":
                return await self._token(request)
            case "revoke":
                nonce = form.get("nonce", "")
                is_good = nonce in self._nonces and _is_signed(form, "revoke", nonce)
                self._nonces.discard(nonce)
                if not is_good:
                    return _envelope({}, 503, "Invalid Params: invalid signature")
                for who in PEOPLE.values():
                    if str(who.user_id) == form.get("userid"):
                        self._oauth.forget(who.name)
                        for key in [key for key in self._subscriptions if key[0] == who.name]:
                            del self._subscriptions[key]
                return _envelope({})
        return _envelope({}, 2554, "Not implemented")

    async def _signature(self, request: Request) -> Response:
        form = await _form(request)
        if not _is_signed(form, "getnonce", form.get("timestamp", "")):
            return _envelope({}, 503, "Invalid Params: invalid signature")
        nonce = secrets.token_hex(16)
        self._nonces.add(nonce)
        return _envelope({"nonce": nonce})

    # --- data

    async def _measure(self, who: Member, form: Mapping[str, str]) -> Response:
        match form.get("action"):
            case "getmeas":
                found = self._modified_or_at(who, form, measure_groups)
                return self._page(form, "measuregrps", found, timezone=who.zone)
            case "getactivity":
                return self._page(form, "activities", self._modified_or_of(who, form, activity))
            case "getworkouts":
                return self._page(form, "series", self._modified_or_of(who, form, workout))
            case "getintradayactivity":
                start, end = _span(form)
                series = {
                    str(second): one
                    for day in self._days(start, end)
                    for second, one in minutes(self._sandbox.seed, who, day, self._now()).items()
                    if start <= second < min(end, start + 86_400)
                }
                # An empty object is an empty list to PHP.
                return _envelope({"series": series or []})
        return _envelope({}, 2554, "Not implemented")

    async def _sleep(self, who: Member, form: Mapping[str, str]) -> Response:
        match form.get("action"):
            case "getsummary":
                found = self._modified_or_of(who, form, sleep_summary)
                return self._page(form, "series", found)
            case "get":
                start, end = _span(form)
                segments = [
                    one
                    for day in self._days(start, end)
                    for one in stages(self._sandbox.seed, who, day, self._now())
                    if start <= _as_second(one["startdate"]) < min(end, start + 86_400)
                ]
                return _envelope({"series": segments, "model": 32})
        return _envelope({}, 2554, "Not implemented")

    async def _user(self, who: Member, form: Mapping[str, str]) -> Response:
        if form.get("action") != "getdevice":
            return _envelope({}, 2554, "Not implemented")
        devices = [
            {
                "type": kind,
                "battery": "high",
                "model": model,
                "timezone": who.zone,
                "deviceid": _device(who, what),
                "hash_deviceid": _device(who, what),
                "first_session_date": None,
                "last_session_date": self._now(),
            }
            for kind, model, what in (
                ("Scale", "Body Smart", "scale"),
                ("Sleep Monitor", "Aura Sensor V2", "mat"),
            )
        ]
        return _envelope({"devices": devices})

    def _days(self, start: int, end: int) -> list[date]:
        first = datetime.fromtimestamp(start, UTC).date() - _DAY
        last = datetime.fromtimestamp(end, UTC).date() + _DAY
        return [first + timedelta(days=number) for number in range((last - first).days + 1)]

    def _history(self) -> list[date]:
        return self._days(self._now() - 86_400 * HISTORY_DAYS, self._now())

    def _modified(self, who: Member, make: _Make, since: int) -> list[Json]:
        made = (one for day in self._history() for one in self._make(who, make, day))
        return [one for one in made if _as_second(one["modified"]) > since]

    def _make(self, who: Member, make: _Make, day: date) -> list[Json]:
        return make(self._sandbox.seed, who, day, self._now())

    def _modified_or_of(self, who: Member, form: Mapping[str, str], make: _Make) -> list[Json]:
        if "lastupdate" in form:
            return self._modified(who, make, int(form["lastupdate"]))
        start = max(date.fromisoformat(form["startdateymd"]), self._history()[0])
        end = date.fromisoformat(form["enddateymd"])
        days = (start + timedelta(days=number) for number in range((end - start).days + 1))
        return [one for day in days for one in self._make(who, make, day)]

    def _modified_or_at(self, who: Member, form: Mapping[str, str], make: _Make) -> list[Json]:
        if "lastupdate" in form:
            return self._modified(who, make, int(form["lastupdate"]))
        start, end = _span(form)
        start = max(start, self._now() - 86_400 * HISTORY_DAYS)
        made = (one for day in self._days(start, end) for one in self._make(who, make, day))
        return [one for one in made if start <= _as_second(one["date"]) <= end]

    def _page(
        self, form: Mapping[str, str], key: str, found: list[Json], **more: object
    ) -> Response:
        skip = int(form.get("offset", "0"))
        following: Json = {"more": False, "offset": 0}
        if len(found) > skip + PAGE:
            following = {"more": True, "offset": skip + PAGE}
        return _envelope({**more, key: found[skip : skip + PAGE], **following})

    # --- subscriptions

    async def _notify(self, who: Member, form: Mapping[str, str]) -> Response:
        key = (who.name, form.get("callbackurl", ""), form.get("appli", ""))
        match form.get("action"):
            case "subscribe":
                if not await _is_there(key[1]):
                    return _envelope({}, 293, "Invalid Params: callback URL")
                self._subscriptions[key] = {
                    "appli": int(key[2]),
                    "callbackurl": key[1],
                    "expires": _FOR_EVER,
                    "comment": form.get("comment", ""),
                }
                return _envelope({})
            case "list":
                mine = [one for at, one in self._subscriptions.items() if at[0] == who.name]
                return _envelope({"profiles": mine})
            case "revoke":
                if self._subscriptions.pop(key, None) is None:
                    return _envelope({}, 294, "No such subscription could be deleted")
                return _envelope({})
        return _envelope({}, 2554, "Not implemented")


async def _is_there(callback_url: str) -> bool:
    async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
        try:
            return (await client.head(callback_url)).status_code == 200
        except (httpx.HTTPError, httpx.InvalidURL):
            return False


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace")))


def _span(form: Mapping[str, str]) -> tuple[int, int]:
    return int(form["startdate"]), int(form["enddate"])


def _is_signed(form: Mapping[str, str], action: str, fresh: str) -> bool:
    message = f"{action},{CLIENT_ID},{fresh}".encode()
    expected = hmac.digest(CLIENT_SECRET.encode(), message, "sha256").hex()
    return form.get("client_id") == CLIENT_ID and hmac.compare_digest(
        form.get("signature", "").encode(), expected.encode()
    )
