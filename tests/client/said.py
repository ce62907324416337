"""What a command has printed."""

from __future__ import annotations

import pytest

Captured = pytest.CaptureFixture[str]


def complaints(captured: Captured) -> list[str]:
    """What stderr holds; nothing may be on stdout, and no traceback anywhere."""
    out, err = captured.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()
