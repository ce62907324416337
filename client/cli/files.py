"""Commands that transfer files: artifacts of runs, and weights of teachers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from client.cli import exit_codes
from client.cli.arguments import path_of
from client.cli.options import JsonFlag, ProjectOption, write_json
from client.cli.targets import resolve_run
from client.client import Client
from client.rendering.tables import console_for
from core.protocol.artifacts import UPLOAD_NAME

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (artifacts, download, upload, uploads):
        app.command(epilog=exit_codes.HELP)(command)


def artifacts(run: RunId, as_json: JsonFlag = False) -> int:
    """List the files of a run."""
    with Client() as client:
        reply = client.runs.artifacts(resolve_run(client, run).id)
    if as_json:
        write_json(reply)
        return exit_codes.OK
    table = Table(box=None, pad_edge=False)
    for title in ("attempt", "file", "bytes"):
        table.add_column(title)
    for item in reply.items:
        table.add_row(str(item.attempt), item.name, f"{item.size:,}")
    console_for().print(table)
    return exit_codes.OK


def download(
    run: RunId,
    name: Annotated[str, typer.Argument(metavar="FILE", help="Name of the file, as `dkd artifacts` lists it.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=path_of,
            metavar="PATH",
            help="Destination; by default the file's name, here.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Download a file of a run, from its newest attempt. An interrupted download is continued."""
    with Client() as client:
        run_id = resolve_run(client, run).id
        items = client.runs.artifacts(run_id).items
        item = next((item for item in items if name in (item.name, item.id)), None)
        if item is None:
            raise exit_codes.CliExit(f"run {run_id} has no file {name!r}; `dkd artifacts {run_id}` lists them")
        to = out or Path(Path(item.name).name)
        try:
            client.runs.download(run_id, item.id, to)
        except OSError as error:
            raise exit_codes.unwritable(f"--out {to}" if out else str(to), error) from None
    if as_json:
        write_json(item)
    else:
        typer.echo(f"{to}: {item.size:,} bytes")
    return exit_codes.OK


def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", parser=path_of, help="A safetensors file.")],
    name: Annotated[str | None, typer.Option(help="Name for specs; by default the file's name.")] = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Upload a teacher's weights.

    Specs then name them as weights: "upload:NAME". `python -m core convert` converts checkpoints of other formats to
    safetensors.
    """
    upload_name = name if name is not None else file.stem
    _refuse_other_formats(file)
    if not re.fullmatch(UPLOAD_NAME, upload_name):
        suggestion = re.sub(r"[^A-Za-z0-9._-]+", "-", upload_name).lstrip("._-")[:100] or "NAME"
        text = f"{upload_name!r} cannot be a name in specs (only letters, digits and . _ -, at most 100)"
        raise exit_codes.CliExit(f"{text}; choose another one, such as --name {suggestion}", exit_codes.BAD_INPUT)
    with Client() as client:
        try:
            uploaded = client.teachers.upload(file, name=upload_name, project=project)
        except OSError as error:
            raise exit_codes.CliExit(f"{file}: {error.strerror or error}", exit_codes.BAD_INPUT) from None
    if as_json:
        write_json(uploaded)
    else:
        typer.echo(f"upload:{uploaded.name}  {uploaded.parameters:,} parameters, SHA-256 {uploaded.sha256}")
    return exit_codes.OK


def _refuse_other_formats(file: Path) -> None:
    """Refuse a checkpoint of another format before a long upload.

    Raises:
        CliExit: The file is a PyTorch checkpoint, is not a regular file, or cannot be read.
    """
    try:
        if not file.is_file() and file.exists():
            raise exit_codes.CliExit(f"{file} is not a regular file", exit_codes.BAD_INPUT)
        with file.open("rb") as opened:
            head = opened.read(9)
    except OSError as error:
        raise exit_codes.CliExit(f"{file}: {error.strerror or error}", exit_codes.BAD_INPUT) from None
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise exit_codes.CliExit(
            f"{file} is a PyTorch checkpoint, and uploads must be safetensors files: convert it with `python -m core "
            f"convert {file} {file.stem}.safetensors --model MODEL --num-classes C`",
            exit_codes.BAD_INPUT,
        )


def uploads(as_json: JsonFlag = False) -> int:
    """List uploaded weights."""
    with Client() as client:
        reply = client.teachers.uploads()
    if as_json:
        write_json(reply)
        return exit_codes.OK
    table = Table(box=None, pad_edge=False)
    for title in ("name", "parameters", "bytes", "by", "SHA-256"):
        table.add_column(title)
    for item in reply.items:
        table.add_row(item.name, f"{item.parameters:,}", f"{item.size:,}", item.submitted_by, item.sha256)
    console_for().print(table)
    return exit_codes.OK
