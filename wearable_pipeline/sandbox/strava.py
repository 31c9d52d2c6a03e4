"""Strava's API v3: activities of synthetic people, what was recorded in them, the app's subscription.

Every activity is a pure function of (seed, person, day) and of how much of it has happened at the sandbox's
clock: it appears when it has been uploaded, a quarter of them only the day after, every third gets another
title a day later, and everybody's kudos grow by the hour.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox._oauth_server import CLIENT_ID, CLIENT_SECRET, OAuthServer
from wearable_pipeline.sandbox.chance import number_of
from wearable_pipeline.sandbox.control import Sandbox, json_answer

LARGEST_PAGE = 200
HISTORY_DAYS = 120
ACCESS_SECONDS = 21_600
_DAY = timedelta(days=1)
_STEP = 10

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Athlete:
    """One synthetic person with an account; `standard` is how Strava words their zone."""

    name: str
    zone: str
    standard: str

    @property
    def account_id(self) -> int:
        """Number of the account at Strava."""
        return number_of(self.name, "account") % 100_000_000


PEOPLE = {
    one.name: one
    for one in (
        Athlete("mara", "Europe/Berlin", "(GMT+01:00) Europe/Berlin"),
        Athlete("nilo", "America/New_York", "(GMT-05:00) America/New_York"),
        Athlete("odil", "Asia/Kolkata", "(GMT+05:30) Asia/Kolkata"),
    )
}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/strava`."""
    return _Strava(sandbox).mount()


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True, slots=True)
class Outing:
    """What happened, and when it could be seen at Strava."""

    number: int
    sport: str
    start: datetime
    seconds: int
    uploaded_at: datetime
    is_renamed_later: bool
    pulse: int


_MORNING = ("Run", "Walk", "WeightTraining")
_EVENING = ("Run", "Ride", "Kiteboating")


def outings(seed: int, who: Athlete, day: date) -> Iterator[Outing]:
    """Two a day: one in the morning, entered by hand or uploaded late at times, one in the evening."""
    for part, hour in enumerate((6, 17)):
        random = Random(number_of(seed, who.name, day, part))  # noqa: S311 - synthetic people
        midnight = datetime(day.year, day.month, day.day, hour)  # noqa: DTZ001 - a wall clock
        start = midnight.replace(tzinfo=ZoneInfo(who.zone)).astimezone(UTC)
        start += timedelta(minutes=random.randrange(0, 50))
        seconds = 60 * random.randrange(15, 50)
        late = _DAY if part == 0 and random.randrange(2) == 0 else timedelta(minutes=5)
        yield Outing(
            number=number_of(who.name, day, part),
            sport=random.choice(_MORNING if part == 0 else _EVENING),
            start=start,
            seconds=seconds,
            uploaded_at=start + timedelta(seconds=seconds) + late,
            is_renamed_later=random.randrange(3) == 0,
            pulse=random.randrange(95, 140),
        )


