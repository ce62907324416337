"""``python -m backend serve|migrate|bootstrap``: what needs the database itself. Settings come from the environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, OperationalError

from backend.db import Database, migrate
from backend.settings import Settings

cli = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@cli.command("migrate")
def migrate_command() -> None:
    """Bring the database to this version's schema. Does nothing where it has it."""
    with _opened(_settings()) as database:
        migrate.upgrade(database)
    typer.echo(f"the database is at version {migrate.head_revision()}")


@cli.command()
def bootstrap() -> None:
    """Make the admin's and the worker's token where there are none, and say in which files they are."""
    settings = _settings()
    _bootstrap(settings)
    typer.echo(f"admin token:  {settings.admin_token_file}\nworker token: {settings.worker_token_file}")


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default DKD_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default DKD_PORT.")] = None,
) -> None:
    """Serve the API. The database must have been migrated; tokens are made on the first start."""
    import uvicorn

    from backend.app import create_app
    from backend.logging import configure

    settings = _settings()
    configure(settings.log_format, settings.log_level)
    _bootstrap(settings)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=host or settings.host,
        port=port or settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.stopping.set()  # the server waits for open streams, so they must hear of it first
            super().handle_exit(sig, frame)

    Server(config).run()


def _bootstrap(settings: Settings) -> None:
    from backend.tokens import bootstrap as make_tokens

    with _opened(settings) as database:
        if migrate.current_revision(database) != migrate.head_revision():
            _fail("the database does not have this version's schema; run `python -m backend migrate` first")
        make_tokens(database, settings)


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    """The database; one that cannot be used ends the command with a sentence."""
    shown = make_url(settings.database_url).render_as_string(hide_password=True)
    try:
        database = Database(settings.database_url)
        try:
            yield database
        finally:
            database.dispose()
    except (OperationalError, OSError) as error:
        said = str(error.orig) if isinstance(error, OperationalError) else error.strerror or str(error)
        _fail(f"cannot use the database {shown}: {' '.join(said.split())}")
    except DatabaseError as error:
        if type(error) is not DatabaseError:
            raise  # a statement of ours that is wrong, not the database
        said = " ".join(str(error.orig).split())
        _fail(f"the database {shown} is damaged, or no database ({said}); put a backup in its place, or move it away")


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        problems = [f"DKD_{'.'.join(map(str, item['loc'])).upper()}: {item['msg']}" for item in error.errors()]
        _fail("; ".join(problems))


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


def main() -> None:
    cli()


if __name__ == "__main__":
    main()
