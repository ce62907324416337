"""A further rank of the stand-in training: answers each step, and hangs on when its first rank has died.

As ranks of real trainings do, it has a session of its own and hears no SIGTERM, so that only a worker which looks for
every descendant ends it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from benchmarks.chaos.chain import share
from benchmarks.chaos.records import presence_of

GOODBYE = "end"


def main(folder: str, rank: str, seed: str) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with presence_of(Path(folder), int(rank)):
        for line in sys.stdin:
            if line.strip() == GOODBYE:
                return 0
            sys.stdout.write(share(int(seed), int(line), int(rank)) + "\n")
            sys.stdout.flush()
        os.close(1)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
