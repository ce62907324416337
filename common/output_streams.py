"""Standard output and error streams whose errors do not end a command.

Each entry point installs them once (``python -m core``, ``dkd``, ``python -m backend``, ``python -m worker``).
Characters that the terminal's encoding lacks are replaced. If the reader is gone (``| head``), the terminal is closed
or the disk behind a redirection is full, the error is stored instead of raised: a training continues, as does a command
that still has changes to make, and the command reports the error at its end.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from dataclasses import dataclass
from typing import TextIO, cast

# EIO: the terminal was closed. EBADF: the descriptor is open for reading only.
_NOBODY_READS = frozenset({errno.EPIPE, errno.EIO, errno.ECONNRESET})


class UnfailingFile(io.FileIO):
    """A file whose writes never fail: after the first error all further output is dropped.

    Attributes:
        error: The first error of a write; None if there was none.
    """

    error: OSError | None = None

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        if self.error is None:
            try:
                return super().write(data) or 0
            except BlockingIOError:
                raise
            except OSError as error:
                self.error = error
        return len(data)


@dataclass(frozen=True)
class Outputs:
    """The streams that ``install`` has put in place of ``sys.stdout`` and ``sys.stderr``."""

    stdout: UnfailingFile | None = None
    stderr: UnfailingFile | None = None

    def flush(self) -> None:
        """Flush both streams."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()

    @property
    def lost(self) -> OSError | None:
        """The error that lost output, such as a full disk; None if no output was lost or the reader has ended."""
        error = self.stdout.error if self.stdout else None
        return None if error is None or error.errno in _NOBODY_READS else error


def final_exit_code(outputs: Outputs, code: int, program: str) -> int:
    """Flush all output and return the command's exit code, which is not 0 if output was lost."""
    outputs.flush()
    if outputs.lost is None:
        return code
    sys.stderr.write(f"{program}: the output could not be written: {outputs.lost.strerror}\n")
    return code or 1


def install() -> Outputs:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that do not fail. Call it once, when a program starts."""
    files = {name: _install(name) for name in ("stdout", "stderr")}
    return Outputs(**files)


def reader_gone() -> bool:
    """Return whether the reader of stdout has ended. For commands that only display data."""
    stream = getattr(sys.stdout, "inner", sys.stdout)  # the stream inside common.terminal.SafeStream
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return isinstance(raw, UnfailingFile) and raw.error is not None


def _install(name: str) -> UnfailingFile | None:
    """Replace a standard stream by one whose errors do not stop the program; None if it cannot be replaced."""
    stream: TextIO | None = getattr(sys, name)
    if stream is None:  # closed before the program was started
        setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the process ends)
        return None
    if not isinstance(stream, io.TextIOWrapper):  # a stream of a notebook or of a test
        return None
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return None
    stream.flush()
    unfailing = UnfailingFile(descriptor, "wb", closefd=False)
    unfailing.name = f"<{name}>"
    replacement = io.TextIOWrapper(
        io.BufferedWriter(cast(io.RawIOBase, unfailing)),
        encoding=stream.encoding,
        # On stderr, escapes are more informative than question marks.
        errors="replace" if name == "stdout" else "backslashreplace",
        line_buffering=stream.line_buffering or name == "stderr",
        write_through=stream.write_through,
    )
    setattr(sys, name, replacement)
    return unfailing
