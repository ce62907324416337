"""``python -m backend serve|migrate|bootstrap|gc|db``: commands that use the database directly.

Settings come from environment variables.
"""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DatabaseError, OperationalError

from backend.db import Database, migrate
from backend.operations.retention import RetentionError, RetentionPolicy
from backend.settings import Settings
from common.object_store import StoreError
from common.service_settings import settings_problems
from common.terminal import run_program
from common.token_files import TokenFileError

# Not the module's docstring, which ``python -OO`` (PYTHONOPTIMIZE=2) removes.
_HELP = "Commands that use the database directly. Settings come from environment variables (DKD_…)."

cli = typer.Typer(
    help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


db = typer.Typer(
    help="Back up the database, or copy it to another database.", no_args_is_help=True, rich_markup_mode=None
)
cli.add_typer(db, name="db")

_DEFAULTS = RetentionPolicy()


@cli.command("migrate")
def migrate_command() -> None:
    """Migrate the database to the schema of this version. Does nothing if it has that schema."""
    with _open_database(_load_settings()) as database:
        _upgrade(database)
    typer.echo(f"the database is at version {migrate.head_revision()}")


@cli.command()
def bootstrap() -> None:
    """Make the tokens of the admin and of workers if they do not exist, and print the names of their files."""
    settings = _load_settings()
    _bootstrap(settings)
    typer.echo(f"admin token:  {settings.admin_token_file}\nworker token: {settings.worker_token_file}")


@cli.command("gc")
def collect(
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove the items; without this option they are only listed.")
    ] = False,
    attempt_days: Annotated[
        float, typer.Option(min=0, max=1e5, help="Days to keep files of failed, cancelled and interrupted attempts.")
    ] = _DEFAULTS.attempt_days,
    orphan_hours: Annotated[
        float, typer.Option(min=1, max=1e5, help="Hours to keep files that nothing refers to.")
    ] = _DEFAULTS.orphan_hours,
    log_days: Annotated[float, typer.Option(min=0, max=1e5, help="Days to keep the log of a run after its end.")] = (
        _DEFAULTS.log_days
    ),
    token_days: Annotated[
        float, typer.Option(min=0, max=1e5, help="Days to keep tokens after they expired or were revoked.")
    ] = _DEFAULTS.token_days,
) -> None:
    """Find items that are no longer needed: files of deleted runs and failed attempts, old log lines, old tokens."""
    from backend.artifacts.run_files import open_store
    from backend.operations.retention import apply, plan_removal

    settings = _load_settings()
    policy = RetentionPolicy(attempt_days, orphan_hours, log_days, token_days, settings.idempotency_hours)
    with _open_migrated(settings) as database:
        try:
            store = open_store(settings.artifacts)
            plan = plan_removal(database, store, policy)
        except (RetentionError, StoreError) as error:
            _fail(str(error))
        for file in plan.files:
            typer.echo(f"{file.item.size:>14,} bytes  {file.item.name}  ({file.reason})")
        for name, count in plan.rows.items():
            typer.echo(f"{count:>14,} {name}")
        if not delete:
            typer.echo(f"{plan.bytes:,} bytes in {len(plan.files)} items may be removed; --delete removes all of this")
            return
        problems = apply(database, store, plan, policy)
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"removed {plan.bytes:,} bytes in {len(plan.files)} items")


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

    settings = _load_settings()
    if not target:
        _fail("name the target: --to, or DKD_TARGET_URL if the URL has a password in it")
    source_settings = _load_settings(database_url=source) if source else settings
    with _open_database(source_settings) as reading, _open_database(_load_settings(database_url=target)) as writing:
        try:
            counts = copy_database(reading, writing, typer.echo)
        except CopyError as error:
            _fail(str(error))
    typer.echo(f"copied {sum(counts.values())} rows of {len(counts)} tables and compared them")


