"""Projects and their members."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend import audit
from backend.db import models, now
from backend.db.upsert import insert_if_absent
from backend.errors import conflict, not_found
from backend.people import persons, rights
from core.protocol.base import ProblemField
from core.protocol.people import (
    DEFAULT_PROJECT,
    Member,
    MemberList,
    Project,
    ProjectEdit,
    ProjectRequest,
    Role,
)


def projects(session: Session, roles: dict[str, Role]) -> list[Project]:
    """Return the projects that the sender of the request sees: the default project, and the others by name.

    Args:
        session: A read transaction.
        roles: The sender's role by project.
    """
    rows = {row.name: row for row in session.scalars(select(models.Project))}
    names = [DEFAULT_PROJECT, *sorted(rows.keys() - {DEFAULT_PROJECT})]
    experiment, membership = models.Experiment, models.Membership
    experiments: dict[str, int] = dict(
        session.execute(select(experiment.project, func.count()).group_by(experiment.project)).all()
    )
    members: dict[str, int] = dict(
        session.execute(select(membership.project, func.count()).group_by(membership.project)).all()
    )
    return [
        _shape(name, rows.get(name), roles.get(name), experiments.get(name, 0), members.get(name, 0))
        for name in names
        if rights.sees(name)
    ]


def project(session: Session, name: str, roles: dict[str, Role]) -> Project:
    """Return a project.

    Raises:
        ApiError: 404 if there is none of this name, or the sender does not see it.
    """
    found = next((item for item in projects(session, roles) if item.name == name), None)
    if found is None:
        raise not_found("project", name)
    return found


def create(session: Session, request: ProjectRequest) -> Project:
    """Create a project.

    Raises:
        ApiError: 409 if the name is taken.
    """
    if request.name == DEFAULT_PROJECT or session.get(models.Project, request.name) is not None:
        raise conflict(f"there is a project named {request.name!r}", ProblemField(path="name", message="is taken"))
    row = models.Project(name=request.name, title=request.title, created_at=now(session))
    session.add(row)
    session.flush()
    audit.about("project", row.name, project=row.name, title=row.title)
    return _shape(row.name, row)


def change(session: Session, name: str, request: ProjectEdit) -> None:
    """Change the given fields of a project.

    Raises:
        ApiError: 404 if there is none of this name; 409 if the default project would be archived.
    """
    row = project_row(session, name)
    if request.archived and name == DEFAULT_PROJECT:
        raise conflict("the default project cannot be archived")
    if request.title is not None:
        row.title = request.title
    if request.archived is not None:
        row.archived_at = (row.archived_at or now(session)) if request.archived else None
    audit.about("project", name, project=name, **request.model_dump(exclude_unset=True))


def refuse_closed(session: Session, name: str) -> None:
    """Refuse to create something in a project.

    Raises:
        ApiError: 404 if there is no such project; 409 if it is archived.
    """
    row = session.get(models.Project, name)
    if row is None and name != DEFAULT_PROJECT:
        raise not_found("project", name)
    if row is not None and row.archived_at is not None:
        raise conflict(f"the project {name} is archived and takes nothing new")


def members(session: Session, name: str) -> MemberList:
    """Return the members of a project by name.

    Raises:
        ApiError: 404 if there is no such project.
    """
    if name != DEFAULT_PROJECT and session.get(models.Project, name) is None:
        raise not_found("project", name)
    query = (
        select(models.Person.name, models.Membership.role, models.Person.disabled_at)
        .join(models.Membership, models.Membership.person_id == models.Person.id)
        .where(models.Membership.project == name)
        .order_by(models.Person.name)
    )
    return MemberList(
        project=name,
        items=[Member(person=row[0], role=row[1], disabled=row[2] is not None) for row in session.execute(query)],
    )


def set_role(session: Session, name: str, person: str, role: Role) -> None:
    """Give a person a role in a project, in place of an earlier one.

    Raises:
        ApiError: 404 if there is no such project or person.
    """
    project_row(session, name)
    row = persons.find(session, person)
    membership = session.get(models.Membership, (row.id, name))
    if membership is None:
        session.add(models.Membership(person_id=row.id, project=name, role=role))
    else:
        membership.role = role
    audit.about("person", person, project=name, role=role)
    session.flush()


def remove_member(session: Session, name: str, person: str) -> None:
    """End a person's role in a project.

    Raises:
        ApiError: 404 if there is no such project, or the person has no role in it.
    """
    membership = session.get(models.Membership, (persons.find(session, person).id, name))
    if membership is None:
        raise not_found("member", person)
    session.delete(membership)
    audit.about("person", person, project=name, role=None)
    session.flush()


def project_row(session: Session, name: str) -> models.Project:
    """Return the row of a project; that of the default project is inserted when it is first needed.

    Raises:
        ApiError: 404 if there is none of this name.
    """
    if name == DEFAULT_PROJECT:
        values = {"name": name, "title": "", "created_at": now(session)}
        insert_if_absent(session.connection(), models.Project, values, unique=["name"])
    row = session.get(models.Project, name)
    if row is None:
        raise not_found("project", name)
    return row


def _shape(
    name: str, row: models.Project | None, role: Role | None = None, experiments: int = 0, members: int = 0
) -> Project:
    return Project(
        name=name,
        title=row.title if row else "",
        created_at=row.created_at if row else None,
        archived_at=row.archived_at if row else None,
        role=role,
        experiments=experiments,
        members=members,
    )
