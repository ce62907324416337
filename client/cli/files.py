"""Commands that move files: what runs have left, and teachers' weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from client.cli import exit_codes
from client.cli.arguments import path_of
from client.cli.options import JsonFlag, connected, write_json
from client.cli.targets import one_run
from client.rendering.tables import console_for
from core.protocol.artifacts import UPLOAD_NAME

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]


def register(app: typer.Typer) -> None:
    for command in (artifacts, download, upload, uploads):
        app.command(epilog=exit_codes.HELP)(command)


def artifacts(run: RunId, as_json: JsonFlag = False) -> int:
    """List the files that a run has left."""
    with connected() as client:
        found = client.artifacts(one_run(client, run).id)
    if as_json:
        write_json(found)
        return exit_codes.OK
    table = Table(box=None, pad_edge=False)
    for title in ("attempt", "file", "bytes"):
        table.add_column(title)
    for item in found.items:
        table.add_row(str(item.attempt), item.name, f"{item.size:,}")
    console_for().print(table)
    return exit_codes.OK


def download(
    run: RunId,
    name: Annotated[str, typer.Argument(metavar="FILE", help="As `dkd artifacts` lists it.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", parser=path_of, metavar="PATH", help="Where to; else here, under its own name."),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Download a file of a run, the newest attempt's. What a broken download has left is gone on with."""
    with connected() as client:
        found = one_run(client, run)
        items = client.artifacts(found.id).items
        item = next((item for item in items if name in (item.name, item.id)), None)
        if item is None:
            raise exit_codes.CliExit(f"run {found.id} has no file {name!r}; `dkd artifacts {found.id}` lists them")
        to = out or Path(Path(item.name).name)
        try:
            client.download(found.id, item.id, to)
        except OSError as error:
            raise exit_codes.unwritable(f"--out {to}" if out else str(to), error) from None
    if as_json:
        write_json(item)
    else:
        typer.echo(f"{to}: {item.size:,} bytes")
    return exit_codes.OK


def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", parser=path_of, help="A safetensors file.")],
    name: Annotated[str | None, typer.Option(help="How specs name it; else the file's name.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """Upload a teacher's weights, for specs to name as weights: "upload:NAME".

    A checkpoint of another form is made a safetensors file by `python -m core convert`.
    """
    called = name if name is not None else file.stem
    _refuse_other_forms(file)
    if not re.fullmatch(UPLOAD_NAME, called):
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", called).lstrip("._-")[:100] or "NAME"
        text = f"{called!r} cannot be a name in specs (letters, digits and . _ - only, at most 100)"
        raise exit_codes.CliExit(f"{text}; give another one: --name {plain}", exit_codes.BAD_INPUT)
    with connected() as client:
        try:
            made = client.upload_teacher(file, name=called)
        except OSError as error:
            raise exit_codes.CliExit(f"{file}: {error.strerror or error}", exit_codes.BAD_INPUT) from None
    if as_json:
        write_json(made)
    else:
        typer.echo(f"upload:{made.name}  {made.parameters:,} parameters, SHA-256 {made.sha256}")
    return exit_codes.OK


def _refuse_other_forms(file: Path) -> None:
    """Say at once, and not after a long upload, how another form of weights becomes a safetensors file.

    Raises exits.Stop.
    """
    try:
        if not file.is_file() and file.exists():
            raise exit_codes.CliExit(f"{file} is no regular file", exit_codes.BAD_INPUT)
        with file.open("rb") as opened:
            head = opened.read(9)
    except OSError as error:
        raise exit_codes.CliExit(f"{file}: {error.strerror or error}", exit_codes.BAD_INPUT) from None
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise exit_codes.CliExit(
            f"{file} is a checkpoint of PyTorch, and uploads are safetensors files: `python -m core convert {file} "
            f"{file.stem}.safetensors --model MODEL --num-classes C` makes one of it",
            exit_codes.BAD_INPUT,
        )


def uploads(as_json: JsonFlag = False) -> int:
    """List uploaded weights."""
    with connected() as client:
        found = client.uploads()
    if as_json:
        write_json(found)
        return exit_codes.OK
    table = Table(box=None, pad_edge=False)
    for title in ("name", "parameters", "bytes", "by", "SHA-256"):
        table.add_column(title)
    for item in found.items:
        table.add_row(item.name, f"{item.parameters:,}", f"{item.size:,}", item.submitted_by, item.sha256)
    console_for().print(table)
    return exit_codes.OK
