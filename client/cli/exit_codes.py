"""Exit codes, and the message on stderr for each: one line per problem, never a traceback."""

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
READER_GONE = 141

HELP = (
    "Exit codes: 0 success; 1 the backend refused the request, or a watched run did not succeed; "
    "2 bad input, one line per problem on stderr; 3 no backend answers; 130 Ctrl-C; 141 the output's reader has ended."
)


class CliExit(Exception):  # noqa: N818 (not always an error)
    """Ends the command with an exit code and a sentence for stderr."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def check_reader() -> None:
    """End a command that only displays data if the reader of its output has ended, as SIGPIPE would.

    Raises:
        CliExit: The reader has ended.
    """
    if output_streams.reader_gone():
        raise CliExit("", READER_GONE)


def unwritable(destination: str, error: OSError) -> CliExit:
    """Return the exit for output that cannot be written: bad input if the path is wrong or not permitted."""
    bad_path = isinstance(
        error, FileExistsError | FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError
    )
    reason = "it is a file, and should be a folder" if isinstance(error, FileExistsError) else error.strerror or error
    return CliExit(f"{destination}: {reason}", BAD_INPUT if bad_path else FAILED)


def report_error(error: Exception) -> int:
    """Print an error to stderr and return its exit code."""
    lines, code = _lines(error)
    for line in lines:
        sys.stderr.write(f"dkd: {' '.join(line.split())}\n")
    expected = isinstance(error, ApiError | CliExit | typer.TyperException)
    if code == FAILED and not expected and os.environ.get("DKD_DEBUG"):
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
            hint = (
                "the token is read from DKD_API_TOKEN, DKD_API_TOKEN_FILE, the session of `dkd login`, or the home of "
                "a stack on this machine"
            )
            return [f"{error} ({hint})"], FAILED
        case ApiError():
            return [str(error)], FAILED
        case UnicodeEncodeError():
            return [f"{error.object!r} is not valid UTF-8, which names and specs must be"], BAD_INPUT
        case typer.TyperException():
            context = getattr(error, "ctx", None)
            help_command = f"see `{context.command_path} --help`" if context else "see `dkd --help`"
            return [f"{error.format_message().rstrip('.')}; {help_command}"], error.exit_code
        case _:
            hint = "" if os.environ.get("DKD_DEBUG") else " (DKD_DEBUG=1 prints the traceback)"
            return [f"unexpected {type(error).__name__}: {error}{hint}"], FAILED
