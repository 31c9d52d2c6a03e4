"""Providers, found because they are there: modules with a `PROVIDER`, no leading underscore."""

import importlib
import pkgutil
from functools import cache

from wearable_pipeline.errors import UsageError
from wearable_pipeline.providers._contract import Provider


@cache
def providers() -> dict[str, Provider]:
    """All providers by name, sorted. Treat it as read-only: it is shared."""
    found: dict[str, Provider] = {}
    for module_info in pkgutil.iter_modules(__path__):
        if module_info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        provider = getattr(module, "PROVIDER", None)
        if isinstance(provider, Provider):
            found[provider.name] = provider
    return dict(sorted(found.items()))


def get_provider(name: str) -> Provider:
    """The provider of that name. Raises UsageError naming the choices."""
    known = providers()
    if name not in known:
        raise UsageError(f"no provider {name!r}; choose one of: {', '.join(known)}")
    return known[name]
