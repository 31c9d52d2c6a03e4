"""Accounts with a password and the sessions they begin, for halves of the sandbox people log in to."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wearable_pipeline.sandbox.control import Clock, json_answer
from wearable_pipeline.sandbox.people import fake_password


@dataclass(frozen=True, slots=True)
class EmailAccount:
    """One synthetic person with an account that e-mail and password open."""

    name: str

    @property
    def email(self) -> str:
        """Login of the account."""
        return f"{self.name}@sandbox.invalid"

    @property
    def password(self) -> str:
        """An obviously fake password."""
        return fake_password(self.name)


@dataclass(slots=True)
class Sessions:
    """Sessions of a service, each for so many seconds, and the passwords that were changed there."""

    clock: Clock
    seconds: int
    forget: Callable[[str], object] = lambda person: None
    _begun: dict[str, tuple[str, int]] = field(default_factory=dict)
    _changed: set[str] = field(default_factory=set)

    def begin(self, person: str) -> str:
        """A new session of a person."""
        session = str(uuid.uuid4())
        self._begun[session] = (person, self.clock.now() + self.seconds)
        return session

    def owner_of(self, session: str) -> str | None:
        """Who began a session, be it over or not."""
        person, _ = self._begun.get(session, (None, 0))
        return person

    def person_of(self, session: str) -> str | None:
        """Whose session it is, as long as it lasts."""
        person, ends = self._begun.get(session, (None, 0))
        return person if ends > self.clock.now() else None

    def opens(self, person: str, password: str) -> bool:
        """Whether a password is that person's still."""
        return password == fake_password(person) and person not in self._changed

    def route(self) -> Route:
        """`/control/sessions`: does with `{"person", "action"}` what happens at the service.

        `expire` ends sessions, `change_password` makes logins with the old one fail, `reset` undoes that.
        """
        return Route("/control/sessions", self._control, methods=["POST"])

    async def _control(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=dict[str, str])
        person = asked.get("person", "")
        match asked.get("action"):
            case "expire":
                self._begun = {
                    session: begun for session, begun in self._begun.items() if begun[0] != person
                }
            case "change_password":
                self._changed.add(person)
            case "reset":
                self._changed.discard(person)
                self.forget(person)
            case _:
                return json_answer({"error": "action is expire, change_password or reset"}, 400)
        return json_answer({})
