"""``python -m benchmarks.chaos --stack embedded|services --minutes N --seed S``; exit status 1 if anything is wrong."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.chaos.play import Options, play


def main(arguments: list[str] | None = None) -> int:
    """Print the table, and write it where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--stack", choices=("embedded", "services"), required=True)
    parser.add_argument("--minutes", type=float, default=Options.minutes, help="of faults; the runs' ends come on top")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=Options.every, help="seconds between two faults, on average")
    parser.add_argument("--real", type=int, default=Options.real, help="experiments that core trains, at most")
    parser.add_argument(
        "--resumed", type=int, default=Options.resumed, help="go on, up to twice as long, until so many have resumed"
    )
    parser.add_argument("--claimed", type=int, default=Options.claimed, help="runs for the eight claimers; 0 for none")
    parser.add_argument("--out", type=Path, help="folder for chaos-STACK.md and chaos-STACK.json")
    parser.add_argument("--root", type=Path, help="an empty folder that is kept, with all logs")
    given = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # nothing is left behind, also where it runs in the background
        signal.signal(number, signal.default_int_handler)
    options = Options(
        kind=given.stack,
        seed=given.seed,
        minutes=given.minutes,
        every=given.every,
        real=given.real,
        resumed=given.resumed,
        claimed=given.claimed,
    )
    with tempfile.TemporaryDirectory(prefix="dkd-chaos-") as temporary:
        root = given.root or Path(temporary)
        report = play(options, root, lambda text: print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True))
    table = report.as_markdown()
    print(table)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / f"chaos-{given.stack}.md").write_text(table)
        (given.out / f"chaos-{given.stack}.json").write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
