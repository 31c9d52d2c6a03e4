import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from wearable_pipeline.errors import UsageError
from wearable_pipeline.registry import Registry
from wearable_pipeline.settings import Settings

CANARY = "canary-9f2c-refresh-token"


def with_key(settings: Settings, *keys: bytes) -> Settings:
    joined = ",".join(key.decode() for key in keys)
    return settings.model_copy(update={"secret_key": SecretStr(joined)})


def test_credentials_come_back_as_they_were_saved(registry: Registry) -> None:
    registry.add_user("libre", user_id="ann")
    assert registry.load_credentials("ann") == {}
    registry.save_credentials("ann", {"token": CANARY, "expires": 12.5, "scopes": ["a"]})
    registry.save_credentials("ann", {"token": CANARY + "2", "nested": {"ö": None}})
    assert registry.load_credentials("ann") == {"token": CANARY + "2", "nested": {"ö": None}}


def test_credentials_are_there_as_soon_as_the_user_is_due(registry: Registry) -> None:
    registry.add_user("libre", user_id="ann", credentials={"token": CANARY})
    registry.add_user("libre", user_id="bob")
    assert registry.load_all_credentials(["ann", "bob", "gone"]) == {
        "ann": {"token": CANARY},
        "bob": {},
    }


def test_credentials_of_nobody_are_refused(registry: Registry) -> None:
    with pytest.raises(UsageError, match="no user ann"):
        registry.load_credentials("ann")
    with pytest.raises(UsageError, match="no user ann"):
        registry.save_credentials("ann", {"token": CANARY})


def test_what_is_not_json_is_refused_without_being_shown(registry: Registry) -> None:
    registry.add_user("libre", user_id="ann")
    with pytest.raises(UsageError) as caught:
        registry.save_credentials("ann", {"token": {CANARY}})
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_byte_of_a_secret_is_on_disk_in_logs_or_in_reprs(
    sqlite_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.DEBUG)
    account = "canary-account@example.org"
    try:
        with Registry.open(sqlite_settings) as registry:
            hashed = registry.hash_account("libre", account)
            registry.add_user("libre", user_id="ann", account_hash=hashed)
            registry.save_credentials("ann", {"token": CANARY})
            assert registry.load_credentials("ann") == {"token": CANARY}
            shown = repr(registry) + repr(registry.get_user("ann")) + repr(registry._keys)
            files = [file for file in sqlite_settings.home.iterdir() if file.is_file()]
            written = b"".join(file.read_bytes() for file in files)
    finally:
        logging.getLogger("sqlalchemy.engine").setLevel(logging.NOTSET)
    key = sqlite_settings.key_file.read_text().strip()
    assert len(files) >= 2
    for secret in (CANARY, account):
        assert secret.encode() not in written
        assert secret not in caplog.text
        assert secret not in shown
    assert key not in caplog.text
    assert key not in shown


