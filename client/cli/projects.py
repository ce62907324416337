"""``dkd project …`` and ``dkd person …``: projects, people and roles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, get_args

import typer

from client.cli import exit_codes
from client.cli.options import JsonFlag, map_field_errors, write_json
from client.cli.sessions import read_new_secret, read_secret
from client.client import Client
from client.errors import ApiError
from client.rendering.quotas import quota_rows
from client.rendering.tables import console_for, new_table
from core.protocol.people import MemberList, Person, Project, Role
from core.protocol.quotas import MAX_DISK_BYTES, MAX_GPU_HOURS, MAX_SLOTS

_ROLES: tuple[Role, ...] = get_args(Role)

project_group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
person_group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

ProjectArgument = Annotated[str, typer.Argument(metavar="PROJECT", help="The project's name.")]
PersonArgument = Annotated[str, typer.Argument(metavar="PERSON", help="The person's name.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(
        project_group, name="project", help="List and create projects, and give roles in them.", epilog=exit_codes.HELP
    )
    app.add_typer(
        person_group, name="person", help="Create, list and change people. For admins.", epilog=exit_codes.HELP
    )


@project_group.command("list", epilog=exit_codes.HELP)
def list_projects(as_json: JsonFlag = False) -> int:
    """List the projects that the token sees."""
    with Client() as client:
        reply = client.projects.list()
    if as_json:
        write_json(reply)
        return exit_codes.OK
    table = new_table("project", "title", "experiments", "members", "your role", numbers=("experiments", "members"))
    for item in reply.items:
        name = f"{item.name} (archived)" if item.archived_at else item.name
        table.add_row(name, item.title, str(item.experiments), str(item.members), item.role or "all rights")
    console_for().print(table)
    return exit_codes.OK


@project_group.command("create", epilog=exit_codes.HELP)
def create_project(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits, and . _ - between them.")],
    title: Annotated[str, typer.Option(help="Title for people.")] = "",
    as_json: JsonFlag = False,
) -> int:
    """Create a project. Its name cannot be changed."""
    messages = {
        "name": f"NAME {name!r}: must be 1 to 60 small letters, digits, and . _ - between them",
        "title": "--title: must be at most 200 visible characters on one line",
    }
    with Client() as client, map_field_errors(**messages):
        created = client.projects.create(name, title=title)
    return _print_project(created, as_json)


@project_group.command("edit", epilog=exit_codes.HELP)
def edit_project(
    project: ProjectArgument,
    title: Annotated[str | None, typer.Option(help="New title.")] = None,
    archive: Annotated[
        bool | None, typer.Option("--archive/--open", help="Take nothing new, or take experiments again.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Change the title of a project, archive it, or open it again."""
    with Client() as client, map_field_errors(title="--title: must be at most 200 visible characters on one line"):
        changed = client.projects.update(project, title=title, archived=archive)
    return _print_project(changed, as_json)


