"""Projects and their members."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, NudgesDep, ReaderDep, SessionDep, administers
from backend.people import projects, rights
from backend.queue import project_quotas
from core.protocol.people import MemberList, Project, ProjectEdit, ProjectList, ProjectRequest, RoleRequest
from core.protocol.quotas import Quota, QuotaEdit

router = APIRouter(prefix="/projects", tags=["projects"], route_class=BoundedRoute)


@router.get("")
def list_projects(session: SessionDep, principal: ReaderDep) -> ProjectList:
    """List the projects that the sender sees, with the sender's role. The default project always exists."""
    return ProjectList(items=projects.projects(session, dict(principal.roles)))


@router.post("", status_code=201, dependencies=[administers], responses={409: {"description": "The name is taken"}})
def create_project(request: ProjectRequest, database: DatabaseDep) -> Project:
    """Create a project. Its name cannot be changed."""
    with database.write() as session:
        return projects.create(session, request)


@router.get("/{project}")
def read_project(project: str, session: SessionDep, principal: ReaderDep) -> Project:
    """Read a project, with the sender's role in it."""
    return projects.project(session, project, dict(principal.roles))


@router.patch(
    "/{project}", dependencies=[administers], responses={409: {"description": "The default project stays open"}}
)
def change_project(project: str, request: ProjectEdit, principal: ReaderDep, database: DatabaseDep) -> Project:
    """Change the title of a project, or archive it: it then takes nothing new, and its experiments stay readable."""
    with database.write() as session:
        projects.change(session, project, request)
    with database.read() as session:
        return projects.project(session, project, dict(principal.roles))


@router.get("/{project}/quota")
def read_quota(project: str, session: SessionDep, principal: ReaderDep) -> Quota:
    """Read the quota of a project and what it uses. Members may read it."""
    projects.project(session, project, dict(principal.roles))
    (quota,) = project_quotas.read(session.connection(), [project])
    return quota


@router.patch("/{project}/quota", dependencies=[administers])
def change_quota(project: str, request: QuotaEdit, database: DatabaseDep, nudges: NudgesDep) -> Quota:
    """Set limits of a project: slots at once, GPU-hours of the last seven days, bytes of stored files.

    Limits that are left out stay, and null removes one. Runs beyond a limit wait and say so; what trains goes on. While
    the bytes are used up, the project takes no new experiments and uploads.
    """
    with database.write() as session:
        project_quotas.change(session, project, request)
    nudges.request()
    with database.read() as session:
        (quota,) = project_quotas.read(session.connection(), [project])
    return quota


@router.get("/{project}/members")
def list_members(project: str, session: SessionDep, _: ReaderDep) -> MemberList:
    """List the people who have a role in a project. Admins of the lab and services need none."""
    rights.require(project, "reader")
    return projects.members(session, project)


@router.put("/{project}/members/{person}")
def set_role(project: str, person: str, request: RoleRequest, _: ReaderDep, database: DatabaseDep) -> MemberList:
    """Give a person a role in a project. Admins of the project may do this, with a token of the scope admin.

    reader: see everything in the project. submitter: also submit, change and delete. admin: also give roles in it.
    """
    rights.require(project, "admin")
    with database.write() as session:
        projects.set_role(session, project, person, request.role)
    with database.read() as session:
        return projects.members(session, project)


@router.delete("/{project}/members/{person}", status_code=204)
def remove_member(project: str, person: str, _: ReaderDep, database: DatabaseDep) -> None:
    """End a person's role in a project, from the next request on. Admins of the project may do this."""
    rights.require(project, "admin")
    with database.write() as session:
        projects.remove_member(session, project, person)
