"""The log: structlog to standard error, as lines for a person or as JSON for a collector."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


def configure(form: LogFormat, level: LogLevel) -> None:
    """Set the process's log up, that of the libraries included. For a program's start, not for an import."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The values of a failed function's variables may be tokens, and take seconds to print.
    without_locals = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    plain = structlog.dev.plain_traceback
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.ExceptionRenderer(without_locals), structlog.processors.JSONRenderer()]
        if form == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    )
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
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
