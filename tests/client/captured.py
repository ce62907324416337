"""What a command has printed."""

from __future__ import annotations

import io

import pytest

Captured = pytest.CaptureFixture[str]


def complaints(captured: Captured) -> list[str]:
    """What stderr holds; nothing may be on stdout, and no traceback anywhere."""
    out, err = captured.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()


def stdin_of(text: str) -> io.TextIOWrapper:
    """A stand-in for ``sys.stdin`` that holds a text in UTF-8."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
