"""Providers are found because they are there, and each keeps the promises the engine relies on."""

import polars as pl
import pytest

from wearable_pipeline.errors import UsageError
from wearable_pipeline.model import TABLES
from wearable_pipeline.providers import get_provider, providers
from wearable_pipeline.providers._contract import Samples


def test_providers_are_sorted_and_found_once() -> None:
    names = list(providers())
    assert names == sorted(names)
    assert {"freestyle_libre", "nightscout"} <= set(names)
    assert providers() is providers()


def test_an_unknown_provider_is_answered_with_the_choices() -> None:
    with pytest.raises(UsageError, match="oura, polar"):
        get_provider("fitbyte")


@pytest.mark.parametrize("name", list(providers()))
def test_every_mapping_names_columns_the_model_has(name: str) -> None:
    provider = get_provider(name)
    assert provider.name == name
    for resource in provider.resources:
        for mapping in resource.tables:
            table = TABLES[mapping.table]
            if isinstance(mapping, Samples):
                known = {field.name for field in table.column(mapping.column).fields}
                assert set(mapping.fields) <= known, (resource.name, mapping.column)
            else:
                assert set(mapping.columns) <= set(table.polars_schema()), resource.name


@pytest.mark.parametrize("name", list(providers()))
def test_every_wire_path_is_read_or_declared_ignored_but_not_both(name: str) -> None:
    for resource in get_provider(name).resources:
        assert not set(resource.wire) & resource.ignored, resource.name
        assert all(isinstance(dtype, pl.DataType) for dtype in resource.wire.values())


@pytest.mark.parametrize("name", list(providers()))
def test_every_importer_belongs_to_a_resource(name: str) -> None:
    provider = get_provider(name)
    for importer in provider.importers:
        if importer.resource is not None:
            assert provider.resource(importer.resource).name == importer.resource


@pytest.mark.parametrize("name", list(providers()))
def test_every_resource_is_recognised_by_its_body_or_has_an_importer(name: str) -> None:
    provider = get_provider(name)
    imported = {importer.resource for importer in provider.importers}
    for resource in provider.resources:
        assert resource.recognise is not None or resource.name in imported, resource.name
        # A body without JSON must say itself which fields it has.
        assert (resource.parse is None) == (resource.list_fields is None), resource.name


@pytest.mark.parametrize("name", list(providers()))
@pytest.mark.parametrize("body", [None, True, 7, "x", {}, {"data": None}, [None], [[]], [{"a": 1}]])
def test_nothing_is_recognised_in_a_body_of_nobody(name: str, body: object) -> None:
    recognisers = [r.recognise for r in get_provider(name).resources if r.recognise]
    assert not any(recognise(body) for recognise in recognisers)
