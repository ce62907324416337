"""The backend's settings: read from the environment and from files, and refused with the name of the variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from backend.__main__ import cli
from backend.settings import Settings
from common.service_settings import settings_problems

DURATIONS = [name for name in Settings.model_fields if name.endswith(("_seconds", "_minutes", "_hours"))]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"DKD_DATABASE_URL": "mysql://x/y"}, "DATABASE_URL"),
        ({"DKD_PORT": "0"}, "PORT"),
        ({"DKD_LEASE_SECONDS": "5"}, "lease_seconds"),
    ],
)
def test_invalid_setting_is_named(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], field: str) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(cli, ["migrate"])
    assert result.exit_code == 2
    assert field in result.output


def test_misspelt_setting_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DKD_LEASE_SECOND", "DKD_SLOTS", "DKD_WORKER_TOKEN", "DKD_API_URL", "DKD_PORT"):
        monkeypatch.setenv(name, "1")
    assert Settings.misspelled_variables() == [
        "DKD_LEASE_SECOND is not a setting and has no effect; did you mean DKD_LEASE_SECONDS?"
    ]


def test_invalid_setting_is_reported_by_its_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_PORT", "many")
    result = CliRunner().invoke(cli, ["serve"])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: DKD_PORT: should be a valid integer, unable to parse string as an integer\n",
    )
    monkeypatch.setenv("DKD_PORT", "8000")
    monkeypatch.setenv("DKD_LEASE_SECONDS", "1")
    result = CliRunner().invoke(cli, ["serve"])
    assert result.stderr.startswith("error: lease_seconds must be at least twice heartbeat_seconds")


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e13"])
def test_invalid_duration_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DKD_{name.upper()}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert settings_problems(caught.value)[0].startswith(f"DKD_{name.upper()}: ")


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "DKD_HOME": str(tmp_path),
        "DKD_ALLOWED_HOSTS": "backend, lab.example",
        "DKD_PLUGINS": "",
        "DKD_DATABASE_URL": "postgresql://dkd:secret@db/dkd",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.allowed_hosts == ("backend", "lab.example")
    assert settings.plugins == ()
    assert settings.database_url == "postgresql+psycopg://dkd:secret@db/dkd"
    assert settings.admin_token_file == tmp_path / "tokens" / "admin"


def test_settings_may_be_secret_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder, name, value in (
        ("database", "dkd_database_url", "postgresql://dkd:secret@db/dkd\n"),
        ("broker", "dkd_broker_url", "redis://:secret@redis/0\n"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(value)
    monkeypatch.setenv("DKD_SECRETS", f"{tmp_path / 'database'}:{tmp_path / 'broker'}")
    settings = Settings()
    assert settings.database_url == "postgresql+psycopg://dkd:secret@db/dkd"
    assert settings.broker_url == "redis://:secret@redis/0"
    monkeypatch.setenv("DKD_BROKER_URL", "filesystem://")
    assert Settings().broker_url == "filesystem://"
