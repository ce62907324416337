"""The backend, whose nudges are multiplied by the number that a file holds: 20 sends each 20 times, 0 sends none."""

from __future__ import annotations

import os
from pathlib import Path

from backend.__main__ import main
from backend.queue.nudge import Nudger

FACTOR = "CHAOS_NUDGES"
"""Variable with the path of that file."""


def multiply(file: Path) -> None:
    """Have every nudger of this process look at the file before it sends."""
    send = Nudger.send

    def sent(self: Nudger, count: int) -> None:
        send(self, count * int(file.read_text()))

    Nudger.send = sent  # type: ignore[method-assign]


if __name__ == "__main__":
    multiply(Path(os.environ[FACTOR]))
    main()
