"""``python -m backend gc``: unreferenced items are deleted, and referenced ones are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from typer.testing import CliRunner, Result

from backend.__main__ import cli
from backend.artifacts.run_files import open_store
from backend.db import Database, models, now
from backend.operations.retention import RetentionPolicy, apply, plan_removal
from backend.settings import Settings
from common.object_store import ObjectStore
from tests import services
from tests.backend import filled
from tests.backend.lab import Lab
from tests.backend.test_files import UPLOADS

REMOVED = {
    "runs/06h0000000000000/attempt-1": "of a deleted run",
    "runs/{done}/attempt-9": "of an unknown attempt",
    "runs/{done}/attempt-1.old-abcd": "neither a run nor an upload",
    "runs/{broken}/attempt-2": "of an attempt that was failed",
    "uploads/" + "e" * 64 + ".safetensors": "an upload without a row in the database",
    "uploads/.new-abcd": "neither a run nor an upload",
}
KEPT = ("runs/{done}/attempt-1", "runs/{broken}/attempt-1", "runs/{held}/attempt-1")


@pytest.fixture
def ids(lab: Lab, database: Database, settings: Settings) -> dict[str, str]:
    """Create runs with files and attempts that are all long past; return the ids of ``filled.fill``."""
    run_ids = filled.fill(lab, database)
    assert isinstance(settings.artifacts, Path)
    for name in (*REMOVED, *KEPT):
        path = settings.artifacts / name.format(**run_ids)
        if name.startswith("runs"):
            path.mkdir(parents=True)
            path = path / "file"
        path.write_bytes(b"content")
    long_ago = time.time() - 100 * 86_400
    for path in settings.artifacts.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    with database.write() as session:
        before = now(session) - timedelta(days=1000)
        for table in (models.Attempt, models.Run, models.SlotUsage):
            ended = update(table).where(table.ended_at.is_not(None)).values(ended_at=before)
            session.execute(ended.execution_options(synchronize_session=False))
        session.execute(update(models.IdempotencyKey).values(created_at=before))
        session.execute(update(models.Token).where(models.Token.name == "reader").values(expires_at=before))
    return run_ids


@pytest.fixture
def gc(settings: Settings, database_url: str) -> Callable[..., Result]:
    environment = {"DKD_DATABASE_URL": database_url, "DKD_ARTIFACTS": str(settings.artifacts)}
    return lambda *more: CliRunner().invoke(cli, ["gc", *more], env=environment)


def names(settings: Settings) -> set[str]:
    root = settings.artifacts
    assert isinstance(root, Path)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_listing_removable_items_changes_nothing(
    ids: dict[str, str], gc: Callable[..., Result], settings: Settings, database: Database
) -> None:
    before = names(settings)
    result = gc()
    assert result.exit_code == 0, result.output
    for name, reason in REMOVED.items():
        assert f"{name.format(**ids).removeprefix('runs/')}  ({reason})" in result.output
    for name in KEPT:
        assert f"{name.format(**ids).removeprefix('runs/')} " not in result.output
    assert "1 idempotency keys" in result.output
    assert "1 tokens" in result.output
    assert "1 log lines" in result.output
    assert "3 used times" in result.output
    assert names(settings) == before
    with database.read() as session:
        assert session.scalars(select(models.Token).where(models.Token.name == "reader")).one()


def test_gc_deletes_unreferenced_items(
    ids: dict[str, str], gc: Callable[..., Result], lab: Lab, settings: Settings, database: Database
) -> None:
    uploaded = lab.admin.get(UPLOADS).json()["items"][0]["sha256"]
    result = gc("--delete")
    assert result.exit_code == 0, result.output
    expected = {f"{name.format(**ids)}/file" for name in KEPT} | {f"uploads/{uploaded}.safetensors"}
    assert names(settings) == expected
    with database.read() as session:
        assert sorted(session.scalars(select(models.Token.name))) == ["admin", "worker"]
        assert not session.scalars(select(models.IdempotencyKey)).all()
        assert not session.scalars(select(models.LogLine)).all()
        assert session.scalars(select(models.SlotUsage.run_id)).all() == [ids["held"]], "what runs still counts"
        assert session.scalars(select(models.MetricPoint)).all(), "metrics are never old"
    assert lab.retry(ids["broken"])["state"] == "queued"
    assert lab.claim("worker-one")["checkpoint"]["path"].startswith(f"runs/{ids['broken']}/attempt-1/")
    assert "0 bytes in 0 items may be removed" in gc().output


def test_gc_keeps_recent_items(ids: dict[str, str], gc: Callable[..., Result], settings: Settings) -> None:
    """A new file is in the store before its row is in the database."""
    before = names(settings)
    for path in Path(settings.artifacts).rglob("*"):
        os.utime(path)
    result = gc("--delete", "--attempt-days", "2000", "--log-days", "2000", "--token-days", "2000")
    assert result.exit_code == 0, result.output
    assert names(settings) == before


def test_database_without_runs_removes_nothing(
    ids: dict[str, str], settings: Settings, migrated_file: Path, tmp_path: Path
) -> None:
    before = names(settings)
    environment = {"DKD_DATABASE_URL": f"sqlite:///{migrated_file}", "DKD_ARTIFACTS": str(settings.artifacts)}
    result = CliRunner().invoke(cli, ["gc", "--delete"], env=environment)
    assert result.exit_code == 2
    assert "has no runs" in result.output
    assert names(settings) == before


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with services.s3() as url:
        yield url


def test_gc_deletes_unreferenced_objects_of_a_bucket(
    lab: Lab, database: Database, settings: Settings, bucket: str, tmp_path: Path
) -> None:
    ids = filled.fill(lab, database)
    store = ObjectStore(bucket)
    store.remove_folder("runs")
    file = tmp_path / "file"
    file.write_bytes(b"content")
    for name in (f"runs/{ids['done']}/attempt-1", f"runs/{ids['done']}/attempt-9", "runs/06h0000000000000/attempt-1"):
        store.write_manifest(name, {"file": store.add(name, "file", file)})
    store.put(file, "uploads/" + "e" * 64 + ".safetensors")
    policy = RetentionPolicy(orphan_hours=-1)  # every file is old enough
    opened = open_store(bucket)
    removal_plan = plan_removal(database, opened, policy)
    assert sorted(item.item.name for item in removal_plan.files) == sorted(
        [f"{ids['done']}/attempt-9", "06h0000000000000/attempt-1", "uploads/" + "e" * 64 + ".safetensors"]
    )
    assert apply(database, opened, removal_plan, policy) == []
    assert {key.rpartition("/")[0] for key, _ in store.keys("runs")} == {f"runs/{ids['done']}/attempt-1"}
    with suppress(StopIteration):
        next(store.keys("uploads"))
        pytest.fail("the upload is still there")


@pytest.mark.parametrize("option", ["--attempt-days", "--orphan-hours", "--log-days", "--token-days"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_period_that_is_no_number_is_refused(gc: Callable[..., Result], option: str, value: str) -> None:
    result = gc(option, value)
    assert result.exit_code == 2
    assert option in result.output
