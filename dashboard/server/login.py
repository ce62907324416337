"""Sign-in to the dashboard, selected by ``DKD_DASHBOARD_LOGIN``.

- ``none``: every person who can reach the dashboard sees the pages.
- ``address``: only browsers that have opened a one-time address see the pages (``dashboard.server.gate``).
- ``token``: each person signs in with a personal token, which the requests to the backend then carry.
- ``password``: each person signs in with name and password (``dashboard.server.password_sessions``).
- ``oidc``: each person signs in with the identity provider in Streamlit's ``[auth]`` secrets and must be listed in
  ``DKD_DASHBOARD_ALLOW``. The backend exchanges the provider's ID token for a session of the person.

In the modes ``none`` and ``address``, the requests to the backend carry the dashboard's token, in the others that of
the person.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import streamlit as st

from client import ApiError, BackendUnreachable, Client, ClientSettingsError, SpecError
from dashboard.markup import escape
from dashboard.server import sessions
from dashboard.server.password_sessions import HEADER
from dashboard.wording import sentence

Mode = Literal["none", "address", "token", "password", "oidc"]
_TOKEN, _MESSAGE, _REMEMBER = "login.token", "login.message", "login.remember"
_REFUSED = "login.refused"
"""Hash of the ID token that the backend has refused in this session."""
_NO_KEY = ":material/key_off:"


def mode() -> Mode:
    """Return the login mode.

    Raises:
        ClientSettingsError: The setting is not one of the five modes.
    """
    setting = os.environ.get("DKD_DASHBOARD_LOGIN", "").strip().lower() or "none"
    if setting not in get_args(Mode):
        raise ClientSettingsError(
            f"DKD_DASHBOARD_LOGIN is {setting!r}; it can be none, address, token, password or oidc"
        )
    return cast(Mode, setting)


def requires_sign_in() -> bool:
    """Return whether each person signs in.

    Raises:
        ClientSettingsError: The setting is not a login mode.
    """
    return mode() in ("token", "password", "oidc")


def has_accounts() -> bool:
    """Return whether a person who signs in has a session at the backend, with an account of their own.

    Raises:
        ClientSettingsError: The setting is not a login mode.
    """
    return mode() in ("password", "oidc")


def can_sign_out() -> bool:
    """Return whether a person can sign out.

    Raises:
        ClientSettingsError: The setting is not a login mode.
    """
    return mode() != "none"


def token() -> str | None:
    """Return the token of the person at this browser; None if the dashboard uses its own token."""
    if mode() == "password":
        return st.context.headers.get(HEADER)
    stored: str | None = st.session_state.get(_TOKEN)
    return stored if mode() in ("token", "oidc") else None


def is_signed_in() -> bool:
    """Return whether this person may see the pages.

    Raises:
        ClientSettingsError: The setting is not a login mode, the identity provider is not configured, or a limit of
            sessions is invalid.
    """
    if mode() == "address":
        sessions.limits()
    if mode() == "oidc":
        return _is_authenticated() and _is_allowed(_email()) and _has_session()
    return not requires_sign_in() or token() is not None


def show_sign_in() -> None:
    """Draw the sign-in form.

    Call this after ``st.navigation``: the browser's reply contains the token that it has stored, and has to name the
    page.
    """
    st.title("Sign in")
    if mode() == "token":
        _token_form()
    elif mode() == "password":  # such as a page that was open when the mode was changed
        st.markdown("[Sign in with name and password](./sign-in)")
    elif not st.user.is_logged_in:
        st.button("Sign in", type="primary", icon=":material/login:", on_click=_login)
    elif message := st.session_state.get(_MESSAGE):
        st.error(escape(message), icon=_NO_KEY)
        st.button("Sign in again", type="primary", icon=":material/login:", on_click=_login)
        st.button("Sign out", on_click=_logout)
    else:
        st.error(f"{escape(_email() or 'This account')} does not have access to this DKD Lab.", icon=_NO_KEY)
        st.button("Sign in with another account", on_click=_logout)


def store_token() -> None:
    """Store the token of a new sign-in in the browser. This is repeated until the browser confirms it.

    The component has its own container, so that the elements below it keep their place when it disappears.
    """
    with st.container(key="dkd-keep"):
        if (remember := st.session_state.get(_REMEMBER)) is not None:
            data = {"token": token(), "stay": remember}
            _browser_storage()(key="login.keep", data=data, height=1, on_kept_change=_on_stored)


def sign_out(message: str = "") -> None:
    """Remove the sign-in from the session and from the browser.

    Args:
        message: Text shown at the sign-in form.
    """
    if mode() in ("address", "password"):
        st.title("Sign out")
        _browser_sign_out()(key="login.sign-out", height=1)
        return
    if mode() == "oidc":
        _end_session()
        st.session_state.clear()
        st.logout()
        return
    st.session_state.clear()
    st.session_state[_MESSAGE] = message
    st.session_state["login.forget"] = True
    st.rerun()


def _token_form() -> None:
    forget = st.session_state.pop("login.forget", False)
    stored = _browser_storage()(
        key="login.forget" if forget else "login.find", data={"forget": forget}, height=1, on_token_change=_ignore
    )
    if not forget and stored.get("token") and _MESSAGE not in st.session_state:
        _sign_in(str(stored["token"]), remember=None)
    with st.form("login", width=480):
        entered = st.text_input("Token", type="password", placeholder="dkd_…", autocomplete="current-password")
        remember = st.checkbox("Stay signed in on this browser", help="Otherwise you are signed out with this tab.")
        if st.form_submit_button("Sign in", type="primary"):
            _sign_in(entered.strip(), remember=remember)
    if message := st.session_state.get(_MESSAGE):
        st.error(escape(message), icon=_NO_KEY)
    st.caption("The administrator of this DKD Lab creates tokens: `dkd token create NAME --scope submit`.")


def _sign_in(candidate: str, *, remember: bool | None) -> None:
    """Sign in with a token that the backend accepts; otherwise store the reason for the form."""
    if reason := _token_problem(candidate):
        st.session_state[_MESSAGE] = reason
        return
    st.session_state.pop(_MESSAGE, None)
    st.session_state[_TOKEN] = candidate
    if remember is not None:
        st.session_state[_REMEMBER] = remember
    st.rerun()


def _token_problem(candidate: str) -> str:
    if not candidate:
        return "Enter a token."
    try:
        with Client(token=candidate, timeout=6.0, use_login=False) as client:
            client.catalog()
    except ApiError as error:
        return {
            401: "This token is not valid, has expired or was revoked.",
            403: "This token has no read access: it needs the scope read, submit or admin.",
        }.get(error.status, str(error))
    except (BackendUnreachable, ClientSettingsError) as error:
        return str(error)
    return ""


def _is_authenticated() -> bool:
    if not _oidc_configured():
        raise ClientSettingsError(
            "DKD_DASHBOARD_LOGIN is oidc, but Streamlit's secrets.toml has no [auth] section that names the provider"
        )
    return bool(st.user.is_logged_in) and st.user.get("email_verified") is not False


def _has_session() -> bool:
    """Return whether the person has a session at the backend; exchange the ID token for one if not.

    Raises:
        ClientSettingsError: Streamlit does not give the ID token to the dashboard.
    """
    if _TOKEN not in st.session_state:
        id_token = _id_token()
        key = hashlib.sha256(id_token.encode()).hexdigest()
        if st.session_state.get(_REFUSED) == key:  # each further draw of the page would cause a failed sign-in
            return False
        try:
            st.session_state[_TOKEN] = _exchanged(key, id_token, st.context.ip_address)
        except (ApiError, SpecError, BackendUnreachable) as error:
            st.session_state[_MESSAGE], st.session_state[_REFUSED] = sentence(str(error)), key
            return False
    st.session_state.pop(_MESSAGE, None)
    return True


@st.cache_resource(show_spinner=False, max_entries=10_000)
def _exchanged(key: str, _id_token: str, _address: str | None) -> str:
    """Return the session of an ID token. The backend accepts each token once, so all tabs of a browser share it."""
    with Client(token="none", timeout=6.0, use_login=False, forwarded_for=_address) as client:
        return client.sessions.sign_in_oidc(_id_token, client="dashboard").token


def _end_session() -> None:
    if held := st.session_state.get(_TOKEN):
        with (
            contextlib.suppress(ApiError, BackendUnreachable, ClientSettingsError),
            Client(token=held, timeout=6.0, use_login=False) as client,
        ):
            client.sessions.end()
        id_token = _id_token()
        _exchanged.clear(hashlib.sha256(id_token.encode()).hexdigest(), id_token, None)


def _id_token() -> str:
    tokens = st.user.tokens
    if "id" not in tokens:
        raise ClientSettingsError(
            "with DKD_DASHBOARD_LOGIN=oidc, the [auth] section of Streamlit's secrets.toml needs expose_tokens = "
            '"id", so that each person acts as that person'
        )
    return str(tokens["id"])


def _email() -> str:
    return str(st.user.get("email") or "")


def _login() -> None:
    st.login()


def _logout() -> None:
    st.logout()


def _oidc_configured() -> bool:
    try:
        return "auth" in st.secrets
    except FileNotFoundError:
        return False


def _is_allowed(address: str) -> bool:
    """Return whether ``DKD_DASHBOARD_ALLOW`` lists an email address. An empty list allows no address.

    Entries are patterns, separated by commas: ``ann@lab.example, *@physics.example``.
    """
    patterns = os.environ.get("DKD_DASHBOARD_ALLOW", "").replace(",", " ").split()
    return bool(address) and any(fnmatchcase(address.lower(), pattern.lower()) for pattern in patterns)


def _on_stored() -> None:
    st.session_state.pop(_REMEMBER, None)


def _ignore() -> None:
    """Do nothing. Streamlit keeps the state of a component only if a callback is registered for it."""


@cache
def _browser_storage() -> Callable[..., Any]:
    return st.components.v2.component("dkd_keep", js=_script("keep.js"))


@cache
def _browser_sign_out() -> Callable[..., Any]:
    return st.components.v2.component("dkd_sign_out", js=_script("sign_out.js"))


def _script(name: str) -> str:
    return (Path(__file__).parents[1] / "assets" / name).read_text(encoding="utf-8")
