"""Reproduce a published pair on CIFAR-100 with the published recipe.

The trainings are the teacher, DKD, the student alone, KD and DKD-Align. Each training is a process and a cell of the
table. A finished cell is stored at once. After an interruption, the same command continues from the checkpoints of the
unfinished trainings. Results are reproduce-PAIR.json and .md in benchmarks/results; results of a shortened recipe are
in reproduce-PAIR-shortened and are labelled so.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reproduction import subset  # noqa: F401 (adds its entry to the catalog)
from benchmarks.reproduction.cells import BusyError, Cell, cells_of, write_json
from benchmarks.reproduction.pairs import PAIRS, TEACHER, TITLES, Pair, Setting, plan
from benchmarks.reproduction.table import Results, markdown
from common.processors import thread_share
from core.specs import SpecError

_ROOT = Path(__file__).resolve().parents[1]
_POLL_SECONDS = 0.2

Log = Callable[[str], None]


@dataclass
class Runner:
    """Trains the missing cells, ``parallel`` at a time, and stores each result at once.

    Attributes:
        results: the results so far.
        base: path of the results without suffix.
    """

    results: Results
    cells: Sequence[Cell]
    base: Path
    parallel: int
    log: Log
    stop: threading.Event

    def run(self) -> int:
        """Return 0 if every cell is finished, 1 if one failed, 130 if it was stopped."""
        teacher = next((cell for cell in self.cells if cell.planned.label == TEACHER), None)
        waiting = [cell for cell in self.cells if not self._is_done(cell)]
        teacher_done = teacher is not None and teacher.outcome() is not None and teacher.weights.exists()
        # A teacher with a stored result but without weights is trained again if a student still needs it.
        if (
            teacher
            and not teacher_done
            and teacher not in waiting
            and any(cell.planned.spec.teacher for cell in waiting)
        ):
            waiting.insert(0, teacher)
        running: dict[Cell, subprocess.Popen[bytes]] = {}
        failed = False
        self._store()
        while waiting or running:
            if self.stop.is_set():
                return self._stopped(running)
            ready = [cell for cell in waiting if teacher_done or not cell.planned.spec.teacher]
            for cell in ready[: self.parallel - len(running)]:
                waiting.remove(cell)
                try:
                    running[cell] = cell.start(teacher, thread_share(self.parallel))
                    self.log(f"{cell.name}: started, {len(waiting)} waiting")
                except BusyError as error:
                    self.log(str(error))
                    failed = True
            if not running and not any(teacher_done or not cell.planned.spec.teacher for cell in waiting):
                for cell in waiting:
                    self.results.failures[cell.name] = "its teacher was not trained"
                break
            for cell in [cell for cell, process in running.items() if process.poll() is not None]:
                done = self._close(cell, running.pop(cell).returncode)
                failed |= not done
                teacher_done |= done and cell is teacher
            self.stop.wait(_POLL_SECONDS)
        self._store()
        return 1 if failed or waiting else 0

    def _is_done(self, cell: Cell) -> bool:
        """Return whether the result of a cell is stored, or finished in its folder."""
        key = (cell.planned.label, cell.planned.spec.seed)
        stored = self.results.outcomes.get(key)
        if stored and stored.fingerprint == cell.planned.spec.fingerprint():
            return True
        self.results.outcomes.pop(key, None)
        if outcome := cell.outcome():
            self.results.outcomes[key] = outcome
        return outcome is not None

    def _close(self, cell: Cell, code: int) -> bool:
        outcome = cell.outcome()
        if outcome:
            self.results.outcomes[outcome.method, outcome.seed] = outcome
            self.results.failures.pop(cell.name, None)
            self.log(f"{cell.name}: {outcome.top1:.2f} % (oracle {outcome.oracle:.2f}), {outcome.seconds:.0f} s")
        else:
            self.results.failures[cell.name] = cell.reason(code)
            self.log(f"{cell.name}: failed: {cell.reason(code)}")
        self._store()
        return outcome is not None

    def _store(self) -> None:
        write_json(self.base.with_suffix(".json"), self.results.to_json())
        self.base.with_suffix(".md").write_text(markdown(self.results))

    def _stopped(self, running: dict[Cell, subprocess.Popen[bytes]]) -> int:
        for process in running.values():
            process.terminate()
        for cell, process in running.items():
            code = process.wait()
            if cell.outcome():  # it finished before the signal
                self._close(cell, code)
        self.log("stopped; the same command continues from here")
        return 130


def reproduce(pair: Pair, options: argparse.Namespace, log: Log, stop: threading.Event) -> int:
    """Train the missing cells of a pair.

    Returns:
        The exit code; see ``Runner.run``.

    Raises:
        SpecError: A spec is invalid.
        ValueError: The stored results have another setting.
    """
    setting = Setting(options.epochs, options.train_images, options.test_images)
    methods = [TEACHER, *(name for name in options.methods if name != TEACHER)]
    planned = plan(pair, setting, methods, options.seeds)
    name = f"reproduce-{pair.name}" + ("-shortened" if setting.shortened else "")
    base = options.out / name
    labels = {run.label for run in planned}
    results = Results(pair, setting, [label for label in TITLES if label in labels], sorted(options.seeds))
    if (stored := base.with_suffix(".json")).exists():
        results.read(json.loads(stored.read_text()))
    if options.table:
        log("\n" + markdown(results))
        return 0
    cells = cells_of(planned, (options.work or _ROOT / "data" / "reproduce") / name)
    code = Runner(results, cells, base, options.parallel, log, stop).run()
    log("\n" + base.with_suffix(".md").read_text())
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.reproduce", description=__doc__)
    result.add_argument("pair", choices=PAIRS, metavar="PAIR", help=", ".join(PAIRS))
    result.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of the students (default: 0 … 4)"
    )
    result.add_argument(
        "--methods",
        nargs="+",
        choices=TITLES,
        default=list(TITLES),
        metavar="METHOD",
        help=f"{', '.join(TITLES)}; trained in the order given, the teacher first",
    )
    result.add_argument("--epochs", type=_positive, help="fewer epochs than the recipe: a shortened run, labelled so")
    result.add_argument("--train-images", type=_positive, help="fewer images: a shortened run, labelled so")
    result.add_argument("--test-images", type=_positive, help="fewer images: a shortened run, labelled so")
    result.add_argument("--parallel", type=_positive, default=1, help="trainings at a time, on one GPU or on the CPU")
    result.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "results", help="folder of the table")
    result.add_argument("--work", type=Path, help="folder of weights, journals and checkpoints (data/reproduce)")
    result.add_argument("--table", action="store_true", help="print the table of the stored results, and train nothing")
    return result


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 if the table is complete, 1 if a training failed, 2 for bad input, 130 if stopped."""
    options = parser().parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    began = time.monotonic()

    def log(message: str) -> None:
        print(message if message.startswith("\n") else f"[{time.monotonic() - began:7.0f} s] {message}", flush=True)

    try:
        return reproduce(PAIRS[options.pair], options, log, stop)
    except (SpecError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
