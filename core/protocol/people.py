"""Projects, people, and their roles."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from core.protocol.base import Message, RequestBody
from core.specs.text_rules import VisibleText

Role = Literal["reader", "submitter", "admin"]

DEFAULT_PROJECT = "default"
"""Name of the project that always exists."""
PROJECT_NAME = r"^[a-z0-9][a-z0-9._-]{0,59}$"
PERSON_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,59}$"

ProjectName = Annotated[
    str, Field(pattern=PROJECT_NAME, description="Name of a project: small letters, digits, and . _ - between them.")
]
PersonName = Annotated[
    str, Field(pattern=PERSON_NAME, description="Name of a person: letters, digits, and . _ @ + - between them.")
]


class Project(Message):
    """A project, in which experiments, uploads and layouts are."""

    name: str
    title: str = Field("", description="For people; empty if nobody gave one.")
    created_at: datetime | None = Field(None, description="null for the default project until it is changed.")
    archived_at: datetime | None = Field(None, description="An archived project takes no new experiments.")
    role: Role | None = Field(
        None,
        description="Role of the sender of the request; null for a service and for an admin of the lab without one.",
    )
    experiments: int = Field(0, description="Number of its experiments.")
    members: int = Field(0, description="Number of people with a role in it.")


class ProjectList(Message):
    items: list[Project] = Field(description="The projects that the sender sees, by name; the default project first.")


class ProjectRequest(RequestBody):
    """POST /projects."""

    name: ProjectName = Field(examples=["detection"])
    title: VisibleText = Field("", max_length=200)


class ProjectEdit(RequestBody):
    """PATCH /projects/{project}. Fields that are left out stay as they are."""

    title: VisibleText | None = Field(None, max_length=200)
    archived: bool | None = None


class Member(Message):
    """A person with a role in a project."""

    person: str = Field(description="The person's name.")
    role: Role
    disabled: bool = Field(False, description="Whether the person's tokens are refused.")


class MemberList(Message):
    project: str
    items: list[Member] = Field(description="By name.")


class RoleRequest(RequestBody):
    """PUT /projects/{project}/members/{person}."""

    role: Role = Field(
        description="reader: see. submitter: also submit, change and delete. admin: also give roles in the project."
    )


class Person(Message):
    """A person of the lab."""

    id: str
    name: str
    mail: str | None = None
    admin: bool = Field(
        False, description="An admin of the lab, who may do everything with a token of the scope admin."
    )
    created_at: datetime
    disabled_at: datetime | None = Field(None, description="Since when all tokens of the person are refused.")
    roles: dict[str, Role] = Field(default_factory=dict, description="Role by the name of the project.")
    tokens: int = Field(
        0, description="Number of the person's tokens that have not been revoked; sessions are not counted."
    )
    has_password: bool = Field(False, description="Whether the person can sign in with a password.")
    issuers: list[str] = Field(
        default_factory=list, description="Identity providers with an account by which the person signs in."
    )


class PersonList(Message):
    items: list[Person] = Field(description="By name.")


class PersonRequest(RequestBody):
    """POST /people."""

    name: PersonName = Field(examples=["anna"])
    mail: str | None = Field(None, max_length=200, pattern=r"^[^\s@\x00]+@[^\s@\x00]+$", examples=["anna@lab.example"])
    admin: bool = False


class PersonEdit(RequestBody):
    """PATCH /people/{person}. Fields that are left out stay as they are."""

    mail: str | None = Field(
        None, max_length=200, pattern=r"^([^\s@\x00]+@[^\s@\x00]+)?$", description="Empty removes it."
    )
    admin: bool | None = None
    disabled: bool | None = Field(None, description="true: all tokens of the person are refused from now on.")
