"""OAuth 2 towards providers: the way in, and tokens that stay valid.

The protocol's own parts (authorization address, PKCE, token forms, client authentication) are
Authlib's; requests go through the one HTTP client.

A refresh is single-flight per user: a lock inside the process, a lease of the registry between
processes. The new token is stored before it is used. A provider that rotates refresh tokens may have
rotated although its answer was lost; the token sent is noted first, so that a later `invalid_grant`
is told from a permission taken back. Only `invalid_grant` for the token that is still the stored one
ends a connection; server trouble never does.
"""

import asyncio
import hashlib
import secrets
import uuid
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import urlencode, urlsplit

import msgspec
from authlib.common.urls import url_decode  # type: ignore[import-untyped]
from authlib.oauth2.auth import ClientAuth  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request  # type: ignore[import-untyped]
from authlib.oauth2.rfc7009 import prepare_revoke_token_request  # type: ignore[import-untyped]
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]

from wearable_pipeline.errors import (
    NotConnectedError,
    PermanentError,
    PipelineError,
    RateLimitedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.providers._contract import (
    Answer,
    Client,
    Identity,
    OAuth,
    Provider,
    PushSecrets,
    TokenRequest,
)
from wearable_pipeline.registry.users import Status
from wearable_pipeline.settings import ProviderSettings

# Renewed so long before its end that a page asked for now still meets a valid token.
LEEWAY = timedelta(seconds=60)
# Longer than the client waits for one answer: the holder is still at work until then.
LEASE = timedelta(seconds=120)
# After server trouble nobody asks the token endpoint for this user again before that.
REST = timedelta(seconds=30)
# How a status reason begins when the person, at the provider, took the permission back.
ACCESS_REVOKED = "access_revoked"
_WAIT_SECONDS = 30.0
_LOOK_AGAIN_SECONDS = 0.25
_STATUSES = (400, 401, 403, 404, 429)


class TokenStore(Protocol):
    """What is asked of the registry."""

    def load_credentials(self, user_id: str) -> dict[str, object]:
        """The user's credentials as they are stored now."""
        ...

    def save_credentials(self, user_id: str, values: Mapping[str, object]) -> None:
        """Replace them; on disk when this returns."""
        ...

    def lease(self, name: str, owner: str, ttl: timedelta) -> bool:
        """Whether `owner` holds `name` from now on."""
        ...

    def release_lease(self, name: str, owner: str) -> bool:
        """Give `name` back."""
        ...

    def set_status(self, user_id: str, status: Status, reason: str | None = None) -> object:
        """Note that the provider no longer lets this user's data out."""
        ...


@dataclass(frozen=True, slots=True)
class App:
    """Our app at one provider: where it asks and as whom."""

    provider: str
    oauth: OAuth
    client_id: str
    client_secret: str = field(repr=False)
    base_url: str
    authorize_url: str
    token_url: str
    revoke_url: str | None
    push_secret: str = field(default="", repr=False)

    def address(self, url: str) -> str:
        """The whole address of a path, or of a link the provider wrote into an answer.

        Raises PermanentError for a link that leads elsewhere: a token must not follow it.
        """
        if url.startswith("/") and not url.startswith("//"):
            return self.base_url + url
        if url.startswith(f"{self.base_url}/"):
            return url
        raise PermanentError(
            f"{self.provider}: an address outside the provider's API was asked for"
        )

    @property
    def push_secrets(self) -> PushSecrets:
        """What pushes of this provider are proven with."""
        return PushSecrets(self.client_id, self.client_secret, self.push_secret)


def app_of(provider: Provider, settings: ProviderSettings) -> App:
    """The app as the settings know it. Raises UsageError naming the variables that are missing."""
    oauth = provider.oauth
    if oauth is None:
        raise UsageError(f"{provider.title} is not connected by OAuth")
    prefix = f"WEARABLE_{provider.name.upper()}"
    if not settings.client_id or settings.client_secret is None:
        raise UsageError(
            f"{provider.title} needs an app registered there:"
            f" set {prefix}_CLIENT_ID and {prefix}_CLIENT_SECRET"
        )

    if settings.scopes:
        oauth = replace(oauth, scopes=tuple(settings.scopes.split()))

    def moved(url: str) -> str:
        return _at(settings.auth_url, url) if settings.auth_url else url

    return App(
        provider=provider.name,
        oauth=oauth,
        client_id=settings.client_id,
        client_secret=settings.client_secret.get_secret_value(),
        base_url=(settings.base_url or oauth.api_url).rstrip("/"),
        authorize_url=moved(oauth.authorize_url),
        token_url=moved(oauth.token_url),
        revoke_url=moved(oauth.revoke_url) if oauth.revoke_url else None,
        push_secret=settings.push_secret.get_secret_value() if settings.push_secret else "",
    )


def _at(origin: str, url: str) -> str:
    """`url` with everything before its path replaced by `origin`."""
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return origin.rstrip("/") + parts.path + query


# --- the way in


def make_verifier() -> str:
    """A PKCE code verifier."""
    return secrets.token_urlsafe(48)


def authorization_address(app: App, redirect_uri: str, state: str, verifier: str) -> str:
    """Where to send the browser."""
    extra = dict(app.oauth.authorize_parameters)
    if app.oauth.pkce:
        extra |= {
            "code_challenge": create_s256_code_challenge(verifier),
            "code_challenge_method": "S256",
        }
    address: str = prepare_grant_uri(
        app.authorize_url,
        client_id=app.client_id,
        response_type="code",
        redirect_uri=redirect_uri,
        scope=app.oauth.scope_separator.join(app.oauth.scopes) or None,
        state=state,
        **extra,
    )
    return address


async def exchange_code(
    client: Client, app: App, code: str, redirect_uri: str, verifier: str, now: datetime
) -> dict[str, object]:
    """Credentials for the code a browser came back with.

    Raises NotConnectedError when the provider does not take it.
    """
    parts = {"code": code, "redirect_uri": redirect_uri}
    if app.oauth.pkce:
        parts["code_verifier"] = verifier
    form = dict(url_decode(prepare_token_request("authorization_code", **parts)))
    answer = await _ask_for_token(client, app, form)
    error = answer.get("error")
    if error is not None or not answer.get("access_token"):
        raise NotConnectedError(
            f"{app.provider}: the code was not accepted ({_plain(error)}): start connecting again"
        )
    return _credentials(app, answer, now)


async def identify(client: Client, app: App, credentials: Mapping[str, object]) -> Identity:
    """Whose account the fresh credentials open."""
    granted = credentials.get("granted")
    return await app.oauth.identify(
        AppClient(client, app, str(credentials["access_token"])),
        granted if isinstance(granted, dict) else {},
    )


async def revoke(
    client: Client, app: App, credentials: Mapping[str, object], now: datetime
) -> None:
    """Give the permission back at the provider, as far as the provider has a way to."""
    token = credentials.get("refresh_token") or credentials.get("access_token")
    if not token:
        return
    if app.oauth.revoke is not None:
        access = await _access_for_once(client, app, credentials, now)
        own = {"client_id": app.client_id, "client_secret": app.client_secret}
        await app.oauth.revoke(
            AppClient(client, app, access), {**credentials, "access_token": access, **own}
        )
    elif app.revoke_url is not None:
        body, headers = prepare_revoke_token_request(str(token), None, "", {})
        await _post(client, app, app.revoke_url, dict(url_decode(body)), headers)


async def _access_for_once(
    client: Client, app: App, credentials: Mapping[str, object], now: datetime
) -> str:
    """An access token for a last call: where the stored one has ended, one nobody will keep."""
    access, refresh = str(credentials.get("access_token", "")), credentials.get("refresh_token")
    ends = credentials.get("expires_at")
    has_ended = isinstance(ends, int | float) and ends <= (now + LEEWAY).timestamp()
    if not (has_ended and refresh and app.oauth.refreshes):
        return access
    request = prepare_token_request("refresh_token", refresh_token=str(refresh))
    answer = await _ask_for_token(client, app, dict(url_decode(request)))
    return str(answer.get("access_token") or access)


async def _ask_for_token(client: Client, app: App, form: Mapping[str, str]) -> Mapping[str, object]:
    """The token answer in standard fields; refusals come back with `error`."""
    answer = await _post(client, app, app.token_url, form, {})
    try:
        decoded = msgspec.json.decode(answer.body, type=dict[str, object])
        read = app.oauth.read_answer(decoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if answer.status in (401, 403, 404):
            raise TransientError(
                f"{app.provider}: the token address refuses (HTTP {answer.status}) without saying why"
            ) from None
        # A page of a gateway says nothing about the token.
        raise TransientError(f"{app.provider}: the token answer is no JSON") from None
    if answer.status != 200 and "error" not in read:
        raise TransientError(f"{app.provider}: the token address answers HTTP {answer.status}")
    return read


async def _post(
    client: Client, app: App, url: str, form: Mapping[str, str], headers: Mapping[str, str]
) -> Answer:
    request = app.oauth.prepare_request(
        TokenRequest(url, dict(form), {**headers, "accept": "application/json"})
    )
    method = "client_secret_basic" if app.oauth.client_auth == "basic" else "client_secret_post"
    signed_url, signed_headers, body = ClientAuth(app.client_id, app.client_secret, method).prepare(
        "POST", request.url, dict(request.headers), urlencode(dict(request.form))
    )
    signed_headers.pop("Content-Length", None)
    answer = await client.request(
        "POST",
        signed_url,
        headers=signed_headers,
        form=dict(url_decode(body)),
        accept=(200, 204, *_STATUSES),
    )
    if answer.status == 429:
        raise RateLimitedError(
            f"{app.provider}: the token address asks to slow down", timedelta(minutes=5)
        )
    return answer


def _credentials(
    app: App,
    answer: Mapping[str, object],
    now: datetime,
    before: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """What is stored of a token answer."""
    life = answer.get("expires_in")
    lifetime = app.oauth.lifetime
    if isinstance(life, int | float | str) and _seconds(life) is not None:
        lifetime = timedelta(seconds=_seconds(life) or 0)
    elif answer.get("expires_at") and _seconds(answer["expires_at"]) is not None:
        lifetime = timedelta(seconds=(_seconds(answer["expires_at"]) or 0) - now.timestamp())
    kept = {
        key: value
        for key, value in (before or {}).items()
        if key not in ("access_token", "expires_at", "sent")
    }
    found: dict[str, object] = {**kept, "access_token": str(answer["access_token"])}
    if lifetime is not None:
        found["expires_at"] = (now + lifetime).timestamp()
    if answer.get("refresh_token"):
        found["refresh_token"] = str(answer["refresh_token"])
    if isinstance(answer.get("scope"), str):
        found["scope"] = answer["scope"]
    if before is None:
        # Some providers say here, and only here, whose token it is.
        found["granted"] = {
            key: value
            for key, value in answer.items()
            if key not in ("access_token", "refresh_token", "id_token")
        }
    return found


def _seconds(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _plain(error: object) -> str:
    """A provider's error code if it looks like one: anything else might quote what was sent."""
    text = str(error)
    return text if text.replace("_", "").isalnum() and len(text) <= 40 else "no reason given"


# --- staying in


@dataclass(slots=True)
class AppClient:
    """A client for paths below the provider's `api_url`, with one access token or none."""

    client: Client
    app: App
    token: str | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        form: Mapping[str, str] | None = None,
        accept: Sequence[int] = (200,),
    ) -> Answer:
        """The client's answer."""
        let_in = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return await self.client.request(
            method,
            self.app.address(url),
            params=params,
            headers={**(headers or {}), **let_in},
            json=json,
            form=form,
            accept=accept,
        )


_Locks = weakref.WeakValueDictionary[str, asyncio.Lock]
# One lock per user in this process, gone when nobody waits; one table per event loop.
_locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Locks] = weakref.WeakKeyDictionary()


def _lock_of(user_id: str) -> asyncio.Lock:
    of_loop = _locks.setdefault(asyncio.get_running_loop(), weakref.WeakValueDictionary())
    lock = of_loop.get(user_id)
    if lock is None:
        lock = of_loop[user_id] = asyncio.Lock()
    return lock


class LetIn:
    """A `Client` for one user of an OAuth provider: asks with a valid token, renews it when it must.

    Addresses are paths below the provider's `api_url`. The provider's error table is applied.
    """

    def __init__(
        self,
        client: Client,
        provider: Provider,
        app: App,
        store: TokenStore,
        user_id: str,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._provider = provider
        self._app = app
        self._store = store
        self._user_id = user_id
        self._now = now
        self._sleep = sleep
        self._credentials: dict[str, object] = {}
        self._failed: PipelineError | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        form: Mapping[str, str] | None = None,
        accept: Sequence[int] = (200,),
    ) -> Answer:
        """The answer; a refused token is renewed once and the same request repeated."""
        known = {refusal.status for refusal in self._provider.refusals}

        async def ask(token: str) -> Answer:
            answer = await self._client.request(
                method,
                self._app.address(url),
                params=params,
                headers={**(headers or {}), "authorization": f"Bearer {token}"},
                json=json,
                form=form,
                # Judged here: to the client both would mean that the connection has ended.
                accept=(*accept, 401, 403, *known),
            )
            meant = self._app.oauth.read_status(answer.status, answer.body)
            return answer if meant == answer.status else replace(answer, status=meant)

        token = await self._valid_token()
        answer = await ask(token)
        if answer.status == 401 and self._refusal(answer) is None:
            token = await self._renew(token)
            answer = await ask(token)
        return self._judged(answer, accept)

    def _refusal(self, answer: Answer) -> str | None:
        for refusal in self._provider.refusals:
            if refusal.fits(answer.status, answer.body):
                return refusal.meaning
        return None

    def _judged(self, answer: Answer, accept: Sequence[int]) -> Answer:
        if answer.status in accept:
            return answer
        name = self._provider.name
        for refusal in self._provider.refusals:
            if not refusal.fits(answer.status, answer.body):
                continue
            text = f"{name}: {refusal.message} (HTTP {answer.status})"
            match refusal.meaning:
                case "absent":
                    return answer
                case "transient":
                    raise TransientError(text)
                case "rate_limited":
                    raise RateLimitedError(text, timedelta(minutes=5))
                case "not_connected":
                    raise NotConnectedError(text)
                case "permanent":
                    raise PermanentError(text)
        if answer.status == 401:
            # The token is fresh: the provider is confused, and connecting again would not help.
            raise TransientError(f"{name}: a token just renewed is refused")
        if answer.status == 403:
            raise PermanentError(f"{name}: access to this data is refused (HTTP 403)")
        raise PermanentError(f"{name}: request refused (HTTP {answer.status})")

    async def _valid_token(self) -> str:
        if not self._credentials:
            self._credentials = await asyncio.to_thread(self._store.load_credentials, self._user_id)
        token = self._credentials.get("access_token")
        if not token:
            raise NotConnectedError(f"{self._provider.name}: no token is stored: connect again")
        expires_at = self._credentials.get("expires_at")
        if not isinstance(expires_at, int | float) or not self._can_refresh():
            return str(token)
        left = expires_at - self._now().timestamp()
        if left > LEEWAY.total_seconds():
            return str(token)
        try:
            return await self._renew(str(token))
        except TransientError:
            if left > 0:
                # Still good for a moment: the token endpoint may be well by then.
                return str(token)
            raise

    def _can_refresh(self) -> bool:
        return self._app.oauth.refreshes and bool(self._credentials.get("refresh_token"))

    async def _renew(self, refused: str) -> str:
        """An access token other than `refused`, made by whoever comes first."""
        if self._failed is not None:
            raise self._failed
        async with _lock_of(self._user_id):
            if self._failed is not None:
                raise self._failed
            try:
                return await self._renew_once(refused)
            except PipelineError as error:
                # Parallel requests of this fetch must not each try again.
                self._failed = error
                raise

    async def _renew_once(self, refused: str) -> str:
        name, owner = f"token:{self._user_id}", str(uuid.uuid4())
        waited = 0.0
        while True:
            self._credentials = await asyncio.to_thread(self._store.load_credentials, self._user_id)
            if self._credentials.get("access_token") not in (None, refused):
                return str(self._credentials["access_token"])
            if not self._can_refresh():
                await self._end(is_revoked=False, reason="the access token has ended")
            if await asyncio.to_thread(self._store.lease, name, owner, LEASE):
                break
            if waited >= _WAIT_SECONDS:
                raise TransientError(
                    f"{self._provider.name}: another process is renewing the token, or failed to"
                )
            await self._sleep(_LOOK_AGAIN_SECONDS)
            waited += _LOOK_AGAIN_SECONDS
        rests = False
        try:
            # Between the look and the lease somebody may have finished.
            self._credentials = await asyncio.to_thread(self._store.load_credentials, self._user_id)
            if self._credentials.get("access_token") not in (None, refused):
                return str(self._credentials["access_token"])
            return await self._refresh()
        except TransientError:
            rests = True
            raise
        finally:
            if rests:
                # Kept by nobody: whoever comes next finds it taken until the endpoint has had a rest.
                await asyncio.to_thread(self._store.lease, name, owner, REST)
            else:
                await asyncio.to_thread(self._store.release_lease, name, owner)

    async def _refresh(self) -> str:
        before = dict(self._credentials)
        sent = str(before["refresh_token"])
        mark = hashlib.sha256(sent.encode()).hexdigest()[:16]
        was_sent = before.get("sent") == mark
        if self._app.oauth.rotates_refresh and not was_sent:
            before["sent"] = mark
            await asyncio.to_thread(self._store.save_credentials, self._user_id, before)
        form = dict(url_decode(prepare_token_request("refresh_token", refresh_token=sent)))
        answer = await _ask_for_token(self._client, self._app, form)
        error = answer.get("error")
        if error is None and answer.get("access_token"):
            fresh = _credentials(self._app, answer, self._now(), before)
            await asyncio.to_thread(self._store.save_credentials, self._user_id, fresh)
            self._credentials = fresh
            return str(fresh["access_token"])
        if error == "invalid_grant":
            return await self._after_invalid_grant(sent, was_sent)
        if error in ("invalid_client", "unauthorized_client"):
            raise PermanentError(
                f"{self._provider.name}: the provider does not know our app: check"
                f" WEARABLE_{self._provider.name.upper()}_CLIENT_ID and …_CLIENT_SECRET"
            )
        raise TransientError(f"{self._provider.name}: the token was not renewed ({_plain(error)})")

    async def _after_invalid_grant(self, sent: str, was_sent: bool) -> str:
        stored = await asyncio.to_thread(self._store.load_credentials, self._user_id)
        if stored.get("refresh_token") != sent:
            # Connected again, or renewed by somebody whose lease had run out.
            self._credentials = stored
            return str(stored["access_token"])
        if was_sent and self._app.oauth.rotates_refresh:
            await self._end(is_revoked=False, reason="the answer with the next token was lost")
        await self._end(is_revoked=True, reason="the permission was taken back")
        raise AssertionError("_end raises")

    async def _end(self, *, is_revoked: bool, reason: str) -> None:
        status: Status = "revoked" if is_revoked else "needs_reauth"
        marked = f"{ACCESS_REVOKED}: {reason}" if is_revoked else reason
        await asyncio.to_thread(self._store.set_status, self._user_id, status, marked)
        raise NotConnectedError(f"{self._provider.name}: {reason}: connect this user again")
