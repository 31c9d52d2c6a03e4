"""Connecting a person to a provider: ask the provider, store the outcome encrypted, be due at once."""

import asyncio
from collections.abc import Mapping
from zoneinfo import available_timezones

from wearable_pipeline.errors import UsageError
from wearable_pipeline.providers._contract import Connected, Provider
from wearable_pipeline.raw.client import HttpClient
from wearable_pipeline.registry import SyncResult, User
from wearable_pipeline.workspace import Workspace


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
    if timezone is not None and timezone not in available_timezones():
        raise UsageError(f"{timezone!r} is not an IANA time zone: write e.g. Europe/Berlin")
    if import_only:
        return _add_importing_user(workspace, provider, reference_id, timezone)
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
    connected = asyncio.run(_ask(workspace, provider, filled))
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
    )


async def _ask(workspace: Workspace, provider: Provider, values: Mapping[str, str]) -> Connected:
    if provider.connect is None:
        raise UsageError(f"{provider.title} has no account to connect to")
    async with HttpClient(
        provider.name, max_concurrency=2, requests_per_second=5, now=workspace.now
    ) as client:
        return await provider.connect(client, values)


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
    )
    # Nobody is asked for this user's data.
    workspace.registry.record_sync(
        [SyncResult(user_id=user.user_id, attempted_at=workspace.now(), next_due_at=None)]
    )
    return user
