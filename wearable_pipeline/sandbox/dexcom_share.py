"""Dexcom Share: the sensors of `sandbox.dexcom`, seconds after they measured, for who logs in.

Refusals are HTTP 500 with a code in JSON, as they are there. `POST /dexcom_share/control/sessions` with
`{"person", "action"}` does what happens there: `expire` ends sessions, `change_password` makes logins
with the old one fail.
"""

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox import dexcom
from wearable_pipeline.sandbox._sessions import Sessions
from wearable_pipeline.sandbox.control import Endpoint, Sandbox, json_answer
from wearable_pipeline.sandbox.people import fake_password

SESSION_SECONDS = 8 * 3600
LONGEST_MINUTES = 1440
MOST = 288
ATTEMPTS = 5
# What a reading takes from the sensor over the phone to the server.
_ON_THE_WAY = timedelta(seconds=12)
_WORDS = {"none": "None", "rateOutOfRange": "RateOutOfRange"}


@dataclass(frozen=True, slots=True)
class Sharer:
    """One synthetic person who shares what the sensor measures."""

    wearer: dexcom.Wearer

    @property
    def name(self) -> str:
        """Login of the account."""
        return self.wearer.name

    @property
    def password(self) -> str:
        """An obviously fake password."""
        return fake_password(self.name)

    @property
    def account_id(self) -> str:
        """Id of the account."""
        digest = hashlib.blake2b(f"share/{self.name}".encode(), digest_size=16).digest()
        return str(uuid.UUID(bytes=digest, version=4))


PEOPLE = {who.name: Sharer(who) for who in dexcom.PEOPLE.values() if who.has_phone}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/dexcom_share`."""
    failed = Counter[str]()
    sessions = Sessions(sandbox.clock, SESSION_SECONDS, lambda person: failed.pop(person, None))
    return _Share(sandbox, sessions, failed).mount()


class _Login(msgspec.Struct, rename="camel"):
    password: str = ""
    application_id: str = ""
    account_name: str = ""
    account_id: str = ""


@dataclass(slots=True)
class _Share:
    sandbox: Sandbox
    sessions: Sessions
    failed: Counter[str]

    def mount(self) -> Mount:
        def posted(path: str, endpoint: Endpoint) -> Route:
            guarded = self.sandbox.guard(endpoint, self._identify)
            return Route(f"/ShareWebServices/Services/{path}", guarded, methods=["POST"])

        return Mount(
            "/dexcom_share",
            routes=[
                self.sessions.route(),
                posted("General/AuthenticatePublisherAccount", self._authenticate),
                posted("General/LoginPublisherAccountById", self._login),
                posted("Publisher/ReadPublisherLatestGlucoseValues", self._read),
            ],
        )

    async def _identify(self, request: Request) -> str | None:
        return self.sessions.owner_of(request.query_params.get("sessionId", ""))

    async def _authenticate(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=_Login)
        return self._let_in(PEOPLE.get(asked.account_name), asked, lambda who: who.account_id)

    async def _login(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=_Login)
        who = next((one for one in PEOPLE.values() if one.account_id == asked.account_id), None)
        return self._let_in(who, asked, lambda who: self.sessions.begin(who.name))

    def _let_in(self, who: Sharer | None, asked: _Login, give: Callable[[Sharer], str]) -> Response:
        if not asked.application_id:
            return _refused("InvalidArgument", "Invalid argument applicationId")
        name = who.name if who else asked.account_name
        if self.failed[name] >= ATTEMPTS:
            return _refused("SSO_AuthenticateMaxAttemptsExceeded", "Maximum attempts exceeded")
        if who is None or not self.sessions.opens(name, asked.password):
            self.failed[name] += 1
            return _refused("AccountPasswordInvalid", "Publisher account password failed")
        self.failed[name] = 0
        return json_answer(give(who))

    async def _read(self, request: Request) -> Response:
        name = self.sessions.person_of(request.query_params.get("sessionId", ""))
        if name is None:
            return _refused("SessionIdNotFound", "Failed to find session object.")
        try:
            minutes = int(request.query_params["minutes"])
            most = int(request.query_params["maxCount"])
        except (KeyError, ValueError):
            return _refused("InvalidArgument", "Invalid argument minutes")
        if not 0 <= minutes <= LONGEST_MINUTES or not 0 <= most <= MOST:
            return _refused("InvalidArgument", "Invalid argument minutes")
        who = PEOPLE[name].wearer
        now = datetime.fromtimestamp(self.sandbox.clock.exact(), UTC)
        start, end = now - timedelta(minutes=minutes), now - _ON_THE_WAY
        found = [_row(who, at, one) for at, one in dexcom.egvs(self.sandbox.seed, who, start, end)]
        return json_answer(found[::-1][:most])


def _row(who: dexcom.Wearer, at: datetime, reading: dexcom.Json) -> dexcom.Json:
    # Never on the whole second.
    milliseconds = int(at.timestamp()) * 1000 + int(at.timestamp()) // 300 % 997
    word = str(reading["trend"])
    return {
        "WT": f"Date({milliseconds})",
        "ST": f"Date({milliseconds})",
        "DT": f"Date({milliseconds}{at.astimezone(ZoneInfo(who.zone)):%z})",
        "Value": reading["value"],
        "Trend": _WORDS.get(word, word[:1].upper() + word[1:]),
    }


def _refused(code: str, message: str) -> Response:
    return json_answer(
        {"Code": code, "Message": message, "SubCode": "", "TypeName": "FaultException"}, 500
    )
