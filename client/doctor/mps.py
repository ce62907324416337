"""Check of NVIDIA's Multi-Process Service."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from client.doctor.runner import Finding
from common.mps import CONTROL, Mps


def check_mps() -> Iterator[Finding]:
    """Check whether trainings that share a GPU would be clients of an MPS daemon."""
    status = Mps().status()
    if status.problem:
        action = f"restart it (`echo quit | {CONTROL}`, then `{CONTROL} -d`), or set DKD_MPS=off"
        yield Finding(check="mps", status="warning", message=status.problem, action=action)
    elif status.running:
        text = f"the MPS daemon runs, with {len(status.servers)} server(s): trainings that share a GPU compute together"
        yield Finding(check="mps", status="ok", message=text)
    elif shutil.which(CONTROL):
        text = "no MPS daemon runs: trainings that share a GPU compute in turn; DKD_MPS=start starts one"
        yield Finding(check="mps", status="ok", message=text)
    else:
        yield Finding(check="mps", status="ok", message=f"{CONTROL} is not installed: MPS is not used")
