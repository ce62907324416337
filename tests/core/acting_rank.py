"""A plugin for the tests of ``core.launch``: ends each rank as RANK_ACTS says, before torch is imported."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from core.launch import RankFailure, rank_from_env

place = rank_from_env()
assert place is not None
act = json.loads(os.environ["RANK_ACTS"])[place.rank]
if act == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif act == "faulty":
    os.kill(os.getpid(), signal.SIGSEGV)
elif act == "waits":
    time.sleep(60)
elif isinstance(act, dict):
    RankFailure(**act).write(place)
    sys.exit(1)
else:
    sys.exit(act)
