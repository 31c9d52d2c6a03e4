"""MyMojoHealth: what synthetic people measured with their Keto-Mojo meters.

Readings are pure functions of (seed, person, instant) and of what the person's phone has fetched from the
meter at the sandbox's clock. Notes are added a day later. A list is cut off after `page_size` readings,
and a token that has ended is answered with 403.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox._oauth_server import OAuthServer
from wearable_pipeline.sandbox.chance import instant_at, number_of
from wearable_pipeline.sandbox.control import Sandbox, json_answer

HISTORY_DAYS = 120
_DAY = timedelta(days=1)
_GLUCOSE_FACTOR = 18
_LARGEST_PAGE = 10_000
# Minutes of the day at which the meter is used.
_SESSIONS = (415, 690, 845, 1130, 1315)

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Measurer:
    """One synthetic person with a meter; without a phone at hand it is read every other evening."""

    name: str
    zone: str
    unit: str
    has_phone: bool

    @property
    def account_id(self) -> str:
        """The person as MyMojoHealth names them."""
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"keto_mojo/{self.name}"))

    @property
    def serial_number(self) -> str:
        """Of the meter."""
        return f"KM{number_of(self.name) % 10**8:08}"


PEOPLE = {
    one.name: one
    for one in (
        Measurer("lou", "America/Chicago", "mgdl", has_phone=False),
        Measurer("mila", "Europe/Berlin", "mmoll", has_phone=True),
    )
}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/keto_mojo`."""
    return _KetoMojo(sandbox).mount()


def arrives_at(who: Measurer, at: datetime) -> datetime:
    """When a reading taken at `at` has reached the service."""
    if who.has_phone:
        return at + timedelta(minutes=1)
    evening = datetime(at.year, at.month, at.day, 21, tzinfo=UTC) + at.toordinal() % 2 * _DAY
    return evening if evening >= at else evening + 2 * _DAY


def readings(
    seed: int, who: Measurer, start: datetime, end: datetime, now: datetime
) -> Iterator[Json]:
    """What has reached the service of what was measured in [start, end], newest first."""
    day = (end + _DAY).date()
    while day >= (start - _DAY).date():
        for number, minutes in reversed(list(enumerate(_SESSIONS))):
            key = number_of(seed, who.name, day, number)
            # Some are left out.
            if key % 7 == 0:
                continue
            at = instant_at(who.zone, day, minutes + key % 11)
            for kind, value, unit, later in reversed(_session(who, key)):
                taken = at + timedelta(minutes=later)
                if start <= taken <= end and arrives_at(who, taken) <= now:
                    yield _reading(who, taken, kind, value, unit, now)
        day -= _DAY


def _session(who: Measurer, key: int) -> list[tuple[str, str, str, int]]:
    mg_per_dl, tenths = 70 + key % 60, key // 64 % 45
    glucose = str(mg_per_dl) if who.unit == "mgdl" else f"{mg_per_dl / _GLUCOSE_FACTOR:.1f}"
    found = [
        ("glucose", glucose, who.unit, 0),
        ("ketone", f"{tenths / 10:.1f}", "mmoll", 2),
    ]
    if tenths:
        index = mg_per_dl / _GLUCOSE_FACTOR / (tenths / 10)
        found.append(("glucose_ketone_index", f"{index:.1f}", "", 2))
    return found


def _reading(who: Measurer, at: datetime, kind: str, value: str, unit: str, now: datetime) -> Json:
    is_index = kind == "glucose_ketone_index"
    updated, note = arrives_at(who, at), ""
    if number_of(who.name, at, kind) % 9 == 0 and now >= at + _DAY:
        updated, note = at + _DAY, "before breakfast"
    return {
        "reading_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{who.name}/{at}/{kind}")),
        "reading_type": kind,
        "reading_value": value,
        "reading_unit": unit,
        "reading_sample_type": "blood",
        "reading_timestamp": at.astimezone(ZoneInfo(who.zone)).isoformat(timespec="milliseconds"),
        "source": "device_calculated_gki" if is_index else "device",
        "has_device_calculated_gki": is_index,
        "meter_type": "gk+_meter",
        "serial_number": who.serial_number,
        "device_id": f"phone-of-{who.name}",
        "client_updated_at": f"{updated:%Y-%m-%dT%H:%M:%S}.000Z",
        "notes": note,
    }


class _KetoMojo:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._oauth = OAuthServer(
            provider="keto_mojo",
            sandbox=sandbox,
            people=PEOPLE,
            authorize_path="/oauth/authorize",
            token_path="/api/v1/oauth/token",  # noqa: S106 - an address
            revoke_path="/api/v1/oauth/revoke",
            needs_pkce=True,
            more=lambda person: {"user_id": PEOPLE[person].account_id},
        )

    def mount(self) -> Mount:
        listed = self._sandbox.guard(self._list, self._oauth.identify)
        routes = [*self._oauth.routes(), Route("/api/v1/readings", listed)]
        return Mount("/keto_mojo", routes=routes)

    async def _list(self, request: Request) -> Response:
        name = self._oauth.person_of(request)
        if name is None:
            return json_answer({"error": "invalid_token"}, 403)
        asked = request.query_params
        now = datetime.fromtimestamp(self._sandbox.clock.exact(), UTC)
        try:
            start = max(
                _instant(asked.get("from_date"), now - HISTORY_DAYS * _DAY),
                now - HISTORY_DAYS * _DAY,
            )
            end = min(_instant(asked.get("to_date"), now), now)
            size = int(asked.get("page_size", 50))
        except ValueError:
            return json_answer({"error": "invalid_request"}, 400)
        if not 1 <= size <= _LARGEST_PAGE:
            return json_answer({"error": "invalid_request"}, 400)
        found = readings(self._sandbox.seed, PEOPLE[name], start, end, now)
        types = asked.getlist("reading_type")
        return json_answer(
            list(islice((one for one in found if not types or one["reading_type"] in types), size))
        )


def _instant(text: str | None, otherwise: datetime) -> datetime:
    if text is None:
        return otherwise
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(text)
    return at
