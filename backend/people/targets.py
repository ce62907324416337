"""Checks that a person may change the object in the path of a request, before its body is read."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, select

from backend.db import Database
from backend.db.models import BoardLayout, Experiment, ExperimentRun, Project, Upload
from backend.errors import ApiError, not_found
from backend.people.rights import may, require, sees
from core.protocol.people import DEFAULT_PROJECT
from core.specs.text_rules import normal

_FOR_ALL = frozenset({"runs.cancel", "runs.pause", "runs.priority", "runs.delete"})
"""Changes of a run that disturb every experiment that uses it."""
_READS = frozenset({"experiments.clone"})
"""Changes that only read the object in their path."""


def check_target(database: Database, action: str, kind: str, key: str) -> None:
    """Check that the sender of the present request may change an object.

    Args:
        database: The database.
        action: Name of the change in the audit log.
        kind: Kind of the object in the path; only kinds that are in projects are checked.
        key: Its id or name.

    Raises:
        ApiError: 404 if the sender does not see the object; 403 if the sender may only see it.
    """
    check = _CHECKS.get(kind)
    if check is not None and action not in _READS:
        with database.engine.connect() as connection:
            check(connection, action, key)


def project_exists(database: Database, name: str) -> bool:
    """Return whether there is a project of this name."""
    with database.engine.connect() as connection:
        found = connection.scalars(select(Project.name).where(Project.name == name)).first()
    return name == DEFAULT_PROJECT or found is not None


def _experiment(connection: Connection, _: str, key: str) -> None:
    named = Experiment.name.in_(dict.fromkeys((key, normal(key))))
    for condition in (Experiment.id == key, named):
        project = connection.scalars(select(Experiment.project).where(condition)).first()
        if project is not None:
            require(project, "submitter", "experiment", key)
            return
    raise not_found("experiment", key)


def _run(connection: Connection, action: str, key: str) -> None:
    users = select(Experiment.project).join(ExperimentRun, ExperimentRun.experiment_id == Experiment.id)
    projects = set(connection.scalars(users.where(ExperimentRun.run_id == key)))
    visible = sorted(filter(sees, projects))
    if not visible:
        raise not_found("run", key)
    own = [project for project in visible if may(project, "submitter")]
    if not own:
        require(visible[0], "submitter", "run", key)
    if action in _FOR_ALL and len(own) < len(projects):
        raise ApiError(403, "other projects use this run too; an admin of the lab may do this")


def _layout(connection: Connection, _: str, key: str) -> None:
    project = connection.scalars(select(BoardLayout.project).where(BoardLayout.name == normal(key))).first()
    if project is None:
        raise not_found("layout", key)
    require(project, "submitter", "layout", key)


def _upload(connection: Connection, _: str, key: str) -> None:
    for condition in (Upload.name == key, Upload.sha256 == key.lower()):
        project = connection.scalars(select(Upload.project).where(condition)).first()
        if project is not None:
            require(project, "submitter", "upload", key)
            return
    raise not_found("upload", key)


_CHECKS: dict[str, Callable[[Connection, str, str], None]] = {
    "experiment": _experiment,
    "run": _run,
    "layout": _layout,
    "upload": _upload,
}
