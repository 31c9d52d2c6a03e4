"""The tables of `docs/destinations.md`: every setting of every kind, filled in by `make render`."""

import json
import re
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Union, get_args, get_origin

from pydantic import BaseModel

from wearable_pipeline.destinations._contract import Destination, Filter
from wearable_pipeline.errors import UsageError

_PLACE = re.compile(r"(<!-- settings (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_settings(page: str, kinds: Iterable[Destination]) -> str:
    """The page with a table at each `<!-- settings KIND -->`; `filter` is what all kinds share.

    Raises UsageError when a kind has no place on the page, or a place no kind.
    """
    models: dict[str, type[BaseModel]] = {"filter": Filter}
    models |= {kind.name: kind.settings for kind in kinds}
    places = [match[2] for match in _PLACE.finditer(page)]
    if sorted(places) != sorted(models):
        odd = sorted(set(models).symmetric_difference(places)) or places
        raise UsageError(
            f"there must be one `<!-- settings … -->` for each kind: see {', '.join(odd)}"
        )
    return _PLACE.sub(
        lambda match: f"{match[1]}{''.join(_lines(models[match[2]]))}{match[3]}", page
    )


def _lines(model: type[BaseModel]) -> Iterator[str]:
    yield "| setting | default | meaning |\n|---|---|---|\n"
    yield from _rows(model, "")


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in sorted(model.model_fields.items(), key=lambda one: not one[1].is_required()):
        default = "*required*" if field.is_required() else _default(field.default)
        meaning = (field.description or "").replace("|", "\\|")
        yield f"| `{prefix}{name}` | {default} | {meaning} |\n"
        for inner in _models_in(field.annotation):
            yield from _rows(inner, f"{prefix}{name}.")


def _default(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, frozenset):
        return "everything" if not value else f"`{json.dumps(sorted(value))}`"
    return f"`{json.dumps(value)}`"


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _models_in(one)
