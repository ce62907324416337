"""Celery's filesystem transport as it is needed here: nothing that lies in its folders ends or stops who reads them.

Kombu's own writes a message under its final name, so that a reader that is quick takes an empty file; the error that
follows ends the whole worker. So does a folder that is away for a moment, and a FIFO with a message's name is waited
for without end. Loaded by Celery, by its name in ``celery_settings``: nothing else imports it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import uuid
from pathlib import Path
from queue import Empty
from time import monotonic
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from kombu.utils.json import dumps, loads

from common.atomic_write import atomic_write

_log = logging.getLogger(__name__)

_MOST_BYTES = 64 * 1024
_MOST_REMEMBERED = 1_000


class Channel(filesystem.Channel):  # type: ignore[misc]
    """Writes messages whole, and drops what is no message."""

    _said: set[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._said = set()

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        # The name begins with the time, by which messages are taken in order.
        name = f"{round(monotonic() * 1000)}_{uuid.uuid4()}"
        folder = Path(self.data_folder_out)
        try:
            atomic_write(folder / f"{name}.{queue}.msg", dumps(payload), temporary=folder / f"{name}.partial")
        except OSError as error:
            raise ChannelError(f"cannot write a message to {folder}") from error

    def _get(self, queue: str) -> Any:
        try:
            names = sorted(os.listdir(self.data_folder_in))
        except OSError as error:
            raise Empty from error
        for name in names:
            if name.partition(".")[2] == f"{queue}.msg" and (payload := self._taken(name)) is not None:
                return payload
        raise Empty

    def _taken(self, name: str) -> dict[str, Any] | None:
        """The message in a file, which is then gone from the folder; None where there is none in it."""
        source, target = Path(self.data_folder_in, name), Path(self.processed_folder, name)
        try:
            if not stat.S_ISREG(source.lstat().st_mode):
                if not source.is_dir() or source.is_symlink():
                    source.unlink()
                self._drop(name, "it is no file")
                return None
            # Moved first: of two readers one has it. A move on one disk is atomic.
            os.rename(source, target)
            content = _content(target)
        except FileNotFoundError:  # another worker was faster
            return None
        except OSError as error:
            self._drop(name, error.strerror or str(error))
            return None
        if content is None:
            with contextlib.suppress(OSError):
                target.unlink()  # as large as it is, it is not kept
            self._drop(name, f"it is no file of at most {_MOST_BYTES} bytes")
            return None
        try:
            payload = loads(content.decode())
        except (ValueError, TypeError, RecursionError):  # torn, or somebody else's
            self._drop(name, "it is not JSON")
            return None
        if not _is_message(payload):
            self._drop(name, "it is no message of Celery's")
            return None
        return payload  # type: ignore[no-any-return]

    def _drop(self, name: str, why: str) -> None:
        # A folder, or a file that cannot be moved away, is met again with every look.
        if name not in self._said:
            if len(self._said) >= _MOST_REMEMBERED:
                self._said.clear()
            self._said.add(name)
            _log.warning("%r in the broker's folder was passed over: %s", name[:200], why)

    def _size(self, queue: str) -> int:
        try:
            return int(super()._size(queue))
        except OSError:
            return 0

    def get_table(self, exchange: str) -> list[Any]:
        if not self._is_table(exchange):
            return []
        try:
            return list(super().get_table(exchange))
        except (ValueError, TypeError, RecursionError):  # being written for the first time, or somebody else's
            return []

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        folder = Path(self.control_folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not self._is_table(exchange):
            self._make_room(exchange)
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except (ValueError, TypeError, RecursionError):  # torn, as by a crash: made again
            self._make_room(exchange)
            super()._queue_bind(exchange, routing_key, pattern, queue)

    def _is_table(self, exchange: str) -> bool:
        """Whether the table of an exchange is a file that may be read, or not there."""
        try:
            found = Path(self._exchange_file(exchange)).lstat()
        except FileNotFoundError:
            return True
        except OSError as error:
            raise ChannelError(f"cannot read the table of {exchange}") from error
        return stat.S_ISREG(found.st_mode) and found.st_size <= _MOST_BYTES

    def _make_room(self, exchange: str) -> None:
        """Take away what stands where the table of an exchange belongs."""
        file = Path(self._exchange_file(exchange))
        with contextlib.suppress(FileNotFoundError):
            if file.is_dir() and not file.is_symlink():
                file.rename(file.with_name(f"{file.name}.old-{uuid.uuid4().hex[:8]}"))
            else:
                file.unlink()


class Transport(filesystem.Transport):  # type: ignore[misc]
    Channel = Channel


def _content(path: Path) -> bytes | None:
    """What a file holds; None where it is no regular file, or too large. Raises OSError."""
    # It was a file a moment ago; whatever it is now is not waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
            return None
        return os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)


def _is_message(payload: Any) -> bool:
    """Whether it has what Kombu reads of every message."""
    if not isinstance(payload, dict) or not isinstance(payload.get("body"), str):
        return False
    properties = payload.get("properties")
    return (
        isinstance(properties, dict)
        and isinstance(properties.get("delivery_tag"), str)
        and isinstance(properties.get("delivery_info", {}), dict)
        and properties.get("body_encoding") in (None, "base64")
        and isinstance(payload.get("headers") or {}, dict)
    )
