"""``python -m benchmarks.chaos --stack embedded|services --minutes N --seed S``; exit status 1 on any violation."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.chaos.scenario import ScenarioOptions, run_scenario


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, print the table, and write it to the folder of ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--stack", choices=("embedded", "services"), required=True)
    parser.add_argument(
        "--minutes",
        type=float,
        default=ScenarioOptions.minutes,
        help="minutes of faults, without the time in which the runs end",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=ScenarioOptions.every, help="mean seconds between two faults")
    parser.add_argument("--real", type=int, default=ScenarioOptions.real, help="most experiments that core trains")
    parser.add_argument(
        "--resumed",
        type=int,
        default=ScenarioOptions.resumed,
        help="continue, up to twice as long, until this many have resumed",
    )
    parser.add_argument(
        "--claimed", type=int, default=ScenarioOptions.claimed, help="number of runs for the eight claimers; 0 for none"
    )
    parser.add_argument("--out", type=Path, help="folder for chaos-STACK.md and chaos-STACK.json")
    parser.add_argument("--root", type=Path, help="an empty folder, kept with all logs afterwards")
    parsed = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # also a run in the background leaves nothing behind
        signal.signal(number, signal.default_int_handler)
    options = ScenarioOptions(
        kind=parsed.stack,
        seed=parsed.seed,
        minutes=parsed.minutes,
        every=parsed.every,
        real=parsed.real,
        resumed=parsed.resumed,
        claimed=parsed.claimed,
    )
    with tempfile.TemporaryDirectory(prefix="dkd-chaos-") as temporary:
        root = parsed.root or Path(temporary)
        report = run_scenario(
            options, root, lambda text: print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)
        )
    table = report.as_markdown()
    print(table)
    if parsed.out:
        parsed.out.mkdir(parents=True, exist_ok=True)
        (parsed.out / f"chaos-{parsed.stack}.md").write_text(table)
        (parsed.out / f"chaos-{parsed.stack}.json").write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
