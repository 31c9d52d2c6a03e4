"""Destinations, found because they are there: modules with a `DESTINATION` and no underscore.

Targets are what the settings configure of them: one `webhook` by plain variables, and any number of
each kind, under names of their own, by `WEARABLE_DESTINATIONS_FILE`.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from functools import cache

from pydantic import ValidationError

from wearable_pipeline.destinations._contract import Destination, Filter, Target
from wearable_pipeline.errors import UsageError
from wearable_pipeline.model import TABLES
from wearable_pipeline.providers import providers
from wearable_pipeline.settings import Settings

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
# Modules that declare no destination and would cost the start of every command.
_OTHERS = frozenset({"assets", "delivery", "history"})

HOW_TO_CONFIGURE = (
    "set WEARABLE_WEBHOOK_URL, or WEARABLE_DESTINATIONS_FILE to a TOML file (docs/destinations.md)"
)


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
            _check_filter(f"destination {name}", found[name].filter)
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
            raise UsageError(f"{name} is not configured: {HOW_TO_CONFIGURE}")
        if not known:
            raise UsageError(f"no destination {name!r}, none is configured: {HOW_TO_CONFIGURE}")
        raise UsageError(f"no destination {name!r}; choose one of: {', '.join(known)}")
    return known[name]


def wanting(settings: Settings, table: str) -> list[Target]:
    """The configured targets that take rows of `table`."""
    return [t for t in configured(settings).values() if t.filter.takes_table(table)]


def _target(name: str, table: object) -> Target:
    where = f"destination {name} in WEARABLE_DESTINATIONS_FILE"
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: a name is up to 48 lower-case letters, digits and '_'")
    if not isinstance(table, dict):
        raise UsageError(
            f"{name} in WEARABLE_DESTINATIONS_FILE stands in no table: put a line like [warehouse] above it"
        )
    kind, known = table.get("kind"), ", ".join(destinations())
    if not isinstance(kind, str):
        raise UsageError(f"{where} needs a kind: one of {known}")
    if kind not in destinations():
        raise UsageError(f"{where}: no kind {kind!r}; choose one of: {known}")
    destination = destinations()[kind]
    filtered = {key: table[key] for key in Filter.model_fields if key in table}
    rest = {key: table[key] for key in table if key != "kind" and key not in filtered}
    try:
        target = Target(name, destination, destination.settings(**rest), Filter(**filtered))
    except ValidationError as error:
        faults = "; ".join(_faults(destination, error))
        raise UsageError(f"{where}: {faults}") from None
    _check_filter(where, target.filter)
    return target


def _faults(destination: Destination, error: ValidationError) -> Iterator[str]:
    """What is wrong, in keys and words of ours or pydantic's: an input may be a secret."""
    fields = destination.settings.model_fields
    for fault in error.errors(include_input=False, include_url=False):
        key = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            there_are = ", ".join(["kind", *fields, *Filter.model_fields])
            yield f"{key} is no setting of {destination.name}" + (
                f"; there are {there_are}" if len(fault["loc"]) == 1 else ""
            )
        elif fault["type"] == "missing":
            meaning = fields[key].description if key in fields else None
            yield f"{key} is not set" + (f" ({meaning.rstrip('.')})" if meaning else "")
        elif key:
            yield f"{key}: {fault['msg'].removeprefix('Value error, ')}"
        else:
            yield fault["msg"].removeprefix("Value error, ")


def _check_filter(where: str, chosen: Filter) -> None:
    """Raise UsageError for a name nothing has: the target would wait for it in silence."""
    types = {table.name for table in TABLES.values() if table.is_dated}
    for key, names, known in (
        ("types", chosen.types, types),
        ("providers", chosen.providers, providers() if chosen.providers else ()),
    ):
        unknown = sorted(names.difference(known))
        if unknown:
            raise UsageError(
                f"{where}: {key} names {', '.join(unknown)}; choose among: {', '.join(sorted(known))}"
            )
