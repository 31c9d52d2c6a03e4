"""Settings of providers: one variable each, whatever the provider's name."""

import pytest

from wearable_pipeline.settings import Settings, load_settings


def test_variables_of_a_provider_are_found_by_their_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEARABLE_OURA_CLIENT_ID", "app")
    monkeypatch.setenv("WEARABLE_OURA_CLIENT_SECRET", "hidden")
    monkeypatch.setenv("WEARABLE_KETO_MOJO_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("WEARABLE_WITHINGS_PUSH_SECRET", "")
    found = load_settings()
    oura = found.provider("oura")
    assert oura.client_id == "app"
    assert oura.client_secret is not None
    assert oura.client_secret.get_secret_value() == "hidden"
    assert found.provider("keto_mojo").base_url == "http://127.0.0.1:1"
    assert found.provider("withings").push_secret is None
    assert found.provider("nobody").client_id is None
    assert "hidden" not in repr(found)


def test_json_and_variables_of_providers_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEARABLE_PROVIDERS", '{"oura": {"client_id": "a", "auth_url": "http://b"}}')
    monkeypatch.setenv("WEARABLE_OURA_CLIENT_ID", "nearer")
    oura = load_settings().provider("oura")
    assert (oura.client_id, oura.auth_url) == ("nearer", "http://b")


def test_variables_in_a_file_count_too(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("settings")
    (folder / ".env").write_text("WEARABLE_OURA_CLIENT_ID=from the file\n")
    monkeypatch.chdir(folder)
    assert load_settings().provider("oura").client_id == "from the file"


@pytest.mark.parametrize(
    ("url", "choice", "is_open"),
    [
        ("http://127.0.0.1:8080", None, True),
        ("http://localhost:9", None, True),
        ("https://wearables.example.org", None, False),
        ("https://127.0.0.1.example.org", None, False),
        ("https://wearables.example.org", True, True),
        ("http://127.0.0.1:8080", False, False),
    ],
)
def test_in_public_nobody_starts_a_connection_for_others(
    url: str, choice: bool | None, is_open: bool
) -> None:
    found = Settings(_env_file=None, serve_url=url, connect_open=choice)  # type: ignore[call-arg]
    assert found.is_connect_open is is_open
