"""Connecting a person to a provider: ask the provider, store the outcome encrypted, be due at once.

By what the person types in (`connect`), or by the browser (`begin_connecting`, `finish_connecting`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from wearable_pipeline.errors import PipelineError, UsageError
from wearable_pipeline.providers._contract import Client, Connected, Provider
from wearable_pipeline.providers._oauth import (
    app_of,
    authorization_address,
    exchange_code,
    identify,
    make_verifier,
    revoke,
)
from wearable_pipeline.raw.client import HttpClient
from wearable_pipeline.registry import ConnectSession, SyncResult, User
from wearable_pipeline.workspace import Workspace

T = TypeVar("T")

_log = logging.getLogger(__name__)


def connect(
    workspace: Workspace,
    provider: Provider,
    values: Mapping[str, str],
    *,
    reference_id: str | None = None,
    timezone: str | None = None,
    import_only: bool = False,
) -> User:
    """The connected user. An account already connected for `reference_id` is given the new credentials.

    Raises UsageError for missing values, NotConnectedError when the provider refuses them.
    """
    _check_timezone(timezone)
    if import_only:
        return _add_importing_user(workspace, provider, reference_id, timezone)
    if provider.oauth is not None:
        raise UsageError(
            f"{provider.title} is connected in the browser:"
            f" `wearable-pipeline users connect {provider.name}` shows the address"
        )
    if provider.connect is None:
        raise UsageError(f"{provider.title} has no account to connect to: use --import-only")
    known = {one.name for one in provider.credentials}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(
            f"{provider.name} takes no {', '.join(unknown)}: it takes {', '.join(sorted(known))}"
        )
    filled = {one.name: one.default for one in provider.credentials if one.default is not None}
    filled.update(values)
    missing = [
        one.name for one in provider.credentials if one.is_required and not filled.get(one.name)
    ]
    if missing:
        raise UsageError(
            f"{provider.name} needs {', '.join(missing)}: pass --set {missing[0]}=… for each"
        )
    ask = provider.connect
    connected = asyncio.run(_with_client(workspace, provider, lambda client: ask(client, filled)))
    return _store(workspace, provider, connected, reference_id, timezone)


def callback_address(workspace: Workspace, provider: Provider) -> str:
    """Where the provider sends the browser back to; registered with the app at the provider."""
    return f"{workspace.settings.serve_url.rstrip('/')}/oauth/{provider.name}/callback"


def begin_connecting(
    workspace: Workspace,
    provider: Provider,
    *,
    reference_id: str | None = None,
    timezone: str | None = None,
    redirect: str | None = None,
) -> tuple[ConnectSession, str]:
    """A session that waits for the browser, and its state.

    `redirect` is where the browser goes in the end. Raises UsageError when it is not among the
    addresses that are allowed, or when no app is set up.
    """
    _check_timezone(timezone)
    app_of(provider, workspace.settings.provider(provider.name))
    if redirect is not None and not is_allowed(redirect, workspace.settings.connect_redirects):
        raise UsageError("this redirect target is not among WEARABLE_CONNECT_REDIRECTS")
    values = {
        "verifier": make_verifier(),
        "reference_id": reference_id,
        "timezone": timezone,
        "redirect": redirect,
    }
    return workspace.registry.start_session(provider.name, values)


def consent_address(
    workspace: Workspace, provider: Provider, session: ConnectSession, state: str
) -> str:
    """Where the provider asks the person."""
    app = app_of(provider, workspace.settings.provider(provider.name))
    verifier = str(session.values["verifier"])
    return authorization_address(app, callback_address(workspace, provider), state, verifier)


async def finish_connecting(
    workspace: Workspace, provider: Provider, session: ConnectSession, code: str
) -> User:
    """The connected user: the code made into tokens, the account asked for, all of it stored.

    The session is ended either way; its error never says more than may be shown.
    """
    values = session.values
    app = app_of(provider, workspace.settings.provider(provider.name))

    async def ask(client: Client) -> Connected:
        credentials = await exchange_code(
            client,
            app,
            code,
            callback_address(workspace, provider),
            str(values["verifier"]),
            workspace.now(),
        )
        found = await identify(client, app, credentials)
        return Connected(found.account_id, credentials, dict(found.config), found.timezone)

    try:
        connected = await _with_client(workspace, provider, ask)
        user = await asyncio.to_thread(
            _store,
            workspace,
            provider,
            connected,
            _text(values.get("reference_id")),
            _text(values.get("timezone")),
        )
    except PipelineError as error:
        await asyncio.to_thread(
            workspace.registry.end_session, session.session_id, error=str(error)
        )
        raise
    await asyncio.to_thread(
        workspace.registry.end_session, session.session_id, user_id=user.user_id
    )
    return user


def is_allowed(redirect: str, allowed: tuple[str, ...]) -> bool:
    """Whether the address lies below one of the allowed ones: same origin, path by whole segments."""
    target = urlsplit(redirect)
    # Browsers read a backslash as a slash, and drop control characters.
    if "\\" in redirect or not redirect.isprintable() or ".." in target.path.split("/"):
        return False
    for one in map(urlsplit, allowed):
        if (target.scheme, target.netloc) != (one.scheme, one.netloc) or not target.netloc:
            continue
        path = one.path.rstrip("/")
        if target.path.rstrip("/") == path or target.path.startswith(f"{path}/"):
            return True
    return False


def disconnect(workspace: Workspace, user: User, provider: Provider) -> User:
    """The user, asked for no more; the permission is given back at the provider where it has a way."""
    ended = workspace.registry.set_status(user.user_id, "disconnected", "disconnected by command")
    if provider.oauth is None:
        return ended
    try:
        app = app_of(provider, workspace.settings.provider(provider.name))
        credentials = workspace.registry.load_credentials(user.user_id)
        asyncio.run(
            _with_client(
                workspace,
                provider,
                lambda client: revoke(client, app, credentials, workspace.now()),
            )
        )
    except PipelineError as error:
        # Here it is over in any case; the provider's own page is left to the person.
        _log.warning("%s: the permission could not be given back: %s", provider.name, error)
        return ended
    workspace.registry.save_credentials(user.user_id, {})
    return ended


def _store(
    workspace: Workspace,
    provider: Provider,
    connected: Connected,
    reference_id: str | None,
    timezone: str | None,
) -> User:
    account_hash = workspace.registry.hash_account(provider.name, connected.account_id)
    existing = workspace.registry.find_account(provider.name, account_hash, reference_id)
    if existing is not None and existing.status != "disconnected":
        workspace.registry.update_user(
            existing.user_id, timezone=timezone or connected.timezone, config=connected.config
        )
        workspace.registry.save_credentials(existing.user_id, connected.credentials)
        return workspace.registry.set_status(existing.user_id, "connected")
    return workspace.registry.add_user(
        provider.name,
        reference_id=reference_id,
        account_hash=account_hash,
        timezone=timezone or connected.timezone,
        config=connected.config,
        credentials=connected.credentials,
        # Whoever was disconnected comes back under a new id.
        event="auth" if existing is None else "user_reauth",
        event_detail=None if existing is None else {"old_user_id": existing.user_id},
    )


async def _with_client(
    workspace: Workspace, provider: Provider, use: Callable[[Client], Awaitable[T]]
) -> T:
    async with HttpClient(
        provider.name, max_concurrency=2, requests_per_second=5, now=workspace.now
    ) as client:
        return await use(client)


def _check_timezone(timezone: str | None) -> None:
    if timezone is not None and timezone not in available_timezones():
        raise UsageError(f"{timezone!r} is not an IANA time zone: write e.g. Europe/Berlin")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _add_importing_user(
    workspace: Workspace, provider: Provider, reference_id: str | None, timezone: str | None
) -> User:
    if not provider.importers:
        raise UsageError(f"{provider.title} has no file import: connect its account")
    user = workspace.registry.add_user(
        provider.name,
        reference_id=reference_id,
        timezone=timezone,
        config={"import_only": True},
        event="auth",
    )
    # Nobody is asked for this user's data.
    workspace.registry.record_sync(
        [SyncResult(user_id=user.user_id, attempted_at=workspace.now(), next_due_at=None)]
    )
    return user
