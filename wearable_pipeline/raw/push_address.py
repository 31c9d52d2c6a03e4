"""Where providers are told to post."""

from wearable_pipeline.providers._contract import Provider, PushSecrets, Subscriber
from wearable_pipeline.settings import ProviderSettings
from wearable_pipeline.workspace import Workspace


def push_address(workspace: Workspace, provider: Provider) -> str:
    """The receiver's address; it carries the secret where nothing else in a push proves it."""
    address = f"{workspace.settings.serve_url.rstrip('/')}/in/{provider.name}"
    is_keyed = provider.push is not None and provider.push.proof is None
    secret = workspace.settings.provider(provider.name).push_secret
    return f"{address}?key={secret.get_secret_value()}" if is_keyed and secret else address


def push_secrets(settings: ProviderSettings) -> PushSecrets:
    """What pushes are proven with, as far as it is set."""
    return PushSecrets(
        settings.client_id or "",
        settings.client_secret.get_secret_value() if settings.client_secret else "",
        settings.push_secret.get_secret_value() if settings.push_secret else "",
    )


def subscriber_of(workspace: Workspace, provider: Provider) -> Subscriber | None:
    """Who subscribes; None where the provider pushes nothing or no secret is set."""
    secrets = push_secrets(workspace.settings.provider(provider.name))
    if provider.push is None or not secrets.push_secret:
        return None
    return Subscriber(push_address(workspace, provider), secrets)
