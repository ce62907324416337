"""Disk space, data sets and the database's schema."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from backend.db import migrate
from client.doctor import storage
from common.home import Home


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("DATA_DIR", str(folder))
    return folder


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr("client.doctor.storage.shutil.disk_usage", lambda _: usage)


def test_enough_space_is_one_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 50 << 30)
    (item,) = storage.check_disk()
    assert item.status == "ok"
    assert item.message.count("50.0 GiB free") == 4
    monkeypatch.setenv("DKD_ARTIFACTS", "s3://bucket/prefix")
    (item,) = storage.check_disk()
    assert item.message.count("50.0 GiB free") == 3


@pytest.mark.parametrize(("free", "status"), [(3 << 30, "warning"), (1 << 20, "error")])
def test_little_space_is_reported_per_folder(
    data: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str
) -> None:
    with_free(monkeypatch, free)
    items = list(storage.check_disk())
    assert {item.status for item in items} == {status}
    assert len(items) == 4
    assert all(item.action for item in items)


def test_a_file_in_place_of_the_home_is_an_error(data: Path, home: Home) -> None:
    home.path.write_text("")
    problems = [item for item in storage.check_disk() if item.status == "error"]
    assert problems
    assert "is a file" in problems[0].message


def test_folders_without_write_access(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.doctor.storage.os.access", lambda path, mode: False)
    statuses = {item.message.partition(":")[0]: item.status for item in storage.check_disk()}
    assert statuses["home"] == "error"
    assert statuses["DATA_DIR"] == "warning"


def test_data_sets_are_listed_by_their_folders(data: Path) -> None:
    for name in ("cifar-100-python", "MNIST", "tiny-imagenet-200", "something"):
        (data / name).mkdir()
    (data / "cifar-10-python.tar.gz").touch()
    (item,) = storage.check_datasets()
    assert item.status == "ok"
    assert (
        "cifar10 (cifar-10-python.tar.gz), cifar100 (cifar-100-python), mnist (MNIST), "
        "tiny_imagenet (tiny-imagenet-200)" in item.message
    )
    assert "something" not in item.message


def test_missing_data_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "none"))
    (item,) = storage.check_datasets()
    assert item.status == "error"
    assert item.action
    monkeypatch.delenv("DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    (item,) = storage.check_datasets()
    assert item.status == "ok", "nobody has asked for data sets"


def test_every_data_set_with_files_has_names() -> None:
    # Other tests of this process may have registered data sets of their own.
    code = "from core.catalog import DATASETS; print(*(entry.name for entry in DATASETS))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(storage.DATASET_NAMES) == set(names) - {"digits", "synthetic", "digit_scenes", "folder"}


def test_the_newest_revision_is_the_backends() -> None:
    assert storage.newest_revision() == migrate.head_revision()


def database_at(home: Home, revision: str) -> None:
    home.path.mkdir(parents=True)
    with sqlite3.connect(home.database) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR)")
        database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    database.close()


@pytest.mark.parametrize(
    ("revision", "status", "text"),
    [
        (migrate.head_revision(), "ok", "has schema version"),
        ("0001", "warning", "this version needs"),
        ("9999", "error", "written by a later version"),
    ],
)
def test_the_schema_of_a_local_database(home: Home, revision: str, status: str, text: str) -> None:
    database_at(home, revision)
    (item,) = storage.check_database()
    assert item.status == status
    assert text in item.message
    assert bool(item.action) is (status != "ok")


def test_missing_database_is_no_error(home: Home) -> None:
    (item,) = storage.check_database()
    assert item.status == "ok"
    assert not home.database.exists(), "the check must not create it"


def test_file_that_is_no_database_is_an_error(home: Home) -> None:
    home.path.mkdir(parents=True)
    home.database.write_text("this is a text, and by far not long enough to be a database of SQLite")
    (item,) = storage.check_database()
    assert item.status == "error"
    assert "cannot be read" in item.message


def test_a_database_on_a_server_is_left_to_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_DATABASE_URL", "postgresql://user:secret@host/lab")
    (item,) = storage.check_database()
    assert item.status == "ok"
    assert "secret" not in item.message


def test_a_database_named_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_DATABASE_URL", f"sqlite:///{tmp_path}/what%3F.sqlite3")
    assert storage.sqlite_file() == tmp_path / "what?.sqlite3"
