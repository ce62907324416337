"""People, for admins of the lab: create, list, change, disable."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import AdminDep, DatabaseDep, SessionDep, administers
from backend.people import persons
from core.protocol.people import Person, PersonEdit, PersonList, PersonRequest

router = APIRouter(prefix="/people", tags=["people"], route_class=BoundedRoute)


@router.get("", dependencies=[administers])
def list_people(session: SessionDep) -> PersonList:
    """List all people by name, with their roles."""
    return PersonList(items=persons.people(session))


@router.post("", status_code=201, dependencies=[administers], responses={409: {"description": "The name is taken"}})
def create_person(request: PersonRequest, database: DatabaseDep) -> Person:
    """Create a person. A token of the person (`POST /tokens` with `person`) permits what the person's roles permit."""
    with database.write() as session:
        return persons.create(session, request)


@router.get("/{person}", dependencies=[administers])
def read_person(person: str, session: SessionDep) -> Person:
    """Read a person, with the roles in all projects."""
    return persons.person(session, person)


@router.patch("/{person}", responses={409: {"description": "The change would end the sender's own rights"}})
def change_person(person: str, request: PersonEdit, principal: AdminDep, database: DatabaseDep) -> Person:
    """Change a person. All tokens of a disabled person are refused from the next request on."""
    with database.write() as session:
        return persons.change(session, person, request, principal.person.id if principal.person else None)
