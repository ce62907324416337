"""The script that Streamlit runs for each interaction: it checks the sign-in and draws the selected page."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import streamlit as st
from streamlit.navigation.page import Page

from client import ClientSettingsError
from dashboard import projects, session
from dashboard.charts import chart_component
from dashboard.server import login
from dashboard.views import (
    account,
    audit,
    compare,
    experiment,
    leaderboard,
    loss_explorer,
    new_experiment,
    overview,
    people,
    results,
    run,
    runs,
    sweep,
    teachers,
    workers,
)

_ICON = Path(__file__).with_name("assets") / "icon.svg"


def _pages_of_admins() -> list[Page]:
    """Return the pages for admins. They have an address, but no place in the navigation, in a lab without people."""
    visibility: Literal["visible", "hidden"] = "hidden"
    with contextlib.suppress(ClientSettingsError):  # ``main`` shows it
        if login.is_signed_in() and projects.is_shared() and projects.administers():
            visibility = "visible"
    return [
        st.Page(
            people.show, title="People and projects", icon=":material/group:", url_path="people", visibility=visibility
        ),
        st.Page(audit.show, title="Audit log", icon=":material/history:", url_path="audit", visibility=visibility),
    ]


def _pages_of_people() -> list[Page]:
    """Return the page of the own account, which has a place in the navigation if people sign in at the backend."""
    visibility: Literal["visible", "hidden"] = "hidden"
    with contextlib.suppress(ClientSettingsError):  # ``main`` shows it
        if login.has_accounts():
            visibility = "visible"
    icon = ":material/account_circle:"
    return [st.Page(account.show, title="Your account", icon=icon, url_path="account", visibility=visibility)]


def main() -> None:
    # The icon is a local file, because the browser would fetch a named icon from a Google server.
    st.set_page_config(page_title="DKD Lab", page_icon=_ICON, layout="wide")
    pages = [
        st.Page(overview.show, title="Overview", icon=":material/dashboard:", default=True),
        st.Page(new_experiment.show, title="New experiment", icon=":material/add_circle:", url_path="new"),
        st.Page(runs.show, title="Runs", icon=":material/list:", url_path="runs"),
        st.Page(
            experiment.show, title="Experiment", icon=":material/science:", url_path="experiment", visibility="hidden"
        ),
        st.Page(sweep.show, title="Sweep", icon=":material/grid_view:", url_path="sweep", visibility="hidden"),
        st.Page(run.show, title="Run", icon=":material/show_chart:", url_path="run"),
        st.Page(compare.show, title="Compare", icon=":material/stacked_line_chart:", url_path="compare"),
        st.Page(results.show, title="Results", icon=":material/table_chart:", url_path="results"),
        st.Page(leaderboard.show, title="Leaderboard", icon=":material/leaderboard:", url_path="leaderboard"),
        st.Page(loss_explorer.show, title="Loss explorer", icon=":material/functions:", url_path="loss"),
        st.Page(teachers.show, title="Teachers", icon=":material/school:", url_path="teachers"),
        st.Page(workers.show, title="Workers", icon=":material/dns:", url_path="workers"),
        *_pages_of_people(),
        *_pages_of_admins(),
    ]
    session.register_pages({item.url_path or "overview": item for item in pages})
    with session.error_boundary():
        shown_pages = [*pages]
        if login.can_sign_out():
            shown_pages.append(st.Page(login.sign_out, title="Sign out", icon=":material/logout:", url_path="sign-out"))
        signed_in = login.is_signed_in()
        # Also called before sign-in, so that a deep link still leads to its page afterwards.
        page = st.navigation(shown_pages, position="top" if signed_in else "hidden")
        session.tab_title(page.title)
        chart_component.preload()
        if signed_in:
            login.store_token()
            projects.draw_chooser()
            page.run()
        else:
            login.show_sign_in()


main()
