"""``python -m backend db``: copies, backups and their verification."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy import URL
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from backend.command_support import fail, load_settings, open_database, shown_url
from backend.db import migrate
from backend.settings import Settings
from common.object_store import parse_artifacts

if TYPE_CHECKING:
    from backend.db.backups import VerifiedBackup

db = typer.Typer(
    help="Back up the database, verify and restore backups, or copy it to another database.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Scratch = Annotated[
    str | None,
    typer.Option(
        envvar="DKD_SCRATCH_URL",
        show_envvar=True,
        help="URL of an empty database to restore into, which is emptied again. By default one is created and removed: "
        "a file beside the backup, or a database on the server of DKD_DATABASE_URL.",
    ),
]
_Artifacts = Annotated[
    str | None,
    typer.Option(help="Folder or address of a copy of the artifacts, whose files are compared with the backup."),
]


@db.command("copy")
def copy_command(
    source: Annotated[
        str | None, typer.Option("--from", help="URL of the database to copy; by default DKD_DATABASE_URL.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--to", envvar="DKD_TARGET_URL", show_envvar=True, help="URL of an empty database."),
    ] = None,
) -> None:
    """Copy the whole database into an empty one, for instance from SQLite to PostgreSQL. Stop the backend first."""
    from backend.db.copying import CopyError, copy_database

    settings = load_settings()
    if not target:
        fail("name the target: --to, or DKD_TARGET_URL if the URL has a password in it")
    source_settings = load_settings(database_url=source) if source else settings
    with open_database(source_settings) as reading, open_database(load_settings(database_url=target)) as writing:
        try:
            tables = copy_database(reading, writing, typer.echo)
        except CopyError as error:
            fail(str(error))
    rows = sum(table.rows for table in tables.values())
    typer.echo(f"copied {rows} rows of {len(tables)} tables and compared them")


@db.command("backup")
def backup_command(
    file: Annotated[Path, typer.Argument(help="The new file; it must not exist.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Restore the backup into a scratch database, and compare all tables.")
    ] = False,
    scratch: _Scratch = None,
    artifacts: _Artifacts = None,
) -> None:
    """Copy the database into one SQLite file while it is in use, and write a manifest beside the file."""
    from backend.db.backups import back_up

    settings = load_settings()
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        fail(f"there is no database {url.database!a}")
    with open_database(settings) as database:
        if (problem := migrate.mismatch(database)) and (verify or not database.is_sqlite):
            fail(problem)
        with _problems_end(exit_code=2):
            made = back_up(database, file)
    typer.echo(f"{file}: {made.size:,} bytes")
    if verify:
        _verify(settings, file, scratch, artifacts)


@db.command("verify")
def verify_command(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The backup.")],
    scratch: _Scratch = None,
    artifacts: _Artifacts = None,
) -> None:
    """Restore a backup into a scratch database, and compare all tables with its manifest.

    Exit code 1: it is damaged.
    """
    _verify(load_settings(), file, scratch, artifacts)


@db.command("restore")
def restore_command(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The backup.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--to",
            envvar="DKD_TARGET_URL",
            show_envvar=True,
            help="URL of an empty database, or of a SQLite file that does not exist; by default DKD_DATABASE_URL.",
        ),
    ] = None,
) -> None:
    """Restore a backup that is not damaged. An existing database is never changed: move it away first."""
    from backend.db.backups import check_file, restore
    from backend.db.single_owner import DatabaseInUseError, single_owner

    settings = load_settings(database_url=target) if target else load_settings()
    url = settings.database_url
    with _problems_end(exit_code=1):
        manifest = check_file(file)
    if make_url(url).get_backend_name() == "sqlite":
        Path(make_url(url).database or "").parent.mkdir(parents=True, exist_ok=True)
    try:
        with _problems_end(exit_code=2), single_owner(url, "a restore"):
            restore(file, url)
    except DatabaseInUseError as error:
        fail(str(error))
    compared = "every table is equal to its manifest" if manifest and manifest.tables else "it has no manifest"
    typer.echo(f"restored {file} into {shown_url(url)}; {compared}")
    with open_database(settings) as database:
        if problem := migrate.mismatch(database):
            typer.echo(problem)


def _verify(settings: Settings, file: Path, scratch: str | None, artifacts: str | None) -> None:
    """Verify a backup and print what was compared; end the command with exit code 1 if something is not equal."""
    from backend.db.backups import verify

    with _problems_end(exit_code=1), _scratch(settings, file, scratch) as target:
        verified = verify(file, target)
        width = max(map(len, verified.tables))
        for name, entry in verified.tables.items():
            typer.echo(f"{name:<{width}} {entry.rows:>12,} rows  {entry.hash}")
        rows = sum(entry.rows for entry in verified.tables.values())
        kind = "SQLite" if make_url(target).get_backend_name() == "sqlite" else "PostgreSQL"
        typer.echo(
            f"{file}: {rows:,} rows of {len(verified.tables)} tables were restored into a scratch database ({kind}); "
            + _what_was_compared(verified)
        )
        if artifacts:
            _check_artifacts(target, artifacts)


def _what_was_compared(verified: VerifiedBackup) -> str:
    manifest = verified.manifest
    if manifest is None:
        return "no manifest is beside the backup, so nothing was compared with the original database"
    if verified.migrated or manifest.tables is None:
        return (
            f"the SHA-256 of the file is that of its manifest; its schema {manifest.revision} was migrated, so the "
            "tables were not compared with the original database"
        )
    return (
        "the number of rows and the content hash of every table are equal in the original database "
        f"({manifest.source}, {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC), in the file and in the scratch database"
    )


def _scratch(settings: Settings, file: Path, scratch: str | None) -> AbstractContextManager[str | URL]:
    from backend.db.scratch import given_scratch, scratch_database

    if scratch:
        return given_scratch(load_settings(database_url=scratch).database_url)
    return scratch_database(settings.database_url, file.absolute().parent)


def _check_artifacts(restored: str | URL, address: str) -> None:
    from backend.artifacts.run_files import open_store
    from backend.db import Database
    from backend.operations.artifact_copies import check_artifacts

    try:
        store = open_store(parse_artifacts(address))
    except ValueError as error:
        fail(f"--artifacts: {error}")
    database = Database(restored)
    try:
        with database.read() as session:
            checked = check_artifacts(session, store)
    finally:
        database.dispose()
    for problem in checked.problems:
        typer.echo(f"error: {problem}", err=True)
    if checked.problems:
        raise typer.Exit(1)
    typer.echo(
        f"{address}: {checked.weights} weights, {checked.uploads} uploads and {checked.listed} other files that a "
        f"manifest lists have the SHA-256 that is recorded; {checked.checkpoints} checkpoints exist "
        f"({checked.bytes:,} bytes were read)"
    )


@contextmanager
def _problems_end(exit_code: int) -> Iterator[None]:
    """End the command with the problems of a backup, or with the reason why a file or a database cannot be used."""
    from backend.db.backups import BackupError

    try:
        yield
    except BackupError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(exit_code) from None
    except OperationalError as error:
        fail(f"the database cannot be used: {' '.join(str(error.orig).split())}")
    except OSError as error:
        fail(str(error))
