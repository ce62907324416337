"""A robust variant of Celery's filesystem transport: no file in its folders can stop or block a worker.

Kombu's transport writes a message under its final name, so that a reader may take an empty file, and the error ends the
whole worker. A folder that is missing for a moment ends it too, and a FIFO with a message's name blocks it forever.
No module imports this one: Celery loads it by the name that ``celery_settings`` gives.
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

_MAX_BYTES = 64 * 1024
_MAX_LOGGED = 1_000


class Channel(filesystem.Channel):  # type: ignore[misc]
    """Channel that writes messages in one step, and drops files that are not messages."""

    _logged: set[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._logged = set()

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        # Messages are taken in the order of their names, which begin with the time.
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
            if name.partition(".")[2] == f"{queue}.msg" and (payload := self._take(name)) is not None:
                return payload
        raise Empty

    def _take(self, name: str) -> dict[str, Any] | None:
        """Return the message in a file and move the file away; None if the file is not a message."""
        source, target = Path(self.data_folder_in, name), Path(self.processed_folder, name)
        try:
            if not stat.S_ISREG(source.lstat().st_mode):
                if not source.is_dir() or source.is_symlink():
                    source.unlink()
                self._drop(name, "it is not a file")
                return None
            # Moved first, so that only one of two readers gets it. A move on one disk is atomic.
            os.rename(source, target)
            content = _content(target)
        except FileNotFoundError:  # another worker was faster
            return None
        except OSError as error:
            self._drop(name, error.strerror or str(error))
            return None
        if content is None:
            with contextlib.suppress(OSError):
                target.unlink()  # it is too large to keep
            self._drop(name, f"it is not a file of at most {_MAX_BYTES} bytes")
            return None
        try:
            payload = loads(content.decode())
        except (ValueError, TypeError, RecursionError):  # incomplete, or written by another program
            self._drop(name, "it is not JSON")
            return None
        if not _is_message(payload):
            self._drop(name, "it is not a Celery message")
            return None
        return payload  # type: ignore[no-any-return]

    def _drop(self, name: str, reason: str) -> None:
        # A folder, or a file that cannot be moved, is found again at every poll; it is logged once.
        if name not in self._logged:
            if len(self._logged) >= _MAX_LOGGED:
                self._logged.clear()
            self._logged.add(name)
            _log.warning("%r in the broker's folder was ignored: %s", name[:200], reason)

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
        except (ValueError, TypeError, RecursionError):  # incomplete, or written by another program
            return []

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        folder = Path(self.control_folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not self._is_table(exchange):
            self._clear_table(exchange)
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except (ValueError, TypeError, RecursionError):  # incomplete after a crash: it is made again
            self._clear_table(exchange)
            super()._queue_bind(exchange, routing_key, pattern, queue)

    def _is_table(self, exchange: str) -> bool:
        """Return whether the table of an exchange is a file of limited size, or does not exist."""
        try:
            status = Path(self._exchange_file(exchange)).lstat()
        except FileNotFoundError:
            return True
        except OSError as error:
            raise ChannelError(f"cannot read the table of {exchange}") from error
        return stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_BYTES

    def _clear_table(self, exchange: str) -> None:
        """Remove the file, folder or link that has the name of an exchange's table."""
        file = Path(self._exchange_file(exchange))
        with contextlib.suppress(FileNotFoundError):
            if file.is_dir() and not file.is_symlink():
                file.rename(file.with_name(f"{file.name}.old-{uuid.uuid4().hex[:8]}"))
            else:
                file.unlink()


class Transport(filesystem.Transport):  # type: ignore[misc]
    """Filesystem transport with the robust channel."""

    Channel = Channel


def _content(path: Path) -> bytes | None:
    """Return a file's content; None if it is not a regular file, or too large.

    Raises:
        OSError: The file cannot be read.
    """
    # The path may have been replaced since it was checked, so opening it must not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            return None
        return os.read(descriptor, _MAX_BYTES)
    finally:
        os.close(descriptor)


def _is_message(payload: Any) -> bool:
    """Return whether a payload has the fields that Kombu reads from every message."""
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
