"""Destinations, found because they are there: modules with a `DESTINATION` and no underscore.

Targets are what the settings configure of them: one `webhook` by plain variables, and any number of
each kind, under names of their own, by `WEARABLE_DESTINATIONS_FILE`.
"""

import importlib
import pkgutil
import re
from functools import cache

from pydantic import ValidationError

from wearable_pipeline.destinations._contract import Destination, Filter, Target
from wearable_pipeline.errors import UsageError
from wearable_pipeline.settings import Settings

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
# Modules that declare no destination and would cost the start of every command.
_OTHERS = frozenset({"assets", "delivery", "history"})


@cache
def destinations() -> dict[str, Destination]:
    """All kinds by name, sorted. Treat it as read-only: it is shared."""
    found: dict[str, Destination] = {}
    for module_info in pkgutil.iter_modules(__path__):
        if module_info.name.startswith("_") or module_info.name in _OTHERS:
            continue
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        destination = getattr(module, "DESTINATION", None)
        if isinstance(destination, Destination):
            found[destination.name] = destination
    return dict(sorted(found.items()))


def get_destination(name: str) -> Destination:
    """The kind of that name. Raises UsageError naming the choices."""
    known = destinations()
    if name not in known:
        raise UsageError(f"no destination {name!r}; choose one of: {', '.join(known)}")
    return known[name]


def configured(settings: Settings) -> dict[str, Target]:
    """The targets the settings describe, by name, sorted; nothing is opened.

    Raises UsageError naming the target and the key that is wrong.
    """
    found: dict[str, Target] = {}
    for name, destination in destinations().items():
        described = destination.from_environment(settings)
        if described is not None:
            found[name] = Target(name, destination, *described)
    for name, table in settings.read_destinations().items():
        if name in found:
            raise UsageError(f"destination {name} is configured twice: rename the one in the file")
        found[name] = _target(name, table)
    return dict(sorted(found.items()))


def get_target(settings: Settings, name: str) -> Target:
    """The configured target of that name. Raises UsageError naming the choices."""
    known = configured(settings)
    if name not in known:
        if name in destinations():
            raise UsageError(f"{name} is not configured: see the settings in the README")
        shown = ", ".join(known) or "none is configured"
        raise UsageError(f"no destination {name!r}; choose one of: {shown}")
    return known[name]


def wanting(settings: Settings, table: str) -> list[Target]:
    """The configured targets that take rows of `table`."""
    return [t for t in configured(settings).values() if t.filter.takes_table(table)]


def _target(name: str, table: object) -> Target:
    where = f"destination {name} in WEARABLE_DESTINATIONS_FILE"
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: a name is up to 48 lower-case letters, digits and '_'")
    if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
        raise UsageError(f"{where} needs a kind: one of {', '.join(destinations())}")
    destination = get_destination(table["kind"])
    filtered = {key: table[key] for key in Filter.model_fields if key in table}
    rest = {key: table[key] for key in table if key != "kind" and key not in filtered}
    try:
        return Target(name, destination, destination.settings(**rest), Filter(**filtered))
    except ValidationError as error:
        # Only keys and pydantic's own words: an input may be a secret.
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise UsageError(f"{where}: {faults}") from None
