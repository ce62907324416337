"""The page "Your account": the person with roles, tokens, sessions, and the password."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import streamlit as st

from client import ApiError, BackendUnreachable, SpecError
from core.protocol.access import TokenInfo
from core.protocol.sessions import MIN_PASSWORD, Account, Session
from dashboard import session
from dashboard.forms.widgets import table
from dashboard.lists import bulk
from dashboard.lists.row_text import timestamp
from dashboard.markup import escape
from dashboard.server import login
from dashboard.wording import counted, sentence

_SERVICE = 409
_METHODS = {"password": "password", "invitation": "invitation", "oidc": "identity provider"}


def show() -> None:
    """Draw the page."""
    st.title("Your account")
    with session.error_boundary():
        try:
            account = session.lab_client().account()
        except ApiError as error:
            if error.status != _SERVICE:
                raise
            st.info(
                "This page is for people. The token of this dashboard belongs to a service.", icon=":material/info:"
            )
            return
        bulk.show_message()
        _person(account)
        _tokens(account.tokens)
        _sessions(session.lab_client().sessions.list().items)
        if account.person.has_password:
            _password(account)


def _person(account: Account) -> None:
    person = account.person
    facts = [f"**{escape(person.name)}**"]
    if person.mail:
        facts.append(escape(person.mail))
    if person.admin:
        facts.append("admin of the lab")
    facts.extend(f"signs in at {escape(issuer)}" for issuer in person.issuers)
    st.markdown(" · ".join(facts))
    st.subheader("Projects")
    if person.roles:
        table([{"Project": place, "Your role": role} for place, role in person.roles.items()])
    elif person.admin:
        st.caption("As an admin of the lab, you see all projects.")
    else:
        st.caption("You have no role in a project yet. An admin of a project gives one.")


def _tokens(items: list[TokenInfo]) -> None:
    st.subheader("Tokens")
    if not items:
        st.caption("You have no tokens. An admin of the lab makes one for scripts that run for long.")
        return
    table(
        [
            {
                "Name": item.name,
                "Scopes": ", ".join(item.scopes),
                "State": item.state,
                "Last use (UTC)": timestamp(item.last_used_at) if item.last_used_at else "never",
                "Ends (UTC)": timestamp(item.expires_at) if item.expires_at else "never",
            }
            for item in items
        ],
        wrap=True,
    )


def _sessions(items: list[Session]) -> None:
    st.subheader("Sessions")
    table(
        [
            {
                "Used with": f"{item.client or 'unknown'}{' (this one)' if item.current else ''}",
                "From": item.address,
                "Signed in by": _METHODS[item.method],
                "Since (UTC)": timestamp(item.created_at),
                "Last use (UTC)": timestamp(item.last_used_at or item.created_at),
                "Ends (UTC)": timestamp(min(item.idle_ends_at, item.ends_at)),
            }
            for item in items
        ],
        wrap=True,
    )
    st.caption(
        "A session ends if it is not used for some time. The end in the table moves with every use, at most to "
        f"{max(item.ends_at for item in items):%Y-%m-%d %H:%M} UTC."
        if items
        else "You have no sessions: this page uses a token."
    )
    others = [item for item in items if not item.current]
    with st.container(horizontal=True):
        if others:
            labels = {_label(item): item.id for item in others}
            with st.popover("End one session", icon=":material/logout:"):
                chosen = st.selectbox("Session", list(labels), key="account.session")
                st.button("End it", type="primary", on_click=_end_one, args=(labels.get(chosen or "", ""),))
        st.button(
            "Sign out everywhere else",
            icon=":material/devices_off:",
            disabled=not others,
            on_click=_end_others,
            help="Ends all your sessions but this one. Tokens are not changed.",
        )
        if st.button("Sign out everywhere", icon=":material/power_settings_new:", help="Also ends this session."):
            session.action_client().sessions.end_all(current=True)
            login.sign_out()


def _label(item: Session) -> str:
    return f"{item.client or 'unknown'}, {item.address}, since {timestamp(item.created_at)} ({item.id})"


def _end_one(session_id: str) -> None:
    _do(lambda: session.action_client().sessions.end(session_id).id, "The session has ended.")


def _end_others() -> None:
    _do(lambda: session.action_client().sessions.end_all().ended, "All your other sessions have ended.")


def _password(account: Account) -> None:
    st.subheader("Password")
    changed = account.password_changed_at or datetime.now(UTC)
    st.caption(f"Changed {timestamp(changed)} UTC. A change ends all your other sessions.")
    with st.form("account.password", clear_on_submit=True, width=480):
        current = st.text_input("Present password", type="password", autocomplete="current-password", max_chars=256)
        new = st.text_input(
            "New password",
            type="password",
            autocomplete="new-password",
            max_chars=256,
            help=f"At least {MIN_PASSWORD} characters, such as a sentence.",
        )
        again = st.text_input("New password again", type="password", autocomplete="new-password", max_chars=256)
        if st.form_submit_button("Change the password", type="primary"):
            _change(current, new, again)


def _change(current: str, new: str, again: str) -> None:
    if not current or not new:
        st.error("Enter the present and the new password.", icon=":material/error:")
        return
    if new != again:
        st.error("The two new passwords differ.", icon=":material/error:")
        return
    try:
        ended = session.action_client().account.change_password(current, new).ended
    except SpecError as error:
        st.error(escape(sentence(str(error))), icon=":material/error:")
    except ApiError as error:
        if error.status == 401:  # the session has ended
            raise
        fields = error.problem.errors
        text = f"the new password {fields[0].message}" if fields else str(error)
        st.error(escape(sentence(text)), icon=":material/error:")
    else:
        others = f" {counted(ended, 'other session')} ended." if ended else ""
        st.success(f"The password was changed.{others}", icon=":material/check:")


def _do(request: Callable[[], object], done: str) -> None:
    """Send a request and store a message about it for the next run of the script."""
    try:
        request()
        bulk.set_message(done)
    except (ApiError, BackendUnreachable) as error:
        bulk.set_error(bulk.error_sentence(error))
