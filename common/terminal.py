"""Makes text from outside safe for a terminal: no control sequences, no changes of writing direction.

A worker's name, a run's reason or a log line may contain escape sequences, with which a terminal would rewrite lines,
set the window's title or hide text. All programs of the project therefore write through ``SafeStream``, and reports of
workers are made printable before they are stored.
"""

from __future__ import annotations

import gc
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NoReturn, TextIO, cast

from common import output_streams

# C0 except tab and line feed, DEL, C1; soft hyphen and other characters without a width; marks that change the writing
# direction (CVE-2021-42574); line and paragraph separators; tags; surrogates, which UTF-8 cannot encode. The joiners
# U+200C and U+200D are parts of words in some scripts and of emoji, and are kept.
_HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_UNSAFE = re.compile(f"[{_HIDDEN}]")
_UNSAFE_IN_A_LINE = re.compile(f"[\t\n{_HIDDEN}]")


def printable(text: str, *, lines: bool = True) -> str:
    r"""Return a text with control and invisible characters escaped, as ``\x1b`` or ``\u202e``.

    Applying it twice changes nothing.

    Args:
        text: The text.
        lines: Keep tabs and line feeds.
    """
    if text.isprintable():  # the usual case, checked without a loop
        return text
    return (_UNSAFE if lines else _UNSAFE_IN_A_LINE).sub(_text_escape, text)


def printable_json(text: str) -> str:
    """Return JSON with control and invisible characters as JSON escapes, which do not change its meaning."""
    return text if text.isprintable() else _UNSAFE.sub(_json_escape, text)


def _text_escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in "\t\n\r":
        return {"\t": r"\t", "\n": r"\n", "\r": r"\r"}[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


class SafeStream:
    """A text stream for print, logging and argparse that makes every text printable.

    Attributes:
        inner: The stream that it writes to, for a writer that makes texts printable itself and adds colours.
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
        if name == "buffer":  # bytes would bypass the escaping
            raise AttributeError(name)
        return getattr(self.inner, name)


def inner(stream: TextIO) -> TextIO:
    """Return the stream that a ``SafeStream`` writes to; any other stream unchanged."""
    return stream.inner if isinstance(stream, SafeStream) else stream


@contextmanager
def safe_output() -> Iterator[None]:
    """Make all output of this process printable within the block; for the entry point of a program."""
    with redirect_stdout(_safe(sys.stdout)), redirect_stderr(_safe(sys.stderr)):
        yield


def run_program(main: Callable[[], int | None], name: str = "dkd") -> NoReturn:
    """Run a program's ``main`` and exit with its status, or with 1 after a traceback or if output was lost.

    Its output is printable, and errors of the output do not end it (``common.output_streams``).

    Args:
        main: The program.
        name: Name of the program in the message about lost output.
    """
    outputs = output_streams.install()
    with safe_output():
        try:
            code = main() or 0
        except SystemExit as exit_request:  # raised by argparse and typer
            if isinstance(exit_request.code, str):
                raise
            code = exit_request.code or 0
        except Exception:  # noqa: BLE001 (the interpreter would print it after the output is no longer safe)
            traceback.print_exc()
            code = 1
        # At exit the interpreter searches all objects for cycles. Torch's compiler has 400,000, which takes a second.
        gc.freeze()
        raise SystemExit(output_streams.final_exit_code(outputs, code, name))


def _safe(stream: TextIO) -> TextIO:
    return stream if isinstance(stream, SafeStream) else cast(TextIO, SafeStream(stream))
