"""Commands that move files: what runs have left, and teachers' weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from client.cli import exits
from client.cli.options import JsonFlag, connected, write_json
from client.cli.targets import one_run
from client.render import console_for

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]


def add_to(app: typer.Typer) -> None:
    for command in (artifacts, download, upload, uploads):
        app.command(epilog=exits.HELP)(command)


def artifacts(run: RunId, as_json: JsonFlag = False) -> int:
    """List the files that a run has left."""
    with connected() as client:
        found = client.artifacts(one_run(client, run).id)
    if as_json:
        write_json(found)
        return exits.OK
    table = Table(box=None, pad_edge=False)
    for title in ("attempt", "file", "bytes"):
        table.add_column(title)
    for item in found.items:
        table.add_row(str(item.attempt), item.name, f"{item.size:,}")
    console_for().print(table)
    return exits.OK


def download(
    run: RunId,
    name: Annotated[str, typer.Argument(metavar="FILE", help="As `dkd artifacts` lists it.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to; else here, under its own name.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """Download a file of a run, the newest attempt's. What a broken download has left is gone on with."""
    with connected() as client:
        found = one_run(client, run)
        items = client.artifacts(found.id).items
        item = next((item for item in items if name in (item.name, item.id)), None)
        if item is None:
            raise exits.Stop(f"run {found.id} has no file {name!r}; `dkd artifacts {found.id}` lists them")
        to = out or Path(Path(item.name).name)
        try:
            client.download(found.id, item.id, to)
        except OSError as error:
            raise exits.unwritable(f"--out {to}" if out else str(to), error) from None
    if as_json:
        write_json(item)
    else:
        typer.echo(f"{to}: {item.size:,} bytes")
    return exits.OK


def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors file.")],
    name: Annotated[str | None, typer.Option(help="How specs name it; else the file's name.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """Upload a teacher's weights, for specs to name as weights: "upload:NAME".

    A checkpoint of another form is made a safetensors file by `python -m core convert`.
    """
    with connected() as client:
        try:
            made = client.upload_teacher(file, name=name or file.stem)
        except OSError as error:
            raise exits.Stop(f"{file}: {error.strerror or error}", exits.BAD_INPUT) from None
    if as_json:
        write_json(made)
    else:
        typer.echo(f"upload:{made.name}  {made.parameters:,} parameters, SHA-256 {made.sha256}")
    return exits.OK


def uploads(as_json: JsonFlag = False) -> int:
    """List uploaded weights."""
    with connected() as client:
        found = client.uploads()
    if as_json:
        write_json(found)
        return exits.OK
    table = Table(box=None, pad_edge=False)
    for title in ("name", "parameters", "bytes", "by", "SHA-256"):
        table.add_column(title)
    for item in found.items:
        table.add_row(item.name, f"{item.parameters:,}", f"{item.size:,}", item.submitted_by, item.sha256)
    console_for().print(table)
    return exits.OK