def summary(who: Athlete, outing: Outing, now: datetime) -> Json:
    """What the listing says of it at `now`."""
    local = outing.start.astimezone(ZoneInfo(who.zone))
    ahead = local.utcoffset() or timedelta()
    is_renamed = outing.is_renamed_later and now >= outing.uploaded_at + _DAY
    is_manual = outing.sport == "WeightTraining"
    kudos = int((now - outing.uploaded_at).total_seconds() // 3600)
    told: Json = {
        "resource_state": 2,
        "athlete": {"id": who.account_id, "resource_state": 1},
        "name": f"{outing.sport}, renamed" if is_renamed else outing.sport,
        "distance": 0.0 if is_manual else round(outing.seconds * 2.75, 1),
        "moving_time": outing.seconds - 30,
        "elapsed_time": outing.seconds,
        "total_elevation_gain": 0 if is_manual else 42.5,
        "type": "Run" if outing.sport == "Run" else "Ride",
        "sport_type": outing.sport,
        "workout_type": None,
        "id": outing.number,
        "external_id": None if is_manual else "watch.fit",
        "start_date": _stamp(outing.start),
        "start_date_local": _stamp(local),
        "timezone": who.standard,
        "utc_offset": ahead.total_seconds(),
        "location_city": None,
        "location_state": None,
        "location_country": None,
        "kudos_count": kudos,
        "comment_count": 0,
        "map": {"id": f"a{outing.number}", "summary_polyline": "", "resource_state": 2},
        "manual": is_manual,
        "private": False,
        "start_latlng": [] if is_manual else [52.52, 13.405],
        "end_latlng": [] if is_manual else [52.53, 13.41],
        "average_speed": 0.0 if is_manual else 2.75,
        "max_speed": 0.0 if is_manual else 4.5,
        "has_heartrate": not is_manual,
    }
    if not is_manual:
        told |= {
            "average_heartrate": outing.pulse + 0.5,
            "max_heartrate": float(outing.pulse + 21),
            "elev_high": 61.5,
            "elev_low": 33.0,
            "average_cadence": 81.5,
        }
    return told


def detail(who: Athlete, outing: Outing, now: datetime) -> Json:
    """Everything told of it at `now`."""
    half = outing.seconds // 2
    laps = [
        {
            "id": outing.number * 10 + n,
            "resource_state": 2,
            "name": f"Lap {n + 1}",
            "elapsed_time": half,
            "moving_time": half - 15,
            "start_date": _stamp(outing.start + timedelta(seconds=half * n)),
            "distance": round(half * 2.75, 1),
            "average_speed": 2.75,
            "average_heartrate": outing.pulse + 0.5,
            "lap_index": n + 1,
        }
        for n in range(2)
    ]
    return {
        **summary(who, outing, now),
        "resource_state": 3,
        "calories": round(outing.seconds * 0.17, 1),
        "device_name": None if outing.sport == "WeightTraining" else "Example Watch 3",
        "laps": [] if outing.sport == "WeightTraining" else laps,
    }


def streams(outing: Outing) -> Json:
    """What was recorded, one point every ten seconds."""
    times = range(0, outing.seconds + 1, _STEP)
    values: dict[str, list[object]] = {
        "time": list(times),
        "distance": [round(2.75 * t, 1) for t in times],
        "latlng": [[52.52 + t / 1e6, 13.405] for t in times],
        "altitude": [33.0 + t % 290 / 10 for t in times],
        "heartrate": [outing.pulse + t // _STEP % 22 for t in times],
        "cadence": [80 + t // _STEP % 4 for t in times],
        "velocity_smooth": [2.75 for _ in times],
        "moving": [t > 0 for t in times],
    }
    return {
        name: {
            "data": data,
            "series_type": "distance",
            "original_size": len(data),
            "resolution": "high",
        }
        for name, data in values.items()
    }


# --- the service


class _Strava:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._oauth = OAuthServer(
            provider="strava",
            sandbox=sandbox,
            people=PEOPLE,
            authorize_path="/oauth/authorize",
            token_path="/oauth/token",  # noqa: S106 - an address
            access_seconds=ACCESS_SECONDS,
            more=self._more,
            refuse=_refused,
        )
        self._subscription: Json | None = None

    def mount(self) -> Mount:
        guard, let_in = self._oauth.guard, self._oauth.let_in
        routes = [
            *self._oauth.routes(),
            Route("/oauth/deauthorize", let_in(self._deauthorize), methods=["POST"]),
            Route("/api/v3/athlete", let_in(self._athlete)),
            Route("/api/v3/athlete/activities", let_in(self._listing)),
            Route("/api/v3/activities/{id:int}", let_in(self._activity)),
            Route("/api/v3/activities/{id:int}/streams", let_in(self._streams)),
            Route("/api/v3/push_subscriptions", guard(self._list_subscriptions)),
            Route("/api/v3/push_subscriptions", guard(self._subscribe), methods=["POST"]),
            Route("/api/v3/push_subscriptions/{id}", guard(self._unsubscribe), methods=["DELETE"]),
        ]
        return Mount("/strava", routes=routes)

    def _more(self, person: str) -> Json:
        return {
            "expires_at": self._sandbox.clock.now() + ACCESS_SECONDS,
            "athlete": {"id": PEOPLE[person].account_id, "resource_state": 2},
        }

    def _uploaded(self, who: Athlete) -> Iterator[Outing]:
        now = self._sandbox.clock.instant()
        first = now.date() - timedelta(days=HISTORY_DAYS)
        for n in range(HISTORY_DAYS + 2):
            for outing in outings(self._sandbox.seed, who, first + timedelta(days=n)):
                if outing.uploaded_at <= now:
                    yield outing

    async def _athlete(self, _: Request, who: Athlete) -> Response:
        return json_answer({"id": who.account_id, "resource_state": 2, "firstname": who.name})

    async def _listing(self, request: Request, who: Athlete) -> Response:
        asked = request.query_params
        try:
            after, before = int(asked.get("after", "0")), int(asked.get("before", "9999999999"))
            page, size = int(asked.get("page", "1")), int(asked.get("per_page", "30"))
        except ValueError:
            return _fault(400, "Bad Request")
        if not 1 <= size <= LARGEST_PAGE or page < 1:
            return _fault(400, "Bad Request")
        found = [
            summary(who, outing, self._sandbox.clock.instant())
            for outing in self._uploaded(who)
            if after < outing.start.timestamp() < before
        ]
        return json_answer(found[(page - 1) * size : page * size])

    def _find(self, request: Request, who: Athlete) -> Outing | None:
        number = request.path_params["id"]
        return next((one for one in self._uploaded(who) if one.number == number), None)

    async def _activity(self, request: Request, who: Athlete) -> Response:
        outing = self._find(request, who)
        if outing is None:
            return _fault(404, "Record Not Found")
        return json_answer(detail(who, outing, self._sandbox.clock.instant()))

    async def _streams(self, request: Request, who: Athlete) -> Response:
        outing = self._find(request, who)
        if outing is None or outing.sport == "WeightTraining":
            return _fault(404, "Resource Not Found")
        keys = request.query_params.get("keys", "").split(",")
        return json_answer({name: one for name, one in streams(outing).items() if name in keys})

    async def _deauthorize(self, request: Request, who: Athlete) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        self._oauth.forget(who.name)
        return json_answer({"access_token": form.get("access_token", "")})

    async def _list_subscriptions(self, request: Request) -> Response:
        if not _is_app(dict(request.query_params)):
            return _refused()
        return json_answer([self._subscription] if self._subscription else [])

    async def _subscribe(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        if not _is_app(form):
            return _refused()
        if self._subscription is not None:
            return _fault(400, "Bad Request")
        address, challenge = form.get("callback_url", ""), "15f7d1a91c1f40f8"
        async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
            answer = await client.get(
                address,
                params={
                    "hub.mode": "subscribe",
                    "hub.challenge": challenge,
                    "hub.verify_token": form.get("verify_token", ""),
                },
            )
        if answer.status_code != 200 or answer.json() != {"hub.challenge": challenge}:
            return _fault(400, "Bad Request")
        number = number_of(address)
        self._subscription = {"id": number, "application_id": 1, "callback_url": address}
        return json_answer({"id": number}, 201)

    async def _unsubscribe(self, request: Request) -> Response:
        if not _is_app(dict(request.query_params)):
            return _refused()
        self._subscription = None
        return Response(status_code=204)


def _is_app(given: dict[str, str]) -> bool:
    return (given.get("client_id"), given.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)


def _refused() -> Response:
    error = {"resource": "Athlete", "field": "access_token", "code": "invalid"}
    return json_answer({"message": "Authorization Error", "errors": [error]}, 401)


def _fault(status: int, message: str) -> Response:
    return json_answer({"message": message, "errors": []}, status)
