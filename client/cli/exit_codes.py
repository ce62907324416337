"""Exit codes, and what is said on stderr with each: one line a problem, never a traceback."""

from __future__ import annotations

import os
import sys
import traceback

import typer

from client.errors import ApiError, BackendUnreachable, ClientSettingsError
from common import output_streams
from core.specs import SpecError

OK = 0
FAILED = 1
BAD_INPUT = 2
UNREACHABLE = 3
INTERRUPTED = 130
UNREAD = 141

HELP = (
    "Exit codes: 0 done; 1 the backend refused, or a run that was waited for did not succeed; 2 bad input, "
    "one line a problem on stderr; 3 no backend answers; 130 Ctrl-C; 141 nobody reads what is shown."
)


class CliExit(Exception):  # noqa: N818 (not always an error)
    """Ends the command with a code and a sentence."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def end_unread() -> None:
    """Ends a command that only shows, once its output has lost its reader, as SIGPIPE would. Raises Stop."""
    if output_streams.reader_gone():
        raise CliExit("", UNREAD)


def unwritable(where: str, error: OSError) -> CliExit:
    """That something could not be written there: bad input where there is no such place, or not for this user."""
    misplaced = isinstance(
        error, FileExistsError | FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError
    )
    reason = "it is a file, and should be a folder" if isinstance(error, FileExistsError) else error.strerror or error
    return CliExit(f"{where}: {reason}", BAD_INPUT if misplaced else FAILED)


def explain(error: Exception) -> int:
    """Say what went wrong on stderr, and return the exit code for it."""
    lines, code = _lines(error)
    for line in lines:
        sys.stderr.write(f"dkd: {' '.join(line.split())}\n")
    if (
        code == FAILED
        and not isinstance(error, ApiError | CliExit | typer.TyperException)
        and os.environ.get("DKD_DEBUG")
    ):
        traceback.print_exception(error)
    return code


def _lines(error: Exception) -> tuple[list[str], int]:
    match error:
        case CliExit():
            return [str(error)] if str(error) else [], error.code
        case SpecError():
            return [str(problem) for problem in error.problems], BAD_INPUT
        case ClientSettingsError():
            return [str(error)], BAD_INPUT
        case BackendUnreachable():
            return [f"{error}; {error.hint}"], UNREACHABLE
        case ApiError(status=422):
            fields = [f"{item.path}: {item.message}" if item.path else item.message for item in error.problem.errors]
            return fields or [str(error)], BAD_INPUT
        case ApiError(status=401 | 403):
            hint = "the token is read from DKD_API_TOKEN, DKD_API_TOKEN_FILE, or the home of a stack on this machine"
            return [f"{error} ({hint})"], FAILED
        case ApiError():
            return [str(error)], FAILED
        case UnicodeEncodeError():
            return [f"{error.object!r} is not text in UTF-8, as names and specs are"], BAD_INPUT
        case typer.TyperException():
            context = getattr(error, "ctx", None)
            where = f"see `{context.command_path} --help`" if context else "see `dkd --help`"
            return [f"{error.format_message().rstrip('.')}; {where}"], error.exit_code
        case _:
            hint = "" if os.environ.get("DKD_DEBUG") else " (DKD_DEBUG=1 shows where)"
            return [f"unexpected {type(error).__name__}: {error}{hint}"], FAILED
