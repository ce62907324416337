"""``python -m backend serve|migrate|bootstrap|gc|db``: commands that use the database directly.

Settings come from environment variables.
"""

from __future__ import annotations

import gc
import time
from types import FrameType
from typing import Annotated

import typer
from sqlalchemy.exc import OperationalError

from backend import database_commands
from backend.command_support import fail, load_settings, open_database, open_migrated
from backend.db import Database, migrate
from backend.operations.retention import RetentionError, RetentionPolicy
from backend.settings import Settings
from common.object_store import StoreError
from common.terminal import run_program

# Not the module's docstring, which ``python -OO`` (PYTHONOPTIMIZE=2) removes.
_HELP = "Commands that use the database directly. Settings come from environment variables (DKD_…)."

cli = typer.Typer(
    help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
cli.add_typer(database_commands.db, name="db")

_DEFAULTS = RetentionPolicy()


@cli.command("migrate")
def migrate_command(
    wait: Annotated[
        float | None,
        typer.Option(min=0, max=1e5, help="Seconds to wait until another process has migrated; nothing is changed."),
    ] = None,
) -> None:
    """Migrate the database to the schema of this version. Does nothing if it has that schema."""
    settings = load_settings()
    if wait is not None:
        _wait_for_schema(settings, wait)
        return
    with open_database(settings) as database:
        _upgrade(database)
    typer.echo(f"the database is at version {migrate.head_revision()}")


def _wait_for_schema(settings: Settings, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        database = Database(settings.database_url)
        try:
            problem = migrate.mismatch(database)
        except OperationalError as error:
            problem = " ".join(str(error.orig).split())
        finally:
            database.dispose()
        if not problem:
            typer.echo(f"the database is at version {migrate.head_revision()}")
            return
        if time.monotonic() >= end:
            fail(f"the database was not ready within {seconds:g} s: {problem}")
        time.sleep(min(2.0, max(0.0, end - time.monotonic())))


@cli.command()
def bootstrap() -> None:
    """Make the tokens of the admin and of workers if they do not exist, and print the names of their files."""
    settings = load_settings()
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
    """Find items that are no longer needed: files of deleted runs and failed attempts, old log lines, old tokens.

    Old entries of the audit log are found too (DKD_AUDIT_DAYS).
    """
    from backend.artifacts.run_files import open_store
    from backend.operations.retention import apply, plan_removal

    settings = load_settings()
    policy = RetentionPolicy(
        attempt_days, orphan_hours, log_days, token_days, settings.idempotency_hours, settings.audit_days
    )
    with open_migrated(settings) as database:
        try:
            store = open_store(settings.artifacts)
            plan = plan_removal(database, store, policy)
        except (RetentionError, StoreError) as error:
            fail(str(error))
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


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; by default DKD_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on; by default DKD_PORT.")] = None,
) -> None:
    """Serve the API. The database must have been migrated; the first start makes the tokens."""
    from backend.api.connections import raise_descriptor_limit
    from backend.db.single_owner import DatabaseInUseError, single_owner
    from backend.logging import configure

    settings = load_settings()
    for sentence in Settings.misspelled_variables():
        typer.echo(f"warning: {sentence}", err=True)
    configure(settings.log_format, settings.log_level)
    raise_descriptor_limit()
    address = (host or settings.host, port or settings.port)
    try:
        with single_owner(settings.database_url, "http://{}:{}".format(*address)):
            _serve(settings, *address)
    except DatabaseInUseError as error:
        fail(str(error))


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
        server_header=False,
        ws="none",  # there are no routes for it; an upgrade is answered as the request that it also is
        # Without it, uvicorn believes the headers of every sender on this machine.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
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

    with open_migrated(settings) as database:
        make_tokens(database, settings)


def _upgrade(database: Database) -> None:
    try:
        migrate.upgrade(database)
    except migrate.LaterVersionError as error:
        fail(str(error))


def main() -> None:
    run_program(cli, "python -m backend")


if __name__ == "__main__":
    main()
