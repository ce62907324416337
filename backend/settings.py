"""The backend's settings, from environment variables: ``DKD_DATABASE_URL``, ``DKD_LEASE_SECONDS`` …"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict
from sqlalchemy import URL

from backend.logging import LogFormat, LogLevel
from common.home import Home
from common.http_clients import is_loopback_url
from common.object_store import parse_artifacts
from common.service_settings import Hours, Minutes, Seconds, ServiceSettings

CommaSeparated = Annotated[tuple[str, ...], NoDecode]
Rate = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Settings(ServiceSettings):
    """Settings that differ between one machine and a cluster. The defaults are those of the embedded stack."""

    model_config = SettingsConfigDict(
        env_prefix="DKD_", extra="ignore", frozen=True, validate_default=True, arbitrary_types_allowed=True
    )

    database_url: Annotated[str | URL, NoDecode] = Field(
        default_factory=lambda: URL.create("sqlite", database=str(Home.find().database)),
        description="sqlite:///FILE, with %3F for a question mark, or postgresql://USER:PASSWORD@HOST/NAME.",
    )
    broker_url: str = "filesystem://"
    broker_folder: Path = Field(
        default_factory=lambda: Home.find().broker, description="Folder of the messages; for filesystem:// only."
    )
    artifacts: Path | str = Field(
        default_factory=lambda: Home.find().artifacts,
        description="The artifact store, which the workers write to: a folder, or s3://bucket/prefix.",
    )
    admin_token_file: Path = Field(default_factory=lambda: Home.find().admin_token)
    worker_token_file: Path = Field(default_factory=lambda: Home.find().worker_token)
    dashboard_token_file: Path | None = Field(
        None, description="File for the token of a dashboard; that token may submit, and cannot create tokens."
    )

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    allowed_hosts: CommaSeparated = Field(
        ("127.0.0.1", "localhost", "::1"),
        description='Host names that a request may be addressed to; "*" allows any. Prevents DNS rebinding.',
    )
    allowed_origins: CommaSeparated = Field(
        (),
        description="Origins of web pages that may call the API, in addition to the request's own host, such as "
        "https://lab.example if a proxy terminates TLS.",
    )
    max_body_bytes: int = Field(
        1024 * 1024, ge=1024, description="Maximum size of a spec or a sweep; a bulk submission may have four times it."
    )
    body_seconds: Seconds = Field(
        30.0, gt=0, description="Time limit of a request body; that of an upload grows with its size."
    )
    watchdog_seconds: Seconds = Field(
        60.0, description="The process ends itself if its event loop is blocked for this long; 0: never."
    )
    max_upload_bytes: int = Field(2 * 1024**3, ge=1024, description="Maximum size of an uploaded teacher.")
    webhook_url: str | None = Field(
        None, pattern=r"^https?://[^\s]+$", description="Webhook of every experiment whose spec names none."
    )
    webhook_hosts: CommaSeparated = Field(
        (), description="Origins that a spec may name as its webhook, such as https://hooks.slack.com."
    )
    webhook_secret: SecretStr | None = Field(None, description="Secret that signs the messages to webhooks.")
    send_webhooks: bool = Field(
        True, description="Whether messages are sent; false for a backend of a copied database."
    )
    stalled_minutes: Minutes = Field(30.0, gt=0, description="A running training that reports nothing has stalled.")
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    plugins: CommaSeparated = Field((), description="Modules that add entries to the catalog.")

    max_token_slots: int = Field(
        4096, ge=1, description="Slots of all online workers with one token; limits what a stolen token can claim."
    )
    rate_per_token: Rate = Field(8000.0, description="Requests per second with one token, over ten seconds; 0: any.")
    rate_per_address: Rate = Field(
        10000.0, description="Requests per second from one address, averaged over ten seconds; 0: any number."
    )
    rate_of_refused: Rate = Field(
        10.0, description="Requests per second without a valid token from one address, over ten seconds; 0: any number."
    )
    session_idle_hours: Hours = Field(
        168.0, ge=0.25, le=1e5, description="Hours without a request after which a person's session ends."
    )
    session_hours: Hours = Field(
        720.0, ge=0.25, le=1e5, description="Hours after which a person's session ends in any case."
    )
    oidc_issuer: str | None = Field(
        None,
        max_length=255,
        pattern=r"^https?://[^\s?#]+$",
        description="Issuer of an OpenID Connect provider, such as https://id.lab.example, with whose ID tokens people "
        "sign in.",
    )
    oidc_client_id: str | None = Field(
        None, min_length=1, max_length=255, description="Client id that ID tokens must have as their audience."
    )
    oidc_create: CommaSeparated = Field(
        (),
        description="Mail addresses, such as *@lab.example, for which the first sign-in with an ID token creates a "
        "person without roles; none by default.",
    )
    heartbeat_seconds: Seconds = Field(10.0, gt=0)
    lease_seconds: Seconds = Field(300.0, gt=0)
    max_attempts: int = Field(
        5, ge=1, description="A run fails after this many lost attempts in a row without a new checkpoint."
    )
    retry_delay_seconds: Seconds = Field(
        5.0,
        ge=0,
        description="Delay before an interrupted run is queued again; doubles with each interruption in a row.",
    )
    max_retry_delay_seconds: Seconds = 600.0
    reserve_after_seconds: Seconds = Field(
        300.0, description="GPUs are kept free for a run on several GPUs once it has waited this long."
    )
    reconcile_seconds: Seconds = Field(5.0, gt=0)
    idempotency_hours: Hours = Field(24.0, gt=0, description="Hours for which an Idempotency-Key is stored.")
    audit_days: float = Field(
        400.0, ge=1, le=1e5, description="Days for which `python -m backend gc` keeps entries of the audit log."
    )
    trusted_proxies: CommaSeparated = Field(
        (),
        description="Addresses or networks of proxies, such as 10.0.0.5 or 10.0.0.0/24, whose X-Forwarded-For and "
        "X-Forwarded-Proto are believed; from all other senders these headers are ignored.",
    )

    @field_validator(
        *("allowed_hosts", "allowed_origins", "oidc_create", "plugins", "trusted_proxies", "webhook_hosts"),
        mode="before",
    )
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
        """Select psycopg 3, the installed driver, for ``postgres://`` and ``postgresql://``."""
        if isinstance(url, URL):
            return url
        scheme, separator, location = url.partition("://")
        if not separator or scheme.partition("+")[0] not in {"sqlite", "postgresql", "postgres"}:
            raise ValueError("must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")
        if scheme.startswith("sqlite") and "?" in location:
            raise ValueError("write a question mark in the path of SQLite's file as %3F; options are not supported")
        return f"postgresql+psycopg://{location}" if scheme in {"postgres", "postgresql"} else url

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Settings:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                "lease_seconds must be at least twice heartbeat_seconds; else one lost heartbeat ends a run"
            )
        return self

    @model_validator(mode="after")
    def _provider_is_complete(self) -> Settings:
        if (self.oidc_issuer is None) != (self.oidc_client_id is None):
            raise ValueError("oidc_issuer and oidc_client_id are set together, or neither is")
        if self.oidc_issuer and self.oidc_issuer.startswith("http://") and not is_loopback_url(self.oidc_issuer):
            raise ValueError("oidc_issuer must be https://…, because its keys decide who signs in")
        return self
