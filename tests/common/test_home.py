"""The home folder of an embedded stack: any path is taken literally, and its files are private."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.__main__ import cli
from backend.db import Database, migrate
from backend.settings import Settings
from common.home import Home

NAMES = [
    b"a?b#c %41 \xc3\xa9",
    b"plain",
    b"%",
    b"a?mode=memory",
    b"#",
    b"sqlite://x@y:1/z",
    b"\xff no UTF-8",
    b"a" * 200,
]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("name", NAMES)
def test_database_is_in_the_home_for_any_name_of_the_home(
    name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), *name.split(b"/"))))
    monkeypatch.setenv("DKD_HOME", str(home))
    before = os.umask(0o022)
    try:
        database = Database(Settings().database_url)
        migrate.upgrade(database)
        with database.read():
            assert {mode(path) for path in home.iterdir()} == {0o600}
        database.dispose()
    finally:
        os.umask(before)
    assert Home.find().database.is_file()
    assert {path.name for path in home.iterdir()} == {"dkd.sqlite3"}
    assert [path.name for path in tmp_path.iterdir()] == [os.fsdecode(name.split(b"/")[0])]


def test_two_homes_have_two_databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for name in ("a?b", "a?c", "a"):
        monkeypatch.setenv("DKD_HOME", str(tmp_path / name))
        database = Database(Settings().database_url)
        migrate.upgrade(database)
        database.dispose()
        files.append(Home.find().database)
    assert all(file.is_file() for file in files)


def test_database_at_the_path_of_an_older_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_HOME", str(tmp_path / "a%41"))
    older = tmp_path / "aA" / "dkd.sqlite3"
    older.parent.mkdir()
    older.touch()
    result = CliRunner().invoke(cli, ["migrate"])
    assert result.exit_code != 0
    assert str(older) in result.output.replace("\n", "")
    assert not (tmp_path / "a%41" / "dkd.sqlite3").exists()


def test_url_with_a_question_mark_is_refused_with_the_correct_form() -> None:
    with pytest.raises(ValueError, match="%3F"):
        Settings(database_url="sqlite:////srv/a?b/dkd.sqlite3")


def test_home_and_its_files_are_made_private(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "file").touch(mode=0o644)
    for folder in ("logs", "tokens", "artifacts/runs/x/attempt-1", "broker/messages", "workers"):
        (home.path / folder).mkdir(parents=True)
    for file in (
        "dkd.sqlite3",
        "dkd.sqlite3-wal",
        "logs/a.log",
        "tokens/admin",
        "artifacts/runs/x/attempt-1/w",
        "note",
    ):
        (home.path / file).touch()
        (home.path / file).chmod(0o664)
    (home.path / "note").touch()
    (home.path / "note").chmod(0o664)
    (home.path / "artifacts" / "tool").touch()
    (home.path / "artifacts" / "tool").chmod(0o755)
    (home.path / "cache").symlink_to(outside)
    (home.path / "logs" / "link").symlink_to(outside)
    for path in (home.path, *(item for item in home.path.rglob("*") if item.is_dir() and not item.is_symlink())):
        path.chmod(0o755)

    made = home.make_private()

    assert made.changed > 10
    assert made.refused == ()
    inside = [path for path in home.path.rglob("*") if not path.is_symlink() and path.name != "note"]
    assert {mode(path) for path in (home.path, *inside) if path.is_dir()} == {0o700}
    assert {mode(path) for path in inside if path.is_file()} == {0o600, 0o700}
    assert mode(home.path / "artifacts" / "tool") == 0o700
    assert (mode(home.path / "note"), mode(outside), mode(outside / "file")) == (0o664, 0o755, 0o644)
    assert home.make_private().changed == 0


def test_shared_folder_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "dkd.sqlite3").touch()
    Home(tmp_path).make_private()
    assert (mode(tmp_path), mode(tmp_path / "dkd.sqlite3")) == (0o1777, 0o600)
