"""The contract every destination meets because it is found."""

import os
from pathlib import Path

import pytest

from wearable_pipeline.destinations import configured, destinations, get_destination
from wearable_pipeline.destinations._contract import DestinationSettings
from wearable_pipeline.errors import UsageError
from wearable_pipeline.settings import Settings


def test_the_webhook_is_found() -> None:
    assert "webhook" in destinations()


def test_an_unknown_destination_names_the_choices() -> None:
    with pytest.raises(UsageError, match="webhook"):
        get_destination("pigeon")


@pytest.mark.parametrize("name", sorted(destinations()))
def test_a_destination_is_whole(name: str) -> None:
    destination = destinations()[name]
    assert destination.name == name
    assert destination.title
    assert destination.summary.endswith(".")
    assert issubclass(destination.settings, DestinationSettings)
    assert destination.batch_rows > 0


@pytest.mark.parametrize("name", sorted(destinations()))
def test_a_destination_without_settings_is_not_configured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [name for name in os.environ if name.startswith("WEARABLE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    assert name not in configured(Settings())
