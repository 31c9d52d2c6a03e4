"""The sandbox's OAuth 2 server, for every provider that connects people by the browser.

Speaks the authorization-code grant with PKCE, refresh with or without rotation, revocation and bearer
tokens, as strictly as a provider would. Consent is one click: the page links to every synthetic person,
and `&person=<name>` skips it. `POST /<provider>/control/grants` with `{"person", "action"}` does what
happens at providers: `expire` ends access tokens early, `revoke` takes the permission back.
"""

import base64
import hashlib
import hmac
import html
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from wearable_pipeline.sandbox.control import Endpoint, Sandbox, json_answer

CLIENT_ID = "sandbox-client"
CLIENT_SECRET = "sandbox-secret"  # noqa: S105 - of the sandbox's own app
CODE_SECONDS = 600

P = TypeVar("P")
Wrap = Callable[[Mapping[str, object], int], Response]


@dataclass(slots=True)
class _Grant:
    person: str
    redirect_uri: str
    challenge: str | None
    scope: str
    expires_at: int


@dataclass(slots=True)
class _Token:
    person: str
    scope: str
    expires_at: int


@dataclass(slots=True, kw_only=True)
class OAuthServer(Generic[P]):
    """State and endpoints of one provider's authorization server.

    `refuse` is what the provider says to whoever comes with no valid token.
    `grace_seconds`: how long a rotated refresh token still works, for answers that were lost; zero at
    providers that are strict. `wrap` gives token answers another shape than the standard's.
    """

    provider: str
    sandbox: Sandbox
    people: Mapping[str, P]
    authorize_path: str
    token_path: str
    revoke_path: str | None = None
    access_seconds: int = 3600
    rotates: bool = True
    refreshes: bool = True
    grace_seconds: int = 0
    needs_pkce: bool = False
    more: Callable[[str], Mapping[str, object]] = lambda _: {}
    wrap: Wrap = lambda answer, status: json_answer(answer, status)
    refuse: Callable[[], Response] = lambda: json_answer({"error": "invalid_token"}, 401)
    codes: dict[str, _Grant] = field(default_factory=dict)
    access: dict[str, _Token] = field(default_factory=dict)
    refresh: dict[str, _Token] = field(default_factory=dict)
    # Rotated refresh tokens that still work for a moment, with the end of it.
    late: dict[str, _Token] = field(default_factory=dict)

    def routes(self) -> list[Route]:
        """Endpoints below the provider's mount."""
        guard = self.sandbox.guard
        found = [
            Route("/control/grants", self._control, methods=["POST"]),
            Route(self.authorize_path, guard(self._authorize, self._nobody), methods=["GET"]),
            Route(self.token_path, guard(self._token, self._holder), methods=["POST"]),
        ]
        if self.revoke_path is not None:
            found.append(
                Route(self.revoke_path, guard(self._revoke, self._nobody), methods=["GET", "POST"])
            )
        return found

    def guard(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint with counting and faults in front of it, by the person whose token comes."""
        return self.sandbox.guard(endpoint, self.identify)

    def let_in(self, endpoint: Callable[[Request, P], Awaitable[Response]]) -> Endpoint:
        """The same for an endpoint that is told who it is; it is asked for valid tokens alone."""

        async def answer(request: Request) -> Response:
            name = self.person_of(request)
            return self.refuse() if name is None else await endpoint(request, self.people[name])

        return self.guard(answer)

    def person_of(self, request: Request) -> str | None:
        """The person whose valid access token the request carries."""
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        token = self.access.get(value.strip()) if kind.lower() == "bearer" else None
        if token is None or token.expires_at <= self.sandbox.clock.now():
            return None
        return token.person

    async def identify(self, request: Request) -> str | None:
        """Name for faults: of whom the request is, expired token or not."""
        value = request.headers.get("authorization", "").partition(" ")[2].strip()
        token = self.access.get(value)
        return token.person if token else None

    async def _nobody(self, _: Request) -> str | None:
        return None

    async def _holder(self, request: Request) -> str | None:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        known = self.refresh.get(form.get("refresh_token", ""))
        grant = self.codes.get(form.get("code", ""))
        return known.person if known else grant.person if grant else None

    async def _authorize(self, request: Request) -> Response:
        asked = request.query_params
        redirect_uri = asked.get("redirect_uri", "")
        if asked.get("client_id") != CLIENT_ID or not urlsplit(redirect_uri).scheme:
            return json_answer({"error": "invalid_client"}, 400)

        def back(**values: str) -> Response:
            state = {"state": asked["state"]} if "state" in asked else {}
            joint = "&" if urlsplit(redirect_uri).query else "?"
            return RedirectResponse(f"{redirect_uri}{joint}{urlencode({**values, **state})}", 302)

        if asked.get("response_type") != "code":
            return back(error="unsupported_response_type")
        has_challenge = asked.get("code_challenge_method") == "S256" and asked.get("code_challenge")
        if self.needs_pkce and not has_challenge:
            return back(error="invalid_request")
        person = asked.get("person")
        if person == "nobody":
            return back(error="access_denied")
        if person is None:
            return self._consent(request)
        if person not in self.people:
            return json_answer({"error": "no such person"}, 404)
        code = secrets.token_urlsafe(24)
        self.codes[code] = _Grant(
            person,
            redirect_uri,
            asked.get("code_challenge"),
            asked.get("scope", ""),
            self.sandbox.clock.now() + CODE_SECONDS,
        )
        return back(code=code)

    def _consent(self, request: Request) -> Response:
        links = "".join(
            f'<li><a href="?{html.escape(request.url.query)}&amp;person={name}">{name}</a></li>'
            for name in (*self.people, "nobody")
        )
        title = html.escape(self.provider)
        return HTMLResponse(
            f"<!doctype html><title>{title}</title><h1>Who is it?</h1><ul>{links}</ul>"
        )

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        if not _is_our_client(request, form):
            return self.wrap({"error": "invalid_client"}, 401)
        match form.get("grant_type"):
            case "authorization_code":
                return self._redeem(form)
            case "refresh_token" if self.refreshes:
                return self._rotate(form.get("refresh_token", ""))
        return self.wrap({"error": "unsupported_grant_type"}, 400)

    def _redeem(self, form: Mapping[str, str]) -> Response:
        # A code is gone whether or not what comes with it is right.
        grant = self.codes.pop(form.get("code", ""), None)
        now = self.sandbox.clock.now()
        is_good = (
            grant is not None
            and grant.expires_at > now
            and grant.redirect_uri == form.get("redirect_uri")
            and _fits(grant.challenge, form.get("code_verifier"))
        )
        if grant is None or not is_good:
            return self.wrap({"error": "invalid_grant"}, 400)
        return self._issue(grant.person, grant.scope)

    def _rotate(self, value: str) -> Response:
        now = self.sandbox.clock.now()
        token = self.refresh.get(value)
        if token is None:
            late = self.late.get(value)
            if late is None or late.expires_at <= now:
                return self.wrap({"error": "invalid_grant"}, 400)
            return self._issue(late.person, late.scope)
        if not self.rotates:
            return self._issue(token.person, token.scope, value)
        del self.refresh[value]
        if self.grace_seconds:
            self.late[value] = _Token(token.person, token.scope, now + self.grace_seconds)
        return self._issue(token.person, token.scope)

    def _issue(self, person: str, scope: str, refresh: str | None = None) -> Response:
        now = self.sandbox.clock.now()
        access = secrets.token_urlsafe(24)
        self.access[access] = _Token(person, scope, now + self.access_seconds)
        answer: dict[str, object] = {
            "access_token": access,
            "token_type": "bearer",
            "expires_in": self.access_seconds,
            **self.more(person),
        }
        if self.refreshes:
            refresh = refresh or secrets.token_urlsafe(24)
            self.refresh[refresh] = _Token(person, scope, 0)
            answer["refresh_token"] = refresh
        return self.wrap(answer, 200)

    async def _revoke(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        value = form.get("token") or request.query_params.get("access_token", "")
        token = self.refresh.get(value) or self.access.get(value)
        if token is not None:
            self.forget(token.person)
        return json_answer({})

    def forget(self, person: str) -> None:
        """Take every token of the person back."""
        for tokens in (self.access, self.refresh, self.late):
            for value in [value for value, token in tokens.items() if token.person == person]:
                del tokens[value]

    async def _control(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=dict[str, str])
        person = asked.get("person", "")
        match asked.get("action"):
            case "revoke":
                self.forget(person)
            case "expire":
                for token in self.access.values():
                    if token.person == person:
                        token.expires_at = 0
            case _:
                return json_answer({"error": "action is revoke or expire"}, 400)
        return json_answer({})


def _is_our_client(request: Request, form: Mapping[str, str]) -> bool:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":
        try:
            given = base64.b64decode(value, validate=True).decode()
        except ValueError:
            return False
        client_id, _, client_secret = (unquote(part) for part in given.partition(":"))
    else:
        client_id, client_secret = form.get("client_id", ""), form.get("client_secret", "")
    return client_id == CLIENT_ID and hmac.compare_digest(
        client_secret.encode(), CLIENT_SECRET.encode()
    )


def _fits(challenge: str | None, verifier: str | None) -> bool:
    if challenge is None:
        return True
    digest = hashlib.sha256((verifier or "").encode()).digest()
    return hmac.compare_digest(
        base64.urlsafe_b64encode(digest).rstrip(b"="), challenge.encode("ascii", "replace")
    )
