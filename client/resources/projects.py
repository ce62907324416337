"""``client.projects`` and ``client.people``: projects, people and their roles."""

from __future__ import annotations

from client.connection import API, build_body, path_segment
from client.resources.base import Resource
from core.protocol.people import (
    MemberList,
    Person,
    PersonEdit,
    PersonList,
    PersonRequest,
    Project,
    ProjectEdit,
    ProjectList,
    ProjectRequest,
    Role,
    RoleRequest,
)
from core.protocol.quotas import Quota, QuotaEdit
from core.protocol.sessions import EndedSessions, Invitation, InvitationRequest, PasswordRequest

_PROJECTS = f"{API}/projects"
_PEOPLE = f"{API}/people"


class Projects(Resource):
    """Calls on projects. To create and change them, the caller must be an admin of the lab."""

    def list(self) -> ProjectList:
        """Return the projects that the caller sees, with the caller's role; the default project comes first."""
        return self._connection.send("GET", _PROJECTS, ProjectList, idempotent=True)

    def __call__(self) -> ProjectList:
        """Alias of ``list``, for scripts that call ``client.projects()``."""
        return self.list()

    def get(self, name: str) -> Project:
        """Return one project."""
        return self._connection.send("GET", f"{_PROJECTS}/{path_segment(name)}", Project, idempotent=True)

    def create(self, name: str, *, title: str = "") -> Project:
        """Create a project. The request is not repeated.

        Raises:
            SpecError: A field has an invalid value.
        """
        body = build_body(ProjectRequest, name=name, title=title)
        return self._connection.send("POST", _PROJECTS, Project, body=body)

    def update(self, name: str, *, title: str | None = None, archived: bool | None = None) -> Project:
        """Change the title of a project, archive it or open it again. Fields that are not given stay unchanged."""
        change = build_body(ProjectEdit, title=title, archived=archived).model_dump(exclude_none=True)
        path = f"{_PROJECTS}/{path_segment(name)}"
        return self._connection.send("PATCH", path, Project, body=change, idempotent=True)

    def quota(self, name: str) -> Quota:
        """Return the quota of a project, and what the project uses."""
        return self._connection.send("GET", f"{_PROJECTS}/{path_segment(name)}/quota", Quota, idempotent=True)

    def set_quota(self, name: str, **limits: float | None) -> Quota:
        """Set limits of a project. The caller must be an admin of the lab.

        Args:
            name: The project's name.
            limits: ``slots``, ``gpu_hours`` and ``disk_bytes``; None removes a limit, and those left out stay.

        Raises:
            SpecError: A limit has an invalid value.
        """
        change = build_body(QuotaEdit, **limits).model_dump(exclude_unset=True)
        path = f"{_PROJECTS}/{path_segment(name)}/quota"
        return self._connection.send("PATCH", path, Quota, body=change, idempotent=True)

    def members(self, name: str) -> MemberList:
        """Return the people who have a role in a project."""
        return self._connection.send("GET", f"{_PROJECTS}/{path_segment(name)}/members", MemberList, idempotent=True)

    def set_role(self, name: str, person: str, role: Role) -> MemberList:
        """Give a person a role in a project, in place of an earlier one."""
        body = build_body(RoleRequest, role=role)
        path = f"{_PROJECTS}/{path_segment(name)}/members/{path_segment(person)}"
        return self._connection.send("PUT", path, MemberList, body=body, idempotent=True)

    def remove_member(self, name: str, person: str) -> None:
        """End a person's role in a project."""
        path = f"{_PROJECTS}/{path_segment(name)}/members/{path_segment(person)}"
        self._connection.send_empty("DELETE", path)


class People(Resource):
    """Calls on people. The caller must be an admin of the lab."""

    def list(self) -> PersonList:
        """Return all people by name, with their roles."""
        return self._connection.send("GET", _PEOPLE, PersonList, idempotent=True)

    def __call__(self) -> PersonList:
        """Alias of ``list``, for scripts that call ``client.people()``."""
        return self.list()

    def get(self, name: str) -> Person:
        """Return one person."""
        return self._connection.send("GET", f"{_PEOPLE}/{path_segment(name)}", Person, idempotent=True)

    def create(self, name: str, *, mail: str | None = None, admin: bool = False) -> Person:
        """Create a person, who has no role yet. The request is not repeated.

        Raises:
            SpecError: A field has an invalid value.
        """
        body = build_body(PersonRequest, name=name, mail=mail, admin=admin)
        return self._connection.send("POST", _PEOPLE, Person, body=body)

    def update(
        self, name: str, *, mail: str | None = None, admin: bool | None = None, disabled: bool | None = None
    ) -> Person:
        """Change a person. Fields that are not given stay unchanged; an empty ``mail`` removes the address.

        Raises:
            SpecError: A field has an invalid value.
        """
        change = build_body(PersonEdit, mail=mail, admin=admin, disabled=disabled).model_dump(exclude_none=True)
        path = f"{_PEOPLE}/{path_segment(name)}"
        return self._connection.send("PATCH", path, Person, body=change, idempotent=True)

    def set_password(self, name: str, password: str) -> EndedSessions:
        """Set the password of a person, whose sessions end.

        Raises:
            SpecError: The password is longer than any may be.
        """
        build_body(PasswordRequest, password=password)
        path = f"{_PEOPLE}/{path_segment(name)}/password"
        return self._connection.send("PUT", path, EndedSessions, body={"password": password}, idempotent=True)

    def remove_password(self, name: str) -> EndedSessions:
        """Remove the password and the invitation of a person, whose sessions end."""
        path = f"{_PEOPLE}/{path_segment(name)}/password"
        return self._connection.send("DELETE", path, EndedSessions, idempotent=True)

    def invite(self, name: str, *, expires_in_hours: float = 72.0) -> Invitation:
        """Make a code with which a person sets a password, once. Only this reply contains it.

        Raises:
            SpecError: A field has an invalid value.
        """
        body = build_body(InvitationRequest, expires_in_hours=expires_in_hours)
        return self._connection.send("POST", f"{_PEOPLE}/{path_segment(name)}/invitation", Invitation, body=body)

    def forget_identities(self, name: str) -> EndedSessions:
        """Forget a person's accounts at identity providers; the person's sessions end."""
        path = f"{_PEOPLE}/{path_segment(name)}/identities"
        return self._connection.send("DELETE", path, EndedSessions, idempotent=True)
