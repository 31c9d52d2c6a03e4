"""Destinations, found because they are there: modules with a `DESTINATION` and no underscore."""

import importlib
import pkgutil
from functools import cache

from wearable_pipeline.destinations._contract import Destination
from wearable_pipeline.errors import UsageError
from wearable_pipeline.settings import Settings


@cache
def destinations() -> dict[str, Destination]:
    """All destinations by name, sorted. Treat it as read-only: it is shared."""
    found: dict[str, Destination] = {}
    for module_info in pkgutil.iter_modules(__path__):
        if module_info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        destination = getattr(module, "DESTINATION", None)
        if isinstance(destination, Destination):
            found[destination.name] = destination
    return dict(sorted(found.items()))


def get_destination(name: str) -> Destination:
    """The destination of that name. Raises UsageError naming the choices."""
    known = destinations()
    if name not in known:
        raise UsageError(f"no destination {name!r}; choose one of: {', '.join(known)}")
    return known[name]


def configured(settings: Settings) -> dict[str, Destination]:
    """The destinations whose settings are there; nothing is opened."""
    return {
        name: destination
        for name, destination in destinations().items()
        if destination.is_configured(settings)
    }


def wanting(settings: Settings, table: str) -> list[str]:
    """Names of the configured destinations that take rows of `table`."""
    return [
        name
        for name, destination in configured(settings).items()
        if destination.wants(settings, table)
    ]
