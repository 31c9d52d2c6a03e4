"""The only reader of the environment: every knob, its default and its meaning."""

import os
import re
import tomllib
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from wearable_pipeline.errors import UsageError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
MAX_COHORTS = 64


class ProviderSettings(BaseModel):
    """What the settings say about one provider: the app registered there, other addresses, a secret."""

    client_id: str | None = None
    client_secret: SecretStr | None = None
    base_url: str | None = None
    auth_url: str | None = None
    push_secret: SecretStr | None = None
    # In place of the provider module's, separated by blanks.
    scopes: str | None = None
    requests_per_second: float | None = Field(None, gt=0)
    max_concurrency: int | None = Field(None, ge=1, le=1_000)
    # How many times the documented quotas the app was granted.
    quota_factor: float = Field(1.0, gt=0)


_OF_A_PROVIDER = re.compile(
    rf"wearable_([a-z][a-z0-9_]*?)_({'|'.join(ProviderSettings.model_fields)})"
)


class _ProviderVariables(PydanticBaseSettingsSource):
    """`WEARABLE_<PROVIDER>_CLIENT_ID` and its like, whatever the provider's name, as `providers`."""

    def __init__(
        self, settings_class: type[BaseSettings], *sources: PydanticBaseSettingsSource
    ) -> None:
        super().__init__(settings_class)
        self._sources = sources

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[object, str, bool]:
        """Nothing: the variables are found by their form, not by a field's name."""
        return None, field_name, False

    def __call__(self) -> dict[str, object]:
        """`providers` as far as variables tell."""
        found: dict[str, dict[str, str]] = {}
        for source in self._sources:
            if not isinstance(source, EnvSettingsSource):
                continue
            for name, value in source.env_vars.items():
                match = _OF_A_PROVIDER.fullmatch(name.lower())
                if match is not None and value:
                    found.setdefault(match[1], {}).setdefault(match[2], value)
        return {"providers": found} if found else {}


