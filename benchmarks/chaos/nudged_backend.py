"""The backend with nudges multiplied by the number in a file: 20 sends each nudge 20 times, 0 sends none."""

from __future__ import annotations

import os
from pathlib import Path

from backend.__main__ import main
from backend.queue.nudge import Nudger

NUDGE_FACTOR = "CHAOS_NUDGES"
"""Environment variable with the path of that file."""


def multiply(file: Path) -> None:
    """Let every nudger of this process multiply its nudges by the number in the file."""
    send = Nudger.send

    def send_multiplied(self: Nudger, count: int) -> None:
        send(self, count * int(file.read_text()))

    Nudger.send = send_multiplied  # type: ignore[method-assign]


if __name__ == "__main__":
    multiply(Path(os.environ[NUDGE_FACTOR]))
    main()
