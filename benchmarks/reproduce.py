"""Reproduce a published pair on CIFAR-100: teacher, DKD, student alone, KD and DKD-Align by the published recipe.

Each training is a process and a cell of the table. A finished cell is written at once; the same command goes on where
it was interrupted, from the checkpoints of the trainings that were under way. Results are reproduce-PAIR.json and .md
in benchmarks/results; anything shorter than the recipe goes into reproduce-PAIR-shortened and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reproduction import part  # noqa: F401 (adds its entry to the catalog)
from benchmarks.reproduction.cells import BusyError, Cell, cells_of, write_json
from benchmarks.reproduction.pairs import PAIRS, TEACHER, TITLES, Pair, Setting, plan
from benchmarks.reproduction.table import Results, markdown
from core.specs import SpecError

_ROOT = Path(__file__).resolve().parents[1]
_POLL_SECONDS = 0.2

Say = Callable[[str], None]


@dataclass
class Runner:
    """Trains what is missing, ``parallel`` trainings at a time, and keeps each result as soon as it is there.

    Attributes:
        results: grows as cells finish.
        base: path of the results without its suffix.
    """

    results: Results
    cells: Sequence[Cell]
    base: Path
    parallel: int
    say: Say
    stop: threading.Event

    def run(self) -> int:
        """0 when every cell is there, 1 where one failed, 130 where it was stopped."""
        teacher = next((cell for cell in self.cells if cell.planned.label == TEACHER), None)
        waiting = [cell for cell in self.cells if not self._done(cell)]
        taught = teacher is not None and teacher.outcome() is not None and teacher.weights.exists()
        # A teacher whose result is kept but whose weights are gone is trained again if a student still needs it.
        if teacher and not taught and teacher not in waiting and any(cell.planned.spec.teacher for cell in waiting):
            waiting.insert(0, teacher)
        running: dict[Cell, subprocess.Popen[bytes]] = {}
        failed = False
        self._keep()
        while waiting or running:
            if self.stop.is_set():
                return self._stopped(running)
            ready = [cell for cell in waiting if taught or not cell.planned.spec.teacher]
            for cell in ready[: self.parallel - len(running)]:
                waiting.remove(cell)
                try:
                    running[cell] = cell.start(teacher, max(1, (os.cpu_count() or 1) // self.parallel))
                    self.say(f"{cell.name}: started, {len(waiting)} waiting")
                except BusyError as error:
                    self.say(str(error))
                    failed = True
            if not running and not any(taught or not cell.planned.spec.teacher for cell in waiting):
                for cell in waiting:
                    self.results.failures[cell.name] = "its teacher was not trained"
                break
            for cell in [cell for cell, process in running.items() if process.poll() is not None]:
                done = self._close(cell, running.pop(cell).returncode)
                failed |= not done
                taught |= done and cell is teacher
            self.stop.wait(_POLL_SECONDS)
        self._keep()
        return 1 if failed or waiting else 0

    def _done(self, cell: Cell) -> bool:
        """Whether its result is kept already, or lies finished in its folder."""
        key = (cell.planned.label, cell.planned.spec.seed)
        kept = self.results.outcomes.get(key)
        if kept and kept.fingerprint == cell.planned.spec.fingerprint():
            return True
        self.results.outcomes.pop(key, None)
        if found := cell.outcome():
            self.results.outcomes[key] = found
        return found is not None

    def _close(self, cell: Cell, code: int) -> bool:
        outcome = cell.outcome()
        if outcome:
            self.results.outcomes[outcome.method, outcome.seed] = outcome
            self.results.failures.pop(cell.name, None)
            self.say(f"{cell.name}: {outcome.top1:.2f} % (oracle {outcome.oracle:.2f}), {outcome.seconds:.0f} s")
        else:
            self.results.failures[cell.name] = cell.reason(code)
            self.say(f"{cell.name}: failed: {cell.reason(code)}")
        self._keep()
        return outcome is not None

    def _keep(self) -> None:
        write_json(self.base.with_suffix(".json"), self.results.to_json())
        self.base.with_suffix(".md").write_text(markdown(self.results))

    def _stopped(self, running: dict[Cell, subprocess.Popen[bytes]]) -> int:
        for process in running.values():
            process.terminate()
        for cell, process in running.items():
            code = process.wait()
            if cell.outcome():  # it was just about to end
                self._close(cell, code)
        self.say("stopped; the same command goes on from here")
        return 130


def reproduce(pair: Pair, options: argparse.Namespace, say: Say, stop: threading.Event) -> int:
    """Train what is missing of a pair; see ``Runner.run``. Raises SpecError, and ValueError for results that are there
    of another setting."""
    setting = Setting(options.epochs, options.train_images, options.test_images)
    methods = [TEACHER, *(name for name in options.methods if name != TEACHER)]
    planned = plan(pair, setting, methods, options.seeds)
    name = f"reproduce-{pair.name}" + ("-shortened" if setting.shortened else "")
    base = options.out / name
    labels = {run.label for run in planned}
    results = Results(pair, setting, [label for label in TITLES if label in labels], sorted(options.seeds))
    if (kept := base.with_suffix(".json")).exists():
        results.read(json.loads(kept.read_text()))
    if options.table:
        say("\n" + markdown(results))
        return 0
    cells = cells_of(planned, (options.work or _ROOT / "data" / "reproduce") / name)
    code = Runner(results, cells, base, options.parallel, say, stop).run()
    say("\n" + base.with_suffix(".md").read_text())
    return code


def parser() -> argparse.ArgumentParser:
    """The command line."""
    text = argparse.ArgumentParser(prog="python -m benchmarks.reproduce", description=__doc__)
    text.add_argument("pair", choices=PAIRS, metavar="PAIR", help=", ".join(PAIRS))
    text.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of the students (0 … 4)")
    text.add_argument(
        "--methods",
        nargs="+",
        choices=TITLES,
        default=list(TITLES),
        metavar="METHOD",
        help=f"{', '.join(TITLES)}; trained in the order given, the teacher first",
    )
    text.add_argument("--epochs", type=_positive, help="fewer than the recipe's: a shortened run, labelled so")
    text.add_argument("--train-images", type=_positive, help="fewer than there are: a shortened run, labelled so")
    text.add_argument("--test-images", type=_positive, help="fewer than there are: a shortened run, labelled so")
    text.add_argument("--parallel", type=_positive, default=1, help="trainings at a time, on one GPU or on the CPU")
    text.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "results", help="folder of the table")
    text.add_argument("--work", type=Path, help="folder of weights, journals and checkpoints (data/reproduce)")
    text.add_argument("--table", action="store_true", help="print the table of what is there, and train nothing")
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when the whole table is there, 1 where a training failed, 2 for bad input, 130 where stopped."""
    options = parser().parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    began = time.monotonic()

    def say(message: str) -> None:
        print(message if message.startswith("\n") else f"[{time.monotonic() - began:7.0f} s] {message}", flush=True)

    try:
        return reproduce(PAIRS[options.pair], options, say, stop)
    except (SpecError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
