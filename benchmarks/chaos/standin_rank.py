"""Another rank of the stand-in training: it answers each step, and goes on running after its first rank has died.

Like ranks of real trainings, it has a session of its own and ignores SIGTERM, so that only a worker that searches for
all descendants ends it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from benchmarks.chaos.digest_chain import rank_share
from benchmarks.chaos.liveness import recorder_for

END_MESSAGE = "end"


def main(folder: str, rank: str, seed: str) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with recorder_for(Path(folder), int(rank)):
        for line in sys.stdin:
            if line.strip() == END_MESSAGE:
                return 0
            sys.stdout.write(rank_share(int(seed), int(line), int(rank)) + "\n")
            sys.stdout.flush()
        os.close(1)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