def test_the_key_file_is_made_once_and_only_for_its_owner(sqlite_settings: Settings) -> None:
    with Registry.open(sqlite_settings) as registry:
        registry.add_user("libre", user_id="ann", credentials={"token": CANARY})
    first = sqlite_settings.key_file.read_bytes()
    assert stat.S_IMODE(sqlite_settings.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE((sqlite_settings.home / "registry.sqlite").stat().st_mode) == 0o600
    with Registry.open(sqlite_settings) as registry:
        assert registry.load_credentials("ann") == {"token": CANARY}
    assert sqlite_settings.key_file.read_bytes() == first


def test_eight_first_uses_at_once_agree_on_one_key(settings: Settings) -> None:
    registries = [Registry.open(settings) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        hashes = list(pool.map(lambda one: one.hash_account("libre", "a"), registries))
    assert len(hashes) == 8
    assert len(set(hashes)) == 1
    for number, registry in enumerate(registries):
        registry.add_user("libre", user_id=f"u{number}", credentials={"n": number})
    assert registries[0].load_credentials("u7") == {"n": 7}
    for registry in registries:
        registry.close()


def test_a_wrong_key_is_named_before_anything_is_written_with_it(settings: Settings) -> None:
    right, wrong = Fernet.generate_key(), Fernet.generate_key()
    with Registry.open(with_key(settings, right)) as registry:
        registry.add_user("libre", user_id="ann", credentials={"token": CANARY})
    with Registry.open(with_key(settings, wrong)) as registry:
        for use in (
            lambda: registry.load_credentials("ann"),
            lambda: registry.save_credentials("ann", {"token": "other"}),
            lambda: registry.hash_account("libre", "x"),
        ):
            with pytest.raises(UsageError, match="WEARABLE_SECRET_KEY is not the key") as caught:
                use()
            assert wrong.decode() not in str(caught.value)
    with Registry.open(with_key(settings, right)) as registry:
        assert registry.load_credentials("ann") == {"token": CANARY}


def test_a_missing_key_file_is_not_replaced_by_a_new_key(settings: Settings) -> None:
    with Registry.open(settings) as registry:
        registry.add_user("libre", user_id="ann", credentials={"token": CANARY})
    settings.key_file.unlink()
    with (
        Registry.open(settings) as registry,
        pytest.raises(UsageError, match="missing but the registry holds encrypted credentials"),
    ):
        registry.load_credentials("ann")
    assert not settings.key_file.exists()


@pytest.mark.parametrize("content", ["", "not a key\n", "\xff\n"])
def test_a_key_file_without_a_usable_key_is_named(
    sqlite_settings: Settings, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wearable_pipeline.registry.keys._HALF_WRITTEN_SECONDS", 0.0)
    sqlite_settings.home.mkdir()
    sqlite_settings.key_file.write_text(content, encoding="latin-1")
    with (
        Registry.open(sqlite_settings) as registry,
        pytest.raises(UsageError, match=r"secret\.key"),
    ):
        registry.hash_account("libre", "x")


def test_keys_are_rotated_without_losing_credentials_or_account_hashes(settings: Settings) -> None:
    old, new = Fernet.generate_key(), Fernet.generate_key()
    with Registry.open(with_key(settings, old)) as registry:
        account = registry.hash_account("libre", "ann@example.org")
        for number in range(1005):
            registry.add_user("libre", user_id=f"u{number}", credentials={"n": number})
        registry.add_user("libre", user_id="without")
    with Registry.open(with_key(settings, new, old)) as registry:
        registry.save_credentials("u0", {"n": "new already"})
        assert registry.rotate_keys() == 1004
        assert registry.rotate_keys() == 0
    with Registry.open(with_key(settings, new)) as registry:
        assert registry.load_credentials("u0") == {"n": "new already"}
        assert registry.load_credentials("u1004") == {"n": 1004}
        assert registry.hash_account("libre", "ann@example.org") == account


def test_a_running_process_finds_a_key_put_into_the_file_later(sqlite_settings: Settings) -> None:
    with Registry.open(sqlite_settings) as running, Registry.open(sqlite_settings) as admin:
        running.add_user("libre", user_id="ann", credentials={"token": CANARY})
        file = sqlite_settings.key_file
        file.write_text(Fernet.generate_key().decode() + "\n" + file.read_text())
        assert admin.rotate_keys() == 1
        assert running.load_credentials("ann") == {"token": CANARY}


def test_a_row_copied_onto_another_user_does_not_open(registry: Registry) -> None:
    registry.add_user("libre", user_id="ann", credentials={"token": CANARY})
    registry.add_user("libre", user_id="bob", credentials={"token": "bobs"})
    with registry._db.engine.begin() as connection:
        connection.exec_driver_sql(
            "update wearable_credentials set token = (select token from wearable_credentials"
            " where user_id = 'ann') where user_id = 'bob'"
        )
    with pytest.raises(UsageError, match="belong to another user"):
        registry.load_credentials("bob")


def test_a_key_file_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", registry_url=f"sqlite:///{tmp_path}/r.sqlite")
    settings.home.write_text("a file where the folder should be")
    with (
        Registry.open(settings) as registry,
        pytest.raises(UsageError, match=r"secret\.key cannot be"),
    ):
        registry.hash_account("libre", "x")
