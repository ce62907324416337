"""Celery's filesystem transport as it is needed here: what is half written or gone is a lost nudge, not an end.

Kombu's own writes a message under its final name, so that a reader that is quick takes an empty file; the error that
follows ends the whole worker. So does a folder that is away for a moment. Loaded by Celery, by its name in
``celery_settings``: nothing else imports it.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from queue import Empty
from time import monotonic
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):  # type: ignore[misc]
    """Writes messages whole, and passes over those that are not."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        # The name begins with the time, by which messages are taken in order.
        name = f"{round(monotonic() * 1000)}_{uuid.uuid4()}"
        folder = Path(self.data_folder_out)
        unfinished = folder / f"{name}.partial"
        try:
            unfinished.write_bytes(dumps(payload).encode())
            os.replace(unfinished, folder / f"{name}.{queue}.msg")
        except OSError as error:
            raise ChannelError(f"cannot write a message to {folder}") from error

    def _get(self, queue: str) -> Any:
        while True:
            try:
                return super()._get(queue)
            except ValueError:  # torn; it has been moved away, so the next one follows
                continue
            except OSError as error:
                raise Empty from error

    def _size(self, queue: str) -> int:
        try:
            return int(super()._size(queue))
        except OSError:
            return 0

    def get_table(self, exchange: str) -> list[Any]:
        try:
            return list(super().get_table(exchange))
        except ValueError:  # being written for the first time
            return []

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        folder = Path(self.control_folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except ValueError:  # torn, as by a crash: made anew
            self._exchange_file(exchange).unlink(missing_ok=True)
            super()._queue_bind(exchange, routing_key, pattern, queue)


class Transport(filesystem.Transport):  # type: ignore[misc]
    Channel = Channel
