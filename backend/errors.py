"""Errors as ``application/problem+json`` (RFC 9457), those of the framework included."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, OperationalError
from starlette.exceptions import HTTPException

from backend.db.writer import is_locked
from common.input_bounds import MAX_PROBLEMS
from common.object_store import StoreError
from core.events import is_full_disk
from core.protocol.public import ProblemDetails, ProblemField
from core.specs import SpecError

_log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
_LONGEST_TEXT = 2000
_POSTGRESQL_DISK_FULL = ("53100",)
"""SQLSTATE ``disk_full``."""
_LONGEST_PATH = 500


class ApiError(Exception):
    """An HTTP answer other than success.

    Args:
        status: HTTP status.
        detail: A sentence for people.
        errors: The refused fields.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Iterable[ProblemField] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = list(errors)
        self.headers = headers


def not_found(kind: str, key: str) -> ApiError:
    """Return a 404 such as "there is no run 'x'"."""
    return ApiError(404, f"there is no {kind} {_cut(key, 100)!r}")


def conflict(detail: str, *errors: ProblemField) -> ApiError:
    """Return a 409: the request is valid, but conflicts with the present state."""
    return ApiError(409, detail, errors=errors)


def invalid(detail: str, *errors: ProblemField) -> ApiError:
    """Return a 422 with the path of each refused field."""
    return ApiError(422, detail, errors=errors)


def problem_response(
    status: int, detail: str, errors: Sequence[ProblemField] = (), headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return the answer: at most 100 problems and the number of further ones, each text cut to a readable length."""
    fields = [
        ProblemField(path=_cut(field.path, _LONGEST_PATH), message=_cut(field.message, _LONGEST_TEXT))
        for field in errors[:MAX_PROBLEMS]
    ]
    if len(errors) > MAX_PROBLEMS:
        fields.append(ProblemField(path="", message=f"and {len(errors) - MAX_PROBLEMS} more problems"))
    problem = ProblemDetails(
        title=HTTPStatus(status).phrase, status=status, detail=_cut(detail, _LONGEST_TEXT), errors=fields
    )
    return JSONResponse(problem.model_dump(mode="json"), status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Register handlers that answer every exception with a problem."""

    @app.exception_handler(ApiError)
    async def _api_error(request: Request, error: ApiError) -> JSONResponse:
        return problem_response(error.status, error.detail, error.errors, error.headers)

    @app.exception_handler(SpecError)
    async def _spec_error(request: Request, error: SpecError) -> JSONResponse:
        fields = [ProblemField(path=problem.path, message=problem.message) for problem in error.problems]
        return problem_response(422, _summary(fields), fields)

    @app.exception_handler(RequestValidationError)
    async def _bad_request(request: Request, error: RequestValidationError) -> JSONResponse:
        fields = [
            ProblemField(
                path=".".join(map(str, item["loc"][1:])) or str(item["loc"][0]),
                message=str(item["msg"]).removeprefix("Value error, "),
            )
            for item in error.errors()
        ]
        return problem_response(422, _summary(fields), fields)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        detail = error.detail
        if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:
            detail = f"there is nothing at {shown_path(request.scope)}"
        elif error.status_code == 405:
            detail = f"{shown_path(request.scope)} does not take {request.method}"
        return problem_response(error.status_code, detail, headers=dict(error.headers or {}))

    @app.exception_handler(IntegrityError)
    async def _conflict(request: Request, error: IntegrityError) -> JSONResponse:
        _log.warning("conflict", path=shown_path(request.scope), error=str(error.orig))
        return problem_response(
            409, "another request changed the same data at the same time; read the data again and repeat the request"
        )

    @app.exception_handler(OperationalError)
    async def _database_unavailable(request: Request, error: OperationalError) -> JSONResponse:
        if _is_disk_full(error.orig):
            return _disk_full(request, error)
        _log.error("database unavailable", path=shown_path(request.scope), error=str(error.orig))
        if is_locked(error.orig):
            text = (
                "another program, such as a backup or a shell, has locked the database; nothing was stored, try again"
            )
            return problem_response(503, text, headers={"Retry-After": "2"})
        return problem_response(503, "the database does not answer; try again", headers={"Retry-After": "2"})

    @app.exception_handler(DatabaseError)
    async def _database_damaged(request: Request, error: DatabaseError) -> JSONResponse:
        if type(error) is not DatabaseError:  # a subclass, which means that a statement of this program is wrong
            return await _unexpected(request, error)
        _log.error("database damaged", path=shown_path(request.scope), error=str(error.orig))
        return problem_response(503, "the database is damaged, or the file is not a database; see the backend's log")

    @app.exception_handler(DataError)
    async def _value_too_large(request: Request, error: DataError) -> JSONResponse:
        _log.error("value too large for its column", path=shown_path(request.scope), error=str(error.orig))
        return problem_response(422, "a text or number is larger than the database can hold")

    @app.exception_handler(OverflowError)
    async def _number_too_large(request: Request, error: OverflowError) -> JSONResponse:
        """Answer SQLite's error for a number above 64 bits; PostgreSQL's driver raises DataError instead."""
        _log.error("number too large for its column", path=shown_path(request.scope), exc_info=error)
        return problem_response(422, "a number is larger than the database can hold")

    @app.exception_handler(OSError)
    async def _os_error(request: Request, error: OSError) -> JSONResponse:
        return _disk_full(request, error) if _is_disk_full(error) else await _unexpected(request, error)

    @app.exception_handler(StoreError)
    async def _store_unavailable(request: Request, error: StoreError) -> JSONResponse:
        if _is_disk_full(error):
            return _disk_full(request, error)
        _log.error("artifact store unavailable", path=shown_path(request.scope), error=str(error))
        return problem_response(503, "the artifact store does not answer; try again", headers={"Retry-After": "5"})

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.error("unexpected error", path=shown_path(request.scope), exc_info=error)
        return problem_response(500, "the backend has an internal error; its log has the details")


def shown_path(scope: Mapping[str, Any]) -> str:
    """Return the path as the client sent it: percent-encoded, so that no control character reaches a log."""
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    return _cut(raw.decode("ascii", "backslashreplace"), _LONGEST_PATH)


def _cut(text: str, length: int) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be encoded
    return text if len(text) <= length else f"{text[:length]} …"


def _is_disk_full(error: BaseException | None) -> bool:
    """Return whether the error or one of its causes is a full disk: the system's, SQLite's or PostgreSQL's."""
    while error is not None:
        if isinstance(error, OSError) and is_full_disk(error):
            return True
        if (
            getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            or getattr(error, "sqlstate", "") in _POSTGRESQL_DISK_FULL
        ):
            return True
        error = error.__cause__
    return False


def _disk_full(request: Request, error: Exception) -> JSONResponse:
    _log.error("disk full", path=shown_path(request.scope), error=str(getattr(error, "orig", error)))
    detail = "the backend's disk is full; nothing of this request was stored; free some space and try again"
    return problem_response(507, detail, headers={"Retry-After": "60"})


def _summary(fields: list[ProblemField]) -> str:
    parts = [f"{field.path}: {field.message}" if field.path else field.message for field in fields]
    return "; ".join(parts[:3]) + (f"; and {len(parts) - 3} more" if len(parts) > 3 else "")
