"""Standard output and error of a command: what is written there must not end what the command does.

Installed once, by each entry point (``python -m core``, ``dkd``, ``python -m backend``, ``python -m worker``).
Characters that the terminal's encoding does not have are replaced, and a reader that has gone (``| head``), a closed
terminal or a full disk behind a redirection is remembered in place of an exception: a training, or the second of three
changes, goes on, and the command says at its end what could not be written.
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
    """An open descriptor that takes everything: after the first error of a write the rest is dropped.

    Attributes:
        error: the first error of a write; None while there was none.
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
    """What ``install`` has put in place of ``sys.stdout`` and ``sys.stderr``."""

    stdout: UnfailingFile | None = None
    stderr: UnfailingFile | None = None

    def flush(self) -> None:
        """Write what is still buffered."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()

    @property
    def lost(self) -> OSError | None:
        """Why output was lost although somebody wanted it, as on a full disk; None where the reader has just gone."""
        error = self.stdout.error if self.stdout else None
        return None if error is None or error.errno in _NOBODY_READS else error


def final_exit_code(outputs: Outputs, code: int, program: str) -> int:
    """The exit code of a command, once all that it wrote has been flushed: not 0 where wanted output was lost."""
    outputs.flush()
    if outputs.lost is None:
        return code
    sys.stderr.write(f"{program}: the output could not be written: {outputs.lost.strerror}\n")
    return code or 1


def install() -> Outputs:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that last. Called first by an entry point, once."""
    files = {name: _install(name) for name in ("stdout", "stderr")}
    return Outputs(**files)


def reader_gone() -> bool:
    """Whether nothing that is written to stdout is read any more: for a command that only shows."""
    stream = getattr(sys.stdout, "inner", sys.stdout)  # of common.terminal.SafeStream
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return isinstance(raw, UnfailingFile) and raw.error is not None


def _install(name: str) -> UnfailingFile | None:
    stream: TextIO | None = getattr(sys, name)
    if stream is None:  # it was closed before the program was started
        setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open as long as the process)
        return None
    if not isinstance(stream, io.TextIOWrapper):  # a notebook's, or a test's
        return None
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return None
    stream.flush()
    lasting = UnfailingFile(descriptor, "wb", closefd=False)
    lasting.name = f"<{name}>"
    made = io.TextIOWrapper(
        io.BufferedWriter(cast(io.RawIOBase, lasting)),
        encoding=stream.encoding,
        # On stderr the escapes say more than question marks.
        errors="replace" if name == "stdout" else "backslashreplace",
        line_buffering=stream.line_buffering or name == "stderr",
        write_through=stream.write_through,
    )
    setattr(sys, name, made)
    return lasting
