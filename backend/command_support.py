"""What the commands of ``python -m backend`` share: settings, the database, and errors for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer
from pydantic import ValidationError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DatabaseError, OperationalError

from backend.db import Database, migrate
from backend.settings import Settings
from common.service_settings import settings_problems
from common.token_files import TokenFileError


def load_settings(**changes: str) -> Settings:
    """Return the settings; end the command if they are not valid."""
    try:
        return Settings.model_validate(changes) if changes else Settings()
    except ValidationError as error:
        fail("; ".join(settings_problems(error)))


def fail(message: str, exit_code: int = 2) -> NoReturn:
    """End the command with a message: 2 for a wrong argument or setting, 1 for a negative result."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(exit_code)


@contextmanager
def open_migrated(settings: Settings) -> Iterator[Database]:
    """Open the database; end the command if it has the schema of another version."""
    with open_database(settings) as database:
        if problem := migrate.mismatch(database):
            fail(problem)
        yield database


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Open the database; end the command with a message if it cannot be used."""
    shown = shown_url(settings.database_url)
    _refuse_misplaced_database(settings)
    try:
        database = Database(settings.database_url)
        try:
            yield database
        finally:
            database.dispose()
    except TokenFileError as error:
        fail(str(error))
    except (OperationalError, OSError) as error:
        reason = str(error.orig) if isinstance(error, OperationalError) else error.strerror or str(error)
        fail(f"cannot use the database {shown}: {' '.join(reason.split())}")
    except DatabaseError as error:
        if type(error) is not DatabaseError:
            raise  # a subclass, which means that a statement of this program is wrong, not the database
        reason = " ".join(str(error.orig).split())
        fail(
            f"the database {shown} is damaged, or the file is not a database ({reason}); replace it by a backup, "
            "or move it away"
        )


def shown_url(database_url: str | URL) -> str:
    """Return the address of a database for people, without its password."""
    url = make_url(database_url)
    # A path that is not UTF-8 cannot be rendered as a URL.
    return ascii(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def _refuse_misplaced_database(settings: Settings) -> None:
    """End the command if an older version has put this home's database outside the home.

    That version pasted the path of the home into a URL, in which ``?`` ends a path and ``%41`` is an A.
    """
    if not isinstance(settings.database_url, URL):
        return
    file = Path(str(settings.database_url.database))
    older = make_url(f"sqlite:///{file}").database
    if older and not file.exists() and Path(older) != file and Path(older).is_file():
        fail(
            f"an older version of this program stored the database of this home in {older!a}; "
            f"move that file (and those with the suffixes -wal and -shm, if they exist) to {str(file)!a}"
        )