@project_group.command("quota", epilog=exit_codes.HELP)
def project_quota(
    project: ProjectArgument,
    slots: Annotated[str | None, typer.Option(help="Most slots at once; 'none' for no limit.")] = None,
    gpu_hours: Annotated[
        str | None, typer.Option(help="Most GPU-hours in the last seven days; 'none' for no limit.")
    ] = None,
    disk: Annotated[
        str | None, typer.Option(help="Most stored bytes, such as 500GB or 2TB; 'none' for no limit.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Show the quota of a project and what it uses, or set limits. Admins of the lab set them."""
    limits: dict[str, float | None] = {}
    if slots is not None:
        limits["slots"] = _limit("--slots", slots, whole=True)
    if gpu_hours is not None:
        limits["gpu_hours"] = _limit("--gpu-hours", gpu_hours)
    if disk is not None:
        limits["disk_bytes"] = _limit("--disk", disk, whole=True, units=_UNITS)
    messages = {
        "slots": f"--slots {slots}: must be from 0 to {MAX_SLOTS:,}",
        "gpu_hours": f"--gpu-hours {gpu_hours}: must be from 0 to {MAX_GPU_HOURS:,.0f}",
        "disk_bytes": f"--disk {disk}: must be from 0 to {MAX_DISK_BYTES:,} bytes",
    }
    with Client() as client, map_field_errors(**messages):
        quota = client.projects.set_quota(project, **limits) if limits else client.projects.quota(project)
    if as_json:
        write_json(quota)
        return exit_codes.OK
    table = new_table("quota", "used", "limit", numbers=("used", "limit"))
    for name, used, limit in quota_rows(quota):
        table.add_row(name, used, limit)
    console_for().print(table)
    return exit_codes.OK


_UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}


def _limit(option: str, value: str, *, whole: bool = False, units: Mapping[str, float] = MappingProxyType({})) -> Any:
    """Return the number of an option, which may have a unit; None for ``none``."""
    text = value.strip().lower()
    if text == "none":
        return None
    factor = next((units[unit] for unit in units if text.endswith(unit)), 1.0)
    if factor != 1.0:
        text = text[:-2].strip()
    try:
        number = float(text) * factor
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (whole and number != int(number)):
        kind = "a size such as 500GB" if units else "a whole number" if whole else "a number"
        raise exit_codes.CliExit(f"{option} {value}: must be {kind}, or none", exit_codes.BAD_INPUT)
    return int(number) if whole else number


@project_group.command("members", epilog=exit_codes.HELP)
def list_members(project: ProjectArgument, as_json: JsonFlag = False) -> int:
    """List the people who have a role in a project."""
    with Client() as client:
        reply = client.projects.members(project)
    return _print_members(reply, as_json)


@project_group.command("add", epilog=exit_codes.HELP)
def add_member(
    project: ProjectArgument,
    person: PersonArgument,
    role: Annotated[str, typer.Option("--role", "-r", help=f"One of {', '.join(_ROLES)}.")] = "submitter",
    as_json: JsonFlag = False,
) -> int:
    """Give a person a role in a project, in place of an earlier one.

    reader: see everything in the project. submitter: also submit, change and delete. admin: also give roles in it.
    """
    chosen = next((item for item in _ROLES if item == role), None)
    if chosen is None:
        raise exit_codes.CliExit(f"--role {role}: must be one of {', '.join(_ROLES)}", exit_codes.BAD_INPUT)
    with Client() as client:
        reply = client.projects.set_role(project, person, chosen)
    return _print_members(reply, as_json)


@project_group.command("remove", epilog=exit_codes.HELP)
def remove_member(project: ProjectArgument, person: PersonArgument) -> int:
    """End a person's role in a project, from the next request on."""
    with Client() as client:
        client.projects.remove_member(project, person)
    typer.echo(f"{person} has no role in {project}")
    return exit_codes.OK


@project_group.command("move", epilog=exit_codes.HELP)
def move_experiment(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's name or id.")],
    project: ProjectArgument,
    as_json: JsonFlag = False,
) -> int:
    """Move an experiment to another project, with its runs, metrics and files."""
    with Client() as client, map_field_errors(project=f"PROJECT {project!r}: is not the name of a project"):
        moved = client.experiments.update(experiment, project=project)
    if as_json:
        write_json(moved)
    else:
        typer.echo(f"{moved.name}: in the project {moved.project}")
    return exit_codes.OK


@person_group.command("list", epilog=exit_codes.HELP)
def list_people(as_json: JsonFlag = False) -> int:
    """List all people, with their roles."""
    with Client() as client:
        reply = client.people.list()
    if as_json:
        write_json(reply)
    elif reply.items:
        _print_people(reply.items)
    else:
        typer.echo("no people yet; `dkd person create` adds one")
    return exit_codes.OK


@person_group.command("create", epilog=exit_codes.HELP)
def create_person(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, and . _ @ + - between them.")],
    mail: Annotated[str | None, typer.Option(help="Mail address.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="An admin of the lab, who may do everything.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """Create a person.

    `dkd project add` gives the person a role, and `dkd token create NAME --person PERSON` a token.
    """
    messages = {
        "name": f"NAME {name!r}: must be 1 to 60 letters, digits, and . _ @ + - between them",
        "mail": f"--mail {mail!r}: is not a mail address",
    }
    with Client() as client, map_field_errors(**messages):
        created = client.people.create(name, mail=mail, admin=admin)
    return _print_person(created, as_json)


@person_group.command("edit", epilog=exit_codes.HELP)
def edit_person(
    person: PersonArgument,
    mail: Annotated[str | None, typer.Option(help="New mail address; '' removes it.")] = None,
    admin: Annotated[
        bool | None, typer.Option("--admin/--no-admin", help="Whether the person is an admin of the lab.")
    ] = None,
    disable: Annotated[
        bool | None, typer.Option("--disable/--enable", help="Refuse all tokens of the person, or accept them again.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Change a person. Tokens of a disabled person are refused from the next request on."""
    with Client() as client, map_field_errors(mail=f"--mail {mail!r}: is not a mail address"):
        changed = client.people.update(person, mail=mail, admin=admin, disabled=disable)
    return _print_person(changed, as_json)


@person_group.command("password", epilog=exit_codes.HELP)
def set_password(
    person: PersonArgument,
    invite: Annotated[
        bool, typer.Option("--invite", help="Print a code with which the person chooses a password, once.")
    ] = False,
    hours: Annotated[float, typer.Option(help="With --invite: hours until the code ends.")] = 72.0,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the password.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """Set the password of a person, or your own, which needs the present one. Sessions of the person end.

    Passwords are asked for, or read from the lines of stdin if that is not a terminal.
    """
    if invite and remove:
        raise exit_codes.CliExit("--invite and --remove contradict each other", exit_codes.BAD_INPUT)
    with Client() as client:
        if invite:
            with map_field_errors(expires_in_hours=f"--hours {hours}: must be more than 0 and at most 720"):
                invitation = client.people.invite(person, expires_in_hours=hours)
            if as_json:
                write_json(invitation)
                return exit_codes.OK
            typer.echo(invitation.code)
            typer.echo(
                f"{person} chooses a password with it: `dkd login --invitation`, or the dashboard's page "
                f"invitation?code=CODE; it ends at {invitation.ends_at:%Y-%m-%d %H:%M} UTC and is not shown again",
                err=True,
            )
            return exit_codes.OK
        if remove:
            reply = client.people.remove_password(person)
        elif _has_own_password(client, person):
            current = read_secret("Present password")
            reply = client.account.change_password(current, read_new_secret("New password"))
        else:
            reply = client.people.set_password(person, read_new_secret("New password"))
    if as_json:
        write_json(reply)
    else:
        typer.echo(f"{person}: the password was {'removed' if remove else 'set'}; sessions that ended: {reply.ended}")
    return exit_codes.OK


def _has_own_password(client: Client, person: str) -> bool:
    """Return whether a person with a password sends the requests, and not an admin for somebody else."""
    try:
        own = client.account().person
    except ApiError as error:
        if error.status != 409:  # the token of a service
            raise
        return False
    return own.name == person and own.has_password


def _print_project(project: Project, as_json: bool) -> int:
    if as_json:
        write_json(project)
    else:
        typer.echo(f"{project.name}: {'archived' if project.archived_at else 'open'}")
    return exit_codes.OK


def _print_members(reply: MemberList, as_json: bool) -> int:
    if as_json:
        write_json(reply)
        return exit_codes.OK
    table = new_table("person", "role")
    for item in reply.items:
        table.add_row(f"{item.person} (disabled)" if item.disabled else item.person, item.role)
    console_for().print(table) if reply.items else typer.echo(f"nobody has a role in {reply.project}")
    return exit_codes.OK


def _print_person(person: Person, as_json: bool) -> int:
    if as_json:
        write_json(person)
    else:
        _print_people([person])
    return exit_codes.OK


def _print_people(people: Sequence[Person]) -> None:
    table = new_table("person", "mail", "state", "roles", "tokens", numbers=("tokens",))
    for item in people:
        state = "disabled" if item.disabled_at else "admin of the lab" if item.admin else "active"
        roles = ", ".join(f"{project}: {role}" for project, role in item.roles.items())
        table.add_row(item.name, item.mail or "", state, roles, str(item.tokens))
    console_for().print(table)
