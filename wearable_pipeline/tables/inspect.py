"""A provider's body, read from a file, as rows: no lake, no registry, no network.

For debugging a mapping.
"""

import io
from codecs import BOM_UTF8
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
    HEAD_BYTES,
    ImportOptions,
    Page,
    Provider,
    Record,
    Resource,
)
from wearable_pipeline.providers._split import decode_any, is_web_page
from wearable_pipeline.raw.store import Arrival, frame_of
from wearable_pipeline.tables.normalize import normalize, tables_fed_by

USER_ID = "normalize"
# Everything is held in memory and printed at once.
LARGEST_BODY = 256 << 20


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

    A body that holds parts of several resources gives the records of all of them. Raises UsageError
    naming the choices when no resource is recognised, and the provider's documented error when the
    body is one.
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


class _NamedBytes(io.BytesIO):
    """Bytes of a file that remember what it was called."""

    def __init__(self, body: bytes, name: str) -> None:
        super().__init__(body)
        self.name = name


def _split(
    provider: Provider,
    body: bytes,
    name: str,
    now: datetime,
    resource_name: str | None,
    options: ImportOptions,
) -> tuple[list[Record], list[Resource]]:
    if len(body) > LARGEST_BODY:
        raise UsageError(
            f"{name} is larger than {LARGEST_BODY >> 20} MiB: too much to show; import it instead"
        )
    if not body.strip():
        raise BadPayloadError(f"{name} is empty")
    names = [resource.name for resource in provider.resources]
    if resource_name is not None and resource_name not in names:
        raise UsageError(
            f"{provider.name} has no resource {resource_name!r}: choose from {', '.join(names)}"
        )
    for importer in provider.importers:
        if resource_name in (None, importer.resource) and importer.recognise(body[:HEAD_BYTES]):
            batches = importer.read(_NamedBytes(body, name), options)
            records = [record for batch in batches for record in batch]
            found = {record.resource for record in records}
            return records, [
                resource
                for resource in provider.resources
                if resource.name in found or resource.name == importer.resource
            ]
    return _split_json(provider, body.removeprefix(BOM_UTF8), name, now, resource_name, options)


def _split_json(
    provider: Provider,
    body: bytes,
    name: str,
    now: datetime,
    resource_name: str | None,
    options: ImportOptions,
) -> tuple[list[Record], list[Resource]]:
    for importer in provider.importers:
        if resource_name is not None and resource_name == importer.resource:
            raise BadPayloadError(f"{name} is not a {importer.title}")
    if provider.explain is not None:
        provider.explain(body)
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadPayloadError(f"{name} is {_kind_of(body, error, provider)}") from None
    fitting = [r for r in provider.resources if r.recognise is not None and r.recognise(decoded)]
    resources = _choose(provider, fitting, name, resource_name)
    records: list[Record] = []
    for resource in resources:
        page = Page(
            resource.name,
            body,
            now,
            {"timezone": options.timezone, "file": name, "units": options.units},
        )
        try:
            records.extend(resource.split(page))
        except BadPayloadError:
            if not fitting or resource in fitting:
                raise
            raise _mistaken(provider, fitting, name, resource.name) from None
    return records, resources


def _kind_of(body: bytes, error: Exception, provider: Provider) -> str:
    """What a body that is no JSON is, as far as can be told without showing any of it."""
    if b"\x00" in body[:HEAD_BYTES]:
        return "binary, not JSON"
    if is_web_page(body):
        return "a web page, not JSON"
    if body.lstrip()[:1] not in (b"{", b"[", b'"'):
        others = "".join(f" and no {importer.title}" for importer in provider.importers)
        return f"no JSON{others}"
    place = str(error).partition("(")[2].partition(")")[0]
    return "JSON that is cut off or broken" + (f" ({place})" if place.startswith("byte") else "")


def _choose(
    provider: Provider, fitting: list[Resource], name: str, resource_name: str | None
) -> list[Resource]:
    """The resources to read a body by which those in `fitting` recognise."""
    if resource_name is None:
        if not fitting:
            names = ", ".join(resource.name for resource in provider.resources)
            raise UsageError(
                f"{name} looks like none of {provider.name}'s resources:"
                f" if it is one, name it with --resource ({names})"
            )
        return fitting
    wanted = provider.resource(resource_name)
    # Records of one make may be of several resources: a lone reading of the graph or the logbook.
    if fitting and all(resource.wire != wanted.wire for resource in fitting):
        raise _mistaken(provider, fitting, name, resource_name)
    return [wanted]


def _mistaken(
    provider: Provider, fitting: list[Resource], name: str, resource_name: str
) -> BadPayloadError:
    looks = ", ".join(resource.name for resource in fitting)
    return BadPayloadError(
        f"{name} is no body of {provider.name} {resource_name}: it looks like {looks}"
    )


def _unknown_fields(records: Sequence[Record], resources: Sequence[Resource]) -> set[str]:
    """Paths of records nobody reads and nobody decided to leave; `[]` marks elements of lists."""
    unknown: set[str] = set()
    by_name = {resource.name: resource for resource in resources}
    known = {resource.name: {*resource.wire, *resource.ignored} for resource in resources}
    # An object of known fields that is null, or has none of them, is a leaf itself.
    parents = {
        resource.name: {
            path[:at] for path in resource.wire for at, c in enumerate(path) if c == "."
        }
        for resource in resources
    }
    for record in records:
        list_fields = by_name[record.resource].list_fields
        fields = list_fields(record) if list_fields else _paths(decode_any(record.body), "")
        unknown.update(
            path
            for path in fields
            if path not in parents[record.resource] and not _is_known(path, known[record.resource])
        )
    return unknown


def _is_known(path: str, known: set[str]) -> bool:
    steps = path.replace("[]", "").split(".")
    return any(".".join(steps[:depth]) in known for depth in range(1, len(steps) + 1))


def _paths(value: object, prefix: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _paths(child, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and prefix:
        for child in value:
            yield from _paths(child, f"{prefix}[]")
    elif prefix:
        yield prefix
