"""Text from others made safe for a terminal: nothing in it moves the cursor, changes colours or turns writing around.

A worker's name, a run's reason or a line of a training's log may hold escape sequences. A terminal obeys them: it
rewrites lines above, sets the window's title, or hides what follows. Every program of ours therefore writes through
``SafeStream``, and what a worker reports is made printable before it is stored.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NoReturn, TextIO, cast

from common import output_streams

# C0 but tab and line feed, DEL, C1; soft hyphen and other characters without a width; marks that turn the direction of
# writing (CVE-2021-42574); line and paragraph separators; tags; half characters, which UTF-8 has no bytes for. The
# joiners U+200C and U+200D are parts of words in some scripts and of emoji, and stay.
_HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_UNSAFE = re.compile(f"[{_HIDDEN}]")
_UNSAFE_IN_A_LINE = re.compile(f"[\t\n{_HIDDEN}]")


def printable(text: str, *, lines: bool = True) -> str:
    r"""The text with every character that a terminal obeys or hides spelled out, as ``\x1b`` or ``\u202e``.

    Applying it twice changes nothing.

    Args:
        text: from anybody.
        lines: keep tabs and line feeds.
    """
    if text.isprintable():  # most are, and this asks without a loop
        return text
    return (_UNSAFE if lines else _UNSAFE_IN_A_LINE).sub(_spelled, text)


def printable_json(text: str) -> str:
    """JSON with the same characters as JSON escapes, which change nothing for a program that reads it."""
    return text if text.isprintable() else _UNSAFE.sub(_escaped, text)


def _spelled(match: re.Match[str]) -> str:
    character = match[0]
    if character in "\t\n\r":
        return {"\t": r"\t", "\n": r"\n", "\r": r"\r"}[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


class SafeStream:
    """A text stream in all that print, logging and argparse ask of one, which makes every text printable.

    Attributes:
        inner: the stream it writes to: for a writer that makes its texts printable itself and adds colours to them.
    """

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        self.inner.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # bytes would pass by
            raise AttributeError(name)
        return getattr(self.inner, name)


def inner(stream: TextIO) -> TextIO:
    """The stream that a ``SafeStream`` writes to; any other stream itself."""
    return stream.inner if isinstance(stream, SafeStream) else stream


@contextmanager
def safe_output() -> Iterator[None]:
    """Have all that this process prints meanwhile be printable: for the entry point of a program."""
    with redirect_stdout(_safe(sys.stdout)), redirect_stderr(_safe(sys.stderr)):
        yield


def run_program(main: Callable[[], int | None], name: str = "dkd") -> NoReturn:
    """Run a program's ``main`` and leave with its exit status, 1 after a traceback or where its output was lost.

    What it prints is printable, and ends nothing where it cannot be written (``common.output_streams``).

    Args:
        name: of the program, in front of what is said of its output.
    """
    outputs = output_streams.install()
    with safe_output():
        try:
            code = main() or 0
        except SystemExit as leaving:  # of argparse and typer
            if isinstance(leaving.code, str):
                raise
            code = leaving.code or 0
        except Exception:  # noqa: BLE001 (the interpreter would print it when the output is no longer safe)
            traceback.print_exc()
            code = 1
        raise SystemExit(output_streams.final_exit_code(outputs, code, name))


def _safe(stream: TextIO) -> TextIO:
    return stream if isinstance(stream, SafeStream) else cast(TextIO, SafeStream(stream))
