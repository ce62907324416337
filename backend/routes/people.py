"""People, for admins of the lab: create, list, change, disable."""

from __future__ import annotations

from fastapi import APIRouter, Request

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import AdminDep, DatabaseDep, SessionDep, administers
from backend.people import persons
from backend.sign_in import service as sign_in
from core.protocol.people import Person, PersonEdit, PersonList, PersonRequest
from core.protocol.sessions import EndedSessions, Invitation, InvitationRequest, PasswordRequest

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
    """Change a person. All tokens of a disabled person are refused from the next request on.

    The person's sessions and invitation end, and are not valid again when the person is enabled.
    """
    with database.write() as session:
        changed = persons.change(session, person, request, principal.person.id if principal.person else None)
        if request.disabled:
            sign_in.end_access(session, person)
        return changed


@router.put("/{person}/password", dependencies=[administers])
async def set_password(person: str, request: PasswordRequest, http: Request) -> EndedSessions:
    """Set the password of a person. The person's sessions end; tokens do not.

    An invitation is better, because then nobody else knows the password.
    """
    service: sign_in.SignInService = http.app.state.sign_in
    return await service.set_password(person, request.password)


@router.delete("/{person}/password", dependencies=[administers])
def remove_password(person: str, database: DatabaseDep) -> EndedSessions:
    """Remove the password and the invitation of a person, whose sessions end. Repeating has no effect."""
    with database.write() as session:
        return sign_in.remove_password(session, person)


@router.post("/{person}/invitation", status_code=201, dependencies=[administers])
def invite_person(person: str, request: InvitationRequest, database: DatabaseDep) -> Invitation:
    """Make a code with which the person sets a password, once (`POST /sessions/invitation`).

    An earlier code of the person ends. The present password, if any, is valid until the code is used.
    """
    with database.write() as session:
        return sign_in.invite(session, person, request.expires_in_hours)


@router.delete("/{person}/identities", dependencies=[administers])
def forget_identities(person: str, database: DatabaseDep) -> EndedSessions:
    """Forget the person's accounts at identity providers; the person's sessions end. Repeating has no effect.

    The next sign-in with an account that has the person's verified mail address links this account.
    """
    with database.write() as session:
        return sign_in.forget_identities(session, person)