class Settings(BaseSettings):
    """Settings, read from `WEARABLE_*` variables and `.env`."""

    model_config = SettingsConfigDict(
        env_prefix="WEARABLE_", env_file=".env", extra="ignore", env_ignore_empty=True
    )

    home: Path = Field(
        Path("data"), description="Folder for state: lake, registry, key, Dagster home."
    )
    lake_url: str | None = Field(
        None,
        description="Where the lake lies: a path, s3://bucket/prefix, gs://… or az://container/…"
        " (default: lake under the home).",
    )
    lake_endpoint: str | None = Field(
        None,
        description="Endpoint of an S3-compatible, GCS or Azure server that is not the cloud's own.",
    )
    lake_region: str | None = Field(None, description="Region of the bucket.")
    lake_path_style: bool = Field(
        True, description="Address buckets by path instead of by host name (with lake_endpoint)."
    )
    lake_access_key_id: str | None = Field(
        None,
        description="Access key, Azure account name or GCS HMAC id; without it the cloud's own chain is"
        " asked (environment, role).",
    )
    lake_secret_access_key: SecretStr | None = Field(
        None,
        description="Secret of the access key, Azure account key, GCS service-account JSON or HMAC secret.",
    )
    lake_session_token: SecretStr | None = Field(
        None, description="Session token, Azure SAS or GCS bearer token."
    )
    registry_url: str | None = Field(
        None,
        description="SQLAlchemy URL of the registry (default: registry.sqlite under the home).",
    )
    secret_key: SecretStr | None = Field(
        None,
        description="Fernet keys for stored credentials, newest first, separated by commas"
        " (default: secret.key under the home, made at the first start).",
    )
    cohorts: int | None = Field(
        None,
        ge=1,
        le=MAX_COHORTS,
        description="Shards of the partition dimension `user`; unset: one partition a user.",
    )
    live_lanes: int = Field(
        1,
        ge=1,
        le=MAX_COHORTS,
        description="Live runs side by side, each for its own stretch of the cohorts: one per core or"
        " machine that may work on them.",
    )
    history_days: int = Field(
        90,
        ge=0,
        description="Days of history fetched for a new user in the background, as far as the provider"
        " has them.",
    )
    start_date: date | None = Field(
        None,
        description="First day of the Dagster grid (default: 90 days ago, 1,000 with cohorts).",
    )
    keep_compact: bool = Field(
        True,
        description="Keep closed months a second time, sorted in few files, for fast scans.",
    )
    compact_after_days: int = Field(
        3, ge=0, description="Days after its end from which a month counts as closed."
    )
    compact_file_mb: int = Field(
        128, ge=16, le=1024, description="Size from which a month's compact file is cut in several."
    )
    raw_keep_days: int | None = Field(
        None,
        ge=1,
        description="Days provider records are kept; needs WEARABLE_TABLES_KEEP_DAYS of at most as many"
        " (default: for ever).",
    )
    tables_keep_days: int | None = Field(
        None, ge=1, description="Days of table rows that are kept (default: for ever)."
    )
    source_priority: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Providers by trust where several saw the same steps, best first, separated by commas;"
        " `*` means all others (default: watches and rings before phones).",
    )
    compat: Literal["openapi", "sdk"] = Field(
        "openapi",
        description="Which side the JSON takes where Terra's schema and its Python client disagree.",
    )
    webhook_url: str | None = Field(
        None,
        repr=False,
        description="Where data events are posted; unset: no webhook destination.",
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="Signing secret of the webhook (terra-signature); while it is changed the new and"
        " the old one, separated by a comma.",
    )
    webhook_types: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Data types the webhook wants, separated by commas (default: all)."
    )
    webhook_allow_private: bool = Field(
        False,
        description="Let the webhook reach private addresses (a receiver in your own network).",
    )
    webhook_concurrency: int = Field(
        16, ge=1, le=256, description="Posts to the webhook at a time."
    )
    destinations_file: Path | None = Field(
        None,
        description="TOML file of further destinations: a table for each, with kind, settings and"
        " filters; ${NAME} in a value is taken from the environment.",
    )
    freestyle_libre_base_url: str | None = Field(
        None, description="LibreLinkUp server instead of Abbott's (tests, sandbox)."
    )
    stale_after_minutes: int = Field(
        15, ge=1, description="A CGM user whose newest reading is older counts as stale."
    )
    quarantine_share: float = Field(
        0.05, ge=0, le=1, description="Share of quarantined records that turns the check red."
    )

    providers: dict[str, ProviderSettings] = Field(
        {},
        description="Apps registered at providers, as JSON {provider: {client_id, client_secret, base_url,"
        " auth_url, push_secret, scopes, requests_per_second, max_concurrency, quota_factor};"
        " or one variable each, WEARABLE_<PROVIDER>_CLIENT_ID and so on.",
    )
    serve_url: str = Field(
        "http://127.0.0.1:8080",
        description="Address browsers and providers reach `serve` at; the callback lies below it.",
    )
    connect_open: bool | None = Field(
        None,
        description="Let anybody who reaches `serve` start a connection for any reference id"
        " (default: only while serve_url is on loopback; else the link of `users connect` is needed).",
    )
    connect_redirects: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses, separated by commas, below which a browser may be sent once connected.",
    )
    push_max_bytes: int = Field(
        10 * 1024 * 1024, ge=1, description="Largest body a provider may post."
    )
    push_body_seconds: float = Field(
        10, gt=0, description="Seconds a posted body may take to arrive."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The usual sources, and the variables of providers."""
        of_providers = _ProviderVariables(settings_cls, env_settings, dotenv_settings)
        return (init_settings, of_providers, env_settings, dotenv_settings, file_secret_settings)

    def provider(self, name: str) -> ProviderSettings:
        """What is set for the provider of that name; all of it may be absent."""
        return self.providers.get(name) or ProviderSettings()

    @property
    def is_connect_open(self) -> bool:
        """Whether a connection may be started without a link made by `users connect`."""
        if self.connect_open is not None:
            return self.connect_open
        return urlsplit(self.serve_url).hostname in ("127.0.0.1", "localhost", "::1")

    @field_validator("webhook_types", "source_priority", "connect_redirects", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    def read_destinations(self) -> dict[str, object]:
        """The tables of `destinations_file` by name, `${NAME}` put in. UsageError when it is wrong."""
        if self.destinations_file is None:
            return {}
        try:
            tables = tomllib.loads(self.destinations_file.read_text())
        except OSError as error:
            raise UsageError(
                f"WEARABLE_DESTINATIONS_FILE cannot be read: {self.destinations_file}"
                f" ({error.strerror})"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            # What the parser says quotes nothing but where it stopped.
            raise UsageError(f"WEARABLE_DESTINATIONS_FILE is not TOML: {error}") from None
        return {name: _resolve(value, f"destination {name}") for name, value in tables.items()}

    @property
    def lake(self) -> str:
        """URL or path of the lake."""
        return self.lake_url or str(self.home.resolve() / "lake")

    @property
    def registry(self) -> str:
        """SQLAlchemy URL of the registry."""
        return self.registry_url or f"sqlite:///{self.home.resolve() / 'registry.sqlite'}"

    @property
    def shown_registry(self) -> str:
        """URL of the registry without its password."""
        return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", self.registry)

    @property
    def key_file(self) -> Path:
        """File that keeps the key when `secret_key` is unset."""
        return self.home.resolve() / "secret.key"

    @property
    def dagster_home(self) -> Path:
        """Folder Dagster keeps its runs in unless `DAGSTER_HOME` says otherwise."""
        own = os.environ.get("DAGSTER_HOME")
        return Path(own) if own else self.home.resolve() / "dagster"


def _resolve(value: object, whose: str) -> object:
    """`value` with `${NAME}` replaced by the environment or `.env`. UsageError when it is not set."""
    if isinstance(value, dict):
        return {key: _resolve(inner, whose) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolve(inner, whose) for inner in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or dotenv_values(".env").get(match[1])
        if not found:
            raise UsageError(
                f"{whose} in WEARABLE_DESTINATIONS_FILE asks for {match[1]}, which is not set"
                " in the environment or .env"
            )
        return found

    return _VARIABLE.sub(variable, value)


@cache
def settings() -> Settings:
    """The settings of this process. Raises UsageError naming each bad variable."""
    return load_settings()


def load_settings() -> Settings:
    """The settings as the environment is now. Raises UsageError naming each bad variable."""
    from pydantic import ValidationError

    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(
            f"WEARABLE_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()
        )
        raise UsageError(f"bad settings: {faults}") from None
