"""Compares a copy of the artifacts with a database: the files to which its rows refer exist and are intact."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from backend.artifacts.run_files import Store, StoredFile
from backend.db.models import Run, Upload

_PATH = re.compile(r"runs/([0-9a-z]{1,32})/attempt-([0-9]{1,9})/(.+)")


@dataclass
class CheckedArtifacts:
    """The result of ``check_artifacts``.

    Attributes:
        weights: Weights of runs with the SHA-256 of the database.
        checkpoints: Checkpoints that exist. The database has no SHA-256 of them.
        uploads: Uploads with the SHA-256 of the database.
        listed: Other files with the size and SHA-256 of the manifest of their attempt; 0 if the store is a folder,
            which has no manifests.
        bytes: Number of bytes that were read.
        problems: One sentence for each file that is missing or has another content.
    """

    weights: int = 0
    checkpoints: int = 0
    uploads: int = 0
    listed: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)


def check_artifacts(session: Session, store: Store) -> CheckedArtifacts:
    """Check the weights, checkpoints and uploads to which the database refers, and the files of their attempts."""
    checked = CheckedArtifacts()
    query = (
        select(Run.id, Run.label, Run.state, Run.weights_path, Run.weights_sha256, Run.checkpoint_path)
        .where(or_(Run.weights_path != "", Run.checkpoint_path != ""))
        .order_by(Run.id)
    )
    for run in session.execute(query):
        weights = run.weights_path if run.state == "succeeded" else ""
        # A run that has succeeded is never resumed, so its checkpoint may have been removed.
        path = weights or run.checkpoint_path
        match = _PATH.fullmatch(path)
        if match is None or match[1] != run.id:
            if path:
                checked.problems.append(f"{path}, of the run {run.id}, is not a path in the artifact store")
            continue
        files = {file.name: file for file in store.files(run.id, [int(match[2])])}
        file = files.pop(match[3], None)
        if file is None:
            kind = "weights" if weights else "checkpoint"
            checked.problems.append(f"{path} is missing; it is the {kind} of {run.label}")
            continue
        if _is_intact(checked, store, file, path, run.weights_sha256 if weights else file.sha256):
            checked.weights += bool(weights)
            checked.checkpoints += not weights
        for other in files.values():
            if other.sha256:
                folder = path.removesuffix(match[3])
                checked.listed += _is_intact(checked, store, other, f"{folder}{other.name}", other.sha256)
    for upload in session.scalars(select(Upload).order_by(Upload.sha256)):
        file = store.upload(upload.sha256, upload.size)
        checked.uploads += _is_intact(checked, store, file, f"the upload {upload.name}", upload.sha256)
    return checked


def _is_intact(checked: CheckedArtifacts, store: Store, file: StoredFile, name: str, sha256: str) -> bool:
    if not sha256:
        return True
    digest = hashlib.sha256()
    size = 0
    try:
        for block in _all_blocks(store, file):
            digest.update(block)
            size += len(block)
    except OSError as error:
        checked.problems.append(f"{name} cannot be read: {error}")
        return False
    checked.bytes += size
    if digest.hexdigest() != sha256:
        checked.problems.append(f"{name} has another SHA-256 than the one that is recorded ({size:,} bytes)")
        return False
    return True


def _all_blocks(store: Store, file: StoredFile) -> Iterator[bytes]:
    # One more byte than expected, so that a file that is too long is noticed.
    return store.blocks(file, 0, file.size + 1 if file.path else file.size)
