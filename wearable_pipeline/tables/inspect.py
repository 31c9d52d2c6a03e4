"""A provider's body, read from a file, as rows: no lake, no registry, no network. For debugging a mapping."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import msgspec
import polars as pl

from wearable_pipeline.errors import BadPayloadError, UsageError
from wearable_pipeline.model import TABLES
from wearable_pipeline.model.payload import to_payload
from wearable_pipeline.providers._contract import (
    ImportOptions,
    Page,
    Provider,
    Record,
    Resource,
)
from wearable_pipeline.raw.files import HEAD_BYTES
from wearable_pipeline.raw.store import Arrival, frame_of
from wearable_pipeline.tables.normalize import normalize, tables_fed_by

USER_ID = "normalize"


@dataclass(slots=True)
class Inspection:
    """What a body becomes."""

    tables: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    rejected: list[dict[str, object]] = field(default_factory=list)
    unknown_fields: list[str] = field(default_factory=list)


def inspect_body(
    provider: Provider,
    body: bytes,
    *,
    name: str,
    now: datetime,
    resource_name: str | None = None,
    options: ImportOptions | None = None,
    form: Literal["columns", "payload"] = "columns",
) -> Inspection:
    """Rows of every table that `body` feeds, what is refused and why, and fields nobody reads.

    Raises UsageError naming the choices when the resource is not recognised, and the provider's documented
    error when the body is one.
    """
    records, resources = _split(
        provider, body, name, now, resource_name, options or ImportOptions()
    )
    raw = frame_of(provider.name, [Arrival(USER_ID, records, now)], "normalize", "import")
    found = Inspection(unknown_fields=sorted(_unknown_fields(records, resources)))
    rejected: list[pl.DataFrame] = []
    fed = {mapping.table for resource in resources for mapping in resource.tables}
    for table_name in sorted(fed & tables_fed_by(provider)):
        result = normalize(raw, table_name)
        rejected.append(result.rejected)
        if result.rows.is_empty():
            continue
        table = TABLES[table_name]
        rows: list[dict[str, object]] = (
            to_payload(table, result.rows) if form == "payload" else result.rows.to_dicts()
        )
        found.tables[table_name] = rows
    if rejected:
        unique = pl.concat(rejected).unique(["record_id", "reason"], maintain_order=True)
        found.rejected = [
            {"record": record_id, "reason": reason}
            for record_id, reason in unique.select("record_id", "reason").rows()
        ]
    return found


def _split(
    provider: Provider,
    body: bytes,
    name: str,
    now: datetime,
    resource_name: str | None,
    options: ImportOptions,
) -> tuple[list[Record], list[Resource]]:
    if not body.strip():
        raise BadPayloadError(f"{name} is empty")
    for importer in provider.importers:
        if resource_name in (None, importer.resource) and importer.recognise(body[:HEAD_BYTES]):
            records = [
                record for batch in importer.read(io.BytesIO(body), options) for record in batch
            ]
            return records, [provider.resource(importer.resource)]
    resource = _choose(provider, body, name, resource_name)
    page = Page(resource.name, body, now, {"timezone": options.timezone})
    try:
        return list(resource.split(page)), [resource]
    except msgspec.MsgspecError as error:
        raise BadPayloadError(
            f"{name} is not a body of {provider.name} {resource.name}: {_place(error)}"
        ) from None


def _choose(provider: Provider, body: bytes, name: str, resource_name: str | None) -> Resource:
    names = [resource.name for resource in provider.resources]
    if resource_name is not None:
        if resource_name not in names:
            raise UsageError(
                f"{provider.name} has no resource {resource_name!r}: choose from {', '.join(names)}"
            )
        return provider.resource(resource_name)
    fitting = [r for r in provider.resources if r.recognise is not None and r.recognise(body)]
    if len(fitting) == 1:
        return fitting[0]
    choices = [resource.name for resource in fitting] or names
    raise UsageError(
        f"{name} could be {'any' if fitting else 'none'} of {provider.name}'s resources:"
        f" name one with --resource ({', '.join(choices)})"
    )


def _place(error: msgspec.MsgspecError) -> str:
    """What the decoder missed and where; its words hold types and paths, never values."""
    return str(error).splitlines()[0][:200]


def _unknown_fields(records: Sequence[Record], resources: Sequence[Resource]) -> set[str]:
    unknown: set[str] = set()
    by_name = {resource.name: resource for resource in resources}
    for record in records:
        resource = by_name[record.resource]
        if resource.parse is not None:
            continue
        try:
            decoded = msgspec.json.decode(record.body)
        except msgspec.MsgspecError:
            continue
        known = {*resource.wire, *resource.ignored}
        unknown.update(path for path in _paths(decoded, "") if not _is_known(path, known))
    return unknown


def _is_known(path: str, known: set[str]) -> bool:
    steps = path.split(".")
    return any(".".join(steps[:depth]) in known for depth in range(1, len(steps) + 1))


def _paths(value: object, prefix: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _paths(child, f"{prefix}{key}.")
    elif prefix:
        yield prefix.removesuffix(".")
