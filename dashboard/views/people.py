"""The page "People and projects", for admins: people, projects, and the roles of people in projects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import streamlit as st

from client import ApiError, BackendUnreachable, SpecError
from client.rendering.quotas import quota_rows
from core.protocol.people import Person, Project, Role
from core.protocol.quotas import MAX_DISK_BYTES, MAX_GPU_HOURS, MAX_SLOTS
from dashboard import projects, session
from dashboard.forms.widgets import table
from dashboard.lists import bulk
from dashboard.lists.row_text import timestamp
from dashboard.markup import code, escape
from dashboard.server import login

_ROLES: tuple[Role, ...] = get_args(Role)
_GB = 1e9
_ROLE_HELP = (
    "reader: see everything in the project. submitter: also submit, change and delete. admin: also give roles in it."
)


def show() -> None:
    """Draw the page. ``/people?project=NAME`` opens a project."""
    st.title("People and projects")
    with session.error_boundary():
        if not projects.administers():
            st.info("This page needs the token of an admin of the lab.", icon=":material/key_off:")
            return
        bulk.show_message()
        _rights()
        client = session.lab_client()
        people, places = client.people().items, client.projects().items
        _people(people)
        _projects(places, people)


def _rights() -> None:
    """Say whose rights the pages have."""
    if login.token() is None:
        st.info(
            "This dashboard uses a token of its own, which is a service's: everybody who can open it sees all projects "
            "and acts with that token's rights. With `DKD_DASHBOARD_LOGIN=password`, `oidc` or `token`, each person "
            "signs in, and sees the own projects.",
            icon=":material/info:",
        )


def _people(people: Sequence[Person]) -> None:
    st.subheader("People")
    if people:
        table(
            [
                {
                    "Name": item.name,
                    "Mail": item.mail or "",
                    "State": "disabled" if item.disabled_at else "admin of the lab" if item.admin else "active",
                    "Roles": ", ".join(f"{place}: {role}" for place, role in item.roles.items()) or "none",
                    "Tokens": str(item.tokens),
                    "Signs in by": ", ".join([*(["password"] if item.has_password else []), *item.issuers]) or "token",
                    "Since (UTC)": timestamp(item.created_at),
                }
                for item in people
            ],
            wrap=True,
        )
    else:
        st.caption("There are no people yet. Until there are, every token has its scopes over all projects.")
    with st.container(horizontal=True):
        with st.popover("Add a person", icon=":material/person_add:"):
            _new_person()
        if people:
            with st.popover("Change a person", icon=":material/manage_accounts:"):
                _change_person(people)


def _new_person() -> None:
    with st.form("people.new", border=False, clear_on_submit=True):
        name = st.text_input("Name", max_chars=60, help="Letters, digits, and . _ @ + - between them.")
        mail = st.text_input("Mail (optional)", max_chars=200)
        admin = st.checkbox("Admin of the lab", help="May do everything, with a token of the scope admin.")
        if st.form_submit_button("Add", type="primary"):
            _do(
                lambda: session.action_client().people.create(name.strip(), mail=mail.strip() or None, admin=admin),
                f"{name.strip()} was added.",
            )
    st.caption("A token for a person is made on the command line:")
    st.code("dkd token create NAME --scope submit --person PERSON", language=None)


def _change_person(people: Sequence[Person]) -> None:
    names = {item.name: item for item in people}
    chosen = st.selectbox("Person", list(names), key="people.person")
    person = names.get(chosen or "")
    if person is None:
        return
    disabled = person.disabled_at is not None
    st.button(
        "Accept tokens again" if disabled else "Disable",
        icon=":material/person_check:" if disabled else ":material/person_off:",
        help=None if disabled else "All tokens of the person are refused from now on.",
        on_click=_update_person,
        args=(person.name, None, not disabled),
    )
    st.button(
        "End the rights of an admin" if person.admin else "Make an admin of the lab",
        icon=":material/shield_person:",
        on_click=_update_person,
        args=(person.name, not person.admin, None),
    )
    _sign_in_of(person)


def _sign_in_of(person: Person) -> None:
    """Draw what an admin may do about a person's sign-in."""
    if not login.has_accounts():
        return
    if person.disabled_at is None and st.button(
        "Reset the password" if person.has_password else "Invite to choose a password",
        icon=":material/key:",
        help="Makes a link with which the person chooses a password. It works once, within three days.",
    ):
        _invite(person.name)
    if person.has_password:
        st.button(
            "Remove the password",
            icon=":material/key_off:",
            help="The person's sessions end. Tokens are not changed.",
            on_click=_do,
            args=(lambda: session.action_client().people.remove_password(person.name), "The password was removed."),
            kwargs={"rerun": False},
        )


def _invite(name: str) -> None:
    try:
        made = session.action_client().people.invite(name)
    except (ApiError, BackendUnreachable) as error:
        st.error(escape(bulk.error_sentence(error)), icon=":material/error:")
        return
    address = st.context.url or ""
    root = address.partition("?")[0].removesuffix("/").removesuffix("people").rstrip("/")
    st.caption(f"Give {escape(name)} this link. It is not shown again, and ends {timestamp(made.ends_at)} UTC.")
    st.code(f"{root}/invitation?code={made.code}", language=None)


def _update_person(name: str, admin: bool | None, disabled: bool | None) -> None:
    client = session.action_client()
    _do(lambda: client.people.update(name, admin=admin, disabled=disabled), f"{name} was changed.", rerun=False)


