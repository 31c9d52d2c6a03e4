"""The only reader of the environment: every knob, its default and its meaning."""

import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from wearable_pipeline.errors import UsageError

MAX_COHORTS = 64


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
    start_date: date | None = Field(
        None,
        description="First day of the Dagster grid (default: 90 days ago, 1,000 with cohorts).",
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
        None, description="Signing secret of the webhook (terra-signature)."
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
    freestyle_libre_base_url: str | None = Field(
        None, description="LibreLinkUp server instead of Abbott's (tests, sandbox)."
    )
    stale_after_minutes: int = Field(
        15, ge=1, description="A CGM user whose newest reading is older counts as stale."
    )
    quarantine_share: float = Field(
        0.05, ge=0, le=1, description="Share of quarantined records that turns the check red."
    )

    @field_validator("webhook_types", "source_priority", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

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
        return self.home.resolve() / "dagster"


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
