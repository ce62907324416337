"""Token files: private, with a strong token, and read without blocking."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from backend.db import Database, migrate
from backend.settings import Settings
from backend.tokens import bootstrap, identify
from client.address import find_token
from common.token_files import TokenFileError, read_token, token_weakness

GOOD = "dkd_abcdefghijklmnopqrstuvwxyz"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        database_url=f"sqlite:///{tmp_path / 'dkd.sqlite3'}",
        admin_token_file=tmp_path / "tokens" / "admin",
        worker_token_file=tmp_path / "tokens" / "worker",
    )


@pytest.fixture
def database(settings: Settings) -> Database:
    database = Database(settings.database_url)
    migrate.upgrade(database)
    return database


def test_created_token_files_are_private(database: Database, settings: Settings) -> None:
    before = os.umask(0)
    try:
        bootstrap(database, settings)
    finally:
        os.umask(before)
    for file in (settings.admin_token_file, settings.worker_token_file):
        assert mode(file) == 0o600
        assert not token_weakness(read_token(file).token)
    assert mode(settings.admin_token_file.parent) == 0o700
    database.dispose()


@pytest.mark.parametrize("before", [0o644, 0o666, 0o604, 0o620, 0o777])
def test_readable_token_file_is_made_private_with_a_warning(
    database: Database, settings: Settings, before: int, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.admin_token_file.parent.mkdir()
    settings.admin_token_file.write_text(GOOD + "\n")
    settings.admin_token_file.chmod(before)
    bootstrap(database, settings)
    assert mode(settings.admin_token_file) & 0o027 == 0
    assert f"had the mode {before:04o}" in capsys.readouterr().out
    assert identify(database, GOOD) is not None
    database.dispose()


@pytest.mark.parametrize("before", [0o600, 0o400, 0o440, 0o640])
def test_private_token_file_keeps_its_mode(tmp_path: Path, before: int) -> None:
    file = tmp_path / "token"
    file.write_text(GOOD)
    file.chmod(before)
    assert (read_token(file).token, read_token(file).warning, mode(file)) == (GOOD, "", before)


@pytest.mark.parametrize("token", ["abcde", "a" * 40, "short-token", "two words of a token that is long", "ü" * 30])
def test_weak_token_is_refused(database: Database, settings: Settings, token: str) -> None:
    settings.admin_token_file.parent.mkdir()
    settings.admin_token_file.write_text(token)
    with pytest.raises(TokenFileError, match="is not used: a token") as refused:
        bootstrap(database, settings)
    assert token not in str(refused.value)
    assert identify(database, token) is None
    database.dispose()


def test_programs_report_a_token_file_error_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "admin"
    file.write_text("abcde")
    environment = {**os.environ, "DKD_HOME": str(tmp_path / "home"), "DKD_ADMIN_TOKEN_FILE": str(file)}
    for command in ("migrate", "bootstrap"):
        done = subprocess.run(
            [sys.executable, "-m", "backend", command], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert "a token has at least 20 characters" in done.stderr
    assert "Traceback" not in done.stderr
    assert "abcde" not in done.stderr


def test_linked_file_and_file_of_several_lines_keep_their_mode(tmp_path: Path) -> None:
    """A link to a file that all programs read, as a list of accounts, must not end their reading."""
    file, link = tmp_path / "file", tmp_path / "token"
    link.symlink_to(file)
    file.write_text(GOOD + "\n")
    file.chmod(0o644)
    assert read_token(link).token == GOOD
    assert "had the mode 0644" in read_token(link).warning
    assert mode(file) == 0o644
    file.write_text("root:x:0:0:root:/root:/bin/bash\nann:x:1:1::/home/ann:/bin/sh\n")
    for path in (link, file):
        with pytest.raises(TokenFileError, match="not a file of one line"):
            read_token(path)
    assert mode(file) == 0o644


@pytest.mark.parametrize("kind", ["fifo", "folder", "endless", "huge", "bytes"])
def test_token_file_that_is_not_one_line_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "token"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(b"\xff\xfe" if kind == "bytes" else b"a" * 10_000_000)
    with pytest.raises(TokenFileError):
        read_token(file)


def test_client_makes_its_token_file_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text(GOOD)
    file.chmod(0o644)
    monkeypatch.delenv("DKD_API_TOKEN", raising=False)
    monkeypatch.setenv("DKD_API_TOKEN_FILE", str(file))
    assert find_token(None, "http://example.org", variable="DKD_API_TOKEN", local=tmp_path / "none") == GOOD
    assert mode(file) == 0o640 & ~0o027 | (0o644 & 0o040)
    assert "had the mode 0644" in caplog.text
    assert GOOD not in caplog.text
