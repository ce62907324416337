"""Duration of a small training alone and beside two busy processes.

    python -m benchmarks.busy [--rounds 3] [--epochs 3]

Each round trains once alone and once beside the busy processes, each time in a process of its own, as a worker starts
it; the output is the medians. If two of N cores are busy, a training with one thread takes at most about twice as long.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import machine
from core.specs import parse_experiment

ROOT = Path(__file__).parents[1]
BUSY = 2


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run ``count`` processes that compute without a pause for the duration of the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds(run: Path) -> float:
    """Return the wall time of a training, with the start of its process."""
    with tempfile.TemporaryDirectory(prefix="dkd-busy-") as out:
        command = [sys.executable, "-m", "core", "train", "--run", str(run), "--out", out]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="epochs of resnet20 on digits")
    options = parser.parse_args(arguments)
    spec = {
        "name": "busy",
        "dataset": "digits",
        "student": {"model": "resnet20"},
        "methods": ["ce"],
        "seeds": [0],
        "training": {"epochs": options.epochs},
    }
    alone, beside = [], []
    with tempfile.TemporaryDirectory(prefix="dkd-busy-") as folder:
        run = Path(folder) / "run.json"
        run.write_text(parse_experiment(spec).plan()[0].spec.model_dump_json())
        seconds(run)  # fills the disk cache
        for _ in range(options.rounds):
            alone.append(seconds(run))
            with busy(BUSY):
                beside.append(seconds(run))
    alone_median, beside_median = statistics.median(alone), statistics.median(beside)
    threads = os.environ.get("DKD_THREADS", "chosen automatically")
    print(f"\n{options.epochs} epochs of resnet20 on digits, threads {threads}, median of {options.rounds} rounds")
    print(f"{machine.describe()}")
    print(f"  alone                       {alone_median:6.1f} s")
    print(
        f"  beside {BUSY} busy processes     {beside_median:6.1f} s  ({beside_median / alone_median:.1f} times as long)"
    )


if __name__ == "__main__":
    main()
