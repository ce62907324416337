"""``python -m worker``: start a worker and run until SIGTERM or Ctrl-C. Settings are read from the environment."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import structlog
from pydantic import ValidationError

from common.service_settings import settings_problems
from common.terminal import run_program
from worker.app import MessagePruner, celery_arguments, create_app, make_broker_folders
from worker.devices import DeviceError
from worker.identity import WorkerIdentity
from worker.service import WorkerService
from worker.settings import WorkerSettings

# A constant, since ``python -OO`` (PYTHONOPTIMIZE=2) removes docstrings.
_DESCRIPTION = (
    "Start a worker and run until SIGTERM or Ctrl-C. Settings are read from the environment: DKD_API_URL, DKD_SLOTS, …"
)


def main(arguments: Sequence[str] = ()) -> int:
    """Run a worker.

    Returns:
        Exit status: 0 after an orderly shutdown, 2 if a setting is wrong, otherwise Celery's exit status.
    """
    # The only argument is --help; the parser refuses any other.
    parser = argparse.ArgumentParser(prog="python -m worker", description=_DESCRIPTION)
    parser.parse_args(arguments)
    _configure_logging()
    try:
        settings = WorkerSettings()
        for sentence in WorkerSettings.misspelled_variables():
            sys.stderr.write(f"dkd worker: warning: {sentence}\n")
        make_broker_folders(settings)
        with WorkerIdentity(settings.home, settings.worker_name) as identity:
            service = WorkerService(settings, identity, chores=MessagePruner(settings.broker / "processed"))
            return _serve(settings, identity, service)
    except ValidationError as error:
        for problem in settings_problems(error):
            sys.stderr.write(f"dkd worker: {problem}\n")
    except (DeviceError, OSError) as error:
        sys.stderr.write(f"dkd worker: {error}\n")
    return 2


def _serve(settings: WorkerSettings, identity: WorkerIdentity, service: WorkerService) -> int:
    app = create_app(settings, service)
    try:
        app.worker_main(celery_arguments(service.slots, identity))
    except SystemExit as exit_request:
        return exit_request.code if isinstance(exit_request.code, int) else int(bool(exit_request.code))
    finally:
        service.close()
    return 0


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s [%(levelname)s] %(message)s")
    for name in ("httpx", "httpcore", "kombu", "celery.utils.functional"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # This logger warns that filesystem:// has no host. If a broker is unreachable, Celery's own logger reports it.
    logging.getLogger("kombu.connection").setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=False),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]), "dkd worker")
