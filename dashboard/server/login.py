"""Who sees the pages, by ``DKD_DASHBOARD_LOGIN``.

``none``: whoever reaches the dashboard, which speaks with its own token. ``address``: browsers that were opened by a
one-time address of the home (``dashboard.server.gate``); the pages then use the dashboard's own token. ``token``: each
person with a token of their own, which is what the backend is then asked with. ``oidc``: whom the identity provider of
Streamlit's ``[auth]`` secrets knows and ``DKD_DASHBOARD_ALLOW`` lists; the backend is asked with the dashboard's own
token.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import streamlit as st

from client import ApiError, BackendUnreachable, Client, ClientSettingsError
from dashboard.markup import escape

Mode = Literal["none", "address", "token", "oidc"]
_TOKEN, _SAID, _STAY = "login.token", "login.said", "login.stay"
_NO_KEY = ":material/key_off:"


def mode() -> Mode:
    """What the setting says. Raises ClientSettingsError if it is none of the four."""
    given = os.environ.get("DKD_DASHBOARD_LOGIN", "").strip().lower() or "none"
    if given not in get_args(Mode):
        raise ClientSettingsError(f"DKD_DASHBOARD_LOGIN is {given!r}; it can be none, token or oidc, or address")
    return cast(Mode, given)


def requires_sign_in() -> bool:
    """Whether each person signs in. Raises ClientSettingsError as ``mode`` does."""
    return mode() in ("token", "oidc")


def token() -> str | None:
    """The token of the person at this browser; None where the dashboard uses its own."""
    found: str | None = st.session_state.get(_TOKEN)
    return found if mode() == "token" else None


def is_signed_in() -> bool:
    """Whether this person may see the pages. Raises ClientSettingsError where the setting cannot work."""
    if mode() == "oidc":
        return _known_to_provider() and _allowed(_address())
    return not requires_sign_in() or token() is not None


def show_sign_in() -> None:
    """Draw the way in, for a person who is not inside.

    After ``st.navigation``: the browser answers for what it has kept, and that answer has to name the page.
    """
    st.title("Sign in")
    if mode() == "token":
        _ask_for_token()
    elif not st.user.is_logged_in:
        st.button("Sign in", type="primary", icon=":material/login:", on_click=_login)
    else:
        st.error(f"{escape(_address() or 'This account')} is not among those who may use this DKD Lab.", icon=_NO_KEY)
        st.button("Sign in as somebody else", on_click=_logout)


def store_token() -> None:
    """Have the browser keep the token that somebody has just come in with, until it says that it has.

    In a place of its own, so that what follows on the page stands where it stood when that is done.
    """
    with st.container(key="dkd-keep"):
        if (stay := st.session_state.get(_STAY)) is not None:
            _keeper()(key="login.keep", data={"token": token(), "stay": stay}, height=1, on_kept_change=_kept)


def sign_out(why: str = "") -> None:
    """Forget who this is, here and in the browser; ``why`` is said on the page that follows."""
    st.session_state.clear()
    if mode() == "oidc":
        st.logout()
        return
    st.session_state[_SAID] = why
    st.session_state["login.forget"] = True
    st.rerun()


def _ask_for_token() -> None:
    forget = st.session_state.pop("login.forget", False)
    kept = _keeper()(
        key="login.forget" if forget else "login.find", data={"forget": forget}, height=1, on_token_change=_nothing
    )
    if not forget and kept.get("token") and _SAID not in st.session_state:
        _try(str(kept["token"]), stay=None)
    with st.form("login", width=480):
        given = st.text_input("Token", type="password", placeholder="dkd_…", autocomplete="current-password")
        stay = st.checkbox("Stay signed in on this browser", help="Else until this tab is closed.")
        if st.form_submit_button("Sign in", type="primary"):
            _try(given.strip(), stay=stay)
    if said := st.session_state.get(_SAID):
        st.error(escape(said), icon=_NO_KEY)
    st.caption("Whoever runs this DKD Lab makes tokens: `dkd token create NAME --scope submit`.")


def _try(given: str, *, stay: bool | None) -> None:
    """Come in by a token that the backend knows; else say why not."""
    if why := _refusal(given):
        st.session_state[_SAID] = why
        return
    st.session_state.pop(_SAID, None)
    st.session_state[_TOKEN] = given
    if stay is not None:
        st.session_state[_STAY] = stay
    st.rerun()


def _refusal(given: str) -> str:
    if not given:
        return "A token is needed."
    try:
        with Client(token=given, timeout=6.0) as asked:
            asked.catalog()
    except ApiError as error:
        return {
            401: "The backend does not know this token, or it has expired or was revoked.",
            403: "This token does not let anybody read: it needs the scope read, submit or admin.",
        }.get(error.status, str(error))
    except (BackendUnreachable, ClientSettingsError) as error:
        return str(error)
    return ""


def _known_to_provider() -> bool:
    if not _oidc_configured():
        raise ClientSettingsError(
            "DKD_DASHBOARD_LOGIN is oidc, and Streamlit's secrets.toml has no [auth] section that names the provider"
        )
    return bool(st.user.is_logged_in) and st.user.get("email_verified") is not False


def _address() -> str:
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


def _allowed(address: str) -> bool:
    """Whether ``DKD_DASHBOARD_ALLOW`` lists an address: ``ann@lab.example, *@physics.example``. Empty: nobody."""
    patterns = os.environ.get("DKD_DASHBOARD_ALLOW", "").replace(",", " ").split()
    return bool(address) and any(fnmatchcase(address.lower(), pattern.lower()) for pattern in patterns)


def _kept() -> None:
    st.session_state.pop(_STAY, None)


def _nothing() -> None:
    """A component's state is kept only where somebody listens to it."""


@cache
def _keeper() -> Callable[..., Any]:
    script = Path(__file__).parents[1] / "assets" / "keep.js"
    return st.components.v2.component("dkd_keep", js=script.read_text(encoding="utf-8"))
