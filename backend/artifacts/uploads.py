"""Teachers' weights that people upload: kept by their SHA-256, found by name or by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from backend.artifacts.run_files import Store
from backend.artifacts.safetensors_header import Contents, NotSafetensorsError, inspect
from backend.db import Database, models, now, objects
from backend.db.serialized import Turn, take_turn
from backend.db.upsert import insert_if_absent
from backend.errors import conflict, invalid, not_found
from core.protocol.artifacts import UPLOAD, Upload
from core.protocol.public import TERMINAL, ProblemField
from core.specs import ExperimentSpec, Problem, SpecError

_TRIES = 5


@dataclass(frozen=True)
class Received:
    """A whole file that was sent, checked, and not yet among the others."""

    path: Path
    sha256: str
    size: int
    contents: Contents


def checked(path: Path, sha256: str) -> Received:
    """Raises ApiError 422 where the file is no whole safetensors file."""
    try:
        return Received(path, sha256, path.stat().st_size, inspect(path))
    except NotSafetensorsError as error:
        text = f"this is no safetensors file: {error}"
        raise invalid(
            f"{text}; `python -m core convert` makes one of a checkpoint", ProblemField(path="body", message=text)
        ) from None


def enter(database: Database, store: Store, received: Received, name: str, submitted_by: str) -> Upload:
    """Put a file that was sent into the store, and enter it under a name. The same again changes nothing.

    Raises ApiError 409 where the name stands for another file, or the file has another name, or where others delete it
    again and again meanwhile; OSError where the store does not take it.
    """
    with database.read() as session:
        refuse_other(session, received.sha256, name)
    for _ in range(_TRIES):
        # In no transaction and under no lock: to send it to a bucket takes a while.
        store.keep_upload(received.path, received.sha256)
        with _alone(database, store):
            if store.has_upload(received.sha256):  # else somebody has deleted the same file since
                with database.write() as session:
                    return keep(session, received, name, submitted_by)
    raise conflict("this file is being deleted; send it again")


def forget(database: Database, store: Store, key: str) -> None:
    """Delete an upload, by SHA-256 or name, and its file. Raises ApiError 404, or 409 while a run needs it."""
    with _alone(database, store):
        with database.write() as session:
            gone = delete(session, key)
        store.remove_upload(gone)


def remove_file(database: Database, store: Store, sha256: str, remove: Callable[[], None]) -> None:
    """Have the file of an upload removed, unless one is entered for it: it may have been sent again."""
    with _alone(database, store):
        with database.read() as session:
            if session.get(models.Upload, sha256) is not None:
                return
        remove()


@contextmanager
def _alone(database: Database, store: Store) -> Iterator[None]:
    """Nobody else enters an upload or removes the file of one meanwhile, in any replica of the backend.

    Between the change of the one and of the other, a file would be removed that was just entered again.
    """
    with store.changing:
        if database.is_sqlite:  # which one process owns
            yield
            return
        with database.engine.begin() as connection:
            take_turn(connection, Turn.UPLOADS)
            yield


def keep(session: Session, received: Received, name: str, submitted_by: str) -> Upload:
    """Enter a file that the store has under a name. The same content under the same name again changes nothing.

    Raises ApiError 409 where the name stands for another file, or the file has another name.
    """
    row = {
        "sha256": received.sha256,
        "name": name,
        "size": received.size,
        "tensors": received.contents.tensors,
        "parameters": received.contents.parameters,
        "submitted_by": submitted_by,
        "created_at": now(session),
    }
    insert_if_absent(session.connection(), models.Upload, row, unique=["sha256"])
    refuse_other(session, received.sha256, name)
    return _shape(session.get_one(models.Upload, received.sha256))


def refuse_other(session: Session, sha256: str, name: str) -> None:
    """Raises ApiError 409 where the name stands for another file, or the file has another name."""
    for row in session.scalars(
        select(models.Upload).where((models.Upload.name == name) | (models.Upload.sha256 == sha256))
    ):
        if row.sha256 == sha256 and row.name != name:
            raise conflict(f"this file is here already, as {row.name!r}")
        if row.sha256 != sha256:
            raise conflict(f"the name {name!r} stands for another file already; take another name")


def named(session: Session, name: str, *, locked: bool = False) -> models.Upload | None:
    """By name, else by SHA-256; locked against ``delete`` where the session writes a run that needs it."""
    query = select(models.Upload).where((models.Upload.name == name) | (models.Upload.sha256 == name.lower()))
    if locked:
        query = query.with_for_update(read=True, key_share=True)
    found = session.scalars(query).all()
    return next((row for row in found if row.name == name), found[0] if found else None)


def listed(session: Session) -> list[Upload]:
    """Newest first."""
    rows = session.scalars(select(models.Upload).order_by(models.Upload.created_at.desc(), models.Upload.sha256))
    return [_shape(row) for row in rows]


def delete(session: Session, sha256: str) -> str:
    """Forget an upload; returns its SHA-256, whose file is then to be removed.

    Raises ApiError 404, or 409 while a run that has not ended needs it.
    """
    found = named(session, sha256)
    if found is None:
        raise not_found("upload", sha256)
    # A spec that is being submitted may have found it already; its runs are seen once it has been entered.
    session.refresh(found, with_for_update=True)
    waiting = select(models.Run.id, models.Run.spec).where(
        models.Run.role == "teacher", models.Run.state.not_in(TERMINAL)
    )
    for run_id, spec in session.execute(waiting):
        if (spec.get("weights") or {}).get("source") == UPLOAD + found.sha256:
            raise conflict(f"run {run_id} still needs this file; cancel it first")
    session.delete(found)
    return found.sha256


def resolved(connection: Connection, specs: Sequence[tuple[str, ExperimentSpec]]) -> list[tuple[str, ExperimentSpec]]:
    """The specs with each upload that they name by its SHA-256, which is what their teachers are told apart by.

    Raises SpecError with the path of each name that stands for no upload.
    """

    @cache  # many specs of one request name one teacher
    def upload_named(name: str) -> models.Upload | None:
        with objects(connection) as session:
            return named(session, name, locked=True)

    problems: list[Problem] = []
    found: list[tuple[str, ExperimentSpec]] = []
    for prefix, spec in specs:
        weights = spec.teacher.weights if spec.teacher else None
        if spec.teacher is None or weights is None or not weights.source.startswith(UPLOAD):
            found.append((prefix, spec))
            continue
        path = f"{prefix}teacher.weights"
        upload = upload_named(weights.source.removeprefix(UPLOAD))
        if upload is None:
            text = f"there is no upload {weights.source.removeprefix(UPLOAD)!r}; `dkd upload` makes one"
            problems.append(Problem(f"{path}.source", text))
            continue
        if weights.sha256 not in (None, upload.sha256):
            problems.append(Problem(f"{path}.sha256", f"the upload has the SHA-256 {upload.sha256}"))
            continue
        update: dict[str, Any] = {"source": UPLOAD + upload.sha256, "sha256": upload.sha256}
        teacher = spec.teacher.model_copy(update={"weights": weights.model_copy(update=update)})
        found.append((prefix, spec.model_copy(update={"teacher": teacher})))
    if problems:
        raise SpecError(problems)
    return found


def _shape(row: models.Upload) -> Upload:
    return Upload(
        sha256=row.sha256,
        name=row.name,
        size=row.size,
        tensors=row.tensors,
        parameters=row.parameters,
        submitted_by=row.submitted_by,
        created_at=row.created_at,
    )
