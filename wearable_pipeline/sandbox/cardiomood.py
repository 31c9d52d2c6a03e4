"""Corsano's cloud: bracelets of synthetic people, their days and minutes.

The shapes of answers are those of the vendor's data models, not of answers anybody has seen; metrics of
which nobody knows more have a time and a value. Documents are pure functions of (seed, person, instant)
and of what the phone has handed over at the sandbox's clock: of the last hours there is nothing yet.
`POST /cardiomood/control/sessions` with `{"person", "action"}` does what happens there: `expire` ends
tokens, `change_password` makes logins with the old one fail, `reset` undoes that.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox._sessions import EmailAccount, Sessions
from wearable_pipeline.sandbox.chance import number_of
from wearable_pipeline.sandbox.control import Endpoint, Sandbox, json_answer

HISTORY_DAYS = 120
TOKEN_SECONDS = 3_600
LONGEST_QUERY = timedelta(days=1)
_DAY = timedelta(days=1)
_STEP = timedelta(minutes=10)
_OTHERS = ("rr-interval", "sleep", "temperature", "heart-rate-variability")

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Wearer(EmailAccount):
    """One synthetic person with a bracelet, and how late its phone hands over what it measured."""

    zone: str
    delay: timedelta


PEOPLE = {
    one.name: one
    for one in (
        Wearer("nils", "Europe/Zurich", timedelta(minutes=20)),
        Wearer("olga", "America/Toronto", timedelta(hours=26)),
    )
}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/cardiomood`: its users' API and its health API side by side."""
    return _Corsano(sandbox, Sessions(sandbox.clock, TOKEN_SECONDS)).mount()


