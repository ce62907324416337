"""Logging: structlog to standard error, as text for people or as JSON for a log collector."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from typing import Any, Literal, TextIO

import structlog

from common.terminal import inner, printable, printable_json

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class _Lines(structlog.PrintLogger):
    """Drops a line that cannot be written, as on a full disk, so that the logged request does not fail."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def _printable(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape control sequences, which addresses and names may contain; values other than text become their ``repr``."""
    return {
        printable(name, lines=False): value if name == "exc_info" else _escape_value(value)
        for name, value in event.items()
    }


def _escape_value(value: Any) -> Any:
    """Return a value that can be printed: itself, or its text with the control characters escaped."""
    if isinstance(value, str):
        return printable(value)
    text = repr(value)
    return value if text.isprintable() else printable(text)


def _printable_traceback(out: TextIO, exception: structlog.typing.ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exception)
    out.write(printable(text.getvalue()))


def _as_json(_: Any, __: str, event: structlog.typing.EventDict) -> str:
    return printable_json(json.dumps(event, default=repr))


def configure(form: LogFormat, level: LogLevel) -> None:
    """Configure the logging of the process and of its libraries. A program calls this once, at its start."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The values of a failed function's variables may be tokens, and take seconds to print.
    without_locals = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    # Not sys.stderr itself: SafeStream would escape the colours too.
    stream = inner(sys.stderr)
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.ExceptionRenderer(without_locals), _as_json]
        if form == "json"
        else [
            _printable,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_printable_traceback),
        ]
    )
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Alembic logs one INFO line per statement of a migration.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # httpx logs whole URLs at INFO, and the URL of a webhook is a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Kombu warns that a filesystem:// URL has no host.
    logging.getLogger("kombu.connection").setLevel(logging.ERROR)
