"""Uploaded weights of teachers: stored under their SHA-256, found by name or SHA-256."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from backend import audit
from backend.artifacts.run_files import Store
from backend.artifacts.safetensors_header import Contents, NotSafetensorsError, inspect
from backend.db import Database, models, now, session_on
from backend.db.serialized import SerializedTask, serialize
from backend.db.upsert import insert_if_absent
from backend.errors import conflict, invalid, not_found
from backend.people import projects, rights
from backend.queue import quotas
from core.protocol.artifacts import UPLOAD, Upload
from core.protocol.people import DEFAULT_PROJECT
from core.protocol.public import TERMINAL, ProblemField
from core.specs import ExperimentSpec, Problem, SpecError, TeacherSpec

_MAX_TRIES = 5


@dataclass(frozen=True)
class Received:
    """A received and checked file that is not yet in the store."""

    path: Path
    sha256: str
    size: int
    contents: Contents


def check(path: Path, sha256: str) -> Received:
    """Check a received file.

    Raises:
        ApiError: 422 if the file is not a complete safetensors file.
    """
    try:
        return Received(path, sha256, path.stat().st_size, inspect(path))
    except NotSafetensorsError as error:
        text = f"this is not a safetensors file: {error}"
        raise invalid(
            f"{text}; `python -m core convert` makes one from a checkpoint", ProblemField(path="body", message=text)
        ) from None


def add(
    database: Database, store: Store, received: Received, name: str, submitted_by: str, project: str = DEFAULT_PROJECT
) -> Upload:
    """Move a received file into the store and record it under a name. Repeating the call changes nothing.

    Args:
        database: The database.
        store: The artifact store.
        received: The file.
        name: Its name in specs.
        submitted_by: Name of the token.
        project: Name of its project, in which the sender of the request may submit.

    Raises:
        ApiError: 409 if another file has the name, this file has another name or is in another project, the project is
            archived or has no room in its quota, or other requests repeatedly delete the file meanwhile.
        OSError: The store does not accept the file.
    """
    with database.read() as session:
        projects.refuse_closed(session, project)
        refuse_conflict(session, received.sha256, name)
        if session.get(models.Upload, received.sha256) is None:
            quotas.refuse_full_disk(session, project, received.size)
    for _ in range(_MAX_TRIES):
        # Outside of any transaction and lock: uploading it to a bucket takes a while.
        store.add_upload(received.path, received.sha256)
        with _exclusive(database, store):
            if store.has_upload(received.sha256):  # otherwise another request has deleted the same file meanwhile
                with database.write() as session:
                    return record(session, received, name, submitted_by, project)
    raise conflict("this file is being deleted by another request; upload it again")


def remove(database: Database, store: Store, key: str) -> None:
    """Delete an upload, by SHA-256 or name, and its file.

    Raises:
        ApiError: 404 if there is none; 409 if a run needs it.
    """
    with _exclusive(database, store):
        with database.write() as session:
            sha256 = delete(session, key)
        store.remove_upload(sha256)


def remove_file(database: Database, store: Store, sha256: str, remove: Callable[[], None]) -> None:
    """Remove the file of an upload unless a row refers to it: the file may have been uploaded again."""
    with _exclusive(database, store):
        with database.read() as session:
            if session.get(models.Upload, sha256) is not None:
                return
        remove()


@contextmanager
def _exclusive(database: Database, store: Store) -> Iterator[None]:
    """Prevent other requests, in any replica of the backend, from adding an upload or removing an upload's file.

    Otherwise a file that was just recorded again could be removed between the change of its row and of the file.
    """
    with store.upload_lock:
        if database.is_sqlite:  # only one process uses it
            yield
            return
        with database.engine.begin() as connection:
            serialize(connection, SerializedTask.UPLOADS)
            yield


def record(
    session: Session, received: Received, name: str, submitted_by: str, project: str = DEFAULT_PROJECT
) -> Upload:
    """Record a stored file under a name. Repeating the call changes nothing.

    Raises:
        ApiError: 409 if another file has the name, or this file has another name.
    """
    row = {
        "sha256": received.sha256,
        "name": name,
        "size": received.size,
        "tensors": received.contents.tensors,
        "parameters": received.contents.parameters,
        "submitted_by": submitted_by,
        "project": project,
        "created_at": now(session),
    }
    insert_if_absent(session.connection(), models.Upload, row, unique=["sha256"])
    refuse_conflict(session, received.sha256, name)
    audit.about("upload", received.sha256, project=project, name=name, size=received.size)
    return _to_upload(session.get_one(models.Upload, received.sha256))


def refuse_conflict(session: Session, sha256: str, name: str) -> None:
    """Refuse a name that another file has, or a file that has another name or that the sender does not see.

    Raises:
        ApiError: 409 in both cases.
    """
    for row in session.scalars(
        select(models.Upload).where((models.Upload.name == name) | (models.Upload.sha256 == sha256))
    ):
        if not rights.sees(row.project):
            raise conflict(
                "this file or this name is in use in the lab; choose another name, or ask an admin of the lab"
            )
        if row.sha256 == sha256 and row.name != name:
            raise conflict(f"this file has been uploaded before, as {row.name!r}")
        if row.sha256 != sha256:
            raise conflict(f"another file has the name {name!r}; choose another name")


def find(session: Session, key: str, *, locked: bool = False) -> models.Upload | None:
    """Return an upload by name, or else by SHA-256.

    Args:
        session: Session of the caller's transaction.
        key: Name or SHA-256.
        locked: Lock the row against ``delete``, for a transaction that writes a run which uses the upload.
    """
    query = select(models.Upload).where((models.Upload.name == key) | (models.Upload.sha256 == key.lower()))
    if locked:
        query = query.with_for_update(read=True, key_share=True)
    rows = session.scalars(query).all()
    return next((row for row in rows if row.name == key), rows[0] if rows else None)


def list_uploads(session: Session) -> list[Upload]:
    """Return all uploads, newest first."""
    rows = session.scalars(select(models.Upload).order_by(models.Upload.created_at.desc(), models.Upload.sha256))
    return [_to_upload(row) for row in rows]


def delete(session: Session, key: str) -> str:
    """Delete the row of an upload, by SHA-256 or name.

    Returns:
        The SHA-256, whose file the caller removes.

    Raises:
        ApiError: 404 if there is none; 409 if a run that has not ended needs it.
    """
    upload = find(session, key)
    if upload is None:
        raise not_found("upload", key)
    # A submission in progress may have read the row already; its runs are visible once the lock is granted.
    session.refresh(upload, with_for_update=True)
    pending_teachers = select(models.Run.id, models.Run.spec).where(
        models.Run.role == "teacher", models.Run.state.not_in(TERMINAL)
    )
    for run_id, spec in session.execute(pending_teachers):
        if (spec.get("weights") or {}).get("source") == UPLOAD + upload.sha256:
            raise conflict(f"run {run_id} still needs this file; cancel the run first")
    audit.about("upload", upload.sha256, project=upload.project, name=upload.name)
    session.delete(upload)
    return upload.sha256


def resolve_uploads(
    connection: Connection, specs: Sequence[tuple[str, ExperimentSpec]], *, locked: bool = False
) -> list[tuple[str, ExperimentSpec]]:
    """Replace the name of each upload in the specs by its SHA-256, which distinguishes their teachers.

    Args:
        connection: Connection of the caller's transaction.
        specs: Pairs of a path prefix for problems and a spec.
        locked: Lock the uploads against ``delete``, for a transaction that writes their runs.

    Raises:
        SpecError: An upload does not exist, or the sender of the request does not see it; each problem has the path of
            the name in its spec.
    """

    @cache  # many specs of one request name one teacher
    def upload_named(name: str) -> models.Upload | None:
        with session_on(connection) as session:
            upload = find(session, name, locked=locked)
        return upload if upload is not None and rights.sees(upload.project) else None

    problems: list[Problem] = []

    def named_by_hash(path: str, teacher: TeacherSpec) -> TeacherSpec:
        weights = teacher.weights
        if weights is None or not weights.source.startswith(UPLOAD):
            return teacher
        upload = upload_named(weights.source.removeprefix(UPLOAD))
        if upload is None:
            text = f"there is no upload {weights.source.removeprefix(UPLOAD)!r}; `dkd upload` makes one"
            problems.append(Problem(f"{path}.source", text))
            return teacher
        if weights.sha256 not in (None, upload.sha256):
            problems.append(Problem(f"{path}.sha256", f"the upload has the SHA-256 {upload.sha256}"))
            return teacher
        update: dict[str, Any] = {"source": UPLOAD + upload.sha256, "sha256": upload.sha256}
        return teacher.model_copy(update={"weights": weights.model_copy(update=update)})

    def resolve(prefix: str, spec: ExperimentSpec) -> ExperimentSpec:
        return spec.with_teachers(
            lambda path, teacher: named_by_hash(f"{prefix}{'.'.join(map(str, path))}.weights", teacher)
        )

    resolved = [(prefix, resolve(prefix, spec)) for prefix, spec in specs]
    if problems:
        raise SpecError(problems)
    return resolved


def _to_upload(row: models.Upload) -> Upload:
    return Upload(
        sha256=row.sha256,
        name=row.name,
        size=row.size,
        tensors=row.tensors,
        parameters=row.parameters,
        submitted_by=row.submitted_by,
        project=row.project,
        created_at=row.created_at,
    )
