"""The sender's own account: the person with roles and tokens, and the password."""

from __future__ import annotations

from fastapi import APIRouter, Request
from sqlalchemy import select

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import ReaderDep, SessionDep, SubmitterDep
from backend.db import models, now
from backend.people import persons
from backend.sign_in import sessions
from backend.sign_in.service import SignInService
from backend.tokens import to_token_info
from core.protocol.sessions import Account, EndedSessions, PasswordChange

router = APIRouter(prefix="/account", tags=["account"], route_class=BoundedRoute)


@router.get("", responses={409: {"description": "The token belongs to a service"}})
def read_account(principal: ReaderDep, session: SessionDep) -> Account:
    """Read the person whose token it is: name, mail, roles, and tokens without their texts."""
    person = sessions.person_of(principal)
    row, token = session.get_one(models.Person, person.id), models.Token
    own = select(token).where(token.person_id == person.id, token.session.is_(None)).order_by(token.id.desc())
    time_now = now(session)
    return Account(
        person=persons.person(session, person.name),
        password_changed_at=row.password_changed_at,
        tokens=[to_token_info(session, item, time_now) for item in session.scalars(own)],
    )


@router.put(
    "/password", responses={409: {"description": "The token belongs to a service, or the password has changed"}}
)
async def change_password(request: PasswordChange, principal: SubmitterDep, http: Request) -> EndedSessions:
    """Change the sender's own password, which needs the present one. All other sessions of the person end."""
    service: SignInService = http.app.state.sign_in
    return await service.change(request, principal, http.client.host if http.client else "")
