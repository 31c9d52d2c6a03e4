"""What the README says is what there is."""

from pathlib import Path

import pytest

from wearable_pipeline.destinations import configured, destinations
from wearable_pipeline.providers import providers
from wearable_pipeline.settings import Settings

README = Path(__file__).parents[1].joinpath("README.md").read_text()


def test_every_setting_is_in_the_readme() -> None:
    missing = [name for name in Settings.model_fields if f"`WEARABLE_{name.upper()}`" not in README]
    assert missing == []


def test_every_provider_and_destination_is_in_the_readme() -> None:
    names = [*providers(), *destinations()]
    assert [name for name in names if f"| `{name}` |" not in README] == []


def test_the_readmes_destinations_are_ones_that_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = README.split("```toml\n")[1].split("```")[0]
    file = tmp_path / "destinations.toml"
    file.write_text(described)
    for name, value in {
        "CRM_SECRET": "s" * 32,
        "GCS_SERVICE_ACCOUNT": '{"client_email": "a@example.org", "private_key": "none"}',
        "AZURE_ACCOUNT_KEY": "a2V5",
        "APP_MONGODB_URI": "mongodb+srv://user:password@cluster.example.org",
        "WAREHOUSE_URL": "postgresql://user:password@db.example.org/health",
        "SUPABASE_DATABASE_URL": "postgresql://postgres:password@db.example.supabase.co/postgres",
    }.items():
        monkeypatch.setenv(name, value)
    targets = configured(Settings(home=tmp_path, destinations_file=file))
    assert {target.destination.name for target in targets.values()} == set(destinations())
