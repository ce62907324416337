"""Concurrent deletion and creation: stored rows have their files, and references have their targets."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from sqlalchemy import delete

from backend.artifacts.run_files import FolderStore
from backend.db import Database, models
from backend.operations.retention import RetentionPolicy, apply, plan_removal
from backend.settings import Settings
from tests.backend.concurrently import concurrently
from tests.backend.lab import Lab, spec
from tests.backend.test_files import UPLOADS, safetensors

ROUNDS = 60


def test_listed_upload_has_its_file(lab: Lab, settings: Settings) -> None:
    content = safetensors()

    def work(thread_lab: Lab, index: int) -> None:
        for number in range(ROUNDS):
            if index % 2:
                assert thread_lab.admin.post(UPLOADS, params={"name": "same"}, content=content).status_code in (
                    201,
                    409,
                )
            else:
                assert thread_lab.admin.delete(f"{UPLOADS}/same").status_code in (204, 404)
            if number % 5 == 4:
                assert thread_lab.admin.get(UPLOADS).status_code == 200

    concurrently(lab, 4, work)
    assert lab.admin.post(UPLOADS, params={"name": "same"}, content=content).status_code == 201
    _assert_files_exist(lab, settings)
    left = [path.name for path in Path(settings.artifacts, "uploads").iterdir() if path.name.startswith(".new-")]
    assert not left


def _assert_files_exist(lab: Lab, settings: Settings) -> None:
    """Check that every listed upload has its file. No other thread may delete uploads meanwhile."""
    for item in lab.admin.get(UPLOADS).json()["items"]:
        assert Path(settings.artifacts, "uploads", f"{item['sha256']}.safetensors").exists()


def test_file_deleted_between_upload_and_insertion_is_written_again(
    lab: Lab, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, calls = FolderStore.add_upload, itertools.count(1)

    def kept_and_deleted(store: FolderStore, path: Path, sha256: str) -> None:
        keep(store, path, sha256)
        if next(calls) == 1:  # as a concurrent deletion of the same file does
            store.remove_upload(sha256)

    monkeypatch.setattr(FolderStore, "add_upload", kept_and_deleted)
    assert lab.admin.post(UPLOADS, params={"name": "same"}, content=safetensors()).status_code == 201
    _assert_files_exist(lab, settings)


def test_file_uploaded_again_is_not_deleted(lab: Lab, settings: Settings, database: Database) -> None:
    store, policy = FolderStore(Path(settings.artifacts)), RetentionPolicy(orphan_hours=0.0)
    made = lab.admin.post(UPLOADS, params={"name": "same"}, content=safetensors()).json()
    with database.write() as session:
        session.execute(delete(models.Upload))
    removal_plan = plan_removal(database, store, policy)
    assert [file.reason for file in removal_plan.files] == ["an upload without a row in the database"]
    assert lab.admin.post(UPLOADS, params={"name": "same"}, content=safetensors()).json()["sha256"] == made["sha256"]
    assert not apply(database, store, removal_plan, policy)
    _assert_files_exist(lab, settings)


def test_accepted_spec_has_its_upload(lab: Lab, settings: Settings) -> None:
    numbers = itertools.count()
    content = safetensors()

    def work(thread_lab: Lab, index: int) -> list[str]:
        accepted = []
        for _ in range(ROUNDS // 3):
            if index == 0:
                assert thread_lab.admin.delete(f"{UPLOADS}/mine").status_code in (204, 404, 409)
            elif index == 1:
                assert thread_lab.admin.post(UPLOADS, params={"name": "mine"}, content=content).status_code in (
                    201,
                    409,
                )
            else:
                teacher = {"model": "resnet8", "weights": "upload:mine"}
                name = f"of an upload {next(numbers)}"
                answer = thread_lab.admin.post("/api/v1/experiments", json=spec(name, teacher=teacher))
                assert answer.status_code in (201, 422), answer.text
                accepted += [name] if answer.status_code == 201 else []
        return accepted

    accepted = [name for names in concurrently(lab, 4, work) for name in names]
    if accepted:  # an unfinished teacher that uses the upload prevents its deletion
        assert [item["name"] for item in lab.admin.get(UPLOADS).json()["items"]] == ["mine"]
        _assert_files_exist(lab, settings)


def test_teacher_deleted_while_shared_exists_for_its_students(lab: Lab) -> None:
    """Experiments with one teacher are submitted and deleted concurrently; every remaining run has its teacher."""
    lab.register(slots=200)
    numbers = itertools.count()

    def work(thread_lab: Lab, index: int) -> None:
        for _ in range(ROUNDS // 6):
            name = f"shared {index} {next(numbers)}"
            made = thread_lab.submit(spec(name))
            thread_lab.cancel_experiment(made["id"])
            answer = thread_lab.admin.delete(f"/api/v1/experiments/{made['id']}")
            assert answer.status_code in (204, 409), answer.text

    concurrently(lab, 4, work)
    last = lab.submit(spec("the last"))
    runs = {run["id"] for run in lab.admin.get("/api/v1/runs", params={"limit": 200}).json()["items"]}
    for run in lab.experiment(last["id"])["runs"]:
        assert run["teacher_run_id"] is None or run["teacher_run_id"] in runs
    for listed in lab.admin.get("/api/v1/experiments", params={"limit": 100}).json()["items"]:
        for run in lab.experiment(listed["id"])["runs"]:
            assert lab.run(run["id"])["teacher_run_id"] in (None, *runs)
