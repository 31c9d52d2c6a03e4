"""The page that says what comes from where: every provider, table and field, and how sure we are.

Written from the declarations by `make render`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import get_args

from wearable_pipeline.model.columns import Table
from wearable_pipeline.providers._contract import Evidence, Provider, Resource, Samples, Scalars

# Surest first.
_GRADES: tuple[Evidence, ...] = get_args(Evidence)
_DOORS = ("poll", "push", "import")
_MEANINGS: Mapping[Evidence, str] = {
    "recorded": "answers of the service, or files of the device, are known",
    "vendor-doc": "samples of the vendor's documentation are known",
    "project-fixture": "fixtures of other projects are known, written after documents or answers",
    "contract only": "no body is known; read as documented",
}

_OPENING = """\
# Coverage

Written by `make render` from the modules in `wearable_pipeline/providers`; change those, not this file.

A cell names the doors data come in by (**poll**: we ask; **push**: the provider tells, and is asked or
has sent it along; **import**: a file) and how sure the mapping is. What we only order, to have it posted,
comes by push. The grade says what the bodies are it was written against:

| grade | meaning |
|---|---|
"""

_FIELDS_OPENING = """\
Of a list, `name[].field` is a field of its elements. What a column means and its unit:
[data dictionary](data_dictionary.md).
"""


def render_coverage(providers: Iterable[Provider], tables: Iterable[Table]) -> str:
    """The page as Markdown."""
    known = sorted(providers, key=lambda provider: provider.name)
    names = [table.name for table in tables]
    parts = [
        _OPENING + "".join(f"| {grade} | {_MEANINGS[grade]} |\n" for grade in _GRADES),
        "\n".join(_matrix(known, names)),
        "\n".join(_currency(known)),
        _FIELDS_OPENING,
    ]
    parts.extend("\n".join(_section(provider, names)) for provider in known)
    return "\n".join(parts)


def _matrix(providers: Sequence[Provider], tables: list[str]) -> Iterator[str]:
    fed = [name for name in tables if any(_cell(provider, name) for provider in providers)]
    yield "## What comes from where"
    yield ""
    yield f"| provider | {' | '.join(fed)} |"
    yield f"|---|{'---|' * len(fed)}"
    for provider in providers:
        cells = (_cell(provider, table) for table in fed)
        yield f"| [{provider.title}](#{provider.name}) | {' | '.join(cells)} |"
    yield ""
    for name in tables:
        if name not in fed:
            yield f"Nobody fills `{name}` yet."
            yield ""


def _cell(provider: Provider, table: str) -> str:
    resources = [
        one for one in provider.resources if any(mapping.table == table for mapping in one.tables)
    ]
    if not resources:
        return ""
    doors = {door for one in resources for door in doors_of(provider, one)}
    grades = {one.evidence for one in resources}
    return (
        f"{', '.join(door for door in _DOORS if door in doors)}"
        f"<br>*{', '.join(grade for grade in _GRADES if grade in grades)}*"
    )


def doors_of(provider: Provider, resource: Resource) -> set[str]:
    """By which doors records of `resource` come in."""
    importers = {importer.resource for importer in provider.importers}
    doors = {"import"} if resource.name in importers or None in importers else set()
    # Lines of a file are not what a service answers or posts.
    if resource.media_type == "text/csv":
        return doors
    if provider.fetch is not None and not provider.fetch_orders:
        doors.add("poll")
    if provider.push is not None:
        doors.add("push")
    return doors


def _currency(providers: Iterable[Provider]) -> Iterator[str]:
    yield "## How current it can be"
    yield ""
    yield "| provider | at the service | asked every | history |"
    yield "|---|---|---|---|"
    for provider in providers:
        yield (
            f"| [{provider.title}](#{provider.name}) | {provider.freshness or 'not stated'}"
            f" | {_asked_every(provider)}"
            f" | {_history(provider)} |"
        )
    yield ""


def _asked_every(provider: Provider) -> str:
    if provider.fetch is None:
        return "—"
    return f"{_span(provider.poll_interval)}{', to order history' if provider.fetch_orders else ''}"


def _history(provider: Provider) -> str:
    if provider.fetch is None:
        return "—"
    days = provider.history_days
    return "not stated" if days is None else f"{days} day{'' if days == 1 else 's'}"


def _span(length: timedelta) -> str:
    seconds = int(length.total_seconds())
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def _section(provider: Provider, tables: list[str]) -> Iterator[str]:
    yield f"## {provider.name}"
    yield ""
    yield f"**{provider.title}.** {provider.summary} [Documentation]({provider.docs_url})."
    yield ""
    yield "| resource | doors | tables | evidence |"
    yield "|---|---|---|---|"
    for resource in provider.resources:
        doors = doors_of(provider, resource)
        fed = {mapping.table for mapping in resource.tables}
        yield (
            f"| `{resource.name}` | {', '.join(door for door in _DOORS if door in doors)}"
            f" | {', '.join(table for table in tables if table in fed) or 'kept raw'}"
            f" | {resource.evidence} |"
        )
    yield ""
    for table in tables:
        fields = _fields(provider, table)
        if not fields:
            continue
        yield f"### {provider.name}: {table}"
        yield ""
        yield "| field | from | evidence |"
        yield "|---|---|---|"
        for field, resources in sorted(fields.items()):
            grades = {one.evidence for one in resources}
            yield (
                f"| `{field}` | {', '.join(f'`{one.name}`' for one in resources)}"
                f" | {', '.join(grade for grade in _GRADES if grade in grades)} |"
            )
        yield ""


def _fields(provider: Provider, table: str) -> dict[str, list[Resource]]:
    """The fields of a table the provider fills, and the resources each comes from."""
    found: dict[str, list[Resource]] = {}
    for resource in provider.resources:
        for mapping in resource.tables:
            if mapping.table != table:
                continue
            for name in _names(mapping):
                if resource not in found.setdefault(name, []):
                    found[name].append(resource)
    return found


def _names(mapping: Samples | Scalars) -> list[str]:
    if isinstance(mapping, Samples):
        return [f"{mapping.column}[].{field}" for field in mapping.fields]
    return list(mapping.columns)