@db.command("backup")
def backup_command(file: Annotated[Path, typer.Argument(help="The new file; it must not exist.")]) -> None:
    """Copy a SQLite database into a file while the database is in use. For PostgreSQL, use pg_dump."""
    from backend.db.copying import CopyError, backup_sqlite

    try:
        size = backup_sqlite(_load_settings().database_url, file)
    except (CopyError, OSError, sqlite3.Error) as error:
        _fail(str(error))
    typer.echo(f"{file}: {size:,} bytes")


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; by default DKD_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on; by default DKD_PORT.")] = None,
) -> None:
    """Serve the API. The database must have been migrated; the first start makes the tokens."""
    from backend.api.connections import raise_descriptor_limit
    from backend.db.single_owner import DatabaseInUseError, single_owner
    from backend.logging import configure

    settings = _load_settings()
    for sentence in Settings.misspelled_variables():
        typer.echo(f"warning: {sentence}", err=True)
    configure(settings.log_format, settings.log_level)
    raise_descriptor_limit()
    address = (host or settings.host, port or settings.port)
    try:
        with single_owner(settings.database_url, "http://{}:{}".format(*address)):
            _serve(settings, *address)
    except DatabaseInUseError as error:
        _fail(str(error))


def _serve(settings: Settings, host: str, port: int) -> None:
    import uvicorn

    from backend.api.connections import LimitedConnection
    from backend.app import create_app
    from backend.operations.watchdog import Watchdog

    _bootstrap(settings)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=LimitedConnection,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    watchdog = Watchdog(settings.watchdog_seconds)
    ticks = max(1, int(settings.watchdog_seconds))  # a tick is a tenth of a second

    class Server(uvicorn.Server):
        async def on_tick(self, counter: int) -> bool:
            if counter % ticks == 0:
                watchdog.alive()
            return await super().on_tick(counter)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.stopping.set()  # the server waits for open streams, so they have to end first
            watchdog.stop()
            super().handle_exit(sig, frame)

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    Server(config).run()


def _bootstrap(settings: Settings) -> None:
    from backend.tokens import bootstrap as make_tokens

    with _open_migrated(settings) as database:
        make_tokens(database, settings)


def _upgrade(database: Database) -> None:
    try:
        migrate.upgrade(database)
    except migrate.LaterVersionError as error:
        _fail(str(error))


@contextmanager
def _open_migrated(settings: Settings) -> Iterator[Database]:
    """Open the database; end the command if it has the schema of another version."""
    with _open_database(settings) as database:
        if problem := migrate.mismatch(database):
            _fail(problem)
        yield database


def _refuse_misplaced_database(settings: Settings) -> None:
    """End the command if an older version has put this home's database outside the home.

    That version pasted the path of the home into a URL, in which ``?`` ends a path and ``%41`` is an A.
    """
    if not isinstance(settings.database_url, URL):
        return
    file = Path(str(settings.database_url.database))
    older = make_url(f"sqlite:///{file}").database
    if older and not file.exists() and Path(older) != file and Path(older).is_file():
        _fail(
            f"an older version of this program stored the database of this home in {older!a}; "
            f"move that file (and those with the suffixes -wal and -shm, if they exist) to {str(file)!a}"
        )


@contextmanager
def _open_database(settings: Settings) -> Iterator[Database]:
    """Open the database; end the command with a message if it cannot be used."""
    url = make_url(settings.database_url)
    # A path that is not UTF-8 cannot be rendered as a URL.
    shown = ascii(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)
    _refuse_misplaced_database(settings)
    try:
        database = Database(settings.database_url)
        try:
            yield database
        finally:
            database.dispose()
    except TokenFileError as error:
        _fail(str(error))
    except (OperationalError, OSError) as error:
        reason = str(error.orig) if isinstance(error, OperationalError) else error.strerror or str(error)
        _fail(f"cannot use the database {shown}: {' '.join(reason.split())}")
    except DatabaseError as error:
        if type(error) is not DatabaseError:
            raise  # a subclass, which means that a statement of this program is wrong, not the database
        reason = " ".join(str(error.orig).split())
        _fail(
            f"the database {shown} is damaged, or the file is not a database ({reason}); replace it by a backup, "
            "or move it away"
        )


def _load_settings(**changes: str) -> Settings:
    try:
        return Settings.model_validate(changes) if changes else Settings()
    except ValidationError as error:
        _fail("; ".join(settings_problems(error)))


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


def main() -> None:
    run_program(cli, "python -m backend")


if __name__ == "__main__":
    main()
