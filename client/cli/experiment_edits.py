"""Commands that make and keep experiments: sweep, clone, tag, note, archive, delete."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from client.cli import exit_codes
from client.cli.options import (
    JsonFlag,
    SetOption,
    connected,
    map_field_errors,
    parse_change,
    read_plain,
    read_stdin,
    write_json,
)
from client.rendering.tables import console_for, render_preview
from core.protocol.submissions import SweepPreview
from core.specs import parse_sweep
from core.specs.loading import text_of
from core.specs.sweep import expand

_TEACHERS_NAMED = 3
Named = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Its name or id.")]


def register(app: typer.Typer) -> None:
    for command in (sweep, clone, tag, note, archive, unarchive, delete):
        app.command(epilog=exit_codes.HELP)(command)


def sweep(
    source: Annotated[str, typer.Argument(metavar="SWEEP", help="A YAML or JSON file; - reads stdin.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what it would make.")] = False,
    changes: SetOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Submit many experiments written as one.

    The file has a name, the spec under experiment, and what varies: grid (lists, or 0..4), points, or random with
    draws. All of it is made, or nothing.
    """
    data = read_plain(source, changes or [], lambda found: expand(parse_sweep(found)))
    with connected() as client:
        if dry_run:
            shown = client.preview_sweep(data)
            if as_json:
                write_json(shown)
            else:
                for warning in shown.warnings:
                    typer.echo(f"note: {warning.path}: {warning.message}", err=True)
                console_for().print(_table([(item.name, "", item.runs) for item in shown.items]))
                for sentence in teacher_lines(shown):
                    typer.echo(sentence)
                typer.echo(f"{len(shown.items)} experiment(s), {shown.runs} run(s)")
            return exit_codes.OK
        made = client.sweep(data)
    if as_json:
        write_json(made)
    else:
        console_for().print(_table([(item.name, item.id, item.runs) for item in made.items]))
        typer.echo(f"{len(made.items)} experiment(s), {made.runs} run(s) queued")
    return exit_codes.OK


def clone(
    experiment: Named,
    name: Annotated[str | None, typer.Option(help="Of the new one; else the old one with a number.")] = None,
    changes: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what it would make.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """Submit an experiment again, with fields changed by --set.

    Its teacher stays the one that it is, whatever changes in training, unless teacher changes
    (--set teacher.training=null trains one as the students are). Labels that nobody typed follow the methods.
    """
    wanted: dict[str, Any] = dict(parse_change(change) for change in changes or [])
    with connected() as client, map_field_errors(name=f"--name {name!r}: 1 to 100 characters"):
        if dry_run:
            shown = client.preview_clone(experiment, name=name, changes=wanted)
            if as_json:
                write_json(shown)
            else:
                console_for().print(render_preview(shown))
            return exit_codes.OK
        made = client.clone(experiment, name=name, changes=wanted)
    for note in made.warnings:
        typer.echo(f"note: {note.path}: {note.message}", err=True)
    if as_json:
        write_json(made)
    else:
        for teacher in (run for run in made.runs if run.role == "teacher"):
            new = teacher.experiment_id == made.id
            how = "a new teacher is made" if new else "the teacher is there"
            typer.echo(f"{how}: run {teacher.id}, {teacher.state}")
        typer.echo(f"{made.name}: {len(made.runs)} run(s), id {made.id}; follow with `dkd watch {made.id}`")
    return exit_codes.OK


def tag(
    experiment: Named,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="[TAG]...", help="Added; with - in front taken off.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Add tags to an experiment, or take them off (after --: `dkd tag NAME -- -old`)."""
    with connected() as client:
        if tags:
            off = [item[1:] for item in tags if item.startswith("-")]
            more = [item for item in tags if not item.startswith("-")]
            text = "TAG: 1 to 40 characters each, no space or comma; an experiment has at most 20"
            with map_field_errors(tags=text, add_tags=text, remove_tags=text):
                found = client.experiments.update(experiment, add_tags=more, remove_tags=off)
        else:
            found = client.experiments.get(experiment)
    if as_json:
        write_json(found)
    else:
        typer.echo(f"{found.name}: {', '.join(found.tags) or 'no tags'}")
    return exit_codes.OK


def note(
    experiment: Named,
    text: Annotated[
        str | None, typer.Argument(help="The notes from now on; - reads stdin. Left out, they are shown.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Show or change an experiment's notes."""
    with connected() as client, map_field_errors(notes="TEXT: at most 10,000 characters, none of them NUL"):
        if text is None:
            found = client.experiments.get(experiment)
        else:
            found = client.experiments.update(experiment, notes=text_of(read_stdin()) if text == "-" else text)
    if as_json:
        write_json(found)
    elif text is None:
        typer.echo(found.notes)
    return exit_codes.OK


def archive(experiment: Named, as_json: JsonFlag = False) -> int:
    """Leave an experiment out of lists. Nothing is lost."""
    return _archive(experiment, True, as_json)


def unarchive(experiment: Named, as_json: JsonFlag = False) -> int:
    """Show an archived experiment in lists again."""
    return _archive(experiment, False, as_json)


def delete(
    experiment: Named,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """Delete an experiment with its runs, metrics, logs and files.

    Refused while one of its runs lives; a teacher that other experiments use stays.
    """
    with connected() as client:
        found = client.experiments.get(experiment)
        if not yes:
            if not sys.stdin.isatty():
                raise exit_codes.CliExit(f"{found.name} would be gone for good; say --yes", exit_codes.BAD_INPUT)
            typer.confirm(f"delete {found.name} with {len(found.runs)} run(s) and their files?", abort=True)
        client.delete_experiment(found.id)
    if as_json:
        write_json(found)
    else:
        typer.echo(f"{found.name}: deleted")
    return exit_codes.OK


def _archive(experiment: str, archived: bool, as_json: bool) -> int:
    with connected() as client:
        found = client.archive_experiment(experiment, archived=archived)
    if as_json:
        write_json(found)
    else:
        typer.echo(f"{found.name}: {'archived' if archived else 'shown in lists'}")
    return exit_codes.OK


def teacher_lines(shown: SweepPreview) -> list[str]:
    """How many teachers a sweep has, and of the first few which they are."""
    if not shown.teacher_count:
        return []
    lines = [f"{shown.teacher_count} teacher(s), {shown.new_teachers} to make"]
    lines += [f"  {teacher.sentence}" for teacher in shown.teachers[:_TEACHERS_NAMED]]
    more = shown.teacher_count - _TEACHERS_NAMED
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _table(rows: list[tuple[str, str, int]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("experiment", "id", "runs"):
        table.add_column(title)
    for name, identity, runs in rows:
        table.add_row(name, identity, str(runs))
    return table
