"""Runs that have succeeded, and their files, as the routes about results of test images need them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from backend.artifacts.run_results import RunResults
from backend.db import models
from backend.errors import ApiError, conflict, invalid, not_found
from core.items.table import ItemsError
from core.protocol.base import ProblemField

NOT_READY: dict[int | str, dict[str, Any]] = {
    409: {"description": "The run has not succeeded, or its file cannot be read"}
}


async def _run_results(request: Request) -> RunResults:
    results: RunResults = request.app.state.results
    return results


ResultsDep = Annotated[RunResults, Depends(_run_results)]


def succeeded(session: Session, run_id: str, what: str) -> models.Run:
    """Return a run that has succeeded.

    Args:
        session: Session for reading.
        run_id: The run.
        what: What is wanted of it, in the plural.

    Raises:
        ApiError: 404 if there is no such run; 409 if it has not succeeded.
    """
    run = session.get(models.Run, run_id)
    if run is None:
        raise not_found("run", run_id)
    if run.state != "succeeded":
        raise conflict(f"this run is {run.state}; {what} are written when a run succeeds")
    return run


def pictures(results: RunResults, run: models.Run) -> Mapping[int, bytes]:
    """Return the pictures of a run by the number of the test image.

    Raises:
        ApiError: 409 if the file cannot be read.
    """
    try:
        return results.pictures(run.id, run.attempt)
    except ItemsError as error:
        raise unreadable(error) from error


def unreadable(error: ItemsError) -> ApiError:
    """Return the error for a file that cannot be read."""
    return conflict(f"a file of this run cannot be shown: {error}; it can be downloaded")


def cursor_of(position: int) -> str:
    """Return the cursor of a page that starts after a position."""
    return base64.urlsafe_b64encode(str(position).encode()).decode().rstrip("=")


def position_of(cursor: str | None) -> int:
    """Return the position of a cursor; −1 without one.

    Raises:
        ApiError: 422 if ``cursor_of`` has not made it.
    """
    if cursor is None:
        return -1
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        if not (text.isdecimal() and len(text) <= 9):
            raise ValueError
        return int(text)
    except (binascii.Error, UnicodeError, ValueError):
        text = "this cursor does not belong to this list; start again without a cursor"
        raise invalid(text, ProblemField(path="cursor", message="unknown")) from None
