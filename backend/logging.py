"""The log: structlog to standard error, as lines for a person or as JSON for a collector."""

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
    """A line that cannot be written, as on a full disk, is lost; the request that it is about is not."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def _printable(_: Any, __: str, said: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """An address or a name may hold escape sequences; what is no text is written by its ``repr``."""
    return {
        printable(name, lines=False): value if name == "exc_info" else _shown(value) for name, value in said.items()
    }


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    text = repr(value)
    return value if text.isprintable() else printable(text)


def _printable_traceback(out: TextIO, failed: structlog.typing.ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, failed)
    out.write(printable(text.getvalue()))


def _as_json(_: Any, __: str, said: structlog.typing.EventDict) -> str:
    return printable_json(json.dumps(said, default=repr))


def configure(form: LogFormat, level: LogLevel) -> None:
    """Set the process's log up, that of the libraries included. For a program's start, not for an import."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The values of a failed function's variables may be tokens, and take seconds to print.
    without_locals = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    # Not the stream of the process's other output: it would spell the colours out too.
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
    # Its INFO lines are one a statement of a migration; a person wants to know that it is done.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Its INFO lines hold whole addresses, and a webhook's is a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # It warns that a filesystem:// address has no host.
    logging.getLogger("kombu.connection").setLevel(logging.ERROR)
