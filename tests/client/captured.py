"""The captured output of a command."""

from __future__ import annotations

import io

import pytest

Captured = pytest.CaptureFixture[str]


def error_lines(captured: Captured) -> list[str]:
    """Return the lines on stderr, after checking that stdout is empty and there is no traceback."""
    out, err = captured.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()


def stdin_of(text: str) -> io.TextIOWrapper:
    """Return a replacement for ``sys.stdin`` that contains a text in UTF-8."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
