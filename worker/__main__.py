"""``python -m worker``: start a worker and run until SIGTERM or Ctrl-C. Settings come from the environment."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

import structlog
from pydantic import ValidationError

from common.service_settings import settings_problems
from common.terminal import run_program
from worker.app import Pruner, arguments, create_app, make_broker_folders
from worker.devices import DeviceError
from worker.identity import Identity
from worker.service import WorkerService
from worker.settings import WorkerSettings

# Not taken from the docstring, which ``python -OO`` (PYTHONOPTIMIZE=2) removes.
_DESCRIPTION = (
    "Start a worker and run until SIGTERM or Ctrl-C. Settings come from the environment: DKD_API_URL, DKD_SLOTS."
)


def main(given: Sequence[str] = ()) -> int:
    """Exit status 0 after an orderly leave, 2 where a setting is wrong, else Celery's."""
    # It takes no arguments: one that is given is a mistake, or --help.
    parser = argparse.ArgumentParser(prog="python -m worker", description=_DESCRIPTION)
    parser.parse_args(given)
    _configure_logging()
    try:
        settings = WorkerSettings()
        for sentence in WorkerSettings.misspelled_variables():
            sys.stderr.write(f"dkd worker: warning: {sentence}\n")
        for plugin in settings.plugins:  # or a claim that names one of its entries could not be read
            importlib.import_module(plugin)
        make_broker_folders(settings)
        with Identity(settings.home, settings.worker_name) as identity:
            service = WorkerService(settings, identity, chores=Pruner(settings.broker / "processed"))
            return _serve(settings, identity, service)
    except ValidationError as error:
        for problem in settings_problems(error):
            sys.stderr.write(f"dkd worker: {problem}\n")
    except (DeviceError, ImportError, OSError) as error:
        sys.stderr.write(f"dkd worker: {error}\n")
    return 2


def _serve(settings: WorkerSettings, identity: Identity, service: WorkerService) -> int:
    app = create_app(settings, service)
    try:
        app.worker_main(arguments(service.slots, identity))
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    finally:
        service.close()
    return 0


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s [%(levelname)s] %(message)s")
    for chatty in ("httpx", "httpcore", "kombu", "celery.utils.functional"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It warns that filesystem:// names no host; that a broker is away, Celery says itself.
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
