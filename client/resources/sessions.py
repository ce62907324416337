"""``client.sessions`` and ``client.account``: sign-in, the sender's own sessions, and the own password."""

from __future__ import annotations

from client.connection import API, build_body, path_segment
from client.resources.base import Resource
from core.protocol.sessions import (
    CURRENT,
    Account,
    CreatedSession,
    EndedSessions,
    InvitationSignIn,
    OidcSignIn,
    PasswordChange,
    Session,
    SessionList,
    SignIn,
)

_SESSIONS = f"{API}/sessions"
_ACCOUNT = f"{API}/account"


class Sessions(Resource):
    """Calls on sessions. To sign in, the client needs no token; it does not use the new one by itself."""

    def sign_in(
        self, person: str, password: str, *, client: str = "", earlier_session: str | None = None
    ) -> CreatedSession:
        """Sign in with a name and a password. Only this reply contains the token. The request is not repeated.

        Args:
            person: The name.
            password: The password.
            client: What the session is used with; shown in the list of sessions.
            earlier_session: Token of an earlier session of the person on this device, which may have ended. Failed
                sign-ins of others do not count for the device.

        Raises:
            SpecError: A field has an invalid value.
        """
        body = {"person": person, "password": password, "client": client}
        if earlier_session is not None:  # a field that earlier backends refuse
            body["earlier_session"] = earlier_session
        build_body(SignIn, **body)
        return self._connection.send("POST", _SESSIONS, CreatedSession, body=body)

    def sign_in_invited(self, code: str, password: str, *, client: str = "") -> CreatedSession:
        """Set the password of an invited person, and sign in. The request is not repeated.

        Raises:
            SpecError: A field has an invalid value.
        """
        build_body(InvitationSignIn, code=code, password=password, client=client)
        body = {"code": code, "password": password, "client": client}
        return self._connection.send("POST", f"{_SESSIONS}/invitation", CreatedSession, body=body)

    def sign_in_oidc(self, id_token: str, *, nonce: str | None = None, client: str = "") -> CreatedSession:
        """Sign in with an ID token of the issuer that the backend is configured with. The request is not repeated.

        Raises:
            SpecError: A field has an invalid value.
        """
        build_body(OidcSignIn, id_token=id_token, nonce=nonce, client=client)
        body = {"id_token": id_token, "nonce": nonce, "client": client}
        return self._connection.send("POST", f"{_SESSIONS}/oidc", CreatedSession, body=body)

    def list(self) -> SessionList:
        """Return the sender's own sessions that have not ended."""
        return self._connection.send("GET", _SESSIONS, SessionList, idempotent=True)

    def get(self, session_id: str = CURRENT) -> Session:
        """Return one of the sender's own sessions; by default the one of this client."""
        return self._connection.send("GET", f"{_SESSIONS}/{path_segment(session_id)}", Session, idempotent=True)

    def end(self, session_id: str = CURRENT) -> Session:
        """End one of the sender's own sessions; by default the one of this client."""
        return self._connection.send("DELETE", f"{_SESSIONS}/{path_segment(session_id)}", Session)

    def end_all(self, *, current: bool = False) -> EndedSessions:
        """End all of the sender's own other sessions.

        Args:
            current: Also the one of this client.
        """
        query = {"current": "true" if current else "false"}
        return self._connection.send("DELETE", _SESSIONS, EndedSessions, query=query)


class AccountCalls(Resource):
    """Calls on the account of the person whose token the client has."""

    def get(self) -> Account:
        """Return the person with roles, and the person's tokens."""
        return self._connection.send("GET", _ACCOUNT, Account, idempotent=True)

    def __call__(self) -> Account:
        """Alias of ``get``, for scripts that call ``client.account()``."""
        return self.get()

    def change_password(self, current: str, new: str) -> EndedSessions:
        """Change the password; all other sessions end. The request is not repeated.

        Raises:
            SpecError: A field has an invalid value.
        """
        build_body(PasswordChange, current=current, new=new)
        body = {"current": current, "new": new}
        return self._connection.send("PUT", f"{_ACCOUNT}/password", EndedSessions, body=body)
