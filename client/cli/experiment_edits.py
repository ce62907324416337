"""Commands that create experiments from a sweep or another experiment, and edit them: clone, tag, note, delete …"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from client.cli import exit_codes
from client.cli.options import (
    JsonFlag,
    ProjectOption,
    SetOption,
    map_field_errors,
    parse_change,
    read_document,
    read_stdin,
    write_json,
)
from client.client import Client
from client.rendering.tables import console_for, render_preview
from core.protocol.submissions import SweepPreview
from core.specs import parse_sweep
from core.specs.loading import decode_utf8
from core.specs.sweep import expand

_MAX_TEACHERS_SHOWN = 3
ExperimentArgument = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="The experiment's name or id.")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would be created.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (sweep, clone, tag, note, archive, unarchive, delete):
        app.command(epilog=exit_codes.HELP)(command)


def sweep(
    source: Annotated[str, typer.Argument(metavar="SWEEP", help="A YAML or JSON file, or - for stdin.")],
    dry_run: DryRunFlag = False,
    changes: SetOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Submit many experiments from one file.

    The file has a name, a spec under experiment, and the varied fields: grid (lists, or 0..4), points, or random with
    draws. All experiments are created, or none.
    """
    data = read_document(source, changes or [], lambda content: expand(parse_sweep(content)))
    with Client() as client:
        if dry_run:
            reply = client.experiments.preview_sweep(data)
            if as_json:
                write_json(reply)
            else:
                for warning in reply.warnings:
                    typer.echo(f"note: {warning.path}: {warning.message}", err=True)
                console_for().print(_table([(item.name, "", item.runs) for item in reply.items]))
                for line in teacher_lines(reply):
                    typer.echo(line)
                typer.echo(f"{len(reply.items)} experiment(s), {reply.runs} run(s)")
            return exit_codes.OK
        submitted = client.experiments.create_sweep(data, project=project)
    if as_json:
        write_json(submitted)
    else:
        console_for().print(_table([(item.name, item.id, item.runs) for item in submitted.items]))
        typer.echo(f"{len(submitted.items)} experiment(s), {submitted.runs} run(s) queued")
    return exit_codes.OK


def clone(
    experiment: ExperimentArgument,
    name: Annotated[str | None, typer.Option(help="Name of the clone; by default the old name with a number.")] = None,
    changes: SetOption = None,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
) -> int:
    """Submit an experiment again, with fields changed by --set.

    The clone uses the same teacher, even if training changes, unless a field of teacher changes
    (--set teacher.training=null trains one with the students' settings). Automatic labels are derived again.
    """
    new_values: dict[str, Any] = dict(parse_change(change) for change in changes or [])
    with Client() as client, map_field_errors(name=f"--name {name!r}: must be 1 to 100 characters"):
        if dry_run:
            reply = client.experiments.preview_clone(experiment, name=name, changes=new_values)
            if as_json:
                write_json(reply)
            else:
                console_for().print(render_preview(reply))
            return exit_codes.OK
        created = client.experiments.clone(experiment, name=name, changes=new_values)
    for warning in created.warnings:
        typer.echo(f"note: {warning.path}: {warning.message}", err=True)
    if as_json:
        write_json(created)
    else:
        for teacher in (run for run in created.runs if run.role == "teacher"):
            is_new = teacher.experiment_id == created.id
            text = "a new teacher will be trained" if is_new else "the existing teacher is used"
            typer.echo(f"{text}: run {teacher.id}, {teacher.state}")
        follow = f"follow with `dkd watch {created.id}`"
        typer.echo(f"{created.name}: {len(created.runs)} run(s), id {created.id}; {follow}")
    return exit_codes.OK


def tag(
    experiment: ExperimentArgument,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="[TAG]...", help="Tags to add; with a leading - to remove.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Show, add or remove tags of an experiment.

    A tag to remove comes after --: `dkd tag NAME -- -old`.
    """
    with Client() as client:
        if tags:
            removed = [item[1:] for item in tags if item.startswith("-")]
            added = [item for item in tags if not item.startswith("-")]
            message = "TAG: must be 1 to 40 characters, no space or comma; an experiment has at most 20"
            with map_field_errors(tags=message, add_tags=message, remove_tags=message):
                updated = client.experiments.update(experiment, add_tags=added, remove_tags=removed)
        else:
            updated = client.experiments.get(experiment)
    if as_json:
        write_json(updated)
    else:
        typer.echo(f"{updated.name}: {', '.join(updated.tags) or 'no tags'}")
    return exit_codes.OK


def note(
    experiment: ExperimentArgument,
    text: Annotated[
        str | None, typer.Argument(help="The new notes, or - for stdin. Without it, the notes are shown.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Show or replace the notes of an experiment."""
    message = "TEXT: must be at most 10,000 characters, none of them NUL"
    with Client() as client, map_field_errors(notes=message):
        if text is None:
            updated = client.experiments.get(experiment)
        else:
            notes = decode_utf8(read_stdin()) if text == "-" else text
            updated = client.experiments.update(experiment, notes=notes)
    if as_json:
        write_json(updated)
    elif text is None:
        typer.echo(updated.notes)
    return exit_codes.OK


def archive(experiment: ExperimentArgument, as_json: JsonFlag = False) -> int:
    """Hide an experiment from lists. Nothing is deleted."""
    return _archive(experiment, True, as_json)


def unarchive(experiment: ExperimentArgument, as_json: JsonFlag = False) -> int:
    """Show an archived experiment in lists again."""
    return _archive(experiment, False, as_json)


def delete(
    experiment: ExperimentArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """Delete an experiment with its runs, metrics, logs and files.

    The backend refuses this while one of the runs has not ended. A teacher that another experiment uses is kept.
    """
    with Client() as client:
        target = client.experiments.get(experiment)
        if not yes:
            if not sys.stdin.isatty():
                message = f"{target.name} would be deleted for good; confirm with --yes"
                raise exit_codes.CliExit(message, exit_codes.BAD_INPUT)
            typer.confirm(f"delete {target.name} with {len(target.runs)} run(s) and their files?", abort=True)
        client.experiments.delete(target.id)
    if as_json:
        write_json(target)
    else:
        typer.echo(f"{target.name}: deleted")
    return exit_codes.OK


def _archive(experiment: str, archived: bool, as_json: bool) -> int:
    with Client() as client:
        updated = client.experiments.archive(experiment, archived=archived)
    if as_json:
        write_json(updated)
    else:
        typer.echo(f"{updated.name}: {'archived' if archived else 'shown in lists'}")
    return exit_codes.OK


def teacher_lines(preview: SweepPreview) -> list[str]:
    """Return the number of teachers of a sweep, and the first few of them."""
    if not preview.teacher_count:
        return []
    lines = [f"{preview.teacher_count} teacher(s), {preview.new_teachers} to train"]
    lines += [f"  {teacher.sentence}" for teacher in preview.teachers[:_MAX_TEACHERS_SHOWN]]
    more = preview.teacher_count - _MAX_TEACHERS_SHOWN
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _table(rows: list[tuple[str, str, int]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("experiment", "id", "runs"):
        table.add_column(title)
    for name, identity, runs in rows:
        table.add_row(name, identity, str(runs))
    return table