def minutes(
    seed: int, who: Wearer, start: datetime, end: datetime, now: datetime
) -> Iterator[tuple[datetime, Json]]:
    """What the bracelet measured in [start, end) and the phone has handed over."""
    seconds = int(_STEP.total_seconds())
    number = -(-int(start.timestamp()) // seconds)
    while (at := datetime.fromtimestamp(number * seconds, UTC)) < min(end, now - who.delay):
        number += 1
        local = at.astimezone(ZoneInfo(who.zone))
        key = number_of(seed, who.name, number)
        # Taken off now and then.
        if key % 23 == 0:
            continue
        asleep = local.hour < 7
        yield (
            at,
            {
                "timestamp": int(at.timestamp() * 1000),
                "date": local.isoformat(timespec="milliseconds"),
                "bpm": 0 if key % 19 == 0 else 52 + key % 8 + (0 if asleep else 20),
                "bpm_q": 0 if key % 19 == 0 else 4,
                "last_steps": 0 if asleep else key % 400,
                "activity_type": 7 if asleep else 2,
                "spo2": 94 + key % 6 if key % 3 == 0 else 0,
                "battery": 100 - number % 90,
            },
        )


def summary(seed: int, who: Wearer, day: date, now: datetime, *, with_slots: bool) -> Json | None:
    """The person's day as far as it has been handed over."""
    zone = ZoneInfo(who.zone)
    start = datetime(day.year, day.month, day.day, tzinfo=zone)
    found = [one for _, one in minutes(seed, who, start, start + _DAY, now)]
    if not found:
        return None
    rates = [int(str(one["bpm"])) for one in found if one["bpm"]]
    steps = [int(str(one["last_steps"])) for one in found]
    activity: Json = {
        "date": day.isoformat(),
        "total_steps": sum(steps),
        "daily_percent": sum(steps) // 100,
        "distance": sum(steps) * 0.7,
        "calories": 1500 + sum(steps) // 20,
        "workouts": 0,
        "active_minutes": sum(10 for one in steps if one > 200),
        "move_every_hour": 8,
    }
    if with_slots:
        activity["slots"] = [
            {"timestamp": one["timestamp"], "date": "00:00", "step_count": one["last_steps"]}
            for one in found[::6]
        ]
    return {
        "date": day.isoformat(),
        "activity": activity,
        "heart_rate": {
            "date": day.isoformat(),
            "avg_daily_heart_rate": round(sum(rates) / len(rates)),
            "max_daily_heart_rate": max(rates),
            "rest_daily_heart_rate": min(rates),
        },
    }


# --- the service


@dataclass(slots=True)
class _Corsano:
    sandbox: Sandbox
    sessions: Sessions
    users: dict[str, str] = field(default_factory=dict)

    def mount(self) -> Mount:
        def guarded(endpoint: Endpoint) -> Endpoint:
            return self.sandbox.guard(endpoint, self._identify)

        return Mount(
            "/cardiomood",
            routes=[
                self.sessions.route(),
                Route("/users/login", guarded(self._login), methods=["POST"]),
                Route("/health/login", guarded(self._exchange), methods=["POST"]),
                Route("/health/user-summaries", guarded(self._summaries)),
                Route("/health/v2/raw-metrics/{metric}", guarded(self._metrics)),
            ],
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.sandbox.clock.exact(), UTC)

    async def _identify(self, request: Request) -> str | None:
        token = request.headers.get("authorization", "").partition(" ")[2]
        return self.sessions.owner_of(token)

    def _wearer(self, request: Request) -> Wearer | None:
        token = request.headers.get("authorization", "").partition(" ")[2]
        name = self.sessions.person_of(token)
        return PEOPLE[name] if name else None

    async def _login(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=dict[str, str])
        who = next((one for one in PEOPLE.values() if one.email == asked.get("email")), None)
        if who is None or not self.sessions.opens(who.name, asked.get("password", "")):
            return json_answer({"message": "The given data was invalid.", "errors": {}}, 422)
        token = uuid.uuid4().hex
        self.users[token] = who.name
        return json_answer({"token": token})

    async def _exchange(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=dict[str, str])
        name = self.users.pop(asked.get("user_api_token", ""), None)
        if name is None:
            return _refused()
        return json_answer({"token": self.sessions.begin(name)})

    async def _summaries(self, request: Request) -> Response:
        who = self._wearer(request)
        if who is None:
            return _refused()
        asked, now = request.query_params, self._now()
        try:
            first, last = (date.fromisoformat(asked[one]) for one in ("date_from", "date_to"))
            size, page = int(asked.get("per_page", 10)), int(asked.get("page", 1))
        except (KeyError, ValueError):
            return json_answer({"error": "date_from and date_to are dates"}, 422)
        first = max(first, (now - HISTORY_DAYS * _DAY).date())
        days = [first + n * _DAY for n in range((min(last, (now + _DAY).date()) - first).days + 1)]
        with_slots = asked.get("include_slots") == "1"
        found = [
            one
            for day in days
            if (one := summary(self.sandbox.seed, who, day, now, with_slots=with_slots))
        ]
        part = found[(page - 1) * size : page * size]
        return json_answer({"data": part, "current_page": page, "total": len(found)})

    async def _metrics(self, request: Request) -> Response:
        who = self._wearer(request)
        if who is None:
            return _refused()
        metric, now = request.path_params["metric"], self._now()
        if metric != "activity" and metric not in _OTHERS:
            return json_answer({"error": "no such metric"}, 404)
        try:
            start, end = (
                datetime.fromisoformat(request.query_params[one])
                for one in ("from_date", "to_date")
            )
        except (KeyError, ValueError):
            return json_answer({"error": "from_date and to_date are times"}, 400)
        if start.tzinfo is None or end.tzinfo is None or end - start > LONGEST_QUERY:
            return json_answer({"error": "more than a day, or no time zone"}, 400)
        start = max(start, now - HISTORY_DAYS * _DAY)
        found = [one for _, one in minutes(self.sandbox.seed, who, start, end, now)]
        if metric != "activity":
            found = [
                {"timestamp": one["timestamp"], "date": one["date"], "value": one["battery"]}
                for one in found[::6]
            ]
        return json_answer(found)


def _refused() -> Response:
    return json_answer({"error": "Unauthenticated."}, 401)