def _projects(places: Sequence[Project], people: Sequence[Person]) -> None:
    st.subheader("Projects")
    table(
        [
            {
                "Name": item.name,
                "Title": item.title,
                "Experiments": f"{item.experiments:,}",
                "Members": f"{item.members:,}",
                "State": "archived" if item.archived_at else "open",
            }
            for item in places
        ],
        wrap=True,
    )
    with st.popover("Add a project", icon=":material/create_new_folder:"), st.form("projects.new", border=False):
        name = st.text_input("Name", max_chars=60, help="Small letters, digits, and . _ - between them; it stays.")
        title = st.text_input("Title (optional)", max_chars=200)
        if st.form_submit_button("Add", type="primary"):
            _do(
                lambda: session.action_client().projects.create(name.strip(), title=title.strip()),
                f"The project {name.strip()} was added.",
            )
    names = [item.name for item in places]
    chosen = st.selectbox("Project", names, key="project", bind="query-params", width=300)
    project = next((item for item in places if item.name == chosen), None)
    if project is not None:
        _quota(project)
        _members(project, people)


def _quota(project: Project) -> None:
    quota = session.lab_client().projects.quota(project.name)
    st.markdown(f"**Quota of {escape(project.name)}**")
    table([{"Quota": name, "Used": used, "Limit": limit} for name, used, limit in quota_rows(quota)])
    with st.popover("Set the quota", icon=":material/speed:"), st.form(f"quota.{project.name}", border=False):
        st.caption("An empty field is no limit. Runs beyond a limit wait; what trains goes on.")
        slots = _limit(project, "Slots at once", quota.slots_limit, MAX_SLOTS, 1)
        hours = _limit(project, "GPU-hours in seven days", quota.gpu_hours_limit, MAX_GPU_HOURS, 10.0)
        size = None if quota.disk_bytes_limit is None else quota.disk_bytes_limit / _GB
        disk = _limit(project, "Stored files (GB)", size, MAX_DISK_BYTES / _GB, 10.0)
        if st.form_submit_button("Set", type="primary"):
            limits = {"slots": slots, "gpu_hours": hours, "disk_bytes": None if disk is None else round(disk * _GB)}
            _do(
                lambda: session.action_client().projects.set_quota(project.name, **limits),
                f"The quota of {project.name} was set.",
            )
    st.caption(f"On the command line: {code(f'dkd project quota {project.name} --slots 8 --gpu-hours 500 --disk 1TB')}")


def _limit(project: Project, label: str, limit: float | None, most: float, step: float) -> float | None:
    """Draw the field of a limit and return its value; None if it is empty."""
    # Not as the field's default, to which Streamlit returns when the field is emptied.
    key = f"quota.{project.name}.{label}.{limit}"
    st.session_state.setdefault(key, limit)
    return st.number_input(escape(label), type(step)(0), most, value=None, step=step, key=key)


def _members(project: Project, people: Sequence[Person]) -> None:
    members = session.lab_client().projects.members(project.name).items
    st.markdown(f"**Members of {escape(project.name)}**")
    for member in members:
        with st.container(horizontal=True, vertical_alignment="center"):
            note = " :orange-badge[disabled]" if member.disabled else ""
            st.markdown(f"**{escape(member.person)}**{note}", width=280)
            st.selectbox(
                f"Role of {escape(member.person)}",
                _ROLES,
                index=_ROLES.index(member.role),
                key=f"people.role.{project.name}.{member.person}",
                label_visibility="collapsed",
                width=160,
                on_change=_set_role,
                args=(project.name, member.person),
            )
            st.button(
                "Remove",
                icon=":material/person_remove:",
                key=f"people.remove.{project.name}.{member.person}",
                on_click=_remove,
                args=(project.name, member.person),
            )
    if not members:
        st.caption("Nobody has a role in this project. Admins of the lab, and services, need none.")
    others = [item.name for item in people if item.name not in {member.person for member in members}]
    if others:
        with st.form("people.member", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
            person = st.selectbox("Person", others, width=200)
            role = st.selectbox("Role", _ROLES, index=1, width=160, help=_ROLE_HELP)
            if st.form_submit_button("Add to the project"):
                _do(
                    lambda: session.action_client().projects.set_role(project.name, str(person), role),
                    f"{person} is {role} in {project.name}.",
                )
    if project.name != "default":
        archived = project.archived_at is not None
        st.button(
            "Open the project again" if archived else "Archive the project",
            icon=":material/unarchive:" if archived else ":material/archive:",
            help=None if archived else "It takes nothing new; what is in it stays readable.",
            on_click=_archive,
            args=(project.name, not archived),
        )
    st.caption(f"On the command line: {code(f'dkd project add {project.name} PERSON --role submitter')}")


def _set_role(project: str, person: str) -> None:
    role, client = st.session_state[f"people.role.{project}.{person}"], session.action_client()
    _do(lambda: client.projects.set_role(project, person, role), f"{person} is {role} in {project}.", rerun=False)


def _remove(project: str, person: str) -> None:
    client = session.action_client()
    _do(lambda: client.projects.remove_member(project, person), f"{person} has no role in {project}.", rerun=False)


def _archive(project: str, archived: bool) -> None:
    text = f"The project {project} was {'archived' if archived else 'opened'}."
    _do(lambda: session.action_client().projects.update(project, archived=archived), text, rerun=False)


def _do(action: Callable[[], object], done: str, *, rerun: bool = True) -> None:
    """Send a request and store a message about it for the next time the page is drawn.

    Args:
        action: Sends the request.
        done: Sentence that says what was done.
        rerun: Draw the page again; false in callbacks, after which Streamlit does so.
    """
    try:
        action()
        bulk.set_message(done)
    except SpecError as error:
        bulk.set_error("; ".join(f"{problem.path}: {problem.message}" for problem in error.problems))
    except (ApiError, BackendUnreachable) as error:
        bulk.set_error(bulk.error_sentence(error))
    projects.forget()
    if rerun:
        st.rerun()
