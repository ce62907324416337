"""Settings, from the environment: ``DKD_DATABASE_URL``, ``DKD_LEASE_SECONDS`` …"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict
from sqlalchemy import URL

from backend.logging import LogFormat, LogLevel
from common.home import Home
from common.object_store import parse_artifacts
from common.service_settings import ServiceSettings

CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class Settings(ServiceSettings):
    """Everything that differs between one machine and a cluster. The defaults are the embedded stack's."""

    model_config = SettingsConfigDict(
        env_prefix="DKD_", extra="ignore", frozen=True, validate_default=True, arbitrary_types_allowed=True
    )

    database_url: Annotated[str | URL, NoDecode] = Field(
        default_factory=lambda: URL.create("sqlite", database=str(Home.find().database)),
        description="sqlite:///FILE, with %3F for a question mark, or postgresql://USER:PASSWORD@HOST/NAME.",
    )
    broker_url: str = "filesystem://"
    broker_folder: Path = Field(
        default_factory=lambda: Home.find().broker, description="For filesystem:// only: where its messages lie."
    )
    artifacts: Path | str = Field(
        default_factory=lambda: Home.find().artifacts,
        description="Where the workers put their files: a folder, or s3://bucket/prefix.",
    )
    admin_token_file: Path = Field(default_factory=lambda: Home.find().admin_token)
    worker_token_file: Path = Field(default_factory=lambda: Home.find().worker_token)
    dashboard_token_file: Path | None = Field(
        None, description="Of a dashboard that has a token of its own, which may submit, and make no tokens."
    )

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    allowed_hosts: CommaSeparated = Field(
        ("127.0.0.1", "localhost", "::1"),
        description='Names that a request may be addressed to; "*" allows any. Keeps web pages from rebinding DNS.',
    )
    allowed_origins: CommaSeparated = Field(
        (),
        description="Origins of pages that may call, beside that of the request's own host: https://lab.example where "
        "a proxy terminates TLS.",
    )
    max_body_bytes: int = Field(
        1024 * 1024, ge=1024, description="Of a spec or a sweep. Many specs at once may have four times as many."
    )
    body_seconds: float = Field(
        30.0, gt=0, description="A body that has not come by then is refused; an upload is given longer, by its size."
    )
    watchdog_seconds: float = Field(
        60.0, ge=0, description="The process ends itself when its event loop has stood still so long; 0: never."
    )
    max_upload_bytes: int = Field(2 * 1024**3, ge=1024, description="Of an uploaded teacher.")
    webhook_url: str | None = Field(
        None, pattern=r"^https?://[^\s]+$", description="Whom to tell of every experiment that names nobody itself."
    )
    webhook_hosts: CommaSeparated = Field(
        (), description="Origins that a spec may name as its webhook, as https://hooks.slack.com; none by default."
    )
    webhook_secret: SecretStr | None = Field(None, description="Signs what is sent to webhooks.")
    stalled_minutes: float = Field(30.0, gt=0, description="Without a word from a running training, it has stalled.")
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    plugins: CommaSeparated = Field((), description="Modules that add entries to the catalog.")

    max_token_slots: int = Field(
        4096, ge=1, description="Of all workers together that are online with one token: what a lost one can take."
    )
    heartbeat_seconds: float = Field(10.0, gt=0)
    lease_seconds: float = Field(300.0, gt=0)
    max_attempts: int = Field(
        5, ge=1, description="Attempts lost in a row, without a new checkpoint, after which a run has failed."
    )
    retry_delay_seconds: float = Field(
        5.0, ge=0, description="Before an interrupted run is tried again; doubles with each interruption in a row."
    )
    max_retry_delay_seconds: float = Field(600.0, ge=0)
    reserve_after_seconds: float = Field(
        300.0, ge=0, description="A run over several GPUs that has waited so long has them kept free for it."
    )
    reconcile_seconds: float = Field(5.0, gt=0)
    idempotency_hours: float = Field(24.0, gt=0, description="How long an Idempotency-Key is remembered.")

    @field_validator("allowed_hosts", "allowed_origins", "plugins", "webhook_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("artifacts", mode="before")
    @classmethod
    def _store(cls, value: Any) -> Path | str:
        return parse_artifacts(value)

    @field_validator("database_url")
    @classmethod
    def _named_driver(cls, url: str | URL) -> str | URL:
        """``postgres://`` and ``postgresql://`` mean psycopg 3, the driver that is installed."""
        if isinstance(url, URL):
            return url
        scheme, separator, rest = url.partition("://")
        if not separator or scheme.partition("+")[0] not in {"sqlite", "postgresql", "postgres"}:
            raise ValueError("the database is given as sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")
        if scheme.startswith("sqlite") and "?" in rest:
            raise ValueError("a question mark in SQLite's path is written as %3F, and options after it are not taken")
        return f"postgresql+psycopg://{rest}" if scheme in {"postgres", "postgresql"} else url

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Settings:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("lease_seconds must be at least twice heartbeat_seconds, or one lost heartbeat ends a run")
        return self
